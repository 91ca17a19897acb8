//! The frequent phrases of a data set, and their rows of an embedding.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::parser::LONGEST_PHRASE;
use crate::spelling::normal;

/// Largest number of concepts in a vocabulary: each may need a row of the embedding.
pub const MOST_CONCEPTS: usize = 1 << 20;

/// The frequent phrases of a data set, the most frequent first; ties in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    pub(crate) min_count: u64,
    pub(crate) captions: u64,
    pub(crate) missed: u64,
    pub(crate) phrases: Vec<(String, u64)>,
}

/// A saved vocabulary.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    min_count: u64,
    captions: u64,
    #[serde(default)]
    missed: u64,
    phrases: Vec<(String, u64)>,
}

impl Vocabulary {
    /// Version of the text written by [`to_json`](Self::to_json).
    pub const VERSION: u32 = 1;

    /// Parses a text written by [`to_json`](Self::to_json).
    ///
    /// # Errors
    ///
    /// The text has another version, unknown keys, no phrases or more than [`MOST_CONCEPTS`], or a phrase that comes twice, is not
    /// in lower case with single spaces, or has a count below `min_count`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde would also accept an array of the struct's values.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err("no file of concepts: an array, not an object".to_owned());
        }
        let saved: Saved = serde_json::from_slice(bytes)
            .map_err(|error| format!("no file of concepts: {error}"))?;
        let found = |what: String, allowed: &str| Err(format!("{what}, allowed: {allowed}"));
        if saved.version != Self::VERSION {
            let what = format!("`version` is {}", saved.version);
            return found(what, &Self::VERSION.to_string());
        }
        if saved.min_count == 0 {
            return found("`min_count` is 0".to_owned(), "1 or more");
        }
        if saved.phrases.is_empty() || saved.phrases.len() > MOST_CONCEPTS {
            let what = format!("{} `phrases`", saved.phrases.len());
            return found(what, &format!("1 to {MOST_CONCEPTS}"));
        }
        let mut seen = HashSet::new();
        for (at, (phrase, count)) in saved.phrases.iter().enumerate() {
            if normal(phrase).as_ref() != Some(phrase) {
                let what = format!("`phrases[{at}]` is {:?}", shown(phrase));
                let allowed = format!("lower case, single spaces, 1 to {LONGEST_PHRASE} bytes");
                return found(what, &allowed);
            }
            if *count < saved.min_count {
                let what = format!("`phrases[{at}]`, {phrase:?}, has the count {count}");
                return found(what, &format!("`min_count`, {}, or more", saved.min_count));
            }
            if !seen.insert(phrase) {
                let what = format!("`phrases[{at}]`, {phrase:?}, comes a second time");
                return found(what, "each phrase once");
            }
        }
        Ok(Self {
            min_count: saved.min_count,
            captions: saved.captions,
            missed: saved.missed,
            phrases: saved.phrases,
        })
    }

    /// The vocabulary as JSON, one phrase per line: `{"version":1,"min_count":50,"captions":1000,"phrases":[["red circle",123]]}`.
    pub fn to_json(&self) -> String {
        let mut text = format!(
            "{{\"version\":{},\"min_count\":{},\"captions\":{},",
            Self::VERSION,
            self.min_count,
            self.captions
        );
        if self.missed > 0 {
            text += &format!("\"missed\":{},", self.missed);
        }
        text += "\"phrases\":[";
        for (at, (phrase, count)) in self.phrases.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let phrase = serde_json::Value::from(phrase.as_str());
            text += &format!("{comma}\n[{phrase},{count}]");
        }
        text += "\n]}\n";
        text
    }

    /// The phrases, each with the number of texts in which it occurs.
    pub fn phrases(&self) -> &[(String, u64)] {
        &self.phrases
    }

    /// Number of counted captions.
    pub fn captions(&self) -> u64 {
        self.captions
    }

    /// Largest amount by which counts may be too low; 0 if they are exact.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// One sentence: the number of phrases and their origin.
    pub fn describe(&self) -> String {
        let (first, last) = (self.phrases.first(), self.phrases.last());
        let shown = |phrase: Option<&(String, u64)>| {
            phrase.map_or_else(String::new, |(phrase, count)| {
                format!("{phrase:?} ({count})")
            })
        };
        format!(
            "{} concepts that occur in {} or more texts, from {} captions: {} .. {}",
            self.phrases.len(),
            self.min_count,
            self.captions,
            shown(first),
            shown(last)
        )
    }

    /// Assigns every phrase a row of an embedding whose first `tokens` rows belong to tokens. If `token` gives a token for the
    /// phrase, it shares that token's row; otherwise it gets its own row after them.
    pub fn resolve(&self, tokens: usize, token: impl Fn(&str) -> Option<i32>) -> ConceptIds {
        let mut resolved = ConceptIds {
            ids: HashMap::with_capacity(self.phrases.len()),
            shared: HashMap::new(),
            own: Vec::new(),
            tokens,
        };
        for (phrase, _) in &self.phrases {
            let id = token(phrase).unwrap_or_else(|| {
                resolved.own.push(phrase.clone());
                (tokens + resolved.own.len() - 1) as i32
            });
            if (id as usize) < tokens {
                resolved.shared.entry(id).or_insert_with(|| phrase.clone());
            }
            resolved.ids.insert(phrase.clone(), id);
        }
        resolved
    }
}

/// Rows of the embedding by phrase: first those of tokens, then those of phrases that are not tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConceptIds {
    ids: HashMap<String, i32>,
    /// The phrases that share a token's row, by the token's id.
    shared: HashMap<i32, String>,
    /// The phrases with their own rows, in the order of their ids.
    own: Vec<String>,
    tokens: usize,
}

impl ConceptIds {
    /// The ids of phrases or tags, in order, without those that are not concepts. Case and runs of spaces do not matter.
    pub fn ids(&self, phrases: &[String]) -> Vec<i32> {
        phrases
            .iter()
            .filter_map(|phrase| self.ids.get(&normal(phrase)?).copied())
            .collect()
    }

    /// Number of rows of the embedding: the tokenizer's, and one for each phrase that is not a token.
    pub fn rows(&self) -> usize {
        self.tokens + self.own.len()
    }

    /// The phrase of an id; `None` for a token that is not a concept. If a tokenizer gives several phrases the same token (`cafe`
    /// and `café` in BERT's), this is the most frequent of them.
    pub fn name(&self, id: i32) -> Option<&str> {
        let id = usize::try_from(id).ok()?;
        let name = match id.checked_sub(self.tokens) {
            Some(own) => self.own.get(own),
            None => self.shared.get(&(id as i32)),
        };
        name.map(String::as_str)
    }
}

/// The start of a text from a file.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_PHRASE)]
}
