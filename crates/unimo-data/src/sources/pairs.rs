//! Image files with texts, listed in JSON lines, CSV or TSV.
//!
//! The list is read once, line by line. A row that cannot be used is set aside with its line and reason, and reading
//! goes on. Rows of the same image and split become one sample with several captions.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::config::{not_empty, share};
use crate::error::{DataError, Place, SampleError};
use crate::images;
use crate::order::{Stream, hash_text, unit};
use crate::source::{Limits, Source, SourceConfig, Split};

/// `[data.pairs]`: a list of image files with their texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// The list.
    pub path: PathBuf,
    /// How the list is written; absent: by the file's extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ListFormat>,
    /// The column that holds the image's path.
    #[serde(default = "image_column")]
    pub image_column: String,
    /// The columns that hold captions: a string, or (JSON lines) a list of strings.
    #[serde(default = "text_columns", deserialize_with = "one_or_many")]
    pub text_columns: Vec<String>,
    /// The column that says which split a row is of; absent: `split`, where the list has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_column: Option<String>,
    /// What the split column holds for training rows: one name or several.
    #[serde(default = "train_split", deserialize_with = "one_or_many")]
    pub train_split: Vec<String>,
    /// What the split column holds for validation rows: one name or several.
    #[serde(default = "val_split", deserialize_with = "one_or_many")]
    pub val_split: Vec<String>,
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
            image_column: image_column(),
            text_columns: text_columns(),
            split_column: None,
            train_split: train_split(),
            val_split: val_split(),
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

fn train_split() -> Vec<String> {
    vec!["train".to_owned()]
}

fn val_split() -> Vec<String> {
    vec!["val".to_owned()]
}

fn val_fraction() -> f64 {
    0.05
}

/// `"a"` and `["a"]` mean the same.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// How a list of pairs is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListFormat {
    /// One JSON object a line.
    Jsonl,
    /// RFC 4180 with a header line.
    Csv,
    /// A header line, columns separated by tabs, no quoting.
    Tsv,
}

impl SourceConfig for PairsConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        not_empty(
            &key("path"),
            &self.path.to_string_lossy(),
            "a .jsonl, .csv or .tsv file",
        )?;
        not_empty(&key("image_column"), &self.image_column, "a column's name")?;
        for (name, names) in [
            ("text_columns", &self.text_columns),
            ("train_split", &self.train_split),
            ("val_split", &self.val_split),
        ] {
            if names.is_empty() || names.iter().any(String::is_empty) {
                return Err(DataError::config(
                    key(name),
                    format!("{names:?}"),
                    "one or more names",
                ));
            }
        }
        if let Some(name) = self
            .train_split
            .iter()
            .find(|name| self.val_split.contains(name))
        {
            return Err(DataError::config(
                key("val_split"),
                format!("{name:?}, which `{table}.train_split` names too"),
                "names that are not training splits",
            ));
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
        Ok(Arc::new(Pairs::open(self, limits.max_pixels)?))
    }
}

/// Longest row in bytes. It bounds memory where a file is no list at all, or a quote is never closed.
const LONGEST_ROW: usize = 1 << 20;

/// The column that says which split a row is of, where the recipe names none.
const DEFAULT_SPLIT_COLUMN: &str = "split";

/// Image-text pairs. See the [module](self).
#[derive(Debug)]
pub struct Pairs {
    file: String,
    root: PathBuf,
    max_pixels: u64,
    train: Vec<Row>,
    val: Vec<Row>,
    rejected: Vec<SampleError>,
    left_out: usize,
}

/// One image with its captions.
#[derive(Debug)]
struct Row {
    line: u64,
    image: String,
    captions: Vec<String>,
}

impl Pairs {
    /// Reads the list.
    ///
    /// # Errors
    ///
    /// The list cannot be read, lacks a column or holds no usable row.
    pub fn open(config: &PairsConfig, max_pixels: u64) -> Result<Self, DataError> {
        let format = match config.format {
            Some(format) => format,
            None => format_of(&config.path)?,
        };
        let folder = config.path.parent().unwrap_or(Path::new("")).to_owned();
        let mut pairs = Self {
            file: config.path.display().to_string(),
            root: config.image_root.clone().unwrap_or(folder),
            max_pixels,
            train: Vec::new(),
            val: Vec::new(),
            rejected: Vec::new(),
            left_out: 0,
        };
        let mut by_image = HashMap::new();
        let mut header_seen = format == ListFormat::Jsonl;
        each_row(&config.path, format, &mut |item| {
            match item {
                Item::Header(Ok(header)) => {
                    header_seen = true;
                    return check_header(config, &header);
                }
                Item::Header(Err(reason)) => {
                    return Err(pairs.nothing(config, &format!("unreadable header line: {reason}")));
                }
                Item::Row(line, row) => pairs.take(config, line, row, &mut by_image),
            }
            Ok(())
        })?;
        if !header_seen {
            return Err(pairs.nothing(config, "the file is empty"));
        }
        for row in pairs.train.iter_mut().chain(&mut pairs.val) {
            let mut seen = HashSet::new();
            row.captions.retain(|caption| seen.insert(caption.clone()));
        }
        if pairs.train.is_empty() && pairs.val.is_empty() {
            return Err(pairs.nothing(config, "no row can be used"));
        }
        Ok(pairs)
    }

