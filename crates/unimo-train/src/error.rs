//! What can end a command, one clear message each.

use std::path::PathBuf;

use unimo_batch::ConfigError;
use unimo_data::DataError;
use unimo_encoders::import::ImportError;
use unimo_encoders::public::{LoadError, PublicConfigError};
use unimo_encoders::weights::WeightsError;
use unimo_eval::EvalError;
use unimo_report::ReportError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// No recipe of that name, no file at that path.
    #[error("there is no recipe `{given}`: give a path to a .toml file or one of {known}")]
    UnknownRecipe {
        /// What was given.
        given: String,
        /// The names that there are.
        known: String,
    },
    /// The recipe is not TOML, or a key or value in it is not known.
    #[error("{file}: {reason}")]
    Recipe {
        /// File or recipe name.
        file: String,
        /// Key, what is wrong and what is allowed.
        reason: String,
    },
    /// A value in the recipe that cannot be.
    #[error("{file}: {error}")]
    Value {
        /// File or recipe name.
        file: String,
        /// Key, value and what is allowed.
        error: ConfigError,
    },
    /// An override that is not `key=value`.
    #[error("--set {given}: {reason}")]
    Override {
        /// What was given.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// What an evaluator reads cannot be used.
    #[error("{key} = \"{}\": {reason}", path.display())]
    Evaluator {
        /// The setting that names it.
        key: String,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A device that is not known, not built in or not there.
    #[error("--device {given}: {reason}")]
    Device {
        /// What was given.
        given: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A folder that is no run, or one that is already used.
    #[error("{}: {reason}", path.display())]
    Run {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that cannot be loaded.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A loss or gradient that is no number.
    #[error(
        "step {step}: {what} is not finite. Samples of the batch: {samples}. {}",
        last_good.as_ref().map_or("No checkpoint was written yet.".to_owned(), |path| format!("Last good checkpoint: {}", path.display()))
    )]
    NotFinite {
        /// The step that failed, counted from 1.
        step: u64,
        /// Loss by objective, or the gradient.
        what: String,
        /// Names of the batch's samples.
        samples: String,
        /// Where to go back to.
        last_good: Option<PathBuf>,
    },
    /// No objective can run on what the loader gives.
    #[error(
        "step {step}: no objective could run on the batch; each lacked something: {objectives}"
    )]
    NothingToTrain {
        /// The step, counted from 1.
        step: u64,
        /// Keys of the objectives.
        objectives: String,
    },
    /// A checkpoint that is neither here nor to be had.
    #[error("{given}: {reason}")]
    Hub {
        /// What was given.
        given: String,
        /// What is wrong.
        reason: String,
    },
    /// From a public checkpoint's `config.json`.
    #[error(transparent)]
    PublicConfig(#[from] PublicConfigError),
    /// From a file of weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Public weights that do not fit.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// From the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// From the evaluation.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// From the report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A signal asked for the end, and what was being done was given up.
    #[error("ended by a signal")]
    Interrupted,
    /// A signal asked a training to end, which has saved what it did.
    #[error(
        "ended by a signal after step {step} of {steps}, which is saved. Go on with: unimo train --resume {}",
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
    /// A checkpoint that could not be written.
    #[error(
        "step {step} cannot be saved: {error}. {}; when that is mended, go on with: unimo train --resume {}",
        last_good.as_ref().map_or("No checkpoint was written yet".to_owned(), |path| format!("The last checkpoint is whole: {}", path.display())),
        run.display()
    )]
    Unsaved {
        /// The step.
        step: u64,
        /// Why.
        error: Box<TrainError>,
        /// The checkpoint before it.
        last_good: Option<PathBuf>,
        /// The run's folder.
        run: PathBuf,
    },
    /// A check that compares backends failed, or a torture run.
    #[error("{0}")]
    Check(String),
}

impl TrainError {
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
