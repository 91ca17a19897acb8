//! `[data.walks]`: how an episode becomes maps and decisions.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::settings::range;

/// `[data.walks]`: how an episode becomes maps and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalkConfig {
    /// Cells on a side of the map around the agent: an even number (100 in WS-MGMap).
    pub cells: usize,
    /// Side of a cell in metres.
    pub cell: f64,
    /// Cells on a side of the map that is kept, which begins in its middle: an even number (240 in WS-MGMap). An episode that leaves it is
    /// unusable.
    pub world: usize,
    /// Steps from one decision to the next.
    pub every: usize,
    /// The waypoint of a decision is where the path leaves a circle of so many cells around the agent.
    pub reach: f64,
    /// What is mapped of a view: metres against the height of the camera, the lower bound first.
    pub heights: [f64; 2],
    /// How a view is moved to its place in the map.
    pub shift: Shift,
}

/// How a view is moved to its place in the map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// By whole cells, which keeps it sharp; the agent then stands up to half a cell beside the middle of its map.
    #[default]
    Whole,
    /// Bilinear, to the exact place.
    Bilinear,
}

impl Default for WalkConfig {
    fn default() -> Self {
        Self {
            cells: 100,
            cell: 0.12,
            world: 480,
            every: 3,
            reach: 20.0,
            heights: [-1.5, 0.1],
            shift: Shift::Whole,
        }
    }
}

impl WalkConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// A value is not allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        range(&key("cells"), self.cells, 8, 512)?;
        range(&key("world"), self.world, self.cells, 4096)?;
        for (name, value) in [("cells", self.cells), ("world", self.world)] {
            if !value.is_multiple_of(2) {
                let allowed = "an even number: the agent stands where four cells meet";
                return Err(DataError::config(key(name), value, allowed));
            }
        }
        range(&key("every"), self.every, 1, 1000)?;
        if !(0.01..=10.0).contains(&self.cell) {
            let allowed = "a number of metres from 0.01 to 10";
            return Err(DataError::config(key("cell"), self.cell, allowed));
        }
        let half = self.cells as f64 / 2.0;
        if !(self.reach > 0.0 && self.reach <= half) {
            let allowed = format!("a number of cells above 0, up to half the map, {half}");
            return Err(DataError::config(key("reach"), self.reach, allowed));
        }
        let [low, high] = self.heights;
        if !(low.is_finite() && high.is_finite() && low < high) {
            let found = format!("{:?}", self.heights);
            let allowed = "two numbers of metres, the smaller one first";
            return Err(DataError::config(key("heights"), found, allowed));
        }
        Ok(())
    }

    /// Metres from the middle of the map around the agent to its edge.
    pub fn half(&self) -> f64 {
        self.cells as f64 * self.cell / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named_with_what_is_allowed() {
        let parse = |text: &str| toml::from_str::<WalkConfig>(text).unwrap();
        assert!(WalkConfig::default().validate("data.walks").is_ok());
        for (text, key) in [
            ("cells = 7", "data.walks.cells"),
            ("cells = 101", "data.walks.cells"),
            ("world = 64", "data.walks.world"),
            ("every = 0", "data.walks.every"),
            ("cell = nan", "data.walks.cell"),
            ("reach = 51.0", "data.walks.reach"),
            ("heights = [0.1, -1.5]", "data.walks.heights"),
            ("heights = [nan, 1.0]", "data.walks.heights"),
        ] {
            let message = parse(text).validate("data.walks").unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{key}`")) && message.contains("allowed"),
                "{text}: {message}"
            );
        }
    }
}
