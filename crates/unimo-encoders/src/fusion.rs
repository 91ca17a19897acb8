//! The dual-stream cross-modal encoder: METER, BridgeTower, ManagerTower and UNIMO-3 as one module; ALBEF and CCLM as its
//! text stream alone.
//!
//! Two streams of layers, text and image. Both streams of a layer read the states before it. The configuration decides what a
//! layer reads:
//!
//! | configuration | model |
//! |---|---|
//! | `levels = none`, `link = none` | METER: in-layer co-attention |
//! | `link = add_norm`, `scaled_add_norm` or `interpolate_norm`, `uni_levels = layers` | BridgeTower |
//! | `link = managers` | ManagerTower |
//! | `levels = cross_prev`, `gate = cls` or `token` | UNIMO-3 |
//! | `levels = uni_top_n` or `both` | UNIMO-3 with uni-modal levels in its memory |
//! | `image_stream = false`, `shared = true` | SIMLA: the layers are the text encoder's own blocks, see [`shared`] |
//! | `image_stream = false` | ALBEF: every layer of the text stream reads the image encoder's states, which stay as they are; CCLM: or those of another text |
//!
//! One layer of the text stream (the image stream is its mirror image):
//!
//! ```text
//! A  = LN(T + SelfAttn(T))
//! Ci = CrossAttn(A, V)                      in-layer
//! Cx = LevelAttn(A, {V^j, j in S})          cross-layer, unimo_core::levels
//! T' = LN(A + Ci + tanh(lambda) Cx)         lambda = 0 at the start: an untrained UNIMO-3 is METER
//! T  = LN(T' + FFN(T'))
//! ```
//!
//! Where text is read from left to right, a position of the text stream sees itself, earlier ones and the image, and the image stream
//! sees no text at all ([`CrossModalEncoder::from_left_to_right`]). [`reading`] reads it word by word.
//!
//! Without an image stream (Li et al. 2021, section 3.1) the text encoder's last states enter the first layer without a linear layer
//! and a type before it, and there are no poolers: the stream is the upper half of a BERT. Its output has no states of the image.
//!
//! Shape legend: `B` rows, `Lt` and `Lv` positions of text and image, `D` width, `R` gate rows, `S` levels.

mod project;
pub mod reading;
pub mod shared;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::attention::Attention;
use unimo_core::blocks::FeedForward;
use unimo_core::dtype::same_dtype;
use unimo_core::init::Init;
use unimo_core::kernels::recomputed;
use unimo_core::layers::{Activation, DropPath, Dropout, Embedding, LayerNorm, Linear};
use unimo_core::levels::{GateKind, LevelAttention, LevelAttentionConfig};
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

use self::shared::SharedLayer;
use crate::managers::{Manager, ManagerConfig, ManagerMemory};
use crate::output::{FusionOutput, Keep, LayerAttention, LayerGates, Read, StreamAttention};
use crate::sizes;

/// Which states of the other stream the cross-layer attention reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Levels {
    /// No cross-layer attention.
    #[default]
    None,
    /// All states of the other stream before this layer, from the projected encoder output on.
    CrossPrev,
    /// The projected last `uni_levels` layers of the other modality's encoder.
    UniTopN,
    /// Both together. The encoder's last layer is in both and counts once.
    Both,
}

/// What enters a layer as the states of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// The previous layer's output.
    #[default]
    None,
    /// The previous output plus one uni-modal layer, normalised (BridgeTower).
    AddNorm,
    /// As `add_norm`, with the uni-modal layer times a learned factor that starts at 1.
    ScaledAddNorm,
    /// As `add_norm`, with `1 - b` of the uni-modal layer and `b` of the previous output; `b` is learned and starts at 0.5.
    InterpolateNorm,
    /// The uni-modal layers mixed by managers (ManagerTower).
    Managers,
}

impl Link {
    /// Whether each layer takes one uni-modal layer through a norm.
    pub fn is_bridge(self) -> bool {
        matches!(
            self,
            Self::AddNorm | Self::ScaledAddNorm | Self::InterpolateNorm
        )
    }
}

