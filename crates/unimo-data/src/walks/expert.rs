//! What imitation learns of a decision: waypoint, progress, distances to the path, classes of cells.

use crate::walks::config::WalkConfig;
use crate::walks::pose::Pose;

/// The class of each cell of the ground of a house, seen from above.
#[derive(Debug, Clone, PartialEq)]
pub struct Ground {
    /// Rows, the first of them furthest ahead.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[rows, columns]`: the class of each cell; 0 is void.
    pub classes: Vec<u8>,
    /// Side of a cell in metres.
    pub cell: f64,
    /// The place of the corner of cell 0, 0 that is furthest ahead and to the left.
    pub corner: [f64; 2],
}

impl Ground {
    /// The class at a place; 0 beyond the edge.
    pub fn class(&self, [x, y]: [f64; 2]) -> u8 {
        let column = ((x - self.corner[0]) / self.cell).floor();
        let row = ((self.corner[1] - y) / self.cell).floor();
        let inside = |at: f64, count: usize| at >= 0.0 && at < count as f64;
        if !inside(row, self.rows) || !inside(column, self.columns) {
            return 0;
        }
        self.classes[row as usize * self.columns + column as usize]
    }
}

/// The length of a path in metres.
pub fn length(path: &[[f64; 2]]) -> f64 {
    path.windows(2).map(|pair| apart(pair[0], pair[1])).sum()
}

/// The points of a path at most so many metres apart, its corners among them.
pub fn spaced_out(path: &[[f64; 2]], metres: f64) -> Vec<[f64; 2]> {
    let mut points: Vec<[f64; 2]> = path.first().copied().into_iter().collect();
    for pair in path.windows(2) {
        let parts = (length(pair) / metres).ceil().max(1.0);
        for part in 1..=parts as usize {
            points.push(between(pair[0], pair[1], part as f64 / parts));
        }
    }
    points
}

