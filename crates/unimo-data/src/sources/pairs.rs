//! Image files with texts, listed in JSON lines, a JSON array, CSV or TSV.
//!
//! ```toml
//! [data]
//! source = "pairs"
//!
//! [data.pairs]
//! path = "coco/pairs.tsv"
//! text_columns = ["caption", "alt"]
//! quotes = "raw"                    # for CSV and TSV; default: "csv", as in RFC 4180 and pandas
//! ```
//!
//! The format is recognised by content: JSON lines, a JSON array, or columns with a header, separated by tabs, commas, semicolons
//! or bars. If there is no column `image`, one of `file_name`, `image_path`, `filepath`, `filename`, `img_path` and `path` is used.
//! If there is no column `caption`, one of `text`, `captions` and `title` is used. The description says which. Paths may be written
//! as on Windows or as `file://` URLs.
//!
//! A column that a recipe names must be there: in the header, or in at least one row of JSON, whose rows may lack columns.
//!
//! The list is read once, line by line. A row that cannot be used is set aside with its line and reason, and reading continues.
//! Rows of the same image and split become one sample with several captions. Only a row's location stays in memory; the row is read
//! again when its sample is needed.
//!
//! `label_column = "label"` names the column with a row's class, for classification. Such a list may have images, texts or both; its first
//! row decides. A row without a label is one of a test set. Images without texts have one label; if their rows give several, they are
//! unusable.
//!
//! `language_columns = ["caption_lang", "alt_lang"]` names, for each text column, the column with the language of its texts: tags such as `en`.
//! A row with a text whose language is absent or unknown is unusable. `translations = true` says that the texts of a row in different
//! languages are translations of each other, as the captions of Multi30K are; texts of different rows never are.
//!
//! `alignment_columns = ["alt_words"]` names, for each text column but the first, the column that says which words of its text stand for words of
//! the first column's: `0-0 1-2` for word 0 of both, and for word 1 of the first and word 2 of this one, where words are between spaces. Then
//! each column holds one text, and the texts of a row are translations of each other. A row with an alignment that points outside of its texts
//! is unusable.
//!
//! The column `split` gives the split of a row, in any of the field's spellings ([`Split::of_name`]): `Train`, `validation`, `dev`,
//! `test2015`, and `restval`, which belongs to training. A row with another name is left out and counted under that name. A row
//! without a split follows the other rows of its image; if none names a split, `val_fraction` of the images is held out.

mod listing;
mod samples;

pub use listing::{ListRow, read_rows, read_rows_noting};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, SampleError};
use crate::formats::layout::layout_of;
use crate::formats::rows::{Groups, Item, Layout, Object, Repeated, Span, Spans, each_row, key_of};
pub use crate::formats::rows::{ListFormat, Quotes};
use crate::images::Limits;
use crate::order::draws::{Stream, hash_path, hash_text, unit};
use crate::settings::{not_empty, share};
use crate::sources::detect;
use crate::sources::given::one_or_many;
use crate::sources::left_out::{LeftOut, of_split};
use crate::sources::pairs::listing::{
    Elsewhere, Found, Listing, Read, Seen, alignments, captions, check_header, label, names, plain,
};
use crate::sources::source::{Holds, Source, SourceConfig};
use crate::sources::splits::{BySplit, Split, SplitNames};
use crate::store::paths;

/// `[data.pairs]`: a list of image files with their texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// The list.
    pub path: PathBuf,
    /// Format of the list; `None`: recognised by content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ListFormat>,
    /// What quotes mean in CSV and TSV.
    #[serde(default, skip_serializing_if = "Quotes::is_default")]
    pub quotes: Quotes,
    /// The column with the image's path.
    #[serde(default = "image_column")]
    pub image_column: String,
    /// The columns with captions: a string, or (JSON lines) a list of strings.
    #[serde(default = "text_columns", deserialize_with = "one_or_many")]
    pub text_columns: Vec<String>,
    /// For each text column, the column with the language of its texts, as tags such as `en`. Empty: languages are not known.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub language_columns: Vec<String>,
    /// Whether the texts of a row in different languages are translations of each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub translations: bool,
    /// For each text column but the first, the column with the words of its text that stand for words of the first column's, as `0-0 1-2`. Empty:
    /// texts of a row are no translations of each other.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub alignment_columns: Vec<String>,
    /// The column with a row's label; `None`: rows have no labels, and must have images and texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,
    /// The column with a row's split; `None`: `split`, in any capitals, if the list has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// Names of the training split in the split column; if empty, the field's names.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub train_split: Vec<String>,
    /// Likewise for validation rows.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub val_split: Vec<String>,
    /// Likewise for test rows.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub test_split: Vec<String>,
    /// Share of the images that is held out, by a hash of the path, among rows without a split.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
    /// Folder that image paths are relative to; `None`: the list's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_root: Option<PathBuf>,
    /// Only rows are used in which each of these columns has the given value.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "scalars"
    )]
    pub filter: BTreeMap<String, String>,
    /// Whether the list need not have the column of labels: what is predicted may have none. No key of a recipe.
    #[serde(skip)]
    pub unlabelled: bool,
}

