//! What the uni-modal encoders read and give: images on a device, and features of texts and images.
//!
//! Shape legend: `B` rows, `Lt` and `Lv` positions of text and image, `D` width of the cross-modal encoder.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use unimo_batch::Images;
use unimo_core::dtype::cast;
use unimo_core::mask::PaddingMask;

use crate::region::RegionInput;

/// Texts after their own encoder.
#[derive(Debug, Clone)]
pub struct TextFeatures {
    /// Projected states that the cross-modal encoder reads, `[B, Lt, D]` each, in the order of the layers.
    pub states: Vec<Tensor<3>>,
    /// The first position of the last layer before projection, `[B, text width]`.
    pub class: Tensor<2>,
    /// `[B, Lt]`.
    pub mask: PaddingMask,
    /// States of the layers that were asked for, `[B, Lt, text width]` each; layer 0 is the embeddings.
    pub layers: BTreeMap<usize, Tensor<3>>,
}

/// Images on a device, as an image encoder takes them.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each batch")]
pub enum Pictures {
    /// `[B, 3, H, W]`.
    Pixels(Tensor<4>),
    /// Regions that a detector found.
    Regions(RegionInput),
}

impl Pictures {
    /// Moves the levels of a batch's images, or of their second views, to a device and normalises them there. If the device does not
    /// support bytes, they are normalised on the host.
    pub fn of_pixels(images: &Images, levels: &[u8], device: &Device) -> Self {
        let (height, width) = (images.height, images.width);
        let rows = levels.len() / (Images::CHANNELS * height * width).max(1);
        let shape = [rows, Images::CHANNELS, height, width];
        if !device.supports_dtype(DType::U8) {
            let data = TensorData::new(images.normalised(levels), shape);
            return Self::Pixels(Tensor::from_data(data, device));
        }
        let levels = TensorData::new(levels.to_vec(), shape);
        let levels = Tensor::<4, Int>::from_data(levels, (device, DType::U8)).float();
        let channels = |values: [f32; Images::CHANNELS]| -> Tensor<4> {
            let data = TensorData::new(values.to_vec(), [1, Images::CHANNELS, 1, 1]);
            Tensor::from_data(data, device)
        };
        // In this order and by division, as on the host, so that the numbers agree to the last bit.
        let shares = levels.div_scalar(255.0);
        Self::Pixels((shares - channels(images.mean)) / channels(images.std))
    }

    /// The pixels, unless these are regions.
    pub fn pixels(&self) -> Option<&Tensor<4>> {
        match self {
            Self::Pixels(pixels) => Some(pixels),
            Self::Regions(_) => None,
        }
    }
}

/// Images after their own encoder.
#[derive(Debug, Clone)]
pub struct ImageFeatures {
    /// Projected states that the cross-modal encoder reads, `[B, Lv, D]` each, in the order of the layers.
    pub states: Vec<Tensor<3>>,
    /// The class token of the last layer after the final norm, before projection, `[B, image width]`.
    pub class: Tensor<2>,
    /// The tags after the image encoder and its final norm, `[B, M, image width]`, if the images came with tags.
    pub tags: Option<Tensor<3>>,
    /// The names of the images' objects as one stream reads them beside the image, with `model.joint.concepts`.
    pub concepts: Option<ConceptFeatures>,
    /// `[B, Lv]`; `None` if there is no padding.
    pub mask: Option<PaddingMask>,
    /// States of the layers that were asked for, after the final norm, `[B, Lv, image width]` each; layer 0 is the embeddings.
    pub layers: BTreeMap<usize, Tensor<3>>,
    /// What comes of the image with representation tokens, if that was asked for ([`crate::representation`]).
    pub represented: Option<Represented>,
}

/// An image read with representation tokens, after the final norm, before projection.
#[derive(Debug, Clone)]
pub struct Represented {
    /// The class token, `[B, image width]`.
    pub class: Tensor<2>,
    /// The mean of the representation tokens, `[B, image width]`.
    pub tokens: Tensor<2>,
}

