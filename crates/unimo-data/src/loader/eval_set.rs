//! Images and captions to evaluate on, in a fixed order: one split, several splits, or a random part of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use image::RgbImage;
use unimo_batch::{Images, Regions, Texts};

use crate::error::{DataError, ReadError, SampleError};
use crate::images::{ImageSpec, regions};
use crate::loader::concepts::ConceptReader;
use crate::loader::gathered::gather;
use crate::loader::skip::SkipList;
use crate::loader::spec::TAG_SEPARATOR;
use crate::order::draws::{Permutation, Stream, hash};
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::text::tokens::{Encoded, Pad, TextTokenizer};
use crate::threads::parallel;

/// Images and captions to evaluate on.
///
/// Every image is decoded once when the set is made. So broken ones are left out with their captions from the start, and images and
/// captions keep their numbers. Pixels are not kept.
#[derive(Clone)]
pub struct EvalSet {
    source: Arc<dyn Source>,
    splits: Vec<Split>,
    spec: ImageSpec,
    items: Vec<Item>,
    captions: Vec<Caption>,
    concepts: Option<ConceptReader>,
    /// Number of images that a part was drawn from.
    drawn_from: Option<usize>,
    /// The language of all captions, if it is a set of one language.
    language: Option<String>,
}

/// One image of an [`EvalSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is defined, `file:line`.
    pub name: String,
    /// Its split in the source.
    pub split: Split,
    /// Its number in the split.
    pub index: usize,
    /// Its captions' numbers in [`EvalSet::captions`].
    pub captions: Range<usize>,
}

/// One caption of an [`EvalSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Its image's number in [`EvalSet::items`].
    pub image: usize,
    /// What it says.
    pub text: String,
    /// The tag of its language; empty: not known.
    pub language: String,
}

/// The seed of random parts. It is neither a setting nor a run's seed, so that runs are compared on the same part.
const PART_SEED: u64 = 0;

/// A random order of `count` items, the same every time.
pub(super) fn shuffled(count: usize) -> Permutation {
    Permutation::new(count, hash(Stream::HeldOut, &[PART_SEED]), 0)
}

impl EvalSet {
    /// The usable samples of some splits, one split after the other. If there are more than `limit`, that many are drawn at random,
    /// always the same. Samples of a split with the same image become one, with all their captions. Only texts that describe their
    /// image are captions.
    ///
    /// # Errors
    ///
    /// No sample is usable, no text describes its image, or too much of the source is unusable.
    pub fn new(
        source: Arc<dyn Source>,
        splits: &[Split],
        limit: Option<usize>,
        spec: ImageSpec,
        skip: &SkipList,
    ) -> Result<Self, DataError> {
        skip.adopt(&*source)?;
        let source = gather(source, splits)?;
        let lengths: Vec<usize> = splits.iter().map(|split| source.len(*split)).collect();
        let all = lengths.iter().sum();
        let limit = limit.unwrap_or(all);
        let mut set = Self {
            source,
            splits: splits.to_vec(),
            spec,
            items: Vec::new(),
            captions: Vec::new(),
            concepts: None,
            drawn_from: (limit < all).then_some(all),
            language: None,
        };
        let order = (limit < all).then(|| shuffled(all));
        let number = |at: usize| order.as_ref().map_or(at, |order| order.at(at));
        let place = |number: usize| {
            let mut index = number;
            let mut of_split = splits.iter().zip(&lengths);
            let found = of_split.find(|(_, length)| {
                if index < **length {
                    true
                } else {
                    index -= **length;
                    false
                }
            });
            found.map(|(split, _)| (*split, index))
        };
        let in_languages = |split: &Split| set.source.facts(*split).languages;
        let in_languages = splits.iter().any(in_languages);
        let mut usable = Vec::new();
        let mut next = 0;
        while usable.len() < limit && next < all {
            let until = all.min(next + limit - usable.len());
            let checked = parallel(next..until, |at| {
                let (split, index) = place(number(at))?;
                let checked = set.check(split, index, in_languages);
                Some((number(at), split, index, checked))
            });
            for (number, split, index, captions) in checked.into_iter().flatten() {
                match captions {
                    Ok(captions) => usable.push((number, split, index, captions)),
                    Err(reason) => {
                        skip.add(&reason)?;
                    }
                }
            }
            skip.check(set.source.items())?;
            next = until;
        }
        if usable.is_empty() {
            let names: Vec<&str> = splits.iter().map(|split| split.name()).collect();
            return Err(DataError::Empty {
                split: names.first().copied().unwrap_or("held-out"),
                source_name: set.source.describe(),
                hint: " to evaluate on".to_owned(),
            });
        }
        usable.sort_unstable_by_key(|(number, ..)| *number);
        for (_, split, index, captions) in usable {
            let name = set.source.place(split, index).to_string();
            set.push(name, (split, index), captions);
        }
        Ok(set)
    }

