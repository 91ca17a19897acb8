//! ROUGE-L: how much of a caption and of its references is in the longest sequence of words that both have in this order.
//!
//! "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), as COCO's evaluation computes it: precision and recall are
//! the best over the references, each on its own, so that they may come from different ones.

use super::ngrams::Caption;

/// How much more recall counts than precision.
const BETA: f64 = 1.2;

/// ROUGE-L of one caption.
pub(super) fn score(hypothesis: &Caption, references: &[Caption]) -> f64 {
    let mut precision: f64 = 0.0;
    let mut recall: f64 = 0.0;
    for reference in references {
        let common = longest_common(&hypothesis.tokens, &reference.tokens) as f64;
        precision = precision.max(common / hypothesis.tokens.len() as f64);
        recall = recall.max(common / reference.tokens.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// The length of the longest sequence that is in both, with anything in between.
fn longest_common(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (column, y) in b.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[column])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}
