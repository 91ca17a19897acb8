//! The same texts in several languages, without images: files with one text per line, or one TSV file.
//!
//! ```toml
//! [data]
//! source = "parallel"
//!
//! [data.parallel]
//! train = ["train.en", "train.de", "train.fr"]
//! val = ["val.en", "val.de", "val.fr"]
//! languages = ["en", "de", "fr"]                 # of the files, or of the columns of one; absent: not known
//! ```
//!
//! Line n of every file is the same text in another language. A single file is a TSV without header whose columns are the
//! languages; a line is a row, and quotes are part of the texts. A sample's captions are the texts in the order of the files or
//! columns; they are translations of each other. A line that is empty in one language, or that has not as many columns as there are
//! `languages`, is listed as unusable; a line that is empty in all is ignored. Without `val`, `val_fraction` of the lines is held out, by a
//! hash of the first text.

use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::formats::encoding::{BUFFER, NOT_UTF8};
use crate::formats::rows::{Lines, Span, Spans};
use crate::images::Limits;
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::languages::{Languages, validate_tags};
use crate::sources::source::{Annotations, Offers, Sample, Source, SourceConfig, SplitFacts};
use crate::sources::splits::{BESIDE_VAL, BySplit, Split, drawn, not_drawn};
use crate::store::open_regular;
use crate::text::spaced;

/// `[data.parallel]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParallelConfig {
    /// Files to train on: one per language, or one TSV file.
    pub train: Vec<PathBuf>,
    /// Held-out files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// Files of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// Share of the lines that is held out if `val` is absent.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
    /// The languages of the files, in their order, or of the columns of one file: tags such as `en`. Without them nothing is said per
    /// language, and a file may have any number of columns from two on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
}

impl SourceConfig for ParallelConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let held_out = [("val", &*self.val), ("test", &*self.test)];
        train_and_held(table, &self.train, held_out, self.val_fraction)?;
        let key = format!("{table}.languages");
        validate_tags(&key, &self.languages)?;
        let count = self.languages.len();
        if count == 1 {
            let allowed = "two languages or more, or none";
            return Err(DataError::config(key, "one language", allowed));
        }
        for (name, files) in [
            ("train", &self.train),
            ("val", &self.val),
            ("test", &self.test),
        ] {
            if let Some(twice) = (1..files.len()).find(|at| files[..*at].contains(&files[*at])) {
                return Err(DataError::config(
                    format!("{table}.{name}"),
                    files[twice].display().to_string(),
                    "each file once: a text is no translation of itself",
                ));
            }
            if count > 0 && files.len() > 1 && files.len() != count {
                let found = format!("{count} languages");
                let allowed = format!(
                    "one for each of the {} files of {table}.{name}",
                    files.len()
                );
                return Err(DataError::config(key, found, allowed));
            }
        }
        Ok(())
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let train = self.train.iter_mut();
        train.chain(&mut self.val).chain(&mut self.test).collect()
    }

    fn open(&self, _: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut source = Parallel {
            parts: Vec::new(),
            part: BySplit::default(),
            spans: BySplit::default(),
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
            languages: self.languages.clone(),
            rejected: Vec::new(),
        };
        source.read(&self.train, Held::beside(&self.val, self.val_fraction))?;
        for (paths, split) in [(&self.val, Split::Val), (&self.test, Split::Test)] {
            if !paths.is_empty() {
                source.part[split] = source.parts.len();
                source.read(paths, Held::All(split))?;
            }
        }
        if source.spans.iter().all(|(_, spans)| spans.is_empty()) {
            let first = source.rejected.first();
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: first.map_or("no text in it".to_owned(), |first| {
                    format!("no line can be used, the first: {first}")
                }),
            });
        }
        Ok(Arc::new(source))
    }
}

/// Texts in several languages. See the [module](self).
#[derive(Debug)]
struct Parallel {
    parts: Vec<Vec<Spans>>,
    /// Index of the part that holds each split.
    part: BySplit<usize>,
    /// For each sample, its line in each of the part's files, one after another.
    spans: BySplit<Vec<Span>>,
    /// Share that is held out if no files are given for it.
    fraction: f64,
    /// The share that a recipe gives beside held-out files, which changes nothing; 0 without such files.
    unused: f64,
    /// The languages of the texts of a sample; empty: not known.
    languages: Vec<String>,
    rejected: Vec<SampleError>,
}

