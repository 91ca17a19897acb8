//! Captions that the model writes for held-out images, scored against those that people wrote.
//!
//! | number | what |
//! |---|---|
//! | `captions.bleu4` | BLEU-4 over all captions |
//! | `captions.rouge_l` | mean ROUGE-L |
//! | `captions.cider` | mean CIDEr |
//! | `captions.cider_d` | mean CIDEr-D, which papers report as CIDEr |
//! | `captions.different` | share of the captions that no other image has |
//!
//! Chance is what a caption of another image scores: each image gets the first caption that people wrote for the image half the set
//! away. It knows the language and nothing of the image. For `captions.different` it is the share among those captions. [`FILE`] in
//! the run's folder holds the captions of the last evaluation.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use unimo_batch::ConfigError;
use unimo_data::EvalSet;
use unimo_eval::captions::{self, CaptionScores, Case};
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::captioner::Captioner;
use crate::error::TrainError;
use crate::evaluators::encoded::HeldOutImages;
use crate::evaluators::section::{EvalSection, Selectable, When, named};
use crate::evaluators::{Evaluator, HeldOut, Weights, retrieval};
use crate::recipe::Recipe;
use crate::recipe::eval::CaptionsConfig;

const NAME: &str = "captions";

/// The numbers that every evaluation gives.
const NUMBERS: [&str; 5] = ["bleu4", "rouge_l", "cider", "cider_d", "different"];

/// The captions of the last evaluation, one JSON object a line.
pub const FILE: &str = "captions.jsonl";

/// Held-out images with the captions that people wrote.
pub struct Captions {
    config: CaptionsConfig,
    set: EvalSet,
}

/// A line of [`FILE`].
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Where the image is defined.
    image: &'a str,
    /// What the model says of it.
    caption: &'a str,
    /// Its log-probability, as the search compares captions.
    score: f64,
    /// Its CIDEr-D.
    cider_d: f64,
    /// What people say of it.
    references: &'a [String],
}

/// What is wrong with `[eval.captions]`.
fn wrong(error: ConfigError) -> TrainError {
    TrainError::of_recipe(error.within("captions").within("eval"))
}

/// Checks that a recipe's model can write captions.
///
/// # Errors
///
/// It cannot.
fn possible(recipe: &Recipe) -> Result<(), ConfigError> {
    let possible = recipe.objectives.lm.is_some() && recipe.model.is_fused();
    possible.then_some(()).ok_or_else(cannot)
}

/// The error of a recipe that cannot write captions.
fn cannot() -> ConfigError {
    let reason = "needs [objectives.lm] and a cross-modal encoder, [model.fusion] or [model.joint]";
    ConfigError {
        key: "eval.captions".to_owned(),
        value: "{}".to_owned(),
        allowed: reason.to_owned(),
    }
}

impl Captions {
    /// The held-out images of a recipe's `[eval.captions]`.
    ///
    /// # Errors
    ///
    /// The recipe has no `[objectives.lm]` or no cross-modal encoder, or the data has no held-out images with captions.
    pub fn open(
        config: &CaptionsConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Self, TrainError> {
        possible(recipe).map_err(TrainError::of_recipe)?;
        let set = retrieval::open_set(
            recipe,
            held_out.source,
            &[held_out.split],
            held_out.skip,
            held_out.concepts.clone(),
        )?;
        let set = set.ok_or_else(|| {
            let split = ConfigError {
                key: String::new(),
                value: "{}".to_owned(),
                allowed: "needs a held-out split, which the data does not have".to_owned(),
            };
            wrong(split)
        })?;
        Ok(Self::of(config, &set))
    }

    /// The images of a set.
    pub fn of(config: &CaptionsConfig, set: &EvalSet) -> Self {
        let set = match config.limit {
            0 => set.clone(),
            limit => set.part(limit),
        };
        Self {
            config: config.clone(),
            set,
        }
    }

    /// The images, as many as the settings say.
    pub fn set(&self) -> &EvalSet {
        &self.set
    }

    /// What people wrote of each image.
    fn references(&self) -> Vec<Vec<String>> {
        let captions = self.set.captions();
        let of_item = |item: &unimo_data::Item| {
            let own = captions[item.captions.clone()].iter();
            own.map(|caption| caption.text.clone()).collect()
        };
        self.set.items().iter().map(of_item).collect()
    }

    /// The caption of each image, with how the search compares it.
    fn written(&self, weights: &Weights<'_>) -> Result<Vec<(String, f64)>, TrainError> {
        let search = &self.config.search;
        let captioner = Captioner::new(weights.model, weights.tokenizer, search);
        let captioner = captioner.map_err(|error| wrong(error.within("search")))?;
        let captioner = captioner.ok_or_else(|| TrainError::of_recipe(cannot()))?;
        let mut all = Vec::with_capacity(self.set.items().len());
        let images = HeldOutImages {
            model: weights.model,
            set: &self.set,
            tokenizer: weights.tokenizer,
            device: weights.device,
            batch_size: weights.recipe.eval.batch_size,
            max_text_length: weights.recipe.data.max_text_length,
        };
        images.encode(0..self.set.items().len(), |range, features| {
            let numbers: Vec<usize> = range.collect();
            let found = captioner.captions(&features, &numbers)?;
            all.extend(found.into_iter().map(|c| (c.text, c.generated.score)));
            Ok(())
        })?;
        Ok(all)
    }
}

/// Scores of captions, one for each image.
fn scored(references: &[Vec<String>], captions: &[String]) -> Result<CaptionScores, TrainError> {
    let cases: Vec<Case> = references
        .iter()
        .zip(captions)
        .map(|(references, caption)| Case {
            references: references.clone(),
            hypothesis: caption.clone(),
        })
        .collect();
    captions::score(&cases).map_err(|error| TrainError::Check(error.to_string()))
}

/// For each image a caption that people wrote for another one.
fn of_others(references: &[Vec<String>]) -> Vec<String> {
    let count = references.len();
    let other = |image: usize| &references[(image + count / 2) % count];
    (0..count)
        .map(|image| other(image).first().cloned().unwrap_or_default())
        .collect()
}

/// The share of the captions that stand once.
fn different(captions: &[String]) -> f64 {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for caption in captions {
        *counts.entry(caption).or_default() += 1;
    }
    let once = counts.values().filter(|count| **count == 1).count();
    once as f64 / captions.len() as f64
}

/// The numbers of captions, in the order of [`Captions::scalars`].
fn numbers(scores: &CaptionScores, captions: &[String]) -> [(&'static str, f64); 5] {
    let corpus = &scores.corpus;
    [
        ("bleu4", corpus.bleu[3]),
        ("rouge_l", corpus.rouge_l),
        ("cider", corpus.cider),
        ("cider_d", corpus.cider_d),
        ("different", different(captions)),
    ]
}

impl EvalSection for CaptionsConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn when(&self) -> When {
        When::WithRetrieval
    }

    fn possible(&self, recipe: &Recipe) -> Result<(), ConfigError> {
        possible(recipe)
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(Captions::open(self, recipe, held_out)?)))
    }
}

