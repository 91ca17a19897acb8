//! The trait of all sources, and their samples.
//!
//! To add a source, write one file beside this one and add one line to the list `sources!` in `sources/mod.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use unimo_batch::{Entailment, TextRole};

use crate::error::{DataError, Place, SampleError};
use crate::images::Limits;
use crate::images::regions::{PictureRegions, RegionShape};
use crate::order::draws::{Stream, hash_bytes, hash_path, hash_text};
use crate::order::plan::{Plan, Shuffle};
use crate::sources::label::Label;
use crate::sources::languages::Languages;
use crate::sources::regions::RegionClasses;
pub use crate::sources::splits::Split;
use crate::sources::telling::{StorySlice, Telling};
use crate::walks::{Recorded, WalkOffers};

/// One image with everything known about it. Values that a source does not know are empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Where it is defined, `file:line`.
    pub name: String,
    /// The image, upright; with [`Limits::enough`] it may be smaller than its file.
    pub image: Option<RgbImage>,
    /// Identifies the image, if that is known only after reading it; else [`Source::picture_id`] does.
    pub picture_id: Option<u64>,
    /// Texts about the image.
    pub captions: Vec<String>,
    /// For each caption, a second sentence that is read after it, as GLUE's pairs have one; empty: there is none.
    pub second_texts: Vec<String>,
    /// The languages of the captions, and which of them say the same.
    pub languages: Languages,
    /// For each caption, what it says about the image; empty: all describe it.
    pub roles: Vec<TextRole>,
    /// For each caption, its phrases: objects, objects with attributes, subject-relation-object.
    pub phrases: Vec<Vec<String>>,
    /// Names of the objects in the image, as a detector would give them.
    pub tags: Vec<String>,
    /// For each tag, its box: x1, y1, x2, y2 relative to width and height.
    pub boxes: Vec<[f32; 4]>,
    /// Regions of the image, if the source gives regions.
    pub regions: Option<PictureRegions>,
    /// Questions with their answers.
    pub questions: Vec<(String, String)>,
    /// For each question, all answers that people gave, if the source has several. The one in `questions` is the most common.
    pub answers: Vec<Vec<String>>,
    /// Statements about the image and whether they are true.
    pub statements: Vec<(String, bool)>,
    /// Statements about the image, and whether it entails or contradicts them.
    pub hypotheses: Vec<(String, Entailment)>,
    /// For each caption, or once for an image without captions, what is known of it for a task; empty: nothing.
    pub labels: Vec<Label>,
    /// The right image, if questions and statements are about two; `image` is the left one.
    pub second_image: Option<RgbImage>,
    /// The images and sentences of a story, in order; empty if it is none.
    pub slices: Vec<StorySlice>,
}

/// Identifies an image by its file's content: equal files have equal numbers.
pub(crate) fn picture_of_bytes(bytes: &[u8]) -> u64 {
    hash_bytes(Stream::Picture, bytes)
}

/// Which modalities a sample has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holds {
    /// An image.
    pub images: bool,
    /// Captions.
    pub captions: bool,
}

/// What every sample of a source has. By default pairs of images and captions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offers {
    /// Whether every sample has an image; otherwise none has.
    pub images: bool,
    /// Whether every sample has a caption; otherwise none has.
    pub captions: bool,
    /// The largest number of regions per image and the numbers per region, if images are given as regions.
    pub regions: Option<RegionShape>,
    /// Whether samples are read faster after a call of [`Source::ahead`].
    pub reads_ahead: bool,
    /// Whether a sample may have a text in several languages, as [`Annotations::languages`] says.
    pub translations: bool,
    /// Whether it is known which words of these stand for each other.
    pub alignments: bool,
    /// Slices of a story at most, if samples are stories; 0: they are none.
    pub slices: usize,
    /// What the episodes have, if samples are episodes of an agent; `None`: they are none.
    pub walks: Option<WalkOffers>,
}

impl Default for Offers {
    fn default() -> Self {
        Self {
            images: true,
            captions: true,
            regions: None,
            reads_ahead: false,
            translations: false,
            alignments: false,
            slices: 0,
            walks: None,
        }
    }
}

