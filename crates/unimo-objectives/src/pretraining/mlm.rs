//! Masked language modelling: predict the hidden words from the rest and the image.
//!
//! Source: BERT, section 3.1; METER's head: dense, GELU, layer norm, decoder with its own bias. UNIMO-2 ties the decoder to the
//! word embedding and also learns from texts without images. With a teacher (ALBEF, section 3.3) the words that it expects are soft
//! targets beside the hidden ones:
//!
//! ```text
//! L = (1 - alpha) CE(student, hidden word) + alpha CE(student, softmax(teacher))
//! ```
//!
//! With `left_to_right` the hidden words of some samples, drawn in each step, are predicted from the image and the words before them alone,
//! by the same head, and the loss is the mean over all hidden words (VLP, Zhou et al. 2020: the sequence-to-sequence objective; DiMBERT as read
//! here). Each sample goes through the cross-modal encoder once.
//!
//! The teacher's head follows the head as the teacher follows the encoders.
//!
//! Shape legend: `B` samples, `L` text length, `D` width, `M` masked positions, `V` vocabulary.

use burn::module::{Module, Param};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Tensor, assert_shape};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, MaskSpec, MaskUnit, PatchMaskSpec, RegionMaskSpec, config};
use unimo_core::average;
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Activation, Embedding, LayerNorm, Linear};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::output::Read;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::{count_correct, ints, labelled};
use crate::objective::{AfterStep, Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};
use crate::ramp::{self, ALPHA, Ramp};
use crate::request::{By, ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::tied::tied_logits;
use crate::weight;
use crate::{NEEDS_ONE_STREAM, is_default, single_precision};

/// `[objectives.mlm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlmConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// How words are hidden.
    #[serde(default)]
    pub mask: MaskSpec,
    /// Whether the decoder's matrix is the word embedding. The text encoder must then be as wide as the cross-modal encoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tied: bool,
    /// Whether it also learns from texts without images, which needs a single-stream cross-modal encoder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub texts_alone: bool,
    /// How patches of the image are hidden while words are predicted, as `objectives.mrm.patches` if there is one; absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<PatchMaskSpec>,
    /// How regions of the image are hidden while words are predicted, as `objectives.regions.mask` if there is one; absent: none is (UC2). M3P
    /// hides either words or regions of a sample, and predicts both in one pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionMaskSpec>,
    /// The teacher's soft targets; they need a `[teacher]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<DistilConfig>,
    /// Probability that the text of a sample is read from left to right: its hidden words are predicted from the image and the words before
    /// them. 0.75 in VLP; 0: all words are seen.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub left_to_right: f64,
}

/// `[objectives.mlm.distil]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistilConfig {
    /// Share of the teacher's soft targets, 0.4 in ALBEF.
    pub alpha: f64,
    /// Steps over which `alpha` rises from 0, those of the first epoch in ALBEF; 0: it has its value from the first step on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub alpha_ramp: usize,
    /// What the student's scores are compared over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub axis: Axis,
}

/// What the student's scores are compared over in distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// The words of the vocabulary.
    #[default]
    Vocabulary,
    /// The positions of the text, padding too: a slip of the releases of ALBEF and SIMLA, kept for parity with them. The head then runs
    /// on every position.
    Sequence,
}

/// Name of the share of hidden words that are right among those predicted from left to right.
const LEFT_TO_RIGHT: &str = "accuracy_left_to_right";

/// Checks the key `mask` of texts that are not joined with their translations.
pub(super) fn check_mask(mask: &MaskSpec) -> Result<(), ConfigError> {
    ConfigError::unless(
        !mask.unit.is_aligned(),
        "mask.unit",
        crate::written(&mask.unit),
        "must be \"token\", \"exact\", \"whole_word\", \"span\", \"skip_gram\" or \"runs\": only objectives.tlm with joined reads a translation whose \
         words are hidden too",
    )?;
    check_shares(mask)
}

