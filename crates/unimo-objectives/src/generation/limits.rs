//! What may not be written: words that do not belong into captions, an end too early, the same words twice.

use super::{GenerationConfig, Hypothesis};

/// The tokens that the search knows by their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Ends a caption.
    pub end: i32,
    /// Tokens that are never written, such as padding and the begin token.
    pub forbidden: Vec<i32>,
}

/// The limits of a search.
pub(super) struct Limits<'a> {
    prompt: &'a [i32],
    vocabulary: &'a Vocabulary,
    config: &'a GenerationConfig,
}

impl<'a> Limits<'a> {
    pub(super) fn new(
        prompt: &'a [i32],
        vocabulary: &'a Vocabulary,
        config: &'a GenerationConfig,
    ) -> Self {
        Self {
            prompt,
            vocabulary,
            config,
        }
    }

    /// The log-probabilities of the words after a text, -inf for those that may not follow.
    pub(super) fn applied(&self, text: &Hypothesis, scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        let mut forbid = |token: i32| {
            let score = usize::try_from(token)
                .ok()
                .and_then(|at| scores.get_mut(at));
            if let Some(score) = score {
                *score = f32::NEG_INFINITY;
            }
        };
        for token in &self.vocabulary.forbidden {
            forbid(*token);
        }
        if text.tokens.len() + 1 < self.config.min_length {
            forbid(self.vocabulary.end);
        }
        if self.config.no_repeat > 0 {
            let mut all = self.prompt.to_vec();
            all.extend_from_slice(&text.tokens);
            for token in repeating(&all, self.config.no_repeat) {
                forbid(token);
            }
        }
        scores
    }
}

/// The tokens that would complete a sequence of `count` tokens that the text holds already.
fn repeating(text: &[i32], count: usize) -> Vec<i32> {
    let Some(start) = (text.len() + 1).checked_sub(count) else {
        return Vec::new();
    };
    let last = &text[start..];
    let same = text
        .windows(count)
        .filter(|window| window.starts_with(last));
    same.map(|window| window[count - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_is_completed_twice() {
        assert_eq!(repeating(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(repeating(&[1, 2, 1, 3, 1], 2), [2, 3]);
        assert_eq!(repeating(&[4, 5], 1), [4, 5]);
        assert!(repeating(&[1, 2], 4).is_empty());
        assert!(repeating(&[1, 2], 3).is_empty());
    }
}
