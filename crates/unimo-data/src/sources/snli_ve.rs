//! SNLI-VE: sentences that an image entails, contradicts or leaves open.
//!
//! ```toml
//! [data]
//! source = "snli_ve"
//!
//! [data.snli_ve.train]
//! path = "snli_ve_train.jsonl"
//! images = "flickr30k_images"
//!
//! [data.snli_ve.val]
//! path = "snli_ve_dev.jsonl"
//! images = "flickr30k_images"
//! ```
//!
//! One JSON object per line or an array of them, with `Flickr30K_ID` (an image's name; `.jpg` is appended if missing), `sentence2`
//! and `gold_label`. A sample is an image with all its sentences. They are its captions, so that pre-training reads them, and its
//! `hypotheses` with their labels. Sentences with the label `-`, on which the annotators did not agree, are counted and left out.
//! In errors the line is the line or, in an array, the number of the element.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unimo_batch::Entailment;

use crate::error::DataError;
use crate::formats::json::{id, or_default};
use crate::formats::layout::each_object;
use crate::sources::given::{Held, given};
use crate::sources::listed::{Defined, Listed, New};
use crate::sources::parts::{Part, Parts};
use crate::text::spaced;

/// `[data.snli_ve]`.
pub type SnliVeConfig = Parts<SnliVePart>;

/// `[data.snli_ve.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnliVePart {
    /// The sentences.
    pub path: PathBuf,
    /// Folder of Flickr30k's images.
    pub images: PathBuf,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "Flickr30K_ID", alias = "Flikr30kID", deserialize_with = "id")]
    image: String,
    sentence2: String,
    gold_label: String,
    #[serde(default, rename = "pairID", deserialize_with = "or_default")]
    pair: String,
}

impl Part for SnliVePart {
    const NAME: &'static str = "SNLI-VE";

    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "path", &self.path, "a JSON lines file")?;
        given(table, "images", &self.images, "a folder of images")
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path, &mut self.images]
    }

    fn read(&self, table: &mut Listed, held: Held) -> Result<(), DataError> {
        let file = table.file(&self.path);
        let folders = table.folders(vec![self.images.clone()]);
        let mut rows = HashMap::new();
        each_object(
            &self.path,
            &mut |line_number, row: Result<Option<Row>, String>| {
                let used = row.and_then(|row| {
                let Some(row) = row else {
                    return Ok(());
                };
                let label = match row.gold_label.as_str() {
                    "entailment" => Entailment::Entailed,
                    "neutral" => Entailment::Neutral,
                    "contradiction" => Entailment::Contradicted,
                    "-" => {
                        table.leave_out("on which the annotators did not agree");
                        return Ok(());
                    }
                    other => {
                        return Err(format!(
                            "`gold_label` is {other:?}, not entailment, neutral or contradiction"
                        ));
                    }
                };
                let sentence = spaced(&row.sentence2).ok_or("empty sentence")?;
                let mut image = row.image.trim().to_owned();
                if image.is_empty() {
                    return Err("`Flickr30K_ID` is empty".to_owned());
                }
                if !image.ends_with(".jpg") {
                    image += ".jpg";
                }
                let number = *rows.entry(image).or_insert_with_key(|image| {
                    table.row(New {
                        file,
                        line: line_number,
                        folders,
                        image,
                        second: None,
                        size: None,
                        split: held.of(image),
                    })
                });
                let of = Defined {
                    id: &row.pair,
                    line: line_number,
                };
                table.hypothesis(number, &sentence, label, of)
            });
                if let Err(reason) = used {
                    table.reject(file, line_number, reason);
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::{assert_rejected, captions, folder, open};
    use crate::sources::splits::Split;

    #[test]
    fn sentences_have_labels() {
        let list = r#"{"Flickr30K_ID": "44", "pairID": "44.jpg#0r1n", "gold_label": "neutral", "sentence1": "p", "sentence2": "Two women embrace."}
{"Flickr30K_ID": "44", "gold_label": "entailment", "sentence2": "Women hug."}
{"Flickr30K_ID": 55, "gold_label": "contradiction", "sentence2": "Men fight."}
{"Flickr30K_ID": "44", "gold_label": "-", "sentence2": "No agreement."}
{"gold_label": "neutral", "sentence2": "No picture."}
{"Flickr30K_ID": "", "gold_label": "neutral", "sentence2": "No picture."}
{"Flickr30K_ID": "44", "gold_label": "neutral", "sentence2": " "}
{"Flickr30K_ID": 44.0, "gold_label": "maybe", "sentence2": "x", "score": NaN}
"#;
        let folder = folder(&[("s.jsonl", list), ("i/44.jpg", "2x2")]);
        let source = open(
            &folder,
            "source = \"snli_ve\"\n[snli_ve]\nval_fraction = 0\n[snli_ve.train]\npath = \"s.jsonl\"\nimages = \"i\"\n",
        )
        .unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["Two women embrace.", "Women hug."], vec!["Men fight."]]
        );
        let sample = source.sample(Split::Train, 0).unwrap();
        assert_eq!(
            sample.hypotheses,
            [
                ("Two women embrace.".to_owned(), Entailment::Neutral),
                ("Women hug.".to_owned(), Entailment::Entailed)
            ]
        );
        let missing = source.sample(Split::Train, 1).unwrap_err();
        assert!(missing.reason.contains("55.jpg"), "{missing}");
        assert_rejected(
            &*source,
            &[
                ("s.jsonl", 5, "Flickr30K_ID"),
                ("s.jsonl", 6, "`Flickr30K_ID` is empty"),
                ("s.jsonl", 7, "empty sentence"),
                ("s.jsonl", 8, "`gold_label` is \"maybe\""),
            ],
        );
        let array = format!("[{}]", list.trim_end().replace('\n', ","));
        std::fs::write(folder.path().join("array.json"), array).unwrap();
        let data = "source = \"snli_ve\"\n[snli_ve]\nval_fraction = 0\n[snli_ve.train]\npath = \"array.json\"\nimages = \"i\"\n";
        let array = open(&folder, data).unwrap();
        assert_eq!(
            captions(&*array, Split::Train),
            captions(&*source, Split::Train)
        );
        assert_eq!(array.rejected()[0].place.line, 5);
        let left = "1 items left out (1 on which the annotators did not agree)";
        assert!(source.describe().contains(left), "{}", source.describe());
    }
}
