//! Observers of a training: the terminal, the run's JSON lines, TensorBoard, MLflow. Steps and evaluations are reported here and nowhere
//! else.

pub mod mlflow;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use unimo_report::record::{EvalRecord, StepRecord};

use crate::curves;
use crate::error::TrainError;
use crate::files;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::recipe::overrides::flat;
use crate::tensorboard::EventWriter;

/// An optimiser step that is done.
#[derive(Debug)]
pub struct StepEvent<'a> {
    /// Its record.
    pub record: &'a StepRecord,
    /// Whether it is logged (`train.log_every`).
    pub logged: bool,
}

/// An observer of a training.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError>;

    /// Weights were evaluated. `records` has one record per evaluator and set; the first holds the numbers that every evaluation
    /// gives.
    fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError>;

    /// A message for a person.
    fn message(&mut self, _line: &str) {}

    /// The training ends, after its last step.
    fn finish(self: Box<Self>) -> Result<(), TrainError> {
        Ok(())
    }
}

/// All observers, in order.
pub struct Observers(Vec<Box<dyn Observer>>);

impl Observers {
    /// The observers of a training.
    pub fn new(all: Vec<Box<dyn Observer>>) -> Self {
        Self(all)
    }

    /// Adds further ones behind those that are there.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Box<dyn Observer>>) {
        self.0.extend(others);
    }

    /// Reports a step.
    pub fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        self.0.iter_mut().try_for_each(|o| o.step(event))
    }

    /// Reports an evaluation.
    pub fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError> {
        self.0.iter_mut().try_for_each(|o| o.evaluation(records))
    }

    /// Reports a message for a person.
    pub fn message(&mut self, line: impl fmt::Display) {
        let line = line.to_string();
        self.0.iter_mut().for_each(|o| o.message(&line));
    }

    /// Reports the end of the training.
    pub fn finish(self) -> Result<(), TrainError> {
        self.0.into_iter().try_for_each(Observer::finish)
    }
}

/// The terminal: a progress line, and messages above it.
pub struct Terminal(pub Progress);

impl Observer for Terminal {
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        let record = event.record;
        let (loss, speed) = (Some(record.loss), record.pairs_per_second);
        self.0.update(record.step, loss, speed);
        Ok(())
    }

    fn evaluation(&mut self, _records: &[EvalRecord]) -> Result<(), TrainError> {
        Ok(())
    }

    fn message(&mut self, line: &str) {
        self.0.message(line);
    }

    fn finish(self: Box<Self>) -> Result<(), TrainError> {
        self.0.finish();
        Ok(())
    }
}

/// The run folder's `metrics.jsonl` and `evals.jsonl`.
pub struct JsonLines {
    folder: PathBuf,
}

impl JsonLines {
    /// The files in this folder.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }
}

impl Observer for JsonLines {
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        if !event.logged {
            return Ok(());
        }
        files::append_json(&self.folder.join("metrics.jsonl"), event.record)
    }

    fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError> {
        let path = self.folder.join("evals.jsonl");
        let mut records = records.iter();
        records.try_for_each(|record| files::append_json(&path, record))
    }
}

/// TensorBoard's event file.
pub struct TensorBoard {
    events: EventWriter,
    /// Names of the stages; empty if the recipe has none.
    stages: Vec<String>,
    /// The stage of the last step that was logged.
    stage: Option<usize>,
}

impl TensorBoard {
    /// Begins with the recipe's values as hyperparameters.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn new(mut events: EventWriter, recipe: &Recipe) -> Result<Self, TrainError> {
        let table = recipe.to_toml()?.parse().unwrap_or_default();
        let path = events.path().to_owned();
        let values = flat(&table).into_iter().collect::<Vec<_>>();
        events
            .hyperparameters(&values)
            .and_then(|()| events.flush())
            .map_err(TrainError::file("write", path))?;
        let stages = recipe.stage.iter();
        Ok(Self {
            events,
            stages: stages.map(|stage| stage.name.clone()).collect(),
            stage: None,
        })
    }

    fn write(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), TrainError> {
        let path = self.events.path().to_owned();
        let mut scalars = scalars.iter();
        scalars
            .try_for_each(|(tag, value)| self.events.scalar(step, tag, *value as f32))
            .and_then(|()| self.events.flush())
            .map_err(TrainError::file("write", path))
    }
}

impl Observer for TensorBoard {
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        if !event.logged {
            return Ok(());
        }
        let record = event.record;
        let mut scalars = curves::of_step(record);
        if let Some(stage) = self.stages.iter().position(|stage| *stage == record.stage) {
            scalars.push(("train/stage".to_owned(), (stage + 1) as f64));
            if self.stage != Some(stage) {
                self.stage = Some(stage);
                let begins = format!(
                    "stage {} of {}: {}",
                    stage + 1,
                    self.stages.len(),
                    record.stage
                );
                let path = self.events.path().to_owned();
                let written = self.events.text(record.step, "stage", &begins);
                written.map_err(TrainError::file("write", path))?;
            }
        }
        self.write(record.step, &scalars)
    }

    fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError> {
        // Only the first record of each evaluator: the evaluation of all images after the last step is no curve.
        let mut seen = BTreeSet::new();
        let first = |record: &&EvalRecord| seen.insert(record.evaluator.clone());
        for record in records.iter().filter(first) {
            let path = self.events.path().to_owned();
            let written = self.events.evaluation(record);
            written.map_err(TrainError::file("write", path))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), TrainError> {
        let path = self.events.path().to_owned();
        let written = self.events.session_ends();
        written.map_err(TrainError::file("write", path))
    }
}
