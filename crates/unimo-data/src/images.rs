//! From an image file's bytes to normalised pixels.
//!
//! Shape legend: `C` = 3 channels, `S` the model's picture side, `H x W` the file's own size.

use std::io::Cursor;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use serde::{Deserialize, Serialize};
use unimo_batch::Images;

use crate::error::{ReadError, panic_text};
use crate::{orientation, png, storage};

/// How a picture of any form becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side is brought to size, then the centre is cut out, as torchvision does (METER, OpenAI's CLIP).
    #[default]
    Crop,
    /// Both sides are brought to size; nothing is lost, proportions change (ViT).
    Squash,
    /// As `crop`, with the centre of an odd rest rounded as Hugging Face's `CLIPImageProcessor` does.
    ClipProcessor,
    /// Hugging Face's `BridgeTowerImageProcessor`: the shorter side is brought to size, the longer one to at most 1333 / 800
    /// of it, both are rounded down to a multiple of 32, then the centre is cut out; what is missing is black.
    BridgetowerProcessor,
}

/// How pixels between pixels are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Pillow's `BICUBIC` (Keys' kernel with a = -0.5): CLIP, BridgeTower, METER.
    #[default]
    Bicubic,
    /// Pillow's `BILINEAR`: ViT and DeiT.
    Bilinear,
}

/// How pictures become pixels for the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageSpec {
    /// `S`: side of the square picture.
    pub size: usize,
    /// How a picture becomes square.
    pub resize: Resize,
    /// How pixels between pixels are computed.
    pub filter: Filter,
    /// Mean per channel, subtracted from values in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, divided by.
    pub std: [f32; 3],
}

/// What bounds the decoding of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest picture that is decoded, in pixels.
    pub max_pixels: u64,
    /// Shorter side that a picture needs at most, in pixels: of a JPEG no more is decoded than the smallest of 1/8, 1/4, 1/2 and all of
    /// its size that has it, as Pillow's `draft`. None: all of every picture.
    pub enough: Option<u32>,
}

impl Limits {
    /// All of a picture of at most so many pixels.
    pub const fn full_size(max_pixels: u64) -> Self {
        Self {
            max_pixels,
            enough: None,
        }
    }
}

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// Columns left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its columns.
    pub width: u32,
    /// Its rows.
    pub height: u32,
}

impl Part {
    /// All of a picture.
    pub fn whole(picture: &RgbImage) -> Self {
        Self {
            left: 0,
            top: 0,
            width: picture.width(),
            height: picture.height(),
        }
    }

    /// What lies in a box, x1, y1, x2, y2 as shares of width and height: at least one pixel.
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

/// Bytes of a file per allowed pixel: no sensible encoding needs more than 16-bit RGBA does.
const FILE_BYTES_PER_PIXEL: u64 = 8;
/// Bytes that any file may have on top, for metadata.
const FILE_BYTES_FREE: u64 = 16 << 20;
/// Bytes that a decoder may hold per allowed pixel: 16-bit RGBA twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;

/// Bytes that the file of a picture may have.
pub(crate) fn largest_file(max_pixels: u64) -> u64 {
    max_pixels
        .saturating_mul(FILE_BYTES_PER_PIXEL)
        .saturating_add(FILE_BYTES_FREE)
}

/// Bytes that a decoder may hold.
pub(crate) fn decoder_bytes(max_pixels: u64) -> u64 {
    max_pixels
        .saturating_mul(DECODER_BYTES_PER_PIXEL)
        .saturating_add(FILE_BYTES_FREE)
}

/// Refuses a picture for the size that its header states.
pub(crate) fn refuse_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("the picture has no pixels ({width} x {height})"));
    }
    match u64::from(width) * u64::from(height) > max_pixels {
        true => Err(format!(
            "{width} x {height} pixels are more than `data.max_pixels` = {max_pixels}"
        )),
        false => Ok(()),
    }
}

