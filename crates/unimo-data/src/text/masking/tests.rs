use super::*;

/// Five standard deviations of a share of 0.1 to 0.9 over the 40,000 draws that the tests make, rounded up; seeds
/// are fixed, so a test that passes once always passes.
const SHARE_TOLERANCE: f64 = 0.0125;

fn tokenizer() -> TextTokenizer {
    let texts = ["a large red circle to the left of two small blue stars on a grey background"];
    TextTokenizer::train(texts.iter().map(|text| (*text).to_owned()), 300).unwrap()
}

/// A text of ordinary ids in words of one to four pieces.
fn text(length: usize, vocabulary: usize) -> Encoded {
    let mut encoded = Encoded {
        ids: vec![0],
        word_ids: vec![None],
        concepts: 0,
        first: 1,
    };
    let mut word = 0;
    while encoded.ids.len() <= length {
        for piece in 0..=word % 4 {
            encoded
                .ids
                .push(5 + ((word * 7 + piece) as usize % (vocabulary - 5)) as i32);
            encoded.word_ids.push(Some(word));
        }
        word += 1;
    }
    encoded.ids.push(2);
    encoded.word_ids.push(None);
    encoded
}

fn masker(spec: MaskSpec) -> (Masker, TextTokenizer) {
    let tokenizer = tokenizer();
    (Masker::new(spec, &tokenizer).unwrap(), tokenizer)
}

#[test]
fn shares_are_as_asked_for_tokens_and_words() {
    for unit in [MaskUnit::Token, MaskUnit::WholeWord] {
        let spec = MaskSpec {
            unit,
            ..MaskSpec::default()
        };
        let (masker, tokenizer) = masker(spec);
        let text = text(1000, tokenizer.vocab_size());
        let (mut total, mut chosen, mut masked, mut kept) = (0.0, 0.0, 0.0, 0.0);
        for seed in 0..300 {
            let (ids, labels) = masker.apply(&text, seed);
            total += (text.ids.len() - 2) as f64;
            for ((id, label), original) in ids.iter().zip(&labels).zip(&text.ids) {
                if *label == MaskedTexts::IGNORE {
                    assert_eq!(id, original);
                    continue;
                }
                assert_eq!(label, original);
                chosen += 1.0;
                masked += f64::from(Some(*id) == tokenizer.specials().mask);
                kept += f64::from(id == original);
                assert!(Some(*id) == tokenizer.specials().mask || !tokenizer.is_special(*id));
            }
        }
        assert!((chosen / total - spec.rate).abs() < SHARE_TOLERANCE);
        assert!((masked / chosen - 0.8).abs() < SHARE_TOLERANCE);
        // A random replacement is sometimes the token itself.
        let by_chance = 0.1 / (tokenizer.vocab_size() - 5) as f64;
        assert!((kept / chosen - 0.1 - by_chance).abs() < SHARE_TOLERANCE);
    }
}

#[test]
fn whole_words_are_chosen_as_one() {
    for unit in [MaskUnit::WholeWord, MaskUnit::Span, MaskUnit::SkipGram] {
        let (masker, tokenizer) = masker(MaskSpec {
            unit,
            rate: 0.4,
            ..MaskSpec::default()
        });
        let text = text(60, tokenizer.vocab_size());
        for seed in 0..200 {
            let (_, labels) = masker.apply(&text, seed);
            for (a, b) in (0..labels.len()).zip(1..labels.len()) {
                if text.word_ids[a].is_some() && text.word_ids[a] == text.word_ids[b] {
                    assert_eq!(
                        labels[a] == MaskedTexts::IGNORE,
                        labels[b] == MaskedTexts::IGNORE
                    );
                }
            }
        }
    }
}

#[test]
fn spans_and_skip_grams_hide_the_share_that_is_asked_for() {
    for unit in [MaskUnit::Span, MaskUnit::SkipGram] {
        // In a short text the share is not a whole number of words.
        for length in [12, 1000] {
            let spec = MaskSpec {
                unit,
                rate: 0.3,
                ..MaskSpec::default()
            };
            let (masker, tokenizer) = masker(spec);
            let text = text(length, tokenizer.vocab_size());
            let (mut total, mut chosen, mut masked) = (0.0, 0.0, 0.0);
            for seed in 0..240_000 / length as u64 {
                let (ids, labels) = masker.apply(&text, seed);
                total += (text.ids.len() - 2) as f64;
                for (id, label) in ids.iter().zip(&labels) {
                    let hidden = *label != MaskedTexts::IGNORE;
                    chosen += f64::from(hidden);
                    masked += f64::from(hidden && Some(*id) == tokenizer.specials().mask);
                }
            }
            let (share, mask_share) = (chosen / total, masked / chosen);
            assert!(
                (share - spec.rate).abs() < SHARE_TOLERANCE,
                "{unit:?} of {length}: {share}"
            );
            // Spans are replaced as a whole, so there are four times fewer draws.
            assert!(
                (mask_share - 0.8).abs() < 2.0 * SHARE_TOLERANCE,
                "{mask_share}"
            );
        }
    }
}

