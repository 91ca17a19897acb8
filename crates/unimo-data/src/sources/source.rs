//! Where samples come from.
//!
//! A new source is one file beside this one and one line in the list `sources!` in `sources/mod.rs`.

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
pub use crate::sources::splits::Split;

/// One image with all that is known of it. What a source does not know is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Where it comes from, `file:line`.
    pub name: String,
    /// The image, upright; with [`Limits::enough`] perhaps smaller than its file.
    pub image: Option<RgbImage>,
    /// Which image it shows, if that is known only when it is read; else [`Source::picture_id`] says.
    pub picture_id: Option<u64>,
    /// Texts about the image.
    pub captions: Vec<String>,
    /// Per caption, what it says of the image; empty: all describe it.
    pub roles: Vec<TextRole>,
    /// Per caption, its phrases: objects, objects with attributes, subject-relation-object.
    pub phrases: Vec<Vec<String>>,
    /// Names of the objects in the image, as a detector would give them.
    pub tags: Vec<String>,
    /// Per tag, its box: x1, y1, x2, y2 as shares of width and height.
    pub boxes: Vec<[f32; 4]>,
    /// Regions of the image, where the source gives regions.
    pub regions: Option<PictureRegions>,
    /// Questions with their answers.
    pub questions: Vec<(String, String)>,
    /// Per question, all answers that people gave, where the source has several: the one in `questions` is the most common.
    pub answers: Vec<Vec<String>>,
    /// Statements about the image and whether they are true.
    pub statements: Vec<(String, bool)>,
    /// Statements about the image and what it says of them.
    pub hypotheses: Vec<(String, Entailment)>,
    /// The right image, where questions and statements are about two; `image` is the left one.
    pub second_image: Option<RgbImage>,
}

/// Which image a file's content shows: equal numbers, equal files.
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

/// A data set: samples by split and index.
///
/// Everything but [`Source::image`] and [`Source::sample`] is cheap. The same arguments always give the same result.
pub trait Source: Send + Sync {
    /// Samples in a split.
    fn len(&self, split: Split) -> usize;

    /// Whether a split has no samples.
    fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// One sentence: what it is and how much of it there is.
    fn describe(&self) -> String;

    /// What a user should be told of it, a line each: what is of no split and why, and what was decided because nothing said so.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where a sample is defined.
    fn place(&self, split: Split, index: usize) -> Place;

    /// Whether every sample has an image; otherwise none has.
    fn has_images(&self) -> bool {
        true
    }

    /// Whether every sample has a caption; otherwise none has.
    fn has_captions(&self) -> bool {
        true
    }

    /// Which modalities a sample has: the same for all, but in mixtures of sources.
    fn holds(&self, _split: Split, _index: usize) -> Holds {
        Holds {
            images: self.has_images(),
            captions: self.has_captions(),
        }
    }

    /// The samples of the same kind around a sample: all, but in mixtures of sources. What stands in for a broken sample comes
    /// from here.
    fn siblings(&self, split: Split, _index: usize) -> Range<usize> {
        0..self.len(split)
    }

    /// Samples per unit of storage, in the order of their indices: what lies together and is cheap to read together.
    fn shards(&self, split: Split) -> Vec<usize> {
        vec![self.len(split)]
    }

    /// The order in which training takes the samples; `batch_size` for sources whose batches are of one kind.
    fn plan(&self, split: Split, shuffle: Shuffle, _batch_size: usize) -> Plan {
        Plan::new(&self.shards(split), shuffle)
    }

    /// The captions of a sample, without reading its image. There is at least one where
    /// [`has_captions`](Self::has_captions) is true.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError>;

