//! Shortest ways to a place of a house, and an agent that goes there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::f64::consts::TAU;

use crate::sources::houses::plan::{CELL, House};
use crate::walks::Pose;

/// Directions that an agent may look into: it turns by 15 degrees.
pub(super) const HEADINGS: usize = 24;

/// Metres of a step ahead.
pub(super) const STEP: f64 = 0.25;

/// An agent that is nearer to a place than this has arrived.
const ARRIVED: f64 = 0.25;

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Ahead,
    Left,
    Right,
}

/// A pose that looks into one of the [`HEADINGS`].
pub(super) fn looking([x, y]: [f64; 2], heading: usize) -> Pose {
    Pose {
        x,
        y,
        heading: (heading % HEADINGS) as f64 / HEADINGS as f64 * TAU,
    }
}

fn heading_of(pose: Pose) -> usize {
    (pose.heading / TAU * HEADINGS as f64).round() as usize % HEADINGS
}

/// The pose after an action, and whether something stood in the way of a step, which is then not taken.
pub(super) fn after(house: &House, pose: Pose, action: Action) -> (Pose, bool) {
    let heading = heading_of(pose);
    match action {
        Action::Left => (looking(pose.place(), heading + 1), false),
        Action::Right => (looking(pose.place(), heading + HEADINGS - 1), false),
        Action::Ahead => {
            let to = pose.place_of([0.0, STEP]);
            if house.is_clear(pose.place(), to) {
                (looking(to, heading), false)
            } else {
                (pose, true)
            }
        }
    }
}

/// The way from each cell to a goal: any-angle shortest paths over open cells (Theta*; Nash, Daniel, Koenig and Felner 2007), from the goal outwards.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    goal: [f64; 2],
    /// Metres to the goal; infinite where it cannot be reached, or was not looked for.
    metres: Vec<f32>,
    /// The next corner on the way.
    next: Vec<u32>,
}

impl Ways {
    /// The ways to the middle of an open cell. With `from`, those from cells that are further away than this place are not looked for.
    pub(super) fn to(house: &House, goal: [i64; 2], from: Option<[f64; 2]>) -> Self {
        /// Metres around a place that an agent may reach by its next steps.
        const NEAR: f64 = 1.5;
        let columns = house.columns as i64;
        let cells = house.tiles.len();
        let mut ways = Self {
            goal: House::place_of(goal),
            metres: vec![f32::INFINITY; cells],
            next: vec![0; cells],
        };
        let start = (goal[0] * columns + goal[1]) as usize;
        let mut done = vec![false; cells];
        // The bits of numbers from 0 on are in the order of the numbers.
        let mut queue = BinaryHeap::from([Reverse((0u32, start))]);
        let mut most = f64::INFINITY;
        ways.metres[start] = 0.0;
        ways.next[start] = start as u32;
        while let Some(Reverse((_, at))) = queue.pop() {
            if std::mem::replace(&mut done[at], true) {
                continue;
            }
            let metres = f64::from(ways.metres[at]);
            if metres > most {
                break;
            }
            let corner = ways.next[at] as usize;
            let (row, column) = (at as i64 / columns, at as i64 % columns);
            let middle = House::place_of([row, column]);
            let arrives = |[x, y]: [f64; 2]| {
                (middle[0] - x).hypot(middle[1] - y) < 2.0 * CELL && house.is_clear([x, y], middle)
            };
            if most.is_infinite() && from.is_some_and(arrives) {
                most = metres + NEAR;
            }
            for (down, right) in AROUND {
                let (r, c) = (row + down, column + right);
                // A diagonal does not cut a corner.
                if !house.is_open(r, c)
                    || !house.is_open(row + down, column)
                    || !house.is_open(row, column + right)
                {
                    continue;
                }
                let to = (r * columns + c) as usize;
                if done[to] {
                    continue;
                }
                let from = if sees(house, corner, to) { corner } else { at };
                let own = ways.metres[from] + apart(house, from, to);
                if own < ways.metres[to] {
                    ways.metres[to] = own;
                    ways.next[to] = from as u32;
                    queue.push(Reverse((own.to_bits(), to)));
                }
            }
        }
        ways
    }

    /// The goal.
    pub(super) fn goal(&self) -> [f64; 2] {
        self.goal
    }

