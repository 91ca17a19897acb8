//! Sound items that are left out of a data set, counted by reason.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by reason. [`Display`](fmt::Display) gives `3 items left out (2 of the split "test", 1 without a text)`.
#[derive(Debug, Clone)]
pub(crate) struct LeftOut {
    /// Name of the items, in the plural.
    what: &'static str,
    reasons: BTreeMap<String, u64>,
    others: u64,
}

/// Largest number of distinct reasons; a column may hold anything.
const MOST: usize = 20;

impl LeftOut {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            reasons: BTreeMap::new(),
            others: 0,
        }
    }

    /// Counts an item. The reason must read well after a number.
    pub fn add(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if let Some(count) = self.reasons.get_mut(&reason) {
            *count += 1;
        } else if self.reasons.len() < MOST {
            self.reasons.insert(reason, 1);
        } else {
            self.others += 1;
        }
    }

    /// The counts by name, such as `the split "test"` and `rows without a text`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let name = |reason: &str| match reason.strip_prefix("of ") {
            Some(name) => name.to_owned(),
            None => format!("{} {reason}", self.what),
        };
        let named = self.reasons.iter().map(|(reason, n)| (name(reason), *n));
        let others = (self.others > 0).then(|| (name("left out for other reasons"), self.others));
        named.chain(others).collect()
    }

    /// Number of items left out.
    pub fn total(&self) -> u64 {
        self.reasons.values().sum::<u64>() + self.others
    }
}

/// Reason for leaving out a sound image.
pub(crate) const WITHOUT_TEXT: &str = "without a text";

/// Reason for leaving out an item whose split is none of the three.
pub(crate) fn of_split(name: &str) -> String {
    /// A longer name is a text, not a split.
    const LONGEST: usize = 40;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("of the split {:?}...", &name[..end]),
        None => format!("of the split {name:?}"),
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} left out", self.total(), self.what)?;
        let mut reasons: Vec<(&str, u64)> = self
            .reasons
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count))
            .collect();
        // The most frequent first; ties in alphabetical order.
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if self.others > 0 {
            reasons.push(("for other reasons", self.others));
        }
        for (at, (reason, count)) in reasons.iter().enumerate() {
            let before = if at == 0 { " (" } else { ", " };
            write!(f, "{before}{count} {reason}")?;
        }
        f.write_str(if reasons.is_empty() { "" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted() {
        let mut left = LeftOut::new("rows");
        assert_eq!(left.to_string(), "0 rows left out");
        for reason in [
            "without a text",
            "of the split \"test\"",
            "of the split \"test\"",
        ] {
            left.add(reason);
        }
        assert_eq!(
            left.to_string(),
            "3 rows left out (2 of the split \"test\", 1 without a text)"
        );
        let counts = left.counts().into_iter();
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [
                ("rows without a text".to_owned(), 1),
                ("the split \"test\"".to_owned(), 2)
            ]
        );
        for number in 0..1000 {
            left.add(format!("of the split {number}"));
        }
        assert_eq!(left.total(), 1003);
        assert!(
            left.to_string().ends_with("982 for other reasons)"),
            "{left}"
        );
    }
}
