//! Web pairs of caption and address, with downloaded images: CC3M, CC12M, SBU.
//!
//! ```toml
//! [data]
//! source = "conceptual"
//!
//! [data.conceptual.train]
//! path = "Train_GCC-training.tsv"
//! columns = ["caption", "url"]
//! images = "cc3m"
//! image = "{shard:5}/{shard:5}{in_shard:4}.jpg"
//!
//! [data.conceptual.val]
//! path = "Validation_GCC-1.1.0-Validation.tsv"
//! images = "cc3m_val"
//! downloads = "cc3m_val/downloaded.tsv"
//! ```
//!
//! Lists are tab-separated records. `columns` gives the meaning of each column: `caption`, `url`, `image` (the image's path) or `-`
//! (not used). CC3M has `["caption", "url"]`, CC12M `["url", "caption"]`. SBU's two files have to be pasted into one (`paste urls
//! captions`). Quotes work as in CSV, so a record may span lines; empty lines are not records. `quotes = "raw"` takes quotes as
//! plain characters. A first record that holds usual column names is recognised as a header; for other names, `header` says whether
//! there is one. A `url` that is not an address makes an unusable item. Without `val`, `val_fraction` of the rows is held out.
//!
//! The image of a row, below `images`, is given in one of three ways:
//!
//! - a column `image`;
//! - `image`, a name with `{row}` (number of the record from 0, after the header), `{shard}` and `{in_shard}` (quotient and
//!   remainder of `row / per_shard`), each with a width such as `{shard:5}`. The example is how img2dataset numbers one input file
//!   with 10,000 rows per shard and `output_format = "files"`;
//! - `downloads`, a file with lines of address, tab, path.
//!
//! Many addresses are dead. Rows without an image file are therefore left out when the list is opened, and counted in the
//! description. With `missing = "error"` each of them is an unusable item instead, found when it is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::rows::{
    Layout, ListFormat, Quotes, Span, Spans, UNCLOSED, each_record, key_of,
};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_bytes, hash_path, hash_text};
use crate::settings::{not_empty, range, share};
use crate::sources::given::{Held, given, val_fraction};
use crate::sources::source::{Source, SourceConfig, SplitFacts};
use crate::sources::splits::{BESIDE_VAL, BySplit, Split, drawn, not_drawn};
use crate::sources::template::Template;
use crate::store::{self, paths};
use crate::text::spaced;

/// `[data.conceptual]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConceptualConfig {
    /// The training files.
    pub train: ConceptualPart,
    /// The held-out files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<ConceptualPart>,
    /// The files of the test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<ConceptualPart>,
    /// Share of the images that is held out if `val` is absent, by a hash of the path. Rows with the same address are one image.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

/// `[data.conceptual.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConceptualPart {
    /// The list.
    pub path: PathBuf,
    /// Meaning of its columns.
    #[serde(default = "columns")]
    pub columns: Vec<Column>,
    /// Whether its first record holds column names; `None`: it is recognised by usual names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// What quotes mean.
    #[serde(default, skip_serializing_if = "Quotes::is_default")]
    pub quotes: Quotes,
    /// Folder of the images.
    pub images: PathBuf,
    /// An image's name, with `{row}`, `{shard}`, `{in_shard}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Rows per shard in `image`.
    #[serde(default = "per_shard")]
    pub per_shard: usize,
    /// File with lines of address, tab, path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downloads: Option<PathBuf>,
    /// What happens to rows without an image.
    #[serde(default)]
    pub missing: Missing,
}

/// Meaning of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// The text.
    Caption,
    /// The image's address.
    Url,
    /// The image's path.
    Image,
    /// Not used.
    #[serde(rename = "-")]
    Unused,
}

impl Column {
    /// The meaning of a column with this name in the header.
    fn named(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "caption" | "captions" | "text" | "title" | "alt" | "alt_text" => Self::Caption,
            "url" | "image_url" | "img_url" | "photo_url" => Self::Url,
            "image" | "path" | "image_path" | "filepath" | "file_name" | "filename" => Self::Image,
            _ => return None,
        })
    }
}

/// Whether the text has a scheme and something after it.
fn is_url(text: &str) -> bool {
    text.trim().split_once("://").is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

/// What happens to rows without an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// They are left out.
    #[default]
    LeaveOut,
    /// They are unusable items.
    Error,
}

