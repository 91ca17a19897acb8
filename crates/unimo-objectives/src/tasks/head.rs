//! The classifier of a task: two layers with a norm and GELU between them.
//!
//! ```text
//! logits = W2 GELU(LN(W1 dropout(x)))
//! ```
//!
//! Source: METER, BridgeTower and ManagerTower use it for VQAv2, NLVR2 and SNLI-VE, with different inner widths.
//!
//! Shape legend: `B` rows, `D` width of the input, `C` classes.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Dropout, LayerNorm, Linear};
use unimo_encoders::names::{Form, Rule, rule};

/// PyTorch's default, which the heads use.
const LAYER_NORM_EPS: f64 = 1e-5;

/// The classifier of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Width between the two layers; absent: twice the width of the cross-modal encoder (METER).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Dropout in front of the first layer (BridgeTower's NLVR2: 0.1).
    pub dropout: f64,
}

impl HeadConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// A value is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(hidden) = self.hidden {
            config::positive("hidden", hidden)?;
        }
        ConfigError::unless(
            (0.0..1.0).contains(&self.dropout),
            "dropout",
            self.dropout,
            "must be at least 0 and below 1",
        )
    }

    /// A new head from `d_in` numbers to `classes`, over encoders of width `width`.
    pub fn init(&self, init: &mut Init, (d_in, classes): (usize, usize), width: usize) -> TaskHead {
        let hidden = self.hidden.unwrap_or(2 * width);
        TaskHead {
            dropout: Dropout::new(self.dropout),
            inner: Linear::new(init, d_in, hidden, true),
            norm: LayerNorm::new(init, hidden, LAYER_NORM_EPS),
            outer: Linear::new(init, hidden, classes, true),
        }
    }
}

/// The classifier of a task. See the [module](self).
#[derive(Module, Debug)]
pub struct TaskHead {
    /// Dropout on the input.
    pub dropout: Dropout,
    /// To the inner width.
    pub inner: Linear,
    /// Norm after `inner`.
    pub norm: LayerNorm,
    /// To the classes.
    pub outer: Linear,
}

/// Names of a head in METER's checkpoints, whose classifier is `prefix`.
pub const fn meter_names(prefix: [&'static str; 3]) -> [Rule; 3] {
    let [inner, norm, outer] = prefix;
    [
        rule("classifier.head.inner", inner, Form::Linear),
        rule("classifier.head.norm", norm, Form::Same),
        rule("classifier.head.outer", outer, Form::Linear),
    ]
}

impl TaskHead {
    /// # Shapes
    ///
    /// - x: `[B, D]`
    /// - output: `[B, C]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [d_in, _] = self.inner.weight.dims();
        assert_shape!(x, [_, d_in]);
        let inner = self.inner.forward(self.dropout.forward(x));
        self.outer
            .forward(Activation::Gelu.forward(self.norm.forward(inner)))
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
        let config = HeadConfig {
            hidden: Some(3),
            dropout: 0.0,
        };
        let mut head = config.init(&mut Init::new(&device, 0), (2, 2), 1);
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
