//! True and false statements about images: NLVR and NLVR2.
//!
//! ```toml
//! [data]
//! source = "nlvr"
//!
//! [data.nlvr.train]
//! path = "nlvr2/data/train.json"
//! images = "nlvr2/images/train"
//!
//! [data.nlvr.val]
//! path = "nlvr2/data/dev.json"
//! images = "nlvr2/dev"
//! ```
//!
//! One JSON object per line or an array of them, whatever the file's name, with `sentence` and `label`, which a test set may lack. The image is found so:
//!
//! - NLVR: a list `images` of paths below `images` of the recipe. Several images of one scene are separate samples. Cornell's own
//!   files lack this list; it has to be added;
//! - NLVR2 (`identifier` = `dev-850-0-0`): the pair `dev-850-0-img0.png` and `dev-850-0-img1.png`, in the folder that `directory`
//!   names if the row has one. `image` is the left one, `second_image` the right one.
//!
//! The sentences, true and false, are the texts that pre-training reads. None of them describes its image, so none is a positive of
//! contrast and matching, and none is retrieved ([`TextRole`](unimo_batch::TextRole)). Sentences about the same image are one
//! sample. A share holds out whole sets of NLVR2, since the pairs of a set show the same images. In errors the line is the line or,
//! in an array, the number of the element.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json::or_default;
use crate::formats::layout::each_object;
use crate::formats::values::Identifier;
use crate::sources::given::{Held, given};
use crate::sources::listed::{Defined, Listed, New};
use crate::sources::parts::{Part, Parts};
use crate::text::spaced;

/// `[data.nlvr]`.
pub type NlvrConfig = Parts<NlvrPart>;

/// `[data.nlvr.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NlvrPart {
    /// The statements.
    pub path: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
}

#[derive(Deserialize)]
struct Row {
    sentence: String,
    /// Absent in a test set whose labels are not published.
    label: Option<Label>,
    #[serde(default, deserialize_with = "or_default")]
    images: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    identifier: String,
    directory: Option<Identifier>,
}

/// `true`, `"true"` or `"True"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`label` is neither true nor false")]
enum Label {
    Flag(bool),
    Text(Truth),
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
enum Truth {
    #[serde(rename = "true", alias = "True", alias = "TRUE")]
    True,
    #[serde(rename = "false", alias = "False", alias = "FALSE")]
    False,
}

impl Part for NlvrPart {
    const NAME: &'static str = "statements";

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
                    let truth = row.label.as_ref().map(|label| match label {
                        Label::Flag(truth) => *truth,
                        Label::Text(truth) => *truth == Truth::True,
                    });
                    let sentence = spaced(&row.sentence).ok_or("empty sentence")?;
                    for pictures in row.pictures()? {
                        // The pairs of a set show the same images repeatedly, so they are held out together.
                        let drawn = row.set().unwrap_or_else(|| pictures.0.clone());
                        let number = *rows.entry(pictures).or_insert_with_key(|pictures| {
                            table.row(New {
                                file,
                                line: line_number,
                                folders,
                                image: &pictures.0,
                                second: pictures.1.as_deref(),
                                size: None,
                                split: held.of(&drawn),
                            })
                        });
                        let of = Defined {
                            id: &row.identifier,
                            line: line_number,
                        };
                        match truth {
                            Some(truth) => table.statement(number, &sentence, truth, of)?,
                            None => table.asked(number, &sentence, of)?,
                        }
                    }
                    Ok(())
                });
                if let Err(reason) = used {
                    table.reject(file, line_number, reason);
                }
            },
        )
    }
}

impl Row {
    /// The set of images of an NLVR2 pair; `None` for other formats.
    fn set(&self) -> Option<String> {
        let parts: Vec<&str> = self.identifier.split('-').collect();
        match parts[..] {
            [split, set, _, _] if self.images.is_empty() => Some(format!("{split}-{set}")),
            _ => None,
        }
    }

