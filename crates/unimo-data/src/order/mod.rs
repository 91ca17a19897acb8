//! Which sample stands at which position of a run, and every random number of the data.
//!
//! It knows nothing of samples: it counts them. All is a pure function of seeds and positions.

pub(crate) mod draws;
pub(crate) mod plan;
