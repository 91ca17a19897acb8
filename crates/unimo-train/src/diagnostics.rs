//! What a report shows of a model beside its numbers, each in a file of its own: how the codes of a grounded dictionary are used,
//! and where phrases are found in pictures.

pub mod codes;
pub mod phrases;
