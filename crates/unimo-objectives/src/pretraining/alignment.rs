//! Alignment of stories: two stories are as near after the stream as their slices align (Sugar's structure-induced loss, this project's reading).
//!
//! Source: Sugar (arXiv 2411.00304) fixes that the average-pooled states of a sequence of images and sentences are trained to have the similarity
//! that the global alignment kernel finds between slices, which frozen discriminative encoders embed, beside a generative loss (`objectives.lm`
//! with `stories = true`). No code is published; what is below is this project's reading:
//!
//! ```text
//! z_b  = normalise(W h_b)                 h_b: the mean of the last states of story b; W may be absent
//! S_ab = (1 + z_a z_b) / 2
//! Y_ab = K~(a, b)                         over cosines of slices in the common space of [objectives.itc]
//! L    = mean over a != b of (S_ab - Y_ab)^2                         loss = "mse"
//!        mean over a != b of -Y log S - (1 - Y) log(1 - S)           loss = "bce"
//!        mean over a of KL(softmax(Y_a / tau') || softmax(z_a z / tau)), without a      loss = "kl"
//! ```
//!
//! [`unimo_core::alignment`] has the kernel. The slices' encoders should stand still: they come from an earlier stage (`encoders = "own"` with a stage
//! that trains neither text nor image encoder), or from the teacher. Stories are compared within their micro-batch. With `targets = "learned"` a layer
//! over the slices' vectors learns too, by the kernel's own gradient, the expected alignment.
//!
//! Shape legend: `B` stories, `N` slices of all stories, `E` width of the common space, `D` width of the stream.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::alignment::{Kernel, Temper};
use unimo_core::init::Init;
use unimo_core::layers::{Linear, normalise};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::joint::interleaved::Layout;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::lent::Lenders;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::itc::{self, Itc, Views};
use crate::request::{By, Request, Samples, SliceForm};
use crate::stories::{StoryFeatures, StoryPooling, pool};
use crate::{NEEDS_STORIES, ObjectivesConfig, is_default, single_precision, weight};

/// Name of the mean of the targets.
pub const TARGET: &str = "target";

/// `[objectives.alignment]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignmentConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Distance at which two slices stop being alike, as a share of the unit vectors' length.
    #[serde(default = "sigma")]
    pub sigma: f64,
    /// What becomes of the kernel's logarithm: divided by the longer story's number of slices, or not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub temper: Temper,
    /// Slices are only aligned if their places differ by less; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<usize>,
    /// How similarities are compared with their targets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub loss: AlignmentLoss,
    /// For `loss = "kl"`: temperatures of the similarities and of the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperatures: Option<[f64; 2]>,
    /// How the states of a story become one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pooling: StoryPooling,
    /// Numbers of a story after a linear layer; absent: there is no layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<usize>,
    /// Whose encoders give the slices' vectors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoders: SliceEncoders,
    /// Whether the targets learn: `"fixed"`, or `{ learned = E }` with `E` of `objectives.itc.width`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub targets: Targets,
}

fn sigma() -> f64 {
    1.0
}

/// How similarities are compared with their targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlignmentLoss {
    /// The mean of the squared differences.
    #[default]
    Mse,
    /// The binary cross-entropy.
    Bce,
    /// The Kullback-Leibler divergence of rows.
    Kl,
}

/// Whose encoders give the slices' vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceEncoders {
    /// The student's, without a gradient: for stages that do not train them.
    #[default]
    Own,
    /// The teacher's.
    Teacher,
}

/// Whether the targets learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// They have no gradient.
    #[default]
    Fixed,
    /// A linear layer over the slices' vectors, of this width, learns.
    Learned(usize),
}

impl AlignmentConfig {
    /// The kernel of its targets.
    pub fn kernel(&self) -> Kernel {
        Kernel {
            sigma: self.sigma,
            band: self.band,
            temper: self.temper,
        }
    }
}

