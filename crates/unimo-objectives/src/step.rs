//! One forward pass for all objectives.
//!
//! Every image and every text is encoded once, whatever the number of objectives. All pairs go through the cross-modal encoder as
//! one batch (METER runs everything once per objective). The batches of one optimiser step are handled in [`crate::together`]; one
//! batch alone is the smallest case.

use burn::tensor::{Device, Tensor};
use unimo_batch::Batch;
use unimo_core::world::World;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::output::{FusionOutput, Keep, LayerAttention};

use crate::context::Context;
use crate::encode::{Models, Wanted, encode};
use crate::encoded::Encoded;
use crate::outcome::{ACCURACY, Carry, Metric, Outcome};
use crate::pairs::{Fused, fuse_keeping};
use crate::pretraining::alignment::itc_vectors;
use crate::request::{By, Request, Samples, SliceForm, holds};
use crate::stories::{self, ReadStories};
use crate::{Draws, Objectives};

/// The result of [`Objectives::step`].
#[derive(Debug, Default)]
pub struct Step {
    /// The weighted sum of all losses, `[1]`. `None` if no objective could run on this batch, or if those that ran found nothing to
    /// learn from. With several batches in a step, these sums add up to the step's.
    pub loss: Option<Tensor<1>>,
    /// Every objective that ran and whose loss belongs to this batch alone.
    pub results: Vec<ObjectiveResult>,
    /// Keys of the objectives that did not run because the batch lacked something.
    pub skipped: Vec<&'static str>,
    /// Input for [`Objectives::after_step`].
    pub carries: Vec<(&'static str, Carry)>,
}

/// The result of one objective.
#[derive(Debug, Clone)]
pub struct ObjectiveResult {
    /// Its key in the recipe.
    pub objective: &'static str,
    /// The unweighted loss, `[1]`.
    pub loss: Tensor<1>,
    /// Its other metrics.
    pub metrics: Vec<Metric>,
    /// Samples that were left out because their text does not describe their image.
    pub left_out: usize,
    /// Samples that found no negative, because all others show the same image.
    pub without_negative: usize,
}

impl ObjectiveResult {
    /// Number of predictions; [`ACCURACY`] is the share of them that is right.
    pub fn predictions(&self) -> usize {
        let accuracy = self.metrics.iter().find(|metric| metric.name == ACCURACY);
        accuracy.map_or(0, |metric| metric.count)
    }
}

impl Step {
    /// Adds an objective's result on a batch. Its loss is multiplied by `factor`.
    pub(crate) fn add(
        &mut self,
        objective: &'static str,
        outcome: Outcome,
        factor: f64,
        left_out: usize,
    ) {
        if outcome.learns {
            let weighted = outcome.loss.clone().mul_scalar(factor);
            self.loss = Some(match self.loss.take() {
                None => weighted,
                Some(sum) => sum + weighted,
            });
        }
        self.carries
            .extend(outcome.carry.map(|carry| (objective, carry)));
        self.results.push(ObjectiveResult {
            objective,
            loss: outcome.loss.without_autodiff(),
            metrics: outcome.metrics,
            left_out,
            without_negative: outcome.without_negative,
        });
    }
}

impl Objectives {
    /// The forward pass and every loss, for objectives that need no teacher. `draws` chooses negatives. This call changes nothing.
    pub fn step(&self, backbone: &Backbone, batch: &Batch, device: &Device, draws: Draws) -> Step {
        self.together(&|_| true, backbone, std::slice::from_ref(batch), device)
            .batch(0, draws)
            .expect("invariant: a process alone loses nobody")
    }

    /// The score of each pair by which texts and images are retrieved: that of `ranking` if there is one, as METER does, else that of
    /// `itm`; `None` without either. The higher, the better they belong together.
    ///
    /// # Shapes
    ///
    /// - fused: `P` pairs
    /// - output: `[P]`
    pub fn match_scores(&self, backbone: &Backbone, fused: &FusionOutput) -> Option<Tensor<1>> {
        match (&self.ranking, &self.itm) {
            (Some(ranking), _) => Some(ranking.scores(backbone, fused)),
            (None, itm) => Some(itm.as_ref()?.scores(backbone, fused)),
        }
    }

