//! Multi-granularity attention: one query stream reads several levels of the other stream through a gate.
//!
//! This is the cross-layer half of UNIMO-3 (arXiv 2305.13697). Only its abstract is public; the formulas are this project's
//! reading (`docs/ARCHITECTURE.md`):
//!
//! ```text
//! M_j = LN_j(V^j)                                      the levels, j in S
//! e_j = (Wq a)·(Wk m_j) / sqrt(D) + b_j                m_j = M_j[:, 0]
//! g   = softmax_j(e)
//! ```
//!
//! Shape legend: `B` rows, `Q` queries, `K` keys, `D` width, `S` levels, `R` gate rows: 1, or `Q` for a gate per token.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{FloatDType, Int, Tensor, assert_shape};
use serde::{Deserialize, Serialize};

use crate::attention::{Attention, KeyValues, Weights};
use crate::dtype::cast;
use crate::init::Init;
use crate::layers::{LayerNorm, Linear};
use crate::mask::PaddingMask;

/// How the weight of each level is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// A learned weight per level, the same for every sample.
    Static,
    /// The query stream's first position decides for the whole sequence.
    #[default]
    Cls,
    /// Every query decides for itself.
    Token,
}

/// Cross-attention over several levels with a gate.
#[derive(Module, Debug)]
pub struct LevelAttention {
    /// `LN_j`, one per level.
    pub norms: Vec<LayerNorm>,
    /// `Wq`, absent with a static gate.
    pub gate_query: Option<Linear>,
    /// `Wk`, absent with a static gate.
    pub gate_key: Option<Linear>,
    /// `b`, `[S]`.
    pub gate_bias: Param<Tensor<1>>,
    /// Reads the levels.
    pub attention: Attention,
    /// How the weights of the levels are decided.
    #[module(skip)]
    pub kind: GateKind,
}

/// Sizes of a [`LevelAttention`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelAttentionConfig {
    /// `D`.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Dropout on attention weights.
    pub dropout: f64,
    /// Epsilon of the levels' norms.
    pub layer_norm_eps: f64,
    /// `S`, at least one.
    pub levels: usize,
    /// How the weights of the levels are decided.
    pub gate: GateKind,
    /// Starting bias of the last level, which in-layer attention reads too. With a large value training starts near the
    /// in-layer behaviour.
    pub beta: f32,
}

impl LevelAttentionConfig {
    /// New weights.
    ///
    /// # Panics
    ///
    /// Panics if there is no level.
    pub fn init(&self, init: &mut Init) -> LevelAttention {
        let (width, levels) = (self.width, self.levels);
        assert!(levels > 0, "multi-granularity attention needs a level");
        let mut bias = vec![0.0; levels];
        bias[levels - 1] = self.beta;
        let adaptive = self.gate != GateKind::Static;
        LevelAttention {
            norms: (0..levels)
                .map(|_| LayerNorm::new(init, width, self.layer_norm_eps))
                .collect(),
            gate_query: adaptive.then(|| Linear::new(init, width, width, false)),
            gate_key: adaptive.then(|| Linear::new(init, width, width, false)),
            gate_bias: init.data(bias, [levels]),
            attention: Attention::new(init, width, self.heads, self.dropout),
            kind: self.gate,
        }
    }
}

impl LevelAttention {
    /// Reads the levels; also returns the gates, `[B, R, S]`, each row summing to 1.
    ///
    /// # Shapes
    ///
    /// - query: `[B, Q, D]`
    /// - levels: `S` times `[B, K, D]`
    /// - mask: `[B, K]`, the same for every level
    /// - output: `[B, Q, D]`
    pub fn forward(
        &self,
        query: Tensor<3>,
        levels: &[Tensor<3>],
        mask: Option<&PaddingMask>,
    ) -> (Tensor<3>, Tensor<3>) {
        self.forward_keeping(query, levels, mask, None)
    }

