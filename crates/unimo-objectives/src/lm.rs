//! Language modelling: predict every word of a caption from the picture and the words before it, or the second part of a text
//! from its first.
//!
//! Source: UNIMO-2 (Li et al. 2022): captioning and sequence-to-sequence with a prefix mask (UniLM, Dong et al. 2019). With a picture
//! the prefix is the begin token alone; without one it is the first 10 to 50 per cent of the batch's longest text.
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `M` predicted positions, `V` vocabulary.

use burn::module::Module;
use burn::tensor::assert_shape;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::joint::View;

use crate::is_default;
use crate::objective::{LeftToRight, Needs, Objective, Outcome, Pairs, UniModal};
use crate::tied::TiedHead;

/// `[objectives.lm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LmConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Whether it learns from texts without pictures too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub texts_alone: bool,
}

impl LmConfig {
    /// Every value on its own.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)
    }

    /// A new head; its decoder is the word embedding.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Lm {
        let eps = model.cross_layer_norm_eps();
        Lm {
            head: TiedHead::new(init, model.cross_width(), model.text.vocab_size, eps),
            config: self.clone(),
        }
    }
}

/// The head of language modelling.
#[derive(Module, Debug)]
pub struct Lm {
    /// Over the word embedding.
    pub head: TiedHead,
    /// What it was made from.
    #[module(skip)]
    pub config: LmConfig,
}

/// Positions of `[B, L]` that predict their next word, and those words: from the last of the prefix on.
fn next_words(texts: &LeftToRight, length: usize) -> (Vec<i32>, Vec<i32>) {
    let first = texts.prefix.max(1) - 1;
    let of_row = |(row, &real): (usize, &usize)| {
        (first..real.saturating_sub(1)).map(move |at| (row * length + at) as i32)
    };
    let positions: Vec<i32> = texts.lengths.iter().enumerate().flat_map(of_row).collect();
    let words = positions.iter().map(|at| texts.ids[*at as usize + 1]);
    let words = words.collect();
    (positions, words)
}

impl Objective for Lm {
    fn needs(&self) -> Needs {
        Needs {
            images: !self.config.texts_alone,
            texts: true,
            left_to_right: true,
            samples: 1,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn pairs(&self, batch: &UniModal, _rng: &mut ChaCha8Rng) -> Option<Pairs> {
        let texts = batch.left_to_right.as_ref()?;
        let all = Pairs::matched(batch.samples);
        Some(Pairs {
            images: match &batch.images {
                Some(_) => all.images,
                None => Vec::new(),
            },
            view: View {
                prefix: Some(texts.prefix),
                ..View::default()
            },
            ..all
        })
    }

    fn loss(
        &self,
        backbone: &Backbone,
        batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let ((_, fused), texts) = fused
            .zip(batch.left_to_right.as_ref())
            .expect("invariant: the step fuses the pairs asked for");
        let text = fused.text();
        let [_, length, _] = text.dims();
        assert_shape!(text, [batch.samples, _, _]);
        let table = backbone.text.word_embedding.weight.val();
        Outcome::of_positions(text.clone(), next_words(texts, length), |states| {
            self.head.logits(states, table)
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tensor};
    use unimo_core::mask::PaddingMask;
    use unimo_encoders::backbone::TextFeatures;

    use super::*;

    #[test]
    fn each_position_predicts_the_word_after_it() {
        let device = Device::flex();
        let texts = |prefix| LeftToRight {
            texts: TextFeatures {
                states: Vec::new(),
                class: Tensor::zeros([2, 1], &device),
                mask: PaddingMask::from_lengths(&[4, 3], 4, &device),
            },
            prefix,
            ids: vec![0, 5, 6, 2, 0, 7, 2, 1],
            lengths: vec![4, 3],
        };
        let (positions, words) = next_words(&texts(1), 4);
        assert_eq!(positions, [0, 1, 2, 4, 5]);
        assert_eq!(words, [5, 6, 2, 7, 2]);
        // The first two are given: from the second on, the next is predicted.
        let (positions, words) = next_words(&texts(2), 4);
        assert_eq!((positions, words), (vec![1, 2, 5], vec![6, 2, 2]));
    }
}
