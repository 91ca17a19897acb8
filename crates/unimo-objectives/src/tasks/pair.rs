//! What tasks that classify pairs have in common: a [summary](super::summary) of each pair of a text and an image, and a
//! [head](super::head) over the summaries of a sample, side by side.
//!
//! Shape legend: `B` samples, `S` width of a summary, `I` images of a sample, `C` classes.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::output::Read;

use crate::encoded::Encoded;
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, ImageKind, Request, TextForm, TextKind};
use crate::tasks::head::{HeadConfig, TaskHead};
use crate::tasks::summary::{Pooling, Summary};

/// How the classifier of a task is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairTask<'a> {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// What the head reads of a pair.
    pub pooling: Pooling,
    /// The head.
    pub head: &'a HeadConfig,
    /// Images of a sample, 1 or 2.
    pub images: usize,
}

impl PairTask<'_> {
    /// The text, and each image.
    pub fn requests(self) -> Vec<Request> {
        let mut all = vec![
            Request::text(TextForm::Plain),
            Request::image(ImageForm::Plain),
        ];
        if self.images == 2 {
            all.push(Request::image(ImageForm::Second));
        }
        all
    }

    /// Checks every value.
    pub fn validate(self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        ConfigError::unless(
            (1..=2).contains(&self.images),
            "images",
            self.images,
            "must be 1 or 2, the images that a text is about",
        )?;
        self.head.validate().map_err(|e| e.within("head"))
    }

    /// Checks them against the encoders.
    pub fn validate_with(self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.pooling.validate_with(model)?;
        if self.images == 1 {
            return Ok(());
        }
        ConfigError::unless(
            model.reads_pixels(),
            "images",
            self.images,
            "must be 1 with [model.regions]: samples have regions of one image alone",
        )?;
        let rows = model.fusion.as_ref().map_or(self.images, |f| f.pictures);
        ConfigError::unless(
            rows >= self.images,
            "images",
            self.images,
            format_args!(
                "must be {rows}, or model.fusion.pictures must be 2: the type embedding needs a row for each image"
            ),
        )
    }

    /// A new classifier.
    pub fn init(self, init: &mut Init, model: &BackboneConfig, classes: usize) -> PairClassifier {
        let shape = (self.images * self.pooling.width(model), classes);
        PairClassifier {
            summary: self.pooling.init(init, model),
            head: self.head.init(init, shape, model.cross_width()),
        }
    }

    /// The text of every sample with each of its images.
    pub fn pairs(self, encoded: &Encoded) -> Vec<Pairs> {
        let mut all = vec![Pairs::present(encoded, (TextKind::Plain, ImageKind::Plain))];
        if self.images == 2 {
            all.push(Pairs {
                image: ImageKind::Second,
                ..Pairs::matched(encoded.samples)
            });
        }
        // Every pooling is of class tokens.
        let each = all.into_iter();
        each.map(|pairs| pairs.reading(Read::ClassTokens)).collect()
    }
}

/// The classifier of a task over pairs. See the [module](self).
#[derive(Module, Debug)]
pub struct PairClassifier {
    /// What the head reads of a pair.
    pub summary: Summary,
    /// The head.
    pub head: TaskHead,
}

impl PairClassifier {
    /// The summaries of the text with each image, the first image first.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs for each of `I` images
    /// - output: `[B, I S]`
    pub fn features(&self, backbone: &Backbone, fused: &[Fused]) -> Tensor<2> {
        let each = fused.iter().filter_map(Fused::some);
        let each = each.map(|(_, fused)| self.summary.forward(backbone, fused));
        Tensor::cat(each.collect(), 1)
    }

    /// The logit of every class.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs for each of `I` images
    /// - output: `[B, C]`
    pub fn logits(&self, backbone: &Backbone, fused: &[Fused]) -> Tensor<2> {
        let (pairs, _) = Fused::only(fused);
        let logits = self.head.forward(self.features(backbone, fused));
        assert_shape!(logits, [pairs.len(), _]);
        logits
    }
}
