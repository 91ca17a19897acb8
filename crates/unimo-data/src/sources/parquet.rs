//! Parquet files with pictures in them, as the Hugging Face hub has data sets.
//!
//! ```toml
//! [data]
//! source = "parquet"
//!
//! [data.parquet]
//! path = "flickr30k/data"                # holds train-00000-of-00003.parquet, validation-..., or say `train` and `val`
//! text_columns = ["caption"]
//! ```
//!
//! Texts are read when the source is opened, pictures when they are needed: the page that holds one, which is found by the file's
//! page index or, where it has none, by the headers of the pages before it. Decoded pages are kept while there is room. Reading needs
//! the cargo feature `parquet`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::images::Limits;
use crate::settings::{not_empty, range, share};
use crate::sources::given::{expand, one_or_many, one_or_many_paths};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::SplitNames;
use crate::store::{self, RemoteConfig};

/// `[data.parquet]`: Parquet files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParquetConfig {
    /// A folder; which split a file is of is told by its name, or by that of its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What the names of training files begin with; absent: the field's names, such as `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub train_split: Vec<String>,
    /// What the names of held out files begin with; absent: the field's names, such as `validation`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub val_split: Vec<String>,
    /// What the names of files begin with that are held out to the end; absent: the field's names, such as `test`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub test_split: Vec<String>,
    /// Files to train on, instead of `path`: paths, `{000..123}` for numbers, `{a,b}` for names.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub train: Vec<PathBuf>,
    /// Files that are held out, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub val: Vec<PathBuf>,
    /// Files that are held out to the end, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub test: Vec<PathBuf>,
    /// Share of the training files' pictures that is held out, by a hash, where no file is for validation.
    pub val_fraction: f64,
    /// What tells which rows show the same picture, of what is held out and where a share of what is trained on is: `"content"`, `"row"` (every row has its own), or the
    /// name of a column; absent: the content where the pictures of local files take up to 2 GB, else the first of the columns
    /// `image_id`, `img_id`, `imgid`, `cocoid`, `sha256`, `image_url`, `url`, else the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture_id: Option<String>,
    /// Whether there are pictures.
    pub images: bool,
    /// The column with the pictures' files: binary, or a struct of `bytes` and `path`.
    pub image_column: String,
    /// The columns with captions: strings or lists of strings.
    #[serde(deserialize_with = "one_or_many")]
    pub text_columns: Vec<String>,
    /// Decoded pages that are kept in memory, in mebibytes; a picture in a page that is not there costs decoding all of the page.
    pub cache_mb: usize,
    /// How files behind URLs are read.
    pub remote: RemoteConfig,
}

impl Default for ParquetConfig {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            path: None,
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
            train: Vec::new(),
            val: Vec::new(),
            test: Vec::new(),
            val_fraction: 0.05,
            picture_id: None,
            images: true,
            image_column: "image".to_owned(),
            text_columns: names(&["caption"]),
            cache_mb: 256,
            remote: RemoteConfig::default(),
        }
    }
}

impl ParquetConfig {
    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }
}

impl SourceConfig for ParquetConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        if self.path.is_some() != self.train.is_empty() {
            let found = match self.path {
                Some(_) => "given beside `train`",
                None => "absent",
            };
            let allowed = format!("a folder, or files as `{table}.train`, not both");
            return Err(DataError::config(key("path"), found, allowed));
        }
        let lists = [
            ("train", &self.train),
            ("val", &self.val),
            ("test", &self.test),
        ];
        let beside = lists.iter().skip(1).find(|(_, files)| !files.is_empty());
        if let (Some(_), Some((name, _))) = (&self.path, beside) {
            return Err(DataError::config(
                key(name),
                "given",
                format!("nothing beside `{table}.path`"),
            ));
        }
        for (name, patterns) in lists {
            for pattern in patterns {
                let text = pattern.to_string_lossy();
                not_empty(&key(name), &text, "paths of Parquet files")?;
                if !pattern.exists() {
                    expand(&text).map_err(|reason| {
                        let allowed = format!("`{{000..123}}` or `{{a,b}}` in a path; {reason}");
                        DataError::config(key(name), format!("{text:?}"), allowed)
                    })?;
                }
            }
        }
        self.splits().validate(table)?;
        if self.text_columns.is_empty() || self.text_columns.iter().any(String::is_empty) {
            let found = format!("{:?}", self.text_columns);
            return Err(DataError::config(
                key("text_columns"),
                found,
                "one or more names",
            ));
        }
        if let Some(column) = &self.picture_id {
            not_empty(
                &key("picture_id"),
                column,
                "\"content\", \"row\" or a column",
            )?;
        }
        not_empty(&key("image_column"), &self.image_column, "a column's name")?;
        range(&key("cache_mb"), self.cache_mb, 0, 1 << 20)?;
        self.remote.validate(&key("remote"))?;
        share(&key("val_fraction"), self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.path
            .iter_mut()
            .chain(&mut self.train)
            .chain(&mut self.val)
            .chain(&mut self.test)
            .filter(|path| !store::is_remote(path))
            .collect()
    }

    #[cfg(feature = "parquet")]
    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(rows::Rows::open(self, limits)?))
    }

    #[cfg(not(feature = "parquet"))]
    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Err(DataError::config(
            "data.source",
            "parquet",
            "another source: this program was built without the cargo feature `parquet`, which `cargo xtask --features parquet ...` builds in",
        ))
    }
}

#[cfg(feature = "parquet")]
pub use rows::Rows;

