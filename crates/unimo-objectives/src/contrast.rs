//! Losses that compare samples with each other: features of every sample, and one loss over all of them.
//!
//! Such a loss cannot be taken batch by batch and averaged, as others can: in a step of 128 batches of 32 samples, each sample
//! would see 31 others instead of 4,095. So it is split as in GradCache (Gao et al. 2021), into what belongs to a sample and what
//! belongs to all. [`crate::together`] computes the features of all batches, then the loss and its gradient with respect to the
//! features. Then it goes through the batches again, one at a time. A batch alone does both at once.
//!
//! Samples that show the same image are not negatives of each other: their scores are hidden, as positives and as negatives.
//!
//! Shape legend: `N` samples, `E` width of the features.

use std::collections::HashMap;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use unimo_core::kernels;

use crate::context::Context;
use crate::encoded::Encoded;
use crate::features::Features;
use crate::labels::{count_correct, ints};
use crate::outcome::Outcome;
use crate::pairs::{Fused, Pairs};

/// All samples of a contrast.
#[derive(Debug, Clone, Default)]
pub struct Contrasted {
    /// The features that the loss learns from.
    pub features: Features,
    /// The features that it compares them with, without learning from them.
    pub fixed: Features,
    /// `[N]`: the image that each sample shows, if that is known.
    pub pictures: Vec<Option<u64>>,
}

/// A loss that compares samples with each other.
pub trait Contrast {
    /// The samples of a batch that take part.
    fn samples(&self, encoded: &Encoded) -> Vec<usize>;

    /// The pairs that it wants from the cross-modal encoder. It draws nothing at random, since both passes over a batch call it.
    fn pairs(&self, _encoded: &Encoded) -> Vec<Pairs> {
        Vec::new()
    }

    /// Features of the samples that take part. `fused` holds the output for each of its [`pairs`](Self::pairs), in their order.
    fn features(&self, context: &Context<'_>, fused: &[Fused]) -> Features;

    /// Features of the same samples that the loss does not learn from.
    fn fixed(&self, _context: &Context<'_>) -> Features {
        Features::default()
    }

    /// Similarity of every caption with every image, `[N, N]`, if it has one: hard negatives use it.
    fn similarity(&self, _features: &Features) -> Option<Tensor<2>> {
        None
    }

    /// The loss over all samples.
    fn over(&self, all: &Contrasted) -> Outcome;
}

/// The loss over the samples of one batch.
pub fn alone(contrast: &dyn Contrast, context: &Context<'_>, fused: &[Fused]) -> Outcome {
    let encoded = context.encoded;
    contrast.over(&Contrasted {
        features: contrast.features(context, fused),
        fixed: contrast.fixed(context),
        pictures: pictures(encoded, &contrast.samples(encoded)),
    })
}

/// The images that these rows show.
pub(crate) fn pictures(batch: &Encoded, rows: &[usize]) -> Vec<Option<u64>> {
    rows.iter().map(|row| batch.pictures[*row]).collect()
}

/// These rows of `x`, or `x` itself if they are all of its rows in order.
pub(crate) fn take(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    if rows.iter().copied().eq(0..x.dims()[0]) {
        return x;
    }
    let at = ints(rows.iter().map(|row| *row as i32).collect(), &x.device());
    x.select(0, at)
}

/// The value of a hidden score: its share after the softmax is 0, and 0 times it is 0.
const HIDDEN: f64 = -1e9;

/// Sets the scores to [`HIDDEN`] where `hidden` is true.
pub(crate) fn hide(scores: Tensor<2>, hidden: Option<&Tensor<2, Bool>>) -> Tensor<2> {
    match hidden {
        Some(hidden) => scores.mask_fill(hidden.clone(), HIDDEN),
        None => scores,
    }
}

impl Contrasted {
    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// The number of each sample's image, the same for samples of the same image, and how many there are.
    fn numbers(&self) -> (Vec<i32>, usize) {
        let mut known = HashMap::new();
        let mut count = 0;
        let mut new = || {
            count += 1;
            count - 1
        };
        let of = |picture: &Option<u64>| match picture {
            Some(picture) => *known.entry(*picture).or_insert_with(&mut new),
            None => new(),
        };
        let numbers = self.pictures.iter().map(of).collect();
        (numbers, count as usize)
    }

    /// Row `i` marks the other samples that show the same image as sample `i`; `None` if no image occurs twice.
    ///
    /// # Shapes
    ///
    /// - output: `[N, N]`
    pub(crate) fn duplicates(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        let n = self.len();
        let (numbers, count) = self.numbers();
        if count == n {
            return None;
        }
        let equal = |values: Vec<i32>| {
            let values = ints(values, device);
            let rows = values.clone().reshape([n, 1]).expand([n, n]);
            rows.equal(values.reshape([1, n]).expand([n, n])).int()
        };
        let own = equal((0..n as i32).collect());
        Some((equal(numbers) - own).equal_scalar(1))
    }

