//! The plan of a house: rooms, doors and things on a grid.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::order::draws::{Stream, hash};
use crate::walks::Ground;

/// Side of a cell of the grid in metres.
pub(super) const CELL: f64 = 0.25;

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Cells along its longer and its shorter side.
    pub(super) sides: [usize; 2],
    /// Metres.
    pub(super) height: f64,
}

const fn kind(name: &'static str, sides: [usize; 2], height: f64) -> Kind {
    Kind {
        name,
        sides,
        height,
    }
}

/// The classes of things.
pub(super) const KINDS: [Kind; 12] = [
    kind("chair", [2, 2], 0.9),
    kind("table", [4, 3], 0.75),
    kind("sofa", [6, 3], 0.8),
    kind("bed", [7, 5], 0.5),
    kind("lamp", [1, 1], 1.7),
    kind("plant", [2, 2], 1.3),
    kind("shelf", [5, 1], 1.9),
    kind("chest", [3, 2], 0.45),
    kind("stove", [3, 3], 0.95),
    kind("bath", [6, 3], 0.6),
    kind("piano", [5, 2], 1.25),
    kind("desk", [5, 2], 0.75),
];

/// The classes of cells before those of [`KINDS`]: nothing, ground, walls and doors.
const GROUND_CLASSES: [&str; 4] = ["void", "floor", "wall", "door"];

/// The number of classes of cells.
pub(super) const CLASS_COUNT: usize = GROUND_CLASSES.len() + KINDS.len();

/// The names of the classes of cells.
pub(super) fn classes() -> Vec<&'static str> {
    let things = KINDS.iter().map(|kind| kind.name);
    GROUND_CLASSES.into_iter().chain(things).collect()
}

/// The colours of things and doors.
pub(super) const COLOURS: [(&str, [u8; 3]); 8] = [
    ("red", [210, 40, 40]),
    ("green", [40, 160, 60]),
    ("blue", [40, 80, 210]),
    ("yellow", [235, 205, 40]),
    ("purple", [140, 50, 170]),
    ("orange", [240, 130, 30]),
    ("white", [240, 240, 240]),
    ("black", [30, 30, 30]),
];

/// Patterns of floors.
pub(super) const FLOORS: u8 = 4;

/// Tints of floors.
pub(super) const TINTS: [[u8; 3]; 6] = [
    [176, 150, 118],
    [150, 150, 150],
    [128, 104, 82],
    [160, 172, 160],
    [186, 176, 152],
    [140, 146, 164],
];

/// What stands on a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    Wall,
    /// The floor of a room.
    Floor(u8),
    /// A door, by its number.
    Door(u8),
    /// A thing, by its number.
    Thing(u8),
}

/// A rectangle of cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Area {
    /// Whether another one is less than `gap` cells away.
    fn is_near(&self, other: &Self, gap: usize) -> bool {
        self.row < other.row + other.rows + gap
            && other.row < self.row + self.rows + gap
            && self.column < other.column + other.columns + gap
            && other.column < self.column + self.columns + gap
    }

    fn cells(&self) -> impl Iterator<Item = [usize; 2]> {
        let (row, rows, column, columns) = (self.row, self.rows, self.column, self.columns);
        (row..row + rows).flat_map(move |row| (column..column + columns).map(move |c| [row, c]))
    }

    /// The place of its middle in metres.
    pub(super) fn middle(&self) -> [f64; 2] {
        [
            (self.column as f64 + self.columns as f64 / 2.0) * CELL,
            -(self.row as f64 + self.rows as f64 / 2.0) * CELL,
        ]
    }

    /// Metres from a place to its nearest point.
    pub(super) fn distance(&self, [x, y]: [f64; 2]) -> f64 {
        let outside = |at: f64, from: usize, count: usize| {
            let (from, to) = (from as f64 * CELL, (from + count) as f64 * CELL);
            (from - at).max(at - to).max(0.0)
        };
        outside(x, self.column, self.columns).hypot(outside(-y, self.row, self.rows))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    pub(super) area: Area,
    pub(super) pattern: u8,
    pub(super) tint: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Door {
    pub(super) area: Area,
    pub(super) rooms: [usize; 2],
    pub(super) colour: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Thing {
    pub(super) kind: usize,
    pub(super) colour: usize,
    pub(super) area: Area,
    pub(super) room: usize,
}

impl Thing {
    /// Its colour and its kind.
    pub(super) fn name(&self) -> String {
        format!("{} {}", COLOURS[self.colour].0, KINDS[self.kind].name)
    }
}

/// A house.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct House {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) tiles: Vec<Tile>,
    pub(super) rooms: Vec<Room>,
    pub(super) doors: Vec<Door>,
    pub(super) things: Vec<Thing>,
    /// Cells that an agent may plan to stand on: free, with free cells around them.
    pub(super) open: Vec<bool>,
}

/// Cells of the shorter side of a room at least.
const NARROWEST: usize = 9;

/// Cells of a door along its wall: two remain between its posts where an agent keeps a cell away.
const DOOR: usize = 4;

/// Cells between things, and between a thing and the wall that it does not touch: an agent that keeps a cell away passes.
const PASSAGE: usize = 3;

/// Sizes of houses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Fewest and most cells on a side.
    pub(super) sides: [usize; 2],
    /// Fewest and most rooms.
    pub(super) rooms: [usize; 2],
}

