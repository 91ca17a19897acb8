//! Ranking texts for an image, and images for a text: METER's fine-tuning for retrieval, M3P's matching.
//!
//! ```text
//! loss = cross-entropy of (s(v, t), s(v, t1), ..., s(v, tn)) with the true text t;   s = w [tanh(Wt t), tanh(Wv v)] + b
//! ```
//!
//! Source: METER (`compute_irtr`), with 15 wrong texts per image. It needs no labels. From METER it differs in where wrong texts
//! come from: METER draws them from all captions of the training set, right ones included. Here they are texts of the same batch
//! that belong to other images, drawn without repetition. A batch with fewer of them gives as many as it has; `negatives` among the
//! metrics says how many an image had. So a batch should hold more samples than `negatives`. METER also trains its matching head,
//! frozen, beside this one; here that is `[objectives.itm]`, if the recipe has it.
//!
//! M3P (Ni et al. 2021) also ranks images for a text, and scores every candidate by itself: a binary cross-entropy of each with whether it is
//! the true one, beside or in the place of that over all. Its wrong candidates come from all of the training set; here they are of the batch,
//! so that nothing is loaded for them. It takes a step for each direction; here both are in one, and the loss is their mean.
//!
//! UC2 (Zhou et al. 2021) fine-tunes with one wrong image and one wrong text, whose probabilities must be lower than the true one's by a margin:
//! `triplet`.
//!
//! The score starts as the matching head's logit of "yes" where a checkpoint has such a head and none for ranking.
//!
//! Shape legend: `N` images, `P` pairs, `K` texts of an image, `D` width of the cross-modal encoder.

use burn::module::Module;
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Bool, Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::output::{FusionOutput, Read};

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{count_correct, ints};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, Request, Samples, TextForm};
use crate::single_precision;
use crate::tasks::summary::{Pooling, Summary};
use crate::weight;

/// `[objectives.ranking]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankingConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Wrong texts per image (METER: 15).
    pub negatives: usize,
    /// What the score reads of a pair.
    pub pooling: Pooling,
    /// Whether images are ranked for a text too (M3P).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub images: bool,
    /// Factor of the cross-entropy over all candidates; 0: it is left out.
    #[serde(default = "weight", skip_serializing_if = "is_one")]
    pub cross_entropy: f64,
    /// Factor of the mean binary cross-entropy of each candidate; 0: it is left out. 1 in M3P, whose commands leave out the other.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub binary: f64,
    /// Factor of the mean over wrong candidates of `max(0, margin + sigmoid(wrong) - sigmoid(true))`; 0: it is left out. 1 in UC2's fine-tuning, with one
    /// wrong candidate of each kind and without the others.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub triplet: f64,
    /// How much higher the true candidate's probability must be before `triplet` leaves it alone; absent: 0.2, as in UC2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// UC2's margin.
const MARGIN: f64 = 0.2;

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Settings for RankingConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "ranking of texts"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Plain),
            Request::image(ImageForm::Plain),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::CAPTIONED
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::positive("negatives", self.negatives)?;
        for (key, value) in [
            ("cross_entropy", self.cross_entropy),
            ("binary", self.binary),
            ("triplet", self.triplet),
        ] {
            let allowed = value >= 0.0 && value.is_finite();
            ConfigError::unless(allowed, key, value, "must be a finite number of at least 0")?;
        }
        ConfigError::unless(
            self.cross_entropy > 0.0 || self.binary > 0.0 || self.triplet > 0.0,
            "cross_entropy",
            self.cross_entropy,
            "must be above 0 without binary and triplet, or there is no loss",
        )?;
        let Some(margin) = self.margin else {
            return Ok(());
        };
        ConfigError::unless(
            self.triplet > 0.0,
            "margin",
            margin,
            "must be absent without triplet, which alone has a margin",
        )?;
        // Probabilities differ by 1 at most.
        config::open_share("margin", margin)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.pooling.validate_with(model)
    }
}

impl ObjectiveConfig for RankingConfig {
    type Objective = Ranking;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Ranking {
        Ranking {
            summary: self.pooling.init(init, model),
            score: Linear::new(init, self.pooling.width(model), 1, true),
            config: self.clone(),
        }
    }
}

/// Names of this head's parameters in METER.
pub const METER_NAMES: &[Rule] = &[rule("score", "rank_output", Form::Linear)];

/// The same where a checkpoint of METER or BridgeTower has a matching head and none for ranking: the logit of "yes".
pub const MATCHING_NAMES: &[Rule] = &[rule("score", "itm_score.fc", Form::Row(1))];

/// The same in a run of one's own whose matching head reads pairs as this score does.
pub const OWN_MATCHING_NAMES: &[Rule] = &[
    rule("score", "classifier", Form::Column(1)),
    rule("summary.text", "text", Form::Same),
    rule("summary.image", "image", Form::Same),
];

/// The score that ranks texts.
#[derive(Module, Debug)]
pub struct Ranking {
    /// What the score reads of a pair.
    pub summary: Summary,
    /// To the score.
    pub score: Linear,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: RankingConfig,
}

