use image::{ExtendedColorType, ImageEncoder, Rgb, Rgba, RgbaImage};

use super::*;
use crate::images::drawn::{close, halves};

const MAX: Limits = Limits::full_size(1_000_000);
/// JPEG at quality 100 is off by a few levels on flat colour, except at subsampled edges.
const JPEG_TOLERANCE: u8 = 4;

fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
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
    let picture = RgbaImage::from_fn(3, 1, |x, _| Rgba([0, 100, 200, [0, 128, 255][x as usize]]));
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
        // The second component has the name of the first.
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
                let at =
                    crate::order::draws::hash(crate::order::draws::Stream::Order, &[case, flip]);
                let index = crate::order::draws::below(at, broken.len());
                broken[index] ^= (at & 0xff) as u8;
            }
            if let Ok(decoded) = decode(&broken, MAX) {
                assert!(u64::from(decoded.width()) * u64::from(decoded.height()) <= MAX.max_pixels);
            }
        }
    }
}

#[test]
fn orientation_is_applied() {
    // Orientation 6: the stored image has to be turned by 90 degrees clockwise, so its left half comes to the top.
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
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
    // Y = 128 without colour is R = G = B = 128, which YCCK takes as ink: (255 - 128) * 204 / 255.
    let ycck = decode(&four_channel_jpeg([128, 128, 128, 204], 2), MAX).unwrap();
    assert!(
        close(*ycck.get_pixel(3, 3), [102, 102, 102], JPEG_TOLERANCE),
        "{:?}",
        ycck.get_pixel(3, 3)
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