/// Checks the key `mask` of any text.
pub(super) fn check_shares(mask: &MaskSpec) -> Result<(), ConfigError> {
    let MaskSpec {
        rate,
        mask_share,
        random_share,
        unit,
        most,
        end,
    } = *mask;
    config::open_share("mask.rate", rate)?;
    ConfigError::unless(
        !end || matches!(
            unit,
            MaskUnit::Token | MaskUnit::Exact | MaskUnit::WholeWord
        ),
        "mask.end",
        end,
        "needs unit = \"token\", \"exact\" or \"whole_word\": the other units are runs of words, or of aligned texts",
    )?;
    if let Some(most) = most {
        config::positive("mask.most", most)?;
        ConfigError::unless(
            !matches!(unit, MaskUnit::Span | MaskUnit::SkipGram) && !unit.is_aligned(),
            "mask.most",
            most,
            "must be absent with unit = \"span\" or \"skip_gram\", whose number of tokens is exact on average alone, and with aligned ones",
        )?;
    }
    ConfigError::unless(
        mask_share >= 0.0 && random_share >= 0.0 && mask_share + random_share <= 1.0,
        "mask.mask_share + mask.random_share",
        mask_share + random_share,
        "each must be at least 0 and their sum at most 1",
    )
}

impl Settings for MlmConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "masked language modelling"
    }

    fn requests(&self) -> Vec<Request> {
        let image = match (self.patches, self.regions) {
            (Some(patches), _) => ImageForm::MaskedPatches(patches),
            (None, Some(regions)) => ImageForm::MaskedRegions(regions),
            (None, None) => ImageForm::Plain,
        };
        let mut all = vec![Request::image(image).optional_if(self.texts_alone)];
        if self.left_to_right < 1.0 {
            all.insert(0, Request::text(TextForm::Masked(self.mask)));
        }
        if self.left_to_right > 0.0 {
            all.push(Request::text(TextForm::MaskedLeftToRight(self.mask)));
        }
        if self.distil.is_some() {
            all.push(Request::text(TextForm::Masked(self.mask)).by_teacher());
            all.push(Request::image(ImageForm::Plain).by_teacher());
        }
        all
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        check_mask(&self.mask)?;
        ConfigError::unless(
            !self.texts_alone || (self.distil.is_none() && self.patches.is_none()),
            "texts_alone",
            self.texts_alone,
            "must be false with distil or patches, which read the image of every sample",
        )?;
        ConfigError::unless(
            (0.0..=1.0).contains(&self.left_to_right),
            "left_to_right",
            self.left_to_right,
            "must be from 0 to 1",
        )?;
        ConfigError::unless(
            self.left_to_right == 0.0 || (self.distil.is_none() && !self.texts_alone),
            "left_to_right",
            self.left_to_right,
            "must be 0 with distil, whose teacher sees all words, and with texts_alone, which has no image to read first",
        )?;
        if let Some(patches) = self.patches {
            config::open_share("patches.rate", patches.rate)?;
        }
        if let Some(regions) = self.regions {
            regions.validate("regions")?;
            ConfigError::unless(
                self.patches.is_none() && self.distil.is_none(),
                "regions",
                crate::written(&regions),
                "must be absent with patches, which are of pixels, and with distil, whose teacher reads whole images",
            )?;
        }
        let Some(distil) = &self.distil else {
            return Ok(());
        };
        config::above_zero("distil.alpha", distil.alpha)?;
        ramp::validate("distil", distil.alpha, distil.alpha_ramp)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            model.fusion.is_none() || !self.texts_alone,
            "texts_alone",
            self.texts_alone,
            NEEDS_ONE_STREAM,
        )?;
        masks_patches(model, self.patches)?;
        masks_regions(model, "regions", self.regions)?;
        ConfigError::unless(
            model.text.width == model.cross_width() || !self.tied,
            "tied",
            self.tied,
            "needs a text encoder as wide as the cross-modal one",
        )
    }
}

impl ObjectiveConfig for MlmConfig {
    type Objective = Mlm;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Mlm {
        let width = model.cross_width();
        let words = model.text.vocab_size;
        let mut mlm = Mlm {
            dense: Linear::new(init, width, width, true),
            norm: LayerNorm::new(init, width, model.cross_layer_norm_eps()),
            decoder: (!self.tied).then(|| Linear::new(init, width, words, true)),
            bias: self.tied.then(|| init.constant([words], 0.0)),
            distil: None,
            config: self.clone(),
            every_position: false,
        };
        mlm.distil = self.distil.as_ref().map(|config| Distil {
            dense: average::frozen_copy(&mlm.dense),
            norm: average::frozen_copy(&mlm.norm),
            decoder: average::frozen_copy(&mlm.decoder),
            bias: average::frozen_copy(&mlm.bias),
            ramp: Ramp::new(init, config.alpha, config.alpha_ramp),
        });
        mlm
    }
}

