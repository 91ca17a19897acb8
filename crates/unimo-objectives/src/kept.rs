//! Features of frozen encoders, computed once for each input and kept.
//!
//! An encoder in which nothing learns and nothing is drawn gives the same states for the same input in every step. [`FeatureCache`] is
//! the place where they are kept, which this crate only asks. Features are known by all that the encoder read: pixels and how they are
//! normalised, tokens, their types and the length that they are padded to. So an image that was prepared otherwise is another one, and
//! what is found is what would be computed, to the last bit where a row does not depend on its batch, as on the CPU.
//!
//! Shape legend: `B` rows, `L` text length, `N` positions of an image, `D` width of an encoder.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};
use unimo_batch::Images;
use unimo_core::dtype::cast;
use unimo_core::mask::PaddingMask;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, Pictures, TextFeatures};

/// An encoder whose features may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeptOf {
    /// The text encoder.
    Text,
    /// The image encoder.
    Image,
}

/// The number of an input.
pub type FeatureKey = [u8; 16];

/// A place for features of frozen encoders.
pub trait FeatureCache {
    /// Whether features of this encoder are kept.
    fn keeps(&self, encoder: KeptOf) -> bool;

    /// The number of an input, from all that this encoder reads of it. The encoder's weights are known to the cache.
    fn key(&self, encoder: KeptOf, input: &[&[u8]]) -> FeatureKey;

    /// The features of an input; `None` if they are not kept.
    fn find(&self, key: &FeatureKey) -> Option<Vec<f32>>;

    /// Keeps the features of an input.
    fn keep(&self, key: FeatureKey, features: &[f32]);
}

/// One frozen model with the place where its features are.
pub(crate) struct Kept<'a> {
    pub cache: &'a dyn FeatureCache,
    pub backbone: &'a Backbone,
    /// Layers whose states are asked for.
    pub layers: &'a BTreeSet<usize>,
    pub device: &'a Device,
}

/// Texts of one length, as an encoder reads them.
pub(crate) struct Rows<'a> {
    /// `[B, L]`.
    pub ids: &'a [i32],
    /// `[B]`.
    pub lengths: &'a [usize],
    pub length: usize,
    /// `[B, L]`, or empty.
    pub segments: &'a [i32],
    /// `[B]`: where positions are numbered anew, or empty.
    pub restarts: &'a [usize],
}

/// Which inputs have features, and which are to be computed.
struct Search {
    keys: Vec<FeatureKey>,
    found: Vec<Option<Vec<f32>>>,
}

