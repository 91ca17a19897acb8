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
//! | `class` | `W t` | ALBEF |
//! | `mlp` | `W GELU(LN(Wt t))`, twice as wide inside | CCLM |
//!
//! Shape legend: `B` samples, `P` pairs, `D` width.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, assert_shape};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Activation, Dropout, LayerNorm, Linear};
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::output::{FusionOutput, Read};

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{count_correct, ints};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
pub use crate::partners::Negatives;
use crate::partners::{Between, Choice, Partners};
use crate::request::{ImageForm, Request, Samples, TextForm};
use crate::weight;
use crate::{NEEDS_IMAGE_STATES, NEEDS_TWO_STREAMS, is_default, single_precision};

/// Which pairs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// METER: a random half of the captions keeps its image, the others get a wrong one.
    #[default]
    Half,
    /// ALBEF: every true pair, every caption with a wrong image, every image with a wrong caption.
    OneToTwo,
    /// MVP: every true pair; a random half of the captions with a wrong image; the other samples' images with a wrong caption.
    OneToOne,
}

impl Layout {
    /// Pairs per sample of a batch.
    pub fn pairs_per_sample(self) -> f64 {
        match self {
            Self::Half => 1.0,
            Self::OneToTwo => 3.0,
            Self::OneToOne => 2.0,
        }
    }
}

/// What the classifier reads of a fused pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The pooled text and the pooled image of a dual-stream cross-modal encoder.
    #[default]
    Pair,
    /// The product of both class tokens.
    Product,
    /// The text's class token after a layer.
    Text,
    /// The text's class token as it is.
    Class,
    /// The text's class token, through a layer of twice its width (CCLM).
    Mlp,
}

/// `[objectives.itm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Where wrong partners come from.
    #[serde(default)]
    pub negatives: Negatives,
    /// Which pairs are made.
    #[serde(default)]
    pub layout: Layout,
    /// What the classifier reads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: Head,
    /// With `negatives = "hard_sampled"`, what is added to the share that the softmax over all samples gives to each: 1e-5 in CCLM. Absent:
    /// ALBEF's 1e-4, with the most similar sample at 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
}

/// Checks the keys `negatives` and `epsilon`.
pub(super) fn check_choice(choice: Choice) -> Result<(), ConfigError> {
    let Some(epsilon) = choice.epsilon else {
        return Ok(());
    };
    ConfigError::unless(
        choice.negatives == Negatives::HardSampled,
        "epsilon",
        epsilon,
        "must be absent unless negatives = \"hard_sampled\"",
    )?;
    ConfigError::unless(
        epsilon >= 0.0 && epsilon.is_finite(),
        "epsilon",
        epsilon,
        "must be 0 or more",
    )
}

impl ItmConfig {
    fn choice(&self) -> Choice {
        Choice {
            negatives: self.negatives,
            epsilon: self.epsilon,
        }
    }
}

impl Settings for ItmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "image-text matching"
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

    fn asks_similarity(&self) -> Option<Between> {
        let hard = self.negatives.hard();
        hard.then_some(Between::TextsAndImages)
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        check_choice(self.choice())
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.head.validate_with(model)
    }
}

impl Head {
    fn validate_with(self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let two_streams = model.has_two_streams();
        let image_class = model.joint.as_ref().is_none_or(|joint| joint.image_class);
        let states = self != Head::Product || model.gives_image_states();
        ConfigError::unless(states, "head", "product", NEEDS_IMAGE_STATES)?;
        match self {
            Head::Pair => ConfigError::unless(two_streams, "head", "pair", NEEDS_TWO_STREAMS),
            Head::Product => ConfigError::unless(
                image_class,
                "head",
                "product",
                "needs model.joint.image_class = true",
            ),
            Head::Text | Head::Class | Head::Mlp => Ok(()),
        }
    }

    /// Whether it reads nothing but the text's class token, so that texts with other texts can be scored.
    pub fn reads_text_alone(self) -> bool {
        matches!(self, Self::Text | Self::Class | Self::Mlp)
    }
}

impl ObjectiveConfig for ItmConfig {
    type Objective = Itm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Itm {
        let width = model.cross_width();
        let (text, image, classified) = match self.head {
            Head::Pair => (false, false, 2 * width),
            Head::Product => (true, true, width),
            Head::Text => (true, false, width),
            Head::Class => (false, false, width),
            Head::Mlp => (true, false, 2 * width),
        };
        let inner = match self.head {
            Head::Mlp => 2 * width,
            Head::Pair | Head::Product | Head::Text | Head::Class => width,
        };
        let mlp = self.head == Head::Mlp;
        Itm {
            text: text.then(|| Linear::new(init, width, inner, true)),
            norm: mlp.then(|| LayerNorm::new(init, inner, MLP_EPS)),
            image: image.then(|| Linear::new(init, width, width, true)),
            classifier: Linear::new(init, classified, CLASSES, true),
            dropout: Dropout::new(match self.head {
                Head::Product => model.joint.as_ref().map_or(0.0, |joint| joint.dropout),
                Head::Pair | Head::Text | Head::Class | Head::Mlp => 0.0,
            }),
            config: self.clone(),
        }
    }
}

