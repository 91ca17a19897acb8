//! Episodes of an agent: where it stands, what it sees, the map that it keeps of that, and what it is to learn.
//!
//! A source [records](Recorded) an episode: poses, views and the path. [`Rows`] makes the decisions of a batch of it, for the loader and for a
//! closed loop alike. Everything here is computed on the host, without gradients.
//!
//! The world is a plane in metres: `x` to the right, `y` ahead of an agent of heading 0, seen from above. Headings are in radians and grow as
//! the agent turns left. A map has `M x M` cells; its row 0 is ahead of the agent, its column 0 to its left.

mod config;
mod expert;
mod features;
mod memory;
mod pose;
mod project;
mod recorded;
mod rows;

pub use config::{Shift, WalkConfig};
pub use expert::{Ground, length, nearest_along, spaced_out};
pub use features::{FEATURE_NAMES, FEATURES};
pub use memory::MapMemory;
pub use pose::Pose;
pub use project::{Camera, Cells, View};
pub use recorded::{Recorded, WalkOffers};
pub use rows::{Rows, joined, made};
