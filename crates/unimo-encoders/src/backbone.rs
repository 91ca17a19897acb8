//! Text encoder, image encoder and cross-modal encoder together: what every recipe trains. The cross-modal encoder is dual-stream
//! ([`crate::fusion`]) or single-stream ([`crate::joint`]). The image encoder reads pixels ([`crate::image`], or one of another crate,
//! [`crate::registry`]) or the regions that a detector found ([`crate::region`]).
//!
//! An agent that follows texts over a map ([`crate::map`]) reads the text encoder's states.
//!
//! Parts may be left out. Without a cross-modal encoder there are two towers (CLIP), whose states stand for the fused ones. Without an
//! image encoder the model reads texts alone. Without blocks a uni-modal encoder is an embedding (ViLT, UNITER).
//!
//! Uni-modal encodings are values of their own ([`TextFeatures`], [`ImageFeatures`]). They are computed once and then paired at will,
//! by objectives within a step and by retrieval over a whole test set.
//!
//! Shape legend: `B` rows, `Lt` and `Lv` positions of text and image, `D` width of the cross-modal encoder.

mod checks;
mod counts;
mod fusing;
mod represented;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Bool, Device, FloatDType, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unimo_batch::registry::{Beside, fields_of};
use unimo_batch::{Batch, ConfigError};
use unimo_core::init::Init;
use unimo_core::mask::PaddingMask;
use unimo_core::outside::Outside;

use crate::features::{ConceptFeatures, ImageFeatures, Pictures, TextFeatures};
use crate::frozen::{self, Frozen};
use crate::fusion::{CrossModalEncoder, FusionConfig};
use crate::image::{ImageEncoder, ImageEncoderConfig};
use crate::joint::{JointConfig, JointEncoder};
use crate::map::{MapConfig, MapEncoder};
use crate::quantiser::Quantiser;
use crate::region::{RegionEncoder, RegionEncoderConfig, RegionInput};
use crate::registry::{self, EncoderShape, ImageModel, ImageModelConfig, OutsideImage};
use crate::representation::{Representation, RepresentationConfig};
use crate::text::{TextEncoder, TextEncoderConfig, TextInput};

/// The three encoders: the `[model]` part of a recipe. At most one of `image`/`regions`/`outside` and of `fusion`/`joint` is set.
// The derived reader and writer know no registered encoders; those below do, and are the ones that serde calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct BackboneConfig {
    /// Standard deviation of new weights and embeddings: 0.02 in BERT, RoBERTa and METER at width 768. A narrower model that starts
    /// from noise learns faster with 0.02 * sqrt(768 / width).
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Text encoder.
    pub text: TextEncoderConfig,
    /// Image encoder that reads pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageEncoderConfig>,
    /// Image encoder that reads regions which a detector found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionEncoderConfig>,
    /// Image encoder of another crate, which reads pixels.
    #[serde(flatten, skip_deserializing)]
    pub outside: Option<OutsideImage>,
    /// Whether the image encoder also reads the names of an image's objects (tags), if a batch has them (MVP). One stream reads them beside
    /// the image with `model.joint.concepts`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image_tags: bool,
    /// Dual-stream cross-modal encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionConfig>,
    /// Single-stream cross-modal encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint: Option<JointConfig>,
    /// Tokens that both towers of a frozen CLIP read (MMRL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub representation: Option<RepresentationConfig>,
    /// An agent that follows the text over a map of what it has seen (WS-MGMap).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapConfig>,
}

impl Serialize for BackboneConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BackboneConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for BackboneConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        let mut config = BackboneConfig::deserialize(Beside {
            deserializer,
            registry: &registry::REGISTRY,
            found: &mut found,
        })?;
        config.outside = registry::read(found)?;
        Ok(config)
    }
}

/// Makes an image encoder of another crate known as `[model.KEY]`, in place of `[model.image]`.
///
/// # Errors
///
/// An encoder has the key already, or it is a key of `[model]`.
pub fn register<C: ImageModelConfig>(key: &'static str) -> Result<(), ConfigError> {
    registry::add::<C>(key, &fields_of::<BackboneConfig>())
}

fn initializer_range() -> f64 {
    0.02
}

