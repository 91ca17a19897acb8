//! COCO captions, and everything in that format: `captions_*.json`, with boxes and names from `instances_*.json`.
//!
//! ```toml
//! [data]
//! source = "coco"
//!
//! [data.coco.train]
//! captions = "annotations/captions_train2017.json"
//! instances = "annotations/instances_train2017.json"
//! images = "train2017"
//!
//! [data.coco.val]
//! captions = "annotations/captions_val2017.json"
//! images = "val2017"
//! ```
//!
//! Without `val`, `val_fraction` of the images is held out. A sample is an image with all its captions. With `instances`, the names
//! of its objects are tags, and their boxes come with them. Images without captions and objects without boxes are counted and left
//! out. Identifiers of annotations are ignored, since nothing refers to them. In errors, `FILE#images:3` is the third entry of the
//! file's `images`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json::{each_of_file, id, or_default, parse, side};
use crate::formats::values::Number;
use crate::sources::given::{Held, given};
use crate::sources::listed::{Listed, New};
use crate::sources::parts::{Part, Parts};

/// `[data.coco]`.
pub type CocoConfig = Parts<CocoPart>;

/// `[data.coco.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CocoPart {
    /// `captions_*.json`.
    pub captions: PathBuf,
    /// `instances_*.json`, for names and boxes of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<PathBuf>,
    /// Folder of the images.
    pub images: PathBuf,
}

/// An image in `images`.
#[derive(Deserialize)]
pub(crate) struct Picture {
    #[serde(deserialize_with = "id")]
    pub id: String,
    pub file_name: String,
    #[serde(default, deserialize_with = "side")]
    pub width: u32,
    #[serde(default, deserialize_with = "side")]
    pub height: u32,
}

/// An object in `annotations` of instances.
#[derive(Deserialize)]
pub(crate) struct Instance {
    #[serde(deserialize_with = "id")]
    pub image_id: String,
    #[serde(deserialize_with = "id")]
    pub category_id: String,
    #[serde(default, deserialize_with = "or_default")]
    bbox: Vec<Number>,
}

impl Instance {
    /// x, y, width, height in pixels; `None` if the object has no box.
    ///
    /// # Errors
    ///
    /// There are not exactly four numbers.
    pub fn bounds(&self) -> Result<Option<[f64; 4]>, String> {
        match self.bbox[..] {
            [] => Ok(None),
            [x, y, width, height] => Ok(Some([x.0, y.0, width.0, height.0])),
            _ => Err(format!("{} numbers in `bbox`, not 4", self.bbox.len())),
        }
    }
}

/// An entry of `categories`.
#[derive(Deserialize)]
struct Category {
    #[serde(deserialize_with = "id")]
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Caption {
    #[serde(deserialize_with = "id")]
    image_id: String,
    caption: Option<String>,
}

impl Part for CocoPart {
    const NAME: &'static str = "COCO captions";

    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "captions", &self.captions, "a captions_*.json file")?;
        if let Some(instances) = &self.instances {
            given(table, "instances", instances, "an instances_*.json file")?;
        }
        given(table, "images", &self.images, "a folder of images")
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.captions, &mut self.images];
        paths.extend(self.instances.as_mut());
        paths
    }

    fn read(&self, table: &mut Listed, held: Held) -> Result<(), DataError> {
        let rows = read_captions(&self.captions, &self.images, table, held)?;
        match &self.instances {
            Some(instances) => read_objects(instances, &rows, table),
            None => Ok(()),
        }
    }
}

/// Rows by the identifier of their image.
type Rows = HashMap<String, u32>;

