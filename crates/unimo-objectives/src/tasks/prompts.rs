//! Classes by their names: a frozen CLIP learns classes of few images by tokens that both towers read (MMRL).
//!
//! ```text
//! s_c = scale cos(f_c, w),   s_r = scale cos(f_r, w)
//! loss = alpha CE(s_c) + (1 - alpha) CE(s_r) + lambda (1 - mean_B cos(f_c, f_c0)) + lambda (1 - mean_N cos(w, w0))
//! ```
//!
//! `f_c` is the class token of the image and `f_r` the mean of its representation tokens, each projected into the common space; `w` are the
//! texts of the classes. `f_c0` and `w0` are the same of CLIP as it is, without a gradient. The texts of all classes are read in each step.
//! Known classes are told by both features, `alpha s_c + (1 - alpha) s_r`. Of classes that were not learned the class token tells more: what
//! [`Scores::class`] says.
//!
//! Source: Guo and Gu 2025 (arXiv 2503.08497); `trainers/mmrl.py` of the release, whose scale is the number 100. The encoders and the
//! projections of CLIP must be frozen by the recipe (`train.freeze`); their weights come from a run with `[objectives.itc]` or from a public
//! CLIP.
//!
//! Shape legend: `B` images, `N` classes, `D` width of a tower, `E` width of the common space.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::kernels;
use unimo_core::layers::{Linear, normalise};
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::names::{Form, Rule, rule};
use unimo_encoders::representation::TextsBelow;
use unimo_encoders::text::TextInput;

use crate::context::Context;
use crate::labels::{count_correct, ints};
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, ImageForm, ImageKind, Request, Samples};
use crate::tasks::labels::Labelled;
use crate::{single_precision, weight};

/// `[objectives.prompts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Number of classes; absent: as many as there are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// The text of a class, with `{}` in place of its name, such as `a photo of a {}.`. In names `_` is read as a space.
    pub template: String,
    /// `E`: numbers of a feature in the common space, 512 in CLIP.
    pub width: usize,
    /// Share of the class token in the loss and in the scores of known classes; the representation tokens have the rest.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Factor of the distance from CLIP as it is; 0: none. MMRL has 0.2 to 7, by the data.
    #[serde(default = "lambda")]
    pub lambda: f64,
    /// Factor of the cosines: 100, where CLIP's training ended.
    #[serde(default = "scale")]
    pub scale: f64,
}

fn alpha() -> f64 {
    0.7
}

fn lambda() -> f64 {
    1.0
}

fn scale() -> f64 {
    100.0
}

/// The place of a class's name in a template.
const PLACE: &str = "{}";

impl PromptsConfig {
    /// The text of a class.
    pub fn text(&self, class: &str) -> String {
        self.template.replace(PLACE, &class.replace('_', " "))
    }
}

impl Settings for PromptsConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "classes by their names"
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::image(ImageForm::Represented)]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Class {
            classes: self.classes,
            names: &[],
        })
    }

    fn set_classes(&mut self, classes: usize) {
        self.classes = Some(classes);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("scale", self.scale)?;
        config::positive("width", self.width)?;
        if let Some(classes) = self.classes {
            config::positive("classes", classes)?;
        }
        ConfigError::unless(
            self.template.matches(PLACE).count() == 1,
            "template",
            format_args!("{:?}", self.template),
            "must have one {} where the class's name stands",
        )?;
        ConfigError::unless(
            (0.0..=1.0).contains(&self.alpha),
            "alpha",
            self.alpha,
            "must be at least 0 and at most 1",
        )?;
        ConfigError::unless(
            self.lambda >= 0.0 && self.lambda.is_finite(),
            "lambda",
            self.lambda,
            "must be at least 0",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(
            model.representation.is_some(),
            "needs tokens that learn, [model.representation]",
        )
    }
}

