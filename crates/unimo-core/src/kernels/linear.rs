//! The linear layer.

use burn::tensor::{Tensor, assert_shape, module};

/// `x weight + bias`.
///
/// The products are burn's: its CPU backend multiplies strided operands without copying them, at the speed of the
/// machine. The bias and its gradient are added here in vectorised passes on all threads.
///
/// # Shapes
/// - `x`: `[.., in]`
/// - `weight`: `[in, out]`
/// - `bias`: `[out]`
/// - output: `[.., out]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let [d_in, d_out] = weight.dims();
    assert_shape!(x, [.., d_in]);
    if let Some(bias) = &bias {
        assert_shape!(bias, [d_out]);
    }
    #[cfg(feature = "flex")]
    if let Some(bias) = &bias
        && super::is_fused(&x)
        && super::is_fused(&weight)
        && super::is_fused(bias)
    {
        return fused::linear(x, weight, bias.clone());
    }
    module::linear(x, weight, bias)
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::NodeId;
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::ops::{FloatTensorOps, ModuleOps};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::{Shape, Tensor};

    use crate::kernels::buffers::{
        contiguous, floats, for_pieces, rows, sum_rows, tensor, vectorized,
    };
    use crate::kernels::early::{self, Use};

    pub(super) fn linear<const D: usize>(
        x: Tensor<D>,
        weight: Tensor<2>,
        bias: Tensor<1>,
    ) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::linear_kernel(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait LinearKernel: Backend {
        fn linear_kernel(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
        ) -> FloatTensor<Self>;
    }

    impl LinearKernel for Flex {
        fn linear_kernel(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
            forward(x, weight, bias)
        }
    }

    impl<C: CheckpointStrategy> LinearKernel for Autodiff<Flex, C> {
        fn linear_kernel(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
            match Derivative
                .prepare::<C>([x.node(), weight.node(), bias.node()])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(mut prep) => {
                    let uses = early::uses([weight.id(), bias.id()]);
                    // Each factor is kept for the gradient of the other.
                    let kept_x = weight_tracked.then(|| prep.checkpoint(&x));
                    let kept_weight = x_tracked.then(|| prep.checkpoint(&weight));
                    let out = forward(
                        x.into_primitive(),
                        weight.into_primitive(),
                        bias.into_primitive(),
                    );
                    prep.finish((kept_x, kept_weight, uses), out)
                }
                OpsKind::UnTracked(prep) => prep.finish(forward(
                    x.into_primitive(),
                    weight.into_primitive(),
                    bias.into_primitive(),
                )),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 3> for Derivative {
        type State = (Option<NodeId>, Option<NodeId>, [Use; 2]);

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            checkpointer: &mut Checkpointer,
        ) {
            let [node_x, node_weight, node_bias] = ops.parents;
            let (x, weight, uses) = ops.state;
            // Retrieved even where unused: the checkpointer counts the retrievals of each tensor.
            let x: Option<FlexTensor> = x.map(|id| checkpointer.retrieve_node_output(id));
            let weight: Option<FlexTensor> = weight.map(|id| checkpointer.retrieve_node_output(id));
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            if let Some(node) = node_bias {
                grads.register::<Flex>(node.id, backward_bias(&grad));
            }
            if let (Some(node), Some(weight)) = (node_x, weight) {
                grads.register::<Flex>(node.id, Flex::linear_x_backward(weight, grad.clone()));
            }
            if let (Some(node), Some(x)) = (node_weight, x) {
                grads.register::<Flex>(node.id, Flex::linear_weight_backward(x, grad));
            }
            early::done(uses, grads);
        }
    }

    fn forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let mut shape = x.layout().shape().clone();
        let (n, d_in) = rows(&shape);
        let d_out = weight.layout().shape()[1];
        let last = shape.num_dims() - 1;
        shape[last] = d_out;
        // One product over all rows, so that the weights are packed once instead of once per sample.
        let x = Flex::float_reshape(x, Shape::new([n, d_in]));
        let mut out = Flex::float_matmul(x, weight);
        let bias = contiguous(bias);
        let bias = floats(&bias);
        for_pieces(out.storage_mut(), d_out.max(1), |_, row| {
            vectorized(
                #[inline(always)]
                || {
                    for (out, bias) in row.iter_mut().zip(bias) {
                        *out += bias;
                    }
                },
            );
        });
        Flex::float_reshape(out, shape)
    }

    /// The sum over rows.
    fn backward_bias(grad: &FlexTensor) -> FlexTensor {
        let (n, width) = rows(grad.layout().shape());
        let grad = floats(grad);
        let sums = sum_rows(n, width, |row, sums| {
            let grad = &grad[row * width..(row + 1) * width];
            vectorized(
                #[inline(always)]
                || {
                    for (sum, g) in sums.iter_mut().zip(grad) {
                        *sum += g;
                    }
                },
            );
        });
        tensor(sums, Shape::new([width]))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::kernels::testing::{
        assert_close, assert_reproducible, constant, gradient, gradients, leaf, normal, values,
    };

    /// Sums of up to 768 products of numbers around 1, whose roundings mostly cancel, relative to the largest.
    const TOLERANCE: f64 = 1e-6;

    fn run(shape: [usize; 3], d_out: usize, dtype: DType) -> Vec<Vec<f64>> {
        let d_in = shape[2];
        let x = leaf(&normal(shape.iter().product(), 1.0, 1), shape, dtype);
        let weight = leaf(&normal(d_in * d_out, 1.0, 2), [d_in, d_out], dtype);
        let bias = leaf(&normal(d_out, 1.0, 3), [d_out], dtype);
        let out = linear(x.clone(), weight.clone(), Some(bias.clone()));
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| {
            vec![gradient(&x, g), gradient(&weight, g), gradient(&bias, g)]
        }));
        all
    }

    #[test]
    fn agrees_with_f64() {
        for (shape, d_out) in [
            ([1, 1, 1], 1),
            ([2, 3, 17], 5),
            ([2, 16, 32], 3),
            ([3, 197, 768], 197),
            ([1, 1, 197], 768),
        ] {
            let actual = run(shape, d_out, DType::F32);
            let expected = run(shape, d_out, DType::F64);
            let names = [
                "output",
                "gradient",
                "gradient of weight",
                "gradient of bias",
            ];
            for ((name, actual), expected) in names.iter().zip(&actual).zip(&expected) {
                let scale = expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                assert_close(name, actual, expected, TOLERANCE, scale);
            }
        }
    }

    #[test]
    fn gradients_of_what_is_tracked() {
        let x = leaf(&normal(6, 1.0, 1), [2, 3], DType::F32);
        let weight = constant(&normal(12, 1.0, 2), [3, 4], DType::F32);
        let bias = constant(&normal(4, 1.0, 3), [4], DType::F32);
        let grads = gradients(linear(x.clone(), weight.clone(), Some(bias)), |g| {
            vec![gradient(&x, g)]
        });
        let plain = gradients(linear(x.clone(), weight.clone(), None), |g| {
            vec![gradient(&x, g)]
        });
        assert_eq!(grads, plain);
        let x = x.detach();
        let bias = leaf(&normal(4, 1.0, 3), [4], DType::F32);
        let grads = gradients(linear(x, weight, Some(bias.clone())), |g| {
            vec![gradient(&bias, g)]
        });
        let weights = normal(8, 1.0, 99);
        let expected: Vec<f64> = (0..4)
            .map(|i| f64::from(weights[i] + weights[i + 4]))
            .collect();
        assert_eq!(grads, [expected]);
    }

    #[test]
    fn views_are_read_in_order_and_left_alone() {
        let all = constant(&normal(6 * 7 * 10, 1.0, 1), [6, 7, 10], DType::F32);
        let weight = constant(&normal(40 * 10, 1.0, 2), [40, 10], DType::F32);
        let bias = constant(&normal(80, 1.0, 3), [40, 2], DType::F32);
        for view in [
            all.clone().swap_dims(0, 1),
            all.clone().swap_dims(0, 1).slice([2..5, 0..6, 0..10]),
        ] {
            let before = values(&view);
            let weight = weight.clone().transpose();
            let bias = bias.clone().slice([0..40, 1..2]).reshape([40]);
            let out = linear(view.clone(), weight.clone(), Some(bias.clone()));
            let expected = view.clone().matmul(weight.unsqueeze()) + bias.unsqueeze();
            // The product is the same; its blocks may be cut differently.
            assert_close("view", &values(&out), &values(&expected), TOLERANCE, 10.0);
            assert_eq!(values(&view), before);
        }
    }

    #[test]
    fn is_reproducible() {
        assert_reproducible(|| run([4, 100, 300], 200, DType::F32));
    }
}
