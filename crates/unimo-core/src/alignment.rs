//! The global alignment kernel: how alike two sequences are, over all ways to align them.
//!
//! Source: Cuturi et al. 2007 and Cuturi 2011, as Sugar (arXiv 2411.00304) compares sequences of images and sentences. An alignment leads from
//! the first elements of both sequences to the last ones by steps of one element in either sequence or in both:
//!
//! ```text
//! d_ij  = (1 - cos_ij) / sigma^2                    half the squared distance of unit vectors, over sigma^2
//! k_ij  = w_ij e^-d_ij / (2 - w_ij e^-d_ij)         in (0, 1]; w_ij = 1, or 1 - |i - j| / T with a band (0 from T on)
//! M_ij  = k_ij (M_i-1,j-1 + M_i-1,j + M_i,j-1)      M_00 = 1, else 0 on the border
//! K     = M_nm                                      the sum over all alignments of the products of k
//! K~    = K(x, y) / sqrt(K(x, x) K(y, y))           in [0, 1], 1 for x = y
//! ```
//!
//! The number of alignments grows fast with the lengths, and products become small, so everything is computed as logarithms, on the host, in
//! f64. `K` is positive definite; `K~` with [`Temper::Length`] need not be.
//!
//! Shape legend: `N`, `M` lengths of two sequences.

use std::num::NonZero;

use serde::{Deserialize, Serialize};

/// What becomes of `log K~`, which falls with the length of the sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temper {
    /// It is divided by the longer length: a mean over the steps of an alignment.
    #[default]
    Length,
    /// It stays as it is.
    None,
}

/// The settings of the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// Distance at which two elements stop being alike: 1 to 1.5 for unit vectors.
    pub sigma: f64,
    /// `T`: elements are only aligned if their places differ by less; `None`: any.
    pub band: Option<usize>,
    /// What becomes of `log K~`.
    pub temper: Temper,
}

/// `log k` of each element of a sequence with each of another, `[N, M]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    rows: usize,
    columns: usize,
    /// Row-major.
    values: Vec<f64>,
}

impl Kernel {
    /// `log k` of each element of one sequence with each of another.
    ///
    /// # Shapes
    ///
    /// - cosine: asked for `i` in `0..N` and `j` in `0..M`
    pub fn local(
        &self,
        [rows, columns]: [usize; 2],
        cosine: impl Fn(usize, usize) -> f64,
    ) -> Local {
        let scale = 1.0 / (self.sigma * self.sigma);
        let value = |i: usize, j: usize| {
            let log = self.weight(i, j).ln() - distance(cosine(i, j)) * scale;
            log - (2.0 - log.exp()).ln()
        };
        let places = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
        Local {
            rows,
            columns,
            values: places.map(|(i, j)| value(i, j)).collect(),
        }
    }

    /// `w` of two places.
    fn weight(&self, i: usize, j: usize) -> f64 {
        self.band.map_or(1.0, |band| {
            (1.0 - i.abs_diff(j) as f64 / band as f64).max(0.0)
        })
    }

    /// `log K` without a logarithm for each pair: rows of `M` are divided by their largest number, whose logarithms add up. `None` where a number
    /// is too small beside it, which a narrow sigma does; then [`Local::log_kernel`] tells.
    fn log_kernel(
        &self,
        [rows, columns]: [usize; 2],
        cosine: impl Fn(usize, usize) -> f64,
    ) -> Option<f64> {
        let scale = 1.0 / (self.sigma * self.sigma);
        let mut before = vec![0.0; columns + 1];
        let mut row = before.clone();
        before[0] = 1.0;
        let mut log = 0.0;
        for i in 0..rows {
            let mut largest = 0.0f64;
            for j in 0..columns {
                let weight = self.weight(i, j);
                let near = weight * (-distance(cosine(i, j)) * scale).exp();
                let reached = near / (2.0 - near) * (before[j] + before[j + 1] + row[j]);
                if reached < LEAST && weight > 0.0 {
                    return None;
                }
                row[j + 1] = reached;
                largest = largest.max(reached);
            }
            if largest == 0.0 {
                // A band leaves no alignment.
                return Some(f64::NEG_INFINITY);
            }
            let factor = 1.0 / largest;
            row.iter_mut().for_each(|number| *number *= factor);
            log += largest.ln();
            before[0] = 0.0;
            std::mem::swap(&mut before, &mut row);
        }
        Some(log + before[columns].ln())
    }

