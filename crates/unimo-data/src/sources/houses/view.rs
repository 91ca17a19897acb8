//! What an agent sees in a house: rays, one column of pixels after the other.

use crate::sources::houses::plan::{CELL, COLOURS, House, KINDS, TINTS, Tile};
use crate::walks::{Camera, Pose, View};

/// Metres from the floor to the ceiling.
const CEILING: f64 = 2.5;

/// Metres from the floor to the lintel of a door.
const LINTEL: f64 = 2.0;

const WALL: [u8; 3] = [214, 208, 196];
const CEILING_COLOUR: [u8; 3] = [238, 238, 238];

/// A piece of a ray over one cell.
struct Piece {
    tile: Tile,
    /// Metres ahead, where it begins and ends.
    from: f64,
    to: f64,
    /// Whether the ray comes into the cell through a side that looks left or right in the plan.
    sideways: bool,
}

/// What an agent sees.
pub(super) fn seen(house: &House, pose: Pose, camera: &Camera) -> View {
    let pixels = camera.height * camera.width;
    let mut view = View {
        rgb: vec![0; pixels * 3],
        depth: vec![0.0; pixels],
    };
    let mut pieces = Vec::new();
    for column in 0..camera.width {
        let [right, _] = camera.slopes(0, column);
        pieces.clear();
        cast(house, pose, right, &mut pieces);
        for row in 0..camera.height {
            let [_, up] = camera.slopes(row, column);
            let (ahead, colour) = hit(house, (pose, camera.lift), [right, up], &pieces);
            let at = row * camera.width + column;
            view.rgb[at * 3..at * 3 + 3].copy_from_slice(&colour);
            if ahead <= camera.range {
                view.depth[at] = ahead as f32;
            }
        }
    }
    view
}

/// The cells under a ray that goes `right` metres to the right for each metre ahead, up to the first wall.
fn cast(house: &House, pose: Pose, right: f64, pieces: &mut Vec<Piece>) {
    let [to_x, to_y] = pose.place_of([right, 1.0]);
    // In cells: columns to the right, rows down.
    let (x, y) = (pose.x / CELL, -pose.y / CELL);
    let (dx, dy) = ((to_x - pose.x) / CELL, -(to_y - pose.y) / CELL);
    let (mut column, mut row) = (x.floor(), y.floor());
    let next = |at: f64, cell: f64, by: f64| {
        if by == 0.0 {
            return f64::INFINITY;
        }
        let edge = if by > 0.0 { cell + 1.0 } else { cell };
        (edge - at) / by
    };
    let (mut from, mut sideways) = (0.0, false);
    loop {
        let tile = house.tile(row as i64, column as i64);
        let (across, down) = (next(x, column, dx), next(y, row, dy));
        let to = across.min(down);
        pieces.push(Piece {
            tile,
            from,
            to,
            sideways,
        });
        if tile == Tile::Wall {
            return;
        }
        sideways = across < down;
        if sideways {
            column += dx.signum();
        } else {
            row += dy.signum();
        }
        from = to;
    }
}

/// How many metres ahead a ray hits something, and its colour there.
fn hit(
    house: &House,
    (pose, lift): (Pose, f64),
    [right, up]: [f64; 2],
    pieces: &[Piece],
) -> (f64, [u8; 3]) {
    let place = |ahead: f64| pose.place_of([right * ahead, ahead]);
    for piece in pieces {
        let (high, low) = (lift + up * piece.from, lift + up * piece.to);
        let tall = match piece.tile {
            Tile::Wall => CEILING,
            Tile::Floor(_) | Tile::Door(_) => 0.0,
            Tile::Thing(at) => KINDS[house.things[usize::from(at)].kind].height,
        };
        if high < tall {
            let [x, y] = place(piece.from);
            let along = if piece.sideways { y } else { x };
            return (
                piece.from,
                side(house, piece.tile, along, high, piece.sideways),
            );
        }
        if let Tile::Door(at) = piece.tile {
            let colour = COLOURS[house.doors[usize::from(at)].colour].1;
            if high >= LINTEL {
                return (piece.from, colour);
            }
            if low >= LINTEL {
                return ((LINTEL - lift) / up, shaded(colour, 0.8));
            }
        }
        if up < 0.0 && low <= tall {
            let ahead = (tall - lift) / up;
            return (ahead, top(house, piece.tile, place(ahead)));
        }
        if up > 0.0 && low >= CEILING {
            return ((CEILING - lift) / up, CEILING_COLOUR);
        }
    }
    // Numbers at the very edge of the last wall.
    let ahead = pieces.last().map_or(0.0, |piece| piece.from);
    (ahead, WALL)
}

fn shaded(colour: [u8; 3], by: f64) -> [u8; 3] {
    colour.map(|level| (f64::from(level) * by) as u8)
}

/// Whether a place is in the odd parts of a sequence of equal parts.
fn odd(at: f64, part: f64) -> bool {
    (at / part).floor().rem_euclid(2.0) == 1.0
}

/// The colour of the side of a wall or a thing, so many metres along it and above the floor. Each kind of thing has a pattern.
fn side(house: &House, tile: Tile, along: f64, high: f64, sideways: bool) -> [u8; 3] {
    let light = if sideways { 0.86 } else { 1.0 };
    match tile {
        Tile::Thing(at) => {
            let thing = house.things[usize::from(at)];
            let dark = pattern(thing.kind, along, high);
            let by = if dark { 0.62 } else { 1.0 };
            shaded(COLOURS[thing.colour].1, light * by)
        }
        // A wall has a skirting board.
        _ if high < 0.12 => shaded(WALL, light * 0.55),
        _ => shaded(WALL, light),
    }
}

/// Whether a kind of thing is dark there.
fn pattern(kind: usize, across: f64, down: f64) -> bool {
    match kind % 6 {
        0 => odd(down, 0.15),
        1 => false,
        2 => odd(across, 0.25),
        3 => odd(across, 0.25) != odd(down, 0.25),
        4 => odd(across, 0.1),
        _ => odd(across, 0.25) && odd(down, 0.125),
    }
}

/// The colour of a floor, a door's sill or the top of a thing at a place.
fn top(house: &House, tile: Tile, [x, y]: [f64; 2]) -> [u8; 3] {
    match tile {
        Tile::Thing(at) => {
            let thing = house.things[usize::from(at)];
            let by = if pattern(thing.kind, x, y) { 0.7 } else { 0.94 };
            shaded(COLOURS[thing.colour].1, by)
        }
        Tile::Door(at) => shaded(COLOURS[house.doors[usize::from(at)].colour].1, 0.9),
        Tile::Floor(room) => {
            let room = house.rooms[usize::from(room)];
            let dark = match room.pattern {
                0 => odd(x, 0.5) != odd(y, 0.5),
                1 => odd(x, 0.25),
                2 => odd(y, 0.25),
                _ => false,
            };
            shaded(TINTS[room.tint], if dark { 0.82 } else { 1.0 })
        }
        Tile::Wall => WALL,
    }
}
