//! What a task's head reads of a pair: one vector.
//!
//! | pooling | vector | width | used by |
//! |---|---|---|---|
//! | `pair` | `tanh(W t)` beside `tanh(U v)`, the poolers of the cross-modal encoder | `2 D` | METER, BridgeTower, ManagerTower, UNIMO-3 |
//! | `product` | `relu(W t) * relu(U v)` | `D` | UNIMO-2 |
//! | `sum` | `relu(W t) + relu(U v)` | `D` | UNIMO |
//! | `text` | `tanh(W t)` | `D` | BERT, MVP's SNLI-VE |
//! | `class` | `t` | `D` | MVP's VQA |
//!
//! Shape legend: `B` rows, `D` width of the cross-modal encoder; `t`, `v`: states of the first positions of text and image.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::output::FusionOutput;

/// How the states of a pair become one vector. See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Both poolers of a cross-modal encoder with two streams, side by side.
    Pair,
    /// The product of both modalities.
    Product,
    /// Their sum.
    Sum,
    /// A pooler on the text.
    Text,
    /// The first state of the text.
    Class,
}

impl Pooling {
    /// The width of the vector.
    pub fn width(self, model: &BackboneConfig) -> usize {
        match self {
            Self::Pair => 2 * model.cross_width(),
            Self::Product | Self::Sum | Self::Text | Self::Class => model.cross_width(),
        }
    }

    /// Checks that the encoders have what it reads.
    ///
    /// # Errors
    ///
    /// `pair` needs two streams, `product` and `sum` states of the image.
    pub fn validate_with(self, model: &BackboneConfig) -> Result<(), ConfigError> {
        ConfigError::unless(
            model.gives_image_states() || matches!(self, Self::Text | Self::Class),
            "pooling",
            crate::written(&self),
            "must be \"text\" or \"class\" with model.fusion.image_stream = false, which gives no states of the image",
        )?;
        ConfigError::unless(
            self != Self::Pair || model.has_two_streams(),
            "pooling",
            "\"pair\"",
            "must be \"product\", \"sum\", \"text\" or \"class\" without [model.fusion], whose poolers \"pair\" reads",
        )
    }

    /// New poolers.
    pub fn init(self, init: &mut Init, model: &BackboneConfig) -> Summary {
        let width = model.cross_width();
        let mut pooler = |has: bool| has.then(|| Linear::new(init, width, width, true));
        let both = matches!(self, Self::Product | Self::Sum);
        Summary {
            text: pooler(both || self == Self::Text),
            image: pooler(both),
            pooling: self,
        }
    }
}

/// The poolers of a task. See the [module](self).
#[derive(Module, Debug)]
pub struct Summary {
    /// `D -> D` for the text.
    pub text: Option<Linear>,
    /// `D -> D` for the image.
    pub image: Option<Linear>,
    #[module(skip)]
    pooling: Pooling,
}

impl Summary {
    /// One vector per pair.
    ///
    /// # Shapes
    ///
    /// - fused: `B` pairs
    /// - output: `[B, 2 D]` for `pair`, else `[B, D]`
    ///
    /// # Panics
    ///
    /// Panics if the encoders lack what the pooling reads, which validation finds.
    pub fn forward(&self, backbone: &Backbone, fused: &FusionOutput) -> Tensor<2> {
        let first = |x: &Tensor<3>| x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
        let text = || {
            let text = self.text.as_ref();
            let text = text.expect("invariant: this pooling has a pooler of texts");
            text.forward(first(fused.text()))
        };
        let image = || {
            let image = self.image.as_ref();
            let image = image.expect("invariant: this pooling has a pooler of images");
            image.forward(first(fused.image()))
        };
        match self.pooling {
            Pooling::Pair => {
                let fusion = backbone.fusion.as_ref();
                let fusion = fusion.expect("invariant: validation finds two streams");
                fusion.pool(fused)
            }
            Pooling::Product => relu(text()) * relu(image()),
            Pooling::Sum => relu(text()) + relu(image()),
            Pooling::Text => text().tanh(),
            Pooling::Class => first(fused.text()),
        }
    }
}
