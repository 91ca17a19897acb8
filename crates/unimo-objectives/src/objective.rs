//! The traits of an objective.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::ObjectivesConfig;
use crate::context::Context;
use crate::contrast::Contrast;
use crate::encoded::Encoded;
use crate::lent::Lenders;
use crate::outcome::{Carry, Outcome};
use crate::pairs::{Fused, Pairs};
use crate::partners::Between;
use crate::request::{Request, Samples};

/// What is known of an objective from its configuration, before it has weights.
pub trait Settings: Debug + Send + Sync {
    /// Factor of the loss in the sum.
    fn weight(&self) -> f64;

    /// The inputs that it wants encoded.
    fn requests(&self) -> Vec<Request>;

    /// Which samples count, and how many it needs.
    fn samples(&self) -> Samples;

    /// What it is in a few words, as the report names it.
    fn title(&self) -> &'static str {
        ""
    }

    /// Whether it reads what the cross-modal encoder makes of pairs, and makes no sense without one.
    fn reads_fused(&self) -> bool {
        false
    }

    /// Whether it reads states of the image that the cross-modal encoder gives.
    fn reads_fused_images(&self) -> bool {
        false
    }

    /// Between what it asks for similarities, to choose wrong partners by them.
    fn asks_similarity(&self) -> Option<Between> {
        None
    }

    /// Between what it gives similarities.
    fn gives_similarity(&self) -> Option<Between> {
        None
    }

    /// The length of its queue of features, with its key; `None` if it has no queue.
    fn queue(&self) -> Option<(&'static str, usize)> {
        None
    }

    /// What it predicts of each sample; `None` for a loss of pre-training.
    fn predicts(&self) -> Option<Predicts> {
        None
    }

    /// Sets the number of classes, which the data's labels give, if the recipe does not.
    fn set_classes(&mut self, _classes: usize) {}

    /// Turns dropout of its own head off, for a model that is looked into with gradients and not trained.
    fn turn_dropout_off(&mut self) {}

    /// Checks every value, alone and against the others.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Checks the values against the recipe's other objectives.
    fn validate_beside(&self, _all: &ObjectivesConfig) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Checks the values against the encoders that are trained.
    fn validate_with(&self, _model: &BackboneConfig) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// What a task predicts of each sample. The loader makes [targets](unimo_batch::Batch::targets) of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predicts {
    /// One of many answers, of which several may be right to a degree (VQAv2).
    Answers {
        /// Number of answers; `None`: as many as the data's labels.
        classes: Option<usize>,
        /// How they are scored.
        by: AnsweredBy,
    },
    /// One of several classes, scored against each other, with a softmax.
    Class {
        /// Number of classes; `None`: as many as the data's labels.
        classes: Option<usize>,
        /// Their names in the order of the head, if they are the same for all data; else empty.
        names: &'static [&'static str],
    },
    /// A number.
    Number,
    /// The box in the image that the text refers to.
    Box,
}

/// How the answers to a question are scored, and what their targets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    /// A head with an output for each answer. Each is scored by itself, with a sigmoid. Targets are VQA's scores of the answers.
    Class,
    /// The likelihood of the answer's words. Scores are logarithms of likelihoods, `-inf` for an answer that was not read whole, and
    /// are compared by a softmax. Targets are the shares of the people who gave the answers.
    Words,
}

impl Predicts {
    /// Number of classes that the settings fix.
    pub fn classes(self) -> Option<usize> {
        match self {
            Self::Answers { classes, .. } | Self::Class { classes, .. } => classes,
            Self::Number => Some(1),
            Self::Box => Some(4),
        }
    }
}

/// The configuration from which an objective is made.
pub trait ObjectiveConfig: Settings + Clone + Serialize + DeserializeOwned + 'static {
    /// The objective with its head.
    type Objective: Objective + Module + 'static;

    /// A new head on top of encoders made from `model`.
    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Self::Objective;
}

/// A loss with its head. Each objective is one file and one line in the list in `lib.rs`, or is registered from another crate
/// ([`crate::registry`]).
///
/// A step calls `pairs`, then `loss`. [`Objective::after_step`] follows the optimiser's step and is the only place that changes
/// state. A loss that compares samples with each other is also a [`Contrast`]; it is then taken over all batches of a step.
pub trait Objective {
    /// The configuration that it was made from.
    fn settings(&self) -> &dyn Settings;

    /// The contrast, if it compares samples with each other.
    fn contrast(&self) -> Option<&dyn Contrast> {
        None
    }

    /// The pairs that it wants from the cross-modal encoder.
    fn pairs(&self, _encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        Vec::new()
    }

    /// The loss. `fused` holds the output for each of its [`pairs`](Self::pairs), in their order.
    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome;

    /// The scores of a task, one row per sample of the batch, see [`Settings::predicts`]; or what is predicted of each hidden patch, one row
    /// each. `None` for another loss of pre-training.
    ///
    /// # Shapes
    ///
    /// - output: `[B, C]` before sigmoid or softmax, `[B, 1]` for a number, or `[B, 4]` for a box: x1, y1, x2, y2 as shares of the
    ///   image's width and height
    fn predict(&self, _context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        None
    }

    /// To be called when the backbone has been given other weights before the first step: copies of its weights are made anew.
    fn adopt(&mut self) {}

    /// Takes the heads of others that it shares, as they are now. It is called whenever parameters have changed.
    fn borrow_heads(&mut self, _lenders: &Lenders) {}

    /// Clamps, moving averages and queues, after the optimiser's step.
    fn after_step(&mut self, _after: &AfterStep) {}
}

/// What objectives need after the optimiser's step.
#[derive(Debug, Clone, Default)]
pub struct AfterStep {
    /// Share of the old value in each update of the teacher; `None` without a teacher.
    pub decay: Option<f64>,
    /// The [`Carry`] of each loss, in the order of the micro-batches: one for those that were contrasted together.
    pub carries: Vec<Carry>,
}
