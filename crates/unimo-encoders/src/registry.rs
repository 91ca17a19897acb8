//! Encoders of other crates. A program registers one before it reads a recipe. An image encoder then is `[model.KEY]` in place of
//! `[model.image]`; everything else works with it as with the built-in ones, but for what [`OutsideImage`] lists. The blocks of a text
//! encoder are `[model.text.KEY]`, see [`text`].
//!
//! Shape legend: `B` rows, `S` pixels per side, `N` positions, `D` width.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::module::Module;
//! use burn::tensor::{FloatDType, Tensor, assert_shape};
//! use serde::{Deserialize, Serialize};
//! use unimo_batch::{ConfigError, config};
//! use unimo_core::dtype::cast;
//! use unimo_core::init::Init;
//! use unimo_core::layers::Linear;
//! use unimo_encoders::registry::{EncoderShape, ImageModel, ImageModelConfig};
//!
//! /// `[model.rows]`: each row of pixels is one position, without any block.
//! #[derive(Debug, Clone, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct RowsConfig {
//!     image_size: usize,
//!     width: usize,
//! }
//!
//! #[derive(Module, Debug)]
//! struct Rows {
//!     embedding: Linear,
//!     #[module(skip)]
//!     dtype: FloatDType,
//! }
//!
//! impl ImageModelConfig for RowsConfig {
//!     type Model = Rows;
//!
//!     fn validate(&self) -> Result<(), ConfigError> {
//!         config::positive("width", self.width)
//!     }
//!     fn shape(&self) -> EncoderShape {
//!         EncoderShape {
//!             image_size: self.image_size,
//!             width: self.width,
//!             layers: 1,
//!             class_tokens: 1,
//!             layer_norm_eps: 1e-5,
//!         }
//!     }
//!     fn without_dropout(&self) -> Self {
//!         self.clone()
//!     }
//!     fn init(&self, init: &mut Init) -> Rows {
//!         let embedding = Linear::new(init, 3 * self.image_size, self.width, true);
//!         Rows { embedding, dtype: FloatDType::F32 }
//!     }
//! }
//!
//! impl ImageModel for Rows {
//!     /// # Shapes
//!     ///
//!     /// - pixels: `[B, 3, S, S]`
//!     /// - output: `keep` times `[B, 1 + S, D]`
//!     fn forward(&self, pixels: Tensor<4>, keep: usize) -> Vec<Tensor<3>> {
//!         let [rows, _, high, wide] = pixels.dims();
//!         assert_shape!(pixels, [_, 3, _, _]);
//!         let each = cast(pixels, self.dtype).permute([0, 2, 1, 3]);
//!         let states = self.embedding.forward(each.reshape([rows, high, 3 * wide]));
//!         let class = states.clone().mean_dim(1);
//!         vec![Tensor::cat(vec![class, states], 1); keep]
//!     }
//!     fn layers(&self) -> usize {
//!         1
//!     }
//!     fn compute_in(&mut self, dtype: FloatDType) {
//!         self.dtype = dtype;
//!     }
//! }
//!
//! unimo_encoders::register::<RowsConfig>("rows").unwrap();
//! # }
//! ```

pub mod text;

use std::fmt::{self, Debug};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use serde::ser::{Error as _, SerializeMap, Serializer};
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_batch::registry::{Registry, Section};
use unimo_core::init::Init;
use unimo_core::outside::Outside;

/// What the cross-modal encoder and the objectives need to know of an image encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderShape {
    /// `S`, which `data.image_size` must equal.
    pub image_size: usize,
    /// `D`.
    pub width: usize,
    /// Blocks whose states it gives.
    pub layers: usize,
    /// Positions before the patches, the first of which stands for the image.
    pub class_tokens: usize,
    /// Epsilon of its layer norms, which heads over its states take over.
    pub layer_norm_eps: f64,
}

/// An image encoder of another crate. It is a module, and its parameters are stored as `backbone.outside.KEY`. Its blocks are in a field
/// `layers` and the norm behind them is `post_norm`, where layer-wise decay of the learning rate looks for them.
pub trait ImageModel: Send {
    /// The states after the last `keep` blocks, after the final norm, in order. If `keep` exceeds the number of blocks, the
    /// embeddings come first. The first position stands for the image.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, S, S]`
    /// - output: `keep` times `[B, N, D]`
    fn forward(&self, pixels: Tensor<4>, keep: usize) -> Vec<Tensor<3>>;

    /// Its number of blocks, as in [`EncoderShape`].
    fn layers(&self) -> usize;

    /// Computes activations in another dtype, which is that of the states; parameters stay as they are.
    fn compute_in(&mut self, dtype: FloatDType);
}

/// `[model.KEY]`: the settings of an image encoder of another crate, by plain serde with `deny_unknown_fields`.
pub trait ImageModelConfig:
    Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The encoder.
    type Model: ImageModel + Module + 'static;

    /// Checks every value. Keys are those within the section.
    ///
    /// # Errors
    ///
    /// A value is not allowed.
    fn validate(&self) -> Result<(), ConfigError>;

    /// What others need to know of the encoder.
    fn shape(&self) -> EncoderShape;

    /// The same without dropout, for inspecting a model with gradients without training it.
    fn without_dropout(&self) -> Self;

    /// A new encoder.
    fn init(&self, init: &mut Init) -> Self::Model;
}

/// Reads the settings of a registered encoder.
pub(crate) type Read = ReadOf<OutsideImage>;

