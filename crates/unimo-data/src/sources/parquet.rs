//! Parquet files that contain images, as data sets on the Hugging Face hub.
//!
//! ```toml
//! [data]
//! source = "parquet"
//!
//! [data.parquet]
//! path = "flickr30k/data"                # holds train-00000-of-00003.parquet, validation-..., or say `train` and `val`
//! text_columns = ["caption"]
//! ```
//!
//! Texts are read when the source is opened. An image is read when it is needed, by reading the page that holds it. The page is
//! found by the file's page index or, without one, by the headers of the pages before it. Decoded pages are kept while there is
//! room. Reading needs the cargo feature `parquet`.

#[cfg(feature = "parquet")]
mod pictures;
#[cfg(feature = "parquet")]
mod rows;
#[cfg(feature = "parquet")]
mod table;

#[cfg(feature = "parquet")]
pub use rows::Rows;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::images::Limits;
use crate::settings::{not_empty, range, share};
use crate::sources::given::{expand, one_or_many, one_or_many_paths};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::SplitNames;
use crate::store::{self, RemoteConfig};

/// `[data.parquet]`: Parquet files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParquetConfig {
    /// A folder. A file's split is told by its name or by its folder's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Start of the names of training files; empty: the field's names, such as `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub train_split: Vec<String>,
    /// Start of the names of held-out files; empty: the field's names, such as `validation`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub val_split: Vec<String>,
    /// Start of the names of test files; empty: the field's names, such as `test`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub test_split: Vec<String>,
    /// The column that says which split a row is of, in the field's names or those of `train_split`, `val_split` and `test_split`; rows that
    /// name none are of their file's split; `None`: files are of one split each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// Files to train on, instead of `path`: paths, `{000..123}` for numbers, `{a,b}` for names.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub train: Vec<PathBuf>,
    /// Held-out files, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub val: Vec<PathBuf>,
    /// Files of the test split, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub test: Vec<PathBuf>,
    /// Share of the training files' images that is held out, by a hash, if there are no validation files.
    pub val_fraction: f64,
    /// What identifies the image of a row, in held-out files and where a share is held out: `"content"`, `"row"` (every row has its
    /// own image), or the name of a column. `None`: the content if the images of local files take up to 2 GB, else the first of the
    /// columns `image_id`, `img_id`, `imgid`, `cocoid`, `sha256`, `image_url`, `url` that exists, else the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture_id: Option<String>,
    /// Whether images are read.
    pub images: bool,
    /// The column with the images' files: binary, or a struct of `bytes` and `path`.
    pub image_column: String,
    /// The columns with captions: strings or lists of strings.
    #[serde(deserialize_with = "one_or_many")]
    pub text_columns: Vec<String>,
    /// Decoded pages that are kept in memory, in mebibytes. An image of another page costs decoding the whole page.
    pub cache_mb: usize,
    /// How files behind URLs are read.
    pub remote: RemoteConfig,
}

impl Default for ParquetConfig {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            path: None,
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
            split_column: None,
            train: Vec::new(),
            val: Vec::new(),
            test: Vec::new(),
            val_fraction: 0.05,
            picture_id: None,
            images: true,
            image_column: "image".to_owned(),
            text_columns: names(&["caption"]),
            cache_mb: 256,
            remote: RemoteConfig::default(),
        }
    }
}

impl ParquetConfig {
    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }
}

impl SourceConfig for ParquetConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        if self.path.is_some() != self.train.is_empty() {
            let found = match self.path {
                Some(_) => "given beside `train`",
                None => "absent",
            };
            let allowed = format!("a folder, or files as `{table}.train`, not both");
            return Err(DataError::config(key("path"), found, allowed));
        }
        let lists = [
            ("train", &self.train),
            ("val", &self.val),
            ("test", &self.test),
        ];
        let beside = lists.iter().skip(1).find(|(_, files)| !files.is_empty());
        if let (Some(_), Some((name, _))) = (&self.path, beside) {
            return Err(DataError::config(
                key(name),
                "given",
                format!("nothing beside `{table}.path`"),
            ));
        }
        for (name, patterns) in lists {
            for pattern in patterns {
                let text = pattern.to_string_lossy();
                not_empty(&key(name), &text, "paths of Parquet files")?;
                if !pattern.exists() {
                    expand(&text).map_err(|reason| {
                        let allowed = format!("`{{000..123}}` or `{{a,b}}` in a path; {reason}");
                        DataError::config(key(name), format!("{text:?}"), allowed)
                    })?;
                }
            }
        }
        self.splits().validate(table)?;
        if self.text_columns.is_empty() || self.text_columns.iter().any(String::is_empty) {
            let found = format!("{:?}", self.text_columns);
            return Err(DataError::config(
                key("text_columns"),
                found,
                "one or more names",
            ));
        }
        if let Some(column) = &self.picture_id {
            not_empty(
                &key("picture_id"),
                column,
                "\"content\", \"row\" or a column",
            )?;
        }
        if let Some(column) = &self.split_column {
            not_empty(&key("split_column"), column, "a column's name")?;
        }
        not_empty(&key("image_column"), &self.image_column, "a column's name")?;
        range(&key("cache_mb"), self.cache_mb, 0, 1 << 20)?;
        self.remote.validate(&key("remote"))?;
        share(&key("val_fraction"), self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.path
            .iter_mut()
            .chain(&mut self.train)
            .chain(&mut self.val)
            .chain(&mut self.test)
            .filter(|path| !store::is_remote(path))
            .collect()
    }

    #[cfg(feature = "parquet")]
    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(rows::Rows::open(self, limits)?))
    }

    #[cfg(not(feature = "parquet"))]
    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Err(DataError::config(
            "data.source",
            "parquet",
            "another source: this program was built without the cargo feature `parquet`, which `cargo xtask --features parquet ...` builds in",
        ))
    }
}
