//! Text-text matching: is one text a translation of the other?
//!
//! Source: CCLM (Zeng et al. 2022). It is [image-text matching](super::itm) where the memory of a text is another text, read by the same
//! layers. By default it shares the head of [objectives.itm]. As in the release, the translation is the text that is read, and the text
//! of the batch is its memory; wrong partners come from the micro-batch.
//!
//! Shape legend: `P` pairs.

use burn::module::Module;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::lent::{Lenders, Lent};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::partners::{Between, Choice, Negatives};
use crate::pretraining::itm::{Head, Itm, ItmConfig, Layout, check_choice};
use crate::request::{Request, Samples, TextForm, TextKind};
use crate::weight;
use crate::{NEEDS_TEXT_STREAM, ObjectivesConfig};

/// `[objectives.ttm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Where wrong partners come from. Hard ones are chosen by the similarities of `[objectives.ttc]`.
    #[serde(default)]
    pub negatives: Negatives,
    /// Which pairs are made; where it speaks of captions and images, here are translations and texts.
    #[serde(default)]
    pub layout: Layout,
    /// With `negatives = "hard_sampled"`, what is added to the share that the softmax over all samples gives to each: 1e-5 in CCLM. Absent:
    /// ALBEF's 1e-4, with the most similar sample at 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// A head of its own; absent: that of `[objectives.itm]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnHead>,
}

/// `[objectives.ttm.own]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnHead {
    /// What the classifier reads: `text`, `class` or `mlp`.
    pub head: Head,
}

impl TtmConfig {
    fn choice(&self) -> Choice {
        Choice {
            negatives: self.negatives,
            epsilon: self.epsilon,
        }
    }
}

impl Settings for TtmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "text-text matching"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Plain),
            Request::text(TextForm::Translation),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::CAPTIONED
    }

    fn asks_similarity(&self) -> Option<Between> {
        let hard = self.negatives.hard();
        hard.then_some(Between::TextsAndTexts)
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        check_choice(self.choice())?;
        let own = self.own.as_ref();
        ConfigError::unless(
            own.is_none_or(|own| own.head.reads_text_alone()),
            "own.head",
            "pair or product",
            "must be \"text\", \"class\" or \"mlp\": there is no image",
        )
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        if self.own.is_some() {
            return Ok(());
        }
        let shared = all.itm.as_ref();
        ConfigError::of_section(
            shared.is_some(),
            "shares the head of [objectives.itm], which is absent; give it another by own = { head = \"mlp\" }",
        )?;
        ConfigError::of_section(
            shared.is_none_or(|itm| itm.head.reads_text_alone()),
            "shares the head of [objectives.itm], which must be \"text\", \"class\" or \"mlp\": there is no image",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(model.reads_texts_over_texts(), NEEDS_TEXT_STREAM)
    }
}

impl ObjectiveConfig for TtmConfig {
    type Objective = Ttm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Ttm {
        let own = self.own.as_ref().map(|own| {
            let config = ItmConfig {
                weight: 1.0,
                negatives: self.negatives,
                layout: self.layout,
                head: own.head,
                epsilon: self.epsilon,
            };
            config.init(init, model)
        });
        Ttm {
            own,
            lent: Lent::default(),
            config: self.clone(),
        }
    }
}

/// The head of text-text matching.
#[derive(Module, Debug)]
pub struct Ttm {
    /// Its own head, if it shares none.
    pub own: Option<Itm>,
    /// The head that it shares with image-text matching.
    #[module(skip)]
    lent: Lent<Itm>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: TtmConfig,
}

impl Ttm {
    fn head(&self) -> &Itm {
        self.lent.or(self.own.as_ref())
    }
}

impl Objective for Ttm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent.renew(self.own.as_ref(), lenders.of());
    }

    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let (partners, choice) = (&encoded.text_partners, self.config.choice());
        vec![Pairs {
            text: TextKind::Translation,
            second: Some(TextKind::Plain),
            ..self.config.layout.pairs(partners, choice, rng)
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        self.head().loss(context, fused)
    }
}