/// Names of this head's parameters in METER and BridgeTower.
pub const PUBLIC_NAMES: &[Rule] = &[
    rule("dense", "mlm_score.transform.dense", Form::Linear),
    rule("norm", "mlm_score.transform.LayerNorm", Form::Same),
    rule("decoder.bias", "mlm_score.bias", Form::Tensor),
    rule("decoder", "mlm_score.decoder", Form::Linear),
];

/// Names of this head's parameters in ALBEF, whose decoder is the word embedding.
pub const ALBEF_NAMES: &[Rule] = &[
    rule(
        "dense",
        "text_encoder.cls.predictions.transform.dense",
        Form::Linear,
    ),
    rule(
        "norm",
        "text_encoder.cls.predictions.transform.LayerNorm",
        Form::Same,
    ),
    rule("bias", "text_encoder.cls.predictions.bias", Form::Tensor),
];

/// Names of this head's parameters in this project's PyTorch twin.
pub const TWIN_NAMES: &[Rule] = &[
    rule("dense", "mlm_score.transform.dense", Form::Linear),
    rule("norm", "mlm_score.transform.LayerNorm", Form::Same),
    rule("decoder", "mlm_score.decoder", Form::Linear),
];

/// The head of masked language modelling.
#[derive(Module, Debug)]
pub struct Mlm {
    /// `D -> D`.
    pub dense: Linear,
    /// Layer norm after the activation.
    pub norm: LayerNorm,
    /// `D -> V`; `None` if the word embedding is the decoder.
    pub decoder: Option<Linear>,
    /// `[V]`, if the word embedding is the decoder.
    pub bias: Option<Param<Tensor<1>>>,
    /// The teacher's copy of the head, and the share of its soft targets.
    pub distil: Option<Distil>,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MlmConfig,
    /// Whether the head runs on every position and then drops those that are not masked, as METER does. Only for comparing speed.
    pub every_position: bool,
}

/// The teacher's part of this head: it follows the head as the teacher follows the encoders, and tracks no gradient.
#[derive(Module, Debug)]
pub struct Distil {
    /// Copy of the dense layer.
    pub dense: Linear,
    /// Copy of the norm.
    pub norm: LayerNorm,
    /// Copy of the decoder.
    pub decoder: Option<Linear>,
    /// Copy of the decoder's bias.
    pub bias: Option<Param<Tensor<1>>>,
    /// The share of its soft targets.
    pub ramp: Ramp,
}

impl Distil {
    /// As [`Mlm::logits`], by the teacher; `words` is its text encoder's embedding.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, V]`
    pub fn logits(&self, words: &Embedding, states: Tensor<2>) -> Tensor<2> {
        let hidden = self.norm.forward(transformed(&self.dense, states));
        decoded((&self.decoder, &self.bias), words, hidden)
    }
}

/// The head's layer with its activation.
fn transformed(dense: &Linear, states: Tensor<2>) -> Tensor<2> {
    Activation::Gelu.forward(dense.forward(states))
}

fn decoded(
    (decoder, bias): (&Option<Linear>, &Option<Param<Tensor<1>>>),
    words: &Embedding,
    hidden: Tensor<2>,
) -> Tensor<2> {
    match (decoder, bias) {
        (Some(decoder), _) => decoder.forward(hidden),
        (None, bias) => tied_logits(hidden, words.weight.val(), bias.as_ref()),
    }
}

impl Mlm {
    /// Logits over the vocabulary; `words` is the text encoder's embedding.
    ///
    /// # Shapes
    ///
    /// - states: `[M, D]`
    /// - output: `[M, V]`
    pub fn logits(&self, words: &Embedding, states: Tensor<2>) -> Tensor<2> {
        let hidden = self.norm.forward(transformed(&self.dense, states));
        decoded((&self.decoder, &self.bias), words, hidden)
    }

