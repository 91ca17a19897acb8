//! Blocks of text encoders of other crates. A program registers them before it reads a recipe, which then has `[model.text.KEY]`: they take
//! the place of the text encoder's own blocks, between its embeddings and the heads.
//!
//! Shape legend: `B` rows, `L` positions, `D` width.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::module::Module;
//! use burn::tensor::Tensor;
//! use serde::{Deserialize, Serialize};
//! use unimo_batch::{ConfigError, config};
//! use unimo_core::blocks::BlockConfig;
//! use unimo_core::init::Init;
//! use unimo_core::layers::Linear;
//! use unimo_core::mask::Hidden;
//! use unimo_encoders::registry::text::{TextModel, TextModelConfig};
//!
//! /// `[model.text.bags]`: each block adds the mean of all words to every word, times `share`.
//! #[derive(Debug, Clone, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct BagsConfig {
//!     share: f64,
//! }
//!
//! #[derive(Module, Debug)]
//! struct Bags {
//!     layers: Vec<Linear>,
//!     share: f64,
//! }
//!
//! impl TextModelConfig for BagsConfig {
//!     type Model = Bags;
//!
//!     fn validate(&self, _block: &BlockConfig) -> Result<(), ConfigError> {
//!         config::above_zero("share", self.share)
//!     }
//!     fn without_dropout(&self) -> Self {
//!         self.clone()
//!     }
//!     fn init(&self, block: &BlockConfig, layers: usize, init: &mut Init) -> Bags {
//!         let layers = (0..layers).map(|_| Linear::new(init, block.width, block.width, true));
//!         Bags { layers: layers.collect(), share: self.share }
//!     }
//! }
//!
//! impl TextModel for Bags {
//!     /// # Shapes
//!     ///
//!     /// - embedded: `[B, L, D]`
//!     /// - output: `keep` times `[B, L, D]`
//!     fn forward(&self, embedded: Tensor<3>, hidden: Hidden<'_>, keep: usize) -> Vec<Tensor<3>> {
//!         // A sum over what is not hidden; texts that are read from left to right are not for bags.
//!         assert!(hidden.pairs.is_none());
//!         let [rows, length, _] = embedded.dims();
//!         let seen = hidden.keys.map(|keys| keys.hidden().bool_not().float().reshape([rows, length, 1]));
//!         let mut states = vec![embedded];
//!         for layer in &self.layers {
//!             let x = states[states.len() - 1].clone();
//!             let words = layer.forward(x.clone());
//!             let words = match &seen {
//!                 Some(seen) => words * seen.clone(),
//!                 None => words,
//!             };
//!             states.push(x + words.mean_dim(1).mul_scalar(self.share));
//!         }
//!         states.split_off(states.len() - keep)
//!     }
//!     fn layers(&self) -> usize {
//!         self.layers.len()
//!     }
//!     fn draws(&self) -> bool {
//!         false
//!     }
//! }
//!
//! unimo_encoders::register_text::<BagsConfig>("bags").unwrap();
//! # }
//! ```

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_batch::registry::{Registry, Section};
use unimo_core::blocks::BlockConfig;
use unimo_core::init::Init;
use unimo_core::mask::Hidden;
use unimo_core::outside::Outside;

use super::{Named, ReadOf, Written, only};

/// The blocks of a text encoder of another crate. They are a module, and its parameters are stored as `backbone.text.outside.KEY`. Where
/// they are in a field `layers`, layer-wise decay of the learning rate finds them.
pub trait TextModel: Send {
    /// The states after the last `keep` blocks, in order. If `keep` exceeds the number of blocks, `embedded` comes first. The first position
    /// stands for the text.
    ///
    /// # Shapes
    ///
    /// - embedded: `[B, L, D]`, words with their positions and types, in the dtype to compute in
    /// - hidden: keys `[B, L]`; pairs `[L, L]` if a text is read from left to right
    /// - output: `keep` times `[B, L, D]`
    fn forward(&self, embedded: Tensor<3>, hidden: Hidden<'_>, keep: usize) -> Vec<Tensor<3>>;

    /// Their number, which is `model.text.layers`.
    fn layers(&self) -> usize;

    /// Whether they draw random numbers while autodiff is on, for dropout or drop-path.
    fn draws(&self) -> bool;
}

/// `[model.text.KEY]`: the settings of such blocks, by plain serde with `deny_unknown_fields`. Their number, and what `[model.text]` says of
/// its blocks, are given to them.
pub trait TextModelConfig:
    std::fmt::Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The blocks.
    type Model: TextModel + Module + 'static;

