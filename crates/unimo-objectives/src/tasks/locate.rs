//! Supervised attention: what a text attends to in the image is pulled to where the text's box lies.
//!
//! ```text
//! D_p = distance of the centre of patch p to the box, 0 inside
//! t   = softmax_p( (D_max - D_p) / (D_max - D_min) / temperature )
//! a   = attention of the text to patches, the mean over heads, without class tokens, rescaled to sum 1
//! loss = sum_p t_p (log t_p - log a_p)        mean over the samples with a known box
//! ```
//!
//! Source: the weakly supervised localisation of WS-MGMap (Chen et al. 2022, `aux_prediction` of its release), where the places are cells of
//! a map and D the distance to the path. Boxes of captions and expressions are this project's use of it. `mean` and `range = "batch"` are
//! two ways of the release: its divergence is a mean over places, and D_max and D_min are those of the whole batch.
//!
//! Shape legend: `N` samples with a known box, `P` patches, `L` text length.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData, assert_shape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::{Batch, ConfigError, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::output::FusionOutput;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::labels::ints;
use crate::objective::{Objective, ObjectiveConfig, Predicts, Settings};
use crate::outcome::{ACCURACY, Outcome};
use crate::pairs::{Fused, Pairs};
use crate::request::{ImageForm, ImageKind, Request, Samples, TextForm, TextKind};
use crate::tasks::grounding;
use crate::{is_default, single_precision, weight};

/// Name of the mean share of the attention that lies in the box.
pub const INSIDE: &str = "inside";

/// The least weight whose logarithm is taken: f32 below it is not exact, and an attention in half precision has zeros.
const LEAST: f64 = 1e-8;

/// `[objectives.locate]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocateConfig {
    /// Factor of the loss in the sum.
    #[serde(default = "weight")]
    pub weight: f64,
    /// The layer of the cross-modal encoder whose attention learns, counted from 0; absent: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Which positions of the text attend.
    #[serde(default, skip_serializing_if = "is_default")]
    pub query: Query,
    /// How far around the box the target reaches; 0.07 in WS-MGMap.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Whose distances give the largest and the smallest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub range: Range,
    /// Whether the divergence is divided by the number of patches, as in WS-MGMap's release.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mean: bool,
    /// Share of the largest attention from which on a patch belongs to the predicted box: then this objective is the recipe's task. Absent:
    /// it learns from the boxes of another task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_at: Option<f64>,
}

fn temperature() -> f64 {
    0.07
}

/// `objectives.locate.query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The first position, the text's class token.
    #[default]
    First,
    /// The mean over all words, without the first and the last token.
    Words,
}

/// Whose distances give the largest and the smallest: `objectives.locate.range`, `objectives.path.range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// Each sample's own; of walks each decision's.
    #[default]
    Sample,
    /// Those of all samples of the batch.
    Batch,
}

impl Settings for LocateConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "attention to boxes"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Plain),
            Request::image(ImageForm::Plain),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::LABELLED
    }

    fn reads_fused(&self) -> bool {
        true
    }

    fn predicts(&self) -> Option<Predicts> {
        self.box_at.map(|_| Predicts::Box)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)?;
        config::above_zero("temperature", self.temperature)?;
        let Some(share) = self.box_at else {
            return Ok(());
        };
        ConfigError::unless(
            share > 0.0 && share <= 1.0,
            "box_at",
            share,
            "must be above 0 and at most 1",
        )
    }

    fn validate_beside(&self, all: &crate::ObjectivesConfig) -> Result<(), ConfigError> {
        let others = all.each().into_iter();
        let mut boxes = others.filter(|(_, other)| other.predicts() == Some(Predicts::Box));
        ConfigError::of_section(
            boxes.next().is_some(),
            "needs the boxes of a task, such as [objectives.grounding], or box_at = 0.5 to be the task itself",
        )
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let fusion = model.fusion.as_ref();
        ConfigError::of_section(
            fusion.is_some() && model.regions.is_none(),
            "needs the attention of texts to patches, which [model.fusion] with [model.image] gives",
        )?;
        let layers = depth(model);
        let Some(layer) = self.layer else {
            return Ok(());
        };
        ConfigError::unless(
            layer < layers,
            "layer",
            layer,
            format_args!("must be below {layers}, the layers of the cross-modal encoder"),
        )
    }
}

impl ObjectiveConfig for LocateConfig {
    type Objective = Locate;

