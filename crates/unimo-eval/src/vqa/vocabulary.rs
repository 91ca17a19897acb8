//! Vocabularies of answers, soft targets, and the score that training watches.

use std::collections::HashMap;

use super::normalise;
use crate::{EvalError, checks};

/// How often an answer occurs in VQAv2's vocabulary of 3,129 answers, at least (METER, BridgeTower).
pub const LEAST_OCCURRENCES: usize = 9;

/// The vocabulary of METER's and BridgeTower's `write_vqa.py`: the most common answers of the questions (`multiple_choice_answer`),
/// normalised, that occur `least` times or more; [`LEAST_OCCURRENCES`] is theirs. They stand in the order of their first occurrence,
/// so the order of the questions matters: those of the training set, then those of the validation set, as in their files. A
/// checkpoint needs the list that it was trained with.
pub fn build_vocabulary<'a>(
    answers: impl IntoIterator<Item = &'a str>,
    least: usize,
) -> Vec<String> {
    let mut place: HashMap<String, usize> = HashMap::new();
    let mut counted: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let answer = normalise(answer);
        let at = *place.entry(answer.clone()).or_insert_with(|| {
            counted.push((answer, 0));
            counted.len() - 1
        });
        counted[at].1 += 1;
    }
    let often = counted.into_iter().filter(|(_, count)| *count >= least);
    often.map(|(answer, _)| answer).collect()
}

/// What is counted among the answers of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counting {
    /// The answers as they were typed (METER). Those that differ from their normalised form are not in the vocabulary.
    Raw,
    /// The answers normalised (BridgeTower, ManagerTower), so that `two` and `2` are one answer.
    Normalised,
}

/// The target of an answer that `count` people gave: 0, 0.3, 0.6, 0.9, and 1 from four on.
pub fn soft_score(count: usize) -> f64 {
    [0.0, 0.3, 0.6, 0.9][..].get(count).copied().unwrap_or(1.0)
}

/// The targets of a question: the index and the [`soft_score`] of each answer that `lookup` knows, in the order of the answers'
/// first occurrence. It is empty if the vocabulary has none of them; METER leaves such a question out of training.
pub fn targets<S: AsRef<str>>(
    answers: &[S],
    lookup: impl Fn(&str) -> Option<usize>,
    counting: Counting,
) -> Vec<(usize, f64)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let answer = match counting {
            Counting::Raw => answer.as_ref().to_owned(),
            Counting::Normalised => normalise(answer.as_ref()),
        };
        match counted.iter_mut().find(|(other, _)| *other == answer) {
            Some((_, count)) => *count += 1,
            None => counted.push((answer, 1)),
        }
    }
    let known = |(answer, count): &(String, usize)| Some((lookup(answer)?, soft_score(*count)));
    counted.iter().filter_map(known).collect()
}

/// The score that METER and BridgeTower watch: the mean over questions of the target at the predicted index, as a share in [0, 1];
/// `None` without questions. It equals the official accuracy where all answers are normalised and in the vocabulary.
///
/// `predicted`: an index per question. `targets`: what [`targets`] gives per question.
///
/// # Errors
/// If there are not as many predictions as questions.
pub fn quick_score(
    predicted: &[usize],
    targets: &[Vec<(usize, f64)>],
) -> Result<Option<f64>, EvalError> {
    checks::count(
        "predictions (one per question)",
        targets.len(),
        predicted.len(),
    )?;
    let score = |(index, targets): (&usize, &Vec<(usize, f64)>)| {
        let target = targets.iter().find(|(known, _)| known == index);
        target.map_or(0.0, |(_, score)| *score)
    };
    let sum: f64 = predicted.iter().zip(targets).map(score).sum();
    Ok((!predicted.is_empty()).then(|| sum / predicted.len() as f64))
}
