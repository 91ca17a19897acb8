//! What learns in a stage, and the kept features of what does not.

use unimo_core::parameters;

use super::Trainer;
use crate::error::TrainError;
use crate::kept::{self, Features, KeptEncoders};
use crate::model::Model;
use crate::ranks::moments::Owners;
use crate::ranks::plan::Plan;
use crate::recipe::stages::Stage;

impl Trainer {
    /// Lets that learn what learns in a stage, and says what does not.
    pub(super) fn freeze(&mut self, stage: &Stage) -> Result<(), TrainError> {
        let state = self.state.take();
        let mut state = state.expect("invariant: the state is back after every step");
        state.model = self.freezing.apply(state.model, Some(stage));
        if self.share_moments {
            let owners = Owners::new(&self.world, &state.model);
            owners.keep_own(&mut state.optimizer);
            self.owners = Some(owners);
        }
        for line in self.freezing.account(&state.model) {
            self.observers.message(line);
        }
        // Other parameters may learn from here on.
        self.plan = Plan::default();
        self.features = self.open_features(stage, &state.model)?;
        self.state = Some(state);
        self.say_of_features();
        Ok(())
    }

    /// The features of a stage's frozen encoders, if the recipe keeps them.
    pub(super) fn open_features(
        &mut self,
        stage: &Stage,
        model: &Model,
    ) -> Result<Option<Features>, TrainError> {
        let names = parameters::list(model).into_iter().map(|p| p.name);
        let plan = self.recipe.cache_plan(stage, &names.collect::<Vec<_>>());
        for line in plan.reasons {
            self.observers.message(line);
        }
        if plan.kept.is_empty() {
            return Ok(None);
        }
        // Ranks would remove each other's files, or not see the folder.
        if !self.world.is_alone() {
            self.observers.message(
                "train.cache keeps nothing in a training of several ranks: features of frozen encoders are computed in every step",
            );
            return Ok(None);
        }
        let encoders = KeptEncoders {
            backbone: &model.backbone,
            of: &plan.kept,
            computed: format!("{} {:?}", self.choice, self.recipe.train.dtype),
        };
        let gigabytes = self.recipe.train.cache_gb.unwrap_or(kept::GIGABYTES);
        Features::open(self.run.path(), &encoders, gigabytes).map(Some)
    }

    /// Writes features that wait for it, at the end of a stage or of the process.
    pub(super) fn close_features(&mut self) {
        if let Some(features) = &self.features {
            features.close();
        }
        self.say_of_features();
        self.features = None;
    }

    pub(super) fn say_of_features(&mut self) {
        let lines = self.features.as_ref().map(Features::lines);
        for line in lines.unwrap_or_default() {
            self.observers.message(line);
        }
    }
}
