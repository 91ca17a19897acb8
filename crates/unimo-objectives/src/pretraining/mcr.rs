//! Masked concept recovery: predict the hidden names of an image's objects from the image, and the hidden phrases of a caption from
//! the caption, each within its own encoder.
//!
//! Source: MVP (Li et al. 2022), section 3.3, stage 1. The decoders are the word embedding. A concept is a word of it or has a row
//! after the words.
//!
//! Shape legend: `B` samples, `M` tag positions, `L` text length, `D` width, `V` words and concepts.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::NEEDS_ONE_STREAM;
use crate::context::Context;
use crate::labels::labelled;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::tied::TiedHead;
use crate::weight;

/// `[objectives.mcr]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McrConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Share of tags and phrases that are hidden.
    pub rate: f64,
    /// Whether tags are recovered.
    pub tags: bool,
    /// Whether phrases are recovered.
    pub phrases: bool,
}

impl Settings for McrConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked concept recovery"
    }

    fn requests(&self) -> Vec<Request> {
        let tags = || Request::image(ImageForm::MaskedTags(self.rate));
        let phrases = || Request::text(TextForm::MaskedPhrases(self.rate));
        let both = [self.tags.then(tags), self.phrases.then(phrases)];
        both.into_iter().flatten().collect()
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::open_share("rate", self.rate)?;
        ConfigError::unless(
            self.tags || self.phrases,
            "tags",
            self.tags,
            "must be true where phrases = false, or there is nothing to recover",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            !self.tags || model.image_tags,
            "tags",
            self.tags,
            "needs model.image_tags = true",
        )?;
        ConfigError::unless(
            !self.phrases || model.joint.is_some(),
            "phrases",
            self.phrases,
            NEEDS_ONE_STREAM,
        )
    }
}

impl ObjectiveConfig for McrConfig {
    type Objective = Mcr;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mcr {
        let words = model.text.vocab_size;
        let text = &model.text;
        Mcr {
            tags: self.tags.then(|| {
                let (width, eps) = (model.image_width(), model.image_layer_norm_eps());
                TiedHead::new(init, width, words, eps)
            }),
            phrases: self
                .phrases
                .then(|| TiedHead::new(init, text.width, words, text.layer_norm_eps)),
            config: self.clone(),
        }
    }
}

/// The heads of masked concept recovery.
#[derive(Module, Debug)]
pub struct Mcr {
    /// The head on the image encoder's tags.
    pub tags: Option<TiedHead>,
    /// The head on the text encoder's phrases.
    pub phrases: Option<TiedHead>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: McrConfig,
}

/// The loss of a head at the positions that have a label.
///
/// # Shapes
///
/// - states: `[B, L, D]`; labels: `[B, L]`, row-major
fn recovered(head: &TiedHead, states: Tensor<3>, labels: &[i32], table: Tensor<2>) -> Outcome {
    let [rows, length, _] = states.dims();
    assert_eq!(labels.len(), rows * length, "one label per position");
    Outcome::of_positions(states, labelled(labels), |states| {
        head.logits(states, table)
    })
}

impl Objective for Mcr {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let encoded = context.encoded;
        let table = || context.backbone.text.word_embedding.weight.val();
        let tags = self.tags.as_ref().map(|head| {
            let images = encoded.images(By::Student, ImageKind::Plain);
            let states = images.and_then(|images| images.tags.clone());
            let states = states.expect("invariant: the step gives what was requested");
            recovered(head, states, &context.masked_tags().labels, table())
        });
        let phrases = self.phrases.as_ref().map(|head| {
            let states = encoded.text_states(By::Student, &TextKind::Masked);
            assert_shape!(states, [encoded.samples, _, _]);
            let labels = context.masked_texts().concept_labels.as_ref();
            let labels = labels.expect("invariant: the batch holds what was requested");
            recovered(head, states, labels, table())
        });
        match (tags, phrases) {
            (Some(a), Some(b)) => a.and(b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => unreachable!("invariant: validation finds something to recover"),
        }
    }
}
