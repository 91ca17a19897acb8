//! CLIP: an image tower and a text tower with one common space.
//!
//! Source: Radford et al. 2021; layout as Hugging Face's `CLIPModel`. The image tower is [`crate::image`]. The text tower
//! reads from left to right, and its state at the end token stands for the text.
//!
//! Shape legend: `B` rows, `L` positions, `D` width, `E` width of the common space.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::{BlockConfig, PreNormBlock};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Embedding, LayerNorm, Linear, normalise};
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

use crate::image::{ImageEncoder, ImageEncoderConfig};

/// CLIP's text tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// `D`.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Rows of the position embedding: the longest text.
    pub max_positions: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// The end token, whose first state stands for the text. If absent: the highest id of the text, as in OpenAI's CLIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_id: Option<i32>,
}

/// Both towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Text tower.
    pub text: ClipTextConfig,
    /// Image tower.
    pub image: ImageEncoderConfig,
    /// `E`.
    pub width: usize,
}

impl ClipConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.image.validate().map_err(|e| e.within("image"))?;
        config::positive("width", self.width)?;
        let text = || -> Result<(), ConfigError> {
            config::heads_divide(self.text.width, self.text.heads)?;
            config::positive("layers", self.text.layers)?;
            config::positive("feed_forward", self.text.feed_forward)?;
            config::positive("vocab_size", self.text.vocab_size)?;
            config::positive("max_positions", self.text.max_positions)?;
            config::above_zero("layer_norm_eps", self.text.layer_norm_eps)
        };
        text().map_err(|e| e.within("text"))
    }

    /// New towers.
    pub fn init(&self, init: &mut Init) -> Clip {
        let text = &self.text;
        let block = BlockConfig {
            width: text.width,
            heads: text.heads,
            feed_forward: text.feed_forward,
            activation: text.activation,
            layer_norm_eps: text.layer_norm_eps,
            dropout: 0.0,
            drop_path: 0.0,
        };
        Clip {
            text: ClipTextEncoder {
                word_embedding: Embedding::new(init, text.vocab_size, text.width),
                position_embedding: Embedding::new(init, text.max_positions, text.width),
                layers: (0..text.layers)
                    .map(|_| PreNormBlock::new(init, &block))
                    .collect(),
                final_norm: LayerNorm::new(init, text.width, text.layer_norm_eps),
                end_id: text.end_id,
            },
            image: self.image.init(init),
            text_projection: Linear::new(init, text.width, self.width, false),
            image_projection: Linear::new(init, self.image.width, self.width, false),
            logit_scale: init.constant([1], INITIAL_LOGIT_SCALE),
        }
    }
}

/// `ln(1 / 0.07)`.
const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// CLIP's text tower.
#[derive(Module, Debug)]
pub struct ClipTextEncoder {
    /// `[vocabulary, D]`.
    pub word_embedding: Embedding,
    /// `[positions, D]`.
    pub position_embedding: Embedding,
    /// Blocks.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks.
    pub final_norm: LayerNorm,
    #[module(skip)]
    end_id: Option<i32>,
}

/// CLIP.
#[derive(Module, Debug)]
pub struct Clip {
    /// Text tower.
    pub text: ClipTextEncoder,
    /// Image tower.
    pub image: ImageEncoder,
    /// Text width to `E`.
    pub text_projection: Linear,
    /// Image width to `E`.
    pub image_projection: Linear,
    /// `[1]`: similarities are multiplied by its exponential.
    pub logit_scale: Param<Tensor<1>>,
}

/// Texts on a device.
#[derive(Debug, Clone)]
pub struct ClipTextInput {
    /// `[B, L]`.
    pub ids: Tensor<2, Int>,
    /// `[B, L]`.
    pub mask: PaddingMask,
    /// `[B]`: flat positions `row * L + end` of the end tokens.
    pub ends: Tensor<1, Int>,
}

impl ClipTextEncoder {
    /// Moves texts to a device.
    ///
    /// # Shapes
    ///
    /// - ids: `[B, L]`, row-major, with `L = length`
    /// - lengths: `[B]`, the leading positions of each row that are text
    pub fn input(
        &self,
        ids: &[i32],
        lengths: &[usize],
        length: usize,
        device: &Device,
    ) -> ClipTextInput {
        let rows = lengths.len();
        let ends: Vec<i32> = ids
            .chunks(length)
            .enumerate()
            .map(|(row, ids)| {
                let highest = || ids.iter().max().copied();
                let end = self.end_id.or_else(highest);
                let at = ids.iter().position(|id| Some(*id) == end).unwrap_or(0);
                (row * length + at) as i32
            })
            .collect();
        ClipTextInput {
            ids: Tensor::from_data(TensorData::new(ids.to_vec(), [rows, length]), device),
            mask: PaddingMask::from_lengths(lengths, length, device),
            ends: Tensor::from_data(TensorData::new(ends, [rows]), device),
        }
    }

