//! Batches for training, made ahead of the step on worker threads.
//!
//! Which samples a batch holds, which caption of each, which tokens are masked and what stands in for a broken sample
//! is a pure function of (seed, position), where position counts samples over the whole run. So a run resumed at any
//! batch goes on exactly as it would have, with any number of threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use unimo_core::batch::{Batch, Images, MaskSpec, MaskedTexts, Texts};

use crate::augment::AugmentConfig;
use crate::config::{DataConfig, Pad};
use crate::error::{DataError, SampleError, panic_text};
use crate::images::ImageSpec;
use crate::masking::Masker;
use crate::masking::patches::{PatchMask, PatchMasker};
use crate::order::{Permutation, Stream, below, hash};
use crate::skip::SkipList;
use crate::source::{Sample, Source, Split};
use crate::tokens::{Encoded, TextTokenizer};

/// What to load and how.
#[derive(Clone)]
pub struct LoaderSpec {
    /// Where samples come from.
    pub source: Arc<dyn Source>,
    /// Which part of it.
    pub split: Split,
    /// How texts become ids.
    pub tokenizer: Arc<TextTokenizer>,
    /// How pictures become pixels.
    pub images: ImageSpec,
    /// Random changes of pictures.
    pub augment: Option<AugmentConfig>,
    /// Longest text in tokens.
    pub max_text_length: usize,
    /// What texts are padded to.
    pub pad: Pad,
    /// How words are hidden; none: batches have no masked texts.
    pub mask: Option<MaskSpec>,
    /// Which patches of pictures are hidden; none: pictures have no patch mask.
    pub patch_mask: Option<PatchMask>,
    /// Which further texts batches carry.
    pub further: Vec<FurtherText>,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Decides the order, the captions and the masks.
    pub seed: u64,
    /// Threads that make batches.
    pub workers: usize,
    /// Batches made ahead.
    pub prefetch: usize,
    /// The run's batch to begin with; 0 for a new run.
    pub first_batch: u64,
    /// Where unusable samples are listed.
    pub skip: Arc<SkipList>,
}

impl LoaderSpec {
    /// A training loader with a recipe's settings, from the first batch, without masks.
    pub fn new(
        config: &DataConfig,
        source: Arc<dyn Source>,
        tokenizer: Arc<TextTokenizer>,
        skip: Arc<SkipList>,
        batch_size: usize,
        seed: u64,
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
            patch_mask: None,
            further: Vec::new(),
            batch_size,
            seed,
            workers: config.worker_count(),
            prefetch: config.prefetch,
            first_batch: 0,
            skip,
        }
    }
}

/// Texts beside the caption, in [`Batch::further_texts`] under their [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FurtherText {
    /// The phrases of the caption, joined by commas.
    Phrases,
    /// The names of the picture's objects, joined by commas.
    Tags,
}

impl FurtherText {
    /// The key in [`Batch::further_texts`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Phrases => "phrases",
            Self::Tags => "tags",
        }
    }
}

/// An endless iterator of batches. Ends after an error. Dropping it stops its threads and waits for them.
pub struct Loader {
    lanes: Vec<Receiver<Result<Batch, DataError>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    next: u64,
    first: u64,
    ended: bool,
    waited: Duration,
    last_wait: Duration,
}

/// How often a broken sample is replaced by another before the split is given up. With half of a split broken, all
/// attempts fail once in 2^64 times.
const ATTEMPTS: u64 = 64;

