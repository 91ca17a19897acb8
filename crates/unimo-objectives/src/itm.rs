//! Image-text matching: do a caption and an image belong together?
//!
//! Source: METER (uniform negatives, half of the batch), ALBEF and BridgeTower (hard negatives by contrastive
//! similarity, one positive to two negatives), MVP (one positive to one negative). Heads over the class tokens `t` and `v` of the
//! fused pair:
//!
//! | head | logits | of |
//! |---|---|---|
//! | `pair` | `W [tanh(Wt t), tanh(Wv v)]` | METER, BridgeTower |
//! | `product` | `W dropout(relu(Wt t) * relu(Wv v))` | UNIMO-2 |
//! | `text` | `W tanh(Wt t)` | MVP |
//!
//! Shape legend: `B` samples, `P` pairs, `D` width.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, assert_shape};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_core::config::{self, ConfigError};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Dropout, Linear};
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionOutput;
use unimo_encoders::names::{Form, Rule, rule};

use crate::objective::{Needs, Objective, Outcome, Pairs, UniModal};
use crate::objective::{count_correct, ints};
use crate::{is_default, single_precision};

/// Where the wrong partner of a pair comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// Any other sample of the batch.
    Uniform,
    /// The most similar other sample, by the contrastive objective.
    HardArgmax,
    /// One drawn by the softmax of those similarities.
    HardSampled,
}

/// How many pairs of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// METER: a random half of the captions keeps its image, the others get another one.
    Half,
    /// ALBEF: every true pair, every caption with a wrong image, every image with a wrong caption.
    OneToTwo,
    /// MVP: every true pair; a random half of the captions with a wrong image, the images of the others with a wrong caption.
    OneToOne,
}

impl Layout {
    /// Pairs for every sample of a batch.
    pub fn pairs_per_sample(self) -> f64 {
        match self {
            Self::Half => 1.0,
            Self::OneToTwo => 3.0,
            Self::OneToOne => 2.0,
        }
    }
}

/// What the classifier sees of a fused pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The summaries of both streams of a cross-modal encoder of two streams.
    #[default]
    Pair,
    /// The product of both class tokens.
    Product,
    /// The text's class token.
    Text,
}

/// `[objectives.itm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItmConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Where the wrong partner comes from.
    pub negatives: Negatives,
    /// How many pairs of each kind.
    pub layout: Layout,
    /// What the classifier sees.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: Head,
}

impl ItmConfig {
    /// Every value on its own.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)
    }

    /// A new head.
    pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Itm {
        let width = model.cross_width();
        let (text, image, classified) = match self.head {
            Head::Pair => (false, false, 2 * width),
            Head::Product => (true, true, width),
            Head::Text => (true, false, width),
        };
        Itm {
            text: text.then(|| Linear::new(init, width, width, true)),
            image: image.then(|| Linear::new(init, width, width, true)),
            classifier: Linear::new(init, classified, CLASSES, true),
            dropout: Dropout::new(match self.head {
                Head::Product => model.joint.as_ref().map_or(0.0, |joint| joint.dropout),
                Head::Pair | Head::Text => 0.0,
            }),
            config: self.clone(),
        }
    }
}

/// Class 0: they do not belong together; class 1: they do.
const CLASSES: usize = 2;
const MATCHED: usize = 1;

/// Names of this head in METER and BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[rule("classifier", "itm_score.fc", Form::Linear)];

/// The head of image-text matching.
#[derive(Module, Debug)]
pub struct Itm {
    /// `D -> D` of the text's class token.
    pub text: Option<Linear>,
    /// `D -> D` of the image's class token.
    pub image: Option<Linear>,
    /// `2 D -> 2`, or `D -> 2`.
    pub classifier: Linear,
    /// On the product.
    pub dropout: Dropout,
    /// What it was made from.
    #[module(skip)]
    pub config: ItmConfig,
}

impl Itm {
    /// Scores of "no" and "yes".
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    /// - output: `[P, 2]`
    ///
    /// # Panics
    ///
    /// Panics if the head is [`Head::Pair`] and the cross-modal encoder has one stream.
    pub fn logits(&self, backbone: &Backbone, fused: &FusionOutput) -> Tensor<2> {
        let class = |x: &Tensor<3>| x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
        let seen = match (&self.text, &self.image) {
            (Some(text), Some(image)) => {
                let text = relu(text.forward(class(fused.text())));
                let image = relu(image.forward(class(fused.image())));
                self.dropout.forward(text * image)
            }
            (Some(text), None) => text.forward(class(fused.text())).tanh(),
            (None, _) => {
                let fusion = backbone.fusion.as_ref();
                fusion
                    .expect("invariant: validation finds two streams for this head")
                    .pool(fused)
            }
        };
        self.classifier.forward(seen)
    }

