//! Alignments of stories, as heat maps.

use crate::charts::HeatMap;
use crate::numbers::number;
use crate::page::{Section, grid};
use crate::record::{StoriesRecord, StoryAlignment};

/// Each alignment as a heat map; `None` without one.
pub(crate) fn stories(record: &StoriesRecord) -> Option<Section> {
    if record.examples.is_empty() {
        return None;
    }
    let maps = record.examples.iter().map(|example| ("card", map(example)));
    Some(Section {
        anchor: "stories",
        title: "Stories",
        lead: format!(
            "Soft alignments of held-out stories at step {}: rows are the slices of a story told in other words and drawings, columns those of \
             another telling. A cell is the share of all alignments, weighted by the kernel, that go through both slices; each alignment goes from \
             the top left to the bottom right. Beside each map stand the similarity that the kernel finds and the cosine that the model finds.",
            record.step
        ),
        body: grid(maps),
    })
}

fn map(example: &StoryAlignment) -> maud::Markup {
    let title = match example.change.as_str() {
        "none" => "The story itself",
        "order" => "In another order",
        "attribute" => "With one attribute changed",
        other => other,
    };
    let unit = format!(
        "kernel {}, model {}",
        number(example.kernel),
        number(example.model)
    );
    HeatMap::new(
        title,
        example.rows.clone(),
        example.columns.clone(),
        example.values.clone(),
    )
    .unit(unit)
    .range(0.0, 1.0)
    .cell(40.0, 28.0)
    .to_html()
}
