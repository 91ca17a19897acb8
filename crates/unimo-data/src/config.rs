//! The `[data]` part of a recipe.
//!
//! ```toml
//! [data]
//! source = "pairs"
//! image_size = 224
//! resize = "crop"
//!
//! [data.pairs]
//! path = "coco/pairs.jsonl"
//! text_columns = ["caption", "alt"]
//! filter = { lang = "en" }
//!
//! [data.tokenizer]
//! kind = "file"
//! path = "roberta-base"
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unimo_batch::ConfigError;
use unimo_batch::registry::{Beside, fields_of};

use crate::error::DataError;
use crate::images::augment::AugmentConfig;
use crate::images::{Filter, ImageSpec, Limits, Resize};
use crate::loader::codes::CodesConfig;
use crate::loader::switch::SwitchConfig;
use crate::order::plan::Shuffle;
use crate::settings::{not_empty, range, share};
use crate::sources::coco::CocoPart;
use crate::sources::detect::{self, Kind, pictures_of};
use crate::sources::images::ImagesConfig;
use crate::sources::karpathy::KarpathyConfig;
use crate::sources::pairs::PairsConfig;
use crate::sources::parts::Parts;
use crate::sources::regions::RegionsConfig;
use crate::sources::registry::{Entry, OutsideSourceConfig, OutsideSources, REGISTRY};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::vqa::VqaPart;
use crate::sources::{AnySource, sources, unknown};
use crate::text::concepts::ConceptsConfig;
use crate::text::tokens::{Pad, SMALLEST_VOCABULARY, TokenizerConfig};
use crate::walks::WalkConfig;

