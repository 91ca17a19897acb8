//! An endless generated corpus of houses, and of paths through them that are told in words.
//!
//! ```toml
//! [data]
//! source = "houses"
//!
//! [data.houses]
//! sides = [40, 60]
//! rooms = [4, 6]
//!
//! [data.walks]                     # the map that the agent keeps, and its decisions
//! cells = 48
//! cell = 0.25
//! reach = 10.0
//! ```
//!
//! A house has rooms with floors of different patterns, doors, and things of 12 kinds in 8 colours, on a grid of cells of 0.25 m. A sample is a path
//! from one room to a thing in another, with an instruction by templates: "leave the room by the red door, pass the blue table, stop at the green
//! chair". No two things of a house have the same kind and colour. The agent looks around once, in 24 turns of 15 degrees; then it goes the shortest
//! way, in steps of 0.25 m and turns of 15 degrees, which is the [record](crate::walks::Recorded) of the sample. Its view is cast by rays, column by
//! column of pixels, with colours and depth.
//!
//! These are no photographs, and nothing here can stand beside a number of R2R-CE. What is measured in these houses says whether a model follows
//! instructions, keeps a map and knows what it has not seen.
//!
//! Houses and paths are a pure function of seed, split and index. As in scenes, a hash of its plan decides whether a house is held out, so no held-out
//! house is in any training split of any seed. A path that is too short or too long is drawn anew; [`notes`](Source::notes) says how many were.

mod plan;
mod route;
mod simulator;
mod view;
mod words;

use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::images::Limits;
use crate::order::draws::{Stream, hash};
use crate::settings::range;
use crate::sources::houses::plan::{CLASS_COUNT, House, Sizes};
use crate::sources::houses::route::{HEADINGS, Ways, looking, walk};
pub use crate::sources::houses::simulator::{Acted, Simulator, Walked};
use crate::sources::source::{Offers, Sample, Source, SourceConfig};
use crate::sources::splits::Split;
use crate::walks::{Camera, Ground, Pose, Recorded, View, WalkOffers};

/// `[data.houses]`: paths through generated houses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HousesConfig {
    /// Selects the endless corpus; another seed gives other houses.
    pub seed: u64,
    /// Number of houses in a training epoch.
    pub train: usize,
    /// Number of held-out houses. None is in any training split of any seed.
    pub val: usize,
    /// Number of test houses: as for `val`, and none is in `val`.
    pub test: usize,
    /// Samples of each house: paths through it.
    pub paths: usize,
    /// Fewest and most cells of 0.25 m on a side of a house.
    pub sides: [usize; 2],
    /// Fewest and most rooms of a house. A small house may have fewer than are drawn for it.
    pub rooms: [usize; 2],
    /// Side of a view in pixels.
    pub size: usize,
    /// Fewest and most steps of a path, the 24 turns at its start included (25 and 200 in WS-MGMap).
    pub steps: [usize; 2],
}

impl Default for HousesConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 1024,
            val: 32,
            test: 0,
            paths: 4,
            sides: [40, 80],
            rooms: [4, 10],
            size: 64,
            steps: [25, 200],
        }
    }
}

/// Turns at the start, by which the agent looks around once.
const TURNS: usize = HEADINGS;

impl SourceConfig for HousesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        range(&key("train"), self.train, 1, 1 << 40)?;
        range(&key("val"), self.val, 0, 1 << 20)?;
        range(&key("test"), self.test, 0, 1 << 20)?;
        range(&key("paths"), self.paths, 1, 1024)?;
        range(&key("size"), self.size, 8, 512)?;
        let bounds = |name: &str, [least, most]: [usize; 2], allowed: [usize; 2]| {
            if (allowed[0]..=most).contains(&least) && most <= allowed[1] {
                return Ok(());
            }
            let [from, to] = allowed;
            let allowed = format!("two whole numbers from {from} to {to}, the smaller one first");
            Err(DataError::config(
                key(name),
                format!("{:?}", [least, most]),
                allowed,
            ))
        };
        bounds("sides", self.sides, [24, 160])?;
        bounds("rooms", self.rooms, [2, 40])?;
        // Fewer or more steps than these are never met in such a house, so that nothing would be found.
        bounds("steps", self.steps, [TURNS + 1, 4096])?;
        if self.steps[1] < TURNS + 40 {
            let allowed = format!("a longest path of {} steps or more", TURNS + 40);
            return Err(DataError::config(
                key("steps"),
                format!("{:?}", self.steps),
                allowed,
            ));
        }
        Ok(())
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let houses = Houses::new(*self);
        // Where no path fits, the search for one would not end.
        let mut dropped = Dropped::default();
        let mut tried = 0..PROBED;
        if !tried.any(|attempt| {
            houses
                .tried(Split::Train, 0, attempt, &mut dropped)
                .is_some()
        }) {
            let found = format!("{:?}", self.steps);
            let allowed = format!(
                "steps that paths have in houses of data.houses.sides = {:?} and data.houses.rooms = {:?}: of {} paths that were drawn, {} had \
                 fewer and {} more",
                self.sides,
                self.rooms,
                dropped.short + dropped.long + dropped.blocked,
                dropped.short,
                dropped.long
            );
            return Err(DataError::config("data.houses.steps", found, allowed));
        }
        Ok(Arc::new(houses))
    }

    fn without_table() -> Option<Self> {
        Some(Self::default())
    }
}

