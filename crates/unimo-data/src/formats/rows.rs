//! Rows of text files, located once and read again when needed.
//!
//! A list may have millions of rows, so only a row's location stays in memory: 16 bytes.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::encoding::{BUFFER, NOT_UTF8, UTF16, is_utf16};
use crate::formats::json::{each_with_offset, has_twice, parse, parse_noting};
use crate::store::disk::open_regular;
use crate::store::patiently;

/// Longest row in bytes. It bounds memory if a file is not a list, or a quote is never closed.
pub(crate) const LONGEST_ROW: usize = 1 << 20;

/// Format of a list of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListFormat {
    /// One JSON object per line.
    Jsonl,
    /// An array of JSON objects.
    Json,
    /// A header line, and columns separated by commas.
    Csv,
    /// A header line, and columns separated by tabs.
    Tsv,
}

/// What quotes mean in CSV and TSV files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quotes {
    /// As in RFC 4180: a quoted cell may contain line breaks, separators, and quotes as `""`; or as `\"`, as Spark and MySQL write them. A
    /// cell that begins with a quote but does not end with one is taken as it is.
    #[default]
    Csv,
    /// Plain characters: a line is a row.
    Raw,
}

impl Quotes {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How rows are separated in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub format: ListFormat,
    /// Separator of the columns of CSV and TSV.
    pub delimiter: u8,
    pub quotes: Quotes,
}

impl Layout {
    /// The layout that a format's name implies.
    pub fn new(format: ListFormat, quotes: Quotes) -> Self {
        let delimiter = if format == ListFormat::Tsv {
            b'\t'
        } else {
            b','
        };
        Self {
            format,
            delimiter,
            quotes,
        }
    }

    /// What separates columns, in words.
    pub fn separator(self) -> &'static str {
        match self.delimiter {
            b'\t' => "tabs",
            b';' => "semicolons",
            b'|' => "bars",
            _ => "commas",
        }
    }

    /// Whether rows are JSON objects.
    pub fn is_json(self) -> bool {
        matches!(self.format, ListFormat::Jsonl | ListFormat::Json)
    }
}

/// Location of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Number of bytes before it.
    pub offset: u64,
    /// Its length in bytes, including the line end. A row is never longer than twice [`LONGEST_ROW`].
    pub length: u32,
    /// Its first line, from 1.
    pub line: u32,
}

/// A row's bytes without the line end, or an error.
pub(crate) type Line = Result<Vec<u8>, String>;
/// A row's cells, or an error.
pub(crate) type Record = Result<Vec<String>, String>;
/// A JSON lines row; `None` for an empty line.
pub(crate) type Object = Result<Option<Map<String, Value>>, String>;

/// The items that [`each_row`] passes on.
pub(crate) enum Item {
    /// The column names of a CSV or TSV file.
    Header(Result<Vec<String>, String>),
    /// A row and its location; `None` for an empty line.
    Row(Span, Object),
}

/// Rows of JSON that have a key twice with different values. The last counts, as in Python.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Repeated {
    rows: u64,
    /// Line and key of the first.
    first: Option<(u32, String)>,
}

impl Repeated {
    fn add(&mut self, line: u32, key: String) {
        self.rows += 1;
        self.first.get_or_insert((line, key));
    }

    /// One line about them; `None` if there are none. `name`: that of the list.
    pub fn note(&self, name: &str) -> Option<String> {
        let (line, key) = self.first.as_ref()?;
        let rows = match self.rows {
            1 => "1 row has".to_owned(),
            rows => format!("{rows} rows have"),
        };
        Some(format!(
            "{name}: {rows} a key twice with different values, of which the last counts; the first: line {line}, `{key}`"
        ))
    }
}

