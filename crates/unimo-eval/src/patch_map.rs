//! Values over an image's patches as scores of boxes: which of several boxes does a map mean?
//!
//! Source: ALBEF (Li et al. 2021), weakly supervised grounding. The map is enlarged to pixels by bicubic interpolation. The score of a
//! box is the sum of the pixels inside of it over the square root of its area, so that neither small nor large boxes win by their size.
//! The best box counts if its IoU with the right one is at least 0.5.

use crate::boxes::{BoundingBox, FOUND_AT, iou};

/// Values over a grid of equal cells that cover an image, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchMap {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl PatchMap {
    /// A map of `rows x columns` values.
    ///
    /// # Panics
    ///
    /// Panics if there is no value, or another number of them.
    pub fn new([rows, columns]: [usize; 2], values: Vec<f32>) -> Self {
        assert!(
            rows > 0 && columns > 0 && values.len() == rows * columns,
            "a map of {rows} x {columns} has no {} values",
            values.len()
        );
        Self {
            rows,
            columns,
            values,
        }
    }

    /// Rows and columns.
    pub fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The value of the cell that holds a point, given in shares of width and height; points outside have the value of the edge.
    pub fn at(&self, [x, y]: [f32; 2]) -> f32 {
        let cell = |at: f32, count: usize| ((at * count as f32).max(0.0) as usize).min(count - 1);
        self.values[cell(y, self.rows) * self.columns + cell(x, self.columns)]
    }

    /// The map with `rows x columns` cells, by bicubic interpolation with `a = -0.75` and edges repeated, as PyTorch's
    /// `interpolate(mode = "bicubic", align_corners = false)`.
    ///
    /// # Panics
    ///
    /// Panics if it is to have no cell.
    #[must_use]
    pub fn enlarged(&self, [rows, columns]: [usize; 2]) -> Self {
        let (across, down) = (taps(self.columns, columns), taps(self.rows, rows));
        let mut wide = Vec::with_capacity(self.rows * columns);
        for row in self.values.chunks(self.columns) {
            wide.extend(across.iter().map(|taps| mixed(taps, |at| row[at])));
        }
        let mut values = Vec::with_capacity(rows * columns);
        for taps in &down {
            values.extend((0..columns).map(|x| mixed(taps, |at| wide[at * columns + x])));
        }
        Self::new([rows, columns], values)
    }

    /// The score of each box, given as x1, y1, x2, y2 in shares of width and height: the sum of the cells inside over the square root
    /// of their number. Edges are moved to the nearest edge of a cell; a box has at least one cell.
    pub fn scores(&self, boxes: &[[f32; 4]]) -> Vec<f64> {
        // Sums of all cells above and to the left.
        let width = self.columns + 1;
        let mut sums = vec![0.0f64; width * (self.rows + 1)];
        for (y, row) in self.values.chunks(self.columns).enumerate() {
            let mut sum = 0.0;
            for (x, value) in row.iter().enumerate() {
                sum += f64::from(*value);
                sums[(y + 1) * width + x + 1] = sums[y * width + x + 1] + sum;
            }
        }
        let edges = |first: f32, last: f32, count: usize| {
            let place = |share: f32| ((share * count as f32).round().max(0.0) as usize).min(count);
            let first = place(first).min(count - 1);
            (first, place(last).max(first + 1))
        };
        let score = |[x1, y1, x2, y2]: &[f32; 4]| {
            let (left, right) = edges(*x1, *x2, self.columns);
            let (top, bottom) = edges(*y1, *y2, self.rows);
            let sum = |y: usize, x: usize| sums[y * width + x];
            let inside = sum(bottom, right) - sum(top, right) - sum(bottom, left) + sum(top, left);
            inside / (((right - left) * (bottom - top)) as f64).sqrt()
        };
        boxes.iter().map(score).collect()
    }
}