impl BackboneConfig {
    /// Whether the layers of the cross-modal encoder are the text encoder's own blocks.
    pub fn shares_layers(&self) -> bool {
        self.fusion.as_ref().is_some_and(|fusion| fusion.shared)
    }

    /// Whether the names of an image's objects are read, by the image encoder or by one stream.
    pub fn reads_tags(&self) -> bool {
        self.image_tags || self.reads_concepts()
    }

    /// Whether one stream reads the names of an image's objects beside image and text.
    pub fn reads_concepts(&self) -> bool {
        self.joint.as_ref().is_some_and(|joint| joint.concepts)
    }

    /// Whether there is an image encoder.
    pub fn reads_images(&self) -> bool {
        self.reads_pixels() || self.regions.is_some()
    }

    /// Whether there is an image encoder that reads pixels.
    pub fn reads_pixels(&self) -> bool {
        self.image.is_some() || self.outside.is_some()
    }

    /// Pixels along each side of the images that it reads; `None` if it reads none.
    pub fn image_size(&self) -> Option<usize> {
        let own = self.image.as_ref().map(|image| image.image_size);
        own.or_else(|| Some(self.outside.as_ref()?.shape().image_size))
    }

    /// Whether there is a cross-modal encoder.
    pub fn is_fused(&self) -> bool {
        self.fusion.is_some() || self.joint.is_some()
    }

    /// Whether it reads stories, sequences of images and sentences.
    pub fn reads_stories(&self) -> bool {
        let joint = self.joint.as_ref();
        self.reads_pixels() && joint.is_some_and(|joint| joint.interleaved.is_some())
    }

    /// Whether there is a cross-modal encoder with two streams, one of them the image's.
    pub fn has_two_streams(&self) -> bool {
        self.fusion
            .as_ref()
            .is_some_and(|fusion| fusion.image_stream)
    }

    /// Whether there is a cross-modal encoder that is a text stream alone, which may read another text in the place of an image.
    pub fn reads_texts_over_texts(&self) -> bool {
        self.fusion.is_some() && !self.has_two_streams()
    }

    /// Whether a pass over a pair gives states of the image: all but a text stream that reads the image encoder's states as they are.
    pub fn gives_image_states(&self) -> bool {
        self.fusion.is_none() || self.has_two_streams()
    }

    /// Positions before an image's patches or regions: two for a distilled DeiT, else one.
    ///
    /// # Panics
    ///
    /// Panics if there is no image encoder.
    pub fn class_tokens(&self) -> usize {
        self.pictures(
            ImageEncoderConfig::class_tokens,
            |_| 1,
            |shape| shape.class_tokens,
        )
    }

    /// Width of the image encoder.
    ///
    /// # Panics
    ///
    /// Panics if there is no image encoder.
    pub fn image_width(&self) -> usize {
        self.pictures(
            |image| image.width,
            |regions| regions.width,
            |shape| shape.width,
        )
    }

    /// Epsilon of the image encoder's layer norms.
    ///
    /// # Panics
    ///
    /// Panics if there is no image encoder.
    pub fn image_layer_norm_eps(&self) -> f64 {
        self.pictures(
            |image| image.layer_norm_eps,
            |regions| regions.layer_norm_eps,
            |shape| shape.layer_norm_eps,
        )
    }

    /// Number of blocks of the image encoder.
    ///
    /// # Panics
    ///
    /// Panics if there is no image encoder.
    pub fn image_layers(&self) -> usize {
        self.pictures(
            |image| image.layers,
            |regions| regions.layers,
            |shape| shape.layers,
        )
    }

    fn pictures<T>(
        &self,
        image: fn(&ImageEncoderConfig) -> T,
        regions: fn(&RegionEncoderConfig) -> T,
        outside: fn(EncoderShape) -> T,
    ) -> T {
        let of_regions = self.regions.as_ref().map(regions);
        let of_outside = self
            .outside
            .as_ref()
            .map(|encoder| outside(encoder.shape()));
        self.image
            .as_ref()
            .map(image)
            .or(of_regions)
            .or(of_outside)
            .expect("invariant: validation finds an image encoder")
    }