/// Reads a list from the first line to the last. Returns which rows have a key twice.
///
/// # Errors
///
/// The file cannot be read, or `give` returned an error to stop.
pub(crate) fn each_row(
    path: &Path,
    layout: Layout,
    give: &mut dyn FnMut(Item) -> Result<(), DataError>,
) -> Result<Repeated, DataError> {
    let mut repeated = Repeated::default();
    if layout.format == ListFormat::Json {
        each_of_array(path, give, &mut repeated)?;
        return Ok(repeated);
    }
    let io = |error| DataError::file("read", path, error);
    let mut lines = Lines::new(BufReader::with_capacity(
        BUFFER,
        open_regular(path).map_err(io)?,
    ));
    if layout.is_json() {
        while let Some((span, row)) = lines.next_line().map_err(io)? {
            let row = row.and_then(|bytes| object_noting(&bytes, span.line, &mut repeated));
            give(Item::Row(span, row))?;
        }
        return Ok(repeated);
    }
    let Some((_, header)) = lines.next_record(layout).map_err(io)? else {
        return Ok(repeated);
    };
    let header = header.and_then(distinct);
    give(Item::Header(header.clone()))?;
    let header = header.unwrap_or_default();
    while let Some((span, row)) = lines.next_record(layout).map_err(io)? {
        give(Item::Row(span, row.and_then(|cells| named(&header, cells))))?;
    }
    Ok(repeated)
}

/// A header, each of whose names stands for one column. Columns without a name, which nothing can ask for, may be several.
fn distinct(header: Vec<String>) -> Result<Vec<String>, String> {
    let mut seen = HashSet::new();
    match header
        .iter()
        .find(|cell| !cell.trim().is_empty() && !seen.insert(*cell))
    {
        Some(twice) => Err(format!(
            "column `{twice}` is there more than once, so that its name does not say which is meant"
        )),
        None => Ok(header),
    }
}

/// The elements of an array as rows. In errors the line is the number of the element.
fn each_of_array(
    path: &Path,
    give: &mut dyn FnMut(Item) -> Result<(), DataError>,
    repeated: &mut Repeated,
) -> Result<(), DataError> {
    let mut stopped = Ok(());
    each_with_offset(path, &[""], &mut |_, at, bytes| {
        if stopped.is_err() {
            return;
        }
        let span = Span {
            offset: at.offset,
            // No element is as long as 4 GiB, since a longer one than allowed is an error.
            length: bytes.as_ref().map_or(0, |bytes| bytes.len() as u32),
            line: u32::try_from(at.number).unwrap_or(u32::MAX),
        };
        let row = bytes.and_then(|bytes| object_noting(bytes, span.line, repeated));
        stopped = give(Item::Row(span, row));
    })?;
    stopped
}

/// Passes on every record of a file of columns, with its location.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn each_record(
    path: &Path,
    layout: Layout,
    give: &mut dyn FnMut(Span, Record) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let io = |error| DataError::file("read", path, error);
    let file = open_regular(path).map_err(io)?;
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file));
    while let Some((span, record)) = lines.next_record(layout).map_err(io)? {
        give(span, record)?;
    }
    Ok(())
}

/// Passes on every line of a text file, with its location.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn each_line(path: &Path, give: &mut dyn FnMut(Span, Line)) -> Result<(), DataError> {
    let io = |error| DataError::file("read", path, error);
    let file = open_regular(path).map_err(io)?;
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file));
    while let Some((span, line)) = lines.next_line().map_err(io)? {
        give(span, line);
    }
    Ok(())
}

/// Parses a line of JSON lines; `None` for an empty line.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn record<T: DeserializeOwned>(line: &[u8]) -> Result<Option<T>, String> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    parse(line).map(Some)
}

/// A row of JSON lines.
pub(crate) fn object(bytes: &[u8]) -> Object {
    object_noting(bytes, 0, &mut Repeated::default())
}

/// As [`object`], where no key is there twice with different values.
///
/// # Errors
///
/// As for [`object`], or the line's first such key.
pub(crate) fn object_distinct(bytes: &[u8]) -> Object {
    let mut repeated = Repeated::default();
    let row = object_noting(bytes, 0, &mut repeated)?;
    match repeated.first {
        None => Ok(row),
        Some((_, key)) => Err(has_twice(&key)),
    }
}

/// As [`object`], which notes a key that is there twice.
fn object_noting(bytes: &[u8], line: u32, repeated: &mut Repeated) -> Object {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8.to_owned())?;
    let (value, twice) = parse_noting(bytes)?;
    let Value::Object(row) = value else {
        return Err("not a JSON object".to_owned());
    };
    if let Some(key) = twice {
        repeated.add(line, key);
    }
    Ok(Some(row))
}