    fn take(
        &mut self,
        config: &PairsConfig,
        line: u64,
        row: Result<Option<Map<String, Value>>, String>,
        by_image: &mut HashMap<(bool, String), usize>,
    ) {
        let used = row.and_then(|row| match row {
            Some(row) => self.use_row(config, line, &row, by_image),
            None => Ok(()),
        });
        if let Err(reason) = used {
            self.rejected.push(SampleError {
                place: Place {
                    file: self.file.clone(),
                    line,
                },
                reason,
            });
        }
    }

    fn use_row(
        &mut self,
        config: &PairsConfig,
        line: u64,
        row: &Map<String, Value>,
        by_image: &mut HashMap<(bool, String), usize>,
    ) -> Result<(), String> {
        if !config.filter.iter().all(|(column, wanted)| {
            row.get(column)
                .is_some_and(|value| plain(value).as_ref() == Some(wanted))
        }) {
            self.left_out += 1;
            return Ok(());
        }
        let image = match row.get(&config.image_column) {
            Some(Value::String(image)) if !image.trim().is_empty() => image.trim().to_owned(),
            Some(Value::String(_)) => {
                return Err(format!("column `{}` is empty", config.image_column));
            }
            Some(_) => return Err(format!("column `{}` is no text", config.image_column)),
            None => {
                return Err(format!(
                    "no column `{}`; there are {}",
                    config.image_column,
                    names(row.keys())
                ));
            }
        };
        let split_column = config
            .split_column
            .as_deref()
            .unwrap_or(DEFAULT_SPLIT_COLUMN);
        let named = row
            .get(split_column)
            .and_then(plain)
            .filter(|split| !split.is_empty());
        let val = match named {
            Some(split) if config.train_split.contains(&split) => false,
            Some(split) if config.val_split.contains(&split) => true,
            Some(_) => {
                self.left_out += 1;
                return Ok(());
            }
            None => unit(hash_text(Stream::Split, &image)) < config.val_fraction,
        };
        let captions = captions(config, row)?;
        let rows = if val { &mut self.val } else { &mut self.train };
        let index = *by_image.entry((val, image.clone())).or_insert_with(|| {
            rows.push(Row {
                line,
                image,
                captions: Vec::new(),
            });
            rows.len() - 1
        });
        rows[index].captions.extend(captions);
        Ok(())
    }

    fn rows(&self, split: Split) -> &[Row] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    /// Nothing usable: say why, with the first rows' reasons.
    fn nothing(&self, config: &PairsConfig, what: &str) -> DataError {
        const SHOWN: usize = 3;
        let mut reason = what.to_owned();
        if self.left_out > 0 {
            reason += &format!(
                "; {} rows do not match `data.pairs.filter` or are of neither split (train_split = {:?}, \
                 val_split = {:?})",
                self.left_out, config.train_split, config.val_split
            );
        }
        if !self.rejected.is_empty() {
            reason += &format!("; {} are unusable:", self.rejected.len());
            for rejected in self.rejected.iter().take(SHOWN) {
                reason += &format!(" line {}: {}.", rejected.place.line, rejected.reason);
            }
        }
        DataError::Manifest {
            path: config.path.clone(),
            reason,
        }
    }
}

/// What [`each_row`] finds.
enum Item {
    /// The column names of a CSV or TSV file.
    Header(Result<Vec<String>, String>),
    /// A line number with its row; none for an empty line.
    Row(u64, Result<Option<Map<String, Value>>, String>),
}

