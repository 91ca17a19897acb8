//! Image files with texts, listed in JSON lines, a JSON array, CSV or TSV.
//!
//! ```toml
//! [data]
//! source = "pairs"
//!
//! [data.pairs]
//! path = "coco/pairs.tsv"
//! text_columns = ["caption", "alt"]
//! quotes = "raw"                    # of CSV and TSV; absent: "csv", as RFC 4180 and pandas have it
//! ```
//!
//! How the list is written is told by its content: JSON lines, an array, or columns with a header, between which are tabs, commas,
//! semicolons or bars. Where there is no column `image` one of `file_name`, `image_path`, `filepath`, `filename`, `img_path` and `path`
//! is taken, where there is no `caption` one of `text`, `captions` and `title`; the description says which. Paths may be spelled as
//! Windows does or be `file://` URLs.
//!
//! The list is read once, line by line. A row that cannot be used is set aside with its line and reason, and reading
//! goes on. Rows of the same image and split become one sample with several captions. What stays in memory of a row is
//! where it lies; it is read again when its sample is asked for.
//!
//! Which split a row is of is said by the column `split`, in any of the field's spellings ([`Split::of_name`]): `Train`,
//! `validation`, `dev`, `test2015`, and `restval`, which is trained on. A row of any other split is left out and counted by that
//! name. A row that names no split is of the split that other rows of its picture name, else `val_fraction` of the pictures is held
//! out.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Place, SampleError};
use crate::formats::layout::layout_of;
use crate::formats::rows::{Groups, Item, Layout, Object, Span, Spans, each_row, key_of};
pub use crate::formats::rows::{ListFormat, Quotes};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_path, hash_text, unit};
use crate::settings::{not_empty, share};
use crate::sources::detect;
use crate::sources::given::one_or_many;
use crate::sources::left_out::{LeftOut, of_split};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::{BySplit, Split, SplitNames, drawn};
use crate::store::paths;
use crate::text::spaced;

/// `[data.pairs]`: a list of image files with their texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// The list.
    pub path: PathBuf,
    /// How the list is written; absent: by its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ListFormat>,
    /// What quotes mean in CSV and TSV.
    #[serde(default, skip_serializing_if = "Quotes::is_default")]
    pub quotes: Quotes,
    /// The column that holds the image's path.
    #[serde(default = "image_column")]
    pub image_column: String,
    /// The columns that hold captions: a string, or (JSON lines) a list of strings.
    #[serde(default = "text_columns", deserialize_with = "one_or_many")]
    pub text_columns: Vec<String>,
    /// The column that says which split a row is of; absent: `split`, where the list has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// What the split column holds for training rows, one name or several; absent: the field's names.
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
    /// Share of the images that is held out, by a hash of the path, among rows that name no split.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
    /// Folder that image paths are relative to; absent: the list's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_root: Option<PathBuf>,
    /// Rows are used only where every one of these columns holds the given value.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "scalars"
    )]
    pub filter: BTreeMap<String, String>,
}

impl PairsConfig {
    /// The list at `path` with default columns.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            quotes: Quotes::default(),
            image_column: image_column(),
            text_columns: text_columns(),
            split_column: None,
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
            val_fraction: val_fraction(),
            image_root: None,
            filter: BTreeMap::new(),
        }
    }
}

/// Values to compare with: numbers and booleans as they are written, so that `year = 2020` needs no quotes.
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
    "image".to_owned()
}

