//! The output of a cross-modal encoder, of one stream or of two.
//!
//! Shape legend: `B` rows, `Lt` and `Lv` positions of text and image, `D` width, `H` heads, `K` grounded tokens.

use burn::tensor::Tensor;
use unimo_core::attention::Weights;

use crate::quantiser::Quantised;
use crate::rows::Rows;

/// The output of the cross-modal encoder.
#[derive(Debug, Clone)]
pub struct FusionOutput {
    /// `[B, Lt, D]`, the class token first; `None` if the pass had no texts.
    pub text: Option<Tensor<3>>,
    /// `[B, Lv, D]`; `None` if the pass had no images, or if the encoder has no states of them (two streams without that of the image).
    pub image: Option<Tensor<3>>,
    /// The grounded tokens after the pass, if the encoder has some ([`crate::joint`]).
    pub grounded: Option<Grounded>,
    /// Per layer the gates of the text and the image stream, `[B, R, S]`; empty unless asked for, or without levels.
    pub gates: Vec<LayerGates>,
    /// Per layer each stream's attention to the other; empty unless asked for.
    pub attention: Vec<LayerAttention>,
    /// `[B, H, Lt]`: what the first position of each text attends to in the text itself, in the last layer; `None` unless asked for.
    pub class_attention: Option<Tensor<3>>,
    /// `[B, Lt, Lv]`: what the texts attend to in the image, in one layer, the mean over its heads; `None` unless asked for
    /// ([`Keep::TextAttention`]).
    pub text_attention: Option<Tensor<3>>,
}

impl FusionOutput {
    /// These states, and nothing else.
    ///
    /// # Shapes
    ///
    /// - text: `[B, Lt, D]`
    /// - image: `[B, Lv, D]`
    pub fn of_states(text: Option<Tensor<3>>, image: Option<Tensor<3>>) -> Self {
        Self {
            text,
            image,
            grounded: None,
            gates: Vec::new(),
            attention: Vec::new(),
            class_attention: None,
            text_attention: None,
        }
    }

    /// The class tokens alone, the first positions of texts and images.
    #[must_use]
    pub fn class_tokens(&self) -> Self {
        let first = |states: &Option<Tensor<3>>| states.as_ref().map(|x| x.clone().narrow(1, 0, 1));
        Self::of_states(first(&self.text), first(&self.image))
    }

    /// The rows of these outputs, one after the other: states alone.
    ///
    /// # Shapes
    ///
    /// - parts: as many positions of texts and of images in each
    #[must_use]
    pub fn joined(parts: &[Self]) -> Self {
        let all = |of: &dyn Fn(&Self) -> Option<Tensor<3>>| {
            let states: Vec<Tensor<3>> = parts.iter().filter_map(of).collect();
            (states.len() == parts.len()).then(|| Tensor::cat(states, 0))
        };
        Self::of_states(
            all(&|part| part.text.clone()),
            all(&|part| part.image.clone()),
        )
    }

    /// The states of the texts, `[B, Lt, D]`.
    ///
    /// # Panics
    ///
    /// Panics if the pass had no texts.
    pub fn text(&self) -> &Tensor<3> {
        self.text.as_ref().expect("invariant: the pass had texts")
    }

    /// The states of the images, `[B, Lv, D]`.
    ///
    /// # Panics
    ///
    /// Panics if the pass had no images, or if the encoder has no states of them.
    pub fn image(&self) -> &Tensor<3> {
        self.image
            .as_ref()
            .expect("invariant: the pass had images and gives states of them")
    }

    /// The class token of the texts, `[B, D]`.
    ///
    /// # Panics
    ///
    /// Panics if the pass had no texts.
    pub fn text_class(&self) -> Tensor<2> {
        self.text().clone().narrow(1, 0, 1).squeeze_dim(1)
    }

    /// The same without a gradient.
    pub fn detach(self) -> Self {
        let fixed = |state: Option<Tensor<3>>| state.map(Tensor::detach);
        Self {
            text: fixed(self.text),
            image: fixed(self.image),
            class_attention: fixed(self.class_attention),
            text_attention: fixed(self.text_attention),
            ..self
        }
    }

