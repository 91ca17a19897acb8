//! The model that a recipe describes: encoders and objectives, made from one seed.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::tasks::{Tasks, TasksConfig};
use unimo_objectives::{Objectives, ObjectivesConfig};

use crate::recipe::{ComputeDtype, Recipe};

/// Everything with weights.
#[derive(Module, Debug)]
pub struct Model {
    /// Encoders.
    pub backbone: Backbone,
    /// Heads.
    pub objectives: Objectives,
    /// Heads of fine-tuned models, where a checkpoint brought them.
    pub tasks: Tasks,
}

impl Model {
    /// New weights from the recipe's seed, the same on every device.
    pub fn new(recipe: &Recipe, device: &Device) -> Self {
        let mut init =
            Init::new(device, recipe.seed).with_deviation(recipe.model.initializer_range as f32);
        let dtype = float_dtype(recipe.train.dtype);
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, dtype)
    }

    /// Zeros, to be filled from a file.
    pub fn blank(recipe: &Recipe, device: &Device) -> Self {
        let dtype = float_dtype(recipe.train.dtype);
        let mut init = Init::blank(device);
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, dtype)
    }

    /// Encoders and heads.
    pub fn assemble(
        init: &mut Init,
        model: &BackboneConfig,
        objectives: &ObjectivesConfig,
        dtype: FloatDType,
    ) -> Self {
        // Before the heads: a momentum encoder copies the backbone with the dtype it computes in.
        let backbone = model.init(init).compute_in(dtype);
        let objectives = objectives.init(init, model, &backbone);
        let tasks = TasksConfig::default().init(init, model.cross_width());
        Self {
            backbone,
            objectives,
            tasks,
        }
    }
}

/// burn's name of a dtype.
pub fn float_dtype(dtype: ComputeDtype) -> FloatDType {
    match dtype {
        ComputeDtype::F32 => FloatDType::F32,
        ComputeDtype::Bf16 => FloatDType::BF16,
        ComputeDtype::F16 => FloatDType::F16,
    }
}

/// Values on the host, as f32.
pub fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.without_autodiff().into_data();
    data.convert::<f32>().iter::<f32>().collect()
}
