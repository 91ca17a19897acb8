//! Reads public weights into a module, strictly, with an account of every tensor on either side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::module::Module;
use burn::tensor::TensorData;
use unimo_batch::Images;
use unimo_core::parameters;

use crate::image::resize_grid;
use crate::names::{Conversion, Names, Target, covers};
use crate::weights::{Dtype, TensorInfo, Weights, WeightsError};

/// Weights that do not fit.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model and the file do not agree.
    #[error("the weights of {origin} do not fit the model:\n{report}")]
    Mismatch {
        /// The file or folder.
        origin: String,
        /// Every tensor that is missing, unexpected or of another shape.
        report: Box<Report>,
    },
}

/// What may differ between a model and a checkpoint, as patterns of names ([`covers`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// Our parameters that may be missing; they keep their values.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that may be left unused, beside those known for this kind of checkpoint.
    pub unexpected: Vec<String>,
    /// Our parameters that keep their values although the checkpoint may have them.
    pub left: Vec<String>,
}

/// What became of every tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was stripped from names and which tensors were set aside when the file was opened, one line each.
    pub notes: Vec<String>,
    /// Tensors that are stored under another name: the name looked for, the stored name.
    pub tied: Vec<(String, String)>,
    /// Our parameter and the tensor that it was read from.
    pub used: Vec<(String, String)>,
    /// Our parameters that the checkpoint lacks, which was allowed.
    pub new: Vec<String>,
    /// Our parameters that the checkpoint lacks, with the name that was looked for.
    pub missing: Vec<(String, String)>,
    /// Tensors of the checkpoint that were not read, as is known of its kind or was allowed.
    pub unused: Vec<String>,
    /// Unknown tensors of the checkpoint.
    pub unexpected: Vec<String>,
    /// Tables of positions that were interpolated: name, stored shape, our shape.
    pub reshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tables whose last row was repeated for further rows of ours: name, stored shape, our shape.
    pub repeated: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors of a wrong shape: name, stored shape, our shape.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Report {
    /// Whether everything fits.
    pub fn fits(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// The accounts of two imports, from one or two checkpoints, as one.
    pub fn and(mut self, other: Self) -> Self {
        self.notes.extend(other.notes);
        self.tied.extend(other.tied);
        self.used.extend(other.used);
        self.new.extend(other.new);
        self.missing.extend(other.missing);
        self.unused.extend(other.unused);
        self.unexpected.extend(other.unexpected);
        self.reshaped.extend(other.reshaped);
        self.repeated.extend(other.repeated);
        self.mismatched.extend(other.mismatched);
        self
    }
}

/// One line per kind of tensor: names that differ only in an index share a line, and so does a part of a model that is new or unused as a
/// whole.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |f: &mut fmt::Formatter<'_>, what: &str, names: Vec<String>| {
            grouped(&names)
                .into_iter()
                .try_for_each(|line| writeln!(f, "  {what:<11} {line}"))
        };
        writeln!(f, "  used        {} tensors", self.used.len())?;
        let shapes = |all: &[(String, Vec<usize>, Vec<usize>)]| -> Vec<String> {
            all.iter()
                .map(|(name, there, here)| format!("{name} {there:?}, here {here:?}"))
                .collect()
        };
        lines(f, "names", self.notes.clone())?;
        let tied = self
            .tied
            .iter()
            .map(|(name, stored)| format!("{name} is stored as {stored}"));
        lines(f, "tied", tied.collect())?;
        lines(f, "reshaped", shapes(&self.reshaped))?;
        let repeated = shapes(&self.repeated).into_iter();
        let repeated = repeated
            .map(|line| format!("{line}: the further rows start as copies of the last stored one"));
        lines(f, "repeated", repeated.collect())?;
        let (ours, theirs): (Vec<&str>, Vec<&str>) = self
            .used
            .iter()
            .map(|(ours, theirs)| (ours.as_str(), theirs.as_str()))
            .unzip();
        lines(f, "new", by_parts(&self.new, &ours))?;
        lines(f, "unused", by_parts(&self.unused, &theirs))?;
        let missing = self
            .missing
            .iter()
            .map(|(ours, theirs)| match theirs.as_str() {
                "" => format!("{ours} (such checkpoints never have it)"),
                theirs => format!("{theirs} (here {ours})"),
            });
        lines(f, "missing", missing.collect())?;
        lines(f, "unexpected", self.unexpected.clone())?;
        lines(f, "wrong shape", shapes(&self.mismatched))
    }
}