impl Settings for AlignmentConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "alignment of stories"
    }

    fn requests(&self) -> Vec<Request> {
        let each = Request::slices(SliceForm::Each);
        vec![
            Request::slices(SliceForm::InOrder),
            match self.encoders {
                SliceEncoders::Own => each,
                SliceEncoders::Teacher => each.by_teacher(),
            },
        ]
    }

    fn samples(&self) -> Samples {
        Samples {
            least: 2,
            ..Samples::EACH
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("sigma", self.sigma)?;
        if let Some(band) = self.band {
            config::positive("band", band)?;
        }
        if let Some(width) = self.projection {
            config::positive("projection", width)?;
        }
        let kl = self.loss == AlignmentLoss::Kl;
        for (index, value) in self.temperatures.iter().flatten().enumerate() {
            config::above_zero(&format!("temperatures[{index}]"), *value)?;
        }
        ConfigError::unless(
            self.temperatures.is_some() == kl,
            "temperatures",
            if kl { "absent" } else { "there" },
            "must be two numbers with loss = \"kl\" and absent otherwise, where nothing is divided by them",
        )?;
        ConfigError::unless(
            self.targets == Targets::Fixed || !kl,
            "targets",
            format_args!("{:?}", self.targets),
            "must be \"fixed\" with loss = \"kl\": the gradient of its targets is not written",
        )
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        let itc = all.itc.as_ref();
        let Some(itc) = itc.filter(|itc| itc.views == Views::Two) else {
            return ConfigError::of_section(
                false,
                "compares slices in the common space of [objectives.itc] with views = \"two\", which is absent",
            );
        };
        match self.targets {
            Targets::Fixed => Ok(()),
            Targets::Learned(width) => ConfigError::unless(
                width == itc.width,
                "targets.learned",
                width,
                format_args!("must be objectives.itc.width = {}", itc.width),
            ),
        }
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(model.reads_stories(), NEEDS_STORIES)
    }
}

impl ObjectiveConfig for AlignmentConfig {
    type Objective = Alignment;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Alignment {
        let width = model.cross_width();
        let mut layer = |out: usize, own: usize| Linear::new(init, own, out, false);
        Alignment {
            projection: self.projection.map(|out| layer(out, width)),
            slices: match self.targets {
                Targets::Fixed => None,
                Targets::Learned(width) => Some(layer(width, width)),
            },
            lent: None,
            config: self.clone(),
        }
    }
}

/// The head of the alignment of stories.
#[derive(Module, Debug)]
pub struct Alignment {
    /// `D -> E'`.
    pub projection: Option<Linear>,
    /// The layer over the slices' vectors, where targets learn.
    pub slices: Option<Linear>,
    /// The projections into the common space that it shares with image-text contrast.
    #[module(skip)]
    lent: Option<Box<Itc>>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: AlignmentConfig,
}

impl Alignment {
    /// Each story as a row of length 1.
    ///
    /// # Shapes
    ///
    /// - states: `[B, L, D]`
    /// - output: `[B, E']`
    pub fn embed(&self, states: Tensor<3>, layout: &Layout) -> Tensor<2> {
        let pooled = pool(states, layout, self.config.pooling);
        normalise(match &self.projection {
            Some(projection) => single_precision(projection.forward(pooled)),
            None => pooled,
        })
    }

    /// The slices in the common space, images first, each of length 1. They have a gradient if they learn.
    ///
    /// # Shapes
    ///
    /// - output: `[N, E]`
    fn vectors(&self, features: &StoryFeatures) -> Tensor<2> {
        let lent = self.lent.as_deref();
        let itc = lent.expect("invariant: validation finds [objectives.itc]");
        let teacher = itc.momentum.as_ref();
        let teacher = teacher.filter(|_| self.config.encoders == SliceEncoders::Teacher);
        let fixed = match teacher {
            Some(teacher) => {
                let layers = (&teacher.text_projection, &teacher.image_projection);
                slice_vectors(features, layers)
            }
            None => itc_vectors(itc, features),
        };
        let fixed = fixed.detach();
        match &self.slices {
            Some(layer) => normalise(single_precision(layer.forward(fixed))),
            None => fixed,
        }
    }
}

/// The slices of stories in the common space of a contrast, images first, each of length 1.
///
/// # Shapes
///
/// - output: `[N, E]`
pub(crate) fn itc_vectors(itc: &Itc, features: &StoryFeatures) -> Tensor<2> {
    slice_vectors(features, (&itc.text_projection, &itc.image_projection))
}

fn slice_vectors(
    features: &StoryFeatures,
    (of_texts, of_images): (&Option<Linear>, &Option<Linear>),
) -> Tensor<2> {
    let images = features.images.as_ref();
    let images = images.map(|images| itc::embed(of_images.as_ref(), images.class.clone(), true));
    let texts = features.texts.as_ref();
    let texts = texts.map(|texts| itc::embed(of_texts.as_ref(), texts.class.clone(), true));
    Tensor::cat(images.into_iter().chain(texts).collect(), 0)
}

impl Objective for Alignment {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent = lenders.of::<Itc>().map(|itc| Box::new(itc.clone()));
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        vec![Pairs::stories(encoded.samples)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let by = match self.config.encoders {
            SliceEncoders::Own => By::Student,
            SliceEncoders::Teacher => By::Teacher,
        };
        let encoded = context.encoded;
        let layout = &encoded.stories(By::Student, SliceForm::InOrder).layout;
        let z = self.embed(fused.text().clone(), layout);
        let vectors = self.vectors(encoded.stories(by, SliceForm::Each));
        self.over(z, vectors, &context.slices().numbered())
    }
}

