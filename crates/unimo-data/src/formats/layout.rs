//! Recognises the format of a list of rows by its content, since extensions may be wrong.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::DataError;
use crate::formats::encoding::BUFFER;
use crate::formats::json::{each_of_file, parse};
use crate::formats::rows::{Layout, Lines, ListFormat, Quotes, each_line, named, record};
use crate::store::open_regular;

/// Possible delimiters between columns.
const DELIMITERS: [u8; 4] = [b'\t', b',', b';', b'|'];

/// The layout of a list. `fits`: whether a header has the needed columns.
///
/// # Errors
///
/// The file cannot be read or is not a list.
pub(crate) fn layout_of(
    path: &Path,
    format: Option<ListFormat>,
    quotes: Quotes,
    fits: &dyn Fn(&[String]) -> bool,
) -> Result<Layout, DataError> {
    let start = start_of(path)?;
    if let Some(what) = foreign(&start) {
        return Err(no_list(path, what));
    }
    let ending = ending_of(path);
    let format = match format.or_else(|| of_json(&start)) {
        Some(format) => format,
        None => match ending.as_deref() {
            Some("csv") => ListFormat::Csv,
            Some("tsv" | "tab") => ListFormat::Tsv,
            Some("jsonl" | "ndjson") => ListFormat::Jsonl,
            Some("json") => ListFormat::Json,
            _ => {
                return by_header(&start, quotes, fits)
                    .ok_or_else(|| no_list(path, "which ends in none of these and has no header with the columns that are needed"));
            }
        },
    };
    let named = Layout::new(format, quotes);
    if format != ListFormat::Json && start.contains(&b'\r') && !start.contains(&b'\n') {
        return Err(no_list(
            path,
            "whose lines end in carriage returns alone, as on old Macs, and are to end in line feeds",
        ));
    }
    if start.is_empty() || (named.is_json() && of_json(&start).is_some()) {
        return Ok(named);
    }
    // If the header fits with the extension's format, that format is used.
    if !named.is_json() && header(&start, named).is_some_and(|cells| fits(&cells)) {
        return Ok(named);
    }
    let found = by_header(&start, quotes, fits);
    // Where none fits, what splits the header at all: an error then names the columns that there are.
    let columns = |layout| header(&start, layout).map_or(0, |cells| cells.len());
    let several = || {
        let alone = !named.is_json() && columns(named) == 1;
        alone
            .then(|| by_header(&start, quotes, &|cells| cells.len() > 1))
            .flatten()
    };
    Ok(found.or_else(several).unwrap_or(named))
}

/// Passes on every JSON object of a file, with its line in JSON lines or its number in an array. `None` stands for an empty line.
///
/// # Errors
///
/// The file cannot be read, or is an array that is cut short.
pub(crate) fn each_object<T: DeserializeOwned>(
    path: &Path,
    give: &mut dyn FnMut(u64, Result<Option<T>, String>),
) -> Result<(), DataError> {
    let start = start_of(path)?;
    if let Some(what) = foreign(&start) {
        return Err(DataError::Manifest {
            path: path.to_owned(),
            reason: format!("it is {what}; JSON lines or a JSON array are read"),
        });
    }
    if of_json(&start) == Some(ListFormat::Json) {
        return each_of_file(path, &[""], &mut |_, number, bytes| {
            give(number, bytes.and_then(parse).map(Some));
        });
    }
    each_line(path, &mut |span, line| {
        give(span.line.into(), line.and_then(|line| record(&line)));
    })
}

/// The delimiter that gives a header with the needed columns.
fn by_header(start: &[u8], quotes: Quotes, fits: &dyn Fn(&[String]) -> bool) -> Option<Layout> {
    let layouts = DELIMITERS.map(|delimiter| {
        let format = if delimiter == b'\t' {
            ListFormat::Tsv
        } else {
            ListFormat::Csv
        };
        Layout {
            delimiter,
            ..Layout::new(format, quotes)
        }
    });
    layouts
        .into_iter()
        .find(|layout| header(start, *layout).is_some_and(|cells| fits(&cells)))
}

/// The layout of a file of columns that has a column of this name; `None` for JSON, and for everything that is no list.
pub(crate) fn with_column(start: &[u8], name: &str) -> Option<Layout> {
    if foreign(start).is_some() || of_json(start).is_some() {
        return None;
    }
    by_header(start, Quotes::Csv, &|cells| {
        cells.iter().any(|cell| cell.trim() == name)
    })
}

/// The first rows of a file of columns, as far as they can be read.
pub(crate) fn first_rows(start: &[u8], layout: Layout, most: usize) -> Vec<Map<String, Value>> {
    let mut lines = Lines::new(start);
    let mut next = || {
        lines
            .next_record(layout)
            .ok()?
            .and_then(|(_, cells)| cells.ok())
    };
    let Some(header) = next() else {
        return Vec::new();
    };
    let rows = std::iter::from_fn(next).take(most);
    rows.filter_map(|cells| named(&header, cells).ok()?)
        .collect()
}

