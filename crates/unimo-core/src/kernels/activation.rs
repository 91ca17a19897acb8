//! Activations of feed-forward layers.

use burn::tensor::{Tensor, activation};

/// The exact Gaussian error linear unit, `x Φ(x)` with the normal distribution function Φ (Hendrycks and Gimpel 2016).
///
/// # Shapes
/// - `x`, output: any
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return fused::activate(x, fused::Function::Gelu);
    }
    activation::gelu(x)
}

/// CLIP's approximation of [`gelu`], `x sigmoid(1.702 x)`.
///
/// # Shapes
/// - `x`, output: any
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return fused::activate(x, fused::Function::QuickGelu);
    }
    x.clone() * activation::sigmoid(x * QUICK)
}

/// The slope inside [`quick_gelu`].
const QUICK: f64 = 1.702;

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::Tensor;

    use crate::kernels::buffers::{contiguous, floats, map, vectorized};
    use crate::kernels::math::{normal_cdf, normal_pdf, sigmoid};

    #[derive(Debug, Clone, Copy)]
    pub(super) enum Function {
        Gelu,
        QuickGelu,
    }

    pub(super) fn activate<const D: usize>(x: Tensor<D>, function: Function) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::activation_kernel(x.into_dispatch(), function))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait ActivationKernel: Backend {
        fn activation_kernel(x: FloatTensor<Self>, function: Function) -> FloatTensor<Self>;
    }

    impl ActivationKernel for Flex {
        fn activation_kernel(x: FlexTensor, function: Function) -> FlexTensor {
            forward(x, function)
        }
    }

    impl<C: CheckpointStrategy> ActivationKernel for Autodiff<Flex, C> {
        fn activation_kernel(x: FloatTensor<Self>, function: Function) -> FloatTensor<Self> {
            let (x, node) = x.into_parts();
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x.clone(), function), forward(x, function)),
                OpsKind::UnTracked(prep) => prep.finish(forward(x, function)),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 1> for Derivative {
        // The input; its function is computed again, which is cheaper than memory for the derivative.
        type State = (FlexTensor, Function);

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let (x, function) = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
                backward(x, grad, function)
            });
        }
    }

    fn forward(x: FlexTensor, function: Function) -> FlexTensor {
        match function {
            Function::Gelu => map(x, |_, piece| {
                vectorized(
                    #[inline(always)]
                    || piece.iter_mut().for_each(|x| *x *= normal_cdf(*x)),
                );
            }),
            Function::QuickGelu => map(x, |_, piece| {
                vectorized(
                    #[inline(always)]
                    || {
                        piece
                            .iter_mut()
                            .for_each(|x| *x *= sigmoid(super::QUICK as f32 * *x));
                    },
                );
            }),
        }
    }

    fn backward(x: FlexTensor, grad: FlexTensor, function: Function) -> FlexTensor {
        let x = contiguous(x);
        let x = floats(&x);
        match function {
            // d/dx x Φ(x) = Φ(x) + x φ(x)
            Function::Gelu => map(grad, |offset, piece| {
                let x = &x[offset..offset + piece.len()];
                vectorized(
                    #[inline(always)]
                    || {
                        for (g, &x) in piece.iter_mut().zip(x) {
                            *g *= x.mul_add(normal_pdf(x), normal_cdf(x));
                        }
                    },
                );
            }),
            // d/dx x s(ax) = s(ax) + a x s(ax) (1 - s(ax))
            Function::QuickGelu => map(grad, |offset, piece| {
                let x = &x[offset..offset + piece.len()];
                vectorized(
                    #[inline(always)]
                    || {
                        for (g, &x) in piece.iter_mut().zip(x) {
                            let z = super::QUICK as f32 * x;
                            let s = sigmoid(z);
                            *g *= s * z.mul_add(1.0 - s, 1.0);
                        }
                    },
                );
            }),
        }
    }
}