    /// How much more "yes" than "no", the score that ranks pairs.
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    /// - output: `[P]`
    pub fn scores(&self, backbone: &Backbone, fused: &FusionOutput) -> Tensor<1> {
        let logits = single_precision(self.logits(backbone, fused));
        let of = |class| logits.clone().narrow(1, class, 1).squeeze_dim::<1>(1);
        of(MATCHED) - of(1 - MATCHED)
    }
}

/// A wrong picture for caption `i` of a batch.
pub(crate) fn wrong_image(
    negatives: Negatives,
    batch: &UniModal,
    i: usize,
    rng: &mut ChaCha8Rng,
) -> usize {
    let of = batch.similarity.as_ref().map(|s| move |j: usize| s[i][j]);
    let of = of.as_ref().map(|of| of as &dyn Fn(usize) -> f32);
    wrong_partner(negatives, i, batch.samples, of, rng)
}

/// A wrong caption for picture `i` of a batch.
fn wrong_text(negatives: Negatives, batch: &UniModal, i: usize, rng: &mut ChaCha8Rng) -> usize {
    let of = batch.similarity.as_ref().map(|s| move |j: usize| s[j][i]);
    let of = of.as_ref().map(|of| of as &dyn Fn(usize) -> f32);
    wrong_partner(negatives, i, batch.samples, of, rng)
}

/// A wrong partner for sample `i`, given the similarities of its candidates.
fn wrong_partner(
    negatives: Negatives,
    i: usize,
    samples: usize,
    similarity: Option<&dyn Fn(usize) -> f32>,
    rng: &mut ChaCha8Rng,
) -> usize {
    let others = || (0..samples).filter(move |&j| j != i);
    match (negatives, similarity) {
        (Negatives::HardArgmax, Some(of)) => others()
            .max_by(|&a, &b| of(a).total_cmp(&of(b)))
            .unwrap_or(i),
        (Negatives::HardSampled, Some(of)) => {
            let top = others().map(of).fold(f32::NEG_INFINITY, f32::max);
            // A little of everything, so that no sample is out of reach (ALBEF adds 1e-4).
            let share = |j: usize| f64::from((of(j) - top).exp()) + 1e-4;
            let total: f64 = others().map(share).sum();
            let mut left = rng.random::<f64>() * total;
            others()
                .find(|&j| {
                    left -= share(j);
                    left <= 0.0
                })
                .or_else(|| others().next_back())
                .unwrap_or(i)
        }
        _ => {
            let at = rng.random_range(0..samples - 1);
            at + usize::from(at >= i)
        }
    }
}

impl Objective for Itm {
    fn needs(&self) -> Needs {
        Needs {
            images: true,
            texts: true,
            masked: None,
            samples: 2,
            ..Needs::default()
        }
    }

    fn weight(&self) -> f64 {
        self.config.weight
    }

    fn pairs(&self, batch: &UniModal, rng: &mut ChaCha8Rng) -> Option<Pairs> {
        let n = batch.samples;
        let mut pairs = Pairs::default();
        let mut push = |text: usize, image: usize| {
            pairs.texts.push(text);
            pairs.images.push(image);
            pairs.matched.push(text == image);
        };
        let negatives = self.config.negatives;
        let wrong_image = |i: usize, rng: &mut ChaCha8Rng| wrong_image(negatives, batch, i, rng);
        let wrong_text = |i: usize, rng: &mut ChaCha8Rng| wrong_text(negatives, batch, i, rng);
        match self.config.layout {
            Layout::Half => {
                let mut keeps: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
                keeps.shuffle(rng);
                for (i, keeps) in keeps.into_iter().enumerate() {
                    let image = if keeps { i } else { wrong_image(i, rng) };
                    push(i, image);
                }
            }
            Layout::OneToOne => {
                (0..n).for_each(|i| push(i, i));
                let mut keeps_image: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
                keeps_image.shuffle(rng);
                for (i, keeps_image) in keeps_image.into_iter().enumerate() {
                    if keeps_image {
                        let text = wrong_text(i, rng);
                        push(text, i);
                    } else {
                        let image = wrong_image(i, rng);
                        push(i, image);
                    }
                }
            }
            Layout::OneToTwo => {
                (0..n).for_each(|i| push(i, i));
                for i in 0..n {
                    let image = wrong_image(i, rng);
                    push(i, image);
                }
                for i in 0..n {
                    let text = wrong_text(i, rng);
                    push(text, i);
                }
            }
        }
        Some(pairs)
    }