    fn init(&self, _init: &mut Init, model: &BackboneConfig) -> Locate {
        Locate {
            layer: self.layer.unwrap_or(depth(model).saturating_sub(1)),
            class_tokens: model.class_tokens(),
            config: self.clone(),
        }
    }
}

/// Layers of the cross-modal encoder, which may be the text encoder's own.
fn depth(model: &BackboneConfig) -> usize {
    if model.shares_layers() {
        model.text.layers
    } else {
        model.fusion.as_ref().map_or(0, |fusion| fusion.layers)
    }
}

/// Supervised attention; it has no weights of its own.
#[derive(Module, Debug)]
pub struct Locate {
    /// The layer of the cross-modal encoder.
    #[module(skip)]
    layer: usize,
    /// Positions of an image before its patches.
    #[module(skip)]
    class_tokens: usize,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: LocateConfig,
}

impl Locate {
    /// What texts attend to among the patches.
    ///
    /// # Shapes
    ///
    /// - output: `[B, P]`, rows sum to 1
    fn attention(&self, batch: &Batch, output: &FusionOutput) -> Tensor<2> {
        // Where all attention is kept, it is among it.
        let of_layer = || output.attention.get(self.layer)?.text.mean();
        let kept = output.text_attention.clone().or_else(of_layer);
        let kept = kept.expect("invariant: the step keeps what pairs ask for");
        let kept = single_precision(kept);
        let [rows, length, positions] = kept.dims();
        let attending = match (self.config.query, &batch.texts) {
            (Query::Words, Some(texts)) => {
                let words = words(&texts.lengths, length);
                let shares = TensorData::new(words, [rows, 1, length]);
                let shares: Tensor<3> = Tensor::from_data(shares, &kept.device());
                shares.matmul(kept)
            }
            _ => kept.narrow(1, 0, 1),
        };
        let of_patches = attending.squeeze_dim::<2>(1);
        let patches = positions - self.class_tokens;
        let of_patches = of_patches.narrow(1, self.class_tokens, patches);
        let sum = of_patches.clone().sum_dim(1).clamp_min(LEAST);
        of_patches / sum
    }
}

impl Objective for Locate {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn pairs(&self, encoded: &Encoded, _rng: &mut ChaCha8Rng) -> Vec<Pairs> {
        let kinds = (TextKind::Plain, ImageKind::Plain);
        vec![Pairs {
            text_attention: Some(self.layer),
            ..Pairs::present(encoded, kinds)
        }]
    }

    fn loss(&self, context: &Context<'_>, fused: &[Fused]) -> Outcome {
        let (_, output) = Fused::only(fused);
        let attention = self.attention(context.batch, output);
        loss(&self.config, context.batch, attention)
    }

    /// Corners of the box around the patches that are attended to most.
    fn predict(&self, context: &Context<'_>, fused: &[Fused]) -> Option<Tensor<2>> {
        let share = self.config.box_at?;
        let (_, output) = Fused::only(fused);
        let attention = self.attention(context.batch, output);
        let [rows, patches] = attention.dims();
        let device = attention.device();
        let values: Vec<f32> = attention.into_data().iter::<f32>().collect();
        let boxes = values.chunks(patches).flat_map(|row| around(row, share));
        let boxes = TensorData::new(boxes.collect(), [rows, 4]);
        Some(Tensor::from_data(boxes, &device))
    }
}

/// The share of each position in the mean over a text's words, row-major. A text without words is read at its first position.
fn words(lengths: &[usize], length: usize) -> Vec<f32> {
    let of_text = |words: &usize| {
        let inner = 1..words.saturating_sub(1).max(1);
        let inner = if inner.is_empty() { 0..1 } else { inner };
        let share = 1.0 / inner.len() as f32;
        (0..length).map(move |at| if inner.contains(&at) { share } else { 0.0 })
    };
    lengths.iter().flat_map(of_text).collect()
}

/// Corners of a patch of a square image, in shares of it: left, top, right, bottom.
fn corners(patch: usize, side: usize) -> [f32; 4] {
    let (row, column) = (patch / side, patch % side);
    [column, row, column + 1, row + 1].map(|at| at as f32 / side as f32)
}