/// Cells by their columns' names.
pub(crate) fn named(header: &[String], cells: Vec<String>) -> Object {
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
}

/// A list whose rows are read again when needed, by any number of threads.
#[derive(Debug)]
pub(crate) struct Spans {
    /// The path as given in the recipe.
    pub name: String,
    file: File,
}

impl Spans {
    /// Opens the file.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Ok(Self {
            name: path.display().to_string(),
            file: patiently(|| open_regular(path))
                .map_err(|error| DataError::file("read", path, error))?,
        })
    }

    /// Opens a file again that was read before.
    ///
    /// # Errors
    ///
    /// It cannot be read now or no longer exists.
    pub fn reopen(path: &Path) -> Result<Self, ReadError> {
        let file = patiently(|| open_regular(path));
        Ok(Self {
            name: path.display().to_string(),
            file: file.map_err(|error| ReadError::from(error).of_opened())?,
        })
    }

    /// Where a row is defined.
    pub fn place(&self, span: Span) -> Place {
        Place {
            file: self.name.clone(),
            line: u64::from(span.line),
        }
    }

    /// A row's bytes.
    ///
    /// # Errors
    ///
    /// They can no longer be read.
    pub fn bytes(&self, span: Span) -> Result<Vec<u8>, SampleError> {
        let mut bytes = vec![0; span.length as usize];
        match patiently(|| read_at(&self.file, &mut bytes, span.offset)) {
            Ok(()) => Ok(bytes),
            Err(error) => {
                let error = match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => ReadError::unavailable(CHANGED),
                    _ => error.into(),
                };
                let told = |reason: &str| format!("the row cannot be read again: {reason}");
                Err(self.bad(span, error.of_opened().told(told)))
            }
        }
    }

    /// A row that was usable when the list was opened, by its columns' names.
    ///
    /// # Errors
    ///
    /// It can no longer be read.
    pub fn row(
        &self,
        span: Span,
        layout: Layout,
        header: &[String],
    ) -> Result<Map<String, Value>, SampleError> {
        let row = match layout.format {
            ListFormat::Jsonl => object(&self.line(span)?),
            ListFormat::Json => object(&self.bytes(span)?),
            ListFormat::Csv | ListFormat::Tsv => named(header, self.cells(span, layout)?),
        };
        let row = row.map_err(|reason| self.bad(span, reason))?;
        row.ok_or_else(|| self.changed(span))
    }

    /// A row without its line end.
    ///
    /// # Errors
    ///
    /// It can no longer be read.
    pub fn line(&self, span: Span) -> Result<Vec<u8>, SampleError> {
        let bytes = self.bytes(span)?;
        let read = Lines::again(&*bytes, span).next_line();
        match read {
            Ok(Some((_, Ok(line)))) => Ok(line),
            _ => Err(self.changed(span)),
        }
    }

    /// A row's cells.
    ///
    /// # Errors
    ///
    /// It can no longer be read.
    pub fn cells(&self, span: Span, layout: Layout) -> Result<Vec<String>, SampleError> {
        let bytes = self.bytes(span)?;
        let read = Lines::again(&*bytes, span).next_record(layout);
        match read {
            Ok(Some((_, Ok(cells)))) => Ok(cells),
            _ => Err(self.changed(span)),
        }
    }

    /// The error for a row of a list that was changed during the run. Its former content is unknown, so the sample is not called
    /// damaged.
    pub fn changed(&self, span: Span) -> SampleError {
        self.bad(span, ReadError::unavailable(CHANGED))
    }

    /// The error for a row that cannot be used.
    pub fn bad(&self, span: Span, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.place(span), reason)
    }
}

const CHANGED: &str = "the file has changed since it was opened";

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

/// Rows grouped by hashes of their keys: 24 bytes per row while it is built, 20 afterwards.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// While it is built: hash of each row's key.
    keys: Vec<(u64, u32)>,
    spans: Vec<Span>,
    /// First row of each group, and the number of rows at the end.
    starts: Vec<u32>,
}

