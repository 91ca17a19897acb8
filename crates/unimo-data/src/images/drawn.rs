//! Images that the tests of this folder draw.

use image::{Rgb, RgbImage};

/// Left half red, right half blue, so that orientation and channels show.
pub fn halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| {
        if x < width / 2 {
            Rgb([250, 10, 10])
        } else {
            Rgb([10, 10, 250])
        }
    })
}

/// Whether no channel differs by more than `tolerance` levels.
pub fn close(a: Rgb<u8>, b: [u8; 3], tolerance: u8) -> bool {
    a.0.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= tolerance)
}