/// The box around the patches with at least this share of the largest weight.
fn around(weights: &[f32], share: f64) -> [f32; 4] {
    let side = weights.len().isqrt();
    let most = weights.iter().copied().fold(0.0, f32::max);
    let from = f64::from(most) * share;
    let chosen = (0..weights.len()).filter(|patch| f64::from(weights[*patch]) >= from);
    let all = chosen.map(|patch| corners(patch, side));
    all.reduce(|a, b| {
        [
            a[0].min(b[0]),
            a[1].min(b[1]),
            a[2].max(b[2]),
            a[3].max(b[3]),
        ]
    })
    .unwrap_or([0.0, 0.0, 1.0, 1.0])
}

/// Distance of each patch's centre to a box, in shares of the image's side; 0 inside.
fn distances(of: [f32; 4], patches: usize) -> Vec<f32> {
    let side = patches.isqrt();
    let [left, top, right, bottom] = of;
    let beyond = |at: f32, from: f32, to: f32| (from - at).max(at - to).max(0.0);
    (0..patches)
        .map(|patch| {
            let [x0, y0, x1, y1] = corners(patch, side);
            let (x, y) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
            beyond(x, left, right).hypot(beyond(y, top, bottom))
        })
        .collect()
}

/// Where attention should lie, by how far each place is from where it should lie.
///
/// # Shapes
///
/// - distances, output: `[N, P]`; rows of the output sum to 1
pub fn targets(distances: Tensor<2>, range: Range, temperature: f64) -> Tensor<2> {
    let [rows, places] = distances.dims();
    let (most, least) = match range {
        Range::Sample => (distances.clone().max_dim(1), distances.clone().min_dim(1)),
        Range::Batch => {
            let one = |x: Tensor<1>| x.reshape([1, 1]).expand([rows, 1]);
            (one(distances.clone().max()), one(distances.clone().min()))
        }
    };
    // Where all places are as near, none is preferred.
    let spread = (most.clone() - least)
        .clamp_min(LEAST)
        .expand([rows, places]);
    let near = (most.expand([rows, places]) - distances) / spread;
    peaked(near, temperature)
}

/// Where attention should lie, by how near each place is: 1 is the nearest, 0 the farthest.
///
/// # Shapes
///
/// - near, output: `[N, P]`; rows of the output sum to 1
pub fn peaked(near: Tensor<2>, temperature: f64) -> Tensor<2> {
    softmax(near.div_scalar(temperature), 1)
}

/// `KL(target || attention)` of each row; with `mean` divided by the number of places.
///
/// # Shapes
///
/// - target, attention: `[N, P]`, rows sum to 1
/// - output: `[N]`
pub fn divergence(target: Tensor<2>, attention: Tensor<2>, mean: bool) -> Tensor<1> {
    let [rows, places] = target.dims();
    assert_shape!(attention, [rows, places]);
    let log = |x: Tensor<2>| x.clamp_min(LEAST).log();
    let each = target.clone() * (log(target) - log(attention));
    let sum: Tensor<1> = each.sum_dim(1).squeeze_dim(1);
    if mean {
        sum.div_scalar(places as f64)
    } else {
        sum
    }
}

/// The loss of the attention to patches with a batch's boxes that are known. The accuracy is the pointing game: whether the patch that is attended to most has its
/// centre in the box.
///
/// # Shapes
///
/// - attention: `[B, P]`, rows sum to 1
pub fn loss(config: &LocateConfig, batch: &Batch, attention: Tensor<2>) -> Outcome {
    let [_, patches] = attention.dims();
    let device = attention.device();
    let (rows, boxes) = grounding::known(batch);
    let of = boxes.into_iter().map(|of| distances(of, patches));
    let distances: Vec<Vec<f32>> = of.collect();
    let count = rows.len();
    if count == 0 {
        return Outcome::nothing(&device);
    }
    let attention = attention.select(0, ints(rows, &device));
    let inside = distances.iter().flatten().map(|d| f32::from(*d == 0.0));
    let inside = TensorData::new(inside.collect::<Vec<f32>>(), [count, patches]);
    let inside: Tensor<2> = Tensor::from_data(inside, &device);
    let distances = TensorData::new(distances.concat(), [count, patches]);
    let distances: Tensor<2> = Tensor::from_data(distances, &device);
    let target = targets(distances, config.range, config.temperature);
    let each = divergence(target, attention.clone(), config.mean);
    let fixed = attention.without_autodiff();
    let share = (fixed.clone() * inside.clone()).sum();
    let pointed = inside.gather(1, fixed.argmax(1));
    Outcome::new(each.mean())
        .and_metric(ACCURACY, pointed.sum(), count)
        .and_metric(INSIDE, share, count)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
