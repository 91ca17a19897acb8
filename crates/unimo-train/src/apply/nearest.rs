//! The nearest rows of a collection of embeddings: exactly, block by block, or in those cells alone whose centre is near.
//!
//! The product of two rows of length 1 is their cosine. Rows that are equally near keep their order.
//!
//! Cells are those of an inverted file (Sivic and Zisserman 2003; `IVF,Flat` in FAISS): spherical k-means on a sample, each row in the
//! cell of its nearest centre. A search compares the query with all centres and reads the rows of the nearest cells. How many are read
//! follows from the share of true neighbours that are to be found, which is measured against exact search.
//!
//! Shape legend: `N` rows, `E` width, `Q` queries, `C` cells.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::{IntoParallelRefMutIterator, ParallelIterator};
use unimo_core::kernels::dot;

/// A row and how near it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Its product with the query.
    pub score: f32,
    /// Its number.
    pub row: usize,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The nearest rows so far, no more than asked for.
#[derive(Debug, Clone)]
pub struct Nearest {
    count: usize,
    heap: BinaryHeap<Reverse<Near>>,
}

impl Nearest {
    /// None yet, `count` at most.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            heap: BinaryHeap::new(),
        }
    }

    /// Considers a row.
    pub fn offer(&mut self, near: Near) {
        if self.heap.len() < self.count {
            self.heap.push(Reverse(near));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && near > worst.0
        {
            *worst = Reverse(near);
        }
    }

    /// Considers rows that lie one after the other, the first of which is number `first`.
    pub fn read(&mut self, query: &[f32], rows: &[f32], first: usize) {
        for (at, row) in rows.chunks_exact(query.len().max(1)).enumerate() {
            self.offer(Near {
                score: dot(query, row),
                row: first + at,
            });
        }
    }

    /// The rows, the nearest first.
    pub fn sorted(self) -> Vec<Near> {
        let all = self.heap.into_sorted_vec();
        all.into_iter().map(|Reverse(near)| near).collect()
    }
}

/// Queries that are answered together, in one pass over the rows.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    queries: Vec<&'a [f32]>,
    /// Per thread, the nearest rows of each query.
    found: Vec<Vec<Nearest>>,
}

impl<'a> Search<'a> {
    /// Begins a search for the `count` nearest rows of each query.
    pub fn new(queries: Vec<&'a [f32]>, count: usize) -> Self {
        let none = vec![Nearest::new(count); queries.len()];
        Self {
            queries,
            found: vec![none; rayon::current_num_threads()],
        }
    }

    /// Considers rows that lie one after the other, the first of which is number `first`.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, E]`, row-major
    pub fn read(&mut self, rows: &[f32], first: usize) {
        let width = self.queries.first().map_or(1, |query| query.len().max(1));
        let share = (rows.len() / width).div_ceil(self.found.len()).max(1);
        let queries = &self.queries;
        let mut parts: Vec<_> = self
            .found
            .iter_mut()
            .zip(rows.chunks(share * width))
            .enumerate()
            .collect();
        parts.par_iter_mut().for_each(|(part, (found, rows))| {
            // Few rows at a time, so that they stay near the processor for all queries.
            const NEARBY: usize = 64;
            for (at, rows) in rows.chunks(NEARBY * width).enumerate() {
                let first = first + *part * share + at * NEARBY;
                for (query, found) in queries.iter().zip(found.iter_mut()) {
                    found.read(query, rows, first);
                }
            }
        });
    }

    /// The nearest rows of each query, the nearest first.
    pub fn found(self) -> Vec<Vec<Near>> {
        let mut threads = self.found.into_iter();
        let mut all = threads.next().unwrap_or_default();
        for further in threads {
            for (found, further) in all.iter_mut().zip(further) {
                for Reverse(near) in further.heap {
                    found.offer(near);
                }
            }
        }
        all.into_iter().map(Nearest::sorted).collect()
    }
}

