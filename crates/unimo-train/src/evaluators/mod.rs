//! What a model is judged by. An evaluator gives named numbers, says what chance would reach, and writes what the report shows
//! beside them. Retrieval is one of them.
//!
//! A recipe's `[eval]` says which there are; `eval.select` names the number that the best weights of a run are chosen by. A new one
//! is a file here and a line in [`open`].

pub(crate) mod encoded;
mod gallery;
pub(crate) mod gates;
pub mod plan;
pub mod prompts;
pub mod retrieval;

use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::ConfigError;
use unimo_data::{ConceptReader, DataError, EvalSet, SkipList, Source, Split, TextTokenizer};
use unimo_report::record::EvalRecord;

use crate::error::TrainError;
use crate::evaluators::prompts::Prompts;
use crate::evaluators::retrieval::Retrieval;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::run::RunFolder;

/// Weights to be judged, and where what is found goes.
pub struct Weights<'a> {
    /// The model, without dropout.
    pub model: &'a Model,
    /// Where it computes.
    pub device: &'a Device,
    /// What it was made from.
    pub recipe: &'a Recipe,
    /// How texts become ids.
    pub tokenizer: &'a TextTokenizer,
    /// The step that they are of.
    pub step: u64,
    /// Whether training has ended.
    pub last: bool,
    /// The run, whose report shows pictures and maps; none: numbers alone.
    pub run: Option<&'a RunFolder>,
    /// No progress line.
    pub quiet: bool,
}

/// What a model is judged by.
pub trait Evaluator {
    /// Its name, which its numbers begin with: `retrieval`.
    fn name(&self) -> &'static str;

    /// Names of the numbers that every evaluation of a training gives, and that `eval.select` may name.
    fn scalars(&self) -> Vec<String>;

    /// Lines for the terminal before training: what is scored, and when.
    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        Vec::new()
    }

    /// Whether the evaluations of a run that was killed lack this step's.
    fn is_owed(&self, done: &[EvalRecord], step: u64, _last: bool) -> bool {
        let own = |record: &&EvalRecord| record.evaluator == self.name();
        !done.iter().filter(own).any(|record| record.step == step)
    }

    /// Judges weights. The first record is of what every evaluation scores: its numbers make a curve with those before. `say` tells
    /// the terminal what was found.
    ///
    /// # Errors
    ///
    /// The data cannot be read, or a score is not finite.
    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError>;
}

/// What a run's evaluators are opened from.
pub struct HeldOut<'a> {
    /// The data.
    pub source: &'a Arc<dyn Source>,
    /// Where unusable samples are listed.
    pub skip: &'a SkipList,
    /// Makes concepts of phrases and tags.
    pub concepts: Option<ConceptReader>,
}

/// The evaluators of a recipe that is trained. `before` is what a run that is resumed has found; `say` tells the terminal what is
/// not evaluated, and why.
///
/// # Errors
///
/// What one of them reads cannot be used.
pub fn open(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    before: &[EvalRecord],
    say: &mut dyn FnMut(String),
) -> Result<Vec<Box<dyn Evaluator>>, TrainError> {
    let mut all: Vec<Box<dyn Evaluator>> = Vec::new();
    if let Some(set) = retrieval_set(recipe, held_out, say)? {
        // A run that an older version began chooses its best weights by all methods.
        let planned = before
            .iter()
            .all(|e| e.score.is_some() || !e.is_retrieval());
        all.push(Box::new(Retrieval::planned(set, recipe, planned)));
    }
    if let Some(config) = &recipe.eval.prompts {
        all.push(Box::new(Prompts::open(config, recipe)?));
    }
    if all.is_empty() {
        say("nothing will be evaluated".to_owned());
    }
    Ok(all)
}

/// What there is to retrieve; none where there is nothing, which is said.
fn retrieval_set(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    say: &mut dyn FnMut(String),
) -> Result<Option<EvalSet>, TrainError> {
    if !retrieval::is_possible(recipe) {
        say(
            "nothing is retrieved: neither [objectives.itc] nor [objectives.itm] is there"
                .to_owned(),
        );
        return Ok(None);
    }
    let (source, skip) = (held_out.source, held_out.skip);
    match retrieval::open_set(
        recipe,
        source,
        &[Split::Val],
        skip,
        held_out.concepts.clone(),
    ) {
        // Questions and statements can be learned from without being retrieved.
        Err(TrainError::Data(error @ DataError::NothingDescribes { .. })) => {
            say(format!("nothing is retrieved: {error}"));
            Ok(None)
        }
        Ok(None) => {
            say("nothing is retrieved: the data has no held-out split".to_owned());
            Ok(None)
        }
        opened => opened,
    }
}

/// Checks `eval.select`.
///
/// # Errors
///
/// `eval.select` names a number that no evaluation during training gives.
pub fn check_select(recipe: &Recipe, evaluators: &[Box<dyn Evaluator>]) -> Result<(), TrainError> {
    let Some(select) = recipe
        .eval
        .select
        .as_ref()
        .filter(|_| !evaluators.is_empty())
    else {
        return Ok(());
    };
    let names: Vec<String> = evaluators.iter().flat_map(|e| e.scalars()).collect();
    ConfigError::unless(
        names.contains(select),
        "eval.select",
        format_args!("\"{select}\""),
        format_args!(
            "must be a number that every evaluation gives: {}",
            names.join(", ")
        ),
    )
    .map_err(|error| TrainError::Value {
        file: "recipe".to_owned(),
        error,
    })
}

/// Says by which number of each record the best weights are chosen, if by any.
pub fn select(recipe: &Recipe, records: &mut [EvalRecord]) {
    let Some(select) = &recipe.eval.select else {
        // By retrieval, as its records say.
        return;
    };
    // What the last evaluation scores beyond the others is not compared with them.
    let chosen = records
        .iter()
        .find_map(|r| Some((r.scalar(select)?, r.split.clone())));
    for record in records {
        record.score = None;
        record.scored = String::new();
        record.selects = record.scalar(select).is_some();
        if let Some((value, split)) = chosen.as_ref().filter(|_| record.selects) {
            record.score = Some(*value);
            record.scored = format!("{select} on {split}");
        }
    }
}