impl ObjectiveConfig for PromptsConfig {
    type Objective = Prompts;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Prompts {
        let image = model.image_width();
        let mut project = |width: usize| Linear::new(init, width, self.width, false);
        let text_projection = project(model.text.width);
        let image_projection = project(image);
        let mut token_projection = project(image);
        // N(0, 1 / D) as in the release, whatever the deviation of other weights.
        let factor = (image as f64).sqrt().recip() / model.initializer_range;
        token_projection.weight =
            parameters::update(token_projection.weight, |weight| weight.mul_scalar(factor));
        Prompts {
            text_projection,
            image_projection,
            token_projection,
            config: self.clone(),
            known: None,
        }
    }
}

/// The projections into the common space, named as those of `[objectives.itc]`, whose they are in a run of one's own.
pub const OWN_CONTRAST_NAMES: &[Rule] = &[
    rule("text_projection", "text_projection", Form::Same),
    rule("image_projection", "image_projection", Form::Same),
];

/// The heads of classes by their names.
#[derive(Module, Debug)]
pub struct Prompts {
    /// CLIP's projection of texts, `D -> E`.
    pub text_projection: Linear,
    /// CLIP's projection of the class token, `D -> E`.
    pub image_projection: Linear,
    /// Projection of the representation tokens, `D -> E`.
    pub token_projection: Linear,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: PromptsConfig,
    /// The texts of the classes, in the order of their labels, below the first layer that gets tokens.
    #[module(skip)]
    known: Option<Arc<TextsBelow>>,
}

/// Scores of images for classes, `[B, N]` each: cosines times the scale.
#[derive(Debug, Clone)]
pub struct Scores {
    /// By the class token.
    pub class: Tensor<2>,
    /// By the representation tokens.
    pub tokens: Tensor<2>,
    /// By CLIP as it is, without a gradient.
    pub frozen: Tensor<2>,
}

impl Scores {
    /// By both features, as known classes are told.
    pub fn fused(&self, alpha: f64) -> Tensor<2> {
        self.class.clone() * alpha + self.tokens.clone() * (1.0 - alpha)
    }
}

/// Texts of classes in the common space, `[N, E]` each, of length 1.
#[derive(Debug, Clone)]
pub struct ClassTexts {
    /// With the tokens read.
    pub own: Tensor<2>,
    /// By CLIP as it is, without a gradient.
    pub frozen: Tensor<2>,
}

/// Images in the common space, `[B, E]` each, of length 1.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The class token with the tokens read.
    pub class: Tensor<2>,
    /// The representation tokens.
    pub tokens: Tensor<2>,
    /// The class token of CLIP as it is, without a gradient.
    pub frozen: Tensor<2>,
}

/// The parts of the loss, `[1]` each, without factors.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Cross-entropy by the class token.
    pub class: Tensor<1>,
    /// Cross-entropy by the representation tokens.
    pub tokens: Tensor<1>,
    /// Mean distance of class tokens from CLIP's.
    pub image: Tensor<1>,
    /// Mean distance of texts from CLIP's.
    pub text: Tensor<1>,
}

impl Terms {
    /// The loss.
    pub fn sum(&self, config: &PromptsConfig) -> Tensor<1> {
        let told = self.class.clone() * config.alpha + self.tokens.clone() * (1.0 - config.alpha);
        told + (self.image.clone() + self.text.clone()) * config.lambda
    }
}

impl Prompts {
    /// Takes the texts of the classes, in the order of their labels. To be called when the encoders have their weights.
    ///
    /// # Shapes
    ///
    /// - texts: `[N, L]`
    pub fn know(&mut self, backbone: &Backbone, texts: &TextInput) {
        self.known = Some(Arc::new(backbone.texts_below(texts)));
    }

    /// Texts of classes in the common space.
    pub fn texts(&self, backbone: &Backbone, below: &TextsBelow) -> ClassTexts {
        let unit = |states: Tensor<2>| embed(&self.text_projection, states);
        ClassTexts {
            own: unit(backbone.represent_texts(below)),
            frozen: unit(backbone.texts_as_they_are(below)).detach(),
        }
    }

