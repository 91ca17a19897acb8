//! Attention that never holds the weights of all queries.
//!
//! Plain operations write `[B, H, Q, K]` scores, weights and dropped weights, keep two of them for the backward pass, and copy heads apart
//! and together. Here a thread takes one head, some queries at a time: their scores stay in the cache of its core, and heads are read and
//! written where they lie between those of other heads. The backward pass computes the scores once more, as in FlashAttention (Dao et al.
//! 2022); since all keys of a query are there at once, the softmax is an ordinary one. For each query two numbers are kept.

use burn::tensor::{Bool, Tensor};

/// `dropout(softmax(scale * q k^T)) v` without hidden keys, or `None` where this kernel does not take the tensors: on other devices and in
/// other float types.
///
/// The random numbers, the weights that are dropped and the meaning of the masks are those of [`masked_softmax`](super::masked_softmax) followed
/// by [`dropout`](super::dropout()).
///
/// # Shapes
/// - `queries`: `[B, H, Q, D]`; `keys`, `values`: `[B, H, K, D]`
/// - `hidden`: `[B, K]` and `[Q, K]`, true where a key is hidden
/// - output: `[B, H, Q, D]`
pub fn attention(
    [queries, keys, values]: [&Tensor<4>; 3],
    scale: f64,
    hidden: (Option<Tensor<2, Bool>>, Option<Tensor<2, Bool>>),
    dropout: f64,
) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    if [queries, keys, values].into_iter().all(super::is_fused) {
        let [queries, keys, values] = [queries, keys, values].map(Clone::clone);
        return Some(fused::attention(
            queries,
            keys,
            values,
            fused::How::new(scale, hidden, dropout),
        ));
    }
    #[cfg(not(feature = "flex"))]
    let _ = (queries, keys, values, scale, hidden, dropout);
    None
}

#[cfg(feature = "flex")]
mod fused {
    use std::sync::Arc;

    use burn::backend::autodiff::NodeId;
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::{Bool, Shape, Tensor};
    use rayon::prelude::*;

    use crate::kernels::buffers::{PARALLEL_FROM, floats, tensor, vectorized};
    use crate::kernels::dropout::fused::Mask;
    use crate::kernels::product::{Matrix, MatrixMut, product};
    use crate::kernels::softmax::fused::{self as softmax, HIDDEN, SEEN, Scale, again, normalize};

    /// Scores that a thread holds at a time, in elements: with their gradients they fit the second cache of a core.
    const SCORES: usize = 64 * 1024;
    /// Queries that a thread takes at a time, if their scores are few: more gain nothing.
    const MOST_QUERIES: usize = 128;
    /// Fewer make products slow, however many keys there are.
    const LEAST_QUERIES: usize = 8;

    /// What decides the weights besides queries and keys.
    #[derive(Debug, Clone)]
    pub(super) struct How {
        scale: f32,
        /// `[B, K]`: which keys a sample shows.
        keys: Option<Arc<[u32]>>,
        /// `[Q, K]`: which keys a query may see.
        pairs: Option<Arc<[u32]>>,
        dropout: Option<Mask>,
    }

    impl How {
        pub(super) fn new(
            scale: f64,
            (keys, pairs): (Option<Tensor<2, Bool>>, Option<Tensor<2, Bool>>),
            dropout: f64,
        ) -> Self {
            let seen = |hidden: Tensor<2, Bool>| -> Arc<[u32]> {
                let hidden = hidden.into_data();
                let bits = hidden.iter::<bool>();
                bits.map(|hidden| if hidden { HIDDEN } else { SEEN })
                    .collect()
            };
            Self {
                scale: scale as f32,
                keys: keys.map(seen),
                pairs: pairs.map(seen),
                dropout: (dropout > 0.0).then(|| Mask::draw(dropout)),
            }
        }

        /// What a query of a sample sees, of `count` keys.
        fn seen(&self, sample: usize, query: usize, count: usize) -> [Option<&[u32]>; 2] {
            let of_sample = self.keys.as_deref();
            let of_query = self.pairs.as_deref();
            [
                of_sample.map(|bits| &bits[sample * count..][..count]),
                of_query.map(|bits| &bits[query * count..][..count]),
            ]
        }
    }

