use std::collections::{HashMap, HashSet};

use image::RgbImage;
use unimo_phrases::{Vocabulary, phrases};

use super::*;
use crate::error::Place;
use crate::sources::scenes::{Scenes, ScenesConfig};
use crate::sources::source::Annotations;
use crate::text::tokens::{TextTokenizer, TokenizerConfig};

/// A vocabulary of these phrases.
fn concepts(phrases: &[&str]) -> Concepts {
    let phrases: Vec<(&str, u64)> = phrases.iter().map(|phrase| (*phrase, 1)).collect();
    let saved =
        serde_json::json!({ "version": 1, "min_count": 1, "captions": 1, "phrases": phrases });
    Concepts(Vocabulary::parse(saved.to_string().as_bytes()).unwrap())
}

fn scenes() -> Scenes {
    Scenes::new(ScenesConfig {
        seed: 3,
        train: 400,
        val: 20,
        test: 0,
        size: 32,
        ..ScenesConfig::default()
    })
}

fn quietly(_: usize, _: usize) {}

fn build(source: &dyn Source, of: &PhraseSource, min_count: usize, limit: usize) -> Concepts {
    Concepts::build(source, Split::Train, of, min_count, limit, &mut quietly).unwrap()
}

/// A source given by the captions, phrases and tags of each sample. A sample without captions is broken.
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

    fn annotations(&self, _split: Split, index: usize) -> Result<Annotations, SampleError> {
        Ok(Annotations {
            phrases: self.0[index].1.clone(),
            tags: self.0[index].2.clone(),
            ..Annotations::default()
        })
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
    assert_eq!((known.0.captions(), known.0.missed()), (3, 0));
    // The broken sample costs only its captions.
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
    let odd = r#"{"version":1,"min_count":1,"captions":9,"missed":4,"phrases":[["\"é\\ 日本",3],["a",1]]}"#;
    let odd = Concepts(Vocabulary::parse(odd.as_bytes()).unwrap());
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

    // A published vocabulary puts no space before a text, so a word at the start is another token.
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

/// The generator's phrases that a scene's caption states, and the other phrases that the parser's rules may find in it.
struct SaidOfScene {
    /// The generator's phrases. If the caption reverses the relation, so does the phrase.
    listed: HashSet<String>,
    /// True phrases in the caption's words that the generator does not list: the background without its colour, the relation
    /// between bare objects, and objects on the background or in a corner.
    more: HashSet<String>,
}

const OPPOSITES: [(&str, &str); 2] = [
    (" to the left of ", " to the right of "),
    (" above ", " below "),
];

fn said(caption: &str, phrases: &[String]) -> SaidOfScene {
    let last = |text: &str| text.rsplit(' ').next().unwrap_or_default().to_owned();
    let both = OPPOSITES.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
    let mut listed = HashSet::new();
    let mut more = HashSet::from(["background".to_owned()]);
    for phrase in phrases {
        let mut relation = None;
        for (words, opposite) in both.clone() {
            if let Some((a, b)) = phrase.split_once(words) {
                relation = Some(if caption.contains(words) {
                    (a, words, b)
                } else {
                    (b, opposite, a)
                });
            }
        }
        match relation {
            Some((a, words, b)) => {
                listed.insert(format!("{a}{words}{b}"));
                more.insert(format!("{}{words}{}", last(a), last(b)));
            }
            None => {
                listed.insert(phrase.clone());
            }
        }
    }
    let ground = phrases.last().unwrap();
    let groups = phrases
        .iter()
        .filter(|phrase| phrase.split(' ').count() == 2);
    for group in groups.filter(|group| *group != ground) {
        let bare = last(group);
        for words in ["on", "in the centre of"] {
            more.insert(format!("{bare} {words} background"));
            more.insert(format!("{group} {words} {ground}"));
        }
        for (row, column) in [
            ("top", "left"),
            ("top", "right"),
            ("bottom", "left"),
            ("bottom", "right"),
        ] {
            more.insert(format!("{bare} in corner"));
            more.insert(format!("{group} in {column} corner"));
            let place = format!("{column} corner");
            more.insert("corner".to_owned());
            more.insert("corner of background".to_owned());
            more.insert(format!("{place} of {ground}"));
            more.insert(format!("{row} {place}"));
            more.insert(place);
        }
    }
    SaidOfScene { listed, more }
}

#[test]
fn phrases_of_scenes_are_found_again() {
    /// Every caption is plain, so the parser should miss nothing. Both are 1 at the time of writing.
    const PRECISION: f64 = 0.99;
    const RECALL: f64 = 0.99;
    let scenes = Scenes::new(ScenesConfig {
        seed: 5,
        train: 2000,
        val: 0,
        test: 0,
        size: 32,
        ..ScenesConfig::default()
    });
    let (mut right, mut wrong, mut missing, mut more) = (0, 0, 0, 0);
    for index in 0..2000 {
        let captions = scenes.captions(Split::Train, index).unwrap();
        let known = scenes.annotations(Split::Train, index).unwrap().phrases;
        for (caption, known) in captions.iter().zip(known) {
            let said = said(caption, &known);
            let found: HashSet<String> = phrases(caption).into_iter().collect();
            right += found.intersection(&said.listed).count();
            missing += said.listed.difference(&found).count();
            for phrase in found.difference(&said.listed) {
                if said.more.contains(phrase) {
                    more += 1
                } else {
                    wrong += 1
                }
            }
        }
    }
    let precision = f64::from(right as u32) / f64::from((right + wrong) as u32);
    let recall = f64::from(right as u32) / f64::from((right + missing) as u32);
    let counts = format!("{right} right, {wrong} wrong, {missing} missing, {more} more");
    assert!(precision >= PRECISION && recall >= RECALL, "{counts}");
    println!("precision {precision}, recall {recall}: {counts}");
}
