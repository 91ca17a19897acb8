//! From a text to its tokens, by the rules.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::LazyLock;

use super::pattern::{Machine, Scanner};
use super::rules::{Becomes, Rule, machine};

static MACHINE: LazyLock<Machine> = LazyLock::new(machine);
static GROUPS: LazyLock<Vec<usize>> = LazyLock::new(Rule::groups);

thread_local! {
    /// What a scanner remembers makes it fast, so every thread keeps its own.
    static SCANNER: RefCell<Scanner<'static>> = RefCell::new(Scanner::new(&MACHINE));
}

/// Calls `work` with the thread's scanner.
pub(super) fn with_scanner<T>(work: impl FnOnce(&mut Scanner<'static>) -> T) -> T {
    SCANNER.with_borrow_mut(work)
}

impl Scanner<'_> {
    /// Gives each token of the text to `found`, behind the place where it begins.
    pub(super) fn tokens(&mut self, text: &[u16], mut found: impl FnMut(usize, Cow<'static, str>)) {
        let mut at = 0;
        while at < text.len() {
            let (rule, length) = self.longest(&text[at..]);
            let (token, used) = rule.becomes.token(&text[at..at + length]);
            if let Some(token) = token {
                found(at, token);
            }
            at += used;
        }
    }

    /// The rule that counts at the start of a text that is not empty, and the length of its token.
    fn longest(&mut self, text: &[u16]) -> (&'static Rule, usize) {
        let mut longest = (0, 0);
        self.matches(0, text, |length, rule| {
            longest = (length, usize::from(rule))
        });
        let (length, number) = longest;
        let rule = &Rule::all()[number];
        match rule.ahead {
            None => (rule, length),
            Some(_) => (
                rule,
                self.before_what_is_ahead(GROUPS[number], &text[..length]),
            ),
        }
    }

    /// How much of a match is the token, at most, if what is ahead of it has to be the rest.
    fn before_what_is_ahead(&mut self, group: usize, matched: &[u16]) -> usize {
        let mut ends = Vec::new();
        self.matches(group, matched, |length, _| ends.push(length));
        let is_rest = |end: &usize| {
            let rest = &matched[*end..];
            let mut reached = 0;
            self.matches(group + 1, rest, |length, _| reached = length);
            reached == rest.len()
        };
        ends.into_iter()
            .rev()
            .find(is_rest)
            .expect("invariant: the match has two parts")
    }
}

impl Becomes {
    /// The token of a text that matched, if it makes one, and how much of the text it uses up.
    fn token(self, text: &[u16]) -> (Option<Cow<'static, str>>, usize) {
        let all = text.len();
        let string = |length: usize| String::from_utf16_lossy(&text[..length]);
        let unbroken = |text: String| text.replace(' ', "\u{A0}");
        let bracketed = |text: String| text.replace('(', "-LRB-").replace(')', "-RRB-");
        let (token, used) = match self {
            Self::Nothing => return (None, all),
            Self::Always(token) => return (Some(Cow::Borrowed(token)), all),
            Self::Itself => (unbroken(string(all)), all),
            Self::Word => (without_soft_hyphens(string(all)), all),
            Self::Two { last } => (string(all - last), all - last),
            Self::Acronym => (string(if all == 2 { 1 } else { all }), all - 1),
            Self::Abbreviation => (string(all), all - 1),
            Self::Brackets => (bracketed(string(all)), all),
            Self::Phone => (bracketed(unbroken(string(all))), all),
            Self::Ampersand => (ampersands(string(all)), all),
            Self::Currency => (currency(string(all)), all),
            Self::Fraction => (fraction(string(all)), all),
            Self::Dash if (3..=4).contains(&all) => ("--".to_owned(), all),
            Self::Dash => (string(all), all),
            Self::Quotes { left } => (quotes(&string(all), left), all),
        };
        (Some(Cow::Owned(token)), used)
    }
}

fn without_soft_hyphens(word: String) -> String {
    const SOFT_HYPHEN: char = '\u{AD}';
    if !word.contains(SOFT_HYPHEN) {
        return word;
    }
    let word = word.replace(SOFT_HYPHEN, "");
    if word.is_empty() {
        "-".to_owned()
    } else {
        word
    }
}

fn ampersands(mut token: String) -> String {
    const ENTITY: &str = "&amp;";
    let mut from = 0;
    while let Some(at) = token[from..].to_ascii_lowercase().find(ENTITY) {
        from += at + 1;
        token.replace_range(from..from - 1 + ENTITY.len(), "");
    }
    token
}

fn currency(sign: String) -> String {
    match sign.as_str() {
        "¢" => "cents".to_owned(),
        "£" => "#".to_owned(),
        // The euro, as in an encoding of Windows too, the ECU before it, and the sign for any currency.
        "€" | "\u{80}" | "₠" | "¤" => "$".to_owned(),
        _ => sign,
    }
}

fn fraction(sign: String) -> String {
    match sign.as_str() {
        "¼" => "1/4".to_owned(),
        "½" => "1/2".to_owned(),
        "¾" => "3/4".to_owned(),
        "⅓" => "1/3".to_owned(),
        "⅔" => "2/3".to_owned(),
        _ => sign,
    }
}

/// Marks as TeX has them. Those of ASCII do not say which side they stand on.
fn quotes(token: &str, left: bool) -> String {
    let (single, double) = if left { ("`", "``") } else { ("'", "''") };
    // Entities are known in lower case only.
    let token = token.replace("&apos;", "'").replace("&quot;", "\"");
    let mut made = String::with_capacity(token.len());
    for mark in token.chars() {
        match mark {
            '\'' => made.push_str(single),
            '"' => made.push_str(double),
            '\u{91}' | '‘' | '‛' | '‹' => made.push('`'),
            '\u{92}' | '’' | '›' => made.push('\''),
            '\u{93}' | '“' | '«' => made.push_str("``"),
            '\u{94}' | '”' | '»' => made.push_str("''"),
            _ => made.push(mark),
        }
    }
    made
}

/// The token in lower case.
///
/// A capital sigma at the end of a word has a lower case of its own. Java, which the reference runs on, looks for the end of
/// a word, which digits and hyphens are part of. Rust looks for the next character that has a case.
pub(super) fn lower_case(token: &str) -> String {
    const SIGMA: char = 'Σ';
    if !token.contains(SIGMA) {
        return token.to_lowercase();
    }
    let characters: Vec<char> = token.chars().collect();
    let has_case = |character: &char| character.is_lowercase() || character.is_uppercase();
    let mut lowered = String::with_capacity(token.len());
    for (at, &character) in characters.iter().enumerate() {
        if character != SIGMA {
            lowered.extend(character.to_lowercase());
            continue;
        }
        let behind = (at + 1..characters.len()).take_while(|&at| !is_end_of_word(&characters, at));
        let before = (0..at)
            .rev()
            .take_while(|&at| !is_end_of_word(&characters, at + 1));
        let is_last = before.map(|at| &characters[at]).any(has_case)
            && !behind.map(|at| &characters[at]).any(has_case);
        lowered.push(if is_last { 'ς' } else { 'σ' });
    }
    lowered
}

/// They end no word that letters go on behind.
const JOINS: [char; 12] = [
    '"', '\'', '-', '.', '_', '\u{AD}', '\u{200B}', '\u{200E}', '\u{200F}', '–', '’', '‧',
];

/// Kana and ideographs are words of their own beside other letters.
const EAST_ASIAN: [std::ops::RangeInclusive<char>; 2] =
    ['\u{3005}'..='\u{30FF}', '\u{3400}'..='\u{9FFF}'];

/// Whether a word ends before the character at this place.
fn is_end_of_word(characters: &[char], at: usize) -> bool {
    let is_part = |at: usize| {
        let character = characters.get(at).copied().unwrap_or(' ');
        character.is_alphanumeric() && !EAST_ASIAN.iter().any(|range| range.contains(&character))
    };
    let is_letter = |at: usize| is_part(at) && characters[at].is_alphabetic();
    let joins = |at: usize| JOINS.contains(&characters[at]);
    let before = at - 1;
    let whole = is_part(before) && is_part(at);
    let into = joins(at) && is_letter(before) && is_letter(at + 1);
    let out_of = joins(before) && is_letter(at) && before > 0 && is_letter(before - 1);
    !(whole || into || out_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capital_sigma_ends_a_word_where_java_says_so() {
        // As PTBTokenizer gives them on Java 17.
        for (token, lowered) in [
            ("ΣΑΣ", "σας"),
            ("ΑΣ2", "ας2"),
            ("ΑΣ2nd", "ασ2nd"),
            ("ΑΣ-Β", "ασ-β"),
            ("Σ", "σ"),
            ("ΣΑΣ_A", "σασ_a"),
            ("ΑΣ北京A", "ας北京a"),
        ] {
            assert_eq!(lower_case(token), lowered, "of {token}");
        }
    }
}
