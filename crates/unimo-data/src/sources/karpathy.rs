//! Karpathy's splits of COCO and Flickr: `dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`.
//!
//! ```toml
//! [data]
//! source = "karpathy"
//!
//! [data.karpathy]
//! path = "karpathy/dataset_coco.json"
//! images = "coco"
//! train_split = ["train", "restval"]
//! val_split = "test"
//! ```
//!
//! A picture lies at `images`/`filepath`/`filename`; Flickr's files have no `filepath`. Captions are the `raw` sentences. In
//! errors the line is the number of the picture, from 1.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::images::Limits;
use crate::source::{Source, SourceConfig};
use crate::sources::json::{each_of_file, parse};
use crate::sources::listed::{Listed, New, given};
use crate::sources::pairs::{distinct_splits, one_or_many};

/// `[data.karpathy]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KarpathyConfig {
    /// `dataset_*.json`.
    pub path: PathBuf,
    /// Folder of the pictures, or of the folders that `filepath` names.
    pub images: PathBuf,
    /// Splits that are trained on.
    #[serde(default = "train_split", deserialize_with = "one_or_many")]
    pub train_split: Vec<String>,
    /// Splits that are held out.
    #[serde(default = "val_split", deserialize_with = "one_or_many")]
    pub val_split: Vec<String>,
}

fn train_split() -> Vec<String> {
    vec!["train".to_owned(), "restval".to_owned()]
}

fn val_split() -> Vec<String> {
    vec!["val".to_owned()]
}

#[derive(Deserialize)]
struct Picture {
    #[serde(default)]
    filepath: String,
    filename: String,
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

impl SourceConfig for KarpathyConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "path", &self.path, "a dataset_*.json file")?;
        given(table, "images", &self.images, "a folder of pictures")?;
        distinct_splits(table, &self.train_split, &self.val_split)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path, &mut self.images]
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut table = Listed::new("Karpathy's split", limits);
        let file = table.file(&self.path);
        let folders = table.folders(vec![self.images.clone()]);
        each_of_file(&self.path, &["images"], &mut |_, number, bytes| {
            let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
                let val = self.val_split.contains(&picture.split);
                if !val && !self.train_split.contains(&picture.split) {
                    table.leave_out();
                    return Ok(());
                }
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
                    return Err("no sentence that is not empty".to_owned());
                }
                let row = table.row(New {
                    file,
                    line: number,
                    folders,
                    image: &image,
                    second: None,
                    size: None,
                    val,
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
    use crate::source::Split;
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};

    const LIST: &str = r#"{"images": [
        {"filepath": "val2014", "sentids": [1], "filename": "1.jpg", "imgid": 0, "split": "restval", "cocoid": 3,
         "sentences": [{"tokens": ["a"], "raw": "A cat.", "imgid": 0, "sentid": 1}, {"raw": ""}, {"raw": "Cats."}]},
        {"filename": "2.jpg", "split": "val", "sentences": [{"raw": "Flickr has no filepath."}]},
        {"filename": "3.jpg", "split": "test", "sentences": [{"raw": "left out"}]},
        {"filename": "4.jpg", "split": "train", "sentences": []},
        {"filename": "", "split": "train", "sentences": [{"raw": "x"}]},
        {"filename": "5.jpg", "sentences": [{"raw": "x"}]}
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
        assert!(
            source.describe().contains("1 items left out"),
            "{}",
            source.describe()
        );
        assert_rejected(
            &*source,
            &[
                ("d.json", 4, "no sentence"),
                ("d.json", 5, "`filename` is empty"),
                ("d.json", 6, "split"),
            ],
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
