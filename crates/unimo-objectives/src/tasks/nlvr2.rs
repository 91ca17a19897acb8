//! Statements about one image or two: is the statement true?
//!
//! ```text
//! logits = head([summary(text, left image), summary(text, right image)])        images = 2
//! ```
//!
//! The text goes through the text encoder once, and through the cross-modal encoder once with each image. Images are told apart
//! by their rows of the type embedding, `model.fusion.pictures = 2`: row 1 is the left image, row 2 the right one. A batch that has
//! a sample without a second image is skipped and counted.
//!
//! Source: METER, BridgeTower, ManagerTower (`compute_nlvr2`) for NLVR2. One image is NLVR's form, and that of generated scenes.
//!
//! Shape legend: `B` statements.

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
pub const NAMES: &[&str] = &["False", "True"];

/// `[objectives.nlvr2]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nlvr2Config {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Images that a statement is about: 2 in NLVR2, 1 in NLVR and generated scenes.
    pub images: usize,
    /// What the head reads of the text with an image.
    pub pooling: Pooling,
    /// The head.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadConfig,
}

impl Nlvr2Config {
    fn task(&self) -> PairTask<'_> {
        PairTask {
            weight: self.weight,
            pooling: self.pooling,
            head: &self.head,
            images: self.images,
        }
    }
}

impl Settings for Nlvr2Config {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "true and false statements"
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

impl ObjectiveConfig for Nlvr2Config {
    type Objective = Nlvr2;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Nlvr2 {
        Nlvr2 {
            classifier: self.task().init(init, model, NAMES.len()),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in METER.
pub const METER_NAMES: &[Rule] = &meter_names([
    "nlvr2_classifier.0",
    "nlvr2_classifier.1",
    "nlvr2_classifier.3",
]);

/// The classifier of statements.
#[derive(Module, Debug)]
pub struct Nlvr2 {
    /// Over the text with each image.
    pub classifier: PairClassifier,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: Nlvr2Config,
}

impl Objective for Nlvr2 {
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
