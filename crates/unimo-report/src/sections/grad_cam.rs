//! Where the matching score of held-out expressions comes from, beside the boxes that they refer to.

use std::path::Path;

use maud::html;

use super::pictures::Images;
use super::predictions::card;
use crate::numbers::grouped;
use crate::page::{Section, tile, tiles};
use crate::record::{Figure, RunFolder};

/// What the newest evaluation looked at.
pub(crate) fn grad_cam(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.grad_cam.take()?;
    let figure = |figure: &Figure| {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let between = figure.interval;
        let between = between
            .map(|[low, high]| format!("95% interval {} to {}", percent(low), percent(high)));
        let chance = figure.chance;
        let chance = chance.map(|chance| format!("chance: {}", percent(chance)));
        let value = format!("{} %", percent(figure.value));
        let details: Vec<&str> = [&between, &chance]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        tile("", &figure.name, &value, &details)
    };
    let figures: Vec<_> = record.figures.iter().map(figure).collect();
    let mut images = Images {
        run,
        list: "grad_cam.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        (tiles(figures.len(), &figures))
        h3 { "Box found" }
        div.gallery { @for example in &record.right { (card(example, &mut images)) } }
        h3 { "Box not found" }
        div.gallery { @for example in &record.wrong { (card(example, &mut images)) } }
    };
    Some(Section {
        anchor: "grad-cam",
        title: "What the matching score looks at",
        lead: format!(
            "Grad-CAM of the matching score over the patches, by the attention of layer {}, for {} held-out expressions at step {}: from 0 \
             (grey) to the highest (red) of each image. The map points at its highest patch, and chooses among {}. {}",
            record.layer,
            grouped(record.texts as f64),
            grouped(record.step as f64),
            record.candidates,
            record.legend,
        ),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{GradCamRecord, PredictedExample, PredictedLabel};

    #[test]
    fn a_page_shows_numbers_chance_and_both_kinds_of_examples() {
        let example = |text: &str| PredictedExample {
            text: text.to_owned(),
            best: vec![PredictedLabel {
                label: "highest in the right box".to_owned(),
                score: f64::NAN,
                right: true,
            }],
            ..PredictedExample::default()
        };
        let mut folder = RunFolder {
            grad_cam: Some(GradCamRecord {
                step: 1200,
                layer: 3,
                texts: 5000,
                candidates: "some boxes".to_owned(),
                legend: "The right box is green.".to_owned(),
                figures: vec![Figure {
                    name: "pointing".to_owned(),
                    value: 0.5,
                    chance: Some(0.125),
                    interval: Some([0.25, 0.75]),
                }],
                right: vec![example("the <cat>")],
                wrong: vec![example("the dog")],
            }),
            ..RunFolder::default()
        };
        let section = grad_cam(Path::new("nowhere"), &mut folder).unwrap();
        assert!(section.lead.contains("layer 3, for 5,000") && section.lead.ends_with("green."));
        let html = section.to_html().into_string();
        for part in [
            "50.0",
            "chance: 12.5",
            "95% interval 25.0 to 75.0",
            "the &lt;cat&gt;",
            "the dog",
            "in the right box",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(grad_cam(Path::new("nowhere"), &mut folder).is_none());
    }
}
