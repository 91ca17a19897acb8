//! Splits a caption into words and the marks between them. Credits, figure numbers and addresses are left out.

use crate::words::{Class, Closed, classify};

/// Longest word in bytes.
const LONGEST_WORD: usize = 32;

#[derive(Debug, Clone)]
pub(super) enum Token {
    Word {
        text: String,
        class: Class,
        /// Whether it owns the next noun: `man's`.
        owns: bool,
    },
    Comma,
    Stop,
    /// Parentheses.
    Open,
    Close,
}

/// Words that introduce the maker of an image; no object of the image follows.
const CREDITS: [&str; 7] = [
    "credit",
    "credits",
    "source",
    "courtesy",
    "copyright",
    "attribution",
    "licence",
];

/// Words that are followed by a number and name no object: `Figure 1.2`.
const NUMBERED: [&str; 7] = [
    "figure", "fig", "table", "chapter", "section", "panel", "plate",
];

pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    // Depth of parentheses where credits began. Credits last until these close or the caption ends.
    let mut credits: Option<usize> = None;
    let mut depth = 0usize;
    for chunk in text.split_whitespace() {
        if is_address(chunk) {
            tokens.push(Token::Stop);
            continue;
        }
        let mut word = String::new();
        let mut characters = chunk.chars().peekable();
        let mut before = None;
        while let Some(character) = characters.next() {
            let next = characters.peek().copied();
            let inside = before.is_some_and(char::is_alphanumeric)
                && next.is_some_and(char::is_alphanumeric);
            let kept = match character {
                _ if character.is_alphanumeric() => true,
                '\'' | '’' | '-' | '‐' | '‑' => inside,
                // `U.S.`, but not `end.Begin`; `3.5`.
                '.' => {
                    inside
                        && (word.chars().nth(1).is_none() || word.contains('.') || is_number(&word))
                }
                '&' => chunk == "&",
                // Marks that combine with the letter before them.
                _ => !word.is_empty() && !character.is_ascii() && is_mark(character),
            };
            before = Some(character);
            if kept {
                word.extend(
                    match character {
                        '’' => '\'',
                        '‐' | '‑' => '-',
                        other => other,
                    }
                    .to_lowercase(),
                );
                continue;
            }
            if CREDITS.contains(&&*word) && character == ':' || character == '©' {
                credits.get_or_insert(depth);
                word.clear();
            }
            if credits.is_none() {
                push_word(&mut tokens, std::mem::take(&mut word));
            } else {
                word.clear();
            }
            match character {
                '(' | '[' => {
                    depth += 1;
                    tokens.push(Token::Open);
                }
                ')' | ']' => {
                    depth = depth.saturating_sub(1);
                    credits = credits.filter(|from| *from <= depth);
                    // `image (a) shows`
                    match tokens.last() {
                        Some(Token::Open) => {
                            tokens.pop();
                        }
                        _ => tokens.push(Token::Close),
                    }
                }
                ',' if credits.is_none() => tokens.push(Token::Comma),
                '.' | '!' | '?' | ';' | ':' | '/' | '|' | '–' | '—' | '-' | '<' | '>' | '#'
                | '@' | '*' | '=' | '_' | '{' | '}' | '\\' | '~' | '+' | '•' | '。' | '、'
                | '，' => {
                    tokens.push(Token::Stop);
                }
                // Quotation marks and the like surround words without separating them.
                _ => {}
            }
        }
        if credits.is_none() {
            push_word(&mut tokens, word);
        }
    }
    tokens
}

fn push_word(tokens: &mut Vec<Token>, word: String) {
    if word.is_empty() {
        return;
    }
    let word = match word.as_str() {
        "isn't" | "aren't" | "wasn't" | "weren't" | "don't" | "doesn't" | "can't" | "won't" => {
            "not".to_owned()
        }
        _ => word,
    };
    let named =
        matches!(tokens.last(), Some(Token::Word { text, .. }) if NUMBERED.contains(&&**text));
    if named && word.starts_with(|first: char| first.is_ascii_digit()) {
        tokens.pop();
        tokens.push(Token::Stop);
        return;
    }
    if word == "up" && matches!(tokens.last(), Some(Token::Word { text, .. }) if text == "close") {
        tokens.pop();
        return push_word(tokens, "close-up".to_owned());
    }
    // `he's`, `there's`, `they're`: the second part is a form of `be`, or says nothing about the image.
    if let Some((first, _)) = word.split_once('\'')
        && matches!(
            classify(first).closed,
            Some(Closed::Pronoun | Closed::There | Closed::Relative)
        )
    {
        for part in [first, "is"] {
            push_word(tokens, part.to_owned());
        }
        return;
    }
    let owns = word.ends_with("'s");
    let class = classify(&word);
    // Single letters name panels and axes.
    let lone = word.chars().count() == 1 && class.is_open();
    if lone && word.is_ascii() {
        return;
    }
    if word.len() > LONGEST_WORD {
        tokens.push(Token::Stop);
        return;
    }
    let mixed = class.is_open() && word.starts_with(|first: char| first.is_ascii_digit());
    let class = if mixed { classify("2") } else { class };
    tokens.push(Token::Word {
        text: word,
        class,
        owns,
    });
}

pub(super) fn is_number(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Whether a character joins the one before it: combining accents, joiners and variation selectors.
fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}

/// Whether something written without spaces is a web or mail address.
fn is_address(chunk: &str) -> bool {
    const ENDS: [&str; 7] = [".com", ".org", ".net", ".gov", ".edu", ".io", ".jpg"];
    let starts = |start: &str| {
        chunk
            .get(..start.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(start))
    };
    let holds = |part: &str| {
        let at = chunk
            .as_bytes()
            .windows(part.len())
            .position(|w| w.eq_ignore_ascii_case(part.as_bytes()));
        at.and_then(|at| chunk.as_bytes().get(at + part.len()))
    };
    chunk.contains("://")
        || starts("www.")
        || starts("mailto:")
        || ENDS.iter().any(|end| {
            chunk.len() >= end.len()
                && (chunk.as_bytes()[chunk.len() - end.len()..]
                    .eq_ignore_ascii_case(end.as_bytes())
                    || holds(end).is_some_and(|byte| !byte.is_ascii_alphanumeric()))
        })
}
