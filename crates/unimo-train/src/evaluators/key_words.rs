//! Words of held-out captions: how well the image alone predicts them, and which of them the teacher proposes.
//!
//! Source: SIMLA's pseudo-labelled key words (`[objectives.psl]`). The labels that are scored here are all words of an image's captions,
//! which no objective learns as they are.
//!
//! | number | what | chance |
//! |---|---|---|
//! | `key_words.average_precision` | the images ranked by how much each speaks for a word: mean over the words of the average precision | the mean share of images that have the word |
//!
//! Shape legend: `B` images, `H` heads, `L` text length, `V` vocabulary.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use unimo_batch::{Batch, ConfigError};
use unimo_data::{Batches, Loader, LoaderSpec, SkipList, Source, Split, TextTokenizer};
use unimo_encoders::features::TextFeatures;
use unimo_encoders::joint::View;
use unimo_encoders::output::Keep;
use unimo_eval::precision::average_precision;
use unimo_objectives::pretraining::psl::{self, Psl};
use unimo_report::record::{EvalRecord, KeyWord, KeyWordsRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable};
use crate::evaluators::{Evaluator, HeldOut, Weights, left_out, whole_batches};
use crate::interrupt;
use crate::model::host;
use crate::recipe::Recipe;
use crate::recipe::eval::KeyWordsConfig;
use crate::seeds::{NO_STEP, Purpose, seed_of};

const NAME: &str = "key_words";

/// The file of what the report shows.
const FILE: &str = "key_words.json";

/// So many images have a word, and so many have it not, if it is looked for without being named.
const LEAST: usize = 5;

/// Held-out images with their captions, and the words that are looked for.
pub struct KeyWords {
    source: Arc<dyn Source>,
    tokenizer: Arc<TextTokenizer>,
    skip: Arc<SkipList>,
    split: Split,
    /// The tokens that are looked for; none: those that enough images have.
    tokens: Vec<i32>,
    images: usize,
    /// Images of a batch.
    size: usize,
}

/// What was found out about the images.
#[derive(Default)]
struct Found {
    /// `[images, V]`.
    scores: Vec<f32>,
    /// The tokens of each image's captions.
    tokens: Vec<BTreeSet<i32>>,
    /// How often each token was proposed.
    proposed: HashMap<i32, u64>,
}

impl KeyWords {
    /// Opens the held-out split; `None`, with a line, if the data has none.
    ///
    /// # Errors
    ///
    /// It cannot be used, or a word is no token.
    pub fn open(
        config: &KeyWordsConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Self>, TrainError> {
        let source = held_out.source;
        if source.is_empty(held_out.split) || !source.offers().captions {
            say(
                "eval.key_words: no key words are looked for: there are no held-out captions"
                    .to_owned(),
            );
            return Ok(None);
        }
        let tokenizer = held_out.tokenizer;
        let mut tokens = Vec::new();
        for word in &config.words {
            let token = token_of(tokenizer, word);
            ConfigError::unless(
                token.is_some(),
                "eval.key_words.words",
                format_args!("\"{word}\""),
                "must be one token of the vocabulary",
            )
            .map_err(TrainError::of_recipe)?;
            tokens.extend(token);
        }
        let (images, size) = whole_batches(recipe, held_out, config.limit);
        Ok(Some(Self {
            source: Arc::clone(source),
            tokenizer: Arc::clone(tokenizer),
            skip: Arc::new(SkipList::in_memory(recipe.data.max_skipped)),
            split: held_out.split,
            tokens,
            images,
            size,
        }))
    }

    /// The loader of the images, each with one of its captions and all of them.
    fn loader(&self, recipe: &Recipe) -> Result<(Loader, usize), TrainError> {
        let mut spec = LoaderSpec::new(
            &recipe.data,
            Arc::clone(&self.source),
            Arc::clone(&self.tokenizer),
            Arc::clone(&self.skip),
            Batches {
                size: self.size,
                seed: seed_of(recipe.seed, NO_STEP, 0, Purpose::Order),
            },
        );
        spec.split = self.split;
        spec.augment = None;
        spec.references = true;
        Ok((Loader::new(spec)?, self.images / self.size))
    }

    fn look(&self, weights: &Weights<'_>, psl: &Psl) -> Result<Found, TrainError> {
        let (mut loader, batches) = self.loader(weights.recipe)?;
        let mut found = Found::default();
        for _ in 0..batches {
            interrupt::check()?;
            let Some(batch) = loader.next() else {
                break;
            };
            let batch = batch?;
            let backbone = &weights.model.backbone;
            let Some(pictures) = backbone.pictures(&batch, weights.device) else {
                continue;
            };
            let images = backbone.encode_pictures(&pictures, None, 0);
            found.scores.extend(host(psl.forward(&images)));
            for captions in &batch.references {
                let inner = captions.iter().flatten().copied();
                let own = inner.filter(|id| !self.tokenizer.is_special(*id));
                found.tokens.push(own.collect());
            }
            for word in proposed(weights, psl, &batch) {
                *found.proposed.entry(word).or_default() += 1;
            }
        }
        Ok(found)
    }
}

/// The tokens that the teacher proposes for a batch's captions.
fn proposed(weights: &Weights<'_>, psl: &Psl, batch: &Batch) -> Vec<i32> {
    let (Some(teacher), Some(texts)) = (&weights.model.teacher, &batch.texts) else {
        return Vec::new();
    };
    let backbone = &teacher.backbone;
    let Some(pictures) = backbone.pictures(batch, weights.device) else {
        return Vec::new();
    };
    let text = &backbone.text;
    let input = text.input(&texts.ids, &texts.lengths, texts.length, weights.device);
    let view = View {
        class_attention: true,
        ..View::default()
    };
    let encoded: TextFeatures = backbone.encode_texts(&input);
    let images = backbone.encode_pictures(&pictures, None, 0);
    let fused = backbone.fuse_parts(Some(&encoded), Some(&images), &view, Keep::Nothing);
    let Some(attention) = fused.class_attention else {
        return Vec::new();
    };
    let [rows, heads, length] = attention.dims();
    let attention = host(attention.reshape([rows, heads * length]));
    let rows: Vec<usize> = (0..rows).collect();
    let words = psl::key_words(&attention, heads, (texts, &rows), &psl.config);
    words.into_iter().flatten().collect()
}

/// The token of a word within a sentence; `None` if it is several.
fn token_of(tokenizer: &TextTokenizer, word: &str) -> Option<i32> {
    /// Enough to tell one token from several, including begin and end tokens.
    const LONGEST: usize = 32;
    // Byte-level vocabularies have other tokens for words after a space.
    let inner = |text: &str| {
        let ids = tokenizer.encode(text, LONGEST).ids;
        ids[1..ids.len() - 1].to_vec()
    };
    let before = inner("a");
    match inner(&format!("a {word}")).strip_prefix(before.as_slice())? {
        [id] => Some(*id),
        _ => None,
    }
}

impl Found {
    /// The average precision of each token that is looked for, and the share of images that have it.
    fn precisions(&self, tokens: &[i32]) -> BTreeMap<i32, (f64, f64)> {
        let images = self.tokens.len();
        let width = self.scores.len() / images.max(1);
        let of = |token: &i32| {
            let has: Vec<bool> = self.tokens.iter().map(|own| own.contains(token)).collect();
            let at = usize::try_from(*token).ok().filter(|at| *at < width)?;
            let scores: Vec<f32> = self.scores.chunks_exact(width).map(|row| row[at]).collect();
            let share = has.iter().filter(|has| **has).count() as f64 / images as f64;
            Some((*token, (average_precision(&scores, &has)?, share)))
        };
        tokens.iter().filter_map(of).collect()
    }

