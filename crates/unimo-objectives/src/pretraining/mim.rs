//! Masked image modelling: predict hidden patches from the rest of the image and from the text.
//!
//! Source: MAMO (Zhao et al. 2023), whose explicit targets of hidden patches are the momentum model's visual features; their table 9
//! compares them with pixels (MAE). No code was released, so the form is this project's reading:
//!
//! ```text
//! u = MLP(f(v~, t~))        y = LN0(v_teacher(v)), without a gradient, or the pixels of the patch
//! L = mean over hidden patches of d(u, y)
//! ```
//!
//! with `f` the cross-modal encoder, `v~`, `t~` the masked inputs, `v_teacher` the teacher's image encoder, as its cross-modal encoder
//! reads it, and `LN0` a layer norm without weights.
//!
//! The targets may also be codes of patches, as in BEiT and SIMLA (Khan et al. 2022; its release): numbers of typical patches, which
//! the batch holds. A teacher's expectations are then soft targets, from its own pass over the same masked pair:
//!
//! ```text
//! L = (1 - alpha) CE(student, code) + alpha CE(student, softmax(teacher))
//! ```
//!
//! Shape legend: `B` samples, `N` patches of an image, `P` pixels along a patch, `D` width, `M` hidden patches, `Y` numbers of a target or codes.

use burn::module::Module;
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Images, MaskSpec, PatchMaskSpec, config};
use unimo_core::average;
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Activation, Linear};
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::Pictures;

use super::mlm::masks_patches;
use super::mrm::{Distance, at_positions, hidden_positions, normed, spreads};
use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{count_correct, ints};
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::ramp::{self, ALPHA, Ramp};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::weight;
use crate::{is_default, single_precision};

/// What hidden patches are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Their pixels, as the encoder reads them (MAE).
    Pixels,
    /// What the teacher's image encoder makes of them where nothing is hidden (MAMO).
    Teacher,
    /// Their codes, `[data.codes]` (BEiT, SIMLA).
    Codes,
}

/// `[objectives.mim]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MimConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// What hidden patches are to become.
    pub target: Target,
    /// How patches are hidden. 75% in MAMO.
    pub patches: PatchMaskSpec,
    /// How words are hidden meanwhile, as in `objectives.mlm.mask` if there is one; absent: none is. 25% in MAMO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSpec>,
    /// Distance of a prediction from its target.
    #[serde(default = "squared", skip_serializing_if = "is_squared")]
    pub distance: Distance,
    /// Whether each target is scaled to mean 0 and variance 1: a patch's pixels (MAE), or the teacher's state.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub normalised: bool,
    /// Hidden layers of the decoder, each of the width of the cross-modal encoder.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub decoder_layers: usize,
    /// Number of codes, with `target = "codes"`: that of `[data.codes]`. 8,192 in SIMLA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<usize>,
    /// The teacher's soft targets beside the codes; they need a `[teacher]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<MimDistil>,
}

/// `[objectives.mim.distil]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MimDistil {
    /// Share of the teacher's soft targets, 0.4 in SIMLA.
    pub alpha: f64,
    /// Steps over which `alpha` rises from 0, those of the first epoch in SIMLA; 0: it has its value from the first step on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha_ramp: usize,
}

fn squared() -> Distance {
    Distance::L2
}

fn is_squared(distance: &Distance) -> bool {
    *distance == Distance::L2
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn one() -> usize {
    1
}

fn is_one(layers: &usize) -> bool {
    *layers == 1
}

/// Codes at most, as many as a file of codes can hold.
const MOST_CODES: usize = 1 << 16;

/// Hidden layers of the decoder at most. The paper's has six.
const MOST_LAYERS: usize = 64;

impl Settings for MimConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked image modelling"
    }

    fn requests(&self) -> Vec<Request> {
        let text = match self.mask {
            Some(mask) => TextForm::Masked(mask),
            None => TextForm::Plain,
        };
        let mut all = vec![
            Request::text(text),
            Request::image(ImageForm::MaskedPatches(self.patches)),
        ];
        match self.target {
            Target::Pixels => {}
            Target::Teacher => all.push(Request::image(ImageForm::Plain).by_teacher()),
            Target::Codes => {
                all.push(Request::codes());
                if self.distil.is_some() {
                    let own = [all[0].clone(), all[1].clone()];
                    all.extend(own.map(Request::by_teacher));
                }
            }
        }
        all
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
        ConfigError::unless(
            self.decoder_layers <= MOST_LAYERS,
            "decoder_layers",
            self.decoder_layers,
            format_args!("must be at most {MOST_LAYERS}"),
        )?;
        config::open_share("patches.rate", self.patches.rate)?;
        self.check_codes()?;
        if let Some(mask) = &self.mask {
            config::open_share("mask.rate", mask.rate)?;
        }
        ConfigError::unless(
            self.normalised || self.distance != Distance::Cosine,
            "normalised",
            self.normalised,
            "must be true with distance = \"cosine\", which sees no lengths",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        masks_patches(model, Some(self.patches))
    }
}

