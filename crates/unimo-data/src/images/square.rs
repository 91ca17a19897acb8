//! From an image to the square that a model reads, resized as in Pillow, and to its levels.
//!
//! Shape legend: `C` = 3 channels, `S` the model's image side, `H x W` the image's own size.

use std::ops::Range;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use unimo_batch::Images;

use crate::images::Window;

/// How an image of any shape becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Resizes the shorter side, then crops the centre, as torchvision does (METER, OpenAI's CLIP).
    #[default]
    Crop,
    /// Resizes both sides: nothing is lost, proportions change (ViT).
    Squash,
    /// As `crop`, but the crop's offset is rounded as in Hugging Face's `CLIPImageProcessor`.
    ClipProcessor,
    /// Hugging Face's `BridgeTowerImageProcessor`: resizes the shorter side to the size and the longer one to at most 1333 / 800 of
    /// it, both rounded down to a multiple of 32, then crops the centre. Missing pixels are black.
    BridgetowerProcessor,
}

/// Interpolation used to resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Pillow's `BICUBIC` (Keys' kernel with a = -0.5): CLIP, BridgeTower, METER.
    #[default]
    Bicubic,
    /// Pillow's `BILINEAR`: ViT and DeiT.
    Bilinear,
}

/// How images become pixels for the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageSpec {
    /// `S`: side of the square image.
    pub size: usize,
    /// How an image becomes square.
    pub resize: Resize,
    /// Interpolation used to resize.
    pub filter: Filter,
    /// Mean per channel, subtracted from values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, divided by.
    pub std: [f32; 3],
}

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// Number of columns left of it.
    pub left: u32,
    /// Number of rows above it.
    pub top: u32,
    /// Number of its columns.
    pub width: u32,
    /// Number of its rows.
    pub height: u32,
}

impl Part {
    /// The whole image.
    pub fn whole(picture: &RgbImage) -> Self {
        Self {
            left: 0,
            top: 0,
            width: picture.width(),
            height: picture.height(),
        }
    }

    /// The part in a box, x1, y1, x2, y2 relative to width and height: at least one pixel.
    pub fn of_box(picture: &RgbImage, [x1, y1, x2, y2]: [f32; 4]) -> Self {
        let (width, height) = picture.dimensions();
        let edge = |share: f32, side: u32| (f64::from(share) * f64::from(side)).round() as u32;
        let (left, top) = (
            edge(x1, width).min(width - 1),
            edge(y1, height).min(height - 1),
        );
        Self {
            left,
            top,
            width: edge(x2, width).max(left + 1) - left,
            height: edge(y2, height).max(top + 1) - top,
        }
    }
}

/// How a part of an image becomes a square: it is resized to `scaled`, width first, and the columns and rows in `kept` are kept.
struct Fit {
    part: Part,
    scaled: (u32, u32),
    kept: (Range<u32>, Range<u32>),
}

impl ImageSpec {
    /// Longest strip that is resized before the centre is cropped, in image sides. Of a longer strip both ends are cut off first:
    /// an image of 1 x 100,000 pixels would otherwise grow to gigabytes.
    const LONGEST_STRIP: f64 = 8.0;

    /// Makes an image a square of the model's size, as Pillow does.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// The reason, as listed for the skipped sample.
    pub fn square(&self, picture: &RgbImage) -> Result<RgbImage, String> {
        self.square_within(picture, Part::whole(picture))
    }

    /// Resizes a part of an image to the model's size, whatever its proportions, as if it were cut out and both sides resized.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// The part lies outside the image; the reason is as listed for the skipped sample.
    pub fn square_of(&self, picture: &RgbImage, part: Part) -> Result<RgbImage, String> {
        let size = self.size as u32;
        resize(picture, part, (size, size), (0..size, 0..size), self.filter)
    }

    fn square_within(&self, picture: &RgbImage, part: Part) -> Result<RgbImage, String> {
        let Fit { part, scaled, kept } = self.fit(part);
        let middle = resize(picture, part, scaled, kept, self.filter)?;
        Ok(fill_up(middle, self.size as u32))
    }

