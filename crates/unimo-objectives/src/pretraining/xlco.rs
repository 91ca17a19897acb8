//! Cross-lingual contrast: a text is nearer to its translation, as the teacher reads it, than to texts of past batches.
//!
//! Source: InfoXLM (Chi et al. 2021) and its release. The feature of a text is the state of its class token after one of the lower layers,
//! through a linear layer without a bias:
//!
//! ```text
//! q = W h(text)      k = W' h'(translation)      L = -log exp(q k / t) / (exp(q k / t) + sum_n exp(q n / t))
//! ```
//!
//! `h'` and `W'` are moving averages, `n` goes over a queue of keys of past steps, and `t` is fixed. As there, features are not scaled to
//! length 1, other texts of the batch are no negatives, and the loss has one direction; which language is the text is drawn. Texts may be
//! mixed up ([`SidesSpec`]). Until the queue holds keys alone there is no loss (`fill_first`).
//!
//! Ours: the queue takes up the keys of a step after it, not after each micro-batch. It begins with random directions of the length that
//! the release's random numbers have on average.
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `Q` length of the queue.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, MaskSpec, SidesSpec, config};
use unimo_core::average;
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::Linear;
use unimo_core::parameters;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::features::Features;
use crate::labels::{count_correct, ints};
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::{Carry, Outcome};
use crate::pairs::Fused;
use crate::pretraining::itc::{self, Projection};
use crate::pretraining::mlm::check_mask;
use crate::queue::Queue;
use crate::request::{By, Request, Samples, Side, TextForm};
use crate::{is_default, weight};

/// Name of the share of the queue that holds keys, while it is filled.
pub const FILLED: &str = "filled";

/// `[objectives.xlco]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XlcoConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// The layer of the text encoder whose class token is compared, counted from 1; the eighth of twelve in InfoXLM.
    pub layer: usize,
    /// Similarities are divided by it.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// The layer between a class token and its feature.
    #[serde(default = "projection")]
    pub projection: Projection,
    /// Whether features are scaled to length 1, which those of InfoXLM are not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalised: bool,
    /// `Q`: number of keys that are kept, 131,072 in InfoXLM.
    pub queue: usize,
    /// Whether there is no loss until the queue holds keys alone, instead of random directions.
    #[serde(default = "fill_first")]
    pub fill_first: bool,
    /// How the losses of a batch's texts become one number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reduction: Reduction,
    /// Whether a text is joined with another one of the batch, and its translation with that one's, each in any order.
    #[serde(default = "mixup")]
    pub mixup: bool,
    /// How words of both sides are hidden, not to be predicted; absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSpec>,
}

fn temperature() -> f64 {
    0.25
}

fn projection() -> Projection {
    Projection::LinearNoBias
}

fn fill_first() -> bool {
    true
}

fn mixup() -> bool {
    true
}

/// How the losses of a batch's texts become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their mean, as of every other loss.
    #[default]
    Mean,
    /// Their sum, as in the release, which then divides the sum of all losses by the number of all predictions.
    Sum,
}

impl XlcoConfig {
    fn sides(&self) -> SidesSpec {
        SidesSpec {
            mixup: self.mixup,
            mask: self.mask,
        }
    }
}

impl Settings for XlcoConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "cross-lingual contrast"
    }

    fn requests(&self) -> Vec<Request> {
        let side = |side| Request::text(TextForm::Side(self.sides(), side)).at(self.layer);
        vec![side(Side::Query), side(Side::Key).by_teacher()]
    }

    fn samples(&self) -> Samples {
        Samples {
            least: if self.mixup { 2 } else { 1 },
            ..Samples::EACH
        }
    }

    fn queue(&self) -> Option<(&'static str, usize)> {
        Some(("queue", self.queue))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("temperature", self.temperature)?;
        config::positive("queue", self.queue)?;
        ConfigError::unless(
            self.queue <= itc::LONGEST_QUEUE,
            "queue",
            self.queue,
            format_args!("must be at most {}", itc::LONGEST_QUEUE),
        )?;
        self.mask.as_ref().map_or(Ok(()), check_mask)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let layers = model.text.layers;
        ConfigError::unless(
            (1..=layers).contains(&self.layer),
            "layer",
            self.layer,
            format_args!("must be 1 to model.text.layers = {layers}"),
        )
    }
}

