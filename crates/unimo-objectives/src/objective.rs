//! What an objective is.

use burn::tensor::{Int, Tensor};
use rand_chacha::ChaCha8Rng;
use unimo_core::batch::MaskSpec;
use unimo_encoders::backbone::{Backbone, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::text::TextInput;

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
}

/// The batch on the device after the uni-modal encoders, which run once for all objectives.
///
/// Text rows `0..samples` are the captions as they are; where an objective needs masked captions, rows
/// `masked..masked + samples` are those.
#[derive(Debug, Clone)]
pub struct UniModal {
    /// Samples of the batch, `B`.
    pub samples: usize,
    /// Pixels, `[B, 3, H, W]`.
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
    /// Similarity of caption `i` and image `j` at `[i][j]`, on the host, if an objective gives one.
    pub similarity: Option<Vec<Vec<f32>>>,
}

/// Rows to send through the cross-modal encoder together: text row `texts[i]` with image row `images[i]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Rows of [`UniModal::texts`].
    pub texts: Vec<usize>,
    /// Rows of [`UniModal::images`].
    pub images: Vec<usize>,
    /// For each pair whether the two belong together.
    pub matched: Vec<bool>,
}

impl Pairs {
    /// Every sample with itself.
    pub fn matched(samples: usize) -> Self {
        Self {
            texts: (0..samples).collect(),
            images: (0..samples).collect(),
            matched: vec![true; samples],
        }
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
