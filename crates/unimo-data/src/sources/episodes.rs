//! Episodes in files, as R2R-CE has them: instructions, paths, and what was seen on the way, if that was recorded.
//!
//! ```toml
//! [data]
//! source = "episodes"
//!
//! [data.episodes]
//! train = ["train.json"]
//! val = ["val_unseen.json"]
//! frames = "frames"                # absent: instructions and paths alone
//! ```
//!
//! A file is an object with `episodes`, a list of objects (an unpacked file of R2R_VLNCE_v1):
//!
//! | key | meaning |
//! |---|---|
//! | `episode_id` | a whole number or a text, once in the file |
//! | `scene_id` | the house, by which `val_fraction` holds out |
//! | `start_position`, `start_rotation` | x, height and z in metres, z pointing back; a quaternion x, y, z, w |
//! | `instruction.instruction_text` | the instruction |
//! | `goals[0].position`, `reference_path` | where to go, and the points of the path. Without them, as in a test set, the path is unknown |
//!
//! If `NAME_gt.json` lies beside `NAME.json`, an object of `locations` for each id, these are the path, since straight lines between the points of
//! `reference_path` may lead through walls.
//!
//! `frames/ID` has what was recorded of an episode: `pose.json`, and for each pose `rgb/000.png` and `depth/000.png`, grey of 16 bits, where 0 and
//! 65535 are unknown. `semantic/ground.json` and `semantic/ground.png`, grey of 8 bits, have the class of each cell of the ground.
//!
//! ```json
//! {"camera": {"height": 64, "width": 64, "fov": 90.0, "lift": 1.25, "range": 10.0}, "depth": 0.001, "first": 24,
//!  "poses": [{"position": [1.0, 0.0, -2.0], "rotation": [0.0, 0.0, 0.0, 1.0]}]}
//! {"cell": 0.25, "corner": [0.0, 0.0], "classes": ["void", "floor"]}
//! ```
//!
//! `depth` is the metres of a level, `first` the pose of the first decision. `corner` is the x and z of the corner of cell 0, 0 with the smallest x and z.
//! `unimo data houses` writes such files. Without `frames` an agent goes along its path and sees nothing: maps and views are empty, and a line says so.
//!
//! Set aside, with file and number, are episodes without an instruction, with a position that is no three numbers, an id that came before, or without
//! the frames that they should have; what is damaged inside a frame is found when it is read. Episodes with fewer or more steps than `steps` are left
//! out and counted. Floors above each other are one plane.

mod recording;
mod row;
pub mod writing;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::json::{each_of_file, parse};
use crate::images::Limits;
use crate::order::draws::{Stream, hash_text};
use crate::settings::range;
use crate::sources::episodes::recording::{Frames, PoseFile, Unseen};
use crate::sources::episodes::row::{EpisodeRow, Told, locations};
use crate::sources::given::{Held, train_and_held, val_fraction};
use crate::sources::left_out::LeftOut;
use crate::sources::source::{Offers, Sample, Source, SourceConfig};
use crate::sources::splits::{BySplit, Split, drawn};
use crate::walks::{Recorded, WalkOffers};

/// `[data.episodes]`: episodes in files, as R2R-CE has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodesConfig {
    /// Files to train on.
    pub train: Vec<PathBuf>,
    /// Held-out files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val: Vec<PathBuf>,
    /// Files of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<PathBuf>,
    /// The folder of recorded episodes; absent: there are none, and maps and views are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<PathBuf>,
    /// Fewest and most steps of an episode, 24 turns at its start included (25 and 200 in WS-MGMap); others are left out.
    #[serde(default = "steps")]
    pub steps: [usize; 2],
    /// Share of the houses that is held out if `val` is absent.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

fn steps() -> [usize; 2] {
    [25, 200]
}

/// Turns by which an agent looks around before it decides.
const TURNS: usize = 24;

