//! Observers of a training: the terminal, the run's JSON lines, TensorBoard. Steps and evaluations are reported here and nowhere
//! else.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unimo_report::record::{EvalRecord, StepRecord};

use crate::error::TrainError;
use crate::files;
use crate::progress::Progress;
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

    /// The training ends.
    fn finish(self: Box<Self>) {}
}

/// All observers, in order.
pub struct Observers(Vec<Box<dyn Observer>>);

impl Observers {
    /// The observers of a training.
    pub fn new(all: Vec<Box<dyn Observer>>) -> Self {
        Self(all)
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
    pub fn finish(self) {
        self.0.into_iter().for_each(Observer::finish);
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

    fn finish(self: Box<Self>) {
        self.0.finish();
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
pub struct TensorBoard(pub EventWriter);

/// Numbers of an objective that are counts, not curves.
const COUNTS: [&str; 3] = ["count", "left_out", "without_negative"];

impl TensorBoard {
    fn write(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<(), TrainError> {
        let path = self.0.path().to_owned();
        let mut scalars = scalars.iter();
        scalars
            .try_for_each(|(tag, value)| self.0.scalar(step, tag, *value as f32))
            .and_then(|()| self.0.flush())
            .map_err(TrainError::file("write", path))
    }
}

impl Observer for TensorBoard {
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        if !event.logged {
            return Ok(());
        }
        let record = event.record;
        let mut scalars = vec![
            ("train/loss".to_owned(), record.loss),
            ("train/lr".to_owned(), record.lr),
            ("train/grad_norm".to_owned(), record.grad_norm),
            ("speed/pairs_per_second".to_owned(), record.pairs_per_second),
            ("speed/wait_seconds".to_owned(), record.wait_seconds),
        ];
        for (objective, said) in &record.losses {
            let said = said.as_object().into_iter().flatten();
            let curves = said.filter(|(name, _)| !COUNTS.contains(&name.as_str()));
            // Without predictions there is no accuracy.
            let curves = curves.filter_map(|(name, value)| Some((name, Value::as_f64(value)?)));
            scalars.extend(curves.map(|(name, value)| (format!("{name}/{objective}"), value)));
        }
        self.write(record.step, &scalars)
    }

    fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError> {
        // Only the first record of each evaluator: the evaluation of all images after the last step is no curve.
        let mut seen = BTreeSet::new();
        let first = |record: &&EvalRecord| seen.insert(record.evaluator.clone());
        for record in records.iter().filter(first) {
            let path = self.0.path().to_owned();
            let written = self.0.evaluation(record);
            written.map_err(TrainError::file("write", path))?;
        }
        Ok(())
    }
}
