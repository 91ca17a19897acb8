//! The decisions of a batch, made step by step.
//!
//! Shape legend: `T` decisions, `C` channels of a cell, `M` cells on a side of a map, `H x W` pixels of a view.

use std::sync::Arc;

use unimo_batch::{WalkTargets, Walks};

use crate::error::ReadError;
use crate::walks::config::WalkConfig;
use crate::walks::expert::{self, Ground, length};
use crate::walks::features::FEATURES;
use crate::walks::memory::MapMemory;
use crate::walks::pose::Pose;
use crate::walks::project::{Camera, View};
use crate::walks::recorded::Recorded;

/// An episode that is being walked: what the agent knows, and its decisions so far.
#[derive(Debug, Clone)]
pub struct Rows {
    config: WalkConfig,
    camera: Camera,
    memory: MapMemory,
    ground: Option<Arc<Ground>>,
    /// Metres from the start to the goal; `None`: the path is unknown.
    whole: Option<f64>,
    walks: Walks,
}

impl Rows {
    /// An episode that begins at a place. `path` leads from there to the goal; without it, decisions have no targets.
    pub fn new(
        config: &WalkConfig,
        camera: Camera,
        start: Pose,
        path: Option<&[[f64; 2]]>,
        ground: (Option<Arc<Ground>>, usize),
    ) -> Self {
        let (ground, class_count) = ground;
        Self {
            config: *config,
            camera,
            memory: MapMemory::of_views(config, start.place()),
            ground,
            whole: path.map(length),
            walks: Walks {
                steps: vec![0],
                cells: config.cells,
                channels: FEATURES,
                height: camera.height,
                width: camera.width,
                targets: path.map(|_| WalkTargets {
                    class_count,
                    ..WalkTargets::default()
                }),
                ..Walks::default()
            },
        }
    }

    /// Puts what the agent sees into its map.
    ///
    /// # Errors
    ///
    /// It stands outside the map, or its place is no place.
    pub fn see(&mut self, pose: Pose, view: &View) -> Result<(), String> {
        if !pose.is_finite() {
            return Err(format!(
                "the agent stands at {}, {} with heading {}, which are no numbers",
                pose.x, pose.y, pose.heading
            ));
        }
        if !self.memory.holds(pose.place()) {
            let half = self.config.world as f64 * self.config.cell / 2.0;
            return Err(format!(
                "the path leaves the map: the agent stands at {:.2}, {:.2}, more than {half:.2} m from its start (data.walks.world × \
                 data.walks.cell / 2)",
                pose.x, pose.y
            ));
        }
        self.memory.see(pose, view, &self.camera);
        Ok(())
    }

    /// Adds a decision, of an agent that stands and sees this. `path` leads from there to the goal, for an episode whose path is known.
    pub fn decide(&mut self, pose: Pose, view: &View, path: Option<&[[f64; 2]]>) {
        let walks = &mut self.walks;
        walks.steps[0] += 1;
        let around = self.memory.around(pose);
        let cells = self.config.cells * self.config.cells;
        let level = |value: f32| value.round().clamp(0.0, 255.0) as u8;
        for feature in 0..FEATURES {
            let plane = around.values.iter().skip(feature).step_by(FEATURES);
            walks.maps.extend(plane.map(|value| level(*value)));
        }
        let last = &walks.maps[walks.maps.len() - cells * FEATURES..];
        let seen = (0..cells).map(|cell| {
            let mut levels = (0..FEATURES).map(|feature| last[feature * cells + cell]);
            u8::from(levels.any(|level| level > 0))
        });
        walks.seen.extend(seen);
        for channel in 0..3 {
            walks.views.extend(view.rgb.iter().skip(channel).step_by(3));
        }
        let range = self.camera.range;
        let depth = view.depth.iter().map(|metres| {
            let metres = f64::from(*metres);
            if metres > 0.0 && metres <= range {
                // What is very near is not unknown.
                (metres / range * 255.0).round().clamp(1.0, 255.0) as u8
            } else {
                0
            }
        });
        walks.views.extend(depth);
        if let (Some(targets), Some(whole)) = (&mut walks.targets, self.whole) {
            let path = path.unwrap_or_default();
            let progress = if whole > 0.0 {
                1.0 - length(path) / whole
            } else {
                1.0
            };
            targets.progress.push(progress as f32);
            let config = &self.config;
            targets.waypoints.push(expert::waypoint(path, pose, config));
            targets
                .distances
                .extend(expert::distances(path, pose, config));
            match &self.ground {
                Some(ground) => targets
                    .classes
                    .extend(expert::classes(ground, pose, config)),
                None => targets.classes.extend(std::iter::repeat_n(0, cells)),
            }
        }
    }