    /// `log K~` after tempering, from `log K` of two sequences with each other and of each with itself.
    pub fn normalised(&self, log: f64, own: [f64; 2], lengths: [usize; 2]) -> f64 {
        // Rounding may put it above 0.
        let log = (log - 0.5 * (own[0] + own[1])).min(0.0);
        log * self.tempering(lengths)
    }

    /// What `log K~` is multiplied by.
    pub fn tempering(&self, [n, m]: [usize; 2]) -> f64 {
        match self.temper {
            Temper::Length => 1.0 / n.max(m).max(1) as f64,
            Temper::None => 1.0,
        }
    }

    /// The similarities of sequences with each other, `K~` after tempering, `[B, B]`, row-major. `cosine` compares two elements by their
    /// numbers, which the sequences list.
    pub fn gram(
        &self,
        sequences: &[Vec<usize>],
        cosine: impl Fn(usize, usize) -> f64 + Sync,
    ) -> Vec<f64> {
        // Each sequence with itself and with those before it.
        let row = |a: usize| -> Vec<f64> {
            let own = &sequences[a];
            let log = |other: &Vec<usize>| {
                let lengths = [own.len(), other.len()];
                let between = |i: usize, j: usize| cosine(own[i], other[j]);
                let found = self.log_kernel(lengths, between);
                found.unwrap_or_else(|| self.local(lengths, between).log_kernel())
            };
            sequences[..=a].iter().map(log).collect()
        };
        let count = sequences.len();
        let elements: usize = sequences.iter().map(Vec::len).sum();
        let logs = rows(count, elements * elements, &row);
        let mut all = vec![1.0; count * count];
        for a in 0..count {
            for b in 0..a {
                let lengths = [a, b].map(|at| sequences[at].len());
                let own = [a, b].map(|at| logs[at][at]);
                let value = self.normalised(logs[a][b], own, lengths).exp();
                all[a * count + b] = value;
                all[b * count + a] = value;
            }
        }
        all
    }
}

impl Kernel {
    /// The gradient of [`gram`](Self::gram) with respect to the cosines that it asks for, `[N, N]`, row-major, for `N` elements of all
    /// sequences. `of_gram` is the gradient of a loss with respect to each similarity, `[B, B]`.
    ///
    /// Of `log K` it is the expected alignment (times the slope of `log k`), so the recursion is not recorded.
    pub fn gradient(
        &self,
        sequences: &[Vec<usize>],
        cosine: impl Fn(usize, usize) -> f64,
        of_gram: &[f64],
    ) -> Vec<f64> {
        let elements = sequences.iter().flatten().max().map_or(0, |last| last + 1);
        let local =
            |a: &[usize], b: &[usize]| self.local([a.len(), b.len()], |i, j| cosine(a[i], b[j]));
        let own: Vec<Local> = sequences.iter().map(|a| local(a, a)).collect();
        let logs: Vec<f64> = own.iter().map(Local::log_kernel).collect();
        let count = sequences.len();
        let mut all = vec![0.0; elements * elements];
        let mut add = |a: &[usize], b: &[usize], own: &Local, factor: f64| {
            let each = own.expected().into_iter().zip(own.values());
            for (at, (expected, log)) in each.enumerate() {
                let (i, j) = (at / own.columns, at % own.columns);
                all[a[i] * elements + b[j]] += factor * expected * self.slope(*log);
            }
        };
        let mut of_own = vec![0.0; count];
        for a in 0..count {
            for b in 0..a {
                let pair = [&sequences[a], &sequences[b]];
                let between = local(pair[0], pair[1]);
                let lengths = pair.map(Vec::len);
                let log = between.log_kernel();
                let value = self.normalised(log, [logs[a], logs[b]], lengths).exp();
                let slope = of_gram[a * count + b] + of_gram[b * count + a];
                let factor = slope * value * self.tempering(lengths);
                add(pair[0], pair[1], &between, factor);
                of_own[a] -= 0.5 * factor;
                of_own[b] -= 0.5 * factor;
            }
        }
        for ((sequence, own), factor) in sequences.iter().zip(&own).zip(of_own) {
            add(sequence, sequence, own, factor);
        }
        all
    }

    /// The slope of `log k` over the cosine, where `log k` is known: `2 / (2 - u)` of `u = w e^-d = 2k / (1 + k)`, over `sigma^2`.
    fn slope(&self, log: f64) -> f64 {
        (1.0 + log.exp()) / (self.sigma * self.sigma)
    }
}