    /// For each sample, the left image and, if there are two, the right one.
    fn pictures(&self) -> Result<Vec<(String, Option<String>)>, String> {
        if !self.images.is_empty() {
            if self.images.iter().any(|image| image.trim().is_empty()) {
                return Err("an empty path in `images`".to_owned());
            }
            return Ok(self
                .images
                .iter()
                .map(|image| (image.clone(), None))
                .collect());
        }
        let parts: Vec<&str> = self.identifier.split('-').collect();
        let [split, set, pair, _] = parts[..] else {
            return Err(format!(
                "no `images`, and the identifier {:?} is not SPLIT-SET-PAIR-SENTENCE of NLVR2",
                self.identifier
            ));
        };
        let folder = match &self.directory {
            Some(Identifier(folder)) if !folder.is_empty() => format!("{folder}/"),
            _ => String::new(),
        };
        let name = |side| format!("{folder}{split}-{set}-{pair}-img{side}.png");
        Ok(vec![(name(0), Some(name(1)))])
    }
}

#[cfg(test)]
mod tests {
    use unimo_batch::TextRole;

    use crate::formats::rows::LONGEST_ROW;
    use crate::sources::fixtures::{NLVR, assert_rejected, captions, folder, open};
    use crate::sources::splits::Split;

    #[test]
    fn statements_are_about_one_picture_or_two() {
        let list = r#"{"sentence": "There is a  tower.", "label": "true", "images": ["a.png", "b.png"], "identifier": "1-0"}
{"sentence": "Both have dogs.", "identifier": "dev-850-0-0", "label": "False", "directory": 12, "left_url": "u"}
{"sentence": "One has a cat.", "identifier": "dev-850-0-1", "label": true, "directory": "12"}

{"sentence": "x", "label": "maybe", "images": ["a.png"]}
{"sentence": "x", "label": "true", "identifier": "10-0"}
{"sentence": "", "label": "true", "images": ["a.png"]}
{"sentence": "no directory", "identifier": "dev-1-2-3", "label": "True"}
{"sentence": "cut"
"#;
        let long = format!("{list}{{\"sentence\": \"{}\"}}\n", "x".repeat(LONGEST_ROW));
        let folder = folder(&[
            ("n.json", &long),
            ("i/a.png", "2x2"),
            ("i/12/dev-850-0-img0.png", "3x2"),
            ("i/12/dev-850-0-img1.png", "4x2"),
            ("i/dev-1-2-img0.png", "5x2"),
        ]);
        let source = open(&folder, NLVR).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [
                vec!["There is a tower."],
                vec!["There is a tower."],
                vec!["Both have dogs.", "One has a cat."],
                vec!["no directory"],
            ]
        );
        let one = source.sample(Split::Train, 0).unwrap();
        assert_eq!(one.statements, [("There is a tower.".to_owned(), true)]);
        assert!(one.second_image.is_none());
        let two = source.sample(Split::Train, 2).unwrap();
        assert_eq!(two.statements[0], ("Both have dogs.".to_owned(), false));
        assert_eq!(two.image.unwrap().width(), 3);
        assert_eq!(two.second_image.unwrap().width(), 4);
        let half = source.sample(Split::Train, 3).unwrap_err();
        assert!(half.reason.contains("dev-1-2-img1.png"), "{half}");
        assert_rejected(
            &*source,
            &[
                ("n.json", 5, "`label` is neither true nor false"),
                ("n.json", 6, "is not SPLIT-SET-PAIR-SENTENCE"),
                ("n.json", 7, "empty sentence"),
                ("n.json", 9, "EOF"),
                ("n.json", 10, "longer than"),
            ],
        );
    }

    /// As test sets are published.
    #[test]
    fn a_statement_without_a_label_is_asked() {
        let list = r#"{"sentence": "a tower", "images": ["a.png"], "identifier": "1-0"}
{"sentence": "a dog", "label": null, "images": ["a.png"], "identifier": "1-1"}"#;
        let folder = folder(&[("n.json", list), ("i/a.png", "2x2")]);
        let source = open(&folder, NLVR).unwrap();
        assert!(source.rejected().is_empty());
        let known = source.annotations(Split::Train, 0).unwrap();
        assert_eq!(known.roles, [TextRole::Question, TextRole::Question]);
        let labels: Vec<_> = known
            .labels
            .iter()
            .map(|label| (label.id.as_str(), label.answer.is_none()))
            .collect();
        assert_eq!(labels, [("1-0", true), ("1-1", true)]);
    }
}