/// Number of classes. Class 0: the two do not belong together; class 1: they do.
const CLASSES: usize = 2;
const MATCHED: usize = 1;

/// Epsilon of the layer norm in [`Head::Mlp`]: PyTorch's default, which the release leaves as it is.
const MLP_EPS: f64 = 1e-5;

/// Names of this head's parameters in METER and BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[rule("classifier", "itm_score.fc", Form::Linear)];

/// Names of this head's parameters in ALBEF.
pub const ALBEF_NAMES: &[Rule] = &[rule("classifier", "itm_head", Form::Linear)];

/// The head of image-text matching.
#[derive(Module, Debug)]
pub struct Itm {
    /// `D -> D` for the text's class token, or `D -> 2 D`.
    pub text: Option<Linear>,
    /// Norm of the `2 D` numbers, with [`Head::Mlp`].
    pub norm: Option<LayerNorm>,
    /// `D -> D` for the image's class token.
    pub image: Option<Linear>,
    /// `2 D -> 2`, or `D -> 2`.
    pub classifier: Linear,
    /// Dropout on the product.
    pub dropout: Dropout,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: ItmConfig,
}

impl Itm {
    /// Logits of "no" and "yes".
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    /// - output: `[P, 2]`
    ///
    /// # Panics
    ///
    /// Panics if the head is [`Head::Pair`] and the cross-modal encoder is single-stream.
    pub fn logits(&self, backbone: &Backbone, fused: &FusionOutput) -> Tensor<2> {
        let class = |x: &Tensor<3>| x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
        let seen = match (&self.text, &self.image) {
            (Some(text), Some(image)) => {
                let text = relu(text.forward(class(fused.text())));
                let image = relu(image.forward(class(fused.image())));
                self.dropout.forward(text * image)
            }
            (Some(text), None) => {
                let seen = text.forward(class(fused.text()));
                match &self.norm {
                    Some(norm) => Activation::Gelu.forward(norm.forward(seen)),
                    None => seen.tanh(),
                }
            }
            (None, _) if self.config.head == Head::Class => class(fused.text()),
            (None, _) => {
                let fusion = backbone.fusion.as_ref();
                fusion
                    .expect("invariant: validation finds two streams for this head")
                    .pool(fused)
            }
        };
        self.classifier.forward(seen)
    }

    /// The logit of "yes" minus that of "no": the score that ranks pairs.
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

impl Objective for Itm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let choice = self.config.choice();
        let pairs = self.config.layout.pairs(&encoded.partners, choice, rng);
        vec![pairs.reading(Read::ClassTokens)]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let Some((pairs, fused)) = fused.first().and_then(Fused::some) else {
            // No sample had a wrong partner, and none was to keep its own.
            return Outcome::nothing(context.device);
        };
        let count = pairs.len();
        let logits = single_precision(self.logits(context.backbone, fused));
        assert_shape!(logits, [count, 2]);
        let labels = pairs.matched.iter().map(|&m| i32::from(m)).collect();
        let labels = ints(labels, &logits.device());
        let correct = count_correct(logits.clone(), labels.clone());
        let loss = kernels::cross_entropy(logits, labels).mean();
        Outcome::with_accuracy(loss, correct, count)
    }
}

