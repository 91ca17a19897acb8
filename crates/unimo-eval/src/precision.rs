//! Average precision: how high a ranking puts what is relevant.

/// The average precision of a ranking by `scores`, highest first: the mean, over the relevant items, of the share of relevant ones among
/// those that rank as high. Of equal scores the irrelevant ones come first, so that a constant gets no credit. `None` if nothing is
/// relevant.
///
/// A ranking at random reaches about the share of what is relevant.
///
/// ```
/// use unimo_eval::precision::average_precision;
///
/// assert_eq!(average_precision(&[0.9, 0.8, 0.1], &[true, false, true]), Some((1.0 + 2.0 / 3.0) / 2.0));
/// ```
pub fn average_precision(scores: &[f32], relevant: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len().min(relevant.len())).collect();
    order.sort_by(|a, b| {
        let by_score = scores[*b].total_cmp(&scores[*a]);
        by_score.then(relevant[*a].cmp(&relevant[*b]))
    });
    let (mut found, mut sum) = (0usize, 0.0);
    for (rank, item) in order.into_iter().enumerate() {
        if relevant[item] {
            found += 1;
            sum += found as f64 / (rank + 1) as f64;
        }
    }
    (found > 0).then(|| sum / found as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_ranking_has_1_and_a_constant_no_credit() {
        let relevant = [true, false, true, false];
        assert_eq!(
            average_precision(&[4.0, 1.0, 3.0, 2.0], &relevant),
            Some(1.0)
        );
        let worst = average_precision(&[1.0, 4.0, 2.0, 3.0], &relevant);
        assert_eq!(worst, Some((1.0 / 3.0 + 0.5) / 2.0));
        assert_eq!(average_precision(&[1.0; 4], &relevant), worst);
        assert_eq!(average_precision(&[1.0; 2], &[false; 2]), None);
    }
}
