//! Layer normalisation.

use burn::tensor::{Tensor, assert_shape, module};

/// Layer normalisation over the last dimension (Ba et al. 2016), with the variance of the population.
///
/// # Shapes
/// - `x`, output: `[.., F]`
/// - `gamma`, `beta`: `[F]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let width = x.dims()[D - 1];
    assert_shape!(gamma, [width]);
    assert_shape!(beta, [width]);
    #[cfg(feature = "flex")]
    if super::is_fused(&x) && super::is_fused(&gamma) && super::is_fused(&beta) {
        return fused::layer_norm(x, gamma, beta, epsilon);
    }
    module::layer_norm(x, gamma, Some(beta), epsilon)
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::Tensor;

    use crate::kernels::buffers::{
        collect, contiguous, floats, for_pieces, generate, owned, row_ranges, rows, tensor,
        vectorized,
    };
    use crate::kernels::early::{self, Use};
    use crate::kernels::math::{sum, sum2};

    pub(super) fn layer_norm<const D: usize>(
        x: Tensor<D>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        epsilon: f64,
    ) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::layer_norm_kernel(
            x.into_dispatch(),
            gamma.into_dispatch(),
            beta.into_dispatch(),
            epsilon,
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait LayerNormKernel: Backend {
        fn layer_norm_kernel(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            beta: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;
    }

    impl LayerNormKernel for Flex {
        fn layer_norm_kernel(
            x: FlexTensor,
            gamma: FlexTensor,
            beta: FlexTensor,
            epsilon: f64,
        ) -> FlexTensor {
            forward(
                &contiguous(x),
                &contiguous(gamma),
                &contiguous(beta),
                epsilon,
            )
            .0
        }
    }

    impl<C: CheckpointStrategy> LayerNormKernel for Autodiff<Flex, C> {
        fn layer_norm_kernel(
            x: FloatTensor<Self>,
            gamma: FloatTensor<Self>,
            beta: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self> {
            let (x, node_x) = x.into_parts();
            let (gamma, node_gamma) = gamma.into_parts();
            let (beta, node_beta) = beta.into_parts();
            let (x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
            let (out, moments) = forward(&x, &gamma, &beta, epsilon);
            let ids = [node_gamma.id(), node_beta.id()];
            match Derivative
                .prepare::<C>([node_x, node_gamma, node_beta])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => prep.finish((x, gamma, moments, early::uses(ids)), out),
                OpsKind::UnTracked(prep) => prep.finish(out),
            }
        }
    }

    /// Mean and reciprocal standard deviation of a row.
    type Moments = [f32; 2];

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 3> for Derivative {
        // x, gamma and the moments of each row.
        type State = (FlexTensor, FlexTensor, Vec<Moments>, [Use; 2]);

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let (x, gamma, moments, uses) = ops.state;
            let [node_x, node_gamma, node_beta] = ops.parents;
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            if node_gamma.is_some() || node_beta.is_some() {
                let (for_gamma, for_beta) = backward_affine(&x, &moments, &grad);
                let shape = gamma.layout().shape();
                if let Some(node) = node_gamma {
                    grads.register::<Flex>(node.id, tensor(for_gamma, shape.clone()));
                }
                if let Some(node) = node_beta {
                    grads.register::<Flex>(node.id, tensor(for_beta, shape.clone()));
                }
            }
            if let Some(node) = node_x {
                grads.register::<Flex>(node.id, backward_x(&x, &gamma, &moments, grad));
            }
            early::done(uses, grads);
        }
    }

    fn forward(
        x: &FlexTensor,
        gamma: &FlexTensor,
        beta: &FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, Vec<Moments>) {
        let shape = x.layout().shape();
        let (n, width) = rows(shape);
        let (x, gamma, beta) = (floats(x), floats(gamma), floats(beta));
        let moments = collect(n, width, |row| {
            let x = &x[row * width..(row + 1) * width];
            vectorized(
                #[inline(always)]
                || moments(x, epsilon as f32),
            )
        });
        let out = generate(x.len(), |offset, piece| {
            vectorized(
                #[inline(always)]
                || {
                    for (row, columns, range) in row_ranges(offset, piece.len(), width) {
                        let [mean, rstd] = moments[row];
                        let x = &x[row * width..][columns.clone()];
                        let (gamma, beta) = (&gamma[columns.clone()], &beta[columns]);
                        let out = &mut piece[range];
                        for (((out, &x), &gamma), &beta) in
                            out.iter_mut().zip(x).zip(gamma).zip(beta)
                        {
                            *out = ((x - mean) * rstd).mul_add(gamma, beta);
                        }
                    }
                },
            );
        });
        (tensor(out, shape.clone()), moments)
    }

    #[inline(always)]
    fn moments(x: &[f32], epsilon: f32) -> Moments {
        let share = 1.0 / x.len() as f32;
        let mean = share
            * sum(
                x,
                0.0,
                #[inline(always)]
                |x| x,
            );
        // A second pass over a row in the nearest cache costs little. It keeps a large mean from hiding a small
        // variance.
        let variance = share
            * sum(
                x,
                mean,
                #[inline(always)]
                |x| (x - mean) * (x - mean),
            );
        [mean, 1.0 / (variance + epsilon).sqrt()]
    }

    /// With y = (x - mean) * rstd and g = dOut * gamma: dX = rstd * (g - mean(g) - y * mean(g * y)).
    fn backward_x(
        x: &FlexTensor,
        gamma: &FlexTensor,
        moments: &[Moments],
        grad: FlexTensor,
    ) -> FlexTensor {
        let mut grad = owned(grad);
        let (_, width) = rows(grad.layout().shape());
        let (x, gamma) = (floats(x), floats(gamma));
        let share = 1.0 / width as f32;
        for_pieces(grad.storage_mut(), width.max(1), |offset, grad| {
            let [mean, rstd] = moments[offset / width];
            let x = &x[offset..offset + width];
            vectorized(
                #[inline(always)]
                || {
                    for (g, &gamma) in grad.iter_mut().zip(gamma) {
                        *g *= gamma;
                    }
                    let mean_g = share
                        * sum(
                            grad,
                            0.0,
                            #[inline(always)]
                            |g| g,
                        );
                    let mean_gy = share
                        * rstd
                        * sum2(
                            grad,
                            x,
                            #[inline(always)]
                            |g, x| g * (x - mean),
                        );
                    for (g, &x) in grad.iter_mut().zip(x) {
                        let y = (x - mean) * rstd;
                        *g = rstd * (*g - mean_g - y * mean_gy);
                    }
                },
            );
        });
        grad
    }

    /// The sums over rows of dOut * y and of dOut.
    fn backward_affine(
        x: &FlexTensor,
        moments: &[Moments],
        grad: &FlexTensor,
    ) -> (Vec<f32>, Vec<f32>) {
        let (n, width) = rows(grad.layout().shape());
        let (x, grad) = (floats(x), floats(grad));
        let mut both = crate::kernels::buffers::sum_rows(n, 2 * width, |row, sums| {
            let [mean, rstd] = moments[row];
            let x = &x[row * width..(row + 1) * width];
            let grad = &grad[row * width..(row + 1) * width];
            let (for_gamma, for_beta) = sums.split_at_mut(width);
            vectorized(
                #[inline(always)]
                || {
                    for (((for_gamma, for_beta), &x), &g) in
                        for_gamma.iter_mut().zip(for_beta).zip(x).zip(grad)
                    {
                        *for_gamma += g * ((x - mean) * rstd);
                        *for_beta += g;
                    }
                },
            );
        });
        let for_beta = both.split_off(width);
        (both, for_beta)
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

    const EPSILON: f64 = 1e-5;
    /// A normalised value carries the rounding of its mean and of its deviation, a few 1e-7, times gamma.
    const TOLERANCE: f64 = 3e-6;
    /// A mean 1000 times the deviation costs three of seven decimal digits.
    const LARGE_MEAN_TOLERANCE: f64 = 3e-4;

    fn run(x: &[f32], shape: [usize; 3], dtype: DType) -> Vec<Vec<f64>> {
        let width = shape[2];
        let x = leaf(x, shape, dtype);
        let gamma = leaf(&normal(width, 1.0, 11), [width], dtype);
        let beta = leaf(&normal(width, 1.0, 12), [width], dtype);
        let out = layer_norm(x.clone(), gamma.clone(), beta.clone(), EPSILON);
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| {
            vec![gradient(&x, g), gradient(&gamma, g), gradient(&beta, g)]
        }));
        all
    }

    fn compare(x: &[f32], shape: [usize; 3], tolerance: f64) {
        let actual = run(x, shape, DType::F32);
        let expected = run(x, shape, DType::F64);
        let names = [
            "output",
            "gradient",
            "gradient of gamma",
            "gradient of beta",
        ];
        for ((name, actual), expected) in names.iter().zip(&actual).zip(&expected) {
            // Errors are relative to the largest element: sums over rows and columns cancel.
            let scale = expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
            assert_close(
                &format!("{name} {shape:?}"),
                actual,
                expected,
                tolerance,
                scale,
            );
        }
    }

    #[test]
    fn agrees_with_f64() {
        for width in WIDTHS {
            for rows in [1, 5, 200] {
                let shape = [rows.min(100_000 / width), 1, width];
                let x = normal(shape.iter().product(), 2.0, 1);
                compare(&x, shape, TOLERANCE);
            }
        }
    }

    #[test]
    fn constant_rows_give_beta() {
        for value in [0.0, 3.0, 1e6] {
            let run = run(&[value; 4 * 64], [2, 2, 64], DType::F32);
            let beta: Vec<f64> = normal(64, 1.0, 12).iter().map(|&b| f64::from(b)).collect();
            for row in run[0].chunks(64) {
                assert_eq!(row, beta);
            }
        }
    }

    #[test]
    fn a_large_mean_does_not_hide_the_variance() {
        let x: Vec<f32> = normal(30 * 768, 1.0, 2)
            .iter()
            .map(|x| x + 1000.0)
            .collect();
        compare(&x, [5, 6, 768], LARGE_MEAN_TOLERANCE);
    }

    #[test]
    fn large_values_do_not_overflow() {
        let x: Vec<f32> = normal(30 * 768, 1e15, 2);
        compare(&x, [5, 6, 768], TOLERANCE);
    }

    #[test]
    fn views_are_read_in_order_and_left_alone() {
        let all = constant(&normal(6 * 7 * 40, 2.0, 3), [6, 7, 40], DType::F32);
        let views = [
            all.clone().swap_dims(0, 1),
            all.clone().swap_dims(1, 2),
            all.clone().slice([1..4, 2..7, 3..30]),
        ];
        for view in views {
            let width = view.dims()[2];
            let affine = |seed| constant(&normal(2 * width, 1.0, seed), [width, 2], DType::F32);
            let column = |seed| affine(seed).slice([0..width, 1..2]).reshape([width]);
            let before = values(&view);
            let out = layer_norm(view.clone(), column(1), column(2), EPSILON);
            let copy: Vec<f32> = before.iter().map(|&x| x as f32).collect();
            let copy = constant(&copy, view.dims(), DType::F32);
            let expected = layer_norm(copy, column(1), column(2), EPSILON);
            assert_eq!(values(&out), values(&expected));
            assert_eq!(values(&view), before);
        }
    }

    #[test]
    fn is_reproducible() {
        let x = normal(8 * 197 * 100, 2.0, 5);
        assert_reproducible(|| run(&x, [8, 197, 100], DType::F32));
    }
}
