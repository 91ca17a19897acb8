//! Concepts: phrases as a second vocabulary beside the tokens (MVP, Li et al. 2022, "MVPTR").
//!
//! ```toml
//! phrases = { kind = "parser" }    # or "source", or { kind = "tuples", path = "tuples.jsonl" }
//! min_count = 50                   # smallest number of captions with a phrase
//! limit = 100000                   # largest number of phrases
//! max_phrases = 5                  # positions of a text reserved for phrases, which also take those that words leave free
//! max_tags = 20                    # per image
//! vocabulary = "concepts.json"     # a built vocabulary; default: counted when training starts
//! ```
//!
//! A caption has phrases (`dog`, `brown dog`, `dog chasing ball`), an image has tags (`dog`). [`Concepts`] are those that occur
//! often enough. [`ConceptIds`] gives each a row of the embedding: a phrase that is one token of the tokenizer shares that token's
//! row; the others follow after the tokens. In MVP 18,570 of 73,599 phrases share their rows.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unimo_phrases::{ConceptIds, MOST_CONCEPTS, Tuples, Vocabulary, phrases};

use crate::error::DataError;
use crate::settings::{not_empty, range};
use crate::store::atomic::write_whole;
use crate::store::open_regular;
use crate::text::tokens::TextTokenizer;
use crate::text::tuples::read_tuples;

/// Which phrases are concepts, and how many a model reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConceptsConfig {
    /// Where the phrases of captions come from.
    pub phrases: PhraseSource,
    /// Smallest number of texts in which a phrase has to occur.
    pub min_count: usize,
    /// Largest number of phrases in the vocabulary; the most frequent ones are kept.
    pub limit: usize,
    /// Positions of a text reserved for phrases. Phrases also take positions that the words leave free.
    pub max_phrases: usize,
    /// Largest number of tags per image.
    pub max_tags: usize,
    /// A vocabulary written by `unimo concepts build`; `None`: it is counted when training starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PathBuf>,
}

impl Default for ConceptsConfig {
    fn default() -> Self {
        Self {
            phrases: PhraseSource::default(),
            min_count: 50,
            limit: 100_000,
            max_phrases: 5,
            max_tags: 20,
            vocabulary: None,
        }
    }
}

/// Where the phrases of captions come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "snake_case",
    deny_unknown_fields,
    try_from = "PhraseTable",
    into = "PhraseTable"
)]
pub enum PhraseSource {
    /// The source gives them: generated scenes, packed samples.
    Source,
    /// The captions are [parsed](unimo_phrases::phrases).
    #[default]
    Parser,
    /// A file written by another parser: one JSON object per line, such as `{"caption": "a brown dog", "tuples": [["dog"], ["dog",
    /// "brown"]]}`; see [`Tuples`].
    Tuples(PathBuf),
}

/// [`PhraseSource`] as written in a recipe. serde would accept unknown keys beside a `kind` that has none of its own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhraseTable {
    kind: PhraseKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhraseKind {
    Source,
    Parser,
    Tuples,
}

impl TryFrom<PhraseTable> for PhraseSource {
    type Error = &'static str;

    fn try_from(table: PhraseTable) -> Result<Self, Self::Error> {
        match (table.kind, table.path) {
            (PhraseKind::Source, None) => Ok(Self::Source),
            (PhraseKind::Parser, None) => Ok(Self::Parser),
            (PhraseKind::Tuples, Some(path)) => Ok(Self::Tuples(path)),
            (PhraseKind::Tuples, None) => Err("`kind = \"tuples\"` needs a `path`"),
            (_, Some(_)) => Err("`path` belongs to `kind = \"tuples\"` only"),
        }
    }
}

impl From<PhraseSource> for PhraseTable {
    fn from(source: PhraseSource) -> Self {
        let (kind, path) = match source {
            PhraseSource::Source => (PhraseKind::Source, None),
            PhraseSource::Parser => (PhraseKind::Parser, None),
            PhraseSource::Tuples(path) => (PhraseKind::Tuples, Some(path)),
        };
        Self { kind, path }
    }
}

impl ConceptsConfig {
    /// Checks every value, alone and against the others. Errors call the table `table`.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        /// Largest number of phrases or tags per sample; more than a sequence holds.
        const MOST: usize = 512;
        range(&format!("{table}.min_count"), self.min_count, 1, 1 << 40)?;
        range(&format!("{table}.limit"), self.limit, 1, MOST_CONCEPTS)?;
        range(&format!("{table}.max_phrases"), self.max_phrases, 0, MOST)?;
        range(&format!("{table}.max_tags"), self.max_tags, 0, MOST)?;
        if let PhraseSource::Tuples(path) = &self.phrases {
            let key = format!("{table}.phrases.path");
            not_empty(&key, &path.to_string_lossy(), "a JSON lines file")?;
        }
        if let Some(path) = &self.vocabulary {
            let key = format!("{table}.vocabulary");
            not_empty(&key, &path.to_string_lossy(), "a file of concepts")?;
        }
        Ok(())
    }

    /// Every path in it; relative ones are relative to the recipe.
    pub fn paths(&mut self) -> Vec<&mut PathBuf> {
        let tuples = match &mut self.phrases {
            PhraseSource::Tuples(path) => Some(path),
            PhraseSource::Source | PhraseSource::Parser => None,
        };
        tuples.into_iter().chain(self.vocabulary.as_mut()).collect()
    }
}

