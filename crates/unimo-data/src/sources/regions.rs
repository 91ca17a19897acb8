//! `[data.regions]`: images given as regions, as object detectors produce them, instead of pixels (Oscar, VinVL, MVP).
//!
//! A region is `F` numbers: a feature, then its box in the last six: `x1 / W`, `y1 / H`, `x2 / W`, `y2 / H`, `w / W`, `h / H`.
//!
//! ```toml
//! [data.regions]
//! kind = "files"         # features/NAME.npy or features/NAME.safetensors for the image NAME.jpg
//! path = "features"
//! features = 2054        # numbers per region, including the box
//! limit = 50             # largest number of regions per image, the first ones
//! ```
//!
//! NAME is the image's name in the list, or its path within the source's folder of images. If a source has several such folders,
//! NAME begins with the folder's own name. The parts of a mixture share the folder of features.
//!
//! A `.npy` file holds `[R, F]` numbers. A `.safetensors` file holds `features`, `[R, F]`, or `[R, F - 6]` with `boxes`, `[R, 4]`:
//! x1, y1, x2, y2 relative to width and height. The images themselves are not read and need not exist.
//!
//! `kind = "boxes"` makes regions of the source's boxes: the feature is the pixels in a box, resized to `side x side`. This is a
//! detector that misses nothing, for trials without features.
//!
//! Objectives that predict what hidden regions are need their classes. With `labels = true` a `.safetensors` file also holds `classes`,
//! `[R]`, or `probabilities`, `[R, K]`, whose largest is the class. Names of the classes are in `names`, a file for each language with one
//! name a line. A class whose line is empty has no name, and its regions are never hidden.
//!
//! ```toml
//! [data.regions]
//! kind = "files"
//! path = "features"
//! labels = true
//! names = { en = "objects.en.txt", de = "objects.de.txt" }
//! ```
//!
//! Boxes of a source have the names that the source gives them. Their classes are the lines of `names`, or, of generated scenes, known.

mod classes;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use unimo_batch::{Images, NO_CLASS};

use crate::error::{DataError, Place, ReadError, SampleError, readable};
use crate::images::regions::{self, POSITION, PictureRegions, RegionShape, position};
use crate::images::{ImageSpec, Part};
use crate::order::draws::{Stream, hash_text};
use crate::order::plan::{Plan, Shuffle};
use crate::settings::{not_empty, range};
use crate::sources::source::{Annotations, Holds, Offers, Sample, Source, SplitFacts, TextsOf};
use crate::sources::splits::Split;
use crate::store::{self, paths};
use crate::walks::Recorded;

pub use classes::RegionClasses;

/// Largest number of regions per image.
const MOST: usize = 4096;
/// Largest number of numbers per region.
const WIDEST: usize = 1 << 16;
/// Largest number of classes.
const MOST_CLASSES: usize = 1 << 16;
/// Largest side of a cut-out box.
const LARGEST_SIDE: usize = 64;

/// `[data.regions]`. See the [module](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RegionsConfig {
    /// A file of features for each image.
    Files {
        /// The folder of the files.
        path: PathBuf,
        /// Numbers per region.
        #[serde(default = "detector_features")]
        features: usize,
        /// Largest number of regions read per image: the first ones of the file.
        #[serde(default = "detector_limit")]
        limit: usize,
        /// Whether the files also hold the class of each region: `classes`, `[R]`, or `probabilities`, `[R, K]`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        labels: bool,
        /// By language, a file with the name of each class, one a line; an empty line is a class that is never hidden. They need
        /// `labels = true`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        names: BTreeMap<String, PathBuf>,
        /// The class of regions that show no object: they are never hidden. Absent: there is no such class. Needs `labels = true`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        background: Option<usize>,
    },
    /// The boxes that the source knows, cut out.
    Boxes {
        /// Side of a cut-out, in pixels.
        side: usize,
        /// Largest number of boxes cut out per image.
        #[serde(default = "detector_limit")]
        limit: usize,
        /// By language, a file with names of objects, one a line: a box has the class whose line its name is. A box with another name has
        /// no class and is never hidden. Absent: the names that the source itself knows, as scenes do.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        names: BTreeMap<String, PathBuf>,
    },
}

