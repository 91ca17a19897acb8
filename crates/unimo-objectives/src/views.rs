//! Visual contrast: a picture is nearer to another view of itself than to the batch's other pictures.
//!
//! Source: UNIMO-2 (Li et al. 2022), figure 2, names it for images without texts and gives no formula; this is SimCLR's (Chen et
//! al. 2020) with the batch's other second views as negatives, in both directions, over a linear projection of the class token.
//!
//! Shape legend: `B` samples, `E` width of the common space.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_core::config::{self, ConfigError};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::{Backbone, BackboneConfig, ImageFeatures};
use unimo_encoders::fusion::FusionOutput;

use crate::itc::{contrast, embed};
use crate::objective::{Carry, Needs, Objective, Outcome, Pairs, UniModal, ints};
use crate::temperature;

/// `[objectives.views]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewsConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// `E`.
    pub width: usize,
    /// Starting temperature; similarities are divided by it.
    pub temperature: f64,
    /// The temperature is kept within these.
    pub temperature_range: [f64; 2],
    /// Whether it learns from pictures without texts alone (UNIMO-2), or from all.
    pub images_alone: bool,
}

impl ViewsConfig {
    /// Every value on its own and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("width", self.width)?;
        temperature::validate(self.temperature, self.temperature_range)
    }

    /// A new head.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Views {
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
    /// Image width to `E`.
    pub projection: Linear,
    /// `[1]`: similarities are multiplied by its exponential.
    pub logit_scale: Param<Tensor<1>>,
    /// What it was made from.
    #[module(skip)]
    pub config: ViewsConfig,
}

impl Objective for Views {
    fn needs(&self) -> Needs {
        Needs {
            images: true,
            second_view: true,
            samples: 2,
            alone: self.config.images_alone,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn loss(
        &self,
        _backbone: &Backbone,
        batch: &UniModal,
        _fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let (first, second) = batch
            .images
            .as_ref()
            .zip(batch.second_views.as_ref())
            .expect("invariant: the step gives what `needs` asks for");
        let embed =
            |views: &ImageFeatures| embed(Some(&self.projection), views.class.clone(), true);
        let (first, second) = (embed(first), embed(second));
        assert_shape!(first, [batch.samples, self.config.width]);
        let scores = first.matmul(second.transpose()) * temperature::scale(&self.logit_scale);
        let labels = ints((0..batch.samples as i32).collect(), &scores.device());
        contrast(vec![scores.clone(), scores.transpose()], &labels)
    }

    fn after_step(&mut self, _backbone: &Backbone, _carries: Vec<Carry>) {
        temperature::clamp(&mut self.logit_scale, self.config.temperature_range);
    }
}