fn text_columns() -> Vec<String> {
    vec!["caption".to_owned()]
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
        self.splits().validate(table)?;
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

/// One name or several, none of them empty.
fn some_names(key: &str, names: &[String]) -> Result<(), DataError> {
    if names.is_empty() || names.iter().any(String::is_empty) {
        let found = format!("{names:?}");
        return Err(DataError::config(key, found, "one or more names"));
    }
    Ok(())
}

/// Columns of pictures and of texts that other tools write, for lists without the default ones.
const IMAGE_COLUMNS: [&str; 6] = [
    "file_name",
    "image_path",
    "filepath",
    "filename",
    "img_path",
    "path",
];
const TEXT_COLUMNS: [&str; 3] = ["text", "captions", "title"];

/// The column that says which split a row is of, where the recipe names none.
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
    /// One group of rows per image.
    rows: BySplit<Groups>,
    /// Distinct captions of each split.
    captions: BySplit<usize>,
    rejected: Vec<SampleError>,
    left_out: LeftOut,
    /// Pictures that no row names a split of, and how many of them are held out.
    drawn: (usize, usize),
    /// Pictures that rows put into several splits.
    torn: usize,
    /// Whether the columns of pictures and of texts are found.
    settled: [bool; 2],
}

/// What a usable row says.
struct Row {
    /// None where it names no split.
    split: Option<Split>,
    image: String,
    captions: Vec<String>,
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
            settled.settle(&|column| header.iter().any(|cell| cell == column)) == [true; 2]
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
            settled: [false; 2],
            config: config.clone(),
        };
        let mut found = Listing::default();
        let mut header_seen = layout.is_json();
        each_row(&config.path, layout, &mut |item| match item {
            Item::Header(Ok(header)) => {
                header_seen = true;
                pairs.settle(&|column| header.iter().any(|cell| cell == column));
                check_header(&pairs.config, &header)?;
                pairs.header = header;
                Ok(())
            }
            Item::Header(Err(reason)) => {
                Err(pairs.nothing(&format!("unreadable header line: {reason}")))
            }
            Item::Row(span, row) => {
                pairs.take(span, row, &mut found);
                Ok(())
            }
        })?;
        if !header_seen {
            return Err(pairs.nothing("the file is empty"));
        }
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
        }
        let used = row.and_then(|row| match row {
            Some(row) => self.config.read(&self.splits, &row, &self.root),
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

    /// Puts every row into its split: all rows of a picture that name none into one.
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
        self.captions = told.map(|mut told| {
            told.sort_unstable();
            told.dedup();
            told.len()
        });
        Ok(())
    }

    /// Takes other columns where the recipe's are the default ones and not there; decided by the first row that has any.
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

    /// A row of the list, read again.
    fn row(&self, span: Span) -> Result<Row, SampleError> {
        let row = self.list.row(span, self.layout, &self.header)?;
        match self.config.read(&self.splits, &row, &self.root) {
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

    /// Nothing usable: say why, with the first rows' reasons.
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

/// What a list holds, while it is read.
#[derive(Default)]
struct Listing {
    rows: Vec<Found>,
    /// Hashes of image and caption, row by row, to count what is told apart.
    captions: Vec<u64>,
}

/// A usable row while the list is read.
struct Found {
    picture: u64,
    span: Span,
    /// How many captions it has.
    captions: u32,
    split: Option<Split>,
    /// What its split is if no row of its picture names one.
    drawn: Split,
}

/// What reading a row gives.
enum Read {
    Empty,
    /// Of no split, or not what the filter asks for: why.
    LeftOut(String),
    Row(Row),
}

impl PairsConfig {
    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }

    /// Takes other columns where the default ones are not there. Says which of picture and texts there is a column for.
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
    ) -> Result<Read, String> {
        let other = self.filter.iter().find(|(column, wanted)| {
            row.get(*column)
                .is_none_or(|value| plain(value).as_ref() != Some(wanted))
        });
        if let Some((column, wanted)) = other {
            return Ok(Read::LeftOut(format!("whose `{column}` is not {wanted:?}")));
        }
        let image = match row.get(&self.image_column) {
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
        let named = row
            .get(split_column)
            .and_then(plain)
            .filter(|split| !split.trim().is_empty());
        let split = match named {
            Some(name) => match splits.of(&name) {
                Some(split) => Some(split),
                None => return Ok(Read::LeftOut(of_split(&name))),
            },
            None => None,
        };
        Ok(Read::Row(Row {
            split,
            image,
            captions: captions(self, row)?,
        }))
    }
}

/// A row of a list with its line number, or why it cannot be used.
pub type ListRow = (u64, Result<Map<String, Value>, String>);

/// Every row of a JSON lines, JSON, CSV or TSV file as it stands there, told apart by the file's content. The line of an array's
/// element is its number.
///
/// # Errors
///
/// The file cannot be read, or is no list.
pub fn read_rows(path: &Path) -> Result<Vec<ListRow>, DataError> {
    let mut rows = Vec::new();
    let layout = layout_of(path, None, Quotes::default(), &|header| header.len() > 1)?;
    each_row(path, layout, &mut |item| {
        match item {
            Item::Header(Ok(_)) => {}
            Item::Header(Err(reason)) => {
                return Err(DataError::Manifest {
                    path: path.to_owned(),
                    reason: format!("unreadable header line: {reason}"),
                });
            }
            Item::Row(_, Ok(None)) => {}
            Item::Row(span, Ok(Some(row))) => rows.push((u64::from(span.line), Ok(row))),
            Item::Row(span, Err(reason)) => rows.push((u64::from(span.line), Err(reason))),
        }
        Ok(())
    })?;
    Ok(rows)
}

fn check_header(config: &PairsConfig, header: &[String]) -> Result<(), DataError> {
    let has = |column: &String| header.contains(column);
    let missing = |key: &str, found: String| {
        Err(DataError::config(
            format!("data.pairs.{key}"),
            found,
            format!("columns of {}: {}", config.path.display(), names(header)),
        ))
    };
    if !has(&config.image_column) {
        return missing("image_column", format!("{:?}", config.image_column));
    }
    if !config.text_columns.iter().any(has) {
        return missing("text_columns", format!("{:?}", config.text_columns));
    }
    if let Some(column) = config.split_column.as_ref().filter(|column| !has(column)) {
        return missing("split_column", format!("{column:?}"));
    }
    if let Some(column) = config.filter.keys().find(|column| !has(column)) {
        return missing("filter", format!("{column:?}"));
    }
    Ok(())
}

fn names<'a>(columns: impl IntoIterator<Item = &'a String>) -> String {
    let columns: Vec<_> = columns
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if columns.is_empty() {
        "none".to_owned()
    } else {
        columns.join(", ")
    }
}

/// A scalar as text.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // 1.0 is 1.
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        }),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether two ways to write a path lead to one file.
fn same_path(a: &str, b: &str) -> bool {
    a == b || hash_path(Stream::Picture, a.as_ref()) == hash_path(Stream::Picture, b.as_ref())
}

