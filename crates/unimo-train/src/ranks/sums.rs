//! The sum of the gradients over the micro-batches of a step, of all ranks.
//!
//! A sum of floats depends on its order, so the order is fixed: that of the micro-batches, as in one process. Of `R` ranks, rank `r` has
//! the micro-batches `r`, `r + R`, ... All ranks finish their first one, then their second, and so on. After each,
//! the gradients of these `R` micro-batches are exchanged: every parameter's values are cut into buckets, every bucket into `R` parts, and
//! rank `i` gets part `i` of all ranks, which it adds to its own one by one. After the last one the parts are gathered. So a step gives
//! the same bits for every number of ranks that divides its micro-batches.
//!
//! A parameter without a gradient is sent as `-0.0`, which changes no number that it is added to.
//!
//! With [`Order::Ranks`] a rank adds up its own micro-batches first, and gradients are exchanged once a step. That is another order for each
//! number of ranks.

use burn::module::Param;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Tensor, TensorData};
use unimo_core::dtype::cast;
use unimo_core::parameters::{self, See};
use unimo_core::world::{Lost, World};

use crate::model::Model;

/// Values in a bucket: 25 MB.
pub(crate) const BUCKET: usize = 25_000_000 / size_of::<f32>();

/// What changes no number that it is added to.
const NOTHING: f32 = -0.0;

const SENT: &str = "the sum of gradients";
const GATHERED: &str = "the parts of the sum of gradients";

/// The order in which the gradients of several ranks are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// That of the micro-batches, as in one process.
    #[default]
    MicroBatches,
    /// Those of a rank first, then those of the ranks.
    Ranks,
}

/// The sum so far.
pub(crate) enum Sum<'a> {
    /// Of one process.
    Alone(&'a Model, GradientsAccumulator<Model>),
    /// Of several, in the order of the micro-batches.
    Among(&'a Model, Parts<'a>),
    /// Of several: this rank's micro-batches are added, and then those of all ranks.
    Own(&'a Model, GradientsAccumulator<Model>, Parts<'a>),
}

impl<'a> Sum<'a> {
    /// A sum of nothing.
    pub fn new(model: &'a Model, world: &'a World, order: Order) -> Self {
        if world.is_alone() {
            return Self::Alone(model, GradientsAccumulator::new());
        }
        let parts = Parts::new(world, BUCKET);
        match order {
            Order::MicroBatches => Self::Among(model, parts),
            Order::Ranks => Self::Own(model, GradientsAccumulator::new(), parts),
        }
    }

    /// Adds gradients that all ranks have computed alike.
    pub fn add_common(&mut self, gradients: GradientsParams) -> Result<(), Lost> {
        match self {
            Self::Alone(model, sum) => sum.accumulate(model, gradients),
            Self::Among(model, parts) | Self::Own(model, _, parts) => {
                parts.add(model, Some(&gradients), From::Here)?;
            }
        }
        Ok(())
    }

    /// Adds the gradients of this rank's next micro-batch, and those of the other ranks. `None`: it has no loss.
    pub fn add(&mut self, gradients: Option<GradientsParams>) -> Result<(), Lost> {
        match (self, gradients) {
            (Self::Alone(model, sum) | Self::Own(model, sum, _), Some(gradients)) => {
                sum.accumulate(model, gradients);
            }
            (Self::Alone(..) | Self::Own(..), None) => {}
            (Self::Among(model, parts), gradients) => {
                parts.add(model, gradients.as_ref(), From::All)?;
            }
        }
        Ok(())
    }

    /// The whole sum, the same on all ranks.
    pub fn whole(self) -> Result<GradientsParams, Lost> {
        match self {
            Self::Alone(_, mut sum) => Ok(sum.grads()),
            Self::Among(model, parts) => parts.whole(model),
            Self::Own(model, mut sum, mut parts) => {
                parts.add(model, Some(&sum.grads()), From::All)?;
                parts.whole(model)
            }
        }
    }
}

/// Whose gradients are added.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// This rank's, which all others have too.
    Here,
    /// Those of all ranks.
    All,
}

/// This rank's part of the sum.
pub(crate) struct Parts<'a> {
    world: &'a World,
    /// Values in a bucket, a multiple of the number of ranks. The last one may have fewer.
    size: usize,
    /// The part of each bucket.
    parts: Vec<Vec<f32>>,
    /// Which parameters have a gradient on this rank, in the module's order.
    present: Vec<bool>,
}

impl<'a> Parts<'a> {
    fn new(world: &'a World, bucket: usize) -> Self {
        Self {
            world,
            size: bucket.next_multiple_of(world.size()),
            parts: Vec::new(),
            present: Vec::new(),
        }
    }

