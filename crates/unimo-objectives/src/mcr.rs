//! Masked concept recovery: predict the hidden names of a picture's objects from the picture, and the hidden phrases of a caption
//! from the caption, each within its own encoder.
//!
//! Source: MVP (Li et al. 2022), section 3.3, stage 1. Decoders are the word embedding, whose rows concepts share with words or
//! follow.
//!
//! Shape legend: `B` samples, `M` tag positions, `L` text length, `D` width, `V` words and concepts.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;

use crate::objective::{Needs, Objective, Outcome, Pairs, UniModal, labelled};
use crate::tied::TiedHead;

/// `[objectives.mcr]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McrConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Share of tags and phrases that are hidden.
    pub rate: f64,
    /// Whether tags are recovered.
    pub tags: bool,
    /// Whether phrases are recovered.
    pub phrases: bool,
}

impl McrConfig {
    /// Every value on its own and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::open_share("rate", self.rate)?;
        ConfigError::unless(
            self.tags || self.phrases,
            "tags",
            self.tags,
            "must be true where phrases = false, or there is nothing to recover",
        )
    }

    /// New heads.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mcr {
        let words = model.text.vocab_size;
        let text = &model.text;
        let (width, eps) = (model.image_width(), model.image_layer_norm_eps());
        Mcr {
            tags: self.tags.then(|| TiedHead::new(init, width, words, eps)),
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
    /// Over the image encoder's tags.
    pub tags: Option<TiedHead>,
    /// Over the text encoder's phrases.
    pub phrases: Option<TiedHead>,
    /// What it was made from.
    #[module(skip)]
    pub config: McrConfig,
}

/// What a head makes of the positions that have a label.
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
    fn needs(&self) -> Needs {
        Needs {
            images: self.config.tags,
            tags: self.config.tags,
            concepts: self.config.phrases,
            concept_rate: Some(self.config.rate),
            samples: 1,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn loss(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        _fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let table = || backbone.text.word_embedding.weight.val();
        let tags = self.tags.as_ref().map(|head| {
            let states = batch.images.as_ref().and_then(|i| i.tags.clone());
            let states = states.expect("invariant: the step gives what `needs` asks for");
            recovered(head, states, &batch.tag_labels, table())
        });
        let phrases = self.phrases.as_ref().map(|head| {
            let (texts, first) = batch
                .texts
                .as_ref()
                .zip(batch.masked)
                .expect("invariant: the step gives what `needs` asks for");
            let last = texts.states.last();
            let last = last.expect("invariant: an encoder keeps at least its last state");
            let states = last.clone().narrow(0, first, batch.samples);
            assert_shape!(states, [batch.samples, _, _]);
            recovered(head, states, &batch.concept_labels, table())
        });
        match (tags, phrases) {
            (Some(a), Some(b)) => a.and(b),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => unreachable!("invariant: validation finds something to recover"),
        }
    }
}
