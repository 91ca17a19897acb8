//! Masked language modelling: predict the hidden words from the rest and the image.
//!
//! Source: BERT, section 3.1; METER's head: dense, GELU, layer norm, decoder with a bias of its own (untied).
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `M` masked positions, `V` vocabulary.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_core::batch::{MaskSpec, MaskedTexts};
use unimo_core::config::{self, ConfigError};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Activation, LayerNorm, Linear};
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::names::{Form, Rule, rule};

use crate::objective::{Needs, Objective, Outcome, Pairs, UniModal};
use crate::single_precision;

/// `[objectives.mlm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlmConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// How words are hidden.
    pub mask: MaskSpec,
}

impl MlmConfig {
    /// Every value on its own.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        let MaskSpec {
            rate,
            mask_share,
            random_share,
            unit: _,
        } = self.mask;
        ConfigError::unless(
            rate > 0.0 && rate < 1.0,
            "mask.rate",
            rate,
            "must be between 0 and 1",
        )?;
        ConfigError::unless(
            mask_share >= 0.0 && random_share >= 0.0 && mask_share + random_share <= 1.0,
            "mask.mask_share + mask.random_share",
            mask_share + random_share,
            "each must be at least 0 and their sum at most 1",
        )
    }

    /// A new head.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mlm {
        let width = model.fusion.width;
        Mlm {
            dense: Linear::new(init, width, width, true),
            norm: LayerNorm::new(init, width, model.fusion.layer_norm_eps),
            decoder: Linear::new(init, width, model.text.vocab_size, true),
            config: self.clone(),
            every_position: false,
        }
    }
}

/// Names of this head in METER and BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[
    rule("dense", "mlm_score.transform.dense", Form::Linear),
    rule("norm", "mlm_score.transform.LayerNorm", Form::Same),
    rule("decoder.bias", "mlm_score.bias", Form::Tensor),
    rule("decoder", "mlm_score.decoder", Form::Linear),
];

/// Names of this head in this project's PyTorch twin.
pub const TWIN_NAMES: &[Rule] = &[
    rule("dense", "mlm_score.transform.dense", Form::Linear),
    rule("norm", "mlm_score.transform.LayerNorm", Form::Same),
    rule("decoder", "mlm_score.decoder", Form::Linear),
];

/// The head of masked language modelling.
#[derive(Module, Debug)]
pub struct Mlm {
    /// `D -> D`.
    pub dense: Linear,
    /// After the activation.
    pub norm: LayerNorm,
    /// `D -> V`.
    pub decoder: Linear,
    /// What it was made from.
    #[module(skip)]
    pub config: MlmConfig,
    /// Run the head on every position and drop what is not masked, as METER does: only for comparing speed.
    pub every_position: bool,
}

impl Mlm {
    /// Scores of every word.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, V]`
    pub fn logits(&self, states: Tensor<2>) -> Tensor<2> {
        let hidden = Activation::Gelu.forward(self.dense.forward(states));
        self.decoder.forward(self.norm.forward(hidden))
    }
}

impl Objective for Mlm {
    fn needs(&self) -> Needs {
        Needs {
            images: true,
            texts: true,
            masked: Some(self.config.mask),
            samples: 1,
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn pairs(&self, batch: &UniModal, _rng: &mut ChaCha8Rng) -> Option<Pairs> {
        let first = batch.masked?;
        Some(Pairs {
            texts: (first..first + batch.samples).collect(),
            ..Pairs::matched(batch.samples)
        })
    }

    fn loss(
        &self,
        _backbone: &Backbone,
        batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let (_, fused) = fused.expect("invariant: the step fuses the pairs asked for");
        let [samples, length, width] = fused.text.dims();
        assert_shape!(fused.text, [batch.samples, _, _]);
        let device = fused.text.device();
        let hidden = |(_, label): &(usize, &i32)| **label != MaskedTexts::IGNORE;
        let (positions, labels): (Vec<i32>, Vec<i32>) = batch
            .labels
            .iter()
            .enumerate()
            .filter(hidden)
            .map(|(at, label)| (at as i32, *label))
            .unzip();
        let count = labels.len();
        let positions = ints(positions, &device);
        let labels = ints(labels, &device);
        let states = fused.text.reshape([samples * length, width]);
        if count == 0 {
            // Captions without a single known word: nothing to learn, and the mean of nothing is not a number.
            return Outcome {
                loss: states.sum().mul_scalar(0.0),
                correct: Tensor::zeros([1], &device),
                count,
                carry: None,
            };
        }
        let logits = if self.every_position {
            self.logits(states).select(0, positions)
        } else {
            self.logits(states.select(0, positions))
        };
        let logits = single_precision(logits);
        let correct = count_correct(logits.clone(), labels.clone());
        Outcome {
            loss: kernels::cross_entropy(logits, labels).mean(),
            correct,
            count,
            carry: None,
        }
    }
}

/// Host numbers as an integer tensor.
pub(crate) fn ints(values: Vec<i32>, device: &burn::tensor::Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// How many rows have their highest score at the label.
///
/// # Shapes
///
/// - logits: `[N, V]`; labels: `[N]`
/// - output: `[1]`
pub(crate) fn count_correct(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1, Int> {
    let best = logits.without_autodiff().argmax(1).squeeze_dim::<1>(1);
    best.equal(labels.without_autodiff()).int().sum()
}
