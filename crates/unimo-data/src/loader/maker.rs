//! Makes a batch as a pure function of the seed and the position.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;
use unimo_batch::{
    Batch, Images, JOINED, KEY, MaskedTexts, QUERY, Regions, SecondViews, TAGS, TRANSLATION,
    Target, TextRole, Texts, Walks,
};

use crate::error::{DataError, SampleError, readable};
use crate::images::Window;
use crate::images::patches::PatchMasker;
use crate::images::regions;
use crate::loader::concepts::ConceptReader;
use crate::loader::desk::Work;
use crate::loader::episodes;
use crate::loader::hidden_regions::{OfSample, RegionHider};
use crate::loader::joined::{self, AlignedWords, Parts};
use crate::loader::sides;
use crate::loader::slices::{self, MadeSlice};
use crate::loader::spec::{FurtherText, LoaderSpec, TAG_SEPARATOR};
use crate::order::draws::{Permutation, Stream, below, hash};
use crate::order::plan::Plan;
use crate::sources::source::Sample;
use crate::sources::telling::StorySlice;
use crate::text::masking::Masker;
use crate::text::tokens::Encoded;

/// Number of replacements tried for a broken sample before the split is given up. If half of a split is broken, all attempts fail
/// once in 2^64 times.
const ATTEMPTS: u64 = 64;

pub(super) struct Maker {
    pub(super) spec: LoaderSpec,
    pub(super) masker: Option<Masker>,
    /// Hides words of joined texts.
    pub(super) joined_masker: Option<Masker>,
    /// Hides words of the sides of a contrast.
    pub(super) sides_masker: Option<Masker>,
    pub(super) plan: Plan,
    /// The most recently sorted windows of batches.
    pub(super) windows: Mutex<Vec<(u64, Arc<Vec<u64>>)>>,
    pub(super) patches: Option<PatchMasker>,
    pub(super) hider: Option<RegionHider>,
    /// The first batch of this process in the run, and the distance between its batches.
    pub(super) first: u64,
    pub(super) ranks: u64,
    pub(super) stop: Arc<AtomicBool>,
}

/// Number of samples announced to a source that reads ahead, an eighth of them at a time.
const ANNOUNCED: usize = 256;

/// Number of sorted windows that are kept: workers may stand on both sides of a window's end.
const WINDOWS: usize = 3;

/// One sample of a batch in the making.
pub(super) struct Made {
    position: u64,
    pub(super) sample: Sample,
    caption: usize,
    /// `None` if the source has no captions.
    text: Option<Encoded>,
    /// Levels of the second view; empty if there is none.
    second_view: Vec<u8>,
    /// Codes of its image's patches; empty if there are none.
    codes: Vec<u32>,
    /// Which image it shows.
    picture: u64,
    /// What its text says about the image.
    role: TextRole,
    /// Levels of the right image; empty if there is none.
    second_picture: Vec<u8>,
    /// The part of its image that the model sees.
    pub(super) window: Window,
    /// Its slices; empty if it is not read as a story.
    slices: Vec<MadeSlice>,
    /// Its decisions; `None` if it is not read as an episode.
    walk: Option<Walks>,
}

impl Made {
    /// The language of its caption, if that is known.
    fn language(&self) -> Option<&str> {
        language_of(&self.sample, self.caption)
    }
}

/// The language of a sample's caption, if that is known.
fn language_of(sample: &Sample, caption: usize) -> Option<&str> {
    let language = sample.languages.tags.get(caption).map(String::as_str);
    language.filter(|language| !language.is_empty())
}

/// Some samples of a batch, and the levels of their images.
pub(super) struct Piece {
    made: Vec<Made>,
    pixels: Vec<u8>,
}

/// Mixtures make batches of one kind, so either all samples of a batch have something (`found` counts them) or none has.
fn all_or_none(batch: u64, found: usize, samples: usize, what: &str) -> Result<(), DataError> {
    if found == 0 || found == samples {
        Ok(())
    } else {
        Err(DataError::Worker {
            batch,
            reason: format!("{found} of {samples} samples have {what}"),
        })
    }
}

impl Work for Maker {
    type Piece = Piece;

    fn number(&self, batch: u64) -> u64 {
        self.first + batch * self.ranks
    }

