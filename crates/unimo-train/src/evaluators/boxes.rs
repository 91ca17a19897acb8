//! Images with the right and the predicted box drawn into them, for the report.

use image::{Rgb, RgbImage};

/// Green, as what is right elsewhere.
const RIGHT: Rgb<u8> = Rgb([0, 200, 80]);

/// Magenta, which is told from green by every eye.
const PREDICTED: Rgb<u8> = Rgb([255, 0, 200]);

/// What the colours mean.
pub(crate) const LEGEND: &str =
    "their IoU stands below. The right box is green, the predicted one magenta.";

/// The same where the map of a score chooses among boxes.
pub(crate) const CHOSEN: &str = "The right box is green, the chosen one magenta.";

/// An image has this many times the width of a line on its longer side.
const LINES: u32 = 160;

/// A copy of an image with the boxes that are known. They are x1, y1, x2, y2 as shares of width and height.
pub(crate) fn drawn(
    picture: &RgbImage,
    right: Option<[f32; 4]>,
    predicted: Option<[f32; 4]>,
) -> RgbImage {
    let mut copy = picture.clone();
    for (bounds, colour) in [(right, RIGHT), (predicted, PREDICTED)] {
        if let Some(bounds) = bounds {
            frame(&mut copy, bounds, colour);
        }
    }
    copy
}

/// Draws the edges of a box. A line lies inside of the image, however thin the box is.
fn frame(picture: &mut RgbImage, bounds: [f32; 4], colour: Rgb<u8>) {
    let (width, height) = picture.dimensions();
    let thick = (width.max(height) / LINES).max(1);
    let pixel = |share: f32, side: u32| {
        let at = (f64::from(share) * f64::from(side)).round() as u32;
        at.min(side)
    };
    let [x1, y1, x2, y2] = bounds;
    let (left, top) = (pixel(x1, width), pixel(y1, height));
    let (right, bottom) = (pixel(x2, width), pixel(y2, height));
    let inner = |first: u32, last: u32, at: u32| {
        at >= first.saturating_add(thick) && at < last.saturating_sub(thick)
    };
    for y in top.min(height - 1)..bottom.max(top + 1).min(height) {
        for x in left.min(width - 1)..right.max(left + 1).min(width) {
            if !(inner(left, right, x) && inner(top, bottom, y)) {
                picture.put_pixel(x, y, colour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_both_boxes_are_drawn_and_nothing_else() {
        let grey = Rgb([9; 3]);
        let picture = RgbImage::from_pixel(8, 4, grey);
        assert_eq!(drawn(&picture, None, None), picture);
        let copy = drawn(
            &picture,
            Some([0.0, 0.0, 0.5, 1.0]),
            Some([0.75, 0.5, 1.0, 1.0]),
        );
        let row = |y: u32| -> String {
            let sign = |x: u32| match *copy.get_pixel(x, y) {
                RIGHT => 'r',
                PREDICTED => 'p',
                _ => '.',
            };
            (0..8).map(sign).collect()
        };
        assert_eq!(
            [0, 1, 2, 3].map(row),
            ["rrrr....", "r..r....", "r..r..pp", "rrrr..pp"]
        );
        // A box without area at the lower right corner is a point of the image.
        let point = drawn(&picture, Some([1.0; 4]), None);
        assert_eq!(*point.get_pixel(7, 3), RIGHT);
    }
}
