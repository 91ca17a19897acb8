#![doc = include_str!("../README.md")]

pub mod atomic;
pub mod augment;
pub mod concepts;
pub mod config;
mod detect;
pub mod error;
pub mod eval_set;
mod found;
mod gathered;
pub mod images;
mod jpeg;
pub mod loader;
pub mod masking;
mod order;
mod orientation;
pub mod pack;
pub mod paths;
pub mod plan;
mod png;
pub mod processor;
pub mod published;
pub mod regions;
#[cfg(feature = "remote")]
mod remote;
pub mod shards;
pub mod skip;
pub mod source;
pub mod sources;
pub mod splits;
pub mod storage;
pub mod tokens;
mod unpack;

pub use concepts::reader::ConceptReader;
pub use concepts::{Concepts, ConceptsConfig};
pub use config::DataConfig;
pub use error::{DataError, SampleError};
pub use eval_set::EvalSet;
pub use loader::{Loader, LoaderSpec, SecondView};
pub use regions::RegionsConfig;
pub use skip::SkipList;
pub use source::{Holds, Sample, Source, SourceConfig, open};
pub use splits::{BySplit, Split};
pub use tokens::TextTokenizer;