    fn positions(&self, batch: u64) -> Result<Vec<u64>, DataError> {
        self.positions_of(self.number(batch))
    }

    fn piece(&self, batch: u64, first: usize, positions: &[u64]) -> Result<Piece, DataError> {
        let values = self.spec.images.values();
        let mut piece = Piece {
            made: Vec::with_capacity(positions.len()),
            pixels: Vec::with_capacity(positions.len() * values),
        };
        for (at, position) in (first..).zip(positions) {
            // Nobody takes the batches of a dropped loader.
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if self.spec.source.offers().reads_ahead && at.is_multiple_of(ANNOUNCED / 8) {
                self.announce(self.number(batch), at);
            }
            piece.made.push(self.usable(*position, &mut piece.pixels)?);
        }
        Ok(piece)
    }

    fn whole(&self, batch: u64, pieces: Vec<Piece>) -> Result<Batch, DataError> {
        let mut made = Vec::with_capacity(self.spec.batch_size);
        let mut pixels = Vec::with_capacity(pieces.iter().map(|piece| piece.pixels.len()).sum());
        for piece in pieces {
            made.extend(piece.made);
            pixels.extend(piece.pixels);
        }
        self.batch(self.number(batch), made, pixels)
    }
}

impl Maker {
    /// Assembles batch number `batch` of the run.
    pub(super) fn batch(
        &self,
        batch: u64,
        mut made: Vec<Made>,
        pixels: Vec<u8>,
    ) -> Result<Batch, DataError> {
        let spec = &self.spec;
        let pictures = pixels.len() / spec.images.values();
        all_or_none(batch, pictures, made.len(), "an image")?;
        let regions = self.regions(batch, &made)?;
        let images = (pictures > 0).then(|| Images {
            second_view: {
                let second: usize = made.iter().map(|made| made.second_view.len()).sum();
                (second == made.len() * spec.images.values()).then(|| {
                    let mut levels = Vec::with_capacity(second);
                    made.iter()
                        .for_each(|made| levels.extend(&made.second_view));
                    levels
                })
            },
            patch_mask: self.patches.map(|patches| {
                made.iter()
                    .flat_map(|made| {
                        let draw = hash(Stream::PatchMask, &[spec.seed, made.position]);
                        patches.draw(draw)
                    })
                    .collect()
            }),
            codes: spec.codes.is_some().then(|| {
                let codes = made.iter_mut().map(|made| std::mem::take(&mut made.codes));
                codes.flatten().collect()
            }),
            ..spec.images.batch(pixels)
        });
        // If some samples of a batch have only one image, the batch has no pairs.
        let second: usize = made.iter().map(|made| made.second_picture.len()).sum();
        let whole = pictures > 0 && second == made.len() * spec.images.values();
        let second_images = whole.then(|| {
            let mut levels = Vec::with_capacity(second);
            for made in &mut made {
                levels.extend(std::mem::take(&mut made.second_picture));
            }
            spec.images.batch(levels)
        });
        let further_texts = spec
            .further
            .iter()
            .filter(|_| made.iter().any(|made| made.text.is_some()))
            .filter_map(|further| {
                let encoded: Option<Vec<_>> = made
                    .iter()
                    .map(|made| {
                        let text = self.further(made, *further)?;
                        Some(spec.tokenizer.encode(&text, spec.max_text_length))
                    })
                    .collect();
                let texts = spec
                    .tokenizer
                    .pad(&encoded?, spec.max_text_length, spec.pad);
                Some((further.name().to_owned(), texts))
            })
            .collect();
        let mut further_texts: BTreeMap<String, Texts> = further_texts;
        let mut texts = self.texts(batch, &made)?;
        if let (Some(texts), Some(translations)) = (&mut texts, further_texts.get_mut(TRANSLATION))
        {
            // Both go through the text encoder as one batch.
            let length = texts.length.max(translations.length);
            let pad = spec.tokenizer.specials().pad;
            texts.widen(length, pad);
            translations.widen(length, pad);
        }
        further_texts.extend(self.of_both_languages(&made));
        // If no sample has tags, there is nothing to read. A sample without tags beside others with tags has an empty list.
        if let Some(reader) = &spec.concepts
            && (images.is_some() || regions.is_some())
            && made.iter().any(|made| !made.sample.tags.is_empty())
        {
            let tags: Vec<&[String]> = made.iter().map(|m| m.sample.tags.as_slice()).collect();
            let seeds: Vec<u64> = made
                .iter()
                .map(|made| hash(Stream::Tag, &[spec.seed, made.position]))
                .collect();
            let hide = spec.concept_rate.map(|rate| (rate, seeds.as_slice()));
            let tags = reader.tags(&spec.tokenizer, &tags, hide);
            further_texts.insert(TAGS.to_owned(), tags);
        }
        let stories: Vec<_> = made
            .iter_mut()
            .map(|made| std::mem::take(&mut made.slices))
            .collect();
        let found = stories.iter().filter(|story| !story.is_empty()).count();
        all_or_none(batch, found, made.len(), "a story")?;
        let slices = (found > 0).then(|| {
            let length = spec.max_text_length;
            slices::batch(stories, &spec.images, &spec.tokenizer, length)
        });
        let walks: Vec<Walks> = made.iter_mut().filter_map(|m| m.walk.take()).collect();
        all_or_none(batch, walks.len(), made.len(), "an episode")?;
        let walks = episodes::joined(batch, &walks)?;
        Ok(Batch {
            targets: self.targets(batch, &made)?,
            references: self.references(&made),
            texts,
            pictures: made.iter().map(|made| made.picture).collect(),
            second_images,
            samples: made.into_iter().map(|made| made.sample.name).collect(),
            images,
            further_texts,
            regions,
            slices,
            walks,
        })
    }

