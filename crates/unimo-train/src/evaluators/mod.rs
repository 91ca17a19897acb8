//! How a model is evaluated. An evaluator gives named numbers, says what chance would reach, and writes what the report shows
//! besides. Retrieval is one of them.
//!
//! A recipe's `[eval]` lists the evaluators; `eval.select` names the number that selects the best weights of a run. A new evaluator
//! is a file here and a line in `sections`, or is registered from another crate ([`registry`]).

pub mod base_to_novel;
pub mod bitext;
pub(crate) mod boxes;
pub mod captions;
pub(crate) mod encoded;
mod gallery;
pub(crate) mod gates;
pub mod grad_cam;
pub mod key_words;
pub mod losses;
pub mod patches;
pub mod plan;
pub mod prompts;
pub mod registry;
pub mod retrieval;
pub(crate) mod section;
pub mod stories;
pub mod task;
pub mod walks;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::ConfigError;
use unimo_core::world::World;
use unimo_data::{
    ConceptReader, DataError, EvalSet, PatchCodes, SkipList, Source, Split, TextTokenizer,
};
use unimo_report::record::EvalRecord;

use crate::error::TrainError;
use crate::evaluators::retrieval::Retrieval;
use crate::evaluators::section::{EvalSection, named};
use crate::evaluators::task::Predictions;
use crate::model::Model;
use crate::recipe::{EvalConfig, Recipe, Task};
use crate::run::RunFolder;
use crate::tasks::{Judged, Targets, judge};

/// Weights to evaluate, and where the results go.
pub struct Weights<'a> {
    /// The model, without dropout.
    pub model: &'a Model,
    /// The device that it computes on.
    pub device: &'a Device,
    /// The recipe that it was made from.
    pub recipe: &'a Recipe,
    /// The tokenizer of its texts.
    pub tokenizer: &'a TextTokenizer,
    /// The step of the weights.
    pub step: u64,
    /// Whether training has ended.
    pub last: bool,
    /// The run, whose report shows images and maps; `None` to compute the numbers alone.
    pub run: Option<&'a RunFolder>,
    /// Whether to show no progress line.
    pub quiet: bool,
    /// The ranks that evaluate them together. All go through the same evaluators; retrieval and tasks share the work, and all have the
    /// results.
    pub world: &'a World,
}

/// A way to evaluate a model.
pub trait Evaluator {
    /// Its name and the prefix of its numbers, such as `retrieval`.
    fn name(&self) -> &'static str;

    /// Names of the numbers that every evaluation during training gives. `eval.select` may name any of them.
    fn scalars(&self) -> Vec<String>;

    /// Lines for the terminal before training, on what is scored and when.
    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        Vec::new()
    }

    /// Whether this step's evaluation is missing among the records, after a run was killed.
    fn is_owed(&self, done: &[EvalRecord], step: u64, _last: bool) -> bool {
        let own = |record: &&EvalRecord| record.evaluator == self.name();
        !done.iter().filter(own).any(|record| record.step == step)
    }

    /// Evaluates weights. The first record holds the numbers that every evaluation gives, so that they form a curve with the
    /// earlier ones. `say` prints the results.
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
    /// The list of unusable samples.
    pub skip: &'a SkipList,
    /// The reader of concepts, from phrases and tags.
    pub concepts: Option<ConceptReader>,
    /// What gives patches their codes.
    pub codes: Option<Arc<PatchCodes>>,
    /// The tokenizer of the texts.
    pub tokenizer: &'a Arc<TextTokenizer>,
    /// What the recipe's task predicts, if it has one.
    pub targets: Option<&'a Arc<Targets>>,
    /// The split to evaluate.
    pub split: Split,
}

/// The sections of `[eval]` that a recipe has, in the order in which their evaluators are asked. A new evaluator is a line here.
pub(crate) fn sections(eval: &EvalConfig) -> Vec<&dyn EvalSection> {
    let own = [
        given(&eval.prompts),
        given(&eval.captions),
        given(&eval.losses),
        given(&eval.key_words),
        given(&eval.patches),
        given(&eval.grad_cam),
        given(&eval.bitext),
        given(&eval.base_to_novel),
        given(&eval.stories),
        given(&eval.walks),
    ];
    let outside = eval.outside.each().iter();
    own.into_iter()
        .flatten()
        .chain(outside.map(|section| section as &dyn EvalSection))
        .collect()
}

/// A section, if it is there.
fn given<S: EvalSection>(section: &Option<S>) -> Option<&dyn EvalSection> {
    section.as_ref().map(|section| section as &dyn EvalSection)
}

/// The evaluators of a recipe that is trained. `before` holds the earlier results of a resumed run. `say` prints what is not
/// evaluated, and why.
///
/// # Errors
///
/// The data of one of them cannot be used.
pub fn open(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    before: &[EvalRecord],
    say: &mut dyn FnMut(String),
) -> Result<Vec<Box<dyn Evaluator>>, TrainError> {
    let mut all: Vec<Box<dyn Evaluator>> = Vec::new();
    if let Some(set) = retrieval_set(recipe, held_out, say)? {
        // A run that an older version began selects its best weights by all methods.
        let planned = before
            .iter()
            .all(|e| e.score.is_some() || !e.is_retrieval());
        all.push(Box::new(Retrieval::planned(set, recipe, planned)));
    }
    all.extend(task(recipe, held_out, say)?);
    for section in sections(&recipe.eval) {
        all.extend(section.open(recipe, held_out, say)?);
    }
    if all.is_empty() {
        say("nothing will be evaluated".to_owned());
    }
    Ok(all)
}

