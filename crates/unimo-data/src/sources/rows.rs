//! Rows of text files, found once and read again where they stand.
//!
//! A list may have millions of rows, so what stays in memory of a row is where it lies: 16 bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::sources::json::parse;
use crate::storage::patiently;

/// Longest row in bytes. It bounds memory where a file is no list at all, or a quote is never closed.
pub(crate) const LONGEST_ROW: usize = 1 << 20;

pub(crate) const NOT_UTF8: &str = "not valid UTF-8";

/// How a list of rows is written.
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

/// Where a row lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes before it.
    pub offset: u64,
    /// Its bytes, line end included. A row is never longer than twice [`LONGEST_ROW`].
    pub length: u32,
    /// Its first line, from 1.
    pub line: u32,
}

/// A row's bytes without the line end, or why it cannot be used.
pub(crate) type Line = Result<Vec<u8>, String>;
/// A row's cells, or why it cannot be used.
pub(crate) type Record = Result<Vec<String>, String>;
/// A JSON lines row; none for an empty line.
pub(crate) type Object = Result<Option<Map<String, Value>>, String>;

/// What [`each_row`] finds.
pub(crate) enum Item {
    /// The column names of a CSV or TSV file.
    Header(Result<Vec<String>, String>),
    /// A row and where it lies; none for an empty line.
    Row(Span, Object),
}

/// Reads a list from the first line to the last.
///
/// # Errors
///
/// The file cannot be read, or `give` wants to stop.
pub(crate) fn each_row(
    path: &Path,
    format: ListFormat,
    give: &mut dyn FnMut(Item) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let io = |error| DataError::file("read", path, error);
    let mut lines = Lines::new(BufReader::with_capacity(
        BUFFER,
        open_regular(path).map_err(io)?,
    ));
    if format == ListFormat::Jsonl {
        while let Some((span, row)) = lines.next_line().map_err(io)? {
            give(Item::Row(span, row.and_then(|bytes| object(&bytes))))?;
        }
        return Ok(());
    }
    let Some((_, header)) = lines.next_record(format).map_err(io)? else {
        return Ok(());
    };
    give(Item::Header(header.clone()))?;
    let header = header.unwrap_or_default();
    while let Some((span, row)) = lines.next_record(format).map_err(io)? {
        give(Item::Row(span, row.and_then(|cells| named(&header, cells))))?;
    }
    Ok(())
}

/// Gives every line of a text file with where it lies.
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

/// A line of JSON lines as what it stands for; none for an empty line.
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

/// Bytes read at once.
pub(crate) const BUFFER: usize = 1 << 16;

/// Opens a file; opening a pipe would wait for a writer, so the kind of file is asked for first.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

/// A row of JSON lines.
pub(crate) fn object(bytes: &[u8]) -> Object {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NOT_UTF8.to_owned())?;
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(Some(row)),
        Ok(_) => Err("not a JSON object".to_owned()),
        Err(error) => Err(format!("malformed JSON: {error}")),
    }
}

/// Cells by their columns' names.
fn named(header: &[String], cells: Vec<String>) -> Object {
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

/// A list whose rows are read where they stand, by any number of threads.
#[derive(Debug)]
pub(crate) struct Spans {
    /// As the recipe gives it.
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

    /// Opens a file again that could be read before.
    ///
    /// # Errors
    ///
    /// It cannot be read now, or is not there any more.
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
    /// They cannot be read any more.
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
    /// It cannot be read any more.
    pub fn row(
        &self,
        span: Span,
        format: ListFormat,
        header: &[String],
    ) -> Result<Map<String, Value>, SampleError> {
        let row = if format == ListFormat::Jsonl {
            self.line(span)
                .and_then(|line| object(&line).map_err(|reason| self.bad(span, reason)))?
        } else {
            let cells = self.cells(span, format)?;
            named(header, cells).map_err(|reason| self.bad(span, reason))?
        };
        row.ok_or_else(|| self.changed(span))
    }

    /// A row without its line end.
    ///
    /// # Errors
    ///
    /// It cannot be read any more.
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
    /// It cannot be read any more.
    pub fn cells(&self, span: Span, format: ListFormat) -> Result<Vec<String>, SampleError> {
        let bytes = self.bytes(span)?;
        let read = Lines::again(&*bytes, span).next_record(format);
        match read {
            Ok(Some((_, Ok(cells)))) => Ok(cells),
            _ => Err(self.changed(span)),
        }
    }

    /// A row of a list that was changed under the run: what it was is unknown, so nothing is said of the sample.
    pub fn changed(&self, span: Span) -> SampleError {
        self.bad(span, ReadError::unavailable(CHANGED))
    }

    /// A row that cannot be used.
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

/// Rows that belong together, by their keys' hashes; 24 bytes a row while it is made, 20 afterwards.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// While it is made: hash of the key.
    keys: Vec<(u64, u32)>,
    spans: Vec<Span>,
    /// First row of each group, and the number of rows at the end.
    starts: Vec<u32>,
}

impl Groups {
    /// Adds a row; false where there is no room for it.
    pub fn push(&mut self, key: u64, span: Span) -> bool {
        let Ok(row) = u32::try_from(self.spans.len()) else {
            return false;
        };
        self.keys.push((key, row));
        self.spans.push(span);
        row < u32::MAX
    }

    /// Brings rows of one key together, in the order of their first rows.
    pub fn finish(&mut self) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable();
        // Per row the first row of its group.
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

    /// How many groups there are.
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
    /// Lines that were read ahead in search of a closing quote.
    ahead: VecDeque<(Span, Line)>,
    /// Bytes and lines that were read.
    offset: u64,
    line: u32,
    /// Whether the first line is the file's.
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

    /// The bytes of a row that was found before.
    fn again(reader: R, span: Span) -> Self {
        Self {
            from_start: span.offset == 0,
            ..Self::new(reader)
        }
    }

    /// The next line without its end, or why it cannot be used.
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
        if span.line == 1 && self.from_start && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some((span, Ok(bytes))))
    }

    /// The next record's cells. A quoted CSV cell may span lines; one that is never closed costs its first line only.
    pub fn next_record(&mut self, format: ListFormat) -> std::io::Result<Option<(Span, Record)>> {
        let Some((mut first, start)) = self.next_line()? else {
            return Ok(None);
        };
        let mut record = match start {
            Ok(record) => record,
            Err(reason) => return Ok(Some((first, Err(reason)))),
        };
        if format == ListFormat::Csv {
            let mut used = Vec::new();
            let mut quoted = ends_quoted(&record, false);
            let mut end = first;
            while quoted {
                match self.next_line()? {
                    Some((span, Ok(more))) if record.len() + more.len() < LONGEST_ROW => {
                        end = span;
                        quoted = ends_quoted(&more, true);
                        record.push(b'\n');
                        record.extend(&more);
                        used.push((span, Ok(more)));
                    }
                    other => {
                        used.extend(other);
                        // Places were told when the lines were first read.
                        for line in used.into_iter().rev() {
                            self.ahead.push_front(line);
                        }
                        return Ok(Some((first, Err("a quote is never closed".to_owned()))));
                    }
                }
            }
            first.length = (end.offset - first.offset) as u32 + end.length;
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

pub(crate) fn cells(record: &[u8], format: ListFormat) -> Record {
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
