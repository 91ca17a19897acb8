//! The files of a run folder, as structs: what the training loop writes and the report reads.
//!
//! Unlike recipes these structs accept unknown keys, so that a run of a newer version can be reported. Numbers that are absent or
//! `null` (JSON has no NaN) are NaN.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Number of skipped items that the report lists.
const SKIPPED_SHOWN: usize = 10;

fn nan() -> f64 {
    f64::NAN
}

fn null_is_nan<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(input)?.unwrap_or(f64::NAN))
}

fn retrieval() -> String {
    "retrieval".to_owned()
}

fn is_retrieval(evaluator: &str) -> bool {
    evaluator == "retrieval"
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// A line of `metrics.jsonl`: one logged training step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimiser step, from 1.
    pub step: u64,
    /// The stage of the step; empty if the recipe has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Passes over the training data of its stage so far.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub epoch: f64,
    /// Total loss, the weighted sum of the objectives'.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Learning rate of the step.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub lr: f64,
    /// Norm of the gradient before clipping.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Samples per second: pairs of image and text, texts, or episodes.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub pairs_per_second: f64,
    /// Seconds the step took.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub step_seconds: f64,
    /// Seconds of the step that were spent waiting for the loader.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub wait_seconds: f64,
    /// Seconds of the step that rank 0 of several waited for exchanges with the others, which computing did not hide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_seconds: Option<f64>,
    /// An [`ObjectiveRecord`] for each objective's name, in the order of the recipe.
    #[serde(default)]
    pub losses: Map<String, Value>,
    /// Micro-batches of the step that lacked what an objective needs, by objective.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// What losses were multiplied by for their gradients in f16, after the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Steps since the last line that changed nothing, because a gradient was too large for f16.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overflows: u64,
    /// Steps since the last line that each objective was drawn in, if a step trains one of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, u64>,
    /// Seconds of training of the run so far, resumed parts included.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub elapsed_seconds: f64,
}

impl RetrievalRecord {
    /// The field's "rsum": R@1, R@5 and R@10 in both directions, added up.
    pub fn rsum(&self) -> f64 {
        let sum = |r: &RecallRecord| r.r1 + r.r5 + r.r10;
        sum(&self.text_to_image) + sum(&self.image_to_text)
    }
}

impl EvalRecord {
    /// The method with the highest [`rsum`](RetrievalRecord::rsum); the first of equals.
    pub fn headline(&self) -> Option<&RetrievalRecord> {
        let found = self.retrieval.iter().filter(|r| r.rsum().is_finite());
        found.reduce(|best, next| {
            if next.rsum() > best.rsum() {
                next
            } else {
                best
            }
        })
    }

    /// How good the weights are: the mean of R@1, R@5 and R@10 in both directions, a sixth of the field's "rsum". It is that of the
    /// best method that all evaluations of the run score, which the record says. In a record of an older version it is that of the
    /// [`headline`](Self::headline). R@1 alone would be decided by a handful of queries on a small held-out set. `None` if nothing was
    /// retrieved.
    pub fn goodness(&self) -> Option<f64> {
        if !self.selects {
            return None;
        }
        let found = self.headline().map(|found| found.rsum() / 6.0);
        self.score
            .filter(|_| found.is_some() || !self.is_retrieval())
            .or(found)
    }

    /// Whether it is an evaluation of retrieval.
    pub fn is_retrieval(&self) -> bool {
        is_retrieval(&self.evaluator)
    }

    /// A number by its name, such as `retrieval.mean_recall` or `prompts.top1`.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        if self.is_retrieval() && name == "retrieval.mean_recall" {
            return self.score.or_else(|| Some(self.headline()?.rsum() / 6.0));
        }
        self.scalars.get(name).map(|scalar| scalar.value)
    }
}

/// The best evaluation during training; the first of equals, whose weights were kept. If a later stage or a resumed run is scored
/// differently ([`EvalRecord::scored`]), only evaluations that are scored as the newest one count. This is the only definition of
/// "best": checkpoints are kept by it, commands open runs by it, and the report names it.
pub fn best<'a>(evals: impl IntoIterator<Item = &'a EvalRecord>) -> Option<(&'a EvalRecord, f64)> {
    let scored = evals
        .into_iter()
        .filter_map(|eval| Some((eval, eval.goodness()?)));
    scored.reduce(|best, next| {
        if next.0.scored != best.0.scored || next.1 > best.1 {
            next
        } else {
            best
        }
    })
}

