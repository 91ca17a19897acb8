//! Parts of Parquet files: chunks of an object, pages, columns.

pub(crate) mod chunks;
pub(crate) mod columns;
pub(crate) mod decoded;
