//! What was recorded of an episode.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::formats::json::parse;
use crate::images::{self, Limits};
use crate::sources::episodes::row::{Numbers, Told, pose};
use crate::store::read_listed;
use crate::walks::{Camera, Ground, Pose, Recorded, View, nearest_along};

/// Side of the empty views of an agent that sees nothing, in pixels.
pub(super) const UNSEEN: usize = 64;

/// Largest file of poses or of classes in bytes.
const LARGEST: u64 = 16 << 20;

/// Largest side of a view in pixels, and of a ground in cells.
const LARGEST_SIDE: usize = 4096;

pub(super) const POSES: &str = "pose.json";
pub(super) const GROUND: &str = "semantic/ground.json";
pub(super) const CLASSES: &str = "semantic/ground.png";

/// The file of a view's colours or depth.
pub(super) fn frame(kind: &str, step: usize) -> String {
    format!("{kind}/{step:03}.png")
}

/// `pose.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPoses {
    pub(super) camera: WrittenCamera,
    pub(super) depth: f64,
    pub(super) first: usize,
    pub(super) poses: Vec<WrittenPose>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenCamera {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) fov: f64,
    pub(super) lift: f64,
    pub(super) range: f64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPose {
    pub(super) position: Numbers,
    pub(super) rotation: Numbers,
}

/// `ground.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenGround {
    pub(super) cell: f64,
    pub(super) corner: [f64; 2],
    pub(super) classes: Vec<String>,
}

/// A sound `pose.json`.
#[derive(Debug)]
pub(super) struct PoseFile {
    pub(super) camera: Camera,
    /// Metres of a level.
    depth: f64,
    first: usize,
    pub(super) poses: Vec<Pose>,
}

impl PoseFile {
    /// Reads the file of an episode's folder.
    pub(super) fn read(folder: &Path) -> Result<Self, ReadError> {
        let path = folder.join(POSES);
        let named = |reason: &str| format!("{}: {reason}", path.display());
        let bytes = read_listed(&path, LARGEST).map_err(|error| error.told(named))?;
        let written = parse::<WrittenPoses>(&bytes).and_then(Self::of);
        written.map_err(|reason| named(&reason).into())
    }

    fn of(written: WrittenPoses) -> Result<Self, String> {
        let WrittenCamera {
            height,
            width,
            fov,
            lift,
            range,
        } = written.camera;
        let sides = [height, width]
            .iter()
            .all(|side| (1..=LARGEST_SIDE).contains(side));
        let sound = fov > 0.0
            && fov < 180.0
            && lift.is_finite()
            && range.is_finite()
            && range > 0.0
            && written.depth.is_finite()
            && written.depth > 0.0;
        if !sides || !sound {
            return Err(format!(
                "camera {:?} and depth {}, allowed: 1 to {LARGEST_SIDE} pixels, fov between 0 and 180 degrees, metres above 0",
                written.camera, written.depth
            ));
        }
        let poses = written.poses.iter().enumerate().map(|(at, written)| {
            let key = |name: &str| format!("poses[{at}].{name}");
            pose(
                (&key("position"), &written.position),
                (&key("rotation"), &written.rotation),
            )
        });
        let poses = poses.collect::<Result<Vec<Pose>, String>>()?;
        if written.first >= poses.len() {
            return Err(format!(
                "an episode of no steps: {} poses, of which number {} is that of the first decision",
                poses.len(),
                written.first
            ));
        }
        Ok(Self {
            camera: Camera {
                height,
                width,
                fov,
                lift,
                range,
            },
            depth: written.depth,
            first: written.first,
            poses,
        })
    }
}

/// The classes of the ground that a folder knows; `None` if it knows none.
fn ground_file(folder: &Path) -> Result<Option<WrittenGround>, ReadError> {
    let path = folder.join(GROUND);
    if !path.exists() {
        return Ok(None);
    }
    let named = |reason: &str| format!("{}: {reason}", path.display());
    let bytes = read_listed(&path, LARGEST).map_err(|error| error.told(named))?;
    let written: WrittenGround = parse(&bytes).map_err(|reason| named(&reason))?;
    let sound = written.cell.is_finite()
        && written.cell > 0.0
        && written.corner.iter().all(|at| at.is_finite())
        && (1..=256).contains(&written.classes.len());
    if sound {
        return Ok(Some(written));
    }
    Err(named("allowed: cells of metres above 0, a corner of two numbers, 1 to 256 classes").into())
}

/// The number of classes of the ground; 0 if they are not known.
pub(super) fn class_count(folder: &Path) -> Result<usize, ReadError> {
    Ok(ground_file(folder)?.map_or(0, |ground| ground.classes.len()))
}

/// A recorded episode.
#[derive(Debug)]
pub(super) struct Frames {
    folder: PathBuf,
    poses: PoseFile,
    path: Vec<[f64; 2]>,
    scene: String,
    limits: Limits,
}

impl Frames {
    pub(super) fn open(folder: &Path, told: &Told, limits: Limits) -> Result<Self, ReadError> {
        Ok(Self {
            folder: folder.to_owned(),
            poses: PoseFile::read(folder)?,
            path: told.path.clone(),
            scene: told.scene.clone(),
            limits,
        })
    }

    /// An image of the folder, of the size that it is to have.
    fn image(&self, name: &str) -> Result<DynamicImage, ReadError> {
        let path = self.folder.join(name);
        let (bytes, _) = images::read_file(&path, self.limits.max_pixels)?;
        let named = |reason: String| ReadError::from(format!("{}: {reason}", path.display()));
        let (width, height) = images::dimensions(&bytes).map_err(named)?;
        let most = self.limits.max_pixels;
        if u64::from(width) * u64::from(height) > most {
            return Err(named(format!("{width} × {height} pixels, allowed: {most}")));
        }
        image::load_from_memory(&bytes).map_err(|error| named(error.to_string()))
    }

