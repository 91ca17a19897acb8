//! Image-text contrast: a caption is nearer to its image than to the batch's other images, and the reverse.
//!
//! Source: ALBEF (Li et al. 2021), section 3.2: 256-d projections of the class tokens, learnable temperature clamped to
//! [0.001, 0.5]; optionally a momentum encoder with a queue of its features, and its soft targets (section 3.3). The
//! temperature is learned as CLIP's logit scale, `ln(1 / temperature)`: its gradient has the size of the others'.
//! Samples that show the same picture are left out of each other's sums, in the batch and in the queue; soft targets give them
//! nothing. Texts that do not describe their picture have no part.
//! [`Views::Three`] is `BridgeTowerForContrastiveLearning` of Hugging Face. UNIMO-2's CMCL has no projection, MVP's VSC one
//! without a bias.
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
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::image::ImageEncoder;
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::text::{TextEncoder, TextInput};

use crate::contrast::{self, Contrast, Contrasted, Features, IDENTITY, cross_entropies};
use crate::objective::{Carry, Needs, Objective, Outcome, Pairs, UniModal, ints};
use crate::{is_default, single_precision, temperature};

/// What is contrasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Views {
    /// Texts with images, each after its own encoder, in both directions (ALBEF).
    Two,
    /// Texts with images as the cross-modal encoder takes them, and both with the fused pairs, in one direction each
    /// (BridgeTower).
    Three,
}

/// What stands between a class token and the common space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// A linear layer (ALBEF).
    #[default]
    Linear,
    /// A linear layer without a bias (MVP).
    LinearNoBias,
    /// Nothing (UNIMO-2).
    None,
}

/// What is brought to length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalised {
    /// Texts and images.
    #[default]
    Both,
    /// Images alone: a quirk of UNIMO-2's release, for parity with it.
    Images,
}

/// Names of this head in BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[
    rule("text_projection", "itc_text_head.fc", Form::Linear),
    rule("image_projection", "itc_image_head.fc", Form::Linear),
    rule("cross_projection", "itc_cross_modal_head.fc", Form::Linear),
    rule("logit_scale", "logit_scale", Form::Scalar),
];

/// `[objectives.itc]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItcConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// What is contrasted.
    pub views: Views,
    /// `E`.
    pub width: usize,
    /// Starting temperature; similarities are divided by it.
    pub temperature: f64,
    /// The temperature is kept within these.
    pub temperature_range: [f64; 2],
    /// What stands between a class token and the common space.
    #[serde(default, skip_serializing_if = "is_default")]
    pub projection: Projection,
    /// What is brought to length 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalised: Normalised,
    /// A momentum encoder and its queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<MomentumConfig>,
}

/// `[objectives.itc.momentum]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentumConfig {
    /// Share of the old value in each update of the momentum encoder, 0.995 in ALBEF.
    pub decay: f64,
    /// `Q`, 65,536 in ALBEF.
    pub queue: usize,
    /// Share of the momentum encoder's soft targets, 0.4 in ALBEF; 0 uses the true pairs alone.
    pub alpha: f64,
}

impl ItcConfig {
    /// Every value on its own and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("width", self.width)?;
        temperature::validate(self.temperature, self.temperature_range)?;
        ConfigError::unless(
            self.views == Views::Two || self.momentum.is_none(),
            "views",
            "three",
            "must be \"two\" with a momentum encoder",
        )?;
        ConfigError::unless(
            self.normalised == Normalised::Both || self.momentum.is_none(),
            "normalised",
            "images",
            "must be \"both\" with a momentum encoder",
        )?;
        if let Some(momentum) = &self.momentum {
            config::probability("momentum.decay", momentum.decay)?;
            config::probability("momentum.alpha", momentum.alpha)?;
            config::positive("momentum.queue", momentum.queue)?;
        }
        Ok(())
    }

    /// A new head; the momentum encoder starts as a copy of the backbone's.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig, backbone: &Backbone) -> Itc {
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
            text: average::frozen_copy(&backbone.text),
            image: average::frozen_copy(&backbone.image),
            text_projection: average::frozen_copy(&text_projection),
            image_projection: average::frozen_copy(&image_projection),
            text_queue: frozen(normalise(init.normal([config.queue, self.width]).val())),
            image_queue: frozen(normalise(init.normal([config.queue, self.width]).val())),
            picture_queue: frozen(init.constant([config.queue, IDENTITY], 0.0).val()),
            cursor: frozen(init.constant([1], 0.0).val()),
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
    /// Text width to `E`.
    pub text_projection: Option<Linear>,
    /// Image width to `E`.
    pub image_projection: Option<Linear>,
    /// Pair width to `E`, with three views.
    pub cross_projection: Option<Linear>,
    /// `[1]`: similarities are multiplied by its exponential.
    pub logit_scale: Param<Tensor<1>>,
    /// The momentum encoder and its queue.
    pub momentum: Option<Momentum>,
    /// What it was made from.
    #[module(skip)]
    pub config: ItcConfig,
}

