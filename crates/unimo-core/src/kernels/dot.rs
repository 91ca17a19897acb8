//! The product of two rows of numbers, for searches among embeddings.

/// Numbers that are added side by side, so that the processor adds several at once. The number is fixed, so that the width of the
/// machine's vectors does not change the result.
const LANES: usize = 16;

/// The sum of the products of the numbers of two rows, which have the same length. It is the cosine of rows of length 1.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(feature = "flex")]
    {
        super::buffers::vectorized(|| in_lanes(a, b))
    }
    #[cfg(not(feature = "flex"))]
    {
        in_lanes(a, b)
    }
}

#[inline(always)]
fn in_lanes(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_sums_of_products() {
        // Some forty roundings of numbers up to 1.
        const TOLERANCE: f32 = 1e-5;
        let a: Vec<f32> = (0..37).map(|i| i as f32 / 37.0).collect();
        let b: Vec<f32> = (0..37).map(|i| 1.0 - i as f32 / 74.0).collect();
        let sum: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert!((dot(&a, &b) - sum).abs() < TOLERANCE);
        assert_eq!(dot(&[], &[]), 0.0);
        // Instruction sets add in the same order.
        assert_eq!(dot(&a, &b).to_bits(), in_lanes(&a, &b).to_bits());
    }
}
