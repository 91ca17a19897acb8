//! The official normalisation of VQA answers: punctuation, case, numbers, articles and contractions.

use super::contractions::CONTRACTIONS;

/// What is deleted or becomes a space. Apostrophes, colons, `$`, `%`, `&`, `#`, `*`, `~` and `|` stay, periods have a rule of their own.
const PUNCTUATION: [u8; 21] = *b";/[]\"{}()=+\\_-><@`,?!";

/// How many periods of an answer are deleted at most. In the official code the flag for Unicode, whose value is 32, stands in the
/// place of the largest number of replacements.
const PERIODS: usize = 32;

/// Words that are dropped.
const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Words for numbers.
const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// The zeros of all decimal digits outside ASCII (category Nd of Unicode 14, as in Python 3.11); nine more follow each of them.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The answer as it is compared and as it stands in vocabularies: `processPunctuation` and `processDigitArticle` of the official
/// evaluation (GT-Vision-Lab/VQA), `normalize_word` of METER and BridgeTower.
///
/// 1. Each of the characters ``; / [ ] " { } ( ) = + \ _ - > < @ ` , ? !`` is deleted if it stands next to a space anywhere in the answer,
///    or if the answer has digit, comma, digit anywhere. Otherwise it becomes a space.
/// 2. The first 32 periods that no digit follows are deleted.
/// 3. The rest is lower-cased and split at white space. `none` and `zero` to `ten` become digits, `a`, `an` and `the` are dropped,
///    contractions get their apostrophes, and one space joins the words.
///
/// The result can be empty. White space at the ends counts for rule 1; [`accuracy`](super::accuracy) strips it first, vocabularies
/// do not.
///
/// ```
/// use unimo_eval::vqa::normalise;
///
/// assert_eq!(normalise("The T-shirt."), "t shirt");
/// assert_eq!(normalise("two dogs, dont know"), "2 dogs don't know");
/// assert_eq!(normalise("1,000"), "1000");
/// ```
pub fn normalise(answer: &str) -> String {
    let text = without_periods(&without_punctuation(answer)).to_lowercase();
    let mut words = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let number = NUMBERS.iter().find(|(name, _)| *name == word);
        let word = number.map_or(word, |(_, digits)| digits);
        if ARTICLES.contains(&word) {
            continue;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        let at = CONTRACTIONS.binary_search_by(|(from, _)| (*from).cmp(word));
        words.push_str(at.map_or(word, |at| CONTRACTIONS[at].1));
    }
    words
}

/// What the official evaluation does to answers and predictions before it compares them: line feeds and tabs become spaces, white
/// space at the ends goes.
pub(super) fn trimmed(answer: &str) -> String {
    answer
        .replace(['\n', '\t'], " ")
        .trim_matches(is_space)
        .to_owned()
}

fn without_punctuation(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let number_with_comma = chars
        .windows(3)
        .any(|three| is_digit(three[0]) && three[1] == ',' && is_digit(three[2]));
    let beside_space = |mark: char| {
        chars
            .windows(2)
            .any(|two| *two == [mark, ' '] || *two == [' ', mark])
    };
    let deleted = PUNCTUATION.map(|mark| number_with_comma || beside_space(char::from(mark)));
    let kept = |char: char| match PUNCTUATION
        .iter()
        .position(|mark| char::from(*mark) == char)
    {
        None => Some(char),
        Some(mark) => (!deleted[mark]).then_some(' '),
    };
    chars.iter().filter_map(|char| kept(*char)).collect()
}

fn without_periods(text: &str) -> String {
    let mut left = PERIODS;
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let deleted = char == '.' && left > 0 && !chars.peek().is_some_and(|next| is_digit(*next));
        if deleted {
            left -= 1;
        } else {
            kept.push(char);
        }
    }
    kept
}

/// What Python's `\d` matches.
fn is_digit(char: char) -> bool {
    let code = u32::from(char);
    char.is_ascii_digit()
        || (!char.is_ascii() && ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&code)))
}

/// What Python strips and splits at: the white space of Unicode, and four control characters.
fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}
