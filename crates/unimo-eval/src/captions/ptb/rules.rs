//! What counts as a token: patterns, and what becomes of the text that they match.
//!
//! At every place of a text the pattern that matches most makes the token. Of two that match the same the first counts,
//! so the order says something; what is ahead of a token counts as matched too, and is read again afterwards. The
//! notation is that of [`super::pattern`].
//!
//! See [`super`] for where all this is from and how it was compared.

use super::abbreviations;
use super::characters;
use super::pattern::{Grammar, Machine};

/// What becomes of the text that a rule matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// No token.
    Nothing,
    /// The token, with blanks that do not break.
    Itself,
    /// The token without soft hyphens, or a hyphen if it has nothing else.
    Word,
    /// A token of two: its last characters are the next one.
    Two { last: usize },
    /// The token is always this one.
    Always(&'static str),
    /// The token, and its full stop is a token of its own too. One letter loses its full stop to it.
    Acronym,
    /// The token, and its full stop is a token of its own too.
    Abbreviation,
    /// The token, with `-LRB-` for `(`, and `-RRB-` for `)`.
    Brackets,
    /// As brackets, with blanks that do not break.
    Phone,
    /// The token, with `&` for `&amp;`.
    Ampersand,
    /// The token in ASCII, as far as there is a custom how to write it.
    Currency,
    /// The fraction with a slash.
    Fraction,
    /// Three or four hyphens are a dash.
    Dash,
    /// Quotation marks in the manner of LaTeX.
    Quotes { left: bool },
}

/// A pattern of tokens.
#[derive(Debug)]
pub(super) struct Rule {
    token: &'static str,
    /// What must be ahead of the token.
    pub(super) ahead: Option<&'static str>,
    pub(super) becomes: Becomes,
}

const fn token(token: &'static str, becomes: Becomes) -> Rule {
    Rule {
        token,
        ahead: None,
        becomes,
    }
}

const fn before(token: &'static str, ahead: &'static str, becomes: Becomes) -> Rule {
    Rule {
        token,
        ahead: Some(ahead),
        becomes,
    }
}