    /// Checks every value. Keys are those within the section.
    ///
    /// # Errors
    ///
    /// A value is not allowed.
    fn validate(&self, block: &BlockConfig) -> Result<(), ConfigError>;

    /// The same without dropout, for inspecting a model with gradients without training it.
    fn without_dropout(&self) -> Self;

    /// So many new blocks. `block` is what `[model.text]` says of each: width, heads, activation and the like.
    fn init(&self, block: &BlockConfig, layers: usize, init: &mut Init) -> Self::Model;
}

/// Reads the settings of registered blocks.
pub(crate) type Read = ReadOf<OutsideText>;

pub(crate) static REGISTRY: Registry<Read> =
    Registry::new("model.text", "the blocks of a text encoder");

/// Reads the section of registered blocks: the only one of `found`, if there is any.
pub(crate) fn read<E: Error>(found: Vec<Section<Read, Value>>) -> Result<Option<OutsideText>, E> {
    only("the blocks of one text encoder", found)
}

/// Makes blocks known as `[model.text.KEY]`. `taken` are the keys of `[model.text]`.
pub(crate) fn add<C: TextModelConfig>(
    key: &'static str,
    taken: &[&str],
) -> Result<(), ConfigError> {
    REGISTRY.add(key, taken, |key, value| {
        let config: C = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Ok(OutsideText(Named {
            key,
            config: Arc::new(config),
        }))
    })
}

/// The settings of registered blocks.
///
/// Embeddings, and heads that are tied to them, stay the text encoder's own. What needs one block at a time is not there: captions are not
/// written word by word (`[objectives.lm]`, `[objectives.answers]`), and the blocks do not fuse (`model.fusion.shared`). Public weights are not
/// read into them (`init.text`), and no export for other tools has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct OutsideText(Named<dyn Make>);

impl OutsideText {
    /// The name in a recipe.
    pub fn key(&self) -> &'static str {
        self.0.key
    }

    /// Checks every value.
    pub(crate) fn validate(&self, block: &BlockConfig) -> Result<(), ConfigError> {
        let checked = self.0.config.validate(block);
        checked.map_err(|e| e.within(self.key()))
    }

    pub(crate) fn without_dropout(&self) -> Self {
        Self(Named {
            key: self.key(),
            config: self.0.config.without_dropout(),
        })
    }

    /// So many new blocks.
    ///
    /// # Panics
    ///
    /// Panics if they are not so many.
    pub(crate) fn init(
        &self,
        block: &BlockConfig,
        layers: usize,
        init: &mut Init,
    ) -> Outside<dyn TextModel> {
        let made = self.0.config.make(self.key(), block, layers, init);
        assert_eq!(made.get().layers(), layers, "blocks of `{}`", self.key());
        made
    }
}

/// [`TextModelConfig`] without its types.
trait Make: Written {
    fn validate(&self, block: &BlockConfig) -> Result<(), ConfigError>;
    fn without_dropout(&self) -> Arc<dyn Make>;
    fn make(
        &self,
        key: &'static str,
        block: &BlockConfig,
        layers: usize,
        init: &mut Init,
    ) -> Outside<dyn TextModel>;
}

impl<C: TextModelConfig> Make for C {
    fn validate(&self, block: &BlockConfig) -> Result<(), ConfigError> {
        TextModelConfig::validate(self, block)
    }

    fn without_dropout(&self) -> Arc<dyn Make> {
        Arc::new(TextModelConfig::without_dropout(self))
    }

    fn make(
        &self,
        key: &'static str,
        block: &BlockConfig,
        layers: usize,
        init: &mut Init,
    ) -> Outside<dyn TextModel> {
        Outside::new(
            key,
            self.init(block, layers, init),
            |module| {
                let model = module.downcast_ref::<C::Model>();
                model.expect("invariant: it was made of this type")
            },
            |module| {
                let model = module.downcast_mut::<C::Model>();
                model.expect("invariant: it was made of this type")
            },
        )
    }
}
