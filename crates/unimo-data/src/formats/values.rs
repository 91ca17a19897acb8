//! Values as written in annotation files: numbers or strings, whole numbers with a point, null for an absent value.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// Largest whole number below which an f64 has no gaps.
const EXACT: f64 = (1u64 << 53) as f64;

/// A float as a whole number, if it is one.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
}

/// An identifier. Some files write numbers where others write strings, and 42.0 is 42.
pub(crate) fn id<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    struct Id;
    impl Visitor<'_> for Id {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an identifier: a whole number or a text")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
            match whole(number) {
                Some(number) => Ok(number.to_string()),
                // Neighbours this large cannot be told apart. `mended` turns those without a point into strings.
                None => Err(E::invalid_value(Unexpected::Float(number), &self)),
            }
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    input.deserialize_any(Id)
}

/// [`id`] as a type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub(crate) struct Identifier(#[serde(deserialize_with = "id")] pub String);

/// A number, which may be written as a string.
pub(crate) fn number<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a number")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
            Ok(number as f64)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
            Ok(number as f64)
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
            Ok(number)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
            let number = text.trim().parse::<f64>().ok();
            number
                .filter(|number| number.is_finite())
                .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    input.deserialize_any(Number)
}

/// [`number`] as a type.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Number(#[serde(deserialize_with = "number")] pub f64);

/// Length of a side in pixels; null gives 0, which means unknown.
pub(crate) fn side<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let Some(Number(found)) = Option::deserialize(input)? else {
        return Ok(0);
    };
    whole(found)
        .and_then(|side| u32::try_from(side).ok())
        .ok_or_else(|| D::Error::invalid_value(Unexpected::Float(found), &"pixels of a side"))
}

/// The default value for null.
pub(crate) fn or_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::json::parse;

    #[derive(Deserialize)]
    struct Row {
        #[serde(deserialize_with = "id")]
        id: String,
        #[serde(default, deserialize_with = "side")]
        width: u32,
        #[serde(default, deserialize_with = "or_default")]
        names: Vec<String>,
        #[serde(default)]
        bbox: Vec<Number>,
    }

    #[test]
    fn the_same_value_in_every_spelling() {
        for (text, expected) in [
            ("42", "42"),
            ("42.0", "42"),
            ("4.2e1", "42"),
            ("\"42\"", "42"),
            ("-1", "-1"),
            ("-0.0", "0"),
            ("\"coco_7\"", "coco_7"),
            ("18446744073709551615", "18446744073709551615"),
            (
                "340282366920938463463374607431768211455",
                "340282366920938463463374607431768211455",
            ),
        ] {
            let row: Row = parse(format!("{{\"id\": {text}}}").as_bytes()).unwrap();
            assert_eq!(row.id, expected);
            assert_eq!((row.width, row.names.len()), (0, 0));
        }
        for bad in ["42.5", "1e300", "null", "NaN", "true", "[1]"] {
            let reason = parse::<Row>(format!("{{\"id\": {bad}}}").as_bytes())
                .err()
                .unwrap();
            assert!(reason.contains("an identifier"), "{bad}: {reason}");
        }
        let row: Row =
            parse(br#"{"id": 1, "width": null, "names": null, "bbox": ["1", 2, 3.5, " 4 "]}"#)
                .unwrap();
        assert_eq!((row.width, row.names.len()), (0, 0));
        let numbers: Vec<f64> = row.bbox.iter().map(|number| number.0).collect();
        assert_eq!(numbers, [1.0, 2.0, 3.5, 4.0]);
        for (text, width) in [("640", 640), ("640.0", 640), ("\"640\"", 640), ("NaN", 0)] {
            let row: Row = parse(format!("{{\"id\": 1, \"width\": {text}}}").as_bytes()).unwrap();
            assert_eq!(row.width, width);
        }
        for bad in ["-1", "0.5", "5000000000", "\"wide\"", "\"inf\""] {
            let row = parse::<Row>(format!("{{\"id\": 1, \"width\": {bad}}}").as_bytes());
            assert!(row.is_err(), "{bad}");
        }
    }
}
