//! Visual contrast: an image is nearer to another view of itself than to the batch's other images.
//!
//! Source: UNIMO-2 (Li et al. 2022), figure 2, names it for images without texts and gives no formula. This is SimCLR's (Chen et
//! al. 2020), in both directions, over a linear projection of the class token. The negatives are the second views of all other
//! images.
//!
//! Shape legend: `B` samples, `E` width of the common space.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::contrast::{self, Contrast, Contrasted, cross_entropies};
use crate::encoded::Encoded;
use crate::features::Features;
use crate::labels::ints;
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::pretraining::itc::embed;
use crate::request::{By, ImageForm, ImageKind, Request, Samples};
use crate::temperature;
use crate::weight;

/// `[objectives.views]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewsConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// `E`.
    pub width: usize,
    /// Initial temperature; similarities are divided by it.
    pub temperature: f64,
    /// Lowest and highest temperature.
    pub temperature_range: [f64; 2],
    /// Whether it learns only from images without texts (UNIMO-2), or from all images.
    pub images_alone: bool,
}

impl Settings for ViewsConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "two views of an image"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::image(ImageForm::Plain),
            Request::image(ImageForm::SecondView),
        ]
    }

    fn samples(&self) -> Samples {
        Samples {
            least: 2,
            describing: false,
            alone: self.images_alone,
            labelled: false,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("width", self.width)?;
        temperature::validate(self.temperature, self.temperature_range)
    }
}

impl ObjectiveConfig for ViewsConfig {
    type Objective = Views;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Views {
        Views {
            projection: Linear::new(init, model.image_width(), self.width, true),
            logit_scale: temperature::init(init, self.temperature),
            config: self.clone(),
        }
    }
}

/// The head of visual contrast.
#[derive(Module, Debug)]
pub struct Views {
    /// Projection from the image width to `E`.
    pub projection: Linear,
    /// `[1]`: similarities are multiplied by its exponential.
    pub logit_scale: Param<Tensor<1>>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: ViewsConfig,
}

/// Names of the features.
const FIRST: &str = "first";
const SECOND: &str = "second";

impl Contrast for Views {
    fn samples(&self, encoded: &Encoded) -> Vec<usize> {
        (0..encoded.samples).collect()
    }

    fn features(&self, context: &Context<'_>, _fused: &[Fused]) -> Features {
        let embed = |kind: ImageKind| {
            let images = context.encoded.images(By::Student, kind);
            let images = images.expect("invariant: the step gives what was requested");
            embed(Some(&self.projection), images.class.clone(), true)
        };
        Features::new(vec![
            (FIRST, embed(ImageKind::Plain)),
            (SECOND, embed(ImageKind::SecondView)),
        ])
    }

    fn over(&self, all: &Contrasted) -> Outcome {
        let (first, second) = (all.features.of(FIRST), all.features.of(SECOND));
        assert_shape!(first, [all.len(), self.config.width]);
        let scores = first.matmul(second.transpose()) * temperature::scale(&self.logit_scale);
        let device = scores.device();
        let labels = ints((0..all.len() as i32).collect(), &device);
        // One mask serves both directions, since "shows the same image" is symmetric.
        let scores = contrast::hide(scores, all.duplicates(&device).as_ref());
        let mut outcome = cross_entropies(vec![scores.clone(), scores.transpose()], &labels);
        outcome.without_negative = all.without_negative();
        outcome
    }
}

impl Objective for Views {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn contrast(&self) -> Option<&dyn Contrast> {
        Some(self)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        contrast::alone(self, context, fused)
    }

    fn after_step(&mut self, _after: &AfterStep) {
        temperature::clamp(&mut self.logit_scale, self.config.temperature_range);
    }
}