impl MimConfig {
    /// Checks what is said of codes, and what codes make meaningless.
    fn check_codes(&self) -> Result<(), ConfigError> {
        if self.target != Target::Codes {
            ConfigError::unless(
                self.codes.is_none(),
                "codes",
                self.codes.unwrap_or_default(),
                "must be absent unless target = \"codes\"",
            )?;
            return ConfigError::unless(
                self.distil.is_none(),
                "distil",
                "{}",
                "must be absent unless target = \"codes\": only codes have soft targets",
            );
        }
        let codes = self.codes.unwrap_or_default();
        ConfigError::unless(
            (2..=MOST_CODES).contains(&codes),
            "codes",
            codes,
            format_args!(
                "must be the number of codes in data.codes, 2 to {MOST_CODES}, with target = \"codes\""
            ),
        )?;
        ConfigError::unless(
            self.normalised,
            "normalised",
            self.normalised,
            "must be absent with target = \"codes\": a code is not scaled",
        )?;
        ConfigError::unless(
            self.distance == Distance::L2,
            "distance",
            crate::written(&self.distance),
            "must be absent with target = \"codes\", which are compared by cross-entropy",
        )?;
        let Some(distil) = &self.distil else {
            return Ok(());
        };
        config::above_zero("distil.alpha", distil.alpha)?;
        ramp::validate("distil", distil.alpha, distil.alpha_ramp)
    }
}

impl ObjectiveConfig for MimConfig {
    type Objective = Mim;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mim {
        let width = model.cross_width();
        let image = model.image.as_ref();
        let image = image.expect("invariant: validation finds an encoder of pixels");
        let targets = match self.target {
            Target::Pixels => Images::CHANNELS * image.patch_size * image.patch_size,
            // As the cross-modal encoder reads it.
            Target::Teacher => width,
            Target::Codes => self.codes.unwrap_or_default(),
        };
        let with_class = model.joint.as_ref().is_none_or(|joint| joint.image_class);
        let inner: Vec<Linear> = (0..self.decoder_layers)
            .map(|_| Linear::new(init, width, width, true))
            .collect();
        let outer = Linear::new(init, width, targets, true);
        let distil = self.distil.as_ref().map(|config| Distil {
            inner: average::frozen_copy(&inner),
            outer: average::frozen_copy(&outer),
            ramp: Ramp::new(init, config.alpha, config.alpha_ramp),
        });
        Mim {
            inner,
            outer,
            distil,
            class_tokens: model.class_tokens(),
            fused_class_tokens: if with_class { model.class_tokens() } else { 0 },
            patch_size: image.patch_size,
            config: self.clone(),
        }
    }
}

/// The decoder of masked image modelling.
#[derive(Module, Debug)]
pub struct Mim {
    /// `D -> D`, each with GELU after it.
    pub inner: Vec<Linear>,
    /// `D -> Y`.
    pub outer: Linear,
    /// The teacher's copy of the decoder, and the share of its soft targets.
    pub distil: Option<Distil>,
    class_tokens: usize,
    /// Class tokens among the states that the cross-modal encoder gives.
    fused_class_tokens: usize,
    patch_size: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MimConfig,
}