impl Alignment {
    /// The loss of some stories, whose slices are rows of `vectors`.
    ///
    /// # Shapes
    ///
    /// - z: `[B, E']`, vectors: `[N, E]`, rows of length 1
    pub fn over(&self, z: Tensor<2>, vectors: Tensor<2>, stories: &[Vec<usize>]) -> Outcome {
        let (kernel, count) = (self.config.kernel(), stories.len());
        assert_shape!(z, [count, _]);
        let device = z.device();
        let cosines = vectors.clone().matmul(vectors.transpose());
        let [slices, _] = cosines.dims();
        let on_host = host(cosines.clone());
        let cosine = |a: usize, b: usize| f64::from(on_host[a * slices + b]);
        let gram = kernel.gram(stories, cosine);
        let pairs = count * (count - 1);
        let others = |values: &[f64]| -> Tensor<2> {
            let each = values.iter().enumerate();
            let each = each.map(|(at, value)| {
                let own = at % (count + 1) == 0;
                if own { 0.0 } else { *value as f32 }
            });
            let data = TensorData::new(each.collect::<Vec<f32>>(), [count, count]);
            Tensor::from_data(data, &device)
        };
        let targets = others(&gram);
        let apart = others(&vec![1.0; count * count]);
        let near = z.clone().matmul(z.transpose());
        let similar = (near.clone() + 1.0).mul_scalar(0.5);
        let mut loss = match self.config.loss {
            AlignmentLoss::Mse => {
                let squares = (similar.clone() - targets.clone()).square() * apart.clone();
                squares.sum().div_scalar(pairs as f64)
            }
            AlignmentLoss::Bce => {
                let shares = similar.clone().clamp(SMALLEST, 1.0 - SMALLEST);
                let against =
                    (shares.clone().neg() + 1.0).log() * (apart.clone() - targets.clone());
                let sums = (shares.log() * targets.clone() + against) * apart.clone();
                sums.sum().div_scalar(pairs as f64).neg()
            }
            AlignmentLoss::Kl => {
                let [own, of_targets] = self.config.temperatures.unwrap_or([1.0; 2]);
                // What a story is compared with, without itself.
                let hidden = (apart.clone() - 1.0).mul_scalar(HIDDEN);
                let log = |scores: Tensor<2>| log_softmax(scores + hidden.clone(), 1);
                let wanted = log(targets.clone().div_scalar(of_targets));
                let found = log(near.clone().div_scalar(own));
                let sums = wanted.clone().exp() * (wanted - found) * apart.clone();
                sums.sum().div_scalar(count as f64)
            }
        };
        if self.slices.is_some() {
            let of_gram = self.of_targets(&host(similar.clone()), &gram, count);
            let of_cosines = kernel.gradient(stories, cosine, &of_gram);
            let of_cosines: Vec<f32> = of_cosines.into_iter().map(|g| g as f32).collect();
            let data = TensorData::new(of_cosines, [slices, slices]);
            // 0, with the gradient that the targets give the cosines.
            let sum = (cosines * Tensor::from_data(data, &device)).sum();
            loss = loss + (sum.clone() - sum.detach());
        }
        Outcome::new(loss).and_metric(TARGET, targets.sum(), pairs)
    }

    /// The gradient of the loss with respect to each target, `[B, B]`, row-major.
    fn of_targets(&self, similar: &[f32], gram: &[f64], count: usize) -> Vec<f64> {
        let pairs = (count * (count - 1)) as f64;
        let of = |(at, (s, y)): (usize, (&f32, &f64))| {
            let s = f64::from(*s);
            if at % (count + 1) == 0 {
                return 0.0;
            }
            match self.config.loss {
                AlignmentLoss::Mse => 2.0 * (y - s) / pairs,
                AlignmentLoss::Bce => {
                    let s = s.clamp(SMALLEST, 1.0 - SMALLEST);
                    ((1.0 - s).ln() - s.ln()) / pairs
                }
                AlignmentLoss::Kl => unreachable!("invariant: validation refuses it"),
            }
        };
        similar.iter().zip(gram).enumerate().map(of).collect()
    }
}

/// Similarities are at least this far from 0 and 1 where their logarithms are taken.
const SMALLEST: f64 = 1e-6;
/// Stands for minus infinity in a softmax.
const HIDDEN: f64 = 1e9;

fn host(x: Tensor<2>) -> Vec<f32> {
    let data = x.without_autodiff().into_data();
    data.convert::<f32>().iter::<f32>().collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests;
