//! The sum of the gradients over the micro-batches of a step, of all ranks.
//!
//! A sum of floats depends on its order, so the order is fixed: that of the micro-batches, as in one process. Of `R` ranks, rank `r` has
//! the micro-batches `r`, `r + R`, ... All ranks finish their first one, then their second, and so on. After each,
//! the gradients of these `R` micro-batches are exchanged: all values are cut into buckets, every bucket into `R` parts, and
//! rank `i` gets part `i` of all ranks, which it adds to its own one by one. With the last one the parts are gathered. So a step gives
//! the same bits for every number of ranks that divides its micro-batches.
//!
//! Another thread exchanges the buckets, one after the other (`sending`), while this one computes. On the CPU a bucket is sent as soon as
//! its gradients are whole, while those of earlier layers are computed ([`early`](unimo_core::kernels::early)); `plan` says in which order
//! they come.
//!
//! A parameter without a gradient is sent as `-0.0`, which changes no number that it is added to.
//!
//! With [`Order::Ranks`] a rank adds up its own micro-batches first, and gradients are exchanged once a step. That is another order for each
//! number of ranks.

use burn::module::Param;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Tensor};
use unimo_core::dtype::cast;
use unimo_core::parameters::{self, See};
use unimo_core::world::Wire;

use crate::error::TrainError;
use crate::model::Model;
use crate::ranks::plan::Plan;
use crate::ranks::sending::{Adding, Sending};

/// Values in a bucket: 25 MB.
pub(crate) const BUCKET: usize = 25_000_000 / size_of::<f32>();

/// The values in a bucket of some megabytes (10^6 bytes).
pub(crate) fn bucket(megabytes: f64) -> usize {
    // Whole values, of which an `f64` counts more than there is memory for.
    ((megabytes * 1e6) as usize / size_of::<f32>()).max(1)
}

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
pub(crate) struct Sum<'a> {
    model: &'a Model,
    wire: Wire,
    /// What this rank adds by itself.
    own: GradientsAccumulator<Model>,
    /// `None`: of one process.
    sending: Option<Sending<'a>>,
    /// Whether gradients are exchanged after each micro-batch.
    each: bool,
}

impl<'a> Sum<'a> {
    /// A sum of nothing. From here on until the end of the sum, gradients are heard.
    pub fn new(model: &'a Model, order: Order, adding: Adding<'a>) -> Self {
        // Of one micro-batch both orders are the same, and it need not be added before it is sent.
        let each = order == Order::MicroBatches || adding.micro == 1;
        let exchanges = if each { adding.micro } else { 1 };
        let among = !adding.world.is_alone();
        Self {
            model,
            wire: adding.wire,
            own: GradientsAccumulator::new(),
            sending: among.then(|| {
                let early = adding.early && each;
                Sending::new(model, Adding { early, ..adding }, exchanges)
            }),
            each,
        }
    }

    /// Adds gradients that all ranks have computed alike. They come before all others, and are not rounded.
    pub fn add_common(&mut self, gradients: GradientsParams) {
        match &mut self.sending {
            None => self.own.accumulate(self.model, gradients),
            Some(sending) => sending.add_common(&gradients),
        }
    }

    /// Is called before each of this rank's backward passes.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        match &mut self.sending {
            Some(sending) if self.each => sending.begin(),
            _ => Ok(()),
        }
    }

    /// Adds the gradients of this rank's next micro-batch, as far as they have not been sent, and those of the other ranks. `None`: it has
    /// no loss.
    pub fn add(&mut self, gradients: Option<GradientsParams>) -> Result<(), TrainError> {
        match (&mut self.sending, gradients) {
            (Some(sending), gradients) if self.each => sending.finish(gradients.as_ref()),
            (None, Some(gradients)) => {
                let gradients = rounded(self.model, gradients, self.wire);
                self.own.accumulate(self.model, gradients);
                Ok(())
            }
            (Some(_), Some(gradients)) => {
                self.own.accumulate(self.model, gradients);
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    /// The whole sum, the same on all ranks, and how the buckets of the next steps are sent, where that changes.
    pub fn whole(mut self) -> Result<(GradientsParams, Option<Plan>), TrainError> {
        let Some(mut sending) = self.sending else {
            let sum = self.own.grads();
            return Ok((rounded(self.model, sum, self.wire), None));
        };
        if !self.each {
            sending.begin()?;
            sending.finish(Some(&self.own.grads()))?;
        }
        sending.whole()
    }
}

/// Gradients as they would arrive.
fn rounded(model: &Model, gradients: GradientsParams, wire: Wire) -> GradientsParams {
    struct Round(GradientsParams);
    impl See for Round {
        fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                let dtype = FloatDType::from(gradient.dtype());
                let there = cast(cast(gradient, FloatDType::F32), FloatDType::BF16);
                self.0.register(param.id, cast(there, dtype));
            }
        }
    }
    if wire == Wire::F32 {
        return gradients;
    }
    let mut round = Round(gradients);
    parameters::see(model, &mut round);
    round.0
}
