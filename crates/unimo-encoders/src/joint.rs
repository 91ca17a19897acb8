//! The single-stream cross-modal encoder: text and image in one sequence of self-attention, with or without grounded
//! tokens between them.
//!
//! | configuration | model |
//! |---|---|
//! | `grounding` | UNIMO-2's grounded transformer over `[V; G; T]`: `V` and `T` see each other only through `G` |
//! | no `grounding` | UNIMO-2 without grounding; MVP's joint encoder (`image_class = false`); UC2 and M3P over embeddings of words and regions |
//! | `split`, `concepts` | DiMBERT over `[V; C; T]`: `V` and `T` have matrices of their own; `C` are names of the image's objects, see [`split`] |
//!
//! Sources: UNIMO-2 (Li et al. 2022), sections 2.2 and 2.3; MVP (Li et al. 2022), section 3.2.
//!
//! Who sees whom (no one sees padding):
//!
//! | | in both directions, grounded | not grounded | from left to right |
//! |---|---|---|---|
//! | `V` sees | V, G | V, T | V, G |
//! | `G` sees | V, G, T | | V, G |
//! | `T` sees | G, T | V, T | V, G, the prefix and earlier positions |
//!
//! `C` sees and is seen as `V`. From left to right the codes are chosen by the patches alone, or by the prefix if there is no image. So nothing that is to
//! be predicted is seen.
//!
//! Shape legend: `B` rows, `Lt` text positions, `Lv` image positions, the class tokens first, `C` class tokens (1, or 2 for a
//! distilled DeiT), `K` grounded tokens or concepts, `D` width.

pub mod split;

pub mod interleaved;

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::blocks::{BlockConfig, PostNormBlock};
use unimo_core::dtype::cast;
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Dropout, LayerNorm};
use unimo_core::mask::{Hidden, PaddingMask, PairMask};
use unimo_core::split::Split;

use crate::joint::interleaved::InterleavedConfig;
use crate::joint::split::{Before, SplitConfig};
use crate::output::{FusionOutput, Grounded, Read};
use crate::quantiser::{Quantised, Quantiser, QuantiserConfig};
use crate::sizes;

/// `[model.joint]`. Its width equals that of both uni-modal encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointConfig {
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
    /// Share of dropout on attention weights, residual branches and grounded tokens, in [0, 1).
    pub dropout: f64,
    /// Drop-path (stochastic depth) on the residual branches of the last block, in [0, 1); it rises linearly from 0 in the first one.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub drop_path: f64,
    /// Whether the image's class tokens take part; MVP leaves them out.
    pub image_class: bool,
    /// Grounded tokens between text and image; if absent, the two see each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding: Option<QuantiserConfig>,
    /// Whether the names of an image's objects take part as a text between image and text (DiMBERT's visual concepts). Batches must hold them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub concepts: bool,
    /// Matrices of their own for image and text (DiMBERT); if absent, they share all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// It also reads stories, sequences of images and sentences ([`interleaved`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interleaved: Option<InterleavedConfig>,
}

impl JointConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        config::positive("layers", self.layers)?;
        sizes::layers(self.layers)?;
        self.check_split()?;
        if let Some(interleaved) = &self.interleaved {
            interleaved
                .validate()
                .map_err(|e| e.within("interleaved"))?;
            ConfigError::unless(
                self.split.is_none() && !self.concepts,
                "interleaved",
                "{}",
                "must be absent beside split and concepts, whose parts are those of one image and one text",
            )?;
            ConfigError::unless(
                self.grounding.is_none(),
                "interleaved",
                "{}",
                "must be absent beside grounding: grounded tokens are those of one image and one text",
            )?;
        }
        match &self.grounding {
            Some(grounding) => grounding.validate().map_err(|e| e.within("grounding")),
            None => Ok(()),
        }
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

    /// A new encoder for images with one class token.
    pub fn init(&self, init: &mut Init) -> JointEncoder {
        self.init_over(init, 1)
    }

    /// A new encoder for images with `class_tokens` positions before their patches.
    pub fn init_over(&self, init: &mut Init, class_tokens: usize) -> JointEncoder {
        let block = self.block();
        let grounding = self.grounding.as_ref();
        let encoder = JointEncoder {
            quantiser: grounding.map(|config| config.init(init, self.width)),
            norm: grounding.map(|_| LayerNorm::new(init, self.width, self.layer_norm_eps)),
            dropout: Dropout::new(self.dropout),
            layers: (0..self.layers)
                .map(|layer| PostNormBlock::new(init, &block.at(layer, self.layers)))
                .collect(),
            split: Vec::new(),
            slice_embedding: self
                .interleaved
                .as_ref()
                .map(|config| init.normal([config.slices, self.width])),
            class_tokens,
            config: self.clone(),
        };
        encoder.split_anew()
    }
}