impl SourceConfig for EpisodesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let [least, most] = self.steps;
        range(&format!("{table}.steps"), least, 1, most.max(1))?;
        range(&format!("{table}.steps"), most, 1, 1 << 16)?;
        let held_out = [("val", &*self.val), ("test", &*self.test)];
        train_and_held(table, &self.train, held_out, self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let files = self
            .train
            .iter_mut()
            .chain(&mut self.val)
            .chain(&mut self.test);
        files.chain(&mut self.frames).collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut source = Episodes {
            frames: self.frames.clone(),
            steps: self.steps,
            limits: *limits,
            files: Vec::new(),
            rows: BySplit::default(),
            shape: None,
            notes: Vec::new(),
            rejected: Vec::new(),
            left_out: LeftOut::new("episodes"),
        };
        let train = Held::beside(&self.val, self.val_fraction);
        for (files, held) in [
            (&self.train, train),
            (&self.val, Held::All(Split::Val)),
            (&self.test, Held::All(Split::Test)),
        ] {
            for path in files {
                source.read(path, held)?;
            }
        }
        if source.rows.iter().all(|(_, rows)| rows.is_empty()) {
            let first = source.rejected.first();
            return Err(DataError::Manifest {
                path: self.train.first().cloned().unwrap_or_default(),
                reason: first.map_or_else(
                    || format!("no episode in it can be used; {}", source.left_out),
                    |first| format!("no episode can be used, the first: {first}"),
                ),
            });
        }
        if self.val.is_empty() {
            let held = source.len(Split::Val);
            let of = held + source.len(Split::Train);
            let name = source.files.first().map_or("", String::as_str);
            let note = drawn(
                name,
                held,
                of,
                "episodes, by their houses,",
                self.val_fraction,
            );
            source.notes.push(note);
        }
        if source.frames.is_none() {
            source.notes.push(format!(
                "{}: without data.episodes.frames the agents see nothing: maps and views are empty",
                source.files.join(", ")
            ));
        }
        if source.left_out.total() > 0 {
            source.notes.push(source.left_out.to_string());
        }
        Ok(Arc::new(source))
    }
}

/// Episodes of files. See the [module](self).
#[derive(Debug)]
struct Episodes {
    frames: Option<PathBuf>,
    steps: [usize; 2],
    limits: Limits,
    files: Vec<String>,
    rows: BySplit<Vec<Row>>,
    /// What all records have, as the first one has it.
    shape: Option<Shape>,
    notes: Vec<String>,
    rejected: Vec<SampleError>,
    left_out: LeftOut,
}

/// An episode, and where it is defined.
#[derive(Debug)]
struct Row {
    told: Told,
    file: usize,
    number: u64,
}

/// What is the same in all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    view: [usize; 2],
    classes: usize,
}

impl Episodes {
    fn read(&mut self, path: &Path, held: Held) -> Result<(), DataError> {
        let name = path.display().to_string();
        if path.extension().is_some_and(|extension| extension == "gz") {
            return Err(DataError::Manifest {
                path: path.to_owned(),
                reason: "it is compressed: unpack it (gunzip), and name the .json file".to_owned(),
            });
        }
        let file = self.files.len();
        self.files.push(name.clone());
        let truth = locations(path)?;
        let what = match &truth {
            Some((beside, _)) => format!("{name}: paths are the locations in {}", beside.display()),
            None => format!(
                "{name}: no _gt.json beside it, so paths are straight lines between the points of reference_path"
            ),
        };
        self.notes.push(what);
        let mut known = HashSet::new();
        let mut rows = Vec::new();
        each_of_file(path, &["episodes"], &mut |_, number, bytes| {
            let told = bytes.and_then(parse::<EpisodeRow>).and_then(|row| {
                let locations = truth.as_ref().map(|(_, all)| all);
                let told = row.told(locations)?;
                if !known.insert(told.id.clone()) {
                    return Err(format!("a second episode with the id {}", told.id));
                }
                Ok(told)
            });
            rows.push((number, told));
        })?;
        for (number, told) in rows {
            let used = told.map_err(ReadError::from).and_then(|told| {
                let steps = self.checked(&told)?;
                Ok((told, steps))
            });
            match used {
                Ok((told, steps)) => {
                    let [least, most] = self.steps;
                    if steps < least {
                        self.left_out.add(format!("of less than {least} steps"));
                    } else if steps > most {
                        self.left_out.add(format!("of more than {most} steps"));
                    } else {
                        let row = Row { told, file, number };
                        self.rows[held.of(&row.told.scene)].push(row);
                    }
                }
                Err(error) => {
                    let place = Place {
                        file: name.clone(),
                        line: number,
                    };
                    let error = SampleError::new(place, error);
                    if error.is_unavailable() {
                        return Err(DataError::unavailable(&error));
                    }
                    self.rejected.push(error);
                }
            }
        }
        Ok(())
    }

