//! Bounds on the decoding of images. A file's header gives its size before anything is decoded.

/// Bounds on the decoding of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest image that is decoded, in pixels.
    pub max_pixels: u64,
    /// Largest shorter side that is needed, in pixels. A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and full size that has
    /// this side, as Pillow's `draft`. `None`: every image in full.
    pub enough: Option<u32>,
}

impl Limits {
    /// Full decoding of images of at most `max_pixels`.
    pub const fn full_size(max_pixels: u64) -> Self {
        Self {
            max_pixels,
            enough: None,
        }
    }
}

/// File bytes per allowed pixel: no sensible encoding needs more than 16-bit RGBA.
const FILE_BYTES_PER_PIXEL: u64 = 8;
/// Additional bytes of any file, for metadata.
const FILE_BYTES_FREE: u64 = 16 << 20;
/// Decoder memory per allowed pixel, in bytes: 16-bit RGBA twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;

/// Largest file of an image, in bytes.
pub(crate) fn largest_file(max_pixels: u64) -> u64 {
    max_pixels
        .saturating_mul(FILE_BYTES_PER_PIXEL)
        .saturating_add(FILE_BYTES_FREE)
}

/// Largest memory of a decoder, in bytes.
pub(crate) fn decoder_bytes(max_pixels: u64) -> u64 {
    max_pixels
        .saturating_mul(DECODER_BYTES_PER_PIXEL)
        .saturating_add(FILE_BYTES_FREE)
}

/// Refuses an image by the size in its header.
pub(crate) fn refuse_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("the image has no pixels ({width} x {height})"));
    }
    if u64::from(width) * u64::from(height) > max_pixels {
        Err(format!(
            "{width} x {height} pixels are more than `data.max_pixels` = {max_pixels}"
        ))
    } else {
        Ok(())
    }
}
