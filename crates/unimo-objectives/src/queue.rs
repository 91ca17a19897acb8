//! Features of past batches, which a contrast compares new ones with (MoCo, ALBEF).
//!
//! Shape legend: `B` samples, `E` width of the features, `Q` length of the queue.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Tensor};
use unimo_core::init::Init;
use unimo_core::layers::normalise;
use unimo_core::parameters;

use crate::contrast::{self, IDENTITY};
use crate::labels::ints;
use crate::outcome::Carry;

/// A ring of the last `Q` samples' features, with the image that each sample shows. Nothing here tracks gradients.
#[derive(Module, Debug)]
pub struct Queue {
    /// `[Q, E]` for each kind of features.
    pub features: Vec<Param<Tensor<2>>>,
    /// `[Q, 3]`: the image of each row; zeros if it is not known.
    pub pictures: Param<Tensor<2>>,
    /// `[1]`: the row that the next features replace. A float, so that checkpoints hold one kind of tensor; exact up
    /// to 2^24 rows.
    pub cursor: Param<Tensor<1>>,
    /// The kinds, by the objective's names for them.
    #[module(skip)]
    names: Vec<&'static str>,
}

impl Queue {
    /// A queue filled with random directions.
    pub fn new(init: &mut Init, names: &[&'static str], length: usize, width: usize) -> Self {
        let mut random = || frozen(normalise(init.normal([length, width]).val()));
        Self {
            features: names.iter().map(|_| random()).collect(),
            pictures: frozen(init.constant([length, IDENTITY], 0.0).val()),
            cursor: frozen(init.constant([1], 0.0).val()),
            names: names.to_vec(),
        }
    }

    /// The same with the features that it holds multiplied by a factor, for those that are not of length 1.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        let scaled = |param: Param<Tensor<2>>| parameters::update(param, |x| x.mul_scalar(factor));
        self.features = self.features.into_iter().map(scaled).collect();
        self
    }

    /// The number of samples that it holds.
    pub fn length(&self) -> usize {
        let [length, _] = self.pictures.dims();
        length
    }

    /// `[Q, E]`: the features of a kind.
    ///
    /// # Panics
    ///
    /// Panics if it has no such kind.
    pub fn of(&self, name: &str) -> Tensor<2> {
        let found = self.names.iter().position(|other| *other == name);
        let at = found.expect("invariant: an objective asks for a kind that it queues");
        self.features[at].val()
    }

    /// Writes a step's features over the oldest rows. If they do not all fit, the last ones stay.
    ///
    /// # Shapes
    ///
    /// - features: `[B, E]` of each kind
    pub fn push(&mut self, carry: &Carry) {
        let queue = self.length();
        let rows = carry.pictures.len();
        let cursor = self.cursor.val().into_scalar::<f32>() as usize;
        let at: Vec<i32> = (0..rows).map(|i| ((cursor + i) % queue) as i32).collect();
        let first = rows.saturating_sub(queue);
        let replace = |param: &mut Param<Tensor<2>>, new: Tensor<2>| {
            let new = new.without_autodiff();
            let at = ints(at[first..].to_vec(), &new.device());
            *param = parameters::update(param.clone(), |old| {
                let kept = old.clone().select(0, at.clone());
                let delta = new.narrow(0, first, rows - first) - kept;
                old.select_assign(0, at, delta, IndexingUpdateOp::Add)
            });
        };
        for (name, param) in self.names.iter().zip(&mut self.features) {
            replace(param, carry.features.of(name));
        }
        let pictures = contrast::stored(&carry.pictures, &self.pictures.device());
        replace(&mut self.pictures, pictures);
        let next = ((cursor + rows) % queue) as f32;
        self.cursor = parameters::update(self.cursor.clone(), |old| old.zeros_like() + next);
    }
}

fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value.detach()).set_require_grad(false)
}
