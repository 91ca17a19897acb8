//! What a report shows about a model besides its numbers, one file each: how the codes of a grounded dictionary are used, and where
//! phrases are found in images.

pub mod codes;
pub mod phrases;
