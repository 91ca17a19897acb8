//! Images without texts: every image file in folders.
//!
//! ```toml
//! [data]
//! source = "images"
//!
//! [data.images]
//! train = ["photos", "paintings"]
//! val = ["held_out"]
//! ```
//!
//! Folders are searched at any depth for files that end in .jpg, .jpeg, .jpe, .jfif, .png or .webp, in the order of their names.
//! Links to folders are followed, each folder once. Hidden files, system files of macOS and Windows, and images in unsupported
//! formats are left out and counted. Without `val`, the folders inside those of `train` may be named like splits (`train`, `valid`,
//! `test2015`) and then say what is held out, if one is a training split. Otherwise `val_fraction` of the files is held out. In
//! errors the file is the image.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::images::{self, Limits};
use crate::sources::folders::files_in;
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::left_out::LeftOut;
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::{BySplit, Split, drawn};
use crate::store::paths::{self, is_picture};

/// `[data.images]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// Folders to train on.
    pub train: Vec<PathBuf>,
    /// Held-out folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// Folders of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// Share of the files that is held out if `val` is absent, by a hash of the path inside its folder.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

impl ImagesConfig {
    /// All images of a folder; the default share is held out.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            train: vec![folder.into()],
            val: Vec::new(),
            test: Vec::new(),
            val_fraction: val_fraction(),
        }
    }
}

impl SourceConfig for ImagesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let held_out = [("val", &*self.val), ("test", &*self.test)];
        train_and_held(table, &self.train, held_out, self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let train = self.train.iter_mut();
        train.chain(&mut self.val).chain(&mut self.test).collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut pictures = Pictures {
            limits: *limits,
            folders: Vec::new(),
            files: BySplit::default(),
            left_out: LeftOut::new("pictures"),
            unread: Vec::new(),
            drawn: (0, 0),
            fraction: self.val_fraction,
        };
        let held = Held::beside(&self.val, self.val_fraction);
        for folder in &self.train {
            pictures.read(folder, held)?;
        }
        for (folders, split) in [(&self.val, Split::Val), (&self.test, Split::Test)] {
            for folder in folders {
                pictures.read(folder, Held::All(split))?;
            }
        }
        if pictures.files.iter().all(|(_, files)| files.is_empty()) {
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: format!(
                    "no .jpg, .jpeg, .png or .webp file in it{}",
                    pictures.unread.concat()
                ),
            });
        }
        Ok(Arc::new(pictures))
    }
}

/// The image files of a folder at any depth, as paths inside it, in the order of their names. The second value says which files
/// that look like images are left out, if any.
///
/// # Errors
///
/// A folder cannot be read.
pub fn pictures_in(folder: &Path) -> Result<(Vec<PathBuf>, Option<String>), DataError> {
    let found = files_in(folder, &is_picture)?;
    let left_out = (found.left_out.total() > 0).then(|| found.left_out.to_string());
    Ok((found.files, left_out))
}

/// Images in folders. See the [module](self).
#[derive(Debug)]
struct Pictures {
    limits: Limits,
    folders: Vec<PathBuf>,
    /// Index of the folder, and path inside it.
    files: BySplit<Vec<(u32, Box<Path>)>>,
    left_out: LeftOut,
    /// For each folder, what is left out because it is not a readable image; for the description.
    unread: Vec<String>,
    /// Number of files whose split is drawn, and how many of them are held out.
    drawn: (usize, usize),
    fraction: f64,
}

/// The first folder of a path.
fn first_folder(path: &Path) -> Option<String> {
    let mut parts = path.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

impl Pictures {
    fn read(&mut self, folder: &Path, held: Held) -> Result<(), DataError> {
        let number = self.folders.len() as u32;
        self.folders.push(folder.to_owned());
        let found = files_in(folder, &is_picture)?;
        if found.left_out.total() > 0 {
            self.unread.push(format!(", {}", found.left_out));
        }
        let files = found.files;
        // Folders `train` and `val` name splits; a folder `test` among folders of classes does not.
        let told = |path: &Path| first_folder(path).and_then(|name| Split::of_name(&name));
        let divided = matches!(held, Held::Share(_))
            && files.iter().any(|path| told(path) == Some(Split::Train))
            && files
                .iter()
                .any(|path| told(path).is_some_and(|split| split != Split::Train));
        for path in files {
            let split = if divided {
                match told(&path) {
                    Some(split) => split,
                    None => {
                        let name = first_folder(&path);
                        let reason = match name {
                            Some(name) => format!("in the folder {name:?}"),
                            None => "beside the folders of the splits".to_owned(),
                        };
                        self.left_out.add(reason);
                        continue;
                    }
                }
            } else {
                let split = held.of(&path.to_string_lossy());
                if matches!(held, Held::Share(_)) {
                    self.drawn.0 += 1;
                    self.drawn.1 += usize::from(split == Split::Val);
                }
                split
            };
            self.files[split].push((number, path.into_boxed_path()));
        }
        Ok(())
    }

    fn name(&self) -> String {
        let folders = self.folders.iter().map(|path| path.display().to_string());
        folders.collect::<Vec<_>>().join(", ")
    }

    fn path(&self, split: Split, index: usize) -> PathBuf {
        let (folder, path) = &self.files[split][index];
        self.folders[*folder as usize].join(path)
    }

    fn bad(&self, split: Split, index: usize, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.place(split, index), reason)
    }
}