/// The encoder. See the [module](self).
#[derive(Module, Debug)]
pub struct JointEncoder {
    /// The grounded dictionary.
    pub quantiser: Option<Quantiser>,
    /// Norm of grounded tokens.
    pub norm: Option<LayerNorm>,
    /// Dropout on grounded tokens.
    pub dropout: Dropout,
    /// Blocks. With `split` their matrices are those of texts.
    pub layers: Vec<PostNormBlock>,
    /// Further matrices for each block; empty without `split`.
    pub split: Vec<Split>,
    /// `[S, D]`: the places of slices in a story, if it reads stories.
    pub slice_embedding: Option<Param<Tensor<2>>>,
    /// `C`.
    pub class_tokens: usize,
    /// What it was made from.
    #[module(skip)]
    pub config: JointConfig,
}

/// Whose states a pass over pairs gives. Most encoders give those of both at once; [`crate::fusion::shared`] goes through its layers once
/// for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Those of the texts.
    pub text: bool,
    /// Those of the images.
    pub image: bool,
}

impl Default for Sides {
    fn default() -> Self {
        Self {
            text: true,
            image: false,
        }
    }
}

impl Sides {
    /// What either asks for.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            text: self.text || other.text,
            image: self.image || other.image,
        }
    }
}

/// What a pass through the encoder may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Text is read from left to right after this many leading positions; `None` reads in both directions.
    pub prefix: Option<usize>,
    /// Grounded tokens that are to be predicted and are therefore hidden, `[B, K]`, row-major; empty hides none.
    pub hidden_tokens: Vec<bool>,
    /// How many layers are run; `None`: all.
    pub layers: Option<usize>,
    /// Whose states are wanted, of an encoder that gives one at a time.
    pub sides: Sides,
    /// Whether [`FusionOutput::class_attention`] is wanted.
    pub class_attention: bool,
    /// What is read of the output.
    pub read: Read,
}

/// States with the mask of those that are padding: `[B, L, D]` and `[B, L]`.
type Masked<'a> = (&'a Tensor<3>, &'a PaddingMask);

/// What one stream reads.
struct Sequence {
    /// Image, grounded tokens or concepts, and text, `[B, v + k + t, D]`.
    x: Tensor<3>,
    /// `[B, v + k + t]`.
    keys: PaddingMask,
    /// `v`, `k` and `t`.
    counts: [usize; 3],
    quantised: Option<Quantised>,
}

/// What texts that are read word by word see: the images with their codes, and the words so far.
#[derive(Debug, Clone)]
pub struct JointReading {
    /// One per layer, a row for each text.
    layers: Vec<Before>,
    /// `[R, K]`, a row for each text.
    mask: PaddingMask,
}

impl JointReading {
    /// Keeps these texts with their images, in that order; a text may be given several times.
    pub fn select(&mut self, texts: &Tensor<1, Int>) {
        self.mask = self.mask.select(texts.clone());
        for layer in &mut self.layers {
            *layer = layer.select(texts);
        }
    }
}

