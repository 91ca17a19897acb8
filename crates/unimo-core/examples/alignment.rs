//! Times the alignment kernel: the similarities of a batch of stories, as one step of `objectives.alignment` computes them.
//!
//! `cargo run --release -p unimo-core --example alignment [stories] [slices]` prints the least of several runs in milliseconds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_core::alignment::{Kernel, Temper};

const RUNS: usize = 7;

fn main() {
    let given = |at: usize, default: usize| {
        let argument = std::env::args().nth(at);
        argument.map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (stories, slices) = (given(1, 32), given(2, 64));
    let all = stories * slices;
    let random = &mut ChaCha8Rng::seed_from_u64(0);
    let cosines: Vec<f64> = (0..all * all)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    let sequences: Vec<Vec<usize>> = (0..stories)
        .map(|story| (story * slices..(story + 1) * slices).collect())
        .collect();
    let kernel = Kernel {
        sigma: 1.0,
        band: None,
        temper: Temper::Length,
    };
    let cosine = |a: usize, b: usize| cosines[a * all + b];
    let least = |run: &dyn Fn()| {
        let once = || {
            let start = Instant::now();
            run();
            start.elapsed()
        };
        (0..RUNS).map(|_| once()).min().unwrap_or(Duration::ZERO)
    };
    let similarities = least(&|| drop(black_box(kernel.gram(&sequences, cosine))));
    let of_gram = vec![1.0; stories * stories];
    let gradient = least(&|| drop(black_box(kernel.gradient(&sequences, cosine, &of_gram))));
    println!(
        "{stories} stories of {slices} slices: similarities {:.1} ms, their gradient {:.1} ms",
        1e3 * similarities.as_secs_f64(),
        1e3 * gradient.as_secs_f64()
    );
}
