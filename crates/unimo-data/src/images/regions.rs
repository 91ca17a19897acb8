//! Images as regions, and the files that hold them.
//!
//! A region is `F` numbers: a feature, then its box in the last six: `x1 / W`, `y1 / H`, `x2 / W`, `y2 / H`, `w / W`, `h / H`. The
//! format of the files is described at [`RegionsConfig`](crate::RegionsConfig).

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use unimo_batch::{NO_CLASS, Regions};

use crate::error::ReadError;
use crate::store;

/// Numbers of a region's box.
pub(crate) const POSITION: usize = 6;
/// How far a detector's box, or its rounding to f16, may exceed an edge.
const ROUNDING: f32 = 0.01;

/// Largest file of features, in bytes: 16,000 regions of 2,054 numbers in f64.
const LARGEST_FILE: u64 = 1 << 28;

/// Number and width of an image's regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionShape {
    /// Largest number of regions per image; batches are padded to it.
    pub most: usize,
    /// Numbers per region.
    pub features: usize,
}

/// The regions of one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PictureRegions {
    /// `[R, F]`, row-major.
    pub features: Vec<f32>,
    /// `R` boxes: x1, y1, x2, y2 relative to width and height.
    pub boxes: Vec<[f32; 4]>,
    /// `R`: the class of each, or [`NO_CLASS`]; empty if classes are not known.
    pub classes: Vec<i32>,
    /// `[R, K]`: how likely each of `K` classes is, by the detector; empty if it is not known.
    pub probabilities: Vec<f32>,
}

/// The regions in a `.npy` or `.safetensors` file; with their classes if they are to be `labelled`.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read(path: &Path, shape: RegionShape, labelled: bool) -> Result<PictureRegions, ReadError> {
    let npy = path.extension().is_some_and(|extension| extension == "npy");
    let read = || {
        let bytes = store::read_listed(path, LARGEST_FILE)?;
        if !npy {
            let mut regions = of_safetensors(&bytes, shape.features)?.regions(shape)?;
            if labelled {
                read_classes(&bytes, &mut regions)?;
            }
            return Ok(regions);
        }
        if labelled {
            return Err(
                "a .npy file holds no classes, which data.regions.labels asks for; a .safetensors file beside \"features\" can hold \
                 \"classes\""
                    .to_owned()
                    .into(),
            );
        }
        Ok(of_npy(&bytes)?.regions(shape)?)
    };
    read().map_err(|error: ReadError| {
        error.told(|reason| format!("features {}: {reason}", path.display()))
    })
}

/// Regions padded to the same number, as in a batch.
pub fn pad(pictures: &[&PictureRegions], shape: RegionShape) -> Regions {
    let RegionShape { most, features } = shape;
    let mut all = Regions {
        features: Vec::with_capacity(pictures.len() * most * features),
        boxes: Vec::with_capacity(pictures.len() * most * 4),
        count: most,
        counts: Vec::with_capacity(pictures.len()),
        hidden: None,
    };
    for (row, picture) in pictures.iter().enumerate() {
        all.counts.push(picture.boxes.len());
        all.features.extend(&picture.features);
        all.features.resize((row + 1) * most * features, 0.0);
        all.boxes.extend(picture.boxes.iter().flatten());
        all.boxes.resize((row + 1) * most * 4, 0.0);
    }
    all
}

/// Numbers from a file, row by row.
struct Table {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// A box as the last numbers of a region.
pub(crate) fn position([x1, y1, x2, y2]: [f32; 4]) -> [f32; POSITION] {
    [x1, y1, x2, y2, x2 - x1, y2 - y1]
}

impl Table {
    /// The first regions, validated.
    fn regions(mut self, shape: RegionShape) -> Result<PictureRegions, String> {
        if self.columns != shape.features {
            return Err(format!(
                "{} numbers for a region, `data.regions.features` is {}",
                self.columns, shape.features
            ));
        }
        if self.rows == 0 {
            return Err("no region".to_owned());
        }
        self.values
            .truncate(self.rows.min(shape.most) * self.columns);
        if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
            let (row, column) = (at / self.columns, at % self.columns);
            return Err(format!(
                "number {column} of region {row} is {}",
                self.values[at]
            ));
        }
        let mut boxes = Vec::with_capacity(shape.most);
        for (row, region) in self.values.chunks(self.columns).enumerate() {
            let of = &region[self.columns - POSITION..];
            let [x1, y1, x2, y2] = std::array::from_fn(|edge| of[edge]);
            let inside = |edge: f32| (-ROUNDING..=1.0 + ROUNDING).contains(&edge);
            if ![x1, y1, x2, y2].into_iter().all(inside) || x1 > x2 + ROUNDING || y1 > y2 + ROUNDING
            {
                return Err(format!(
                    "the box of region {row} is [{x1}, {y1}, {x2}, {y2}]; the last six numbers must be x1, y1, x2, y2, width and \
                     height as shares of the image's sides"
                ));
            }
            boxes.push([x1, y1, x2, y2].map(|edge| edge.clamp(0.0, 1.0)));
        }
        Ok(PictureRegions {
            boxes,
            features: self.values,
            ..PictureRegions::default()
        })
    }
}