/// The teacher's part of the decoder: it follows the decoder as the teacher follows the encoders, and tracks no gradient.
#[derive(Module, Debug)]
pub struct Distil {
    /// Copies of the hidden layers.
    pub inner: Vec<Linear>,
    /// Copy of the last layer.
    pub outer: Linear,
    /// The share of its soft targets.
    pub ramp: Ramp,
}

/// # Shapes
///
/// - states: `[M, D]`
/// - output: `[M, Y]`
fn decoded(inner: &[Linear], outer: &Linear, states: Tensor<2>) -> Tensor<2> {
    let hidden = inner.iter().fold(states, |states, layer| {
        Activation::Gelu.forward(layer.forward(states))
    });
    outer.forward(hidden)
}

impl Mim {
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, Y]`
    pub fn forward(&self, states: Tensor<2>) -> Tensor<2> {
        decoded(&self.inner, &self.outer, states)
    }

    /// The loss against codes.
    ///
    /// # Shapes
    ///
    /// - states: the student's at hidden patches, `[M, D]`, and the teacher's, if they are soft targets
    /// - codes: `M`
    fn of_codes(&self, states: Tensor<2>, teacher: Option<Tensor<2>>, codes: Vec<i32>) -> Outcome {
        let (Some(distil), Some(teacher)) = (&self.distil, teacher) else {
            return Outcome::of_labels(states, codes, |states| self.forward(states));
        };
        let count = codes.len();
        let labels = ints(codes, &states.device());
        let logits = single_precision(self.forward(states));
        assert_shape!(logits, [count, self.config.codes.unwrap_or_default()]);
        let expected = single_precision(decoded(&distil.inner, &distil.outer, teacher));
        let expected = softmax(expected, 1).detach();
        let soft = (log_softmax(logits.clone(), 1) * expected)
            .sum_dim(1)
            .mean()
            .neg();
        let correct = count_correct(logits.clone(), labels.clone());
        let hard = kernels::cross_entropy(logits, labels).mean();
        let share = distil.ramp.share();
        let outcome = Outcome::with_accuracy(share.mix(soft, hard), correct, count);
        match share.rising() {
            Some(alpha) => outcome.and_metric(ALPHA, alpha, 1),
            None => outcome,
        }
    }

    /// What each patch is to become, hidden or not, where that is no code; `None` without the teacher that the targets are of.
    ///
    /// # Shapes
    ///
    /// - output: `[B, N, Y]`
    pub fn values(
        &self,
        images: &Images,
        teacher: Option<&Backbone>,
        device: &Device,
    ) -> Option<Tensor<3>> {
        let values = match self.config.target {
            Target::Codes => return None,
            Target::Pixels => self.pixels(images, device),
            Target::Teacher => {
                let pixels = Pictures::of_pixels(images, &images.pixels, device);
                let features = teacher?.encode_pictures(&pixels, None, 0);
                let states = features.states.last()?.clone();
                let [rows, _, width] = states.dims();
                let (first, side) = (self.class_tokens, self.patch_size);
                let patches = (images.height / side) * (images.width / side);
                states.slice([0..rows, first..first + patches, 0..width])
            }
        };
        let values = single_precision(values.detach());
        let [rows, patches, numbers] = values.dims();
        if !self.config.normalised {
            return Some(values);
        }
        let scaled = normed(values.reshape([rows * patches, numbers]));
        Some(scaled.reshape([rows, patches, numbers]))
    }

    /// The pixels of all patches, as the encoder reads them.
    ///
    /// # Shapes
    ///
    /// - output: `[B, N, 3 P P]`
    fn pixels(&self, images: &Images, device: &Device) -> Tensor<3> {
        let Pictures::Pixels(pixels) = Pictures::of_pixels(images, &images.pixels, device) else {
            unreachable!("invariant: these are pixels");
        };
        patches(pixels, self.patch_size)
    }

    /// What the hidden patches are to become, without a gradient.
    ///
    /// # Shapes
    ///
    /// - output: `[M, Y]`
    fn targets(&self, context: &Context<'_>, hidden: &[bool]) -> Tensor<2> {
        let targets = match self.config.target {
            Target::Teacher => {
                let images = context.encoded.images(By::Teacher, ImageKind::Plain);
                let states = images.and_then(|images| images.states.last());
                let states = states.expect("invariant: the step gives what was requested");
                let [rows, length, _] = states.dims();
                let at = hidden_positions(hidden, (rows, length), self.class_tokens);
                at_positions(states, &ints(at, &states.device()))
            }
            Target::Codes => unreachable!("invariant: codes are no numbers of a patch"),
            Target::Pixels => {
                let images = context.batch.images.as_ref();
                let images = images.expect("invariant: the batch holds what was requested");
                let patches = self.pixels(images, context.device);
                let [rows, length, _] = patches.dims();
                let at = hidden_positions(hidden, (rows, length), 0);
                at_positions(&patches, &ints(at, &patches.device()))
            }
        };
        let targets = single_precision(targets.detach());
        if self.config.normalised {
            normed(targets)
        } else {
            targets
        }
    }
}

/// The pixels of each patch, patches row by row, in a patch row by row, the channels of a pixel side by side (MAE).
///
/// # Shapes
///
/// - pixels: `[B, 3, H, W]`
/// - output: `[B, N, 3 P P]`
pub fn patches(pixels: Tensor<4>, size: usize) -> Tensor<3> {
    let [rows, channels, height, width] = pixels.dims();
    let (down, across) = (height / size, width / size);
    let split = pixels.reshape([rows, channels, down, size, across, size]);
    let split: Tensor<6> = split.permute([0, 2, 4, 3, 5, 1]);
    split.reshape([rows, down * across, size * size * channels])
}

impl Objective for Mim {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let text = match self.config.mask {
            Some(_) => TextKind::Masked,
            None => TextKind::Plain,
        };
        let own = Pairs {
            text,
            image: ImageKind::MaskedPatches,
            ..Pairs::matched(encoded.samples).reading_images(false)
        };
        let by_teacher = self.distil.is_some().then(|| Pairs {
            by: By::Teacher,
            ..own.clone()
        });
        std::iter::once(own).chain(by_teacher).collect()
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let teacher = fused.get(1).and_then(Fused::some);
        let (_, fused) = Fused::only(fused);
        let states = fused.image();
        let hidden = context.hidden_patches();
        let [rows, length, _] = states.dims();
        let at = hidden_positions(hidden, (rows, length), self.fused_class_tokens);
        let count = at.len();
        if count == 0 {
            return Outcome::nothing(context.device);
        }
        let at = ints(at, &states.device());
        if self.config.target == Target::Codes {
            let teacher = teacher.map(|(_, fused)| at_positions(fused.image(), &at));
            let all = hidden.iter().zip(context.codes());
            let codes = all.filter(|(hidden, _)| **hidden);
            let codes = codes.map(|(_, code)| *code as i32).collect();
            return self.of_codes(at_positions(states, &at), teacher, codes);
        }
        let states = at_positions(states, &at);
        let predictions = single_precision(self.forward(states));
        let targets = self.targets(context, hidden);
        let [_, numbers] = targets.dims();
        assert_shape!(predictions, [count, numbers]);
        let loss = self
            .config
            .distance
            .of(predictions.clone(), targets.clone());
        spreads(Outcome::new(loss), &predictions, &targets)
    }

    /// The prediction of each hidden patch, or the logits of its codes.
    ///
    /// # Shapes
    ///
    /// - output: `[M, Y]`
    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        let (_, fused) = Fused::only(fused);
        let states = fused.image();
        let [rows, length, _] = states.dims();
        let hidden = context.hidden_patches();
        let at = hidden_positions(hidden, (rows, length), self.fused_class_tokens);
        let at = ints(at, &states.device());
        let predictions = self.forward(at_positions(states, &at));
        Some(single_precision(predictions))
    }

    fn adopt(&mut self) {
        if let Some(distil) = &mut self.distil {
            distil.inner = average::frozen_copy(&self.inner);
            distil.outer = average::frozen_copy(&self.outer);
        }
    }

    fn after_step(&mut self, after: &AfterStep) {
        if let (Some(mut distil), Some(decay)) = (self.distil.take(), after.decay) {
            distil.inner = average::update(distil.inner, &self.inner, decay);
            distil.outer = average::update(distil.outer, &self.outer, decay);
            distil.ramp.after_step();
            self.distil = Some(distil);
        }
    }
}
