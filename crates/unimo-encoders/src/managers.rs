//! ManagerTower's managers: how the uni-modal layers of one modality are mixed for one cross-modal layer.
//!
//! Source: ManagerTower (Xu et al. 2023). Layer 1 has a static manager, the later ones adaptive managers:
//!
//! ```text
//! static:   sum_i softmax_i(w_i / tau) * LN_i(T_i)
//! adaptive: q = [softmax(Q(LN c_T)·K(LN c_V)^T / sqrt D)·LN c_V ; LN c_T]
//!           s = W q + b
//!           sum_i softmax_i(s_i / tau) * LN_i(T_i) + w_c * LN(c_T)
//! ```
//!
//! Shape legend: `B` rows, `L` positions of this stream, `K` positions of the other, `D` width, `S` uni-modal layers.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Distribution, FloatDType, Int, Tensor, assert_shape};
use unimo_core::attention::scaled_dot_product;
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, LayerNorm, Linear};
use unimo_core::mask::PaddingMask;

/// A manager of one stream and one cross-modal layer.
#[derive(Module, Debug)]
pub struct Manager {
    /// `LN_i`, one per uni-modal layer.
    pub norms: Vec<LayerNorm>,
    /// `tau`, `[1]`, starts at 1.
    pub temperature: Param<Tensor<1>>,
    /// `w` of a static manager, `[S, D]`, starts at 1 / S.
    pub weights: Option<Param<Tensor<2>>>,
    /// The parts of an adaptive manager.
    pub adaptive: Option<Adaptive>,
    /// Standard deviation of the noise on an adaptive manager's scores while gradients are tracked.
    pub noise: f64,
}

/// What an adaptive manager adds.
#[derive(Module, Debug)]
pub struct Adaptive {
    /// Norm of this stream's previous cross-modal state.
    pub own_norm: LayerNorm,
    /// Norm of the other stream's state.
    pub other_norm: LayerNorm,
    /// `Q`, `D -> D`.
    pub query: Linear,
    /// `K`, `D -> D`.
    pub key: Linear,
    /// `W` and `b`, `2 D -> S`.
    pub score: Linear,
    /// `w_c`, `[D]`, starts at 1.
    pub cross_weight: Param<Tensor<1>>,
}

/// What an adaptive manager reads of the other stream.
#[derive(Debug, Clone)]
pub struct ManagerMemory {
    /// `K(LN c_V)`, `[B, K, D]`.
    keys: Tensor<3>,
    /// `LN c_V`, `[B, K, D]`.
    values: Tensor<3>,
}

/// Sizes of a [`Manager`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ManagerConfig {
    /// `D`.
    pub width: usize,
    /// `S`, the uni-modal layers that are mixed.
    pub levels: usize,
    /// Epsilon of the levels' norms.
    pub layer_norm_eps: f64,
    /// Whether the shares depend on the states.
    pub adaptive: bool,
    /// For training: an adaptive manager's scores get noise of deviation `1 / S` while gradients are tracked.
    pub noisy: bool,
}

impl ManagerConfig {
    /// New weights.
    pub fn init(&self, init: &mut Init) -> Manager {
        let (width, levels) = (self.width, self.levels);
        let norms = (0..levels)
            .map(|_| LayerNorm::new(init, width, self.layer_norm_eps))
            .collect();
        let share = 1.0 / levels as f32;
        Manager {
            norms,
            temperature: init.constant([1], 1.0),
            weights: (!self.adaptive).then(|| init.constant([levels, width], share)),
            adaptive: self.adaptive.then(|| Adaptive {
                own_norm: LayerNorm::new(init, width, self.layer_norm_eps),
                other_norm: LayerNorm::new(init, width, self.layer_norm_eps),
                query: Linear::new(init, width, width, true),
                key: Linear::new(init, width, width, true),
                score: Linear::new(init, 2 * width, levels, true),
                cross_weight: init.constant([width], 1.0),
            }),
            noise: if self.noisy { f64::from(share) } else { 0.0 },
        }
    }
}

impl Manager {
    /// What an adaptive manager reads of the other stream, once for any number of calls of [`mix`](Self::mix); `None` for a static
    /// manager, which reads nothing of it.
    ///
    /// # Shapes
    ///
    /// - other, the previous cross-modal state of the other stream: `[B, K, D]`
    pub fn remember(&self, other: &Tensor<3>) -> Option<ManagerMemory> {
        let adaptive = self.adaptive.as_ref()?;
        let values = adaptive.other_norm.forward(other.clone());
        Some(ManagerMemory {
            keys: adaptive.key.forward(values.clone()),
            values,
        })
    }

