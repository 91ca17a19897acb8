//! Rows of Parquet files as samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::ParquetConfig;
use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::parquet::columns::picture;
use crate::formats::parquet::decoded::Decoded;
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_text, unit};
use crate::sources::folders::files_in;
use crate::sources::given::expand;
use crate::sources::left_out::{LeftOut, of_split};
use crate::sources::parquet::pictures::Draw;
use crate::sources::parquet::table::{Said, Table, read_file};
use crate::sources::source::{Offers, Sample, Source, SplitFacts, picture_of_bytes};
use crate::sources::splits::{BySplit, Split, drawn, not_drawn};
use crate::store::Storage;
use crate::threads::parallel;

/// Rows of Parquet files. See the [module](super).
pub struct Rows {
    files: Vec<Table>,
    parts: BySplit<Part>,
    /// Number of rows whose split is drawn, and how many of them are held out.
    drawn: (usize, usize),
    val_fraction: f64,
    /// How rows of the same image were found.
    told_by: String,
    left_out: LeftOut,
    /// Rows of no split.
    rows_left_out: LeftOut,
    /// A line about a column that names splits and is not read.
    unread_splits: Option<String>,
    rejected: Vec<SampleError>,
    images: bool,
    image_column: String,
    limits: Limits,
    decoded: Decoded,
}

#[derive(Default)]
struct Part {
    rows: Vec<Row>,
    /// For each run of rows, its file, its row group and its first row.
    runs: Vec<(usize, usize, usize)>,
}

pub(super) struct Row {
    /// Number in its file, from 0.
    number: u64,
    captions: Vec<String>,
    /// Which image it shows, if that was determined.
    picture: Option<u64>,
}

impl Part {
    fn push(&mut self, file: usize, group: usize, row: Row) {
        let run = self.runs.last();
        if run.is_none_or(|(f, g, _)| (*f, *g) != (file, group)) {
            self.runs.push((file, group, self.rows.len()));
        }
        self.rows.push(row);
    }

    /// File and row group of a row.
    fn group(&self, index: usize) -> (usize, usize) {
        let run = self.runs.partition_point(|(_, _, first)| *first <= index);
        let (file, group, _) = self.runs[run - 1];
        (file, group)
    }
}

impl Rows {
    /// Opens the files and reads their texts.
    ///
    /// # Errors
    ///
    /// A file cannot be read or lacks a column, or no row can be used.
    pub fn open(config: &ParquetConfig, limits: &Limits) -> Result<Self, DataError> {
        let mut left_out = LeftOut::new("files");
        let files = list(config, &mut left_out)?;
        let storage = Storage::new(&config.remote);
        let opened = parallel(0..files.len(), |at| {
            let (path, _) = &files[at];
            let read = storage.open(path);
            let read = read.and_then(|object| read_file(object, config));
            read.map_err(|error| DataError::unread(path, error))
        });
        // Where a column names the split of each row, none is drawn.
        let told = config.split_column.is_some();
        let held_out = told || files.iter().any(|(_, split)| *split == Split::Val);
        let mut rows = Self {
            files: Vec::new(),
            parts: BySplit::default(),
            drawn: (0, 0),
            val_fraction: config.val_fraction,
            told_by: String::new(),
            left_out,
            rows_left_out: LeftOut::new("rows"),
            unread_splits: None,
            rejected: Vec::new(),
            images: config.images,
            image_column: config.image_column.clone(),
            limits: *limits,
            decoded: Decoded::new(config.cache_mb << 20),
        };
        let mut tables = Vec::new();
        for opened in opened {
            tables.push(opened?);
        }
        if !told {
            rows.unread_splits = unread_splits(&tables);
        }
        let names = config.splits();
        // Any file may hold rows that are held out.
        let splits = files
            .iter()
            .map(|(_, split)| if told { Split::Val } else { *split });
        let splits: Vec<Split> = splits.collect();
        let mut draw = Draw::new(config, !held_out, &tables, &splits);
        rows.told_by = draw.by.name();
        for ((table, texts), (path, split)) in tables.into_iter().zip(&files) {
            let base = path.file_name().unwrap_or_default().to_string_lossy();
            let by = match *split {
                Split::Train if !told => &draw.by,
                Split::Train | Split::Val | Split::Test => &draw.held,
            };
            let pictures = by.pictures(&table, texts.len());
            let pictures = pictures.map_err(|error| DataError::unread(path, error))?;
            for (
                number,
                Said {
                    captions,
                    split: own,
                },
            ) in (0u64..).zip(texts)
            {
                let own = own.filter(|name| !name.trim().is_empty());
                let split = match own.as_deref().map(|name| (names.of(name), name)) {
                    None => *split,
                    Some((Some(own), _)) => own,
                    Some((None, name)) => {
                        rows.rows_left_out.add(of_split(name));
                        continue;
                    }
                };
                if captions.is_empty() {
                    rows.rejected.push(SampleError::new(
                        Place {
                            file: table.name.clone(),
                            line: number + 1,
                        },
                        format!("no text in {}", config.text_columns.join(", ")),
                    ));
                    continue;
                }
                let group = table.starts.partition_point(|start| *start <= number) - 1;
                let mut split = split;
                let picture = pictures.get(number as usize).copied().flatten();
                if split == Split::Train && !held_out {
                    let own = || hash_text(Stream::Split, &format!("{base}:{number}"));
                    // The first row of an image is drawn by itself; the others follow it.
                    let first = match picture {
                        Some(picture) => *draw.first.entry(picture).or_insert_with(own),
                        None => own(),
                    };
                    rows.drawn.0 += 1;
                    if unit(first) < config.val_fraction {
                        split = Split::Val;
                        rows.drawn.1 += 1;
                    }
                }
                rows.parts[split].push(
                    rows.files.len(),
                    group,
                    Row {
                        number,
                        captions,
                        picture,
                    },
                );
            }
            rows.files.push(table);
        }
        if rows.parts.iter().all(|(_, part)| part.rows.is_empty()) {
            return Err(DataError::Manifest {
                path: files
                    .first()
                    .map(|(path, _)| path.clone())
                    .unwrap_or_default(),
                reason: match rows.rejected.first() {
                    Some(first) => format!("no row can be used; first: {first}"),
                    None if rows.rows_left_out.total() > 0 => {
                        format!("no row can be used: {}", rows.rows_left_out)
                    }
                    None => "no rows".to_owned(),
                },
            });
        }
        Ok(rows)
    }