    /// As [`forward`](Self::forward); also appends its attention weights to `kept`, if there is one. There is one entry for
    /// the gated mixture of the levels or, with a gate per token, one per level.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_keeping(
        &self,
        query: Tensor<3>,
        levels: &[Tensor<3>],
        mask: Option<&PaddingMask>,
        mut kept: Option<&mut Vec<Weights>>,
    ) -> (Tensor<3>, Tensor<3>) {
        let memory = self.normed(levels);
        let gates = self.gates(&query, &memory);
        let of_level = |j: usize| gates.clone().narrow(2, j, 1);
        let queries = self.attention.queries(query);
        let mixed = match self.kind {
            GateKind::Static | GateKind::Cls => {
                let memory = mixture(memory, &gates);
                self.attention.attend(queries, memory, mask, kept)
            }
            // The gates of a token sum to 1 and the output projection is affine, so mixing before it equals mixing after.
            GateKind::Token => memory
                .into_iter()
                .enumerate()
                .map(|(j, level)| {
                    let queries = queries.clone();
                    let kept = kept.as_deref_mut();
                    self.attention.attend(queries, level, mask, kept) * of_level(j)
                })
                .reduce(|sum, level| sum + level)
                .expect("invariant: there is a level"),
        };
        (self.attention.output.forward(mixed), gates)
    }

    /// What [`recall`](Self::recall) reads, computed once for queries that come one after the other. `first` is the first of them: with
    /// a gate for the whole sequence it decides.
    ///
    /// # Shapes
    ///
    /// - first: `[B, Q, D]`, of which the first position is used
    /// - levels: `S` times `[B, K, D]`
    pub fn remember(&self, first: &Tensor<3>, levels: &[Tensor<3>]) -> LevelMemory {
        let normed = self.normed(levels);
        match self.kind {
            GateKind::Static | GateKind::Cls => {
                let gates = self.gates(first, &normed);
                let mixed = mixture(normed, &gates);
                LevelMemory {
                    firsts: Vec::new(),
                    keys: vec![self.attention.remember(mixed)],
                }
            }
            GateKind::Token => LevelMemory {
                firsts: normed.iter().map(first_position).collect(),
                keys: normed
                    .into_iter()
                    .map(|level| self.attention.remember(level))
                    .collect(),
            },
        }
    }

    /// Reads the levels that [`remember`](Self::remember) was given.
    ///
    /// # Shapes
    ///
    /// - query, output: `[B, Q, D]`
    /// - mask: `[B, K]`, the same for every level
    pub fn recall(
        &self,
        query: Tensor<3>,
        memory: &LevelMemory,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        let read =
            |queries, keys: &KeyValues| self.attention.attend_to(queries, keys.clone(), mask, None);
        let queries = self.attention.queries(query.clone());
        let mixed = match memory.keys.as_slice() {
            [only] if self.kind != GateKind::Token => read(queries, only),
            levels => {
                let gates = self.gates(&query, &memory.firsts);
                let of_level = |(j, keys): (usize, &KeyValues)| {
                    read(queries.clone(), keys) * gates.clone().narrow(2, j, 1)
                };
                let read = levels.iter().enumerate().map(of_level);
                read.reduce(|sum, level| sum + level)
                    .expect("invariant: there is a level")
            }
        };
        self.attention.output.forward(mixed)
    }

    /// The levels after their norms.
    fn normed(&self, levels: &[Tensor<3>]) -> Vec<Tensor<3>> {
        assert_eq!(levels.len(), self.norms.len(), "one tensor per level");
        let [width, _] = self.attention.key.weight.dims();
        let each = self.norms.iter().zip(levels);
        each.map(|(norm, level)| {
            assert_shape!(level, [_, _, width]);
            norm.forward(level.clone())
        })
        .collect()
    }

    /// # Shapes
    ///
    /// - query: `[B, Q, D]`
    /// - memory: `S` times `[B, K, D]`, of which the first positions are used
    /// - output: `[B, R, S]`
    fn gates(&self, query: &Tensor<3>, memory: &[Tensor<3>]) -> Tensor<3> {
        let [rows, q, width] = query.dims();
        let dtype: FloatDType = query.dtype().into();
        let count = memory.len();
        let bias = cast(self.gate_bias.val(), FloatDType::F32).reshape([1, 1, count]);
        let scores = match (&self.gate_query, &self.gate_key) {
            (Some(wq), Some(wk)) => {
                let asking = match self.kind {
                    GateKind::Token => query.clone(),
                    GateKind::Cls | GateKind::Static => query.clone().narrow(1, 0, 1),
                };
                let first: Vec<_> = memory.iter().map(first_position).collect();
                let keys = wk.forward(Tensor::cat(first, 1));
                // A sum of `D` products may overflow half precision before it is scaled.
                let asking = cast(wq.forward(asking), FloatDType::F32);
                let scores = asking.matmul(cast(keys, FloatDType::F32).transpose());
                scores.mul_scalar(1.0 / (width as f64).sqrt()) + bias
            }
            _ => bias.expand([rows, 1, count]),
        };
        let r = if self.kind == GateKind::Token { q } else { 1 };
        assert_shape!(scores, [rows, r, count]);
        cast(softmax(scores, 2), dtype)
    }
}

/// What a query reads of the levels.
#[derive(Debug, Clone)]
pub struct LevelMemory {
    /// With a gate per token, the first position of each level after its norm, `[B, 1, D]`.
    firsts: Vec<Tensor<3>>,
    /// Keys and values of the gated mixture, or with a gate per token of each level.
    keys: Vec<KeyValues>,
}

