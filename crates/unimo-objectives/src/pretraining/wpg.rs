//! Weakly supervised phrase grounding: a caption's phrases are nearer to a region of its own image than to any of another image.
//!
//! Source: MVP (Li et al. 2022), section 3.3. Over phrases `p` and regions (or patches) `r` of a pair, after the cross-modal encoder:
//!
//! ```text
//! c(p) = max_r cos(p, r)        s(T, I) = mean_p c(p)        L = mean_i max(0, margin + s(T_i, I_j) - s(T_i, I_i))
//! ```
//!
//! with `I_j` another image of the batch. The release takes one of the three nearest regions at random instead of the nearest.
//! Samples without phrases are left out of the mean.
//!
//! Shape legend: `B` pairs, `P` phrases, `R` regions, `D` width.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::normalise;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::partners::{Between, Negatives};
use crate::request::{ImageForm, Request, Samples, TextForm};
use crate::single_precision;
use crate::weight;

/// Which region stands for a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// The nearest (the paper).
    Nearest,
    /// One of the three nearest, at random (the release).
    OneOfThree,
}

/// `[objectives.wpg]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WpgConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// By how much its own image must be nearer; 0.2 in MVP.
    pub margin: f64,
    /// Which region stands for a phrase.
    pub region: Region,
    /// Where the other image comes from.
    pub negatives: Negatives,
}

impl Settings for WpgConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "phrase grounding"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::WithPhrases),
            Request::image(ImageForm::Plain),
        ]
    }

    fn reads_fused_images(&self) -> bool {
        true
    }

    fn samples(&self) -> Samples {
        Samples::CAPTIONED
    }

    fn asks_similarity(&self) -> Option<Between> {
        let hard = self.negatives.hard();
        hard.then_some(Between::TextsAndImages)
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        ConfigError::unless(
            (0.0..2.0).contains(&self.margin),
            "margin",
            self.margin,
            "must be in [0, 2): cosines differ by at most 2",
        )
    }
}

impl ObjectiveConfig for WpgConfig {
    type Objective = Wpg;

    fn init(&self, _init: &mut Init, model: &BackboneConfig) -> Wpg {
        let take_part = model.joint.as_ref().is_none_or(|j| j.image_class);
        Wpg {
            class_tokens: if take_part { model.class_tokens() } else { 0 },
            config: self.clone(),
        }
    }
}

/// Weakly supervised phrase grounding, which has no weights of its own.
#[derive(Module, Debug)]
pub struct Wpg {
    /// Number of leading image positions that are class tokens, not regions.
    pub class_tokens: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: WpgConfig,
}

/// A value below every cosine: a position that is not a region is never the nearest.
const ABSENT: f64 = -2.0;

/// Number of nearest regions that the release draws from.
const DRAWN_FROM: usize = 3;

/// Cosine of every phrase with every region.
///
/// # Shapes
///
/// - phrases: `[B, P, D]`; regions: `[B, R, D]`
/// - output: `[B, P, R]`
pub fn cosines(phrases: Tensor<3>, regions: Tensor<3>) -> Tensor<3> {
    let unit = |x: Tensor<3>| {
        let [rows, count, width] = x.dims();
        let flat = single_precision(x).reshape([rows * count, width]);
        normalise(flat).reshape([rows, count, width])
    };
    unit(phrases).matmul(unit(regions).transpose())
}

/// `s(T, I)` of each pair, 0 if it has no phrase. `ranks` says which of the nearest regions stands for a phrase, counted from 0;
/// with `None` it is the nearest.
///
/// # Shapes
///
/// - cosines: `[B, P, R]`
/// - absent: `[B, P]`, `true` where there is no phrase
/// - ranks: `[B, P]`
/// - output: `[B]`
pub fn grounding(
    cosines: Tensor<3>,
    absent: Tensor<2, Bool>,
    ranks: Option<Tensor<2, Int>>,
) -> Tensor<1> {
    let [rows, phrases, regions] = cosines.dims();
    assert_shape!(absent, [rows, phrases]);
    let chosen = match ranks {
        None => cosines.max_dim(2),
        Some(ranks) => {
            let nearest = cosines
                .clone()
                .without_autodiff()
                .argtopk(DRAWN_FROM.min(regions), 2);
            let at = nearest.gather(2, ranks.unsqueeze_dim::<3>(2));
            cosines.gather(2, at)
        }
    };
    let chosen = chosen
        .reshape([rows, phrases])
        .mask_fill(absent.clone(), 0.0);
    let count = absent.bool_not().float().sum_dim(1).clamp_min(1.0);
    (chosen.sum_dim(1) / count).reshape([rows])
}

