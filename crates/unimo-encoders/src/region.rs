//! An encoder of detector regions: BERT's blocks over projected features, for images that are given as the regions that an
//! object detector found in them.
//!
//! Source: MVP (Li et al. 2022), section 3.1. A region is a detector's feature of 2,048 numbers followed by its box, `x1 / W`,
//! `y1 / H`, `x2 / W`, `y2 / H`, `w / W`, `h / H`. One linear layer maps these 2,054 numbers to the width (as in Oscar and
//! VinVL). The box is a region's only position.
//!
//! | configuration | embedding of a region with feature `f` and place `p` |
//! |---|---|
//! | `form = "sum"` | `LN(W [f; p] + b)`: MVP with 6 numbers of place; M3P with 5, both parts of length 1 |
//! | `form = "two_norms"` | `LN(LN(W f) + LN(U p) + type)`: UNITER and UC2, with 7 numbers of place |
//!
//! A hidden region has zeros in the place of its feature, and with `mask_embedding` what is learned for all hidden ones.
//!
//! Shape legend: `B` rows, `R` regions, `F` numbers of a region, `P` numbers of its place, `D` width, `M` further tokens.

use burn::module::{Module, Param};
use burn::tensor::{Bool, FloatDType, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Regions, config};
use unimo_core::blocks::{self, BlockConfig, Draws, PostNormBlock};
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Dropout, LayerNorm, Linear, normalise};
use unimo_core::mask::PaddingMask;

/// `[model.regions]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionEncoderConfig {
    /// `F`: numbers of a region, 2,054 in MVP, Oscar and VinVL.
    pub features: usize,
    /// `D`: numbers of a state.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Share of dropout on embeddings, attention weights and residual branches, in [0, 1).
    pub dropout: f64,
    /// Drop-path (stochastic depth) on the residual branches of the last block, in [0, 1); it rises linearly from 0 in the first one.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub drop_path: f64,
    /// How feature and place become one embedding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub form: RegionForm,
    /// The numbers of a region's place, which are made of the six behind its feature.
    #[serde(default, skip_serializing_if = "is_default")]
    pub place: Place,
    /// Whether feature and place are each scaled to length 1 (M3P).
    #[serde(default, skip_serializing_if = "is_default")]
    pub unit_length: bool,
    /// Whether hidden regions have a feature that is learned (UC2); if not, it is zeros (M3P).
    #[serde(default, skip_serializing_if = "is_default")]
    pub mask_embedding: bool,
}

/// How a region's feature and place become one embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionForm {
    /// One linear layer over both.
    #[default]
    Sum,
    /// A linear layer and a norm for each, and a vector that says that it is a region.
    TwoNorms,
}

/// The numbers of a region's place. x1 to h are shares of the image's width and height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// x1, y1, x2, y2, w, h.
    #[default]
    Six,
    /// x1, y1, x2, y2, w, h and the area w h.
    Seven,
    /// x1, y1, x2, y2 and the area w h.
    Five,
}

impl Place {
    /// `P`.
    fn count(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Seven => 7,
            Self::Five => 5,
        }
    }

    /// # Shapes
    ///
    /// - six: `[B, R, 6]`
    /// - output: `[B, R, P]`
    fn of(self, six: Tensor<3>) -> Tensor<3> {
        let area = || six.clone().narrow(2, 4, 1) * six.clone().narrow(2, 5, 1);
        match self {
            Self::Six => six,
            Self::Seven => Tensor::cat(vec![six.clone(), area()], 2),
            Self::Five => Tensor::cat(vec![six.clone().narrow(2, 0, 4), area()], 2),
        }
    }
}

/// Numbers of a region's box, behind its feature.
const BOX: usize = 6;

