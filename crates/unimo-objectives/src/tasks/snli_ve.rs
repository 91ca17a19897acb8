//! Visual entailment: does the image contradict a sentence, leave it open, or entail it?
//!
//! Source: METER, BridgeTower, ManagerTower (`compute_snli`), which number the classes as [`NAMES`] does: a [head](super::head) over
//! the pair's summary, and cross-entropy. UNIMO adds both modalities (`sum`), MVP pools the text.
//!
//! Shape legend: `B` sentences.

use burn::module::Module;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::Rule;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::is_default;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{Request, Samples};
use crate::tasks::head::{HeadConfig, meter_names};
use crate::tasks::labels::Labelled;
use crate::tasks::pair::{PairClassifier, PairTask};
use crate::tasks::summary::Pooling;
use crate::weight;

/// The classes in the order of the head.
pub const NAMES: &[&str] = &["contradiction", "neutral", "entailment"];

/// `[objectives.snli_ve]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnliVeConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// What the head reads.
    pub pooling: Pooling,
    /// The head.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadConfig,
}

impl SnliVeConfig {
    fn task(&self) -> PairTask<'_> {
        PairTask {
            weight: self.weight,
            pooling: self.pooling,
            head: &self.head,
            images: 1,
        }
    }
}

impl Settings for SnliVeConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "visual entailment"
    }

    fn requests(&self) -> Vec<Request> {
        self.task().requests()
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Class {
            classes: Some(NAMES.len()),
            names: NAMES,
        })
    }

    fn turn_dropout_off(&mut self) {
        self.head.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.task().validate()
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.task().validate_with(model)
    }
}

impl ObjectiveConfig for SnliVeConfig {
    type Objective = SnliVe;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> SnliVe {
        SnliVe {
            classifier: self.task().init(init, model, NAMES.len()),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in METER.
pub const METER_NAMES: &[Rule] = &meter_names([
    "snli_classifier.0",
    "snli_classifier.1",
    "snli_classifier.3",
]);

/// The classifier of visual entailment.
#[derive(Module, Debug)]
pub struct SnliVe {
    /// Over the pair.
    pub classifier: PairClassifier,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: SnliVeConfig,
}

impl Objective for SnliVe {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        self.config.task().pairs(encoded)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let logits = self.classifier.logits(context.backbone, fused);
        Labelled::of(context.batch).cross_entropy(logits)
    }

    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.classifier.logits(context.backbone, fused))
    }
}
