//! Checks of setting values that many tables share.
//!
//! It does not depend on what is set.

use crate::error::DataError;

/// Checks that a whole number is within bounds.
pub(crate) fn range(key: &str, value: usize, low: usize, high: usize) -> Result<(), DataError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        let allowed = format!("a whole number from {low} to {high}");
        Err(DataError::config(key, value, allowed))
    }
}

/// Checks that a number is from 0 to 1.
pub(crate) fn share(key: &str, value: f64) -> Result<(), DataError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(DataError::config(key, value, "a number from 0 to 1"))
    }
}

/// Checks that a text is not empty.
pub(crate) fn not_empty(key: &str, value: &str, allowed: &str) -> Result<(), DataError> {
    if value.is_empty() {
        Err(DataError::config(key, "empty", allowed))
    } else {
        Ok(())
    }
}
