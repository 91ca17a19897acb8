//! Line charts and heat maps as self-contained HTML figures with inline SVG.
//!
//! Every figure is a `<figure class="plot">` fragment. A page that shows one holds [`STYLE`] in a `<style>` element. For the
//! crosshair read-out it also holds [`SCRIPT`] in a `<script>` element after the last figure; without the script the figures
//! still read well. Nothing here refers to another file, and every text is escaped, so names may hold markup.
//!
//! Values that are not finite are gaps in a line, marked on the x axis, never an error: the curves of a run that diverged
//! are the ones that a reader wants to see.

mod axis;
mod bars;
mod colours;
mod heat_map;
mod line;
mod smoothing;
#[cfg(test)]
mod tests;

pub use axis::{Scale, log_ticks, ticks};
pub use bars::Bars;
pub use colours::{Colour, SLOTS, viridis};
pub use heat_map::HeatMap;
pub use line::{LineChart, Range, Series};
pub use smoothing::{decimate, smooth, smoothing_scale};

/// Style sheet of the figures: colours of the light and the dark scheme as custom properties on `:root`, and the figures.
pub const STYLE: &str = include_str!("charts/charts.css");

/// Script of the crosshair read-out: pointer, touch and arrow keys. Works on every figure of the page.
pub const SCRIPT: &str = include_str!("charts/charts.js");

/// A length in a drawing, to a tenth of a unit.
fn tenths(length: f64) -> String {
    format!("{length:.1}")
}
