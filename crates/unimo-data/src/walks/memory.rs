//! The map that an agent keeps: views in their places, the greatest value in each cell.
//!
//! As `Mapping.project_feat_to_map` of WS-MGMap's release: a view is turned until it looks ahead, moved to where the agent stands, and fused by the
//! greatest value; the map around the agent is what lies there, turned back. Only the cells that a view can reach are computed.

use crate::walks::config::{Shift, WalkConfig};
use crate::walks::features::{FEATURES, features};
use crate::walks::pose::Pose;
use crate::walks::project::{Camera, Cells, View, projected};

/// The map of an episode. It begins where the agent begins.
#[derive(Debug, Clone)]
pub struct MapMemory {
    config: WalkConfig,
    world: Cells,
    origin: [f64; 2],
}

impl MapMemory {
    /// An empty map with its middle at a place, for cells of `features` values.
    pub fn new(config: &WalkConfig, origin: [f64; 2], features: usize) -> Self {
        Self {
            config: *config,
            world: Cells::new(config.world, features),
            origin,
        }
    }

    /// An empty map for views, see [`FEATURES`].
    pub fn of_views(config: &WalkConfig, origin: [f64; 2]) -> Self {
        Self::new(config, origin, FEATURES)
    }

    /// Puts a view into the map.
    pub fn see(&mut self, pose: Pose, view: &View, camera: &Camera) {
        let cells = projected(&view.depth, &features(view, camera), camera, &self.config);
        self.fuse(pose, &cells);
    }

    /// Puts cells around an agent, `[M, M, F]`, none of whose values is below 0, into the map.
    pub fn fuse(&mut self, pose: Pose, around: &Cells) {
        let turned = around.turned(pose.heading);
        let (down, right) = self.shift(pose);
        let first = (self.config.world - self.config.cells) as f64 / 2.0;
        let (top, left) = ((first + down).floor(), (first + right).floor());
        let (by_row, by_column) = (first + down - top, first + right - left);
        // Cells that are moved by a part of a cell reach one more.
        let more = |part: f64| self.config.cells + usize::from(part > 0.0);
        let marked = turned.marked();
        let mut values = vec![0.0; self.world.features];
        for row in 0..more(by_row) {
            for column in 0..more(by_column) {
                let (to_row, to_column) = (top + row as f64, left + column as f64);
                let inside = |at: f64| at >= 0.0 && at < self.config.world as f64;
                if !inside(to_row) || !inside(to_column) {
                    continue;
                }
                let (from_row, from_column) = (row as f64 - by_row, column as f64 - by_column);
                if !turned.touches(&marked, from_row, from_column) {
                    continue;
                }
                values.fill(0.0);
                turned.sample(from_row, from_column, &mut values);
                let cell = self.world.at_mut(to_row as usize, to_column as usize);
                for (cell, value) in cell.iter_mut().zip(&values) {
                    *cell = cell.max(*value);
                }
            }
        }
    }

    /// The map around an agent, `[M, M, F]`.
    pub fn around(&self, pose: Pose) -> Cells {
        let (down, right) = self.shift(pose);
        let first = (self.config.world - self.config.cells) as f64 / 2.0;
        let mut there = Cells::new(self.config.cells, self.world.features);
        for row in 0..self.config.cells {
            for column in 0..self.config.cells {
                let (from_row, from_column) =
                    (first + down + row as f64, first + right + column as f64);
                let into = there.at_mut(row, column);
                self.world.sample(from_row, from_column, into);
            }
        }
        there.turned(-pose.heading)
    }

    /// Whether a place lies in the map.
    pub fn holds(&self, [x, y]: [f64; 2]) -> bool {
        let half = self.config.world as f64 * self.config.cell / 2.0;
        (x - self.origin[0]).abs() < half && (y - self.origin[1]).abs() < half
    }

    /// How many cells an agent stands below and to the right of the middle of the map.
    fn shift(&self, pose: Pose) -> (f64, f64) {
        let cells = |metres: f64| {
            let cells = metres / self.config.cell;
            match self.config.shift {
                Shift::Whole => cells.round(),
                Shift::Bilinear => cells,
            }
        };
        (
            cells(self.origin[1] - pose.y),
            cells(pose.x - self.origin[0]),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use safetensors::SafeTensors;

    use super::*;

    const REFERENCE: &[u8] = include_bytes!("../../../../tests/fixtures/project/io.safetensors");

    fn tensor(all: &SafeTensors<'_>, name: &str) -> Vec<f32> {
        let bytes = all.tensor(name).unwrap().data();
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    fn config() -> WalkConfig {
        WalkConfig {
            cells: 12,
            cell: 0.25,
            world: 24,
            ..WalkConfig::default()
        }
    }

    fn camera() -> Camera {
        Camera {
            height: 8,
            width: 8,
            fov: 90.0,
            lift: 1.25,
            range: 10.0,
        }
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32], within: f32) {
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= within,
                "{at}: {found} {expected}"
            );
        }
    }

