//! Code switching: words of a caption are put into other languages by dictionaries.
//!
//! ```toml
//! [data.switch]
//! dictionaries = { de = "en-de.txt", fr = "en-fr.txt" }   # or "scenes": the invented language of generated scenes
//! sentences = 0.8                                         # share of captions that are changed at all
//! words = { share = 0.8 }                                 # of their words; or "one": exactly one word of each
//! exact = true                                            # "Dog," is not "dog"
//! ```
//!
//! Source: M3P (Ni et al. 2021), section 3.2, "multilingual multimodal code-switched training". Its released code has both forms: a share of the
//! words (fine-tuning, captions), and exactly one word (pre-training). Which of the two the paper's figures come from is not known.
//!
//! A caption is a function of the caption and of the draw for its position, so that a run that was stopped goes on with the same
//! captions. Held-out captions are never changed, nor are captions that are known to be in another language than English.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::loader::rewrite::Rewrite;
use crate::order::draws::{Stream, hash, unit};
use crate::settings::share;
use crate::sources::scenes::language;
use crate::store::digest::Digest;
use crate::store::open_regular;

/// The language that dictionaries translate.
const ENGLISH: &str = "en";

/// The dictionary of generated scenes, which needs no file.
pub const SCENES: &str = "scenes";

/// Largest dictionary that is read, in bytes. MUSE's largest have 4 MB.
const MOST_BYTES: u64 = 256 << 20;

/// `[data.switch]`: words of training captions in other languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// The dictionary of each language: a file whose lines have an English word and its translation, between a tab or spaces, as MUSE
    /// has them; or `"scenes"`, the invented language of generated scenes.
    pub dictionaries: BTreeMap<String, PathBuf>,
    /// Share of captions that are changed at all.
    #[serde(default = "most")]
    pub sentences: f64,
    /// Which words of these are replaced, out of those that a dictionary has: `{ share = 0.8 }`, or `"one"`.
    #[serde(default)]
    pub words: SwitchedWords,
    /// Whether a word must stand in a dictionary as it is written; if not, case and punctuation at its ends do not count.
    #[serde(default = "yes")]
    pub exact: bool,
}

/// M3P's share of sentences and of words.
fn most() -> f64 {
    0.8
}

fn yes() -> bool {
    true
}

/// Which words of a caption are replaced, out of those that a dictionary has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchedWords {
    /// Each with this probability.
    Share(f64),
    /// Exactly one, whichever.
    One,
}

impl Default for SwitchedWords {
    fn default() -> Self {
        Self::Share(most())
    }
}

impl SwitchConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        if self.dictionaries.is_empty() {
            return Err(DataError::config(
                format!("{table}.dictionaries"),
                "empty",
                "a dictionary for at least one language, such as { de = \"en-de.txt\" }",
            ));
        }
        share(&format!("{table}.sentences"), self.sentences)?;
        if let SwitchedWords::Share(words) = self.words {
            share(&format!("{table}.words.share"), words)?;
        }
        Ok(())
    }

    /// The files that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let files = self.dictionaries.values_mut();
        files.filter(|path| path.as_os_str() != SCENES)
    }
}

/// What a word may become in one language.
#[derive(Debug, Clone)]
struct Translations {
    /// Number of the language, in the order of the names.
    language: usize,
    words: Vec<String>,
}

/// Changes captions by dictionaries. Shared between threads.
#[derive(Debug, Clone)]
pub struct Switch {
    sentences: f64,
    words: SwitchedWords,
    exact: bool,
    /// For each English word its translations, in the order of the languages' names.
    entries: HashMap<String, Vec<Translations>>,
    /// The languages' names, in order.
    languages: Vec<String>,
    notes: Vec<String>,
    digest: [u8; 32],
}

impl Switch {
    /// Reads the dictionaries.
    ///
    /// # Errors
    ///
    /// A dictionary cannot be read, or none of its lines is a word and its translation.
    pub fn open(config: &SwitchConfig) -> Result<Self, DataError> {
        let mut switch = Self {
            sentences: config.sentences,
            words: config.words,
            exact: config.exact,
            entries: HashMap::new(),
            languages: config.dictionaries.keys().cloned().collect(),
            notes: Vec::new(),
            digest: [0; 32],
        };
        let mut digest = Digest::default();
        for (number, (language, path)) in config.dictionaries.iter().enumerate() {
            digest.add_sized(language.as_bytes());
            let pairs = if path.as_os_str() == SCENES {
                language::dictionary()
            } else {
                let read = Lines::read(path)?;
                switch.notes.extend(read.note(path));
                read.pairs
            };
            // Translations of one word in one language stand together.
            let mut of_language: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (english, translation) in pairs {
                digest.add_sized(english.as_bytes());
                digest.add_sized(translation.as_bytes());
                let found = of_language.entry(switch.key(&english)).or_default();
                if !found.contains(&translation) {
                    found.push(translation);
                }
            }
            for (english, words) in of_language {
                let of_word = switch.entries.entry(english).or_default();
                of_word.push(Translations {
                    language: number,
                    words,
                });
            }
        }
        switch.digest = digest.finish();
        Ok(switch)
    }

