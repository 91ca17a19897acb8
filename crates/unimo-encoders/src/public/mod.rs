//! Kinds of public checkpoints: their `config.json` as our configuration, their names as tables of
//! [rules](crate::names).
//!
//! A kind may have several spellings (a prefix, an older release). Its functions return all of them, and [`best`] takes the one
//! with the most names in the checkpoint.

pub mod albef;
pub mod bert;
pub mod bridgetower;
pub mod clip;
mod describe;
pub mod meter;
pub mod open_clip;
pub mod vit;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use unimo_core::layers::Activation;

pub use describe::{Description, EncoderConfig, Kind, OWN, describe, folder_of};

use crate::import::ImportError;
use crate::names::Names;
use crate::weights::{Weights, WeightsError, keys_are_distinct};

/// A `config.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublicConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It lacks something, or says something that is not supported.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Why a checkpoint was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its description cannot be used.
    #[error(transparent)]
    Config(#[from] PublicConfigError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its weights do not match its description.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Largest `config.json` that is read.
const MAX_CONFIG: u64 = 16 << 20;

/// Reads a JSON file of a checkpoint's folder.
///
/// # Errors
///
/// It is missing, too large or not JSON, or an object in it has a key twice. A key whose value is null counts as absent.
pub fn read_json(path: &Path) -> Result<serde_json::Value, PublicConfigError> {
    use std::io::Read;
    let file_error = |source| PublicConfigError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    std::fs::File::open(path)
        .map_err(file_error)?
        .take(MAX_CONFIG)
        .read_to_end(&mut text)
        .map_err(file_error)?;
    let content = |reason: String| PublicConfigError::Content {
        path: path.to_owned(),
        reason,
    };
    let json = serde_json::from_slice(&text).map_err(|e| content(format!("is no JSON: {e}")))?;
    keys_are_distinct(&text).map_err(|e| content(format!("cannot be relied on: {e}")))?;
    Ok(without_nulls(json))
}

/// JSON without keys whose value is null. Such keys have their default, as if absent.
fn without_nulls(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match json {
        Value::Object(entries) => entries
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Parses one of this module's mirrors of Hugging Face's configurations. Unknown keys are ignored; absent and null keys have
/// Hugging Face's defaults.
///
/// # Errors
///
/// It is not an object, or a key holds a wrong value. The message begins with the key.
pub(crate) fn parse<T: DeserializeOwned>(json: &serde_json::Value) -> Result<T, String> {
    object(json)?;
    serde_path_to_error::deserialize(without_nulls(json.clone())).map_err(|error| {
        let key = error.path().to_string();
        format!("{key}: {}", error.into_inner())
    })
}

type Object = serde_json::Map<String, serde_json::Value>;

/// The keys and values of an object.
pub(crate) fn object(json: &serde_json::Value) -> Result<&Object, String> {
    use serde_json::Value;
    let other = match json {
        Value::Object(entries) => return Ok(entries),
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
    };
    Err(format!("is {other}, not an object of keys and values"))
}

/// A section of a description, empty where it is absent or null.
pub(crate) fn section(json: &serde_json::Value, key: &str) -> Result<serde_json::Value, String> {
    match json.get(key) {
        None | Some(serde_json::Value::Null) => Ok(serde_json::json!({})),
        Some(given) => {
            object(given).map_err(|reason| format!("{key} {reason}"))?;
            Ok(given.clone())
        }
    }
}

/// The largest size that is accepted: four times the vocabulary of the largest tokenizers, and small enough to multiply three of
/// them.
const LARGEST: usize = 1 << 20;

/// An error unless every size is from 1 to [`LARGEST`].
pub(crate) fn sizes(given: &[(&str, usize)]) -> Result<(), String> {
    match given.iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
        None => Ok(()),
        Some((key, size)) => Err(format!("{key} = {size} cannot be: must be 1 to {LARGEST}")),
    }
}

/// An error unless a width is a multiple of the number of heads.
pub(crate) fn heads_divide(
    (width_key, width): (&str, usize),
    (heads_key, heads): (&str, usize),
) -> Result<(), String> {
    sizes(&[(width_key, width), (heads_key, heads)])?;
    if width.is_multiple_of(heads) {
        Ok(())
    } else {
        Err(format!(
            "{heads_key} = {heads} cannot be: must divide {width_key} = {width}"
        ))
    }
}

/// An error unless an image consists of whole patches.
pub(crate) fn patches_divide(image_size: usize, patch_size: usize) -> Result<(), String> {
    sizes(&[("image_size", image_size), ("patch_size", patch_size)])?;
    if image_size.is_multiple_of(patch_size) {
        Ok(())
    } else {
        Err(format!(
            "patch_size = {patch_size} cannot be: must divide image_size = {image_size}"
        ))
    }
}

/// An error unless an epsilon is above 0 and a dropout is in [0, 1).
pub(crate) fn epsilon_and_dropout(epsilon: f64, (key, dropout): (&str, f64)) -> Result<(), String> {
    if !(epsilon.is_finite() && epsilon > 0.0) {
        return Err(format!(
            "layer_norm_eps = {epsilon} cannot be: must be above 0"
        ));
    }
    if (0.0..1.0).contains(&dropout) {
        Ok(())
    } else {
        Err(format!("{key} = {dropout} cannot be: must be in [0, 1)"))
    }
}

/// Hugging Face's names of activations; the first one of each is written. Those with a hyperbolic tangent are one function in
/// several spellings of the same formula.
const ACTIVATIONS: [(&str, Activation); 11] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("quick_gelu", Activation::QuickGelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

/// Hugging Face's name of an activation, the value of `hidden_act`.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
    found.map(|(_, activation)| *activation).ok_or_else(|| {
        let known: Vec<&str> = ACTIVATIONS.iter().map(|(known, _)| *known).collect();
        format!(
            "hidden_act = \"{name}\" is not supported; supported are {}",
            known.join(", ")
        )
    })
}

/// An error unless a value is the only supported one.
pub(crate) fn only<T: PartialEq + std::fmt::Debug>(
    key: &str,
    value: &T,
    supported: &T,
) -> Result<(), String> {
    if value == supported {
        Ok(())
    } else {
        Err(format!(
            "{key} = {value:?} is not supported, only {supported:?}"
        ))
    }
}

/// Reads sizes off the shapes of tensors, for checkpoints that come without a configuration.
pub(crate) struct Shapes<'a>(pub &'a Weights);

impl Shapes<'_> {
    /// A tensor's shape, which must have rank `D`.
    pub fn of<const D: usize>(&self, name: &str) -> Result<[usize; D], String> {
        let info = self
            .0
            .info(name)
            .ok_or_else(|| format!("`{name}` is missing"))?;
        let shape = info.shape.as_slice();
        shape
            .try_into()
            .map_err(|_| format!("`{name}` has the shape {shape:?}, not {D} dimensions"))
    }

    /// How many blocks there are: `before 0 after`, `before 1 after`, ...
    pub fn blocks(&self, before: &str, after: &str) -> usize {
        (0..)
            .take_while(|i| self.0.info(&format!("{before}{i}{after}")).is_some())
            .count()
    }
}

