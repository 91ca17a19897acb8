//! Properties of the search, on a language of a few words whose probabilities follow from the words before.

use burn::tensor::{Device, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// f32 log-probabilities of up to five words.
const TOLERANCE: f64 = 1e-5;
const WORDS: usize = 4;
const END: i32 = 3;
const BEGIN: i32 = 0;

/// Scores that are a function of the image and of all words so far.
struct Language {
    /// The image of each text and its words.
    texts: Vec<(usize, Vec<i32>)>,
}

impl Language {
    fn new(images: &[usize]) -> Self {
        Self {
            texts: images.iter().map(|image| (*image, Vec::new())).collect(),
        }
    }

    /// Logits of the words after a text.
    fn logits(image: usize, text: &[i32]) -> Vec<f32> {
        let seed = text.iter().fold(7 + image as u64, |seed, word| {
            seed.wrapping_mul(0x9e37_79b9)
                .wrapping_add(*word as u64 + 1)
        });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..WORDS).map(|_| rng.random_range(-2.0..2.0)).collect()
    }

    /// The log-probability of a whole text after the begin token.
    fn sum(image: usize, words: &[i32]) -> f64 {
        let mut text = vec![BEGIN];
        let mut sum = 0.0;
        for word in words {
            let logits = Self::logits(image, &text);
            let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            sum += f64::from(logits[*word as usize]) - total.ln();
            text.push(*word);
        }
        sum
    }
}

impl Reader for Language {
    fn read(&mut self, next: &NextWords<'_>) -> Tensor<2> {
        let longer = next.parents.iter().zip(next.words).map(|(parent, word)| {
            let (image, mut text) = self.texts[*parent].clone();
            text.push(*word);
            (image, text)
        });
        self.texts = longer.collect();
        let each = self.texts.iter();
        let logits: Vec<f32> = each
            .flat_map(|(image, text)| Self::logits(*image, text))
            .collect();
        let shape = [self.texts.len(), WORDS];
        Tensor::from_data(TensorData::new(logits, shape), &Device::flex())
    }
}

fn vocabulary(forbidden: &[i32]) -> Vocabulary {
    Vocabulary {
        end: END,
        forbidden: forbidden.to_vec(),
    }
}

fn captions(images: &[usize], config: &GenerationConfig, forbidden: &[i32]) -> Vec<Generated> {
    config.validate().unwrap();
    let streams: Vec<u64> = images.iter().map(|image| *image as u64).collect();
    let mut language = Language::new(images);
    generate(
        &mut language,
        &[BEGIN],
        &vocabulary(forbidden),
        &streams,
        config,
    )
    .unwrap()
}

fn searched(beams: usize, rule: LengthRule, length_penalty: f64) -> GenerationConfig {
    GenerationConfig {
        beams,
        rule,
        length_penalty,
        max_length: 5,
        ..GenerationConfig::default()
    }
}

const RULES: [LengthRule; 2] = [LengthRule::Finished, LengthRule::EveryStep];

/// The likeliest word at each step.
fn greedy(image: usize) -> Vec<i32> {
    let mut text = vec![BEGIN];
    while text.len() <= 5 && text.last() != Some(&END) {
        let logits = Language::logits(image, &text);
        let word = (0..WORDS).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        text.push(word.unwrap() as i32);
    }
    text[1..].to_vec()
}

fn without_end(mut text: Vec<i32>) -> Vec<i32> {
    if text.last() == Some(&END) {
        text.pop();
    }
    text
}

#[test]
fn one_beam_is_greedy() {
    for rule in RULES {
        for penalty in [0.0, 0.6, 1.0, 2.0] {
            for image in 0..40 {
                let found = captions(&[image], &searched(1, rule, penalty), &[]);
                let expected = greedy(image);
                let sum = Language::sum(image, &expected);
                let score = rule.score(sum, expected.len(), penalty);
                assert!((found[0].score - score).abs() < TOLERANCE);
                assert_eq!(found[0].ended, expected.last() == Some(&END));
                assert_eq!(found[0].tokens, without_end(expected));
            }
        }
    }
}

/// All texts of up to `length` words, ended or cut.
fn all(length: usize) -> Vec<Vec<i32>> {
    let mut whole = Vec::new();
    let mut open = vec![Vec::new()];
    for _ in 0..length {
        let mut longer = Vec::new();
        for text in &open {
            for word in 0..WORDS as i32 {
                let mut text: Vec<i32> = text.clone();
                text.push(word);
                if word == END {
                    whole.push(text);
                } else {
                    longer.push(text);
                }
            }
        }
        open = longer;
    }
    whole.extend(open);
    whole
}

