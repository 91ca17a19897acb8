//! Retrieval of translations: is the nearest text of another language the translation?
//!
//! Source: the Tatoeba task of XTREME (Hu et al. 2020): cosines of sentence embeddings, accuracy of the first, in both directions.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::retrieval::Embeddings;

/// How many translations are the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitextReport {
    /// How many pairs there are.
    pub pairs: usize,
    /// Texts of the first language whose translation is the nearest of all texts of the second.
    pub there: usize,
    /// Texts of the second language whose translation is the nearest of all texts of the first.
    pub back: usize,
}

impl BitextReport {
    /// The shares of both directions.
    pub fn accuracy(&self) -> [f64; 2] {
        [self.there, self.back].map(|right| right as f64 / self.pairs.max(1) as f64)
    }

    /// What guessing would reach.
    pub fn chance(&self) -> f64 {
        1.0 / self.pairs.max(1) as f64
    }
}

/// Compares every text with every text of the other language. Row `i` of the one is the translation of row `i` of the other. Among equally
/// near texts the translation comes last, so that a model that makes all texts alike finds nothing.
///
/// # Errors
///
/// There is no pair, the numbers of rows differ, or a row has no direction.
pub fn bitext(first: &Embeddings, second: &Embeddings) -> Result<BitextReport, EvalError> {
    let pairs = first.rows();
    for (what, expected, got) in [
        ("translations", pairs.max(1), second.rows()),
        ("features", first.features(), second.features()),
    ] {
        if expected != got {
            return Err(EvalError::Count {
                what,
                expected,
                got,
            });
        }
    }
    let right = |queries: &Embeddings, keys: &Embeddings| {
        let is_right = |(at, query): &(usize, &[f32])| {
            let cosine = |key: &[f32]| -> f32 { query.iter().zip(key).map(|(a, b)| a * b).sum() };
            let own = keys.each().nth(*at).map_or(f32::NAN, cosine);
            let mut others = keys.each().enumerate().filter(|(key, _)| key != at);
            others.all(|(_, key)| cosine(key) < own)
        };
        queries.each().enumerate().filter(is_right).count()
    };
    Ok(BitextReport {
        pairs,
        there: right(first, second),
        back: right(second, first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[f32; 2]]) -> Embeddings {
        Embeddings::new(2, rows.concat()).unwrap()
    }

    #[test]
    fn the_nearest_by_cosine_counts_in_both_directions() {
        // The third text's translation points to the first; lengths do not count.
        let first = rows(&[[1.0, 0.0], [0.0, 3.0], [-1.0, 0.2]]);
        let second = rows(&[[9.0, 0.1], [0.1, 0.5], [0.8, -0.1]]);
        let report = bitext(&first, &second).unwrap();
        assert_eq!((report.pairs, report.there, report.back), (3, 2, 2));
        assert_eq!(report.accuracy(), [2.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(report.chance(), 1.0 / 3.0);
    }

    #[test]
    fn what_makes_all_texts_alike_finds_nothing() {
        let same = rows(&[[1.0, 1.0], [1.0, 1.0]]);
        let report = bitext(&same, &same).unwrap();
        assert_eq!((report.there, report.back), (0, 0));
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let one = rows(&[[1.0, 0.0]]);
        let two = rows(&[[1.0, 0.0], [0.0, 1.0]]);
        assert!(matches!(bitext(&one, &two), Err(EvalError::Count { .. })));
        assert!(Embeddings::new(2, vec![0.0, 0.0]).is_err());
    }
}
