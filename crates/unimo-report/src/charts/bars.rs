//! Counts as bars.

use maud::{Markup, html};

use super::colours::{hex, viridis};
use super::tenths;
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

    /// The unit of the names.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// The figure as HTML.
    pub fn to_html(&self) -> Markup {
        let top = self
            .bars
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        // Only the first of several highest bars shows its number: side by side the numbers would overlap.
        let highest = self.bars.iter().position(|(_, value)| *value == top);
        let names = self
            .bars
            .iter()
            .map(|(name, _)| begin(name).chars().count());
        let longest = names.max().unwrap_or(0) as f64 * CHARACTER;
        let count = self.bars.len().max(1) as f64;
        let step_from = |left: f64| ((WIDTH - left - 30.0) / count).min(WIDEST);
        let slanted = longest > step_from(LEFT) - 4.0;
        // A slanted name leans to the left of its bar, and below it, by this.
        let leans = if slanted { SLANT * longest } else { 0.0 };
        let left = LEFT.max(leans);
        let step = step_from(left);
        let names = if slanted {
            NAMES.max(leans + 20.0)
        } else {
            22.0
        };
        let every = (NAME_STEP / step).ceil().max(1.0) as usize;
        let bars = self.bars.iter().enumerate().map(|(at, (name, value))| {
            let share = if top > 0.0 { value / top } else { 0.0 };
            let bar = Bar {
                name,
                value: *value,
                x: left + at as f64 * step,
                step,
                // A small value stays visible beside large ones.
                height: if *value > 0.0 {
                    (share * (HEIGHT - 16.0)).max(1.5)
                } else {
                    0.0
                },
            };
            let with_name = !slanted || at % every == 0;
            bar.draw(highest == Some(at) && top > 0.0, with_name, slanted)
        });
        let label = format!("{}: {} bars", self.title, self.bars.len());
        html! {
            figure.plot {
                figcaption {
                    span.plot-title { (self.title) } " " span.plot-unit { (self.unit) }
                }
                div.plot-scroll {
                    svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + names) } style={ "width:" (WIDTH) "px;max-width:100%" }
                        role="img" tabindex="0" data-cells="0" aria-label=(label) {
                        @for bar in bars { (bar) }
                    }
                }
            }
        }
    }
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 150.0;
/// Least room for slanted names.
const NAMES: f64 = 62.0;
/// Widest bar with its gap: one value alone is no wall.
const WIDEST: f64 = 56.0;
/// Width of a name's character, in the larger font of narrow screens.
const CHARACTER: f64 = 8.4;
/// Both sides of a name that is slanted by 45 degrees, as a share of its length.
const SLANT: f64 = 0.71;
/// Room between names.
const NAME_STEP: f64 = 18.0;
const LEFT: f64 = 30.0;

/// Of a range, only the start is shown; the whole range is in the bar's title.
fn begin(name: &str) -> &str {
    name.split(" to ").next().unwrap_or(name)
}

struct Bar<'a> {
    name: &'a str,
    value: f64,
    x: f64,
    step: f64,
    height: f64,
}

impl Bar<'_> {
    fn draw(&self, with_value: bool, with_name: bool, slanted: bool) -> Markup {
        let &Self {
            x, step, height, ..
        } = self;
        let value = grouped(self.value);
        html! {
            g {
                title { (self.name) ": " (value) }
                rect x=(tenths(x)) y=(tenths(HEIGHT - height)) width=(tenths((step - 1.5).max(1.0))) height=(tenths(height))
                    rx="1.5" fill=(hex(viridis(0.45))) {}
                // A bar of nothing, or a thin one, has a value too: the whole column answers to a pointer.
                rect.plot-column x=(tenths(x)) y="0" width=(tenths(step)) height=(tenths(HEIGHT + 3.0)) fill="transparent" {}
            }
            @if with_value {
                text.plot-x text-anchor="middle" x=(tenths((x + step / 2.0).clamp(24.0, WIDTH - 24.0)))
                    y=(tenths(HEIGHT - height - 4.0)) { (value) }
            }
            @if with_name && slanted {
                text.plot-x text-anchor="end"
                    transform=(format!("translate({:.1} {:.1}) rotate(-45)", x + step / 2.0 + 3.0, HEIGHT + 12.0)) { (begin(self.name)) }
            } @else if with_name {
                text.plot-x text-anchor="middle" x=(tenths(x + step / 2.0)) y=(tenths(HEIGHT + 16.0)) { (begin(self.name)) }
            }
        }
    }
}
