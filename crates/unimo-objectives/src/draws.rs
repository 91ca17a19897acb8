//! Random numbers of a batch, one stream for each key: what an objective draws does not depend on the other objectives.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The random numbers of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
}

/// Offset basis of 64-bit FNV-1a.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl Draws {
    /// The random numbers of the batch with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The stream of a key.
    pub fn of(self, key: &str) -> ChaCha8Rng {
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        let key = key.as_bytes().iter().fold(BASIS, hash);
        ChaCha8Rng::seed_from_u64(self.seed ^ key)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn a_key_has_its_own_numbers_always() {
        let of = |seed, key| Draws::new(seed).of(key).random::<u64>();
        assert_eq!(of(1, "itm"), of(1, "itm"));
        let all = [of(1, "itm"), of(1, "wpg"), of(2, "itm"), of(1, "")];
        for (at, number) in all.iter().enumerate() {
            assert!(!all[..at].contains(number));
        }
    }
}
