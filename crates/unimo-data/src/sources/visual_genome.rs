//! Visual Genome: `region_descriptions.json`, with sizes from `image_data.json` and names from `objects.json`.
//!
//! ```toml
//! [data]
//! source = "visual_genome"
//!
//! [data.visual_genome]
//! val_fraction = 0.02
//!
//! [data.visual_genome.train]
//! regions = "region_descriptions.json"
//! image_data = "image_data.json"
//! objects = "objects.json"
//! images = ["VG_100K", "VG_100K_2"]
//! use_as = "captions"
//! ```
//!
//! An image is looked for as `{id}.jpg` in each folder of `images`; `image` gives another name. With `use_as = "captions"` a sample
//! is an image, and its captions are the phrases of its regions. With `use_as = "crops"` a sample is a cut-out region with its
//! phrase. `objects` gives tags and boxes to whole images. Without `image_data`, boxes are relative to the image as read, and a box
//! outside the image is found only then.
//!
//! In errors the line is the number of the image. For a region or object, as `FILE#regions`, it is its number in the whole file.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json::{each_inside, each_of_file, or_default, parse, side};
use crate::formats::values::{Identifier, Number};
use crate::sources::given::{Held, given, some_paths};
use crate::sources::listed::{Listed, New};
use crate::sources::parts::{Part, Parts};
use crate::sources::template::Template;

/// `[data.visual_genome]`.
pub type VisualGenomeConfig = Parts<VisualGenomePart>;

/// `[data.visual_genome.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisualGenomePart {
    /// `region_descriptions.json`.
    pub regions: PathBuf,
    /// `image_data.json`: widths and heights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_data: Option<PathBuf>,
    /// `objects.json`: names and boxes of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<PathBuf>,
    /// Folders of the images.
    pub images: Vec<PathBuf>,
    /// An image's name; `{id}` is its image id.
    #[serde(default = "image")]
    pub image: String,
    /// What a region becomes.
    #[serde(default)]
    pub use_as: Regions,
}

fn image() -> String {
    "{id}.jpg".to_owned()
}

/// What a region becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regions {
    /// A caption of its image.
    #[default]
    Captions,
    /// A sample of its own, the cut-out region.
    Crops,
}

#[derive(Deserialize)]
struct Phrase {
    phrase: String,
}

/// The box of a region; it is not needed for the phrase alone.
#[derive(Deserialize)]
struct Region {
    x: Number,
    y: Number,
    width: Number,
    height: Number,
}

#[derive(Deserialize)]
struct Object {
    x: Number,
    y: Number,
    w: Number,
    h: Number,
    #[serde(default, deserialize_with = "or_default")]
    names: Vec<String>,
}

/// An image's identifier and size. The identifier is `id` in some versions of the files, `image_id` in others, and some have both.
#[derive(Deserialize)]
struct Picture {
    image_id: Option<Identifier>,
    id: Option<Identifier>,
    #[serde(default, deserialize_with = "side")]
    width: u32,
    #[serde(default, deserialize_with = "side")]
    height: u32,
}

impl Picture {
    fn id(self) -> Result<String, String> {
        let found = self.image_id.or(self.id);
        found
            .map(|found| found.0)
            .ok_or_else(|| "neither `image_id` nor `id`".to_owned())
    }
}

