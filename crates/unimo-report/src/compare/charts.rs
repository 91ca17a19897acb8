//! Curves of several runs over each other, by step, by samples and by time.

use maud::{Markup, html};

use super::Comparison;
use super::curves::{Curve, CurvePoint, Subject};
use crate::charts::{Colour, LineChart, Range, Series, smooth, smoothing_scale};
use crate::numbers::Format;
use crate::page::cards;

/// What the charts of one page run over, with the word of a choice between them.
const AXES: [(&str, &str); 3] = [
    ("step", "by step"),
    ("samples", "by samples"),
    ("time", "by time"),
];

/// A minute and an hour, in seconds.
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

/// Charts of training or of evaluations, three times: the reader chooses what they run over. `None` without curves.
pub(super) fn charts(comparison: &Comparison, evaluation: bool) -> Option<Markup> {
    let group = if evaluation {
        "evaluations"
    } else {
        "training"
    };
    let subjects = subjects(comparison, evaluation);
    if subjects.is_empty() {
        return None;
    }
    Some(html! {
        div.choice {
            @for (at, (name, label)) in AXES.iter().enumerate() {
                @let id = format!("{group}-{name}");
                input type="radio" name=(group) id=(id) class=(name) checked[at == 0];
                label for=(id) { (label) }
            }
            @for (name, _) in AXES {
                div class={ "over over-" (name) } {
                    (cards(subjects.iter().map(|curves| chart(comparison, curves, name)).collect()))
                }
            }
        }
    })
}

/// The curves of each subject that has a line to draw.
fn subjects(comparison: &Comparison, evaluation: bool) -> Vec<Vec<&Curve>> {
    let mut all: Vec<(&Subject, Vec<&Curve>)> = Vec::new();
    for curve in &comparison.curves {
        if curve.subject.evaluation != evaluation {
            continue;
        }
        match all
            .iter_mut()
            .find(|(subject, _)| **subject == curve.subject)
        {
            Some((_, curves)) => curves.push(curve),
            None => all.push((&curve.subject, vec![curve])),
        }
    }
    // A single evaluation is in the tables.
    let curves = all.into_iter().map(|(_, curves)| curves);
    curves
        .filter(|curves| curves.iter().any(|curve| curve.points.len() > 1))
        .collect()
}

fn chart(comparison: &Comparison, curves: &[&Curve], axis: &str) -> LineChart {
    let longest = curves
        .iter()
        .flat_map(|curve| &curve.points)
        .map(|point| point.seconds)
        .filter(|seconds| seconds.is_finite())
        .fold(0.0, f64::max);
    let (unit, label) = match longest {
        longest if longest >= 2.0 * HOUR => (HOUR, "hours"),
        longest if longest >= 2.0 * MINUTE => (MINUTE, "minutes"),
        _ => (1.0, "seconds"),
    };
    let x = |point: &CurvePoint| match axis {
        "samples" => point.samples as f64,
        "time" => point.seconds / unit,
        _ => point.step as f64,
    };
    let subject = curves.first().map(|curve| &curve.subject);
    let title = subject.map_or("", |subject| &subject.name);
    let mut chart = LineChart::new(title).x_label(match axis {
        "time" => label,
        axis => axis,
    });
    if let Some(subject) = subject.filter(|subject| subject.evaluation) {
        chart = chart.unit(subject.set.clone());
    }
    if curves.iter().all(|curve| curve.share) {
        chart = chart.format(Format::Percent).range(Range::FromZero);
    }
    for curve in curves {
        let points: Vec<(f64, f64)> = curve
            .points
            .iter()
            .map(|point| (x(point), point.value))
            .filter(|(x, _)| x.is_finite())
            .collect();
        let (colour, dash) = look(comparison, &curve.run);
        let series = |points| Series::new(&*curve.run, colour, points).dashed(dash);
        chart = chart.series(if curve.subject.evaluation {
            series(points).markers()
        } else {
            // The running mean alone: the values of several runs would hide each other. Each run's report has them.
            let values: Vec<f64> = points.iter().map(|point| point.1).collect();
            let means = smooth(&values, smoothing_scale(values.len()));
            series(
                points
                    .iter()
                    .zip(means)
                    .map(|(point, mean)| (point.0, mean))
                    .collect(),
            )
        });
    }
    chart
}

/// The runs of a set-up have one colour and are told apart by dashes; where there is one set-up alone, each run has its own colour.
fn look(comparison: &Comparison, run: &str) -> (Colour, usize) {
    let run = comparison.runs.iter().position(|other| other.name == run);
    let run = run.unwrap_or_default();
    if comparison.setups.len() < 2 {
        return (Colour::Slot(run), 0);
    }
    let setups = comparison.setups.iter().enumerate();
    let mut found = setups.filter_map(|(at, setup)| {
        let within = setup.runs.iter().position(|own| *own == run)?;
        Some((Colour::Slot(at), within))
    });
    found.next().unwrap_or((Colour::Slot(0), 0))
}
