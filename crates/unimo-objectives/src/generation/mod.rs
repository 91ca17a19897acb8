//! Captions, word by word: greedy, beam search, or drawn at random.
//!
//! Each image is searched on its own, so its captions do not depend on the others of its batch. The model reads on the device, and keeps
//! what it has read ([`unimo_encoders::reading`]); the search chooses words on the host.
//!
//! | settings | search |
//! |---|---|
//! | `beams = 1` | greedy: the likeliest word at each step |
//! | `beams > 1`, `rule = "finished"` | beam search as in Hugging Face transformers, without early stopping |
//! | `beams > 1`, `rule = "every_step"` | beam search as in UNIMO-2 and GNMT |
//! | `sampling` | words drawn by their probability: temperature, then the `top_k` likeliest, then the likeliest that hold `top_p` |
//!
//! Sources: Wu et al. 2016 (GNMT), section 7, for the length penalty; Holtzman et al. 2020 for `top_p`; the behaviour of transformers 5
//! (`GenerationMixin`), which the tests compare with.
//!
//! Shape legend: `R` texts that are written, `D` width, `V` vocabulary.

mod beams;
mod limits;
mod sampling;
mod writer;

use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::dtype::cast;
use unimo_encoders::reading::NextWords;

use crate::is_default;
pub use limits::Vocabulary;
pub use writer::{Writer, Written};

use beams::Beams;
use limits::Limits;
use sampling::Drawn;

/// Largest number of beams. Each is a text that is read at every step, so memory grows with them.
pub const MOST_BEAMS: usize = 1024;

/// How captions are searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// Number of unfinished captions that are kept for each image; 1 is greedy.
    pub beams: usize,
    /// How captions of different lengths are compared.
    pub rule: LengthRule,
    /// The exponent of the length: 0 compares sums of log-probabilities, 1 with [`LengthRule::Finished`] their means. Above 0 long
    /// captions gain.
    pub length_penalty: f64,
    /// Least number of tokens of a caption, its end token included.
    pub min_length: usize,
    /// Largest number of tokens of a caption, its end token included.
    pub max_length: usize,
    /// No sequence of this many tokens occurs twice in a caption; 0: any may.
    #[serde(skip_serializing_if = "is_default")]
    pub no_repeat: usize,
    /// Draws words at random instead of searching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingConfig>,
}

impl Default for GenerationConfig {
    /// Beam search with three beams and a mean over tokens, 20 tokens at most, as BLIP and X-VLM search captions.
    fn default() -> Self {
        Self {
            beams: 3,
            rule: LengthRule::Finished,
            length_penalty: 1.0,
            min_length: 1,
            max_length: 20,
            no_repeat: 0,
            sampling: None,
        }
    }
}

/// How captions of different lengths are compared. `t` counts a caption's tokens, its end token included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthRule {
    /// `sum / t^penalty`, for finished captions alone; unfinished ones compete by their sums (transformers).
    #[default]
    Finished,
    /// `sum / ((5 + t) / 6)^penalty`, for finished and unfinished captions together at every step (UNIMO-2, GNMT).
    EveryStep,
}

impl LengthRule {
    /// The score of a caption of `length` tokens, from the sum of their log-probabilities.
    pub fn score(self, sum: f64, length: usize, penalty: f64) -> f64 {
        let length = length as f64;
        match self {
            Self::Finished => sum / length.powf(penalty),
            Self::EveryStep => sum / ((5.0 + length) / 6.0).powf(penalty),
        }
    }
}

/// How words are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingConfig {
    /// Log-probabilities are divided by it: below 1 likely words become likelier.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Only so many of the likeliest words are drawn from; 0: from all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k: usize,
    /// Only the likeliest words that together reach this probability are drawn from; 1: all.
    #[serde(default = "one")]
    pub top_p: f64,
    /// The seed of the random numbers; each image has its own stream.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> f64 {
    1.0
}

impl GenerationConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            (1..=MOST_BEAMS).contains(&self.beams),
            "beams",
            self.beams,
            format_args!("must be between 1 and {MOST_BEAMS}"),
        )?;
        ConfigError::unless(
            self.length_penalty.is_finite(),
            "length_penalty",
            self.length_penalty,
            "must be finite",
        )?;
        config::positive("max_length", self.max_length)?;
        ConfigError::unless(
            self.min_length <= self.max_length,
            "min_length",
            self.min_length,
            format_args!("must be at most max_length = {}", self.max_length),
        )?;
        let Some(sampling) = &self.sampling else {
            return Ok(());
        };
        ConfigError::unless(
            self.beams == 1,
            "beams",
            self.beams,
            "must be 1 where words are drawn at random",
        )?;
        sampling.validate().map_err(|e| e.within("sampling"))
    }
}

impl SamplingConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("temperature", self.temperature)?;
        ConfigError::unless(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            self.top_p,
            "must be above 0 and at most 1",
        )
    }
}

/// Reads texts word by word, and scores what may come next.
pub trait Reader {
    /// Reads one more word of each text. The first call has one text for each image.
    ///
    /// # Shapes
    ///
    /// - next: `R` words
    /// - output: `[R, V]`, logits of the word after them
    fn read(&mut self, next: &NextWords<'_>) -> Tensor<2>;
}

/// A caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Its tokens, without the prompt and the end token.
    pub tokens: Vec<i32>,
    /// Its log-probability by the [`LengthRule`] of the search. Where words are drawn, that of the words as the model scores them.
    pub score: f64,
    /// Whether it was ended by the end token, not cut at the greatest length.
    pub ended: bool,
}

