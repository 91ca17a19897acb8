use rand::SeedableRng;
use unimo_batch::MaskSpec;

use super::*;
use crate::sources::scenes::{SceneLanguage, Scenes, ScenesConfig};
use crate::sources::source::{Source, Split};
use crate::text::tokens::TextTokenizer;

/// Both captions of a scene in both languages, as tokens, with their alignment.
struct Case {
    texts: [Encoded; 2],
    words: [Vec<Option<u32>>; 2],
    alignment: Vec<(u32, u32)>,
}

fn cases(count: usize) -> (Vec<Case>, TextTokenizer) {
    let scenes = Scenes::new(ScenesConfig {
        language: SceneLanguage::Both,
        val: 0,
        ..ScenesConfig::default()
    });
    // So small that many words are several tokens.
    let tokenizer = TextTokenizer::train(scenes.texts(Split::Train).take(2000).flatten(), 330);
    let tokenizer = tokenizer.unwrap();
    let mut cases = Vec::new();
    for index in 0..count {
        let sample = scenes.sample(Split::Train, index).unwrap();
        let other = sample.languages.translations(0)[0];
        let texts = [0, other].map(|at| sample.captions[at].as_str());
        cases.push(Case {
            words: texts.map(|text| tokenizer.spaced_words(text, 200)),
            texts: texts.map(|text| tokenizer.encode(text, 200)),
            alignment: sample.languages.aligned(0, other).unwrap(),
        });
    }
    (cases, tokenizer)
}

fn masker(unit: MaskUnit, tokenizer: &TextTokenizer) -> Masker {
    let spec = MaskSpec {
        unit,
        ..MaskSpec::default()
    };
    Masker::new(spec, tokenizer).unwrap()
}

/// The words of a text with a hidden token.
fn hidden(words: &[Option<u32>], labels: &[i32]) -> BTreeSet<u32> {
    let all = words.iter().zip(labels);
    let hidden = all.filter(|(_, label)| **label != MaskedTexts::IGNORE);
    hidden.filter_map(|(word, _)| *word).collect()
}

/// A word is hidden iff the one that stands for it is; all pieces of it where words are hidden whole; tokens of the first text at the rate.
#[test]
fn partners_are_hidden_together_and_replaced_alike() {
    let (cases, tokenizer) = cases(1000);
    for unit in [MaskUnit::AlignedToken, MaskUnit::AlignedWord] {
        let masker = masker(unit, &tokenizer);
        let (mut tokens, mut chosen, mut expected) = (0.0, 0.0, 0.0);
        for (seed, case) in (0..).zip(&cases) {
            let texts = [0, 1].map(|at| Spaced {
                text: &case.texts[at],
                words: &case.words[at],
            });
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let found = masker.apply_aligned(texts, &case.alignment, &mut random);
            let [first, second] = [0, 1].map(|at| hidden(&case.words[at], &found[at].1));
            assert!(!first.is_empty());
            for (a, b) in &case.alignment {
                assert_eq!(first.contains(a), second.contains(b), "{unit:?}");
            }
            for (at, (ids, labels)) in found.iter().enumerate() {
                assert_eq!(ids.len(), labels.len());
                for (place, label) in labels.iter().enumerate() {
                    let own = case.texts[at].ids[place];
                    if *label == MaskedTexts::IGNORE {
                        assert_eq!(ids[place], own);
                        let word = case.words[at][place];
                        let whole = unit == MaskUnit::AlignedWord;
                        let hidden = word.is_some_and(|word| [&first, &second][at].contains(&word));
                        assert!(!whole || !hidden, "a word is hidden as a whole");
                    } else {
                        assert_eq!(*label, own);
                    }
                }
            }
            let mask = tokenizer.specials().mask;
            let masked = |at: usize, word: u32| {
                let all = case.words[at].iter().zip(&found[at].0).zip(&found[at].1);
                let own = all.filter(|((w, _), l)| **w == Some(word) && **l != MaskedTexts::IGNORE);
                own.map(|((_, id), _)| Some(*id) == mask)
                    .collect::<Vec<_>>()
            };
            if unit == MaskUnit::AlignedWord {
                for (a, b) in case.alignment.iter().filter(|(a, _)| first.contains(a)) {
                    let both = [masked(0, *a), masked(1, *b)].concat();
                    assert!(both.iter().all(|m| *m == both[0]), "replaced alike");
                }
            }
            let own = case.texts[0].ids.len() as f64 - 2.0;
            tokens += own;
            chosen += found[0]
                .1
                .iter()
                .filter(|l| **l != MaskedTexts::IGNORE)
                .count() as f64;
            // One is hidden where none was drawn.
            expected += 0.15 * own + 0.85_f64.powf(own);
        }
        if unit == MaskUnit::AlignedToken {
            let deviation = (0.15 * 0.85 * tokens).sqrt();
            assert!(
                (chosen - expected).abs() < 3.0 * deviation,
                "{chosen} {expected}"
            );
        }
    }
}

#[test]
fn half_of_a_mix_is_without_regard_to_partners() {
    let (cases, tokenizer) = cases(400);
    let masker = masker(MaskUnit::AlignedMix, &tokenizer);
    let mut together = 0;
    for (seed, case) in (0..).zip(&cases) {
        let texts = [0, 1].map(|at| Spaced {
            text: &case.texts[at],
            words: &case.words[at],
        });
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let found = masker.apply_aligned(texts, &case.alignment, &mut random);
        let [first, second] = [0, 1].map(|at| hidden(&case.words[at], &found[at].1));
        let same = |(a, b): &(u32, u32)| first.contains(a) == second.contains(b);
        together += usize::from(case.alignment.iter().all(same));
    }
    // Half, and a few that agree by chance; three deviations of 400 draws are 30.
    assert!((170..260).contains(&together), "{together}");
}

#[test]
fn words_between_spaces_are_found_whatever_their_marks() {
    let (_, tokenizer) = cases(1);
    let text = "on a grey background, one sees  two stars";
    let words = tokenizer.spaced_words(text, 200);
    let tokens = tokenizer.encode(text, 200);
    assert_eq!(words.len(), tokens.ids.len());
    let spelled: Vec<String> = (0..8)
        .map(|word| {
            let own = tokens.ids.iter().zip(&words);
            let own = own.filter(|(_, of)| **of == Some(word));
            let ids: Vec<i32> = own.map(|(id, _)| *id).collect();
            tokenizer.decode(&ids)
        })
        .collect();
    let expected = [
        "on",
        "a",
        "grey",
        "background,",
        "one",
        "sees",
        "two",
        "stars",
    ];
    assert_eq!(spelled, expected);
    assert_eq!([words[0], words[words.len() - 1]], [None, None]);
}