impl Represented {
    fn each(&self, change: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            class: change(self.class.clone()),
            tokens: change(self.tokens.clone()),
        }
    }

    /// The rows of all parts, stacked.
    fn cat(parts: Vec<Self>) -> Self {
        let (class, tokens) = parts.into_iter().map(|p| (p.class, p.tokens)).unzip();
        Self {
            class: Tensor::cat(class, 0),
            tokens: Tensor::cat(tokens, 0),
        }
    }
}

/// The names of images' objects after the text encoder (visual concepts, DiMBERT).
#[derive(Debug, Clone)]
pub struct ConceptFeatures {
    /// `[B, K, D]`.
    pub states: Tensor<3>,
    /// `[B, K]`.
    pub mask: PaddingMask,
}

impl ConceptFeatures {
    /// The given rows, in that order; a row may be given several times.
    fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            states: self.states.clone().select(0, rows.clone()),
            mask: self.mask.select(rows.clone()),
        }
    }

    /// The rows of all parts, stacked, and padded to the longest.
    fn cat(parts: Vec<Self>) -> Self {
        let length = parts.iter().map(|part| part.states.dims()[1]).max();
        let length = length.unwrap_or(0);
        let (states, masks) = parts
            .into_iter()
            .map(|part| (widen(part.states, length), widen_mask(part.mask, length)))
            .unzip();
        Self {
            states: Tensor::cat(states, 0),
            mask: PaddingMask::cat(masks),
        }
    }
}

/// Pads the positions with zeros at the end, to `length`.
///
/// # Shapes
///
/// - states: `[B, L, D]`
pub fn widen(states: Tensor<3>, length: usize) -> Tensor<3> {
    let [rows, positions, width] = states.dims();
    if positions == length {
        return states;
    }
    let zeros = Tensor::zeros([rows, length - positions, width], &states.device());
    let zeros = cast(zeros, states.dtype().into());
    Tensor::cat(vec![states, zeros], 1)
}

/// The same for a mask, whose further positions are hidden.
///
/// # Shapes
///
/// - mask: `[B, L]`
pub fn widen_mask(mask: PaddingMask, length: usize) -> PaddingMask {
    let [rows, positions] = mask.dims();
    if positions == length {
        return mask;
    }
    let device = mask.hidden().device();
    let padding = PaddingMask::from_lengths(&vec![0; rows], length - positions, &device);
    PaddingMask::join(vec![mask, padding])
}

/// Bytes of the states and the class row of features; masks are small beside them.
fn bytes(states: &[Tensor<3>], class: &Tensor<2>) -> usize {
    let of = |shape: &[usize], dtype: DType| shape.iter().product::<usize>() * dtype.size();
    let states = states.iter().map(|state| of(&state.dims(), state.dtype()));
    states.sum::<usize>() + of(&class.dims(), class.dtype())
}

impl TextFeatures {
    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        bytes(&self.states, &self.class)
    }

    /// The given rows, in that order; a row may be given several times.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            states: select(&self.states, rows),
            class: self.class.clone().select(0, rows.clone()),
            mask: self.mask.select(rows.clone()),
            layers: each(&self.layers, |state| state.select(0, rows.clone())),
        }
    }

    /// `count` rows from `first` on.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        let [rows, _] = self.class.dims();
        if (first, count) == (0, rows) {
            return self.clone();
        }
        let of = |state: &Tensor<3>| state.clone().narrow(0, first, count);
        Self {
            states: self.states.iter().map(of).collect(),
            class: self.class.clone().narrow(0, first, count),
            mask: self.mask.rows(first, count),
            layers: each(&self.layers, |state| state.narrow(0, first, count)),
        }
    }

    /// The rows of all parts, stacked. Texts must be padded to one length.
    ///
    /// # Panics
    ///
    /// Panics if there is no part.
    pub fn cat(parts: Vec<Self>) -> Self {
        Self {
            states: cat(parts.iter().map(|p| &p.states).collect()),
            class: Tensor::cat(parts.iter().map(|p| p.class.clone()).collect(), 0),
            layers: cat_layers(parts.iter().map(|p| &p.layers).collect()),
            mask: PaddingMask::cat(parts.into_iter().map(|p| p.mask).collect()),
        }
    }
}

