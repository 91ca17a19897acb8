//! Episodes that an agent walked, drawn on the ground of their houses.

use maud::{Markup, html};

use crate::numbers::number;
use crate::page::{Section, grid};
use crate::record::{WalkExample, WalksRecord};

/// Units of the drawing for a side of a cell.
const CELL: f64 = 6.0;

/// Colours of the classes from 1 on, pale so that paths stand out; further classes begin again after the first three.
const COLOURS: [&str; 11] = [
    "#efe9dd", "#7d7d84", "#c9a26b", "#b9cde3", "#c7dfc0", "#e9c9c4", "#d9cbe6", "#efd9a7",
    "#bfe0dc", "#dcd3c3", "#cfd2da",
];

/// Classes whose colours no other has: ground, walls and doors of generated houses.
const OWN: usize = 3;

/// Each episode as a plan with both paths; `None` without one.
pub(crate) fn walks(record: &WalksRecord) -> Option<Section> {
    if record.examples.is_empty() {
        return None;
    }
    let plans = record
        .examples
        .iter()
        .map(|example| ("card", plan(example, record.within)));
    Some(Section {
        anchor: "walks",
        title: "Walks",
        lead: format!(
            "Held-out episodes at step {}, from above. The dashed line is the path that the instruction describes, the full line the one that the \
             agent took; it begins at the ring and ends at the dot. An agent that stops within {} m of the goal has arrived.",
            record.step,
            number(record.within)
        ),
        body: grid(plans),
    })
}

fn plan(example: &WalkExample, within: f64) -> Markup {
    let rows = example.classes.len();
    let columns = example.classes.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns as f64 * CELL, rows as f64 * CELL);
    let arrived = example.stopped && example.metres <= within;
    let end = match (example.stopped, arrived) {
        (true, true) => "arrived",
        (true, false) => "stopped elsewhere",
        (false, _) => "did not stop",
    };
    let label = format!("{}: {end}", example.instruction);
    html! {
        figure.plot {
            figcaption {
                span.plot-title dir="auto" { (example.instruction) }
                " "
                span.plot-unit { (end) ", " (number(example.metres)) " m from the goal" }
            }
            div.plot-scroll {
                svg viewBox=(format!("0 0 {width:.0} {height:.0}")) style=(format!("width:{width:.0}px;max-width:100%"))
                    role="img" aria-label=(label) {
                    @for (row, classes) in example.classes.iter().enumerate() {
                        @for (from, to, class) in runs(classes) {
                            rect x=(units(from as f64)) y=(units(row as f64)) width=(units((to - from) as f64)) height=(units(1.0))
                                fill=(colour(class)) shape-rendering="crispEdges" {}
                        }
                    }
                    (line(&example.path, "#1a5fb4", "6 5"))
                    (line(&example.walked, "#c01c28", "none"))
                    @if let Some([x, y]) = example.walked.first() {
                        circle cx=(units(*x)) cy=(units(*y)) r="5" fill="none" stroke="#c01c28" stroke-width="2.5" {}
                    }
                    @if let Some([x, y]) = example.walked.last() {
                        circle cx=(units(*x)) cy=(units(*y)) r="5" fill="#c01c28" {}
                    }
                }
            }
        }
    }
}

fn units(cells: f64) -> String {
    format!("{:.1}", cells * CELL)
}

/// Neighbours of one class in a row: from, to, class. Nothing is drawn of nothing.
fn runs(classes: &[u8]) -> Vec<(usize, usize, u8)> {
    let mut runs: Vec<(usize, usize, u8)> = Vec::new();
    for (at, class) in classes.iter().enumerate().filter(|(_, class)| **class > 0) {
        match runs.last_mut() {
            Some((_, to, before)) if *to == at && before == class => *to = at + 1,
            _ => runs.push((at, at + 1, *class)),
        }
    }
    runs
}

fn colour(class: u8) -> &'static str {
    let at = usize::from(class).saturating_sub(1);
    let further = COLOURS.len() - OWN;
    COLOURS[if at < COLOURS.len() {
        at
    } else {
        OWN + (at - OWN) % further
    }]
}

fn line(path: &[[f64; 2]], colour: &str, dashes: &str) -> Markup {
    let points = path
        .iter()
        .filter(|[x, y]| x.is_finite() && y.is_finite())
        .map(|[x, y]| format!("{},{}", units(*x), units(*y)));
    let points: Vec<String> = points.collect();
    html! {
        polyline points=(points.join(" ")) fill="none" stroke=(colour) stroke-width="2.5" stroke-linejoin="round"
            stroke-dasharray=(dashes) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> WalkExample {
        WalkExample {
            instruction: "stop at the <green> chair".to_owned(),
            classes: vec![vec![0, 1, 1, 2], vec![1, 1, 40, 40]],
            path: vec![[0.5, 0.5], [3.5, 1.5]],
            walked: vec![[0.5, 0.5], [2.0, f64::NAN], [1.5, 1.5]],
            metres: 2.0,
            stopped: true,
        }
    }

    #[test]
    fn neighbours_of_one_class_are_drawn_at_once() {
        assert_eq!(runs(&[0, 1, 1, 2, 0, 2]), [(1, 3, 1), (3, 4, 2), (5, 6, 2)]);
        assert!(runs(&[0, 0]).is_empty());
        assert_eq!(colour(1), COLOURS[0]);
        assert_eq!(colour(12), COLOURS[OWN]);
        assert_eq!(colour(255), COLOURS[OWN + (254 - OWN) % 8]);
    }

    #[test]
    fn both_paths_are_drawn_and_what_came_of_it_is_said() {
        let record = |example| WalksRecord {
            step: 7,
            within: 3.0,
            examples: vec![example],
        };
        let html = walks(&record(example())).unwrap().to_html().into_string();
        assert!(html.contains("&lt;green&gt;") && !html.contains("<green>"));
        assert!(html.contains("arrived, 2 m from the goal"), "{html}");
        assert!(!html.contains("NaN"), "{html}");
        assert_eq!(html.matches("<rect").count(), 4);
        let far = WalkExample {
            metres: 4.0,
            ..example()
        };
        let html = walks(&record(far)).unwrap().to_html().into_string();
        assert!(html.contains("stopped elsewhere"));
        let lost = WalkExample {
            stopped: false,
            ..example()
        };
        let html = walks(&record(lost)).unwrap().to_html().into_string();
        assert!(html.contains("did not stop"));
        let none = WalksRecord {
            examples: Vec::new(),
            ..record(example())
        };
        assert!(walks(&none).is_none());
    }
}
