//! Concepts: phrases as a second vocabulary beside the tokens (MVP, Li et al. 2022, "MVPTR").
//!
//! ```toml
//! phrases = { kind = "parser" }    # or "source", or { kind = "tuples", path = "tuples.jsonl" }
//! min_count = 50                   # captions that a phrase has to occur in
//! limit = 100000                   # phrases at most
//! max_phrases = 5                  # places of a text kept free for phrases, which also take those that words leave
//! max_tags = 20                    # of a picture
//! vocabulary = "concepts.json"     # a built vocabulary; absent: it is counted when training starts
//! ```
//!
//! A caption has phrases (`dog`, `brown dog`, `dog chasing ball`), a picture has tags (`dog`). [`Concepts`] are those of them
//! that occur often enough, [`ConceptIds`] gives each a row of the embedding: a phrase that is one token of the tokenizer
//! shares that token's row, the others follow after the tokens. In MVP 18,570 of 73,599 phrases share their rows.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, SampleError, readable};
use crate::settings::{not_empty, range};
use crate::sources::source::{Sample, Source};
use crate::sources::splits::Split;
use crate::store::atomic::write_whole;
use crate::store::open_regular;
use crate::text::spaced;
use crate::text::tokens::TextTokenizer;

pub mod parser;
pub mod tuples;
mod words;

use parser::{LONGEST_PHRASE, MOST_PHRASES};
use tuples::{Tuples, read_tuples};

/// Which phrases there are and how many a model sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConceptsConfig {
    /// Where the phrases of captions come from.
    pub phrases: PhraseSource,
    /// Texts that a phrase has to occur in.
    pub min_count: usize,
    /// Phrases in the vocabulary at most, the most frequent ones.
    pub limit: usize,
    /// Places of a text that are kept free for phrases; they also take those that its words leave.
    pub max_phrases: usize,
    /// Tags of a picture at most.
    pub max_tags: usize,
    /// A vocabulary that [`Concepts::save`] wrote; absent: it is counted when training starts.
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
    /// The source knows them: generated scenes, packed samples.
    Source,
    /// The captions are [parsed](parser).
    #[default]
    Parser,
    /// A file that another parser made; see [`tuples`].
    Tuples(PathBuf),
}

/// [`PhraseSource`] as it is written. serde lets keys that are not known pass beside a `kind` that has none of its own.
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

/// Concepts in a vocabulary at most: each may need a row of the embedding.
pub const MOST_CONCEPTS: usize = 1 << 20;

impl ConceptsConfig {
    /// Checks every value; `table` is what the table is called in errors.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        /// Phrases or tags of one sample; more than a sequence holds.
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

/// An opened [`PhraseSource`]. Shared between threads.
#[derive(Debug)]
pub enum Phrases {
    /// What the source knows.
    Source,
    /// What the [parser] finds.
    Parser,
    /// What a file says.
    Tuples(Tuples),
}

impl PhraseSource {
    /// Reads the file, where there is one.
    ///
    /// # Errors
    ///
    /// See [`read_tuples`].
    pub fn open(&self) -> Result<Phrases, DataError> {
        Ok(match self {
            Self::Source => Phrases::Source,
            Self::Parser => Phrases::Parser,
            Self::Tuples(path) => Phrases::Tuples(read_tuples(path)?),
        })
    }
}

impl Phrases {
    /// Per caption of a sample, its phrases; the picture is not read.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn of(
        &self,
        source: &dyn Source,
        split: Split,
        index: usize,
    ) -> Result<Vec<Vec<String>>, SampleError> {
        if let Self::Source = self {
            return source.phrases(split, index);
        }
        let captions = source.captions(split, index)?;
        Ok(captions.iter().map(|text| self.of_text(text)).collect())
    }

    /// The phrases of one caption of a sample that has been read.
    pub fn of_sample(&self, sample: &Sample, caption: usize) -> Vec<String> {
        match self {
            Self::Source => sample.phrases.get(caption).cloned().unwrap_or_default(),
            Self::Parser | Self::Tuples(_) => sample
                .captions
                .get(caption)
                .map(|text| self.of_text(text))
                .unwrap_or_default(),
        }
    }

    /// The phrases of a text that is of no sample; none where only the source knows them.
    pub fn of_text(&self, caption: &str) -> Vec<String> {
        match self {
            Self::Source => Vec::new(),
            Self::Parser => parser::phrases(caption),
            Self::Tuples(tuples) => tuples.of(caption),
        }
    }
}

