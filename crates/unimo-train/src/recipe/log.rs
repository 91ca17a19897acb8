//! `[log]`: where a run is written besides its own folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The folder of an MLflow file store, such as `mlruns`, that the run's numbers and settings are written into as well; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<PathBuf>,
    /// The name of MLflow's experiment, which is begun if it is not there.
    #[serde(default = "default_experiment")]
    pub experiment: String,
}

fn default_experiment() -> String {
    "unimo".to_owned()
}

impl LogConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            !self.experiment.trim().is_empty() && !self.experiment.contains('\n'),
            "experiment",
            format_args!("{:?}", self.experiment),
            "must be a name of one line",
        )?;
        let given = self.mlflow.as_ref().map(|path| path.to_string_lossy());
        ConfigError::unless(
            !given.as_ref().is_some_and(|given| given.contains("://")),
            "mlflow",
            format_args!("{:?}", given.unwrap_or_default()),
            "must be a folder: a server is given the run afterwards by MLflow's own tools",
        )
    }

    pub(crate) fn rebase(&mut self, folder: &Path) {
        if let Some(path) = &mut self.mlflow {
            *path = folder.join(&path);
        }
    }
}
