//! Means over the seeds of a set-up, and differences between set-ups seed by seed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scores::{Place, Score};
use super::{ComparedRun, Setup};

/// A score over the seeds of a set-up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Aggregate {
    /// The name of the set-up.
    pub setup: String,
    /// What the score is of.
    #[serde(flatten)]
    pub place: Place,
    /// Number of runs behind it.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the runs, with n - 1 below; `None` for one run.
    pub deviation: Option<f64>,
    /// Whether it is a share, from 0 to 1.
    pub share: bool,
}

/// The difference between two set-ups in a score, over the seeds that both have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// The set-up.
    pub setup: String,
    /// The set-up whose score is subtracted.
    pub minus: String,
    /// What the score is of.
    #[serde(flatten)]
    pub place: Place,
    /// Number of common seeds.
    pub n: usize,
    /// The seeds.
    pub seeds: Vec<String>,
    /// Mean of the differences.
    pub mean: f64,
    /// Standard error of that mean: the deviation of the differences by the root of their number; `None` for one seed.
    pub error: Option<f64>,
    /// Whether the score is a share, from 0 to 1.
    pub share: bool,
}

/// The finished run of each seed, by set-up.
pub(super) type Seeds = Vec<BTreeMap<String, usize>>;

/// The finished runs of each set-up by their seeds, and lines on runs that repeat another one.
pub(super) fn seeds(setups: &[Setup], runs: &[ComparedRun]) -> (Seeds, Vec<String>) {
    let mut notes = Vec::new();
    let of = |setup: &Setup| {
        let mut seeds = BTreeMap::new();
        for run in setup.runs.iter().copied().filter(|run| runs[*run].finished) {
            match seeds.get(&runs[run].seed) {
                None => {
                    seeds.insert(runs[run].seed.clone(), run);
                }
                Some(first) => notes.push(format!(
                    "{}: has the recipe and the seed of {}, which alone counts in means and differences",
                    runs[run].name, runs[*first].name
                )),
            }
        }
        seeds
    };
    let seeds = setups.iter().map(of).collect();
    (seeds, notes)
}

/// The places of some runs' scores, in order of appearance, each with the scores by run.
fn places(
    runs: &[ComparedRun],
    of: impl Iterator<Item = usize>,
) -> Vec<(&Place, BTreeMap<usize, &Score>)> {
    let mut found: Vec<(&Place, BTreeMap<usize, &Score>)> = Vec::new();
    let mut at: BTreeMap<&Place, usize> = BTreeMap::new();
    for run in of {
        for score in &runs[run].scores {
            let slot = *at.entry(&score.place).or_insert_with(|| {
                found.push((&score.place, BTreeMap::new()));
                found.len() - 1
            });
            found[slot].1.insert(run, score);
        }
    }
    found
}

/// Mean and deviation of each score over the seeds of each set-up.
pub(super) fn aggregates(setups: &[Setup], seeds: &Seeds, runs: &[ComparedRun]) -> Vec<Aggregate> {
    let mut all = Vec::new();
    for (setup, seeds) in setups.iter().zip(seeds) {
        for (place, scores) in places(runs, seeds.values().copied()) {
            let values: Vec<f64> = scores.values().map(|score| score.value).collect();
            all.push(Aggregate {
                setup: setup.name.clone(),
                place: place.clone(),
                n: values.len(),
                mean: mean(&values),
                deviation: deviation(&values),
                share: scores.values().all(|score| score.share),
            });
        }
    }
    all
}

/// Differences between each two set-ups over their common seeds, the later set-up minus the earlier one.
pub(super) fn paired(setups: &[Setup], seeds: &Seeds, runs: &[ComparedRun]) -> Vec<Paired> {
    let mut all = Vec::new();
    for (later, setup) in setups.iter().enumerate() {
        for (earlier, minus) in setups.iter().enumerate().take(later) {
            let both = seeds[later].iter();
            let both: Vec<(&String, usize, usize)> = both
                .filter_map(|(seed, run)| Some((seed, *run, *seeds[earlier].get(seed)?)))
                .collect();
            for (place, scores) in places(runs, both.iter().map(|(_, run, _)| *run)) {
                let difference = |(seed, run, other): &(&String, usize, usize)| {
                    let subtracted = runs[*other].scores.iter();
                    let subtracted = subtracted.clone().find(|score| score.place == *place)?;
                    let score = scores.get(run)?;
                    Some(((*seed).clone(), score.value - subtracted.value))
                };
                let (seeds, values): (Vec<String>, Vec<f64>) =
                    both.iter().filter_map(difference).unzip();
                if values.is_empty() {
                    continue;
                }
                let root = (values.len() as f64).sqrt();
                all.push(Paired {
                    setup: setup.name.clone(),
                    minus: minus.name.clone(),
                    place: place.clone(),
                    n: values.len(),
                    seeds,
                    mean: mean(&values),
                    error: deviation(&values).map(|deviation| deviation / root),
                    share: scores.values().all(|score| score.share),
                });
            }
        }
    }
    all
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation of a sample.
fn deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}
