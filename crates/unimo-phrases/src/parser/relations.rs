//! Joins noun phrases, verbs and prepositions into phrases, from left to right.

use std::collections::HashSet;

use crate::parser::chunks::{Chunk, Form, Noun};
use crate::parser::{LONGEST_PHRASE, MOST_PHRASES};
use crate::words::{Is, is_plural};

/// Largest number of nouns joined by `and` that get relations.
const MOST_JOINED: usize = 6;
/// Largest number of words in a relation.
const MOST_RELATION: usize = 6;

/// A relation that waits for its object.
#[derive(Debug, Clone)]
struct Relation {
    words: Vec<String>,
    /// Numbers of the subjects; empty if they follow or are not named.
    from: Vec<usize>,
    /// Whether the subject may still follow: `on a table, a cat`.
    ahead: bool,
    ing: bool,
    /// Whether its words include a verb.
    verb: bool,
    /// Whether it is negated, so its object need not exist.
    denied: bool,
}

#[derive(Default)]
pub(super) struct Joiner {
    pub found: Vec<String>,
    known: HashSet<String>,
    nouns: Vec<Noun>,
    sentence: Sentence,
    /// The sentence around the open parentheses.
    around: Option<Sentence>,
}

/// The state of a sentence. Nouns are given by their numbers.
#[derive(Debug, Clone, Default)]
struct Sentence {
    /// The nouns that the clause is about.
    subjects: Vec<usize>,
    /// Whether something has been said about them.
    said: bool,
    /// The last noun, and the nouns joined to it by `and`.
    nearest: Vec<usize>,
    /// The relation whose object came last.
    made: Option<Relation>,
    pending: Option<Relation>,
    /// A relation with its object, if the subject follows.
    ahead: Option<(Vec<String>, usize)>,
    /// The subjects of the last verb.
    doers: Vec<usize>,
    /// Whether anything was named, even by a pronoun.
    begun: bool,
    /// The kind of the last chunk.
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Last {
    #[default]
    Start,
    Noun,
    Verb,
    Auxiliary,
    Not,
    Join,
    Relative,
    Other,
}

impl Joiner {
    pub fn take(&mut self, chunk: &Chunk, rest: &[Chunk]) {
        let last = match chunk {
            Chunk::Noun(noun) => {
                self.noun(noun, rest);
                Last::Noun
            }
            Chunk::Pronoun => {
                self.pronoun();
                Last::Other
            }
            Chunk::Verb(text, form) => {
                self.verb(text, *form);
                Last::Verb
            }
            Chunk::Preposition(words) => {
                self.preposition(words);
                Last::Other
            }
            Chunk::Owner(owner) => {
                self.add(owner.clone());
                return;
            }
            Chunk::Have(text) => {
                self.flush();
                self.sentence.said = true;
                if matches!(rest.first(), Some(Chunk::Noun(_))) {
                    self.start(
                        vec![text.clone()],
                        self.sentence.subjects.clone(),
                        false,
                        true,
                    );
                }
                Last::Auxiliary
            }
            Chunk::Be | Chunk::Auxiliary => {
                self.flush();
                self.sentence.said = true;
                Last::Auxiliary
            }
            Chunk::Not => {
                // Something negated is not in the image.
                self.sentence.subjects.clear();
                Last::Not
            }
            Chunk::Adjectives(adjectives) => {
                self.flush();
                let of = match self.sentence.last {
                    Last::Noun => &self.sentence.nearest,
                    _ => &self.sentence.subjects,
                };
                for subject in of.clone() {
                    for adjective in adjectives {
                        let head = &self.nouns[subject].head;
                        let phrase = format!("{adjective} {head}");
                        self.add(phrase);
                    }
                }
                Last::Auxiliary
            }
            Chunk::And | Chunk::Comma => {
                self.flush();
                Last::Join
            }
            Chunk::Subordinator => {
                self.flush();
                self.sentence.nearest.clear();
                self.sentence.made = None;
                Last::Other
            }
            Chunk::Relative => {
                self.flush();
                self.sentence.subjects = self.sentence.nearest.clone();
                self.sentence.made = None;
                Last::Relative
            }
            Chunk::There => {
                self.flush();
                self.sentence.subjects.clear();
                self.sentence.nearest.clear();
                self.sentence.made = None;
                Last::Other
            }
            Chunk::Stop => {
                self.flush();
                self.sentence = Sentence::default();
                Last::Start
            }
            Chunk::Open => {
                let around = std::mem::take(&mut self.sentence);
                self.around.get_or_insert(around);
                Last::Start
            }
            Chunk::Close => {
                self.flush();
                self.sentence = self.around.take().unwrap_or_default();
                return;
            }
        };
        self.sentence.last = last;
    }