#[test]
fn lengths_of_spans_are_geometric() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut counts = [0.0; LONGEST_SPAN + 1];
    const DRAWS: usize = 40_000;
    for _ in 0..DRAWS {
        counts[span_length(&mut random)] += 1.0 / DRAWS as f64;
    }
    assert_eq!(counts[0], 0.0);
    let total: f64 = (0..10).map(|i| 0.2 * 0.8_f64.powi(i)).sum();
    for (i, share) in (0..).zip(&counts[1..]) {
        let expected = 0.2 * 0.8_f64.powi(i) / total;
        assert!((share - expected).abs() < SHARE_TOLERANCE, "{i}: {share}");
    }
}

#[test]
fn groups_are_replaced_as_one_in_a_row_or_with_words_between() {
    const DRAWS: u64 = 2000;
    // 40 words of one token, of which two are hidden; half of the groups become mask tokens.
    let encoded = Encoded {
        ids: (5..45).collect(),
        word_ids: (0..40).map(Some).collect(),
        concepts: 0,
        first: 40,
    };
    for (unit, gaps) in [(MaskUnit::Span, 1), (MaskUnit::SkipGram, 3)] {
        let (masker, tokenizer) = masker(MaskSpec {
            unit,
            rate: 0.05,
            mask_share: 0.5,
            random_share: 0.0,
            most: None,
            end: false,
        });
        let mut shares = vec![0.0; 4];
        let mut mixed = 0.0;
        for seed in 0..DRAWS {
            let (ids, labels) = masker.apply(&encoded, seed);
            let hidden: Vec<usize> = (0..labels.len())
                .filter(|i| labels[*i] != MaskedTexts::IGNORE)
                .collect();
            let [a, b] = hidden[..] else {
                panic!("{hidden:?}")
            };
            if b - a <= gaps {
                shares[b - a] += 1.0 / DRAWS as f64;
                let mask = tokenizer.specials().mask;
                mixed += f64::from((Some(ids[a]) == mask) != (Some(ids[b]) == mask));
            }
        }
        // Three in four spans have more than one word; a few reach the end of the text.
        let near: f64 = shares.iter().sum();
        assert!((0.7..0.9).contains(&near), "{unit:?}: {near}");
        // Five standard deviations of a share of a third.
        for share in &shares[1..=gaps] {
            let expected = near / gaps as f64;
            assert!((share - expected).abs() < 0.053, "{unit:?}: {shares:?}");
        }
        // Only if two one-word spans happen to be adjacent.
        assert!(mixed / (near * DRAWS as f64) < 0.05, "{unit:?}: {mixed}");
    }
}

#[test]
fn every_text_with_a_word_has_a_masked_one_and_specials_never_are() {
    for unit in [
        MaskUnit::Token,
        MaskUnit::WholeWord,
        MaskUnit::Span,
        MaskUnit::SkipGram,
    ] {
        let (masker, tokenizer) = masker(MaskSpec {
            unit,
            rate: 0.01,
            ..MaskSpec::default()
        });
        let mut places = std::collections::HashSet::new();
        for seed in 0..500 {
            let encoded = tokenizer.encode("red circle", 20);
            let (ids, labels) = masker.apply(&encoded, seed);
            assert_eq!((ids[0], ids.last()), (0, Some(&2)));
            let chosen: Vec<_> = (0..labels.len())
                .filter(|i| labels[*i] != MaskedTexts::IGNORE)
                .collect();
            assert!(!chosen.is_empty());
            places.extend(chosen);
        }
        assert_eq!(
            places.len(),
            tokenizer.encode("red circle", 20).ids.len() - 2
        );
        let (ids, labels) = masker.apply(&tokenizer.encode("", 20), 1);
        assert_eq!((ids, labels), (vec![0, 2], vec![MaskedTexts::IGNORE; 2]));
    }
}

