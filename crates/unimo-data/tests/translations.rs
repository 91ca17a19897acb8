//! Captions with their translations, from the source to the batch, and held-out captions by language.

use std::collections::HashSet;
use std::sync::Arc;

use unimo_batch::{
    Batch, JOINED, JoinForm, JoinPositions, JoinSpec, KEY, MaskSpec, MaskedTexts, QUERY, SidesSpec,
    TRANSLATION, Texts,
};
use unimo_data::{
    Batches, Bitexts, DataConfig, EvalSet, FurtherText, Joining, Loader, LoaderSpec, Rewrite,
    SkipList, Source, Split, TextTokenizer,
};

/// Texts in two languages, and images with captions in one of them.
const DATA: &str = r#"
    source = "mixture"
    image_size = 32
    max_text_length = 64
    [mixture]
    batches = "single"
    [[mixture.parts]]
    source = "scenes"
    keep = "texts"
    language = "both"
    seed = 1
    train = 40
    val = 0
    weight = 1.0
    [[mixture.parts]]
    source = "scenes"
    held_out_language = "both"
    size = 32
    train = 40
    val = 6
    weight = 1.0
"#;

fn config() -> DataConfig {
    toml::from_str(DATA).unwrap()
}

fn opened() -> (Arc<dyn Source>, Arc<TextTokenizer>) {
    let source = unimo_data::open(&config()).unwrap();
    let texts = source.texts(Split::Train).map(Result::unwrap);
    let tokenizer = TextTokenizer::train(texts, 400).unwrap();
    (source, Arc::new(tokenizer))
}

fn batches(workers: usize) -> (Vec<Batch>, Arc<TextTokenizer>) {
    rewritten(workers, None)
}

fn rewritten(
    workers: usize,
    rewrite: Option<Arc<dyn Rewrite>>,
) -> (Vec<Batch>, Arc<TextTokenizer>) {
    loaded(|spec| {
        spec.workers = workers;
        spec.rewrite = rewrite;
    })
}

fn loaded(change: impl FnOnce(&mut LoaderSpec)) -> (Vec<Batch>, Arc<TextTokenizer>) {
    let (source, tokenizer) = opened();
    let mut spec = LoaderSpec::new(
        &config(),
        source,
        Arc::clone(&tokenizer),
        Arc::new(SkipList::in_memory(0.0)),
        Batches { size: 8, seed: 3 },
    );
    spec.further = vec![FurtherText::Translation];
    spec.mask = Some(MaskSpec::default());
    change(&mut spec);
    let taken = Loader::new(spec).unwrap().take(24);
    (taken.map(Result::unwrap).collect(), tokenizer)
}

#[test]
fn a_batch_of_parallel_texts_holds_each_with_its_translation() {
    let (all, tokenizer) = batches(1);
    let (again, _) = batches(3);
    assert_eq!(all, again, "whatever the number of threads");
    let (mut with, mut english) = (0, 0);
    for batch in &all {
        let texts = batch.texts.as_ref().unwrap();
        let Some(translations) = batch.further_texts.get(TRANSLATION) else {
            assert!(
                batch.images.is_some(),
                "only images come without translations"
            );
            continue;
        };
        with += 1;
        assert!(batch.images.is_none());
        // One length for all, so that they are encoded together.
        assert_eq!(texts.length, translations.length);
        assert!(translations.masked.is_none());
        let masked = texts.masked.as_ref().unwrap();
        for values in [&texts.ids, &translations.ids, &masked.ids, &masked.labels] {
            assert_eq!(values.len(), batch.len() * texts.length);
        }
        let hidden = masked.labels.chunks(texts.length).zip(&texts.lengths);
        for (labels, length) in hidden {
            let beyond = &labels[*length..];
            assert!(beyond.iter().all(|label| *label == MaskedTexts::IGNORE));
        }
        for row in 0..batch.len() {
            let words = |texts: &Texts| tokenizer.decode(texts.row(row));
            let both = [words(texts), words(translations)];
            let is_english = |text: &String| {
                let common = ["a", "the", "one", "two", "three", "background"];
                text.split_whitespace()
                    .any(|word| common.contains(&word.trim_end_matches(',')))
            };
            let count = both.iter().filter(|text| is_english(text)).count();
            assert_eq!(count, 1, "{both:?}");
            let lengths = both.map(|text| text.split_whitespace().count());
            assert_eq!(lengths[0], lengths[1]);
            english += usize::from(is_english(&words(texts)));
        }
    }
    // As many of each are drawn on average: 24 draws stay within 9 of a half in all but one of 1,000 seeds.
    assert!((4..=20).contains(&with), "{with} of 24");
    // Either text of a pair may be the first; four standard deviations of as many draws.
    let texts = (8 * with) as f64;
    let off = (english as f64 - texts / 2.0).abs();
    assert!(off < 2.0 * texts.sqrt(), "{english} of {texts}");
}

