//! Attention: the one place where scores become weights.
//!
//! [`Attention`] serves as self-attention (`memory` = `query`) and as cross-attention; [`crate::levels`] builds
//! multi-granularity attention from its parts, [`crate::split`] attention with matrices for each modality.
//!
//! Shape legend: `B` rows, `Q` queries, `K` keys, `D` width, `H` heads.

use burn::module::Module;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{FloatDType, Gradients, Int, Tensor, assert_shape};

use crate::device::is_cpu;
use crate::dtype::{cast, same_dtype};
use crate::init::Init;
use crate::kernels;
use crate::layers::{Dropout, Linear};
use crate::mask::{Hidden, PaddingMask};
use crate::part;

/// The weights of one attention, kept for callers that look into a model.
///
/// Shape of both tensors: `[B, H, Q, K]`.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Before dropout; each row sums to 1.
    values: Tensor<4>,
    /// Zeros added to the values before use, so their gradient is the gradient of the values.
    probe: Option<Tensor<4>>,
}

impl Weights {
    /// The weights, `[B, H, Q, K]`; each row sums to 1.
    pub fn values(&self) -> Tensor<4> {
        self.values.clone()
    }

    /// The gradient with respect to the weights, `[B, H, Q, K]`. `None` if the pass was without autodiff, or if the
    /// differentiated result does not depend on them.
    pub fn gradient(&self, gradients: &Gradients) -> Option<Tensor<4>> {
        self.probe.as_ref()?.grad(gradients)
    }
}

/// Multi-head attention (Vaswani et al. 2017, section 3.2.2). Either all projections have biases or only the output has.
#[derive(Module, Debug)]
pub struct Attention {
    /// `D -> D`.
    pub query: Linear,
    /// `D -> D`.
    pub key: Linear,
    /// `D -> D`.
    pub value: Linear,
    /// `D -> D`.
    pub output: Linear,
    /// Dropout on the attention weights.
    pub dropout: Dropout,
    /// `H`.
    pub heads: usize,
}

impl Attention {
    /// # Panics
    ///
    /// Panics if `width` is not a multiple of `heads`.
    pub fn new(init: &mut Init, width: usize, heads: usize, dropout: f64) -> Self {
        assert!(
            heads > 0 && width.is_multiple_of(heads),
            "width {width} must be a multiple of the number of heads {heads}"
        );
        Self {
            query: Linear::new(init, width, width, true),
            key: Linear::new(init, width, width, true),
            value: Linear::new(init, width, width, true),
            output: Linear::new(init, width, width, true),
            dropout: Dropout::new(dropout),
            heads,
        }
    }

    /// As [`new`](Self::new), without biases on queries, keys and values: ViT with `qkv_bias = false`.
    #[must_use]
    pub fn without_input_biases(mut self) -> Self {
        for layer in [&mut self.query, &mut self.key, &mut self.value] {
            layer.bias = None;
        }
        self
    }

