//! Answers to questions by the likelihood of their words: which of the known answers is the likeliest to follow the question, with the
//! image seen.
//!
//! ```text
//! log p(a) = sum over the words t of a of  log p(a_t | image, question, a_1 .. a_t-1)
//! loss     = mean over questions of the sum over right answers a of  -share(a) log p(a)
//! ```
//!
//! The share of an answer is that of the people who gave it. Question and answer are one text, `[CLS] question [SEP] answer [SEP]`, which is
//! read from left to right; the image sees no words. So a model that writes captions also answers, and the words of the question are kept
//! while the answers are read ([`unimo_encoders::reading`]). At inference the `shortlist` answers whose first word is the likeliest are read
//! whole, and ranked by their likelihood.
//!
//! Source: ALBEF (Li et al. 2021; `model_vqa.py`) for the loss and for the ranking. What differs: ALBEF and BLIP read the
//! question in both directions, fused with the image, and answer by a decoder of their own, which attends to the fused question. Here there is
//! no decoder beside the encoders: the answer is a further part of the question's text, as in GIT (Wang et al. 2022), so the question too is
//! read from left to right. ALBEF and BLIP learn every answer of the training data; here those that are labels are learned. ALBEF's code adds
//! the probability of the first word to that of the whole answer, and so counts it twice; BLIP's does not, and neither is it done here.
//!
//! Shape legend: `B` samples, `C` candidates, `R` texts that are read, `M` words of answers, `D` width, `V` vocabulary.

mod ranked;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::joint::View;
use unimo_encoders::output::{self, Keep};

use crate::context::Context;
use crate::labels::{count_correct, ints};
use crate::objective::{AnsweredBy, Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, ImageForm, ImageKind, Request, Samples};
use crate::single_precision;
use crate::tasks::answers::ranked::Ranker;
use crate::tasks::labels::Labelled;
use crate::tied::TiedHead;

/// `[objectives.answers]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswersConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Number of answers; absent: as many as `task.labels` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// How many answers are read whole for each question, those whose first word is the likeliest (ALBEF: 128). As many as there are
    /// answers, or more: all of them.
    #[serde(default = "default_shortlist")]
    pub shortlist: usize,
}

fn default_shortlist() -> usize {
    128
}

impl Settings for AnswersConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "answers by their words"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::words(), Request::image(ImageForm::Plain)]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Answers {
            classes: self.classes,
            by: AnsweredBy::Words,
        })
    }

    fn set_classes(&mut self, classes: usize) {
        self.classes = Some(classes);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("shortlist", self.shortlist)?;
        self.classes
            .map_or(Ok(()), |classes| config::positive("classes", classes))
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        model.check_reading_on()?;
        ConfigError::of_section(
            model.text.width == model.cross_width(),
            "needs a text encoder as wide as the cross-modal one: the words of answers are predicted by their embeddings; [objectives.vqa] \
             does without",
        )
    }
}

impl ObjectiveConfig for AnswersConfig {
    type Objective = Answers;

    /// A new head; its decoder is the word embedding.
    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Answers {
        let eps = model.cross_layer_norm_eps();
        Answers {
            head: TiedHead::new(init, model.cross_width(), model.text.vocab_size, eps),
            config: self.clone(),
            candidates: None,
        }
    }
}

/// The answers that can be given, as words, in the order of their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates(Vec<Vec<i32>>);

impl Candidates {
    /// The tokens of each answer, without a begin token and with the end token.
    ///
    /// # Panics
    ///
    /// Panics if there is no answer, or one without a token.
    pub fn new(words: Vec<Vec<i32>>) -> Self {
        let whole = !words.is_empty() && words.iter().all(|words| !words.is_empty());
        assert!(whole, "an answer has a token, its end token at least");
        Self(words)
    }

    /// The tokens of each answer.
    pub fn words(&self) -> &[Vec<i32>] {
        &self.0
    }

