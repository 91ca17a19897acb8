//! What there is to know of an evaluator before it is opened: its section of `[eval]`.

use unimo_batch::ConfigError;

use crate::error::TrainError;
use crate::evaluators::{Evaluator, HeldOut};
use crate::recipe::Recipe;

/// A section of `[eval]`, which opens an evaluator.
pub(crate) trait EvalSection {
    /// Its key, which is the evaluator's name.
    fn key(&self) -> &'static str;

    /// When the evaluator is asked.
    fn when(&self) -> When {
        When::EachSplit
    }

    /// Checks the section against the rest of the recipe, as far as the recipe's own checks do not.
    ///
    /// # Errors
    ///
    /// A model of this recipe cannot be evaluated so.
    fn possible(&self, _recipe: &Recipe) -> Result<(), ConfigError> {
        Ok(())
    }

    /// The numbers that `eval.select` may name.
    fn selectable(&self, recipe: &Recipe) -> Selectable;

    /// The evaluator; `None`, with a line, if the data has nothing for it.
    ///
    /// # Errors
    ///
    /// Its data cannot be used.
    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError>;
}

/// When an evaluator is asked, besides during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// By `unimo eval`, for each split.
    EachSplit,
    /// By `unimo eval`, for the images of all its splits at once, as retrieval is.
    WithRetrieval,
    /// By `unimo eval`, if no other data is given: it has images of its own.
    OwnImages,
    /// Not by `unimo eval`.
    Training,
}

/// The numbers that `eval.select` may name, as far as they are known without the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selectable {
    /// Their names, without the name of the evaluator.
    pub names: Vec<&'static str>,
    /// Whether the data may give others.
    pub others: bool,
}

/// The names of an evaluator's numbers, which begin with its own.
pub(crate) fn named(evaluator: &str, numbers: &[&str]) -> Vec<String> {
    let each = numbers.iter().map(|name| format!("{evaluator}.{name}"));
    each.collect()
}

impl Selectable {
    /// These and no others.
    pub fn of(names: &[&'static str]) -> Self {
        Self {
            names: names.to_vec(),
            others: false,
        }
    }
}
