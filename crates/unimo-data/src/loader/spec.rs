//! What a loader loads, and how.

use std::sync::Arc;

use unimo_batch::{JoinSpec, MaskSpec, SecondViews, SidesSpec, TAGS, TRANSLATION, Target};

use crate::config::DataConfig;
use crate::images::ImageSpec;
use crate::images::augment::AugmentConfig;
use crate::images::patches::PatchMask;
use crate::loader::codes::PatchCodes;
use crate::loader::concepts::ConceptReader;
use crate::loader::hidden_regions::HideRegions;
use crate::loader::rewrite::Rewrite;
use crate::loader::skip::SkipList;
use crate::order::plan::Shuffle;
use crate::sources::label::Label;
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::text::tokens::{Pad, TextTokenizer};
use crate::walks::WalkConfig;

/// What a loader loads, and how.
#[derive(Clone)]
pub struct LoaderSpec {
    /// Where samples come from.
    pub source: Arc<dyn Source>,
    /// The split to load.
    pub split: Split,
    /// How texts become ids.
    pub tokenizer: Arc<TextTokenizer>,
    /// How images become pixels.
    pub images: ImageSpec,
    /// Random changes of images.
    pub augment: Option<AugmentConfig>,
    /// Longest text in tokens.
    pub max_text_length: usize,
    /// What texts are padded to.
    pub pad: Pad,
    /// How words are hidden; `None`: batches have no masked texts.
    pub mask: Option<MaskSpec>,
    /// Which images get a second view, changed at random by `augment` like the first.
    pub second_view: SecondViews,
    /// Which patches of images are hidden; `None`: images have no patch mask.
    pub patch_mask: Option<PatchMask>,
    /// Gives each image the codes of its patches; `None`: images have none.
    pub codes: Option<Arc<PatchCodes>>,
    /// Which regions of images are hidden; `None`: none is.
    pub hide_regions: Option<HideRegions>,
    /// Additional texts in batches.
    pub further: Vec<FurtherText>,
    /// How captions are joined with their translations; `None`: batches have no joined texts. A batch has none either if one of its samples
    /// has no translation.
    pub joined: Option<Joining>,
    /// How captions and their translations become the two sides of a contrast; `None`: batches have no sides. A batch has none either if one
    /// of its samples has no translation.
    pub sides: Option<SidesSpec>,
    /// Whether batches hold all captions of their images.
    pub references: bool,
    /// Slices of a story at most, if samples are read as stories; `None`: batches have none.
    pub slices: Option<usize>,
    /// How episodes of an agent become maps and decisions, if samples are read as episodes; `None`: batches have none.
    pub walks: Option<WalkConfig>,
    /// Makes concepts of phrases and tags; `None`: batches have none.
    pub concepts: Option<ConceptReader>,
    /// Share of concepts that are hidden; `None`: only phrases that would reveal a hidden word.
    pub concept_rate: Option<f64>,
    /// Changes captions before they become tokens, for example by putting words into another language.
    pub rewrite: Option<Arc<dyn Rewrite>>,
    /// Makes what a task predicts of each sample; `None`: batches have no targets. The source then has one label for each sample,
    /// see [`Each`](crate::Each).
    pub targets: Option<Arc<dyn MakeTarget>>,
    /// How samples are shuffled.
    pub shuffle: Shuffle,
    /// Number of batches among which samples are sorted by text length; 1: no sorting.
    pub bucket: usize,
    /// The rank of this process among `ranks`, from 0. It takes every `ranks`-th batch.
    pub rank: usize,
    /// Number of processes that train together.
    pub ranks: usize,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Determines the order, the captions and the masks.
    pub seed: u64,
    /// Number of threads. All work on the samples of one batch, then on those of the next.
    pub workers: usize,
    /// Batches in flight over all threads: being made, or ready and not taken.
    pub prefetch: usize,
    /// The run's first batch to load, counted over all ranks; 0 for a new run.
    pub first_batch: u64,
    /// Where unusable samples are listed.
    pub skip: Arc<SkipList>,
}

/// How large batches are, and what they are drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Samples in a batch.
    pub size: usize,
    /// Decides the order, the captions and the masks.
    pub seed: u64,
}

impl LoaderSpec {
    /// A training loader with a recipe's settings, from the first batch, without masks.
    pub fn new(
        config: &DataConfig,
        source: Arc<dyn Source>,
        tokenizer: Arc<TextTokenizer>,
        skip: Arc<SkipList>,
        batches: Batches,
    ) -> Self {
        Self {
            source,
            split: Split::Train,
            tokenizer,
            images: config.image_spec(),
            augment: config.augment,
            max_text_length: config.max_text_length,
            pad: config.pad,
            mask: None,
            second_view: SecondViews::None,
            patch_mask: None,
            codes: None,
            hide_regions: None,
            further: Vec::new(),
            joined: None,
            sides: None,
            references: false,
            slices: None,
            walks: None,
            concepts: None,
            concept_rate: None,
            rewrite: None,
            targets: None,
            shuffle: config.shuffle,
            bucket: config.bucket,
            rank: 0,
            ranks: 1,
            batch_size: batches.size,
            seed: batches.seed,
            workers: config.worker_count(),
            prefetch: config.prefetch,
            first_batch: 0,
            skip,
        }
    }
}

/// How captions and their translations become one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Joining {
    /// How the two are put together.
    pub spec: JoinSpec,
    /// How words of both parts are hidden; `None`: none is.
    pub mask: Option<MaskSpec>,
}

/// Texts beside the caption, in [`Batch::further_texts`](unimo_batch::Batch::further_texts) under their [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FurtherText {
    /// The phrases of the caption, joined by commas.
    Phrases,
    /// The names of the image's objects, joined by commas.
    Tags,
    /// Another caption of the same image, or the same caption if there is only one.
    SecondCaption,
    /// The caption in another language, drawn from those that the sample has it in. A batch has none if one of its samples has none.
    Translation,
}

/// Makes what a task predicts of a sample.
pub trait MakeTarget: Send + Sync {
    /// The target of a sample with this label.
    fn target(&self, label: &Label) -> Target;
}

/// What stands between the tags of an image where they are one text.
pub(crate) const TAG_SEPARATOR: &str = ", ";

impl FurtherText {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Phrases,
        Self::Tags,
        Self::SecondCaption,
        Self::Translation,
    ];

    /// The key in [`Batch::further_texts`](unimo_batch::Batch::further_texts).
    pub fn name(self) -> &'static str {
        match self {
            Self::Phrases => "phrases",
            Self::Tags => TAGS,
            Self::SecondCaption => "second_caption",
            Self::Translation => TRANSLATION,
        }
    }
}
