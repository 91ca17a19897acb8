//! What several metrics check of their input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::EvalError;
use crate::error::Ids;

/// That there are as many as there have to be.
pub(crate) fn count(what: &'static str, expected: usize, got: usize) -> Result<(), EvalError> {
    if got == expected {
        return Ok(());
    }
    Err(EvalError::Count {
        what,
        expected,
        got,
    })
}

/// That all values are finite.
pub(crate) fn finite(what: &'static str, values: &[f64]) -> Result<(), EvalError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(row) => Err(EvalError::NotFinite {
            what,
            row,
            got: values[row],
        }),
        None => Ok(()),
    }
}

/// For every row the place of its prediction among those given.
///
/// # Errors
/// If there are no rows, if two rows have one id, or if the predictions are not one per row.
pub(crate) fn places<K: Ord + fmt::Display>(
    what: &'static str,
    rows: &[K],
    given: &[K],
) -> Result<Vec<usize>, EvalError> {
    if rows.is_empty() {
        return Err(EvalError::NoRows { what });
    }
    let mut known = BTreeSet::new();
    let twice: Vec<&K> = rows.iter().filter(|id| !known.insert(*id)).collect();
    if !twice.is_empty() {
        return Err(EvalError::Twice {
            what,
            ids: Ids::new(&twice),
        });
    }
    let mut place = BTreeMap::new();
    let (mut double, mut unknown) = (Vec::new(), Vec::new());
    let mut again = BTreeSet::new();
    for (at, id) in given.iter().enumerate() {
        if !known.contains(id) {
            unknown.push(id);
        } else if place.insert(id, at).is_some() && again.insert(id) {
            double.push(id);
        }
    }
    let missing: Vec<&K> = rows.iter().filter(|id| !place.contains_key(id)).collect();
    if missing.is_empty() && double.is_empty() && unknown.is_empty() {
        return Ok(rows.iter().map(|id| place[id]).collect());
    }
    Err(EvalError::Coverage {
        what,
        rows: rows.len(),
        missing: Ids::new(&missing),
        double: Ids::new(&double),
        unknown: Ids::new(&unknown),
    })
}