#[cfg(feature = "parquet")]
mod rows {
    use std::collections::{HashMap, HashSet};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, OnceLock, PoisonError};

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int32Type, Int64Type, UInt32Type, UInt64Type};
    use arrow_array::{Array, ArrayRef, RecordBatch};
    use arrow_schema::DataType;
    use bytes::Bytes;
    use image::RgbImage;
    use parquet::arrow::ProjectionMask;
    use parquet::arrow::arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
        RowSelector,
    };
    use parquet::basic::Compression;
    use parquet::column::page::PageReader;
    use parquet::errors::ParquetError;
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::reader::{ChunkReader, Length};
    use parquet::file::serialized_reader::SerializedPageReader;

    use super::ParquetConfig;
    use crate::error::{DataError, Place, ReadError, SampleError, panic_text};
    use crate::images::{self, Limits};
    use crate::order::draws::{Stream, hash_text, unit};
    use crate::sources::decoded::Decoded;
    use crate::sources::folders::files_in;
    use crate::sources::given::expand;
    use crate::sources::left_out::LeftOut;
    use crate::sources::source::{Sample, Source, picture_of_bytes};
    use crate::sources::splits::{BySplit, Split, drawn};
    use crate::store::{self, Object, Storage};
    use crate::threads::parallel;

    /// Rows whose texts are decoded at once.
    const BATCH: usize = 1024;

    /// Rows of Parquet files. See the [module](super).
    pub struct Rows {
        files: Vec<Table>,
        parts: BySplit<Part>,
        /// Rows whose split is drawn, and how many of them are held out.
        drawn: (usize, usize),
        val_fraction: f64,
        /// What told rows of the same picture.
        told_by: String,
        left_out: LeftOut,
        rejected: Vec<SampleError>,
        images: bool,
        image_column: String,
        limits: Limits,
        decoded: Decoded,
    }

    struct Table {
        name: String,
        chunks: Chunks,
        metadata: ArrowReaderMetadata,
        /// First row of each row group.
        starts: Vec<u64>,
        /// The column with the pictures' bytes, of those that are stored; none where pictures are not wanted.
        image: Option<usize>,
        /// Per row group, the first row of each page with pictures, once one of them was asked for.
        pages: Vec<OnceLock<Vec<usize>>>,
    }

    #[derive(Default)]
    struct Part {
        rows: Vec<Row>,
        /// File and group of each run of rows, and where it begins.
        runs: Vec<(usize, usize, usize)>,
    }

    struct Row {
        /// In its file, from 0.
        number: u64,
        captions: Vec<String>,
        /// Which picture it shows, where that was found out.
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

        /// File and group of a row.
        fn group(&self, index: usize) -> (usize, usize) {
            let run = self.runs.partition_point(|(_, _, first)| *first <= index);
            let (file, group, _) = self.runs[run - 1];
            (file, group)
        }
    }

    /// An object as the `parquet` crate reads it.
    #[derive(Clone)]
    struct Chunks {
        object: Arc<dyn Object>,
        /// Why the object could not be read now, while one thing is read of it: on its way through the crate an error becomes text.
        failed: Arc<Mutex<Option<ReadError>>>,
    }

    impl Chunks {
        fn new(object: Arc<dyn Object>) -> Self {
            Self {
                object,
                failed: Arc::default(),
            }
        }

        fn bytes(&self, start: u64, length: usize) -> Result<Vec<u8>, ReadError> {
            let read = self.object.read(start, length);
            read.inspect_err(|error| {
                if error.is_unavailable() {
                    let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    *failed = Some(error.clone());
                }
            })
        }

        /// Runs what reads of the object and may panic on damaged input. That it cannot be read now is no damage.
        fn caught<T>(
            &self,
            work: impl FnOnce(Self) -> Result<T, ReadError>,
        ) -> Result<T, ReadError> {
            let own = Self::new(Arc::clone(&self.object));
            let result =
                catch_unwind(AssertUnwindSafe(|| work(own.clone()))).unwrap_or_else(|payload| {
                    Err(format!("damaged: {}", panic_text(&*payload)).into())
                });
            let mut failed = own.failed.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, failed.take()) {
                (Err(_), Some(failed)) => Err(failed),
                (result, _) => result,
            }
        }
    }

    impl Length for Chunks {
        fn len(&self) -> u64 {
            self.object.size()
        }
    }

    impl ChunkReader for Chunks {
        type T = Reader;

        fn get_read(&self, start: u64) -> Result<Reader, ParquetError> {
            Ok(Reader {
                object: self.clone(),
                at: start,
                piece: Vec::new(),
                used: 0,
            })
        }

        fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
            let end = start.checked_add(length as u64);
            if end.is_none_or(|end| end > self.object.size()) {
                return Err(ParquetError::EOF(format!(
                    "{length} bytes at {start} lie outside the file"
                )));
            }
            let bytes = self.bytes(start, length);
            bytes
                .map(Bytes::from)
                .map_err(|error| ParquetError::General(error.reason))
        }
    }

    /// Reads on from a byte: headers of pages byte by byte, and their content at once.
    struct Reader {
        object: Chunks,
        at: u64,
        piece: Vec<u8>,
        used: usize,
    }

    impl Reader {
        /// Longest piece that is read ahead: a header, and little of what it is the header of.
        const AHEAD: u64 = 512;

        fn fetch(&mut self, length: u64) -> std::io::Result<Vec<u8>> {
            let rest = self.object.len().saturating_sub(self.at);
            let bytes = self.object.bytes(self.at, rest.min(length) as usize)?;
            self.at += bytes.len() as u64;
            Ok(bytes)
        }
    }

    impl std::io::Read for Reader {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.used == self.piece.len() {
                self.used = 0;
                self.piece = self.fetch(Self::AHEAD.max(into.len() as u64))?;
            }
            let length = into.len().min(self.piece.len() - self.used);
            into[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
            self.used += length;
            Ok(length)
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
            let held_out = files.iter().any(|(_, split)| *split == Split::Val);
            let mut rows = Self {
                files: Vec::new(),
                parts: BySplit::default(),
                drawn: (0, 0),
                val_fraction: config.val_fraction,
                told_by: String::new(),
                left_out,
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
            let splits: Vec<Split> = files.iter().map(|(_, split)| *split).collect();
            let mut draw = Draw::new(config, !held_out, &tables, &splits);
            rows.told_by = draw.by.name();
            for ((table, texts), (path, split)) in tables.into_iter().zip(&files) {
                let base = path.file_name().unwrap_or_default().to_string_lossy();
                let by = match *split {
                    Split::Train => &draw.by,
                    Split::Val | Split::Test => &draw.held,
                };
                let pictures = by.pictures(&table, texts.len());
                let pictures = pictures.map_err(|error| DataError::unread(path, error))?;
                for (number, captions) in (0u64..).zip(texts) {
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
                    let mut split = *split;
                    let picture = pictures.get(number as usize).copied().flatten();
                    if split == Split::Train && !held_out {
                        let own = || hash_text(Stream::Split, &format!("{base}:{number}"));
                        // The first row of a picture is drawn as if it were alone, and the others go with it.
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
                        None => "no rows".to_owned(),
                    },
                });
            }
            Ok(rows)
        }

        fn part(&self, split: Split) -> &Part {
            &self.parts[split]
        }

        /// A picture, and which one it is: the content says it, as paths in Parquet files may be anything.
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

        /// The bytes of a picture's file.
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
                .and_then(|bytes| match bytes.len() as u64 > limit {
                    true => Err(format!("the file is larger than {limit} bytes").into()),
                    false => Ok(Some(bytes)),
                })
                .map_err(|error| {
                    let told = |reason: &str| format!("column `{}`: {reason}", self.image_column);
                    SampleError::new(self.place(split, index), error.told(told))
                })
        }

        /// The bytes that are stored in a row of a row group.
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
                // Of a damaged page single rows may be left.
                Err(_) => Ok(picture(&rows(row, 1)?, 0)?),
            }
        }
    }

    impl Table {
        /// Bytes of the pictures' columns as they are stored.
        fn picture_bytes(&self) -> i64 {
            let Some(column) = self.image else {
                return 0;
            };
            let groups = self.metadata.metadata().row_groups().iter();
            groups
                .map(|group| group.column(column).compressed_size())
                .sum()
        }

        fn rows_of(&self, group: usize) -> usize {
            let next = self.starts.get(group + 1).copied();
            let rows = || self.metadata.metadata().file_metadata().num_rows() as u64;
            (next.unwrap_or_else(rows) - self.starts[group]) as usize
        }

        /// The first row of each page of a column of a row group.
        fn pages(&self, group: usize, column: usize) -> Result<&[usize], ReadError> {
            let known = &self.pages[group];
            if let Some(starts) = known.get() {
                return Ok(starts);
            }
            let starts = match self.page_starts(group, column) {
                Err(error) if error.is_unavailable() => return Err(error),
                Ok(starts) if starts.first() == Some(&0) && starts.is_sorted() => starts,
                // Where they cannot be told, all of the rows are read together.
                _ => vec![0],
            };
            Ok(known.get_or_init(|| starts))
        }

        /// The same from the file: by its page index, or by the headers of the pages.
        fn page_starts(&self, group: usize, column: usize) -> Result<Vec<usize>, ReadError> {
            let metadata = self.metadata.metadata();
            let rows = self.rows_of(group);
            let text = |error: ParquetError| error.to_string();
            if let Some(index) = metadata
                .page_index_for_row_group(group)
                .offset_index(column)
            {
                let locations = index.page_locations().iter();
                let starts = locations.map(|location| location.first_row_index as usize);
                return Ok(starts.filter(|start| *start < rows).collect());
            }
            self.chunks.caught(|chunks| {
                let about = metadata.row_group(group).column(column);
                let mut pages =
                    SerializedPageReader::new(Arc::new(chunks), about, rows, None).map_err(text)?;
                let mut starts = Vec::new();
                let mut next = 0;
                while next < rows {
                    let Some(page) = pages.peek_next_page().map_err(text)? else {
                        break;
                    };
                    // The column is no list, so it has as many levels as rows.
                    let held = page.num_rows.or(page.num_levels).unwrap_or(0);
                    if !page.is_dict && held > 0 {
                        starts.push(next);
                        next += held;
                    }
                    pages.skip_next_page().map_err(text)?;
                }
                Ok(starts)
            })
        }

        /// The pictures of rows of a row group.
        fn rows(
            &self,
            chunks: Chunks,
            group: usize,
            column: usize,
            first: usize,
            count: usize,
        ) -> Result<ArrayRef, ReadError> {
            let schema = self.metadata.parquet_schema();
            let reader =
                ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, self.metadata.clone())
                    .with_row_groups(vec![group])
                    .with_projection(ProjectionMask::leaves(schema, [column]))
                    .with_row_selection(RowSelection::from(vec![
                        RowSelector::skip(first),
                        RowSelector::select(count),
                    ]))
                    .with_batch_size(count.max(1))
                    .build();
            let batch = reader.map_err(|error| error.to_string())?.next();
            let batch = batch.ok_or("the row is not there")?;
            let batch = batch.map_err(|error| error.to_string())?;
            if batch.num_rows() != count {
                return Err("rows are missing".into());
            }
            let column = batch.columns().first().cloned();
            Ok(column.ok_or("the column is not there")?)
        }
    }

    /// The picture in a row of a column: binary, or a struct that has it as `bytes`.
    fn picture(column: &ArrayRef, row: usize) -> Result<Vec<u8>, String> {
        let inner = match column.as_struct_opt() {
            Some(structs) => structs
                .column_by_name("bytes")
                .ok_or("a struct without `bytes`")?,
            None => column,
        };
        if row >= inner.len() {
            return Err("the row is not there".to_owned());
        }
        if column.is_null(row) || inner.is_null(row) {
            return Err("no picture in it; pictures elsewhere are not fetched".to_owned());
        }
        let bytes = match inner.data_type() {
            DataType::Binary => inner.as_binary::<i32>().value(row),
            DataType::LargeBinary => inner.as_binary::<i64>().value(row),
            DataType::BinaryView => inner.as_binary_view().value(row),
            other => return Err(format!("{other} is neither binary nor a struct of `bytes`")),
        };
        Ok(bytes.to_vec())
    }

    /// Refuses a column that is compressed in a way that is not read, and says what can be done.
    fn refuse_compression(
        metadata: &ArrowReaderMetadata,
        column: usize,
        name: &str,
    ) -> Result<(), String> {
        for group in metadata.metadata().row_groups() {
            let kind = match group.column(column).compression() {
                Compression::UNCOMPRESSED
                | Compression::SNAPPY
                | Compression::GZIP(_)
                | Compression::ZSTD(_) => continue,
                Compression::LZ4 | Compression::LZ4_RAW => "LZ4",
                Compression::BROTLI(_) => "Brotli",
                Compression::LZO => "LZO",
            };
            return Err(format!(
                "column `{name}` is compressed with {kind}, which is not read (only snappy, gzip, zstd and none are). In Python \
                 `pyarrow.parquet.write_table(pyarrow.parquet.read_table(OLD), NEW, compression=\"zstd\")` writes the file anew"
            ));
        }
        Ok(())
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
                let paths = match pattern.exists() {
                    true => vec![pattern.clone()],
                    false => expand(&pattern.to_string_lossy())
                        .map_err(|reason| DataError::Manifest {
                            path: pattern.clone(),
                            reason,
                        })?
                        .into_iter()
                        .map(PathBuf::from)
                        .collect(),
                };
                files.extend(paths.into_iter().map(|path| (path, split)));
            }
        }
        let Some(folder) = &config.path else {
            return Ok(files);
        };
        let splits = config.splits();
        let is_parquet = |path: &Path| path.extension().is_some_and(|e| e == "parquet");
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

    /// Which rows show the same picture, where a share of the pictures is held out.
    struct Draw<'a> {
        by: By<'a>,
        /// The same in files that are held out as they are: their captions belong to pictures, not to rows.
        held: By<'a>,
        /// What the first row of each picture drew.
        first: HashMap<u64, u64>,
    }

    enum By<'a> {
        Content,
        Column(&'a str),
        Row,
    }

    /// Columns that say which picture a row shows. `id` is not among them: it may be anything's.
    const PICTURE_COLUMNS: [&str; 7] = [
        "image_id",
        "img_id",
        "imgid",
        "cocoid",
        "sha256",
        "image_url",
        "url",
    ];

    /// Bytes of pictures that are read when a source is opened: at a gigabyte a second, two seconds.
    const MOST_READ: i64 = 2_000_000_000;

    impl By<'_> {
        fn name(&self) -> String {
            match self {
                Self::Content => "pictures by their content".to_owned(),
                Self::Column(column) => format!("pictures by the column `{column}`"),
                Self::Row => "rows".to_owned(),
            }
        }
    }

    impl<'a> Draw<'a> {
        /// `drawn`: whether anything is drawn at all.
        fn new(
            config: &'a ParquetConfig,
            drawn: bool,
            tables: &[(Table, Vec<Vec<String>>)],
            splits: &[Split],
        ) -> Self {
            let train = tables
                .iter()
                .zip(splits)
                .filter(|(_, s)| **s == Split::Train);
            let train: Vec<&Table> = train.map(|((table, _), _)| table).collect();
            let held_out = tables
                .iter()
                .zip(splits)
                .filter(|(_, s)| **s != Split::Train);
            let held_out: Vec<&Table> = held_out.map(|((table, _), _)| table).collect();
            let by = match drawn && config.val_fraction > 0.0 {
                true => By::of(config, &train),
                false => By::Row,
            };
            Self {
                by,
                held: By::of(config, &held_out),
                first: HashMap::new(),
            }
        }
    }

    impl<'a> By<'a> {
        /// As a recipe says, or as costs little.
        fn of(config: &'a ParquetConfig, tables: &[&Table]) -> Self {
            let has = |column: &&str| {
                let mut schemas = tables.iter().map(|table| table.metadata.schema());
                schemas.all(|schema| schema.column_with_name(column).is_some())
            };
            let bytes: i64 = tables.iter().map(|table| table.picture_bytes()).sum();
            let local = !tables
                .iter()
                .any(|table| store::is_remote(table.name.as_ref()));
            match config.picture_id.as_deref() {
                _ if !config.images || tables.is_empty() => Self::Row,
                Some("content") => Self::Content,
                Some("row") => Self::Row,
                Some(column) => Self::Column(column),
                None if local && bytes <= MOST_READ => Self::Content,
                None => match PICTURE_COLUMNS.into_iter().find(has) {
                    Some(column) => Self::Column(column),
                    None => Self::Row,
                },
            }
        }

        /// Per row, its picture, where that is known.
        fn pictures(&self, table: &Table, rows: usize) -> Result<Vec<Option<u64>>, ReadError> {
            let schema = table.metadata.parquet_schema();
            let (mask, of): (_, fn(&ArrayRef, usize) -> Option<u64>) = match (self, &table.image) {
                (By::Content, Some(stored)) => {
                    let mask = ProjectionMask::leaves(schema, [*stored]);
                    (mask, |column, row| {
                        let bytes = picture(column, row).ok()?;
                        Some(picture_of_bytes(&bytes))
                    })
                }
                (By::Column(name), _) => {
                    let at = table.metadata.schema().index_of(name);
                    let at = at.map_err(|_| {
                        format!("data.parquet.picture_id: no column `{name}` in it")
                    })?;
                    let mask = ProjectionMask::roots(schema, [at]);
                    (mask, |column, row| {
                        let text = plain(column, row).filter(|text| !text.is_empty())?;
                        Some(hash_text(Stream::Picture, &text))
                    })
                }
                _ => return Ok(Vec::new()),
            };
            let groups = 0..table.starts.len();
            let read = parallel(groups, |group| {
                table.chunks.caught(|chunks| {
                    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
                        chunks,
                        table.metadata.clone(),
                    )
                    .with_row_groups(vec![group])
                    .with_projection(mask.clone())
                    .with_batch_size(PICTURES)
                    .build()
                    .map_err(|error| error.to_string())?;
                    let mut ids = Vec::new();
                    for batch in reader {
                        let batch = batch.map_err(|error| error.to_string())?;
                        let column = batch.columns().first().ok_or("the column is not there")?;
                        ids.extend((0..batch.num_rows()).map(|row| of(column, row)));
                    }
                    Ok(ids)
                })
            });
            // What is damaged costs its rows when they are read, not the opening. What can only not be read now would be split otherwise.
            let mut all = Vec::with_capacity(rows);
            for (group, ids) in read.into_iter().enumerate() {
                let end = table
                    .starts
                    .get(group + 1)
                    .map_or(rows, |start| *start as usize);
                match ids {
                    Err(error) if error.is_unavailable() => return Err(error),
                    ids => all.extend(ids.unwrap_or_default()),
                }
                all.resize(end, None);
            }
            Ok(all)
        }
    }

    /// A text or a whole number; none of anything else.
    fn plain(column: &ArrayRef, row: usize) -> Option<String> {
        if column.is_null(row) {
            return None;
        }
        Some(match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
            DataType::LargeUtf8 => column.as_string::<i64>().value(row).to_owned(),
            DataType::Utf8View => column.as_string_view().value(row).to_owned(),
            DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).to_string(),
            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
            _ => return None,
        })
    }

    /// Rows whose pictures are decoded at once.
    const PICTURES: usize = 64;

    /// Opens a file and reads its texts, one list per row.
    fn read_file(
        object: Arc<dyn Object>,
        config: &ParquetConfig,
    ) -> Result<(Table, Vec<Vec<String>>), ReadError> {
        let whole = Chunks::new(object);
        whole.caught(|chunks| {
            let text = |error: ParquetError| error.to_string();
            // The types that the file's writer had are of no interest, those that are stored are.
            let options = ArrowReaderOptions::new()
                .with_skip_arrow_metadata(true)
                .with_offset_index_policy(PageIndexPolicy::Optional);
            let metadata = ArrowReaderMetadata::load(&chunks, options).map_err(text)?;
            let mut starts = Vec::new();
            let mut rows = 0u64;
            for group in metadata.metadata().row_groups() {
                starts.push(rows);
                let more = u64::try_from(group.num_rows()).map_err(|_| "a negative row count")?;
                rows = rows.saturating_add(more);
            }
            let schema = metadata.parquet_schema();
            let roots = metadata.schema().fields();
            let root = |column: &str| {
                roots
                    .iter()
                    .position(|field| field.name() == column)
                    .ok_or_else(|| {
                        let names: Vec<&str> = roots.iter().map(|field| &**field.name()).collect();
                        format!("no column `{column}`; there are {}", names.join(", "))
                    })
            };
            // Names may hold dots, so that paths are compared part by part.
            let stored = |path: &[&str]| {
                let mut all = schema.columns().iter();
                all.position(|column| column.path().parts() == path)
            };
            let image = match config.images {
                true => {
                    let name = config.image_column.as_str();
                    let kind = roots[root(name)?].data_type();
                    let column = match kind {
                        DataType::Struct(_) => stored(&[name, "bytes"]),
                        _ => stored(&[name]),
                    };
                    let column = column.ok_or_else(|| {
                        format!("column `{name}` is {kind}, neither binary nor a struct of `bytes`")
                    })?;
                    refuse_compression(&metadata, column, name)?;
                    Some(column)
                }
                false => None,
            };
            let texts = config
                .text_columns
                .iter()
                .map(|column| root(column))
                .collect::<Result<Vec<_>, _>>()?;
            for (column, about) in schema.columns().iter().enumerate() {
                let of = about.path().parts().first();
                if let Some(name) = of.filter(|name| config.text_columns.contains(name)) {
                    refuse_compression(&metadata, column, name)?;
                }
            }
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
                chunks.clone(),
                metadata.clone(),
            )
            .with_projection(ProjectionMask::roots(schema, texts))
            .with_batch_size(BATCH)
            .build()
            .map_err(text)?;
            let mut all = Vec::new();
            for batch in reader {
                let batch = batch.map_err(|error| error.to_string())?;
                captions(&batch, config, &mut all)?;
            }
            if all.len() as u64 != rows {
                return Err(format!("it announces {rows} rows and has {}", all.len()).into());
            }
            let groups = starts.len();
            let table = Table {
                name: whole.object.name().to_owned(),
                chunks: whole.clone(),
                metadata,
                starts,
                image,
                pages: std::iter::repeat_with(OnceLock::new).take(groups).collect(),
            };
            Ok((table, all))
        })
    }

    /// Appends the captions of each row of a batch.
    fn captions(
        batch: &RecordBatch,
        config: &ParquetConfig,
        all: &mut Vec<Vec<String>>,
    ) -> Result<(), String> {
        let columns = config
            .text_columns
            .iter()
            .map(|name| {
                let column = batch.column_by_name(name);
                column.ok_or_else(|| format!("no column `{name}`"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let mut seen = HashSet::new();
            let mut captions = Vec::new();
            for (column, name) in columns.iter().zip(&config.text_columns) {
                each_text(column, row, &mut |text| {
                    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    if !text.is_empty() && seen.insert(text.clone()) {
                        captions.push(text);
                    }
                })
                .map_err(|kind| {
                    format!("column `{name}` is {kind}, neither strings nor lists of strings")
                })?;
            }
            all.push(captions);
        }
        Ok(())
    }

    fn each_text(
        column: &ArrayRef,
        row: usize,
        give: &mut dyn FnMut(&str),
    ) -> Result<(), DataType> {
        if column.is_null(row) {
            return Ok(());
        }
        match column.data_type() {
            DataType::Utf8 => give(column.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => give(column.as_string::<i64>().value(row)),
            DataType::Utf8View => give(column.as_string_view().value(row)),
            DataType::List(_) => {
                let texts = column.as_list::<i32>().value(row);
                // A list of lists is no list of captions.
                if matches!(texts.data_type(), DataType::List(_)) {
                    return Err(column.data_type().clone());
                }
                for at in 0..texts.len() {
                    each_text(&texts, at, give)?;
                }
            }
            other => return Err(other.clone()),
        }
        Ok(())
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
            let left_out = match self.left_out.total() {
                0 => String::new(),
                _ => format!(", {}", self.left_out),
            };
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

        fn has_images(&self) -> bool {
            self.images
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

        fn repeats_pictures(&self, split: Split) -> bool {
            self.part(split)
                .rows
                .iter()
                .any(|row| row.picture.is_some())
        }

        fn rejected(&self) -> &[SampleError] {
            &self.rejected
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::sources::source::SourceConfig;
        use arrow_array::builder::{ListBuilder, StringBuilder};
        use arrow_array::{BinaryArray, Int32Array, StringArray, StructArray};
        use arrow_schema::{Field, Fields};
        use image::{ImageFormat, Rgb};
        use parquet::arrow::ArrowWriter;
        use parquet::basic::Compression;
        use parquet::file::properties::WriterProperties;
        use std::io::Cursor;
        use std::path::Path;

        const LIMITS: Limits = Limits::full_size(1_000_000);

        fn png(shade: u8) -> Vec<u8> {
            let mut bytes = Cursor::new(Vec::new());
            RgbImage::from_pixel(3, 2, Rgb([shade; 3]))
                .write_to(&mut bytes, ImageFormat::Png)
                .unwrap();
            bytes.into_inner()
        }

        /// Rows `first..last` as the hub has them: the picture in a struct, a list of captions.
        fn batch(first: u8, last: u8) -> RecordBatch {
            let numbers: Vec<u8> = (first..last).collect();
            let pictures: Vec<Vec<u8>> = numbers.iter().map(|n| png(*n)).collect();
            let pictures: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures));
            let paths = numbers.iter().map(|n| format!("{n}.png"));
            let paths: ArrayRef = Arc::new(StringArray::from_iter_values(paths));
            let fields = Fields::from(vec![
                Field::new("bytes", DataType::Binary, true),
                Field::new("path", DataType::Utf8, true),
            ]);
            let image = StructArray::new(fields, vec![pictures, paths], None);
            let mut captions = ListBuilder::new(StringBuilder::new());
            for number in &numbers {
                captions.values().append_value(format!("number {number}"));
                captions.values().append_value(" a  shade ");
                captions.append(true);
            }
            let ids = Int32Array::from_iter_values(numbers.iter().map(|n| i32::from(*n)));
            RecordBatch::try_from_iter([
                ("image", Arc::new(image) as ArrayRef),
                ("caption", Arc::new(captions.finish())),
                ("id", Arc::new(ids)),
            ])
            .unwrap()
        }

        fn write(path: &Path, batch: &RecordBatch, paged: bool, group: usize) {
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .set_max_row_group_row_count(Some(group))
                .set_data_page_row_count_limit(3)
                .set_write_batch_size(1)
                .set_offset_index_disabled(!paged)
                .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
                .build();
            let file = std::fs::File::create(path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
            writer.write(batch).unwrap();
            writer.close().unwrap();
        }

        fn config(path: &Path) -> ParquetConfig {
            ParquetConfig {
                path: Some(path.to_owned()),
                val_fraction: 0.0,
                ..ParquetConfig::default()
            }
        }

        fn open(config: &ParquetConfig) -> Result<Rows, DataError> {
            config.validate("data.parquet")?;
            Rows::open(config, &LIMITS)
        }

        fn all(source: &Rows, split: Split) -> Vec<(Vec<String>, u8)> {
            (0..source.len(split))
                .map(|at| {
                    let picture = source.image(split, at).unwrap().unwrap();
                    let captions = source.captions(split, at).unwrap();
                    (captions, picture.get_pixel(0, 0).0[0])
                })
                .collect()
        }

        fn numbers(range: std::ops::Range<u8>) -> Vec<(Vec<String>, u8)> {
            range
                .map(|n| (vec![format!("number {n}"), "a shade".to_owned()], n))
                .collect()
        }

        #[test]
        fn rows_are_read_in_order_with_and_without_a_page_index() {
            for paged in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let at = |name: &str| folder.path().join(name);
                write(
                    &at("train-00000-of-00002.parquet"),
                    &batch(0, 50),
                    paged,
                    20,
                );
                write(
                    &at("train-00001-of-00002.parquet"),
                    &batch(50, 60),
                    paged,
                    20,
                );
                write(
                    &at("validation-00000-of-00001.parquet"),
                    &batch(90, 95),
                    paged,
                    20,
                );
                write(&at("trained.parquet"), &batch(0, 5), paged, 20);
                let source = open(&config(folder.path())).unwrap();
                let index = source.files[0].metadata.metadata().page_index();
                assert_eq!(index.is_some(), paged);
                assert_eq!(all(&source, Split::Train), numbers(0..60));
                assert_eq!(all(&source, Split::Val), numbers(90..95));
                assert_eq!(source.shards(Split::Train), [20, 20, 10, 10]);
                assert_eq!(source.place(Split::Train, 51).line, 2);
                for index in [0, 59, 30, 45, 0, 20, 51] {
                    let picture = source.image(Split::Train, index).unwrap().unwrap();
                    assert_eq!(usize::from(picture.get_pixel(0, 0).0[0]), index);
                }
                let (bytes, kind) = source.image_bytes(Split::Train, 7).unwrap().unwrap();
                assert_eq!((bytes, kind), (png(7), "png"));
            }
        }

        #[test]
        fn binary_columns_plain_strings_and_what_is_missing() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.parquet");
            let picture = images::jpeg(&RgbImage::from_pixel(32, 16, Rgb([90; 3]))).unwrap();
            let images = BinaryArray::from_iter([Some(&*picture), None, Some(b"no picture"), None]);
            let texts = StringArray::from_iter([Some("one"), Some("two"), Some("three"), None]);
            let batch = RecordBatch::try_from_iter([
                ("jpg", Arc::new(images) as ArrayRef),
                ("text", Arc::new(texts)),
            ])
            .unwrap();
            write(&path, &batch, true, 100);
            let plain = ParquetConfig {
                path: None,
                train: vec![path],
                image_column: "jpg".to_owned(),
                text_columns: vec!["text".to_owned()],
                ..config(folder.path())
            };
            let source = open(&plain).unwrap();
            assert_eq!((source.len(Split::Train), source.items()), (3, 4));
            assert_eq!(source.rejected()[0].place.line, 4);
            let scaled = Limits {
                enough: Some(8),
                ..LIMITS
            };
            for (limits, size) in [(LIMITS, (32, 16)), (scaled, (16, 8))] {
                let source = Rows::open(&plain, &limits).unwrap();
                let picture = source.image(Split::Train, 0).unwrap().unwrap();
                assert_eq!(picture.dimensions(), size);
            }
            for (index, part) in [(1, "no picture in it"), (2, "not a JPEG")] {
                let error = source.image(Split::Train, index).unwrap_err();
                assert!(error.reason.contains(part), "{error}");
                assert_eq!(error.place.line, index as u64 + 1);
            }
            let mut texts = plain.clone();
            texts.images = false;
            let texts = open(&texts).unwrap();
            assert_eq!((texts.has_images(), texts.len(Split::Train)), (false, 3));
            assert_eq!(texts.image(Split::Train, 0).unwrap(), None);
        }

        /// Pages of any size give the same pictures, in any order, and each is decoded once while there is room.
        #[test]
        fn pages_are_kept_whatever_their_size() {
            let folder = tempfile::tempdir().unwrap();
            let all: Vec<u8> = (0..60).collect();
            for (rows_of_page, group, dictionary, paged) in [
                (1000, 1000, false, false),
                (1000, 1000, true, false),
                (7, 1000, true, false),
                (7, 1000, false, true),
                (1, 10, false, false),
            ] {
                let path = folder.path().join("train-0.parquet");
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .set_dictionary_enabled(dictionary)
                    .set_max_row_group_row_count(Some(group))
                    .set_data_page_row_count_limit(rows_of_page)
                    .set_write_batch_size(1)
                    .set_offset_index_disabled(!paged)
                    .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
                    .build();
                let batch = batch(0, 60);
                let file = std::fs::File::create(&path).unwrap();
                let mut writer =
                    ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
                writer.write(&batch).unwrap();
                writer.close().unwrap();
                let source = open(&config(folder.path())).unwrap();
                let pages = source.files[0].pages(0, 0).unwrap().len();
                let expected = 60usize.min(group).div_ceil(rows_of_page);
                assert_eq!(pages, expected, "{rows_of_page}, {dictionary}, {paged}");
                for at in (0..60).map(|at| at * 37 % 60) {
                    let picture = source.image(Split::Train, at).unwrap().unwrap();
                    assert_eq!(picture.get_pixel(0, 0).0[0], all[at]);
                }
            }
        }

        /// An object that cannot be read from a byte on.
        struct Broken {
            inner: crate::store::InMemory,
            error: Mutex<Option<ReadError>>,
        }

        impl Object for Broken {
            fn name(&self) -> &str {
                self.inner.name()
            }

            fn size(&self) -> u64 {
                self.inner.size()
            }

            fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
                match &*self.error.lock().unwrap() {
                    Some(error) => Err(error.clone()),
                    None => self.inner.read(offset, length),
                }
            }
        }

        /// A disk that fails says nothing of the file, wherever it fails; the pictures are there when it works again.
        #[test]
        fn what_cannot_be_read_now_is_not_damaged() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.parquet");
            write(&path, &batch(0, 12), false, 5);
            let object = Arc::new(Broken {
                inner: crate::store::InMemory {
                    name: "a".to_owned(),
                    bytes: std::fs::read(&path).unwrap(),
                },
                error: Mutex::new(None),
            });
            let fails = |error: Option<std::io::Error>| {
                *object.error.lock().unwrap() = error.map(ReadError::from);
            };
            let config = config(folder.path());
            fails(Some(std::io::Error::from_raw_os_error(5)));
            let error = read_file(Arc::clone(&object) as Arc<dyn Object>, &config)
                .err()
                .unwrap();
            assert!(error.is_unavailable(), "{error}");
            fails(None);
            let (table, _) = read_file(Arc::clone(&object) as Arc<dyn Object>, &config).unwrap();
            for work in [0, 1] {
                fails(Some(std::io::Error::from_raw_os_error(24)));
                let read = |row| match work {
                    0 => table.pages(0, 0).map(|pages| pages.len()),
                    _ => {
                        let rows = table
                            .chunks
                            .caught(|chunks| table.rows(chunks, 0, 0, row, 1));
                        rows.map(|rows| rows.len())
                    }
                };
                let error = read(2).unwrap_err();
                assert!(error.is_unavailable(), "{error}");
                fails(None);
                assert!(read(2).unwrap() > 0);
            }
        }

        #[test]
        fn a_name_with_a_dot_and_each_compression() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.parquet");
            let whole = batch(0, 9);
            let renamed = RecordBatch::try_from_iter([
                ("img.data", Arc::clone(whole.column(0))),
                ("caption", Arc::clone(whole.column(1))),
            ])
            .unwrap();
            let config = ParquetConfig {
                path: None,
                train: vec![path.clone()],
                image_column: "img.data".to_owned(),
                ..config(folder.path())
            };
            for compression in [
                Compression::UNCOMPRESSED,
                Compression::SNAPPY,
                Compression::ZSTD(Default::default()),
                Compression::GZIP(Default::default()),
            ] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .build();
                let file = std::fs::File::create(&path).unwrap();
                let mut writer =
                    ArrowWriter::try_new(file, renamed.schema(), Some(properties)).unwrap();
                writer.write(&renamed).unwrap();
                writer.close().unwrap();
                let source = open(&config).unwrap();
                assert_eq!(all(&source, Split::Train), numbers(0..9), "{compression}");
            }
            let mut strings = config;
            strings.image_column = "caption".to_owned();
            let message = open(&strings).err().unwrap().to_string();
            assert!(message.contains("neither binary nor"), "{message}");
        }

        #[test]
        fn a_share_is_held_out_where_no_file_is() {
            let folder = tempfile::tempdir().unwrap();
            write(
                &folder.path().join("train-0.parquet"),
                &batch(0, 200),
                true,
                50,
            );
            let mut share = config(folder.path());
            share.val_fraction = 0.25;
            let source = open(&share).unwrap();
            // Five standard deviations of a binomial of 200 at 0.25.
            const TOLERANCE: usize = 31;
            assert!(source.len(Split::Val).abs_diff(50) < TOLERANCE);
            let mut rows = all(&source, Split::Train);
            rows.extend(all(&source, Split::Val));
            rows.sort_by_key(|(_, number)| *number);
            assert_eq!(rows, numbers(0..200));
        }

        #[test]
        fn rows_of_a_picture_are_of_one_split() {
            let folder = tempfile::tempdir().unwrap();
            for name in ["train-0.parquet", "train-1.parquet"] {
                write(&folder.path().join(name), &batch(0, 120), true, 50);
            }
            let mut share = config(folder.path());
            share.val_fraction = 0.25;
            let shades = |config: &ParquetConfig| {
                let source = open(config).unwrap();
                let of = |split| -> HashSet<u8> {
                    all(&source, split)
                        .into_iter()
                        .map(|(_, shade)| shade)
                        .collect()
                };
                let (train, val) = (of(Split::Train), of(Split::Val));
                assert!(!val.is_empty() && train.len() + val.len() >= 120);
                train.intersection(&val).count()
            };
            assert_eq!(shades(&share), 0);
            for (told_by, leaks) in [("content", false), ("id", false), ("row", true)] {
                share.picture_id = Some(told_by.to_owned());
                assert_eq!(shades(&share) > 0, leaks, "{told_by}");
            }
            // What is held out as a file is told apart too: captions are retrieved of pictures, not of rows.
            std::fs::rename(
                folder.path().join("train-1.parquet"),
                folder.path().join("test-1.parquet"),
            )
            .unwrap();
            std::fs::copy(
                folder.path().join("test-1.parquet"),
                folder.path().join("test-2.parquet"),
            )
            .unwrap();
            let divided = open(&config(folder.path())).unwrap();
            assert_eq!(
                (divided.len(Split::Train), divided.len(Split::Test)),
                (120, 240)
            );
            assert!(divided.repeats_pictures(Split::Test));
            let of = |index| divided.picture_id(Split::Test, index).unwrap();
            assert!(of(7) == of(127) && of(7) != of(8));
            std::fs::rename(
                folder.path().join("test-1.parquet"),
                folder.path().join("train-1.parquet"),
            )
            .unwrap();
            std::fs::remove_file(folder.path().join("test-2.parquet")).unwrap();
            let source = open(&config(folder.path())).unwrap();
            let id = |index| source.sample(Split::Train, index).unwrap().picture_id;
            assert!(id(7) == id(127) && id(7) != id(8));
            share.picture_id = Some("absent".to_owned());
            let message = open(&share).err().unwrap().to_string();
            assert!(message.contains("no column `absent`"), "{message}");
        }

        #[test]
        fn files_and_folders_that_are_called_as_splits_are_splits() {
            let folder = tempfile::tempdir().unwrap();
            for (name, first, last) in [
                ("data/train-00000-of-00001.parquet", 0, 5),
                ("data/Validation-00000-of-00001.parquet", 5, 7),
                ("test/0000.parquet", 7, 9),
                ("odd/0000.parquet", 9, 12),
            ] {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                write(&path, &batch(first, last), true, 20);
            }
            let source = open(&config(folder.path())).unwrap();
            assert_eq!(all(&source, Split::Train), numbers(0..5));
            assert_eq!(all(&source, Split::Val), numbers(5..7));
            assert_eq!(all(&source, Split::Test), numbers(7..9));
            let left = "1 files left out (1 called \"odd/0000.parquet\")";
            assert!(source.describe().contains(left), "{}", source.describe());
        }

        #[test]
        fn what_cannot_be_read_is_named() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("train-0.parquet");
            let refused = |config: &ParquetConfig| open(config).err().unwrap().to_string();
            let message = refused(&config(folder.path()));
            assert!(message.contains("no .parquet file"), "{message}");
            std::fs::write(&path, b"PAR1 no parquet PAR1").unwrap();
            let message = refused(&config(folder.path()));
            assert!(message.contains("train-0.parquet"), "{message}");
            write(&path, &batch(0, 5), true, 50);
            type Change = fn(&mut ParquetConfig);
            let cases: [(&str, Change); 9] = [
                ("no column `picture`; there are image, caption, id", |c| {
                    c.image_column = "picture".into();
                }),
                ("no column `text`", |c| c.text_columns = vec!["text".into()]),
                ("column `id` is Int32", |c| {
                    c.text_columns = vec!["id".into()]
                }),
                ("`data.parquet.path`", |c| c.path = None),
                ("`data.parquet.path`", |c| c.train = vec!["x".into()]),
                ("`data.parquet.val`", |c| c.val = vec!["x".into()]),
                ("`data.parquet.text_columns`", |c| c.text_columns.clear()),
                ("`data.parquet.image_column`", |c| c.image_column.clear()),
                ("`data.parquet.val_fraction`", |c| c.val_fraction = 3.0),
            ];
            for (part, change) in cases {
                let mut config = config(folder.path());
                change(&mut config);
                let message = refused(&config);
                assert!(message.contains(part), "{message}");
            }
        }

        /// Reads all that a damaged file still gives.
        fn read_all(path: &Path) -> Result<(), DataError> {
            let rows = Rows::open(
                &ParquetConfig {
                    path: None,
                    train: vec![path.to_owned()],
                    ..ParquetConfig::default()
                },
                &LIMITS,
            )?;
            for index in 0..rows.len(Split::Train) {
                // What is broken says so.
                let _ = rows.image(Split::Train, index);
            }
            Ok(())
        }

        /// Damage anywhere in a file is an error or costs single pictures; it never panics.
        #[test]
        fn damage_is_refused() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("train-0.parquet");
            write(&path, &batch(0, 12), true, 5);
            let good = std::fs::read(&path).unwrap();
            let mut refused = 0;
            for at in (0..good.len()).step_by(23) {
                let mut damaged = good.clone();
                damaged[at] ^= 0x41;
                std::fs::write(&path, &damaged).unwrap();
                refused += usize::from(read_all(&path).is_err());
                std::fs::write(&path, &good[..at]).unwrap();
                assert!(read_all(&path).is_err(), "cut at {at}");
            }
            assert!(refused > 0);
        }
    }
}
