//! What the two axes of a line chart show.

use super::{LineChart, Range};
use crate::charts::axis::{Axis, Scale, log_ticks, nice_range, ticks, widened};

/// The values of a faint line are cut off if their range is more than this many times the range without the lowest and
/// the highest hundredth.
const OUTLIER: f64 = 2.0;

impl LineChart {
    pub(super) fn x_axis(&self, target: usize) -> Axis {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for point in self
            .series
            .iter()
            .flat_map(|series| &series.points)
            .filter(|point| point.0.is_finite())
        {
            lo = lo.min(point.0);
            hi = hi.max(point.0);
        }
        let only = (lo == hi).then_some(lo);
        let (lo, hi) = widened(lo, hi);
        // If all points are at one place, any other tick would suggest that there could have been more.
        let (ticks, step) = only.map_or_else(|| ticks(lo, hi, target), |only| (vec![only], 0.0));
        Axis {
            lo,
            hi,
            scale: Scale::Linear,
            ticks,
            step,
        }
    }

    pub(in crate::charts) fn value_axis(&self, lines: &[Vec<(f64, f64)>]) -> Axis {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut include = |value: f64| {
            if self.shows(value) {
                lo = lo.min(value);
                hi = hi.max(value);
            }
        };
        for (series, line) in self.series.iter().zip(lines) {
            line.iter().for_each(|point| include(point.1));
            if series.smoothed {
                let mut values: Vec<f64> = series
                    .points
                    .iter()
                    .map(|point| point.1)
                    .filter(|value| self.shows(*value))
                    .collect();
                values.sort_by(f64::total_cmp);
                let spread =
                    |values: &[f64]| values.last().unwrap_or(&0.0) - values.first().unwrap_or(&0.0);
                let cut = values.len() / 100;
                let inner = &values[cut..values.len() - cut];
                // One spike of a faint line would flatten the line that is meant to be read.
                let kept = if spread(&values) > OUTLIER * spread(inner) {
                    inner
                } else {
                    &values
                };
                kept.iter().for_each(|value| include(*value));
            }
        }
        self.references
            .iter()
            .for_each(|reference| include(reference.0));

        if self.scale == Scale::Log {
            let (lo, hi) = match self.range {
                Range::Fixed(lo, hi) => (lo, hi),
                _ if lo == hi => (lo / 2.0, hi * 2.0),
                _ => (lo, hi),
            };
            let ticks = log_ticks(lo, hi);
            let (lo, hi) = (
                ticks.first().copied().unwrap_or(lo).min(lo),
                ticks.last().copied().unwrap_or(hi).max(hi),
            );
            return Axis {
                lo,
                hi,
                scale: Scale::Log,
                ticks,
                step: 0.0,
            };
        }
        let (lo, hi) = match self.range {
            Range::Fixed(lo, hi) => {
                let (ticks, step) = ticks(lo, hi, 5);
                return Axis {
                    lo,
                    hi,
                    scale: Scale::Linear,
                    ticks,
                    step,
                };
            }
            Range::FromZero => widened(lo.min(0.0), hi.max(0.0)),
            Range::Auto if lo > 0.0 && lo < 0.4 * hi => (0.0, hi),
            Range::Auto => widened(lo, hi),
        };
        let (lo, hi, ticks, step) = nice_range(lo, hi, 5);
        Axis {
            lo,
            hi,
            scale: Scale::Linear,
            ticks,
            step,
        }
    }
}
