//! Heads whose decoder is a table of the model: the word embedding, or the codes of the grounded dictionary.
//!
//! ```text
//! logits = LN(GELU(W x)) E^T + b
//! ```
//!
//! Shape legend: `M` positions, `D` width, `V` entries of the table.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Activation, LayerNorm, Linear};

/// BERT's transform, and a bias for each entry of the table.
#[derive(Module, Debug)]
pub struct TiedHead {
    /// `D -> D`.
    pub dense: Linear,
    /// Layer norm after the activation.
    pub norm: LayerNorm,
    /// `[V]`.
    pub bias: Param<Tensor<1>>,
}

impl TiedHead {
    /// A head with new weights.
    pub fn new(init: &mut Init, width: usize, entries: usize, layer_norm_eps: f64) -> Self {
        Self {
            dense: Linear::new(init, width, width, true),
            norm: LayerNorm::new(init, width, layer_norm_eps),
            bias: init.constant([entries], 0.0),
        }
    }

    /// Logits of every entry.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - table: `[V, D]`
    /// - output: `[M, V]`
    pub fn logits(&self, states: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
        let hidden = Activation::Gelu.forward(self.dense.forward(states));
        tied_logits(self.norm.forward(hidden), table, Some(&self.bias))
    }
}

/// `x E^T + b`.
///
/// # Shapes
///
/// - x: `[M, D]`; table: `[V, D]`; bias: `[V]`
/// - output: `[M, V]`
pub(crate) fn tied_logits(
    x: Tensor<2>,
    table: Tensor<2>,
    bias: Option<&Param<Tensor<1>>>,
) -> Tensor<2> {
    let table = same_dtype(table, &x).transpose();
    let bias = bias.map(|bias| same_dtype(bias.val(), &x));
    kernels::linear(x, table, bias)
}