/// Whether a setting may be left out of a recipe.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RegionEncoderConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        config::positive("features", self.features)?;
        let plain = self.place == Place::Six && self.form == RegionForm::Sum;
        ConfigError::unless(
            self.features > BOX || plain && !self.unit_length && !self.mask_embedding,
            "features",
            self.features,
            "must be above 6: the last six are the region's box",
        )
    }

    /// The blocks' sizes.
    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            feed_forward: self.feed_forward,
            activation: self.activation,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.dropout,
            drop_path: self.drop_path,
        }
    }

    /// A new encoder.
    pub fn init(&self, init: &mut Init) -> RegionEncoder {
        let block = self.block();
        let (features, places) = (self.features.saturating_sub(BOX), self.place.count());
        let apart = self.form == RegionForm::TwoNorms;
        let read = match (apart, self.place) {
            (true, _) => features,
            (false, Place::Six) => self.features,
            (false, _) => features + places,
        };
        RegionEncoder {
            region_embedding: Linear::new(init, read, self.width, true),
            class_embedding: init.normal([self.width]),
            embedding_norm: LayerNorm::new(init, self.width, self.layer_norm_eps),
            dropout: Dropout::new(self.dropout),
            layers: (0..self.layers)
                .map(|layer| PostNormBlock::new(init, &block.at(layer, self.layers)))
                .collect(),
            apart: apart.then(|| Apart {
                feature_norm: LayerNorm::new(init, self.width, self.layer_norm_eps),
                place_embedding: Linear::new(init, places, self.width, true),
                place_norm: LayerNorm::new(init, self.width, self.layer_norm_eps),
                type_embedding: init.normal([self.width]),
            }),
            mask_embedding: self.mask_embedding.then(|| init.normal([features])),
            place: self.place,
            unit_length: self.unit_length,
            dtype: FloatDType::F32,
        }
    }
}

/// The encoder. See the [module](self).
#[derive(Module, Debug)]
pub struct RegionEncoder {
    /// `[F, D]`.
    pub region_embedding: Linear,
    /// `[D]`: the token before the regions, which stands for the image.
    pub class_embedding: Param<Tensor<1>>,
    /// Norm of the class token and the projected regions.
    pub embedding_norm: LayerNorm,
    /// Dropout on the embeddings.
    pub dropout: Dropout,
    /// Blocks.
    pub layers: Vec<PostNormBlock>,
    /// What embeds places by themselves, with [`RegionForm::TwoNorms`].
    pub apart: Option<Apart>,
    /// `[F - 6]`: the feature of hidden regions.
    pub mask_embedding: Option<Param<Tensor<1>>>,
    #[module(skip)]
    place: Place,
    #[module(skip)]
    unit_length: bool,
    /// The blocks compute in this dtype; parameters stay f32.
    #[module(skip)]
    pub dtype: FloatDType,
}

/// The embedding of places by themselves. See [`RegionForm::TwoNorms`].
#[derive(Module, Debug)]
pub struct Apart {
    /// Norm of projected features.
    pub feature_norm: LayerNorm,
    /// `[P, D]`.
    pub place_embedding: Linear,
    /// Norm of projected places.
    pub place_norm: LayerNorm,
    /// `[D]`: what all regions have in common.
    pub type_embedding: Param<Tensor<1>>,
}

/// The regions of some images on a device.
#[derive(Debug, Clone)]
pub struct RegionInput {
    /// `[B, R, F]`.
    pub features: Tensor<3>,
    /// `[B, R]`.
    pub mask: PaddingMask,
    /// `[B, R]`: regions whose feature is hidden, `true` hides; `None`: none is.
    pub blank: Option<Tensor<2, Bool>>,
}

