//! Visual question answering: the official accuracy of VQA and VQAv2, its normalisation of answers, vocabularies and soft targets.
//!
//! Formula (Antol et al. 2015; GT-Vision-Lab/VQA, `vqaEval.py`): for a prediction `p` and the answers `a_1 .. a_n` of a question,
//!
//! ```text
//! accuracy = mean over i of min(1, #{j != i: a_j = p} / 3)
//! ```
//!
//! so that of ten answers 0, 1, 2, 3 and at least 4 equal ones give 0, 0.3, 0.6, 0.9 and 1. Both sides are [normalised](normalise)
//! first, but **only if the answers are not all the same string**: ten times `yes` against `Yes` is 0.
//!
//! The official code leaves out answers that equal `a_i` as whole records, instead of `a_i` alone. For files with the official
//! `answer_id`s that is the same; here it is always by position.

mod contractions;
mod normalise;
mod vocabulary;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use normalise::normalise;
pub use vocabulary::{
    Counting, LEAST_OCCURRENCES, build_vocabulary, quick_score, soft_score, targets,
};

use crate::EvalError;
use crate::checks::places;
use normalise::trimmed;

/// How many equal answers of others make a prediction right.
const ENOUGH: f64 = 3.0;

/// A question with the answers that people gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VqaQuestion {
    /// `question_id`.
    pub id: u64,
    /// `question_type`, such as `what color is the`; `None` where a data set has no types.
    pub question_type: Option<String>,
    /// `answer_type`: `yes/no`, `number` or `other`; `None` where a data set has no types.
    pub answer_type: Option<String>,
    /// The answers as they were typed. VQA has ten of them.
    pub answers: Vec<String>,
}

/// A predicted answer. As JSON it is an entry of a submission: `{"question_id": 1, "answer": "yes"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VqaPrediction {
    /// The question that is answered.
    pub question_id: u64,
    /// The answer.
    pub answer: String,
}

/// How a prediction is compared with the answers of its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VqaRule {
    /// The official accuracy. Each question needs two answers or more, because one of them is left out in turn.
    Official,
    /// 1 if the prediction equals an answer after normalisation, else 0: for sets with one answer per question, such as easy-VQA and
    /// DAQUAR.
    Exact,
}

/// Accuracies over a set, in percent as the official evaluation gives them, which rounds them to two decimals. They are not rounded
/// here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqaReport {
    /// How many questions were scored.
    pub questions: usize,
    /// Over all questions.
    pub overall: f64,
    /// By question type. Questions without a type are in no part.
    pub per_question_type: BTreeMap<String, f64>,
    /// By answer type. Questions without a type are in no part.
    pub per_answer_type: BTreeMap<String, f64>,
}

/// The official accuracy of one prediction, in [0, 1]; `None` without answers. With a single answer it is always 0; see
/// [`exact_match`].
pub fn accuracy<S: AsRef<str>>(prediction: &str, answers: &[S]) -> Option<f64> {
    let mut prediction = trimmed(prediction);
    let mut answers: Vec<String> = answers.iter().map(|a| trimmed(a.as_ref())).collect();
    let first = answers.first()?;
    if answers.iter().any(|answer| answer != first) {
        prediction = normalise(&prediction);
        answers = answers.iter().map(|answer| normalise(answer)).collect();
    }
    let equal = answers.iter().filter(|a| **a == prediction).count();
    let share = |of_others: usize| (of_others as f64 / ENOUGH).min(1.0);
    // Where an equal answer is left out, one fewer is left.
    let sum = equal as f64 * share(equal.saturating_sub(1))
        + (answers.len() - equal) as f64 * share(equal);
    Some(sum / answers.len() as f64)
}

/// Whether the prediction equals one of the answers after normalisation of both.
pub fn exact_match<S: AsRef<str>>(prediction: &str, answers: &[S]) -> bool {
    let prediction = normalise(&trimmed(prediction));
    let mut answers = answers.iter().map(|a| normalise(&trimmed(a.as_ref())));
    answers.any(|answer| answer == prediction)
}

/// The accuracy of every question, in [0, 1] and in the order of `questions`: what a confidence interval is made of.
///
/// # Errors
/// If there are no questions, if a question has too few answers for the rule, or if the predictions do not cover exactly the
/// questions: each once and no other.
pub fn accuracies(
    questions: &[VqaQuestion],
    predictions: &[VqaPrediction],
    rule: VqaRule,
) -> Result<Vec<f64>, EvalError> {
    let asked: Vec<u64> = questions.iter().map(|question| question.id).collect();
    let answered: Vec<u64> = predictions.iter().map(|given| given.question_id).collect();
    let places = places("question", &asked, &answered)?;
    let score = |(question, place): (&VqaQuestion, usize)| {
        let (prediction, answers) = (&predictions[place].answer, &question.answers);
        let (least, allowed) = match rule {
            VqaRule::Official => (
                2,
                "the official accuracy needs 2 or more; with one answer use exact match",
            ),
            VqaRule::Exact => (1, "exact match needs 1 or more"),
        };
        let score = match rule {
            _ if answers.len() < least => None,
            VqaRule::Official => accuracy(prediction, answers),
            VqaRule::Exact => Some(f64::from(u8::from(exact_match(prediction, answers)))),
        };
        score.ok_or(EvalError::Answers {
            question: question.id,
            answers: answers.len(),
            allowed,
        })
    };
    questions.iter().zip(places).map(score).collect()
}

/// Overall accuracy and accuracies by type.
///
/// # Errors
/// As [`accuracies`].
pub fn report(
    questions: &[VqaQuestion],
    predictions: &[VqaPrediction],
    rule: VqaRule,
) -> Result<VqaReport, EvalError> {
    let accuracies = accuracies(questions, predictions, rule)?;
    let by = |kind: fn(&VqaQuestion) -> Option<&String>| {
        let mut parts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (question, accuracy) in questions.iter().zip(&accuracies) {
            if let Some(name) = kind(question) {
                parts.entry(name.clone()).or_default().push(*accuracy);
            }
        }
        let parts = parts.into_iter();
        parts.map(|(name, part)| (name, percent(&part))).collect()
    };
    Ok(VqaReport {
        questions: questions.len(),
        overall: percent(&accuracies),
        per_question_type: by(|question| question.question_type.as_ref()),
        per_answer_type: by(|question| question.answer_type.as_ref()),
    })
}

/// 100 times the mean of at least one value.
fn percent(values: &[f64]) -> f64 {
    100.0 * values.iter().sum::<f64>() / values.len() as f64
}