/// The place of the highest score above 0, the first of equals; `None` if no score is above 0: then the map means no box.
pub fn best(scores: &[f64]) -> Option<usize> {
    let mut best = None;
    let mut highest = 0.0;
    for (at, score) in scores.iter().enumerate() {
        if *score > highest {
            (best, highest) = (Some(at), *score);
        }
    }
    best
}

/// Most edges of sliding boxes along one side.
const EDGES: usize = 17;

/// All boxes whose edges are edges of patches, for an image of `grid x grid` patches: candidates where no box is known. Of a finer grid
/// than 16 x 16 they are at 17 edges, evenly spread.
pub fn sliding(grid: usize) -> Vec<[f32; 4]> {
    let count = grid.clamp(1, EDGES - 1);
    let edge = |at: usize| {
        let patch = (at * grid + count / 2) / count;
        patch as f32 / grid.max(1) as f32
    };
    let spans: Vec<[f32; 2]> = (0..count)
        .flat_map(|first| (first + 1..=count).map(move |last| [edge(first), edge(last)]))
        .collect();
    spans
        .iter()
        .flat_map(|[y1, y2]| spans.iter().map(move |[x1, x2]| [*x1, *y1, *x2, *y2]))
        .collect()
}

/// How often the right one of several boxes was chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BoxChoices {
    /// Texts that a box was chosen for.
    pub texts: usize,
    /// Texts whose chosen box has an IoU of at least 0.5 with the right one.
    pub found: usize,
    /// Texts of which some candidate has that: no more can be found.
    pub within_reach: usize,
    /// Sum over texts of the share of candidates that have it: what a random choice would find.
    pub by_chance: f64,
}

impl BoxChoices {
    /// Adds a text: the candidates, the one that was chosen, if any, and the right box. Returns the IoU of the chosen one, 0 without.
    ///
    /// # Panics
    ///
    /// Panics if `chosen` is no candidate.
    pub fn add(
        &mut self,
        chosen: Option<usize>,
        candidates: &[BoundingBox],
        right: &BoundingBox,
    ) -> f64 {
        let overlaps: Vec<f64> = candidates.iter().map(|one| iou(one, right)).collect();
        let counts = overlaps.iter().filter(|iou| **iou >= FOUND_AT).count();
        let reached = chosen.map_or(0.0, |chosen| overlaps[chosen]);
        self.texts += 1;
        self.found += usize::from(reached >= FOUND_AT);
        self.within_reach += usize::from(counts > 0);
        self.by_chance += counts as f64 / overlaps.len().max(1) as f64;
        reached
    }

    /// Share of texts whose box was found; `None` without texts.
    pub fn accuracy(&self) -> Option<f64> {
        self.share(self.found as f64)
    }

    /// The share that the best candidate of each would reach; `None` without texts.
    pub fn recall(&self) -> Option<f64> {
        self.share(self.within_reach as f64)
    }

    /// The share that a random candidate would reach; `None` without texts.
    pub fn chance(&self) -> Option<f64> {
        self.share(self.by_chance)
    }

    fn share(&self, sum: f64) -> Option<f64> {
        (self.texts > 0).then(|| sum / self.texts as f64)
    }
}

/// Four values with their weights.
type Taps = [(usize, f64); 4];

fn mixed(taps: &Taps, value: impl Fn(usize) -> f32) -> f32 {
    let sum: f64 = taps.iter().map(|(at, w)| w * f64::from(value(*at))).sum();
    sum as f32
}

