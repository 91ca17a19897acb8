//! Properties of the kernel. `tests/tests/sugar.rs` compares it with a sum over all alignments.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// f64 rounding over sums of a few hundred terms.
const ROUNDING: f64 = 1e-12;

const WHOLE: Kernel = Kernel {
    sigma: 1.2,
    band: None,
    temper: Temper::None,
};

type Vectors = Vec<Vec<f64>>;

/// A sequence of unit vectors.
fn sequence(random: &mut ChaCha8Rng, length: usize, width: usize) -> Vectors {
    let vector = |random: &mut ChaCha8Rng| {
        let values: Vec<f64> = (0..width).map(|_| random.random_range(-1.0..1.0)).collect();
        let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        values.into_iter().map(|x| x / norm).collect()
    };
    (0..length).map(|_| vector(random)).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn local(kernel: &Kernel, x: &Vectors, y: &Vectors) -> Local {
    kernel.local([x.len(), y.len()], |i, j| cosine(&x[i], &y[j]))
}

/// The similarities of sequences with each other.
fn gram(kernel: &Kernel, sequences: &[Vectors]) -> Vec<f64> {
    let all: Vectors = sequences.iter().flatten().cloned().collect();
    let mut next = 0..;
    let numbers = sequences
        .iter()
        .map(|s| next.by_ref().take(s.len()).collect());
    let numbers: Vec<Vec<usize>> = numbers.collect();
    kernel.gram(&numbers, |a, b| cosine(&all[a], &all[b]))
}

fn similarity(kernel: &Kernel, x: &Vectors, y: &Vectors) -> f64 {
    gram(kernel, &[x.clone(), y.clone()])[1]
}

#[test]
fn it_is_symmetric_and_one_for_equal_sequences() {
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    for temper in [Temper::None, Temper::Length] {
        for band in [None, Some(2), Some(4)] {
            let kernel = Kernel {
                temper,
                band,
                ..WHOLE
            };
            let (x, y) = (sequence(random, 4, 3), sequence(random, 5, 3));
            let (one, other) = (local(&kernel, &x, &y), local(&kernel, &y, &x));
            assert!((one.log_kernel() - other.log_kernel()).abs() < ROUNDING);
            assert!((similarity(&kernel, &x, &x) - 1.0).abs() < ROUNDING);
            let between = similarity(&kernel, &x, &y);
            assert!((0.0..1.0).contains(&between), "{between}");
        }
    }
}

#[test]
fn one_element_each_gives_the_local_kernel() {
    let random = &mut ChaCha8Rng::seed_from_u64(2);
    let (x, y) = (sequence(random, 1, 3), sequence(random, 1, 3));
    let distance = (1.0 - cosine(&x[0], &y[0])) / (WHOLE.sigma * WHOLE.sigma);
    let expected = 1.0 / (2.0 * distance.exp() - 1.0);
    assert!((local(&WHOLE, &x, &y).log_kernel().exp() - expected).abs() < ROUNDING);
}

#[test]
fn both_sequences_reversed_are_as_alike() {
    let random = &mut ChaCha8Rng::seed_from_u64(3);
    let (mut x, mut y) = (sequence(random, 6, 4), sequence(random, 3, 4));
    let before = local(&WHOLE, &x, &y).log_kernel();
    x.reverse();
    y.reverse();
    assert!((local(&WHOLE, &x, &y).log_kernel() - before).abs() < ROUNDING);
}

/// Delannoy's number of paths from a corner to the other.
fn delannoy(n: usize, m: usize) -> f64 {
    if n == 0 || m == 0 {
        return 1.0;
    }
    delannoy(n - 1, m - 1) + delannoy(n - 1, m) + delannoy(n, m - 1)
}

#[test]
fn with_a_wide_sigma_it_counts_alignments() {
    let random = &mut ChaCha8Rng::seed_from_u64(4);
    let wide = Kernel {
        sigma: 1e6,
        ..WHOLE
    };
    assert_eq!(delannoy(3, 4), 129.0);
    for (n, m) in [(4, 5), (1, 7), (6, 6)] {
        let (x, y) = (sequence(random, n, 3), sequence(random, m, 3));
        let count = local(&wide, &x, &y).log_kernel().exp();
        let expected = delannoy(n - 1, m - 1);
        // Each pair of a path is off by 1e-12.
        assert!((count / expected - 1.0).abs() < 1e-9, "{count}");
    }
}

/// The lowest eigenvalue of a symmetric matrix, by Jacobi's rotations.
fn lowest_eigenvalue(mut a: Vec<f64>, n: usize) -> f64 {
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                let (app, aqq, apq) = (a[p * n + p], a[q * n + q], a[p * n + q]);
                if apq.abs() < 1e-300 {
                    continue;
                }
                let theta = 0.5 * (2.0 * apq).atan2(aqq - app);
                let (s, c) = theta.sin_cos();
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    a[k * n + p] = c * x - s * y;
                    a[k * n + q] = s * x + c * y;
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    a[p * n + k] = c * x - s * y;
                    a[q * n + k] = s * x + c * y;
                }
            }
        }
    }
    (0..n).map(|i| a[i * n + i]).fold(f64::INFINITY, f64::min)
}

