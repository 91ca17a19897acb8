//! Curves of runs: losses and accuracies of training, and evaluations.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scores::Moment;
use super::{Candidate, ComparedRun, scores};
use crate::record::{RunFolder, StepRecord};
use crate::sections::objective_names;

/// What a curve is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Subject {
    /// Whether it is of training or of evaluations.
    pub evaluation: bool,
    /// What it is of, such as `total loss` or `ITC text → image R@1`.
    pub name: String,
    /// The held-out set of an evaluation; empty for training.
    pub set: String,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Optimiser step.
    pub step: u64,
    /// Samples that were trained on up to there.
    pub samples: u64,
    /// Seconds of training up to there; `null` if the run does not say them.
    pub seconds: f64,
    /// The value; `null` if it is not finite.
    pub value: f64,
}

/// A number of a run over its steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The run's name.
    pub run: String,
    /// What it is of.
    #[serde(flatten)]
    pub subject: Subject,
    /// Whether its values are shares, from 0 to 1.
    pub share: bool,
    /// Its points, by step.
    pub points: Vec<CurvePoint>,
}

/// All curves, subject by subject in order of appearance, and in each in the order of the runs.
pub(super) fn curves(
    candidates: &[Candidate],
    folders: &[RunFolder],
    runs: &[ComparedRun],
) -> Vec<Curve> {
    let mut order: Vec<Subject> = Vec::new();
    let mut all: Vec<(usize, Curve)> = Vec::new();
    for ((candidate, folder), run) in candidates.iter().zip(folders).zip(runs) {
        let own = training(candidate, folder).into_iter();
        for curve in own.chain(evaluations(candidate, folder, run)) {
            let at = order.iter().position(|subject| *subject == curve.subject);
            let at = at.unwrap_or_else(|| {
                order.push(curve.subject.clone());
                order.len() - 1
            });
            all.push((at, curve));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, curve)| curve).collect()
}

fn training(candidate: &Candidate, folder: &RunFolder) -> Vec<Curve> {
    let curve = |name: String, share: bool, value: &dyn Fn(&StepRecord) -> Option<f64>| Curve {
        run: candidate.name.clone(),
        subject: Subject {
            evaluation: false,
            name,
            set: String::new(),
        },
        share,
        points: folder
            .steps
            .iter()
            .filter_map(|step| {
                Some(CurvePoint {
                    step: step.step,
                    samples: step.step * candidate.samples,
                    seconds: step.elapsed_seconds,
                    value: value(step)?,
                })
            })
            .collect(),
    };
    let mut all = vec![curve("total loss".to_owned(), false, &|step| {
        Some(step.loss)
    })];
    let names = objective_names(&folder.steps);
    for name in &names {
        let title = name.to_uppercase();
        all.push(curve(format!("{title} loss"), false, &|step| {
            Some(step.objective(name)?.loss)
        }));
    }
    for name in &names {
        let title = name.to_uppercase();
        // A step may have nothing to predict for an objective; such a gap needs no mark.
        all.push(curve(format!("{title} accuracy"), true, &|step| {
            let accuracy = step.objective(name)?.accuracy;
            accuracy.is_finite().then_some(accuracy)
        }));
    }
    all.retain(|curve| !curve.points.is_empty());
    all
}

/// A number with what gave it, which many numbers begin with: `losses.itc` is of `losses`.
fn named(by: &str, number: &str) -> String {
    match number.strip_prefix(by) {
        Some(rest) if rest.starts_with('.') => number.to_owned(),
        _ => format!("{by}: {number}"),
    }
}

fn evaluations(candidate: &Candidate, folder: &RunFolder, run: &ComparedRun) -> Vec<Curve> {
    // The last step that was logged by then says when it was.
    let seconds = |step: u64| {
        let logged = folder.steps.partition_point(|logged| logged.step <= step);
        let logged = logged.checked_sub(1).and_then(|at| folder.steps.get(at));
        logged.map_or(f64::NAN, |logged| logged.elapsed_seconds)
    };
    let mut order: Vec<Subject> = Vec::new();
    let mut all: BTreeMap<Subject, Curve> = BTreeMap::new();
    for eval in &folder.evals {
        for score in scores::of_record(eval, Moment::Last, &run.held_out) {
            let place = score.place;
            let subject = Subject {
                evaluation: true,
                name: named(&place.by, &place.number),
                set: format!("data {}, {}", place.held_out, place.set),
            };
            let curve = all.entry(subject.clone()).or_insert_with(|| {
                order.push(subject.clone());
                Curve {
                    run: candidate.name.clone(),
                    subject,
                    share: score.share,
                    points: Vec::new(),
                }
            });
            // The last evaluation has two records of one score.
            if curve.points.last().is_none_or(|last| last.step < eval.step) {
                curve.points.push(CurvePoint {
                    step: eval.step,
                    samples: eval.step * candidate.samples,
                    seconds: seconds(eval.step),
                    value: score.value,
                });
            }
        }
    }
    order
        .iter()
        .filter_map(|subject| all.remove(subject))
        .collect()
}
