//! Texts without images: plain text files.
//!
//! ```toml
//! [data]
//! source = "texts"
//!
//! [data.texts]
//! train = ["wikipedia", "books/one.txt"]
//! val = ["held_out.txt"]
//! text = "paragraph"
//! ```
//!
//! A folder stands for all .txt files in it, at any depth. A text is a line, or a paragraph: lines up to an empty one. Empty lines
//! are not texts. Without `val`, `val_fraction` of the texts is held out, by a hash of the text. Only a text's location stays in
//! memory, 16 bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::formats::encoding::NOT_UTF8;
use crate::formats::rows::{LONGEST_ROW, Span, Spans, each_line};
use crate::images::Limits;
use crate::sources::folders::files_in;
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::source::{Offers, Source, SourceConfig};
use crate::sources::splits::{BESIDE_VAL, BySplit, Split, drawn, not_drawn};
use crate::text::spaced;

/// `[data.texts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextsConfig {
    /// Files and folders to train on.
    pub train: Vec<PathBuf>,
    /// Held-out files and folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// Files and folders of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// Share of the texts that is held out if `val` is absent.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
    /// The unit of a text.
    #[serde(default)]
    pub text: Unit,
}

/// The unit of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A line.
    #[default]
    Line,
    /// Lines up to an empty one.
    Paragraph,
}

impl SourceConfig for TextsConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let held_out = [("val", &*self.val), ("test", &*self.test)];
        train_and_held(table, &self.train, held_out, self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let train = self.train.iter_mut();
        train.chain(&mut self.val).chain(&mut self.test).collect()
    }

    fn open(&self, _: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut corpus = Corpus {
            files: Vec::new(),
            texts: BySplit::default(),
            fraction: if self.val.is_empty() {
                self.val_fraction
            } else {
                0.0
            },
            unused: if self.val.is_empty() {
                0.0
            } else {
                self.val_fraction
            },
            rejected: Vec::new(),
            left_out: Vec::new(),
        };
        let held = Held::beside(&self.val, self.val_fraction);
        for (paths, held) in [
            (&self.train, held),
            (&self.val, Held::All(Split::Val)),
            (&self.test, Held::All(Split::Test)),
        ] {
            for path in paths {
                if !path.is_dir() {
                    corpus.read(path, self.text, held)?;
                    continue;
                }
                let wanted = |file: &Path| {
                    file.extension()
                        .is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
                };
                let found = files_in(path, &wanted)?;
                if found.left_out.total() > 0 {
                    corpus.left_out.push(format!(", {}", found.left_out));
                }
                for file in found.files {
                    corpus.read(&path.join(file), self.text, held)?;
                }
            }
        }
        if Split::ALL.into_iter().all(|split| corpus.is_empty(split)) {
            let first = corpus.rejected.first();
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: first.map_or("no text in it".to_owned(), |first| {
                    format!("no text can be used, the first: {first}")
                }),
            });
        }
        Ok(Arc::new(corpus))
    }
}

/// Texts of a split, by file.
#[derive(Debug, Default)]
struct Texts {
    spans: Vec<Span>,
    /// Index of each file, and index of its first text.
    files: Vec<(usize, usize)>,
}

impl Texts {
    fn push(&mut self, file: usize, span: Span) {
        if self.files.last().is_none_or(|last| last.0 != file) {
            self.files.push((file, self.spans.len()));
        }
        self.spans.push(span);
    }
}

/// Plain text files. See the [module](self).
#[derive(Debug)]
struct Corpus {
    files: Vec<PathBuf>,
    texts: BySplit<Texts>,
    /// Share that is held out if no files are given for it.
    fraction: f64,
    /// The share that a recipe gives beside held-out files, which changes nothing; 0 without such files.
    unused: f64,
    rejected: Vec<SampleError>,
    /// What is left out of each folder, for the description.
    left_out: Vec<String>,
}