impl Groups {
    /// Adds a row; `false` if there is no room for it.
    pub fn push(&mut self, key: u64, span: Span) -> bool {
        let Ok(row) = u32::try_from(self.spans.len()) else {
            return false;
        };
        self.keys.push((key, row));
        self.spans.push(span);
        row < u32::MAX
    }

    /// Groups rows with the same key, in the order of their first rows.
    pub fn finish(&mut self) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable();
        // For each row, the first row of its group.
        let mut first = vec![0u32; keys.len()];
        for group in keys.chunk_by(|a, b| a.0 == b.0) {
            for (_, row) in group {
                first[*row as usize] = group[0].1;
            }
        }
        for (key, row) in &mut keys {
            *key = u64::from(first[*row as usize]);
        }
        drop(first);
        keys.sort_unstable();
        self.starts = vec![0];
        let mut end = 0;
        for group in keys.chunk_by(|a, b| a.0 == b.0) {
            end += group.len() as u32;
            self.starts.push(end);
        }
        self.starts.shrink_to_fit();
        if self.starts.len() <= keys.len() {
            self.spans = keys
                .iter()
                .map(|(_, row)| self.spans[*row as usize])
                .collect();
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The rows of a group, in the order of the file.
    pub fn of(&self, group: usize) -> &[Span] {
        &self.spans[self.starts[group] as usize..self.starts[group + 1] as usize]
    }
}

/// A hash of a key.
pub(crate) fn key_of(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Rows of a text file with their line numbers, of bounded length.
pub(crate) struct Lines<R> {
    reader: R,
    /// Lines read ahead in search of a closing quote.
    ahead: VecDeque<(Span, Line)>,
    /// Number of bytes and lines read.
    offset: u64,
    line: u32,
    /// Whether reading began at the start of the file.
    from_start: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            ahead: VecDeque::new(),
            offset: 0,
            line: 0,
            from_start: true,
        }
    }

    /// Reads a row that was located before.
    fn again(reader: R, span: Span) -> Self {
        Self {
            from_start: span.offset == 0,
            ..Self::new(reader)
        }
    }

    /// The next line without its end, or an error.
    pub fn next_line(&mut self) -> std::io::Result<Option<(Span, Line)>> {
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
        self.line = self
            .line
            .checked_add(1)
            .ok_or_else(|| std::io::Error::other("it has more than 4294967295 lines"))?;
        let span = Span {
            offset: self.offset,
            length: read as u32,
            line: self.line,
        };
        self.offset += read as u64;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if read > LONGEST_ROW {
            self.offset += self.reader.skip_until(b'\n')? as u64;
            let reason = format!("the line is longer than {LONGEST_ROW} bytes");
            return Ok(Some((span, Err(reason))));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if span.line == 1 && self.from_start {
            if is_utf16(&bytes) {
                return Err(std::io::Error::other(UTF16));
            }
            if bytes.starts_with(MARK) {
                bytes.drain(..MARK.len());
            }
        }
        // Text contains no zero byte; in English UTF-16, every other byte is zero.
        if memchr::memchr(0, &bytes).is_some() {
            let reason = "it holds a zero byte, as UTF-16 does; only UTF-8 is read";
            return Ok(Some((span, Err(reason.to_owned()))));
        }
        Ok(Some((span, Ok(bytes))))
    }

    /// The next record's cells. A quoted cell may span lines; an unclosed one costs only its first line.
    pub fn next_record(&mut self, layout: Layout) -> std::io::Result<Option<(Span, Record)>> {
        let Some((mut first, start)) = self.next_line()? else {
            return Ok(None);
        };
        let mut record = match start {
            Ok(record) => record,
            Err(reason) => return Ok(Some((first, Err(reason)))),
        };
        if layout.quotes == Quotes::Csv {
            let mut used = Vec::new();
            let delimiter = layout.delimiter;
            let mut open = walk(&record, false, delimiter, &mut |_, _| ());
            let mut end = first;
            while open != Some(false) {
                match self.next_line()? {
                    Some((span, Ok(more)))
                        if open.is_some() && record.len() + more.len() < LONGEST_ROW =>
                    {
                        end = span;
                        open = walk(&more, true, delimiter, &mut |_, _| ());
                        record.push(b'\n');
                        record.extend(&more);
                        used.push((span, Ok(more)));
                    }
                    other => {
                        used.extend(other);
                        // Their locations were given when the lines were first read.
                        for line in used.into_iter().rev() {
                            self.ahead.push_front(line);
                        }
                        return Ok(Some((first, Err(UNCLOSED.to_owned()))));
                    }
                }
            }
            first.length = (end.offset - first.offset) as u32 + end.length;
        }
        Ok(Some((first, cells(&record, layout))))
    }
}

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

pub(crate) const UNCLOSED: &str =
    "a quote is never closed; `quotes = \"raw\"` takes quotes as they are";

/// How a cell is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Plain,
    /// In quotes, with quotes inside as `""`.
    Quoted,
    /// In quotes, with quotes inside as `\"`.
    Escaped,
}

