//! Where samples come from.
//!
//! A new source is one file in `sources/`, one arm in [`open`] and one name in
//! [`SourceKind`].

use std::sync::Arc;

use image::RgbImage;

use crate::config::{DataConfig, SourceKind};
use crate::error::{DataError, Place, SampleError};
use crate::sources::pairs::Pairs;
use crate::sources::scenes::Scenes;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out.
    Val,
}

impl Split {
    /// `train` or `val`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// One picture with all that is known of it. What a source does not know is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Where it comes from, `file:line`.
    pub name: String,
    /// The picture, upright.
    pub image: Option<RgbImage>,
    /// Texts that each describe the picture.
    pub captions: Vec<String>,
    /// Per caption, its phrases: objects, objects with attributes, subject-relation-object.
    pub phrases: Vec<Vec<String>>,
    /// Names of the objects in the picture, as a detector would give them.
    pub tags: Vec<String>,
    /// Per tag, its box: x1, y1, x2, y2 as shares of width and height.
    pub boxes: Vec<[f32; 4]>,
    /// Questions with their answers.
    pub questions: Vec<(String, String)>,
    /// Statements about the picture and whether they are true.
    pub statements: Vec<(String, bool)>,
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

    /// Where a sample is defined.
    fn place(&self, split: Split, index: usize) -> Place;

    /// Whether every sample has a picture; otherwise none has.
    fn has_images(&self) -> bool {
        true
    }

    /// The captions of a sample, without reading its picture. There is at least one.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError>;

    /// The picture of a sample; none where [`has_images`](Self::has_images) is false.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError>;

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
            ..Sample::default()
        })
    }

    /// Every text of a split, to train a tokenizer on.
    fn texts(&self, split: Split) -> Box<dyn Iterator<Item = String> + Send + '_> {
        Box::new(
            (0..self.len(split))
                .flat_map(move |index| self.captions(split, index).unwrap_or_default()),
        )
    }

    /// Items that were found unusable when the source was opened; they are in no split.
    fn rejected(&self) -> &[SampleError] {
        &[]
    }

    /// Items of the data set, usable or not: what a share of skipped items is a share of.
    fn items(&self) -> usize {
        self.len(Split::Train) + self.len(Split::Val) + self.rejected().len()
    }
}

/// Opens the source that a recipe names.
///
/// # Errors
///
/// A setting that is not allowed, or a list of samples that cannot be read or holds nothing usable.
pub fn open(config: &DataConfig) -> Result<Arc<dyn Source>, DataError> {
    config.validate()?;
    Ok(match (config.source, &config.pairs) {
        (SourceKind::Pairs, Some(pairs)) => Arc::new(Pairs::open(pairs, config.max_pixels)?),
        (SourceKind::Pairs, None) => {
            return Err(DataError::config("data.pairs", "absent", "a table"));
        }
        (SourceKind::Scenes, _) => Arc::new(Scenes::new(config.scenes.unwrap_or_default())),
    })
}