    /// Width of a text's states after the cross-modal encoder, or after the text encoder if there is none.
    pub fn cross_width(&self) -> usize {
        let cross = self.cross(|fusion| fusion.width, |joint| joint.width);
        cross.unwrap_or(self.text.width)
    }

    /// Epsilon of the cross-modal encoder's layer norms, or of the text encoder's if there is none.
    pub fn cross_layer_norm_eps(&self) -> f64 {
        let cross = self.cross(|fusion| fusion.layer_norm_eps, |joint| joint.layer_norm_eps);
        cross.unwrap_or(self.text.layer_norm_eps)
    }

    fn cross<T>(&self, fusion: fn(&FusionConfig) -> T, joint: fn(&JointConfig) -> T) -> Option<T> {
        let of_joint = self.joint.as_ref().map(joint);
        self.fusion.as_ref().map(fusion).or(of_joint)
    }

    /// The same without dropout and drop-path, for inspecting a model with gradients without training it.
    pub fn without_dropout(mut self) -> Self {
        self.text.dropout = 0.0;
        self.text.drop_path = 0.0;
        self.text.outside = self.text.outside.map(|outside| outside.without_dropout());
        if let Some(image) = &mut self.image {
            image.dropout = 0.0;
            image.drop_path = 0.0;
        }
        if let Some(regions) = &mut self.regions {
            regions.dropout = 0.0;
            regions.drop_path = 0.0;
        }
        self.outside = self.outside.map(|outside| outside.without_dropout());
        if let Some(fusion) = &mut self.fusion {
            fusion.dropout = 0.0;
            fusion.drop_path = 0.0;
        }
        if let Some(joint) = &mut self.joint {
            joint.dropout = 0.0;
            joint.drop_path = 0.0;
        }
        self.map.iter_mut().for_each(|map| map.dropout = 0.0);
        self
    }

    /// As [`class_tokens`](Self::class_tokens), but one without an image encoder.
    fn positions_before_patches(&self) -> usize {
        if self.reads_images() {
            self.class_tokens()
        } else {
            1
        }
    }

    /// New encoders.
    pub fn init(&self, init: &mut Init) -> Backbone {
        // Without images a text stream alone reads other texts, of its own width.
        let image_width = if self.reads_images() {
            self.image_width()
        } else {
            self.text.width
        };
        Backbone {
            text: self.text.init(init),
            image: self.image.as_ref().map(|image| image.init(init)),
            regions: self.regions.as_ref().map(|regions| regions.init(init)),
            outside: self.outside.as_ref().map(|outside| outside.init(init)),
            fusion: self
                .fusion
                .as_ref()
                .map(|fusion| fusion.init(init, self.text.width, image_width)),
            joint: self
                .joint
                .as_ref()
                .map(|joint| joint.init_over(init, self.positions_before_patches())),
            representation: self
                .representation
                .as_ref()
                .map(|tokens| tokens.init(init, self.text.width, self.image_width())),
            map: self.map.as_ref().map(|map| map.init(init, self.text.width)),
            image_tags: self.image_tags,
            frozen: Frozen::default(),
        }
    }
}

/// The token type of tags in an image encoder's sequence.
const TAG_TYPE: usize = 1;

/// The three encoders.
#[derive(Module, Debug)]
pub struct Backbone {
    /// Text encoder.
    pub text: TextEncoder,
    /// Image encoder that reads pixels.
    pub image: Option<ImageEncoder>,
    /// Image encoder that reads regions.
    pub regions: Option<RegionEncoder>,
    /// Image encoder of another crate, which reads pixels.
    pub outside: Option<Outside<dyn ImageModel>>,
    /// Dual-stream cross-modal encoder.
    pub fusion: Option<CrossModalEncoder>,
    /// Single-stream cross-modal encoder.
    pub joint: Option<JointEncoder>,
    /// Tokens that both towers read beside words and patches.
    pub representation: Option<Representation>,
    /// An agent that follows texts over a map.
    pub map: Option<MapEncoder>,
    /// Whether the image encoder reads tags.
    pub image_tags: bool,
    /// The encoders in which nothing learns, see [`note_frozen`](Self::note_frozen).
    #[module(skip)]
    pub frozen: Frozen,
}

