//! `[model.text.neighbours]`: blocks of a text encoder in which a word reads the words beside it and no others.
//!
//! Shape legend: `B` texts, `L` positions, `D` width.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::BlockConfig;
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, LayerNorm, Linear};
use unimo_core::mask::Hidden;
use unimo_encoders::registry::text::{TextModel, TextModelConfig};

/// Its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighboursConfig {
    /// Dropout in the blocks.
    pub dropout: f64,
}

impl TextModelConfig for NeighboursConfig {
    type Model = Neighbours;

    fn validate(&self, _block: &BlockConfig) -> Result<(), ConfigError> {
        config::open_share("dropout", self.dropout)
    }

    fn without_dropout(&self) -> Self {
        Self { dropout: 0.0 }
    }

    fn init(&self, block: &BlockConfig, layers: usize, init: &mut Init) -> Neighbours {
        let layers = (0..layers).map(|_| Block {
            mix: Linear::new(init, 3 * block.width, block.width, true),
            dropout: Dropout::new(self.dropout),
            norm: LayerNorm::new(init, block.width, block.layer_norm_eps),
        });
        Neighbours {
            layers: layers.collect(),
        }
    }
}

/// The blocks.
#[derive(Module, Debug)]
pub struct Neighbours {
    layers: Vec<Block>,
}

#[derive(Module, Debug)]
struct Block {
    mix: Linear,
    dropout: Dropout,
    norm: LayerNorm,
}

impl Block {
    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    /// - seen: `[B, L, 1]`, 0 where nothing may be read
    fn forward(&self, x: Tensor<3>, seen: Option<&Tensor<3>>) -> Tensor<3> {
        let [rows, length, width] = x.dims();
        let read = match seen {
            Some(seen) => x.clone() * same_dtype(seen.clone(), &x),
            None => x.clone(),
        };
        let none = read.clone().narrow(1, 0, 1).zeros_like();
        let before = read.clone().narrow(1, 0, length - 1);
        let after = read.clone().narrow(1, 1, length - 1);
        let beside = vec![
            Tensor::cat(vec![none.clone(), before], 1),
            read,
            Tensor::cat(vec![after, none], 1),
        ];
        let mixed = self.mix.forward(Tensor::cat(beside, 2));
        debug_assert_eq!(mixed.dims(), [rows, length, width]);
        self.norm.forward(x + self.dropout.forward(mixed))
    }
}

impl TextModel for Neighbours {
    /// # Shapes
    ///
    /// - embedded: `[B, L, D]`
    /// - output: `keep` times `[B, L, D]`
    fn forward(&self, embedded: Tensor<3>, hidden: Hidden<'_>, keep: usize) -> Vec<Tensor<3>> {
        let [rows, length, _] = embedded.dims();
        let seen = hidden.keys.map(|keys| {
            let seen = keys.hidden().bool_not().float();
            seen.reshape([rows, length, 1])
        });
        let mut states = vec![embedded];
        for layer in &self.layers {
            let last = states[states.len() - 1].clone();
            states.push(layer.forward(last, seen.as_ref()));
        }
        let first = states.len() - keep;
        states.split_off(first)
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn draws(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.dropout.probability > 0.0)
    }
}