impl Source for Pictures {
    fn len(&self, split: Split) -> usize {
        self.files[split].len()
    }

    fn describe(&self) -> String {
        let test = match self.len(Split::Test) {
            0 => String::new(),
            files => format!(", {files} to test on"),
        };
        let left_out = match self.left_out.total() {
            0 => String::new(),
            _ => format!(", {}", self.left_out),
        };
        format!(
            "{}: {} training pictures without texts, {} held out{test}{left_out}{}",
            self.name(),
            self.len(Split::Train),
            self.len(Split::Val),
            self.unread.concat()
        )
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        if of > 0 && self.fraction > 0.0 {
            notes.push(drawn(&self.name(), held, of, "pictures", self.fraction));
        }
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: self.path(split, index).display().to_string(),
            line: 1,
        }
    }

    fn has_captions(&self) -> bool {
        false
    }

    fn captions(&self, _: Split, _: usize) -> Result<Vec<String>, SampleError> {
        Ok(Vec::new())
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        images::read(&self.path(split, index), self.limits)
            .map(Some)
            .map_err(|reason| self.bad(split, index, reason))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let folders = self.folders.iter().map(PathBuf::as_path);
        Ok(paths::name_within(&self.path(split, index), folders))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        Ok(Some(self.path(split, index)))
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        images::read_file(&self.path(split, index), self.limits.max_pixels)
            .map(Some)
            .map_err(|reason| self.bad(split, index, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::{folder, message, open};

    #[test]
    fn pictures_are_found_at_any_depth() {
        let folder = folder(&[
            ("a/2.png", "2x2"),
            ("a/deep/er/1.JPG", "1x1"),
            ("a/notes.txt", "no picture"),
            ("a/broken.png", "no picture either"),
            ("a/._2.png", "of macOS"),
            ("a/moving.gif", "x"),
            ("b/3.webp", "3x3"),
        ]);
        let data = "source = \"images\"\n[images]\ntrain = [\"a\"]\nval = [\"b\"]\n";
        let source = open(&folder, data).unwrap();
        assert!(source.has_images() && !source.has_captions());
        let left = "3 files left out (1 .gif, a format that is not read, 1 hidden or of the system, 1 texts, which a list of pairs \
                    has to name beside their pictures)";
        assert!(source.describe().contains(left), "{}", source.describe());
        assert_eq!((source.len(Split::Train), source.len(Split::Val)), (3, 1));
        let side = |split, index| {
            source
                .image(split, index)
                .map(|image| image.unwrap().width())
        };
        assert_eq!(side(Split::Train, 0).unwrap(), 2);
        let broken = side(Split::Train, 1).unwrap_err();
        assert!(broken.place.file.ends_with("broken.png"), "{broken}");
        assert_eq!(side(Split::Train, 2).unwrap(), 1);
        assert_eq!(side(Split::Val, 0).unwrap(), 3);
        let sample = source.sample(Split::Val, 0).unwrap();
        assert!(sample.captions.is_empty() && sample.image.is_some());
        assert_eq!(source.image_bytes(Split::Val, 0).unwrap().unwrap().1, "png");
    }

    #[test]
    fn folders_that_are_called_as_splits_are_splits() {
        let folder = folder(&[
            ("a/Train/1.png", "1x1"),
            ("a/Train/cats/2.png", "2x1"),
            ("a/valid/3.png", "3x1"),
            ("a/test2015/4.png", "4x1"),
            ("a/extra/5.png", "5x1"),
            ("a/6.png", "6x1"),
            ("b/test/1.png", "1x1"),
            ("b/dog/2.png", "1x1"),
        ]);
        let data = "source = \"images\"\n[images]\ntrain = [\"a\"]\n";
        let source = open(&folder, data).unwrap();
        let sizes = Split::ALL.map(|split| source.len(split));
        assert_eq!(sizes, [2, 1, 1]);
        let widths = |split| source.image(split, 0).unwrap().unwrap().width();
        assert_eq!(Split::ALL.map(widths), [1, 3, 4]);
        let left =
            "2 pictures left out (1 beside the folders of the splits, 1 in the folder \"extra\")";
        assert!(source.describe().ends_with(left), "{}", source.describe());
        assert!(source.notes().is_empty());
        // A class may be called `test`.
        let classes = open(&folder, &data.replace("\"a\"", "\"b\"")).unwrap();
        assert!(classes.is_empty(Split::Test));
        assert!(classes.notes()[0].contains("of 2 pictures"));
        let given = format!("{data}val = [\"b/dog\"]\ntest = [\"b/test\"]\n");
        let given = open(&folder, &given).unwrap();
        assert_eq!(Split::ALL.map(|split| given.len(split)), [6, 1, 1]);
        assert!(given.notes().is_empty());
    }

    #[test]
    fn folders_without_pictures_are_errors() {
        let folder = folder(&[("a/notes.txt", "no picture")]);
        for (list, part) in [
            ("[\"a\"]", "no .jpg"),
            ("[\"absent\"]", "cannot read"),
            ("[]", "`data.images.train`"),
        ] {
            let data = format!("source = \"images\"\n[images]\ntrain = {list}\n");
            let message = message(open(&folder, &data));
            assert!(message.contains(part), "{message}");
        }
    }
}
