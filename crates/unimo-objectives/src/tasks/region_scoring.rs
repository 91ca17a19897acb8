//! Referring expressions by regions: which of an image's regions does a text mean (RefCOCO, RefCOCO+, RefCOCOg)?
//!
//! ```text
//! s(r) = cos(dropout(t), dropout(r))                  t: the text's first state, r: a region's state, after layer `layer`
//! loss = mean over all regions of (s(r) - IoU(r, right box))^2
//! ```
//!
//! The region with the highest score is the answer. Source: MVP's fine-tuning for RefCOCO+, which scores after layer 2 of the 6 of its
//! joint encoder. Padding is no region. No more can be found than the regions hold; `recall` says how many samples have a region that
//! counts.
//!
//! Shape legend: `B` samples, `N` of them with a known box, `R` regions, `D` width of the cross-modal encoder.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Regions, Target, config};
use unimo_core::init::Init;
use unimo_core::layers::Dropout;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::output::FusionOutput;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::{ACCURACY, Outcome};
use crate::pairs::{Fused, Pairs};
use crate::pretraining::wpg::cosines;
use crate::request::{ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::tasks::grounding::{RIGHT_AT, overlap};
use crate::tasks::valid_dropout;

/// `[objectives.region_scoring]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionScoringConfig {
    /// Factor of the loss in the sum.
    pub weight: f64,
    /// Dropout on the states that are compared.
    pub dropout: f64,
    /// The layer of a cross-modal encoder of one stream after which states are compared, counted from 1; absent: the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl Settings for RegionScoringConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "regions of expressions"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Plain),
            Request::image(ImageForm::Plain),
        ]
    }

    fn reads_fused_images(&self) -> bool {
        true
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn predicts(&self) -> Option<Predicts> {
        Some(Predicts::Box)
    }

    fn turn_dropout_off(&mut self) {
        self.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        valid_dropout(self.dropout)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::of_section(
            model.regions.is_some(),
            "needs images given as regions, [model.regions]: patches are no candidates, [objectives.grounding] predicts boxes of them",
        )?;
        let Some(layer) = self.layer else {
            return Ok(());
        };
        let layers = model.joint.as_ref().map_or(0, |joint| joint.layers);
        ConfigError::unless(
            layers > 0,
            "layer",
            layer,
            "must be absent without a cross-modal encoder of one stream, [model.joint]",
        )?;
        ConfigError::unless(
            (1..=layers).contains(&layer),
            "layer",
            layer,
            format_args!("must be 1 to {layers}, the layers of [model.joint]"),
        )
    }
}

impl ObjectiveConfig for RegionScoringConfig {
    type Objective = RegionScoring;

    fn init(&self, _init: &mut Init, _model: &BackboneConfig) -> RegionScoring {
        RegionScoring {
            dropout: Dropout::new(self.dropout),
            config: self.clone(),
        }
    }
}

/// The scores of regions, which have no weights of their own.
#[derive(Module, Debug)]
pub struct RegionScoring {
    /// Dropout on the states that are compared.
    pub dropout: Dropout,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: RegionScoringConfig,
}

/// A value below every cosine: padding is never the best region.
const ABSENT: f64 = -2.0;

/// Numbers of a box.
const NUMBERS: usize = 4;

impl RegionScoring {
    /// The cosine of the text with each region, padding included.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs, whose images end with `R` regions
    /// - output: `[B, R]`
    fn scores(&self, fused: &FusionOutput, regions: usize) -> Tensor<2> {
        let text = fused.text().clone().narrow(1, 0, 1);
        let image = fused.image().clone();
        let [rows, positions, width] = image.dims();
        assert_shape!(text, [rows, 1, width]);
        let image = image.narrow(1, positions - regions, regions);
        let [text, image] = [text, image].map(|states| self.dropout.forward(states));
        cosines(text, image).squeeze_dim(1)
    }
}

/// Which regions are padding, `[B, R]`.
fn padding(regions: &Regions, device: &Device) -> Tensor<2, Bool> {
    let (rows, count) = (regions.counts.len(), regions.count);
    let hidden = regions.counts.iter();
    let hidden: Vec<bool> = hidden
        .flat_map(|real| (0..count).map(move |at| at >= *real))
        .collect();
    Tensor::from_data(TensorData::new(hidden, [rows, count]), device)
}

