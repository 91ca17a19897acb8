//! ViT and the image tower of CLIP.
//!
//! Source: Dosovitskiy et al. 2021; CLIP's tower adds a norm before the blocks and has no bias on the patches. [Early
//! convolutions](crate::stem) may take the place of the projection of patches.
//!
//! Shape legend: `B` rows, `P` patch size, `G` patches per side, `N` positions (class tokens and `G * G` patches), `D` width.

use burn::module::{Module, Param};
use burn::tensor::{Bool, FloatDType, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Images, config};
use unimo_core::blocks::{self, BlockConfig, Draws, PreNormBlock};
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Dropout, LayerNorm, Linear};
use unimo_core::mask::PaddingMask;

use crate::sizes;
use crate::stem::{Stem, StemConfig};

/// An image encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Pixels per side of an image.
    pub image_size: usize,
    /// `P`: pixels per side of a patch; divides the image size.
    pub patch_size: usize,
    /// `D`: numbers of a state.
    pub width: usize,
    /// Number of blocks. METER leaves out CLIP's last one.
    pub layers: usize,
    /// Attention heads; the width is a multiple of them.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm: 1e-5 for CLIP, 1e-12 for ViT.
    pub layer_norm_eps: f64,
    /// A norm between embeddings and blocks: CLIP has it, ViT does not.
    pub pre_norm: bool,
    /// A bias on the patch embedding: ViT has it, CLIP does not.
    pub patch_bias: bool,
    /// A second token after the class token: distilled DeiT has it.
    pub distillation_token: bool,
    /// Biases on queries, keys and values; some ViTs have none.
    #[serde(default = "biased", skip_serializing_if = "is_biased")]
    pub qkv_bias: bool,
    /// Early convolutions in front of the patch embedding, which then is the last, 1x1 convolution; absent: the patch embedding reads
    /// the pixels of a patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<StemConfig>,
    /// Whether there is an embedding for hidden patches, which masked image modelling needs (BEiT, SIMLA, MAMO).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mask_embedding: bool,
    /// Share of dropout on embeddings, attention weights and residual branches, in [0, 1).
    pub dropout: f64,
    /// Drop-path (stochastic depth) on the residual branches of the last block, in [0, 1); it rises linearly from 0 in the first one.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub drop_path: f64,
}

fn biased() -> bool {
    true
}

fn is_biased(bias: &bool) -> bool {
    *bias
}

impl ImageEncoderConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        config::positive("image_size", self.image_size)?;
        sizes::layers(self.layers)?;
        config::positive("patch_size", self.patch_size)?;
        ConfigError::unless(
            self.image_size.is_multiple_of(self.patch_size),
            "patch_size",
            self.patch_size,
            format_args!("must divide image_size = {}", self.image_size),
        )?;
        let Some(stem) = &self.stem else {
            return Ok(());
        };
        ConfigError::unless(
            !self.mask_embedding,
            "mask_embedding",
            self.mask_embedding,
            "must be false with a stem, whose convolutions would show hidden patches to their neighbours",
        )?;
        stem.validate(self.patch_size)
            .map_err(|error| error.within("stem"))
    }

    /// `G`.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens before the patches.
    pub fn class_tokens(&self) -> usize {
        1 + usize::from(self.distillation_token)
    }

    /// The blocks' sizes.
    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            feed_forward: self.feed_forward,
            activation: self.activation,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.dropout,
            drop_path: self.drop_path,
        }
    }

    /// `N`: class tokens and patches of an image.
    pub(crate) fn positions(&self) -> usize {
        self.grid() * self.grid() + self.class_tokens()
    }

    /// A new encoder.
    pub fn init(&self, init: &mut Init) -> ImageEncoder {
        let block = self.block();
        let stem = self.stem.as_ref();
        let inputs = stem.map_or(
            Images::CHANNELS * self.patch_size * self.patch_size,
            StemConfig::outputs,
        );
        let norm = |init: &mut Init| LayerNorm::new(init, self.width, self.layer_norm_eps);
        let positions = self.positions();
        ImageEncoder {
            stem: stem.map(|stem| stem.init(init, self.layer_norm_eps)),
            patch_embedding: Linear::new(init, inputs, self.width, self.patch_bias),
            class_embedding: init.normal([self.width]),
            distillation_embedding: self.distillation_token.then(|| init.normal([self.width])),
            position_embedding: init.normal([positions, self.width]),
            pre_norm: self.pre_norm.then(|| norm(init)),
            dropout: Dropout::new(self.dropout),
            layers: (0..self.layers)
                .map(|layer| {
                    let mut block = PreNormBlock::new(init, &block.at(layer, self.layers));
                    if !self.qkv_bias {
                        block.attention = block.attention.without_input_biases();
                    }
                    block
                })
                .collect(),
            post_norm: norm(init),
            mask_embedding: self.mask_embedding.then(|| init.normal([self.width])),
            patch_size: self.patch_size,
            dtype: FloatDType::F32,
        }
    }
}

