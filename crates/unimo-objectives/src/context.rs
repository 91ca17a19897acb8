//! What a loss is computed from.

use burn::tensor::Device;
use unimo_batch::{
    Batch, HiddenRegions, JOINED, MaskedTexts, Regions, Slices, TAGS, Texts, WalkTargets, Walks,
};
use unimo_core::world::World;
use unimo_encoders::backbone::Backbone;

use crate::encoded::Encoded;
use crate::teacher::Teacher;

/// What a loss is computed from.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The encoders that are trained.
    pub backbone: &'a Backbone,
    /// The moving average of the encoders, if the recipe has one.
    pub teacher: Option<&'a Teacher>,
    /// The batch on the host: labels and targets.
    pub batch: &'a Batch,
    /// The batch after the uni-modal encoders.
    pub encoded: &'a Encoded,
    /// The device that makes tensors and draws random numbers.
    pub device: &'a Device,
    /// The processes that train together.
    pub world: &'a World,
}

/// What an objective has requested is there: it does not run on a batch that lacks it.
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

    /// The texts with words or phrases hidden, and the tokens to predict.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn masked_texts(&self) -> &'a MaskedTexts {
        let masked = self.texts().masked.as_ref();
        masked.expect("invariant: the batch holds what was requested")
    }

    /// The joined texts with words hidden, and the tokens to predict.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn masked_joined(&self) -> &'a MaskedTexts {
        let joined = self.batch.further_texts.get(JOINED);
        let masked = joined.and_then(|joined| joined.masked.as_ref());
        masked.expect("invariant: the batch holds what was requested")
    }

    /// The images' tags with some hidden, and the tokens to predict.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn masked_tags(&self) -> &'a MaskedTexts {
        let tags = self.batch.further_texts.get(TAGS);
        let masked = tags.and_then(|tags| tags.masked.as_ref());
        masked.expect("invariant: the batch holds what was requested")
    }

    /// The stories.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn slices(&self) -> &'a Slices {
        let slices = self.batch.slices.as_ref();
        slices.expect("invariant: the batch holds what was requested")
    }

    /// The episodes, and what is to be learned of each decision.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn walks(&self) -> (&'a Walks, &'a WalkTargets) {
        let walks = self.batch.walks.as_ref();
        let walks = walks.and_then(|walks| Some((walks, walks.targets.as_ref()?)));
        walks.expect("invariant: the batch holds what was requested")
    }

    /// The images as regions.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn regions(&self) -> &'a Regions {
        let regions = self.batch.regions.as_ref();
        regions.expect("invariant: the batch holds what was requested")
    }

    /// The hidden regions of the images, and what they are.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn hidden_regions(&self) -> &'a HiddenRegions {
        let hidden = self.regions().hidden.as_ref();
        hidden.expect("invariant: the batch holds what was requested")
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

    /// The codes of the images' patches, `[B, N]`, row-major.
    ///
    /// # Panics
    ///
    /// Panics if the objective has not requested them.
    pub fn codes(&self) -> &'a [u32] {
        let images = self.batch.images.as_ref();
        let codes = images.and_then(|images| images.codes.as_ref());
        codes.expect("invariant: the batch holds what was requested")
    }
}
