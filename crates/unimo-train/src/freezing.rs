//! Which parameters learn. What does not tracks no gradient, so that the backward pass ends above it, and nothing is kept for it.
//!
//! `train.freeze` and `train.lora` hold for the whole training, `train` of a stage for the stage. Parameters that are no weights (queues, a momentum
//! encoder) never learn.

use std::collections::BTreeMap;

use burn::module::{Module, Param, Reparameterization};
use burn::tensor::Tensor;
use unimo_core::layers::LowRank;
use unimo_core::parameters::{self, Change};
use unimo_encoders::names::covers;
use unimo_report::numbers::grouped;

use crate::model::Model;
use crate::recipe::Recipe;
use crate::recipe::stages::Stage;

/// The parameters that may learn.
#[derive(Debug, Clone)]
pub struct Freezing {
    /// Each with its number of values.
    able: BTreeMap<String, usize>,
    freeze: Vec<String>,
    /// If there are adapters, what learns beside them.
    beside_adapters: Option<Vec<String>>,
}

impl Freezing {
    /// For a model whose parameters all track gradients that ever will.
    pub fn of(model: &Model, recipe: &Recipe) -> Self {
        let all = parameters::list(model).into_iter();
        Self {
            able: all
                .filter(|p| p.trainable)
                .map(|p| (p.name, p.shape.iter().product()))
                .collect(),
            freeze: recipe.train.freeze.clone(),
            beside_adapters: recipe.train.lora.as_ref().map(|lora| lora.also.clone()),
        }
    }

    /// Whether a parameter learns in a stage; without a stage: in any.
    pub fn learns(&self, stage: Option<&Stage>, name: &str) -> bool {
        let beside = self.beside_adapters.as_ref();
        let named = |also: &Vec<String>| also.iter().any(|pattern| covers(pattern, name));
        self.able.contains_key(name)
            && beside.is_none_or(|also| is_adapter(name) || named(also))
            && !self.freeze.iter().any(|pattern| covers(pattern, name))
            && stage.is_none_or(|stage| stage.learns(name))
    }

    /// Whether this is a weight that learns in no stage, whatever its stages say. Queues and teachers are no weights.
    pub fn never_learns(&self, name: &str) -> bool {
        self.able.contains_key(name) && !self.learns(None, name)
    }

    /// The model where only what learns tracks a gradient.
    #[must_use]
    pub fn apply(&self, model: Model, stage: Option<&Stage>) -> Model {
        let mut model = track(model, &|name| self.learns(stage, name));
        model.backbone.note_frozen();
        model
    }

    /// What a user should know of a model of which not all learns; nothing if all of it does.
    pub fn account(&self, model: &Model) -> Vec<String> {
        let all = parameters::list(model).into_iter();
        let learning = all.filter(|p| p.trainable);
        let count: usize = learning.map(|p| p.shape.iter().product::<usize>()).sum();
        let able: usize = self.able.values().sum();
        if count == able {
            return Vec::new();
        }
        let mut lines = vec![format!(
            "{} of {} parameters learn; the others are frozen",
            grouped(count as f64),
            grouped(able as f64)
        )];
        for (encoder, section) in model.backbone.frozen_but_drawing() {
            lines.push(format!(
                "the {encoder} encoder is frozen, but its dropout is on: with --set model.{section}.dropout=0 and drop_path=0 it would run \
                 as in evaluation, without autodiff"
            ));
        }
        lines
    }
}

/// Whether this is a parameter of an adapter: `LAYER.weight.lora.a`.
fn is_adapter(name: &str) -> bool {
    name.rsplit('.').nth(1) == Some(LowRank::NAME)
}

/// A module where exactly the parameters that `learns` names track a gradient.
#[must_use]
pub fn track<M: Module>(module: M, learns: &dyn Fn(&str) -> bool) -> M {
    struct Track<'a>(&'a dyn Fn(&str) -> bool);
    impl Change for Track<'_> {
        fn change<const D: usize>(
            &mut self,
            name: &str,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let learns = (self.0)(name);
            if param.is_require_grad() == learns {
                param
            } else {
                param.set_require_grad(learns)
            }
        }
    }
    parameters::change(module, &mut Track(learns))
}
