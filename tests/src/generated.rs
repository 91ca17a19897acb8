//! Texts that transformers' `generate` wrote, and the settings that it was given.

use serde::Deserialize;
use unimo_objectives::generation::{Generated, GenerationConfig, LengthRule, Vocabulary, Written};

use crate::fixture;

/// Sums of ten f32 log-probabilities over two blocks, divided by 1 or more.
const TOLERANCE: f64 = 2e-4;

/// A call of `generate`, as `reference/generation.py` and `reference/blip.py` write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    num_beams: usize,
    max_new_tokens: usize,
    #[serde(default)]
    length_penalty: f64,
    #[serde(default)]
    no_repeat_ngram_size: usize,
    #[serde(default)]
    min_new_tokens: usize,
    /// The tokens that every text begins with.
    prompt: Vec<i32>,
    tokens: Vec<Vec<i32>>,
    ended: Vec<bool>,
    #[serde(default)]
    score: Vec<f64>,
}

impl Case {
    /// The cases of `fixtures/FOLDER/cases.json`.
    ///
    /// # Panics
    ///
    /// Panics if there are none.
    pub fn read(folder: &str) -> Vec<Self> {
        let path = fixture::folder().join(folder).join("cases.json");
        let bytes = std::fs::read(path).expect("the fixture");
        serde_json::from_slice(&bytes).expect("the fixture's cases")
    }

    /// What `write` makes of the case. `end` is the token that ends a text.
    ///
    /// # Panics
    ///
    /// Panics if the settings of the case are not allowed.
    pub fn written<T>(&self, end: i32, write: impl FnOnce(&Written<'_>) -> T) -> T {
        let config = self.config();
        config.validate().expect("settings that are allowed");
        let vocabulary = Vocabulary {
            end,
            forbidden: Vec::new(),
        };
        write(&Written {
            prompt: &self.prompt,
            vocabulary: &vocabulary,
            config: &config,
        })
    }

    /// The settings, as ours.
    fn config(&self) -> GenerationConfig {
        GenerationConfig {
            beams: self.num_beams,
            rule: LengthRule::Finished,
            length_penalty: self.length_penalty,
            // Ours counts the end token.
            min_length: self.min_new_tokens + 1,
            max_length: self.max_new_tokens,
            no_repeat: self.no_repeat_ngram_size,
            sampling: None,
        }
    }

    /// Compares texts with those of transformers, token for token.
    ///
    /// # Panics
    ///
    /// Panics if one differs.
    pub fn compare(&self, found: &[Generated]) {
        assert_eq!(found.len(), self.tokens.len(), "{self:?}");
        for (at, text) in found.iter().enumerate() {
            let expected = (&self.tokens[at], self.ended[at]);
            assert_eq!(
                (&text.tokens, text.ended),
                expected,
                "text {at} of {self:?}"
            );
        }
        // Greedy search has no score.
        for (text, score) in found.iter().zip(&self.score) {
            let difference = (text.score - score).abs();
            assert!(difference < TOLERANCE, "{} {self:?}", text.score);
        }
    }
}
