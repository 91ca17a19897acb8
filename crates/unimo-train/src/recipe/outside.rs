//! Sections of `[eval]` that belong to evaluators of other crates, see [`register`](crate::evaluators::registry::register).

use serde::Serialize;
use serde::de::Error;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_batch::registry::{Registry, Section};

/// The registered evaluators. What opens them is known where evaluators are.
pub(crate) static REGISTRY: Registry<Entry> = Registry::new("eval", "an evaluator");

/// How the settings of a registered evaluator are read and checked.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Reads the values of a section; returns them with every value written out.
    pub read: fn(Value) -> Result<Value, String>,
    /// Checks values that were read.
    pub validate: fn(&Value) -> Result<(), ConfigError>,
}

/// The section of a registered evaluator.
#[derive(Clone)]
pub struct OutsideSection {
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    entry: Entry,
}

impl std::fmt::Debug for OutsideSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.value)
    }
}

impl PartialEq for OutsideSection {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

/// The sections of registered evaluators in a recipe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutsideSections(Vec<OutsideSection>);

impl OutsideSections {
    /// Reads the sections that were found beside the keys of `[eval]`.
    pub(crate) fn read<E: Error>(found: Vec<Section<Entry, Value>>) -> Result<Self, E> {
        let each = found.into_iter().map(|(key, entry, value)| {
            let value = (entry.read)(value);
            let value = value.map_err(|reason| E::custom(format_args!("{key}: {reason}")))?;
            Ok(OutsideSection { key, value, entry })
        });
        Ok(Self(each.collect::<Result<_, E>>()?))
    }

    /// The sections, in the order of the recipe.
    pub(crate) fn each(&self) -> &[OutsideSection] {
        &self.0
    }

    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.0.iter().try_for_each(|section| {
            (section.entry.validate)(&section.value).map_err(|e| e.within(section.key))
        })
    }
}

impl Serialize for OutsideSections {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for section in &self.0 {
            map.serialize_entry(section.key, &section.value)?;
        }
        map.end()
    }
}
