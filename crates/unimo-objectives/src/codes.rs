//! Masked grounded tokens: predict which codes the hidden ones of a sample's grounded tokens are.
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
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::joint::View;

use crate::objective::{Needs, Objective, Outcome, Pairs, UniModal};
use crate::tied::TiedHead;

/// `[objectives.codes]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodesConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Share of a sample's grounded tokens that are hidden, at least one of them; 0.15 in UNIMO-2.
    pub rate: f64,
}

impl CodesConfig {
    /// Every value on its own.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::open_share("rate", self.rate)
    }

    /// A new head.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Codes {
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
    /// Over the codebook.
    pub head: TiedHead,
    /// `K`.
    pub tokens: usize,
    /// What it was made from.
    #[module(skip)]
    pub config: CodesConfig,
}

impl Objective for Codes {
    fn needs(&self) -> Needs {
        Needs {
            samples: 1,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn pairs(&self, batch: &UniModal, rng: &mut ChaCha8Rng) -> Option<Pairs> {
        let hidden = (self.config.rate * self.tokens as f64).round() as usize;
        let mut row: Vec<bool> = (0..self.tokens).map(|i| i < hidden.max(1)).collect();
        let mut hidden_tokens = Vec::with_capacity(batch.samples * self.tokens);
        for _ in 0..batch.samples {
            row.shuffle(rng);
            hidden_tokens.extend_from_slice(&row);
        }
        Some(Pairs {
            view: View {
                prefix: None,
                hidden_tokens,
            },
            ..Pairs::present(batch)
        })
    }

    fn loss(
        &self,
        backbone: &Backbone,
        _batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let (pairs, fused) = fused.expect("invariant: the step fuses the pairs asked for");
        let (grounded, quantiser) = fused
            .grounded
            .zip(backbone.quantiser())
            .expect("invariant: validation finds a grounded dictionary");
        let [rows, tokens, _] = grounded.states.dims();
        let all: Vec<i64> = grounded.quantised.codes.into_data().iter::<i64>().collect();
        let padding: Vec<bool> = match &grounded.quantised.hidden {
            Some(mask) => mask.hidden().into_data().iter::<bool>().collect(),
            None => vec![false; rows * tokens],
        };
        let hidden: (Vec<i32>, Vec<i32>) = pairs
            .view
            .hidden_tokens
            .iter()
            .zip(&padding)
            .enumerate()
            .filter(|(_, (hidden, padding))| **hidden && !**padding)
            .map(|(at, _)| (at as i32, all[at] as i32))
            .unzip();
        // The codebook learns from its own losses; through this one it could make every code alike.
        let table = quantiser.codebook.val().detach();
        Outcome::of_positions(grounded.states, hidden, |states| {
            self.head.logits(states, table)
        })
    }
}
