//! Counts phrases over more texts than fit into memory.

use std::collections::{HashMap, HashSet};

use crate::parser::MOST_PHRASES;
use crate::spelling::normal;
use crate::vocabulary::Vocabulary;

/// Largest number of distinct phrases counted at once.
const MOST_COUNTED: usize = 1 << 21;

/// Why counting gives no vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uncounted {
    /// No text has a phrase.
    #[error("{captions} captions have no phrases")]
    NoPhrases {
        /// Number of counted captions.
        captions: u64,
    },
    /// Every phrase occurs in too few texts.
    #[error("no phrase occurs in {min_count} texts, at most in {most}")]
    TooRare {
        /// Required number of texts.
        min_count: u64,
        /// Number of texts with the most frequent phrase.
        most: u64,
    },
}

/// Counts in how many texts each phrase occurs, in bounded memory.
///
/// The order of the texts does not matter up to 2,097,152 distinct phrases. Beyond that, the rarest phrases so far are dropped
/// whenever that many are held (lossy counting, Manku and Motwani 2002). No count is ever too high, and each is at most
/// [`Vocabulary::missed`] too low.
#[derive(Debug)]
pub struct Counter {
    counts: HashMap<String, Count>,
    /// Largest number of entries.
    most: usize,
    /// The largest possible number of texts with a phrase that has no entry.
    floor: u64,
    captions: u64,
}

impl Counter {
    /// A counter for 2,097,152 phrases: about 250 MB with their texts, 400 MB at most.
    pub fn new() -> Self {
        Self::of_at_most(MOST_COUNTED)
    }

    fn of_at_most(most: usize) -> Self {
        Self {
            counts: HashMap::new(),
            most,
            floor: 0,
            captions: 0,
        }
    }

    /// Counts the phrases of a caption.
    pub fn caption(&mut self, phrases: &[String]) {
        self.captions += 1;
        self.add(phrases);
    }

    /// Counts the tags of an image, as one more text.
    pub fn tags(&mut self, tags: &[String]) {
        self.add(tags);
    }

    /// Counts the phrases of one text, each once.
    fn add(&mut self, phrases: &[String]) {
        let mut once = HashSet::new();
        for phrase in phrases.iter().take(MOST_PHRASES).filter_map(|p| normal(p)) {
            if once.contains(&phrase) {
                continue;
            }
            match self.counts.get_mut(&phrase) {
                Some(count) => count.seen += 1,
                None => {
                    if self.counts.len() >= self.most {
                        self.prune();
                    }
                    let count = Count {
                        seen: 1,
                        missed: self.floor,
                    };
                    self.counts.insert(phrase.clone(), count);
                }
            }
            once.insert(phrase);
        }
    }

    /// Drops the rarest entries, at least half of them.
    fn prune(&mut self) {
        let mut most: Vec<u64> = self.counts.values().map(|c| c.seen + c.missed).collect();
        let middle = most.len() / 2;
        let (_, median, _) = most.select_nth_unstable(middle);
        self.floor = *median;
        let floor = self.floor;
        self.counts
            .retain(|_, count| count.seen + count.missed > floor);
    }

    /// The vocabulary of phrases that occur in at least `min_count` texts, limited to the `limit` most frequent ones.
    ///
    /// # Errors
    ///
    /// There are no phrases, or no phrase occurs often enough.
    pub fn finish(self, min_count: u64, limit: usize) -> Result<Vocabulary, Uncounted> {
        let Some(most) = self.counts.values().map(|count| count.seen).max() else {
            return Err(Uncounted::NoPhrases {
                captions: self.captions,
            });
        };
        let mut phrases: Vec<(String, u64)> = self
            .counts
            .into_iter()
            .map(|(phrase, count)| (phrase, count.seen))
            .filter(|(_, count)| *count >= min_count)
            .collect();
        if phrases.is_empty() {
            return Err(Uncounted::TooRare { min_count, most });
        }
        phrases.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        phrases.truncate(limit);
        phrases.shrink_to_fit();
        Ok(Vocabulary {
            min_count,
            captions: self.captions,
            missed: self.floor,
            phrases,
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Count {
    seen: u64,
    /// Number of texts in which it may have occurred before it had an entry.
    missed: u64,
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_bounded_memory_are_never_too_high() {
        let mut exact = Counter::of_at_most(usize::MAX);
        let mut pruned = Counter::of_at_most(64);
        for text in 0..20_000u64 {
            // Word n occurs in every n-th text, beside words that occur only once.
            let mut words: Vec<String> = (1..30)
                .filter(|n| text.is_multiple_of(*n))
                .map(|n| format!("word{n}"))
                .collect();
            words.push(format!("rare{text}"));
            exact.add(&words);
            pruned.add(&words);
            assert!(pruned.counts.len() <= 64);
        }
        let exact: HashMap<_, _> = exact
            .finish(500, 100)
            .unwrap()
            .phrases
            .into_iter()
            .collect();
        let pruned = pruned.finish(500, 100).unwrap();
        // Half of the entries are dropped at a time, so each drop costs a count of few texts in 32 new words.
        assert!(
            pruned.missed() > 0 && pruned.missed() < 1500,
            "{}",
            pruned.missed()
        );
        assert!(pruned.phrases().len() >= 10);
        for (phrase, count) in pruned.phrases() {
            let real = exact[phrase];
            assert!(
                (real - pruned.missed()..=real).contains(count),
                "{phrase}: {count} of {real}"
            );
        }
    }
}
