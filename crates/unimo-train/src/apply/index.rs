//! Embeddings in a file, as `unimo embed` writes them and `unimo search --index` reads them.
//!
//! A safetensors file holds `images` and `texts`, `[N, E]` each, and in its notes what they are:
//!
//! | note | |
//! |---|---|
//! | `images.ids` | the name of each row, as a JSON list; where the names take more than [`LONGEST_NOTE`], the tensor `images.ids` has the list's bytes |
//! | `images.model` | a digest of the weights and of what decides their input |
//! | `images.data` | a digest of the names of all images that were given, and how many they were |
//! | `images.probes`, `images.recall`, `images.measured` | how many cells are read, and the share of the nearest rows that is then found |
//!
//! Where rows are [in cells](super::nearest), the tensors `images.centres` and `images.starts` say where. The tensor `images.sums` has the
//! CRC-32C of each row, so that rows can be read alone and checked. The same goes for `texts`. Files of earlier versions have no checksums.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use safetensors::Dtype;
use safetensors::tensor::View;
use serde::{Deserialize, Serialize};
use unimo_core::parameters;
use unimo_data::digest::{Digest, hex};
use unimo_data::processor;
use unimo_encoders::weights::{self, SafetensorsFile};

use super::nearest::{Cells, Near, Nearest, Search};
use super::{Matcher, Predictor};
use crate::error::TrainError;
use crate::files;

/// Rows with the name of each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Embedded {
    /// Names of images, or texts.
    pub ids: Vec<String>,
    /// `E`.
    pub width: usize,
    /// `[N, E]`, each row of length 1.
    pub values: Vec<f32>,
    /// Inputs that could not be used, with their reasons.
    pub skipped: Vec<(String, String)>,
}

impl Embedded {
    /// The row with this index.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }
}

/// What is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Images.
    Images,
    /// Texts.
    Texts,
}

impl What {
    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Texts => "texts",
        }
    }
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What is embedded.
    pub what: What,
    /// The rows.
    pub rows: Embedded,
    /// A digest of the model.
    pub model: String,
    /// A digest of what was given, and how much that was.
    pub data: String,
    /// The cells that the rows are sorted by.
    pub cells: Option<Cells>,
}

/// Names that take more bytes are no note but a tensor: readers bound the header of a file.
pub const LONGEST_NOTE: usize = 4 << 20;

/// What a note says of the file itself.
const FORMAT: &str = "unimo-embeddings 1";

/// A tensor of a file.
struct Stored<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Floats(&'a [f32]),
    Whole(Vec<i64>),
    Bytes(Vec<u8>),
}

impl View for &Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Floats(_) => Dtype::F32,
            Values::Whole(_) => Dtype::I64,
            Values::Bytes(_) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            // The bytes in memory are those of the file, and a copy of them might not fit.
            Values::Floats(values) if cfg!(target_endian = "little") => {
                Cow::Borrowed(bytemuck::cast_slice(values))
            }
            Values::Floats(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Whole(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Bytes(values) => Cow::Borrowed(values),
        }
    }

    fn data_len(&self) -> usize {
        match &self.values {
            Values::Floats(values) => size_of_val(*values),
            Values::Whole(values) => size_of_val(values.as_slice()),
            Values::Bytes(values) => values.len(),
        }
    }
}

