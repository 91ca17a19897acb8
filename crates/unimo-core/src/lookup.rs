//! Attention with one head that gives back the memory as it is: only queries and keys are projected. It is what agents that follow
//! instructions look words and places up by (Krantz et al. 2020, section 4.2; WS-MGMap).
//!
//! ```text
//! w = softmax((Wq q) · (Wk m) / sqrt(D))        hidden keys left out
//! y = sum_k w_k m_k
//! ```
//!
//! Shape legend: `B` rows, `Q` queries of width `Dq`, `K` keys of width `Dm`, `D` width of the comparison.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};

use crate::attention::attention_weights;
use crate::init::Init;
use crate::layers::Linear;
use crate::mask::PaddingMask;

/// Attention with one head over a memory that is not projected.
#[derive(Module, Debug)]
pub struct Lookup {
    /// `Dq -> D`.
    pub query: Linear,
    /// `Dm -> D`.
    pub key: Linear,
}

impl Lookup {
    /// For queries and a memory of these widths, which are compared at `width`.
    pub fn new(init: &mut Init, [query, memory]: [usize; 2], width: usize) -> Self {
        Self {
            query: Linear::new(init, query, width, true),
            key: Linear::new(init, memory, width, true),
        }
    }

    /// What each query finds, and its weights, which sum to 1.
    ///
    /// # Shapes
    ///
    /// - query: `[B, Q, Dq]`
    /// - memory: `[B, K, Dm]`
    /// - mask: `[B, K]`
    /// - output: `[B, Q, Dm]` and `[B, Q, K]`
    pub fn forward(
        &self,
        query: Tensor<3>,
        memory: Tensor<3>,
        mask: Option<&PaddingMask>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [rows, _, _] = query.dims();
        let [of_memory, _] = self.key.weight.dims();
        assert_shape!(memory, [rows, _, of_memory]);
        let queries = self.query.forward(query).unsqueeze_dim::<4>(1);
        let keys = self.key.forward(memory.clone()).unsqueeze_dim::<4>(1);
        let weights: Tensor<3> = attention_weights(queries, keys, mask).squeeze_dim(1);
        (weights.clone().matmul(memory), weights)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// f32 sums of a few products of numbers around 1.
    const ROUNDING: f32 = 1e-6;

    /// Weights sum to 1, hidden keys have none, and what is found is the mean of the memory under them.
    #[test]
    fn hidden_keys_are_not_found() {
        let device = Device::flex();
        let mut init = Init::new(&device, 3).with_deviation(1.0);
        let lookup = Lookup::new(&mut init, [3, 2], 4);
        let query = init.uniform([2, 2, 3], 1.0).val();
        let memory = Tensor::<3>::from_floats(
            [
                [[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]],
                [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
            ],
            &device,
        );
        let mask = PaddingMask::from_lengths(&[2, 3], 3, &device);
        let (found, weights) = lookup.forward(query, memory, Some(&mask));
        assert_eq!((found.dims(), weights.dims()), ([2, 2, 2], [2, 2, 3]));
        let list = |x: Tensor<3>| -> Vec<f32> { x.into_data().iter::<f32>().collect() };
        let (found, weights) = (list(found), list(weights));
        for (at, row) in weights.chunks(3).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < ROUNDING);
            let last = if at < 2 { 0.0 } else { row[2] };
            assert_eq!(row[2], last);
            for channel in 0..2 {
                let mean = row[channel] + last;
                assert!((found[2 * at + channel] - mean).abs() < ROUNDING);
            }
        }
    }
}
