//! Groups words into noun phrases, verbs and prepositions.

use crate::parser::tokens::{Token, is_number};
use crate::words::{Class, Closed, Is, is_compound, is_plural};

/// Largest number of words in a noun phrase; longer runs are names, lists or another language.
const MOST_WORDS: usize = 6;

/// A noun with its attributes.
#[derive(Debug, Clone)]
pub(super) struct Noun {
    /// Attributes from the first to the nearest. Those joined by `and` share one place.
    pub attributes: Vec<Vec<String>>,
    pub head: String,
    pub class: Class,
    /// Whether it names something visible.
    pub seen: bool,
    /// Whether it has no article.
    pub bare: bool,
}

impl Noun {
    /// The noun with its nearest attribute.
    pub fn short(&self) -> String {
        match self.attributes.last().and_then(|place| place.last()) {
            Some(attribute) => format!("{attribute} {}", self.head),
            None => self.head.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Chunk {
    Noun(Noun),
    /// A noun without content: `it`, `one`.
    Pronoun,
    Verb(String, Form),
    Preposition(Vec<String>),
    /// A noun that owns the next one.
    Owner(String),
    Be,
    Have(String),
    Auxiliary,
    Not,
    Adjectives(Vec<String>),
    And,
    Comma,
    Stop,
    Open,
    Close,
    Subordinator,
    Relative,
    There,
}

/// The form of a verb, which determines its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `rides`: the clause's subject does it.
    Finite,
    /// `riding`: a noun before it does it.
    Ing,
    /// `covered`, `to ride`, `full`: belongs to the noun before it.
    Other,
}

/// Prepositions of several words; `(the)` is optional.
const PREPOSITIONS: &[&str] = &[
    "to (the) left of",
    "to (the) right of",
    "to (the) side of",
    "to (the) left side of",
    "to (the) right side of",
    "on (the) left of",
    "on (the) right of",
    "on (the) left side of",
    "on (the) right side of",
    "on (the) side of",
    "on (the) other side of",
    "on (the) opposite side of",
    "on (the) top of",
    "on (the) back of",
    "on (the) front of",
    "on (the) edge of",
    "on (the) bottom of",
    "on (the) inside of",
    "on (the) outside of",
    "on either side of",
    "on both sides of",
    "on each side of",
    "at (the) side of",
    "at (the) top of",
    "at (the) front of",
    "at (the) back of",
    "at (the) edge of",
    "at (the) end of",
    "at (the) bottom of",
    "at (the) base of",
    "at (the) center of",
    "at (the) centre of",
    "by (the) side of",
    "in (the) front of",
    "in (the) back of",
    "in (the) middle of",
    "in (the) center of",
    "in (the) centre of",
    "in (the) midst of",
    "in between",
    "in need of",
    "inside of",
    "outside of",
    "next to",
    "close to",
    "near to",
    "adjacent to",
    "opposite to",
    "prior to",
    "according to",
    "due to",
    "out of",
    "out from",
    "off of",
    "on to",
    "up to",
    "up against",
    "away from",
    "ahead of",
    "instead of",
    "because of",
    "along with",
    "together with",
    "alongside of",
    "such as",
];

/// Participles that are followed by a name: `a map labeled Rome`.
const NAMING: [&str; 6] = [
    "labeled", "labelled", "named", "called", "titled", "entitled",
];

/// Groups of words that say nothing about objects and are ignored.
const IDIOMS: &[&str] = &[
    "side by side",
    "back to back",
    "face to face",
    "hand in hand",
    "one by one",
    "at least",
    "at most",
    "of course",
    "for example",
    "as well",
];

pub(super) struct Chunker<'a> {
    pub tokens: &'a [Token],
    pub chunks: Vec<Chunk>,
}

/// What precedes a noun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Indefinite,
    Determiner,
    Number,
    No,
}

/// The words of a noun phrase so far.
#[derive(Default)]
struct Words {
    places: Vec<Vec<(String, Class)>>,
    /// Whether one of them may be something other than an adjective.
    noun: bool,
    /// Whether the last one is plural.
    plural: bool,
}

impl Words {
    fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl Chunker<'_> {
    fn word(&self, at: usize) -> Option<(&str, Class)> {
        match self.tokens.get(at) {
            Some(Token::Word { text, class, .. }) => Some((text, *class)),
            _ => None,
        }
    }

