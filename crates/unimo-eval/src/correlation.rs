//! Pearson's and Spearman's correlation, for tasks whose labels are numbers, such as STS-B.
//!
//! Both are undefined for fewer than two rows and where one side is constant: the result is `None` then, never 0. They agree with
//! `scipy.stats.pearsonr` and `spearmanr`.

use crate::EvalError;

/// Pearson's correlation, `sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 sum (b - mean b)^2)`, in [-1, 1].
///
/// # Errors
/// If the two are not of one length, or if a value is not finite.
pub fn pearson(predictions: &[f64], labels: &[f64]) -> Result<Option<f64>, EvalError> {
    check(predictions, labels)?;
    Ok(correlation(predictions, labels))
}

/// Spearman's correlation: Pearson's of the ranks, where equal values share the mean of their ranks.
///
/// # Errors
/// As [`pearson`].
pub fn spearman(predictions: &[f64], labels: &[f64]) -> Result<Option<f64>, EvalError> {
    check(predictions, labels)?;
    Ok(correlation(&mean_ranks(predictions), &mean_ranks(labels)))
}

fn check(predictions: &[f64], labels: &[f64]) -> Result<(), EvalError> {
    if predictions.len() != labels.len() {
        return Err(EvalError::Count {
            what: "predictions (one per label)",
            expected: labels.len(),
            got: predictions.len(),
        });
    }
    finite("prediction", predictions)?;
    finite("label", labels)
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

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (direction(a)?, direction(b)?);
    let cosine: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    // Rounding could leave the range.
    Some(cosine.clamp(-1.0, 1.0))
}

/// The values less their mean, with length 1; `None` for fewer than two values, or if all are equal.
fn direction(values: &[f64]) -> Option<Vec<f64>> {
    let first = *values.first()?;
    if values.iter().all(|value| *value == first) {
        return None;
    }
    // Values near the largest number would overflow in the sums, and their differences too.
    let largest = values
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let scaled: Vec<f64> = values.iter().map(|value| value / largest).collect();
    let mean = scaled.iter().sum::<f64>() / scaled.len() as f64;
    let centred: Vec<f64> = scaled.iter().map(|value| value - mean).collect();
    // Squares of differences near the rounding of 1 are still far above the smallest number.
    let norm = centred
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt();
    Some(centred.iter().map(|value| value / norm).collect())
}

/// The ranks from 1; equal values have the mean of theirs.
fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    // Equality of numbers, not `total_cmp`: 0 and -0 are one value and stand next to each other.
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|at| ranks[*at] = rank);
        start += equal.len();
    }
    ranks
}
