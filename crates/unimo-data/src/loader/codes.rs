//! `[data.codes]`: a number for each patch of an image, which hidden patches are to become (SIMLA, BEiT).
//!
//! ```toml
//! [data.codes]
//! kind = "k_means"       # of the training images' patches, this project's own
//! patch_size = 8         # as model.image.patch_size
//! codes = 64
//! cells = 2              # a patch is described by 2 x 2 mean colours
//! path = "codes.safetensors"    # made by `unimo data codes`; absent: made when a training begins, and kept in its run folder
//! ```
//!
//! Codes of a k-means are computed from what the model sees of an image, after every crop and flip, so that they always fit.
//!
//! ```toml
//! [data.codes]
//! kind = "files"         # made elsewhere, such as by DALL-E's encoder
//! path = "codes.npy"
//! codes = 8192
//! ```
//!
//! `codes.npy` holds `[N, G]` whole numbers, `u8`, `u16`, `u32`, `i32` or `i64`, a row for each image and a number for each patch of a
//! grid, row by row. Beside it lies `codes.jsonl` with a line for each row: `{"image": "NAME"}`, the image's name in the list or its path
//! within the source's folder of images. The table is held in memory, as `u16`. A negative number is a hole. An image without a row, or
//! with a hole, is no sample: it is listed with file and row, counted and replaced. Such codes are of whole images, so that
//! `data.augment` may not move what an image shows.

mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, ReadError, SampleError};
use crate::images::ImageSpec;
use crate::images::codes::{Codebook, CodebookShape, MOST_CELLS, MOST_CODES, describe};
use crate::loader::codes::table::CodeTable;
use crate::order::draws::{Permutation, Stream, hash};
use crate::settings::{not_empty, range};
use crate::sources::source::Source;
use crate::sources::splits::Split;

/// Patches that a k-means sees at most. They bound its memory, whatever the number of images: 128 MB at 64 numbers of a patch.
const MOST_PATCHES: usize = 1 << 17;

/// Images between two calls that tell of progress.
const TOLD: usize = 64;

/// `[data.codes]`: where the codes of patches come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CodesConfig {
    /// The nearest of typical patches, found by k-means.
    KMeans {
        /// Side of a patch in pixels, as in the image encoder.
        patch_size: usize,
        /// Number of codes.
        codes: usize,
        /// Cells along a side of a patch, whose mean colours describe it.
        #[serde(default = "cells")]
        cells: usize,
        /// Training images whose patches are looked at, drawn at random; at most 131,072 patches are kept of them.
        #[serde(default = "images")]
        images: usize,
        /// Whether codes are of the same crop and flip as the patches. `false` draws another one for the codes: a slip of SIMLA's release, kept
        /// for parity with it.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        aligned: bool,
        /// A codebook that `unimo data codes` made; absent: one is made when a training begins, and kept in its run folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Codes that were made elsewhere, a row for each image.
    Files {
        /// The `.npy` file, beside a `.jsonl` file of the same name with the images' names.
        path: PathBuf,
        /// Number of codes.
        codes: usize,
    },
}

fn cells() -> usize {
    2
}

fn images() -> usize {
    5000
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

impl CodesConfig {
    /// Checks every value, alone and against the side of the images.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub(crate) fn validate(&self, image_size: usize) -> Result<(), DataError> {
        range("data.codes.codes", self.count(), 2, MOST_CODES)?;
        match self {
            Self::KMeans {
                patch_size,
                cells,
                images,
                path,
                ..
            } => {
                range("data.codes.cells", *cells, 1, MOST_CELLS)?;
                range("data.codes.images", *images, 1, 1 << 32)?;
                if *patch_size == 0 || !image_size.is_multiple_of(*patch_size) {
                    let allowed = format!("a divisor of data.image_size = {image_size}");
                    return Err(DataError::config(
                        "data.codes.patch_size",
                        patch_size,
                        allowed,
                    ));
                }
                if !patch_size.is_multiple_of(*cells) {
                    let allowed = format!("a divisor of data.codes.patch_size = {patch_size}");
                    return Err(DataError::config("data.codes.cells", cells, allowed));
                }
                match path {
                    Some(path) => path_given(path, "a codebook, or absent"),
                    None => Ok(()),
                }
            }
            Self::Files { path, .. } => path_given(path, "a .npy file"),
        }
    }

    /// Number of codes.
    pub fn count(&self) -> usize {
        let (Self::KMeans { codes, .. } | Self::Files { codes, .. }) = self;
        *codes
    }

    /// Whether codes are of the same crop and flip as the patches.
    pub(crate) fn aligned(&self) -> bool {
        match self {
            Self::KMeans { aligned, .. } => *aligned,
            Self::Files { .. } => true,
        }
    }

    /// Side of the patches in pixels, if the settings say it.
    pub fn patch_size(&self) -> Option<usize> {
        match self {
            Self::KMeans { patch_size, .. } => Some(*patch_size),
            Self::Files { .. } => None,
        }
    }

    /// Whether the codes are of whole images, as they lie in a file.
    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self, Self::Files { .. })
    }

    /// The path in the table; a relative one is relative to the recipe.
    pub(crate) fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::KMeans { path, .. } => path.as_mut(),
            Self::Files { path, .. } => Some(path),
        }
    }
}

