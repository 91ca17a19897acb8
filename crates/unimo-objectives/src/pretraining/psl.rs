//! Pseudo-labelled key words: the words of its caption that matter, predicted from the image alone.
//!
//! Source: SIMLA (Khan et al. 2022), read from its release. The teacher reads the caption over the image. Each head of its last
//! self-attention votes, at the first position, for the positions that it attends to most. The positions with most votes are the key words:
//!
//! ```text
//! votes(p)  = number of heads for which p is among the `per_head` positions with the largest weights
//! key words = tokens of the `words` positions with most votes, those before others first among equals
//! L = mean over samples and vocabulary of BCE(W f, (1 - alpha) y + alpha sigmoid(W_teacher f_teacher))
//! ```
//!
//! with `f` the image's feature in the common space of `[objectives.itc]`, of length 1, and `y` 1 for key words and 0 for all others.
//!
//! Two things are this project's reading. The begin and end tokens and padding are never chosen, and take no vote from a word; the release
//! only strikes the begin token out at the end (`specials = true`). A position without a vote is no key word; the release fills up with such
//! positions. The teacher reads the caption over its own image states; in the release over the student's.
//!
//! Shape legend: `B` samples, `L` text length, `H` heads, `E` width of the common space, `V` vocabulary.

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Texts, config};
use unimo_core::average;
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::features::ImageFeatures;

use crate::ObjectivesConfig;
use crate::context::Context;
use crate::contrast;
use crate::encoded::Encoded;
use crate::lent::Lenders;
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::itc::{self, Itc, Views};
use crate::ramp::{self, ALPHA, Ramp};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm};
use crate::tasks::labels::binary_cross_entropy;
use crate::{is_default, single_precision, weight};

/// Name of the mean number of key words of a caption.
pub const KEY_WORDS: &str = "key_words";

/// `[objectives.psl]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PslConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// `E`: numbers of an image's feature, those of `objectives.itc.width`.
    #[serde(default = "itc::width")]
    pub width: usize,
    /// Positions that each head votes for, 4 in SIMLA.
    #[serde(default = "per_head")]
    pub per_head: usize,
    /// Key words of a caption at most, 5 in SIMLA.
    #[serde(default = "words")]
    pub words: usize,
    /// Whether heads may vote for begin and end tokens and for padding, as in SIMLA's release. The begin token is no key word even then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub specials: bool,
    /// What the teacher expects of the image, beside the key words; it needs `objectives.itc.momentum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<PslDistil>,
}

/// `[objectives.psl.distil]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PslDistil {
    /// Share of the teacher's expectations, 0.4 in SIMLA.
    pub alpha: f64,
    /// Steps over which `alpha` rises from 0, those of the first epoch in SIMLA; 0: it has its value from the first step on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha_ramp: usize,
}

fn per_head() -> usize {
    4
}

fn words() -> usize {
    5
}

/// Votes of a head and key words of a caption at most.
const MOST: usize = 1024;

impl Settings for PslConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "pseudo-labelled key words"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::image(ImageForm::Plain),
            Request::text(TextForm::Plain).by_teacher(),
            Request::image(ImageForm::Plain).by_teacher(),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::DESCRIBING
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("width", self.width)?;
        for (key, value) in [("per_head", self.per_head), ("words", self.words)] {
            ConfigError::unless(
                (1..=MOST).contains(&value),
                key,
                value,
                format_args!("must be 1 to {MOST}"),
            )?;
        }
        let Some(distil) = &self.distil else {
            return Ok(());
        };
        config::above_zero("distil.alpha", distil.alpha)?;
        ramp::validate("distil", distil.alpha, distil.alpha_ramp)
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        let itc = all.itc.as_ref().filter(|itc| itc.views == Views::Two);
        let Some(itc) = itc else {
            return ConfigError::of_section(
                false,
                "reads the image's feature of [objectives.itc] with views = \"two\", which is absent",
            );
        };
        ConfigError::unless(
            self.width == itc.width,
            "width",
            self.width,
            format_args!("must be objectives.itc.width = {}", itc.width),
        )?;
        ConfigError::unless(
            self.distil.is_none() || itc.momentum.is_some(),
            "distil",
            "{}",
            "needs objectives.itc.momentum, whose teacher has a feature of the image",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(
            model.shares_layers(),
            "needs the self-attention of a text that reads an image, which [model.fusion] with shared = true gives",
        )
    }
}

