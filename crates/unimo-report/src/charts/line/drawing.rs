//! One drawing of a line chart, of a given width, as SVG.

use maud::{Markup, html};

use super::{LineChart, Series};
use crate::charts::axis::{Axis, Scale};
use crate::charts::smoothing::decimate;
use crate::charts::tenths;
use crate::numbers::{Format, grouped, number};

/// Horizontal resolution of a drawn line: a chart is about this many device pixels wide.
const COLUMNS: usize = 500;

/// Points per series that the read-out carries; the pointer cannot tell more apart.
const READOUT_POINTS: usize = 240;

/// At most this many not-finite values are marked on the x axis, so that a run of NaN does not make a page of crosses.
const GAP_MARKS: usize = 40;

/// Width of a tick label's character in SVG units, for the enlarged font of narrow screens.
const CHARACTER: f64 = 8.4;

/// A chart with its lines and axes, and where they are drawn.
pub(super) struct Drawing<'a> {
    chart: &'a LineChart,
    lines: &'a [Vec<(f64, f64)>],
    width: f64,
    frame: Frame,
    x_axis: Axis,
    y_axis: Axis,
    y_labels: Vec<String>,
}

/// The part of the drawing that the values lie in.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl<'a> Drawing<'a> {
    /// `lines` are the lines of the chart's series, in order.
    pub(super) fn new(chart: &'a LineChart, lines: &'a [Vec<(f64, f64)>], width: f64) -> Self {
        let y_axis = chart.value_axis(lines);
        let y_labels = y_axis.labels(chart.format);
        let widest = y_labels.iter().map(|label| label.chars().count()).max();
        Self {
            chart,
            lines,
            width,
            frame: Frame {
                left: 12.0 + CHARACTER * widest.unwrap_or(0) as f64,
                right: width - 14.0,
                top: 12.0,
                bottom: chart.height - 44.0,
            },
            x_axis: chart.x_axis((width / 90.0) as usize),
            y_axis,
            y_labels,
        }
    }

    /// The `<svg>` element.
    pub(super) fn to_html(&self) -> Markup {
        let Self {
            chart,
            width,
            frame,
            ..
        } = self;
        // A nested svg clips what leaves the frame, without an id that would have to be unique in the page.
        let (left, top) = (tenths(frame.left), tenths(frame.top));
        let (w, h) = (
            tenths(frame.right - frame.left),
            tenths(frame.bottom - frame.top),
        );
        html! {
            svg viewBox={ "0 0 " (width) " " (chart.height) } role="img" tabindex="0" aria-label=(self.description())
                data-plot=(self.read_out()) {
                (self.grid())
                svg x=(left) y=(top) width=(w) height=(h) viewBox={ (left) " " (top) " " (w) " " (h) } overflow="hidden" {
                    @for (at, label) in chart.events.iter().filter(|event| event.0.is_finite()) {
                        path.plot-event d=(format!("M{:.1} {:.1}V{:.1}", self.x(*at), frame.top, frame.bottom)) {
                            title { (label) }
                        }
                    }
                    @for series in chart.series.iter().filter(|series| series.smoothed) {
                        path class={ "plot-raw " (series.colour.class()) } d=(self.path(&series.points)) {}
                    }
                    @for (series, line) in self.series() {
                        path class={ "plot-line " (series.class()) } d=(self.path(line)) {}
                    }
                }
                @for (series, line) in self.series() { (self.dots(series, line)) }
                (self.references())
                (self.gaps())
                (self.beyond())
                g.plot-cursor {}
            }
        }
    }

    fn series(&self) -> impl Iterator<Item = (&'a Series, &'a Vec<(f64, f64)>)> {
        self.chart.series.iter().zip(self.lines)
    }

    fn x(&self, value: f64) -> f64 {
        let Frame { left, right, .. } = self.frame;
        left + self.x_axis.place(value) * (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        let Frame { top, bottom, .. } = self.frame;
        bottom - self.y_axis.place(value) * (bottom - top)
    }

    /// The axes with their ticks and labels.
    fn grid(&self) -> Markup {
        let Frame {
            left,
            right,
            bottom,
            ..
        } = self.frame;
        html! {
            @for (tick, label) in self.y_axis.ticks.iter().zip(&self.y_labels) {
                @let at = self.y(*tick);
                path.plot-grid d=(format!("M{left:.1} {at:.1}H{right:.1}")) {}
                text.plot-y x=(tenths(left - 8.0)) y=(tenths(at + 4.0)) { (label) }
            }
            path.plot-axis d=(format!("M{left:.1} {bottom:.1}H{right:.1}")) {}
            @for (tick, label) in self.x_axis.ticks.iter().zip(self.x_axis.labels(Format::Number)) {
                @let at = self.x(*tick);
                @let half = CHARACTER * label.chars().count() as f64 / 2.0;
                // A label that would leave the drawing ends at the drawing's edge.
                @let (anchor, x) = if at + half > self.width { ("end", self.width - 1.0) } else { ("middle", at) };
                path.plot-axis d=(format!("M{at:.1} {bottom:.1}v4")) {}
                text.plot-x text-anchor=(anchor) x=(tenths(x)) y=(tenths(bottom + 19.0)) { (label) }
            }
            text.plot-x text-anchor="middle" x=(tenths((left + right) / 2.0)) y=(tenths(self.chart.height - 6.0)) {
                (self.chart.x_label)
            }
        }
    }

    /// A line through `points`, with a gap where a value cannot be shown.
    fn path(&self, points: &[(f64, f64)]) -> String {
        let shown: Vec<(f64, f64)> = points
            .iter()
            .map(|&(at, value)| {
                (
                    at,
                    if self.chart.shows(value) {
                        value
                    } else {
                        f64::NAN
                    },
                )
            })
            .collect();
        let mut path = String::new();
        let mut open = false;
        let thinned = decimate(&shown, self.x_axis.lo, self.x_axis.hi, COLUMNS);
        for (index, point) in thinned.iter().enumerate() {
            if !point.1.is_finite() {
                open = false;
                continue;
            }
            let command = if open { 'L' } else { 'M' };
            path += &format!("{command}{:.1} {:.1}", self.x(point.0), self.y(point.1));
            // A point between two gaps has no line; a line of no length under a round cap is a dot.
            let alone = |next: Option<&(f64, f64)>| next.is_none_or(|next| !next.1.is_finite());
            if !open && alone(thinned.get(index + 1)) {
                path.push_str("h0");
            }
            open = true;
        }
        path
    }

    /// Dots for the last point that can be shown and, if the series has markers, for all points.
    fn dots(&self, series: &Series, line: &[(f64, f64)]) -> Markup {
        let chart = self.chart;
        let dots = if series.markers {
            decimate(line, self.x_axis.lo, self.x_axis.hi, COLUMNS / 8)
        } else {
            Vec::new()
        };
        let last = chart.last_shown(line);
        let dots = dots
            .into_iter()
            .filter(|point| Some(*point) != last)
            .chain(last)
            // The frame ends where the axis does; a dot beyond it would lie on the labels.
            .filter(|point| {
                chart.shows(point.1) && (0.0..=1.0).contains(&self.y_axis.place(point.1))
            });
        html! {
            @for (at, value) in dots {
                circle class={ "plot-dot " (series.colour.class()) } cx=(tenths(self.x(at))) cy=(tenths(self.y(value))) r="3.5" {
                    title { (series.name) ": " (chart.format.value(value)) " at " (chart.x_label) " " (number(at)) }
                }
            }
        }
    }

    fn references(&self) -> Markup {
        let Frame {
            left, right, top, ..
        } = self.frame;
        let shown = self.chart.references.iter();
        html! {
            @for (value, label) in shown.filter(|reference| self.chart.shows(reference.0)) {
                @let at = self.y(*value);
                // Above the line, unless that leaves the frame.
                @let text = if at - 18.0 < top { at + 15.0 } else { at - 5.0 };
                path.plot-reference d=(format!("M{left:.1} {at:.1}H{right:.1}")) {}
                text.plot-reference-label x=(tenths(right - 4.0)) y=(tenths(text)) {
                    (label) " " (self.chart.format.value(*value))
                }
            }
        }
    }

    /// Crosses on the x axis where a value cannot be shown.
    fn gaps(&self) -> Markup {
        let chart = self.chart;
        html! {
            @for series in &chart.series {
                @let gaps: Vec<f64> = series
                    .points
                    .iter()
                    .filter(|point| !chart.shows(point.1))
                    .map(|point| point.0)
                    .collect();
                @for at in gaps.iter().step_by(gaps.len().div_ceil(GAP_MARKS).max(1)) {
                    path.plot-gap d=(format!("M{:.1} {:.1}l8 8m0 -8l-8 8", self.x(*at) - 4.0, self.frame.bottom - 4.0)) {
                        title { (series.name) ": no value that can be shown at " (chart.x_label) " " (number(*at)) }
                    }
                }
            }
        }
    }

    /// Says how many values the axis leaves out: outliers are cut off in the drawing but not hidden.
    fn beyond(&self) -> Markup {
        let values = || {
            let points = self.chart.series.iter().flat_map(|series| &series.points);
            points
                .map(|point| point.1)
                .filter(|value| self.chart.shows(*value))
        };
        let places = || values().map(|value| self.y_axis.place(value));
        let above = places().filter(|place| *place > 1.0 + 1e-9).count();
        let below = places().filter(|place| *place < -1e-9).count();
        let most = self
            .chart
            .format
            .value(values().fold(f64::NEG_INFINITY, f64::max));
        let least = self
            .chart
            .format
            .value(values().fold(f64::INFINITY, f64::min));
        let x = tenths(self.frame.right - 4.0);
        html! {
            @if above > 0 {
                text.plot-beyond x=(x) y=(tenths(self.frame.top + 10.0)) {
                    "\u{25b2} " (grouped(above as f64)) " above, up to " (most)
                }
            }
            @if below > 0 {
                text.plot-beyond x=(x) y=(tenths(self.frame.bottom - 8.0)) {
                    "\u{25bc} " (grouped(below as f64)) " below, down to " (least)
                }
            }
        }
    }

    /// The text for screen readers: the last value of each line.
    fn description(&self) -> String {
        let chart = self.chart;
        let ends: Vec<String> = self
            .series()
            .filter_map(|(series, line)| {
                let (at, value) = chart.last_shown(line)?;
                let (value, at) = (chart.format.value(value), number(at));
                Some(format!("{} {value} at {} {at}", series.name, chart.x_label))
            })
            .collect();
        format!("{}: {}", chart.title, ends.join(", "))
    }

    /// What the script needs to answer "what is the value here": the frame, the axes and thinned points, as JSON.
    fn read_out(&self) -> String {
        let Self { chart, frame, .. } = self;
        let rounded = |value: f64| {
            if value.is_finite() {
                format!("{value:.4e}").parse().unwrap_or(value)
            } else {
                f64::NAN
            }
        };
        let series: Vec<serde_json::Value> = self
            .series()
            .map(|(series, line)| {
                let stride = line.len().div_ceil(READOUT_POINTS).max(1);
                // The read-out has the last point too, since the legend shows it.
                let kept = |index: &usize| index.is_multiple_of(stride) || index + 1 == line.len();
                let indices: Vec<usize> = (0..line.len()).filter(kept).collect();
                let values = |points: &[(f64, f64)]| {
                    indices
                        .iter()
                        .map(|&index| rounded(points[index].1))
                        .collect::<Vec<f64>>()
                };
                serde_json::json!({
                    "name": series.name,
                    "class": series.class(),
                    "x": indices.iter().map(|&index| line[index].0).collect::<Vec<f64>>(),
                    "y": values(line),
                    "raw": series.smoothed.then(|| values(&series.points)),
                })
            })
            .collect();
        serde_json::json!({
            "frame": [frame.left, frame.right, frame.top, frame.bottom],
            "x": [self.x_axis.lo, self.x_axis.hi],
            "y": [self.y_axis.lo, self.y_axis.hi],
            "log": chart.scale == Scale::Log,
            "percent": chart.format == Format::Percent,
            "label": chart.x_label,
            "series": series,
        })
        .to_string()
    }
}