    /// Ends a relation without an object: `a man smiling`.
    pub fn flush(&mut self) {
        if let Some(relation) = self.sentence.pending.take()
            && relation.ing
            && let [verb] = relation.words.as_slice()
        {
            for from in &relation.from {
                let phrase = format!("{verb} {}", self.nouns[*from].head);
                self.add(phrase);
            }
        }
    }

    fn start(&mut self, words: Vec<String>, from: Vec<usize>, ing: bool, verb: bool) {
        let words_deny = words == ["without"];
        let ahead = !self.sentence.begun && self.sentence.last != Last::Auxiliary;
        self.sentence.pending = Some(Relation {
            words,
            from,
            ahead,
            ing,
            verb,
            denied: self.sentence.last == Last::Not || words_deny,
        });
    }

    fn noun(&mut self, noun: &Noun, rest: &[Chunk]) {
        let number = self.nouns.len();
        self.nouns.push(noun.clone());
        self.sentence.begun = true;
        let pending = self.sentence.pending.take();
        let denied = pending.as_ref().is_some_and(|relation| relation.denied);
        if noun.seen && !denied {
            self.describe(noun);
        }
        if let Some(mut relation) = pending {
            if relation.ahead && relation.from.is_empty() {
                self.sentence.ahead = Some((relation.words, number));
                self.sentence.nearest = vec![number];
                self.sentence.made = None;
                return;
            }
            // `a dog on a mat on a grey background`: this is about the dog, too.
            if !relation.verb
                && relation.words != ["of"]
                && noun.class.is(Is::Setting)
                && !self.sentence.subjects.is_empty()
            {
                relation.from = self.sentence.subjects.clone();
            }
            self.relate(&relation.from, &relation.words, number);
            if relation.from.is_empty() {
                self.come(number);
            }
            self.sentence.nearest = vec![number];
            self.sentence.made = Some(relation);
            return;
        }
        let predicate = matches!(
            rest.first(),
            Some(Chunk::Be | Chunk::Have(_) | Chunk::Auxiliary | Chunk::Verb(..))
        );
        if self.sentence.last == Last::Join
            && self.sentence.nearest.len() < MOST_JOINED
            && self.sentence.ahead.is_none()
        {
            // `a woman in a hat and tie poses`
            let shared = noun.bare
                && match rest.first() {
                    Some(Chunk::Verb(_, Form::Ing)) => true,
                    _ => !is_plural(&noun.head, noun.class),
                };
            if let Some(relation) = &self.sentence.made
                && (!predicate || shared)
            {
                let (from, words) = (relation.from.clone(), relation.words.clone());
                self.relate(&from, &words, number);
                self.sentence.nearest.push(number);
                return;
            }
            if self.sentence.made.is_none()
                && !self.sentence.said
                && !self.sentence.subjects.is_empty()
                && self.sentence.subjects == self.sentence.nearest
            {
                self.sentence.subjects.push(number);
                self.sentence.nearest.push(number);
                return;
            }
        }
        self.come(number);
        self.sentence.subjects = vec![number];
        self.sentence.said = false;
        self.sentence.nearest = vec![number];
        self.sentence.made = None;
    }

    /// Joins a noun to what was said about it before.
    fn come(&mut self, number: usize) {
        if let Some((words, object)) = self.sentence.ahead.take() {
            self.relate(&[number], &words, object);
        }
    }

