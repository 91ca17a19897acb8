//! The batch: where data, encoders, objectives and evaluation meet.
//!
//! A [`Batch`] lives on the host. The loader fills it on worker threads, and the training step moves what it needs to a device.
//! Every modality is optional: a batch of unaligned images has no texts, and a batch of plain text has no images. An objective is
//! skipped for a batch that lacks what it needs.
//!
//! Shape legend: `B` samples, `L` text length, `C` = 3 channels, `H x W` pixels, `N` patches of an image, row by
//! row.

pub(crate) mod slices;
pub(crate) mod walks;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::slices::Slices;
use self::walks::Walks;
use crate::regions::Regions;

/// One step's samples. Row `i` of every part belongs to `samples[i]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// One name per sample, as an error message shows it: file and line, or generator and index.
    pub samples: Vec<String>,
    /// `[B]`: which image each sample shows. Equal numbers mean the same image, which is no negative of itself. Empty if unknown:
    /// then every sample shows an image of its own.
    pub pictures: Vec<u64>,
    /// The image of every sample.
    pub images: Option<Images>,
    /// The right image, if every sample has two (NLVR2); `images` is the left one.
    pub second_images: Option<Images>,
    /// The caption of every sample.
    pub texts: Option<Texts>,
    /// Further texts by kind: [`TRANSLATION`], padded as `texts` are, [`JOINED`](crate::JOINED),
    /// [`QUERY`](crate::QUERY) and [`KEY`](crate::KEY), [`TAGS`], phrases.
    pub further_texts: BTreeMap<String, Texts>,
    /// Detector regions with their boxes.
    pub regions: Option<Regions>,
    /// `[B]`: every caption that describes the sample's image, as token ids with begin and end; empty if no objective asks for them.
    pub references: Vec<Vec<Vec<i32>>>,
    /// `[B]`: what a task predicts of each sample; empty if the loader was not asked for it.
    pub targets: Vec<Target>,
    /// Each sample as a sequence of images and sentences, if the loader was asked for it. Its images and sentences are tables of their own.
    #[serde(default)]
    pub slices: Option<Slices>,
    /// Each sample as the episode of an agent that follows the sample's text, if the loader was asked for it.
    #[serde(default)]
    pub walks: Option<Walks>,
}

/// What a task predicts of a sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// It is unknown, as in a test set, or is no label that the model can give.
    #[default]
    Unknown,
    /// The right labels, each by its number in the task's list and with its score in (0, 1]. Every other label has the score 0.
    Labels(Vec<(u32, f32)>),
    /// A number.
    Number(f32),
    /// A box in the image as the model sees it: x1, y1, x2, y2 as shares of width and height.
    Box([f32; 4]),
}

/// The key of the names of an image's objects in [`Batch::further_texts`].
pub const TAGS: &str = "tags";

/// The key of the captions in another language in [`Batch::further_texts`].
pub const TRANSLATION: &str = "translation";

impl Batch {
    /// The same with the text of the next sample for each image, that of the first for the last: pairs that do not belong together. Answers and
    /// further texts, which belong to the texts or to the images, are left out.
    #[must_use]
    pub fn mismatched(&self) -> Self {
        Self {
            samples: self.samples.clone(),
            pictures: self.pictures.clone(),
            images: self.images.clone(),
            regions: self.regions.clone(),
            texts: self.texts.as_ref().map(Texts::turned),
            ..Self::default()
        }
    }

    /// The number of samples, `B`.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// Levels of pixels as one string of bytes, where a format has them: a list of numbers takes longer to read and write.
mod bytes {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = all.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// Which images of a batch have a second view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SecondViews {
    /// None.
    #[default]
    None,
    /// Those without a text.
    WithoutTexts,
    /// All.
    All,
}

/// Images as bytes. A model reads a level as `(level / 255 - mean) / std` of its channel. Levels become floats only where they are
/// computed with, so that waiting batches take a quarter of the memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// `[B, C, H, W]`, row-major: levels, 0 to 255.
    #[serde(with = "bytes")]
    pub pixels: Vec<u8>,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
    /// `[C]`: subtracted from levels scaled to 0..1.
    pub mean: [f32; Images::CHANNELS],
    /// `[C]`: the divisor after that.
    pub std: [f32; Images::CHANNELS],
    /// `[B, C, H, W]`: a second random augmentation of the same images, if the loader was asked for it.
    pub second_view: Option<Vec<u8>>,
    /// `[B, N]`: which patches are to be predicted (`true` hides), if the loader was asked for it by a [`PatchMaskSpec`].
    pub patch_mask: Option<Vec<bool>>,
    /// `[B, N]`: the code of each patch of [`pixels`](Self::pixels), if the loader was asked for it.
    #[serde(default)]
    pub codes: Option<Vec<u32>>,
}