impl Ranking {
    /// The score of each pair: the higher, the better they belong together.
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    /// - output: `[P]`
    pub fn scores(&self, backbone: &Backbone, fused: &FusionOutput) -> Tensor<1> {
        let scores = self.score.forward(self.summary.forward(backbone, fused));
        single_precision(scores).squeeze_dim::<1>(1)
    }
}

/// A score of a text that is not there: its share of the softmax is 0.
const NO_TEXT: f64 = -1e9;

impl Objective for Ranking {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    /// The pairs of an image stand together, the true one first; then those of each text.
    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let partners = &encoded.partners;
        let count = self.config.negatives;
        let mut texts = Pairs::default();
        for i in 0..partners.count() {
            let own = partners.own(i).sample;
            let wrong = partners.wrong_texts(count, i, rng);
            if wrong.is_empty() {
                texts.without_negative += 1;
                continue;
            }
            texts.push(own, own, true);
            for text in wrong {
                texts.push(text, own, false);
            }
        }
        let texts = texts.reading(Read::ClassTokens);
        if !self.config.images {
            return vec![texts];
        }
        let mut images = Pairs::default();
        for i in 0..partners.count() {
            let own = partners.own(i).sample;
            // What is no text of an image has no text of it either.
            let wrong = partners.wrong_texts(count, i, rng);
            if wrong.is_empty() {
                continue;
            }
            images.push(own, own, true);
            for image in wrong {
                images.push(own, image, false);
            }
        }
        vec![texts, images.reading(Read::ClassTokens)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let found = fused.iter().filter_map(Fused::some);
        let each: Vec<Outcome> = found
            .map(|(pairs, output)| self.ranked(context, pairs, output))
            .collect();
        let share = 1.0 / each.len().max(1) as f64;
        let both = each.into_iter().reduce(Outcome::and);
        // No sample had a text of another image.
        let Some(mut outcome) = both else {
            return Outcome::nothing(context.device);
        };
        if share < 1.0 {
            outcome.loss = outcome.loss * share;
        }
        outcome
    }
}

impl Ranking {
    /// The loss of one direction.
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    fn ranked(&self, context: &Context<'_>, pairs: &Pairs, fused: &FusionOutput) -> Outcome {
        let scores = self.scores(context.backbone, fused);
        assert_shape!(scores, [pairs.len()]);
        let firsts: Vec<usize> = (0..pairs.len()).filter(|at| pairs.matched[*at]).collect();
        let ends = firsts.iter().skip(1).copied().chain([pairs.len()]);
        let counts: Vec<usize> = firsts.iter().zip(ends).map(|(at, end)| end - at).collect();
        let (images, most) = (firsts.len(), counts.iter().copied().max().unwrap_or(1));
        let mut rows = Vec::with_capacity(images * most);
        let mut absent = Vec::with_capacity(images * most);
        for (first, count) in firsts.iter().zip(&counts) {
            for at in 0..most {
                absent.push(at >= *count);
                rows.push((first + at.min(count - 1)) as i32);
            }
        }
        let device = scores.device();
        let absent = Tensor::<2, Bool>::from_data(TensorData::new(absent, [images, most]), &device);
        let logits = scores
            .clone()
            .select(0, ints(rows, &device))
            .reshape([images, most]);
        let logits = logits.mask_fill(absent, NO_TEXT);
        let labels = ints(vec![0; images], &device);
        let correct = count_correct(logits.clone(), labels.clone());
        let over_all = (self.config.cross_entropy > 0.0).then(|| {
            let loss = kernels::cross_entropy(logits, labels).mean();
            scaled(loss, self.config.cross_entropy)
        });
        let of_each = (self.config.binary > 0.0).then(|| {
            let right: Vec<f32> = pairs
                .matched
                .iter()
                .map(|m| f32::from(u8::from(*m)))
                .collect();
            let right = Tensor::<1>::from_floats(right.as_slice(), &device);
            // -log sigmoid(s) of the true ones and -log sigmoid(-s) of the others, where exp does not overflow.
            let size = scores.clone().abs().neg();
            let each = relu(scores.clone()) - scores.clone() * right + size.exp().log1p();
            scaled(each.mean(), self.config.binary)
        });
        let against = (self.config.triplet > 0.0).then(|| {
            let (mut wrong, mut own) = (Vec::new(), Vec::new());
            for (first, count) in firsts.iter().zip(&counts) {
                for at in 1..*count {
                    wrong.push((first + at) as i32);
                    own.push(*first as i32);
                }
            }
            let scores = sigmoid(scores.clone());
            let [wrong, own] =
                [wrong, own].map(|rows| scores.clone().select(0, ints(rows, &device)));
            let margin = self.config.margin.unwrap_or(MARGIN);
            scaled(relu(wrong - own + margin).mean(), self.config.triplet)
        });
        let losses = [over_all, of_each, against].into_iter().flatten();
        let loss = losses.reduce(|sum, loss| sum + loss);
        let loss = loss.expect("invariant: validation finds a loss");
        let wrong = Tensor::<1>::from_floats([(pairs.len() - images) as f32], &device);
        Outcome::with_accuracy(loss, correct, images).and_metric("negatives", wrong, images)
    }
}

fn scaled(loss: Tensor<1>, factor: f64) -> Tensor<1> {
    if factor == 1.0 {
        return loss;
    }
    loss * factor
}