/// For each of `to` values the four of `from` values that it is mixed of.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let last = from as isize - 1;
    let of = |at: usize| {
        let place = (at as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let (first, t) = (place.floor(), place - place.floor());
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        std::array::from_fn(|tap| {
            let from = first as isize - 1 + tap as isize;
            (from.clamp(0, last) as usize, weights[tap])
        })
    };
    (0..to).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 values around 1 that are rounded twice.
    const TOLERANCE: f32 = 1e-6;

    #[test]
    fn a_constant_stays_and_a_map_of_the_same_size_is_the_same() {
        let values = vec![0.5, -1.0, 2.0, 0.25, 3.0, 1.0];
        let map = PatchMap::new([2, 3], values);
        assert_eq!(map.enlarged([2, 3]), map);
        let even = PatchMap::new([1, 2], vec![1.5; 2]).enlarged([5, 7]);
        assert!(even.values().iter().all(|v| (v - 1.5).abs() < TOLERANCE));
        assert_eq!((map.at([0.9, 0.4]), map.at([1.0, 1.0])), (2.0, 1.0));
    }

    /// Where a map has one 1, its enlargement shows the kernel.
    #[test]
    fn between_cells_it_is_keys_kernel() {
        let map = PatchMap::new([1, 4], vec![0.0, 0.0, 1.0, 0.0]);
        let twice = map.enlarged([1, 8]);
        // Pixel 4 lies at 1.75: a quarter from cell 2; pixel 2 at 0.75: one and a quarter from it.
        let near = |x: f64| 1.25 * x * x * x - 2.25 * x * x + 1.0;
        let far = |x: f64| -0.75 * (x * x * x - 5.0 * x * x + 8.0 * x - 4.0);
        for (pixel, expected) in [(4, near(0.25)), (3, near(0.75)), (2, far(1.25))] {
            let found = twice.values()[pixel];
            assert!(
                (f64::from(found) - expected).abs() < 1e-6,
                "{pixel}: {found}"
            );
        }
    }

    #[test]
    fn the_score_is_the_sum_over_the_root_of_the_area() {
        let map = PatchMap::new([2, 4], vec![1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 5.0]);
        let boxes = [
            [0.0, 0.0, 0.5, 1.0],
            [0.0, 0.0, 1.0, 1.0],
            [0.74, 0.5, 1.0, 1.0],
            [0.5, 0.0, 0.5, 0.0],
        ];
        let scores = map.scores(&boxes);
        assert_eq!(scores, [5.0, 15.0 / 8f64.sqrt(), 5.0, 0.0]);
        assert_eq!(best(&scores), Some(1));
        assert_eq!((best(&[0.0, -1.0]), best(&[2.0, 2.0])), (None, Some(0)));
    }

    #[test]
    fn sliding_boxes_are_all_there_are_on_a_coarse_grid() {
        let boxes = sliding(2);
        assert_eq!(boxes.len(), 9);
        assert!(boxes.contains(&[0.5, 0.0, 1.0, 0.5]) && boxes.contains(&[0.0, 0.0, 1.0, 1.0]));
        assert_eq!(sliding(24).len(), 136 * 136);
        let near = |edge: &f32| (edge * 24.0 - (edge * 24.0).round()).abs() < 1e-4;
        let whole = |of: [f32; 4]| of.iter().all(near);
        assert!(sliding(24).into_iter().all(whole));
    }

    #[test]
    fn choices_are_counted_beside_chance_and_what_is_within_reach() {
        let of = |corners: [f64; 4]| BoundingBox::new(corners).unwrap();
        let candidates = [
            of([0.0, 0.0, 0.5, 1.0]),
            of([0.5, 0.0, 1.0, 1.0]),
            of([0.0, 0.0, 1.0, 1.0]),
            of([0.0, 0.0, 0.1, 0.1]),
        ];
        let mut all = BoxChoices::default();
        assert_eq!(all.accuracy(), None);
        // An IoU of one half counts.
        assert_eq!(all.add(Some(2), &candidates, &candidates[0]), 0.5);
        assert_eq!(all.add(Some(1), &candidates, &candidates[0]), 0.0);
        assert_eq!(all.add(None, &candidates[3..], &candidates[0]), 0.0);
        assert_eq!((all.texts, all.found, all.within_reach), (3, 1, 2));
        assert_eq!(all.chance(), Some(1.0 / 3.0));
        assert_eq!(all.recall(), Some(2.0 / 3.0));
    }
}
