//! Bounds of sizes that are no sizes of matrices.

use unimo_batch::ConfigError;

/// A deeper network would only fill the memory while it is made.
const MOST_LAYERS: usize = 4096;

/// `Err` if so many layers are beyond every network.
pub(crate) fn layers(count: usize) -> Result<(), ConfigError> {
    ConfigError::unless(
        count <= MOST_LAYERS,
        "layers",
        count,
        format_args!("must be at most {MOST_LAYERS}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_no_network_has_is_refused() {
        assert!(layers(0).is_ok() && layers(MOST_LAYERS).is_ok());
        let error = layers(usize::MAX).unwrap_err().to_string();
        assert!(error.contains("must be at most 4096"), "{error}");
    }
}