impl House {
    /// A house. A small one may have fewer rooms than are drawn for it.
    pub(super) fn draw(sizes: Sizes, random: &mut ChaCha8Rng) -> Self {
        let [least, most] = sizes.sides;
        let (rows, columns) = (
            random.random_range(least..=most),
            random.random_range(least..=most),
        );
        let areas = areas(rows, columns, sizes.rooms, random);
        let rooms: Vec<Room> = areas
            .into_iter()
            .map(|area| Room {
                area,
                pattern: random.random_range(0..FLOORS),
                tint: random.random_range(0..TINTS.len()),
            })
            .collect();
        let doors = doors(&rooms, random);
        let mut house = Self {
            rows,
            columns,
            tiles: vec![Tile::Wall; rows * columns],
            rooms,
            doors,
            things: Vec::new(),
            open: Vec::new(),
        };
        house.things = house.furnished(random);
        house.lay();
        house
    }

    /// Puts rooms, doors and things on the grid.
    fn lay(&mut self) {
        let mut tiles = vec![Tile::Wall; self.rows * self.columns];
        let mut fill = |area: &Area, tile: Tile| {
            area.cells()
                .for_each(|[row, column]| tiles[row * self.columns + column] = tile);
        };
        for (at, room) in self.rooms.iter().enumerate() {
            fill(&room.area, Tile::Floor(at as u8));
        }
        for (at, door) in self.doors.iter().enumerate() {
            fill(&door.area, Tile::Door(at as u8));
        }
        for (at, thing) in self.things.iter().enumerate() {
            fill(&thing.area, Tile::Thing(at as u8));
        }
        self.tiles = tiles;
        let open = (0..self.rows * self.columns).map(|at| {
            let (row, column) = (at / self.columns, at % self.columns);
            let mut around = (row.saturating_sub(1)..=row + 1)
                .flat_map(|r| (column.saturating_sub(1)..=column + 1).map(move |c| (r, c)));
            around.all(|(row, column)| self.is_free(row as i64, column as i64))
        });
        self.open = open.collect();
    }

    /// Things for each room, of which no two are of one kind and colour.
    fn furnished(&self, random: &mut ChaCha8Rng) -> Vec<Thing> {
        let mut things: Vec<Thing> = Vec::new();
        for (room, Room { area, .. }) in self.rooms.iter().enumerate() {
            let wanted = random.random_range(2..=4);
            let (mut placed, mut tries) = (0, 0);
            while placed < wanted && tries < 40 {
                tries += 1;
                let kind = random.random_range(0..KINDS.len());
                let colour = random.random_range(0..COLOURS.len());
                let turned = random.random_bool(0.5);
                let [long, short] = KINDS[kind].sides;
                let (rows, columns) = if turned { (long, short) } else { (short, long) };
                if rows > area.rows || columns > area.columns {
                    continue;
                }
                let own = Area {
                    row: area.row + random.random_range(0..=area.rows - rows),
                    column: area.column + random.random_range(0..=area.columns - columns),
                    rows,
                    columns,
                };
                let sides = [
                    own.row - area.row,
                    own.column - area.column,
                    area.row + area.rows - own.row - rows,
                    area.column + area.columns - own.column - columns,
                ];
                let fits = sides.iter().all(|gap| *gap == 0 || *gap >= PASSAGE)
                    && !things.iter().any(|thing| {
                        thing.kind == kind && thing.colour == colour
                            || thing.area.is_near(&own, PASSAGE)
                    })
                    && !self.doors.iter().any(|door| door.area.is_near(&own, DOOR));
                if fits {
                    placed += 1;
                    things.push(Thing {
                        kind,
                        colour,
                        area: own,
                        room,
                    });
                }
            }
        }
        things
    }

