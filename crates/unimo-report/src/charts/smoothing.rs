//! Running means, and lines with no more points than a screen can show.

/// Running mean with weights `exp(-|i - j| / scale)` on both sides, twice over, in linear time.
///
/// Values that are not finite have no weight and stay gaps. Unlike a one-sided running mean this one does not lag: a drop
/// of the loss is shown where it is. The price is that the line knows later values.
pub fn smooth(values: &[f64], scale: f64) -> Vec<f64> {
    if scale.is_nan() || scale <= 0.0 {
        return values.to_vec();
    }
    two_sided_mean(&two_sided_mean(values, scale), scale)
}

pub(super) fn two_sided_mean(values: &[f64], scale: f64) -> Vec<f64> {
    let decay = (-1.0 / scale).exp();
    // (sum of weighted values, sum of weights) of everything before, including the place itself.
    let sums = |order: &mut dyn Iterator<Item = f64>| {
        let mut state = (0.0, 0.0);
        order
            .map(|value| {
                let (value, weight) = if value.is_finite() {
                    (value, 1.0)
                } else {
                    (0.0, 0.0)
                };
                state = (value + decay * state.0, weight + decay * state.1);
                state
            })
            .collect::<Vec<(f64, f64)>>()
    };
    let before = sums(&mut values.iter().copied());
    let mut after = sums(&mut values.iter().rev().copied());
    after.reverse();
    values
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(value, (before, after))| {
            if value.is_finite() {
                (before.0 + after.0 - value) / (before.1 + after.1 - 1.0)
            } else {
                f64::NAN
            }
        })
        .collect()
}

/// The scale of [`smooth`] for a line of `count` values: a small part of it, so that its shape stays; 0 for short lines.
pub fn smoothing_scale(count: usize) -> f64 {
    if count < 20 {
        0.0
    } else {
        (count as f64 / 120.0).max(1.0)
    }
}

/// Thins points in ascending x to at most five in each of `columns` equal parts of `lo..hi`: the first, the lowest, the
/// highest, the last and, where there is one, a gap. A line through them covers the same pixels as a line through all
/// (M4 aggregation, Jugel et al. 2014), so a spike of one step stays visible.
pub fn decimate(points: &[(f64, f64)], lo: f64, hi: f64, columns: usize) -> Vec<(f64, f64)> {
    if points.len() <= 4 * columns {
        return points.to_vec();
    }
    let column =
        |x: f64| (((x - lo) / (hi - lo) * columns as f64) as usize).min(columns.saturating_sub(1));
    let mut kept = Vec::new();
    for part in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let mut indices = vec![0, part.len() - 1];
        let finite = || {
            part.iter()
                .enumerate()
                .filter(|(_, point)| point.1.is_finite())
        };
        indices.extend(
            finite()
                .min_by(|a, b| a.1.1.total_cmp(&b.1.1))
                .map(|(index, _)| index),
        );
        indices.extend(
            finite()
                .max_by(|a, b| a.1.1.total_cmp(&b.1.1))
                .map(|(index, _)| index),
        );
        indices.extend(part.iter().position(|point| !point.1.is_finite()));
        indices.sort_unstable();
        indices.dedup();
        kept.extend(indices.into_iter().map(|index| part[index]));
    }
    kept
}
