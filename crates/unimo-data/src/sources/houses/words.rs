//! Instructions: what a path leads through and past, in words.

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::sources::houses::plan::{COLOURS, House, Tile};
use crate::walks::spaced_out;

/// Metres between two looks around on the path.
const LOOK: f64 = 0.1;

/// A thing that is further away from the path, in metres, is not passed.
const BESIDE: f64 = 1.25;

/// What is met on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// A door, by its number.
    Door(usize),
    /// A thing, by its number, and whether it is to the left.
    Thing(usize, bool),
}

/// What a path meets, in order: each door that it goes through, and in each room the thing that it passes nearest, but not `goal`.
pub(super) fn met(house: &House, path: &[[f64; 2]], goal: usize) -> Vec<Met> {
    let points = spaced_out(path, LOOK);
    let mut all = Vec::new();
    let mut door = None;
    // The room, and the nearest thing in it: its distance, number and side.
    let mut room: Option<usize> = None;
    let mut nearest: Option<(f64, usize, bool)> = None;
    for (at, point) in points.iter().enumerate() {
        let [row, column] = House::cell_of(*point);
        match house.tile(row, column) {
            Tile::Door(number) => door = Some(usize::from(number)),
            Tile::Floor(number) => {
                let number = usize::from(number);
                if room.is_some_and(|room| room != number) {
                    all.extend(
                        nearest
                            .take()
                            .map(|(_, thing, left)| Met::Thing(thing, left)),
                    );
                    all.extend(door.map(Met::Door));
                }
                room = Some(number);
                door = None;
                let next = points.get(at + 1).unwrap_or(point);
                for (thing, own) in house.things.iter().enumerate() {
                    let away = own.area.distance(*point);
                    let known = nearest.map_or(BESIDE, |(known, ..)| known);
                    if thing != goal && own.room == number && away < known {
                        let [x, y] = own.area.middle();
                        let (dx, dy) = (next[0] - point[0], next[1] - point[1]);
                        let left = dx * (y - point[1]) - dy * (x - point[0]) > 0.0;
                        nearest = Some((away, thing, left));
                    }
                }
            }
            Tile::Wall | Tile::Thing(_) => {}
        }
    }
    all.extend(nearest.map(|(_, thing, left)| Met::Thing(thing, left)));
    all
}

/// The instruction of a path that ends at a thing.
pub(super) fn instruction(
    house: &House,
    met: &[Met],
    goal: usize,
    random: &mut ChaCha8Rng,
) -> String {
    let mut clauses = Vec::new();
    let mut pick = |of: &[&'static str]| of.choose(random).copied().unwrap_or_default();
    let first_door = met.iter().position(|met| matches!(met, Met::Door(_)));
    for (at, met) in met.iter().enumerate() {
        clauses.push(match met {
            Met::Door(door) => {
                let verb = if first_door == Some(at) {
                    pick(&["leave the room by", "go out through", "take"])
                } else {
                    pick(&["go through", "walk through", "take"])
                };
                format!("{verb} the {} door", COLOURS[house.doors[*door].colour].0)
            }
            Met::Thing(thing, left) => {
                let name = house.things[*thing].name();
                let side = if *left { "left" } else { "right" };
                match pick(&["pass", "walk past", "go past"]) {
                    "go past" => format!("go past the {name} on your {side}"),
                    verb => format!("{verb} the {name}"),
                }
            }
        });
    }
    let stop = pick(&["stop at", "stop next to", "wait at"]);
    clauses.push(format!("{stop} the {}", house.things[goal].name()));
    clauses.join(", ")
}
