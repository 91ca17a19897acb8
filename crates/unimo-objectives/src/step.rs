//! One forward pass for all objectives.
//!
//! Every image and every text is encoded once, whatever the number of objectives, and all pairs that they ask for go
//! through the cross-modal encoder as one batch (METER runs everything once per objective).

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use unimo_core::batch::{Batch, TAGS};
use unimo_encoders::backbone::{Backbone, ImageFeatures, Pictures, TextFeatures};
use unimo_encoders::fusion::{FusionOutput, Keep};
use unimo_encoders::joint::View;

use crate::Objectives;
use crate::objective::{Carry, LeftToRight, Needs, Objective, Outcome, Pairs, UniModal, ints};

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
        let has = |needs: &Needs| {
            let masked = batch.texts.as_ref().is_some_and(|t| t.masked.is_some());
            let images = backbone.sees(batch);
            let second_view = batch.images.as_ref().and_then(|i| i.second_view.as_ref());
            (images || !needs.images)
                && (batch.texts.is_some() || !needs.texts)
                && (masked || needs.masked.is_none())
                && (second_view.is_some() || !needs.second_view)
                && (batch.further_texts.contains_key(TAGS) || !needs.tags)
                && (batch.texts.as_ref().is_some_and(|t| t.concepts.is_some()) || !needs.concepts)
                && batch.len() >= needs.samples
                && !(needs.alone && images && batch.texts.is_some())
        };
        let (run, skip): (Vec<_>, Vec<_>) = self
            .each()
            .into_iter()
            .filter(|(key, _)| chosen(key))
            .partition(|(_, objective)| has(&objective.needs()));

        let mut uni_modal = encode(backbone, batch, &run, device, rng);
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
    rng: &mut ChaCha8Rng,
) -> UniModal {
    let needs: Vec<Needs> = run.iter().map(|(_, o)| o.needs()).collect();
    let samples = batch.len();
    // One that names no modality, as the grounded dictionary, takes what there is; so does one that can do without pictures. What
    // concerns phrases alone does not.
    let looks = |n: &Needs| n.images || n.texts || !n.concepts;
    let pictures = needs
        .iter()
        .any(looks)
        .then(|| backbone.pictures(batch, device))
        .flatten();
    let tags = batch
        .further_texts
        .get(TAGS)
        .filter(|_| backbone.image_tags && pictures.is_some());
    let hides_concepts = needs.iter().any(|n| n.concept_rate.is_some());
    // Pictures are encoded once, with the tags hidden that are to be recovered, as in MVP's release.
    let hidden_tags = tags
        .and_then(|tags| tags.masked.as_ref())
        .filter(|_| hides_concepts);
    let tag_input = tags.map(|tags| {
        let ids = hidden_tags.map_or(&tags.ids, |masked| &masked.ids);
        backbone.text.input(ids, &tags.lengths, tags.length, device)
    });
    let second_views = batch
        .images
        .as_ref()
        .filter(|_| needs.iter().any(|n| n.second_view))
        .and_then(|images| {
            let pixels = images.second_view.as_ref()?;
            Some(Pictures::of_pixels(images, pixels, device))
        })
        .map(|pictures| backbone.encode_pictures(&pictures, None, 0));
    let of_concepts = |n: &Needs| n.concepts && n.concept_rate.is_some();
    let masks = batch.texts.as_ref().is_some_and(|t| t.masked.is_some())
        && needs.iter().any(|n| n.masked.is_some() || of_concepts(n));
    let plain = needs
        .iter()
        .any(|n| n.masked.is_none() && !n.left_to_right && (n.texts || !n.images && !masks));
    let hidden = needs.iter().any(|n| n.masked.is_some() || of_concepts(n));
    let mut ids = Vec::new();
    let mut lengths = Vec::new();
    let mut labels = Vec::new();
    let mut concept_labels = Vec::new();
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
            concept_labels = masked.concept_labels.clone().unwrap_or_default();
        }
    }
    let left_to_right = batch
        .texts
        .as_ref()
        .filter(|_| needs.iter().any(|n| n.left_to_right))
        .map(|texts| {
            let prefix = match backbone.sees(batch) {
                true => 1,
                false => {
                    let share = rng.random_range(PREFIX_SHARES);
                    (share * texts.length as f64).round().max(2.0) as usize
                }
            };
            let (ids, lengths) = (&texts.ids, &texts.lengths);
            let input = backbone.text.input(ids, lengths, texts.length, device);
            LeftToRight {
                texts: backbone.encode_texts(&input.from_left_to_right(prefix)),
                prefix,
                ids: ids.clone(),
                lengths: lengths.clone(),
            }
        });
    let texts = (!lengths.is_empty()).then(|| {
        let input = backbone.text.input(&ids, &lengths, length, device);
        backbone.encode_texts(&input)
    });
    UniModal {
        samples,
        images: pictures
            .as_ref()
            .map(|pictures| backbone.encode_pictures(pictures, tag_input.as_ref(), 0)),
        pixels: pictures.and_then(|pictures| pictures.pixels().cloned()),
        text_input,
        texts,
        masked: masked_row,
        labels,
        tag_labels: hidden_tags.map_or_else(Vec::new, |masked| masked.labels.clone()),
        concept_labels,
        concepts: batch
            .texts
            .as_ref()
            .and_then(|texts| texts.concepts.clone())
            .unwrap_or_default(),
        text_lengths: batch
            .texts
            .as_ref()
            .map_or_else(Vec::new, |texts| texts.lengths.clone()),
        second_views,
        left_to_right,
        similarity: None,
    }
}

/// What lies between the first and the last share of a text without a picture that is given and not predicted.
const PREFIX_SHARES: std::ops::Range<f64> = 0.1..0.5;

/// All pairs that are looked at alike through the cross-modal encoder at once, each only once, then split again.
fn fuse(
    backbone: &Backbone,
    batch: &UniModal,
    pairs: &[Option<Pairs>],
) -> Vec<Option<FusionOutput>> {
    let mut passes: Vec<Pass> = Vec::new();
    // Per objective its pass and its rows there.
    let places: Vec<Option<(usize, Vec<usize>)>> = pairs
        .iter()
        .map(|pairs| {
            let pairs = pairs.as_ref()?;
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
            None => batch.texts.as_ref(),
        };
        let indices = |rows: Vec<usize>, device: &Device| {
            ints(rows.into_iter().map(|row| row as i32).collect(), device)
        };
        let text_rows = self.rows.iter().filter_map(|(text, _)| *text);
        let image_rows = self.rows.iter().filter_map(|(_, image)| *image);
        let texts: Option<TextFeatures> = texts
            .filter(|_| self.texts)
            .map(|texts| texts.select(&indices(text_rows.collect(), &texts.class.device())));
        let images: Option<ImageFeatures> =
            batch.images.as_ref().filter(|_| self.images).map(|images| {
                images.select(&indices(image_rows.collect(), &images.class.device()))
            });
        backbone.fuse_parts(texts.as_ref(), images.as_ref(), &self.view, Keep::Nothing)
    }
}

fn rows_on_host(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = matrix.dims();
    let values: Vec<f32> = matrix.into_data().convert::<f32>().iter::<f32>().collect();
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}