impl ImageFeatures {
    /// The same without a tape.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        let of = |state: &Tensor<3>| state.clone().without_autodiff();
        Self {
            states: self.states.iter().map(of).collect(),
            class: self.class.clone().without_autodiff(),
            tags: self.tags.as_ref().map(of),
            concepts: self.concepts.as_ref().map(|concepts| ConceptFeatures {
                states: of(&concepts.states),
                mask: concepts.mask.without_autodiff(),
            }),
            mask: self.mask.clone(),
            layers: each(&self.layers, |state| state.without_autodiff()),
            represented: self
                .represented
                .as_ref()
                .map(|read| read.each(Tensor::without_autodiff)),
        }
    }

    /// How many bytes they take, without tags.
    pub fn bytes(&self) -> usize {
        bytes(&self.states, &self.class)
    }

    /// The given rows, in that order; a row may be given several times.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            states: select(&self.states, rows),
            class: self.class.clone().select(0, rows.clone()),
            tags: self
                .tags
                .as_ref()
                .map(|tags| tags.clone().select(0, rows.clone())),
            concepts: self.concepts.as_ref().map(|concepts| concepts.select(rows)),
            mask: self.mask.as_ref().map(|mask| mask.select(rows.clone())),
            layers: each(&self.layers, |state| state.select(0, rows.clone())),
            represented: self
                .represented
                .as_ref()
                .map(|read| read.each(|state| state.select(0, rows.clone()))),
        }
    }

    /// The rows of all parts, stacked, without tags, whose number may differ. Regions must be padded to one number.
    ///
    /// # Panics
    ///
    /// Panics if there is no part.
    pub fn cat(parts: Vec<Self>) -> Self {
        let concepts = parts.iter().map(|part| part.concepts.clone());
        let concepts: Option<Vec<_>> = concepts.collect();
        Self {
            concepts: concepts.map(ConceptFeatures::cat),
            states: cat(parts.iter().map(|p| &p.states).collect()),
            mask: parts
                .iter()
                .map(|p| p.mask.clone())
                .collect::<Option<Vec<_>>>()
                .map(PaddingMask::cat),
            layers: cat_layers(parts.iter().map(|p| &p.layers).collect()),
            represented: parts
                .iter()
                .map(|p| p.represented.clone())
                .collect::<Option<Vec<_>>>()
                .filter(|parts| !parts.is_empty())
                .map(Represented::cat),
            class: Tensor::cat(parts.into_iter().map(|p| p.class).collect(), 0),
            tags: None,
        }
    }
}

fn each(
    layers: &BTreeMap<usize, Tensor<3>>,
    change: impl Fn(Tensor<3>) -> Tensor<3>,
) -> BTreeMap<usize, Tensor<3>> {
    let of = |(layer, state): (&usize, &Tensor<3>)| (*layer, change(state.clone()));
    layers.iter().map(of).collect()
}

/// The rows of all parts, stacked layer by layer. Layers that some part lacks are left out.
fn cat_layers(parts: Vec<&BTreeMap<usize, Tensor<3>>>) -> BTreeMap<usize, Tensor<3>> {
    let Some(first) = parts.first() else {
        return BTreeMap::new();
    };
    let of = |layer: &usize| {
        let states = parts.iter().map(|part| part.get(layer).cloned());
        let states: Option<Vec<_>> = states.collect();
        Some((*layer, Tensor::cat(states?, 0)))
    };
    first.keys().filter_map(of).collect()
}

fn select(states: &[Tensor<3>], rows: &Tensor<1, Int>) -> Vec<Tensor<3>> {
    let of = |state: &Tensor<3>| state.clone().select(0, rows.clone());
    states.iter().map(of).collect()
}

/// The rows of all parts, stacked state by state.
fn cat(parts: Vec<&Vec<Tensor<3>>>) -> Vec<Tensor<3>> {
    let count = parts.first().map_or(0, |states| states.len());
    (0..count)
        .map(|i| Tensor::cat(parts.iter().map(|states| states[i].clone()).collect(), 0))
        .collect()
}
