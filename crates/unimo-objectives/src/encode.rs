//! The uni-modal encoders over a batch, once for all objectives.

use burn::tensor::{Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use unimo_batch::{Batch, Images, Regions, TAGS, Texts};
use unimo_core::layers::cast;
use unimo_core::mask::PaddingMask;
use unimo_encoders::backbone::{Backbone, ImageFeatures, Pictures, TextFeatures};

use crate::objective::{LeftToRight, Needs, UniModal};

/// What is to be encoded of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Pictures.
    pub pictures: bool,
    /// Pictures come with the tags hidden that are to be recovered.
    pub hides_tags: bool,
    /// Second views of the pictures.
    pub second_views: bool,
    /// Captions as they are.
    pub plain: bool,
    /// Captions with words hidden.
    pub masked: bool,
    /// Captions read from left to right after so many leading positions.
    pub prefix: Option<usize>,
}

/// What lies between the first and the last share of a text without a picture that is given and not predicted.
const PREFIX_SHARES: std::ops::Range<f64> = 0.1..0.5;

impl Wanted {
    /// All that objectives need of a batch. `rng` says how much of a text without a picture is given.
    pub fn of(needs: &[Needs], backbone: &Backbone, batch: &Batch, rng: &mut ChaCha8Rng) -> Self {
        // One that names no modality, as the grounded dictionary, takes what there is; so does one that can do without pictures. What
        // concerns phrases alone does not.
        let looks = |n: &Needs| n.images || n.texts || !n.concepts;
        let of_concepts = |n: &Needs| n.concepts && n.concept_rate.is_some();
        let masked = needs.iter().any(|n| n.masked.is_some() || of_concepts(n));
        let masks = masked && batch.texts.as_ref().is_some_and(|t| t.masked.is_some());
        let left_to_right = batch
            .texts
            .as_ref()
            .filter(|_| needs.iter().any(|n| n.left_to_right));
        Self {
            pictures: needs.iter().any(looks),
            hides_tags: needs.iter().any(|n| n.concept_rate.is_some()),
            second_views: needs.iter().any(|n| n.second_view),
            plain: needs.iter().any(|n| {
                n.masked.is_none() && !n.left_to_right && (n.texts || !n.images && !masks)
            }),
            masked,
            prefix: left_to_right.map(|texts| {
                if backbone.sees(batch) {
                    return 1;
                }
                let share = rng.random_range(PREFIX_SHARES);
                (share * texts.length as f64).round().max(2.0) as usize
            }),
        }
    }

    /// What contrasts need of a batch; they draw nothing at random. Tags are hidden as `all` has it, since pictures are encoded once.
    pub fn of_contrasts(needs: &[Needs], hides_tags: bool) -> Self {
        Self {
            pictures: needs.iter().any(|n| n.images),
            hides_tags,
            second_views: needs.iter().any(|n| n.second_view),
            plain: needs.iter().any(|n| n.texts),
            ..Self::default()
        }
    }

    /// The rest, where `done` is there.
    pub fn without(self, done: Self) -> Self {
        Self {
            pictures: self.pictures && !done.pictures,
            hides_tags: self.hides_tags,
            second_views: self.second_views && !done.second_views,
            plain: self.plain && !done.plain,
            masked: self.masked && !done.masked,
            prefix: self.prefix.filter(|_| done.prefix.is_none()),
        }
    }
}

/// Runs each uni-modal encoder on what is wanted and not there yet: on the images, and on the captions with the masked captions under
/// them.
pub(crate) fn encode(
    backbone: &Backbone,
    batch: &Batch,
    wanted: Wanted,
    device: &Device,
    into: &mut UniModal,
) {
    let pictures = wanted
        .pictures
        .then(|| backbone.pictures(batch, device))
        .flatten();
    let tags = batch
        .further_texts
        .get(TAGS)
        .filter(|_| backbone.image_tags && pictures.is_some());
    // Pictures are encoded once, with the tags hidden that are to be recovered, as in MVP's release.
    let hidden_tags = tags
        .and_then(|tags| tags.masked.as_ref())
        .filter(|_| wanted.hides_tags);
    let tag_input = tags.map(|tags| {
        let ids = hidden_tags.map_or(&tags.ids, |masked| &masked.ids);
        backbone.text.input(ids, &tags.lengths, tags.length, device)
    });
    if let Some(images) = batch.images.as_ref().filter(|_| wanted.second_views) {
        into.second_views = images.second_view.as_ref().map(|pixels| {
            let pictures = Pictures::of_pixels(images, pixels, device);
            backbone.encode_pictures(&pictures, None, 0)
        });
    }
    if let (Some(texts), Some(prefix)) = (&batch.texts, wanted.prefix) {
        let (ids, lengths) = (&texts.ids, &texts.lengths);
        let input = backbone.text.input(ids, lengths, texts.length, device);
        into.left_to_right = Some(LeftToRight {
            texts: backbone.encode_texts(&input.from_left_to_right(prefix)),
            prefix,
            ids: ids.clone(),
            lengths: lengths.clone(),
        });
    }
    if let Some(texts) = &batch.texts {
        encode_texts(backbone, texts, wanted, device, into);
    }
    if let Some(pictures) = pictures {
        into.tag_labels = hidden_tags.map_or_else(Vec::new, |masked| masked.labels.clone());
        into.images = Some(backbone.encode_pictures(&pictures, tag_input.as_ref(), 0));
        into.pixels = pictures.pixels().cloned();
    }
}

