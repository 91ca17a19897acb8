//! The errors that can end a command, each with one clear message.

use std::fmt;
use std::path::PathBuf;

use unimo_batch::ConfigError;
use unimo_core::world::Lost;
use unimo_data::DataError;
use unimo_encoders::import::ImportError;
use unimo_encoders::public::{LoadError, PublicConfigError};
use unimo_encoders::weights::WeightsError;
use unimo_eval::EvalError;
use unimo_report::ReportError;

use crate::program;

/// An error of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: `line 12`, `--set KEY=VALUE`; `None` if neither the file nor the command line has the key.
    pub place: Option<String>,
    /// The key, what is wrong and what is allowed.
    pub told: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.told),
            None => f.write_str(&self.told),
        }
    }
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There is no recipe of that name and no file at that path.
    #[error("there is no recipe `{given}`{meant}: give a path to a .toml file or one of {known}")]
    UnknownRecipe {
        /// The argument.
        given: String,
        /// A recipe with a similar name, as a question in brackets, or nothing.
        meant: String,
        /// The names of the built-in recipes.
        known: String,
    },
    /// The recipe is not TOML, or has an unknown key or value.
    #[error("{file}: {reason}")]
    Recipe {
        /// File or recipe name.
        file: String,
        /// The key, what is wrong and what is allowed.
        reason: String,
    },
    /// All that is wrong with a recipe.
    #[error("{}", listed(file, problems))]
    Problems {
        /// File or recipe name.
        file: String,
        /// The errors, at least one.
        problems: Vec<Problem>,
    },
    /// A value of the recipe is not allowed.
    #[error("{file}: {error}")]
    Value {
        /// File or recipe name.
        file: String,
        /// The key, the value and what is allowed.
        error: ConfigError,
    },
    /// An override is not `key=value`.
    #[error("--set {given}: {reason}")]
    Override {
        /// The argument.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of labels cannot be used.
    #[error("labels of {}: {reason}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// The input of an evaluator cannot be used.
    #[error("{key} = \"{}\": {reason}", path.display())]
    Evaluator {
        /// The setting that names it.
        key: String,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A device is unknown, not built in or not available.
    #[error("--device {given}: {reason}")]
    Device {
        /// The argument.
        given: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The attempted action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A folder is not a run, or is already used.
    #[error("{}: {reason}", path.display())]
    Run {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Arguments that should be runs are none.
    #[error("{}", .0.join("; "))]
    NotRuns(Vec<String>),
    /// A checkpoint cannot be loaded.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A loss or gradient is not finite.
    #[error(
        "step {step}: {what} is not finite. Samples of the batch: {samples}. {}",
        last_good.as_ref().map_or("No checkpoint was written yet.".to_owned(), |path| format!("Last good checkpoint: {}", path.display()))
    )]
    NotFinite {
        /// The step that failed, counted from 1.
        step: u64,
        /// The loss, by objective, or the gradient.
        what: String,
        /// Names of the batch's samples.
        samples: String,
        /// The checkpoint to go back to.
        last_good: Option<PathBuf>,
    },
    /// No objective can run on the loader's batches.
    #[error(
        "step {step}: no objective could run on the batch; each lacked something: {objectives}"
    )]
    NothingToTrain {
        /// The step, counted from 1.
        step: u64,
        /// Keys of the objectives.
        objectives: String,
    },
    /// A public checkpoint is not found here and cannot be fetched.
    #[error("{given}: {reason}")]
    Hub {
        /// The argument.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// An error in a public checkpoint's `config.json`.
    #[error(transparent)]
    PublicConfig(#[from] PublicConfigError),
    /// An error in a file of weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Public weights do not fit.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error of the evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// An error of the report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A signal asked for the end, and the current work was given up.
    #[error("ended by a signal")]
    Interrupted,
    /// A signal asked a training to end, and it has saved its state.
    #[error(
        "ended by a signal after step {step} of {steps}, which is saved. Go on with: {} train --resume {}",
        program::name(),
        run.display()
    )]
    Stopped {
        /// The step that is saved.
        step: u64,
        /// The steps of the run.
        steps: u64,
        /// The run's folder.
        run: PathBuf,
    },
    /// A signal asked a sweep to end; what it has trained is saved.
    #[error(
        "ended by a signal; {done} of {all} runs are finished, and the current one is saved. Go on with: {} sweep {}",
        program::name(),
        file.display()
    )]
    SweepStopped {
        /// Finished runs.
        done: usize,
        /// All runs.
        all: usize,
        /// The sweep's file.
        file: PathBuf,
    },
    /// Runs of a sweep failed; the others went on.
    #[error("{} of {all} runs failed, for the reasons above: {}", runs.len(), runs.join(", "))]
    SweepFailed {
        /// Their names.
        runs: Vec<String>,
        /// All runs.
        all: usize,
    },
    /// A checkpoint could not be written.
    #[error(
        "step {step} cannot be saved: {error}. {}; when that is mended, go on with: {} train --resume {}",
        last_good.as_ref().map_or("No checkpoint was written yet".to_owned(), |path| format!("The last checkpoint is whole: {}", path.display())),
        program::name(),
        run.display()
    )]
    Unsaved {
        /// The step.
        step: u64,
        /// The reason.
        error: Box<TrainError>,
        /// The checkpoint before it.
        last_good: Option<PathBuf>,
        /// The run's folder.
        run: PathBuf,
    },
    /// The ranks cannot train together.
    #[error("{0}")]
    Ranks(String),
    /// Another rank failed.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// Which.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// An error that all ranks know of: each says it and ends.
    #[error(transparent)]
    OfAll(Box<TrainError>),
    /// The ranks cannot reach each other.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// A comparison of backends or a torture run failed.
    #[error("{0}")]
    Check(String),
}

/// The errors of a recipe: one on the same line as the file, several below it.
fn listed(file: &str, problems: &[Problem]) -> String {
    match problems {
        [Problem { place: None, told }] => format!("{file}: {told}"),
        [problem] => format!("{file}, {problem}"),
        _ => {
            let lines = problems.iter().map(|problem| format!("\n  {problem}"));
            format!(
                "{file} has {} errors:{}",
                problems.len(),
                lines.collect::<String>()
            )
        }
    }
}

impl TrainError {
    /// A value of the run's own recipe that is not allowed.
    pub fn of_recipe(error: ConfigError) -> Self {
        Self::Value {
            file: "recipe".to_owned(),
            error,
        }
    }

    /// A failed file operation.
    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

impl From<LoadError> for TrainError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Config(error) => Self::PublicConfig(error),
            LoadError::Weights(error) => Self::Weights(error),
            LoadError::Import(error) => Self::Import(error),
        }
    }
}