    /// Every query looks at every key of `memory` that `mask` does not hide.
    ///
    /// # Shapes
    ///
    /// - query: `[B, Q, D]`
    /// - memory: `[B, K, D]`
    /// - mask: `[B, K]` and `[Q, K]`
    /// - output: `[B, Q, D]`
    pub fn forward<'a>(
        &self,
        query: Tensor<3>,
        memory: Tensor<3>,
        mask: impl Into<Hidden<'a>>,
    ) -> Tensor<3> {
        self.forward_keeping(query, memory, mask, None)
    }

    /// As [`forward`](Self::forward); appends its weights to `kept`, if there is one.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_keeping<'a>(
        &self,
        query: Tensor<3>,
        memory: Tensor<3>,
        mask: impl Into<Hidden<'a>>,
        kept: Option<&mut Vec<Weights>>,
    ) -> Tensor<3> {
        let _part = part!(Some(query.device()), "attention");
        let heads = self.attend(self.queries(query), memory, mask, kept);
        self.output.forward(heads)
    }

    /// Self-attention of further positions: they see those of `before`, and all of themselves. Their keys and values join `before`.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, Q, D]`
    /// - mask: `[B, K + Q]`, with `K` the positions before
    pub fn read_on(
        &self,
        x: Tensor<3>,
        before: &mut Option<KeyValues>,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        let own = self.remember(x.clone());
        let all = match before.take() {
            Some(before) => before.followed_by(own),
            None => own,
        };
        *before = Some(all.clone());
        let heads = self.attend_to(self.queries(x), all, mask, None);
        self.output.forward(heads)
    }

    /// The queries split into heads, for use with several memories.
    ///
    /// # Shapes
    ///
    /// - query: `[B, Q, D]`
    /// - output: `[B, H, Q, D / H]`
    pub fn queries(&self, query: Tensor<3>) -> Tensor<4> {
        split_heads(self.query.forward(query), self.heads)
    }

    /// Attention before the output projection; appends its weights to `kept`, if there is one.
    ///
    /// # Shapes
    ///
    /// - queries: `[B, H, Q, D / H]`
    /// - memory: `[B, K, D]`
    /// - mask: `[B, K]` and `[Q, K]`
    /// - output: `[B, Q, D]`
    pub fn attend<'a>(
        &self,
        queries: Tensor<4>,
        memory: Tensor<3>,
        mask: impl Into<Hidden<'a>>,
        kept: Option<&mut Vec<Weights>>,
    ) -> Tensor<3> {
        let [rows, _, _, _] = queries.dims();
        let [width, _] = self.key.weight.dims();
        assert_shape!(memory, [rows, _, width]);
        self.attend_to(queries, self.remember(memory), mask, kept)
    }

    /// The keys and values of a memory, for several passes over it.
    ///
    /// # Shapes
    ///
    /// - memory: `[B, K, D]`
    pub fn remember(&self, memory: Tensor<3>) -> KeyValues {
        KeyValues {
            keys: split_heads(self.key.forward(memory.clone()), self.heads),
            values: split_heads(self.value.forward(memory), self.heads),
        }
    }

    /// As [`attend`](Self::attend), with keys and values that are there already.
    ///
    /// # Shapes
    ///
    /// As [`attend`](Self::attend).
    pub fn attend_to<'a>(
        &self,
        queries: Tensor<4>,
        memory: KeyValues,
        mask: impl Into<Hidden<'a>>,
        kept: Option<&mut Vec<Weights>>,
    ) -> Tensor<3> {
        let KeyValues { keys, values } = memory;
        let dropout = &self.dropout;
        join_heads(match kept {
            None => scaled_dot_product(queries, keys, values, mask, dropout),
            Some(kept) => {
                let weights = attention_weights(queries, keys, mask);
                let probe = weights
                    .is_autodiff()
                    .then(|| weights.zeros_like().detach().require_grad());
                kept.push(Weights {
                    values: weights.clone(),
                    probe: probe.clone(),
                });
                let used = match probe {
                    Some(probe) => weights + probe,
                    None => weights,
                };
                dropout.forward(used).matmul(values)
            }
        })
    }
}

/// The keys and values of a memory, split into heads.
#[derive(Debug, Clone)]
pub struct KeyValues {
    /// `[B, H, K, D / H]`.
    pub(crate) keys: Tensor<4>,
    /// `[B, H, K, D / H]`.
    pub(crate) values: Tensor<4>,
}

impl KeyValues {
    /// These positions, followed by those of `more`.
    #[must_use]
    pub fn followed_by(self, more: Self) -> Self {
        let along = |a, b| Tensor::cat(vec![a, b], 2);
        Self {
            keys: along(self.keys, more.keys),
            values: along(self.values, more.values),
        }
    }

    /// The given rows, in that order; a row may be given several times.
    #[must_use]
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            keys: self.keys.clone().select(0, rows.clone()),
            values: self.values.clone().select(0, rows.clone()),
        }
    }
}

/// `softmax(q k^T / sqrt(D / H)) v`, with hidden keys left out.
///
/// On the CPU in f32 the weights of all queries are never there at once ([`kernels::attention`]).
///
/// burn's fused attention runs without gradients, off the CPU, in f32. It has no dropout and computes separate products under
/// autodiff, so training uses [`kernels::masked_softmax`]. In half precision it takes the softmax in half precision for shapes
/// that its kernels do not support, so it is not used there.
///
/// # Shapes
///
/// - queries: `[B, H, Q, D / H]`
/// - keys, values: `[B, H, K, D / H]`
/// - mask: `[B, K]` and `[Q, K]`
/// - output: `[B, H, Q, D / H]`
pub fn scaled_dot_product<'a>(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    mask: impl Into<Hidden<'a>>,
    dropout: &Dropout,
) -> Tensor<4> {
    let [rows, heads, q, depth] = queries.dims();
    let [_, _, k, _] = keys.dims();
    assert_shape!(keys, [rows, heads, k, depth]);
    assert_shape!(values, [rows, heads, k, _]);
    let mask = mask.into();
    let half = kernels::is_half(queries.dtype());
    if !queries.is_autodiff() && !half && !is_cpu(&queries.device()) {
        let (of_keys, of_pairs) = mask.parts();
        let hidden = kernels::hidden(of_keys, of_pairs, [rows, heads, q, k]);
        return burn::tensor::module::attention(
            queries,
            keys,
            values,
            hidden,
            None,
            AttentionModuleOptions::default(),
        );
    }
    let scale = 1.0 / (depth as f64).sqrt();
    let dropped = dropout.share_of(&queries);
    if let Some(mask) = mask.keys {
        assert_eq!(mask.dims(), [rows, k], "mask must be [rows, keys]");
    }
    let all = [&queries, &keys, &values];
    if let Some(output) = kernels::attention(all, scale, mask.parts(), dropped) {
        return output;
    }
    let weights = attention_weights(queries, keys, mask);
    dropout.forward(weights).matmul(values)
}