impl ObjectiveConfig for XlcoConfig {
    type Objective = Xlco;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Xlco {
        let width = model.text.width;
        let projection = match self.projection {
            Projection::None => None,
            kind => {
                let bias = kind == Projection::Linear;
                Some(Linear::new(init, width, width, bias))
            }
        };
        let length = if self.normalised {
            1.0
        } else {
            (width as f64).sqrt()
        };
        Xlco {
            slow: average::frozen_copy(&projection),
            projection,
            queue: Queue::new(init, &[KEYS], self.queue, width).scaled(length),
            filled: self.fill_first.then(|| {
                let none = init.constant([1], 0.0).val().detach();
                Param::from_tensor(none).set_require_grad(false)
            }),
            is_full: !self.fill_first,
            config: self.clone(),
        }
    }
}

/// Name of the features in the queue.
const KEYS: &str = "keys";

/// The head of cross-lingual contrast.
#[derive(Module, Debug)]
pub struct Xlco {
    /// `D -> D`, from a class token to its feature.
    pub projection: Option<Linear>,
    /// The teacher's copy of it, which follows it as the teacher follows the encoders.
    pub slow: Option<Linear>,
    /// The keys of past steps.
    pub queue: Queue,
    /// `[1]`: how many rows of the queue hold keys, exact up to 2^24; `None` if random directions are negatives too.
    pub filled: Option<Param<Tensor<1>>>,
    /// Whether the queue is known to hold keys alone, so that no step waits for the device to tell.
    is_full: bool,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: XlcoConfig,
}

impl Xlco {
    /// The features of one side of a batch.
    ///
    /// # Shapes
    ///
    /// - output: `[B, D]`
    fn features(&self, context: &Context<'_>, by: By, side: Side) -> Tensor<2> {
        let texts = context.encoded.texts(by, &side.kind());
        let states = texts.and_then(|mut texts| texts.layers.remove(&self.config.layer));
        let states = states.expect("invariant: the step gives what was requested");
        assert_shape!(states, [context.encoded.samples, _, _]);
        let class = states.narrow(1, 0, 1).squeeze_dim::<2>(1);
        let projection = match by {
            By::Student => &self.projection,
            By::Teacher => &self.slow,
        };
        itc::embed(projection.as_ref(), class, self.config.normalised)
    }

    /// How many rows of the queue hold keys; `None` if that does not matter, or no longer.
    fn filling(&self) -> Option<usize> {
        let filled = self.filled.as_ref().filter(|_| !self.is_full)?;
        let filled = filled.val().into_scalar::<f32>() as usize;
        (filled < self.queue.length()).then_some(filled)
    }

    /// The loss of queries, each with its own key.
    ///
    /// # Shapes
    ///
    /// - query, key: `[B, D]`
    fn contrasted(&self, query: Tensor<2>, key: Tensor<2>) -> Outcome {
        let [rows, width] = query.dims();
        assert_shape!(key, [rows, width]);
        let own = (query.clone() * key).sum_dim(1);
        let others = query.matmul(self.queue.of(KEYS).transpose());
        let scores = Tensor::cat(vec![own, others], 1).div_scalar(self.config.temperature);
        let labels = ints(vec![0; rows], &scores.device());
        let correct = count_correct(scores.clone(), labels.clone());
        let losses = kernels::cross_entropy(scores, labels);
        let loss = match self.config.reduction {
            Reduction::Mean => losses.mean(),
            Reduction::Sum => losses.sum(),
        };
        Outcome::with_accuracy(loss, correct, rows)
    }
}

impl Objective for Xlco {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let key = self.features(context, By::Teacher, Side::Key).detach();
        let mut outcome = match self.filling() {
            Some(filled) => {
                let share = filled as f32 / self.queue.length() as f32;
                let share = Tensor::from_data([share], context.device);
                Outcome::nothing(context.device).and_metric(FILLED, share, 1)
            }
            None => {
                let query = self.features(context, By::Student, Side::Query);
                self.contrasted(query, key.clone())
            }
        };
        outcome.carry = Some(Carry {
            pictures: vec![None; context.encoded.samples],
            features: Features::new(vec![(KEYS, key)]),
        });
        outcome
    }

    fn adopt(&mut self) {
        self.slow = average::frozen_copy(&self.projection);
    }

    fn after_step(&mut self, after: &AfterStep) {
        if let Some(decay) = after.decay {
            self.slow = average::update(self.slow.take(), &self.projection, decay);
        }
        let mut keys = 0;
        for carry in &after.carries {
            self.queue.push(carry);
            keys += carry.pictures.len();
        }
        if self.is_full {
            return;
        }
        let length = self.queue.length();
        let Some(filled) = self.filling() else {
            self.is_full = true;
            return;
        };
        let filled = (filled + keys).min(length);
        self.is_full = filled == length;
        let counted = |old: Tensor<1>| old.zeros_like() + filled as f32;
        let param = self.filled.take();
        self.filled = param.map(|param| parameters::update(param, counted));
    }
}