/// All texts of a row; columns that are absent or empty do no harm as long as one text remains.
fn captions(config: &PairsConfig, row: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut captions = Vec::new();
    let mut add = |text: &str| {
        // Runs of white space, line breaks among them, carry no meaning in a caption.
        captions.extend(spaced(text));
    };
    let mut present = false;
    let mut null = None;
    for column in &config.text_columns {
        let no_text = || format!("column `{column}` is neither a text nor a list of texts");
        match row.get(column) {
            None => continue,
            Some(Value::Null) => {
                null = Some(column);
                continue;
            }
            Some(Value::String(text)) => add(text),
            Some(Value::Array(texts)) => {
                for text in texts.iter().filter(|text| !text.is_null()) {
                    add(text.as_str().ok_or_else(no_text)?);
                }
            }
            Some(_) => return Err(no_text()),
        }
        present = true;
    }
    match (captions.is_empty(), present) {
        (false, _) => Ok(captions),
        (true, true) => Err(format!("empty text in {}", names(&config.text_columns))),
        (true, false) => Err(match null {
            Some(column) => format!("column `{column}` is null"),
            None => format!(
                "no column {}; there are {}",
                names(&config.text_columns),
                names(row.keys())
            ),
        }),
    }
}

impl Source for Pairs {
    fn len(&self, split: Split) -> usize {
        self.rows(split).len()
    }