    /// The loss with the teacher's soft targets.
    ///
    /// # Shapes
    ///
    /// - text: the student's fused states and the teacher's, `[B, L, D]` each
    /// - at: `M` positions of `[B, L]`, row-major, and their words
    fn distilled(
        &self,
        distil: &Distil,
        context: &Context<'_>,
        [student, teacher]: [Tensor<3>; 2],
        (positions, labels): (Vec<i32>, Vec<i32>),
    ) -> Outcome {
        let count = labels.len();
        if count == 0 {
            return Outcome::nothing(context.device);
        }
        let [samples, length, width] = student.dims();
        let device = student.device();
        let (positions, labels) = (ints(positions, &device), ints(labels, &device));
        let flat = |states: Tensor<3>| states.reshape([samples * length, width]);
        let whole = context
            .teacher
            .expect("invariant: validation finds a teacher");
        let expected = flat(teacher).select(0, positions.clone());
        let expected = distil.logits(&whole.backbone.text.word_embedding, expected);
        let expected = softmax(single_precision(expected), 1).detach();
        let words = &context.backbone.text.word_embedding;
        let (logits, logarithms) = match self.axis() {
            Axis::Vocabulary => {
                let states = flat(student).select(0, positions);
                let logits = single_precision(self.logits(words, states));
                (logits.clone(), log_softmax(logits, 1))
            }
            Axis::Sequence => {
                let logits = single_precision(self.logits(words, flat(student)));
                let [_, vocabulary] = logits.dims();
                let by_text = logits.clone().reshape([samples, length, vocabulary]);
                let over = log_softmax(by_text, 1).reshape([samples * length, vocabulary]);
                (
                    logits.select(0, positions.clone()),
                    over.select(0, positions),
                )
            }
        };
        assert_shape!(logits, [count, _]);
        let soft = (logarithms * expected).sum_dim(1).mean().neg();
        let correct = count_correct(logits.clone(), labels.clone());
        let hard = kernels::cross_entropy(logits, labels).mean();
        let share = distil.ramp.share();
        let outcome = Outcome::with_accuracy(share.mix(soft, hard), correct, count);
        match share.rising() {
            Some(alpha) => outcome.and_metric(ALPHA, alpha, 1),
            None => outcome,
        }
    }

    /// The loss of predicting hidden words.
    ///
    /// # Shapes
    ///
    /// - text: fused states, `[B, L, D]`
    /// - labels: `[B, L]`, row-major
    pub(super) fn hidden_words(
        &self,
        context: &Context<'_>,
        text: Tensor<3>,
        labels: &[i32],
    ) -> Outcome {
        let words = &context.backbone.text.word_embedding;
        let (positions, labels) = labelled(labels);
        if self.every_position && !labels.is_empty() {
            let [samples, length, width] = text.dims();
            let states = text.reshape([samples * length, width]);
            let positions = ints(positions, &states.device());
            let all = |states| self.logits(words, states).select(0, positions);
            return Outcome::of_labels(states, labels, all);
        }
        Outcome::of_positions(text, (positions, labels), |states| {
            self.logits(words, states)
        })
    }

    /// The loss where some texts are read in both directions and others from left to right.
    fn either_way(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let labels = &context.masked_texts().labels;
        let length = context.texts().length;
        let mut read = Vec::new();
        let mut positions = Vec::new();
        let mut words = Vec::new();
        // Hidden words that are predicted in both directions, and from left to right.
        let mut counts = [0; 2];
        for (pairs, output) in fused.iter().filter_map(Fused::some) {
            let text = output.text().clone();
            assert_shape!(text, [pairs.len(), length, _]);
            let first = (read.iter().map(|text: &Tensor<3>| text.dims()[0])).sum::<usize>();
            let own = pairs.texts.iter();
            let own: Vec<i32> = own
                .flat_map(|row| &labels[row * length..(row + 1) * length])
                .copied()
                .collect();
            let (at, hidden) = labelled(&own);
            counts[usize::from(pairs.text == TextKind::MaskedLeftToRight)] += hidden.len();
            positions.extend(at.into_iter().map(|at| at + (first * length) as i32));
            words.extend(hidden);
            read.push(text);
        }
        let [before, on] = counts;
        if words.is_empty() {
            return Outcome::nothing(context.device).and_metric(
                LEFT_TO_RIGHT,
                Tensor::zeros([1], context.device),
                0,
            );
        }
        let text = Tensor::cat(read, 0);
        let [rows, _, width] = text.dims();
        let device = text.device();
        let states = text
            .reshape([rows * length, width])
            .select(0, ints(positions, &device));
        let logits = single_precision(self.logits(&context.backbone.text.word_embedding, states));
        let words = ints(words, &device);
        let correct = count_correct(logits.clone(), words.clone());
        let correct_on = match on {
            0 => Tensor::zeros([1], &device),
            on => {
                let of_words = words.clone().narrow(0, before, on);
                count_correct(logits.clone().narrow(0, before, on), of_words).float()
            }
        };
        let loss = kernels::cross_entropy(logits, words).mean();
        Outcome::with_accuracy(loss, correct, before + on).and_metric(LEFT_TO_RIGHT, correct_on, on)
    }

