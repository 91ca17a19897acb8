//! Cross-entropy over a vocabulary.

use burn::tensor::{Int, Tensor, activation, assert_shape};

/// The negative log-likelihood of the target class under the softmax of each row.
///
/// # Shapes
/// - `logits`: `[N, V]`
/// - `targets`: `[N]`, each in `0..V`
/// - output: `[N]`
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = logits.dims();
    assert_shape!(targets, [n]);
    #[cfg(feature = "flex")]
    if super::is_fused(&logits) && fused::takes(&targets) {
        return fused::cross_entropy(logits, targets);
    }
    let log_probabilities = activation::log_softmax(logits, 1);
    -log_probabilities
        .gather(1, targets.reshape([n, 1]))
        .reshape([n])
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::{FloatTensor, IntTensor};
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::{DType, Int, Shape, Tensor};

    use crate::kernels::buffers::{
        collect, contiguous, floats, for_pieces, owned, rows, tensor, vectorized,
    };
    use crate::kernels::math::{exp, max, sum};

    /// Whether the kernel reads this type of class numbers.
    pub(super) fn takes(targets: &Tensor<1, Int>) -> bool {
        matches!(targets.dtype(), DType::I32 | DType::I64)
    }

    pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        Tensor::from_dispatch(Dispatch::cross_entropy_kernel(
            logits.into_dispatch(),
            targets.into_dispatch(),
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait CrossEntropyKernel: Backend {
        fn cross_entropy_kernel(
            logits: FloatTensor<Self>,
            targets: IntTensor<Self>,
        ) -> FloatTensor<Self>;
    }

    impl CrossEntropyKernel for Flex {
        fn cross_entropy_kernel(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
            let logits = contiguous(logits);
            let normalizers = normalizers(&logits);
            losses(&logits, &classes(targets), &normalizers)
        }
    }

    impl<C: CheckpointStrategy> CrossEntropyKernel for Autodiff<Flex, C> {
        fn cross_entropy_kernel(
            logits: FloatTensor<Self>,
            targets: FlexTensor,
        ) -> FloatTensor<Self> {
            let (logits, node) = logits.into_parts();
            let logits = contiguous(logits);
            let targets = classes(targets);
            let normalizers = normalizers(&logits);
            let losses = losses(&logits, &targets, &normalizers);
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((logits, targets, normalizers), losses),
                OpsKind::UnTracked(prep) => prep.finish(losses),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 1> for Derivative {
        // Logits, targets, and the logarithm of each row's sum of exponentials.
        type State = (FlexTensor, Vec<usize>, Vec<f32>);

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let (logits, targets, normalizers) = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
                backward(logits, &targets, &normalizers, &contiguous(grad))
            });
        }
    }

    fn classes(targets: FlexTensor) -> Vec<usize> {
        let targets = contiguous(targets);
        match targets.dtype() {
            DType::I64 => targets
                .storage::<i64>()
                .iter()
                .map(|&t| t as usize)
                .collect(),
            _ => targets
                .storage::<i32>()
                .iter()
                .map(|&t| t as usize)
                .collect(),
        }
    }

    fn normalizers(logits: &FlexTensor) -> Vec<f32> {
        let (n, width) = rows(logits.layout().shape());
        let logits = floats(logits);
        collect(n, width, |row| {
            let row = &logits[row * width..(row + 1) * width];
            vectorized(
                #[inline(always)]
                || {
                    let highest = max(row);
                    let total = sum(
                        row,
                        #[inline(always)]
                        |x| exp(x - highest),
                    );
                    highest + total.ln()
                },
            )
        })
    }

    fn losses(logits: &FlexTensor, targets: &[usize], normalizers: &[f32]) -> FlexTensor {
        let (n, width) = rows(logits.layout().shape());
        let logits = floats(logits);
        let losses = targets
            .iter()
            .zip(normalizers)
            .zip(logits.chunks(width.max(1)))
            .map(|((&target, normalizer), row)| normalizer - row[target])
            .collect();
        tensor(losses, Shape::new([n]))
    }

    /// dX = (softmax(X) - onehot(target)) * dLoss
    fn backward(
        logits: FlexTensor,
        targets: &[usize],
        normalizers: &[f32],
        grad: &FlexTensor,
    ) -> FlexTensor {
        let mut out = owned(logits);
        let (_, width) = rows(out.layout().shape());
        let grad = floats(grad);
        for_pieces(out.storage_mut(), width.max(1), |offset, values| {
            let row = offset / width;
            let (normalizer, grad) = (normalizers[row], grad[row]);
            vectorized(
                #[inline(always)]
                || {
                    for x in values.iter_mut() {
                        *x = grad * exp(*x - normalizer);
                    }
                },
            );
            values[targets[row]] -= grad;
        });
        out
    }
}
