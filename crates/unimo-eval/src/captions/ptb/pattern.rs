//! Patterns of text, and what is the longest match of any of many of them.
//!
//! A tokeniser of longest matches needs to know, at every place of a text, which of some seventy patterns matches
//! most. All patterns together make one machine with many states, of which it may be in several at once. A [`Scanner`]
//! walks it, and notes each set of states that it meets, so that a text costs one look into a table per character.
//!
//! Texts are UTF-16, as in the tokeniser that is followed here: a character beyond U+FFFF is two units of it.
//!
//! | in a pattern | means |
//! |---|---|
//! | `a` | the letter, in any case |
//! | `[a-z]`, `[^a-z]` | one unit of a set, or one outside it; case counts |
//! | `x\|y`, `(x)`, `x?`, `x*`, `x+`, `x{2}`, `x{2,4}` | as usual |
//! | `{name}` | the pattern of that name |
//! | `\x`, `\u{A0}` | the character x, whatever it stands for otherwise; the character of that number |
//! | `\f`, `\n`, `\r`, `\t` | form feed, line feed, carriage return, tab |
//! | blanks | nothing, outside a set |

use std::collections::HashMap;

/// Units of UTF-16: each pair is a first and a last unit.
pub(super) type Ranges = Vec<(u16, u16)>;

/// What a pattern is made of.
#[derive(Debug, Clone)]
enum Part {
    /// One unit of the set of this number.
    One(usize),
    Sequence(Vec<Part>),
    Either(Vec<Part>),
    /// At least, and at most where there is a bound.
    Repeat(Box<Part>, usize, Option<usize>),
}

/// Patterns by name, and the sets of units that they are made of.
#[derive(Debug, Default)]
pub(super) struct Grammar {
    names: HashMap<&'static str, Part>,
    sets: Vec<Ranges>,
}

impl Grammar {
    /// Gives a set of units a name.
    pub(super) fn set(&mut self, name: &'static str, ranges: Ranges) {
        let part = self.one(ranges);
        self.names.insert(name, part);
    }

    /// Gives a pattern a name, which the patterns after it may use.
    pub(super) fn name(&mut self, name: &'static str, pattern: &str) {
        let part = self.parse(pattern);
        self.names.insert(name, part);
    }

    fn one(&mut self, mut ranges: Ranges) -> Part {
        ranges.sort_unstable();
        let known = self.sets.iter().position(|set| *set == ranges);
        Part::One(known.unwrap_or_else(|| {
            self.sets.push(ranges);
            self.sets.len() - 1
        }))
    }

    fn parse(&mut self, pattern: &str) -> Part {
        let mut parser = Parser {
            units: pattern.chars().collect(),
            at: 0,
            grammar: self,
        };
        let part = parser.either();
        assert!(
            parser.at == parser.units.len(),
            "pattern {pattern:?}: not read beyond {}",
            parser.at
        );
        part
    }
}

/// Letters that are a case of an ASCII letter to some mapping of Unicode.
const OTHER_CASES: [(char, char); 4] = [
    ('i', '\u{130}'),
    ('i', '\u{131}'),
    ('s', '\u{17F}'),
    ('k', '\u{212A}'),
];