/// A cross-modal encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionConfig {
    /// `D`: numbers of a state.
    pub width: usize,
    /// Number of layers, each with a text and an image half.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Share of dropout on attention weights and residual branches, in [0, 1). Above 0, managers get their training noise too.
    pub dropout: f64,
    /// Drop-path (stochastic depth) on the residual branches of the last layer, in [0, 1); it rises linearly from 0 in the first one.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub drop_path: f64,
    /// In-layer co-attention; without it only the cross-layer attention connects the streams (an ablation).
    #[serde(default = "with_in_layer")]
    pub in_layer: bool,
    /// What the cross-layer attention reads.
    #[serde(default)]
    pub levels: Levels,
    /// How many of the last uni-modal layers `levels` or `link` use; 0 if neither does.
    #[serde(default)]
    pub uni_levels: usize,
    /// How the weight of each level is decided.
    #[serde(default)]
    pub gate: GateKind,
    /// Starting bias of the last level in the gate.
    #[serde(default = "gate_beta")]
    pub gate_beta: f64,
    /// What enters a layer as the states of the two streams.
    #[serde(default)]
    pub link: Link,
    /// Rows of the type embedding for images: 1, or one for each image of a sample (2 in NLVR2).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pictures: usize,
    /// Whether all uni-modal layers of a modality share one linear layer to `D`; BridgeTower may have one for each.
    #[serde(default = "shared", skip_serializing_if = "is_shared")]
    pub shared_transforms: bool,
    /// Whether the image has a stream of its own. Without it (ALBEF) the text stream reads the image encoder's states as they are, and both
    /// encoders are as wide as the stream.
    #[serde(default = "with_image_stream", skip_serializing_if = "is_true")]
    pub image_stream: bool,
    /// Whether the layers are the text encoder's own blocks, each with an attention to the other modality between its halves (SIMLA). Texts
    /// enter them as word embeddings, and images may read texts through them too. All sizes are then the text encoder's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn shared() -> bool {
    true
}

fn with_image_stream() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn with_in_layer() -> bool {
    true
}

fn gate_beta() -> f64 {
    1.0
}

fn is_shared(shared: &bool) -> bool {
    *shared
}

fn one() -> usize {
    1
}

fn is_one(pictures: &usize) -> bool {
    *pictures == 1
}

impl FusionConfig {
    /// Checks every value, alone and against the others. `encoder_layers` is the depth of the shallower uni-modal encoder.
    pub fn validate(&self, encoder_layers: usize) -> Result<(), ConfigError> {
        config::heads_divide(self.width, self.heads)?;
        config::positive("layers", self.layers)?;
        sizes::layers(self.layers)?;
        config::positive("pictures", self.pictures)?;
        config::positive("feed_forward", self.feed_forward)?;
        config::above_zero("layer_norm_eps", self.layer_norm_eps)?;
        config::probability("dropout", self.dropout)?;
        config::probability("drop_path", self.drop_path)?;
        ConfigError::unless(
            (self.gate_beta as f32).is_finite(),
            "gate_beta",
            self.gate_beta,
            "must be finite",
        )?;
        ConfigError::unless(
            self.in_layer || self.levels != Levels::None,
            "in_layer",
            self.in_layer,
            "must be true where levels = \"none\", or nothing connects the streams",
        )?;
        ConfigError::unless(
            self.link == Link::None || self.levels == Levels::None,
            "link",
            name(&self.link),
            "must be \"none\" where levels is not \"none\": choose one way to read other layers",
        )?;
        ConfigError::unless(
            self.image_stream
                || (self.in_layer
                    && self.levels == Levels::None
                    && self.link == Link::None
                    && self.pictures == 1),
            "image_stream",
            self.image_stream,
            "must be true with levels, link, pictures above 1, or without in_layer: without it the text stream reads one image in every layer",
        )?;
        ConfigError::unless(
            !self.shared || !self.image_stream,
            "shared",
            self.shared,
            "must be false with image_stream = true: the text encoder has no blocks for a stream of the image",
        )?;
        ConfigError::unless(
            self.shared_transforms || self.link.is_bridge(),
            "shared_transforms",
            self.shared_transforms,
            "must be true unless link gives each layer a uni-modal layer of its own",
        )?;
        let uses = self.link != Link::None || matches!(self.levels, Levels::UniTopN | Levels::Both);
        if !uses {
            return ConfigError::unless(
                self.uni_levels == 0,
                "uni_levels",
                self.uni_levels,
                "must be 0 where neither levels nor link uses uni-modal layers",
            );
        }
        ConfigError::unless(
            (1..=encoder_layers).contains(&self.uni_levels),
            "uni_levels",
            self.uni_levels,
            format_args!("must be 1 to {encoder_layers}, the layers of the shallower encoder"),
        )?;
        ConfigError::unless(
            !self.link.is_bridge() || self.uni_levels == self.layers,
            "uni_levels",
            self.uni_levels,
            format_args!(
                "must equal layers = {} with link = \"{}\": one uni-modal layer each",
                self.layers,
                name(&self.link)
            ),
        )
    }