/// Reads a picture; see [`decode`].
///
/// # Errors
///
/// The reason, as it is listed for the skipped sample.
pub fn read(path: &Path, limits: Limits) -> Result<RgbImage, ReadError> {
    let bytes = bytes_of(path, limits.max_pixels)?;
    decode(&bytes, limits).map_err(|reason| format!("image {}: {reason}", path.display()).into())
}

/// A picture's file as it is stored, with the extension of its format (`jpg`, `png`, `webp`).
///
/// # Errors
///
/// The file cannot be read or is of another format. It is not decoded.
pub fn read_file(path: &Path, max_pixels: u64) -> Result<(Vec<u8>, &'static str), ReadError> {
    let bytes = bytes_of(path, max_pixels)?;
    match extension_of(&bytes) {
        Some(extension) => Ok((bytes, extension)),
        None => Err(format!("image {}: not a JPEG, PNG or WebP file", path.display()).into()),
    }
}

/// The extension of a picture file's format, told by its content; none for formats that are not read.
pub(crate) fn extension_of(bytes: &[u8]) -> Option<&'static str> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Some("jpg"),
        Ok(ImageFormat::Png) => Some("png"),
        Ok(ImageFormat::WebP) => Some("webp"),
        _ => None,
    }
}

/// A file of a size that a picture of so many pixels may have.
fn bytes_of(path: &Path, max_pixels: u64) -> Result<Vec<u8>, ReadError> {
    storage::read_listed(path, largest_file(max_pixels))
        .map_err(|error| error.told(|reason| format!("image {}: {reason}", path.display())))
}

/// Decodes JPEG, PNG or WebP, told apart by content, to upright 8-bit RGB.
///
/// The orientation in EXIF or XMP is applied, however it is stored, transparency is laid over white, grey, palette, CMYK and 16-bit
/// pictures are converted, of an animation the first frame is taken. Checksums of a PNG file are compared as Pillow does by default:
/// those of its pixels are not, as long as the stream of pixels is whole by its own checksum. A size above [`Limits::max_pixels`] is refused from the header, before any pixel
/// is decoded, and a panic inside a decoder is a reason like any other.
///
/// # Errors
///
/// The reason, as it is listed for the skipped sample.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<RgbImage, String> {
    catch_unwind(AssertUnwindSafe(|| decode_caught(bytes, limits)))
        .unwrap_or_else(|payload| Err(format!("the decoder failed: {}", panic_text(&*payload))))
}

fn decode_caught(bytes: &[u8], limits: Limits) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let max_pixels = limits.max_pixels;
    let mut mended = None;
    let format = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => {
            if let Some(picture) = crate::jpeg::decode(bytes, limits)? {
                return Ok(picture);
            }
            ImageFormat::Jpeg
        }
        Ok(ImageFormat::Png) => {
            mended = png::with_checksums(bytes, decoder_bytes(max_pixels))?;
            ImageFormat::Png
        }
        Ok(ImageFormat::WebP) => ImageFormat::WebP,
        Ok(other) => {
            return Err(format!(
                "it is a {} file, not JPEG, PNG or WebP",
                other.extensions_str().first().unwrap_or(&"foreign")
            ));
        }
        Err(_) => return Err("not a JPEG, PNG or WebP file".to_owned()),
    };
    let bytes = mended.as_deref().unwrap_or(bytes);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(decoder_bytes(max_pixels));
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    refuse_size(width, height, max_pixels)?;
    let orientation = orientation::of(bytes, format);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    picture.apply_orientation(orientation);
    Ok(over_white(picture))
}

