//! Texts: tokens, which of them are hidden, and concepts beside them.
//!
//! It knows nothing of images, samples and sources.

pub mod concepts;
pub(crate) mod masking;
pub mod published;
pub(crate) mod tokens;
mod tuples;

pub(crate) use unimo_phrases::spaced;
