//! The tokeniser of caption metrics: Penn Treebank tokens, in lower case, without punctuation.
//!
//! The scores of captions that are published are over the tokens of Stanford's `PTBTokenizer` 3.4.1, as COCO's evaluation
//! (`pycocoevalcap`) runs it. This does what that tokeniser does, by patterns of which the longest match counts. They
//! were written for this crate: the published grammars of that tokeniser say what it looks for, and running it decided
//! what they leave open.
//!
//! Both were compared as machines: walked side by side, with every kind of character from every pair of states that can
//! be reached, they match alike. Of 2.1 million tokens of real text none differed, nor of the tokens of 1.6 million
//! random strings of what is hard, but for lower case. Letters that got a lower case after Unicode 13 have it here, where
//! the reference on Java 17 leaves them, and a capital sigma within a token of several scripts may be taken for the
//! last letter of a word by one and not by the other.
//!
//! The reference joins all captions with line feeds and reads them as one text. So what is ahead of the end of a
//! caption is the next caption: `plan B.` loses its full stop before a caption that begins with `The`, and keeps it
//! before `the`. [`tokenize_all`] does the same. Only line feeds divide captions there; a line feed within a caption is a
//! blank to it, and any other character that ends a line moves the captions behind it on by one. That is an oversight
//! of the reference: here a caption is one caption whatever it holds.

mod abbreviations;
mod characters;
mod pattern;
mod rules;
mod tokens;

use tokens::{lower_case, with_scanner};

/// Tokens that count as punctuation and are left out.
///
/// The reference's list also has the brackets as `-LRB-`, but the tokens are in lower case by then, so brackets stay.
const PUNCTUATION: [&str; 13] = [
    "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";",
];

/// The tokens of one caption on its own: lower case, punctuation left out.
///
/// ```
/// use unimo_eval::captions::ptb::tokenize;
///
/// assert_eq!(tokenize("A man's T-shirt isn't $5.00."), ["a", "man", "'s", "t-shirt", "is", "n't", "$", "5.00"]);
/// ```
pub fn tokenize(caption: &str) -> Vec<String> {
    tokenize_all(&[caption]).pop().unwrap_or_default()
}

/// The tokens of each of many captions, read as one text as the reference does (see the [module](self)).
pub fn tokenize_all<S: AsRef<str>>(captions: &[S]) -> Vec<Vec<String>> {
    let mut text: Vec<u16> = Vec::new();
    let mut ends = Vec::with_capacity(captions.len());
    for caption in captions {
        let units = caption.as_ref().encode_utf16();
        text.extend(units.map(|unit| if unit == LINE_FEED { BLANK } else { unit }));
        ends.push(text.len());
        text.push(LINE_FEED);
    }
    text.pop();
    let mut lines = vec![String::new(); captions.len()];
    let mut current = 0;
    let mut is_first = true;
    with_scanner(|scanner| {
        scanner.tokens(&text, |at, token| {
            while ends[current] <= at {
                current += 1;
                is_first = true;
            }
            if !std::mem::take(&mut is_first) {
                lines[current].push(' ');
            }
            // A tag may go on in the next caption.
            for (part, token) in token.split('\n').enumerate() {
                current += usize::from(part > 0);
                lines[current].push_str(&lower_case(token));
            }
        });
    });
    lines.iter().map(|line| without_punctuation(line)).collect()
}

const LINE_FEED: u16 = b'\n' as u16;
const BLANK: u16 = b' ' as u16;

fn without_punctuation(line: &str) -> Vec<String> {
    let line = line.trim_end_matches(is_space);
    let tokens = line.split(' ').filter(|token| !PUNCTUATION.contains(token));
    tokens
        .filter(|_| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What Python calls a space, which the reference splits captions at.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(caption: &str) -> String {
        tokenize(caption).join(" ")
    }

    #[test]
    fn only_a_line_feed_between_captions_divides_them() {
        let captions = [
            "a dog\nruns",
            "two\rcats \u{2028}sit",
            "",
            "a tag <a b='",
            "'> ends",
        ];
        let lines: Vec<String> = tokenize_all(&captions)
            .iter()
            .map(|line| line.join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "a dog runs",
                "two cats sit",
                "",
                "a tag <a\u{A0}b='",
                "'> ends"
            ]
        );
        assert!(tokenize_all::<&str>(&[]).is_empty());
        assert!(tokenize("  ").is_empty());
    }

    #[test]
    fn the_next_caption_is_ahead_of_the_end_of_one() {
        let first = |next: &str| tokenize_all(&["plan B.", next])[0].join(" ");
        assert_eq!(
            (first("The end"), first("the end")),
            ("plan b".into(), "plan b.".into())
        );
        assert_eq!(joined("plan B."), "plan b.");
    }

    #[test]
    fn brackets_and_many_marks_stay() {
        assert_eq!(
            joined("(a) [b] {c}!!! d! end..."),
            "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- !!! d end"
        );
    }

    #[test]
    fn characters_beyond_the_tables_divide_words() {
        assert_eq!(joined("two😀dogs 𝒳"), "two dogs");
    }
}
