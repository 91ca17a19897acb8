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
//!
//! `classes = "folders"` labels every image with its class, as torchvision's `ImageFolder` does: the name, as it is, of the first folder
//! inside the given one (or inside the folder of a split) that holds the image at any depth. An image beside the folders of the classes
//! is left out and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::images::{self, Limits};
use crate::sources::folders::files_in;
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::label::Label;
use crate::sources::left_out::LeftOut;
use crate::sources::source::{Annotations, Offers, Source, SourceConfig};
use crate::sources::splits::{BySplit, Split, drawn, not_drawn};
use crate::store::paths::{self, is_hidden, is_picture};

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
    /// What the class of an image is; absent: images have no classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// Whether an image need not have a class: what is predicted may have none. No key of a recipe.
    #[serde(skip)]
    pub unlabelled: bool,
}

/// What the class of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classes {
    /// The name of its folder, as `ImageFolder` takes it.
    Folders,
}

impl ImagesConfig {
    /// All images of a folder; the default share is held out.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            train: vec![folder.into()],
            val: Vec::new(),
            test: Vec::new(),
            val_fraction: val_fraction(),
            classes: None,
            unlabelled: false,
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
            classes: self.classes,
            unlabelled: self.unlabelled.then_some(0),
            folders: Vec::new(),
            files: BySplit::default(),
            left_out: LeftOut::new("images"),
            unread: Vec::new(),
            empty: Vec::new(),
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
            let needed = match self.classes {
                Some(Classes::Folders) => {
                    " inside a folder of a class, which data.images.classes = \"folders\" needs, such as cat/1.jpg"
                }
                None => " in it",
            };
            let beside = match pictures.left_out.total() {
                0 => String::new(),
                _ => format!(", {}", pictures.left_out),
            };
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: format!(
                    "no .jpg, .jpeg, .png or .webp file{needed}{beside}{}",
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
    classes: Option<Classes>,
    /// Number of images without a class, where they are allowed.
    unlabelled: Option<usize>,
    /// The given folders, and whether the folders inside are splits.
    folders: Vec<(PathBuf, bool)>,
    /// Index of the folder, and path inside it.
    files: BySplit<Vec<(u32, Box<Path>)>>,
    left_out: LeftOut,
    /// For each folder, what is left out because it is not a readable image; for the description.
    unread: Vec<String>,
    /// Folders of classes that hold no image.
    empty: Vec<String>,
    /// Number of files whose split is drawn, and how many of them are held out.
    drawn: (usize, usize),
    fraction: f64,
}

/// The class of an image by its path inside the given folder, whose folders may be splits; `None` if it lies in no folder of a class.
fn class_of(path: &Path, divided: bool) -> Option<String> {
    let mut folders = path.parent()?.components().skip(usize::from(divided));
    let class = folders.next()?;
    Some(class.as_os_str().to_string_lossy().into_owned())
}

/// The folders inside `folder` that are none of `classes`: they hold no image.
fn without(folder: &Path, classes: &BTreeSet<String>) -> Result<Vec<String>, DataError> {
    let io = |error| DataError::file("read", folder, error);
    let mut empty = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !is_hidden(&name) && !classes.contains(&name) {
            empty.push(name);
        }
    }
    empty.sort_unstable();
    Ok(empty)
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
        self.folders.push((folder.to_owned(), divided));
        let mut classes = BTreeSet::new();
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
            if self.classes.is_some() {
                match class_of(&path, divided) {
                    Some(class) => {
                        classes.insert(class);
                    }
                    None => match &mut self.unlabelled {
                        Some(count) => *count += 1,
                        None => {
                            self.left_out.add("beside the folders of the classes");
                            continue;
                        }
                    },
                }
            }
            self.files[split].push((number, path.into_boxed_path()));
        }
        if self.classes.is_some() && !divided {
            self.empty.extend(without(folder, &classes)?);
        }
        Ok(())
    }

    /// The class of an image; `None` if images have no classes.
    fn class(&self, split: Split, index: usize) -> Option<String> {
        let (folder, path) = &self.files[split][index];
        let (_, divided) = self.folders[*folder as usize];
        self.classes.and_then(|_| class_of(path, divided))
    }

    /// The classes that a split has and training lacks, with their numbers of images.
    fn unknown(&self, split: Split) -> BTreeMap<String, usize> {
        let of =
            |split| (0..self.files[split].len()).filter_map(move |index| self.class(split, index));
        let known: BTreeSet<String> = of(Split::Train).collect();
        let mut unknown = BTreeMap::new();
        for class in of(split).filter(|class| !known.contains(class)) {
            *unknown.entry(class).or_default() += 1;
        }
        unknown
    }

    fn name(&self) -> String {
        let folders = self
            .folders
            .iter()
            .map(|(path, _)| path.display().to_string());
        folders.collect::<Vec<_>>().join(", ")
    }

    fn path(&self, split: Split, index: usize) -> PathBuf {
        let (folder, path) = &self.files[split][index];
        self.folders[*folder as usize].0.join(path)
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
            "{}: {} training images without texts, {} held out{test}{left_out}{}",
            self.name(),
            self.len(Split::Train),
            self.len(Split::Val),
            self.unread.concat()
        )
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.left_out.counts()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        if of > 0 && self.fraction > 0.0 {
            notes.push(drawn(&self.name(), held, of, "images", self.fraction));
        }
        if of == 0 {
            let why = "the folders say which split an image is of";
            notes.extend(not_drawn(&self.name(), self.fraction, why));
        }
        if let Some(count) = self.unlabelled.filter(|count| *count > 0) {
            notes.push(format!(
                "{}: {count} images lie in no folder of a class, so that their class is not known",
                self.name()
            ));
        }
        if !self.empty.is_empty() {
            notes.push(format!(
                "{}: folders without images are no classes: {}",
                self.name(),
                self.empty.join(", ")
            ));
        }
        for split in [Split::Val, Split::Test] {
            let unknown = self.unknown(split);
            if !unknown.is_empty() {
                let classes: Vec<String> = unknown
                    .iter()
                    .map(|(class, count)| format!("{class:?} ({count} images)"))
                    .collect();
                notes.push(format!(
                    "{}: classes of the split {} that training lacks: {}",
                    self.name(),
                    split.name(),
                    classes.join(", ")
                ));
            }
        }
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: self.path(split, index).display().to_string(),
            line: 1,
        }
    }

    fn captions(&self, _: Split, _: usize) -> Result<Vec<String>, SampleError> {
        Ok(Vec::new())
    }

    fn offers(&self) -> Offers {
        Offers {
            captions: false,
            ..Offers::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let label = |class| Label {
            answer: Some(class),
            ..Label::default()
        };
        Ok(Annotations {
            labels: self.class(split, index).map(label).into_iter().collect(),
            ..Annotations::default()
        })
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        images::read(&self.path(split, index), self.limits)
            .map(Some)
            .map_err(|reason| self.bad(split, index, reason))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let folders = self.folders.iter().map(|(folder, _)| folder.as_path());
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
            ("a/notes.txt", "no image"),
            ("a/broken.png", "no image either"),
            ("a/._2.png", "of macOS"),
            ("a/moving.gif", "x"),
            ("b/3.webp", "3x3"),
        ]);
        let data = "source = \"images\"\n[images]\ntrain = [\"a\"]\nval = [\"b\"]\n";
        let source = open(&folder, data).unwrap();
        assert!(source.has_images() && !source.has_captions());
        let left = "3 files left out (1 .gif, a format that is not read, 1 hidden or of the system, 1 texts, which a list of pairs \
                    has to name beside their images)";
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
            "2 images left out (1 beside the folders of the splits, 1 in the folder \"extra\")";
        assert!(source.describe().ends_with(left), "{}", source.describe());
        assert!(source.notes().is_empty());
        // A class may be called `test`.
        let classes = open(&folder, &data.replace("\"a\"", "\"b\"")).unwrap();
        assert!(classes.is_empty(Split::Test));
        assert!(classes.notes()[0].contains("of 2 images"));
        let given = format!("{data}val = [\"b/dog\"]\ntest = [\"b/test\"]\n");
        let given = open(&folder, &given).unwrap();
        assert_eq!(Split::ALL.map(|split| given.len(split)), [6, 1, 1]);
        assert!(given.notes().is_empty());
    }

    const CLASSES: &str =
        "source = \"images\"\n[images]\ntrain = [\"a\"]\nval = [\"b\"]\nclasses = \"folders\"\n";

    /// The class of every image of a split.
    fn classes(source: &dyn Source, split: Split) -> Vec<String> {
        (0..source.len(split))
            .map(|index| {
                source
                    .labels(split, index)
                    .unwrap()
                    .remove(0)
                    .answer
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn folders_are_classes_as_in_image_folder() {
        let folder = folder(&[
            ("a/red_fox/1.png", "1x1"),
            ("a/cat/images/2.png", "1x1"),
            ("a/cat/3.png", "1x1"),
            ("a/4.png", "1x1"),
            ("a/owl/notes.md", "no image"),
            ("b/cat/5.png", "1x1"),
            ("b/cow/6.png", "1x1"),
            ("b/cow/7.png", "1x1"),
        ]);
        let source = open(&folder, CLASSES).unwrap();
        assert_eq!(classes(&*source, Split::Train), ["cat", "cat", "red_fox"]);
        assert_eq!(classes(&*source, Split::Val), ["cat", "cow", "cow"]);
        let sample = source.sample(Split::Train, 2).unwrap();
        assert_eq!(sample.labels[0].answer.as_deref(), Some("red_fox"));
        let left = "1 images left out (1 beside the folders of the classes)";
        assert!(source.describe().contains(left), "{}", source.describe());
        let notes = source.notes();
        assert!(notes[0].ends_with("are no classes: owl"), "{notes:?}");
        let lacks = "classes of the split val that training lacks: \"cow\" (2 images)";
        assert!(notes[1].ends_with(lacks), "{notes:?}");
        // Without the setting, nothing is known of an image.
        let plain = open(&folder, &CLASSES.replace("classes = \"folders\"\n", "")).unwrap();
        assert_eq!(plain.len(Split::Train), 4);
        assert!(plain.labels(Split::Train, 0).unwrap().is_empty());
    }

    #[test]
    fn classes_lie_inside_folders_of_splits() {
        let folder = folder(&[
            ("a/train/cat/1.png", "1x1"),
            ("a/train/2.png", "1x1"),
            ("a/val/cat/3.png", "1x1"),
        ]);
        let source = open(&folder, &CLASSES.replace("val = [\"b\"]\n", "")).unwrap();
        assert_eq!(classes(&*source, Split::Train), ["cat"]);
        assert_eq!(classes(&*source, Split::Val), ["cat"]);
        assert!(
            source
                .describe()
                .contains("1 beside the folders of the classes")
        );
    }

    #[test]
    fn pictures_without_class_folders_are_an_error() {
        let folder = folder(&[("a/1.png", "1x1"), ("b/2.png", "1x1")]);
        let message = message(open(&folder, CLASSES));
        assert!(
            message.contains("such as cat/1.jpg, 2 images left out"),
            "{message}"
        );
    }

    #[test]
    fn folders_without_pictures_are_errors() {
        let folder = folder(&[("a/notes.txt", "no image")]);
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
