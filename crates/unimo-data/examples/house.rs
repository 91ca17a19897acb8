//! Draws a path through a generated house: `cargo run --release -p unimo-data --example house -- house.png 0`.
//!
//! Above, the house from above with the path, and the view at the start. Below, some decisions: the map around the agent in its colours, its heights,
//! the classes with the waypoint, and the distances to the path.

use image::{Rgb, RgbImage, imageops};
use unimo_data::sources::houses::{Houses, HousesConfig};
use unimo_data::walks::{FEATURES, WalkConfig, made, spaced_out};
use unimo_data::{Source, Split};

/// Pixels of a cell.
const CELL: u32 = 5;

/// Colours of classes: void, floor, wall, door, then things.
fn colour(class: u8) -> Rgb<u8> {
    match class {
        0 => Rgb([0, 0, 0]),
        1 => Rgb([225, 220, 210]),
        2 => Rgb([90, 90, 90]),
        3 => Rgb([250, 170, 90]),
        thing => {
            let hue = f64::from(thing - 4) / 12.0 * std::f64::consts::TAU;
            let level = |shift: f64| (140.0 + 100.0 * (hue + shift).cos()) as u8;
            Rgb([level(0.0), level(2.1), level(4.2)])
        }
    }
}

fn square(image: &mut RgbImage, [row, column]: [usize; 2], colour: Rgb<u8>) {
    for y in 0..CELL {
        for x in 0..CELL {
            image.put_pixel(column as u32 * CELL + x, row as u32 * CELL + y, colour);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut given = std::env::args().skip(1);
    let path = given.next().unwrap_or_else(|| "house.png".to_owned());
    let index: usize = given.next().map_or(Ok(0), |index| index.parse())?;
    let houses = Houses::new(HousesConfig::default());
    println!("{}", houses.captions(Split::Train, index)?.join(" "));
    let walk = houses.walk(Split::Train, index)?.ok_or("no walk")?;
    let config = WalkConfig {
        cells: 48,
        cell: 0.25,
        reach: 10.0,
        ..WalkConfig::default()
    };
    let walks = made(&*walk, &config)?;
    let ground = walk.ground()?.ok_or("no ground")?;
    let (rows, columns) = (ground.rows as u32, ground.columns as u32);
    let mut plan = RgbImage::new(columns * CELL, rows * CELL);
    for (at, class) in ground.classes.iter().enumerate() {
        square(
            &mut plan,
            [at / ground.columns, at % ground.columns],
            colour(*class),
        );
    }
    let way = walk.path(0).unwrap_or_default();
    for [x, y] in spaced_out(&way, 0.05) {
        let at = |metres: f64| (metres / ground.cell * f64::from(CELL)) as u32;
        plan.put_pixel(at(x), at(-y), Rgb([220, 0, 0]));
    }
    let camera = walk.camera();
    let view = walk.view(walk.first())?;
    let view =
        RgbImage::from_raw(camera.width as u32, camera.height as u32, view.rgb).ok_or("no view")?;
    let view = imageops::resize(&view, 256, 256, imageops::FilterType::Nearest);
    let side = config.cells as u32 * CELL + 4;
    let shown = [
        0,
        walks.steps[0] / 3,
        walks.steps[0] * 2 / 3,
        walks.steps[0] - 1,
    ];
    let mut sheet = RgbImage::from_pixel(
        (columns * CELL + 260).max(side * 4),
        (rows * CELL).max(260) + side * shown.len() as u32,
        Rgb([255, 255, 255]),
    );
    imageops::replace(&mut sheet, &plan, 0, 0);
    imageops::replace(&mut sheet, &view, i64::from(columns * CELL + 4), 0);
    let targets = walks.targets.as_ref().ok_or("no targets")?;
    let cells = config.cells * config.cells;
    for (line, at) in shown.into_iter().enumerate() {
        let mut tiles = [0; 4].map(|_| RgbImage::new(side - 4, side - 4));
        for cell in 0..cells {
            let place = [cell / config.cells, cell % config.cells];
            let level = |channel: usize| walks.maps[(at * FEATURES + channel) * cells + cell];
            square(&mut tiles[0], place, Rgb([level(0), level(1), level(2)]));
            square(&mut tiles[1], place, Rgb([level(6), level(7), level(8)]));
            square(
                &mut tiles[2],
                place,
                colour(targets.classes[at * cells + cell]),
            );
            let near = 255.0 - 10.0 * targets.distances[at * cells + cell];
            square(&mut tiles[3], place, Rgb([near.max(0.0) as u8; 3]));
        }
        let [right, ahead] = targets.waypoints[at];
        let half = config.cells as f32 / 2.0;
        let way_point = [
            (half - ahead * half) as usize,
            (half + right * half) as usize,
        ];
        square(&mut tiles[2], way_point, Rgb([255, 0, 0]));
        square(&mut tiles[2], [config.cells / 2; 2], Rgb([0, 0, 255]));
        println!(
            "decision {at}: waypoint {right:.2} {ahead:.2}, progress {:.2}",
            targets.progress[at]
        );
        for (column, tile) in tiles.iter().enumerate() {
            let top = (rows * CELL).max(260) + line as u32 * side;
            imageops::replace(
                &mut sheet,
                tile,
                i64::from(column as u32 * side),
                i64::from(top),
            );
        }
    }
    sheet.save(path)?;
    Ok(())
}
