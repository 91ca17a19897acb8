//! The batches of one optimiser step, seen together.
//!
//! Most losses are means over a batch, and those of a step's batches are averaged. What contrasts samples with each other
//! ([`crate::contrast`]) is taken over all batches, as if they were one, in the memory of one (GradCache, Gao et al. 2021):
//!
//! 1. [`Together::contrast`]: batch by batch, the features alone, without a tape; then the loss over all of them and its gradient `g`
//!    with respect to the features `f`.
//! 2. [`Together::batch`]: batch by batch, everything, with the same random numbers, and `sum(f * g)` in the place of the loss. Its
//!    gradient is the loss's, by the chain rule.
//!
//! So that features are the same to the last bit, what they are made of comes first in both passes and in tensors of the same shape:
//! first what the contrasts need, then the rest.
//!
//! Hard negatives come from all samples. Where one lies in another batch, its row goes through the encoders again beside the batch
//! that it is paired in, for its gradient; at most as many rows as the batch has, of texts and of pictures.
//!
//! What each objective runs on is known before the first of them runs, so each loss has the weight that the recipe gives it, however
//! many batches lack something for it. Nothing here knows an objective by its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{Batch, TAGS};
use unimo_core::average;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::fusion::FusionOutput;

use crate::Objectives;
use crate::contrast::{Contrast, Contrasted, Features, pictures};
use crate::encode::{Wanted, encode, join_images, join_texts, pictures_of, texts_of};
use crate::objective::{Needs, Objective, Pairs, UniModal};
use crate::partners::{Partner, Partners, Similarity};
use crate::step::{Step, fuse, holds};

/// The batches of one optimiser step.
pub struct Together<'a> {
    objectives: &'a Objectives,
    backbone: &'a Backbone,
    batches: &'a [Batch],
    device: &'a Device,
    /// Sets the device's random numbers for a batch.
    seed: Option<&'a dyn Fn(usize)>,
    plans: Vec<Plan>,
    cache: Cache,
}

/// What happens to a batch.
#[derive(Default)]
struct Plan {
    run: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

/// What the first pass leaves for the second.
#[derive(Default)]
struct Cache {
    /// By objective and batch, the gradient of the weighted loss with respect to the features.
    gradients: HashMap<(&'static str, usize), Features>,
    /// Of all samples with each other, if an objective asks for it.
    similarity: Option<(Arc<Similarity>, Vec<Sample>)>,
}

/// A sample of one of the batches.
#[derive(Debug, Clone, Copy)]
struct Sample {
    batch: usize,
    row: usize,
    picture: Option<u64>,
}

/// What all batches gave together.
#[derive(Debug)]
pub struct Over {
    /// The losses, each over all batches. Their gradients are not in them any more.
    pub step: Step,
    /// Of what only the losses over all use, such as temperatures.
    pub gradients: GradientsParams,
}

/// The features of one contrast, batch by batch.
struct Collected<'a> {
    objective: &'a dyn Objective,
    contrast: &'a dyn Contrast,
    parts: Vec<Part>,
}

struct Part {
    batch: usize,
    rows: Vec<usize>,
    pictures: Vec<Option<u64>>,
    features: Features,
    fixed: Features,
}

impl Objectives {
    /// Sees the batches of one optimiser step together; objectives are those whose keys are `chosen`.
    pub fn together<'a>(
        &'a self,
        chosen: &dyn Fn(&str) -> bool,
        backbone: &'a Backbone,
        batches: &'a [Batch],
        device: &'a Device,
    ) -> Together<'a> {
        let mut plans: Vec<Plan> = batches.iter().map(|_| Plan::default()).collect();
        for (key, objective) in self.each().into_iter().filter(|(key, _)| chosen(key)) {
            let needs = objective.needs();
            let counts: Vec<usize> = batches
                .iter()
                .map(|batch| {
                    if holds(&needs, backbone, batch) {
                        needs.count(batch)
                    } else {
                        0
                    }
                })
                .collect();
            // What looks beyond its batch finds the others there.
            let beyond = objective.contrast().is_some() || objective.hard_negatives();
            let enough = !beyond || counts.iter().sum::<usize>() >= needs.samples;
            let least = if beyond { 1 } else { needs.samples };
            for ((plan, count), batch) in plans.iter_mut().zip(counts).zip(batches) {
                let runs = enough && count >= least && holds(&needs, backbone, batch);
                let keys = if runs {
                    &mut plan.run
                } else {
                    &mut plan.skipped
                };
                keys.push(key);
            }
        }
        Together {
            objectives: self,
            backbone,
            batches,
            device,
            seed: None,
            plans,
            cache: Cache::default(),
        }
    }
}

