//! Access to bytes: on a disk or behind a URL, in separate files or in archives.
//!
//! Nothing here depends on what the bytes mean: formats, images and samples are above it.

pub mod atomic;
pub mod digest;
pub(crate) mod disk;
pub(crate) mod found;
pub(crate) mod object;
pub mod paths;
#[cfg(feature = "remote")]
mod remote;
mod remote_config;
pub mod shards;
mod storage;
pub(crate) mod unpack;

pub(crate) use disk::{LocalFile, may_be_file, open_regular, patiently, read_file, read_listed};
#[cfg(test)]
pub(crate) use object::InMemory;
pub(crate) use object::{Object, Stream, is_remote, read_all};
pub use remote_config::RemoteConfig;
pub(crate) use storage::Storage;
