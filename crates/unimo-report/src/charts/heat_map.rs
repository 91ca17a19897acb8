//! A matrix as coloured cells.

use std::fmt::Write as _;

use super::axis::widened;
use super::colours::{hex, text_on, viridis};
use crate::html::escape;
use crate::numbers::{number, short};

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