impl Loader {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// The split is empty, a setting is out of range, or too much of the source is unusable.
    pub fn new(spec: LoaderSpec) -> Result<Self, DataError> {
        for (key, value) in [
            ("batch_size", spec.batch_size),
            ("data.workers", spec.workers),
            ("data.prefetch", spec.prefetch),
        ] {
            if value == 0 {
                return Err(DataError::config(key, value, "1 or more"));
            }
        }
        if spec.source.is_empty(spec.split) {
            return Err(DataError::Empty {
                split: spec.split.name(),
                source_name: spec.source.describe(),
                hint: String::new(),
            });
        }
        spec.skip.adopt(&*spec.source)?;
        let masker = spec
            .mask
            .map(|mask| Masker::new(mask, &spec.tokenizer))
            .transpose()?;
        let patches = spec
            .patch_mask
            .map(|mask| PatchMasker::new(mask, spec.images.size))
            .transpose()?;
        let first = spec.first_batch;
        let workers = spec.workers as u64;
        // Thread w makes the batches w, w + n, w + 2n, ... into a lane of its own, so that taking the lanes in turn
        // gives the batches in order without a buffer to sort them in.
        let room = spec.prefetch.div_ceil(spec.workers);
        let stop = Arc::new(AtomicBool::new(false));
        let maker = Arc::new(Maker {
            spec,
            masker,
            patches,
        });
        let mut loader = Self {
            lanes: Vec::new(),
            threads: Vec::new(),
            stop: Arc::clone(&stop),
            next: first,
            first,
            ended: false,
            waited: Duration::ZERO,
            last_wait: Duration::ZERO,
        };
        for worker in 0..workers {
            let (sender, receiver) = bounded(room);
            let (maker, stop) = (Arc::clone(&maker), Arc::clone(&stop));
            let work = move || {
                for batch in (first + worker..).step_by(workers as usize) {
                    let made = catch_unwind(AssertUnwindSafe(|| maker.batch(batch, &stop)))
                        .unwrap_or_else(|payload| {
                            Err(DataError::Worker {
                                batch,
                                reason: panic_text(&*payload),
                            })
                        });
                    let Some(made) = made.transpose() else {
                        return;
                    };
                    let failed = made.is_err();
                    // Sending fails when the loader has been dropped.
                    if sender.send(made).is_err() || failed {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("unimo-loader-{worker}"))
                .spawn(work)
                .map_err(|error| DataError::Worker {
                    batch: first + worker,
                    reason: format!("the thread could not be started: {error}"),
                })?;
            loader.lanes.push(receiver);
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The run's number of the batch that comes next.
    pub fn next_batch(&self) -> u64 {
        self.next
    }

    /// Seconds that all calls of `next` together waited for a batch.
    pub fn wait_seconds(&self) -> f64 {
        self.waited.as_secs_f64()
    }

    /// Seconds that the last call of `next` waited for its batch.
    pub fn last_wait_seconds(&self) -> f64 {
        self.last_wait.as_secs_f64()
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let lane = (self.next - self.first) as usize % self.lanes.len();
        let start = Instant::now();
        let received = self.lanes[lane].recv();
        self.last_wait = start.elapsed();
        self.waited += self.last_wait;
        let made = received.unwrap_or_else(|_| {
            Err(DataError::Worker {
                batch: self.next,
                reason: "it ended without a result".to_owned(),
            })
        });
        self.next += 1;
        self.ended = made.is_err();
        Some(made)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits for room in its lane wakes when the receiver is gone.
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            // A panic has been reported as an error; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("next", &self.next)
            .field("threads", &self.threads.len())
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}

/// Which sample of an endless run stands at a position.
///
/// Positions count over epochs: an epoch's tail shares a batch with the next epoch's head, so no sample is left out
/// and every batch is full. Every epoch has an order of its own.
pub fn sample_at(seed: u64, samples: usize, position: u64) -> usize {
    let (epoch, within) = (position / samples as u64, position % samples as u64);
    Permutation::new(samples, seed, epoch).at(within as usize)
}

struct Maker {
    spec: LoaderSpec,
    masker: Option<Masker>,
    patches: Option<PatchMasker>,
}

/// One sample on its way into a batch.
struct Made {
    sample: Sample,
    caption: usize,
    text: Encoded,
}

impl Maker {
    /// Batch number `batch` of the run; none if the loader was dropped meanwhile.
    fn batch(&self, batch: u64, stop: &AtomicBool) -> Result<Option<Batch>, DataError> {
        let spec = &self.spec;
        let size = spec.batch_size as u64;
        let mut made = Vec::with_capacity(spec.batch_size);
        let mut pixels = Vec::with_capacity(spec.batch_size * spec.images.values());
        for position in batch * size..(batch + 1) * size {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            made.push(self.usable(position, &mut pixels)?);
        }
        let side = spec.images.size;
        let images = (!pixels.is_empty()).then_some(Images {
            pixels,
            height: side,
            width: side,
            patch_mask: self.patches.map(|patches| {
                (batch * size..(batch + 1) * size)
                    .flat_map(|position| {
                        patches.draw(hash(Stream::PatchMask, &[spec.seed, position]))
                    })
                    .collect()
            }),
        });
        let further_texts = spec
            .further
            .iter()
            .map(|further| {
                let encoded: Vec<_> = made
                    .iter()
                    .map(|made| {
                        spec.tokenizer
                            .encode(&made.further(*further), spec.max_text_length)
                    })
                    .collect();
                let texts = spec.tokenizer.pad(&encoded, spec.max_text_length, spec.pad);
                (further.name().to_owned(), texts)
            })
            .collect();
        Ok(Some(Batch {
            texts: Some(self.texts(batch * size, &made)),
            samples: made.into_iter().map(|made| made.sample.name).collect(),
            images,
            further_texts,
            regions: None,
        }))
    }

    /// The sample at a position, or the one that stands in for it. Its pixels are appended.
    fn usable(&self, position: u64, pixels: &mut Vec<f32>) -> Result<Made, DataError> {
        let spec = &self.spec;
        let samples = spec.source.len(spec.split);
        for attempt in 0..ATTEMPTS {
            let index = match attempt {
                0 => sample_at(spec.seed, samples, position),
                _ => {
                    let draw = hash(Stream::Replacement, &[spec.seed, position, attempt]);
                    below(draw, samples)
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

    fn one(&self, index: usize, position: u64, pixels: &mut Vec<f32>) -> Result<Made, SampleError> {
        let spec = &self.spec;
        let mut sample = spec.source.sample(spec.split, index)?;
        let bad = |reason: String| SampleError {
            place: spec.source.place(spec.split, index),
            reason,
        };
        // The picture is let go at once: a batch of photographs in full size would fill the memory.
        match sample.image.take() {
            Some(picture) => match &spec.augment {
                None => spec.images.square(&picture),
                Some(augment) => {
                    let draw = hash(Stream::Augment, &[spec.seed, position]);
                    augment.apply(&spec.images, &picture, draw)
                }
            }
            .map(|square| spec.images.normalise(&square, pixels))
            .map_err(bad)?,
            None if spec.source.has_images() => return Err(bad("no picture".to_owned())),
            None => {}
        }
        if sample.captions.is_empty() {
            return Err(bad("no caption".to_owned()));
        }
        let caption = below(
            hash(Stream::Caption, &[spec.seed, position]),
            sample.captions.len(),
        );
        let text = spec
            .tokenizer
            .encode(&sample.captions[caption], spec.max_text_length);
        Ok(Made {
            sample,
            caption,
            text,
        })
    }

    fn texts(&self, first_position: u64, made: &[Made]) -> Texts {
        let spec = &self.spec;
        let encoded: Vec<Encoded> = made.iter().map(|made| made.text.clone()).collect();
        let mut texts = spec.tokenizer.pad(&encoded, spec.max_text_length, spec.pad);
        if let Some(masker) = &self.masker {
            let mut masked = MaskedTexts {
                ids: Vec::with_capacity(texts.ids.len()),
                labels: Vec::with_capacity(texts.ids.len()),
            };
            for (position, text) in (first_position..).zip(&encoded) {
                let (ids, labels) = masker.apply(text, hash(Stream::Mask, &[spec.seed, position]));
                let padding = texts.length - ids.len();
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
        texts
    }
}

impl Made {
    fn further(&self, further: FurtherText) -> String {
        match further {
            FurtherText::Phrases => self
                .sample
                .phrases
                .get(self.caption)
                .map(|phrases| phrases.join(", "))
                .unwrap_or_default(),
            FurtherText::Tags => self.sample.tags.join(", "),
        }
    }
}