fn path_given(path: &Path, allowed: &str) -> Result<(), DataError> {
    not_empty("data.codes.path", &path.to_string_lossy(), allowed)
}

/// What a k-means does while it is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Making {
    /// Images are read.
    Reading {
        /// Images so far.
        done: usize,
        /// Images in all.
        of: usize,
    },
    /// Centres are moved.
    Moving {
        /// Rounds so far.
        round: usize,
        /// Rounds at most.
        of: usize,
        /// Mean distance of a patch from its centre, in levels.
        distance: f64,
    },
}

/// Gives each image of a batch its codes.
#[derive(Debug, Clone)]
pub enum PatchCodes {
    /// Those of a k-means.
    Codebook {
        /// The typical patches.
        book: Codebook,
        /// Whether codes are of the same crop and flip as the patches.
        aligned: bool,
    },
    /// Those of a file.
    Table(CodeTable),
}

impl PatchCodes {
    /// Opens what the settings name: a codebook, or a table of codes; `None` if a codebook is still to be made.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or does not fit the settings.
    pub fn open(config: &CodesConfig, spec: &ImageSpec) -> Result<Option<Self>, DataError> {
        match config {
            CodesConfig::KMeans {
                path: Some(path), ..
            } => {
                let book = Codebook::load(path)?;
                Self::of_book(book, config, path).map(Some)
            }
            CodesConfig::KMeans { path: None, .. } => Ok(None),
            CodesConfig::Files { path, codes } => {
                let table = CodeTable::load(path, *codes)?;
                let side = table.grid().isqrt();
                if side * side != table.grid() || !spec.size.is_multiple_of(side.max(1)) {
                    return Err(DataError::Manifest {
                        path: path.clone(),
                        reason: format!(
                            "{} codes of an image are no square grid that divides data.image_size = {}",
                            table.grid(),
                            spec.size
                        ),
                    });
                }
                Ok(Some(Self::Table(table)))
            }
        }
    }

    /// A codebook, which must be as the settings say.
    ///
    /// # Errors
    ///
    /// It differs.
    pub fn of_book(book: Codebook, config: &CodesConfig, path: &Path) -> Result<Self, DataError> {
        let CodesConfig::KMeans {
            patch_size,
            codes,
            cells,
            ..
        } = config
        else {
            return Err(DataError::config(
                "data.codes.kind",
                "\"files\"",
                format!("\"k_means\" with the codebook {}", path.display()),
            ));
        };
        let shape = book.shape();
        for (key, given, own) in [
            ("patch_size", *patch_size, shape.patch_size),
            ("codes", *codes, shape.codes),
            ("cells", *cells, shape.cells),
        ] {
            if given != own {
                let allowed = format!("{own}, as in {}", path.display());
                return Err(DataError::config(
                    format!("data.codes.{key}"),
                    given,
                    allowed,
                ));
            }
        }
        Ok(Self::Codebook {
            book,
            aligned: config.aligned(),
        })
    }

