//! The report of a training run: one HTML file that shows everything the run folder holds and needs nothing else.
//!
//! [`render`] reads the folder (the structs are in [`record`]) and makes a page of it: a summary, loss and accuracy
//! curves, learning rate and throughput, retrieval against chance, gates as heat maps, a gallery of held-out images, skipped
//! items and the resolved recipe. Images are inside the file, style and script too; a content security policy in the page
//! forbids every request, so the file can be mailed or archived as it is. Only `recipe.toml` has to exist: the report shows
//! what there is, also of a run that is still going or was killed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::charts::{
    self, Colour, Format, HeatMap, LineChart, Range, Scale, Series, grouped, number,
};
use crate::html::{self, escape};
use crate::page::{Section, cards, document, grid, tile};
use crate::record::{
    self, EvalRecord, GalleryItem, GatesRecord, RecallRecord, RunFolder, StepRecord, StreamGates,
    WordGates,
};

/// Why there is no report of a run.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The folder holds no recipe.
    #[error("{} is not a run folder: there is no recipe.toml in it (a training run writes one when it starts)", .0.display())]
    NotARun(PathBuf),
    /// The recipe could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The report of the run in the folder `run`, as HTML.
///
/// Files that cannot be read and lines that are damaged are left out and named in the report.
///
/// # Errors
/// The folder has no readable `recipe.toml`.
pub fn render(run: &Path) -> Result<String, ReportError> {
    let folder = RunFolder::read(run).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ReportError::NotARun(run.to_owned())
        }
        _ => ReportError::Read {
            path: run.join("recipe.toml"),
            source,
        },
    })?;
    Ok(page(run, folder))
}

fn page(run: &Path, mut folder: RunFolder) -> String {
    let gallery = gallery(run, &mut folder);
    let codes = codes(run, &mut folder);
    let phrases = phrases(run, &mut folder);
    let sections: Vec<Section> = [
        losses(&folder),
        retrieval(&folder),
        folder.gates.as_ref().and_then(gates),
        codes,
        phrases,
        gallery,
        dynamics(&folder),
        skipped(&folder),
        Some(recipe(&folder)),
    ]
    .into_iter()
    .flatten()
    .collect();

    let folder_name = || {
        run.canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
    };
    let name = folder
        .facts
        .get("name")
        .map(plain)
        .filter(|name| !name.is_empty())
        .or_else(folder_name)
        .unwrap_or_else(|| "run".to_owned());
    let mut body = String::new();
    header(&mut body, &name, &folder, &sections);
    body.push_str("<main>\n");
    problems(&mut body, &folder);
    summary(&mut body, &folder);
    for section in &sections {
        body.push_str(&section.to_html());
    }
    body.push_str("</main>\n");
    document(&format!("{name} – unimo run report"), "", &body)
}

fn header(out: &mut String, name: &str, folder: &RunFolder, sections: &[Section]) {
    let fact = |key: &str| {
        folder
            .facts
            .get(key)
            .map(plain)
            .filter(|text| !text.is_empty())
    };
    let _ = write!(
        out,
        "<header>\n<div class=\"kicker\">unimo · training run</div>\n<h1>{}</h1>\n<dl class=\"facts\">\n",
        escape(name)
    );
    let mut row = |label: &str, text: Option<String>| {
        if let Some(text) = text {
            let _ = writeln!(
                out,
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escape(label),
                escape(&text)
            );
        }
    };
    row("recipe", fact("recipe"));
    row("data", fact("data"));
    row("device", fact("device"));
    row("backend", fact("backend"));
    row(
        "seed",
        folder
            .facts
            .get("seed")
            .map(Value::to_string)
            .map(|seed| seed.trim_matches('"').to_owned()),
    );
    row("started", fact("started").map(|text| readable_time(&text)));
    row("versions", fact("versions"));
    for key in folder.facts.keys() {
        if ![
            "name",
            "recipe",
            "data",
            "device",
            "backend",
            "seed",
            "started",
            "versions",
            "parameters",
        ]
        .contains(&key.as_str())
        {
            row(&key.replace('_', " "), fact(key));
        }
    }
    out.push_str("</dl>\n<nav aria-label=\"sections\">");
    for section in sections {
        let _ = write!(out, "<a href=\"#{}\">{}</a>", section.anchor, section.title);
    }
    out.push_str("</nav>\n</header>\n");
}