/// The evaluator of the recipe's task; `None` without a task or, with a message, without held-out samples.
fn task(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    say: &mut dyn FnMut(String),
) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
    let Some(targets) = held_out.targets else {
        return Ok(None);
    };
    if held_out.source.is_empty(held_out.split) {
        say(format!(
            "nothing is predicted by [objectives.{}]: the data has no held-out split",
            targets.task.key
        ));
        return Ok(None);
    }
    let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
    let judged = Judged {
        recipe,
        source: held_out.source,
        tokenizer: held_out.tokenizer,
        concepts: held_out.concepts.as_ref(),
        skip: &skip,
        targets: Some(targets),
    };
    let set = judged.set(held_out.split, false)?;
    let targets = Arc::clone(targets);
    Ok(Some(Box::new(Predictions::new(set, targets, skip))))
}

/// The set for retrieval; `None`, with a message, if there is nothing to retrieve.
fn retrieval_set(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    say: &mut dyn FnMut(String),
) -> Result<Option<EvalSet>, TrainError> {
    if !recipe.retrieves() {
        // A task is not meant to retrieve.
        if held_out.targets.is_some() {
            return Ok(None);
        }
        say(
            "nothing is retrieved: none of [objectives.itc], [objectives.itm] and [objectives.ranking] is there"
                .to_owned(),
        );
        return Ok(None);
    }
    let (source, skip) = (held_out.source, held_out.skip);
    match retrieval::open_set(
        recipe,
        source,
        &[held_out.split],
        skip,
        held_out.concepts.clone(),
    ) {
        // Questions and statements can be trained on without being retrieved.
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

/// What a record says of samples that could not be used.
pub(crate) fn left_out(unusable: u64) -> BTreeMap<String, u64> {
    let counted = (unusable > 0).then(|| ("unusable".to_owned(), unusable));
    counted.into_iter().collect()
}

/// How many held-out images are looked at, and how many at a time. They are whole batches: what is left over would come with images that were
/// there before. `limit` is the evaluator's own; 0: none.
pub(crate) fn whole_batches(
    recipe: &Recipe,
    held_out: &HeldOut<'_>,
    limit: usize,
) -> (usize, usize) {
    let limits = [recipe.eval.limit, limit];
    let limits = limits.into_iter().filter(|limit| *limit > 0);
    let images = limits.fold(held_out.source.len(held_out.split), usize::min);
    let size = recipe.eval.batch_size.min(images).max(1);
    (images / size * size, size)
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
    .map_err(TrainError::of_recipe)
}

/// What is wrong with a recipe's evaluators, as far as that shows without the data.
pub(crate) fn wrong(recipe: &Recipe) -> Vec<ConfigError> {
    let sections = sections(&recipe.eval).into_iter();
    let possible = sections.filter_map(|section| section.possible(recipe).err());
    possible.chain(select_wrong(recipe)).collect()
}

/// Whether `eval.select` names a number that none of the recipe's evaluators can give, whatever the data is.
fn select_wrong(recipe: &Recipe) -> Option<ConfigError> {
    let select = recipe.eval.select.as_ref()?;
    let of = select.split('.').next().unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    let mut others = false;
    if recipe.retrieves() {
        names.push(retrieval::MEAN_RECALL.to_owned());
    }
    if let Some(task) = Task::of(recipe) {
        let of_task = judge::names(task.predicts).into_iter();
        names.extend(of_task.map(|name| format!("{}.{name}", task.key)));
        // Further numbers follow from the number of labels in the data.
        others |= task.asks_labels() && task.key == of;
    }
    for section in sections(&recipe.eval) {
        let numbers = section.selectable(recipe);
        names.extend(named(section.key(), &numbers.names));
        others |= numbers.others && section.key() == of;
    }
    let wrong = ConfigError::unless(
        others || names.is_empty() || names.contains(select),
        "eval.select",
        format_args!("\"{select}\""),
        format_args!(
            "must be a number that every evaluation gives: {}",
            names.join(", ")
        ),
    );
    wrong.err()
}

/// Marks in each record the number that selects the best weights, if there is one.
pub fn select(recipe: &Recipe, records: &mut [EvalRecord]) {
    let of_task = || {
        let task = Task::of(recipe)?;
        let name = judge::names(task.predicts).into_iter().next()?;
        Some(format!("{}.{name}", task.key))
    };
    let Some(select) = recipe.eval.select.clone().or_else(of_task) else {
        // Retrieval selects them, from the numbers in its records.
        return;
    };
    let select = &select;
    // Numbers that only the last evaluation gives are not compared with the others.
    let chosen = records
        .iter()
        .find_map(|r| Some((r.scalar(select)?, r.split.clone())));
    for record in records
        .iter_mut()
        .filter(|record| record.language.is_empty())
    {
        record.score = None;
        record.scored = String::new();
        record.selects = record.scalar(select).is_some();
        if let Some((value, split)) = chosen.as_ref().filter(|_| record.selects) {
            record.score = Some(*value);
            record.scored = format!("{select} on {split}");
        }
    }
}
