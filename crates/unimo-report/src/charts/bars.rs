//! Counts as bars.

use std::fmt::Write as _;

use super::colours::{hex, viridis};
use crate::html::escape;
use crate::numbers::grouped;

/// Counts as bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    title: String,
    unit: String,
    bars: Vec<(String, f64)>,
}

impl Bars {
    /// Bars with their names, in order.
    pub fn new(title: impl Into<String>, bars: Vec<(String, f64)>) -> Self {
        Self {
            title: title.into(),
            unit: String::new(),
            bars,
        }
    }

    /// What the names are in.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// The figure as an HTML fragment.
    pub fn to_html(&self) -> String {
        const WIDTH: f64 = 520.0;
        const HEIGHT: f64 = 150.0;
        /// Room for names, which are slanted.
        const NAMES: f64 = 62.0;
        /// Room between names.
        const NAME_STEP: f64 = 18.0;
        const LEFT: f64 = 30.0;
        let top = self
            .bars
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        // Of several that are as high the first one says how high: side by side their numbers would lie on each other.
        let highest = self.bars.iter().position(|(_, value)| *value == top);
        let step = (WIDTH - LEFT - 30.0) / self.bars.len().max(1) as f64;
        let every = (NAME_STEP / step).ceil().max(1.0) as usize;
        let mut out = format!(
            "<figure class=\"plot\"><figcaption><span class=\"plot-title\">{}</span> <span class=\"plot-unit\">{}</span></figcaption>\
             <div class=\"plot-scroll\"><svg viewBox=\"0 0 {WIDTH} {:.0}\" style=\"width:{WIDTH}px;max-width:100%\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title),
            escape(&self.unit),
            HEIGHT + NAMES,
            escape(&format!("{}: {} bars", self.title, self.bars.len()))
        );
        for (at, (name, value)) in self.bars.iter().enumerate() {
            let x = LEFT + at as f64 * step;
            let share = if top > 0.0 { value / top } else { 0.0 };
            // What is there is seen, however little it is beside the others.
            let height = match *value > 0.0 {
                true => (share * (HEIGHT - 16.0)).max(1.5),
                false => 0.0,
            };
            let _ = write!(
                out,
                "<g><title>{}: {}</title><rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"1.5\" fill=\"{}\"/></g>",
                escape(name),
                grouped(*value),
                HEIGHT - height,
                (step - 1.5).max(1.0),
                hex(viridis(0.45))
            );
            if highest == Some(at) && top > 0.0 {
                let _ = write!(
                    out,
                    "<text class=\"plot-x\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    (x + step / 2.0).clamp(24.0, WIDTH - 24.0),
                    HEIGHT - height - 4.0,
                    grouped(*value)
                );
            }
            if at % every == 0 {
                let _ = write!(
                    out,
                    "<text class=\"plot-x\" text-anchor=\"end\" transform=\"translate({:.1} {:.1}) rotate(-45)\">{}</text>",
                    x + step / 2.0 + 3.0,
                    HEIGHT + 12.0,
                    // Of a range its beginning; the whole is in the bar's title.
                    escape(name.split(" to ").next().unwrap_or(name))
                );
            }
        }
        out.push_str("</svg></div></figure>\n");
        out
    }
}