    /// The scores of a task for each sample, whether its label is known or not; `None` if `key` is no task, or if the batch lacks
    /// what it reads. See [`predict`](crate::Objective::predict).
    ///
    /// # Shapes
    ///
    /// - output: `[B, C]`
    pub fn predict(
        &self,
        key: &str,
        backbone: &Backbone,
        batch: &Batch,
        device: &Device,
    ) -> Option<Tensor<2>> {
        let (scores, _) = self.predicted((key, batch), backbone, device, Keep::Nothing)?;
        Some(scores)
    }

    /// As [`predict`](Self::predict), with the attention of the cross-modal encoder's layers, for each image of a sample. Encoders of one
    /// stream keep none.
    ///
    /// # Shapes
    ///
    /// - output: `[B, C]`
    pub fn predict_looking(
        &self,
        key: &str,
        backbone: &Backbone,
        batch: &Batch,
        device: &Device,
    ) -> Option<(Tensor<2>, Vec<Vec<LayerAttention>>)> {
        let (scores, fused) = self.predicted((key, batch), backbone, device, Keep::Attention)?;
        let outputs = fused.into_iter().filter_map(|fused| fused.output);
        Some((scores, outputs.map(|output| output.attention).collect()))
    }

    /// Stories of a batch as rows to compare; `None` if the model reads no stories, or the batch has none.
    pub fn read_stories(
        &self,
        backbone: &Backbone,
        batch: &Batch,
        device: &Device,
    ) -> Option<ReadStories> {
        let joint = backbone.joint.as_ref()?;
        joint.slice_embedding.as_ref()?;
        let requests = [SliceForm::InOrder, SliceForm::Each].map(Request::slices);
        if !holds(&requests, Samples::EACH, backbone, batch) {
            return None;
        }
        let wanted = Wanted::fixed(&requests, backbone, batch);
        let mut encoded = Encoded::new(batch);
        encode(Models::of(backbone), batch, &wanted, device, &mut encoded);
        let in_order = encoded.stories(By::Student, SliceForm::InOrder);
        let states = in_order.fuse(backbone).text?;
        let stories = match &self.alignment {
            Some(alignment) => alignment.embed(states, &in_order.layout),
            None => stories::plain(states, &in_order.layout),
        };
        let each = encoded.stories(By::Student, SliceForm::Each);
        let itc = self.itc.as_ref();
        Some(ReadStories {
            stories: stories.without_autodiff(),
            slices: itc.map(|itc| itc_vectors(itc, each).without_autodiff()),
        })
    }

    fn predicted(
        &self,
        (key, batch): (&str, &Batch),
        backbone: &Backbone,
        device: &Device,
        keep: Keep,
    ) -> Option<(Tensor<2>, Vec<Fused>)> {
        let each = self.each().into_iter();
        let (key, objective) = each.into_iter().find(|(own, _)| *own == key)?;
        let settings = objective.settings();
        let mut requests = settings.requests();
        // A teacher has no part in predictions.
        requests.retain(|request| request.by == By::Student);
        if !holds(&requests, settings.samples(), backbone, batch) {
            return None;
        }
        let wanted = Wanted::fixed(&requests, backbone, batch).sharing_images();
        let mut encoded = Encoded::new(batch);
        encode(Models::of(backbone), batch, &wanted, device, &mut encoded);
        let mut pairs = objective.pairs(&encoded, &mut Draws::new(0).of(key));
        pairs.retain(|pairs| pairs.by == By::Student);
        let fused = fuse_keeping((backbone, None), &encoded, vec![pairs], keep);
        let fused = fused.into_iter().next().unwrap_or_default();
        let context = Context {
            backbone,
            teacher: None,
            batch,
            encoded: &encoded,
            device,
            world: &World::ALONE,
        };
        Some((objective.predict(&context, &fused)?, fused))
    }
}
