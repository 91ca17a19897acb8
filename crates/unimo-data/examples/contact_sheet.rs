//! Draws a sheet of generated scenes: `cargo run --release -p unimo-data --example contact_sheet -- sheet.png`.

use image::{RgbImage, imageops};
use unimo_data::sources::scenes::ScenesConfig;
use unimo_data::{DataConfig, Split};

/// Scenes per row and column, and pixels per scene.
const GRID: u32 = 6;
const SIDE: u32 = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "sheet.png".to_owned());
    let config = DataConfig {
        scenes: Some(ScenesConfig {
            size: SIDE,
            ..ScenesConfig::default()
        }),
        ..DataConfig::default()
    };
    let source = unimo_data::open(&config)?;
    let mut sheet = RgbImage::new(GRID * SIDE, GRID * SIDE);
    for index in 0..GRID * GRID {
        let sample = source.sample(Split::Train, index as usize)?;
        let (x, y) = (index % GRID * SIDE, index / GRID * SIDE);
        if let Some(picture) = &sample.image {
            imageops::replace(&mut sheet, picture, i64::from(x), i64::from(y));
        }
        println!("{index}: {}", sample.captions.join(" | "));
        println!("    {}", sample.phrases[0].join(" | "));
        for (question, answer) in &sample.questions {
            println!("    {question} {answer}");
        }
        for (statement, truth) in &sample.statements {
            println!("    {statement}: {truth}");
        }
    }
    sheet.save(path)?;
    Ok(())
}