    /// How many of the last uni-modal layers the encoder takes.
    pub fn uni_modal_states(&self) -> usize {
        self.uni_levels.max(1)
    }

    /// Names of the levels that layer `layer` (counted from 0) reads: `U-2` is the encoder's layer two before its last,
    /// `0` the projected encoder output, `3` the state after cross-modal layer 3.
    pub fn level_names(&self, layer: usize) -> Vec<String> {
        let below = |n: usize| (1..n).rev().map(|i| format!("U-{i}"));
        let cross = (0..=layer).map(|i| i.to_string());
        match self.levels {
            Levels::None => Vec::new(),
            Levels::CrossPrev => cross.collect(),
            Levels::UniTopN => below(self.uni_levels).chain(["0".to_owned()]).collect(),
            Levels::Both => below(self.uni_levels).chain(cross).collect(),
        }
    }

    /// One value for each layer if `has`, else none.
    fn for_each_layer<T>(&self, has: bool, make: impl FnMut(usize) -> T) -> Vec<T> {
        let layers = if has { self.layers } else { 0 };
        (0..layers).map(make).collect()
    }

    /// A new encoder for states of widths `text_width` and `image_width`.
    pub fn init(
        &self,
        init: &mut Init,
        text_width: usize,
        image_width: usize,
    ) -> CrossModalEncoder {
        let stream = |init: &mut Init| Stream {
            layers: self.for_each_layer(!self.shared, |layer| {
                CrossModalLayer::new(init, self, layer)
            }),
            links: self.for_each_layer(self.link.is_bridge(), |_| {
                LayerNorm::new(init, self.width, self.layer_norm_eps)
            }),
            // The first layer has no previous output to weigh.
            link_scales: self
                .for_each_layer(self.link == Link::ScaledAddNorm, |_| {
                    init.constant([1], 1.0)
                })
                .split_off(usize::from(self.link == Link::ScaledAddNorm)),
            link_shares: self
                .for_each_layer(self.link == Link::InterpolateNorm, |_| {
                    init.constant([1], 0.5)
                })
                .split_off(usize::from(self.link == Link::InterpolateNorm)),
            managers: self.for_each_layer(self.link == Link::Managers, |layer| {
                let config = ManagerConfig {
                    width: self.width,
                    levels: self.uni_levels,
                    layer_norm_eps: self.layer_norm_eps,
                    adaptive: layer > 0,
                    noisy: self.dropout > 0.0,
                };
                config.init(init)
            }),
            level_embedding: (self.link == Link::Managers)
                .then(|| Embedding::new(init, self.uni_levels, self.width)),
            pooler: self
                .image_stream
                .then(|| Linear::new(init, self.width, self.width, true)),
        };
        let further = |init: &mut Init, width: usize| -> Vec<Linear> {
            let count = if self.shared_transforms {
                0
            } else {
                self.uni_modal_states() - 1
            };
            (0..count)
                .map(|_| Linear::new(init, width, self.width, true))
                .collect()
        };
        let streams = self.image_stream;
        let transform = |init: &mut Init, width: usize| {
            streams.then(|| Linear::new(init, width, self.width, true))
        };
        CrossModalEncoder {
            text_transform: transform(init, text_width),
            image_transform: transform(init, image_width),
            further_text_transforms: further(init, text_width),
            further_image_transforms: further(init, image_width),
            type_embedding: streams
                .then(|| Embedding::new(init, IMAGE + self.pictures, self.width)),
            text: stream(init),
            image: streams.then(|| stream(init)),
            shared: self.for_each_layer(self.shared, |layer| SharedLayer::new(init, self, layer)),
            config: self.clone(),
        }
    }
}