/// Both texts of a pair as one, whatever the number of threads, with words of both hidden.
#[test]
fn captions_are_joined_with_their_translations() {
    let joined = |form, positions, workers| {
        loaded(|spec| {
            spec.workers = workers;
            spec.joined = Some(Joining {
                spec: JoinSpec { form, positions },
                mask: Some(MaskSpec::default()),
            });
        })
    };
    let (beside, _) = batches(1);
    let (begin, end) = (0, 2);
    for (form, between) in [
        (JoinForm::Vocabulary, vec![end, end]),
        (JoinForm::OneBegin, vec![end]),
        (JoinForm::TwoBegins, vec![end, begin]),
    ] {
        let (all, tokenizer) = joined(form, JoinPositions::Restart, 1);
        assert_eq!(joined(form, JoinPositions::Restart, 3).0, all);
        let [bos, eos] = [tokenizer.specials().bos, tokenizer.specials().eos];
        assert_eq!([bos, eos], [begin, end]);
        let mut with = 0;
        for (batch, beside) in all.iter().zip(&beside) {
            assert_eq!(batch.texts, beside.texts, "the texts themselves stay");
            let Some(joined) = batch.further_texts.get(JOINED) else {
                assert!(batch.images.is_some());
                continue;
            };
            with += 1;
            let texts = batch.texts.as_ref().unwrap();
            let translations = &batch.further_texts[TRANSLATION];
            let masked = joined.masked.as_ref().unwrap();
            for row in 0..batch.len() {
                let (first, second) = (texts.row(row), translations.row(row));
                let inner = |text: &[i32]| text[1..text.len() - 1].to_vec();
                let parts = [
                    vec![begin],
                    inner(first),
                    between.clone(),
                    inner(second),
                    vec![end],
                ];
                assert_eq!(joined.row(row), parts.concat());
                let seam = joined.restarts[row];
                let begins = usize::from(form == JoinForm::TwoBegins);
                assert_eq!(joined.row(row)[seam + begins], second[1]);
                let labels = &masked.labels[row * joined.length..][..joined.length];
                let is_hidden = |label: &&i32| **label != MaskedTexts::IGNORE;
                let [before, behind] = [&labels[..seam], &labels[seam..]]
                    .map(|labels| labels.iter().filter(is_hidden).count());
                assert!(before > 0 && behind > 0, "words of both parts are hidden");
                let read = &masked.ids[row * joined.length..][..joined.length];
                for ((label, own), read) in labels.iter().zip(joined.row(row)).zip(read) {
                    assert!(*label == MaskedTexts::IGNORE && own == read || label == own);
                }
            }
        }
        assert!(with > 0);
    }
    let (run_on, _) = joined(JoinForm::OneBegin, JoinPositions::RunOn, 1);
    let restarts = run_on
        .iter()
        .filter_map(|batch| batch.further_texts.get(JOINED));
    assert!(restarts.clone().count() > 0);
    assert!(
        restarts
            .flat_map(|joined| &joined.restarts)
            .next()
            .is_none()
    );
}

