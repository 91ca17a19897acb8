//! Lists of pairs: their columns and usable rows.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::formats::layout::layout_of;
use crate::formats::rows::{Item, Layout, Quotes, Span, each_row};
use crate::order::draws::{Stream, hash_path};
use crate::sources::languages::is_tag;
use crate::sources::pairs::{DEFAULT_SPLIT_COLUMN, PairsConfig, Row, image_column, text_columns};
use crate::sources::splits::Split;
use crate::text::spaced;

/// The contents of a list, while it is read.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) rows: Vec<Found>,
    /// Hashes of image and caption, row by row, to count distinct captions.
    pub(super) captions: Vec<u64>,
}

/// A usable row while the list is read.
pub(super) struct Found {
    pub(super) picture: u64,
    pub(super) span: Span,
    /// Number of its captions.
    pub(super) captions: u32,
    pub(super) split: Option<Split>,
    /// Its split if no row of its image names one.
    pub(super) drawn: Split,
}

/// The result of reading a row.
pub(super) enum Read {
    Empty,
    /// Left out, and why: it belongs to no split or does not match the filter.
    LeftOut(String),
    Row(Row),
}

/// A row of a list with its line number, or why it cannot be used.
pub type ListRow = (u64, Result<Map<String, Value>, String>);

/// Every row of a JSON lines, JSON, CSV or TSV file; the format is recognised by content. The line of an array's element is its
/// number.
///
/// # Errors
///
/// The file cannot be read or is not a list.
pub fn read_rows(path: &Path) -> Result<Vec<ListRow>, DataError> {
    Ok(read_rows_noting(path)?.0)
}

/// As [`read_rows`], and one line to be shown if rows have a key twice.
///
/// # Errors
///
/// As for [`read_rows`].
pub fn read_rows_noting(path: &Path) -> Result<(Vec<ListRow>, Option<String>), DataError> {
    let mut rows = Vec::new();
    let layout = layout_of(path, None, Quotes::default(), &|header| header.len() > 1)?;
    let repeated = each_row(path, layout, &mut |item| {
        match item {
            Item::Header(Ok(_)) => {}
            Item::Header(Err(reason)) => {
                return Err(DataError::Manifest {
                    path: path.to_owned(),
                    reason: format!("the header line cannot be used: {reason}"),
                });
            }
            Item::Row(_, Ok(None)) => {}
            Item::Row(span, Ok(Some(row))) => rows.push((u64::from(span.line), Ok(row))),
            Item::Row(span, Err(reason)) => rows.push((u64::from(span.line), Err(reason))),
        }
        Ok(())
    })?;
    Ok((rows, repeated.note(&path.display().to_string())))
}

/// A key of `[data.pairs]` that names a column that is not there, and the column's name.
fn lacking<'a>(
    config: &'a PairsConfig,
    has: &dyn Fn(&str) -> bool,
) -> Option<(&'static str, &'a str)> {
    let absent = |key, columns: &'a [String]| {
        let column = columns.iter().find(|column| !has(column))?;
        Some((key, column.as_str()))
    };
    let (image, texts) = (&config.image_column, &config.text_columns);
    // A list with labels may have images alone or texts alone. What is named by hand must be there.
    let no_images =
        config.may_lack() && *image == image_column() && texts.iter().any(|text| has(text));
    let no_texts = config.may_lack() && *texts == text_columns() && has(image);
    absent("label_column", config.label_column.as_slice())
        .filter(|_| !config.unlabelled)
        .or_else(|| absent("image_column", std::slice::from_ref(image)).filter(|_| !no_images))
        .or_else(|| absent("text_columns", texts).filter(|_| !no_texts))
        .or_else(|| absent("language_columns", &config.language_columns))
        .or_else(|| absent("alignment_columns", &config.alignment_columns))
        .or_else(|| absent("split_column", config.split_column.as_slice()))
        .or_else(|| {
            let column = config.filter.keys().find(|column| !has(column))?;
            Some(("filter", column))
        })
}