/// `1 - cos`. Rounding may put a cosine above 1.
fn distance(cosine: f64) -> f64 {
    (1.0 - cosine).max(0.0)
}

/// Smaller numbers are not told apart from 0 beside 1, after some more factors.
const LEAST: f64 = 1e-200;

/// Fewer pairs of elements are not worth threads.
const PARALLEL_FROM: usize = 1 << 16;

/// `row` of each number below `count`, on all cores if there is enough to do. The last rows are the longest, so they are dealt in turn.
fn rows(count: usize, pairs: usize, row: &(dyn Fn(usize) -> Vec<f64> + Sync)) -> Vec<Vec<f64>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = if pairs < PARALLEL_FROM {
        1
    } else {
        cores.min(count)
    };
    if threads < 2 {
        return (0..count).map(row).collect();
    }
    let mut all = vec![Vec::new(); count];
    std::thread::scope(|scope| {
        let dealt: Vec<_> = (0..threads)
            .map(|thread| {
                let own = (thread..count).step_by(threads);
                scope.spawn(move || own.map(|at| (at, row(at))).collect::<Vec<_>>())
            })
            .collect();
        for thread in dealt {
            let rows = thread
                .join()
                .expect("invariant: a row of sums does not panic");
            rows.into_iter().for_each(|(at, row)| all[at] = row);
        }
    });
    all
}

/// `log(e^a + e^b + e^c)`.
fn log_sum([a, b, c]: [f64; 3]) -> f64 {
    let (high, rest) = if a >= b && a >= c {
        (a, [b, c])
    } else if b >= c {
        (b, [a, c])
    } else {
        (c, [a, b])
    };
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + rest.map(|x| (x - high).exp()).iter().sum::<f64>().ln_1p()
}

impl Local {
    /// `log k` as it is, row-major.
    ///
    /// # Panics
    ///
    /// Panics if there are not `rows * columns` values.
    pub fn of_values([rows, columns]: [usize; 2], values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns, "values of a grid");
        Self {
            rows,
            columns,
            values,
        }
    }

    /// `log k`, `[N, M]`, row-major.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// `log K`: `-inf` if a band leaves no alignment, or one of the sequences is empty.
    pub fn log_kernel(&self) -> f64 {
        // Two rows of M, each after its border.
        let mut before = vec![f64::NEG_INFINITY; self.columns + 1];
        let mut row = before.clone();
        before[0] = 0.0;
        for own in self.values.chunks(self.columns.max(1)) {
            for (j, log) in own.iter().enumerate() {
                row[j + 1] = log + log_sum([before[j], before[j + 1], row[j]]);
            }
            // M_00 alone is 1 on the border.
            before[0] = f64::NEG_INFINITY;
            std::mem::swap(&mut before, &mut row);
        }
        if self.values.is_empty() {
            return f64::NEG_INFINITY;
        }
        before[self.columns]
    }

    /// The expected alignment: the share of the alignments, by their products, that go through each pair of elements, `[N, M]`, row-major. It is
    /// also the gradient of `log K` with respect to `log k`. All zeros if there is no alignment.
    pub fn expected(&self) -> Vec<f64> {
        let forward = self.through();
        let all = forward.last().copied().unwrap_or(f64::NEG_INFINITY);
        if all == f64::NEG_INFINITY {
            return vec![0.0; self.values.len()];
        }
        // From the end, the sequences reversed.
        let reversed = Self {
            values: self.values.iter().rev().copied().collect(),
            ..*self
        };
        let backward = reversed.through();
        let both = forward.iter().zip(backward.iter().rev()).zip(&self.values);
        // Both count the pair itself.
        both.map(|((before, after), own)| {
            if *own == f64::NEG_INFINITY {
                return 0.0;
            }
            (before + after - own - all).exp()
        })
        .collect()
    }

    /// `log M`, `[N, M]`, row-major.
    fn through(&self) -> Vec<f64> {
        let width = self.columns;
        let mut all = vec![f64::NEG_INFINITY; self.values.len()];
        for i in 0..self.rows {
            for j in 0..width {
                let at = |i: usize, j: usize| all[i * width + j];
                let before = match (i, j) {
                    (0, 0) => 0.0,
                    (0, _) => at(0, j - 1),
                    (_, 0) => at(i - 1, 0),
                    _ => log_sum([at(i - 1, j - 1), at(i - 1, j), at(i, j - 1)]),
                };
                all[i * width + j] = self.values[i * width + j] + before;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