    /// The part of an image of this width and height that [`square`](Self::square) shows.
    pub fn window(&self, (width, height): (u32, u32)) -> Window {
        let size = self.size as u32;
        let Fit { part, scaled, kept } = self.fit(Part {
            left: 0,
            top: 0,
            width,
            height,
        });
        let side = |whole: u32, (from, length): (u32, u32), scaled: u32, kept: &Range<u32>| {
            let black = (size - (kept.end - kept.start)) / 2;
            let first = f64::from(kept.start) - f64::from(black);
            let share = |edge: f64| {
                let pixel = f64::from(from) + edge * f64::from(length) / f64::from(scaled.max(1));
                pixel / f64::from(whole.max(1))
            };
            (share(first), share(first + f64::from(size)))
        };
        let (x1, x2) = side(width, (part.left, part.width), scaled.0, &kept.0);
        let (y1, y2) = side(height, (part.top, part.height), scaled.1, &kept.1);
        Window::new([x1, y1, x2, y2])
    }

    /// How a part of an image becomes a square.
    fn fit(&self, part: Part) -> Fit {
        let size = self.size as u32;
        match self.resize {
            Resize::Squash => Fit {
                part,
                scaled: (size, size),
                kept: (0..size, 0..size),
            },
            Resize::Crop | Resize::ClipProcessor | Resize::BridgetowerProcessor => {
                let Part { width, height, .. } = part;
                let short = width.min(height);
                let longest = (f64::from(short) * Self::LONGEST_STRIP) as u32;
                if width.max(height) > longest {
                    let (keep_w, keep_h) = (width.min(longest), height.min(longest));
                    return self.fit(Part {
                        left: part.left + (width - keep_w) / 2,
                        top: part.top + (height - keep_h) / 2,
                        width: keep_w,
                        height: keep_h,
                    });
                }
                let (width, height) = match self.resize {
                    Resize::BridgetowerProcessor => bridgetower_size(width, height, size),
                    _ => {
                        // torchvision's Resize(size) rounds the longer side down.
                        let long = |side: u32| {
                            (u64::from(size) * u64::from(side) / u64::from(short.max(1))) as u32
                        };
                        (long(width).max(size), long(height).max(size))
                    }
                };
                // torchvision's CenterCrop(size) rounds the offset half to even, Hugging Face rounds it down.
                let even = self.resize == Resize::Crop;
                let kept = |side: u32| {
                    let from = centre(side, size, even);
                    from..from + side.min(size)
                };
                Fit {
                    part,
                    scaled: (width, height),
                    kept: (kept(width), kept(height)),
                }
            }
        }
    }

    /// The part of an image that [`square`](Self::square) keeps, for display: in the image's own proportions, with a longer side of
    /// `side` pixels.
    ///
    /// # Shapes
    ///
    /// `H x W` to `side x side`, or to `side` by less if nothing is cut off.
    ///
    /// # Errors
    ///
    /// As [`square`](Self::square).
    pub fn view(&self, picture: &RgbImage, side: u32) -> Result<RgbImage, String> {
        match self.resize {
            Resize::Squash => {
                let (width, height) = picture.dimensions();
                let share = f64::from(side) / f64::from(width.max(height).max(1));
                let scaled = |side: u32| ((f64::from(side) * share).round() as u32).max(1);
                let (width, height) = (scaled(width), scaled(height));
                resize_whole(picture, width, height, self.filter)
            }
            Resize::Crop | Resize::ClipProcessor | Resize::BridgetowerProcessor => {
                let large = Self {
                    size: side as usize,
                    ..*self
                };
                large.square(picture)
            }
        }
    }

