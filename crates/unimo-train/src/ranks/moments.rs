//! Moments of the optimiser that ranks share: each rank keeps those of some parameters, updates these parameters and sends them to the
//! others (ZeRO stage 1, Rajbhandari et al. 2020, section 5.1).
//!
//! An update of a parameter is the same computation wherever it is done, so the weights have the bits of ranks that keep everything.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::parameters::{self, See};
use unimo_core::world::{Wire, World};

use crate::error::TrainError;
use crate::model::Model;
use crate::optimizer::Optimizer;

const WEIGHTS: &str = "the updated weights";
const MOMENTS: &str = "the optimiser's moments";

/// The rank that updates each parameter that learns, by its name.
pub(crate) struct Owners {
    of: BTreeMap<String, usize>,
    rank: usize,
}

impl Owners {
    /// Deals the parameters that learn, so that each rank has about as many values. All ranks deal alike.
    pub fn new(world: &World, model: &Model) -> Self {
        let mut loads = vec![0usize; world.size()];
        let learning = parameters::list(model).into_iter().filter(|p| p.trainable);
        let of = learning.map(|parameter| {
            let least = (0..loads.len()).min_by_key(|rank| loads[*rank]);
            let owner = least.unwrap_or(0);
            loads[owner] += parameter.shape.iter().product::<usize>();
            (parameter.name, owner)
        });
        Self {
            of: of.collect(),
            rank: world.rank(),
        }
    }

    /// Whether this rank updates a parameter.
    fn is_own(&self, name: &str) -> bool {
        self.of.get(name) == Some(&self.rank)
    }

    /// Forgets the moments that other ranks keep.
    pub fn keep_own(&self, optimizer: &mut Optimizer) {
        optimizer.keep(|name| self.is_own(name));
    }

    /// The gradients of the parameters that this rank updates.
    pub fn own_gradients(&self, model: &Model, gradients: GradientsParams) -> GradientsParams {
        struct Take<'a> {
            owners: &'a Owners,
            from: GradientsParams,
            own: GradientsParams,
        }
        impl See for Take<'_> {
            fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if self.owners.is_own(name)
                    && let Some(gradient) = self.from.remove::<D>(param.id)
                {
                    self.own.register(param.id, gradient);
                }
            }
        }
        let mut take = Take {
            owners: self,
            from: gradients,
            own: GradientsParams::new(),
        };
        parameters::see(model, &mut take);
        take.own
    }

    /// The model with every parameter as its rank has updated it.
    pub fn updated(&self, world: &World, model: Model) -> Result<Model, TrainError> {
        let learning = parameters::list(&model).into_iter().filter(|p| p.trainable);
        let mut lengths = vec![0; world.size()];
        // Where each parameter begins among those of its rank.
        let begins: BTreeMap<String, (usize, usize)> = learning
            .map(|parameter| {
                let owner = self.of.get(&parameter.name).copied().unwrap_or(0);
                let begin = lengths[owner];
                lengths[owner] += parameter.shape.iter().product::<usize>();
                (parameter.name, (owner, begin))
            })
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut own: Vec<f32> = Vec::with_capacity(longest);
        parameters::visit(&model, |name, parameter| {
            if self.is_own(&name) {
                own.extend(parameter.data().iter::<f32>());
            }
        });
        own.resize(longest, 0.0);
        let all = world.gather_values(WEIGHTS, own, Wire::F32)?;
        Ok(parameters::replace(model, |name, shape| {
            let (owner, begin) = begins.get(name)?;
            if *owner == self.rank {
                return None;
            }
            let count: usize = shape.iter().product();
            let values = &all[owner * longest + begin..][..count];
            Some(TensorData::new(values.to_vec(), shape.to_vec()))
        }))
    }
}

