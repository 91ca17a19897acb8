//! Line charts and heat maps as self-contained HTML figures with inline SVG.
//!
//! Every figure is a `<figure class="plot">` fragment. A page that shows one holds [`STYLE`] in a `<style>` element and, for
//! the crosshair read-out, [`SCRIPT`] in a `<script>` element after the last figure; without the script the figures still
//! read well. Nothing here refers to another file, and every text is escaped, so names may hold markup.
//!
//! Values that are not finite are gaps in a line, marked on the x axis, never an error: a run that diverged is just the
//! run whose curves one wants to see.

use std::fmt::Write as _;

use crate::html::escape;

/// Style sheet of the figures: colours of the light and the dark scheme as custom properties on `:root`, and the figures.
pub const STYLE: &str = include_str!("charts.css");

/// Script of the crosshair read-out: pointer, touch and arrow keys. Works on every figure of the page.
pub const SCRIPT: &str = include_str!("charts.js");

/// Number of colours that [`Colour::Slot`] tells apart.
pub const SLOTS: usize = 8;

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

/// Colour of a line: by its place in a list of things that stay the same across charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// The colour of text: for the one line that sums up the others, or stands alone.
    Ink,
    /// A colour of the categorical palette; numbers from [`SLOTS`] on start over.
    Slot(usize),
}

impl Colour {
    fn class(self) -> String {
        match self {
            Self::Ink => "ink".to_owned(),
            Self::Slot(slot) => format!("s{}", slot % SLOTS + 1),
        }
    }
}

/// How values are written on axes, in legends and in the read-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Plain numbers, in powers of ten where they are very small or large.
    #[default]
    Number,
    /// A share from 0 to 1, written as 0 % to 100 %.
    Percent,
}

impl Format {
    /// One value with the digits a reader wants: three to four significant ones.
    pub fn value(self, value: f64) -> String {
        match self {
            _ if !value.is_finite() => "not finite".to_owned(),
            Self::Number => number(value),
            Self::Percent => {
                let percent = 100.0 * value;
                let decimals = if percent != 0.0 && percent.abs() < 1.0 {
                    2
                } else {
                    1
                };
                format!("{percent:.decimals$}\u{a0}%")
            }
        }
    }

    fn tick(self, value: f64, step: f64, largest: f64) -> String {
        match self {
            Self::Number => tick_label(value, step, largest),
            Self::Percent => format!(
                "{}\u{a0}%",
                tick_label(100.0 * value, 100.0 * step, 100.0 * largest)
            ),
        }
    }
}

/// Spacing of a value axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal differences take equal space.
    #[default]
    Linear,
    /// Equal ratios take equal space; values at or below zero are gaps.
    Log,
}

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
    fn line(&self) -> Vec<(f64, f64)> {
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
    series: Vec<Series>,
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

    fn value_axis(&self, lines: &[Vec<(f64, f64)>]) -> Axis {
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

struct Axis {
    lo: f64,
    hi: f64,
    scale: Scale,
    ticks: Vec<f64>,
    /// Distance of two ticks; zero on a logarithmic axis.
    step: f64,
}

impl Axis {
    /// Place of a value on the axis, 0 at its low and 1 at its high end.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.lo) / (self.hi - self.lo),
            Scale::Log => (value / self.lo).log10() / (self.hi / self.lo).log10(),
        }
    }

    fn labels(&self, format: Format) -> Vec<String> {
        let largest = self
            .ticks
            .iter()
            .fold(0.0, |most: f64, tick| most.max(tick.abs()));
        self.ticks
            .iter()
            .map(|&tick| match (self.scale, format) {
                (Scale::Linear, _) => format.tick(tick, self.step, largest),
                (Scale::Log, Format::Percent) => format!("{}\u{a0}%", short(100.0 * tick)),
                (Scale::Log, Format::Number) => short(tick),
            })
            .collect()
    }
}

/// A matrix of values as coloured cells, with row and column names, numbers and a colour bar.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    title: String,
    unit: String,
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<f64>>,
    row_label: String,
    column_label: String,
    range: Option<(f64, f64)>,
    cell: (f64, f64),
    numbers: bool,
    bar: bool,
}

impl HeatMap {
    /// `values[row][column]`; a row may be shorter than `columns`, and what is absent or not finite is an empty cell.
    pub fn new(
        title: impl Into<String>,
        rows: Vec<String>,
        columns: Vec<String>,
        values: Vec<Vec<f64>>,
    ) -> Self {
        Self {
            title: title.into(),
            unit: String::new(),
            rows,
            columns,
            values,
            row_label: String::new(),
            column_label: String::new(),
            range: None,
            cell: (50.0, 34.0),
            numbers: true,
            bar: true,
        }
    }

