//! Texts: tokens, and which of them are hidden.
//!
//! It knows nothing of pictures, samples and sources.

pub(crate) mod masking;
pub mod published;
mod spaced;
pub(crate) mod tokens;

pub(crate) use spaced::spaced;
