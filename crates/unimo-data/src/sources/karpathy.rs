//! Karpathy's splits of COCO and Flickr: `dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`.
//!
//! ```toml
//! [data]
//! source = "karpathy"
//!
//! [data.karpathy]
//! path = "karpathy/dataset_coco.json"
//! images = "coco"
//! val_split = "test"
//! ```
//!
//! Without `train_split`, `val_split` and `test_split` the file's own names are used: `train` and `restval`, the rest of COCO's
//! validation images, which everybody trains on; `val`; `test`. If one of the settings is given, as in the example, its split holds
//! nothing else. Images of other splits are left out and counted by name.
//!
//! An image lies at `images`/`filepath`/`filename`; Flickr's files have no `filepath`. Captions are the `raw` sentences. In errors
//! the line is the number of the image, from 1. Images without sentences are counted and left out.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json::{each_of_file, or_default, parse};
use crate::images::Limits;
use crate::sources::given::{given, one_or_many};
use crate::sources::left_out::{WITHOUT_TEXT, of_split};
use crate::sources::listed::{Listed, New};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::SplitNames;

/// `[data.karpathy]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KarpathyConfig {
    /// `dataset_*.json`.
    pub path: PathBuf,
    /// Folder of the images, or of the folders that `filepath` names.
    pub images: PathBuf,
    /// Splits to train on; if empty, `train` and `restval`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub train_split: Vec<String>,
    /// Held-out splits; if empty, `val`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub val_split: Vec<String>,
    /// Splits to test on; if empty, `test`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub test_split: Vec<String>,
}

impl KarpathyConfig {
    /// The list at `path`, with the file's own splits.
    pub fn new(path: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            images: images.into(),
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
        }
    }

    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }
}

#[derive(Deserialize)]
struct Picture {
    #[serde(default, deserialize_with = "or_default")]
    filepath: String,
    filename: String,
    split: String,
    #[serde(default, deserialize_with = "or_default")]
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    #[serde(default, deserialize_with = "or_default")]
    raw: String,
}

impl SourceConfig for KarpathyConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "path", &self.path, "a dataset_*.json file")?;
        given(table, "images", &self.images, "a folder of images")?;
        self.splits().validate(table)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path, &mut self.images]
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut table = Listed::new("Karpathy's split", limits);
        let splits = self.splits();
        let file = table.file(&self.path);
        let folders = table.folders(vec![self.images.clone()]);
        each_of_file(&self.path, &["images"], &mut |_, number, bytes| {
            let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
                let Some(split) = splits.of(&picture.split) else {
                    table.leave_out(of_split(&picture.split));
                    return Ok(());
                };
                if picture.filename.trim().is_empty() {
                    return Err("`filename` is empty".to_owned());
                }
                let image = match picture.filepath.as_str() {
                    "" => picture.filename,
                    folder => format!("{folder}/{}", picture.filename),
                };
                let sentences = picture.sentences.iter();
                if !sentences
                    .clone()
                    .any(|sentence| !sentence.raw.trim().is_empty())
                {
                    table.leave_out(WITHOUT_TEXT);
                    return Ok(());
                }
                let row = table.row(New {
                    file,
                    line: number,
                    folders,
                    image: &image,
                    second: None,
                    size: None,
                    split,
                });
                for sentence in sentences.filter(|sentence| !sentence.raw.trim().is_empty()) {
                    table.caption(row, &sentence.raw)?;
                }
                Ok(())
            });
            if let Err(reason) = used {
                table.reject(file, number, reason);
            }
        })?;
        Ok(Arc::new(table.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};
    use crate::sources::splits::Split;

    const LIST: &str = r#"{"images": [
        {"filepath": "val2014", "sentids": [1], "filename": "1.jpg", "imgid": 0, "split": "restval", "cocoid": 3,
         "sentences": [{"tokens": ["a"], "raw": "A cat.", "imgid": 0, "sentid": 1}, {"raw": ""}, {"raw": "Cats."}]},
        {"filename": "2.jpg", "split": "val", "sentences": [{"raw": "Flickr has no filepath."}]},
        {"filename": "3.jpg", "split": "test", "sentences": [{"raw": "kept to the end"}]},
        {"filename": "4.jpg", "split": "train", "sentences": []},
        {"filename": "", "split": "train", "sentences": [{"raw": "x"}]},
        {"filename": "5.jpg", "sentences": [{"raw": "x"}]},
        {"filename": "6.jpg", "split": "extra", "sentences": [{"raw": "left out"}]},
        {"filepath": null, "filename": "7.jpg", "split": "train", "sentences": [{"raw": null}], "imgid": NaN}
        ], "dataset": "coco"}"#;

    const DATA: &str = "source = \"karpathy\"\n[karpathy]\npath = \"d.json\"\nimages = \"i\"\n";

    #[test]
    fn pictures_lie_in_their_folders_and_splits() {
        let folder = folder(&[
            ("d.json", LIST),
            ("i/val2014/1.jpg", "2x2"),
            ("i/2.jpg", "3x3"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!(captions(&*source, Split::Train), [["A cat.", "Cats."]]);
        assert_eq!(
            captions(&*source, Split::Val),
            [["Flickr has no filepath."]]
        );
        let picture = source.image(Split::Train, 0).unwrap().unwrap();
        assert_eq!(picture.dimensions(), (2, 2));
        let picture = source.image(Split::Val, 0).unwrap().unwrap();
        assert_eq!(picture.dimensions(), (3, 3));
        assert_eq!(captions(&*source, Split::Test), [["kept to the end"]]);
        assert!(
            source
                .describe()
                .contains("3 items left out (2 without a text, 1 of the split \"extra\")"),
            "{}",
            source.describe()
        );
        // A recipe that holds out the test split neither trains nor evaluates on the validation split.
        let held_out = open(&folder, &format!("{DATA}val_split = \"test\"\n")).unwrap();
        assert_eq!(captions(&*held_out, Split::Val), [["kept to the end"]]);
        assert!(held_out.is_empty(Split::Test));
        assert!(held_out.describe().contains("1 of the split \"val\""));
        assert_rejected(
            &*source,
            &[("d.json", 5, "`filename` is empty"), ("d.json", 6, "split")],
        );
    }

    #[test]
    fn a_split_cannot_be_both() {
        let folder = folder(&[("d.json", LIST)]);
        let both = format!("{DATA}val_split = [\"test\", \"restval\"]\n");
        let message = message(open(&folder, &both));
        assert!(message.contains("`data.karpathy.val_split`"), "{message}");
        assert!(message.contains("restval"), "{message}");
    }
}
