//! Parts of other crates. A program registers an objective, a source, an evaluator or an encoder of its own under a name before it
//! reads a recipe; the recipe then names it as it names the built-in ones.
//!
//! Each kind has one [`Registry`]. [`Beside`] reads a struct of settings whose further sections belong to registered names.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::config::ConfigError;

/// The names that other crates have registered, with what is known of each.
///
/// A process has one for each kind: a recipe is read in many places and means the same in all of them.
pub struct Registry<T> {
    section: &'static str,
    what: &'static str,
    entries: RwLock<BTreeMap<&'static str, T>>,
}

impl<T: Copy> Registry<T> {
    /// An empty registry. `section` is the part of a recipe in which the names stand, such as `objectives`; `what` is what a name
    /// stands for, such as `an objective`.
    pub const fn new(section: &'static str, what: &'static str) -> Self {
        Self {
            section,
            what,
            entries: RwLock::new(BTreeMap::new()),
        }
    }

    /// Registers a name. `taken` are the names that mean something in the section already.
    ///
    /// # Errors
    ///
    /// The name is taken, or cannot be written as a key of a recipe.
    pub fn add(&self, key: &'static str, taken: &[&str], entry: T) -> Result<(), ConfigError> {
        let Self { section, what, .. } = self;
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        ConfigError::unless(
            !key.is_empty() && key.chars().all(letter),
            section,
            format_args!("\"{key}\""),
            format_args!("the name of {what} must consist of letters, digits and `_`"),
        )?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        ConfigError::unless(
            !taken.contains(&key),
            section,
            format_args!("\"{key}\""),
            format_args!("the name of {what} must be new, and this is a built-in key"),
        )?;
        ConfigError::unless(
            !entries.contains_key(key),
            section,
            format_args!("\"{key}\""),
            format_args!("the name of {what} must be new, and this one is registered already"),
        )?;
        entries.insert(key, entry);
        Ok(())
    }

    /// What is known of a name; `None` if it is not registered.
    pub fn get(&self, key: &str) -> Option<(&'static str, T)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (key, entry) = entries.get_key_value(key)?;
        Some((key, *entry))
    }

    /// The registered names, sorted.
    pub fn keys(&self) -> Vec<&'static str> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.keys().copied().collect()
    }

    /// The names that are allowed beside `built_in`, for an error.
    pub fn allowed(&self, built_in: &[&str]) -> String {
        let keys = built_in.iter().copied().chain(self.keys());
        let keys: Vec<String> = keys.map(|key| format!("`{key}`")).collect();
        format!(
            "expected one of {}, or {} of another crate that this program registers",
            keys.join(", "),
            self.what
        )
    }
}

/// A section of a registered part: its name, what is known of it, and the values in a recipe.
pub type Section<T, V> = (&'static str, T, V);

/// A deserializer of a struct that has sections of registered parts beside its own fields. The sections are put into `found`.
pub struct Beside<'a, D, T, V> {
    /// The whole.
    pub deserializer: D,
    /// The names of the sections.
    pub registry: &'a Registry<T>,
    /// Takes the sections.
    pub found: &'a mut Vec<Section<T, V>>,
}

impl<'de, D: Deserializer<'de>, T: Copy, V: Deserialize<'de>> Deserializer<'de>
    for Beside<'_, D, T, V>
{
    type Error = D::Error;

    fn deserialize_any<W: Visitor<'de>>(self, visitor: W) -> Result<W::Value, D::Error> {
        self.deserializer.deserialize_any(visitor)
    }

    fn deserialize_struct<W: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: W,
    ) -> Result<W::Value, D::Error> {
        let visitor = Sections {
            visitor,
            fields,
            registry: self.registry,
            found: self.found,
        };
        self.deserializer.deserialize_struct(name, fields, visitor)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'de>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A struct's visitor, or its map, that sees the struct's own fields only.
struct Sections<'a, W, T, V> {
    visitor: W,
    fields: &'static [&'static str],
    registry: &'a Registry<T>,
    found: &'a mut Vec<Section<T, V>>,
}

impl<'de, W: Visitor<'de>, T: Copy, V: Deserialize<'de>> Visitor<'de> for Sections<'_, W, T, V> {
    type Value = W::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<W::Value, M::Error> {
        self.visitor.visit_map(Sections {
            visitor: map,
            fields: self.fields,
            registry: self.registry,
            found: self.found,
        })
    }
}