/// Walks over the cells of a line. Passes on the range of each cell and how it is written. `inside`: the line begins inside a
/// quoted cell. Returns whether it ends inside one; `None` if a cell that began on an earlier line turns out not to be quoted.
fn walk(
    line: &[u8],
    mut inside: bool,
    delimiter: u8,
    give: &mut dyn FnMut(Range<usize>, Written),
) -> Option<bool> {
    let mut start = 0;
    let ends = |at: usize| line.get(at).is_none_or(|byte| *byte == delimiter);
    loop {
        if inside || line.get(start) == Some(&b'"') {
            let first = if inside { start } else { start + 1 };
            let (mut at, mut written) = (first, Written::Quoted);
            let closed = loop {
                let Some(quote) = memchr::memchr(b'"', &line[at..]).map(|found| at + found) else {
                    break None;
                };
                let escaped = quote > first && line[quote - 1] == b'\\';
                let doubled = line.get(quote + 1) == Some(&b'"');
                if doubled && !(escaped && ends(quote + 2)) {
                    at = quote + 2;
                } else if escaped && !ends(quote + 1) {
                    // RFC 4180 has no quote here, so that nothing else can be meant.
                    written = Written::Escaped;
                    at = quote + 1;
                } else {
                    break Some(quote + 1);
                }
            };
            let Some(closed) = closed else {
                return Some(true);
            };
            match line.get(closed) {
                None => {
                    give(start..closed, written);
                    return Some(false);
                }
                Some(byte) if *byte == delimiter => {
                    give(start..closed, written);
                    start = closed + 1;
                    inside = false;
                    continue;
                }
                Some(_) if inside => return None,
                Some(_) => {}
            }
        }
        match memchr::memchr(delimiter, &line[start..]) {
            None => {
                give(start..line.len(), Written::Plain);
                return Some(false);
            }
            Some(found) => {
                give(start..start + found, Written::Plain);
                start += found + 1;
            }
        }
    }
}

fn cells(record: &[u8], layout: Layout) -> Record {
    let text = std::str::from_utf8(record).map_err(|_| NOT_UTF8.to_owned())?;
    if layout.quotes == Quotes::Raw {
        let cells = text.split(char::from(layout.delimiter));
        return Ok(cells.map(str::to_owned).collect());
    }
    let mut cells = Vec::new();
    walk(record, false, layout.delimiter, &mut |range, written| {
        let inner = || &text[range.start + 1..range.end - 1];
        cells.push(match written {
            Written::Plain => text[range].to_owned(),
            Written::Quoted => inner().replace("\"\"", "\""),
            Written::Escaped => unescaped(inner()),
        });
    });
    Ok(cells)
}