impl PairsConfig {
    /// Whether rows may have images alone or texts alone.
    fn may_lack(&self) -> bool {
        self.label_column.is_some() || self.unlabelled
    }

    /// The list at `path` with default columns.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            quotes: Quotes::default(),
            image_column: image_column(),
            text_columns: text_columns(),
            language_columns: Vec::new(),
            translations: false,
            alignment_columns: Vec::new(),
            label_column: None,
            split_column: None,
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
            val_fraction: val_fraction(),
            image_root: None,
            filter: BTreeMap::new(),
            unlabelled: false,
        }
    }
}

/// Values to compare with. Numbers and booleans are taken as written, so that `year = 2020` needs no quotes.
fn scalars<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string, a number, true or false")]
    enum Scalar {
        Text(String),
        Bool(bool),
        Integer(i64),
        Number(f64),
    }
    let values = BTreeMap::<String, Scalar>::deserialize(input)?;
    let text = |value| match value {
        Scalar::Text(text) => text,
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Number(value) => value.to_string(),
    };
    Ok(values
        .into_iter()
        .map(|(column, value)| (column, text(value)))
        .collect())
}

fn image_column() -> String {
    IMAGE_COLUMN.to_owned()
}

fn text_columns() -> Vec<String> {
    vec![TEXT_COLUMN.to_owned()]
}

fn val_fraction() -> f64 {
    0.05
}

impl SourceConfig for PairsConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        not_empty(
            &key("path"),
            &self.path.to_string_lossy(),
            "a .jsonl, .json, .csv or .tsv file",
        )?;
        not_empty(&key("image_column"), &self.image_column, "a column's name")?;
        some_names(&key("text_columns"), &self.text_columns)?;
        if !self.language_columns.is_empty() {
            some_names(&key("language_columns"), &self.language_columns)?;
            let count = self.text_columns.len();
            if self.language_columns.len() != count {
                let found = format!("{:?}", self.language_columns);
                let allowed = format!("one for each of the {count} text_columns");
                return Err(DataError::config(key("language_columns"), found, allowed));
            }
        }
        if self.translations && self.language_columns.is_empty() {
            let allowed = "true beside language_columns: a translation is in another language";
            return Err(DataError::config(key("translations"), true, allowed));
        }
        if !self.alignment_columns.is_empty() {
            some_names(&key("alignment_columns"), &self.alignment_columns)?;
            let count = self.text_columns.len() - 1;
            if self.alignment_columns.len() != count || self.language_columns.is_empty() {
                let found = format!("{:?}", self.alignment_columns);
                let allowed = format!(
                    "one for each of the {count} text_columns behind the first, beside language_columns"
                );
                return Err(DataError::config(key("alignment_columns"), found, allowed));
            }
        }
        self.splits().validate(table)?;
        if let Some(column) = &self.label_column {
            not_empty(&key("label_column"), column, "a column's name")?;
        }
        if let Some(column) = &self.split_column {
            not_empty(&key("split_column"), column, "a column's name")?;
        }
        share(&key("val_fraction"), self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        [&mut self.path]
            .into_iter()
            .chain(self.image_root.as_mut())
            .collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(Pairs::open(self, limits)?))
    }
}

/// What the rows of a list without labels hold.
const BOTH: Holds = Holds {
    images: true,
    captions: true,
};

/// Checks that no name is empty.
fn some_names(key: &str, names: &[String]) -> Result<(), DataError> {
    if names.is_empty() || names.iter().any(String::is_empty) {
        let found = format!("{names:?}");
        return Err(DataError::config(key, found, "one or more names"));
    }
    Ok(())
}

const IMAGE_COLUMN: &str = "image";
const TEXT_COLUMN: &str = "caption";

/// Usual columns of other tools, for lists without the default ones.
const IMAGE_COLUMNS: [&str; 6] = [
    "file_name",
    "image_path",
    "filepath",
    "filename",
    "img_path",
    "path",
];
const TEXT_COLUMNS: [&str; 3] = ["text", "captions", "title"];

