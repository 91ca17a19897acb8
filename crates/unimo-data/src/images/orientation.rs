//! The orientation in an image file's metadata, read as Pillow's `ImageOps.exif_transpose` does.
//!
//! The tag may be stored as any number: phones write SHORT, other programs LONG. As in Pillow, a value of type BYTE does not count.
//! If EXIF lacks the tag, XMP's `tiff:Orientation` is used. 0, 9 and other invalid values change nothing.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::ImageFormat;
use image::metadata::Orientation;

use crate::formats::png;

/// The orientation tag in EXIF.
const TAG: u16 = 0x0112;
/// Start of EXIF in JPEG, and elsewhere in files of some programs.
const EXIF: &[u8] = b"Exif\0\0";
/// Start of XMP in JPEG.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Largest unpacked size of compressed metadata, in bytes.
const LONGEST_TEXT: u64 = 1 << 20;

/// The rotation or flip that makes a file's image upright.
pub(crate) fn of(bytes: &[u8], format: ImageFormat) -> Orientation {
    let found = match format {
        ImageFormat::Jpeg => of_jpeg(bytes),
        ImageFormat::Png => of_png(bytes),
        ImageFormat::WebP => of_webp(bytes),
        _ => Metadata::default(),
    };
    let value = tag(&found.exif).or_else(|| found.xmp.and_then(of_xmp));
    value
        .and_then(Orientation::from_exif)
        .unwrap_or(Orientation::NoTransforms)
}

/// The metadata of a file.
#[derive(Default)]
struct Metadata<'a> {
    exif: Vec<u8>,
    xmp: Option<&'a [u8]>,
}

/// EXIF may be split into several segments.
fn of_jpeg(bytes: &[u8]) -> Metadata<'_> {
    const APP1: u8 = 0xe1;
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut found = Metadata::default();
    let mut at = 2;
    while let Some([0xff, marker]) = bytes.get(at..at + 2) {
        match *marker {
            START_OF_SCAN | END_OF_IMAGE => break,
            // A fill byte, and markers without a segment.
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            marker => {
                let Some(length) = bytes.get(at + 2..at + 4) else {
                    break;
                };
                let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                let end = bytes.len().min(at + 2 + length);
                let segment = bytes.get(at + 4..end).unwrap_or_default();
                if marker == APP1
                    && let Some(exif) = segment.strip_prefix(EXIF)
                {
                    found.exif.extend(exif);
                } else if marker == APP1
                    && let Some(xmp) = segment.strip_prefix(XMP)
                {
                    found.xmp = Some(xmp);
                }
                at += 2 + length;
            }
        }
    }
    found
}

fn of_png(bytes: &[u8]) -> Metadata<'_> {
    const XMP_KEY: &[u8] = b"XML:com.adobe.xmp\0";
    const RAW_KEY: &[u8] = b"Raw profile type exif\0";
    let mut found = Metadata::default();
    let mut raw = None;
    for chunk in png::chunks(bytes) {
        match chunk.kind {
            b"eXIf" => found.exif = chunk.data.to_vec(),
            // Compression flag, method, language and translated keyword stand before the text.
            b"iTXt" => {
                if let Some([0, _, rest @ ..]) = chunk.data.strip_prefix(XMP_KEY) {
                    found.xmp = rest.splitn(3, |byte| *byte == 0).nth(2);
                }
            }
            b"tEXt" => raw = chunk.data.strip_prefix(RAW_KEY).map(<[u8]>::to_vec).or(raw),
            b"zTXt" => {
                if let Some([0, packed @ ..]) = chunk.data.strip_prefix(RAW_KEY) {
                    let mut text = Vec::new();
                    // Text unpacked before the damage is not used.
                    let _ = ZlibDecoder::new(packed)
                        .take(LONGEST_TEXT)
                        .read_to_end(&mut text);
                    raw = Some(text);
                }
            }
            _ => {}
        }
    }
    if found.exif.is_empty()
        && let Some(raw) = raw
    {
        found.exif = of_hex(&raw).unwrap_or_default();
    }
    found
}

/// EXIF as ImageMagick writes it into PNG files: a line with a name, a line with a length, then hexadecimal digits.
fn of_hex(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.trim_start().lines().skip(2).peekable();
    lines.peek()?;
    let digits: Vec<u8> = lines
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

fn of_webp(bytes: &[u8]) -> Metadata<'_> {
    /// `RIFF`, its size, `WEBP`.
    const HEADER: usize = 12;
    let mut found = Metadata::default();
    let mut at = HEADER;
    while let Some(header) = bytes.get(at..at + 8) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let start = at + 8;
        let Some(data) = start
            .checked_add(length)
            .and_then(|end| bytes.get(start..end))
        else {
            break;
        };
        match &header[..4] {
            b"EXIF" => found.exif = data.to_vec(),
            b"XMP " => found.xmp = Some(data),
            _ => {}
        }
        // Chunks are padded to an even length.
        at = start + length + length % 2;
    }
    found
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn of_xmp(text: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, NAME) {
        rest = &rest[at + NAME.len()..];
        let digit = rest
            .strip_prefix(b"=\"")
            .or_else(|| rest.strip_prefix(b">"));
        if let Some(digit @ b'0'..=b'9') = digit.and_then(<[u8]>::first) {
            return Some(digit - b'0');
        }
    }
    None
}