/// From how many tensors on a part of a model is named as one.
const MANY: usize = 9;

/// Names, and in the place of many the part of the model that holds them and none of the `others`: `backbone.fusion, all 86 tensors`.
fn by_parts(names: &[String], others: &[&str]) -> Vec<String> {
    let beginnings = |name: &str| -> Vec<String> {
        let dots = name.match_indices('.').map(|(at, _)| at);
        dots.skip(1).map(|at| name[..at].to_owned()).collect()
    };
    let taken: BTreeSet<String> = others.iter().flat_map(|name| beginnings(name)).collect();
    let part = |name: &str| {
        let mut all = beginnings(name).into_iter();
        all.find(|beginning| !taken.contains(beginning))
    };
    let parts: Vec<Option<String>> = names.iter().map(|name| part(name)).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for part in parts.iter().flatten() {
        *counts.entry(part).or_default() += 1;
    }
    let mut lines: Vec<String> = Vec::new();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for (name, part) in names.iter().zip(&parts) {
        match part {
            Some(part) if counts[part.as_str()] >= MANY => {
                if named.insert(part) {
                    lines.push(format!("{part}, all {} tensors", counts[part.as_str()]));
                }
            }
            _ => lines.push(name.clone()),
        }
    }
    lines
}

/// Lines in the order of their first name, with indices gathered: `layer.{0-11}.query.weight (12)`.
fn grouped(names: &[String]) -> Vec<String> {
    let mut groups: Vec<(String, BTreeSet<usize>, usize)> = Vec::new();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let mut index = None;
        let parts: Vec<&str> = name
            .split('.')
            .map(|part| match part.parse::<usize>() {
                Ok(number) if index.is_none() => {
                    index = Some(number);
                    "{}"
                }
                _ => part,
            })
            .collect();
        let pattern = parts.join(".");
        let group = *at.entry(pattern.clone()).or_insert_with(|| {
            groups.push((pattern, BTreeSet::new(), 0));
            groups.len() - 1
        });
        groups[group].1.extend(index);
        groups[group].2 += 1;
    }
    groups
        .into_iter()
        .map(|(pattern, indices, count)| {
            let (Some(first), Some(last)) = (indices.first(), indices.last()) else {
                return pattern;
            };
            let range = if first == last {
                first.to_string()
            } else {
                format!("{{{first}-{last}}}")
            };
            let line = pattern.replacen("{}", &range, 1);
            match count {
                1 => line,
                count => format!("{line} ({count})"),
            }
        })
        .collect()
}

