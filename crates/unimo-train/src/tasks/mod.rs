//! Downstream tasks: the labels of a task, what is to be predicted of each sample, and the samples themselves.
//!
//! An objective that predicts something ([`Settings::predicts`](unimo_objectives::Settings::predicts)) is a task. A recipe has at
//! most one. Its head stays with the objective; its labels are a file of the run, [`labels::FILE_NAME`].

pub(crate) mod candidates;
pub(crate) mod class_texts;
pub mod judge;
pub mod labels;
pub mod predict;
mod targets;

use std::collections::HashMap;
use std::sync::Arc;

use unimo_batch::{ConfigError, TextRole};
use unimo_data::{
    Batches, Choose, ConceptReader, Each, Label, LoaderSpec, SkipList, Source, Split, TaskSet,
    TextTokenizer, Wanted,
};
use unimo_objectives::Predicts;

use crate::error::TrainError;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::recipe::{Task, TaskConfig};
use crate::tasks::labels::Labels;
pub use crate::tasks::targets::Targets;

/// The labels of a recipe's task, made from the data or a file if the recipe says so; `None` if it predicts no labels. `say` is told
/// how many there are. The recipe is given the number of classes if it has none.
///
/// # Errors
///
/// They cannot be read, their number is not the head's, or the task reads second images and the data has none.
pub(crate) fn prepare(
    recipe: &mut Recipe,
    source: &dyn Source,
    say: &mut dyn FnMut(String),
) -> Result<Option<Labels>, TrainError> {
    let Some(task) = Task::of(recipe) else {
        return Ok(None);
    };
    check_second_images(recipe, task, source)?;
    let labels = match &recipe.task {
        Some(TaskConfig { labels, .. }) => {
            let (labels, line) = Labels::make(labels, source)?;
            say(line);
            labels
        }
        None => match Labels::fixed(task)? {
            Some(labels) => labels,
            None => return Ok(None),
        },
    };
    adopt(recipe, task, &labels)?;
    if !recipe.reads_texts() && asks(source) {
        say(format!(
            "objectives.{} reads no texts: of the questions of the data the answers alone count, as classes of their images",
            task.key
        ));
    }
    Ok(Some(labels))
}

/// Whether the first training sample has a question.
fn asks(source: &dyn Source) -> bool {
    let roles = (!source.is_empty(Split::Train)).then(|| source.roles(Split::Train, 0));
    roles.is_some_and(|roles| roles.is_ok_and(|roles| roles.contains(&TextRole::Question)))
}

/// A task over two images needs data with two.
fn check_second_images(recipe: &Recipe, task: Task, source: &dyn Source) -> Result<(), TrainError> {
    let inputs = recipe.objectives.inputs(&|key| key == task.key);
    if !inputs.map_err(TrainError::of_recipe)?.second {
        return Ok(());
    }
    let splits = [Split::Train, Split::Val];
    let mut lacking = splits
        .into_iter()
        .filter(|split| !source.is_empty(*split) && !source.has_second_images(*split));
    match lacking.next() {
        None => Ok(()),
        Some(split) => Err(TrainError::of_recipe(ConfigError {
            key: format!("objectives.{}.images", task.key),
            value: "2".to_owned(),
            allowed: format!(
                "must be 1, or data of two images per sample, such as NLVR2: {} has one image each in the {} split",
                source.describe(),
                split.name()
            ),
        })),
    }
}

/// Gives the recipe's task as many classes as there are labels, or checks its own number.
pub(crate) fn adopt(recipe: &mut Recipe, task: Task, labels: &Labels) -> Result<(), TrainError> {
    match task.predicts.classes() {
        None => recipe.objectives.set_classes(task.key, labels.len()),
        Some(classes) => ConfigError::unless(
            classes == labels.len(),
            &format!("objectives.{}.classes", task.key),
            classes,
            format_args!("must be the number of labels, {}, or absent", labels.len()),
        )
        .map_err(TrainError::of_recipe)?,
    }
    Ok(())
}

/// A loader's specification for a task: one sample for each text with a known label, and targets. The specification of a recipe
/// without a task stays as it is.
///
/// # Errors
///
/// No text has a label that is known.
pub(crate) fn for_task(
    spec: &mut LoaderSpec,
    targets: Option<&Arc<Targets>>,
    say: &mut dyn FnMut(String),
) -> Result<(), TrainError> {
    let Some(targets) = targets else {
        return Ok(());
    };
    let choose = |label: &Label| targets.learns(label);
    let wanted = Wanted {
        what: wanted(targets.task.predicts),
        images_alone: targets.images_alone,
    };
    let mut each = Each::new(Arc::clone(&spec.source), &[spec.split], &choose, wanted)?;
    if each.left_out() > 0 {
        let reason = match targets.task.predicts {
            Predicts::Box => "nothing says which box they refer to",
            _ => "no answer of theirs is one of the labels",
        };
        let texts = if targets.images_alone {
            "images"
        } else {
            "texts"
        };
        say(format!(
            "{} of {} {texts} are not trained on: {reason}",
            each.left_out(),
            each.left_out() + each.len(spec.split)
        ));
    }
    if let Some((shots, seed)) = targets.shots {
        let counts = each.keep(spec.split, (shots, seed), &|label| targets.class(label))?;
        let fewer = targets.fewer(&counts, shots);
        let fewer = match fewer.len() {
            0 => String::new(),
            count => format!("; {count} classes have fewer: {}", listed(&fewer)),
        };
        say(format!(
            "task.shots: {} samples are trained on, {shots} of each of {} classes{fewer}",
            each.len(spec.split),
            counts.len()
        ));
    }
    spec.source = Arc::new(each);
    spec.targets = Some(Arc::<Targets>::clone(targets));
    Ok(())
}