impl Evaluator for Captions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        named(NAME, &NUMBERS)
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let count = self.set.items().len();
        vec![format!(
            "captions: written for {count} images ({}) and scored against those of people",
            self.set.label()
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let references = self.references();
        let (captions, sums): (Vec<String>, Vec<f64>) = self.written(weights)?.into_iter().unzip();
        let scores = scored(&references, &captions)?;
        let others = of_others(&references);
        // One image has no other.
        let chance = (references.len() > 1)
            .then(|| scored(&references, &others))
            .transpose()?;
        let chance = chance.map(|scores| numbers(&scores, &others));
        let found = numbers(&scores, &captions);
        let scalars: BTreeMap<String, ScalarRecord> = found
            .iter()
            .enumerate()
            .map(|(at, (name, value))| {
                let scalar = ScalarRecord {
                    value: *value,
                    chance: chance.as_ref().map(|chance| chance[at].1),
                    interval: None,
                };
                (format!("{NAME}.{name}"), scalar)
            })
            .collect();
        let of = |name: &str| &scalars[&format!("{NAME}.{name}")];
        let (bleu, cider) = (of("bleu4"), of("cider_d"));
        say(format!(
            "step {}: captions of {} images: BLEU-4 {:.1} (chance {:.1}), CIDEr-D {:.1} (chance {:.1})",
            weights.step,
            captions.len(),
            100.0 * bleu.value,
            100.0 * bleu.chance.unwrap_or(f64::NAN),
            100.0 * cider.value,
            100.0 * cider.chance.unwrap_or(f64::NAN)
        ));
        if let Some(run) = weights.run {
            let mut lines = String::new();
            for (at, item) in self.set.items().iter().enumerate() {
                let line = Line {
                    image: &item.name,
                    caption: &captions[at],
                    score: sums[at],
                    cider_d: scores.each[at].cider_d,
                    references: &references[at],
                };
                let line = serde_json::to_string(&line).map_err(|e| {
                    TrainError::Check(format!("the captions cannot be written: {e}"))
                })?;
                lines.push_str(&line);
                lines.push('\n');
            }
            run.write(FILE, lines.as_bytes())?;
        }
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.set.label(),
            images: captions.len() as u64,
            texts: self.set.captions().len() as u64,
            ..EvalRecord::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_a_caption_of_another_image() {
        let references: Vec<Vec<String>> = (0..7).map(|i| vec![i.to_string()]).collect();
        let captions = of_others(&references);
        let mut all = captions.clone();
        all.sort();
        assert_eq!(all, references.concat());
        for (own, other) in references.iter().zip(&captions) {
            assert_ne!(own[0], *other);
        }
        assert_eq!(different(&captions), 1.0);
        assert_eq!(different(&["a", "b", "a"].map(str::to_owned)), 1.0 / 3.0);
    }
}