/// Reads every parameter of a module from a checkpoint.
///
/// Parameters keep identity, device and whether they are trained.
///
/// # Errors
///
/// The checkpoint cannot be read, lacks a parameter, has one of another shape, or holds unknown tensors. The message
/// lists all of them. A value that is read is NaN or infinite.
pub fn import<M: Module>(
    module: M,
    weights: &mut Weights,
    names: &Names,
    allow: &Allow,
) -> Result<(M, Report), ImportError> {
    let mut report = Report {
        notes: weights.notes().to_vec(),
        ..Report::default()
    };
    let mut wanted: BTreeMap<String, (Target, Vec<usize>)> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for parameter in parameters::list(&module) {
        if allow.left.iter().any(|p| covers(p, &parameter.name)) {
            report.new.push(parameter.name);
            continue;
        }
        let target = names.target(&parameter.name);
        let name = target.as_ref().map(|t| t.name.clone()).unwrap_or_default();
        let found = find(weights, names, &name);
        let (Some(mut target), Some((stored, info))) = (target, found) else {
            let may = allow.missing.iter().any(|p| covers(p, &parameter.name));
            if may {
                report.new.push(parameter.name)
            } else {
                report.missing.push((parameter.name, name))
            }
            continue;
        };
        taken.insert(stored.clone());
        if stored != name {
            report.tied.push((name, stored.clone()));
        }
        target.name = stored.clone();
        match fit(target.conversion, &info.shape, &parameter.shape) {
            Fit::Exact => {}
            Fit::Interpolated => {
                let shapes = (stored.clone(), info.shape.clone(), parameter.shape.clone());
                report.reshaped.push(shapes);
            }
            Fit::Repeated => {
                let shapes = (stored.clone(), info.shape.clone(), parameter.shape.clone());
                report.repeated.push(shapes);
            }
            Fit::Wrong => {
                let shapes = (stored, info.shape.clone(), parameter.shape.clone());
                report.mismatched.push(shapes);
                continue;
            }
        }
        report.used.push((parameter.name.clone(), stored));
        wanted.insert(parameter.name, (target, info.shape));
    }
    for (name, _) in weights.infos().filter(|(name, _)| !taken.contains(*name)) {
        let may = names.is_unused(name) || allow.unexpected.iter().any(|p| covers(p, name));
        if may {
            report.unused.push(name.to_owned())
        } else {
            report.unexpected.push(name.to_owned())
        }
    }
    if !report.fits() {
        return Err(ImportError::Mismatch {
            origin: weights.path().display().to_string(),
            report: Box::new(report),
        });
    }
    let mut failed = None;
    let module = parameters::replace(module, |name, shape| {
        let (target, stored) = wanted.get(name)?;
        if failed.is_some() {
            return None;
        }
        match weights.bytes(&target.name) {
            Ok((dtype, bytes)) => {
                let values = decode(dtype, bytes, stored, shape, target.conversion);
                let wrong = values.iter().filter(|value| !value.is_finite()).count();
                if wrong > 0 {
                    let reason = format!(
                        "`{}` holds {wrong} values of {} that are NaN or infinite: nothing can be computed with it",
                        target.name,
                        values.len()
                    );
                    failed = Some(WeightsError::content(weights.path(), reason));
                    return None;
                }
                Some(TensorData::new(values, shape.to_vec()))
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((module, report)),
    }
}

/// The name under which a tensor is stored: its own, or that of a tensor that it is tied to.
fn find(weights: &Weights, names: &Names, name: &str) -> Option<(String, TensorInfo)> {
    let stored = weights
        .stored_as(name)
        .or_else(|| names.twins(name).find_map(|twin| weights.stored_as(twin)))?;
    Some((stored.to_owned(), weights.info(stored)?.clone()))
}

enum Fit {
    Exact,
    Interpolated,
    Repeated,
    Wrong,
}

/// A shape without its leading ones: ViT stores `[1, 1, D]` for a class token and `[1, N, D]` for positions.
fn squeezed(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|n| **n == 1).count();
    &shape[ones..]
}

/// Whether a stored tensor can become a parameter of a shape as it is.
pub fn fits_exactly(conversion: Conversion, stored: &[usize], ours: &[usize]) -> bool {
    matches!(fit(conversion, stored, ours), Fit::Exact)
}

/// Whether a stored tensor can become a parameter of a shape.
fn fit(conversion: Conversion, stored: &[usize], ours: &[usize]) -> Fit {
    let exact = match conversion {
        // One number may be stored with no dimension or with several.
        Conversion::Same(_) | Conversion::Scalar | Conversion::Temperature => {
            squeezed(stored) == squeezed(ours)
        }
        Conversion::Transposed => match (stored, ours) {
            ([rows, columns], [d_in, d_out]) => rows == d_out && columns == d_in,
            _ => false,
        },
        // Not the product alone: patches of 2 x 8 pixels hold as many numbers as those of 4 x 4.
        Conversion::Patches => match (stored, ours) {
            ([rows, channels, down, across], [d_in, d_out]) => {
                let pixels = down
                    .checked_mul(*across)
                    .and_then(|n| n.checked_mul(*channels));
                rows == d_out
                    && *channels == Images::CHANNELS
                    && down == across
                    && pixels == Some(*d_in)
            }
            _ => false,
        },
        Conversion::Third(_) => match (stored, ours) {
            ([packed, columns], [d_in, d_out]) => *packed == 3 * d_out && columns == d_in,
            ([packed], [d_out]) => *packed == 3 * d_out,
            _ => false,
        },
        Conversion::Types => match (stored, ours) {
            ([rows, theirs], [types, width]) if theirs == width && (1..*types).contains(rows) => {
                return Fit::Repeated;
            }
            _ => stored == ours,
        },
        Conversion::Row(row) => match (stored, ours) {
            ([rows, columns], [d_in, 1]) => row < *rows && columns == d_in,
            ([rows], [1]) => row < *rows,
            _ => false,
        },
        Conversion::Column(column) => match (stored, ours) {
            ([rows, columns], [d_in, 1]) => column < *columns && rows == d_in,
            ([columns], [1]) => column < *columns,
            _ => false,
        },
        Conversion::Grid(_) => match (squeezed(stored), ours) {
            (there, here) if there == here => true,
            ([rows, theirs], [positions, width])
                if theirs == width && grids(*rows, *positions).is_some() =>
            {
                return Fit::Interpolated;
            }
            _ => false,
        },
    };
    if exact { Fit::Exact } else { Fit::Wrong }
}

/// Class tokens before the grid, its stored side and our side, if both tables are square after as many tokens.
fn grids(stored: usize, ours: usize) -> Option<(usize, usize, usize)> {
    (0..=2).rev().find_map(|tokens| {
        let side = |rows: usize| {
            let patches = rows.checked_sub(tokens)?;
            let side = patches.isqrt();
            (side > 0 && side * side == patches).then_some(side)
        };
        Some((tokens, side(stored)?, side(ours)?))
    })
}

/// Stored bytes as numbers in our layout, in one pass with one allocation.
fn decode(
    dtype: Dtype,
    bytes: &[u8],
    stored: &[usize],
    ours: &[usize],
    conversion: Conversion,
) -> Vec<f32> {
    match dtype {
        Dtype::F32 | Dtype::Other => {
            let (numbers, _) = bytes.as_chunks();
            place(
                numbers,
                |b| f32::from_le_bytes(*b),
                stored,
                ours,
                conversion,
            )
        }
        Dtype::F64 => {
            let (numbers, _) = bytes.as_chunks();
            place(
                numbers,
                |b| f64::from_le_bytes(*b) as f32,
                stored,
                ours,
                conversion,
            )
        }
        Dtype::F16 => {
            let (numbers, _) = bytes.as_chunks();
            let one = |b: &[u8; 2]| half::f16::from_le_bytes(*b).to_f32();
            place(numbers, one, stored, ours, conversion)
        }
        Dtype::Bf16 => {
            let (numbers, _) = bytes.as_chunks();
            let one = |b: &[u8; 2]| half::bf16::from_le_bytes(*b).to_f32();
            place(numbers, one, stored, ours, conversion)
        }
    }
}

/// Stored values in our layout.
///
/// # Panics
///
/// Panics if the shapes do not fit each other by the conversion.
pub fn convert(
    values: &[f32],
    stored: &[usize],
    ours: &[usize],
    conversion: Conversion,
) -> Vec<f32> {
    place(values, |v| *v, stored, ours, conversion)
}

fn place<T: Sync>(
    values: &[T],
    one: impl Fn(&T) -> f32 + Copy + Send,
    stored: &[usize],
    ours: &[usize],
    conversion: Conversion,
) -> Vec<f32> {
    let all = |values: &[T]| -> Vec<f32> { values.iter().map(one).collect() };
    match conversion {
        Conversion::Same(_) | Conversion::Scalar => all(values),
        Conversion::Temperature => all(values).into_iter().map(|t| -t.ln()).collect(),
        Conversion::Transposed | Conversion::Patches => transposed(values, one, stored[0]),
        Conversion::Third(part) => {
            let third = values.len() / 3;
            let rows = stored[0] / 3;
            let part = &values[part * third..(part + 1) * third];
            match ours.len() {
                2 => transposed(part, one, rows),
                _ => all(part),
            }
        }
        Conversion::Types => {
            let width = ours[1];
            let further = ours[0] * width - values.len();
            let last = all(&values[values.len() - width..]);
            let mut new: Vec<f32> = all(values);
            new.extend(last.iter().cycle().take(further));
            new
        }
        Conversion::Row(row) => {
            let columns = values.len() / stored[0];
            all(&values[row * columns..(row + 1) * columns])
        }
        Conversion::Column(column) => {
            let columns = stored[stored.len() - 1];
            let of_row = |row: &[T]| one(&row[column]);
            values.chunks(columns).map(of_row).collect()
        }
        Conversion::Grid(_) if squeezed(stored) == ours => all(values),
        Conversion::Grid(_) => {
            let width = ours[1];
            let (tokens, from, to) =
                grids(values.len() / width, ours[0]).expect("invariant: the shapes were checked");
            let (class, patches) = values.split_at(tokens * width);
            let mut new: Vec<f32> = all(class);
            let patches: Vec<f32> = all(patches);
            new.extend(resize_grid(&patches, from, to, width));
            new
        }
    }
}

/// Our values in the stored layout: the inverse of [`convert`], with exceptions. Grids and types keep our size, a row stays a layer of
/// its own, and the caller stacks thirds.
pub fn invert(values: &[f32], ours: &[usize], conversion: Conversion) -> Vec<f32> {
    match (conversion, ours) {
        (Conversion::Transposed | Conversion::Patches | Conversion::Third(_), [d_in, _]) => {
            transposed(values, |v| *v, *d_in)
        }
        (Conversion::Temperature, _) => values.iter().map(|scale| (-scale).exp()).collect(),
        _ => values.to_vec(),
    }
}

/// The stored shape of one of our parameters; for a third, that of its own part.
pub fn shape_there(ours: &[usize], conversion: Conversion) -> Vec<usize> {
    match (conversion, ours) {
        (Conversion::Same(ones) | Conversion::Grid(ones), ours) => [&vec![1; ones], ours].concat(),
        (Conversion::Scalar | Conversion::Temperature, _) => Vec::new(),
        (Conversion::Transposed | Conversion::Third(_) | Conversion::Row(_), [d_in, d_out]) => {
            vec![*d_out, *d_in]
        }
        (Conversion::Patches, [d_in, d_out]) => {
            let side = (d_in / Images::CHANNELS).isqrt();
            vec![*d_out, Images::CHANNELS, side, side]
        }
        (_, ours) => ours.to_vec(),
    }
}

/// Side of the squares that are transposed at a time: two of them fit the first-level cache.
const TILE: usize = 32;

/// From this many numbers on, several threads transpose a matrix: starting one costs as much as moving some thousands.
const LARGE: usize = 1 << 18;

/// A matrix of `rows` rows, transposed.
fn transposed<T: Sync>(
    values: &[T],
    one: impl Fn(&T) -> f32 + Copy + Send,
    rows: usize,
) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    let mut out = vec![0.0; values.len()];
    let threads = if values.len() < LARGE {
        1
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    };
    let share = columns.div_ceil(threads).next_multiple_of(TILE);
    if share >= columns {
        columns_as_rows(values, one, rows, 0, &mut out);
        return out;
    }
    std::thread::scope(|scope| {
        for (part, target) in out.chunks_mut(share * rows).enumerate() {
            scope.spawn(move || columns_as_rows(values, one, rows, part * share, target));
        }
    });
    out
}

/// The columns of a matrix from `first` on, each as a row, as many as `out` has room for.
fn columns_as_rows<T>(
    values: &[T],
    one: impl Fn(&T) -> f32,
    rows: usize,
    first: usize,
    out: &mut [f32],
) {
    let columns = values.len() / rows.max(1);
    let count = out.len() / rows.max(1);
    for row in (0..rows).step_by(TILE) {
        for column in (0..count).step_by(TILE) {
            for c in column..(column + TILE).min(count) {
                let target = &mut out[c * rows..(c + 1) * rows];
                for r in row..(row + TILE).min(rows) {
                    target[r] = one(&values[r * columns + first + c]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_invert() {
        let values: Vec<f32> = (0..35 * 40).map(|i| i as f32).collect();
        let ours = convert(&values, &[35, 40], &[40, 35], Conversion::Transposed);
        assert_eq!(ours[1], 40.0);
        assert_eq!(invert(&ours, &[40, 35], Conversion::Transposed), values);
        let packed: Vec<f32> = (0..3 * 4 * 5).map(|i| i as f32).collect();
        let thirds: Vec<f32> = (0..3)
            .flat_map(|part| {
                let third = Conversion::Third(part);
                let ours = convert(&packed, &[12, 5], &[5, 4], third);
                invert(&ours, &[5, 4], third)
            })
            .collect();
        assert_eq!(thirds, packed);
        let bias = convert(
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            &[6],
            &[2],
            Conversion::Third(1),
        );
        assert_eq!(bias, [3.0, 4.0]);
    }

    #[test]
    fn a_part_that_is_new_as_a_whole_is_one_line() {
        let mut new: Vec<String> = (0..2 * MANY)
            .map(|i| format!("backbone.fusion.layers.{}.{i}.weight", i % 2))
            .collect();
        new.push("backbone.text.layers.2.norm.weight".to_owned());
        new.push("objectives.vqa.head.bias".to_owned());
        let used = ["backbone.text.layers.0.norm.weight", "objectives.itc.scale"];
        let expected = [
            "backbone.fusion, all 18 tensors",
            "backbone.text.layers.2.norm.weight",
            "objectives.vqa.head.bias",
        ];
        assert_eq!(by_parts(&new, &used), expected);
        // A tensor of it that was read: its other parts are named.
        let used = ["backbone.fusion.layers.0.other.weight"];
        let lines = by_parts(&new, &used);
        assert!(
            lines.contains(&"backbone.fusion.layers.1, all 9 tensors".to_owned()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"backbone.fusion.layers.0.0.weight".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn large_matrices_are_transposed_by_several_threads() {
        let (rows, columns) = (LARGE / 512 + 3, 517);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let out = transposed(&values, |v| *v, rows);
        for (at, value) in out.iter().enumerate() {
            assert_eq!(*value, values[(at % rows) * columns + at / rows]);
        }
    }

    #[test]
    fn grids_know_their_class_tokens() {
        // ViT-B/16 at 224 and 384; DeiT with a distillation token.
        assert_eq!(grids(197, 577), Some((1, 14, 24)));
        assert_eq!(grids(198, 578), Some((2, 14, 24)));
        assert_eq!(grids(197, 578), None);
    }

    /// The same number of values in another shape does not fit.
    #[test]
    fn sizes_are_compared_and_not_their_product() {
        let fits =
            |conversion, stored: &[usize], ours: &[usize]| fits_exactly(conversion, stored, ours);
        assert!(fits(Conversion::Patches, &[8, 3, 4, 4], &[48, 8]));
        for stored in [[8, 3, 2, 8], [8, 12, 2, 2], [4, 3, 4, 8]] {
            assert!(!fits(Conversion::Patches, &stored, &[48, 8]), "{stored:?}");
        }
        assert!(fits(Conversion::Transposed, &[8, 6], &[6, 8]));
        for stored in [&[6, 8][..], &[4, 12], &[8, 2, 3]] {
            assert!(!fits(Conversion::Transposed, stored, &[6, 8]), "{stored:?}");
        }
        assert!(!fits(Conversion::Grid(0), &[17, 8], &[34, 4]));
    }

    #[test]
    fn names_that_differ_in_an_index_share_a_line() {
        let names = ["a.0.x", "a.1.x", "b", "a.2.x"].map(str::to_owned);
        assert_eq!(grouped(&names), ["a.{0-2}.x (3)", "b"]);
    }
}