/// Gives a model what it knows of the labels beside their number: their words, which some tasks rank or read. Returns lines for the user.
///
/// # Errors
///
/// There are no labels, or their words do not fit the model.
pub(crate) fn give(
    model: &mut Model,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    labels: Option<&Labels>,
) -> Result<Vec<String>, TrainError> {
    let answers = candidates::give(model, recipe, tokenizer, labels)?;
    let classes = class_texts::give(model, recipe, tokenizer, labels)?;
    Ok(answers.into_iter().chain(classes).collect())
}

/// Some of these words, for a message.
pub(crate) fn listed(all: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = match all.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    format!("{}{more}", shown.join(", "))
}

/// What texts are trained on and judged for, in the words of an error.
fn wanted(predicts: Predicts) -> &'static str {
    match predicts {
        Predicts::Box => A_BOX,
        Predicts::Number => "a number",
        Predicts::Answers { .. } | Predicts::Class { .. } => "an answer that the task can give",
    }
}

/// What grounding wants of a text.
const A_BOX: &str = "a box, which says what its text refers to";

/// What the samples of a task are read with.
pub(crate) struct Judged<'a> {
    pub recipe: &'a Recipe,
    pub source: &'a Arc<dyn Source>,
    pub tokenizer: &'a Arc<TextTokenizer>,
    pub concepts: Option<&'a ConceptReader>,
    /// The list of unusable samples.
    pub skip: &'a Arc<SkipList>,
    /// What a task predicts; `None` where samples are judged by other means.
    pub targets: Option<&'a Arc<Targets>>,
}

impl Judged<'_> {
    /// The samples of a split that are judged, as many as `eval.limit` says: those with a known answer, or all of them.
    ///
    /// # Errors
    ///
    /// There is none, or too much of the source is unusable.
    pub(crate) fn set(&self, split: Split, all: bool) -> Result<TaskSet, TrainError> {
        let judges = |label: &Label| match self.targets {
            Some(targets) => targets.judges(label, all),
            None => Ok(true),
        };
        let predicts = self.targets.map(|targets| targets.task.predicts);
        let wanted = Wanted {
            what: predicts.map_or("a text", wanted),
            images_alone: self.targets.is_some_and(|targets| targets.images_alone),
        };
        self.chosen(split, &judges, wanted)
    }

    /// The samples of a split whose answer is one of these, as many as `eval.limit` says.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub(crate) fn answered(
        &self,
        split: Split,
        answers: &HashMap<String, usize>,
    ) -> Result<TaskSet, TrainError> {
        let one_of = |label: &Label| {
            let answer = label.answer.as_ref();
            Ok(answer.is_some_and(|answer| answers.contains_key(answer)))
        };
        let wanted = Wanted {
            what: "one of the classes that are told apart",
            images_alone: false,
        };
        self.chosen(split, &one_of, wanted)
    }

    /// The samples of a split whose texts refer to a box, as many as `eval.limit` says.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub(crate) fn with_boxes(&self, split: Split) -> Result<TaskSet, TrainError> {
        let wanted = Wanted {
            what: A_BOX,
            images_alone: false,
        };
        self.chosen(split, &|label| Ok(label.bounds.is_some()), wanted)
    }

    fn chosen(
        &self,
        split: Split,
        choose: Choose<'_>,
        wanted: Wanted,
    ) -> Result<TaskSet, TrainError> {
        let mut spec = LoaderSpec::new(
            &self.recipe.data,
            Arc::clone(self.source),
            Arc::clone(self.tokenizer),
            Arc::clone(self.skip),
            Batches {
                size: self.recipe.eval.batch_size,
                seed: self.recipe.seed,
            },
        );
        spec.concepts = self.concepts.cloned();
        spec.split = split;
        spec.targets = match self.targets {
            Some(targets) => Some(Arc::<Targets>::clone(targets)),
            None => None,
        };
        let each = Each::new(Arc::clone(self.source), &[split], choose, wanted)?;
        let set = TaskSet::new(spec, each)?;
        Ok(match self.recipe.eval.limit {
            0 => set,
            limit => set.part(limit),
        })
    }
}
