//! The languages of a sample's texts, and which of its texts say the same.

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// The languages of a sample's texts, in the order of its captions. Empty: nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Languages {
    /// The tag of each text's language, such as `en`; empty: unknown.
    pub tags: Vec<String>,
    /// A number for what each text says: texts with the same number are translations of each other. Empty: none is a translation.
    pub meanings: Vec<usize>,
    /// Which words of each text stand for which of another one; empty: it is not known of any.
    pub alignments: Vec<Option<Alignment>>,
}

/// Which words of a text stand for which words of another text of the sample. Words are between spaces and counted from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alignment {
    /// The other text.
    pub base: usize,
    /// Pairs of a word of the other text and a word of this one.
    pub words: Vec<(u32, u32)>,
}

impl Languages {
    /// Pairs of a word of text `first` and the word of text `second` that stands for it; `None` if it is not known. Two texts that are aligned
    /// with the same third one are aligned by its words.
    pub fn aligned(&self, first: usize, second: usize) -> Option<Vec<(u32, u32)>> {
        let of = |text: usize| self.alignments.get(text).and_then(Option::as_ref);
        let turned = |words: &[(u32, u32)]| words.iter().map(|(a, b)| (*b, *a)).collect();
        match (of(first), of(second)) {
            (_, Some(own)) if own.base == first => Some(own.words.clone()),
            (Some(own), _) if own.base == second => Some(turned(&own.words)),
            (Some(one), Some(other)) if one.base == other.base => {
                let through = |(base, a): &(u32, u32)| {
                    let (base, a) = (*base, *a);
                    let same = other.words.iter().filter(move |(own, _)| *own == base);
                    same.map(move |(_, b)| (a, *b))
                };
                Some(one.words.iter().flat_map(through).collect())
            }
            _ => None,
        }
    }

    /// The texts that say the same as text `text` in another language.
    pub fn translations(&self, text: usize) -> Vec<usize> {
        let Some(meaning) = self.meanings.get(text) else {
            return Vec::new();
        };
        let tag = |at: usize| self.tags.get(at).filter(|tag| !tag.is_empty());
        let others = self.meanings.iter().enumerate();
        let others =
            others.filter(|(at, _)| *at != text && (tag(*at).is_none() || tag(*at) != tag(text)));
        let same = others.filter(|(_, other)| *other == meaning);
        same.map(|(at, _)| at).collect()
    }
}

/// The languages that have a tag of two letters (ISO 639-1).
const TWO_LETTERS: &str = "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el \
    en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl \
    km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa \
    pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur \
    uz ve vi vo wa wo xh yi yo za zh zu";

/// What a tag may be.
pub(crate) const TAGS: &str = "language tags as in BCP 47: a language of ISO 639, which may be followed by a script or a country: \"en\", \
    \"de\", \"zh-Hans\", \"pt-BR\"";

/// Whether this is a tag of a language. Tags of three letters are not looked up.
pub(crate) fn is_tag(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let language = parts.next().unwrap_or_default();
    let known = match language.len() {
        2 => TWO_LETTERS
            .split_whitespace()
            .any(|known| known == language),
        3 => language.bytes().all(|letter| letter.is_ascii_lowercase()),
        _ => false,
    };
    let subtag = |part: &str| {
        (2..=8).contains(&part.len()) && part.bytes().all(|letter| letter.is_ascii_alphanumeric())
    };
    known && parts.all(subtag)
}

/// Checks tags that a recipe gives: each is one, and none is there twice.
pub(crate) fn validate_tags(key: &str, tags: &[String]) -> Result<(), DataError> {
    for (at, tag) in tags.iter().enumerate() {
        if !is_tag(tag) {
            return Err(DataError::config(key, format!("{tag:?}"), TAGS));
        }
        if tags[..at].contains(tag) {
            let allowed = "each language once";
            return Err(DataError::config(key, format!("{tag:?} twice"), allowed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_languages_are_told_from_others() {
        for tag in ["en", "de", "zh-Hans", "pt-BR", "qaa", "yue"] {
            assert!(is_tag(tag), "{tag}");
        }
        for tag in ["", "ge", "EN", "english", "xx", "en-", "en_US", "e"] {
            assert!(!is_tag(tag), "{tag}");
        }
        let twice = ["en".to_owned(), "de".to_owned(), "en".to_owned()];
        let error = validate_tags("data.parallel.languages", &twice).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }

    #[test]
    fn texts_of_one_meaning_are_translations_of_each_other() {
        let languages = Languages {
            tags: Vec::new(),
            meanings: vec![0, 1, 0, 1, 2],
            alignments: Vec::new(),
        };
        assert_eq!(languages.translations(0), [2]);
        assert_eq!(languages.translations(3), [1]);
        assert!(languages.translations(4).is_empty());
        assert!(Languages::default().translations(0).is_empty());
    }

    #[test]
    fn texts_are_aligned_with_a_base_in_both_directions_and_through_it() {
        let of = |words: &[(u32, u32)]| {
            Some(Alignment {
                base: 0,
                words: words.to_vec(),
            })
        };
        let languages = Languages {
            alignments: vec![None, of(&[(0, 1), (1, 0)]), of(&[(1, 2), (1, 3)]), None],
            ..Languages::default()
        };
        assert_eq!(languages.aligned(0, 1).unwrap(), [(0, 1), (1, 0)]);
        assert_eq!(languages.aligned(1, 0).unwrap(), [(1, 0), (0, 1)]);
        assert_eq!(languages.aligned(1, 2).unwrap(), [(0, 2), (0, 3)]);
        assert_eq!(languages.aligned(0, 3), None);
        assert_eq!(languages.aligned(3, 1), None);
    }
}
