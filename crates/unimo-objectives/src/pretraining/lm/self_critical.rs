//! Self-critical training: the model draws captions, and those that score better than others become likelier.
//!
//! ```text
//! loss = -sum_w (r(w) - b) sum_t log p(w_t | w_1 .. w_t-1, image) / number of all tokens
//! ```
//!
//! over captions `w` that are drawn from the model, with their end tokens. Their reward `r` has no gradient. The baseline `b` is the
//! reward of the likeliest caption (Rennie et al. 2017, SCST) or the mean reward of the image's other captions (Luo 2020, the default).
//! It makes the gradient less noisy and leaves its mean as it is.
//!
//! The reward is a trait, since metrics are no business of this crate; `unimo-train` gives CIDEr-D with document frequencies of the
//! training captions. Captions are scored as the model's own tokens, the end token included, so that one that is cut loses.
//!
//! Shape legend: `B` images, `K` captions of each, `R = B K`, `L` text length, `M` tokens of all captions, `D` width.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Distribution, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Texts, config};
use unimo_core::kernels;
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::joint::View;
use unimo_encoders::output::{Keep, Read};

use super::{Lm, next_words};
use crate::context::Context;
use crate::generation::{
    Generated, GenerationConfig, NotFinite, SamplingConfig, Vocabulary, Writer, Written,
};
use crate::labels::ints;
use crate::outcome::Outcome;
use crate::request::{By, ImageKind};
use crate::single_precision;

/// `objectives.lm.self_critical`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfCriticalConfig {
    /// `K`, the captions that are drawn for each image.
    pub samples: usize,
    /// What a caption's reward is compared with.
    pub baseline: Baseline,
    /// Log-probabilities are divided by it when captions are drawn.
    pub temperature: f64,
    /// Largest number of tokens of a caption, its end token included.
    pub max_length: usize,
    /// Number of training images whose captions document frequencies are counted in, evenly spaced if there are more.
    pub documents: usize,
}

impl Default for SelfCriticalConfig {
    fn default() -> Self {
        Self {
            samples: 5,
            baseline: Baseline::Others,
            temperature: 1.0,
            max_length: 20,
            documents: 200_000,
        }
    }
}

/// What a caption's reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The mean reward of the image's other captions.
    #[default]
    Others,
    /// The reward of the likeliest caption, word by word.
    Greedy,
}

impl SelfCriticalConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = if self.baseline == Baseline::Others {
            2
        } else {
            1
        };
        ConfigError::unless(
            self.samples >= least,
            "samples",
            self.samples,
            format_args!("must be at least {least} with this baseline"),
        )?;
        config::above_zero("temperature", self.temperature)?;
        config::positive("max_length", self.max_length)?;
        config::positive("documents", self.documents)
    }

    fn search(&self, sampling: Option<SamplingConfig>) -> GenerationConfig {
        GenerationConfig {
            beams: 1,
            max_length: self.max_length,
            sampling,
            ..GenerationConfig::default()
        }
    }
}

/// Scores captions.
pub trait Reward: Debug + Send + Sync {
    /// How good a caption is, as what people wrote of the same image says. All are token ids without the begin token; a caption that was
    /// not cut has its end token.
    fn of(&self, caption: &[i32], references: &[&[i32]]) -> f64;
}

/// Captions that were drawn, image by image, with what they score.
struct Scored {
    /// `R` captions, with their end tokens.
    captions: Vec<Vec<i32>>,
    /// `R`.
    rewards: Vec<f64>,
    /// `R`: reward minus baseline.
    advantages: Vec<f64>,
}

