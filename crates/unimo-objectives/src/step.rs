//! One forward pass for all objectives.
//!
//! Every image and every text is encoded once, whatever the number of objectives, and all pairs that they ask for go
//! through the cross-modal encoder as one batch (METER runs everything once per objective). What happens to the batches of one
//! optimiser step, of which a batch alone is the smallest case, is [`crate::together`]'s business.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{Batch, TAGS};
use unimo_encoders::backbone::{Backbone, ImageFeatures, TextFeatures};
use unimo_encoders::fusion::{FusionOutput, Keep};
use unimo_encoders::joint::View;

use crate::Objectives;
use crate::objective::{Carry, Needs, Outcome, Pairs, UniModal, ints};

/// The result of [`Objectives::step`].
#[derive(Debug, Default)]
pub struct Step {
    /// The weighted sum of all losses, `[1]`; none if no objective could run on this batch, or those that did found nothing to
    /// learn from. Of several batches of one step the sums add up to the step's.
    pub loss: Option<Tensor<1>>,
    /// Every objective that ran and whose loss belongs to this batch alone.
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
    /// Samples that had no part, because their text does not describe their picture.
    pub left_out: usize,
    /// Samples that found no negative, because all others show the same picture.
    pub without_negative: usize,
}

impl Step {
    /// Adds an objective's result on a batch. `factor` is what its loss is multiplied by.
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
        self.reports.push(Report {
            objective,
            loss: outcome.loss.without_autodiff(),
            correct: outcome.correct,
            count: outcome.count,
            left_out,
            without_negative: outcome.without_negative,
        });
    }
}

impl Objectives {
    /// What the loader must put into a batch for all of them.
    pub fn needs(&self) -> Needs {
        self.needs_of(&|_| true)
    }

    /// As [`needs`](Self::needs), of those whose keys are `chosen`.
    pub fn needs_of(&self, chosen: &dyn Fn(&str) -> bool) -> Needs {
        let mut all = Needs::default();
        for (_, objective) in self.each().into_iter().filter(|(key, _)| chosen(key)) {
            let needs = objective.needs();
            all.images |= needs.images;
            all.texts |= needs.texts;
            all.masked = all.masked.or(needs.masked);
            all.samples = all.samples.max(needs.samples);
            all.describing |= needs.describing;
            all.second_view |= needs.second_view;
            all.left_to_right |= needs.left_to_right;
            all.tags |= needs.tags;
            all.concepts |= needs.concepts;
            all.concept_rate = all.concept_rate.or(needs.concept_rate);
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
        self.step_of(&|_| true, backbone, batch, device, rng)
    }

    /// As [`step`](Self::step), with those whose keys are `chosen`.
    pub fn step_of(
        &self,
        chosen: &dyn Fn(&str) -> bool,
        backbone: &Backbone,
        batch: &Batch,
        device: &Device,
        rng: &mut ChaCha8Rng,
    ) -> Step {
        let batches = std::slice::from_ref(batch);
        self.together(chosen, backbone, batches, device)
            .batch(0, rng)
    }
}

/// Whether a batch holds the modalities that an objective needs, whatever the number of its samples.
pub(crate) fn holds(needs: &Needs, backbone: &Backbone, batch: &Batch) -> bool {
    let texts = batch.texts.as_ref();
    let masked = texts.is_some_and(|t| t.masked.is_some());
    let images = backbone.sees(batch);
    let second_view = batch.images.as_ref().and_then(|i| i.second_view.as_ref());
    (images || !needs.images)
        && (texts.is_some() || !needs.texts)
        && (masked || needs.masked.is_none())
        && (second_view.is_some() || !needs.second_view)
        && (batch.further_texts.contains_key(TAGS) || !needs.tags)
        && (texts.is_some_and(|t| t.concepts.is_some()) || !needs.concepts)
        && !(needs.alone && images && texts.is_some())
}

/// All pairs that are looked at alike through the cross-modal encoder at once, each only once, then split again. Of no pairs there is
/// nothing.
pub(crate) fn fuse(
    backbone: &Backbone,
    batch: &UniModal,
    pairs: &[Option<Pairs>],
) -> Vec<Option<FusionOutput>> {
    let mut passes: Vec<Pass> = Vec::new();
    // Per objective its pass and its rows there.
    let places: Vec<Option<(usize, Vec<usize>)>> = pairs
        .iter()
        .map(|pairs| {
            let pairs = pairs.as_ref().filter(|pairs| !pairs.is_empty())?;
            let found = passes.iter().position(|pass| pass.takes(pairs));
            let at = found.unwrap_or_else(|| {
                passes.push(Pass::new(pairs));
                passes.len() - 1
            });
            Some((at, passes[at].add(pairs)))
        })
        .collect();
    let fused: Vec<FusionOutput> = passes
        .iter()
        .map(|pass| pass.run(backbone, batch))
        .collect();
    places
        .into_iter()
        .map(|place| place.map(|(pass, rows)| fused[pass].rows(&rows)))
        .collect()
}

/// Rows that go through the cross-modal encoder together.
struct Pass {
    view: View,
    texts: bool,
    images: bool,
    /// Text row, where there is one, and image row, likewise.
    rows: Vec<(Option<usize>, Option<usize>)>,
    places: HashMap<(Option<usize>, Option<usize>), usize>,
}

impl Pass {
    fn new(pairs: &Pairs) -> Self {
        Self {
            view: pairs.view.clone(),
            texts: !pairs.texts.is_empty(),
            images: !pairs.images.is_empty(),
            rows: Vec::new(),
            places: HashMap::new(),
        }
    }

