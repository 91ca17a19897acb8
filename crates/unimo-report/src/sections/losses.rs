//! Losses, accuracy, learning rate and speed over the steps of a run.

use super::{objective_names, wait_share};
use crate::charts::{Colour, LineChart, Range, Scale, Series, smoothing_scale};
use crate::numbers::{Format, number};
use crate::page::{Section, cards};
use crate::record::{ObjectiveRecord, RunFolder, StepRecord};

/// What an objective is in a few words: as the run says, or as it was called before runs said it.
fn objective_title(folder: &RunFolder, name: &str) -> String {
    let titles = folder.facts.get("objectives");
    let said = titles.and_then(|titles| titles.get(name)?.as_str());
    said.unwrap_or_else(|| known_title(name)).to_owned()
}

fn known_title(name: &str) -> &'static str {
    match name {
        "mlm" => "masked language modelling",
        "itm" => "image-text matching",
        "itc" => "image-text contrast",
        "lm" => "language modelling",
        "vq" => "grounded dictionary",
        "codes" => "masked grounded tokens",
        "views" => "two views of an image",
        "mcr" => "masked concept recovery",
        "wpg" => "phrase grounding",
        _ => "",
    }
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
    value: impl Fn(ObjectiveRecord) -> f64,
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

/// How far the targets and the predictions of a regression are apart from each other, if the objective says so: where both fall to 0, all
/// samples have one representation, and the loss means nothing.
fn spreads(steps: &[StepRecord], objective: &str) -> Option<LineChart> {
    let of = |name: &str| -> Vec<(f64, f64)> {
        let number = |step: &StepRecord| Some((step.step as f64, step.number(objective, name)?));
        steps.iter().filter_map(number).collect()
    };
    let targets = of("target_spread");
    if targets.is_empty() {
        return None;
    }
    let chart = LineChart::new(format!("{} spread", objective.to_uppercase()))
        .unit("standard deviation over samples; 0: collapsed")
        .range(Range::FromZero)
        .series(Series::new("targets", Colour::Slot(0), targets).smoothed());
    let predictions = of("prediction_spread");
    Some(chart.series(Series::new("predictions", Colour::Slot(1), predictions).smoothed()))
}

pub(crate) fn losses(folder: &RunFolder) -> Option<Section> {
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
                .unit(objective_title(folder, name))
                .series(series),
        );
        charts.extend(spreads(steps, name));
        let points = objective_column(steps, name, |record| record.accuracy);
        if points.iter().any(|point| point.1.is_finite()) {
            // A step may have nothing to predict for an objective; such a gap needs no mark.
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
    let scale = smoothing_scale(steps.len());
    let lead = if scale > 0.0 {
        format!(
            "Faint: logged values. Line: their running mean (weights fall by 1/e over {}, both ways). A red cross marks a \
             value that is not finite{}.",
            match scale.round() {
                1.0 => "one logged step".to_owned(),
                scale => format!("{} logged steps", number(scale)),
            },
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

pub(crate) fn dynamics(folder: &RunFolder) -> Option<Section> {
    let steps = &folder.steps;
    let finite = || {
        steps
            .iter()
            .map(|step| step.grad_norm)
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
    let line = |name, slot, value: fn(&StepRecord) -> f64| {
        Series::new(name, Colour::Slot(slot), column(steps, value))
    };
    let charts = [
        LineChart::new("Learning rate")
            .range(Range::FromZero)
            .series(line("learning rate", 0, |step| step.lr)),
        LineChart::new("Gradient norm")
            .unit("before clipping")
            .scale(scale)
            .series(line("norm", 3, |step| step.grad_norm).smoothed()),
        LineChart::new("Throughput")
            .unit("samples per second")
            .range(Range::FromZero)
            .series(line("samples/s", 2, |step| step.pairs_per_second).smoothed()),
        LineChart::new("Time per step")
            .unit("seconds")
            .range(Range::FromZero)
            .series(line("step", 0, |step| step.step_seconds).smoothed())
            .series(line("waiting for data", 1, |step| step.wait_seconds).smoothed()),
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