impl Backbone {
    /// Notes in which encoders nothing learns. Those that draw nothing are run without autodiff from now on. To be called when parameters
    /// have been frozen or released.
    pub fn note_frozen(&mut self) {
        let image = self.image.as_ref().is_some_and(frozen::learns);
        let regions = self.regions.as_ref().is_some_and(frozen::learns);
        self.frozen = Frozen {
            text: !frozen::learns(&self.text),
            // Whether an encoder of another crate draws is not known.
            image: self.outside.is_none() && self.image_layers() > 0 && !image && !regions,
        };
    }

    /// The encoders that are frozen but draw random numbers: a word for each, and its section of the configuration.
    pub fn frozen_but_drawing(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.frozen.text && self.text.draws() {
            found.push(("text", "text"));
        }
        if self.frozen.image && self.image.as_ref().is_some_and(ImageEncoder::draws) {
            found.push(("image", "image"));
        }
        if self.frozen.image && self.regions.as_ref().is_some_and(RegionEncoder::draws) {
            found.push(("image", "regions"));
        }
        found
    }

    /// Computes activations in another dtype; parameters stay as they are.
    pub fn compute_in(mut self, dtype: FloatDType) -> Self {
        self.text.dtype = dtype;
        if let Some(image) = &mut self.image {
            image.dtype = dtype;
        }
        if let Some(regions) = &mut self.regions {
            regions.dtype = dtype;
        }
        if let Some(outside) = &mut self.outside {
            outside.get_mut().compute_in(dtype);
        }
        self.map.iter_mut().for_each(|map| map.dtype = dtype);
        self
    }

    /// Whether there is an image encoder that reads pixels.
    pub fn reads_pixels(&self) -> bool {
        self.image.is_some() || self.outside.is_some()
    }

    /// Whether the names of an image's objects are read, by the image encoder or by one stream.
    pub fn reads_tags(&self) -> bool {
        self.image_tags || self.reads_concepts()
    }

    /// Whether one stream reads the names of an image's objects beside image and text.
    fn reads_concepts(&self) -> bool {
        let joint = self.joint.as_ref();
        joint.is_some_and(|joint| joint.config.concepts)
    }

    /// # Shapes
    ///
    /// - input: `[B, Lt]`
    pub fn encode_texts(&self, input: &TextInput) -> TextFeatures {
        self.encode_texts_at(input, &BTreeSet::new())
    }

    /// As [`encode_texts`](Self::encode_texts); also returns the states of these layers.
    ///
    /// # Shapes
    ///
    /// - input: `[B, Lt]`
    pub fn encode_texts_at(&self, input: &TextInput, layers: &BTreeSet<usize>) -> TextFeatures {
        if self.gives_constant_texts() {
            let states = self.constant_text_states(input, layers);
            return self.features_of_constant_texts(states, input.mask.clone(), layers);
        }
        let states = self.text.forward(input, self.text_states(layers));
        self.text_features(states, input.mask.clone(), layers)
    }

    /// Whether the text encoder gives the same states for the same text in every step: nothing in it learns and nothing is drawn.
    pub fn gives_constant_texts(&self) -> bool {
        self.frozen.text && !self.text.draws()
    }

    /// How many of the text encoder's last states are needed, if these layers are asked for.
    pub fn text_states(&self, layers: &BTreeSet<usize>) -> usize {
        let depth = self.text.depth();
        match self.shared() {
            // The embeddings are what enters the same blocks again.
            Some(_) => depth + 1,
            None => self.states_down_to(depth, layers),
        }
    }

    /// The states of a text encoder that [gives constants](Self::gives_constant_texts), without autodiff.
    ///
    /// # Shapes
    ///
    /// - input: `[B, Lt]`
    /// - output: `[B, Lt, text width]` each
    pub fn constant_text_states(
        &self,
        input: &TextInput,
        layers: &BTreeSet<usize>,
    ) -> Vec<Tensor<3>> {
        let keep = self.text_states(layers);
        self.text.valid().forward(&input.without_autodiff(), keep)
    }

    /// Features from [`constant_text_states`](Self::constant_text_states).
    ///
    /// # Shapes
    ///
    /// - states: `[B, Lt, text width]` each
    /// - mask: `[B, Lt]`
    pub fn features_of_constant_texts(
        &self,
        states: Vec<Tensor<3>>,
        mask: PaddingMask,
        layers: &BTreeSet<usize>,
    ) -> TextFeatures {
        let own = self.text.word_embedding.weight.val();
        let states = states.into_iter();
        let states = states.map(|state| frozen::beside(state, &own)).collect();
        self.text_features(states, mask, layers)
    }