/// 2,048 of a ResNet and six of the box.
fn detector_features() -> usize {
    2048 + POSITION
}

/// As many as MVP reads.
fn detector_limit() -> usize {
    50
}

impl RegionsConfig {
    /// Checks every value, alone and against the others.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self) -> Result<(), DataError> {
        let (Self::Files { limit, .. } | Self::Boxes { limit, .. }) = self;
        range("data.regions.limit", *limit, 1, MOST)?;
        match self {
            Self::Files {
                path,
                features,
                labels,
                names,
                background,
                ..
            } => {
                let (key, text) = ("data.regions.path", path.to_string_lossy());
                not_empty(key, &text, "a folder of .npy or .safetensors files")?;
                range("data.regions.features", *features, POSITION + 1, WIDEST)?;
                if !labels && !names.is_empty() {
                    let allowed = "absent without data.regions.labels = true: without classes nothing is named";
                    return Err(DataError::config("data.regions.names", "{..}", allowed));
                }
                match background {
                    Some(class) if !labels => Err(DataError::config(
                        "data.regions.background",
                        class,
                        "absent without data.regions.labels = true",
                    )),
                    Some(class) => range("data.regions.background", *class, 0, MOST_CLASSES - 1),
                    None => Ok(()),
                }
            }
            Self::Boxes { side, .. } => range("data.regions.side", *side, 1, LARGEST_SIDE),
        }?;
        classes::validate(self.names())
    }

    /// Number and width of the regions.
    pub fn shape(&self) -> RegionShape {
        match *self {
            Self::Files {
                features, limit, ..
            } => RegionShape {
                most: limit,
                features,
            },
            Self::Boxes { side, limit, .. } => RegionShape {
                most: limit,
                features: side
                    .saturating_mul(side)
                    .saturating_mul(Images::CHANNELS)
                    .saturating_add(POSITION),
            },
        }
    }

    /// The paths in the table; relative ones are relative to the recipe.
    pub(crate) fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Files { path, names, .. } => {
                std::iter::once(path).chain(names.values_mut()).collect()
            }
            Self::Boxes { names, .. } => names.values_mut().collect(),
        }
    }

    /// The files of names, by language.
    fn names(&self) -> &BTreeMap<String, PathBuf> {
        match self {
            Self::Files { names, .. } | Self::Boxes { names, .. } => names,
        }
    }

    /// The classes that the settings name; `None` if they name none.
    ///
    /// # Errors
    ///
    /// A file of names cannot be read, or two have different numbers of names.
    pub fn classes(&self) -> Result<Option<RegionClasses>, DataError> {
        match self {
            Self::Files {
                labels: true,
                names,
                background,
                ..
            } => RegionClasses::open(names, *background).map(Some),
            Self::Boxes { names, .. } if !names.is_empty() => {
                RegionClasses::open(names, None).map(Some)
            }
            Self::Files { .. } | Self::Boxes { .. } => Ok(None),
        }
    }

    /// A source that gives regions for images. `images` says how the pixels of cut-out boxes are normalised.
    ///
    /// # Errors
    ///
    /// The folder does not exist.
    pub(crate) fn open(
        &self,
        source: Arc<dyn Source>,
        images: &ImageSpec,
    ) -> Result<Arc<dyn Source>, DataError> {
        let from = match self {
            Self::Files { path, .. } => {
                let entries = std::fs::read_dir(path);
                entries.map_err(|error| DataError::file("read", path, error))?;
                for split in Split::ALL {
                    let mut all = 0..source.len(split);
                    let first = all.find(|index| source.holds(split, *index).images);
                    let Some(first) = first else { continue };
                    if readable(source.image_name(split, first))?.is_none() {
                        return Err(DataError::config(
                            "data.regions.kind",
                            "\"files\"",
                            "a source whose images are files of their own with names: those in shards, in Parquet files, of \
                             the generator and cut out of others have none",
                        ));
                    }
                }
                Features::Files(path.clone())
            }
            Self::Boxes { side, .. } => Features::Boxes(ImageSpec {
                size: *side,
                ..*images
            }),
        };
        let classes = match (self.classes()?, self) {
            (Some(classes), _) => Some(Arc::new(classes)),
            (None, Self::Boxes { .. }) => source.region_classes(),
            (None, Self::Files { .. }) => None,
        };
        Ok(Arc::new(WithRegions {
            source,
            from,
            shape: self.shape(),
            classes,
            named: !self.names().is_empty(),
        }))
    }
}

