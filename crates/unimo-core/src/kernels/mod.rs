//! Operations with a fused CPU kernel.
//!
//! burn's CPU backend (flex) runs the operations below on one thread without vector instructions, or as several passes over memory
//! where one is enough. On f32 tensors of a flex device each of them is a vectorised pass on all threads with a hand-written
//! backward pass. On other devices and for other float types they are the plain tensor operations that define them, which CubeCL's
//! fusion turns into kernels of its own.
//!
//! Sums and exponentials in half precision have too few digits. Sums, softmaxes, norms and distribution functions of such tensors
//! are computed in f32 and rounded once.
//!
//! Results are bit-identical from run to run on one machine, whatever the number of threads: work is cut at fixed
//! boundaries, and partial sums are added in the order of these boundaries. Machines with different vector instructions
//! may differ in the last bits.

use burn::tensor::{DType, FloatDType, Tensor};

#[cfg(feature = "flex")]
mod buffers;
#[cfg(feature = "flex")]
mod drawn;
#[cfg(feature = "flex")]
mod math;
#[cfg(feature = "flex")]
mod product;

mod activation;
mod adamw;
mod attention;
mod cross_entropy;
mod dot;
mod dropout;
pub mod early;
mod layer_norm;
mod linear;
mod recompute;
mod softmax;

#[cfg(all(test, feature = "flex"))]
mod testing;

pub use activation::{gelu, gelu_tanh, quick_gelu, silu};
pub use adamw::{AdamWStep, SumOfSquares, adamw, sum_of_squares};
pub use attention::attention;
pub use cross_entropy::{cross_entropy, smoothed_cross_entropy};
pub use dot::dot;
#[cfg(feature = "flex")]
pub(crate) use drawn::rows as drawn_rows;
pub use dropout::dropout;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use recompute::recomputed;
pub(crate) use softmax::hidden;
pub use softmax::masked_softmax;

/// Rows that `drawn` chooses: without the CPU backend no block runs twice.
#[cfg(not(feature = "flex"))]
pub(crate) fn drawn_rows<const D: usize>(drawn: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
    drawn()
}

/// Whether this is bf16 or f16, which have 8 and 11 binary digits.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// Half precision as f32, every other dtype as it is.
fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_half(x.dtype()) {
        x.cast(FloatDType::F32)
    } else {
        x
    }
}

/// Whether the kernels take this tensor.
#[cfg(feature = "flex")]
fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && crate::device::is_cpu(&x.device())
}