    /// Features from the last states of the text encoder.
    fn text_features(
        &self,
        states: Vec<Tensor<3>>,
        mask: PaddingMask,
        layers: &BTreeSet<usize>,
    ) -> TextFeatures {
        let layers = layers_of(&states, self.text.depth(), layers);
        let class = self.text.summary(last(&states), &mask);
        let states = match self.shared() {
            Some(_) => states.into_iter().take(1).collect(),
            None => self.read_by_fusion(states),
        };
        TextFeatures {
            class,
            states: match &self.fusion {
                Some(fusion) => fusion.project_texts(states),
                None => states,
            },
            mask,
            layers,
        }
    }

    /// Whether a batch holds the kind of images that the model reads.
    pub fn sees(&self, batch: &Batch) -> bool {
        match &self.regions {
            Some(_) => batch.regions.is_some(),
            None => self.reads_pixels() && batch.images.is_some(),
        }
    }

    /// A batch's images of the kind that the model reads, on a device; `None` if it has none of them.
    pub fn pictures(&self, batch: &Batch, device: &Device) -> Option<Pictures> {
        if self.regions.is_some() {
            let regions = RegionInput::new(batch.regions.as_ref()?, device);
            return Some(Pictures::Regions(regions));
        }
        let images = batch.images.as_ref().filter(|_| self.reads_pixels())?;
        Some(Pictures::of_pixels(images, &images.pixels, device))
    }

    /// # Shapes
    ///
    /// - pixels: `[B, 3, H, W]`
    ///
    /// # Panics
    ///
    /// Panics if the model reads regions.
    pub fn encode_images(&self, pixels: Tensor<4>) -> ImageFeatures {
        self.encode_pictures(&Pictures::Pixels(pixels), None, 0)
    }

    /// As [`encode_images`](Self::encode_images), for pixels or regions, with the names of their objects. If a sample has several
    /// images, `picture` counts them from 0.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - tags: `[B, M]`
    ///
    /// # Panics
    ///
    /// Panics if the model reads the other kind.
    pub fn encode_pictures(
        &self,
        pictures: &Pictures,
        tags: Option<&TextInput>,
        picture: usize,
    ) -> ImageFeatures {
        self.encode_pictures_at(pictures, tags, picture, &BTreeSet::new())
    }

    /// As [`encode_pictures`](Self::encode_pictures); also returns the states of these layers.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - tags: `[B, M]`
    ///
    /// # Panics
    ///
    /// Panics if the model reads the other kind.
    pub fn encode_pictures_at(
        &self,
        pictures: &Pictures,
        tags: Option<&TextInput>,
        picture: usize,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        if self.reads_concepts() {
            let images = self.encode_with_tags(pictures, None, picture, layers);
            return self.with_concepts(images, tags);
        }
        self.encode_with_tags(pictures, tags, picture, layers)
    }

    /// The same images with the names of their objects beside them, as texts of the second type after the text encoder. If one stream reads
    /// no names, or there are none, nothing changes.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - concepts: `[B, K]`
    pub fn with_concepts(
        &self,
        images: ImageFeatures,
        concepts: Option<&TextInput>,
    ) -> ImageFeatures {
        let Some(input) = concepts.filter(|_| self.reads_concepts()) else {
            return images;
        };
        let [rows, length] = input.ids.dims();
        let types = vec![TAG_TYPE as i32; rows * length];
        let texts = self.encode_texts(&self.text.with_segments(input.clone(), types));
        let concepts = ConceptFeatures {
            states: last(&texts.states).clone(),
            mask: texts.mask,
        };
        ImageFeatures {
            concepts: Some(concepts),
            ..images
        }
    }

