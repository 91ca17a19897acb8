//! Image-text contrast: a caption is nearer to its image than to the batch's other images, and vice versa.
//!
//! Source: ALBEF (Li et al. 2021), section 3.2: 256-d projections of the class tokens, learnable temperature clamped to [0.001,
//! 0.5]; optionally the teacher's features in a queue, and its soft targets (section 3.3). The temperature is learned as CLIP's
//! logit scale, `ln(1 / temperature)`, so that its gradient has the size of the others'. Samples that show the same image are left
//! out of each other's sums, in the batch and in the queue; soft targets give them nothing. Texts that do not describe their image
//! take no part. [`Views::Three`] is `BridgeTowerForContrastiveLearning` of Hugging Face. UNIMO-2's CMCL has no projection; MVP's
//! VSC has one without a bias.
//!
//! Shape legend: `B` samples, `E` width of the common space, `Q` queue length.

use burn::module::{Module, Param};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Bool, Device, Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::average;
use unimo_core::init::Init;
use unimo_core::layers::{Linear, normalise};
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::output::FusionOutput;

use crate::context::Context;
use crate::contrast::{self, Contrast, Contrasted, cross_entropies};
use crate::encoded::Encoded;
use crate::features::Features;
use crate::labels::ints;
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::{Carry, Outcome};
use crate::pairs::{Fused, Pairs};
use crate::partners::Between;
use crate::queue::Queue;
use crate::ramp::{self, ALPHA, Ramp};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::weight;
use crate::{NEEDS_TWO_STREAMS, is_default, single_precision, temperature};

/// Which features are contrasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Views {
    /// Texts with images, each after its own encoder, in both directions (ALBEF).
    #[default]
    Two,
    /// Texts with images as the cross-modal encoder reads them, and both with the fused pairs, in one direction each (BridgeTower).
    Three,
}

/// The layer between a class token and the common space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// A linear layer (ALBEF).
    #[default]
    Linear,
    /// A linear layer without a bias (MVP).
    LinearNoBias,
    /// No layer (UNIMO-2).
    None,
}

/// Which features are scaled to length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalised {
    /// Texts and images.
    #[default]
    Both,
    /// Images alone: a quirk of UNIMO-2's release, kept for parity with it.
    Images,
}

/// Names of this head's parameters in BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[
    rule("text_projection", "itc_text_head.fc", Form::Linear),
    rule("image_projection", "itc_image_head.fc", Form::Linear),
    rule("cross_projection", "itc_cross_modal_head.fc", Form::Linear),
    rule("logit_scale", "logit_scale", Form::Scalar),
];

/// Names of this head's parameters in ALBEF.
pub const ALBEF_NAMES: &[Rule] = &[
    rule("text_projection", "text_proj", Form::Linear),
    rule("image_projection", "vision_proj", Form::Linear),
    rule("logit_scale", "temp", Form::Temperature),
];

/// `[objectives.itc]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItcConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Which features are contrasted.
    #[serde(default)]
    pub views: Views,
    /// `E`: numbers of a feature in the common space, 256 in ALBEF.
    #[serde(default = "width")]
    pub width: usize,
    /// Initial temperature; similarities are divided by it.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Lowest and highest temperature.
    #[serde(default = "temperature_range")]
    pub temperature_range: [f64; 2],
    /// The layer between a class token and the common space.
    #[serde(default, skip_serializing_if = "is_default")]
    pub projection: Projection,
    /// Which features are scaled to length 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalised: Normalised,
    /// The teacher's features of past batches, and its soft targets; it needs a `[teacher]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<MomentumConfig>,
}

pub(super) fn width() -> usize {
    256
}

pub(super) fn temperature() -> f64 {
    0.07
}

pub(super) fn temperature_range() -> [f64; 2] {
    [0.001, 0.5]
}

/// `[objectives.itc.momentum]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentumConfig {
    /// `Q`: number of features that are kept, 65,536 in ALBEF.
    pub queue: usize,
    /// Share of the teacher's soft targets, 0.4 in ALBEF; 0 uses the true pairs alone.
    pub alpha: f64,
    /// Steps over which `alpha` rises from 0, those of the first epoch in ALBEF; 0: it has its value from the first step on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha_ramp: usize,
}