/// Paths through generated houses. See the [module](self).
#[derive(Debug)]
pub struct Houses {
    config: HousesConfig,
}

/// One house in this many is held out.
const HELD_OUT_IN: u64 = 8;

/// Houses in which a path is looked for when the source is opened.
const PROBED: u64 = 16;

/// Paths that are drawn in a house before another one is.
const TRIES: u64 = 20;

/// Paths that were drawn and not taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Dropped {
    short: usize,
    long: usize,
    /// Without a way, since a thing stands in it.
    blocked: usize,
}

/// A path through a house.
#[derive(Debug, Clone)]
struct Task {
    house: Arc<House>,
    ways: Ways,
    /// Where the agent stands after each step, first of all at the start.
    poses: Vec<Pose>,
    /// The way from the start to the goal.
    path: Vec<[f64; 2]>,
    instruction: String,
}

impl Houses {
    /// The source's name in places.
    const NAME: &'static str = "houses";

    /// The corpus of a validated configuration.
    pub fn new(config: HousesConfig) -> Self {
        Self { config }
    }

    /// The names of the classes of cells, void first.
    pub fn classes() -> Vec<&'static str> {
        plan::classes()
    }

    /// The camera of its agents, 1.25 m above the floor.
    pub fn camera(&self) -> Camera {
        Camera {
            height: self.config.size,
            width: self.config.size,
            fov: 90.0,
            lift: 1.25,
            range: 10.0,
        }
    }

    fn house(&self, split: Split, number: u64, attempt: u64) -> House {
        let parts = [self.config.seed, split as u64, number, attempt];
        let mut random = ChaCha8Rng::seed_from_u64(hash(Stream::House, &parts));
        let sizes = Sizes {
            sides: self.config.sides,
            rooms: self.config.rooms,
        };
        House::draw(sizes, &mut random)
    }

    /// Whether a house is of a split. Of those that are held out, one half is for each of the held-out splits.
    fn is_of(split: Split, house: &House) -> bool {
        let key = house.key();
        let own = match key % HELD_OUT_IN {
            0 if (key / HELD_OUT_IN).is_multiple_of(2) => Split::Val,
            0 => Split::Test,
            _ => Split::Train,
        };
        own == split
    }

    /// The path of a sample, and those that were drawn before it.
    fn task(&self, split: Split, index: usize) -> (Task, Dropped) {
        let mut dropped = Dropped::default();
        let mut attempt = 0;
        loop {
            if let Some(task) = self.tried(split, index, attempt, &mut dropped) {
                return (task, dropped);
            }
            attempt += 1;
        }
    }

    /// The path of a sample in the house of an attempt; `None` if the house is of another split, or no path is found in it.
    fn tried(
        &self,
        split: Split,
        index: usize,
        attempt: u64,
        dropped: &mut Dropped,
    ) -> Option<Task> {
        let number = (index / self.config.paths) as u64;
        let path = (index % self.config.paths) as u64;
        let house = self.house(split, number, attempt);
        if !Self::is_of(split, &house) {
            return None;
        }
        let house = Arc::new(house);
        (0..TRIES).find_map(|tried| {
            let seed = self.config.seed;
            let parts = [seed, split as u64, number, attempt + 1, path, tried];
            let mut random = ChaCha8Rng::seed_from_u64(hash(Stream::Walk, &parts));
            self.drawn(&house, &mut random, dropped)
        })
    }

    /// A path through a house; `None` if it is none to be taken.
    fn drawn(
        &self,
        house: &Arc<House>,
        random: &mut ChaCha8Rng,
        dropped: &mut Dropped,
    ) -> Option<Task> {
        if house.things.is_empty() {
            dropped.blocked += 1;
            return None;
        }
        let thing = random.random_range(0..house.things.len());
        let area = house.things[thing].area;
        let open: Vec<[i64; 2]> = (0..house.tiles.len())
            .filter(|at| house.open[*at])
            .map(|at| [(at / house.columns) as i64, (at % house.columns) as i64])
            .collect();
        let room_of = |cell: &[i64; 2]| match house.tile(cell[0], cell[1]) {
            plan::Tile::Floor(room) => Some(usize::from(room)),
            _ => None,
        };
        let away = |cell: &[i64; 2]| area.distance(House::place_of(*cell));
        let beside = open
            .iter()
            .filter(|cell| room_of(cell) == Some(house.things[thing].room));
        let nearest = beside.clone().map(away).min_by(f64::total_cmp);
        let at_goal: Vec<[i64; 2]> = beside
            .filter(|cell| nearest.is_some_and(|nearest| away(cell) < nearest + 1e-6))
            .copied()
            .collect();
        let others: Vec<[i64; 2]> = open
            .iter()
            .filter(|cell| room_of(cell).is_some_and(|room| room != house.things[thing].room))
            .copied()
            .collect();
        let goal = at_goal.choose(random).copied();
        let start = others.choose(random).copied();
        let heading = random.random_range(0..HEADINGS);
        let (Some(goal), Some(start)) = (goal, start) else {
            dropped.blocked += 1;
            return None;
        };
        let ways = Ways::to(house, goal, None);
        let start = looking(House::place_of(start), heading);
        let Some(path) = ways.path(house, start.place()) else {
            dropped.blocked += 1;
            return None;
        };
        let [least, most] = self.config.steps;
        let mut poses: Vec<Pose> = (0..TURNS)
            .map(|turn| looking(start.place(), heading + turn))
            .collect();
        poses.extend(walk(house, &ways, start, most - TURNS + 1));
        let steps = poses.len() - 1;
        if steps < least {
            dropped.short += 1;
            return None;
        }
        if steps > most {
            dropped.long += 1;
            return None;
        }
        let met = words::met(house, &path, thing);
        let instruction = words::instruction(house, &met, thing, random);
        Some(Task {
            house: Arc::clone(house),
            ways,
            poses,
            path,
            instruction,
        })
    }

    fn count(&self, split: Split) -> usize {
        match split {
            Split::Train => self.config.train,
            Split::Val => self.config.val,
            Split::Test => self.config.test,
        }
    }
}

