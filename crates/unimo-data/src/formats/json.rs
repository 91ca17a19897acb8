//! Elements of the arrays of a large JSON file, one at a time.
//!
//! The file is cut into elements by brackets and quotes alone, and each element is parsed by itself. So memory is bounded by the
//! longest element, and an element that cannot be parsed costs only itself. Python's extensions of JSON are read as described at
//! [`mended`].

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::DataError;
use crate::formats::distinct;
use crate::formats::encoding::{BUFFER, UTF16, is_utf16, text_of};
use crate::formats::mended::mended;
use crate::store::open_regular;

pub(crate) use crate::formats::values::{id, or_default, side};

/// Longest element in bytes. Objects with all their outlines stay below a hundredth of it.
pub(crate) const LONGEST_ELEMENT: usize = 16 << 20;
/// Longest key of the outermost object, in bytes.
const LONGEST_KEY: usize = 1 << 10;

/// Receives an element: the key of its array (empty if the file is an array), its number from 1, and its bytes or an error.
pub(crate) type Give<'a> = &'a mut dyn FnMut(&str, u64, Result<&[u8], String>);

/// Passes on every element of the wanted arrays of a file; `""` means the file itself, if it is an array.
///
/// # Errors
///
/// The file cannot be read, is cut short, is not JSON, or lacks a wanted array.
pub(crate) fn each_of_file(path: &Path, wanted: &[&str], give: Give) -> Result<(), DataError> {
    each_with_offset(path, wanted, &mut |key, at, bytes| {
        give(key, at.number, bytes);
    })
}

/// Position of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// Its number in its array, from 1.
    pub number: u64,
    /// Number of bytes before it.
    pub offset: u64,
}

/// As [`Give`], with the position of the element.
pub(crate) type GiveAt<'a> = &'a mut dyn FnMut(&str, At, Result<&[u8], String>);

/// As [`each_of_file`], with the positions of the elements.
///
/// # Errors
///
/// As for [`each_of_file`].
pub(crate) fn each_with_offset(
    path: &Path,
    wanted: &[&str],
    give: GiveAt,
) -> Result<(), DataError> {
    let io = |error| DataError::file("read", path, error);
    let form = |reason| DataError::Manifest {
        path: path.to_owned(),
        reason,
    };
    let reader = BufReader::with_capacity(BUFFER, open_regular(path).map_err(io)?);
    match each_element(reader, wanted, LONGEST_ELEMENT, give) {
        Ok(()) => Ok(()),
        Err(Broken::Io(error)) => Err(io(error)),
        Err(Broken::Form(reason)) => Err(form(reason)),
    }
}

/// Makes [`first_elements`] want every array.
const EVERY: &str = "*";

/// Also wants every object that is a value of the outermost object, under its key. If there is one, no array has to be there.
pub(crate) const MEMBERS: &str = "{}";

/// The first elements of every array that can be parsed, with the array's key: `""` if the file is an array.
///
/// # Errors
///
/// As for [`each_of_file`].
pub(crate) fn first_elements(
    path: &Path,
    most: u64,
) -> Result<Vec<(String, Vec<Value>)>, DataError> {
    let mut found: Vec<(String, Vec<Value>)> = Vec::new();
    each_of_file(path, &[EVERY], &mut |key, number, bytes| {
        if found.last().is_none_or(|(last, _)| last != key) {
            found.push((key.to_owned(), Vec::new()));
        }
        if number <= most
            && let Ok(value) = bytes.and_then(parse)
            && let Some((_, elements)) = found.last_mut()
        {
            elements.push(value);
        }
    })?;
    Ok(found)
}

/// Passes on every element of an array inside an element.
///
/// # Errors
///
/// There is no such array.
pub(crate) fn each_inside(bytes: &[u8], key: &str, give: Give) -> Result<(), String> {
    let mut give = |key: &str, at: At, bytes: Result<&[u8], String>| give(key, at.number, bytes);
    each_element(bytes, &[key], LONGEST_ELEMENT, &mut give).map_err(|broken| match broken {
        Broken::Io(error) => error.to_string(),
        Broken::Form(reason) => reason,
    })
}

