//! Elementary functions and sums in a form that compilers turn into vector instructions: straight-line code on single
//! values, selection instead of branches, and sums in a fixed number of lanes.

use std::ops::AddAssign;

/// Sums and maxima are taken in this many interleaved lanes, which are combined at the end. The number is fixed, so that
/// the width of the machine's vectors does not change the order of additions.
pub(super) const LANES: usize = 32;

/// Below this the exponential is 0 (the smallest normal number is e^-87.34).
const EXP_LOWEST: f32 = -87.3;
/// Above this the exponential stays at e^88 (the largest number is e^88.7), which keeps its exponent representable.
const EXP_HIGHEST: f32 = 88.0;

/// e^x with a relative error of at most 2 units in the last place for x in [-87.3, 88]; 0 below, e^88 above, NaN for
/// NaN. The polynomial is the one of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer and leaves that integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons written so that NaN falls through.
    let c = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let c = if c > EXP_HIGHEST { EXP_HIGHEST } else { c };
    let rounded = c.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, c));
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < EXP_LOWEST { 0.0 } else { p * power }
}

/// 1 / (1 + e^-x), 0 exactly for x below -87.3.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let above = if x < 0.0 { e } else { 1.0 };
    above / (1.0 + e)
}

/// Distribution function and density of the normal distribution. The distribution function has an absolute error of at
/// most 2e-7, and below 0 also a relative one of 5e-6 where it is above 1e-12; it is 0 exactly below -13.3.
///
/// Below 0 it is e^(-x²/2) t q(t) with t = 1 / (1 - 0.3 x): the form that Numerical Recipes (section 6.2.2) uses for the
/// complementary error function, which keeps the tail where 1 + erf would cancel. The polynomial q of degree 7 is a
/// minimax fit on t in [0.2, 1] with a relative error of 1.2e-7.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
    let e = exp(-0.5 * x * x);
    let t = 1.0 / x.abs().mul_add(0.3, 1.0);
    let q = 0.036_036_454_f32;
    let q = q.mul_add(t, -0.158_714_2);
    let q = q.mul_add(t, 0.208_965_5);
    let q = q.mul_add(t, -0.056_096_643);
    let q = q.mul_add(t, 0.129_843_78);
    let q = q.mul_add(t, 0.099_522_96);
    let q = q.mul_add(t, 0.120_816_93);
    let q = q.mul_add(t, 0.119_625_165);
    let tail = e * t * q;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, e * FRAC_1_SQRT_TAU)
}

// The loops below go over whole blocks only, and the rest of a row is copied to a block of its own: an index into the
// lanes that is not a constant would keep them in memory, and the compiler would not use vectors.

/// The last elements of a row and `fill` for the missing ones.
#[inline(always)]
fn padded(tail: &[f32], fill: f32) -> [f32; LANES] {
    let mut block = [fill; LANES];
    block[..tail.len()].copy_from_slice(tail);
    block
}

/// The largest value, -∞ for an empty row. NaN is skipped here; the code that uses the maximum meets it again.
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = padded(tail, f32::NEG_INFINITY);
    for lane in &mut lanes {
        *lane = larger(f32::NEG_INFINITY, *lane);
    }
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], block[i]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `f` over a row. `f(fill)` is 0.
#[inline(always)]
pub(super) fn sum(row: &[f32], fill: f32, f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = padded(tail, fill);
    for lane in &mut lanes {
        *lane = f(*lane);
    }
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += f(block[i]);
        }
    }
    fold(lanes)
}

/// The sum of `f` over two rows of the same length. `f(0, 0)` is 0.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    let (mut lanes, last_b) = (padded(tail_a, 0.0), padded(tail_b, 0.0));
    for i in 0..LANES {
        lanes[i] = f(lanes[i], last_b[i]);
    }
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    fold(lanes)
}

/// Replaces every value by `f` of it and sums the results. `f(fill)` is 0.
#[inline(always)]
pub(super) fn map_sum(row: &mut [f32], fill: f32, f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, tail) = row.as_chunks_mut::<LANES>();
    let mut lanes = padded(tail, fill);
    for lane in &mut lanes {
        *lane = f(*lane);
    }
    tail.copy_from_slice(&lanes[..tail.len()]);
    for block in blocks {
        for i in 0..LANES {
            block[i] = f(block[i]);
            lanes[i] += block[i];
        }
    }
    fold(lanes)
}

