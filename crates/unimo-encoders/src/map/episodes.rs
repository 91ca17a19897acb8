//! Episodes of different lengths: decisions one after the other, and the memory that runs over those of each.
//!
//! Shape legend: `B` episodes, `T` decisions of all, `S` decisions of the longest, `D` width.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, assert_shape};
use unimo_core::blocks::{BlockConfig, PreNormBlock};
use unimo_core::init::Init;
use unimo_core::layers::LayerNorm;
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

/// Where the decisions of each episode stand.
#[derive(Debug, Clone)]
pub(crate) struct Episodes {
    steps: Vec<usize>,
    longest: usize,
    device: Device,
}

impl Episodes {
    /// Of episodes with these numbers of decisions.
    pub fn new(steps: &[usize], device: &Device) -> Self {
        Self {
            steps: steps.to_vec(),
            longest: steps.iter().copied().max().unwrap_or(0),
            device: device.clone(),
        }
    }

    /// The number of each decision within its episode, from 0.
    ///
    /// # Shapes
    ///
    /// - output: `[T]`
    pub fn numbers(&self) -> Tensor<1, Int> {
        let numbers = self.steps.iter().flat_map(|&steps| 0..steps as i32);
        ints(numbers.collect(), &self.device)
    }

    /// Which positions are no decisions: `[B, S]`.
    pub fn mask(&self) -> PaddingMask {
        PaddingMask::from_lengths(&self.steps, self.longest, &self.device)
    }

    /// Each episode as a row. What follows its last decision is its first one again, which the mask hides and nobody reads.
    ///
    /// # Shapes
    ///
    /// - x: `[T, D]`
    /// - output: `[B, S, D]`
    pub fn padded(&self, x: Tensor<2>) -> Tensor<3> {
        let [_, width] = x.dims();
        assert_shape!(x, [self.steps.iter().sum::<usize>(), width]);
        let mut rows = Vec::with_capacity(self.steps.len() * self.longest);
        let mut first = 0;
        for &steps in &self.steps {
            rows.extend((0..self.longest).map(|at| {
                let at = if at < steps { at } else { 0 };
                (first + at) as i32
            }));
            first += steps;
        }
        let rows = ints(rows, &self.device);
        x.select(0, rows)
            .reshape([self.steps.len(), self.longest, width])
    }

    /// The decisions alone, one episode after the other.
    ///
    /// # Shapes
    ///
    /// - x: `[B, S, D]`
    /// - output: `[T, D]`
    pub fn flat(&self, x: Tensor<3>) -> Tensor<2> {
        let [rows, longest, width] = x.dims();
        assert_shape!(x, [self.steps.len(), self.longest, _]);
        let decisions = self.steps.iter().enumerate();
        let decisions = decisions
            .flat_map(|(row, &steps)| (0..steps).map(move |at| (row * longest + at) as i32));
        let decisions = ints(decisions.collect(), &self.device);
        x.reshape([rows * longest, width]).select(0, decisions)
    }
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Causal self-attention over the decisions of an episode, in the place of the paper's GRU: a decision sees itself and earlier ones.
#[derive(Module, Debug)]
pub struct Memory {
    /// Blocks.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks.
    pub norm: LayerNorm,
}

impl Memory {
    /// New weights.
    pub fn new(init: &mut Init, block: &BlockConfig, layers: usize) -> Self {
        Self {
            layers: (0..layers)
                .map(|_| PreNormBlock::new(init, block))
                .collect(),
            norm: LayerNorm::new(init, block.width, block.layer_norm_eps),
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[B, S, D]`
    /// - mask: `[B, S]`
    pub fn forward(&self, x: Tensor<3>, mask: Option<&PaddingMask>) -> Tensor<3> {
        let [_, length, _] = x.dims();
        let earlier = PairMask::causal(length, &x.device());
        let hidden = Hidden {
            keys: mask,
            pairs: Some(&earlier),
        };
        let read = self
            .layers
            .iter()
            .fold(x, |x, block| block.forward(x, hidden));
        self.norm.forward(read)
    }
}
