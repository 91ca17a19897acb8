//! The head of a report: facts, what a reader must know, and the figures in short.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use crate::charts;
use crate::numbers::{Format, duration, grouped, number, seconds};
use crate::page::{self, Section, tile, tiles};
use crate::record::{EvalRecord, RetrievalRecord, RunFolder};
use crate::sections::{method_name, multiple_of_chance, objective_names, wait_share};

/// Facts that a report names first, in this order; others follow.
const FIRST: [&str; 7] = [
    "recipe", "data", "device", "backend", "seed", "started", "versions",
];
/// Facts that are shown elsewhere in the report.
const ELSEWHERE: [&str; 4] = ["name", "parameters", "objectives", "unusable_when_opened"];

pub(crate) fn header(name: &str, folder: &RunFolder, sections: &[Section]) -> Markup {
    let others = folder.facts.keys().map(String::as_str);
    let others = others.filter(|key| !FIRST.contains(key) && !ELSEWHERE.contains(key));
    let facts: Vec<(String, String)> = FIRST
        .into_iter()
        .chain(others)
        .filter_map(|key| Some((key.replace('_', " "), fact(key, folder.facts.get(key)?))))
        .filter(|(_, text)| !text.is_empty())
        .chain(skipped(folder))
        .collect();
    page::header("unimo · training run", name, &facts, sections)
}

/// The number of items that could not be used. What the data says of itself counts those alone that were found when it was opened.
fn skipped(folder: &RunFolder) -> Option<(String, String)> {
    let count = grouped(folder.skipped_count as f64);
    let text = format!("{count}{}", folder.found_when());
    (folder.skipped_count > 0).then(|| ("unusable items in all".to_owned(), text))
}

fn fact(key: &str, value: &Value) -> String {
    match key {
        // The seed names the run and is no quantity: no digit of it is rounded.
        "seed" => value.to_string().trim_matches('"').to_owned(),
        "started" => readable_time(&plain(value)),
        _ => plain(value),
    }
}

/// A JSON value as a reader wants it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::Number(value) => match value.as_i64() {
            Some(whole) if whole.unsigned_abs() < 10_000 => whole.to_string(),
            Some(whole) => grouped(whole as f64),
            None => value.as_f64().map_or_else(|| value.to_string(), number),
        },
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(values) => values
            .iter()
            .map(|(key, value)| format!("{key} {}", plain(value)))
            .collect::<Vec<_>>()
            .join(" · "),
    }
}

