//! Transformer blocks of the uni-modal encoders.
//!
//! Shape legend: `B` rows, `L` positions, `D` width.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};

use crate::attention::{Attention, KeyValues, Weights};
use crate::init::Init;
use crate::kernels::recomputed;
use crate::layers::{Activation, DropPath, Dropout, LayerNorm, Linear};
use crate::mask::{Hidden, PaddingMask};
use crate::part;
use unimo_batch::{ConfigError, config};

/// Sizes shared by every block of an encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockConfig {
    /// `D`.
    pub width: usize,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Inner width of the feed-forward layer.
    pub feed_forward: usize,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Dropout on attention weights and on both residual branches, in [0, 1).
    pub dropout: f64,
    /// Drop-path on both residual branches, in [0, 1): of the last block, see [`at`](Self::at).
    pub drop_path: f64,
}

impl BlockConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::heads_divide(self.width, self.heads)?;
        config::positive("feed_forward", self.feed_forward)?;
        config::above_zero("layer_norm_eps", self.layer_norm_eps)?;
        config::probability("dropout", self.dropout)?;
        config::probability("drop_path", self.drop_path)
    }

    /// The sizes of block `layer` of `layers`, counted from 0: [`drop_path`](Self::drop_path) rises linearly to that of the last block.
    #[must_use]
    pub fn at(self, layer: usize, layers: usize) -> Self {
        Self {
            drop_path: DropPath::rate(self.drop_path, layer, layers),
            ..self
        }
    }
}

/// `D -> inner -> D`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `D -> inner`.
    pub inner: Linear,
    /// `inner -> D`.
    pub outer: Linear,
    /// Activation between the two.
    #[module(skip)]
    pub activation: Activation,
}

impl FeedForward {
    /// New weights.
    pub fn new(init: &mut Init, width: usize, inner: usize, activation: Activation) -> Self {
        Self {
            inner: Linear::new(init, width, inner, true),
            outer: Linear::new(init, inner, width, true),
            activation,
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let _part = part!(Some(x.device()), "feed-forward layer");
        let inner = self.activation.forward(self.inner.forward(x));
        self.outer.forward(inner)
    }
}

/// Whether a block draws random numbers while autodiff is on.
pub trait Draws {
    /// Dropout or drop-path is above 0.
    fn draws(&self) -> bool;
}

impl Draws for PostNormBlock {
    fn draws(&self) -> bool {
        self.dropout.probability > 0.0 || self.drop_path.probability > 0.0
    }
}

impl Draws for PreNormBlock {
    fn draws(&self) -> bool {
        self.dropout.probability > 0.0 || self.drop_path.probability > 0.0
    }
}

/// The states after the last `keep` of `blocks`, in order. If `keep` exceeds the number of blocks, `x` comes first.
///
/// # Shapes
///
/// - x: `[B, L, D]`
/// - output: `keep` times `[B, L, D]`
pub fn last_states<B>(
    blocks: &[B],
    mut x: Tensor<3>,
    keep: usize,
    mut forward: impl FnMut(&B, Tensor<3>) -> Tensor<3>,
) -> Vec<Tensor<3>> {
    let states = blocks.len() + 1;
    let mut kept = Vec::with_capacity(keep.min(states));
    if keep >= states {
        kept.push(x.clone());
    }
    for (i, block) in blocks.iter().enumerate() {
        let part = part!(Some(x.device()), "block", at = i);
        x = forward(block, x);
        drop(part);
        if i + 1 + keep >= states {
            kept.push(x.clone());
        }
    }
    kept
}

/// The input of a block that has one.
pub(crate) fn only(inputs: Vec<Tensor<3>>) -> Tensor<3> {
    let mut inputs = inputs.into_iter();
    inputs.next().expect("invariant: a block has an input")
}

/// BERT's block: the norm follows the residual sum.
#[derive(Module, Debug)]
pub struct PostNormBlock {
    /// Self-attention.
    pub attention: Attention,
    /// Norm after the attention's residual sum.
    pub attention_norm: LayerNorm,
    /// Feed-forward layer.
    pub feed_forward: FeedForward,
    /// Norm after the feed-forward layer's residual sum.
    pub feed_forward_norm: LayerNorm,
    /// Dropout on both residual branches.
    pub dropout: Dropout,
    /// Leaves out residual branches.
    pub drop_path: DropPath,
}

impl PostNormBlock {
    /// New weights.
    pub fn new(init: &mut Init, config: &BlockConfig) -> Self {
        let BlockConfig {
            width,
            heads,
            feed_forward,
            activation,
            layer_norm_eps,
            dropout,
            drop_path,
        } = *config;
        Self {
            attention: Attention::new(init, width, heads, dropout),
            attention_norm: LayerNorm::new(init, width, layer_norm_eps),
            feed_forward: FeedForward::new(init, width, feed_forward, activation),
            feed_forward_norm: LayerNorm::new(init, width, layer_norm_eps),
            dropout: Dropout::new(dropout),
            drop_path: DropPath::new(drop_path),
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    /// - mask: `[B, L]` and `[L, L]`
    pub fn forward<'a>(&self, x: Tensor<3>, mask: impl Into<Hidden<'a>>) -> Tensor<3> {
        assert_shape!(x, [_, _, _]);
        let mask = mask.into().into_owned();
        recomputed(self, vec![x], move |block, inputs| {
            let x = only(inputs);
            let attended = block.attention.forward(x.clone(), x.clone(), mask.as_ref());
            block.finish(x, attended)
        })
    }

    /// The new states of some positions alone, which see all of `x`.
    ///
    /// # Shapes
    ///
    /// - some: `[B, Q, D]`, positions of `x`
    /// - x: `[B, L, D]`
    /// - mask: `[B, L]`
    /// - output: `[B, Q, D]`
    pub fn forward_some(
        &self,
        some: Tensor<3>,
        x: Tensor<3>,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        let [rows, _, width] = x.dims();
        assert_shape!(some, [rows, _, width]);
        let mask = mask.cloned();
        recomputed(self, vec![some, x], move |block, inputs| {
            let mut inputs = inputs.into_iter();
            let mut next = || inputs.next().expect("invariant: a block has its inputs");
            let (some, x) = (next(), next());
            let attended = block.attention.forward(some.clone(), x, mask.as_ref());
            block.finish(some, attended)
        })
    }

    /// As [`forward`](Self::forward), with another layer between the self-attention and the feed-forward layer, which gets the states
    /// after the first norm. Appends the weights of the self-attention to `kept`, if there is one.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    /// - mask: `[B, L]` and `[L, L]`
    pub fn forward_around<'a>(
        &self,
        x: Tensor<3>,
        mask: impl Into<Hidden<'a>>,
        kept: Option<&mut Vec<Weights>>,
        between: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        assert_shape!(x, [_, _, _]);
        let attention = &self.attention;
        let attended = attention.forward_keeping(x.clone(), x.clone(), mask, kept);
        let x = self.attention_norm.forward(x + self.branch(attended));
        self.fed(between(x))
    }

