//! Retrieval of stories: a held-out story told again should be nearer to its first telling than to all others, some of which differ from it by the
//! order of their scenes or by one attribute alone.
//!
//! Candidates are stories and their changed tellings, in pools of `pool`; the queries of a pool are the tellings of its stories in other words and
//! drawings. Three ways to compare are scored:
//!
//! | number | how stories are compared |
//! |---|---|
//! | `stories.NAME` | by the model: cosines of stories after the stream |
//! | `stories.bag_NAME` | by the means of their slices in the common space of `[objectives.itc]`, which know no order |
//! | `stories.kernel_NAME` | by the alignment kernel of the slices, the target of `[objectives.alignment]` |
//!
//! | `NAME` | what | chance |
//! |---|---|---|
//! | `r1`, `r5` | the story is the first of its pool, or one of the first five | `1 / N`, `5 / N` |
//! | `order` | it is before every telling of the same story in another order | `1 / (1 + n)` |
//! | `attribute` | it is before every telling of the same story with one attribute changed | `1 / (1 + n)` |
//!
//! The slices are read by the model's own text and image encoder.
//!
//! Shape legend: `B` stories, `N` candidates, `E` width.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use unimo_batch::Batch;
use unimo_core::alignment::{Kernel, Local, Temper};
use unimo_data::{Change, HeldStory, SkipList, StorySet, StorySlice};
use unimo_eval::stories::{Found, StoriesReport, StoryQuery, stories};
use unimo_report::record::{EvalRecord, ScalarRecord, StoriesRecord, StoryAlignment};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable, named};
use crate::evaluators::{Evaluator, HeldOut, Weights};
use crate::interrupt;
use crate::model::host;
use crate::recipe::Recipe;
use crate::recipe::eval::StoriesEvalConfig;

/// The name of this evaluator.
pub const NAME: &str = "stories";

/// Its numbers that may select weights.
const NUMBERS: [&str; 2] = ["r1", "r5"];

/// The file of what the report shows.
const FILE: &str = "stories.json";

/// Held-out stories in pools.
pub struct Stories {
    set: StorySet,
    pools: Vec<Vec<HeldStory>>,
    /// Stories of a last pool that is not full.
    beyond: usize,
    unusable: usize,
    kernel: Kernel,
    config: StoriesEvalConfig,
    split: String,
}

/// A telling as the model reads it.
struct Read {
    /// After the stream, of length 1.
    story: Vec<f32>,
    /// Its slices, each of length 1; empty without a contrast.
    slices: Vec<Vec<f32>>,
    /// `log K` of its slices with themselves.
    own: f64,
}

/// A way to compare two tellings.
type Compare<'a> = &'a dyn Fn(&Read, &Read) -> f64;

