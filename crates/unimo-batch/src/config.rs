//! The error of a configuration value that is not allowed.

use std::error::Error;
use std::fmt::{self, Display};

/// A value that is not allowed, with its key and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the key, sections joined by dots.
    pub key: String,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            allowed,
        } = self;
        write!(f, "`{key} = {value}` cannot be: {allowed}")
    }
}

impl Error for ConfigError {}

impl ConfigError {
    /// `Err` unless `holds`.
    pub fn unless(
        holds: bool,
        key: &str,
        value: impl Display,
        allowed: impl Display,
    ) -> Result<(), Self> {
        if holds {
            return Ok(());
        }
        Err(Self {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: allowed.to_string(),
        })
    }

    /// `Err` unless `holds`, for a section as a whole: its name is added by [`within`](Self::within).
    pub fn of_section(holds: bool, allowed: impl Display) -> Result<(), Self> {
        Self::unless(holds, "", "{}", allowed)
    }

    /// The same error with the key's section before it.
    pub fn within(mut self, section: &str) -> Self {
        self.key = if self.key.is_empty() {
            section.to_owned()
        } else {
            format!("{section}.{}", self.key)
        };
        self
    }
}

/// The largest size of anything that is computed with: the bytes of a matrix of this many rows and columns can be counted.
pub const LARGEST_SIZE: usize = 1 << 24;

/// `Err` unless `value` is positive and at most [`LARGEST_SIZE`].
pub fn positive(key: &str, value: usize) -> Result<(), ConfigError> {
    ConfigError::unless(value > 0, key, value, "must be at least 1")?;
    ConfigError::unless(
        value <= LARGEST_SIZE,
        key,
        value,
        format_args!("must be at most {LARGEST_SIZE}"),
    )
}

/// `Err` unless `width` is a positive multiple of `heads`.
pub fn heads_divide(width: usize, heads: usize) -> Result<(), ConfigError> {
    positive("width", width)?;
    positive("heads", heads)?;
    ConfigError::unless(
        width.is_multiple_of(heads),
        "heads",
        heads,
        format_args!("must divide the width {width}"),
    )
}

/// `Err` unless `value` is in [0, 1).
pub fn probability(key: &str, value: f64) -> Result<(), ConfigError> {
    ConfigError::unless((0.0..1.0).contains(&value), key, value, "must be in [0, 1)")
}

/// `Err` unless `value` is in (0, 1).
pub fn open_share(key: &str, value: f64) -> Result<(), ConfigError> {
    ConfigError::unless(
        value > 0.0 && value < 1.0,
        key,
        value,
        "must be between 0 and 1",
    )
}

/// `Err` unless `value` is finite and above 0, as an f32, too: models are computed in it.
pub fn above_zero(key: &str, value: f64) -> Result<(), ConfigError> {
    ConfigError::unless(
        value.is_finite() && value > 0.0,
        key,
        value,
        "must be a finite number above 0",
    )?;
    ConfigError::unless(
        (value as f32).is_finite() && value as f32 > 0.0,
        key,
        format_args!("{value:e}"),
        "must be a number of 32 bits: from 1e-45 to 3e38",
    )
}

/// For settings that are not written where they are 0.
pub fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_key_value_and_what_is_allowed() {
        let error = heads_divide(10, 4).unwrap_err().within("model.text");
        assert_eq!(
            error.to_string(),
            "`model.text.heads = 4` cannot be: must divide the width 10"
        );
        assert!(probability("dropout", 1.0).is_err());
        assert!(probability("dropout", f64::NAN).is_err());
        assert!(above_zero("lr", f64::INFINITY).is_err());
        // What is 0 or infinite where it is used is refused, too.
        assert!(above_zero("lr", 1e300).is_err() && above_zero("eps", 1e-300).is_err());
        assert!(above_zero("eps", 1e-12).is_ok());
        assert!(positive("width", usize::MAX).is_err() && positive("width", 1 << 20).is_ok());
    }
}
