//! Hides words of a text together with the words of its translation that stand for them.
//!
//! Source: UC2 (Zhou et al. 2021), section 3.2, with the modes of its release. Tokens of the first text are chosen one by one. With each, its
//! partner is hidden: a token, or all tokens, of the word that the alignment has for its word, the first one if there are several. Both are
//! replaced alike. Where the release takes a word without a partner to stand for the other text's first word, here it is hidden by itself.
//!
//! Shape legend: `L` tokens of a text.

use std::collections::BTreeSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use unimo_batch::{MaskUnit, MaskedTexts};

use super::Masker;
use crate::text::tokens::Encoded;

/// Share of the texts of which, in mode `aligned_mix`, words of both are hidden without regard to each other.
const PLAIN: f64 = 0.5;

/// A text and, for each of its tokens, the word between spaces that it is a piece of.
#[derive(Debug, Clone, Copy)]
pub struct Spaced<'a> {
    /// Its tokens.
    pub text: &'a Encoded,
    /// `[L]`: `None` for tokens that are no piece of a word.
    pub words: &'a [Option<u32>],
}

/// Positions of both texts that are hidden with a token of the first: its own and its partner's. `words` are those of the tokens that may be
/// hidden. `pick` draws one of so many.
///
/// # Shapes
///
/// - words: `[L]` of each text
pub fn hidden_with(
    at: usize,
    words: [&[Option<u32>]; 2],
    alignment: &[(u32, u32)],
    whole: bool,
    pick: &mut dyn FnMut(usize) -> usize,
) -> [Vec<usize>; 2] {
    let of = |text: usize, word: u32| -> Vec<usize> {
        let tokens = words[text].iter().enumerate();
        let own = tokens.filter(|(_, own)| **own == Some(word));
        own.map(|(at, _)| at).collect()
    };
    let Some(word) = words[0][at] else {
        return [vec![at], Vec::new()];
    };
    let partner = alignment.iter().find(|(first, _)| *first == word);
    let partner = partner
        .map(|(_, second)| of(1, *second))
        .unwrap_or_default();
    if whole {
        return [of(0, word), partner];
    }
    let drawn = (!partner.is_empty()).then(|| partner[pick(partner.len())]);
    [vec![at], drawn.into_iter().collect()]
}

impl Masker {
    /// Whether words are hidden together with those of a translation.
    pub(crate) fn is_aligned(&self) -> bool {
        self.spec.unit.is_aligned()
    }

    /// As [`apply`](Self::apply), for a text and its translation whose words are aligned: pairs of a word of the first and one of the second,
    /// counted from 0.
    ///
    /// # Shapes
    ///
    /// `[L]` to `[L]` and `[L]`, for both.
    pub(crate) fn apply_aligned(
        &self,
        texts: [Spaced<'_>; 2],
        alignment: &[(u32, u32)],
        random: &mut ChaCha8Rng,
    ) -> [(Vec<i32>, Vec<i32>); 2] {
        let mut hidden = texts.map(|of| {
            let labels = vec![MaskedTexts::IGNORE; of.text.ids.len()];
            (of.text.ids.clone(), labels)
        });
        // Special tokens are of no word and stay as they are.
        let units = texts.map(|of| self.units(of.text).concat());
        let words = [0, 1].map(|text| {
            let may_be: BTreeSet<usize> = units[text].iter().copied().collect();
            let words = texts[text].words.iter().enumerate();
            let words = words.map(|(at, word)| word.filter(|_| may_be.contains(&at)));
            words.collect::<Vec<Option<u32>>>()
        });
        let plain = self.spec.unit == MaskUnit::AlignedMix && random.random_bool(PLAIN);
        let all: Vec<(usize, usize)> = (0..2)
            .filter(|text| plain || *text == 0)
            .flat_map(|text| units[text].iter().map(move |at| (text, *at)))
            .collect();
        let mut chosen: Vec<(usize, usize)> = all
            .iter()
            .copied()
            .filter(|_| random.random_bool(self.spec.rate))
            .collect();
        if chosen.is_empty() && !all.is_empty() {
            chosen.push(all[random.random_range(0..all.len())]);
        }
        let whole = self.spec.unit == MaskUnit::AlignedWord;
        for (text, at) in chosen {
            let draw: f64 = random.random();
            let positions = if plain {
                let mut own = [Vec::new(), Vec::new()];
                own[text].push(at);
                own
            } else if hidden[0].1[at] == MaskedTexts::IGNORE {
                let words = [words[0].as_slice(), words[1].as_slice()];
                let mut pick = |count: usize| random.random_range(0..count);
                hidden_with(at, words, alignment, whole, &mut pick)
            } else {
                continue;
            };
            for (text, positions) in positions.into_iter().enumerate() {
                let (ids, labels) = &mut hidden[text];
                for position in positions {
                    if labels[position] == MaskedTexts::IGNORE {
                        self.hide(ids, labels, position, draw, random);
                    }
                }
            }
        }
        hidden
    }
}

#[cfg(test)]
mod tests;
