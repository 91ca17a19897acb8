//! The sources that this crate knows, one per file.

pub mod mixture;
pub mod pairs;
pub mod parquet;
pub mod scenes;
pub mod webdataset;