impl Settings for ItcConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "image-text contrast"
    }

    fn requests(&self) -> Vec<Request> {
        let mut all = vec![
            Request::text(TextForm::Plain),
            Request::image(ImageForm::Plain),
        ];
        if self.momentum.is_some() {
            all.push(Request::text(TextForm::Plain).by_teacher());
            all.push(Request::image(ImageForm::Plain).by_teacher());
        }
        all
    }

    fn samples(&self) -> Samples {
        Samples::CAPTIONED
    }

    fn gives_similarity(&self) -> Option<Between> {
        Some(Between::TextsAndImages)
    }

    fn queue(&self) -> Option<(&'static str, usize)> {
        let momentum = self.momentum.as_ref();
        momentum.map(|momentum| ("momentum.queue", momentum.queue))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("width", self.width)?;
        temperature::validate(self.temperature, self.temperature_range)?;
        ConfigError::unless(
            self.views == Views::Two || self.momentum.is_none(),
            "views",
            "three",
            "must be \"two\" with a momentum queue",
        )?;
        ConfigError::unless(
            self.normalised == Normalised::Both || self.momentum.is_none(),
            "normalised",
            "images",
            "must be \"both\" with a momentum queue",
        )?;
        ConfigError::unless(
            self.views == Views::Two || self.projection != Projection::None,
            "projection",
            "none",
            "must not be \"none\" with views = \"three\", which are of different widths",
        )?;
        if let Some(momentum) = &self.momentum {
            ramp::validate("momentum", momentum.alpha, momentum.alpha_ramp)?;
            config::positive("momentum.queue", momentum.queue)?;
            ConfigError::unless(
                momentum.queue <= LONGEST_QUEUE,
                "momentum.queue",
                momentum.queue,
                format_args!("must be at most {LONGEST_QUEUE}"),
            )?;
        }
        Ok(())
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.views == Views::Two || model.has_two_streams(),
            "views",
            "three",
            NEEDS_TWO_STREAMS,
        )?;
        let (text, image) = (model.text.width, model.image_width());
        ConfigError::unless(
            self.projection != Projection::None || (self.width == text && self.width == image),
            "width",
            self.width,
            format_args!(
                "must be model.text.width = {text} and the width of the image encoder = {image} where \
                 projection = \"none\""
            ),
        )
    }
}

impl ObjectiveConfig for ItcConfig {
    type Objective = Itc;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Itc {
        let mut project = |width: usize| match self.projection {
            Projection::None => None,
            kind => {
                let bias = kind == Projection::Linear;
                Some(Linear::new(init, width, self.width, bias))
            }
        };
        let text_projection = project(model.text.width);
        let (image_width, cross_width) = match self.views {
            Views::Two => (model.image_width(), None),
            Views::Three => (model.cross_width(), Some(2 * model.cross_width())),
        };
        let image_projection = project(image_width);
        let momentum = self.momentum.as_ref().map(|config| Momentum {
            text_projection: average::frozen_copy(&text_projection),
            image_projection: average::frozen_copy(&image_projection),
            queue: Queue::new(init, &[TEXTS, IMAGES], config.queue, self.width),
            ramp: Ramp::new(init, config.alpha, config.alpha_ramp),
        });
        Itc {
            text_projection,
            image_projection,
            cross_projection: cross_width.map(|width| Linear::new(init, width, self.width, true)),
            logit_scale: temperature::init(init, self.temperature),
            momentum,
            config: self.clone(),
        }
    }
}

/// The head of image-text contrast.
#[derive(Module, Debug)]
pub struct Itc {
    /// Projection from the text width to `E`.
    pub text_projection: Option<Linear>,
    /// Projection from the image width to `E`.
    pub image_projection: Option<Linear>,
    /// Projection from the pair width to `E`, with three views.
    pub cross_projection: Option<Linear>,
    /// `[1]`: similarities are multiplied by its exponential.
    pub logit_scale: Param<Tensor<1>>,
    /// The teacher's copies of the projections, and its features of past batches.
    pub momentum: Option<Momentum>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: ItcConfig,
}

/// The teacher's part of this head: it follows the head as the teacher follows the encoders, and tracks no gradient.
#[derive(Module, Debug)]
pub struct Momentum {
    /// Copy of the text projection.
    pub text_projection: Option<Linear>,
    /// Copy of the image projection.
    pub image_projection: Option<Linear>,
    /// The teacher's features of past batches.
    pub queue: Queue,
    /// The share of its soft targets.
    pub ramp: Ramp,
}

impl Itc {
    /// Embeds images in the common space, each with length 1.
    ///
    /// # Shapes
    ///
    /// - output: `[B, E]`
    pub fn embed_images(&self, images: &ImageFeatures) -> Tensor<2> {
        let class = match (self.config.views, images.states.last()) {
            (Views::Three, Some(state)) => state.clone().narrow(1, 0, 1).squeeze_dim::<2>(1),
            _ => images.class.clone(),
        };
        embed(self.image_projection.as_ref(), class, true)
    }

