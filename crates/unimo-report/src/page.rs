//! A page and its parts: its head, sections, tiles with a figure each, charts in cards.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use crate::charts::{self, LineChart};

const STYLE: &str = include_str!("page.css");

/// The page needs nothing from elsewhere, and the browser enforces this policy.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// A part of the page: anchor, title, one sentence on how to read it, and its content.
pub struct Section {
    /// Its fragment in addresses of the page.
    pub anchor: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// How to read it.
    pub lead: String,
    /// Its content.
    pub body: Markup,
}

impl Section {
    /// The section as HTML.
    pub fn to_html(&self) -> Markup {
        html! {
            section id=(self.anchor) {
                h2 { (self.title) }
                p.lead { (self.lead) }
                (self.body)
            }
        }
    }
}

/// A whole page around `body`, which starts with its header. It holds the report's style, `style` and the charts' script.
pub fn document(title: &str, style: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(charts::STYLE)) (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body {
                (body)
                footer {
                    "Written by unimo " (env!("CARGO_PKG_VERSION"))
                    ". One file that makes no request: it can be mailed or archived as it is."
                }
                script { (PreEscaped(charts::SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// The head of a page: its kind, its title, facts with their names, and links to `sections`, if there are any.
pub fn header<T: Render>(
    kind: &str,
    title: &str,
    facts: &[(T, String)],
    sections: &[Section],
) -> Markup {
    html! {
        header {
            div.kicker { (kind) }
            h1 { (title) }
            dl.facts {
                @for (name, value) in facts {
                    div { dt { (name) } dd { (value) } }
                }
            }
            @if !sections.is_empty() {
                nav aria-label="sections" {
                    @for section in sections { a href={ "#" (section.anchor) } { (section.title) } }
                }
            }
        }
    }
}

/// An image as a `data:` address, by the signature of its format; `None` if it is neither PNG, JPEG nor WebP.
pub fn data_address(picture: &[u8]) -> Option<String> {
    let kind = if picture.starts_with(b"\x89PNG\r\n\x1a\n") {
        "png"
    } else if picture.starts_with(b"\xff\xd8\xff") {
        "jpeg"
    } else if picture.starts_with(b"RIFF") && picture.get(8..12) == Some(b"WEBP") {
        "webp"
    } else {
        return None;
    };
    let code = BASE64_STANDARD.encode(picture);
    Some(format!("data:image/{kind};base64,{code}"))
}

/// Tiles beside each other, in this many columns where there is room.
pub(crate) fn tiles(columns: usize, tiles: &[Markup]) -> Markup {
    html! {
        div.tiles style={ "--columns:" (columns) } { @for tile in tiles { (tile) } }
    }
}

/// A figure of the summary: what it is, its value with its unit, and up to two lines that explain it.
pub(crate) fn tile(class: &str, label: &str, value: &str, details: &[&str]) -> Markup {
    let with_unit = value
        .split_once([' ', '\u{a0}'])
        .filter(|(number, _)| number.contains(|character: char| character.is_ascii_digit()));
    html! {
        div class={ "tile " (class) } {
            div.tile-label { (label) }
            div.tile-value {
                // The unit is smaller than the number, so that the eye finds the number.
                @if let Some((number, unit)) = with_unit {
                    (number) " " small { (unit) }
                } @else {
                    (value)
                }
            }
            div.tile-detail {
                @for (index, detail) in details.iter().enumerate() {
                    @if index > 0 { br; }
                    (detail)
                }
            }
        }
    }
}

/// Figures in cards, two in a row. A wide chart has its own row, and so has the last of an odd number.
pub(crate) fn cards(charts: Vec<LineChart>) -> Markup {
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
pub fn grid<'a>(figures: impl Iterator<Item = (&'a str, Markup)>) -> Markup {
    html! {
        div.cards { @for (class, figure) in figures { div class=(class) { (figure) } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_signature() {
        assert_eq!(
            data_address(b"\x89PNG\r\n\x1a\n").as_deref(),
            Some("data:image/png;base64,iVBORw0KGgo=")
        );
        let kinds: [(&[u8], _); 2] = [
            (b"\xff\xd8\xff\xe0", "data:image/jpeg;base64,"),
            (b"RIFF\0\0\0\0WEBP", "data:image/webp;base64,"),
        ];
        for (picture, begin) in kinds {
            assert!(data_address(picture).is_some_and(|address| address.starts_with(begin)));
        }
        for other in [
            &b"<svg onload='alert(1)'/>"[..],
            b"RIFF\0\0\0\0WAVE",
            b"RIFF",
            b"",
        ] {
            assert_eq!(data_address(other), None);
        }
    }
}
