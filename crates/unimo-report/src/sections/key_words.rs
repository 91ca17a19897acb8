//! Words of captions, as the image alone predicts them and as the teacher proposes them.

use maud::html;

use crate::numbers::{grouped, number};
use crate::page::Section;
use crate::record::KeyWordsRecord;

/// Words in the table.
const SHOWN: usize = 30;

/// A table of the words that are proposed most often; `None` without words.
pub(crate) fn key_words(record: &KeyWordsRecord) -> Option<Section> {
    if record.words.is_empty() {
        return None;
    }
    let images = record.images.max(1) as f64;
    let body = html! {
        div.card {
            div.scroll {
                table {
                    thead {
                        tr {
                            th scope="row" { "word" }
                            th { "proposed" }
                            th { "images" }
                            th { "share of images" }
                            th { "average precision" }
                        }
                    }
                    tbody {
                        @for word in record.words.iter().take(SHOWN) {
                            tr {
                                th scope="row" dir="auto" { (word.word) }
                                td { (grouped(word.proposed as f64)) }
                                td { (grouped(word.images as f64)) }
                                td { (number(word.images as f64 / images)) }
                                td { (word.precision.map_or_else(|| "–".to_owned(), number)) }
                            }
                        }
                    }
                }
            }
        }
    };
    Some(Section {
        anchor: "key-words",
        title: "Key words",
        lead: format!(
            "Words of {} held-out captions at step {}, those first that the teacher proposes most often. The average precision is that of \
             ranking the images by how much each speaks for the word; its share of the images is what chance would reach.",
            grouped(record.images as f64),
            record.step
        ),
        body,
    })
}