    /// Embeds fused pairs in the common space, each with length 1; `None` with two views.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs
    /// - output: `[B, E]`
    pub fn embed_pairs(&self, backbone: &Backbone, fused: &FusionOutput) -> Option<Tensor<2>> {
        let projection = self.cross_projection.as_ref()?;
        let fusion = backbone.fusion.as_ref()?;
        Some(embed(Some(projection), fusion.pool(fused), true))
    }

    /// Factor of the similarities, `[1, 1]`.
    pub fn scale(&self) -> Tensor<2> {
        temperature::scale(&self.logit_scale)
    }

    /// Embeds texts in the common space, each with length 1 unless [`Normalised::Images`] says otherwise.
    ///
    /// # Shapes
    ///
    /// - output: `[B, E]`
    pub fn embed_texts(&self, texts: &TextFeatures) -> Tensor<2> {
        let normalised = self.config.normalised == Normalised::Both;
        embed(
            self.text_projection.as_ref(),
            texts.class.clone(),
            normalised,
        )
    }
}

/// Names of the features.
pub(super) const TEXTS: &str = "texts";
pub(super) const IMAGES: &str = "images";
/// Rows of a queue at most. InfoXLM's has 131,072.
pub(super) const LONGEST_QUEUE: usize = 1 << 24;

const CROSSED: &str = "crossed";

impl Contrast for Itc {
    fn samples(&self, encoded: &Encoded) -> Vec<usize> {
        encoded.describing.clone()
    }

    fn pairs(&self, encoded: &Encoded) -> Vec<Pairs> {
        match self.config.views {
            Views::Two => Vec::new(),
            Views::Three => vec![Pairs::of_rows(encoded.describing.clone())],
        }
    }

    fn features(&self, context: &Context<'_>, fused: &[Fused]) -> Features {
        let (texts, images) = plain(context, By::Student);
        let samples = &context.encoded.describing;
        let mut named = vec![
            (TEXTS, contrast::take(self.embed_texts(&texts), samples)),
            (IMAGES, contrast::take(self.embed_images(&images), samples)),
        ];
        let fused = fused.first().and_then(Fused::some);
        let crossed = fused.and_then(|(_, fused)| self.embed_pairs(context.backbone, fused));
        named.extend(crossed.map(|crossed| (CROSSED, crossed)));
        Features::new(named)
    }

    fn fixed(&self, context: &Context<'_>) -> Features {
        let Some(momentum) = &self.momentum else {
            return Features::default();
        };
        let (texts, images) = plain(context, By::Teacher);
        let samples = &context.encoded.describing;
        let embed = |projection: &Option<Linear>, class: Tensor<2>| {
            let embedded = embed(projection.as_ref(), class, true).detach();
            contrast::take(embedded, samples)
        };
        Features::new(vec![
            (TEXTS, embed(&momentum.text_projection, texts.class)),
            (IMAGES, embed(&momentum.image_projection, images.class)),
        ])
    }

    fn similarity(&self, features: &Features) -> Option<Tensor<2>> {
        let features = features.map(|x| x.clone().without_autodiff());
        let texts = features.of(TEXTS);
        let similarity = texts.matmul(features.of(IMAGES).transpose());
        Some(similarity * self.scale().without_autodiff())
    }

    fn over(&self, all: &Contrasted) -> Outcome {
        let (texts, images) = (all.features.of(TEXTS), all.features.of(IMAGES));
        let n = all.len();
        assert_shape!(texts, [n, self.config.width]);
        let device = texts.device();
        let labels = ints((0..n as i32).collect(), &device);
        let duplicates = all.duplicates(&device);
        let scale = self.scale();
        let scores = |a: &Tensor<2>, b: &Tensor<2>| scores(a, b, &scale);
        if let Some(crossed) = all.features.get(CROSSED) {
            let scores = [
                scores(&texts, &images),
                scores(&texts, crossed),
                scores(&images, crossed),
            ];
            let scores = scores.map(|s| contrast::hide(s, duplicates.as_ref()));
            let mut outcome = cross_entropies(scores.into(), &labels);
            outcome.without_negative = all.without_negative();
            return outcome;
        }
        let Some(momentum) = &self.momentum else {
            let scores = [scores(&texts, &images), scores(&images, &texts)];
            let scores = scores.map(|s| contrast::hide(s, duplicates.as_ref()));
            let mut outcome = cross_entropies(scores.into(), &labels);
            outcome.without_negative = all.without_negative();
            return outcome;
        };
        self.with_queue(momentum, all, duplicates)
    }
}

