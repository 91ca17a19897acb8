//! The images that a command reads: files, or those of a data set.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use unimo_data::digest::{Digest, hex};
use unimo_data::images::{self, Limits};
use unimo_data::{DataError, ReadError, SampleError, Source, Split, readable};

use super::inputs::{self, ColumnArgs};
use crate::error::TrainError;

/// Limits of the images that are read.
pub const LIMITS: Limits = Limits::full_size(50_000_000);

/// Images with their names.
pub struct PictureList {
    names: Vec<String>,
    places: Places,
}

/// Where images are.
enum Places {
    Files(Vec<PathBuf>),
    Samples(Arc<dyn Source>, Vec<(Split, usize)>),
}

impl PictureList {
    /// One file, all in a folder and its subfolders, those that a list names, or those of a data set, as
    /// [`inputs::data_set`] opens it; each once, in order.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds none.
    pub fn open(
        given: &Path,
        columns: &ColumnArgs,
        split: Option<Split>,
    ) -> Result<Self, TrainError> {
        match inputs::data_set(given, split)? {
            Some(source) => Self::of_source(given, source, split),
            None => Ok(Self::of_files(inputs::images(given, columns)?)),
        }
    }

    /// Files with their names.
    pub fn of_files(files: Vec<(String, PathBuf)>) -> Self {
        let (names, files) = files.into_iter().unzip();
        Self {
            names,
            places: Places::Files(files),
        }
    }

    /// The images of a data set. A sample whose image has no name is called by its place.
    fn of_source(
        given: &Path,
        source: Arc<dyn Source>,
        split: Option<Split>,
    ) -> Result<Self, TrainError> {
        let (mut names, mut samples) = (Vec::new(), Vec::new());
        let (mut pictures, mut named) = (HashSet::new(), HashSet::new());
        for split in Split::ALL
            .into_iter()
            .filter(|s| split.is_none_or(|of| of == *s))
        {
            let every = (0..source.len(split)).filter(|at| source.holds(split, *at).images);
            for at in every {
                let unavailable = |error| TrainError::from(DataError::unavailable(&error));
                if !pictures.insert(source.picture_id(split, at).map_err(unavailable)?) {
                    continue;
                }
                let place = source.place(split, at).to_string();
                let name = readable(source.image_name(split, at))?;
                let name = name.filter(|name| named.insert(name.clone()));
                names.push(name.unwrap_or(place));
                samples.push((split, at));
            }
        }
        if samples.is_empty() {
            return Err(TrainError::Check(format!(
                "{} holds no images{}",
                given.display(),
                split.map_or(String::new(), |split| format!(" in split {}", split.name()))
            )));
        }
        Ok(Self {
            names,
            places: Places::Samples(source, samples),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Their names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// An image.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn read(&self, at: usize) -> Result<RgbImage, ReadError> {
        match &self.places {
            Places::Files(files) => images::read(&files[at], LIMITS),
            Places::Samples(source, samples) => {
                let (split, index) = samples[at];
                let told = |error: SampleError| {
                    let unavailable = error.is_unavailable();
                    let reason = error.to_string();
                    if unavailable {
                        ReadError::unavailable(reason)
                    } else {
                        reason.into()
                    }
                };
                let picture = source.image(split, index).map_err(told)?;
                picture.ok_or_else(|| format!("{} has no image", self.names[at]).into())
            }
        }
    }
}

/// How many names there are, and a digest of them in their order.
pub fn describe(names: &[String]) -> String {
    let mut sum = Digest::default();
    for name in names {
        sum.add_sized(name.as_bytes());
    }
    format!("{} {}", names.len(), hex(&sum.finish()))
}