    fn loss(
        &self,
        backbone: &Backbone,
        _batch: &UniModal,
        fused: Option<(&Pairs, FusionOutput)>,
    ) -> Outcome {
        let (pairs, fused) = fused.expect("invariant: the step fuses the pairs asked for");
        let count = pairs.matched.len();
        let logits = single_precision(self.logits(backbone, &fused));
        assert_shape!(logits, [count, 2]);
        let labels = pairs.matched.iter().map(|&m| i32::from(m)).collect();
        let labels = ints(labels, &logits.device());
        let correct = count_correct(logits.clone(), labels.clone());
        Outcome {
            loss: kernels::cross_entropy(logits, labels).mean(),
            correct,
            count,
            carry: None,
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use rand::SeedableRng;

    use super::*;

    fn itm(negatives: Negatives, layout: Layout) -> Itm {
        Itm {
            text: None,
            image: None,
            dropout: Dropout::new(0.0),
            classifier: Linear::new(&mut Init::new(&Device::flex(), 0), 4, CLASSES, true),
            config: ItmConfig {
                weight: 1.0,
                negatives,
                layout,
                head: Head::Pair,
            },
        }
    }

    fn batch(samples: usize, similarity: Option<Vec<Vec<f32>>>) -> UniModal {
        UniModal {
            samples,
            similarity,
            ..UniModal::default()
        }
    }

    #[test]
    fn half_keeps_half_and_no_negative_is_a_true_pair() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n in 2..9 {
            let pairs = itm(Negatives::Uniform, Layout::Half)
                .pairs(&batch(n, None), &mut rng)
                .unwrap();
            assert_eq!(pairs.matched.iter().filter(|m| **m).count(), n / 2);
            for i in 0..n {
                assert_eq!(pairs.matched[i], pairs.texts[i] == pairs.images[i]);
            }
        }
    }

    #[test]
    fn the_hardest_negative_is_the_most_similar_other() {
        let similarity = vec![
            vec![9.0, 1.0, 2.0],
            vec![3.0, 9.0, 1.0],
            vec![1.0, 4.0, 9.0],
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let pairs = itm(Negatives::HardArgmax, Layout::OneToTwo)
            .pairs(&batch(3, Some(similarity)), &mut rng)
            .unwrap();
        assert_eq!(pairs.texts, [0, 1, 2, 0, 1, 2, 1, 2, 0]);
        assert_eq!(pairs.images, [0, 1, 2, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn one_to_one_has_as_many_of_each_kind() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n in 2..9 {
            let pairs = itm(Negatives::Uniform, Layout::OneToOne)
                .pairs(&batch(n, None), &mut rng)
                .unwrap();
            assert_eq!(pairs.len(), 2 * n);
            assert_eq!(pairs.matched.iter().filter(|m| **m).count(), n);
            for i in 0..2 * n {
                assert_eq!(pairs.matched[i], pairs.texts[i] == pairs.images[i]);
            }
            // Half of the wrong pairs keep the image of their row, the others the text.
            let images = (n..2 * n).filter(|&i| pairs.images[i] == i - n).count();
            assert_eq!(images, n / 2);
        }
    }

    #[test]
    fn sampling_follows_the_similarities() {
        /// 2,000 draws of a share of 0.88 lie within 0.05 of it in all but one of 10^9 runs.
        const TOLERANCE: f64 = 0.05;
        let similarity = vec![vec![0.0, 2.0, 0.0]; 3];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let of = |j: usize| similarity[0][j];
        let draws = 2000;
        let hits = (0..draws)
            .filter(|_| wrong_partner(Negatives::HardSampled, 0, 3, Some(&of), &mut rng) == 1)
            .count();
        let expected = 2f64.exp() / (2f64.exp() + 1.0);
        assert!((hits as f64 / f64::from(draws) - expected).abs() < TOLERANCE);
    }
}
