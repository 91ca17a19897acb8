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
//!
//! The batches of a step may be dealt to several ranks ([`crate::others`]). Each then goes through its own, in step with the others. It
//! gathers the features of all and takes the loss over all of them itself, so that the numbers are those of one process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use unimo_batch::Batch;
use unimo_core::average;
use unimo_core::part;
use unimo_core::world::{Lost, World};
use unimo_encoders::backbone::Backbone;

use crate::context::Context;
use crate::contrast::{Contrast, Contrasted, pictures};
use crate::encode::{Models, Wanted, encode, join_images, join_texts, plain_images, plain_texts};
use crate::encoded::{Encoded, WithFurther};
use crate::features::Features;
use crate::kept::FeatureCache;
use crate::objective::Objective;
use crate::others::{Answered, Asked, Dealt, FeatureData, Outline, PartData, Places, has_tags};
use crate::pairs::{Fused, Pairs, fuse};
use crate::partners::{Between, Partner, Partners, Similarity};
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
    /// The batches of this rank.
    batches: &'a [Batch],
    device: &'a Device,
    teacher: Option<&'a Teacher>,
    kept: Option<&'a dyn FeatureCache>,
    world: World,
    /// Seeds the device's random numbers for a batch.
    seed: Option<&'a dyn Fn(usize)>,
    /// The objectives that are trained.
    trained: Vec<(&'static str, &'a dyn Objective)>,
    /// Each batch of all ranks, by its number, as are the plans.
    outlines: Vec<Outline>,
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
        let trained: Vec<_> = self
            .each()
            .into_iter()
            .filter(|(key, _)| chosen(key))
            .collect();
        let count = |objective: &dyn Objective, batch: &Batch| {
            let settings = objective.settings();
            let (requests, samples) = (settings.requests(), settings.samples());
            holds(&requests, samples, backbone, batch).then(|| samples.count(batch))
        };
        let outline = |batch: &Batch| Outline {
            samples: batch.len(),
            has_tags: has_tags(batch),
            counts: trained.iter().map(|(_, o)| count(*o, batch)).collect(),
        };
        let outlines: Vec<Outline> = batches.iter().map(outline).collect();
        let plans = plans(&trained, &outlines);
        Together {
            objectives: self,
            backbone,
            batches,
            device,
            teacher: None,
            kept: None,
            world: World::ALONE,
            seed: None,
            trained,
            outlines,
            plans,
            cache: Cache::default(),
        }
    }
}

