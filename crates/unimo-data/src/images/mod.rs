//! Images: from a file's bytes to the model's input.
//!
//! Nothing here depends on texts, samples and sources.

pub mod augment;
pub mod codes;
pub(crate) mod decoding;
#[cfg(test)]
mod drawn;
mod jpeg;
mod limits;
mod orientation;
pub(crate) mod patches;
pub mod processor;
pub mod regions;
mod square;
mod window;

pub(crate) use decoding::extension_of;
pub use decoding::{decode, dimensions, jpeg, read, read_file};
pub use limits::Limits;
pub(crate) use limits::largest_file;
pub(crate) use square::shrink;
pub use square::{Filter, ImageSpec, Part, Resize, thumbnail};
pub use window::Window;
