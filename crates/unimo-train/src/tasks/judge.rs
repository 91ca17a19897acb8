//! How good the predictions of a task are: the official numbers of each kind of task.
//!
//! | kind | numbers |
//! |---|---|
//! | answers | `accuracy`: VQA's official accuracy; with one answer per question, the share of exact matches after normalisation. `quick`: the score of the predicted answer as a target of `[objectives.vqa]` |
//! | classes | `accuracy`: share of right classes, with more of them in `judge/classes.rs`; also of each class, where the task itself names few |
//! | statements (`nlvr2`) | also `consistency`: share of groups in which all are right, if the data has identifiers |
//! | numbers | `pearson`, `spearman`: correlations |
//! | boxes | `accuracy`: share whose IoU with the right box is at least 0.5; `iou`: mean IoU; chosen from regions, also `recall`: the share that some region would reach |
//!
//! The chance of a number is what the best constant answer would reach on the same samples.

mod boxes;
mod classes;
mod numbers;
mod statements;

use std::collections::BTreeMap;

use unimo_eval::{Bootstrap, Confusion, vqa};
use unimo_objectives::Predicts;

pub(crate) use crate::tasks::judge::boxes::overlap;
use crate::tasks::labels::Labels;
use crate::tasks::predict::Predicted;
use crate::tasks::targets::Targets;

/// A number that says how good predictions are.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// What the best constant answer would reach, if that makes sense.
    pub chance: Option<f64>,
    /// Its confidence interval of 95%, if it is a mean over samples.
    pub interval: Option<[f64; 2]>,
}

/// Predictions with how right each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The numbers, the most important one first.
    pub numbers: Vec<Number>,
    /// The first number for each kind of sample that the data names, with the number of samples: by name, such as `answer type`, and
    /// kind.
    pub kinds: BTreeMap<(String, String), (f64, u64)>,
    /// Of each sample, how right its prediction is, 0 to 1.
    pub right: Vec<f64>,
    /// How often each class was taken for each, if classes are predicted.
    pub confusion: Option<Confusion>,
}

/// Names of the numbers that every evaluation of a task gives.
pub fn names(predicts: Predicts) -> Vec<&'static str> {
    match predicts {
        Predicts::Answers { .. } => vec!["accuracy", "quick"],
        Predicts::Class { .. } => [vec!["accuracy"], classes::names(predicts)].concat(),
        Predicts::Number => numbers::NAMES.to_vec(),
        Predicts::Box => boxes::NAMES.to_vec(),
    }
}

/// Judges the predictions of samples whose answers are known.
pub fn judge(targets: &Targets, all: &[Predicted]) -> Judged {
    if targets.task.predicts == Predicts::Box {
        return boxes::judge(all);
    }
    let Some(labels) = &targets.labels else {
        return numbers::judge(all);
    };
    let right: Vec<f64> = all
        .iter()
        .map(|predicted| {
            let answer = predicted
                .best
                .first()
                .and_then(|(label, _)| labels.name(*label as usize));
            score(targets.task.predicts, answer.unwrap_or_default(), predicted)
        })
        .collect();
    let accuracy = Number {
        name: "accuracy".to_owned(),
        value: mean(right.iter().copied()),
        chance: constant(targets.task.predicts, labels, all),
        interval: interval(&right),
    };
    let mut numbers = vec![accuracy];
    if matches!(targets.task.predicts, Predicts::Answers { .. }) {
        numbers.push(quick(targets, all));
    }
    if targets.task.key == "nlvr2" {
        numbers.extend(consistent(labels, all, &right));
    }
    let mut kinds = by_kind(all, &right);
    let mut confusion = None;
    if let Predicts::Class { names, .. } = targets.task.predicts {
        let (more, counts) = classes::judge(targets.task.predicts, labels, all);
        numbers.extend(more);
        confusion = Some(counts);
        if !names.is_empty() {
            kinds.extend(by_class(all, &right));
        }
    }
    Judged {
        numbers,
        kinds,
        right,
        confusion,
    }
}