/// Rank of the region that stands for each phrase: one of the three nearest, or fewer if there are fewer. `drawn` is uniform in
/// `[0, 1)`; `real` is the number of regions.
///
/// # Shapes
///
/// - drawn: `[B, P]`; real: `[B, 1]`
/// - output: `[B, P]`
fn ranks(drawn: Tensor<2>, real: Tensor<2>) -> Tensor<2, Int> {
    let count = real.clamp(1.0, DRAWN_FROM as f64).expand(drawn.dims());
    // Rounding may lift the product to its bound.
    let last = count.clone().sub_scalar(1.0);
    (drawn * count).floor().min_pair(last).int()
}

/// The loss of the pairs that have phrases, and how many of them prefer their own image.
///
/// # Shapes
///
/// - own, other: `[B]`; has_phrases: `B`
pub fn hinge(own: Tensor<1>, other: Tensor<1>, has_phrases: &[bool], margin: f64) -> Outcome {
    let device = own.device();
    let rows: Vec<i32> = (0..has_phrases.len() as i32)
        .filter(|row| has_phrases[*row as usize])
        .collect();
    let count = rows.len();
    if count == 0 {
        return Outcome::nothing(&device);
    }
    let rows = ints(rows, &device);
    let difference = (other - own).select(0, rows);
    let correct = difference.clone().without_autodiff().lower_scalar(0.0);
    Outcome::with_accuracy(
        relu(difference.add_scalar(margin)).mean(),
        correct.int().sum(),
        count,
    )
}

/// Where phrases are in padded texts: from `lengths` and the number of phrases of each row, `[B, P]` positions, row-major over `[B,
/// L]`, and which of them are absent.
///
/// # Shapes
///
/// - output: `B * P` positions, `[B, P]`
pub fn phrase_positions(
    lengths: &[usize],
    concepts: &[usize],
    length: usize,
    device: &Device,
) -> (Vec<i32>, Tensor<2, Bool>) {
    let most = concepts.iter().copied().max().unwrap_or(0);
    let mut positions = Vec::with_capacity(lengths.len() * most);
    let mut absent = Vec::with_capacity(lengths.len() * most);
    for (row, (real, count)) in lengths.iter().zip(concepts).enumerate() {
        // The phrases are right before the end token.
        let first = real.saturating_sub(1 + count);
        for phrase in 0..most {
            let at = if phrase < *count { first + phrase } else { 0 };
            positions.push((row * length + at) as i32);
            absent.push(phrase >= *count);
        }
    }
    let data = TensorData::new(absent, [lengths.len(), most]);
    (positions, Tensor::from_data(data, device))
}

