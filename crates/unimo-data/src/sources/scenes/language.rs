//! An invented second language for the texts of scenes.
//!
//! Every English word has one word in it, and no two English words have the same one. The words of a clause stand in the opposite
//! order. So a translation is exact, and it is known which word comes from which. How a word is spelled says nothing of the English
//! one: only pairs of texts, a dictionary or images can teach the language.

use std::collections::BTreeSet;

use crate::order::draws::{Stream, hash_text};
use crate::sources::scenes::kinds::{COLOURS, Corner, GROUNDS, Relation, Shape};
use crate::sources::scenes::words;

const CONSONANTS: [&str; 16] = [
    "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z",
];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];

/// Syllables of a word.
const SYLLABLES: usize = 3;

/// Words of the texts that are no names of colours, shapes, places and numbers from two.
const OTHERS: [&str; 23] = [
    "a",
    "and",
    "are",
    "background",
    "colour",
    "from",
    "how",
    "is",
    "large",
    "many",
    "object",
    "objects",
    "of",
    "on",
    "one",
    "seen",
    "sees",
    "shape",
    "small",
    "the",
    "there",
    "what",
    "where",
];

/// The invented word for an English one. It is spelled without regard to case and ends as the English word does if that ends in
/// punctuation.
pub(super) fn word(english: &str) -> String {
    let end = english
        .trim_end_matches(|letter: char| !letter.is_alphanumeric())
        .len();
    let (english, punctuation) = english.split_at(end);
    if english.is_empty() {
        return punctuation.to_owned();
    }
    let mut number = hash_text(Stream::Scene, &english.to_lowercase());
    let mut spelled = String::new();
    for _ in 0..SYLLABLES {
        for letters in [&CONSONANTS[..], &VOWELS[..]] {
            let count = letters.len() as u64;
            spelled.push_str(letters[(number % count) as usize]);
            number /= count;
        }
    }
    spelled + punctuation
}

/// A text in the invented language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) text: String,
    /// For each of its words, the number of the English word that it stands for.
    pub(super) alignment: Vec<usize>,
}

/// Translates a text: the words of each clause in the opposite order.
pub(super) fn translate(english: &str) -> Translation {
    let english: Vec<&str> = english.split_whitespace().collect();
    let mut words = Vec::new();
    let mut alignment = Vec::new();
    let mut first = 0;
    for (last, ended) in english.iter().enumerate() {
        let closes = ended.ends_with(|letter: char| letter.is_ascii_punctuation());
        if !closes && last + 1 < english.len() {
            continue;
        }
        // The mark that closes a clause stays at its end.
        let end = ended
            .trim_end_matches(|letter: char| letter.is_ascii_punctuation())
            .len();
        let (bare, mark) = ended.split_at(end);
        for number in (first..=last).rev() {
            let english = if number == last {
                bare
            } else {
                english[number]
            };
            words.push(word(english));
            alignment.push(number);
        }
        if let Some(word) = words.last_mut() {
            word.push_str(mark);
        }
        first = last + 1;
    }
    Translation {
        text: words.join(" "),
        alignment,
    }
}