    /// Number of tokens of the longest answer.
    pub fn longest(&self) -> usize {
        self.0.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// The head that gives words of answers.
#[derive(Module, Debug)]
pub struct Answers {
    /// The head, whose decoder is the word embedding.
    pub head: TiedHead,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: AnswersConfig,
    /// The answers that can be given. They follow from the labels and the tokenizer, and are given to a model before it is used.
    #[module(skip)]
    pub candidates: Option<Arc<Candidates>>,
}

impl Answers {
    fn candidates(&self) -> &Candidates {
        let candidates = self.candidates.as_deref();
        candidates.expect("invariant: whoever makes a model gives it the answers")
    }

    /// The logits of the words of answers, and those words. All texts are read at once.
    ///
    /// # Shapes
    ///
    /// - texts: `R` samples, each with an answer that follows its question
    /// - output: `[M, V]`; `M` words, and the text in `R` that each belongs to
    fn read(&self, context: &Context<'_>, texts: &[(usize, u32)]) -> Read {
        let backbone = context.backbone;
        let questions = context.texts();
        let pad = backbone.text.pad_id() as i32;
        let answers = self.candidates().words();
        let rows: Vec<Vec<i32>> = texts
            .iter()
            .map(|(sample, answer)| {
                [questions.row(*sample), answers[*answer as usize].as_slice()].concat()
            })
            .collect();
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let length = lengths.iter().copied().max().unwrap_or(0);
        let (mut positions, mut words, mut of) = (Vec::new(), Vec::new(), Vec::new());
        let mut ids = Vec::with_capacity(rows.len() * length);
        for (at, (row, (sample, _))) in rows.iter().zip(texts).enumerate() {
            // The last word of the question gives the first one of the answer.
            for (next, word) in row.iter().enumerate().skip(questions.lengths[*sample]) {
                positions.push((at * length + next - 1) as i32);
                words.push(*word);
                of.push(at);
            }
            ids.extend_from_slice(row);
            ids.resize((at + 1) * length, pad);
        }
        let input = backbone.text.input(&ids, &lengths, length, context.device);
        let read = backbone.encode_texts(&input.from_left_to_right(1));
        let samples = texts.iter().map(|(sample, _)| *sample as i32).collect();
        let images = images(context).select(&ints(samples, context.device));
        let view = View {
            prefix: Some(1),
            read: output::Read::Text,
            ..View::default()
        };
        let fused = backbone.fuse_parts(Some(&read), Some(&images), &view, Keep::Nothing);
        let [rows, _, width] = fused.text().dims();
        let states = fused.text().clone().reshape([rows * length, width]);
        let states = states.select(0, ints(positions, context.device));
        let table = backbone.text.word_embedding.weight.val();
        Read {
            logits: single_precision(self.head.logits(states, table)),
            words,
            of,
        }
    }
}

/// Words of answers.
struct Read {
    /// `[M, V]`.
    logits: Tensor<2>,
    /// `M`.
    words: Vec<i32>,
    /// `M`: the text that each is of.
    of: Vec<usize>,
}

/// The batch's images.
fn images<'a>(context: &Context<'a>) -> &'a ImageFeatures {
    let images = context.encoded.images(By::Student, ImageKind::Plain);
    images.expect("invariant: the step gives what was requested")
}

impl Objective for Answers {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    /// The accuracy is the share of the answers' words that are the likeliest where they stand.
    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let labelled = Labelled::of(context.batch);
        let each = labelled.rows.iter().zip(&labelled.labels);
        let right = each.flat_map(|(row, labels)| labels.iter().map(move |label| (*row, *label)));
        let (texts, shares): (Vec<(usize, u32)>, Vec<f32>) = right
            .map(|(row, (answer, share))| ((row, answer), share))
            .unzip();
        if texts.is_empty() {
            return Outcome::nothing(context.device);
        }
        let Read { logits, words, of } = self.read(context, &texts);
        let count = words.len();
        let shares: Vec<f32> = of.iter().map(|text| shares[*text]).collect();
        let shares = Tensor::<1>::from_data(TensorData::new(shares, [count]), context.device);
        let words = ints(words, context.device);
        let correct = count_correct(logits.clone(), words.clone());
        let losses = kernels::cross_entropy(logits, words) * single_precision(shares);
        let loss = losses.sum().div_scalar(labelled.rows.len() as f64);
        Outcome::with_accuracy(loss, correct, count)
    }

    fn predict(&self, context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        let questions = context.texts();
        let candidates = self.candidates();
        let ranker = Ranker {
            backbone: context.backbone,
            head: &self.head,
            candidates,
            shortlist: self.config.shortlist,
        };
        // Words stand at the same positions in questions of one length.
        let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, length) in questions.lengths.iter().enumerate() {
            by_length.entry(*length).or_default().push(row);
        }
        let (samples, count) = (questions.lengths.len(), candidates.words().len());
        let mut scores = vec![f32::NEG_INFINITY; samples * count];
        for rows in by_length.into_values() {
            let chosen = ints(rows.iter().map(|row| *row as i32).collect(), context.device);
            let texts: Vec<&[i32]> = rows.iter().map(|row| questions.row(*row)).collect();
            let found = ranker.scores(&texts, &images(context).select(&chosen));
            for (row, own) in rows.iter().zip(found.chunks(count)) {
                scores[row * count..][..count].copy_from_slice(own);
            }
        }
        let scores = TensorData::new(scores, [samples, count]);
        Some(Tensor::from_data(scores, context.device))
    }
}