    fn takes(&self, pairs: &Pairs) -> bool {
        // Which tokens are hidden is said by row, so those rows stay among themselves.
        pairs.view.hidden_tokens.is_empty()
            && self.view == pairs.view
            && self.texts != pairs.texts.is_empty()
            && self.images != pairs.images.is_empty()
    }

    /// Adds what is not there yet; where each pair is.
    fn add(&mut self, pairs: &Pairs) -> Vec<usize> {
        (0..pairs.len())
            .map(|i| {
                let row = (pairs.texts.get(i).copied(), pairs.images.get(i).copied());
                *self.places.entry(row).or_insert_with(|| {
                    self.rows.push(row);
                    self.rows.len() - 1
                })
            })
            .collect()
    }

    fn run(&self, backbone: &Backbone, batch: &UniModal) -> FusionOutput {
        let texts = match self.view.prefix {
            Some(_) => batch.left_to_right.as_ref().map(|l| &l.texts),
            None => batch.texts_of_pairs(),
        };
        let indices = |rows: Vec<usize>, device: &Device| {
            ints(rows.into_iter().map(|row| row as i32).collect(), device)
        };
        let text_rows = self.rows.iter().filter_map(|(text, _)| *text);
        let image_rows = self.rows.iter().filter_map(|(_, image)| *image);
        let texts: Option<TextFeatures> = texts
            .filter(|_| self.texts)
            .map(|texts| texts.select(&indices(text_rows.collect(), &texts.class.device())));
        let images: Option<ImageFeatures> = batch
            .images_of_pairs()
            .filter(|_| self.images)
            .map(|images| images.select(&indices(image_rows.collect(), &images.class.device())));
        let fused = backbone.fuse_parts(texts.as_ref(), images.as_ref(), &self.view, Keep::Nothing);
        // Texts of other batches may be longer; what an objective looks at beyond the class token are the batch's own.
        let own = batch.texts.as_ref().map(|texts| texts.mask.dims()[1]);
        match (fused.text, own) {
            (Some(text), Some(own)) if text.dims()[1] > own => FusionOutput {
                text: Some(text.narrow(1, 0, own)),
                ..fused
            },
            (text, _) => FusionOutput { text, ..fused },
        }
    }
}
