//! Visual contrast: a picture is nearer to another view of itself than to the batch's other pictures.
//!
//! Source: UNIMO-2 (Li et al. 2022), figure 2, names it for images without texts and gives no formula; this is SimCLR's (Chen et
//! al. 2020) with the second views of all other pictures as negatives, in both directions, over a linear projection of the class
//! token.
//!
//! Shape legend: `B` samples, `E` width of the common space.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::{Backbone, BackboneConfig, ImageFeatures};
use unimo_encoders::fusion::FusionOutput;

use crate::contrast::{self, Contrast, Contrasted, Features, cross_entropies};
use crate::itc::embed;
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

/// Names of the features.
const FIRST: &str = "first";
const SECOND: &str = "second";

impl Contrast for Views {
    fn rows(&self, batch: &UniModal) -> Vec<usize> {
        (0..batch.samples).collect()
    }

    fn features(
        &self,
        _backbone: &Backbone,
        batch: &UniModal,
        _fused: Option<&FusionOutput>,
    ) -> Features {
        let (first, second) = batch
            .images
            .as_ref()
            .zip(batch.second_views.as_ref())
            .expect("invariant: the step gives what `needs` asks for");
        let embed =
            |views: &ImageFeatures| embed(Some(&self.projection), views.class.clone(), true);
        Features::new(vec![(FIRST, embed(first)), (SECOND, embed(second))])
    }

    fn over(&self, all: &Contrasted) -> Outcome {
        let (first, second) = (all.features.of(FIRST), all.features.of(SECOND));
        assert_shape!(first, [all.len(), self.config.width]);
        let scores = first.matmul(second.transpose()) * temperature::scale(&self.logit_scale);
        let device = scores.device();
        let labels = ints((0..all.len() as i32).collect(), &device);
        // The same for both directions, since "shows the same picture" is.
        let scores = contrast::hide(scores, all.duplicates(&device).as_ref());
        let mut outcome = cross_entropies(vec![scores.clone(), scores.transpose()], &labels);
        outcome.without_negative = all.without_negative();
        outcome
    }
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

    fn contrast(&self) -> Option<&dyn Contrast> {
        Some(self)
    }

    fn loss(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        _fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        contrast::alone(self, backbone, batch, None)
    }

    fn after_step(&mut self, _backbone: &Backbone, _carries: Vec<Carry>) {
        temperature::clamp(&mut self.logit_scale, self.config.temperature_range);
    }
}
