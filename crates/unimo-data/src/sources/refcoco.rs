//! Expressions that refer to one object in an image: RefCOCO, RefCOCO+, RefCOCOg.
//!
//! ```toml
//! [data]
//! source = "refcoco"
//!
//! [data.refcoco]
//! refs = "refcoco/refs_unc.json"
//! instances = "refcoco/instances.json"
//! images = "train2014"
//! train_split = "train"
//! val_split = ["val", "testA"]
//! ```
//!
//! The expressions are published as a Python pickle, `refs(unc).p`. A pickle is a program, and it is not run here. Export it once,
//! where Python is trusted:
//!
//! ```text
//! python -c "import json, pickle; json.dump(pickle.load(open('refs(unc).p', 'rb')), open('refs_unc.json', 'w'))"
//! ```
//!
//! The file's splits are `train`, `val`, `test`, `testA` and `testB`. The last three are the test split unless `val_split` takes
//! them. The file divides references, not images: in RefCOCOg's first split the references of one image are in several splits. A
//! training reference to a held-out image is left out, and counted.
//!
//! A sample is an object that is referred to. Its captions are the expressions, its tags and boxes those of all objects of its image, as
//! the file of annotations has them: an expression means one of them. Which one is the box of its label, as `[objectives.grounding]` and
//! `[objectives.region_scoring]` learn it. Results are given for each of the file's splits too (`testA` has people, `testB` other
//! objects). A box that is partly outside of its image is cut at the edge and counted; one that is outside altogether, has no area or
//! holds what is no number is an error. In errors the line is the number of the entry, from 1.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::DataError;
use crate::formats::json::{each_of_file, id, or_default, parse};
use crate::images::Limits;
use crate::sources::coco::{Instance, Picture, read_categories};
use crate::sources::given::{given, one_or_many};
use crate::sources::label::Label;
use crate::sources::left_out::{WITHOUT_TEXT, of_split};
use crate::sources::listed::{Listed, New, measured};
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::{Split, SplitNames};

/// `[data.refcoco]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefcocoConfig {
    /// The pickle's contents as JSON: an array of references.
    pub refs: PathBuf,
    /// `instances.json`, published with them.
    pub instances: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
    /// Splits to train on; if empty, `train`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub train_split: Vec<String>,
    /// Held-out splits; if empty, `val`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub val_split: Vec<String>,
    /// Splits to test on; if empty, `test`, `testA` and `testB`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub test_split: Vec<String>,
}

impl RefcocoConfig {
    fn splits(&self) -> SplitNames {
        SplitNames::new(&self.train_split, &self.val_split, &self.test_split)
    }
}

#[derive(Deserialize)]
struct Reference {
    #[serde(deserialize_with = "id")]
    ann_id: String,
    split: String,
    #[serde(default, deserialize_with = "or_default")]
    sentences: Vec<Sentence>,
}

/// How references name an object in `annotations`.
#[derive(Deserialize)]
struct Named {
    #[serde(deserialize_with = "id")]
    id: String,
}

#[derive(Deserialize)]
struct Sentence {
    #[serde(default, deserialize_with = "or_default")]
    sent_id: Option<Value>,
    /// The expression in lower case without punctuation.
    sent: Option<String>,
    /// The expression as written.
    raw: Option<String>,
}

impl Sentence {
    /// Its id; empty if it has none.
    fn id(&self) -> String {
        match &self.sent_id {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => String::new(),
        }
    }
}

/// A box in pixels as shares of an image's width and height; `None` if they are not known.
fn shares(bounds: [f32; 4], [width, height]: [u32; 2]) -> Option<[f32; 4]> {
    let sides = [width, height, width, height];
    (width > 0 && height > 0)
        .then(|| std::array::from_fn(|at| (bounds[at] / sides[at] as f32).clamp(0.0, 1.0)))
}

