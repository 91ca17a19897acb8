//! The batches of one optimiser step, seen together.
//!
//! Most losses are means over a batch, and those of a step's batches are averaged. Losses that contrast samples with each other
//! ([`crate::contrast`]) are taken over all batches as if they were one, in the memory of one (GradCache, Gao et al. 2021):
//!
//! 1. [`Together::contrast`]: batch by batch, the features alone, without a tape; then the loss over all of them and its gradient `g`
//!    with respect to the features `f`.
//! 2. [`Together::batch`]: batch by batch, everything, with the same random numbers, and `sum(f * g)` in the place of the loss. Its
//!    gradient is the loss's, by the chain rule.
//!
//! The features must be the same to the last bit in both passes. So both passes compute what the contrasts need first, in tensors
//! of the same shape, and the rest afterwards.
//!
//! Hard negatives come from all samples. If one lies in another batch, its row goes through the encoders again, in the batch that
//! it is paired in, for its gradient. These are at most as many rows as the batch has, for texts and for images.
//!
//! It is known which batches each objective runs on before the first of them runs. So each loss has the weight that the recipe
//! gives it, however many batches lack something for it. Nothing here knows an objective by its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use unimo_batch::{Batch, TAGS};
use unimo_core::average;
use unimo_core::world::World;
use unimo_encoders::backbone::Backbone;

use crate::context::Context;
use crate::contrast::{Contrast, Contrasted, pictures};
use crate::encode::{
    Wanted, encode, join_images, join_texts, pictures_of, plain_images, plain_texts, texts_of,
};
use crate::encoded::{Encoded, WithFurther};
use crate::features::Features;
use crate::objective::Objective;
use crate::pairs::{Fused, Pairs, fuse};
use crate::partners::{Partner, Partners, Similarity};
use crate::request::{By, Request, holds};
use crate::step::Step;
use crate::teacher::Teacher;
use crate::{Draws, Objectives};

/// The key that seeds the length of a text's prefix, in texts read from left to right. No objective has this name.
const PREFIX: &str = "prefix of a text";

/// The batches of one optimiser step.
pub struct Together<'a> {
    objectives: &'a Objectives,
    backbone: &'a Backbone,
    batches: &'a [Batch],
    device: &'a Device,
    teacher: Option<&'a Teacher>,
    world: World,
    /// Seeds the device's random numbers for a batch.
    seed: Option<&'a dyn Fn(usize)>,
    plans: Vec<Plan>,
    cache: Cache,
}

/// What is done with a batch.
#[derive(Default)]
struct Plan {
    run: Vec<&'static str>,
    skipped: Vec<&'static str>,
}

/// What the first pass leaves for the second.
#[derive(Default)]
struct Cache {
    /// The gradient of the weighted loss with respect to the features, by objective and batch.
    gradients: HashMap<(&'static str, usize), Features>,
    /// Similarities of all samples with each other, if an objective asks for them.
    similarity: Option<(Arc<Similarity>, Vec<Sample>)>,
}

/// A sample of one of the batches.
#[derive(Debug, Clone, Copy)]
struct Sample {
    batch: usize,
    row: usize,
    picture: Option<u64>,
}

/// The result over all batches.
#[derive(Debug)]
pub struct Over {
    /// The losses, each over all batches. Their gradients are already taken.
    pub step: Step,
    /// Gradients of parameters that only the losses over all batches use, such as temperatures.
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
    /// Prepares the batches of one optimiser step for the objectives whose keys are `chosen`.
    pub fn together<'a>(
        &'a self,
        chosen: &dyn Fn(&str) -> bool,
        backbone: &'a Backbone,
        batches: &'a [Batch],
        device: &'a Device,
    ) -> Together<'a> {
        let mut plans: Vec<Plan> = batches.iter().map(|_| Plan::default()).collect();
        for (key, objective) in self.each().into_iter().filter(|(key, _)| chosen(key)) {
            let settings = objective.settings();
            let (requests, samples) = (settings.requests(), settings.samples());
            let holds = |batch: &Batch| holds(&requests, samples, backbone, batch);
            let count = |batch: &Batch| {
                if holds(batch) {
                    samples.count(batch)
                } else {
                    0
                }
            };
            let counts: Vec<usize> = batches.iter().map(count).collect();
            // An objective that looks beyond its batch finds other samples there.
            let beyond = objective.contrast().is_some() || settings.asks_similarity();
            let enough = !beyond || counts.iter().sum::<usize>() >= samples.least;
            let least = if beyond { 1 } else { samples.least };
            for ((plan, count), batch) in plans.iter_mut().zip(counts).zip(batches) {
                let runs = enough && count >= least && holds(batch);
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
            teacher: None,
            world: World::ALONE,
            seed: None,
            plans,
            cache: Cache::default(),
        }
    }
}

