//! `[model.rows]`: an image encoder whose positions are the rows of pixels.
//!
//! Shape legend: `B` images, `S` pixels per side, `D` width.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::{self, BlockConfig, PreNormBlock};
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, LayerNorm, Linear};
use unimo_encoders::registry::{EncoderShape, ImageModel, ImageModelConfig};

/// Its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsConfig {
    /// `S`.
    pub image_size: usize,
    /// `D`.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Dropout in the blocks.
    pub dropout: f64,
}

const EPS: f64 = 1e-5;

impl RowsConfig {
    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: 2,
            feed_forward: 2 * self.width,
            activation: Activation::Gelu,
            layer_norm_eps: EPS,
            dropout: self.dropout,
            drop_path: 0.0,
        }
    }
}

impl ImageModelConfig for RowsConfig {
    type Model = Rows;

    fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        config::positive("image_size", self.image_size)
    }

    fn shape(&self) -> EncoderShape {
        EncoderShape {
            image_size: self.image_size,
            width: self.width,
            layers: self.layers,
            class_tokens: 1,
            layer_norm_eps: EPS,
        }
    }

    fn without_dropout(&self) -> Self {
        Self {
            dropout: 0.0,
            ..self.clone()
        }
    }

    fn init(&self, init: &mut Init) -> Rows {
        let block = self.block();
        let positions = [1 + self.image_size, self.width];
        Rows {
            row: Linear::new(init, 3 * self.image_size, self.width, true),
            class: init.normal([self.width]),
            positions: init.normal(positions),
            layers: (0..self.layers)
                .map(|_| PreNormBlock::new(init, &block))
                .collect(),
            post_norm: LayerNorm::new(init, self.width, EPS),
            dtype: FloatDType::F32,
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Rows {
    row: Linear,
    class: Param<Tensor<1>>,
    positions: Param<Tensor<2>>,
    layers: Vec<PreNormBlock>,
    post_norm: LayerNorm,
    #[module(skip)]
    dtype: FloatDType,
}

impl ImageModel for Rows {
    /// # Shapes
    ///
    /// - pixels: `[B, 3, S, S]`
    /// - output: `keep` times `[B, 1 + S, D]`
    fn forward(&self, pixels: Tensor<4>, keep: usize) -> Vec<Tensor<3>> {
        let [count, _, high, wide] = pixels.dims();
        assert_shape!(pixels, [_, 3, _, _]);
        let rows = cast(pixels, self.dtype).permute([0, 2, 1, 3]);
        let rows = self.row.forward(rows.reshape([count, high, 3 * wide]));
        let [_, _, width] = rows.dims();
        let class = same_dtype(self.class.val(), &rows);
        let class = class.reshape([1, 1, width]).expand([count, 1, width]);
        let positions = same_dtype(self.positions.val(), &rows);
        let x = Tensor::cat(vec![class, rows], 1) + positions.unsqueeze::<3>();
        let states = blocks::last_states(&self.layers, x, keep, |block, x| block.forward(x, None));
        let finished = states
            .into_iter()
            .map(|state| self.post_norm.forward(state));
        finished.collect()
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn compute_in(&mut self, dtype: FloatDType) {
        self.dtype = dtype;
    }
}