/// The phrases that are frequent in a data set, the most frequent first, then by alphabet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concepts {
    min_count: u64,
    captions: u64,
    missed: u64,
    phrases: Vec<(String, u64)>,
}

/// A vocabulary as it is saved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    min_count: u64,
    captions: u64,
    #[serde(default)]
    missed: u64,
    phrases: Vec<(String, u64)>,
}

impl Concepts {
    /// The version of the file that [`save`](Self::save) writes.
    pub const VERSION: u32 = 1;
    /// Largest file that [`load`](Self::load) reads, in bytes; room for all phrases at their longest.
    pub const LARGEST_FILE: u64 = 256 << 20;

    /// The vocabulary that a recipe names: loaded, or counted over the training split.
    ///
    /// # Errors
    ///
    /// See [`load`](Self::load) and [`build`](Self::build).
    pub fn open(
        config: &ConceptsConfig,
        source: &dyn Source,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        match &config.vocabulary {
            Some(path) => Self::load(path),
            None => Self::build(
                source,
                Split::Train,
                &config.phrases,
                config.min_count,
                config.limit,
                progress,
            ),
        }
    }

    /// Counts in how many texts of a split each phrase occurs. The texts are all captions and, of each picture, its tags as one
    /// more. Samples that cannot be read are passed over. `progress` is told the number of samples that are done, of how many.
    ///
    /// The order of the samples does not matter as long as there are no more than 2,097,152 distinct phrases. With more, the
    /// rarest of those seen so far are dropped whenever that many are held (lossy counting, Manku and Motwani 2002): memory stays
    /// bounded, no count is ever too high, and each is at most [`missed`](Self::missed) too low.
    ///
    /// # Errors
    ///
    /// The split is empty, a file of tuples cannot be used, there are no phrases, or none occurs often enough.
    pub fn build(
        source: &dyn Source,
        split: Split,
        phrases_of: &PhraseSource,
        min_count: usize,
        limit: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        let samples = source.len(split);
        if samples == 0 {
            return Err(DataError::Empty {
                split: split.name(),
                source_name: source.describe(),
                hint: String::new(),
            });
        }
        let phrases = phrases_of.open()?;
        let mut counter = Counter::new(MOST_COUNTED);
        for index in 0..samples {
            for caption in readable(phrases.of(source, split, index))? {
                counter.captions += 1;
                counter.add(&caption);
            }
            counter.add(&readable(source.tags(split, index))?);
            progress(index + 1, samples);
        }
        counter.finish(min_count as u64, limit)
    }