/// The walk of a path.
struct Record {
    task: Task,
    camera: Camera,
}

impl Recorded for Record {
    fn camera(&self) -> Camera {
        self.camera
    }

    fn poses(&self) -> &[Pose] {
        &self.task.poses
    }

    fn first(&self) -> usize {
        TURNS
    }

    fn view(&self, step: usize) -> Result<View, ReadError> {
        Ok(view::seen(
            &self.task.house,
            self.task.poses[step],
            &self.camera,
        ))
    }

    fn path(&self, step: usize) -> Option<Vec<[f64; 2]>> {
        let place = self.task.poses[step].place();
        self.task.ways.path(&self.task.house, place)
    }

    fn ground(&self) -> Result<Option<Arc<Ground>>, ReadError> {
        Ok(Some(Arc::new(self.task.house.ground())))
    }

    fn class_count(&self) -> Result<usize, ReadError> {
        Ok(CLASS_COUNT)
    }

    fn scene(&self) -> String {
        format!("house-{:016x}", self.task.house.key())
    }
}

/// Training paths that are drawn for a note.
const LOOKED_AT: usize = 16;

impl Source for Houses {
    fn len(&self, split: Split) -> usize {
        self.count(split) * self.config.paths
    }

    fn describe(&self) -> String {
        let config = &self.config;
        let test = match config.test {
            0 => String::new(),
            houses => format!(", {houses} to test on"),
        };
        let [[low, high], [least, most]] = [config.sides, config.rooms];
        format!(
            "generated houses of seed {}: {} for training, {} held out{test}, {} paths in each, {low} to {high} cells on a side, {least} to {most} rooms, \
             views of {} × {} pixels",
            config.seed, config.train, config.val, config.paths, config.size, config.size
        )
    }

    fn notes(&self) -> Vec<String> {
        let looked_at = LOOKED_AT.min(self.len(Split::Train));
        let mut all = Dropped::default();
        for index in 0..looked_at {
            let (_, dropped) = self.task(Split::Train, index);
            all.short += dropped.short;
            all.long += dropped.long;
            all.blocked += dropped.blocked;
        }
        let [least, most] = self.config.steps;
        vec![format!(
            "{}: for the first {looked_at} training paths, {} were drawn and not taken: {} of less than {least} steps, {} of more than {most}, {} without a way",
            Self::NAME,
            all.short + all.long + all.blocked,
            all.short,
            all.long,
            all.blocked
        )]
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: format!("{}-{}", Self::NAME, split.name()),
            line: index as u64,
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            images: false,
            walks: Some(WalkOffers {
                view: [self.config.size; 2],
                paths: true,
                classes: CLASS_COUNT,
            }),
            ..Offers::default()
        }
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(vec![self.task(split, index).0.instruction])
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        vec![self.config.paths; self.count(split)]
    }

    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let config = &self.config;
        let number = (index / config.paths) as u64;
        let path = (index % config.paths) as u64;
        let sizes = [config.sides, config.rooms, config.steps]
            .as_flattened()
            .to_vec();
        for part in [config.seed, split as u64, number, path, config.size as u64] {
            give(&part.to_le_bytes());
        }
        for part in sizes {
            give(&(part as u64).to_le_bytes());
        }
        Ok(())
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let of = [self.config.seed, split as u64, index as u64];
        Ok(hash(Stream::Picture, &of))
    }

    fn image(&self, _split: Split, _index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(None)
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        Ok(Some(Box::new(Record {
            task: self.task(split, index).0,
            camera: self.camera(),
        })))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        Ok(Sample {
            name: self.place(split, index).to_string(),
            captions: self.captions(split, index)?,
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests;