    fn pronoun(&mut self) {
        self.sentence.begun = true;
        if self.sentence.pending.take().is_some() {
            self.sentence.nearest.clear();
            self.sentence.made = None;
            return;
        }
        if self.sentence.last != Last::Join || self.sentence.made.is_none() {
            self.sentence.subjects.clear();
            self.sentence.nearest.clear();
            self.sentence.made = None;
        }
    }

    fn preposition(&mut self, words: &[String]) {
        if let Some(relation) = &mut self.sentence.pending {
            if relation.words.len() + words.len() <= MOST_RELATION {
                relation.words.extend_from_slice(words);
            }
            return;
        }
        let of = words == ["of"];
        let from = match self.sentence.last {
            Last::Auxiliary | Last::Not => self.sentence.subjects.clone(),
            Last::Join => match &self.sentence.made {
                Some(made) => made.from.clone(),
                None => self.sentence.subjects.clone(),
            },
            _ if of => self.sentence.nearest.last().copied().into_iter().collect(),
            _ => self.sentence.nearest.clone(),
        };
        self.start(words.to_vec(), from, false, false);
    }

    fn verb(&mut self, text: &str, form: Form) {
        let words = vec![text.to_owned()];
        self.sentence.said = true;
        // `trying to catch` is about catching, `for holding` about holding.
        if let Some(relation) = &mut self.sentence.pending
            && (relation.verb || !relation.from.is_empty())
        {
            relation.words = words;
            relation.ing = false;
            relation.verb = true;
            return;
        }
        let from = match self.sentence.last {
            Last::Auxiliary | Last::Not | Last::Relative => self.sentence.subjects.clone(),
            Last::Noun if form == Form::Finite => self.sentence.subjects.clone(),
            Last::Noun if form == Form::Ing => self.mover(),
            Last::Noun => self.sentence.nearest.clone(),
            Last::Join if !self.sentence.doers.is_empty() => self.sentence.doers.clone(),
            _ => self.sentence.subjects.clone(),
        };
        self.sentence.doers = from.clone();
        self.start(words, from, form == Form::Ing, true);
    }

    /// The nouns before a participle that it is probably about.
    fn mover(&self) -> Vec<usize> {
        let moves = |group: &[usize]| -> Vec<usize> {
            let moving = group.iter().copied();
            moving
                .filter(|noun| self.nouns[*noun].class.is(Is::Moves))
                .collect()
        };
        let made = self
            .sentence
            .made
            .as_ref()
            .map_or(&[][..], |made| &made.from);
        [&self.sentence.nearest, made, &self.sentence.subjects]
            .into_iter()
            .map(moves)
            .find(|group| !group.is_empty())
            .unwrap_or_else(|| {
                if self.sentence.subjects.is_empty() {
                    self.sentence.nearest.clone()
                } else {
                    self.sentence.subjects.clone()
                }
            })
    }

    /// Adds a noun alone and with its attributes.
    fn describe(&mut self, noun: &Noun) {
        self.add(noun.head.clone());
        let mut ending = noun.head.clone();
        for place in noun.attributes.iter().rev() {
            let longer: Vec<String> = place
                .iter()
                .map(|attribute| format!("{attribute} {ending}"))
                .collect();
            if let [only] = longer.as_slice() {
                ending = only.clone();
            }
            for phrase in longer {
                self.add(phrase);
            }
        }
    }

    fn relate(&mut self, from: &[usize], words: &[String], to: usize) {
        for subject in from.iter().take(MOST_JOINED) {
            let (subject, object) = (&self.nouns[*subject], &self.nouns[to]);
            if !(subject.seen && object.seen) {
                continue;
            }
            let words = words.join(" ");
            let bare = format!("{} {words} {}", subject.head, object.head);
            let full = format!("{} {words} {}", subject.short(), object.short());
            self.add(bare);
            self.add(full);
        }
    }

    fn add(&mut self, phrase: String) {
        if phrase.len() <= LONGEST_PHRASE
            && self.found.len() < MOST_PHRASES
            && self.known.insert(phrase.clone())
        {
            self.found.push(phrase);
        }
    }
}
