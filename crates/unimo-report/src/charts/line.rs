//! Lines over a common x axis.

use std::fmt::Write as _;

use super::axis::{Axis, Scale, log_ticks, nice_range, ticks, widened};
use super::colours::Colour;
use super::smoothing::{decimate, smooth, smoothing_scale};
use crate::html::escape;
use crate::numbers::{Format, grouped, number};

/// Width of a line chart in SVG units; the style sheet scales it to the width of its container.
const WIDTH: f64 = 540.0;

/// Width of a wide line chart where its container has the room.
const WIDE: f64 = 1112.0;

/// Horizontal resolution of a drawn line: a chart is about this many device pixels wide.
const COLUMNS: usize = 500;

/// Points per series that the read-out carries; the pointer cannot tell more apart.
const READOUT_POINTS: usize = 240;

/// Not-finite values marked on the x axis, so that a run of nothing but NaN does not make a page of crosses.
const GAP_MARKS: usize = 40;

/// The values of a faint line are cut off where its range is more than this many times the range without the lowest and
/// the highest hundredth.
const OUTLIER: f64 = 2.0;

/// Values beyond are gaps like infinity: differences of such values would overflow.
const LARGEST: f64 = 1e300;

/// Width of a tick label's character in SVG units, for the enlarged font of narrow screens.
const CHARACTER: f64 = 8.4;