    fn part(&self, split: Split) -> &Part {
        &self.parts[split]
    }

    /// An image and its identifier. The content identifies it, since paths in Parquet files may be anything.
    fn picture_of(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(RgbImage, u64)>, SampleError> {
        let Some(bytes) = self.bytes(split, index)? else {
            return Ok(None);
        };
        images::decode(&bytes, self.limits)
            .map(|picture| Some((picture, picture_of_bytes(&bytes))))
            .map_err(|reason| {
                let reason = format!("column `{}`: {reason}", self.image_column);
                SampleError::new(self.place(split, index), reason)
            })
    }

    /// The bytes of an image's file.
    fn bytes(&self, split: Split, index: usize) -> Result<Option<Vec<u8>>, SampleError> {
        let part = self.part(split);
        let (file, group) = part.group(index);
        let table = &self.files[file];
        let Some(column) = table.image else {
            return Ok(None);
        };
        let within = (part.rows[index].number - table.starts[group]) as usize;
        let limit = images::largest_file(self.limits.max_pixels);
        self.stored(file, group, column, within)
            .and_then(|bytes| {
                if bytes.len() as u64 > limit {
                    Err(format!("the file is larger than {limit} bytes").into())
                } else {
                    Ok(Some(bytes))
                }
            })
            .map_err(|error| {
                let told = |reason: &str| format!("column `{}`: {reason}", self.image_column);
                SampleError::new(self.place(split, index), error.told(told))
            })
    }

    /// The bytes that a row of a row group stores.
    fn stored(
        &self,
        file: usize,
        group: usize,
        column: usize,
        row: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let table = &self.files[file];
        let starts = table.pages(group, column)?;
        let page = starts.partition_point(|start| *start <= row) - 1;
        let first = starts[page];
        let end = starts.get(page + 1).copied();
        let end = end.unwrap_or_else(|| table.rows_of(group));
        let rows = |first, count| {
            table
                .chunks
                .caught(|chunks| table.rows(chunks, group, column, first, count))
        };
        match self
            .decoded
            .get((file, group, page), || rows(first, end - first))
        {
            Ok(decoded) => Ok(picture(&decoded, row - first)?),
            Err(error) if error.is_unavailable() => Err(error),
            // Single rows of a damaged page may still be readable.
            Err(_) => Ok(picture(&rows(row, 1)?, 0)?),
        }
    }
}

/// A line about a column that seems to name splits and is not read.
fn unread_splits(tables: &[(Table, Vec<Said>)]) -> Option<String> {
    let found = tables.iter().find_map(|(table, _)| {
        let mut fields = table.metadata.schema().fields().iter();
        let field = fields.find(|field| field.name().eq_ignore_ascii_case("split"))?;
        Some((&table.name, field.name()))
    });
    let (file, column) = found?;
    Some(format!(
        "{file}: its column `{column}` is not read, since a file's name says the split of all its rows; data.parquet.split_column = \
         {column:?} takes it from there"
    ))
}

/// The files with their splits.
fn list(
    config: &ParquetConfig,
    left_out: &mut LeftOut,
) -> Result<Vec<(PathBuf, Split)>, DataError> {
    let mut files = Vec::new();
    for (patterns, split) in [
        (&config.train, Split::Train),
        (&config.val, Split::Val),
        (&config.test, Split::Test),
    ] {
        for pattern in patterns {
            let paths = if pattern.exists() {
                vec![pattern.clone()]
            } else {
                expand(&pattern.to_string_lossy())
                    .map_err(|reason| DataError::Manifest {
                        path: pattern.clone(),
                        reason,
                    })?
                    .into_iter()
                    .map(PathBuf::from)
                    .collect()
            };
            files.extend(paths.into_iter().map(|path| (path, split)));
        }
    }
    let Some(folder) = &config.path else {
        return Ok(files);
    };
    let splits = config.splits();
    let is_parquet = |path: &Path| {
        let extension = path.extension();
        extension.is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
    };
    let mut others = Vec::new();
    for inside in files_in(folder, &is_parquet)?.files {
        let name = inside.file_name().unwrap_or_default().to_string_lossy();
        // `train/0000.parquet`, as the hub converts data sets.
        let above = inside.parent().and_then(Path::file_name);
        let above = above.map(|above| above.to_string_lossy());
        let split = splits
            .of_file(&name)
            .or_else(|| above.and_then(|above| splits.of(&above)));
        match split {
            Some(split) => files.push((folder.join(&inside), split)),
            None if config.split_column.is_some() => {
                files.push((folder.join(&inside), Split::Train));
            }
            None => others.push(inside.display().to_string()),
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    if files.is_empty() {
        return Err(DataError::Manifest {
            path: folder.clone(),
            reason: format!(
                "no .parquet file whose name begins with that of a split, such as `train-`; there are {others:?}: \
                     data.parquet.train_split, val_split and test_split say what names begin with"
            ),
        });
    }
    for other in others {
        left_out.add(format!("called {other:?}"));
    }
    Ok(files)
}

impl Source for Rows {
    fn len(&self, split: Split) -> usize {
        self.part(split).rows.len()
    }

    fn describe(&self) -> String {
        let names: Vec<&str> = match self.files.as_slice() {
            [first, .., last] => vec![&first.name, &last.name],
            files => files.iter().map(|file| &*file.name).collect(),
        };
        let test = match self.len(Split::Test) {
            0 => String::new(),
            rows => format!(", {rows} to test on"),
        };
        let left_out = [&self.left_out, &self.rows_left_out];
        let left_out = left_out.into_iter().filter(|items| items.total() > 0);
        let left_out: String = left_out.map(|items| format!(", {items}")).collect();
        format!(
            "{} Parquet files ({}): {} training rows, {} held out{test}{left_out}, {} unusable",
            self.files.len(),
            names.join(" .. "),
            self.len(Split::Train),
            self.len(Split::Val),
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        let first = self.files.first().map_or("", |file| &*file.name);
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        if of > 0 && self.val_fraction > 0.0 {
            let line = drawn(first, held, of, "rows", self.val_fraction);
            notes.push(format!("{line}; {} told apart", self.told_by));
        }
        if of == 0 {
            let why = "the files say which split a row is of";
            notes.extend(not_drawn(first, self.val_fraction, why));
        }
        notes.extend(self.unread_splits.clone());
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let part = self.part(split);
        let (file, _) = part.group(index);
        Place {
            file: self.files[file].name.clone(),
            line: part.rows[index].number + 1,
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            images: self.images,
            ..Offers::default()
        }
    }

    fn facts(&self, split: Split) -> SplitFacts {
        let mut rows = self.part(split).rows.iter();
        SplitFacts {
            repeats_pictures: rows.any(|row| row.picture.is_some()),
            ..SplitFacts::default()
        }
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        let part = self.part(split);
        let ends = part.runs.iter().skip(1).map(|(_, _, first)| *first);
        let ends = ends.chain([part.rows.len()]);
        let runs = part.runs.iter().zip(ends);
        runs.map(|((_, _, first), end)| end - first).collect()
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.part(split).rows[index].captions.clone())
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let picture = self.picture_of(split, index)?;
        Ok(picture.map(|(picture, _)| picture))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let picture = self.picture_of(split, index)?;
        Ok(Sample {
            name: self.place(split, index).to_string(),
            captions: self.captions(split, index)?,
            picture_id: picture.as_ref().map(|(_, id)| *id),
            image: picture.map(|(picture, _)| picture),
            ..Sample::default()
        })
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let Some(bytes) = self.bytes(split, index)? else {
            return Ok(None);
        };
        let format = image::guess_format(&bytes).ok();
        let extension = match format {
            Some(image::ImageFormat::Jpeg) => "jpg",
            Some(image::ImageFormat::Png) => "png",
            Some(image::ImageFormat::WebP) => "webp",
            _ => return Ok(None),
        };
        Ok(Some((bytes, extension)))
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let found = self.part(split).rows[index].picture;
        let own = || hash_text(Stream::Picture, &self.place(split, index).to_string());
        Ok(found.unwrap_or_else(own))
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.rows_left_out.counts()
    }
}

#[cfg(test)]
mod tests;
