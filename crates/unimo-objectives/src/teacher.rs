//! The teacher: a moving average of the encoders that are trained, whose features are targets (MoCo, ALBEF, MAMO).
//!
//! There is one for all objectives. It tracks no gradient and moves after each step of the optimiser. It reads the inputs that
//! objectives request with [`Request::by_teacher`](crate::request::Request::by_teacher).

use burn::module::Module;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::average;
use unimo_encoders::backbone::Backbone;

/// `[teacher]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Share of the old value in each update, 0.995 in ALBEF.
    pub decay: f64,
}

impl TeacherConfig {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::probability("decay", self.decay)
    }

    /// A teacher with the encoders' weights.
    pub fn init(&self, backbone: &Backbone) -> Teacher {
        Teacher {
            backbone: average::frozen_copy(backbone),
            decay: self.decay,
        }
    }
}

/// A moving average of the encoders.
#[derive(Module, Debug)]
pub struct Teacher {
    /// Its encoders, which track no gradient.
    pub backbone: Backbone,
    decay: f64,
}

impl Teacher {
    /// Share of the old value in each update.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Copies the encoders' weights again, after they have been replaced before the first step.
    pub fn adopt(&mut self, backbone: &Backbone) {
        self.backbone = average::frozen_copy(backbone);
    }

    /// Moves the weights towards the encoders', after the optimiser's step.
    pub fn after_step(&mut self, backbone: &Backbone) {
        self.backbone = average::update(self.backbone.clone(), backbone, self.decay);
    }
}
