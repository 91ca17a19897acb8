//! Linear, layer normalisation, embedding, dropout, drop-path and the activation: burn's layers, with three differences that this
//! project needs: weights come from [`Init`], the computation follows the dtype of the input (parameters stay f32, so a
//! bf16 input gives mixed precision), and the CPU runs the fused kernels of [`crate::kernels`].
//!
//! Shape legend: `B` rows, `D` width.

use burn::module::{Module, Param, Reparameterization};
use burn::tensor::{Distribution, FloatDType, Int, Tensor, activation, assert_shape};
use serde::{Deserialize, Serialize};

use crate::dtype::{cast, same_dtype};
use crate::init::Init;
use crate::kernels;

/// `y = x W + b` with `W` stored `[in, out]`, as burn stores it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Weights as [`Init::normal`], bias 0.
    pub fn new(init: &mut Init, d_in: usize, d_out: usize, bias: bool) -> Self {
        Self {
            weight: init.normal([d_in, d_out]),
            bias: bias.then(|| init.constant([d_out], 0.0)),
        }
    }

    /// # Shapes
    ///
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [d_in, _] = self.weight.dims();
        assert_shape!(x, [.., d_in]);
        let weight = same_dtype(self.weight.base(), &x);
        let bias = self.bias.as_ref().map(|b| same_dtype(b.val(), &x));
        match self.weight.reparameterization::<LowRank>() {
            None => kernels::linear(x, weight, bias),
            Some(adapter) => kernels::linear(x.clone(), weight, bias) + adapter.forward(x),
        }
    }
}

/// LoRA's adapter of a linear layer (Hu et al. 2022, equation 3): `alpha / R · (dropout(x) A) B` joins its output.
///
/// It is applied beside the weight, not to it. So no gradient of the size of the weight is computed, and dropout is that of peft.
/// [`crate::lora`] puts it onto layers.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `A`, `[in, R]`.
    pub a: Param<Tensor<2>>,
    /// `B`, `[R, out]`.
    pub b: Param<Tensor<2>>,
    /// `alpha / R`.
    pub scale: f64,
    /// Dropout on the input.
    pub dropout: Dropout,
}

impl LowRank {
    /// # Shapes
    ///
    /// - x: `[.., in]`
    /// - output: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [d_in, _] = self.a.dims();
        assert_shape!(x, [.., d_in]);
        let x = self.dropout.forward(x);
        let a = same_dtype(self.a.val(), &x);
        let b = same_dtype(self.b.val(), &x);
        let low = kernels::linear(x, a, None);
        kernels::linear(low, b, None).mul_scalar(self.scale)
    }
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "lora";

    /// The weight with the adapter added to it.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let added = self.a.val().matmul(self.b.val()).mul_scalar(self.scale);
        let shape = base.shape();
        base + added.reshape(shape)
    }
}

/// Layer normalisation over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[D]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    /// Scale 1, shift 0.
    pub fn new(init: &mut Init, width: usize, epsilon: f64) -> Self {
        Self {
            weight: init.constant([width], 1.0),
            bias: init.constant([width], 0.0),
            epsilon,
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[.., D]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [width] = self.weight.dims();
        assert_shape!(x, [.., width]);
        // Sums of squares over a row do not fit half precision, so the norm is computed in f32 and cast back.
        let dtype: FloatDType = x.dtype().into();
        let y = kernels::layer_norm(
            cast(x, FloatDType::F32),
            cast(self.weight.val(), FloatDType::F32),
            cast(self.bias.val(), FloatDType::F32),
            self.epsilon,
        );
        cast(y, dtype)
    }
}

/// A look-up table.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, D]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Entries as [`Init::normal`].
    pub fn new(init: &mut Init, entries: usize, width: usize) -> Self {
        Self {
            weight: init.normal([entries, width]),
        }
    }

    /// # Shapes
    ///
    /// - ids: `[B, L]`
    /// - output: `[B, L, D]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), ids)
    }

    /// One entry, to be added to every position.
    ///
    /// # Shapes
    ///
    /// - output: `[1, 1, D]`
    ///
    /// # Panics
    ///
    /// Panics if there is no entry `index`.
    pub fn entry(&self, index: usize) -> Tensor<3> {
        self.weight.val().narrow(0, index, 1).unsqueeze_dim::<3>(0)
    }
}

/// Dropout, active while the input tracks gradients.
#[derive(Module, Debug)]
pub struct Dropout {
    /// Share of the values set to zero, in [0, 1).
    pub probability: f64,
}

impl Dropout {
    /// Configurations are validated where they are read; a value outside [0, 1) is a programming error here.
    pub fn new(probability: f64) -> Self {
        assert!(
            (0.0..1.0).contains(&probability),
            "dropout must be in [0, 1), got {probability}"
        );
        Self { probability }
    }

