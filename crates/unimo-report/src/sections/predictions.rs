//! What a task predicts: its numbers by kind of sample, which classes are confused, and right and wrong examples.

use std::path::Path;

use maud::{Markup, html};

use super::pictures::Images;
use crate::charts::{Bars, HeatMap};
use crate::numbers::grouped;
use crate::page::{Section, tile, tiles};
use crate::record::{PredictedExample, PredictionsRecord, RunFolder};

/// Most classes that a matrix shows.
const CLASSES: usize = 24;

/// The predictions of the newest evaluation.
pub(crate) fn predictions(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.predictions.take()?;
    let mut images = Images {
        run,
        list: "predictions.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        (figures(&record))
        @for (name, kinds) in &record.kinds {
            @let bars = kinds.iter().map(|kind| (format!("{} ({})", kind.kind, grouped(kind.count as f64)), 100.0 * kind.value));
            div.card { (Bars::new(format!("By {name}"), bars.collect()).unit("% right, and the number of samples").to_html()) }
        }
        @if let Some(matrix) = confusion(&record) { div.card { (matrix.to_html()) } }
        h3.of-gallery { "Right" }
        div.gallery { @for example in &record.right { (card(example, &mut images)) } }
        h3.of-gallery { "Wrong" }
        div.gallery { @for example in &record.wrong { (card(example, &mut images)) } }
    };
    Some(Section {
        anchor: "predictions",
        title: "Predictions",
        lead: format!(
            "Held-out samples of [objectives.{}] at step {}. Examples are spread over the split; {}",
            record.task,
            grouped(record.step as f64),
            match record.legend.as_str() {
                "" => "labels stand with their probabilities.".to_owned(),
                legend => legend.to_owned(),
            }
        ),
        body,
    })
}

fn figures(record: &PredictionsRecord) -> Markup {
    let of = |figure: &crate::record::Figure| {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let between = figure
            .interval
            .map(|[low, high]| format!("95% interval {} to {}", percent(low), percent(high)));
        let chance = figure
            .chance
            .map(|chance| format!("chance: {}", percent(chance)));
        let details: Vec<String> = between.into_iter().chain(chance).collect();
        let details: Vec<&str> = details.iter().map(String::as_str).collect();
        tile(
            "",
            &figure.name,
            &format!("{} %", percent(figure.value)),
            &details,
        )
    };
    let all: Vec<Markup> = record.figures.iter().map(of).collect();
    tiles(all.len(), &all)
}

/// Which classes are taken for which; `None` for a task without classes or with too many.
fn confusion(record: &PredictionsRecord) -> Option<HeatMap> {
    let names = &record.classes;
    let shown = !record.confusion.is_empty() && names.len() <= CLASSES;
    shown.then(|| {
        let values = record.confusion.iter();
        let values = values.map(|row| row.iter().map(|count| *count as f64).collect());
        HeatMap::new("Confusion", names.clone(), names.clone(), values.collect())
            .unit("number of samples")
            .labels("right class", "predicted class")
    })
}

pub(super) fn card(example: &PredictedExample, images: &mut Images<'_>) -> Markup {
    html! {
        article.card {
            @for image in &example.images {
                @if let Some(address) = images.address(image) {
                    div.frame { img src=(address) alt=(example.text) loading="lazy"; }
                }
            }
            @for image in &example.looked {
                @if let Some(address) = images.address(image) {
                    div.frame { img src=(address) alt="what the model looked at" loading="lazy"; }
                }
            }
            @if !example.text.is_empty() { p dir="auto" { (example.text) } }
            ol.ranked {
                @for label in &example.best {
                    @let (class, mark) = if label.right { ("right", "✓") } else { ("wrong", "✗") };
                    li class=(class) {
                        span.mark role="img" aria-label=(class) title=(class) { (mark) }
                        span.text dir="auto" { (label.label) }
                        span.score { @if label.score.is_finite() { (format!("{:.2}", label.score)) } }
                    }
                }
            }
            @if !example.answers.is_empty() {
                details {
                    summary { "given answers" }
                    ul { @for answer in &example.answers { li dir="auto" { (answer) } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::{Figure, KindFigure, PredictedLabel};

    #[test]
    fn a_page_shows_numbers_kinds_confusion_and_examples() {
        let label = |label: &str, right| PredictedLabel {
            label: label.to_owned(),
            score: 0.75,
            right,
        };
        let example = PredictedExample {
            text: "<what> is it?".to_owned(),
            best: vec![label("a <cat>", false), label("dog", true)],
            answers: vec!["dog".to_owned()],
            ..PredictedExample::default()
        };
        let mut folder = RunFolder {
            predictions: Some(PredictionsRecord {
                task: "vqa".to_owned(),
                step: 1200,
                figures: vec![Figure {
                    name: "accuracy".to_owned(),
                    value: 0.5,
                    chance: Some(0.25),
                    interval: Some([0.4, 0.6]),
                }],
                kinds: BTreeMap::from([(
                    "answer type".to_owned(),
                    vec![KindFigure {
                        kind: "yes/no".to_owned(),
                        value: 0.75,
                        count: 8,
                    }],
                )]),
                classes: vec!["cat".to_owned(), "dog".to_owned()],
                confusion: vec![vec![3, 1], vec![0, 4]],
                wrong: vec![example],
                ..PredictionsRecord::default()
            }),
            ..RunFolder::default()
        };
        let section = predictions(Path::new("nowhere"), &mut folder).unwrap();
        assert!(section.lead.contains("[objectives.vqa] at step 1,200"));
        let html = section.to_html().into_string();
        for part in [
            "50.0 <small>%</small>",
            "95% interval 40.0 to 60.0",
            "chance: 25.0",
            "yes/no (8)",
            "Confusion",
            "&lt;what&gt; is it?",
            "a &lt;cat&gt;",
            "given answers",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(predictions(Path::new("nowhere"), &mut folder).is_none());
        folder.predictions = Some(PredictionsRecord {
            legend: "The right box is green.".to_owned(),
            ..PredictionsRecord::default()
        });
        let section = predictions(Path::new("nowhere"), &mut folder).unwrap();
        assert!(section.lead.ends_with("split; The right box is green."));
    }
}