/// Reads one pattern. What it reads is written in this crate, so a mistake in it is a panic.
struct Parser<'a> {
    units: Vec<char>,
    at: usize,
    grammar: &'a mut Grammar,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        while self
            .units
            .get(self.at)
            .is_some_and(|c| c.is_ascii_whitespace())
        {
            self.at += 1;
        }
        self.units.get(self.at).copied()
    }

    fn take(&mut self) -> char {
        let unit = self.units[self.at];
        self.at += 1;
        unit
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Part {
        let mut choices = vec![self.sequence()];
        while self.eat('|') {
            choices.push(self.sequence());
        }
        Part::Either(choices)
    }

    fn sequence(&mut self) -> Part {
        let mut parts = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let part = self.atom();
            parts.push(self.repeated(part));
        }
        Part::Sequence(parts)
    }

    fn atom(&mut self) -> Part {
        match self.take() {
            '(' => {
                let part = self.either();
                assert!(self.eat(')'), "a bracket is not closed");
                part
            }
            '[' => self.class(),
            '{' => {
                let name = self.until('}');
                match self.grammar.names.get(name.as_str()) {
                    Some(part) => part.clone(),
                    None => panic!("no pattern is called {name:?}"),
                }
            }
            '\\' => {
                let unit = self.escaped();
                self.grammar.one(vec![pair(unit, unit)])
            }
            letter if letter.is_ascii_alphabetic() => {
                let lower = letter.to_ascii_lowercase();
                let others = OTHER_CASES
                    .iter()
                    .filter(|other| other.0 == lower)
                    .map(|other| other.1);
                let cases = [lower, letter.to_ascii_uppercase()]
                    .into_iter()
                    .chain(others);
                let cases = cases.map(|unit| pair(unit, unit)).collect();
                self.grammar.one(cases)
            }
            unit => self.grammar.one(vec![pair(unit, unit)]),
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> char {
        match self.take() {
            'f' => '\u{C}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                self.at += 1;
                let digits = self.until('}');
                u32::from_str_radix(&digits, 16)
                    .ok()
                    .and_then(char::from_u32)
                    .expect("invariant: numbers of characters")
            }
            unit => unit,
        }
    }

    fn class(&mut self) -> Part {
        let outside = self.units[self.at] == '^';
        self.at += usize::from(outside);
        let mut ranges = Ranges::new();
        loop {
            let first = match self.take() {
                ']' => break,
                '\\' => self.escaped(),
                unit => unit,
            };
            let is_range = self.units[self.at] == '-' && self.units[self.at + 1] != ']';
            self.at += usize::from(is_range);
            let last = match (is_range, self.units[self.at]) {
                (false, _) => first,
                (true, '\\') => {
                    self.at += 1;
                    self.escaped()
                }
                (true, _) => self.take(),
            };
            ranges.push(pair(first, last));
        }
        self.grammar
            .one(if outside { complement(ranges) } else { ranges })
    }

    fn repeated(&mut self, part: Part) -> Part {
        let (least, most) = match self.units.get(self.at) {
            Some('?') => (0, Some(1)),
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('{') if self.units[self.at + 1].is_ascii_digit() => {
                self.at += 1;
                let bounds = self.until('}');
                let (least, most) = bounds.split_once(',').unwrap_or((&bounds, &bounds));
                let number = |digits: &str| digits.parse().expect("invariant: bounds are digits");
                return Part::Repeat(Box::new(part), number(least), Some(number(most)));
            }
            _ => return part,
        };
        self.at += 1;
        Part::Repeat(Box::new(part), least, most)
    }

    fn until(&mut self, end: char) -> String {
        let start = self.at;
        while self.take() != end {}
        self.units[start..self.at - 1].iter().collect()
    }
}

/// Both must be below U+10000, which one unit holds.
fn pair(first: char, last: char) -> (u16, u16) {
    let unit =
        |c: char| u16::try_from(u32::from(c)).expect("invariant: patterns hold no pairs of units");
    (unit(first), unit(last))
}

fn complement(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut outside = Ranges::new();
    let mut next = 0_u32;
    for (first, last) in ranges {
        if next < u32::from(first) {
            outside.push((next as u16, first - 1));
        }
        next = next.max(u32::from(last) + 1);
    }
    if next <= u32::from(u16::MAX) {
        outside.push((next as u16, u16::MAX));
    }
    outside
}

/// A state of the machine.
#[derive(Debug)]
enum State {
    /// Goes on in all of these without reading.
    Fork(Vec<u32>),
    /// Reads a unit of the set.
    Read { set: usize, next: u32 },
    /// A pattern has matched.
    Match(u16),
}

/// Many patterns as one machine.
#[derive(Debug)]
pub(super) struct Machine {
    states: Vec<State>,
    /// `[65536]`: the kind of each unit. Units of one kind are in the same sets.
    kind_of: Vec<u8>,
    kinds: usize,
    /// `[sets][kinds]`: whether units of the kind are in the set.
    holds: Vec<Vec<bool>>,
    /// Where each group of patterns begins.
    starts: Vec<u32>,
}

impl Machine {
    /// `groups`: the patterns of each group, which a [`Scanner`] looks for together. Where two patterns of a group match
    /// the same, the first counts.
    pub(super) fn new(mut grammar: Grammar, groups: &[Vec<String>]) -> Self {
        let parsed: Vec<Vec<Part>> = groups
            .iter()
            .map(|group| group.iter().map(|pattern| grammar.parse(pattern)).collect())
            .collect();
        let (kind_of, holds) = kinds(&grammar.sets);
        let mut machine = Self {
            states: Vec::new(),
            kind_of,
            kinds: holds.first().map_or(0, Vec::len),
            holds,
            starts: Vec::new(),
        };
        for group in parsed {
            let entries = group
                .iter()
                .enumerate()
                .map(|(number, part)| {
                    let number = u16::try_from(number).expect("invariant: some dozens of patterns");
                    let end = machine.push(State::Match(number));
                    machine.add(part, end)
                })
                .collect();
            let start = machine.push(State::Fork(entries));
            machine.starts.push(start);
        }
        machine
    }

