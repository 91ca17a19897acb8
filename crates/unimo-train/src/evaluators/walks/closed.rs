//! An agent that walks: generated houses in a closed loop.
//!
//! Shape legend: `B` episodes that are walked at the same time.

use std::f64::consts::TAU;

use unimo_batch::Walks as Decisions;
use unimo_data::sources::houses::{Houses, Simulator};
use unimo_data::walks::Ground;
use unimo_encoders::map::History;
use unimo_eval::navigation::{NavigationReport, Walked, navigation};
use unimo_objectives::burn::tensor::{Int, Tensor, TensorData};
use unimo_report::record::WalkExample;

use super::{Numbers, Walks, instructions, no_agent, shuffled};
use crate::error::TrainError;
use crate::evaluators::Weights;
use crate::interrupt;
use crate::seeds::{NO_STEP, Purpose, seed_of};

/// Whose instruction an agent is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Its own.
    Own,
    /// That of another episode.
    Others,
}

/// What came of walking.
pub(super) struct Ended {
    report: NavigationReport,
    /// Episodes that an agent left its map in.
    pub unusable: usize,
    /// Some of them, to be drawn.
    pub examples: Vec<WalkExample>,
}

/// What agents without a model reach.
pub(super) struct Baselines {
    random: NavigationReport,
    expert: NavigationReport,
}

/// Decisions of an expert's episode, for a random agent that makes as many.
const LEAST: usize = 2;

impl Walks {
    /// Simulators of the first held-out episodes.
    fn simulators(&self, houses: &Houses, walked: usize) -> Result<Vec<Simulator>, TrainError> {
        (0..walked)
            .map(|index| {
                Simulator::new(houses, self.split, index, &self.map).map_err(|reason| {
                    TrainError::Check(format!("eval.walks: episode {index}: {reason}"))
                })
            })
            .collect()
    }

    /// A random agent that makes as many decisions as an expert, and the expert.
    pub(super) fn baselines(
        &self,
        houses: &Houses,
        walked: usize,
    ) -> Result<Baselines, TrainError> {
        let mut decisions = Vec::with_capacity(walked);
        let mut expert = Vec::with_capacity(walked);
        for mut simulator in self.simulators(houses, walked)? {
            interrupt::check()?;
            let mut stopped = false;
            for _ in 0..MOST {
                let Some(targets) = &simulator.walks().targets else {
                    break;
                };
                let (Some(progress), Some(waypoint)) =
                    (targets.progress.last(), targets.waypoints.last())
                else {
                    break;
                };
                stopped = f64::from(*progress) > self.config.stop;
                if stopped || simulator.act(*waypoint).is_err() {
                    break;
                }
            }
            decisions.push(simulator.walks().decisions().max(LEAST));
            expert.push(ended(simulator, stopped));
        }
        let reach = self.map.reach / (self.map.cells as f64 / 2.0);
        let mut random = Vec::with_capacity(walked);
        let each = self.simulators(houses, walked)?.into_iter();
        for (index, (mut simulator, decisions)) in each.zip(decisions).enumerate() {
            interrupt::check()?;
            let seed = seed_of(self.seed, NO_STEP, index, Purpose::Walks);
            for decision in 1..decisions {
                let drawn = seed_of(seed, NO_STEP, decision, Purpose::Walks);
                let angle = drawn as f64 / u64::MAX as f64 * TAU;
                let waypoint = [reach * angle.sin(), reach * angle.cos()];
                if simulator.act(waypoint.map(|share| share as f32)).is_err() {
                    break;
                }
            }
            random.push(ended(simulator, true));
        }
        Ok(Baselines {
            random: navigation(&random)?,
            expert: navigation(&expert)?,
        })
    }

    /// Lets an agent walk.
    pub(super) fn walk(
        &self,
        weights: &Weights<'_>,
        (houses, walked): (&Houses, usize),
        told: Told,
    ) -> Result<Ended, TrainError> {
        let mut paths = Vec::with_capacity(walked);
        let mut unusable = 0;
        let mut examples = Vec::new();
        let all = self.simulators(houses, walked)?;
        let texts: Vec<String> = all
            .iter()
            .map(|simulator| simulator.instruction().to_owned())
            .collect();
        let said = match told {
            Told::Own => texts.clone(),
            Told::Others => shuffled(&texts),
        };
        let size = self.config.batch_size.max(1);
        let mut left = all.into_iter().enumerate();
        loop {
            let part: Vec<(usize, Simulator)> = left.by_ref().take(size).collect();
            let Some((first, _)) = part.first() else {
                break;
            };
            let said = &said[*first..*first + part.len()];
            for (index, simulator, end) in self.walk_together(weights, part, said)? {
                unusable += usize::from(end == End::Lost);
                let path = ended(simulator, end == End::Stopped);
                if examples.len() < self.config.examples && told == Told::Own {
                    examples.extend(self.example(&texts[index], index, &path));
                }
                paths.push(path);
            }
        }
        Ok(Ended {
            report: navigation(&paths)?,
            unusable,
            examples,
        })
    }