    /// How many samples find no negative among the others: all of them if they all show one image, else none.
    pub(crate) fn without_negative(&self) -> usize {
        match self.numbers() {
            (_, 1) => self.len(),
            _ => 0,
        }
    }
}

/// How many numbers identify an image.
pub(crate) const IDENTITY: usize = 3;

/// Bits in each of these numbers: f32 holds them exactly.
const IDENTITY_BITS: u32 = 22;

/// First number of an unknown image's identity where it must equal no other; a stored identity has 0 there.
const UNLIKE_ALL: f32 = -1.0;

/// The identities of images as floats, since a checkpoint holds nothing else. The first number of a known image is above 0. That of
/// an unknown image is `unknown`.
///
/// # Shapes
///
/// - output: `[N, 3]`
fn identities(pictures: &[Option<u64>], unknown: f32, device: &Device) -> Tensor<2> {
    let mask = (1 << IDENTITY_BITS) - 1;
    let part = |picture: u64, at: u32| ((picture >> (at * IDENTITY_BITS)) & mask) as f32;
    let of = |picture: &Option<u64>| match *picture {
        Some(picture) => [part(picture, 0) + 1.0, part(picture, 1), part(picture, 2)],
        None => [unknown, 0.0, 0.0],
    };
    let values: Vec<f32> = pictures.iter().flat_map(of).collect();
    Tensor::from_data(TensorData::new(values, [pictures.len(), IDENTITY]), device)
}

/// Identities as the queue keeps them: zeros for an unknown image.
pub(crate) fn stored(pictures: &[Option<u64>], device: &Device) -> Tensor<2> {
    identities(pictures, 0.0, device)
}

/// Row `i` marks the kept identities that equal sample `i`'s; `None` if no sample's image is known.
///
/// # Shapes
///
/// - kept: `[Q, 3]`
/// - output: `[N, Q]`
pub(crate) fn seen_before(pictures: &[Option<u64>], kept: Tensor<2>) -> Option<Tensor<2, Bool>> {
    if pictures.iter().all(Option::is_none) {
        return None;
    }
    let (n, [q, _]) = (pictures.len(), kept.dims());
    let own = identities(pictures, UNLIKE_ALL, &kept.device());
    let kept = kept.transpose();
    (0..IDENTITY)
        .map(|at| {
            let own = own.clone().narrow(1, at, 1).expand([n, q]);
            let kept = kept.clone().narrow(0, at, 1).expand([n, q]);
            own.equal(kept)
        })
        .reduce(Tensor::bool_and)
}

/// Two masks side by side; `None` if both are `None`.
///
/// # Shapes
///
/// - left: `[N, A]`; right: `[N, B]`
/// - output: `[N, A + B]`
pub(crate) fn beside(
    (left, a): (Option<Tensor<2, Bool>>, usize),
    (right, b): (Option<Tensor<2, Bool>>, usize),
    n: usize,
    device: &Device,
) -> Option<Tensor<2, Bool>> {
    if left.is_none() && right.is_none() {
        return None;
    }
    // Joined as numbers: burn-flex 0.22.1 has several kinds of bool tensor, and `cat` cannot join different ones.
    let numbers = |mask: Option<Tensor<2, Bool>>, columns: usize| match mask {
        Some(mask) => mask.int(),
        None => Tensor::<2, Int>::zeros([n, columns], device),
    };
    let both = Tensor::cat(vec![numbers(left, a), numbers(right, b)], 1);
    Some(both.equal_scalar(1))
}

/// The mean of several cross-entropies. In each, label `i` is the right column of row `i`.
///
/// # Shapes
///
/// - scores: `[N, M]` each; labels: `[N]`
pub(crate) fn cross_entropies(scores: Vec<Tensor<2>>, labels: &Tensor<1, Int>) -> Outcome {
    let count = scores.len();
    let sum = |a: Tensor<1>, b: Tensor<1>| a + b;
    let correct = scores
        .iter()
        .map(|s| count_correct(s.clone(), labels.clone()))
        .reduce(|a, b| a + b)
        .expect("invariant: something is contrasted");
    let loss = scores
        .into_iter()
        .map(|s| kernels::cross_entropy(s, labels.clone()).mean())
        .reduce(sum)
        .expect("invariant: something is contrasted");
    let [rows] = labels.dims();
    Outcome::with_accuracy(loss.div_scalar(count as f64), correct, count * rows)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn bools(mask: Tensor<2, Bool>) -> Vec<bool> {
        mask.into_data().iter::<bool>().collect()
    }

    #[test]
    fn samples_of_one_picture_hide_each_other_and_not_themselves() {
        let device = Device::flex();
        let of = |pictures: &[Option<u64>]| Contrasted {
            pictures: pictures.to_vec(),
            ..Contrasted::default()
        };
        assert!(of(&[Some(1), None, None]).duplicates(&device).is_none());
        let all = of(&[Some(5), None, Some(5), None]);
        let mut expected = [false; 16];
        (expected[2], expected[8]) = (true, true);
        assert_eq!(bools(all.duplicates(&device).unwrap()), expected);
        assert_eq!(all.without_negative(), 0);
        assert_eq!(of(&[Some(5); 3]).without_negative(), 3);
        assert_eq!(of(&[None]).without_negative(), 1);
    }

    /// Every bit of an identity counts, and an unknown image equals no other.
    #[test]
    fn kept_identities_are_found_again() {
        let device = Device::flex();
        let pictures: Vec<Option<u64>> = (0..64)
            .map(|bit| Some(1 << bit))
            .chain([Some(0), Some(u64::MAX), None])
            .collect();
        let kept = stored(&pictures, &device);
        let found = bools(seen_before(&pictures, kept).unwrap());
        for (at, found) in found.iter().enumerate() {
            let (own, other) = (at / 67, at % 67);
            assert_eq!(*found, own == other && own != 66, "{own} {other}");
        }
        assert!(seen_before(&[None], stored(&pictures, &device)).is_none());
    }
}