    fn push(&mut self, state: State) -> u32 {
        self.states.push(state);
        u32::try_from(self.states.len() - 1).expect("invariant: some thousands of states")
    }

    /// Adds states that read the part and go on in `next`; gives where they begin.
    fn add(&mut self, part: &Part, next: u32) -> u32 {
        match part {
            Part::One(set) => self.push(State::Read { set: *set, next }),
            Part::Sequence(parts) => parts
                .iter()
                .rev()
                .fold(next, |next, part| self.add(part, next)),
            Part::Either(choices) => {
                let entries = choices
                    .iter()
                    .map(|choice| self.add(choice, next))
                    .collect();
                self.push(State::Fork(entries))
            }
            Part::Repeat(part, least, most) => {
                let mut entry = next;
                match most {
                    Some(most) => {
                        for _ in *least..*most {
                            let again = self.add(part, entry);
                            entry = self.push(State::Fork(vec![again, next]));
                        }
                    }
                    None => {
                        let again = self.push(State::Fork(vec![next]));
                        let once = self.add(part, again);
                        self.states[again as usize] = State::Fork(vec![once, next]);
                        entry = again;
                    }
                }
                for _ in 0..*least {
                    entry = self.add(part, entry);
                }
                entry
            }
        }
    }
}

/// The kind of each unit, and which kinds each set holds.
fn kinds(sets: &[Ranges]) -> (Vec<u8>, Vec<Vec<bool>>) {
    let mut edges = vec![0_u32, 1 << 16];
    for &(first, last) in sets.iter().flatten() {
        edges.extend([u32::from(first), u32::from(last) + 1]);
    }
    edges.sort_unstable();
    edges.dedup();
    let mut known: HashMap<Vec<bool>, u8> = HashMap::new();
    let mut kind_of = Vec::with_capacity(1 << 16);
    for edge in edges.windows(2) {
        let of: Vec<bool> = sets
            .iter()
            .map(|set| {
                set.iter()
                    .any(|&(first, last)| (u32::from(first)..=u32::from(last)).contains(&edge[0]))
            })
            .collect();
        let fresh = u8::try_from(known.len()).expect("invariant: fewer than 256 kinds of units");
        let kind = *known.entry(of).or_insert(fresh);
        kind_of.resize(edge[1] as usize, kind);
    }
    let mut holds = vec![vec![false; known.len()]; sets.len()];
    for (of, kind) in known {
        for (set, held) in of.into_iter().enumerate() {
            holds[set][usize::from(kind)] = held;
        }
    }
    (kind_of, holds)
}

/// Not looked at yet.
const UNKNOWN: u32 = u32::MAX;
/// No pattern can match any more.
const NONE: u32 = u32::MAX - 1;

/// Walks a [`Machine`] over texts and remembers what it met.
#[derive(Debug)]
pub(super) struct Scanner<'m> {
    machine: &'m Machine,
    /// Each set of states that was met.
    met: Vec<Vec<u32>>,
    /// The first pattern that has matched in each of them.
    matched: Vec<Option<u16>>,
    /// `[met, kinds]`: which set comes next.
    next: Vec<u32>,
    index: HashMap<Vec<u32>, u32>,
    starts: Vec<u32>,
}

impl<'m> Scanner<'m> {
    pub(super) fn new(machine: &'m Machine) -> Self {
        let mut scanner = Self {
            machine,
            met: Vec::new(),
            matched: Vec::new(),
            next: Vec::new(),
            index: HashMap::new(),
            starts: Vec::new(),
        };
        scanner.starts = machine
            .starts
            .iter()
            .map(|&start| scanner.meet(vec![start]))
            .collect();
        scanner
    }