/// The loss of scores with the boxes of a batch's samples that are known. The accuracy is the share whose best region has an IoU of at
/// least 0.5, the recall the share that has such a region.
///
/// # Shapes
///
/// - scores: `[B, R]`
pub fn loss(targets: &[Target], regions: &Regions, scores: Tensor<2>) -> Outcome {
    let (rows, count, device) = (regions.counts.len(), regions.count, scores.device());
    assert_shape!(scores, [rows, count]);
    let known = (0..).zip(targets).filter_map(|(row, target)| {
        if let Target::Box(right) = target {
            Some((row, *right))
        } else {
            None
        }
    });
    let (known, right): (Vec<i32>, Vec<[f32; NUMBERS]>) = known.unzip();
    let n = known.len();
    if n == 0 {
        return Outcome::nothing(&device);
    }
    let real: usize = known.iter().map(|row| regions.counts[*row as usize]).sum();
    let known = ints(known, &device);
    let boxes = TensorData::new(regions.boxes.clone(), [rows, count, NUMBERS]);
    let boxes = Tensor::<3>::from_data(boxes, &device).select(0, known.clone());
    let right = TensorData::new(right.concat(), [n, 1, NUMBERS]);
    let right = Tensor::<3>::from_data(right, &device).expand([n, count, NUMBERS]);
    let flat = |boxes: Tensor<3>| boxes.reshape([n * count, NUMBERS]);
    let iou = overlap(flat(boxes), flat(right)).iou.reshape([n, count]);
    let absent = padding(regions, &device).select(0, known.clone());
    let iou = iou.mask_fill(absent.clone(), 0.0);

    let scores = scores.select(0, known);
    let difference = scores.clone() - iou.clone();
    let squares = difference.clone() * difference;
    let loss = squares.mask_fill(absent.clone(), 0.0).sum();
    let loss = loss.div_scalar(real.max(1) as f64);

    let shown = scores.mask_fill(absent, ABSENT).without_autodiff();
    let iou = iou.without_autodiff();
    let chosen: Tensor<1> = iou.clone().gather(1, shown.argmax(1)).squeeze_dim(1);
    let best: Tensor<1> = iou.max_dim(1).squeeze_dim(1);
    let counts = |iou: &Tensor<1>| iou.clone().greater_equal_elem(RIGHT_AT).float().sum();
    Outcome::new(loss)
        .and_metric(ACCURACY, counts(&chosen), n)
        .and_metric("iou", chosen.sum(), n)
        .and_metric("recall", counts(&best), n)
}

/// The box of each sample's best region.
///
/// # Shapes
///
/// - scores: `[B, R]`
/// - output: `[B, 4]`
pub fn best(regions: &Regions, scores: Tensor<2>) -> Tensor<2> {
    let scores = scores.without_autodiff();
    let (rows, count, device) = (regions.counts.len(), regions.count, scores.device());
    assert_shape!(scores, [rows, count]);
    let scores = scores.mask_fill(padding(regions, &device), ABSENT);
    let boxes = TensorData::new(regions.boxes.clone(), [rows, count, NUMBERS]);
    let boxes = Tensor::<3>::from_data(boxes, &device);
    let at = scores.argmax(1).unsqueeze_dim::<3>(2);
    boxes
        .gather(1, at.expand([rows, 1, NUMBERS]))
        .squeeze_dim(1)
}

/// The regions of the batch: validation finds an encoder of regions, and the step a batch that has them.
fn regions<'a>(context: &Context<'a>) -> &'a Regions {
    let regions = context.batch.regions.as_ref();
    regions.expect("invariant: the batch holds what was requested")
}

impl Objective for RegionScoring {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        vec![Pairs {
            layers: self.config.layer,
            ..Pairs::present(encoded, (TextKind::Plain, ImageKind::Plain))
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, fused) = Fused::only(fused);
        let regions = regions(context);
        let scores = self.scores(fused, regions.count);
        loss(&context.batch.targets, regions, scores)
    }

    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        let (_, fused) = Fused::only(fused);
        let regions = regions(context);
        Some(best(regions, self.scores(fused, regions.count)))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