impl LevelMemory {
    /// The given rows, in that order; a row may be given several times.
    #[must_use]
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        let first = |first: &Tensor<3>| first.clone().select(0, rows.clone());
        Self {
            firsts: self.firsts.iter().map(first).collect(),
            keys: self.keys.iter().map(|keys| keys.select(rows)).collect(),
        }
    }
}

/// The levels, each times its gate, as one.
fn mixture(levels: Vec<Tensor<3>>, gates: &Tensor<3>) -> Tensor<3> {
    let each = levels.into_iter().enumerate();
    each.map(|(j, level)| level * gates.clone().narrow(2, j, 1))
        .reduce(|sum, level| sum + level)
        .expect("invariant: there is a level")
}

fn first_position(level: &Tensor<3>) -> Tensor<3> {
    level.clone().narrow(1, 0, 1)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    /// f32 sums of up to 8 products of values around 1.
    const TOLERANCE: f64 = 1e-5;

    fn inputs(device: &Device) -> (Tensor<3>, Vec<Tensor<3>>) {
        let mut numbers = Init::new(device, 2);
        let mut random = |n| numbers.uniform([2, n, 8], 1.0).val();
        (random(3), (0..3).map(|_| random(5)).collect())
    }

    #[test]
    fn gates_are_shares() {
        let device = Device::flex();
        let (query, levels) = inputs(&device);
        for (kind, r) in [
            (GateKind::Static, 1),
            (GateKind::Cls, 1),
            (GateKind::Token, 3),
        ] {
            let module = config(kind, 1.0).init(&mut Init::new(&device, 3));
            let (output, gates) = module.forward(query.clone(), &levels, None);
            assert_eq!(output.dims(), [2, 3, 8]);
            assert_eq!(gates.dims(), [2, r, 3]);
            let sums = gates.sum_dim(2).into_data();
            sums.assert_approx_eq::<f32>(
                &Tensor::<3>::ones([2, r, 1], &device).into_data(),
                Tolerance::absolute(TOLERANCE),
            );
        }
    }

    /// In half precision the gates equal the f32 gates rounded once, also where the sums of products overflow f16.
    #[test]
    fn gates_of_half_precision_are_rounded_once() {
        /// Scores come from products that were rounded to 11 digits: a score of up to 8 moves by less than 0.02.
        const ROUNDING: f64 = 0.02;
        let device = Device::flex();
        let (query, levels) = inputs(&device);
        for kind in [GateKind::Cls, GateKind::Token] {
            let mut init = Init::new(&device, 3).with_deviation(20.0);
            let module = config(kind, 1.0).init(&mut init);
            let large = query.clone() * 100.0;
            let gates = module.gates(&cast(large.clone(), FloatDType::F16), &levels_of(&levels));
            let gates: Vec<f32> = gates.into_data().convert::<f32>().iter::<f32>().collect();
            assert!(gates.iter().all(|g| g.is_finite()), "{gates:?}");
            let module = config(kind, 1.0).init(&mut Init::new(&device, 3));
            let half = module.gates(&cast(query.clone(), FloatDType::F16), &levels_of(&levels));
            let single = module.gates(&query, &levels);
            cast(half, FloatDType::F32)
                .into_data()
                .assert_approx_eq::<f32>(&single.into_data(), Tolerance::absolute(ROUNDING));
        }
    }

    fn config(gate: GateKind, beta: f32) -> LevelAttentionConfig {
        LevelAttentionConfig {
            width: 8,
            heads: 2,
            dropout: 0.0,
            layer_norm_eps: 1e-5,
            levels: 3,
            gate,
            beta,
        }
    }

    fn levels_of(levels: &[Tensor<3>]) -> Vec<Tensor<3>> {
        let half = levels
            .iter()
            .map(|level| cast(level.clone(), FloatDType::F16));
        half.collect()
    }

    /// With a bias that lets one level through, the result is plain cross-attention to that level.
    #[test]
    fn a_closed_gate_is_plain_attention() {
        const CLOSED: f32 = 60.0;
        let device = Device::flex();
        let (query, levels) = inputs(&device);
        for kind in [GateKind::Static, GateKind::Cls, GateKind::Token] {
            let module = config(kind, CLOSED).init(&mut Init::new(&device, 3));
            let (output, _) = module.forward(query.clone(), &levels, None);
            let memory = module.norms[2].forward(levels[2].clone());
            let plain = module.attention.forward(query.clone(), memory, None);
            output
                .into_data()
                .assert_approx_eq::<f32>(&plain.into_data(), Tolerance::absolute(TOLERANCE));
        }
    }
}