/// Writes the parts of a file.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(path: &Path, parts: &[Part]) -> Result<(), TrainError> {
    let mut notes = BTreeMap::from([("format".to_owned(), FORMAT.to_owned())]);
    let mut tensors: Vec<(String, Stored<'_>)> = Vec::new();
    for part in parts {
        let (what, rows) = (part.what.name(), &part.rows);
        let floats = |values, shape: [usize; 2]| Stored {
            shape: shape.to_vec(),
            values: Values::Floats(values),
        };
        tensors.push((
            what.to_owned(),
            floats(&rows.values, [rows.ids.len(), rows.width]),
        ));
        let sums = (0..rows.ids.len()).map(|row| i64::from(sum_of(rows.row(row))));
        tensors.push((
            format!("{what}.sums"),
            Stored {
                shape: vec![rows.ids.len()],
                values: Values::Whole(sums.collect()),
            },
        ));
        let ids = serde_json::to_string(&rows.ids)
            .map_err(|e| TrainError::Check(format!("{}: {e}", path.display())))?;
        let key = |key: &str| format!("{what}.{key}");
        if ids.len() > LONGEST_NOTE {
            tensors.push((
                key("ids"),
                Stored {
                    shape: vec![ids.len()],
                    values: Values::Bytes(ids.into_bytes()),
                },
            ));
        } else {
            notes.insert(key("ids"), ids);
        }
        notes.insert(key("model"), part.model.clone());
        notes.insert(key("data"), part.data.clone());
        if let Some(cells) = &part.cells {
            let starts: Vec<i64> = cells.starts.iter().map(|start| *start as i64).collect();
            let count = starts.len();
            tensors.push((
                key("centres"),
                floats(&cells.centres, [count - 1, rows.width]),
            ));
            tensors.push((
                key("starts"),
                Stored {
                    shape: vec![count],
                    values: Values::Whole(starts),
                },
            ));
            notes.insert(key("probes"), cells.probes.to_string());
            notes.insert(key("recall"), cells.recall.to_string());
            notes.insert(key("measured"), cells.measured.to_string());
        }
    }
    let tensors: Vec<(&str, &Stored<'_>)> = tensors
        .iter()
        .map(|(name, stored)| (name.as_str(), stored))
        .collect();
    files::write_with(path, |out| {
        weights::write_noted_safetensors(out, tensors, &notes)
    })
}

/// The checksum of a row.
fn sum_of(row: &[f32]) -> u32 {
    if cfg!(target_endian = "little") {
        return crc32c::crc32c(bytemuck::cast_slice(row));
    }
    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    crc32c::crc32c(&bytes)
}

/// A digest of what decides the embeddings of a model: its weights, how images are prepared, how texts become tokens. A run and its
/// export in f32 have the same.
///
/// # Errors
///
/// The model reads no such input.
pub fn digest(predictor: &Predictor, what: What) -> Result<String, TrainError> {
    let mut sum = Digest::default();
    match &predictor.matcher {
        Matcher::Pair(model) => {
            add(&mut sum, &model.backbone);
            if let Some(itc) = &model.objectives.itc {
                add(&mut sum, itc);
            }
        }
        Matcher::Clip(clip) => add(&mut sum, &**clip),
        Matcher::Text(encoder, _) => add(&mut sum, &**encoder),
        Matcher::Image(encoder) => add(&mut sum, &**encoder),
    }
    if matches!(predictor.matcher, Matcher::Text(..) | Matcher::Image(_)) {
        sum.add(format!("{:?}", predictor.pooling).as_bytes());
    }
    match what {
        What::Images => sum.add(
            processor::to_json(predictor.pictures()?)
                .to_string()
                .as_bytes(),
        ),
        What::Texts => {
            sum.add(predictor.tokenizer()?.to_json()?.as_bytes());
            sum.add(&predictor.max_text_length.to_le_bytes());
            sum.add(&[u8::from(predictor.concepts.is_some())]);
        }
    }
    Ok(hex(&sum.finish()))
}

/// Names, shapes and checksums of all parameters: a checksum of gigabytes takes a moment, another digest of them seconds.
fn add<M: Module>(sum: &mut Digest, module: &M) {
    for handle in parameters::handles(module) {
        sum.add(handle.name.as_bytes());
        sum.add(format!("{:?}", handle.shape).as_bytes());
        let values = handle.fetch();
        sum.add(&crc32c::crc32c(values.as_bytes()).to_le_bytes());
    }
}

/// Rows that are read at once: 8 MiB at a width of 512.
const BLOCK: usize = 4096;

/// A part of a file, opened for a search.
pub struct Saved {
    path: PathBuf,
    what: What,
    file: SafetensorsFile,
    ids: Vec<String>,
    width: usize,
    data: String,
    /// The checksum of each row; none in a file of an earlier version.
    sums: Vec<i64>,
    /// Cells that rows are sorted by, unless all rows are to be read.
    cells: Option<Cells>,
}

impl Saved {
    /// Opens the part of a file that the model with this [digest] has made; `given` is how the user calls the model.
    ///
    /// # Errors
    ///
    /// The file cannot be read, has no such part, or is of another model.
    pub fn open(path: &Path, what: What, digest: &str, given: &str) -> Result<Self, TrainError> {
        let name = what.name();
        let wrong = |reason: String| TrainError::Check(format!("{}: {reason}", path.display()));
        let mut file = SafetensorsFile::open(path)?;
        let Some(&[count, width]) = file.info(name).as_ref().map(|info| info.shape.as_slice())
        else {
            return Err(wrong(format!(
                "holds no embeddings of {name}: `unimo embed --{name} ... --out` writes them"
            )));
        };
        let Some(model) = file.note(&format!("{name}.model")) else {
            return Err(wrong(
                "does not say which model made it, as a file of `unimo embed` does: embed again"
                    .to_owned(),
            ));
        };
        if model != digest {
            return Err(wrong(format!(
                "was made by another model than {given}, or by other weights of it: embed the {name} again with this one"
            )));
        }
        let data = file.note(&format!("{name}.data")).unwrap_or_default();
        let data = data.to_owned();
        let ids = match file.note(&format!("{name}.ids")) {
            Some(ids) => serde_json::from_str(ids),
            None => serde_json::from_slice(&file.bytes(&format!("{name}.ids"))?),
        };
        let ids: Vec<String> = ids.map_err(|e| wrong(format!("has damaged names: {e}")))?;
        if ids.len() != count || width == 0 {
            return Err(wrong(format!(
                "has {} names for {count} rows of {width} numbers",
                ids.len()
            )));
        }
        let key = format!("{name}.sums");
        let sums = match file.info(&key) {
            Some(_) => file.integers(&key)?.0,
            None => Vec::new(),
        };
        if !sums.is_empty() && sums.len() != count {
            return Err(wrong(format!(
                "has {} checksums for {count} rows",
                sums.len()
            )));
        }
        let cells = cells(&mut file, name, [count, width])
            .map_err(|error| wrong(format!("has damaged cells: {error}")))?;
        Ok(Self {
            path: path.to_owned(),
            what,
            file,
            ids,
            width,
            data,
            sums,
            cells,
        })
    }

    /// Reads all rows in a search, although there are cells; whether there are.
    pub fn read_all(&mut self) -> bool {
        self.cells.take().is_some()
    }

    /// One line about a search: how many rows are read, and what that misses.
    pub fn describe(&self) -> String {
        let (rows, name) = (self.ids.len(), self.what.name());
        match &self.cells {
            None => format!("{}: all of {rows} {name} are read", self.path.display()),
            Some(cells) => format!(
                "{}: the {} nearest of {} cells of {rows} {name} are read, which found {:.1}% of the {} nearest of {} queries; --exact reads all",
                self.path.display(),
                cells.probes,
                cells.starts.len() - 1,
                100.0 * cells.recall,
                super::nearest::NEIGHBOURS,
                cells.measured
            ),
        }
    }

    /// The names of the rows.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Checks that it was made of this.
    ///
    /// # Errors
    ///
    /// It was not.
    pub fn check_data(&self, data: &str, given: &Path) -> Result<(), TrainError> {
        if data == self.data {
            return Ok(());
        }
        let count = |data: &str| data.split(' ').next().unwrap_or_default().to_owned();
        Err(TrainError::Check(format!(
            "{} was made of other {name} than {} holds: of {} then, there are {} now, or they have other names; embed them again",
            self.path.display(),
            given.display(),
            count(&self.data),
            count(data),
            name = self.what.name()
        )))
    }

    /// The `count` nearest rows of each query.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn nearest(
        &mut self,
        queries: Vec<&[f32]>,
        count: usize,
    ) -> Result<Vec<Vec<Near>>, TrainError> {
        let (name, width) = (self.what.name(), self.width);
        let mut rows = Vec::new();
        if let Some(cells) = &self.cells {
            let mut found = Vec::new();
            for query in queries {
                let mut nearest = Nearest::new(count);
                for range in cells.near(query) {
                    self.file
                        .rows_into(name, range.start, range.len(), &mut rows)?;
                    check(&self.path, &self.sums, width, range.start, &rows)?;
                    nearest.read(query, &rows, range.start);
                }
                found.push(nearest.sorted());
            }
            return Ok(found);
        }
        let mut search = Search::new(queries, count);
        for first in (0..self.ids.len()).step_by(BLOCK) {
            let some = BLOCK.min(self.ids.len() - first);
            self.file.rows_into(name, first, some, &mut rows)?;
            debug_assert_eq!(rows.len(), some * width);
            check(&self.path, &self.sums, width, first, &rows)?;
            search.read(&rows, first);
        }
        Ok(search.found())
    }
}