/// A slowly moving copy of the encoders and the features that it gave to past batches. Nothing here tracks gradients.
#[derive(Module, Debug)]
pub struct Momentum {
    /// Copy of the text encoder.
    pub text: TextEncoder,
    /// Copy of the image encoder.
    pub image: Option<ImageEncoder>,
    /// Copy of the text projection.
    pub text_projection: Option<Linear>,
    /// Copy of the image projection.
    pub image_projection: Option<Linear>,
    /// `[Q, E]`.
    pub text_queue: Param<Tensor<2>>,
    /// `[Q, E]`.
    pub image_queue: Param<Tensor<2>>,
    /// `[Q, 3]`: which picture each row is of; zeros where that is not known.
    pub picture_queue: Param<Tensor<2>>,
    /// `[1]`: the row that the next features replace. A float, so that checkpoints hold one kind of tensor; exact up
    /// to 2^24 rows.
    pub cursor: Param<Tensor<1>>,
}

impl Itc {
    /// Images in the common space, each of length 1.
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

    /// Fused pairs in the common space, each of length 1; none with two views.
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

    /// What similarities are multiplied by, `[1, 1]`.
    pub fn scale(&self) -> Tensor<2> {
        temperature::scale(&self.logit_scale)
    }

    /// Texts in the common space, each of length 1 unless [`Normalised::Images`] says otherwise.
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

impl Momentum {
    /// What the momentum encoder makes of the batch: texts and images, `[B, E]`.
    fn embed(&self, input: &TextInput, pixels: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let first = |state: Tensor<3>| state.narrow(1, 0, 1).squeeze_dim::<2>(1);
        let text = first(self.text.forward(input, 1).remove(0));
        let encoder = self
            .image
            .as_ref()
            .expect("invariant: validation finds an encoder of pixels");
        let image = encoder.forward(pixels, 1).remove(0);
        let image = first(encoder.finish(image));
        (
            embed(self.text_projection.as_ref(), text, true).detach(),
            embed(self.image_projection.as_ref(), image, true).detach(),
        )
    }

    /// Writes features over the oldest rows.
    fn enqueue(&mut self, carry: Carry) {
        let [queue, _] = self.text_queue.dims();
        let [rows, _] = carry.texts.dims();
        let cursor = self.cursor.val().into_scalar::<f32>() as usize;
        let at: Vec<i32> = (0..rows).map(|i| ((cursor + i) % queue) as i32).collect();
        let keep = rows.saturating_sub(queue);
        let replace = |param: &mut Param<Tensor<2>>, new: Tensor<2>| {
            let new = new.without_autodiff();
            let at = ints(at[keep..].to_vec(), &new.device());
            *param = parameters::update(param.clone(), |old| {
                let kept = old.clone().select(0, at.clone());
                let delta = new.narrow(0, keep, rows - keep) - kept;
                old.select_assign(0, at, delta, burn::tensor::IndexingUpdateOp::Add)
            });
        };
        replace(&mut self.text_queue, carry.texts);
        replace(&mut self.image_queue, carry.images);
        let pictures = contrast::stored(&carry.pictures, &self.picture_queue.device());
        replace(&mut self.picture_queue, pictures);
        let next = ((cursor + rows) % queue) as f32;
        self.cursor = parameters::update(self.cursor.clone(), |old| old.zeros_like() + next);
    }
}

/// Names of the features.
const TEXTS: &str = "texts";
const IMAGES: &str = "images";
const CROSSED: &str = "crossed";

impl Contrast for Itc {
    fn rows(&self, batch: &UniModal) -> Vec<usize> {
        batch.describing.clone()
    }

    fn pairs(&self, batch: &UniModal) -> Option<Pairs> {
        (self.config.views == Views::Three).then(|| Pairs::of_rows(batch.describing.clone()))
    }

    fn features(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        fused: Option<&FusionOutput>,
    ) -> Features {
        let (texts, images) = batch
            .texts
            .as_ref()
            .zip(batch.images.as_ref())
            .expect("invariant: the step gives what `needs` asks for");
        let rows = &batch.describing;
        let texts = self.embed_texts(texts).narrow(0, 0, batch.samples);
        let mut named = vec![
            (TEXTS, contrast::take(texts, rows)),
            (IMAGES, contrast::take(self.embed_images(images), rows)),
        ];
        let crossed = fused.and_then(|fused| self.embed_pairs(backbone, fused));
        named.extend(crossed.map(|crossed| (CROSSED, crossed)));
        Features::new(named)
    }