/// An optimiser with the moments that all ranks keep, on rank 0, which saves them; on the others `blank`, which has none. `device` is that
/// of the moments. For this moment all moments are in the host's memory of each rank.
pub(crate) fn of_all(
    world: &World,
    (own, blank): (&Optimizer, Optimizer),
    model: &Model,
    device: &Device,
) -> Result<Optimizer, TrainError> {
    let handles = own.handles();
    let named = handles.iter().map(|handle| {
        let count: usize = handle.shape.iter().product();
        (handle.name.clone(), count)
    });
    let named: Vec<(String, usize)> = named.collect();
    let all = world.gather(MOMENTS, named)?;
    let length = |named: &Vec<(String, usize)>| named.iter().map(|(_, count)| count).sum();
    let longest = all.iter().map(length).max().unwrap_or(0);
    let mut values: Vec<f32> = Vec::with_capacity(longest);
    for handle in &handles {
        values.extend(handle.fetch().iter::<f32>());
    }
    values.resize(longest, 0.0);
    let gathered = world.gather_values(MOMENTS, values, Wire::F32)?;
    if !world.is_first() {
        return Ok(blank);
    }
    let mut moments = BTreeMap::new();
    for (rank, named) in all.into_iter().enumerate() {
        let mut begin = rank * longest;
        for (name, count) in named {
            let values = gathered[begin..begin + count].to_vec();
            moments.insert(name, TensorData::new(values, [count]));
            begin += count;
        }
    }
    let mut whole = blank;
    whole.load(model, device, |name, _| {
        Ok::<_, TrainError>(moments.remove(name))
    })?;
    Ok(whole)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use unimo_core::world::threads::as_threads;

    use super::*;
    use crate::recipe::{Overrides, Recipe};

    /// A share of the moments on each rank, and the same weights and moments as with all of them on each.
    #[test]
    fn shared_moments_give_the_same_bits() {
        let recipe = Recipe::load("unimo3-tiny", &Overrides::default()).unwrap();
        let device = Device::flex().autodiff();
        let gradients = |model: &Model| {
            struct Sum(Option<Tensor<1>>);
            impl See for Sum {
                fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
                    if param.is_require_grad() {
                        let x = param.val();
                        let part = (x.clone() * x).sum();
                        self.0 = Some(match self.0.take() {
                            Some(sum) => sum + part,
                            None => part,
                        });
                    }
                }
            }
            let mut sum = Sum(None);
            parameters::see(model, &mut sum);
            GradientsParams::from_grads(sum.0.unwrap().backward(), model)
        };
        let blank = || Optimizer::new(&recipe.train.optimizer, &recipe.model);
        let values = |model: &Model, optimizer: &Optimizer| {
            let moments = optimizer.handles().into_iter();
            let moments = moments.map(|handle| (handle.name.clone(), handle.fetch()));
            (parameters::values(model), moments.collect::<Vec<_>>())
        };
        let whole = {
            let mut model = Model::new(&recipe, &device);
            let mut optimizer = blank();
            for step in 1..=3 {
                let all = gradients(&model);
                model = optimizer.step(model, all, 1e-3, step, 0.5);
            }
            values(&model, &optimizer)
        };
        let ranks = as_threads(3, |world| {
            let mut model = Model::new(&recipe, &device);
            let owners = Owners::new(&world, &model);
            let mut optimizer = blank();
            for step in 1..=3 {
                let own = owners.own_gradients(&model, gradients(&model));
                model = optimizer.step(model, own, 1e-3, step, 0.5);
                model = owners.updated(&world, model).unwrap();
            }
            let kept: usize = optimizer.handles().len();
            let moments = (&optimizer, blank());
            let all = of_all(&world, moments, &model, &Device::flex()).unwrap();
            (values(&model, &all), kept)
        });
        for (rank, ((weights, moments), kept)) in ranks.iter().enumerate() {
            assert!(*weights == whole.0);
            assert!(2 * kept < whole.1.len());
            if rank == 0 {
                assert!(*moments == whole.1);
            }
        }
    }
}