    fn describe(&self) -> String {
        let test = match self.rows[Split::Test].len() {
            0 => String::new(),
            images => format!(", {images} to test on with {}", self.captions[Split::Test]),
        };
        let mut text = format!(
            "{}: {} training images with {} captions, {} held out with {}{test}, {}, {} unusable",
            self.list.name,
            self.rows[Split::Train].len(),
            self.captions[Split::Train],
            self.rows[Split::Val].len(),
            self.captions[Split::Val],
            self.left_out,
            self.rejected.len()
        );
        if IMAGE_COLUMNS.contains(&self.config.image_column.as_str()) {
            text += &format!(", pictures by the column `{}`", self.config.image_column);
        }
        if let [column] = self.config.text_columns.as_slice()
            && TEXT_COLUMNS.contains(&column.as_str())
        {
            text += &format!(", texts by the column `{column}`");
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        let fraction = self.config.val_fraction;
        if of > 0 && fraction > 0.0 {
            notes.push(drawn(&self.list.name, held, of, "pictures", fraction));
        }
        if self.torn > 0 {
            notes.push(format!(
                "{}: {} pictures are in several splits, as their rows say; `unimo data verify` names them",
                self.list.name, self.torn
            ));
        }
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.list.place(self.rows(split).of(index)[0])
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let spans = self.rows(split).of(index);
        let first = self.row(spans[0])?;
        let mut captions = first.captions;
        for span in &spans[1..] {
            let row = self.row(*span)?;
            // Rows were brought together by a hash of 64 bits, so this is as good as certain.
            if same_path(&row.image, &first.image) {
                captions.extend(row.captions);
            }
        }
        let mut seen = HashSet::new();
        captions.retain(|caption| seen.insert(key_of(caption)));
        Ok(captions)
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let path = self.picture_path(split, index)?;
        images::read(&path, self.limits)
            .map(Some)
            .map_err(|reason| SampleError::new(self.place(split, index), reason))
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let path = self.picture_path(split, index)?;
        images::read_file(&path, self.limits.max_pixels)
            .map(Some)
            .map_err(|reason| SampleError::new(self.place(split, index), reason))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let spans = self.rows(split).of(index);
        Ok(SampleError::known(self.row(spans[0]))?.map(|row| row.image))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        SampleError::known(self.picture_path(split, index))
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::rows::{LONGEST_ROW, UNCLOSED};

    const LIMITS: Limits = Limits::full_size(1_000_000);

    fn open(
        name: &str,
        text: impl AsRef<[u8]>,
        change: impl FnOnce(&mut PairsConfig),
    ) -> Result<Pairs, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut config = PairsConfig::new(path);
        config.val_fraction = 0.0;
        change(&mut config);
        Pairs::open(&config, &LIMITS)
    }

    fn all(pairs: &Pairs, split: Split) -> Vec<(u64, String, Vec<String>)> {
        (0..pairs.len(split))
            .map(|index| {
                let image = pairs.row(pairs.rows(split).of(index)[0]).unwrap().image;
                let captions = pairs.captions(split, index).unwrap();
                (pairs.place(split, index).line, image, captions)
            })
            .collect()
    }

    fn rejected(pairs: &Pairs) -> Vec<(u64, &str)> {
        pairs
            .rejected
            .iter()
            .map(|error| (error.place.line, error.reason.as_str()))
            .collect()
    }

    fn row(line: u64, image: &str, captions: &[&str]) -> (u64, String, Vec<String>) {
        let captions = captions
            .iter()
            .map(|caption| (*caption).to_owned())
            .collect();
        (line, image.to_owned(), captions)
    }

    #[test]
    fn captions_come_from_columns_lists_and_rows() {
        let pairs = open(
            "a.jsonl",
            r#"{"image": "1.jpg", "caption": "one", "alt": ["two", " ", "three"]}
{"image": "2.jpg", "alt": "only alt", "caption": null}
{"image": "1.jpg", "caption": "  four\n words "}
{"image": "1.jpg", "caption": "one"}
"#,
            |config| config.text_columns = vec!["caption".into(), "alt".into()],
        )
        .unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(1, "1.jpg", &["one", "two", "three", "four words"]),
                row(2, "2.jpg", &["only alt"]),
            ]
        );
        assert!(rejected(&pairs).is_empty());
        assert!(
            pairs
                .describe()
                .contains("2 training images with 5 captions")
        );
    }

    #[test]
    fn splits_and_filters() {
        let text = r#"{"image": "1", "caption": "a", "split": "train", "lang": "en", "n": 1}
{"image": "2", "caption": "b", "split": "restval", "lang": "en", "n": 1}
{"image": "3", "caption": "c", "split": "val", "lang": "en", "n": 1}
{"image": "4", "caption": "d", "split": "test", "lang": "en", "n": 1}
{"image": "5", "caption": "e", "split": "train", "lang": "es", "n": 1}
{"image": "6", "caption": "f", "split": "train", "lang": "en", "n": 2}
"#;
        let pairs = open("a.jsonl", text, |config| {
            config.filter = [("lang", "en"), ("n", "1")]
                .map(|(k, v)| (k.into(), v.into()))
                .into();
        })
        .unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [row(1, "1", &["a"]), row(2, "2", &["b"])]
        );
        assert_eq!(all(&pairs, Split::Val), [row(3, "3", &["c"])]);
        assert_eq!(all(&pairs, Split::Test), [row(4, "4", &["d"])]);
        let left = "2 rows left out (1 whose `lang` is not \"en\", 1 whose `n` is not \"1\")";
        assert!(pairs.describe().contains(left), "{}", pairs.describe());
        assert!(pairs.notes().is_empty());
    }

    #[test]
    fn splits_are_known_by_the_names_of_the_field() {
        let named = [
            ("1", "Train"),
            ("2", "validation"),
            ("3", "TEST"),
            ("4", "dev"),
            ("5", "valid"),
            ("6", "extra"),
            ("7", "extra"),
            ("8", "Gold"),
            ("9", "test2015"),
        ];
        let text: String = named
            .iter()
            .map(|(image, split)| {
                format!("{{\"image\": \"{image}\", \"caption\": \"c\", \"split\": \"{split}\"}}\n")
            })
            .collect();
        let images = |pairs: &Pairs, split| -> Vec<String> {
            all(pairs, split).into_iter().map(|row| row.1).collect()
        };
        let pairs = open("a.jsonl", &text, |_| ()).unwrap();
        assert_eq!(images(&pairs, Split::Train), ["1"]);
        assert_eq!(images(&pairs, Split::Val), ["2", "4", "5"]);
        assert_eq!(images(&pairs, Split::Test), ["3", "9"]);
        let left = "3 rows left out (2 of the split \"extra\", 1 of the split \"Gold\")";
        assert!(pairs.describe().contains(left), "{}", pairs.describe());
        let pairs = open("a.jsonl", &text, |config| {
            config.val_split = vec!["gold".into()];
            config.train_split = vec!["extra".into(), "train".into()];
        })
        .unwrap();
        assert_eq!(images(&pairs, Split::Train), ["1", "6", "7"]);
        assert_eq!(images(&pairs, Split::Val), ["8"]);
    }

    #[test]
    fn all_rows_of_a_picture_are_of_one_split_unless_they_say_otherwise() {
        let text: String = (0..400)
            .map(|i| {
                let (image, split) = (
                    i / 4,
                    if i % 4 == 3 {
                        ", \"split\": \"test\""
                    } else {
                        ""
                    },
                );
                let image = match i % 2 {
                    0 => format!("a/{image}.jpg"),
                    _ => format!("./a//{image}.jpg"),
                };
                let split = if i < 200 { split } else { "" };
                format!("{{\"image\": \"{image}\", \"caption\": \"c{i}\"{split}}}\n")
            })
            .collect();
        let pairs = open("a.jsonl", &text, |config| config.val_fraction = 0.5).unwrap();
        assert_eq!(pairs.len(Split::Test), 50);
        assert_eq!(pairs.len(Split::Train) + pairs.len(Split::Val), 50);
        assert!(pairs.len(Split::Val) > 0 && pairs.len(Split::Train) > 0);
        for split in Split::ALL {
            assert!(all(&pairs, split).iter().all(|row| row.2.len() == 4));
        }
        let ids: HashSet<u64> = Split::ALL
            .into_iter()
            .flat_map(|split| (0..pairs.len(split)).map(move |index| (split, index)))
            .map(|(split, index)| pairs.picture_id(split, index).unwrap())
            .collect();
        assert_eq!(ids.len(), 100);
        assert!(
            pairs.notes()[0].contains("of 50 pictures"),
            "{:?}",
            pairs.notes()
        );

        let torn = "{\"image\": \"1\", \"caption\": \"a\", \"split\": \"train\"}\n\
                    {\"image\": \"1\", \"caption\": \"b\", \"split\": \"val\"}\n";
        let pairs = open("a.jsonl", torn, |_| ()).unwrap();
        assert_eq!((pairs.len(Split::Train), pairs.len(Split::Val)), (1, 1));
        assert!(pairs.notes()[0].contains("1 pictures are in several splits"));
    }

    #[test]
    fn a_share_of_the_images_is_held_out_where_rows_name_no_split() {
        // Two rows per image: both must land in the same split.
        let text: String = (0..4000)
            .map(|i| format!("{{\"image\": \"{}.jpg\", \"caption\": \"c{i}\"}}\n", i / 2))
            .collect();
        let pairs = open("a.jsonl", &text, |config| config.val_fraction = 0.1).unwrap();
        assert_eq!(pairs.len(Split::Train) + pairs.len(Split::Val), 2000);
        // Five standard deviations of a binomial of 2,000 at 0.1.
        const TOLERANCE: usize = 68;
        assert!(pairs.len(Split::Val).abs_diff(200) < TOLERANCE);
        assert!(
            [Split::Train, Split::Val]
                .into_iter()
                .flat_map(|split| all(&pairs, split))
                .all(|(_, _, captions)| captions.len() == 2)
        );
    }

    #[test]
    fn bad_lines_are_listed_and_reading_goes_on() {
        let mut text = Vec::new();
        let mut lines = 0;
        let mut push = |line: &[u8]| {
            text.extend(line);
            text.push(b'\n');
            lines += 1;
        };
        push(b"\xef\xbb\xbf{\"image\": \"1\", \"caption\": \"good\"}\r");
        push(b"{\"image\": \"2\", \"caption\": ");
        push(b"{\"image\": \"3\", \"caption\": \"\xff\xfe\"}");
        push(b"[1, 2]");
        push(b"{\"image\": \"4\"}");
        push(b"{\"caption\": \"no image\"}");
        push(b"{\"image\": \"5\", \"caption\": \"  \"}");
        push(b"{\"image\": \"\", \"caption\": \"x\"}");
        push(b"{\"image\": 7, \"caption\": \"x\"}");
        push(b"{\"image\": \"8\", \"caption\": 8}");
        push(b"");
        push(
            format!(
                "{{\"image\": \"9\", \"caption\": \"{}\"}}",
                "x".repeat(LONGEST_ROW)
            )
            .as_bytes(),
        );
        push(b"{\"image\": \"10\", \"caption\": \"good too\"}");
        let pairs = open("a.jsonl", &text, |_| ()).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [row(1, "1", &["good"]), row(13, "10", &["good too"])]
        );
        let expected = [
            (2, "malformed JSON"),
            (3, "UTF-8"),
            (4, "not a JSON object"),
            (5, "no column `caption`; there are `image`"),
            (6, "no column `image`"),
            (7, "empty text"),
            (8, "column `image` is empty"),
            (9, "column `image` is no text"),
            (10, "neither a text"),
            (12, "longer than"),
        ];
        let rejected = rejected(&pairs);
        assert_eq!(rejected.len(), expected.len());
        for ((line, reason), (expected_line, part)) in rejected.into_iter().zip(expected) {
            assert_eq!(line, expected_line);
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(pairs.items(), 12);
    }

    #[test]
    fn csv_with_quotes_and_line_breaks() {
        let text = "image,caption\r\n1.jpg,\"a, \"\"quoted\"\"\r\ncaption\"\r\n\r\n2.jpg,5\" pipe\r\n3.jpg\r\n4.jpg,\"open\r\n5.jpg,last";
        let pairs = open("a.csv", text, |_| ()).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(2, "1.jpg", &["a, \"quoted\" caption"]),
                row(5, "2.jpg", &["5\" pipe"]),
                row(8, "5.jpg", &["last"]),
            ]
        );
        assert_eq!(
            rejected(&pairs),
            [(6, "1 columns, but the header has 2"), (7, UNCLOSED)]
        );
    }

    #[test]
    fn quotes_of_tsv_are_those_of_csv_unless_they_are_raw() {
        let text = "caption\timage\n\"a \"\"sign\"\"\"\t1.jpg\nan \"open quote\t2.jpg\n\"two\nlines\"\t3.jpg\n";
        let pairs = open("a.tsv", text, |_| ()).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(2, "1.jpg", &["a \"sign\""]),
                row(3, "2.jpg", &["an \"open quote"]),
                row(4, "3.jpg", &["two lines"]),
            ]
        );
        let pairs = open("a.tsv", text, |config| config.quotes = Quotes::Raw).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(2, "1.jpg", &["\"a \"\"sign\"\"\""]),
                row(3, "2.jpg", &["an \"open quote"]),
                row(5, "3.jpg", &["lines\""]),
            ]
        );
        assert_eq!(rejected(&pairs), [(4, "1 columns, but the header has 2")]);
    }

    #[test]
    fn lists_are_told_apart_by_content() {
        let rows = [row(1, "1.jpg", &["a"]), row(2, "2.jpg", &["b", "c"])];
        let lines = "{\"image\": \"1.jpg\", \"caption\": \"a\"}\r\n{\"image\": \"2.jpg\", \"caption\": [\"b\", null, \"c\"]}";
        let array = format!("\u{feff} [{}]", lines.replace("}\r\n{", "}\n, {"));
        for name in ["a.json", "a.jsonl", "a.txt", "list"] {
            for text in [lines, &array] {
                let pairs = open(name, text, |_| ()).unwrap();
                assert_eq!(all(&pairs, Split::Train), rows, "{name} {text}");
            }
        }
        for (text, first) in [
            ("image,caption\n1.jpg,a\n", "1.jpg"),
            ("\u{feff}image;caption\r\n1.jpg;a\r\n", "1.jpg"),
            ("title\tfilepath\na\t1.jpg\n", "1.jpg"),
        ] {
            for name in ["a.csv", "a.tsv", "a.txt"] {
                let pairs = open(name, text, |_| ()).unwrap();
                assert_eq!(all(&pairs, Split::Train), [row(2, first, &["a"])], "{text}");
            }
        }
    }

    #[test]
    fn other_names_of_columns_are_taken_where_the_default_ones_are_not_there() {
        let text = r#"{"file_name": "1.jpg", "text": "a", "path": "x"}
{"file_name": "2.jpg", "text": "b", "image": "other"}"#;
        let pairs = open("metadata.jsonl", text, |_| ()).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [row(1, "1.jpg", &["a"]), row(2, "2.jpg", &["b"])]
        );
        let said = "pictures by the column `file_name`, texts by the column `text`";
        assert!(pairs.describe().contains(said), "{}", pairs.describe());
        let message = open("metadata.jsonl", text, |config| {
            config.image_column = "photo".into();
        });
        let message = message.unwrap_err().to_string();
        assert!(message.contains("no column `photo`"), "{message}");
    }

    #[test]
    fn what_python_and_windows_write_is_read() {
        let text = r#"{"image":"img\\0.jpg","caption":"has a score","score":NaN}
{"image":"img/0.jpg","caption":"cut \ud83d"}
{"image":"2.jpg","caption":null}
{"image":"3.jpg","caption":42}
{"image":null,"caption":"x"}
{"image":5,"caption":"x"}
{"image":"4.jpg","caption":["good",NaN],"x":-Infinity,"id":123456789012345678901234567890}
{"image":"5.jpg","caption":"dup","caption":"dup key"}
{"image":"6.jpg","alt":"x"}"#;
        let pairs = open("a.jsonl", text, |_| ()).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(1, "img/0.jpg", &["has a score", "cut \u{fffd}"]),
                row(7, "4.jpg", &["good"]),
                row(8, "5.jpg", &["dup key"]),
            ]
        );
        assert_eq!(
            rejected(&pairs),
            [
                (3, "column `caption` is null"),
                (4, "column `caption` is neither a text nor a list of texts"),
                (5, "column `image` is null"),
                (6, "column `image` is no text"),
                (9, "no column `caption`; there are `image`, `alt`"),
            ]
        );
    }

    #[test]
    fn unusable_lists_say_what_is_there() {
        let cases: [(&str, &str, &[&str]); 6] = [
            (
                "a.csv",
                "photo,caption\n1,b\n",
                &["data.pairs.image_column", "`photo`, `caption`"],
            ),
            (
                "a.csv",
                "image,words\n1,b\n",
                &["data.pairs.text_columns", "`words`"],
            ),
            ("a.csv", "", &["empty"]),
            (
                "a.jsonl",
                "{\"picture\": \"1\"}\n",
                &["line 1", "`picture`"],
            ),
            (
                "a.jsonl",
                "{\"image\": \"1\", \"caption\": \"a\", \"split\": \"gold\"}\n",
                &["train_split", "1 of the split \"gold\""],
            ),
            ("a.parquet", "PAR1", &["data.pairs.path", ".jsonl"]),
        ];
        for (name, text, parts) in cases {
            let message = open(name, text, |_| ()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let message = Pairs::open(&PairsConfig::new("absent.jsonl"), &LIMITS)
            .unwrap_err()
            .to_string();
        assert!(message.contains("absent.jsonl"), "{message}");
        let message = open("a.csv", "image,caption\n1,b\n", |config| {
            config.split_column = Some("part".into());
        })
        .unwrap_err()
        .to_string();
        assert!(message.contains("data.pairs.split_column"), "{message}");
    }

    #[test]
    fn a_list_that_changes_is_an_error_of_its_samples() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tsv");
        std::fs::write(&path, "image\tcaption\n1.png\tone\n2.png\ttwo\n").unwrap();
        RgbImage::new(2, 1)
            .save(folder.path().join("1.png"))
            .unwrap();
        let mut config = PairsConfig::new(&path);
        config.val_fraction = 0.0;
        let pairs = Pairs::open(&config, &LIMITS).unwrap();
        assert_eq!(pairs.captions(Split::Train, 1).unwrap(), ["two"]);
        let (bytes, extension) = pairs.image_bytes(Split::Train, 0).unwrap().unwrap();
        assert_eq!(extension, "png");
        assert_eq!(bytes, std::fs::read(folder.path().join("1.png")).unwrap());
        std::fs::write(&path, "image\tcaption\n1.png one only\n").unwrap();
        for index in 0..2 {
            let error = pairs.captions(Split::Train, index).unwrap_err();
            assert_eq!(error.place.line, index as u64 + 2);
        }
    }
}
