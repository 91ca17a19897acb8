//! Texts with single spaces.

/// A text with runs of white space as one space each; none where nothing remains.
pub(crate) fn spaced(text: &str) -> Option<String> {
    // Where files were put together, their byte order marks stand inside.
    let words = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('\u{feff}'));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    (!text.is_empty()).then_some(text)
}
