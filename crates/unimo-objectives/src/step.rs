//! One forward pass for all objectives.
//!
//! Every image and every text is encoded once, whatever the number of objectives, and all pairs that they ask for go
//! through the cross-modal encoder as one batch (METER runs everything once per objective).

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use unimo_core::batch::{Batch, Images};
use unimo_encoders::backbone::{Backbone, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::{FusionOutput, Keep};

use crate::Objectives;
use crate::mlm::ints;
use crate::objective::{Carry, Needs, Objective, Outcome, Pairs, UniModal};

/// The result of [`Objectives::step`].
#[derive(Debug)]
pub struct Step {
    /// The weighted sum of all losses, `[1]`, or none if no objective could run on this batch.
    pub loss: Option<Tensor<1>>,
    /// Every objective that ran.
    pub reports: Vec<Report>,
    /// Keys of the objectives that the batch lacked something for.
    pub skipped: Vec<&'static str>,
    /// To be handed to [`Objectives::after_step`].
    pub carries: Vec<(&'static str, Carry)>,
}

/// One objective's part.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its key in the recipe.
    pub objective: &'static str,
    /// The unweighted loss, `[1]`.
    pub loss: Tensor<1>,
    /// How many of `count` predictions were right, `[1]`.
    pub correct: Tensor<1, burn::tensor::Int>,
    /// Predictions made.
    pub count: usize,
}

impl Objectives {
    /// What the loader must put into a batch for all of them.
    pub fn needs(&self) -> Needs {
        let mut all = Needs::default();
        for (_, objective) in self.each() {
            let needs = objective.needs();
            all.images |= needs.images;
            all.texts |= needs.texts;
            all.masked = all.masked.or(needs.masked);
            all.samples = all.samples.max(needs.samples);
        }
        all
    }

    /// The forward pass and every loss. `rng` chooses negatives; nothing is changed by this call.
    pub fn step(
        &self,
        backbone: &Backbone,
        batch: &Batch,
        device: &Device,
        rng: &mut ChaCha8Rng,
    ) -> Step {
        let has = |needs: &Needs| {
            let masked = batch.texts.as_ref().is_some_and(|t| t.masked.is_some());
            (batch.images.is_some() || !needs.images)
                && (batch.texts.is_some() || !needs.texts)
                && (masked || needs.masked.is_none())
                && batch.len() >= needs.samples
        };
        let (run, skip): (Vec<_>, Vec<_>) = self
            .each()
            .into_iter()
            .partition(|(_, objective)| has(&objective.needs()));

        let mut uni_modal = encode(backbone, batch, &run, device);
        uni_modal.similarity = run
            .iter()
            .find_map(|(_, objective)| objective.similarity(&uni_modal))
            .map(rows_on_host);

        let pairs: Vec<Option<Pairs>> = run
            .iter()
            .map(|(_, objective)| objective.pairs(&uni_modal, rng))
            .collect();
        let fused = fuse(backbone, &uni_modal, &pairs);

        let mut step = Step {
            loss: None,
            reports: Vec::new(),
            skipped: skip.into_iter().map(|(key, _)| key).collect(),
            carries: Vec::new(),
        };
        for (((key, objective), pairs), fused) in run.into_iter().zip(&pairs).zip(fused) {
            let fused = pairs.as_ref().zip(fused);
            let Outcome {
                loss,
                correct,
                count,
                carry,
            } = objective.loss(backbone, &uni_modal, fused);
            let weighted = loss.clone().mul_scalar(objective.weight());
            step.loss = Some(match step.loss.take() {
                None => weighted,
                Some(sum) => sum + weighted,
            });
            step.carries.extend(carry.map(|carry| (key, carry)));
            step.reports.push(Report {
                objective: key,
                loss: loss.without_autodiff(),
                correct,
                count,
            });
        }
        step
    }
}

/// Runs each uni-modal encoder once: on the images, and on the captions with the masked captions under them.
fn encode(
    backbone: &Backbone,
    batch: &Batch,
    run: &[(&'static str, &dyn Objective)],
    device: &Device,
) -> UniModal {
    let needs: Vec<Needs> = run.iter().map(|(_, o)| o.needs()).collect();
    let samples = batch.len();
    let pixels = batch
        .images
        .as_ref()
        .filter(|_| needs.iter().any(|n| n.images))
        .map(|images| {
            let shape = [samples, Images::CHANNELS, images.height, images.width];
            Tensor::<4>::from_data(TensorData::new(images.pixels.clone(), shape), device)
        });
    let plain = needs.iter().any(|n| n.texts && n.masked.is_none());
    let hidden = needs.iter().any(|n| n.masked.is_some());
    let mut ids = Vec::new();
    let mut lengths = Vec::new();
    let mut labels = Vec::new();
    let mut masked_row = None;
    let mut text_input = None;
    let mut length = 0;
    if let Some(texts) = &batch.texts {
        length = texts.length;
        if plain {
            ids.extend_from_slice(&texts.ids);
            lengths.extend_from_slice(&texts.lengths);
            text_input = Some(backbone.text.input(&ids, &lengths, length, device));
        }
        if let (true, Some(masked)) = (hidden, &texts.masked) {
            masked_row = Some(lengths.len());
            ids.extend_from_slice(&masked.ids);
            lengths.extend_from_slice(&texts.lengths);
            labels.extend_from_slice(&masked.labels);
        }
    }
    let texts = (!lengths.is_empty()).then(|| {
        let input = backbone.text.input(&ids, &lengths, length, device);
        backbone.encode_texts(&input)
    });
    UniModal {
        samples,
        images: pixels.clone().map(|pixels| backbone.encode_images(pixels)),
        pixels,
        text_input,
        texts,
        masked: masked_row,
        labels,
        similarity: None,
    }
}

/// All pairs through the cross-modal encoder at once, then split again.
fn fuse(
    backbone: &Backbone,
    batch: &UniModal,
    pairs: &[Option<Pairs>],
) -> Vec<Option<FusionOutput>> {
    let (Some(texts), Some(images)) = (&batch.texts, &batch.images) else {
        return vec![None; pairs.len()];
    };
    let wanted: Vec<&Pairs> = pairs.iter().flatten().collect();
    if wanted.is_empty() {
        return vec![None; pairs.len()];
    }
    let device = images.class.device();
    let rows = |of: fn(&Pairs) -> &Vec<usize>| {
        let rows = wanted.iter().flat_map(|p| of(p)).map(|&row| row as i32);
        ints(rows.collect(), &device)
    };
    let texts: TextFeatures = texts.select(&rows(|p| &p.texts));
    let images: ImageFeatures = images.select(&rows(|p| &p.images));
    let whole = backbone.fuse(&texts, &images, Keep::Nothing);
    let mut at = 0;
    pairs
        .iter()
        .map(|pairs| {
            pairs.as_ref().map(|pairs| {
                let count = pairs.texts.len();
                let part = |x: &Tensor<3>| x.clone().narrow(0, at, count);
                let output = FusionOutput {
                    text: part(&whole.text),
                    image: part(&whole.image),
                    gates: Vec::new(),
                    attention: Vec::new(),
                };
                at += count;
                output
            })
        })
        .collect()
}

fn rows_on_host(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = matrix.dims();
    let values: Vec<f32> = matrix.into_data().convert::<f32>().iter::<f32>().collect();
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}
