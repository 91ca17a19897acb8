//! The sources that this crate knows, one per file.
//!
//! What several share: `rows` finds rows of text files and reads them again, `json` cuts large JSON files into elements,
//! [`listed`] is a table of samples that most formats fill, `template` makes file names.

pub mod coco;
pub mod conceptual;
pub mod images;
pub(crate) mod json;
pub mod karpathy;
pub mod listed;
pub mod mixture;
pub mod nlvr;
pub mod pairs;
pub mod parallel;
pub mod parquet;
pub mod refcoco;
pub(crate) mod rows;
pub mod scenes;
pub mod snli_ve;
pub(crate) mod template;
pub mod texts;
pub mod visual_genome;
pub mod vqa;
pub mod webdataset;

/// Small data sets for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::path::Path;
    use std::sync::Arc;

    use image::{Rgb, RgbImage};
    use tempfile::TempDir;

    use crate::config::DataConfig;
    use crate::error::DataError;
    use crate::source::{Source, Split, open as open_source};

    /// Statements in `n.json` about pictures in `i`, all to train on.
    pub(crate) const NLVR: &str = r#"
        source = "nlvr"
        [nlvr]
        val_fraction = 0.0
        [nlvr.train]
        path = "n.json"
        images = "i"
        "#;

    /// A folder with these files. The text of a picture is its size, `4x3`; its pixels' red is x, green y.
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
        // Formats are told by content, so a PNG may have any name.
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        std::fs::write(path, bytes.into_inner()).unwrap();
    }

    /// Opens what a `[data]` table describes, with paths in the folder.
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

    /// Asserts that exactly these items were found unusable: file without folders, line, part of the reason.
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
        // One place, one item: the list of skipped items tells them apart by it.
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
    use crate::config::DataConfig;

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
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            for example in examples(&std::fs::read_to_string(&path).unwrap()) {
                let recipe: Recipe =
                    toml::from_str(&example).unwrap_or_else(|error| panic!("{name}: {error}"));
                recipe
                    .data
                    .validate()
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(recipe.data.source.name(), name);
                let again = toml::to_string(&recipe.data).unwrap();
                assert_eq!(toml::from_str::<DataConfig>(&again).unwrap(), recipe.data);
                with_examples += 1;
            }
        }
        assert!(with_examples >= 12, "{with_examples}");
    }
}
