//! A row of a file of episodes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::DataError;
use crate::formats::json::{MEMBERS, each_of_file, id, parse};
use crate::text::spaced;
use crate::walks::{Pose, spaced_out};

/// Numbers of a file, where what is none is null.
pub(super) type Numbers = Vec<Option<f64>>;

/// Metres between two poses of an agent that goes along a path.
const STEP: f64 = 0.25;

/// An element of `episodes`.
#[derive(Debug, Deserialize)]
pub(super) struct EpisodeRow {
    #[serde(deserialize_with = "id")]
    episode_id: String,
    #[serde(default)]
    scene_id: String,
    start_position: Numbers,
    start_rotation: Numbers,
    instruction: Instruction,
    #[serde(default)]
    goals: Vec<Goal>,
    #[serde(default)]
    reference_path: Vec<Numbers>,
}

#[derive(Debug, Deserialize)]
struct Instruction {
    instruction_text: String,
}

#[derive(Debug, Deserialize)]
struct Goal {
    position: Numbers,
}

/// A member of a file of truth.
#[derive(Debug, Deserialize)]
struct Truth {
    locations: Vec<Numbers>,
}

/// The locations of episodes by their ids.
pub(super) type Locations = HashMap<String, Result<Vec<[f64; 2]>, String>>;

/// An episode as it is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) scene: String,
    pub(super) instruction: String,
    pub(super) start: Pose,
    /// From the start to the goal; empty if it is unknown.
    pub(super) path: Vec<[f64; 2]>,
}

/// The locations in the file beside a file of episodes; `None` if there is no such file.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn locations(path: &Path) -> Result<Option<(PathBuf, Locations)>, DataError> {
    let Some(stem) = path.file_stem() else {
        return Ok(None);
    };
    let mut name = stem.to_owned();
    name.push("_gt.json");
    let beside = path.with_file_name(name);
    if !beside.exists() {
        return Ok(None);
    }
    let mut all = Locations::new();
    each_of_file(&beside, &[MEMBERS], &mut |key, _, bytes| {
        let truth = bytes.and_then(parse::<Truth>);
        let truth = truth.and_then(|truth| points("locations", &truth.locations));
        all.insert(key.to_owned(), truth);
    })?;
    Ok(Some((beside, all)))
}

impl EpisodeRow {
    /// The episode.
    pub(super) fn told(self, locations: Option<&Locations>) -> Result<Told, String> {
        let instruction = spaced(&self.instruction.instruction_text);
        let instruction = instruction.ok_or("instruction.instruction_text is empty")?;
        // It is the name of a folder.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let id = self.episode_id;
        if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
            return Err(format!(
                "episode_id {id:?}, allowed: letters, digits, `-`, `_` and `.`, not at the beginning"
            ));
        }
        let start = pose(
            ("start_position", &self.start_position),
            ("start_rotation", &self.start_rotation),
        )?;
        let known = locations.and_then(|all| all.get(&id));
        let mut path = match known {
            Some(Ok(locations)) => locations.clone(),
            Some(Err(reason)) => return Err(format!("in the _gt.json beside it: {reason}")),
            None if locations.is_some() && !self.reference_path.is_empty() => {
                return Err(format!("the _gt.json beside it has no locations for {id}"));
            }
            None => points("reference_path", &self.reference_path)?,
        };
        if known.is_some() && path.is_empty() {
            return Err("an episode of no steps: its locations are empty".to_owned());
        }
        if let Some(goal) = self.goals.first() {
            path.push(place("goals[0].position", &goal.position)?);
        }
        if !path.is_empty() {
            path.insert(0, start.place());
            path.dedup();
        }
        Ok(Told {
            id,
            scene: self.scene_id,
            instruction,
            start,
            path,
        })
    }
}

impl Told {
    /// The poses of an agent that goes along the path, looking where it goes.
    pub(super) fn walked(&self) -> Vec<Pose> {
        let points = spaced_out(&self.path, STEP);
        let mut poses = vec![self.start];
        let mut heading = self.start.heading;
        for pair in points.windows(2) {
            let [dx, dy] = [pair[1][0] - pair[0][0], pair[1][1] - pair[0][1]];
            if dx != 0.0 || dy != 0.0 {
                heading = (-dx).atan2(dy);
            }
            poses.push(Pose {
                x: pair[1][0],
                y: pair[1][1],
                heading,
            });
        }
        poses
    }
}

/// Three numbers of a file as a place on the plane: z points back.
pub(super) fn place(key: &str, numbers: &Numbers) -> Result<[f64; 2], String> {
    match numbers[..] {
        [Some(x), Some(height), Some(z)]
            if x.is_finite() && height.is_finite() && z.is_finite() =>
        {
            Ok([x, -z])
        }
        _ => Err(format!(
            "{key}: {}, allowed: three finite numbers, x, height and z",
            told(numbers)
        )),
    }
}

fn told(numbers: &Numbers) -> String {
    let each = numbers
        .iter()
        .map(|number| number.map_or_else(|| "no number".to_owned(), |number| number.to_string()));
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}

fn points(key: &str, points: &[Numbers]) -> Result<Vec<[f64; 2]>, String> {
    let each = points.iter().enumerate();
    each.map(|(at, point)| place(&format!("{key}[{at}]"), point))
        .collect()
}

/// A pose on the plane: a quaternion x, y, z, w that turns about the axis y, to the left.
pub(super) fn pose(
    (position_key, position): (&str, &Numbers),
    (rotation_key, rotation): (&str, &Numbers),
) -> Result<Pose, String> {
    /// How far the length of a rotation may be from 1.
    const ROUGHLY: f64 = 0.01;
    let [x, y] = place(position_key, position)?;
    let bad = || {
        format!(
            "{rotation_key}: {}, allowed: a quaternion x, y, z, w of length 1",
            told(rotation)
        )
    };
    let [Some(a), Some(b), Some(c), Some(w)] = rotation[..] else {
        return Err(bad());
    };
    let length = (a * a + b * b + c * c + w * w).sqrt();
    if !(1.0 - ROUGHLY..1.0 + ROUGHLY).contains(&length) {
        return Err(bad());
    }
    let pose = Pose { x, y, heading: 0.0 };
    Ok(pose.turned(2.0 * b.atan2(w)))
}