/// Every English word that texts of scenes use, with its invented one, in the order of the alphabet.
pub(crate) fn dictionary() -> Vec<(String, String)> {
    let mut english: BTreeSet<&str> = OTHERS.into_iter().collect();
    english.extend(COLOURS.iter().chain(&GROUNDS).map(|colour| colour.name));
    for shape in Shape::ALL {
        english.extend([shape.name(1), shape.name(2)]);
    }
    english.extend((2..=words::MOST_COUNTED).map(words::number));
    let places = Relation::ALL.iter().map(|relation| relation.words());
    let corners = Corner::ALL.iter().map(|corner| corner.words());
    english.extend(places.chain(corners).flat_map(str::split_whitespace));
    english
        .into_iter()
        .map(|english| (english.to_owned(), word(english)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::sources::scenes::{INVENTED, SceneLanguage, SceneTexts, Scenes, ScenesConfig};
    use crate::sources::source::Source;
    use crate::sources::splits::Split;

    #[test]
    fn clauses_are_turned_and_marks_stay_at_their_ends() {
        let found = translate("on a grey background, one sees two stars");
        let word = |english: &str| word(english);
        let expected = format!(
            "{} {} {} {}, {} {} {} {}",
            word("background"),
            word("grey"),
            word("a"),
            word("on"),
            word("stars"),
            word("two"),
            word("sees"),
            word("one")
        );
        assert_eq!(found.text, expected);
        assert_eq!(found.alignment, [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(word("Stars"), word("stars"));
    }

    #[test]
    fn an_aligned_word_is_the_translation_of_its_word() {
        for text in ["what colour is the star?", "a red ring above a heart", ""] {
            let english: Vec<&str> = text.split_whitespace().collect();
            let found = translate(text);
            let words: Vec<&str> = found.text.split_whitespace().collect();
            assert_eq!(words.len(), english.len());
            for (invented, number) in words.iter().zip(&found.alignment) {
                let bare = |text: &str| text.trim_end_matches('?').to_owned();
                assert_eq!(bare(invented), bare(&word(english[*number])));
            }
        }
    }

    #[test]
    fn no_two_words_are_the_same_and_none_is_english() {
        let words = dictionary();
        let invented: HashSet<&str> = words.iter().map(|(_, word)| word.as_str()).collect();
        assert_eq!(invented.len(), words.len());
        assert!(
            words
                .iter()
                .all(|(english, _)| !invented.contains(english.as_str()))
        );
    }

    /// Whatever scenes say, so that switching by this dictionary reaches every word.
    #[test]
    fn the_dictionary_has_every_word_of_every_text() {
        let words: HashMap<String, String> = dictionary().into_iter().collect();
        let mut met = HashSet::new();
        for texts in [
            SceneTexts::Captions,
            SceneTexts::Questions,
            SceneTexts::Statements,
            SceneTexts::Expressions,
        ] {
            let scenes = Scenes::new(ScenesConfig {
                texts,
                val: 0,
                ..ScenesConfig::default()
            });
            for index in 0..2000 {
                for text in scenes.captions(Split::Train, index).unwrap() {
                    met.extend(text.split_whitespace().map(|word| {
                        word.trim_end_matches(|letter: char| letter.is_ascii_punctuation())
                            .to_owned()
                    }));
                }
            }
        }
        let unknown: Vec<_> = met
            .iter()
            .filter(|word| !words.contains_key(*word))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let unused: Vec<_> = words.keys().filter(|word| !met.contains(*word)).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    /// Each English text has its translation in the sample, and what is known of it is known of both.
    #[test]
    fn texts_in_both_languages_are_translations_of_each_other() {
        for texts in [SceneTexts::Captions, SceneTexts::Questions] {
            let of = |language, held_out_language| {
                Scenes::new(ScenesConfig {
                    texts,
                    val: 3,
                    language,
                    held_out_language,
                    ..ScenesConfig::default()
                })
            };
            let english = of(SceneLanguage::English, None);
            let both = of(SceneLanguage::Both, Some(SceneLanguage::Invented));
            let alone = english.sample(Split::Train, 5).unwrap();
            let sample = both.sample(Split::Train, 5).unwrap();
            let count = alone.captions.len();
            assert_eq!(sample.captions.len(), 2 * count);
            assert_eq!(sample.captions[..count], alone.captions);
            assert_eq!(sample.image, alone.image);
            assert_eq!(sample.labels, [&alone.labels[..], &alone.labels].concat());
            assert_eq!(sample.roles, [&alone.roles[..], &alone.roles].concat());
            for (text, caption) in alone.captions.iter().enumerate() {
                assert_eq!(sample.languages.translations(text), [text + count]);
                assert_eq!(sample.captions[text + count], translate(caption).text);
                assert_eq!(sample.languages.tags[text], "en");
                assert_eq!(sample.languages.tags[text + count], INVENTED);
            }
            let known = both.annotations(Split::Train, 5).unwrap();
            assert_eq!(known.languages, sample.languages);
            assert_eq!(known.labels, sample.labels);
            // Held-out texts may be in another language.
            let held_out = both.annotations(Split::Val, 1).unwrap().languages;
            assert!(held_out.tags.iter().all(|tag| tag == INVENTED));
            assert!(held_out.translations(0).is_empty());
        }
    }
}
