//! A grid of cells or pixels as tokens: patches, places and the blocks of a ViT without a class token.
//!
//! Shape legend: `T` grids, `C` channels, `H x W` cells or pixels, `p` of them on a side of a patch, `P` tokens, `D` width.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use unimo_core::blocks::{BlockConfig, PreNormBlock};
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, LayerNorm, Linear};

use crate::image::patches_of;

/// What a grid is like.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// `C`.
    pub channels: usize,
    /// `H` and `W`.
    pub sides: [usize; 2],
    /// `p`.
    pub patch: usize,
}

/// Reads a grid.
#[derive(Module, Debug)]
pub struct PatchEncoder {
    /// `[C * p * p, D]`, channels first.
    pub patch_embedding: Linear,
    /// `[P, D]`.
    pub position_embedding: Param<Tensor<2>>,
    /// Dropout on the embeddings.
    pub dropout: Dropout,
    /// Blocks.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks.
    pub norm: LayerNorm,
    patch_size: usize,
}

impl PatchEncoder {
    /// New weights.
    pub fn new(init: &mut Init, block: &BlockConfig, grid: Grid, layers: usize) -> Self {
        let Grid {
            channels,
            sides: [height, width],
            patch,
        } = grid;
        let tokens = (height / patch) * (width / patch);
        let inputs = channels * patch * patch;
        Self {
            patch_embedding: Linear::new(init, inputs, block.width, true),
            position_embedding: init.normal([tokens, block.width]),
            dropout: Dropout::new(block.dropout),
            layers: (0..layers)
                .map(|_| PreNormBlock::new(init, block))
                .collect(),
            norm: LayerNorm::new(init, block.width, block.layer_norm_eps),
            patch_size: patch,
        }
    }

    /// # Shapes
    ///
    /// - grids: `[T, C, H, W]`
    /// - output: `[T, P, D]`, row by row
    pub fn forward(&self, grids: Tensor<4>) -> Tensor<3> {
        let [rows, _, height, width] = grids.dims();
        let tokens = (height / self.patch_size) * (width / self.patch_size);
        assert_shape!(self.position_embedding, [tokens, _]);
        let patches = patches_of(grids, self.patch_size);
        assert_shape!(patches, [rows, tokens, _]);
        let patches = self.patch_embedding.forward(patches);
        let places = same_dtype(self.position_embedding.val(), &patches).unsqueeze::<3>();
        let x = self.dropout.forward(patches + places);
        let read = self
            .layers
            .iter()
            .fold(x, |x, block| block.forward(x, None));
        self.norm.forward(read)
    }
}