impl Parallel {
    fn read(&mut self, paths: &[PathBuf], held: Held) -> Result<(), DataError> {
        let mut files = Vec::new();
        let mut readers = Vec::new();
        for path in paths {
            let file = open_regular(path).map_err(|error| DataError::file("read", path, error))?;
            readers.push(Lines::new(BufReader::with_capacity(BUFFER, file)));
            files.push(Spans::open(path)?);
        }
        loop {
            let mut lines = Vec::new();
            for (reader, path) in readers.iter_mut().zip(paths) {
                let line = reader.next_line();
                lines.push(line.map_err(|error| DataError::file("read", path, error))?);
            }
            let ended = lines.iter().position(Option::is_none);
            let lines: Vec<_> = lines.into_iter().flatten().collect();
            if let Some(ended) = ended {
                if !lines.is_empty() {
                    return Err(DataError::Manifest {
                        path: paths[ended].clone(),
                        reason: format!(
                            "it ends before line {}, which another of the files has: their lines do not say the same",
                            lines[0].0.line
                        ),
                    });
                }
                break;
            }
            let (spans, lines): (Vec<Span>, Vec<_>) = lines.into_iter().unzip();
            let lines = lines.into_iter().enumerate();
            let lines: Result<Vec<Vec<u8>>, (usize, String)> = lines
                .map(|(file, line)| line.map_err(|reason| (file, reason)))
                .collect();
            match lines.and_then(|lines| texts(&lines, self.languages.len())) {
                Ok(Some(texts)) => {
                    self.spans[held.of(&texts[0])].extend(spans);
                }
                Ok(None) => {}
                Err((file, reason)) => self.rejected.push(files[file].bad(spans[file], reason)),
            }
        }
        self.parts.push(files);
        Ok(())
    }

    /// What is known of the `count` texts of a sample: all say the same.
    fn told(&self, count: usize) -> Languages {
        Languages {
            tags: self.languages.clone(),
            meanings: vec![0; count],
            alignments: Vec::new(),
        }
    }

    fn at(&self, split: Split, index: usize) -> (&[Spans], &[Span]) {
        let (part, spans) = (&self.parts[self.part[split]], &self.spans[split]);
        (part, &spans[index * part.len()..(index + 1) * part.len()])
    }
}

/// The texts in lines of several files, or in the columns of one; `None` if all are empty. `languages` is how many there must be; 0: not
/// known. An error says in which of the files.
fn texts(lines: &[Vec<u8>], languages: usize) -> Result<Option<Vec<String>>, (usize, String)> {
    let lines = lines.iter().enumerate();
    let lines: Result<Vec<&str>, _> = lines
        .map(|(file, line)| std::str::from_utf8(line).map_err(|_| (file, NOT_UTF8.to_owned())))
        .collect();
    let lines = lines?;
    let files = lines.len();
    let cells: Vec<&str> = match lines[..] {
        [line] => line.split('\t').collect(),
        _ => lines,
    };
    let texts: Vec<String> = cells.iter().filter_map(|cell| spaced(cell)).collect();
    let empty = cells.iter().position(|cell| spaced(cell).is_none());
    if texts.is_empty() {
        Ok(None)
    } else if languages > 0 && cells.len() != languages {
        Err((
            0,
            format!(
                "{} columns, where there are {languages} languages",
                cells.len()
            ),
        ))
    } else if let Some(at) = empty {
        Err(if files > 1 {
            (
                at,
                "the text is empty, and another language has one".to_owned(),
            )
        } else {
            let reason = format!(
                "column {} is empty, and another language has a text",
                at + 1
            );
            (0, reason)
        })
    } else if texts.len() < 2 {
        let reason = "one column only, where two languages or more should be";
        Err((0, reason.to_owned()))
    } else {
        Ok(Some(texts))
    }
}

impl Source for Parallel {
    fn len(&self, split: Split) -> usize {
        self.spans[split].len() / self.parts[self.part[split]].len()
    }