    /// As [`forward`](Self::forward), for positions that follow those of `before`, which they see; see [`Attention::read_on`].
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, Q, D]`
    /// - mask: `[B, K + Q]`
    pub fn read_on(
        &self,
        x: Tensor<3>,
        before: &mut Option<KeyValues>,
        mask: Option<&PaddingMask>,
    ) -> Tensor<3> {
        let attended = self.attention.read_on(x.clone(), before, mask);
        self.finish(x, attended)
    }

    fn finish(&self, x: Tensor<3>, attended: Tensor<3>) -> Tensor<3> {
        self.finish_by(x, attended, |x| self.feed_forward.forward(x))
    }

    /// What follows the self-attention, with `feed` in the place of the feed-forward layer.
    pub(crate) fn finish_by(
        &self,
        x: Tensor<3>,
        attended: Tensor<3>,
        feed: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let x = self.attention_norm.forward(x + self.branch(attended));
        self.fed_by(x, feed)
    }

    /// The feed-forward layer with its norm.
    fn fed(&self, x: Tensor<3>) -> Tensor<3> {
        self.fed_by(x, |x| self.feed_forward.forward(x))
    }

    fn fed_by(&self, x: Tensor<3>, feed: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let fed = feed(x.clone());
        self.feed_forward_norm.forward(x + self.branch(fed))
    }

    /// What joins the residual sum.
    fn branch(&self, read: Tensor<3>) -> Tensor<3> {
        self.drop_path.forward(self.dropout.forward(read))
    }
}

/// ViT's and CLIP's block: the norm opens the residual branch.
#[derive(Module, Debug)]
pub struct PreNormBlock {
    /// Norm before the attention.
    pub attention_norm: LayerNorm,
    /// Self-attention.
    pub attention: Attention,
    /// Norm before the feed-forward layer.
    pub feed_forward_norm: LayerNorm,
    /// Feed-forward layer.
    pub feed_forward: FeedForward,
    /// Dropout on both residual branches.
    pub dropout: Dropout,
    /// Leaves out residual branches.
    pub drop_path: DropPath,
}

impl PreNormBlock {
    /// New weights.
    pub fn new(init: &mut Init, config: &BlockConfig) -> Self {
        let BlockConfig {
            width,
            heads,
            feed_forward,
            activation,
            layer_norm_eps,
            dropout,
            drop_path,
        } = *config;
        Self {
            attention_norm: LayerNorm::new(init, width, layer_norm_eps),
            attention: Attention::new(init, width, heads, dropout),
            feed_forward_norm: LayerNorm::new(init, width, layer_norm_eps),
            feed_forward: FeedForward::new(init, width, feed_forward, activation),
            dropout: Dropout::new(dropout),
            drop_path: DropPath::new(drop_path),
        }
    }

    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    /// - mask: `[B, L]` and `[L, L]`
    pub fn forward<'a>(&self, x: Tensor<3>, mask: impl Into<Hidden<'a>>) -> Tensor<3> {
        assert_shape!(x, [_, _, _]);
        let mask = mask.into().into_owned();
        recomputed(self, vec![x], move |block, inputs| {
            let x = only(inputs);
            let normed = block.attention_norm.forward(x.clone());
            let attended = block
                .attention
                .forward(normed.clone(), normed, mask.as_ref());
            let x = x + block.branch(attended);
            let normed = block.feed_forward_norm.forward(x.clone());
            let fed = block.feed_forward.forward(normed);
            x + block.branch(fed)
        })
    }

    /// What joins the residual sum.
    fn branch(&self, read: Tensor<3>) -> Tensor<3> {
        self.drop_path.forward(self.dropout.forward(read))
    }
}
