//! Dropout.

use burn::tensor::{Distribution, Tensor};

/// Zeroes each element with probability `p` and divides the others by `1 - p` (Srivastava et al. 2014). The caller has
/// checked that the model is being trained.
///
/// Which elements are dropped follows from the seed of the device's random numbers ([`burn::tensor::Device::seed`]).
///
/// # Shapes
/// - `x`, output: any
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64) -> Tensor<D> {
    if p <= 0.0 {
        return x;
    }
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return fused::dropout(x, fused::Mask::draw(p));
    }
    if p >= 1.0 {
        return x * 0.0;
    }
    let kept = x.random_like(Distribution::Bernoulli(1.0 - p));
    x * kept * (1.0 / (1.0 - p))
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::flex::{FlexDevice, FlexTensor};
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::{Distribution, FloatDType, Shape, Tensor};

    use crate::kernels::buffers::{map, vectorized};

    /// Which elements are dropped, as a function of their index.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Mask {
        keys: [u32; 2],
        /// An element whose hash is below this is dropped.
        threshold: u32,
        /// What the other elements are multiplied by; 0 if all are dropped.
        scale: f32,
    }

    impl Mask {
        /// A mask from two of the device's random numbers.
        pub(super) fn draw(p: f64) -> Self {
            let numbers = Flex::float_random(
                Shape::new([2]),
                Distribution::Uniform(0.0, 1.0),
                &FlexDevice,
                FloatDType::F64,
            );
            let numbers: &[f64] = numbers.storage();
            let key = |u: f64| (u * 2f64.powi(32)) as u32;
            Self::new(p, [key(numbers[0]), key(numbers[1])])
        }

        pub(super) fn new(p: f64, keys: [u32; 2]) -> Self {
            Self {
                keys,
                threshold: (p * 2f64.powi(32)) as u32,
                scale: if p < 1.0 {
                    (1.0 / (1.0 - p)) as f32
                } else {
                    0.0
                },
            }
        }

        #[inline(always)]
        fn apply(self, offset: usize, values: &mut [f32]) {
            // Pieces never straddle a multiple of 2^32, so the upper half of the index is one number.
            let [k0, k1] = self.keys;
            let k0 = k0 ^ mix((offset as u64 >> 32) as u32);
            let first = offset as u32;
            for (i, x) in values.iter_mut().enumerate() {
                // One round would give masks that are shifted copies of each other.
                let hash = mix(mix((first + i as u32) ^ k0).wrapping_add(k1));
                *x = if hash < self.threshold {
                    0.0
                } else {
                    *x * self.scale
                };
            }
        }
    }

    /// A bijection of 32-bit numbers in which every input bit changes every output bit with a probability close to one
    /// half: "lowbias32" of Chris Wellons' hash prospector.
    #[inline(always)]
    fn mix(mut x: u32) -> u32 {
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }

    pub(super) fn dropout<const D: usize>(x: Tensor<D>, mask: Mask) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::dropout_kernel(x.into_dispatch(), mask))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait DropoutKernel: Backend {
        fn dropout_kernel(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self>;
    }

    impl DropoutKernel for Flex {
        fn dropout_kernel(x: FlexTensor, mask: Mask) -> FlexTensor {
            apply(x, mask)
        }
    }

    impl<C: CheckpointStrategy> DropoutKernel for Autodiff<Flex, C> {
        fn dropout_kernel(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
            let (x, node) = x.into_parts();
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(mask, apply(x, mask)),
                OpsKind::UnTracked(prep) => prep.finish(apply(x, mask)),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 1> for Derivative {
        // The backward pass makes the mask again.
        type State = Mask;

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let mask = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| apply(grad, mask));
        }
    }

    fn apply(x: FlexTensor, mask: Mask) -> FlexTensor {
        map(x, |offset, piece| {
            vectorized(
                #[inline(always)]
                || mask.apply(offset, piece),
            );
        })
    }
}
