//! Concepts in batches: phrases after the tokens of a caption, and tags as a text of their own. Both may be hidden for objectives
//! that predict them.
//!
//! Source: MVP (Li et al. 2022), section 3.1: `[CLS] tokens phrases [SEP]` and `[CLS] tags [SEP]`. Phrases take the positions that
//! the tokens leave free; `max_phrases` positions are reserved for them.

use std::collections::HashSet;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{MaskedTexts, Texts};
use unimo_phrases::ConceptIds;

use crate::error::{DataError, SampleError};
use crate::sources::source::{Sample, Source};
use crate::sources::splits::Split;
use crate::text::concepts::{Concepts, ConceptsConfig, PhraseSource, Phrases};
use crate::text::tokens::{Encoded, Pad, TextTokenizer};

/// Makes concepts of phrases and tags. Shared between threads.
#[derive(Debug, Clone)]
pub struct ConceptReader {
    ids: Arc<ConceptIds>,
    phrases: Arc<Phrases>,
    max_phrases: usize,
    max_tags: usize,
}

impl ConceptReader {
    /// A reader for the phrases and tags of a vocabulary.
    ///
    /// # Errors
    ///
    /// The file of tuples in the settings cannot be used.
    pub fn new(
        config: &ConceptsConfig,
        concepts: &Concepts,
        tokenizer: &TextTokenizer,
    ) -> Result<Self, DataError> {
        Ok(Self {
            ids: Arc::new(concepts.resolve(tokenizer)),
            phrases: Arc::new(config.phrases.open()?),
            max_phrases: config.max_phrases,
            max_tags: config.max_tags,
        })
    }

