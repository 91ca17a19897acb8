//! Which prediction belongs to which row, where each row needs exactly one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::EvalError;

/// How many ids an error names.
const NAMED: usize = 5;

/// Some ids of a file, for an error: how many there are, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// How many there are.
    pub count: usize,
    /// The first five of them, in the order of their file.
    pub first: Vec<String>,
}

impl Ids {
    fn new<K: fmt::Display>(ids: &[K]) -> Self {
        Self {
            count: ids.len(),
            first: ids.iter().take(NAMED).map(K::to_string).collect(),
        }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        if self.first.is_empty() {
            return Ok(());
        }
        let more = if self.count > self.first.len() {
            ", ..."
        } else {
            ""
        };
        write!(f, " ({}{more})", self.first.join(", "))
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
