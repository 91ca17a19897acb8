//! What can go wrong with the user's data and settings.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// An error that ends the work.
///
/// A single damaged sample never becomes one. It is a [`SampleError`], is listed by the [`SkipList`](crate::SkipList) and is
/// replaced by another sample. Something that could not be read but may be sound is [`DataError::Unavailable`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A value in the recipe is not allowed.
    #[error("`{key}` is {found}, allowed: {allowed}")]
    Config {
        /// The key as written in the recipe, such as `data.image_size`.
        key: String,
        /// The value found.
        found: String,
        /// The allowed values.
        allowed: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// What was tried: `read` or `write`.
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
        /// The file, or the corpus to train on.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// A `preprocessor_config.json` cannot be followed.
    #[error("{}: {reason}", path.display())]
    Processor {
        /// The file.
        path: PathBuf,
        /// What is not supported.
        reason: String,
    },
    /// A split is empty, but samples of it are needed.
    #[error("the {split} split of {source_name} holds no samples{hint}")]
    Empty {
        /// `train` or `val`.
        split: &'static str,
        /// The source's own description.
        source_name: String,
        /// What to do about it, starting with a separator, or empty.
        hint: String,
    },
    /// The samples to evaluate have texts, but none of them describes its image.
    #[error(
        "none of {samples} samples has a text that describes its image (questions, statements and hypotheses do not), so there is \
         nothing to retrieve: {source_name}"
    )]
    NothingDescribes {
        /// How many samples there are.
        samples: usize,
        /// The source's own description.
        source_name: String,
    },
    /// A task finds nothing to predict.
    #[error(
        "nothing in the data has {wanted} ({left_out} texts are left out{}): {source_name}",
        rejected.as_ref().map(|first| format!("; the first unusable item: {first}")).unwrap_or_default()
    )]
    NothingToPredict {
        /// What texts are taken for.
        wanted: &'static str,
        /// The source's own description.
        source_name: String,
        /// Number of texts that were not taken.
        left_out: usize,
        /// The first unusable item.
        rejected: Option<String>,
    },
    /// More of the data set is unusable than the recipe tolerates.
    #[error(
        "{skipped} of {items} items are unusable, a share of {share:.4}; \
         `data.max_skipped` allows {allowed}. First: {first}{}. `data verify` names them. `data verify --clean LIST`, for images with captions, and `data pack` leave them out",
        list.as_ref().map(|path| format!(". All are listed in {}", path.display())).unwrap_or_default()
    )]
    TooManySkipped {
        /// Distinct items that were skipped.
        skipped: usize,
        /// Items in the data set.
        items: usize,
        /// `skipped / items`.
        share: f64,
        /// The allowed share.
        allowed: f64,
        /// The first skipped item and its reason.
        first: String,
        /// The file that lists them, if any.
        list: Option<PathBuf>,
    },
    /// Something could not be read, and retrying within bounds did not help. Nothing is recorded about it: a run resumed after the
    /// fault is mended continues with the same samples.
    #[error(
        "{place}: {reason}. It could not be read now, which says nothing of what is in it: it was neither skipped nor recorded; when \
         the fault is mended, go on as before (`--resume`)"
    )]
    Unavailable {
        /// What could not be read: a path or URL, and the line if a sample is defined there.
        place: String,
        /// What failed.
        reason: String,
    },
    /// A loader thread failed for a reason that is not one sample's fault.
    #[error("a loader thread stopped at batch {batch}: {reason}")]
    Worker {
        /// The batch that was being made.
        batch: u64,
        /// What happened.
        reason: String,
    },
}

impl DataError {
    /// A value of a recipe is not allowed.
    pub fn config(
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

    /// A file operation failed.
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

/// What a failed read says about the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadKind {
    /// It was read and cannot be used. Reading it again would not help.
    #[default]
    Damaged,
    /// It is not there. An image that a list names is then damaged; something that was there before is unavailable.
    Missing,
    /// It could not be read now: the network, the disk, a system limit or a permission. It may be sound.
    Unavailable,
}

/// Why something could not be read or used.
///
/// A string converts to the kind [`ReadKind::Damaged`], since most checks of contents have only a string to give. There is no
/// conversion back to a string, so the kind cannot get lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ReadError {
    /// What kind of failure it is.
    pub kind: ReadKind,
    /// What failed.
    pub reason: String,
}

impl From<String> for ReadError {
    fn from(reason: String) -> Self {
        Self {
            kind: ReadKind::Damaged,
            reason,
        }
    }
}