impl Kept<'_> {
    /// The images of a batch, `B` rows; `None` if the encoder's features are not kept. `picture` counts the images of a sample. If they are
    /// read with representation tokens too, the states below those are kept as well.
    pub fn images(
        &self,
        images: &Images,
        picture: usize,
        represents: bool,
    ) -> Option<ImageFeatures> {
        let kept = self.cache.keeps(KeptOf::Image) && self.backbone.gives_constant_images();
        let encoder = self.backbone.image.as_ref().filter(|_| kept)?;
        let [positions, width] = encoder.position_embedding.dims();
        let count = self.backbone.image_states(self.layers) + usize::from(represents);
        let of_one = (Images::CHANNELS * images.height * images.width).max(1);
        let below = match &self.backbone.representation {
            Some(tokens) if represents => format!(" and below layer {}", tokens.below),
            _ => String::new(),
        };
        let how = format!(
            "{count} states{below} of {} x {} by {:?} and {:?}",
            images.height, images.width, images.mean, images.std
        );
        let input = |levels: &[u8]| self.cache.key(KeptOf::Image, &[how.as_bytes(), levels]);
        let keys = images.pixels.chunks(of_one).map(input).collect();
        let mut search = self.search(keys, count * positions * width);
        let missing = search.missing();
        if !missing.is_empty() {
            let rows = missing.iter();
            let levels: Vec<u8> = rows
                .flat_map(|row| &images.pixels[row * of_one..][..of_one])
                .copied()
                .collect();
            let pictures = Pictures::of_pixels(images, &levels, self.device);
            let states = if represents {
                self.backbone
                    .image_states_with_below(&pictures, self.layers)
            } else {
                self.backbone.constant_image_states(&pictures, self.layers)
            };
            self.fill(&mut search, &missing, states);
        }
        let shape = [search.keys.len(), positions, width];
        let states = self.states(&search, count, shape);
        let states = states.map(|state| cast(state, encoder.dtype)).collect();
        Some(if represents {
            self.backbone
                .features_with_tokens(states, picture, self.layers)
        } else {
            self.backbone
                .features_of_constant_images(states, picture, self.layers)
        })
    }

    /// Texts, `B` rows; `None` if the encoder's features are not kept.
    pub fn texts(&self, texts: &Rows<'_>) -> Option<TextFeatures> {
        let encoder = &self.backbone.text;
        if !self.cache.keeps(KeptOf::Text) || !self.backbone.gives_constant_texts() {
            return None;
        }
        let (rows, length) = (texts.lengths.len(), texts.length);
        let [_, width] = encoder.word_embedding.weight.dims();
        let count = self.backbone.text_states(self.layers);
        let of_row = |all: &[i32], row: usize| -> Vec<i32> {
            let first = row * length;
            all.get(first..first + length).unwrap_or(&[]).to_vec()
        };
        let bytes =
            |ids: Vec<i32>| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
        let input = |row: usize| {
            // Padding is part of the input: the order in which a long row of attention is summed depends on its length.
            let how = format!("{count} states of {} in {length}", texts.lengths[row]);
            let ids = bytes(of_row(texts.ids, row));
            let segments = bytes(of_row(texts.segments, row));
            let how = match texts.restarts.get(row) {
                Some(restart) => format!("{how}, anew from {restart}"),
                None => how,
            };
            self.cache
                .key(KeptOf::Text, &[how.as_bytes(), &ids, &segments])
        };
        let mut search = self.search((0..rows).map(input).collect(), count * length * width);
        let missing = search.missing();
        if !missing.is_empty() {
            let of_missing = |all: &[i32]| -> Vec<i32> {
                missing.iter().flat_map(|row| of_row(all, *row)).collect()
            };
            let lengths: Vec<usize> = missing.iter().map(|row| texts.lengths[*row]).collect();
            let ids = of_missing(texts.ids);
            let input = encoder.input(&ids, &lengths, length, self.device);
            let input = encoder.with_segments(input, of_missing(texts.segments));
            let restarts = missing.iter().filter_map(|row| texts.restarts.get(*row));
            let restarts: Vec<usize> = restarts.copied().collect();
            let input = encoder.with_restarts(input, &lengths, &restarts);
            let states = self.backbone.constant_text_states(&input, self.layers);
            self.fill(&mut search, &missing, states);
        }
        let states = self.states(&search, count, [rows, length, width]);
        let states = states.map(|state| cast(state, encoder.dtype)).collect();
        let mask = PaddingMask::from_lengths(texts.lengths, length, self.device);
        let features = self
            .backbone
            .features_of_constant_texts(states, mask, self.layers);
        Some(features)
    }

    fn search(&self, keys: Vec<FeatureKey>, size: usize) -> Search {
        let of = |key| self.cache.find(key).filter(|found| found.len() == size);
        Search {
            found: keys.iter().map(of).collect(),
            keys,
        }
    }

    /// Adds states that were computed of the missing rows, and keeps them.
    fn fill(&self, search: &mut Search, missing: &[usize], states: Vec<Tensor<3>>) {
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); missing.len()];
        for state in states {
            let values: Vec<f32> = state.into_data().iter::<f32>().collect();
            let of_one = values.len() / missing.len();
            for (row, values) in rows.iter_mut().zip(values.chunks(of_one.max(1))) {
                row.extend_from_slice(values);
            }
        }
        for (at, features) in missing.iter().zip(rows) {
            self.cache.keep(search.keys[*at], &features);
            search.found[*at] = Some(features);
        }
    }

    /// `count` states of all rows, each of this shape.
    ///
    /// # Shapes
    ///
    /// - output: `[B, N, D]` or `[B, L, D]` each
    fn states(
        &self,
        search: &Search,
        count: usize,
        shape: [usize; 3],
    ) -> impl Iterator<Item = Tensor<3>> {
        let of_one = shape[1] * shape[2];
        let device = self.device.clone().without_autodiff();
        let of = move |state: usize| {
            let rows = search.found.iter().flatten();
            let values: Vec<f32> = rows
                .flat_map(|row| &row[state * of_one..][..of_one])
                .copied()
                .collect();
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        (0..count).map(of)
    }
}

impl Search {
    fn missing(&self) -> Vec<usize> {
        let rows = self.found.iter().enumerate();
        rows.filter(|(_, found)| found.is_none())
            .map(|(row, _)| row)
            .collect()
    }
}
