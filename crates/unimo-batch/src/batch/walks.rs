//! Walks: samples that are episodes of an agent that follows an instruction.
//!
//! Shape legend: `B` samples, `T` decisions of all episodes of a batch together, `C` channels of a cell, `M` cells on a side of a map, `H x W`
//! pixels of a view.

use serde::{Deserialize, Serialize};

use super::bytes;

/// The episodes of a batch. The instruction of each is its text in [`Batch::texts`](super::Batch::texts). The decisions of the first episode
/// come first, in order, then those of the second: nothing is padded.
///
/// A map is egocentric: the agent stands in the middle and looks up, to row 0. Columns go from its left to its right.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Walks {
    /// `[B]`: the decisions of each sample's episode; at least one. They add up to `T`.
    pub steps: Vec<usize>,
    /// `M`.
    pub cells: usize,
    /// `C`.
    pub channels: usize,
    /// `[T, C, M, M]`: levels, 0 to 255, of what the agent knows of each cell before it decides. 0 in every channel where it has seen nothing.
    #[serde(with = "bytes")]
    pub maps: Vec<u8>,
    /// `[T, 4, H, W]`: red, green and blue of what it sees now, and its depth: 255 is the greatest depth that the camera measures, 0 is unknown.
    #[serde(with = "bytes")]
    pub views: Vec<u8>,
    /// `H`.
    pub height: usize,
    /// `W`.
    pub width: usize,
    /// `[T, M, M]`: 1 where the agent has seen the cell before it decides, or 0.
    #[serde(with = "bytes")]
    pub seen: Vec<u8>,
    /// What is to be learned of each decision. `None` for an episode whose path is unknown, as in a test set: then it is unknown for all.
    pub targets: Option<WalkTargets>,
}

/// What imitation learns of each decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WalkTargets {
    /// `[T]`: where to go next: to the right and ahead, 1 is half of the map's side.
    pub waypoints: Vec<[f32; 2]>,
    /// `[T]`: the share of the path that lies behind the agent: 0 at the start, 1 at the goal, below 0 if it is further away than at the start.
    pub progress: Vec<f32>,
    /// `[T, M, M]`: the distance of each cell to the path, in cells.
    pub distances: Vec<f32>,
    /// `[T, M, M]`: the class of each cell, seen or not; 0 is void: outside the house or unknown.
    #[serde(with = "bytes")]
    pub classes: Vec<u8>,
    /// The number of classes, void among them.
    pub class_count: usize,
}

impl Walks {
    /// The number of decisions of all episodes, `T`.
    pub fn decisions(&self) -> usize {
        self.steps.iter().sum()
    }
}