/// A line that says so if new evaluations are scored differently from those before them.
pub fn scored_otherwise(before: &[EvalRecord], new: &[EvalRecord]) -> Option<String> {
    let (old, new) = (before.last()?, new.last()?);
    (old.scored != new.scored && !old.scored.is_empty()).then(|| {
        format!(
            "eval: scored by {} from here on, before by {}: the best weights are chosen among those scored alike",
            new.scored, old.scored
        )
    })
}

impl StepRecord {
    /// The objective's part of the step, if it has one.
    pub fn objective(&self, name: &str) -> Option<ObjectiveRecord> {
        self.losses
            .get(name)
            .and_then(|value| ObjectiveRecord::deserialize(value).ok())
    }

    /// A further number that an objective says by a name of its own, if it does.
    pub fn number(&self, objective: &str, name: &str) -> Option<f64> {
        self.losses.get(objective)?.get(name)?.as_f64()
    }
}

/// One objective in a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveRecord {
    /// Loss, a mean over `count` predictions.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Share of right predictions, 0 to 1; NaN if the objective has none.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub accuracy: f64,
    /// Number of predictions.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub count: f64,
}

/// A line of `evals.jsonl`: one evaluation of one split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// The evaluator: `retrieval`, or another one of the recipe. Older versions had retrieval alone.
    #[serde(default = "retrieval", skip_serializing_if = "is_retrieval")]
    pub evaluator: String,
    /// Optimiser step of the evaluated weights.
    pub step: u64,
    /// Whether this evaluator's numbers choose the best weights.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub selects: bool,
    /// The numbers of an evaluator that is not retrieval, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scalars: BTreeMap<String, ScalarRecord>,
    /// Name of the split, and how much of it was drawn if not all.
    #[serde(default)]
    pub split: String,
    /// The language of the captions, if it is of those in one language alone; such a record selects nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// `contrast`: scored by the contrast alone; `full`: by all methods. Empty in records of older versions, which used all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// What the best weights of a run are chosen by: a mean of recalls, from the same methods and images in all its evaluations. The
    /// `retrieval` of the last one holds more if the others score less. `None` in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The methods and images behind `score`. Scores of different ones are not compared. Empty in records of older versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scored: String,
    /// How many samples were left out, by the name of their split or the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
    /// Pairs that the matching head scored.
    #[serde(default)]
    pub pairs: u64,
    /// Number of images in the retrieval pool.
    #[serde(default)]
    pub images: u64,
    /// Number of texts in the retrieval pool.
    #[serde(default)]
    pub texts: u64,
    /// Retrieval by each method.
    #[serde(default)]
    pub retrieval: Vec<RetrievalRecord>,
    /// What random ranking would reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<ChanceRecord>,
}

/// A number that an evaluator found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScalarRecord {
    /// The number.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub value: f64,
    /// What chance would reach, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Its confidence interval of 95%, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Retrieval in both directions by one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalRecord {
    /// `itc`, `itm` or `itc+itm` (a shortlist by ITC, ranked by ITM).
    pub method: String,
    /// Given a text, find its image.
    pub text_to_image: RecallRecord,
    /// Given an image, find one of its texts.
    pub image_to_text: RecallRecord,
}

/// Chance level in both directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChanceRecord {
    /// Given a text, find its image.
    pub text_to_image: RecallRecord,
    /// Given an image, find one of its texts.
    pub image_to_text: RecallRecord,
}

/// Retrieval figures of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RecallRecord {
    /// Share of queries with a right answer in first place, 0 to 1.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub r1: f64,
    /// The same among the first five.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub r5: f64,
    /// The same among the first ten.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub r10: f64,
    /// Median over the queries of the rank of the best right answer, from 1.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub median_rank: f64,
}

/// `gates.json`: the gates of the cross-layer attention, averaged over held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatesRecord {
    /// Gates of the text stream (over levels of the image stream).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<StreamGates>,
    /// Gates of the image stream (over levels of the text stream).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<StreamGates>,
    /// Gates for the words of one caption, if the gate is per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<WordGates>,
}

/// Gates of one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamGates {
    /// Names of the levels, such as `V0`.
    #[serde(default)]
    pub levels: Vec<String>,
    /// Gate of each level for each layer; a layer may read fewer levels than there are.
    #[serde(default)]
    pub layers: Vec<Vec<Option<f64>>>,
}

/// Gates of the words of one caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordGates {
    /// The words.
    #[serde(default)]
    pub caption: Vec<String>,
    /// `layers[layer][word][level]`.
    #[serde(default)]
    pub layers: Vec<Vec<Vec<Option<f64>>>>,
}