    /// The episode so far: one sample.
    pub fn walks(&self) -> &Walks {
        &self.walks
    }

    /// The episode as the only sample of a batch.
    pub fn into_walks(self) -> Walks {
        self.walks
    }
}

/// The decisions of a recorded episode: the first, every [`WalkConfig::every`]-th after it, and the last step, at which the agent stops.
///
/// # Errors
///
/// A view cannot be read, the episode leaves the map, or it has no steps.
pub fn made(recorded: &dyn Recorded, config: &WalkConfig) -> Result<Walks, ReadError> {
    let (poses, first) = (recorded.poses(), recorded.first());
    let Some(last) = poses.len().checked_sub(1).filter(|last| first <= *last) else {
        return Err(format!(
            "an episode of {} steps, of which the agent looks around for {first}: there is nothing to decide",
            poses.len()
        )
        .into());
    };
    let path = recorded.path(0);
    let ground = (recorded.ground()?, recorded.class_count()?);
    let mut rows = Rows::new(config, recorded.camera(), poses[0], path.as_deref(), ground);
    for (step, pose) in poses.iter().enumerate() {
        let view = recorded.view(step)?;
        rows.see(*pose, &view)
            .map_err(|reason| ReadError::from(format!("step {step}: {reason}")))?;
        let decides = step == last || step >= first && (step - first).is_multiple_of(config.every);
        if decides {
            rows.decide(*pose, &view, recorded.path(step).as_deref());
        }
    }
    Ok(rows.into_walks())
}

/// Several batches as one.
///
/// # Errors
///
/// They have other maps, views or classes, or only some have targets.
pub fn joined(all: &[Walks]) -> Result<Walks, String> {
    let Some((first, others)) = all.split_first() else {
        return Ok(Walks::default());
    };
    let shape = |walks: &Walks| {
        let targets = walks.targets.as_ref().map(|targets| targets.class_count);
        (
            walks.cells,
            walks.channels,
            walks.height,
            walks.width,
            targets,
        )
    };
    let mut whole = first.clone();
    for other in others {
        if shape(first) != shape(other) {
            return Err(format!(
                "episodes with maps of {} cells, views of {} × {} pixels and {} classes, and others of {}, {} × {} and {}: a batch has those of one \
                 kind",
                first.cells,
                first.height,
                first.width,
                told(first),
                other.cells,
                other.height,
                other.width,
                told(other)
            ));
        }
        whole.steps.extend(&other.steps);
        whole.maps.extend(&other.maps);
        whole.views.extend(&other.views);
        whole.seen.extend(&other.seen);
        if let (Some(whole), Some(other)) = (&mut whole.targets, &other.targets) {
            whole.waypoints.extend(&other.waypoints);
            whole.progress.extend(&other.progress);
            whole.distances.extend(&other.distances);
            whole.classes.extend(&other.classes);
        }
    }
    Ok(whole)
}

fn told(walks: &Walks) -> String {
    let targets = walks.targets.as_ref();
    targets.map_or("unknown".to_owned(), |targets| {
        targets.class_count.to_string()
    })
}
