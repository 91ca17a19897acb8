//! The grounded dictionary: its codes move to the states that choose them, and the states move to those codes.
//!
//! Source: UNIMO-2 (Li et al. 2022), section 2.2: `L_vq = L_q + 0.25 L_e`; see [`unimo_encoders::quantiser`]. Both losses are means
//! over all states, or tokens, of the batch.
//!
//! Shape legend: `B` samples, `K` tokens of a sample, `D` width.

use burn::module::Module;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::quantiser::{Choice, Quantised};

use crate::context::Context;
use crate::encoded::Encoded;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, Request, Samples, TextForm};
use crate::weight;

/// `[objectives.vq]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Factor of `L_e`, the loss that pulls states to codes; 0.25 in UNIMO-2.
    pub commitment: f64,
}

impl Settings for VqConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "grounded dictionary"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::AsOthers).optional(),
            Request::image(ImageForm::Plain).optional(),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        ConfigError::unless(
            self.commitment.is_finite() && self.commitment >= 0.0,
            "commitment",
            self.commitment,
            "must be a finite number of at least 0",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        grounded(model)
    }
}

/// Checks that there is a dictionary to learn.
pub(crate) fn grounded(model: &BackboneConfig) -> Result<(), ConfigError> {
    ConfigError::of_section(
        model.joint.as_ref().is_some_and(|j| j.grounding.is_some()),
        "needs a grounded dictionary, [model.joint.grounding]",
    )
}

impl ObjectiveConfig for VqConfig {
    type Objective = Vq;

    /// The objective; the codebook is the encoder's.
    fn init(&self, _init: &mut Init, _model: &BackboneConfig) -> Vq {
        Vq {
            config: self.clone(),
        }
    }
}

/// The losses of the grounded dictionary, which have no weights of their own.
#[derive(Module, Debug)]
pub struct Vq {
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: VqConfig,
}

impl Vq {
    /// `L_q + commitment L_e`, `[1]`.
    pub fn of(&self, quantised: &Quantised, choice: Choice) -> Tensor<1> {
        let [rows, tokens, width] = quantised.tokens.dims();
        // If every state is padding, both sums and both means are 0.
        let states = quantised.states.clone().sum().clamp_min(1.0);
        let to_states = quantised.to_states.clone().sum() / (states.clone() * width as f64);
        let to_codes = quantised.to_codes.clone().sum();
        let to_codes = match choice {
            Choice::TopK => to_codes.div_scalar((rows * tokens * width) as f64),
            Choice::Nearest => to_codes / (states * width as f64),
        };
        to_states + to_codes.mul_scalar(self.config.commitment)
    }
}

impl Objective for Vq {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        vec![Pairs::as_others(encoded)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let (grounded, quantiser) = fused
            .grounded
            .as_ref()
            .zip(context.backbone.quantiser())
            .expect("invariant: validation finds a grounded dictionary");
        Outcome::new(self.of(&grounded.quantised, quantiser.config.choice))
    }
}