    /// Normalised pixels of one image, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `H x W` to `[C, S, S]`.
    ///
    /// # Errors
    ///
    /// The reason, as listed for the skipped sample.
    pub fn append(&self, picture: &RgbImage, pixels: &mut Vec<f32>) -> Result<(), String> {
        self.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    /// Normalised pixels of a square image, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `S x S` to `[C, S, S]`.
    pub fn normalise(&self, square: &RgbImage, pixels: &mut Vec<f32>) {
        let mut levels = Vec::new();
        self.planes(square, &mut levels);
        pixels.extend(self.batch(Vec::new()).normalised(&levels));
    }

    /// The levels of a square image, channel by channel, appended to `levels`.
    ///
    /// # Shapes
    ///
    /// `S x S` to `[C, S, S]`.
    pub fn planes(&self, square: &RgbImage, levels: &mut Vec<u8>) {
        levels.reserve(self.values());
        let (square, _) = square.as_chunks::<{ Images::CHANNELS }>();
        for channel in 0..Images::CHANNELS {
            levels.extend(square.iter().map(|pixel| pixel[channel]));
        }
    }

    /// The levels of images as the images of a batch.
    ///
    /// # Shapes
    ///
    /// - levels: `[B, C, S, S]`
    pub fn batch(&self, levels: Vec<u8>) -> Images {
        Images {
            pixels: levels,
            height: self.size,
            width: self.size,
            mean: self.mean,
            std: self.std,
            second_view: None,
            patch_mask: None,
            codes: None,
        }
    }

    /// Numbers per image, `C * S * S`.
    pub fn values(&self) -> usize {
        Images::CHANNELS * self.size * self.size
    }
}

/// An image for display: the longer side is reduced to `side` pixels, the shorter one in proportion.
pub fn thumbnail(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let share = f64::from(side) / f64::from(width.max(height).max(1));
    let scaled = |side: u32| ((f64::from(side) * share).round() as u32).max(1);
    image::imageops::thumbnail(picture, scaled(width), scaled(height))
}

/// An image with its shorter side reduced to `side` pixels, the longer one in proportion; `None` if it is already that small.
pub(crate) fn shrink(picture: &RgbImage, side: u32) -> Result<Option<RgbImage>, String> {
    let (width, height) = picture.dimensions();
    let short = width.min(height);
    if short <= side {
        return Ok(None);
    }
    let scaled = |long: u32| {
        let (long, short, side) = (u64::from(long), u64::from(short), u64::from(side));
        ((long * side + short / 2) / short).max(1) as u32
    };
    resize_whole(picture, scaled(width), scaled(height), Filter::Bicubic).map(Some)
}

/// Resizes a whole image.
fn resize_whole(
    picture: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<RgbImage, String> {
    let kept = (0..width, 0..height);
    resize(picture, Part::whole(picture), (width, height), kept, filter)
}

/// The size to which `BridgeTowerImageProcessor` resizes an image, width first.
fn bridgetower_size(width: u32, height: u32, shorter: u32) -> (u32, u32) {
    const DIVISOR: u32 = 32;
    let (w, h, shorter) = (f64::from(width), f64::from(height), f64::from(shorter));
    let longest = (1333.0 / 800.0 * shorter).floor();
    let scale = shorter / w.min(h);
    let (mut new_h, mut new_w) = if h < w {
        (shorter, scale * w)
    } else {
        (scale * h, shorter)
    };
    if new_h.max(new_w) > longest {
        let scale = longest / new_h.max(new_w);
        (new_h, new_w) = (scale * new_h, scale * new_w);
    }
    let coarse = |side: f64| ((side + 0.5) as u32 / DIVISOR * DIVISOR).max(DIVISOR);
    (coarse(new_w), coarse(new_h))
}

/// Where the middle `size` pixels of a side begin; 0 if the side is too short.
fn centre(side: u32, size: u32, round_even: bool) -> u32 {
    let rest = side.saturating_sub(size);
    if round_even {
        (f64::from(rest) / 2.0).round_ties_even() as u32
    } else {
        rest / 2
    }
}

/// Fills a side that is too short with black at both ends, more at the end if the remainder is odd.
fn fill_up(picture: RgbImage, size: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    if (width, height) == (size, size) {
        return picture;
    }
    let mut square = RgbImage::new(size, size);
    let (left, top) = ((size - width) / 2, (size - height) / 2);
    image::imageops::replace(&mut square, &picture, i64::from(left), i64::from(top));
    square
}

/// Resizes a part of an image to `(width, height)` as Pillow does: across, then down, rounded to whole levels in between. The
/// resizer alone works in the other order, which differs by two levels at hard edges. Only the columns and rows in `kept` are
/// computed, from no more rows of the image than they need.
pub(crate) fn resize(
    picture: &RgbImage,
    part: Part,
    (width, height): (u32, u32),
    (columns, rows): (Range<u32>, Range<u32>),
    filter: Filter,
) -> Result<RgbImage, String> {
    let across = Stretch::new(part.width, width, columns);
    let down = Stretch::new(part.height, height, rows);
    let needed = down.needed();
    let part = Part {
        top: part.top + needed.start,
        height: needed.end - needed.start,
        ..part
    };
    let down = Stretch {
        from: down.from - f64::from(needed.start),
        ..down
    };
    let stay = |side: u32| Stretch::new(side, side, 0..side);
    if across.scaled {
        let narrow = resize_once(picture, part, (across, stay(part.height)), filter)?;
        if !down.scaled && down.target == narrow.height() {
            return Ok(narrow);
        }
        let (part, across) = (Part::whole(&narrow), stay(narrow.width()));
        return resize_once(&narrow, part, (across, down), filter);
    }
    resize_once(picture, part, (across, down), filter)
}

/// How one side of an image is resized.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Length of the side in pixels.
    side: u32,
    /// Start and length of the kept part, in these pixels.
    from: f64,
    length: f64,
    /// Number of pixels of the result.
    target: u32,
    /// Whether pixels are interpolated; otherwise the side is at most cropped.
    scaled: bool,
}

impl Stretch {
    /// Resizes a side to `whole` pixels, of which `kept` are computed.
    fn new(side: u32, whole: u32, kept: Range<u32>) -> Self {
        let scale = f64::from(side) / f64::from(whole.max(1));
        let target = kept.end - kept.start;
        let from = f64::from(kept.start) * scale;
        let length = if target == whole {
            f64::from(side)
        } else {
            (f64::from(target) * scale).min(f64::from(side) - from)
        };
        Self {
            side,
            from,
            length,
            target,
            scaled: whole != side,
        }
    }

