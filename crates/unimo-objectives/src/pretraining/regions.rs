//! Masked region modelling: predict the class and the feature of each hidden region of an image from the other regions and the caption.
//!
//! Source: M3P (Ni et al. 2021), as in UNITER and ViLBERT. Classes by cross-entropy over the detector's, features by the mean squared
//! distance from what the detector gave, before it is scaled:
//!
//! ```text
//! L = a CE(class) + b mean((z - feature)^2)
//! ```
//!
//! M3P hides either words or regions of a sample and predicts both in one pass: `words` here and `objectives.mlm.regions`, with the same
//! masks, read the same.
//!
//! Shape legend: `B` samples, `R` regions, `F` numbers of a region, `D` width, `M` hidden regions, `C` classes.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, MaskSpec, RegionLabels, RegionMaskSpec, Regions as Batch, config};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, LayerNorm, Linear};
use unimo_encoders::backbone::BackboneConfig;

use super::mlm::{check_mask, masks_regions};
use super::mrm::at_positions;
use super::mrtm::of_regions;
use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{ints, labelled};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::{single_precision, weight};

/// `[objectives.regions]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionsConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How regions are hidden.
    pub mask: RegionMaskSpec,
    /// Prediction of classes; absent: they are not predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassesConfig>,
    /// Prediction of features; absent: they are not predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturesConfig>,
    /// How words are hidden while regions are predicted, as in `objectives.mlm.mask` if there is one; absent: none is (UC2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<MaskSpec>,
}

/// `[objectives.regions.classes]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassesConfig {
    /// Number of the detector's classes, 1600 in M3P.
    pub count: usize,
    /// Factor of this part of the loss.
    #[serde(default = "weight")]
    pub weight: f64,
}

/// `[objectives.regions.features]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesConfig {
    /// Factor of this part of the loss.
    #[serde(default = "weight")]
    pub weight: f64,
}

/// Name of the mean squared distance from the features.
pub const FEATURE_ERROR: &str = "feature_error";

/// Numbers of a region's box, behind its feature.
const BOX: usize = 6;

impl Settings for RegionsConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked region modelling"
    }

    fn requests(&self) -> Vec<Request> {
        let text = match self.words {
            Some(words) => TextForm::Masked(words),
            None => TextForm::Plain,
        };
        let labels = Request::regions(RegionLabels {
            classes: self.classes.as_ref().map(|classes| classes.count),
            ..RegionLabels::default()
        });
        vec![
            Request::text(text),
            Request::image(ImageForm::MaskedRegions(self.mask)),
            labels,
        ]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn reads_fused_images(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        self.mask.validate("mask")?;
        if let Some(words) = &self.words {
            check_mask(words).map_err(|error| error.within("words"))?;
        }
        if let Some(classes) = &self.classes {
            config::positive("classes.count", classes.count)?;
            config::above_zero("classes.weight", classes.weight)?;
        }
        if let Some(features) = &self.features {
            config::above_zero("features.weight", features.weight)?;
        }
        ConfigError::of_section(
            self.classes.is_some() || self.features.is_some(),
            "must have classes, features or both, or there is nothing to predict",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        masks_regions(model, "mask", Some(self.mask))
    }
}

impl ObjectiveConfig for RegionsConfig {
    type Objective = Regions;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Regions {
        let width = model.cross_width();
        let numbers = model.regions.as_ref().map_or(0, |regions| regions.features);
        Regions {
            classes: self.classes.as_ref().map(|classes| ClassHead {
                dense: Linear::new(init, width, width, true),
                norm: LayerNorm::new(init, width, model.cross_layer_norm_eps()),
                decoder: Linear::new(init, width, classes.count, true),
            }),
            features: self
                .features
                .as_ref()
                .map(|_| Linear::new(init, width, numbers.saturating_sub(BOX), true)),
            config: self.clone(),
        }
    }
}

/// The heads of masked region modelling.
#[derive(Module, Debug)]
pub struct Regions {
    /// The head of classes.
    pub classes: Option<ClassHead>,
    /// `D -> F - 6`.
    pub features: Option<Linear>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: RegionsConfig,
}

/// BERT's transform, and a layer to the classes.
#[derive(Module, Debug)]
pub struct ClassHead {
    /// `D -> D`.
    pub dense: Linear,
    /// Layer norm after the activation.
    pub norm: LayerNorm,
    /// `D -> C`.
    pub decoder: Linear,
}

impl ClassHead {
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, C]`
    pub fn logits(&self, states: Tensor<2>) -> Tensor<2> {
        let hidden = Activation::Gelu.forward(self.dense.forward(states));
        self.decoder.forward(self.norm.forward(hidden))
    }
}

/// The features of some regions of a batch, as the detector gave them.
///
/// # Shapes
///
/// - positions: `M` of `[B, R]`, row-major
/// - output: `[M, F - 6]`, row-major
fn features_of(regions: &Batch, positions: &[i32]) -> Vec<f32> {
    let width = regions.width();
    let of = |at: &i32| {
        let first = *at as usize * width;
        &regions.features[first..first + width - BOX]
    };
    positions.iter().flat_map(of).copied().collect()
}

impl Objective for Regions {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let text = if self.config.words.is_some() {
            TextKind::Masked
        } else {
            TextKind::Plain
        };
        vec![Pairs {
            text,
            image: ImageKind::MaskedRegions,
            ..Pairs::matched(encoded.samples)
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let (regions, hidden) = (context.regions(), context.hidden_regions());
        let states = of_regions(fused.image(), regions.count);
        assert_shape!(states, [context.encoded.samples, _, _]);
        let settings = &self.config;
        let classes = self.classes.as_ref().zip(settings.classes.as_ref());
        let classes = classes.map(|(head, settings)| {
            let labels = hidden.classes.as_ref();
            let labels = labels.expect("invariant: the batch holds what was requested");
            let mut outcome = Outcome::of_positions(states.clone(), labelled(labels), |states| {
                head.logits(states)
            });
            outcome.loss = outcome.loss * settings.weight;
            outcome
        });
        let features = self.features.as_ref().zip(settings.features.as_ref());
        let features = features.map(|(head, settings)| {
            let positions = hidden.positions();
            let count = positions.len();
            if count == 0 {
                return Outcome::nothing(context.device);
            }
            let device = states.device();
            let width = regions.width() - BOX;
            let targets = TensorData::new(features_of(regions, &positions), [count, width]);
            let targets = Tensor::<2>::from_data(targets, &device);
            let states = at_positions(&states, &ints(positions, &device));
            let found = single_precision(head.forward(states));
            assert_shape!(found, [count, width]);
            let error = (found - targets).square().mean();
            let sum = error.clone().mul_scalar(count as f64);
            Outcome::new(error * settings.weight).and_metric(FEATURE_ERROR, sum, count)
        });
        let both = [classes, features].into_iter().flatten();
        both.reduce(Outcome::and)
            .expect("invariant: validation finds something to predict")
    }
}