/// Row of the type embedding for text; one row for each image of a sample follows.
const TEXT: usize = 0;

const IMAGE: usize = 1;

/// A unit variant's name as a recipe spells it.
fn name(value: &Link) -> &'static str {
    match value {
        Link::None => "none",
        Link::AddNorm => "add_norm",
        Link::ScaledAddNorm => "scaled_add_norm",
        Link::InterpolateNorm => "interpolate_norm",
        Link::Managers => "managers",
    }
}

/// The cross-modal encoder.
#[derive(Module, Debug)]
pub struct CrossModalEncoder {
    /// Text encoder width to `D`, shared by all uni-modal layers or for the first that is read; `None` without an image stream.
    pub text_transform: Option<Linear>,
    /// Image encoder width to `D`, shared by all uni-modal layers or for the first that is read; `None` without an image stream.
    pub image_transform: Option<Linear>,
    /// For the second uni-modal text layer that is read and those after it; empty if they share one.
    pub further_text_transforms: Vec<Linear>,
    /// For the second uni-modal image layer that is read and those after it; empty if they share one.
    pub further_image_transforms: Vec<Linear>,
    /// Row 0 is text, row 1 the image, further rows are further images; `None` without an image stream.
    pub type_embedding: Option<Embedding>,
    /// The text stream.
    pub text: Stream,
    /// The image stream, unless the text stream reads the image encoder's states as they are.
    pub image: Option<Stream>,
    /// What is added to each block of the text encoder, if the layers are its own; else empty.
    pub shared: Vec<SharedLayer>,
    /// What it was made from.
    #[module(skip)]
    pub config: FusionConfig,
}

/// One modality's half of the encoder.
#[derive(Module, Debug)]
pub struct Stream {
    /// One per layer.
    pub layers: Vec<CrossModalLayer>,
    /// BridgeTower's link norms, one per layer.
    pub links: Vec<LayerNorm>,
    /// Factors of the uni-modal layers in all layers but the first, `[1]` each, with [`Link::ScaledAddNorm`].
    pub link_scales: Vec<Param<Tensor<1>>>,
    /// Shares of the previous output in all layers but the first, `[1]` each, with [`Link::InterpolateNorm`].
    pub link_shares: Vec<Param<Tensor<1>>>,
    /// ManagerTower's managers, one per layer.
    pub managers: Vec<Manager>,
    /// ManagerTower's embedding of a uni-modal layer's depth.
    pub level_embedding: Option<Embedding>,
    /// `tanh(W h[0])` is the stream's summary; `None` without an image stream.
    pub pooler: Option<Linear>,
}

/// One stream's half of one layer.
#[derive(Module, Debug)]
pub struct CrossModalLayer {
    /// Self-attention within the stream.
    pub self_attention: Attention,
    /// Norm after the self-attention.
    pub self_norm: LayerNorm,
    /// Attention to the other stream's state before this layer.
    pub cross_attention: Option<Attention>,
    /// Attention to several of the other stream's states.
    pub level_attention: Option<LevelAttention>,
    /// `lambda`, `[1]`: how much of the cross-layer part is merged, through tanh.
    pub merge: Option<Param<Tensor<1>>>,
    /// Norm after the merge.
    pub cross_norm: LayerNorm,
    /// Feed-forward layer.
    pub feed_forward: FeedForward,
    /// Norm after the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    /// Dropout on every residual branch.
    pub dropout: Dropout,
    /// Leaves out residual branches; what is read of the other stream is one branch.
    pub drop_path: DropPath,
}