#[test]
fn gram_matrices_are_positive_semi_definite() {
    let random = &mut ChaCha8Rng::seed_from_u64(5);
    assert!((lowest_eigenvalue(vec![2.0, 1.0, 1.0, 2.0], 2) - 1.0).abs() < ROUNDING);
    let sequences: Vec<Vectors> = (0..20)
        .map(|_| {
            let length = random.random_range(1..=7);
            sequence(random, length, 3)
        })
        .collect();
    for sigma in [0.3, 0.7, 1.0, 1.5, 3.0] {
        for band in [None, Some(3)] {
            let kernel = Kernel {
                sigma,
                band,
                ..WHOLE
            };
            let lowest = lowest_eigenvalue(gram(&kernel, &sequences), sequences.len());
            assert!(lowest > -1e-9, "sigma {sigma}, band {band:?}: {lowest}");
        }
    }
}

/// A slice more changes a story less than a slice fewer, and that less than another order.
#[test]
fn repeating_changes_less_than_dropping_and_that_less_than_another_order() {
    let random = &mut ChaCha8Rng::seed_from_u64(6);
    let kernel = Kernel {
        sigma: 1.0,
        ..WHOLE
    };
    for _ in 0..20 {
        let x = sequence(random, 5, 16);
        let mut repeated = x.clone();
        repeated.insert(2, x[2].clone());
        let mut dropped = x.clone();
        dropped.remove(2);
        let order = [3, 0, 4, 2, 1];
        let shuffled = order.iter().map(|at| x[*at].clone()).collect();
        let of = |y: &Vectors| similarity(&kernel, &x, y);
        let (repeated, dropped, shuffled) = (of(&repeated), of(&dropped), of(&shuffled));
        assert!(
            repeated > dropped && dropped > shuffled,
            "{repeated} {dropped} {shuffled}"
        );
    }
}