    pub(super) fn attention(
        queries: Tensor<4>,
        keys: Tensor<4>,
        values: Tensor<4>,
        how: How,
    ) -> Tensor<4> {
        Tensor::from_dispatch(Dispatch::attention_kernel(
            queries.into_dispatch(),
            keys.into_dispatch(),
            values.into_dispatch(),
            how,
        ))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait AttentionKernel: Backend {
        fn attention_kernel(
            queries: FloatTensor<Self>,
            keys: FloatTensor<Self>,
            values: FloatTensor<Self>,
            how: How,
        ) -> FloatTensor<Self>;
    }

    impl AttentionKernel for Flex {
        fn attention_kernel(
            queries: FlexTensor,
            keys: FlexTensor,
            values: FlexTensor,
            how: How,
        ) -> FlexTensor {
            let [queries, keys, values] = [queries, keys, values].map(forwards);
            Heads::of([&queries, &keys, &values], &how).forward().0
        }
    }

    impl<C: CheckpointStrategy> AttentionKernel for Autodiff<Flex, C> {
        fn attention_kernel(
            queries: FloatTensor<Self>,
            keys: FloatTensor<Self>,
            values: FloatTensor<Self>,
            how: How,
        ) -> FloatTensor<Self> {
            match Derivative
                .prepare::<C>([queries.node(), keys.node(), values.node()])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(mut prep) => {
                    let kept = [&queries, &keys, &values].map(|x| prep.checkpoint(x));
                    let [queries, keys, values] =
                        [queries, keys, values].map(|x| forwards(x.into_primitive()));
                    let (out, scales) = Heads::of([&queries, &keys, &values], &how).forward();
                    prep.finish((kept, how, scales), out)
                }
                OpsKind::UnTracked(prep) => {
                    let [queries, keys, values] =
                        [queries, keys, values].map(|x| forwards(x.into_primitive()));
                    prep.finish(Heads::of([&queries, &keys, &values], &how).forward().0)
                }
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 3> for Derivative {
        type State = ([NodeId; 3], How, Vec<Scale>);

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            checkpointer: &mut Checkpointer,
        ) {
            let _part = crate::part!(None, "attention, backward");
            let (kept, how, scales) = ops.state;
            let [queries, keys, values]: [FlexTensor; 3] =
                kept.map(|id| forwards(checkpointer.retrieve_node_output(id)));
            let grad = forwards(grads.consume::<Flex>(&ops.node));
            let heads = Heads::of([&queries, &keys, &values], &how);
            let all = heads.backward(&grad, &scales);
            for (node, grad) in ops.parents.into_iter().zip(all) {
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, grad);
                }
            }
        }
    }