/// The captions as they are and the masked ones in one pass.
fn encode_texts(
    backbone: &Backbone,
    texts: &Texts,
    wanted: Wanted,
    device: &Device,
    into: &mut UniModal,
) {
    let mut ids = Vec::new();
    let mut lengths = Vec::new();
    if wanted.plain {
        ids.extend_from_slice(&texts.ids);
        lengths.extend_from_slice(&texts.lengths);
        let input = backbone.text.input(&ids, &lengths, texts.length, device);
        into.text_input = Some(input);
    }
    if let (true, Some(masked)) = (wanted.masked, &texts.masked) {
        let before = into.texts.as_ref().map_or(0, |texts| texts.class.dims()[0]);
        into.masked = Some(before + lengths.len());
        ids.extend_from_slice(&masked.ids);
        lengths.extend_from_slice(&texts.lengths);
        into.labels.clone_from(&masked.labels);
        into.concept_labels = masked.concept_labels.clone().unwrap_or_default();
    }
    if lengths.is_empty() {
        return;
    }
    let input = backbone.text.input(&ids, &lengths, texts.length, device);
    let new = backbone.encode_texts(&input);
    into.texts = Some(match into.texts.take() {
        None => new,
        Some(before) => TextFeatures::cat(vec![before, new]),
    });
}

/// Captions of several batches as one, padded to the longest of them.
///
/// # Panics
///
/// Panics if one of the batches has no texts.
pub(crate) fn texts_of(batches: &[Batch], rows: &[(usize, usize)], pad: i32) -> Batch {
    let texts = |batch: usize| {
        let texts = batches[batch].texts.as_ref();
        texts.expect("invariant: only batches with texts are paired")
    };
    let parts: Vec<(&Texts, usize)> = rows.iter().map(|&(b, row)| (texts(b), row)).collect();
    Batch {
        samples: names(batches, rows),
        texts: Some(padded(&parts, pad, |texts| &texts.ids)),
        ..Batch::default()
    }
}

/// Rows of texts as one, padded to the longest of them.
fn padded(rows: &[(&Texts, usize)], pad: i32, ids: impl Fn(&Texts) -> &Vec<i32>) -> Texts {
    let lengths: Vec<usize> = rows
        .iter()
        .map(|(texts, row)| texts.lengths[*row])
        .collect();
    let length = lengths.iter().copied().max().unwrap_or(0);
    let mut all = Vec::with_capacity(rows.len() * length);
    for ((texts, row), real) in rows.iter().zip(&lengths) {
        let first = row * texts.length;
        all.extend_from_slice(&ids(texts)[first..first + real]);
        all.resize(all.len() + length - real, pad);
    }
    Texts {
        ids: all,
        length,
        lengths,
        ..Texts::default()
    }
}

fn names(batches: &[Batch], rows: &[(usize, usize)]) -> Vec<String> {
    let name = |&(batch, row): &(usize, usize)| batches[batch].samples[row].clone();
    rows.iter().map(name).collect()
}

/// Pictures of several batches as one, with their tags, which `hides_tags` hides as in their own batch. All of the rows' batches
/// have tags or none.
pub(crate) fn pictures_of(
    batches: &[Batch],
    rows: &[(usize, usize)],
    pad: i32,
    hides_tags: bool,
) -> Batch {
    let tags: Option<Vec<(&Texts, usize)>> = rows
        .iter()
        .map(|&(b, row)| Some((batches[b].further_texts.get(TAGS)?, row)))
        .collect();
    let tags = tags.map(|rows| {
        padded(&rows, pad, |tags| match &tags.masked {
            Some(masked) if hides_tags => &masked.ids,
            _ => &tags.ids,
        })
    });
    Batch {
        samples: names(batches, rows),
        images: images_of(batches, rows),
        regions: regions_of(batches, rows),
        further_texts: tags
            .map(|tags| (TAGS.to_owned(), tags))
            .into_iter()
            .collect(),
        ..Batch::default()
    }
}