    /// What a task predicts of each sample; nothing without a task. A box of which the model sees nothing is unknown.
    fn targets(&self, batch: u64, made: &[Made]) -> Result<Vec<Target>, DataError> {
        let spec = &self.spec;
        let Some(targets) = &spec.targets else {
            return Ok(Vec::new());
        };
        let moves = spec.augment.is_some_and(|augment| augment.moves());
        let of = |made: &Made| match made.sample.labels.first().map(|l| targets.target(l)) {
            Some(Target::Box(_)) if moves => Err(DataError::Worker {
                batch,
                reason: "data.augment moves the image, and a box in it is to be predicted".into(),
            }),
            Some(Target::Box(bounds)) => {
                let seen = made.window.seen(bounds);
                Ok(seen.map_or(Target::Unknown, Target::Box))
            }
            target => Ok(target.unwrap_or_default()),
        };
        made.iter().map(of).collect()
    }

    /// All captions that describe each sample's image; none if the batch is not to hold them.
    fn references(&self, made: &[Made]) -> Vec<Vec<Vec<i32>>> {
        let spec = &self.spec;
        let of_sample = |made: &Made| {
            let roles = &made.sample.roles;
            let captions = made.sample.captions.iter().enumerate();
            let describing = captions.filter(|(at, _)| {
                let role = roles.get(*at);
                role.is_none_or(|role| *role == TextRole::Describes)
            });
            let ids = describing.map(|(_, caption)| {
                let encoded = spec.tokenizer.encode(caption, spec.max_text_length);
                encoded.ids
            });
            ids.collect()
        };
        let made = made.iter().filter(|_| spec.references);
        made.map(of_sample).collect()
    }

    /// Announces to the source the samples from a place in a batch on.
    fn announce(&self, batch: u64, at: usize) {
        let spec = &self.spec;
        let (size, ranks) = (spec.batch_size as u64, spec.ranks as u64);
        let batches = (batch..).step_by(ranks as usize);
        let indices: Vec<usize> = batches
            .flat_map(|batch| batch * size..(batch + 1) * size)
            .skip(at)
            .take(ANNOUNCED)
            .map(|position| self.plan.at(spec.seed, position))
            .collect();
        spec.source.ahead(spec.split, &indices, spec.shuffle);
    }

    /// The regions of a batch's images; `None` if its samples have none.
    fn regions(&self, batch: u64, made: &[Made]) -> Result<Option<Regions>, DataError> {
        let found: Vec<_> = made
            .iter()
            .filter_map(|m| m.sample.regions.as_ref())
            .collect();
        let Some(shape) = self
            .spec
            .source
            .region_shape()
            .filter(|_| !found.is_empty())
        else {
            return Ok(None);
        };
        all_or_none(batch, found.len(), made.len(), "regions")?;
        let mut regions = regions::pad(&found, shape);
        if let Some(hider) = &self.hider {
            let samples: Vec<OfSample<'_>> = made
                .iter()
                .zip(found)
                .map(|(made, regions)| OfSample {
                    regions,
                    language: made.language(),
                    position: made.position,
                })
                .collect();
            regions.hidden = Some(hider.hide(&samples, regions.count));
        }
        Ok(Some(regions))
    }

