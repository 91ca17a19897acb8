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

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use unimo_batch::Images;

use crate::error::{DataError, Place, ReadError, SampleError, readable};
use crate::images::regions::{self, POSITION, PictureRegions, RegionShape, position};
use crate::images::{ImageSpec, Part};
use crate::order::draws::{Stream, hash_text};
use crate::order::plan::{Plan, Shuffle};
use crate::settings::{not_empty, range};
use crate::sources::source::{Annotations, Holds, Offers, Sample, Source, SplitFacts, TextsOf};
use crate::sources::splits::Split;
use crate::store::{self, paths};

/// Largest number of regions per image.
const MOST: usize = 4096;
/// Largest number of numbers per region.
const WIDEST: usize = 1 << 16;
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
    },
    /// The boxes that the source knows, cut out.
    Boxes {
        /// Side of a cut-out, in pixels.
        side: usize,
        /// Largest number of boxes cut out per image.
        #[serde(default = "detector_limit")]
        limit: usize,
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
            Self::Files { path, features, .. } => {
                let (key, text) = ("data.regions.path", path.to_string_lossy());
                not_empty(key, &text, "a folder of .npy or .safetensors files")?;
                range("data.regions.features", *features, POSITION + 1, WIDEST)
            }
            Self::Boxes { side, .. } => range("data.regions.side", *side, 1, LARGEST_SIDE),
        }
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
            Self::Boxes { side, limit } => RegionShape {
                most: limit,
                features: side
                    .saturating_mul(side)
                    .saturating_mul(Images::CHANNELS)
                    .saturating_add(POSITION),
            },
        }
    }

    /// The path in the table; a relative one is relative to the recipe.
    pub(crate) fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Files { path, .. } => Some(path),
            Self::Boxes { .. } => None,
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
        Ok(Arc::new(WithRegions {
            source,
            from,
            shape: self.shape(),
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
        regions::read(&path, self.shape)
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
        self.source.identify(split, index, give)
    }

    /// Samples come without pixels.
    fn offers(&self) -> Offers {
        let whole = self.source.offers();
        Offers {
            images: false,
            captions: whole.captions,
            regions: Some(self.shape),
            translations: whole.translations,
            reads_ahead: matches!(self.from, Features::Boxes(_)) && whole.reads_ahead,
        }
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

    fn items(&self) -> usize {
        self.source.items()
    }
}

#[cfg(test)]
mod tests {
    use crate::images::regions::{PictureRegions, RegionShape, pad};
    use crate::store::paths::name_within;
    use npyz::WriterBuilder;
    use safetensors::tensor::Dtype;
    use safetensors::tensor::TensorView;
    use safetensors::tensor::serialize;

    use super::*;
    use crate::config::{DataConfig, open};

    /// Pairs whose image files do not exist, with features of them.
    struct Set {
        folder: tempfile::TempDir,
    }

    impl Set {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let names = ["in/a.jpg", "b.png", "c.jpg", "../d.jpg", "e.jpg"];
            let rows =
                names.map(|name| format!("{{\"image\": {name:?}, \"caption\": \"{name}\"}}\n"));
            std::fs::write(folder.path().join("pairs.jsonl"), rows.concat()).unwrap();
            std::fs::create_dir_all(folder.path().join("features/in")).unwrap();
            Self { folder }
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            let path = self.folder.path().join("features").join(name);
            std::fs::write(path, bytes).unwrap();
        }

        fn open(&self, regions: &str) -> Result<Arc<dyn Source>, DataError> {
            let text = format!(
                "source = \"pairs\"\n[pairs]\npath = \"pairs.jsonl\"\nimage_column = \"image\"\n\
                 text_columns = [\"caption\"]\nval_fraction = 0.0\n[regions]\n{regions}"
            );
            let mut config: DataConfig = toml::from_str(&text).unwrap();
            config.rebase(self.folder.path());
            open(&config)
        }

        fn files(&self) -> Arc<dyn Source> {
            let text = "kind = \"files\"\npath = \"features\"\nfeatures = 8\nlimit = 2\n";
            self.open(text).unwrap()
        }
    }

    fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(shape)
            .writer(&mut bytes)
            .begin_nd()
            .unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    /// A file whose header may be false.
    fn raw(order: &str, shape: &str) -> Vec<u8> {
        let header = format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(f32_bytes(&numbers()));
        bytes
    }

    /// Three regions, each of two numbers and the box.
    fn numbers() -> Vec<f32> {
        let region = |i: usize| {
            let x = 0.25 * i as f32;
            [i as f32, -1.0, x, 0.0, x + 0.25, 0.5, 0.25, 0.5]
        };
        (0..3).flat_map(region).collect()
    }

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn reason(source: &Arc<dyn Source>, index: usize) -> String {
        source.sample(Split::Train, index).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_file_gives_the_same_regions() {
        let set = Set::new();
        let all = numbers();
        let halves: Vec<half::f16> = all.iter().map(|v| half::f16::from_f32(*v)).collect();
        let doubles: Vec<f64> = all.iter().map(|v| f64::from(*v)).collect();
        let view = |shape: [usize; 2], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        let whole = f32_bytes(&all);
        let whole = serialize([("features", view([3, 8], &whole).unwrap())], None).unwrap();
        let parts = |from: usize, to: usize| -> Vec<f32> {
            all.chunks(8).flat_map(|r| r[from..to].to_vec()).collect()
        };
        let (own, boxes) = (f32_bytes(&parts(0, 2)), f32_bytes(&parts(2, 6)));
        let tensors = [
            ("features", view([3, 2], &own).unwrap()),
            ("boxes", view([3, 4], &boxes).unwrap()),
        ];
        let apart = serialize(tensors, None).unwrap();
        for (name, bytes) in [
            ("in/a.npy", npy(&[3, 8], &all)),
            ("in/a.npy", npy(&[3, 8], &halves)),
            ("in/a.npy", npy(&[3, 8], &doubles)),
            ("in/a.safetensors", whole),
            ("in/a.safetensors", apart),
        ] {
            set.write(name, &bytes);
            let source = set.files();
            let sample = source.sample(Split::Train, 0).unwrap();
            let regions = sample.regions.unwrap();
            assert_eq!(regions.features, all[..16], "{name}");
            assert_eq!(
                regions.boxes,
                [[0.0, 0.0, 0.25, 0.5], [0.25, 0.0, 0.5, 0.5]]
            );
            assert_eq!((sample.image, sample.captions.len()), (None, 1));
            assert_eq!(source.image(Split::Train, 0).unwrap(), None);
            std::fs::remove_file(set.folder.path().join("features").join(name)).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_features_is_said() {
        let set = Set::new();
        let source = set.files();
        assert!(reason(&source, 0).contains("no features: there is neither"));
        assert!(reason(&source, 3).contains("no path inside of a folder"));
        let mut wild = numbers();
        wild[9] = f32::NAN;
        let mut pixels = numbers();
        pixels[8 + 4] = 417.0;
        let whole = npy(&[3, 8], &numbers());
        for (bytes, said) in [
            (npy(&[24], &numbers()), "not [regions, numbers]"),
            (
                npy(&[4, 6], &numbers()),
                "6 numbers for a region, `data.regions.features` is 8",
            ),
            (npy(&[0, 8], &[0.0f32; 0]), "no region"),
            (npy(&[3, 8], &wild), "number 1 of region 1 is NaN"),
            (
                npy(&[3, 8], &pixels),
                "the box of region 1 is [0.25, 0, 417, 0.5]",
            ),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "cut short"),
            (npy(&[3, 8], &[1i32; 24]), "not of f16, f32 or f64"),
            (raw("False", "(3, 800000)"), "cut short"),
            (
                raw("False", "(18446744073709551615, 8)"),
                "too many numbers",
            ),
            (raw("True", "(3, 8)"), "Fortran's order"),
            (raw("False", "(9, 8)"), "features"),
            (whole[..whole.len() - 5].to_vec(), "features"),
            (b"no npy".to_vec(), "features"),
        ] {
            set.write("b.npy", &bytes);
            let found = reason(&source, 1);
            assert!(found.contains(said), "{said}: {found}");
        }
        let bytes = f32_bytes(&numbers());
        let view = TensorView::new(Dtype::F32, vec![3, 8], &bytes).unwrap();
        set.write("c.safetensors", &serialize([("x", view)], None).unwrap());
        assert!(reason(&source, 2).contains("no tensor \"features\", only: x"));
        let boxes = TensorView::new(Dtype::F32, vec![3, 4], &bytes[..48]).unwrap();
        let all = TensorView::new(Dtype::F32, vec![3, 8], &bytes).unwrap();
        let both = serialize([("features", all), ("boxes", boxes)], None).unwrap();
        set.write("c.safetensors", &both);
        assert!(
            reason(&source, 2)
                .contains("8 \"features\" of a region beside \"boxes\", 2 are needed")
        );
        set.write("c.safetensors", &[255; 40]);
        assert!(reason(&source, 2).contains("c.safetensors"));
    }

    #[test]
    fn boxes_are_cut_out_of_scenes() {
        let text = "source = \"scenes\"\n[scenes]\ntrain = 4\nval = 2\nsize = 32\n\
                    [regions]\nkind = \"boxes\"\nside = 4\nlimit = 2";
        let config: DataConfig = toml::from_str(text).unwrap();
        let plain = open(&DataConfig {
            regions: None,
            ..config.clone()
        });
        let (source, plain) = (open(&config).unwrap(), plain.unwrap());
        let shape = source.region_shape().unwrap();
        assert_eq!((shape.most, shape.features), (2, 3 * 16 + 6));
        for index in 0..4 {
            let whole = plain.sample(Split::Train, index).unwrap();
            let sample = source.sample(Split::Train, index).unwrap();
            let regions = sample.regions.unwrap();
            assert_eq!(regions.boxes, whole.boxes[..whole.boxes.len().min(2)]);
            assert_eq!(regions.features.len(), regions.boxes.len() * shape.features);
            assert_eq!((sample.image, &sample.tags), (None, &whole.tags));
            let [x1, _, x2, _] = regions.boxes[0];
            assert_eq!(regions.features[48], x1);
            assert_eq!(regions.features[52], x2 - x1);
        }
    }

    #[test]
    fn pictures_of_a_mixture_keep_their_boxes() {
        let text = "source = \"mixture\"\n[mixture]\nbatches = \"single\"\nparts = [\
                    { source = \"scenes\", train = 3, val = 0, size = 32, keep = \"images\" },\
                    { source = \"scenes\", train = 2, val = 2, size = 32, keep = \"texts\" }]\n\
                    [regions]\nkind = \"boxes\"\nside = 4\nlimit = 8";
        let source = open(&toml::from_str(text).unwrap()).unwrap();
        for index in 0..5 {
            let sample = source.sample(Split::Train, index).unwrap();
            let regions = sample.regions.map_or(0, |regions| regions.boxes.len());
            assert_eq!(regions > 0, index < 3);
            assert_eq!(regions, sample.boxes.len());
            assert_eq!(sample.captions.is_empty(), index < 3);
        }
    }

    #[test]
    fn names_tell_folders_apart() {
        let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
        let name = |path, folders: &[&'static Path]| {
            name_within(Path::new(path), folders.iter().copied()).unwrap()
        };
        assert_eq!(name("/d/a/x/1.jpg", &[a]), "x/1.jpg");
        assert_eq!(name("/d/a/x/1.jpg", &[a, a]), "x/1.jpg");
        assert_eq!(name("/d/b/1.jpg", &[a, b]), "b/1.jpg");
    }

    #[test]
    fn batches_are_padded() {
        let of = |rows: usize| PictureRegions {
            features: vec![rows as f32; rows * 2],
            boxes: vec![[0.5; 4]; rows],
        };
        let shape = RegionShape {
            most: 3,
            features: 2,
        };
        let batch = pad(&[&of(2), &of(3)], shape);
        assert_eq!((batch.count, &batch.counts[..]), (3, &[2, 3][..]));
        let features = [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0];
        assert_eq!(batch.features, features);
        assert_eq!(batch.boxes.len(), 24);
        assert_eq!(batch.boxes[8..12], [0.0; 4]);
    }

    #[test]
    fn bad_values_are_named() {
        let set = Set::new();
        for (text, said) in [
            ("kind = \"files\"\npath = \"\"", "data.regions.path"),
            ("kind = \"files\"\npath = \"nowhere\"", "nowhere"),
            (
                "kind = \"files\"\npath = \"features\"\nfeatures = 6",
                "data.regions.features",
            ),
            ("kind = \"boxes\"\nside = 0", "data.regions.side"),
            ("kind = \"boxes\"\nside = 3000000000", "data.regions.side"),
            (
                "kind = \"boxes\"\nside = 4\nlimit = 0",
                "data.regions.limit",
            ),
        ] {
            let message = set.open(text).err().unwrap().to_string();
            assert!(message.contains(said), "{said}: {message}");
        }
    }
}
