use super::*;
use crate::images::regions::PictureRegions;

/// Three standard deviations of a share over so many draws.
fn three_deviations(share: f64, draws: f64) -> f64 {
    3.0 * (share * (1.0 - share) / draws).sqrt()
}

fn classes(background: Option<i32>) -> Arc<RegionClasses> {
    let names = |all: [&str; 4]| all.map(str::to_owned).to_vec();
    let names = [
        ("en".to_owned(), names(["red ring", "star", "", "red star"])),
        (
            "de".to_owned(),
            names(["roter ring", "stern", "", "roter stern"]),
        ),
    ];
    Arc::new(RegionClasses::new(names.into(), background))
}

fn tokenizer() -> TextTokenizer {
    let text = ["red ring star red star", "roter ring stern roter stern"];
    let texts = std::iter::repeat_n(text, 50).flatten().map(str::to_owned);
    TextTokenizer::train(texts, 300).unwrap()
}

fn regions(classes: &[i32]) -> PictureRegions {
    PictureRegions {
        features: vec![0.5; classes.len() * 7],
        boxes: vec![[0.0, 0.0, 1.0, 1.0]; classes.len()],
        classes: classes.to_vec(),
        probabilities: Vec::new(),
    }
}

fn hider(mask: RegionMaskSpec, labels: RegionLabels) -> RegionHider {
    RegionHider::new(
        HideRegions { mask, labels },
        Some(classes(None)),
        &tokenizer(),
        5,
    )
    .unwrap()
}

const MASK: RegionMaskSpec = RegionMaskSpec {
    rate: 0.3,
    kept: 0.1,
    either: None,
};
const WORDS: RegionLabels = RegionLabels {
    classes: Some(4),
    words: true,
    vocabulary: true,
    shares: true,
};

fn sample<'a>(regions: &'a PictureRegions, language: &'a str, position: u64) -> OfSample<'a> {
    OfSample {
        regions,
        language: Some(language),
        position,
    }
}

#[test]
fn the_share_is_hidden_at_least_one_and_none_without_a_name() {
    let hider = hider(MASK, WORDS);
    let regions = regions(&[0, 1, 2, 3, 1, 0, NO_CLASS, 3, 1]);
    // All but one without a name and one without a class.
    let objects = 7.0;
    const SAMPLES: u64 = 4000;
    let (mut chosen, mut blank) = (0.0, 0.0);
    for position in 0..SAMPLES {
        let hidden = hider.hide(&[sample(&regions, "en", position)], 12);
        assert_eq!(hidden.chosen.len(), 12);
        let own = hidden.chosen.iter().filter(|c| **c).count();
        assert!(own >= 1);
        for at in [2, 6, 9, 10, 11] {
            assert!(!hidden.chosen[at]);
        }
        chosen += own as f64;
        blank += hidden.blank.iter().filter(|c| **c).count() as f64;
        let labels = hidden.classes.as_ref().unwrap();
        for (at, label) in labels.iter().enumerate() {
            let expected = if hidden.chosen[at] {
                regions.classes[at]
            } else {
                MaskedTexts::IGNORE
            };
            assert_eq!(*label, expected);
            assert!(hidden.chosen[at] || !hidden.blank[at]);
        }
    }
    let draws = SAMPLES as f64 * objects;
    // One is hidden where none was drawn.
    let expected = MASK.rate + (1.0 - MASK.rate).powf(objects) / objects;
    let tolerance = three_deviations(MASK.rate, draws);
    assert!(
        (chosen / draws - expected).abs() < tolerance,
        "{}",
        chosen / draws
    );
    let kept = 1.0 - blank / chosen;
    assert!(
        (kept - MASK.kept).abs() < three_deviations(MASK.kept, chosen),
        "{kept}"
    );
}

#[test]
fn a_word_is_a_token_of_the_name_in_the_language_of_the_caption_and_drawn_anew() {
    let hider = hider(MASK, WORDS);
    let tokenizer = tokenizer();
    let regions = regions(&[0, 1, 3]);
    let names = [
        ("en", ["red ring", "star", "red star"]),
        ("de", ["roter ring", "stern", "roter stern"]),
    ];
    for (language, names) in names {
        let mut met: Vec<BTreeSet<i32>> = vec![BTreeSet::new(); 3];
        for position in 0..300 {
            let sample = || sample(&regions, language, position);
            let hidden = hider.hide(&[sample()], 3);
            assert_eq!(
                hidden,
                hider.hide(&[sample()], 3),
                "a function of the position"
            );
            let words = hidden.words.unwrap();
            for ((met, word), chosen) in met.iter_mut().zip(words).zip(&hidden.chosen) {
                assert_eq!(word == MaskedTexts::IGNORE, !chosen);
                if *chosen {
                    met.insert(word);
                }
            }
        }
        for (met, name) in met.iter().zip(names) {
            let ids = tokenizer.encode(name, 16).ids;
            let ids: BTreeSet<i32> = ids[1..ids.len() - 1].iter().copied().collect();
            assert_eq!(*met, ids, "{name}");
        }
    }
}