impl Part for VisualGenomePart {
    const NAME: &'static str = "Visual Genome";

    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "regions", &self.regions, "region_descriptions.json")?;
        if let Some(path) = &self.image_data {
            given(table, "image_data", path, "image_data.json")?;
        }
        if let Some(path) = &self.objects {
            given(table, "objects", path, "objects.json")?;
            if self.use_as == Regions::Crops {
                return Err(DataError::config(
                    format!("{table}.objects"),
                    "given",
                    "nothing beside `use_as = \"crops\"`, as objects belong to whole images",
                ));
            }
        }
        some_paths(&format!("{table}.images"), &self.images)?;
        self.template(table).map(|_| ())
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.regions];
        paths.extend(self.image_data.as_mut());
        paths.extend(self.objects.as_mut());
        paths.extend(&mut self.images);
        paths
    }

    fn read(&self, table: &mut Listed, held: Held) -> Result<(), DataError> {
        let template = self.template("data.visual_genome")?;
        let sizes = self.read_sizes(table)?;
        let file = table.file(&self.regions);
        let of_regions = table.array(&self.regions, "regions");
        let folders = table.folders(self.images.clone());
        let mut rows = HashMap::new();
        let mut regions = 0;
        each_of_file(&self.regions, &[""], &mut |_, number, bytes| {
            let used = bytes.and_then(|bytes| {
                let picture = picture(bytes)?;
                if rows.contains_key(&picture) {
                    return Err(format!("a second image with the id {picture}"));
                }
                let image = template.fill(&[&picture]);
                let row = table.row(New {
                    file,
                    line: number,
                    folders,
                    image: &image,
                    second: None,
                    size: sizes.get(&picture).copied(),
                    split: held.of(&image),
                });
                rows.insert(picture, row);
                each_inside(bytes, "regions", &mut |_, _, bytes| {
                    regions += 1;
                    let used = bytes.and_then(|bytes| {
                        let Phrase { phrase } = parse(bytes)?;
                        if self.use_as == Regions::Captions {
                            return table.caption(row, &phrase);
                        }
                        if phrase.trim().is_empty() {
                            return Err("empty text".to_owned());
                        }
                        let region: Region = parse(bytes)?;
                        let found = [region.x, region.y, region.width, region.height];
                        let found = found.map(|number| number.0);
                        let bounds = table.bounds(row, found)?;
                        let crop = table.crop(row, of_regions, regions, bounds);
                        table.caption(crop, &phrase)
                    });
                    if let Err(reason) = used {
                        table.reject(of_regions, regions, reason);
                    }
                })
            });
            if let Err(reason) = used {
                table.reject(file, number, reason);
            }
        })?;
        let Some(path) = &self.objects else {
            return Ok(());
        };
        let file = table.file(path);
        let of_objects = table.array(path, "objects");
        let mut objects = 0;
        each_of_file(path, &[""], &mut |_, number, bytes| {
            let used = bytes.and_then(|bytes| {
                let picture = picture(bytes)?;
                let Some(row) = rows.get(&picture).copied() else {
                    table.leave_out("images with objects and without regions");
                    return Ok(());
                };
                each_inside(bytes, "objects", &mut |_, _, bytes| {
                    objects += 1;
                    let used = bytes.and_then(parse::<Object>).and_then(|object| {
                        let name = object.names.iter().find(|name| !name.trim().is_empty());
                        let name = name.ok_or("no name")?;
                        let found = [object.x, object.y, object.w, object.h];
                        let found = found.map(|number| number.0);
                        let bounds = table.bounds(row, found)?;
                        table.object(row, name.trim(), bounds);
                        Ok(())
                    });
                    if let Err(reason) = used {
                        table.reject(of_objects, objects, reason);
                    }
                })
            });
            if let Err(reason) = used {
                table.reject(file, number, reason);
            }
        })
    }
}

/// The identifier of an element's image, whatever else the element contains.
fn picture(bytes: &[u8]) -> Result<String, String> {
    // A bad region must not cost the image, so only what surrounds the regions is parsed here.
    match parse::<Picture>(bytes) {
        Ok(picture) => picture.id(),
        Err(reason) => without_arrays(bytes)
            .and_then(|rest| parse::<Picture>(&rest).ok())
            .ok_or(reason)
            .and_then(Picture::id),
    }
}

/// An object with its arrays emptied; `None` if brackets do not match.
fn without_arrays(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let mut kept = Vec::new();
    for byte in bytes {
        if quoted {
            quoted = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
        } else {
            match byte {
                b'"' => quoted = true,
                b']' => depth = depth.checked_sub(1)?,
                _ => {}
            }
        }
        if depth == 0 {
            kept.push(*byte);
        }
        if !quoted && *byte == b'[' {
            depth += 1;
        }
    }
    (depth == 0).then_some(kept)
}

impl VisualGenomePart {
    fn template(&self, table: &str) -> Result<Template, DataError> {
        Template::parse(&self.image, &["id"]).map_err(|reason| {
            DataError::config(
                format!("{table}.image"),
                format!("{:?}: {reason}", self.image),
                "a name with {id}, such as `{id}.jpg`",
            )
        })
    }