    /// The given rows, in that order. Gates and attention are inspected as a whole: they are left out unless all rows are taken as they
    /// are.
    pub fn rows(&self, rows: &[usize]) -> Self {
        let text = self.text.as_ref().map(|text| text.dims()[0]);
        let all = text.or(self.image.as_ref().map(|image| image.dims()[0]));
        if rows.iter().copied().eq(0..all.unwrap_or(0)) {
            return self.clone();
        }
        let rows = Rows::new(rows);
        Self {
            text: self.text.as_ref().map(|text| rows.of(text)),
            image: self.image.as_ref().map(|image| rows.of(image)),
            grounded: self.grounded.as_ref().map(|grounded| grounded.rows(&rows)),
            gates: Vec::new(),
            attention: Vec::new(),
            class_attention: self
                .class_attention
                .as_ref()
                .map(|weights| rows.of(weights)),
            text_attention: self.text_attention.as_ref().map(|weights| rows.of(weights)),
        }
    }
}

/// What is read of fused pairs. The last layer computes nothing else, if the encoder can do so; others give everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Read {
    /// The states of all positions, of the texts and of the images.
    #[default]
    Whole,
    /// The states of the texts.
    Text,
    /// The first position of each, its class token.
    ClassTokens,
}

impl Read {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Whole }
    }

    /// How many positions of a stream of `length` are read.
    pub(crate) fn of(self, length: usize) -> usize {
        match self {
            Self::Whole | Self::Text => length,
            Self::ClassTokens => 1,
        }
    }
}

/// What a pass keeps beside its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the fastest.
    Nothing,
    /// [`FusionOutput::gates`].
    Gates,
    /// [`FusionOutput::gates`] and [`FusionOutput::attention`].
    Attention,
    /// [`FusionOutput::text_attention`] of this layer, counted from 0; the others keep nothing.
    TextAttention(usize),
}

impl Keep {
    /// What a layer keeps.
    #[must_use]
    pub fn of_layer(self, layer: usize) -> Self {
        match self {
            Self::TextAttention(at) if at == layer => Self::Attention,
            Self::TextAttention(_) => Self::Nothing,
            other => other,
        }
    }
}

impl StreamAttention {
    /// The weights of the attention to the other stream, the mean over heads: of that to its state before the layer or, without it, to its
    /// levels.
    ///
    /// # Shapes
    ///
    /// - output: `[B, Q, K]`; `None` if nothing was kept
    pub fn mean(&self) -> Option<Tensor<3>> {
        let over_heads = |weights: &Weights| weights.values().mean_dim(1).squeeze_dim::<3>(1);
        if let Some(in_layer) = &self.in_layer {
            return Some(over_heads(in_layer));
        }
        let levels = self.cross_layer.iter().map(over_heads);
        let sum = levels.reduce(|sum, weights| sum + weights)?;
        Some(sum.div_scalar(self.cross_layer.len() as f64))
    }
}

/// One layer's attention between the streams.
#[derive(Debug, Clone)]
pub struct LayerAttention {
    /// The text stream over image positions.
    pub text: StreamAttention,
    /// The image stream over text positions.
    pub image: StreamAttention,
}

/// One stream's attention to the other in one layer. `Q` are own positions, `K` those of the other stream.
#[derive(Debug, Clone, Default)]
pub struct StreamAttention {
    /// Attention to the other stream's state before the layer, `[B, H, Q, K]`.
    pub in_layer: Option<Weights>,
    /// Attention to the levels, `[B, H, Q, K]` each: one for their gated mixture or, with a gate per token, one per level.
    pub cross_layer: Vec<Weights>,
    /// `tanh(lambda)`, `[1]`: the factor with which the cross-layer part joins the in-layer part.
    pub share: Option<Tensor<1>>,
}

/// One layer's gates; rows sum to 1.
#[derive(Debug, Clone)]
pub struct LayerGates {
    /// `[B, R, S]`: which image levels the text stream read.
    pub text: Tensor<3>,
    /// `[B, R, S]`: which text levels the image stream read.
    pub image: Tensor<3>,
}

/// Grounded tokens of a pass.
#[derive(Debug, Clone)]
pub struct Grounded {
    /// The codebook's output.
    pub quantised: Quantised,
    /// Their states after the encoder, `[B, K, D]`.
    pub states: Tensor<3>,
}

impl Grounded {
    pub(crate) fn rows(&self, rows: &Rows<'_>) -> Self {
        Self {
            quantised: self.quantised.rows(rows),
            states: rows.of(&self.states),
        }
    }
}