/// `phrases.json`: where phrases of held-out captions are found in their images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhrasesRecord {
    /// Phrases with known boxes.
    pub phrases: u64,
    /// Share of them whose nearest patch or region lies in one of their boxes.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// The share that the image's centre would have got right.
    #[serde(default)]
    pub centre: Option<f64>,
    /// The share that chance would have got right.
    #[serde(default)]
    pub chance: Option<f64>,
    /// Some images.
    #[serde(default)]
    pub pictures: Vec<PhrasePicture>,
}

/// An image with the maps of some of its caption's phrases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhrasePicture {
    /// The caption.
    pub caption: String,
    /// Its phrases.
    #[serde(default)]
    pub maps: Vec<PhraseMap>,
}

/// Where one phrase is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhraseMap {
    /// The phrase.
    pub phrase: String,
    /// Path of the map inside the run folder, with `/`.
    pub image: String,
}

/// `patches.json`: held-out images whose hidden patches the model has filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PatchesRecord {
    /// Optimiser step of the evaluated weights.
    pub step: u64,
    /// Number of images that were looked at.
    pub images: u64,
    /// What is drawn, in a sentence.
    pub legend: String,
    /// Some of the images.
    pub examples: Vec<PatchExample>,
}

/// An image whose hidden patches the model has filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PatchExample {
    /// The text that the model read beside it.
    pub text: String,
    /// What each picture shows, and its path within the run folder.
    pub pictures: Vec<(String, String)>,
}

/// `key_words.json`: words of held-out captions, as the image alone predicts them and as the teacher proposes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyWordsRecord {
    /// The step of the weights.
    pub step: u64,
    /// Images that were looked at.
    pub images: u64,
    /// The words, those first that are proposed most often.
    #[serde(default)]
    pub words: Vec<KeyWord>,
}

/// A word of captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyWord {
    /// The word.
    pub word: String,
    /// Images whose captions have it.
    pub images: u64,
    /// Captions for which the teacher proposes it.
    pub proposed: u64,
    /// The average precision with which the image predicts it, if it was looked for.
    #[serde(default)]
    pub precision: Option<f64>,
}

/// `stories.json`: how held-out stories, told again, align with other tellings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoriesRecord {
    /// The step of the weights.
    pub step: u64,
    /// Some alignments.
    #[serde(default)]
    pub examples: Vec<StoryAlignment>,
}

/// The soft alignment of two tellings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoryAlignment {
    /// How the other telling differs from the story: `none`, `order`, `attribute`.
    pub change: String,
    /// The slices of the story told again.
    #[serde(default)]
    pub rows: Vec<String>,
    /// The slices of the other telling.
    #[serde(default)]
    pub columns: Vec<String>,
    /// `values[row][column]`: the share of alignments that go through both slices.
    #[serde(default)]
    pub values: Vec<Vec<f64>>,
    /// The similarity by the kernel.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub kernel: f64,
    /// The similarity by the model.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub model: f64,
}

/// `walks.json`: how an agent walked some held-out episodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalksRecord {
    /// The step of the weights.
    pub step: u64,
    /// Metres from the goal within which an agent that stops has arrived.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub within: f64,
    /// Some episodes.
    #[serde(default)]
    pub examples: Vec<WalkExample>,
}

/// An episode that an agent walked. Places are columns and rows of the ground, with fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalkExample {
    /// What it was told.
    pub instruction: String,
    /// `classes[row][column]`: the class of each cell of the ground; 0 is nothing.
    #[serde(default)]
    pub classes: Vec<Vec<u8>>,
    /// The path that it should take.
    #[serde(default)]
    pub path: Vec<[f64; 2]>,
    /// The path that it took.
    #[serde(default)]
    pub walked: Vec<[f64; 2]>,
    /// Metres from where it ended to the goal.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub metres: f64,
    /// Whether it stopped by itself.
    #[serde(default)]
    pub stopped: bool,
}

/// `codes.json`: how some held-out pairs use the codes of a grounded dictionary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodesRecord {
    /// Pairs that were encoded.
    pub pairs: u64,
    /// Codes in the dictionary.
    pub codes: u64,
    /// Codes per pair.
    pub tokens: u64,
    /// Exponential of the entropy of the codes that pairs were given: this many codes, used evenly, would be as varied.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub perplexity: f64,
    /// Codes that no pair was given.
    pub dead: u64,
    /// Codes that some patch chooses.
    pub by_patches: u64,
    /// Codes that some word chooses.
    pub by_words: u64,
    /// Share of the codes chosen by a patch or a word that both chose.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub shared: f64,
    /// Some codes, first those that both modalities choose most.
    #[serde(default)]
    pub shown: Vec<CodeRecord>,
}

