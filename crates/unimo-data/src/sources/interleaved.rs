//! Stories in files: images and sentences in order, one story per line (JSON lines).
//!
//! ```toml
//! [data]
//! source = "interleaved"
//!
//! [data.interleaved]
//! train = ["train.jsonl"]
//! val = ["val.jsonl"]
//! images = "images"                # absent: the folder of each file
//! most = 8
//! ```
//!
//! A line is `{"slices": [{"image": "1.jpg"}, {"text": "a dog"}, {"image": "2.jpg"}, {"text": "it runs"}]}`. Held-out stories may say which story they
//! tell and how they change it, `"story": 7, "change": "order"`, so that a model can be asked to find one among those that differ: the changes are
//! those of [`Change`], and each `"retold"` telling looks for the one whose change is `"none"`.
//!
//! A line is set aside, with its number and the reason, if it is no such object, has fewer than two slices or more than `most`, no image or no text, or
//! an unknown change; a story with an image that cannot be read, when it is read. Other keys than `slices`, `story` and `change` are ignored. Without `val`,
//! `val_fraction` of the stories is held out, by a hash of the slices. As a pair of image and caption, a story is its first image with the text
//! after it. Only a line's location stays in memory.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::encoding::BUFFER;
use crate::formats::rows::{Lines, Span, Spans, object, object_distinct};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_path, hash_text};
use crate::settings::range;
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::source::{Annotations, Offers, Sample, Source, SourceConfig, TextsOf};
use crate::sources::splits::{BySplit, Split, drawn};
use crate::sources::telling::{Change, StorySlice, Telling};
use crate::store::{open_regular, paths};
use crate::text::spaced;

/// `[data.interleaved]`: stories in JSON lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterleavedFiles {
    /// Files to train on.
    pub train: Vec<PathBuf>,
    /// Held-out files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// Files of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// The folder of the images; absent: that of the file that names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
    /// Slices of a story at most; a line with more is unusable.
    #[serde(default = "most")]
    pub most: usize,
    /// Share of the stories that is held out if `val` is absent.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

fn most() -> usize {
    8
}

impl SourceConfig for InterleavedFiles {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        range(&format!("{table}.most"), self.most, 2, 1024)?;
        let held_out = [("val", &*self.val), ("test", &*self.test)];
        train_and_held(table, &self.train, held_out, self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let files = self
            .train
            .iter_mut()
            .chain(&mut self.val)
            .chain(&mut self.test);
        files.chain(&mut self.images).collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut source = Interleaved {
            limits: *limits,
            most: self.most,
            files: Vec::new(),
            rows: BySplit::default(),
            fraction: if self.val.is_empty() {
                self.val_fraction
            } else {
                0.0
            },
            rejected: Vec::new(),
        };
        let train = Held::beside(&self.val, self.val_fraction);
        for (files, held) in [
            (&self.train, train),
            (&self.val, Held::All(Split::Val)),
            (&self.test, Held::All(Split::Test)),
        ] {
            for path in files {
                source.read(path, self.images.as_deref(), held)?;
            }
        }
        if source.rows.iter().all(|(_, rows)| rows.is_empty()) {
            let first = source.rejected.first();
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: first.map_or("no story in it".to_owned(), |first| {
                    format!("no line can be used, the first: {first}")
                }),
            });
        }
        Ok(Arc::new(source))
    }
}

/// Stories of files. See the [module](self).
#[derive(Debug)]
struct Interleaved {
    limits: Limits,
    most: usize,
    files: Vec<File>,
    /// The file and the line of each sample.
    rows: BySplit<Vec<(u16, Span)>>,
    fraction: f64,
    rejected: Vec<SampleError>,
}

#[derive(Debug)]
struct File {
    lines: Spans,
    /// The folder of its images.
    folder: PathBuf,
}

/// A line.
struct Row {
    slices: Vec<Named>,
    telling: Option<Telling>,
}

/// A slice as a line names it.
enum Named {
    Image(PathBuf),
    Text(String),
}

