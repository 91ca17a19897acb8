//! The sample at each position of an endless run.
//!
//! Positions count samples over the whole run, over epochs and over all ranks. A plan is a pure function of seed and position. So
//! any number of threads and ranks gives the same order, and a run resumes at any position at once.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::order::draws::{Permutation, Stream, hash};

/// How samples are shuffled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shuffle {
    /// One permutation of all samples per epoch, for storage with fast random access.
    Global,
    /// Shards in random order; the samples of this many shards at a time are permuted together. Reads then touch only that many
    /// shards at a time.
    Shards(usize),
}

/// An endless order of samples. Each sample of each part comes once in each of the part's epochs.
#[derive(Debug)]
pub struct Plan(Kind);

#[derive(Debug)]
enum Kind {
    Global {
        samples: usize,
    },
    Shards {
        /// Start of each shard, and the number of samples at the end.
        starts: Vec<u64>,
        window: usize,
        /// Tables of the most recent epochs.
        tables: Mutex<Vec<Arc<Table>>>,
    },
    Parts {
        parts: Vec<Part>,
        /// Cumulative draws per part in a block of draws.
        ends: Vec<u64>,
        /// Number of positions per draw: 1, or the batch size if a batch comes from one part.
        unit: u64,
    },
}

#[derive(Debug)]
struct Part {
    /// Index of its first sample.
    offset: usize,
    plan: Plan,
}

/// The order of shards in one epoch.
#[derive(Debug)]
struct Table {
    key: (u64, u64),
    order: Vec<u32>,
    /// Cumulative samples in that order.
    ends: Vec<u64>,
}

/// Number of draws after which every part has had exactly its share.
const BLOCK: u64 = 4096;
/// Number of epochs whose tables are kept: workers may stand on both sides of an epoch's end.
const TABLES: usize = 3;

impl Plan {
    /// A plan for samples in shards of the given sizes.
    pub fn new(shards: &[usize], shuffle: Shuffle) -> Self {
        match shuffle {
            Shuffle::Shards(window) if shards.len() > 1 => Self::shards(shards, window),
            _ => Self::global(shards.iter().sum()),
        }
    }

    /// One permutation of `samples` samples per epoch.
    pub fn global(samples: usize) -> Self {
        Self(Kind::Global { samples })
    }

    /// Shards of the given sizes, `window` at a time.
    pub fn shards(sizes: &[usize], window: usize) -> Self {
        let mut starts = vec![0];
        let mut sum = 0;
        for size in sizes {
            sum += *size as u64;
            starts.push(sum);
        }
        Self(Kind::Shards {
            starts,
            window: window.max(1),
            tables: Mutex::default(),
        })
    }

    /// Parts drawn with the given weights, each with its number of samples and its own plan. Each group of `unit` positions,
    /// starting at a multiple of `unit`, comes from one part.
    pub fn parts(parts: Vec<(f64, usize, Plan)>, unit: usize) -> Self {
        let total: f64 = parts.iter().map(|(weight, _, _)| weight).sum();
        let ideal: Vec<f64> = parts
            .iter()
            .map(|(weight, _, _)| weight / total * BLOCK as f64)
            .collect();
        // The largest remainders get the draws left by rounding down; every part gets at least one draw.
        let mut counts: Vec<u64> = ideal.iter().map(|i| (i.floor() as u64).max(1)).collect();
        let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
        by_remainder.sort_by(|a, b| {
            let rest = |i: usize| ideal[i] - ideal[i].floor();
            rest(*b).total_cmp(&rest(*a)).then(a.cmp(b))
        });
        let given: u64 = counts.iter().sum();
        for i in by_remainder
            .iter()
            .cycle()
            .take(BLOCK.saturating_sub(given) as usize)
        {
            counts[*i] += 1;
        }
        let mut ends = Vec::new();
        let mut sum = 0;
        for count in counts {
            sum += count;
            ends.push(sum);
        }
        let mut offset = 0;
        let parts = parts
            .into_iter()
            .map(|(_, samples, plan)| {
                let part = Part { offset, plan };
                offset += samples;
                part
            })
            .collect();
        Self(Kind::Parts {
            parts,
            ends,
            unit: unit.max(1) as u64,
        })
    }