impl Stories {
    /// Finds the stories of a held-out split.
    ///
    /// # Errors
    ///
    /// It has none that are told again and changed, fewer than a pool takes, or cannot be read.
    pub fn open(
        config: &StoriesEvalConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Self, TrainError> {
        let skip = SkipList::in_memory(recipe.data.max_skipped);
        let (source, split) = (held_out.source, held_out.split);
        let joint = recipe.model.joint.as_ref();
        let interleaved = joint.and_then(|joint| joint.interleaved.as_ref());
        let most = interleaved.map_or(0, |interleaved| interleaved.slices);
        let images = recipe.data.image_spec();
        let set = StorySet::new(Arc::clone(source), split, images, most, &skip)?;
        let mut pools = vec![Vec::new()];
        let mut filled = 0;
        for story in set.stories() {
            if filled >= config.pool {
                pools.push(Vec::new());
                filled = 0;
            }
            filled += 1 + story.changed.len();
            if let Some(pool) = pools.last_mut() {
                pool.push(story.clone());
            }
        }
        let beyond = if filled < config.pool {
            pools.pop().map_or(0, |rest: Vec<HeldStory>| rest.len())
        } else {
            0
        };
        if pools.is_empty() {
            return Err(TrainError::Check(format!(
                "eval.stories.pool is {}, and the split `{}` has {} stories that are told again and changed, with fewer candidates than that: {}. \
                 Generated stories have them with data.stories.tellings of 3 or more, files with `story` and `change`",
                config.pool,
                split.name(),
                set.stories().len(),
                source.describe()
            )));
        }
        let alignment = recipe.objectives.alignment.as_ref();
        Ok(Self {
            set,
            pools,
            beyond,
            unusable: skip.count(),
            kernel: alignment.map_or(DEFAULT, |alignment| alignment.kernel()),
            config: config.clone(),
            split: split.name().to_owned(),
        })
    }

    fn read(&self, weights: &Weights<'_>, tellings: &[usize]) -> Result<Vec<Read>, TrainError> {
        let (model, data) = (weights.model, &weights.recipe.data);
        let mut all = Vec::with_capacity(tellings.len());
        for part in tellings.chunks(weights.recipe.eval.batch_size) {
            interrupt::check()?;
            let slices = self
                .set
                .batch(part, weights.tokenizer, data.max_text_length)?;
            let numbers = slices.numbered();
            let batch = Batch {
                samples: part.iter().map(usize::to_string).collect(),
                slices: Some(slices),
                ..Batch::default()
            };
            let read = model
                .objectives
                .read_stories(&model.backbone, &batch, weights.device);
            let read = read.ok_or_else(|| {
                TrainError::Check(
                    "eval.stories needs a stream that reads stories, [model.joint.interleaved], which this run has not".to_owned(),
                )
            })?;
            let vectors = read.slices.map(rows).unwrap_or_default();
            for (story, own) in rows(read.stories).into_iter().zip(numbers) {
                let slices = own.into_iter().filter_map(|at| vectors.get(at).cloned());
                let slices: Vec<Vec<f32>> = slices.collect();
                let own = self.local(&slices, &slices).log_kernel();
                all.push(Read { story, slices, own });
            }
        }
        Ok(all)
    }

    /// The logarithms of the local kernel of the slices of two tellings.
    fn local(&self, a: &[Vec<f32>], b: &[Vec<f32>]) -> Local {
        self.kernel
            .local([a.len(), b.len()], |i, j| cosine(&a[i], &b[j]))
    }

    /// The logarithm of the kernel's similarity of two tellings.
    fn log_aligned(&self, a: &Read, b: &Read) -> f64 {
        let log = self.local(&a.slices, &b.slices).log_kernel();
        let lengths = [a.slices.len(), b.slices.len()];
        self.kernel.normalised(log, [a.own, b.own], lengths)
    }

    /// The alignments of the first stories with their tellings, for the report.
    fn examples(&self, pool: &Pool) -> Result<Vec<StoryAlignment>, TrainError> {
        let mut shown = Vec::new();
        for story in self.pools.iter().flatten().take(self.config.examples) {
            let changed = [Change::Order, Change::Attribute].map(|change| {
                let found = story.changed.iter().find(|(_, own)| *own == change);
                found.map(|(index, change)| (*index, *change))
            });
            let others = [Some((story.original, Change::None))]
                .into_iter()
                .chain(changed);
            for (index, change) in others.flatten() {
                let (Some(query), Some(other)) = (pool.get(&story.retold), pool.get(&index)) else {
                    continue;
                };
                let expected = self.local(&query.slices, &other.slices).expected();
                let columns = other.slices.len().max(1);
                shown.push(StoryAlignment {
                    change: change.name().to_owned(),
                    rows: self.labels(story.retold)?,
                    columns: self.labels(index)?,
                    values: expected.chunks(columns).map(<[f64]>::to_vec).collect(),
                    kernel: self.log_aligned(query, other).exp(),
                    model: cosine_of(query, other),
                });
            }
        }
        Ok(shown)
    }

    /// A name for each slice of a telling.
    fn labels(&self, telling: usize) -> Result<Vec<String>, TrainError> {
        let slices = self.set.told(telling);
        let slices =
            slices.map_err(|error| TrainError::Data(unimo_data::DataError::unavailable(&error)))?;
        let label = |(at, slice): (usize, &StorySlice)| match slice {
            StorySlice::Image(_) => format!("{} image", at + 1),
            StorySlice::Text(text) => {
                let short: String = text.chars().take(LABEL).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                format!("{} {short}{dots}", at + 1)
            }
        };
        Ok(slices.iter().enumerate().map(label).collect())
    }
}

/// Letters of a sentence that name it.
const LABEL: usize = 24;

/// The kernel without `[objectives.alignment]`.
const DEFAULT: Kernel = Kernel {
    sigma: 1.0,
    band: None,
    temper: Temper::Length,
};

/// Tellings by their numbers.
type Pool = BTreeMap<usize, Read>;

/// The rows of a matrix, on the host.
fn rows(x: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = x.dims();
    let values = host(x);
    values.chunks(width.max(1)).map(<[f32]>::to_vec).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum()
}

fn cosine_of(a: &Read, b: &Read) -> f64 {
    cosine(&a.story, &b.story)
}

/// The cosine of the means of their slices.
fn bag(a: &Read, b: &Read) -> f64 {
    let mean = |read: &Read| {
        let width = read.slices.first().map_or(0, Vec::len);
        let mut sum = vec![0.0f32; width];
        for slice in &read.slices {
            sum.iter_mut().zip(slice).for_each(|(sum, x)| *sum += x);
        }
        let length = sum
            .iter()
            .map(|x| x * x)
            .sum::<f32>()
            .sqrt()
            .max(f32::MIN_POSITIVE);
        sum.into_iter().map(|x| x / length).collect::<Vec<f32>>()
    };
    cosine(&mean(a), &mean(b))
}

/// The queries of a pool.
fn queries(pool: &[HeldStory], read: &Pool, compare: Compare<'_>) -> Vec<StoryQuery> {
    let mut candidates: Vec<usize> = Vec::new();
    let mut own = Vec::new();
    for story in pool {
        let first = candidates.len();
        candidates.push(story.original);
        candidates.extend(story.changed.iter().map(|(index, _)| *index));
        own.push(first);
    }
    let of = |(story, first): (&HeldStory, &usize)| {
        let query = &read[&story.retold];
        let changed = |wanted: Change| {
            let each = story.changed.iter().zip(first + 1..);
            let each = each.filter(|((_, change), _)| *change == wanted);
            each.map(|(_, at)| at).collect()
        };
        StoryQuery {
            scores: candidates
                .iter()
                .map(|at| compare(query, &read[at]))
                .collect(),
            right: *first,
            order: changed(Change::Order),
            attribute: changed(Change::Attribute),
        }
    };
    pool.iter().zip(&own).map(of).collect()
}

/// The numbers of a report, by name.
fn numbers(report: &StoriesReport, prefix: &str) -> Vec<(String, Found)> {
    let all = [
        ("r1", Some(report.r1)),
        ("r5", Some(report.r5)),
        ("order", report.order),
        ("attribute", report.attribute),
    ];
    let known = all
        .into_iter()
        .filter_map(|(name, found)| Some((name, found?)));
    known
        .map(|(name, found)| (format!("{NAME}.{prefix}{name}"), found))
        .collect()
}

impl EvalSection for StoriesEvalConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(Stories::open(self, recipe, held_out)?)))
    }
}