    /// A random part of `count` images with their captions, always the same, in the set's order; all if there are no more.
    #[must_use]
    pub fn part(&self, count: usize) -> Self {
        let all = self.items.len();
        if count >= all {
            return self.clone();
        }
        let order = shuffled(all);
        let mut chosen: Vec<usize> = (0..count).map(|at| order.at(at)).collect();
        chosen.sort_unstable();
        let mut part = self.only(chosen);
        part.drawn_from = self.drawn_from.or(Some(all));
        part
    }

    /// The set in `count` parts, one after the other in its order, of sizes that differ by one at most. No more than there are images.
    pub fn folds(&self, count: usize) -> Vec<Self> {
        let all = self.items.len();
        let count = count.clamp(1, all.max(1));
        let first = |fold: usize| fold * all / count;
        (0..count)
            .map(|fold| self.only(first(fold)..first(fold + 1)))
            .collect()
    }

    /// The images of these numbers with their captions, in that order.
    fn only(&self, chosen: impl IntoIterator<Item = usize>) -> Self {
        let mut part = Self {
            items: Vec::new(),
            captions: Vec::new(),
            ..self.clone()
        };
        for item in chosen.into_iter().map(|number| &self.items[number]) {
            let captions = self.captions[item.captions.clone()].iter();
            let captions = captions.cloned().collect();
            part.push(item.name.clone(), (item.split, item.index), captions);
        }
        part
    }

    /// The languages of its captions, in the order of the alphabet; those that are not known are left out.
    pub fn languages(&self) -> Vec<String> {
        let known = self.captions.iter().map(|caption| &caption.language);
        let known: BTreeSet<&String> = known.filter(|tag| !tag.is_empty()).collect();
        known.into_iter().cloned().collect()
    }

    /// The captions in a language, with their images.
    #[must_use]
    pub fn in_language(&self, tag: &str) -> Self {
        let mut part = Self {
            items: Vec::new(),
            captions: Vec::new(),
            language: Some(tag.to_owned()),
            ..self.clone()
        };
        for item in &self.items {
            let captions = self.captions[item.captions.clone()].iter();
            let captions: Vec<Caption> = captions
                .filter(|caption| caption.language == tag)
                .cloned()
                .collect();
            if !captions.is_empty() {
                part.push(item.name.clone(), (item.split, item.index), captions);
            }
        }
        part
    }

    /// A label: `val`, or `val, 320 of 1000 pictures at random`.
    pub fn label(&self) -> String {
        let names: Vec<&str> = self.splits.iter().map(|split| split.name()).collect();
        let names = names.join(" and ");
        let label = match self.drawn_from {
            Some(all) => format!("{names}, {} of {all} images at random", self.items.len()),
            None => names,
        };
        match &self.language {
            Some(tag) => format!("{label}, captions in {tag}"),
            None => label,
        }
    }

    /// The same set with phrases in its texts and with tags.
    #[must_use]
    pub fn with_concepts(self, reader: Option<ConceptReader>) -> Self {
        Self {
            concepts: reader,
            ..self
        }
    }

    /// The reader of concepts, if the set has concepts.
    pub fn concepts(&self) -> Option<&ConceptReader> {
        self.concepts.as_ref()
    }

    fn push(&mut self, name: String, (split, index): (Split, usize), captions: Vec<Caption>) {
        let image = self.items.len();
        let first = self.captions.len();
        self.captions
            .extend(captions.into_iter().map(|own| Caption { image, ..own }));
        self.items.push(Item {
            name,
            split,
            index,
            captions: first..self.captions.len(),
        });
    }

    /// The captions of a sample whose image can be decoded.
    fn check(
        &self,
        split: Split,
        index: usize,
        in_languages: bool,
    ) -> Result<Vec<Caption>, SampleError> {
        self.check_picture(split, index)?;
        let captions = self.source.captions(split, index)?;
        if captions.is_empty() {
            return Err(self.bad(split, index, "no caption".to_owned()));
        }
        let languages = if in_languages {
            self.source.annotations(split, index)?.languages.tags
        } else {
            Vec::new()
        };
        let mut languages = languages.into_iter();
        let captions = captions.into_iter().map(|text| Caption {
            image: 0,
            text,
            language: languages.next().unwrap_or_default(),
        });
        Ok(captions.collect())
    }

