//! Classification of texts alone: one sentence, or two that are read as one text. Also regression, with one output.
//!
//! ```text
//! classifier:  logits = W2 dropout(tanh(W1 dropout(t)))       RoBERTa
//! pooler:      logits = W2 dropout(tanh(W1 t))                BERT, whose pooler is W1
//! loss = cross-entropy, or the mean squared error of the one output
//! ```
//!
//! Source: RoBERTa's and BERT's heads for GLUE; BridgeTower (`run_glue.py`) puts RoBERTa's on its text encoder. The cross-modal encoder
//! is not used.
//!
//! Shape legend: `B` texts, `D` width of the text encoder, `C` classes; `t`: the first state of the last layer, `[B, D]`.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::{Dropout, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::{Form, Rule, rule};

use crate::context::Context;
use crate::is_default;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, Request, Samples, TextForm, TextKind};
use crate::tasks::labels::{Labelled, squared_error};

/// `[objectives.sentences]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentencesConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// The head.
    pub head: SentenceHead,
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
}

impl ObjectiveConfig for SentencesConfig {
    type Objective = Sentences;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Sentences {
        let width = model.text.width;
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
            SentenceHead::Pooler => first,
        };
        let inner = self.dense.forward(first).tanh();
        self.outer.forward(self.dropout.forward(inner))
    }

    fn of_batch(&self, context: &Context<'_>) -> Tensor<2> {
        let texts = context.encoded.texts(By::Student, &TextKind::Plain);
        let texts = texts.expect("invariant: the step gives what was requested");
        self.logits(texts.class)
    }
}

impl Objective for Sentences {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let logits = self.of_batch(context);
        match self.config.predicts {
            SentenceTarget::Class => Labelled::of(context.batch).cross_entropy(logits),
            SentenceTarget::Number => squared_error(context.batch, logits),
        }
    }

    fn predict(&self, context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        Some(self.of_batch(context))
    }
}