fn images_of(batches: &[Batch], rows: &[(usize, usize)]) -> Option<Images> {
    let of = |batch: usize| batches[batch].images.as_ref();
    let first = of(rows.first()?.0)?;
    let count = Images::CHANNELS * first.height * first.width;
    let mut pixels = Vec::with_capacity(rows.len() * count);
    for &(batch, row) in rows {
        pixels.extend_from_slice(&of(batch)?.pixels[row * count..(row + 1) * count]);
    }
    Some(Images {
        pixels,
        height: first.height,
        width: first.width,
        mean: first.mean,
        std: first.std,
        second_view: None,
        patch_mask: None,
    })
}

fn regions_of(batches: &[Batch], rows: &[(usize, usize)]) -> Option<Regions> {
    let of = |batch: usize| batches[batch].regions.as_ref();
    let all: Option<Vec<(&Regions, usize)>> =
        rows.iter().map(|&(b, row)| Some((of(b)?, row))).collect();
    let all = all?;
    let counts: Vec<usize> = all.iter().map(|(r, row)| r.counts[*row]).collect();
    let count = counts.iter().copied().max()?;
    let mut regions = Regions {
        count,
        counts,
        ..Regions::default()
    };
    for (part, row) in all {
        let width = part.features.len() / (part.counts.len() * part.count).max(1);
        let real = part.counts[row];
        let copy = |to: &mut Vec<f32>, from: &[f32], width: usize| {
            let first = row * part.count * width;
            to.extend_from_slice(&from[first..first + real * width]);
            to.resize(to.len() + (count - real) * width, 0.0);
        };
        copy(&mut regions.features, &part.features, width);
        copy(&mut regions.boxes, &part.boxes, 4);
    }
    Some(regions)
}

/// The rows of both under each other, padded to one length.
pub(crate) fn join_texts(own: &TextFeatures, other: TextFeatures) -> TextFeatures {
    let length = own.mask.dims()[1].max(other.mask.dims()[1]);
    let widened = |texts: TextFeatures| TextFeatures {
        states: texts.states.into_iter().map(|s| widen(s, length)).collect(),
        mask: widen_mask(texts.mask, length),
        class: texts.class,
    };
    TextFeatures::cat(vec![widened(own.clone()), widened(other)])
}

/// Likewise of pictures, whose tags are left out.
pub(crate) fn join_images(parts: Vec<ImageFeatures>) -> ImageFeatures {
    let positions = |images: &ImageFeatures| images.states.first().map_or(0, |s| s.dims()[1]);
    let length = parts.iter().map(positions).max().unwrap_or(0);
    let masks = parts
        .iter()
        .any(|images| images.mask.is_some() || positions(images) != length);
    let widened = |images: ImageFeatures| {
        let rows = images.class.dims()[0];
        let device = images.class.device();
        let mask = images
            .mask
            .clone()
            .unwrap_or_else(|| PaddingMask::none(rows, positions(&images), &device));
        ImageFeatures {
            mask: masks.then(|| widen_mask(mask, length)),
            states: images
                .states
                .into_iter()
                .map(|s| widen(s, length))
                .collect(),
            class: images.class,
            tags: None,
        }
    };
    ImageFeatures::cat(parts.into_iter().map(widened).collect())
}

/// Zeros behind the positions that there are.
fn widen(states: Tensor<3>, length: usize) -> Tensor<3> {
    let [rows, positions, width] = states.dims();
    if positions == length {
        return states;
    }
    let zeros = Tensor::zeros([rows, length - positions, width], &states.device());
    let zeros = cast(zeros, states.dtype().into());
    Tensor::cat(vec![states, zeros], 1)
}

fn widen_mask(mask: PaddingMask, length: usize) -> PaddingMask {
    let [rows, positions] = mask.dims();
    if positions == length {
        return mask;
    }
    let device = mask.hidden().device();
    let padding = PaddingMask::from_lengths(&vec![0; rows], length - positions, &device);
    PaddingMask::join(vec![mask, padding])
}