fn columns() -> Vec<Column> {
    vec![Column::Caption, Column::Url]
}

fn per_shard() -> usize {
    10_000
}

impl ConceptualPart {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "path", &self.path, "a file of tab-separated lines")?;
        given(table, "images", &self.images, "a folder of images")?;
        range(&format!("{table}.per_shard"), self.per_shard, 1, 1 << 30)?;
        if let Some(downloads) = &self.downloads {
            given(
                table,
                "downloads",
                downloads,
                "a file of tab-separated lines",
            )?;
        }
        let count = |wanted| {
            self.columns
                .iter()
                .filter(|column| **column == wanted)
                .count()
        };
        let columns = |allowed: &str| {
            let found = format!("{:?}", self.columns);
            Err(DataError::config(
                format!("{table}.columns"),
                found,
                allowed,
            ))
        };
        if count(Column::Caption) != 1 || count(Column::Url) > 1 || count(Column::Image) > 1 {
            return columns("one `caption`, at most one `url` and one `image`, `-` for others");
        }
        if self.downloads.is_some() && count(Column::Url) == 0 {
            return columns("columns with a `url`, which `downloads` needs");
        }
        let ways = usize::from(self.image.is_some())
            + usize::from(self.downloads.is_some())
            + count(Column::Image);
        if ways != 1 {
            return Err(DataError::config(
                format!("{table}.image"),
                format!("{ways} ways to find a row's image"),
                "one of `image`, `downloads` and a column `image`",
            ));
        }
        self.template(table).map(|_| ())
    }

    fn layout(&self) -> Layout {
        Layout::new(ListFormat::Tsv, self.quotes)
    }

    /// Whether the first record is a header.
    ///
    /// # Errors
    ///
    /// It names other columns than `columns`, or it cannot be told whether it is a header.
    fn is_header(&self, table: &str, cells: &[String]) -> Result<bool, DataError> {
        let found = || format!("a first record of {cells:?}");
        let named: Vec<Option<Column>> = cells.iter().map(|cell| Column::named(cell)).collect();
        let fits = cells.len() == self.columns.len();
        // Two usual names are not a caption and an address.
        let names =
            named.iter().flatten().count() > 1 || (fits && named.iter().all(Option::is_some));
        let same = |(column, named): (&Column, &Option<Column>)| {
            *column == Column::Unused || named.is_none_or(|named| named == *column)
        };
        if names
            && self.header != Some(false)
            && !(fits && self.columns.iter().zip(&named).all(same))
        {
            return Err(DataError::config(
                format!("{table}.columns"),
                format!("{:?} beside {}", self.columns, found()),
                "the columns in the order of the file",
            ));
        }
        if let Some(header) = self.header {
            return Ok(header);
        }
        // A title or a comment would be counted as a row, and all rows behind it would get the image of another.
        if !names && !fits && self.image.is_some() {
            return Err(DataError::config(
                format!("{table}.header"),
                format!(
                    "absent beside {}, which has {} columns where `columns` has {}",
                    found(),
                    cells.len(),
                    self.columns.len()
                ),
                "true where that record is none, false where it is a row, or as many `columns` as the file has",
            ));
        }
        let url = self
            .columns
            .iter()
            .position(|column| *column == Column::Url);
        let url = url.and_then(|at| cells.get(at));
        if !names && fits && url.is_some_and(|url| !is_url(url)) {
            return Err(DataError::config(
                format!("{table}.header"),
                format!("absent beside {}, whose `url` is none", found()),
                "true where that record names the columns, false where it is a row",
            ));
        }
        Ok(names)
    }

    fn template(&self, table: &str) -> Result<Option<Template>, DataError> {
        let Some(image) = &self.image else {
            return Ok(None);
        };
        not_empty(&format!("{table}.image"), image, "a name")?;
        Template::parse(image, &["row", "shard", "in_shard"])
            .map(Some)
            .map_err(|reason| {
                DataError::config(
                    format!("{table}.image"),
                    format!("{image:?}: {reason}"),
                    "a name such as `{shard:5}/{shard:5}{in_shard:4}.jpg`",
                )
            })
    }
}