impl Images {
    /// Channels of every image.
    pub const CHANNELS: usize = 3;

    /// Normalises levels on the host, those of [`pixels`](Self::pixels) or of a second view.
    ///
    /// # Shapes
    ///
    /// - levels, output: `[B, C, H, W]`
    pub fn normalised(&self, levels: &[u8]) -> Vec<f32> {
        let plane = (self.height * self.width).max(1);
        let tables: [[f32; LEVELS]; Self::CHANNELS] =
            std::array::from_fn(|channel| normalised(self.mean[channel], self.std[channel]));
        let mut values = Vec::with_capacity(levels.len());
        for (plane, table) in levels.chunks(plane).zip(tables.iter().cycle()) {
            values.extend(plane.iter().map(|level| table[usize::from(*level)]));
        }
        values
    }
}

/// Levels of a channel.
pub const LEVELS: usize = 256;

/// What a model reads for every level of a channel: `(level / 255 - mean) / std`. A look-up is as fast as the loads; a division is
/// not.
pub fn normalised(mean: f32, std: f32) -> [f32; LEVELS] {
    std::array::from_fn(|level| (level as f32 / 255.0 - mean) / std)
}

/// Token ids, padded to a common length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    /// `[B, L]`, row-major.
    pub ids: Vec<i32>,
    /// `L`.
    pub length: usize,
    /// `[B]`: how many leading positions of each row are text, with the begin token, the words, the concepts and the end token; the
    /// rest are padding.
    pub lengths: Vec<usize>,
    /// The same texts with words hidden, if the loader was asked for it by a [`MaskSpec`].
    pub masked: Option<MaskedTexts>,
    /// `[B]`: how many positions right before the end token are concepts: phrases of the caption as one id each (MVP). `None` if
    /// texts have no concepts.
    pub concepts: Option<Vec<usize>>,
    /// `[B]`: what each text says of its image. Empty means that every text describes it.
    pub roles: Vec<TextRole>,
    /// `[B, L]`: the type of each position where texts are pairs of sentences: 0, or 1 for a second sentence that the tokenizer marks
    /// (BERT). `None`: all are of type 0.
    pub segments: Option<Vec<i32>>,
    /// `[B]`: the place in each text at which positions are numbered anew, for joined texts whose parts share positions. Empty: nowhere.
    pub restarts: Vec<usize>,
}

impl Texts {
    /// The tokens of text `row`, without padding.
    ///
    /// # Panics
    ///
    /// Panics if there is no such text.
    pub fn row(&self, row: usize) -> &[i32] {
        &self.ids[row * self.length..][..self.lengths[row]]
    }

    /// Pads all texts to a common length, which is not below theirs.
    pub fn widen(&mut self, length: usize, pad: i32) {
        let before = self.length;
        if length == before {
            return;
        }
        let widen = |values: &mut Vec<i32>, with: i32| {
            let mut wide = Vec::with_capacity(values.len() / before.max(1) * length);
            for row in values.chunks(before.max(1)) {
                wide.extend_from_slice(row);
                wide.extend(std::iter::repeat_n(with, length - before));
            }
            *values = wide;
        };
        widen(&mut self.ids, pad);
        self.segments.iter_mut().for_each(|types| widen(types, 0));
        if let Some(masked) = &mut self.masked {
            widen(&mut masked.ids, pad);
            widen(&mut masked.labels, MaskedTexts::IGNORE);
            let concepts = masked.concept_labels.iter_mut();
            concepts.for_each(|labels| widen(labels, MaskedTexts::IGNORE));
        }
        self.length = length;
    }

    /// The same texts, each one row earlier, the first at the end.
    fn turned(&self) -> Self {
        fn turned<T: Clone>(values: &[T], by: usize) -> Vec<T> {
            let (first, rest) = values.split_at(by.min(values.len()));
            [rest, first].concat()
        }
        let by = |values: &[i32]| turned(values, self.length);
        let one = |values: &[usize]| turned(values, 1);
        Self {
            ids: by(&self.ids),
            length: self.length,
            lengths: one(&self.lengths),
            masked: self.masked.as_ref().map(|masked| MaskedTexts {
                ids: by(&masked.ids),
                labels: by(&masked.labels),
                concept_labels: masked.concept_labels.as_deref().map(by),
            }),
            concepts: self.concepts.as_deref().map(one),
            roles: turned(&self.roles, 1),
            segments: self.segments.as_deref().map(by),
            restarts: one(&self.restarts),
        }
    }