/// Makes [`DataConfig`] and [`SourceKind`] from the list of sources.
macro_rules! data_config {
    ($($(#[$doc:meta])* $key:ident $variant:ident($config:ty);)*) => {
        /// What to train on and how it becomes batches.
        // The derived reader and writer know no registered sources; those below do, and are the ones that serde calls.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(remote = "Self", deny_unknown_fields, default)]
        pub struct DataConfig {
            /// Which source gives the samples; its own table holds its settings.
            pub source: SourceKind,
            /// Side of the square image that the model reads, in pixels.
            pub image_size: usize,
            /// How an image becomes square.
            pub resize: Resize,
            /// Interpolation used to resize.
            pub filter: Filter,
            /// Mean per channel (R, G, B) of pixel values in 0..1, subtracted.
            pub mean: [f32; 3],
            /// Standard deviation per channel of pixel values in 0..1, divided by.
            pub std: [f32; 3],
            /// Random changes of training images; `None`: none.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub augment: Option<AugmentConfig>,
            /// Longest text in tokens, including begin and end tokens.
            pub max_text_length: usize,
            /// What the texts of a batch are padded to.
            pub pad: Pad,
            /// Largest image that is decoded, in pixels: a bound against decompression bombs.
            pub max_pixels: u64,
            /// Size at which JPEGs are decoded.
            pub decode: Decode,
            /// Share of the data set's items that may be unusable before training stops.
            pub max_skipped: f64,
            /// Loader threads; `None`: the number of cores minus one, at least one.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub workers: Option<usize>,
            /// Batches in flight over all threads, being made or ready, besides the one of the current step. This bounds the
            /// loader's memory. Threads beyond `prefetch` times the batch size have nothing to do.
            pub prefetch: usize,
            /// How samples are shuffled: `"global"`, or `{ shards = N }` for storage that is best read in order.
            pub shuffle: Shuffle,
            /// Number of batches among which samples are sorted by text length, to reduce padding; 1: no sorting.
            pub bucket: usize,
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$config>,
            )*
            /// The tables of sources of other crates.
            #[serde(flatten, skip_deserializing)]
            pub outside: OutsideSources,
            /// Vocabulary of phrases and tags beside the tokens; `None`: none.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub concepts: Option<ConceptsConfig>,
            /// Words of training captions in other languages; `None`: captions as they are.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub switch: Option<SwitchConfig>,
            /// A code for each patch of an image, which hidden patches are to become; `None`: images have none.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub codes: Option<CodesConfig>,
            /// How episodes of an agent become maps and decisions; `None`: as the defaults of its keys say.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub walks: Option<WalkConfig>,
            /// Regions instead of pixels; `None`: pixels.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub regions: Option<RegionsConfig>,
            /// How texts become token ids.
            pub tokenizer: TokenizerConfig,
        }

        impl Default for DataConfig {
            fn default() -> Self {
                Self {
                    source: SourceKind::Scenes,
                    image_size: 224,
                    resize: Resize::Crop,
                    filter: Filter::Bicubic,
                    mean: [0.5; 3],
                    std: [0.5; 3],
                    augment: None,
                    max_text_length: 50,
                    pad: Pad::Longest,
                    max_pixels: 50_000_000,
                    decode: Decode::Full,
                    max_skipped: 0.01,
                    workers: None,
                    prefetch: 4,
                    shuffle: Shuffle::Global,
                    bucket: 1,
                    $($key: None,)*
                    outside: OutsideSources::default(),
                    concepts: None,
                    switch: None,
                    codes: None,
                    walks: None,
                    regions: None,
                    tokenizer: TokenizerConfig::default(),
                }
            }
        }

        /// The sources that a recipe may name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum SourceKind {
            $($(#[$doc])* $variant,)*
            /// A source of another crate, by the name under which it is registered.
            Outside(&'static str),
        }

        impl SourceKind {
            /// The name in a recipe.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($key),)*
                    Self::Outside(key) => key,
                }
            }

            /// The source with this name, if there is one.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($key) => Some(Self::$variant),)*
                    name => REGISTRY.get(name).map(|(key, _)| Self::Outside(key)),
                }
            }
        }

        impl DataConfig {
            /// The chosen source, with the settings in its table.
            ///
            /// # Errors
            ///
            /// The source needs a table and it is absent.
            pub fn chosen(&self) -> Result<AnySource, DataError> {
                match self.source {
                    $(SourceKind::$variant => {
                        let table = self.$key.clone().or_else(<$config>::without_table);
                        table.map(AnySource::$variant)
                    })*
                    SourceKind::Outside(key) => self.outside.get(key).map(AnySource::Outside),
                }
                .ok_or_else(|| {
                    let name = self.source.name();
                    DataError::config(
                        format!("data.{name}"),
                        "absent",
                        format!("a table with the settings of `data.source = \"{name}\"`"),
                    )
                })
            }

            /// The tables of all sources, chosen or not.
            fn tables(&mut self) -> Vec<&mut dyn SourceConfig> {
                let mut all: Vec<&mut dyn SourceConfig> = Vec::new();
                $(all.extend(self.$key.as_mut().map(|table| table as &mut dyn SourceConfig));)*
                all.extend(self.outside.iter_mut().map(|source| source.config_mut()));
                all
            }
        }
    };
}

sources!(data_config);

impl Serialize for SourceKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for SourceKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| unknown(&name))
    }
}

impl Serialize for DataConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DataConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for DataConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        let mut config = DataConfig::deserialize(Beside {
            deserializer,
            registry: &REGISTRY,
            found: &mut found,
        })?;
        config.outside = OutsideSources::read(found)?;
        Ok(config)
    }
}