/// ViT or CLIP's image tower.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    /// Early convolutions.
    pub stem: Option<Stem>,
    /// `[3 * P * P, D]`: the patch convolution as a matrix product, channels first as in the convolution's kernel. With a stem `[O, D]`,
    /// for the `O` channels of the stem.
    pub patch_embedding: Linear,
    /// `[D]`.
    pub class_embedding: Param<Tensor<1>>,
    /// `[D]`.
    pub distillation_embedding: Option<Param<Tensor<1>>>,
    /// `[N, D]`, the class tokens first.
    pub position_embedding: Param<Tensor<2>>,
    /// Norm before the blocks.
    pub pre_norm: Option<LayerNorm>,
    /// Dropout on the embeddings.
    pub dropout: Dropout,
    /// Blocks.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks; applied by [`ImageEncoder::finish`].
    pub post_norm: LayerNorm,
    /// `[D]`: replaces a hidden patch before positions are added.
    pub mask_embedding: Option<Param<Tensor<1>>>,
    patch_size: usize,
    /// The blocks compute in this dtype; parameters stay f32.
    #[module(skip)]
    pub dtype: FloatDType,
}

impl ImageEncoder {
    /// Whether it draws random numbers while autodiff is on: dropout or drop-path is above 0.
    pub fn draws(&self) -> bool {
        self.dropout.probability > 0.0 || self.layers.iter().any(Draws::draws)
    }

    /// Patches along each side of the image.
    pub fn grid(&self) -> usize {
        let [positions, _] = self.position_embedding.dims();
        (positions - self.class_tokens()).isqrt()
    }

    /// Tokens before the patches.
    pub fn class_tokens(&self) -> usize {
        1 + usize::from(self.distillation_embedding.is_some())
    }

    /// Pixels along each side of the image.
    pub fn image_size(&self) -> usize {
        self.grid() * self.patch_size
    }

    /// The states after the last `keep` blocks, before the final norm, in order. If `keep` exceeds the number of blocks, the
    /// embeddings come first.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, G * P, G * P]`
    /// - output: `keep` times `[B, N, D]`
    pub fn forward(&self, pixels: Tensor<4>, keep: usize) -> Vec<Tensor<3>> {
        self.forward_with(pixels, None, keep)
    }

    /// As [`forward`](Self::forward), with further tokens after the patches, such as the names of the image's objects.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, G * P, G * P]`
    /// - further: `[B, M, D]` with its mask `[B, M]`
    /// - output: `keep` times `[B, N + M, D]`
    pub fn forward_with(
        &self,
        pixels: Tensor<4>,
        further: Option<(Tensor<3>, &PaddingMask)>,
        keep: usize,
    ) -> Vec<Tensor<3>> {
        let patches = self.embed_patches(pixels);
        self.forward_patches(patches, further, keep)
    }

    /// As [`forward`](Self::forward), with hidden patches replaced by one learned embedding before positions are added (SIMLA,
    /// MAMO). Nothing of their pixels is seen.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, G * P, G * P]`
    /// - hidden: `[B, G * G]`, `true` hides
    /// - output: `keep` times `[B, N, D]`
    ///
    /// # Panics
    ///
    /// Panics if the encoder has no such embedding.
    pub fn forward_masked(
        &self,
        pixels: Tensor<4>,
        hidden: &Tensor<2, Bool>,
        keep: usize,
    ) -> Vec<Tensor<3>> {
        let patches = self.embed_patches(pixels);
        let [rows, count, d] = patches.dims();
        assert_shape!(hidden, [rows, count]);
        let embedding = self.mask_embedding.as_ref();
        let embedding = embedding.expect("invariant: validation finds `mask_embedding`");
        let embedding = same_dtype(embedding.val(), &patches)
            .reshape([1, 1, d])
            .expand([rows, count, d]);
        let hidden = hidden
            .clone()
            .unsqueeze_dim::<3>(2)
            .expand([rows, count, d]);
        self.forward_patches(patches.mask_where(hidden, embedding), None, keep)
    }

