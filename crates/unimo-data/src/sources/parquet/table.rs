//! One file: its columns, its texts, and the pages that hold its images.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::basic::Compression;
use parquet::column::page::PageReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::serialized_reader::SerializedPageReader;

use super::ParquetConfig;
use crate::error::ReadError;
use crate::formats::parquet::chunks::Chunks;
use crate::formats::parquet::columns::{each_text, is_plain, plain};
use crate::store::Object;

/// Number of rows whose texts are decoded at once.
const BATCH: usize = 1024;

pub(super) struct Table {
    pub(super) name: String,
    pub(super) chunks: Chunks,
    pub(super) metadata: ArrowReaderMetadata,
    /// First row of each row group.
    pub(super) starts: Vec<u64>,
    /// Number of the stored column with the images' bytes; `None` if images are not read.
    pub(super) image: Option<usize>,
    /// For each row group, the first row of each page with images; filled when one is first needed.
    pages: Vec<OnceLock<Vec<usize>>>,
}

impl Table {
    /// Stored bytes of the image columns.
    pub(super) fn picture_bytes(&self) -> i64 {
        let Some(column) = self.image else {
            return 0;
        };
        let groups = self.metadata.metadata().row_groups().iter();
        groups
            .map(|group| group.column(column).compressed_size())
            .sum()
    }

    pub(super) fn rows_of(&self, group: usize) -> usize {
        let next = self.starts.get(group + 1).copied();
        let rows = || self.metadata.metadata().file_metadata().num_rows() as u64;
        (next.unwrap_or_else(rows) - self.starts[group]) as usize
    }

    /// The first row of each page of a column of a row group.
    pub(super) fn pages(&self, group: usize, column: usize) -> Result<&[usize], ReadError> {
        let known = &self.pages[group];
        if let Some(starts) = known.get() {
            return Ok(starts);
        }
        let starts = match self.page_starts(group, column) {
            Err(error) if error.is_unavailable() => return Err(error),
            Ok(starts) if starts.first() == Some(&0) && starts.is_sorted() => starts,
            // If they are unknown, all rows are read together.
            _ => vec![0],
        };
        Ok(known.get_or_init(|| starts))
    }

    /// The same, read from the file: by its page index, or by the headers of the pages.
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
                // The column is not a list, so it has as many levels as rows.
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

    /// The images of some rows of a row group.
    pub(super) fn rows(
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

/// Refuses a column with an unsupported compression, and says what can be done.
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

/// What a file says of a row.
pub(super) struct Said {
    pub(super) captions: Vec<String>,
    /// The name of its split, if a column says it.
    pub(super) split: Option<String>,
}

/// Opens a file and reads its texts, and its splits if a column says them.
pub(super) fn read_file(
    object: Arc<dyn Object>,
    config: &ParquetConfig,
) -> Result<(Table, Vec<Said>), ReadError> {
    let whole = Chunks::new(object);
    whole.caught(|chunks| {
        let text = |error: ParquetError| error.to_string();
        // The stored types matter, not the types that the writer had.
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
            let mut found = (0..roots.len()).filter(|at| roots[*at].name() == column);
            match (found.next(), found.next()) {
                (Some(at), None) => Ok(at),
                (Some(_), Some(_)) => Err(format!(
                    "column `{column}` is there more than once, so that its name does not say which is meant"
                )),
                (None, _) => {
                    let names: Vec<&str> = roots.iter().map(|field| &**field.name()).collect();
                    Err(format!("no column `{column}`; there are {}", names.join(", ")))
                }
            }
        };
        // Names may contain dots, so paths are compared part by part.
        let stored = |path: &[&str]| {
            let mut all = schema.columns().iter();
            all.position(|column| column.path().parts() == path)
        };
        let image = if config.images {
            let name = config.image_column.as_str();
            let kind = roots[root(name)?].data_type();
            let column = match kind {
                DataType::Struct(_) => stored(&[name, "bytes"]),
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView => stored(&[name]),
                _ => None,
            };
            let column = column.ok_or_else(|| {
                format!("column `{name}` is {kind}, neither binary nor a struct of `bytes`")
            })?;
            refuse_compression(&metadata, column, name)?;
            Some(column)
        } else {
            None
        };
        let read = config.text_columns.iter().chain(&config.split_column);
        let texts = read.map(|column| root(column));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        if let (Some(name), Some(at)) = (&config.split_column, texts.last())
            && !is_plain(roots[*at].data_type())
        {
            let kind = roots[*at].data_type();
            return Err(format!("column `{name}` is {kind}, which names no split").into());
        }
        for (column, about) in schema.columns().iter().enumerate() {
            let of = about.path().parts().first();
            let is_read = |name: &&String| {
                config.text_columns.contains(name) || config.split_column.as_ref() == Some(*name)
            };
            if let Some(name) = of.filter(is_read) {
                refuse_compression(&metadata, column, name)?;
            }
        }
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(chunks.clone(), metadata.clone())
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

/// Appends what each row of a batch says.
pub(super) fn captions(
    batch: &RecordBatch,
    config: &ParquetConfig,
    all: &mut Vec<Said>,
) -> Result<(), String> {
    let columns = config
        .text_columns
        .iter()
        .map(|name| {
            let column = batch.column_by_name(name);
            column.ok_or_else(|| format!("no column `{name}`"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let split = config.split_column.as_ref();
    let split = split.and_then(|name| batch.column_by_name(name));
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
        all.push(Said {
            captions,
            split: split.and_then(|column| plain(column, row)),
        });
    }
    Ok(())
}