impl<'de, M: MapAccess<'de>, T: Copy, V: Deserialize<'de>> MapAccess<'de>
    for Sections<'_, M, T, V>
{
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        mut seed: K,
    ) -> Result<Option<K::Value>, M::Error> {
        loop {
            let key = Key {
                seed,
                fields: self.fields,
                registry: self.registry,
            };
            match self.visitor.next_key_seed(key)? {
                None => return Ok(None),
                Some(Found::Own(key)) => return Ok(Some(key)),
                Some(Found::Registered(key, entry, unused)) => {
                    if self.found.iter().any(|(other, _, _)| *other == key) {
                        return Err(M::Error::custom(format_args!("duplicate field `{key}`")));
                    }
                    let value = self.visitor.next_value()?;
                    self.found.push((key, entry, value));
                    seed = unused;
                }
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, M::Error> {
        self.visitor.next_value_seed(seed)
    }
}

/// Reads a key: one of the struct's own by `seed`, which is handed back with any other.
struct Key<'a, K, T> {
    seed: K,
    fields: &'static [&'static str],
    registry: &'a Registry<T>,
}

enum Found<O, T, K> {
    Own(O),
    Registered(&'static str, T, K),
}

impl<'de, K: DeserializeSeed<'de>, T: Copy> DeserializeSeed<'de> for Key<'_, K, T> {
    type Value = Found<K::Value, T, K>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        if self.fields.contains(&key.as_str()) {
            let own = self.seed.deserialize(key.into_deserializer())?;
            return Ok(Found::Own(own));
        }
        match self.registry.get(&key) {
            Some((key, entry)) => Ok(Found::Registered(key, entry, self.seed)),
            None => Err(D::Error::custom(format_args!(
                "unknown field `{key}`, {}",
                self.registry.allowed(self.fields)
            ))),
        }
    }
}

/// The fields that a struct reads, so that no section takes the name of one.
pub fn fields_of<'de, S: Deserialize<'de>>() -> Vec<&'static str> {
    let mut fields = Vec::new();
    // It ends at the names, with an error that says nothing.
    let _ = S::deserialize(Names(&mut fields));
    fields
}

struct Names<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<W: Visitor<'de>>(self, _visitor: W) -> Result<W::Value, Self::Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<W: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: W,
    ) -> Result<W::Value, Self::Error> {
        self.0.extend(fields);
        Err(Error::custom("names only"))
    }

    forward_to_deserialize_any! {
        <W: Visitor<'de>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error as ValueError, MapDeserializer};

    use super::*;

    static REGISTRY: Registry<u8> = Registry::new("things", "a thing");

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        #[serde(default)]
        a: u32,
        #[serde(default)]
        b: u32,
    }

    fn read(given: &[(&str, u32)]) -> Result<(Own, Vec<Section<u8, u32>>), ValueError> {
        let mut found = Vec::new();
        let own = Own::deserialize(Beside {
            deserializer: MapDeserializer::new(given.iter().copied()),
            registry: &REGISTRY,
            found: &mut found,
        })?;
        Ok((own, found))
    }

    #[test]
    fn sections_of_registered_names_stand_beside_fields() {
        let taken = fields_of::<Own>();
        assert_eq!(taken, ["a", "b"]);
        REGISTRY.add("mine", &taken, 7).unwrap();
        for (key, why) in [("mine", "already"), ("a", "built-in"), ("x.y", "letters")] {
            let error = REGISTRY.add(key, &taken, 8).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(why), "{error}");
        }
        assert_eq!(REGISTRY.keys(), ["mine"]);

        let (own, found) = read(&[("a", 1), ("mine", 2), ("b", 3)]).unwrap();
        assert_eq!((own.a, own.b, found), (1, 3, vec![("mine", 7, 2)]));
        let error = read(&[("b", 3), ("yours", 2)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown field `yours`, expected one of `a`, `b`, `mine`, or a thing of another crate that this program registers"
        );
        for twice in ["a", "mine"] {
            let error = read(&[(twice, 1), (twice, 2)]).unwrap_err().to_string();
            assert_eq!(error, format!("duplicate field `{twice}`"));
        }
    }
}
