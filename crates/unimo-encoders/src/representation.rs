//! Tokens that a frozen CLIP reads beside patches and words (MMRL): a small table shared by both towers, with a linear layer for each
//! upper layer of each tower.
//!
//! ```text
//! image, layer l:  [c, F_v^l(R), e_1 .. e_N]      text, layer l:  [BOS, F_t^l(R), words .. end, padding]
//! ```
//!
//! Before the first of these layers the tokens are put in behind the first position. Before each later one they take the place of what the
//! layer below made of them: only the last layer's output of them is read. Texts stay causal: the tokens see BOS and each other from left
//! to right, words see both. The tokens have no positions.
//!
//! What lies below the first of these layers, and CLIP as it is, track no gradient and run without autodiff.
//!
//! Source: Guo and Gu 2025 (arXiv 2503.08497); `trainers/mmrl.py` and `clip/model_mmrl.py` of the release. All linear layers of a tower
//! start as copies of one draw, as there.
//!
//! Shape legend: `B` images, `N` texts, `L` positions, `K` tokens, `W` width of the table, `D` width of a tower.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::PreNormBlock;
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_core::mask::{Hidden, PaddingMask};

use crate::image::ImageEncoderConfig;
use crate::text::{TextEncoderConfig, TextTower};

/// `[model.representation]`: tokens that both towers of a frozen CLIP read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepresentationConfig {
    /// `K`: number of tokens, 5 in MMRL.
    pub tokens: usize,
    /// `W`: numbers of a token before it is brought to the width of a tower, 512 in MMRL.
    pub width: usize,
    /// The first and the last layer that gets them, counted from 1: 6 to 12 in MMRL.
    pub layers: [usize; 2],
}

impl RepresentationConfig {
    /// Checks every value against the encoders. `tags` says whether the image encoder reads the names of objects.
    pub(crate) fn validate_with(
        &self,
        text: &TextEncoderConfig,
        image: Option<&ImageEncoderConfig>,
        tags: bool,
    ) -> Result<(), ConfigError> {
        config::positive("tokens", self.tokens)?;
        config::positive("width", self.width)?;
        let Some(image) = image else {
            return ConfigError::of_section(
                false,
                "needs an image encoder of pixels, [model.image]",
            );
        };
        for (holds, reason) in [
            (
                text.tower == TextTower::Clip,
                "needs model.text.tower = \"clip\": the tokens stand behind the begin token of a text that is read from left to right",
            ),
            (
                !image.distillation_token,
                "needs model.image.distillation_token = false: the tokens stand behind the only class token",
            ),
            (
                !tags,
                "needs model.image_tags = false: the tokens are read beside patches alone",
            ),
            (
                image.dropout + image.drop_path + text.dropout + text.drop_path == 0.0,
                "needs encoders without dropout and drop_path: they are frozen",
            ),
        ] {
            ConfigError::of_section(holds, reason)?;
        }
        let depth = image.layers.min(text.layers);
        let [first, last] = self.layers;
        ConfigError::unless(
            1 <= first && first <= last && last <= depth,
            "layers",
            format_args!("[{first}, {last}]"),
            format_args!(
                "must be [first, last] with 1 <= first <= last <= {depth}, the layers of the shallower tower"
            ),
        )
    }

    /// New tokens for towers of these widths.
    pub(crate) fn init(&self, init: &mut Init, text: usize, image: usize) -> Representation {
        let [first, last] = self.layers;
        let tokens = init.normal([self.tokens, self.width]);
        let mut copies = |width: usize| -> Vec<Linear> {
            // PyTorch's own initialisation of a linear layer, which the release leaves as it is.
            let bound = (self.width as f32).sqrt().recip();
            let weight = init.uniform([self.width, width], bound).val();
            let bias = init.uniform([width], bound).val();
            // Leaves of their own: else the gradients of all copies would go to the first.
            let copy = || Linear {
                weight: Param::from_tensor(weight.clone().detach()),
                bias: Some(Param::from_tensor(bias.clone().detach())),
            };
            (first..=last).map(|_| copy()).collect()
        };
        Representation {
            image: copies(image),
            text: copies(text),
            tokens,
            below: first - 1,
        }
    }
}

/// Tokens that both towers read.
#[derive(Module, Debug)]
pub struct Representation {
    /// `R`, `[K, W]`.
    pub tokens: Param<Tensor<2>>,
    /// `F_v`: `W -> D` for each layer of the image tower that gets tokens.
    pub image: Vec<Linear>,
    /// `F_t`: the same of the text tower.
    pub text: Vec<Linear>,
    /// Number of blocks below the first that gets tokens.
    pub below: usize,
}

impl Representation {
    /// Runs the upper blocks with the tokens put in.
    ///
    /// # Shapes
    ///
    /// - x: `[B, L, D]`, the states below
    /// - mask: of `L + K` positions
    /// - output: `[B, L + K, D]`, before the final norm
    pub(crate) fn through(
        &self,
        blocks: &[PreNormBlock],
        layers: &[Linear],
        mut x: Tensor<3>,
        mask: Hidden<'_>,
    ) -> Tensor<3> {
        let [rows, _, width] = x.dims();
        let [count, _] = self.tokens.dims();
        for (at, block) in blocks.iter().enumerate() {
            if let Some(layer) = layers.get(at) {
                let tokens = same_dtype(layer.forward(self.tokens.val()), &x);
                let tokens = tokens.unsqueeze_dim::<3>(0).expand([rows, count, width]);
                let taken = if at == 0 { 0 } else { count };
                let [_, length, _] = x.dims();
                let first = x.clone().narrow(1, 0, 1);
                let rest = x.narrow(1, 1 + taken, length - 1 - taken);
                x = Tensor::cat(vec![first, tokens, rest], 1);
            }
            x = block.forward(x, mask);
        }
        x
    }
}

/// Texts below the first layer that gets tokens, and as CLIP reads them. Both are constants, kept for as long as the texts are the same. The encoders
/// make and read them: `texts_below` and `represent_texts` of a [`Backbone`](crate::backbone::Backbone).
#[derive(Debug, Clone)]
pub struct TextsBelow {
    /// `[N, L, D]`.
    pub(crate) states: Tensor<3>,
    /// `[N, L + K]`: which positions are padding once the tokens are put in.
    pub(crate) mask: PaddingMask,
    /// `[N, D]`: what stands for each text without tokens, after the final norm.
    pub(crate) class: Tensor<2>,
}
