//! Images are read as Pillow reads them and become what Hugging Face's image processors make of them.

use std::path::PathBuf;

use burn::tensor::Device;
use unimo_data::images::{self, Limits};
use unimo_data::processor;
use unimo_encoders::features::Pictures;
use unimo_encoders::weights::SafetensorsFile;
use unimo_tests::fixture;

/// Both sides compute in fixed point with their own rounding, twice (across, then down).
const WORST_LEVEL: i64 = 1;
/// Four inks are read by another decoder than libjpeg-turbo's port, with its own inverse DCT and chroma upsampling, always in full size.
const WORST_LEVEL_OF_INK: i64 = 8;
/// Of 255 levels, on average.
const MEAN_LEVEL: f64 = 0.2;
/// f32 rounding of (value / 255 - mean) / std.
const NORMALISED: f32 = 1e-6;

const LIMITS: Limits = Limits::full_size(1 << 20);

fn folder() -> PathBuf {
    fixture::folder().join("pixels")
}

#[test]
fn pictures_equal_hugging_faces_processors() {
    let mut expected = SafetensorsFile::open(&folder().join("expected.safetensors")).unwrap();
    for kind in ["clip", "vit", "bridgetower"] {
        let spec = processor::read(&folder().join(format!("{kind}.json")))
            .unwrap()
            .pictures
            .spec;
        for name in ["wide", "tall", "square", "small", "strip"] {
            let picture = images::read(&folder().join(format!("{name}.png")), LIMITS).unwrap();
            let square = spec.square(&picture).unwrap();
            let (theirs, shape) = expected.integers(&format!("{kind}.{name}")).unwrap();
            assert_eq!(shape, [3, spec.size, spec.size]);
            let plane = spec.size * spec.size;
            let ours = |i: usize| i64::from(square.as_raw()[(i % plane) * 3 + i / plane]);
            let differences: Vec<i64> = theirs
                .iter()
                .enumerate()
                .map(|(i, value)| (ours(i) - value).abs())
                .collect();
            let worst = differences.iter().max().unwrap();
            let mean = differences.iter().sum::<i64>() as f64 / differences.len() as f64;
            assert!(
                *worst <= WORST_LEVEL && mean < MEAN_LEVEL,
                "{kind}, {name}: worst {worst}, mean {mean}"
            );
        }
    }
}

#[test]
fn jpegs_are_read_as_pillow_reads_them() {
    let folder = folder().join("jpeg");
    let mut expected = SafetensorsFile::open(&folder.join("expected.safetensors")).unwrap();
    for kind in [
        "444-baseline",
        "444-progressive",
        "422-baseline",
        "422-progressive",
        "420-baseline",
        "420-progressive",
        "restart",
        "optimised",
        "low",
        "grey",
        "440",
        "411",
        "unrefined",
        "cmyk",
    ] {
        for scale in [1, 2, 4, 8] {
            let ink = kind == "cmyk";
            let limits = Limits {
                // The shorter side is the width.
                enough: (scale > 1).then_some(30 / scale),
                ..LIMITS
            };
            let picture = images::read(&folder.join(format!("{kind}.jpg")), limits).unwrap();
            let key = if scale == 1 || ink {
                kind.to_owned()
            } else {
                format!("{kind}.{scale}")
            };
            let (theirs, shape) = expected.integers(&key).unwrap();
            let (width, height) = picture.dimensions();
            assert_eq!(shape, [height as usize, width as usize, 3], "{key}");
            let worst = picture
                .as_raw()
                .iter()
                .zip(&theirs)
                .map(|(ours, theirs)| (i64::from(*ours) - theirs).abs())
                .max();
            let allowed = if ink { WORST_LEVEL_OF_INK } else { 0 };
            assert!(worst <= Some(allowed), "{key}: off by {worst:?} levels");
        }
    }
}

#[test]
fn normalisation_equals_hugging_faces() {
    let mut expected = SafetensorsFile::open(&folder().join("expected.safetensors")).unwrap();
    for kind in ["clip", "vit", "bridgetower"] {
        let spec = processor::read(&folder().join(format!("{kind}.json")))
            .unwrap()
            .pictures
            .spec;
        let (bytes, _) = expected.integers(&format!("{kind}.tall")).unwrap();
        let plane = spec.size * spec.size;
        let square = image::RgbImage::from_fn(spec.size as u32, spec.size as u32, |x, y| {
            let at = y as usize * spec.size + x as usize;
            image::Rgb(std::array::from_fn(|c| bytes[c * plane + at] as u8))
        });
        let mut ours = Vec::new();
        spec.normalise(&square, &mut ours);
        let theirs = expected.values(&format!("{kind}.tall.normalised")).unwrap();
        for (a, b) in ours.iter().zip(&theirs) {
            assert!(
                (a - b).abs() < NORMALISED * b.abs().max(1.0),
                "{kind}: {a} and {b}"
            );
        }
        assert_eq!(ours.len(), theirs.len());

        // Bytes of a batch become the same numbers on a device, to the last bit.
        let mut levels = Vec::new();
        spec.planes(&square, &mut levels);
        let images = spec.batch(levels);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&images.normalised(&images.pixels)), bits(&ours));
        for device in [Device::flex(), Device::flex().autodiff()] {
            let pictures = Pictures::of_pixels(&images, &images.pixels, &device);
            let pixels = pictures.pixels().unwrap();
            assert_eq!(pixels.dims(), [1, 3, spec.size, spec.size]);
            let values: Vec<f32> = pixels.to_data().iter::<f32>().collect();
            assert_eq!(bits(&values), bits(&ours), "{kind} on {device:?}");
        }
    }
}
