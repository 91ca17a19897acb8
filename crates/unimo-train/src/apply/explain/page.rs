//! The maps as an HTML page and as an SVG image.

use image::{ImageBuffer, Luma, Rgb, RgbImage, imageops};
use maud::html;
use unimo_data::images;
use unimo_report::charts::viridis;
use unimo_report::page::{self, Section, data_address};

use super::{Explanation, Interaction, LayerMaps, Maps, Part, Scope};

/// Longer side of the image under the maps.
pub(super) const SIDE: u32 = 320;
/// The same for the maps of single layers.
const SMALL_SIDE: u32 = 112;

/// A map's colour covers at most this share of the image.
const COVER: f32 = 0.8;

/// A map over an image, as JPEG: the image in grey, bright colours where `values` are near `top`.
fn overlay(picture: &RgbImage, values: &[f32], grid: usize, top: f32) -> Option<String> {
    let (width, height) = picture.dimensions();
    let side = grid as u32;
    // Shares of the top before resizing, since `image` clamps values above 1.
    let scale = if top > 0.0 { 1.0 / top } else { 0.0 };
    let shares = values.iter().map(|value| value * scale).collect();
    let map: ImageBuffer<Luma<f32>, Vec<f32>> = ImageBuffer::from_raw(side, side, shares)?;
    let map = imageops::resize(&map, width, height, imageops::FilterType::CatmullRom);
    let mut drawn = picture.clone();
    for (pixel, Luma([share])) in drawn.pixels_mut().zip(map.pixels()) {
        let share = share.clamp(0.0, 1.0);
        let Rgb([r, g, b]) = *pixel;
        // Rec. 601 luma, lifted a little so that a dark image is visible under the map.
        let grey = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
        let grey = 40.0 + grey * 0.8;
        let cover = COVER * share;
        let colour = viridis(f64::from(share));
        *pixel = Rgb(colour.map(|c| (f32::from(c) * cover + grey * (1.0 - cover)).round() as u8));
    }
    data_address(&images::jpeg(&drawn)?)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().copied().fold(0.0, f32::max)
}

/// A part's share of the strongest word's Grad-CAM. Each map itself is drawn to its own maximum.
fn strengths(explanation: &Explanation) -> Vec<Option<f64>> {
    let sum = |part: &Part| {
        let map = part.total.grad_cam.as_ref()?;
        Some(f64::from(map.iter().sum::<f32>()))
    };
    let words = explanation
        .parts
        .iter()
        .filter(|part| part.scope == Scope::Word);
    let top = words.filter_map(sum).fold(0.0, f64::max);
    explanation
        .parts
        .iter()
        .map(|part| {
            let share = sum(part)? / top;
            (part.scope == Scope::Word && share.is_finite()).then_some(share)
        })
        .collect()
}

/// The page.
pub(super) fn html(explanation: &Explanation, picture: &RgbImage, model: &str) -> String {
    let sections = [
        Some(words(explanation, picture)),
        Some(layers(explanation, picture)),
        explanation.gates.as_ref().and_then(unimo_report::gates),
    ];
    let probability = explanation
        .probability
        .map(|p| format!("{:.1}%", 100.0 * p))
        .unwrap_or_else(|| "the model has no matching head".to_owned());
    let facts = [
        ("they belong together", probability),
        ("picture", explanation.image.clone()),
        ("model", model.to_owned()),
    ];
    let body = html! {
        (page::header("unimo · explanation", &explanation.text, &facts, &[]))
        main { @for section in sections.iter().flatten() { (section.to_html()) } }
    };
    let title = format!("{} – unimo explanation", explanation.text);
    page::document(&title, STYLE, &body)
}

const STYLE: &str = "\
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 16px; }
.maps .card { margin: 0; padding: 12px 14px 14px; }
.maps figure { margin: 8px 0 0; }
.maps figcaption { color: var(--muted); font-size: 12.5px; }
.maps img { display: block; width: 100%; border-radius: 5px; }
@media (max-width: 560px) {
  .maps .card { display: grid; grid-template-columns: 1fr 1fr; gap: 0 12px; }
  .maps h3, .maps .strength { grid-column: 1 / -1; }
}
.strength { display: block; height: 5px; border-radius: 3px; background: var(--line); margin: 6px 0 2px; overflow: hidden; }
.strength i { display: block; height: 100%; background: var(--accent); }
.whole { font-style: italic; font-weight: 500; }
.by-layer img { display: block; width: 84px; border-radius: 3px; }
.by-layer th, .by-layer td { padding: 3px 4px; text-align: center; font-weight: 500; font-size: 13px; }
.by-layer tbody th { text-align: right; padding-right: 10px; max-width: 12ch; white-space: normal; overflow-wrap: anywhere; vertical-align: middle; }
";

