//! What an agent decides of recorded episodes.
//!
//! Shape legend: `T` decisions, `M` cells on a side of the map, `N` of the semantic layer, `P` tokens, `K` classes.

use unimo_batch::Walks as Decisions;
use unimo_encoders::map::{MapConfig, nearest};
use unimo_eval::navigation::{ClassOverlap, mass_near, mean_absolute_error, waypoint_error};
use unimo_objectives::tasks::path::per_token;
use unimo_objectives::walks::Decisions as Decided;

use super::{Numbers, Walks, instructions, no_agent, shuffled};
use crate::error::TrainError;
use crate::evaluators::Weights;
use crate::interrupt;
use crate::model::host;

/// What is added up over batches.
#[derive(Default)]
struct Sums {
    waypoints: Vec<[f32; 2]>,
    shuffled: Vec<[f32; 2]>,
    right: Vec<[f32; 2]>,
    progress: Vec<f32>,
    right_progress: Vec<f32>,
    /// Shares of the attention near the path, the model's and that to all places alike.
    near: Vec<[f64; 2]>,
    seen: Option<[ClassOverlap; 2]>,
}

impl Walks {
    /// Judges the recorded episodes; how many could not be used.
    pub(super) fn judge_recorded(
        &self,
        weights: &Weights<'_>,
        numbers: &mut Numbers,
    ) -> Result<usize, TrainError> {
        let model = weights.model;
        let map = model.backbone.map.as_ref().ok_or_else(no_agent)?;
        let config = &map.config;
        let mut sums = Sums::default();
        let mut unusable = 0;
        let all: Vec<usize> = (0..self.episodes).collect();
        for part in all.chunks(self.config.batch_size.max(1)) {
            interrupt::check()?;
            let mut texts = Vec::new();
            let mut walks = Vec::new();
            for index in part {
                match self.read(*index) {
                    Ok((text, walk)) => {
                        texts.push(text);
                        walks.push(walk);
                    }
                    Err(_) => unusable += 1,
                }
            }
            if walks.is_empty() {
                continue;
            }
            let joined = unimo_data::walks::joined(&walks);
            let walks =
                joined.map_err(|reason| TrainError::Check(format!("eval.walks: {reason}")))?;
            let follow = |texts: &[String]| {
                let longest = weights.recipe.data.max_text_length;
                let texts = instructions(texts, weights.tokenizer, longest);
                let (heads, backbone) = (&model.objectives, &model.backbone);
                let texts = heads.read_instructions(backbone, &texts, weights.device);
                heads.follow(backbone, &texts, &walks, weights.device)
            };
            let decided = follow(&texts).ok_or_else(no_agent)?;
            let others = follow(&shuffled(&texts)).ok_or_else(no_agent)?;
            sums.shuffled.extend(others.waypoints);
            sums.add(decided, &walks, config, self.config.radius);
        }
        sums.tell(config, numbers);
        Ok(unusable)
    }

    /// The instruction and the decisions of an episode.
    fn read(&self, index: usize) -> Result<(String, Decisions), String> {
        let source = &self.source;
        let texts = source.captions(self.split, index);
        let text = texts.map_err(|error| error.to_string())?.into_iter().next();
        let recorded = source.walk(self.split, index);
        let recorded = recorded.map_err(|error| error.to_string())?;
        let (Some(text), Some(recorded)) = (text, recorded) else {
            return Err("it is no episode".to_owned());
        };
        let made = unimo_data::walks::made(&*recorded, &self.map);
        Ok((text, made.map_err(|error| error.to_string())?))
    }
}

impl Sums {
    fn add(&mut self, decided: Decided, walks: &Decisions, config: &MapConfig, radius: f32) {
        let Some(targets) = &walks.targets else {
            return;
        };
        self.waypoints.extend(decided.waypoints);
        self.right.extend(&targets.waypoints);
        self.progress.extend(decided.progress);
        self.right_progress.extend(&targets.progress);
        let grid = config.grid();
        if let Some(attention) = decided.attention {
            let distances = per_token(&targets.distances, [walks.cells, grid], |cells| {
                cells.iter().copied().fold(f32::INFINITY, f32::min)
            });
            let even = vec![1.0; grid * grid];
            let attention = host(attention);
            let rows = attention.chunks(grid * grid);
            for (own, distances) in rows.zip(distances.chunks(grid * grid)) {
                let near = mass_near(own, distances, radius);
                let alike = mass_near(&even, distances, radius);
                self.near
                    .extend(near.zip(alike).map(|(own, even)| [own, even]));
            }
        }
        if let (Some(logits), Some(semantic)) = (decided.semantic, &config.semantic)
            && targets.class_count == semantic.classes
        {
            let found = logits.argmax(2).into_data();
            let found: Vec<u8> = found.iter::<i64>().map(|class| class as u8).collect();
            let right = nearest(&targets.classes, walks.cells, semantic.cells);
            let seen = nearest(&walks.seen, walks.cells, semantic.cells);
            let overlaps = self
                .seen
                .get_or_insert_with(|| [0, 1].map(|_| ClassOverlap::new(semantic.classes)));
            let mut cells = [0, 1].map(|_| (Vec::new(), Vec::new()));
            for ((found, right), seen) in found.into_iter().zip(right).zip(seen) {
                let of = &mut cells[usize::from(seen > 0)];
                of.0.push(found);
                of.1.push(right);
            }
            for (overlap, (found, right)) in overlaps.iter_mut().zip(&cells) {
                overlap.add(found, right);
            }
        }
    }

    fn tell(&self, config: &MapConfig, numbers: &mut Numbers) {
        let half = config.cells as f64 / 2.0;
        let error = |found: &[[f32; 2]]| {
            let pairs = found.iter().zip(&self.right);
            mean(pairs.map(|(found, right)| waypoint_error(*found, *right, half)))
        };
        let of = |axis: usize| mean(self.right.iter().map(|at| f64::from(at[axis])));
        let middle = of(0).zip(of(1)).map(|(x, y)| [x as f32, y as f32]);
        let chance = middle.and_then(|middle| error(&vec![middle; self.right.len()]));
        numbers.add("waypoint_error", error(&self.waypoints), chance);
        numbers.add("shuffled_waypoint_error", error(&self.shuffled), chance);
        let progress = mean_absolute_error(&self.progress, &self.right_progress);
        let usual = mean(self.right_progress.iter().map(|p| f64::from(*p)));
        let chance = usual.and_then(|usual| {
            let usual = vec![usual as f32; self.right_progress.len()];
            mean_absolute_error(&usual, &self.right_progress)
        });
        numbers.add("progress_error", progress, chance);
        let near = |at: usize| mean(self.near.iter().map(|near| near[at]));
        numbers.add("near_path", near(0), near(1));
        if let Some([unseen, seen]) = &self.seen {
            for (name, overlap) in [("iou_seen", seen), ("iou_unseen", unseen)] {
                numbers.add(name, overlap.mean_iou(), overlap.majority_iou());
            }
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    (count > 0).then(|| sum / count as f64)
}