/// Makes a source of another crate known as `data.source = "KEY"`, with its settings in `[data.KEY]`, and as a part of mixtures.
///
/// ```
/// use std::path::PathBuf;
/// use std::sync::Arc;
///
/// use serde::{Deserialize, Serialize};
/// use unimo_data::image::{Rgb, RgbImage};
/// use unimo_data::images::Limits;
/// use unimo_data::{DataConfig, DataError, Place, SampleError, Source, SourceConfig, Split};
///
/// /// `[data.grey]`: images of one grey level, which the caption says.
/// #[derive(Debug, Clone, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct GreyConfig {
///     levels: usize,
/// }
///
/// impl SourceConfig for GreyConfig {
///     fn validate(&self, table: &str) -> Result<(), DataError> {
///         if self.levels > 0 {
///             return Ok(());
///         }
///         Err(DataError::config(format!("{table}.levels"), self.levels, "a whole number from 1"))
///     }
///     fn paths(&mut self) -> Vec<&mut PathBuf> {
///         Vec::new()
///     }
///     fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
///         Ok(Arc::new(Grey { levels: self.levels }))
///     }
/// }
///
/// struct Grey {
///     levels: usize,
/// }
///
/// impl Source for Grey {
///     fn len(&self, split: Split) -> usize {
///         if split == Split::Train { self.levels } else { 0 }
///     }
///     fn describe(&self) -> String {
///         format!("{} levels of grey", self.levels)
///     }
///     fn place(&self, _split: Split, index: usize) -> Place {
///         Place { file: "grey".to_owned(), line: index as u64 }
///     }
///     fn captions(&self, _split: Split, index: usize) -> Result<Vec<String>, SampleError> {
///         Ok(vec![format!("level {index}")])
///     }
///     fn image(&self, _split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
///         Ok(Some(RgbImage::from_pixel(8, 8, Rgb([(index % 256) as u8; 3]))))
///     }
/// }
///
/// unimo_data::register::<GreyConfig>("grey").unwrap();
/// let config: DataConfig = toml::from_str("source = \"grey\"\n[grey]\nlevels = 3").unwrap();
/// let source = unimo_data::open(&config).unwrap();
/// assert_eq!(source.captions(Split::Train, 2).unwrap(), ["level 2"]);
/// ```
///
/// # Errors
///
/// A source has the name already, or it is a key of `[data]`.
pub fn register<C: OutsideSourceConfig>(key: &'static str) -> Result<(), ConfigError> {
    REGISTRY.add(key, &fields_of::<DataConfig>(), Entry::of::<C>())
}

/// Size at which JPEGs are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// Full size.
    #[default]
    Full,
    /// The smallest of 1/8, 1/4, 1/2 and full size at which every part that may be shown is at least as large as the model's image,
    /// as Pillow's `draft`. It is faster for large photographs, and blurs differently than resizing alone. Held-out images are
    /// decoded like training images. Random operations before the crop see the smaller image too, which changes those that count in
    /// pixels.
    ///
    /// Decoded in full are: other formats, four-channel JPEGs, images from which a box is cut out, images with boxes in pixels
    /// whose size the list does not say, and everything with `resize = "bridgetower_processor"`.
    Scaled,
}

