//! Digests of contents, of names and of rows.
//!
//! SHA-256 is generic code, which is compiled in the crate that uses it. Its users are compiled for a short build; here it is compiled to
//! be fast.

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest of what is added to it, piece by piece. Where the pieces end does not count.
#[derive(Debug, Default, Clone)]
pub struct Digest(Sha256);

impl Digest {
    /// The digest of all bytes.
    #[inline(never)]
    pub fn of(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    /// Adds a piece.
    #[inline(never)]
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds a piece with its length before it, so that where it ends counts.
    #[inline(never)]
    pub fn add_sized(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    #[inline(never)]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let mut pieces = Digest::default();
        pieces.add(b"a");
        pieces.add(b"bc");
        // FIPS 180-2, B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&pieces.finish()), abc);
        assert_eq!(hex(&Digest::of(b"abc")), abc);
    }

    #[test]
    fn a_length_says_where_a_piece_ends() {
        let of = |pieces: [&[u8]; 2]| {
            let mut sum = Digest::default();
            pieces.into_iter().for_each(|piece| sum.add_sized(piece));
            sum.finish()
        };
        assert_ne!(of([b"a", b"bc"]), of([b"ab", b"c"]));
        let mut by_hand = Digest::default();
        for piece in [b"a".as_slice(), b"bc"] {
            by_hand.add(&(piece.len() as u64).to_le_bytes());
            by_hand.add(piece);
        }
        assert_eq!(of([b"a", b"bc"]), by_hand.finish());
    }
}
