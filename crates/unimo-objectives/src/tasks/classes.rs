//! Image classification: which class an image shows.
//!
//! ```text
//! logits = W dropout(v),   loss = cross-entropy
//! ```
//!
//! Source: BridgeTower (`run_cifar.py`): a linear layer on the image encoder's class token after its final norm. With the image encoder
//! frozen (`train.freeze`) it is a linear probe.
//!
//! Shape legend: `B` images, `D` width of the image encoder, `C` classes; `v`: the class token, `[B, D]`.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::{Form, Rule, rule};

use crate::context::Context;
use crate::is_default;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, ImageForm, ImageKind, Request, Samples};
use crate::tasks::labels::Labelled;
use crate::weight;

/// `[objectives.classes]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassesConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Number of classes; absent: as many as there are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Dropout on the class token (BridgeTower: 0).
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: f64,
}

impl Settings for ClassesConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "image classification"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::image(ImageForm::Plain)]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Class {
            classes: self.classes,
            names: &[],
        })
    }

    fn set_classes(&mut self, classes: usize) {
        self.classes = Some(classes);
    }

    fn turn_dropout_off(&mut self) {
        self.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        if let Some(classes) = self.classes {
            config::positive("classes", classes)?;
        }
        super::valid_dropout(self.dropout)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(
            model.reads_images(),
            "needs an image encoder, [model.image] or [model.regions]",
        )
    }
}

impl ObjectiveConfig for ClassesConfig {
    type Objective = Classes;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Classes {
        let classes = self.classes.unwrap_or_default().max(1);
        Classes {
            dropout: Dropout::new(self.dropout),
            linear: Linear::new(init, model.image_width(), classes, true),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in BridgeTower.
pub const BRIDGETOWER_NAMES: &[Rule] = &[rule("linear", "cifar_classifier", Form::Linear)];

/// The head of image classification.
#[derive(Module, Debug)]
pub struct Classes {
    /// Dropout on the class token.
    pub dropout: Dropout,
    /// `D -> C`.
    pub linear: Linear,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: ClassesConfig,
}

impl Classes {
    /// The logit of every class.
    ///
    /// # Shapes
    ///
    /// - class: `[B, D]`
    /// - output: `[B, C]`
    pub fn logits(&self, class: Tensor<2>) -> Tensor<2> {
        let [width, _] = self.linear.weight.dims();
        assert_shape!(class, [_, width]);
        self.linear.forward(self.dropout.forward(class))
    }

    fn of_batch(&self, context: &Context<'_>) -> Tensor<2> {
        let images = context.encoded.images(By::Student, ImageKind::Plain);
        let images = images.expect("invariant: the step gives what was requested");
        self.logits(images.class.clone())
    }
}

impl Objective for Classes {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        Labelled::of(context.batch).cross_entropy(self.of_batch(context))
    }

    fn predict(&self, context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.of_batch(context))
    }
}