impl SourceConfig for RefcocoConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "refs", &self.refs, "a JSON file")?;
        given(
            table,
            "instances",
            &self.instances,
            "an instances.json file",
        )?;
        given(table, "images", &self.images, "a folder of images")?;
        let pickle = self.refs.extension().is_some_and(|extension| {
            extension == "p" || extension == "pkl" || extension == "pickle"
        });
        if pickle {
            return Err(DataError::config(
                format!("{table}.refs"),
                format!(
                    "{}, a Python pickle, which is never run",
                    self.refs.display()
                ),
                "its contents as JSON; the documentation of this source has the command",
            ));
        }
        self.splits().validate(table)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.refs, &mut self.instances, &mut self.images]
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut table = Listed::new("referring expressions", limits);
        let refs = table.file(&self.refs);
        let folders = table.folders(vec![self.images.clone()]);
        let names = read_categories(&self.instances, &mut table)?;
        let images = table.array(&self.instances, "images");
        let annotations = table.array(&self.instances, "annotations");
        let mut pictures = HashMap::new();
        each_of_file(&self.instances, &["images"], &mut |_, number, bytes| {
            let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
                let known: Option<&Picture> = pictures.get(&picture.id);
                if known.is_some_and(|known| known.file_name != picture.file_name) {
                    return Err(format!("a second image with the id {}", picture.id));
                }
                pictures.insert(picture.id.clone(), picture);
                Ok(())
            });
            if let Err(reason) = used {
                table.reject(images, number, reason);
            }
        })?;
        let mut objects: HashMap<String, (Instance, u64)> = HashMap::new();
        let mut of_picture: HashMap<String, Vec<String>> = HashMap::new();
        each_of_file(
            &self.instances,
            &["annotations"],
            &mut |_, number, bytes| {
                let used = bytes.and_then(|bytes| {
                    let Named { id } = parse(bytes)?;
                    let object: Instance = parse(bytes)?;
                    if objects.contains_key(&id) {
                        return Err(format!("a second annotation with the id {id}"));
                    }
                    let own = of_picture.entry(object.image_id.clone());
                    own.or_default().push(id.clone());
                    objects.insert(id, (object, number));
                    Ok(())
                });
                if let Err(reason) = used {
                    table.reject(annotations, number, reason);
                }
            },
        )?;
        let splits = self.splits();
        // Held-out references may stand after training references.
        let mut held_out = HashSet::new();
        each_of_file(&self.refs, &[""], &mut |_, _, bytes| {
            let reference = bytes.and_then(parse::<Reference>).ok();
            let held = reference.filter(|reference| {
                let split = splits.of(&reference.split);
                split.is_some_and(|split| split != Split::Train)
            });
            let object = held.and_then(|reference| objects.get(&reference.ann_id));
            held_out.extend(object.map(|(object, _)| object.image_id.clone()));
        })?;
        // Annotations that no reference names are read where one stands beside them, and are listed once.
        let mut listed = HashSet::new();
        each_of_file(&self.refs, &[""], &mut |_, number, bytes| {
            let used = bytes.and_then(parse::<Reference>).and_then(|reference| {
                let Some(split) = splits.of(&reference.split) else {
                    table.leave_out(of_split(&reference.split));
                    return Ok(());
                };
                let (object, _) = objects
                    .get(&reference.ann_id)
                    .ok_or_else(|| format!("no annotation has the id {}", reference.ann_id))?;
                let picture = pictures
                    .get(&object.image_id)
                    .ok_or_else(|| format!("no image has the id {}", object.image_id))?;
                let name_of = |object: &Instance| {
                    names
                        .get(&object.category_id)
                        .ok_or_else(|| format!("no category has the id {}", object.category_id))
                };
                name_of(object)?;
                let size = [picture.width, picture.height];
                let bounds = object.bounds()?.ok_or("its object has no box")?;
                let (bounds, _) = measured(size, bounds)?;
                let shares = shares(bounds, size).ok_or_else(|| {
                    format!(
                        "the image {} has no width and height, which its boxes are measured by",
                        object.image_id
                    )
                })?;
                if split == Split::Train && held_out.contains(&object.image_id) {
                    table.leave_out("to train on whose image is held out");
                    return Ok(());
                }
                let texts = reference.sentences.iter();
                let texts: Vec<(&String, &Sentence)> = texts
                    .filter_map(|sentence| {
                        let text = sentence.sent.as_ref().or(sentence.raw.as_ref())?;
                        Some((text, sentence))
                    })
                    .filter(|(text, _)| !text.trim().is_empty())
                    .collect();
                if texts.is_empty() {
                    table.leave_out(WITHOUT_TEXT);
                    return Ok(());
                }
                let row = table.row(New {
                    file: refs,
                    line: number,
                    folders,
                    image: &picture.file_name,
                    second: None,
                    size: Some(size),
                    split,
                });
                for id in of_picture.get(&object.image_id).into_iter().flatten() {
                    let (other, line) = &objects[id];
                    let Some(found) = other.bounds().transpose() else {
                        continue;
                    };
                    let bounds = found.and_then(|bounds| table.bounds_in(size, bounds));
                    match bounds.and_then(|bounds| Ok((name_of(other)?, bounds))) {
                        Ok((name, bounds)) => table.object(row, name, bounds),
                        Err(reason) if listed.insert(*line) => {
                            table.reject(annotations, *line, reason);
                        }
                        Err(_) => {}
                    }
                }
                texts.iter().try_for_each(|(text, sentence)| {
                    let label = Label {
                        id: sentence.id(),
                        kinds: vec![("split".to_owned(), reference.split.clone())],
                        bounds: Some(shares),
                        ..Label::default()
                    };
                    table.expression(row, text, &label)
                })
            });
            if let Err(reason) = used {
                table.reject(refs, number, reason);
            }
        })?;
        Ok(Arc::new(table.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};
    use crate::sources::splits::Split;

    const REFS: &str = r#"[
        {"ref_id": 1, "ann_id": 10, "image_id": 5, "category_id": 3, "split": "train", "file_name": "x_10.jpg", "sent_ids": [0, 1],
         "sentences": [{"tokens": ["left"], "raw": "Left cat!", "sent_id": 0, "sent": "left cat"}, {"raw": "THE cat"}]},
        {"ref_id": 2, "ann_id": 11, "split": "testA", "sentences": [{"sent": "mat"}]},
        {"ref_id": 3, "ann_id": 14, "split": "val", "sentences": [{"sent": "held out"}]},
        {"ref_id": 4, "ann_id": 99, "split": "train", "sentences": [{"sent": "x"}]},
        {"ref_id": 5, "ann_id": 12, "split": "train", "sentences": [{"sent": "x"}]},
        {"ref_id": 6, "ann_id": 13, "split": "train", "sentences": [{"sent": "x"}]},
        {"ref_id": 1, "ann_id": 10.0, "split": "train", "sentences": [{"sent": null, "raw": "same id"}]},
        {"ref_id": 7, "ann_id": 10, "split": "train", "sentences": [{"sent": ""}]},
        {"ref_id": 8, "ann_id": 15, "split": "train", "sentences": [{"sent": "of a picture that is held out"}]},
        {"ref_id": 9, "ann_id": 15, "split": "val", "sentences": [{"sent": "beside it"}]},
        {"ref_id": 10, "ann_id": 10, "split": "spare", "sentences": [{"sent": "x"}]},
        {"ref_id": 11, "ann_id": 16, "split": "train", "sentences": [{"sent": "beyond"}]},
        {"ref_id": 12, "ann_id": 17, "split": "testB", "sentences": [{"sent_id": 7, "sent": "at the edge"}]},
        {"ref_id": 13, "ann_id": 18, "split": "train", "sentences": [{"sent": "of unknown size"}]},
        {"ref_id": 14, "ann_id": 19, "split": "train", "sentences": [{"sent": "no number"}]}]"#;

    const INSTANCES: &str = r#"{"images": [{"id": 5, "file_name": "5.jpg", "width": 40, "height": 20},
        {"id": 7, "file_name": "7.jpg", "width": 40, "height": 20}, {"id": 8, "file_name": "8.jpg", "width": 40, "height": 20},
        {"id": 9, "file_name": "9.jpg"}],
        "annotations": [{"id": 10, "image_id": 5, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 11, "image_id": 8, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 14, "image_id": 7, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 15, "image_id": 7, "category_id": 3, "bbox": [10, 5, 10, 10]},
        {"id": 12, "image_id": 5, "category_id": 3, "bbox": [0, 5, -10, 10]},
        {"id": 13, "image_id": 6, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 10, "image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 16, "image_id": 5, "category_id": 3, "bbox": [40, 5, 10, 10]},
        {"id": 17, "image_id": 8, "category_id": 3, "bbox": [30, -5, 20, 15]},
        {"id": 18, "image_id": 9, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 19, "image_id": 5, "category_id": 3, "bbox": [NaN, 5, 10, 10]}],
        "categories": [{"id": 3, "name": "cat"}]}"#;

    const DATA: &str = "source = \"refcoco\"\n[refcoco]\nrefs = \"r.json\"\ninstances = \"i.json\"\nimages = \"i\"\n";

    #[test]
    fn expressions_have_the_box_of_their_object() {
        let folder = folder(&[
            ("r.json", REFS),
            ("i.json", INSTANCES),
            ("i/5.jpg", "40x20"),
        ]);
        let source = open(&folder, DATA).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["left cat", "THE cat"], vec!["same id"]]
        );
        assert_eq!(
            captions(&*source, Split::Val),
            [["held out"], ["beside it"]]
        );
        assert_eq!(captions(&*source, Split::Test), [["mat"], ["at the edge"]]);
        // Two references in one image have the same image.
        let of = |split, index| source.picture_id(split, index).unwrap();
        assert_eq!(of(Split::Val, 0), of(Split::Val, 1));
        assert_ne!(of(Split::Val, 0), of(Split::Train, 0));
        let left = "3 items left out (1 of the split \"spare\", 1 to train on whose image is held out, 1 without a text)";
        assert!(source.describe().contains(left), "{}", source.describe());
        let sample = source.sample(Split::Train, 0).unwrap();
        assert_eq!(sample.tags, ["cat"]);
        assert_eq!(sample.boxes, [[0.0, 0.25, 0.25, 0.75]]);
        // The tags and boxes of all objects of the image, in the order of the file.
        let tags = |split, index| source.tags(split, index).unwrap();
        assert_eq!(tags(Split::Val, 0), ["cat", "cat"]);
        assert_eq!(tags(Split::Val, 1), ["cat", "cat"]);
        assert_eq!(tags(Split::Test, 1), ["cat", "cat"]);
        // The box of each expression as shares, cut at the edge of its image; the file's id and split.
        let labels = |split, index| source.labels(split, index).unwrap();
        let [left, other] = &labels(Split::Train, 0)[..] else {
            panic!("two expressions");
        };
        assert_eq!((left.id.as_str(), other.id.as_str()), ("0", ""));
        assert_eq!(left.bounds, Some([0.0, 0.25, 0.25, 0.75]));
        assert_eq!(other.bounds, left.bounds);
        let edge = &labels(Split::Test, 1)[0];
        assert_eq!(edge.bounds, Some([0.75, 0.0, 1.0, 0.5]));
        assert_eq!(edge.kinds, [("split".to_owned(), "testB".to_owned())]);
        assert!(
            source
                .describe()
                .contains("2 of them cut at the image's edge")
        );
        assert_rejected(
            &*source,
            &[
                (
                    "i.json#annotations",
                    7,
                    "a second annotation with the id 10",
                ),
                (
                    "i.json#annotations",
                    11,
                    "invalid type: null, expected a number",
                ),
                ("i.json#annotations", 5, "no area"),
                ("i.json#annotations", 8, "lies outside of the image"),
                ("r.json", 4, "no annotation has the id 99"),
                ("r.json", 5, "no area"),
                ("r.json", 6, "no image has the id 6"),
                ("r.json", 12, "lies outside of the image of 40 x 20"),
                ("r.json", 14, "the image 9 has no width and height"),
                ("r.json", 15, "no annotation has the id 19"),
            ],
        );
    }

    #[test]
    fn a_pickle_is_refused() {
        let folder = folder(&[("i.json", INSTANCES), ("refs(unc).p", "\u{80}\u{2}")]);
        let message = message(open(&folder, &DATA.replace("r.json", "refs(unc).p")));
        assert!(message.contains("pickle, which is never run"), "{message}");
    }
}