    /// # Shapes
    ///
    /// - x, output: any
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let share = self.share_of(&x);
        kernels::dropout(x, share)
    }

    /// Share of the values of `x` that are set to zero: none outside of training.
    pub fn share_of<const D: usize>(&self, x: &Tensor<D>) -> f64 {
        if x.is_autodiff() {
            self.probability
        } else {
            0.0
        }
    }
}

/// Drop-path (stochastic depth, Huang et al. 2016, equation 2): leaves out a residual branch for some of the samples, while the input tracks
/// gradients. What is kept is divided by the probability to be kept, as in timm, so that nothing has to be scaled afterwards.
///
/// As for [`Dropout`], the device's random numbers decide ([`burn::tensor::Device::seed`]).
#[derive(Module, Debug)]
pub struct DropPath {
    /// Share of the samples for which the branch is left out, in [0, 1).
    pub probability: f64,
}

impl DropPath {
    /// Configurations are validated where they are read; a value outside [0, 1) is a programming error here.
    pub fn new(probability: f64) -> Self {
        assert!(
            (0.0..1.0).contains(&probability),
            "drop-path must be in [0, 1), got {probability}"
        );
        Self { probability }
    }

    /// The rate of each of `layers` layers, from 0 in the first to `last` in the last, linear between them. A single layer has 0.
    pub fn rate(last: f64, layer: usize, layers: usize) -> f64 {
        last * layer as f64 / layers.saturating_sub(1).max(1) as f64
    }

    /// # Shapes
    ///
    /// - x, a residual branch; output: `[B, ..]`, with one draw for each of the `B` rows
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.probability == 0.0 || !x.is_autodiff() {
            return x;
        }
        let rows: [_; D] = std::array::from_fn(|axis| 0..if axis == 0 { x.dims()[0] } else { 1 });
        let keep = 1.0 - self.probability;
        let drawn = || {
            let kept = x.clone().without_autodiff().slice(rows);
            kept.random_like(Distribution::Bernoulli(keep))
        };
        let kept = kernels::drawn_rows(drawn);
        x * kept.mul_scalar(1.0 / keep)
    }
}

/// The activation of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact, with the error function: BERT, RoBERTa, ViT, OpenCLIP.
    Gelu,
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// The approximation with a hyperbolic tangent: GPT, ALBERT, SigLIP and many later encoders.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// # Shapes
    ///
    /// - x, output: any
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => kernels::gelu(x),
            Self::QuickGelu => kernels::quick_gelu(x),
            Self::GeluTanh => kernels::gelu_tanh(x),
            Self::Relu => activation::relu(x),
            Self::Silu => kernels::silu(x),
        }
    }
}

/// Scales rows to length 1; a row of zeros stays one. Squares leave the range of half precision, so they are f32.
///
/// # Shapes
///
/// - x, output: `[B, D]`
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    const EPS: f64 = 1e-12;
    if kernels::is_half(x.dtype()) {
        let dtype: FloatDType = x.dtype().into();
        return cast(normalise(cast(x, FloatDType::F32)), dtype);
    }
    let squares = x.clone().square().sum_dim(1);
    // The square root's slope at 0 is infinite, so the clamp comes before it.
    let length = squares.clamp_min(EPS * EPS).sqrt();
    x / length
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// `torch.linspace(0, rate, layers)`, as timm has it.
    #[test]
    fn drop_path_rises_linearly() {
        let rates = |layers| -> Vec<f64> {
            (0..layers)
                .map(|l| DropPath::rate(0.4, l, layers))
                .collect()
        };
        assert_eq!(rates(5), [0.0, 0.1, 0.2, 0.4 * 3.0 / 4.0, 0.4]);
        assert_eq!(rates(1), [0.0]);
    }

    /// In f16 the square of 300 overflows and the square of a rounding error underflows.
    #[test]
    fn rows_of_half_precision_are_brought_to_length_one() {
        /// Two digits less than f16 and bf16 have in a number below 1.
        const TOLERANCE: f32 = 0.01;
        let rows = [[3000.0, 4000.0], [3e-6, 4e-6], [0.0, 0.0]];
        for dtype in [FloatDType::F16, FloatDType::BF16] {
            let x = cast(Tensor::<2>::from_floats(rows, &Device::flex()), dtype);
            let unit = normalise(x);
            assert_eq!(FloatDType::from(unit.dtype()), dtype);
            let unit: Vec<f32> = unit.into_data().convert::<f32>().iter::<f32>().collect();
            for (found, expected) in unit.iter().zip([0.6, 0.8, 0.6, 0.8, 0.0, 0.0]) {
                assert!((found - expected).abs() < TOLERANCE, "{unit:?}");
            }
        }
    }
}
