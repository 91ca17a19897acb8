//! Decodes JPEG files to the same pixels as Pillow.
//!
//! The decoder is a port of libjpeg-turbo. Pillow uses it, and so does every program that this one is compared with. The same file
//! gives the same bytes, while the inverse DCT and chroma upsampling of other decoders are off by up to 20 of 255 levels.

use std::collections::HashSet;

use image::{DynamicImage, ImageFormat, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, FrameHeader, PixelFormat, ScalingFactor};

use crate::images::limits::{Limits, decoder_bytes, refuse_size};
use crate::images::orientation;

/// Largest number of scans of a progressive file. Encoders write about ten; each may visit every block, whatever the size of the
/// file.
const MOST_SCANS: usize = 100;

/// Number of channels of an image for print.
const CMYK: usize = 4;
/// Bits per level in every format that Pillow reads.
const BITS: u8 = 8;

/// Factors by which an image's sides may be divided while decoding: Pillow's choices, the largest first.
const SCALES: [u16; 3] = [8, 4, 2];

/// Upright 8-bit RGB of a JPEG file, as large as [`Limits::enough`] asks for. `None` for files that the port does not read and
/// another decoder may: four channels, whose subsampled channels make it fail, and chroma finer than luma.
///
/// A damaged or truncated file is an error, not a grey area, even where libjpeg only warns.
///
/// # Errors
///
/// The reason, as listed for the skipped sample.
pub(crate) fn decode(bytes: &[u8], limits: Limits) -> Result<Option<RgbImage>, String> {
    // A file that ends between two scans would be an image without details.
    if !is_complete(bytes) {
        return Err("truncated JPEG: no end-of-image marker".to_owned());
    }
    let Limits { max_pixels, enough } = limits;
    let limits = DecodeLimits {
        max_pixels,
        max_scans: MOST_SCANS,
        max_memory: Some(decoder_bytes(max_pixels)),
        ..DecodeLimits::default()
    };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(|error| error.to_string())?;
    let header = decoder.header();
    refuse_size(header.width.into(), header.height.into(), max_pixels)?;
    if decoder.is_arithmetic() {
        // This decoder makes pixels of nothing at all: it notices neither damage nor the end of the data, and a file of 1.5 KB
        // takes ten seconds. Cameras and programs for the web do not write such files.
        return Err("arithmetic coding is not read".to_owned());
    }
    if header.precision != BITS {
        return Err(format!("{} bits per level, not {BITS}", header.precision));
    }
    let mut ids = HashSet::new();
    if !header
        .components
        .iter()
        .all(|component| ids.insert(component.id))
    {
        return Err("two components of the same name".to_owned());
    }
    if header.components.len() == CMYK || has_finer_colours(header) {
        return Ok(None);
    }
    let shorter = u32::from(header.width.min(header.height));
    if let Some(enough) = enough
        && let Some(scale) = SCALES
            .into_iter()
            .find(|scale| shorter / u32::from(*scale) >= enough)
    {
        let scale = ScalingFactor::try_new(1, scale.into()).map_err(|error| error.to_string())?;
        decoder.set_scale(scale);
    }
    decoder.set_output_format(PixelFormat::Rgb);
    // As libjpeg does for a progressive file without its last scans.
    decoder.set_block_smoothing(true);
    let decoded = decoder.decode_image().map_err(|error| error.to_string())?;
    let (width, height) = (decoded.width as u32, decoded.height as u32);
    let picture = RgbImage::from_raw(width, height, decoded.data)
        .ok_or_else(|| "the decoder gave the wrong number of pixels".to_owned())?;
    let mut picture = DynamicImage::from(picture);
    picture.apply_orientation(orientation::of(bytes, ImageFormat::Jpeg));
    Ok(Some(picture.into_rgb8()))
}

/// Whether a channel after the first has more samples than the first.
fn has_finer_colours(header: &FrameHeader) -> bool {
    header.components.iter().any(|component| {
        component.horizontal_sampling > header.components[0].horizontal_sampling
            || component.vertical_sampling > header.components[0].vertical_sampling
    })
}

/// Whether an end-of-image marker follows the first scan (ITU-T T.81, annex B).
fn is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    let mut scanned = false;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) {
        at += found;
        let Some(&marker) = bytes.get(at + 1) else {
            return false;
        };
        match marker {
            END_OF_IMAGE if scanned => return true,
            // Fill bytes, stuffed zeros, restart markers and markers without a segment.
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd9 => at += 2,
            _ => {
                scanned |= marker == START_OF_SCAN;
                let (Some(&high), Some(&low)) = (bytes.get(at + 2), bytes.get(at + 3)) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
    false
}
