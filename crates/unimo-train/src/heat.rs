//! Images in grey with values over them as colour.

use image::{Rgb, RgbImage};

/// A copy of an image in grey. The value at each point, given in shares of width and height, is drawn over it as colour: none at the
/// lowest value of `range`, full colour at the highest. A point without a value stays grey.
pub(crate) fn heated(
    picture: &RgbImage,
    (low, high): (f32, f32),
    value: impl Fn([f32; 2]) -> Option<f32>,
) -> RgbImage {
    const HEAT: [f32; 3] = [235.0, 60.0, 20.0];
    const STRONGEST: f32 = 0.8;
    let mut copy = picture.clone();
    let (width, height) = copy.dimensions();
    for (x, y, pixel) in copy.enumerate_pixels_mut() {
        let share = |at: u32, side: u32| (at as f32 + 0.5) / side as f32;
        let value = value([share(x, width), share(y, height)]);
        // Squared, to emphasise what is near the highest.
        let share = value.map_or(0.0, |value| {
            ((value - low) / (high - low).max(f32::EPSILON)).clamp(0.0, 1.0)
        });
        let heat = STRONGEST * share * share;
        let [r, g, b] = pixel.0.map(f32::from);
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        *pixel = Rgb(HEAT.map(|h| (grey + heat * (h - grey)).round() as u8));
    }
    copy
}

/// The lowest and the highest of some values.
pub(crate) fn range(values: &[f32]) -> (f32, f32) {
    let each = || values.iter().copied();
    (
        each().fold(f32::INFINITY, f32::min),
        each().fold(f32::NEG_INFINITY, f32::max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_is_red_and_the_lowest_grey() {
        let picture = RgbImage::from_pixel(2, 1, Rgb([100; 3]));
        let map = [0.5, 2.0];
        let drawn = heated(&picture, range(&map), |[x, _]| {
            map.get((x * 2.0) as usize).copied()
        });
        assert_eq!(drawn.get_pixel(0, 0).0, [100; 3]);
        let [r, g, _] = drawn.get_pixel(1, 0).0;
        assert!(r > 200 && g < 80);
        assert_eq!(heated(&picture, (0.0, 1.0), |_| None), picture);
    }
}