#[test]
fn shares_are_those_of_the_tokens_of_names_by_probability() {
    let hider = hider(MASK, WORDS);
    let mut regions = regions(&[0, 3]);
    regions.probabilities = vec![0.5, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 1.0];
    let tokenizer = tokenizer();
    let of = |name: &str| {
        let ids = tokenizer.encode(name, 16).ids;
        ids[1..ids.len() - 1]
            .iter()
            .copied()
            .collect::<BTreeSet<i32>>()
    };
    for position in 0..20 {
        let hidden = hider.hide(&[sample(&regions, "en", position)], 2);
        let vocabulary = hidden.vocabulary.unwrap();
        let shares = hidden.shares.unwrap();
        let mut rows = shares.chunks(vocabulary.len());
        for at in (0..2).filter(|at| hidden.chosen[*at]) {
            let found = rows.next().unwrap();
            let mut weights: BTreeMap<i32, f32> = BTreeMap::new();
            let names = [("red ring", 0), ("star", 1), ("red star", 3)];
            for (name, class) in names {
                for id in of(name) {
                    *weights.entry(id).or_default() += regions.probabilities[at * 4 + class];
                }
            }
            let sum: f32 = weights.values().sum();
            for (id, share) in vocabulary.iter().zip(found) {
                let expected = weights.get(id).copied().unwrap_or(0.0) / sum;
                // A few sums of f32.
                assert!((share - expected).abs() < 1e-6, "{share} {expected}");
            }
        }
        assert_eq!(rows.next(), None);
    }
}

#[test]
fn either_words_or_regions_are_hidden() {
    let mask = RegionMaskSpec {
        either: Some(0.5),
        ..MASK
    };
    let hider = hider(mask, WORDS);
    let regions = regions(&[0, 1, 3]);
    let mut words = 0.0;
    const SAMPLES: u64 = 2000;
    for position in 0..SAMPLES {
        let hidden = hider.hide(&[sample(&regions, "en", position)], 3);
        let some = hidden.chosen.iter().any(|chosen| *chosen);
        assert_eq!(some, !hider.hides_words(position));
        words += f64::from(!some);
    }
    let share = words / SAMPLES as f64;
    assert!(
        (share - 0.5).abs() < three_deviations(0.5, SAMPLES as f64),
        "{share}"
    );
}

#[test]
fn what_has_no_name_or_class_is_said() {
    let hider = hider(MASK, WORDS);
    let known = regions(&[0, 3]);
    hider.check(&known, Some("de")).unwrap();
    let error = hider.check(&known, Some("fr")).unwrap_err();
    assert!(
        error.contains("\"fr\"") && error.contains("de, en"),
        "{error}"
    );
    let error = hider.check(&known, None).unwrap_err();
    assert!(error.contains("not known"), "{error}");
    let error = hider.check(&regions(&[0, 4]), Some("en")).unwrap_err();
    assert!(
        error.contains("region 1 is 4") && error.contains("count is 4"),
        "{error}"
    );
    let hide = HideRegions {
        mask: MASK,
        labels: WORDS,
    };
    let error = RegionHider::new(hide, None, &tokenizer(), 0).err().unwrap();
    assert!(error.to_string().contains("labels = true"), "{error}");
    let unnamed = Arc::new(RegionClasses::new(BTreeMap::new(), Some(0)));
    let error = RegionHider::new(hide, Some(unnamed), &tokenizer(), 0)
        .err()
        .unwrap();
    assert!(error.to_string().contains("data.regions.names"), "{error}");
}

#[test]
fn background_is_never_hidden() {
    let hide = HideRegions {
        mask: MASK,
        labels: RegionLabels {
            classes: Some(4),
            ..RegionLabels::default()
        },
    };
    let classes = Arc::new(RegionClasses::new(BTreeMap::new(), Some(0)));
    let hider = RegionHider::new(hide, Some(classes), &tokenizer(), 5).unwrap();
    let regions = regions(&[0, 1]);
    for position in 0..50 {
        let hidden = hider.hide(&[sample(&regions, "en", position)], 2);
        assert_eq!(hidden.chosen, [false, true]);
    }
}