    /// The tile of a cell; a wall beyond the edge.
    pub(super) fn tile(&self, row: i64, column: i64) -> Tile {
        let inside = |at: i64, count: usize| at >= 0 && at < count as i64;
        if inside(row, self.rows) && inside(column, self.columns) {
            self.tiles[row as usize * self.columns + column as usize]
        } else {
            Tile::Wall
        }
    }

    /// Whether nothing stands on a cell.
    pub(super) fn is_free(&self, row: i64, column: i64) -> bool {
        matches!(self.tile(row, column), Tile::Floor(_) | Tile::Door(_))
    }

    /// Whether an agent may plan to stand on a cell.
    pub(super) fn is_open(&self, row: i64, column: i64) -> bool {
        let inside = |at: i64, count: usize| at >= 0 && at < count as i64;
        inside(row, self.rows)
            && inside(column, self.columns)
            && self.open[row as usize * self.columns + column as usize]
    }

    /// The cell of a place.
    pub(super) fn cell_of([x, y]: [f64; 2]) -> [i64; 2] {
        [(-y / CELL).floor() as i64, (x / CELL).floor() as i64]
    }

    /// The place of the middle of a cell.
    pub(super) fn place_of([row, column]: [i64; 2]) -> [f64; 2] {
        [(column as f64 + 0.5) * CELL, -(row as f64 + 0.5) * CELL]
    }

    /// Whether an agent can go straight from one place to another without touching anything.
    pub(super) fn is_clear(&self, from: [f64; 2], to: [f64; 2]) -> bool {
        let steps = ((from[0] - to[0]).hypot(from[1] - to[1]) / (CELL / 3.0)).ceil() as usize;
        (0..=steps).all(|step| {
            let share = step as f64 / steps.max(1) as f64;
            let [row, column] = Self::cell_of([
                from[0] + share * (to[0] - from[0]),
                from[1] + share * (to[1] - from[1]),
            ]);
            self.is_free(row, column)
        })
    }

    /// The class of each cell.
    pub(super) fn ground(&self) -> Ground {
        let class = |tile: &Tile| match tile {
            Tile::Floor(_) => 1,
            Tile::Wall => 2,
            Tile::Door(_) => 3,
            Tile::Thing(at) => {
                GROUND_CLASSES.len() as u8 + self.things[usize::from(*at)].kind as u8
            }
        };
        Ground {
            rows: self.rows,
            columns: self.columns,
            classes: self.tiles.iter().map(class).collect(),
            cell: CELL,
            corner: [0.0, 0.0],
        }
    }

    /// Identifies the house: two that look alike have one key.
    pub(super) fn key(&self) -> u64 {
        let area = |area: &Area| [area.row, area.column, area.rows, area.columns];
        let mut parts = vec![self.rows, self.columns];
        for room in &self.rooms {
            parts.extend(area(&room.area));
            parts.extend([usize::from(room.pattern), room.tint]);
        }
        for door in &self.doors {
            parts.extend(area(&door.area));
            parts.push(door.colour);
        }
        for thing in &self.things {
            parts.extend(area(&thing.area));
            parts.extend([thing.kind, thing.colour]);
        }
        let parts: Vec<u64> = parts.into_iter().map(|part| part as u64).collect();
        hash(Stream::House, &parts)
    }
}