/// `2026-11-21T23:43:21.5Z` as `2026-11-21 23:43 UTC`; text that is not an RFC 3339 time stays as it is.
fn readable_time(text: &str) -> String {
    let time: Result<Timestamp, _> = text.parse();
    time.map_or_else(
        |_| text.to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// What a reader must know before believing the figures below.
pub(crate) fn problems(folder: &RunFolder) -> Markup {
    let mut notes: Vec<String> = Vec::new();
    let lost: Vec<u64> = folder
        .steps
        .iter()
        .filter(|step| !step.loss.is_finite())
        .map(|step| step.step)
        .collect();
    if let (Some(first), Some(last)) = (lost.first(), folder.steps.last()) {
        notes.push(format!(
            "The loss was not a finite number at {} of {} logged steps, first at step {}{}.",
            grouped(lost.len() as f64),
            grouped(folder.steps.len() as f64),
            grouped(*first as f64),
            if last.loss.is_finite() {
                ""
            } else {
                "; the run ended that way"
            }
        ));
    }
    notes.extend(folder.problems.iter().cloned());
    html! {
        @if !notes.is_empty() {
            div.notes role="note" {
                b { "Please note" }
                ul { @for note in notes { li { (note) } } }
            }
        }
    }
}

pub(crate) fn summary(folder: &RunFolder) -> Markup {
    let mut figures = Vec::new();
    if let Some((eval, best)) = headline(&folder.evals) {
        let chance = eval.chance.as_ref();
        for (label, found, random) in [
            (
                "Text → image R@1",
                &best.text_to_image,
                chance.map(|chance| &chance.text_to_image),
            ),
            (
                "Image → text R@1",
                &best.image_to_text,
                chance.map(|chance| &chance.image_to_text),
            ),
        ] {
            let multiple = random.and_then(|random| multiple_of_chance(found.r1, random.r1));
            let chance = multiple.map(|multiple| format!("{multiple} chance"));
            let source = format!("{}, {}", method_name(&best.method), eval.split);
            let details: Vec<&str> = chance
                .iter()
                .map(String::as_str)
                .chain([source.as_str()])
                .collect();
            figures.push(tile(
                "hero",
                label,
                &Format::Percent.value(found.r1),
                &details,
            ));
        }
    }
    let steps = &folder.steps;
    if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
        // The first value as it was logged, the last as the curve shows it.
        let ends = |values: Vec<f64>| {
            let line = charts::smooth(&values, charts::smoothing_scale(values.len()));
            Some((
                values.into_iter().find(|value| value.is_finite())?,
                *line.last()?,
            ))
        };
        if let Some((start, end)) = ends(steps.iter().map(|step| step.loss).collect()) {
            let from = format!(
                "from {} at step {}",
                number(start),
                grouped(first.step as f64)
            );
            figures.push(tile("", "Total loss", &number(end), &[&from]));
        }
        for name in objective_names(steps) {
            let records: Vec<_> = steps
                .iter()
                .filter_map(|step| step.objective(&name))
                .collect();
            if let Some((start, end)) = ends(records.iter().map(|record| record.loss).collect()) {
                let mut details = vec![format!("from {}", number(start))];
                if let Some((_, accuracy)) =
                    ends(records.iter().map(|record| record.accuracy).collect())
                {
                    details.push(format!("accuracy {}", Format::Percent.value(accuracy)));
                }
                let details: Vec<&str> = details.iter().map(String::as_str).collect();
                figures.push(tile(
                    "",
                    &format!("{} loss", name.to_uppercase()),
                    &number(end),
                    &details,
                ));
            }
        }
        if let Some(rate) = median(steps.iter().map(|step| step.pairs_per_second)) {
            let time = median(steps.iter().map(|step| step.step_seconds))
                .map(|time| format!("{} a step", seconds(time)));
            let share = wait_share(steps)
                .map(|share| format!("{} waiting for data", Format::Percent.value(share)));
            let details: Vec<&str> = [&time, &share]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            figures.push(tile(
                "",
                "Throughput, median",
                &format!("{} samples/s", number(rate)),
                &details,
            ));
        }
        let epochs = if last.epoch.is_finite() {
            let of = match last.stage.as_str() {
                "" => String::new(),
                stage => format!(" of stage \"{stage}\""),
            };
            format!("{} epochs{of}", number(last.epoch))
        } else {
            String::new()
        };
        figures.push(tile("", "Steps", &grouped(last.step as f64), &[&epochs]));
        if last.elapsed_seconds.is_finite() {
            let resumed = match folder.resumes.len() {
                0 => String::new(),
                1 => "resumed once".to_owned(),
                times => format!("resumed {times} times"),
            };
            figures.push(tile(
                "",
                "Training time",
                &duration(last.elapsed_seconds),
                &[&resumed],
            ));
        }
    }
    if let Some(parameters) = folder.facts.get("parameters") {
        figures.push(match parameters.as_f64() {
            Some(count) if count >= 1e6 => tile(
                "",
                "Parameters",
                &format!("{:.1} M", count / 1e6),
                &[&grouped(count)],
            ),
            Some(count) => tile("", "Parameters", &grouped(count), &[]),
            None => tile("", "Parameters", &plain(parameters), &[]),
        });
    }
    // The number of columns that fills the last row best.
    let columns = [5, 6, 4]
        .into_iter()
        .min_by_key(|columns| figures.len().next_multiple_of(*columns) - figures.len());
    html! {
        @if !figures.is_empty() { (tiles(columns.unwrap_or(5), &figures)) }
    }
}

/// The last evaluation with retrieval, and the best method in it.
fn headline(evals: &[EvalRecord]) -> Option<(&EvalRecord, &RetrievalRecord)> {
    let of_all = |eval: &&EvalRecord| !eval.retrieval.is_empty() && eval.language.is_empty();
    let eval = evals.iter().rev().find(of_all)?;
    Some((eval, eval.headline()?))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower + (upper - lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_for_readers() {
        for (text, read) in [
            ("2026-11-21T23:43:21.5Z", "2026-11-21 23:43 UTC"),
            ("2026-11-21T23:43:21+02:00", "2026-11-21 21:43 UTC"),
            ("yesterday", "yesterday"),
            ("é026-11-21T23:43:21Zé", "é026-11-21T23:43:21Zé"),
        ] {
            assert_eq!(readable_time(text), read);
        }
        assert_eq!(
            plain(&serde_json::json!({"a": [1, true, null], "b": 31204352, "c": 1e-4})),
            "a 1, yes,  · b 31,204,352 · c 1e-4"
        );
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
