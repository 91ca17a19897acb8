//! A page and its parts: sections, tiles with a figure each, charts in cards.

use std::fmt::Write as _;

use crate::charts::{self, LineChart};
use crate::html::escape;

const STYLE: &str = include_str!("page.css");

/// A part of the page: anchor, title, one sentence that says how to read it, and its content.
pub struct Section {
    /// What addresses in the page end with.
    pub anchor: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// How to read it.
    pub lead: String,
    /// Its content, HTML.
    pub body: String,
}

impl Section {
    /// The section as HTML.
    pub fn to_html(&self) -> String {
        format!(
            "<section id=\"{}\">\n<h2>{}</h2>\n<p class=\"lead\">{}</p>\n{}</section>\n",
            self.anchor, self.title, self.lead, self.body
        )
    }
}

/// A whole page around `body`, which starts with its header: the style of the report and `style`.
pub fn document(title: &str, style: &str, body: &str) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    // The page needs nothing from elsewhere, and says so in a way that the browser enforces.
    out.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    );
    let _ = write!(
        out,
        "<title>{}</title>\n<style>\n{}{STYLE}{style}</style>\n</head>\n<body>\n{body}",
        escape(title),
        charts::STYLE
    );
    let _ = write!(
        out,
        "<footer>Written by unimo {}. One file that makes no request: it can be mailed or archived as it is.</footer>\n\
         <script>\n{}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        charts::SCRIPT
    );
    out
}

/// A figure of the summary: what it is, its value with its unit, and up to two lines that explain it.
pub(crate) fn tile(class: &str, label: &str, value: &str, details: &[&str]) -> String {
    // The unit is smaller than the number, which is what the eye should find.
    let value = match value.split_once([' ', '\u{a0}']) {
        Some((number, unit)) if number.contains(|character: char| character.is_ascii_digit()) => {
            format!("{} <small>{}</small>", escape(number), escape(unit))
        }
        _ => escape(value),
    };
    let details: Vec<String> = details.iter().map(|detail| escape(detail)).collect();
    format!(
        "<div class=\"tile {class}\"><div class=\"tile-label\">{}</div><div class=\"tile-value\">{value}</div>\
         <div class=\"tile-detail\">{}</div></div>\n",
        escape(label),
        details.join("<br>")
    )
}

/// Figures in cards, two beside each other; a wide chart has a row of its own, and so has the last of an odd number.
pub(crate) fn cards(charts: Vec<LineChart>) -> String {
    let odd = charts.iter().filter(|chart| !chart.is_wide()).count() % 2 == 1;
    let last = charts.len().saturating_sub(1);
    let widened = charts.into_iter().enumerate();
    let figures = widened.map(|(index, chart)| {
        let chart = if odd && index == last {
            chart.wide()
        } else {
            chart
        };
        (
            if chart.is_wide() { "card row" } else { "card" },
            chart.to_html(),
        )
    });
    grid(figures)
}

/// Figures in cards, each with the class of its card.
pub fn grid<'a>(figures: impl Iterator<Item = (&'a str, String)>) -> String {
    let cards: String = figures
        .map(|(class, figure)| format!("<div class=\"{class}\">{figure}</div>\n"))
        .collect();
    format!("<div class=\"cards\">\n{cards}</div>\n")
}