    /// The number of an episode's steps, if it can be used.
    fn checked(&mut self, told: &Told) -> Result<usize, ReadError> {
        let Some(frames) = &self.frames else {
            return Ok(TURNS + told.walked().len() - 1);
        };
        let folder = frames.join(&told.id);
        let poses = PoseFile::read(&folder)?;
        let shape = Shape {
            view: [poses.camera.height, poses.camera.width],
            classes: recording::class_count(&folder)?,
        };
        let known = *self.shape.get_or_insert(shape);
        if shape != known {
            return Err(format!(
                "{}: views of {:?} pixels and {} classes of ground, where the first episode has {:?} and {}",
                folder.display(),
                shape.view,
                shape.classes,
                known.view,
                known.classes
            )
            .into());
        }
        Ok(poses.poses.len() - 1)
    }

    fn row(&self, split: Split, index: usize) -> &Row {
        &self.rows[split][index]
    }

    fn shape(&self) -> Shape {
        self.shape.unwrap_or(Shape {
            view: [recording::UNSEEN; 2],
            classes: 0,
        })
    }
}

impl Source for Episodes {
    fn len(&self, split: Split) -> usize {
        self.rows[split].len()
    }

    fn describe(&self) -> String {
        let test = match self.len(Split::Test) {
            0 => String::new(),
            episodes => format!(", {episodes} to test on"),
        };
        format!(
            "{}: {} training episodes, {} held out{test}, {} left out, {} unusable",
            self.files.join(", "),
            self.len(Split::Train),
            self.len(Split::Val),
            self.left_out.total(),
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let row = self.row(split, index);
        Place {
            file: self.files[row.file].clone(),
            line: row.number,
        }
    }

    fn offers(&self) -> Offers {
        let all = || self.rows.iter().flat_map(|(_, rows)| rows);
        let Shape { view, classes } = self.shape();
        Offers {
            images: false,
            walks: Some(WalkOffers {
                view,
                paths: all().all(|row| !row.told.path.is_empty()),
                classes,
            }),
            ..Offers::default()
        }
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(vec![self.row(split, index).told.instruction.clone()])
    }

    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let told = &self.row(split, index).told;
        give(told.id.as_bytes());
        give(told.instruction.as_bytes());
        for number in told.path.as_flattened() {
            give(&number.to_le_bytes());
        }
        Ok(())
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        Ok(hash_text(
            Stream::Picture,
            &self.place(split, index).to_string(),
        ))
    }

    fn image(&self, _split: Split, _index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(None)
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        let told = &self.row(split, index).told;
        let Some(frames) = &self.frames else {
            return Ok(Some(Box::new(Unseen::new(told))));
        };
        let opened = Frames::open(&frames.join(&told.id), told, self.limits);
        let opened = opened.map_err(|error| SampleError::new(self.place(split, index), error))?;
        Ok(Some(Box::new(opened)))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        Ok(Sample {
            name: self.place(split, index).to_string(),
            captions: self.captions(split, index)?,
            ..Sample::default()
        })
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> std::collections::BTreeMap<String, u64> {
        self.left_out.counts()
    }
}

#[cfg(test)]
mod tests;