impl Layout {
    /// Pairs of these samples, wrong ones by `choice`.
    pub(super) fn pairs(self, partners: &Partners, choice: Choice, rng: &mut ChaCha8Rng) -> Pairs {
        let n = partners.count();
        let mut pairs = Pairs::default();
        let matched = |pairs: &mut Pairs, i: usize| {
            let own = partners.own(i).sample;
            pairs.push(own, own, true);
        };
        let wrong_image = |pairs: &mut Pairs, i: usize, rng: &mut ChaCha8Rng| match partners
            .wrong_image(choice, i, rng)
        {
            Some(image) => pairs.push(partners.own(i).sample, image, false),
            None => pairs.without_negative += 1,
        };
        let wrong_text = |pairs: &mut Pairs, i: usize, rng: &mut ChaCha8Rng| match partners
            .wrong_text(choice, i, rng)
        {
            Some(text) => pairs.push(text, partners.own(i).sample, false),
            None => pairs.without_negative += 1,
        };
        match self {
            Layout::Half => {
                let mut keeps: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
                keeps.shuffle(rng);
                for (i, keeps) in keeps.into_iter().enumerate() {
                    if keeps {
                        matched(&mut pairs, i);
                    } else {
                        wrong_image(&mut pairs, i, rng);
                    }
                }
            }
            Layout::OneToOne => {
                (0..n).for_each(|i| matched(&mut pairs, i));
                let mut keeps_image: Vec<bool> = (0..n).map(|i| i < n / 2).collect();
                keeps_image.shuffle(rng);
                for (i, keeps_image) in keeps_image.into_iter().enumerate() {
                    if keeps_image {
                        wrong_text(&mut pairs, i, rng);
                    } else {
                        wrong_image(&mut pairs, i, rng);
                    }
                }
            }
            Layout::OneToTwo => {
                (0..n).for_each(|i| matched(&mut pairs, i));
                (0..n).for_each(|i| wrong_image(&mut pairs, i, rng));
                (0..n).for_each(|i| wrong_text(&mut pairs, i, rng));
            }
        }
        pairs
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use rand::SeedableRng;
    use unimo_batch::Batch;

    use super::*;
    use crate::partners::Similarity;

    fn itm(negatives: Negatives, layout: Layout) -> Itm {
        Itm {
            text: None,
            norm: None,
            image: None,
            dropout: Dropout::new(0.0),
            classifier: Linear::new(&mut Init::new(&Device::flex(), 0), 4, CLASSES, true),
            config: ItmConfig {
                weight: 1.0,
                negatives,
                layout,
                head: Head::Pair,
                epsilon: None,
            },
        }
    }

    fn batch(samples: usize, similarity: Option<Tensor<2>>) -> Encoded {
        let encoded = Encoded::new(&Batch {
            samples: vec![String::new(); samples],
            ..Batch::default()
        });
        let similarity = similarity.map(Similarity::fetch);
        encoded.with_partners(similarity)
    }

    #[test]
    fn half_keeps_half_and_no_negative_is_a_true_pair() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n in 2..9 {
            let pairs = itm(Negatives::Uniform, Layout::Half)
                .pairs(&batch(n, None), &mut rng)
                .remove(0);
            assert_eq!(pairs.matched.iter().filter(|m| **m).count(), n / 2);
            for i in 0..n {
                assert_eq!(pairs.matched[i], pairs.texts[i] == pairs.images[i]);
            }
        }
    }

    #[test]
    fn the_hardest_negative_is_the_most_similar_other() {
        let similarity = [[9.0, 1.0, 2.0], [3.0, 9.0, 1.0], [1.0, 4.0, 9.0]];
        let similarity = Tensor::from_data(similarity, &Device::flex());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let pairs = itm(Negatives::HardArgmax, Layout::OneToTwo)
            .pairs(&batch(3, Some(similarity)), &mut rng)
            .remove(0);
        assert_eq!(pairs.texts, [0, 1, 2, 0, 1, 2, 1, 2, 0]);
        assert_eq!(pairs.images, [0, 1, 2, 2, 0, 1, 0, 1, 2]);
    }

    #[test]
    fn one_to_one_has_as_many_of_each_kind() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n in 2..9 {
            let pairs = itm(Negatives::Uniform, Layout::OneToOne)
                .pairs(&batch(n, None), &mut rng)
                .remove(0);
            assert_eq!(pairs.len(), 2 * n);
            assert_eq!(pairs.matched.iter().filter(|m| **m).count(), n);
            for i in 0..2 * n {
                assert_eq!(pairs.matched[i], pairs.texts[i] == pairs.images[i]);
            }
            // Half of the wrong pairs keep the image of their row, the others keep the text.
            let images = (n..2 * n).filter(|&i| pairs.images[i] == i - n).count();
            assert_eq!(images, n / 2);
        }
    }

    /// Two pairs, each four times: every wrong pair is of the other image. If all samples show one image, there is no wrong pair.
    #[test]
    fn one_picture_with_several_captions_is_no_negative_of_itself() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for layout in [Layout::Half, Layout::OneToOne, Layout::OneToTwo] {
            let of = |pictures: u64| {
                let mut batch = batch(8, None);
                batch.pictures = (0..8).map(|i| Some(i % pictures)).collect();
                batch.with_partners(None)
            };
            let itm = itm(Negatives::Uniform, layout);
            let two = itm.pairs(&of(2), &mut rng).remove(0);
            assert_eq!(two.without_negative, 0);
            for i in 0..two.len() {
                let same = two.texts[i] % 2 == two.images[i] % 2;
                assert_eq!(same, two.matched[i], "{layout:?}");
            }
            let one = itm.pairs(&of(1), &mut rng).remove(0);
            assert!(one.matched.iter().all(|matched| *matched));
            let wanted = two.matched.iter().filter(|matched| !**matched).count();
            assert_eq!(one.without_negative, wanted, "{layout:?}");
        }
    }
}