    /// Unit or explanation of the values, shown beside the title.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    /// What a row and a column are, such as `layer` and `level`.
    pub fn labels(mut self, row: impl Into<String>, column: impl Into<String>) -> Self {
        self.row_label = row.into();
        self.column_label = column.into();
        self
    }

    /// The values of the two ends of the colour map; those of the matrix unless told. Give it to compare two maps.
    pub fn range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// Width and height of a cell in SVG units.
    pub fn cell(mut self, width: f64, height: f64) -> Self {
        self.cell = (width, height);
        self
    }

    /// Leaves the numbers to the hover titles: for small cells.
    pub fn without_numbers(mut self) -> Self {
        self.numbers = false;
        self
    }

    /// Leaves out the colour bar: for several maps of one range, all but one.
    pub fn without_bar(mut self) -> Self {
        self.bar = false;
        self
    }

    /// The figure as an HTML fragment.
    pub fn to_html(&self) -> String {
        let (lo, hi) = self.range.unwrap_or_else(|| {
            let finite = || {
                self.values
                    .iter()
                    .flatten()
                    .copied()
                    .filter(|value| value.is_finite())
            };
            widened(
                finite().fold(f64::INFINITY, f64::min),
                finite().fold(f64::NEG_INFINITY, f64::max),
            )
        });
        let mut out = String::from("<figure class=\"plot plot-heat\">");
        let _ = write!(
            out,
            "<figcaption><span class=\"plot-title\">{}</span>",
            escape(&self.title)
        );
        if !self.unit.is_empty() {
            let _ = write!(
                out,
                " <span class=\"plot-unit\">{}</span>",
                escape(&self.unit)
            );
        }
        out.push_str("</figcaption>");

        let (cell_w, cell_h) = self.cell;
        let longest = |names: &[String]| {
            names
                .iter()
                .map(|name| name.chars().count())
                .max()
                .unwrap_or(0) as f64
                * 7.2
        };
        let row_title = if self.row_label.is_empty() { 0.0 } else { 18.0 };
        let column_title = if self.column_label.is_empty() {
            0.0
        } else {
            18.0
        };
        let left = row_title + longest(&self.rows) + 10.0;
        let slanted = longest(&self.columns) > cell_w - 4.0;
        let top = column_title
            + if slanted {
                0.72 * longest(&self.columns) + 12.0
            } else {
                22.0
            };
        let grid_w = cell_w * self.columns.len() as f64;
        let grid_h = cell_h * self.rows.len() as f64;
        let bar_w = grid_w.clamp(120.0, 260.0);
        // A slanted name leans over the right edge of its column.
        let overhang = if slanted {
            0.72 * longest(&self.columns)
        } else {
            6.0
        };
        let width = left + (grid_w + overhang).max(if self.bar { bar_w + 20.0 } else { 0.0 });
        let height = top + grid_h + if self.bar { 46.0 } else { 6.0 };
        let _ = write!(
            out,
            "<div class=\"plot-scroll\"><svg viewBox=\"0 0 {width:.0} {height:.0}\" style=\"width:{width:.0}px;min-width:{:.0}px\" role=\"img\" aria-label=\"{}\">",
            0.8 * width,
            escape(&format!(
                "{}: {} rows, {} columns",
                self.title,
                self.rows.len(),
                self.columns.len()
            ))
        );
        if !self.row_label.is_empty() {
            let _ = write!(
                out,
                "<text class=\"plot-x\" text-anchor=\"middle\" transform=\"translate(12 {:.1}) rotate(-90)\">{}</text>",
                top + grid_h / 2.0,
                escape(&self.row_label)
            );
        }
        if !self.column_label.is_empty() {
            let _ = write!(
                out,
                "<text class=\"plot-x\" text-anchor=\"middle\" x=\"{:.1}\" y=\"12\">{}</text>",
                left + grid_w / 2.0,
                escape(&self.column_label)
            );
        }
        for (index, name) in self.columns.iter().enumerate() {
            let (x, y) = (left + (index as f64 + 0.5) * cell_w, top - 7.0);
            let _ = if slanted {
                write!(
                    out,
                    "<text class=\"plot-x\" transform=\"translate({x:.1} {y:.1}) rotate(-45)\">{}</text>",
                    escape(name)
                )
            } else {
                write!(
                    out,
                    "<text class=\"plot-x\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
                    escape(name)
                )
            };
        }
        for (row, name) in self.rows.iter().enumerate() {
            let y = top + row as f64 * cell_h;
            let _ = write!(
                out,
                "<text class=\"plot-y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 8.0,
                y + cell_h / 2.0 + 4.0,
                escape(name)
            );
            for (column, column_name) in self.columns.iter().enumerate() {
                let x = left + column as f64 * cell_w;
                let value = self
                    .values
                    .get(row)
                    .and_then(|values| values.get(column))
                    .copied()
                    .unwrap_or(f64::NAN);
                self.draw_cell(
                    &mut out,
                    (x, y),
                    value,
                    (value - lo) / (hi - lo),
                    &format!("{name}, {column_name}"),
                );
            }
        }
        if self.bar {
            draw_bar(&mut out, left, top + grid_h + 14.0, bar_w, (lo, hi));
        }
        out.push_str("</svg></div></figure>\n");
        out
    }