/// Names of a list's column with the image's path, the usual one first.
pub fn image_columns() -> impl Iterator<Item = &'static str> {
    std::iter::once(IMAGE_COLUMN).chain(IMAGE_COLUMNS)
}

/// Names of a list's column with the text, the usual one first.
pub fn caption_columns() -> impl Iterator<Item = &'static str> {
    std::iter::once(TEXT_COLUMN).chain(TEXT_COLUMNS)
}

/// The split column if the recipe names none.
const DEFAULT_SPLIT_COLUMN: &str = "split";

/// Image-text pairs. See the [module](self).
#[derive(Debug)]
pub struct Pairs {
    config: PairsConfig,
    list: Spans,
    layout: Layout,
    /// The columns of a CSV or TSV file.
    header: Vec<String>,
    root: PathBuf,
    limits: Limits,
    splits: SplitNames,
    /// The rows of each image.
    rows: BySplit<Groups>,
    /// Number of distinct captions of each split.
    captions: BySplit<usize>,
    rejected: Vec<SampleError>,
    left_out: LeftOut,
    /// Number of images without a named split, and how many of them are held out.
    drawn: (usize, usize),
    /// Number of images whose rows are in several splits.
    torn: usize,
    /// Number of captions that an image has already in the same split.
    doubled: usize,
    /// Rows that have a key twice.
    repeated: Repeated,
    /// Columns that may say splits under another name.
    elsewhere: Elsewhere,
    /// Whether the image column and the text column are found.
    settled: [bool; 2],
    /// What rows hold; `None` until a row with labels decides.
    holds: Option<Holds>,
    /// Whether the list has the column of labels, if one is named.
    labelled: bool,
}

/// The contents of a usable row.
struct Row {
    /// `None` if the row names no split.
    split: Option<Split>,
    /// The image's path. In a list without images, the text: equal texts are one sample.
    image: String,
    captions: Vec<String>,
    /// The language of each caption, if columns say it.
    languages: Vec<String>,
    /// For each caption but the first, which of its words stand for words of the first, if columns say it.
    alignments: Vec<Vec<(u32, u32)>>,
    /// `None` if the row has no label.
    label: Option<String>,
}

impl Pairs {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// The list cannot be read, lacks a column or holds no usable row.
    pub fn open(config: &PairsConfig, limits: &Limits) -> Result<Self, DataError> {
        let fits = |header: &[String]| {
            let mut settled = config.clone();
            let has = |column: &str| header.iter().any(|cell| cell == column);
            let found = settled.settle(&has);
            match &config.label_column {
                None if !config.unlabelled => found == [true; 2],
                None => found != [false; 2],
                Some(label) => found != [false; 2] && (config.unlabelled || has(label)),
            }
        };
        let layout = layout_of(&config.path, config.format, config.quotes, &fits)?;
        let folder = config.path.parent().unwrap_or(Path::new("")).to_owned();
        let mut pairs = Self {
            list: Spans::open(&config.path)?,
            layout,
            header: Vec::new(),
            root: config.image_root.clone().unwrap_or(folder),
            limits: *limits,
            splits: config.splits(),
            rows: BySplit::default(),
            captions: BySplit::default(),
            rejected: Vec::new(),
            left_out: LeftOut::new("rows"),
            drawn: (0, 0),
            torn: 0,
            doubled: 0,
            repeated: Repeated::default(),
            elsewhere: Elsewhere::default(),
            settled: [false; 2],
            holds: (!config.may_lack()).then_some(BOTH),
            labelled: true,
            config: config.clone(),
        };
        let mut found = Listing::default();
        let mut seen = Seen::new(config);
        let mut header_seen = layout.is_json();
        let repeated = each_row(&config.path, layout, &mut |item| match item {
            Item::Header(Ok(header)) => {
                header_seen = true;
                pairs.settle(&|column| header.iter().any(|cell| cell == column));
                check_header(&pairs.config, layout, &header)?;
                pairs.decide();
                pairs.header = header;
                Ok(())
            }
            Item::Header(Err(reason)) => {
                Err(pairs.nothing(&format!("the header line cannot be used: {reason}")))
            }
            Item::Row(span, row) => {
                if let Ok(Some(row)) = &row
                    && layout.is_json()
                {
                    seen.add(row);
                }
                pairs.take(span, row, &mut found);
                Ok(())
            }
        })?;
        pairs.repeated = repeated;
        if !header_seen {
            return Err(pairs.nothing("the file is empty"));
        }
        seen.check(config)?;
        let labels = config.label_column.as_ref();
        pairs.labelled = labels.is_none_or(|column| {
            if layout.is_json() {
                seen.has(column)
            } else {
                pairs.header.contains(column)
            }
        });
        pairs.divide(found)?;
        if pairs.rows.iter().all(|(_, rows)| rows.len() == 0) {
            return Err(pairs.nothing("no row can be used"));
        }
        Ok(pairs)
    }

