//! How good predicted numbers are: Pearson's and Spearman's correlation with the right ones (STS-B).

use std::collections::BTreeMap;

use unimo_eval::correlation::{pearson, spearman};

use crate::tasks::judge::{Judged, Number};
use crate::tasks::predict::Predicted;

/// Names of the numbers. A correlation is missing where all predictions are equal.
pub(super) const NAMES: [&str; 2] = ["pearson", "spearman"];

/// Judges the predictions of samples whose numbers are known. A prediction that is half a unit off is half right.
pub(super) fn judge(all: &[Predicted]) -> Judged {
    let known = |predicted: &Predicted| {
        let right: f64 = predicted.row.label.answer.as_deref()?.trim().parse().ok()?;
        let (_, given) = predicted.best.first()?;
        Some((f64::from(*given), right))
    };
    let pairs: Vec<Option<(f64, f64)>> = all.iter().map(known).collect();
    let (given, right): (Vec<f64>, Vec<f64>) = pairs.iter().flatten().copied().unzip();
    // Both are finite: predictions are checked where they are made, labels where targets are.
    let values = [pearson(&given, &right), spearman(&given, &right)];
    let numbers = NAMES.into_iter().zip(values);
    let close =
        |pair: &Option<(f64, f64)>| pair.map_or(0.0, |(given, right)| 1.0 - (given - right).abs());
    Judged {
        kinds: BTreeMap::new(),
        numbers: numbers
            .filter_map(|(name, value)| {
                Some(Number {
                    name: name.to_owned(),
                    value: value.ok().flatten()?,
                    chance: None,
                    interval: None,
                })
            })
            .collect(),
        right: pairs.iter().map(|pair| close(pair).max(0.0)).collect(),
        confusion: None,
    }
}

#[cfg(test)]
mod tests {
    use unimo_data::{Label, TaskRow};

    use super::*;

    fn predicted(answer: &str, given: f32) -> Predicted {
        Predicted {
            row: TaskRow {
                number: 0,
                name: String::new(),
                text: None,
                label: Label {
                    answer: Some(answer.to_owned()),
                    ..Label::default()
                },
            },
            best: vec![(0, given)],
            bounds: None,
            candidates: Vec::new(),
        }
    }

    /// scipy: `pearsonr` 0.96077, `spearmanr` 1 of these.
    #[test]
    fn correlations_are_those_of_scipy_and_missing_for_constants() {
        let all = [
            predicted("1", 1.0),
            predicted("2", 2.5),
            predicted("3", 3.0),
        ];
        let judged = judge(&all);
        assert!((judged.numbers[0].value - 0.960_768_922_830_522_7).abs() < 1e-9);
        assert!((judged.numbers[1].value - 1.0).abs() < 1e-12);
        assert_eq!(judged.right, [1.0, 0.5, 1.0]);
        let constant = [predicted("1", 2.0), predicted("2", 2.0)];
        assert!(judge(&constant).numbers.is_empty());
    }
}
