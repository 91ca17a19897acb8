//! Heads of fine-tuned models, as METER's checkpoints hold them, over the summary of a pair.
//!
//! ```text
//! logits = W2 GELU(LN(W1 x))
//! ```
//!
//! | head | x | classes |
//! |---|---|---|
//! | `vqa` | the pair's summary | answers |
//! | `nlvr2` | the summaries of the statement with both images, side by side | false, true |
//! | `snli_ve` | the pair's summary | as the checkpoint orders them |
//! | `ranking` | the pair's summary | one score: the linear layer alone |
//!
//! Shape legend: `B` rows, `D` width of the cross-modal encoder, `C` classes.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, LayerNorm, Linear};

use crate::names::{Form, Rule, rule};

/// PyTorch's default, which METER's heads use.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Which heads there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Answers of visual question answering; `None` for no such head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vqa: Option<usize>,
    /// Classes of statements about two images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nlvr2: Option<usize>,
    /// Classes of visual entailment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snli_ve: Option<usize>,
    /// Whether there is a head that ranks pairs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ranking: bool,
}

impl TasksConfig {
    /// Whether there is no head.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// New heads over an encoder of width `width`.
    pub fn init(&self, init: &mut Init, width: usize) -> Tasks {
        let summary = 2 * width;
        let mut head = |pairs: usize, classes: Option<usize>| {
            classes.map(|classes| TaskHead::new(init, pairs * summary, summary, classes))
        };
        Tasks {
            vqa: head(1, self.vqa),
            nlvr2: head(2, self.nlvr2),
            snli_ve: head(1, self.snli_ve),
            ranking: self.ranking.then(|| Linear::new(init, summary, 1, true)),
        }
    }
}

/// METER's name of each head, for models that do not use them.
pub const METER_HEADS: &[&str] = &[
    "vqa_classifier",
    "nlvr2_classifier",
    "snli_classifier",
    "rank_output",
];

/// Names of [`Tasks`] in METER's checkpoints.
#[rustfmt::skip]
pub const METER_NAMES: &[Rule] = &[
    rule("vqa.inner", "vqa_classifier.0", Form::Linear),
    rule("vqa.norm", "vqa_classifier.1", Form::Same),
    rule("vqa.outer", "vqa_classifier.3", Form::Linear),
    rule("nlvr2.inner", "nlvr2_classifier.0", Form::Linear),
    rule("nlvr2.norm", "nlvr2_classifier.1", Form::Same),
    rule("nlvr2.outer", "nlvr2_classifier.3", Form::Linear),
    rule("snli_ve.inner", "snli_classifier.0", Form::Linear),
    rule("snli_ve.norm", "snli_classifier.1", Form::Same),
    rule("snli_ve.outer", "snli_classifier.3", Form::Linear),
    rule("ranking", "rank_output", Form::Linear),
];

/// All task heads of a model. See the [module](self).
#[derive(Module, Debug)]
pub struct Tasks {
    /// Visual question answering.
    pub vqa: Option<TaskHead>,
    /// Statements about two images.
    pub nlvr2: Option<TaskHead>,
    /// Visual entailment.
    pub snli_ve: Option<TaskHead>,
    /// Ranking of pairs, `2 D -> 1`.
    pub ranking: Option<Linear>,
}

/// Two layers with a norm and GELU between them.
#[derive(Module, Debug)]
pub struct TaskHead {
    /// Maps to the width of a summary, `2 D`.
    pub inner: Linear,
    /// Norm after `inner`.
    pub norm: LayerNorm,
    /// `2 D -> C`.
    pub outer: Linear,
}

impl TaskHead {
    /// New weights.
    pub fn new(init: &mut Init, d_in: usize, inner: usize, classes: usize) -> Self {
        Self {
            inner: Linear::new(init, d_in, inner, true),
            norm: LayerNorm::new(init, inner, LAYER_NORM_EPS),
            outer: Linear::new(init, inner, classes, true),
        }
    }

    /// # Shapes
    ///
    /// - x: `[B, 2 D]`, or `[B, 4 D]` for two images
    /// - output: `[B, C]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [d_in, _] = self.inner.weight.dims();
        assert_shape!(x, [_, d_in]);
        let inner = self.norm.forward(self.inner.forward(x));
        self.outer.forward(Activation::Gelu.forward(inner))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tolerance};

    use super::*;

    /// f32 sums of three products of values around 1.
    const TOLERANCE: f64 = 1e-6;

    /// PyTorch 2: `Sequential(Linear(2, 3), LayerNorm(3), GELU(), Linear(3, 2))` with these weights.
    #[test]
    fn agrees_with_pytorch() {
        let device = Device::flex();
        let mut head = TaskHead::new(&mut Init::new(&device, 0), 2, 3, 2);
        head.inner.weight = Param::from_tensor(Tensor::from_floats(
            [[0.5, -0.25, 1.0], [0.75, 0.5, -1.5]],
            &device,
        ));
        head.inner.bias = Some(Param::from_tensor(Tensor::from_floats(
            [0.1, -0.2, 0.3],
            &device,
        )));
        head.norm.weight = Param::from_tensor(Tensor::from_floats([1.0, 2.0, 0.5], &device));
        head.norm.bias = Param::from_tensor(Tensor::from_floats([0.0, 0.1, -0.1], &device));
        head.outer.weight = Param::from_tensor(Tensor::from_floats(
            [[1.0, -1.0], [0.5, 0.25], [-2.0, 3.0]],
            &device,
        ));
        head.outer.bias = Some(Param::from_tensor(Tensor::from_floats(
            [0.05, -0.05],
            &device,
        )));
        let x = Tensor::<2>::from_floats([[1.0, -2.0], [0.3, 0.7]], &device);
        let expected = Tensor::<2>::from_floats(PYTORCH, &device);
        head.forward(x)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(TOLERANCE));
    }

    const PYTORCH: [[f32; 2]; 2] = [[-1.0423204, 1.4087508], [1.5082592, -1.7215579]];
}