/// The last block, for what is read of it alone: the text, or the class tokens of image and text.
///
/// # Shapes
///
/// - x: `[B, v + k + t, D]`
/// - output: `[B, t, D]`, or `[B, 1, D]` of each
fn last_block(
    block: &PostNormBlock,
    x: Tensor<3>,
    keys: &PaddingMask,
    ([v, k, t], read): ([usize; 3], Read),
) -> FusionOutput {
    let text = x.clone().narrow(1, v + k, read.of(t));
    if read == Read::Text || v == 0 {
        let text = block.forward_some(text, x, Some(keys));
        return FusionOutput::of_states(Some(text), None);
    }
    let some = Tensor::cat(vec![x.clone().narrow(1, 0, 1), text], 1);
    let read = block.forward_some(some, x, Some(keys));
    let image = read.clone().narrow(1, 0, 1);
    FusionOutput::of_states(Some(read.narrow(1, 1, 1)), Some(image))
}

impl JointEncoder {
    /// Runs the sequence of the parts that are given.
    ///
    /// # Shapes
    ///
    /// - text: `[B, Lt, D]` with its mask `[B, Lt]`
    /// - image: `[B, Lv, D]`, with its mask `[B, Lv]` if some of it is padding
    /// - output: `[B, Lt, D]`, and `[B, Lv, D]` or without the class tokens `[B, Lv - C, D]`
    ///
    /// # Panics
    ///
    /// Panics if there is neither text nor image.
    pub fn forward(
        &self,
        text: Option<(&Tensor<3>, &PaddingMask)>,
        image: Option<(&Tensor<3>, Option<&PaddingMask>)>,
        view: &View,
    ) -> FusionOutput {
        self.forward_beside(text, image, None, view)
    }