impl SourceConfig for ConceptualConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        self.train.validate(&format!("{table}.train"))?;
        for (key, part) in [("val", &self.val), ("test", &self.test)] {
            if let Some(part) = part {
                part.validate(&format!("{table}.{key}"))?;
            }
        }
        share(&format!("{table}.val_fraction"), self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = Vec::new();
        let held_out = self.val.iter_mut().chain(&mut self.test);
        for part in [&mut self.train].into_iter().chain(held_out) {
            paths.push(&mut part.path);
            paths.push(&mut part.images);
            paths.extend(part.downloads.as_mut());
        }
        paths
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut source = Conceptual {
            limits: *limits,
            parts: Vec::new(),
            part: BySplit::default(),
            rows: BySplit::default(),
            fraction: match self.val {
                Some(_) => 0.0,
                None => self.val_fraction,
            },
            unused: match self.val {
                Some(_) => self.val_fraction,
                None => 0.0,
            },
            rejected: Vec::new(),
            missing: 0,
        };
        let train = "data.conceptual.train";
        source.read(train, &self.train, Held::Share(source.fraction))?;
        for (part, split) in [(&self.val, Split::Val), (&self.test, Split::Test)] {
            if let Some(part) = part {
                source.part[split] = source.parts.len();
                let table = format!("data.conceptual.{}", split.name());
                source.read(&table, part, Held::All(split))?;
            }
        }
        if source.rows.iter().all(|(_, rows)| rows.is_empty()) {
            let first = source.rejected.first();
            return Err(DataError::Manifest {
                path: self.train.path.clone(),
                reason: format!(
                    "no row can be used; of {} there is no image in {}, {} are unusable{}",
                    source.missing,
                    self.train.images.display(),
                    source.rejected.len(),
                    first.map_or(String::new(), |first| format!(", the first: {first}"))
                ),
            });
        }
        Ok(Arc::new(source))
    }
}

/// Rows with downloaded images. See the [module](self).
#[derive(Debug)]
struct Conceptual {
    limits: Limits,
    parts: Vec<Opened>,
    /// Index of the part that holds each split.
    part: BySplit<usize>,
    rows: BySplit<Vec<Row>>,
    /// Share that is held out if no files are given for it.
    fraction: f64,
    /// The share that a recipe gives beside held-out files, which changes nothing; 0 without such files.
    unused: f64,
    rejected: Vec<SampleError>,
    missing: u64,
}

/// A record and its number among the records, from 0.
#[derive(Debug, Clone, Copy)]
struct Row {
    span: Span,
    number: u32,
}

/// The files of one split.
#[derive(Debug)]
struct Opened {
    config: ConceptualPart,
    list: Spans,
    template: Option<Template>,
    downloads: Option<Downloads>,
}

/// Paths of images by address: sorted hashes of addresses, with the lines that hold them.
#[derive(Debug)]
struct Downloads {
    list: Spans,
    layout: Layout,
    lines: Vec<(u64, Span)>,
}

impl Conceptual {
    fn read(&mut self, table: &str, config: &ConceptualPart, held: Held) -> Result<(), DataError> {
        let part = Opened {
            list: Spans::open(&config.path)?,
            template: config.template(table)?,
            downloads: match &config.downloads {
                Some(path) => Some(Downloads::read(path, config.layout(), &mut self.rejected)?),
                None => None,
            },
            config: config.clone(),
        };
        // For each row, its image and the split drawn for it.
        let mut found: Vec<(u64, Row, Split)> = Vec::new();
        let mut number = 0;
        let mut first = true;
        each_record(&config.path, config.layout(), &mut |span, record| {
            if let Ok(cells) = &record {
                if is_empty(cells) {
                    return Ok(());
                }
                if std::mem::take(&mut first) && config.is_header(table, cells)? {
                    return Ok(());
                }
            }
            let row = Row { span, number };
            number += 1;
            if part.template.is_some() && record.as_ref().is_err_and(|reason| reason == UNCLOSED) {
                return Err(DataError::Manifest {
                    path: config.path.clone(),
                    reason: format!(
                        "line {}: {UNCLOSED}; how the rows after it are to be numbered is not known",
                        span.line
                    ),
                });
            }
            let used = record.map_err(ReadError::from);
            let used = used.and_then(|cells| match part.row(row, &cells)? {
                // Looking for an image costs as much as everything else together, except for dead links.
                (_, Some(path))
                    if config.missing == Missing::Error || store::may_be_file(&path) =>
                {
                    let split = held.of(&path.to_string_lossy());
                    found.push((part.picture(&cells, &path), row, split));
                    Ok(())
                }
                (_, None) if config.missing == Missing::Error => {
                    Err("its address was not downloaded".into())
                }
                _ => {
                    self.missing += 1;
                    Ok(())
                }
            });
            match used {
                Ok(()) => {}
                Err(error) if error.is_unavailable() => {
                    return Err(DataError::unread(&config.path, error));
                }
                Err(error) => self.rejected.push(part.list.bad(span, error)),
            }
            Ok(())
        })?;
        self.parts.push(part);
        // All rows of an image go to the split of the first one.
        let mut order: Vec<(u64, usize)> = found.iter().map(|row| row.0).zip(0..).collect();
        order.sort_unstable();
        for picture in order.chunk_by(|a, b| a.0 == b.0).filter(|p| p.len() > 1) {
            let split = found[picture[0].1].2;
            picture.iter().for_each(|(_, row)| found[*row].2 = split);
        }
        for (_, span, split) in found {
            self.rows[split].push(span);
        }
        Ok(())
    }

