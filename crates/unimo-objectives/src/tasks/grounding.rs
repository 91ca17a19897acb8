//! Referring expressions: the box in the image that a text refers to (RefCOCO, RefCOCO+, RefCOCOg).
//!
//! ```text
//! (cx, cy, w, h) = sigmoid(head(summary(text, image)))          shares of the image's width and height
//! loss = sum |(cx, cy, w, h) - right| + (1 - GIoU)              mean over the samples
//! ```
//!
//! Source: X-VLM's box head (`build_bbox_head`) and losses (`get_bbox_loss`); its summary is `pooling = "class"`. The generalised IoU is
//! Rezatofighi et al. 2019. The image must be shown as it is: crops and flips of training images would move the boxes.
//!
//! Shape legend: `B` samples, `N` of them with a known box.

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{Batch, ConfigError, Target};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::{ACCURACY, Outcome};
use crate::pairs::{Fused, Pairs};
use crate::request::{Request, Samples};
use crate::tasks::head::HeadConfig;
use crate::tasks::pair::{PairClassifier, PairTask};
use crate::tasks::summary::Pooling;
use crate::weight;
use crate::{is_default, single_precision};

/// Numbers of a box.
const NUMBERS: usize = 4;

/// The least IoU of a box that counts as right, as in the evaluation of RefCOCO.
pub(crate) const RIGHT_AT: f64 = 0.5;

/// `[objectives.grounding]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundingConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// What the head reads of a pair.
    pub pooling: Pooling,
    /// The head.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadConfig,
}

impl GroundingConfig {
    fn task(&self) -> PairTask<'_> {
        PairTask {
            weight: self.weight,
            pooling: self.pooling,
            head: &self.head,
            images: 1,
        }
    }
}

impl Settings for GroundingConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "boxes of expressions"
    }

    fn requests(&self) -> Vec<Request> {
        self.task().requests()
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
        self.head.dropout = 0.0;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.task().validate()
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        self.task().validate_with(model)
    }
}

impl ObjectiveConfig for GroundingConfig {
    type Objective = Grounding;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Grounding {
        Grounding {
            classifier: self.task().init(init, model, NUMBERS),
            config: self.clone(),
        }
    }
}

/// The head that gives boxes.
#[derive(Module, Debug)]
pub struct Grounding {
    /// From a pair to four numbers before the sigmoid.
    pub classifier: PairClassifier,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: GroundingConfig,
}

impl Grounding {
    /// Centre, width and height as shares.
    ///
    /// # Shapes
    ///
    /// - output: `[B, 4]`
    fn boxes(&self, context: &Context<'_>, fused: &[Fused]) -> Tensor<2> {
        let numbers = self.classifier.logits(context.backbone, fused);
        sigmoid(single_precision(numbers))
    }
}

impl Objective for Grounding {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        self.config.task().pairs(encoded)
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        loss(context.batch, self.boxes(context, fused))
    }

    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        // Nothing that is right lies outside of the image.
        Some(corners(self.boxes(context, fused)).clamp(0.0, 1.0))
    }
}

/// The loss of boxes with those of a batch's samples that are known. The accuracy is the share whose IoU is at least 0.5.
///
/// # Shapes
///
/// - boxes: `[B, 4]`, centre, width and height
pub fn loss(batch: &Batch, boxes: Tensor<2>) -> Outcome {
    let (rows, right) = known(batch);
    let (count, device) = (rows.len(), boxes.device());
    if count == 0 {
        return Outcome::nothing(&device);
    }
    let boxes = boxes.select(0, ints(rows, &device));
    let right = TensorData::new(right.concat(), [count, NUMBERS]);
    let right: Tensor<2> = Tensor::from_data(right, &device);
    let distance = (boxes.clone() - centres(right.clone())).abs();
    let distance: Tensor<1> = distance.sum_dim(1).squeeze_dim(1);
    let Overlap { iou, generalised } = overlap(corners(boxes), right);
    let loss = (distance - generalised).add_scalar(1.0).mean();
    let found = iou.clone().without_autodiff();
    let found = found.greater_equal_elem(RIGHT_AT).float().sum();
    Outcome::new(loss)
        .and_metric(ACCURACY, found, count)
        .and_metric("iou", iou.sum(), count)
}

/// The samples whose box is known, by their rows, and the corners of each.
pub(crate) fn known(batch: &Batch) -> (Vec<i32>, Vec<[f32; NUMBERS]>) {
    let known = (0..).zip(&batch.targets).filter_map(|(row, target)| {
        if let Target::Box(right) = target {
            Some((row, *right))
        } else {
            None
        }
    });
    known.unzip()
}

/// Centre, width and height to corners.
///
/// # Shapes
///
/// - boxes, output: `[N, 4]`
pub fn corners(boxes: Tensor<2>) -> Tensor<2> {
    let centre = boxes.clone().narrow(1, 0, 2);
    let half = boxes.narrow(1, 2, 2).div_scalar(2.0);
    Tensor::cat(vec![centre.clone() - half.clone(), centre + half], 1)
}

/// Corners to centre, width and height.
///
/// # Shapes
///
/// - corners, output: `[N, 4]`
pub fn centres(corners: Tensor<2>) -> Tensor<2> {
    let first = corners.clone().narrow(1, 0, 2);
    let last = corners.narrow(1, 2, 2);
    let centre = (first.clone() + last.clone()).div_scalar(2.0);
    Tensor::cat(vec![centre, last - first], 1)
}

/// How boxes overlap, row by row.
#[derive(Debug)]
pub struct Overlap {
    /// `[N]`: the area that both cover over the area that one covers.
    pub iou: Tensor<1>,
    /// `[N]`: the same less the share of the smallest box around both that neither covers.
    pub generalised: Tensor<1>,
}

/// The overlap of boxes with others, one of which has an area.
///
/// # Shapes
///
/// - a, b: `[N, 4]`, corners
pub fn overlap(a: Tensor<2>, b: Tensor<2>) -> Overlap {
    let [rows, _] = a.dims();
    assert_shape!(a, [rows, NUMBERS]);
    assert_shape!(b, [rows, NUMBERS]);
    let first = |x: &Tensor<2>| x.clone().narrow(1, 0, 2);
    let last = |x: &Tensor<2>| x.clone().narrow(1, 2, 2);
    let area = |sides: Tensor<2>| -> Tensor<1> {
        let [x, y] = [0, 1].map(|axis| sides.clone().narrow(1, axis, 1).squeeze_dim(1));
        x * y
    };
    let (a1, a2, b1, b2) = (first(&a), last(&a), first(&b), last(&b));
    let common = a2.clone().min_pair(b2.clone()) - a1.clone().max_pair(b1.clone());
    let common = area(common.clamp_min(0.0));
    let hull = area(a2.clone().max_pair(b2.clone()) - a1.clone().min_pair(b1.clone()));
    let union = area(a2 - a1) + area(b2 - b1) - common.clone();
    let iou = common / union.clone();
    Overlap {
        generalised: iou.clone() - (hull.clone() - union) / hull,
        iou,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