/// What is known of a split as a whole. By default its texts describe images, each of which is shown once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitFacts {
    /// Whether every text describes its image.
    pub all_describe: bool,
    /// Whether several samples may show the same image, as told by [`Source::picture_id`].
    pub repeats_pictures: bool,
    /// Whether a sample may have two images, see [`Sample::second_image`].
    pub second_images: bool,
    /// Whether it is known which languages texts are in, see [`Annotations::languages`].
    pub languages: bool,
}

impl Default for SplitFacts {
    fn default() -> Self {
        Self {
            all_describe: true,
            repeats_pictures: false,
            second_images: false,
            languages: false,
        }
    }
}

/// What is known of a sample besides its captions, without reading its image. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Annotations {
    /// What each text of [`Source::captions`] says about the image; empty: all describe it.
    pub roles: Vec<TextRole>,
    /// What is known for a task of each text of [`Source::captions`]; of an image without texts, one label. Empty: what the roles say.
    pub labels: Vec<Label>,
    /// For each caption, its phrases, as in [`Sample::phrases`].
    pub phrases: Vec<Vec<String>>,
    /// Names of the objects in the image, as in [`Sample::tags`].
    pub tags: Vec<String>,
    /// The languages of the texts of [`Source::captions`], and which of them say the same.
    pub languages: Languages,
    /// Which story the sample tells, if that is known.
    pub telling: Option<Telling>,
}

impl Annotations {
    /// The labels: those that are given, or what the roles say.
    pub fn labels(self) -> Vec<Label> {
        if self.labels.is_empty() {
            return self.roles.into_iter().map(Label::of_role).collect();
        }
        self.labels
    }
}

/// A data set: samples by split and index.
///
/// A source says how many samples there are, where each is defined, and what its captions and its image are. The rest has defaults:
/// what it [offers](Self::offers), what is known [of a split](Self::facts) and [of a sample](Self::annotations), how its samples are
/// identified, ordered and read ahead.
///
/// Everything but [`Source::image`] and [`Source::sample`] is cheap. The same arguments always give the same result.
pub trait Source: Send + Sync {
    /// Number of samples in a split.
    fn len(&self, split: Split) -> usize;

    /// Whether a split has no samples.
    fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// One sentence: the data set and its size.
    fn describe(&self) -> String;

    /// Notes to the user, one line each: items of no split and why, and decisions taken because nothing said otherwise.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where a sample is defined.
    fn place(&self, split: Split, index: usize) -> Place;

    /// What every sample has.
    fn offers(&self) -> Offers {
        Offers::default()
    }

    /// What is known of a split. It may look at all samples of the split, but reads no image.
    fn facts(&self, _split: Split) -> SplitFacts {
        SplitFacts::default()
    }