#[test]
fn the_seed_decides() {
    let (masker, tokenizer) = masker(MaskSpec::default());
    let text = text(100, tokenizer.vocab_size());
    assert_eq!(masker.apply(&text, 5), masker.apply(&text, 5));
    assert_ne!(masker.apply(&text, 5), masker.apply(&text, 6));
}

#[test]
fn bad_shares_are_named() {
    let tokenizer = tokenizer();
    let good = MaskSpec::default();
    for (spec, key) in [
        (MaskSpec { rate: 0.0, ..good }, "mask.rate"),
        (
            MaskSpec {
                rate: f64::NAN,
                ..good
            },
            "mask.rate",
        ),
        (
            MaskSpec {
                mask_share: -0.1,
                ..good
            },
            "mask.mask_share",
        ),
        (
            MaskSpec {
                random_share: 0.3,
                ..good
            },
            "mask.random_share",
        ),
    ] {
        let message = Masker::new(spec, &tokenizer).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    let all = MaskSpec {
        mask_share: 0.9,
        random_share: 0.1,
        ..good
    };
    assert!(Masker::new(all, &tokenizer).is_ok());
}

/// As many tokens as the share says, exactly, and no more than the most; runs of two or three are among them.
#[test]
fn runs_hide_an_exact_number_of_tokens() {
    for (length, most, expected) in [
        (1, None, 1),
        (10, None, 4),
        (50, None, 20),
        (50, Some(12), 12),
    ] {
        let (masker, _) = masker(MaskSpec {
            unit: MaskUnit::Runs,
            rate: 0.4,
            most,
            ..MaskSpec::default()
        });
        let encoded = Encoded {
            ids: (5..5 + length).collect(),
            word_ids: (0..length as u32).map(Some).collect(),
            concepts: 0,
            first: length as usize,
        };
        let mut beside = 0;
        for seed in 0..200 {
            let (_, labels) = masker.apply(&encoded, seed);
            let hidden: Vec<bool> = labels.iter().map(|l| *l != MaskedTexts::IGNORE).collect();
            assert_eq!(hidden.iter().filter(|hidden| **hidden).count(), expected);
            beside += hidden.windows(2).filter(|pair| pair[0] && pair[1]).count();
        }
        // 4 of 10 drawn one by one have 1.2 neighbours on average.
        assert!(length != 10 || beside > 200 * 13 / 10, "{beside}");
    }
}

#[test]
fn no_more_tokens_are_hidden_than_the_most() {
    for unit in [MaskUnit::Token, MaskUnit::WholeWord] {
        let (masker, tokenizer) = masker(MaskSpec {
            unit,
            rate: 0.5,
            most: Some(7),
            ..MaskSpec::default()
        });
        let text = text(60, tokenizer.vocab_size());
        for seed in 0..200 {
            let (_, labels) = masker.apply(&text, seed);
            let hidden = labels.iter().filter(|l| **l != MaskedTexts::IGNORE).count();
            assert!((1..=7).contains(&hidden), "{unit:?}: {hidden}");
        }
    }
}

/// VLP: of the words and the end token, as many are hidden as the share of the words says.
#[test]
fn an_exact_number_is_hidden_and_the_end_may_be_among_it() {
    const DRAWS: u64 = 600;
    for (length, expected) in [(1, 1), (9, 1), (10, 2), (13, 2), (40, 3)] {
        for end in [false, true] {
            let (masker, tokenizer) = masker(MaskSpec {
                unit: MaskUnit::Exact,
                most: Some(3),
                end,
                ..MaskSpec::default()
            });
            let specials = tokenizer.specials();
            let words = 5..5 + length;
            let ids: Vec<i32> = std::iter::once(specials.bos)
                .chain(words)
                .chain([specials.eos])
                .collect();
            let encoded = Encoded {
                word_ids: vec![None; ids.len()],
                concepts: 0,
                first: ids.len(),
                ids,
            };
            let mut ends = 0.0;
            for seed in 0..DRAWS {
                let (_, labels) = masker.apply(&encoded, seed);
                let hidden = labels.iter().filter(|l| **l != MaskedTexts::IGNORE);
                assert_eq!(hidden.count(), expected, "{length} {end}");
                assert_eq!(labels[0], MaskedTexts::IGNORE);
                ends += f64::from(labels.last() == Some(&specials.eos));
            }
            let share = if end {
                expected as f64 / f64::from(length + 1)
            } else {
                0.0
            };
            // Five standard deviations of a share of a half over the draws.
            assert!(
                (ends / DRAWS as f64 - share).abs() < 0.103,
                "{length} {end}: {ends}"
            );
        }
    }
}