/// `softmax(q k^T / sqrt(D / H))`, zero for hidden keys.
///
/// In half precision the scores and their softmax are f32. A bf16 score of 30 is off by up to 0.06, and its weight by the same
/// share. In f16 a sum of products may overflow. So the queries are scaled first, the products are summed in f32, and only the
/// weights are rounded.
///
/// # Shapes
///
/// - queries: `[B, H, Q, D / H]`
/// - keys: `[B, H, K, D / H]`
/// - mask: `[B, K]` and `[Q, K]`
/// - output: `[B, H, Q, K]`
pub(crate) fn attention_weights<'a>(
    queries: Tensor<4>,
    keys: Tensor<4>,
    mask: impl Into<Hidden<'a>>,
) -> Tensor<4> {
    let [rows, heads, _, depth] = queries.dims();
    let [_, _, k, _] = keys.dims();
    assert_shape!(keys, [rows, heads, k, depth]);
    let mask = mask.into();
    if let Some(mask) = mask.keys {
        assert_eq!(mask.dims(), [rows, k], "mask must be [rows, keys]");
    }
    let scale = 1.0 / (depth as f64).sqrt();
    let (of_keys, of_pairs) = mask.parts();
    if kernels::is_half(queries.dtype()) {
        let scaled = cast(queries.clone(), FloatDType::F32) * scale;
        let scores = scaled.matmul(cast(keys, FloatDType::F32).transpose());
        let weights = kernels::masked_softmax(scores, 1.0, of_keys, of_pairs);
        return same_dtype(weights, &queries);
    }
    let scores = queries.matmul(keys.transpose());
    kernels::masked_softmax(scores, scale, of_keys, of_pairs)
}

/// # Shapes
///
/// - x: `[B, L, D]`
/// - output: `[B, H, L, D / H]`
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [rows, length, width] = x.dims();
    x.reshape([rows, length, heads, width / heads])
        .swap_dims(1, 2)
}