    fn axis(&self) -> Axis {
        let distil = self.config.distil.as_ref();
        distil.map(|distil| distil.axis).unwrap_or_default()
    }
}

/// Checks that the image encoder can hide patches, if some are to be hidden.
///
/// # Errors
///
/// There is no encoder of pixels with an embedding for hidden patches.
pub(crate) fn masks_patches(
    model: &BackboneConfig,
    patches: Option<PatchMaskSpec>,
) -> Result<(), ConfigError> {
    let masks = model.image.as_ref().is_some_and(|i| i.mask_embedding);
    ConfigError::unless(
        masks || patches.is_none(),
        "patches",
        crate::written(&patches),
        "needs an encoder of pixels with model.image.mask_embedding = true",
    )
}

/// Checks that images are given as regions, if some are to be hidden.
///
/// # Errors
///
/// The model reads no regions.
pub(crate) fn masks_regions(
    model: &BackboneConfig,
    key: &str,
    regions: Option<RegionMaskSpec>,
) -> Result<(), ConfigError> {
    ConfigError::unless(
        model.regions.is_some() || regions.is_none(),
        key,
        crate::written(&regions),
        "needs images given as regions, [model.regions]",
    )
}

impl Objective for Mlm {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let image = match (self.config.patches, self.config.regions) {
            (Some(_), _) => ImageKind::MaskedPatches,
            (None, Some(_)) => ImageKind::MaskedRegions,
            (None, None) => ImageKind::Plain,
        };
        if self.config.left_to_right > 0.0 {
            let mut draw = |_: &usize| rng.random_bool(self.config.left_to_right);
            let rows = 0..encoded.samples;
            let (on, both): (Vec<usize>, Vec<usize>) = rows.partition(&mut draw);
            let of = |rows, text| Pairs {
                text,
                image,
                ..Pairs::of_rows(rows).reading(Read::Text)
            };
            return vec![
                of(both, TextKind::Masked),
                of(on, TextKind::MaskedLeftToRight),
            ];
        }
        let own = Pairs::present(encoded, (TextKind::Masked, image)).reading(Read::Text);
        let by_teacher = self.distil.is_some().then(|| Pairs {
            text: TextKind::Masked,
            by: By::Teacher,
            ..Pairs::matched(encoded.samples).reading(Read::Text)
        });
        std::iter::once(own).chain(by_teacher).collect()
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        if self.config.left_to_right > 0.0 {
            return self.either_way(context, fused);
        }
        let teacher = fused.get(1).and_then(Fused::some);
        let (_, fused) = Fused::only(fused);
        let text = fused.text();
        assert_shape!(text, [context.encoded.samples, _, _]);
        if let (Some(distil), Some((_, teacher))) = (&self.distil, teacher) {
            let states = [text.clone(), teacher.text().clone()];
            let labels = labelled(&context.masked_texts().labels);
            return self.distilled(distil, context, states, labels);
        }
        self.hidden_words(context, text.clone(), &context.masked_texts().labels)
    }

    fn adopt(&mut self) {
        if let Some(distil) = &mut self.distil {
            distil.dense = average::frozen_copy(&self.dense);
            distil.norm = average::frozen_copy(&self.norm);
            distil.decoder = average::frozen_copy(&self.decoder);
            distil.bias = average::frozen_copy(&self.bias);
        }
    }

    fn after_step(&mut self, after: &AfterStep) {
        if let (Some(mut distil), Some(decay)) = (self.distil.take(), after.decay) {
            distil.dense = average::update(distil.dense, &self.dense, decay);
            distil.norm = average::update(distil.norm, &self.norm, decay);
            distil.decoder = average::update(distil.decoder, &self.decoder, decay);
            distil.bias = average::update(distil.bias, &self.bias, decay);
            distil.ramp.after_step();
            self.distil = Some(distil);
        }
    }
}