fn over_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (to, from) in opaque.pixels_mut().zip(picture.pixels()) {
        let alpha = u32::from(from[3]);
        to.0 = std::array::from_fn(|channel| {
            ((u32::from(from[channel]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        });
    }
    opaque
}

impl ImageSpec {
    /// Widest strip that is resized before the centre is cut out, in picture sides. Beyond it both ends are cut off
    /// first: a picture of 1 x 100,000 pixels would otherwise be blown up to gigabytes.
    const LONGEST_STRIP: f64 = 8.0;

    /// Makes a picture square and of the model's size, as Pillow does.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// The reason, as it is listed for the skipped sample.
    pub fn square(&self, picture: &RgbImage) -> Result<RgbImage, String> {
        self.square_within(picture, Part::whole(picture))
    }

    /// Brings a part of a picture to the model's size, whatever its proportions, as if it were cut out and both sides brought
    /// to size.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// The reason, as it is listed for the skipped sample: the part lies outside of the picture.
    pub fn square_of(&self, picture: &RgbImage, part: Part) -> Result<RgbImage, String> {
        let size = self.size as u32;
        resize(picture, part, (size, size), (0..size, 0..size), self.filter)
    }

    fn square_within(&self, picture: &RgbImage, part: Part) -> Result<RgbImage, String> {
        let size = self.size as u32;
        match self.resize {
            Resize::Squash => self.square_of(picture, part),
            Resize::Crop | Resize::ClipProcessor | Resize::BridgetowerProcessor => {
                let Part { width, height, .. } = part;
                let short = width.min(height);
                let longest = (f64::from(short) * Self::LONGEST_STRIP) as u32;
                if width.max(height) > longest {
                    let (keep_w, keep_h) = (width.min(longest), height.min(longest));
                    let strip = Part {
                        left: part.left + (width - keep_w) / 2,
                        top: part.top + (height - keep_h) / 2,
                        width: keep_w,
                        height: keep_h,
                    };
                    return self.square_within(picture, strip);
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
                let kept = (kept(width), kept(height));
                let middle = resize(picture, part, (width, height), kept, self.filter)?;
                Ok(fill_up(middle, size))
            }
        }
    }

    /// What [`square`](Self::square) keeps of a picture, to look at: in the picture's own proportions and with a longer side of
    /// `side` pixels.
    ///
    /// # Shapes
    ///
    /// `H x W` to `side x side`, or to `side` by less where nothing is cut off.
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

    /// Normalised pixels of one picture, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `H x W` to `[C, S, S]`.
    ///
    /// # Errors
    ///
    /// The reason, as it is listed for the skipped sample.
    pub fn append(&self, picture: &RgbImage, pixels: &mut Vec<f32>) -> Result<(), String> {
        self.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    /// Normalised pixels of a picture that is square already, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `S x S` to `[C, S, S]`.
    pub fn normalise(&self, square: &RgbImage, pixels: &mut Vec<f32>) {
        let mut levels = Vec::new();
        self.planes(square, &mut levels);
        pixels.extend(self.batch(Vec::new()).normalised(&levels));
    }

    /// The levels of a picture that is square already, channel by channel, appended to `levels`.
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

    /// Levels of pictures as the part of a batch that says what a model reads of them.
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
        }
    }

    /// Numbers per picture, `C * S * S`.
    pub fn values(&self) -> usize {
        Images::CHANNELS * self.size * self.size
    }
}

/// A picture to look at, its longer side brought down to `side` pixels, the shorter one in proportion.
pub fn thumbnail(picture: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    let share = f64::from(side) / f64::from(width.max(height).max(1));
    let scaled = |side: u32| ((f64::from(side) * share).round() as u32).max(1);
    image::imageops::thumbnail(picture, scaled(width), scaled(height))
}

/// A picture with its shorter side brought down to `side` pixels, the longer one in proportion; none if it is that small.
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

/// All of a picture at another size.
fn resize_whole(
    picture: &RgbImage,
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<RgbImage, String> {
    let kept = (0..width, 0..height);
    resize(picture, Part::whole(picture), (width, height), kept, filter)
}

/// The size to which `BridgeTowerImageProcessor` brings a picture, width first.
fn bridgetower_size(width: u32, height: u32, shorter: u32) -> (u32, u32) {
    const DIVISOR: u32 = 32;
    let (w, h, shorter) = (f64::from(width), f64::from(height), f64::from(shorter));
    let longest = (1333.0 / 800.0 * shorter).floor();
    let scale = shorter / w.min(h);
    let (mut new_h, mut new_w) = match h < w {
        true => (shorter, scale * w),
        false => (scale * h, shorter),
    };
    if new_h.max(new_w) > longest {
        let scale = longest / new_h.max(new_w);
        (new_h, new_w) = (scale * new_h, scale * new_w);
    }
    let coarse = |side: f64| ((side + 0.5) as u32 / DIVISOR * DIVISOR).max(DIVISOR);
    (coarse(new_w), coarse(new_h))
}

/// Where the middle of `size` begins on a side; 0 where the side is too short.
fn centre(side: u32, size: u32, round_even: bool) -> u32 {
    let rest = side.saturating_sub(size);
    match round_even {
        true => (f64::from(rest) / 2.0).round_ties_even() as u32,
        false => rest / 2,
    }
}

/// A side that is too short is filled with black on both ends, more at the end where the rest is odd.
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

/// Width and height of a file's picture as it is stored, before any turning that its metadata asks for, from its first bytes.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?
        .into_dimensions()
        .map_err(|error| error.to_string())
}

/// A picture as JPEG, to be shown; none if it has no pixels.
pub fn jpeg(picture: &RgbImage) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg).ok()?;
    Some(bytes.into_inner())
}

