//! Recall and median rank of image-text retrieval, from scores alone.
//!
//! The protocol is that of METER, ALBEF and LAVIS. Every text ranks all images, and its own image is right. Every image
//! ranks all texts. Each of its captions is right, and the best-ranked one counts.
//!
//! **Ties count against the right item.** The rank of a query is 1 + the number of wrong candidates that score at least
//! as high as the best right one. So a model that gives every pair the same score has the worst rank there is, and
//! equal captions of different images count as mistakes. Matching heads should return logits: probabilities that
//! saturate at 1 tie where logits do not.
//!
//! Shape legend: `N` texts, `M` images.

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// The ranks that recall is reported at.
const RECALL_AT: [usize; 3] = [1, 5, 10];

/// One text beside one image. Orders by image first, so that sorted pairs reuse the features of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// Index of the image, below `M`.
    pub image: usize,
    /// Index of the text, below `N`.
    pub text: usize,
}

/// Which side asks and which side is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Every text ranks all images ("image retrieval", IR).
    TextToImage,
    /// Every image ranks all texts ("text retrieval", TR).
    ImageToText,
}

impl Direction {
    /// How many queries there are: `N` or `M`.
    pub fn queries(self, truth: &GroundTruth) -> usize {
        match self {
            Self::TextToImage => truth.texts(),
            Self::ImageToText => truth.images(),
        }
    }

    /// How many candidates each query ranks: `M` or `N`.
    pub fn candidates(self, truth: &GroundTruth) -> usize {
        match self {
            Self::TextToImage => truth.images(),
            Self::ImageToText => truth.texts(),
        }
    }

    /// The pair that a query and a candidate form.
    pub fn pair(self, query: usize, candidate: usize) -> Pair {
        match self {
            Self::TextToImage => Pair {
                text: query,
                image: candidate,
            },
            Self::ImageToText => Pair {
                text: candidate,
                image: query,
            },
        }
    }
}

/// The same thing for both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directions<T> {
    /// Every text ranks all images.
    pub text_to_image: T,
    /// Every image ranks all texts.
    pub image_to_text: T,
}

/// Which texts belong to which image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroundTruth {
    text_image: Vec<usize>,
    /// `[M]`: how many captions each image has.
    captions: Vec<usize>,
}

impl GroundTruth {
    /// `text_image[t]` is the index of the image that text `t` describes; there are `images` images.
    ///
    /// # Errors
    /// If there is no text or no image, if a text names an image that does not exist, or if an image has no caption.
    pub fn new(text_image: Vec<usize>, images: usize) -> Result<Self, EvalError> {
        let texts = text_image.len();
        if texts == 0 || images == 0 {
            return Err(EvalError::Empty { texts, images });
        }
        let mut captions = vec![0; images];
        for (text, &image) in text_image.iter().enumerate() {
            match captions.get_mut(image) {
                Some(count) => *count += 1,
                None => {
                    return Err(EvalError::NoSuchImage {
                        text,
                        image,
                        images,
                    });
                }
            }
        }
        match captions.iter().position(|&count| count == 0) {
            Some(image) => Err(EvalError::NoCaption { image }),
            None => Ok(Self {
                text_image,
                captions,
            }),
        }
    }

    /// `N`.
    pub fn texts(&self) -> usize {
        self.text_image.len()
    }

    /// `M`.
    pub fn images(&self) -> usize {
        self.captions.len()
    }

    /// `[N]`: the image of each text.
    pub fn text_image(&self) -> &[usize] {
        &self.text_image
    }

    /// Whether the text describes the image.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn is_match(&self, pair: Pair) -> bool {
        self.text_image[pair.text] == pair.image
    }
}

/// A score for every text and image; higher is a better match.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    images: usize,
    values: Vec<f32>,
}

impl Scores {
    /// `values`: `[N, M]`, row-major, one row per text. Infinities are allowed, they compare as usual.
    ///
    /// # Errors
    /// If there are not `texts * images` values, or if one of them is NaN.
    pub fn new(texts: usize, images: usize, values: Vec<f32>) -> Result<Self, EvalError> {
        Self::from_source("given", texts, images, values)
    }

    pub(crate) fn from_source(
        source_of_score: &'static str,
        texts: usize,
        images: usize,
        values: Vec<f32>,
    ) -> Result<Self, EvalError> {
        if texts == 0 || images == 0 {
            return Err(EvalError::Empty { texts, images });
        }
        // A product that overflows cannot be the length of anything in memory.
        let expected = texts.saturating_mul(images);
        if values.len() != expected {
            return Err(EvalError::Count {
                what: "scores (texts times images)",
                expected,
                got: values.len(),
            });
        }
        if let Some(at) = values.iter().position(|score| score.is_nan()) {
            return Err(EvalError::NanScore {
                source_of_score,
                text: at / images,
                image: at % images,
            });
        }
        Ok(Self { images, values })
    }

    /// `N`.
    pub fn texts(&self) -> usize {
        self.values.len() / self.images
    }

    /// `M`.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The score of one pair.
    ///
    /// # Panics
    /// If there is no such text or image.
    pub fn get(&self, pair: Pair) -> f32 {
        assert!(
            pair.image < self.images,
            "image {} of {}",
            pair.image,
            self.images
        );
        self.values[pair.text * self.images + pair.image]
    }
}

