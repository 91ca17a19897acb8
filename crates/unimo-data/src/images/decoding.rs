//! Decodes image files, and encodes images.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use crate::error::{ReadError, panic_text};
use crate::formats::png;
use crate::images::limits::{Limits, decoder_bytes, largest_file, refuse_size};
use crate::images::orientation;
use crate::store;

/// Reads an image; see [`decode`].
///
/// # Errors
///
/// The reason, as listed for the skipped sample.
pub fn read(path: &Path, limits: Limits) -> Result<RgbImage, ReadError> {
    let bytes = bytes_of(path, limits.max_pixels)?;
    decode(&bytes, limits).map_err(|reason| format!("image {}: {reason}", path.display()).into())
}

/// The bytes of an image's file, and the extension of its format (`jpg`, `png`, `webp`).
///
/// # Errors
///
/// The file cannot be read or has another format. It is not decoded.
pub fn read_file(path: &Path, max_pixels: u64) -> Result<(Vec<u8>, &'static str), ReadError> {
    let bytes = bytes_of(path, max_pixels)?;
    match extension_of(&bytes) {
        Some(extension) => Ok((bytes, extension)),
        None => Err(format!("image {}: not a JPEG, PNG or WebP file", path.display()).into()),
    }
}

/// The extension of an image file's format, recognised by content; `None` for unsupported formats.
pub(crate) fn extension_of(bytes: &[u8]) -> Option<&'static str> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Some("jpg"),
        Ok(ImageFormat::Png) => Some("png"),
        Ok(ImageFormat::WebP) => Some("webp"),
        _ => None,
    }
}

/// Reads a file, if an image of this many pixels may have its size.
fn bytes_of(path: &Path, max_pixels: u64) -> Result<Vec<u8>, ReadError> {
    store::read_listed(path, largest_file(max_pixels))
        .map_err(|error| error.told(|reason| format!("image {}: {reason}", path.display())))
}

/// Decodes JPEG, PNG or WebP, recognised by content, to upright 8-bit RGB.
///
/// The orientation in EXIF or XMP is applied, however it is stored. Transparent images are laid over white. Grey, palette, CMYK and
/// 16-bit images are converted. Of an animation, the first frame is taken. PNG checksums are compared as Pillow does by default:
/// those of the pixel chunks are ignored as long as the pixel stream matches its own checksum. A size above [`Limits::max_pixels`]
/// is refused from the header, before any pixel is decoded. A panic inside a decoder is an error like any other.
///
/// # Errors
///
/// The reason, as listed for the skipped sample.
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
            if let Some(picture) = crate::images::jpeg::decode(bytes, limits)? {
                return Ok(picture);
            }
            ImageFormat::Jpeg
        }
        Ok(ImageFormat::Png) => {
            // The decoder would only say that its memory is exceeded.
            if let Some((width, height)) = png::size(bytes) {
                refuse_size(width, height, max_pixels)?;
            }
            mended = png::with_checksums(bytes, decoder_bytes(max_pixels))?;
            ImageFormat::Png
        }
        Ok(ImageFormat::WebP) => ImageFormat::WebP,
        Ok(other) => {
            return Err(format!(
                "it is a file of the format {}, not JPEG, PNG or WebP",
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

/// Width and height of the stored image, before the orientation is applied, from a file's first bytes.
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

/// An image as JPEG, for display; `None` if it has no pixels.
pub fn jpeg(picture: &RgbImage) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg).ok()?;
    Some(bytes.into_inner())
}

#[cfg(test)]
mod tests;
