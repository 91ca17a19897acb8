//! The losses of the objectives on held-out samples, beside what they are on training samples.
//!
//! The samples, their captions and what is hidden in them are functions of the recipe's seed alone: every evaluation reads the same
//! batches, so that the numbers are a curve. Images are not changed at random, except for an objective that compares two such views.
//! Losses choose no best weights, since less is better.
//!
//! With `mismatched` each image also meets the text of another sample. What a loss loses by that is what it has of the other modality:
//! hidden patches that no longer have their caption, hidden words that no longer have their image. Losses that compare samples mean nothing
//! then, and are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use unimo_batch::Batch;
use unimo_data::{
    Batches, ConceptReader, Loader, LoaderSpec, PatchCodes, SkipList, Source, Split, TextTokenizer,
};
use unimo_objectives::request::{By, Samples, What};
use unimo_objectives::{ACCURACY, Draws};
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable, When};
use crate::evaluators::{Evaluator, HeldOut, Weights, left_out};
use crate::interrupt;
use crate::prepare::for_keys;
use crate::recipe::Recipe;
use crate::recipe::eval::LossesConfig;
use crate::seeds::{NO_STEP, Purpose, seed_of};
use crate::step::fetch;
use crate::tasks::{self, Targets};

/// The name of this evaluator.
pub const NAME: &str = "losses";

/// Held-out batches and what they are made with.
pub struct Losses {
    source: Arc<dyn Source>,
    tokenizer: Arc<TextTokenizer>,
    concepts: Option<ConceptReader>,
    codes: Option<Arc<PatchCodes>>,
    targets: Option<Arc<Targets>>,
    skip: Arc<SkipList>,
    /// Samples in the split.
    samples: usize,
    /// Number of batches of each evaluation.
    batches: usize,
    /// Whether images also meet the texts of other samples.
    mismatched: bool,
}

impl Losses {
    /// Opens the held-out split; `None`, with a line, if the data has none.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn open(
        config: &LossesConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Self>, TrainError> {
        if held_out.source.is_empty(Split::Val) {
            say(
                "eval.losses: there are no held-out losses: the data has no held-out split"
                    .to_owned(),
            );
            return Ok(None);
        }
        let mut own = Self {
            source: Arc::clone(held_out.source),
            tokenizer: Arc::clone(held_out.tokenizer),
            concepts: held_out.concepts.clone(),
            codes: held_out.codes.clone(),
            targets: held_out.targets.cloned(),
            skip: Arc::new(SkipList::in_memory(recipe.data.max_skipped)),
            samples: 0,
            batches: 0,
            mismatched: config.mismatched,
        };
        let spec = own.spec(recipe, say)?;
        own.samples = spec.source.len(spec.split);
        own.batches = batches(config, recipe, own.samples);
        Ok(Some(own))
    }

    /// The loader of the held-out batches.
    fn spec(&self, recipe: &Recipe, say: &mut dyn FnMut(String)) -> Result<LoaderSpec, TrainError> {
        let mut spec = LoaderSpec::new(
            &recipe.data,
            Arc::clone(&self.source),
            Arc::clone(&self.tokenizer),
            Arc::clone(&self.skip),
            Batches {
                size: recipe.train.batch_size,
                seed: seed_of(recipe.seed, NO_STEP, 0, Purpose::Order),
            },
        );
        spec.split = Split::Val;
        spec.concepts = self.concepts.clone();
        spec.codes = self.codes.clone();
        for_keys(&mut spec, recipe, &|_| true)?;
        if spec.second_view == unimo_batch::SecondViews::None {
            spec.augment = None;
        }
        tasks::for_task(&mut spec, self.targets.as_ref(), say)?;
        Ok(spec)
    }
}

/// The number of batches: all of the split, or `limit` samples of it, but during training no more than `eval.share` of the samples that are
/// trained on between two evaluations; at least one.
fn batches(config: &LossesConfig, recipe: &Recipe, samples: usize) -> usize {
    let train = &recipe.train;
    let size = train.batch_size;
    let mut most = samples;
    if config.limit > 0 {
        most = most.min(config.limit);
    }
    if train.eval_every > 0 && train.eval_every < train.steps {
        let between = train.eval_every as f64 * (size * train.accumulation) as f64;
        most = most.min((recipe.eval.share * between) as usize);
    }
    (most / size).max(1)
}

/// Means over batches by objective.
type Sums = BTreeMap<&'static str, Sum>;

/// The prefix of the numbers of pairs that do not belong together.
const MISMATCHED: &str = "mismatched";

/// A sum of means over batches.
#[derive(Default)]
struct Sum {
    loss: f64,
    batches: usize,
    /// Right predictions and all.
    accuracy: (f64, usize),
}

impl Sum {
    fn loss(&self) -> f64 {
        self.loss / self.batches as f64
    }

    /// The share of right predictions, if there are predictions.
    fn accuracy(&self) -> Option<f64> {
        match self.accuracy {
            (_, 0) => None,
            (right, count) => Some(right / count as f64),
        }
    }
}