fn words(explanation: &Explanation, picture: &RgbImage) -> Section {
    let seen = images::jpeg(picture).and_then(|jpeg| data_address(&jpeg));
    let body = html! {
        div.maps {
            @if let Some(address) = seen {
                div.card {
                    h3.whole { "the image, as the model sees it" }
                    figure { img src=(address) alt=""; }
                }
            }
            @for (part, strength) in explanation.parts.iter().zip(strengths(explanation)) {
                div.card {
                    h3 class=[(part.scope != Scope::Word).then_some("whole")] { (part.name) }
                    @if let Some(share) = strength {
                        span.strength title=(format!("{:.0}% of the strongest word", 100.0 * share)) {
                            i style=(format!("width:{:.1}%", 100.0 * share)) {}
                        }
                    }
                    @for (name, values) in maps(&part.total) {
                        @if let Some(address) = overlay(picture, values, explanation.grid, largest(values)) {
                            figure {
                                img src=(address) alt={ (name) " of " (part.name) };
                                figcaption { (name) }
                            }
                        }
                    }
                }
            }
        }
    };
    let lead = match explanation.probability {
        Some(_) => {
            "Grad-CAM: where more attention of the word would make the model surer that caption and image belong together, all \
             layers added up. Attention: where the word looks, mean over layers and heads. Each map has its own scale, the bar says \
             how strong a word's Grad-CAM is beside the strongest word's."
        }
        None => {
            "Attention: where the word looks, mean over layers and heads. Each map has its own scale."
        }
    };
    Section {
        anchor: "words",
        title: "Word by word",
        lead: lead.to_owned(),
        body,
    }
}

/// The maps that are present, with their names.
fn maps(maps: &Maps) -> impl Iterator<Item = (&'static str, &Vec<f32>)> {
    let grad_cam = maps.grad_cam.as_ref().map(|values| ("Grad-CAM", values));
    grad_cam.into_iter().chain([("attention", &maps.attention)])
}

fn layer_name(layer: &LayerMaps, several: bool) -> String {
    match (several, layer.interaction) {
        (false, _) => format!("layer {}", layer.layer),
        (true, Interaction::InLayer) => format!("{} in-layer", layer.layer),
        (true, Interaction::CrossLayer) => format!("{} cross-layer", layer.layer),
    }
}

