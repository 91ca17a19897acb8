//! The numbers of evaluators that are not retrieval, over the steps of a run, beside chance.

use std::collections::BTreeSet;

use maud::{Markup, html};

use crate::charts::{Colour, LineChart, Series};
use crate::numbers::{grouped, number};
use crate::page::{Section, cards};
use crate::record::{EvalRecord, RunFolder};

use super::multiple_of_chance;

/// A curve of each number, and a table of the last ones.
pub(crate) fn scores(folder: &RunFolder) -> Option<Section> {
    let others = folder.evals.iter().filter(|eval| !eval.is_retrieval());
    let others: Vec<&EvalRecord> = others.collect();
    let last = others.last()?;
    let names: BTreeSet<&String> = others.iter().flat_map(|eval| eval.scalars.keys()).collect();
    let curves = names.iter().filter_map(|name| {
        let of = |eval: &&EvalRecord| {
            let scalar = eval.scalars.get(*name)?;
            Some((eval.step as f64, scalar.value))
        };
        let points: Vec<(f64, f64)> = others.iter().filter_map(of).collect();
        let count = points.len();
        let series = Series::new(name.as_str(), Colour::Slot(0), points).markers();
        let chart = LineChart::new(name.as_str()).series(series);
        let chance = others
            .iter()
            .rev()
            .find_map(|e| e.scalars.get(*name)?.chance);
        let chart = match chance {
            Some(chance) => chart.reference(chance, "chance"),
            None => chart,
        };
        // A single evaluation is in the table.
        (chart.has_values() && count > 1).then_some(chart)
    });
    let curves = cards(curves.collect());
    let newest = |name: &str| {
        let found = others
            .iter()
            .rev()
            .find_map(|e| Some((e, e.scalars.get(name)?)));
        found.map(|(eval, scalar)| (eval.step, *scalar))
    };
    let rows = names.iter().filter_map(|name| {
        let (step, scalar) = newest(name)?;
        Some((name, step, scalar))
    });
    let rows: Vec<_> = rows.collect();
    // A column that no number fills is left out.
    let intervals = rows.iter().any(|(.., scalar)| scalar.interval.is_some());
    let chances = rows.iter().any(|(.., scalar)| scalar.chance.is_some());
    let dash = || "–".to_owned();
    let body = html! {
        (curves)
        div.card {
            div.scroll {
                table {
                    thead {
                        tr {
                            th scope="row" { "number" }
                            th { "value" }
                            @if intervals { th { "interval of 95 %" } }
                            @if chances { th { "chance" } th { "times chance" } }
                            th { "step" }
                        }
                    }
                    tbody {
                        @for (name, step, scalar) in &rows {
                            tr {
                                th scope="row" { (breakable(name)) }
                                td { (number(scalar.value)) }
                                @if intervals {
                                    td { (scalar.interval.map_or_else(dash, |[from, to]| format!("[{}, {}]", number(from), number(to)))) }
                                }
                                @if chances {
                                    td { (scalar.chance.map_or_else(dash, number)) }
                                    td { (scalar.chance.and_then(|c| multiple_of_chance(scalar.value, c)).unwrap_or_else(dash)) }
                                }
                                td { (grouped(*step as f64)) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "scores",
        title: "Other evaluations",
        lead: format!("The last one is of {}: {}.", counted(last), last.split),
        body,
    })
}

/// What an evaluation was of. Those of samples count each as an image and a text, whatever it has.
fn counted(eval: &EvalRecord) -> String {
    match (eval.images, eval.texts) {
        (images, texts) if images == texts => format!("{images} samples"),
        (0, texts) => format!("{texts} texts"),
        (images, 0) => format!("{images} images"),
        (images, texts) => format!("{images} images and {texts} texts"),
    }
}

/// A name that may go on in the next line after a dot.
fn breakable(name: &str) -> Markup {
    html! {
        @for part in name.split_inclusive('.') { (part) wbr; }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::ScalarRecord;

    #[test]
    fn every_number_stands_beside_chance() {
        let eval = |step, value| EvalRecord {
            evaluator: "prompts".to_owned(),
            step,
            split: "<classes>".to_owned(),
            scalars: BTreeMap::from([(
                "prompts.top1".to_owned(),
                ScalarRecord {
                    value,
                    chance: Some(0.1),
                    interval: Some([0.15, 0.25]),
                },
            )]),
            ..EvalRecord::default()
        };
        let mut folder = RunFolder::default();
        assert!(scores(&folder).is_none());
        folder.evals = vec![eval(10, 0.2), eval(20, 0.4)];
        let section = scores(&folder).unwrap();
        assert!(section.lead.contains("<classes>"));
        let html = section.to_html().into_string();
        assert!(html.contains("&lt;classes&gt;") && !html.contains("<classes>"));
        assert!(
            html.contains("prompts.<wbr>top1<wbr>")
                && html.contains("4.0×")
                && html.contains("[0.150, 0.250]"),
            "{html}"
        );
    }
}
