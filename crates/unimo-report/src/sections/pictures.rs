//! Sections with pictures from the run folder: codes of a dictionary, phrases in pictures, the gallery.

use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path};

use crate::html::{self, escape};
use crate::numbers::grouped;
use crate::page::{Section, tile};
use crate::record::{GalleryItem, RunFolder};

pub(crate) fn codes(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.codes.take()?;
    let mut body = String::from("<div class=\"tiles\" style=\"--columns:4\">\n");
    let count = |n: u64| grouped(n as f64);
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

pub(crate) fn phrases(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.phrases.take()?;
    let mut body = String::new();
    if let (Some(accuracy), Some(centre), Some(chance)) =
        (record.accuracy, record.centre, record.chance)
    {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let of = format!("of {} phrases", grouped(record.phrases as f64));
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

pub(crate) fn gallery(run: &Path, folder: &mut RunFolder) -> Option<Section> {
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
    html::data_address(&image).ok_or_else(|| "it is neither PNG, JPEG nor WebP".to_owned())
}
