//! A model as a user names it: a run, a checkpoint of a run, or a public checkpoint.

use std::path::{Path, PathBuf};

use unimo_encoders::weights::SafetensorsFile;

use crate::checkpoint;
use crate::error::TrainError;
use crate::hub;

/// A model that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// A run, with or without one of its checkpoints.
    Run {
        /// Its folder.
        folder: PathBuf,
        /// The step of the checkpoint.
        step: Option<u64>,
    },
    /// A folder or file of a public checkpoint, or of an export.
    Public(PathBuf),
}

/// The file that makes a folder a run.
const RECIPE: &str = "recipe.toml";

/// Finds a model: a run's folder, its folder of checkpoints or a file in it, a public checkpoint's folder or file, or a Hugging
/// Face id, which is fetched. `step` is the value of `--step`.
///
/// # Errors
///
/// The model does not exist or cannot be fetched, or `step` is given for a model without steps.
pub fn find(given: &str, step: Option<u64>) -> Result<Given, TrainError> {
    let path = Path::new(given);
    if path.exists()
        && let Some(run) = run(path)?
    {
        let Given::Run {
            folder,
            step: named,
        } = run
        else {
            return Ok(run);
        };
        if let (Some(step), Some(named)) = (step, named)
            && step != named
        {
            return Err(TrainError::Check(format!(
                "--step {step}: {given} is the checkpoint of step {named}; give the run's folder or leave --step out"
            )));
        }
        return Ok(Given::Run {
            folder,
            step: named.or(step),
        });
    }
    if step.is_some() {
        return Err(TrainError::Check(format!(
            "--step is for runs, and {given} is none"
        )));
    }
    Ok(Given::Public(hub::resolve(given)?))
}

/// The run that a path is or lies in; `None` if it is not part of a run.
fn run(path: &Path) -> Result<Option<Given>, TrainError> {
    let is_run = |folder: &Path| folder.join(RECIPE).is_file();
    let found = |folder: &Path, step| {
        Ok(Some(Given::Run {
            folder: folder.to_owned(),
            step,
        }))
    };
    let lacks = |reason: &str| TrainError::Checkpoint {
        path: path.to_owned(),
        reason: format!(
            "{reason}, and the {RECIPE} of the run is not there: a checkpoint is read where it was written, in \
             RUN/checkpoints; `unimo export` writes models that stand alone"
        ),
    };
    if path.is_dir() {
        if is_run(path) {
            return found(path, None);
        }
        if checkpoint::steps(path)?.is_empty() {
            return Ok(None);
        }
        // A folder of checkpoints lies in its run; `..` is for a folder that is given as `.`.
        return match [parent(path), path.join("..")].iter().find(|p| is_run(p)) {
            Some(folder) => found(folder, None),
            None => Err(lacks("is a folder of a run's checkpoints")),
        };
    }
    if path.file_name().is_some_and(|name| name == RECIPE) {
        return found(&parent(path), None);
    }
    // Only a run's checkpoint has this note.
    let note = SafetensorsFile::looks_like(path)
        .is_ok_and(|looks| looks)
        .then(|| SafetensorsFile::open(path).ok())
        .flatten();
    let is_checkpoint = note
        .as_ref()
        .and_then(|file| file.note("format"))
        .is_some_and(|format| format.starts_with("unimo-checkpoint"));
    if !is_checkpoint {
        return Ok(None);
    }
    let folder = parent(path);
    let run = [parent(&folder), folder.join("..")]
        .into_iter()
        .find(|folder| is_run(folder));
    match (run, checkpoint::step_of(path)) {
        (Some(run), Some(step)) => found(&run, Some(step)),
        (Some(_), None) => Err(TrainError::Checkpoint {
            path: path.to_owned(),
            reason: "is a checkpoint under another name than its run gave it, step-00000100.safetensors or the like: rename it"
                .to_owned(),
        }),
        (None, _) => Err(lacks("is a checkpoint of a run")),
    }
}

/// The folder above; `.` if the path has no other part.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.join(".."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, format: &str) {
        let notes = std::collections::HashMap::from([("format".to_owned(), format.to_owned())]);
        let none: Vec<(String, safetensors::tensor::TensorView<'_>)> = Vec::new();
        safetensors::serialize_to_file(none, Some(notes), path).unwrap();
    }

    #[test]
    fn runs_are_found_by_all_that_is_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let checkpoints = run.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).unwrap();
        std::fs::write(run.join(RECIPE), "").unwrap();
        let step = checkpoints.join("step-00000007.safetensors");
        file(&step, "unimo-checkpoint-1");
        let found = |path: &Path, step| find(&path.display().to_string(), step);
        let expected = |step| Given::Run {
            folder: run.clone(),
            step,
        };
        assert_eq!(found(&run, None).unwrap(), expected(None));
        assert_eq!(found(&run, Some(3)).unwrap(), expected(Some(3)));
        assert_eq!(found(&checkpoints, None).unwrap(), expected(None));
        assert_eq!(found(&step, None).unwrap(), expected(Some(7)));
        assert_eq!(found(&step, Some(7)).unwrap(), expected(Some(7)));
        assert_eq!(found(&run.join(RECIPE), None).unwrap(), expected(None));
        let message = found(&step, Some(8)).unwrap_err().to_string();
        assert!(message.contains("step 7"), "{message}");

        let alone = folder.path().join("step-00000007.safetensors");
        std::fs::copy(&step, &alone).unwrap();
        let message = found(&alone, None).unwrap_err().to_string();
        assert!(message.contains("recipe.toml"), "{message}");
        let message = found(folder.path(), None).unwrap_err().to_string();
        assert!(message.contains("recipe.toml"), "{message}");
        let other = checkpoints.join("best.safetensors");
        std::fs::copy(&step, &other).unwrap();
        let message = found(&other, None).unwrap_err().to_string();
        assert!(message.contains("rename"), "{message}");

        let public = run.join("model.safetensors");
        file(&public, "pt");
        assert_eq!(found(&public, None).unwrap(), Given::Public(public.clone()));
        let message = found(&public, Some(1)).unwrap_err().to_string();
        assert!(message.contains("--step is for runs"), "{message}");
    }
}
