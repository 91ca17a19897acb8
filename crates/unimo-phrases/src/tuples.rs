//! Phrases found by another parser, such as SPICE's (Anderson et al. 2016), as tuples of texts.
//!
//! One text is an object (`dog`), two are an object and its attribute (`brown dog`), three are a subject, a relation and an object
//! (`dog chase ball`). Captions are looked up as written in the data set, except for runs of white space.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::parser::MOST_PHRASES;
use crate::spelling::{normal, spaced};

/// Phrases by caption.
///
/// Captions are kept as 64-bit hashes and each distinct phrase once, so that millions of captions fit into memory.
#[derive(Debug, Default)]
pub struct Tuples {
    phrases: Vec<String>,
    /// Numbers of phrases, caption by caption.
    numbers: Vec<u32>,
    /// Start and end in `numbers` of a caption's phrases.
    captions: HashMap<u64, (u32, u32)>,
}

impl Tuples {
    /// The phrases of a caption, each once, in the order in which they were added; empty for an unknown caption.
    pub fn of(&self, caption: &str) -> Vec<String> {
        let key = spaced(caption).map(|caption| key_of(&caption));
        let Some((first, end)) = key.and_then(|key| self.captions.get(&key)) else {
            return Vec::new();
        };
        self.numbers[*first as usize..*end as usize]
            .iter()
            .map(|number| self.phrases[*number as usize].clone())
            .collect()
    }

    /// Number of captions.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether there are no captions.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }
}

/// Collects [`Tuples`].
#[derive(Debug, Default)]
pub struct TuplesBuilder {
    tuples: Tuples,
    /// Numbers of the known phrases.
    known: HashMap<String, u32>,
}

impl TuplesBuilder {
    /// Adds a caption. If a caption comes twice, the first one counts. A caption has at most [`MOST_PHRASES`] phrases.
    ///
    /// # Errors
    ///
    /// The caption is empty, a tuple has no text, more than three texts or an empty text, or there are more than 4,294,967,295
    /// phrases.
    pub fn add(&mut self, caption: &str, tuples: &[Vec<String>]) -> Result<(), String> {
        let caption = spaced(caption).ok_or_else(|| "empty `caption`".to_owned())?;
        let mut own: Vec<u32> = Vec::new();
        for tuple in tuples {
            let Some(phrase) = phrase(tuple)? else {
                continue;
            };
            let next = self.known.len() as u32;
            let number = *self.known.entry(phrase).or_insert_with_key(|phrase| {
                self.tuples.phrases.push(phrase.clone());
                next
            });
            if !own.contains(&number) && own.len() < MOST_PHRASES {
                own.push(number);
            }
        }
        let numbers = &mut self.tuples.numbers;
        let first = numbers.len() as u32;
        let end = u32::try_from(numbers.len() + own.len())
            .map_err(|_| "more than 4294967295 phrases in all".to_owned())?;
        self.tuples
            .captions
            .entry(key_of(&caption))
            .or_insert_with(|| {
                numbers.extend(own);
                (first, end)
            });
        Ok(())
    }

    /// The collected tuples.
    pub fn finish(self) -> Tuples {
        self.tuples
    }
}

/// The phrase of a tuple; `None` if it is too long to be a concept.
fn phrase(tuple: &[String]) -> Result<Option<String>, String> {
    if tuple.iter().any(|part| part.trim().is_empty()) {
        return Err("an empty text in a tuple".to_owned());
    }
    let joined = match tuple {
        [object] => object.clone(),
        [object, attribute] => format!("{attribute} {object}"),
        [subject, relation, object] => format!("{subject} {relation} {object}"),
        _ => {
            return Err(format!(
                "a tuple of {} texts, allowed: [object], [object, attribute], [subject, relation, object]",
                tuple.len()
            ));
        }
    };
    Ok(normal(&joined))
}

/// A hash of a caption.
fn key_of(caption: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    caption.hash(&mut hasher);
    hasher.finish()
}
