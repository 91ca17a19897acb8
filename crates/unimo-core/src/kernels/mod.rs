//! Operations with a fused CPU kernel.
//!
//! burn's CPU backend (flex) runs the operations below on one thread, without vector instructions, or as a chain of
//! passes over memory that would fit in one. On f32 tensors of a flex device each of them is a vectorised pass on all
//! threads with a hand-written backward pass. On every other device, and for every other float type, they are the plain
//! tensor operations that define them, which CubeCL's fusion turns into kernels of its own.
//!
//! Results are bit-identical from run to run on one machine, whatever the number of threads: work is cut at fixed
//! boundaries, and partial sums are added in the order of these boundaries. Machines with different vector instructions
//! may differ in the last bits.

#[cfg(feature = "flex")]
use burn::tensor::{DType, Tensor};

#[cfg(feature = "flex")]
mod buffers;
#[cfg(feature = "flex")]
mod math;

mod activation;
mod adamw;
mod cross_entropy;
mod dropout;
mod layer_norm;
mod linear;
mod softmax;

#[cfg(all(test, feature = "flex"))]
mod testing;

pub use activation::{gelu, quick_gelu};
pub use adamw::{AdamWStep, SumOfSquares, adamw, sum_of_squares};
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub(crate) use softmax::hidden;
pub use softmax::masked_softmax;

/// Whether the kernels take this tensor.
#[cfg(feature = "flex")]
fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && crate::device::is_cpu(&x.device())
}