    /// # Shapes
    ///
    /// - pixels: `[B, 3, G * P, G * P]`
    /// - output: `[B, G * G, D]`, row by row
    fn embed_patches(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [_, _, height, width] = pixels.dims();
        let p = self.patch_size;
        let (down, across) = (height / p, width / p);
        assert_shape!(pixels, [_, 3, _, _]);
        // Compares the sides, not their product: 2 x 8 patches are as many as 4 x 4, in another layout.
        let grid = self.grid();
        assert_eq!(
            [down, across, height % p, width % p],
            [grid, grid, 0, 0],
            "{height} x {width} pixels are no {grid} x {grid} patches of {p}; `with_grid` interpolates positions"
        );
        let pixels = cast(pixels, self.dtype);
        if let Some(stem) = &self.stem {
            return self.patch_embedding.forward(stem.forward(pixels));
        }
        let patches = patches_of(pixels, p);
        self.patch_embedding.forward(patches)
    }

    /// # Shapes
    ///
    /// - patches: `[B, G * G, D]`
    /// - further: `[B, M, D]` with its mask `[B, M]`
    /// - output: `keep` times `[B, N + M, D]`
    fn forward_patches(
        &self,
        patches: Tensor<3>,
        further: Option<(Tensor<3>, &PaddingMask)>,
        keep: usize,
    ) -> Vec<Tensor<3>> {
        let [rows, _, d] = patches.dims();
        let [positions, _] = self.position_embedding.dims();
        let tokens: Vec<_> = std::iter::once(&self.class_embedding)
            .chain(&self.distillation_embedding)
            .collect();
        let position = same_dtype(self.position_embedding.val(), &patches).unsqueeze::<3>();
        let mut parts: Vec<_> = tokens
            .into_iter()
            .map(|token| {
                same_dtype(token.val(), &patches)
                    .reshape([1, 1, d])
                    .expand([rows, 1, d])
            })
            .collect();
        parts.push(patches);
        let mut x = Tensor::cat(parts, 1) + position;
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(x);
        }
        x = self.dropout.forward(x);
        let mask = further.map(|(further, mask)| {
            let shown = PaddingMask::none(rows, positions, &x.device());
            x = Tensor::cat(vec![x.clone(), further], 1);
            PaddingMask::join(vec![shown, mask.clone()])
        });
        blocks::last_states(&self.layers, x, keep, |block, x| {
            block.forward(x, mask.as_ref())
        })
    }

    /// The final norm.
    ///
    /// # Shapes
    ///
    /// - state, output: `[B, N, D]`
    pub fn finish(&self, state: Tensor<3>) -> Tensor<3> {
        self.post_norm.forward(state)
    }

    /// The same encoder for `grid x grid` patches. Positions are interpolated bicubically; those of the class tokens are kept
    /// (as METER and UNIMO-2 do on a change of resolution).
    pub fn with_grid(mut self, grid: usize) -> Self {
        let tokens = 1 + usize::from(self.distillation_embedding.is_some());
        self.position_embedding = self.position_embedding.map(|old| {
            let device = old.device();
            let [positions, width] = old.dims();
            let from = (positions - tokens).isqrt();
            if from == grid {
                return old;
            }
            let tracked = old.is_require_grad();
            let values: Vec<f32> = old
                .without_autodiff()
                .into_data()
                .convert::<f32>()
                .iter::<f32>()
                .collect();
            let (class, patches) = values.split_at(tokens * width);
            let mut new = class.to_vec();
            new.extend(resize_grid(patches, from, grid, width));
            let new =
                Tensor::from_data(TensorData::new(new, [grid * grid + tokens, width]), &device);
            new.set_require_grad(tracked)
        });
        self
    }
}

