//! Finds rows that show the same image.

use std::collections::HashMap;

use arrow_array::ArrayRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::ParquetConfig;
use crate::error::ReadError;
use crate::formats::parquet::columns::{is_plain, picture, plain};
use crate::order::draws::{Stream, hash_text};
use crate::sources::parquet::table::{Said, Table};
use crate::sources::source::picture_of_bytes;
use crate::sources::splits::Split;
use crate::store;
use crate::threads::parallel;

/// How rows of the same image are found, if a share of the images is held out.
pub(super) struct Draw<'a> {
    pub(super) by: By<'a>,
    /// The same for held-out files: their captions belong to images, not to rows.
    pub(super) held: By<'a>,
    /// The draw of the first row of each image.
    pub(super) first: HashMap<u64, u64>,
}

pub(super) enum By<'a> {
    Content,
    Column(&'a str),
    Row,
}

/// Columns that identify the image of a row. `id` is not among them: it may identify anything.
const PICTURE_COLUMNS: [&str; 7] = [
    "image_id",
    "img_id",
    "imgid",
    "cocoid",
    "sha256",
    "image_url",
    "url",
];

/// Largest number of image bytes that are read when a source is opened: two seconds at a gigabyte a second.
const MOST_READ: i64 = 2_000_000_000;

impl By<'_> {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Content => "images by their content".to_owned(),
            Self::Column(column) => format!("images by the column `{column}`"),
            Self::Row => "rows".to_owned(),
        }
    }
}

impl<'a> Draw<'a> {
    /// `drawn`: whether any split is drawn.
    pub(super) fn new(
        config: &'a ParquetConfig,
        drawn: bool,
        tables: &[(Table, Vec<Said>)],
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
        let by = if drawn && config.val_fraction > 0.0 {
            By::of(config, &train)
        } else {
            By::Row
        };
        Self {
            by,
            held: By::of(config, &held_out),
            first: HashMap::new(),
        }
    }
}

impl<'a> By<'a> {
    /// As the recipe says, or the best that is cheap.
    pub(super) fn of(config: &'a ParquetConfig, tables: &[&Table]) -> Self {
        let has = |column: &&str| {
            let mut schemas = tables.iter().map(|table| table.metadata.schema());
            schemas.all(|schema| {
                let found = schema.column_with_name(column);
                found.is_some_and(|(_, field)| is_plain(field.data_type()))
            })
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

    /// For each row, its image, if known.
    pub(super) fn pictures(
        &self,
        table: &Table,
        rows: usize,
    ) -> Result<Vec<Option<u64>>, ReadError> {
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
                let at =
                    at.map_err(|_| format!("data.parquet.picture_id: no column `{name}` in it"))?;
                let kind = table.metadata.schema().field(at).data_type();
                if !is_plain(kind) {
                    let reason = format!(
                        "data.parquet.picture_id: column `{name}` is {kind}, neither texts nor numbers"
                    );
                    return Err(reason.into());
                }
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
        // Damage costs only its rows, and only when they are read. Data that only cannot be read now would be split differently, so
        // it is an error.
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

/// Number of rows whose images are decoded at once.
const PICTURES: usize = 64;
