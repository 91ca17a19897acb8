//! The consistency of predictions about true and false statements: the share of groups in which every prediction is right.
//!
//! A group is one sentence with its images, read off the identifier as the official scorers do ([`unimo_eval::nlvr`]). Statements
//! without an identifier, such as those about generated scenes, have no consistency.

use std::collections::BTreeMap;

use unimo_eval::nlvr::{nlvr1_group, nlvr2_group};

/// Parts of an identifier of NLVR2: split, set, pair, sentence. One of NLVR has two or three.
const NLVR2_PARTS: usize = 4;

/// The group of a statement; `None` if its identifier says none.
fn group(identifier: &str) -> Option<String> {
    if identifier.split('-').count() == NLVR2_PARTS {
        nlvr2_group(identifier)
    } else {
        nlvr1_group(identifier)
    }
}

/// The share of groups whose samples are all right. `samples` gives the identifier of each and whether it is right; `None` if one has
/// no group.
pub(super) fn consistency<'a>(samples: impl IntoIterator<Item = (&'a str, bool)>) -> Option<f64> {
    let mut groups: BTreeMap<String, bool> = BTreeMap::new();
    for (identifier, right) in samples {
        *groups.entry(group(identifier)?).or_insert(true) &= right;
    }
    let right = groups.values().filter(|right| **right).count();
    (!groups.is_empty()).then(|| right as f64 / groups.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_right_if_all_of_it_is() {
        let nlvr2 = [
            ("dev-850-0-0", true),
            ("dev-850-1-0", false),
            ("dev-850-0-1", true),
            ("dev-9-3-0", true),
        ];
        assert_eq!(consistency(nlvr2), Some(2.0 / 3.0));
        let nlvr = [("1572-0", true), ("1572-1", true), ("8-0-5", false)];
        assert_eq!(consistency(nlvr), Some(0.5));
        assert_eq!(consistency([("", true)]), None);
        assert_eq!(consistency([]), None);
    }

    /// Where every group has one sample, consistency is accuracy.
    #[test]
    fn one_sample_per_group_makes_it_the_accuracy() {
        let ids: Vec<String> = (0..7).map(|i| format!("test1-{i}-0-0")).collect();
        let all = ids.iter().enumerate();
        let all = all.map(|(i, id)| (id.as_str(), i % 3 == 0));
        assert_eq!(consistency(all), Some(3.0 / 7.0));
    }
}
