//! The phrases that are frequent in a data set, and their rows of an embedding.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::parser::LONGEST_PHRASE;
use crate::spelling::normal;

/// Concepts in a vocabulary at most: each may need a row of the embedding.
pub const MOST_CONCEPTS: usize = 1 << 20;

/// The phrases that are frequent in a data set, the most frequent first, then by alphabet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    pub(crate) min_count: u64,
    pub(crate) captions: u64,
    pub(crate) missed: u64,
    pub(crate) phrases: Vec<(String, u64)>,
}

/// A vocabulary as it is saved.
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
    /// The version of the text that [`to_json`](Self::to_json) gives.
    pub const VERSION: u32 = 1;

    /// Reads what [`to_json`](Self::to_json) gives.
    ///
    /// # Errors
    ///
    /// It is something else: of another version, with keys that are not known, without phrases or with more than [`MOST_CONCEPTS`],
    /// or with a phrase that comes twice, is not in lower case with single spaces, or has a count below `min_count`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde takes an array of its values for a struct, too.
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

    /// The vocabulary as JSON, a phrase a line:
    /// `{"version":1,"min_count":50,"captions":1000,"phrases":[["red circle",123]]}`.
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

    /// The phrases and the number of texts that each occurs in.
    pub fn phrases(&self) -> &[(String, u64)] {
        &self.phrases
    }

    /// Captions that were counted.
    pub fn captions(&self) -> u64 {
        self.captions
    }

    /// By how much counts may be too low; 0: they are exact.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// One sentence: how many there are and where they come from.
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

    /// Gives every phrase its row of an embedding whose first rows are those of `tokens` tokens: that of its token where `token` says
    /// that it is one, else one of its own after them.
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

/// Rows of the embedding by phrase: those of tokens first, then those of phrases that are no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConceptIds {
    ids: HashMap<String, i32>,
    /// By a token's id the phrase that it is.
    shared: HashMap<i32, String>,
    /// The phrases that are no token, in the order of their ids.
    own: Vec<String>,
    tokens: usize,
}

impl ConceptIds {
    /// The ids of phrases or tags, in their order; what is no concept is left out. Case and runs of spaces do not matter.
    pub fn ids(&self, phrases: &[String]) -> Vec<i32> {
        phrases
            .iter()
            .filter_map(|phrase| self.ids.get(&normal(phrase)?).copied())
            .collect()
    }

    /// Rows that the embedding needs: the tokenizer's, and one for each phrase that is no token.
    pub fn rows(&self) -> usize {
        self.tokens + self.own.len()
    }

    /// The phrase of an id; none for a token that is no concept. Where a tokenizer writes several phrases as one token (`cafe` and
    /// `café` in BERT's), the most frequent of them.
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
