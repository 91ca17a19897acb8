//! Batches for training, made ahead of the step on worker threads.
//!
//! The samples of a batch, the caption of each, the masked tokens and the replacements of broken samples are a pure function of
//! (seed, position). Position counts samples over the whole run and over all ranks. So a run resumed at any batch continues exactly
//! as it would have, with any number of threads and ranks.

pub(crate) mod bitext;
pub(crate) mod codes;
pub(crate) mod concepts;
mod desk;
pub(crate) mod each;
mod episodes;
pub(crate) mod eval_set;
mod gathered;
mod hidden_regions;
mod joined;
mod maker;
mod rewrite;
mod sides;
pub(crate) mod skip;
mod slices;
mod spec;
pub(crate) mod story_set;
pub(crate) mod switch;
pub(crate) mod task_set;
mod tokenizer;
mod vocabulary;

pub use hidden_regions::HideRegions;
pub use rewrite::Rewrite;
pub use spec::{Batches, FurtherText, Joining, LoaderSpec, MakeTarget};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unimo_batch::{Batch, MaskSpec};

use crate::error::DataError;
use crate::images::patches::PatchMasker;
use crate::loader::desk::Desk;
use crate::loader::hidden_regions::RegionHider;
use crate::loader::maker::{Maker, Piece};
use crate::text::masking::Masker;

/// An endless iterator of batches. Ends after an error. Dropping it stops its threads and waits for them.
pub struct Loader {
    desk: Arc<Desk<Piece>>,
    threads: Vec<JoinHandle<()>>,
    /// Set on drop: threads then skip the rest of their piece.
    stop: Arc<AtomicBool>,
    /// Number of batches taken from it so far.
    taken: u64,
    first: u64,
    ranks: u64,
    ended: bool,
    waited: Duration,
    last_wait: Duration,
}

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
            ("data.bucket", spec.bucket),
            ("ranks", spec.ranks),
        ] {
            if value == 0 {
                return Err(DataError::config(key, value, "1 or more"));
            }
        }
        if spec.rank >= spec.ranks {
            let allowed = format!("below ranks = {}", spec.ranks);
            return Err(DataError::config("rank", spec.rank, allowed));
        }
        if spec.source.is_empty(spec.split) {
            return Err(DataError::Empty {
                split: spec.split.name(),
                source_name: spec.source.describe(),
                hint: String::new(),
            });
        }
        spec.skip.adopt(&*spec.source)?;
        let masker_by = |mask: Option<MaskSpec>| {
            mask.map(|mask| Masker::new(mask, &spec.tokenizer))
                .transpose()
        };
        let masker = masker_by(spec.mask)?;
        let joined_masker = masker_by(spec.joined.and_then(|joined| joined.mask))?;
        let sides_masker = masker_by(spec.sides.and_then(|sides| sides.mask))?;
        let patches = spec
            .patch_mask
            .map(|mask| PatchMasker::new(mask, spec.images.size))
            .transpose()?;
        let hider = spec.hide_regions.map(|hide| {
            let classes = spec.source.region_classes();
            RegionHider::new(hide, classes, &spec.tokenizer, spec.seed)
        });
        let hider = hider.transpose()?;
        let ranks = spec.ranks as u64;
        let first = spec.first_batch + spec.rank as u64;
        let workers = spec.workers as u64;
        let plan = spec.source.plan(spec.split, spec.shuffle, spec.batch_size);
        let stop = Arc::new(AtomicBool::new(false));
        let desk = Arc::new(Desk::new(spec.workers, spec.prefetch, spec.batch_size));
        let maker = Arc::new(Maker {
            spec,
            masker,
            joined_masker,
            sides_masker,
            plan,
            windows: Mutex::default(),
            patches,
            hider,
            first,
            ranks,
            stop: Arc::clone(&stop),
        });
        let mut loader = Self {
            desk: Arc::clone(&desk),
            threads: Vec::new(),
            stop,
            taken: 0,
            first,
            ranks,
            ended: false,
            waited: Duration::ZERO,
            last_wait: Duration::ZERO,
        };
        for worker in 0..workers {
            let (maker, desk) = (Arc::clone(&maker), Arc::clone(&desk));
            let thread = std::thread::Builder::new()
                .name(format!("unimo-loader-{worker}"))
                .spawn(move || desk.work(&*maker))
                .map_err(|error| DataError::Worker {
                    batch: first,
                    reason: format!("thread {worker} could not be started: {error}"),
                })?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The run's number of the next batch, counted over all ranks.
    pub fn next_batch(&self) -> u64 {
        self.first + self.taken * self.ranks
    }

    /// Seconds that all calls of `next` waited for a batch, in total.
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
        let start = Instant::now();
        let taken = self.desk.take();
        self.last_wait = start.elapsed();
        self.waited += self.last_wait;
        let made = taken.unwrap_or_else(|| {
            Err(DataError::Worker {
                batch: self.next_batch(),
                reason: "it ended without a result".to_owned(),
            })
        });
        self.taken += 1;
        self.ended = made.is_err();
        Some(made)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.desk.stop();
        for thread in self.threads.drain(..) {
            // A panic has already been reported as an error.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("next", &self.next_batch())
            .field("threads", &self.threads.len())
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}