/// Adds the losses of a batch, of these objectives.
fn add(
    sums: &mut Sums,
    weights: &Weights<'_>,
    (batch, number): (Batch, usize),
    chosen: &dyn Fn(&str) -> bool,
) -> Result<(), TrainError> {
    let (recipe, model) = (weights.recipe, weights.model);
    let batches = [batch];
    let together = model
        .objectives
        .together(chosen, &model.backbone, &batches, weights.device)
        .with_teacher(model.teacher.as_ref());
    let draws = seed_of(recipe.seed, NO_STEP, number, Purpose::Negatives);
    let results = together.batch(0, Draws::new(draws))?.results;
    let results: Vec<_> = results.into_iter().map(|result| (None, result)).collect();
    let (numbers, _) = fetch(&results, Vec::new());
    for ((_, result), numbers) in results.iter().zip(&numbers) {
        let sum = sums.entry(result.objective).or_default();
        sum.loss += numbers.loss;
        sum.batches += 1;
        for (metric, value) in result.metrics.iter().zip(&numbers.metrics) {
            if metric.name == ACCURACY {
                sum.accuracy.0 += value;
                sum.accuracy.1 += metric.count;
            }
        }
    }
    Ok(())
}

/// The objectives that read pairs and compare no samples.
fn of_pairs(recipe: &Recipe) -> Vec<&'static str> {
    let each = recipe.objectives.each().into_iter();
    let pairs = each.filter(|(_, settings)| {
        let requests = settings.requests();
        let student = || requests.iter().filter(|request| request.by == By::Student);
        let text = student().any(|request| matches!(request.what, What::Text(_)));
        let image = student().any(|request| matches!(request.what, What::Image(_)));
        text && image && settings.samples() == Samples::EACH
    });
    pairs.map(|(key, _)| key).collect()
}

impl EvalSection for LossesConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn when(&self) -> When {
        When::Training
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        // The highest number would choose the best weights, and less is better here.
        Selectable::default()
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        let opened = Losses::open(self, recipe, held_out, say)?;
        Ok(opened.map(|own| Box::new(own) as Box<dyn Evaluator>))
    }
}

impl Evaluator for Losses {
    fn name(&self) -> &'static str {
        NAME
    }

    /// None may choose the best weights: the highest number would, and less is better here.
    fn scalars(&self) -> Vec<String> {
        Vec::new()
    }

    fn says(&self, recipe: &Recipe) -> Vec<String> {
        let size = recipe.train.batch_size;
        let few = if self.samples < size {
            format!(
                ", which come several times in it, since there are {}",
                self.samples
            )
        } else {
            String::new()
        };
        vec![format!(
            "losses of {} held-out batches of {size} samples at each evaluation, the same each time{few}",
            self.batches
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let recipe = weights.recipe;
        let model = weights.model;
        let mut loader = Loader::new(self.spec(recipe, &mut |_| {})?)?;
        let (mut sums, mut wrong) = (Sums::new(), Sums::new());
        let pairs = of_pairs(recipe);
        for number in 0..self.batches {
            interrupt::check()?;
            let Some(batch) = loader.next() else {
                break;
            };
            let batch = batch?;
            let other = self.mismatched.then(|| batch.mismatched());
            add(&mut sums, weights, (batch, number), &|_| true)?;
            if let Some(other) = other {
                add(&mut wrong, weights, (other, number), &|key| {
                    pairs.contains(&key)
                })?;
            }
        }
        let mut scalars = BTreeMap::new();
        let mut give = |name: String, value: f64| {
            let scalar = ScalarRecord {
                value,
                chance: None,
                interval: None,
            };
            scalars.insert(format!("{NAME}.{name}"), scalar);
        };
        let (mut total, mut parts) = (0.0, Vec::new());
        for (key, objective) in model.objectives.each() {
            let Some(sum) = sums.get(key) else {
                say(format!(
                    "step {}: no held-out batch has what {key} needs",
                    weights.step
                ));
                continue;
            };
            let loss = sum.loss();
            total += objective.settings().weight() * loss;
            parts.push(format!("{key} {loss:.4}"));
            give(key.to_owned(), loss);
            if let Some(accuracy) = sum.accuracy() {
                give(format!("{key}.accuracy"), accuracy);
            }
        }
        give("total".to_owned(), total);
        for (key, sum) in &wrong {
            give(format!("{MISMATCHED}.{key}"), sum.loss());
            if let Some(accuracy) = sum.accuracy() {
                give(format!("{MISMATCHED}.{key}.accuracy"), accuracy);
            }
        }
        say(format!(
            "step {}: held-out losses: {total:.4} ({})",
            weights.step,
            parts.join(", ")
        ));
        let samples = (self.batches * recipe.train.batch_size) as u64;
        let unusable = self.skip.count() as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: Split::Val.name().to_owned(),
            left_out: left_out(unusable),
            images: samples,
            texts: samples,
            ..EvalRecord::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    #[test]
    fn held_out_losses_cost_no_more_than_their_share() {
        let of = |set: &[&str], samples: usize, limit: usize| {
            let overrides = Overrides {
                data: None,
                set: set.iter().map(|set| (*set).to_owned()).collect(),
            };
            let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
            batches(
                &LossesConfig {
                    limit,
                    mismatched: false,
                },
                &recipe,
                samples,
            )
        };
        // 300 steps of 32 samples between evaluations: a twentieth is 480 samples, or 15 batches.
        assert_eq!(of(&[], 500, 0), 15);
        assert_eq!(of(&[], 100, 0), 3);
        assert_eq!(of(&[], 500, 64), 2);
        assert_eq!(of(&["eval.share=0.5"], 500, 0), 15);
        // Only at the end: all of them.
        assert_eq!(of(&["train.eval_every=0"], 5000, 0), 156);
        // Fewer than one batch says nothing.
        assert_eq!(of(&["train.eval_every=1"], 500, 0), 1);
        assert_eq!(of(&[], 5, 0), 1);
    }
}