    /// The positions of a batch's samples: those from `batch * batch_size` on, unless batches are sorted by length.
    fn positions_of(&self, batch: u64) -> Result<Vec<u64>, DataError> {
        let (size, bucket) = (self.spec.batch_size as u64, self.spec.bucket as u64);
        if bucket == 1 {
            return Ok((batch * size..(batch + 1) * size).collect());
        }
        let (window, within) = (batch / bucket, batch % bucket);
        let sorted = self.window(window)?;
        let draw = hash(Stream::Bucket, &[self.spec.seed]);
        let at = Permutation::new(bucket as usize, draw, window).at(within as usize);
        Ok(sorted[at * size as usize..(at + 1) * size as usize].to_vec())
    }

    /// The positions of a window of batches, sorted by text length within each part of a mixture.
    fn window(&self, window: u64) -> Result<Arc<Vec<u64>>, DataError> {
        let kept = || self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, positions)) = kept().iter().find(|(at, _)| *at == window) {
            return Ok(Arc::clone(positions));
        }
        let spec = &self.spec;
        let length = (spec.batch_size * spec.bucket) as u64;
        let mut keys = Vec::with_capacity(length as usize);
        if spec.source.offers().reads_ahead {
            let indices = (window * length..(window + 1) * length)
                .map(|position| self.plan.at(spec.seed, position));
            let indices: Vec<usize> = indices.collect();
            spec.source.ahead(spec.split, &indices, spec.shuffle);
        }
        for position in window * length..(window + 1) * length {
            let index = self.plan.at(spec.seed, position);
            let siblings = spec.source.siblings(spec.split, index);
            // A damaged text gets a replacement of unknown length. A text that only cannot be read now must not change the order.
            let captions = readable(spec.source.captions(spec.split, index))?;
            let caption = self.choice(position, captions.len());
            let length = captions.get(caption).map_or(0, String::len);
            keys.push((siblings.start, length, position));
        }
        keys.sort_unstable();
        let positions = keys.into_iter().map(|(_, _, position)| position);
        let positions = Arc::new(positions.collect::<Vec<_>>());
        let mut kept = kept();
        if kept.len() == WINDOWS {
            kept.remove(0);
        }
        kept.push((window, Arc::clone(&positions)));
        Ok(positions)
    }

    /// The index of the caption that is read at a position.
    fn choice(&self, position: u64, captions: usize) -> usize {
        below(hash(Stream::Caption, &[self.spec.seed, position]), captions)
    }

    /// The sample at a position, or its replacement. Its pixels are appended.
    fn usable(&self, position: u64, pixels: &mut Vec<u8>) -> Result<Made, DataError> {
        let spec = &self.spec;
        let planned = self.plan.at(spec.seed, position);
        let siblings = spec.source.siblings(spec.split, planned);
        for attempt in 0..ATTEMPTS {
            let index = match attempt {
                0 => planned,
                _ => {
                    let draw = hash(Stream::Replacement, &[spec.seed, position, attempt]);
                    siblings.start + below(draw, siblings.len())
                }
            };
            let before = pixels.len();
            match self.one(index, position, pixels) {
                Ok(made) => return Ok(made),
                Err(reason) => {
                    pixels.truncate(before);
                    if spec.skip.add(&reason)? {
                        spec.skip.check(spec.source.items())?;
                    }
                }
            }
        }
        Err(DataError::Empty {
            split: spec.split.name(),
            source_name: spec.source.describe(),
            hint: format!(" that can be used: {ATTEMPTS} in a row were broken"),
        })
    }

    pub(super) fn one(
        &self,
        index: usize,
        position: u64,
        pixels: &mut Vec<u8>,
    ) -> Result<Made, SampleError> {
        let spec = &self.spec;
        let mut sample = spec.source.sample(spec.split, index)?;
        let bad = |reason: String| SampleError::new(spec.source.place(spec.split, index), reason);
        let view = |picture: Cow<'_, RgbImage>, stream: Stream, pixels: &mut Vec<u8>| {
            match &spec.augment {
                None => spec.images.square(&picture),
                Some(augment) => {
                    let draw = hash(stream, &[spec.seed, position]);
                    augment.apply_to(&spec.images, picture, draw)
                }
            }
            .map(|square| spec.images.planes(&square, pixels))
            .map_err(bad)
        };
        let twice = match spec.second_view {
            SecondViews::None => false,
            SecondViews::WithoutTexts => sample.captions.is_empty(),
            SecondViews::All => true,
        };
        let (mut second_view, mut codes) = (Vec::new(), Vec::new());
        let mut window = Window::WHOLE;
        // The image is dropped at once: a batch of full-size photographs would fill the memory.
        match sample.image.take() {
            Some(picture) => {
                window = spec.images.window(picture.dimensions());
                if twice {
                    let picture = Cow::Borrowed(&picture);
                    view(picture, Stream::SecondView, &mut second_view)?;
                }
                let mut other = Vec::new();
                if spec.codes.as_ref().is_some_and(|codes| !codes.aligned()) {
                    view(Cow::Borrowed(&picture), Stream::CodesView, &mut other)?;
                }
                let before = pixels.len();
                view(Cow::Owned(picture), Stream::Augment, pixels)?;
                if let Some(all) = &spec.codes {
                    let seen = if all.aligned() {
                        &pixels[before..]
                    } else {
                        &other
                    };
                    let name = || spec.source.image_name(spec.split, index);
                    let found = all.of_image(seen, spec.images.size, &name);
                    let place = || spec.source.place(spec.split, index);
                    codes = found.map_err(|error| SampleError::new(place(), error))?;
                }
            }
            None if spec.source.holds(spec.split, index).images => {
                return Err(bad("no image".to_owned()));
            }
            None => {}
        }
        let mut second_picture = Vec::new();
        if let Some(picture) = sample.second_image.take() {
            view(
                Cow::Owned(picture),
                Stream::SecondPicture,
                &mut second_picture,
            )?;
        }
        let slices = self.slices(std::mem::take(&mut sample.slices), position);
        let slices = slices.map_err(bad)?;
        let walk = episodes::made(spec, index)?;
        let caption = self.choice(position, sample.captions.len());
        if let (Some(hider), Some(regions)) = (&self.hider, &sample.regions) {
            let language = language_of(&sample, caption);
            hider.check(regions, language).map_err(bad)?;
        }
        self.check_alignment(&sample, caption, position)
            .map_err(bad)?;
        let text = match sample.captions.get(caption) {
            Some(text) if !sample.second_texts.is_empty() => {
                let second = sample.second_texts.get(caption).map_or("", String::as_str);
                let length = spec.max_text_length;
                let language = sample.languages.tags.get(caption);
                let text = self.rewritten(text, language, &[spec.seed, position]);
                let second = self.rewritten(second, None, &[spec.seed, position, 1]);
                Some(spec.tokenizer.encode_pair(&text, &second, length))
            }
            Some(text) => {
                let phrases = spec.concepts.as_ref().map(|reader| {
                    let phrases = reader.phrases(&sample, caption);
                    (reader, phrases)
                });
                let language = sample.languages.tags.get(caption);
                Some(self.encode((text, language), phrases, position))
            }
            None if spec.source.holds(spec.split, index).captions => {
                return Err(bad("no caption".to_owned()));
            }
            None => None,
        };
        Ok(Made {
            position,
            picture: sample
                .picture_id
                .map_or_else(|| spec.source.picture_id(spec.split, index), Ok)?,
            role: sample.roles.get(caption).copied().unwrap_or_default(),
            sample,
            caption,
            text,
            second_view,
            codes,
            second_picture,
            window,
            slices,
            walk,
        })
    }

    /// The slices of a sample as the model reads them; none unless samples are read as stories. Each image is changed at random by itself.
    fn slices(&self, slices: Vec<StorySlice>, position: u64) -> Result<Vec<MadeSlice>, String> {
        let spec = &self.spec;
        // Samples of other parts of a mixture are no stories.
        let Some(most) = spec.slices.filter(|_| !slices.is_empty()) else {
            return Ok(Vec::new());
        };
        let square = |at: usize, picture: RgbImage| match &spec.augment {
            None => spec.images.square(&picture),
            Some(augment) => {
                let draw = hash(Stream::SliceView, &[spec.seed, position, at as u64]);
                augment.apply_to(&spec.images, Cow::Owned(picture), draw)
            }
        };
        let encode = |text: &str| spec.tokenizer.encode(text, spec.max_text_length);
        slices::made(slices, most, &spec.images, &square, &encode)
    }

    /// The text that the model reads instead of this one, whose language may be known.
    fn rewritten<'a>(
        &self,
        text: &'a str,
        language: Option<&String>,
        draw: &[u64],
    ) -> Cow<'a, str> {
        let known = language.filter(|language| !language.is_empty());
        let rewrite = self.spec.rewrite.as_ref();
        let rewrite = rewrite.filter(|rewrite| known.is_none_or(|known| rewrite.reads(known)));
        match rewrite {
            Some(rewrite) => rewrite.rewrite(text, hash(Stream::Rewrite, draw)).into(),
            None => text.into(),
        }
    }

    fn encode(
        &self,
        (text, language): (&str, Option<&String>),
        phrases: Option<(&ConceptReader, Vec<String>)>,
        position: u64,
    ) -> Encoded {
        let spec = &self.spec;
        let text = self.rewritten(text, language, &[spec.seed, position]);
        match phrases {
            None => spec.tokenizer.encode(&text, spec.max_text_length),
            Some((reader, phrases)) => {
                reader.encode(&spec.tokenizer, &text, &phrases, spec.max_text_length)
            }
        }
    }

    /// The captions of a batch; `None` if its samples have none.
    fn texts(&self, batch: u64, made: &[Made]) -> Result<Option<Texts>, DataError> {
        let spec = &self.spec;
        let encoded: Vec<Encoded> = made.iter().filter_map(|made| made.text.clone()).collect();
        if encoded.is_empty() {
            return Ok(None);
        }
        all_or_none(batch, encoded.len(), made.len(), "a caption")?;
        let mut texts = spec.tokenizer.pad(&encoded, spec.max_text_length, spec.pad);
        if made.iter().any(|made| made.role != TextRole::Describes) {
            texts.roles = made.iter().map(|made| made.role).collect();
        }
        if spec.concepts.is_some() {
            texts.concepts = Some(encoded.iter().map(|text| text.concepts).collect());
        }
        if self.masker.is_some() || spec.concepts.is_some() && spec.concept_rate.is_some() {
            let mut masked = MaskedTexts {
                ids: Vec::with_capacity(texts.ids.len()),
                labels: Vec::with_capacity(texts.ids.len()),
                concept_labels: spec
                    .concepts
                    .as_ref()
                    .map(|_| Vec::with_capacity(texts.ids.len())),
            };
            for (made, text) in made.iter().zip(&encoded) {
                let (mut ids, labels) = match &self.masker {
                    Some(masker) if self.hides_words(made) => {
                        let draw = hash(Stream::Mask, &[spec.seed, made.position]);
                        masker.apply(text, draw)
                    }
                    _ => (text.ids.clone(), vec![MaskedTexts::IGNORE; text.ids.len()]),
                };
                let padding = texts.length - ids.len();
                if let (Some(reader), Some(all)) = (&spec.concepts, &mut masked.concept_labels) {
                    let draw = hash(Stream::Concept, &[spec.seed, made.position]);
                    let tokenizer = &spec.tokenizer;
                    let rate = spec.concept_rate;
                    all.extend(reader.hide(tokenizer, text, (&mut ids, &labels), rate, draw));
                    all.extend(std::iter::repeat_n(MaskedTexts::IGNORE, padding));
                }
                masked.ids.extend(ids);
                masked.labels.extend(labels);
                masked
                    .ids
                    .extend(std::iter::repeat_n(spec.tokenizer.specials().pad, padding));
                masked
                    .labels
                    .extend(std::iter::repeat_n(MaskedTexts::IGNORE, padding));
            }
            texts.masked = Some(masked);
        }
        Ok(Some(texts))
    }

    /// Whether words of a sample are hidden: if not, regions of its image are.
    fn hides_words(&self, made: &Made) -> bool {
        let hider = self.hider.as_ref();
        let hider = hider.filter(|_| made.sample.regions.is_some());
        hider.is_none_or(|hider| hider.hides_words(made.position))
    }

    /// A further text of a sample; `None` if it has no such text.
    fn further(&self, made: &Made, further: FurtherText) -> Option<String> {
        let sample = &made.sample;
        Some(match further {
            FurtherText::Phrases => sample
                .phrases
                .get(made.caption)
                .map(|phrases| phrases.join(", "))
                .unwrap_or_default(),
            FurtherText::Tags => sample.tags.join(TAG_SEPARATOR),
            FurtherText::SecondCaption => {
                let others = sample.captions.len().saturating_sub(1);
                let draw = hash(Stream::SecondCaption, &[self.spec.seed, made.position]);
                let at = below(draw, others);
                let at = at + usize::from(at >= made.caption && others > 0);
                sample.captions.get(at).cloned().unwrap_or_default()
            }
            FurtherText::Translation => self.translation(made)?.0.to_owned(),
        })
    }

    /// The caption in another language, drawn from those that the sample has it in, with the language's tag; `None` if it has none.
    fn translation<'a>(&self, made: &'a Made) -> Option<(&'a str, &'a str)> {
        let sample = &made.sample;
        let at = self.translated(sample, made.caption, made.position)?;
        let language = sample.languages.tags.get(at).map_or("", String::as_str);
        Some((sample.captions.get(at)?, language))
    }

    /// The number of this text.
    fn translated(&self, sample: &Sample, caption: usize, position: u64) -> Option<usize> {
        let others = sample.languages.translations(caption);
        let draw = hash(Stream::Translation, &[self.spec.seed, position]);
        others.get(below(draw, others.len())).copied()
    }

    /// Checks that words of a caption and its translation are aligned, if words are hidden by it.
    fn check_alignment(
        &self,
        sample: &Sample,
        caption: usize,
        position: u64,
    ) -> Result<(), String> {
        let masker = self.joined_masker.as_ref();
        if !masker.is_some_and(Masker::is_aligned) {
            return Ok(());
        }
        let other = self.translated(sample, caption, position);
        let known = other.is_none_or(|other| sample.languages.aligned(caption, other).is_some());
        known.then_some(()).ok_or_else(|| {
            "it is not known which words of its caption and of the translation stand for each other, and words are hidden by that"
                .to_owned()
        })
    }

    /// Which words of a caption and its translation stand for each other, if words are hidden by it.
    fn aligned(&self, made: &Made) -> Option<AlignedWords> {
        let masker = self.joined_masker.as_ref();
        masker.filter(|masker| masker.is_aligned())?;
        let (spec, sample) = (&self.spec, &made.sample);
        let other = self.translated(sample, made.caption, made.position)?;
        let words = [made.caption, other].map(|text| {
            let text = sample.captions.get(text).map_or("", String::as_str);
            spec.tokenizer.spaced_words(text, spec.max_text_length)
        });
        let pairs = sample.languages.aligned(made.caption, other)?;
        Some(AlignedWords { words, pairs })
    }

    /// Texts that are made of captions and their translations; none if none are asked for, or a sample has no translation.
    fn of_both_languages(&self, made: &[Made]) -> Vec<(String, Texts)> {
        let spec = &self.spec;
        if spec.joined.is_none() && spec.sides.is_none() {
            return Vec::new();
        }
        let parts = made.iter().map(|made| {
            let (translation, language) = self.translation(made)?;
            let tags = &made.sample.languages.tags;
            let own = tags.get(made.caption).cloned().unwrap_or_default();
            Some(Parts {
                position: made.position,
                first: made.text.clone()?.without_concepts(),
                second: spec.tokenizer.encode(translation, spec.max_text_length),
                aligned: self.aligned(made),
                languages: [own, language.to_owned()],
            })
        });
        let Some(parts) = parts.collect::<Option<Vec<Parts>>>() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        if let Some(joining) = spec.joined {
            let joined = joined::texts(spec, joining, self.joined_masker.as_ref(), &parts);
            all.push((JOINED.to_owned(), joined));
        }
        if let Some(sides) = spec.sides {
            let [query, key] = sides::texts(spec, sides, self.sides_masker.as_ref(), &parts);
            all.extend([(QUERY.to_owned(), query), (KEY.to_owned(), key)]);
        }
        all
    }
}