    fn add(
        &mut self,
        model: &Model,
        gradients: Option<&GradientsParams>,
        from: From,
    ) -> Result<(), Lost> {
        let mut walk = Fill {
            parts: self,
            gradients,
            from,
            bucket: Vec::new(),
            buckets: 0,
            parameters: 0,
            lost: None,
        };
        parameters::see(model, &mut walk);
        walk.last()
    }

    /// Adds a bucket to this rank's part of it.
    fn add_bucket(&mut self, number: usize, mut bucket: Vec<f32>, from: From) -> Result<(), Lost> {
        let ranks = self.world.size();
        bucket.resize(bucket.len().next_multiple_of(ranks), NOTHING);
        let part = bucket.len() / ranks;
        if self.parts.len() == number {
            self.parts.push(vec![NOTHING; part]);
        }
        let sum = &mut self.parts[number];
        let mut add = |values: &[f32]| {
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += value;
            }
        };
        match from {
            From::Here => add(&bucket[self.world.rank() * part..][..part]),
            From::All => {
                let all = self.world.exchange_values(SENT, bucket)?;
                all.chunks(part.max(1)).for_each(add);
            }
        }
        Ok(())
    }

    fn whole(self, model: &Model) -> Result<GradientsParams, Lost> {
        let present = self
            .world
            .gather("which gradients there are", self.present)?;
        let any = |at: usize| present.iter().any(|own| own.get(at) == Some(&true));
        let mut values = Vec::new();
        for part in self.parts {
            // Parts of a bucket, in the order of ranks, are the bucket. Only the last bucket is padded, at its end.
            values.push(self.world.gather_values(GATHERED, part)?);
        }
        struct Take<'a> {
            values: std::iter::Flatten<std::vec::IntoIter<Vec<f32>>>,
            any: &'a dyn Fn(usize) -> bool,
            parameters: usize,
            gradients: GradientsParams,
        }
        impl See for Take<'_> {
            fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
                if !param.is_require_grad() {
                    return;
                }
                let shape = param.dims();
                let values = self.values.by_ref().take(shape.iter().product());
                let values: Vec<f32> = values.collect();
                if (self.any)(self.parameters) {
                    let device = param.val().device().without_autodiff();
                    let data = TensorData::new(values, shape.to_vec());
                    self.gradients
                        .register(param.id, Tensor::<D>::from_data(data, &device));
                }
                self.parameters += 1;
            }
        }
        let mut take = Take {
            values: values.into_iter().flatten(),
            any: &any,
            parameters: 0,
            gradients: GradientsParams::new(),
        };
        parameters::see(model, &mut take);
        Ok(take.gradients)
    }
}

/// Walks over a model's parameters and sends their gradients, bucket by bucket.
struct Fill<'a, 'w> {
    parts: &'a mut Parts<'w>,
    gradients: Option<&'a GradientsParams>,
    from: From,
    bucket: Vec<f32>,
    buckets: usize,
    parameters: usize,
    lost: Option<Lost>,
}

impl See for Fill<'_, '_> {
    fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() || self.lost.is_some() {
            return;
        }
        let gradient = self.gradients.and_then(|all| all.get::<D>(param.id));
        if self.parts.present.len() == self.parameters {
            self.parts.present.push(false);
        }
        self.parts.present[self.parameters] |= gradient.is_some();
        self.parameters += 1;
        match gradient {
            Some(gradient) => {
                let gradient = cast(gradient.without_autodiff(), FloatDType::F32);
                self.bucket.extend(gradient.into_data().iter::<f32>());
            }
            None => {
                let count: usize = param.dims().iter().product();
                self.bucket.resize(self.bucket.len() + count, NOTHING);
            }
        }
        while self.bucket.len() >= self.parts.size && self.lost.is_none() {
            let rest = self.bucket.split_off(self.parts.size);
            self.send(rest);
        }
    }
}

impl Fill<'_, '_> {
    /// Sends the bucket; `rest` begins the next one.
    fn send(&mut self, rest: Vec<f32>) {
        let bucket = std::mem::replace(&mut self.bucket, rest);
        let sent = self.parts.add_bucket(self.buckets, bucket, self.from);
        self.lost = sent.err();
        self.buckets += 1;
    }

    /// Sends what is left.
    fn last(mut self) -> Result<(), Lost> {
        if !self.bucket.is_empty() && self.lost.is_none() {
            self.send(Vec::new());
        }
        self.lost.map_or(Ok(()), Err)
    }
}
