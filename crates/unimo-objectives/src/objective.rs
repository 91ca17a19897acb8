//! What an objective is.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unimo_batch::{Batch, ConfigError, MaskedTexts, TAGS, Texts};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::world::World;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;

use crate::contrast::{Contrast, Features};
use crate::encoded::Encoded;
use crate::pairs::Pairs;
use crate::request::{Request, Samples};
use crate::single_precision;
use crate::teacher::Teacher;

/// What the configuration of an objective says of it before it has weights.
pub trait Settings: Debug + Send + Sync {
    /// Factor of the loss in the sum.
    fn weight(&self) -> f64;

    /// What it wants encoded.
    fn requests(&self) -> Vec<Request>;

    /// Which samples count, and how many it needs.
    fn samples(&self) -> Samples;

    /// Whether it chooses wrong partners by how similar captions and images are.
    fn asks_similarity(&self) -> bool {
        false
    }

    /// Whether it says how similar captions and images are.
    fn gives_similarity(&self) -> bool {
        false
    }

    /// Every value on its own and against the others.
    fn validate(&self) -> Result<(), ConfigError>;

    /// The values against the encoders that are trained.
    fn validate_with(&self, _model: &BackboneConfig) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// The configuration of an objective, which makes it.
pub trait ObjectiveConfig: Settings + Clone + Serialize + DeserializeOwned + 'static {
    /// The objective with its head.
    type Objective: Objective + Module + 'static;

    /// A new head on top of encoders made from `model`.
    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Self::Objective;
}

/// A loss with its head. Each is one file and one line in the list in `lib.rs`, or is registered from another crate
/// ([`crate::registry`]).
///
/// A step calls `pairs`, then `loss`; [`Objective::after_step`] follows the optimiser's step and is the only place that changes
/// state. A loss that compares samples with each other is a [`Contrast`] too: it is then taken over all batches of a step.
pub trait Objective {
    /// What it was made from.
    fn settings(&self) -> &dyn Settings;

    /// How it compares samples with each other, if it does.
    fn contrast(&self) -> Option<&dyn Contrast> {
        None
    }

    /// The pairs that it wants from the cross-modal encoder.
    fn pairs(&self, _encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        Vec::new()
    }

    /// The loss. `fused` holds what became of each of its [`pairs`](Self::pairs), in their order.
    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome;

    /// The backbone has been given other weights before the first step: copies of what was made with it are made anew.
    fn adopt(&mut self) {}

    /// Clamps, moving averages and queues, after the optimiser's step.
    fn after_step(&mut self, _after: &AfterStep) {}
}

/// What a loss is computed from.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The encoders that are trained.
    pub backbone: &'a Backbone,
    /// Their moving average, where a recipe has one.
    pub teacher: Option<&'a Teacher>,
    /// The batch on the host: labels and targets.
    pub batch: &'a Batch,
    /// The batch after the uni-modal encoders.
    pub encoded: &'a Encoded,
    /// Where tensors are made; it draws the device's random numbers.
    pub device: &'a Device,
    /// The processes that train together.
    pub world: &'a World,
}

/// What an objective has requested of a batch is there: one that lacks it skips the objective.
impl<'a> Context<'a> {
    /// The batch's texts.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn texts(&self) -> &'a Texts {
        let texts = self.batch.texts.as_ref();
        texts.expect("invariant: the batch holds what was requested")
    }

    /// The texts with words or phrases hidden, and what is to be predicted.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn masked_texts(&self) -> &'a MaskedTexts {
        let masked = self.texts().masked.as_ref();
        masked.expect("invariant: the batch holds what was requested")
    }

    /// The images' tags with some hidden, and what is to be predicted.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn masked_tags(&self) -> &'a MaskedTexts {
        let tags = self.batch.further_texts.get(TAGS);
        let masked = tags.and_then(|tags| tags.masked.as_ref());
        masked.expect("invariant: the batch holds what was requested")
    }

    /// Which patches of the images are hidden, `[B, N]`, row-major.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested it.
    pub fn hidden_patches(&self) -> &'a [bool] {
        let images = self.batch.images.as_ref();
        let hidden = images.and_then(|images| images.patch_mask.as_ref());
        hidden.expect("invariant: the batch holds what was requested")
    }
}

/// What the cross-modal encoder made of an objective's pairs.
#[derive(Debug)]
pub struct Fused {
    /// The pairs asked for.
    pub pairs: Pairs,
    /// One row each; none where there are no pairs.
    pub output: Option<FusionOutput>,
}

impl Fused {
    /// The pairs and what became of them; none where there are no pairs.
    pub fn some(&self) -> Option<(&Pairs, &FusionOutput)> {
        Some((&self.pairs, self.output.as_ref()?))
    }

    /// The pairs and what became of them, of an objective that always has some.
    ///
    /// # Panics
    ///
    /// Panics if nothing was asked for, or of no pair.
    pub fn only(fused: &[Self]) -> (&Pairs, &FusionOutput) {
        let first = fused.first();
        first
            .and_then(Self::some)
            .expect("invariant: the step fuses the pairs asked for")
    }
}

/// What follows the optimiser's step.
#[derive(Debug, Clone, Default)]
pub struct AfterStep {
    /// Share of the old value in each update of the teacher; none where there is no teacher.
    pub decay: Option<f64>,
    /// What each loss gave, in the order of the micro-batches: one entry for those that were contrasted together.
    pub carries: Vec<Carry>,
}

