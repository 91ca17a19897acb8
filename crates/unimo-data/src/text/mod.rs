//! Texts: tokens, masking, and concepts beside the tokens.
//!
//! Nothing here depends on images, samples and sources.

pub mod concepts;
pub(crate) mod masking;
pub mod published;
pub(crate) mod sentences;
pub(crate) mod tokens;
mod tuples;

pub(crate) use unimo_phrases::spaced;