    /// Mixes the levels.
    ///
    /// # Shapes
    ///
    /// - levels: `S` times `[B, L, D]`
    /// - own, the previous cross-modal state: `[B, L, D]`
    /// - seen, what [`remember`](Self::remember) gave of the other stream, with its mask `[B, K]`; without it an adaptive manager takes
    ///   zeros for what it would read
    /// - output: `[B, L, D]`
    pub fn mix(
        &self,
        levels: &[Tensor<3>],
        own: &Tensor<3>,
        seen: Option<(&ManagerMemory, Option<&PaddingMask>)>,
    ) -> Tensor<3> {
        let count = self.norms.len();
        assert_eq!(levels.len(), count, "one tensor per level");
        let [rows, length, width] = own.dims();
        // The softmax of the shares is f32, whatever the dtype of the states.
        let single = FloatDType::F32;
        let temperature = cast(self.temperature.val(), single).reshape([1, 1, 1]);
        let normed = |i: usize| self.norms[i].forward(levels[i].clone());
        let sum = |share: &dyn Fn(usize) -> Tensor<3>| {
            (0..count)
                .map(|i| normed(i) * share(i))
                .reduce(|a, b| a + b)
                .expect("invariant: there is a level")
        };
        if let Some(weights) = &self.weights {
            let weights = cast(weights.val(), single).reshape([count, 1, width]);
            let shares = same_dtype(softmax(weights / temperature, 0), own);
            return sum(&|i| shares.clone().narrow(0, i, 1));
        }
        let adaptive = self
            .adaptive
            .as_ref()
            .expect("invariant: a manager is static or adaptive");
        let own = adaptive.own_norm.forward(own.clone());
        let read = match seen {
            Some((memory, mask)) => {
                assert_shape!(memory.values, [rows, _, width]);
                let one_head = |x: Tensor<3>| x.unsqueeze_dim::<4>(1);
                scaled_dot_product(
                    one_head(adaptive.query.forward(own.clone())),
                    one_head(memory.keys.clone()),
                    one_head(memory.values.clone()),
                    mask,
                    &Dropout::new(0.0),
                )
                .squeeze_dim::<3>(1)
            }
            None => own.zeros_like(),
        };
        let scores = adaptive
            .score
            .forward(Tensor::cat(vec![read, own.clone()], 2));
        let mut scores = cast(scores, single);
        assert_shape!(scores, [rows, length, count]);
        if self.noise > 0.0 && scores.is_autodiff() {
            let noise = Distribution::Normal(0.0, self.noise);
            scores = scores.clone() + scores.random_like(noise);
        }
        let shares = same_dtype(softmax(scores / temperature, 2), &own);
        let weight = same_dtype(adaptive.cross_weight.val(), &own).reshape([1, 1, width]);
        sum(&|i| shares.clone().narrow(2, i, 1)) + own * weight
    }
}

impl ManagerMemory {
    /// The given rows, in that order; a row may be given several times.
    #[must_use]
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            keys: self.keys.clone().select(0, rows.clone()),
            values: self.values.clone().select(0, rows.clone()),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    /// f32 rounding of a mean of three normalised vectors.
    const TOLERANCE: f64 = 1e-5;

    fn mixed(
        manager: &Manager,
        levels: &[Tensor<3>],
        other: &Tensor<3>,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        let memory = manager.remember(other);
        let seen = memory.as_ref().map(|memory| (memory, mask));
        manager.mix(levels, &levels[0], seen)
    }

    fn config(adaptive: bool) -> ManagerConfig {
        ManagerConfig {
            width: 8,
            levels: 3,
            layer_norm_eps: 1e-5,
            adaptive,
            noisy: false,
        }
    }

    #[test]
    fn an_untrained_static_manager_averages() {
        let device = Device::flex();
        let manager = config(false).init(&mut Init::new(&device, 1));
        let mut numbers = Init::new(&device, 2);
        let mut random = || numbers.uniform([2, 4, 8], 1.0).val();
        let levels = [random(), random(), random()];
        let out = mixed(&manager, &levels, &levels[1], None);
        let normed = |i: usize| manager.norms[i].forward(levels[i].clone());
        let mean = (normed(0) + normed(1) + normed(2)).div_scalar(3.0);
        out.into_data()
            .assert_approx_eq::<f32>(&mean.into_data(), Tolerance::absolute(TOLERANCE));
    }

    #[test]
    fn hidden_positions_of_the_other_stream_change_nothing() {
        let device = Device::flex();
        let manager = config(true).init(&mut Init::new(&device, 1));
        let mut numbers = Init::new(&device, 2);
        let mut random = |n| numbers.uniform([2, n, 8], 1.0).val();
        let levels = [random(4), random(4), random(4)];
        let other = random(5);
        let mask = PaddingMask::from_lengths(&[5, 5], 7, &device);
        let padded = Tensor::cat(vec![other.clone(), random(2).mul_scalar(30)], 1);
        let short = mixed(&manager, &levels, &other, None);
        let long = mixed(&manager, &levels, &padded, Some(&mask));
        short
            .into_data()
            .assert_approx_eq::<f32>(&long.into_data(), Tolerance::absolute(TOLERANCE));
    }
}