fn read_captions(
    path: &Path,
    images: &Path,
    table: &mut Listed,
    held: Held,
) -> Result<Rows, DataError> {
    let file = table.array(path, "images");
    let folders = table.folders(vec![images.to_owned()]);
    let mut rows = Rows::new();
    // Annotations may stand before the images, so the file is read twice.
    each_of_file(path, &["images"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
            if let Some(row) = rows.get(&picture.id) {
                if table.image_of(*row) == picture.file_name {
                    table.leave_out("listed twice");
                    return Ok(());
                }
                return Err(format!("a second image with the id {}", picture.id));
            }
            if picture.file_name.trim().is_empty() {
                return Err("`file_name` is empty".to_owned());
            }
            let row = table.row(New {
                file,
                line: number,
                folders,
                image: &picture.file_name,
                second: None,
                size: Some([picture.width, picture.height]),
                split: held.of(&picture.file_name),
            });
            rows.insert(picture.id, row);
            Ok(())
        });
        if let Err(reason) = used {
            table.reject(file, number, reason);
        }
    })?;
    let annotations = table.array(path, "annotations");
    each_of_file(path, &["annotations"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Caption>).and_then(|caption| {
            let row = rows
                .get(&caption.image_id)
                .ok_or_else(|| format!("no image has the id {}", caption.image_id))?;
            let caption = caption.caption.ok_or("`caption` is null")?;
            table.caption(*row, &caption)
        });
        if let Err(reason) = used {
            table.reject(annotations, number, reason);
        }
    })?;
    Ok(rows)
}

/// Reads names and boxes for the known images; other images belong to no split.
fn read_objects(path: &Path, rows: &Rows, table: &mut Listed) -> Result<(), DataError> {
    let names = read_categories(path, table)?;
    let file = table.array(path, "annotations");
    each_of_file(path, &["annotations"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Instance>).and_then(|object| {
            let Some(row) = rows.get(&object.image_id) else {
                table.leave_out("boxes of images that are not listed");
                return Ok(());
            };
            let Some(bounds) = object.bounds()? else {
                table.leave_out("without a box");
                return Ok(());
            };
            let name = names
                .get(&object.category_id)
                .ok_or_else(|| format!("no category has the id {}", object.category_id))?;
            let bounds = table.bounds(*row, bounds)?;
            table.object(*row, name, bounds);
            Ok(())
        });
        if let Err(reason) = used {
            table.reject(file, number, reason);
        }
    })
}

