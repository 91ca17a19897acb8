//! The sample at each position of a run, and all random numbers of the data.
//!
//! Samples are only numbers here. Everything is a pure function of seeds and positions.

pub(crate) mod draws;
pub(crate) mod plan;