    /// The heads of all samples.
    struct Heads<'a> {
        queries: &'a FlexTensor,
        keys: &'a FlexTensor,
        values: &'a FlexTensor,
        how: &'a How,
        /// `B`, `H`, `Q`, `K`, `D`.
        batch: usize,
        heads: usize,
        queries_each: usize,
        keys_each: usize,
        depth: usize,
    }

    /// The tensor where none of its dimensions runs backwards.
    fn forwards(x: FlexTensor) -> FlexTensor {
        if x.layout().has_positive_strides() {
            x
        } else {
            x.to_contiguous()
        }
    }

    impl<'a> Heads<'a> {
        /// # Panics
        ///
        /// Panics if a dimension of a tensor runs [backwards](forwards).
        fn of([queries, keys, values]: [&'a FlexTensor; 3], how: &'a How) -> Self {
            let shape = queries.layout().shape();
            Self {
                batch: shape[0],
                heads: shape[1],
                queries_each: shape[2],
                keys_each: keys.layout().shape()[2],
                depth: shape[3],
                queries,
                keys,
                values,
                how,
            }
        }

        /// Queries that are taken at a time. It follows from the sizes alone, so that results do not depend on threads.
        fn at_a_time(&self) -> usize {
            (SCORES / self.keys_each.max(1)).clamp(LEAST_QUERIES, MOST_QUERIES)
        }

        fn blocks(&self) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
            let (all, step) = (self.queries_each, self.at_a_time());
            (0..all)
                .step_by(step)
                .map(move |from| from..all.min(from + step))
        }

        fn is_empty(&self) -> bool {
            let sizes = [
                self.batch,
                self.heads,
                self.queries_each,
                self.keys_each,
                self.depth,
            ];
            sizes.contains(&0)
        }

        /// The sizes of `[B, L, H, D]`, as which queries, keys and values lie in memory, and results are written.
        fn lying(&self, length: usize) -> [usize; 4] {
            [self.batch, length, self.heads, self.depth]
        }

        /// A buffer for a result of `length` positions.
        fn buffer(&self, length: usize) -> Vec<f32> {
            vec![0.0; self.lying(length).iter().product()]
        }

        /// A filled buffer as `[B, H, L, D]`.
        fn result(&self, values: Vec<f32>, length: usize) -> FlexTensor {
            tensor(values, Shape::new(self.lying(length))).transpose(1, 2)
        }

        /// Runs `each(number, part)` for all heads, on all threads.
        fn for_each<T: Send>(&self, parts: Vec<T>, each: impl Fn(&mut Scratch, usize, T) + Sync) {
            if parts.len() * self.queries_each * self.keys_each < PARALLEL_FROM {
                let mut scratch = Scratch::default();
                for (number, part) in parts.into_iter().enumerate() {
                    each(&mut scratch, number, part);
                }
                return;
            }
            let parts = parts.into_par_iter().enumerate();
            parts.for_each_init(Scratch::default, |scratch, (number, part)| {
                each(scratch, number, part);
            });
        }

        /// The output, and for each query of each head what its row was made with.
        fn forward(&self) -> (FlexTensor, Vec<Scale>) {
            let count = self.queries_each;
            let mut out = self.buffer(count);
            if self.is_empty() {
                return (self.result(out, count), Vec::new());
            }
            let mut scales = vec![[0.0; 2]; self.batch * self.heads * count];
            let heads = MatrixMut::heads(&mut out, self.lying(count));
            let parts = heads.into_iter().zip(scales.chunks_mut(count)).collect();
            self.for_each(parts, |scratch, number, (mut out, scales)| {
                let [q, k, v] =
                    [self.queries, self.keys, self.values].map(|x| head(x, number, self.heads));
                for queries in self.blocks() {
                    let weights = scratch.first(queries.len() * self.keys_each);
                    let size = [queries.len(), self.keys_each];
                    product(
                        &mut MatrixMut::new(weights, size),
                        q.rows(queries.clone()),
                        k.transposed(),
                        false,
                    );
                    for (query, row) in queries.clone().zip(weights.chunks_mut(self.keys_each)) {
                        let seen = self.how.seen(number / self.heads, query, self.keys_each);
                        scales[query] = normalize(row, self.how.scale, seen);
                        self.drop(number, query, row);
                    }
                    let weights = Matrix::new(weights, size, [self.keys_each, 1]);
                    product(&mut out.rows(queries), weights, v, false);
                }
            });
            (self.result(out, count), scales)
        }

        /// Dropout of a query's row, of weights or of their gradients.
        fn drop(&self, number: usize, query: usize, row: &mut [f32]) {
            if let Some(mask) = self.how.dropout {
                let offset = (number * self.queries_each + query) * self.keys_each;
                vectorized(
                    #[inline(always)]
                    || mask.apply(offset, row),
                );
            }
        }

        /// Gradients of queries, keys and values.
        ///
        /// With `P` the weights, `W` the dropped ones and `M` what dropout multiplies by: `dV = W^T dO`, `dP = M (dO V^T)`,
        /// `dS = scale P (dP - sum(dP P))`, `dQ = dS K`, `dK = dS^T Q`.
        fn backward(&self, grad: &FlexTensor, scales: &[Scale]) -> [FlexTensor; 3] {
            let lengths = [self.queries_each, self.keys_each, self.keys_each];
            let [mut dq, mut dk, mut dv] = lengths.map(|length| self.buffer(length));
            if !self.is_empty() {
                let of_queries = MatrixMut::heads(&mut dq, self.lying(self.queries_each));
                let of_keys = MatrixMut::heads(&mut dk, self.lying(self.keys_each));
                let of_values = MatrixMut::heads(&mut dv, self.lying(self.keys_each));
                let parts = of_queries.into_iter().zip(of_keys).zip(of_values);
                let parts = parts.map(|((q, k), v)| [q, k, v]).collect();
                self.for_each(parts, |scratch, number, out| {
                    let scales = &scales[number * self.queries_each..][..self.queries_each];
                    self.backward_head(
                        scratch,
                        number,
                        (head(grad, number, self.heads), scales),
                        out,
                    );
                });
            }
            let [queries, keys, values] = lengths;
            [(dq, queries), (dk, keys), (dv, values)]
                .map(|(gradient, length)| self.result(gradient, length))
        }

        fn backward_head(
            &self,
            scratch: &mut Scratch,
            number: usize,
            (grad, scales): (Matrix<'_>, &[Scale]),
            [mut dq, mut dk, mut dv]: [MatrixMut<'_>; 3],
        ) {
            let [q, k, v] =
                [self.queries, self.keys, self.values].map(|x| head(x, number, self.heads));
            for queries in self.blocks() {
                let size = [queries.len(), self.keys_each];
                let (weights, slopes) = scratch.both(size[0] * size[1]);
                let (q, grad) = (q.rows(queries.clone()), grad.rows(queries.clone()));
                product(&mut MatrixMut::new(weights, size), q, k.transposed(), false);
                product(
                    &mut MatrixMut::new(slopes, size),
                    grad,
                    v.transposed(),
                    false,
                );
                let rows = weights
                    .chunks_mut(self.keys_each)
                    .zip(slopes.chunks_mut(self.keys_each));
                for (query, (weights, slopes)) in queries.clone().zip(rows) {
                    let seen = self.how.seen(number / self.heads, query, self.keys_each);
                    again(weights, self.how.scale, seen, scales[query]);
                    self.drop(number, query, slopes);
                    softmax::slopes(slopes, weights, self.how.scale);
                    self.drop(number, query, weights);
                }
                let weights = Matrix::new(weights, size, [self.keys_each, 1]);
                let slopes = Matrix::new(slopes, size, [self.keys_each, 1]);
                let add = queries.start > 0;
                product(
                    &mut dv.rows(0..self.keys_each),
                    weights.transposed(),
                    grad,
                    add,
                );
                product(&mut dk.rows(0..self.keys_each), slopes.transposed(), q, add);
                product(&mut dq.rows(queries), slopes, k, false);
            }
        }
    }

    /// One head of a sample of `[B, H, L, D]`, where it lies.
    fn head(x: &FlexTensor, number: usize, heads: usize) -> Matrix<'_> {
        let layout = x.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        let stride = |dim: usize| strides[dim].unsigned_abs();
        let from = layout.start_offset() + number / heads * stride(0) + number % heads * stride(1);
        Matrix::new(
            &floats(x)[from..],
            [shape[2], shape[3]],
            [stride(2), stride(3)],
        )
    }

    /// Memory of a thread.
    #[derive(Default)]
    struct Scratch([Vec<f32>; 2]);

    impl Scratch {
        fn first(&mut self, count: usize) -> &mut [f32] {
            self.both(count).0
        }

        fn both(&mut self, count: usize) -> (&mut [f32], &mut [f32]) {
            let [first, second] = &mut self.0;
            for memory in [&mut *first, &mut *second] {
                if memory.len() < count {
                    memory.resize(count, 0.0);
                }
            }
            (&mut first[..count], &mut second[..count])
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::kernels::testing::{
        alone, assert_close, assert_reproducible, constant, gradient, gradients, leaf, normal,
        values,
    };
    use crate::kernels::{dropout, masked_softmax};

    /// Sums of up to 600 products, whose roundings mostly cancel, relative to the largest number.
    const TOLERANCE: f64 = 2e-6;
    const SCALE: f64 = 0.3;

    /// Which keys are hidden.
    #[derive(Clone, Copy, PartialEq)]
    enum Hides {
        Nothing,
        Keys,
        Pairs,
        Both,
    }

    fn masks(
        hides: Hides,
        [batch, queries, keys]: [usize; 3],
    ) -> (Option<Tensor<2, Bool>>, Option<Tensor<2, Bool>>) {
        let device = Device::flex().autodiff();
        let mask = |rows: usize, hidden: &dyn Fn(usize, usize) -> bool| {
            let all = (0..rows * keys).map(|at| hidden(at / keys, at % keys));
            let data = TensorData::new(all.collect::<Vec<bool>>(), [rows, keys]);
            Tensor::from_data(data, &device)
        };
        // The first sample shows every key, the second some, the third none.
        let of_keys = || mask(batch, &|row, key| row == 2 || (row == 1 && key % 3 == 1));
        let of_pairs = || mask(queries, &|query, key| key > query);
        match hides {
            Hides::Nothing => (None, None),
            Hides::Keys => (Some(of_keys()), None),
            Hides::Pairs => (None, Some(of_pairs())),
            Hides::Both => (Some(of_keys()), Some(of_pairs())),
        }
    }

    type Shape = ([usize; 4], usize);

    /// The inputs as attention has them, as `[B, H, L, D]` that lies in memory as `[B, L, H, D]`, and the results of `attend`.
    fn run(
        ([batch, heads, queries, depth], keys): Shape,
        dtype: DType,
        attend: impl Fn([&Tensor<4>; 3]) -> Tensor<4>,
    ) -> Vec<Vec<f64>> {
        let of = |length: usize, seed: u64| {
            let shape = [batch, length, heads, depth];
            leaf(&normal(shape.iter().product(), 1.0, seed), shape, dtype)
        };
        let leaves = [of(queries, 1), of(keys, 2), of(keys, 3)];
        let [q, k, v] = leaves.clone().map(|x| x.swap_dims(1, 2));
        let out = attend([&q, &k, &v]).swap_dims(1, 2);
        let mut all = vec![values(&out)];
        all.extend(gradients(out, |g| {
            leaves.iter().map(|x| gradient(x, g)).collect()
        }));
        all
    }

    fn plain([q, k, v]: [&Tensor<4>; 3], hides: Hides, p: f64) -> Tensor<4> {
        let [batch, _, queries, _] = q.dims();
        let (of_keys, of_pairs) = masks(hides, [batch, queries, k.dims()[2]]);
        let scores = q.clone().matmul(k.clone().transpose());
        let weights = masked_softmax(scores, SCALE, of_keys, of_pairs);
        dropout(weights, p).matmul(v.clone())
    }

    fn fused(tensors: [&Tensor<4>; 3], hides: Hides, p: f64) -> Tensor<4> {
        let [batch, _, queries, _] = tensors[0].dims();
        let hidden = masks(hides, [batch, queries, tensors[1].dims()[2]]);
        attention(tensors, SCALE, hidden, p).unwrap()
    }

    #[test]
    fn agrees_with_f64() {
        for (shape, hides) in [
            (([1, 1, 1, 1], 1), Hides::Nothing),
            (([3, 2, 5, 4], 7), Hides::Keys),
            (([3, 3, 7, 16], 7), Hides::Both),
            (([2, 2, 300, 8], 300), Hides::Pairs),
            (([1, 12, 197, 64], 600), Hides::Nothing),
            (([3, 2, 130, 32], 197), Hides::Keys),
        ] {
            let actual = run(shape, DType::F32, |x| fused(x, hides, 0.0));
            let expected = run(shape, DType::F64, |x| plain(x, hides, 0.0));
            let names = ["output", "queries", "keys", "values"];
            for ((name, actual), expected) in names.iter().zip(&actual).zip(&expected) {
                let scale = expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                assert_close(name, actual, expected, TOLERANCE, scale);
            }
        }
    }

    /// The same weights are dropped as by dropout of the whole tensor, so that a run goes on with the numbers that it began with.
    #[test]
    fn drops_what_dropout_drops() {
        let _alone = alone();
        for (shape, hides) in [
            (([2, 3, 5, 4], 7), Hides::Nothing),
            (([3, 2, 140, 16], 150), Hides::Keys),
        ] {
            let device = Device::flex();
            let seeded = |attend: &dyn Fn([&Tensor<4>; 3]) -> Tensor<4>| {
                run(shape, DType::F32, |x| {
                    device.seed(7);
                    attend(x)
                })
            };
            let actual = seeded(&|x| fused(x, hides, 0.4));
            let expected = seeded(&|x| plain(x, hides, 0.4));
            for (actual, expected) in actual.iter().zip(&expected) {
                let scale = expected.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
                assert_close("with dropout", actual, expected, TOLERANCE, scale);
            }
        }
    }

    #[test]
    fn other_tensors_are_left_alone() {
        let x = constant(&normal(24, 1.0, 1), [1, 2, 3, 4], DType::F64);
        assert!(attention([&x, &x, &x], SCALE, (None, None), 0.0).is_none());
    }

    #[test]
    fn of_nothing_nothing() {
        let q = constant(&normal(24, 1.0, 1), [1, 2, 3, 4], DType::F32);
        let none = constant(&[], [1, 2, 0, 4], DType::F32);
        let out = attention([&q, &none, &none], SCALE, (None, None), 0.0).unwrap();
        assert_eq!(values(&out), [0.0; 24]);
        let out = attention([&none, &q, &q], SCALE, (None, None), 0.0).unwrap();
        assert_eq!(out.dims(), [1, 2, 0, 4]);
    }

    #[test]
    fn views_that_run_backwards_are_read_in_their_order() {
        let x = constant(&normal(24, 1.0, 1), [1, 2, 3, 4], DType::F32);
        let flipped = x.clone().flip([2]);
        let copied = Tensor::from_data(flipped.to_data(), &x.device());
        let of = |x: &Tensor<4>| values(&attention([x, x, x], SCALE, (None, None), 0.0).unwrap());
        assert_eq!(of(&flipped), of(&copied));
    }

    #[test]
    fn is_reproducible() {
        assert_reproducible(|| {
            run(([3, 4, 150, 16], 180), DType::F32, |x| {
                fused(x, Hides::Keys, 0.0)
            })
        });
    }
}