impl CrossModalLayer {
    fn new(init: &mut Init, config: &FusionConfig, layer: usize) -> Self {
        let FusionConfig {
            width,
            heads,
            dropout,
            layer_norm_eps,
            ..
        } = *config;
        let levels = config.level_names(layer).len();
        let norm = |init: &mut Init| LayerNorm::new(init, width, layer_norm_eps);
        let has_levels = config.levels != Levels::None;
        Self {
            self_attention: Attention::new(init, width, heads, dropout),
            self_norm: norm(init),
            cross_attention: config
                .in_layer
                .then(|| Attention::new(init, width, heads, dropout)),
            level_attention: has_levels.then(|| {
                let config = LevelAttentionConfig {
                    width,
                    heads,
                    dropout,
                    layer_norm_eps,
                    levels,
                    gate: config.gate,
                    beta: config.gate_beta as f32,
                };
                config.init(init)
            }),
            // Without the in-layer part there is nothing to start from, so the cross-layer part has full weight.
            merge: (has_levels && config.in_layer).then(|| init.constant([1], 0.0)),
            cross_norm: norm(init),
            feed_forward: FeedForward::new(init, width, config.feed_forward, config.activation),
            feed_forward_norm: norm(init),
            dropout: Dropout::new(dropout),
            drop_path: DropPath::new(DropPath::rate(config.drop_path, layer, config.layers)),
        }
    }

    /// The new states of the first `wanted` positions, `Q` of them.
    ///
    /// # Shapes
    ///
    /// - x: `[B, L, D]`, own state; hidden: `[B, L]` and, if all positions are wanted, `[L, L]`
    /// - other: `[B, K, D]`, what the stream sees of the other one; `None` if it sees nothing of it
    /// - output: `[B, Q, D]`, the gates, `[B, R, S]`, and what `keep` asks for
    fn forward(
        &self,
        (x, hidden, wanted): (Tensor<3>, Hidden<'_>, usize),
        other: Option<Other<'_>>,
        keep: Keep,
    ) -> (Tensor<3>, Option<Tensor<3>>, StreamAttention) {
        if keep != Keep::Nothing {
            return self.read((x, hidden, wanted), other, keep);
        }
        let hidden = hidden.into_owned();
        let reads = other.is_some();
        let y_mask = other.as_ref().and_then(|other| other.y_mask.cloned());
        let others = other.into_iter().flat_map(|other| {
            let Other { y, levels, .. } = other;
            std::iter::once(y).chain(levels)
        });
        let inputs = std::iter::once(x).chain(others).collect();
        let output = recomputed(self, inputs, move |layer, inputs| {
            let mut inputs = inputs.into_iter();
            let mut next = || inputs.next().expect("invariant: a layer has its inputs");
            let x = next();
            let other = reads.then(|| Other {
                y: next(),
                y_mask: y_mask.as_ref(),
                levels: Vec::new(),
            });
            let other = other.map(|other| Other {
                levels: inputs.collect(),
                ..other
            });
            let own = (x, hidden.as_ref(), wanted);
            layer.read(own, other, Keep::Nothing).0
        });
        (output, None, StreamAttention::default())
    }

    /// As [`forward`](Self::forward), and keeps what it computes for its backward pass.
    fn read(
        &self,
        (x, hidden, wanted): (Tensor<3>, Hidden<'_>, usize),
        other: Option<Other<'_>>,
        keep: Keep,
    ) -> (Tensor<3>, Option<Tensor<3>>, StreamAttention) {
        let keeps = keep == Keep::Attention;
        let (mut of_layer, mut of_levels) = (Vec::new(), Vec::new());
        let own = if wanted < x.dims()[1] {
            x.clone().narrow(1, 0, wanted)
        } else {
            x.clone()
        };
        let attended = self.self_attention.forward(own.clone(), x, hidden);
        let attended = self.drop_path.forward(self.dropout.forward(attended));
        let a = self.self_norm.forward(own + attended);
        let Some(Other { y, y_mask, levels }) = other else {
            return (self.finish(a, None), None, StreamAttention::default());
        };
        let in_layer = self.cross_attention.as_ref().map(|attention| {
            let kept = keeps.then_some(&mut of_layer);
            self.dropout
                .forward(attention.forward_keeping(a.clone(), y, y_mask, kept))
        });
        let mut share = None;
        let (across, gates) = match &self.level_attention {
            None => (None, None),
            Some(attention) => {
                let kept = keeps.then_some(&mut of_levels);
                let (read, gates) = attention.forward_keeping(a.clone(), &levels, y_mask, kept);
                let (read, lambda) = self.merged(read);
                share = lambda.filter(|_| keeps).map(Tensor::without_autodiff);
                (Some(read), Some(gates))
            }
        };
        let attention = StreamAttention {
            in_layer: of_layer.pop(),
            cross_layer: of_levels,
            share,
        };
        let crossed = crossed(in_layer, across);
        (self.finish(a, Some(crossed)), gates, attention)
    }

    /// What was read of the levels, times `tanh(lambda)`, and that factor, if the layer has one.
    fn merged(&self, read: Tensor<3>) -> (Tensor<3>, Option<Tensor<1>>) {
        let read = self.dropout.forward(read);
        match &self.merge {
            None => (read, None),
            Some(merge) => {
                let lambda = same_dtype(merge.val(), &read).tanh();
                (read * lambda.clone().reshape([1, 1, 1]), Some(lambda))
            }
        }
    }

    /// The layer after its attentions. `crossed` is what was read of the other stream.
    ///
    /// # Shapes
    ///
    /// - a, crossed, output: `[B, L, D]`
    fn finish(&self, a: Tensor<3>, crossed: Option<Tensor<3>>) -> Tensor<3> {
        let t = self.cross_norm.forward(match crossed {
            Some(crossed) => a + self.drop_path.forward(crossed),
            None => a,
        });
        let fed = self.dropout.forward(self.feed_forward.forward(t.clone()));
        self.feed_forward_norm
            .forward(t + self.drop_path.forward(fed))
    }
}

/// How a pass goes.
#[derive(Clone, Copy)]
struct How {
    /// Whether the image stream sees the text.
    sees_text: bool,
    /// What is read of the output.
    read: Read,
    /// What is kept.
    keep: Keep,
}

impl How {
    /// What is read of a layer's output. What is kept is of all positions.
    fn read_of(self, last: bool) -> Read {
        if last && self.keep == Keep::Nothing {
            self.read
        } else {
            Read::Whole
        }
    }
}

/// What a stream sees of the other one in a layer.
struct Other<'a> {
    /// Its state before the layer, `[B, K, D]`.
    y: Tensor<3>,
    /// `[B, K]`.
    y_mask: Option<&'a PaddingMask>,
    /// `S` times `[B, K, D]`.
    levels: Vec<Tensor<3>>,
}

/// What was read within the layer and across layers, as one.
fn crossed(in_layer: Option<Tensor<3>>, across: Option<Tensor<3>>) -> Tensor<3> {
    match (in_layer, across) {
        (Some(i), Some(x)) => i + x,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => unreachable!("invariant: validation connects the streams"),
    }
}

impl CrossModalEncoder {
    /// The text stream's summary, `tanh(W h[0])`.
    ///
    /// # Shapes
    ///
    /// - text: `[B, Lt, D]`
    /// - output: `[B, D]`
    pub fn pool_text(&self, text: &Tensor<3>) -> Tensor<2> {
        self.text.pool(text)
    }