/// Reads a list from the first line to the last.
fn each_row(
    path: &Path,
    format: ListFormat,
    give: &mut dyn FnMut(Item) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let io = |error| DataError::file("read", path, error);
    let mut lines = Lines::new(BufReader::new(File::open(path).map_err(io)?));
    if format == ListFormat::Jsonl {
        while let Some((line, row)) = lines.next_line().map_err(io)? {
            let row = row.and_then(|bytes| {
                if bytes.trim_ascii().is_empty() {
                    return Ok(None);
                }
                let text = std::str::from_utf8(&bytes).map_err(|_| NOT_UTF8.to_owned())?;
                match serde_json::from_str(text) {
                    Ok(Value::Object(row)) => Ok(Some(row)),
                    Ok(_) => Err("not a JSON object".to_owned()),
                    Err(error) => Err(format!("malformed JSON: {error}")),
                }
            });
            give(Item::Row(line, row))?;
        }
        return Ok(());
    }
    let Some((_, header)) = lines.next_record(format).map_err(io)? else {
        return Ok(());
    };
    give(Item::Header(header.clone()))?;
    let header = header.unwrap_or_default();
    while let Some((line, row)) = lines.next_record(format).map_err(io)? {
        let row = row.and_then(|cells| {
            if cells.len() == 1 && cells[0].trim().is_empty() {
                return Ok(None);
            }
            if cells.len() != header.len() {
                return Err(format!(
                    "{} columns, but the header has {}",
                    cells.len(),
                    header.len()
                ));
            }
            let cells = cells.into_iter().map(Value::String);
            Ok(Some(header.iter().cloned().zip(cells).collect()))
        });
        give(Item::Row(line, row))?;
    }
    Ok(())
}

/// A row of a list with its line number, or why it cannot be used.
pub type ListRow = (u64, Result<Map<String, Value>, String>);

/// Every row of a JSON lines, CSV or TSV file as it stands there, told apart by the file's extension.
///
/// # Errors
///
/// The file cannot be read, or its extension says nothing.
pub fn read_rows(path: &Path) -> Result<Vec<ListRow>, DataError> {
    let mut rows = Vec::new();
    each_row(path, format_of(path)?, &mut |item| {
        match item {
            Item::Header(Ok(_)) => {}
            Item::Header(Err(reason)) => {
                return Err(DataError::Manifest {
                    path: path.to_owned(),
                    reason: format!("unreadable header line: {reason}"),
                });
            }
            Item::Row(_, Ok(None)) => {}
            Item::Row(line, Ok(Some(row))) => rows.push((line, Ok(row))),
            Item::Row(line, Err(reason)) => rows.push((line, Err(reason))),
        }
        Ok(())
    })?;
    Ok(rows)
}

const NOT_UTF8: &str = "not valid UTF-8";

fn format_of(path: &Path) -> Result<ListFormat, DataError> {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("jsonl" | "ndjson") => Ok(ListFormat::Jsonl),
        Some("csv") => Ok(ListFormat::Csv),
        Some("tsv") => Ok(ListFormat::Tsv),
        _ => Err(DataError::config(
            "data.pairs.path",
            path.display(),
            "a file that ends in .jsonl, .csv or .tsv, or `data.pairs.format` set to one of them",
        )),
    }
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
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// All texts of a row; columns that are absent or empty do no harm as long as one text remains.
fn captions(config: &PairsConfig, row: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut captions = Vec::new();
    let mut add = |text: &str| {
        // Runs of white space, line breaks among them, carry no meaning in a caption.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            captions.push(text);
        }
    };
    let mut present = false;
    for column in &config.text_columns {
        let no_text = || format!("column `{column}` is neither a text nor a list of texts");
        match row.get(column) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => add(text),
            Some(Value::Array(texts)) => {
                for text in texts {
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
        (true, false) => Err(format!(
            "no column {}; there are {}",
            names(&config.text_columns),
            names(row.keys())
        )),
    }
}

impl Source for Pairs {
    fn len(&self, split: Split) -> usize {
        self.rows(split).len()
    }

    fn describe(&self) -> String {
        let captions =
            |split| -> usize { self.rows(split).iter().map(|row| row.captions.len()).sum() };
        format!(
            "{}: {} training images with {} captions, {} held out with {}, {} rows left out, {} unusable",
            self.file,
            self.train.len(),
            captions(Split::Train),
            self.val.len(),
            captions(Split::Val),
            self.left_out,
            self.rejected.len()
        )
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: self.file.clone(),
            line: self.rows(split)[index].line,
        }
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.rows(split)[index].captions.clone())
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let path = &self.rows(split)[index].image;
        let read = if path.contains("://") {
            Err(format!("image {path}: only local files are read"))
        } else {
            images::read(&self.root.join(path), self.max_pixels)
        };
        read.map(Some).map_err(|reason| SampleError {
            place: self.place(split, index),
            reason,
        })
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

/// Rows of a text file with their line numbers, of bounded length.
struct Lines<R> {
    reader: R,
    /// Lines that were read ahead in search of a closing quote.
    ahead: VecDeque<(u64, Line)>,
    line: u64,
}

type Line = Result<Vec<u8>, String>;
type Record = Result<Vec<String>, String>;

impl<R: BufRead> Lines<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            ahead: VecDeque::new(),
            line: 0,
        }
    }

    /// The next line without its end, or why it cannot be used.
    fn next_line(&mut self) -> std::io::Result<Option<(u64, Line)>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let read = self
            .reader
            .by_ref()
            .take(LONGEST_ROW as u64 + 1)
            .read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if read > LONGEST_ROW {
            self.reader.skip_until(b'\n')?;
            let reason = format!("the line is longer than {LONGEST_ROW} bytes");
            return Ok(Some((self.line, Err(reason))));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some((self.line, Ok(bytes))))
    }

    /// The next record's cells. A quoted CSV cell may span lines; one that is never closed costs its first line only.
    fn next_record(&mut self, format: ListFormat) -> std::io::Result<Option<(u64, Record)>> {
        let Some((first, start)) = self.next_line()? else {
            return Ok(None);
        };
        let mut record = match start {
            Ok(record) => record,
            Err(reason) => return Ok(Some((first, Err(reason)))),
        };
        if format == ListFormat::Csv {
            let mut used = Vec::new();
            let mut quoted = ends_quoted(&record, false);
            while quoted {
                match self.next_line()? {
                    Some((line, Ok(more))) if record.len() + more.len() < LONGEST_ROW => {
                        quoted = ends_quoted(&more, true);
                        record.push(b'\n');
                        record.extend(&more);
                        used.push((line, Ok(more)));
                    }
                    other => {
                        used.extend(other);
                        // Line numbers were counted when the lines were first read.
                        for line in used.into_iter().rev() {
                            self.ahead.push_front(line);
                        }
                        return Ok(Some((first, Err("a quote is never closed".to_owned()))));
                    }
                }
            }
        }
        Ok(Some((first, cells(&record, format))))
    }
}