/// Pixels as rows of patches, each ordered as a convolution's kernel.
///
/// # Shapes
///
/// - pixels: `[B, C, H, W]`, sides that `p` divides
/// - output: `[B, H / p * W / p, C * p * p]`, row by row
pub(crate) fn patches_of(pixels: Tensor<4>, p: usize) -> Tensor<3> {
    let [rows, channels, height, width] = pixels.dims();
    let (down, across) = (height / p, width / p);
    pixels
        .reshape([rows, channels, down, p, across, p])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([rows, down * across, channels * p * p])
}

/// Bicubic interpolation of a square grid of vectors with Keys' kernel (a = -0.75), pixel centres at halves
/// (`align_corners = false`) and no antialiasing: what PyTorch's `interpolate(mode="bicubic")` computes.
///
/// # Shapes
///
/// - values: `[from, from, width]`, row-major
/// - output: `[to, to, width]`
pub fn resize_grid(values: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    let taps: Vec<[(usize, f32); 4]> = (0..to).map(|i| cubic_taps(i, from, to)).collect();
    let mut out = vec![0.0; to * to * width];
    for (y, rows) in taps.iter().enumerate() {
        for (x, columns) in taps.iter().enumerate() {
            let target = &mut out[(y * to + x) * width..][..width];
            for &(row, weight_y) in rows {
                for &(column, weight_x) in columns {
                    let source = &values[(row * from + column) * width..][..width];
                    for (t, s) in target.iter_mut().zip(source) {
                        *t += weight_y * weight_x * s;
                    }
                }
            }
        }
    }
    out
}

/// The four source positions of target position `i` with their weights; positions outside are clamped to the edge.
fn cubic_taps(i: usize, from: usize, to: usize) -> [(usize, f32); 4] {
    const A: f64 = -0.75;
    let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let base = centre.floor();
    let t = centre - base;
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let at = (base as i64 + k as i64 - 1).clamp(0, from as i64 - 1);
        (at as usize, weights[k] as f32)
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    pub(crate) fn config() -> ImageEncoderConfig {
        ImageEncoderConfig {
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
        }
    }

    /// PyTorch 2.15.0: `F.interpolate(torch.arange(9.).view(1, 1, 3, 3) ** 2, size=4, mode="bicubic")`.
    #[test]
    fn interpolates_as_pytorch() {
        /// The numbers below are rounded to three places.
        const TOLERANCE: f32 = 1e-3;
        let grid: Vec<f32> = (0..9).map(|i| (i * i) as f32).collect();
        let ours = resize_grid(&grid, 3, 4, 1);
        for (o, e) in ours.iter().zip(PYTORCH_3_TO_4) {
            assert!((o - e).abs() < TOLERANCE, "{o} is not {e}");
        }
        assert_eq!(resize_grid(&grid, 3, 3, 1), grid);
    }

    const PYTORCH_3_TO_4: [f32; 16] = [
        -0.687, -0.564, 0.912, 2.677, 2.491, 4.785, 9.655, 13.591, 19.013, 24.702, 34.878, 42.209,
        36.974, 44.834, 58.405, 67.907,
    ];

    #[test]
    fn a_new_grid_takes_new_sizes() {
        let device = Device::flex();
        let encoder = config().init(&mut Init::new(&device, 1)).with_grid(3);
        let pixels = Tensor::<4>::ones([1, 3, 12, 12], &device);
        assert_eq!(encoder.forward(pixels, 1)[0].dims(), [1, 10, 8]);
    }

    /// 2 x 8 patches are as many as 4 x 4, but in another layout.
    #[test]
    #[should_panic(expected = "no 4 x 4 patches")]
    fn another_grid_of_as_many_patches_is_refused() {
        let device = Device::flex();
        let encoder = config().init(&mut Init::new(&device, 1)).with_grid(4);
        encoder.forward(Tensor::<4>::ones([1, 3, 8, 32], &device), 1);
    }

    #[test]
    fn a_vit_may_have_no_biases_of_queries_keys_and_values() {
        let device = Device::flex();
        let config = ImageEncoderConfig {
            qkv_bias: false,
            ..config()
        };
        let encoder = config.init(&mut Init::new(&device, 1));
        for block in &encoder.layers {
            assert!(block.attention.query.bias.is_none() && block.attention.value.bias.is_none());
            assert!(block.attention.output.bias.is_some());
        }
        let pixels = Tensor::<4>::ones([1, 3, 8, 8], &device);
        assert_eq!(encoder.forward(pixels, 1)[0].dims(), [1, 5, 8]);
    }
}