    /// Images with the names of objects that the image encoder itself reads.
    fn encode_with_tags(
        &self,
        pictures: &Pictures,
        tags: Option<&TextInput>,
        picture: usize,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        let depth = self.image_layers();
        let keep = self.states_down_to(depth, layers);
        let further = tags.map(|tags| (self.text.embed(tags, TAG_TYPE), &tags.mask));
        // Tags are embedded by the text encoder, which may learn.
        let frozen = self.frozen.image && further.is_none();
        let (states, mask): (Vec<_>, _) = match (pictures, &self.image, &self.regions) {
            (Pictures::Pixels(pixels), Some(encoder), _) => {
                if further.is_none() && self.gives_constant_images() {
                    let states = self.constant_image_states(pictures, layers);
                    (self.constant_images(states), None)
                } else {
                    let states = encoder.forward_with(pixels.clone(), further, keep);
                    let finished = states.into_iter().map(|state| encoder.finish(state));
                    (finished.collect(), None)
                }
            }
            (Pictures::Regions(regions), _, Some(encoder)) => {
                if frozen && !encoder.draws() {
                    let (own, encoder) = (encoder.class_embedding.val(), encoder.valid());
                    let (states, _) = encoder.forward(&regions.without_autodiff(), None, keep);
                    let states = states.into_iter();
                    let states = states.map(|state| frozen::beside(state, &own)).collect();
                    let class =
                        PaddingMask::none(regions.mask.dims()[0], 1, &regions.features.device());
                    (
                        states,
                        Some(PaddingMask::join(vec![class, regions.mask.clone()])),
                    )
                } else {
                    let (states, mask) = encoder.forward(regions, further, keep);
                    (states, Some(mask))
                }
            }
            (Pictures::Pixels(pixels), None, None) => {
                let outside = self.outside.as_ref().filter(|_| further.is_none());
                let outside = outside.expect("invariant: a model is given what it reads");
                let states = outside.get().forward(pixels.clone(), keep);
                assert_eq!(states.len(), keep, "states of `{}`", outside.key());
                (states, None)
            }
            _ => unreachable!("invariant: a model is given what it reads"),
        };
        let count = tags.map_or(0, |tags| tags.ids.dims()[1]);
        let own = last(&states).dims()[1] - count;
        let mask = mask.map(|mask| mask.narrow(0, own));
        let (states, tags) = match count {
            0 => (states, None),
            count => {
                let tags = last(&states).clone().narrow(1, own, count);
                let pictures = states.into_iter().map(|state| state.narrow(1, 0, own));
                (pictures.collect(), Some(tags))
            }
        };
        self.image_features(states, tags, mask, (picture, layers))
    }

    /// Whether the encoder of pixels gives the same states for the same image in every step: nothing in it learns and nothing is drawn.
    pub fn gives_constant_images(&self) -> bool {
        let encoder = self.image.as_ref();
        self.frozen.image && encoder.is_some_and(|encoder| !encoder.draws())
    }

    /// How many of the image encoder's last states are needed, if these layers are asked for.
    pub fn image_states(&self, layers: &BTreeSet<usize>) -> usize {
        self.states_down_to(self.image_layers(), layers)
    }

    /// The states of an encoder of pixels that [gives constants](Self::gives_constant_images), after its final norm, without autodiff.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows
    /// - output: `[B, Lv, image width]` each
    ///
    /// # Panics
    ///
    /// Panics if the model reads no pixels, or these are none.
    pub fn constant_image_states(
        &self,
        pictures: &Pictures,
        layers: &BTreeSet<usize>,
    ) -> Vec<Tensor<3>> {
        let (Pictures::Pixels(pixels), Some(encoder)) = (pictures, &self.image) else {
            unreachable!("invariant: asked of encoders of pixels alone");
        };
        let encoder = encoder.valid();
        let pixels = pixels.clone().without_autodiff();
        let states = encoder.forward(pixels, self.image_states(layers));
        let states = states.into_iter();
        states.map(|state| encoder.finish(state)).collect()
    }

    /// Features from [`constant_image_states`](Self::constant_image_states). If a sample has several images, `picture` counts them from 0.
    ///
    /// # Shapes
    ///
    /// - states: `[B, Lv, image width]` each
    pub fn features_of_constant_images(
        &self,
        states: Vec<Tensor<3>>,
        picture: usize,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        let states = self.constant_images(states);
        self.image_features(states, None, None, (picture, layers))
    }

