//! The result of an objective on a batch.

use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use unimo_core::kernels;

use crate::features::Features;
use crate::labels::{count_correct, ints};
use crate::others::FeatureData;
use crate::single_precision;

/// Features that outlive their step.
#[derive(Debug, Clone)]
pub struct Carry {
    /// `[B, E]` each, tracking no gradient.
    pub features: Features,
    /// `[B]`: the image that each sample shows, if that is known.
    pub pictures: Vec<Option<u64>>,
}

/// A [`Carry`] on its way to other ranks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarryData {
    features: FeatureData,
    pictures: Vec<Option<u64>>,
}

impl Carry {
    /// Fetches it from its device.
    pub fn data(&self) -> CarryData {
        CarryData {
            features: FeatureData::of(&self.features),
            pictures: self.pictures.clone(),
        }
    }
}

impl CarryData {
    /// Brings it to a device.
    pub fn on(self, device: &Device) -> Carry {
        Carry {
            features: self.features.on(device),
            pictures: self.pictures,
        }
    }
}

/// A number that is reported beside a loss: a mean, kept as a sum and a count.
#[derive(Debug, Clone)]
pub struct Metric {
    /// The name of the number.
    pub name: &'static str,
    /// The sum, `[1]`, in f32, on the device.
    pub sum: Tensor<1>,
    /// The count that the sum is divided by.
    pub count: usize,
}

/// Name of the share of predictions that are right.
pub const ACCURACY: &str = "accuracy";

/// An objective's result on one batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The unweighted loss, `[1]`, in f32.
    pub loss: Tensor<1>,
    /// Whether the loss has a gradient. [`nothing`](Self::nothing) has none.
    pub learns: bool,
    /// The numbers reported beside it.
    pub metrics: Vec<Metric>,
    /// Samples that found no negative, because all others show the same image.
    pub without_negative: usize,
    /// What [`Objective::after_step`](crate::Objective::after_step) needs of this batch.
    pub carry: Option<Carry>,
}

impl Outcome {
    /// A loss without metrics.
    pub fn new(loss: Tensor<1>) -> Self {
        Self {
            loss,
            learns: true,
            metrics: Vec::new(),
            without_negative: 0,
            carry: None,
        }
    }

    /// A loss over `count` predictions, of which `correct` are right.
    pub fn with_accuracy(loss: Tensor<1>, correct: Tensor<1, Int>, count: usize) -> Self {
        // Exact up to 2^24 right answers in a batch.
        Self::new(loss).and_metric(ACCURACY, correct.float(), count)
    }

    /// The same with one more metric.
    pub fn and_metric(mut self, name: &'static str, sum: Tensor<1>, count: usize) -> Self {
        let sum = single_precision(sum.without_autodiff());
        self.metrics.push(Metric { name, sum, count });
        self
    }

    /// The loss of a batch without a prediction: 0, whatever the model computes. The mean of nothing is not a number, and neither
    /// is 0 times a sum that overflows its dtype.
    pub fn nothing(device: &Device) -> Self {
        let zero = single_precision(Tensor::zeros([1], device));
        Self {
            learns: false,
            ..Self::with_accuracy(zero, Tensor::zeros([1], device), 0)
        }
    }

    /// Both losses added. A metric that both have is taken over both counts.
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

    /// The mean cross-entropy of `labels` at `positions` of `states`; `logits` computes the scores. Without a label the loss is 0,
    /// since the mean of nothing is not a number.
    ///
    /// # Shapes
    ///
    /// - states: `[B, L, D]`; positions: `M` of `[B, L]`, row-major; labels: `M`
    pub(crate) fn of_positions(
        states: Tensor<3>,
        labels: (Vec<i32>, Vec<i32>),
        logits: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        Self::of_positions_smoothed(states, labels, 0.0, logits)
    }

    /// As [`of_positions`](Self::of_positions), with [smoothed](kernels::smoothed_cross_entropy) labels.
    pub(crate) fn of_positions_smoothed(
        states: Tensor<3>,
        (positions, labels): (Vec<i32>, Vec<i32>),
        smoothing: f64,
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
        Self::of_smoothed_labels(states, labels, smoothing, logits)
    }

    /// The mean cross-entropy of `labels`, one per row of `logits`, which were computed from `states`. Without a label the loss is
    /// 0.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`; labels: `M`
    pub fn of_labels(
        states: Tensor<2>,
        labels: Vec<i32>,
        logits: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        Self::of_smoothed_labels(states, labels, 0.0, logits)
    }

    fn of_smoothed_labels(
        states: Tensor<2>,
        labels: Vec<i32>,
        smoothing: f64,
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
        let loss = kernels::smoothed_cross_entropy(logits, labels, smoothing).mean();
        Self::with_accuracy(loss, correct, count)
    }
}