    /// The image stream's summary, `tanh(W h[0])`.
    ///
    /// # Shapes
    ///
    /// - image: `[B, Lv, D]`
    /// - output: `[B, D]`
    ///
    /// # Panics
    ///
    /// Panics if there is no image stream.
    pub fn pool_image(&self, image: &Tensor<3>) -> Tensor<2> {
        let stream = self.image.as_ref();
        stream
            .expect("invariant: validation finds an image stream")
            .pool(image)
    }

    /// Both summaries side by side: the summary of a pair.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs
    /// - output: `[B, 2 D]`
    ///
    /// # Panics
    ///
    /// Panics if the pass was not over pairs, or if there is no image stream.
    pub fn pool(&self, fused: &FusionOutput) -> Tensor<2> {
        Tensor::cat(
            vec![self.pool_text(fused.text()), self.pool_image(fused.image())],
            1,
        )
    }

    /// Runs both streams.
    ///
    /// # Shapes
    ///
    /// - text: the last [`FusionConfig::uni_modal_states`] projected states of the text encoder, `[B, Lt, D]` each
    /// - image: likewise, `[B, Lv, D]` each
    /// - mask: `[B, Lt]`; image_mask: `[B, Lv]`, if some of it is padding
    /// - output: `[B, Lt, D]` and, with an image stream, `[B, Lv, D]`
    ///
    /// # Panics
    ///
    /// Panics if there are fewer states than the configuration uses.
    pub fn forward(
        &self,
        text: &[Tensor<3>],
        image: &[Tensor<3>],
        mask: &PaddingMask,
        image_mask: Option<&PaddingMask>,
        keep: Keep,
    ) -> FusionOutput {
        self.forward_reading((text, image), (mask, image_mask), Read::Whole, keep)
    }