    /// Whether text `row` describes its image. Only such a text is a positive of image-text contrast and matching.
    pub fn describes(&self, row: usize) -> bool {
        matches!(self.roles.get(row), None | Some(TextRole::Describes))
    }
}

/// What a text says of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TextRole {
    /// It describes the image: a caption.
    #[default]
    Describes,
    /// It asks something about the image.
    Question,
    /// It is a statement that is true or false of the image (NLVR).
    Statement {
        /// Whether it is true.
        holds: bool,
    },
    /// It is a statement that the image entails, contradicts or leaves open (SNLI-VE).
    Hypothesis(Entailment),
}

/// What an image says of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entailment {
    /// It is true.
    Entailed,
    /// It may be true.
    Neutral,
    /// It is false.
    Contradicted,
}

/// Token ids after masking, with the ids to predict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MaskedTexts {
    /// `[B, L]`: the ids that the model sees.
    pub ids: Vec<i32>,
    /// `[B, L]`: the id to predict, or [`MaskedTexts::IGNORE`].
    pub labels: Vec<i32>,
    /// `[B, L]`: likewise for concepts, which have losses of their own. `None` if texts have no concepts.
    pub concept_labels: Option<Vec<i32>>,
}

impl MaskedTexts {
    /// The label of a position that every loss ignores.
    pub const IGNORE: i32 = -100;
}

/// How words are hidden for masked language modelling (BERT, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskSpec {
    /// Share of the maskable tokens that are to be predicted, in (0, 1).
    pub rate: f64,
    /// What is hidden together.
    pub unit: MaskUnit,
    /// Share of the chosen tokens that the mask token replaces (0.8 in BERT).
    pub mask_share: f64,
    /// Share of the chosen tokens that a random token replaces (0.1 in BERT); the rest stay as they are.
    pub random_share: f64,
    /// Most tokens of a text that are to be predicted; of more, as many are dropped at random. Absent: no limit. Not for
    /// spans and skip-grams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
    /// Whether the end token may be hidden as a word, so that the end of a text is learnt (VLP). It does not count for the share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

/// What is hidden together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskUnit {
    /// Each token by itself (BERT, RoBERTa).
    #[default]
    Token,
    /// Each token by itself, as many as the share says, rounded, and at least one (VLP).
    Exact,
    /// All pieces of a word or none.
    WholeWord,
    /// Runs of 1 to 10 words, with lengths from a geometric distribution, p = 0.2 (SpanBERT, UNIMO-2). A span is replaced as a
    /// whole: by mask tokens, by random ones, or not at all.
    Span,
    /// As `span`, but up to two words between two hidden words of a group stay visible: a skip-gram.
    SkipGram,
    /// Tokens, and with a probability of 0.2 runs of 2 or 3 of them, until the share is reached: exactly, rounded, and at least one (X-VLM,
    /// CCLM).
    Runs,
    /// For joined texts alone: a token, and one of the word of the other text that stands for its word (UC2, `random`).
    AlignedToken,
    /// For joined texts alone: a word, and the word of the other text that stands for it (UC2, `full`).
    AlignedWord,
    /// For joined texts alone: in half of them each token by itself, else as `aligned_token` (UC2, `mix`).
    AlignedMix,
}

impl MaskUnit {
    /// Whether words are hidden together with those of a translation that stand for them.
    pub fn is_aligned(self) -> bool {
        matches!(
            self,
            Self::AlignedToken | Self::AlignedWord | Self::AlignedMix
        )
    }
}

impl Default for MaskSpec {
    fn default() -> Self {
        Self {
            rate: 0.15,
            unit: MaskUnit::Token,
            mask_share: 0.8,
            random_share: 0.1,
            most: None,
            end: false,
        }
    }
}

/// How patches of an image are hidden for masked image modelling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMaskSpec {
    /// Share of an image's patches that are hidden, in (0, 1). It is rounded to whole patches, the same number in every image.
    pub rate: f64,
    /// Which patches are hidden together.
    pub kind: PatchMaskKind,
}

/// Which patches are hidden together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchMaskKind {
    /// Each by itself (MAE).
    Uniform,
    /// Rectangles of at least 16 patches with aspect ratios of 0.3 to 1 / 0.3 (BEiT, algorithm 1). The remaining patches are
    /// hidden one by one.
    Block,
}