/// One code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeRecord {
    /// Its number.
    pub code: u64,
    /// Patches that choose it.
    pub patches: u64,
    /// Words that choose it.
    pub words: u64,
    /// The most frequent of these words.
    #[serde(default)]
    pub chosen_by: Vec<ChosenWord>,
    /// Images of some of the patches, each a path inside the run folder, with `/`.
    #[serde(default)]
    pub pictures: Vec<String>,
}

/// A word that chooses a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenWord {
    /// The word, or the piece of one.
    pub word: String,
    /// How often.
    pub count: u64,
}

/// `predictions.json`: what a task predicted at the newest evaluation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PredictionsRecord {
    /// Key of the objective.
    pub task: String,
    /// Optimiser step of the evaluated weights.
    pub step: u64,
    /// The numbers, the most important one first.
    pub figures: Vec<Figure>,
    /// The most important number for each kind of sample, by what distinguishes the kinds, such as `answer type`.
    pub kinds: BTreeMap<String, Vec<KindFigure>>,
    /// Names of the classes of [`confusion`](Self::confusion).
    pub classes: Vec<String>,
    /// `[right class][predicted class]`: numbers of samples; empty if the task has no classes or very many.
    pub confusion: Vec<Vec<u64>>,
    /// What is shown beside and in the images of the examples, after "Examples are spread over the split; "; empty: nothing but them.
    pub legend: String,
    /// Some samples that were predicted right.
    pub right: Vec<PredictedExample>,
    /// Some that were not.
    pub wrong: Vec<PredictedExample>,
}

/// A number that says how good predictions are, as a share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// What is reached without looking, as by the best constant answer, if that makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Its confidence interval of 95%, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// A number over the samples of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KindFigure {
    /// The kind, such as `yes/no`.
    pub kind: String,
    /// The number, as a share.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// Number of samples.
    pub count: u64,
}

/// A sample with what was predicted of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PredictedExample {
    /// Where the sample is defined.
    pub sample: String,
    /// Its text; empty for an image alone.
    pub text: String,
    /// Its images, each a path inside the run folder, with `/`.
    pub images: Vec<String>,
    /// The best labels, the best first.
    pub best: Vec<PredictedLabel>,
    /// What people answered.
    pub answers: Vec<String>,
    /// Copies of the images with a map of what the model looked at, each a path inside the run folder, with `/`; empty: it is not known.
    pub looked: Vec<String>,
}

/// `grad_cam.json`: where the matching score of held-out expressions comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GradCamRecord {
    /// Optimiser step of the evaluated weights.
    pub step: u64,
    /// The layer whose attention was read, counted from 1.
    pub layer: u64,
    /// Number of expressions.
    pub texts: u64,
    /// The boxes that one was chosen from, in a few words.
    pub candidates: String,
    /// What is drawn into the images of the examples, in a sentence.
    pub legend: String,
    /// The numbers, the most important one first.
    pub figures: Vec<Figure>,
    /// Some expressions whose box was found.
    pub right: Vec<PredictedExample>,
    /// Some whose box was not.
    pub wrong: Vec<PredictedExample>,
}

/// A label with its probability.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PredictedLabel {
    /// The label.
    pub label: String,
    /// Its probability.
    #[serde(deserialize_with = "null_is_nan")]
    pub score: f64,
    /// Whether it is right.
    pub right: bool,
}

/// `gallery.json`: held-out images with the captions that the model ranks first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GalleryRecord {
    /// The images.
    #[serde(default)]
    pub items: Vec<GalleryItem>,
}

/// One image of the gallery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GalleryItem {
    /// Path of the image inside the run folder, with `/`.
    pub image: String,
    /// The image's own captions.
    #[serde(default)]
    pub truth: Vec<String>,
    /// The captions ranked first, best first.
    #[serde(default)]
    pub captions: Vec<RankedCaption>,
}

/// A retrieved caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankedCaption {
    /// The caption.
    pub text: String,
    /// The model's score.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub score: f64,
    /// Whether it is one of the image's own.
    #[serde(default)]
    pub right: bool,
}