    /// What is known of a sample, without reading its image.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn annotations(&self, _split: Split, _index: usize) -> Result<Annotations, SampleError> {
        Ok(Annotations::default())
    }

    /// The modalities of a sample. They are the same for all samples, except in mixtures of sources.
    fn holds(&self, _split: Split, _index: usize) -> Holds {
        let Offers {
            images, captions, ..
        } = self.offers();
        Holds { images, captions }
    }

    /// The samples of the same kind around a sample: all of them, except in mixtures of sources. The replacement of a broken sample
    /// comes from here.
    fn siblings(&self, split: Split, _index: usize) -> Range<usize> {
        0..self.len(split)
    }

    /// Sample counts per unit of storage, in the order of their indices. A unit lies together and is cheap to read as a whole.
    fn shards(&self, split: Split) -> Vec<usize> {
        vec![self.len(split)]
    }

    /// The sources that a batch of training comes from, one at a time; empty: a batch may hold any samples.
    fn batch_parts(&self) -> Vec<Arc<dyn Source>> {
        Vec::new()
    }

    /// The order in which training takes the samples. Sources whose batches are of one kind need `batch_size`.
    fn plan(&self, split: Split, shuffle: Shuffle, _batch_size: usize) -> Plan {
        Plan::new(&self.shards(split), shuffle)
    }

    /// The captions of a sample, without reading its image. There is at least one where
    /// [`Offers::captions`] is true.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError>;

    /// The classes of the data set in the order that its users number them; empty: the source fixes no order.
    fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The classes of regions and their names; `None`: they are not known.
    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        None
    }

    /// Identifies the image of a sample without reading it; equal numbers mean the same image. A file is identified by its path. An
    /// image without a file is identified by its name or, without a name, by the place of its sample; then no other sample shares
    /// it.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now. A damaged row is identified by its place.
    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        Ok(match self.image_path(split, index)? {
            Some(path) => hash_path(Stream::Picture, &path),
            None => match self.image_name(split, index)? {
                Some(name) => hash_path(Stream::Picture, name.as_ref()),
                None => hash_text(Stream::Picture, &self.place(split, index).to_string()),
            },
        })
    }

    /// The image of a sample; `None` if [`Offers::images`] is false.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError>;

    /// The bytes of the image's file, and the extension of its format (`jpg`, `png`, `webp`); `None` if there is no file.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn image_bytes(
        &self,
        _split: Split,
        _index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        Ok(None)
    }

    /// As [`image_bytes`](Self::image_bytes), for the [second image](Sample::second_image).
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn second_image_bytes(
        &self,
        _split: Split,
        _index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        Ok(None)
    }

    /// The image's name in the data set, such as its path beside a list. Features of the image are found by it. `None` if the image
    /// has no name or its row is damaged.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now.
    fn image_name(&self, _split: Split, _index: usize) -> Result<Option<String>, SampleError> {
        Ok(None)
    }

    /// The regions of an image; `None` if [`Offers::regions`] is `None`.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn regions(&self, _split: Split, _index: usize) -> Result<Option<PictureRegions>, SampleError> {
        Ok(None)
    }

    /// The episode of a sample; `None` if it is none.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn walk(&self, _split: Split, _index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        Ok(None)
    }

    /// Path of the image's file; `None` if it has no file of its own or its row is damaged.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now.
    fn image_path(&self, _split: Split, _index: usize) -> Result<Option<PathBuf>, SampleError> {
        Ok(None)
    }

    /// Everything known about a sample.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let known = self.annotations(split, index)?;
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image: self.image(split, index)?,
            captions: self.captions(split, index)?,
            roles: known.roles.clone(),
            phrases: known.phrases.clone(),
            tags: known.tags.clone(),
            languages: known.languages.clone(),
            labels: known.labels(),
            ..Sample::default()
        })
    }

    /// Passes on, piece by piece, what a sample's texts are judged by, as far as [`identify`](Self::identify) leaves it out and it is known
    /// without reading images or shards: roles, answers, boxes, objects. It gives nothing where that is all part of the identity.
    ///
    /// # Errors
    ///
    /// As of [`identify`](Self::identify).
    fn identify_labels(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let _ = (split, index, give);
        Ok(())
    }

    /// Passes on, piece by piece, what identifies a sample and is known without reading images or shards. A fingerprint of the data
    /// is made from it. The location of files is not part of it. It is called for every sample when a run begins.
    ///
    /// # Errors
    ///
    /// The list cannot be read now. Damaged samples give less.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        if let Some(name) = self.image_name(split, index)? {
            give(name.as_bytes());
        }
        let captions = SampleError::known(self.captions(split, index))?.unwrap_or_default();
        for caption in &captions {
            give(caption.as_bytes());
        }
        if captions.is_empty() {
            give(&self.place(split, index).line.to_le_bytes());
        }
        Ok(())
    }

    /// Every text of a split, to train a tokenizer on. Texts of damaged samples are left out. If a text only cannot be read, its
    /// error takes its place.
    fn texts(&self, split: Split) -> TextsOf<'_> {
        Box::new((0..self.len(split)).flat_map(move |index| {
            let (texts, error) = match self.captions(split, index) {
                Ok(texts) => (texts, None),
                Err(error) => (Vec::new(), Some(error).filter(SampleError::is_unavailable)),
            };
            texts.into_iter().map(Ok).chain(error.map(Err))
        }))
    }

    /// Announces, in order, the samples that are read next, and how samples are shuffled. It only affects speed.
    fn ahead(&self, _split: Split, _indices: &[usize], _shuffle: Shuffle) {}

    /// Items that were unusable when the source was opened. They belong to no split.
    fn rejected(&self) -> &[SampleError] {
        &[]
    }

    /// Sound items that are of no split, counted by name: `the split "extra"`, `rows without a text`.
    fn left_out(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Number of items in the data set, usable or not: the denominator of the share of skipped items.
    fn items(&self) -> usize {
        let samples = Split::ALL.into_iter().map(|split| self.len(split));
        samples.sum::<usize>() + self.rejected().len()
    }
}

