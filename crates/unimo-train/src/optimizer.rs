//! AdamW with parameter groups, clipping by the global norm and a state that is stored in checkpoints.
//!
//! burn's optimiser also has groups. But it stores its state under identities that change with every process, in its own file
//! format, and walks every parameter about ten times per step. Exact resume from safetensors and the speed of the fused kernel need
//! this optimiser.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::kernels::{self, AdamWStep, SumOfSquares};
use unimo_core::parameters::{self, Change, Handle, See};
use unimo_encoders::backbone::BackboneConfig;

use crate::rates::{Rates, is_uni_modal};
use crate::recipe::{Decay, OptimizerConfig, ScheduleConfig};

/// How the optimiser treats a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Whether it has the higher learning rate, as the cross-modal encoder and the heads do.
    pub fusion: bool,
    /// Whether weight decay applies, as to everything but vectors: biases, norms, gates and the class token.
    pub decays: bool,
}

impl Group {
    /// The group of a parameter of [`crate::model::Model`].
    pub fn of(name: &str, rank: usize) -> Self {
        Self {
            fusion: !is_uni_modal(name),
            decays: rank > 1,
        }
    }
}

/// First and second moments of one parameter, flattened.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    /// Number of gradients that the moments have seen, for the bias correction. `None` if an older checkpoint does not say: then as
    /// many as the stage had steps.
    steps: Option<u64>,
}

/// AdamW (Loshchilov and Hutter 2019) with PyTorch's arithmetic.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    rates: Rates,
    moments: BTreeMap<String, Moments>,
}

/// Names in a checkpoint of the two moments and of their number of gradients.
const MOMENTS: [&str; 3] = ["first", "second", "steps"];

impl Optimizer {
    /// An optimiser without moments; they start at 0. The rates of layers follow from the model's depth.
    pub fn new(config: &OptimizerConfig, model: &BackboneConfig) -> Self {
        Self {
            config: config.clone(),
            rates: Rates::new(config, model),
            moments: BTreeMap::new(),
        }
    }

    /// One update. `rate` is the uni-modal encoders' learning rate at this step, `step` counts the stage's steps from 1,
    /// `grad_scale` multiplies every gradient. As in PyTorch, a parameter without a gradient does not change, nor do its moments
    /// and its number of gradients.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        rate: f64,
        step: u64,
        grad_scale: f32,
    ) -> M {
        struct Walk<'a> {
            optimizer: &'a mut Optimizer,
            gradients: GradientsParams,
            rate: f64,
            step: u64,
            grad_scale: f32,
        }
        impl Change for Walk<'_> {
            fn change<const D: usize>(
                &mut self,
                name: &str,
                param: Param<Tensor<D>>,
            ) -> Param<Tensor<D>> {
                let Some(gradient) = self.gradients.remove::<D>(param.id) else {
                    return param;
                };
                let config = &self.optimizer.config;
                let group = Group::of(name, D);
                let shape = param.dims();
                let count: usize = shape.iter().product();
                let moments = self.optimizer.moments.remove(name).unwrap_or_else(|| {
                    let device = gradient.device();
                    Moments {
                        first: Tensor::zeros([count], &device),
                        second: Tensor::zeros([count], &device),
                        steps: Some(0),
                    }
                });
                let seen = moments.steps.map_or(self.step, |steps| steps + 1);
                let factor = self.optimizer.rates.factor_of(name);
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
                    step: seen,
                    grad_scale: self.grad_scale,
                };
                let mut kept = None;
                let param = parameters::update(param, |value| {
                    let (value, first, second) = kernels::adamw(
                        value.reshape([count]),
                        moments.first,
                        moments.second,
                        gradient.without_autodiff().reshape([count]),
                        &step,
                    );
                    kept = Some(Moments {
                        first,
                        second,
                        steps: Some(seen),
                    });
                    value.reshape(shape)
                });
                if let Some(moments) = kept {
                    self.optimizer.moments.insert(name.to_owned(), moments);
                }
                param
            }
        }
        let mut walk = Walk {
            optimizer: self,
            gradients,
            rate,
            step,
            grad_scale,
        };
        parameters::change(module, &mut walk)
    }

    /// Forgets the moments of all other parameters than those that `keep` chooses.
    pub fn keep(&mut self, keep: impl Fn(&str) -> bool) {
        self.moments.retain(|name, _| keep(name));
    }

    /// The moments by name: `<parameter>.first` and `<parameter>.second`. `<parameter>.steps` is the number of gradients that they
    /// have seen, as a float: exact up to 2^24.
    pub fn handles(&self) -> Vec<Handle> {
        let [first, second, steps] = MOMENTS;
        self.moments
            .iter()
            .flat_map(|(name, moments)| {
                let seen = moments.steps.map(|seen| {
                    let device = moments.first.device();
                    let seen = Tensor::<1>::from_data([seen as f32], &device);
                    Handle::new(format!("{name}.{steps}"), seen)
                });
                [
                    Handle::new(format!("{name}.{first}"), moments.first.clone()),
                    Handle::new(format!("{name}.{second}"), moments.second.clone()),
                ]
                .into_iter()
                .chain(seen)
            })
            .collect()
    }

    /// Loads the moments from a checkpoint. `give` returns the values of a name. It returns `None` if the parameter never had a
    /// gradient, or if the checkpoint is older than the number of gradients.
    pub fn load<M: Module, E>(
        &mut self,
        module: &M,
        device: &Device,
        mut give: impl FnMut(&str, &[usize]) -> Result<Option<TensorData>, E>,
    ) -> Result<(), E> {
        let [first, second, steps] = MOMENTS;
        for parameter in parameters::list(module) {
            let name = parameter.name;
            let count = [parameter.shape.iter().product()];
            let pair = (
                give(&format!("{name}.{first}"), &count)?,
                give(&format!("{name}.{second}"), &count)?,
            );
            let seen = give(&format!("{name}.{steps}"), &[1])?;
            if let (Some(first), Some(second)) = pair {
                let moments = Moments {
                    first: Tensor::from_data(first, device),
                    second: Tensor::from_data(second, device),
                    steps: seen.and_then(|seen| seen.iter::<f64>().next().map(|s| s as u64)),
                };
                self.moments.insert(name, moments);
            }
        }
        Ok(())
    }
}

