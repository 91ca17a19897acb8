//! Activations of feed-forward layers.

use burn::tensor::{Tensor, activation};

use crate::dtype::same_dtype;

/// The exact Gaussian error linear unit, `x Φ(x)` with the normal distribution function Φ (Hendrycks and Gimpel 2016).
///
/// # Shapes
/// - `x`, output: any
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return fused::activate(x, fused::Function::Gelu);
    }
    // Not `activation::gelu`: on GPUs burn 0.22.1 computes the exact function but the gradient of its tanh
    // approximation, which is off by up to 1e-3.
    // In half precision `erf + 1` loses every digit near 0.
    let z = super::widened(x.clone()) * std::f64::consts::FRAC_1_SQRT_2;
    let cumulative = (z.erf() + 1.0) * 0.5;
    let cumulative = same_dtype(cumulative, &x);
    x * cumulative
}

/// The approximation of [`gelu`] with a hyperbolic tangent, `x (1 + tanh(z)) / 2` with `z = sqrt(2 / π) (x + 0.044715 x³)`, which
/// is `x sigmoid(2 z)`.
///
/// # Shapes
/// - `x`, output: any
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const CUBIC: f64 = 0.044_715;
    // sqrt(2 / π)
    let slope = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    gated(x, |x| {
        let cube = x.clone() * x.clone() * x.clone();
        (x + cube * CUBIC) * (2.0 * slope)
    })
}

/// The sigmoid linear unit or swish, `x sigmoid(x)`.
///
/// # Shapes
/// - `x`, output: any
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, |x| x)
}

/// `x sigmoid(z(x))`.
fn gated<const D: usize>(x: Tensor<D>, z: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let share = activation::sigmoid(z(super::widened(x.clone())));
    let share = same_dtype(share, &x);
    x * share
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
    gated(x, |x| x * QUICK)
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
    use crate::kernels::math::{normal, sigmoid};

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
        // The input. Computing its function again is cheaper than memory for the derivative.
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
                    || piece.iter_mut().for_each(|x| *x *= normal(*x).0),
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
                            let (cdf, density) = normal(x);
                            *g *= x.mul_add(density, cdf);
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::kernels::testing::{
        WIDTHS, assert_close, assert_reproducible, constant, gradient, gradients, leaf, normal,
        values,
    };

    /// The distribution function's error, 2e-7, times x, plus a few roundings; a dozen where there is no kernel.
    const TOLERANCE: f64 = 1e-6;

    type Function = fn(Tensor<2>) -> Tensor<2>;
    const FUNCTIONS: [(&str, Function); 4] = [
        ("gelu", gelu::<2>),
        ("quick_gelu", quick_gelu::<2>),
        ("gelu_tanh", gelu_tanh::<2>),
        ("silu", silu::<2>),
    ];

    /// In half precision values and gradients keep nearly all of their digits, also where the function is near 0.
    #[test]
    fn half_precision_rounds_little() {
        /// Roundings of the share, of its product with the input and of the gradient's sum of two such products, in units of each
        /// dtype's rounding. The two parts of a slope cancel where it passes through 0.
        const ROUNDINGS: f64 = 4.0;
        let x: Vec<f32> = (-24..=24).map(|i| i as f32 / 8.0).collect();
        for (dtype, unit) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
            for (name, f) in FUNCTIONS {
                let shape = [1, x.len()];
                let (half, exact) = (run(f, &x, shape, dtype), run(f, &x, shape, DType::F64));
                assert_close(name, &half[0], &exact[0], ROUNDINGS * unit, 0.0);
                assert_close(name, &half[1], &exact[1], ROUNDINGS * unit, 1.0);
            }
        }
    }

    fn run(f: Function, x: &[f32], shape: [usize; 2], dtype: DType) -> Vec<Vec<f64>> {
        let x = leaf(x, shape, dtype);
        let out = f(x.clone());
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| vec![gradient(&x, g)]));
        all
    }

    #[test]
    fn agree_with_f64() {
        for (name, f) in FUNCTIONS {
            for width in WIDTHS {
                let x = normal(width, 3.0, 1);
                let actual = run(f, &x, [1, width], DType::F32);
                let expected = run(f, &x, [1, width], DType::F64);
                assert_close(name, &actual[0], &expected[0], TOLERANCE, 1.0);
                // The fixed weights of the outputs reach about 4.
                assert_close(name, &actual[1], &expected[1], TOLERANCE, 4.0);
            }
        }
    }

    #[test]
    fn large_inputs_saturate() {
        let x = [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30];
        for (name, f) in FUNCTIONS {
            let x = constant(&x, [1, 6], DType::F32);
            let out = values(&f(x.clone()));
            assert_eq!(out[..3].iter().map(|x| x.abs()).sum::<f64>(), 0.0, "{name}");
            assert_eq!(out[3..], values(&x)[3..], "{name}");
        }
    }

    #[test]
    fn not_a_number_stays_visible() {
        for (name, f) in FUNCTIONS {
            let run = run(f, &[f32::NAN, 1.0], [1, 2], DType::F32);
            assert!(run[0][0].is_nan() && run[1][0].is_nan(), "{name}");
            assert!(run[0][1].is_finite() && run[1][1].is_finite(), "{name}");
        }
    }

    #[test]
    fn views_are_read_in_order_and_left_alone() {
        let all = constant(&normal(40 * 50, 2.0, 2), [40, 50], DType::F32);
        let views = [
            all.clone().transpose(),
            all.clone().slice([3..20, 0..50]),
            all.clone().slice([0..40, 7..9]),
        ];
        for (name, f) in FUNCTIONS {
            for view in &views {
                let before = values(view);
                let out = values(&f(view.clone()));
                let copy: Vec<f32> = before.iter().map(|&x| x as f32).collect();
                let expected = f(constant(&copy, view.dims(), DType::F32));
                assert_eq!(out, values(&expected), "{name}");
                assert_eq!(values(view), before, "{name}");
            }
        }
    }

    #[test]
    fn are_reproducible() {
        let x = normal(301 * 197, 2.0, 3);
        for (_, f) in FUNCTIONS {
            assert_reproducible(|| run(f, &x, [301, 197], DType::F32));
        }
    }
}