impl<'a> Together<'a> {
    /// `seed` seeds the device's random numbers for a batch, given its place in the step. Both passes call it before each batch.
    pub fn seeded(self, seed: &'a dyn Fn(usize)) -> Self {
        Self {
            seed: Some(seed),
            ..self
        }
    }

    /// The same with the moving average of the encoders, for the objectives that ask for it.
    pub fn with_teacher(self, teacher: Option<&'a Teacher>) -> Self {
        Self { teacher, ..self }
    }

    /// Number of batches on which an objective runs.
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

    fn teacher(&self) -> Option<&'a Backbone> {
        self.teacher.map(|teacher| &teacher.backbone)
    }

    fn context<'b>(
        &'b self,
        backbone: &'b Backbone,
        batch: usize,
        encoded: &'b Encoded,
    ) -> Context<'b> {
        Context {
            backbone,
            teacher: self.teacher,
            batch: &self.batches[batch],
            encoded,
            device: self.device,
            world: &self.world,
        }
    }

    fn begin(&self, batch: usize) {
        if let Some(seed) = self.seed {
            seed(batch);
        }
    }

    /// The losses over all batches, if an objective is contrasted over several of them. Call it before [`batch`](Self::batch).
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
            let weight = collected.objective.settings().weight();
            step.add(key, outcome, weight, left_out);
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
        let asks = |(_, objective): (&str, &dyn Objective)| objective.settings().asks_similarity();
        let asked = (0..self.batches.len()).any(|b| self.running(b).into_iter().any(asks));
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
        // Copies of the weights that track no gradient: no operation on them is recorded, and dropout is still on.
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
            let mut encoded = Encoded::new(&self.batches[batch]);
            let wanted = self.wanted_by(&copies, batch);
            let features = self.features(backbone, &copies, batch, &wanted, &mut encoded);
            for (((key, copy), features), (_, objective)) in
                copies.iter().zip(features).zip(&shared)
            {
                let rows = copy.samples(&encoded);
                let context = self.context(backbone, batch, &encoded);
                let part = Part {
                    batch,
                    pictures: pictures(&encoded, &rows),
                    rows,
                    features,
                    fixed: copy.fixed(&context).map(|x| x.clone().detach()),
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

    /// The inputs that a batch's contrasts read. Tags are hidden as for all objectives of the batch, since images are encoded once.
    fn wanted_by(&self, contrasts: &[(&'static str, &dyn Contrast)], batch: usize) -> Wanted {
        let mut all = Vec::new();
        let mut own = Vec::new();
        for (key, objective) in self.running(batch) {
            let requests = objective.settings().requests();
            if contrasts.iter().any(|(contrast, _)| *contrast == key) {
                own.extend_from_slice(&requests);
            }
            all.extend(requests);
        }
        let source = &self.batches[batch];
        let hides_tags = Wanted::fixed(&all, self.backbone, source).hides_tags();
        Wanted::fixed(&own, self.backbone, source).hiding_tags(hides_tags)
    }

    /// The features of a batch, in the order of `contrasts`. Both passes compute them first.
    fn features(
        &self,
        backbone: &Backbone,
        contrasts: &[(&'static str, &dyn Contrast)],
        batch: usize,
        wanted: &Wanted,
        encoded: &mut Encoded,
    ) -> Vec<Features> {
        let (source, teacher) = (&self.batches[batch], self.teacher());
        encode((backbone, teacher), source, wanted, self.device, encoded);
        let pairs = contrasts.iter().map(|(_, c)| c.pairs(encoded)).collect();
        let fused = fuse(backbone, teacher, encoded, pairs);
        let context = self.context(backbone, batch, encoded);
        let each = contrasts.iter().zip(&fused);
        each.map(|((_, contrast), fused)| contrast.features(&context, fused))
            .collect()
    }

    /// The forward pass of a batch and every loss. `draws` chooses negatives. This call changes nothing.
    pub fn batch(&self, batch: usize, draws: Draws) -> Step {
        self.begin(batch);
        let (backbone, source) = (self.backbone, &self.batches[batch]);
        let (shared, own): (Vec<_>, Vec<_>) = self
            .running(batch)
            .into_iter()
            .partition(|(key, _)| self.cache.gradients.contains_key(&(*key, batch)));
        let mut encoded = Encoded::new(source);
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
            // The fixed features were used in the first pass.
            let wanted = self.wanted_by(&contrasts, batch).by_student();
            let features = self.features(backbone, &contrasts, batch, &wanted, &mut encoded);
            done = wanted;
            for (key, features) in keys.iter().zip(features) {
                let part = features.dot(&self.cache.gradients[&(*key, batch)]);
                surrogate = match (surrogate, part) {
                    (Some(sum), Some(part)) => Some(sum + part),
                    (sum, part) => sum.or(part),
                };
            }
        }

        let wanted = self.wanted(batch, &shared, draws);
        let hides_tags = wanted.hides_tags();
        let rest = wanted.without(&done);
        let teacher = self.teacher();
        encode(
            (backbone, teacher),
            source,
            &rest,
            self.device,
            &mut encoded,
        );
        let further = self.choose_partners(batch, &own, &mut encoded);
        let pairs: Vec<Vec<Pairs>> = own
            .iter()
            .map(|(key, objective)| objective.pairs(&encoded, &mut draws.of(key)))
            .collect();
        self.encode_further(&further, &pairs, &mut encoded, hides_tags);
        let fused = fuse(backbone, teacher, &encoded, pairs);
        self.losses(batch, own, &encoded, &fused, &mut step);
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

    /// All inputs of a batch to encode, without the fixed features of contrasts, which were used in the first pass.
    fn wanted(
        &self,
        batch: usize,
        shared: &[(&'static str, &'a dyn Objective)],
        draws: Draws,
    ) -> Wanted {
        let mut requests: Vec<Request> = Vec::new();
        for (key, objective) in self.running(batch) {
            let own = objective.settings().requests().into_iter();
            if shared.iter().any(|(shared, _)| *shared == key) {
                requests.extend(own.filter(|request| request.by == By::Student));
            } else {
                requests.extend(own);
            }
        }
        let rng = &mut draws.of(PREFIX);
        Wanted::of(&requests, self.backbone, &self.batches[batch], rng)
    }

    fn losses(
        &self,
        batch: usize,
        own: Vec<(&'static str, &'a dyn Objective)>,
        encoded: &Encoded,
        fused: &[Vec<Fused>],
        step: &mut Step,
    ) {
        let context = self.context(self.backbone, batch, encoded);
        for ((key, objective), fused) in own.into_iter().zip(fused) {
            let mut outcome = objective.loss(&context, fused);
            outcome.without_negative += fused
                .iter()
                .map(|fused| fused.pairs.without_negative)
                .sum::<usize>();
            // The sum over batches is divided by their number, so this makes it a mean over the batches that the objective runs on.
            let share = self.batches.len() as f64 / self.runs_of(key).max(1) as f64;
            let (source, settings) = (&self.batches[batch], objective.settings());
            let left_out = source.len() - settings.samples().count(source);
            step.add(key, outcome, settings.weight() * share, left_out);
        }
    }

    /// The samples that a batch's pairs are made of. Samples of other batches are numbered after its own, in the order of the
    /// returned list, and are not encoded yet.
    fn choose_partners(
        &self,
        batch: usize,
        own: &[(&'static str, &'a dyn Objective)],
        encoded: &mut Encoded,
    ) -> Vec<Sample> {
        let asks = |(_, objective): &(_, &dyn Objective)| objective.settings().asks_similarity();
        if !own.iter().any(asks) {
            encoded.set_partners(None);
            return Vec::new();
        }
        if let Some((similarity, samples)) = &self.cache.similarity {
            let mine: Vec<usize> = (0..samples.len())
                .filter(|at| samples[*at].batch == batch)
                .collect();
            if let (Some(first), Some(last)) = (mine.first(), mine.last()) {
                let partner = |(at, sample): (usize, &Sample)| Partner {
                    sample: if sample.batch == batch {
                        sample.row
                    } else {
                        encoded.samples + at
                    },
                    picture: sample.picture,
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
                let context = self.context(self.backbone, batch, encoded);
                contrast.similarity(&contrast.features(&context, &[]))
            });
        let similarity = similarity.map(Similarity::fetch);
        encoded.set_partners(similarity);
        Vec::new()
    }

    /// Encodes the samples of other batches that pairs name, after the batch's own rows.
    fn encode_further(
        &self,
        further: &[Sample],
        pairs: &[Vec<Pairs>],
        encoded: &mut Encoded,
        hides_tags: bool,
    ) {
        if further.is_empty() {
            return;
        }
        let first = encoded.samples;
        let named = |samples: fn(&Pairs) -> &Vec<usize>| -> BTreeSet<usize> {
            let all = pairs.iter().flatten().flat_map(&samples);
            let beyond = all.filter(|sample| **sample >= first);
            beyond.map(|sample| sample - first).collect()
        };
        let texts = named(|pairs| &pairs.texts);
        let images = named(|pairs| &pairs.images);
        self.encode_further_texts(further, texts, encoded);
        self.encode_further_images(further, images, encoded, hides_tags);
    }

    fn encode_further_texts(
        &self,
        further: &[Sample],
        named: BTreeSet<usize>,
        encoded: &mut Encoded,
    ) {
        let tables = encoded.tables(By::Student);
        let Some(own) = tables.both_directions().filter(|_| !named.is_empty()) else {
            return;
        };
        let places: Vec<(usize, usize)> = named.iter().map(|at| further[*at].place()).collect();
        let batch = texts_of(self.batches, &places, self.backbone.text.pad_id() as i32);
        let mut other = Encoded::new(&batch);
        let wanted = plain_texts();
        encode(
            (self.backbone, None),
            &batch,
            &wanted,
            self.device,
            &mut other,
        );
        let other = other.tables(By::Student).both_directions().cloned();
        let other = other.expect("invariant: the rows have texts");
        let rows = numbered(encoded.samples, tables.rows(), named);
        let features = join_texts(own, other);
        encoded.set_pair_texts(WithFurther { features, rows });
    }

    fn encode_further_images(
        &self,
        further: &[Sample],
        named: BTreeSet<usize>,
        encoded: &mut Encoded,
        hides_tags: bool,
    ) {
        // If only some batches have tags, those with and those without are encoded separately.
        let has_tags = |at: &usize| {
            self.batches[further[*at].batch]
                .further_texts
                .contains_key(TAGS)
        };
        let (with, without): (Vec<usize>, Vec<usize>) = named.into_iter().partition(has_tags);
        let mut parts = Vec::new();
        let kinds = [&with, &without].into_iter();
        for kind in kinds.filter(|kind| !kind.is_empty()) {
            let places: Vec<(usize, usize)> = kind.iter().map(|at| further[*at].place()).collect();
            let pad = self.backbone.text.pad_id() as i32;
            let batch = pictures_of(self.batches, &places, pad, hides_tags);
            let mut other = Encoded::new(&batch);
            let wanted = plain_images();
            encode(
                (self.backbone, None),
                &batch,
                &wanted,
                self.device,
                &mut other,
            );
            let images = other.tables(By::Student).plain_images().cloned();
            parts.push(images.expect("invariant: the rows have pictures"));
        }
        let own = encoded.tables(By::Student).plain_images();
        if let Some(own) = own.filter(|_| !parts.is_empty()) {
            parts.insert(0, own.clone());
            let order = with.into_iter().chain(without);
            let rows = numbered(encoded.samples, encoded.samples, order);
            let features = join_images(parts);
            encoded.set_pair_images(WithFurther { features, rows });
        }
    }
}

/// Maps the numbers of further samples to their rows. Numbers start at `samples`, rows at `rows`.
fn numbered(
    samples: usize,
    rows: usize,
    order: impl IntoIterator<Item = usize>,
) -> BTreeMap<usize, usize> {
    let places = order.into_iter().enumerate();
    places
        .map(|(place, at)| (samples + at, rows + place))
        .collect()
}

impl Sample {
    fn place(&self) -> (usize, usize) {
        (self.batch, self.row)
    }
}

impl Collected<'_> {
    fn pictures(&self) -> Vec<Option<u64>> {
        let parts = self.parts.iter();
        parts
            .flat_map(|part| part.pictures.iter().copied())
            .collect()
    }

    /// The similarities of captions and images, and their samples; `None` if the contrast gives none.
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