    fn draw_cell(&self, out: &mut String, (x, y): (f64, f64), value: f64, place: f64, name: &str) {
        // Two units between cells keep neighbours of one colour apart.
        let (w, h) = (self.cell.0 - 2.0, self.cell.1 - 2.0);
        if !value.is_finite() {
            let _ = write!(
                out,
                "<rect class=\"plot-absent\" x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"3\"/>",
                x + 1.0,
                y + 1.0
            );
            return;
        }
        let colour = viridis(place);
        let _ = write!(
            out,
            "<g><title>{}: {}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"3\" fill=\"{}\"/>",
            escape(name),
            number(value),
            x + 1.0,
            y + 1.0,
            hex(colour)
        );
        if self.numbers {
            let _ = write!(
                out,
                "<text class=\"plot-cell\" x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{}\">{}</text>",
                x + self.cell.0 / 2.0,
                y + self.cell.1 / 2.0 + 4.0,
                text_on(colour),
                if value.abs() < 100.0 {
                    format!("{value:.2}")
                } else {
                    short(value)
                }
            );
        }
        out.push_str("</g>");
    }
}

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

fn draw_bar(out: &mut String, x: f64, y: f64, width: f64, (lo, hi): (f64, f64)) {
    const STEPS: usize = 48;
    let step = width / STEPS as f64;
    for index in 0..STEPS {
        let place = (index as f64 + 0.5) / STEPS as f64;
        // Half a unit of overlap, or the background shines through the seams.
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"8\" fill=\"{}\"/>",
            x + step * index as f64,
            step + 0.5,
            hex(viridis(place))
        );
    }
    for (place, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        let _ = write!(
            out,
            "<text class=\"plot-x\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + width * place,
            y + 24.0,
            short(lo + (hi - lo) * place)
        );
    }
}

/// Tick values from `lo` to `hi` at multiples of 1, 2 or 5 times a power of ten, about `target` of them, and their distance.
///
/// Ends that are not finite or in the wrong order give no ticks.
pub fn ticks(lo: f64, hi: f64, target: usize) -> (Vec<f64>, f64) {
    let step = nice_step(lo, hi, target);
    if step == 0.0 {
        return (Vec::new(), 0.0);
    }
    // The small allowance keeps an end that is a multiple of the step but for rounding.
    let first = (lo / step - 1e-9).ceil() as i64;
    let last = (hi / step + 1e-9).floor() as i64;
    (
        (first..=last).map(|index| multiple(index, step)).collect(),
        step,
    )
}

/// The smallest range around `lo..hi` whose ends are ticks: its ends, its ticks and their distance.
fn nice_range(lo: f64, hi: f64, target: usize) -> (f64, f64, Vec<f64>, f64) {
    let step = nice_step(lo, hi, target);
    if step == 0.0 {
        return (lo, hi, Vec::new(), 0.0);
    }
    let first = (lo / step + 1e-9).floor() as i64;
    let last = (hi / step - 1e-9).ceil() as i64;
    let ticks = (first..=last).map(|index| multiple(index, step)).collect();
    (multiple(first, step), multiple(last, step), ticks, step)
}

