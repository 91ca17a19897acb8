//! The early convolutions of an image encoder, in the place of the projection of its patches.
//!
//! ```text
//! x = pixels;  for each convolution: x = ReLU(LN(Conv3x3, stride 2 (x)))
//! ```
//!
//! A 1x1 convolution to the width of the encoder follows, which is [the encoder's](crate::image::ImageEncoder::patch_embedding).
//! A patch then has what its surroundings show too, and edges and corners need not be learned anew for each place in a patch. So
//! a small encoder learns shapes from few images.
//!
//! Source: Xiao et al. 2021 ("Early Convolutions Help Transformers See Better", section 4). They have batch normalisation; here a
//! layer norm over the channels of each place takes its place, since it has no state that changes while the model runs, and does not
//! depend on the other samples.
//!
//! Shape legend: `B` rows, `S` pixels per side, `H x W` places, `I` and `O` channels in and out.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Images, config};
use unimo_core::init::Init;
use unimo_core::layers::{LayerNorm, Linear};

/// Convolutions before an image encoder's blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StemConfig {
    /// Output channels of the 3x3 convolutions, each with stride 2: as many as the patch size can be halved, so four for patches of 16
    /// pixels.
    pub channels: Vec<usize>,
}

impl StemConfig {
    /// Checks every value, also against the pixels per side of a patch.
    pub fn validate(&self, patch_size: usize) -> Result<(), ConfigError> {
        for &channels in &self.channels {
            config::positive("channels", channels)?;
        }
        let halvings = u32::try_from(self.channels.len()).ok();
        let reached = halvings.and_then(|halvings| 2usize.checked_pow(halvings));
        ConfigError::unless(
            !self.channels.is_empty() && reached == Some(patch_size),
            "channels",
            format_args!("{:?}", self.channels),
            format_args!(
                "must be as many as patch_size = {patch_size} can be halved until 1 is left"
            ),
        )
    }

    /// Channels that it gives.
    pub(crate) fn outputs(&self) -> usize {
        self.channels.last().copied().unwrap_or(Images::CHANNELS)
    }

    /// A new stem; `eps` is that of its layer norms.
    pub fn init(&self, init: &mut Init, eps: f64) -> Stem {
        let mut inputs = Images::CHANNELS;
        let convolutions = self.channels.iter().map(|&outputs| {
            let kernel = Linear::new(init, 9 * inputs, outputs, false);
            inputs = outputs;
            Convolution {
                kernel,
                norm: LayerNorm::new(init, outputs, eps),
            }
        });
        Stem {
            convolutions: convolutions.collect(),
        }
    }
}

/// Convolutions with stride 2, one after the other.
#[derive(Module, Debug)]
pub struct Stem {
    /// In order.
    pub convolutions: Vec<Convolution>,
}

impl Stem {
    /// # Shapes
    ///
    /// - pixels: `[B, 3, S, S]`, with `S` a multiple of 2 to the power of the number of convolutions
    /// - output: `[B, H * W, O]`, row by row
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        assert_shape!(pixels, [_, 3, _, _]);
        let x = pixels.permute([0, 2, 3, 1]);
        let x = self.convolutions.iter().fold(x, |x, next| next.forward(x));
        x.flatten(1, 2)
    }
}

/// A 3x3 convolution with stride 2 and zeros around the image, its norm and ReLU.
#[derive(Module, Debug)]
pub struct Convolution {
    /// `[9 * I, O]`: the convolution as a matrix product; rows by the place in the kernel, row by row, then by the channel. It has no
    /// bias, since the norm has one.
    pub kernel: Linear,
    /// Over the channels of each place.
    pub norm: LayerNorm,
}

impl Convolution {
    /// # Shapes
    ///
    /// - x: `[B, 2 * H, 2 * W, I]`
    /// - output: `[B, H, W, O]`
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        relu(self.norm.forward(self.kernel.forward(surroundings(x))))
    }
}

/// What a 3x3 kernel with stride 2 and one row and column of zeros above and on the left sees at each place. Rows and columns are taken
/// in pairs, so that it is nothing but two concatenations.
///
/// # Shapes
///
/// - x: `[B, 2 * H, 2 * W, I]`
/// - output: `[B, H, W, 9 * I]`
fn surroundings(x: Tensor<4>) -> Tensor<4> {
    let [b, height, width, i] = x.dims();
    let (h, w) = (height / 2, width / 2);
    // Columns 2j - 1, 2j and 2j + 1, as [B, 2H, W, 3I].
    let pairs = x.reshape([b, height, w, 2 * i]);
    let before = pairs.clone().narrow(3, i, i);
    let columns = Tensor::cat(vec![after_zeros(before, 2), pairs], 3);
    // Rows 2i - 1, 2i and 2i + 1.
    let pairs = columns.reshape([b, h, 2, 3 * w * i]);
    let row = |of_pair| {
        pairs
            .clone()
            .narrow(2, of_pair, 1)
            .reshape([b, h, w, 3 * i])
    };
    Tensor::cat(vec![after_zeros(row(1), 1), row(0), row(1)], 3)
}

/// Moved on by one place along `dim`: zeros come first, and what was last is gone.
fn after_zeros(x: Tensor<4>, dim: usize) -> Tensor<4> {
    let mut shape = x.dims();
    let kept = shape[dim] - 1;
    shape[dim] = 1;
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    if kept == 0 {
        return zeros;
    }
    Tensor::cat(vec![zeros, x.narrow(dim, 0, kept)], dim)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;

    use super::*;

    #[test]
    fn surroundings_times_a_kernel_are_burns_convolution() {
        let device = Device::flex();
        let mut init = Init::new(&device, 1);
        for [height, width, inputs, outputs] in [[8, 6, 3, 5], [2, 2, 1, 2]] {
            let x = init.normal([2, height, width, inputs]).val();
            let kernel = init.normal([9 * inputs, outputs]).val();
            let ours = surroundings(x.clone()).matmul(kernel.clone().unsqueeze());
            let kernel = kernel
                .reshape([3, 3, inputs, outputs])
                .permute([3, 2, 0, 1]);
            let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
            let theirs = conv2d(x.permute([0, 3, 1, 2]), kernel, None, options);
            let difference = ours - theirs.permute([0, 2, 3, 1]);
            let largest = difference.abs().max().into_scalar::<f32>();
            assert!(largest < 1e-6, "{largest}");
        }
    }

    #[test]
    fn as_many_convolutions_as_halvings() {
        let of = |channels: &[usize]| StemConfig {
            channels: channels.to_vec(),
        };
        of(&[4, 8]).validate(4).unwrap();
        for (channels, patch_size) in [(&[][..], 1), (&[4], 4), (&[4, 8], 6), (&[4, 0], 4)] {
            let error = of(channels).validate(patch_size).unwrap_err();
            assert!(error.to_string().contains("channels"), "{error}");
        }
    }
}