impl ObjectiveConfig for PslConfig {
    type Objective = Psl;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Psl {
        let concepts = Linear::new(init, self.width, model.text.vocab_size, true);
        let distil = self.distil.as_ref().map(|config| Distil {
            concepts: average::frozen_copy(&concepts),
            ramp: Ramp::new(init, config.alpha, config.alpha_ramp),
        });
        Psl {
            concepts,
            distil,
            lent: None,
            config: self.clone(),
        }
    }
}

/// The head of pseudo-labelled key words.
#[derive(Module, Debug)]
pub struct Psl {
    /// `E -> V`.
    pub concepts: Linear,
    /// The teacher's copy of it, and the share of its expectations.
    pub distil: Option<Distil>,
    /// The projections of images that it shares with image-text contrast.
    #[module(skip)]
    lent: Option<Box<Projections>>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: PslConfig,
}

/// The teacher's part of this head: it follows the head as the teacher follows the encoders, and tracks no gradient.
#[derive(Module, Debug)]
pub struct Distil {
    /// Copy of the head.
    pub concepts: Linear,
    /// The share of its expectations.
    pub ramp: Ramp,
}

/// The projections of images into the common space; `None` for features that are there already.
#[derive(Debug, Clone)]
struct Projections {
    student: Option<Linear>,
    teacher: Option<Linear>,
}

impl Psl {
    fn projections(&self) -> &Projections {
        let lent = self.lent.as_deref();
        lent.expect("invariant: validation finds [objectives.itc]")
    }

    /// Scores of every word of the vocabulary for images.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - output: `[B, V]`
    pub fn forward(&self, images: &ImageFeatures) -> Tensor<2> {
        let projection = self.projections().student.as_ref();
        let features = itc::embed(projection, images.class.clone(), true);
        single_precision(self.concepts.forward(features))
    }

    /// What the teacher expects of images, without a gradient; `None` without soft targets.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - output: `[B, V]`
    fn expected(&self, images: &ImageFeatures) -> Option<Tensor<2>> {
        let distil = self.distil.as_ref()?;
        let projection = self.projections().teacher.as_ref();
        let features = itc::embed(projection, images.class.clone(), true);
        let scores = distil.concepts.forward(features);
        Some(sigmoid(single_precision(scores)).detach())
    }
}

/// The key words of captions, as token ids.
///
/// # Shapes
///
/// - weights: `[R, H, L]`, row-major: what the first position attends to
/// - rows: `R`, the text of each
///
/// # Panics
///
/// Panics if there are fewer weights.
pub fn key_words(
    weights: &[f32],
    heads: usize,
    (texts, rows): (&Texts, &[usize]),
    config: &PslConfig,
) -> Vec<Vec<i32>> {
    let length = texts.length;
    let of_row = |(at, row): (usize, &usize)| {
        let own = &weights[at * heads * length..][..heads * length];
        let words = if config.specials {
            0..length
        } else {
            1..texts.lengths[*row].saturating_sub(1)
        };
        let mut votes = vec![0usize; length];
        for head in own.chunks_exact(length) {
            let mut order: Vec<usize> = words.clone().collect();
            order.sort_by(|a, b| head[*b].total_cmp(&head[*a]).then(a.cmp(b)));
            order
                .iter()
                .take(config.per_head)
                .for_each(|p| votes[*p] += 1);
        }
        let mut chosen: Vec<usize> = words.filter(|position| votes[*position] > 0).collect();
        chosen.sort_by_key(|position| (std::cmp::Reverse(votes[*position]), *position));
        let ids = &texts.ids[row * length..][..length];
        let chosen = chosen.into_iter().take(config.words).map(|p| ids[p]);
        chosen.filter(|id| *id != ids[0]).collect()
    };
    rows.iter().enumerate().map(of_row).collect()
}

/// 1 for the key words, 0 for all others.
fn multi_hot(words: &[Vec<i32>], vocabulary: usize) -> TensorData {
    let mut values = vec![0.0f32; words.len() * vocabulary];
    for (row, words) in words.iter().enumerate() {
        for id in words {
            values[row * vocabulary + *id as usize] = 1.0;
        }
    }
    TensorData::new(values, [words.len(), vocabulary])
}