fn nice_step(lo: f64, hi: f64, target: usize) -> f64 {
    let rough = (hi - lo) / target.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 || (hi.abs().max(lo.abs()) / rough) > 1e12 {
        return 0.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .min_by(|a, b| {
            let distance = |step: f64| (step / rough).ln().abs();
            distance(*a).total_cmp(&distance(*b))
        });
    step.filter(|step| step.is_normal()).unwrap_or(0.0)
}

/// `index * step` without the last digit's noise, so that three times 0.1 is 0.3.
fn multiple(index: i64, step: f64) -> f64 {
    let value = index as f64 * step;
    format!("{value:.12e}").parse().unwrap_or(value)
}

/// Tick values of a logarithmic axis around `lo..hi`: powers of ten, thinned where there are many, with twos and fives where
/// there are few. Ends that are not positive and finite give no ticks.
pub fn log_ticks(lo: f64, hi: f64) -> Vec<f64> {
    if !(lo.is_normal() && hi.is_normal() && lo > 0.0 && hi >= lo) {
        return Vec::new();
    }
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let factors: &[f64] = if hi / lo <= 100.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let all: Vec<f64> = (first..=last)
        .flat_map(|power| factors.iter().map(move |factor| (power, *factor)))
        .filter_map(|(power, factor)| format!("{factor}e{power}").parse().ok())
        .collect();
    let from = all
        .iter()
        .rposition(|tick| *tick <= lo * (1.0 + 1e-9))
        .unwrap_or(0);
    let to = all
        .iter()
        .position(|tick| *tick >= hi * (1.0 - 1e-9))
        .unwrap_or(all.len().saturating_sub(1));
    let needed = all.get(from..=to).unwrap_or(&[]);
    let stride = needed.len().div_ceil(8).max(1);
    needed.iter().rev().step_by(stride).rev().copied().collect()
}

/// A range that is not empty, whatever the ends: one point gets room on both sides, and no points give 0 to 1.
fn widened(lo: f64, hi: f64) -> (f64, f64) {
    if !(lo.is_finite() && hi.is_finite()) || lo > hi {
        (0.0, 1.0)
    } else if hi - lo > 1e-12 * hi.abs().max(lo.abs()) {
        (lo, hi)
    } else if lo == 0.0 {
        (0.0, 1.0)
    } else {
        let room = (0.5 * lo.abs()).min(1.0).max(1e-3 * lo.abs());
        (lo - room, hi + room)
    }
}

/// Running mean with weights `exp(-|i - j| / scale)` on both sides, twice over, in linear time.
///
/// Values that are not finite have no weight and stay gaps. Unlike a one-sided running mean it does not lag: a drop of the
/// loss is shown where it is, at the price that the line knows what comes after.
pub fn smooth(values: &[f64], scale: f64) -> Vec<f64> {
    if scale.is_nan() || scale <= 0.0 {
        return values.to_vec();
    }
    two_sided_mean(&two_sided_mean(values, scale), scale)
}

fn two_sided_mean(values: &[f64], scale: f64) -> Vec<f64> {
    let decay = (-1.0 / scale).exp();
    // (sum of weighted values, sum of weights) of everything before, including the place itself.
    let sums = |order: &mut dyn Iterator<Item = f64>| {
        let mut state = (0.0, 0.0);
        order
            .map(|value| {
                let (value, weight) = if value.is_finite() {
                    (value, 1.0)
                } else {
                    (0.0, 0.0)
                };
                state = (value + decay * state.0, weight + decay * state.1);
                state
            })
            .collect::<Vec<(f64, f64)>>()
    };
    let before = sums(&mut values.iter().copied());
    let mut after = sums(&mut values.iter().rev().copied());
    after.reverse();
    values
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(value, (before, after))| {
            if value.is_finite() {
                (before.0 + after.0 - value) / (before.1 + after.1 - 1.0)
            } else {
                f64::NAN
            }
        })
        .collect()
}

/// The scale of [`smooth`] for a line of `count` values: a small part of it, so that its shape stays; none for short lines.
pub fn smoothing_scale(count: usize) -> f64 {
    if count < 20 {
        0.0
    } else {
        (count as f64 / 120.0).max(1.0)
    }
}

/// Thins points in ascending x to at most five in each of `columns` equal parts of `lo..hi`: the first, the lowest, the
/// highest, the last and, where there is one, a gap. A line through them covers the same pixels as a line through all
/// (M4 aggregation, Jugel et al. 2014), so a spike of one step stays visible.
pub fn decimate(points: &[(f64, f64)], lo: f64, hi: f64, columns: usize) -> Vec<(f64, f64)> {
    if points.len() <= 4 * columns {
        return points.to_vec();
    }
    let column =
        |x: f64| (((x - lo) / (hi - lo) * columns as f64) as usize).min(columns.saturating_sub(1));
    let mut kept = Vec::new();
    for part in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let mut indices = vec![0, part.len() - 1];
        let finite = || {
            part.iter()
                .enumerate()
                .filter(|(_, point)| point.1.is_finite())
        };
        indices.extend(
            finite()
                .min_by(|a, b| a.1.1.total_cmp(&b.1.1))
                .map(|(index, _)| index),
        );
        indices.extend(
            finite()
                .max_by(|a, b| a.1.1.total_cmp(&b.1.1))
                .map(|(index, _)| index),
        );
        indices.extend(part.iter().position(|point| !point.1.is_finite()));
        indices.sort_unstable();
        indices.dedup();
        kept.extend(indices.into_iter().map(|index| part[index]));
    }
    kept
}

