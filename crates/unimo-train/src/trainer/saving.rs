//! Checkpoints, and the end of a run.

use std::path::PathBuf;

use unimo_report::record::found_when;

use super::Trainer;
use crate::checkpoint;
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::ranks;
use crate::ranks::moments;
use crate::report;

impl Trainer {
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        if self.owners.is_none() {
            return self.save_whole();
        }
        // A checkpoint holds the moments of all ranks, so that any number of them goes on from it.
        let blank = Optimizer::new(&self.recipe.train.optimizer, &self.recipe.model);
        let device = self.device.clone().without_autodiff();
        let state = self.state();
        let whole = moments::of_all(
            &self.world,
            (&state.optimizer, blank),
            &state.model,
            &device,
        )?;
        let own = self.exchange_optimizer(whole);
        let saved = self.save_whole();
        self.exchange_optimizer(own);
        saved
    }

    /// Puts another optimiser in the place of the state's, which is returned.
    pub(super) fn exchange_optimizer(&mut self, other: Optimizer) -> Optimizer {
        let state = self.state.as_mut();
        let state = state.expect("invariant: the state is back after every step");
        std::mem::replace(&mut state.optimizer, other)
    }

    pub(super) fn save_whole(&mut self) -> Result<(), TrainError> {
        let folder = self.run.checkpoints();
        let failed = self.failed.take();
        let saved = ranks::first(&self.world, "the checkpoint of rank 0", || {
            let apart = self.recipe.train.frozen_apart;
            let apart = |name: &str| apart && self.freezing.never_learns(name);
            let saved = checkpoint::save_apart(&folder, self.state(), &self.begun, &apart);
            let saved = saved.map_err(|error| TrainError::Unsaved {
                step: self.state().step,
                error: Box::new(error),
                last_good: self.last_good.clone(),
                run: self.run.path().to_owned(),
            })?;
            failed.map_or(Ok(saved), Err)
        })?;
        self.last_good = Some(saved);
        Ok(())
    }

    /// Removes the checkpoints that the recipe does not keep.
    pub(super) fn prune(&self) -> Result<(), TrainError> {
        let best = self.best.map(|b| b.step);
        ranks::first(&self.world, "old checkpoints", || {
            checkpoint::prune(&self.run.checkpoints(), self.recipe.train.keep_last, best)
        })
    }

    pub(super) fn finish(self) -> Result<PathBuf, TrainError> {
        let world = self.world.clone();
        ranks::first(&world, "the report by rank 0", || self.finish_run())
    }

    pub(super) fn finish_run(self) -> Result<PathBuf, TrainError> {
        let folder = self.run.path().to_owned();
        let report = if self.train_only {
            None
        } else {
            Some(report::write(&folder)?)
        };
        let mut observers = self.observers;
        let lists = self.run.skipped()?;
        let when = match lists.as_slice() {
            // Of several lists, those of stages, it is not known which items were found when.
            [(_, count)] => found_when(self.source.rejected().len(), *count),
            _ => String::new(),
        };
        for (list, count) in &lists {
            observers.message(format_args!(
                "{count} samples were skipped{when}: {}",
                list.display()
            ));
        }
        if let Some(report) = report {
            observers.message(format_args!("report: {}", report.display()));
        }
        observers.finish()?;
        Ok(folder)
    }
}
