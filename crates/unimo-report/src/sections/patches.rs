//! Hidden patches of held-out images, filled in by the model.

use std::path::Path;

use maud::html;

use super::pictures::Images;
use crate::numbers::grouped;
use crate::page::Section;
use crate::record::RunFolder;

/// Some images with their pictures side by side; `None` without any.
pub(crate) fn patches(run: &Path, folder: &mut RunFolder) -> Option<Section> {
    let record = folder.patches.take()?;
    if record.examples.is_empty() {
        return None;
    }
    let mut images = Images {
        run,
        list: "patches.json",
        problems: &mut folder.problems,
    };
    let body = html! {
        div.gallery {
            @for example in &record.examples {
                article.card style="padding:12px" {
                    @if !example.text.is_empty() {
                        p dir="auto" style="margin:0 0 8px" { (example.text) }
                    }
                    @for (what, name) in &example.pictures {
                        @if let Some(address) = images.address(name) {
                            figure style="display:inline-block;margin:4px" {
                                img src=(address) alt=(what) loading="lazy" style="width:120px;image-rendering:pixelated";
                                figcaption { (what) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "patches",
        title: "Hidden patches",
        lead: format!(
            "Some of {} held-out images at step {}: as they are, with patches hidden as in training, and filled in from the rest of the image \
             and the text above it. {}",
            grouped(record.images as f64),
            grouped(record.step as f64),
            record.legend
        ),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{PatchExample, PatchesRecord};

    #[test]
    fn a_picture_that_is_missing_is_told_and_the_rest_is_shown() {
        let mut folder = RunFolder {
            patches: Some(PatchesRecord {
                step: 1200,
                images: 64,
                legend: "So it is.".to_owned(),
                examples: vec![PatchExample {
                    text: "a <red> circle".to_owned(),
                    pictures: vec![("filled in".to_owned(), "patches/0-2.png".to_owned())],
                }],
            }),
            ..RunFolder::default()
        };
        let section = patches(Path::new("nowhere"), &mut folder).unwrap();
        assert!(
            section.lead.contains("64 held-out images at step 1,200")
                && section.lead.ends_with("So it is.")
        );
        let html = section.to_html().into_string();
        assert!(html.contains("a &lt;red&gt; circle"), "{html}");
        assert!(folder.problems[0].contains("patches/0-2.png"));
        assert!(patches(Path::new("nowhere"), &mut folder).is_none());
    }
}
