//! Masked language modelling: predict the hidden words from the rest and the image.
//!
//! Source: BERT, section 3.1; METER's head: dense, GELU, layer norm, decoder with its own bias. UNIMO-2 ties the decoder to the
//! word embedding and also learns from texts without images.
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `M` masked positions, `V` vocabulary.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, MaskSpec, config};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Embedding, LayerNorm, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::{Form, Rule, rule};

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{ints, labelled};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, Request, Samples, TextForm, TextKind};
use crate::tied::tied_logits;
use crate::weight;
use crate::{NEEDS_ONE_STREAM, is_default};

/// `[objectives.mlm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How words are hidden.
    #[serde(default)]
    pub mask: MaskSpec,
    /// Whether the decoder's matrix is the word embedding. The text encoder must then be as wide as the cross-modal encoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tied: bool,
    /// Whether it also learns from texts without images, which needs a single-stream cross-modal encoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub texts_alone: bool,
}

impl Settings for MlmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked language modelling"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Masked(self.mask)),
            Request::image(ImageForm::Plain).optional_if(self.texts_alone),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        let MaskSpec {
            rate,
            mask_share,
            random_share,
            unit: _,
        } = self.mask;
        config::open_share("mask.rate", rate)?;
        ConfigError::unless(
            mask_share >= 0.0 && random_share >= 0.0 && mask_share + random_share <= 1.0,
            "mask.mask_share + mask.random_share",
            mask_share + random_share,
            "each must be at least 0 and their sum at most 1",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            model.fusion.is_none() || !self.texts_alone,
            "texts_alone",
            self.texts_alone,
            NEEDS_ONE_STREAM,
        )?;
        ConfigError::unless(
            model.text.width == model.cross_width() || !self.tied,
            "tied",
            self.tied,
            "needs a text encoder as wide as the cross-modal one",
        )
    }
}

impl ObjectiveConfig for MlmConfig {
    type Objective = Mlm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mlm {
        let width = model.cross_width();
        let words = model.text.vocab_size;
        Mlm {
            dense: Linear::new(init, width, width, true),
            norm: LayerNorm::new(init, width, model.cross_layer_norm_eps()),
            decoder: (!self.tied).then(|| Linear::new(init, width, words, true)),
            bias: self.tied.then(|| init.constant([words], 0.0)),
            config: self.clone(),
            every_position: false,
        }
    }
}

/// Names of this head's parameters in METER and BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[
    rule("dense", "mlm_score.transform.dense", Form::Linear),
    rule("norm", "mlm_score.transform.LayerNorm", Form::Same),
    rule("decoder.bias", "mlm_score.bias", Form::Tensor),
    rule("decoder", "mlm_score.decoder", Form::Linear),
];

/// Names of this head's parameters in this project's PyTorch twin.
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
    /// Layer norm after the activation.
    pub norm: LayerNorm,
    /// `D -> V`; `None` if the word embedding is the decoder.
    pub decoder: Option<Linear>,
    /// `[V]`, if the word embedding is the decoder.
    pub bias: Option<Param<Tensor<1>>>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MlmConfig,
    /// Whether the head runs on every position and then drops those that are not masked, as METER does. Only for comparing speed.
    pub every_position: bool,
}

impl Mlm {
    /// Logits over the vocabulary; `words` is the text encoder's embedding.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, V]`
    pub fn logits(&self, words: &Embedding, states: Tensor<2>) -> Tensor<2> {
        let hidden = Activation::Gelu.forward(self.dense.forward(states));
        let hidden = self.norm.forward(hidden);
        match (&self.decoder, &self.bias) {
            (Some(decoder), _) => decoder.forward(hidden),
            (None, bias) => tied_logits(hidden, words.weight.val(), bias.as_ref()),
        }
    }
}

impl Objective for Mlm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        vec![Pairs::present(encoded, TextKind::Masked)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let text = fused.text();
        assert_shape!(text, [context.encoded.samples, _, _]);
        let words = &context.backbone.text.word_embedding;
        let (positions, labels) = labelled(&context.masked_texts().labels);
        if self.every_position && !labels.is_empty() {
            let [samples, length, width] = text.dims();
            let states = text.clone().reshape([samples * length, width]);
            let positions = ints(positions, &states.device());
            let all = |states| self.logits(words, states).select(0, positions);
            return Outcome::of_labels(states, labels, all);
        }
        Outcome::of_positions(text.clone(), (positions, labels), |states| {
            self.logits(words, states)
        })
    }
}
