//! Normalises the spelling of texts and phrases before they are compared.

use crate::parser::LONGEST_PHRASE;

/// A text with each run of white space as one space; `None` if nothing remains.
pub fn spaced(text: &str) -> Option<String> {
    // Concatenated files have byte order marks inside.
    let words = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('\u{feff}'));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    (!text.is_empty()).then_some(text)
}

/// A phrase in the form that is counted and looked up: lower case, single spaces. `None` if it is empty or too long.
pub(crate) fn normal(phrase: &str) -> Option<String> {
    // A much longer phrase need not be copied to be left out. Lower case may be shorter than upper case, but not by this factor.
    if phrase.len() > 16 * LONGEST_PHRASE {
        return None;
    }
    spaced(&phrase.to_lowercase()).filter(|phrase| phrase.len() <= LONGEST_PHRASE)
}
