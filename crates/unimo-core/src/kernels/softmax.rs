//! The softmax of attention.

use burn::tensor::{Bool, Tensor, activation, assert_shape};

/// Softmax of `scale * scores` over the keys that are not hidden.
///
/// A hidden key gets probability 0 exactly, whatever its score. A row whose keys are all hidden is all zeros.
///
/// # Shapes
/// - `scores`, output: `[B, H, Lq, Lk]`
/// - `hidden`: `[B, Lk]`, true where a key is not to be seen
pub fn masked_softmax(scores: Tensor<4>, scale: f64, hidden: Option<Tensor<2, Bool>>) -> Tensor<4> {
    let [batch, _, _, keys] = scores.dims();
    if let Some(hidden) = &hidden {
        assert_shape!(hidden, [batch, keys]);
    }
    #[cfg(feature = "flex")]
    if super::is_fused(&scores) {
        return fused::softmax(scores, scale, hidden);
    }
    let scores = scores * scale;
    let Some(hidden) = hidden else {
        return activation::softmax(scores, 3);
    };
    let lowest = scores
        .dtype()
        .finfo()
        .map_or(f64::from(f32::MIN), |f| f.min);
    let hidden = hidden.reshape([batch, 1, 1, keys]).expand(scores.dims());
    let probabilities = activation::softmax(scores.mask_fill(hidden.clone(), lowest), 3);
    // Keys of a row that is hidden as a whole share the probability until here.
    probabilities.mask_fill(hidden, 0.0)
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::{BoolTensor, FloatTensor};
    use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, backend_extension};
    use burn::tensor::{Bool, Tensor};

    use crate::kernels::buffers::{contiguous, floats, for_pieces, owned, vectorized};
    use crate::kernels::math::{exp, map_sum, max, sum2};

    #[derive(ExtensionType)]
    pub(super) enum Hidden<B: Backend> {
        Keys(BoolTensor<B>),
        None,
    }

    pub(super) fn softmax(
        scores: Tensor<4>,
        scale: f64,
        hidden: Option<Tensor<2, Bool>>,
    ) -> Tensor<4> {
        let hidden = match hidden {
            Some(hidden) => Hidden::Keys(hidden.into_dispatch()),
            None => Hidden::None,
        };
        Tensor::from_dispatch(Dispatch::softmax_kernel(
            scores.into_dispatch(),
            scale as f32,
            hidden,
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait SoftmaxKernel: Backend {
        fn softmax_kernel(
            scores: FloatTensor<Self>,
            scale: f32,
            #[extension_type] hidden: Hidden<Self>,
        ) -> FloatTensor<Self>;
    }

    impl SoftmaxKernel for Flex {
        fn softmax_kernel(scores: FlexTensor, scale: f32, hidden: Hidden<Self>) -> FlexTensor {
            let hidden = match hidden {
                Hidden::Keys(hidden) => Some(hidden),
                Hidden::None => None,
            };
            forward(scores, scale, hidden)
        }
    }

    impl<C: CheckpointStrategy> SoftmaxKernel for Autodiff<Flex, C> {
        fn softmax_kernel(
            scores: FloatTensor<Self>,
            scale: f32,
            hidden: Hidden<Self>,
        ) -> FloatTensor<Self> {
            let hidden = match hidden {
                Hidden::Keys(hidden) => Some(hidden),
                Hidden::None => None,
            };
            let (scores, node) = scores.into_parts();
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let probabilities = forward(scores, scale, hidden);
                    prep.finish((probabilities.clone(), scale), probabilities)
                }
                OpsKind::UnTracked(prep) => prep.finish(forward(scores, scale, hidden)),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 1> for Derivative {
        // The probabilities, which attention keeps for its own backward pass anyway.
        type State = (FlexTensor, f32);

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let (probabilities, scale) = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| {
                backward(probabilities, grad, scale)
            });
        }
    }

    /// All bits set: the score stays.
    const SEEN: u32 = u32::MAX;
    /// No bit set: the score becomes -∞.
    const HIDDEN: u32 = 0;

    /// Which keys of each sample are seen.
    struct Keys {
        bits: Vec<u32>,
        any: Vec<bool>,
    }

    impl Keys {
        fn new(hidden: &FlexTensor, keys: usize) -> Self {
            let bits: Vec<u32> = hidden
                .bytes()
                .iter()
                .map(|&h| if h == 0 { SEEN } else { HIDDEN })
                .collect();
            let any = bits.chunks(keys).map(|row| row.contains(&SEEN)).collect();
            Self { bits, any }
        }
    }

    fn forward(scores: FlexTensor, scale: f32, hidden: Option<FlexTensor>) -> FlexTensor {
        let mut out = owned(scores);
        let shape = out.layout().shape().clone();
        let (queries, keys) = (shape[1] * shape[2], shape[3]);
        if keys == 0 {
            return out;
        }
        let seen = hidden.map(|hidden| Keys::new(&contiguous(hidden), keys));
        for_pieces(out.storage_mut(), keys, |offset, row| {
            let Some(seen) = &seen else {
                return vectorized(
                    #[inline(always)]
                    || {
                        row.iter_mut().for_each(|x| *x *= scale);
                        normalize(row);
                    },
                );
            };
            let sample = offset / keys / queries;
            if !seen.any[sample] {
                return row.fill(0.0);
            }
            let bits = &seen.bits[sample * keys..(sample + 1) * keys];
            vectorized(
                #[inline(always)]
                || {
                    let infinity = f32::NEG_INFINITY.to_bits();
                    for (x, &bits) in row.iter_mut().zip(bits) {
                        let score = (*x * scale).to_bits();
                        *x = f32::from_bits((score & bits) | (infinity & !bits));
                    }
                    normalize(row);
                },
            );
        });
        out
    }

    #[inline(always)]
    fn normalize(row: &mut [f32]) {
        let highest = max(row);
        let total = map_sum(
            row,
            f32::NEG_INFINITY,
            #[inline(always)]
            |x| exp(x - highest),
        );
        let share = 1.0 / total;
        row.iter_mut().for_each(|x| *x *= share);
    }

    /// dS = scale * P * (dP - sum(dP * P))
    fn backward(probabilities: FlexTensor, grad: FlexTensor, scale: f32) -> FlexTensor {
        let mut grad = owned(grad);
        let (_, keys) = crate::kernels::buffers::rows(grad.layout().shape());
        let probabilities = floats(&probabilities);
        for_pieces(grad.storage_mut(), keys.max(1), |offset, row| {
            let p = &probabilities[offset..offset + row.len()];
            vectorized(
                #[inline(always)]
                || {
                    let mean = sum2(
                        row,
                        p,
                        #[inline(always)]
                        |g, p| g * p,
                    );
                    for (g, &p) in row.iter_mut().zip(p) {
                        *g = scale * p * (*g - mean);
                    }
                },
            );
        });
        grad
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

    /// Two units of the exponential, the sum of a row in 32 lanes (up to 1571 additions each, whose roundings mostly
    /// cancel), and the division.
    const TOLERANCE: f64 = 2e-6;
    const SCALE: f64 = 0.3;

    fn run(
        scores: &[f32],
        shape: [usize; 4],
        hidden: Option<&[bool]>,
        dtype: DType,
    ) -> Vec<Vec<f64>> {
        let x = leaf(scores, shape, dtype);
        let hidden = hidden.map(|h| {
            let data = TensorData::new(h.to_vec(), [shape[0], shape[3]]);
            Tensor::from_data(data, &Device::flex().autodiff())
        });
        let out = masked_softmax(x.clone(), SCALE, hidden);
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| vec![gradient(&x, g)]));
        all
    }

    /// Every third key is hidden in the first sample, all in the second, none in the third.
    fn some_hidden(keys: usize) -> Vec<bool> {
        let thirds = (0..keys).map(|k| k % 3 == 1);
        thirds
            .chain((0..keys).map(|_| true))
            .chain((0..keys).map(|_| false))
            .collect()
    }

    #[test]
    fn agrees_with_f64() {
        for keys in WIDTHS {
            let shape = if keys > 1000 {
                [3, 1, 1, keys]
            } else {
                [3, 2, 5, keys]
            };
            let scores = normal(shape.iter().product(), 5.0, 1);
            let hidden = some_hidden(keys);
            for hidden in [None, Some(hidden.as_slice())] {
                let actual = run(&scores, shape, hidden, DType::F32);
                let expected = run(&scores, shape, hidden, DType::F64);
                assert_close("output", &actual[0], &expected[0], TOLERANCE, 0.0);
                // A gradient is a difference of products that are at most about 4.
                assert_close("gradient", &actual[1], &expected[1], TOLERANCE, 4.0 * SCALE);
            }
        }
    }

    #[test]
    fn hidden_keys_have_no_share() {
        let keys = 17;
        let shape = [3, 2, 5, keys];
        let mut scores = normal(shape.iter().product(), 5.0, 2);
        let hidden = some_hidden(keys);
        // Whatever is behind the mask does not show.
        let of = |i: usize| hidden[i / (2 * 5 * keys) * keys + i % keys];
        let garbage = [f32::NAN, f32::INFINITY, 1e30];
        for (i, score) in scores.iter_mut().enumerate().filter(|(i, _)| of(*i)) {
            *score = garbage[i % 3];
        }
        let run = run(&scores, shape, Some(&hidden), DType::F32);
        for (i, p) in run[0].iter().enumerate() {
            assert!(if of(i) { *p == 0.0 } else { *p > 0.0 }, "element {i}: {p}");
        }
        assert!(run[1].iter().enumerate().all(|(i, g)| !of(i) || *g == 0.0));
        for (i, row) in run[0].chunks(keys).enumerate() {
            let total = if i / 10 == 1 { 0.0 } else { 1.0 };
            assert_close("sum", &[row.iter().sum()], &[total], TOLERANCE, 1.0);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let scores = [1e30, -1e30, 1e30, 0.0, -3e38, 3e38, f32::NEG_INFINITY, 1.0];
        let run = run(&scores, [1, 1, 2, 4], None, DType::F32);
        assert_eq!(run[0], [0.5, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn not_a_number_stays_visible() {
        let run = run(&[1.0, f32::NAN, 0.0, 1.0], [1, 1, 2, 2], None, DType::F32);
        assert!(run[0][..2].iter().all(|p| p.is_nan()));
        assert!(run[0][2..].iter().all(|p| p.is_finite()));
    }

    #[test]
    fn views_are_read_in_order_and_left_alone() {
        let all = constant(&normal(2 * 3 * 7 * 9, 2.0, 3), [2, 3, 7, 9], DType::F32);
        let views = [
            all.clone().swap_dims(2, 3),
            all.clone().swap_dims(0, 1),
            all.clone().slice([0..2, 1..3, 2..6, 4..9]),
        ];
        for view in views {
            let before = values(&view);
            let [batch, _, _, keys] = view.dims();
            let hidden = || {
                let x = constant(&normal(batch * keys, 1.0, 4), [keys, batch], DType::F32);
                x.greater_elem(0.5).transpose()
            };
            let out = values(&masked_softmax(view.clone(), SCALE, Some(hidden())));
            let copy: Vec<f32> = before.iter().map(|&x| x as f32).collect();
            let copy = constant(&copy, view.dims(), DType::F32);
            assert_eq!(out, values(&masked_softmax(copy, SCALE, Some(hidden()))));
            assert_eq!(values(&view), before);
        }
    }

    #[test]
    fn is_reproducible() {
        let shape = [3, 4, 40, 197];
        let scores = normal(shape.iter().product(), 2.0, 5);
        let hidden = some_hidden(197);
        assert_reproducible(|| run(&scores, shape, Some(&hidden), DType::F32));
    }
}
