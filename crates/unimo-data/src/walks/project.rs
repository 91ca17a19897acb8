//! A view becomes cells around the agent: each pixel by its depth, the greatest value in each cell.
//!
//! Shape legend: `H x W` pixels, `M` cells on a side, `F` features of a pixel.
//!
//! As in WS-MGMap (arXiv 2210.07506), `ComputeSpatialLocs` and `ProjectToGroundPlane` of its release, but for the place of a pixel, which is its
//! middle here; the release takes its corner, and counts rows from the image's height down.

use crate::walks::config::WalkConfig;

/// A camera that looks straight ahead, and measures depth along that direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Camera {
    /// `H`: rows of pixels.
    pub height: usize,
    /// `W`: columns of pixels.
    pub width: usize,
    /// Degrees from the left edge of its view to the right one; pixels are square.
    pub fov: f64,
    /// Metres above the floor.
    pub lift: f64,
    /// Greatest depth in metres. What is further away has an unknown depth.
    pub range: f64,
}

impl Camera {
    /// Columns of pixels in one metre at a depth of one metre.
    pub fn focal(&self) -> f64 {
        self.width as f64 / 2.0 / (self.fov.to_radians() / 2.0).tan()
    }

    /// How many metres a pixel's middle is to the right of the camera, and above it, at a depth of one metre.
    pub fn slopes(&self, row: usize, column: usize) -> [f64; 2] {
        let focal = self.focal();
        let right = column as f64 + 0.5 - self.width as f64 / 2.0;
        let up = self.height as f64 / 2.0 - row as f64 - 0.5;
        [right / focal, up / focal]
    }
}

/// What a camera sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// `[H, W, 3]`: red, green and blue.
    pub rgb: Vec<u8>,
    /// `[H, W]`: metres; 0 is unknown.
    pub depth: Vec<f32>,
}

/// Values of the cells of a square map.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// `M`: cells on a side.
    pub side: usize,
    /// `F`: values of a cell.
    pub features: usize,
    /// `[M, M, F]`.
    pub values: Vec<f32>,
}

impl Cells {
    /// Cells of zeros.
    pub fn new(side: usize, features: usize) -> Self {
        Self {
            side,
            features,
            values: vec![0.0; side * side * features],
        }
    }

    /// The values of a cell.
    pub fn at(&self, row: usize, column: usize) -> &[f32] {
        let from = (row * self.side + column) * self.features;
        &self.values[from..from + self.features]
    }

    /// As [`at`](Self::at), to be changed.
    pub fn at_mut(&mut self, row: usize, column: usize) -> &mut [f32] {
        let from = (row * self.side + column) * self.features;
        &mut self.values[from..from + self.features]
    }

    /// The same cells turned about their middle by radians, bilinear, with zeros beyond the edge (PyTorch's `grid_sample` with
    /// `align_corners=False`): what was ahead is to the left for a quarter of a turn.
    #[must_use]
    pub fn turned(&self, by: f64) -> Self {
        let mut turned = Self::new(self.side, self.features);
        let marked = self.marked();
        let middle = (self.side as f64 - 1.0) / 2.0;
        let (sin, cos) = by.sin_cos();
        for row in 0..self.side {
            let down = row as f64 - middle;
            for column in 0..self.side {
                let right = column as f64 - middle;
                let from_right = right * cos - down * sin + middle;
                let from_down = right * sin + down * cos + middle;
                if self.touches(&marked, from_down, from_right) {
                    self.sample(from_down, from_right, turned.at_mut(row, column));
                }
            }
        }
        turned
    }

    /// Whether a cell has any value: most of a view's cells have none, and need no arithmetic.
    pub(super) fn marked(&self) -> Vec<bool> {
        let cells = self.values.chunks(self.features.max(1));
        cells
            .map(|cell| cell.iter().any(|value| *value != 0.0))
            .collect()
    }

    /// Whether any of the cells around a place between cells is marked.
    pub(super) fn touches(&self, marked: &[bool], row: f64, column: f64) -> bool {
        let (top, left) = (row.floor() as i64, column.floor() as i64);
        let side = self.side as i64;
        let is = |row: i64, column: i64| {
            (0..side).contains(&row)
                && (0..side).contains(&column)
                && marked[(row * side + column) as usize]
        };
        is(top, left) || is(top, left + 1) || is(top + 1, left) || is(top + 1, left + 1)
    }

    /// Adds the values between cells, bilinear.
    pub(super) fn sample(&self, row: f64, column: f64, into: &mut [f32]) {
        let (top, left) = (row.floor(), column.floor());
        let (down, right) = ((row - top) as f32, (column - left) as f32);
        for (row, by_row) in [(top, 1.0 - down), (top + 1.0, down)] {
            for (column, by_column) in [(left, 1.0 - right), (left + 1.0, right)] {
                let weight = by_row * by_column;
                let inside = |at: f64| at >= 0.0 && at < self.side as f64;
                if weight == 0.0 || !inside(row) || !inside(column) {
                    continue;
                }
                let values = self.at(row as usize, column as usize);
                for (into, value) in into.iter_mut().zip(values) {
                    *into += weight * value;
                }
            }
        }
    }
}

/// The cells around an agent that a view shows, with the greatest value of each feature over the pixels of a cell. Cells that it does not show are
/// zeros. Pixels of an unknown depth, or above or below [`WalkConfig::heights`], show none.
///
/// # Shapes
///
/// - depth: `[H, W]`; features: `[H, W, F]`, none below 0
/// - output: `[M, M, F]`
pub fn projected(depth: &[f32], features: &[f32], camera: &Camera, config: &WalkConfig) -> Cells {
    let count = features.len() / depth.len().max(1);
    let mut cells = Cells::new(config.cells, count);
    let middle = (config.cells as f64 - 1.0) / 2.0;
    let [low, high] = config.heights;
    for row in 0..camera.height {
        for column in 0..camera.width {
            let at = row * camera.width + column;
            let ahead = f64::from(depth[at]);
            if !(ahead > 0.0 && ahead <= camera.range) {
                continue;
            }
            let [right, up] = camera.slopes(row, column).map(|slope| slope * ahead);
            if !(up > low && up < high) {
                continue;
            }
            let to = |metres: f64| (metres / config.cell + middle).round();
            let (down, right) = (to(-ahead), to(right));
            let inside = |at: f64| at >= 0.0 && at < config.cells as f64;
            if !inside(down) || !inside(right) {
                continue;
            }
            let own = &features[at * count..(at + 1) * count];
            let cell = cells.at_mut(down as usize, right as usize);
            for (cell, own) in cell.iter_mut().zip(own) {
                *cell = cell.max(*own);
            }
        }
    }
    cells
}
