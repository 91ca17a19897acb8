//! Masked region-to-token modelling: predict a word for each hidden region of an image from the other regions and the caption.
//!
//! Source: UC2 (Zhou et al. 2021), section 3.2. The label of a region is a token of the name that a detector gave it, in the caption's
//! language, drawn anew each time. The head is the one that predicts hidden words, so that regions and words of all languages meet in one
//! vocabulary. The soft form compares the share of each token of names with the detector's:
//!
//! ```text
//! L = mean over hidden regions of -log p(token)        or      KL(shares of tokens || p), p over the tokens of names alone
//! ```
//!
//! Shape legend: `B` samples, `R` regions, `D` width, `M` hidden regions, `W` tokens of names, `V` vocabulary.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, HiddenRegions, MaskSpec, RegionLabels, RegionMaskSpec, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use super::mlm::{Mlm, masks_regions};
use super::mrm::at_positions;
use crate::ObjectivesConfig;
use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{count_correct, ints, labelled};
use crate::lent::{Lenders, Lent};
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::pretraining::tlm::OwnDecoder;
use crate::request::{ImageForm, ImageKind, Request, Samples, TextForm};
use crate::{is_default, single_precision, weight};

/// `[objectives.mrtm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MrtmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How regions are hidden. 15% in UC2.
    pub mask: RegionMaskSpec,
    /// What a hidden region's label is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// The words among which its word is found.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vocabulary: Vocabulary,
    /// With `labels = "soft"`, what the divergence is a mean over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mean: Mean,
    /// Whether captions are read beside the regions. Without them it shows what a caption tells of a hidden region.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub captions: bool,
    /// A head of its own; absent: that of `[objectives.mlm]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnDecoder>,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// What a hidden region's label is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// A token of its name, drawn anew each time.
    #[default]
    Sampled,
    /// The share of each token of names in its names, by the detector's probabilities.
    Soft,
}

/// The words among which a hidden region's word is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// All tokens of the tokenizer.
    #[default]
    All,
    /// The tokens of names of regions.
    Names,
}

/// What a divergence is a mean over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mean {
    /// The hidden regions.
    #[default]
    Regions,
    /// The hidden regions and the tokens of names, times 1000: UC2's release.
    Elements,
}

/// The factor of UC2's release beside a mean over all elements.
const OF_ELEMENTS: f64 = 1000.0;

/// Logarithms are taken of no smaller share; a share of 0 adds nothing.
const LEAST_SHARE: f64 = 1e-30;

impl Settings for MrtmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked region-to-token modelling"
    }

    fn requests(&self) -> Vec<Request> {
        let image = Request::image(ImageForm::MaskedRegions(self.mask));
        let labels = Request::regions(RegionLabels {
            words: self.labels == Labels::Sampled,
            vocabulary: self.vocabulary == Vocabulary::Names,
            shares: self.labels == Labels::Soft,
            ..RegionLabels::default()
        });
        let text = self
            .captions
            .then(|| Request::text(TextForm::Plain))
            .into_iter();
        text.chain([image, labels]).collect()
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn reads_fused_images(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        self.mask.validate("mask")?;
        let soft = self.labels == Labels::Soft;
        ConfigError::unless(
            !soft || self.vocabulary == Vocabulary::Names,
            "vocabulary",
            "\"all\"",
            "must be \"names\" with labels = \"soft\": shares are of the tokens of names",
        )?;
        ConfigError::unless(
            soft || self.mean == Mean::Regions,
            "mean",
            "\"elements\"",
            "must be absent without labels = \"soft\", whose divergence it is of",
        )
    }

    fn validate_beside(&self, all: &ObjectivesConfig) -> Result<(), ConfigError> {
        OwnDecoder::or_lent(self.own.as_ref(), all)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            model.joint.is_some() || self.captions,
            "captions",
            self.captions,
            crate::NEEDS_ONE_STREAM,
        )?;
        masks_regions(model, "mask", Some(self.mask))
    }
}

impl ObjectiveConfig for MrtmConfig {
    type Objective = Mrtm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mrtm {
        let own = self.own.as_ref();
        let own = own.map(|own| own.init(MaskSpec::default(), init, model));
        Mrtm {
            own,
            lent: Lent::default(),
            config: self.clone(),
        }
    }
}

