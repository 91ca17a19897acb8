//! AdamW with parameter groups, global norm clipping and a state that checkpoints whole.
//!
//! burn's optimiser has groups too, but keeps its state under identities that change with every process, in a file
//! format of its own, and walks every parameter some ten times a step; exact resume from safetensors and the speed of
//! the fused kernel need this one.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::kernels::{self, AdamWStep};
use unimo_core::parameters::{self, Handle};

use crate::recipe::{Decay, OptimizerConfig, ScheduleConfig};

/// What the optimiser does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// With the higher learning rate: the cross-modal encoder and the heads.
    pub fusion: bool,
    /// With weight decay: everything but vectors, which are biases, norms, gates and the class token.
    pub decays: bool,
}

impl Group {
    /// The group of a parameter of [`crate::model::Model`].
    pub fn of(name: &str, rank: usize) -> Self {
        let mut path = name.split('.');
        let uni_modal = path.next() == Some("backbone")
            && matches!(path.next(), Some("text" | "image" | "regions"));
        Self {
            fusion: !uni_modal,
            decays: rank > 1,
        }
    }
}

/// First and second moments of one parameter, flattened.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// AdamW (Loshchilov and Hutter 2019) in PyTorch's arithmetic.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    moments: BTreeMap<String, Moments>,
}

/// Names of the two moments in a checkpoint.
const MOMENTS: [&str; 2] = ["first", "second"];

impl Optimizer {
    /// Moments start at 0.
    pub fn new(config: &OptimizerConfig) -> Self {
        Self {
            config: config.clone(),
            moments: BTreeMap::new(),
        }
    }

    /// One update. `rate` is the uni-modal encoders' learning rate at this step, `step` counts from 1, `grad_scale`
    /// multiplies every gradient. Parameters without a gradient stay.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        rate: f64,
        step: u64,
        grad_scale: f32,
    ) -> M {
        struct Walk<'a> {
            path: Vec<String>,
            optimizer: &'a mut Optimizer,
            gradients: GradientsParams,
            rate: f64,
            step: u64,
            grad_scale: f32,
        }
        impl ModuleMapper for Walk<'_> {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.path.push(name.to_owned());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.path.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(gradient) = self.gradients.remove::<D>(param.id) else {
                    return param;
                };
                let name = self.path.join(".");
                let config = &self.optimizer.config;
                let group = Group::of(&name, D);
                let factor = if group.fusion {
                    config.fusion_lr_factor
                } else {
                    1.0
                };
                let step = AdamWStep {
                    lr: self.rate * factor,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    eps: config.eps,
                    weight_decay: if group.decays {
                        config.weight_decay
                    } else {
                        0.0
                    },
                    step: self.step,
                    grad_scale: self.grad_scale,
                };
                let shape = param.dims();
                let count: usize = shape.iter().product();
                let moments = self.optimizer.moments.remove(&name).unwrap_or_else(|| {
                    let device = gradient.device();
                    Moments {
                        first: Tensor::zeros([count], &device),
                        second: Tensor::zeros([count], &device),
                    }
                });
                let mut kept = None;
                let param = parameters::update(param, |value| {
                    let (value, first, second) = kernels::adamw(
                        value.reshape([count]),
                        moments.first,
                        moments.second,
                        gradient.without_autodiff().reshape([count]),
                        &step,
                    );
                    kept = Some(Moments { first, second });
                    value.reshape(shape)
                });
                if let Some(moments) = kept {
                    self.optimizer.moments.insert(name, moments);
                }
                param
            }
        }
        module.map(&mut Walk {
            path: Vec::new(),
            optimizer: self,
            gradients,
            rate,
            step,
            grad_scale,
        })
    }

    /// The moments by name: `<parameter>.first` and `<parameter>.second`.
    pub fn handles(&self) -> Vec<Handle> {
        let [first, second] = MOMENTS;
        self.moments
            .iter()
            .flat_map(|(name, moments)| {
                [
                    Handle::new(format!("{name}.{first}"), moments.first.clone()),
                    Handle::new(format!("{name}.{second}"), moments.second.clone()),
                ]
            })
            .collect()
    }

    /// Takes moments back from a checkpoint. `give` returns the values of a name, or none where the parameter never had
    /// a gradient.
    pub fn load<M: Module, E>(
        &mut self,
        module: &M,
        device: &Device,
        mut give: impl FnMut(&str, &[usize]) -> Result<Option<TensorData>, E>,
    ) -> Result<(), E> {
        let [first, second] = MOMENTS;
        for parameter in parameters::list(module) {
            let name = parameter.name;
            let count = [parameter.shape.iter().product()];
            let pair = (
                give(&format!("{name}.{first}"), &count)?,
                give(&format!("{name}.{second}"), &count)?,
            );
            if let (Some(first), Some(second)) = pair {
                let moments = Moments {
                    first: Tensor::from_data(first, device),
                    second: Tensor::from_data(second, device),
                };
                self.moments.insert(name, moments);
            }
        }
        Ok(())
    }
}

