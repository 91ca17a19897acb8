//! The softmax of attention.

use burn::tensor::{Bool, Tensor, activation, assert_shape};

/// Softmax of `scale * scores` over the keys that are not hidden.
///
/// A hidden key gets probability 0 exactly, whatever its score. A row whose keys are all hidden is all zeros. Scores in half
/// precision are taken as f32, and the probabilities are rounded to their dtype.
///
/// # Shapes
/// - `scores`, output: `[B, H, Lq, Lk]`
/// - `keys`: `[B, Lk]`, true where no query of a sample may see a key
/// - `pairs`: `[Lq, Lk]`, true where a query may not see a key in any sample
pub fn masked_softmax(
    scores: Tensor<4>,
    scale: f64,
    keys: Option<Tensor<2, Bool>>,
    pairs: Option<Tensor<2, Bool>>,
) -> Tensor<4> {
    let [batch, _, queries, count] = scores.dims();
    if let Some(keys) = &keys {
        assert_shape!(keys, [batch, count]);
    }
    if let Some(pairs) = &pairs {
        assert_shape!(pairs, [queries, count]);
    }
    if super::is_half(scores.dtype()) {
        let dtype = scores.dtype();
        return masked_softmax(super::widened(scores), scale, keys, pairs).cast(dtype);
    }
    #[cfg(feature = "flex")]
    if super::is_fused(&scores) {
        return fused::softmax(scores, scale, keys, pairs);
    }
    let scores = scores * scale;
    let Some(hidden) = hidden(keys, pairs, scores.dims()) else {
        return activation::softmax(scores, 3);
    };
    let lowest = scores
        .dtype()
        .finfo()
        .map_or(f64::from(f32::MIN), |f| f.min);
    let probabilities = activation::softmax(scores.mask_fill(hidden.clone(), lowest), 3);
    // If a row is hidden as a whole, its keys share the probability until here.
    probabilities.mask_fill(hidden, 0.0)
}

/// Both masks as one, `[B, H, Lq, Lk]` = `shape`.
///
/// # Shapes
/// - `keys`: `[B, Lk]`; `pairs`: `[Lq, Lk]`
pub(crate) fn hidden(
    keys: Option<Tensor<2, Bool>>,
    pairs: Option<Tensor<2, Bool>>,
    shape: [usize; 4],
) -> Option<Tensor<4, Bool>> {
    let [batch, _, queries, count] = shape;
    let keys = keys.map(|keys| keys.reshape([batch, 1, 1, count]));
    let pairs = pairs.map(|pairs| pairs.reshape([1, 1, queries, count]));
    let both = match (keys, pairs) {
        (Some(keys), Some(pairs)) => {
            // All heads share the mask.
            let shape = [batch, 1, queries, count];
            Some(keys.expand(shape).bool_or(pairs.expand(shape)))
        }
        (one, other) => one.or(other),
    };
    both.map(|hidden| hidden.expand(shape))
}