impl<'a> Together<'a> {
    /// `seed` sets the device's random numbers for a batch, by its place in the step. Both passes call it before they begin with a
    /// batch.
    pub fn seeded(self, seed: &'a dyn Fn(usize)) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// On how many batches an objective runs.
    pub fn runs_of(&self, key: &str) -> usize {
        let runs = |plan: &&Plan| plan.run.contains(&key);
        self.plans.iter().filter(runs).count()
    }

    /// The objectives that run on a batch, in the order of the list.
    fn running(&self, batch: usize) -> Vec<(&'static str, &'a dyn Objective)> {
        let objectives: &'a Objectives = self.objectives;
        let runs = |key: &str| self.plans[batch].run.contains(&key);
        let all = objectives.each().into_iter();
        all.filter(|(key, _)| runs(key)).collect()
    }

    /// Whether an objective is contrasted over several batches.
    fn is_shared(&self, key: &str, objective: &dyn Objective) -> bool {
        objective.contrast().is_some() && self.runs_of(key) > 1
    }

    fn begin(&self, batch: usize) {
        if let Some(seed) = self.seed {
            seed(batch);
        }
    }

    /// The losses over all batches, where something is contrasted over several of them. To be called before [`batch`](Self::batch).
    pub fn contrast(&mut self) -> Option<Over> {
        let all = self.collect();
        if all.is_empty() {
            return None;
        }
        let mut step = Step::default();
        let mut leaves = Vec::new();
        for (key, collected) in &all {
            let features = collected.parts.iter().map(|part| part.features.clone());
            let features = Features::cat(&features.collect::<Vec<_>>());
            let leaf = features.map(|x| x.clone().detach().require_grad());
            let fixed = collected.parts.iter().map(|part| part.fixed.clone());
            let outcome = collected.contrast.over(&Contrasted {
                features: leaf.clone(),
                fixed: Features::cat(&fixed.collect::<Vec<_>>()),
                pictures: collected.pictures(),
            });
            let left_out = collected
                .parts
                .iter()
                .map(|part| self.batches[part.batch].len() - part.rows.len())
                .sum();
            step.add(key, outcome, collected.objective.weight(), left_out);
            leaves.push(leaf);
        }
        let loss = step.loss.take()?;
        let gradients = loss.backward();
        let mut of_batches = HashMap::new();
        for ((key, collected), leaf) in all.iter().zip(&leaves) {
            let gradient = leaf.map(|x| {
                let gradient = x.grad(&gradients);
                gradient.unwrap_or_else(|| x.clone().without_autodiff().zeros_like())
            });
            let mut first = 0;
            for part in &collected.parts {
                let rows = part.rows.len();
                let own = gradient.map(|x| x.clone().narrow(0, first, rows));
                of_batches.insert((*key, part.batch), own);
                first += rows;
            }
        }
        let hard = |(_, objective): (&str, &dyn Objective)| objective.hard_negatives();
        let asked = (0..self.batches.len()).any(|b| self.running(b).into_iter().any(hard));
        let similarity = asked.then(|| all.iter().find_map(|(_, c)| c.similarity()));
        self.cache = Cache {
            gradients: of_batches,
            similarity: similarity.flatten(),
        };
        Some(Over {
            step,
            gradients: GradientsParams::from_grads(gradients, self.objectives),
        })
    }

    /// The first pass: features of all batches, by objective, without a tape.
    fn collect(&self) -> Vec<(&'static str, Collected<'a>)> {
        let mut all: Vec<(&'static str, Collected<'a>)> = Vec::new();
        // Copies of the same numbers that track no gradient: no operation on them is kept, and dropout is still on.
        let mut untracked = None;
        for batch in 0..self.batches.len() {
            let shared = self.shared(batch);
            if shared.is_empty() {
                continue;
            }
            let (backbone, objectives) = untracked.get_or_insert_with(|| {
                (
                    average::frozen_copy(self.backbone),
                    average::frozen_copy(self.objectives),
                )
            });
            self.begin(batch);
            let copies: Vec<(&'static str, &dyn Contrast)> = objectives
                .each()
                .into_iter()
                .filter(|(key, _)| shared.iter().any(|(shared, _)| shared == key))
                .filter_map(|(key, objective)| Some((key, objective.contrast()?)))
                .collect();
            let mut encoded = UniModal::new(&self.batches[batch]);
            let features = self.features(backbone, &copies, batch, &mut encoded);
            for (((key, copy), features), (_, objective)) in
                copies.iter().zip(features).zip(&shared)
            {
                let rows = copy.rows(&encoded);
                let part = Part {
                    batch,
                    pictures: pictures(&encoded, &rows),
                    rows,
                    features,
                    fixed: copy.fixed(&encoded).map(|x| x.clone().detach()),
                };
                match all.iter_mut().find(|(other, _)| other == key) {
                    Some((_, collected)) => collected.parts.push(part),
                    None => {
                        let collected = Collected {
                            objective: *objective,
                            contrast: objective
                                .contrast()
                                .expect("invariant: what is shared is a contrast"),
                            parts: vec![part],
                        };
                        all.push((*key, collected));
                    }
                }
            }
        }
        all
    }

    /// The objectives of a batch that are contrasted over several batches.
    fn shared(&self, batch: usize) -> Vec<(&'static str, &'a dyn Objective)> {
        let running = self.running(batch).into_iter();
        running
            .filter(|(key, objective)| self.is_shared(key, *objective))
            .collect()
    }

    /// What the contrasts of a batch need of it.
    fn wanted_by(&self, contrasts: &[&'static str], batch: usize) -> Wanted {
        let running = self.running(batch);
        let hides_tags = running
            .iter()
            .any(|(_, o)| o.needs().concept_rate.is_some());
        let needs: Vec<Needs> = running
            .iter()
            .filter(|(key, _)| contrasts.contains(key))
            .map(|(_, objective)| objective.needs())
            .collect();
        Wanted::of_contrasts(&needs, hides_tags)
    }

    /// The features of a batch, one after the other as `contrasts` are. What both passes do first.
    fn features(
        &self,
        backbone: &Backbone,
        contrasts: &[(&'static str, &dyn Contrast)],
        batch: usize,
        encoded: &mut UniModal,
    ) -> Vec<Features> {
        let keys: Vec<&'static str> = contrasts.iter().map(|(key, _)| *key).collect();
        let wanted = self.wanted_by(&keys, batch);
        encode(backbone, &self.batches[batch], wanted, self.device, encoded);
        let pairs: Vec<Option<Pairs>> = contrasts.iter().map(|(_, c)| c.pairs(encoded)).collect();
        let fused = fuse(backbone, encoded, &pairs);
        let each = contrasts.iter().zip(&fused);
        each.map(|((_, contrast), fused)| contrast.features(backbone, encoded, fused.as_ref()))
            .collect()
    }

    /// The forward pass of a batch and every loss. `rng` chooses negatives; nothing is changed by this call.
    pub fn batch(&self, batch: usize, rng: &mut ChaCha8Rng) -> Step {
        self.begin(batch);
        let (backbone, source) = (self.backbone, &self.batches[batch]);
        let (shared, own): (Vec<_>, Vec<_>) = self
            .running(batch)
            .into_iter()
            .partition(|(key, _)| self.cache.gradients.contains_key(&(*key, batch)));
        let mut encoded = UniModal::new(source);
        let mut step = Step {
            skipped: self.plans[batch].skipped.clone(),
            ..Step::default()
        };

        let keys: Vec<&'static str> = shared.iter().map(|(key, _)| *key).collect();
        let mut done = Wanted::default();
        let mut surrogate: Option<Tensor<1>> = None;
        if !shared.is_empty() {
            let contrasts: Vec<(&'static str, &dyn Contrast)> = shared
                .iter()
                .filter_map(|(key, objective)| Some((*key, objective.contrast()?)))
                .collect();
            let features = self.features(backbone, &contrasts, batch, &mut encoded);
            for (key, features) in keys.iter().zip(features) {
                let part = features.dot(&self.cache.gradients[&(*key, batch)]);
                surrogate = match (surrogate, part) {
                    (Some(sum), Some(part)) => Some(sum + part),
                    (sum, part) => sum.or(part),
                };
            }
            done = self.wanted_by(&keys, batch);
        }

        let needs: Vec<Needs> = self.running(batch).iter().map(|(_, o)| o.needs()).collect();
        let wanted = Wanted::of(&needs, backbone, source, rng);
        encode(
            backbone,
            source,
            wanted.without(done),
            self.device,
            &mut encoded,
        );
        let further = self.choose_partners(batch, &own, &mut encoded);
        let mut pairs: Vec<Option<Pairs>> = own
            .iter()
            .map(|(_, objective)| objective.pairs(&encoded, rng))
            .collect();
        self.encode_further(&further, &mut pairs, &mut encoded, wanted.hides_tags);
        let fused = fuse(backbone, &encoded, &pairs);
        self.losses(batch, own, &encoded, &pairs, fused, &mut step);
        let batches = self.batches.len();
        if batches > 1 {
            step.loss = step.loss.map(|loss| loss.div_scalar(batches as f64));
        }
        step.loss = match (step.loss, surrogate) {
            (Some(loss), Some(surrogate)) => Some(loss + surrogate),
            (loss, surrogate) => loss.or(surrogate),
        };
        step
    }

    fn losses(
        &self,
        batch: usize,
        own: Vec<(&'static str, &'a dyn Objective)>,
        encoded: &UniModal,
        pairs: &[Option<Pairs>],
        fused: Vec<Option<FusionOutput>>,
        step: &mut Step,
    ) {
        for (((key, objective), pairs), fused) in own.into_iter().zip(pairs).zip(fused) {
            let without = pairs.as_ref().map_or(0, |pairs| pairs.without_negative);
            let fused = pairs.as_ref().zip(fused);
            let mut outcome = objective.loss(self.backbone, encoded, fused);
            outcome.without_negative += without;
            // The sum over the batches is divided by their number: a mean over those that the objective runs on.
            let share = self.batches.len() as f64 / self.runs_of(key).max(1) as f64;
            let source = &self.batches[batch];
            let left_out = source.len() - objective.needs().count(source);
            step.add(key, outcome, objective.weight() * share, left_out);
        }
    }

    /// The samples that a batch's pairs are made of. Those of other batches stand behind its own rows, as they are numbered in what
    /// this returns, and are not encoded yet.
    fn choose_partners(
        &self,
        batch: usize,
        own: &[(&'static str, &'a dyn Objective)],
        encoded: &mut UniModal,
    ) -> Vec<Sample> {
        if !own.iter().any(|(_, objective)| objective.hard_negatives()) {
            encoded.partners = Partners::of_batch(encoded, None);
            return Vec::new();
        }
        if let Some((similarity, samples)) = &self.cache.similarity {
            let mine: Vec<usize> = (0..samples.len())
                .filter(|at| samples[*at].batch == batch)
                .collect();
            if let (Some(first), Some(last)) = (mine.first(), mine.last()) {
                let rows = encoded.texts.as_ref().map_or(0, |t| t.class.dims()[0]);
                let partner = |(at, sample): (usize, &Sample)| {
                    let own = sample.batch == batch;
                    Partner {
                        text: if own { sample.row } else { rows + at },
                        image: if own {
                            sample.row
                        } else {
                            encoded.samples + at
                        },
                        picture: sample.picture,
                    }
                };
                let all = samples.iter().enumerate().map(partner).collect();
                let own: Range<usize> = *first..last + 1;
                encoded.partners = Partners::of_all(all, own, Arc::clone(similarity));
                return samples.clone();
            }
        }
        let similarity = self
            .running(batch)
            .into_iter()
            .filter_map(|(_, objective)| objective.contrast())
            .find_map(|contrast| {
                let features = contrast.features(self.backbone, encoded, None);
                contrast.similarity(&features)
            });
        let similarity = similarity.map(Similarity::fetch);
        encoded.partners = Partners::of_batch(encoded, similarity);
        Vec::new()
    }

    /// Encodes the samples of other batches that pairs name, and numbers their rows as they come to lie.
    fn encode_further(
        &self,
        further: &[Sample],
        pairs: &mut [Option<Pairs>],
        encoded: &mut UniModal,
        hides_tags: bool,
    ) {
        if further.is_empty() {
            return;
        }
        let texts = encoded.texts.as_ref().map_or(0, |t| t.class.dims()[0]);
        let images = encoded.samples;
        let named = |rows: fn(&Pairs) -> &Vec<usize>, first: usize| -> BTreeSet<usize> {
            let all = pairs.iter().flatten().flat_map(|pairs| rows(pairs).iter());
            all.filter(|row| **row >= first)
                .map(|row| row - first)
                .collect()
        };
        let named_texts = named(|pairs| &pairs.texts, texts);
        let named_images = named(|pairs| &pairs.images, images);
        let place = |at: &usize| (further[*at].batch, further[*at].row);
        let pad = self.backbone.text.pad_id() as i32;
        if let Some(own) = encoded.texts.as_ref().filter(|_| !named_texts.is_empty()) {
            let rows: Vec<(usize, usize)> = named_texts.iter().map(place).collect();
            let batch = texts_of(self.batches, &rows, pad);
            let wanted = Wanted {
                plain: true,
                ..Wanted::default()
            };
            let mut other = UniModal::new(&batch);
            encode(self.backbone, &batch, wanted, self.device, &mut other);
            let other = other.texts.expect("invariant: the rows have texts");
            encoded.pair_texts = Some(join_texts(own, other));
        }
        // Where some batches have tags and others none, each kind is encoded by itself.
        let has_tags = |at: &usize| {
            self.batches[further[*at].batch]
                .further_texts
                .contains_key(TAGS)
        };
        let (with, without): (Vec<usize>, Vec<usize>) =
            named_images.into_iter().partition(has_tags);
        let mut parts = Vec::new();
        for kind in [&with, &without]
            .into_iter()
            .filter(|kind| !kind.is_empty())
        {
            let rows: Vec<(usize, usize)> = kind.iter().map(place).collect();
            let batch = pictures_of(self.batches, &rows, pad, hides_tags);
            let wanted = Wanted {
                pictures: true,
                ..Wanted::default()
            };
            let mut other = UniModal::new(&batch);
            encode(self.backbone, &batch, wanted, self.device, &mut other);
            parts.push(other.images.expect("invariant: the rows have pictures"));
        }
        if let Some(own) = encoded.images.as_ref().filter(|_| !parts.is_empty()) {
            parts.insert(0, own.clone());
            encoded.pair_images = Some(join_images(parts));
        }
        let numbered = |first: usize, order: Vec<usize>| -> BTreeMap<usize, usize> {
            let places = order.into_iter().enumerate();
            places
                .map(|(place, at)| (first + at, first + place))
                .collect()
        };
        let text_places = numbered(texts, named_texts.into_iter().collect());
        let image_places = numbered(images, with.into_iter().chain(without).collect());
        for pairs in pairs.iter_mut().flatten() {
            let renumber = |rows: &mut Vec<usize>, places: &BTreeMap<usize, usize>| {
                for row in rows {
                    *row = places.get(row).copied().unwrap_or(*row);
                }
            };
            renumber(&mut pairs.texts, &text_places);
            renumber(&mut pairs.images, &image_places);
        }
    }
}

impl Collected<'_> {
    fn pictures(&self) -> Vec<Option<u64>> {
        let parts = self.parts.iter();
        parts
            .flat_map(|part| part.pictures.iter().copied())
            .collect()
    }

    /// How similar captions and images are, and of which samples; none where the contrast has no such thing.
    fn similarity(&self) -> Option<(Arc<Similarity>, Vec<Sample>)> {
        let features: Vec<Features> = self.parts.iter().map(|p| p.features.clone()).collect();
        let matrix = self.contrast.similarity(&Features::cat(&features))?;
        let samples = self.parts.iter().flat_map(|part| {
            part.rows
                .iter()
                .zip(&part.pictures)
                .map(|(row, picture)| Sample {
                    batch: part.batch,
                    row: *row,
                    picture: *picture,
                })
        });
        Some((Arc::new(Similarity::fetch(matrix)), samples.collect()))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