/// The head of masked region-to-token modelling.
#[derive(Module, Debug)]
pub struct Mrtm {
    /// Its own head, if it shares none.
    pub own: Option<Mlm>,
    /// The head that it shares with masked language modelling.
    #[module(skip)]
    lent: Lent<Mlm>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MrtmConfig,
}

/// The states of an image's regions, without what stands before them.
///
/// # Shapes
///
/// - image: `[B, Lv, D]`
/// - output: `[B, R, D]`
pub(crate) fn of_regions(image: &Tensor<3>, regions: usize) -> Tensor<3> {
    let [_, positions, _] = image.dims();
    image.clone().narrow(1, positions - regions, regions)
}

impl Mrtm {
    fn head(&self) -> &Mlm {
        self.lent.or(self.own.as_ref())
    }

    /// The loss of drawn tokens.
    ///
    /// # Shapes
    ///
    /// - states: `[B, R, D]`
    fn sampled(&self, context: &Context<'_>, states: Tensor<3>, hidden: &HiddenRegions) -> Outcome {
        let words = hidden.words.as_ref();
        let (positions, mut labels) =
            labelled(words.expect("invariant: the batch holds what was requested"));
        let table = &context.backbone.text.word_embedding;
        let names = (self.config.vocabulary == Vocabulary::Names).then(|| vocabulary(hidden));
        if let Some(names) = names {
            // Labels count among the tokens of names.
            for label in &mut labels {
                *label = names.partition_point(|token| token < label) as i32;
            }
        }
        Outcome::of_positions(states, (positions, labels), |states| {
            let logits = self.head().logits(table, states);
            match names {
                Some(names) => {
                    let names = ints(names.to_vec(), &logits.device());
                    logits.select(1, names)
                }
                None => logits,
            }
        })
    }

    /// The divergence of the shares of tokens.
    ///
    /// # Shapes
    ///
    /// - states: `[B, R, D]`
    fn soft(&self, context: &Context<'_>, states: Tensor<3>, hidden: &HiddenRegions) -> Outcome {
        let positions = hidden.positions();
        let (count, names) = (positions.len(), vocabulary(hidden));
        if count == 0 {
            return Outcome::nothing(context.device);
        }
        let device = states.device();
        let shares = hidden.shares.as_ref();
        let shares = shares.expect("invariant: the batch holds what was requested");
        let shares = TensorData::new(shares.clone(), [count, names.len()]);
        let shares = Tensor::<2>::from_data(shares, &device);
        let states = at_positions(&states, &ints(positions, &device));
        let table = &context.backbone.text.word_embedding;
        let logits = single_precision(self.head().logits(table, states));
        let logits = logits.select(1, ints(names.to_vec(), &device));
        assert_shape!(logits, [count, names.len()]);
        let likely = shares.clone().argmax(1).squeeze_dim::<1>(1);
        let correct = count_correct(logits.clone(), likely);
        let logarithms = shares.clone().clamp_min(LEAST_SHARE).log();
        let each = shares * (logarithms - log_softmax(logits, 1));
        let loss = match self.config.mean {
            Mean::Regions => each.sum_dim(1).mean(),
            Mean::Elements => each.mean() * OF_ELEMENTS,
        };
        Outcome::with_accuracy(loss, correct, count)
    }
}

fn vocabulary(hidden: &HiddenRegions) -> &[i32] {
    let names = hidden.vocabulary.as_ref();
    names.expect("invariant: the batch holds what was requested")
}

impl Objective for Mrtm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn borrow_heads(&mut self, lenders: &Lenders) {
        self.lent.renew(self.own.as_ref(), lenders.of());
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let all = Pairs::matched(encoded.samples);
        vec![Pairs {
            texts: if self.config.captions {
                all.texts
            } else {
                Vec::new()
            },
            image: ImageKind::MaskedRegions,
            ..all
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let regions = of_regions(fused.image(), context.regions().count);
        assert_shape!(regions, [context.encoded.samples, _, _]);
        let hidden = context.hidden_regions();
        match self.config.labels {
            Labels::Sampled => self.sampled(context, regions, hidden),
            Labels::Soft => self.soft(context, regions, hidden),
        }
    }
}
