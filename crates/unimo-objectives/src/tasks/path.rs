//! Weakly supervised localisation: where an agent looks on its map is pulled to the path that it should take.
//!
//! ```text
//! D_c = distance of cell c to the path, in cells
//! n_p = mean over the cells of token p of (D_max - D_c) / (D_max - D_min)
//! t   = softmax_p(n_p / temperature)
//! loss = mean over decisions of sum_p t_p (log t_p - log a_p), divided by P
//! ```
//!
//! Source: WS-MGMap (Chen et al. 2022; `aux_prediction` of its release), which takes `D_max` and `D_min` over the whole batch and the mean over
//! places. [`locate`](super::locate) has the same divergence for boxes in images.
//!
//! Shape legend: `T` decisions of all episodes, `M` cells on a side, `G` tokens on a side, `P = G * G`.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, WalkTargets, Walks, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::{ACCURACY, Outcome};
use crate::pairs::Fused;
use crate::request::{By, Request, Samples, TextForm};
use crate::tasks::locate::{INSIDE, Range, divergence, peaked};
use crate::{single_precision, weight};

/// `[objectives.path]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathConfig {
    /// Factor of the loss in the sum; 1 in WS-MGMap.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How far around the path the target reaches; 0.07 in WS-MGMap.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Whose distances give the largest and the smallest: those of the whole batch, as in WS-MGMap's release, or each decision's.
    #[serde(default = "batch", skip_serializing_if = "is_batch")]
    pub range: Range,
    /// Whether the divergence is divided by the number of tokens, as in WS-MGMap's release.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub mean: bool,
}

fn temperature() -> f64 {
    0.07
}

fn batch() -> Range {
    Range::Batch
}

fn is_batch(range: &Range) -> bool {
    *range == Range::Batch
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl Settings for PathConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "attention to the path"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::text(TextForm::Plain), Request::walks()]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("temperature", self.temperature)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let map = model.map.as_ref();
        ConfigError::of_section(
            map.is_some_and(|map| map.reads_map()),
            "needs an agent that looks at a map, [model.map] with fine = true or [model.map.semantic]",
        )
    }
}

impl ObjectiveConfig for PathConfig {
    type Objective = Path;

    fn init(&self, _init: &mut Init, model: &BackboneConfig) -> Path {
        Path {
            grid: model.map.as_ref().map_or(1, |map| map.grid()),
            config: self.clone(),
        }
    }
}

/// The attention to the path; it has no weights of its own.
#[derive(Module, Debug)]
pub struct Path {
    /// `G`.
    #[module(skip)]
    grid: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: PathConfig,
}

impl Path {
    /// The loss of a batch's attention. The accuracy is the pointing game: whether the path goes through the token that is attended to most.
    ///
    /// # Shapes
    ///
    /// - attention: `[T, P]`, rows sum to 1
    pub fn loss_of(
        &self,
        attention: Tensor<2>,
        (walks, targets): (&Walks, &WalkTargets),
    ) -> Outcome {
        let (decisions, tokens) = (walks.decisions(), self.grid * self.grid);
        assert_shape!(attention, [decisions, tokens]);
        let device = attention.device();
        if decisions == 0 {
            return Outcome::nothing(&device);
        }
        let attention = single_precision(attention);
        let on_device = |values: Vec<f32>| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, [decisions, tokens]), &device)
        };
        let size = [walks.cells, self.grid];
        let near = nearness(&targets.distances, size, self.config.range);
        let target = peaked(on_device(near), self.config.temperature);
        let each = divergence(target, attention.clone(), self.config.mean);
        let on_path = per_token(&targets.distances, size, |cells| {
            f32::from(cells.iter().any(|distance| *distance < 1.0))
        });
        let on_path = on_device(on_path);
        let fixed = attention.without_autodiff();
        let share = (fixed.clone() * on_path.clone()).sum();
        let pointed = on_path.gather(1, fixed.argmax(1));
        Outcome::new(each.mean())
            .and_metric(ACCURACY, pointed.sum(), decisions)
            .and_metric(INSIDE, share, decisions)
    }
}

impl Objective for Path {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let attention = context.encoded.walks(By::Student).attention.clone();
        let attention = attention.expect("invariant: validation finds a map");
        self.loss_of(attention, context.walks())
    }
}

/// How near each token is to the path: 1 is the nearest cell, 0 the farthest. Where all cells are as near, all are 0.
///
/// # Shapes
///
/// - distances: `[T, M, M]`, with `[M, G]`
/// - output: `[T, P]`
pub fn nearness(distances: &[f32], [cells, grid]: [usize; 2], range: Range) -> Vec<f32> {
    let extremes = |distances: &[f32]| {
        let most = distances.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
        (most, least)
    };
    let of_batch = extremes(distances);
    let maps = distances.chunks(cells * cells);
    maps.flat_map(|map| {
        let (most, least) = match range {
            Range::Batch => of_batch,
            Range::Sample => extremes(map),
        };
        let spread = (most - least).max(f32::MIN_POSITIVE);
        per_token(map, [cells, grid], |cells| {
            let sum: f64 = cells.iter().map(|d| f64::from((most - d) / spread)).sum();
            (sum / cells.len() as f64) as f32
        })
    })
    .collect()
}

/// A number of the cells of each token: `area` resizing where it is their mean, since a token is a square of whole cells.
///
/// # Shapes
///
/// - maps: `[T, M, M]`, with `[M, G]`
/// - output: `[T, P]`
pub fn per_token<V: Copy>(
    maps: &[V],
    [cells, grid]: [usize; 2],
    of: impl Fn(&[V]) -> f32,
) -> Vec<f32> {
    let side = cells / grid;
    let mut tokens = Vec::with_capacity(maps.len() / (side * side).max(1));
    let mut own = Vec::with_capacity(side * side);
    for map in maps.chunks(cells * cells) {
        for token in 0..grid * grid {
            let (row, column) = (token / grid * side, token % grid * side);
            own.clear();
            for at in row..row + side {
                own.extend_from_slice(&map[at * cells + column..][..side]);
            }
            tokens.push(of(&own));
        }
    }
    tokens
}

#[cfg(all(test, feature = "flex"))]
mod tests;