/// A number with three to four significant digits: `0.0421`, `2.310`, `1,204`, `1.2e-5`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "not finite".to_owned()
    } else if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        trimmed_exponent(value, 2)
    } else if size >= 1000.0 || value.fract() == 0.0 {
        grouped(value)
    } else {
        let decimals = (2 - size.log10().floor() as i32).clamp(1, 5) as usize;
        format!("{value:.decimals$}")
    }
}

/// A whole number with its thousands apart: `31,204,352`. Fractions are rounded.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0
            && (digits.len() - index).is_multiple_of(3)
            && digits.chars().all(|digit| digit.is_ascii_digit())
        {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 && digits != "0" {
        format!("-{out}")
    } else {
        out
    }
}

/// As few digits as tell the value: `5`, `0.25`, `20k`, `1e-4`.
fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e7).contains(&size) {
        trimmed_exponent(value, 1)
    } else if size >= 10_000.0 {
        format!("{}k", trimmed(&format!("{:.1}", value / 1000.0)))
    } else {
        let decimals = (1 - size.log10().floor() as i32).clamp(0, 4) as usize;
        trimmed(&format!("{value:.decimals$}"))
    }
}

fn tick_label(value: f64, step: f64, largest: f64) -> String {
    let decimals = |step: f64| (-(step.abs().log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize;
    if value == 0.0 {
        "0".to_owned()
    } else if step <= 0.0 {
        number(value)
    } else if !(1e-3..1e9).contains(&largest) {
        let places = (value.abs().log10() + 1e-9).floor() - (step.log10() + 1e-9).floor();
        trimmed_exponent(value, places.clamp(0.0, 12.0) as usize)
    } else if largest >= 1e6 {
        format!("{:.*}M", decimals(step / 1e6), value / 1e6)
    } else if largest >= 1e4 {
        format!("{:.*}k", decimals(step / 1e3), value / 1e3)
    } else if step >= 1.0 {
        grouped(value)
    } else {
        format!("{value:.*}", decimals(step))
    }
}

fn trimmed_exponent(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
        None => text,
    }
}

fn trimmed(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

/// The viridis colour map (van der Walt and Smith 2015) at `place` in 0 to 1: perceptually uniform, readable with colour
/// vision deficiencies and in grey. Places outside are the colours of the ends.
pub fn viridis(place: f64) -> [u8; 3] {
    const STOPS: [[u8; 3]; 11] = [
        [0x44, 0x01, 0x54],
        [0x48, 0x24, 0x75],
        [0x41, 0x44, 0x87],
        [0x35, 0x5f, 0x8d],
        [0x2a, 0x78, 0x8e],
        [0x21, 0x91, 0x8c],
        [0x22, 0xa8, 0x84],
        [0x44, 0xbf, 0x70],
        [0x7a, 0xd1, 0x51],
        [0xbd, 0xdf, 0x26],
        [0xfd, 0xe7, 0x25],
    ];
    let last = STOPS.len() - 1;
    let at = if place.is_finite() {
        place.clamp(0.0, 1.0) * last as f64
    } else {
        0.0
    };
    let index = (at as usize).min(last - 1);
    let share = at - index as f64;
    let (from, to) = (STOPS[index], STOPS[index + 1]);
    std::array::from_fn(|channel| {
        (f64::from(from[channel]) * (1.0 - share) + f64::from(to[channel]) * share).round() as u8
    })
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Relative luminance of an sRGB colour (WCAG 2.2).
fn luminance(colour: [u8; 3]) -> f64 {
    let [r, g, b] = colour.map(|channel| {
        let value = f64::from(channel) / 255.0;
        if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// Black or white, whichever stands out more from `colour`.
fn text_on(colour: [u8; 3]) -> &'static str {
    let own = luminance(colour) + 0.05;
    if 1.05 / own >= own / 0.05 {
        "#fff"
    } else {
        "#000"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for the rounding of a few floating-point operations on numbers around one.
    const ROUNDING: f64 = 1e-12;

    fn ramp(count: usize) -> Vec<(f64, f64)> {
        (0..count)
            .map(|index| (index as f64, index as f64))
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(
            ticks(0.0, 1.0, 5),
            (vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 0.2)
        );
        assert_eq!(ticks(3.0, 98.0, 5).0, vec![20.0, 40.0, 60.0, 80.0]);
        assert_eq!(ticks(-1.0, 1.0, 4).0, vec![-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(ticks(0.0, 1.2e-4, 6).0.last(), Some(&1.2e-4));
        for (lo, hi) in [(0.0, 7.3), (-13.0, 1e6), (1e-9, 3e-9), (0.97, 0.983)] {
            for target in 3..9 {
                let (values, step) = ticks(lo, hi, target);
                assert!(
                    values.len() >= target / 2 && values.len() <= 2 * target + 1,
                    "{lo}..{hi}, {target}: {values:?}"
                );
                assert!(
                    values
                        .iter()
                        .all(|value| *value >= lo - 1e-6 * step && *value <= hi + 1e-6 * step)
                );
            }
        }
    }

    #[test]
    fn ticks_of_an_impossible_range_are_none() {
        for (lo, hi) in [
            (f64::NAN, 1.0),
            (0.0, f64::INFINITY),
            (1.0, 1.0),
            (2.0, 1.0),
            (1e300, 1e300 * (1.0 + 1e-15)),
        ] {
            assert_eq!(ticks(lo, hi, 5).0, Vec::<f64>::new(), "{lo}..{hi}");
        }
    }

    #[test]
    fn a_nice_range_encloses_the_values_and_ends_on_ticks() {
        for (lo, hi) in [(0.13, 7.31), (-4.2, 0.1), (2.0, 4.0), (1e-5, 9.9e-5)] {
            let (from, to, values, _) = nice_range(lo, hi, 5);
            assert!(from <= lo && to >= hi);
            assert_eq!((values.first(), values.last()), (Some(&from), Some(&to)));
        }
    }

    #[test]
    fn log_ticks_enclose_the_range_and_stay_few() {
        assert_eq!(log_ticks(0.3, 4.0), vec![0.2, 0.5, 1.0, 2.0, 5.0]);
        assert_eq!(
            log_ticks(0.5, 2000.0),
            vec![0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0]
        );
        assert!(log_ticks(1e-30, 1e30).len() <= 8);
        assert!(
            log_ticks(0.0, 1.0).is_empty()
                && log_ticks(-1.0, 1.0).is_empty()
                && log_ticks(f64::NAN, 1.0).is_empty()
        );
    }

    #[test]
    fn axes_place_their_ends_and_middles() {
        let axis = Axis {
            lo: 2.0,
            hi: 6.0,
            scale: Scale::Linear,
            ticks: Vec::new(),
            step: 1.0,
        };
        assert_eq!(
            [2.0, 4.0, 6.0, 8.0].map(|value| axis.place(value)),
            [0.0, 0.5, 1.0, 1.5]
        );
        let axis = Axis {
            lo: 0.01,
            hi: 100.0,
            scale: Scale::Log,
            ticks: Vec::new(),
            step: 0.0,
        };
        for (value, place) in [(0.01, 0.0), (1.0, 0.5), (100.0, 1.0)] {
            assert!((axis.place(value) - place).abs() < ROUNDING);
        }
    }

    #[test]
    fn numbers_are_written_short() {
        let cases = [
            (0.0, "0"),
            (0.04213, "0.0421"),
            (2.31, "2.31"),
            (31.04, "31.0"),
            (12.0, "12"),
            (1234.6, "1,235"),
            (31_204_352.0, "3.12e7"),
            (1e-4, "1e-4"),
            (-2.5e-6, "-2.5e-6"),
            (f64::NAN, "not finite"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(grouped(31_204_352.0), "31,204,352");
        assert_eq!(
            (grouped(-1000.0), grouped(-0.2), grouped(999.0)),
            ("-1,000".into(), "0".into(), "999".into())
        );
        assert_eq!(Format::Percent.value(0.246), "24.6\u{a0}%");
        assert_eq!(Format::Percent.value(0.002), "0.20\u{a0}%");
    }

    #[test]
    fn tick_labels_of_one_axis_share_their_digits() {
        let labels = |lo, hi, target| {
            let (lo, hi, ticks, step) = nice_range(lo, hi, target);
            Axis {
                lo,
                hi,
                scale: Scale::Linear,
                ticks,
                step,
            }
            .labels(Format::Number)
        };
        assert_eq!(
            labels(0.0, 1.0, 5),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            labels(0.0, 1e-4, 5),
            ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]
        );
        assert_eq!(
            labels(0.0, 2000.0, 4),
            ["0", "500", "1,000", "1,500", "2,000"]
        );
        assert_eq!(labels(0.0, 60_000.0, 3), ["0", "20k", "40k", "60k"]);
        assert_eq!(
            labels(0.0, 2.4e6, 5),
            ["0", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M"]
        );
    }

    /// The recurrence against the definition: a weighted mean over all pairs.
    #[test]
    fn the_running_mean_is_the_weighted_mean() {
        let values: Vec<f64> = (0..50)
            .map(|index| {
                if index == 17 {
                    f64::NAN
                } else {
                    f64::from(index * index % 23)
                }
            })
            .collect();
        let scale = 3.0;
        let means = two_sided_mean(&values, scale);
        for (at, mean) in means.iter().enumerate() {
            let (mut sum, mut weights) = (0.0, 0.0);
            for (other, value) in values
                .iter()
                .enumerate()
                .filter(|(_, value)| value.is_finite())
            {
                let weight = (-(at.abs_diff(other) as f64) / scale).exp();
                sum += weight * value;
                weights += weight;
            }
            if at == 17 {
                assert!(mean.is_nan());
            } else {
                assert!(
                    (mean - sum / weights).abs() < ROUNDING * 1e2,
                    "{at}: {mean} against {}",
                    sum / weights
                );
            }
        }
    }

    #[test]
    fn smoothing_keeps_constants_and_calms_noise() {
        assert!(
            smooth(&[3.0; 100], 5.0)
                .iter()
                .all(|value| (value - 3.0).abs() < ROUNDING)
        );
        let noise: Vec<f64> = (0..200)
            .map(|index| if index % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        assert!(
            smooth(&noise, 4.0)[10..190]
                .iter()
                .all(|value| value.abs() < 0.05)
        );
        assert_eq!(smooth(&noise, 0.0), noise);
        assert!(smooth(&[], 2.0).is_empty());
    }

    #[test]
    fn thinning_keeps_ends_extremes_and_gaps() {
        let mut points = ramp(100_000);
        points[31_415].1 = 1e9;
        points[27_182].1 = -1e9;
        points[60_000].1 = f64::NAN;
        let kept = decimate(&points, 0.0, 99_999.0, 200);
        assert!(kept.len() <= 5 * 200 && kept.len() >= 200);
        for index in [0, 31_415, 27_182, 99_999] {
            assert!(kept.contains(&points[index]), "{index}");
        }
        assert!(
            kept.iter()
                .any(|point| point.1.is_nan() && point.0 == 60_000.0)
        );
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(decimate(&ramp(10), 0.0, 9.0, 200), ramp(10));
    }

    #[test]
    fn a_chart_of_many_points_stays_small() {
        let points = (0..200_000)
            .map(|index| (f64::from(index), (f64::from(index) * 0.37).sin()))
            .collect();
        let chart = LineChart::new("many").series(Series::new("a", Colour::Ink, points).smoothed());
        let html = chart.to_html();
        assert!(html.len() < 100_000, "{}", html.len());
    }

    #[test]
    fn values_that_are_not_finite_are_gaps() {
        let mut points = ramp(9);
        points[4].1 = f64::NAN;
        points[6].1 = f64::INFINITY;
        let html = LineChart::new("loss")
            .series(Series::new("a", Colour::Slot(0), points))
            .to_html();
        let start = html
            .find("plot-line s1\" d=\"")
            .map(|at| at + "plot-line s1\" d=\"".len());
        let path = start
            .and_then(|at| html[at..].split('"').next())
            .unwrap_or_default();
        // 0-3 is a line, 5 stands alone between two gaps, 7-8 is a line.
        assert_eq!(path.matches('M').count(), 3, "{path}");
        assert_eq!(path.matches('L').count(), 4, "{path}");
        assert_eq!(path.matches("h0").count(), 1, "{path}");
        assert_eq!(html.matches("plot-gap").count(), 2);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }

    #[test]
    fn charts_without_values_say_so() {
        let empty = LineChart::new("empty");
        assert!(!empty.has_values());
        assert!(empty.to_html().contains("no values"));
        let gaps = LineChart::new("gaps").series(Series::new(
            "a",
            Colour::Ink,
            vec![(1.0, f64::NAN), (2.0, f64::NAN)],
        ));
        assert!(gaps.to_html().contains("none of 2 values can be shown"));
        let negative = LineChart::new("log").scale(Scale::Log).series(Series::new(
            "a",
            Colour::Ink,
            vec![(1.0, -1.0)],
        ));
        assert!(negative.to_html().contains("none of 1 values can be shown"));
    }

    #[test]
    fn one_point_and_one_value_have_an_axis() {
        for points in [
            vec![(100.0, 0.0)],
            vec![(100.0, 3.0)],
            vec![(0.0, 3.0), (1.0, 3.0)],
            vec![(5.0, -9e299)],
            vec![(1.0, -9e299), (2.0, 9e299)],
        ] {
            let html = LineChart::new("one")
                .series(Series::new("a", Colour::Ink, points.clone()))
                .to_html();
            assert!(
                !html.contains("NaN") && !html.contains("inf"),
                "{points:?}: {html}"
            );
            assert!(html.contains("plot-dot"), "{points:?}");
            let ticks = html.matches("text-anchor=\"middle\"").count() - 1;
            assert!(ticks == 1 || points.len() > 1, "{points:?}: {html}");
        }
    }

    #[test]
    fn an_outlier_is_counted_and_does_not_set_the_axis() {
        let mut points: Vec<(f64, f64)> = (0..1000)
            .map(|index| (f64::from(index), 1.0 + f64::from(index % 7) * 0.1))
            .collect();
        points[500].1 = 50.0;
        let chart = LineChart::new("norm").series(Series::new("a", Colour::Ink, points).smoothed());
        let lines: Vec<_> = chart.series.iter().map(Series::line).collect();
        assert!(chart.value_axis(&lines).hi < 10.0);
        assert!(chart.to_html().contains("1 above, up to 50"));
    }

    #[test]
    fn names_are_escaped() {
        let name = "<script>alert('\"&')</script>";
        let html = LineChart::new(name)
            .unit(name)
            .x_label(name)
            .series(Series::new(name, Colour::Slot(1), ramp(3)).markers())
            .series(Series::new(name, Colour::Slot(2), ramp(3)))
            .reference(1.0, name)
            .event(1.0, name)
            .to_html();
        let map = HeatMap::new(name, vec![name.into()], vec![name.into()], vec![vec![0.5]])
            .unit(name)
            .labels(name, name)
            .to_html();
        assert!(!html.contains("<script") && !map.contains("<script"));
        assert!(!html.contains("alert('") && !map.contains("alert('"));
    }

    #[test]
    fn heat_maps_take_ragged_rows() {
        let values = vec![vec![0.25], vec![0.5, f64::NAN, 0.75, 9.0]];
        let map = HeatMap::new(
            "gates",
            vec!["1".into(), "2".into()],
            vec!["V0".into(), "V1".into(), "V2".into()],
            values,
        )
        .range(0.0, 1.0);
        let html = map.to_html();
        assert_eq!(html.matches("plot-absent").count(), 3);
        assert_eq!(html.matches("plot-cell").count(), 3);
        assert!(html.contains(">0.75<") && !html.contains(">9.00<"));
        let empty = HeatMap::new("none", Vec::new(), Vec::new(), Vec::new()).to_html();
        assert!(!empty.contains("NaN") && !empty.contains("inf"));
    }

    #[test]
    fn the_colour_map_grows_lighter_and_its_numbers_can_be_read() {
        let places: Vec<f64> = (0..=100)
            .map(|percent| f64::from(percent) / 100.0)
            .collect();
        for pair in places.windows(2) {
            assert!(
                luminance(viridis(pair[1])) > luminance(viridis(pair[0])),
                "{pair:?}"
            );
        }
        for place in places {
            let own = luminance(viridis(place)) + 0.05;
            let contrast = if text_on(viridis(place)) == "#fff" {
                1.05 / own
            } else {
                own / 0.05
            };
            // WCAG 2.2, level AA for text.
            assert!(contrast >= 4.5, "{place}: {contrast}");
        }
        assert_eq!(viridis(f64::NAN), viridis(-1.0));
        assert_eq!(hex(viridis(2.0)), "#fde725");
    }

    #[test]
    fn the_highest_bar_says_how_high_once() {
        let bars = |values: &[f64]| {
            let bars = values.iter().map(|value| ("name".to_owned(), *value));
            Bars::new("bars", bars.collect()).to_html()
        };
        for values in [&[788.0, 788.0, 5.0][..], &[5.0, 788.0]] {
            assert_eq!(bars(values).matches(">788</text>").count(), 1);
        }
        assert_eq!(bars(&[0.0, 0.0]).matches(">0</text>").count(), 0);
    }
}
