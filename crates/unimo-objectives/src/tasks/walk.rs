//! Imitation of an agent that follows an instruction: where to go next, and how much of the path lies behind.
//!
//! ```text
//! p = tanh(W x)        [2]: to the right and ahead, 1 is half of the map's side
//! r = tanh(w x)        the share of the path that lies behind
//! loss = mean over episodes of the mean over their decisions of |p - p*|^2
//!      + progress · mean over all decisions of (r - r*)^2
//! ```
//!
//! Source: WS-MGMap (Chen et al. 2022; `_update_agent` and `aux_prediction` of its release). Its weights of decisions are all 1.
//!
//! Shape legend: `B` episodes, `T` decisions of all episodes, `D` width.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, WalkTargets, Walks, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, Request, Samples, TextForm};
use crate::{NEEDS_MAP, single_precision, weight};

/// Name of the mean distance of way-points to where the path goes on, in cells of the map.
pub const WAYPOINT: &str = "waypoint_error";

/// Name of the mean absolute error of the progress.
pub const PROGRESS: &str = "progress_error";

/// `[objectives.walk]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Factor of the progress beside the way-point; 1 in WS-MGMap.
    #[serde(default = "weight")]
    pub progress: f64,
}

impl Settings for WalkConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "way-points and progress"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::text(TextForm::Plain), Request::walks()]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("progress", self.progress)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(model.map.is_some(), NEEDS_MAP)
    }
}

impl ObjectiveConfig for WalkConfig {
    type Objective = Walk;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Walk {
        let width = model.map.as_ref().map_or(1, |map| map.width);
        Walk {
            waypoint: Linear::new(init, width, 2, true),
            progress: Linear::new(init, width, 1, true),
            config: self.clone(),
        }
    }
}

/// The heads of an agent.
#[derive(Module, Debug)]
pub struct Walk {
    /// `D -> 2`.
    pub waypoint: Linear,
    /// `D -> 1`.
    pub progress: Linear,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: WalkConfig,
}

impl Walk {
    /// Way-points and progress, from -1 to 1.
    ///
    /// # Shapes
    ///
    /// - states: `[T, D]`
    /// - output: `[T, 2]` and `[T, 1]`, in f32
    pub fn forward(&self, states: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let waypoints = self.waypoint.forward(states.clone());
        let progress = self.progress.forward(states);
        (
            single_precision(waypoints).tanh(),
            single_precision(progress).tanh(),
        )
    }

    /// The loss of a batch's decisions.
    ///
    /// # Shapes
    ///
    /// - states: `[T, D]`
    pub fn loss_of(
        &self,
        states: Tensor<2>,
        (walks, targets): (&Walks, &WalkTargets),
        device: &Device,
    ) -> Outcome {
        let count = walks.decisions();
        assert_shape!(states, [count, _]);
        let (waypoints, progress) = self.forward(states);
        let all = targets.waypoints.concat();
        let apart = waypoints - column(all, [count, 2], device);
        let squares = apart.square().sum_dim(1);
        // Each episode counts as much, however long it is.
        let episodes = walks.steps.iter().filter(|steps| **steps > 0).count();
        let shares = walks.steps.iter().flat_map(|&steps| {
            let share = 1.0 / (episodes * steps.max(1)) as f32;
            std::iter::repeat_n(share, steps)
        });
        let shares = column(shares.collect(), [count, 1], device);
        let distances = squares.clone().without_autodiff().sqrt().sum();
        let cells = distances.mul_scalar(walks.cells as f64 / 2.0);
        let behind = progress - column(targets.progress.clone(), [count, 1], device);
        let off = behind.clone().without_autodiff().abs().sum();
        let of_progress = behind.square().mean().mul_scalar(self.config.progress);
        Outcome::new((squares * shares).sum() + of_progress)
            .and_metric(WAYPOINT, cells, count)
            .and_metric(PROGRESS, off, count)
    }
}

fn column(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

impl Objective for Walk {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let states = context.encoded.walks(By::Student).states.clone();
        self.loss_of(states, context.walks(), context.device)
    }
}