    /// As [`forward`](Self::forward), with the names of the images' objects between image and text.
    ///
    /// # Shapes
    ///
    /// - concepts: `[B, K, D]` with its mask `[B, K]`
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward); also if there are concepts without an image, or beside grounded tokens.
    pub fn forward_beside(
        &self,
        text: Option<Masked<'_>>,
        image: Option<(&Tensor<3>, Option<&PaddingMask>)>,
        concepts: Option<Masked<'_>>,
        view: &View,
    ) -> FusionOutput {
        let Sequence {
            mut x,
            keys,
            counts: [v, k, t],
            quantised,
        } = self.sequence(text, image, concepts, view);
        let pairs = self.pairs([v, k, t], view, &x.device());
        let hidden = Hidden {
            keys: Some(&keys),
            pairs: pairs.as_ref(),
        };
        let layers = view.layers.unwrap_or(self.layers.len());
        let read = match text {
            Some(_) if self.narrows() && pairs.is_none() => view.read,
            _ => Read::Whole,
        };
        for (number, layer) in self.layers.iter().enumerate().take(layers) {
            let _part = unimo_core::part!(Some(x.device()), "block", at = number);
            if number + 1 == layers && read != Read::Whole {
                return last_block(layer, x, &keys, ([v, k, t], read));
            }
            x = match self.split.get(number) {
                Some(split) => split.forward(layer, x, &self.spans([v, k, t]), hidden),
                None => layer.forward(x, hidden),
            };
        }
        FusionOutput {
            image: image.map(|_| x.clone().narrow(1, 0, v)),
            text: text.map(|_| x.clone().narrow(1, v + k, t)),
            grounded: quantised.map(|quantised| Grounded {
                quantised,
                states: x.narrow(1, v, k),
            }),
            gates: Vec::new(),
            attention: Vec::new(),
            class_attention: None,
            text_attention: None,
        }
    }

    /// Whether a pass computes less where less is read: without grounded tokens and matrices of each modality.
    pub(crate) fn narrows(&self) -> bool {
        self.quantiser.is_none() && self.split.is_empty()
    }

    /// Reads the images and their codes, which see no text, and keeps what texts that are read from left to right see of them.
    ///
    /// # Shapes
    ///
    /// - image: `[B, Lv, D]`, with its mask `[B, Lv]` if some of it is padding
    /// - concepts: `[B, K, D]` with its mask `[B, K]`
    pub fn begin_reading(
        &self,
        image: &Tensor<3>,
        mask: Option<&PaddingMask>,
        concepts: Option<Masked<'_>>,
    ) -> JointReading {
        let sequence = self.sequence(None, Some((image, mask)), concepts, &View::default());
        let mut x = sequence.x;
        let spans = self.spans(sequence.counts);
        let before = |(number, layer): (usize, &PostNormBlock)| {
            let (read, before) = match self.split.get(number) {
                Some(split) => {
                    let begun = split.begin_reading(layer, x.clone(), &spans, &sequence.keys);
                    (begun.0, Before::Split(begun.1))
                }
                None => {
                    let mut keys = None;
                    let read = layer.read_on(x.clone(), &mut keys, Some(&sequence.keys));
                    (read, Before::Shared(keys))
                }
            };
            x = read;
            before
        };
        JointReading {
            layers: self.layers.iter().enumerate().map(before).collect(),
            mask: sequence.keys,
        }
    }

    /// Reads one more word of each text. It sees the words before, and the image with its codes. It gives what
    /// [`forward`](Self::forward) gives for whole texts, up to rounding.
    ///
    /// # Shapes
    ///
    /// - text, output: `[R, 1, D]`, for `R` texts
    pub fn read_on(&self, text: &Tensor<3>, reading: &mut JointReading) -> Tensor<3> {
        let [rows, _, _] = text.dims();
        let shown = PaddingMask::none(rows, 1, &text.device());
        reading.mask = PaddingMask::join(vec![reading.mask.clone(), shown]);
        let mut x = text.clone();
        let layers = self.layers.iter().zip(&mut reading.layers).enumerate();
        for (number, (layer, before)) in layers {
            x = match (self.split.get(number), before) {
                (Some(split), Before::Split(memory)) => {
                    split.read_on(layer, x, memory, &reading.mask)
                }
                (_, Before::Shared(keys)) => layer.read_on(x, keys, Some(&reading.mask)),
                (None, Before::Split(_)) => {
                    unreachable!("invariant: reading goes on with the encoder that began it")
                }
            };
        }
        x
    }

    /// The parts that are given, one after the other, with who takes no part.
    fn sequence(
        &self,
        text: Option<(&Tensor<3>, &PaddingMask)>,
        image: Option<(&Tensor<3>, Option<&PaddingMask>)>,
        concepts: Option<Masked<'_>>,
        view: &View,
    ) -> Sequence {
        let width = self.config.width;
        let (rows, device) = match (text, image) {
            (Some((text, _)), _) => (text.dims()[0], text.device()),
            (None, Some((image, _))) => (image.dims()[0], image.device()),
            (None, None) => unreachable!("invariant: a pass has a text or an image"),
        };
        let shown = |count| PaddingMask::none(rows, count, &device);
        let image = image.map(|(image, mask)| {
            let [_, positions, _] = image.dims();
            let mask = mask.cloned().unwrap_or_else(|| shown(positions));
            if self.config.image_class {
                (image.clone(), mask)
            } else {
                let first = self.class_tokens;
                let count = positions - first;
                (
                    image.clone().narrow(1, first, count),
                    mask.narrow(first, count),
                )
            }
        });
        let v = image.as_ref().map_or(0, |(image, _)| image.dims()[1]);
        let t = text.map_or(0, |(text, _)| text.dims()[1]);
        let quantised = self.quantiser.as_ref().map(|quantiser| {
            let image = image.as_ref().map(|(image, mask)| (image, mask));
            let (states, hidden) = self.sources(text, image, view);
            quantiser.forward(states, &hidden)
        });
        let mut parts = Vec::new();
        let mut masks = Vec::new();
        if let Some((image, mask)) = &image {
            assert_shape!(image, [rows, v, width]);
            parts.push(image.clone());
            masks.push(mask.clone());
        }
        let mut k = 0;
        if let (Some(quantised), Some(norm)) = (&quantised, &self.norm) {
            k = quantised.tokens.dims()[1];
            let dtype: FloatDType = match (&image, text) {
                (Some((image, _)), _) => image.dtype().into(),
                (None, Some((text, _))) => text.dtype().into(),
                (None, None) => FloatDType::F32,
            };
            let mut tokens = quantised.tokens.clone();
            if !view.hidden_tokens.is_empty() {
                let data = TensorData::new(view.hidden_tokens.clone(), [rows, k, 1]);
                let hidden = Tensor::<3, Bool>::from_data(data, &device);
                tokens = tokens.mask_fill(hidden.expand([rows, k, width]), 0.0);
            }
            let tokens = cast(norm.forward(tokens), dtype);
            parts.push(self.dropout.forward(tokens));
            masks.push(quantised.hidden.clone().unwrap_or_else(|| shown(k)));
        }
        if let Some((concepts, mask)) = concepts {
            assert!(
                self.quantiser.is_none() && image.is_some(),
                "concepts belong to an image and stand in the place of grounded tokens"
            );
            k = concepts.dims()[1];
            assert_shape!(concepts, [rows, k, width]);
            parts.push(concepts.clone());
            masks.push(mask.clone());
        }
        if let Some((text, mask)) = text {
            assert_shape!(text, [rows, t, width]);
            parts.push(text.clone());
            masks.push(mask.clone());
        }
        Sequence {
            x: Tensor::cat(parts, 1),
            keys: PaddingMask::join(masks),
            counts: [v, k, t],
            quantised,
        }
    }

    /// The states that choose the codes, without class tokens, with the mask of those that take no part.
    ///
    /// # Shapes
    ///
    /// - output: `[B, N, D]`, `[B, N]`
    fn sources(
        &self,
        text: Option<(&Tensor<3>, &PaddingMask)>,
        image: Option<(&Tensor<3>, &PaddingMask)>,
        view: &View,
    ) -> (Tensor<3>, PaddingMask) {
        let mut parts = Vec::new();
        let mut masks = Vec::new();
        if let Some((image, mask)) = image {
            let first = if self.config.image_class {
                self.class_tokens
            } else {
                0
            };
            let count = image.dims()[1] - first;
            parts.push(image.clone().narrow(1, first, count));
            masks.push(mask.narrow(first, count));
        }
        let chooses = image.is_none() || view.prefix.is_none();
        if let Some((text, mask)) = text.filter(|_| chooses) {
            let count = text.dims()[1] - 1;
            let seen = view.prefix.map_or(count, |prefix| prefix.max(2) - 1);
            let seen = seen.min(count);
            parts.push(text.clone().narrow(1, 1, seen));
            masks.push(mask.narrow(1, seen));
        }
        (Tensor::cat(parts, 1), PaddingMask::join(masks))
    }

    /// Who may not see whom; `None` if everyone sees everyone. `counts` are the positions of `V`, `G` and `T`.
    fn pairs(&self, counts: [usize; 3], view: &View, device: &Device) -> Option<PairMask> {
        #[derive(PartialEq)]
        enum Part {
            Image,
            Grounded,
            Text(usize),
        }
        let [v, k, t] = counts;
        let part = |at: usize| match at {
            at if at < v => Part::Image,
            at if at < v + k => Part::Grounded,
            at => Part::Text(at - v - k),
        };
        let total = v + k + t;
        let grounded = self.quantiser.is_some();
        let hides = |query: usize, key: usize| match (part(query), part(key), view.prefix) {
            (Part::Text(query), Part::Text(key), Some(prefix)) => key > query && key >= prefix,
            // Without an image, the codes come from the prefix and may be read by all.
            (_, Part::Text(key), Some(prefix)) => v > 0 || key >= prefix,
            (Part::Image, Part::Text(_), None) | (Part::Text(_), Part::Image, None) => grounded,
            _ => false,
        };
        let all_see_all = view.prefix.is_none() && (!grounded || v == 0 || t == 0);
        (!all_see_all).then(|| PairMask::new([total; 2], device, hides))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::quantiser::Choice;

    /// f32 rounding over two layers of width 8.
    const TOLERANCE: f64 = 1e-5;

    fn config(grounded: bool) -> JointConfig {
        JointConfig {
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
            image_class: true,
            interleaved: None,
            grounding: grounded.then_some(QuantiserConfig {
                codes: 12,
                tokens: 3,
                choice: Choice::TopK,
                scale: 1.5,
                scale_range: [1.0, 10.0],
            }),
            concepts: false,
            split: None,
        }
    }

    /// With the grounded tokens hidden from the attention, the gradient of a text's output with respect to the image is exactly
    /// zero after any number of layers, and the reverse: they are the only bridge.
    #[test]
    fn nothing_passes_but_through_grounded_tokens() {
        let device = Device::flex().autodiff();
        for grounded in [true, false] {
            let encoder = config(grounded).init(&mut Init::new(&device, 1));
            let mut numbers = Init::new(&device, 2);
            let mut random = |shape: [usize; 3]| numbers.uniform(shape, 1.0).val();
            let image = random([2, 5, 8]).require_grad();
            let text = random([2, 4, 8]).require_grad();
            let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
            let pairs = encoder.pairs([5, 0, 4], &View::default(), &device);
            let keys =
                PaddingMask::join(vec![PaddingMask::from_lengths(&[5, 5], 5, &device), mask]);
            let run = || {
                let mut x = Tensor::cat(vec![image.clone(), text.clone()], 1);
                for layer in &encoder.layers {
                    let hidden = Hidden {
                        keys: Some(&keys),
                        pairs: pairs.as_ref(),
                    };
                    x = layer.forward(x, hidden);
                }
                x
            };
            let mut largest = |part: Tensor<3>, of: &Tensor<3>| {
                let weights = random(part.dims());
                let gradients = (part * weights).sum().backward();
                of.grad(&gradients)
                    .map_or(0.0, |g| g.abs().max().into_scalar::<f32>())
            };
            let text_of_image = largest(run().narrow(1, 5, 4), &image);
            let image_of_text = largest(run().narrow(1, 0, 5), &text);
            assert_eq!(text_of_image == 0.0, grounded, "{text_of_image}");
            assert_eq!(image_of_text == 0.0, grounded, "{image_of_text}");
        }
    }

    /// Less is computed where less is read, and what is read has the same values and gradients; codes are read with everything.
    #[test]
    fn what_is_read_is_as_if_all_were_read() {
        let device = Device::flex().autodiff();
        for grounded in [false, true] {
            let encoder = config(grounded).init(&mut Init::new(&device, 1));
            assert_eq!(encoder.narrows(), !grounded);
            let mut numbers = Init::new(&device, 2);
            let mut random = |shape: [usize; 3]| numbers.uniform(shape, 1.0).val();
            let image = random([2, 5, 8]).detach().require_grad();
            let text = random([2, 4, 8]).detach().require_grad();
            let weights = random([2, 4, 8]);
            let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
            let pass = |read: Read| {
                let view = View {
                    read,
                    ..View::default()
                };
                encoder.forward(Some((&text, &mask)), Some((&image, None)), &view)
            };
            let sums = |fused: FusionOutput, positions: usize| {
                let part = |states: &Tensor<3>| {
                    let weights = weights.clone().narrow(1, 0, positions);
                    (states.clone().narrow(1, 0, positions) * weights).sum()
                };
                let of_image = fused.image.as_ref().filter(|_| positions == 1).map(part);
                let sum = part(fused.text());
                let sum = of_image.map_or(sum.clone(), |image| sum.clone() + image);
                let gradients = sum.backward();
                let of = |input: &Tensor<3>| input.grad(&gradients).unwrap().into_data();
                [sum.inner().into_data(), of(&text), of(&image)]
            };
            for (read, positions) in [(Read::ClassTokens, 1), (Read::Text, 4)] {
                let ours = pass(read);
                let read_of_text = if grounded { 4 } else { positions };
                assert_eq!(ours.text().dims(), [2, read_of_text, 8]);
                assert_eq!(ours.image.is_none(), read == Read::Text && !grounded);
                let found = sums(ours, positions);
                let expected = sums(pass(Read::Whole), positions);
                for (found, expected) in found.iter().zip(&expected) {
                    let tolerance = Tolerance::absolute(TOLERANCE);
                    found.assert_approx_eq::<f32>(expected, tolerance);
                }
            }
        }
    }

    #[test]
    fn padding_changes_nothing() {
        let device = Device::flex();
        for grounded in [true, false] {
            for view in [
                View::default(),
                View {
                    prefix: Some(2),
                    ..View::default()
                },
            ] {
                let encoder = config(grounded).init(&mut Init::new(&device, 1));
                let mut numbers = Init::new(&device, 2);
                let mut random = |shape: [usize; 3]| numbers.uniform(shape, 1.0).val();
                let image = random([2, 5, 8]);
                let text = random([2, 4, 8]);
                let padded = Tensor::cat(vec![text.clone(), random([2, 3, 8])], 1);
                let full = PaddingMask::from_lengths(&[4, 4], 4, &device);
                let partial = PaddingMask::from_lengths(&[4, 4], 7, &device);
                let regions = Tensor::cat(vec![image.clone(), random([2, 2, 8])], 1);
                let of_regions = PaddingMask::from_lengths(&[5, 5], 7, &device);
                let pictures = [
                    (Some((&image, None)), Some((&image, None))),
                    (Some((&image, None)), Some((&regions, Some(&of_regions)))),
                    (None, None),
                ];
                for (image, with_padding) in pictures {
                    let short = encoder.forward(Some((&text, &full)), image, &view);
                    let long = encoder.forward(Some((&padded, &partial)), with_padding, &view);
                    let tolerance = Tolerance::absolute(TOLERANCE);
                    let same = |a: Tensor<3>, b: Tensor<3>| {
                        a.into_data()
                            .assert_approx_eq::<f32>(&b.into_data(), tolerance);
                    };
                    same(long.text.unwrap().narrow(1, 0, 4), short.text.unwrap());
                    if let (Some(long), Some(short)) = (long.image, short.image) {
                        same(long.narrow(1, 0, 5), short);
                    }
                }
            }
        }
    }

    /// A distilled DeiT has two positions before its patches. If class tokens take no part, both are left out.
    #[test]
    fn every_class_token_is_left_out() {
        let device = Device::flex();
        for grounded in [true, false] {
            let config = JointConfig {
                image_class: false,
                ..config(grounded)
            };
            let one = config.init(&mut Init::new(&device, 1));
            let two = config.init_over(&mut Init::new(&device, 1), 2);
            let mut numbers = Init::new(&device, 2);
            let image = numbers.uniform([2, 6, 8], 1.0).val();
            let text = numbers.uniform([2, 4, 8], 1.0).val();
            let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
            let text = Some((&text, &mask));
            let view = View::default();
            let with_two = two.forward(text, Some((&image, None)), &view);
            let alone = image.clone().narrow(1, 1, 5);
            let with_one = one.forward(text, Some((&alone, None)), &view);
            assert_eq!(with_two.image().dims(), [2, 4, 8]);
            let same = |a: &Tensor<3>, b: &Tensor<3>| a.to_data().assert_eq(&b.to_data(), true);
            same(with_two.image(), with_one.image());
            same(with_two.text(), with_one.text());
        }
        // If they take part, none of them chooses codes.
        let encoder = config(true).init_over(&mut Init::new(&device, 1), 2);
        let image = Tensor::<3>::zeros([2, 6, 8], &device);
        let shown = PaddingMask::none(2, 6, &device);
        let (states, _) = encoder.sources(None, Some((&image, &shown)), &View::default());
        assert_eq!(states.dims(), [2, 4, 8]);
    }

    #[test]
    fn validation_names_the_key() {
        let mut wrong = config(true);
        wrong.grounding.as_mut().unwrap().tokens = 13;
        assert_eq!(wrong.validate().unwrap_err().key, "grounding.tokens");
    }
}
