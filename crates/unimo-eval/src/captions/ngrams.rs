//! Captions as numbers: their tokens, and how often each n-gram of up to four words is in them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::ptb::is_space;

/// The longest n-grams that are counted.
pub(super) const LONGEST: usize = 4;

/// Up to four words by their numbers, of 32 bits each; 0 stands behind the last. One number compares faster than four.
pub(super) type Ngram = u128;

/// How many words an n-gram has, less one.
pub(super) fn order(ngram: Ngram) -> usize {
    LONGEST - 1 - ngram.trailing_zeros() as usize / 32
}

/// A map by n-grams. It is looked into for every n-gram of every caption, so its hash is a fast one.
pub(super) type ByNgram<T> = HashMap<Ngram, T, BuildHasherDefault<FastHasher>>;

/// Multiplies and folds, which is enough for numbers that nobody picks to collide.
#[derive(Debug, Clone, Default)]
pub(super) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_ne_bytes(whole));
        }
    }

    fn write_u64(&mut self, part: u64) {
        // The golden ratio as a fraction of 2^64: its bits are spread evenly.
        const RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
        let product = u128::from(self.0 ^ part) * u128::from(RATIO);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_u128(&mut self, ngram: u128) {
        self.write_u64(ngram as u64);
        self.write_u64((ngram >> 64) as u64);
    }
}

/// A number from 1 for each word.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocabulary {
    numbers: HashMap<String, u32>,
}

impl Vocabulary {
    /// A caption of these tokens. New words get a number.
    pub(super) fn caption<S: AsRef<str>>(&mut self, tokens: &[S]) -> Caption {
        Caption::new(tokens, |word| {
            if let Some(&known) = self.numbers.get(word) {
                return known;
            }
            let number = fresh(self.numbers.len());
            self.numbers.insert(word.to_owned(), number);
            number
        })
    }

    /// Captions whose new words get numbers that are forgotten afterwards.
    pub(super) fn captions_aside<'t, S: AsRef<str> + 't>(
        &self,
        captions: impl IntoIterator<Item = &'t [S]>,
    ) -> Vec<Caption> {
        let mut aside: HashMap<String, u32> = HashMap::new();
        let mut number = |word: &str| {
            if let Some(&known) = self.numbers.get(word).or_else(|| aside.get(word)) {
                return known;
            }
            let number = fresh(self.numbers.len() + aside.len());
            aside.insert(word.to_owned(), number);
            number
        };
        captions
            .into_iter()
            .map(|tokens| Caption::new(tokens, &mut number))
            .collect()
    }
}

/// The number of the next word.
fn fresh(given: usize) -> u32 {
    u32::try_from(given + 1).expect("invariant: fewer than 4 billion words")
}

/// One caption as numbers.
#[derive(Debug, Clone)]
pub(super) struct Caption {
    /// The tokens as they are. An empty caption is one empty token, as in the reference's ROUGE-L.
    pub(super) tokens: Vec<u32>,
    /// How many words the n-grams are of.
    pub(super) words: usize,
    /// Each n-gram and how often it is there, in the order of the n-grams.
    pub(super) ngrams: Vec<(Ngram, u32)>,
}

impl Caption {
    fn new<S: AsRef<str>>(tokens: &[S], mut number: impl FnMut(&str) -> u32) -> Self {
        let mut numbers: Vec<u32> = tokens.iter().map(|token| number(token.as_ref())).collect();
        // Tokens may hold spaces that do not break, which divide words for all but ROUGE-L.
        let is_word = |token: &str| !token.is_empty() && !token.contains(is_space);
        let words: Vec<u32> = if tokens.iter().all(|token| is_word(token.as_ref())) {
            numbers.clone()
        } else {
            let words = tokens
                .iter()
                .flat_map(|token| token.as_ref().split(is_space));
            words
                .filter(|word| !word.is_empty())
                .map(&mut number)
                .collect()
        };
        if numbers.is_empty() {
            numbers.push(number(""));
        }
        Self {
            tokens: numbers,
            words: words.len(),
            ngrams: count(&words),
        }
    }

    /// How often the n-gram is there.
    pub(super) fn times(&self, ngram: Ngram) -> u32 {
        self.ngrams
            .binary_search_by_key(&ngram, |&(known, _)| known)
            .map_or(0, |at| self.ngrams[at].1)
    }
}

fn count(words: &[u32]) -> Vec<(Ngram, u32)> {
    let mut all: Vec<Ngram> = Vec::with_capacity(LONGEST * words.len());
    for length in 1..=LONGEST {
        all.extend(words.windows(length).map(|window| {
            let words = window
                .iter()
                .fold(0_u128, |words, &word| (words << 32) | u128::from(word));
            words << (32 * (LONGEST - length))
        }));
    }
    all.sort_unstable();
    all.chunk_by(|a, b| a == b)
        .map(|same| (same[0], u32::try_from(same.len()).unwrap_or(u32::MAX)))
        .collect()
}
