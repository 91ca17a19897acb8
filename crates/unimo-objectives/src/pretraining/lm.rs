//! Language modelling: predict every word of a caption from the image and the words before it, or the second part of a text from
//! its first part.
//!
//! Source: UNIMO-2 (Li et al. 2022): captioning and sequence-to-sequence with a prefix mask (UniLM, Dong et al. 2019). With an
//! image the prefix is the begin token alone. Without one it is the first 10 to 50 per cent of the batch's longest text. With a
//! cross-modal encoder of two streams, the image stream sees no words.
//!
//! With `stories` it reads sequences of images and sentences, whose prefix is all that stands before a sentence.
//!
//! With `self_critical` the model learns from captions of its own ([`self_critical`]).
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `M` predicted positions, `V` vocabulary.

pub mod self_critical;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::assert_shape;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Slices, Texts, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::joint::interleaved::Layout;
use unimo_encoders::output::Read;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::lm::self_critical::{Reward, SelfCriticalConfig};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, SliceForm, TextForm, TextKind};
use crate::tied::TiedHead;
use crate::weight;
use crate::{NEEDS_ONE_STREAM, NEEDS_STORIES, is_default};

/// `[objectives.lm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Whether it also learns from texts without images, which needs a single-stream cross-modal encoder, or none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub texts_alone: bool,
    /// Whether it reads stories: each word is predicted from the images and sentences before it. It then learns from no single pairs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stories: bool,
    /// Share of each target that is spread over the whole vocabulary: 0.1 in fine-tuning for captions (UNIMO-2, BLIP, X-VLM).
    #[serde(default, skip_serializing_if = "is_default")]
    pub label_smoothing: f64,
    /// Learns from captions of its own instead, by how well they score: for a model that writes captions already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_critical: Option<SelfCriticalConfig>,
}

impl Settings for LmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "language modelling"
    }

    fn requests(&self) -> Vec<Request> {
        if self.self_critical.is_some() {
            return vec![Request::image(ImageForm::Plain), Request::references()];
        }
        if self.stories {
            return vec![Request::slices(SliceForm::InOrder)];
        }
        vec![
            Request::text(TextForm::LeftToRight),
            Request::image(ImageForm::Plain).optional_if(self.texts_alone),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::probability("label_smoothing", self.label_smoothing)?;
        ConfigError::unless(
            !self.stories || (!self.texts_alone && self.self_critical.is_none()),
            "stories",
            self.stories,
            "must be false beside texts_alone and self_critical, which are of texts and of single images",
        )?;
        let Some(self_critical) = &self.self_critical else {
            return Ok(());
        };
        ConfigError::unless(
            !self.texts_alone && self.label_smoothing == 0.0,
            "self_critical",
            "{}",
            "leaves no use for label_smoothing and texts_alone: captions are scored, not predicted",
        )?;
        self_critical
            .validate()
            .map_err(|e| e.within("self_critical"))
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        model.check_reading_on()?;
        ConfigError::of_section(
            model.text.width == model.cross_width(),
            "needs a text encoder as wide as the cross-modal one: its words are predicted by their embeddings",
        )?;
        ConfigError::unless(
            model.fusion.is_none() || !self.texts_alone,
            "texts_alone",
            self.texts_alone,
            NEEDS_ONE_STREAM,
        )?;
        ConfigError::unless(
            !self.stories || model.reads_stories(),
            "stories",
            self.stories,
            NEEDS_STORIES,
        )?;
        let Some(self_critical) = &self.self_critical else {
            return Ok(());
        };
        ConfigError::of_section(
            model.is_fused(),
            "needs a cross-modal encoder to write captions of images",
        )?;
        let longest = model.text.longest_text();
        ConfigError::unless(
            self_critical.max_length < longest,
            "self_critical.max_length",
            self_critical.max_length,
            format_args!("must be below {longest}, the positions of the text encoder"),
        )
    }
}

impl ObjectiveConfig for LmConfig {
    type Objective = Lm;

    /// A new head; its decoder is the word embedding.
    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Lm {
        let eps = model.cross_layer_norm_eps();
        Lm {
            head: TiedHead::new(init, model.cross_width(), model.text.vocab_size, eps),
            config: self.clone(),
            reward: None,
        }
    }
}

/// The head of language modelling.
#[derive(Module, Debug)]
pub struct Lm {
    /// The head, whose decoder is the word embedding.
    pub head: TiedHead,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: LmConfig,
    /// What captions of its own are scored by, with `self_critical`.
    #[module(skip)]
    pub reward: Option<Arc<dyn Reward>>,
}

/// Positions of `[B, L]` that predict their next word, and those words. The last of the `prefix` given words is the first position.
pub(crate) fn next_words(texts: &Texts, prefix: usize) -> (Vec<i32>, Vec<i32>) {
    let first = prefix.max(1) - 1;
    let of_row = |(row, &real): (usize, &usize)| {
        (first..real.saturating_sub(1)).map(move |at| (row * texts.length + at) as i32)
    };
    let positions: Vec<i32> = texts.lengths.iter().enumerate().flat_map(of_row).collect();
    let words = positions.iter().map(|at| texts.ids[*at as usize + 1]);
    let words = words.collect();
    (positions, words)
}

/// Positions of `[B, L]` of stories that predict their next word, and those words. The begin token of a sentence predicts its first word.
fn words_of_stories(slices: &Slices, layout: &Layout) -> (Vec<i32>, Vec<i32>) {
    let Some(texts) = &slices.texts else {
        return (Vec::new(), Vec::new());
    };
    let (positions, words) = layout.next_words(texts.length);
    (
        positions,
        words.into_iter().map(|at| texts.ids[at]).collect(),
    )
}

impl Objective for Lm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        if self.config.self_critical.is_some() {
            return Vec::new();
        }
        if self.config.stories {
            return vec![Pairs::stories(encoded.samples)];
        }
        let kinds = (TextKind::LeftToRight, ImageKind::Plain);
        vec![Pairs::present(encoded, kinds).reading(Read::Text)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        if let Some(config) = &self.config.self_critical {
            return self_critical::loss(self, config, context);
        }
        let (_, fused) = Fused::only(fused);
        let text = fused.text();
        let table = context.backbone.text.word_embedding.weight.val();
        let next = if self.config.stories {
            let stories = context.encoded.stories(By::Student, SliceForm::InOrder);
            words_of_stories(context.slices(), &stories.layout)
        } else {
            let texts = context.texts();
            assert_shape!(text, [context.encoded.samples, texts.length, _]);
            next_words(texts, context.encoded.prefix())
        };
        let smoothing = self.config.label_smoothing;
        Outcome::of_positions_smoothed(text.clone(), next, smoothing, |states| {
            self.head.logits(states, table)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_predicts_the_word_after_it() {
        let texts = Texts {
            ids: vec![0, 5, 6, 2, 0, 7, 2, 1],
            length: 4,
            lengths: vec![4, 3],
            ..Texts::default()
        };
        let (positions, words) = next_words(&texts, 1);
        assert_eq!(positions, [0, 1, 2, 4, 5]);
        assert_eq!(words, [5, 6, 2, 7, 2]);
        // The first two words are given: the second is the first that predicts its next word.
        let (positions, words) = next_words(&texts, 2);
        assert_eq!((positions, words), (vec![1, 2, 5], vec![6, 2, 2]));
    }
}
