//! NLVR and NLVR2: accuracy and consistency of true-or-false statements about images.
//!
//! Source: `metrics.py` and `metrics_images.py` of lil-lab/nlvr (Suhr et al. 2017, 2019). Accuracy is the share of rows that are right.
//! Consistency is the share of groups whose rows are all right; a group is one sentence with its images, and is read off the
//! identifier. Not all groups are of one size, and equal sentences may be in several groups.
//!
//! The official scorers let predictions for unknown identifiers pass and take the last of several for one row. Here both are errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::checks::places;

/// The true or predicted label of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// Such as `dev-850-0-0`: split, set, pair of images, sentence.
    pub identifier: String,
    /// Whether the sentence is true.
    pub label: bool,
}

/// Results over a split, as shares in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NlvrReport {
    /// How many rows there are.
    pub rows: usize,
    /// How many groups they form.
    pub groups: usize,
    /// Share of the rows that are right.
    pub accuracy: f64,
    /// Share of the groups whose rows are all right.
    pub consistency: f64,
}

/// The group of a row of NLVR2: its identifier without the third part, which counts pairs of images. `None` if there is no third part.
pub fn nlvr2_group(identifier: &str) -> Option<String> {
    let mut parts: Vec<&str> = identifier.split('-').collect();
    *parts.get_mut(2)? = "";
    Some(parts.join("-"))
}

/// The group of a row of NLVR: the first part of its identifier, such as `1572` of `1572-0`, or of `1572-0-5` where each of the six
/// orders of the boxes is a row. `None` if it is empty.
pub fn nlvr1_group(identifier: &str) -> Option<String> {
    let first = identifier.split('-').next()?;
    (!first.is_empty()).then(|| first.to_owned())
}

/// Reads a label: `true` or `false` in any case.
///
/// # Errors
/// If it is something else.
pub fn read_label(label: &str) -> Result<bool, EvalError> {
    if label.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if label.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(EvalError::Label {
            got: label.to_owned(),
            allowed: "`True` or `False`, in any case",
        })
    }
}

/// The report, and for every row whether it is right, in the order of `rows`.
///
/// `group` gives the group of an identifier: [`nlvr2_group`], [`nlvr1_group`] or another.
///
/// # Errors
/// If there are no rows, if an identifier has no group, or if the predictions do not cover exactly the rows: each once and no other.
pub fn evaluate(
    rows: &[Labelled],
    predictions: &[Labelled],
    group: impl Fn(&str) -> Option<String>,
) -> Result<(NlvrReport, Vec<bool>), EvalError> {
    let ids = |all: &[Labelled]| -> Vec<String> {
        all.iter().map(|row| row.identifier.clone()).collect()
    };
    let places = places("identifier", &ids(rows), &ids(predictions))?;
    let mut right = Vec::with_capacity(rows.len());
    let mut groups: BTreeMap<String, bool> = BTreeMap::new();
    for (row, place) in rows.iter().zip(places) {
        let group = group(&row.identifier).ok_or_else(|| EvalError::Identifier {
            got: row.identifier.clone(),
            allowed: "one that says its group",
        })?;
        let is_right = row.label == predictions[place].label;
        *groups.entry(group).or_insert(true) &= is_right;
        right.push(is_right);
    }
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let report = NlvrReport {
        rows: rows.len(),
        groups: groups.len(),
        accuracy: share(right.iter().filter(|is| **is).count(), rows.len()),
        consistency: share(groups.values().filter(|all| **all).count(), groups.len()),
    };
    Ok((report, right))
}

/// A line of a submission file, which is CSV without a header: `dev-850-0-0,True`.
///
/// # Errors
/// If the identifier is empty or has a comma, a line break or white space at an end, which the official scorer would read otherwise.
pub fn submission_line(prediction: &Labelled) -> Result<String, EvalError> {
    let identifier = &prediction.identifier;
    let bad = identifier.is_empty()
        || identifier.trim() != identifier
        || identifier.contains([',', '\n', '\r']);
    if bad {
        return Err(EvalError::Identifier {
            got: identifier.clone(),
            allowed: "one that is not empty and without commas, line breaks and white space at the ends",
        });
    }
    let label = if prediction.label { "True" } else { "False" };
    Ok(format!("{identifier},{label}"))
}

/// Reads a line of a submission file.
///
/// # Errors
/// If it is not an identifier, a comma and a label.
pub fn read_submission_line(line: &str) -> Result<Labelled, EvalError> {
    let (identifier, label) = line
        .trim()
        .split_once(',')
        .ok_or_else(|| EvalError::Label {
            got: line.to_owned(),
            allowed: "a line `identifier,True` or `identifier,False`",
        })?;
    Ok(Labelled {
        identifier: identifier.to_owned(),
        label: read_label(label)?,
    })
}
