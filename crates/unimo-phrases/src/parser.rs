//! A rule-based parser of phrases in English captions: a stand-in for the SPICE parser (Anderson et al. 2016), which needs Java.
//!
//! It gives three kinds of phrases, in the order and words of the text, in lower case:
//!
//! | kind | of "Two large dogs are chasing a red ball" |
//! |---|---|
//! | object | `dogs`, `ball` |
//! | object with attributes | `large dogs`, `red ball` |
//! | subject, relation, object | `dogs chasing ball`, `large dogs chasing red ball` |
//!
//! An object with several attributes gives every suffix of its words: `circle`, `red circle`, `large red circle`. A relation is
//! given with the bare objects and, if one has attributes, with the nearest attribute of each. Numbers, articles, auxiliary verbs
//! and adverbs are left out. Words stay as written, including plurals and `-ing`, so that a phrase can be found again among the
//! caption's words.
//!
//! The text is split into words, and the words into noun phrases, verbs and prepositions (`words.rs`). These are joined from left
//! to right: a preposition belongs to the noun before it, a participle to the nearest noun that moves by itself, a finite verb to
//! its clause's subject. This is right for most captions and wrong for some. Wrong phrases are rare, so a vocabulary built by
//! counting leaves them out. Texts in other languages give few useful phrases or none.

mod chunks;
mod relations;
mod tokens;

use crate::parser::chunks::Chunker;
use crate::parser::relations::Joiner;
use crate::parser::tokens::tokens;

/// Number of bytes of a caption that are parsed, more than a thousand words; the rest is ignored.
pub const LONGEST_CAPTION: usize = 8 << 10;
/// Largest number of phrases per caption.
pub const MOST_PHRASES: usize = 128;
/// Longest phrase in bytes.
pub const LONGEST_PHRASE: usize = 100;

/// The phrases of a caption, each once, in the order of the text. See the [module](self) for the kinds of phrases.
///
/// Takes time proportional to the caption's length, of which at most [`LONGEST_CAPTION`] is parsed.
pub fn phrases(caption: &str) -> Vec<String> {
    let end = caption.floor_char_boundary(LONGEST_CAPTION);
    let tokens = tokens(&caption[..end]);
    let mut chunker = Chunker {
        tokens: &tokens,
        chunks: Vec::new(),
    };
    chunker.run();
    let mut joiner = Joiner::default();
    for (at, chunk) in chunker.chunks.iter().enumerate() {
        joiner.take(chunk, &chunker.chunks[at + 1..]);
    }
    joiner.flush();
    joiner.found
}

#[cfg(test)]
mod tests;
