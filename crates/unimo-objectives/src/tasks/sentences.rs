//! Classification of texts alone: one sentence, or two that are read as one text. Also regression, with one output.
//!
//! ```text
//! classifier:  logits = W2 dropout(tanh(W1 dropout(t)))       RoBERTa
//! pooler:      logits = W2 dropout(tanh(W1 t))                BERT, whose pooler is W1
//! relu:        logits = W2 dropout(relu(W1 t))                UNIMO-2
//! loss = cross-entropy, or the mean squared error of the one output
//! ```
//!
//! Source: RoBERTa's and BERT's heads for GLUE; BridgeTower (`run_glue.py`) puts RoBERTa's on its text encoder. UNIMO-2
//! (`classifier_grounded.py`) reads the text by its grounded encoder as well, which then chooses its codes by the words
//! (`reads = "joint"`).
//!
//! Shape legend: `B` texts, `D` width of the encoder that is read, `C` classes; `t`: the first state of its last layer, `[B, D]`.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::{Form, Rule, rule};

use crate::context::Context;
use crate::encoded::Encoded;
use crate::is_default;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{By, Request, Samples, TextForm, TextKind};
use crate::tasks::labels::{Labelled, squared_error};
use crate::weight;

/// `[objectives.sentences]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentencesConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// The head.
    pub head: SentenceHead,
    /// The encoder whose first state the head reads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reads: SentenceEncoder,
    /// What is predicted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub predicts: SentenceTarget,
    /// Number of classes; absent: as many as there are labels. A number has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Dropout of the head (0.1 in BERT and RoBERTa).
    pub dropout: f64,
}

/// The head on a text's first state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceHead {
    /// RoBERTa's, with dropout in front of both layers.
    Classifier,
    /// BERT's, with dropout in front of the last layer alone.
    Pooler,
    /// UNIMO-2's: BERT's with ReLU for tanh.
    Relu,
}

/// The encoder that a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceEncoder {
    /// The text encoder.
    #[default]
    Text,
    /// The cross-modal encoder of one stream over the text encoder, without an image.
    Joint,
}

/// What is predicted of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SentenceTarget {
    /// Its class.
    #[default]
    Class,
    /// A number, such as the similarity of two sentences (STS-B).
    Number,
}

impl Settings for SentencesConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "classification of sentences"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::text(TextForm::Plain)]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn reads_fused(&self) -> bool {
        self.reads == SentenceEncoder::Joint
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(match self.predicts {
            SentenceTarget::Class => Predicts::Class {
                classes: self.classes,
                names: &[],
            },
            SentenceTarget::Number => Predicts::Number,
        })
    }

    fn set_classes(&mut self, classes: usize) {
        self.classes = Some(classes);
    }

    fn turn_dropout_off(&mut self) {
        self.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        if let Some(classes) = self.classes {
            config::positive("classes", classes)?;
            ConfigError::unless(
                self.predicts == SentenceTarget::Class,
                "classes",
                classes,
                "must be absent where predicts = \"number\": there is one output",
            )?;
        }
        super::valid_dropout(self.dropout)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.reads == SentenceEncoder::Text || model.joint.is_some(),
            "reads",
            "\"joint\"",
            "must be \"text\" without [model.joint]: two streams read no text without an image",
        )
    }
}

impl ObjectiveConfig for SentencesConfig {
    type Objective = Sentences;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Sentences {
        let width = match self.reads {
            SentenceEncoder::Text => model.text.width,
            SentenceEncoder::Joint => model.cross_width(),
        };
        let outputs = match self.predicts {
            SentenceTarget::Class => self.classes.unwrap_or_default().max(1),
            SentenceTarget::Number => 1,
        };
        Sentences {
            dense: Linear::new(init, width, width, true),
            outer: Linear::new(init, width, outputs, true),
            dropout: Dropout::new(self.dropout),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in `BertForSequenceClassification`, for `pooler`.
pub const BERT_NAMES: &[Rule] = &[
    rule("dense", "bert.pooler.dense", Form::Linear),
    rule("outer", "classifier", Form::Linear),
];

/// Names of this head's parameters in `RobertaForSequenceClassification`, for `classifier`.
pub const ROBERTA_NAMES: &[Rule] = &[
    rule("dense", "classifier.dense", Form::Linear),
    rule("outer", "classifier.out_proj", Form::Linear),
];

/// The head of a classification of texts.
#[derive(Module, Debug)]
pub struct Sentences {
    /// `D -> D`.
    pub dense: Linear,
    /// `D -> C`.
    pub outer: Linear,
    /// Dropout in front of the layers.
    pub dropout: Dropout,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: SentencesConfig,
}

impl Sentences {
    /// The logit of every class, or the number.
    ///
    /// # Shapes
    ///
    /// - first: `[B, D]`
    /// - output: `[B, C]`
    pub fn logits(&self, first: Tensor<2>) -> Tensor<2> {
        let [width, _] = self.dense.weight.dims();
        assert_shape!(first, [_, width]);
        let first = match self.config.head {
            SentenceHead::Classifier => self.dropout.forward(first),
            SentenceHead::Pooler | SentenceHead::Relu => first,
        };
        let inner = self.dense.forward(first);
        let inner = match self.config.head {
            SentenceHead::Classifier | SentenceHead::Pooler => inner.tanh(),
            SentenceHead::Relu => relu(inner),
        };
        self.outer.forward(self.dropout.forward(inner))
    }

    fn of_batch(&self, context: &Context<'_>, fused: &[Fused]) -> Tensor<2> {
        if self.config.reads == SentenceEncoder::Joint {
            let (_, fused) = Fused::only(fused);
            return self.logits(fused.text_class());
        }
        let texts = context.encoded.texts(By::Student, &TextKind::Plain);
        let texts = texts.expect("invariant: the step gives what was requested");
        self.logits(texts.class)
    }
}

impl Objective for Sentences {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        match self.config.reads {
            SentenceEncoder::Text => Vec::new(),
            SentenceEncoder::Joint => vec![Pairs {
                images: Vec::new(),
                ..Pairs::matched(encoded.samples)
            }],
        }
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let logits = self.of_batch(context, fused);
        match self.config.predicts {
            SentenceTarget::Class => Labelled::of(context.batch).cross_entropy(logits),
            SentenceTarget::Number => squared_error(context.batch, logits),
        }
    }

    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.of_batch(context, fused))
    }
}