/// The global norm of all gradients.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> f64 {
    let parts = squares(module, gradients);
    let known: Vec<f64> = parts.into_iter().map(SumOfSquares::fetch).collect();
    norm(&known)
}

/// The sum of squares of each parameter's gradient, in the module's order. A sum on a device stays there.
pub fn squares<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<SumOfSquares> {
    struct Sum<'a> {
        gradients: &'a GradientsParams,
        squares: Vec<SumOfSquares>,
    }
    impl See for Sum<'_> {
        fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                let count = gradient.dims().iter().product::<usize>();
                let gradient = gradient.without_autodiff().reshape([count]);
                self.squares.push(kernels::sum_of_squares(gradient));
            }
        }
    }
    let mut sum = Sum {
        gradients,
        squares: Vec::new(),
    };
    parameters::see(module, &mut sum);
    sum.squares
}

/// The norm of the gradients, from the sum of squares of each.
pub fn norm(squares: &[f64]) -> f64 {
    squares.iter().fold(0.0, |sum, part| sum + part).sqrt()
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

    use unimo_core::init::Init;
    use unimo_core::layers::Linear;

    use super::*;
    use crate::error::TrainError;
    use crate::model::Model;
    use crate::recipe::{Overrides, Recipe};

    /// The smallest model, with overrides.
    fn recipe(set: &[&str]) -> Recipe {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load("unimo3-tiny", &overrides).unwrap()
    }

    /// Every kind of module that a recipe can have.
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
        &[
            "objectives.itc.momentum={ queue = 64, alpha = 0.4 }",
            "teacher={ decay = 0.9 }",
        ],
    ];

    #[test]
    fn every_parameter_is_in_exactly_one_group() {
        for set in KINDS {
            let model = Model::new(&recipe(set), &Device::flex().autodiff());
            let mut groups: BTreeMap<Group, BTreeSet<String>> = BTreeMap::new();
            for p in parameters::list(&model) {
                // The teacher is not optimised.
                if p.name.starts_with("teacher.") {
                    assert!(!p.trainable, "{}", p.name);
                    continue;
                }
                let group = Group::of(&p.name, p.shape.len());
                let last = p.name.rsplit('.').next().unwrap();
                // Matrices decay, whatever their names; vectors do not.
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

    /// If a gradient has one sign, AdamW's first step is the learning rate itself; decay is added.
    #[test]
    fn groups_learn_and_decay_at_their_own_rates() {
        const RATE: f64 = 1e-3;
        const FACTOR: f64 = 5.0;
        const DECAY: f64 = 0.1;
        /// f32 rounding of weights below 1, and eps relative to a gradient of 1.
        const TOLERANCE: f64 = 2e-7;
        let set = [
            format!("train.optimizer.fusion_lr_factor={FACTOR}"),
            format!("train.optimizer.weight_decay={DECAY}"),
        ];
        let recipe = recipe(&set.each_ref().map(String::as_str));
        let model = Model::new(&recipe, &Device::flex().autodiff());
        let before = parameters::values(&model);
        struct Sum(Option<Tensor<1>>);
        impl See for Sum {
            fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
                let sum = param.val().sum();
                self.0 = Some(match self.0.take() {
                    Some(so_far) => so_far + sum,
                    None => sum,
                });
            }
        }
        let mut sum = Sum(None);
        parameters::see(&model, &mut sum);
        let gradients = GradientsParams::from_grads(sum.0.unwrap().backward(), &model);
        let mut optimizer = Optimizer::new(&recipe.train.optimizer, &recipe.model);
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

    /// As in torch.optim.AdamW, a parameter without a gradient keeps value, moments and step count. Its first gradient is
    /// bias-corrected as a first one, however late it comes. The same holds after a checkpoint.
    #[test]
    fn a_late_gradient_is_corrected_as_the_first_one_that_it_is() {
        /// A few f32 roundings per step, of weights below 1.
        const TOLERANCE: f64 = 1e-6;
        const RATE: f64 = 1e-2;
        let recipe = recipe(&[
            "train.optimizer.fusion_lr_factor=1.0",
            "train.optimizer.weight_decay=0.0",
        ]);
        let config = &recipe.train.optimizer;
        let device = Device::flex().autodiff();
        let gradients = |linear: &Linear, of_bias: Option<f64>| {
            let weight = linear.weight.val().sum();
            let loss = match (&linear.bias, of_bias) {
                (Some(bias), Some(factor)) => weight + bias.val().sum() * factor,
                _ => weight,
            };
            GradientsParams::from_grads(loss.backward(), linear)
        };
        // Gradient of the bias at each step.
        let given = [None, None, Some(1.0), None, Some(-0.5)];
        let mut reference = (0.0, 0.0, 0.0, 0);
        for g in given.into_iter().flatten() {
            let (value, mean, square, steps) = &mut reference;
            *steps += 1;
            *mean = config.beta1 * *mean + (1.0 - config.beta1) * g;
            *square = config.beta2 * *square + (1.0 - config.beta2) * g * g;
            let corrected = *mean / (1.0 - config.beta1.powi(*steps));
            let root = (*square / (1.0 - config.beta2.powi(*steps))).sqrt();
            *value -= RATE * corrected / (root + config.eps);
        }
        let mut linear = Linear::new(&mut Init::new(&device, 1), 2, 1, true);
        let mut optimizer = Optimizer::new(config, &recipe.model);
        for (step, of_bias) in (1..).zip(given) {
            let own = gradients(&linear, of_bias);
            linear = optimizer.step(linear, own, RATE, step, 1.0);
            // Saving and loading changes nothing.
            let saved: BTreeMap<String, TensorData> = optimizer
                .handles()
                .into_iter()
                .map(|handle| (handle.name.clone(), handle.fetch()))
                .collect();
            optimizer = Optimizer::new(config, &recipe.model);
            optimizer
                .load(&linear, &Device::flex(), |name, _| {
                    Ok::<_, TrainError>(saved.get(name).cloned())
                })
                .unwrap();
        }
        let bias = linear.bias.as_ref().unwrap().val().into_scalar::<f64>();
        assert!(
            (bias - reference.0).abs() < TOLERANCE,
            "{bias} {reference:?}"
        );

        // An older checkpoint has no count: its moments have seen all of the stage's steps.
        let moments = optimizer.moments.get_mut("weight").unwrap();
        assert_eq!(moments.steps, Some(5));
        moments.steps = None;
        let own = gradients(&linear, None);
        optimizer.step(linear, own, RATE, 6, 1.0);
        assert_eq!(optimizer.moments["weight"].steps, Some(6));
        assert_eq!(optimizer.moments["bias"].steps, Some(2));
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