    /// The open cell over which the way from a place leads, and the metres from that place; `None` if none leads to the goal.
    fn over(&self, house: &House, place: [f64; 2]) -> Option<(usize, f64)> {
        let [row, column] = House::cell_of(place);
        let mut best: Option<(usize, f64)> = None;
        for (r, c) in
            (row - 2..=row + 2).flat_map(|r| (column - 2..=column + 2).map(move |c| (r, c)))
        {
            if !house.is_open(r, c) {
                continue;
            }
            let at = r as usize * house.columns + c as usize;
            let middle = House::place_of([r, c]);
            let metres =
                f64::from(self.metres[at]) + (middle[0] - place[0]).hypot(middle[1] - place[1]);
            let better = best.is_none_or(|(_, known)| metres < known);
            if metres.is_finite() && better && house.is_clear(place, middle) {
                best = Some((at, metres));
            }
        }
        best
    }

    /// Metres from a place to the goal, to within some centimetres; `None` if no way leads there.
    pub(super) fn metres(&self, house: &House, place: [f64; 2]) -> Option<f64> {
        self.over(house, place).map(|(_, metres)| metres)
    }

    /// The way from a place to the goal; `None` if there is none.
    pub(super) fn path(&self, house: &House, place: [f64; 2]) -> Option<Vec<[f64; 2]>> {
        let (mut at, _) = self.over(house, place)?;
        let middle = |at: usize| {
            let (row, column) = (at / house.columns, at % house.columns);
            House::place_of([row as i64, column as i64])
        };
        // Cells that the agent need not go over, since it can go straight to the next corner.
        while self.next[at] as usize != at && house.is_clear(place, middle(self.next[at] as usize))
        {
            at = self.next[at] as usize;
        }
        let mut path = vec![place, middle(at)];
        while self.next[at] as usize != at {
            at = self.next[at] as usize;
            path.push(middle(at));
        }
        path.dedup();
        Some(path)
    }

    /// What an agent does to come nearer to the goal; `None` if it has arrived, or cannot come nearer.
    pub(super) fn action(&self, house: &House, pose: Pose) -> Option<Action> {
        /// A direction that leads this share as far as the best one is good enough to go on.
        const GOOD: f64 = 0.9;
        /// Metres that a step has to bring at least.
        const LEAST: f64 = 0.02;
        let here = self.metres(house, pose.place())?;
        if here <= ARRIVED {
            return None;
        }
        let own = heading_of(pose);
        let turns = |heading: usize| {
            let left = (heading + HEADINGS - own) % HEADINGS;
            left.min(HEADINGS - left)
        };
        let gain = |heading: usize| {
            let to = looking(pose.place(), heading).place_of([0.0, STEP]);
            let clear = house.is_clear(pose.place(), to);
            let there = clear.then(|| self.metres(house, to)).flatten();
            there.map_or(f64::NEG_INFINITY, |there| here - there)
        };
        let gains: Vec<f64> = (0..HEADINGS).map(gain).collect();
        let best = (0..HEADINGS).max_by(|a, b| {
            let nearer = gains[*a].total_cmp(&gains[*b]);
            nearer.then(turns(*b).cmp(&turns(*a))).then(b.cmp(a))
        })?;
        if gains[best] < LEAST {
            return None;
        }
        if gains[own] >= GOOD * gains[best] {
            return Some(Action::Ahead);
        }
        let left = (best + HEADINGS - own) % HEADINGS;
        Some(if left <= HEADINGS / 2 {
            Action::Left
        } else {
            Action::Right
        })
    }
}

/// The cells around a cell.
const AROUND: [(i64, i64); 8] = [
    (-1, 0),
    (0, -1),
    (0, 1),
    (1, 0),
    (-1, -1),
    (-1, 1),
    (1, -1),
    (1, 1),
];

fn apart(house: &House, a: usize, b: usize) -> f32 {
    let by = |at: usize| ((at / house.columns) as f64, (at % house.columns) as f64);
    let (a, b) = (by(a), by(b));
    ((a.0 - b.0).hypot(a.1 - b.1) * CELL) as f32
}

/// Whether all cells on the line between two cells are open.
fn sees(house: &House, a: usize, b: usize) -> bool {
    let by = |at: usize| ((at / house.columns) as f64, (at % house.columns) as f64);
    let (a, b) = (by(a), by(b));
    let steps = ((a.0 - b.0).abs().max((a.1 - b.1).abs()) * 2.0) as usize;
    (1..steps).all(|step| {
        let share = step as f64 / steps as f64;
        let row = (a.0 + share * (b.0 - a.0)).round();
        let column = (a.1 + share * (b.1 - a.1)).round();
        house.is_open(row as i64, column as i64)
    })
}

/// The poses of an agent that goes to the goal, the first included; at most `most` steps.
pub(super) fn walk(house: &House, ways: &Ways, start: Pose, most: usize) -> Vec<Pose> {
    let mut poses = vec![start];
    let mut pose = start;
    while poses.len() <= most
        && let Some(action) = ways.action(house, pose)
    {
        (pose, _) = after(house, pose, action);
        poses.push(pose);
    }
    poses
}
