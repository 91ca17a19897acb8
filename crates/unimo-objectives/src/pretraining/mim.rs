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
//! Shape legend: `B` samples, `N` patches of an image, `P` pixels along a patch, `D` width, `M` hidden patches, `Y` numbers of a target.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Images, MaskSpec, PatchMaskSpec, config};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::features::Pictures;

use super::mlm::masks_patches;
use super::mrm::{Distance, at_positions, hidden_positions, normed, spreads};
use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::single_precision;
use crate::weight;

/// What hidden patches are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Their pixels, as the encoder reads them (MAE).
    Pixels,
    /// What the teacher's image encoder makes of them where nothing is hidden (MAMO).
    Teacher,
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
        if self.target == Target::Teacher {
            all.push(Request::image(ImageForm::Plain).by_teacher());
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
        };
        let with_class = model.joint.as_ref().is_none_or(|joint| joint.image_class);
        Mim {
            inner: (0..self.decoder_layers)
                .map(|_| Linear::new(init, width, width, true))
                .collect(),
            outer: Linear::new(init, width, targets, true),
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
    class_tokens: usize,
    /// Class tokens among the states that the cross-modal encoder gives.
    fused_class_tokens: usize,
    patch_size: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MimConfig,
}

impl Mim {
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, Y]`
    pub fn forward(&self, states: Tensor<2>) -> Tensor<2> {
        let hidden = self.inner.iter().fold(states, |states, layer| {
            Activation::Gelu.forward(layer.forward(states))
        });
        self.outer.forward(hidden)
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
            Target::Pixels => {
                let images = context.batch.images.as_ref();
                let images = images.expect("invariant: the batch holds what was requested");
                let pixels = Pictures::of_pixels(images, &images.pixels, context.device);
                let Pictures::Pixels(pixels) = pixels else {
                    unreachable!("invariant: these are pixels");
                };
                let patches = patches(pixels, self.patch_size);
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
        vec![Pairs {
            text,
            image: ImageKind::MaskedPatches,
            ..Pairs::matched(encoded.samples)
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let states = fused.image();
        let hidden = context.hidden_patches();
        let [rows, length, _] = states.dims();
        let at = hidden_positions(hidden, (rows, length), self.fused_class_tokens);
        let count = at.len();
        if count == 0 {
            return Outcome::nothing(context.device);
        }
        let states = at_positions(states, &ints(at, &states.device()));
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
}