    /// The same for texts that come from no source. Where a source would give the phrases, the texts are parsed.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn for_free_texts(
        config: &ConceptsConfig,
        concepts: &Concepts,
        tokenizer: &TextTokenizer,
    ) -> Result<Self, DataError> {
        let phrases = match &config.phrases {
            PhraseSource::Source => PhraseSource::Parser,
            other => other.clone(),
        };
        let config = ConceptsConfig {
            phrases,
            ..config.clone()
        };
        Self::new(&config, concepts, tokenizer)
    }

    /// Rows of an embedding for tokens and concepts together.
    pub fn rows(&self) -> usize {
        self.ids.rows()
    }

    /// The name of a concept; `None` if the id is not a concept.
    pub fn name(&self, id: i32) -> Option<&str> {
        self.ids.name(id)
    }

    /// The phrases of one caption of a sample.
    pub fn phrases(&self, sample: &Sample, caption: usize) -> Vec<String> {
        self.phrases.of_sample(sample, caption)
    }

    /// The phrases of every caption of a sample, without reading its image.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn phrases_of(
        &self,
        source: &dyn Source,
        split: Split,
        index: usize,
    ) -> Result<Vec<Vec<String>>, SampleError> {
        self.phrases.of(source, split, index)
    }

    /// The phrases of a free text.
    pub fn phrases_of_text(&self, text: &str) -> Vec<String> {
        self.phrases.of_text(text)
    }

    /// A caption with its phrases before the end token, in at most `max_length` positions.
    pub fn encode(
        &self,
        tokenizer: &TextTokenizer,
        text: &str,
        phrases: &[String],
        max_length: usize,
    ) -> Encoded {
        let own = self.room_for_words(max_length);
        let mut encoded = tokenizer.encode(text, own);
        let concepts = self.known(phrases, max_length.saturating_sub(encoded.ids.len()));
        if let Some(end) = encoded.ids.pop() {
            let word = encoded.word_ids.pop();
            encoded.concepts = concepts.len();
            encoded
                .word_ids
                .resize(encoded.ids.len() + concepts.len(), None);
            encoded.word_ids.extend(word);
            encoded.ids.extend(concepts);
            encoded.ids.push(end);
            encoded.first = encoded.ids.len();
        }
        encoded
    }

    /// The largest number of positions for words in a text of at most `max_length`; the others are reserved for phrases.
    pub fn room_for_words(&self, max_length: usize) -> usize {
        max_length.saturating_sub(self.max_phrases).max(2)
    }

    /// The ids of those in the vocabulary, each once, at most `most` of them.
    fn known(&self, phrases: &[String], most: usize) -> Vec<i32> {
        let mut seen = HashSet::new();
        let mut ids = self.ids.ids(phrases);
        ids.retain(|id| seen.insert(*id));
        ids.truncate(most);
        ids
    }

    /// The tags of some images. With a `rate`, each is hidden with that probability, by the seed of its image, but at least one per
    /// image with tags.
    pub fn tags(
        &self,
        tokenizer: &TextTokenizer,
        tags: &[&[String]],
        hide: Option<(f64, &[u64])>,
    ) -> Texts {
        let special = tokenizer.specials();
        let rows: Vec<Vec<i32>> = tags
            .iter()
            .map(|tags| self.known(tags, self.max_tags))
            .collect();
        let block = |rows: &[Vec<i32>]| {
            let encoded: Vec<Encoded> = rows
                .iter()
                .map(|ids| Encoded {
                    first: ids.len(),
                    ids: std::iter::once(special.bos)
                        .chain(ids.iter().copied())
                        .chain([special.eos])
                        .collect(),
                    word_ids: vec![None; ids.len() + 2],
                    concepts: ids.len(),
                })
                .collect();
            tokenizer.pad(&encoded, self.max_tags + 2, Pad::Longest)
        };
        let mut texts = block(&rows);
        if let (Some((rate, seeds)), Some(mask)) = (hide, special.mask) {
            let mut hidden = MaskedTexts {
                ids: texts.ids.clone(),
                labels: vec![MaskedTexts::IGNORE; texts.ids.len()],
                concept_labels: None,
            };
            for (row, (ids, seed)) in rows.iter().zip(seeds).enumerate() {
                for at in chosen(ids.len(), rate, *seed) {
                    let at = row * texts.length + 1 + at;
                    hidden.labels[at] = hidden.ids[at];
                    hidden.ids[at] = mask;
                }
            }
            texts.masked = Some(hidden);
        }
        texts
    }

    /// Hides phrases of a caption whose words were hidden. A phrase with a hidden word is always hidden, since it would reveal the
    /// word. The others are hidden with the probability `rate`, if given, to be predicted. `ids` and `labels` are those of the
    /// caption after its words were hidden. Returns the labels of the phrases.
    pub(crate) fn hide(
        &self,
        tokenizer: &TextTokenizer,
        text: &Encoded,
        (ids, labels): (&mut [i32], &[i32]),
        rate: Option<f64>,
        seed: u64,
    ) -> Vec<i32> {
        let mut concept_labels = vec![MaskedTexts::IGNORE; ids.len()];
        let Some(mask) = tokenizer.specials().mask else {
            return concept_labels;
        };
        let words = hidden_words(tokenizer, text, labels);
        let first = text.ids.len().saturating_sub(1 + text.concepts);
        let mut open = Vec::new();
        for (at, id) in text.ids.iter().enumerate().skip(first).take(text.concepts) {
            let name = self.ids.name(*id).unwrap_or_default();
            if words_of(name).any(|word| words.iter().any(|hidden| tells(word, hidden))) {
                ids[at] = mask;
            } else {
                open.push(at);
            }
        }
        if let Some(rate) = rate {
            for at in chosen(open.len(), rate, seed) {
                let at = open[at];
                concept_labels[at] = text.ids[at];
                ids[at] = mask;
            }
        }
        concept_labels
    }
}

/// Chooses each of `count` with the probability `rate`, but at least one.
fn chosen(count: usize, rate: f64, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen: Vec<usize> = (0..count).filter(|_| random.random_bool(rate)).collect();
    if chosen.is_empty() && count > 0 {
        chosen.push(random.random_range(0..count));
    }
    chosen
}

