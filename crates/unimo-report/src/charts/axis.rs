//! Axes: the range that is shown, its ticks and their labels.

use crate::numbers::{Format, short};

/// Spacing of a value axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal differences take equal space.
    #[default]
    Linear,
    /// Equal ratios take equal space; values at or below zero are gaps.
    Log,
}

pub(super) struct Axis {
    pub(super) lo: f64,
    pub(super) hi: f64,
    pub(super) scale: Scale,
    pub(super) ticks: Vec<f64>,
    /// Distance between two ticks; zero on a logarithmic axis.
    pub(super) step: f64,
}

impl Axis {
    /// Place of a value on the axis, 0 at its low and 1 at its high end.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.lo) / (self.hi - self.lo),
            Scale::Log => (value / self.lo).log10() / (self.hi / self.lo).log10(),
        }
    }

    pub(super) fn labels(&self, format: Format) -> Vec<String> {
        let largest = self
            .ticks
            .iter()
            .fold(0.0, |most: f64, tick| most.max(tick.abs()));
        self.ticks
            .iter()
            .map(|&tick| match (self.scale, format) {
                (Scale::Linear, _) => format.tick(tick, self.step, largest),
                (Scale::Log, Format::Percent) => format!("{}\u{a0}%", short(100.0 * tick)),
                (Scale::Log, Format::Number) => short(tick),
            })
            .collect()
    }
}

/// Tick values from `lo` to `hi` at multiples of 1, 2 or 5 times a power of ten, about `target` of them, and their distance.
///
/// Ends that are not finite or in the wrong order give no ticks.
pub fn ticks(lo: f64, hi: f64, target: usize) -> (Vec<f64>, f64) {
    let step = nice_step(lo, hi, target);
    if step == 0.0 {
        return (Vec::new(), 0.0);
    }
    // The small allowance keeps an end that is a multiple of the step up to rounding.
    let first = (lo / step - 1e-9).ceil() as i64;
    let last = (hi / step + 1e-9).floor() as i64;
    (
        (first..=last).map(|index| multiple(index, step)).collect(),
        step,
    )
}

/// The smallest range around `lo..hi` whose ends are ticks: its ends, its ticks and their distance.
pub(super) fn nice_range(lo: f64, hi: f64, target: usize) -> (f64, f64, Vec<f64>, f64) {
    let step = nice_step(lo, hi, target);
    if step == 0.0 {
        return (lo, hi, Vec::new(), 0.0);
    }
    let first = (lo / step + 1e-9).floor() as i64;
    let last = (hi / step - 1e-9).ceil() as i64;
    let ticks = (first..=last).map(|index| multiple(index, step)).collect();
    (multiple(first, step), multiple(last, step), ticks, step)
}

fn nice_step(lo: f64, hi: f64, target: usize) -> f64 {
    let rough = (hi - lo) / target.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 || (hi.abs().max(lo.abs()) / rough) > 1e12 {
        return 0.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .min_by(|a, b| {
            let distance = |step: f64| (step / rough).ln().abs();
            distance(*a).total_cmp(&distance(*b))
        });
    step.filter(|step| step.is_normal()).unwrap_or(0.0)
}

/// `index * step` without the last digit's noise, so that three times 0.1 is 0.3.
fn multiple(index: i64, step: f64) -> f64 {
    let value = index as f64 * step;
    format!("{value:.12e}").parse().unwrap_or(value)
}

/// Tick values of a logarithmic axis around `lo..hi`: powers of ten, thinned where there are many, with twos and fives where
/// there are few. Ends that are not positive and finite give no ticks.
pub fn log_ticks(lo: f64, hi: f64) -> Vec<f64> {
    if !(lo.is_normal() && hi.is_normal() && lo > 0.0 && hi >= lo) {
        return Vec::new();
    }
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let factors: &[f64] = if hi / lo <= 100.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let all: Vec<f64> = (first..=last)
        .flat_map(|power| factors.iter().map(move |factor| (power, *factor)))
        .filter_map(|(power, factor)| format!("{factor}e{power}").parse().ok())
        .collect();
    let from = all
        .iter()
        .rposition(|tick| *tick <= lo * (1.0 + 1e-9))
        .unwrap_or(0);
    let to = all
        .iter()
        .position(|tick| *tick >= hi * (1.0 - 1e-9))
        .unwrap_or(all.len().saturating_sub(1));
    let needed = all.get(from..=to).unwrap_or(&[]);
    let stride = needed.len().div_ceil(8).max(1);
    needed.iter().rev().step_by(stride).rev().copied().collect()
}

/// A range that is not empty, whatever the ends. One point gets room on both sides, and no points give 0 to 1.
pub(super) fn widened(lo: f64, hi: f64) -> (f64, f64) {
    if !(lo.is_finite() && hi.is_finite()) || lo > hi {
        (0.0, 1.0)
    } else if hi - lo > 1e-12 * hi.abs().max(lo.abs()) {
        (lo, hi)
    } else if lo == 0.0 {
        (0.0, 1.0)
    } else {
        let room = (0.5 * lo.abs()).min(1.0).max(1e-3 * lo.abs());
        (lo - room, hi + room)
    }
}
