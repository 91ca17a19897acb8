//! Pearson's and Spearman's correlation, for tasks whose labels are numbers, such as STS-B.
//!
//! Both are undefined for fewer than two rows and where one side is constant: the result is `None` then, never 0. They agree with
//! `scipy.stats.pearsonr` and `spearmanr`.

use crate::{EvalError, checks};

/// Above this, values are scaled down first.
const HUGE: f64 = 1e200;

/// 2^-200, by which they are scaled: sums of any number of rows are finite then.
const DOWN: f64 = 1.0 / (1_u128 << 100) as f64 / (1_u128 << 100) as f64;

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
    checks::count(
        "predictions (one per label)",
        labels.len(),
        predictions.len(),
    )?;
    checks::finite("prediction", predictions)?;
    checks::finite("label", labels)
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
    // Sums and differences of values near the largest number would overflow. A power of two rounds nothing.
    let huge = values.iter().any(|value| value.abs() > HUGE);
    let scale = if huge { DOWN } else { 1.0 };
    let scaled = values.iter().map(|value| value * scale).collect();
    // The first mean is rounded as its values are, which may be far from 0; the second is rounded as their differences are.
    let centred = less_mean(less_mean(scaled));
    // Squares of tiny differences would vanish.
    let largest = centred
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let norm = centred
        .iter()
        .map(|value| (value / largest).powi(2))
        .sum::<f64>()
        .sqrt();
    Some(centred.iter().map(|value| value / largest / norm).collect())
}

fn less_mean(values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| value - mean).collect()
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
