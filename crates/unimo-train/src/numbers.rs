//! Numbers on the command line.

/// Reads a whole number from 1.
///
/// # Errors
///
/// It is none; the text says what is allowed.
pub(crate) fn at_least_one(given: &str) -> Result<usize, String> {
    match given.parse() {
        Ok(0) | Err(_) => Err("allowed: whole numbers from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}