impl RegionInput {
    /// The same regions for a model without autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        Self {
            features: self.features.clone().without_autodiff(),
            mask: self.mask.without_autodiff(),
            blank: self.blank.clone().map(|blank| blank.without_autodiff()),
        }
    }

    /// As [`new`](Self::new), without the features of the regions that the batch hides.
    ///
    /// # Panics
    ///
    /// Panics if the batch hides none.
    pub fn hiding(regions: &Regions, device: &burn::tensor::Device) -> Self {
        let hidden = regions.hidden.as_ref();
        let hidden = hidden.expect("invariant: asked of batches with hidden regions");
        let shape = [regions.counts.len(), regions.count];
        let blank = TensorData::new(hidden.blank.clone(), shape);
        Self {
            blank: Some(Tensor::from_data(blank, device)),
            ..Self::new(regions, device)
        }
    }

    /// Moves a batch's regions to a device.
    pub fn new(regions: &Regions, device: &burn::tensor::Device) -> Self {
        let (rows, count) = (regions.counts.len(), regions.count);
        let width = regions.features.len() / (rows * count).max(1);
        let data = TensorData::new(regions.features.clone(), [rows, count, width]);
        Self {
            features: Tensor::from_data(data, device),
            mask: PaddingMask::from_lengths(&regions.counts, count, device),
            blank: None,
        }
    }
}

impl RegionEncoder {
    /// The projected regions before the norm that they share with the class token.
    ///
    /// # Shapes
    ///
    /// - output: `[B, R, D]`
    fn embed(&self, input: &RegionInput) -> Tensor<3> {
        let [rows, count, numbers] = input.features.dims();
        let features = cast(input.features.clone(), self.dtype);
        let as_they_are = self.place == Place::Six && !self.unit_length && self.apart.is_none();
        if as_they_are && input.blank.is_none() {
            return self.region_embedding.forward(features);
        }
        let width = numbers - BOX;
        let unit = |x: Tensor<3>| {
            let [_, _, width] = x.dims();
            if self.unit_length {
                let flat = normalise(x.reshape([rows * count, width]));
                flat.reshape([rows, count, width])
            } else {
                x
            }
        };
        let place = unit(self.place.of(features.clone().narrow(2, width, BOX)));
        let mut feature = unit(features.narrow(2, 0, width));
        if let Some(blank) = &input.blank {
            assert_shape!(blank, [rows, count]);
            let blank = blank.clone().reshape([rows, count, 1]);
            let blank = blank.expand([rows, count, width]);
            feature = match &self.mask_embedding {
                Some(embedding) => {
                    let embedding = same_dtype(embedding.val(), &feature);
                    let embedding = embedding.reshape([1, 1, width]);
                    feature.mask_where(blank, embedding.expand([rows, count, width]))
                }
                None => feature.mask_fill(blank, 0.0),
            };
        }
        let Some(apart) = &self.apart else {
            let both = Tensor::cat(vec![feature, place], 2);
            return self.region_embedding.forward(both);
        };
        let feature = apart
            .feature_norm
            .forward(self.region_embedding.forward(feature));
        let place = apart
            .place_norm
            .forward(apart.place_embedding.forward(place));
        let own = same_dtype(apart.type_embedding.val(), &feature);
        let [d] = own.dims();
        feature + place + own.reshape([1, 1, d])
    }

    /// Whether it draws random numbers while autodiff is on: dropout or drop-path is above 0.
    pub fn draws(&self) -> bool {
        self.dropout.probability > 0.0 || self.layers.iter().any(Draws::draws)
    }

