//! Sources of other crates, see [`register`](crate::register).

use std::fmt::{self, Debug};

use serde::de::{DeserializeOwned, Error};
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use unimo_batch::registry::{Registry, Section};

use crate::sources::source::SourceConfig;

/// The registered sources.
pub(crate) static REGISTRY: Registry<Entry> = Registry::new("data", "a source");

/// How the settings of a registered source are made.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    read: fn(&'static str, Value) -> Result<OutsideSource, String>,
    without_table: fn(&'static str) -> Option<OutsideSource>,
}

/// What the settings of a registered source can do besides. Every type of settings that serde reads and writes has it.
pub trait OutsideSourceConfig:
    SourceConfig + Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<C> OutsideSourceConfig for C where
    C: SourceConfig + Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl Entry {
    pub(crate) fn of<C: OutsideSourceConfig>() -> Self {
        Self {
            read: |key, value| {
                let config: C = serde_json::from_value(value).map_err(|e| e.to_string())?;
                Ok(OutsideSource::new(key, config))
            },
            without_table: |key| Some(OutsideSource::new(key, C::without_table()?)),
        }
    }

    /// Reads a table.
    pub(crate) fn read<E: Error>(
        self,
        key: &'static str,
        table: Value,
    ) -> Result<OutsideSource, E> {
        (self.read)(key, table).map_err(|reason| E::custom(format_args!("{key}: {reason}")))
    }

    /// The settings if a recipe has no table.
    pub(crate) fn without_table(self, key: &'static str) -> Option<OutsideSource> {
        (self.without_table)(key)
    }
}

/// [`OutsideSourceConfig`] without its type.
trait AnyTable: Send + Sync {
    fn config(&self) -> &dyn SourceConfig;
    fn config_mut(&mut self) -> &mut dyn SourceConfig;
    fn copy(&self) -> Box<dyn AnyTable>;
    fn written(&self) -> Result<Value, serde_json::Error>;
    fn debug(&self) -> &dyn Debug;
}

impl<C: OutsideSourceConfig> AnyTable for C {
    fn config(&self) -> &dyn SourceConfig {
        self
    }
    fn config_mut(&mut self) -> &mut dyn SourceConfig {
        self
    }
    fn copy(&self) -> Box<dyn AnyTable> {
        Box::new(self.clone())
    }
    fn written(&self) -> Result<Value, serde_json::Error> {
        Ok(without_nulls(serde_json::to_value(self)?))
    }
    fn debug(&self) -> &dyn Debug {
        self
    }
}

/// TOML has no null: a value that is not given is left out.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                given
                    .map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        value => value,
    }
}

/// The settings of a registered source, with its name.
pub struct OutsideSource {
    key: &'static str,
    table: Box<dyn AnyTable>,
}

impl OutsideSource {
    fn new<C: OutsideSourceConfig>(key: &'static str, config: C) -> Self {
        Self {
            key,
            table: Box::new(config),
        }
    }

    /// The name in a recipe.
    pub fn key(&self) -> &'static str {
        self.key
    }

    pub(crate) fn config(&self) -> &dyn SourceConfig {
        self.table.config()
    }

    pub(crate) fn config_mut(&mut self) -> &mut dyn SourceConfig {
        self.table.config_mut()
    }

    /// As a table with the name in it, as a part of a mixture is written.
    pub(crate) fn named<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut named = Map::new();
        named.insert("source".to_owned(), self.key.into());
        if let Value::Object(values) = self.table.written().map_err(S::Error::custom)? {
            named.extend(values);
        }
        named.serialize(serializer)
    }
}

impl Clone for OutsideSource {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            table: self.table.copy(),
        }
    }
}

impl Debug for OutsideSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.table.debug())
    }
}

/// Equal settings are written alike.
impl PartialEq for OutsideSource {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (self.table.written(), other.table.written());
        self.key == other.key && matches!((own, others), (Ok(own), Ok(others)) if own == others)
    }
}

/// The tables of registered sources in a recipe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutsideSources(Vec<OutsideSource>);

impl OutsideSources {
    /// Reads the tables that were found beside those of built-in sources.
    pub(crate) fn read<E: Error>(found: Vec<Section<Entry, Value>>) -> Result<Self, E> {
        let each = found.into_iter();
        let tables = each.map(|(key, entry, table)| entry.read(key, table));
        Ok(Self(tables.collect::<Result<_, E>>()?))
    }

    /// The table of a source, or its settings without one.
    pub(crate) fn get(&self, key: &'static str) -> Option<OutsideSource> {
        let given = self.0.iter().find(|source| source.key == key).cloned();
        given.or_else(|| REGISTRY.get(key)?.1.without_table(key))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut OutsideSource> {
        self.0.iter_mut()
    }
}

impl Serialize for OutsideSources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for source in &self.0 {
            let table = source.table.written().map_err(S::Error::custom)?;
            map.serialize_entry(source.key, &table)?;
        }
        map.end()
    }
}