/// The number of heads of width `head` in a model whose width tensor `name` gives.
pub(crate) fn heads_of(head: usize, width: usize, name: &str) -> Result<usize, String> {
    if width > 0 && width.is_multiple_of(head) {
        Ok(width / head)
    } else {
        Err(format!(
            "`{name}` says that the width is {width}, and heads are {head} wide in such models"
        ))
    }
}

/// The spelling with the most names in the checkpoint; the first of equals.
///
/// # Panics
///
/// Panics if there is no spelling.
pub fn best(spellings: Vec<Names>, ours: &[String], weights: &Weights) -> Names {
    let known = |names: &Names| {
        ours.iter()
            .filter(|name| {
                names.target(name).is_some_and(|t| {
                    let mut twins = names.twins(&t.name);
                    weights.info(&t.name).is_some()
                        || twins.any(|twin| weights.info(twin).is_some())
                })
            })
            .count()
    };
    spellings
        .into_iter()
        .map(|names| (known(&names), names))
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, names)| names)
        .expect("invariant: every kind has a spelling")
}

/// Our activation in Hugging Face's words.
pub(crate) fn activation_name(activation: Activation) -> &'static str {
    let named = ACTIVATIONS.iter().find(|(_, known)| *known == activation);
    named
        .map(|(name, _)| *name)
        .expect("invariant: every activation has a name there")
}

#[cfg(test)]
mod tests;