#[cfg(feature = "flex")]
pub(super) mod fused {
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
        Some(BoolTensor<B>),
        None,
    }

    impl<B: Backend> Hidden<B> {
        fn into_option(self) -> Option<BoolTensor<B>> {
            match self {
                Self::Some(hidden) => Some(hidden),
                Self::None => None,
            }
        }
    }

    pub(super) fn softmax(
        scores: Tensor<4>,
        scale: f64,
        keys: Option<Tensor<2, Bool>>,
        pairs: Option<Tensor<2, Bool>>,
    ) -> Tensor<4> {
        let of = |hidden: Option<Tensor<2, Bool>>| match hidden {
            Some(hidden) => Hidden::Some(hidden.into_dispatch()),
            None => Hidden::None,
        };
        Tensor::from_dispatch(Dispatch::softmax_kernel(
            scores.into_dispatch(),
            scale as f32,
            of(keys),
            of(pairs),
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait SoftmaxKernel: Backend {
        fn softmax_kernel(
            scores: FloatTensor<Self>,
            scale: f32,
            #[extension_type] keys: Hidden<Self>,
            #[extension_type] pairs: Hidden<Self>,
        ) -> FloatTensor<Self>;
    }

    impl SoftmaxKernel for Flex {
        fn softmax_kernel(
            scores: FlexTensor,
            scale: f32,
            keys: Hidden<Self>,
            pairs: Hidden<Self>,
        ) -> FlexTensor {
            forward(scores, scale, keys.into_option(), pairs.into_option())
        }
    }

    impl<C: CheckpointStrategy> SoftmaxKernel for Autodiff<Flex, C> {
        fn softmax_kernel(
            scores: FloatTensor<Self>,
            scale: f32,
            keys: Hidden<Self>,
            pairs: Hidden<Self>,
        ) -> FloatTensor<Self> {
            let (keys, pairs) = (keys.into_option(), pairs.into_option());
            let (scores, node) = scores.into_parts();
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let probabilities = forward(scores, scale, keys, pairs);
                    prep.finish((probabilities.clone(), scale), probabilities)
                }
                OpsKind::UnTracked(prep) => prep.finish(forward(scores, scale, keys, pairs)),
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
    pub(in crate::kernels) const SEEN: u32 = u32::MAX;
    /// No bit set: the score becomes -∞.
    pub(in crate::kernels) const HIDDEN: u32 = 0;

    /// What a row was made with: its highest score, and one over the sum of its exponentials. Both are 0 where every key is hidden.
    pub(in crate::kernels) type Scale = [f32; 2];

    /// Which keys are seen, row by row.
    fn seen(hidden: FlexTensor) -> Vec<u32> {
        let hidden = contiguous(hidden);
        let bits = hidden.bytes().iter();
        bits.map(|&h| if h == 0 { SEEN } else { HIDDEN }).collect()
    }

    fn forward(
        scores: FlexTensor,
        scale: f32,
        hidden_keys: Option<FlexTensor>,
        hidden_pairs: Option<FlexTensor>,
    ) -> FlexTensor {
        let mut out = owned(scores);
        let shape = out.layout().shape().clone();
        let (heads, queries, keys) = (shape[1], shape[2], shape[3]);
        if keys == 0 {
            return out;
        }
        let (of_samples, of_queries) = (hidden_keys.map(seen), hidden_pairs.map(seen));
        for_pieces(out.storage_mut(), keys, |offset, row| {
            let number = offset / keys;
            let of_sample = row_of(&of_samples, number / (heads * queries), keys);
            let of_query = row_of(&of_queries, number % queries, keys);
            normalize(row, scale, [of_sample, of_query]);
        });
        out
    }

    fn row_of(bits: &Option<Vec<u32>>, at: usize, keys: usize) -> Option<&[u32]> {
        bits.as_ref().map(|bits| &bits[at * keys..][..keys])
    }

    /// Turns a row of scores into probabilities. `bits` are the keys that the sample shows and those that the query may see.
    pub(in crate::kernels) fn normalize(
        row: &mut [f32],
        scale: f32,
        bits: [Option<&[u32]>; 2],
    ) -> Scale {
        vectorized(
            #[inline(always)]
            || {
                if scaled(row, scale, bits) == HIDDEN {
                    row.fill(0.0);
                    return [0.0; 2];
                }
                let highest = max(row);
                let total = map_sum(
                    row,
                    f32::NEG_INFINITY,
                    #[inline(always)]
                    |x| exp(x - highest),
                );
                let share = 1.0 / total;
                row.iter_mut().for_each(|x| *x *= share);
                [highest, share]
            },
        )
    }

    /// The same probabilities once more, from the same scores.
    pub(in crate::kernels) fn again(
        row: &mut [f32],
        scale: f32,
        bits: [Option<&[u32]>; 2],
        [highest, share]: Scale,
    ) {
        vectorized(
            #[inline(always)]
            || {
                scaled(row, scale, bits);
                row.iter_mut().for_each(|x| *x = exp(*x - highest) * share);
            },
        );
    }

    /// The scaled scores, -∞ for hidden keys. Returns whether any key is seen.
    #[inline(always)]
    fn scaled(row: &mut [f32], scale: f32, bits: [Option<&[u32]>; 2]) -> u32 {
        match bits {
            [None, None] => {
                row.iter_mut().for_each(|x| *x *= scale);
                SEEN
            }
            [Some(bits), None] | [None, Some(bits)] => masked(row, scale, bits.iter().copied()),
            [Some(keys), Some(pairs)] => {
                masked(row, scale, keys.iter().zip(pairs).map(|(k, p)| k & p))
            }
        }
    }

    #[inline(always)]
    fn masked(row: &mut [f32], scale: f32, bits: impl Iterator<Item = u32>) -> u32 {
        let infinity = f32::NEG_INFINITY.to_bits();
        let mut any = HIDDEN;
        for (x, bits) in row.iter_mut().zip(bits) {
            any |= bits;
            let score = (*x * scale).to_bits();
            *x = f32::from_bits((score & bits) | (infinity & !bits));
        }
        any
    }

    /// dS = scale * P * (dP - sum(dP * P))
    fn backward(probabilities: FlexTensor, grad: FlexTensor, scale: f32) -> FlexTensor {
        let mut grad = owned(grad);
        let (_, keys) = crate::kernels::buffers::rows(grad.layout().shape());
        let probabilities = floats(&probabilities);
        for_pieces(grad.storage_mut(), keys.max(1), |offset, row| {
            let p = &probabilities[offset..offset + row.len()];
            slopes(row, p, scale);
        });
        grad
    }

    /// The same for one row, in the place of `dP`.
    pub(in crate::kernels) fn slopes(row: &mut [f32], probabilities: &[f32], scale: f32) {
        vectorized(
            #[inline(always)]
            || {
                let mean = sum2(
                    row,
                    probabilities,
                    #[inline(always)]
                    |g, p| g * p,
                );
                for (g, &p) in row.iter_mut().zip(probabilities) {
                    *g = scale * p * (*g - mean);
                }
            },
        );
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
        run_with(scores, shape, hidden, None, dtype)
    }

    fn run_with(
        scores: &[f32],
        shape: [usize; 4],
        keys: Option<&[bool]>,
        pairs: Option<&[bool]>,
        dtype: DType,
    ) -> Vec<Vec<f64>> {
        let x = leaf(scores, shape, dtype);
        let mask = |hidden: Option<&[bool]>, rows: usize| {
            let data = hidden.map(|h| TensorData::new(h.to_vec(), [rows, shape[3]]));
            data.map(|data| Tensor::from_data(data, &Device::flex().autodiff()))
        };
        let (keys, pairs) = (mask(keys, shape[0]), mask(pairs, shape[2]));
        let out = masked_softmax(x.clone(), SCALE, keys, pairs);
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

    /// Pairs alone and with keys. The third query sees nothing; the fourth sees nothing where every third key is hidden.
    #[test]
    fn pairs_hide_in_every_sample() {
        let keys = 17;
        let shape = [3, 2, 5, keys];
        let scores = normal(shape.iter().product(), 5.0, 6);
        let of_keys = some_hidden(keys);
        let pairs: Vec<bool> = (0..5 * keys)
            .map(|i| match (i / keys, i % keys) {
                (2, _) => true,
                (3, key) => key % 3 != 1,
                (query, key) => key > query + 4,
            })
            .collect();
        for hidden in [None, Some(of_keys.as_slice())] {
            let run = |dtype| run_with(&scores, shape, hidden, Some(&pairs), dtype);
            let (actual, expected) = (run(DType::F32), run(DType::F64));
            assert_close("output", &actual[0], &expected[0], TOLERANCE, 0.0);
            assert_close("gradient", &actual[1], &expected[1], TOLERANCE, 4.0 * SCALE);
            for (i, p) in actual[0].iter().enumerate() {
                let by_key = hidden.is_some_and(|h| h[i / (2 * 5 * keys) * keys + i % keys]);
                let none = by_key || pairs[i % (5 * keys)];
                assert!(if none { *p == 0.0 } else { *p > 0.0 }, "element {i}: {p}");
            }
        }
    }

    #[test]
    fn hidden_keys_have_no_share() {
        let keys = 17;
        let shape = [3, 2, 5, keys];
        let mut scores = normal(shape.iter().product(), 5.0, 2);
        let hidden = some_hidden(keys);
        // Hidden scores have no effect.
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
            let out = values(&masked_softmax(view.clone(), SCALE, Some(hidden()), None));
            let copy: Vec<f32> = before.iter().map(|&x| x as f32).collect();
            let copy = constant(&copy, view.dims(), DType::F32);
            assert_eq!(
                out,
                values(&masked_softmax(copy, SCALE, Some(hidden()), None))
            );
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