/// A JSON value as a reader wants it.
fn plain(value: &Value) -> String {
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

/// `2026-11-21T23:43:21.5Z` as `2026-11-21 23:43 UTC`; anything that is not RFC 3339 as it is.
fn readable_time(text: &str) -> String {
    let zone = text.get(19..).map(|rest| {
        rest.trim_start_matches(|character: char| character == '.' || character.is_ascii_digit())
    });
    match (text.get(..10), text.get(10..11), text.get(11..16), zone) {
        (Some(date), Some("T" | "t" | " "), Some(time), Some(zone)) if !zone.is_empty() => {
            format!(
                "{date} {time} {}",
                if matches!(zone, "Z" | "z" | "+00:00") {
                    "UTC"
                } else {
                    zone
                }
            )
        }
        _ => text.to_owned(),
    }
}

/// What a reader must know before believing the figures below.
fn problems(out: &mut String, folder: &RunFolder) {
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
    if !notes.is_empty() {
        out.push_str("<div class=\"notes\" role=\"note\"><b>Please note</b><ul>");
        for note in notes {
            let _ = write!(out, "<li>{}</li>", escape(&note));
        }
        out.push_str("</ul></div>\n");
    }
}

fn summary(out: &mut String, folder: &RunFolder) {
    let mut tiles = Vec::new();
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
            tiles.push(tile(
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
            tiles.push(tile("", "Total loss", &number(end), &[&from]));
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
                tiles.push(tile(
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
            tiles.push(tile(
                "",
                "Throughput, median",
                &format!("{} pairs/s", number(rate)),
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
        tiles.push(tile("", "Steps", &grouped(last.step as f64), &[&epochs]));
        if last.elapsed_seconds.is_finite() {
            let resumed = match folder.resumes.len() {
                0 => String::new(),
                1 => "resumed once".to_owned(),
                times => format!("resumed {times} times"),
            };
            tiles.push(tile(
                "",
                "Training time",
                &duration(last.elapsed_seconds),
                &[&resumed],
            ));
        }
    }
    if let Some(parameters) = folder.facts.get("parameters") {
        tiles.push(match parameters.as_f64() {
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
    if !tiles.is_empty() {
        // As many columns as leave the last row fullest.
        let columns = [5, 6, 4]
            .into_iter()
            .min_by_key(|columns| tiles.len().next_multiple_of(*columns) - tiles.len());
        let _ = write!(
            out,
            "<div class=\"tiles\" style=\"--columns:{}\">\n{}</div>\n",
            columns.unwrap_or(5),
            tiles.concat()
        );
    }
}

/// The last evaluation with retrieval, and the method that finds most in it.
fn headline(evals: &[EvalRecord]) -> Option<(&EvalRecord, &record::RetrievalRecord)> {
    let eval = evals.iter().rev().find(|eval| !eval.retrieval.is_empty())?;
    Some((eval, eval.headline()?))
}

/// `12×` for a share that is twelve times chance.
fn multiple_of_chance(share: f64, chance: f64) -> Option<String> {
    let multiple = share / chance;
    (chance > 0.0 && multiple.is_finite()).then(|| {
        if multiple < 10.0 {
            format!("{multiple:.1}×")
        } else {
            format!("{}×", grouped(multiple))
        }
    })
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(lower + (upper - lower) / 2.0)
}

/// Share of the training time that was spent waiting for the loader.
fn wait_share(steps: &[StepRecord]) -> Option<f64> {
    let timed = || {
        steps
            .iter()
            .filter(|step| step.step_seconds.is_finite() && step.wait_seconds.is_finite())
    };
    let total: f64 = timed().map(|step| step.step_seconds).sum();
    let wait: f64 = timed().map(|step| step.wait_seconds).sum();
    (total > 0.0).then(|| (wait / total).min(1.0))
}

fn seconds(time: f64) -> String {
    if time < 1.0 {
        format!("{} ms", number(1000.0 * time))
    } else {
        format!("{} s", number(time))
    }
}

/// `2:07:31 h`, `3:05 min` or `42 s`.
pub fn duration(time: f64) -> String {
    let whole = time.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02} h")
    } else if minutes > 0 {
        format!("{minutes}:{rest:02} min")
    } else {
        format!("{rest} s")
    }
}

/// Names of the objectives, in the order in which the run first logged them.
fn objective_names(steps: &[StepRecord]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in steps.iter().flat_map(|step| step.losses.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn objective_title(name: &str) -> &str {
    match name {
        "mlm" => "masked language modelling",
        "itm" => "image-text matching",
        "itc" => "image-text contrast",
        "lm" => "language modelling",
        "vq" => "grounded dictionary",
        "codes" => "masked grounded tokens",
        "views" => "two views of a picture",
        "mcr" => "masked concept recovery",
        "wpg" => "phrase grounding",
        _ => "",
    }
}

fn method_name(method: &str) -> String {
    method.to_uppercase().replace('+', " + ")
}

fn column(steps: &[StepRecord], value: impl Fn(&StepRecord) -> f64) -> Vec<(f64, f64)> {
    steps
        .iter()
        .map(|step| (step.step as f64, value(step)))
        .collect()
}

/// The objective's values at the steps that had it; an objective may be logged in some steps only.
fn objective_column(
    steps: &[StepRecord],
    name: &str,
    value: impl Fn(record::ObjectiveRecord) -> f64,
) -> Vec<(f64, f64)> {
    steps
        .iter()
        .filter_map(|step| Some((step.step as f64, value(step.objective(name)?))))
        .collect()
}

/// Lines where the run was resumed and where a stage begins.
fn with_events(chart: LineChart, folder: &RunFolder) -> LineChart {
    let chart = folder.resumes.iter().fold(chart, |chart, step| {
        chart.event(*step as f64, format!("resumed after step {step}"))
    });
    let pairs = folder.steps.windows(2);
    let begins = pairs.filter(|pair| pair[0].stage != pair[1].stage);
    begins.fold(chart, |chart, pair| {
        let what = format!("stage \"{}\" begins", pair[1].stage);
        chart.event(pair[0].step as f64, what)
    })
}

fn losses(folder: &RunFolder) -> Option<Section> {
    let steps = &folder.steps;
    if steps.is_empty() {
        return None;
    }
    let names = objective_names(steps);
    let total = LineChart::new("Total loss")
        .unit("weighted sum of the objectives")
        .wide()
        .series(Series::new("total", Colour::Ink, column(steps, |step| step.loss)).smoothed());
    let mut charts = vec![total];
    let mut accuracy = LineChart::new("Accuracy")
        .unit("share of predictions that are right")
        .format(Format::Percent)
        .range(Range::FromZero);
    for (slot, name) in names.iter().enumerate() {
        let points = objective_column(steps, name, |record| record.loss);
        let title = format!("{} loss", name.to_uppercase());
        let series = Series::new(name.to_uppercase(), Colour::Slot(slot), points).smoothed();
        charts.push(
            LineChart::new(title)
                .unit(objective_title(name))
                .series(series),
        );
        let points = objective_column(steps, name, |record| record.accuracy);
        if points.iter().any(|point| point.1.is_finite()) {
            // A step may have nothing to predict for an objective; that is no gap worth a mark.
            let points = points
                .into_iter()
                .filter(|point| point.1.is_finite())
                .collect();
            accuracy = accuracy
                .series(Series::new(name.to_uppercase(), Colour::Slot(slot), points).smoothed());
        }
    }
    if accuracy.has_values() {
        charts.push(accuracy);
    }
    let scale = charts::smoothing_scale(steps.len());
    let lead = if scale > 0.0 {
        format!(
            "Faint: logged values. Line: their running mean (weights fall by 1/e over {} logged steps, both ways). A red cross marks a \
             value that is not finite{}.",
            number(scale.round()),
            if folder.resumes.is_empty() {
                ""
            } else {
                ", a dashed vertical line a resume"
            }
        )
    } else {
        "The logged values; a red cross marks one that is not finite.".to_owned()
    };
    let body = cards(
        charts
            .into_iter()
            .map(|chart| with_events(chart, folder))
            .collect(),
    );
    Some(Section {
        anchor: "losses",
        title: "Losses and accuracy",
        lead,
        body,
    })
}

fn dynamics(folder: &RunFolder) -> Option<Section> {
    let steps = &folder.steps;
    let norms = column(steps, |step| step.grad_norm);
    let finite = || {
        norms
            .iter()
            .map(|point| point.1)
            .filter(|value| value.is_finite() && *value > 0.0)
    };
    let spread =
        finite().fold(f64::NEG_INFINITY, f64::max) / finite().fold(f64::INFINITY, f64::min);
    // Two decades on a linear axis leave only the largest values readable.
    let scale = if spread.is_finite() && spread > 100.0 {
        Scale::Log
    } else {
        Scale::Linear
    };
    let wait = column(steps, |step| step.wait_seconds);
    let charts = [
        LineChart::new("Learning rate")
            .range(Range::FromZero)
            .series(Series::new(
                "learning rate",
                Colour::Slot(0),
                column(steps, |step| step.lr),
            )),
        LineChart::new("Gradient norm")
            .unit("before clipping")
            .scale(scale)
            .series(Series::new("norm", Colour::Slot(3), norms).smoothed()),
        LineChart::new("Throughput")
            .unit("image-text pairs per second")
            .range(Range::FromZero)
            .series(
                Series::new(
                    "pairs/s",
                    Colour::Slot(2),
                    column(steps, |step| step.pairs_per_second),
                )
                .smoothed(),
            ),
        LineChart::new("Time per step")
            .unit("seconds")
            .range(Range::FromZero)
            .series(
                Series::new(
                    "step",
                    Colour::Slot(0),
                    column(steps, |step| step.step_seconds),
                )
                .smoothed(),
            )
            .series(Series::new("waiting for data", Colour::Slot(1), wait).smoothed()),
    ];
    let charts: Vec<LineChart> = charts
        .into_iter()
        .filter(LineChart::has_values)
        .map(|chart| with_events(chart, folder))
        .collect();
    if charts.is_empty() {
        return None;
    }
    let lead = match wait_share(steps) {
        Some(share) => format!(
            "Waiting for data took {} of the step time.{}",
            Format::Percent.value(share),
            if share > 0.1 {
                " More loader threads, or smaller images on disk, would speed this run up."
            } else {
                ""
            }
        ),
        None => "Learning rate, gradient and speed over the run.".to_owned(),
    };
    Some(Section {
        anchor: "dynamics",
        title: "Optimisation and speed",
        lead,
        body: cards(charts),
    })
}

fn retrieval(folder: &RunFolder) -> Option<Section> {
    let evals: Vec<&EvalRecord> = folder
        .evals
        .iter()
        .chain(&folder.later_evals)
        .filter(|eval| !eval.retrieval.is_empty())
        .collect();
    let mut splits: Vec<&str> = Vec::new();
    for eval in &evals {
        if !splits.contains(&eval.split.as_str()) {
            splits.push(&eval.split);
        }
    }
    let mut body = String::new();
    for split in splits {
        let of_split: Vec<&EvalRecord> = evals
            .iter()
            .filter(|eval| eval.split == split)
            .copied()
            .collect();
        let Some(last) = of_split.last() else {
            continue;
        };
        body.push_str(&retrieval_table(last, &of_split));
        if of_split.len() > 1 {
            body.push_str(&retrieval_curves(&of_split));
        }
    }
    if body.is_empty() {
        return None;
    }
    let lead = "R@k: share of queries with a right answer among the first k, in per cent. In brackets: its 95 % confidence interval \
                (Wilson), from the number of queries alone; another seed adds to it."
        .to_owned();
    Some(Section {
        anchor: "retrieval",
        title: "Retrieval",
        lead,
        body,
    })
}

fn retrieval_table(last: &EvalRecord, of_split: &[&EvalRecord]) -> String {
    let mut out = String::from(
        "<div class=\"card\"><div class=\"scroll\"><table class=\"retrieval\">\n<caption>",
    );
    let _ = write!(
        out,
        "<b>{}</b> at step {}: {} images, {} texts",
        escape(if last.split.is_empty() {
            "Held-out pairs"
        } else {
            &last.split
        }),
        grouped(last.step as f64),
        grouped(last.images as f64),
        grouped(last.texts as f64)
    );
    out.push_str(
        "</caption>\n<thead><tr><th rowspan=\"2\" scope=\"col\">method</th><th colspan=\"4\" scope=\"colgroup\">text → image</th>\
         <th colspan=\"4\" scope=\"colgroup\">image → text</th></tr>\n<tr>",
    );
    for _ in 0..2 {
        out.push_str("<th scope=\"col\">R@1</th><th scope=\"col\">R@5</th><th scope=\"col\">R@10</th><th scope=\"col\">median rank</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let chance = last.chance.as_ref();
    let best = |value: &dyn Fn(&record::RetrievalRecord) -> f64| {
        last.retrieval
            .iter()
            .map(value)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let (best_image, best_text) = (
        best(&|method| method.text_to_image.r1),
        best(&|method| method.image_to_text.r1),
    );
    for method in &last.retrieval {
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th>",
            escape(&method_name(&method.method))
        );
        recall_cells(
            &mut out,
            &method.text_to_image,
            chance.map(|chance| &chance.text_to_image),
            last.texts,
            best_image,
        );
        recall_cells(
            &mut out,
            &method.image_to_text,
            chance.map(|chance| &chance.image_to_text),
            last.images,
            best_text,
        );
        out.push_str("</tr>\n");
    }
    if let Some(chance) = chance {
        out.push_str("<tr class=\"chance\"><th scope=\"row\">chance</th>");
        for recall in [&chance.text_to_image, &chance.image_to_text] {
            recall_cells(&mut out, recall, None, 0, f64::INFINITY);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>");
    let best = record::best(of_split.iter().copied());
    if let Some((eval, score)) = best.filter(|_| of_split.len() > 1) {
        let _ = write!(
            out,
            "<p class=\"under\">Best of {} evaluations by the mean of R@1, R@5 and R@10: {} at step {}.</p>",
            of_split.len(),
            Format::Percent.value(score),
            grouped(eval.step as f64)
        );
    }
    if of_split
        .iter()
        .any(|eval| (eval.images, eval.texts) != (last.images, last.texts))
    {
        out.push_str("<p class=\"under\">The pool changed during the run; R@k of different pools cannot be compared.</p>");
    }
    out.push_str("</div>\n");
    out
}

/// Four cells of one direction; `queries` is what the interval is for, none if zero.
fn recall_cells(
    out: &mut String,
    recall: &RecallRecord,
    chance: Option<&RecallRecord>,
    queries: u64,
    best: f64,
) {
    let percent = |value: f64| {
        if value.is_finite() {
            format!("{:.*}", if value < 0.0995 { 2 } else { 1 }, 100.0 * value)
        } else {
            "–".to_owned()
        }
    };
    for (index, value) in [recall.r1, recall.r5, recall.r10].into_iter().enumerate() {
        let is_best = index == 0 && value == best;
        let _ = write!(
            out,
            "<td{}>{}",
            if is_best { " class=\"best\"" } else { "" },
            percent(value)
        );
        if index == 0 && queries > 0 && value.is_finite() {
            let (from, to) = wilson(value, queries);
            let _ = write!(
                out,
                "<small>[{:.1}, {:.1}]</small>",
                100.0 * from,
                100.0 * to
            );
        }
        let random = chance.map(|chance| [chance.r1, chance.r5, chance.r10][index]);
        if let Some(multiple) = random.and_then(|random| multiple_of_chance(value, random)) {
            let _ = write!(out, "<small>{multiple} chance</small>");
        }
        out.push_str("</td>");
    }
    let rank = if recall.median_rank.is_finite() {
        recall.median_rank.to_string()
    } else {
        "–".to_owned()
    };
    let _ = write!(out, "<td>{rank}</td>");
}

/// 95 % confidence interval of a share out of `count` trials (Wilson 1927).
fn wilson(share: f64, count: u64) -> (f64, f64) {
    /// 97.5 % quantile of the normal distribution.
    const Z: f64 = 1.959_963_985;
    let n = count as f64;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n)
        * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n))
            .max(0.0)
            .sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

fn retrieval_curves(of_split: &[&EvalRecord]) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for method in of_split.iter().flat_map(|eval| &eval.retrieval) {
        if !methods.contains(&method.method.as_str()) {
            methods.push(&method.method);
        }
    }
    let chart = |title: &str,
                 found: &dyn Fn(&record::RetrievalRecord) -> f64,
                 random: &dyn Fn(&record::ChanceRecord) -> f64| {
        let mut chart = LineChart::new(title)
            .unit("R@1")
            .format(Format::Percent)
            .range(Range::FromZero);
        for (slot, method) in methods.iter().enumerate() {
            let points = of_split.iter().filter_map(|eval| {
                let record = eval
                    .retrieval
                    .iter()
                    .find(|record| record.method == *method)?;
                Some((eval.step as f64, found(record)))
            });
            chart = chart.series(
                Series::new(method_name(method), Colour::Slot(slot), points.collect()).markers(),
            );
        }
        if let Some(chance) = of_split.last().and_then(|eval| eval.chance.as_ref()) {
            chart = chart.reference(random(chance), "chance");
        }
        chart
    };
    cards(vec![
        chart(
            "Text → image",
            &|record| record.text_to_image.r1,
            &|chance| chance.text_to_image.r1,
        ),
        chart(
            "Image → text",
            &|record| record.image_to_text.r1,
            &|chance| chance.image_to_text.r1,
        ),
    ])
}

/// Gates as heat maps.
pub fn gates(gates: &GatesRecord) -> Option<Section> {
    let streams: Vec<(&str, &str, &StreamGates)> = [
        (
            "Text stream",
            "reads the image stream's levels",
            &gates.text,
        ),
        (
            "Image stream",
            "reads the text stream's levels",
            &gates.image,
        ),
    ]
    .into_iter()
    .filter_map(|(title, unit, stream)| Some((title, unit, stream.as_ref()?)))
    .filter(|(_, _, stream)| !stream.layers.is_empty())
    .collect();
    let values = |layers: &[Vec<Option<f64>>]| -> Vec<Vec<f64>> {
        layers
            .iter()
            .map(|layer| layer.iter().map(|gate| gate.unwrap_or(f64::NAN)).collect())
            .collect()
    };
    // One range for all maps, so that the same colour is the same weight in each.
    let top = streams
        .iter()
        .flat_map(|(_, _, stream)| values(&stream.layers).concat())
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max);
    let top = if top > 0.0 { top } else { 1.0 };
    let mut body = String::new();
    if !streams.is_empty() {
        body = grid(streams.iter().map(|(title, unit, stream)| {
            let columns = level_names(
                &stream.levels,
                stream.layers.iter().map(Vec::len).max().unwrap_or(0),
            );
            // Wide maps get narrower cells, so that a dozen levels fit beside each other.
            let width = (440.0 / columns.len().max(1) as f64).clamp(38.0, 72.0);
            let map = HeatMap::new(
                *title,
                numbered(stream.layers.len()),
                columns,
                values(&stream.layers),
            )
            .unit(*unit)
            .labels("layer", "level")
            .range(0.0, top)
            .cell(width, 34.0);
            ("card", map.to_html())
        }));
    }
    if let Some(words) = gates
        .words
        .as_ref()
        .filter(|words| !words.layers.is_empty() && !words.caption.is_empty())
    {
        body.push_str(&word_gates(
            words,
            gates.text.as_ref().map_or(&[], |text| &text.levels),
        ));
    }
    if body.is_empty() {
        return None;
    }
    let lead = "Gate weights of the cross-layer attention: how much each layer reads from each level of the other stream. The weights \
                of a row sum to one; a dashed cell is a level that the layer does not read."
        .to_owned();
    Some(Section {
        anchor: "gates",
        title: "Gates",
        lead,
        body,
    })
}

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|index| index.to_string()).collect()
}

/// The names given, and numbers for levels beyond them.
fn level_names(names: &[String], count: usize) -> Vec<String> {
    (0..count.max(names.len()))
        .map(|index| {
            names
                .get(index)
                .cloned()
                .unwrap_or_else(|| index.to_string())
        })
        .collect()
}

fn word_gates(words: &WordGates, names: &[String]) -> String {
    let count = words
        .layers
        .iter()
        .flatten()
        .map(Vec::len)
        .max()
        .unwrap_or(0);
    let finite = || {
        words
            .layers
            .iter()
            .flatten()
            .flatten()
            .flatten()
            .copied()
            .filter(|gate| gate.is_finite())
    };
    let top = finite().fold(0.0, f64::max);
    let top = if top > 0.0 { top } else { 1.0 };
    let maps: String = words
        .layers
        .iter()
        .enumerate()
        .map(|(layer, gates)| {
            let values = gates
                .iter()
                .map(|word| word.iter().map(|gate| gate.unwrap_or(f64::NAN)).collect())
                .collect();
            // A layer's own number of levels: what it cannot read would be empty columns in every map.
            let levels = gates.iter().map(Vec::len).max().unwrap_or(0).min(count);
            let columns = level_names(names, levels)
                .into_iter()
                .take(levels)
                .collect();
            let map = HeatMap::new(
                format!("Layer {}", layer + 1),
                words.caption.clone(),
                columns,
                values,
            );
            let map = map.range(0.0, top).cell(28.0, 22.0).without_numbers();
            // One bar serves all maps.
            let map = if layer + 1 < words.layers.len() {
                map.without_bar()
            } else {
                map
            };
            format!("<div>{}</div>\n", map.to_html())
        })
        .collect();
    format!(
        "<div class=\"card\"><h3>By word</h3><p class=\"under\">The gates of each word of one held-out caption, layer by layer.</p>\
         <div class=\"words\">\n{maps}</div></div>\n"
    )
}

fn codes(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.codes.take()?;
    let mut body = String::from("<div class=\"tiles\" style=\"--columns:4\">\n");
    let count = |n: u64| charts::grouped(n as f64);
    for (label, value, detail) in [
        (
            "Perplexity",
            format!("{:.0}", record.perplexity),
            format!("of {} codes", count(record.codes)),
        ),
        (
            "Dead codes",
            count(record.dead),
            format!("given to none of {} pairs", count(record.pairs)),
        ),
        (
            "Shared",
            format!("{:.0}%", 100.0 * record.shared),
            "of the codes in use are chosen by patches and by words".to_owned(),
        ),
        (
            "Chosen",
            format!("{} / {}", count(record.by_patches), count(record.by_words)),
            "codes by patches / by words".to_owned(),
        ),
    ] {
        body.push_str(&tile("", label, &value, &[detail.as_str()]));
    }
    body.push_str("</div>\n<table><thead><tr><th scope=\"col\">Code</th><th scope=\"col\">Patches</th><th scope=\"col\">Words</th></tr></thead><tbody>\n");
    for code in &record.shown {
        let _ = write!(body, "<tr><th scope=\"row\">{}</th><td>", code.code);
        for name in &code.pictures {
            match image_address(run, name) {
                Ok(address) => {
                    let _ = write!(
                        body,
                        "<img class=\"patch\" src=\"{address}\" alt=\"a patch\" loading=\"lazy\"> "
                    );
                }
                Err(reason) => folder.problems.push(format!(
                    "codes.json: the image {name:?} is left out: {reason}"
                )),
            }
        }
        let _ = write!(
            body,
            "{}</td><td style=\"text-align:left\">",
            count(code.patches)
        );
        for word in &code.chosen_by {
            let _ = write!(body, "{} ({}) ", escape(&word.word), count(word.count));
        }
        body.push_str("</td></tr>\n");
    }
    body.push_str("</tbody></table>\n");
    Some(Section {
        anchor: "codes",
        title: "Grounded dictionary",
        lead: format!(
            "Each pair is given {} of {} codes; each patch and each word chooses the code that it is most similar to. The codes that \
             both choose most come first, with some of the patches, their number, and the words.",
            record.tokens,
            count(record.codes)
        ),
        body,
    })
}

fn phrases(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.phrases.take()?;
    let mut body = String::new();
    if let (Some(accuracy), Some(centre), Some(chance)) =
        (record.accuracy, record.centre, record.chance)
    {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let of = format!("of {} phrases", charts::grouped(record.phrases as f64));
        body.push_str("<div class=\"tiles\" style=\"--columns:3\">\n");
        for (label, share) in [
            ("Nearest place in a box", accuracy),
            ("Centre in a box", centre),
            ("Chance", chance),
        ] {
            body.push_str(&tile("", label, &percent(share), &[of.as_str()]));
        }
        body.push_str("</div>\n<p></p>\n");
    }
    body.push_str("<div class=\"gallery\">\n");
    for picture in &record.pictures {
        let _ = write!(
            body,
            "<article class=\"card\" style=\"padding:12px\"><p dir=\"auto\" style=\"margin:0 0 8px\">{}</p>",
            escape(&picture.caption)
        );
        for map in &picture.maps {
            match image_address(run, &map.image) {
                Ok(address) => {
                    let phrase = escape(&map.phrase);
                    let _ = write!(
                        body,
                        "<figure style=\"display:inline-block;margin:4px\"><img src=\"{address}\" alt=\"where {phrase} is found\" \
                         loading=\"lazy\"><figcaption>{phrase}</figcaption></figure>"
                    );
                }
                Err(reason) => folder.problems.push(format!(
                    "phrases.json: the image {:?} is left out: {reason}",
                    map.image
                )),
            }
        }
        body.push_str("</article>\n");
    }
    body.push_str("</div>\n");
    Some(Section {
        anchor: "phrases",
        title: "Phrases in pictures",
        lead: "Cosine of each phrase with each patch or region after the cross-modal encoder, from the lowest (grey) to the highest (red) of the \
               picture, and the boxes of what the phrase names, where they are known. What belongs to which phrase was not seen in training."
            .to_owned(),
        body,
    })
}

fn gallery(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    if folder.gallery.is_empty() {
        return None;
    }
    let mut body = String::from("<div class=\"gallery\">\n");
    for item in std::mem::take(&mut folder.gallery) {
        gallery_item(&mut body, run, &item, &mut folder.problems);
    }
    body.push_str("</div>\n");
    let lead = "Held-out images with the captions that the model ranks first among all captions of the split, best first.".to_owned();
    Some(Section {
        anchor: "gallery",
        title: "Gallery",
        lead,
        body,
    })
}

fn gallery_item(out: &mut String, run: &Path, item: &GalleryItem, problems: &mut Vec<String>) {
    out.push_str("<article class=\"card\">");
    let truth = item.truth.first().map_or("", String::as_str);
    match image_address(run, &item.image) {
        Ok(address) => {
            let _ = write!(
                out,
                "<div class=\"frame\"><img src=\"{address}\" alt=\"{}\" loading=\"lazy\"></div>",
                escape(truth)
            );
        }
        Err(reason) => {
            problems.push(format!(
                "gallery.json: the image {:?} is left out: {reason}",
                item.image
            ));
            out.push_str("<div class=\"frame missing\">image left out</div>");
        }
    }
    if !item.captions.is_empty() {
        out.push_str("<ol class=\"ranked\">");
        for caption in &item.captions {
            let (class, mark, word) = if caption.right {
                ("right", "✓", "right")
            } else {
                ("wrong", "✗", "wrong")
            };
            let text = if caption.text.trim().is_empty() {
                "<i>empty</i>".to_owned()
            } else {
                escape(&caption.text)
            };
            let score = if caption.score.is_finite() {
                format!("{:.2}", caption.score)
            } else {
                String::new()
            };
            let _ = write!(
                out,
                "<li class=\"{class}\"><span class=\"mark\" role=\"img\" aria-label=\"{word}\" title=\"{word}\">{mark}</span>\
                 <span class=\"text\" dir=\"auto\">{text}</span><span class=\"score\">{score}</span></li>"
            );
        }
        out.push_str("</ol>");
    }
    if !item.truth.is_empty() {
        let _ = write!(
            out,
            "<details><summary>{}</summary><ul>",
            if item.truth.len() == 1 {
                "own caption"
            } else {
                "own captions"
            }
        );
        for caption in &item.truth {
            let _ = write!(out, "<li dir=\"auto\">{}</li>", escape(caption));
        }
        out.push_str("</ul></details>");
    }
    out.push_str("</article>\n");
}

/// The image as a `data:` address. A path out of the run folder is refused: reports are passed on, other files are not.
fn image_address(run: &Path, name: &str) -> Result<String, String> {
    let path = Path::new(name);
    if name.is_empty()
        || !path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err("it has to be a path inside the run folder".to_owned());
    }
    let image = fs::read(run.join(path)).map_err(|error| error.to_string())?;
    html::data_address(&image).ok_or_else(|| "it is neither PNG, JPEG nor WebP".to_owned())
}

fn skipped(folder: &RunFolder) -> Option<Section> {
    if folder.skipped_count == 0 {
        return None;
    }
    let count = grouped(folder.skipped_count as f64);
    let lead = match folder.skipped_count {
        1 => "One item of the data could not be used.".to_owned(),
        all if all == folder.skipped.len() => {
            format!("{count} items of the data could not be used.")
        }
        _ => format!(
            "{count} items of the data could not be used; the first {} are shown, all are in {}.",
            folder.skipped.len(),
            folder.skipped_lists.join(" and ")
        ),
    };
    let mut body = String::from(
        "<div class=\"card\"><div class=\"scroll\"><table class=\"skipped\"><thead><tr><th scope=\"col\">file</th><th scope=\"col\">line</th>\
         <th scope=\"col\">reason</th></tr></thead><tbody>\n",
    );
    for item in &folder.skipped {
        let line = item
            .line
            .map(|line| grouped(line as f64))
            .unwrap_or_default();
        let _ = writeln!(
            body,
            "<tr><td><code>{}</code></td><td>{line}</td><td>{}</td></tr>",
            escape(&item.file),
            escape(&item.reason)
        );
    }
    body.push_str("</tbody></table></div></div>\n");
    Some(Section {
        anchor: "skipped",
        title: "Skipped items",
        lead,
        body,
    })
}

fn recipe(folder: &RunFolder) -> Section {
    let lines = folder.recipe.lines().count();
    let body = format!(
        "<details class=\"card recipe\"><summary>recipe.toml, {lines} lines</summary><pre><code>{}</code></pre></details>\n",
        html::toml(&folder.recipe)
    );
    Section {
        anchor: "recipe",
        title: "Recipe",
        lead: "The resolved recipe: every setting with its value, defaults included.".to_owned(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that a hostile or just unlucky data set may hold anywhere.
    const MARKUP: &str = "</script><img src=x onerror='alert(1)'>&\"";

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of an image";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = run.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        run
    }

    fn report(files: &[(&str, &[u8])]) -> String {
        render(folder(files).path()).unwrap()
    }

    fn full(text: &str) -> String {
        let quoted = serde_json::to_string(text).unwrap();
        let run = format!(
            "{{\"name\":{quoted},\"recipe\":{quoted},\"seed\":7,\"device\":{quoted},\"backend\":\"flex\",\"started\":\"2026-11-21T23:43:21.5Z\",\
             \"versions\":{{\"unimo\":\"0.1.0\",{quoted}:{quoted}}},\"parameters\":31204352,\"data\":{quoted},{quoted}:{quoted}}}"
        );
        let metrics: String = (1..=40)
            .map(|index| {
                format!(
                    "{{\"step\":{},\"epoch\":{},\"loss\":{},\"lr\":1e-4,\"grad_norm\":1.5,\"pairs_per_second\":31.0,\"step_seconds\":0.5,\
                     \"wait_seconds\":0.01,\"losses\":{{\"mlm\":{{\"loss\":2.0,\"accuracy\":0.25,\"count\":33}},{quoted}:{{\"loss\":1.0}}}},\
                     \"elapsed_seconds\":{}}}\n",
                    10 * index,
                    0.1 * f64::from(index),
                    8.0 / f64::from(index),
                    200 * index
                )
            })
            .collect();
        let recall = |r1: f64| format!("{{\"r1\":{r1},\"r5\":0.5,\"r10\":0.6,\"median_rank\":5}}");
        let evals = format!(
            "{{\"step\":400,\"split\":{quoted},\"images\":500,\"texts\":500,\"retrieval\":[{{\"method\":\"itc+itm\",\"text_to_image\":{},\
             \"image_to_text\":{}}},{{\"method\":{quoted},\"text_to_image\":{},\"image_to_text\":{}}}],\"chance\":{{\"text_to_image\":{},\
             \"image_to_text\":{}}}}}\n",
            recall(0.246),
            recall(0.3),
            recall(0.1),
            recall(0.1),
            recall(0.002),
            recall(0.01)
        );
        let gates = format!(
            "{{\"text\":{{\"levels\":[\"V0\",{quoted}],\"layers\":[[1.0],[0.25,0.75]]}},\"words\":{{\"caption\":[\"a\",{quoted}],\
             \"layers\":[[[1.0],[1.0]],[[0.5,0.5],[0.1,null]]]}}}}"
        );
        let gallery = format!(
            "{{\"items\":[{{\"image\":\"gallery/0.png\",\"truth\":[{quoted}],\"captions\":[{{\"text\":{quoted},\"score\":0.91,\"right\":true}},\
             {{\"text\":\"b\",\"score\":null,\"right\":false}}]}}]}}"
        );
        let skipped = format!("{{\"file\":{quoted},\"line\":3,\"reason\":{quoted}}}\n");
        report(&[
            (
                "recipe.toml",
                format!("name = {quoted} # {text}\n").as_bytes(),
            ),
            ("run.json", run.as_bytes()),
            ("metrics.jsonl", metrics.as_bytes()),
            ("evals.jsonl", evals.as_bytes()),
            ("gates.json", gates.as_bytes()),
            ("gallery.json", gallery.as_bytes()),
            ("gallery/0.png", PNG),
            ("skipped.jsonl", skipped.as_bytes()),
        ])
    }

    #[test]
    fn a_full_run_shows_everything() {
        let page = full("plain");
        for anchor in [
            "losses",
            "retrieval",
            "gates",
            "gallery",
            "dynamics",
            "skipped",
            "recipe",
        ] {
            assert!(
                page.contains(&format!("<section id=\"{anchor}\">")),
                "{anchor}"
            );
        }
        assert!(!page.contains("Please note"));
        assert!(page.contains("123× chance<br>") && page.contains("30× chance<br>"));
        assert!(
            page.contains("2026-11-21 23:43 UTC")
                && page.contains("31,204,352")
                && page.contains("2:13:20 <small>h")
        );
        assert!(page.contains(&format!(
            "src=\"data:image/png;base64,{}\"",
            html::base64(PNG)
        )));
        assert!(page.contains("aria-label=\"right\"") && page.contains("aria-label=\"wrong\""));
        // 123 of 500: the roots of |p - 0.246| = 1.96 sqrt(p (1 - p) / 500) are 0.2103 and 0.2856.
        assert!(page.contains("[21.0, 28.6]"));
    }

    #[test]
    fn no_text_of_the_run_becomes_markup() {
        let page = full(MARKUP);
        assert!(!page.contains("<img src=x") && !page.contains("alert(1)'>"));
        assert_eq!(page.matches("</script>").count(), 1);
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn the_page_makes_no_request() {
        let page = full("plain");
        assert!(page.contains("default-src 'none'"));
        for attribute in ["src=\"", "href=\""] {
            for (at, _) in page.match_indices(attribute) {
                let target = &page[at + attribute.len()..];
                assert!(
                    target.starts_with("data:image/") || target.starts_with('#'),
                    "{}",
                    &target[..40]
                );
            }
        }
        assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("<link"));
    }

    #[test]
    fn a_recipe_alone_is_enough() {
        let page = report(&[("recipe.toml", b"a = 1\n")]);
        assert_eq!(page.matches("<section ").count(), 1);
        assert!(page.contains("<section id=\"recipe\">") && !page.contains("Please note"));
    }

    #[test]
    fn a_folder_without_recipe_is_refused() {
        let run = folder(&[("metrics.jsonl", b"")]);
        assert!(matches!(render(run.path()), Err(ReportError::NotARun(_))));
        assert!(matches!(
            render(&run.path().join("nowhere")),
            Err(ReportError::NotARun(_))
        ));
        let error = render(&run.path().join("metrics.jsonl")).unwrap_err();
        assert!(error.to_string().contains("recipe.toml"), "{error}");
    }

    #[test]
    fn a_diverged_run_is_shown_and_named() {
        let metrics =
            "{\"step\":1,\"loss\":7.0}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":null}\n";
        let page = report(&[("recipe.toml", b""), ("metrics.jsonl", metrics.as_bytes())]);
        assert!(page.contains(
            "not a finite number at 2 of 3 logged steps, first at step 2; the run ended that way"
        ));
        // Two steps, in each of the chart's two widths.
        assert_eq!(page.matches("class=\"plot-gap\"").count(), 4);
    }

    #[test]
    fn images_from_outside_the_run_are_left_out() {
        let run = folder(&[
            ("run/recipe.toml", b""),
            ("run/text.png", b"no image"),
            ("secret.png", PNG),
        ]);
        let outside = run.path().join("secret.png");
        for name in [
            "../secret.png",
            outside.to_str().unwrap(),
            "gone.png",
            "text.png",
            "",
        ] {
            assert!(
                image_address(&run.path().join("run"), name).is_err(),
                "{name}"
            );
        }
        let gallery = br#"{"items":[{"image":"../secret.png","truth":[],"captions":[]}]}"#;
        let page = report(&[("recipe.toml", b""), ("gallery.json", gallery)]);
        assert!(page.contains("image left out") && page.contains("inside the run folder"));
    }

    #[test]
    fn values_are_written_for_readers() {
        assert_eq!(
            [42.4, 185.0, 7651.0, -1.0].map(duration),
            ["42 s", "3:05 min", "2:07:31 h", "0 s"]
        );
        assert_eq!(
            readable_time("2026-11-21T23:43:21+02:00"),
            "2026-11-21 23:43 +02:00"
        );
        assert_eq!(readable_time("yesterday"), "yesterday");
        assert_eq!(
            readable_time("é026-11-21T23:43:21Zé"),
            "é026-11-21T23:43:21Zé"
        );
        assert_eq!(
            plain(&serde_json::json!({"a": [1, true, null], "b": 31204352, "c": 1e-4})),
            "a 1, yes,  · b 31,204,352 · c 1e-4"
        );
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
        assert_eq!(
            (multiple_of_chance(0.5, 0.2), multiple_of_chance(0.5, 0.0)),
            (Some("2.5×".to_owned()), None)
        );
    }

    /// Bounds from Wilson's formula at its ends: never outside 0 to 1, and not empty for no or all hits.
    #[test]
    fn intervals_stay_inside_the_unit_range() {
        assert_eq!(wilson(0.0, 100).0, 0.0);
        assert!((wilson(0.0, 100).1 - 0.0370).abs() < 1e-4);
        assert!((wilson(1.0, 100).0 - 0.9630).abs() < 1e-4);
        assert!(wilson(1.0, 100).1 <= 1.0);
    }
}
