//! A matrix as coloured cells.

use maud::{Markup, html};

use super::axis::widened;
use super::colours::{hex, text_on, viridis};
use super::tenths;
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
    /// `values[row][column]`. A row may be shorter than `columns`. Absent or not finite values are empty cells.
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

    /// What rows and columns are, such as `layer` and `level`.
    pub fn labels(mut self, row: impl Into<String>, column: impl Into<String>) -> Self {
        self.row_label = row.into();
        self.column_label = column.into();
        self
    }

    /// The values at the ends of the colour map, by default those of the matrix. Set it to compare two maps.
    pub fn range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some((lo, hi));
        self
    }

    /// Width and height of a cell in SVG units.
    pub fn cell(mut self, width: f64, height: f64) -> Self {
        self.cell = (width, height);
        self
    }

    /// Shows the numbers in the hover titles alone: for small cells.
    pub fn without_numbers(mut self) -> Self {
        self.numbers = false;
        self
    }

    /// Leaves out the colour bar: for all but one of several maps with one range.
    pub fn without_bar(mut self) -> Self {
        self.bar = false;
        self
    }

    /// The figure as HTML.
    pub fn to_html(&self) -> Markup {
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
        let (cell_w, cell_h) = self.cell;
        let longest = |names: &[String]| {
            names
                .iter()
                .map(|name| name.chars().count())
                .max()
                .unwrap_or(0) as f64
                * 7.2
        };
        let title_room = |label: &str| if label.is_empty() { 0.0 } else { 18.0 };
        let left = title_room(&self.row_label) + longest(&self.rows) + 10.0;
        let slanted = longest(&self.columns) > cell_w - 4.0;
        let top = title_room(&self.column_label)
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
        let label = format!(
            "{}: {} rows, {} columns",
            self.title,
            self.rows.len(),
            self.columns.len()
        );
        html! {
            figure.plot.plot-heat {
                figcaption {
                    span.plot-title { (self.title) }
                    @if !self.unit.is_empty() { " " span.plot-unit { (self.unit) } }
                }
                div.plot-scroll {
                    svg viewBox=(format!("0 0 {width:.0} {height:.0}"))
                        style=(format!("width:{width:.0}px;min-width:{:.0}px", 0.8 * width)) role="img" tabindex="0"
                        data-cells=(self.columns.len()) aria-label=(label) {
                        @if !self.row_label.is_empty() {
                            text.plot-x text-anchor="middle"
                                transform=(format!("translate(12 {:.1}) rotate(-90)", top + grid_h / 2.0)) { (self.row_label) }
                        }
                        @if !self.column_label.is_empty() {
                            text.plot-x text-anchor="middle" x=(tenths(left + grid_w / 2.0)) y="12" { (self.column_label) }
                        }
                        @for (index, name) in self.columns.iter().enumerate() {
                            (column_name(name, (left + (index as f64 + 0.5) * cell_w, top - 7.0), slanted))
                        }
                        @for (row, name) in self.rows.iter().enumerate() {
                            @let y = top + row as f64 * cell_h;
                            text.plot-y x=(tenths(left - 8.0)) y=(tenths(y + cell_h / 2.0 + 4.0)) { (name) }
                            @for (column, column_name) in self.columns.iter().enumerate() {
                                @let value = self.value(row, column);
                                (self.draw_cell(
                                    (left + column as f64 * cell_w, y),
                                    value,
                                    (value - lo) / (hi - lo),
                                    &format!("{name}, {column_name}"),
                                ))
                            }
                        }
                        @if self.bar { (colour_bar((left, top + grid_h + 14.0), bar_w, (lo, hi))) }
                    }
                }
            }
        }
    }

    fn value(&self, row: usize, column: usize) -> f64 {
        let value = self.values.get(row).and_then(|values| values.get(column));
        value.copied().unwrap_or(f64::NAN)
    }

    fn draw_cell(&self, (x, y): (f64, f64), value: f64, place: f64, name: &str) -> Markup {
        // Two units between cells keep neighbours of one colour apart.
        let (w, h) = (self.cell.0 - 2.0, self.cell.1 - 2.0);
        let colour = viridis(place);
        let shown = if value.abs() < 100.0 {
            format!("{value:.2}")
        } else {
            short(value)
        };
        html! {
            @if value.is_finite() {
                g {
                    title { (name) ": " (number(value)) }
                    rect x=(tenths(x + 1.0)) y=(tenths(y + 1.0)) width=(tenths(w)) height=(tenths(h)) rx="3" fill=(hex(colour)) {}
                    @if self.numbers {
                        text.plot-cell x=(tenths(x + self.cell.0 / 2.0)) y=(tenths(y + self.cell.1 / 2.0 + 4.0))
                            style={ "fill:" (text_on(colour)) } { (shown) }
                    }
                }
            } @else {
                g {
                    title { (name) ": no value" }
                    rect.plot-absent x=(tenths(x + 1.0)) y=(tenths(y + 1.0)) width=(tenths(w)) height=(tenths(h)) rx="3" {}
                }
            }
        }
    }
}

fn column_name(name: &str, (x, y): (f64, f64), slanted: bool) -> Markup {
    html! {
        @if slanted {
            text.plot-x transform=(format!("translate({x:.1} {y:.1}) rotate(-45)")) { (name) }
        } @else {
            text.plot-x text-anchor="middle" x=(tenths(x)) y=(tenths(y)) { (name) }
        }
    }
}

fn colour_bar((x, y): (f64, f64), width: f64, (lo, hi): (f64, f64)) -> Markup {
    const STEPS: usize = 48;
    let step = width / STEPS as f64;
    html! {
        @for index in 0..STEPS {
            @let place = (index as f64 + 0.5) / STEPS as f64;
            // Half a unit of overlap, or the background shines through the seams.
            rect x=(tenths(x + step * index as f64)) y=(tenths(y)) width=(tenths(step + 0.5)) height="8" fill=(hex(viridis(place))) {}
        }
        @for (place, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
            text.plot-x text-anchor=(anchor) x=(tenths(x + width * place)) y=(tenths(y + 24.0)) {
                (short(lo + (hi - lo) * place))
            }
        }
    }
}
