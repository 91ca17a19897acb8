//! A number for each patch of an image: the nearest of a few typical patches. These codes are what hidden patches are to become
//! (BEiT, SIMLA).
//!
//! The papers take the codes of DALL-E's trained encoder, which is not shipped. The codebook here is this project's own: a k-means of
//! the patches of training images. A patch is described by the mean colours of its cells, `cells` by `cells` of them, so that few
//! numbers say what it looks like. With one cell a code is a colour.
//!
//! The k-means begins with patches that are drawn far from each other (k-means++), and then moves each centre to the mean of its
//! patches, over and over. A centre without patches moves to the patch that is farthest from its own. Everything is a function of the
//! patches and a seed, whatever the number of threads. The most frequent code is 0.
//!
//! Shape legend: `N` patches of an image, row by row, `F` numbers of a patch, `K` codes, `S` side of the image, `P` side of a patch.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use unimo_batch::Images;

use crate::error::DataError;
use crate::order::draws::{Stream, hash, unit};
use crate::store::atomic::write_whole;
use crate::threads::parallel;

/// Most codes of a codebook: a file of codes holds them as `u16`.
pub const MOST_CODES: usize = 1 << 16;

/// Most cells along a side of a patch.
pub const MOST_CELLS: usize = 16;

/// Rounds of the k-means at most.
const ROUNDS: usize = 30;

/// The k-means ends when no more than this share of the patches changed their centre.
const SETTLED: f64 = 0.001;

/// Patches that one thread takes at a time.
const BLOCK: usize = 1024;

/// The name of the centres in a file, and of what is known of them: one JSON object, so that the same codebook is the same file.
const CENTRES: &str = "centres";
const FACTS: &str = "codebook";
const PATCH_SIZE: &str = "patch_size";
const CELLS: &str = "cells";

/// How patches are described and how many codes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodebookShape {
    /// `P`: side of a patch in pixels.
    pub patch_size: usize,
    /// Cells along a side of a patch.
    pub cells: usize,
    /// `K`.
    pub codes: usize,
}

impl CodebookShape {
    /// `F`: numbers of a patch.
    pub fn numbers(&self) -> usize {
        Images::CHANNELS * self.cells * self.cells
    }
}

/// The typical patches.
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook {
    shape: CodebookShape,
    /// `[K, F]`, row-major: mean levels, 0 to 255.
    centres: Vec<f32>,
    /// `[F, K]`: the same the other way round, so that all centres are compared at once.
    columns: Vec<f32>,
    /// `[K]`: the sum of each centre's squares.
    squares: Vec<f32>,
    /// How it was made.
    about: BTreeMap<String, String>,
}

impl Codebook {
    fn new(shape: CodebookShape, centres: Vec<f32>, about: BTreeMap<String, String>) -> Self {
        let (codes, numbers) = (shape.codes, shape.numbers());
        let mut columns = vec![0.0; centres.len()];
        for (code, centre) in centres.chunks_exact(numbers).enumerate() {
            for (at, value) in centre.iter().enumerate() {
                columns[at * codes + code] = *value;
            }
        }
        let square = |centre: &[f32]| centre.iter().map(|value| value * value).sum();
        Self {
            squares: centres.chunks_exact(numbers).map(square).collect(),
            shape,
            centres,
            columns,
            about,
        }
    }

    /// A codebook of these patches, by k-means. `tell` hears of each round: its number, the most rounds there are, and the mean distance
    /// of a patch from its centre.
    ///
    /// # Shapes
    ///
    /// - patches: `[.., F]`, row-major, as [`describe`] gives them
    ///
    /// # Errors
    ///
    /// The reason: there are fewer different patches than codes.
    pub fn train(
        shape: CodebookShape,
        patches: &[f32],
        seed: u64,
        mut about: BTreeMap<String, String>,
        tell: &mut dyn FnMut(usize, usize, f64),
    ) -> Result<Self, String> {
        let numbers = shape.numbers();
        let count = patches.len() / numbers;
        let centres = first_centres(shape, patches, seed)?;
        let mut book = Self::new(shape, centres, BTreeMap::new());
        let mut before: Vec<u32> = vec![u32::MAX; count];
        let (mut rounds, mut mean) = (0, 0.0);
        for round in 1..=ROUNDS {
            let nearest = book.nearest_of(patches);
            let distances = nearest
                .iter()
                .map(|(_, distance)| f64::from(*distance).sqrt());
            mean = distances.sum::<f64>() / count.max(1) as f64;
            let changed = nearest
                .iter()
                .zip(&before)
                .filter(|((code, _), b)| code != *b);
            let changed = changed.count();
            rounds = round;
            tell(round, ROUNDS, mean);
            let centres = book.moved(patches, &nearest);
            before = nearest.into_iter().map(|(code, _)| code).collect();
            if changed as f64 <= SETTLED * count as f64 {
                break;
            }
            book = Self::new(shape, centres, BTreeMap::new());
        }
        about.insert("made_by".to_owned(), "unimo, k-means of patches".to_owned());
        about.insert("patches".to_owned(), count.to_string());
        about.insert("rounds".to_owned(), rounds.to_string());
        about.insert("seed".to_owned(), seed.to_string());
        about.insert("mean_distance".to_owned(), format!("{mean:.4}"));
        Ok(book.most_frequent_first(&before, about))
    }

