//! Keys that a JSON object has twice.
//!
//! JSON leaves open what they mean. Most readers, Python's among them, take the last value without a word. Here the last counts, too, and the
//! caller learns of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a JSON value, the last of two values of one key. `twice` becomes the first key with two different values.
///
/// # Errors
///
/// It is not JSON.
pub(crate) fn read(bytes: &[u8], twice: &mut Option<String>) -> serde_json::Result<Value> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = Noting(twice).deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// Makes a value, and notes the first key that an object has twice.
struct Noting<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = elements.next_element_seed(Noting(self.0))? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Noting(self.0))?;
            match all.get_mut(&key) {
                Some(before) => {
                    if *before != value {
                        self.0.get_or_insert(key);
                    }
                    *before = value;
                }
                None => {
                    all.insert(key, value);
                }
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_and_the_key_is_noted() {
        for (text, twice) in [
            (r#"{"a": 1, "b": [1.5, -2, "x", null, true]}"#, None),
            (r#"{"a": 1, "a": 1}"#, None),
            (r#"{"a": "first", "b": 0, "a": "second"}"#, Some("a")),
            (r#"[{"a": {"c": 1, "c": 2}, "b": 1, "b": 2}]"#, Some("c")),
            (r#"{"a": [1], "\u0061": [2]}"#, Some("a")),
        ] {
            let mut found = None;
            let value = read(text.as_bytes(), &mut found).unwrap();
            assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(found.as_deref(), twice, "{text}");
        }
        for broken in ["", "{", "[1] 2", "{\"a\": 1,}"] {
            assert!(read(broken.as_bytes(), &mut None).is_err(), "{broken}");
        }
    }
}
