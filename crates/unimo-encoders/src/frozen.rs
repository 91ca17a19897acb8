//! Encoders in which nothing learns run without autodiff, as in evaluation: no operation is recorded, and a GPU may use its fused attention.
//!
//! Dropout and drop-path are on while autodiff is, whether an encoder learns or not. So an encoder that draws stays as it is. Nothing is
//! kept of it for a backward pass either.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use unimo_core::parameters::{self, See};

/// The uni-modal encoders in which nothing learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frozen {
    /// The text encoder.
    pub text: bool,
    /// The image encoder, of pixels or of regions.
    pub image: bool,
}

/// Whether a parameter of a module tracks a gradient.
pub(crate) fn learns<M: Module>(module: &M) -> bool {
    struct Any(bool);
    impl See for Any {
        fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut any = Any(false);
    parameters::see(module, &mut any);
    any.0
}

/// A tensor that was computed without autodiff, as a constant beside `other`.
pub(crate) fn beside<const D: usize, const E: usize>(x: Tensor<D>, other: &Tensor<E>) -> Tensor<D> {
    match other.gradient_checkpointing_strategy() {
        None => x,
        Some(strategy) => x.autodiff().with_gradient_checkpointing_strategy(strategy),
    }
}