    /// Each centre moved to the mean of its patches, or to the patch that is farthest from its centre if it has none.
    fn moved(&self, patches: &[f32], nearest: &[(u32, f32)]) -> Vec<f32> {
        let numbers = self.shape.numbers();
        let mut sums = vec![0.0f64; self.centres.len()];
        let mut counts = vec![0usize; self.shape.codes];
        for (patch, (code, _)) in patches.chunks_exact(numbers).zip(nearest) {
            let code = *code as usize;
            counts[code] += 1;
            let sum = &mut sums[code * numbers..][..numbers];
            sum.iter_mut()
                .zip(patch)
                .for_each(|(s, p)| *s += f64::from(*p));
        }
        let mut far: Vec<usize> = (0..nearest.len()).collect();
        far.sort_by(|a, b| nearest[*b].1.total_cmp(&nearest[*a].1).then(a.cmp(b)));
        let mut far = far.into_iter();
        let mut centres = Vec::with_capacity(sums.len());
        for (sum, count) in sums.chunks_exact(numbers).zip(counts) {
            match (count, far.next().filter(|_| count == 0)) {
                (0, Some(at)) => centres.extend_from_slice(&patches[at * numbers..][..numbers]),
                _ => centres.extend(sum.iter().map(|s| (s / count.max(1) as f64) as f32)),
            }
        }
        centres
    }

    /// The same with the code first that most patches have.
    fn most_frequent_first(self, codes: &[u32], about: BTreeMap<String, String>) -> Self {
        let mut counts = vec![0usize; self.shape.codes];
        codes.iter().for_each(|code| counts[*code as usize] += 1);
        let mut order: Vec<usize> = (0..self.shape.codes).collect();
        order.sort_by_key(|code| (std::cmp::Reverse(counts[*code]), *code));
        let numbers = self.shape.numbers();
        let centre = |code: &usize| &self.centres[code * numbers..][..numbers];
        let centres = order.iter().flat_map(centre).copied().collect();
        Self::new(self.shape, centres, about)
    }

    /// The nearest centre of each patch, with the square of its distance.
    fn nearest_of(&self, patches: &[f32]) -> Vec<(u32, f32)> {
        let numbers = self.shape.numbers();
        let blocks = patches.len().div_ceil(BLOCK * numbers);
        let of_block = |block: usize| {
            let from = block * BLOCK * numbers;
            let block = &patches[from..patches.len().min(from + BLOCK * numbers)];
            let mut scores = vec![0.0; self.shape.codes];
            let patches = block.chunks_exact(numbers);
            let nearest = patches.map(|patch| self.nearest(patch, &mut scores));
            nearest.collect::<Vec<_>>()
        };
        parallel(0..blocks, of_block)
            .into_iter()
            .flatten()
            .collect()
    }

    /// The nearest centre of a patch, the first of several, with the square of its distance.
    fn nearest(&self, patch: &[f32], scores: &mut [f32]) -> (u32, f32) {
        // |c|^2 - 2 p c, for all centres at once.
        scores.copy_from_slice(&self.squares);
        for (value, column) in patch
            .iter()
            .zip(self.columns.chunks_exact(self.shape.codes))
        {
            let twice = 2.0 * value;
            let both = scores.iter_mut().zip(column);
            both.for_each(|(score, centre)| *score -= twice * centre);
        }
        let (mut best, mut code) = (f32::INFINITY, 0);
        for (at, score) in scores.iter().enumerate() {
            if *score < best {
                (best, code) = (*score, at);
            }
        }
        let square: f32 = patch.iter().map(|value| value * value).sum();
        (code as u32, (best + square).max(0.0))
    }

    /// How patches are described, and how many codes there are.
    pub fn shape(&self) -> CodebookShape {
        self.shape
    }

    /// How it was made.
    pub fn about(&self) -> &BTreeMap<String, String> {
        &self.about
    }