/// A model's scores were not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model gives scores that are not finite for word {position} of a caption")]
pub struct NotFinite {
    /// Which word of the caption, counted from 1.
    pub position: usize,
}

/// A text in the making.
#[derive(Debug, Clone, Default)]
struct Hypothesis {
    /// Without the prompt.
    tokens: Vec<i32>,
    /// Sum of the log-probabilities.
    sum: f64,
}

impl Hypothesis {
    fn followed_by(&self, token: i32, sum: f64) -> Self {
        let mut tokens = Vec::with_capacity(self.tokens.len() + 1);
        tokens.extend_from_slice(&self.tokens);
        tokens.push(token);
        Self { tokens, sum }
    }
}

/// The search for one image.
trait Search {
    /// The texts that are gone on with.
    fn texts(&self) -> &[Hypothesis];

    /// Takes the log-probabilities of the words after each of the texts, forbidden ones -inf. Afterwards [`texts`](Self::texts) holds the
    /// longer texts, each with the number of the text that it goes on with in `parents`; none if the search has ended.
    fn step(&mut self, scores: &[Vec<f32>], parents: &mut Vec<usize>);

    /// The result.
    fn best(self: Box<Self>) -> Generated;
}

/// Captions of some images, one for each. All begin with the tokens of `prompt`, the begin token first. `streams` gives each image the
/// number of its random numbers, so that what is drawn for it does not depend on its batch.
///
/// # Errors
///
/// The model gives scores that are not finite.
///
/// # Panics
///
/// Panics if the prompt is empty.
pub fn generate(
    reader: &mut dyn Reader,
    prompt: &[i32],
    vocabulary: &Vocabulary,
    streams: &[u64],
    config: &GenerationConfig,
) -> Result<Vec<Generated>, NotFinite> {
    let limits = Limits::new(prompt, vocabulary, config);
    let mut searches: Vec<Option<Box<dyn Search>>> = streams
        .iter()
        .map(|stream| {
            let search: Box<dyn Search> = match &config.sampling {
                Some(sampling) => Box::new(Drawn::new(config, sampling, vocabulary.end, *stream)),
                None => Box::new(Beams::new(config, vocabulary.end)),
            };
            Some(search)
        })
        .collect();
    let mut done: Vec<Option<Generated>> = streams.iter().map(|_| None).collect();
    // Images whose search goes on.
    let mut images: Vec<usize> = (0..streams.len()).collect();
    let Some((last, before)) = prompt.split_last() else {
        unreachable!("invariant: a prompt has a begin token");
    };
    for word in before {
        reader.read(&NextWords {
            parents: &images,
            words: &vec![*word; images.len()],
            per_image: 1,
        });
    }
    let mut parents = images.clone();
    let mut words = vec![*last; images.len()];
    let mut per_image = 1;
    for position in 1..=config.max_length {
        if images.is_empty() {
            break;
        }
        let logits = reader.read(&NextWords {
            parents: &parents,
            words: &words,
            per_image,
        });
        let scores = log_probabilities(logits).ok_or(NotFinite { position })?;
        let width = scores.len() / words.len();
        (parents, words) = (Vec::new(), Vec::new());
        let mut left = Vec::new();
        let mut wanted = 1;
        let mut steps = Vec::new();
        for (at, image) in images.iter().enumerate() {
            let search = searches[*image].as_mut();
            let search = search.expect("invariant: a search that goes on is there");
            let first = at * per_image;
            let own: Vec<Vec<f32>> = search
                .texts()
                .iter()
                .zip(scores.chunks(width).skip(first))
                .map(|(text, scores)| limits.applied(text, scores))
                .collect();
            let mut own_parents = Vec::new();
            search.step(&own, &mut own_parents);
            if own_parents.is_empty() {
                let search = searches[*image].take();
                done[*image] = search.map(Search::best);
            } else {
                wanted = wanted.max(own_parents.len());
                left.push(*image);
                steps.push((first, own_parents));
            }
        }
        // As many texts for each image: where there are fewer, the first is read several times and not used.
        for (image, (first, own_parents)) in left.iter().zip(steps) {
            let search = searches[*image].as_ref();
            let texts = search.map_or(&[][..], |search| search.texts());
            for at in 0..wanted {
                let at = if at < texts.len() { at } else { 0 };
                parents.push(first + own_parents[at]);
                words.extend(texts[at].tokens.last());
            }
        }
        (images, per_image) = (left, wanted);
    }
    let of = |(search, done): (Option<Box<dyn Search>>, Option<Generated>)| {
        done.or_else(|| search.map(Search::best))
            .expect("invariant: an image has a search or its result")
    };
    Ok(searches.into_iter().zip(done).map(of).collect())
}

/// The logarithms of the probabilities, row by row; `None` if one is not a number.
fn log_probabilities(logits: Tensor<2>) -> Option<Vec<f32>> {
    let logits = cast(logits.without_autodiff(), FloatDType::F32);
    let scores = log_softmax(logits, 1).into_data().convert::<f32>();
    let scores: Vec<f32> = scores.iter::<f32>().collect();
    scores.iter().all(|score| !score.is_nan()).then_some(scores)
}

/// The indices of the `count` largest scores that are not forbidden, the largest first, of equals the first.
fn largest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len())
        .filter(|at| scores[*at] > f64::NEG_INFINITY)
        .collect();
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, by_score);
        order.truncate(count);
    }
    order.sort_unstable_by(by_score);
    order
}

#[cfg(test)]
mod tests;
