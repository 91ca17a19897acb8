//! Lines over a common x axis.
//!
//! Drawn here as SVG. uPlot was tried and not used: its canvas is empty without JavaScript (mail, previews), one outlier flattens the
//! line that is meant to be read, and a value that is not finite leaves no mark.

mod axes;
mod drawing;

use maud::{Markup, html};

use self::drawing::Drawing;
use super::axis::Scale;
use super::colours::Colour;
use super::smoothing::{smooth, smoothing_scale};
use crate::numbers::{Format, grouped};

/// Width of a line chart in SVG units; the style sheet scales it to the width of its container.
const WIDTH: f64 = 540.0;

/// Width of a wide line chart where its container has the room.
const WIDE: f64 = 1112.0;

/// Ways to draw a line, in the style sheet: whole, and dashed in three ways.
pub const DASHES: usize = 4;

/// Values beyond this are gaps, as infinity is: differences of such values would overflow.
const LARGEST: f64 = 1e300;

/// The part of the value axis that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Range {
    /// The range of the values, from zero if that costs little room.
    #[default]
    Auto,
    /// The range of the values, from zero.
    FromZero,
    /// Exactly this range, whatever the values are.
    Fixed(f64, f64),
}

/// One line of a [`LineChart`].
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    colour: Colour,
    smoothed: bool,
    markers: bool,
    dash: usize,
}

impl Series {
    /// A line through `points` (x, y), which are in ascending x.
    pub fn new(name: impl Into<String>, colour: Colour, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points,
            colour,
            smoothed: false,
            markers: false,
            dash: 0,
        }
    }

    /// Draws the line in one of four ways, which start over: for several lines of one colour. 0 is a line without gaps.
    pub fn dashed(mut self, number: usize) -> Self {
        self.dash = number % DASHES;
        self
    }

    /// The classes of the line, of its key and of its dots: colour and dashes.
    fn class(&self) -> String {
        match self.dash {
            0 => self.colour.class().to_owned(),
            dash => format!("{} d{dash}", self.colour.class()),
        }
    }

    /// Draws the values faint and their running mean ([`smooth`] by [`smoothing_scale`]) as the line.
    pub fn smoothed(mut self) -> Self {
        self.smoothed = true;
        self
    }

    /// Draws a dot at every point: for series of few points.
    pub fn markers(mut self) -> Self {
        self.markers = true;
        self
    }

    /// The values of the line in full colour.
    pub(super) fn line(&self) -> Vec<(f64, f64)> {
        if !self.smoothed {
            return self.points.clone();
        }
        let values: Vec<f64> = self.points.iter().map(|point| point.1).collect();
        let means = smooth(&values, smoothing_scale(values.len()));
        self.points
            .iter()
            .zip(means)
            .map(|(point, mean)| (point.0, mean))
            .collect()
    }
}

/// Lines over a common x axis, as a figure with caption, legend, axes and read-out.
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    title: String,
    unit: String,
    x_label: String,
    format: Format,
    scale: Scale,
    range: Range,
    height: f64,
    wide: bool,
    pub(super) series: Vec<Series>,
    references: Vec<(f64, String)>,
    events: Vec<(f64, String)>,
}

impl LineChart {
    /// An empty chart. It is drawn as a frame that says so.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            unit: String::new(),
            x_label: "step".to_owned(),
            format: Format::Number,
            scale: Scale::Linear,
            range: Range::Auto,
            height: 250.0,
            wide: false,
            series: Vec::new(),
            references: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Unit or explanation of the values, shown beside the title.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// Label of the x axis; `step` by default.
    pub fn x_label(mut self, label: impl Into<String>) -> Self {
        self.x_label = label.into();
        self
    }

    /// How values are written.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Spacing of the value axis.
    pub fn scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// The part of the value axis that is shown.
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    /// Height in SVG units, at a width of 540; 250 by default.
    pub fn height(mut self, height: f64) -> Self {
        self.height = height;
        self
    }

    /// Uses the whole width of a page: about twice the width of other charts, if there is room.
    pub fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// Whether the chart is [`wide`](Self::wide).
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// Adds a line.
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// Adds a dashed horizontal line with a label: chance, a target, a published figure.
    pub fn reference(mut self, value: f64, label: impl Into<String>) -> Self {
        self.references.push((value, label.into()));
        self
    }

    /// Adds a dashed vertical line at `x`: a resume, the end of the warm-up.
    pub fn event(mut self, x: f64, label: impl Into<String>) -> Self {
        self.events.push((x, label.into()));
        self
    }

    /// Whether any line has a value to show.
    pub fn has_values(&self) -> bool {
        self.series
            .iter()
            .flat_map(|series| &series.points)
            .any(|point| self.shows(point.1))
    }

    /// The figure as HTML.
    pub fn to_html(&self) -> Markup {
        let lines: Vec<Vec<(f64, f64)>> = self.series.iter().map(Series::line).collect();
        let drawn = |width| Drawing::new(self, &lines, width).to_html();
        html! {
            figure.plot {
                (self.caption(&lines))
                @if !self.has_values() {
                    (self.empty())
                } @else if self.wide {
                    // The style sheet shows one of two drawings. Scaling one from a page to a phone would scale its text too.
                    div.plot-both {
                        div.plot-narrow { (drawn(WIDTH)) }
                        div.plot-broad { (drawn(WIDE)) }
                    }
                } @else {
                    (drawn(WIDTH))
                }
            }
        }
    }

    fn shows(&self, value: f64) -> bool {
        value.abs() < LARGEST && (self.scale == Scale::Linear || value > 0.0)
    }

    fn last_shown(&self, line: &[(f64, f64)]) -> Option<(f64, f64)> {
        line.iter().rev().copied().find(|point| self.shows(point.1))
    }

    fn caption(&self, lines: &[Vec<(f64, f64)>]) -> Markup {
        let log = if self.scale == Scale::Log {
            "log scale"
        } else {
            ""
        };
        let unit = [self.unit.as_str(), log]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        // The last value as it was logged: a run that ended in NaN must not show the number before it.
        let value = |line: &[(f64, f64)]| {
            line.last()
                .map(|point| self.format.value(point.1))
                .unwrap_or_default()
        };
        html! {
            figcaption {
                span.plot-title { (self.title) }
                @if !unit.is_empty() { " " span.plot-unit { (unit) } }
                @if let [line] = lines {
                    span.plot-last { (value(line)) }
                } @else if !lines.is_empty() {
                    ul.plot-legend {
                        @for (series, line) in self.series.iter().zip(lines) {
                            li {
                                span class={ "plot-key " (series.class()) } {}
                                (series.name) " " b { (value(line)) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// A frame that says that there is nothing to draw.
    fn empty(&self) -> Markup {
        let gaps = self
            .series
            .iter()
            .map(|series| series.points.len())
            .sum::<usize>();
        let text = if gaps == 0 {
            "no values".to_owned()
        } else {
            format!("none of {} values can be shown", grouped(gaps as f64))
        };
        html! {
            div.plot-none role="img" aria-label={ (self.title) ": " (text) } { (text) }
        }
    }
}
