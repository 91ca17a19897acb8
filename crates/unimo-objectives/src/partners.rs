//! Wrong partners: the caption that is paired with an image that it does not describe.
//!
//! A sample is not a wrong partner of another sample that shows the same image. Only samples whose text describes their image take
//! part. If the batches of a step are contrasted together, hard negatives come from all of them.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Where the wrong partner of a pair comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// Any other sample of the batch.
    #[default]
    Uniform,
    /// The most similar other sample, by the contrastive objective's similarity.
    HardArgmax,
    /// A sample drawn by the softmax of those similarities.
    HardSampled,
}

impl Negatives {
    /// Whether partners are chosen by similarity.
    pub fn hard(self) -> bool {
        self != Self::Uniform
    }
}

/// Which wrong partners are chosen, and how.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Choice {
    /// Where they come from.
    pub negatives: Negatives,
    /// With [`Negatives::HardSampled`], what is added to the share that the softmax over all samples gives to each (CCLM: 1e-5); `None`:
    /// ALBEF's 1e-4, with the most similar sample at 1.
    pub epsilon: Option<f64>,
}

impl From<Negatives> for Choice {
    fn from(negatives: Negatives) -> Self {
        Self {
            negatives,
            epsilon: None,
        }
    }
}

/// Between what a contrast gives similarities, and an objective asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Texts, by row, and images.
    TextsAndImages,
    /// Translations, by row, and the texts that they translate.
    TextsAndTexts,
}

/// A sample that pairs are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partner {
    /// Its row in the batch, or a number from `B` on for a sample of another batch.
    pub sample: usize,
    /// The image that it shows, if that is known.
    pub picture: Option<u64>,
}

/// Similarities of captions and images, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Similarity {
    values: Vec<f32>,
    columns: usize,
}

impl Similarity {
    /// Fetches a matrix with a row per caption and a column per image.
    ///
    /// # Shapes
    ///
    /// - matrix: `[N, N]`
    pub fn fetch(matrix: Tensor<2>) -> Self {
        let [_, columns] = matrix.dims();
        let values = matrix.into_data().convert::<f32>().iter::<f32>().collect();
        Self { values, columns }
    }

    /// Similarity of caption `text` and image `image`.
    fn of(&self, text: usize, image: usize) -> f32 {
        self.values[text * self.columns + image]
    }
}

/// The samples that a batch's pairs are made of.
#[derive(Debug, Clone, Default)]
pub struct Partners {
    /// The batch's samples, with those of the other batches if they are contrasted together, batch by batch.
    all: Vec<Partner>,
    /// Which of them are the batch's own.
    own: Range<usize>,
    /// Similarity of caption `all[i]` and image `all[j]`.
    similarity: Option<Arc<Similarity>>,
}

impl Partners {
    /// The samples of one batch whose texts describe their images (`describing`); `pictures` says which image each sample shows.
    pub fn of_batch(
        describing: &[usize],
        pictures: &[Option<u64>],
        similarity: Option<Similarity>,
    ) -> Self {
        let of_row = |&row: &usize| Partner {
            sample: row,
            picture: pictures[row],
        };
        let all: Vec<Partner> = describing.iter().map(of_row).collect();
        Self {
            own: 0..all.len(),
            all,
            similarity: similarity.map(Arc::new),
        }
    }

    /// The samples of several batches; the range `own` is the batch's.
    pub fn of_all(all: Vec<Partner>, own: Range<usize>, similarity: Arc<Similarity>) -> Self {
        Self {
            all,
            own,
            similarity: Some(similarity),
        }
    }

    /// Number of the batch's own samples.
    pub fn count(&self) -> usize {
        self.own.len()
    }

    /// Own sample `i`.
    pub fn own(&self, i: usize) -> Partner {
        self.all[self.own.start + i]
    }

    /// The sample of a wrong image for the caption of own sample `i`; `None` if all others show the same image.
    pub fn wrong_image(
        &self,
        choice: impl Into<Choice>,
        i: usize,
        rng: &mut ChaCha8Rng,
    ) -> Option<usize> {
        let at = self.own.start + i;
        let of = self
            .similarity
            .as_ref()
            .map(|s| move |j: usize| s.of(at, j));
        let of = of.as_ref().map(|of| of as &dyn Fn(usize) -> f32);
        let found = self.wrong(choice.into(), at, of, rng)?;
        Some(self.all[found].sample)
    }

    /// The sample of a wrong caption for the image of own sample `i`; `None` if all others show the same image.
    pub fn wrong_text(
        &self,
        choice: impl Into<Choice>,
        i: usize,
        rng: &mut ChaCha8Rng,
    ) -> Option<usize> {
        let at = self.own.start + i;
        let of = self
            .similarity
            .as_ref()
            .map(|s| move |j: usize| s.of(j, at));
        let of = of.as_ref().map(|of| of as &dyn Fn(usize) -> f32);
        let found = self.wrong(choice.into(), at, of, rng)?;
        Some(self.all[found].sample)
    }

    /// Up to `count` samples of the batch itself whose captions are wrong for the image of own sample `i`, each once, in random
    /// order.
    pub fn wrong_texts(&self, count: usize, i: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let at = self.own.start + i;
        let mut others: Vec<usize> = self.own.clone().filter(|j| self.differs(at, *j)).collect();
        let (drawn, _) = others.partial_shuffle(rng, count);
        drawn.iter().map(|j| self.all[*j].sample).collect()
    }

    /// Whether samples `i` and `j` are different and do not show the same image.
    fn differs(&self, i: usize, j: usize) -> bool {
        let picture = self.all[i].picture;
        j != i && (picture.is_none() || picture != self.all[j].picture)
    }

