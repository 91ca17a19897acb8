//! File formats: JSON, rows of text, members of archives, chunks of PNG.
//!
//! Nothing here depends on samples and sources.

pub(crate) mod distinct;
pub(crate) mod encoding;
pub(crate) mod json;
pub(crate) mod layout;
pub(crate) mod members;
pub(crate) mod mended;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod png;
pub(crate) mod rows;
pub(crate) mod values;
