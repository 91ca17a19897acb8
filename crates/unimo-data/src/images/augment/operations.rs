//! Single changes of an image, each equal to Pillow's.
//!
//! Source: Pillow 13.0 (`ImageOps`, `ImageEnhance`, `Image.transform`, its conversions to HSV and back). Its roundings are kept: a
//! table or an integer sum where Pillow has one, single precision where it blends.

use image::RgbImage;

use crate::images::Part;

/// Bytes of a pixel.
const RGB: usize = 3;

/// A change with its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// No change.
    Identity,
    /// Stretches each channel to 0..255.
    AutoContrast,
    /// Makes the levels of each channel equally frequent.
    Equalize,
    /// Keeps this many leading bits of each channel, 1 to 8.
    Posterize(u32),
    /// Inverts levels from this one on.
    Solarize(f64),
    /// Adds this much, up to 255, then inverts levels from 128 on.
    SolarizeAdd(f64),
    /// Factor on the levels: 0 is black, 1 is the image.
    Brightness(f64),
    /// Factor on the distance from the mean grey: 0 is grey, 1 is the image.
    Contrast(f64),
    /// Factor on the distance from each pixel's own grey: 0 is grey, 1 is the image.
    Saturation(f64),
    /// Factor on the distance from the smoothed image: 0 is smooth, 1 is the image, 2 is sharpened.
    Sharpness(f64),
    /// Rotates the hue circle by this share of it, -0.5 to 0.5.
    Hue(f64),
    /// Takes pixel (x, y) from (x + strength * y, y). Outside the image is black, as in the next ones.
    ShearX(f64),
    /// Takes pixel (x, y) from (x, y + strength * x).
    ShearY(f64),
    /// Takes pixel (x, y) from (x + strength, y), in pixels.
    TranslateX(f64),
    /// Takes pixel (x, y) from (x, y + strength), in pixels.
    TranslateY(f64),
    /// Rotates about the centre, in degrees counterclockwise.
    Rotate(f64),
}

impl Operation {
    /// Changes an image; its size stays.
    pub fn apply(self, picture: &mut RgbImage) {
        self.apply_within(picture, Part::whole(picture));
    }