/// The words with a hidden token, in lower case, as [`words_of`] splits them.
fn hidden_words(tokenizer: &TextTokenizer, text: &Encoded, labels: &[i32]) -> HashSet<String> {
    let hidden: HashSet<u32> = text
        .word_ids
        .iter()
        .zip(labels)
        .filter(|(_, label)| **label != MaskedTexts::IGNORE)
        .filter_map(|(word, _)| *word)
        .collect();
    hidden
        .into_iter()
        .flat_map(|word| {
            let of_word = text.ids.iter().zip(&text.word_ids);
            let ids: Vec<i32> = of_word
                .filter(|(_, of)| **of == Some(word))
                .map(|(id, _)| *id)
                .collect();
            let word = tokenizer.decode(&ids).to_lowercase();
            words_of(&word).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// The runs of letters and digits of a text: tokenizers split `t-shirt` and `girl's` in different ways.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

/// Plurals that share too little with their singular.
const IRREGULAR: &[(&str, &str)] = &[
    ("man", "men"),
    ("woman", "women"),
    ("person", "people"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("goose", "geese"),
    ("mouse", "mice"),
    ("ride", "rode"),
    ("hold", "held"),
    ("sit", "sat"),
    ("stand", "stood"),
];

/// Whether one word reveals another: it is the same word or a form of it. Too many matches are better than too few.
fn tells(a: &str, b: &str) -> bool {
    if a == b || IRREGULAR.contains(&(a, b)) || IRREGULAR.contains(&(b, a)) {
        return true;
    }
    let letters = |word: &str| word.chars().count();
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    shared >= (letters(a).min(letters(b)).saturating_sub(2)).max(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, SourceKind};
    use crate::sources::scenes::ScenesConfig;
    use crate::text::masking::Masker;
    use unimo_batch::MaskSpec;

    fn scenes() -> (Arc<dyn Source>, TextTokenizer, ConceptReader) {
        let config = DataConfig {
            source: SourceKind::Scenes,
            scenes: Some(ScenesConfig {
                train: 300,
                ..ScenesConfig::default()
            }),
            ..DataConfig::default()
        };
        let source = crate::config::open(&config).unwrap();
        let tokenizer = TextTokenizer::train(source.texts(Split::Train).flatten(), 400).unwrap();
        let config = ConceptsConfig {
            phrases: PhraseSource::Source,
            min_count: 3,
            ..ConceptsConfig::default()
        };
        let concepts = Concepts::open(&config, &*source, &mut |_, _| {}).unwrap();
        let reader = ConceptReader::new(&config, &concepts, &tokenizer).unwrap();
        (source, tokenizer, reader)
    }

    #[test]
    fn phrases_stand_before_the_end_token_and_fit() {
        let (source, tokenizer, reader) = scenes();
        for index in 0..50 {
            let sample = source.sample(Split::Train, index).unwrap();
            let phrases = reader.phrases(&sample, 0);
            for length in [12, 20, 40, 100] {
                let text = reader.encode(&tokenizer, &sample.captions[0], &phrases, length);
                assert!(text.ids.len() <= length && text.ids.len() == text.word_ids.len());
                assert_eq!(text.ids.last(), Some(&tokenizer.specials().eos));
                let end = text.ids.len() - 1;
                let concepts = &text.ids[end - text.concepts..end];
                assert!(concepts.iter().all(|id| reader.name(*id).is_some()));
                assert!(concepts.iter().all(|id| (*id as usize) < reader.rows()));
                let different: HashSet<_> = concepts.iter().collect();
                assert_eq!(different.len(), concepts.len());
                assert!(length < 100 || text.concepts > 2);
            }
        }
    }

    /// No visible phrase contains a hidden word.
    #[test]
    fn phrases_do_not_tell_hidden_words() {
        let (source, tokenizer, reader) = scenes();
        let masker = Masker::new(MaskSpec::default(), &tokenizer).unwrap();
        let mask = tokenizer.specials().mask.unwrap();
        let (mut guarded, mut predicted) = (0, 0);
        for index in 0..200 {
            let sample = source.sample(Split::Train, index).unwrap();
            let phrases = reader.phrases(&sample, 0);
            let text = reader.encode(&tokenizer, &sample.captions[0], &phrases, 100);
            let (mut ids, labels) = masker.apply(&text, index as u64);
            let first = text.ids.len() - 1 - text.concepts;
            assert_eq!(ids[first..], text.ids[first..], "words hide words alone");
            let rate = (index % 2 == 1).then_some(0.3);
            let of_concepts = reader.hide(&tokenizer, &text, (&mut ids, &labels), rate, 7);
            let words = hidden_words(&tokenizer, &text, &labels);
            assert!(!words.is_empty());
            for at in first..first + text.concepts {
                let name = reader.name(text.ids[at]).unwrap();
                let whole = words_of(name).any(|word| words.contains(word));
                if whole {
                    assert_eq!(ids[at], mask, "{name} tells one of {words:?}");
                }
                if ids[at] == mask && of_concepts[at] == MaskedTexts::IGNORE {
                    assert_eq!((ids[at], of_concepts[at]), (mask, MaskedTexts::IGNORE));
                    guarded += 1;
                } else if of_concepts[at] != MaskedTexts::IGNORE {
                    assert_eq!((ids[at], of_concepts[at]), (mask, text.ids[at]));
                    predicted += 1;
                } else {
                    assert_eq!(ids[at], text.ids[at]);
                }
            }
            assert!(rate.is_some() || of_concepts.iter().all(|l| *l == MaskedTexts::IGNORE));
        }
        assert!(guarded > 100 && predicted > 100, "{guarded} {predicted}");
    }

    #[test]
    fn forms_of_a_word_tell_it() {
        for (a, b) in [
            ("circle", "circles"),
            ("lady", "ladies"),
            ("men", "man"),
            ("chase", "chasing"),
            ("bus", "buses"),
            ("box", "boxes"),
            ("dog", "dogs"),
        ] {
            assert!(tells(a, b) && tells(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("red", "green"),
            ("a", "an"),
            ("to", "top"),
            ("left", "above"),
        ] {
            assert!(!tells(a, b) && !tells(b, a), "{a} {b}");
        }
        let cut: Vec<&str> = words_of("a t-shirt, the girl's café").collect();
        assert_eq!(cut, ["a", "t", "shirt", "the", "girl", "s", "café"]);
    }

    #[test]
    fn tags_are_hidden_by_the_seed_of_their_picture() {
        let (source, tokenizer, reader) = scenes();
        let samples: Vec<Sample> = (0..6)
            .map(|i| source.sample(Split::Train, i).unwrap())
            .collect();
        let tags: Vec<&[String]> = samples.iter().map(|s| s.tags.as_slice()).collect();
        let plain = reader.tags(&tokenizer, &tags, None);
        assert!(plain.masked.is_none() && plain.length > 2);
        let seeds = [1, 2, 3, 4, 5, 6];
        let hidden = reader.tags(&tokenizer, &tags, Some((0.15, &seeds)));
        assert_eq!(plain.ids, hidden.ids);
        let masked = hidden.masked.unwrap();
        for row in 0..6 {
            let labels = &masked.labels[row * plain.length..][..plain.length];
            assert!(
                labels.iter().any(|l| *l != MaskedTexts::IGNORE),
                "row {row}"
            );
        }
        let alone = reader.tags(&tokenizer, &tags[3..4], Some((0.15, &seeds[3..4])));
        let own = &masked.labels[3 * plain.length..][..alone.length];
        assert_eq!(alone.masked.unwrap().labels, own);
    }
}
