//! A run's folder: what was asked for, what happened, and the checkpoints.
//!
//! ```text
//! recipe.toml      the resolved recipe: train it again with `unimo train RUN/recipe.toml`
//! run.json         versions, device, start, size
//! sessions.jsonl   a line per start and resume: from which step, when, on which device
//! tokenizer.json   as trained or given
//! init.txt         what became of every tensor of the weights that `init` names
//! metrics.jsonl    a line per logged step        events.out.tfevents.*  the same for TensorBoard
//! evals.jsonl      a line per evaluation during training
//! evaluations.jsonl  a line per `unimo eval`
//! gates.json, gallery.json, gallery/             from the last evaluation
//! skipped.jsonl    samples that could not be used
//! checkpoints/     step-00000100.safetensors, ...
//! report.html
//! ```

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::write_atomically;
use crate::error::TrainError;
use crate::recipe::{Overrides, Recipe};
use crate::report::record::{EvalRecord, RetrievalRecord, SessionRecord, StepRecord};

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

/// How good the weights of a step are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The step.
    pub step: u64,
    /// Mean of R@1, R@5 and R@10 in both directions, by the best of the methods that all evaluations of the run score: a sixth of
    /// the field's "rsum". R@1 alone would be decided by a handful of queries on a small held-out set.
    pub score: f64,
}

impl Best {
    /// What an evaluation says.
    pub fn of(record: &EvalRecord) -> Self {
        let sums = record.retrieval.iter().map(RetrievalRecord::rsum);
        Self {
            step: record.step,
            score: record.score.unwrap_or(sums.fold(0.0, f64::max) / 6.0),
        }
    }
}

impl RunFolder {
    /// A new folder. One that holds a run already is an error: `--resume` goes on with it.
    pub fn create(path: &Path, recipe: &Recipe) -> Result<Self, TrainError> {
        let run = Self {
            path: path.to_owned(),
        };
        if run.recipe_path().exists() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: "holds a run already: go on with it by --resume, or give another --out"
                    .to_owned(),
            });
        }
        fs::create_dir_all(path).map_err(TrainError::file("create", path))?;
        run.write("recipe.toml", recipe.to_toml()?.as_bytes())?;
        Ok(run)
    }

    /// An existing run with its recipe.
    pub fn open(path: &Path) -> Result<(Self, Recipe), TrainError> {
        let run = Self {
            path: path.to_owned(),
        };
        let file = run.recipe_path();
        if !file.is_file() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: "is no run: it holds no recipe.toml".to_owned(),
            });
        }
        let text = fs::read_to_string(&file).map_err(TrainError::file("read", &file))?;
        let name = file.display().to_string();
        let recipe = Recipe::parse(&name, &text, Some(path), &Overrides::default())?;
        Ok((run, recipe))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn recipe_path(&self) -> PathBuf {
        self.join("recipe.toml")
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.join("checkpoints")
    }

    /// Writes a whole file, or nothing.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), TrainError> {
        write_atomically(&self.join(name), |temporary| {
            fs::write(temporary, content).map_err(TrainError::file("write", temporary))
        })
    }

    /// Writes a value as JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| self.json(name, &e))?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Adds a value to a JSON lines file.
    pub fn append(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let path = self.join(name);
        let mut line = serde_json::to_vec(value).map_err(|e| self.json(name, &e))?;
        line.push(b'\n');
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&line))
            .map_err(TrainError::file("write", &path))
    }

    /// Cuts what was logged after `step`, which a killed run did and a resumed run does again, and a last line that a
    /// kill cut short. Returns the seconds trained up to there.
    pub fn rewind(&self, step: u64) -> Result<f64, TrainError> {
        let mut seconds = 0.0;
        for name in ["metrics.jsonl", "evals.jsonl"] {
            let path = self.join(name);
            if !path.exists() {
                continue;
            }
            let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
            let text = String::from_utf8_lossy(&bytes);
            let mut kept = String::new();
            for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
                    continue;
                };
                if value["step"].as_u64().is_some_and(|s| s <= step) {
                    kept.push_str(line);
                    seconds = value["elapsed_seconds"].as_f64().unwrap_or(seconds);
                }
            }
            if kept.as_bytes() != bytes {
                self.write(name, kept.as_bytes())?;
            }
        }
        Ok(seconds)
    }

    /// The best evaluation so far; of equal ones the first, which is the one whose weights were kept.
    pub fn best(&self) -> Result<Option<Best>, TrainError> {
        Ok(self
            .evaluations()?
            .iter()
            .map(Best::of)
            .reduce(|best, next| if next.score > best.score { next } else { best }))
    }

    /// Every evaluation during training, in order.
    pub fn evaluations(&self) -> Result<Vec<EvalRecord>, TrainError> {
        self.lines("evals.jsonl")
    }

    /// Every start and resume so far, the first one first.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, TrainError> {
        self.lines("sessions.jsonl")
    }

    /// The values in a JSON lines file, none where there is no file. A line that a kill cut short is left out.
    fn lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, TrainError> {
        let path = self.join(name);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn json(&self, name: &str, error: &serde_json::Error) -> TrainError {
        TrainError::Run {
            path: self.join(name),
            reason: error.to_string(),
        }
    }

    /// Adds a step to `metrics.jsonl`.
    pub fn log(&self, record: &StepRecord) -> Result<(), TrainError> {
        self.append("metrics.jsonl", record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::BUILT_IN;

    #[test]
    fn rewinding_cuts_later_steps_and_half_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let run = RunFolder::create(folder.path(), &recipe).unwrap();
        let lines =
            "{\"step\":10,\"elapsed_seconds\":1.5}\n{\"step\":20,\"elapsed_seconds\":3}\n{\"st";
        fs::write(run.join("metrics.jsonl"), lines).unwrap();
        assert_eq!(run.rewind(10).unwrap(), 1.5);
        let left = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(left, "{\"step\":10,\"elapsed_seconds\":1.5}\n");
    }

    #[test]
    fn the_best_is_the_first_of_equals() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let run = RunFolder::create(folder.path(), &recipe).unwrap();
        assert_eq!(run.best().unwrap(), None);
        let recall = |r1: f64| format!("{{\"r1\":{r1},\"r5\":1,\"r10\":1,\"median_rank\":1}}");
        let lines: String = [(10, 0.1), (20, 0.3), (30, 0.2), (40, 0.3)]
            .iter()
            .map(|(step, r1)| {
                let r = recall(*r1);
                format!(
                    "{{\"step\":{step},\"split\":\"val\",\"images\":1,\"texts\":1,\"retrieval\":[{{\"method\":\"itc\",\"text_to_image\":{r},\"image_to_text\":{r}}}]}}\n"
                )
            })
            .collect();
        fs::write(run.join("evals.jsonl"), lines).unwrap();
        assert_eq!(run.best().unwrap().unwrap().step, 20);
        let evaluated = |step| run.evaluations().unwrap().iter().any(|e| e.step == step);
        assert!(evaluated(40) && !evaluated(50));
    }

    #[test]
    fn a_run_is_not_overwritten_and_a_folder_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        assert!(RunFolder::open(folder.path()).is_err());
        RunFolder::create(folder.path(), &recipe).unwrap();
        let error = RunFolder::create(folder.path(), &recipe).unwrap_err();
        assert!(error.to_string().contains("--resume"));
        assert_eq!(RunFolder::open(folder.path()).unwrap().1, recipe);
    }
}
