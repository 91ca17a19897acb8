//! Gates of the cross-layer attention, as heat maps.

use maud::{Markup, html};

use crate::charts::HeatMap;
use crate::page::{Section, grid};
use crate::record::{GatesRecord, StreamGates, WordGates};

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
    let maps = streams.iter().map(|(title, unit, stream)| {
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
    });
    let words = gates
        .words
        .as_ref()
        .filter(|words| !words.layers.is_empty() && !words.caption.is_empty());
    if streams.is_empty() && words.is_none() {
        return None;
    }
    let names = gates.text.as_ref().map_or(&[][..], |text| &text.levels);
    let body = html! {
        @if !streams.is_empty() { (grid(maps)) }
        @if let Some(words) = words { (word_gates(words, names)) }
    };
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

/// The given names, and numbers for levels beyond them.
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

fn word_gates(words: &WordGates, names: &[String]) -> Markup {
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
    let maps = words.layers.iter().enumerate().map(|(layer, gates)| {
        let values = gates
            .iter()
            .map(|word| word.iter().map(|gate| gate.unwrap_or(f64::NAN)).collect())
            .collect();
        // A layer's own number of levels: levels that it cannot read would be empty columns in every map.
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
        map.to_html()
    });
    html! {
        div.card {
            h3 { "By word" }
            p.under { "The gates of each word of one held-out caption, layer by layer." }
            div.words { @for map in maps { div { (map) } } }
        }
    }
}