/// Whether a line of CSV, begun inside or outside of a quoted cell, ends inside one (RFC 4180).
fn ends_quoted(line: &[u8], mut quoted: bool) -> bool {
    let mut cell_start = true;
    let mut bytes = line.iter().peekable();
    while let Some(byte) = bytes.next() {
        if quoted {
            if *byte == b'"' && bytes.next_if(|next| **next == b'"').is_none() {
                quoted = false;
            }
        } else {
            quoted = cell_start && *byte == b'"';
            cell_start = *byte == b',';
        }
    }
    quoted
}

fn cells(record: &[u8], format: ListFormat) -> Record {
    let text = std::str::from_utf8(record).map_err(|_| NOT_UTF8.to_owned())?;
    if format == ListFormat::Tsv {
        return Ok(text.split('\t').map(str::to_owned).collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut cells = csv::StringRecord::new();
    match reader.read_record(&mut cells) {
        Ok(true) => Ok(cells.iter().map(str::to_owned).collect()),
        Ok(false) => Ok(vec![String::new()]),
        Err(error) => Err(format!("malformed CSV: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_PIXELS: u64 = 1_000_000;

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
        Pairs::open(&config, MAX_PIXELS)
    }

    fn all(pairs: &Pairs, split: Split) -> Vec<(u64, String, Vec<String>)> {
        pairs
            .rows(split)
            .iter()
            .map(|row| (row.line, row.image.clone(), row.captions.clone()))
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
            config.train_split = vec!["train".into(), "restval".into()];
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
        assert_eq!(pairs.left_out, 3);
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
            pairs
                .train
                .iter()
                .chain(&pairs.val)
                .all(|row| row.captions.len() == 2)
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
            [
                (6, "1 columns, but the header has 2"),
                (7, "a quote is never closed")
            ]
        );
    }

    #[test]
    fn tsv_takes_quotes_as_they_are() {
        let pairs = open(
            "a.tsv",
            "caption\timage\n\"so\"\t1.jpg\nan \"open quote\t2.jpg\n",
            |_| (),
        )
        .unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [
                row(2, "1.jpg", &["\"so\""]),
                row(3, "2.jpg", &["an \"open quote"])
            ]
        );
    }

    #[test]
    fn unusable_lists_say_what_is_there() {
        let cases: [(&str, &str, &[&str]); 6] = [
            (
                "a.csv",
                "path,caption\n1,b\n",
                &["data.pairs.image_column", "`path`, `caption`"],
            ),
            (
                "a.csv",
                "image,text\n1,b\n",
                &["data.pairs.text_columns", "`text`"],
            ),
            ("a.csv", "", &["empty"]),
            (
                "a.jsonl",
                "{\"picture\": \"1\"}\n",
                &["line 1", "`picture`"],
            ),
            (
                "a.jsonl",
                "{\"image\": \"1\", \"caption\": \"a\", \"split\": \"test\"}\n",
                &["neither split", "train"],
            ),
            ("a.parquet", "PAR1", &["data.pairs.path", ".jsonl"]),
        ];
        for (name, text, parts) in cases {
            let message = open(name, text, |_| ()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let message = Pairs::open(&PairsConfig::new("absent.jsonl"), MAX_PIXELS)
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
}