/// Plain captions and images as one of the models has read them.
fn plain(context: &Context<'_>, by: By) -> (TextFeatures, ImageFeatures) {
    let encoded = context.encoded;
    encoded
        .texts(by, &TextKind::Plain)
        .zip(encoded.images(by, ImageKind::Plain).cloned())
        .expect("invariant: the step gives what was requested")
}

impl Itc {
    /// The loss over the samples and the queue's features.
    fn with_queue(
        &self,
        momentum: &Momentum,
        all: &Contrasted,
        duplicates: Option<Tensor<2, Bool>>,
    ) -> Outcome {
        let (texts, images) = (all.features.of(TEXTS), all.features.of(IMAGES));
        let n = all.len();
        let device = texts.device();
        let labels = ints((0..n as i32).collect(), &device);
        let (own_texts, own_images) = (all.fixed.of(TEXTS), all.fixed.of(IMAGES));
        let queue = momentum.queue.length();
        let before = contrast::seen_before(&all.pictures, momentum.queue.pictures.val());
        let hidden = contrast::beside((duplicates, n), (before, queue), n, &device);
        let and_queue =
            |new: &Tensor<2>, kind| Tensor::cat(vec![new.clone(), momentum.queue.of(kind)], 0);
        let all_images = and_queue(&own_images, IMAGES);
        let all_texts = and_queue(&own_texts, TEXTS);
        let scale = self.scale();
        let scores = |own: &Tensor<2>, other: &Tensor<2>| {
            contrast::hide(scores(own, other, &scale), hidden.as_ref())
        };
        let share = momentum.ramp.share();
        let soft = |own: &Tensor<2>, other: &Tensor<2>| {
            let scores = scores(own, other).detach();
            let hard = one_hot(n, n + queue, &device);
            share.mix(softmax(scores, 1), hard)
        };
        let (to_images, to_texts) = (scores(&texts, &all_images), scores(&images, &all_texts));
        let mut outcome = cross_entropies(vec![to_images.clone(), to_texts.clone()], &labels);
        if !share.is_zero() {
            let loss = soft_cross_entropy(to_images, soft(&own_texts, &all_images))
                + soft_cross_entropy(to_texts, soft(&own_images, &all_texts));
            outcome.loss = loss.mul_scalar(0.5);
        }
        if let Some(alpha) = share.rising() {
            outcome = outcome.and_metric(ALPHA, alpha, 1);
        }
        outcome.carry = Some(Carry {
            features: all.fixed.clone(),
            pictures: all.pictures.clone(),
        });
        outcome
    }
}

impl Objective for Itc {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn contrast(&self) -> Option<&dyn Contrast> {
        Some(self)
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        Contrast::pairs(self, encoded)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        contrast::alone(self, context, fused)
    }

    fn adopt(&mut self) {
        if let Some(momentum) = &mut self.momentum {
            momentum.text_projection = average::frozen_copy(&self.text_projection);
            momentum.image_projection = average::frozen_copy(&self.image_projection);
        }
    }

    fn after_step(&mut self, after: &AfterStep) {
        temperature::clamp(&mut self.logit_scale, self.config.temperature_range);
        if let (Some(mut momentum), Some(decay)) = (self.momentum.take(), after.decay) {
            momentum.text_projection =
                average::update(momentum.text_projection, &self.text_projection, decay);
            momentum.image_projection =
                average::update(momentum.image_projection, &self.image_projection, decay);
            for carry in &after.carries {
                momentum.queue.push(carry);
            }
            momentum.ramp.after_step();
            self.momentum = Some(momentum);
        }
    }
}

/// # Shapes
///
/// - a: `[N, E]`; b: `[M, E]`; scale: `[1, 1]`
/// - output: `[N, M]`
fn scores(a: &Tensor<2>, b: &Tensor<2>, scale: &Tensor<2>) -> Tensor<2> {
    a.clone().matmul(b.clone().transpose()) * scale.clone()
}

/// # Shapes
///
/// - class: `[B, width]`
/// - output: `[B, E]`, in f32, rows of length 1 if they are to be
pub(crate) fn embed(projection: Option<&Linear>, class: Tensor<2>, normalised: bool) -> Tensor<2> {
    let projected = match projection {
        Some(projection) => projection.forward(class),
        None => class,
    };
    let projected = single_precision(projected);
    if normalised {
        normalise(projected)
    } else {
        projected
    }
}

/// Row `i` has its 1 in column `i`.
fn one_hot(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0f32; rows * columns];
    for i in 0..rows {
        values[i * columns + i] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

/// # Shapes
///
/// - scores, targets: `[B, N]`
/// - output: `[1]`
fn soft_cross_entropy(scores: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (log_softmax(scores, 1) * targets).sum_dim(1).mean().neg()
}