    fn fixed(&self, batch: &UniModal) -> Features {
        let Some(momentum) = &self.momentum else {
            return Features::default();
        };
        let input = batch.text_input.as_ref();
        let (input, pixels) = input
            .zip(batch.pixels.clone())
            .expect("invariant: the step gives what `needs` asks for");
        let (texts, images) = momentum.embed(input, pixels);
        let rows = &batch.describing;
        Features::new(vec![
            (TEXTS, contrast::take(texts, rows)),
            (IMAGES, contrast::take(images, rows)),
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

impl Itc {
    /// The loss over the samples and the features of past ones.
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
        let carry = Carry {
            texts: all.fixed.of(TEXTS),
            images: all.fixed.of(IMAGES),
            pictures: all.pictures.clone(),
        };
        let [queue, _] = momentum.text_queue.dims();
        let before = contrast::seen_before(&all.pictures, momentum.picture_queue.val());
        let hidden = contrast::beside((duplicates, n), (before, queue), n, &device);
        let and_queue = |new: &Tensor<2>, queue: &Param<Tensor<2>>| {
            Tensor::cat(vec![new.clone(), queue.val()], 0)
        };
        let all_images = and_queue(&carry.images, &momentum.image_queue);
        let all_texts = and_queue(&carry.texts, &momentum.text_queue);
        let scale = self.scale();
        let scores = |own: &Tensor<2>, other: &Tensor<2>| {
            contrast::hide(scores(own, other, &scale), hidden.as_ref())
        };
        let alpha = self.config.momentum.as_ref().map_or(0.0, |m| m.alpha);
        let soft = |own: &Tensor<2>, other: &Tensor<2>| {
            let scores = scores(own, other).detach();
            let hard = one_hot(n, n + queue, &device);
            softmax(scores, 1).mul_scalar(alpha) + hard.mul_scalar(1.0 - alpha)
        };
        let (to_images, to_texts) = (scores(&texts, &all_images), scores(&images, &all_texts));
        let mut outcome = cross_entropies(vec![to_images.clone(), to_texts.clone()], &labels);
        if alpha > 0.0 {
            let loss = soft_cross_entropy(to_images, soft(&carry.texts, &all_images))
                + soft_cross_entropy(to_texts, soft(&carry.images, &all_texts));
            outcome.loss = loss.mul_scalar(0.5);
        }
        outcome.carry = Some(carry);
        outcome
    }
}

impl Objective for Itc {
    fn needs(&self) -> Needs {
        Needs {
            images: true,
            texts: true,
            masked: None,
            samples: 2,
            describing: true,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn contrast(&self) -> Option<&dyn Contrast> {
        Some(self)
    }

    fn pairs(&self, batch: &UniModal, _rng: &mut ChaCha8Rng) -> Option<Pairs> {
        Contrast::pairs(self, batch)
    }

    fn loss(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let fused = fused.map(|(_, fused)| fused);
        contrast::alone(self, backbone, batch, fused.as_ref())
    }

    fn adopt(&mut self, backbone: &Backbone) {
        if let Some(momentum) = &mut self.momentum {
            momentum.text = average::frozen_copy(&backbone.text);
            momentum.image = average::frozen_copy(&backbone.image);
            momentum.text_projection = average::frozen_copy(&self.text_projection);
            momentum.image_projection = average::frozen_copy(&self.image_projection);
        }
    }

    fn after_step(&mut self, backbone: &Backbone, carries: Vec<Carry>) {
        temperature::clamp(&mut self.logit_scale, self.config.temperature_range);
        let decay = self.config.momentum.as_ref().map(|m| m.decay);
        if let (Some(mut momentum), Some(decay)) = (self.momentum.take(), decay) {
            momentum.text = average::update(momentum.text, &backbone.text, decay);
            momentum.image = average::update(momentum.image, &backbone.image, decay);
            momentum.text_projection =
                average::update(momentum.text_projection, &self.text_projection, decay);
            momentum.image_projection =
                average::update(momentum.image_projection, &self.image_projection, decay);
            carries
                .into_iter()
                .for_each(|carry| momentum.enqueue(carry));
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
    match normalised {
        true => normalise(projected),
        false => projected,
    }
}

fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value.detach()).set_require_grad(false)
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
