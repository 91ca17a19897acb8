//! What an objective is.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{Batch, MaskSpec, MaskedTexts};
use unimo_core::kernels;
use unimo_encoders::backbone::{Backbone, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::joint::View;
use unimo_encoders::text::TextInput;

use crate::contrast::Contrast;
use crate::partners::Partners;
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
    /// The fewest samples that it works with. What compares samples with each other finds them in all batches of a step.
    pub samples: usize,
    /// Only samples whose text describes its picture count; the others are left out and counted.
    pub describing: bool,
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

impl Needs {
    /// How many samples of a batch count.
    pub(crate) fn count(&self, batch: &Batch) -> usize {
        if self.describing {
            describing(batch).len()
        } else {
            batch.len()
        }
    }
}

/// The rows of a batch whose text describes its picture.
pub(crate) fn describing(batch: &Batch) -> Vec<usize> {
    let describes = |row: &usize| batch.texts.as_ref().is_none_or(|t| t.describes(*row));
    (0..batch.len()).filter(describes).collect()
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
    /// `[B]`: which picture each sample shows, where that is known.
    pub pictures: Vec<Option<u64>>,
    /// The rows whose text describes its picture.
    pub describing: Vec<usize>,
    /// The samples that pairs can be made of.
    pub partners: Partners,
    /// What pairs take their texts from, where that is more than [`texts`](Self::texts): these first, then texts of the step's
    /// other batches, all padded to one length.
    pub pair_texts: Option<TextFeatures>,
    /// Likewise of [`images`](Self::images), without tags.
    pub pair_images: Option<ImageFeatures>,
}

impl UniModal {
    /// Of a batch, with nothing encoded yet.
    pub fn new(batch: &Batch) -> Self {
        let texts = batch.texts.as_ref();
        Self {
            samples: batch.len(),
            pictures: if batch.pictures.is_empty() {
                vec![None; batch.len()]
            } else {
                batch.pictures.iter().copied().map(Some).collect()
            },
            describing: describing(batch),
            concepts: texts
                .and_then(|texts| texts.concepts.clone())
                .unwrap_or_default(),
            text_lengths: texts.map_or_else(Vec::new, |texts| texts.lengths.clone()),
            ..Self::default()
        }
    }

    /// What pairs take their texts from.
    pub fn texts_of_pairs(&self) -> Option<&TextFeatures> {
        self.pair_texts.as_ref().or(self.texts.as_ref())
    }

    /// What pairs take their images from.
    pub fn images_of_pairs(&self) -> Option<&ImageFeatures> {
        self.pair_images.as_ref().or(self.images.as_ref())
    }
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
    /// Rows of [`UniModal::texts_of_pairs`], or of [`UniModal::left_to_right`] where `view.prefix` says so.
    pub texts: Vec<usize>,
    /// Rows of [`UniModal::images_of_pairs`].
    pub images: Vec<usize>,
    /// For each pair whether the two belong together.
    pub matched: Vec<bool>,
    /// How the encoder looks at them.
    pub view: View,
    /// Samples that should have had a wrong partner and found none: all others show the same picture.
    pub without_negative: usize,
}

impl Pairs {
    /// Every sample with itself.
    pub fn matched(samples: usize) -> Self {
        Self::of_rows((0..samples).collect())
    }

    /// Each of these samples with itself.
    pub fn of_rows(rows: Vec<usize>) -> Self {
        Self {
            matched: vec![true; rows.len()],
            images: rows.clone(),
            texts: rows,
            ..Self::default()
        }
    }

    /// Adds a pair of a text row and an image row.
    pub fn push(&mut self, text: usize, image: usize, matched: bool) {
        self.texts.push(text);
        self.images.push(image);
        self.matched.push(matched);
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
    /// The unweighted loss, `[1]`, in f32.
    pub loss: Tensor<1>,
    /// Whether the loss has a gradient; that of nothing has none.
    pub learns: bool,
    /// How many of `count` predictions were right, `[1]`, on the device.
    pub correct: Tensor<1, Int>,
    /// Predictions made.
    pub count: usize,
    /// Samples that found no negative, because all others show the same picture.
    pub without_negative: usize,
    /// What [`Objective::after_step`] wants back.
    pub carry: Option<Carry>,
}

impl Outcome {
    /// A loss with its predictions.
    pub fn new(loss: Tensor<1>, correct: Tensor<1, Int>, count: usize) -> Self {
        Self {
            loss,
            learns: true,
            correct,
            count,
            without_negative: 0,
            carry: None,
        }
    }

    /// Of no prediction the loss is 0, whatever the model computes: the mean of nothing is not a number, and a sum times 0 is
    /// none either where the sum does not fit its dtype.
    pub fn nothing(device: &Device) -> Self {
        Self {
            learns: false,
            ..Self::new(
                single_precision(Tensor::zeros([1], device)),
                Tensor::zeros([1], device),
                0,
            )
        }
    }

    /// Both losses added.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            learns: self.learns || other.learns,
            correct: self.correct + other.correct,
            count: self.count + other.count,
            without_negative: self.without_negative + other.without_negative,
            carry: self.carry.or(other.carry),
        }
    }

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
            return Self::nothing(&device);
        }
        let labels = ints(labels, &device);
        let logits = single_precision(logits(states));
        let correct = count_correct(logits.clone(), labels.clone());
        Self::new(
            kernels::cross_entropy(logits, labels).mean(),
            correct,
            count,
        )
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

/// Features that outlive their step: `[B, E]` each, tracking no gradient.
#[derive(Debug, Clone)]
pub struct Carry {
    /// Of the images.
    pub images: Tensor<2>,
    /// Of the captions.
    pub texts: Tensor<2>,
    /// `[B]`: which picture each shows, where that is known.
    pub pictures: Vec<Option<u64>>,
}

/// A pre-training loss with its head. Each is one file and one line in the list in `lib.rs`.
///
/// A step calls `pairs`, then `loss`; [`Objective::after_step`] follows the optimiser's step and is the only place that changes
/// state. A loss that compares samples with each other is a [`Contrast`] too: it is then taken over all batches of a step.
pub trait Objective {
    /// What a batch must hold.
    fn needs(&self) -> Needs;

    /// Factor of the loss in the sum.
    fn weight(&self) -> f64;

    /// How it compares samples with each other, if it does.
    fn contrast(&self) -> Option<&dyn Contrast> {
        None
    }

    /// Whether it chooses wrong partners by the similarities of a [`Contrast`].
    fn hard_negatives(&self) -> bool {
        false
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

    /// Clamps, moving averages and queues, after the optimiser's step; `carries` holds what each loss gave, in the order of the
    /// micro-batches: one entry for those that were contrasted together.
    fn after_step(&mut self, _backbone: &Backbone, _carries: Vec<Carry>) {}
}
