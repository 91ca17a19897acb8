//! Writes episodes as R2R-CE has them, with all that was seen.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::{Map, Value, json};

use crate::error::{DataError, ReadError, SampleError};
use crate::sources::episodes::recording::{
    CLASSES, GROUND, POSES, WrittenCamera, WrittenGround, WrittenPose, WrittenPoses, classes,
    frame, levels,
};
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::store::atomic::write_whole;
use crate::walks::{Pose, Recorded, length, spaced_out};

/// Levels of depth in a metre.
const LEVELS: f64 = 1000.0;

/// Metres between two locations.
const STEP: f64 = 0.25;

/// Writes the episodes of a split into a folder: `SPLIT.json`, `SPLIT_gt.json`, and under `frames` what was seen. `class_names` are those of the ground.
/// `progress` receives the number of finished episodes. Returns how many there are. The list is written last, so that it names what is there.
///
/// # Errors
///
/// The source has no episodes or one that cannot be read, or a file cannot be written.
pub fn write(
    source: &dyn Source,
    split: Split,
    folder: &Path,
    class_names: &[&str],
    progress: &mut dyn FnMut(usize),
) -> Result<usize, DataError> {
    let (mut episodes, mut truth) = (Vec::new(), Map::new());
    for index in 0..source.len(split) {
        let read = |error: SampleError| DataError::unavailable(&error);
        let recorded = source.walk(split, index).map_err(read)?;
        let text = source.captions(split, index).map_err(read)?;
        let (Some(recorded), Some(text)) = (recorded, text.first()) else {
            let allowed = "a source of episodes: houses";
            return Err(DataError::config("data.source", source.describe(), allowed));
        };
        let id = format!("{}-{index:06}", split.name());
        let told = Writer {
            recorded: &*recorded,
            folder: &folder.join("frames").join(&id),
            place: &|error| {
                DataError::unavailable(&SampleError::new(source.place(split, index), error))
            },
        };
        told.frames(class_names)?;
        episodes.push(told.episode(&id, text));
        truth.insert(id, told.truth());
        progress(index + 1);
    }
    let count = episodes.len();
    let name = |end: &str| folder.join(format!("{}{end}.json", split.name()));
    let truth = Value::Object(truth).to_string();
    write_whole(&name("_gt"), truth.as_bytes())?;
    let episodes = json!({ "episodes": episodes }).to_string();
    write_whole(&name(""), episodes.as_bytes())?;
    Ok(count)
}

struct Writer<'a> {
    recorded: &'a dyn Recorded,
    folder: &'a Path,
    place: &'a dyn Fn(ReadError) -> DataError,
}

/// A place as x, height and z, which points back.
fn position([x, y]: [f64; 2]) -> Vec<Option<f64>> {
    vec![Some(x), Some(0.0), Some(-y)]
}

fn rotation(pose: Pose) -> Vec<Option<f64>> {
    let (sin, cos) = (pose.heading / 2.0).sin_cos();
    vec![Some(0.0), Some(sin), Some(0.0), Some(cos)]
}

impl Writer<'_> {
    fn frames(&self, class_names: &[&str]) -> Result<(), DataError> {
        for inner in ["rgb", "depth", "semantic"] {
            let folder = self.folder.join(inner);
            fs::create_dir_all(&folder)
                .map_err(|error| DataError::file("create", &folder, error))?;
        }
        let camera = self.recorded.camera();
        for step in 0..self.recorded.poses().len() {
            let view = self.recorded.view(step).map_err(self.place)?;
            let depth = levels(&view, &camera, LEVELS);
            self.image(&frame("depth", step), DynamicImage::ImageLuma16(depth))?;
            let (width, height) = (camera.width as u32, camera.height as u32);
            let rgb = RgbImage::from_raw(width, height, view.rgb).unwrap_or_default();
            self.image(&frame("rgb", step), DynamicImage::ImageRgb8(rgb))?;
        }
        if let Some(ground) = self.recorded.ground().map_err(self.place)? {
            self.image(CLASSES, DynamicImage::ImageLuma8(classes(&ground)))?;
            let [x, y] = ground.corner;
            let written = WrittenGround {
                cell: ground.cell,
                corner: [x, -y],
                classes: class_names.iter().map(ToString::to_string).collect(),
            };
            self.json(GROUND, &written)?;
        }
        let poses = self.recorded.poses().iter().map(|pose| WrittenPose {
            position: position(pose.place()),
            rotation: rotation(*pose),
        });
        let written = WrittenPoses {
            camera: WrittenCamera {
                height: camera.height,
                width: camera.width,
                fov: camera.fov,
                lift: camera.lift,
                range: camera.range,
            },
            depth: 1.0 / LEVELS,
            first: self.recorded.first(),
            poses: poses.collect(),
        };
        self.json(POSES, &written)
    }

    fn image(&self, name: &str, image: DynamicImage) -> Result<(), DataError> {
        let path = self.folder.join(name);
        let mut png = Cursor::new(Vec::new());
        image
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|error| DataError::file("write", &path, std::io::Error::other(error)))?;
        write_whole(&path, png.get_ref())
    }

    fn json(&self, name: &str, written: &impl serde::Serialize) -> Result<(), DataError> {
        let path = self.folder.join(name);
        let text = serde_json::to_string(written)
            .map_err(|error| DataError::file("write", &path, error.into()))?;
        write_whole(&path, text.as_bytes())
    }

    /// The path from where the agent first decides, if it is known.
    fn path(&self) -> Vec<[f64; 2]> {
        self.recorded.path(0).unwrap_or_default()
    }

    fn episode(&self, id: &str, instruction: &str) -> Value {
        let start = self.recorded.poses().first().copied().unwrap_or_default();
        let path = self.path();
        let goals = path
            .last()
            .map(|goal| json!({ "position": position(*goal), "radius": 3.0 }));
        let reference: Vec<_> = path.iter().map(|place| position(*place)).collect();
        json!({
            "episode_id": id,
            "trajectory_id": id,
            "scene_id": self.recorded.scene(),
            "start_position": position(start.place()),
            "start_rotation": rotation(start),
            "info": { "geodesic_distance": length(&path) },
            "goals": goals.into_iter().collect::<Vec<_>>(),
            "instruction": { "instruction_text": instruction },
            "reference_path": reference,
        })
    }

    fn truth(&self) -> Value {
        let path = spaced_out(&self.path(), STEP);
        let locations: Vec<_> = path.iter().map(|place| position(*place)).collect();
        json!({ "locations": locations })
    }
}
