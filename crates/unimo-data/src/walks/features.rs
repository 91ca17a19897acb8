//! What the map keeps of a pixel.
//!
//! The features of WS-MGMap are those of a network that was trained to segment rooms, which cannot be had. These are plain measurements of a pixel:
//! its colour, its height and how the brightness changes there. Since a map keeps the greatest value, a colour is kept twice, also as what it lacks to
//! white: so dark things are not lost beside bright ones, and every pixel leaves a mark.

use crate::walks::project::{Camera, View};

/// Features of a pixel.
pub const FEATURES: usize = 9;

/// Their names, in order. Levels are 0 to 255.
pub const FEATURE_NAMES: [&str; FEATURES] = [
    "red",
    "green",
    "blue",
    "lack of red",
    "lack of green",
    "lack of blue",
    "height above the floor",
    "change of brightness across",
    "change of brightness down",
];

/// Metres above the floor that are the level 255.
const HIGHEST: f64 = 2.5;

/// The features of a view.
///
/// # Shapes
///
/// - output: `[H, W, FEATURES]`: whole numbers from 0 to 255
pub(super) fn features(view: &View, camera: &Camera) -> Vec<f32> {
    let (height, width) = (camera.height, camera.width);
    let bright = |row: usize, column: usize| -> f32 {
        let at = (row * width + column) * 3;
        let sum: u32 = view.rgb[at..at + 3]
            .iter()
            .map(|level| u32::from(*level))
            .sum();
        sum as f32 / 3.0
    };
    let mut all = Vec::with_capacity(height * width * FEATURES);
    for row in 0..height {
        for column in 0..width {
            let at = row * width + column;
            let colour = &view.rgb[at * 3..at * 3 + 3];
            all.extend(colour.iter().map(|level| f32::from(*level)));
            all.extend(colour.iter().map(|level| f32::from(255 - *level)));
            let [_, slope] = camera.slopes(row, column);
            let above = camera.lift + slope * f64::from(view.depth[at]);
            all.push((above / HIGHEST * 255.0).round().clamp(0.0, 255.0) as f32);
            let (right, below) = ((column + 1).min(width - 1), (row + 1).min(height - 1));
            let here = bright(row, column);
            all.push((bright(row, right) - here).abs().round());
            all.push((bright(below, column) - here).abs().round());
        }
    }
    all
}