    /// Checks that a sample's image or regions can be read.
    fn check_picture(&self, split: Split, index: usize) -> Result<(), SampleError> {
        let bad = |reason| self.bad(split, index, reason);
        if self.source.region_shape().is_some() {
            let regions = self.source.regions(split, index)?;
            return match regions {
                Some(_) => Ok(()),
                None => Err(bad("no regions".to_owned())),
            };
        }
        match self.source.image(split, index)? {
            Some(picture) => self.spec.square(&picture).map(drop).map_err(bad),
            None if self.source.has_images() => Err(bad("no image".to_owned())),
            None => Ok(()),
        }
    }

    fn bad(&self, split: Split, index: usize, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.source.place(split, index), reason)
    }

    /// Every image, with the numbers of its captions.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Every caption, with the number of its image.
    pub fn captions(&self) -> &[Caption] {
        &self.captions
    }

    /// How images become pixels.
    pub fn image_spec(&self) -> ImageSpec {
        self.spec
    }

    /// The source, for everything else about an item: `source.sample(item.split, item.index)`.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Images, read on all cores. A range beyond the last image is cut short.
    ///
    /// # Shapes
    ///
    /// `[B, 3, S, S]`, `B` the length of the range.
    ///
    /// # Errors
    ///
    /// A file that could be read when the set was made can no longer be read.
    pub fn images(&self, range: Range<usize>) -> Result<Images, DataError> {
        let range = range.start.min(self.items.len())..range.end.min(self.items.len());
        let count = range.len();
        let one = |number: usize| -> Result<Vec<u8>, DataError> {
            let item = &self.items[number];
            let bad = |reason| self.gone(self.bad(item.split, item.index, reason));
            let picture = self.picture(number)?;
            let picture = picture.ok_or_else(|| bad("no image".to_owned()))?;
            let square = self.spec.square(&picture).map_err(bad)?;
            let mut levels = Vec::new();
            self.spec.planes(&square, &mut levels);
            Ok(levels)
        };
        let mut pixels = Vec::with_capacity(count * self.spec.values());
        for one in parallel(range, one) {
            pixels.extend(one?);
        }
        Ok(self.spec.batch(pixels))
    }

    /// Regions of images, read on all cores; `None` if images are given as pixels. A range beyond the last image is cut short.
    ///
    /// # Shapes
    ///
    /// `[B, R, F]`, `B` the length of the range.
    ///
    /// # Errors
    ///
    /// A file that could be read when the set was made can no longer be read.
    pub fn regions(&self, range: Range<usize>) -> Result<Option<Regions>, DataError> {
        let Some(shape) = self.source.region_shape() else {
            return Ok(None);
        };
        let range = range.start.min(self.items.len())..range.end.min(self.items.len());
        let one = |number: usize| {
            let item = &self.items[number];
            let found = self.source.regions(item.split, item.index);
            found.map(Option::unwrap_or_default)
        };
        let read: Result<Vec<_>, _> = parallel(range, one).into_iter().collect();
        let read = read.map_err(|error| self.gone(error))?;
        Ok(Some(regions::pad(&read.iter().collect::<Vec<_>>(), shape)))
    }

    /// Captions as token ids. A range beyond the last caption is cut short.
    ///
    /// # Shapes
    ///
    /// `[B, L]`, `B` the length of the range.
    ///
    /// # Errors
    ///
    /// Phrases can no longer be read.
    pub fn texts(
        &self,
        range: Range<usize>,
        tokenizer: &TextTokenizer,
        max_length: usize,
        pad: Pad,
    ) -> Result<Texts, DataError> {
        let range = range.start.min(self.captions.len())..range.end.min(self.captions.len());
        // The captions of an image are consecutive, so its phrases are found once.
        let mut of_item = (usize::MAX, Vec::new());
        let mut encoded: Vec<Encoded> = Vec::with_capacity(range.len());
        for number in range {
            let image = self.captions[number].image;
            if of_item.0 != image {
                of_item = (image, self.phrases(image)?);
            }
            encoded.push(self.encode_with(number, &of_item.1, tokenizer, max_length));
        }
        let mut texts = tokenizer.pad(&encoded, max_length, pad);
        if self.concepts.is_some() {
            texts.concepts = Some(encoded.iter().map(|text| text.concepts).collect());
        }
        Ok(texts)
    }

    /// One caption as tokens, with its phrases if the set has concepts.
    ///
    /// # Errors
    ///
    /// Phrases can no longer be read.
    ///
    /// # Panics
    ///
    /// Panics if there is no such caption.
    pub fn encode(
        &self,
        number: usize,
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Result<Encoded, DataError> {
        let phrases = self.phrases(self.captions[number].image)?;
        Ok(self.encode_with(number, &phrases, tokenizer, max_length))
    }

    /// For each caption of an image, its phrases, if the set has concepts.
    fn phrases(&self, image: usize) -> Result<Vec<Vec<String>>, DataError> {
        let Some(reader) = &self.concepts else {
            return Ok(Vec::new());
        };
        let item = &self.items[image];
        let phrases = reader.phrases_of(&*self.source, item.split, item.index);
        phrases.map_err(|error| self.gone(error))
    }

    fn encode_with(
        &self,
        number: usize,
        of_item: &[Vec<String>],
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Encoded {
        let caption = &self.captions[number];
        let Some(reader) = &self.concepts else {
            return tokenizer.encode(&caption.text, max_length);
        };
        let own = number - self.items[caption.image].captions.start;
        let phrases = of_item.get(own).map_or(&[][..], Vec::as_slice);
        reader.encode(tokenizer, &caption.text, phrases, max_length)
    }

    /// The tags of images, if the set has concepts and one of the images has a tag.
    ///
    /// # Shapes
    ///
    /// `[B, M]`, `B` the length of the range.
    ///
    /// # Errors
    ///
    /// Tags can no longer be read.
    pub fn tags(
        &self,
        range: Range<usize>,
        tokenizer: &TextTokenizer,
    ) -> Result<Option<Texts>, DataError> {
        let Some(reader) = &self.concepts else {
            return Ok(None);
        };
        let tags = self.names(range)?;
        let tags: Vec<&[String]> = tags.iter().map(Vec::as_slice).collect();
        let some = tags.iter().any(|tags| !tags.is_empty());
        Ok(some.then(|| reader.tags(tokenizer, &tags, None)))
    }

    /// The tags of images as texts, as [`FurtherText::Tags`](crate::loader::spec::FurtherText::Tags) gives them in training, at most
    /// `max_length` tokens each.
    ///
    /// # Shapes
    ///
    /// `[B, M]`, `B` the length of the range.
    ///
    /// # Errors
    ///
    /// Tags can no longer be read.
    pub fn tags_as_texts(
        &self,
        range: Range<usize>,
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Result<Texts, DataError> {
        let tags = self.names(range)?;
        let encoded = tags.iter().map(|tags| tags.join(TAG_SEPARATOR));
        let encoded = encoded.map(|text| tokenizer.encode(&text, max_length));
        let encoded: Vec<Encoded> = encoded.collect();
        Ok(tokenizer.pad(&encoded, max_length, Pad::Longest))
    }

    /// The tags of images, a list for each.
    fn names(&self, range: Range<usize>) -> Result<Vec<Vec<String>>, DataError> {
        let range = range.start.min(self.items.len())..range.end.min(self.items.len());
        let items = self.items[range].iter();
        let of = |item: &Item| {
            let of_item = self.source.tags(item.split, item.index);
            of_item.map_err(|error| self.gone(error))
        };
        items.map(of).collect()
    }

    /// The image of one item as the source gives it, for a report; `None` if images are given as regions and their files do not
    /// exist.
    ///
    /// # Errors
    ///
    /// There is no such item, the source has no images, or a file can no longer be read.
    pub fn picture(&self, number: usize) -> Result<Option<RgbImage>, DataError> {
        let Some(item) = self.items.get(number) else {
            return Err(DataError::config(
                "image number",
                number,
                format!("a number below {}", self.items.len()),
            ));
        };
        let found = self.source.image(item.split, item.index);
        match found.map_err(|error| self.gone(error))? {
            None if self.source.region_shape().is_none() => Err(DataError::Empty {
                split: item.split.name(),
                source_name: self.source.describe(),
                hint: " with an image".to_owned(),
            }),
            picture => Ok(picture),
        }
    }

    fn gone(&self, error: SampleError) -> DataError {
        if error.is_unavailable() {
            return DataError::unavailable(&error);
        }
        DataError::Manifest {
            path: error.place.file.clone().into(),
            reason: format!(
                "line {}: could be read before and no longer can: {}",
                error.place.line, error.reason
            ),
        }
    }
}

impl std::fmt::Debug for EvalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvalSet")
            .field("source", &self.source.describe())
            .field("splits", &self.splits)
            .field("images", &self.items.len())
            .field("captions", &self.captions.len())
            .finish_non_exhaustive()
    }
}