/// Where regions come from.
enum Features {
    Files(PathBuf),
    Boxes(ImageSpec),
}

/// A source whose images are given as regions.
struct WithRegions {
    source: Arc<dyn Source>,
    from: Features,
    shape: RegionShape,
    /// `None`: classes of regions are not known.
    classes: Option<Arc<RegionClasses>>,
    /// Whether the settings name them.
    named: bool,
}

impl WithRegions {
    fn bad(&self, split: Split, index: usize, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.source.place(split, index), reason)
    }

    /// Reads an image's file of features.
    fn read(&self, folder: &Path, split: Split, index: usize) -> Result<PictureRegions, ReadError> {
        let name = self.source.image_name(split, index);
        let name = name.map_err(|error| ReadError::unavailable(error.reason))?;
        let name = name.ok_or("the image has no name that features could be found by")?;
        let name = paths::spelled(folder, &name);
        let inside = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(format!(
                "the image's name {name:?} is no path inside of a folder, so no features can be found by it"
            )
            .into());
        }
        let npy = folder.join(&name).with_extension("npy");
        let safetensors = npy.with_extension("safetensors");
        let path = match store::may_be_file(&npy) {
            true => npy,
            false if store::may_be_file(&safetensors) => safetensors,
            false => {
                return Err(format!(
                    "no features: there is neither {} nor a .safetensors file beside it",
                    npy.display()
                )
                .into());
            }
        };
        let regions = regions::read(&path, self.shape, self.classes.is_some())?;
        if let Some(classes) = &self.classes {
            classes
                .check(&regions)
                .map_err(|reason| format!("features {}: {reason}", path.display()))?;
        }
        Ok(regions)
    }

    /// Cuts out the boxes of a sample.
    fn cut(&self, spec: &ImageSpec, sample: &Sample) -> Result<PictureRegions, String> {
        let picture = sample.image.as_ref().ok_or("no image")?;
        let mut regions = PictureRegions::default();
        for bounds in sample.boxes.iter().take(self.shape.most) {
            let square = spec.square_of(picture, Part::of_box(picture, *bounds))?;
            spec.normalise(&square, &mut regions.features);
            regions.features.extend(position(*bounds));
            regions.boxes.push(*bounds);
        }
        if let Some(classes) = &self.classes {
            let names = sample.tags.iter().take(regions.boxes.len());
            regions.classes.extend(names.map(|name| classes.of(name)));
            regions.classes.resize(regions.boxes.len(), NO_CLASS);
        }
        if regions.boxes.is_empty() {
            Err("no boxes are known of it".to_owned())
        } else {
            Ok(regions)
        }
    }
}

impl Source for WithRegions {
    fn len(&self, split: Split) -> usize {
        self.source.len(split)
    }