    /// Makes a codebook of the training images.
    ///
    /// # Errors
    ///
    /// The settings name a file of codes, no image can be read, or there are fewer different patches than codes.
    pub fn make(
        config: &CodesConfig,
        spec: &ImageSpec,
        source: &dyn Source,
        seed: u64,
        tell: &mut dyn FnMut(Making),
    ) -> Result<Codebook, DataError> {
        let CodesConfig::KMeans {
            patch_size,
            codes,
            cells,
            images,
            ..
        } = config
        else {
            return Err(DataError::config(
                "data.codes.kind",
                "\"files\"",
                "\"k_means\": codes of files are made elsewhere",
            ));
        };
        let shape = CodebookShape {
            patch_size: *patch_size,
            cells: *cells,
            codes: *codes,
        };
        let all = source.len(Split::Train);
        let wanted = (*images).min(all);
        let order = Permutation::new(all, hash(Stream::Codes, &[seed]), 0);
        let of_image = MOST_PATCHES.div_ceil(wanted.max(1));
        let (mut patches, mut own) = (Vec::new(), Vec::new());
        let (mut read, mut first_error) = (0, None);
        for at in 0..wanted {
            let index = order.at(at);
            match levels(spec, source, index) {
                Ok(levels) => {
                    own.clear();
                    describe(shape, &levels, spec.size, &mut own);
                    some_of(shape, &own, of_image, [seed, at as u64], &mut patches);
                    read += 1;
                }
                // Training lists what it cannot use; here it is counted.
                Err(error) if error.is_unavailable() => {
                    return Err(DataError::Unavailable {
                        place: error.place.to_string(),
                        reason: error.reason,
                    });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
            if at.is_multiple_of(TOLD) || at + 1 == wanted {
                tell(Making::Reading {
                    done: at + 1,
                    of: wanted,
                });
            }
        }
        if read == 0 {
            let hint = first_error.map_or(String::new(), |error| format!(" with images: {error}"));
            return Err(DataError::Empty {
                split: Split::Train.name(),
                source_name: source.describe(),
                hint,
            });
        }
        let facts = [
            ("images", read.to_string()),
            ("unusable_images", (wanted - read).to_string()),
            ("image_size", spec.size.to_string()),
            ("data", source.describe()),
        ];
        let facts: BTreeMap<String, String> =
            facts.map(|(key, value)| (key.to_owned(), value)).into();
        let mut moving = |round, of, distance| {
            tell(Making::Moving {
                round,
                of,
                distance,
            });
        };
        let book = Codebook::train(shape, &patches, seed, facts, &mut moving);
        book.map_err(|reason| DataError::config("data.codes.codes", codes, reason))
    }

    /// Whether codes are of the same crop and flip as the patches.
    pub(crate) fn aligned(&self) -> bool {
        !matches!(self, Self::Codebook { aligned: false, .. })
    }

    /// Number of codes.
    pub fn count(&self) -> usize {
        match self {
            Self::Codebook { book, .. } => book.shape().codes,
            Self::Table(table) => table.count(),
        }
    }

    /// The typical patches; `None` of codes that were made elsewhere.
    pub fn book(&self) -> Option<&Codebook> {
        match self {
            Self::Codebook { book, .. } => Some(book),
            Self::Table(_) => None,
        }
    }

    /// Patches along a side of an image of `size` pixels.
    pub fn side(&self, size: usize) -> usize {
        match self {
            Self::Codebook { book, .. } => size / book.shape().patch_size,
            Self::Table(table) => table.grid().isqrt(),
        }
    }

    /// One sentence: where the codes come from.
    pub fn describe(&self) -> String {
        match self {
            Self::Codebook { book, .. } => book.describe(),
            Self::Table(table) => table.describe(),
        }
    }

    /// The codes of an image that the model sees like this.
    ///
    /// # Shapes
    ///
    /// - levels: `[C, S, S]`
    ///
    /// # Errors
    ///
    /// A file has no codes of it, or not all of them.
    pub(crate) fn of_image(
        &self,
        levels: &[u8],
        size: usize,
        name: &dyn Fn() -> Result<Option<String>, SampleError>,
    ) -> Result<Vec<u32>, ReadError> {
        match self {
            Self::Codebook { book, .. } => Ok(book.codes(levels, size)),
            Self::Table(table) => {
                let name = name().map_err(|error| ReadError {
                    kind: error.kind,
                    reason: error.reason,
                })?;
                let name = name.ok_or("the image has no name that codes could be found by")?;
                Ok(table.row(&name)?)
            }
        }
    }
}

/// Some of an image's patches, drawn without looking at them.
fn some_of(
    shape: CodebookShape,
    own: &[f32],
    most: usize,
    [seed, image]: [u64; 2],
    into: &mut Vec<f32>,
) {
    let numbers = shape.numbers();
    let count = own.len() / numbers;
    if count <= most {
        into.extend_from_slice(own);
        return;
    }
    let order = Permutation::new(count, hash(Stream::Codes, &[seed, image, 1]), 0);
    for at in 0..most {
        into.extend_from_slice(&own[order.at(at) * numbers..][..numbers]);
    }
}

/// The levels of a training image as the model sees it, without a random change.
fn levels(spec: &ImageSpec, source: &dyn Source, index: usize) -> Result<Vec<u8>, SampleError> {
    let picture = source.image(Split::Train, index)?;
    let place = || source.place(Split::Train, index);
    let picture = picture.ok_or_else(|| SampleError::new(place(), "no image".to_owned()))?;
    let square = spec.square(&picture);
    let square = square.map_err(|reason| SampleError::new(place(), reason))?;
    let mut levels = Vec::with_capacity(spec.values());
    spec.planes(&square, &mut levels);
    Ok(levels)
}

#[cfg(test)]
mod tests;
