//! Text-text contrast: a text is nearer to its translation than to those of the batch's other texts, and vice versa.
//!
//! Source: CCLM (Zeng et al. 2022). It is [image-text contrast](super::itc) with translations in the place of texts, and texts in that of
//! images. By default it shares the projection of texts and the temperature with [objectives.itc]: the two views of CCLM have one common
//! space. Texts that are the same, word for word, are still negatives of each other, as in the release.
//!
//! Shape legend: `B` samples, `E` width of the common space.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;

use crate::ObjectivesConfig;
use crate::context::Context;
use crate::contrast::{self, Contrast, Contrasted};
use crate::encoded::Encoded;
use crate::features::Features;
use crate::lent::{Lenders, Lent};
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::partners::Between;
use crate::pretraining::itc::{self, Itc, ItcConfig, Normalised, Projection, Views};
use crate::request::{By, Request, Samples, TextForm, TextKind};
use crate::temperature;
use crate::weight;

/// `[objectives.ttc]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtcConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// A projection and a temperature of its own; absent: those of `[objectives.itc]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnSpace>,
}

/// `[objectives.ttc.own]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSpace {
    /// `E`: numbers of a feature in the common space.
    #[serde(default = "itc::width")]
    pub width: usize,
    /// Initial temperature; similarities are divided by it.
    #[serde(default = "itc::temperature")]
    pub temperature: f64,
    /// Lowest and highest temperature.
    #[serde(default = "itc::temperature_range")]
    pub temperature_range: [f64; 2],
}

impl OwnSpace {
    fn contrast(&self) -> ItcConfig {
        ItcConfig {
            weight: 1.0,
            views: Views::Two,
            width: self.width,
            temperature: self.temperature,
            temperature_range: self.temperature_range,
            projection: Projection::Linear,
            normalised: Normalised::Both,
            momentum: None,
        }
    }
}

impl Settings for TtcConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "text-text contrast"
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

    fn gives_similarity(&self) -> Option<Between> {
        Some(Between::TextsAndTexts)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        let Some(own) = &self.own else {
            return Ok(());
        };
        config::positive("own.width", own.width)?;
        let checked = temperature::validate(own.temperature, own.temperature_range);
        checked.map_err(|e| e.within("own"))
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        if self.own.is_some() {
            return Ok(());
        }
        let shared = all.itc.as_ref();
        ConfigError::of_section(
            shared.is_some(),
            "shares the projection and temperature of [objectives.itc], which is absent; give it others by own = {}",
        )?;
        ConfigError::of_section(
            shared.is_none_or(|itc| itc.views == Views::Two && itc.momentum.is_none()),
            "shares the projection and temperature of [objectives.itc], which must have views = \"two\" and no momentum",
        )
    }
}

impl ObjectiveConfig for TtcConfig {
    type Objective = Ttc;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Ttc {
        let own = self.own.as_ref().map(|own| {
            let config = own.contrast();
            Itc {
                text_projection: Some(Linear::new(init, model.text.width, config.width, true)),
                image_projection: None,
                cross_projection: None,
                logit_scale: temperature::init(init, config.temperature),
                momentum: None,
                config,
            }
        });
        Ttc {
            own,
            lent: Lent::default(),
            config: self.clone(),
        }
    }
}

/// The head of text-text contrast.
#[derive(Module, Debug)]
pub struct Ttc {
    /// Its own head, if it shares none.
    pub own: Option<Itc>,
    /// The head that it shares with image-text contrast.
    #[module(skip)]
    lent: Lent<Itc>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: TtcConfig,
}

/// Names of the features, by their place in image-text contrast.
const TRANSLATIONS: &str = itc::TEXTS;
const TEXTS: &str = itc::IMAGES;

impl Ttc {
    fn head(&self) -> &Itc {
        self.lent.or(self.own.as_ref())
    }
}

impl Contrast for Ttc {
    fn samples(&self, encoded: &Encoded) -> Vec<usize> {
        encoded.describing.clone()
    }

    fn features(&self, context: &Context<'_>, _fused: &[Fused]) -> Features {
        let samples = &context.encoded.describing;
        let of = |kind: TextKind| {
            let texts = context.encoded.texts(By::Student, &kind);
            let texts = texts.expect("invariant: the step gives what was requested");
            contrast::take(self.head().embed_texts(&texts), samples)
        };
        Features::new(vec![
            (TRANSLATIONS, of(TextKind::Translation)),
            (TEXTS, of(TextKind::Plain)),
        ])
    }

    /// # Shapes
    ///
    /// - output: `[N, N]`, a row for each translation, a column for each text
    fn similarity(&self, features: &Features) -> Option<Tensor<2>> {
        self.head().similarity(features)
    }

    fn over(&self, all: &Contrasted) -> Outcome {
        self.head().over(all)
    }
}

impl Objective for Ttc {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent.renew(self.own.as_ref(), lenders.of());
    }

    fn contrast(&self) -> Option<&dyn Contrast> {
        Some(self)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        contrast::alone(self, context, fused)
    }

    fn after_step(&mut self, after: &AfterStep) {
        if let Some(own) = &mut self.own {
            own.after_step(after);
        }
    }
}