    fn closed(&self, at: usize) -> Option<Closed> {
        self.word(at).and_then(|(_, class)| class.closed)
    }

    fn open(&self, at: usize) -> Option<(&str, Class)> {
        self.word(at).filter(|(_, class)| class.is_open())
    }

    /// Whether a determiner, such as an article or a number, stands here.
    fn determines(&self, at: usize) -> bool {
        matches!(
            self.closed(at),
            Some(Closed::Indefinite | Closed::Determiner | Closed::Number | Closed::No)
        )
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.word(at).is_some_and(|(word, _)| word == text)
    }

    fn after_be(&self) -> bool {
        matches!(self.chunks.last(), Some(Chunk::Be))
    }

    fn after_of(&self) -> bool {
        matches!(self.chunks.last(), Some(Chunk::Preposition(words)) if words == &["of"])
    }

    pub fn run(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.step(at);
        }
    }

    /// Makes the next chunk. Returns the start of the one after it, which is always further on.
    fn step(&mut self, at: usize) -> usize {
        if let Some(end) = self.matches(at, "as well as") {
            self.chunks.push(Chunk::And);
            return end;
        }
        if let Some(end) = self.longest(at, IDIOMS) {
            return end;
        }
        if self.longest(at, PREPOSITIONS).is_some() {
            let (chunk, end) = self.preposition(at);
            self.chunks.push(chunk);
            return end;
        }
        let (chunk, end) = match &self.tokens[at] {
            Token::Comma => (Chunk::Comma, at + 1),
            Token::Stop => (Chunk::Stop, at + 1),
            Token::Open => (Chunk::Open, at + 1),
            Token::Close => (Chunk::Close, at + 1),
            Token::Word { text, class, .. } => match class.closed {
                None
                | Some(Closed::Indefinite | Closed::Determiner | Closed::Number | Closed::No) => {
                    return self.noun_phrase(at);
                }
                Some(Closed::Relative)
                    if text == "that"
                        && !matches!(self.chunks.last(), Some(Chunk::Noun(_) | Chunk::Pronoun)) =>
                {
                    return self.noun_phrase(at);
                }
                // `after serving a ball`, but `running after a ball`
                Some(Closed::Preposition)
                    if matches!(text.as_str(), "after" | "before")
                        && self.open(at + 1).is_some_and(|(_, next)| next.is(Is::Ing)) =>
                {
                    (Chunk::Subordinator, at + 1)
                }
                Some(Closed::Preposition) => match self.infinitive(at) {
                    Some(verb) => (verb, at + 2),
                    None => self.preposition(at),
                },
                Some(Closed::Adverb) => return at + 1,
                Some(Closed::And) => (Chunk::And, at + 1),
                Some(Closed::Be) => (Chunk::Be, at + 1),
                Some(Closed::Have) => (Chunk::Have(text.clone()), at + 1),
                Some(Closed::Auxiliary) => (Chunk::Auxiliary, at + 1),
                Some(Closed::Subordinator) => (Chunk::Subordinator, at + 1),
                Some(Closed::Relative) => (Chunk::Relative, at + 1),
                Some(Closed::Pronoun) => (Chunk::Pronoun, at + 1),
                Some(Closed::There) => (Chunk::There, at + 1),
                Some(Closed::Not) => (Chunk::Not, at + 1),
            },
        };
        self.chunks.push(chunk);
        end
    }

    /// The verb of `to hit a ball`.
    fn infinitive(&self, at: usize) -> Option<Chunk> {
        let (text, class) = self.word(at + 1).filter(|_| self.is(at, "to"))?;
        let plain = !class.is(Is::Ing) && !class.is(Is::Past) && !is_plural(text, class);
        let verb = match class.closed {
            Some(_) => matches!(text, "do" | "have"),
            None => class.is(Is::Base) || plain && self.determines(at + 2),
        };
        verb.then(|| Chunk::Verb(text.to_owned(), Form::Other))
    }

    /// The end of the longest of these groups of words that starts here.
    fn longest(&self, at: usize, groups: &[&str]) -> Option<usize> {
        let ends = groups.iter().filter_map(|group| self.matches(at, group));
        ends.max()
    }

    fn preposition(&self, at: usize) -> (Chunk, usize) {
        let end = self.longest(at, PREPOSITIONS).unwrap_or(at + 1);
        let words = (at..end).filter_map(|at| self.word(at));
        let words = words.map(|(word, _)| word.to_owned()).collect();
        (Chunk::Preposition(words), end)
    }

    fn matches(&self, mut at: usize, pattern: &str) -> Option<usize> {
        for part in pattern.split(' ') {
            match part {
                "(the)" => at += usize::from(self.is(at, "the")),
                part if self.is(at, part) => at += 1,
                _ => return None,
            }
        }
        Some(at)
    }

    /// A noun with the words before it, or the verb that stands here instead.
    fn noun_phrase(&mut self, start: usize) -> usize {
        // `line 1 begins`
        let named = matches!(self.chunks.last(), Some(Chunk::Noun(_)));
        if named && self.word(start).is_some_and(|(word, _)| is_number(word)) {
            return start + 1;
        }
        let mut at = start;
        let mut before = Before::Nothing;
        loop {
            let found = match self.closed(at) {
                Some(Closed::Indefinite) => Before::Indefinite,
                Some(Closed::Determiner) => Before::Determiner,
                Some(Closed::Number) if self.is(at, "one") => Before::Indefinite,
                Some(Closed::Number) => Before::Number,
                Some(Closed::No) => Before::No,
                Some(Closed::Relative) if at == start => Before::Determiner,
                // `a very large dog`
                Some(Closed::Adverb) if at > start && self.open(at + 1).is_some() => before,
                _ => break,
            };
            before = match (before, found) {
                (Before::No, _) | (Before::Number, Before::Indefinite | Before::Determiner) => {
                    before
                }
                // `a no parking sign` exists.
                (Before::Indefinite, Before::No) => before,
                _ => found,
            };
            // A year does not count anything: `a map from 1622 shows`.
            const YEAR: usize = 4;
            let year = self
                .word(at)
                .is_some_and(|(word, _)| word.len() == YEAR && is_number(word));
            at += 1;
            if year {
                self.chunks.push(Chunk::Pronoun);
                return at;
            }
            // `one of the dogs`
            if self.is(at, "of") && self.determines(at + 1) {
                at += 1;
            }
        }
        if self.open(at).is_none() || self.longest(at, PREPOSITIONS).is_some() {
            // Numbers alone and `this` are not objects.
            self.chunks.push(Chunk::Pronoun);
            return at.max(start + 1);
        }
        let mut words = Words::default();
        let mut verb = None;
        while let Some(Token::Word { text, class, owns }) = self.tokens.get(at) {
            if !words.is_empty()
                && (self.longest(at, PREPOSITIONS).is_some() || self.longest(at, IDIOMS).is_some())
            {
                break;
            }
            if !class.is_open() {
                let next = self.open(at + 1);
                let adjectives = !words.is_empty() && !words.noun;
                match class.closed {
                    // `red and white bus`
                    Some(Closed::And)
                        if adjectives && next.is_some_and(|(_, next)| next.is(Is::Adjective)) =>
                    {
                        let (next, class) = next.unwrap_or(("", *class));
                        let joined = (next.to_owned(), class);
                        if let Some(place) = words.places.last_mut() {
                            place.push(joined);
                        }
                        at += 2;
                        continue;
                    }
                    // `a bright and very green field`
                    Some(Closed::Adverb) if adjectives && next.is_some() => {
                        at += 1;
                        continue;
                    }
                    _ => break,
                }
            }
            verb = self.verb(at, &words, before);
            if verb.is_some() {
                break;
            }
            if *owns {
                let owner = text.trim_end_matches("'s").to_owned();
                self.chunks.push(Chunk::Owner(owner));
                words = Words::default();
                before = Before::Determiner;
            }
            let describes = class.is(Is::Adjective)
                || (class.is(Is::Ing) || class.is(Is::Past)) && !class.is(Is::Noun);
            let place = class.is(Is::Vague) && before == Before::Determiner;
            words.noun |= (!describes || place) && !owns;
            words.plural = is_plural(text, *class);
            words.places.push(vec![(text.clone(), *class)]);
            at += 1;
            // `a big, red bus`, `red, blue, and white flags`
            let comma = matches!(self.tokens.get(at), Some(Token::Comma));
            if comma && !words.noun && !self.after_be() && class.is(Is::Adjective) {
                let joined = self.closed(at + 1) == Some(Closed::And);
                let next = self.open(at + 1 + usize::from(joined));
                let next_describes = next.is_some_and(|(_, next)| next.is(Is::Adjective));
                let noun_follows = self.open(at + 2).is_some()
                    || matches!(self.tokens.get(at + 2), Some(Token::Comma))
                    || self.closed(at + 2) == Some(Closed::And);
                let goes_on = if joined {
                    next_describes && self.open(at + 3).is_some()
                } else {
                    next_describes || next.is_some() && before != Before::Nothing
                };
                at += usize::from(goes_on && noun_follows);
            }
        }
        // `a group of people`
        let last = words.places.last().and_then(|place| place.last());
        if let Some((_, class)) = last
            && class.is(Is::Quantity)
            && verb.is_none()
            && self.is(at, "of")
            && (self.open(at + 1).is_some() || self.determines(at + 1))
        {
            return at + 1;
        }
        self.push_words(words, before, at);
        if let Some(form) = verb
            && let Some((text, _)) = self.word(at)
        {
            let verb = Chunk::Verb(text.to_owned(), form);
            self.chunks.push(verb);
            at += 1;
        }
        at.max(start + 1)
    }

    fn push_words(&mut self, mut words: Words, before: Before, at: usize) {
        if words.is_empty() {
            return;
        }
        let adjectives = |words: &Words| -> Vec<String> {
            let all = words.places.iter().flatten();
            all.map(|(text, _)| text.clone()).collect()
        };
        let described = words
            .places
            .iter()
            .flatten()
            .all(|(_, class)| class.is(Is::Adjective));
        let single = words.places.len() == 1 && words.places[0].len() == 1 && !words.plural;
        let before_preposition = self.closed(at) == Some(Closed::Preposition);
        if before == Before::Nothing && (described || single) {
            let after_noun = words
                .places
                .iter()
                .flatten()
                .all(|(_, class)| class.is(Is::AfterNoun));
            match self.chunks.last() {
                Some(Chunk::Be) if !described && before_preposition => {}
                Some(Chunk::Be) => {
                    self.chunks.push(Chunk::Adjectives(adjectives(&words)));
                    return;
                }
                // `flying high in the sky`, `painted red`
                Some(Chunk::Verb(..)) if described => {
                    if !before_preposition {
                        self.chunks.push(Chunk::Adjectives(adjectives(&words)));
                    }
                    return;
                }
                Some(_) if after_noun => {
                    if !before_preposition {
                        self.chunks.push(Chunk::Adjectives(adjectives(&words)));
                    }
                    return;
                }
                _ => {}
            }
        }
        // `a bowl full of fruit`, `a man ready`
        let after = match words.places.as_slice() {
            [.., _, last] if words.noun && last.len() == 1 && last[0].1.is(Is::AfterNoun) => {
                words.places.pop()
            }
            _ => None,
        };
        self.push_noun(words.places, before);
        if let Some(after) = after {
            let mut texts = after.into_iter().map(|(text, _)| text);
            let chunk = if before_preposition {
                Chunk::Verb(texts.next().unwrap_or_default(), Form::Other)
            } else {
                Chunk::Adjectives(texts.collect())
            };
            self.chunks.push(chunk);
        }
    }

    fn push_noun(&mut self, mut places: Vec<Vec<(String, Class)>>, before: Before) {
        let head = places.pop().and_then(|mut last| last.pop());
        let Some((head, class)) = head else {
            return;
        };
        let vague = class.is(Is::Vague)
            && places
                .iter()
                .flatten()
                .all(|(_, class)| class.is(Is::Adjective));
        if before == Before::No || vague || places.len() >= MOST_WORDS {
            self.chunks.push(Chunk::Pronoun);
            return;
        }
        let seen = head.chars().filter(|c| c.is_alphabetic()).count() > 1;
        self.chunks.push(Chunk::Noun(Noun {
            attributes: places
                .into_iter()
                .map(|place| place.into_iter().map(|(text, _)| text).collect())
                .collect(),
            head,
            class,
            seen,
            bare: before == Before::Nothing,
        }));
    }

    /// The form of the word here, if it is a verb after these words.
    fn verb(&self, at: usize, words: &Words, before: Before) -> Option<Form> {
        let (text, class) = self.open(at)?;
        let next = self
            .open(at + 1)
            .filter(|_| self.longest(at + 1, PREPOSITIONS).is_none());
        let article = self.determines(at + 1);
        let names = class.is(Is::Noun);
        if class.is(Is::Ing) {
            const PARTICIPLE: Option<Form> = Some(Form::Ing);
            let maybe =
                class.is(Is::NounOrVerb) && (article || words.is_empty() && self.after_be());
            if names && !maybe {
                return None;
            }
            let compound = next.is_some_and(|(next, _)| is_compound(text, next));
            let describes = next.is_some() && class.is(Is::Describes);
            return match (words.is_empty(), words.noun) {
                (true, _) if before != Before::Nothing => None,
                (true, _) if self.after_be() => PARTICIPLE,
                (true, _) if compound || describes || next.is_some() && self.after_of() => None,
                (true, _) => PARTICIPLE,
                (false, true) if compound => None,
                (false, true) if describes && text == "looking" => None,
                (false, true) => PARTICIPLE,
                (false, false) if next.is_some() => None,
                (false, false) => PARTICIPLE,
            };
        }
        if class.is(Is::Past) && !names {
            let verb = Some(if class.is(Is::PastOnly) || article {
                Form::Finite
            } else {
                Form::Other
            });
            if NAMING.contains(&text) && words.noun {
                return verb;
            }
            return match (words.is_empty(), words.noun) {
                (true, _) if before != Before::Nothing => None,
                (true, _) if self.after_be() => verb,
                (true, _) if next.is_some() => None,
                (true, _) => verb,
                (false, true) if class.is(Is::PastOnly) => verb,
                // `a tree lined street`
                (false, true) if next.is_some_and(|(_, next)| !next.is(Is::Ing)) => None,
                (false, true) => verb,
                (false, false) if next.is_some() => None,
                (false, false) => verb,
            };
        }
        const FINITE: Option<Form> = Some(Form::Finite);
        let object = article || matches!(self.closed(at + 1), Some(Closed::Pronoun));
        let along = object
            || matches!(self.closed(at + 1), Some(Closed::Preposition | Closed::Adverb) if !self.is(at + 1, "of"));
        let ends = match self.tokens.get(at + 1) {
            None | Some(Token::Stop | Token::Comma | Token::Close) => true,
            Some(_) => matches!(
                self.closed(at + 1),
                Some(Closed::And | Closed::Subordinator | Closed::Relative)
            ),
        };
        if words.is_empty() {
            let last = self.chunks.last();
            let third = class.is(Is::Third);
            let plain = before == Before::Nothing;
            let finite = match last {
                // `one sees a dog`
                _ if before == Before::Indefinite && self.is(at.wrapping_sub(1), "one") => third,
                Some(Chunk::Relative | Chunk::Pronoun) => third || plain && class.is(Is::Base),
                // `does not hold a phone`
                Some(Chunk::Auxiliary | Chunk::Not) => plain && class.is(Is::Base),
                // `sits on a chair and looks at a dog`
                Some(Chunk::And | Chunk::Comma) => {
                    plain && third && !class.is(Is::RarelyThird) && (along || ends)
                }
                // `panel 1 shows a dog`, `panel a shows a dog`
                Some(Chunk::Noun(_)) => {
                    (plain || before == Before::Indefinite) && third && (along || ends)
                }
                _ => false,
            };
            return finite.then_some(Form::Finite);
        }
        if !words.noun {
            return None;
        }
        if class.is(Is::Third) && words.plural && !class.is(Is::RarelyThird) && along {
            return FINITE;
        }
        if class.is(Is::Third) && before != Before::Number && !words.plural {
            let surely = before == Before::Indefinite;
            if class.is(Is::RarelyThird) && !surely {
                return if object { FINITE } else { None };
            }
            return if along || next.is_some() || ends {
                FINITE
            } else {
                None
            };
        }
        // A word after `a` is not a plural, so it must be a verb: `a man feeds the ducks`.
        if before == Before::Indefinite && !words.plural && is_plural(text, class) && object {
            return FINITE;
        }
        if class.is(Is::Base) && words.plural && (along || next.is_some() || ends) {
            return FINITE;
        }
        // `a knife and a fork lie on a table`, `two giraffes in a zoo enjoy a walk`
        let joined = matches!(self.chunks.last(), Some(Chunk::And)) && along;
        if class.is(Is::Base) && !class.is(Is::RarelyThird) && (joined || object) {
            return FINITE;
        }
        None
    }
}