    /// As [`forward`](Self::forward), where no more than `read` is read: the last layer computes nothing else. If something is kept, all of
    /// it is computed.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward); of [`Read::ClassTokens`] the output is `[B, 1, D]` twice, of [`Read::Text`] there are no states of
    /// the image.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer states than the configuration uses.
    pub fn forward_reading(
        &self,
        states: (&[Tensor<3>], &[Tensor<3>]),
        (mask, image_mask): (&PaddingMask, Option<&PaddingMask>),
        read: Read,
        keep: Keep,
    ) -> FusionOutput {
        let how = How {
            sees_text: true,
            read,
            keep,
        };
        self.run(states, (mask.into(), image_mask), how)
    }

    /// Runs both streams for text that is read from left to right after its first `prefix` positions. A position sees itself, earlier
    /// ones and the image. The image stream sees no text at all, or the second layer would show its words to the positions before
    /// them: image-to-text attention, levels and managers' memories contribute nothing. So its states do not depend on the text.
    /// There are no gates to keep, as the image stream has none.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward); the states of the text encoder were also read from left to right.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer states than the configuration uses.
    pub fn from_left_to_right(
        &self,
        (text, image): (&[Tensor<3>], &[Tensor<3>]),
        (mask, image_mask): (&PaddingMask, Option<&PaddingMask>),
        (prefix, read): (usize, Read),
        keep: Keep,
    ) -> FusionOutput {
        let [_, length] = mask.dims();
        let pairs = PairMask::prefix(length, prefix, &mask.hidden().device());
        let hidden = Hidden {
            keys: Some(mask),
            pairs: Some(&pairs),
        };
        let how = How {
            sees_text: false,
            // A position's mask is for all of them.
            read: match read {
                Read::ClassTokens => Read::Whole,
                Read::Whole | Read::Text => read,
            },
            keep,
        };
        self.run((text, image), (hidden, image_mask), how)
    }