/// Rows in cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// Centres of length 1, `[C, E]`.
    pub centres: Vec<f32>,
    /// Where the rows of each cell begin, and last where they end, `[C + 1]`; rows are sorted by cell.
    pub starts: Vec<usize>,
    /// How many cells a search reads.
    pub probes: usize,
    /// The share of the nearest rows that it then found, against exact search.
    pub recall: f64,
    /// How many queries that was measured with.
    pub measured: usize,
}

impl Cells {
    /// The rows of the cells whose centres are nearest to a query, as ranges.
    pub fn near(&self, query: &[f32]) -> Vec<std::ops::Range<usize>> {
        let mut nearest = Nearest::new(self.probes);
        nearest.read(query, &self.centres, 0);
        let cells = nearest.sorted().into_iter();
        cells
            .map(|cell| self.starts[cell.row]..self.starts[cell.row + 1])
            .filter(|rows| !rows.is_empty())
            .collect()
    }
}

/// How cells are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellsConfig {
    /// The share of the nearest rows that a search must find.
    pub recall: f64,
    /// What the draws start from.
    pub seed: u64,
}

/// Of how many nearest rows the share is measured.
pub const NEIGHBOURS: usize = 10;
/// Rows of the sample per cell: FAISS asks for 39 at least.
const SAMPLED: usize = 64;
/// Rounds of k-means.
const ROUNDS: usize = 8;
/// Rows that are compared with all centres at once.
const BLOCK: usize = 4096;

impl CellsConfig {
    /// With how many queries the share is measured, about.
    pub const MEASURED: usize = 256;

    /// Sorts rows into cells, as many as the square root of their number. Returns the cells, and the former number of each row.
    ///
    /// `queries` are of the kind that will be asked, such as texts for images; without any, some of the rows are asked, which leaves
    /// out the row itself.
    ///
    /// # Shapes
    ///
    /// - rows: `[N, E]`, row-major; sorted in place
    /// - queries: `[Q, E]`, row-major
    pub fn sort(
        &self,
        rows: &mut [f32],
        width: usize,
        queries: Option<&[f32]>,
        device: &Device,
    ) -> (Cells, Vec<usize>) {
        let count = rows.len() / width;
        let mut draws = ChaCha8Rng::seed_from_u64(self.seed);
        let mut drawn = |of: usize| (draws.next_u64() % of.max(1) as u64) as usize;
        let cells = (count as f64).sqrt().ceil().max(1.0) as usize;
        let row = |rows: &[f32], at: usize| rows[at * width..][..width].to_vec();
        let sampled = (SAMPLED * cells).min(count);
        let sample: Vec<f32> = if sampled == count {
            rows.to_vec()
        } else {
            (0..sampled).flat_map(|_| row(rows, drawn(count))).collect()
        };
        let mut centres: Vec<f32> = (0..cells)
            .flat_map(|_| row(&sample, drawn(sampled)))
            .collect();
        for _ in 0..ROUNDS {
            let cell_of = assign(&sample, &centres, width, device);
            centres = means(&sample, &cell_of, centres, width);
        }
        let cell_of = assign(rows, &centres, width, device);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|at| cell_of[*at]);
        let mut starts = vec![0; cells + 1];
        for cell in &cell_of {
            starts[cell + 1] += 1;
        }
        for cell in 0..cells {
            starts[cell + 1] += starts[cell];
        }
        permute(rows, width, &order);