    /// The sample at a position.
    pub fn at(&self, seed: u64, position: u64) -> usize {
        match &self.0 {
            Kind::Global { samples } => {
                let samples = *samples as u64;
                let (epoch, within) = (position / samples, position % samples);
                Permutation::new(samples as usize, seed, epoch).at(within as usize)
            }
            Kind::Shards {
                starts,
                window,
                tables,
            } => {
                let samples = starts[starts.len() - 1];
                let (epoch, within) = (position / samples, position % samples);
                let table = table(tables, starts, seed, epoch);
                let shard = table.ends.partition_point(|end| *end <= within);
                let first = shard / window * window;
                let last = (first + window).min(table.ends.len()) - 1;
                let begin = if first == 0 { 0 } else { table.ends[first - 1] };
                let size = (table.ends[last] - begin) as usize;
                let of_window = hash(Stream::Window, &[seed, first as u64]);
                let mixed = Permutation::new(size, of_window, epoch).at((within - begin) as usize);
                let mixed = begin + mixed as u64;
                let shard = table.ends.partition_point(|end| *end <= mixed);
                let before = if shard == 0 { 0 } else { table.ends[shard - 1] };
                (starts[table.order[shard] as usize] + mixed - before) as usize
            }
            Kind::Parts { parts, ends, unit } => {
                let (draw, rest) = (position / unit, position % unit);
                let draws = ends[ends.len() - 1];
                let (block, within) = (draw / draws, draw % draws);
                let of_draw = hash(Stream::Part, &[seed]);
                let slot =
                    Permutation::new(draws as usize, of_draw, block).at(within as usize) as u64;
                let at = ends.partition_point(|end| *end <= slot);
                let begin = if at == 0 { 0 } else { ends[at - 1] };
                let of_part = block * (ends[at] - begin) + (slot - begin);
                let part = &parts[at];
                let seed = hash(Stream::Part, &[seed, at as u64]);
                part.offset + part.plan.at(seed, of_part * unit + rest)
            }
        }
    }
}

fn table(tables: &Mutex<Vec<Arc<Table>>>, starts: &[u64], seed: u64, epoch: u64) -> Arc<Table> {
    let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(table) = tables.iter().find(|table| table.key == (seed, epoch)) {
        return Arc::clone(table);
    }
    let shards = starts.len() - 1;
    let permutation = Permutation::new(shards, hash(Stream::Window, &[seed]), epoch);
    let order: Vec<u32> = (0..shards).map(|i| permutation.at(i) as u32).collect();
    let mut sum = 0;
    let ends = order
        .iter()
        .map(|shard| {
            let shard = *shard as usize;
            sum += starts[shard + 1] - starts[shard];
            sum
        })
        .collect();
    let table = Arc::new(Table {
        key: (seed, epoch),
        order,
        ends,
    });
    if tables.len() == TABLES {
        tables.remove(0);
    }
    tables.push(Arc::clone(&table));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(plan: &Plan, seed: u64, epoch: u64, samples: u64) -> Vec<usize> {
        (epoch * samples..(epoch + 1) * samples)
            .map(|position| plan.at(seed, position))
            .collect()
    }

    #[test]
    fn every_epoch_holds_every_sample_once() {
        for (sizes, window) in [
            (vec![5, 1, 9, 3], 1),
            (vec![5, 0, 9, 3, 7], 2),
            (vec![1; 40], 7),
            (vec![100, 3], 5),
        ] {
            let samples: usize = sizes.iter().sum();
            let plan = Plan::shards(&sizes, window);
            let mut orders = Vec::new();
            for at in 0..3 {
                let order = epoch(&plan, 9, at, samples as u64);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..samples).collect::<Vec<_>>());
                orders.push(order);
            }
            assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        }
    }

    /// The reads within one window's length touch only as many shards as the window has.
    #[test]
    fn reading_stays_within_a_window() {
        let sizes = vec![10; 30];
        let plan = Plan::shards(&sizes, 3);
        for window in 0..10 {
            let shards: std::collections::BTreeSet<usize> = (window * 30..(window + 1) * 30)
                .map(|position| plan.at(4, position) / 10)
                .collect();
            assert_eq!(shards.len(), 3);
        }
    }

    #[test]
    fn parts_get_their_shares_and_their_own_epochs() {
        let sizes = [7usize, 100, 13];
        let weights = [1.0, 2.0, 5.0];
        let parts = || {
            let each = weights.iter().zip(sizes);
            each.map(|(w, n)| (*w, n, Plan::global(n))).collect()
        };
        for unit in [1u64, 4] {
            let plan = Plan::parts(parts(), unit as usize);
            let mut seen: [Vec<usize>; 3] = Default::default();
            for position in 0..BLOCK * unit {
                let index = plan.at(3, position);
                let part = [7, 107, 120].partition_point(|end| *end <= index);
                seen[part].push(index);
                if unit > 1 && position % unit > 0 {
                    let before = plan.at(3, position - 1);
                    assert_eq!([7, 107, 120].partition_point(|end| *end <= before), part);
                }
            }
            for (part, weight) in weights.iter().enumerate() {
                let share = seen[part].len() as f64 / (BLOCK * unit) as f64;
                assert!((share - weight / 8.0).abs() < 2.0 / BLOCK as f64, "{share}");
                // In a block, the draws of a part contain its samples equally often, except for the unfinished epoch.
                let mut counts = vec![0usize; sizes[part]];
                let first = [0, 7, 107][part];
                for index in &seen[part] {
                    counts[index - first] += 1;
                }
                let (low, high) = (counts.iter().min(), counts.iter().max());
                assert!(high.unwrap() - low.unwrap() <= 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn a_weight_of_next_to_nothing_still_counts() {
        let plan = Plan::parts(
            vec![(1e-9, 3, Plan::global(3)), (1.0, 5, Plan::global(5))],
            1,
        );
        assert!((0..=BLOCK).any(|position| plan.at(1, position) < 3));
    }
}