    /// Reads a vocabulary.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is larger than [`LARGEST_FILE`](Self::LARGEST_FILE) or is not what [`save`](Self::save) writes: of
    /// another version, with keys that are not known, without phrases or with more than [`MOST_CONCEPTS`], or with a phrase that
    /// comes twice, is not in lower case with single spaces, or has a count below `min_count`.
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
        // serde takes an array of its values for a struct, too.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(wrong(
                "no file of concepts: an array, not an object".to_owned(),
            ));
        }
        let saved: Saved = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("no file of concepts: {error}")))?;
        let found = |what: String, allowed: &str| Err(wrong(format!("{what}, allowed: {allowed}")));
        if saved.version != Self::VERSION {
            let what = format!("`version` is {}", saved.version);
            return found(what, &Self::VERSION.to_string());
        }
        if saved.min_count == 0 {
            return found("`min_count` is 0".to_owned(), "1 or more");
        }
        if saved.phrases.is_empty() || saved.phrases.len() > MOST_CONCEPTS {
            let what = format!("{} `phrases`", saved.phrases.len());
            return found(what, &format!("1 to {MOST_CONCEPTS}"));
        }
        let mut seen = HashSet::new();
        for (at, (phrase, count)) in saved.phrases.iter().enumerate() {
            if normal(phrase).as_ref() != Some(phrase) {
                let what = format!("`phrases[{at}]` is {:?}", shown(phrase));
                let allowed = format!("lower case, single spaces, 1 to {LONGEST_PHRASE} bytes");
                return found(what, &allowed);
            }
            if *count < saved.min_count {
                let what = format!("`phrases[{at}]`, {phrase:?}, has the count {count}");
                return found(what, &format!("`min_count`, {}, or more", saved.min_count));
            }
            if !seen.insert(phrase) {
                let what = format!("`phrases[{at}]`, {phrase:?}, comes a second time");
                return found(what, "each phrase once");
            }
        }
        Ok(Self {
            min_count: saved.min_count,
            captions: saved.captions,
            missed: saved.missed,
            phrases: saved.phrases,
        })
    }

    /// Writes the vocabulary as JSON, a phrase a line:
    /// `{"version":1,"min_count":50,"captions":1000,"phrases":[["red circle",123]]}`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        // The writer makes folders; one that is not there is more likely a slip in the path.
        let folder = path.parent().unwrap_or(Path::new(""));
        if folder != Path::new("") && !folder.is_dir() {
            let absent = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(DataError::file("write", path, absent));
        }
        let mut text = format!(
            "{{\"version\":{},\"min_count\":{},\"captions\":{},",
            Self::VERSION,
            self.min_count,
            self.captions
        );
        if self.missed > 0 {
            text += &format!("\"missed\":{},", self.missed);
        }
        text += "\"phrases\":[";
        for (at, (phrase, count)) in self.phrases.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let phrase = serde_json::Value::from(phrase.as_str());
            text += &format!("{comma}\n[{phrase},{count}]");
        }
        text += "\n]}\n";
        write_whole(path, text.as_bytes())
    }

    /// The phrases and the number of texts that each occurs in.
    pub fn phrases(&self) -> &[(String, u64)] {
        &self.phrases
    }

    /// Captions that were counted.
    pub fn captions(&self) -> u64 {
        self.captions
    }

    /// By how much counts may be too low; 0: they are exact.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// One sentence: how many there are and where they come from.
    pub fn describe(&self) -> String {
        let (first, last) = (self.phrases.first(), self.phrases.last());
        let shown = |phrase: Option<&(String, u64)>| {
            phrase.map_or_else(String::new, |(phrase, count)| {
                format!("{phrase:?} ({count})")
            })
        };
        format!(
            "{} concepts that occur in {} or more texts, from {} captions: {} .. {}",
            self.phrases.len(),
            self.min_count,
            self.captions,
            shown(first),
            shown(last)
        )
    }

    /// Gives every phrase its row of the embedding.
    pub fn resolve(&self, tokenizer: &TextTokenizer) -> ConceptIds {
        let tokens = tokenizer.vocab_size();
        let mut resolved = ConceptIds {
            ids: HashMap::with_capacity(self.phrases.len()),
            shared: HashMap::new(),
            own: Vec::new(),
            tokens,
        };
        for (phrase, _) in &self.phrases {
            let id = single_token(tokenizer, phrase).unwrap_or_else(|| {
                resolved.own.push(phrase.clone());
                (tokens + resolved.own.len() - 1) as i32
            });
            if (id as usize) < tokens {
                resolved.shared.entry(id).or_insert_with(|| phrase.clone());
            }
            resolved.ids.insert(phrase.clone(), id);
        }
        resolved
    }
}

/// The token that a phrase is inside a sentence, where it is one.
fn single_token(tokenizer: &TextTokenizer, phrase: &str) -> Option<i32> {
    /// What stands before it: byte-level vocabularies have other tokens for words after a space.
    const BEFORE: &str = "a";
    /// Enough to tell one token from more; begin and end tokens included.
    const LONGEST: usize = 32;
    let inner = |text: &str| {
        let ids = tokenizer.encode(text, LONGEST).ids;
        ids[1..ids.len() - 1].to_vec()
    };
    let before = inner(BEFORE);
    match inner(&format!("{BEFORE} {phrase}")).strip_prefix(before.as_slice())? {
        // What the vocabulary lacks has no meaning of its own to share.
        [id] if !tokenizer.is_special(*id) => Some(*id),
        _ => None,
    }
}

/// Rows of the embedding by phrase: those of tokens first, then those of phrases that are no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConceptIds {
    ids: HashMap<String, i32>,
    /// By a token's id the phrase that it is.
    shared: HashMap<i32, String>,
    /// The phrases that are no token, in the order of their ids.
    own: Vec<String>,
    tokens: usize,
}