/// The story of a line.
fn row(line: &Map<String, Value>, folder: &Path, most: usize) -> Result<Row, String> {
    let Some(Value::Array(slices)) = line.get("slices") else {
        return Err("no list `slices` of objects with `image` or `text`".to_owned());
    };
    if !(2..=most).contains(&slices.len()) {
        return Err(format!(
            "a story of {} slices, allowed: 2 to {most} (data.interleaved.most)",
            slices.len()
        ));
    }
    let one = |(at, slice): (usize, &Value)| {
        let bad = || {
            format!(
                "slice {}: {slice}, allowed: {{\"image\": PATH}} or {{\"text\": WORDS}}",
                at + 1
            )
        };
        let entries = slice.as_object().filter(|entries| entries.len() == 1);
        let (key, value) = entries
            .and_then(|entries| entries.iter().next())
            .ok_or_else(bad)?;
        let value = value.as_str().and_then(spaced).ok_or_else(bad)?;
        match key.as_str() {
            "image" => {
                let path =
                    paths::resolve(folder, &value).map_err(|e| format!("slice {}: {e}", at + 1))?;
                Ok(Named::Image(path))
            }
            "text" => Ok(Named::Text(value)),
            _ => Err(bad()),
        }
    };
    let slices: Result<Vec<Named>, String> = slices.iter().enumerate().map(one).collect();
    let slices = slices?;
    let any = |image: bool| {
        slices
            .iter()
            .any(|slice| matches!(slice, Named::Image(_)) == image)
    };
    if !any(true) || !any(false) {
        let lacks = if any(true) { "text" } else { "image" };
        return Err(format!(
            "a story without {lacks}, where one or more is needed"
        ));
    }
    let telling = match (line.get("story"), line.get("change")) {
        (None | Some(Value::Null), None | Some(Value::Null)) => None,
        (story, change) => {
            let story = story.and_then(Value::as_u64);
            let named = change.and_then(Value::as_str);
            let found = Change::ALL
                .into_iter()
                .find(|known| named == Some(known.name()));
            let (Some(story), Some(change)) = (story, found) else {
                let names = Change::ALL.map(Change::name);
                return Err(format!(
                    "story {:?} and change {:?}, allowed: both or none, a whole number and one of {}",
                    line.get("story"),
                    line.get("change"),
                    names.join(", ")
                ));
            };
            Some(Telling { story, change })
        }
    };
    Ok(Row { slices, telling })
}

impl Interleaved {
    fn read(&mut self, path: &Path, images: Option<&Path>, held: Held) -> Result<(), DataError> {
        let io = |error| DataError::file("read", path, error);
        let mut lines = Lines::new(BufReader::with_capacity(
            BUFFER,
            open_regular(path).map_err(io)?,
        ));
        let own = path.parent().unwrap_or(Path::new("")).to_owned();
        let file = File {
            lines: Spans::open(path)?,
            folder: images.map_or(own, Path::to_owned),
        };
        let number = self.files.len() as u16;
        while let Some((span, line)) = lines.next_line().map_err(io)? {
            let read = line.and_then(|bytes| object_distinct(&bytes));
            let read = read.and_then(|line| {
                let Some(line) = line else { return Ok(None) };
                row(&line, &file.folder, self.most)?;
                Ok(Some(line))
            });
            match read {
                Ok(None) => {}
                Ok(Some(line)) => {
                    let slices = line.get("slices").map(Value::to_string).unwrap_or_default();
                    self.rows[held.of(&slices)].push((number, span));
                }
                Err(reason) => self.rejected.push(file.lines.bad(span, reason)),
            }
        }
        self.files.push(file);
        Ok(())
    }

    fn at(&self, split: Split, index: usize) -> (&File, Span) {
        let (file, span) = self.rows[split][index];
        (&self.files[usize::from(file)], span)
    }

    fn row(&self, split: Split, index: usize) -> Result<Row, SampleError> {
        let (file, span) = self.at(split, index);
        let line = object(&file.lines.line(span)?);
        let line = line.map_err(|reason| file.lines.bad(span, reason))?;
        let line = line.ok_or_else(|| file.lines.changed(span))?;
        row(&line, &file.folder, self.most).map_err(|reason| file.lines.bad(span, reason))
    }

    fn image_of(&self, split: Split, index: usize, path: &Path) -> Result<RgbImage, SampleError> {
        images::read(path, self.limits)
            .map_err(|error: ReadError| SampleError::new(self.place(split, index), error))
    }
}

