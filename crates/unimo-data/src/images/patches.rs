//! Hides patches of images for masked image modelling.
//!
//! Source: BEiT (Bao et al. 2022, algorithm 1, with the limits of its code). Its count of hidden patches may fall short by a few;
//! here single patches are added, so that every image of a batch hides the same number.
//!
//! Shape legend: `N` patches of an image, row by row.

use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{PatchMaskKind, PatchMaskSpec};

use crate::error::DataError;

/// Which patches a loader hides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatchMask {
    /// Number and shape of the hidden patches.
    pub spec: PatchMaskSpec,
    /// Side of a patch in pixels, as in the image encoder.
    pub patch_size: usize,
}

/// Hides patches of square images by a [`PatchMask`].
#[derive(Debug, Clone, Copy)]
pub struct PatchMasker {
    kind: PatchMaskKind,
    /// Number of patches along a side.
    side: usize,
    hidden: usize,
}

impl PatchMasker {
    /// Smallest number of patches in a block.
    const SMALLEST_BLOCK: f64 = 16.0;
    /// Smallest height over width of a block; its inverse is the largest.
    const NARROWEST: f64 = 0.3;
    /// How often a block that does not fit is drawn again.
    const ATTEMPTS: usize = 10;

    /// A masker for square images of `image_size` pixels.
    ///
    /// # Errors
    ///
    /// The rate is out of range, or the patches do not fill the image.
    pub fn new(mask: PatchMask, image_size: usize) -> Result<Self, DataError> {
        let PatchMask { spec, patch_size } = mask;
        if !(spec.rate > 0.0 && spec.rate < 1.0) {
            return Err(DataError::config(
                "patch_mask.rate",
                spec.rate,
                "a number between 0 and 1, both excluded",
            ));
        }
        if patch_size == 0 || !image_size.is_multiple_of(patch_size) || image_size == patch_size {
            return Err(DataError::config(
                "patch_size",
                patch_size,
                format!("a divisor of `data.image_size` = {image_size} below it"),
            ));
        }
        let side = image_size / patch_size;
        let patches = side * side;
        let hidden = (spec.rate * patches as f64).round() as usize;
        Ok(Self {
            kind: spec.kind,
            side,
            hidden: hidden.clamp(1, patches - 1),
        })
    }