/// Parses an element.
///
/// # Errors
///
/// What is wrong with it, with the text where the error was noticed.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match mended(bytes) {
        None => Err(reason(bytes, &error)),
        Some(mended) => serde_json::from_slice(&mended).map_err(|error| reason(&mended, &error)),
    }
}

/// As [`parse`], and the first key that an object of it has twice with different values, of which the last counts.
///
/// # Errors
///
/// As for [`parse`].
pub(crate) fn parse_noting(bytes: &[u8]) -> Result<(Value, Option<String>), String> {
    let mut twice = None;
    let error = match distinct::read(bytes, &mut twice) {
        Ok(value) => return Ok((value, twice)),
        Err(error) => error,
    };
    let Some(mended) = mended(bytes) else {
        return Err(reason(bytes, &error));
    };
    twice = None;
    let read = distinct::read(&mended, &mut twice).map_err(|error| reason(&mended, &error))?;
    Ok((read, twice))
}

/// As [`parse`], where no object of it has a key twice.
///
/// # Errors
///
/// As for [`parse`], or such a key.
pub(crate) fn parse_distinct(bytes: &[u8]) -> Result<Value, String> {
    match parse_noting(bytes)? {
        (value, None) => Ok(value),
        (_, Some(key)) => Err(has_twice(&key)),
    }
}

/// Reads a JSON file that another program has written: with or without a byte order mark, with Python's extensions of JSON
/// (NaN is null), no key twice in an object with different values.
///
/// # Errors
///
/// What is wrong with it.
pub fn read_json(bytes: &[u8]) -> Result<Value, String> {
    parse_distinct(text_of(bytes)?.as_bytes())
}

/// Why an object with such a key is not used.
pub(crate) fn has_twice(key: &str) -> String {
    format!("the key `{key}` is there twice with different values, and nothing says which is meant")
}

/// What is wrong with an element, with the text where the error was noticed.
fn reason(bytes: &[u8], error: &serde_json::Error) -> String {
    const SHOWN: usize = 24;
    let line = bytes.split(|byte| *byte == b'\n');
    let line = line.into_iter().nth(error.line().saturating_sub(1));
    let from = error.column().saturating_sub(1);
    let near = line.and_then(|line| line.get(from..)).unwrap_or_default();
    let near = String::from_utf8_lossy(&near[..near.len().min(SHOWN)]).into_owned();
    let reason = error.to_string();
    // The line inside an element is of no use, since the element has a number.
    let reason = reason.split(" at line ").next().unwrap_or_default();
    if error.is_data() || near.is_empty() {
        reason.to_owned()
    } else {
        format!("malformed JSON: {reason} at `{near}`")
    }
}