impl From<&str> for ReadError {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        // An error of our own stream came back through a decoder.
        if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::clone(own);
        }
        Self {
            kind: kind_of(&error),
            reason: error.to_string(),
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        Self::other(error)
    }
}

impl ReadError {
    /// An item that could not be read now.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self {
            kind: ReadKind::Unavailable,
            reason: reason.into(),
        }
    }

    /// Whether the item may be sound.
    pub fn is_unavailable(&self) -> bool {
        self.kind == ReadKind::Unavailable
    }

    /// The same failure for an item that was there before: if it is missing now, it is unavailable.
    #[must_use]
    pub fn of_opened(mut self) -> Self {
        if self.kind == ReadKind::Missing {
            self.kind = ReadKind::Unavailable;
        }
        self
    }

    /// The same failure with another reason.
    #[must_use]
    pub fn told(mut self, tell: impl FnOnce(&str) -> String) -> Self {
        self.reason = tell(&self.reason);
        self
    }
}

/// The kind of failure that an operating system's error means.
///
/// Only certain cases count as damage: a name that leads nowhere, contents that end early or are not text. Any other system error
/// (EIO, EMFILE, ENOMEM, ESTALE, EACCES, a time-out) says nothing about the file's contents.
fn kind_of(error: &io::Error) -> ReadKind {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound | Kind::NotADirectory => ReadKind::Missing,
        Kind::IsADirectory
        | Kind::InvalidFilename
        | Kind::InvalidInput
        | Kind::InvalidData
        | Kind::UnexpectedEof => ReadKind::Damaged,
        // An error that did not come from the system was made from a string.
        Kind::Other if error.raw_os_error().is_none() => ReadKind::Damaged,
        _ if is_loop(error) => ReadKind::Damaged,
        _ => ReadKind::Unavailable,
    }
}

/// Whether a path's symbolic links lead in a circle.
fn is_loop(error: &io::Error) -> bool {
    let number = match () {
        () if cfg!(any(target_os = "linux", target_os = "android")) => 40,
        () if cfg!(unix) => 62,
        () => 1921,
    };
    error.raw_os_error() == Some(number)
}

/// Whether a system error may pass by itself. Retrying helps against a limit or a hiccup, not against a missing permission or a
/// full disk.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    kind_of(error) == ReadKind::Unavailable
        && !matches!(
            error.kind(),
            Kind::PermissionDenied
                | Kind::StorageFull
                | Kind::QuotaExceeded
                | Kind::FileTooLarge
                | Kind::ReadOnlyFilesystem
        )
}

/// Why one sample cannot be used, and where it is defined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{place}: {reason}")]
pub struct SampleError {
    /// Where the sample is defined.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it is damaged or only could not be read. An unavailable sample is never written to a list.
    #[serde(skip)]
    pub kind: ReadKind,
}

impl SampleError {
    /// A sample that cannot be used. A missing file that a list names counts as damage.
    pub fn new(place: Place, error: impl Into<ReadError>) -> Self {
        let ReadError { kind, reason } = error.into();
        let kind = match kind {
            ReadKind::Damaged | ReadKind::Missing => ReadKind::Damaged,
            ReadKind::Unavailable => ReadKind::Unavailable,
        };
        Self {
            place,
            reason,
            kind,
        }
    }

    /// `None` for a damaged sample. A sample that only could not be read stays an error, since `None` would be a wrong answer.
    pub(crate) fn known<T>(found: Result<T, Self>) -> Result<Option<T>, Self> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_unavailable() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Whether the sample only could not be read, and may be sound.
    pub fn is_unavailable(&self) -> bool {
        self.kind == ReadKind::Unavailable
    }
}

impl DataError {
    /// The error for a required file that cannot be used.
    pub(crate) fn unread(path: &std::path::Path, error: ReadError) -> Self {
        if error.is_unavailable() {
            return Self::Unavailable {
                place: path.display().to_string(),
                reason: error.reason,
            };
        }
        Self::Manifest {
            path: path.to_owned(),
            reason: error.reason,
        }
    }

    /// A sample that could not be read.
    pub fn unavailable(error: &SampleError) -> Self {
        Self::Unavailable {
            place: error.place.to_string(),
            reason: error.reason.clone(),
        }
    }
}

/// The default value for a damaged sample.
///
/// # Errors
///
/// The sample could not be read now, so the default would be a wrong answer.
pub fn readable<T: Default>(found: Result<T, SampleError>) -> Result<T, DataError> {
    let known = SampleError::known(found).map_err(|error| DataError::unavailable(&error))?;
    Ok(known.unwrap_or_default())
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
