//! Evaluations between steps.

use burn::module::Module;
use unimo_report::record::scored_otherwise;

use super::Trainer;
use crate::error::TrainError;
use crate::evaluators::{self, Weights};
use crate::interrupt;
use crate::ranks;

impl Trainer {
    /// Evaluates, unless a signal asks to stop before or during the evaluation. Returns whether the evaluation is still to be done.
    pub(super) fn evaluate_unless_stopped(&mut self, last: bool) -> Result<bool, TrainError> {
        if self.is_asked_to_end() {
            return Ok(true);
        }
        let evaluated = self.evaluate(last);
        let evaluated = if self.world.is_alone() {
            evaluated
        } else {
            let asked = self.world.gather("signals", interrupt::asked())?;
            self.asked_to_end |= asked.contains(&true);
            ranks::all(&self.world, "the evaluation", evaluated)
        };
        match evaluated {
            Err(_) if self.is_asked_to_end() => Ok(true),
            result => result.map(|()| false),
        }
    }

    /// Evaluates the current weights. An error ends the run only after its last step: days of training are worth more than one
    /// evaluation.
    pub(super) fn evaluate(&mut self, last: bool) -> Result<(), TrainError> {
        match self.try_evaluate(last) {
            Err(error) if !last && !interrupt::asked() => {
                let step = self.state().step;
                self.observers.message(format_args!(
                    "step {step} could not be evaluated, training goes on: {error}"
                ));
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn try_evaluate(&mut self, last: bool) -> Result<(), TrainError> {
        let state = self.state();
        let step = state.step;
        let model = state.ema.as_ref().unwrap_or(&state.model).valid();
        let device = self.device.clone().without_autodiff();
        let weights = Weights {
            model: &model,
            device: &device,
            recipe: &self.recipe,
            tokenizer: &self.tokenizer,
            step,
            last,
            run: Some(&self.run).filter(|run| !run.is_elsewhere()),
            quiet: self.quiet,
            world: &self.world,
        };
        let done = ranks::first(&self.world, "earlier evaluations", || {
            self.run.evaluations()
        })?;
        let mut records = Vec::new();
        for evaluator in &self.evaluators {
            // A run that was killed has some of the records already.
            if evaluator.is_owed(&done, step, last) {
                let say = &mut |line: String| self.observers.message(line);
                records.extend(evaluator.evaluate(&weights, say)?);
            }
        }
        evaluators::select(&self.recipe, &mut records);
        if let Some(line) = scored_otherwise(&done, &records) {
            self.observers.message(line);
        }
        self.observers.evaluation(&records)?;
        self.best = self.run.best()?;
        Ok(())
    }
}