/// The gradients of those parameters that learn; the others are dropped.
pub fn only<M: Module>(
    module: &M,
    gradients: GradientsParams,
    learns: &dyn Fn(&str) -> bool,
) -> GradientsParams {
    struct Drop<'a> {
        path: Vec<String>,
        learns: &'a dyn Fn(&str) -> bool,
        gradients: GradientsParams,
    }
    impl ModuleVisitor for Drop<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !(self.learns)(&self.path.join(".")) {
                let _ = self.gradients.remove::<D>(param.id);
            }
        }
    }
    let mut drop = Drop {
        path: Vec::new(),
        learns,
        gradients,
    };
    module.visit(&mut drop);
    drop.gradients
}

/// The norm of all gradients together.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    struct Sum<'a> {
        gradients: &'a GradientsParams,
        squares: f64,
    }
    impl ModuleVisitor for Sum<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                let count = gradient.dims().iter().product::<usize>();
                self.squares +=
                    kernels::sum_of_squares(gradient.without_autodiff().reshape([count]));
            }
        }
    }
    let mut sum = Sum {
        gradients,
        squares: 0.0,
    };
    module.visit(&mut sum);
    sum.squares.sqrt()
}

/// The learning rate as a share of its peak at `step` (counted from 1) of `steps`.
pub fn schedule(config: &ScheduleConfig, step: u64, steps: u64) -> f64 {
    let warmup = (config.warmup * steps as f64).round();
    let at = step as f64;
    if at <= warmup {
        return at / warmup;
    }
    // 0 just after the warm-up, 1 at the last step.
    let progress = (at - warmup) / (steps as f64 - warmup).max(1.0);
    let share = match config.decay {
        Decay::Constant => return 1.0,
        Decay::Linear => 1.0 - progress,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    config.last + (1.0 - config.last) * share
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::Model;
    use crate::recipe::{Overrides, Recipe};

    /// The smallest model, with what an override adds.
    fn recipe(set: &[&str]) -> Recipe {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load("unimo3-tiny", &overrides).unwrap()
    }

    /// Every kind of module that a recipe can ask for.
    const KINDS: &[&[&str]] = &[
        &["model.fusion.gate=token"],
        &["model.fusion.gate=static"],
        &["model.fusion.levels=none"],
        &["model.fusion.levels=both", "model.fusion.uni_levels=2"],
        &[
            "model.fusion.levels=none",
            "model.fusion.uni_levels=2",
            "model.fusion.link=add_norm",
        ],
        &[
            "model.fusion.levels=none",
            "model.fusion.uni_levels=2",
            "model.fusion.link=managers",
        ],
        &["objectives.itc.momentum={ decay = 0.9, queue = 4, alpha = 0.4 }"],
    ];

    #[test]
    fn every_parameter_is_in_exactly_one_group() {
        for set in KINDS {
            let model = Model::new(&recipe(set), &Device::flex().autodiff());
            let mut groups: BTreeMap<Group, BTreeSet<String>> = BTreeMap::new();
            for p in parameters::list(&model) {
                let group = Group::of(&p.name, p.shape.len());
                let last = p.name.rsplit('.').next().unwrap();
                // Matrices decay, whatever they are called; vectors do not.
                assert_eq!(group.decays, p.shape.len() > 1, "{}", p.name);
                assert!(!(group.decays && last == "bias"), "{}", p.name);
                let first = p.name.split('.').take(2).collect::<Vec<_>>();
                let cross = first == ["backbone", "fusion"] || first[0] == "objectives";
                assert_eq!(group.fusion, cross, "{}", p.name);
                let new = groups.entry(group).or_default().insert(p.name.clone());
                assert!(new, "{} is there twice", p.name);
            }
            assert_eq!(groups.len(), 4, "{set:?}: all four groups are used");
        }
    }

    /// With a gradient of one sign, AdamW's first step is the learning rate itself, and decay comes on top.
    #[test]
    fn groups_learn_and_decay_at_their_own_rates() {
        const RATE: f64 = 1e-3;
        const FACTOR: f64 = 5.0;
        const DECAY: f64 = 0.1;
        /// f32 rounding of weights below 1, and eps beside a gradient of 1.
        const TOLERANCE: f64 = 2e-7;
        let set = [
            format!("train.optimizer.fusion_lr_factor={FACTOR}"),
            format!("train.optimizer.weight_decay={DECAY}"),
        ];
        let recipe = recipe(&set.each_ref().map(String::as_str));
        let model = Model::new(&recipe, &Device::flex().autodiff());
        let before = parameters::values(&model);
        struct Sum(Option<Tensor<1>>);
        impl ModuleVisitor for Sum {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let sum = param.val().sum();
                self.0 = Some(match self.0.take() {
                    Some(so_far) => so_far + sum,
                    None => sum,
                });
            }
        }
        let mut sum = Sum(None);
        model.visit(&mut sum);
        let gradients = GradientsParams::from_grads(sum.0.unwrap().backward(), &model);
        let mut optimizer = Optimizer::new(&recipe.train.optimizer);
        let model = optimizer.step(model, gradients, RATE, 1, 1.0);
        let after = parameters::values(&model);
        let mut seen = 0;
        for ((name, old), (_, new)) in before.iter().zip(&after) {
            let cross =
                !(name.starts_with("backbone.text.") || name.starts_with("backbone.image."));
            let rate = if cross { FACTOR * RATE } else { RATE };
            let decay = if old.shape().num_dims() > 1 {
                DECAY
            } else {
                0.0
            };
            for (old, new) in old.iter::<f64>().zip(new.iter::<f64>()) {
                let expected = old - rate * (1.0 + decay * old);
                assert!(
                    (new - expected).abs() < TOLERANCE,
                    "{name}: {old} {new} {expected}"
                );
                seen += 1;
            }
        }
        assert!(seen > 100_000);
    }

    #[test]
    fn the_schedule_rises_and_falls() {
        let linear = ScheduleConfig {
            warmup: 0.1,
            decay: Decay::Linear,
            last: 0.0,
        };
        assert_eq!(schedule(&linear, 5, 100), 0.5);
        assert_eq!(schedule(&linear, 10, 100), 1.0);
        assert_eq!(schedule(&linear, 55, 100), 0.5);
        assert_eq!(schedule(&linear, 100, 100), 0.0);
        let cosine = ScheduleConfig {
            decay: Decay::Cosine,
            last: 0.2,
            ..linear
        };
        assert!((schedule(&cosine, 55, 100) - 0.6).abs() < 1e-12);
        assert!((schedule(&cosine, 100, 100) - 0.2).abs() < 1e-12);
    }
}