/// A line of `skipped.jsonl`: an item of the data that could not be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkippedRecord {
    /// The file at fault.
    #[serde(default)]
    pub file: String,
    /// Its line, from 1, where it has lines.
    #[serde(default)]
    pub line: Option<u64>,
    /// What is wrong with it.
    #[serde(default)]
    pub reason: String,
}

/// A line of `sessions.jsonl`: the run was started or taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The step of the checkpoint that it goes on from; 0 for a new run.
    pub after_step: u64,
    /// The time, as RFC 3339.
    #[serde(default)]
    pub at: String,
    /// The device, as `--device` takes it.
    #[serde(default)]
    pub device: String,
    /// The program's version.
    #[serde(default)]
    pub version: String,
    /// Settings that were changed on purpose, `key: old -> new`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

/// All that a run folder holds.
#[derive(Debug, Default)]
pub(crate) struct RunFolder {
    pub recipe: String,
    pub facts: Map<String, Value>,
    pub steps: Vec<StepRecord>,
    /// Steps after which an interrupted run was taken up again.
    pub resumes: Vec<u64>,
    /// Evaluations during training.
    pub evals: Vec<EvalRecord>,
    /// Evaluations by `unimo eval`, of whatever the user asked for.
    pub later_evals: Vec<EvalRecord>,
    pub gates: Option<GatesRecord>,
    /// `phrases.json`, if there is one.
    pub phrases: Option<PhrasesRecord>,
    /// `predictions.json`, if there is one.
    pub predictions: Option<PredictionsRecord>,
    /// `grad_cam.json`, if there is one.
    pub grad_cam: Option<GradCamRecord>,
    /// `patches.json`, if there is one.
    pub patches: Option<PatchesRecord>,
    /// `key_words.json`, if there is one.
    pub key_words: Option<KeyWordsRecord>,
    /// `stories.json`, if there is one.
    pub stories: Option<StoriesRecord>,
    /// `walks.json`, if there is one.
    pub walks: Option<WalksRecord>,
    /// `codes.json`, if there is one.
    pub codes: Option<CodesRecord>,
    pub gallery: Vec<GalleryItem>,
    pub skipped_count: usize,
    /// The files that list the skipped items.
    pub skipped_lists: Vec<String>,
    pub skipped: Vec<SkippedRecord>,
    /// What could not be read. The report shows it, because a report of the rest is worth more than none.
    pub problems: Vec<String>,
    /// Files whose last line breaks off, because a run was killed while it wrote.
    pub torn: Vec<&'static str>,
}

impl RunFolder {
    /// When the unusable items were found, as [`found_when`] says it; empty if it is not known: in the lists of several stages, and in
    /// runs of earlier versions.
    pub(crate) fn found_when(&self) -> String {
        let opened = self.facts.get("unusable_when_opened");
        match (
            opened.and_then(Value::as_u64),
            self.skipped_lists.as_slice(),
        ) {
            (Some(opened), [_]) => found_when(opened as usize, self.skipped_count),
            _ => String::new(),
        }
    }