    /// Lines for the user: what was left out of which dictionary.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A digest of the dictionaries' words, which decide what is trained on.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The languages whose dictionary has no word of these captions. Such a dictionary changes nothing, and is often one in the wrong
    /// direction.
    pub fn unused(&self, captions: impl Iterator<Item = String>) -> Vec<&str> {
        let mut used = vec![false; self.languages.len()];
        for caption in captions {
            if used.iter().all(|used| *used) {
                break;
            }
            let known = caption.split(' ').map(|word| self.key(word));
            for translations in known.filter_map(|word| self.entries.get(&word)).flatten() {
                used[translations.language] = true;
            }
        }
        let languages = self.languages.iter().zip(used);
        let unused = languages.filter(|(_, used)| !used);
        unused.map(|(language, _)| language.as_str()).collect()
    }

    /// A word as it is looked up.
    fn key(&self, word: &str) -> String {
        if self.exact {
            return word.to_owned();
        }
        bare(word).to_lowercase()
    }

    /// The caption with some words replaced. `draw` gives numbers from 0 to 1, as they are needed: one for the caption; then for each word that
    /// a dictionary has, one for whether it is replaced, or for `"one"` a single one for which of them is; and for each word that is
    /// replaced, one for the language and one for the translation.
    fn switched(&self, caption: &str, mut draw: impl FnMut() -> f64) -> String {
        if draw() >= self.sentences {
            return caption.to_owned();
        }
        let words: Vec<&str> = caption.split(' ').collect();
        let known: Vec<Option<&Vec<Translations>>> = words
            .iter()
            .map(|word| self.entries.get(&self.key(word)))
            .collect();
        let count = known.iter().flatten().count();
        if count == 0 {
            return caption.to_owned();
        }
        let chosen = match self.words {
            SwitchedWords::Share(_) => None,
            SwitchedWords::One => Some(at(draw(), count)),
        };
        let mut number = 0;
        let mut said = Vec::with_capacity(words.len());
        for (word, known) in words.into_iter().zip(known) {
            let Some(languages) = known else {
                said.push(word.to_owned());
                continue;
            };
            let replaced = match self.words {
                SwitchedWords::Share(words) => draw() < words,
                SwitchedWords::One => chosen == Some(number),
            };
            number += 1;
            if !replaced {
                said.push(word.to_owned());
                continue;
            }
            let translations = &languages[at(draw(), languages.len())].words;
            let translation = &translations[at(draw(), translations.len())];
            said.push(if self.exact {
                translation.clone()
            } else {
                dressed(translation, word)
            });
        }
        said.join(" ")
    }
}

impl Rewrite for Switch {
    fn rewrite(&self, caption: &str, draw: u64) -> String {
        let mut drawn = 0;
        self.switched(caption, || {
            drawn += 1;
            unit(hash(Stream::Rewrite, &[draw, drawn]))
        })
    }

    fn reads(&self, language: &str) -> bool {
        language.split('-').next() == Some(ENGLISH)
    }
}

/// The element of `count` at a number from 0 to 1.
fn at(unit: f64, count: usize) -> usize {
    ((unit * count as f64) as usize).min(count.saturating_sub(1))
}

/// A word without the punctuation at its ends.
fn bare(word: &str) -> &str {
    word.trim_matches(|letter: char| !letter.is_alphanumeric())
}

/// A translation with the punctuation and the capital of the word that it replaces.
fn dressed(translation: &str, word: &str) -> String {
    let inner = bare(word);
    // What is nothing but punctuation has no translation, so there is a bare word in it.
    let (before, after) = word.split_once(inner).unwrap_or_default();
    let mut letters = translation.chars();
    match letters.next() {
        Some(first) if inner.starts_with(char::is_uppercase) => {
            let rest = letters.as_str();
            format!("{before}{}{rest}{after}", first.to_uppercase())
        }
        _ => format!("{before}{translation}{after}"),
    }
}

/// The lines of a dictionary.
struct Lines {
    pairs: Vec<(String, String)>,
    /// How many lines have another number of columns, and the first of them with its number of columns.
    left_out: usize,
    first: Option<(usize, usize)>,
}

impl Lines {
    fn read(path: &Path) -> Result<Self, DataError> {
        use std::io::Read as _;

        let io = |error| DataError::file("read", path, error);
        let wrong = |reason: String| DataError::Manifest {
            path: path.to_owned(),
            reason,
        };
        let mut text = Vec::new();
        let file = open_regular(path).map_err(io)?;
        file.take(MOST_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(io)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(wrong(format!(
                "is larger than {MOST_BYTES} bytes, which is more than any dictionary has"
            )));
        }
        let text = String::from_utf8(text).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            wrong(format!("line {line} is not UTF-8"))
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let read = Self::of(text);
        if read.pairs.is_empty() {
            return Err(wrong(
                "no line has an English word and its translation between a tab or spaces"
                    .to_owned(),
            ));
        }
        Ok(read)
    }

    fn of(text: &str) -> Self {
        let mut read = Self {
            pairs: Vec::new(),
            left_out: 0,
            first: None,
        };
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            // A tab is between words of which one may have spaces.
            let columns: Vec<&str> = if line.contains('\t') {
                line.split('\t').map(str::trim).collect()
            } else {
                line.split_whitespace().collect()
            };
            match columns[..] {
                [english, translation] if !english.is_empty() && !translation.is_empty() => {
                    let pair = (english.to_owned(), translation.to_owned());
                    read.pairs.push(pair);
                }
                _ => {
                    read.left_out += 1;
                    read.first.get_or_insert((number, columns.len()));
                }
            }
        }
        read
    }

    fn note(&self, path: &Path) -> Option<String> {
        let (line, columns) = self.first?;
        Some(format!(
            "{}: {} lines that are not a word and its translation are left out; the first is line {line}, with {columns} columns",
            path.display(),
            self.left_out
        ))
    }
}

#[cfg(test)]
mod tests;