/// How right an answer is, 0 to 1.
pub(crate) fn score(predicts: Predicts, answer: &str, predicted: &Predicted) -> f64 {
    let label = &predicted.row.label;
    match (predicts, label.answers.as_slice()) {
        (Predicts::Answers { .. }, answers) if answers.len() > 1 => {
            vqa::accuracy(answer, answers).unwrap_or_default()
        }
        (Predicts::Answers { .. }, _) => {
            f64::from(vqa::exact_match(answer, label.answer.as_slice()))
        }
        _ => f64::from(label.answer.as_deref() == Some(answer)),
    }
}

/// The share of groups of statements in which all are right; its chance is that of the best constant answer.
fn consistent(labels: &Labels, all: &[Predicted], right: &[f64]) -> Option<Number> {
    let ids = || all.iter().map(|predicted| predicted.row.label.id.as_str());
    let value = statements::consistency(ids().zip(right.iter().map(|right| *right == 1.0)))?;
    let always = |name: &String| {
        let answers = all
            .iter()
            .map(|predicted| predicted.row.label.answer.as_deref());
        let right = answers.map(|answer| answer == Some(name.as_str()));
        statements::consistency(ids().zip(right))
    };
    Some(Number {
        name: "consistency".to_owned(),
        value,
        chance: labels.names().iter().filter_map(always).reduce(f64::max),
        interval: None,
    })
}

/// The mean over the samples of each class, and their number.
fn by_class(all: &[Predicted], right: &[f64]) -> BTreeMap<(String, String), (f64, u64)> {
    let class = |predicted: &Predicted| {
        let answer = predicted.row.label.answer.clone()?;
        Some(("label".to_owned(), answer))
    };
    means(
        all.iter()
            .zip(right)
            .filter_map(|(one, right)| Some((class(one)?, *right))),
    )
}

/// What the best constant answer reaches.
fn constant(predicts: Predicts, labels: &Labels, all: &[Predicted]) -> Option<f64> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for predicted in all {
        if let Some(answer) = predicted.row.label.answer.as_deref() {
            *counts.entry(answer).or_default() += 1;
        }
    }
    let (answer, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let answer = match predicts {
        Predicts::Answers { .. } => vqa::normalise(answer),
        _ => answer.to_owned(),
    };
    labels.number(&answer)?;
    Some(mean(
        all.iter()
            .map(|predicted| score(predicts, &answer, predicted)),
    ))
}

/// The mean over the samples of each kind, such as the type of an answer, and their number.
fn by_kind(all: &[Predicted], right: &[f64]) -> BTreeMap<(String, String), (f64, u64)> {
    let each = all.iter().zip(right);
    means(each.flat_map(|(predicted, right)| {
        let kinds = predicted.row.label.kinds.iter().cloned();
        kinds.map(|kind| (kind, *right))
    }))
}

fn means(
    values: impl IntoIterator<Item = ((String, String), f64)>,
) -> BTreeMap<(String, String), (f64, u64)> {
    let mut kinds: BTreeMap<(String, String), (f64, u64)> = BTreeMap::new();
    for (kind, value) in values {
        let sum = kinds.entry(kind).or_default();
        sum.0 += value;
        sum.1 += 1;
    }
    for (sum, count) in kinds.values_mut() {
        *sum /= *count as f64;
    }
    kinds
}

/// The score that the loss gives to the predicted answer: VQA's quick score, which counts only answers that can be given.
fn quick(targets: &Targets, all: &[Predicted]) -> Number {
    let score = |predicted: &Predicted| {
        let best = predicted.best.first().map(|(label, _)| *label);
        let scores = targets.scores(&predicted.row.label);
        let found = scores.iter().find(|(label, _)| Some(*label) == best);
        found.map_or(0.0, |(_, score)| f64::from(*score))
    };
    let scores: Vec<f64> = all.iter().map(score).collect();
    Number {
        name: "quick".to_owned(),
        value: mean(scores.iter().copied()),
        chance: None,
        interval: interval(&scores),
    }
}

/// The confidence interval of a mean, by a seeded bootstrap.
pub(crate) fn interval(values: &[f64]) -> Option<[f64; 2]> {
    const BOOTSTRAP: Bootstrap = Bootstrap {
        seed: 0,
        resamples: 1000,
        confidence: 0.95,
    };
    let found = BOOTSTRAP.mean(values).ok().flatten()?;
    Some([found.low, found.high])
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}
