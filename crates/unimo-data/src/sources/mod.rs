//! Where samples come from: the trait [`Source`], and one file per kind of source.
//!
//! A source knows nothing of batches, threads and the order in which samples are taken. Several sources share these modules:
//! `listed` is a table of samples that most formats fill, `given` checks common settings, `left_out` counts items that are no
//! samples, `folders` finds files and `template` makes their names.

pub mod coco;
pub mod conceptual;
pub(crate) mod detect;
pub mod episodes;
pub(crate) mod folders;
pub(crate) mod given;
pub mod glue;
pub mod houses;
pub mod images;
pub mod interleaved;
pub mod karpathy;
pub(crate) mod label;
pub(crate) mod languages;
pub(crate) mod left_out;
pub mod listed;
pub mod mixture;
pub mod nlvr;
pub mod pack;
pub mod pairs;
pub mod parallel;
pub mod parquet;
pub(crate) mod parts;
pub mod refcoco;
pub mod regions;
pub(crate) mod registry;
pub mod scenes;
pub mod snli_ve;
pub(crate) mod source;
pub(crate) mod splits;
pub mod stories;
pub(crate) mod telling;
pub(crate) mod template;
pub mod texts;
pub mod visual_genome;
pub mod vqa;
pub mod webdataset;

use std::path::PathBuf;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::DataError;
use crate::images::Limits;

use registry::{OutsideSource, REGISTRY};
use source::{Source, SourceConfig};

/// Passes the list of sources to a macro: documentation, key in a recipe, variant, settings.
macro_rules! sources {
    ($make:ident) => {
        $make! {
            /// Image-text pairs listed in a JSON lines, JSON, CSV or TSV file.
            pairs Pairs($crate::sources::pairs::PairsConfig);
            /// Generated images of shapes with captions that are true of them.
            scenes Scenes($crate::sources::scenes::ScenesConfig);
            /// Generated stories: scenes in order, and changes of them.
            stories Stories($crate::sources::stories::StoriesConfig);
            /// Stories in files: images and sentences in order.
            interleaved Interleaved($crate::sources::interleaved::InterleavedFiles);
            /// Generated houses: paths through them, told in words.
            houses Houses($crate::sources::houses::HousesConfig);
            /// Episodes in files, as R2R-CE has them: instructions, paths and recorded views.
            episodes Episodes($crate::sources::episodes::EpisodesConfig);
            /// COCO's captions, with boxes and names of objects.
            coco Coco($crate::sources::coco::CocoConfig);
            /// Karpathy's splits of COCO and Flickr.
            karpathy Karpathy($crate::sources::karpathy::KarpathyConfig);
            /// Visual Genome's regions, as captions or cut out.
            visual_genome VisualGenome($crate::sources::visual_genome::VisualGenomeConfig);
            /// Questions with answers, as in VQAv2, or a plain list of them.
            vqa Vqa($crate::sources::vqa::VqaConfig);
            /// Statements that are true or false, as in NLVR and NLVR2.
            nlvr Nlvr($crate::sources::nlvr::NlvrConfig);
            /// Sentences that an image entails or contradicts.
            snli_ve SnliVe($crate::sources::snli_ve::SnliVeConfig);
            /// Expressions that refer to one object, as in RefCOCO.
            refcoco Refcoco($crate::sources::refcoco::RefcocoConfig);
            /// Downloaded web images with captions, as in CC3M, CC12M and SBU.
            conceptual Conceptual($crate::sources::conceptual::ConceptualConfig);
            /// Images in folders, without texts.
            images Images($crate::sources::images::ImagesConfig);
            /// Plain text files, without images.
            texts Texts($crate::sources::texts::TextsConfig);
            /// GLUE's tasks about one sentence or two, without images.
            glue Glue($crate::sources::glue::GlueConfig);
            /// The same texts in several languages, without images.
            parallel Parallel($crate::sources::parallel::ParallelConfig);
            /// Samples in tar files, local or remote.
            webdataset Webdataset($crate::sources::webdataset::WebDatasetConfig);
            /// Parquet files, as the Hugging Face hub has them.
            parquet Parquet($crate::sources::parquet::ParquetConfig);
            /// Several sources as one.
            mixture Mixture($crate::sources::mixture::MixtureConfig);
        }
    };
}
pub(crate) use sources;