    /// The patch that a code stands for: its centre, each cell filled with its mean levels. Black if there is no such code.
    ///
    /// # Shapes
    ///
    /// - output: `[P, P, C]`
    pub fn patch(&self, code: u32) -> Vec<u8> {
        let CodebookShape {
            patch_size, cells, ..
        } = self.shape;
        let cell = patch_size / cells;
        let numbers = self.shape.numbers();
        let centre = self.centres.chunks_exact(numbers).nth(code as usize);
        let mut levels = Vec::with_capacity(patch_size * patch_size * Images::CHANNELS);
        for (y, x) in (0..patch_size).flat_map(|y| (0..patch_size).map(move |x| (y, x))) {
            let at = (y / cell * cells + x / cell) * Images::CHANNELS;
            let own = (at..at + Images::CHANNELS).map(|at| centre.map_or(0.0, |c| c[at]));
            levels.extend(own.map(|level| level.round() as u8));
        }
        levels
    }

    /// The mean colour of each code, as levels.
    pub fn colours(&self) -> Vec<[f32; Images::CHANNELS]> {
        let cells = self.shape.cells * self.shape.cells;
        let of = |centre: &[f32]| -> [f32; Images::CHANNELS] {
            std::array::from_fn(|channel| {
                let own = centre
                    .chunks_exact(Images::CHANNELS)
                    .map(|cell| cell[channel]);
                own.sum::<f32>() / cells as f32
            })
        };
        self.centres
            .chunks_exact(self.shape.numbers())
            .map(of)
            .collect()
    }

    /// The codes of a square image.
    ///
    /// # Shapes
    ///
    /// - levels: `[C, S, S]`
    /// - output: `[N]`
    pub fn codes(&self, levels: &[u8], side: usize) -> Vec<u32> {
        let mut patches = Vec::new();
        describe(self.shape, levels, side, &mut patches);
        let mut scores = vec![0.0; self.shape.codes];
        let patches = patches.chunks_exact(self.shape.numbers());
        let nearest = patches.map(|patch| self.nearest(patch, &mut scores).0);
        nearest.collect()
    }

    /// One sentence: what it is and how it was made.
    pub fn describe(&self) -> String {
        let CodebookShape {
            patch_size,
            cells,
            codes,
        } = self.shape;
        let fact = |key: &str| {
            self.about
                .get(key)
                .map_or("an unknown number", String::as_str)
        };
        format!(
            "{codes} codes of patches of {patch_size} pixels, described by {cells} x {cells} colours: a k-means of {} patches of {} images",
            fact("patches"),
            fact("images"),
        )
    }

    /// The file: safetensors with `centres`, `[K, F]` of f32, and under `codebook` of its metadata a JSON object of texts: `patch_size`,
    /// `cells` and what [`about`](Self::about) says.
    ///
    /// # Errors
    ///
    /// The reason.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let bytes: Vec<u8> = self.centres.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape = vec![self.shape.codes, self.shape.numbers()];
        let wrong = |error: safetensors::SafeTensorError| error.to_string();
        let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(wrong)?;
        let mut facts = self.about.clone();
        facts.insert(PATCH_SIZE.to_owned(), self.shape.patch_size.to_string());
        facts.insert(CELLS.to_owned(), self.shape.cells.to_string());
        let facts = serde_json::to_string(&facts).map_err(|error| error.to_string())?;
        let facts = HashMap::from([(FACTS.to_owned(), facts)]);
        serialize([(CENTRES, view)], Some(facts)).map_err(wrong)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        let bytes = self.to_bytes().map_err(|reason| DataError::Manifest {
            path: path.to_owned(),
            reason,
        })?;
        write_whole(path, &bytes)
    }

    /// Reads a file that `unimo data codes` wrote.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no codebook.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|error| DataError::file("read", path, error))?;
        Self::parse(&bytes, path)
    }

    /// As [`load`](Self::load), from the bytes of the file.
    ///
    /// # Errors
    ///
    /// It is no codebook.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        of_bytes(bytes).map_err(|reason| DataError::Manifest {
            path: path.to_owned(),
            reason: format!("no codebook of patches, as `unimo data codes` writes it: {reason}"),
        })
    }
}