/// The loss of captions that the model draws for the batch's images.
pub(super) fn loss(lm: &Lm, config: &SelfCriticalConfig, context: &Context<'_>) -> Outcome {
    let images = context.encoded.images(By::Student, ImageKind::Plain);
    let (Some(images), Some(reward)) = (images, lm.reward.as_deref()) else {
        unreachable!("invariant: images were requested, and the training loop gives a reward");
    };
    let references = &context.batch.references;
    // An image that nobody described scores nothing.
    let described: Vec<usize> = (0..references.len())
        .filter(|image| !references[*image].is_empty())
        .collect();
    let Some(first) = described.first() else {
        return Outcome::nothing(context.device);
    };
    let (Some(begin), Some(end)) = (references[*first][0].first(), references[*first][0].last())
    else {
        unreachable!("invariant: a text has begin and end tokens");
    };
    let rows: Vec<i32> = described.iter().map(|image| *image as i32).collect();
    let images = images.select(&ints(rows, context.device));
    let references: Vec<Vec<&[i32]>> = described
        .iter()
        .map(|image| references[*image].iter().map(|text| &text[1..]).collect())
        .collect();
    let drawing = Drawing {
        lm,
        config,
        context,
        begin: *begin,
        end: *end,
    };
    let Ok(scored) = drawing.scored(&images, &references, reward) else {
        // The loss shows that the scores are not finite, and the training loop says at which step.
        let nan = Tensor::<1>::full([1], f32::NAN, context.device);
        return Outcome::new(single_precision(nan));
    };
    drawing.loss(&images, &scored)
}

struct Drawing<'a> {
    lm: &'a Lm,
    config: &'a SelfCriticalConfig,
    context: &'a Context<'a>,
    begin: i32,
    end: i32,
}

impl Drawing<'_> {
    /// Draws captions and scores them, without a tape.
    fn scored(
        &self,
        images: &ImageFeatures,
        references: &[Vec<&[i32]>],
        reward: &dyn Reward,
    ) -> Result<Scored, NotFinite> {
        let count = self.config.samples;
        let images = images.without_autodiff();
        let sampling = SamplingConfig {
            temperature: self.config.temperature,
            top_k: 0,
            top_p: 1.0,
            seed: self.seed(),
        };
        let several = images.select(&repeated(references.len(), count, self.context));
        let captions = self.written(&several, &self.config.search(Some(sampling)))?;
        let score = |(at, caption): (usize, &Vec<i32>)| {
            let references = &references[at / count];
            reward.of(caption, references)
        };
        let rewards: Vec<f64> = captions.iter().enumerate().map(score).collect();
        let baselines: Vec<f64> = match self.config.baseline {
            Baseline::Others => others(&rewards, count),
            Baseline::Greedy => {
                let likeliest = self.written(&images, &self.config.search(None))?;
                let each = likeliest.iter().zip(references);
                each.flat_map(|(caption, references)| {
                    std::iter::repeat_n(reward.of(caption, references), count)
                })
                .collect()
            }
        };
        let each = rewards.iter().zip(baselines);
        Ok(Scored {
            advantages: each.map(|(reward, baseline)| reward - baseline).collect(),
            captions,
            rewards,
        })
    }

    /// Captions with their end tokens, one for each image.
    fn written(
        &self,
        images: &ImageFeatures,
        config: &GenerationConfig,
    ) -> Result<Vec<Vec<i32>>, NotFinite> {
        let backbone = self.context.backbone.valid();
        let head = self.lm.head.valid();
        let writer = Writer {
            backbone: &backbone,
            head: &head,
        };
        let pad = backbone.text.pad_id() as i32;
        let written = Written {
            prompt: &[self.begin],
            vocabulary: &Vocabulary {
                end: self.end,
                forbidden: vec![self.begin, pad],
            },
            config,
        };
        let [count, _] = images.class.dims();
        let streams: Vec<u64> = (0..count as u64).collect();
        let captions = writer.captions(images, &streams, &written)?;
        let with_end = |caption: Generated| {
            let mut tokens = caption.tokens;
            tokens.extend(caption.ended.then_some(self.end));
            tokens
        };
        Ok(captions.into_iter().map(with_end).collect())
    }

    /// A seed from the step's random numbers on the device.
    fn seed(&self) -> u64 {
        const VALUES: f64 = (1u64 << 24) as f64;
        let uniform = Distribution::Uniform(0.0, 1.0);
        let device = self.context.device.clone().without_autodiff();
        let drawn = single_precision(Tensor::<1>::random([2], uniform, &device));
        let drawn: Vec<f32> = drawn.into_data().iter::<f32>().collect();
        drawn.iter().fold(0, |seed, value| {
            (seed << 24) | (f64::from(*value) * VALUES) as u64
        })
    }

    /// The loss of the captions, which are read as any others.
    fn loss(&self, images: &ImageFeatures, scored: &Scored) -> Outcome {
        let Self { lm, context, .. } = self;
        let backbone = context.backbone;
        let lengths: Vec<usize> = scored.captions.iter().map(|c| c.len() + 1).collect();
        let length = lengths.iter().copied().max().unwrap_or(1);
        let mut ids = Vec::with_capacity(lengths.len() * length);
        for caption in &scored.captions {
            ids.push(self.begin);
            ids.extend_from_slice(caption);
            ids.resize(
                ids.len().next_multiple_of(length),
                backbone.text.pad_id() as i32,
            );
        }
        let input = backbone.text.input(&ids, &lengths, length, context.device);
        let texts = backbone.encode_texts(&input.from_left_to_right(1));
        let count = scored.captions.len() / self.config.samples;
        let images = images.select(&repeated(count, self.config.samples, context));
        let view = View {
            prefix: Some(1),
            read: Read::Text,
            ..View::default()
        };
        let fused = backbone.fuse_parts(Some(&texts), Some(&images), &view, Keep::Nothing);
        let texts = Texts {
            ids,
            length,
            lengths,
            ..Texts::default()
        };
        let (positions, words) = next_words(&texts, 1);
        let weights: Vec<f32> = positions
            .iter()
            .map(|position| scored.advantages[*position as usize / length] as f32)
            .collect();
        let tokens = weights.len();
        let [rows, _, width] = fused.text().dims();
        let states = fused.text().clone().reshape([rows * length, width]);
        let states = states.select(0, ints(positions, context.device));
        let table = backbone.text.word_embedding.weight.val();
        let logits = single_precision(lm.head.logits(states, table));
        let losses = kernels::cross_entropy(logits, ints(words, context.device));
        let weights = TensorData::new(weights, [tokens]);
        let weights = single_precision(Tensor::<1>::from_data(weights, context.device));
        let loss = (losses * weights).sum().div_scalar(tokens as f64);
        let total: f64 = scored.rewards.iter().sum();
        let total = Tensor::<1>::from_data([total as f32], context.device);
        Outcome::new(loss).and_metric(REWARD, total, scored.rewards.len())
    }
}