/// Makes [`AnySource`] from the list of sources.
macro_rules! any_source {
    ($($(#[$doc:meta])* $key:ident $variant:ident($config:ty);)*) => {
        /// A source with its settings.
        // The derived writer of built-in sources is a function of the type; the one below is for all sources.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(remote = "Self", tag = "source", rename_all = "snake_case")]
        pub enum AnySource {
            $($(#[$doc])* $variant($config),)*
            /// A source of another crate.
            #[serde(skip)]
            Outside(OutsideSource),
        }

        impl AnySource {
            /// The names of the built-in sources.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($key)),*];

            /// Reads the settings of the built-in source of this name. An error says which of them is wrong.
            fn read<E: Error>(name: &str, table: Value) -> Result<Self, E> {
                match name {
                    $(stringify!($key) => settings(table).map(Self::$variant),)*
                    _ => Err(unknown(name)),
                }
            }

            fn table(&self) -> &dyn SourceConfig {
                match self {
                    $(Self::$variant(config) => config,)*
                    Self::Outside(source) => source.config(),
                }
            }

            fn table_mut(&mut self) -> &mut dyn SourceConfig {
                match self {
                    $(Self::$variant(config) => config,)*
                    Self::Outside(source) => source.config_mut(),
                }
            }
        }
    };
}

sources!(any_source);

impl Serialize for AnySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Outside(source) => source.named(serializer),
            built_in => AnySource::serialize(built_in, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AnySource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(deserializer)?;
        let name = match table.shift_remove("source") {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(D::Error::custom(format_args!(
                    "source: {other} is no name of a source"
                )));
            }
            None => return Err(D::Error::missing_field("source")),
        };
        let table = Value::Object(table);
        match REGISTRY.get(&name) {
            Some((key, entry)) => entry.read(key, table).map(Self::Outside),
            None => Self::read(&name, table),
        }
    }
}

/// The settings of a source. Where they stand in a list, serde knows the place of the list alone; so the error names the key.
fn settings<T: DeserializeOwned, E: Error>(table: Value) -> Result<T, E> {
    serde_path_to_error::deserialize(table).map_err(|error| {
        let key = error.path().to_string();
        match key.as_str() {
            "." => E::custom(error.into_inner()),
            key => E::custom(format_args!("{key}: {}", error.inner())),
        }
    })
}

/// The error for a name that no source has.
pub(crate) fn unknown<E: Error>(name: &str) -> E {
    let allowed = REGISTRY.allowed(AnySource::NAMES);
    E::custom(format_args!("unknown variant `{name}`, {allowed}"))
}

impl SourceConfig for AnySource {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        self.table().validate(table)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.table_mut().paths()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        self.table().open(limits)
    }
}

/// Small data sets for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::path::Path;
    use std::sync::Arc;

    use image::{Rgb, RgbImage};
    use tempfile::TempDir;

    use crate::config::{DataConfig, open as open_source};
    use crate::error::DataError;
    use crate::sources::source::Source;
    use crate::sources::splits::Split;

    /// Statements in `n.json` about images in `i`, all for training.
    pub(crate) const NLVR: &str = r#"
        source = "nlvr"
        [nlvr]
        val_fraction = 0.0
        [nlvr.train]
        path = "n.json"
        images = "i"
        "#;

    /// A folder with these files. The text of an image is its size, `4x3`; the red channel is x, green is y.
    pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let picture = [".jpg", ".png", ".webp", ".JPG"]
                .iter()
                .any(|end| name.ends_with(end));
            match text.split_once('x').filter(|_| picture) {
                Some((width, height)) => picture_file(&path, width, height),
                None => std::fs::write(path, text).unwrap(),
            }
        }
        folder
    }

    fn picture_file(path: &Path, width: &str, height: &str) {
        let (width, height) = (width.parse().unwrap(), height.parse().unwrap());
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7]));
        // Formats are recognised by content, so a PNG may have any name.
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        std::fs::write(path, bytes.into_inner()).unwrap();
    }

    /// Opens what a `[data]` table describes, with paths inside the folder.
    pub(crate) fn open(folder: &TempDir, data: &str) -> Result<Arc<dyn Source>, DataError> {
        let mut config: DataConfig = toml::from_str(data).unwrap();
        config.rebase(folder.path());
        open_source(&config)
    }

    /// The captions of every sample of a split.
    pub(crate) fn captions(source: &dyn Source, split: Split) -> Vec<Vec<String>> {
        (0..source.len(split))
            .map(|index| source.captions(split, index).unwrap())
            .collect()
    }

    /// Asserts that exactly these items were unusable: file without folders, line, part of the reason.
    #[track_caller]
    pub(crate) fn assert_rejected(source: &dyn Source, expected: &[(&str, u64, &str)]) {
        let found: Vec<_> = source
            .rejected()
            .iter()
            .map(|error| {
                let file = error.place.file.rsplit(['/', '\\']).next().unwrap();
                (file, error.place.line, error.reason.as_str())
            })
            .collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((file, line, reason), expected) in found.iter().zip(expected) {
            assert_eq!((*file, *line), (expected.0, expected.1), "{reason}");
            assert!(reason.contains(expected.2), "{reason}");
        }
        // Every item has its own place: the list of skipped items identifies items by place.
        let places: std::collections::HashSet<_> =
            source.rejected().iter().map(|error| &error.place).collect();
        assert_eq!(places.len(), found.len(), "{found:#?}");
    }

    /// The message of an error.
    #[track_caller]
    pub(crate) fn message(opened: Result<Arc<dyn Source>, DataError>) -> String {
        match opened {
            Ok(source) => panic!("accepted: {}", source.describe()),
            Err(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::fixtures::{NLVR, folder, open};
    use crate::config::DataConfig;
    use crate::images;
    use crate::sources::pack::{PackSpec, pack};
    use crate::sources::splits::Split;

    /// A source of `i/1.jpg` or copies of it, a JPEG of 80 x 48 pixels.
    struct OfAJpeg {
        data: &'static str,
        /// Sizes of its image: in full, and if 20 pixels are enough.
        full: (u32, u32),
        scaled: (u32, u32),
        boxes: &'static [[f32; 4]],
    }

    impl OfAJpeg {
        /// 48 / 2 is at least 20, 48 / 4 is not.
        const fn plain(data: &'static str) -> Self {
            Self {
                data,
                full: (80, 48),
                scaled: (40, 24),
                boxes: &[],
            }
        }
    }

    const BOX: [[f32; 4]; 1] = [[0.25, 0.25, 0.75, 0.75]];

    const OF_A_JPEG: [OfAJpeg; 9] = [
        OfAJpeg::plain("source = \"pairs\"\n[pairs]\npath = \"p.jsonl\"\nval_fraction = 0.0"),
        OfAJpeg::plain("source = \"images\"\n[images]\ntrain = [\"i\"]\nval_fraction = 0.0"),
        OfAJpeg::plain(
            "source = \"conceptual\"\n[conceptual]\nval_fraction = 0.0\n[conceptual.train]\npath = \"c.tsv\"\n\
             images = \"i\"\ncolumns = [\"caption\", \"image\"]",
        ),
        OfAJpeg::plain(
            "source = \"coco\"\n[coco]\nval_fraction = 0.0\n[coco.train]\ncaptions = \"coco.json\"\nimages = \"i\"",
        ),
        OfAJpeg::plain(NLVR),
        OfAJpeg::plain("source = \"webdataset\"\n[webdataset]\ntrain = [\"packed\"]"),
        // Boxes in pixels, in an image whose size is not listed.
        OfAJpeg {
            scaled: (80, 48),
            boxes: &BOX,
            ..OfAJpeg::plain(
                "source = \"coco\"\n[coco]\nval_fraction = 0.0\n[coco.train]\ncaptions = \"coco.json\"\n\
                 instances = \"boxes.json\"\nimages = \"i\"",
            )
        },
        // The same in an image whose size is listed.
        OfAJpeg {
            boxes: &BOX,
            ..OfAJpeg::plain(
                "source = \"coco\"\n[coco]\nval_fraction = 0.0\n[coco.train]\ncaptions = \"sized.json\"\n\
                 instances = \"boxes.json\"\nimages = \"i\"",
            )
        },
        // A crop.
        OfAJpeg {
            full: (40, 24),
            ..OfAJpeg::plain(
                "source = \"visual_genome\"\n[visual_genome]\nval_fraction = 0.0\n[visual_genome.train]\n\
                 use_as = \"crops\"\nregions = \"vg.json\"\nimages = [\"i\"]",
            )
        },
    ];

    #[test]
    fn a_share_beside_held_out_files_changes_nothing_and_that_is_said() {
        let coco = |id: u32| {
            format!(
                "{{\"annotations\": [{{\"id\": {id}, \"image_id\": 1, \"caption\": \"a\"}}], \"images\": [{{\"id\": 1, \
                 \"file_name\": \"1.jpg\"}}]}}"
            )
        };
        let folder = folder(&[
            ("i/1.jpg", "1x1"),
            ("v/2.jpg", "1x1"),
            ("a.txt", "a\n"),
            ("b.txt", "b\n"),
            ("p.tsv", "a\tb\n"),
            ("c.tsv", "a\t1.jpg\n"),
            ("coco.json", &coco(1)),
            ("held.json", &coco(2)),
        ]);
        let list = "path = \"c.tsv\"\nimages = \"i\"\ncolumns = [\"caption\", \"image\"]\n";
        let part = |file: &str| format!("captions = \"{file}\"\nimages = \"i\"\n");
        for (kind, train, val) in [
            (
                "images",
                "train = [\"i\"]\n".to_owned(),
                "val = [\"v\"]\n".to_owned(),
            ),
            (
                "texts",
                "train = [\"a.txt\"]\n".to_owned(),
                "val = [\"b.txt\"]\n".to_owned(),
            ),
            (
                "parallel",
                "languages = [\"en\", \"de\"]\ntrain = [\"p.tsv\"]\n".to_owned(),
                "val = [\"p.tsv\"]\n".to_owned(),
            ),
            (
                "conceptual",
                format!("[conceptual.train]\n{list}"),
                format!("[conceptual.val]\n{list}"),
            ),
            (
                "coco",
                format!("[coco.train]\n{}", part("coco.json")),
                format!("[coco.val]\n{}", part("held.json")),
            ),
        ] {
            let notes = |fraction: f64, val: &str| {
                let data = format!(
                    "source = \"{kind}\"\n[{kind}]\nval_fraction = {fraction:?}\n{train}{val}"
                );
                open(&folder, &data).unwrap().notes().concat()
            };
            let told = notes(0.3, &val);
            assert!(
                told.contains("val_fraction = 0.3 changes nothing"),
                "{kind}: {told}"
            );
            for (fraction, val) in [(0.0, &*val), (0.05, &*val), (0.3, "")] {
                let told = notes(fraction, val);
                assert!(
                    !told.contains("changes nothing"),
                    "{kind} {fraction}: {told}"
                );
            }
        }
    }

    #[test]
    fn sources_of_files_decode_no_more_than_is_enough() {
        let folder = folder(&[
            ("p.jsonl", r#"{"image": "i/1.jpg", "caption": "a"}"#),
            ("c.tsv", "a\t1.jpg\n"),
            (
                "coco.json",
                r#"{"annotations": [{"id": 1, "image_id": 1, "caption": "a"}], "images": [{"id": 1, "file_name": "1.jpg"}]}"#,
            ),
            (
                "sized.json",
                r#"{"annotations": [{"id": 1, "image_id": 1, "caption": "a"}],
                    "images": [{"id": 1, "file_name": "1.jpg", "width": 80, "height": 48}]}"#,
            ),
            (
                "boxes.json",
                r#"{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 12, 40, 24]}],
                    "categories": [{"id": 1, "name": "box"}]}"#,
            ),
            (
                "n.json",
                r#"{"sentence": "a", "label": "true", "identifier": "dev-1-1-0"}"#,
            ),
            (
                "vg.json",
                r#"[{"id": 1, "regions": [{"region_id": 1, "image_id": 1, "phrase": "a", "x": 20, "y": 12, "width": 40, "height": 24}]}]"#,
            ),
            ("i/1.jpg", "1x1"),
        ]);
        let picture = RgbImage::from_fn(80, 48, |x, y| image::Rgb([3 * x as u8, 5 * y as u8, 7]));
        let file = images::jpeg(&picture).unwrap();
        for name in ["i/1.jpg", "i/dev-1-1-img0.png", "i/dev-1-1-img1.png"] {
            std::fs::write(folder.path().join(name), &file).unwrap();
        }
        let opened = |data: &str, decode: &str| {
            let text = format!("image_size = 20\ndecode = \"{decode}\"\n{data}");
            open(&folder, &text).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let packed = folder.path().join("packed");
        let nlvr = opened(NLVR, "full");
        pack(
            &*nlvr,
            Split::Train,
            &packed,
            &PackSpec::default(),
            &mut |_, _| (),
        )
        .unwrap();
        let mut seconds = 0;
        for expected in OF_A_JPEG {
            let full = opened(expected.data, "full");
            let scaled = opened(expected.data, "scaled");
            let mut size = |source: &dyn crate::sources::source::Source| {
                let sample = source.sample(Split::Train, 0).unwrap();
                let picture = source.image(Split::Train, 0).unwrap().unwrap();
                assert_eq!(sample.image.as_ref(), Some(&picture));
                if let Some(second) = sample.second_image {
                    seconds += 1;
                    assert_eq!(second, picture);
                }
                (picture.dimensions(), sample.boxes)
            };
            let OfAJpeg { data, boxes, .. } = expected;
            assert_eq!(size(&*full), (expected.full, boxes.to_vec()), "{data}");
            assert_eq!(size(&*scaled), (expected.scaled, boxes.to_vec()), "{data}");
            // The stored file is unchanged.
            assert_eq!(
                full.image_bytes(Split::Train, 0).unwrap(),
                scaled.image_bytes(Split::Train, 0).unwrap(),
            );
        }
        // NLVR and the shards, in full and scaled.
        assert_eq!(seconds, 4);
    }

    /// The TOML examples in the documentation of a file.
    fn examples(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut open: Option<String> = None;
        for line in text.lines().map_while(|line| line.strip_prefix("//!")) {
            match (&mut open, line.trim()) {
                (None, "```toml") => open = Some(String::new()),
                (Some(_), "```") => found.extend(open.take()),
                (Some(example), line) => *example += &format!("{line}\n"),
                (None, _) => {}
            }
        }
        found
    }

    #[test]
    fn every_documented_example_is_valid() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Recipe {
            data: DataConfig,
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sources");
        let mut with_examples = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            // The parts of a source lie in a folder beside it.
            if path.is_dir() {
                continue;
            }
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            for example in examples(&std::fs::read_to_string(&path).unwrap()) {
                let recipe: Recipe =
                    toml::from_str(&example).unwrap_or_else(|error| panic!("{name}: {error}"));
                recipe
                    .data
                    .validate()
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                // `regions` goes with any source.
                if name != "regions" {
                    assert_eq!(recipe.data.source.name(), name);
                }
                let again = toml::to_string(&recipe.data).unwrap();
                assert_eq!(toml::from_str::<DataConfig>(&again).unwrap(), recipe.data);
                with_examples += 1;
            }
        }
        assert!(with_examples >= 12, "{with_examples}");
    }
}