/// The expected alignment is the gradient of `log K`, and every alignment has a pair in each row and column.
#[test]
fn the_expected_alignment_is_the_gradient() {
    const STEP: f64 = 1e-5;
    // Of central differences: the third derivative times the step squared.
    const TOLERANCE: f64 = 1e-9;
    let random = &mut ChaCha8Rng::seed_from_u64(7);
    for band in [None, Some(3)] {
        let kernel = Kernel { band, ..WHOLE };
        let (x, y) = (sequence(random, 4, 3), sequence(random, 5, 3));
        let own = local(&kernel, &x, &y);
        let expected = own.expected();
        for at in 0..expected.len() {
            let moved = |by: f64| {
                let mut values = own.values().to_vec();
                values[at] += by;
                Local::of_values([4, 5], values).log_kernel()
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            // Pairs outside the band stay at -inf.
            let slope = if slope.is_nan() { 0.0 } else { slope };
            assert!(
                (slope - expected[at]).abs() < TOLERANCE,
                "{at}: {slope} {}",
                expected[at]
            );
        }
        for row in expected.chunks(5) {
            assert!(row.iter().sum::<f64>() > 1.0 - ROUNDING);
        }
        assert!((expected[0] - 1.0).abs() < ROUNDING && (expected[19] - 1.0).abs() < ROUNDING);
    }
}

#[test]
fn a_band_may_leave_no_alignment_and_long_sequences_do_not_overflow() {
    let random = &mut ChaCha8Rng::seed_from_u64(8);
    let narrow = Kernel {
        band: Some(2),
        ..WHOLE
    };
    let (x, y) = (sequence(random, 2, 3), sequence(random, 6, 3));
    let own = local(&narrow, &x, &y);
    assert_eq!(own.log_kernel(), f64::NEG_INFINITY);
    assert_eq!(own.expected(), vec![0.0; 12]);
    assert_eq!(similarity(&narrow, &x, &y), 0.0);
    assert_eq!(
        local(&WHOLE, &Vec::new(), &y).log_kernel(),
        f64::NEG_INFINITY
    );
    let (long, other) = (sequence(random, 900, 3), sequence(random, 800, 3));
    let strict = Kernel {
        sigma: 0.05,
        ..WHOLE
    };
    for kernel in [
        Kernel {
            sigma: 1e3,
            ..WHOLE
        },
        strict,
    ] {
        assert!(local(&kernel, &long, &other).log_kernel().is_finite());
    }
}

/// Central differences of a sum of similarities with respect to every cosine.
#[test]
fn the_gradient_of_similarities_is_that_of_finite_differences() {
    const STEP: f64 = 1e-6;
    // f64 rounding over the step.
    const TOLERANCE: f64 = 1e-8;
    let random = &mut ChaCha8Rng::seed_from_u64(9);
    let sequences = vec![vec![0, 1, 2], vec![3, 4], vec![5, 6, 7, 8]];
    let all = sequence(random, 9, 4);
    // Below 1, so that no cosine is cut.
    let cosines: Vec<f64> = all
        .iter()
        .flat_map(|a| all.iter().map(move |b| 0.9 * cosine(a, b)))
        .collect();
    let of_gram: Vec<f64> = (0..9).map(|_| random.random_range(-1.0..1.0)).collect();
    for temper in [Temper::None, Temper::Length] {
        for band in [None, Some(3)] {
            let kernel = Kernel {
                temper,
                band,
                ..WHOLE
            };
            let sum = |cosines: &[f64]| -> f64 {
                let gram = kernel.gram(&sequences, |a, b| cosines[a * 9 + b]);
                gram.iter().zip(&of_gram).map(|(y, g)| y * g).sum()
            };
            let gradient = kernel.gradient(&sequences, |a, b| cosines[a * 9 + b], &of_gram);
            for at in 0..cosines.len() {
                let moved = |by: f64| {
                    let mut cosines = cosines.clone();
                    cosines[at] += by;
                    sum(&cosines)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                assert!(
                    (slope - gradient[at]).abs() < TOLERANCE,
                    "{at}: {slope} {}",
                    gradient[at]
                );
            }
        }
    }
}

/// Without logarithms the kernel is the same, and where it cannot be told so, nothing is said.
#[test]
fn scaled_rows_give_what_logarithms_give() {
    // Rounding of some thousand products.
    const TOLERANCE: f64 = 1e-11;
    let random = &mut ChaCha8Rng::seed_from_u64(10);
    let mut told = 0;
    for sigma in [0.05, 0.3, 1.0, 100.0] {
        for band in [None, Some(3), Some(70)] {
            let kernel = Kernel {
                sigma,
                band,
                ..WHOLE
            };
            for (n, m) in [(1, 1), (5, 4), (64, 60)] {
                let (x, y) = (sequence(random, n, 3), sequence(random, m, 3));
                let expected = local(&kernel, &x, &y).log_kernel();
                let found = kernel.log_kernel([n, m], |i, j| cosine(&x[i], &y[j]));
                let Some(found) = found else {
                    assert!(sigma < 1.0);
                    continue;
                };
                told += 1;
                let same = found == expected
                    || (found - expected).abs() < TOLERANCE * (1.0 + expected.abs());
                assert!(same, "{sigma} {band:?} {n} {m}: {found} {expected}");
            }
        }
    }
    assert!(told > 20, "{told}");
}