/// The number of a story's first image, and its path.
fn first_image(slices: &[Named]) -> Option<(usize, &Path)> {
    slices
        .iter()
        .enumerate()
        .find_map(|(at, slice)| match slice {
            Named::Image(path) => Some((at, path.as_path())),
            Named::Text(_) => None,
        })
}

/// The text after the first image, or else the first one.
fn caption(slices: &[Named]) -> Option<String> {
    let text = |slice: &Named| match slice {
        Named::Text(text) => Some(text.clone()),
        Named::Image(_) => None,
    };
    let (at, _) = first_image(slices)?;
    let after = slices[at..].iter().find_map(text);
    after.or_else(|| slices.iter().find_map(text))
}

impl Source for Interleaved {
    fn len(&self, split: Split) -> usize {
        self.rows[split].len()
    }

    fn describe(&self) -> String {
        let files: Vec<&str> = self
            .files
            .iter()
            .map(|file| file.lines.name.as_str())
            .collect();
        let test = match self.len(Split::Test) {
            0 => String::new(),
            stories => format!(", {stories} to test on"),
        };
        format!(
            "{}: {} training stories, {} held out{test}, of {} slices at most, {} unusable",
            files.join(", "),
            self.len(Split::Train),
            self.len(Split::Val),
            self.most,
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        if self.fraction == 0.0 {
            return Vec::new();
        }
        let held = self.len(Split::Val);
        let of = held + self.len(Split::Train);
        let name = self
            .files
            .first()
            .map_or("", |file| file.lines.name.as_str());
        vec![drawn(name, held, of, "stories", self.fraction)]
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (file, span) = self.at(split, index);
        file.lines.place(span)
    }

    fn offers(&self) -> Offers {
        Offers {
            slices: self.most,
            ..Offers::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        Ok(Annotations {
            telling: self.row(split, index)?.telling,
            ..Annotations::default()
        })
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(caption(&self.row(split, index)?.slices)
            .into_iter()
            .collect())
    }

    /// Every text of every story.
    fn texts(&self, split: Split) -> TextsOf<'_> {
        Box::new((0..self.len(split)).flat_map(move |index| {
            let (slices, error) = match self.row(split, index) {
                Ok(row) => (row.slices, None),
                Err(error) => (Vec::new(), Some(error).filter(SampleError::is_unavailable)),
            };
            let texts = slices.into_iter().filter_map(|slice| match slice {
                Named::Text(text) => Some(Ok(text)),
                Named::Image(_) => None,
            });
            texts.chain(error.map(Err))
        }))
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        Ok(match self.image_path(split, index)? {
            Some(path) => hash_path(Stream::Picture, &path),
            None => hash_text(Stream::Picture, &self.place(split, index).to_string()),
        })
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        let row = SampleError::known(self.row(split, index))?;
        Ok(row.and_then(|row| first_image(&row.slices).map(|(_, path)| path.to_owned())))
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let row = self.row(split, index)?;
        let first = first_image(&row.slices);
        first
            .map(|(_, path)| self.image_of(split, index, path))
            .transpose()
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let row = self.row(split, index)?;
        let caption = caption(&row.slices);
        let first = first_image(&row.slices).map(|(at, _)| at);
        let slices: Result<Vec<StorySlice>, SampleError> = row
            .slices
            .into_iter()
            .map(|slice| {
                Ok(match slice {
                    Named::Text(text) => StorySlice::Text(text),
                    Named::Image(path) => StorySlice::Image(self.image_of(split, index, &path)?),
                })
            })
            .collect();
        let slices = slices?;
        let image = first.and_then(|at| match &slices[at] {
            StorySlice::Image(image) => Some(image.clone()),
            StorySlice::Text(_) => None,
        });
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image,
            captions: caption.into_iter().collect(),
            slices,
            ..Sample::default()
        })
    }

    /// All slices, in order.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let (file, span) = self.at(split, index);
        if let Some(line) = SampleError::known(file.lines.line(span))? {
            give(&line);
        }
        Ok(())
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::{assert_rejected, folder, message, open};

    const DATA: &str = "source = \"interleaved\"\n[interleaved]\ntrain = [\"t.jsonl\"]\nval = [\"v.jsonl\"]\nimages = \"i\"\nmost = 4\n";

    #[test]
    fn slices_are_read_in_order() {
        let story = r#"{"slices": [{"text": "so it  begins"}, {"image": "a.png"}, {"text": "then"}, {"image": "b.png"}], "id": 3}"#;
        let held =
            r#"{"slices": [{"image": "b.png"}, {"text": "x"}], "story": 7, "change": "order"}"#;
        let folder = folder(&[
            ("t.jsonl", &format!("{story}\n\n")),
            ("v.jsonl", held),
            ("i/a.png", "4x3"),
            ("i/b.png", "5x2"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!((source.len(Split::Train), source.len(Split::Val)), (1, 1));
        let sample = source.sample(Split::Train, 0).unwrap();
        let told: Vec<String> = sample
            .slices
            .iter()
            .map(|slice| match slice {
                StorySlice::Image(image) => format!("{}", image.width()),
                StorySlice::Text(text) => text.clone(),
            })
            .collect();
        assert_eq!(told, ["so it begins", "4", "then", "5"]);
        assert_eq!(sample.captions, ["then"]);
        assert_eq!(sample.image, source.image(Split::Train, 0).unwrap());
        let texts: Result<Vec<_>, _> = source.texts(Split::Train).collect();
        assert_eq!(texts.unwrap(), ["so it begins", "then"]);
        let telling = source.annotations(Split::Val, 0).unwrap().telling;
        let expected = Telling {
            story: 7,
            change: Change::Order,
        };
        assert_eq!(telling, Some(expected));
        assert_eq!(source.offers().slices, 4);
    }

    #[test]
    fn lines_that_are_no_stories_are_listed_with_their_reason() {
        let lines = [
            r#"{"slices": [{"image": "a.png"}, {"text": "good"}]}"#,
            r#"{"slices": [{"image": "a.png"}]}"#,
            r#"{"slices": [{"image": "a.png"}, {"text": "1"}, {"text": "2"}, {"text": "3"}, {"text": "4"}]}"#,
            r#"{"slices": [{"text": "1"}, {"text": "2"}]}"#,
            r#"{"slices": [{"image": "a.png"}, {"image": "a.png"}]}"#,
            r#"{"slices": [{"image": "a.png"}, {"words": "2"}]}"#,
            r#"{"slices": [{"image": "a.png"}, {"text": "  "}]}"#,
            r#"{"caption": "no story"}"#,
            "not JSON",
            r#"{"slices": [{"image": "a.png"}, {"text": "x"}], "story": 1, "change": "upside down"}"#,
            r#"{"slices": [{"image": "a.png"}, {"text": "x"}], "story": 1}"#,
        ];
        let folder = folder(&[
            ("t.jsonl", &lines.join("\n")),
            ("v.jsonl", lines[0]),
            ("i/a.png", "4x3"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!(source.len(Split::Train), 1);
        assert_rejected(
            &*source,
            &[
                ("t.jsonl", 2, "a story of 1 slices, allowed: 2 to 4"),
                ("t.jsonl", 3, "a story of 5 slices, allowed: 2 to 4"),
                ("t.jsonl", 4, "without image"),
                ("t.jsonl", 5, "without text"),
                ("t.jsonl", 6, "slice 2"),
                ("t.jsonl", 7, "slice 2"),
                ("t.jsonl", 8, "no list `slices`"),
                ("t.jsonl", 9, ""),
                ("t.jsonl", 10, "retold"),
                ("t.jsonl", 11, "both or none"),
            ],
        );
    }

    #[test]
    fn a_missing_image_is_told_with_its_line_when_it_is_read() {
        let good = r#"{"slices": [{"image": "a.png"}, {"text": "x"}]}"#;
        let lost = r#"{"slices": [{"image": "lost.png"}, {"text": "x"}]}"#;
        let folder = folder(&[
            ("t.jsonl", &format!("{good}\n{lost}")),
            ("v.jsonl", good),
            ("i/a.png", "4x3"),
        ]);
        let source = open(&folder, DATA).unwrap();
        let error = source.sample(Split::Train, 1).unwrap_err().to_string();
        assert!(
            error.contains("t.jsonl:2") && error.contains("lost.png"),
            "{error}"
        );
    }

    #[test]
    fn files_without_a_story_are_an_error() {
        let folder = folder(&[("t.jsonl", "{}\n"), ("v.jsonl", "")]);
        let message = message(open(&folder, DATA));
        assert!(
            message.contains("t.jsonl") && message.contains("slices"),
            "{message}"
        );
    }
}