/// Patches that are drawn far from each other: each with a probability by the square of its distance from the nearest one before.
fn first_centres(shape: CodebookShape, patches: &[f32], seed: u64) -> Result<Vec<f32>, String> {
    let numbers = shape.numbers();
    let patch = |at: usize| &patches[at * numbers..][..numbers];
    let count = patches.len() / numbers;
    let mut distances = vec![f32::INFINITY; count];
    let mut centres = Vec::with_capacity(shape.codes * numbers);
    for code in 0..shape.codes {
        let draw = unit(hash(Stream::Codes, &[seed, code as u64]));
        let total: f64 = distances.iter().map(|d| f64::from(*d)).sum();
        let at = if code == 0 && count > 0 {
            ((draw * count as f64) as usize).min(count - 1)
        } else {
            let mut left = draw * total;
            let found = distances.iter().position(|distance| {
                left -= f64::from(*distance);
                left < 0.0 && *distance > 0.0
            });
            let last = || distances.iter().rposition(|distance| *distance > 0.0);
            found.or_else(last).ok_or_else(|| {
                format!(
                    "{} codes are wanted, and of the {count} patches that were drawn only {code} differ",
                    shape.codes
                )
            })?
        };
        let centre = patch(at).to_vec();
        let blocks = count.div_ceil(BLOCK);
        let nearer = parallel(0..blocks, |block| {
            let own = block * BLOCK..count.min((block + 1) * BLOCK);
            let of = |at: usize| {
                let both = patch(at).iter().zip(&centre);
                let square: f32 = both.map(|(a, b)| (a - b) * (a - b)).sum();
                square.min(distances[at])
            };
            own.map(of).collect::<Vec<f32>>()
        });
        distances = nearer.into_iter().flatten().collect();
        centres.extend(centre);
    }
    Ok(centres)
}

/// The mean levels of the cells of each patch, appended to `patches`.
///
/// # Shapes
///
/// - levels: `[C, S, S]`
/// - output: `[N, F]`, the cells of a patch row by row, the channels of a cell side by side
pub fn describe(shape: CodebookShape, levels: &[u8], side: usize, patches: &mut Vec<f32>) {
    let CodebookShape {
        patch_size, cells, ..
    } = shape;
    let (grid, cell) = (side / patch_size, patch_size / cells);
    let plane = side * side;
    let pixels = (cell * cell) as f32;
    let patches_of_grid = (0..grid).flat_map(|row| (0..grid).map(move |column| (row, column)));
    for (row, column) in patches_of_grid {
        for (down, across) in (0..cells).flat_map(|d| (0..cells).map(move |a| (d, a))) {
            let top = row * patch_size + down * cell;
            let left = column * patch_size + across * cell;
            for channel in 0..Images::CHANNELS {
                let first = channel * plane + top * side + left;
                let rows = (0..cell).map(|y| &levels[first + y * side..][..cell]);
                let sum: u32 = rows.flatten().map(|level| u32::from(*level)).sum();
                patches.push(sum as f32 / pixels);
            }
        }
    }
}

fn of_bytes(bytes: &[u8]) -> Result<Codebook, String> {
    let wrong = |error: safetensors::SafeTensorError| error.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
    let facts = header.metadata().as_ref().and_then(|all| all.get(FACTS));
    let facts = facts.ok_or(format!("it says nothing of itself under \"{FACTS}\""))?;
    let facts: BTreeMap<String, String> =
        serde_json::from_str(facts).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
    let centres = file.tensor(CENTRES).map_err(wrong)?;
    let whole = |key: &str| -> Result<usize, String> {
        let value = facts.get(key).and_then(|value| value.parse().ok());
        value
            .filter(|value| *value > 0)
            .ok_or(format!("its facts have no \"{key}\""))
    };
    let (patch_size, cells) = (whole(PATCH_SIZE)?, whole(CELLS)?);
    if cells > MOST_CELLS || !patch_size.is_multiple_of(cells) {
        return Err(format!(
            "{cells} cells along a side do not divide a patch of {patch_size} pixels"
        ));
    }
    let &[codes, numbers] = centres.shape() else {
        return Err(format!("\"{CENTRES}\" is of shape {:?}", centres.shape()));
    };
    let shape = CodebookShape {
        patch_size,
        cells,
        codes,
    };
    if numbers != shape.numbers() || !(2..=MOST_CODES).contains(&codes) {
        return Err(format!(
            "\"{CENTRES}\" is {codes} x {numbers}; there must be 2 to {MOST_CODES} of {} numbers",
            shape.numbers()
        ));
    }
    let values = crate::images::regions::numbers(&centres);
    let values = values.filter(|values| values.iter().all(|value| value.is_finite()));
    let values = values.ok_or(format!("\"{CENTRES}\" holds other than finite numbers"))?;
    let about = facts.into_iter();
    let about = about.filter(|(key, _)| key != PATCH_SIZE && key != CELLS);
    Ok(Codebook::new(shape, values, about.collect()))
}

#[cfg(test)]
mod tests;