    fn at(&self, split: Split, index: usize) -> (&Opened, Row) {
        (&self.parts[self.part[split]], self.rows[split][index])
    }

    fn found(&self, split: Split, index: usize) -> Result<(String, PathBuf), SampleError> {
        let (part, row) = self.at(split, index);
        let cells = part.list.cells(row.span, part.config.layout())?;
        match part.row(row, &cells) {
            Ok((caption, Some(path))) => Ok((caption, path)),
            Ok(_) => Err(part.list.changed(row.span)),
            Err(reason) => Err(part.list.bad(row.span, reason)),
        }
    }
}

/// Whether the cells come from an empty line.
fn is_empty(cells: &[String]) -> bool {
    cells.iter().all(|cell| cell.trim().is_empty())
}

impl Opened {
    /// Identifies the image of a row: by its address if the list has addresses, else by its file.
    fn picture(&self, cells: &[String], path: &Path) -> u64 {
        let at = self.config.columns.iter().position(|c| *c == Column::Url);
        let url = at.and_then(|at| cells.get(at)).map(|url| url.trim());
        match url.filter(|url| !url.is_empty()) {
            Some(url) => hash_bytes(Stream::Picture, url.as_bytes()),
            None => hash_path(Stream::Picture, path),
        }
    }

    /// A row's caption, and the path of its image if known.
    fn row(&self, row: Row, cells: &[String]) -> Result<(String, Option<PathBuf>), ReadError> {
        let columns = &self.config.columns;
        if cells.len() != columns.len() {
            return Err(format!(
                "{} columns, but `columns` has {}",
                cells.len(),
                columns.len()
            )
            .into());
        }
        let cell = |wanted: Column| {
            let at = columns.iter().position(|column| *column == wanted);
            at.map(|at| cells[at].trim())
        };
        let caption = cell(Column::Caption)
            .and_then(spaced)
            .ok_or("empty caption")?;
        // If columns are swapped or a row has lost a cell, the address reveals it.
        match cell(Column::Url) {
            Some("") => return Err("empty address".into()),
            Some(url) if !is_url(url) => return Err(format!("`url` is none: {url:?}").into()),
            _ => {}
        }
        let name = if let Some(template) = &self.template {
            let number = u64::from(row.number);
            let per_shard = self.config.per_shard as u64;
            let values = [number, number / per_shard, number % per_shard];
            let values = values.map(|value| value.to_string());
            Some(template.fill(&[&values[0], &values[1], &values[2]]))
        } else if let Some(downloads) = &self.downloads {
            let found = downloads.find(cell(Column::Url).ok_or("empty address")?);
            found.map_err(|error| ReadError::unavailable(error.reason))?
        } else {
            let image = cell(Column::Image).filter(|image| !image.is_empty());
            Some(image.ok_or("empty path")?.to_owned())
        };
        let path = name.map(|name| paths::resolve(&self.config.images, &name));
        Ok((caption, path.transpose()?))
    }
}

