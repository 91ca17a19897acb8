//! Held-out texts with their translations, to judge a model of several languages by.

use std::collections::{BTreeMap, HashSet};

use crate::error::DataError;
use crate::loader::eval_set::shuffled;
use crate::loader::skip::SkipList;
use crate::sources::source::Source;
use crate::sources::splits::Split;

/// Texts of two languages. Text `i` of the one is the translation of text `i` of the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitext {
    /// The texts of each language.
    pub texts: [Vec<String>; 2],
}

/// Held-out texts with their translations, by the tags of both languages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitexts {
    /// By both tags, which stand in the order in which samples have the languages.
    pub by_languages: BTreeMap<[String; 2], Bitext>,
    /// Pairs that were left out because one of their texts is in another pair: then two texts would be right.
    pub repeated: usize,
}

impl Bitexts {
    /// The pairs of a split, one of each sample and pair of languages. Samples are taken in a random order, always the same, until each
    /// pair of languages has `limit` pairs; 0: all.
    ///
    /// # Errors
    ///
    /// Too much of the source is unusable.
    pub fn new(
        source: &dyn Source,
        split: Split,
        limit: usize,
        skip: &SkipList,
    ) -> Result<Self, DataError> {
        skip.adopt(source)?;
        let all = source.len(split);
        let order = shuffled(all);
        let mut own = Self::default();
        let mut known: BTreeMap<[String; 2], [HashSet<String>; 2]> = BTreeMap::new();
        for at in 0..all {
            let index = if limit == 0 { at } else { order.at(at) };
            let read = source
                .captions(split, index)
                .and_then(|texts| Ok((texts, source.annotations(split, index)?.languages)));
            let (texts, languages) = match read {
                Ok(read) => read,
                Err(reason) => {
                    skip.add(&reason)?;
                    continue;
                }
            };
            let tag = |at: usize| languages.tags.get(at).cloned().unwrap_or_default();
            let mut done: HashSet<[String; 2]> = HashSet::new();
            for first in 0..texts.len() {
                for second in languages.translations(first) {
                    let tags = [tag(first), tag(second)];
                    if second < first || second >= texts.len() || !done.insert(tags.clone()) {
                        continue;
                    }
                    let bitext = own.by_languages.entry(tags.clone()).or_default();
                    if limit > 0 && bitext.texts[0].len() >= limit {
                        continue;
                    }
                    let pair = [&texts[first], &texts[second]];
                    let known = known.entry(tags).or_default();
                    if known
                        .iter()
                        .zip(pair)
                        .any(|(known, text)| known.contains(text))
                    {
                        own.repeated += 1;
                        continue;
                    }
                    for (side, text) in pair.into_iter().enumerate() {
                        known[side].insert(text.clone());
                        bitext.texts[side].push(text.clone());
                    }
                }
            }
            let is_whole = |bitext: &Bitext| bitext.texts[0].len() >= limit;
            let whole = own.by_languages.values().all(is_whole);
            // Whether a later sample has another pair of languages is not known; nothing is lost where all samples have the same.
            if limit > 0 && !own.by_languages.is_empty() && whole {
                break;
            }
        }
        skip.check(source.items())?;
        Ok(own)
    }
}