fn apart(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// The share of a segment at which it is nearest to a place.
fn share(place: [f64; 2], from: [f64; 2], to: [f64; 2]) -> f64 {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let square = dx * dx + dy * dy;
    if square == 0.0 {
        return 0.0;
    }
    (((place[0] - from[0]) * dx + (place[1] - from[1]) * dy) / square).clamp(0.0, 1.0)
}

fn between(from: [f64; 2], to: [f64; 2], share: f64) -> [f64; 2] {
    [
        from[0] + share * (to[0] - from[0]),
        from[1] + share * (to[1] - from[1]),
    ]
}

/// The rest of a path from the point nearest to a place on, with that place before it: the path of an agent that has left it. Empty if the path is.
pub fn nearest_along(path: &[[f64; 2]], place: [f64; 2]) -> Vec<[f64; 2]> {
    let Some(last) = path.last() else {
        return Vec::new();
    };
    let segments = path.windows(2).enumerate().map(|(at, pair)| {
        let point = between(pair[0], pair[1], share(place, pair[0], pair[1]));
        (at, point)
    });
    let nearest = segments.min_by(|a, b| apart(a.1, place).total_cmp(&apart(b.1, place)));
    let mut rest = vec![place];
    let Some((at, point)) = nearest else {
        rest.push(*last);
        return rest;
    };
    rest.push(point);
    rest.extend(&path[at + 1..]);
    rest.dedup();
    rest
}

/// Where a path that begins at an agent first leaves the circle of `reach` metres around it: to its right and ahead of it, in shares of half the map.
/// The path's end, if it stays inside.
pub(super) fn waypoint(path: &[[f64; 2]], pose: Pose, config: &WalkConfig) -> [f32; 2] {
    let reach = config.reach * config.cell;
    let centre = pose.place();
    let mut target = path.last().copied().unwrap_or(centre);
    for pair in path.windows(2) {
        if apart(pair[1], centre) < reach {
            continue;
        }
        // The greater root of |from + s (to - from) - centre| = reach.
        let (from, to) = (pair[0], pair[1]);
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let (fx, fy) = (from[0] - centre[0], from[1] - centre[1]);
        let (a, b) = (dx * dx + dy * dy, fx * dx + fy * dy);
        let c = fx * fx + fy * fy - reach * reach;
        let root = (b * b - a * c).max(0.0).sqrt();
        let share = if a > 0.0 { (root - b) / a } else { 0.0 };
        target = between(from, to, share.clamp(0.0, 1.0));
        break;
    }
    let half = config.half();
    pose.sees(target).map(|metres| (metres / half) as f32)
}

/// The distance of each cell around an agent to a path, in cells.
///
/// # Shapes
///
/// - output: `[M, M]`
pub(super) fn distances(path: &[[f64; 2]], pose: Pose, config: &WalkConfig) -> Vec<f32> {
    let middle = (config.cells as f64 - 1.0) / 2.0;
    let seen = path.iter().map(|place| {
        let [right, ahead] = pose.sees(*place);
        [right / config.cell + middle, middle - ahead / config.cell]
    });
    let seen: Vec<[f64; 2]> = seen.collect();
    let mut all = Vec::with_capacity(config.cells * config.cells);
    for row in 0..config.cells {
        for column in 0..config.cells {
            let cell = [column as f64, row as f64];
            let to_segment = |pair: &[[f64; 2]]| {
                apart(
                    cell,
                    between(pair[0], pair[1], share(cell, pair[0], pair[1])),
                )
            };
            let alone = seen.first().map_or(0.0, |only| apart(cell, *only));
            let nearest = seen.windows(2).map(to_segment).reduce(f64::min);
            all.push(nearest.unwrap_or(alone) as f32);
        }
    }
    all
}

/// The class of each cell around an agent, by its middle.
///
/// # Shapes
///
/// - output: `[M, M]`
pub(super) fn classes(ground: &Ground, pose: Pose, config: &WalkConfig) -> Vec<u8> {
    let middle = (config.cells as f64 - 1.0) / 2.0;
    let mut all = Vec::with_capacity(config.cells * config.cells);
    for row in 0..config.cells {
        for column in 0..config.cells {
            let right = (column as f64 - middle) * config.cell;
            let ahead = (middle - row as f64) * config.cell;
            all.push(ground.class(pose.place_of([right, ahead])));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> WalkConfig {
        WalkConfig {
            cells: 10,
            cell: 0.5,
            reach: 4.0,
            ..WalkConfig::default()
        }
    }

    #[test]
    fn a_waypoint_is_where_the_path_first_leaves_the_circle() {
        let pose = Pose::default();
        // 2 m ahead is 4 cells of 0.5 m; half of the map is 2.5 m.
        let ahead = waypoint(&[[0.0, 0.0], [0.0, 9.0]], pose, &config());
        assert_eq!(ahead, [0.0, 0.8]);
        // It comes back, which is not seen.
        let back = [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [0.0, 0.1]];
        assert_eq!(waypoint(&back, pose, &config()), [0.8, 0.0]);
        // The goal is nearer.
        let near = waypoint(&[[0.0, 0.0], [-1.0, 0.5]], pose, &config());
        assert_eq!(near, [-0.4, 0.2]);
        assert_eq!(waypoint(&[], pose, &config()), [0.0, 0.0]);
        // An agent that looks to its left has the path to its right.
        let left = Pose::default().turned(std::f64::consts::FRAC_PI_2);
        let [right, forward] = waypoint(&[[0.0, 0.0], [0.0, 9.0]], left, &config());
        assert!((right - 0.8).abs() < 1e-6 && forward.abs() < 1e-6);
    }

    #[test]
    fn distances_are_to_the_nearest_point_of_the_path() {
        // Straight ahead from the middle: columns 4.5, rows from 4.5 up to 0.5.
        let all = distances(&[[0.0, 0.0], [0.0, 2.0]], Pose::default(), &config());
        assert!((all[4 * 10 + 4] - 0.5).abs() < 1e-6);
        assert!((all[2 * 10 + 9] - 4.5).abs() < 1e-6);
        assert!((all[9 * 10 + 4] - (0.5f32 * 0.5 + 4.5 * 4.5).sqrt()).abs() < 1e-5);
        // A path of one point.
        let one = distances(&[[0.0, 0.0]], Pose::default(), &config());
        assert!((one[4 * 10 + 4] - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn the_rest_of_a_path_begins_at_its_nearest_point() {
        let path = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]];
        let rest = nearest_along(&path, [1.0, 1.0]);
        assert_eq!(rest, [[1.0, 1.0], [1.0, 0.0], [4.0, 0.0], [4.0, 4.0]]);
        assert_eq!(length(&rest), 8.0);
        assert_eq!(nearest_along(&path, [4.0, 4.0]), [[4.0, 4.0]]);
        assert_eq!(
            nearest_along(&path[..1], [1.0, 0.0]),
            [[1.0, 0.0], [0.0, 0.0]]
        );
        assert!(nearest_along(&[], [0.0, 0.0]).is_empty());
    }

    #[test]
    fn points_of_a_path_are_near_each_other() {
        let points = spaced_out(&[[0.0, 0.0], [1.0, 0.0], [1.0, 0.3]], 0.4);
        let near = |a: &[f64; 2]| (a[0] * 1000.0).round() / 1000.0;
        let xs: Vec<f64> = points.iter().map(near).collect();
        assert_eq!(xs, [0.0, 0.333, 0.667, 1.0, 1.0]);
        assert_eq!(spaced_out(&[[2.0, 1.0]], 0.1), [[2.0, 1.0]]);
        assert!(spaced_out(&[], 0.1).is_empty());
    }

    #[test]
    fn classes_are_those_of_the_ground_below() {
        let ground = Ground {
            rows: 2,
            columns: 2,
            classes: vec![1, 2, 3, 4],
            cell: 1.0,
            corner: [-1.0, 1.0],
        };
        let all = classes(&ground, Pose::default(), &config());
        let at = |row: usize, column: usize| all[row * 10 + column];
        assert_eq!([at(4, 4), at(4, 5), at(5, 4), at(5, 5)], [1, 2, 3, 4]);
        assert_eq!([at(3, 4), at(2, 4), at(4, 2)], [1, 0, 0]);
        // Looking to the left, what was to the left is ahead.
        let left = Pose::default().turned(std::f64::consts::FRAC_PI_2);
        let all = classes(&ground, left, &config());
        let at = |row: usize, column: usize| all[row * 10 + column];
        assert_eq!([at(4, 4), at(4, 5), at(5, 4), at(5, 5)], [3, 1, 4, 2]);
    }
}