/// The rooms of a house: its ground, cut by walls of one cell.
fn areas(
    rows: usize,
    columns: usize,
    [least, most]: [usize; 2],
    random: &mut ChaCha8Rng,
) -> Vec<Area> {
    let wanted = random.random_range(least..=most);
    let mut areas = vec![Area {
        row: 1,
        column: 1,
        rows: rows - 2,
        columns: columns - 2,
    }];
    while areas.len() < wanted {
        let long = |area: &Area| area.rows.max(area.columns) > 2 * NARROWEST;
        let widest = (0..areas.len())
            .filter(|at| long(&areas[*at]))
            .max_by_key(|at| areas[*at].rows * areas[*at].columns);
        let Some(widest) = widest else { break };
        let area = areas.swap_remove(widest);
        let across = area.rows.max(area.columns);
        // The wall itself takes a cell.
        let first = random.random_range(NARROWEST..=across - NARROWEST - 1);
        let rest = across - first - 1;
        if area.rows >= area.columns {
            areas.push(Area {
                rows: first,
                ..area
            });
            areas.push(Area {
                row: area.row + first + 1,
                rows: rest,
                ..area
            });
        } else {
            areas.push(Area {
                columns: first,
                ..area
            });
            areas.push(Area {
                column: area.column + first + 1,
                columns: rest,
                ..area
            });
        }
    }
    areas
}

/// Doors that connect all rooms, and some more. Those of a room have different colours, as far as there are as many.
fn doors(rooms: &[Room], random: &mut ChaCha8Rng) -> Vec<Door> {
    let mut walls: Vec<([usize; 2], Area)> = Vec::new();
    for (a, first) in rooms.iter().enumerate() {
        for (b, second) in rooms.iter().enumerate() {
            walls.extend(wall(&first.area, &second.area).map(|area| ([a, b], area)));
        }
    }
    walls.shuffle(random);
    let mut group: Vec<usize> = (0..rooms.len()).collect();
    let mut doors: Vec<Door> = Vec::new();
    for ([a, b], wall) in walls {
        let more = random.random_bool(0.3);
        let at = random.random_range(0..=wall.rows.max(wall.columns) - DOOR);
        if group[a] == group[b] && !more {
            continue;
        }
        let (from, to) = (group[a], group[b]);
        group
            .iter_mut()
            .filter(|own| **own == from)
            .for_each(|own| *own = to);
        let area = if wall.rows > 1 {
            Area {
                row: wall.row + at,
                rows: DOOR,
                ..wall
            }
        } else {
            Area {
                column: wall.column + at,
                columns: DOOR,
                ..wall
            }
        };
        let taken = |colour: &usize| {
            let mut beside = doors
                .iter()
                .filter(|door| door.rooms.contains(&a) || door.rooms.contains(&b));
            beside.any(|door| door.colour == *colour)
        };
        let free: Vec<usize> = (0..COLOURS.len()).filter(|c| !taken(c)).collect();
        let colour = free.choose(random).copied();
        doors.push(Door {
            area,
            rooms: [a, b],
            colour: colour.unwrap_or_else(|| random.random_range(0..COLOURS.len())),
        });
    }
    doors
}

/// The wall between a room and another one to its right or below it, without its ends, if a door fits in.
fn wall(first: &Area, second: &Area) -> Option<Area> {
    let shared = |a: usize, b: usize, to_a: usize, to_b: usize| {
        let (from, to) = (a.max(b) + 1, to_a.min(to_b).saturating_sub(1));
        (to >= from + DOOR).then(|| (from, to - from))
    };
    if second.column == first.column + first.columns + 1 {
        let (row, rows) = shared(
            first.row,
            second.row,
            first.row + first.rows,
            second.row + second.rows,
        )?;
        return Some(Area {
            row,
            column: second.column - 1,
            rows,
            columns: 1,
        });
    }
    if second.row == first.row + first.rows + 1 {
        let (column, columns) = shared(
            first.column,
            second.column,
            first.column + first.columns,
            second.column + second.columns,
        )?;
        return Some(Area {
            row: second.row - 1,
            column,
            rows: 1,
            columns,
        });
    }
    None
}
