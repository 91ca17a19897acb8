//! `[objectives.direction]`: a task, whether the stripes of an image lie or stand.
//!
//! Shape legend: `B` images, `D` width of the image encoder, `C` directions.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;
use unimo_objectives::request::{By, ImageForm, ImageKind, Request, Samples};
use unimo_objectives::tasks::labels::Labelled;
use unimo_objectives::{Context, Fused, Objective, ObjectiveConfig, Outcome, Predicts, Settings};

use crate::outside::source::DIRECTIONS;

/// Its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
}

/// The head.
#[derive(Module, Debug)]
pub struct Direction {
    head: Linear,
    #[module(skip)]
    config: DirectionConfig,
}

impl Settings for DirectionConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "direction of stripes"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::image(ImageForm::Plain)]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Class {
            classes: Some(DIRECTIONS.len()),
            names: DIRECTIONS,
        })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)
    }
}

impl ObjectiveConfig for DirectionConfig {
    type Objective = Direction;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Direction {
        Direction {
            head: Linear::new(init, model.image_width(), DIRECTIONS.len(), true),
            config: self.clone(),
        }
    }
}

impl Direction {
    /// # Shapes
    ///
    /// - output: `[B, C]`
    fn logits(&self, context: &Context<'_>) -> Tensor<2> {
        let images = context.encoded.images(By::Student, ImageKind::Plain);
        let images = images.expect("invariant: the step gives what was requested");
        let [width, _] = self.head.weight.dims();
        let class = images.class.clone();
        assert_shape!(class, [_, width]);
        self.head.forward(class)
    }
}

impl Objective for Direction {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        Labelled::of(context.batch).cross_entropy(self.logits(context))
    }

    fn predict(&self, context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.logits(context))
    }
}
