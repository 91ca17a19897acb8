//! What of the first training captions is not read as it is written: words that the tokenizer does not know, and ends that are cut off. It changes what
//! is learned, and no sample fails for it.

use unimo_data::{LoaderSpec, Source, Split, TextTokenizer};

use crate::prepare::CAPTIONS_LOOKED_AT;

/// Share of captions that are cut from which on it is said.
const CUT_WORTH_SAYING: f64 = 0.05;

/// Unknown words that are named.
const NAMED: usize = 5;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    captions: usize,
    tokens: usize,
    /// Tokens that stand for words that the tokenizer does not know.
    unknown: usize,
    /// Some of these words, each once.
    words: Vec<String>,
    /// Captions that have letters and no token.
    lost: usize,
    /// Captions that have more tokens than there is room for.
    cut: usize,
}

/// Tells what of the first captions is not read, where there is room for `room` tokens of words. Words that `data.switch` puts into other languages are looked at as the model
/// reads them.
pub(crate) fn look(spec: &LoaderSpec, room: usize, say: &mut dyn FnMut(&str)) {
    // A text that cannot be read is no reason to stop here: training will report it.
    let texts = spec.source.texts(Split::Train).flatten();
    let read = (0..)
        .zip(texts.take(CAPTIONS_LOOKED_AT))
        .map(|(draw, text)| match &spec.rewrite {
            Some(rewrite) => rewrite.rewrite(&text, draw),
            None => text,
        });
    let found = Found::of(read, &spec.tokenizer, room);
    found
        .lines(room, "training")
        .iter()
        .for_each(|line| say(line));
}

/// As [`look`], of texts that are evaluated or predicted.
pub(crate) fn look_at_split(
    source: &dyn Source,
    split: Split,
    (tokenizer, room): (&TextTokenizer, usize),
    say: &mut dyn FnMut(&str),
) {
    let texts = source.texts(split).flatten().take(CAPTIONS_LOOKED_AT);
    let found = Found::of(texts, tokenizer, room);
    found
        .lines(room, split.name())
        .iter()
        .for_each(|line| say(line));
}

impl Found {
    fn of(texts: impl Iterator<Item = String>, tokenizer: &TextTokenizer, room: usize) -> Self {
        let unk = tokenizer.specials().unk;
        let mut found = Self::default();
        for text in texts {
            let ids = tokenizer.encode(&text, usize::MAX).ids;
            // Begin and end are no part of the text.
            let own = ids.len().saturating_sub(2);
            found.captions += 1;
            found.tokens += own;
            found.lost += usize::from(own == 0 && text.chars().any(char::is_alphanumeric));
            found.cut += usize::from(ids.len() > room);
            let is_unknown = |id: &i32| Some(*id) == unk;
            let unknown = ids.iter().filter(|id| is_unknown(id)).count();
            if unknown == 0 {
                continue;
            }
            found.unknown += unknown;
            let words: Vec<&str> = text.split_whitespace().collect();
            let of_tokens = tokenizer.spaced_words(&text, usize::MAX);
            let places = ids.iter().zip(of_tokens).filter(|(id, _)| is_unknown(id));
            for word in places.filter_map(|(_, word)| words.get(word? as usize)) {
                if found.words.len() < NAMED && !found.words.iter().any(|known| known == word) {
                    found.words.push((*word).to_owned());
                }
            }
        }
        found
    }

    /// One for each kind that there is.
    fn lines(&self, room: usize, split: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let first = format!("the first {} {split} texts", self.captions);
        if self.unknown > 0 {
            let share = 100.0 * self.unknown as f64 / self.tokens.max(1) as f64;
            lines.push(format!(
                "{} of {} tokens of {first} ({share:.1}%) stand for words that the tokenizer does not know, such as {:?}: the model cannot tell \
                 them apart",
                self.unknown, self.tokens, self.words
            ));
        }
        if self.lost > 0 {
            lines.push(format!(
                "{} of {first} have letters of which the tokenizer makes no token, so that they are read as empty",
                self.lost
            ));
        }
        let share = self.cut as f64 / self.captions.max(1) as f64;
        if share >= CUT_WORTH_SAYING {
            lines.push(format!(
                "{:.0}% of {first} are longer than the {room} tokens that data.max_text_length leaves for words, begin and end, and are cut",
                100.0 * share
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use unimo_data::{Batches, SkipList, Switch, SwitchConfig, SwitchedWords};

    use super::*;
    use crate::recipe::{Overrides, Recipe};

    fn spec(folder: &std::path::Path, captions: &[&str]) -> LoaderSpec {
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\nred\n";
        let words = folder.join("vocab.txt");
        std::fs::write(&words, vocabulary).unwrap();
        let rows = captions.iter().enumerate();
        let lines: Vec<String> = rows
            .map(|(at, text)| format!("{{\"image\":\"{at}.png\",\"caption\":\"{text}\"}}"))
            .collect();
        let list = folder.join("pairs.jsonl");
        std::fs::write(&list, lines.join("\n")).unwrap();
        let overrides = Overrides {
            data: Some(list),
            set: vec!["data.pairs.val_fraction=0.0".to_owned()],
        };
        let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
        LoaderSpec::new(
            &recipe.data,
            unimo_data::open(&recipe.data).unwrap(),
            Arc::new(TextTokenizer::load(&words, true).unwrap()),
            Arc::new(SkipList::in_memory(1.0)),
            Batches { size: 2, seed: 0 },
        )
    }

    fn said(spec: &LoaderSpec) -> Vec<String> {
        let mut said = Vec::new();
        look(spec, spec.max_text_length, &mut |line| {
            said.push(line.to_owned())
        });
        said
    }

    #[test]
    fn what_is_read_as_written_is_not_spoken_of() {
        let folder = tempfile::tempdir().unwrap();
        assert!(said(&spec(folder.path(), &["a dog", "a red dog"])).is_empty());
    }

    #[test]
    fn unknown_words_are_counted_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = said(&spec(
            folder.path(),
            &["a cat", "red red red red red dog", "a cat, a mouse"],
        ));
        let [unknown] = said.as_slice() else {
            panic!("{said:?}");
        };
        assert!(
            unknown.starts_with("4 of 13 tokens of the first 3 training texts (30.8%)"),
            "{unknown}"
        );
        assert!(
            unknown.contains("[\"cat\", \"cat,\", \"mouse\"]"),
            "{unknown}"
        );
    }

    #[test]
    fn ends_that_are_cut_off_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path(), &["a dog", "a red red dog"]);
        let mut said = Vec::new();
        look(&spec, 5, &mut |line| said.push(line.to_owned()));
        assert_eq!(
            said,
            [
                "50% of the first 2 training texts are longer than the 5 tokens that data.max_text_length leaves for words, begin and end, and are cut"
            ]
        );
    }

    #[test]
    fn words_of_another_language_are_looked_at_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(folder.path(), &["a dog"]);
        let dictionary = folder.path().join("en-de.txt");
        std::fs::write(&dictionary, "dog Hund\n").unwrap();
        let config = SwitchConfig {
            dictionaries: [("de".to_owned(), dictionary)].into(),
            sentences: 1.0,
            words: SwitchedWords::Share(1.0),
            exact: true,
        };
        spec.rewrite = Some(Arc::new(Switch::open(&config).unwrap()));
        let said = said(&spec);
        assert!(
            said.len() == 1 && said[0].contains("[\"Hund\"]"),
            "{said:?}"
        );
    }
}