impl Objective for Wpg {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    /// Every caption with its own image, then each with another one.
    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let partners = &encoded.partners;
        let empty = || Pairs::default().reading_images(true);
        let (mut own, mut other) = (empty(), empty());
        for i in 0..partners.count() {
            let sample = partners.own(i).sample;
            match partners.wrong_image(self.config.negatives, i, rng) {
                Some(image) => {
                    own.push(sample, sample, true);
                    other.push(sample, image, false);
                }
                None => own.without_negative += 1,
            }
        }
        own.texts.append(&mut other.texts);
        own.images.append(&mut other.images);
        own.matched.append(&mut other.matched);
        vec![own]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let Some((pairs, fused)) = fused.first().and_then(Fused::some) else {
            // No sample has another image to be paired with.
            return Outcome::nothing(context.device);
        };
        let texts = context.texts();
        let concepts = texts.concepts.as_ref();
        let concepts = concepts.expect("invariant: the batch holds what was requested");
        let n = pairs.len() / 2;
        let (text, image) = (fused.text(), fused.image());
        let [rows, length, width] = text.dims();
        assert_shape!(text, [2 * n, _, _]);
        let device = text.device();
        let of_pairs = |of_rows: &[usize]| -> Vec<usize> {
            pairs.texts[..n].iter().map(|row| of_rows[*row]).collect()
        };
        let concepts = of_pairs(concepts);
        let has_phrases: Vec<bool> = concepts.iter().map(|count| *count > 0).collect();
        let most = concepts.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return Outcome::nothing(&device);
        }
        let (positions, absent) = phrase_positions(
            &of_pairs(&texts.lengths).repeat(2),
            &concepts.repeat(2),
            length,
            &device,
        );
        let phrases = text
            .clone()
            .reshape([rows * length, width])
            .select(0, ints(positions, &device))
            .reshape([rows, most, width]);
        let first = self.class_tokens;
        let regions = image.dims()[1] - first;
        let mut cosines = cosines(phrases, image.clone().narrow(1, first, regions));
        let padding = context.encoded.image_padding(&pairs.images);
        // Number of regions of each pair's image.
        let mut real = None;
        if let Some((padding, of_pairs)) = padding {
            // The first position is the class token.
            let hidden = padding.select(ints(of_pairs, &device)).narrow(1, regions);
            let hidden = hidden.hidden();
            real = Some(hidden.clone().bool_not().int().sum_dim(1));
            let hidden = hidden.unsqueeze_dim::<3>(1).expand([rows, most, regions]);
            cosines = cosines.mask_fill(hidden, ABSENT);
        }
        let ranks = match self.config.region {
            Region::Nearest => None,
            Region::OneOfThree => {
                let plain = device.clone().without_autodiff();
                let real = match real {
                    Some(real) => real.float().without_autodiff(),
                    None => Tensor::full([rows, 1], regions as f64, &plain),
                };
                // Drawn on the device, whose generator is seeded at every step, as for dropout.
                let uniform = Distribution::Uniform(0.0, 1.0);
                Some(ranks(Tensor::random([rows, most], uniform, &plain), real))
            }
        };
        let s = grounding(cosines, absent, ranks);
        let (own, other) = (s.clone().narrow(0, 0, n), s.narrow(0, n, n));
        hinge(own, other, &has_phrases, self.config.margin)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_regions_that_there_are_is_drawn_as_often() {
        const DRAWS: usize = 600;
        let device = Device::flex();
        let drawn: Vec<f32> = (0..4 * DRAWS)
            .map(|i| (i % DRAWS) as f32 / DRAWS as f32)
            .collect();
        let drawn = Tensor::from_data(TensorData::new(drawn, [4, DRAWS]), &device);
        let real = Tensor::from_data([[1.0], [2.0], [3.0], [9.0]], &device);
        let ranks: Vec<i64> = ranks(drawn, real).into_data().iter::<i64>().collect();
        for (row, count) in ranks.chunks(DRAWS).zip([1, 2, 3, 3]) {
            for rank in 0..3 {
                let found = row.iter().filter(|r| **r == rank).count();
                let expected = if rank < count {
                    DRAWS / count as usize
                } else {
                    0
                };
                assert!(found.abs_diff(expected) <= 1, "{rank} of {count}: {found}");
            }
        }
    }

    #[test]
    fn phrases_stand_before_the_end_token() {
        // [begin, word, phrase, phrase, end], [begin, word, end, padding, padding], [begin, word, word, phrase, end]
        let device = Device::flex();
        let (positions, absent) = phrase_positions(&[5, 3, 5], &[2, 0, 1], 5, &device);
        let absent: Vec<bool> = absent.into_data().iter::<bool>().collect();
        assert_eq!(absent, [false, false, true, true, false, true]);
        let of = |at: usize| positions[at];
        assert_eq!((of(0), of(1), of(4)), (2, 3, 13));
        assert!(positions.iter().all(|at| (0..15).contains(at)));
    }
}