/// Recall at 1, 5 and 10, as shares of the queries in [0, 1], and the median rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// Share of the queries whose rank is 1.
    pub r1: f64,
    /// Share of the queries whose rank is 5 or better.
    pub r5: f64,
    /// Share of the queries whose rank is 10 or better.
    pub r10: f64,
    /// The median of the ranks, which start at 1. For an even number of queries it is the mean of the middle two.
    pub median_rank: f64,
}

impl Recall {
    /// Summarises the ranks of the queries; `None` without ranks.
    pub fn from_ranks(ranks: &[usize]) -> Option<Self> {
        let mut sorted = ranks.to_vec();
        sorted.sort_unstable();
        let (&low, &high) = (
            sorted.get(sorted.len().checked_sub(1)? / 2)?,
            sorted.get(sorted.len() / 2)?,
        );
        let [r1, r5, r10] = RECALL_AT
            .map(|k| sorted.partition_point(|&rank| rank <= k) as f64 / sorted.len() as f64);
        Some(Self {
            r1,
            r5,
            r10,
            median_rank: (low as f64 + high as f64) / 2.0,
        })
    }
}

/// The recall that a random ranking is expected to have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChanceRecall {
    /// Expected recall at 1.
    pub r1: f64,
    /// Expected recall at 5.
    pub r5: f64,
    /// Expected recall at 10.
    pub r10: f64,
}

/// The rank of every query, from 1 (best): `[N]` or `[M]`. Ties count against the right candidates (see the
/// [module](self)).
///
/// # Errors
/// If the numbers of texts and images of the scores are not those of the ground truth.
pub fn ranks(
    direction: Direction,
    scores: &Scores,
    truth: &GroundTruth,
) -> Result<Vec<usize>, EvalError> {
    check_size(scores, truth)?;
    let candidates = direction.candidates(truth);
    Ok((0..direction.queries(truth))
        .map(|query| {
            let keys: Vec<f32> = (0..candidates)
                .map(|candidate| scores.get(direction.pair(query, candidate)))
                .collect();
            rank(direction, query, &keys, truth)
        })
        .collect())
}

/// Recall and median rank of both directions.
///
/// # Errors
/// As [`ranks`].
pub fn recall(scores: &Scores, truth: &GroundTruth) -> Result<Directions<Recall>, EvalError> {
    let of = |direction| {
        let ranks = ranks(direction, scores, truth)?;
        Recall::from_ranks(&ranks).ok_or(EvalError::Empty {
            texts: truth.texts(),
            images: truth.images(),
        })
    };
    Ok(Directions {
        text_to_image: of(Direction::TextToImage)?,
        image_to_text: of(Direction::ImageToText)?,
    })
}

/// The recall that a uniformly random ranking without ties is expected to have on this ground truth, exactly.
///
/// A text finds its image among the first `k` of `M` with probability `k / M`. An image with `c` captions misses all
/// of them with probability `C(N - c, k) / C(N, k)` (hypergeometric); the mean over the images is reported.
pub fn chance(truth: &GroundTruth) -> Directions<ChanceRecall> {
    let texts = truth.texts();
    let miss = |captions: usize, k: usize| -> f64 {
        (0..k.min(texts))
            .map(|drawn| (texts - captions).saturating_sub(drawn) as f64 / (texts - drawn) as f64)
            .product()
    };
    let [r1, r5, r10] = RECALL_AT.map(|k| k.min(truth.images()) as f64 / truth.images() as f64);
    let text_to_image = ChanceRecall { r1, r5, r10 };
    let [r1, r5, r10] = RECALL_AT.map(|k| {
        let hits: f64 = truth
            .captions
            .iter()
            .map(|&captions| 1.0 - miss(captions, k))
            .sum();
        hits / truth.images() as f64
    });
    Directions {
        text_to_image,
        image_to_text: ChanceRecall { r1, r5, r10 },
    }
}

/// The rank of one query: 1 + the number of wrong candidates that are at least as good as the best right one.
/// `keys[c]` orders candidate `c`, higher is better; keys must compare, which NaN does not.
pub(crate) fn rank<K: PartialOrd + Copy>(
    direction: Direction,
    query: usize,
    keys: &[K],
    truth: &GroundTruth,
) -> usize {
    let is_right = |candidate: usize| truth.is_match(direction.pair(query, candidate));
    let best = (0..keys.len())
        .filter(|&candidate| is_right(candidate))
        .map(|candidate| keys[candidate])
        .reduce(|best, key| if key > best { key } else { best });
    1 + (0..keys.len())
        .filter(|&candidate| {
            !is_right(candidate) && best.is_none_or(|best| keys[candidate] >= best)
        })
        .count()
}

fn check_size(scores: &Scores, truth: &GroundTruth) -> Result<(), EvalError> {
    for (what, expected, got) in [
        ("texts in the scores", truth.texts(), scores.texts()),
        ("images in the scores", truth.images(), scores.images()),
    ] {
        if expected != got {
            return Err(EvalError::Count {
                what,
                expected,
                got,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
