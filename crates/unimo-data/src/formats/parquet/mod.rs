//! What Parquet files are made of: pieces of an object, pages, columns.

pub(crate) mod chunks;
pub(crate) mod columns;
pub(crate) mod decoded;