    /// States as constants beside the image encoder's weights.
    fn constant_images(&self, states: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let Some(encoder) = &self.image else {
            return states;
        };
        let own = encoder.class_embedding.val();
        let states = states.into_iter();
        states.map(|state| frozen::beside(state, &own)).collect()
    }

    /// As [`encode_images`](Self::encode_images), with the patches hidden that `hidden` marks.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows of pixels
    /// - hidden: `[B, N]`, `true` hides one of the `N` patches
    ///
    /// # Panics
    ///
    /// Panics if the model reads regions, or has no embedding for hidden patches (`mask_embedding` in its configuration).
    pub fn encode_masked(
        &self,
        pictures: &Pictures,
        hidden: &Tensor<2, Bool>,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        let (Pictures::Pixels(pixels), Some(encoder)) = (pictures, &self.image) else {
            unreachable!("invariant: validation finds an encoder of pixels");
        };
        let keep = self.states_down_to(encoder.layers.len(), layers);
        let states = encoder.forward_masked(pixels.clone(), hidden, keep);
        let finished = states.into_iter().map(|state| encoder.finish(state));
        self.image_features(finished.collect(), None, None, (0, layers))
    }

    /// Features from the last states of an image encoder, after its final norm.
    fn image_features(
        &self,
        states: Vec<Tensor<3>>,
        tags: Option<Tensor<3>>,
        mask: Option<PaddingMask>,
        (picture, layers): (usize, &BTreeSet<usize>),
    ) -> ImageFeatures {
        let layers = layers_of(&states, self.image_layers(), layers);
        let states = self.read_by_fusion(states);
        ImageFeatures {
            tags,
            concepts: None,
            mask,
            class: first(&states),
            represented: None,
            states: match &self.fusion {
                Some(fusion) => fusion.project_images(states, picture),
                None => states,
            },
            layers,
        }
    }

    /// Blocks of the image encoder.
    fn image_layers(&self) -> usize {
        let pixels = self.image.as_ref().map(|image| image.layers.len());
        let regions = self.regions.as_ref().map(|regions| regions.layers.len());
        let outside = self.outside.as_ref().map(|outside| outside.get().layers());
        pixels.or(regions).or(outside).unwrap_or(0)
    }

    /// How many of the last states of an encoder of `depth` blocks are needed.
    fn states_down_to(&self, depth: usize, layers: &BTreeSet<usize>) -> usize {
        let lowest = layers.first().map_or(depth, |layer| *layer.min(&depth));
        self.uni_modal_states().max(depth - lowest + 1)
    }

    /// The last states that the cross-modal encoder takes.
    fn read_by_fusion(&self, mut states: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let more = states.len().saturating_sub(self.uni_modal_states());
        states.split_off(more)
    }

    /// The grounded dictionary, if the cross-modal encoder has one.
    pub fn quantiser(&self) -> Option<&Quantiser> {
        self.joint.as_ref()?.quantiser.as_ref()
    }

    /// How many of the last states of the uni-modal encoders the cross-modal encoder takes.
    fn uni_modal_states(&self) -> usize {
        let fusion = self.fusion.as_ref();
        fusion.map_or(1, |fusion| fusion.config.uni_modal_states())
    }

    /// Clamps the dictionary's `tau`, after the optimiser's step.
    pub fn after_step(&mut self) {
        if let Some(quantiser) = self.joint.as_mut().and_then(|j| j.quantiser.as_mut()) {
            quantiser.after_step();
        }
    }
}

/// The states of these layers, taken from the last states of an encoder of `depth` blocks.
fn layers_of(
    states: &[Tensor<3>],
    depth: usize,
    layers: &BTreeSet<usize>,
) -> BTreeMap<usize, Tensor<3>> {
    let of = |layer: &usize| {
        let from_last = depth.checked_sub(*layer)?;
        let at = states.len().checked_sub(from_last + 1)?;
        Some((*layer, states[at].clone()))
    };
    layers.iter().filter_map(of).collect()
}

fn first(states: &[Tensor<3>]) -> Tensor<2> {
    last(states).clone().narrow(1, 0, 1).squeeze_dim(1)
}

fn last(states: &[Tensor<3>]) -> &Tensor<3> {
    states
        .last()
        .expect("invariant: an encoder keeps at least its last state")
}