impl Evaluator for Stories {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        named(NAME, &NUMBERS)
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let stories: usize = self.pools.iter().map(Vec::len).sum();
        let beyond = match self.beyond {
            0 => String::new(),
            stories => format!("; {stories} that fill no pool are left out"),
        };
        vec![format!(
            "stories: {stories} in {} are looked for, each among {} or more in {} pools{beyond}",
            self.split,
            self.config.pool,
            self.pools.len()
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let mut asked: [Vec<StoryQuery>; 3] = Default::default();
        let mut shown = Vec::new();
        let contrasts = weights.model.objectives.itc.is_some();
        let mut candidates = 0;
        for pool in &self.pools {
            let tellings: Vec<usize> = pool
                .iter()
                .flat_map(|story| {
                    let changed = story.changed.iter().map(|(index, _)| *index);
                    [story.original, story.retold].into_iter().chain(changed)
                })
                .collect();
            candidates += tellings.len() - pool.len();
            let read = self.read(weights, &tellings)?;
            let read: Pool = tellings.into_iter().zip(read).collect();
            asked[0].extend(queries(pool, &read, &cosine_of));
            if contrasts {
                asked[1].extend(queries(pool, &read, &bag));
                let aligned = |a: &Read, b: &Read| self.log_aligned(a, b);
                asked[2].extend(queries(pool, &read, &aligned));
                if shown.is_empty() && weights.run.is_some() {
                    shown = self.examples(&read)?;
                }
            }
        }
        let mut scalars = BTreeMap::new();
        let mut told = Vec::new();
        for (queries, prefix) in asked.iter().zip(["", "bag_", "kernel_"]) {
            if queries.is_empty() {
                continue;
            }
            for (name, found) in numbers(&stories(queries), prefix) {
                let short = name.trim_start_matches(NAME).trim_start_matches('.');
                told.push(format!(
                    "{short} {:.1}% ({:.1}%)",
                    100.0 * found.share,
                    100.0 * found.chance
                ));
                let scalar = ScalarRecord {
                    value: found.share,
                    chance: Some(found.chance),
                    interval: None,
                };
                scalars.insert(name, scalar);
            }
        }
        say(format!(
            "step {}: {} stories, found (chance): {}",
            weights.step,
            asked[0].len(),
            told.join(", ")
        ));
        if let Some(run) = weights.run.filter(|_| !shown.is_empty()) {
            let record = StoriesRecord {
                step: weights.step,
                examples: shown,
            };
            run.write_json(FILE, &record)?;
        }
        let left_out = [
            ("unusable", self.unusable),
            ("beyond the last pool", self.beyond),
        ];
        let left_out = left_out.into_iter().filter(|(_, count)| *count > 0);
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.split.clone(),
            left_out: left_out
                .map(|(why, count)| (why.to_owned(), count as u64))
                .collect(),
            texts: candidates as u64,
            ..EvalRecord::default()
        }])
    }
}
