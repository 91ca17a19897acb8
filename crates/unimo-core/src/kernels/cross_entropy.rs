//! Cross-entropy over a vocabulary.

use burn::tensor::{Int, Tensor, activation, assert_shape};

/// The negative log-likelihood of the target class under the softmax of each row; f32 for half-precision logits.
///
/// # Shapes
/// - `logits`: `[N, V]`
/// - `targets`: `[N]`, each in `0..V`
/// - output: `[N]`
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = logits.dims();
    assert_shape!(targets, [n]);
    let logits = super::widened(logits);
    #[cfg(feature = "flex")]
    if super::is_fused(&logits) && fused::takes(&targets) {
        return fused::cross_entropy(logits, targets);
    }
    let log_probabilities = activation::log_softmax(logits, 1);
    -log_probabilities
        .gather(1, targets.reshape([n, 1]))
        .reshape([n])
}

/// The cross-entropy with a target distribution of `1 - smoothing` for the target class and `smoothing / V` more for every class
/// (Szegedy et al. 2016, section 7; PyTorch's `label_smoothing`). It equals `CE + smoothing (x_target - mean(x))`, which leaves the
/// fused kernel in place. Without smoothing it is [`cross_entropy`], to the bit.
///
/// # Shapes
/// - `logits`: `[N, V]`
/// - `targets`: `[N]`, each in `0..V`
/// - output: `[N]`
pub fn smoothed_cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    smoothing: f64,
) -> Tensor<1> {
    if smoothing == 0.0 {
        return cross_entropy(logits, targets);
    }
    let [n, _] = logits.dims();
    let logits = super::widened(logits);
    let plain = cross_entropy(logits.clone(), targets.clone());
    let target = logits.clone().gather(1, targets.reshape([n, 1]));
    let above_mean = (target - logits.mean_dim(1)).reshape([n]);
    plain + above_mean * smoothing
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
                        f32::NEG_INFINITY,
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::kernels::testing::{
        WIDTHS, assert_close, assert_reproducible, constant, gradient, gradients, leaf, normal,
        values,
    };

    /// The logarithm of a sum of exponentials (2e-6 at most, see the softmax) minus a logit, both around 10.
    const TOLERANCE: f64 = 2e-6;

    /// Half-precision logits give the f32 loss of the same numbers.
    #[test]
    fn half_precision_is_taken_as_f32() {
        for dtype in [DType::BF16, DType::F16] {
            let logits = constant(&normal(3 * 700, 5.0, 1), [3, 700], dtype);
            let of = |logits: Tensor<2>| cross_entropy(logits, targets(3, 700));
            let (half, single) = (of(logits.clone()), of(logits.cast(DType::F32)));
            assert_eq!(half.dtype(), DType::F32);
            assert_eq!(values(&half), values(&single));
        }
    }

    fn targets(n: usize, classes: usize) -> Tensor<1, Int> {
        let targets: Vec<i32> = (0..n).map(|i| (i * 7919 % classes) as i32).collect();
        Tensor::from_data(TensorData::new(targets, [n]), &Device::flex().autodiff())
    }

    fn run(logits: &[f32], shape: [usize; 2], dtype: DType) -> Vec<Vec<f64>> {
        let x = leaf(logits, shape, dtype);
        let out = cross_entropy(x.clone(), targets(shape[0], shape[1]));
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| vec![gradient(&x, g)]));
        all
    }

    fn compare(logits: &[f32], shape: [usize; 2]) {
        let actual = run(logits, shape, DType::F32);
        let expected = run(logits, shape, DType::F64);
        assert_close("loss", &actual[0], &expected[0], TOLERANCE, 1.0);
        // A row's gradient is a probability minus 0 or 1, times a weight of at most about 4.
        assert_close("gradient", &actual[1], &expected[1], TOLERANCE, 4.0);
    }

    #[test]
    fn agrees_with_f64() {
        for classes in WIDTHS {
            for n in [1, 5] {
                compare(&normal(n * classes, 3.0, 1), [n, classes]);
            }
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        compare(
            &[1e4, -1e4, 0.0, 1e4, 300.0, -300.0, 1e30, -1e30, 5e29],
            [3, 3],
        );
    }

    #[test]
    fn takes_either_width_of_class_numbers() {
        let logits = || constant(&normal(3 * 10, 1.0, 1), [3, 10], DType::F32);
        let short = cross_entropy(logits(), targets(3, 10).cast(DType::I32));
        let long = cross_entropy(logits(), targets(3, 10).cast(DType::I64));
        assert_eq!(values(&short), values(&long));
    }

    #[test]
    fn views_are_read_in_order_and_left_alone() {
        let all = constant(&normal(40 * 50, 2.0, 3), [40, 50], DType::F32);
        for view in [all.clone().transpose(), all.slice([2..30, 5..44])] {
            let before = values(&view);
            let [n, classes] = view.dims();
            let out = cross_entropy(view.clone(), targets(n, classes));
            let copy: Vec<f32> = before.iter().map(|&x| x as f32).collect();
            let copy = constant(&copy, view.dims(), DType::F32);
            let expected = cross_entropy(copy, targets(n, classes));
            assert_eq!(values(&out), values(&expected));
            assert_eq!(values(&view), before);
        }
    }

    /// PyTorch 2.15: `F.cross_entropy(x, y, label_smoothing=0.1)`, without reduction and as a mean with its gradient.
    #[test]
    fn smoothing_is_pytorchs() {
        const LOGITS: [f32; 15] = [
            0.5, -1.25, 2.0, 0.0, 3.5, 1.0, 1.0, -4.0, 0.25, -0.5, -2.0, 8.0, 0.125, 1.5, -0.75,
        ];
        const LOSSES: [f64; 3] = [0.526_374_58, 5.639_079_1, 9.664_585_1];
        const GRADIENT: [f64; 15] = [
            0.005_984_738,
            -0.004_468_182,
            0.050_033_003,
            0.001_006_798,
            -0.052_556_362,
            0.116_688_006,
            0.116_688_006,
            -0.305_835_485,
            0.051_601_958,
            0.020_857_483,
            -0.306_651_533,
            0.325_972_229,
            -0.006_540_221,
            -0.006_166_564,
            -0.006_613_956,
        ];
        let x = leaf(&LOGITS, [3, 5], DType::F32);
        let classes = || Tensor::from_data([4, 2, 0], &Device::flex().autodiff());
        let losses = smoothed_cross_entropy(x.clone(), classes(), 0.1);
        assert_close("loss", &values(&losses), &LOSSES, TOLERANCE, 1.0);
        let gradients = losses.mean().backward();
        let of_mean = gradient(&x, &gradients);
        assert_close("gradient", &of_mean, &GRADIENT, TOLERANCE, 1.0);
        let plain = cross_entropy(x.clone(), classes());
        let unsmoothed = smoothed_cross_entropy(x, classes(), 0.0);
        assert_eq!(values(&plain), values(&unsmoothed));
    }

    #[test]
    fn is_reproducible() {
        let logits = normal(20 * 5003, 2.0, 5);
        assert_reproducible(|| run(&logits, [20, 5003], DType::F32));
    }
}