    fn sized(&self, name: &str, (width, height): (u32, u32)) -> Result<(), ReadError> {
        let camera = self.poses.camera;
        if [height as usize, width as usize] == [camera.height, camera.width] {
            return Ok(());
        }
        Err(format!(
            "{}: {width} × {height} pixels, where the camera of {POSES} has {} × {}",
            self.folder.join(name).display(),
            camera.width,
            camera.height
        )
        .into())
    }
}

impl Recorded for Frames {
    fn camera(&self) -> Camera {
        self.poses.camera
    }

    fn poses(&self) -> &[Pose] {
        &self.poses.poses
    }

    fn first(&self) -> usize {
        self.poses.first
    }

    fn view(&self, step: usize) -> Result<View, ReadError> {
        let name = frame("rgb", step);
        let limits = Limits {
            enough: None,
            ..self.limits
        };
        let rgb: RgbImage = images::read(&self.folder.join(&name), limits)?;
        self.sized(&name, rgb.dimensions())?;
        let name = frame("depth", step);
        let path = self.folder.join(&name);
        let DynamicImage::ImageLuma16(levels) = self.image(&name)? else {
            return Err(format!(
                "{}: allowed: a PNG of one channel of 16 bits, whose levels are depths",
                path.display()
            )
            .into());
        };
        self.sized(&name, levels.dimensions())?;
        let metres = |level: &u16| match *level {
            0 | u16::MAX => 0.0,
            level => (f64::from(level) * self.poses.depth) as f32,
        };
        let depth: Vec<f32> = levels.as_raw().iter().map(metres).collect();
        if depth.iter().all(|metres| *metres == 0.0) {
            return Err(format!(
                "{}: no pixel has a depth: all levels are 0 or 65535, which are unknown",
                path.display()
            )
            .into());
        }
        Ok(View {
            rgb: rgb.into_raw(),
            depth,
        })
    }

    fn path(&self, step: usize) -> Option<Vec<[f64; 2]>> {
        let rest = nearest_along(&self.path, self.poses.poses[step].place());
        (!rest.is_empty()).then_some(rest)
    }

    fn ground(&self) -> Result<Option<Arc<Ground>>, ReadError> {
        let Some(written) = ground_file(&self.folder)? else {
            return Ok(None);
        };
        let path = self.folder.join(CLASSES);
        let DynamicImage::ImageLuma8(classes) = self.image(CLASSES)? else {
            return Err(format!(
                "{}: allowed: a PNG of one channel of 8 bits, whose levels are classes",
                path.display()
            )
            .into());
        };
        let most = written.classes.len();
        if let Some(class) = classes.iter().find(|class| usize::from(**class) >= most) {
            return Err(format!(
                "{}: class {class}, where {GROUND} has {most}",
                path.display()
            )
            .into());
        }
        let [x, z] = written.corner;
        Ok(Some(Arc::new(Ground {
            rows: classes.height() as usize,
            columns: classes.width() as usize,
            classes: classes.into_raw(),
            cell: written.cell,
            corner: [x, -z],
        })))
    }

    fn class_count(&self) -> Result<usize, ReadError> {
        class_count(&self.folder)
    }

    fn scene(&self) -> String {
        self.scene.clone()
    }
}

/// An episode of which nothing was recorded: an agent that goes along the path and sees nothing.
#[derive(Debug)]
pub(super) struct Unseen {
    poses: Vec<Pose>,
    path: Vec<[f64; 2]>,
    scene: String,
}

impl Unseen {
    pub(super) fn new(told: &Told) -> Self {
        Self {
            poses: told.walked(),
            path: told.path.clone(),
            scene: told.scene.clone(),
        }
    }
}

impl Recorded for Unseen {
    fn camera(&self) -> Camera {
        Camera {
            height: UNSEEN,
            width: UNSEEN,
            fov: 90.0,
            lift: 1.25,
            range: 10.0,
        }
    }

    fn poses(&self) -> &[Pose] {
        &self.poses
    }

    fn first(&self) -> usize {
        0
    }

    fn view(&self, _step: usize) -> Result<View, ReadError> {
        Ok(View {
            rgb: vec![0; UNSEEN * UNSEEN * 3],
            depth: vec![0.0; UNSEEN * UNSEEN],
        })
    }

    fn path(&self, step: usize) -> Option<Vec<[f64; 2]>> {
        let rest = nearest_along(&self.path, self.poses[step].place());
        (!rest.is_empty()).then_some(rest)
    }

    fn ground(&self) -> Result<Option<Arc<Ground>>, ReadError> {
        Ok(None)
    }

    fn class_count(&self) -> Result<usize, ReadError> {
        Ok(0)
    }

    fn scene(&self) -> String {
        self.scene.clone()
    }
}

/// Depths as levels of a millimetre; what is not known, or too far, is 0.
pub(super) fn levels(view: &View, camera: &Camera, metre: f64) -> ImageBuffer<Luma<u16>, Vec<u16>> {
    ImageBuffer::from_fn(camera.width as u32, camera.height as u32, |x, y| {
        let metres = f64::from(view.depth[y as usize * camera.width + x as usize]);
        let level = (metres * metre).round();
        Luma([if level < f64::from(u16::MAX) {
            level as u16
        } else {
            0
        }])
    })
}

/// The classes of a ground as an image.
pub(super) fn classes(ground: &Ground) -> GrayImage {
    ImageBuffer::from_fn(ground.columns as u32, ground.rows as u32, |x, y| {
        Luma([ground.classes[y as usize * ground.columns + x as usize]])
    })
}