/// `[R, F]` of f16, f32 or f64.
fn of_npy(bytes: &[u8]) -> Result<Table, String> {
    // From version 2 on, the header's length has four bytes; the length is accepted as it is.
    if let (Some(2..), Some(length)) = (bytes.get(6), bytes.get(8..12)) {
        let length = length
            .iter()
            .rev()
            .fold(0, |sum, b| sum << 8 | u64::from(*b));
        if length > bytes.len() as u64 {
            return Err(format!("cut short: its header promises {length} bytes"));
        }
    }
    let open = || npyz::NpyFile::new(bytes).map_err(|error| error.to_string());
    let file = open()?;
    let kind = file.dtype().descr();
    let &[rows, columns] = file.shape() else {
        return Err(format!(
            "of shape {:?}, not [regions, numbers]",
            file.shape()
        ));
    };
    if file.order() != npyz::Order::C {
        return Err("in Fortran's order; numpy.ascontiguousarray gives the other".to_owned());
    }
    // Checks that the file holds what its header declares before memory is allocated.
    let promised = rows.checked_mul(columns).ok_or("too many numbers")?;
    if promised > bytes.len() as u64 {
        return Err(format!("cut short: its header promises {rows} x {columns}"));
    }
    let wrong = |error: std::io::Error| error.to_string();
    let values = if let Ok(data) = open()?.data::<f32>() {
        data.collect::<Result<Vec<_>, _>>().map_err(wrong)?
    } else if let Ok(data) = open()?.data::<half::f16>() {
        let values = data.map(|value| value.map(half::f16::to_f32));
        values.collect::<Result<Vec<_>, _>>().map_err(wrong)?
    } else if let Ok(data) = open()?.data::<f64>() {
        let values = data.map(|value| value.map(|value| value as f32));
        values.collect::<Result<Vec<_>, _>>().map_err(wrong)?
    } else {
        return Err(format!("of {kind}, not of f16, f32 or f64"));
    };
    Ok(Table {
        rows: rows as usize,
        columns: columns as usize,
        values,
    })
}

/// `features`, and `boxes` if separate.
fn of_safetensors(bytes: &[u8], features: usize) -> Result<Table, String> {
    let wrong = |error: SafeTensorError| error.to_string();
    let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let table = |name: &str| -> Result<Option<Table>, String> {
        let Ok(tensor) = file.tensor(name) else {
            return Ok(None);
        };
        let &[rows, columns] = tensor.shape() else {
            let shape = tensor.shape();
            return Err(format!("{name:?} is of shape {shape:?}, not of two sides"));
        };
        Ok(Some(Table {
            rows,
            columns,
            values: numbers(&tensor).ok_or_else(|| {
                let kind = tensor.dtype();
                format!("{name:?} is of {kind:?}, not of F16, BF16, F32 or F64")
            })?,
        }))
    };
    let own = table("features")?.ok_or_else(|| {
        let names = file.names().join(", ");
        format!("no tensor \"features\", only: {names}")
    })?;
    let Some(boxes) = table("boxes")? else {
        return Ok(own);
    };
    if own.columns + POSITION != features {
        return Err(format!(
            "{} \"features\" of a region beside \"boxes\", {} are needed: `data.regions.features` is {features} with the box",
            own.columns,
            features.saturating_sub(POSITION)
        ));
    }
    if [boxes.rows, boxes.columns] != [own.rows, 4] {
        return Err(format!(
            "{} x {} \"boxes\" for {} regions, not {} x 4",
            boxes.rows, boxes.columns, own.rows, own.rows
        ));
    }
    let mut values = Vec::with_capacity(own.rows * features);
    for row in 0..own.rows {
        values.extend(&own.values[row * own.columns..][..own.columns]);
        values.extend(position(std::array::from_fn(|i| boxes.values[row * 4 + i])));
    }
    Ok(Table {
        rows: own.rows,
        columns: features,
        values,
    })
}