/// Name of the mean reward of the captions that were drawn.
pub const REWARD: &str = "reward";

/// Each row `count` times, one after the other.
fn repeated(rows: usize, count: usize, context: &Context<'_>) -> Tensor<1, burn::tensor::Int> {
    let rows = (0..rows * count).map(|row| (row / count) as i32);
    ints(rows.collect(), context.device)
}

/// For each caption the mean of the image's others; every `count` captions are of one image.
fn others(rewards: &[f64], count: usize) -> Vec<f64> {
    let of_image = |own: &[f64]| -> Vec<f64> {
        let sum: f64 = own.iter().sum();
        let others = (count - 1) as f64;
        own.iter().map(|reward| (sum - reward) / others).collect()
    };
    rewards.chunks(count).flat_map(of_image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_compared_with_the_others_of_its_image() {
        assert_eq!(
            others(&[1.0, 2.0, 6.0, 0.0, 0.0, 3.0], 3),
            [4.0, 3.5, 1.5, 1.5, 1.5, 0.0]
        );
    }

    #[test]
    fn one_caption_has_no_others() {
        let one = SelfCriticalConfig {
            samples: 1,
            ..SelfCriticalConfig::default()
        };
        assert_eq!(one.validate().unwrap_err().key, "samples");
        let greedy = SelfCriticalConfig {
            baseline: Baseline::Greedy,
            ..one
        };
        greedy.validate().unwrap();
    }
}