    fn run(
        &self,
        (text, image): (&[Tensor<3>], &[Tensor<3>]),
        (hidden, image_mask): (Hidden<'_>, Option<&PaddingMask>),
        how: How,
    ) -> FusionOutput {
        let How {
            sees_text, keep, ..
        } = how;
        let states = self.config.uni_modal_states();
        assert!(
            text.len() >= states && image.len() >= states,
            "the cross-modal encoder takes the last {states} states of each encoder"
        );
        let text = &text[text.len() - states..];
        let image = &image[image.len() - states..];
        let [rows, _, width] = text[states - 1].dims();
        assert_shape!(image[states - 1], [rows, _, width]);

        let mut t = text[states - 1].clone();
        let mut v = image[states - 1].clone();
        let mut text_states = vec![t.clone()];
        let mut image_states = vec![v.clone()];
        let (mut gates, mut attention) = (Vec::new(), Vec::new());
        let mut of_text_alone = None;
        for layer in 0..self.config.layers {
            let _part = unimo_core::part!(Some(v.device()), "layer", at = layer);
            let seen = self.text.remember(layer, &v);
            let x = self.text.enter(layer, text, &t, seen.as_ref(), image_mask);
            let y = match &self.image {
                None => v.clone(),
                Some(stream) => {
                    let seen = stream.remember(layer, &t).filter(|_| sees_text);
                    stream.enter(layer, image, &v, seen.as_ref(), hidden.keys)
                }
            };
            let of_image = Other {
                y: y.clone(),
                y_mask: image_mask,
                levels: self.memory(image, &image_states),
            };
            let of_text = sees_text.then(|| Other {
                y: x.clone(),
                y_mask: hidden.keys,
                levels: self.memory(text, &text_states),
            });
            let read = how.read_of(layer + 1 == self.config.layers);
            let wanted = read.of(x.dims()[1]);
            let own = (x, hidden, wanted);
            let (new_t, text_gates, text_attention) =
                self.text.layers[layer].forward(own, Some(of_image), keep.of_layer(layer));
            if read == Read::Text {
                return FusionOutput::of_states(Some(new_t), None);
            }
            let (new_v, image_gates, image_attention) = match &self.image {
                None => (y, None, StreamAttention::default()),
                Some(stream) => {
                    let keep = match keep {
                        Keep::TextAttention(_) => Keep::Nothing,
                        keep => keep,
                    };
                    let wanted = read.of(y.dims()[1]);
                    stream.layers[layer].forward((y, image_mask.into(), wanted), of_text, keep)
                }
            };
            if let (true, Some(text), Some(image)) = (
                matches!(keep, Keep::Gates | Keep::Attention),
                text_gates,
                image_gates,
            ) {
                gates.push(LayerGates { text, image });
            }
            if keep == Keep::TextAttention(layer) {
                of_text_alone = text_attention.mean();
            }
            if keep == Keep::Attention {
                attention.push(LayerAttention {
                    text: text_attention,
                    image: image_attention,
                });
            }
            (t, v) = (new_t, new_v);
            text_states.push(t.clone());
            image_states.push(v.clone());
        }
        FusionOutput {
            text: Some(t),
            image: self.image.is_some().then_some(v),
            grounded: None,
            gates,
            attention,
            class_attention: None,
            text_attention: of_text_alone,
        }
    }

    /// The levels that a layer reads, in the order of [`FusionConfig::level_names`].
    fn memory(&self, uni_modal: &[Tensor<3>], cross_modal: &[Tensor<3>]) -> Vec<Tensor<3>> {
        let below = || uni_modal[..uni_modal.len() - 1].iter().cloned();
        match self.config.levels {
            Levels::None => Vec::new(),
            Levels::CrossPrev => cross_modal.to_vec(),
            Levels::UniTopN => uni_modal.to_vec(),
            Levels::Both => below().chain(cross_modal.iter().cloned()).collect(),
        }
    }
}

impl Stream {
    /// What a layer's manager reads of the other stream's state, if it is adaptive.
    fn remember(&self, layer: usize, other: &Tensor<3>) -> Option<ManagerMemory> {
        self.managers.get(layer)?.remember(other)
    }

    /// The state that enters a layer of this stream. `seen` is what its manager reads of the other stream, with its mask.
    fn enter(
        &self,
        layer: usize,
        uni_modal: &[Tensor<3>],
        own: &Tensor<3>,
        seen: Option<&ManagerMemory>,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        if let Some(norm) = self.links.get(layer) {
            let (bridge, own) = (uni_modal[layer].clone(), own.clone());
            let Some(before) = layer.checked_sub(1) else {
                return norm.forward(bridge);
            };
            let weight = |of: &[Param<Tensor<1>>]| {
                let weight = of.get(before)?.val();
                Some(same_dtype(weight, &own).reshape([1, 1, 1]))
            };
            let (scale, share) = (weight(&self.link_scales), weight(&self.link_shares));
            return norm.forward(match (scale, share) {
                (Some(scale), _) => bridge * scale + own,
                (None, Some(share)) => bridge.clone() + (own - bridge) * share,
                (None, None) => bridge + own,
            });
        }
        if let (Some(manager), Some(embedding)) = (self.managers.get(layer), &self.level_embedding)
        {
            let levels: Vec<_> = uni_modal
                .iter()
                .enumerate()
                .map(|(i, level)| level.clone() + same_dtype(embedding.entry(i), level))
                .collect();
            return manager.mix(&levels, own, seen.map(|seen| (seen, mask)));
        }
        own.clone()
    }

    fn pool(&self, states: &Tensor<3>) -> Tensor<2> {
        let first = states.clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
        let pooler = self.pooler.as_ref();
        let pooler = pooler.expect("invariant: validation finds poolers");
        pooler.forward(first).tanh()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests;
