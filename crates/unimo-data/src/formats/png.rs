//! Chunks of PNG files and their checksums, compared as Pillow compares them.
//!
//! By default Pillow refuses a file with a wrong checksum in a chunk before the pixels. It ignores the checksums of the pixel
//! chunks: these are inflated, and the checksum of that stream tells whether they are damaged.

use std::io::Read;

use flate2::Crc;
use flate2::read::ZlibDecoder;

/// The first bytes of a PNG file.
pub(crate) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

const PIXELS: &[u8; 4] = b"IDAT";

/// A chunk of a file.
pub(crate) struct Chunk<'a> {
    pub kind: &'a [u8; 4],
    pub data: &'a [u8],
    /// The stored checksum, and its position.
    checksum: u32,
    at: usize,
}

impl Chunk<'_> {
    fn computed(&self) -> u32 {
        let mut crc = Crc::new();
        crc.update(self.kind);
        crc.update(self.data);
        crc.sum()
    }
}

/// The chunks of a file, up to the first incomplete one.
pub(crate) fn chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut at = SIGNATURE.len();
    std::iter::from_fn(move || {
        let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (checksum, _) = rest.split_first_chunk::<4>()?;
        let end = at + 8 + data.len();
        at = end + 4;
        Some(Chunk {
            kind,
            data,
            checksum: u32::from_be_bytes(*checksum),
            at: end,
        })
    })
}

/// Width and height, if the header is whole.
pub(crate) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = chunks(bytes).next().filter(|chunk| chunk.kind == b"IHDR")?;
    let (width, rest) = header.data.split_first_chunk()?;
    let (height, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

/// A file with repaired checksums of the pixel chunks, if nothing else is wrong; `None` if no repair is needed.
///
/// # Errors
///
/// A chunk before the pixels has a wrong checksum, or the pixels themselves are damaged.
pub(crate) fn with_checksums(bytes: &[u8], most: u64) -> Result<Option<Vec<u8>>, String> {
    let mut pixels = false;
    let mut wrong = Vec::new();
    for chunk in chunks(bytes) {
        pixels |= chunk.kind == PIXELS;
        if pixels && chunk.kind != PIXELS {
            break;
        }
        let sum = chunk.computed();
        if sum == chunk.checksum {
            continue;
        }
        if !pixels {
            let kind = String::from_utf8_lossy(chunk.kind).into_owned();
            return Err(format!(
                "the checksum of its chunk {kind:?} is wrong: the file is damaged"
            ));
        }
        wrong.push((chunk.at, sum));
    }
    if wrong.is_empty() {
        return Ok(None);
    }
    let packed = Packed {
        chunks: chunks(bytes).filter(|chunk| chunk.kind == PIXELS),
        piece: &[],
    };
    // The stream ends with its own checksum, which is compared when its end is reached.
    let mut inflated = ZlibDecoder::new(packed).take(most);
    std::io::copy(&mut inflated, &mut std::io::sink())
        .map_err(|error| format!("its pixels are damaged: {error}"))?;
    let mut bytes = bytes.to_vec();
    for (at, sum) in wrong {
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(Some(bytes))
}

/// The data of consecutive chunks.
struct Packed<'a, I> {
    chunks: I,
    piece: &'a [u8],
}

impl<'a, I: Iterator<Item = Chunk<'a>>> Read for Packed<'a, I> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.chunks.next() {
                Some(chunk) => self.piece = chunk.data,
                None => return Ok(0),
            }
        }
        self.piece.read(into)
    }
}

/// A chunk as stored.
#[cfg(test)]
pub(crate) fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 1 << 20;

    fn file(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::ZlibEncoder::new(&[7u8; 100][..], flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        let (left, right) = packed.split_at(5);
        let mut bytes = [
            SIGNATURE,
            &chunk(b"IHDR", &[0; 13]),
            &chunk(b"tEXt", b"a\0b"),
            &chunk(PIXELS, left),
            &chunk(PIXELS, right),
            &chunk(b"IEND", b""),
        ]
        .concat();
        change(&mut bytes);
        bytes
    }

    /// Range of a chunk's data.
    fn data_of(bytes: &[u8], number: usize) -> std::ops::Range<usize> {
        let chunk = chunks(bytes).nth(number).unwrap();
        chunk.at - chunk.data.len()..chunk.at
    }

    #[test]
    fn checksums_of_pixels_are_put_right_and_others_refused() {
        let sound = file(|_| ());
        assert_eq!(with_checksums(&sound, MOST).unwrap(), None);
        for number in [2, 3] {
            let end = data_of(&sound, number).end;
            let wrong = file(|bytes| bytes[end + 3] ^= 1);
            assert_eq!(with_checksums(&wrong, MOST).unwrap().unwrap(), sound);
            // The pixels, and the checksum stored with them.
            let middle = data_of(&sound, number).start + 2;
            let damaged = file(|bytes| bytes[middle] ^= 0x10);
            let reason = with_checksums(&damaged, MOST).unwrap_err();
            assert!(reason.contains("pixels are damaged"), "{reason}");
        }
        for number in [0, 1] {
            let start = data_of(&sound, number).start;
            let damaged = file(|bytes| bytes[start] ^= 1);
            let reason = with_checksums(&damaged, MOST).unwrap_err();
            assert!(reason.contains("checksum of its chunk"), "{reason}");
        }
        for cut in 0..sound.len() {
            let _ = with_checksums(&sound[..cut], MOST);
        }
    }
}