/// Compares rows, of which `first` is the first, with their checksums, where there are any.
fn check(
    path: &Path,
    sums: &[i64],
    width: usize,
    first: usize,
    rows: &[f32],
) -> Result<(), TrainError> {
    let sums = sums.iter().skip(first);
    let mut rows = rows.chunks_exact(width).zip(sums).zip(first..);
    match rows.find(|((row, sum), _)| i64::from(sum_of(row)) != **sum) {
        None => Ok(()),
        Some((_, row)) => Err(TrainError::Check(format!(
            "{} is damaged: row {} is not what was written; embed again",
            path.display(),
            row + 1
        ))),
    }
}

/// The cells of a part; `None` if its rows are in no cells.
fn cells(
    file: &mut SafetensorsFile,
    name: &str,
    [count, width]: [usize; 2],
) -> Result<Option<Cells>, String> {
    let centres = format!("{name}.centres");
    let Some(info) = file.info(&centres) else {
        return Ok(None);
    };
    let (starts, _) = file
        .integers(&format!("{name}.starts"))
        .map_err(|e| e.to_string())?;
    let starts: Result<Vec<usize>, _> = starts.into_iter().map(usize::try_from).collect();
    let starts = starts.map_err(|e| e.to_string())?;
    let number = |key: &str| -> Result<f64, String> {
        let note = file.note(&format!("{name}.{key}"));
        let number = note.and_then(|note| note.parse().ok());
        number.ok_or_else(|| format!("{name}.{key} is no number"))
    };
    let (probes, recall, measured) = (number("probes")?, number("recall")?, number("measured")?);
    let whole = starts.first() == Some(&0) && starts.last() == Some(&count);
    if !whole || !starts.is_sorted() || info.shape != [starts.len() - 1, width] {
        return Err(format!("`{name}.starts` does not divide {count} rows"));
    }
    Ok(Some(Cells {
        centres: file.values(&centres).map_err(|e| e.to_string())?,
        starts,
        probes: probes as usize,
        recall,
        measured: measured as usize,
    }))
}
