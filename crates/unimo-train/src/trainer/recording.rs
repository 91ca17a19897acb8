//! What a session writes into the run's folder before its first step.
//!
//! Nothing is written while a run is opened and checked, so that a start that is refused leaves the folder as it was.

use serde_json::Value;
use unimo_report::record::SessionRecord;

use super::Trainer;
use crate::clock::now;
use crate::error::TrainError;
use crate::observers::mlflow::MlFlow;
use crate::observers::{JsonLines, Observer, TensorBoard};
use crate::ranks;
use crate::resuming;
use crate::tensorboard::EventWriter;

/// What a session of a run changes on purpose.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The values, `key: old -> new`.
    pub changed: Vec<String>,
    /// Of these, those that only an evaluation reads.
    pub for_evaluations: Vec<String>,
    /// The recipe that is replaced, in TOML.
    pub replaced: Option<String>,
}

/// What is known of a session before its first step, and not written yet.
pub(super) struct Unrecorded {
    pub session: Session,
    /// What became of the weights that `init` names, of a run that begins.
    pub init: Option<String>,
    /// `run.json`, of a run that begins.
    pub facts: Option<Value>,
    /// `rates.txt`.
    pub rates: String,
}

impl Trainer {
    /// Checks that an evaluation is left for what only evaluations read, if a finished run was given such changes.
    pub(super) fn check_used(&self, owed: bool) -> Result<(), TrainError> {
        let changes = self.unrecorded.as_ref();
        let changes = changes.map(|u| u.session.for_evaluations.as_slice());
        let changes = changes.unwrap_or_default();
        let done = self.state().step;
        if owed || done < self.recipe.train.steps || changes.is_empty() {
            return Ok(());
        }
        Err(resuming::nothing_uses(self.run.path(), done, changes))
    }

    /// Writes what the run goes on with, and its session, once. What was logged after the checkpoint is logged again from here on.
    pub(super) fn record(&mut self) -> Result<(), TrainError> {
        let Some(unrecorded) = self.unrecorded.take() else {
            return Ok(());
        };
        let recorded = self.write_session(unrecorded);
        ranks::all(&self.world, "the record of the session", recorded)
    }

    fn write_session(&mut self, unrecorded: Unrecorded) -> Result<(), TrainError> {
        let run = &self.run;
        if run.is_elsewhere() {
            return Ok(());
        }
        let step = self.state().step;
        if let Some(account) = &unrecorded.init {
            run.write("init.txt", account.as_bytes())?;
        }
        if let Some(facts) = &unrecorded.facts {
            run.write_json("run.json", facts)?;
        }
        self.before = run.rewind(step)?;
        self.best = run.best()?;
        // What is outside the folder may be refused: it is opened first.
        let mlflow = MlFlow::open(run, &self.recipe)?;
        let events = if run.sessions()?.is_empty() {
            EventWriter::create(run.path())
        } else {
            EventWriter::resume(run.path(), step + 1)
        };
        let events = events.map_err(TrainError::file("write", run.path()))?;
        let mut observers: Vec<Box<dyn Observer>> = vec![
            Box::new(JsonLines::new(run.path())),
            Box::new(TensorBoard::new(events, &self.recipe)?),
        ];
        if let Some(mlflow) = mlflow {
            let line = format!("MLflow: {}", mlflow.folder().display());
            self.observers.message(line);
            observers.push(Box::new(mlflow));
        }
        let Unrecorded { session, rates, .. } = unrecorded;
        resuming::record(run, &self.recipe, &self.begun, session.replaced)?;
        run.write("rates.txt", rates.as_bytes())?;
        run.append(
            "sessions.jsonl",
            &SessionRecord {
                after_step: step,
                at: now(),
                device: self.choice.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                changed: session.changed,
            },
        )?;
        self.observers.extend(observers);
        Ok(())
    }
}
