//! BLEU: the share of a caption's n-grams that are in a reference, and a penalty for captions that are too short.
//!
//! "BLEU: a Method for Automatic Evaluation of Machine Translation" (ACL 2002), as COCO's evaluation computes it: the
//! reference length is the closest, the shorter of two that are as close; there is no smoothing but constants that keep
//! empty counts from dividing by 0. A caption of three words that is perfect has a BLEU-4 of 0.03 for their sake.

use super::ngrams::{Caption, LONGEST, order};

/// Added to a count that may be 0, so that a caption without any n-gram of a length scores nearly 0 and no NaN.
const TINY: f64 = 1e-15;
/// Added to what is divided by.
const SMALL: f64 = 1e-9;

/// What BLEU is computed from. Counts of many captions add up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BleuCounts {
    /// Words of the captions.
    words: usize,
    /// Words of the references that are closest in length.
    reference_words: usize,
    /// `[n - 1]`: n-grams of the captions, each at most as often as in the reference that has it most.
    correct: [u64; LONGEST],
    /// `[n - 1]`: n-grams of the captions.
    all: [u64; LONGEST],
}

impl BleuCounts {
    /// The counts of one caption. Without references all of it is wrong.
    pub(super) fn of(hypothesis: &Caption, references: &[Caption]) -> Self {
        let words = hypothesis.words;
        let closest = references
            .iter()
            .map(|reference| (reference.words.abs_diff(words), reference.words))
            .min();
        let mut counts = Self {
            words,
            reference_words: closest.map_or(0, |(_, length)| length),
            ..Self::default()
        };
        for &(ngram, times) in &hypothesis.ngrams {
            let most = references
                .iter()
                .map(|reference| reference.times(ngram))
                .max();
            counts.correct[order(ngram)] += u64::from(times.min(most.unwrap_or(0)));
            counts.all[order(ngram)] += u64::from(times);
        }
        counts
    }

    /// Adds the counts of others.
    pub(super) fn add(&mut self, other: &Self) {
        self.words += other.words;
        self.reference_words += other.reference_words;
        for n in 0..LONGEST {
            self.correct[n] += other.correct[n];
            self.all[n] += other.all[n];
        }
    }

    /// BLEU-1 to BLEU-4.
    pub(super) fn scores(&self) -> [f64; LONGEST] {
        let ratio = (self.words as f64 + TINY) / (self.reference_words as f64 + SMALL);
        let brevity = if ratio < 1.0 {
            (1.0 - 1.0 / ratio).exp()
        } else {
            1.0
        };
        let mut product = 1.0;
        std::array::from_fn(|n| {
            product *= (self.correct[n] as f64 + TINY) / (self.all[n] as f64 + SMALL);
            product.powf(1.0 / (n + 1) as f64) * brevity
        })
    }
}
