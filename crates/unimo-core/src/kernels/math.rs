//! Elementary functions and sums in a form that compilers turn into vector instructions: straight-line code on single
//! values, selection instead of branches, and sums in a fixed number of lanes.

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

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The distribution function of the normal distribution, with an absolute error of at most 1.5e-7; exactly 0 and 1
/// outside ±4√2.
///
/// (1 + erf(x / √2)) / 2 with the rational approximation of erf on [-4, 4] that Eigen and XLA use for f32.
#[inline(always)]
pub(super) fn normal_cdf(x: f32) -> f32 {
    const BOUND: f32 = 4.0;
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let c = if z < -BOUND { -BOUND } else { z };
    let c = if c > BOUND { BOUND } else { c };
    let s = c * c;
    let p = -2.726_142_3e-10_f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_4e-5);
    let p = p.mul_add(s, -7.349_906_4e-4);
    let p = p.mul_add(s, -2.954_599_9e-3);
    let p = p.mul_add(s, -1.609_603_3e-2);
    let q = -1.456_607_1e-5_f32;
    let q = q.mul_add(s, -2.133_740_5e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329_3e-3);
    let q = q.mul_add(s, -1.426_474e-2);
    let value = (c * p / q).mul_add(0.5, 0.5);
    let value = if z < -BOUND { 0.0 } else { value };
    if z > BOUND { 1.0 } else { value }
}

/// The density of the normal distribution.
#[inline(always)]
pub(super) fn normal_pdf(x: f32) -> f32 {
    const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
    exp(-0.5 * x * x) * FRAC_1_SQRT_TAU
}

/// The largest value, -∞ for an empty row. NaN is skipped: whoever uses the maximum meets it again.
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let larger = |a: f32, &b: &f32| if b > a { b } else { a };
    let max = lanes.iter().fold(f32::NEG_INFINITY, larger);
    tail.iter().fold(max, larger)
}

/// The sum of `f` over a row.
#[inline(always)]
pub(super) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f(x);
    }
    fold(lanes)
}

/// The sum of `f` over two rows of the same length.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks_a, tail_a) = a.as_chunks::<LANES>();
    let (blocks_b, tail_b) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(tail_a).zip(tail_b) {
        *lane += f(a, b);
    }
    fold(lanes)
}

/// Replaces every value by `f` of it and sums the results.
#[inline(always)]
pub(super) fn map_sum(row: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, tail) = row.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *x = f(*x);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *x = f(*x);
        *lane += *x;
    }
    fold(lanes)
}

/// Adds lanes pairwise.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
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
    /// Rounding of erf, of 1 + erf and of the product, each at most half a unit in the last place of 1.
    const CDF_ABSOLUTE: f64 = 1.5e-7;

    /// erf by its Maclaurin series below 3 and by the continued fraction of erfc above.
    fn erf(x: f64) -> f64 {
        let z = x.abs();
        if z < 3.0 {
            let (mut term, mut sum, mut n) = (z, z, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -z * z / n;
                sum += term / (2.0 * n + 1.0);
            }
            return x.signum() * sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..=80).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
        let erfc = (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt());
        x.signum() * (1.0 - erfc)
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
    fn normal_cdf_agrees_with_f64() {
        for i in -7000..=7000 {
            let x = i as f32 * 1e-3;
            let expected = 0.5 * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
            let error = (f64::from(normal_cdf(x)) - expected).abs();
            assert!(error <= CDF_ABSOLUTE, "Φ({x}): error {error}");
        }
        assert_eq!(normal_cdf(f32::MAX), 1.0);
        assert_eq!(normal_cdf(f32::MIN), 0.0);
        assert!(normal_cdf(f32::NAN).is_nan());
    }

    #[test]
    fn lanes_cover_every_element() {
        for n in [0, 1, 3, 31, 32, 33, 64, 197] {
            let row: Vec<f32> = (0..n).map(|i| i as f32 - 50.0).collect();
            let expected: f32 = row.iter().sum();
            assert_eq!(sum(&row, |x| x), expected);
            assert_eq!(sum2(&row, &row, |a, _| a), expected);
            let mut twice = row.clone();
            assert_eq!(map_sum(&mut twice, |x| 2.0 * x), 2.0 * expected);
            assert!(twice.iter().zip(&row).all(|(t, r)| *t == 2.0 * r));
            let largest = row.last().copied().unwrap_or(f32::NEG_INFINITY);
            assert_eq!(max(&row), largest);
        }
    }
}