/// A text whose quotes and backslashes follow a backslash.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let meant = rest.next_if(|next| letter == '\\' && matches!(next, '"' | '\\'));
        plain.push(meant.unwrap_or(letter));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::encoding::{NOT_UTF8, text_of};

    const TSV: Layout = Layout {
        format: ListFormat::Tsv,
        delimiter: b'\t',
        quotes: Quotes::Csv,
    };

    fn records(text: &str, layout: Layout) -> Vec<(u32, Record)> {
        let mut lines = Lines::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some((span, record)) = lines.next_record(layout).unwrap() {
            // Reading the row again gives the same.
            let bytes = &text.as_bytes()[span.offset as usize..][..span.length as usize];
            let again = Lines::again(bytes, span).next_record(layout).unwrap();
            assert_eq!(again.unwrap().1, record);
            all.push((span.line, record));
        }
        all
    }

    #[test]
    fn quoted_cells_hold_separators_quotes_and_line_breaks() {
        let text = "a\t\"say \"\"hi\"\"\"\r\n\"tab\there\"\t\"two\r\n\r\nlines\"\nlast\t\"\"";
        let good = |cells: &[&str]| Ok(cells.iter().map(|c| (*c).to_owned()).collect());
        assert_eq!(
            records(text, TSV),
            [
                (1, good(&["a", "say \"hi\""])),
                (2, good(&["tab\there", "two\n\nlines"])),
                (5, good(&["last", ""])),
            ]
        );
        // Quotes that do not quote: inside a cell, at its start but not its end, or unclosed at the end of a line.
        let text = "5\" pipe\t\"The\" cat\n\"a\tb\" c\nx\t\"open\nnext\ty\n";
        assert_eq!(
            records(text, TSV),
            [
                (1, good(&["5\" pipe", "\"The\" cat"])),
                (2, good(&["\"a", "b\" c"])),
                (3, Err(UNCLOSED.to_owned())),
                (4, good(&["next", "y"])),
            ]
        );
        // A quote that happens to come later is not the end of the cell.
        let text = "x\t\"open\nnext\t\"so\" it goes\n\"q\"\ty\n";
        let found = records(text, TSV);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].1, Err(UNCLOSED.to_owned()));
        assert_eq!(found[1], (2, good(&["next", "\"so\" it goes"])));
        assert_eq!(found[2], (3, good(&["q", "y"])));
        let raw = Layout {
            quotes: Quotes::Raw,
            ..TSV
        };
        assert_eq!(
            records("\"so\"\t\"open\nx\ty", raw),
            [(1, good(&["\"so\"", "\"open"])), (2, good(&["x", "y"]))]
        );
    }

    /// As Spark and MySQL write quotes. A backslash before a closing quote is a backslash, as in RFC 4180.
    #[test]
    fn quotes_after_a_backslash_are_read() {
        let good = |cells: &[&str]| Ok(cells.iter().map(|c| (*c).to_owned()).collect());
        let text = r#""say \"hi\", so"	1
"\"all\""	"C:\"
"a \\ \"b\" \n
c"	"d \""e"
"#;
        assert_eq!(
            records(text, TSV),
            [
                (1, good(&[r#"say "hi", so"#, "1"])),
                (2, good(&[r#""all""#, r"C:\"])),
                (3, good(&["a \\ \"b\" \\n\nc", r#"d \"e"#])),
            ]
        );
    }

    #[test]
    fn no_text_panics_or_hangs() {
        for case in 0..2000u64 {
            let mut text = String::new();
            for place in 0..12 {
                let at =
                    crate::order::draws::hash(crate::order::draws::Stream::Order, &[case, place]);
                text.push(['"', '\t', '\n', 'x', ',', '"'][crate::order::draws::below(at, 6)]);
            }
            for quotes in [Quotes::Csv, Quotes::Raw] {
                let lines = records(&text, Layout { quotes, ..TSV });
                assert!(lines.len() <= text.len(), "{text:?}");
            }
        }
        // Many cells that begin with a quote are walked over once each, not once for every earlier cell.
        let hostile = "\"a\"b\t".repeat(100_000);
        assert_eq!(records(&hostile, TSV)[0].1.as_ref().unwrap().len(), 100_001);
    }

    #[test]
    fn other_encodings_are_named() {
        for start in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a"] {
            let error = Lines::new(start).next_line().unwrap_err();
            assert!(error.to_string().contains("UTF-16"), "{error}");
            assert!(text_of(start).unwrap_err().contains("UTF-16"));
        }
        let (_, line) = Lines::new(&b"a\0b\0"[..]).next_line().unwrap().unwrap();
        assert!(line.unwrap_err().contains("zero byte"));
        assert_eq!(text_of(b"\xef\xbb\xbfa").unwrap(), "a");
        assert_eq!(text_of(b"\xff").unwrap_err(), NOT_UTF8);
    }
}