/// Names of categories by their identifiers.
pub(crate) fn read_categories(
    path: &Path,
    table: &mut Listed,
) -> Result<HashMap<String, String>, DataError> {
    let file = table.array(path, "categories");
    let mut names = HashMap::new();
    each_of_file(path, &["categories"], &mut |_, number, bytes| match bytes
        .and_then(parse::<Category>)
    {
        Ok(category) => match names.get(&category.id) {
            // It cannot be told which of two names is meant.
            Some(name) if *name != category.name => {
                let reason = format!("a second category with the id {}", category.id);
                table.reject(file, number, reason);
            }
            _ => {
                names.insert(category.id, category.name);
            }
        },
        Err(reason) => table.reject(file, number, reason),
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};
    use crate::sources::splits::Split;

    const CAPTIONS: &str = r#"{"info": {"year": 2014}, "annotations": [
        {"id": 1, "image_id": 9, "caption": "A cat  sits.\n"}, {"id": 2, "image_id": 8, "caption": "a dog"},
        {"id": 3, "image_id": 9, "caption": "one cat"}, {"id": 3, "image_id": 8, "caption": "same id"},
        {"id": 4, "image_id": 77, "caption": "nowhere"}, {"id": 5, "image_id": 9, "caption": " "},
        {"id": 6, "image_id": 9, "caption": 5}, {"id": 7, "image_id": NaN, "caption": "x"}],
        "images": [{"id": 9, "file_name": "a.jpg", "width": 40, "height": 20}, {"id": 8, "file_name": "gone.jpg", "width": 4, "height": 4},
        {"id": 9, "file_name": "b.jpg"}, {"id": 7, "file_name": "bare.jpg"}, {"id": 6}]}"#;

    const INSTANCES: &str = r#"{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "mat"}, {"id": 3}],
        "annotations": [
        {"id": 1, "image_id": 9, "category_id": 1, "bbox": [10, 5, 20, 10], "segmentation": [[1.5, 2]]},
        {"id": 2, "image_id": 9, "category_id": 2, "bbox": [30, 10, 20, 20]},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [NaN, 10, 20, 20]},
        {"id": 4, "image_id": 9, "category_id": 2, "bbox": [50, 10, 20, 20]},
        {"id": 5, "image_id": 9, "category_id": 2, "bbox": [1, 1, 0, 20]},
        {"id": 6, "image_id": 9, "category_id": 5, "bbox": [1, 1, 1, 1]},
        {"id": 7, "image_id": 99, "category_id": 1, "bbox": [1, 1, 1, 1]},
        {"id": 8, "image_id": 9, "category_id": 1, "bbox": [1, 1, 1]},
        {"id": 9, "image_id": 9, "category_id": 1, "bbox": [1e308, 1, 1e308, 1]},
        {"id": 10, "image_id": 9, "category_id": 1, "bbox": null}, {"id": 1, "image_id": 9, "category_id": 1}]}"#;

    const DATA: &str = r#"
        source = "coco"
        [coco]
        val_fraction = 0.0
        [coco.train]
        captions = "captions.json"
        instances = "instances.json"
        images = "images"
        "#;

    #[test]
    fn captions_names_and_boxes_come_together() {
        let folder = folder(&[
            ("captions.json", CAPTIONS),
            ("instances.json", INSTANCES),
            ("images/a.jpg", "80x40"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["A cat sits.", "one cat"], vec!["a dog", "same id"]]
        );
        let sample = source.sample(Split::Train, 0).unwrap();
        assert_eq!(sample.tags, ["cat", "mat"]);
        assert_eq!(source.tags(Split::Train, 0).unwrap(), sample.tags);
        assert!(source.tags(Split::Train, 1).unwrap().is_empty());
        // The image is twice as large as listed, which changes no share. The second box is clipped at the edge.
        assert_eq!(
            sample.boxes,
            [[0.25, 0.25, 0.75, 0.75], [0.75, 0.5, 1.0, 1.0]]
        );
        assert_eq!(sample.image.unwrap().dimensions(), (80, 40));
        let (bytes, extension) = source.image_bytes(Split::Train, 0).unwrap().unwrap();
        assert_eq!(extension, "png");
        assert_eq!(
            bytes,
            std::fs::read(folder.path().join("images/a.jpg")).unwrap()
        );
        let missing = source.image(Split::Train, 1).unwrap_err();
        assert_eq!(missing.place.line, 2);
        assert!(missing.reason.contains("gone.jpg"), "{missing}");
        assert!(
            source.describe().contains("2 boxes, 1 of them cut"),
            "{}",
            source.describe()
        );
        let left = "4 items left out (2 without a box, 1 boxes of images that are not listed, 1 without a text)";
        assert!(source.describe().contains(left), "{}", source.describe());
        assert_rejected(
            &*source,
            &[
                ("captions.json#images", 3, "a second image with the id 9"),
                ("captions.json#images", 5, "file_name"),
                ("captions.json#annotations", 5, "no image has the id 77"),
                ("captions.json#annotations", 6, "empty text"),
                ("captions.json#annotations", 7, "invalid type"),
                ("captions.json#annotations", 8, "invalid type: null"),
                ("instances.json#categories", 3, "name"),
                ("instances.json#annotations", 3, "invalid type: null"),
                (
                    "instances.json#annotations",
                    4,
                    "outside of the image of 40 x 20",
                ),
                ("instances.json#annotations", 5, "no area"),
                ("instances.json#annotations", 6, "no category has the id 5"),
                ("instances.json#annotations", 8, "3 numbers in `bbox`"),
                ("instances.json#annotations", 9, "no finite number"),
            ],
        );
    }

    #[test]
    fn values_in_every_spelling() {
        // Duplicate annotation identifiers, whole numbers with a point, strings for numbers, null, and numbers beyond 64 bits.
        let captions_of = r#"{"images": [{"id": 1, "file_name": "a.jpg", "width": null, "height": NaN},
            {"id": "2", "file_name": "b.jpg", "width": "40", "height": 20.0},
            {"id": 340282366920938463463374607431768211455, "file_name": "c.jpg"},
            {"id": 1.0, "file_name": "a.jpg"}, {"id": 4, "file_name": "bare.jpg"}],
            "annotations": [{"id": 0, "image_id": 1.0, "caption": "one", "score": Infinity},
            {"id": 0, "image_id": 2, "caption": "two \ud83d"}, {"image_id": 340282366920938463463374607431768211455, "caption": "three"},
            {"id": null, "image_id": "1", "caption": "one more"}, {"id": 5, "image_id": 1, "caption": null}]}"#;
        let boxes = r#"{"categories": [{"id": 1.0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
            "annotations": [{"id": 0, "image_id": 2.0, "category_id": "1", "bbox": ["10", 5.0, 20, 10]},
            {"id": 0, "image_id": "2", "category_id": 1, "bbox": [-4, -2, 24, 12]},
            {"id": 0, "image_id": 2, "category_id": 1, "bbox": []}]}"#;
        let folder = folder(&[
            ("captions.json", captions_of),
            ("instances.json", boxes),
            ("images/b.jpg", "40x20"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["one", "one more"], vec!["two \u{fffd}"], vec!["three"]]
        );
        let sample = source.sample(Split::Train, 1).unwrap();
        assert_eq!(sample.tags, ["cat", "cat"]);
        assert_eq!(
            sample.boxes,
            [[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.5, 0.5]]
        );
        let left = "3 items left out (1 listed twice, 1 without a box, 1 without a text)";
        assert!(source.describe().contains(left), "{}", source.describe());
        assert_rejected(
            &*source,
            &[
                ("captions.json#annotations", 5, "`caption` is null"),
                (
                    "instances.json#categories",
                    3,
                    "a second category with the id 1",
                ),
            ],
        );
    }

    #[test]
    fn splits_come_from_files_or_a_share() {
        let list = |from: usize, count: usize| {
            let images: Vec<_> = (from..from + count)
                .map(|i| format!("{{\"id\": {i}, \"file_name\": \"{i}.jpg\"}}"))
                .collect();
            let texts: Vec<_> = (from..from + count)
                .map(|i| format!("{{\"id\": {i}, \"image_id\": {i}, \"caption\": \"c{i}\"}}"))
                .collect();
            format!(
                "{{\"images\": [{}], \"annotations\": [{}]}}",
                images.join(","),
                texts.join(",")
            )
        };
        let folder = folder(&[("t.json", &list(0, 1000)), ("v.json", &list(5000, 3))]);
        let train = "source = \"coco\"\n[coco.train]\ncaptions = \"t.json\"\nimages = \"i\"\n";
        let both = format!("{train}[coco.val]\ncaptions = \"v.json\"\nimages = \"i\"\n");
        let source = open(&folder, &both).unwrap();
        assert_eq!(source.len(Split::Train), 1000);
        assert_eq!(
            captions(&*source, Split::Val),
            [["c5000"], ["c5001"], ["c5002"]]
        );
        let source = open(&folder, train).unwrap();
        assert_eq!(source.len(Split::Train) + source.len(Split::Val), 1000);
        // Five standard deviations of a binomial with n = 1,000 and p = 0.05.
        const TOLERANCE: usize = 35;
        assert!(source.len(Split::Val).abs_diff(50) < TOLERANCE);
    }

    #[test]
    fn files_that_are_no_such_list_are_one_error() {
        for (text, part) in [
            (&CAPTIONS[..CAPTIONS.len() / 2], "cut short"),
            (
                "{\"images\": []}",
                "no array `annotations`; arrays: `images`",
            ),
            (
                "{\"images\": [], \"annotations\": []}",
                "nothing in it can be used",
            ),
            ("[]", "not an object"),
        ] {
            let folder = folder(&[("captions.json", text), ("instances.json", INSTANCES)]);
            let message = message(open(&folder, DATA));
            assert!(
                message.contains(part) && message.contains("captions.json"),
                "{message}"
            );
        }
        let folder = folder(&[]);
        assert!(message(open(&folder, DATA)).contains("cannot read"));
    }
}