/// # Shapes
///
/// - x: `[B, H, L, D / H]`
/// - output: `[B, L, D]`
pub(crate) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [rows, heads, length, depth] = x.dims();
    x.swap_dims(1, 2).reshape([rows, length, heads * depth])
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::mask::PairMask;

    /// f32 sums of up to 16 products of values around 1.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn agrees_with_burn() {
        let device = Device::flex();
        let mut numbers = Init::new(&device, 2);
        let mut random = |shape: [usize; 4]| numbers.uniform(shape, 1.0).val();
        let (q, k, v) = (
            random([2, 3, 5, 4]),
            random([2, 3, 7, 4]),
            random([2, 3, 7, 4]),
        );
        let mask = PaddingMask::from_lengths(&[7, 4], 7, &device);
        let ours = scaled_dot_product(
            q.clone(),
            k.clone(),
            v.clone(),
            Some(&mask),
            &Dropout::new(0.0),
        );
        let hidden = mask.hidden().reshape([2, 1, 1, 7]).expand([2, 3, 5, 7]);
        let theirs = burn::tensor::module::attention(
            q,
            k,
            v,
            Some(hidden),
            None,
            AttentionModuleOptions::default(),
        );
        ours.into_data()
            .assert_approx_eq::<f32>(&theirs.into_data(), Tolerance::absolute(TOLERANCE));
    }

    /// In half precision the weights equal the f32 weights of the same queries and keys, rounded once. This also holds for large
    /// scores and where a sum of products exceeds the largest f16 number.
    #[test]
    fn half_precision_rounds_weights_once() {
        /// Half the relative distance between neighbouring numbers of bf16 and f16. Scaling before or after an f32 sum moves a
        /// weight by less than a hundredth of that.
        const ROUNDING: [(FloatDType, f64); 2] = [
            (FloatDType::BF16, 1.01 / 256.0),
            (FloatDType::F16, 1.01 / 2048.0),
        ];
        /// Below its smallest normal number f16 rounds to multiples of 2^-24.
        const SMALLEST: f64 = 6e-8;
        let device = Device::flex();
        let mask = PaddingMask::from_lengths(&[7, 4], 7, &device);
        for (dtype, rounding) in ROUNDING {
            for (bound, shift) in [(1.0, 0.0), (6.0, 0.0), (20.0, 100.0)] {
                let mut numbers = Init::new(&device, 2);
                let mut random = |shape: [usize; 4], shift: f64| {
                    cast(numbers.uniform(shape, bound).val() + shift, dtype)
                };
                let queries = random([2, 3, 5, 16], shift);
                let keys = random([2, 3, 7, 16], shift);
                let single = |x: &Tensor<4>| cast(x.clone(), FloatDType::F32);
                let expected = attention_weights(single(&queries), single(&keys), Some(&mask));
                let weights = attention_weights(queries, keys, Some(&mask));
                assert_eq!(FloatDType::from(weights.dtype()), dtype);
                let numbers = |x: Tensor<4>| -> Vec<f32> {
                    let data = x.into_data().convert::<f32>();
                    data.iter::<f32>().collect()
                };
                for (w, e) in numbers(weights).into_iter().zip(numbers(expected)) {
                    let (w, e) = (f64::from(w), f64::from(e));
                    // The scores of the last case are about ten thousand, where f32 keeps two digits after the point.
                    let scores = if shift > 0.0 { 0.02 * e } else { 0.0 };
                    assert!(
                        (w - e).abs() <= rounding * e + SMALLEST + scores,
                        "{w}, {e}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_causal_query_sees_what_is_before_it() {
        let device = Device::flex();
        let attention = Attention::new(&mut Init::new(&device, 1), 8, 2, 0.0);
        let x = Init::new(&device, 2).uniform([2, 4, 8], 1.0).val();
        let mask = PairMask::causal(4, &device);
        let hidden = Hidden {
            keys: None,
            pairs: Some(&mask),
        };
        let whole = attention.forward(x.clone(), x.clone(), hidden);
        for length in 1..=4 {
            let start = x.clone().narrow(1, 0, length);
            let last = start.clone().narrow(1, length - 1, 1);
            let alone = attention.forward(last, start, None);
            alone.into_data().assert_approx_eq::<f32>(
                &whole.clone().narrow(1, length - 1, 1).into_data(),
                Tolerance::absolute(TOLERANCE),
            );
        }
    }

    /// The kept weights are those that were used, and their gradient is `dS/dA = dS/dO V^T` with `O = A V`. Here `S` is the sum
    /// of the output, and the output projection has ones on the diagonal.
    #[test]
    fn kept_weights_have_their_gradient() {
        let device = Device::flex().autodiff();
        let mut attention = Attention::new(&mut Init::new(&device, 1), 4, 1, 0.0);
        attention.output.weight =
            burn::module::Param::from_tensor(Tensor::eye(4, &device).require_grad());
        let mut numbers = Init::new(&device, 2);
        let query = numbers.uniform([2, 3, 4], 1.0).val();
        let memory = numbers.uniform([2, 5, 4], 1.0).val();
        let mask = PaddingMask::from_lengths(&[5, 2], 5, &device);
        let mut kept = Vec::new();
        let out =
            attention.forward_keeping(query.clone(), memory.clone(), Some(&mask), Some(&mut kept));
        let plain = attention.forward(query, memory.clone(), Some(&mask));
        let tolerance = Tolerance::absolute(TOLERANCE);
        plain
            .into_data()
            .assert_approx_eq::<f32>(&out.to_data(), tolerance);
        let [weights] = kept.as_slice() else {
            panic!("one attention, one entry");
        };
        let sums = weights.values().sum_dim(3);
        sums.clone()
            .into_data()
            .assert_approx_eq::<f32>(&sums.ones_like().into_data(), tolerance);
        let hidden = weights.values().narrow(0, 1, 1).narrow(3, 2, 3);
        assert_eq!(hidden.abs().max().into_scalar::<f32>(), 0.0);
        let gradients = out.sum().backward();
        let gradient = weights.gradient(&gradients).unwrap();
        let values = attention.value.forward(memory).sum_dim(2);
        let expected = values
            .reshape([2, 1, 1, 5])
            .expand([2, 1, 3, 5])
            .without_autodiff();
        gradient
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }

    #[test]
    fn hidden_keys_change_nothing() {
        let device = Device::flex();
        let attention = Attention::new(&mut Init::new(&device, 1), 8, 2, 0.0);
        let mut numbers = Init::new(&device, 2);
        let query = numbers.uniform([2, 3, 8], 1.0).val();
        let memory = numbers.uniform([2, 4, 8], 1.0).val();
        let padding = numbers.uniform([2, 2, 8], 50.0).val();
        let padded = Tensor::cat(vec![memory.clone(), padding], 1);
        let mask = PaddingMask::from_lengths(&[4, 4], 6, &device);
        let short = attention.forward(query.clone(), memory, None);
        let long = attention.forward(query, padded, Some(&mask));
        short
            .into_data()
            .assert_approx_eq::<f32>(&long.into_data(), Tolerance::absolute(TOLERANCE));
    }
}