impl DataConfig {
    /// Checks every value, alone and against the others.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self) -> Result<(), DataError> {
        let range = |key: &str, value: usize, low: usize, high: usize| {
            range(&format!("data.{key}"), value, low, high)
        };
        range("image_size", self.image_size, 8, 4096)?;
        range("max_text_length", self.max_text_length, 3, 1 << 16)?;
        range("prefetch", self.prefetch, 1, 1024)?;
        range("bucket", self.bucket, 1, 4096)?;
        if let Shuffle::Shards(window) = self.shuffle {
            range("shuffle.shards", window, 1, 1 << 20)?;
        }
        if let Some(workers) = self.workers {
            range("workers", workers, 1, 1024)?;
        }
        for (key, values, positive) in [("mean", self.mean, false), ("std", self.std, true)] {
            if values
                .iter()
                .any(|value| !(0.0..=1.0).contains(value) || (positive && *value == 0.0))
            {
                return Err(DataError::config(
                    format!("data.{key}"),
                    format!("{values:?}"),
                    if positive {
                        "three numbers above 0, at most 1 (R, G, B): values of pixels are from 0 to 1"
                    } else {
                        "three numbers from 0 to 1 (R, G, B), as values of pixels are"
                    },
                ));
            }
        }
        if !(1..=1 << 32).contains(&self.max_pixels) {
            return Err(DataError::config(
                "data.max_pixels",
                self.max_pixels,
                "a whole number from 1 to 4294967296",
            ));
        }
        share("data.max_skipped", self.max_skipped)?;
        if let Some(concepts) = &self.concepts {
            concepts.validate("data.concepts")?;
        }
        if let Some(switch) = &self.switch {
            switch.validate("data.switch")?;
            if self.concepts.is_some() {
                let allowed =
                    "absent beside data.concepts, whose phrases would stay in the first language";
                return Err(DataError::config("data.switch", "{}", allowed));
            }
        }
        if let Some(augment) = &self.augment {
            augment.validate()?;
        }
        if let Some(codes) = &self.codes {
            codes.validate(self.image_size)?;
            if !codes.aligned() && !self.augment.is_some_and(|augment| augment.moves()) {
                return Err(DataError::config(
                    "data.codes.aligned",
                    false,
                    "true unless data.augment moves what an image shows: another crop is the same one",
                ));
            }
            if codes.is_fixed() && self.augment.is_some_and(|augment| augment.moves()) {
                return Err(DataError::config(
                    "data.augment",
                    "a crop, a flip or a list of operations",
                    "absent, or a change of colours alone, beside data.codes.kind = \"files\": its codes are of whole images, and would \
                     not be those of the patches that the model sees. kind = \"k_means\" computes codes after every change",
                ));
            }
        }
        if let Some(walks) = &self.walks {
            walks.validate("data.walks")?;
        }
        if let Some(regions) = &self.regions {
            regions.validate()?;
            if self.augment.is_some() {
                let allowed = "absent beside data.regions, which are taken as they are";
                return Err(DataError::config("data.augment", "{}", allowed));
            }
            if self.codes.is_some() {
                let allowed = "absent beside data.regions: codes are of patches of pixels";
                return Err(DataError::config("data.codes", "{}", allowed));
            }
        }
        self.chosen()?
            .validate(&format!("data.{}", self.source.name()))?;
        match &self.tokenizer {
            TokenizerConfig::Train { vocab_size } => {
                range(
                    "tokenizer.vocab_size",
                    *vocab_size,
                    SMALLEST_VOCABULARY,
                    1 << 20,
                )?;
            }
            TokenizerConfig::File { path, .. } => {
                not_empty(
                    "data.tokenizer.path",
                    &path.to_string_lossy(),
                    "a file or folder",
                )?;
            }
        }
        Ok(())
    }

    /// Numbers per region; `None` if the model reads pixels.
    pub fn region_features(&self) -> Option<usize> {
        self.regions.as_ref().map(|r| r.shape().features)
    }

    /// Makes relative paths relative to `folder`, such as the recipe's own folder.
    pub fn rebase(&mut self, folder: &Path) {
        let rebase = |path: &mut PathBuf| {
            if path.is_relative() && !path.as_os_str().is_empty() {
                *path = folder.join(&*path);
            }
        };
        self.tables()
            .into_iter()
            .flat_map(|table| table.paths())
            .for_each(rebase);
        if let TokenizerConfig::File { path, .. } = &mut self.tokenizer {
            rebase(path);
        }
        let regions = self.regions.iter_mut();
        regions.flat_map(RegionsConfig::paths_mut).for_each(rebase);
        let codes = self.codes.iter_mut();
        codes.filter_map(CodesConfig::path_mut).for_each(rebase);
        let concepts = self.concepts.iter_mut();
        concepts.flat_map(ConceptsConfig::paths).for_each(rebase);
        let switch = self.switch.iter_mut();
        switch.flat_map(SwitchConfig::paths).for_each(rebase);
    }

    /// The local files and folders that the chosen source, the tokenizer, regions, codes, concepts and dictionaries name and that do not exist. Patterns of
    /// file names and URLs are not looked for, nor a tokenizer's relative path, which may be a Hugging Face id.
    pub fn missing(&self) -> Vec<PathBuf> {
        let mut named = self.named_paths();
        named.retain(|path| {
            let text = path.to_string_lossy();
            let plain = !text.contains("://") && !text.contains(['{', '*', '?']);
            plain && !text.is_empty() && !path.exists()
        });
        named.dedup();
        named
    }

    /// The list, and the folder where its images were found, of a source whose images are looked for around its list.
    pub fn looked_for(&self) -> Option<(&Path, &Path)> {
        match self.source {
            SourceKind::Coco => {
                let train = &self.coco.as_ref()?.train;
                Some((&train.captions, &train.images))
            }
            SourceKind::Karpathy => {
                let karpathy = self.karpathy.as_ref()?;
                Some((&karpathy.path, &karpathy.images))
            }
            SourceKind::Vqa => {
                let train = &self.vqa.as_ref()?.train;
                Some((&train.questions, &train.images))
            }
            _ => None,
        }
    }

    /// Everything that the chosen source, the tokenizer, regions, codes, concepts and dictionaries name: files, folders, patterns and URLs,
    /// but no relative path of a tokenizer, which may be a Hugging Face id.
    pub fn named_paths(&self) -> Vec<PathBuf> {
        let mut config = self.clone();
        let mut named: Vec<PathBuf> = Vec::new();
        if let Ok(mut source) = config.chosen() {
            named.extend(source.paths().into_iter().map(|path| path.clone()));
        }
        if let TokenizerConfig::File { path, .. } = &self.tokenizer
            && path.is_absolute()
        {
            named.push(path.clone());
        }
        let regions = config.regions.iter_mut().flat_map(RegionsConfig::paths_mut);
        named.extend(regions.map(|path| path.clone()));
        let codes = config.codes.as_mut().and_then(CodesConfig::path_mut);
        named.extend(codes.cloned());
        let concepts = config.concepts.iter_mut().flat_map(ConceptsConfig::paths);
        named.extend(concepts.map(|path| path.clone()));
        let switch = config.switch.iter_mut().flat_map(SwitchConfig::paths);
        named.extend(switch.map(|path| path.clone()));
        named
    }

    /// Removes every file that its sources read. [`take_from`](Self::take_from) then gives only the files at its path, and no split
    /// of another data set remains.
    pub fn forget_files(&mut self) {
        (self.coco, self.vqa) = (None, None);
        if let Some(images) = &mut self.images {
            images.train.clear();
            images.val.clear();
            images.test.clear();
        }
        if let Some(karpathy) = &mut self.karpathy {
            karpathy.images = PathBuf::new();
        }
        if let Some(shards) = &mut self.webdataset {
            shards.urls.clear();
            shards.train.clear();
            shards.val.clear();
            shards.test.clear();
        }
        if let Some(parquet) = &mut self.parquet {
            parquet.path = None;
            parquet.train.clear();
            parquet.val.clear();
            parquet.test.clear();
        }
    }

    /// Holds out no share of what [`take_from`](Self::take_from) gave, so that all of it is one split, in its own order.
    pub fn hold_out_nothing(&mut self) {
        let shares = [
            self.pairs.as_mut().map(|pairs| &mut pairs.val_fraction),
            self.images.as_mut().map(|images| &mut images.val_fraction),
            self.coco.as_mut().map(|coco| &mut coco.val_fraction),
            self.vqa.as_mut().map(|vqa| &mut vqa.val_fraction),
            self.webdataset.as_mut().map(|tars| &mut tars.val_fraction),
            self.parquet.as_mut().map(|files| &mut files.val_fraction),
        ];
        shares.into_iter().flatten().for_each(|share| *share = 0.0);
    }

    /// Takes lists and folders without the labels that the settings name, as what is predicted may have none.
    pub fn allow_unlabelled(&mut self) {
        if let Some(pairs) = &mut self.pairs {
            pairs.unlabelled = true;
        }
        if let Some(images) = &mut self.images {
            images.unlabelled = true;
        }
    }

    /// Chooses the source for a path, recognised by content: tar shards, a folder or index of them, Parquet files or a folder of
    /// them, COCO captions, Karpathy splits, questions with images, a folder of images with or without a list, else a list of
    /// pairs. The path becomes the source's path; other settings in the source's table stay.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its format needs settings, which the error names.
    pub fn take_from(&mut self, path: PathBuf) -> Result<(), DataError> {
        match detect::kind_of(&path)? {
            Kind::Packed(splits) => {
                let table = self.webdataset.get_or_insert_default();
                let [train, val, test] = splits.map(|folder| folder.into_iter().collect());
                table.urls = Vec::new();
                (table.train, table.val, table.test) = (train, val, test);
                self.source = SourceKind::Webdataset;
            }
            Kind::Shards => {
                self.webdataset.get_or_insert_default().urls = vec![path];
                self.source = SourceKind::Webdataset;
            }
            Kind::Parquet => {
                self.parquet.get_or_insert_default().train = vec![path];
                self.source = SourceKind::Parquet;
            }
            Kind::ParquetFolder => {
                self.parquet.get_or_insert_default().path = Some(path);
                self.source = SourceKind::Parquet;
            }
            Kind::Pictures => {
                match &mut self.images {
                    Some(images) => images.train = vec![path],
                    none => *none = Some(ImagesConfig::new(path)),
                }
                self.source = SourceKind::Images;
            }
            Kind::Pairs(list) => {
                match &mut self.pairs {
                    Some(pairs) => pairs.path = list,
                    none => *none = Some(PairsConfig::new(list)),
                }
                self.source = SourceKind::Pairs;
            }
            Kind::Coco(names) => {
                let given = self.coco.as_ref().map(|coco| &coco.train);
                let images = given.map(|train| &*train.images);
                let images = pictures_of(&path, &names, images, "data.coco.train.images")?;
                let train = CocoPart {
                    captions: path,
                    instances: given.and_then(|train| train.instances.clone()),
                    images,
                };
                self.coco = Some(Parts::of(train, self.coco.take()));
                self.source = SourceKind::Coco;
            }
            Kind::Karpathy(names) => {
                let given = self.karpathy.as_ref().map(|karpathy| &*karpathy.images);
                let images = pictures_of(&path, &names, given, "data.karpathy.images")?;
                match &mut self.karpathy {
                    Some(karpathy) => (karpathy.path, karpathy.images) = (path, images),
                    none => *none = Some(KarpathyConfig::new(path, images)),
                }
                self.source = SourceKind::Karpathy;
            }
            Kind::Questions(names) => {
                let given = self.vqa.as_ref().map(|vqa| &vqa.train);
                let images = given.map(|train| &*train.images);
                let numbered = given.is_some_and(|train| train.image.is_some());
                let images = match images {
                    // Image ids, from which the recipe's template makes names.
                    Some(images) if names.is_empty() && numbered => images.to_owned(),
                    _ if names.is_empty() => return Err(detect::no_image_of(&path)),
                    images => pictures_of(&path, &names, images, "data.vqa.train.images")?,
                };
                let train = VqaPart {
                    questions: path,
                    annotations: given.and_then(|train| train.annotations.clone()),
                    images,
                    image: given.and_then(|train| train.image.clone()),
                };
                self.vqa = Some(Parts::of(train, self.vqa.take()));
                self.source = SourceKind::Vqa;
            }
        }
        Ok(())
    }

    /// Largest number of tokens of a text, including begin and end tokens: phrases behind the words take part of
    /// [`max_text_length`](Self::max_text_length).
    pub fn room_for_words(&self) -> usize {
        let phrases = self.concepts.as_ref().map_or(0, |c| c.max_phrases);
        self.max_text_length.saturating_sub(phrases).max(2)
    }

    /// How episodes of an agent become maps and decisions.
    pub fn walk_config(&self) -> WalkConfig {
        self.walks.unwrap_or_default()
    }

    /// How images become pixels for the model.
    pub fn image_spec(&self) -> ImageSpec {
        ImageSpec {
            size: self.image_size,
            resize: self.resize,
            filter: self.filter,
            mean: self.mean,
            std: self.std,
        }
    }

    /// Bounds on the decoding of images.
    pub fn limits(&self) -> Limits {
        let least = self.augment.map_or(1.0, |augment| augment.least_side());
        // Regions are cut out of images by boxes. A size rounded to multiples of 32 jumps by as much when the proportions change by
        // a pixel.
        let scaled = self.decode == Decode::Scaled
            && self.regions.is_none()
            && self.resize != Resize::BridgetowerProcessor;
        let enough = scaled.then(|| (self.image_size as f64 / least).ceil() as u32);
        Limits {
            max_pixels: self.max_pixels,
            enough,
        }
    }

    /// Number of loader threads: as set, or the number of cores minus one, at least one.
    pub fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| {
            std::thread::available_parallelism()
                .map_or(1, |cores| cores.get().saturating_sub(1))
                .max(1)
        })
    }
}