    fn describe(&self) -> String {
        let RegionShape { most, features } = self.shape;
        let inner = self.source.describe();
        format!("{inner}; images as up to {most} regions of {features} numbers")
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.source.place(split, index)
    }

    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        // Other names are other labels. They are of all samples, so that one of them gives them.
        let named = self.classes.as_ref().filter(|_| self.named && index == 0);
        for (language, names) in named.iter().flat_map(|classes| classes.names()) {
            give(language.as_bytes());
            names.iter().for_each(|name| give(name.as_bytes()));
        }
        self.source.identify(split, index, give)
    }

    fn identify_labels(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        self.source.identify_labels(split, index, give)
    }

    /// Samples come without pixels.
    fn offers(&self) -> Offers {
        let whole = self.source.offers();
        Offers {
            images: false,
            captions: whole.captions,
            regions: Some(self.shape),
            translations: whole.translations,
            alignments: whole.alignments,
            // Their images are pixels.
            slices: 0,
            walks: whole.walks,
            reads_ahead: matches!(self.from, Features::Boxes(_)) && whole.reads_ahead,
        }
    }

    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        self.classes.clone()
    }

    fn facts(&self, split: Split) -> SplitFacts {
        self.source.facts(split)
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        self.source.annotations(split, index)
    }

    fn holds(&self, split: Split, index: usize) -> Holds {
        Holds {
            images: false,
            ..self.source.holds(split, index)
        }
    }

    fn siblings(&self, split: Split, index: usize) -> Range<usize> {
        self.source.siblings(split, index)
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        self.source.shards(split)
    }

    fn plan(&self, split: Split, shuffle: Shuffle, batch_size: usize) -> Plan {
        self.source.plan(split, shuffle, batch_size)
    }

    fn notes(&self) -> Vec<String> {
        self.source.notes()
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        self.source.captions(split, index)
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        match self.from {
            Features::Files(_) => self.source.picture_id(split, index),
            // A sample has its own boxes, and uses nothing else of its image.
            Features::Boxes(_) => {
                let place = self.place(split, index).to_string();
                Ok(hash_text(Stream::Picture, &place))
            }
        }
    }

    /// For display only: the image is not part of the samples and need not exist.
    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(SampleError::known(self.source.image(split, index))?.flatten())
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        self.source.image_bytes(split, index)
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        self.source.image_name(split, index)
    }

    fn regions(&self, split: Split, index: usize) -> Result<Option<PictureRegions>, SampleError> {
        if !self.source.holds(split, index).images {
            return Ok(None);
        }
        let regions = match &self.from {
            Features::Files(folder) => self.read(folder, split, index),
            Features::Boxes(spec) => self
                .cut(spec, &self.source.sample(split, index)?)
                .map_err(ReadError::from),
        };
        regions
            .map(Some)
            .map_err(|reason| self.bad(split, index, reason))
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        self.source.walk(split, index)
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        self.source.image_path(split, index)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        match &self.from {
            Features::Files(_) => {
                let known = self.annotations(split, index)?;
                Ok(Sample {
                    name: self.place(split, index).to_string(),
                    captions: self.captions(split, index)?,
                    roles: known.roles,
                    phrases: known.phrases,
                    tags: known.tags,
                    languages: known.languages,
                    regions: self.regions(split, index)?,
                    ..Sample::default()
                })
            }
            Features::Boxes(spec) => {
                let mut sample = self.source.sample(split, index)?;
                if self.source.holds(split, index).images {
                    let regions = self.cut(spec, &sample);
                    let regions = regions.map_err(|reason| self.bad(split, index, reason))?;
                    sample.regions = Some(regions);
                }
                sample.image = None;
                sample.picture_id = None;
                sample.second_image = None;
                Ok(sample)
            }
        }
    }

    fn texts(&self, split: Split) -> TextsOf<'_> {
        self.source.texts(split)
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        self.source.ahead(split, indices, shuffle);
    }

    fn rejected(&self) -> &[SampleError] {
        self.source.rejected()
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.source.left_out()
    }

    fn items(&self) -> usize {
        self.source.items()
    }
}

#[cfg(test)]
mod tests;