impl Objective for Psl {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent = lenders.of::<Itc>().map(|itc| {
            let teacher = itc.momentum.as_ref();
            Box::new(Projections {
                student: itc.image_projection.clone(),
                teacher: teacher.and_then(|momentum| momentum.image_projection.clone()),
            })
        });
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        vec![Pairs {
            by: By::Teacher,
            class_attention: true,
            ..Pairs::of_rows(encoded.describing.clone())
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let rows = &context.encoded.describing;
        let weights = fused.class_attention.as_ref();
        let weights = weights.expect("invariant: the step keeps what pairs ask for");
        let [count, heads, _] = weights.dims();
        assert_eq!(count, rows.len(), "a row for each caption");
        let weights = weights.clone().into_data().convert::<f32>();
        let weights: Vec<f32> = weights.iter::<f32>().collect();
        let words = key_words(&weights, heads, (context.texts(), rows), &self.config);

        let images = |by: By| {
            let images = context.encoded.images(by, ImageKind::Plain);
            images.expect("invariant: the step gives what was requested")
        };
        let scores = contrast::take(self.forward(images(By::Student)), rows);
        let [_, vocabulary] = scores.dims();
        assert_shape!(scores, [count, vocabulary]);
        let chosen: usize = words.iter().map(Vec::len).sum();
        let hard = Tensor::from_data(multi_hot(&words, vocabulary), &scores.device());
        let share = self.distil.as_ref().map(|distil| distil.ramp.share());
        let soft = self.expected(images(By::Teacher));
        let targets = match (&share, soft) {
            (Some(share), Some(soft)) => share.mix(contrast::take(soft, rows), hard),
            _ => hard,
        };
        let loss = binary_cross_entropy(scores, targets).mean();
        let device = context.device;
        let sum = Tensor::from_data(TensorData::new(vec![chosen as f32], [1]), device);
        let outcome = Outcome::new(loss).and_metric(KEY_WORDS, sum, count);
        match share.and_then(|share| share.rising()) {
            Some(alpha) => outcome.and_metric(ALPHA, alpha, 1),
            None => outcome,
        }
    }

    fn adopt(&mut self) {
        if let Some(distil) = &mut self.distil {
            distil.concepts = average::frozen_copy(&self.concepts);
        }
    }

    fn after_step(&mut self, after: &AfterStep) {
        if let (Some(mut distil), Some(decay)) = (self.distil.take(), after.decay) {
            distil.concepts = average::update(distil.concepts, &self.concepts, decay);
            distil.ramp.after_step();
            self.distil = Some(distil);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(specials: bool) -> PslConfig {
        PslConfig {
            weight: 1.0,
            width: 4,
            per_head: 2,
            words: 2,
            specials,
            distil: None,
        }
    }

    fn texts() -> Texts {
        Texts {
            ids: vec![0, 11, 12, 13, 2, 1],
            length: 6,
            lengths: vec![5],
            ..Texts::default()
        }
    }

    /// Three heads: for words alone they vote 12 and 13, 13 and 11, 13 and 12.
    const WEIGHTS: [f32; 18] = [
        0.5, 0.0, 0.3, 0.2, 0.0, 0.0, //
        0.1, 0.2, 0.1, 0.6, 0.0, 0.0, //
        0.1, 0.1, 0.2, 0.2, 0.4, 0.0,
    ];

    #[test]
    fn words_with_most_votes_are_chosen() {
        let found = key_words(&WEIGHTS, 3, (&texts(), &[0]), &config(false));
        assert_eq!(found, [[13, 12]]);
    }

    #[test]
    fn of_the_release_special_tokens_take_votes_and_the_begin_token_a_place() {
        // Votes for positions 0 and 2, 3 and 1, 4 and 2: two for position 2, then position 0.
        let found = key_words(&WEIGHTS, 3, (&texts(), &[0]), &config(true));
        assert_eq!(found, [[12]]);
    }

    #[test]
    fn there_are_never_more_than_asked_for_and_never_the_begin_token() {
        let mut state = 1u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32
        };
        for specials in [false, true] {
            for _ in 0..200 {
                let weights: Vec<f32> = (0..18).map(|_| draw()).collect();
                let found = key_words(&weights, 3, (&texts(), &[0]), &config(specials));
                assert!(found[0].len() <= 2 && !found[0].contains(&0), "{found:?}");
                assert!(specials || found[0].iter().all(|id| *id > 10), "{found:?}");
            }
        }
    }

    #[test]
    fn a_text_without_words_has_no_key_words() {
        let texts = Texts {
            ids: vec![0, 2, 1],
            length: 3,
            lengths: vec![2],
            ..Texts::default()
        };
        let found = key_words(&[0.3, 0.4, 0.3], 1, (&texts, &[0]), &config(false));
        assert_eq!(found, [Vec::<i32>::new()]);
    }
}