    /// The states after the last `keep` blocks, in order, and which positions are padding. If `keep` exceeds the number of
    /// blocks, the embeddings come first. `further` are tokens after the regions, such as the names of the image's objects.
    ///
    /// # Shapes
    ///
    /// - features: `[B, R, F]` with the mask `[B, R]`
    /// - further: `[B, M, D]` with its mask `[B, M]`
    /// - output: `keep` times `[B, 1 + R + M, D]`, and `[B, 1 + R + M]`
    pub fn forward(
        &self,
        input: &RegionInput,
        further: Option<(Tensor<3>, &PaddingMask)>,
        keep: usize,
    ) -> (Vec<Tensor<3>>, PaddingMask) {
        let [rows, count, _] = input.features.dims();
        let [d] = self.class_embedding.dims();
        let regions = self.embed(input);
        assert_shape!(regions, [rows, count, d]);
        let class = same_dtype(self.class_embedding.val(), &regions);
        let class = class.reshape([1, 1, d]).expand([rows, 1, d]);
        let own = self
            .embedding_norm
            .forward(Tensor::cat(vec![class, regions], 1));
        let mut parts = vec![self.dropout.forward(own)];
        let shown = PaddingMask::none(rows, 1, &input.features.device());
        let mut masks = vec![shown, input.mask.clone()];
        if let Some((further, mask)) = further {
            parts.push(further);
            masks.push(mask.clone());
        }
        let x = Tensor::cat(parts, 1);
        let mask = PaddingMask::join(masks);
        let kept = blocks::last_states(&self.layers, x, keep, |block, x| {
            block.forward(x, Some(&mask))
        });
        (kept, mask)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;

    /// f32 rounding over two layers of width 8.
    const TOLERANCE: f64 = 1e-5;

    fn encoder(device: &Device) -> RegionEncoder {
        let config = RegionEncoderConfig {
            features: 10,
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            dropout: 0.0,
            drop_path: 0.0,
            form: RegionForm::Sum,
            place: Place::Six,
            unit_length: false,
            mask_embedding: false,
        };
        config.validate().unwrap();
        config.init(&mut Init::new(device, 1).with_deviation(0.5))
    }

    /// Regions are a set: padding changes nothing, and the order of regions changes only the order of the output.
    #[test]
    fn absent_regions_and_their_order_change_nothing() {
        let device = Device::flex();
        let encoder = encoder(&device);
        let mut numbers = Init::new(&device, 2);
        let features = numbers.uniform([1, 3, 10], 1.0).val();
        let run = |features: Tensor<3>, real: usize| {
            let count = features.dims()[1];
            let mask = PaddingMask::from_lengths(&[real], count, &device);
            let input = RegionInput {
                features,
                mask,
                blank: None,
            };
            encoder.forward(&input, None, 1).0.remove(0)
        };
        let whole = run(features.clone(), 3);
        let noise = numbers.uniform([1, 2, 10], 1.0).val();
        let padded = run(Tensor::cat(vec![features.clone(), noise], 1), 3);
        let close = |a: Tensor<3>, b: Tensor<3>| {
            let tolerance = Tolerance::<f64>::absolute(TOLERANCE);
            a.into_data().assert_approx_eq(&b.into_data(), tolerance);
        };
        close(padded.narrow(1, 0, 4), whole.clone());
        let swapped = run(features.flip([1]), 3);
        close(
            swapped.clone().narrow(1, 0, 1),
            whole.clone().narrow(1, 0, 1),
        );
        close(swapped.narrow(1, 1, 3).flip([1]), whole.narrow(1, 1, 3));
    }

    #[test]
    fn further_tokens_stand_behind_and_are_seen() {
        let device = Device::flex();
        let encoder = encoder(&device);
        let mut numbers = Init::new(&device, 2);
        let input = RegionInput {
            features: numbers.uniform([2, 3, 10], 1.0).val(),
            mask: PaddingMask::from_lengths(&[3, 1], 3, &device),
            blank: None,
        };
        let tags = numbers.uniform([2, 2, 8], 1.0).val();
        let mask = PaddingMask::from_lengths(&[2, 0], 2, &device);
        let (with, all) = encoder.forward(&input, Some((tags, &mask)), 3);
        assert_eq!(
            (with.len(), with[2].dims(), all.dims()),
            (3, [2, 6, 8], [2, 6])
        );
        let hidden: Vec<bool> = all.hidden().into_data().iter::<bool>().collect();
        assert_eq!(hidden[6..], [false, false, true, true, true, true]);
        let (without, _) = encoder.forward(&input, None, 1);
        let difference = |row: usize| {
            let class = |x: &Tensor<3>| x.clone().slice([row..row + 1, 0..1, 0..8]);
            let d = class(&with[2]) - class(&without[0]);
            d.abs().max().into_scalar::<f32>()
        };
        // The second image has no tags.
        assert!(difference(0) > 1e-3 && difference(1) < TOLERANCE as f32);
    }
}
