//! Phrases of English captions by rules: a stand-in for the SPICE parser (Anderson et al. 2016), which needs Java.
//!
//! Three kinds of phrases come out, in the order of the text and in its own words, in lower case:
//!
//! | kind | of "Two large dogs are chasing a red ball" |
//! |---|---|
//! | object | `dogs`, `ball` |
//! | object with attributes | `large dogs`, `red ball` |
//! | subject, relation, object | `dogs chasing ball`, `large dogs chasing red ball` |
//!
//! An object with several attributes gives every ending of its words: `circle`, `red circle`, `large red circle`. In a
//! relation stand the bare objects and, where one has attributes, both with their nearest. Numbers, articles, auxiliary
//! verbs and adverbs are left out. Words stay as they are written, plurals and `-ing` included, so that a phrase can be
//! found again among the caption's words.
//!
//! The text is cut into words, the words into noun phrases, verbs and prepositions (`words.rs`), and these are
//! joined from left to right: a preposition belongs to the noun before it, a participle to the nearest noun that moves by
//! itself, a finite verb to its clause's subject. That is right for most captions and wrong for some; a phrase that is wrong is
//! also rare, so that a vocabulary built by counting leaves it out. Texts in other languages give little or nothing of use.

mod chunks;
mod relations;
mod tokens;

use crate::parser::chunks::Chunker;
use crate::parser::relations::Joiner;
use crate::parser::tokens::tokens;

/// Bytes of a caption that are looked at, more than a thousand words; what follows is passed over.
pub const LONGEST_CAPTION: usize = 8 << 10;
/// Phrases of a caption at most.
pub const MOST_PHRASES: usize = 128;
/// Longest phrase in bytes.
pub const LONGEST_PHRASE: usize = 100;

/// The phrases of a caption, each once, in the order of the text. See the [module](self) for what they are.
///
/// Takes time in proportion to the caption's length, of which at most [`LONGEST_CAPTION`] is looked at.
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
