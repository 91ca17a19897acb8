//! What bounds the decoding of images: a file says how large it is before anything is made of it.

/// What bounds the decoding of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest image that is decoded, in pixels.
    pub max_pixels: u64,
    /// Shorter side that an image needs at most, in pixels: of a JPEG no more is decoded than the smallest of 1/8, 1/4, 1/2 and all of
    /// its size that has it, as Pillow's `draft`. None: all of every image.
    pub enough: Option<u32>,
}

impl Limits {
    /// All of an image of at most so many pixels.
    pub const fn full_size(max_pixels: u64) -> Self {
        Self {
            max_pixels,
            enough: None,
        }
    }
}

/// Bytes of a file per allowed pixel: no sensible encoding needs more than 16-bit RGBA does.
const FILE_BYTES_PER_PIXEL: u64 = 8;
/// Bytes that any file may have on top, for metadata.
const FILE_BYTES_FREE: u64 = 16 << 20;
/// Bytes that a decoder may hold per allowed pixel: 16-bit RGBA twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;

/// Bytes that the file of an image may have.
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

/// Refuses an image for the size that its header states.
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
