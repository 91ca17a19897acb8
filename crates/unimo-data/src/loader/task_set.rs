//! The samples of a task that are judged or answered, in a fixed order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use unimo_batch::Batch;

use crate::error::{DataError, SampleError};
use crate::images::Window;
use crate::loader::each::Each;
use crate::loader::eval_set::shuffled;
use crate::loader::maker::Maker;
use crate::loader::spec::LoaderSpec;
use crate::order::plan::Plan;
use crate::sources::label::Label;
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::threads::parallel;

/// The samples of one split of a task, each once and unchanged by augmentation. See [`Each`].
pub struct TaskSet {
    each: Arc<Each>,
    maker: Maker,
    /// The samples, in order; `None`: all.
    chosen: Option<Vec<usize>>,
}

/// One sample of a [`TaskSet`], without its image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its number in the set.
    pub number: usize,
    /// Where it is defined, `file:line`.
    pub name: String,
    /// Its text, with the second sentence of a pair on a second line; `None` for an image alone.
    pub text: Option<String>,
    /// What is known of it.
    pub label: Label,
}

/// Some samples of a [`TaskSet`].
#[derive(Debug, Default)]
pub struct TaskBatch {
    /// The usable ones as a batch; `None` if there is none.
    pub batch: Option<Batch>,
    /// What is known of each row of the batch.
    pub rows: Vec<TaskRow>,
    /// The part of each row's image that the model sees.
    pub windows: Vec<Window>,
    /// The boxes that are known of each row's image: those of its regions, or of the source's objects. They are x1, y1, x2, y2 as shares
    /// of the width and height of the whole image.
    pub boxes: Vec<Vec<[f32; 4]>>,
    /// Those that cannot be used, with the reasons.
    pub unusable: Vec<(TaskRow, SampleError)>,
}

impl TaskSet {
    /// The samples of `each` in the split of `spec`, prepared as it says; its source and its random changes are not used.
    ///
    /// # Errors
    ///
    /// Too much of the source is unusable.
    pub fn new(spec: LoaderSpec, each: Each) -> Result<Self, DataError> {
        let each = Arc::new(each);
        spec.skip.adopt(&*each)?;
        let samples = each.len(spec.split);
        Ok(Self {
            maker: Maker {
                spec: LoaderSpec {
                    source: Arc::<Each>::clone(&each),
                    augment: None,
                    mask: None,
                    joined: None,
                    sides: None,
                    patch_mask: None,
                    rewrite: None,
                    ..spec
                },
                masker: None,
                joined_masker: None,
                sides_masker: None,
                plan: Plan::global(samples),
                windows: Mutex::default(),
                patches: None,
                hider: None,
                first: 0,
                ranks: 1,
                stop: Arc::new(AtomicBool::new(false)),
            },
            each,
            chosen: None,
        })
    }

    /// A random part of `count` samples, always the same, in the set's order; all if there are no more.
    #[must_use]
    pub fn part(mut self, count: usize) -> Self {
        let all = self.each.len(self.split());
        if count < all {
            let order = shuffled(all);
            let mut chosen: Vec<usize> = (0..count).map(|at| order.at(at)).collect();
            chosen.sort_unstable();
            self.chosen = Some(chosen);
        }
        self
    }

    /// A label: `val`, or `val, 320 of 1000 samples at random`.
    pub fn label(&self) -> String {
        let name = self.split().name();
        match &self.chosen {
            Some(chosen) => {
                let all = self.each.len(self.split());
                format!("{name}, {} of {all} samples at random", chosen.len())
            }
            None => name.to_owned(),
        }
    }

    /// The split.
    pub fn split(&self) -> Split {
        self.maker.spec.split
    }