    /// The source pixels that the computed pixels depend on.
    fn needed(&self) -> Range<u32> {
        /// Radius of a bicubic filter in pixels, times the scale, plus one for rounding.
        const REACH: f64 = 2.0;
        let reach = REACH * (self.length / f64::from(self.target.max(1))).max(1.0) + 1.0;
        let start = (self.from - reach).max(0.0) as u32;
        let end = (self.from + self.length + reach).ceil() as u32;
        start..end.min(self.side)
    }
}

fn resize_once(
    picture: &RgbImage,
    part: Part,
    (across, down): (Stretch, Stretch),
    filter: Filter,
) -> Result<RgbImage, String> {
    // These types name the pixel format. The crate's other types would compile it for every format.
    let source =
        TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.as_raw())
            .map_err(|error| error.to_string())?;
    // Pixels around the part must not show at its edges; a crop box alone would let them.
    let source = TypedCroppedImage::new(source, part.left, part.top, part.width, part.height)
        .map_err(|error| error.to_string())?;
    let mut resized = RgbImage::new(across.target, down.target);
    let mut target = TypedImage::<U8x3>::from_buffer(
        across.target,
        down.target,
        resized.as_flat_samples_mut().samples,
    )
    .map_err(|error| error.to_string())?;
    let filter = match filter {
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Bilinear => FilterType::Bilinear,
    };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(across.from, down.from, across.length, down.length);
    Resizer::new()
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| error.to_string())?;
    Ok(resized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::drawn::{close, halves};
    use image::Rgb;

    #[test]
    fn thumbnails_keep_their_shape() {
        for (width, height, expected) in [(200, 100, (50, 25)), (30, 3000, (1, 50))] {
            assert_eq!(thumbnail(&halves(width, height), 50).dimensions(), expected);
        }
    }

    fn spec(size: usize, resize: Resize) -> ImageSpec {
        ImageSpec {
            size,
            resize,
            filter: Filter::Bicubic,
            mean: [0.5, 0.25, 0.0],
            std: [0.5, 0.25, 1.0],
        }
    }

    #[test]
    fn resampling_equals_pillow() {
        // Pillow 13.0: Image.fromarray(a).resize((5, 4), Image.BICUBIC) of a[y, x] = (x * y * 7 + 3 * x) % 256 on 12 x 9.
        // One grey level, since the two round in different places.
        const TOLERANCE: u8 = 1;
        let picture = RgbImage::from_fn(12, 9, |x, y| Rgb([((x * y * 7 + 3 * x) % 256) as u8; 3]));
        let whole = Part::whole(&picture);
        let small = resize(&picture, whole, (5, 4), (0..5, 0..4), Filter::Bicubic).unwrap();
        for (pixel, expected) in small.pixels().zip(PILLOW) {
            assert!(
                close(*pixel, [expected; 3], TOLERANCE),
                "{pixel:?} {expected}"
            );
        }
    }

    const PILLOW: [u8; 20] = [
        6, 24, 43, 64, 89, 17, 69, 132, 174, 134, 29, 125, 158, 98, 133, 42, 162, 87, 135, 102,
    ];

    #[test]
    fn crop_takes_the_centre_and_squash_takes_all() {
        // Thirds in red, green and blue; the centre square of a 3 : 1 image is all green.
        let picture = RgbImage::from_fn(90, 30, |x, _| {
            let mut pixel = Rgb([0; 3]);
            pixel[(x / 30) as usize] = 255;
            pixel
        });
        let crop = spec(10, Resize::Crop).square(&picture).unwrap();
        assert_eq!(crop.dimensions(), (10, 10));
        assert!(close(*crop.get_pixel(5, 5), [0, 255, 0], 0));
        let squash = spec(9, Resize::Squash).square(&picture).unwrap();
        assert!(close(*squash.get_pixel(0, 4), [255, 0, 0], 0));
        assert!(close(*squash.get_pixel(4, 4), [0, 255, 0], 0));
        assert!(close(*squash.get_pixel(8, 4), [0, 0, 255], 0));
    }

    #[test]
    fn a_part_is_as_if_cut_out_and_the_middle_as_if_cut_after() {
        let picture = RgbImage::from_fn(61, 47, |x, y| {
            Rgb([
                (x * 37 % 256) as u8,
                (y * 91 % 256) as u8,
                (x * y % 256) as u8,
            ])
        });
        for (left, top, width, height) in [
            (0, 0, 61, 47),
            (7, 5, 40, 30),
            (20, 0, 12, 47),
            (3, 9, 16, 12),
            (60, 46, 1, 1),
        ] {
            let part = Part {
                left,
                top,
                width,
                height,
            };
            let cut = image::imageops::crop_imm(&picture, left, top, width, height).to_image();
            for filter in [Filter::Bicubic, Filter::Bilinear] {
                for size in [
                    (16, 12),
                    (16, height),
                    (width, 12),
                    (width, height),
                    // Half of it is as large as the part.
                    (2 * width, 2 * height),
                ] {
                    let all = (0..size.0, 0..size.1);
                    let within = resize(&picture, part, size, all.clone(), filter).unwrap();
                    let alone = resize(&cut, Part::whole(&cut), size, all, filter).unwrap();
                    assert!(within == alone, "{part:?} to {size:?}");
                    let middle = |side: u32| side / 4..side - side / 4;
                    let kept = (middle(size.0), middle(size.1));
                    let some = resize(&picture, part, size, kept.clone(), filter).unwrap();
                    let (w, h) = (kept.0.end - kept.0.start, kept.1.end - kept.1.start);
                    let cut = image::imageops::crop_imm(&alone, kept.0.start, kept.1.start, w, h);
                    assert!(some == cut.to_image(), "{kept:?} of {size:?}");
                }
            }
        }
        let outside = Part {
            left: 60,
            top: 0,
            width: 2,
            height: 2,
        };
        assert!(
            spec(8, Resize::Squash)
                .square_of(&picture, outside)
                .is_err()
        );
    }

    #[test]
    fn every_proportion_gives_a_square() {
        for (width, height) in [
            (1, 1),
            (1, 50_000),
            (50_000, 1),
            (3, 7),
            (641, 480),
            (480, 641),
        ] {
            let picture = RgbImage::from_pixel(width, height, Rgb([9, 8, 7]));
            for resize in [Resize::Crop, Resize::Squash] {
                let square = spec(16, resize).square(&picture).unwrap();
                assert_eq!(square.dimensions(), (16, 16));
                assert_eq!(square.get_pixel(8, 8).0, [9, 8, 7]);
            }
        }
    }

    #[test]
    fn pixels_are_normalised_and_planar() {
        let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([(x * 255) as u8, (y * 255) as u8, 51]));
        let mut pixels = vec![7.0];
        spec(2, Resize::Squash)
            .append(&picture, &mut pixels)
            .unwrap();
        assert_eq!(
            pixels,
            [
                7.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 3.0, 3.0, 0.2, 0.2, 0.2, 0.2
            ]
        );
    }
}
