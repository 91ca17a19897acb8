//! Where the time from a JPEG file to normalised pixels goes, on one thread.
//!
//! ```text
//! cargo run --release -p unimo-data --example pixel_path [FILE.jpg ...]
//! ```
//!
//! Without files it makes one image of 500 x 375 pixels. Each stage runs on each file many times with the same draw. The fastest
//! time counts, because other work on the machine only ever adds time.

use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use image::{Rgb, RgbImage};
use unimo_data::augment::AugmentConfig;
use unimo_data::augment::colour_jitter::ColourJitter;
use unimo_data::augment::operations::Operation;
use unimo_data::augment::rand_augment::{OperationList, RandAugment, When};
use unimo_data::images::{Filter, ImageSpec, Limits, Resize, decode, jpeg};

const LIMITS: Limits = Limits::full_size(50_000_000);
const ROUNDS: usize = 12;
/// Number of random changes tried on each file.
const DRAWS: u64 = 5;

const SPEC: ImageSpec = ImageSpec {
    size: 224,
    resize: Resize::Crop,
    filter: Filter::Bicubic,
    mean: [0.481, 0.458, 0.408],
    std: [0.269, 0.261, 0.276],
};
const CROPPED: AugmentConfig = AugmentConfig {
    scale: [0.5, 1.0],
    ratio: [0.75, 4.0 / 3.0],
    flip: 0.5,
    colour_jitter: None,
    rand_augment: None,
};

fn main() -> ExitCode {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let files: Result<Vec<Vec<u8>>, String> = if paths.is_empty() {
        Ok(vec![jpeg(&scene()).unwrap_or_default()])
    } else {
        paths
            .iter()
            .map(|path| std::fs::read(Path::new(path)).map_err(|e| format!("{path}: {e}")))
            .collect()
    };
    match files.and_then(|files| measure(&files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure(files: &[Vec<u8>]) -> Result<(), String> {
    let pictures = files
        .iter()
        .map(|bytes| decode(bytes, LIMITS))
        .collect::<Result<Vec<_>, _>>()?;
    let squares = pictures
        .iter()
        .map(|picture| SPEC.square(picture))
        .collect::<Result<Vec<_>, _>>()?;
    let mut pixels = Vec::with_capacity(SPEC.values());
    time("decode", files, |bytes, _| {
        decode(bytes, LIMITS).map(|picture| picture.width())
    })?;
    time("resize and crop", &pictures, |picture, _| {
        SPEC.square(picture).map(|square| square.width())
    })?;
    time("random part, resized", &pictures, |picture, draw| {
        CROPPED
            .apply(&SPEC, picture, draw)
            .map(|square| square.width())
    })?;
    time("normalise", &squares, |square, _| {
        pixels.clear();
        SPEC.normalise(square, &mut pixels);
        Ok(pixels.len() as u32)
    })?;
    time("all, as evaluated", files, |bytes, _| {
        pixels.clear();
        SPEC.append(&decode(bytes, LIMITS)?, &mut pixels)?;
        Ok(pixels.len() as u32)
    })?;
    let mut augmented = |name: &str, augment: AugmentConfig| {
        time(name, files, |bytes, draw| {
            pixels.clear();
            let square = augment.apply(&SPEC, &decode(bytes, LIMITS)?, draw)?;
            SPEC.normalise(&square, &mut pixels);
            Ok(pixels.len() as u32)
        })
    };
    augmented("all, random part", CROPPED)?;
    let colour_jitter = Some(ColourJitter {
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
    });
    augmented(
        "all, colour jitter",
        AugmentConfig {
            colour_jitter,
            ..CROPPED
        },
    )?;
    for (name, when) in [
        ("all, METER's operations", When::BeforeCrop),
        ("all, BridgeTower's", When::AfterCrop),
    ] {
        let rand_augment = Some(RandAugment {
            list: OperationList::Meter,
            operations: 2,
            magnitude: 9,
            when,
        });
        augmented(
            name,
            AugmentConfig {
                rand_augment,
                ..CROPPED
            },
        )?;
    }
    let mut operations = OperationList::Meter.operations(9, (500, 375));
    operations.push(Operation::Hue(0.1));
    for operation in operations {
        let name = format!("{operation:?}");
        let mut picture = pictures[0].clone();
        time(&name, &[()], |(), _| {
            operation.apply(&mut picture);
            Ok(picture.width())
        })?;
    }
    Ok(())
}

fn time<T>(
    name: &str,
    items: &[T],
    mut work: impl FnMut(&T, u64) -> Result<u32, String>,
) -> Result<(), String> {
    let mut total = 0.0;
    for item in items {
        for draw in 0..DRAWS {
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                let start = Instant::now();
                black_box(work(black_box(item), draw)?);
                best = best.min(start.elapsed().as_secs_f64());
            }
            total += best;
        }
    }
    let best = total / (items.len() as u64 * DRAWS) as f64;
    println!("{name:<30} {:>8.3} ms  {:>7.0} / s", best * 1e3, 1.0 / best);
    Ok(())
}

/// Smooth colours with edges and grain, about as hard to decode as a photograph.
fn scene() -> RgbImage {
    RgbImage::from_fn(500, 375, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let grain = ((x * 12.9898 + y * 78.233).sin() * 43_758.545).fract() * 14.0;
        let edge = if (x / 60.0).sin() + (y / 45.0).cos() > 0.5 {
            40.0
        } else {
            0.0
        };
        let level =
            |phase: f64| (110.0 + 60.0 * (x / 90.0 + y / 120.0 + phase).sin() + edge + grain) as u8;
        Rgb([level(0.0), level(1.0), level(2.0)])
    })
}