impl PhraseSource {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, has no line, or has a line that is not a caption with its tuples.
    pub fn open(&self) -> Result<Phrases, DataError> {
        Ok(match self {
            Self::Source => Phrases::Source,
            Self::Parser => Phrases::Parser,
            Self::Tuples(path) => Phrases::Tuples(read_tuples(path)?),
        })
    }
}

/// An opened [`PhraseSource`]. Shared between threads.
#[derive(Debug)]
pub enum Phrases {
    /// Phrases that the source gives.
    Source,
    /// Phrases that the [parser](unimo_phrases::phrases) finds.
    Parser,
    /// Phrases in a file.
    Tuples(Tuples),
}

impl Phrases {
    /// The phrases of a text outside any sample; empty if only the source knows phrases.
    pub fn of_text(&self, caption: &str) -> Vec<String> {
        match self {
            Self::Source => Vec::new(),
            Self::Parser => phrases(caption),
            Self::Tuples(tuples) => tuples.of(caption),
        }
    }
}

/// The frequent phrases of a data set: a [`Vocabulary`] from a file or counted over a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concepts(pub(crate) Vocabulary);

impl Concepts {
    /// Largest file that [`load`](Self::load) reads, in bytes: enough for all phrases at their longest.
    pub const LARGEST_FILE: u64 = 256 << 20;

    /// Reads a vocabulary.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is larger than [`LARGEST_FILE`](Self::LARGEST_FILE) or was not written by [`save`](Self::save), see
    /// [`Vocabulary::parse`].
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let io = |error| DataError::file("read", path, error);
        let wrong = |reason: String| DataError::Manifest {
            path: path.to_owned(),
            reason,
        };
        let mut bytes = Vec::new();
        let file = open_regular(path).map_err(io)?;
        file.take(Self::LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        if bytes.len() as u64 > Self::LARGEST_FILE {
            let reason = format!("more than {} bytes, allowed: no more", Self::LARGEST_FILE);
            return Err(wrong(reason));
        }
        Vocabulary::parse(&bytes).map(Self).map_err(wrong)
    }

    /// A vocabulary from the text of its file, see [`Vocabulary::parse`]; `from` names the file in messages.
    ///
    /// # Errors
    ///
    /// It was not written by [`save`](Self::save).
    pub fn parse(bytes: &[u8], from: &Path) -> Result<Self, DataError> {
        Vocabulary::parse(bytes)
            .map(Self)
            .map_err(|reason| DataError::Manifest {
                path: from.to_owned(),
                reason,
            })
    }

    /// Writes the vocabulary, see [`Vocabulary::to_json`].
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        // The writer creates folders, but a missing one is more likely a mistake in the path.
        let folder = path.parent().unwrap_or(Path::new(""));
        if folder != Path::new("") && !folder.is_dir() {
            let absent = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DataError::file("write", path, absent));
        }
        write_whole(path, self.0.to_json().as_bytes())
    }

    /// The phrases, each with the number of texts in which it occurs.
    pub fn phrases(&self) -> &[(String, u64)] {
        self.0.phrases()
    }

    /// One sentence: the number of phrases and their origin.
    pub fn describe(&self) -> String {
        self.0.describe()
    }

    /// Assigns every phrase its row of the embedding.
    pub(crate) fn resolve(&self, tokenizer: &TextTokenizer) -> ConceptIds {
        self.0.resolve(tokenizer.vocab_size(), |phrase| {
            single_token(tokenizer, phrase)
        })
    }
}

/// The token for a phrase inside a sentence, if it is a single token.
fn single_token(tokenizer: &TextTokenizer, phrase: &str) -> Option<i32> {
    /// A word before the phrase: byte-level vocabularies have other tokens for words after a space.
    const BEFORE: &str = "a";
    /// Enough to tell one token from several, including begin and end tokens.
    const LONGEST: usize = 32;
    let inner = |text: &str| {
        let ids = tokenizer.encode(text, LONGEST).ids;
        ids[1..ids.len() - 1].to_vec()
    };
    let before = inner(BEFORE);
    match inner(&format!("{BEFORE} {phrase}")).strip_prefix(before.as_slice())? {
        // A special token has no meaning of its own to share.
        [id] if !tokenizer.is_special(*id) => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
