//! The model that a recipe describes: encoders and objectives, made from one seed.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use unimo_core::init::Init;
use unimo_core::lora;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_objectives::Carry;
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Objectives, ObjectivesConfig};

use crate::recipe::{ComputeDtype, Recipe};
use crate::seeds::{Purpose, seed_of};

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
    /// New weights from the recipe's seed, the same on every device. Adapters are put on afterwards, by [`adapted`](Self::adapted).
    pub fn new(recipe: &Recipe, device: &Device) -> Self {
        let mut init =
            Init::new(device, recipe.seed).with_deviation(recipe.model.initializer_range as f32);
        let dtype = float_dtype(recipe.train.dtype);
        let teacher = recipe.teacher.as_ref();
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, teacher, dtype)
    }

    /// A model of zeros with the recipe's adapters, to be filled from a file of this recipe.
    pub fn blank(recipe: &Recipe, device: &Device) -> Self {
        let dtype = float_dtype(recipe.train.dtype);
        let mut init = Init::blank(device);
        let teacher = recipe.teacher.as_ref();
        Self::assemble(&mut init, &recipe.model, &recipe.objectives, teacher, dtype)
            .with_adapters(recipe, &mut init)
    }

    /// The same with the recipe's adapters (`train.lora`), if it has some. They change nothing yet.
    #[must_use]
    pub fn adapted(self, recipe: &Recipe, device: &Device) -> Self {
        let seed = seed_of(recipe.seed, 0, 0, Purpose::Adapters);
        self.with_adapters(recipe, &mut Init::new(device, seed))
    }

    fn with_adapters(mut self, recipe: &Recipe, init: &mut Init) -> Self {
        let Some(config) = &recipe.train.lora else {
            return self;
        };
        let teacher = self.teacher.take();
        let mut model = lora::attach(self, init, &config.spec(), &|layer| config.adapts(layer));
        // A teacher has the adapters of the encoders that it follows.
        model.teacher = teacher.map(|mut teacher| {
            teacher.adopt(&model.backbone);
            teacher
        });
        model
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
