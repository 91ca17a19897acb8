//! Masked representation modelling: predict the teacher's states of a whole pair from the pair with words and patches hidden.
//!
//! Source: MAMO (Zhao et al. 2023): regression of the momentum model's fused states at masked positions, of both modalities, with
//! joint masking. No code was released, so the form is this project's reading:
//!
//! ```text
//! z = W2 GELU(W1 f(v~, t~))       y = LN0(f_teacher(v, t)), without a gradient
//! L = (mean over hidden patches of d(z, y) + mean over hidden words of d(z, y)) / 2
//! ```
//!
//! with `f` the cross-modal encoder, `v~`, `t~` the masked inputs, and `LN0` a layer norm without weights. The authors say that this loss
//! alone may collapse to one representation for everything (section 4.5), so the spread of targets and predictions is told.
//!
//! Shape legend: `B` samples, `L` positions, `D` width, `M` hidden positions.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Int, Tensor, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, MaskSpec, MaskedTexts, PatchMaskSpec, config};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Linear, normalise};
use unimo_encoders::backbone::BackboneConfig;

use super::mlm::masks_patches;
use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::weight;
use crate::{is_default, single_precision};

/// Distance of a prediction from its target, as a mean over the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// Squared below 1, linear above (smooth L1).
    #[default]
    SmoothL1,
    /// Squared.
    L2,
    /// 1 minus the cosine.
    Cosine,
}

/// `[objectives.mrm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MrmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How words are hidden: as in `objectives.mlm.mask` if there is one. 25% in MAMO.
    pub mask: MaskSpec,
    /// How patches are hidden. 75% in MAMO.
    pub patches: PatchMaskSpec,
    /// Distance of a prediction from its target.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distance: Distance,
}

impl Settings for MrmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked representation modelling"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Masked(self.mask)),
            Request::image(ImageForm::MaskedPatches(self.patches)),
            Request::text(TextForm::Plain).by_teacher(),
            Request::image(ImageForm::Plain).by_teacher(),
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
        config::open_share("mask.rate", self.mask.rate)?;
        config::open_share("patches.rate", self.patches.rate)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        masks_patches(model, Some(self.patches))
    }
}

impl ObjectiveConfig for MrmConfig {
    type Objective = Mrm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mrm {
        let width = model.cross_width();
        let with_class = model.joint.as_ref().is_none_or(|joint| joint.image_class);
        Mrm {
            text: Predictor::new(init, width),
            image: Predictor::new(init, width),
            class_tokens: if with_class { model.class_tokens() } else { 0 },
            config: self.clone(),
        }
    }
}

/// The heads of masked representation modelling.
#[derive(Module, Debug)]
pub struct Mrm {
    /// The predictor at hidden words.
    pub text: Predictor,
    /// The predictor at hidden patches.
    pub image: Predictor,
    class_tokens: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MrmConfig,
}

/// Two layers with GELU between them.
#[derive(Module, Debug)]
pub struct Predictor {
    /// `D -> D`.
    pub inner: Linear,
    /// `D -> D`.
    pub outer: Linear,
}

impl Predictor {
    fn new(init: &mut Init, width: usize) -> Self {
        Self {
            inner: Linear::new(init, width, width, true),
            outer: Linear::new(init, width, width, true),
        }
    }

    /// # Shapes
    ///
    /// - states, output: `[M, D]`
    pub fn forward(&self, states: Tensor<2>) -> Tensor<2> {
        let hidden = Activation::Gelu.forward(self.inner.forward(states));
        self.outer.forward(hidden)
    }
}

/// Epsilon of the targets' layer norm.
const EPSILON: f64 = 1e-6;

/// Name of the targets' spread: their standard deviation over samples and positions, as a root mean square over the width. It falls to
/// 0 if the teacher gives all of them the same representation.
pub const TARGET_SPREAD: &str = "target_spread";
/// The same of the predictions.
pub const PREDICTION_SPREAD: &str = "prediction_spread";

/// The outcome of a regression with both spreads.
///
/// # Shapes
///
/// - predictions, targets: `[M, Y]`
pub(crate) fn spreads(outcome: Outcome, predictions: &Tensor<2>, targets: &Tensor<2>) -> Outcome {
    let [count, _] = targets.dims();
    let spread = |states: &Tensor<2>| {
        let states = states.clone().without_autodiff();
        let centred = states.clone() - states.mean_dim(0);
        centred.square().mean().sqrt() * count as f64
    };
    let outcome = outcome.and_metric(TARGET_SPREAD, spread(targets), count);
    outcome.and_metric(PREDICTION_SPREAD, spread(predictions), count)
}