/// Opens the source that a recipe names.
///
/// # Errors
///
/// A setting is not allowed, or a list of samples cannot be read or holds nothing usable.
pub fn open(config: &DataConfig) -> Result<Arc<dyn Source>, DataError> {
    config.validate()?;
    let source = config.chosen()?.open(&config.limits())?;
    match &config.regions {
        Some(regions) => regions.open(source, &config.image_spec()),
        None => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DataConfig, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn reads_the_documented_form_and_writes_it_back() {
        let config = parse(
            r#"
            source = "pairs"
            resize = "squash"
            [pairs]
            path = "a/pairs.jsonl"
            text_columns = ["caption", "alt"]
            train_split = ["train", "restval"]
            filter = { alt_lang = "en" }
            [tokenizer]
            kind = "file"
            path = "roberta"
            "#,
        )
        .unwrap();
        config.validate().unwrap();
        let pairs = config.pairs.as_ref().unwrap();
        assert_eq!(pairs.text_columns, ["caption", "alt"]);
        assert_eq!(pairs.train_split, ["train", "restval"]);
        assert_eq!(pairs.filter["alt_lang"], "en");
        let again: DataConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);

        let mut rebased = config.clone();
        rebased.rebase(Path::new("base"));
        assert_eq!(
            rebased.pairs.unwrap().path,
            Path::new("base").join("a/pairs.jsonl")
        );
    }

    #[test]
    fn a_path_says_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, file: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            std::fs::write(path.join(file), "").unwrap();
            path
        };
        for (path, kind) in [
            (place("packed", "train/index.json"), SourceKind::Webdataset),
            (place("tars", "0.tar"), SourceKind::Webdataset),
            ("s3://b/{0..9}.tar".into(), SourceKind::Webdataset),
            ("https://b/train/index.json".into(), SourceKind::Webdataset),
            (place("hub", "train-0.parquet"), SourceKind::Parquet),
            (place("cloned", "data/train-0.parquet"), SourceKind::Parquet),
            (place("folders", "train/0.tar"), SourceKind::Webdataset),
            ("a.parquet".into(), SourceKind::Parquet),
            (place("photos", "a.jpg"), SourceKind::Images),
            ("pairs.jsonl".into(), SourceKind::Pairs),
        ] {
            let mut config = DataConfig::default();
            config.take_from(path.clone()).unwrap();
            assert_eq!(config.source, kind, "{}", path.display());
            config.validate().unwrap();
        }
    }

    #[test]
    fn other_data_is_read_without_the_splits_of_the_first() {
        let own = |val: &str| vec![PathBuf::from(val)];
        let mut config = DataConfig::default();
        config.parquet.get_or_insert_default().val = own("own.parquet");
        config.webdataset.get_or_insert_default().test = own("own.tar");
        config.images = Some(ImagesConfig {
            val: own("own"),
            ..ImagesConfig::new("own")
        });
        config.forget_files();
        config.take_from("a.parquet".into()).unwrap();
        let parquet = config.parquet.as_ref().unwrap();
        assert_eq!((&parquet.train, parquet.val.len()), (&own("a.parquet"), 0));
        config.forget_files();
        config.take_from("s3://b/{0..9}.tar".into()).unwrap();
        assert!(config.webdataset.as_ref().unwrap().test.is_empty());
        // What the class of an image is stays, its folders do not.
        let images = config.images.unwrap();
        assert_eq!((images.train.len(), images.val.len()), (0, 0));
    }

    #[test]
    fn what_is_enough_depends_on_the_parts_that_may_be_shown() {
        let augment = "[augment]\nflip = 0.5\nscale = [0.5, 1.0]\nratio = [0.75, 1.25]\n";
        let whole = augment.replace("[0.5, 1.0]", "[1.0, 1.0]");
        let regions = "[regions]\nkind = \"files\"\npath = \"f\"\nfeatures = 8\n";
        assert_eq!(parse("").unwrap().limits().enough, None);
        for (text, expected) in [
            ("", Some(224)),
            // 224 / sqrt(0.5 * 0.75), rounded up.
            (augment, Some(366)),
            (&whole, Some(224)),
            (regions, None),
            ("resize = \"bridgetower_processor\"", None),
        ] {
            let config = parse(&format!("decode = \"scaled\"\n{text}")).unwrap();
            assert_eq!(config.limits().enough, expected, "{text}");
        }
    }

    #[test]
    fn nothing_at_all_is_a_valid_generated_corpus() {
        let config = parse("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.source, SourceKind::Scenes);
    }

    #[test]
    fn unknown_keys_and_kinds_are_named() {
        for (text, named) in [
            ("image_sise = 3", "image_sise"),
            ("source = \"pears\"", "scenes"),
            ("resize = \"stretch\"", "squash"),
            ("[pairs]\npath = \"x\"\ncolumns = 1", "columns"),
            ("[scenes]\nsede = 1", "sede"),
            ("[tokenizer]\nkind = \"train\"\nvocab = 1", "vocab"),
            (
                "[tokenizer]\nkind = \"train\"\nvocab_size = 400\npath = \"x\"",
                "path",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }

    #[test]
    fn every_bad_value_is_named_with_what_is_allowed() {
        for (text, key) in [
            ("image_size = 0", "data.image_size"),
            ("max_text_length = 2", "data.max_text_length"),
            ("prefetch = 0", "data.prefetch"),
            ("workers = 0", "data.workers"),
            ("std = [1.0, 0.0, 1.0]", "data.std"),
            ("mean = [nan, 0.0, 1.0]", "data.mean"),
            ("max_pixels = 0", "data.max_pixels"),
            ("max_skipped = 1.5", "data.max_skipped"),
            ("source = \"pairs\"", "data.pairs"),
            (
                "source = \"pairs\"\n[pairs]\npath = \"\"",
                "data.pairs.path",
            ),
            (
                "source = \"pairs\"\n[pairs]\npath = \"x\"\ntext_columns = []",
                "data.pairs.text_columns",
            ),
            (
                "source = \"pairs\"\n[pairs]\npath = \"x\"\nval_split = \"train\"",
                "data.pairs.val_split",
            ),
            (
                "source = \"pairs\"\n[pairs]\npath = \"x\"\nval_fraction = -0.1",
                "data.pairs.val_fraction",
            ),
            ("[scenes]\nsize = 8", "data.scenes.size"),
            ("[scenes]\ntrain = 0", "data.scenes.train"),
            ("[scenes]\nval = 100000", "data.scenes.val"),
            (
                "[tokenizer]\nkind = \"train\"\nvocab_size = 100",
                "data.tokenizer.vocab_size",
            ),
        ] {
            let message = parse(text).unwrap().validate().unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{key}`")) && message.contains("allowed"),
                "{text}: {message}"
            );
        }
    }
}