        let asked: Vec<(Vec<f32>, Option<usize>)> = match queries {
            Some(queries) => {
                let all = queries.len() / width;
                let every = all.div_ceil(Self::MEASURED).max(1);
                (0..all)
                    .step_by(every)
                    .map(|at| (row(queries, at), None))
                    .collect()
            }
            None => (0..Self::MEASURED.min(count))
                .map(|_| drawn(count))
                .map(|at| (row(rows, at), Some(at)))
                .collect(),
        };
        let mut search = Search::new(
            asked.iter().map(|(query, _)| query.as_slice()).collect(),
            NEIGHBOURS + 1,
        );
        for (at, block) in rows.chunks(BLOCK * width).enumerate() {
            search.read(block, at * BLOCK);
        }
        // For each true neighbour, how many cells must be read to find it.
        let mut needed = Vec::new();
        for ((query, own), found) in asked.iter().zip(search.found()) {
            let mut nearest = Nearest::new(cells);
            nearest.read(query, &centres, 0);
            let mut rank = vec![0; cells];
            for (at, cell) in nearest.sorted().into_iter().enumerate() {
                rank[cell.row] = at;
            }
            let others = found.into_iter().filter(|near| Some(near.row) != *own);
            for near in others.take(NEIGHBOURS) {
                let cell = starts.partition_point(|start| *start <= near.row) - 1;
                needed.push(rank[cell] + 1);
            }
        }
        needed.sort_unstable();
        let least = (self.recall * needed.len() as f64).ceil() as usize;
        let probes = needed
            .get(least.saturating_sub(1))
            .copied()
            .unwrap_or(cells);
        let within = needed.partition_point(|needed| *needed <= probes);
        let cells = Cells {
            centres,
            starts,
            probes,
            recall: within as f64 / needed.len().max(1) as f64,
            measured: asked.len(),
        };
        (cells, order)
    }
}

/// The nearest centre of each row.
///
/// # Shapes
///
/// - rows: `[N, E]`; centres: `[C, E]`
fn assign(rows: &[f32], centres: &[f32], width: usize, device: &Device) -> Vec<usize> {
    let matrix = |values: &[f32]| {
        let shape = [values.len() / width, width];
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), device)
    };
    let centres = matrix(centres).transpose();
    let mut all = Vec::with_capacity(rows.len() / width);
    for block in rows.chunks(BLOCK * width) {
        let nearest: Tensor<2, Int> = matrix(block).matmul(centres.clone()).argmax(1);
        let data = nearest.into_data().convert::<i64>();
        all.extend(data.iter::<i64>().map(|cell| cell.max(0) as usize));
    }
    all
}

/// The mean of the rows of each cell, of length 1; a cell without rows keeps its centre.
fn means(rows: &[f32], cell_of: &[usize], before: Vec<f32>, width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f32; before.len()];
    for (row, cell) in rows.chunks_exact(width).zip(cell_of) {
        for (sum, value) in sums[cell * width..][..width].iter_mut().zip(row) {
            *sum += value;
        }
    }
    for (sum, before) in sums.chunks_exact_mut(width).zip(before.chunks_exact(width)) {
        let length = dot(sum, sum).sqrt();
        if length > f32::EPSILON {
            sum.iter_mut().for_each(|value| *value /= length);
        } else {
            sum.copy_from_slice(before);
        }
    }
    sums
}

