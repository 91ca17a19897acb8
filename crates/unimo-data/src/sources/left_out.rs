//! What is left out of a data set although nothing is wrong with it, counted by reason.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by reason. [`Display`](fmt::Display) gives `3 items left out (2 of the split "test", 1 without a text)`.
#[derive(Debug, Clone)]
pub(crate) struct LeftOut {
    /// What is counted, in the plural.
    what: &'static str,
    reasons: BTreeMap<String, u64>,
    others: u64,
}

/// Reasons that are told apart; a column may hold anything.
const MOST: usize = 20;

impl LeftOut {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            reasons: BTreeMap::new(),
            others: 0,
        }
    }

    /// Counts an item; the reason reads well after a number.
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

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.reasons.values().sum::<u64>() + self.others
    }
}

/// Why an image is no sample, where nothing is wrong with it.
pub(crate) const WITHOUT_TEXT: &str = "without a text";

/// Why an item is left out that names a split which is none of the three.
pub(crate) fn of_split(name: &str) -> String {
    /// A longer name is a text.
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
        // The most frequent first; of equals by alphabet.
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
