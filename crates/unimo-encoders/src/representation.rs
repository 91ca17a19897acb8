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

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::PreNormBlock;
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

use crate::backbone::{Backbone, BackboneConfig};
use crate::features::{ImageFeatures, Pictures, Represented};
use crate::frozen;
use crate::text::{TextInput, TextTower, last_of_each};

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
    /// Checks every value against the encoders.
    pub(crate) fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        config::positive("tokens", self.tokens)?;
        config::positive("width", self.width)?;
        let Some(image) = &model.image else {
            return ConfigError::of_section(
                false,
                "needs an image encoder of pixels, [model.image]",
            );
        };
        for (holds, reason) in [
            (
                model.text.tower == TextTower::Clip,
                "needs model.text.tower = \"clip\": the tokens stand behind the begin token of a text that is read from left to right",
            ),
            (
                !image.distillation_token,
                "needs model.image.distillation_token = false: the tokens stand behind the only class token",
            ),
            (
                !model.image_tags,
                "needs model.image_tags = false: the tokens are read beside patches alone",
            ),
            (
                image.dropout + image.drop_path + model.text.dropout + model.text.drop_path == 0.0,
                "needs encoders without dropout and drop_path: they are frozen",
            ),
        ] {
            ConfigError::of_section(holds, reason)?;
        }
        let depth = image.layers.min(model.text.layers);
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
            let copy = || Linear {
                weight: Param::from_tensor(weight.clone()),
                bias: Some(Param::from_tensor(bias.clone())),
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
    fn through(
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

/// Texts below the first layer that gets tokens, and as CLIP reads them. Both are constants, kept for as long as the texts are the same.
#[derive(Debug, Clone)]
pub struct TextsBelow {
    /// `[N, L, D]`.
    states: Tensor<3>,
    /// `[N, L]`.
    mask: PaddingMask,
    /// `[N, D]`: what stands for each text without tokens, after the final norm.
    class: Tensor<2>,
}

impl Backbone {
    /// The texts that [`represent_texts`](Self::represent_texts) reads, without autodiff.
    ///
    /// # Shapes
    ///
    /// - input: `[N, L]`
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn texts_below(&self, input: &TextInput) -> TextsBelow {
        let input = input.without_autodiff();
        let states = self.text.valid().forward(&input, self.text.depth() + 1);
        let [rows, length] = input.ids.dims();
        let class = states.last().map(|last| self.text.summary(last, &input.mask));
        TextsBelow {
            class: class.expect("invariant: an encoder keeps at least its last state"),
            states: states[self.tokens().below].clone(),
            mask: PaddingMask::join(vec![
                input.mask.narrow(0, 1),
                PaddingMask::none(rows, self.tokens().tokens.dims()[0], &input.ids.device()),
                input.mask.narrow(1, length - 1),
            ]),
        }
    }

    /// What stands for each text with the tokens read, after the final norm.
    ///
    /// # Shapes
    ///
    /// - output: `[N, D]`
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn represent_texts(&self, below: &TextsBelow) -> Tensor<2> {
        let tokens = self.tokens();
        let clip = self.text.clip.as_ref();
        let clip = clip.expect("invariant: validation finds CLIP's text tower");
        let own = self.text.word_embedding.weight.val();
        let x = frozen::beside(below.states.clone(), &own);
        let [_, length] = below.mask.dims();
        let causal = PairMask::causal(length, &below.states.device());
        let mask = Hidden {
            keys: Some(&below.mask),
            pairs: Some(&causal),
        };
        let blocks = &clip.layers[tokens.below..];
        let state = tokens.through(blocks, &tokens.text, x, mask);
        assert_shape!(state, [_, length, _]);
        clip.final_norm.forward(last_of_each(state, &below.mask))
    }

    /// What stands for each text without tokens, after the final norm, as a constant.
    ///
    /// # Shapes
    ///
    /// - output: `[N, D]`
    pub fn texts_as_they_are(&self, below: &TextsBelow) -> Tensor<2> {
        frozen::beside(below.class.clone(), &self.text.word_embedding.weight.val())
    }

    /// The states of images as CLIP reads them, after its final norm, and behind them those below the first layer that gets tokens, as they
    /// are; without autodiff.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows of pixels
    /// - output: `[B, L, D]` each
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn image_states_with_below(
        &self,
        pictures: &Pictures,
        layers: &BTreeSet<usize>,
    ) -> Vec<Tensor<3>> {
        let (Pictures::Pixels(pixels), Some(encoder)) = (pictures, &self.image) else {
            unreachable!("invariant: validation finds an encoder of pixels");
        };
        let encoder = encoder.valid();
        let depth = encoder.layers.len();
        let keep = self.image_states(layers);
        let most = keep.max(depth + 1 - self.tokens().below);
        let states = encoder.forward(pixels.clone().without_autodiff(), most);
        let below = states[states.len() - (depth + 1 - self.tokens().below)].clone();
        let own = states.into_iter().skip(most - keep);
        let own = own.map(|state| encoder.finish(state));
        own.chain(std::iter::once(below)).collect()
    }

    /// Features from [`image_states_with_below`](Self::image_states_with_below), with what comes of the tokens. If a sample has several
    /// images, `picture` counts them from 0.
    ///
    /// # Shapes
    ///
    /// - states: `[B, L, D]` each
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens, or no states.
    pub fn features_with_tokens(
        &self,
        mut states: Vec<Tensor<3>>,
        picture: usize,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        let below = states.pop();
        let below = below.expect("invariant: the states below come last");
        let represented = self.represent_images(below);
        ImageFeatures {
            represented: Some(represented),
            ..self.features_of_constant_images(states, picture, layers)
        }
    }

    /// # Shapes
    ///
    /// - below: `[B, L, D]`
    fn represent_images(&self, below: Tensor<3>) -> Represented {
        let (tokens, encoder) = (self.tokens(), self.image.as_ref());
        let encoder = encoder.expect("invariant: validation finds an encoder of pixels");
        let x = frozen::beside(below, &encoder.class_embedding.val());
        let blocks = &encoder.layers[tokens.below..];
        let state = tokens.through(blocks, &tokens.image, x, Hidden::default());
        let [count, _] = tokens.tokens.dims();
        let read = encoder.finish(state.narrow(1, 0, 1 + count));
        Represented {
            class: read.clone().narrow(1, 0, 1).squeeze_dim(1),
            tokens: read.narrow(1, 1, count).mean_dim(1).squeeze_dim(1),
        }
    }

    fn tokens(&self) -> &Representation {
        let tokens = self.representation.as_ref();
        tokens.expect("invariant: validation finds [model.representation]")
    }
}
