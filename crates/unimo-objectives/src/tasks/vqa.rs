//! Visual question answering: which of the known answers is right.
//!
//! ```text
//! loss = mean over questions of sum over answers of BCE(logit, score)
//! ```
//!
//! The score of an answer is 0.3, 0.6, 0.9 or 1 where one, two, three or more people gave it. A set with one answer per question
//! has scores of 1.
//!
//! Source: METER, BridgeTower, ManagerTower (`compute_vqa`): the pair's summary, a [head](super::head) and binary cross-entropy
//! over 3,129 answers. For UNIMO-2 nothing is released; `product` is this project's choice. MVP reads the text's class token.
//!
//! Shape legend: `B` questions, `C` answers.

use burn::module::Module;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::Rule;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::is_default;
use crate::objective::{AnsweredBy, Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{Request, Samples};
use crate::tasks::head::{HeadConfig, meter_names};
use crate::tasks::labels::Labelled;
use crate::tasks::pair::{PairClassifier, PairTask};
use crate::tasks::summary::Pooling;
use crate::weight;

/// `[objectives.vqa]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqaConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Number of answers; absent: as many as `task.labels` has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// What the head reads.
    pub pooling: Pooling,
    /// The head.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadConfig,
}

impl VqaConfig {
    fn task(&self) -> PairTask<'_> {
        PairTask {
            weight: self.weight,
            pooling: self.pooling,
            head: &self.head,
            images: 1,
        }
    }
}

impl Settings for VqaConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "visual question answering"
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
        Some(Predicts::Answers {
            classes: self.classes,
            by: AnsweredBy::Class,
        })
    }

    fn set_classes(&mut self, classes: usize) {
        self.classes = Some(classes);
    }

    fn turn_dropout_off(&mut self) {
        self.head.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if let Some(classes) = self.classes {
            config::positive("classes", classes)?;
        }
        self.task().validate()
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.task().validate_with(model)
    }
}

impl ObjectiveConfig for VqaConfig {
    type Objective = Vqa;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Vqa {
        let classes = self.classes.unwrap_or_default().max(1);
        Vqa {
            classifier: self.task().init(init, model, classes),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in METER.
pub const METER_NAMES: &[Rule] =
    &meter_names(["vqa_classifier.0", "vqa_classifier.1", "vqa_classifier.3"]);

/// The head of visual question answering.
#[derive(Module, Debug)]
pub struct Vqa {
    /// Over the pair.
    pub classifier: PairClassifier,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: VqaConfig,
}

impl Objective for Vqa {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        self.config.task().pairs(encoded)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let logits = self.classifier.logits(context.backbone, fused);
        Labelled::of(context.batch).binary_cross_entropy(logits)
    }

    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.classifier.logits(context.backbone, fused))
    }
}
