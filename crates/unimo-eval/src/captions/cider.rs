//! CIDEr and CIDEr-D: how much a caption agrees with what most references say.
//!
//! "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015). Each caption is a vector of its n-grams, for each
//! length 1 to 4, where an n-gram counts less that the references of many images have:
//!
//! ```text
//! g(w)    = times(w) * (ln N - ln max(1, df(w)))       N: images; df: images with w in any reference
//! CIDEr   = 10 mean_refs mean_n  sum_w g_h(w) g_r(w) / (|g_h| |g_r|)
//! CIDEr-D = 10 mean_refs mean_n  sum_w min(g_h(w), g_r(w)) g_r(w) / (|g_h| |g_r|) * exp(-(l_h - l_r)^2 / (2 * 6^2))
//! ```
//!
//! The lengths l are numbers of bigrams, as in COCO's code, which has CIDEr-D under the name of CIDEr. Words are not
//! stemmed.

use super::CaptionError;
use super::ngrams::{ByNgram, Caption, LONGEST, Ngram, Vocabulary, order};

/// The standard deviation of CIDEr-D's penalty for another length, in words.
const SIGMA: f64 = 6.0;
/// What a perfect caption gets.
const SCALE: f64 = 10.0;

/// Both scores of one caption.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consensus {
    pub(super) cider: f64,
    pub(super) cider_d: f64,
}

/// In how many images' references each n-gram is.
#[derive(Debug, Clone, Default)]
pub(super) struct Frequencies {
    images: usize,
    of: ByNgram<u32>,
}

/// A caption as a vector.
struct Weighted {
    /// In the order of the n-grams.
    weights: Vec<(Ngram, f64)>,
    /// `[n - 1]`: the length of the part of n-grams.
    norms: [f64; LONGEST],
    bigrams: f64,
}

impl Frequencies {
    /// Counts the references of one more image.
    pub(super) fn add(&mut self, references: &[Caption]) {
        self.images += 1;
        let mut all: Vec<Ngram> = references
            .iter()
            .flat_map(|reference| &reference.ngrams)
            .map(|&(ngram, _)| ngram)
            .collect();
        all.sort_unstable();
        all.dedup();
        for ngram in all {
            *self.of.entry(ngram).or_default() += 1;
        }
    }

    /// Both scores of a caption that has references.
    pub(super) fn consensus(&self, hypothesis: &Caption, references: &[Caption]) -> Consensus {
        let hypothesis = self.weighted(hypothesis);
        let mut sum = Consensus {
            cider: 0.0,
            cider_d: 0.0,
        };
        for reference in references {
            let one = hypothesis.agreement(&self.weighted(reference));
            sum.cider += one.cider;
            sum.cider_d += one.cider_d;
        }
        let scale = SCALE / (LONGEST * references.len()) as f64;
        Consensus {
            cider: scale * sum.cider,
            cider_d: scale * sum.cider_d,
        }
    }

    fn weighted(&self, caption: &Caption) -> Weighted {
        let all = (self.images as f64).ln();
        let mut squares = [0.0; LONGEST];
        let weights = caption
            .ngrams
            .iter()
            .map(|&(ngram, times)| {
                let images = self.of.get(&ngram).map_or(1, |&images| images.max(1));
                let weight = f64::from(times) * (all - f64::from(images).ln());
                squares[order(ngram)] += weight * weight;
                (ngram, weight)
            })
            .collect();
        Weighted {
            weights,
            norms: squares.map(f64::sqrt),
            bigrams: caption.words.saturating_sub(1) as f64,
        }
    }
}

impl Weighted {
    /// The sums over the lengths of n-grams.
    fn agreement(&self, reference: &Self) -> Consensus {
        let mut products = [0.0; LONGEST];
        let mut clipped = [0.0; LONGEST];
        let mut others = reference.weights.iter().peekable();
        for &(ngram, weight) in &self.weights {
            while others.next_if(|(other, _)| *other < ngram).is_some() {}
            if let Some((_, other)) = others.next_if(|(other, _)| *other == ngram) {
                products[order(ngram)] += weight * other;
                clipped[order(ngram)] += weight.min(*other) * other;
            }
        }
        let difference = self.bigrams - reference.bigrams;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        let mut sum = Consensus {
            cider: 0.0,
            cider_d: 0.0,
        };
        for n in 0..LONGEST {
            let norm = self.norms[n] * reference.norms[n];
            if norm != 0.0 {
                sum.cider += products[n] / norm;
                sum.cider_d += clipped[n] / norm * penalty;
            }
        }
        sum
    }
}

/// How many images have each n-gram in their references, counted once and used for many captions.
///
/// Self-critical training rewards a caption by its CIDEr-D, with the frequencies of all training captions. They are over
/// any tokens; what is scored must be split in the same way, and have an end token if the references have one.
///
/// ```
/// use unimo_eval::captions::{DocumentFrequencies, ptb::tokenize};
///
/// let dog = vec![tokenize("a dog on grass")];
/// let cat = vec![tokenize("a cat on a sofa"), tokenize("the cat sleeps")];
/// let frequencies = DocumentFrequencies::new([&dog[..], &cat[..]])?;
/// let reward = frequencies.cider_d(&tokenize("a dog on grass"), &dog)?;
/// assert!((reward - 10.0).abs() < 1e-9);
/// # Ok::<(), unimo_eval::captions::CaptionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct DocumentFrequencies {
    vocabulary: Vocabulary,
    frequencies: Frequencies,
}

impl DocumentFrequencies {
    /// Counts the references of every image: one list of captions, each a list of tokens, for each of them.
    ///
    /// # Errors
    /// If there is no image.
    pub fn new<'s, S: AsRef<str> + 's>(
        images: impl IntoIterator<Item = &'s [Vec<S>]>,
    ) -> Result<Self, CaptionError> {
        let mut vocabulary = Vocabulary::default();
        let mut frequencies = Frequencies::default();
        for references in images {
            let references: Vec<Caption> = references
                .iter()
                .map(|reference| vocabulary.caption(reference))
                .collect();
            frequencies.add(&references);
        }
        match frequencies.images {
            0 => Err(CaptionError::NoDocuments),
            _ => Ok(Self {
                vocabulary,
                frequencies,
            }),
        }
    }

    /// How many images were counted.
    pub fn images(&self) -> usize {
        self.frequencies.images
    }

    /// CIDEr-D of a caption, from 0 to 10.
    ///
    /// # Errors
    /// If there is no reference.
    pub fn cider_d<S: AsRef<str>>(
        &self,
        hypothesis: &[S],
        references: &[Vec<S>],
    ) -> Result<f64, CaptionError> {
        Ok(self.consensus(hypothesis, references)?.cider_d)
    }

    /// Plain CIDEr of a caption, from 0 to 10.
    ///
    /// # Errors
    /// If there is no reference.
    pub fn cider<S: AsRef<str>>(
        &self,
        hypothesis: &[S],
        references: &[Vec<S>],
    ) -> Result<f64, CaptionError> {
        Ok(self.consensus(hypothesis, references)?.cider)
    }

    fn consensus<S: AsRef<str>>(
        &self,
        hypothesis: &[S],
        references: &[Vec<S>],
    ) -> Result<Consensus, CaptionError> {
        if references.is_empty() {
            return Err(CaptionError::NoReference { case: 0 });
        }
        let captions = std::iter::once(hypothesis).chain(references.iter().map(Vec::as_slice));
        let captions = self.vocabulary.captions_aside(captions);
        Ok(self.frequencies.consensus(&captions[0], &captions[1..]))
    }
}