/// Reads the classes of regions: `classes`, or the most probable of `probabilities`.
fn read_classes(bytes: &[u8], regions: &mut PictureRegions) -> Result<(), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let count = regions.boxes.len();
    if let Ok(tensor) = file.tensor("probabilities") {
        let &[rows, classes] = tensor.shape() else {
            let shape = tensor.shape();
            return Err(format!(
                "\"probabilities\" is of shape {shape:?}, not [regions, classes]"
            ));
        };
        let kind = tensor.dtype();
        let mut values = numbers(&tensor).ok_or_else(|| {
            format!("\"probabilities\" is of {kind:?}, not of F16, BF16, F32 or F64")
        })?;
        if rows < count || classes == 0 {
            return Err(format!(
                "{rows} x {classes} \"probabilities\" for {count} regions"
            ));
        }
        values.truncate(count * classes);
        for (row, of) in values.chunks(classes).enumerate() {
            let wrong = of.iter().position(|p| !(0.0..=1.0 + ROUNDING).contains(p));
            if let Some(class) = wrong {
                return Err(format!(
                    "the probability of class {class} of region {row} is {}, not from 0 to 1",
                    of[class]
                ));
            }
            if of.iter().sum::<f32>() <= 0.0 {
                return Err(format!("the probabilities of region {row} are all 0"));
            }
            let best = (0..classes).max_by(|a, b| of[*a].total_cmp(&of[*b]).then(b.cmp(a)));
            regions
                .classes
                .push(best.map_or(NO_CLASS, |class| class as i32));
        }
        regions.probabilities = values;
    }
    let Ok(tensor) = file.tensor("classes") else {
        if regions.classes.is_empty() {
            let names = file.names().join(", ");
            return Err(format!(
                "neither \"classes\" nor \"probabilities\", of which data.regions.labels asks for one; only: {names}"
            ));
        }
        return Ok(());
    };
    let &[rows] = tensor.shape() else {
        let shape = tensor.shape();
        return Err(format!("\"classes\" is of shape {shape:?}, not [regions]"));
    };
    let kind = tensor.dtype();
    let whole = whole_numbers(&tensor)
        .ok_or_else(|| format!("\"classes\" is of {kind:?}, not of I64, I32, I16 or U8"))?;
    if rows < count {
        return Err(format!("{rows} \"classes\" for {count} regions"));
    }
    regions.classes.clear();
    for (row, class) in whole.into_iter().take(count).enumerate() {
        let known = i32::try_from(class).ok().filter(|class| *class >= 0);
        regions.classes.push(known.ok_or_else(|| {
            format!("the class of region {row} is {class}, not a whole number from 0")
        })?);
    }
    Ok(())
}

/// A tensor's whole numbers; `None` for another dtype.
fn whole_numbers(tensor: &TensorView<'_>) -> Option<Vec<i64>> {
    let bytes = tensor.data();
    Some(match tensor.dtype() {
        Dtype::I64 => {
            let of = |b: &[u8; 8]| i64::from_le_bytes(*b);
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::I32 => {
            let of = |b: &[u8; 4]| i64::from(i32::from_le_bytes(*b));
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::I16 => {
            let of = |b: &[u8; 2]| i64::from(i16::from_le_bytes(*b));
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::U8 => bytes.iter().map(|b| i64::from(*b)).collect(),
        _ => return None,
    })
}

/// A tensor's numbers; `None` for a dtype that features are not stored in.
pub(crate) fn numbers(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let bytes = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => {
            let of = |b: &[u8; 4]| f32::from_le_bytes(*b);
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::F64 => {
            let of = |b: &[u8; 8]| f64::from_le_bytes(*b) as f32;
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::F16 => {
            let of = |b: &[u8; 2]| half::f16::from_le_bytes(*b).to_f32();
            bytes.as_chunks().0.iter().map(of).collect()
        }
        Dtype::BF16 => {
            let of = |b: &[u8; 2]| half::bf16::from_le_bytes(*b).to_f32();
            bytes.as_chunks().0.iter().map(of).collect()
        }
        _ => return None,
    })
}