/// Checks that every column that a recipe names is in the header.
pub(super) fn check_header(
    config: &PairsConfig,
    layout: Layout,
    header: &[String],
) -> Result<(), DataError> {
    let has = |column: &str| header.iter().any(|cell| cell == column);
    match lacking(config, &has) {
        None => Ok(()),
        Some((key, column)) => Err(DataError::config(
            format!("data.pairs.{key}"),
            format!("{column:?}, and there is no such column"),
            format!(
                "columns of {}, which is separated by {}: {}",
                config.path.display(),
                layout.separator(),
                names(header)
            ),
        )),
    }
}

/// The columns of a JSON list, whose rows may lack some.
pub(super) struct Seen {
    /// Columns that the recipe names and no row has had so far.
    wanted: BTreeSet<String>,
    /// The columns that rows have. Collected as long as one is wanted.
    there: BTreeSet<String>,
}

impl Seen {
    pub(super) fn new(config: &PairsConfig) -> Self {
        let by_hand = |column: &&String| **column != image_column();
        let texts = config.text_columns.iter();
        let wanted = Some(&config.image_column)
            .into_iter()
            .filter(by_hand)
            .chain(texts.filter(|_| config.text_columns != text_columns()))
            .chain(&config.label_column)
            .chain(&config.language_columns)
            .chain(&config.alignment_columns)
            .chain(&config.split_column)
            .chain(config.filter.keys());
        Self {
            wanted: wanted.cloned().collect(),
            there: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, row: &Map<String, Value>) {
        /// A column's name that is data itself would fill the memory.
        const MOST: usize = 100;
        if self.wanted.is_empty() {
            return;
        }
        for column in row.keys() {
            self.wanted.remove(column);
            if self.there.len() < MOST && !self.there.contains(column) {
                self.there.insert(column.clone());
            }
        }
    }

    /// Whether a row has a column that the recipe names.
    pub(super) fn has(&self, column: &str) -> bool {
        !self.wanted.contains(column)
    }

    /// Checks that every column that the recipe names is in at least one row.
    ///
    /// # Errors
    ///
    /// The key, and the columns that rows have.
    pub(super) fn check(&self, config: &PairsConfig) -> Result<(), DataError> {
        match lacking(config, &|column| self.has(column)) {
            // Without rows there are no columns either, and another error says so.
            Some((key, column)) if !self.there.is_empty() => Err(DataError::config(
                format!("data.pairs.{key}"),
                format!("{column:?}, and no row has such a column"),
                format!(
                    "columns that rows of {} have: {}",
                    config.path.display(),
                    names(&self.there)
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Columns that may say which split rows are of, while none is called `split`.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Whether a row has the column `split`.
    usual: bool,
    /// Columns of other names all of whose values are names of splits.
    columns: BTreeSet<&'static str>,
    /// Columns with other values.
    others: BTreeSet<&'static str>,
}

impl Elsewhere {
    /// Names under which other programs say splits.
    const NAMES: [&str; 7] = [
        "set",
        "subset",
        "partition",
        "phase",
        "usage",
        "data_split",
        "dataset_split",
    ];

    /// Looks at a row. Returns its column that is called `split` but for capitals and white space.
    pub(super) fn look(&mut self, row: &Map<String, Value>) -> Option<String> {
        self.usual |= row.contains_key(DEFAULT_SPLIT_COLUMN);
        if self.usual {
            return None;
        }
        let is_split = |column: &&String| column.trim().eq_ignore_ascii_case(DEFAULT_SPLIT_COLUMN);
        if let Some(column) = row.keys().find(is_split) {
            return Some(column.clone());
        }
        for name in Self::NAMES {
            let Some(value) = row.get(name).and_then(plain) else {
                continue;
            };
            if Split::of_name(&value).is_some() {
                self.columns.insert(name);
            } else {
                self.others.insert(name);
            }
        }
        None
    }

    /// A line about a column that names splits and is not read.
    pub(super) fn note(&self, list: &str) -> Option<String> {
        let column = self.columns.difference(&self.others).next()?;
        (!self.usual).then(|| {
            format!(
                "{list}: its column `{column}` names splits and is not read: data.pairs.split_column = {column:?} takes them from there"
            )
        })
    }
}

pub(super) fn names<'a>(columns: impl IntoIterator<Item = &'a String>) -> String {
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
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // 1.0 is written as 1.
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        }),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The label of a row; `None` if it has none, as in a test set.
pub(super) fn label(
    config: &PairsConfig,
    row: &Map<String, Value>,
) -> Result<Option<String>, String> {
    let Some(column) = &config.label_column else {
        return Ok(None);
    };
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(_) | Value::Object(_)) => Err(format!(
            "column `{column}` is no label: a text, a number, true or false"
        )),
        Some(value) => Ok(plain(value).as_deref().and_then(spaced)),
    }
}

/// Whether two spellings of a path lead to one file.
pub(super) fn same_path(a: &str, b: &str) -> bool {
    a == b || hash_path(Stream::Picture, a.as_ref()) == hash_path(Stream::Picture, b.as_ref())
}

/// The language of a text column's texts; `None` if the list does not say it.
fn language(
    config: &PairsConfig,
    at: usize,
    row: &Map<String, Value>,
) -> Result<Option<String>, String> {
    let Some(column) = config.language_columns.get(at) else {
        return Ok(None);
    };
    let tag = match row.get(column) {
        Some(Value::String(tag)) => tag.trim(),
        Some(Value::Null) | None => return Err(format!("column `{column}` has no language")),
        Some(_) => return Err(format!("column `{column}` is no text")),
    };
    if is_tag(tag) {
        Ok(Some(tag.to_owned()))
    } else {
        Err(format!("`{column}` is {tag:?}, no tag of a language"))
    }
}

/// For each text of a row but the first, the words of the first and of it that stand for each other, if columns say it.
pub(super) fn alignments(
    config: &PairsConfig,
    row: &Map<String, Value>,
    captions: &[String],
) -> Result<Vec<Vec<(u32, u32)>>, String> {
    if config.alignment_columns.is_empty() {
        return Ok(Vec::new());
    }
    let text = |column: &String| match row.get(column) {
        Some(Value::String(text)) => spaced(text),
        _ => None,
    };
    let columns = config.text_columns.iter();
    let present: Vec<usize> = columns
        .enumerate()
        .filter(|(_, column)| text(column).is_some())
        .map(|(at, _)| at)
        .collect();
    if present.len() != captions.len() || present.first() != Some(&0) {
        return Err(format!(
            "with alignment_columns, column `{}` and others hold one text each",
            config.text_columns[0]
        ));
    }
    let words = |caption: &str| caption.split_whitespace().count();
    let mut all = Vec::new();
    for (number, at) in present.into_iter().enumerate().skip(1) {
        let column = &config.alignment_columns[at - 1];
        let Some(Value::String(given)) = row.get(column) else {
            return Err(format!(
                "column `{column}` is no alignment such as \"0-0 1-2\""
            ));
        };
        let counts = [words(&captions[0]), words(&captions[number])];
        all.push(aligned(given, counts).map_err(|reason| format!("column `{column}`: {reason}"))?);
    }
    Ok(all)
}

/// Pairs of words, as `0-0 1-2`, of two texts with so many words.
fn aligned(given: &str, [first, second]: [usize; 2]) -> Result<Vec<(u32, u32)>, String> {
    let pair = |pair: &str| {
        let numbers = pair.split_once('-').and_then(|(a, b)| {
            let number = |text: &str| text.parse::<u32>().ok();
            number(a).zip(number(b))
        });
        let (a, b) =
            numbers.ok_or_else(|| format!("{pair:?} is no pair of words such as \"1-2\""))?;
        if a as usize >= first || b as usize >= second {
            return Err(format!(
                "{pair} points outside of the texts, which have {first} and {second} words"
            ));
        }
        Ok((a, b))
    };
    given.split_whitespace().map(pair).collect()
}

/// All texts of a row, and their languages if columns say them. Absent or empty columns are allowed as long as one text remains.
pub(super) fn captions(
    config: &PairsConfig,
    row: &Map<String, Value>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let mut captions = Vec::new();
    let mut languages = Vec::new();
    let mut present = false;
    let mut null = None;
    for (at, column) in config.text_columns.iter().enumerate() {
        let before = captions.len();
        // Runs of white space, including line breaks, carry no meaning in a caption.
        let mut add = |text: &str| captions.extend(spaced(text));
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
        if captions.len() > before
            && let Some(tag) = language(config, at, row)?
        {
            languages.resize(captions.len(), tag);
        }
        present = true;
    }
    match (captions.is_empty(), present) {
        (false, _) => Ok((captions, languages)),
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