    /// As [`apply`](Self::apply), if only a part of the result is used: pixels around it may or may not be changed.
    pub(crate) fn apply_within(self, picture: &mut RgbImage, part: Part) {
        match self {
            Self::Identity => {}
            Self::AutoContrast => {
                let tables = histograms(picture).map(|counts| stretched(&counts));
                look_up(picture, part, &tables);
            }
            Self::Equalize => {
                let tables = histograms(picture).map(|counts| equalized(&counts));
                look_up(picture, part, &tables);
            }
            Self::Posterize(bits) => {
                let mask = !(0xff_u32 >> bits.min(u8::BITS)) as u8;
                each(picture, part, |level| level & mask);
            }
            Self::Solarize(threshold) => {
                let from = threshold.ceil() as u16;
                each(picture, part, |level| inverted(level, from));
            }
            Self::SolarizeAdd(addition) => {
                let more = |level: u8| (f64::from(level) + addition) as u8;
                let table = table(|level| inverted(more(level), 128));
                look_up(picture, part, &[table; RGB]);
            }
            Self::Brightness(factor) => {
                let table = table(|level| blend(0, level, factor as f32));
                look_up(picture, part, &[table; RGB]);
            }
            Self::Contrast(factor) => {
                let grey = mean_grey(picture);
                let table = table(|level| blend(grey, level, factor as f32));
                look_up(picture, part, &[table; RGB]);
            }
            Self::Saturation(factor) => saturate(picture, part, factor as f32),
            Self::Sharpness(factor) => sharpen(picture, part, factor as f32),
            Self::Hue(share) => turn_hue(picture, part, (share * 255.0) as i32 as u8),
            Self::ShearX(by) => affine(picture, part, [1.0, by, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY(by) => affine(picture, part, [1.0, 0.0, 0.0, by, 1.0, 0.0]),
            // Here Pillow takes the nearest pixel without its fixed-point arithmetic.
            Self::TranslateX(by) => {
                affine(picture, part, [1.0, 0.0, (by + 0.5).floor(), 0.0, 1.0, 0.0]);
            }
            Self::TranslateY(by) => {
                affine(picture, part, [1.0, 0.0, 0.0, 0.0, 1.0, (by + 0.5).floor()]);
            }
            Self::Rotate(degrees) => rotate(picture, part, degrees),
        }
    }

    /// The part of an image that must be correct so that a part of the result is.
    pub(crate) fn reads(self, part: Part, whole: Part) -> Part {
        match self {
            Self::Identity
            | Self::Posterize(_)
            | Self::Solarize(_)
            | Self::SolarizeAdd(_)
            | Self::Brightness(_)
            | Self::Saturation(_)
            | Self::Hue(_) => part,
            Self::Sharpness(_) => {
                let (left, top) = (part.left.saturating_sub(1), part.top.saturating_sub(1));
                Part {
                    left,
                    top,
                    width: (part.left + part.width + 1).min(whole.width) - left,
                    height: (part.top + part.height + 1).min(whole.height) - top,
                }
            }
            // These depend on how often each level occurs, or on pixels anywhere.
            Self::AutoContrast
            | Self::Equalize
            | Self::Contrast(_)
            | Self::ShearX(_)
            | Self::ShearY(_)
            | Self::TranslateX(_)
            | Self::TranslateY(_)
            | Self::Rotate(_) => whole,
        }
    }
}

/// The rows of a part of an image.
fn rows(picture: &mut RgbImage, part: Part) -> impl Iterator<Item = &mut [u8]> {
    let width = row_bytes(picture);
    let columns = part.left as usize * RGB..(part.left + part.width) as usize * RGB;
    picture
        .chunks_exact_mut(width.max(1))
        .skip(part.top as usize)
        .take(part.height as usize)
        .map(move |row| &mut row[columns.clone()])
}

type Table = [u8; 256];

fn table(new: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|level| new(level as u8))
}

/// For cheap functions, which the compiler applies to many bytes at a time: faster than a table.
fn each(picture: &mut RgbImage, part: Part, new: impl Fn(u8) -> u8) {
    for row in rows(picture, part) {
        for level in row {
            *level = new(*level);
        }
    }
}

fn each_pixel(picture: &mut RgbImage, part: Part, new: impl Fn([u8; RGB]) -> [u8; RGB]) {
    for row in rows(picture, part) {
        for pixel in row.as_chunks_mut::<RGB>().0 {
            *pixel = new(*pixel);
        }
    }
}

fn look_up(picture: &mut RgbImage, part: Part, [red, green, blue]: &[Table; RGB]) {
    each_pixel(picture, part, |[r, g, b]| {
        [
            red[usize::from(r)],
            green[usize::from(g)],
            blue[usize::from(b)],
        ]
    });
}

fn histograms(picture: &RgbImage) -> [[u64; 256]; RGB] {
    let mut counts = [[0; 256]; RGB];
    for pixel in picture.as_chunks::<RGB>().0 {
        for (counts, level) in counts.iter_mut().zip(pixel) {
            counts[usize::from(*level)] += 1;
        }
    }
    counts
}

fn stretched(counts: &[u64; 256]) -> Table {
    let low = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let high = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    if high <= low {
        return table(|level| level);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    table(|level| (f64::from(level) * scale + offset) as u8)
}

fn equalized(counts: &[u64; 256]) -> Table {
    let last = counts.iter().rev().find(|count| **count > 0).unwrap_or(&0);
    let step = (counts.iter().sum::<u64>() - last) / 255;
    if step == 0 {
        return table(|level| level);
    }
    let mut sum = step / 2;
    counts.map(|count| {
        let level = (sum / step).min(255) as u8;
        sum += count;
        level
    })
}

fn inverted(level: u8, from: u16) -> u8 {
    if u16::from(level) < from {
        level
    } else {
        255 - level
    }
}

/// Pillow's `Image.blend` of two levels. Factors outside 0..1 extrapolate; the result is clipped to 0 and 255.
fn blend(zero: u8, one: u8, factor: f32) -> u8 {
    // From here on, neighbouring floats are whole numbers, so adding it rounds. A plain conversion would also truncate as needed,
    // but the compiler does it one number at a time.
    const WHOLE: f32 = (1 << (f32::MANTISSA_DIGITS - 1)) as f32;
    let level = f32::from(zero) + factor * (f32::from(one) - f32::from(zero));
    let level = level.clamp(0.0, 255.0);
    let rounded = level + WHOLE;
    (rounded.to_bits() - u32::from(rounded - WHOLE > level)) as u8
}

/// A pixel's grey level (ITU-R 601-2 in 16-bit fixed point).
fn grey(&[r, g, b]: &[u8; RGB]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn mean_grey(picture: &RgbImage) -> u8 {
    let (pixels, _) = picture.as_chunks::<RGB>();
    let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(pixel))).sum();
    (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8
}

/// Row by row: grey levels first, then a plain loop over bytes.
fn saturate(picture: &mut RgbImage, part: Part, factor: f32) {
    let mut greys = vec![0; part.width as usize * RGB];
    for row in rows(picture, part) {
        let pairs = greys.as_chunks_mut::<RGB>().0.iter_mut();
        for (greys, pixel) in pairs.zip(row.as_chunks::<RGB>().0) {
            *greys = [grey(pixel); RGB];
        }
        for (level, grey) in row.iter_mut().zip(&greys) {
            *level = blend(*grey, *level, factor);
        }
    }
}

/// Pillow's `SMOOTH`: 3 x 3 with 5 in the middle, over 13; the outermost pixels stay.
fn sharpen(picture: &mut RgbImage, part: Part, factor: f32) {
    let width = row_bytes(picture);
    // The pixels that change: all but the outermost.
    let inner = |first: u32, count: u32, side: u32| {
        first.max(1) as usize..(first + count).min(side.saturating_sub(1)) as usize
    };
    let columns = inner(part.left, part.width, picture.width());
    let lines = inner(part.top, part.height, picture.height());
    if columns.is_empty() || lines.is_empty() {
        return;
    }
    // The pixels that they depend on.
    let read = (columns.start - 1) * RGB..(columns.end + 1) * RGB;
    let picture: &mut [u8] = picture;
    let mut above = picture[(lines.start - 1) * width..][read.clone()].to_vec();
    let mut here = picture[lines.start * width..][read.clone()].to_vec();
    let mut sums = vec![0u16; read.len()];
    for y in lines {
        let (done, below) = picture.split_at_mut((y + 1) * width);
        let below = &below[read.clone()];
        for (((sum, &a), &b), &c) in sums.iter_mut().zip(&above).zip(&here).zip(below) {
            *sum = u16::from(a) + u16::from(b) + u16::from(c);
        }
        let row = &mut done[y * width..][columns.start * RGB..columns.end * RGB];
        let around = sums.iter().zip(&sums[RGB..]).zip(&sums[2 * RGB..]);
        for ((level, ((&left, &middle), &right)), &own) in
            row.iter_mut().zip(around).zip(&here[RGB..])
        {
            // Rounded; no multiple of a thirteenth is a half.
            let smooth = (2 * (left + middle + right + 4 * u16::from(own)) + 13) / 26;
            *level = blend(smooth as u8, own, factor);
        }
        std::mem::swap(&mut above, &mut here);
        here.copy_from_slice(below);
    }
}

fn row_bytes(picture: &RgbImage) -> usize {
    picture.width() as usize * RGB
}

/// Converts to 8-bit hue, saturation and value and back, as Pillow.
fn turn_hue(picture: &mut RgbImage, part: Part, by: u8) {
    // For each hue after the rotation: its sixth of the circle, and the position in it.
    let sixths: [(u8, f32); 256] = std::array::from_fn(|hue| {
        let sixths = f64::from((hue as u8).wrapping_add(by)) * 6.0 / 255.0;
        (sixths as u8 % 6, (sixths - sixths.floor()) as f32)
    });
    let shares: [f32; 256] = std::array::from_fn(|saturation| (saturation as f64 / 255.0) as f32);
    each_pixel(picture, part, |pixel| {
        let [hue, saturation, value] = to_hsv(pixel);
        match saturation {
            0 => [value; RGB],
            _ => from_hsv(
                sixths[usize::from(hue)],
                shares[usize::from(saturation)],
                value,
            ),
        }
    });
}

fn to_hsv([r, g, b]: [u8; RGB]) -> [u8; RGB] {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    if high == low {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let saturation = range / f32::from(high);
    let below = |level: u8| f32::from(high - level) / range;
    let hue = if r == high {
        below(b) - below(g)
    } else if g == high {
        (2.0 + f64::from(below(r)) - f64::from(below(b))) as f32
    } else {
        (4.0 + f64::from(below(g)) - f64::from(below(r))) as f32
    };
    // Pillow takes it modulo 1. For numbers below 2 this is the same, without a call.
    let turned = f64::from(hue) / 6.0 + 1.0;
    let hue = if turned >= 1.0 { turned - 1.0 } else { turned } as f32;
    [
        (f64::from(hue) * 255.0) as u8,
        (f64::from(saturation) * 255.0) as u8,
        high,
    ]
}

fn from_hsv((sixth, rest): (u8, f32), share: f32, value: u8) -> [u8; RGB] {
    let level = |less: f64| {
        let level = f64::from(value) * (1.0 - less);
        // Rounded, halves up, again without a call.
        let whole = level as u8;
        whole + u8::from(level - f64::from(whole) >= 0.5)
    };
    let p = level(f64::from(share));
    let q = level(f64::from(share * rest));
    let t = level(f64::from(share) * (1.0 - f64::from(rest)));
    match sixth {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

fn rotate(picture: &mut RgbImage, part: Part, degrees: f64) {
    let (x, y) = (
        f64::from(picture.width()) / 2.0,
        f64::from(picture.height()) / 2.0,
    );
    // Pillow rounds sine and cosine to 15 digits.
    let (sin, cos) = (-(degrees.rem_euclid(360.0)).to_radians()).sin_cos();
    let round = |value: f64| (value * 1e15).round() / 1e15;
    let (sin, cos) = (round(sin), round(cos));
    affine(
        picture,
        part,
        [
            cos,
            sin,
            cos * -x + sin * -y + x,
            -sin,
            cos,
            -sin * -x + cos * -y + y,
        ],
    );
}

/// Takes pixel (x, y) from the nearest of (a x + b y + c, d x + e y + f), in 16.16 fixed point as Pillow; outside is black.
fn affine(picture: &mut RgbImage, part: Part, [a, b, c, d, e, f]: [f64; 6]) {
    const ONE: i64 = 1 << 16;
    let fixed = |value: f64| (value * ONE as f64 + 0.5).floor() as i64;
    let (width, height) = (i64::from(picture.width()), i64::from(picture.height()));
    let row = row_bytes(picture);
    let from = std::mem::replace(picture, RgbImage::new(picture.width(), picture.height()));
    let from: &[u8] = &from;
    let (right, down) = ((fixed(a), fixed(d)), (fixed(b), fixed(e)));
    let start = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let left = i64::from(part.left);
    for (y, to) in (i64::from(part.top)..).zip(rows(picture, part)) {
        let x0 = start.0.saturating_add(down.0.saturating_mul(y));
        let y0 = start.1.saturating_add(down.1.saturating_mul(y));
        let across = inside(x0, right.0, width * ONE, width);
        let along = inside(y0, right.1, height * ONE, width);
        let first = across.start.max(along.start).max(left);
        let last = across.end.min(along.end).min(left + i64::from(part.width));
        if first >= last {
            continue;
        }
        let at = |x: i64| {
            let (from_x, from_y) = ((x0 + right.0 * x) >> 16, (y0 + right.1 * x) >> 16);
            from_y as usize * row + from_x as usize * RGB
        };
        let to = &mut to[(first - left) as usize * RGB..(last - left) as usize * RGB];
        if right == (ONE, 0) {
            to.copy_from_slice(&from[at(first)..][..to.len()]);
            continue;
        }
        for (x, pixel) in (first..last).zip(to.as_chunks_mut::<RGB>().0) {
            let at = at(x);
            pixel.copy_from_slice(&from[at..at + RGB]);
        }
    }
}

/// The `x` of `0..count` for which `start + step * x` lies in `0..limit`.
fn inside(start: i64, step: i64, limit: i64, count: i64) -> std::ops::Range<i64> {
    // The smallest x that makes `step * x` at least `value`, for a positive step.
    let reach =
        |value: i64, step: i64| value.div_euclid(step) + i64::from(value.rem_euclid(step) > 0);
    let range = match step {
        0 if (0..limit).contains(&start) => 0..count,
        0 => 0..0,
        1.. => reach(start.saturating_neg(), step)..reach(limit.saturating_sub(start), step),
        // Downwards: start - |step| x >= 0 and < limit.
        _ => {
            let step = step.saturating_neg();
            let above = start.saturating_sub(limit).saturating_add(1);
            reach(above, step)..reach(start.saturating_add(1), step)
        }
    };
    range.start.clamp(0, count)..range.end.clamp(0, count)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::images::augment::rand_augment::OperationList;
    use image::Rgb;

    /// All levels of all channels; the channels are in every order of size.
    fn many_colours() -> RgbImage {
        RgbImage::from_fn(64, 48, |x, y| {
            let mixed = (x * 7 + y * 13) * 2_654_435_761 % 65_521;
            Rgb([(mixed % 256) as u8, (mixed / 7 % 256) as u8, (x * 4) as u8])
        })
    }

    #[test]
    fn a_part_is_as_it_is_in_the_whole_and_depends_on_no_more_than_is_said() {
        let picture = many_colours();
        let (width, height) = picture.dimensions();
        let mut changed = HashSet::new();
        for list in [OperationList::Meter, OperationList::Torchvision] {
            let mut operations = list.operations(9, picture.dimensions());
            operations.extend([Operation::Hue(0.3), Operation::Sharpness(0.2)]);
            for operation in operations {
                let mut whole = picture.clone();
                operation.apply(&mut whole);
                for (left, top, right, bottom) in [
                    (0, 0, width, height),
                    (10, 7, 40, 30),
                    (0, 20, 1, 21),
                    (1, 1, 2, 3),
                    (width - 1, 0, width, height),
                    (5, height - 2, 60, height),
                ] {
                    let part = Part {
                        left,
                        top,
                        width: right - left,
                        height: bottom - top,
                    };
                    let within = |part: Part, x: u32, y: u32| {
                        (part.left..part.left + part.width).contains(&x)
                            && (part.top..part.top + part.height).contains(&y)
                    };
                    // The pixels around what is read differ.
                    let reads = operation.reads(part, Part::whole(&picture));
                    let mut other = picture.clone();
                    for (x, y, pixel) in other.enumerate_pixels_mut() {
                        if !within(reads, x, y) {
                            *pixel = Rgb([99, 1, 250]);
                        }
                    }
                    operation.apply_within(&mut other, part);
                    for (x, y, pixel) in other.enumerate_pixels() {
                        if within(part, x, y) {
                            assert_eq!(pixel, whole.get_pixel(x, y), "{operation:?} {part:?}");
                        }
                    }
                    if reads != Part::whole(&picture) {
                        changed.insert(format!("{operation:?}"));
                    }
                }
            }
        }
        // Posterise, solarise, brightness, saturation and sharpness of both lists, and identity, addition, hue.
        assert!(changed.len() >= 13, "{changed:?}");
    }

    #[test]
    fn neutral_strengths_change_nothing() {
        for operation in [
            Operation::Identity,
            Operation::Posterize(8),
            Operation::Solarize(256.0),
            Operation::Brightness(1.0),
            Operation::Contrast(1.0),
            Operation::Saturation(1.0),
            Operation::Sharpness(1.0),
            Operation::ShearX(0.0),
            Operation::ShearY(0.0),
            Operation::TranslateX(0.0),
            Operation::TranslateY(0.0),
            Operation::Rotate(0.0),
        ] {
            let mut picture = many_colours();
            operation.apply(&mut picture);
            assert!(picture == many_colours(), "{operation:?}");
        }
    }

    #[test]
    fn pictures_of_any_size_and_of_one_colour_are_taken() {
        for (width, height) in [(0, 0), (1, 1), (2, 2), (1, 500), (500, 1), (3, 3)] {
            for operation in [
                Operation::AutoContrast,
                Operation::Equalize,
                Operation::Contrast(1.9),
                Operation::Saturation(0.1),
                Operation::Sharpness(1.9),
                Operation::Hue(0.0),
            ] {
                // Grey, so that no colour operation changes it.
                let plain = RgbImage::from_pixel(width, height, Rgb([90; 3]));
                let mut picture = plain.clone();
                operation.apply(&mut picture);
                assert!(picture == plain, "{operation:?} of {width} x {height}");
            }
            for operation in [
                Operation::Rotate(-30.0),
                Operation::ShearX(-1e300),
                Operation::ShearY(0.3),
                Operation::TranslateX(1e9),
                Operation::TranslateY(-1e300),
            ] {
                let mut picture = RgbImage::from_pixel(width, height, Rgb([90; 3]));
                operation.apply(&mut picture);
                assert_eq!(picture.dimensions(), (width, height));
            }
        }
    }

    #[test]
    fn translation_goes_where_it_is_told_and_leaves_black() {
        let mut picture = many_colours();
        Operation::TranslateX(10.0).apply(&mut picture);
        Operation::TranslateY(-5.0).apply(&mut picture);
        let before = many_colours();
        for (x, y, pixel) in picture.enumerate_pixels() {
            let expected = match (x + 10 < 64, y >= 5) {
                (true, true) => *before.get_pixel(x + 10, y - 5),
                _ => Rgb([0; 3]),
            };
            assert_eq!(*pixel, expected, "{x}, {y}");
        }
    }

    #[test]
    fn ranges_are_those_of_trying_every_pixel() {
        for start in [-300, -65, -1, 0, 1, 64, 65, 200, 400] {
            for step in [-70, -64, -7, -1, 0, 1, 7, 64, 70] {
                let (limit, count) = (256, 12);
                let tried: Vec<i64> = (0..count)
                    .filter(|x| (0..limit).contains(&(start + step * x)))
                    .collect();
                let range: Vec<i64> = inside(start, step, limit, count).collect();
                assert_eq!(range, tried, "{start} + {step} x");
            }
        }
    }
}
