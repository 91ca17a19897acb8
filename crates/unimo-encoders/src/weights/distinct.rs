//! Keys that a JSON object has twice. Most readers keep the last value without a word; in the files of a checkpoint nothing says which one is
//! meant.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Checks that no object in a JSON text has a key twice.
///
/// # Errors
///
/// One has, or it is no JSON.
pub(crate) fn keys_are_distinct(text: &[u8]) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Distinct.deserialize(&mut json)?;
    json.end()
}

/// Reads any value and keeps nothing of it.
struct Distinct;

impl<'de> DeserializeSeed<'de> for Distinct {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Distinct {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Distinct)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            entries.next_value_seed(Distinct)?;
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format!("`{key}` occurs twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_twice_is_named_at_any_depth() {
        for (text, twice) in [
            (r#"{"a": {"a": 1, "b": [1.5, -2, "x", null, true]}}"#, None),
            (r#"{"a": 1, "b": 0, "a": 1}"#, Some("`a` occurs twice")),
            (
                r#"{"a": [{"c": 1, "\u0063": 2}]}"#,
                Some("`c` occurs twice"),
            ),
        ] {
            let wrong = keys_are_distinct(text.as_bytes()).err();
            let wrong = wrong.map(|error| error.to_string());
            assert_eq!(wrong.is_some(), twice.is_some(), "{text}");
            let (wrong, twice) = (wrong.unwrap_or_default(), twice.unwrap_or_default());
            assert!(wrong.contains(twice), "{wrong}");
        }
        for broken in ["", "{", "[1] 2", "{\"a\": 1,}"] {
            assert!(keys_are_distinct(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