/// Why a file cannot be cut into elements.
#[derive(Debug)]
enum Broken {
    Io(std::io::Error),
    Form(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn each_element<R: BufRead>(
    reader: R,
    wanted: &[&str],
    longest: usize,
    give: GiveAt,
) -> Result<(), Broken> {
    let mut scan = Scan {
        reader,
        offset: 0,
        longest,
    };
    let mut found = Vec::new();
    let mut members = 0;
    scan.byte_order_mark()?;
    match scan.peek()? {
        Some(b'[') => {
            if !wanted.contains(&"") && wanted != [EVERY] {
                return Err(Broken::Form(format!(
                    "it is an array, not an object with {}",
                    listed(wanted)
                )));
            }
            scan.array("", give)?;
            found.push(String::new());
        }
        Some(b'{') => {
            scan.next()?;
            let mut first = true;
            loop {
                match scan.peek()? {
                    Some(b'}') if first => {
                        scan.next()?;
                        break;
                    }
                    Some(b'"') => {}
                    other => return Err(scan.unexpected("a key", other)),
                }
                first = false;
                let key = scan.key()?;
                match scan.peek()? {
                    Some(b':') => scan.next()?,
                    other => return Err(scan.unexpected("a colon", other)),
                }
                let array = scan.peek()? == Some(b'[');
                let is_wanted = wanted.contains(&key.as_str()) || wanted == [EVERY];
                // Who looks at every array only wants to know what the file is.
                if array && is_wanted && wanted != [EVERY] && found.contains(&key) {
                    return Err(Broken::Form(format!(
                        "the array `{key}` is there twice, and nothing says which is meant"
                    )));
                }
                if array && is_wanted {
                    scan.array(&key, give)?;
                } else if wanted.contains(&MEMBERS) && scan.peek()? == Some(b'{') {
                    members += 1;
                    scan.member(&key, members, give)?;
                } else {
                    scan.value(None)?;
                }
                if array {
                    found.push(key);
                }
                match scan.peek()? {
                    Some(b',') => scan.next()?,
                    Some(b'}') => {
                        scan.next()?;
                        break;
                    }
                    other => return Err(scan.unexpected("a comma or the object's end", other)),
                }
            }
            let missing = wanted.iter().find(|key| {
                let named = !["", EVERY, MEMBERS].contains(key);
                named && !found.iter().any(|found| found == *key)
            });
            if let Some(key) = missing.filter(|_| members == 0) {
                let found: Vec<&str> = found.iter().map(String::as_str).collect();
                return Err(Broken::Form(format!(
                    "it has no array `{key}`; arrays: {}",
                    listed(&found)
                )));
            }
            if wanted == [""] {
                return Err(Broken::Form("it is an object, not an array".to_owned()));
            }
        }
        None => return Err(Broken::Form("the file is empty".to_owned())),
        other => return Err(scan.unexpected("an array or an object", other)),
    }
    match scan.peek()? {
        None => Ok(()),
        other => Err(scan.unexpected("the file's end", other)),
    }
}

fn listed(keys: &[&str]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .filter(|key| !["", MEMBERS].contains(key))
        .map(|key| format!("`{key}`"))
        .collect();
    if keys.is_empty() {
        "none".to_owned()
    } else {
        keys.join(", ")
    }
}

/// A scan of a file.
struct Scan<R> {
    reader: R,
    offset: u64,
    longest: usize,
}

impl<R: BufRead> Scan<R> {
    fn byte_order_mark(&mut self) -> Result<(), Broken> {
        if is_utf16(self.reader.fill_buf()?) {
            return Err(Broken::Form(UTF16.to_owned()));
        }
        if self.reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            self.reader.consume(3);
            self.offset += 3;
        }
        Ok(())
    }

    /// The next byte that is not white space, without consuming it.
    fn peek(&mut self) -> Result<Option<u8>, Broken> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let Some(byte) = buffer.first().copied() else {
                return Ok(None);
            };
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.next()?;
        }
    }

    /// Consumes the byte that was peeked at.
    fn next(&mut self) -> Result<(), Broken> {
        self.reader.consume(1);
        self.offset += 1;
        Ok(())
    }

    fn unexpected(&self, wanted: &str, found: Option<u8>) -> Broken {
        Broken::Form(match found {
            None => format!(
                "the file ends after {} bytes where {wanted} should be: it is cut short",
                self.offset
            ),
            Some(byte) => format!(
                "no JSON: `{}` after {} bytes where {wanted} should be",
                char::from(byte).escape_default(),
                self.offset
            ),
        })
    }

    fn key(&mut self) -> Result<String, Broken> {
        let longest = std::mem::replace(&mut self.longest, LONGEST_KEY);
        let mut bytes = Vec::new();
        let whole = self.value(Some(&mut bytes));
        self.longest = longest;
        let start = self.offset - bytes.len() as u64;
        let key = if whole? {
            serde_json::from_slice(&bytes).ok()
        } else {
            None
        };
        key.ok_or_else(|| Broken::Form(format!("no JSON: no valid key after {start} bytes")))
    }

    /// Passes on the value of a key, which is an object.
    fn member(&mut self, key: &str, number: u64, give: GiveAt) -> Result<(), Broken> {
        let mut bytes = Vec::new();
        let at = At {
            number,
            offset: self.offset,
        };
        let whole = self.value(Some(&mut bytes))?;
        let longest = self.longest;
        let too_long = || format!("it is longer than {longest} bytes");
        give(key, at, if whole { Ok(&bytes) } else { Err(too_long()) });
        Ok(())
    }

    fn array(&mut self, key: &str, give: GiveAt) -> Result<(), Broken> {
        self.next()?;
        let mut bytes = Vec::new();
        if self.peek()? == Some(b']') {
            return self.next();
        }
        for number in 1.. {
            self.peek()?;
            bytes.clear();
            let at = At {
                number,
                offset: self.offset,
            };
            let whole = self
                .value(Some(&mut bytes))
                .map_err(|broken| match broken {
                    Broken::Form(reason) if key.is_empty() => {
                        Broken::Form(format!("element {number}: {reason}"))
                    }
                    Broken::Form(reason) => {
                        Broken::Form(format!("element {number} of `{key}`: {reason}"))
                    }
                    io => io,
                })?;
            if whole {
                give(key, at, Ok(&bytes));
            } else {
                let reason = format!("it is longer than {} bytes", self.longest);
                give(key, at, Err(reason));
            }
            match self.peek()? {
                Some(b',') => self.next()?,
                Some(b']') => return self.next(),
                other => return Err(self.unexpected("a comma or the array's end", other)),
            }
        }
        Ok(())
    }

    /// Skips a value and what follows, up to a comma, bracket or colon outside it. Returns whether all of it was kept.
    fn value(&mut self, mut keep: Option<&mut Vec<u8>>) -> Result<bool, Broken> {
        let (mut depth, mut quoted, mut escaped) = (0u64, false, false);
        let mut whole = true;
        let mut empty = true;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(self.unexpected("a value's end", None));
            }
            let mut used = buffer.len();
            let mut ended = false;
            for (at, byte) in buffer.iter().enumerate() {
                if quoted {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => quoted = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => quoted = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' if depth > 0 => depth -= 1,
                    b',' | b']' | b'}' | b':' if depth == 0 => {
                        used = at;
                        ended = true;
                        break;
                    }
                    _ => {}
                }
            }
            if let Some(kept) = keep.as_mut().filter(|_| whole) {
                if kept.len() + used > self.longest {
                    whole = false;
                    // Frees what was kept of a hostile element at once.
                    **kept = Vec::new();
                } else {
                    kept.extend(&buffer[..used]);
                }
            }
            let stop = buffer.get(used).copied();
            empty &= used == 0;
            self.reader.consume(used);
            self.offset += used as u64;
            if ended {
                if empty {
                    return Err(self.unexpected("a value", stop));
                }
                return Ok(whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, number, and text or error.
    type Found = (String, u64, Result<String, String>);

    fn elements(text: &str, wanted: &[&str], longest: usize) -> Result<Vec<Found>, String> {
        // A buffer of 3 bytes, so that every token is split somewhere.
        let reader = BufReader::with_capacity(3, text.as_bytes());
        let mut all = Vec::new();
        each_element(reader, wanted, longest, &mut |key, at, bytes| {
            let bytes = bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            if let Ok(bytes) = &bytes {
                assert!(text[at.offset as usize..].starts_with(bytes));
            }
            all.push((key.to_owned(), at.number, bytes));
        })
        .map_err(|broken| match broken {
            Broken::Form(reason) => reason,
            Broken::Io(error) => error.to_string(),
        })?;
        Ok(all)
    }

    #[test]
    fn elements_are_what_serde_finds() {
        let text = r#" {"info": {"x": [1, {"images": 3}]}, "images": [ {"a": "]},\"", "b": [[], {}]} , 7,"x" ,[1,[2]]],
            "none": [], "last": null, "more": [1]} "#;
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let found = elements(text, &["images", "none"], 100).unwrap();
        assert_eq!(found.len(), 4);
        for (index, (key, number, bytes)) in found.iter().enumerate() {
            assert_eq!((key.as_str(), *number), ("images", index as u64 + 1));
            let parsed: serde_json::Value = parse(bytes.as_ref().unwrap().as_bytes()).unwrap();
            assert_eq!(parsed, value["images"][index]);
        }
        assert_eq!(elements("[1, 2]", &[""], 100).unwrap().len(), 2);
        assert!(elements("[]", &[""], 100).unwrap().is_empty());
    }

    #[test]
    fn a_bad_element_costs_itself_only() {
        let text = r#"[{"x": 1}, {"x": no}, {"x": "long long long long"}, {"x": 2}]"#;
        let found = elements(text, &[""], 12).unwrap();
        let good: Vec<bool> = found
            .iter()
            .map(|(_, _, bytes)| {
                bytes
                    .as_ref()
                    .is_ok_and(|bytes| parse::<serde_json::Value>(bytes.as_bytes()).is_ok())
            })
            .collect();
        assert_eq!(good, [true, false, false, true]);
        let reason = found[2].2.as_ref().unwrap_err();
        assert!(reason.contains("longer than 12 bytes"), "{reason}");
        let reason = parse::<serde_json::Value>(br#"{"x": no}"#).unwrap_err();
        assert!(reason.contains("at `o}`"), "{reason}");
    }

    #[test]
    fn deep_nesting_is_an_element_like_any_other() {
        let deep = format!("[{}{}, 5]", "[".repeat(200_000), "]".repeat(200_000));
        let found = elements(&deep, &[""], LONGEST_ELEMENT).unwrap();
        assert_eq!(found.len(), 2);
        let bytes = found[0].2.as_ref().unwrap().as_bytes();
        let reason = parse::<serde_json::Value>(bytes).unwrap_err();
        assert!(reason.contains("recursion"), "{reason}");
    }

    #[test]
    fn broken_files_say_where() {
        for (text, wanted, part) in [
            ("", "", "empty"),
            ("<html>", "", "`<` after 0 bytes"),
            ("[1, ]", "", "where a value should be"),
            ("[1, 2", "", "element 2: the file ends after 5 bytes"),
            ("[{\"a\": \"open", "", "element 1: the file ends"),
            ("[1, , 2]", "", "where a value should be"),
            ("[1] 2", "", "the file's end"),
            ("{\"a\": [1]}", "b", "no array `b`; arrays: `a`"),
            ("{\"a\": 1}", "a", "no array `a`; arrays: none"),
            ("[1]", "a", "not an object with `a`"),
            ("{\"a\": [1]}", "", "not an array"),
            ("{\"a\" [1]}", "a", "no JSON"),
            ("{\"a\": [1], }", "a", "a key"),
            ("{\"a\": [1]", "a", "cut short"),
            (
                "{\"a\": [1], \"b\": [], \"a\": [2]}",
                "a",
                "`a` is there twice",
            ),
        ] {
            let reason = elements(text, &[wanted], 100).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    #[test]
    fn no_cut_or_flip_panics_or_hangs() {
        let text =
            r#"{"images": [{"id": 1, "f": "a\"b"}, {"id": 2}], "annotations": [[1, 2], "x"]}"#;
        for cut in 0..text.len() {
            assert!(elements(&text[..cut], &["images"], 20).is_err(), "{cut}");
            for byte in [b'"', b'[', b'}', b'\\', b',', b'x'] {
                let mut flipped = text.as_bytes().to_vec();
                flipped[cut] = byte;
                // Whatever the result, the scan ends.
                let _ = elements(std::str::from_utf8(&flipped).unwrap(), &["images"], 20);
            }
        }
    }
}