impl Corpus {
    fn read(&mut self, path: &Path, unit: Unit, held: Held) -> Result<(), DataError> {
        let file = self.files.len();
        self.files.push(path.to_owned());
        let name = path.display().to_string();
        let mut reject = |span: Span, reason: String| {
            self.rejected.push(SampleError::new(
                Place {
                    file: name.clone(),
                    line: u64::from(span.line),
                },
                reason,
            ));
        };
        let texts = &mut self.texts;
        let mut take = |span: Span, text: &str| texts[held.of(text)].push(file, span);
        // The paragraph so far; one of its lines may be unusable.
        let mut open: Option<(Span, Result<String, String>)> = None;
        each_line(path, &mut |span, line| {
            let text = line.and_then(|line| {
                let text = std::str::from_utf8(&line).map_err(|_| NOT_UTF8.to_owned())?;
                Ok(spaced(text))
            });
            let ended = unit == Unit::Line || matches!(text, Ok(None));
            let text = match text {
                Ok(None) => None,
                Ok(Some(text)) => Some(Ok(text)),
                Err(reason) => Some(Err(reason)),
            };
            if let Some(text) = text {
                open = Some(match open.take() {
                    None => (span, text),
                    Some((first, before)) => joined(first, before, span, text),
                });
            }
            if ended && let Some((span, text)) = open.take() {
                match text {
                    Ok(text) => take(span, &text),
                    Err(reason) => reject(span, reason),
                }
            }
        })?;
        match open {
            Some((span, Ok(text))) => take(span, &text),
            Some((span, Err(reason))) => reject(span, reason),
            None => {}
        }
        Ok(())
    }

    fn texts(&self, split: Split) -> &Texts {
        &self.texts[split]
    }

    fn at(&self, split: Split, index: usize) -> (&Path, Span) {
        let texts = self.texts(split);
        let file = texts.files.partition_point(|(_, first)| *first <= index);
        (&self.files[texts.files[file - 1].0], texts.spans[index])
    }
}

/// Appends a line to a paragraph.
fn joined(
    first: Span,
    before: Result<String, String>,
    span: Span,
    text: Result<String, String>,
) -> (Span, Result<String, String>) {
    let length = span.offset + u64::from(span.length) - first.offset;
    if length > LONGEST_ROW as u64 {
        let reason = format!("the paragraph is longer than {LONGEST_ROW} bytes");
        return (first, Err(before.err().unwrap_or(reason)));
    }
    let whole = Span {
        length: length as u32,
        ..first
    };
    let text = before.and_then(|mut before| {
        // In place: a paragraph of a million short lines must not be copied a million times.
        before.push(' ');
        before.push_str(&text?);
        Ok(before)
    });
    (whole, text)
}

impl Source for Corpus {
    fn len(&self, split: Split) -> usize {
        self.texts(split).spans.len()
    }

    fn describe(&self) -> String {
        let test = match self.len(Split::Test) {
            0 => String::new(),
            texts => format!(", {texts} to test on"),
        };
        format!(
            "{} text files: {} training texts without images, {} held out{test}, {} unusable{}",
            self.files.len(),
            self.len(Split::Train),
            self.len(Split::Val),
            self.rejected.len(),
            self.left_out.concat()
        )
    }