impl ConceptIds {
    /// The ids of phrases or tags, in their order; what is no concept is left out. Case and runs of spaces do not matter.
    pub fn ids(&self, phrases: &[String]) -> Vec<i32> {
        phrases
            .iter()
            .filter_map(|phrase| self.ids.get(&normal(phrase)?).copied())
            .collect()
    }

    /// Rows that the embedding needs: the tokenizer's, and one for each phrase that is no token.
    pub fn rows(&self) -> usize {
        self.tokens + self.own.len()
    }

    /// The phrase of an id; none for a token that is no concept. Where a tokenizer writes several phrases as one token (`cafe` and
    /// `café` in BERT's), the most frequent of them.
    pub fn name(&self, id: i32) -> Option<&str> {
        let id = usize::try_from(id).ok()?;
        let name = match id.checked_sub(self.tokens) {
            Some(own) => self.own.get(own),
            None => self.shared.get(&(id as i32)),
        };
        name.map(String::as_str)
    }
}

/// A phrase as it is counted and looked up: lower case, single spaces. None where nothing remains or too much.
fn normal(phrase: &str) -> Option<String> {
    // A longer one need not be copied to be left out; lower case may be shorter than upper case, but not by as much.
    if phrase.len() > 16 * LONGEST_PHRASE {
        return None;
    }
    spaced(&phrase.to_lowercase()).filter(|phrase| phrase.len() <= LONGEST_PHRASE)
}

/// The start of a text from a file.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_PHRASE)]
}

/// Distinct phrases that are counted at once; with their texts they take some 250 MB, 400 at most.
const MOST_COUNTED: usize = 1 << 21;

/// Counts phrases in bounded memory. See [`Concepts::build`].
struct Counter {
    counts: HashMap<String, Count>,
    /// Entries at most.
    most: usize,
    /// The largest number of texts that a phrase without an entry can have occurred in.
    floor: u64,
    captions: u64,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    seen: u64,
    /// Texts that it may have occurred in before it had an entry.
    missed: u64,
}

impl Counter {
    fn new(most: usize) -> Self {
        Self {
            counts: HashMap::new(),
            most,
            floor: 0,
            captions: 0,
        }
    }

    /// Counts the phrases of one text, each once.
    fn add(&mut self, phrases: &[String]) {
        let mut once = HashSet::new();
        for phrase in phrases.iter().take(MOST_PHRASES).filter_map(|p| normal(p)) {
            if once.contains(&phrase) {
                continue;
            }
            match self.counts.get_mut(&phrase) {
                Some(count) => count.seen += 1,
                None => {
                    if self.counts.len() >= self.most {
                        self.prune();
                    }
                    let count = Count {
                        seen: 1,
                        missed: self.floor,
                    };
                    self.counts.insert(phrase.clone(), count);
                }
            }
            once.insert(phrase);
        }
    }

    /// Drops half of the entries or more, the rarest.
    fn prune(&mut self) {
        let mut most: Vec<u64> = self.counts.values().map(|c| c.seen + c.missed).collect();
        let middle = most.len() / 2;
        let (_, median, _) = most.select_nth_unstable(middle);
        self.floor = *median;
        let floor = self.floor;
        self.counts
            .retain(|_, count| count.seen + count.missed > floor);
    }