/// Two pairs as one row: each side has the same two sentences in any order and is in one language, and all modes are drawn.
#[test]
fn the_sides_of_a_contrast_are_mixed_up() {
    let sides = |mask, workers| {
        loaded(|spec| {
            spec.workers = workers;
            spec.sides = Some(SidesSpec { mixup: true, mask });
        })
    };
    let (all, tokenizer) = sides(None, 1);
    assert_eq!(sides(None, 3).0, all, "whatever the number of threads");
    let (masked, _) = sides(Some(MaskSpec::default()), 1);
    let mask = tokenizer.specials().mask.unwrap();
    // Sentences of a text without the begin token, each with its end token.
    let sentences = |texts: &Texts, row: usize| {
        let text = &texts.row(row)[1..];
        let parts = text.split_inclusive(|id| *id == tokenizer.specials().eos);
        let parts: Vec<Vec<i32>> = parts.map(<[i32]>::to_vec).collect();
        parts
    };
    let mut seen = HashSet::new();
    let mut rows = 0;
    for (batch, masked) in all.iter().zip(&masked) {
        let Some(query) = batch.further_texts.get(QUERY) else {
            assert!(batch.images.is_some() && !batch.further_texts.contains_key(KEY));
            continue;
        };
        let key = &batch.further_texts[KEY];
        assert!(query.masked.is_none() && key.masked.is_none());
        let texts = batch.texts.as_ref().unwrap();
        let translations = &batch.further_texts[TRANSLATION];
        let others: Vec<usize> = (0..batch.len()).collect();
        for row in 0..batch.len() {
            rows += 1;
            let [of_query, of_key] = [sentences(query, row), sentences(key, row)];
            assert_eq!([of_query.len(), of_key.len()], [2, 2]);
            // Which rows' sentences these are, in order, and whether each is the text or the translation of its row.
            let find = |sentence: &Vec<i32>| {
                let is = |texts: &Texts, at: &usize| texts.row(*at)[1..] == sentence[..];
                let own = [row].into_iter().chain(others.iter().copied());
                let mut own = own.flat_map(|at| [(at, false), (at, true)]);
                let found = own.find(|(at, translated)| {
                    is(if *translated { translations } else { texts }, at)
                });
                found.unwrap()
            };
            let found = [of_query, of_key].map(|side| [find(&side[0]), find(&side[1])]);
            let pair = |side: [(usize, bool); 2]| {
                let mut rows = side.map(|(row, _)| row);
                rows.sort_unstable();
                rows
            };
            assert_eq!(
                pair(found[0]),
                pair(found[1]),
                "the same pairs on both sides"
            );
            assert!(pair(found[0]).contains(&row));
            for at in 0..2 {
                let (first, translated) = found[0][at];
                let other = found[1].iter().find(|(row, _)| *row == first).unwrap();
                assert_ne!(translated, other.1, "a text against its translation");
            }
            seen.insert((
                found[0][0].0 == row,
                found[1][0].0 == row,
                found[0].iter().find(|(at, _)| *at == row).unwrap().1,
            ));
        }
        let hidden = &masked.further_texts[QUERY].ids;
        assert!(hidden.contains(&mask) && !query.ids.contains(&mask));
        assert_eq!(hidden.len(), query.ids.len());
    }
    assert!(rows > 0);
    assert_eq!(seen.len(), 8, "all modes: {seen:?}");
    let (plain, _) = loaded(|spec| {
        spec.sides = Some(SidesSpec {
            mixup: false,
            mask: None,
        });
    });
    let with = plain.iter().filter(|batch| batch.images.is_none());
    for batch in with {
        let texts = batch.texts.as_ref().unwrap();
        for row in 0..batch.len() {
            assert_eq!(batch.further_texts[QUERY].row(row), texts.row(row));
            let translation = batch.further_texts[TRANSLATION].row(row);
            assert_eq!(batch.further_texts[KEY].row(row), translation);
        }
    }
}