    /// Lets agents walk until all have ended, those that still walk deciding at the same time.
    fn walk_together(
        &self,
        weights: &Weights<'_>,
        mut walking: Vec<(usize, Simulator)>,
        said: &[String],
    ) -> Result<Vec<(usize, Simulator, End)>, TrainError> {
        let (heads, backbone) = (&weights.model.objectives, &weights.model.backbone);
        let map = backbone.map.as_ref().ok_or_else(no_agent)?;
        let most = map.config.steps;
        let texts = instructions(said, weights.tokenizer, weights.recipe.data.max_text_length);
        let mut texts = heads.read_instructions(backbone, &texts, weights.device);
        let mut history = History::default();
        let mut ended = Vec::with_capacity(walking.len());
        while !walking.is_empty() {
            interrupt::check()?;
            let now: Vec<Decisions> = walking
                .iter()
                .map(|(_, simulator)| last_of(simulator.walks()))
                .collect();
            let now = unimo_data::walks::joined(&now);
            let now = now.map_err(|reason| TrainError::Check(format!("eval.walks: {reason}")))?;
            let last = history.steps() + 1 == most;
            let decided = heads.decide(backbone, &texts, (&now, &mut history), weights.device);
            let decided = decided.ok_or_else(no_agent)?;
            let mut still = Vec::new();
            let mut kept = Vec::new();
            for (row, (index, mut simulator)) in walking.into_iter().enumerate() {
                let end = if f64::from(decided.progress[row]) > self.config.stop {
                    End::Stopped
                } else if last {
                    End::OutOfSteps
                } else if simulator.act(decided.waypoints[row]).is_err() {
                    End::Lost
                } else {
                    kept.push(row as i32);
                    still.push((index, simulator));
                    continue;
                };
                ended.push((index, simulator, end));
            }
            walking = still;
            if !walking.is_empty() && kept.len() < now.steps.len() {
                let count = kept.len();
                let rows: Tensor<1, Int> =
                    Tensor::from_data(TensorData::new(kept, [count]), weights.device);
                texts = texts.select(&rows);
                history.select(&rows);
            }
        }
        ended.sort_by_key(|(index, ..)| *index);
        Ok(ended)
    }

    /// An episode on the ground of its house; `None` if the ground is not known.
    fn example(&self, instruction: &str, index: usize, path: &Walked) -> Option<WalkExample> {
        let recorded = self.source.walk(self.split, index).ok()??;
        let ground = recorded.ground().ok()??;
        let places = |places: &[[f64; 2]]| places.iter().map(|at| cell_of(&ground, *at)).collect();
        Some(WalkExample {
            instruction: instruction.to_owned(),
            classes: ground
                .classes
                .chunks(ground.columns.max(1))
                .map(<[u8]>::to_vec)
                .collect(),
            path: places(&path.reference),
            walked: places(&path.places),
            metres: path.to_goal.last().copied().unwrap_or(f64::NAN),
            stopped: path.stopped,
        })
    }
}

/// How an episode ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The agent stopped.
    Stopped,
    /// It made as many decisions as it may.
    OutOfSteps,
    /// It left its map.
    Lost,
}

/// Decisions of an expert at most: it is always on its way.
const MOST: usize = 1000;

/// Column and row of a place on the ground.
fn cell_of(ground: &Ground, [x, y]: [f64; 2]) -> [f64; 2] {
    [
        (x - ground.corner[0]) / ground.cell,
        (ground.corner[1] - y) / ground.cell,
    ]
}

/// The last decision of an episode, as the only one.
fn last_of(walks: &Decisions) -> Decisions {
    let before = walks.decisions() - 1;
    let of = |values: &[u8], size: usize| values[before * size..].to_vec();
    let cells = walks.cells * walks.cells;
    Decisions {
        steps: vec![1],
        cells: walks.cells,
        channels: walks.channels,
        maps: of(&walks.maps, walks.channels * cells),
        views: of(&walks.views, 4 * walks.height * walks.width),
        height: walks.height,
        width: walks.width,
        seen: of(&walks.seen, cells),
        targets: None,
    }
}

/// What is judged of an episode. From where no way leads to the goal, the straight line is the distance, which no way is shorter than.
fn ended(simulator: Simulator, stopped: bool) -> Walked {
    let walked = simulator.stop();
    let goal = walked.goal;
    let to_goal = walked
        .places
        .iter()
        .zip(&walked.to_goal)
        .map(|(at, metres)| {
            if metres.is_finite() {
                *metres
            } else {
                (at[0] - goal[0]).hypot(at[1] - goal[1])
            }
        });
    Walked {
        to_goal: to_goal.collect(),
        shortest: unimo_data::walks::length(&walked.reference),
        places: walked.places,
        reference: walked.reference,
        stopped,
    }
}

impl Baselines {
    /// Adds the numbers of an agent, beside those of a random one and of an expert.
    pub(super) fn add_to(
        &self,
        numbers: &mut Numbers,
        own: &Ended,
        other: &Ended,
    ) -> Result<(), TrainError> {
        let of = |report: &NavigationReport| {
            let mean = report.mean;
            [
                ("success", mean.success),
                ("oracle_success", mean.oracle_success),
                ("spl", mean.spl),
                ("ndtw", mean.ndtw),
                ("goal_error", mean.error),
            ]
        };
        for ((name, value), (_, chance)) in of(&own.report).into_iter().zip(of(&self.random)) {
            numbers.add(name, Some(value), Some(chance));
        }
        for (name, value) in of(&other.report) {
            numbers.add(&format!("shuffled_{name}"), Some(value), None);
        }
        for (name, value) in of(&self.expert) {
            if matches!(name, "success" | "spl") {
                numbers.add(&format!("expert_{name}"), Some(value), None);
            }
        }
        Ok(())
    }
}