    fn finish(self, min_count: u64, limit: usize) -> Result<Concepts, DataError> {
        let Some(most) = self.counts.values().map(|count| count.seen).max() else {
            return Err(DataError::config(
                "phrases",
                format!("of a kind that gives none for {} captions", self.captions),
                "\"source\" where the source knows phrases, \"parser\", \"tuples\" with these captions",
            ));
        };
        let mut phrases: Vec<(String, u64)> = self
            .counts
            .into_iter()
            .map(|(phrase, count)| (phrase, count.seen))
            .filter(|(_, count)| *count >= min_count)
            .collect();
        if phrases.is_empty() {
            let allowed = format!("at most {most}, as no phrase occurs in more texts");
            return Err(DataError::config("min_count", min_count, allowed));
        }
        phrases.sort_unstable_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        phrases.truncate(limit);
        phrases.shrink_to_fit();
        Ok(Concepts {
            min_count,
            captions: self.captions,
            missed: self.floor,
            phrases,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::sources::scenes::{Scenes, ScenesConfig};
    use crate::text::tokens::TokenizerConfig;
    use image::RgbImage;

    fn scenes() -> Scenes {
        Scenes::new(ScenesConfig {
            seed: 3,
            train: 400,
            val: 20,
            test: 0,
            size: 32,
        })
    }

    fn quietly(_: usize, _: usize) {}

    fn build(source: &dyn Source, of: &PhraseSource, min_count: usize, limit: usize) -> Concepts {
        Concepts::build(source, Split::Train, of, min_count, limit, &mut quietly).unwrap()
    }

    /// A source by what it says of each sample: captions, phrases, tags. One without captions is broken.
    struct Listed(Vec<Said>);

    type Said = (Vec<String>, Vec<Vec<String>>, Vec<String>);

    impl Listed {
        fn bad(&self, split: Split, index: usize) -> SampleError {
            SampleError::new(self.place(split, index), "broken".to_owned())
        }
    }

    impl Source for Listed {
        fn len(&self, split: Split) -> usize {
            match split {
                Split::Train => self.0.len(),
                Split::Val | Split::Test => 0,
            }
        }

        fn describe(&self) -> String {
            "a list".to_owned()
        }

        fn place(&self, _split: Split, index: usize) -> Place {
            Place {
                file: "list".to_owned(),
                line: index as u64,
            }
        }

        fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
            match self.0[index].0.clone() {
                captions if captions.is_empty() => Err(self.bad(split, index)),
                captions => Ok(captions),
            }
        }

        fn phrases(&self, _split: Split, index: usize) -> Result<Vec<Vec<String>>, SampleError> {
            Ok(self.0[index].1.clone())
        }

        fn tags(&self, _split: Split, index: usize) -> Result<Vec<String>, SampleError> {
            Ok(self.0[index].2.clone())
        }

        fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
            Err(self.bad(split, index))
        }
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn counted(concepts: &Concepts) -> Vec<(&str, u64)> {
        let all = concepts.phrases().iter();
        all.map(|(phrase, count)| (phrase.as_str(), *count))
            .collect()
    }

    #[test]
    fn texts_are_counted_not_mentions() {
        let source = Listed(vec![
            (
                texts(&["a dog and a dog", "A DOG on a mat"]),
                vec![texts(&["Dog", "dog", "big  dog"]), texts(&["dog"])],
                texts(&["dog", "dog", "dining table"]),
            ),
            (vec![], vec![], texts(&["cat"])),
            (
                texts(&["a mat"]),
                vec![texts(&["cat", "", " ", &"x".repeat(500)])],
                vec![],
            ),
        ]);
        let known = build(&source, &PhraseSource::Source, 1, 100);
        assert_eq!(
            counted(&known),
            [("dog", 3), ("cat", 2), ("big dog", 1), ("dining table", 1)]
        );
        assert_eq!((known.captions(), known.missed()), (3, 0));
        // The broken sample costs its captions only.
        let parsed = build(&source, &PhraseSource::Parser, 2, 100);
        assert_eq!(counted(&parsed), [("dog", 3), ("mat", 2)]);
        let short = build(&source, &PhraseSource::Source, 1, 3);
        assert_eq!(counted(&short), [("dog", 3), ("cat", 2), ("big dog", 1)]);
    }

    #[test]
    fn the_order_of_samples_does_not_matter() {
        let scenes = scenes();
        let samples = |order: &dyn Fn(usize) -> usize| {
            let all = (0..400).map(order).map(|index| {
                let sample = scenes.sample(Split::Train, index).unwrap();
                (sample.captions, sample.phrases, sample.tags)
            });
            Listed(all.collect())
        };
        for of in [PhraseSource::Source, PhraseSource::Parser] {
            let built = build(&scenes, &of, 3, 500);
            assert!(built.phrases().len() > 50, "{}", built.describe());
            assert_eq!(build(&samples(&|index| 399 - index), &of, 3, 500), built);
            assert_eq!(
                build(&samples(&|index| (index * 7) % 400), &of, 3, 500),
                built
            );
        }
    }

    #[test]
    fn counts_in_bounded_memory_are_never_too_high() {
        let mut exact = Counter::new(usize::MAX);
        let mut pruned = Counter::new(64);
        for text in 0..20_000u64 {
            // Word n comes in every n-th text, beside words that never come again.
            let mut words: Vec<String> = (1..30)
                .filter(|n| text.is_multiple_of(*n))
                .map(|n| format!("word{n}"))
                .collect();
            words.push(format!("rare{text}"));
            exact.add(&words);
            pruned.add(&words);
            assert!(pruned.counts.len() <= 64);
        }
        let exact: HashMap<_, _> = exact
            .finish(500, 100)
            .unwrap()
            .phrases
            .into_iter()
            .collect();
        let pruned = pruned.finish(500, 100).unwrap();
        // With half of the entries dropped at a time, each drop costs a count of few texts in 32 new words.
        assert!(
            pruned.missed() > 0 && pruned.missed() < 1500,
            "{}",
            pruned.missed()
        );
        assert!(pruned.phrases().len() >= 10);
        for (phrase, count) in pruned.phrases() {
            let real = exact[phrase];
            assert!(
                (real - pruned.missed()..=real).contains(count),
                "{phrase}: {count} of {real}"
            );
        }
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        let source = Listed(vec![(texts(&["a dog"]), vec![], vec![])]);
        let error = |source: &dyn Source, split, of: &PhraseSource, min_count| {
            let built = Concepts::build(source, split, of, min_count, 10, &mut quietly);
            built.unwrap_err().to_string()
        };
        let message = error(&source, Split::Train, &PhraseSource::Parser, 2);
        assert!(
            message.contains("`min_count` is 2, allowed: at most 1"),
            "{message}"
        );
        let message = error(&source, Split::Train, &PhraseSource::Source, 1);
        assert!(
            message.contains("`phrases`") && message.contains("parser"),
            "{message}"
        );
        let message = error(&source, Split::Val, &PhraseSource::Parser, 1);
        assert!(message.contains("val split of a list"), "{message}");
        let absent = PhraseSource::Tuples("absent.jsonl".into());
        assert!(error(&source, Split::Train, &absent, 1).contains("absent.jsonl"));
    }

    #[test]
    fn progress_is_told_per_sample() {
        let mut told = Vec::new();
        Concepts::build(
            &scenes(),
            Split::Val,
            &PhraseSource::Parser,
            1,
            10,
            &mut |done, of| told.push((done, of)),
        )
        .unwrap();
        assert_eq!(told, (1..=20).map(|done| (done, 20)).collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_of_phrases_serves_counting_and_loading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuples.jsonl");
        let source = Listed(vec![(
            texts(&["a big dog", "a cat"]),
            vec![texts(&["beast"]), texts(&["pet"])],
            vec![],
        )]);
        let line = r#"{"caption": "a cat", "tuples": [["cat"], ["cat", "small"]]}"#;
        std::fs::write(&path, line).unwrap();
        for (of, expected) in [
            (PhraseSource::Source, vec![vec!["beast"], vec!["pet"]]),
            (
                PhraseSource::Parser,
                vec![vec!["dog", "big dog"], vec!["cat"]],
            ),
            (
                PhraseSource::Tuples(path),
                vec![vec![], vec!["cat", "small cat"]],
            ),
        ] {
            let phrases = of.open().unwrap();
            assert_eq!(phrases.of(&source, Split::Train, 0).unwrap(), expected);
            let sample = Sample {
                captions: source.0[0].0.clone(),
                phrases: source.0[0].1.clone(),
                ..Sample::default()
            };
            for (caption, expected) in expected.iter().enumerate() {
                assert_eq!(phrases.of_sample(&sample, caption), *expected);
            }
            assert!(phrases.of_sample(&sample, 2).is_empty());
        }
    }

    #[test]
    fn a_saved_vocabulary_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("concepts.json");
        let odd = Concepts {
            min_count: 1,
            captions: 9,
            missed: 4,
            phrases: vec![("\"é\\ 日本".to_owned(), 3), ("a".to_owned(), 1)],
        };
        for concepts in [build(&scenes(), &PhraseSource::Source, 2, 1000), odd] {
            concepts.save(&path).unwrap();
            assert_eq!(Concepts::load(&path).unwrap(), concepts);
            let config = ConceptsConfig {
                vocabulary: Some(path.clone()),
                ..ConceptsConfig::default()
            };
            let opened = Concepts::open(&config, &scenes(), &mut |_, _| panic!("counted")).unwrap();
            assert_eq!(opened, concepts);
        }
        let text = r#"{"version":1,"min_count":50,"captions":1000,"phrases":[["red circle",123]]}"#;
        std::fs::write(&path, text).unwrap();
        let read = Concepts::load(&path).unwrap();
        assert_eq!(counted(&read), [("red circle", 123)]);
        assert!(Concepts::load(&folder.path().join("absent")).is_err());
        assert!(
            read.save(&folder.path().join("absent/concepts.json"))
                .is_err()
        );
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("concepts.json");
        let with = |phrases: &str| {
            format!("{{\"version\":1,\"min_count\":2,\"captions\":9,\"phrases\":{phrases}}}")
        };
        let long = format!("[[\"{}\",5]]", "x".repeat(101));
        let many = format!("[{}[\"a\",2]]", "[\"a\",2],".repeat(MOST_CONCEPTS));
        let deep = with(&"[".repeat(100_000));
        for (text, part) in [
            (String::new(), "EOF"),
            ("[1,2,9,0,[[\"a\",2]]]".to_owned(), "an array"),
            ("{\"version\":1}".to_owned(), "missing field"),
            (with("[[\"a\",2]]")[..40].to_owned(), "EOF"),
            (
                with("[[\"a\",2]]").replace(":1,", ":2,"),
                "`version` is 2, allowed: 1",
            ),
            (with("[[\"a\",2]]").replace("captions", "texts"), "texts"),
            (
                with("[[\"a\",2]]").replace(":2,\"c", ":0,\"c"),
                "`min_count` is 0",
            ),
            (with("[]"), "0 `phrases`, allowed: 1 to 1048576"),
            (
                with("[[\"a\",2],[\"a\",2]]"),
                "`phrases[1]`, \"a\", comes a second time",
            ),
            (
                with("[[\"a\",1]]"),
                "has the count 1, allowed: `min_count`, 2",
            ),
            (
                with("[[\"\",2]]"),
                "`phrases[0]` is \"\", allowed: lower case",
            ),
            (with("[[\"Red\",2]]"), "is \"Red\""),
            (with("[[\"a  b\",2]]"), "is \"a  b\""),
            (with("[[\" a\",2]]"), "single spaces"),
            (with(&long), "1 to 100 bytes"),
            (with("[[\"a\",-2]]"), "invalid value"),
            (with("[[\"a\",2.5]]"), "invalid type"),
            (with("[[\"a\",99999999999999999999]]"), "invalid"),
            (with("[[\"a\"]]"), "invalid length"),
            (with("[[\"a\",2,3]]"), "trailing"),
            (with("[[3,2]]"), "invalid type"),
            (with("{\"a\":2}"), "invalid type"),
            (with("[[\"a\",2]]") + "x", "trailing"),
            (with(&many), "1048577 `phrases`"),
            (deep, "concepts"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let message = Concepts::load(&path).unwrap_err().to_string();
            let start = &text[..text.len().min(120)];
            assert!(
                message.contains("concepts.json: ") && message.contains(part),
                "{start}: {message}"
            );
        }
        std::fs::write(&path, b"{\"version\":1,\"min_count\":\xff").unwrap();
        assert!(Concepts::load(&path).is_err());
        // A sparse file: it takes no room on the disk.
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(Concepts::LARGEST_FILE + 1).unwrap();
        let message = Concepts::load(&path).unwrap_err().to_string();
        assert!(message.contains("more than 268435456 bytes"), "{message}");
        assert!(Concepts::load(folder.path()).is_err());
    }

    fn concepts(phrases: &[&str]) -> Concepts {
        Concepts {
            min_count: 1,
            captions: 1,
            missed: 0,
            phrases: phrases
                .iter()
                .map(|phrase| ((*phrase).to_owned(), 1))
                .collect(),
        }
    }

    #[test]
    fn a_phrase_of_one_token_shares_its_row() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\ncircle\n##s\ncafe\n";
        std::fs::write(folder.path().join("vocab.txt"), vocabulary).unwrap();
        let tokenizer = TextTokenizer::load(folder.path(), true).unwrap();
        let list = [
            "circle",
            "red circle",
            "circles",
            "zebra",
            "a",
            "café",
            "cafe",
            "[mask]",
        ];
        let ids = concepts(&list).resolve(&tokenizer);
        let of = |phrase: &str| ids.ids(&texts(&[phrase]));
        let expected = [7, 10, 11, 12, 5, 9, 9, 13];
        for (phrase, id) in list.iter().zip(expected) {
            assert_eq!(of(phrase), [id], "{phrase}");
        }
        assert_eq!(ids.rows(), 14);
        assert_eq!(
            ids.ids(&texts(&["Red  Circle", "blue circle", "", "circle"])),
            [10, 7]
        );
        let names = [
            (7, "circle"),
            (10, "red circle"),
            (9, "café"),
            (13, "[mask]"),
        ];
        for (id, name) in names {
            assert_eq!(ids.name(id), Some(name));
        }
        for id in [-1, 0, 6, 14, i32::MAX, i32::MIN] {
            assert_eq!(ids.name(id), None, "{id}");
        }
    }

    #[test]
    fn byte_level_tokens_are_those_inside_a_sentence() {
        let tokenizer = TokenizerConfig::Train { vocab_size: 600 };
        let tokenizer = TextTokenizer::open(&tokenizer, &scenes()).unwrap();
        let ids = concepts(&["circle", "red circle", "xylophone"]).resolve(&tokenizer);
        let circle = ids.ids(&texts(&["circle"]))[0];
        assert!(
            tokenizer
                .encode("one circle here", 20)
                .ids
                .contains(&circle)
        );
        assert_eq!(tokenizer.token(circle).unwrap(), "Ġcircle");
        assert_eq!(ids.rows(), tokenizer.vocab_size() + 2);

        // A published vocabulary puts no space before a text, so that a word at its start is another token.
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let tokens = [
            "<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "Ġ", "Ġb", "ab",
        ];
        let vocabulary: HashMap<_, _> = tokens.iter().zip(0..).collect();
        file("vocab.json", &serde_json::to_string(&vocabulary).unwrap());
        file("merges.txt", "#version: 0.2\nĠ b\na b\n");
        let tokenizer = TextTokenizer::load(folder.path(), false).unwrap();
        assert_eq!(tokenizer.encode("b", 9).ids, [0, 6, 2]);
        let ids = concepts(&["b", "ab"]).resolve(&tokenizer);
        assert_eq!(ids.ids(&texts(&["b", "ab"])), [8, 10]);
    }

    #[test]
    fn settings_are_read_written_and_checked() {
        let read = |text: &str| toml::from_str::<ConceptsConfig>(text);
        let mut documented = String::new();
        for line in include_str!("concepts.rs").lines() {
            match line.strip_prefix("//! ") {
                Some(line) if line.contains(" = ") => documented += &format!("{line}\n"),
                _ => {}
            }
        }
        let config = read(&documented).unwrap();
        let vocabulary = Some("concepts.json".into());
        assert_eq!(
            config,
            ConceptsConfig {
                vocabulary,
                ..ConceptsConfig::default()
            }
        );
        for text in [
            "",
            "phrases = { kind = \"source\" }\nmax_tags = 0",
            "phrases = { kind = \"tuples\", path = \"t.jsonl\" }\nvocabulary = \"v.json\"",
        ] {
            let config = read(text).unwrap();
            config.validate("concepts").unwrap();
            assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
        let mut both =
            read("phrases = { kind = \"tuples\", path = \"t\" }\nvocabulary = \"v\"").unwrap();
        assert_eq!(both.paths(), ["t", "v"]);
        assert!(ConceptsConfig::default().paths().is_empty());
        for (text, part) in [
            ("min_cuont = 3", "min_cuont"),
            ("phrases = { kind = \"spice\" }", "spice"),
            (
                "phrases = { kind = \"parser\", path = \"x\" }",
                "`path` belongs to",
            ),
            ("phrases = { kind = \"tuples\" }", "needs a `path`"),
            ("phrases = { kind = \"source\", file = \"x\" }", "file"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        for (text, key) in [
            ("min_count = 0", "min_count"),
            ("limit = 0", "limit"),
            ("limit = 2000000", "limit"),
            ("max_phrases = 1000", "max_phrases"),
            ("max_tags = 1000", "max_tags"),
            (
                "phrases = { kind = \"tuples\", path = \"\" }",
                "phrases.path",
            ),
            ("vocabulary = \"\"", "vocabulary"),
        ] {
            let message = read(text)
                .unwrap()
                .validate("x.concepts")
                .unwrap_err()
                .to_string();
            assert!(
                message.contains(&format!("`x.concepts.{key}`")) && message.contains("allowed"),
                "{text}: {message}"
            );
        }
    }
}