/// Each sample gives one pair of texts in two languages, and no text is in two pairs.
#[test]
fn held_out_texts_come_with_their_translations() {
    let (source, _) = opened();
    let skip = SkipList::in_memory(0.0);
    let of = |limit: usize| Bitexts::new(&*source, Split::Train, limit, &skip).unwrap();
    let all = of(0);
    let languages: Vec<&[String; 2]> = all.by_languages.keys().collect();
    assert_eq!(languages, [&["en".to_owned(), "qaa".to_owned()]]);
    let pairs = &all.by_languages[languages[0]].texts;
    assert_eq!(pairs[0].len(), pairs[1].len());
    assert_eq!(
        pairs[0].len() + all.repeated,
        40,
        "one of each of 40 samples"
    );
    for side in pairs {
        let different: HashSet<&String> = side.iter().collect();
        assert_eq!(different.len(), side.len());
    }
    let some = of(7);
    assert_eq!(some.by_languages[languages[0]].texts[0].len(), 7);
    assert_eq!(some, of(7), "always the same");
    // A source of one language has none.
    let images = Bitexts::new(&*source, Split::Test, 0, &skip).unwrap();
    assert!(images.by_languages.is_empty());
}

#[test]
fn held_out_captions_are_told_apart_by_language() {
    let (source, _) = opened();
    let set = EvalSet::new(
        source,
        &[Split::Val],
        None,
        config().image_spec(),
        &SkipList::in_memory(0.0),
    )
    .unwrap();
    assert_eq!(set.languages(), ["en", "qaa"]);
    assert_eq!((set.items().len(), set.captions().len()), (6, 24));
    for language in set.languages() {
        let part = set.in_language(&language);
        assert_eq!((part.items().len(), part.captions().len()), (6, 12));
        assert_eq!(part.label(), format!("val, captions in {language}"));
        for (number, caption) in part.captions().iter().enumerate() {
            assert_eq!(caption.language, language);
            assert!(part.items()[caption.image].captions.contains(&number));
        }
    }
    // English captions alone are those of a source in English.
    let alone = DATA.replace("held_out_language = \"both\"", "");
    let alone: DataConfig = toml::from_str(&alone).unwrap();
    let source = unimo_data::open(&alone).unwrap();
    let captions = source.captions(Split::Val, 2).unwrap();
    let part = set.in_language("en");
    let of_item = part.items()[2].captions.clone();
    let texts = part.captions()[of_item].iter().map(|caption| &caption.text);
    assert_eq!(
        texts.collect::<Vec<_>>(),
        captions.iter().collect::<Vec<_>>()
    );
}

/// What is known to be in another language is not rewritten by what reads English.
#[test]
fn texts_are_rewritten_in_their_language_alone() {
    struct Nothing;
    impl Rewrite for Nothing {
        fn rewrite(&self, _: &str, _: u64) -> String {
            String::new()
        }
        fn reads(&self, language: &str) -> bool {
            language == "en"
        }
    }
    let (all, _) = rewritten(1, Some(Arc::new(Nothing)));
    let lengths = |batch: &Batch| batch.texts.as_ref().unwrap().lengths.clone();
    // Two special tokens are left of a text.
    let is_nothing = |length: &usize| *length == 2;
    let (parallel, images): (Vec<_>, Vec<_>) = all.iter().partition(|batch| batch.images.is_none());
    assert!(!parallel.is_empty() && !images.is_empty());
    assert!(
        images
            .iter()
            .all(|batch| lengths(batch).iter().all(is_nothing))
    );
    let of_parallel: Vec<usize> = parallel.iter().flat_map(|batch| lengths(batch)).collect();
    assert!(of_parallel.iter().any(is_nothing) && !of_parallel.iter().all(is_nothing));
}