    fn read_sizes(&self, table: &mut Listed) -> Result<HashMap<String, [u32; 2]>, DataError> {
        let mut sizes = HashMap::new();
        if let Some(path) = &self.image_data {
            let file = table.file(path);
            each_of_file(path, &[""], &mut |_, number, bytes| {
                let used = bytes.and_then(parse::<Picture>).and_then(|picture| {
                    let size = [picture.width, picture.height];
                    let id = picture.id()?;
                    // An unknown size is measured when the image is read.
                    if size.contains(&0) {
                        table.leave_out("without a width and height");
                    } else {
                        sizes.insert(id, size);
                    }
                    Ok(())
                });
                if let Err(reason) = used {
                    table.reject(file, number, reason);
                }
            })?;
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};
    use crate::sources::splits::Split;

    const REGIONS: &str = r#"[
        {"regions": [
            {"region_id": 1, "width": 20, "height": 10, "image_id": 1, "phrase": "the clock", "y": 10, "x": 0},
            {"region_id": 2, "width": 5, "height": NaN, "image_id": 1, "phrase": "bad", "y": 0, "x": 0},
            {"region_id": 3, "width": 10, "height": 10, "image_id": 1, "phrase": "a tree", "y": 0, "x": 30}], "id": 1},
        {"regions": [{"width": 1, "height": 1, "phrase": " ", "y": 0, "x": 0}], "id": 2},
        {"id": 3}, {"regions": [], "id": 1}, {"regions": []}]"#;

    const OBJECTS: &str = r#"[{"image_id": 1, "objects": [
            {"synsets": ["tree.n.01"], "h": 10, "object_id": 5, "merged_object_ids": [], "names": ["tree"], "w": 10, "y": 0, "x": 30},
            {"h": 10, "names": [], "w": 10, "y": 0, "x": 30},
            {"h": 10, "names": ["sky"], "w": 10, "y": 0, "x": 300}], "image_url": "u"},
        {"image_id": 50, "objects": []}]"#;

    const SIZES: &str = r#"[{"width": 40, "url": "u", "height": 20, "image_id": 1, "id": 12345}]"#;

    const DATA: &str = r#"
        source = "visual_genome"
        [visual_genome]
        val_fraction = 0.0
        [visual_genome.train]
        regions = "r.json"
        images = ["a", "b"]
        "#;

    #[test]
    fn regions_are_captions_and_objects_are_tags() {
        let folder = folder(&[
            ("r.json", REGIONS),
            ("o.json", OBJECTS),
            ("s.json", SIZES),
            ("b/1.jpg", "40x20"),
        ]);
        for sizes in ["", "image_data = \"s.json\""] {
            let source = open(&folder, &format!("{DATA}objects = \"o.json\"\n{sizes}"));
            let source = source.unwrap();
            assert_eq!(
                captions(&*source, Split::Train),
                [["the clock", "bad", "a tree"]]
            );
            let mut rejected = vec![
                ("r.json#regions", 4, "empty text"),
                ("r.json", 3, "no array `regions`"),
                ("r.json", 4, "a second image with the id 1"),
                ("r.json", 5, "image_id"),
                ("o.json#objects", 2, "no name"),
                ("o.json#objects", 3, "outside of the image"),
            ];
            if sizes.is_empty() {
                rejected.retain(|item| !item.2.starts_with("outside"));
                let found = source.sample(Split::Train, 0).unwrap_err();
                assert!(
                    found.reason.contains("outside of the image of 40 x 20"),
                    "{found}"
                );
            } else {
                let sample = source.sample(Split::Train, 0).unwrap();
                assert_eq!(sample.tags, ["tree"]);
                assert_eq!(sample.boxes, [[0.75, 0.0, 1.0, 0.5]]);
            }
            assert_rejected(&*source, &rejected);
        }
    }

    #[test]
    fn regions_are_cut_out() {
        let folder = folder(&[("r.json", REGIONS), ("s.json", SIZES), ("a/1.jpg", "80x40")]);
        let data = format!("{DATA}use_as = \"crops\"\nimage_data = \"s.json\"\n");
        let source = open(&folder, &data).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [["the clock"], ["a tree"]]
        );
        // The image is twice as large as listed; red counts columns, green rows.
        let first = source.image(Split::Train, 0).unwrap().unwrap();
        assert_eq!(
            (first.dimensions(), first.get_pixel(0, 0).0),
            ((40, 20), [0, 20, 7])
        );
        let second = source.image(Split::Train, 1).unwrap().unwrap();
        assert_eq!(
            (second.dimensions(), second.get_pixel(0, 0).0),
            ((20, 20), [60, 0, 7])
        );
        assert_eq!(source.place(Split::Train, 1).line, 3);
        assert_eq!(source.rejected()[0].place.line, 2);
        assert!(source.rejected()[0].reason.contains("null"));
        assert!(source.image_bytes(Split::Train, 0).unwrap().is_none());
        let both = format!("{data}objects = \"o.json\"\n");
        let message = message(open(&folder, &both));
        assert!(
            message.contains("`data.visual_genome.train.objects`"),
            "{message}"
        );
    }
}