pub(crate) static REGISTRY: Registry<Read> = Registry::new("model", "an image encoder");

/// Reads the section of a registered encoder: the only one of `found`, if there is any.
pub(crate) fn read<E: Error>(found: Vec<Section<Read, Value>>) -> Result<Option<OutsideImage>, E> {
    only("one image encoder", found)
}

/// How the settings of a registered part are read.
type ReadOf<T> = fn(&'static str, Value) -> Result<T, String>;

/// Reads the only section of `found`, if there is any. `what` may be there once.
fn only<T, E: Error>(what: &str, found: Vec<Section<ReadOf<T>, Value>>) -> Result<Option<T>, E> {
    let keys: Vec<&str> = found.iter().map(|(key, _, _)| *key).collect();
    if keys.len() > 1 {
        return Err(E::custom(format_args!(
            "there must be {what} at most, and these are several: {}",
            keys.join(", ")
        )));
    }
    let read = |(key, read, value): Section<ReadOf<T>, Value>| {
        read(key, value).map_err(|reason| E::custom(format_args!("{key}: {reason}")))
    };
    found.into_iter().next().map(read).transpose()
}

/// Makes an image encoder known as `[model.KEY]`. `taken` are the keys of `[model]`.
pub(crate) fn add<C: ImageModelConfig>(
    key: &'static str,
    taken: &[&str],
) -> Result<(), ConfigError> {
    REGISTRY.add(key, taken, |key, value| {
        let config: C = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Ok(OutsideImage(Named {
            key,
            config: Arc::new(config),
        }))
    })
}

/// Settings as they are written into a recipe. TOML has no null, so a value that is not given is left out.
///
/// # Errors
///
/// They cannot be written, such as a map whose keys are no texts.
pub fn written<C: Serialize>(config: &C) -> Result<Value, String> {
    fn given(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                Value::Object(fields.map(|(key, value)| (key, given(value))).collect())
            }
            Value::Array(values) => Value::Array(values.into_iter().map(given).collect()),
            value => value,
        }
    }
    let value = serde_json::to_value(config).map_err(|e| e.to_string())?;
    Ok(given(value))
}

/// The settings of a registered part, and its key.
struct Named<M: ?Sized> {
    key: &'static str,
    config: Arc<M>,
}

/// Settings that can be written into a recipe.
trait Written: Debug + Send + Sync {
    fn written(&self) -> Result<Value, String>;
}

impl<C: Serialize + Debug + Send + Sync> Written for C {
    fn written(&self) -> Result<Value, String> {
        written(self)
    }
}

impl<M: ?Sized> Clone for Named<M> {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            config: Arc::clone(&self.config),
        }
    }
}

impl<M: Debug + ?Sized> Debug for Named<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.config)
    }
}

/// Equal settings are written alike.
impl<M: Written + ?Sized> PartialEq for Named<M> {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (self.config.written(), other.config.written());
        self.key == other.key && matches!((own, others), (Ok(own), Ok(others)) if own == others)
    }
}

/// As a section beside the other keys of its table.
impl<M: Written + ?Sized> Serialize for Named<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        let values = self.config.written().map_err(S::Error::custom)?;
        map.serialize_entry(self.key, &values)?;
        map.end()
    }
}

/// The settings of a registered image encoder.
///
/// It cannot read the names of objects (`image_tags`), has no embedding for hidden patches (`[objectives.mrm]`), and no grid of patches
/// that `unimo explain` could draw. Public weights are not read into it (`init.image`): they belong to the built-in encoders.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct OutsideImage(Named<dyn Make>);

impl OutsideImage {
    /// The name in a recipe.
    pub fn key(&self) -> &'static str {
        self.0.key
    }

    /// What others need to know of the encoder.
    pub fn shape(&self) -> EncoderShape {
        self.0.config.shape()
    }

    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let checked = self.0.config.validate().and_then(|()| {
            let shape = self.shape();
            unimo_batch::config::positive("width", shape.width)?;
            unimo_batch::config::positive("image_size", shape.image_size)?;
            unimo_batch::config::positive("class_tokens", shape.class_tokens)
        });
        checked.map_err(|e| e.within(self.key()))
    }

    pub(crate) fn without_dropout(&self) -> Self {
        Self(Named {
            key: self.key(),
            config: self.0.config.without_dropout(),
        })
    }

    pub(crate) fn init(&self, init: &mut Init) -> Outside<dyn ImageModel> {
        self.0.config.make(self.key(), init)
    }
}

/// [`ImageModelConfig`] without its types.
trait Make: Written {
    fn validate(&self) -> Result<(), ConfigError>;
    fn shape(&self) -> EncoderShape;
    fn without_dropout(&self) -> Arc<dyn Make>;
    fn make(&self, key: &'static str, init: &mut Init) -> Outside<dyn ImageModel>;
}

impl<C: ImageModelConfig> Make for C {
    fn validate(&self) -> Result<(), ConfigError> {
        ImageModelConfig::validate(self)
    }

    fn shape(&self) -> EncoderShape {
        ImageModelConfig::shape(self)
    }

    fn without_dropout(&self) -> Arc<dyn Make> {
        Arc::new(ImageModelConfig::without_dropout(self))
    }

    fn make(&self, key: &'static str, init: &mut Init) -> Outside<dyn ImageModel> {
        Outside::new(
            key,
            self.init(init),
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