    /// A wrong partner of sample `i`, given the similarities of its candidates.
    fn wrong(
        &self,
        choice: Choice,
        i: usize,
        similarity: Option<&dyn Fn(usize) -> f32>,
        rng: &mut ChaCha8Rng,
    ) -> Option<usize> {
        let differs = |j: &usize| self.differs(i, *j);
        let others = || (0..self.all.len()).filter(differs);
        match (choice.negatives, similarity) {
            (Negatives::HardArgmax, Some(of)) => others().max_by(|&a, &b| of(a).total_cmp(&of(b))),
            (Negatives::HardSampled, Some(of)) => {
                let all = || 0..self.all.len();
                // ALBEF: softmax over the others. With a given epsilon, CCLM: over all, the sample itself among them.
                let (top, sum, least) = match choice.epsilon {
                    // A small share for every sample, so that each can be drawn (ALBEF adds 1e-4).
                    None => (
                        others().map(of).fold(f32::NEG_INFINITY, f32::max),
                        1.0,
                        1e-4,
                    ),
                    Some(epsilon) => {
                        let top = all().map(of).fold(f32::NEG_INFINITY, f32::max);
                        let each = all().map(|j| f64::from((of(j) - top).exp()));
                        (top, each.sum::<f64>(), epsilon)
                    }
                };
                let share = |j: usize| f64::from((of(j) - top).exp()) / sum + least;
                let total: f64 = others().map(share).sum();
                others().next()?;
                let mut left = rng.random::<f64>() * total;
                others()
                    .find(|&j| {
                        left -= share(j);
                        left <= 0.0
                    })
                    .or_else(|| others().next_back())
            }
            _ => {
                let near: Vec<usize> = self.own.clone().filter(differs).collect();
                (!near.is_empty()).then(|| near[rng.random_range(0..near.len())])
            }
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn partners(pictures: &[Option<u64>], similarity: Option<Vec<Vec<f32>>>) -> Partners {
        let describing: Vec<usize> = (0..pictures.len()).collect();
        let similarity = similarity.map(|rows| Similarity {
            columns: pictures.len(),
            values: rows.concat(),
        });
        Partners::of_batch(&describing, pictures, similarity)
    }

    #[test]
    fn sampling_follows_the_similarities() {
        /// 2,000 draws with a probability of 0.88 stay within 0.05 of it in all but one of 10^9 runs.
        const TOLERANCE: f64 = 0.05;
        let partners = partners(&[None; 3], Some(vec![vec![0.0, 2.0, 0.0]; 3]));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let draws = 2000;
        let hits = (0..draws)
            .filter(|_| partners.wrong_image(Negatives::HardSampled, 0, &mut rng) == Some(1))
            .count();
        let expected = 2f64.exp() / (2f64.exp() + 1.0);
        assert!((hits as f64 / f64::from(draws) - expected).abs() < TOLERANCE);
    }

    /// The softmax is over all samples, so that a true pair which stands out leaves the others to the epsilon.
    #[test]
    fn a_given_epsilon_is_added_to_the_share_of_all() {
        /// As above.
        const TOLERANCE: f64 = 0.05;
        let share = |own: f32, epsilon: f64| {
            let partners = partners(&[None; 3], Some(vec![vec![own, 2.0, 0.0]; 3]));
            let choice = Choice {
                negatives: Negatives::HardSampled,
                epsilon: Some(epsilon),
            };
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let draws = 2000;
            let hits = (0..draws).filter(|_| partners.wrong_image(choice, 0, &mut rng) == Some(1));
            hits.count() as f64 / f64::from(draws)
        };
        let expected = 2f64.exp() / (2f64.exp() + 1.0);
        assert!((share(0.0, 0.0) - expected).abs() < TOLERANCE);
        assert!((share(1000.0, 1e-5) - 0.5).abs() < TOLERANCE);
    }

    #[test]
    fn no_sample_is_the_wrong_partner_of_the_same_picture() {
        let pictures = [Some(7), Some(7), None, Some(8), None];
        // The most similar samples show the same image.
        let similarity: Vec<Vec<f32>> = (0..5)
            .map(|i| {
                (0..5)
                    .map(|j| if i < 2 && j < 2 { 9.0 } else { j as f32 })
                    .collect()
            })
            .collect();
        let partners = partners(&pictures, Some(similarity));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for negatives in [
            Negatives::Uniform,
            Negatives::HardArgmax,
            Negatives::HardSampled,
        ] {
            let mut seen = [false; 5];
            for _ in 0..100 {
                let image = partners.wrong_image(negatives, 0, &mut rng).unwrap();
                let text = partners.wrong_text(negatives, 1, &mut rng).unwrap();
                assert!(image > 1 && text > 1, "{negatives:?}");
                seen[image] = true;
            }
            // Each sample with an unknown image counts as an image of its own.
            assert!(seen[4], "{negatives:?}");
            assert_ne!(partners.wrong_image(negatives, 2, &mut rng), Some(2));
        }
    }

    #[test]
    fn where_all_show_one_picture_there_is_no_wrong_partner() {
        let of_one = partners(&[Some(7); 3], Some(vec![vec![0.0; 3]; 3]));
        let alone = partners(&[None], None);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for negatives in [
            Negatives::Uniform,
            Negatives::HardArgmax,
            Negatives::HardSampled,
        ] {
            assert_eq!(of_one.wrong_image(negatives, 1, &mut rng), None);
            assert_eq!(of_one.wrong_text(negatives, 1, &mut rng), None);
            assert_eq!(alone.wrong_text(negatives, 0, &mut rng), None);
        }
    }
}
