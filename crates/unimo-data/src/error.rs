//! What can go wrong with the user's data and settings.

use std::fmt;
use std::path::PathBuf;

/// An error that ends the work.
///
/// A single bad sample never becomes one: it is a [`SampleError`], is listed by the
/// [`SkipList`](crate::skip::SkipList) and is replaced by another sample.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A value in the recipe is not allowed.
    #[error("`{key}` is {found}, allowed: {allowed}")]
    Config {
        /// The key as it is written in the recipe, such as `data.image_size`.
        key: String,
        /// What was found there.
        found: String,
        /// What is allowed there.
        allowed: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        error: std::io::Error,
    },
    /// A list of samples holds nothing usable or lacks a column.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The list of samples.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer could not be loaded, trained or saved.
    #[error("tokenizer {from}: {reason}")]
    Tokenizer {
        /// The file, or the corpus that it was to be trained on.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// A `preprocessor_config.json` that cannot be followed.
    #[error("{}: {reason}", path.display())]
    Processor {
        /// The file.
        path: PathBuf,
        /// What is not supported.
        reason: String,
    },
    /// A split without samples was asked for samples.
    #[error("the {split} split of {source_name} holds no samples{hint}")]
    Empty {
        /// `train` or `val`.
        split: &'static str,
        /// The source's own description.
        source_name: String,
        /// What to do about it, starting with a separator, or nothing.
        hint: String,
    },
    /// Samples that were to be evaluated have texts, and none of them describes its picture.
    #[error(
        "none of {samples} samples has a text that describes its picture (questions, statements and hypotheses do not), so there is \
         nothing to retrieve: {source_name}"
    )]
    NothingDescribes {
        /// How many samples there are.
        samples: usize,
        /// The source's own description.
        source_name: String,
    },
    /// More of the data set is broken than the recipe tolerates.
    #[error(
        "{skipped} of {items} items are unusable, a share of {share:.4}; \
         `data.max_skipped` allows {allowed}. First: {first}{}",
        list.as_ref().map(|path| format!(". All are listed in {}", path.display())).unwrap_or_default()
    )]
    TooManySkipped {
        /// Distinct items that were skipped.
        skipped: usize,
        /// Items in the data set.
        items: usize,
        /// `skipped / items`.
        share: f64,
        /// The share that is allowed.
        allowed: f64,
        /// The first skipped item and its reason.
        first: String,
        /// The file that lists them, if there is one.
        list: Option<PathBuf>,
    },
    /// A loader thread failed in a way that is no fault of one sample.
    #[error("a loader thread stopped at batch {batch}: {reason}")]
    Worker {
        /// The batch that was being made.
        batch: u64,
        /// What happened.
        reason: String,
    },
}

impl DataError {
    /// A value that is not allowed.
    pub(crate) fn config(
        key: impl Into<String>,
        found: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Config {
            key: key.into(),
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }

    /// A failed file operation.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
        error: std::io::Error,
    ) -> Self {
        Self::File {
            action,
            path: path.into(),
            error,
        }
    }
}

/// Why one sample cannot be used, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{place}: {reason}")]
pub struct SampleError {
    /// Where the sample is defined.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
}

/// Where a sample is defined: a line of a list, or an index of a generator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The list's path as the recipe gives it, or the generator's name.
    pub file: String,
    /// Line from 1, or the generator's index.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The text of a caught panic.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked".to_owned())
}
