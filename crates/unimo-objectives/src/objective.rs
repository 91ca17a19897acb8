//! What an objective is.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use unimo_core::batch::{MaskSpec, MaskedTexts};
use unimo_core::kernels;
use unimo_encoders::backbone::{Backbone, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::joint::View;
use unimo_encoders::text::TextInput;

use crate::single_precision;

/// What a batch must hold for an objective to run on it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Needs {
    /// A picture per sample.
    pub images: bool,
    /// A caption per sample.
    pub texts: bool,
    /// The captions with words hidden like this.
    pub masked: Option<MaskSpec>,
    /// The fewest samples that it works with.
    pub samples: usize,
    /// The batch must hold no other modality than those named: unaligned images, or plain text.
    pub alone: bool,
    /// A second view of every picture, changed at random like the first.
    pub second_view: bool,
    /// The captions read from left to right.
    pub left_to_right: bool,
    /// The names of the picture's objects.
    pub tags: bool,
    /// Texts with their phrases as concepts.
    pub concepts: bool,
    /// Share of tags and phrases that are hidden and predicted.
    pub concept_rate: Option<f64>,
}

/// The batch on the device after the uni-modal encoders, which run once for all objectives.
///
/// Text rows `0..samples` are the captions as they are; where an objective needs masked captions, rows
/// `masked..masked + samples` are those.
#[derive(Debug, Clone, Default)]
pub struct UniModal {
    /// Samples of the batch, `B`.
    pub samples: usize,
    /// Pixels, `[B, 3, H, W]`, where the model reads pixels.
    pub pixels: Option<Tensor<4>>,
    /// Captions as they are, `B` rows.
    pub text_input: Option<TextInput>,
    /// `B` rows.
    pub images: Option<ImageFeatures>,
    /// `B` rows, or `2 B` with masked captions.
    pub texts: Option<TextFeatures>,
    /// First row of the masked captions.
    pub masked: Option<usize>,
    /// `[B, L]`: ids to predict in the masked captions, row-major, on the host.
    pub labels: Vec<i32>,
    /// `[B, M]`: ids to predict in the pictures' tags, row-major, on the host.
    pub tag_labels: Vec<i32>,
    /// `[B, L]`: ids to predict at the masked captions' phrases, row-major, on the host.
    pub concept_labels: Vec<i32>,
    /// `[B]`: phrases of each caption, right before its end token; empty where texts have none.
    pub concepts: Vec<usize>,
    /// `[B]`: how many leading positions of each caption are text.
    pub text_lengths: Vec<usize>,
    /// The second views of the pictures, `B` rows.
    pub second_views: Option<ImageFeatures>,
    /// The captions as they are, read from left to right.
    pub left_to_right: Option<LeftToRight>,
    /// Similarity of caption `i` and image `j` at `[i][j]`, on the host, if an objective gives one.
    pub similarity: Option<Vec<Vec<f32>>>,
}

/// Captions for language modelling.
#[derive(Debug, Clone)]
pub struct LeftToRight {
    /// `B` rows.
    pub texts: TextFeatures,
    /// Leading positions that see each other; what follows is to be predicted.
    pub prefix: usize,
    /// `[B, L]`: the captions' ids, row-major, on the host.
    pub ids: Vec<i32>,
    /// `[B]`: how many leading positions of each row are text.
    pub lengths: Vec<usize>,
}

/// Rows to send through the cross-modal encoder together: text row `texts[i]` with image row `images[i]`. Where the batch lacks
/// a modality, its rows are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Rows of [`UniModal::texts`], or of [`UniModal::left_to_right`] where `view.prefix` says so.
    pub texts: Vec<usize>,
    /// Rows of [`UniModal::images`].
    pub images: Vec<usize>,
    /// For each pair whether the two belong together.
    pub matched: Vec<bool>,
    /// How the encoder looks at them.
    pub view: View,
}

impl Pairs {
    /// Every sample with itself.
    pub fn matched(samples: usize) -> Self {
        Self {
            texts: (0..samples).collect(),
            images: (0..samples).collect(),
            matched: vec![true; samples],
            view: View::default(),
        }
    }

    /// Every sample with itself, as far as the batch holds its parts. The text is the masked one where there is one: what
    /// other objectives ask for too costs nothing.
    pub fn present(batch: &UniModal) -> Self {
        let samples = batch.samples;
        let first = batch.masked.unwrap_or(0);
        let all = Self::matched(samples);
        Self {
            texts: match &batch.texts {
                Some(_) => (first..first + samples).collect(),
                None => Vec::new(),
            },
            images: match &batch.images {
                Some(_) => all.images,
                None => Vec::new(),
            },
            ..all
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.matched.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.matched.is_empty()
    }
}

/// An objective's result on one batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The unweighted loss, `[1]`.
    pub loss: Tensor<1>,
    /// How many of `count` predictions were right, `[1]`, on the device.
    pub correct: Tensor<1, Int>,
    /// Predictions made.
    pub count: usize,
    /// What [`Objective::after_step`] wants back.
    pub carry: Option<Carry>,
}

impl Outcome {
    /// The mean cross-entropy of `labels` at `positions` of `states`, whose scores `logits` computes. Of no label the loss is 0:
    /// the mean of nothing is not a number.
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
        let states = match labels.is_empty() {
            true => states,
            false => states.select(0, ints(positions, &device)),
        };
        Self::of_labels(states, labels, logits)
    }

    /// The mean cross-entropy of `labels`, a row of `logits` each; `states` is what they were computed from. Of no label the
    /// loss is 0.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`; labels: `M`
    pub(crate) fn of_labels(
        states: Tensor<2>,
        labels: Vec<i32>,
        logits: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Self {
        let device = states.device();
        let count = labels.len();
        if count == 0 {
            return Self {
                loss: states.sum().mul_scalar(0.0),
                correct: Tensor::zeros([1], &device),
                count,
                carry: None,
            };
        }
        let labels = ints(labels, &device);
        let logits = single_precision(logits(states));
        let correct = count_correct(logits.clone(), labels.clone());
        Self {
            loss: kernels::cross_entropy(logits, labels).mean(),
            correct,
            count,
            carry: None,
        }
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

/// Features of a batch that outlive its step: `[B, E]` each, tracking no gradient.
#[derive(Debug, Clone)]
pub struct Carry {
    /// Of the images.
    pub images: Tensor<2>,
    /// Of the captions.
    pub texts: Tensor<2>,
}

/// A pre-training loss with its head. Each is one file and one line in the list in `lib.rs`.
///
/// A step calls `similarity`, then `pairs`, then `loss`; [`Objective::after_step`] follows the optimiser's step and is
/// the only place that changes state.
pub trait Objective {
    /// What a batch must hold.
    fn needs(&self) -> Needs;

    /// Factor of the loss in the sum.
    fn weight(&self) -> f64;

    /// Similarity of every caption with every image, `[B, B]`, if this objective has one: hard negatives use it.
    fn similarity(&self, _batch: &UniModal) -> Option<Tensor<2>> {
        None
    }

    /// The pairs that it wants from the cross-modal encoder.
    fn pairs(&self, _batch: &UniModal, _rng: &mut ChaCha8Rng) -> Option<Pairs> {
        None
    }

    /// The loss.
    fn loss(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome;

    /// The backbone has been given other weights before the first step: copies of it are made anew.
    fn adopt(&mut self, _backbone: &Backbone) {}

    /// Clamps, moving averages and queues, after the optimiser's step; `carries` holds one entry per micro-batch.
    fn after_step(&mut self, _backbone: &Backbone, _carries: Vec<Carry>) {}
}
