//! Hides tokens for masked language modelling.
//!
//! Source: BERT (Devlin et al. 2019, section 3.1). Whole words: Cui et al. 2019. Spans: SpanBERT (Joshi et al. 2020, section 3.1),
//! also used by UNIMO-2. Skip-grams: spans with words left out in between, in the sense of Guthrie et al. 2006 (this project's
//! reading of the term). Runs: X-VLM (Zeng et al. 2022), whose generator CCLM has too. An exact number of tokens, the end token among them:
//! VLP (Zhou et al. 2020), release 74c4d85, vlp/seq2seq_loader.py.
//!
//! Shape legend: `L` text length.

pub mod aligned;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{MaskSpec, MaskUnit, MaskedTexts};

use crate::error::DataError;
use crate::text::tokens::{Encoded, TextTokenizer};

/// Hides tokens by a [`MaskSpec`].
#[derive(Debug, Clone)]
pub struct Masker {
    spec: MaskSpec,
    mask: i32,
    end: i32,
    /// Ids that stand for text. Other ids are never masked and never used as a random replacement.
    ordinary: Vec<i32>,
    is_ordinary: Vec<bool>,
}

impl Masker {
    /// A masker for a tokenizer's ids.
    ///
    /// # Errors
    ///
    /// A share of `spec` is out of range.
    pub fn new(spec: MaskSpec, tokenizer: &TextTokenizer) -> Result<Self, DataError> {
        if !(spec.rate > 0.0 && spec.rate < 1.0) {
            return Err(DataError::config(
                "mask.rate",
                spec.rate,
                "a number between 0 and 1, both excluded",
            ));
        }
        for (key, value) in [
            ("mask.mask_share", spec.mask_share),
            ("mask.random_share", spec.random_share),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(DataError::config(key, value, "a number from 0 to 1"));
            }
        }
        // 0.9 + 0.1 may be slightly above 1.
        if spec.mask_share + spec.random_share > 1.0 + f64::EPSILON {
            return Err(DataError::config(
                "mask.random_share",
                spec.random_share,
                format!("at most 1 - `mask.mask_share` = {}", 1.0 - spec.mask_share),
            ));
        }
        let is_ordinary: Vec<bool> = (0..tokenizer.vocab_size() as i32)
            .map(|id| !tokenizer.is_special(id) && tokenizer.token(id).is_some())
            .collect();
        let ordinary = (0..tokenizer.vocab_size() as i32)
            .filter(|id| is_ordinary[*id as usize])
            .collect();
        let mask = tokenizer.specials().mask.ok_or(DataError::Tokenizer {
            from: "of this recipe".to_owned(),
            reason: "its vocabulary has no mask token, which masked language modelling needs"
                .to_owned(),
        })?;
        Ok(Self {
            spec,
            mask,
            end: tokenizer.specials().eos,
            ordinary,
            is_ordinary,
        })
    }

    /// The ids that the model reads and the labels that it predicts, [`MaskedTexts::IGNORE`] elsewhere.
    ///
    /// Each token, or each word, is chosen independently, with `exact` as many as the share says. If none is, one is chosen at random, so every text with a maskable token
    /// has a masked one. Spans and skip-grams are drawn until the text's share of tokens is reached, exactly on average: a word
    /// that would exceed it is taken with the probability of the remaining share. Runs are drawn until the share is reached, and what is
    /// too much is dropped.
    ///
    /// # Shapes
    ///
    /// `[L]` to `[L]` and `[L]`.
    pub fn apply(&self, text: &Encoded, seed: u64) -> (Vec<i32>, Vec<i32>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut ids = text.ids.clone();
        let mut labels = vec![MaskedTexts::IGNORE; ids.len()];
        let units = self.units(text);
        match self.spec.unit {
            MaskUnit::Token
            | MaskUnit::WholeWord
            | MaskUnit::AlignedToken
            | MaskUnit::AlignedWord
            | MaskUnit::AlignedMix => {
                let mut chosen: Vec<&Vec<usize>> = units
                    .iter()
                    .filter(|_| random.random_bool(self.spec.rate))
                    .collect();
                if chosen.is_empty() && !units.is_empty() {
                    chosen.push(&units[random.random_range(0..units.len())]);
                }
                let mut chosen: Vec<usize> = chosen.into_iter().flatten().copied().collect();
                self.drop_surplus(&mut chosen, &mut random);
                for position in chosen {
                    let draw: f64 = random.random();
                    self.hide(&mut ids, &mut labels, position, draw, &mut random);
                }
            }
            MaskUnit::Exact => {
                let count = self.share_of(units.len() - usize::from(self.hides_end(text)));
                let mut order: Vec<usize> = (0..units.len()).collect();
                let (chosen, _) = order.partial_shuffle(&mut random, count);
                for unit in chosen.iter() {
                    for &position in &units[*unit] {
                        let draw: f64 = random.random();
                        self.hide(&mut ids, &mut labels, position, draw, &mut random);
                    }
                }
            }
            MaskUnit::Span => self.hide_groups(&units, 0, &mut ids, &mut labels, &mut random),
            MaskUnit::Runs => self.hide_runs(&units, &mut ids, &mut labels, &mut random),
            MaskUnit::SkipGram => {
                self.hide_groups(&units, LONGEST_SKIP, &mut ids, &mut labels, &mut random);
            }
        }
        (ids, labels)
    }

    /// Drops positions at random down to the largest number.
    fn drop_surplus(&self, chosen: &mut Vec<usize>, random: &mut ChaCha8Rng) {
        if let Some(most) = self.spec.most.filter(|most| *most < chosen.len()) {
            let (kept, _) = chosen.partial_shuffle(random, most);
            kept.sort_unstable();
            *chosen = kept.to_vec();
        }
    }

    /// How many of some tokens are to be hidden: the share, rounded, at least one, and not more than the largest number.
    fn share_of(&self, tokens: usize) -> usize {
        let share = (self.spec.rate * tokens as f64).round() as usize;
        share.max(1).min(self.spec.most.unwrap_or(usize::MAX))
    }

    /// Whether the end token of a text may be hidden.
    fn hides_end(&self, text: &Encoded) -> bool {
        self.spec.end && text.ids.last() == Some(&self.end)
    }

    /// Hides tokens and short runs of them, as many as the share says.
    fn hide_runs(
        &self,
        tokens: &[Vec<usize>],
        ids: &mut [i32],
        labels: &mut [i32],
        random: &mut ChaCha8Rng,
    ) {
        let count = self.share_of(tokens.len());
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.shuffle(random);
        let mut chosen: Vec<usize> = Vec::new();
        for first in order {
            if chosen.len() >= count {
                break;
            }
            if chosen.contains(&first) {
                continue;
            }
            let length = if random.random_bool(RUN) {
                random.random_range(2..=LONGEST_RUN)
            } else {
                1
            };
            for token in first..(first + length).min(tokens.len()) {
                if !chosen.contains(&token) {
                    chosen.push(token);
                }
            }
        }
        // The last run may be longer than what was left.
        let (kept, _) = chosen.partial_shuffle(random, count);
        for token in kept.iter() {
            for &position in &tokens[*token] {
                let draw: f64 = random.random();
                self.hide(ids, labels, position, draw, random);
            }
        }
    }

    /// Hides spans of words, with up to `skip` visible words between two words of a span.
    fn hide_groups(
        &self,
        words: &[Vec<usize>],
        skip: usize,
        ids: &mut [i32],
        labels: &mut [i32],
        random: &mut ChaCha8Rng,
    ) {
        let tokens: usize = words.iter().map(Vec::len).sum();
        let mut left = self.spec.rate * tokens as f64;
        let mut open: Vec<usize> = (0..words.len()).collect();
        let mut first = true;
        // Every iteration but the last hides a word.
        while left > 0.0 && !open.is_empty() {
            let draw: f64 = random.random();
            let mut word = open[random.random_range(0..open.len())];
            for _ in 0..span_length(random) {
                let Ok(place) = open.binary_search(&word) else {
                    break;
                };
                let size = words[word].len() as f64;
                let fits = left >= size || random.random_bool(left / size);
                left -= size;
                // A text without a hidden word would have no loss.
                if !fits && !first {
                    return;
                }
                first = false;
                open.remove(place);
                for &position in &words[word] {
                    self.hide(ids, labels, position, draw, random);
                }
                if left <= 0.0 {
                    return;
                }
                word += 1 + random.random_range(0..=skip);
            }
        }
    }

    /// Makes a position one to predict; `draw` in 0..1 decides what the model reads there.
    fn hide(
        &self,
        ids: &mut [i32],
        labels: &mut [i32],
        position: usize,
        draw: f64,
        random: &mut ChaCha8Rng,
    ) {
        labels[position] = ids[position];
        if draw < self.spec.mask_share {
            ids[position] = self.mask;
        } else if draw < self.spec.mask_share + self.spec.random_share {
            ids[position] = self.ordinary[random.random_range(0..self.ordinary.len())];
        }
    }

    /// Positions that are masked together: single tokens or words.
    fn units(&self, text: &Encoded) -> Vec<Vec<usize>> {
        let tokens = matches!(
            self.spec.unit,
            MaskUnit::Token | MaskUnit::Exact | MaskUnit::Runs
        );
        let words = !tokens && !self.spec.unit.is_aligned();
        let mut units: Vec<Vec<usize>> = Vec::new();
        let mut last_word = None;
        // Concepts are hidden by their own rules, though some share their ids with words.
        let words_end = text.ids.len().saturating_sub(1 + text.concepts);
        let of_words = text.ids.iter().zip(&text.word_ids).enumerate();
        let of_words = of_words.filter(|(at, _)| text.concepts == 0 || *at < words_end);
        for (position, (id, word)) in of_words {
            let ordinary = usize::try_from(*id)
                .ok()
                .and_then(|id| self.is_ordinary.get(id).copied())
                .unwrap_or(false);
            if !ordinary {
                last_word = None;
                continue;
            }
            match units.last_mut() {
                Some(unit) if words && word.is_some() && *word == last_word => {
                    unit.push(position);
                }
                _ => units.push(vec![position]),
            }
            last_word = *word;
        }
        if self.hides_end(text) {
            units.push(vec![text.ids.len() - 1]);
        }
        units
    }
}

/// Longest span in words, and the probability that a span ends after a word (SpanBERT).
const LONGEST_SPAN: usize = 10;
const SPAN_ENDS: f64 = 0.2;
/// Largest number of visible words between two hidden ones of a skip-gram.
const LONGEST_SKIP: usize = 2;

/// Probability that a token begins a run, and the length of the longest (X-VLM).
const RUN: f64 = 0.2;
const LONGEST_RUN: usize = 3;

/// Geometric distribution, truncated at the longest length: 3.8 words on average.
fn span_length(random: &mut ChaCha8Rng) -> usize {
    let within = 1.0 - (1.0 - SPAN_ENDS).powi(LONGEST_SPAN as i32);
    let draw = random.random::<f64>() * within;
    let length = ((1.0 - draw).ln() / (1.0 - SPAN_ENDS).ln()) as usize + 1;
    length.min(LONGEST_SPAN)
}

#[cfg(test)]
mod tests;