#[test]
fn enough_beams_find_the_best_of_all_texts() {
    let beams = WORDS.pow(5);
    for rule in RULES {
        for penalty in [0.0, 0.6, 1.0, 2.0, -1.0] {
            for image in 0..10 {
                let found = captions(&[image], &searched(beams, rule, penalty), &[]);
                let score =
                    |text: &Vec<i32>| rule.score(Language::sum(image, text), text.len(), penalty);
                let texts = all(5);
                let best = texts.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
                let best = best.unwrap();
                assert!((found[0].score - score(best)).abs() < TOLERANCE);
                assert_eq!(found[0].tokens, without_end(best.clone()));
            }
        }
    }
}

fn drawn(top_k: usize, seed: u64) -> GenerationConfig {
    GenerationConfig {
        beams: 1,
        max_length: 5,
        sampling: Some(SamplingConfig {
            temperature: 1.0,
            top_k,
            top_p: 1.0,
            seed,
        }),
        ..GenerationConfig::default()
    }
}

#[test]
fn a_caption_does_not_depend_on_its_batch() {
    let mut configs = vec![drawn(0, 1)];
    for rule in RULES {
        configs.extend([1, 2, 3].map(|beams| searched(beams, rule, 0.8)));
    }
    let images: Vec<usize> = (0..12).collect();
    for config in configs {
        let together = captions(&images, &config, &[]);
        for (image, caption) in images.iter().zip(&together) {
            assert_eq!(captions(&[*image], &config, &[])[0], *caption);
        }
        let backwards: Vec<usize> = images.iter().rev().copied().collect();
        let mut other = captions(&backwards, &config, &[]);
        other.reverse();
        assert_eq!(other, together);
    }
}

#[test]
fn draws_follow_the_seed_and_one_word_is_the_likeliest() {
    let images: Vec<usize> = (0..20).collect();
    let of = |seed| captions(&images, &drawn(0, seed), &[]);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    for (image, caption) in images.iter().zip(captions(&images, &drawn(1, 3), &[])) {
        assert_eq!(caption.tokens, without_end(greedy(*image)));
    }
}

#[test]
fn limits_are_kept() {
    for rule in RULES {
        for beams in [1, 3] {
            let config = GenerationConfig {
                min_length: 4,
                no_repeat: 2,
                ..searched(beams, rule, 1.0)
            };
            let images: Vec<usize> = (0..30).collect();
            for caption in captions(&images, &config, &[1]) {
                let count = caption.tokens.len() + usize::from(caption.ended);
                assert!((4..=5).contains(&count), "{caption:?}");
                assert!(!caption.tokens.contains(&1) && !caption.tokens.contains(&END));
                let pairs: Vec<&[i32]> = caption.tokens.windows(2).collect();
                let mut different = pairs.clone();
                different.sort_unstable();
                different.dedup();
                assert_eq!(different.len(), pairs.len(), "{caption:?}");
            }
        }
    }
}

/// Where every word is forbidden, a text ends as it is.
#[test]
fn nothing_to_write_ends_the_search() {
    for rule in RULES {
        let found = captions(&[0, 1], &searched(2, rule, 1.0), &[0, 1, 2, 3]);
        assert!(found.iter().all(|f| f.tokens.is_empty() && !f.ended));
    }
    let found = captions(&[0], &drawn(0, 1), &[0, 1, 2, 3]);
    assert!(found[0].tokens.is_empty() && !found[0].ended);
}

#[test]
fn settings_that_contradict_are_named() {
    let key = |config: GenerationConfig| config.validate().unwrap_err().key;
    let base = GenerationConfig::default;
    for beams in [0, MOST_BEAMS + 1] {
        assert_eq!(key(GenerationConfig { beams, ..base() }), "beams");
    }
    let long = GenerationConfig {
        min_length: 30,
        ..base()
    };
    assert_eq!(key(long), "min_length");
    let both = GenerationConfig {
        beams: 2,
        ..drawn(0, 0)
    };
    assert_eq!(key(both), "beams");
    let mut cold = drawn(0, 0);
    cold.sampling.as_mut().unwrap().temperature = 0.0;
    assert_eq!(key(cold), "sampling.temperature");
}
