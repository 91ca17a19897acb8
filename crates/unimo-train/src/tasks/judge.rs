//! How good the predictions of a task are: the official numbers of each kind of task.
//!
//! | kind | numbers |
//! |---|---|
//! | answers | `accuracy`: VQA's official accuracy; with one answer per question, the share of exact matches after normalisation |
//! | classes | `accuracy`: share of right classes; with more of [`classes`] |
//! | numbers | `pearson`, `spearman`: correlations |
//!
//! The chance of a number is what the best constant answer would reach on the same samples.

mod classes;
mod numbers;

use std::collections::BTreeMap;

use unimo_eval::classification::Confusion;
use unimo_eval::vqa;
use unimo_objectives::Predicts;

use crate::error::TrainError;
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
}

/// Predictions with how right each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The numbers, the most important one first.
    pub numbers: Vec<Number>,
    /// Of each sample, how right its prediction is, 0 to 1.
    pub right: Vec<f64>,
    /// How often each class was taken for each, if classes are predicted.
    pub confusion: Option<Confusion>,
}

/// Names of the numbers that every evaluation of a task gives.
pub fn names(predicts: Predicts) -> Vec<&'static str> {
    if predicts == Predicts::Number {
        return numbers::NAMES.to_vec();
    }
    let mut all = vec!["accuracy"];
    all.extend(classes::names(predicts));
    all
}

/// Judges the predictions of samples whose answers are known.
///
/// # Errors
///
/// A prediction is not finite, which predicting finds before.
pub fn judge(targets: &Targets, all: &[Predicted]) -> Result<Judged, TrainError> {
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
    };
    let mut numbers = vec![accuracy];
    let mut confusion = None;
    if let Predicts::Class { .. } = targets.task.predicts {
        let (more, counts) = classes::judge(targets.task.predicts, labels, all)?;
        numbers.extend(more);
        confusion = Some(counts);
    }
    numbers.extend(by_kind(all, &right));
    Ok(Judged {
        numbers,
        right,
        confusion,
    })
}

/// How right an answer is, 0 to 1.
fn score(predicts: Predicts, answer: &str, predicted: &Predicted) -> f64 {
    let label = &predicted.row.label;
    match (predicts, label.answers.as_slice()) {
        (Predicts::Answers { .. }, answers) if answers.len() > 1 => {
            let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
            vqa::accuracy(answer, &answers)
        }
        (Predicts::Answers { .. }, _) => {
            let right = label.answer.as_deref().map(vqa::normalise);
            f64::from(right.as_deref() == Some(answer))
        }
        _ => f64::from(label.answer.as_deref() == Some(answer)),
    }
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

/// The same for the samples of each kind that the data names, such as the type of an answer.
fn by_kind(all: &[Predicted], right: &[f64]) -> Vec<Number> {
    let mut kinds: BTreeMap<(&str, &str), (f64, usize)> = BTreeMap::new();
    for (predicted, right) in all.iter().zip(right) {
        for (name, kind) in &predicted.row.label.kinds {
            let sum = kinds.entry((name, kind)).or_default();
            sum.0 += right;
            sum.1 += 1;
        }
    }
    let of = |((name, kind), (sum, count)): ((&str, &str), (f64, usize))| Number {
        name: format!("accuracy, {name} {kind}"),
        value: sum / count as f64,
        chance: None,
    };
    kinds.into_iter().map(of).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}