impl Downloads {
    fn read(
        path: &Path,
        layout: Layout,
        rejected: &mut Vec<SampleError>,
    ) -> Result<Self, DataError> {
        let list = Spans::open(path)?;
        let mut lines = Vec::new();
        each_record(path, layout, &mut |span, record| {
            match record.and_then(|cells| pair(&cells)) {
                Ok(Some((url, _))) => lines.push((key_of(url), span)),
                Ok(None) => {}
                Err(reason) => rejected.push(list.bad(span, reason)),
            }
            Ok(())
        })?;
        lines.sort_unstable_by_key(|(key, span)| (*key, span.line));
        Ok(Self {
            list,
            layout,
            lines,
        })
    }

    /// The path for an address.
    ///
    /// # Errors
    ///
    /// The list could not be read now, or has changed.
    fn find(&self, url: &str) -> Result<Option<String>, SampleError> {
        let key = key_of(url);
        let first = self.lines.partition_point(|(other, _)| *other < key);
        let same = self.lines[first..]
            .iter()
            .take_while(|(other, _)| *other == key);
        for (_, span) in same {
            let cells = self.list.cells(*span, self.layout)?;
            // They share a hash, so the addresses themselves are compared.
            if let Ok(Some((found, path))) = pair(&cells)
                && found == url
            {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// An address and a path; `None` for an empty line.
fn pair(cells: &[String]) -> Result<Option<(String, String)>, String> {
    if is_empty(cells) {
        return Ok(None);
    }
    let [url, path, ..] = cells else {
        return Err("no tab between address and path".to_owned());
    };
    Ok(Some((url.trim().to_owned(), path.trim().to_owned())))
}

impl Source for Conceptual {
    fn len(&self, split: Split) -> usize {
        self.rows[split].len()
    }

    fn describe(&self) -> String {
        let files: Vec<&str> = self
            .parts
            .iter()
            .map(|part| part.list.name.as_str())
            .collect();
        let test = match self.len(Split::Test) {
            0 => String::new(),
            pairs => format!(", {pairs} to test on"),
        };
        format!(
            "{}: {} training pairs, {} held out{test}, {} rows left out because their image was not downloaded, {} unusable",
            files.join(", "),
            self.len(Split::Train),
            self.len(Split::Val),
            self.missing,
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let name = self.parts.first().map_or("", |part| &*part.list.name);
        if self.fraction > 0.0 {
            let held = self.len(Split::Val);
            let of = held + self.len(Split::Train);
            notes.push(drawn(name, held, of, "rows", self.fraction));
        }
        notes.extend(not_drawn(name, self.unused, BESIDE_VAL));
        notes
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let (part, row) = self.at(split, index);
        let cells = SampleError::known(part.list.cells(row.span, part.config.layout()))?;
        let found = SampleError::known(self.found(split, index))?;
        Ok(match (cells, found) {
            (Some(cells), Some((_, path))) => part.picture(&cells, &path),
            _ => hash_text(Stream::Picture, &part.list.place(row.span).to_string()),
        })
    }

    fn facts(&self, _split: Split) -> SplitFacts {
        SplitFacts {
            repeats_pictures: true,
            ..SplitFacts::default()
        }
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (part, row) = self.at(split, index);
        part.list.place(row.span)
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        self.found(split, index).map(|(caption, _)| vec![caption])
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let (_, path) = self.found(split, index)?;
        let (part, row) = self.at(split, index);
        images::read(&path, self.limits)
            .map(Some)
            .map_err(|reason| part.list.bad(row.span, reason))
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let (_, path) = self.found(split, index)?;
        let (part, row) = self.at(split, index);
        images::read_file(&path, self.limits.max_pixels)
            .map(Some)
            .map_err(|reason| part.list.bad(row.span, reason))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let Some((_, path)) = SampleError::known(self.found(split, index))? else {
            return Ok(None);
        };
        let folders = self.parts.iter().map(|part| part.config.images.as_path());
        Ok(paths::name_within(&path, folders))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        Ok(SampleError::known(self.found(split, index))?.map(|(_, path)| path))
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::rows::LONGEST_ROW;
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};

    const DATA: &str = r#"
        source = "conceptual"
        [conceptual]
        val_fraction = 0.0
        [conceptual.train]
        path = "list.tsv"
        images = "i"
        "#;

    #[test]
    fn rows_are_numbered_as_img2dataset_does() {
        let list = "caption\turl\na  cat\thttp://a\n dog\thttp://b\n\thttp://c\nno address\nbird\thttp://d\r\nfish\thttp://e\n";
        let folder = folder(&[
            ("list.tsv", list),
            ("i/00000/000000000.jpg", "2x2"),
            ("i/00002/000020000.jpg", "3x3"),
            ("i/00002/000020001.jpg", "4x4"),
        ]);
        let data = format!(
            "{DATA}header = true\nper_shard = 2\nimage = \"{{shard:5}}/{{shard:5}}{{in_shard:4}}.jpg\"\n"
        );
        let source = open(&folder, &data).unwrap();
        // Images of rows 0, 4 and 5 exist, that of row 1 does not; rows 2 and 3 are not pairs. The header is declared or
        // recognised.
        assert_eq!(
            captions(&*source, Split::Train),
            [["a cat"], ["bird"], ["fish"]]
        );
        for (index, side) in [2, 3, 4].into_iter().enumerate() {
            let picture = source.image(Split::Train, index).unwrap().unwrap();
            assert_eq!(picture.width(), side);
        }
        assert_eq!(source.place(Split::Train, 1).line, 6);
        assert!(
            source.describe().contains("1 rows left out"),
            "{}",
            source.describe()
        );
        assert_rejected(
            &*source,
            &[
                ("list.tsv", 4, "empty caption"),
                ("list.tsv", 5, "1 columns, but"),
            ],
        );
        let strict = open(&folder, &format!("{data}missing = \"error\"\n")).unwrap();
        assert_eq!(strict.len(Split::Train), 4);
        let missing = strict.image(Split::Train, 1).unwrap_err();
        assert!(missing.reason.contains("000000001.jpg"), "{missing}");
    }

    #[test]
    fn the_record_is_the_identity() {
        // Quoted line breaks, separators and quotes, and empty lines. img2dataset numbers records, not lines.
        let records = "\"a \"\"quoted\"\" sign\"\thttp://e.org/0.jpg\n\n\"two\n\nlines\"\thttp://e.org/1.jpg\r\n\
            \"a\ttab\"\thttp://e.org/2.jpg\n \t\nplain words\thttp://e.org/3.jpg";
        let expected = [
            ["a \"quoted\" sign"],
            ["two lines"],
            ["a tab"],
            ["plain words"],
        ];
        for header in [
            "",
            "caption\turl\n",
            "\u{feff}Text\tIMAGE_URL\r\n\n",
            "\"title\"\turl\n",
        ] {
            let list = format!("{header}{records}");
            let folder = folder(&[
                ("list.tsv", &list),
                ("i/0.jpg", "1x1"),
                ("i/1.jpg", "2x2"),
                ("i/2.jpg", "3x3"),
                ("i/3.jpg", "4x4"),
            ]);
            let source = open(&folder, &format!("{DATA}image = \"{{row}}.jpg\"\n")).unwrap();
            assert_eq!(captions(&*source, Split::Train), expected, "{header:?}");
            for index in 0..4 {
                let picture = source.image(Split::Train, index).unwrap().unwrap();
                assert_eq!(picture.width(), index as u32 + 1, "{header:?}");
            }
            assert_rejected(&*source, &[]);
        }
    }

    #[test]
    fn what_may_shift_pictures_is_refused() {
        for (list, more, part) in [
            // A header that contradicts `columns`.
            (
                "url\tcaption\nhttp://a\tcat\n",
                "",
                "`data.conceptual.train.columns`",
            ),
            (
                "url\tcaption\nhttp://a\tcat\n",
                "header = true\n",
                "`data.conceptual.train.columns`",
            ),
            (
                "id\tcaption\turl\n1\tcat\thttp://a\n",
                "",
                "`data.conceptual.train.columns`",
            ),
            // A first record that might be a header.
            (
                "words\twhere\ncat\thttp://a\n",
                "",
                "`data.conceptual.train.header`",
            ),
            ("http://a\tcat\n", "", "`data.conceptual.train.header`"),
            // A comment, which would be counted as row 0.
            (
                "# of the web\ncat\thttp://a\n",
                "",
                "has 1 columns where `columns` has 2",
            ),
            // Numbers after an open quote.
            (
                "cat\thttp://a\n\"dog\thttp://b\nbird\thttp://c\n",
                "",
                "a quote is never closed",
            ),
        ] {
            let folder = folder(&[("list.tsv", list), ("i/0.jpg", "1x1")]);
            let data = format!("{DATA}image = \"{{row}}.jpg\"\n{more}");
            let message = message(open(&folder, &data));
            assert!(message.contains(part), "{list}: {message}");
        }
        let list = "words\twhere\n\"dog\thttp://b\ncat\tnone\nbird\thttp://c\nfish\t\n";
        let folder = folder(&[("list.tsv", list), ("i/1.jpg", "2x2"), ("i/2.jpg", "3x3")]);
        let data = format!("{DATA}image = \"{{row}}.jpg\"\nquotes = \"raw\"\n");
        let source = open(&folder, &format!("{data}header = true\n")).unwrap();
        assert_eq!(captions(&*source, Split::Train), [["bird"]]);
        assert_eq!(source.image(Split::Train, 0).unwrap().unwrap().width(), 3);
        assert_rejected(
            &*source,
            &[
                ("list.tsv", 3, "`url` is none: \"none\""),
                ("list.tsv", 5, "empty address"),
            ],
        );
        // If it is declared a row, it is one: a bad one.
        let source = open(&folder, &format!("{data}header = false\n")).unwrap();
        assert_eq!(captions(&*source, Split::Train), [["\"dog"]]);
        assert_eq!(source.rejected()[0].place.line, 1);
    }

    #[test]
    fn addresses_are_looked_up() {
        let folder = folder(&[
            ("list.tsv", "http://b\tdog\nhttp://a\tcat\nhttp://x\tgone\n"),
            ("d.tsv", "http://a\tone.jpg\n\nno tab\nhttp://b\ttwo.jpg\n"),
            ("i/one.jpg", "2x2"),
            ("i/two.jpg", "3x3"),
            ("held.tsv", "-\tunused\tbird\ti\\one.jpg\n"),
        ]);
        let data = format!(
            "{DATA}columns = [\"url\", \"caption\"]\ndownloads = \"d.tsv\"\n\
             [conceptual.val]\npath = \"held.tsv\"\nimages = \"\"\ncolumns = [\"-\", \"-\", \"caption\", \"image\"]"
        );
        // Even if the second list lies beside the images, a folder must be given.
        let message = message(open(&folder, &data));
        assert!(
            message.contains("`data.conceptual.val.images`"),
            "{message}"
        );
        let source = open(&folder, &data.replace("images = \"\"", "images = \".\"")).unwrap();
        assert_eq!(captions(&*source, Split::Train), [["dog"], ["cat"]]);
        assert_eq!(captions(&*source, Split::Val), [["bird"]]);
        assert_eq!(source.image(Split::Train, 0).unwrap().unwrap().width(), 3);
        assert_eq!(source.image(Split::Val, 0).unwrap().unwrap().width(), 2);
        assert_eq!(source.image_bytes(Split::Val, 0).unwrap().unwrap().1, "png");
        assert_rejected(&*source, &[("d.tsv", 3, "no tab")]);
    }

    #[test]
    fn one_way_to_find_a_picture_is_asked_for() {
        let folder = folder(&[("list.tsv", "cat\thttp://a\n"), ("d.tsv", "")]);
        for (more, key) in [
            ("", "image"),
            ("image = \"{row}\"\ndownloads = \"d.tsv\"", "image"),
            ("image = \"{index}\"", "image"),
            ("image = \"{row}\"\ncolumns = [\"url\"]", "columns"),
            ("columns = [\"caption\"]\ndownloads = \"d.tsv\"", "columns"),
            ("image = \"{row}\"\nper_shard = 0", "per_shard"),
        ] {
            let message = message(open(&folder, &format!("{DATA}{more}")));
            let key = format!("`data.conceptual.train.{key}`");
            assert!(message.contains(&key), "{more}: {message}");
        }
        let message = message(open(&folder, &format!("{DATA}image = \"{{row}}.jpg\"")));
        assert!(message.contains("of 1 there is no image"), "{message}");
    }

    #[test]
    fn an_endless_line_costs_itself_only() {
        let list = format!("{}\nlast\tx.png\n", "x".repeat(3 * LONGEST_ROW));
        let folder = folder(&[("list.tsv", &list), ("i/x.png", "1x1")]);
        let source = open(
            &folder,
            &format!("{DATA}columns = [\"caption\", \"image\"]"),
        );
        let source = source.unwrap();
        assert_eq!(captions(&*source, Split::Train), [["last"]]);
        assert_rejected(&*source, &[("list.tsv", 1, "longer than")]);
    }
}