/// Byte order of a TIFF header.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

/// A TIFF structure, any part of which may be missing.
struct Tiff<'a> {
    bytes: &'a [u8],
    order: Order,
}

impl Tiff<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if let Order::Big = self.order {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn short(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn long(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The first value of an entry of the given type, if it is a number.
    fn number(&self, kind: u16, count: u32, at: usize) -> Option<f64> {
        let size = match kind {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            6 => 1,
            5 | 10 | 12 | 16 => 8,
            // Bytes and strings.
            _ => return None,
        };
        // A value of more than four bytes is stored elsewhere.
        let at = if u64::from(count) * size > 4 {
            self.long(at)? as usize
        } else {
            at
        };
        let share = |above: f64, below: f64| (below != 0.0).then_some(above / below);
        if count == 0 {
            return None;
        }
        match kind {
            3 => self.short(at).map(f64::from),
            8 => self.array(at).map(i16::from_le_bytes).map(f64::from),
            4 | 13 => self.long(at).map(f64::from),
            9 => self.array(at).map(i32::from_le_bytes).map(f64::from),
            11 => self.array(at).map(f32::from_le_bytes).map(f64::from),
            6 => self.array(at).map(i8::from_le_bytes).map(f64::from),
            12 => self.array(at).map(f64::from_le_bytes),
            16 => self.array(at).map(u64::from_le_bytes).map(|n| n as f64),
            5 => share(self.long(at)?.into(), self.long(at + 4)?.into()),
            10 => {
                let signed = |at| self.array(at).map(i32::from_le_bytes).map(f64::from);
                share(signed(at)?, signed(at + 4)?)
            }
            _ => None,
        }
    }
}

/// The orientation in an EXIF block; `None` if there is none. 255 stands for a value that is not a number.
fn tag(exif: &[u8]) -> Option<u8> {
    const ENTRY: usize = 12;
    let mut bytes = exif;
    while let Some(rest) = bytes.strip_prefix(EXIF) {
        bytes = rest;
    }
    let order = match bytes.get(..4)? {
        b"II*\0" => Order::Little,
        b"MM\0*" => Order::Big,
        _ => return None,
    };
    let tiff = Tiff { bytes, order };
    let directory = tiff.long(4)? as usize;
    let entries = usize::from(tiff.short(directory)?);
    let mut found = None;
    for entry in 0..entries {
        let at = directory + 2 + entry * ENTRY;
        // A truncated directory is read as far as it goes.
        let (Some(name), Some(kind), Some(count)) =
            (tiff.short(at), tiff.short(at + 2), tiff.long(at + 4))
        else {
            break;
        };
        if name == TAG {
            // The last one of several counts.
            let number = tiff.number(kind, count, at + 8);
            let whole =
                number.filter(|number| (0.0..=9.0).contains(number) && number.fract() == 0.0);
            found = Some(whole.map_or(u8::MAX, |number| number as u8));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EXIF block with these entries: tag, type, count and the four bytes of the value.
    fn block(order: &[u8; 2], entries: &[(u16, u16, u32, [u8; 4])]) -> Vec<u8> {
        let little = order == b"II";
        let short = |value: u16| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let long = |value: u32| {
            if little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            }
        };
        let mut bytes = order.to_vec();
        bytes.extend(short(42));
        bytes.extend(long(8));
        bytes.extend(short(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            bytes.extend(short(*tag));
            bytes.extend(short(*kind));
            bytes.extend(long(*count));
            bytes.extend(value);
        }
        bytes.extend(long(0));
        bytes
    }

    #[test]
    fn the_tag_is_read_in_every_type_that_is_a_number() {
        let other = (0x010f, 3, 1, [3, 0, 0, 0]);
        for (order, kind, value, expected) in [
            (b"II", 3, [6, 0, 0, 0], Some(6)),
            (b"MM", 3, [0, 6, 0, 0], Some(6)),
            (b"II", 4, [6, 0, 0, 0], Some(6)),
            (b"MM", 4, [0, 0, 0, 6], Some(6)),
            (b"II", 6, [6, 0, 0, 0], Some(6)),
            (b"II", 8, [6, 0, 0, 0], Some(6)),
            (b"MM", 9, [0, 0, 0, 6], Some(6)),
            (b"MM", 11, 6f32.to_be_bytes(), Some(6)),
            (b"II", 4, [0, 0, 0, 0], Some(0)),
            (b"II", 4, [9, 0, 0, 0], Some(9)),
            (b"II", 4, [6, 1, 0, 0], Some(u8::MAX)),
            (b"II", 9, [0xff; 4], Some(u8::MAX)),
            // Pillow returns bytes and strings unchanged; they are not an orientation.
            (b"II", 1, [6, 0, 0, 0], Some(u8::MAX)),
            (b"II", 2, *b"6\0\0\0", Some(u8::MAX)),
            (b"II", 7, [6, 0, 0, 0], Some(u8::MAX)),
        ] {
            // At every position among other entries.
            for entries in [
                vec![(TAG, kind, 1, value)],
                vec![other, (TAG, kind, 1, value), other],
            ] {
                let exif = block(order, &entries);
                assert_eq!(tag(&exif), expected, "{kind} {value:?}");
                assert_eq!(tag(&[EXIF, EXIF, &exif].concat()), expected);
                for cut in 0..exif.len() {
                    let _ = tag(&exif[..cut]);
                }
            }
        }
        let two = [(TAG, 3, 1, [3, 0, 0, 0]), (TAG, 4, 1, [8, 0, 0, 0])];
        assert_eq!(tag(&block(b"II", &two)), Some(8));
        assert_eq!(tag(&block(b"II", &[other])), None);
        // A fraction is stored elsewhere.
        let mut exif = block(b"II", &[(TAG, 5, 1, [26, 0, 0, 0])]);
        exif.extend([6, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(tag(&exif), Some(6));
        for nowhere in [[0xff; 4], [26, 0, 0, 0]] {
            let exif = block(b"II", &[(TAG, 5, 1, nowhere)]);
            assert_eq!(tag(&exif), Some(u8::MAX));
        }
    }

    fn jpeg(segments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff];
        for segment in segments {
            bytes.extend([0xff, 0xe1]);
            bytes.extend((segment.len() as u16 + 2).to_be_bytes());
            bytes.extend(*segment);
        }
        bytes.extend([0xff, 0xda, 0, 2]);
        bytes
    }

    #[test]
    fn every_place_of_the_metadata_is_looked_at() {
        let exif = block(b"MM", &[(TAG, 4, 1, [0, 0, 0, 6])]);
        let bare = block(b"MM", &[]);
        let xmp = [XMP, b"<x tiff:OrientationX tiff:Orientation=\"8\"/>"].concat();
        let marked = |exif: &[u8]| [EXIF, exif].concat();
        let rotated = |bytes: &[u8], format| of(bytes, format).to_exif();
        for (segments, expected) in [
            (vec![&marked(&exif)[..]], 6),
            (vec![&marked(&exif[..11])[..], &marked(&exif[11..])[..]], 6),
            (vec![&xmp[..], &marked(&exif)[..]], 6),
            (vec![&xmp[..], &marked(&bare)[..]], 8),
            (vec![&b"http://other"[..]], 1),
        ] {
            let bytes = jpeg(&segments);
            assert_eq!(rotated(&bytes, ImageFormat::Jpeg), expected);
            for cut in 0..bytes.len() {
                of(&bytes[..cut], ImageFormat::Jpeg);
            }
        }

        let hex: String = marked(&exif).iter().map(|b| format!("{b:02x}")).collect();
        let raw = format!("\nexif\n  {}\n{}\n{}\n", 34, &hex[..20], &hex[20..]);
        let mut packed = b"Raw profile type exif\0\0".to_vec();
        std::io::copy(
            &mut flate2::read::ZlibEncoder::new(raw.as_bytes(), flate2::Compression::fast()),
            &mut packed,
        )
        .unwrap();
        let plain = [b"Raw profile type exif\0", raw.as_bytes()].concat();
        let text = b"XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>3</tiff:Orientation>";
        for (kind, data, expected) in [
            (b"eXIf", &exif, 6),
            (b"zTXt", &packed, 6),
            (b"tEXt", &plain, 6),
            (b"iTXt", &text.to_vec(), 3),
        ] {
            // After the pixels, too.
            for order in [[0, 1], [1, 0]] {
                let parts = [png::chunk(kind, data), png::chunk(b"IDAT", b"x")];
                let mut bytes = png::SIGNATURE.to_vec();
                order.iter().for_each(|at| bytes.extend(&parts[*at]));
                assert_eq!(rotated(&bytes, ImageFormat::Png), expected, "{kind:?}");
                for cut in 0..bytes.len() {
                    of(&bytes[..cut], ImageFormat::Png);
                }
            }
        }

        for (kind, data, expected) in [
            (b"EXIF", &exif[..], 6),
            (b"EXIF", &marked(&exif)[..], 6),
            (b"XMP ", &xmp[XMP.len()..], 8),
        ] {
            let mut bytes = b"RIFF\0\0\0\0WEBPVP8 \x03\0\0\0abc\0".to_vec();
            bytes.extend(kind);
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(data);
            assert_eq!(rotated(&bytes, ImageFormat::WebP), expected);
            for cut in 0..bytes.len() {
                of(&bytes[..cut], ImageFormat::WebP);
            }
        }
    }
}