/// The part of the value axis that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Range {
    /// What the values need, from zero where that costs little room.
    #[default]
    Auto,
    /// From zero to what the values need.
    FromZero,
    /// Just this, whatever the values are.
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

    /// The values of the line that is drawn in full colour.
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
    /// An empty chart; an empty chart is drawn as a frame that says so.
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

    /// Label of the x axis; `step` unless told.
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

    /// Height in SVG units, at a width of 540; 250 unless told.
    pub fn height(mut self, height: f64) -> Self {
        self.height = height;
        self
    }

    /// Takes the whole width of a page: drawn at about twice the width of other charts where there is room.
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

    /// The figure as an HTML fragment.
    pub fn to_html(&self) -> String {
        let lines: Vec<Vec<(f64, f64)>> = self.series.iter().map(Series::line).collect();
        let mut out = String::from("<figure class=\"plot\">");
        self.caption(&mut out, &lines);
        if !self.has_values() {
            self.draw_empty(&mut out);
        } else if self.wide {
            // Scaling one drawing from a page to a telephone would scale its text too; the style sheet shows one of two.
            out.push_str("<div class=\"plot-both\"><div class=\"plot-narrow\">");
            self.draw(&mut out, &lines, WIDTH);
            out.push_str("</div><div class=\"plot-broad\">");
            self.draw(&mut out, &lines, WIDE);
            out.push_str("</div></div>");
        } else {
            self.draw(&mut out, &lines, WIDTH);
        }
        out.push_str("</figure>\n");
        out
    }

    fn shows(&self, value: f64) -> bool {
        value.abs() < LARGEST && (self.scale == Scale::Linear || value > 0.0)
    }

    fn last_shown(&self, line: &[(f64, f64)]) -> Option<(f64, f64)> {
        line.iter().rev().copied().find(|point| self.shows(point.1))
    }

    fn caption(&self, out: &mut String, lines: &[Vec<(f64, f64)>]) {
        let _ = write!(
            out,
            "<figcaption><span class=\"plot-title\">{}</span>",
            escape(&self.title)
        );
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
        if !unit.is_empty() {
            let _ = write!(out, " <span class=\"plot-unit\">{}</span>", escape(&unit));
        }
        // The last value as it is: a run that ended in NaN must not show the number before.
        let value = |line: &[(f64, f64)]| {
            line.last()
                .map(|point| self.format.value(point.1))
                .unwrap_or_default()
        };
        if let [line] = lines {
            let _ = write!(out, "<span class=\"plot-last\">{}</span>", value(line));
        } else if !lines.is_empty() {
            out.push_str("<ul class=\"plot-legend\">");
            for (series, line) in self.series.iter().zip(lines) {
                let _ = write!(
                    out,
                    "<li><span class=\"plot-key {}\"></span>{} <b>{}</b></li>",
                    series.colour.class(),
                    escape(&series.name),
                    value(line)
                );
            }
            out.push_str("</ul>");
        }
        out.push_str("</figcaption>");
    }

    fn draw_empty(&self, out: &mut String) {
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
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {h}\" role=\"img\" aria-label=\"{}: {text}\"><rect class=\"plot-frame\" x=\"0.5\" y=\"0.5\" \
             width=\"{w}\" height=\"{fh}\" rx=\"6\"/><text class=\"plot-none\" x=\"{x}\" y=\"{y}\">{text}</text></svg>",
            escape(&self.title),
            h = self.height,
            w = WIDTH - 1.0,
            fh = self.height - 1.0,
            x = WIDTH / 2.0,
            y = self.height / 2.0,
        );
    }

    fn draw(&self, out: &mut String, lines: &[Vec<(f64, f64)>], width: f64) {
        let y_axis = self.value_axis(lines);
        let x_axis = self.x_axis((width / 90.0) as usize);
        let y_labels: Vec<String> = y_axis.labels(self.format);
        let widest = y_labels
            .iter()
            .map(|label| label.chars().count())
            .max()
            .unwrap_or(0);
        let frame = Frame {
            left: 12.0 + CHARACTER * widest as f64,
            right: width - 14.0,
            top: 12.0,
            bottom: self.height - 44.0,
        };
        let x = |value: f64| frame.left + x_axis.place(value) * (frame.right - frame.left);
        let y = |value: f64| frame.bottom - y_axis.place(value) * (frame.bottom - frame.top);

        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {width} {}\" role=\"img\" tabindex=\"0\" aria-label=\"{}\" data-plot=\"{}\">",
            self.height,
            escape(&self.description(lines)),
            escape(&self.read_out(lines, &frame, &x_axis, &y_axis)),
        );
        for (tick, label) in y_axis.ticks.iter().zip(&y_labels) {
            let at = y(*tick);
            let _ = write!(
                out,
                "<path class=\"plot-grid\" d=\"M{:.1} {at:.1}H{:.1}\"/><text class=\"plot-y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                frame.left,
                frame.right,
                frame.left - 8.0,
                at + 4.0
            );
        }
        let _ = write!(
            out,
            "<path class=\"plot-axis\" d=\"M{:.1} {:.1}H{:.1}\"/>",
            frame.left, frame.bottom, frame.right
        );
        for (tick, label) in x_axis.ticks.iter().zip(x_axis.labels(Format::Number)) {
            let at = x(*tick);
            let half = CHARACTER * label.chars().count() as f64 / 2.0;
            let (anchor, shift) = if at + half > width {
                ("end", width - 1.0)
            } else {
                ("middle", at)
            };
            let _ = write!(
                out,
                "<path class=\"plot-axis\" d=\"M{at:.1} {:.1}v4\"/>\
                 <text class=\"plot-x\" text-anchor=\"{anchor}\" x=\"{shift:.1}\" y=\"{:.1}\">{label}</text>",
                frame.bottom,
                frame.bottom + 19.0
            );
        }
        let _ = write!(
            out,
            "<text class=\"plot-x\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            (frame.left + frame.right) / 2.0,
            self.height - 6.0,
            escape(&self.x_label)
        );

        // A nested svg clips what leaves the frame, without an id that would have to be unique in the page.
        let (w, h) = (frame.right - frame.left, frame.bottom - frame.top);
        let _ = write!(
            out,
            "<svg x=\"{l:.1}\" y=\"{t:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" viewBox=\"{l:.1} {t:.1} {w:.1} {h:.1}\" overflow=\"hidden\">",
            l = frame.left,
            t = frame.top
        );
        for (at, label) in &self.events {
            if at.is_finite() {
                let _ = write!(
                    out,
                    "<path class=\"plot-event\" d=\"M{:.1} {:.1}V{:.1}\"><title>{}</title></path>",
                    x(*at),
                    frame.top,
                    frame.bottom,
                    escape(label)
                );
            }
        }
        for series in self.series.iter().filter(|series| series.smoothed) {
            self.draw_line(
                out,
                &series.points,
                &format!("plot-raw {}", series.colour.class()),
                &x_axis,
                &x,
                &y,
            );
        }
        for (series, line) in self.series.iter().zip(lines) {
            self.draw_line(
                out,
                line,
                &format!("plot-line {}", series.colour.class()),
                &x_axis,
                &x,
                &y,
            );
        }
        out.push_str("</svg>");

        for (series, line) in self.series.iter().zip(lines) {
            let class = series.colour.class();
            let dots = if series.markers {
                decimate(line, x_axis.lo, x_axis.hi, COLUMNS / 8)
            } else {
                Vec::new()
            };
            let last = self.last_shown(line);
            for point in dots
                .into_iter()
                .filter(|point| Some(*point) != last)
                .chain(last)
            {
                // The frame ends where the axis does; a dot beyond it would lie on the labels.
                if self.shows(point.1) && (0.0..=1.0).contains(&y_axis.place(point.1)) {
                    let _ = write!(
                        out,
                        "<circle class=\"plot-dot {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{}: {} at {} {}</title></circle>",
                        x(point.0),
                        y(point.1),
                        escape(&series.name),
                        self.format.value(point.1),
                        escape(&self.x_label),
                        number(point.0)
                    );
                }
            }
        }
        for (value, label) in self
            .references
            .iter()
            .filter(|reference| self.shows(reference.0))
        {
            let at = y(*value);
            // Above the line, unless that leaves the frame.
            let text = if at - 18.0 < frame.top {
                at + 15.0
            } else {
                at - 5.0
            };
            let _ = write!(
                out,
                "<path class=\"plot-reference\" d=\"M{:.1} {at:.1}H{:.1}\"/>\
                 <text class=\"plot-reference-label\" x=\"{:.1}\" y=\"{text:.1}\">{} {}</text>",
                frame.left,
                frame.right,
                frame.right - 4.0,
                escape(label),
                self.format.value(*value)
            );
        }
        self.draw_gaps(out, &frame, &x);
        self.draw_beyond(out, &frame, &y_axis);
        out.push_str("<g class=\"plot-cursor\"></g></svg>");
    }

    fn draw_line(
        &self,
        out: &mut String,
        points: &[(f64, f64)],
        class: &str,
        x_axis: &Axis,
        x: &impl Fn(f64) -> f64,
        y: &impl Fn(f64) -> f64,
    ) {
        let shown: Vec<(f64, f64)> = points
            .iter()
            .map(|&(at, value)| (at, if self.shows(value) { value } else { f64::NAN }))
            .collect();
        let mut path = String::new();
        let mut open = false;
        let thinned = decimate(&shown, x_axis.lo, x_axis.hi, COLUMNS);
        for (index, point) in thinned.iter().enumerate() {
            if !point.1.is_finite() {
                open = false;
                continue;
            }
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if open { 'L' } else { 'M' },
                x(point.0),
                y(point.1)
            );
            // A point between two gaps has no line; a line of no length under a round cap is a dot.
            if !open
                && thinned
                    .get(index + 1)
                    .is_none_or(|next| !next.1.is_finite())
            {
                path.push_str("h0");
            }
            open = true;
        }
        let _ = write!(out, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    /// Crosses on the x axis where a value cannot be shown.
    fn draw_gaps(&self, out: &mut String, frame: &Frame, x: &impl Fn(f64) -> f64) {
        for series in &self.series {
            let gaps: Vec<f64> = series
                .points
                .iter()
                .filter(|point| !self.shows(point.1))
                .map(|point| point.0)
                .collect();
            let stride = gaps.len().div_ceil(GAP_MARKS).max(1);
            for at in gaps.iter().step_by(stride) {
                let _ = write!(
                    out,
                    "<path class=\"plot-gap\" d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\"><title>{}: no value that can be shown at {} {}</title></path>",
                    x(*at) - 4.0,
                    frame.bottom - 4.0,
                    escape(&series.name),
                    escape(&self.x_label),
                    number(*at)
                );
            }
        }
    }

    /// Says how many values the axis leaves out: outliers are cut off in the drawing but not hidden.
    fn draw_beyond(&self, out: &mut String, frame: &Frame, y_axis: &Axis) {
        let values = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .map(|point| point.1)
                .filter(|value| self.shows(*value))
        };
        let above = values()
            .filter(|value| y_axis.place(*value) > 1.0 + 1e-9)
            .count();
        let below = values()
            .filter(|value| y_axis.place(*value) < -1e-9)
            .count();
        if above > 0 {
            let most = values().fold(f64::NEG_INFINITY, f64::max);
            let _ = write!(
                out,
                "<text class=\"plot-beyond\" x=\"{:.1}\" y=\"{:.1}\">\u{25b2} {} above, up to {}</text>",
                frame.right - 4.0,
                frame.top + 10.0,
                grouped(above as f64),
                self.format.value(most)
            );
        }
        if below > 0 {
            let least = values().fold(f64::INFINITY, f64::min);
            let _ = write!(
                out,
                "<text class=\"plot-beyond\" x=\"{:.1}\" y=\"{:.1}\">\u{25bc} {} below, down to {}</text>",
                frame.right - 4.0,
                frame.bottom - 8.0,
                grouped(below as f64),
                self.format.value(least)
            );
        }
    }

    fn description(&self, lines: &[Vec<(f64, f64)>]) -> String {
        let ends: Vec<String> = self
            .series
            .iter()
            .zip(lines)
            .filter_map(|(series, line)| self.last_shown(line).map(|point| (series, point)))
            .map(|(series, point)| {
                format!(
                    "{} {} at {} {}",
                    series.name,
                    self.format.value(point.1),
                    self.x_label,
                    number(point.0)
                )
            })
            .collect();
        format!("{}: {}", self.title, ends.join(", "))
    }

    fn x_axis(&self, target: usize) -> Axis {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for point in self
            .series
            .iter()
            .flat_map(|series| &series.points)
            .filter(|point| point.0.is_finite())
        {
            lo = lo.min(point.0);
            hi = hi.max(point.0);
        }
        let only = (lo == hi).then_some(lo);
        let (lo, hi) = widened(lo, hi);
        // Where all points are at one place, any other tick would suggest that there could have been more.
        let (ticks, step) = only.map_or_else(|| ticks(lo, hi, target), |only| (vec![only], 0.0));
        Axis {
            lo,
            hi,
            scale: Scale::Linear,
            ticks,
            step,
        }
    }

    pub(super) fn value_axis(&self, lines: &[Vec<(f64, f64)>]) -> Axis {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut include = |value: f64| {
            if self.shows(value) {
                lo = lo.min(value);
                hi = hi.max(value);
            }
        };
        for (series, line) in self.series.iter().zip(lines) {
            line.iter().for_each(|point| include(point.1));
            if series.smoothed {
                let mut values: Vec<f64> = series
                    .points
                    .iter()
                    .map(|point| point.1)
                    .filter(|value| self.shows(*value))
                    .collect();
                values.sort_by(f64::total_cmp);
                let spread =
                    |values: &[f64]| values.last().unwrap_or(&0.0) - values.first().unwrap_or(&0.0);
                let cut = values.len() / 100;
                let inner = &values[cut..values.len() - cut];
                // One spike of a faint line would flatten the line that is meant to be read.
                let kept = if spread(&values) > OUTLIER * spread(inner) {
                    inner
                } else {
                    &values
                };
                kept.iter().for_each(|value| include(*value));
            }
        }
        self.references
            .iter()
            .for_each(|reference| include(reference.0));

        if self.scale == Scale::Log {
            let (lo, hi) = match self.range {
                Range::Fixed(lo, hi) => (lo, hi),
                _ if lo == hi => (lo / 2.0, hi * 2.0),
                _ => (lo, hi),
            };
            let ticks = log_ticks(lo, hi);
            let (lo, hi) = (
                ticks.first().copied().unwrap_or(lo).min(lo),
                ticks.last().copied().unwrap_or(hi).max(hi),
            );
            return Axis {
                lo,
                hi,
                scale: Scale::Log,
                ticks,
                step: 0.0,
            };
        }
        let (lo, hi) = match self.range {
            Range::Fixed(lo, hi) => {
                let (ticks, step) = ticks(lo, hi, 5);
                return Axis {
                    lo,
                    hi,
                    scale: Scale::Linear,
                    ticks,
                    step,
                };
            }
            Range::FromZero => widened(lo.min(0.0), hi.max(0.0)),
            Range::Auto if lo > 0.0 && lo < 0.4 * hi => (0.0, hi),
            Range::Auto => widened(lo, hi),
        };
        let (lo, hi, ticks, step) = nice_range(lo, hi, 5);
        Axis {
            lo,
            hi,
            scale: Scale::Linear,
            ticks,
            step,
        }
    }

    /// What the script needs to answer "what is the value here": the frame, the axes and thinned points, as JSON.
    fn read_out(
        &self,
        lines: &[Vec<(f64, f64)>],
        frame: &Frame,
        x_axis: &Axis,
        y_axis: &Axis,
    ) -> String {
        let rounded = |value: f64| {
            if value.is_finite() {
                format!("{value:.4e}").parse().unwrap_or(value)
            } else {
                f64::NAN
            }
        };
        let series: Vec<serde_json::Value> = self
            .series
            .iter()
            .zip(lines)
            .map(|(series, line)| {
                let stride = line.len().div_ceil(READOUT_POINTS).max(1);
                // The last point is what the legend shows, so the read-out has it too.
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
                    "class": series.colour.class(),
                    "x": indices.iter().map(|&index| line[index].0).collect::<Vec<f64>>(),
                    "y": values(line),
                    "raw": series.smoothed.then(|| values(&series.points)),
                })
            })
            .collect();
        serde_json::json!({
            "frame": [frame.left, frame.right, frame.top, frame.bottom],
            "x": [x_axis.lo, x_axis.hi],
            "y": [y_axis.lo, y_axis.hi],
            "log": self.scale == Scale::Log,
            "percent": self.format == Format::Percent,
            "label": self.x_label,
            "series": series,
        })
        .to_string()
    }
}

struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}