    /// What each text of [`captions`](Self::captions) says of the image; empty: all describe it.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn roles(&self, _split: Split, _index: usize) -> Result<Vec<TextRole>, SampleError> {
        Ok(Vec::new())
    }

    /// Whether every text of a split describes its image.
    fn all_describe(&self, _split: Split) -> bool {
        true
    }

    /// Whether several samples of a split may show one image, told by [`picture_id`](Self::picture_id).
    fn repeats_pictures(&self, _split: Split) -> bool {
        false
    }

    /// Whether a sample of the split may have two images, see [`Sample::second_image`].
    fn has_second_images(&self, _split: Split) -> bool {
        false
    }

    /// Which image a sample shows, without reading it: equal numbers are the same image. A file is told by its path, an image
    /// without a file by its name or, where it has none, by the place of its sample: then it is its own.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now. A damaged one is told by its place.
    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        Ok(match self.image_path(split, index)? {
            Some(path) => hash_path(Stream::Picture, &path),
            None => match self.image_name(split, index)? {
                Some(name) => hash_path(Stream::Picture, name.as_ref()),
                None => hash_text(Stream::Picture, &self.place(split, index).to_string()),
            },
        })
    }

    /// Per caption, its phrases, as [`Sample::phrases`] has them, without reading the image; empty where the source knows none.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn phrases(&self, _split: Split, _index: usize) -> Result<Vec<Vec<String>>, SampleError> {
        Ok(Vec::new())
    }

    /// Names of the objects in the image, as [`Sample::tags`] has them, without reading it; empty where the source knows none.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn tags(&self, _split: Split, _index: usize) -> Result<Vec<String>, SampleError> {
        Ok(Vec::new())
    }

    /// The image of a sample; none where [`has_images`](Self::has_images) is false.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError>;

    /// The image's file as it is stored, with the extension of its format (`jpg`, `png`, `webp`); none where there is no file.
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

    /// As [`image_bytes`](Self::image_bytes), of the [second picture](Sample::second_image).
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

    /// The image's name as the data set spells it, such as its path beside a list: what features of it are found by. None where it
    /// has no name or its row is damaged.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now.
    fn image_name(&self, _split: Split, _index: usize) -> Result<Option<String>, SampleError> {
        Ok(None)
    }

    /// How many regions an image has at most and how many numbers a region, where images are known by regions.
    fn region_shape(&self) -> Option<RegionShape> {
        None
    }

    /// The regions of an image; none where [`region_shape`](Self::region_shape) is none.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn regions(&self, _split: Split, _index: usize) -> Result<Option<PictureRegions>, SampleError> {
        Ok(None)
    }

    /// Where the image's file is; none where it is no file of its own or its row is damaged.
    ///
    /// # Errors
    ///
    /// The sample's row could not be read now.
    fn image_path(&self, _split: Split, _index: usize) -> Result<Option<PathBuf>, SampleError> {
        Ok(None)
    }

    /// All that is known of a sample.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image: self.image(split, index)?,
            captions: self.captions(split, index)?,
            roles: self.roles(split, index)?,
            ..Sample::default()
        })
    }

    /// Gives, piece by piece, what tells a sample from others and is known without reading images or shards: what a fingerprint of
    /// the data is made of. Where files lie is no part of it. Every sample of a data set is asked for it when a run begins.
    ///
    /// # Errors
    ///
    /// The list cannot be read now. Of what is damaged, less is given.
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

    /// Every text of a split, to train a tokenizer on: those of damaged samples are left out, and where one can only not be read,
    /// its error stands there instead.
    fn texts(&self, split: Split) -> TextsOf<'_> {
        Box::new((0..self.len(split)).flat_map(move |index| {
            let (texts, error) = match self.captions(split, index) {
                Ok(texts) => (texts, None),
                Err(error) => (Vec::new(), Some(error).filter(SampleError::is_unavailable)),
            };
            texts.into_iter().map(Ok).chain(error.map(Err))
        }))
    }

    /// Whether samples are read faster when [`ahead`](Self::ahead) is told of them.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// Told, in order, which samples are asked for next, and in what order samples are taken in all. Changes nothing but how soon
    /// they are there.
    fn ahead(&self, _split: Split, _indices: &[usize], _shuffle: Shuffle) {}

    /// Items that were found unusable when the source was opened; they are in no split.
    fn rejected(&self) -> &[SampleError] {
        &[]
    }

    /// Items of the data set, usable or not: what a share of skipped items is a share of.
    fn items(&self) -> usize {
        let samples = Split::ALL.into_iter().map(|split| self.len(split));
        samples.sum::<usize>() + self.rejected().len()
    }
}

/// Texts, one after the other; see [`Source::texts`].
pub type TextsOf<'a> = Box<dyn Iterator<Item = Result<String, SampleError>> + Send + 'a>;

/// The texts before the first that cannot be read now, and why that cannot be read.
pub struct Readable<I> {
    texts: I,
    failed: Option<SampleError>,
}

impl<I: Iterator<Item = Result<String, SampleError>>> Readable<I> {
    /// Texts that end where one cannot be read.
    pub fn new(texts: I) -> Self {
        Self {
            texts,
            failed: None,
        }
    }

    /// What was made of the texts, if they could all be read.
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
    /// Checks every value; `table` is what the table is called in errors, such as `data.pairs`.
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

    /// The settings where a recipe has no such table; none: it must have one.
    fn without_table() -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}