/// Parts that several patterns have. Each may use those above it, and the sets of `characters.rs`.
const PARTS: &[(&str, &str)] = &[
    ("space", r"[ \t\u{A0}\u{2000}-\u{200A}\u{3000}]"),
    ("newline", r"[\r]?[\n] | [\r\u{B}\f\u{85}\u{2028}\u{2029}]"),
    ("blank", "({space} | {newline})"),
    ("ascii", "[A-Za-z0-9]"),
    ("alphanumeric", "({letter} | {digit})"),
    // A comma and its like, which a full stop of an abbreviation may stand before.
    ("comma", r"[,;:\u{3001}]"),
    ("hyphen", r"[\-_\u{58A}\u{2010}\u{2011}]"),
    ("apostrophe", r"(['\u{92}\u{2019}] | &apos;)"),
    // Marks that are no apostrophe, but are typed for one within a word.
    ("tick", r"({apostrophe} | [`\u{91}\u{2018}\u{201B}])"),
    // Words.
    (
        "character",
        "({letter} | {mark} | &[aeiouAEIOU](acute|grave|uml);)",
    ),
    ("plain", "{character} ({character} | {digit})*"),
    ("word", "{plain} ([.!?] {plain})*"),
    ("elided", "([dDlLoO] {tick} {alphanumeric})?"),
    (
        "compound",
        "{elided} {alphanumeric}+ ({hyphen} {elided} {alphanumeric}+)*",
    ),
    ("acronym", "([A-Za-z] (.[A-Za-z])* | {countries})"),
    ("long_acronym", "([A-Za-z] (.[A-Za-z])+ | {countries})"),
    (
        "hyphenated",
        r"{ascii} [A-Za-z0-9.,\u{AD}]* (- ([A-Za-z0-9\u{AD}]+ | {long_acronym}.))+",
    ),
    ("joined", "[A-Z]+ (([+&] | &amp;) [A-Z]+)+"),
    // What follows a word after an apostrophe, and what it may stand behind.
    ("auxiliary", "{apostrophe} ([dmsDMS] | re | ve | ll)"),
    ("not", "n{tick}t"),
    ("stem", r"[A-Za-z\u{AD}]* [A-MO-Za-mo-z] [\u{AD}]*"),
    // Numbers.
    (
        "number",
        r"[+\-]? ({digit}+ | {digit}* ([.,:\u{AD}\u{66B}\u{66C}] {digit}+)+)",
    ),
    // Markup and the net.
    ("name", r"[A-Za-z][A-Za-z0-9_:.\-]*"),
    ("attribute", r#"{name} ([ ]*=[ ]* ('[^']*' | "[^"]*"))?"#),
    (
        "tag",
        r"<([!?][A-Za-z\-][^>\r\n]* | {name} ([ ]+{attribute})* [ ]*/? | /{name}) [ ]*>",
    ),
    (
        "address",
        r#"https?:// [^ \t\n\f\r"<>|(){}]+ [^ \t\n\f\r"<>|.!?(){},\-]"#,
    ),
    ("www", r#"www. ([^ \t\n\f\r"<>|.!?(){},]+.)+ [A-Za-z]{2,4}"#),
    (
        "domain",
        r#"([^ \t\n\f\r"`'<>|.!?(){},-_$]+.)+ (com|edu|net|org)"#,
    ),
    (
        "path",
        r#"(/ [^ \t\n\f\r"<>|()]+ [^ \t\n\f\r"<>|.!?(){},\-])?"#,
    ),
    (
        "host",
        r#"([^ \t\n\f\r"<>|(){}.\u{A0}]+.)* [^ \t\n\f\r"<>|(){}.\u{A0}]+"#,
    ),
    (
        "mail",
        r#"(&lt;|<)? {ascii} [^ \t\n\f\r"<>|(){}\u{A0}]* @ {host} (&gt;|>)?"#,
    ),
    (
        "suffix",
        "(bat|bmp|c|cgi|class|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip)",
    ),
];

/// In the order in which they count.
static RULES: &[Rule] = &[
    // Words that are two, and words that two tokens are made of.
    token("cannot | 'twas", Becomes::Two { last: 3 }),
    token(
        "gimme | gonna | gotta | lemme | wanna | 'tis",
        Becomes::Two { last: 2 },
    ),
    before("{word}", "{auxiliary}", Becomes::Word),
    before("{stem}", "{not}", Becomes::Word),
    token("{word}", Becomes::Word),
    token(r"c\+\+ | [cCfF]#", Becomes::Itself),
    // Words with an apostrophe that stay whole.
    token(
        "{apostrophe} (em | n{apostrophe}? | till? | cause | [2-9]0s) | [dDjJlL]{apostrophe} \
         | (Dunkin | ol | somethin){apostrophe} | O{tick}o \
         | [A-HJ-XZn]{tick}{letter}{letter}+ | {letter}+[aeiouyAEIOUY]{tick}[aeiouA-Z]{letter}* \
         | c'mon | cont'd.? | e'er | ev'ry | li'l | nat'l | nor'easter | s'mores",
        Becomes::Itself,
    ),
    before("y{apostrophe}", "{letter}", Becomes::Itself),
    // The net.
    token(
        "{tag} | {address} | ({www} | {domain}){path} | {mail}",
        Becomes::Itself,
    ),
    token("@[A-Za-z_][A-Za-z0-9_]* | #{character}+", Becomes::Itself),
    // What the apostrophe splits off.
    before("{auxiliary}", "[^A-Za-z]", Becomes::Quotes { left: false }),
    before("{not}", "[^A-Za-z]", Becomes::Quotes { left: false }),
    // Numbers, dates, fractions and money.
    token(
        r"{digit}{1,2} [/\-] {digit}{1,2} [/\-] {digit}{2,4}",
        Becomes::Itself,
    ),
    token("{number}", Becomes::Word),
    token(
        r"[\u{207A}\u{207B}\u{208A}\u{208B}]? ([\u{B2}\u{B3}\u{B9}\u{2070}\u{2074}-\u{2079}]+ | [\u{2080}-\u{2089}]+)",
        Becomes::Itself,
    ),
    token(
        r"({digit}{1,4} [ \-\u{A0}])? {digit}{1,4} (\\?/ | \u{2044}) {digit}{1,4}",
        Becomes::Itself,
    ),
    token(r"[\u{BC}-\u{BE}\u{2153}-\u{215E}]", Becomes::Fraction),
    token(
        "-(LCB|LRB|LSB|RCB|RRB|RSB)- | C.D.s | anti- | pro- | S(& | &amp;)(Ls | P-500) \
         | c{apostrophe}est | Cap{apostrophe}n | &amp;",
        Becomes::Ampersand,
    ),
    token(
        r"{ascii}+(-[A-Za-z]+){0,2} (\\?/ {ascii}+(-[A-Za-z]+){0,2}){1,2}",
        Becomes::Itself,
    ),
    token("[A-Z]*$ | #", Becomes::Itself),
    token(
        r"[\u{80}\u{A2}-\u{A5}\u{60B}\u{E3F}\u{20A0}\u{20A4}\u{20AC}\u{FFE0}\u{FFE1}\u{FFE5}\u{FFE6}]",
        Becomes::Currency,
    ),
    // Abbreviations.
    before(
        "{acronym}.",
        "{blank}+ ({opening} | {tag}) {blank}",
        Becomes::Acronym,
    ),
    before("({before_digits}).", "{blank}? {digit}", Becomes::Itself),
    before("(co | pt[eEyY]).", "{space} (lim | ltd)", Becomes::Itself),
    before(
        "({closing}).",
        "{blank} ({blank} | {capital} | {tag})",
        Becomes::Abbreviation,
    ),
    before("({closing}).", "[^][^]", Becomes::Itself),
    token("({closing}).", Becomes::Abbreviation),
    token("({abbreviation} | {acronym}).", Becomes::Itself),
    before("{abbreviation} | {acronym}", "{space}", Becomes::Itself),
    before("{acronym}", "{blank}", Becomes::Itself),
    before("{apostrophe}[0-9][0-9]", "{blank}", Becomes::Itself),
    // Names of files, and words before a comma.
    before(
        "({character} | {digit})+ (.({character} | {digit})+)* .{suffix}",
        "{blank} | [!,.?]",
        Becomes::Itself,
    ),
    before("{word}.", "{comma}", Becomes::Word),
    token(
        r"(\([0-9]{2,3}\)[ \u{A0}]? | (\+\+?)? ([0-9]{2,4}[ \-\u{A0}])? [0-9]{2,4}[ \-\u{A0}]) [0-9]{3,4}[ \-\u{A0}]?[0-9]{3,5}
         | ((\+\+?)? [0-9]{2,4}.)? [0-9]{2,4}.[0-9]{3,4}.[0-9]{3,5}",
        Becomes::Phone,
    ),
    before(
        r#"" | &quot;"#,
        "[A-Za-z0-9$]",
        Becomes::Quotes { left: true },
    ),
    token(r#"" | &quot;"#, Becomes::Quotes { left: false }),
    // Brackets and faces.
    token("< | &lt;", Becomes::Always("<")),
    token("> | &gt;", Becomes::Always(">")),
    before(
        r"[<>]? [:;=] [*o'\-]? [()\[\]{@|\\DOPdp]",
        "[^A-Za-z0-9]",
        Becomes::Brackets,
    ),
    token(
        r"\( ([<>=~^x'\-] [._]? [<>=~^x'\-] | [<>=~^x'] - [<>=~^x'`]) \) | [<>=~^x'\-] _ [<>=~^x'\-]
          | [<>=~^x] .\[\^x= [^<]* <>\]",
        Becomes::Brackets,
    ),
    token(r"\(", Becomes::Always("-LRB-")),
    token(r"\)", Becomes::Always("-RRB-")),
    token(r"\[", Becomes::Always("-LSB-")),
    token(r"\]", Becomes::Always("-RSB-")),
    token(r"\{", Becomes::Always("-LCB-")),
    token(r"\}", Becomes::Always("-RCB-")),
    // Dashes, dots and other marks.
    token(
        r"&(MD | mdash | ndash); | [\u{96}\u{97}\u{2013}-\u{2015}]",
        Becomes::Always("--"),
    ),
    token(r"-+", Becomes::Dash),
    token(
        r".{3,5} | (.[ \u{A0}]){2,4}. | [\u{85}\u{2026}]",
        Becomes::Always("..."),
    ),
    token(
        r"#+ | @+ | _+ | [!?]+ | \*+ | (\\\*){1,3} | [./=] | {comma} | << | >>",
        Becomes::Itself,
    ),
    // Words with hyphens, slashes and ampersands.
    token("{hyphenated}", Becomes::Word),
    before("{hyphenated}.", "{comma}", Becomes::Word),
    token("{compound}", Becomes::Itself),
    before("{compound}.", "{comma}", Becomes::Itself),
    token("{joined}", Becomes::Ampersand),
    before("{joined}.", "{comma}", Becomes::Ampersand),
    // Apostrophes and quotation marks that are left.
    before(
        "'",
        r"[A-Za-z][^ \t\n\r\u{A0}]",
        Becomes::Quotes { left: true },
    ),
    token(
        r"{auxiliary} | {not} | {apostrophe} | '' | [`\u{91}-\u{94}\u{AB}\u{BB}\u{2018}-\u{201F}\u{2039}\u{203A}]{1,2}",
        Becomes::Quotes { left: false },
    ),
    token(
        "{symbol} | &(HT | LR | QC | QL | QR | TL | UR | cdq | odq | #[0-9]+);",
        Becomes::Itself,
    ),
    // What is between tokens, and what no rule knows.
    token("{space}+ | {newline} | &nbsp; | [^]", Becomes::Nothing),
];

impl Rule {
    /// The rules, in the order of the numbers that [`machine`] gives them.
    pub(super) fn all() -> &'static [Self] {
        RULES
    }

    /// For each rule, where the groups of its token and of what is ahead of it are, if anything must be.
    pub(super) fn groups() -> Vec<usize> {
        let mut next = 1;
        let mut groups = Vec::with_capacity(RULES.len());
        for rule in RULES {
            groups.push(next);
            next += 2 * usize::from(rule.ahead.is_some());
        }
        groups
    }
}

/// The machine of the rules. Its group 0 are the rules, with what is ahead of them. Behind it, each rule that something
/// must be ahead of has two groups: its token, and what is ahead.
pub(super) fn machine() -> Machine {
    let mut grammar = Grammar::default();
    characters::name_sets(&mut grammar);
    for (name, pattern) in abbreviations::LISTS.iter().chain(PARTS) {
        grammar.name(name, pattern);
    }
    let whole = |rule: &Rule| match rule.ahead {
        None => rule.token.to_owned(),
        Some(ahead) => format!("({}) ({ahead})", rule.token),
    };
    let mut groups = vec![RULES.iter().map(whole).collect()];
    for rule in RULES {
        if let Some(ahead) = rule.ahead {
            groups.push(vec![rule.token.to_owned()]);
            groups.push(vec![ahead.to_owned()]);
        }
    }
    Machine::new(grammar, &groups)
}