    /// Reads the folder; only `recipe.toml` has to be there.
    pub(crate) fn read(run: &Path) -> io::Result<Self> {
        let mut folder = Self {
            recipe: std::fs::read_to_string(run.join("recipe.toml"))?,
            ..Self::default()
        };
        folder.facts = object(run, "run.json", &mut folder.problems).unwrap_or_default();
        folder.gates = object(run, "gates.json", &mut folder.problems);
        folder.phrases = object(run, "phrases.json", &mut folder.problems);
        folder.predictions = object(run, "predictions.json", &mut folder.problems);
        folder.grad_cam = object(run, "grad_cam.json", &mut folder.problems);
        folder.patches = object(run, "patches.json", &mut folder.problems);
        folder.key_words = object(run, "key_words.json", &mut folder.problems);
        folder.stories = object(run, "stories.json", &mut folder.problems);
        folder.walks = object(run, "walks.json", &mut folder.problems);
        folder.codes = object(run, "codes.json", &mut folder.problems);
        folder.gallery = object::<GalleryRecord>(run, "gallery.json", &mut folder.problems)
            .map(|gallery| gallery.items)
            .unwrap_or_default();

        let mut resumes: BTreeSet<u64> = BTreeSet::new();
        lines(
            run,
            "sessions.jsonl",
            &mut folder.problems,
            |record: SessionRecord| {
                // A run that was killed before its first checkpoint starts anew, so nothing is resumed.
                resumes.extend((record.after_step > 0).then_some(record.after_step));
            },
        );
        folder.resumes = resumes.into_iter().collect();

        let mut steps: Vec<StepRecord> = Vec::new();
        let torn = lines(
            run,
            "metrics.jsonl",
            &mut folder.problems,
            |record: StepRecord| {
                // A resumed run starts again from its checkpoint; what was logged after that belongs to lost weights.
                steps.truncate(steps.partition_point(|earlier| earlier.step < record.step));
                steps.push(record);
            },
        );
        folder.torn.extend(torn.then_some("metrics.jsonl"));
        folder.steps = steps;

        for (name, evals) in [
            ("evals.jsonl", &mut folder.evals),
            ("evaluations.jsonl", &mut folder.later_evals),
        ] {
            let torn = lines(run, name, &mut folder.problems, |record: EvalRecord| {
                // Evaluations may come in any order (an older checkpoint later), so only an equal step is replaced.
                evals.retain(|earlier| {
                    let of = |e: &EvalRecord| (e.step, e.evaluator.clone(), e.split.clone());
                    of(earlier) != of(&record)
                });
                evals.push(record);
            });
            folder.torn.extend(torn.then_some(name));
            evals.sort_by_key(|record| record.step);
        }

        for name in skip_lists(run) {
            let (count, skipped) = (&mut folder.skipped_count, &mut folder.skipped);
            let before = *count;
            lines(run, &name, &mut folder.problems, |record: SkippedRecord| {
                *count += 1;
                if skipped.len() < SKIPPED_SHOWN {
                    skipped.push(record);
                }
            });
            if folder.skipped_count > before {
                folder.skipped_lists.push(name);
            }
        }
        Ok(folder)
    }
}

/// When the unusable items of a list were found, in words: so many of them when the data was opened, which its description counts.
pub fn found_when(opened: usize, all: usize) -> String {
    let opened = opened.min(all);
    let later = all - opened;
    format!(
        ", {opened} of them found when the data was opened and {later} later, when their image or text was read"
    )
}

/// The lists of unusable samples in a run's folder: that of its data, and those of stages with data of their own.
pub fn skip_lists(run: &Path) -> Vec<String> {
    let stage = |name: &str| -> Option<usize> {
        let number = name.strip_prefix("skipped-")?.strip_suffix(".jsonl")?;
        number.parse().ok()
    };
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut stages: Vec<(usize, String)> = names
        .filter_map(|name| Some((stage(&name)?, name)))
        .collect();
    stages.sort();
    let all = std::iter::once("skipped.jsonl".to_owned());
    all.chain(stages.into_iter().map(|(_, name)| name))
        .collect()
}

/// The object in `run/name`. `None` if there is no such file; `None` with a problem noted if it cannot be read.
fn object<T: DeserializeOwned>(run: &Path, name: &str, problems: &mut Vec<String>) -> Option<T> {
    let text = match std::fs::read(run.join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            problems.push(format!("{name} cannot be read and is left out: {error}"));
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            problems.push(format!("{name} cannot be read and is left out: {error}"));
            None
        }
    }
}

/// Hands each line's record of `run/name` to `take`. A last line without its end comes from a killed run: it is taken if whole,
/// and left out if not, which is returned. Other lines that cannot be read are left out and noted.
fn lines<T: DeserializeOwned>(
    run: &Path,
    name: &str,
    problems: &mut Vec<String>,
    mut take: impl FnMut(T),
) -> bool {
    let mut file = match File::open(run.join(name)) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => {
            problems.push(format!("{name} cannot be read and is left out: {error}"));
            return false;
        }
    };
    let (mut line, mut number, mut bad, mut torn) = (Vec::new(), 0u64, 0u64, false);
    let mut first = None;
    loop {
        line.clear();
        number += 1;
        match file.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                problems.push(format!(
                    "{name} can be read only up to line {}: {error}",
                    number - 1
                ));
                break;
            }
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => take(record),
            Err(_) if !line.ends_with(b"\n") => torn = true,
            Err(error) => {
                bad += 1;
                // The message counts lines within one line, so its line number is always 1.
                let text = error.to_string();
                let reason = text.split(" at line 1 ").next().unwrap_or(&text).to_owned();
                first.get_or_insert((number, reason));
            }
        }
    }
    if let Some((number, reason)) = first {
        let others = if bad > 1 {
            format!(" (and {} more)", bad - 1)
        } else {
            String::new()
        };
        problems.push(format!(
            "{name}, line {number}{others} cannot be read and is left out: {reason}"
        ));
    }
    torn
}

#[cfg(test)]
mod tests;