/// Features that outlive their step.
#[derive(Debug, Clone)]
pub struct Carry {
    /// `[B, E]` each, tracking no gradient.
    pub features: Features,
    /// `[B]`: which image each sample shows, where that is known.
    pub pictures: Vec<Option<u64>>,
}

/// A number that is said of a loss: the mean of something over a count.
#[derive(Debug, Clone)]
pub struct Metric {
    /// What it is.
    pub name: &'static str,
    /// The sum, `[1]`, in f32, on the device.
    pub sum: Tensor<1>,
    /// Of how many.
    pub count: usize,
}

/// The share of predictions that are right.
pub const ACCURACY: &str = "accuracy";

/// An objective's result on one batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The unweighted loss, `[1]`, in f32.
    pub loss: Tensor<1>,
    /// Whether the loss has a gradient; that of nothing has none.
    pub learns: bool,
    /// What is said of it.
    pub metrics: Vec<Metric>,
    /// Samples that found no negative, because all others show the same image.
    pub without_negative: usize,
    /// What [`Objective::after_step`] wants back.
    pub carry: Option<Carry>,
}

impl Outcome {
    /// A loss of which nothing else is said.
    pub fn new(loss: Tensor<1>) -> Self {
        Self {
            loss,
            learns: true,
            metrics: Vec::new(),
            without_negative: 0,
            carry: None,
        }
    }

    /// A loss of predictions, of which `correct` of `count` are right.
    pub fn with_accuracy(loss: Tensor<1>, correct: Tensor<1, Int>, count: usize) -> Self {
        // Exact up to 2^24 right answers of a batch.
        Self::new(loss).and_metric(ACCURACY, correct.float(), count)
    }

    /// The same with one more number said of it.
    pub fn and_metric(mut self, name: &'static str, sum: Tensor<1>, count: usize) -> Self {
        let sum = single_precision(sum.without_autodiff());
        self.metrics.push(Metric { name, sum, count });
        self
    }

    /// Without a prediction the loss is 0, whatever the model computes: the mean of nothing is not a number, and a sum times 0 is
    /// none either where the sum does not fit its dtype.
    pub fn nothing(device: &Device) -> Self {
        let zero = single_precision(Tensor::zeros([1], device));
        Self {
            learns: false,
            ..Self::with_accuracy(zero, Tensor::zeros([1], device), 0)
        }
    }

    /// Both losses added. What is said of both is said of all that they count.
    pub(crate) fn and(mut self, other: Self) -> Self {
        for metric in other.metrics {
            match self.metrics.iter_mut().find(|m| m.name == metric.name) {
                Some(same) => {
                    same.sum = same.sum.clone() + metric.sum;
                    same.count += metric.count;
                }
                None => self.metrics.push(metric),
            }
        }
        Self {
            loss: self.loss + other.loss,
            learns: self.learns || other.learns,
            metrics: self.metrics,
            without_negative: self.without_negative + other.without_negative,
            carry: self.carry.or(other.carry),
        }
    }

    /// The mean cross-entropy of `labels` at `positions` of `states`, whose scores `logits` computes. Without a label the loss is
    /// 0: the mean of nothing is not a number.
    ///
    /// # Shapes
    ///
    /// - states: `[B, L, D]`; positions: `M` of `[B, L]`, row-major; labels: `M`
    pub(crate) fn of_positions(
        states: Tensor<3>,
        (positions, labels): (Vec<i32>, Vec<i32>),
        logits: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        let [rows, length, width] = states.dims();
        let states = states.reshape([rows * length, width]);
        let device = states.device();
        let states = if labels.is_empty() {
            states
        } else {
            states.select(0, ints(positions, &device))
        };
        Self::of_labels(states, labels, logits)
    }

    /// The mean cross-entropy of `labels`, a row of `logits` each; `states` is what they were computed from. Without a label the
    /// loss is 0.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`; labels: `M`
    pub fn of_labels(
        states: Tensor<2>,
        labels: Vec<i32>,
        logits: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        let device = states.device();
        let count = labels.len();
        if count == 0 {
            return Self::nothing(&device);
        }
        let labels = ints(labels, &device);
        let logits = single_precision(logits(states));
        let correct = count_correct(logits.clone(), labels.clone());
        let loss = kernels::cross_entropy(logits, labels).mean();
        Self::with_accuracy(loss, correct, count)
    }
}

/// The positions that have a label, and their labels.
///
/// # Shapes
///
/// - labels: `[B, L]`, row-major, [`MaskedTexts::IGNORE`] where there is nothing to predict
pub(crate) fn labelled(labels: &[i32]) -> (Vec<i32>, Vec<i32>) {
    labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label != MaskedTexts::IGNORE)
        .map(|(at, label)| (at as i32, *label))
        .unzip()
}

/// Host numbers as an integer tensor.
pub(crate) fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// How many rows have their highest score at the label.
///
/// # Shapes
///
/// - logits: `[N, V]`; labels: `[N]`
/// - output: `[1]`
pub(crate) fn count_correct(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1, Int> {
    let best = logits.without_autodiff().argmax(1).squeeze_dim::<1>(1);
    best.equal(labels.without_autodiff()).int().sum()
}
