//! Boxes of an image, in the image as a model sees it.

/// The part of an image that a model sees: x1, y1, x2, y2 as shares of its width and height. It reaches beyond the image where black is
/// added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window([f64; 4]);

impl Window {
    /// The whole image, and nothing else.
    pub const WHOLE: Self = Self([0.0, 0.0, 1.0, 1.0]);

    /// A window by its corners; it has an area.
    pub(crate) fn new(corners: [f64; 4]) -> Self {
        Self(corners)
    }

    /// A box of the image as shares of what the model sees, cut at the edges; `None` if all of it is cut away.
    pub fn seen(self, bounds: [f32; 4]) -> Option<[f32; 4]> {
        let (origin, size) = self.place();
        let seen: [f32; 4] = std::array::from_fn(|at| {
            let share = (f64::from(bounds[at]) - origin[at % 2]) / size[at % 2];
            share.clamp(0.0, 1.0) as f32
        });
        let [x1, y1, x2, y2] = seen;
        (x1 < x2 && y1 < y2).then_some(seen)
    }

    /// A point of the image as shares of what the model sees; `None` if the model does not see it.
    pub fn point(self, point: [f32; 2]) -> Option<[f32; 2]> {
        let (origin, size) = self.place();
        let seen: [f64; 2] =
            std::array::from_fn(|at| (f64::from(point[at]) - origin[at]) / size[at]);
        let inside = seen.iter().all(|share| (0.0..=1.0).contains(share));
        inside.then(|| seen.map(|share| share as f32))
    }

    /// A box of what the model sees as shares of the image, cut at its edges. [`seen`](Self::seen) turned round.
    pub fn original(self, bounds: [f32; 4]) -> [f32; 4] {
        let (origin, size) = self.place();
        std::array::from_fn(|at| {
            let share = origin[at % 2] + f64::from(bounds[at]) * size[at % 2];
            share.clamp(0.0, 1.0) as f32
        })
    }

    /// Its upper left corner, and its width and height.
    fn place(self) -> ([f64; 2], [f64; 2]) {
        let Self([x1, y1, x2, y2]) = self;
        ([x1, y1], [x2 - x1, y2 - y1])
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use crate::images::{Filter, ImageSpec, Resize, Window};

    fn spec(size: usize, resize: Resize) -> ImageSpec {
        ImageSpec {
            size,
            resize,
            filter: Filter::Bilinear,
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    #[test]
    fn a_centre_crop_moves_cuts_and_loses_boxes() {
        // Of 200 x 100 pixels the columns 50 to 150 are seen.
        let crop = spec(32, Resize::Crop).window((200, 100));
        assert_eq!(
            crop.seen([0.5, 0.25, 0.75, 0.5]),
            Some([0.5, 0.25, 1.0, 0.5])
        );
        assert_eq!(crop.seen([0.0, 0.0, 0.5, 1.0]), Some([0.0, 0.0, 0.5, 1.0]));
        assert_eq!(crop.seen([0.0, 0.0, 0.2, 1.0]), None);
        assert_eq!(crop.seen([0.75, 0.0, 1.0, 1.0]), None);
        assert_eq!(crop.original([0.0, 0.0, 1.0, 1.0]), [0.25, 0.0, 0.75, 1.0]);
        assert_eq!(crop.point([0.5, 0.25]), Some([0.5, 0.25]));
        assert_eq!(
            (crop.point([0.75, 1.0]), crop.point([0.2, 0.5])),
            (Some([1.0; 2]), None)
        );
        let squash = spec(32, Resize::Squash).window((200, 100));
        assert_eq!(squash, Window::WHOLE);
        // Of a strip that is longer than eight squares the ends are cut off first; the middle is the same.
        let strip = spec(32, Resize::Crop).window((10, 1000));
        let middle = strip.original([0.0, 0.0, 1.0, 1.0]);
        assert_eq!(middle, [0.0, 0.495, 1.0, 0.505]);
    }

    /// BridgeTower's preparation may add black above and below: 100 x 25 pixels are 448 x 128 in a square of 288.
    #[test]
    fn added_black_is_no_part_of_the_image() {
        let window = spec(288, Resize::BridgetowerProcessor).window((100, 25));
        let [_, top, _, bottom] = window.seen([0.0, 0.0, 1.0, 1.0]).unwrap();
        assert!(0.0 < top && top < bottom && bottom < 1.0, "{window:?}");
        assert_eq!(window.original([0.0, 0.0, 1.0, 1.0])[1], 0.0);
        assert_eq!(window.original([0.0, 0.0, 1.0, 1.0])[3], 1.0);
    }

    /// A bright rectangle is where its box says, whatever becomes of the image; and the way back gives the box again.
    #[test]
    fn boxes_stay_with_their_pixels() {
        // Resizing blurs an edge over a pixel of 64.
        const EDGE: f32 = 1.0 / 64.0;
        for (width, height) in [(120, 80), (80, 120), (64, 64), (150, 96)] {
            let inside = |x: u32, y: u32| {
                (width * 3 / 8..width * 5 / 8).contains(&x) && (height / 4..height / 2).contains(&y)
            };
            let picture = RgbImage::from_fn(width, height, |x, y| {
                Rgb([if inside(x, y) { 255 } else { 1 }; 3])
            });
            let sides = [width, height, width, height].map(|side| side as f32);
            let edges = [width * 3 / 8, height / 4, width * 5 / 8, height / 2];
            let bounds: [f32; 4] = std::array::from_fn(|at| edges[at] as f32 / sides[at]);
            for resize in [
                Resize::Crop,
                Resize::Squash,
                Resize::ClipProcessor,
                Resize::BridgetowerProcessor,
            ] {
                let spec = spec(64, resize);
                let square = spec.square(&picture).unwrap();
                let bright = square
                    .enumerate_pixels()
                    .filter(|(_, _, pixel)| pixel[0] > 128);
                let mut found = [f32::MAX, f32::MAX, 0.0, 0.0f32];
                for (x, y, _) in bright {
                    let (x, y) = (x as f32 / 64.0, y as f32 / 64.0);
                    found = [
                        found[0].min(x),
                        found[1].min(y),
                        found[2].max(x + EDGE),
                        found[3].max(y + EDGE),
                    ];
                }
                let window = spec.window(picture.dimensions());
                let seen = window.seen(bounds).unwrap();
                for (a, b) in seen.iter().zip(found) {
                    assert!((a - b).abs() <= EDGE, "{resize:?} {seen:?} {found:?}");
                }
                for (a, b) in window.original(seen).iter().zip(bounds) {
                    assert!((a - b).abs() < 1e-6, "{resize:?} {bounds:?}");
                }
            }
        }
    }
}