/// Brings a part of a picture to `(width, height)` as Pillow does: across, then down, rounded to whole levels in between. The
/// resizer on its own goes the other way round, which differs by two levels at hard edges. Of the result only the columns and
/// rows of `kept` are made, from no more rows of the picture than they need.
fn resize(
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

/// What becomes of one side of a picture.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// Pixels of the side.
    side: u32,
    /// Where what is kept begins and how long it is, in these pixels.
    from: f64,
    length: f64,
    /// Pixels that it becomes.
    target: u32,
    /// Whether they are computed; otherwise some are left out at most.
    scaled: bool,
}

impl Stretch {
    /// A side that becomes `whole` pixels, of which `kept` are made.
    fn new(side: u32, whole: u32, kept: Range<u32>) -> Self {
        let scale = f64::from(side) / f64::from(whole.max(1));
        let target = kept.end - kept.start;
        let from = f64::from(kept.start) * scale;
        let length = match target == whole {
            true => f64::from(side),
            // Rounding must not take it beyond the side.
            false => (f64::from(target) * scale).min(f64::from(side) - from),
        };
        Self {
            side,
            from,
            length,
            target,
            scaled: whole != side,
        }
    }

    /// The pixels that those that are made depend on.
    fn needed(&self) -> Range<u32> {
        /// Pixels on each side of a place that a bicubic filter looks at, times the scale; one more for rounding.
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
    // Types that name the kind of pixel: with the crate's other ones, this crate would be compiled for every kind that there is.
    let source =
        TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture.as_raw())
            .map_err(|error| error.to_string())?;
    // What is around the part must not show at its edges, which it would with a crop box alone.
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
    use image::{ExtendedColorType, ImageEncoder, Rgb, Rgba, RgbaImage};

    const MAX: Limits = Limits::full_size(1_000_000);
    /// JPEG at quality 100 is off by a few grey levels on flat colour, subsampled edges aside.
    const JPEG_TOLERANCE: u8 = 4;

    fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Left half red, right half blue, so that orientation and channels show.
    fn halves(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, _| {
            if x < width / 2 {
                Rgb([250, 10, 10])
            } else {
                Rgb([10, 10, 250])
            }
        })
    }

    fn close(a: Rgb<u8>, b: [u8; 3], tolerance: u8) -> bool {
        a.0.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= tolerance)
    }

    #[test]
    fn thumbnails_keep_their_shape() {
        for (width, height, expected) in [(200, 100, (50, 25)), (30, 3000, (1, 50))] {
            assert_eq!(thumbnail(&halves(width, height), 50).dimensions(), expected);
        }
    }

    #[test]
    fn formats_are_told_by_content() {
        let picture = DynamicImage::from(halves(20, 10));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("mislabelled.gif");
            std::fs::write(&path, encode(&picture, format)).unwrap();
            let read = read(&path, MAX).unwrap();
            assert_eq!(read.dimensions(), (20, 10));
            assert!(
                close(*read.get_pixel(2, 5), [250, 10, 10], 12),
                "{format:?}"
            );
            assert!(
                close(*read.get_pixel(17, 5), [10, 10, 250], 12),
                "{format:?}"
            );
        }
    }

    #[test]
    fn alpha_is_laid_over_white() {
        let picture =
            RgbaImage::from_fn(3, 1, |x, _| Rgba([0, 100, 200, [0, 128, 255][x as usize]]));
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let read = decode(&encode(&picture.clone().into(), format), MAX).unwrap();
            assert_eq!(read.get_pixel(0, 0).0, [255, 255, 255]);
            // 255 - (255 - c) * 128 / 255, rounded.
            assert_eq!(read.get_pixel(1, 0).0, [127, 177, 227]);
            assert_eq!(read.get_pixel(2, 0).0, [0, 100, 200]);
        }
    }

    #[test]
    fn grey_and_sixteen_bit_and_palette_are_converted() {
        let grey = image::GrayImage::from_pixel(4, 4, image::Luma([77]));
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let read = decode(&encode(&grey.clone().into(), format), MAX).unwrap();
            assert!(close(*read.get_pixel(1, 1), [77; 3], JPEG_TOLERANCE));
        }
        let deep = image::ImageBuffer::from_pixel(4, 4, Rgb([0u16, 257 * 100, 65535]));
        let deep = decode(
            &encode(&DynamicImage::ImageRgb16(deep), ImageFormat::Png),
            MAX,
        )
        .unwrap();
        assert_eq!(deep.get_pixel(0, 0).0, [0, 100, 255]);
        let deep = image::ImageBuffer::from_pixel(4, 4, image::Luma([257u16 * 50]));
        let deep = decode(
            &encode(&DynamicImage::ImageLuma16(deep), ImageFormat::Png),
            MAX,
        )
        .unwrap();
        assert_eq!(deep.get_pixel(0, 0).0, [50; 3]);
        let palette = decode(&palette_png(), MAX).unwrap();
        assert_eq!(palette.get_pixel(0, 0).0, [1, 2, 3]);
        assert_eq!(palette.get_pixel(1, 0).0, [40, 50, 60]);
    }

    fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut crc = !0u32;
        for byte in kind.iter().chain(data) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
        chunk.extend(kind);
        chunk.extend(data);
        chunk.extend((!crc).to_be_bytes());
        chunk
    }

    fn png(width: u32, height: u32, kind: u8, middle: &[Vec<u8>]) -> Vec<u8> {
        let mut header = width.to_be_bytes().to_vec();
        header.extend(height.to_be_bytes());
        header.extend([8, kind, 0, 0, 0]);
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        bytes.extend(png_chunk(b"IHDR", &header));
        middle.iter().for_each(|chunk| bytes.extend(chunk));
        bytes.extend(png_chunk(b"IEND", &[]));
        bytes
    }

    /// A zlib stream of one stored block.
    fn stored(data: &[u8]) -> Vec<u8> {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in data {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        let length = data.len() as u16;
        let mut stream = vec![0x78, 0x01, 0x01];
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(data);
        stream.extend(((b << 16) | a).to_be_bytes());
        stream
    }

    fn palette_png() -> Vec<u8> {
        png(
            2,
            1,
            3,
            &[
                png_chunk(b"PLTE", &[1, 2, 3, 40, 50, 60]),
                png_chunk(b"IDAT", &stored(&[0, 0, 1])),
            ],
        )
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        let bomb = png(
            60_000,
            60_000,
            2,
            &[png_chunk(b"IDAT", &stored(&[0; 1000]))],
        );
        let reason = decode(&bomb, Limits::full_size(50_000_000)).unwrap_err();
        assert!(reason.contains("60000 x 60000"), "{reason}");
        assert!(reason.contains("max_pixels"), "{reason}");
    }

    #[test]
    fn broken_files_give_their_reason() {
        let scaled = Limits {
            enough: Some(16),
            ..MAX
        };
        let picture = DynamicImage::from(RgbImage::from_fn(64, 64, |x, y| {
            Rgb([(x * 3) as u8, (y * 3) as u8, (x ^ y) as u8])
        }));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let bytes = encode(&picture, format);
            for (limits, side) in [(MAX, 64), (scaled, 16)] {
                let side = match format {
                    ImageFormat::Jpeg => side,
                    _ => 64,
                };
                assert_eq!(decode(&bytes, limits).unwrap().dimensions(), (side, side));
                for share in [0.1, 0.5, 0.9] {
                    let cut = (bytes.len() as f64 * share) as usize;
                    assert!(
                        decode(&bytes[..cut], limits).is_err(),
                        "{format:?} cut to {share} was accepted"
                    );
                }
            }
        }
        assert!(decode(&[], MAX).unwrap_err().contains("empty"));
        assert!(
            decode(b"<html>404</html>", MAX)
                .unwrap_err()
                .contains("not a JPEG")
        );
        assert!(
            decode(b"GIF89a\x01\0\x01\0\0\0\0", MAX)
                .unwrap_err()
                .contains("gif")
        );
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("absent.jpg")] {
            let reason = read(&path, MAX).unwrap_err().reason;
            assert!(reason.contains(&path.display().to_string()), "{reason}");
        }
    }

    #[test]
    fn forms_of_jpeg_that_pillow_does_not_read_or_damage_does_not_show_in_are_refused() {
        let jpeg = encode(&halves(16, 16).into(), ImageFormat::Jpeg);
        let at = |marker: u8| {
            let found = jpeg.windows(2).position(|pair| pair == [0xff, marker]);
            found.unwrap()
        };
        let (frame, scan) = (at(0xc0), at(0xda));
        for (bytes, part) in [
            (vec![(frame + 1, 0xc9)], "arithmetic"),
            (vec![(frame + 4, 12)], "12 bits"),
            // The second component is called as the first one.
            (vec![(frame + 13, 1), (scan + 7, 1)], "same name"),
        ] {
            let mut other = jpeg.clone();
            for (at, byte) in bytes {
                other[at] = byte;
            }
            let reason = decode(&other, MAX).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn no_corruption_of_a_file_panics_or_hangs() {
        let picture = DynamicImage::from(halves(24, 24));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let bytes = encode(&picture, format);
            for case in 0..400u64 {
                let mut broken = bytes.clone();
                for flip in 0..3 {
                    let at = crate::order::hash(crate::order::Stream::Order, &[case, flip]);
                    let index = crate::order::below(at, broken.len());
                    broken[index] ^= (at & 0xff) as u8;
                }
                if let Ok(decoded) = decode(&broken, MAX) {
                    assert!(
                        u64::from(decoded.width()) * u64::from(decoded.height()) <= MAX.max_pixels
                    );
                }
            }
        }
    }

    #[test]
    fn orientation_is_applied() {
        // Orientation 6: the stored picture has to be turned by 90 degrees clockwise, so its left half comes to the
        // top.
        let mut exif =
            b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
        exif.extend([0; 4]);
        let jpeg = encode(&halves(32, 16).into(), ImageFormat::Jpeg);
        let mut file = jpeg[..2].to_vec();
        file.extend([0xff, 0xe1]);
        file.extend((exif.len() as u16 + 2).to_be_bytes());
        file.extend(&exif);
        file.extend(&jpeg[2..]);
        let turned = decode(&file, MAX).unwrap();
        assert_eq!(turned.dimensions(), (16, 32));
        assert!(close(*turned.get_pixel(8, 4), [250, 10, 10], 12));
        assert!(close(*turned.get_pixel(8, 28), [10, 10, 250], 12));
        let limits = Limits {
            enough: Some(4),
            ..MAX
        };
        let small = decode(&file, limits).unwrap();
        assert_eq!(small.dimensions(), (4, 8));
        assert!(close(*small.get_pixel(2, 1), [250, 10, 10], 12));
    }

    /// One 8 x 8 block of four flat channels as a baseline JPEG with Adobe's marker.
    fn four_channel_jpeg(stored: [u8; 4], transform: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xee, 0, 14];
        bytes.extend(b"Adobe\0\x64\0\0\0\0");
        bytes.push(transform);
        bytes.extend([0xff, 0xdb, 0, 67, 0]);
        bytes.extend([1; 64]);
        bytes.extend([0xff, 0xc0, 0, 20, 8, 0, 8, 0, 8, 4]);
        for channel in 1..=4 {
            bytes.extend([channel, 0x11, 0]);
        }
        // DC: twelve codes of 4 bits for the categories 0 to 11. AC: end of block as the single bit 0.
        bytes.extend([0xff, 0xc4, 0, 31, 0x00, 0, 0, 0, 12]);
        bytes.extend([0; 12]);
        bytes.extend(0..12);
        bytes.extend([0xff, 0xc4, 0, 20, 0x10, 1]);
        bytes.extend([0; 15]);
        bytes.push(0);
        bytes.extend([0xff, 0xda, 0, 14, 4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0]);
        let mut bits = String::new();
        for value in stored {
            // With a quantiser of 1 the DC coefficient is eight times the level.
            let level = (i32::from(value) - 128) * 8;
            let category = (32 - level.unsigned_abs().leading_zeros()) as usize;
            bits += &format!("{category:04b}");
            if category > 0 {
                let coded = if level > 0 {
                    level
                } else {
                    level + (1 << category) - 1
                };
                bits += &format!("{coded:0category$b}");
            }
            bits += "0";
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        for byte in bits.as_bytes().chunks(8) {
            let byte = byte
                .iter()
                .fold(0u8, |byte, bit| (byte << 1) | (bit - b'0'));
            bytes.push(byte);
            if byte == 0xff {
                bytes.push(0);
            }
        }
        bytes.extend([0xff, 0xd9]);
        bytes
    }

    #[test]
    fn cmyk_and_ycck_are_converted() {
        // Adobe stores 255 - ink. Cyan 55, magenta 155, yellow 205, black 51: R = (255 - 55) * 204 / 255 and so on.
        let cmyk = decode(&four_channel_jpeg([200, 100, 50, 204], 0), MAX).unwrap();
        assert!(
            close(*cmyk.get_pixel(3, 3), [160, 80, 40], JPEG_TOLERANCE),
            "{:?}",
            cmyk.get_pixel(3, 3)
        );
        // Y = 128 without colour is R = G = B = 128, which YCCK counts as ink: (255 - 128) * 204 / 255.
        let ycck = decode(&four_channel_jpeg([128, 128, 128, 204], 2), MAX).unwrap();
        assert!(
            close(*ycck.get_pixel(3, 3), [102, 102, 102], JPEG_TOLERANCE),
            "{:?}",
            ycck.get_pixel(3, 3)
        );
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
        // One grey level, as the two round at different places.
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
        // Thirds in red, green and blue; the centre square of a 3 : 1 picture is all green.
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

    #[test]
    fn the_first_frame_of_an_animation_is_taken() {
        let mut frame = Vec::new();
        image::codecs::webp::WebPEncoder::new_lossless(&mut frame)
            .write_image(&[200, 30, 40, 200, 30, 40], 2, 1, ExtendedColorType::Rgb8)
            .unwrap();
        // The still file's image chunk, inside an animation of one frame.
        let chunk = &frame[12..];
        let chunk_of = |kind: &[u8; 4], data: &[u8]| {
            let mut bytes = kind.to_vec();
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(data);
            if data.len() % 2 == 1 {
                bytes.push(0);
            }
            bytes
        };
        let mut anmf = vec![0; 6];
        anmf.extend([1, 0, 0, 0, 0, 0, 100, 0, 0, 2]);
        anmf.extend(chunk);
        let mut body = b"WEBP".to_vec();
        body.extend(chunk_of(b"VP8X", &[2, 0, 0, 0, 1, 0, 0, 0, 0, 0]));
        body.extend(chunk_of(b"ANIM", &[0; 6]));
        body.extend(chunk_of(b"ANMF", &anmf));
        body.extend(chunk_of(b"ANMF", &anmf));
        let file = chunk_of(b"RIFF", &body);
        let picture = decode(&file, MAX).unwrap();
        assert_eq!(picture.get_pixel(1, 0).0, [200, 30, 40]);
    }
}