    /// Images in the common space.
    ///
    /// # Panics
    ///
    /// Panics if they were not read with representation tokens.
    pub fn images(&self, images: &ImageFeatures) -> Seen {
        let read = images.represented.as_ref();
        let read = read.expect("invariant: the step gives what was requested");
        Seen {
            class: embed(&self.image_projection, read.class.clone()),
            tokens: embed(&self.token_projection, read.tokens.clone()),
            frozen: embed(&self.image_projection, images.class.clone()).detach(),
        }
    }

    /// The scores of images for the classes of these texts.
    pub fn scores(&self, seen: &Seen, texts: &ClassTexts) -> Scores {
        let score = |images: &Tensor<2>, texts: &Tensor<2>| {
            images.clone().matmul(texts.clone().transpose()) * self.config.scale
        };
        Scores {
            class: score(&seen.class, &texts.own),
            tokens: score(&seen.tokens, &texts.own),
            frozen: score(&seen.frozen, &texts.frozen),
        }
    }

    /// The parts of the loss for images, of which `labels` says the rows and their classes.
    ///
    /// # Shapes
    ///
    /// - seen: `[B, E]`; texts: `[N, E]`
    pub fn terms(
        &self,
        (seen, texts): (&Seen, &ClassTexts),
        scores: &Scores,
        labelled: &Labelled<'_>,
    ) -> Terms {
        let device = scores.class.device();
        let labels = ints(labelled.classes(), &device);
        let told = |scores: &Tensor<2>| {
            let scores = labelled.select(scores.clone());
            kernels::smoothed_cross_entropy(scores, labels.clone(), 0.0).mean()
        };
        let apart = |own: &Tensor<2>, frozen: &Tensor<2>| {
            let cosines = (own.clone() * frozen.clone()).sum_dim(1);
            cosines.mean().neg().add_scalar(1.0)
        };
        Terms {
            class: told(&scores.class),
            tokens: told(&scores.tokens),
            image: apart(&seen.class, &seen.frozen),
            text: apart(&texts.own, &texts.frozen),
        }
    }

    fn of_batch(&self, context: &Context<'_>) -> (Seen, ClassTexts) {
        let images = context.encoded.images(By::Student, ImageKind::Plain);
        let images = images.expect("invariant: the step gives what was requested");
        let known = self.known.as_ref();
        let known =
            known.expect("invariant: a model that is trained or asked is given its classes");
        let texts = self.texts(context.backbone, known);
        (self.images(images), texts)
    }
}

/// # Shapes
///
/// - states: `[B, D]`
/// - output: `[B, E]`, rows of length 1
fn embed(projection: &Linear, states: Tensor<2>) -> Tensor<2> {
    let [width, _] = projection.weight.dims();
    assert_shape!(states, [_, width]);
    normalise(single_precision(projection.forward(states)))
}

impl Objective for Prompts {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let labelled = Labelled::of(context.batch);
        let count = labelled.rows.len();
        if count == 0 {
            return Outcome::nothing(context.device);
        }
        let (seen, texts) = self.of_batch(context);
        let scores = self.scores(&seen, &texts);
        let terms = self.terms((&seen, &texts), &scores, &labelled);
        let fused = labelled.select(scores.fused(self.config.alpha));
        let labels = ints(labelled.classes(), &fused.device());
        let correct = count_correct(fused, labels);
        let Terms {
            class,
            tokens,
            image,
            text,
        } = terms.clone();
        let mean = |mean: Tensor<1>, count: usize| mean.mul_scalar(count as f64);
        let ([images, _], [classes, _]) = (seen.class.dims(), texts.own.dims());
        Outcome::with_accuracy(terms.sum(&self.config), correct, count)
            .and_metric("class_loss", mean(class, count), count)
            .and_metric("tokens_loss", mean(tokens, count), count)
            .and_metric("image_distance", mean(image, images), images)
            .and_metric("text_distance", mean(text, classes), classes)
    }

    /// The scores of the classes that were learned, by both features.
    fn predict(&self, context: &Context<'_>, _fused: &[Fused]) -> Option<Tensor<2>> {
        let (seen, texts) = self.of_batch(context);
        Some(self.scores(&seen, &texts).fused(self.config.alpha))
    }
}
