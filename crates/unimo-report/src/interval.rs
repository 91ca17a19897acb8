//! Confidence intervals of shares.

/// 95 % confidence interval of a share out of `count` trials (Wilson 1927).
pub(crate) fn wilson(share: f64, count: u64) -> (f64, f64) {
    /// 97.5 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_985;
    let n = count as f64;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n)
        * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n))
            .max(0.0)
            .sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds from Wilson's formula at its ends: never outside 0 to 1, and not empty for no or all hits.
    #[test]
    fn intervals_stay_inside_the_unit_range() {
        assert_eq!(wilson(0.0, 100).0, 0.0);
        assert!((wilson(0.0, 100).1 - 0.0370).abs() < 1e-4);
        assert!((wilson(1.0, 100).0 - 0.9630).abs() < 1e-4);
        assert!(wilson(1.0, 100).1 <= 1.0);
    }
}
