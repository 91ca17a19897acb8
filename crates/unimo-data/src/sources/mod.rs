//! The sources that this crate knows, one per file.

pub mod pairs;
pub mod scenes;