/// The sum of squares in f64, where the square of no f32 overflows.
#[inline(always)]
pub(super) fn squares(row: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = padded(tail, 0.0).map(square);
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += square(block[i]);
        }
    }
    fold(lanes)
}

/// Adds lanes pairwise.
#[inline(always)]
fn fold<T: Copy + AddAssign>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let other = lanes[i + width];
            lanes[i] += other;
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two units in the last place of an f32.
    const EXP_RELATIVE: f64 = 2.4e-7;
    /// The fit (6e-8), and the roundings of the tail and of 1 minus it (6e-8 each).
    const CDF_ABSOLUTE: f64 = 2e-7;
    /// The rounding of the exponent -x²/2, which is at most 24.5 in the test.
    const CDF_RELATIVE: f64 = 5e-6;

    /// erfc(z) for z >= 0: 1 - erf by its Maclaurin series below 3, a continued fraction above.
    fn erfc(z: f64) -> f64 {
        if z < 3.0 {
            let (mut term, mut sum, mut n) = (z, z, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -z * z / n;
                sum += term / (2.0 * n + 1.0);
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..=80).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
        (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    }

    #[test]
    fn exp_agrees_with_f64() {
        for i in -87_200..88_000 {
            let x = i as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error <= EXP_RELATIVE, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_agrees_with_f64() {
        for i in 0..=7000 {
            let x = f64::from(i as f32 * 1e-3);
            let tail = 0.5 * erfc(x * std::f64::consts::FRAC_1_SQRT_2);
            let (above, density) = normal(x as f32);
            let (below, same_density) = normal(-x as f32);
            let error = (f64::from(below) - tail).abs();
            assert!(
                error <= CDF_ABSOLUTE.min(CDF_RELATIVE * tail),
                "Φ(-{x}): error {error}"
            );
            let error = (f64::from(above) - (1.0 - tail)).abs();
            assert!(error <= CDF_ABSOLUTE, "Φ({x}): error {error}");
            let expected = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            let error = (f64::from(density) - expected).abs();
            assert!(error <= CDF_RELATIVE * expected, "φ({x}): error {error}");
            assert_eq!(density, same_density);
        }
        assert_eq!(normal(f32::MAX), (1.0, 0.0));
        assert_eq!(normal(f32::MIN), (0.0, 0.0));
        assert!(normal(f32::NAN).0.is_nan());
    }

    #[test]
    fn sigmoid_agrees_with_f64() {
        for i in -87_000..=87_000 {
            let x = i as f32 * 1e-3;
            let expected = 1.0 / (1.0 + f64::from(-x).exp());
            let error = (f64::from(sigmoid(x)) - expected).abs() / expected;
            // The exponential, the sum and the quotient.
            assert!(
                error <= 2.0 * EXP_RELATIVE,
                "sigmoid({x}): relative error {error}"
            );
        }
        assert_eq!(sigmoid(f32::MIN), 0.0);
        assert_eq!(sigmoid(f32::MAX), 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn lanes_cover_every_element() {
        for n in [0, 1, 3, 31, 32, 33, 64, 197] {
            let row: Vec<f32> = (0..n).map(|i| i as f32 - 50.0).collect();
            let expected: f32 = row.iter().sum();
            assert_eq!(sum(&row, 0.0, |x| x), expected);
            assert_eq!(sum2(&row, &row, |a, _| a), expected);
            let mut twice = row.clone();
            assert_eq!(map_sum(&mut twice, 0.0, |x| 2.0 * x), 2.0 * expected);
            assert!(twice.iter().zip(&row).all(|(t, r)| *t == 2.0 * r));
            let largest = row.last().copied().unwrap_or(f32::NEG_INFINITY);
            assert_eq!(max(&row), largest);
            let squared: f32 = row.iter().map(|x| x * x).sum();
            assert_eq!(squares(&row), f64::from(squared));
        }
    }
}