    fn describe(&self) -> String {
        let files: Vec<&str> = self
            .parts
            .iter()
            .flatten()
            .map(|file| file.name.as_str())
            .collect();
        let test = match self.len(Split::Test) {
            0 => String::new(),
            texts => format!(", {texts} to test on"),
        };
        format!(
            "{}: {} training texts in several languages, {} held out{test}, {} unusable",
            files.join(", "),
            self.len(Split::Train),
            self.len(Split::Val),
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        let first = self.parts.iter().flatten().next();
        let name = first.map_or("", |file| file.name.as_str());
        if self.fraction == 0.0 {
            return not_drawn(name, self.unused, BESIDE_VAL)
                .into_iter()
                .collect();
        }
        let held = self.len(Split::Val);
        let of = held + self.len(Split::Train);
        vec![drawn(name, held, of, "texts", self.fraction)]
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (files, spans) = self.at(split, index);
        files[0].place(spans[0])
    }

    fn offers(&self) -> Offers {
        Offers {
            images: false,
            translations: !self.languages.is_empty(),
            ..Offers::default()
        }
    }

    fn facts(&self, _: Split) -> SplitFacts {
        SplitFacts {
            languages: !self.languages.is_empty(),
            ..SplitFacts::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let count = match self.languages.len() {
            0 => self.captions(split, index)?.len(),
            count => count,
        };
        Ok(Annotations {
            languages: self.told(count),
            ..Annotations::default()
        })
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let captions = self.captions(split, index)?;
        Ok(Sample {
            name: self.place(split, index).to_string(),
            languages: self.told(captions.len()),
            captions,
            ..Sample::default()
        })
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let (files, spans) = self.at(split, index);
        let lines: Result<Vec<_>, _> = files
            .iter()
            .zip(spans)
            .map(|(file, span)| file.line(*span))
            .collect();
        let bad = |(file, reason): (usize, String)| files[file].bad(spans[file], reason);
        texts(&lines?, self.languages.len())
            .map_err(bad)?
            .ok_or_else(|| files[0].changed(spans[0]))
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
    fn files_are_aligned_by_line() {
        let folder = folder(&[
            ("a.en", "one\ntwo\n\nthree\n"),
            ("a.de", "eins\n \n\ndrei\n"),
            ("v.tsv", "x\ty\tz\nalone\n"),
        ]);
        let data =
            "source = \"parallel\"\n[parallel]\ntrain = [\"a.en\", \"a.de\"]\nval = [\"v.tsv\"]\n";
        let source = open(&folder, data).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [["one", "eins"], ["three", "drei"]]
        );
        assert_eq!(captions(&*source, Split::Val), [["x", "y", "z"]]);
        assert_eq!(source.place(Split::Train, 1).line, 4);
        assert!(!source.has_images());
        assert_rejected(
            &*source,
            &[
                ("a.de", 2, "the text is empty"),
                ("v.tsv", 2, "one column only"),
            ],
        );
    }

    #[test]
    fn files_of_different_length_are_refused() {
        let folder = folder(&[("a.en", "one\ntwo\n"), ("a.de", "eins\n")]);
        let data = "source = \"parallel\"\n[parallel]\ntrain = [\"a.en\", \"a.de\"]\n";
        let message = message(open(&folder, data));
        assert!(
            message.contains("a.de") && message.contains("before line 2"),
            "{message}"
        );
    }

    #[test]
    fn texts_of_a_line_are_translations_of_each_other() {
        let folder = folder(&[(
            "a.tsv",
            "one\teins\nodd\nthree\tdrei\ttrois\n\tvier\nfive\tfuenf\n",
        )]);
        let data = |languages: &str| {
            format!(
                "source = \"parallel\"\n[parallel]\ntrain = [\"a.tsv\"]\nval_fraction = 0\nlanguages = {languages}\n"
            )
        };
        let source = open(&folder, &data("[\"en\", \"de\"]")).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [["one", "eins"], ["five", "fuenf"]]
        );
        assert_rejected(
            &*source,
            &[
                ("a.tsv", 2, "1 columns, where there are 2"),
                ("a.tsv", 3, "3 columns, where there are 2"),
                ("a.tsv", 4, "column 1 is empty"),
            ],
        );
        let known = source.annotations(Split::Train, 1).unwrap().languages;
        assert_eq!(known.tags, ["en", "de"]);
        assert_eq!(known.translations(0), [1]);
        assert_eq!(source.sample(Split::Train, 1).unwrap().languages, known);
        let twice = "source = \"parallel\"\n[parallel]\ntrain = [\"a.tsv\", \"a.tsv\"]\n";
        let message = message(open(&folder, twice));
        assert!(message.contains("each file once"), "{message}");
        for (languages, expected) in [
            ("[\"en\", \"german\"]", "german"),
            ("[\"en\", \"en\"]", "twice"),
            ("[\"en\"]", "two languages or more"),
        ] {
            let config: crate::DataConfig = toml::from_str(&data(languages)).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("data.parallel.languages"), "{message}");
        }
    }
}
