//! Sections with images from the run folder: codes of a dictionary, phrases in images, the gallery.

use std::fs;
use std::path::{Component, Path};

use maud::{Markup, html};

use crate::numbers::grouped;
use crate::page::{Section, data_address, tile, tiles};
use crate::record::{GalleryItem, RankedCaption, RunFolder};

pub(crate) fn codes(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.codes.take()?;
    let count = |n: u64| grouped(n as f64);
    let figures = [
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
    ];
    let figures = figures.map(|(label, value, detail)| tile("", label, &value, &[&detail]));
    let mut images = Images {
        run,
        list: "codes.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        (tiles(figures.len(), &figures))
        div.card {
            div.scroll {
                table {
                    thead { tr { th scope="col" { "Code" } th scope="col" { "Patches" } th scope="col" { "Words" } } }
                    tbody {
                        @for code in &record.shown {
                            tr {
                                th scope="row" { (code.code) }
                                td {
                                    @for name in &code.pictures {
                                        @if let Some(address) = images.address(name) {
                                            img.patch src=(address) alt="a patch" loading="lazy"; " "
                                        }
                                    }
                                    (count(code.patches))
                                }
                                td style="text-align:left" {
                                    @for word in &code.chosen_by { (word.word) " (" (count(word.count)) ") " }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
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

pub(crate) fn phrases(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.phrases.take()?;
    let of = format!("of {} phrases", grouped(record.phrases as f64));
    let figure = |label, share: f64| tile("", label, &format!("{:.1} %", 100.0 * share), &[&of]);
    let mut images = Images {
        run,
        list: "phrases.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        @if let (Some(accuracy), Some(centre), Some(chance)) = (record.accuracy, record.centre, record.chance) {
            (tiles(3, &[
                figure("Nearest place in a box", accuracy),
                figure("Centre in a box", centre),
                figure("Chance", chance),
            ]))
            p {}
        }
        div.gallery {
            @for picture in &record.pictures {
                article.card style="padding:12px" {
                    p dir="auto" style="margin:0 0 8px" { (picture.caption) }
                    @for map in &picture.maps {
                        @if let Some(address) = images.address(&map.image) {
                            figure style="display:inline-block;margin:4px" {
                                img src=(address) alt={ "where " (map.phrase) " is found" } loading="lazy";
                                figcaption { (map.phrase) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "phrases",
        title: "Phrases in images",
        lead: "Cosine of each phrase with each patch or region after the cross-modal encoder, from the lowest (grey) to the highest (red) of the \
               image, and the boxes of what the phrase names, where they are known. What belongs to which phrase was not seen in training."
            .to_owned(),
        body,
    })
}

pub(crate) fn gallery(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    if folder.gallery.is_empty() {
        return None;
    }
    let mut images = Images {
        run,
        list: "gallery.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        div.gallery { @for item in &folder.gallery { (gallery_item(item, &mut images)) } }
    };
    let lead = "Held-out images with the captions that the model ranks first among all captions of the split, best first.".to_owned();
    Some(Section {
        anchor: "gallery",
        title: "Gallery",
        lead,
        body,
    })
}

fn gallery_item(item: &GalleryItem, images: &mut Images<'_>) -> Markup {
    let truth = item.truth.first().map_or("", String::as_str);
    html! {
        article.card {
            @if let Some(address) = images.address(&item.image) {
                div.frame { img src=(address) alt=(truth) loading="lazy"; }
            } @else {
                div.frame.missing { "image left out" }
            }
            @if !item.captions.is_empty() {
                ol.ranked { @for caption in &item.captions { (ranked(caption)) } }
            }
            @if !item.truth.is_empty() {
                details {
                    summary { @if item.truth.len() == 1 { "own caption" } @else { "own captions" } }
                    ul { @for caption in &item.truth { li dir="auto" { (caption) } } }
                }
            }
        }
    }
}

fn ranked(caption: &RankedCaption) -> Markup {
    let (class, mark) = if caption.right {
        ("right", "✓")
    } else {
        ("wrong", "✗")
    };
    html! {
        li class=(class) {
            span.mark role="img" aria-label=(class) title=(class) { (mark) }
            span.text dir="auto" {
                @if caption.text.trim().is_empty() { i { "empty" } } @else { (caption.text) }
            }
            span.score { @if caption.score.is_finite() { (format!("{:.2}", caption.score)) } }
        }
    }
}

/// The images that a file of the run folder names.
pub(crate) struct Images<'a> {
    pub(crate) run: &'a Path,
    /// The file that names them.
    pub(crate) list: &'static str,
    /// Collects the reasons why images are left out.
    pub(crate) problems: &'a mut Vec<String>,
}

impl Images<'_> {
    pub(crate) fn address(&mut self, name: &str) -> Option<String> {
        image_address(self.run, name)
            .map_err(|reason| {
                let list = self.list;
                self.problems
                    .push(format!("{list}: the image {name:?} is left out: {reason}"));
            })
            .ok()
    }
}

/// The image as a `data:` address. A path out of the run folder is refused: reports are passed on, other files are not.
pub(crate) fn image_address(run: &Path, name: &str) -> Result<String, String> {
    let path = Path::new(name);
    if name.is_empty()
        || !path
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err("it has to be a path inside the run folder".to_owned());
    }
    let image = fs::read(run.join(path)).map_err(|error| error.to_string())?;
    data_address(&image).ok_or_else(|| "it is neither PNG, JPEG nor WebP".to_owned())
}