/// Which objectives run on which batches.
fn plans(trained: &[(&'static str, &dyn Objective)], outlines: &[Outline]) -> Vec<Plan> {
    let mut plans: Vec<Plan> = outlines.iter().map(|_| Plan::default()).collect();
    for (at, (key, objective)) in trained.iter().enumerate() {
        let settings = objective.settings();
        let samples = settings.samples();
        let counts = || outlines.iter().map(|outline| outline.counts[at]);
        // An objective that looks beyond its batch finds other samples there.
        let asks = settings.asks_similarity() == Some(Between::TextsAndImages);
        let beyond = objective.contrast().is_some() || asks;
        let enough = !beyond || counts().flatten().sum::<usize>() >= samples.least;
        let least = if beyond { 1 } else { samples.least };
        for (plan, count) in plans.iter_mut().zip(counts()) {
            let runs = enough && count.is_some_and(|count| count >= least);
            let keys = if runs {
                &mut plan.run
            } else {
                &mut plan.skipped
            };
            keys.push(*key);
        }
    }
    plans
}

impl<'a> Together<'a> {
    /// The batches of several ranks, of which `batches` are those of this one: of `R` ranks, rank `r` has the batches `r`, `r + R`, ...
    /// of the step. All ranks have as many.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn among(mut self, world: &World) -> Result<Self, Lost> {
        self.outlines = Dealt::together(world.gather("outlines of batches", self.outlines)?);
        self.plans = plans(&self.trained, &self.outlines);
        self.world = world.clone();
        Ok(self)
    }

    /// `seed` seeds the device's random numbers for a batch, given its number in the step. Both passes call it before each batch.
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

    /// The batch of this number, which this rank has.
    fn source(&self, batch: usize) -> &'a Batch {
        let own = Dealt::among(&self.world).own(batch);
        &self.batches[own.expect("invariant: a rank goes through its own batches")]
    }

    /// The numbers of this rank's batches.
    fn own(&self) -> impl Iterator<Item = usize> + use<> {
        let dealt = Dealt::among(&self.world);
        (0..self.batches.len()).map(move |own| dealt.number(own))
    }

    /// The same with a place where features of frozen encoders are kept.
    pub fn with_kept(self, kept: Option<&'a dyn FeatureCache>) -> Self {
        Self { kept, ..self }
    }

    /// Leaves out every objective but one.
    pub fn keep_only(&mut self, key: &str) {
        for plan in &mut self.plans {
            plan.run.retain(|own| *own == key);
            plan.skipped.retain(|own| *own == key);
        }
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

    /// The student alone, with what is kept of it.
    fn student(&self) -> Models<'a> {
        Models {
            kept: self.kept,
            ..Models::of(self.backbone)
        }
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
            batch: self.source(batch),
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

    /// The losses over all batches, if an objective is contrasted over several of them. Call it before [`batch`](Self::batch). All ranks
    /// compute the same.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn contrast(&mut self) -> Result<Option<Over>, Lost> {
        let _part = part!(Some(self.device.clone()), "contrast over all micro-batches");
        let all = self.collect()?;
        if all.is_empty() {
            return Ok(None);
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
                .map(|part| self.outlines[part.batch].samples - part.rows.len())
                .sum();
            let weight = collected.objective.settings().weight();
            step.add(key, outcome, weight, left_out);
            leaves.push(leaf);
        }
        let Some(loss) = step.loss.take() else {
            return Ok(None);
        };
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
        let asks = |(_, objective): (&str, &dyn Objective)| {
            objective.settings().asks_similarity() == Some(Between::TextsAndImages)
        };
        let asked = (0..self.plans.len()).any(|b| self.running(b).into_iter().any(asks));
        let gives = |collected: &&Collected<'_>| {
            collected.objective.settings().gives_similarity() == Some(Between::TextsAndImages)
        };
        let mut given = all.iter().map(|(_, collected)| collected).filter(gives);
        let similarity = asked.then(|| given.find_map(Collected::similarity));
        self.cache = Cache {
            gradients: of_batches,
            similarity: similarity.flatten(),
        };
        Ok(Some(Over {
            step,
            gradients: GradientsParams::from_grads(gradients, self.objectives),
        }))
    }

    /// The first pass: features of all batches, by objective, without a tape.
    fn collect(&self) -> Result<Vec<(&'static str, Collected<'a>)>, Lost> {
        let mut all: Vec<(&'static str, Collected<'a>)> = Vec::new();
        for batch in 0..self.plans.len() {
            for (key, objective) in self.shared(batch) {
                if !all.iter().any(|(known, _)| *known == key) {
                    let collected = Collected {
                        objective,
                        contrast: objective
                            .contrast()
                            .expect("invariant: what is shared is a contrast"),
                        parts: Vec::new(),
                    };
                    all.push((key, collected));
                }
            }
        }
        if all.is_empty() {
            return Ok(all);
        }
        let keys: Vec<&'static str> = all.iter().map(|(key, _)| *key).collect();
        let own = self.parts(&keys);
        for (contrast, part) in self.parts_of_all(own)? {
            all[contrast].1.parts.push(part);
        }
        Ok(all)
    }

    /// The features of this rank's batches, each with the place of its objective in `keys`.
    fn parts(&self, keys: &[&'static str]) -> Vec<(usize, Part)> {
        // Copies of the weights that track no gradient: no operation on them is recorded, and dropout is still on.
        let backbone = average::frozen_copy(self.backbone);
        let objectives = average::frozen_copy(self.objectives);
        let mut parts = Vec::new();
        for batch in self.own() {
            let shared = self.shared(batch);
            if shared.is_empty() {
                continue;
            }
            self.begin(batch);
            let copies: Vec<(&'static str, &dyn Contrast)> = objectives
                .each()
                .into_iter()
                .filter(|(key, _)| shared.iter().any(|(shared, _)| shared == key))
                .filter_map(|(key, objective)| Some((key, objective.contrast()?)))
                .collect();
            let mut encoded = Encoded::new(self.source(batch));
            let wanted = self.wanted_by(&copies, batch);
            let features = self.features(&backbone, &copies, batch, &wanted, &mut encoded);
            for ((key, copy), features) in copies.iter().zip(features) {
                let rows = copy.samples(&encoded);
                let context = self.context(&backbone, batch, &encoded);
                let part = Part {
                    batch,
                    pictures: pictures(&encoded, &rows),
                    rows,
                    features,
                    fixed: copy.fixed(&context).map(|x| x.clone().detach()),
                };
                let contrast = keys.iter().position(|known| known == key);
                parts.extend(contrast.map(|contrast| (contrast, part)));
            }
        }
        parts
    }

    /// The parts of all ranks, in the order of the batches.
    fn parts_of_all(&self, own: Vec<(usize, Part)>) -> Result<Vec<(usize, Part)>, Lost> {
        if self.world.is_alone() {
            return Ok(own);
        }
        let told = own.into_iter().map(|(contrast, part)| PartData {
            contrast,
            batch: part.batch,
            rows: part.rows,
            pictures: part.pictures,
            features: FeatureData::of(&part.features),
            fixed: FeatureData::of(&part.fixed),
        });
        let told: Vec<PartData> = told.collect();
        let all = self.world.gather("features to contrast", told)?;
        let mut all: Vec<PartData> = all.into_iter().flatten().collect();
        all.sort_by_key(|part| part.batch);
        let part = |part: PartData| {
            let known = Part {
                batch: part.batch,
                rows: part.rows,
                pictures: part.pictures,
                features: part.features.on(self.device),
                fixed: part.fixed.on(self.device),
            };
            (part.contrast, known)
        };
        Ok(all.into_iter().map(part).collect())
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
        let source = self.source(batch);
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
        let (source, teacher) = (self.source(batch), self.teacher());
        let models = Models {
            student: backbone,
            teacher,
            kept: self.kept,
        };
        encode(models, source, wanted, self.device, encoded);
        let pairs = contrasts.iter().map(|(_, c)| c.pairs(encoded)).collect();
        let fused = fuse(backbone, teacher, encoded, pairs);
        let context = self.context(backbone, batch, encoded);
        let each = contrasts.iter().zip(&fused);
        each.map(|((_, contrast), fused)| contrast.features(&context, fused))
            .collect()
    }

    /// The number over all ranks of this rank's batch `own`.
    pub fn number(&self, own: usize) -> usize {
        Dealt::among(&self.world).number(own)
    }

    /// The forward pass of this rank's batch `own` and every loss. `draws` chooses negatives. This call changes nothing. All ranks call
    /// it for their first batch, then for their second, and so on.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn batch(&self, own: usize, draws: Draws) -> Result<Step, Lost> {
        let batch = self.number(own);
        self.begin(batch);
        let (backbone, source) = (self.backbone, self.source(batch));
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
        let models = Models {
            teacher,
            ..self.student()
        };
        encode(models, source, &rest, self.device, &mut encoded);
        let further = self.choose_partners(batch, &own, &mut encoded);
        let pairs: Vec<Vec<Pairs>> = own
            .iter()
            .map(|(key, objective)| objective.pairs(&encoded, &mut draws.of(key)))
            .collect();
        self.encode_further(&further, &pairs, &mut encoded, hides_tags)?;
        let fused = fuse(backbone, teacher, &encoded, pairs);
        self.losses(batch, own, &encoded, &fused, &mut step);
        let batches = self.plans.len();
        if batches > 1 {
            step.loss = step.loss.map(|loss| loss.div_scalar(batches as f64));
        }
        step.loss = match (step.loss, surrogate) {
            (Some(loss), Some(surrogate)) => Some(loss + surrogate),
            (loss, surrogate) => loss.or(surrogate),
        };
        Ok(step)
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
        Wanted::of(&requests, self.backbone, self.source(batch), rng)
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
            let _part = part!(Some(self.device.clone()), "loss", objective = key);
            let mut outcome = objective.loss(&context, fused);
            outcome.without_negative += fused
                .iter()
                .map(|fused| fused.pairs.without_negative)
                .sum::<usize>();
            // The sum over batches is divided by their number, so this makes it a mean over the batches that the objective runs on.
            let share = self.plans.len() as f64 / self.runs_of(key).max(1) as f64;
            let (source, settings) = (self.source(batch), objective.settings());
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
        let asks = |between| {
            let asked = |(_, objective): &(_, &dyn Objective)| {
                objective.settings().asks_similarity() == Some(between)
            };
            own.iter().any(asked)
        };
        // Wrong translations come from the batch itself, as in CCLM's release, where a batch is that of one GPU.
        let of_texts = asks(Between::TextsAndTexts).then_some(Between::TextsAndTexts);
        let of_texts = of_texts.and_then(|between| self.similarity(between, batch, encoded));
        encoded.set_text_partners(of_texts);
        if !asks(Between::TextsAndImages) {
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
        let similarity = self.similarity(Between::TextsAndImages, batch, encoded);
        encoded.set_partners(similarity);
        Vec::new()
    }

    /// Similarities of a batch's samples, by the contrast that runs on it and gives them.
    fn similarity(&self, between: Between, batch: usize, encoded: &Encoded) -> Option<Similarity> {
        let running = self.running(batch).into_iter();
        let given = running
            .filter(|(_, objective)| objective.settings().gives_similarity() == Some(between))
            .filter_map(|(_, objective)| objective.contrast());
        let context = self.context(self.backbone, batch, encoded);
        let mut found =
            given.map(|contrast| contrast.similarity(&contrast.features(&context, &[])));
        found
            .find_map(|similarity| similarity)
            .map(Similarity::fetch)
    }

    /// Encodes the samples of other batches that pairs name, after the batch's own rows. The ranks that have them give them.
    fn encode_further(
        &self,
        further: &[Sample],
        pairs: &[Vec<Pairs>],
        encoded: &mut Encoded,
        hides_tags: bool,
    ) -> Result<(), Lost> {
        // Known to all ranks, so that all ask or none does.
        if self.cache.similarity.is_none() {
            return Ok(());
        }
        let first = encoded.samples;
        let named = |samples: fn(&Pairs) -> &Vec<usize>| -> BTreeSet<usize> {
            let all = pairs.iter().flatten().flat_map(&samples);
            let beyond = all.filter(|sample| **sample >= first);
            beyond.map(|sample| sample - first).collect()
        };
        let texts: Vec<usize> = named(|pairs| &pairs.texts).into_iter().collect();
        // If only some batches have tags, those with and those without are encoded separately.
        let has_tags = |at: &usize| self.outlines[further[*at].batch].has_tags;
        let images = named(|pairs| &pairs.images);
        let (tagged, plain): (Vec<usize>, Vec<usize>) = images.into_iter().partition(has_tags);
        let places =
            |named: &[usize]| -> Places { named.iter().map(|at| further[*at].place()).collect() };
        let asked = Asked {
            texts: places(&texts),
            tagged: places(&tagged),
            plain: places(&plain),
            hides_tags,
        };
        let pad = self.backbone.text.pad_id() as i32;
        let answered = asked.answer(&self.world, self.batches, pad)?;
        self.encode_further_texts(texts, answered.texts.as_ref(), encoded);
        self.encode_further_images(tagged.into_iter().chain(plain), &answered, encoded);
        Ok(())
    }

    fn encode_further_texts(
        &self,
        named: Vec<usize>,
        batch: Option<&Batch>,
        encoded: &mut Encoded,
    ) {
        let tables = encoded.tables(By::Student);
        let (Some(own), Some(batch)) = (tables.both_directions(), batch) else {
            return;
        };
        let mut other = Encoded::new(batch);
        let wanted = plain_texts();
        let models = self.student();
        encode(models, batch, &wanted, self.device, &mut other);
        let other = other.tables(By::Student).both_directions().cloned();
        let other = other.expect("invariant: the rows have texts");
        let rows = numbered(encoded.samples, tables.rows(), named);
        let features = join_texts(own, other);
        encoded.set_pair_texts(WithFurther { features, rows });
    }

    fn encode_further_images(
        &self,
        named: impl Iterator<Item = usize>,
        answered: &Answered,
        encoded: &mut Encoded,
    ) {
        let mut parts = Vec::new();
        for batch in answered.tagged.iter().chain(&answered.plain) {
            let mut other = Encoded::new(batch);
            let wanted = plain_images();
            let models = self.student();
            encode(models, batch, &wanted, self.device, &mut other);
            let images = other.tables(By::Student).plain_images().cloned();
            parts.push(images.expect("invariant: the rows have images"));
        }
        let own = encoded.tables(By::Student).plain_images();
        if let Some(own) = own.filter(|_| !parts.is_empty()) {
            parts.insert(0, own.clone());
            let rows = numbered(encoded.samples, encoded.samples, named);
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