    fn notes(&self) -> Vec<String> {
        let first = self.files.first().map(|path| path.display().to_string());
        let name = first.unwrap_or_default();
        if self.fraction == 0.0 {
            return not_drawn(&name, self.unused, BESIDE_VAL)
                .into_iter()
                .collect();
        }
        let held = self.len(Split::Val);
        let of = held + self.len(Split::Train);
        vec![drawn(&name, held, of, "texts", self.fraction)]
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (file, span) = self.at(split, index);
        Place {
            file: file.display().to_string(),
            line: u64::from(span.line),
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            images: false,
            ..Offers::default()
        }
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        let texts = self.texts(split);
        let ends = texts.files.iter().skip(1).map(|(_, first)| *first);
        let ends = ends.chain([texts.spans.len()]);
        texts
            .files
            .iter()
            .zip(ends)
            .map(|((_, first), end)| end - first)
            .collect()
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let (file, span) = self.at(split, index);
        let bad = |reason: String| SampleError::new(self.place(split, index), reason);
        // A corpus may have more files than a process may open.
        let again = |reason: &str| format!("the file cannot be read again: {reason}");
        let list = Spans::reopen(file)
            .map_err(|error| SampleError::new(self.place(split, index), error.told(again)))?;
        let bytes = list.bytes(span)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad(NOT_UTF8.to_owned()))?;
        let text = spaced(text).ok_or_else(|| list.changed(span))?;
        Ok(vec![text])
    }

    fn image(&self, _: Split, _: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(None)
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};

    #[test]
    fn lines_and_paragraphs() {
        // Concatenated files have byte order marks inside.
        let text = "\u{feff}one  line\r\n\u{feff}second\n\n \nlast of all";
        let folder = folder(&[
            ("a.txt", text),
            ("b/c/d.txt", "deep\n"),
            ("b/e.md", "no text"),
        ]);
        let data = "source = \"texts\"\n[texts]\ntrain = [\"a.txt\", \"b\"]\nval_fraction = 0\n";
        let source = open(&folder, data).unwrap();
        assert!(!source.has_images() && source.has_captions());
        assert_eq!(
            captions(&*source, Split::Train),
            [["one line"], ["second"], ["last of all"], ["deep"]]
        );
        assert_eq!(source.shards(Split::Train), [3, 1]);
        assert_eq!(source.place(Split::Train, 2).line, 5);
        assert!(source.place(Split::Train, 3).file.ends_with("d.txt"));
        assert_eq!(source.image(Split::Train, 0).unwrap(), None);
        let source = open(&folder, &format!("{data}text = \"paragraph\"\n")).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [["one line second"], ["last of all"], ["deep"]]
        );
        assert_eq!(source.place(Split::Train, 1).line, 5);
    }

    #[test]
    fn bad_texts_are_listed() {
        let folder = folder(&[]);
        let mut text = b"good\nbad \xff\n".to_vec();
        text.extend(vec![b'x'; LONGEST_ROW + 5]);
        text.extend(b"\ngood too\n\n");
        text.extend(b"short\n".repeat(LONGEST_ROW / 6 + 1));
        std::fs::write(folder.path().join("a.txt"), text).unwrap();
        let data = "source = \"texts\"\n[texts]\ntrain = [\"a.txt\"]\nval_fraction = 0\n";
        let source = open(&folder, data).unwrap();
        assert_eq!(source.len(Split::Train), 2 + LONGEST_ROW / 6 + 1);
        assert_rejected(
            &*source,
            &[("a.txt", 2, "UTF-8"), ("a.txt", 3, "longer than")],
        );
        let paragraphs = message(open(&folder, &format!("{data}text = \"paragraph\"\n")));
        assert!(paragraphs.contains("no text can be used"), "{paragraphs}");
    }

    #[test]
    fn equal_texts_are_in_one_split() {
        let text: String = (0..4000).map(|i| format!("text {}\n", i / 2)).collect();
        let folder = folder(&[("a.txt", &text)]);
        let source = open(
            &folder,
            "source = \"texts\"\n[texts]\ntrain = [\"a.txt\"]\nval_fraction = 0.1\n",
        );
        let source = source.unwrap();
        let train: std::collections::HashSet<_> =
            captions(&*source, Split::Train).into_iter().collect();
        let val: std::collections::HashSet<_> =
            captions(&*source, Split::Val).into_iter().collect();
        assert_eq!(train.len() + val.len(), 2000);
        // Five standard deviations of a binomial with n = 2,000 and p = 0.1.
        const TOLERANCE: usize = 68;
        assert!(val.len().abs_diff(200) < TOLERANCE);
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_of_its_texts() {
        let folder = folder(&[("a.txt", "one\ntwo\n")]);
        let source = open(
            &folder,
            "source = \"texts\"\n[texts]\ntrain = [\"a.txt\"]\nval_fraction = 0\n",
        );
        let source = source.unwrap();
        std::fs::write(folder.path().join("a.txt"), "one\n").unwrap();
        assert!(source.captions(Split::Train, 0).is_ok());
        let gone = source.captions(Split::Train, 1).unwrap_err();
        assert!(gone.reason.contains("cannot be read again"), "{gone}");
    }
}
