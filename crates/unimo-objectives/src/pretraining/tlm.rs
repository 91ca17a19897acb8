//! Translation language modelling: predict the hidden words of a text from the rest and from its translation.
//!
//! Over a memory (CCLM, Zeng et al. 2022) it is [masked language modelling](super::mlm) where the memory of a text is its translation, read
//! by the same layers, in one direction, as in the release. Joined (XLM, InfoXLM, UC2), both are one text, words are hidden in both, and all
//! positions see each other; UC2 reads the image beside it. By default it shares the head of [objectives.mlm].
//!
//! Shape legend: `B` samples, `L` text length.

use burn::module::Module;
use burn::tensor::assert_shape;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, JoinSpec, MaskSpec, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::lent::{Lenders, Lent};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::mlm::{Mlm, MlmConfig, check_mask, check_shares};
use crate::request::{ImageForm, Request, Samples, TextForm, TextKind};
use crate::weight;
use crate::{NEEDS_TEXT_STREAM, ObjectivesConfig, is_default};

/// `[objectives.tlm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How words are hidden: as `[objectives.mlm]` says, if it is there. Joined texts may have another rule.
    #[serde(default)]
    pub mask: MaskSpec,
    /// How a text and its translation become one text; absent: the translation is the memory of the text, as an image is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<JoinSpec>,
    /// Whether the image is read beside a joined text (UC2).
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: bool,
    /// A head of its own; absent: that of `[objectives.mlm]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnDecoder>,
}

/// `[objectives.tlm.own]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnDecoder {
    /// Whether the decoder's matrix is the word embedding.
    pub tied: bool,
}

impl OwnDecoder {
    /// The decoder.
    pub(crate) fn init(&self, mask: MaskSpec, init: &mut Init, model: &BackboneConfig) -> Mlm {
        let config = MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask,
            tied: self.tied,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        };
        config.init(init, model)
    }

    /// Checks that there is a decoder: its own, or one to share.
    pub(crate) fn or_lent(own: Option<&Self>, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(
            own.is_some() || all.mlm.is_some(),
            "shares the head of [objectives.mlm], which is absent; give it another by own = { tied = true }",
        )
    }
}

impl Settings for TlmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "translation language modelling"
    }

    fn requests(&self) -> Vec<Request> {
        let Some(joined) = self.joined else {
            return vec![
                Request::text(TextForm::Masked(self.mask)),
                Request::text(TextForm::Translation),
            ];
        };
        let text = Request::text(TextForm::MaskedJoined(joined, self.mask));
        let image = self.image.then(|| Request::image(ImageForm::Plain));
        std::iter::once(text).chain(image).collect()
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn reads_fused(&self) -> bool {
        self.joined.is_none() || self.image
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        if self.joined.is_some() {
            check_shares(&self.mask)?;
        } else {
            check_mask(&self.mask)?;
        }
        ConfigError::unless(
            self.joined.is_some() || !self.image,
            "image",
            self.image,
            "must be false without joined: the translation stands in the place of the image",
        )
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        OwnDecoder::or_lent(self.own.as_ref(), all)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        if self.joined.is_none() {
            return ConfigError::of_section(model.reads_texts_over_texts(), NEEDS_TEXT_STREAM);
        }
        ConfigError::unless(
            self.image || model.fusion.is_none(),
            "image",
            self.image,
            "must be true with [model.fusion], which reads no texts alone",
        )
    }
}

impl ObjectiveConfig for TlmConfig {
    type Objective = Tlm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Tlm {
        let own = self.own.as_ref();
        let own = own.map(|own| own.init(self.mask, init, model));
        Tlm {
            own,
            lent: Lent::default(),
            config: self.clone(),
        }
    }
}

/// The head of translation language modelling.
#[derive(Module, Debug)]
pub struct Tlm {
    /// Its own head, if it shares none.
    pub own: Option<Mlm>,
    /// The head that it shares with masked language modelling.
    #[module(skip)]
    lent: Lent<Mlm>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: TlmConfig,
}

impl Tlm {
    fn head(&self) -> &Mlm {
        self.lent.or(self.own.as_ref())
    }
}

impl Objective for Tlm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent.renew(self.own.as_ref(), lenders.of());
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let all = Pairs::matched(encoded.samples);
        vec![match self.config.joined {
            None => Pairs {
                text: TextKind::Masked,
                second: Some(TextKind::Translation),
                ..all
            },
            Some(_) => Pairs {
                text: TextKind::MaskedJoined,
                images: if self.config.image {
                    all.images
                } else {
                    Vec::new()
                },
                ..all
            },
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let masked = match self.config.joined {
            None => context.masked_texts(),
            Some(_) => context.masked_joined(),
        };
        let (_, fused) = Fused::only(fused);
        let text = fused.text().clone();
        assert_shape!(text, [context.encoded.samples, _, _]);
        self.head().hidden_words(context, text, &masked.labels)
    }
}
