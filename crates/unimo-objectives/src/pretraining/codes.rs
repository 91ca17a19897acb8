//! Masked grounded tokens: some of a sample's grounded tokens are hidden, and their codes are predicted.
//!
//! Source: UNIMO-2's release (off by default there): 15% of the grounded tokens are hidden; the decoder is the codebook.
//!
//! Shape legend: `B` samples, `K` tokens of a sample, `D` width, `C` codes, `M` hidden tokens.

use burn::module::Module;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::vq::grounded;
use crate::request::{ImageForm, Request, Samples, TextForm};
use crate::tied::TiedHead;
use crate::weight;

/// `[objectives.codes]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodesConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Share of a sample's grounded tokens that are hidden (at least one token); 0.15 in UNIMO-2.
    pub rate: f64,
}

impl Settings for CodesConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked grounded tokens"
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
        config::open_share("rate", self.rate)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        grounded(model)
    }
}

impl ObjectiveConfig for CodesConfig {
    type Objective = Codes;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Codes {
        let grounding = model.joint.as_ref().and_then(|j| j.grounding.as_ref());
        let (codes, tokens) = grounding.map_or((1, 1), |g| (g.codes, g.tokens));
        let eps = model.cross_layer_norm_eps();
        Codes {
            head: TiedHead::new(init, model.cross_width(), codes, eps),
            tokens,
            config: self.clone(),
        }
    }
}

/// The head of masked grounded tokens.
#[derive(Module, Debug)]
pub struct Codes {
    /// The head, whose decoder is the codebook.
    pub head: TiedHead,
    /// `K`.
    pub tokens: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: CodesConfig,
}

impl Objective for Codes {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let hidden = (self.config.rate * self.tokens as f64).round() as usize;
        let mut row: Vec<bool> = (0..self.tokens).map(|i| i < hidden.max(1)).collect();
        let mut hidden_tokens = Vec::with_capacity(encoded.samples * self.tokens);
        for _ in 0..encoded.samples {
            row.shuffle(rng);
            hidden_tokens.extend_from_slice(&row);
        }
        vec![Pairs {
            hidden_tokens,
            ..Pairs::as_others(encoded)
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (pairs, fused) = Fused::only(fused);
        let (grounded, quantiser) = fused
            .grounded
            .as_ref()
            .zip(context.backbone.quantiser())
            .expect("invariant: validation finds a grounded dictionary");
        let [rows, tokens, _] = grounded.states.dims();
        let codes = grounded.quantised.codes.clone();
        let all: Vec<i64> = codes.into_data().iter::<i64>().collect();
        let padding: Vec<bool> = match &grounded.quantised.hidden {
            Some(mask) => mask.hidden().into_data().iter::<bool>().collect(),
            None => vec![false; rows * tokens],
        };
        let hidden: (Vec<i32>, Vec<i32>) = pairs
            .hidden_tokens
            .iter()
            .zip(&padding)
            .enumerate()
            .filter(|(_, (hidden, padding))| **hidden && !**padding)
            .map(|(at, _)| (at as i32, all[at] as i32))
            .unzip();
        // The codebook learns from its own losses; through this one it could make all codes equal.
        let table = quantiser.codebook.val().detach();
        Outcome::of_positions(grounded.states.clone(), hidden, |states| {
            self.head.logits(states, table)
        })
    }
}
