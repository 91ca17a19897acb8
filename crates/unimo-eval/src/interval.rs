//! Confidence intervals: Wilson's for shares, and the percentile bootstrap for means.
//!
//! A difference of scores that is smaller than their intervals may be luck of the test set. The bootstrap also serves where rows come
//! in groups that are right or wrong together, such as the questions about one image: whole groups are drawn then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{EvalError, checks};

/// Where a value lies with some confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Wilson's score interval (1927) of the share `right / rows`, without continuity correction; `None` without rows. It stays within
/// [0, 1] and has a width even where all rows are right.
///
/// ```text
/// (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
/// ```
///
/// # Errors
/// If `right` exceeds `rows`, or if `confidence` is not between 0 and 1.
pub fn wilson(right: usize, rows: usize, confidence: f64) -> Result<Option<Interval>, EvalError> {
    check_confidence(confidence)?;
    if right > rows {
        return Err(EvalError::Setting {
            key: "right rows",
            got: right.to_string(),
            allowed: format!("0 to {rows}, the number of rows"),
        });
    }
    if rows == 0 {
        return Ok(None);
    }
    let (p, n) = (right as f64 / rows as f64, rows as f64);
    let z = standard_deviations(confidence);
    let scale = 1.0 + z * z / n;
    let middle = (p + z * z / (2.0 * n)) / scale;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / scale;
    // At the ends of the range the formula is exact but for rounding.
    Ok(Some(Interval {
        low: if right == 0 { 0.0 } else { middle - half },
        high: if right == rows { 1.0 } else { middle + half },
    }))
}

/// The percentile bootstrap (Efron 1979): the mean of rows that are drawn with replacement, many times; the interval is cut out of
/// these means at the quantiles `(1 - confidence) / 2` and `(1 + confidence) / 2`, interpolated linearly between neighbours.
///
/// The same settings and values give the same interval on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// What the draws start from.
    pub seed: u64,
    /// How many means are drawn; at least 1.
    pub resamples: usize,
    /// The share of the means that the interval holds, between 0 and 1.
    pub confidence: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            seed: 0,
            resamples: 1000,
            confidence: 0.95,
        }
    }
}

impl Bootstrap {
    /// The interval of the mean of `values`, one per row; `None` without rows.
    ///
    /// # Errors
    /// If a value is not finite, or if a setting is out of range.
    pub fn mean(&self, values: &[f64]) -> Result<Option<Interval>, EvalError> {
        self.check(values)?;
        let groups: Vec<Group> = values
            .iter()
            .map(|sum| Group { sum: *sum, rows: 1 })
            .collect();
        Ok(self.of(&groups))
    }

    /// The interval of the mean of `values` where all rows of a group are drawn together. `groups` says which group each row is in. With
    /// groups of different sizes a drawn set may have more or fewer rows than `values`; its mean is taken over the rows that it has.
    /// `None` without rows.
    ///
    /// # Errors
    /// As [`mean`](Self::mean), and if there is not one group per value.
    pub fn grouped_mean<K: Ord>(
        &self,
        values: &[f64],
        groups: &[K],
    ) -> Result<Option<Interval>, EvalError> {
        self.check(values)?;
        checks::count("groups (one per value)", values.len(), groups.len())?;
        // Groups in the order of their first row, so that their names do not matter.
        let mut place: BTreeMap<&K, usize> = BTreeMap::new();
        let mut all: Vec<Group> = Vec::new();
        for (value, group) in values.iter().zip(groups) {
            let at = *place.entry(group).or_insert(all.len());
            if at == all.len() {
                all.push(Group { sum: 0.0, rows: 0 });
            }
            all[at].sum += value;
            all[at].rows += 1;
        }
        Ok(self.of(&all))
    }

    fn check(&self, values: &[f64]) -> Result<(), EvalError> {
        check_confidence(self.confidence)?;
        if self.resamples == 0 {
            return Err(EvalError::Setting {
                key: "resamples",
                got: "0".to_owned(),
                allowed: "1 or more".to_owned(),
            });
        }
        checks::finite("value", values)
    }

    fn of(&self, groups: &[Group]) -> Option<Interval> {
        if groups.is_empty() {
            return None;
        }
        let mut random = SplitMix(self.seed);
        let draw = |_| {
            let (mut sum, mut rows) = (0.0, 0);
            for _ in groups {
                let group = groups[random.below(groups.len())];
                sum += group.sum;
                rows += group.rows;
            }
            sum / rows as f64
        };
        let mut means: Vec<f64> = (0..self.resamples).map(draw).collect();
        means.sort_by(f64::total_cmp);
        Some(Interval {
            low: quantile(&means, 0.5 - self.confidence / 2.0),
            high: quantile(&means, 0.5 + self.confidence / 2.0),
        })
    }
}

/// Rows that are drawn together.
#[derive(Debug, Clone, Copy)]
struct Group {
    sum: f64,
    rows: usize,
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing rows, and without a dependency.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`. Numbers differ in probability by less than `end / 2^64`.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

/// The quantile of sorted numbers, interpolated linearly between neighbours (R's type 7, numpy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

fn check_confidence(confidence: f64) -> Result<(), EvalError> {
    if confidence > 0.0 && confidence < 1.0 {
        return Ok(());
    }
    Err(EvalError::Setting {
        key: "confidence",
        got: confidence.to_string(),
        allowed: "between 0 and 1, such as 0.95".to_owned(),
    })
}

/// How many standard deviations around the mean of a normal distribution hold `confidence` of it (Wichura 1988, algorithm AS 241,
/// PPND16), right to about 1 part in 10^16. `confidence` is between 0 and 1.
fn standard_deviations(confidence: f64) -> f64 {
    /// The value at `x` of a polynomial divided by another.
    fn ratio(approximation: Rational, x: f64) -> f64 {
        let polynomial = |coefficients: [f64; 8]| {
            let step = |sum: f64, coefficient: &f64| sum * x + coefficient;
            coefficients.iter().rev().fold(0.0, step)
        };
        polynomial(approximation.0) / polynomial(approximation.1)
    }
    let half = confidence / 2.0;
    if half <= 0.425 {
        return half * ratio(CENTRE, 0.180625 - half * half);
    }
    // The tail and not its complement, which could round to 1.
    let root = (-(0.5 - half).ln()).sqrt();
    if root <= 5.0 {
        ratio(MIDDLE, root - 1.6)
    } else {
        ratio(TAIL, root - 5.0)
    }
}

/// The coefficients of numerator and denominator, the constant first.
type Rational = ([f64; 8], [f64; 8]);

const CENTRE: Rational = (
    [
        3.387_132_872_796_366_5,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_545e3,
    ],
);

const MIDDLE: Rational = (
    [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ],
    [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ],
);

const TAIL: Rational = (
    [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ],
    [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ],
);