    /// The states after the final norm.
    ///
    /// # Shapes
    ///
    /// - input: `[B, L]`
    /// - output: `[B, L, D]`
    ///
    /// # Panics
    ///
    /// Panics if `L` is beyond the position embedding.
    pub fn forward(&self, input: &ClipTextInput) -> Tensor<3> {
        let [rows, length] = input.ids.dims();
        let [_, width] = self.word_embedding.weight.dims();
        let positions = self.position_embedding.weight.val().narrow(0, 0, length);
        let mut x =
            self.word_embedding.forward(input.ids.clone()) + positions.unsqueeze_dim::<3>(0);
        assert_shape!(x, [rows, length, width]);
        let causal = PairMask::causal(length, &input.ids.device());
        let mask = Hidden {
            keys: Some(&input.mask),
            pairs: Some(&causal),
        };
        for (at, layer) in self.layers.iter().enumerate() {
            let _part = unimo_core::part!(Some(x.device()), "block", at = at);
            x = layer.forward(x, mask);
        }
        self.final_norm.forward(x)
    }
}

impl Clip {
    /// Embeddings of texts in the common space, each of length 1.
    ///
    /// # Shapes
    ///
    /// - input: `[B, L]`
    /// - output: `[B, E]`
    pub fn embed_texts(&self, input: &ClipTextInput) -> Tensor<2> {
        let states = self.text.forward(input);
        let [rows, length, width] = states.dims();
        let ends = states
            .reshape([rows * length, width])
            .select(0, input.ends.clone());
        normalise(self.text_projection.forward(ends))
    }

    /// Embeddings of images in the common space, each of length 1.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, H, W]`
    /// - output: `[B, E]`
    pub fn embed_images(&self, pixels: Tensor<4>) -> Tensor<2> {
        let last = self.image.forward(pixels, 1).remove(0);
        let class = last.narrow(1, 0, 1).squeeze_dim::<2>(1);
        normalise(
            self.image_projection
                .forward(self.image.post_norm.forward(class)),
        )
    }

    /// Scaled similarities.
    ///
    /// # Shapes
    ///
    /// - texts: `[T, E]`; images: `[I, E]`
    /// - output: `[I, T]`
    pub fn logits_per_image(&self, texts: Tensor<2>, images: Tensor<2>) -> Tensor<2> {
        images.matmul(texts.transpose()) * self.logit_scale.val().exp().reshape([1, 1])
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    /// f32 rounding over two blocks of width 8.
    const TOLERANCE: f64 = 1e-5;

    fn config() -> ClipConfig {
        ClipConfig {
            text: ClipTextConfig {
                vocab_size: 20,
                width: 8,
                layers: 2,
                heads: 2,
                feed_forward: 16,
                max_positions: 9,
                activation: Activation::QuickGelu,
                layer_norm_eps: 1e-5,
                end_id: Some(19),
            },
            image: ImageEncoderConfig {
                image_size: 8,
                patch_size: 4,
                width: 8,
                layers: 2,
                heads: 2,
                feed_forward: 16,
                activation: Activation::QuickGelu,
                layer_norm_eps: 1e-5,
                pre_norm: true,
                patch_bias: false,
                distillation_token: false,
                qkv_bias: true,
                stem: None,
                mask_embedding: false,
                dropout: 0.0,
                drop_path: 0.0,
            },
            width: 6,
        }
    }

    #[test]
    fn what_follows_the_end_changes_nothing() {
        let device = Device::flex();
        let config = config();
        config.validate().unwrap();
        let clip = config.init(&mut Init::new(&device, 1));
        let embed = |ids: &[i32], length: usize| {
            let input = clip.text.input(ids, &[length], ids.len(), &device);
            clip.embed_texts(&input).into_data()
        };
        let short = embed(&[18, 3, 4, 19], 4);
        for longer in [&[18, 3, 4, 19, 19, 19][..], &[18, 3, 4, 19, 7, 0, 0]] {
            for length in [4, longer.len()] {
                let long = embed(longer, length);
                short.assert_approx_eq::<f32>(&long, Tolerance::absolute(TOLERANCE));
            }
        }
    }
}