    /// Number of samples, unusable ones included.
    pub fn len(&self) -> usize {
        let all = self.each.len(self.split());
        self.chosen.as_ref().map_or(all, Vec::len)
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of texts of the data that are no samples of the task.
    pub fn left_out(&self) -> usize {
        self.each.left_out()
    }

    /// The answer of each sample, where one is known.
    pub fn answers(&self) -> impl Iterator<Item = String> {
        let label = |number: usize| self.each.label(self.split(), self.index(number)).ok();
        (0..self.len()).filter_map(move |number| label(number)?.answer)
    }

    /// Sound items of the data that are of no split, counted by name.
    pub fn of_no_split(&self) -> BTreeMap<String, u64> {
        Source::left_out(&*self.each)
    }

    /// One sentence: the data set and its size.
    pub fn describe(&self) -> String {
        self.each.describe()
    }

    /// The samples of a range, read on all cores. Unusable ones are listed and given separately.
    ///
    /// # Errors
    ///
    /// A sample could not be read now, or too much of the source is unusable.
    pub fn read(&self, range: Range<usize>) -> Result<TaskBatch, DataError> {
        let range = range.start..range.end.min(self.len());
        let skip = &self.maker.spec.skip;
        let made = parallel(range.clone(), |number| {
            let index = self.index(number);
            let mut pixels = Vec::new();
            let made = self.maker.one(index, index as u64, &mut pixels)?;
            let row = TaskRow {
                number,
                name: made.sample.name.clone(),
                text: made.sample.captions.first().map(|text| {
                    let second = made.sample.second_texts.first();
                    second.map_or_else(|| text.clone(), |second| format!("{text}\n{second}"))
                }),
                label: made.sample.labels.first().cloned().unwrap_or_default(),
            };
            Ok((made, pixels, row))
        });
        let mut read = TaskBatch::default();
        let (mut samples, mut levels) = (Vec::new(), Vec::new());
        for (number, made) in range.clone().zip(made) {
            match made {
                Ok((made, pixels, row)) => {
                    read.windows.push(made.window);
                    let regions = made.sample.regions.as_ref();
                    let boxes = regions.map_or(&made.sample.boxes, |regions| &regions.boxes);
                    read.boxes.push(boxes.clone());
                    samples.push(made);
                    levels.extend(pixels);
                    read.rows.push(row);
                }
                Err(reason) => {
                    skip.add(&reason)?;
                    read.unusable.push((self.row(number), reason));
                }
            }
        }
        skip.check(self.each.items())?;
        if !samples.is_empty() {
            let batch = self.maker.batch(range.start as u64, samples, levels)?;
            read.batch = Some(batch);
        }
        Ok(read)
    }

    /// What is known of a sample without its image; a damaged one gives its place alone.
    pub fn row(&self, number: usize) -> TaskRow {
        let index = self.index(number);
        let texts = self.each.captions(self.split(), index).unwrap_or_default();
        TaskRow {
            number,
            name: self.each.place(self.split(), index).to_string(),
            text: texts.into_iter().next(),
            label: self.each.label(self.split(), index).unwrap_or_default(),
        }
    }

    /// The images of a sample as the source gives them, the left one first, for a report; none if they can no longer be read.
    pub fn pictures(&self, number: usize) -> Vec<RgbImage> {
        let index = self.index(number);
        let sample = self.each.sample(self.split(), index);
        let both = sample.map(|sample| [sample.image, sample.second_image]);
        let shown: Vec<RgbImage> = both.into_iter().flatten().flatten().collect();
        if shown.is_empty() {
            // The samples of a model that reads regions come without their image.
            let image = self.each.image(self.split(), index);
            return image.into_iter().flatten().collect();
        }
        shown
    }

    /// The place of a sample in its split.
    fn index(&self, number: usize) -> usize {
        let chosen = self.chosen.as_ref();
        chosen.map_or(number, |chosen| chosen[number])
    }
}

impl std::fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskSet")
            .field("source", &self.describe())
            .field("split", &self.split())
            .field("samples", &self.len())
            .finish_non_exhaustive()
    }
}
