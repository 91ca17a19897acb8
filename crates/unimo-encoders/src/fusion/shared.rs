//! Cross layers that are the text encoder's own blocks (SIMLA, Khan et al. 2022; read from its release).
//!
//! The text encoder reads a text alone. With an attention to a memory between the two halves of each block, the same blocks fuse a text with
//! an image, from the word embeddings up, and an image with a text:
//!
//! ```text
//! A  = LN(X + SelfAttn(X))
//! A' = LN(A + CrossAttn(A, M))         left out where a text is read alone
//! X  = LN(A' + FFN(A'))
//!
//! texts:   X = embedded words,                          M = states of the image encoder
//! images:  X = LN(states of the image encoder + P),     M = embedded words
//! ```
//!
//! with `P` the text encoder's position embedding. Only the attention to the memory and its norm are weights of their own.
//!
//! Shape legend: `B` rows, `L` positions of the query, `K` of the memory, `D` width, `H` heads.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use unimo_core::attention::{Attention, Weights};
use unimo_core::blocks::PostNormBlock;
use unimo_core::init::Init;
use unimo_core::layers::{DropPath, Dropout, LayerNorm};
use unimo_core::mask::{Hidden, PaddingMask};

use super::{CrossModalEncoder, FusionConfig};
use crate::output::{Keep, LayerAttention, StreamAttention};

/// What a block of the text encoder gets to read another modality.
#[derive(Module, Debug)]
pub struct SharedLayer {
    /// Attention to the memory.
    pub cross_attention: Attention,
    /// Norm after it.
    pub cross_norm: LayerNorm,
    /// Dropout on its residual branch.
    pub dropout: Dropout,
    /// Leaves out its residual branch.
    pub drop_path: DropPath,
}

/// What the states of a pass come with.
#[derive(Debug, Default)]
pub struct Kept {
    /// Per layer the attention to the memory; empty unless asked for.
    pub attention: Vec<LayerAttention>,
    /// `[B, H, L]`: the self-attention of the first position in the last block, if asked for.
    pub class: Option<Tensor<3>>,
    /// `[B, L, K]`: the attention to the memory in one block, the mean over its heads, if asked for.
    pub text: Option<Tensor<3>>,
}

impl SharedLayer {
    pub(super) fn new(init: &mut Init, config: &FusionConfig, layer: usize) -> Self {
        let FusionConfig {
            width,
            heads,
            dropout,
            ..
        } = *config;
        Self {
            cross_attention: Attention::new(init, width, heads, dropout),
            cross_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            dropout: Dropout::new(dropout),
            drop_path: DropPath::new(DropPath::rate(config.drop_path, layer, config.layers)),
        }
    }

    /// # Shapes
    ///
    /// - a, output: `[B, L, D]`
    /// - memory: `[B, K, D]`, with its mask `[B, K]` if some of it is padding
    fn read(
        &self,
        a: Tensor<3>,
        (memory, mask): (&Tensor<3>, Option<&PaddingMask>),
        kept: Option<&mut Vec<Weights>>,
    ) -> Tensor<3> {
        let attention = &self.cross_attention;
        let read = attention.forward_keeping(a.clone(), memory.clone(), mask, kept);
        let read = self.drop_path.forward(self.dropout.forward(read));
        self.cross_norm.forward(a + read)
    }
}

impl CrossModalEncoder {
    /// Runs the text encoder's blocks over embedded positions that read a memory. With `class` the first position's self-attention in the
    /// last block is kept.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`; hidden: `[B, L]`
    /// - memory: `[B, K, D]`, with its mask `[B, K]` if some of it is padding
    pub fn through_blocks(
        &self,
        blocks: &[PostNormBlock],
        (mut x, hidden): (Tensor<3>, Hidden<'_>),
        memory: (&Tensor<3>, Option<&PaddingMask>),
        (keep, class): (Keep, bool),
    ) -> (Tensor<3>, Kept) {
        let [rows, _, width] = x.dims();
        assert_shape!(memory.0, [rows, _, width]);
        assert_eq!(blocks.len(), self.shared.len(), "a layer for each block");
        let mut kept = Kept::default();
        let mut own = Vec::new();
        for (at, (block, layer)) in blocks.iter().zip(&self.shared).enumerate() {
            let _part = unimo_core::part!(Some(x.device()), "block", at = at);
            let last = class && at + 1 == blocks.len();
            let mut across = Vec::new();
            let keeps = (keep.of_layer(at) == Keep::Attention).then_some(&mut across);
            let own = last.then_some(&mut own);
            x = block.forward_around(x, hidden, own, |a| layer.read(a, memory, keeps));
            let text = StreamAttention {
                in_layer: across.pop(),
                ..StreamAttention::default()
            };
            match keep {
                Keep::Attention => kept.attention.push(LayerAttention {
                    text,
                    image: StreamAttention::default(),
                }),
                Keep::TextAttention(layer) if layer == at => kept.text = text.mean(),
                _ => {}
            }
        }
        kept.class = own.pop().map(|weights| {
            let first = weights.values().narrow(2, 0, 1);
            first.squeeze_dim::<3>(2)
        });
        (x, kept)
    }
}