    /// In how many images' captions each token stands.
    fn counts(&self) -> BTreeMap<i32, usize> {
        let mut counts = BTreeMap::new();
        for token in self.tokens.iter().flatten() {
            *counts.entry(*token).or_default() += 1;
        }
        counts
    }
}

impl EvalSection for KeyWordsConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&["average_precision"])
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        let opened = KeyWords::open(self, recipe, held_out, say)?;
        Ok(opened.map(|own| Box::new(own) as Box<dyn Evaluator>))
    }
}

impl Evaluator for KeyWords {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        vec![format!("{NAME}.average_precision")]
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        vec![format!(
            "words of {} held-out images' captions are predicted from the images alone",
            self.images
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let psl = weights.model.objectives.psl.as_ref();
        let psl = psl.ok_or_else(|| {
            TrainError::Check(
                "eval.key_words needs [objectives.psl], which this run has not".to_owned(),
            )
        })?;
        let found = self.look(weights, psl)?;
        let (images, counts) = (found.tokens.len(), found.counts());
        let tokens = if self.tokens.is_empty() {
            let known = counts.iter();
            let known = known.filter(|(_, count)| **count >= LEAST && images - **count >= LEAST);
            known.map(|(token, _)| *token).collect()
        } else {
            self.tokens.clone()
        };
        let precisions = found.precisions(&tokens);
        let mut scalars = BTreeMap::new();
        if precisions.is_empty() {
            say(format!(
                "step {}: no word is in enough captions to be looked for",
                weights.step
            ));
        } else {
            let mean = |of: fn(&(f64, f64)) -> f64| {
                precisions.values().map(of).sum::<f64>() / precisions.len() as f64
            };
            let (value, chance) = (mean(|(precision, _)| *precision), mean(|(_, share)| *share));
            let scalar = ScalarRecord {
                value,
                chance: Some(chance),
                interval: None,
            };
            scalars.insert(format!("{NAME}.average_precision"), scalar);
            say(format!(
                "step {}: {} words from {images} images alone: average precision {:.1}% (chance {:.1}%)",
                weights.step,
                precisions.len(),
                100.0 * value,
                100.0 * chance
            ));
        }
        let mut all: BTreeSet<i32> = precisions.keys().copied().collect();
        all.extend(found.proposed.keys());
        let mut words: Vec<KeyWord> = all
            .into_iter()
            .map(|token| KeyWord {
                word: self.tokenizer.decode(&[token]),
                images: counts.get(&token).copied().unwrap_or(0) as u64,
                proposed: found.proposed.get(&token).copied().unwrap_or(0),
                precision: precisions.get(&token).map(|(precision, _)| *precision),
            })
            .collect();
        words.sort_by(|a, b| b.proposed.cmp(&a.proposed).then(a.word.cmp(&b.word)));
        if let Some(run) = weights.run {
            let record = KeyWordsRecord {
                step: weights.step,
                images: images as u64,
                words,
            };
            run.write_json(FILE, &record)?;
        }
        let unusable = self.skip.count() as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.split.name().to_owned(),
            left_out: left_out(unusable),
            images: images as u64,
            texts: images as u64,
            ..EvalRecord::default()
        }])
    }
}