    /// The hidden patches of an image, determined by a seed.
    ///
    /// # Shapes
    ///
    /// Returns `[N]`; `true` hides.
    pub fn draw(&self, seed: u64) -> Vec<bool> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut mask = vec![false; self.side * self.side];
        let mut left = self.hidden;
        if self.kind == PatchMaskKind::Block {
            while left > 0 {
                match self.block(&mut mask, left, &mut random) {
                    0 => break,
                    new => left -= new,
                }
            }
        }
        let open: Vec<usize> = (0..mask.len()).filter(|patch| !mask[*patch]).collect();
        for chosen in index::sample(&mut random, open.len(), left) {
            mask[open[chosen]] = true;
        }
        mask
    }

    /// Hides one rectangle of at most `most` new patches. Returns the number of new ones.
    fn block(&self, mask: &mut [bool], most: usize, random: &mut ChaCha8Rng) -> usize {
        let narrowest = Self::NARROWEST.ln();
        for _ in 0..Self::ATTEMPTS {
            // As in BEiT's code, the limits are swapped once fewer patches are left than the smallest block.
            let [from, to] = [Self::SMALLEST_BLOCK, most as f64];
            let area = from + (to - from) * random.random::<f64>();
            let aspect = (narrowest - 2.0 * narrowest * random.random::<f64>()).exp();
            let height = (area * aspect).sqrt().round() as usize;
            let width = (area / aspect).sqrt().round() as usize;
            if height >= self.side || width >= self.side {
                continue;
            }
            let top = random.random_range(0..=self.side - height);
            let left = random.random_range(0..=self.side - width);
            let rows = || (top..top + height).map(|row| row * self.side + left);
            let new = rows()
                .flat_map(|start| &mask[start..start + width])
                .filter(|hidden| !**hidden)
                .count();
            if (1..=most).contains(&new) {
                rows().for_each(|start| mask[start..start + width].fill(true));
                return new;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(kind: PatchMaskKind, rate: f64, image_size: usize) -> PatchMasker {
        let spec = PatchMaskSpec { rate, kind };
        let mask = PatchMask {
            spec,
            patch_size: 16,
        };
        PatchMasker::new(mask, image_size).unwrap()
    }

    /// Share of the hidden patches whose right neighbour is also hidden.
    fn togetherness(mask: &[bool], side: usize) -> f64 {
        let pairs = (0..mask.len()).filter(|patch| patch % side + 1 < side && mask[*patch]);
        let (all, both) = pairs.fold((0.0, 0.0), |(all, both), patch| {
            (all + 1.0, both + f64::from(u8::from(mask[patch + 1])))
        });
        both / f64::max(all, 1.0)
    }

    #[test]
    fn every_picture_hides_the_same_number_and_the_seed_decides() {
        for kind in [PatchMaskKind::Uniform, PatchMaskKind::Block] {
            for (rate, size, expected) in [
                (0.4, 224, 78),
                (0.75, 224, 147),
                (0.01, 32, 1),
                (0.99, 32, 3),
                (0.5, 64, 8),
            ] {
                let masker = masker(kind, rate, size);
                for seed in 0..200 {
                    let mask = masker.draw(seed);
                    assert_eq!(mask.len(), (size / 16) * (size / 16));
                    assert_eq!(mask.iter().filter(|hidden| **hidden).count(), expected);
                    assert_eq!(mask, masker.draw(seed));
                }
                if size == 224 {
                    assert_ne!(masker.draw(1), masker.draw(2));
                }
            }
        }
    }

    #[test]
    fn every_patch_is_hidden_now_and_then_and_blocks_hold_together() {
        const DRAWS: u64 = 2000;
        for (kind, low, high) in [
            // 77 of the 195 other patches are hidden: 0.39. Blocks mostly have neighbours within themselves.
            (PatchMaskKind::Uniform, 0.36, 0.43),
            (PatchMaskKind::Block, 0.65, 0.95),
        ] {
            let masker = masker(kind, 0.4, 224);
            let mut counts = vec![0u64; 14 * 14];
            let mut together = 0.0;
            for seed in 0..DRAWS {
                let mask = masker.draw(seed);
                together += togetherness(&mask, 14) / DRAWS as f64;
                for (count, hidden) in counts.iter_mut().zip(&mask) {
                    *count += u64::from(*hidden);
                }
            }
            assert!((low..high).contains(&together), "{kind:?}: {together}");
            // Corners are in few rectangles, one in twenty, and the centre is in many, but no patch is never hidden.
            let least = counts.iter().min().copied().unwrap_or(0);
            assert!(least > DRAWS / 40, "{kind:?}: {least}");
            if kind == PatchMaskKind::Uniform {
                // Six standard deviations of 2,000 draws at 0.4.
                let most = counts.iter().map(|count| count.abs_diff(796)).max();
                assert!(most.unwrap_or(0) < 132, "{most:?}");
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = PatchMask {
            spec: PatchMaskSpec {
                rate: 0.4,
                kind: PatchMaskKind::Block,
            },
            patch_size: 16,
        };
        let rate = |rate| PatchMask {
            spec: PatchMaskSpec { rate, ..good.spec },
            ..good
        };
        let patch_size = |patch_size| PatchMask { patch_size, ..good };
        for (mask, key) in [
            (rate(0.0), "patch_mask.rate"),
            (rate(1.0), "patch_mask.rate"),
            (rate(f64::NAN), "patch_mask.rate"),
            (patch_size(0), "patch_size"),
            (patch_size(15), "patch_size"),
            (patch_size(224), "patch_size"),
        ] {
            let message = PatchMasker::new(mask, 224).unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
    }
}