    fn take(&mut self, span: Span, row: Object, found: &mut Listing) {
        if let Ok(Some(row)) = &row
            && self.settled != [true; 2]
        {
            self.settle(&|column| row.contains_key(column));
            self.decide();
        }
        if let Ok(Some(row)) = &row
            && self.config.split_column.is_none()
        {
            self.config.split_column = self.elsewhere.look(row);
        }
        let holds = self.holds.unwrap_or(BOTH);
        let used = row.and_then(|row| match row {
            Some(row) => self.config.read(&self.splits, &row, &self.root, holds),
            None => Ok(Read::Empty),
        });
        match used {
            Ok(Read::Empty) => {}
            Ok(Read::LeftOut(reason)) => self.left_out.add(reason),
            Ok(Read::Row(row)) => {
                let held = unit(hash_text(Stream::Split, &row.image)) < self.config.val_fraction;
                let picture = hash_path(Stream::Picture, row.image.as_ref());
                found.rows.push(Found {
                    picture,
                    span,
                    split: row.split,
                    drawn: if held { Split::Val } else { Split::Train },
                    captions: row.captions.len() as u32,
                });
                let captions = row.captions.iter();
                found
                    .captions
                    .extend(captions.map(|text| key_of((picture, text))));
            }
            Err(reason) => self.rejected.push(self.list.bad(span, reason)),
        }
    }

    /// Assigns every row to its split. Rows of an image that name no split go to the same one.
    fn divide(&mut self, found: Listing) -> Result<(), DataError> {
        let Listing {
            rows: found,
            captions,
        } = found;
        if u32::try_from(found.len()).is_err() {
            return Err(self.nothing("it has more than 4294967295 rows"));
        }
        let mut order: Vec<(u64, u32)> = found.iter().map(|row| row.picture).zip(0..).collect();
        order.sort_unstable();
        let mut splits = vec![Split::Train; found.len()];
        for picture in order.chunk_by(|a, b| a.0 == b.0) {
            let rows = || picture.iter().map(|(_, row)| &found[*row as usize]);
            let named = rows().find_map(|row| row.split);
            let unnamed = named.unwrap_or(found[picture[0].1 as usize].drawn);
            if named.is_none() {
                self.drawn.0 += 1;
                self.drawn.1 += usize::from(unnamed == Split::Val);
            }
            self.torn += usize::from(rows().any(|row| row.split.is_some_and(|s| s != unnamed)));
            for (_, row) in picture {
                let row = *row as usize;
                splits[row] = found[row].split.unwrap_or(unnamed);
            }
        }
        drop(order);
        let mut told = BySplit::<Vec<u64>>::default();
        let mut captions = captions.into_iter();
        for (row, split) in found.iter().zip(splits) {
            told[split].extend(captions.by_ref().take(row.captions as usize));
            self.rows[split].push(row.picture, row.span);
        }
        self.rows.iter_mut().for_each(|(_, rows)| rows.finish());
        let mut doubled = 0;
        self.captions = told.map(|mut told| {
            let all = told.len();
            told.sort_unstable();
            told.dedup();
            doubled += all - told.len();
            told.len()
        });
        self.doubled = doubled;
        Ok(())
    }

    /// Decides whether rows with labels have images and texts, by the columns that are found.
    fn decide(&mut self) {
        if self.holds.is_none() && self.settled != [false; 2] {
            let [images, captions] = self.settled;
            self.holds = Some(Holds { images, captions });
        }
    }

    /// Replaces default columns that do not exist by other columns. The first row that has any decides.
    fn settle(&mut self, has: &dyn Fn(&str) -> bool) {
        let mut config = self.config.clone();
        let found = config.settle(has);
        if !self.settled[0] {
            self.config.image_column = config.image_column;
        }
        if !self.settled[1] {
            self.config.text_columns = config.text_columns;
        }
        for (settled, found) in self.settled.iter_mut().zip(found) {
            *settled |= found;
        }
    }