/// Brings rows into an order in place: row `i` becomes the former row `order[i]`.
fn permute(rows: &mut [f32], width: usize, order: &[usize]) {
    let mut done = vec![false; order.len()];
    let mut kept = vec![0.0f32; width];
    for start in 0..order.len() {
        if done[start] {
            continue;
        }
        kept.copy_from_slice(&rows[start * width..][..width]);
        let mut at = start;
        while order[at] != start {
            let from = order[at];
            rows.copy_within(from * width..(from + 1) * width, at * width);
            done[at] = true;
            at = from;
        }
        rows[at * width..][..width].copy_from_slice(&kept);
        done[at] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of length 1 around some directions.
    fn rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut draws = ChaCha8Rng::seed_from_u64(seed);
        let mut unit = || draws.next_u32() as f32 / u32::MAX as f32 - 0.5;
        let directions: Vec<f32> = (0..12 * width).map(|_| unit()).collect();
        let mut all = Vec::new();
        for at in 0..count {
            let around = &directions[at % 12 * width..][..width];
            let row: Vec<f32> = around.iter().map(|v| v + 0.4 * unit()).collect();
            let length = dot(&row, &row).sqrt();
            all.extend(row.iter().map(|v| v / length));
        }
        all
    }

    /// By sorting everything.
    fn sorted(rows: &[f32], query: &[f32], count: usize) -> Vec<usize> {
        let mut all: Vec<Near> = rows
            .chunks_exact(query.len())
            .enumerate()
            .map(|(row, values)| Near {
                score: dot(query, values),
                row,
            })
            .collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().take(count).map(|near| near.row).collect()
    }

    #[test]
    fn blocks_and_threads_change_nothing() {
        const WIDTH: usize = 21;
        let rows = rows(500, WIDTH, 1);
        // The last query is nearest to two equal rows.
        let twice = [rows.clone(), rows[..WIDTH].to_vec()].concat();
        let queries: Vec<&[f32]> = [7, 300, 0].map(|at| &rows[at * WIDTH..][..WIDTH]).to_vec();
        for block in [1, 33, 501, 1000] {
            let mut search = Search::new(queries.clone(), 9);
            for (at, part) in twice.chunks(block * WIDTH).enumerate() {
                search.read(part, at * block);
            }
            for (query, found) in queries.iter().zip(search.found()) {
                let found: Vec<usize> = found.iter().map(|near| near.row).collect();
                assert_eq!(found, sorted(&twice, query, 9), "{block}");
            }
        }
        let mut search = Search::new(queries, 2);
        search.read(&twice, 0);
        let last: Vec<usize> = search.found()[2].iter().map(|near| near.row).collect();
        assert_eq!(last, [0, 500]);
    }

    #[test]
    fn rows_are_sorted_in_place() {
        let mut rows: Vec<f32> = (0..10).map(|i| i as f32).collect();
        permute(&mut rows, 2, &[3, 0, 2, 4, 1]);
        assert_eq!(rows, [6.0, 7.0, 0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 2.0, 3.0]);
    }

    /// Cells hold every row once, and a search in those that are read finds the share that it was made for.
    #[cfg(feature = "flex")]
    #[test]
    fn cells_find_what_they_say() {
        const WIDTH: usize = 16;
        let before = rows(900, WIDTH, 2);
        let mut after = before.clone();
        let config = CellsConfig {
            recall: 0.9,
            seed: 3,
        };
        let (cells, order) = config.sort(&mut after, WIDTH, None, &Device::flex());
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..900));
        for (at, former) in order.iter().enumerate() {
            assert_eq!(
                after[at * WIDTH..][..WIDTH],
                before[former * WIDTH..][..WIDTH]
            );
        }
        assert_eq!((cells.starts[0], cells.starts.len()), (0, 31));
        assert!(cells.starts.is_sorted() && cells.starts[30] == 900);
        assert!(cells.recall >= 0.9 && cells.probes < 30, "{cells:?}");
        // Other queries than those it was measured with.
        let (mut found, mut asked) = (0, 0);
        for query in rows(60, WIDTH, 2).chunks_exact(WIDTH) {
            let mut nearest = Nearest::new(NEIGHBOURS);
            for rows in cells.near(query) {
                nearest.read(
                    query,
                    &after[rows.start * WIDTH..rows.end * WIDTH],
                    rows.start,
                );
            }
            let found_rows: Vec<usize> = nearest.sorted().iter().map(|near| near.row).collect();
            let exact = sorted(&after, query, NEIGHBOURS);
            found += exact.iter().filter(|row| found_rows.contains(row)).count();
            asked += exact.len();
        }
        let share = found as f64 / asked as f64;
        assert!(share > 0.85, "{share}");
        // With every row asked for, every cell is read.
        let whole = CellsConfig {
            recall: 1.0,
            ..config
        };
        let (cells, _) = whole.sort(&mut after, WIDTH, Some(&before), &Device::flex());
        assert_eq!(cells.recall, 1.0);
    }
}
