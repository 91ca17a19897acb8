//! Kinds of public checkpoints: their `config.json` as our configuration, their names as tables of
//! [rules](crate::names).
//!
//! One kind may be spelt in several ways (a prefix, an older release): its functions return all of them, and
//! [`best`] takes the one that a checkpoint has most names of.

pub mod bert;
pub mod bridgetower;
pub mod clip;
pub mod meter;
pub mod open_clip;
pub mod vit;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use unimo_core::layers::Activation;

use crate::names::Names;
use crate::weights::Weights;

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
    /// It does not say what it should, or something that is not supported.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Largest `config.json` that is read.
const MAX_CONFIG: u64 = 16 << 20;

/// Reads a JSON file of a checkpoint's folder.
///
/// # Errors
///
/// It is missing, too large or no JSON. A key whose value is null is absent.
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
    let json = serde_json::from_slice(&text).map_err(|e| PublicConfigError::Content {
        path: path.to_owned(),
        reason: format!("is no JSON: {e}"),
    })?;
    Ok(without_nulls(json))
}

/// JSON without the keys whose value is null: they have their default, as if they were absent.
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

/// A JSON value as one of this module's mirrors of Hugging Face's configurations; keys that they do not name are left
/// aside, keys that are absent have Hugging Face's defaults.
pub(crate) fn parse<T: DeserializeOwned>(json: &serde_json::Value) -> Result<T, String> {
    serde_json::from_value(json.clone()).map_err(|e| e.to_string())
}

/// Hugging Face's name of an activation.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "quick_gelu" => Ok(Activation::QuickGelu),
        other => Err(format!(
            "the activation \"{other}\" is not supported; supported are \"gelu\" and \"quick_gelu\""
        )),
    }
}

/// An error unless a value is the only one that is supported.
pub(crate) fn only<T: PartialEq + std::fmt::Debug>(
    key: &str,
    value: &T,
    supported: &T,
) -> Result<(), String> {
    match value == supported {
        true => Ok(()),
        false => Err(format!(
            "{key} = {value:?} is not supported, only {supported:?}"
        )),
    }
}

/// Reads sizes off the shapes of tensors, for checkpoints that come without a configuration.
pub(crate) struct Shapes<'a>(pub &'a Weights);

impl Shapes<'_> {
    /// A tensor's shape, with the rank given.
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

/// Of several spellings the one with most names that the checkpoint has; the first of equals.
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
    match activation {
        Activation::Gelu => "gelu",
        Activation::QuickGelu => "quick_gelu",
    }
}