    fn rows(&self, split: Split) -> &Groups {
        &self.rows[split]
    }

    /// Reads a row of the list again.
    fn row(&self, span: Span) -> Result<Row, SampleError> {
        let row = self.list.row(span, self.layout, &self.header)?;
        let holds = self.holds.unwrap_or(BOTH);
        match self.config.read(&self.splits, &row, &self.root, holds) {
            Ok(Read::Row(row)) => Ok(row),
            Ok(Read::Empty | Read::LeftOut(_)) => Err(self.list.changed(span)),
            Err(reason) => Err(self.list.bad(span, reason)),
        }
    }

    fn picture_path(&self, split: Split, index: usize) -> Result<PathBuf, SampleError> {
        let span = self.rows(split).of(index)[0];
        let image = self.row(span)?.image;
        paths::resolve(&self.root, &image).map_err(|reason| self.list.bad(span, reason))
    }

    /// The error if nothing is usable, with the reasons of the first rows.
    fn nothing(&self, what: &str) -> DataError {
        const SHOWN: usize = 3;
        let mut reason = what.to_owned();
        if self.left_out.total() > 0 {
            reason += &format!(
                "; {}: data.pairs.train_split, val_split, test_split and filter say which are used",
                self.left_out
            );
        }
        if !self.rejected.is_empty() {
            reason += &format!("; {} are unusable:", self.rejected.len());
            for rejected in self.rejected.iter().take(SHOWN) {
                reason += &format!(" line {}: {}.", rejected.place.line, rejected.reason);
            }
        }
        if let Some(hint) = detect::hint(&self.config.path) {
            reason += &format!("; {hint}");
        }
        DataError::Manifest {
            path: self.config.path.clone(),
            reason,
        }
    }
}

impl PairsConfig {
    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }

    /// Replaces default columns that do not exist. Returns whether there are columns of images and of texts.
    fn settle(&mut self, has: &dyn Fn(&str) -> bool) -> [bool; 2] {
        let other = |columns: &[&'static str]| columns.iter().copied().find(|column| has(column));
        if self.image_column == image_column()
            && !has(&self.image_column)
            && let Some(column) = other(&IMAGE_COLUMNS)
        {
            column.clone_into(&mut self.image_column);
        }
        if self.text_columns == text_columns()
            && !self.text_columns.iter().any(|column| has(column))
            && let Some(column) = other(&TEXT_COLUMNS)
        {
            self.text_columns = vec![column.to_owned()];
        }
        [
            has(&self.image_column),
            self.text_columns.iter().any(|column| has(column)),
        ]
    }

    fn read(
        &self,
        splits: &SplitNames,
        row: &Map<String, Value>,
        root: &Path,
        holds: Holds,
    ) -> Result<Read, String> {
        let other = self.filter.iter().find(|(column, wanted)| {
            row.get(*column)
                .is_none_or(|value| plain(value).as_ref() != Some(wanted))
        });
        if let Some((column, wanted)) = other {
            return Ok(Read::LeftOut(format!("whose `{column}` is not {wanted:?}")));
        }
        let image = match row.get(&self.image_column) {
            _ if !holds.images => String::new(),
            Some(Value::String(image)) if !image.trim().is_empty() => {
                paths::spelled(root, image.trim())
            }
            Some(Value::String(_)) => {
                return Err(format!("column `{}` is empty", self.image_column));
            }
            Some(Value::Null) => return Err(format!("column `{}` is null", self.image_column)),
            Some(_) => return Err(format!("column `{}` is no text", self.image_column)),
            None => {
                return Err(format!(
                    "no column `{}`; there are {}",
                    self.image_column,
                    names(row.keys())
                ));
            }
        };
        let split_column = self.split_column.as_deref().unwrap_or(DEFAULT_SPLIT_COLUMN);
        let named = match row.get(split_column) {
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(format!("column `{split_column}` names no split"));
            }
            value => value.and_then(plain),
        };
        let named = named.filter(|split| !split.trim().is_empty());
        let split = match named {
            Some(name) => match splits.of(&name) {
                Some(split) => Some(split),
                None => return Ok(Read::LeftOut(of_split(&name))),
            },
            None => None,
        };
        let (texts, languages) = if holds.captions {
            captions(self, row)?
        } else {
            Default::default()
        };
        Ok(Read::Row(Row {
            split,
            image: if holds.images { image } else { texts.concat() },
            alignments: alignments(self, row, &texts)?,
            captions: texts,
            languages,
            label: label(self, row)?,
        }))
    }
}

#[cfg(test)]
mod tests;
