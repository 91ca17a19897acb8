//! The model that a recipe describes: encoders and objectives, made from one seed.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::names::covers;
use unimo_objectives::Carry;
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Objectives, ObjectivesConfig};

use crate::recipe::{ComputeDtype, Recipe};

/// All modules with weights.
#[derive(Module, Debug)]
pub struct Model {
    /// The encoders.
    pub backbone: Backbone,
    /// Their moving average, if the recipe has a teacher.
    pub teacher: Option<Teacher>,
    /// The objectives with their heads.
    pub objectives: Objectives,
}

impl Model {
    /// New weights from the recipe's seed, the same on every device.
    pub fn new(recipe: &Recipe, device: &Device) -> Self {
        let mut init =
            Init::new(device, recipe.seed).with_deviation(recipe.model.initializer_range as f32);
        let dtype = float_dtype(recipe.train.dtype);
        let teacher = recipe.teacher.as_ref();
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, teacher, dtype)
    }

    /// A model of zeros, to be filled from a file.
    pub fn blank(recipe: &Recipe, device: &Device) -> Self {
        let dtype = float_dtype(recipe.train.dtype);
        let mut init = Init::blank(device);
        let teacher = recipe.teacher.as_ref();
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, teacher, dtype)
    }

    /// Puts encoders and heads together.
    pub fn assemble(
        init: &mut Init,
        model: &BackboneConfig,
        objectives: &ObjectivesConfig,
        teacher: Option<&TeacherConfig>,
        dtype: FloatDType,
    ) -> Self {
        // The teacher copies the encoders together with their compute dtype.
        let backbone = model.init(init).compute_in(dtype);
        let teacher = teacher.map(|teacher| teacher.init(&backbone));
        let objectives = objectives.init(init, model);
        Self {
            backbone,
            teacher,
            objectives,
        }
    }

    /// The same, where parameters that a pattern covers track no gradient. See
    /// [`TrainConfig::freeze`](crate::recipe::TrainConfig::freeze).
    #[must_use]
    pub fn freeze(self, patterns: &[String]) -> Self {
        struct Freeze<'a> {
            path: Vec<String>,
            patterns: &'a [String],
        }
        impl ModuleMapper for Freeze<'_> {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.path.push(name.to_owned());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let name = self.path.join(".");
                let frozen = self.patterns.iter().any(|pattern| covers(pattern, &name));
                if frozen {
                    param.set_require_grad(false)
                } else {
                    param
                }
            }
        }
        if patterns.is_empty() {
            return self;
        }
        self.map(&mut Freeze {
            path: Vec::new(),
            patterns,
        })
    }

    /// To be called when the encoders have been given other weights before the first step.
    pub fn adopt(&mut self) {
        if let Some(teacher) = &mut self.teacher {
            teacher.adopt(&self.backbone);
        }
        self.objectives.adopt();
    }

    /// Clamps, moving averages and queues, after the optimiser's step; `carries` comes from the losses.
    pub fn after_step(&mut self, carries: Vec<(&'static str, Carry)>) {
        self.backbone.after_step();
        if let Some(teacher) = &mut self.teacher {
            teacher.after_step(&self.backbone);
        }
        self.objectives.after_step(self.teacher.as_ref(), carries);
    }
}

/// burn's name for a dtype.
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