    #[test]
    fn projection_fusion_and_crop_are_the_references() {
        let all = SafeTensors::deserialize(REFERENCE).unwrap();
        let (depth, features) = (tensor(&all, "depth"), tensor(&all, "features"));
        let bytes = all.tensor("poses").unwrap().data();
        let (words, _) = bytes.as_chunks::<8>();
        let poses: Vec<f64> = words.iter().map(|word| f64::from_le_bytes(*word)).collect();
        for shift in [Shift::Whole, Shift::Bilinear] {
            let name = if shift == Shift::Whole {
                "whole"
            } else {
                "bilinear"
            };
            let config = WalkConfig { shift, ..config() };
            let mut memory = MapMemory::new(&config, [0.0, 0.0], 3);
            for at in 0..2 {
                let [x, y, heading] = [0, 1, 2].map(|part| poses[at * 3 + part]);
                let pose = Pose { x, y, heading };
                let cells = projected(
                    &depth[at * 64..][..64],
                    &features[at * 192..][..192],
                    &camera(),
                    &config,
                );
                assert_close(&cells.values, &tensor(&all, &format!("cells.{at}")), 0.0);
                memory.fuse(pose, &cells);
                let world = tensor(&all, &format!("{name}.world.{at}"));
                assert_close(&memory.world.values, &world, 1e-5);
                let around = tensor(&all, &format!("{name}.around.{at}"));
                assert_close(&memory.around(pose).values, &around, 1e-5);
            }
        }
    }

    /// Cells with a smooth hill beside the middle and nothing in the corners.
    fn hill(side: usize) -> Cells {
        let mut cells = Cells::new(side, 1);
        for row in 0..side {
            for column in 0..side {
                let (y, x) = (
                    row as f32 / side as f32 - 0.4,
                    column as f32 / side as f32 - 0.55,
                );
                cells.at_mut(row, column)[0] = (-(x * x + y * y) * 20.0).exp();
            }
        }
        cells
    }

    #[test]
    fn a_whole_turn_gives_the_map_back() {
        let cells = hill(48);
        let mut turned = cells.clone();
        for _ in 0..24 {
            turned = turned.turned(TAU / 24.0);
        }
        // Each of 24 interpolations flattens the top a little; the place and the shape remain.
        let inner = |cells: &Cells| -> Vec<f32> {
            let inside = |at: usize| (12..36).contains(&at);
            let all = (0..48 * 48).filter(|at| inside(at / 48) && inside(at % 48));
            all.map(|at| cells.values[at]).collect()
        };
        assert_close(&inner(&turned), &inner(&cells), 0.08);
    }

    #[test]
    fn an_agent_that_turns_once_around_sees_the_same_map() {
        let config = WalkConfig {
            cells: 48,
            world: 96,
            ..config()
        };
        let mut memory = MapMemory::new(&config, [2.0, -1.0], 1);
        let start = Pose {
            x: 2.0,
            y: -1.0,
            heading: 0.0,
        };
        memory.fuse(start, &hill(48));
        let first = memory.around(start);
        assert_close(&first.values, &hill(48).values, 1e-6);
        // What it sees while it turns is what the map has; nothing is added to it.
        for turn in 1..=24 {
            let pose = start.turned(f64::from(turn) * TAU / 24.0);
            let around = memory.around(pose);
            memory.fuse(pose, &around);
        }
        assert_close(&memory.around(start).values, &first.values, 0.02);
    }

    #[test]
    fn the_same_view_twice_changes_nothing() {
        for shift in [Shift::Whole, Shift::Bilinear] {
            let config = WalkConfig { shift, ..config() };
            let mut memory = MapMemory::new(&config, [0.0, 0.0], 1);
            let pose = Pose {
                x: 0.3,
                y: 0.7,
                heading: 0.4,
            };
            memory.fuse(pose, &hill(12));
            let once = memory.world.clone();
            memory.fuse(pose, &hill(12));
            assert_eq!(memory.world, once);
        }
    }

    #[test]
    fn what_lies_behind_stays() {
        let mut memory = MapMemory::new(&config(), [0.0, 0.0], 1);
        let mut wall = Cells::new(12, 1);
        wall.at_mut(2, 6)[0] = 1.0;
        let start = Pose::default();
        memory.fuse(start, &wall);
        // It goes one cell ahead and turns about: the mark was 3.5 cells ahead and half a cell to the right.
        let pose = Pose { y: 0.25, ..start }.turned(TAU / 2.0);
        memory.fuse(pose, &Cells::new(12, 1));
        let around = memory.around(pose);
        let found: Vec<usize> = (0..144).filter(|at| around.values[*at] > 0.5).collect();
        assert_eq!(found, [8 * 12 + 5]);
    }

    #[test]
    fn a_view_beyond_the_edge_is_cut_off() {
        let mut memory = MapMemory::new(&config(), [0.0, 0.0], 1);
        let mut cells = Cells::new(12, 1);
        cells.values.fill(1.0);
        let far = Pose {
            x: 2.9,
            y: -2.9,
            heading: 0.0,
        };
        assert!(memory.holds(far.place()));
        assert!(!memory.holds([3.1, 0.0]) && !memory.holds([f64::NAN, 0.0]));
        memory.fuse(far, &cells);
        let around = memory.around(far);
        assert_eq!(around.at(0, 0)[0], 1.0);
        assert_eq!(around.at(11, 11)[0], 0.0);
    }
}