fn layers(explanation: &Explanation, picture: &RgbImage) -> Section {
    let small = images::thumbnail(picture, SMALL_SIDE);
    let columns = explanation
        .parts
        .first()
        .map_or(&[][..], |part| &part.layers);
    let several = columns
        .iter()
        .any(|c| c.interaction != columns[0].interaction);
    type Of = for<'a> fn(&'a Maps) -> Option<&'a Vec<f32>>;
    let kinds: [(&str, Of); 2] = [
        ("Grad-CAM", |maps| maps.grad_cam.as_ref()),
        ("Attention", |maps| Some(&maps.attention)),
    ];
    // One scale for all Grad-CAM maps of a layer would leave most of them black; attention rows all sum to 1.
    let drawn = |of: Of, part: &Part| -> Vec<String> {
        let values = part.layers.iter().filter_map(|layer| of(&layer.maps));
        values
            .filter_map(|values| overlay(&small, values, explanation.grid, largest(values)))
            .collect()
    };
    let tables = kinds.into_iter().filter_map(|(kind, of)| {
        let rows: Vec<_> = explanation
            .parts
            .iter()
            .map(|part| drawn(of, part))
            .collect();
        // A kind of map that some part lacks is left out.
        let all = !rows.is_empty() && rows.iter().all(|row| !row.is_empty());
        all.then_some((kind, rows))
    });
    let body = html! {
        @for (kind, rows) in tables {
            div.card {
                h3 { (kind) }
                div.scroll {
                    table.by-layer {
                        thead { tr { th {} @for layer in columns { th { (layer_name(layer, several)) } } } }
                        tbody {
                            @for (part, row) in explanation.parts.iter().zip(rows) {
                                tr {
                                    th scope="row" { (part.name) }
                                    @for address in row { td { img src=(address) alt=""; } }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    Section {
        anchor: "layers",
        title: "Layer by layer",
        lead: "The same for every layer of the text stream on its own. Each map has its own scale."
            .to_owned(),
        body,
    }
}

/// Number of maps side by side in the image.
const PER_ROW: usize = 6;
const GAP: f64 = 12.0;
const LINE: f64 = 22.0;

/// The image: the maps of the whole caption and of every word, with their names.
pub(super) fn svg(explanation: &Explanation, picture: &RgbImage) -> String {
    let (width, height) = picture.dimensions();
    let tile_w = 190.0;
    let tile_h = (tile_w * f64::from(height) / f64::from(width)).round();
    let kinds = 1 + usize::from(explanation.probability.is_some());
    let rows = explanation.parts.len().div_ceil(PER_ROW);
    let columns = explanation.parts.len().min(PER_ROW) as f64;
    let row_h = LINE + kinds as f64 * (tile_h + GAP / 2.0) + GAP;
    let top = 2.0 * LINE + GAP;
    let total_w = columns * (tile_w + GAP) + GAP;
    let total_h = top + rows as f64 * row_h;
    let under = match explanation.probability {
        Some(p) => format!(
            "they belong together: {:.1}% · above Grad-CAM, below attention, each map with its own scale",
            100.0 * p
        ),
        None => "attention, each map with its own scale".to_owned(),
    };
    let parts = explanation.parts.iter().enumerate().map(|(at, part)| {
        let x = GAP + (at % PER_ROW) as f64 * (tile_w + GAP);
        let y = top + (at / PER_ROW) as f64 * row_h + LINE;
        let word = part.scope == Scope::Word;
        html! {
            text x=(x) y=(y - 6.0) font-size="14" font-weight=[word.then_some("600")]
                font-style=[(!word).then_some("italic")] { (plain(&part.name)) }
            @for (row, (_, values)) in maps(&part.total).enumerate() {
                @if let Some(address) = overlay(picture, values, explanation.grid, largest(values)) {
                    image x=(x) y=(y + row as f64 * (tile_h + GAP / 2.0)) width=(tile_w) height=(tile_h) href=(address) {}
                }
            }
        }
    });
    let drawing = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(total_w) height=(total_h) viewBox={ "0 0 " (total_w) " " (total_h) }
            font-family="system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif" fill="#1a1a1a" {
            rect width="100%" height="100%" fill="#fff" {}
            text x=(GAP) y=(LINE) font-size="17" font-weight="600" { (plain(&explanation.text)) }
            text x=(GAP) y=(2.0 * LINE) font-size="12.5" fill="#666" { (under) }
            @for part in parts { (part) }
        }
    };
    drawing.into_string()
}

/// XML cannot contain control characters, escaped or not.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn part(name: &str, scope: Scope, at: usize) -> Part {
        let mut values = vec![0.0; 4];
        values[at] = 0.5 + at as f32;
        let maps = Maps {
            attention: values.clone(),
            grad_cam: Some(values),
        };
        Part {
            name: name.to_owned(),
            scope,
            positions: vec![at],
            total: maps.clone(),
            layers: vec![LayerMaps {
                layer: 1,
                interaction: Interaction::InLayer,
                maps,
            }],
        }
    }

    fn explanation() -> Explanation {
        Explanation {
            image: "a<b>.png".to_owned(),
            text: "<script> & \"cat\"".to_owned(),
            probability: Some(0.25),
            grid: 2,
            parts: vec![
                part("whole caption", Scope::Caption, 3),
                part("<script>", Scope::Word, 1),
                part("cat", Scope::Word, 0),
            ],
            gates: None,
        }
    }

    /// A map with one bright corner colours that corner and leaves the opposite one grey.
    #[test]
    fn a_map_is_drawn_where_it_is() {
        let picture = RgbImage::from_pixel(40, 20, Rgb([90, 90, 90]));
        for (corner, bright, dark) in [(0, (1, 1), (38, 18)), (3, (38, 18), (1, 1))] {
            let mut values = [0.0; 4];
            values[corner] = 2.0;
            let address = overlay(&picture, &values, 2, 2.0).unwrap();
            let jpeg = decode(&address);
            assert_eq!(jpeg.dimensions(), (40, 20));
            let spread = |(x, y): (u32, u32)| {
                let Rgb(c) = *jpeg.get_pixel(x, y);
                c.iter().max().unwrap() - c.iter().min().unwrap()
            };
            assert!(spread(bright) > 80, "{}", spread(bright));
            assert!(spread(dark) < 15, "{}", spread(dark));
        }
    }

    fn decode(address: &str) -> RgbImage {
        let text = address.split_once("base64,").unwrap().1;
        let bytes = BASE64_STANDARD.decode(text).unwrap();
        images::decode(&bytes, images::Limits::full_size(1 << 20)).unwrap()
    }

    #[test]
    fn no_text_becomes_markup_and_every_part_is_there() {
        let picture = RgbImage::from_pixel(40, 20, Rgb([90, 90, 90]));
        let explanation = explanation();
        let page = html(&explanation, &picture, "runs/<x>");
        let drawing = svg(&explanation, &picture);
        for text in [&page, &drawing] {
            assert!(!text.contains("<script> &"), "{text}");
            assert!(text.contains("&lt;script&gt; &amp; &quot;cat&quot;"));
            assert!(text.contains("25.0%"));
        }
        // The image itself, two maps for each of three parts, and the same for each of its layers.
        assert_eq!(
            page.matches("<img src=\"data:image/jpeg").count(),
            1 + 6 + 6
        );
        assert_eq!(drawing.matches("<image ").count(), 6);
    }

    #[test]
    fn strengths_are_shares_of_the_strongest_word() {
        assert_eq!(
            strengths(&explanation()),
            [None, Some(1.0), Some(0.5 / 1.5)]
        );
    }

    #[test]
    fn an_all_zero_map_draws_the_picture_alone() {
        let picture = RgbImage::from_pixel(8, 8, Rgb([200, 100, 50]));
        let address = overlay(&picture, &[0.0; 4], 2, 0.0).unwrap();
        let Rgb([r, g, b]) = *decode(&address).get_pixel(4, 4);
        assert!(r.abs_diff(g) < 4 && g.abs_diff(b) < 4);
    }
}
