//! How texts and phrases are spelt before they are compared.

use crate::parser::LONGEST_PHRASE;

/// A text with runs of white space as one space each; none where nothing remains.
pub fn spaced(text: &str) -> Option<String> {
    // Where files were put together, their byte order marks stand inside.
    let words = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('\u{feff}'));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    (!text.is_empty()).then_some(text)
}

/// A phrase as it is counted and looked up: lower case, single spaces. None where nothing remains or too much.
pub(crate) fn normal(phrase: &str) -> Option<String> {
    // A longer one need not be copied to be left out; lower case may be shorter than upper case, but not by as much.
    if phrase.len() > 16 * LONGEST_PHRASE {
        return None;
    }
    spaced(&phrase.to_lowercase()).filter(|phrase| phrase.len() <= LONGEST_PHRASE)
}
