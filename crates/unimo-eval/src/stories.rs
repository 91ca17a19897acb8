//! Retrieval of stories among those that differ by their order or by one attribute.

/// A query with the scores of its candidates.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoryQuery {
    /// The score of each candidate: the higher, the more alike.
    pub scores: Vec<f64>,
    /// The candidate that it looks for.
    pub right: usize,
    /// The candidates that tell the same story in another order.
    pub order: Vec<usize>,
    /// The candidates that tell the same story with one attribute changed.
    pub attribute: Vec<usize>,
}

/// How many queries find their story, each beside what guessing would reach. `None`: no query has such candidates.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StoriesReport {
    /// Share of the queries whose story is the first of all candidates.
    pub r1: Found,
    /// Share of the queries whose story is among the first five.
    pub r5: Found,
    /// Share of the queries whose story is before every telling in another order.
    pub order: Option<Found>,
    /// Share of the queries whose story is before every telling with another attribute.
    pub attribute: Option<Found>,
}

/// A share, and what guessing would reach.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Found {
    /// The share.
    pub share: f64,
    /// What guessing would reach.
    pub chance: f64,
}

impl StoryQuery {
    /// How many of these candidates, without the right one, are before it. Among equals the right one comes last, and so it does where a score is
    /// no number.
    fn before(&self, others: impl Iterator<Item = usize>) -> usize {
        let own = self.scores[self.right];
        let before = others.filter(|at| *at != self.right);
        before
            .filter(|at| self.scores[*at].partial_cmp(&own) != Some(std::cmp::Ordering::Less))
            .count()
    }
}

/// Judges queries.
///
/// # Panics
///
/// Panics if a query names a candidate that it has no score of.
pub fn stories(queries: &[StoryQuery]) -> StoriesReport {
    let mean = |of: &dyn Fn(&StoryQuery) -> Option<(bool, f64)>| {
        let known: Vec<(bool, f64)> = queries.iter().filter_map(of).collect();
        let count = known.len() as f64;
        let right = known.iter().filter(|(right, _)| *right).count() as f64;
        let chance: f64 = known.iter().map(|(_, chance)| chance).sum();
        (count > 0.0).then(|| Found {
            share: right / count,
            chance: chance / count,
        })
    };
    let recall = |first: usize| {
        mean(&|query| {
            let all = query.scores.len();
            let found = query.before(0..all) < first;
            Some((found, (first as f64 / all as f64).min(1.0)))
        })
        .unwrap_or_default()
    };
    let among = |others: fn(&StoryQuery) -> &Vec<usize>| {
        mean(&|query| {
            let others = others(query);
            let first = query.before(others.iter().copied()) == 0;
            (!others.is_empty()).then(|| (first, 1.0 / (others.len() + 1) as f64))
        })
    };
    StoriesReport {
        r1: recall(1),
        r5: recall(5),
        order: among(|query| &query.order),
        attribute: among(|query| &query.attribute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_and_what_is_no_number_come_first() {
        let query = |scores: &[f64]| StoryQuery {
            scores: scores.to_vec(),
            right: 1,
            order: vec![0, 2],
            attribute: vec![3],
        };
        let found = stories(&[
            query(&[0.1, 0.9, 0.2, 0.3, 0.0, 0.5, 0.1, 0.2]),
            query(&[0.9, 0.9, 0.2, 0.3, 0.0, 0.5, 0.1, 0.2]),
            query(&[0.1, 0.9, 0.2, f64::NAN, 0.0, 0.5, 0.1, 0.2]),
            query(&[0.9, 0.1, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9]),
        ]);
        let close = |found: Found, share: f64, chance: f64| {
            assert!((found.share - share).abs() < 1e-12 && (found.chance - chance).abs() < 1e-12);
        };
        close(found.r1, 0.25, 1.0 / 8.0);
        close(found.r5, 0.75, 5.0 / 8.0);
        close(found.order.unwrap(), 0.5, 1.0 / 3.0);
        close(found.attribute.unwrap(), 0.75, 0.5);
    }

    #[test]
    fn without_candidates_nothing_is_said_of_them() {
        let query = StoryQuery {
            scores: vec![0.5, 0.1],
            right: 0,
            ..StoryQuery::default()
        };
        let found = stories(&[query]);
        assert_eq!((found.order, found.attribute), (None, None));
        assert_eq!(found.r1.share, 1.0);
    }
}