fn header(start: &[u8], layout: Layout) -> Option<Vec<String>> {
    let (_, cells) = Lines::new(start).next_record(layout).ok()??;
    cells.ok()
}

/// JSON lines or an array, by the first byte that is not white space.
fn of_json(start: &[u8]) -> Option<ListFormat> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    match start.trim_ascii_start().first() {
        Some(b'{') => Some(ListFormat::Jsonl),
        Some(b'[') => Some(ListFormat::Json),
        _ => None,
    }
}

fn ending_of(path: &Path) -> Option<String> {
    path.extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase())
}

/// The first bytes of a file.
pub(crate) fn start_of(path: &Path) -> Result<Vec<u8>, DataError> {
    let io = |error| DataError::file("read", path, error);
    let mut start = Vec::new();
    open_regular(path)
        .map_err(io)?
        .take(BUFFER as u64)
        .read_to_end(&mut start)
        .map_err(io)?;
    Ok(start)
}

/// Whether a file is a tar file, by its first 512 bytes.
pub fn is_tar(start: &[u8]) -> bool {
    start.get(257..262).is_some_and(|magic| magic == b"ustar")
}

/// Whether a file is a Parquet file, by its first bytes.
pub fn is_parquet(start: &[u8]) -> bool {
    start.starts_with(PARQUET)
}

const PARQUET: &[u8] = b"PAR1";

/// The kind of a file that is not text, by its first bytes.
pub(crate) fn foreign(start: &[u8]) -> Option<&'static str> {
    if is_tar(start) {
        return Some("a tar file");
    }
    let kinds: [(&[u8], &str); 12] = [
        (b"\x1f\x8b", "compressed with gzip; unpack it"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
        (b"BZh", "compressed with bzip2; unpack it"),
        (b"\xfd7zXZ", "compressed with xz; unpack it"),
        (b"PK\x03\x04", "a zip file (or an Excel sheet); unpack it"),
        (PARQUET, "a Parquet file"),
        (b"\x80\x02", "a Python pickle, which is never run"),
        (b"\x80\x03", "a Python pickle, which is never run"),
        (b"\x80\x04", "a Python pickle, which is never run"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x89HDF", "an HDF5 file"),
        (b"SQLite", "a database"),
    ];
    kinds
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, what)| *what)
}

fn no_list(path: &Path, what: &str) -> DataError {
    DataError::config(
        "data.pairs.path",
        format!("{}, {what}", path.display()),
        "a list in JSON lines (.jsonl), a JSON array (.json), CSV (.csv) or TSV (.tsv), or `data.pairs.format` set to one of them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &[u8]) -> Result<(ListFormat, u8), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let fits = |cells: &[String]| cells.iter().any(|cell| cell == "image") && cells.len() > 1;
        layout_of(&path, None, Quotes::Csv, &fits)
            .map(|layout| (layout.format, layout.delimiter))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn content_says_more_than_endings() {
        let (jsonl, json) = (ListFormat::Jsonl, ListFormat::Json);
        let (csv, tsv) = (ListFormat::Csv, ListFormat::Tsv);
        for (name, text, expected) in [
            ("a.json", "\u{feff}\n {\"image\": 1}", (jsonl, b',')),
            ("a.jsonl", " [{}]", (json, b',')),
            ("a.txt", "[]", (json, b',')),
            ("a.csv", "image,caption\n", (csv, b',')),
            ("a.csv", "image\tcaption\n", (tsv, b'\t')),
            ("a.csv", "\u{feff}image;caption\n1;a,b\n", (csv, b';')),
            ("a.tsv", "caption,image\n", (csv, b',')),
            ("a.txt", "image|caption\r\n", (csv, b'|')),
            ("list", "image\tcaption\n", (tsv, b'\t')),
            // Nothing fits, so the extension decides, if it gives columns at all.
            ("a.csv", "path\tcaption, short\n", (csv, b',')),
            ("a.csv", "path\tcaption\n", (tsv, b'\t')),
            ("a.csv", "path;caption\n", (csv, b';')),
            ("a.csv", "path\n", (csv, b',')),
            ("a.tsv", "path\tcaption\n", (tsv, b'\t')),
            ("a.csv", "", (csv, b',')),
            ("a.jsonl", "no json", (jsonl, b',')),
            ("a.json", "", (json, b',')),
        ] {
            assert_eq!(
                found(name, text.as_bytes()).unwrap(),
                expected,
                "{name} {text}"
            );
        }
        for (name, text, part) in [
            ("a.txt", &b"some words"[..], "no header"),
            ("a.jsonl", b"\x1f\x8b\x08", "gzip"),
            ("a.csv", b"PK\x03\x04", "Excel"),
            ("a.json", b"PAR1", "Parquet"),
            ("a.csv", b"image,caption\r1.jpg,a\r", "carriage returns"),
            (
                "a.jsonl",
                b"{\"image\": 1}\r{\"image\": 2}\r",
                "carriage returns",
            ),
        ] {
            let message = found(name, text).unwrap_err();
            assert!(
                message.contains(part) && message.contains(name),
                "{message}"
            );
        }
    }
}
