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
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Rounding of a handful of products and sums in f64.
    const F64_ROUNDING: f64 = 1e-12;

    fn truth(text_image: &[usize], images: usize) -> GroundTruth {
        GroundTruth::new(text_image.to_vec(), images).unwrap()
    }

    fn random_case(
        rng: &mut ChaCha8Rng,
        images: usize,
        per_image: usize,
    ) -> (GroundTruth, Vec<f32>) {
        let text_image: Vec<usize> = (0..images * per_image)
            .map(|text| text / per_image)
            .collect();
        let values = (0..text_image.len() * images)
            .map(|_| rng.random::<f32>())
            .collect();
        (truth(&text_image, images), values)
    }

    #[test]
    fn hand_computed_with_several_captions() {
        // Texts 0, 1 -> image 0; 2 -> image 1; 3, 4 -> image 2.
        let truth = truth(&[0, 0, 1, 2, 2], 3);
        #[rustfmt::skip]
        let scores = Scores::new(5, 3, vec![
            0.9, 0.1, 0.2, // own first
            0.1, 0.8, 0.7, // own third
            0.3, 0.5, 0.6, // own second
            0.4, 0.2, 0.9, // own first
            0.0, 0.3, 0.1, // own second
        ]).unwrap();
        assert_eq!(
            ranks(Direction::TextToImage, &scores, &truth).unwrap(),
            [1, 3, 2, 1, 2]
        );
        // Image 0: best caption 0.9 is first of the column. Image 1: 0.5 behind 0.8. Image 2: best 0.9 is first.
        assert_eq!(
            ranks(Direction::ImageToText, &scores, &truth).unwrap(),
            [1, 2, 1]
        );
        let recall = recall(&scores, &truth).unwrap();
        assert_eq!(
            recall.text_to_image,
            Recall {
                r1: 0.4,
                r5: 1.0,
                r10: 1.0,
                median_rank: 2.0
            }
        );
        assert_eq!(
            recall.image_to_text,
            Recall {
                r1: 2.0 / 3.0,
                r5: 1.0,
                r10: 1.0,
                median_rank: 1.0
            }
        );
    }

    #[test]
    fn an_image_is_found_by_any_caption_and_its_other_captions_do_not_stand_in_the_way() {
        // Both captions of image 0 are ahead of the others: rank 1. Image 1's worse caption is last: rank still 3.
        let truth = truth(&[0, 0, 1, 1], 2);
        let scores = Scores::new(4, 2, vec![0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.1, 0.1]).unwrap();
        assert_eq!(
            ranks(Direction::ImageToText, &scores, &truth).unwrap(),
            [1, 3]
        );
    }

    #[test]
    fn constant_scores_have_the_worst_rank() {
        let truth = truth(&[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 6);
        let scores = Scores::new(12, 6, vec![0.5; 72]).unwrap();
        assert_eq!(
            ranks(Direction::TextToImage, &scores, &truth).unwrap(),
            [6; 12]
        );
        // Ten wrong texts, then the best of the two right ones.
        assert_eq!(
            ranks(Direction::ImageToText, &scores, &truth).unwrap(),
            [11; 6]
        );
        let recall = recall(&scores, &truth).unwrap();
        assert_eq!(
            (recall.text_to_image.r1, recall.text_to_image.r5),
            (0.0, 0.0)
        );
        assert_eq!(
            (recall.image_to_text.r1, recall.image_to_text.r10),
            (0.0, 0.0)
        );
    }

    #[test]
    fn a_tie_counts_against_the_right_item_only_with_wrong_ones() {
        let truth = truth(&[0, 0, 1], 2);
        // Image 0: its two captions tie at the top, the wrong text is below. Image 1: its caption ties with text 0.
        let scores = Scores::new(3, 2, vec![0.9, 0.4, 0.9, 0.1, 0.2, 0.4]).unwrap();
        assert_eq!(
            ranks(Direction::ImageToText, &scores, &truth).unwrap(),
            [1, 2]
        );
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Recall::from_ranks(&[7, 1, 3]).unwrap().median_rank, 3.0);
        assert_eq!(Recall::from_ranks(&[7, 1, 3, 4]).unwrap().median_rank, 3.5);
        assert_eq!(Recall::from_ranks(&[]), None);
        let recall = Recall::from_ranks(&[1, 2, 5, 6, 10, 11, 12, 13]).unwrap();
        assert_eq!((recall.r1, recall.r5, recall.r10), (0.125, 0.375, 0.625));
    }

    #[test]
    fn chance_is_exact() {
        // Six texts of three images, with 1, 2 and 3 captions.
        let chance = chance(&truth(&[0, 1, 1, 2, 2, 2], 3));
        assert!((chance.text_to_image.r1 - 1.0 / 3.0).abs() < F64_ROUNDING);
        assert_eq!(
            (chance.text_to_image.r5, chance.text_to_image.r10),
            (1.0, 1.0)
        );
        assert!((chance.image_to_text.r1 - (1.0 + 2.0 + 3.0) / 6.0 / 3.0).abs() < F64_ROUNDING);
        // Five of six texts drawn: only the single caption can be the one left out.
        assert!((chance.image_to_text.r5 - (5.0 / 6.0 + 1.0 + 1.0) / 3.0).abs() < F64_ROUNDING);
        assert_eq!(chance.image_to_text.r10, 1.0);
    }

    /// The expectation by brute force: every one of the 5! rankings of five texts, and the recall of each.
    #[test]
    fn chance_equals_the_mean_over_all_rankings() {
        let truth = truth(&[0, 0, 0, 1, 1], 2);
        fn permutations(rest: &[usize]) -> Vec<Vec<usize>> {
            if rest.is_empty() {
                return vec![Vec::new()];
            }
            let mut all = Vec::new();
            for (at, &first) in rest.iter().enumerate() {
                let others = [&rest[..at], &rest[at + 1..]].concat();
                for mut tail in permutations(&others) {
                    tail.insert(0, first);
                    all.push(tail);
                }
            }
            all
        }
        let rankings = permutations(&[0, 1, 2, 3, 4]);
        assert_eq!(rankings.len(), 120);
        let mut sum = 0.0;
        for ranking in &rankings {
            let values = ranking
                .iter()
                .flat_map(|&place| [place as f32; 2])
                .collect();
            sum += recall(&Scores::new(5, 2, values).unwrap(), &truth)
                .unwrap()
                .image_to_text
                .r1;
        }
        assert!((sum / 120.0 - chance(&truth).image_to_text.r1).abs() < F64_ROUNDING);
    }

    #[test]
    fn random_scores_are_at_chance() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (truth, values) = random_case(&mut rng, 200, 5);
        let recall = recall(&Scores::new(1000, 200, values).unwrap(), &truth).unwrap();
        let chance = chance(&truth);
        for (queries, got, expected) in [
            (
                1000.0_f64,
                recall.text_to_image.r10,
                chance.text_to_image.r10,
            ),
            (200.0, recall.image_to_text.r10, chance.image_to_text.r10),
        ] {
            // Four standard errors of a share: a correct implementation is outside for one seed in 15 000.
            let tolerance = 4.0 * (expected * (1.0 - expected) / queries).sqrt();
            assert!(
                (got - expected).abs() < tolerance,
                "{got} against {expected} +- {tolerance}"
            );
        }
    }

    #[test]
    fn a_perfect_model_has_recall_one() {
        let text_image: Vec<usize> = (0..60).map(|text| text / 5).collect();
        let values = (0..60 * 12)
            .map(|at| {
                if text_image[at / 12] == at % 12 {
                    1.0
                } else {
                    0.0
                }
            })
            .collect();
        let recall = recall(
            &Scores::new(60, 12, values).unwrap(),
            &truth(&text_image, 12),
        )
        .unwrap();
        let perfect = Recall {
            r1: 1.0,
            r5: 1.0,
            r10: 1.0,
            median_rank: 1.0,
        };
        assert_eq!(
            (recall.text_to_image, recall.image_to_text),
            (perfect, perfect)
        );
    }

    #[test]
    fn the_order_of_the_items_does_not_matter() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..20 {
            let (truth, mut values) = random_case(&mut rng, 11, 3);
            // Coarse scores, so that ties occur.
            values
                .iter_mut()
                .for_each(|score| *score = (*score * 20.0).round());
            let mut text_order: Vec<usize> = (0..33).collect();
            let mut image_order: Vec<usize> = (0..11).collect();
            text_order.shuffle(&mut rng);
            image_order.shuffle(&mut rng);
            let place = |image: usize| image_order.iter().position(|&at| at == image).unwrap();
            let moved_truth = self::truth(
                &text_order
                    .iter()
                    .map(|&t| place(truth.text_image()[t]))
                    .collect::<Vec<_>>(),
                11,
            );
            let moved = text_order
                .iter()
                .flat_map(|&t| image_order.iter().map(move |&i| t * 11 + i))
                .map(|at| values[at])
                .collect();
            assert_eq!(
                recall(&Scores::new(33, 11, moved).unwrap(), &moved_truth).unwrap(),
                recall(&Scores::new(33, 11, values).unwrap(), &truth).unwrap()
            );
        }
    }

    #[test]
    fn bad_input_is_named() {
        let message = |error: EvalError| error.to_string();
        assert_eq!(
            message(GroundTruth::new(vec![0, 2], 2).unwrap_err()),
            "text 1 belongs to image 2, but there are only 2 images (0 to 1)"
        );
        assert!(
            message(GroundTruth::new(vec![0, 0], 2).unwrap_err())
                .starts_with("image 1 has no caption")
        );
        assert!(
            message(GroundTruth::new(vec![], 2).unwrap_err()).contains("got 0 texts and 2 images")
        );
        assert!(
            message(GroundTruth::new(vec![0], 0).unwrap_err()).contains("got 1 texts and 0 images")
        );
        assert!(
            message(Scores::new(2, 2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap_err())
                .starts_with("the given score of text 1 and image 0 is NaN")
        );
        assert!(
            message(Scores::new(2, 2, vec![0.0; 3]).unwrap_err()).ends_with("expected 4, got 3")
        );
        let scores = Scores::new(2, 3, vec![0.0; 6]).unwrap();
        assert_eq!(
            message(recall(&scores, &truth(&[0, 1], 2)).unwrap_err()),
            "images in the scores: expected 2, got 3"
        );
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let recall = Recall {
            r1: 0.5,
            r5: 0.75,
            r10: 1.0,
            median_rank: 1.5,
        };
        assert_eq!(
            serde_json::to_string(&recall).unwrap(),
            r#"{"r1":0.5,"r5":0.75,"r10":1.0,"median_rank":1.5}"#
        );
        assert_eq!(
            serde_json::to_string(&chance(&truth(&[0, 1], 2))).unwrap(),
            r#"{"text_to_image":{"r1":0.5,"r5":1.0,"r10":1.0},"image_to_text":{"r1":0.5,"r5":1.0,"r10":1.0}}"#
        );
    }
}