/// One fact of what a source gives together.
impl dyn Source + '_ {
    /// [`Offers::images`].
    pub fn has_images(&self) -> bool {
        self.offers().images
    }

    /// [`Offers::captions`].
    pub fn has_captions(&self) -> bool {
        self.offers().captions
    }

    /// [`Offers::regions`].
    pub fn region_shape(&self) -> Option<RegionShape> {
        self.offers().regions
    }

    /// [`SplitFacts::all_describe`].
    pub fn all_describe(&self, split: Split) -> bool {
        self.facts(split).all_describe
    }

    /// [`SplitFacts::repeats_pictures`].
    pub fn repeats_pictures(&self, split: Split) -> bool {
        self.facts(split).repeats_pictures
    }

    /// [`SplitFacts::second_images`].
    pub fn has_second_images(&self, split: Split) -> bool {
        self.facts(split).second_images
    }

    /// [`Annotations::roles`].
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn roles(&self, split: Split, index: usize) -> Result<Vec<TextRole>, SampleError> {
        Ok(self.annotations(split, index)?.roles)
    }

    /// [`Annotations::labels`]: as long as the captions, or empty if nothing is known of any.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn labels(&self, split: Split, index: usize) -> Result<Vec<Label>, SampleError> {
        Ok(self.annotations(split, index)?.labels())
    }

    /// [`Annotations::phrases`].
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn phrases(&self, split: Split, index: usize) -> Result<Vec<Vec<String>>, SampleError> {
        Ok(self.annotations(split, index)?.phrases)
    }

    /// [`Annotations::tags`].
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn tags(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.annotations(split, index)?.tags)
    }
}

/// Texts, one after the other; see [`Source::texts`].
pub type TextsOf<'a> = Box<dyn Iterator<Item = Result<String, SampleError>> + Send + 'a>;

/// Yields texts up to the first that cannot be read now, and keeps its error.
pub struct Readable<I> {
    texts: I,
    failed: Option<SampleError>,
}

impl<I: Iterator<Item = Result<String, SampleError>>> Readable<I> {
    /// Wraps texts; it ends at the first that cannot be read.
    pub fn new(texts: I) -> Self {
        Self {
            texts,
            failed: None,
        }
    }

    /// Returns `made`, if all texts could be read.
    ///
    /// # Errors
    ///
    /// [`DataError::Unavailable`] for the text that could not be read.
    pub fn whole<T>(self, made: T) -> Result<T, DataError> {
        match self.failed {
            Some(error) => Err(DataError::unavailable(&error)),
            None => Ok(made),
        }
    }
}

impl<I: Iterator<Item = Result<String, SampleError>>> Iterator for Readable<I> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self.texts.next()? {
            Ok(text) => Some(text),
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }
}

/// A source's table in a recipe, such as `[data.pairs]`.
pub trait SourceConfig {
    /// Checks every value, alone and against the others. Errors call the table `table`, such as `data.pairs`.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    fn validate(&self, table: &str) -> Result<(), DataError>;

    /// Every path in it; relative ones are relative to the recipe.
    fn paths(&mut self) -> Vec<&mut PathBuf>;

    /// Opens the source.
    ///
    /// # Errors
    ///
    /// It cannot be read or holds nothing usable.
    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError>;

    /// The settings if a recipe has no such table; `None` if the table is required.
    fn without_table() -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}
