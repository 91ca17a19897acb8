//! Captions of COCO and of everything written like it: `captions_*.json`, with boxes and names from `instances_*.json`.
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
//! Without `val`, `val_fraction` of the pictures is held out. A sample is a picture with all its captions; with `instances` its
//! objects' names are tags, and their boxes come with them. In errors `FILE#images:3` is the third entry of the file's `images`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::sources::json::{each_of_file, id, parse};
use crate::sources::listed::{Held, Listed, New, Part, Parts, given};

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
    /// Folder of the pictures.
    pub images: PathBuf,
}

/// A picture in `images`.
#[derive(Deserialize)]
pub(crate) struct Picture {
    #[serde(deserialize_with = "id")]
    pub id: String,
    pub file_name: String,
    #[serde(default)]
    pub width: u32,
    #[serde(default)]
    pub height: u32,
}

/// An object in `annotations` of instances.
#[derive(Deserialize)]
pub(crate) struct Instance {
    #[serde(deserialize_with = "id")]
    pub id: String,
    #[serde(deserialize_with = "id")]
    pub image_id: String,
    #[serde(deserialize_with = "id")]
    pub category_id: String,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
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
    id: String,
    #[serde(deserialize_with = "id")]
    image_id: String,
    caption: String,
}

impl Part for CocoPart {
    const NAME: &'static str = "COCO captions";

    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "captions", &self.captions, "a captions_*.json file")?;
        if let Some(instances) = &self.instances {
            given(table, "instances", instances, "an instances_*.json file")?;
        }
        given(table, "images", &self.images, "a folder of pictures")
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

/// Rows by the identifier of their picture.
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
    // Annotations may stand before the pictures, so the file is read twice.
    each_of_file(path, &["images"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
            if rows.contains_key(&picture.id) {
                return Err(format!("a second picture with the id {}", picture.id));
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
                val: held.out(&picture.file_name),
            });
            rows.insert(picture.id, row);
            Ok(())
        });
        if let Err(reason) = used {
            table.reject(file, number, reason);
        }
    })?;
    let mut seen = HashSet::new();
    let annotations = table.array(path, "annotations");
    each_of_file(path, &["annotations"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Caption>).and_then(|caption| {
            let row = rows
                .get(&caption.image_id)
                .ok_or_else(|| format!("no picture has the id {}", caption.image_id))?;
            if !seen.insert(caption.id.clone()) {
                return Err(format!("a second annotation with the id {}", caption.id));
            }
            table.caption(*row, &caption.caption)
        });
        if let Err(reason) = used {
            table.reject(annotations, number, reason);
        }
    })?;
    Ok(rows)
}

/// Reads names and boxes for the pictures that are known; those of other pictures are of no split.
fn read_objects(path: &Path, rows: &Rows, table: &mut Listed) -> Result<(), DataError> {
    let names = read_categories(path, table)?;
    let file = table.array(path, "annotations");
    let mut seen = HashSet::new();
    each_of_file(path, &["annotations"], &mut |_, number, bytes| {
        let used = bytes.and_then(parse::<Instance>).and_then(|object| {
            let Some(row) = rows.get(&object.image_id) else {
                table.leave_out();
                return Ok(());
            };
            let name = names
                .get(&object.category_id)
                .ok_or_else(|| format!("no category has the id {}", object.category_id))?;
            let bounds = table.bounds(*row, object.bbox)?;
            if !seen.insert(object.id.clone()) {
                return Err(format!("a second annotation with the id {}", object.id));
            }
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
        Ok(category) => {
            names.insert(category.id, category.name);
        }
        Err(reason) => table.reject(file, number, reason),
    })?;
    Ok(names)
}