/// Where hidden patches stand in states of `rows` images, of `length` positions each, row-major.
pub(crate) fn hidden_positions(
    hidden: &[bool],
    (rows, length): (usize, usize),
    class_tokens: usize,
) -> Vec<i32> {
    let patches = hidden.len() / rows.max(1);
    let place = |at: usize| (at / patches) * length + class_tokens + at % patches;
    let hidden = hidden.iter().enumerate().filter(|(_, hidden)| **hidden);
    hidden.map(|(at, _)| place(at) as i32).collect()
}

/// # Shapes
///
/// - states: `[B, L, D]`; positions: `M` of `[B, L]`, row-major
/// - output: `[M, D]`
pub(crate) fn at_positions(states: &Tensor<3>, positions: &Tensor<1, Int>) -> Tensor<2> {
    let [rows, length, width] = states.dims();
    let flat = states.clone().reshape([rows * length, width]);
    flat.select(0, positions.clone())
}

/// Scales to mean 0 and variance 1 over the width.
///
/// # Shapes
///
/// - states, output: `[M, D]`
pub fn normed(states: Tensor<2>) -> Tensor<2> {
    let centred = states.clone() - states.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    centred / (variance + EPSILON).sqrt()
}

impl Distance {
    /// The mean over positions and width, `[1]`.
    ///
    /// # Shapes
    ///
    /// - predictions, targets: `[M, D]`
    pub fn of(self, predictions: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        match self {
            Self::L2 => (predictions - targets).square().mean(),
            Self::Cosine => {
                let cosines = (normalise(predictions) * normalise(targets)).sum_dim(1);
                (cosines.neg() + 1.0).mean()
            }
            Self::SmoothL1 => {
                let difference = predictions - targets;
                // x^2 / 2 below 1, |x| - 1 / 2 above.
                let size = difference.abs();
                let above = relu(size.clone() - 1.0);
                let below = size - above.clone();
                (below.square() * 0.5 + above).mean()
            }
        }
    }
}

impl Mrm {
    /// The loss at these positions; `None` if nothing is hidden.
    ///
    /// # Shapes
    ///
    /// - states, targets: `[B, L, D]`; positions: `M` of `[B, L]`, row-major
    fn at(
        &self,
        head: &Predictor,
        states: Tensor<3>,
        targets: Tensor<3>,
        positions: Vec<i32>,
    ) -> Option<Outcome> {
        if positions.is_empty() {
            return None;
        }
        let count = positions.len();
        let positions = ints(positions, &states.device());
        let targets = at_positions(&targets, &positions).detach();
        let targets = normed(single_precision(targets));
        let predictions = single_precision(head.forward(at_positions(&states, &positions)));
        assert_shape!(predictions, [count, _]);
        let loss = self
            .config
            .distance
            .of(predictions.clone(), targets.clone());
        Some(spreads(Outcome::new(loss), &predictions, &targets))
    }
}

impl Objective for Mrm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let all = Pairs::matched(encoded.samples).reading_images(true);
        vec![
            Pairs {
                text: TextKind::Masked,
                image: ImageKind::MaskedPatches,
                ..all.clone()
            },
            Pairs {
                by: By::Teacher,
                ..all
            },
        ]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let [student, teacher] = fused else {
            unreachable!("invariant: both models' pairs are asked for");
        };
        let both = student.some().zip(teacher.some());
        let ((_, student), (_, teacher)) =
            both.expect("invariant: the step fuses the pairs asked for");
        let labels = &context.masked_texts().labels;
        let words = (0..)
            .zip(labels)
            .filter(|(_, l)| **l != MaskedTexts::IGNORE);
        let words = words.map(|(at, _)| at).collect();
        let hidden = context.hidden_patches();
        let [rows, length, _] = student.image().dims();
        let hidden = hidden_positions(hidden, (rows, length), self.class_tokens);
        let both = [
            self.at(
                &self.text,
                student.text().clone(),
                teacher.text().clone(),
                words,
            ),
            self.at(
                &self.image,
                student.image().clone(),
                teacher.image().clone(),
                hidden,
            ),
        ];
        let found = both.into_iter().flatten().reduce(Outcome::and);
        let Some(mut outcome) = found else {
            return Outcome::nothing(context.device);
        };
        outcome.loss = outcome.loss * 0.5;
        outcome
    }
}