    /// Every length that a pattern of the group matches at the start of the text, in order, with the first such pattern.
    pub(super) fn matches(
        &mut self,
        group: usize,
        text: &[u16],
        mut found: impl FnMut(usize, u16),
    ) {
        let mut at = self.starts[group];
        for (read, &unit) in text.iter().enumerate() {
            let kind = usize::from(self.machine.kind_of[usize::from(unit)]);
            let slot = at as usize * self.machine.kinds + kind;
            let next = match self.next[slot] {
                UNKNOWN => self.step(at, kind, slot),
                known => known,
            };
            if next == NONE {
                return;
            }
            at = next;
            if let Some(pattern) = self.matched[at as usize] {
                found(read + 1, pattern);
            }
        }
    }

    fn step(&mut self, at: u32, kind: usize, slot: usize) -> u32 {
        let machine = self.machine;
        let next: Vec<u32> = self.met[at as usize]
            .iter()
            .filter_map(|&state| match machine.states[state as usize] {
                State::Read { set, next } if machine.holds[set][kind] => Some(next),
                _ => None,
            })
            .collect();
        let next = if next.is_empty() {
            NONE
        } else {
            self.meet(next)
        };
        self.next[slot] = next;
        next
    }

    /// The number of the set of states that is reached from these without reading.
    fn meet(&mut self, mut open: Vec<u32>) -> u32 {
        let mut seen = vec![false; self.machine.states.len()];
        let mut reached = Vec::new();
        let mut matched: Option<u16> = None;
        while let Some(state) = open.pop() {
            if std::mem::replace(&mut seen[state as usize], true) {
                continue;
            }
            match &self.machine.states[state as usize] {
                State::Fork(next) => open.extend(next),
                State::Read { .. } => reached.push(state),
                State::Match(pattern) => {
                    matched = Some(matched.map_or(*pattern, |first| first.min(*pattern)));
                    reached.push(state);
                }
            }
        }
        reached.sort_unstable();
        if let Some(&known) = self.index.get(&reached) {
            return known;
        }
        let number = u32::try_from(self.met.len()).expect("invariant: some thousands of sets");
        self.index.insert(reached.clone(), number);
        self.met.push(reached);
        self.matched.push(matched);
        self.next
            .resize(self.next.len() + self.machine.kinds, UNKNOWN);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length that the pattern matches at the start of the text.
    fn lengths(pattern: &str, text: &str) -> Vec<usize> {
        let mut grammar = Grammar::default();
        grammar.set("vowel", vec![(0x61, 0x61), (0x65, 0x65)]);
        grammar.name("pair", "{vowel}b");
        let machine = Machine::new(grammar, &[vec![pattern.to_owned()]]);
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut lengths = Vec::new();
        Scanner::new(&machine).matches(0, &units, |length, _| lengths.push(length));
        lengths
    }

    #[test]
    fn patterns_mean_what_the_table_says() {
        assert_eq!(lengths("ab", "aB"), [2]);
        assert_eq!(lengths("[a]b", "Ab"), [0; 0]);
        assert_eq!(lengths("kiss", "\u{212A}\u{131}\u{17F}S"), [4]);
        assert_eq!(lengths("a | a b | c", "ab"), [1, 2]);
        assert_eq!(lengths("a?b", "b"), [1]);
        assert_eq!(lengths("(ab)*c", "ababc"), [5]);
        assert_eq!(lengths("a+", "aaa"), [1, 2, 3]);
        assert_eq!(lengths("a{2}", "aaaa"), [2]);
        assert_eq!(lengths("a{2,3}", "aaaa"), [2, 3]);
        assert_eq!(lengths("a{0,1}b", "b"), [1]);
        assert_eq!(lengths("{pair}+", "abebAb"), [2, 4]);
        assert_eq!(lengths(r"[a-c\-\]]+", "a-]d"), [1, 2, 3]);
        assert_eq!(lengths(r"[^a-c\n]+", "xyb"), [1, 2]);
        assert_eq!(lengths(r"\?\u{41}\n", "?A\n"), [3]);
        assert_eq!(lengths("[^]", "\u{1F600}"), [1]);
    }

    #[test]
    fn the_first_of_two_patterns_counts() {
        let patterns = vec!["ab".to_owned(), "[a-z]+".to_owned()];
        let machine = Machine::new(Grammar::default(), &[patterns]);
        let mut scanner = Scanner::new(&machine);
        for _ in 0..2 {
            let mut found = Vec::new();
            let text: Vec<u16> = "abc".encode_utf16().collect();
            scanner.matches(0, &text, |length, pattern| found.push((length, pattern)));
            assert_eq!(found, [(1, 1), (2, 0), (3, 1)]);
        }
    }
}
