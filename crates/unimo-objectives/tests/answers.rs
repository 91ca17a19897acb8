//! `[objectives.answers]`: answers are ranked by what their loss says of them, and nothing shows a word what comes after it.
#![cfg(feature = "flex")]

mod small;

use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::{Batch, Images, Target, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::text::TextEncoderConfig;
use unimo_objectives::tasks::answers::{AnswersConfig, Candidates};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Settings};

/// Sums of f32 log-probabilities of up to 4 words, over four layers of width 8.
const TOLERANCE: f32 = 1e-4;

const SAMPLES: usize = 4;
const LENGTH: usize = 5;
const WORDS: i32 = 12;
const END: i32 = 2;
/// Questions of three lengths.
const IDS: [i32; SAMPLES * LENGTH] = [0, 5, 6, 7, 2, 0, 7, 2, 1, 1, 0, 9, 8, 2, 1, 0, 10, 2, 1, 1];
const LENGTHS: [usize; SAMPLES] = [5, 3, 4, 3];

fn model(two_streams: bool) -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.5,
        text: TextEncoderConfig {
            vocab_size: WORDS as usize,
            layers: 2,
            max_positions: 14,
            ..small::text()
        },
        fusion: two_streams.then(small::fusion),
        joint: (!two_streams).then(small::joint),
        ..small::towers()
    }
}

const fn config(shortlist: usize) -> AnswersConfig {
    AnswersConfig {
        weight: 1.0,
        classes: None,
        shortlist,
    }
}

/// A model that chooses among these answers; the weights do not depend on them.
fn build(two_streams: bool, answers: &[Vec<i32>], shortlist: usize) -> (Backbone, Objectives) {
    let model = model(two_streams);
    let objectives = ObjectivesConfig {
        answers: Some(config(shortlist)),
        ..ObjectivesConfig::default()
    };
    objectives.validate().unwrap();
    objectives.validate_with(&model).unwrap();
    let device = Device::flex();
    let mut init = Init::new(&device, 3).with_deviation(model.initializer_range as f32);
    let backbone = model.init(&mut init);
    let mut objectives = objectives.init(&mut init, &model);
    objectives.answers.as_mut().unwrap().candidates =
        Some(Arc::new(Candidates::new(answers.to_vec())));
    // The cross-layer parts have weight, as in a trained model.
    let backbone = parameters::replace(backbone, |name, shape| {
        let merge = name.ends_with("merge");
        merge.then(|| burn::tensor::TensorData::new(vec![0.7f32], shape.to_vec()))
    });
    (backbone, objectives)
}

fn batch(targets: Vec<Target>) -> Batch {
    let count = 3 * 8 * 8;
    Batch {
        samples: (0..SAMPLES).map(|i| format!("sample {i}")).collect(),
        images: Some(Images {
            pixels: (0..SAMPLES * count)
                .map(|p| ((p * 37) % 13) as u8)
                .collect(),
            height: 8,
            width: 8,
            mean: [6.0 / 255.0; 3],
            std: [6.0 / 255.0; 3],
            second_view: None,
            patch_mask: None,
            codes: None,
        }),
        texts: Some(Texts {
            ids: IDS.to_vec(),
            length: LENGTH,
            lengths: LENGTHS.to_vec(),
            ..Texts::default()
        }),
        targets,
        ..Batch::default()
    }
}

fn none() -> Vec<Target> {
    vec![Target::Unknown; SAMPLES]
}

/// The scores that rank the answers, `[B, C]`, row by row.
fn ranked((backbone, objectives): &(Backbone, Objectives)) -> Vec<f32> {
    let device = Device::flex();
    let scores = objectives.predict("answers", backbone, &batch(none()), &device);
    scores.unwrap().into_data().iter::<f32>().collect()
}

/// The loss where some samples have right answers.
fn loss(
    (backbone, objectives): &(Backbone, Objectives),
    right: &[(usize, Vec<(u32, f32)>)],
) -> f32 {
    let mut targets = none();
    for (row, labels) in right {
        targets[*row] = Target::Labels(labels.clone());
    }
    let step = objectives.step(backbone, &batch(targets), &Device::flex(), Draws::new(1));
    assert!(step.skipped.is_empty());
    step.results[0].loss.clone().into_scalar::<f32>()
}

/// The log-likelihood of one answer to one question, read whole: the loss of a question with one right answer.
fn likelihood(model: &(Backbone, Objectives), row: usize, answer: usize) -> f32 {
    -loss(model, &[(row, vec![(answer as u32, 1.0)])])
}

fn answers() -> Vec<Vec<i32>> {
    vec![
        vec![4, END],
        vec![5, 6, END],
        vec![5, END],
        vec![6, 7, 8, END],
        vec![END],
    ]
}

fn close(a: f32, b: f32) {
    assert!((a - b).abs() < TOLERANCE, "{a} {b}");
}

/// Words that are read one by one after a question that is kept give what question and answer give as one text. All answers are in the
/// shortlist, so this is the exhaustive ranking.
#[test]
fn answers_are_ranked_by_their_whole_likelihood() {
    for two_streams in [true, false] {
        let answers = answers();
        let model = build(two_streams, &answers, answers.len());
        let scores = ranked(&model);
        assert_eq!(scores.len(), SAMPLES * answers.len());
        for row in 0..SAMPLES {
            for answer in 0..answers.len() {
                let score = scores[row * answers.len() + answer];
                close(score, likelihood(&model, row, answer));
            }
        }
        // More than there are is all of them, to the bit.
        assert_eq!(ranked(&build(two_streams, &answers, 100)), scores);
        assert!(config(0).validate().is_err());
    }
}

/// A shortlist holds the answers whose first word is the likeliest, of equals the first; what is read of them is not changed.
#[test]
fn a_shortlist_is_chosen_by_the_first_word() {
    for two_streams in [true, false] {
        let answers = answers();
        let count = answers.len();
        let all = ranked(&build(two_streams, &answers, count));
        // An answer of its first word alone.
        let firsts: Vec<Vec<i32>> = answers.iter().map(|words| words[..1].to_vec()).collect();
        let firsts = ranked(&build(two_streams, &firsts, count));
        for kept in 1..count {
            let some = ranked(&build(two_streams, &answers, kept));
            for row in 0..SAMPLES {
                let own = |scores: &[f32]| scores[row * count..][..count].to_vec();
                let mut order: Vec<usize> = (0..count).collect();
                let first = own(&firsts);
                order.sort_by(|a, b| first[*b].total_cmp(&first[*a]));
                let (chosen, left) = order.split_at(kept);
                for answer in chosen {
                    close(own(&some)[*answer], own(&all)[*answer]);
                }
                assert!(left.iter().all(|at| own(&some)[*at] == f32::NEG_INFINITY));
            }
        }
    }
}

/// Over all words that may come next, the likelihoods of the longer answers add up to that of the shorter one. They would not if a word saw
/// what comes after it: then the first word of each longer answer would have a probability of its own.
#[test]
fn no_word_sees_what_comes_after_it() {
    for two_streams in [true, false] {
        let mut answers: Vec<Vec<i32>> = (0..WORDS).map(|word| vec![5, word]).collect();
        answers.push(vec![5]);
        let shorter = WORDS as usize;
        let model = build(two_streams, &answers, answers.len());
        for row in 0..SAMPLES {
            let each = (0..shorter).map(|answer| likelihood(&model, row, answer).exp());
            close(each.sum::<f32>().ln(), likelihood(&model, row, shorter));
        }
    }
}

/// Every answer counts by its share, and every question as much as any other; a question without a label counts nothing.
#[test]
fn the_loss_is_weighted_by_shares() {
    for two_streams in [true, false] {
        let model = build(two_streams, &answers(), 3);
        let of = |row: usize, answer: usize| -likelihood(&model, row, answer);
        let right = [(0, vec![(1, 0.7), (3, 0.2)]), (2, vec![(0, 1.0)])];
        let expected = (0.7 * of(0, 1) + 0.2 * of(0, 3) + of(2, 0)) / 2.0;
        close(loss(&model, &right), expected);
        let step = model
            .1
            .step(&model.0, &batch(none()), &Device::flex(), Draws::new(1));
        assert_eq!(step.skipped, ["answers"]);
    }
}

/// What cannot be read from left to right says so before there are weights.
#[test]
fn encoders_that_cannot_answer_are_refused() {
    let objectives = ObjectivesConfig {
        answers: Some(config(8)),
        ..ObjectivesConfig::default()
    };
    let mut towers = model(true);
    towers.fusion = None;
    let error = objectives.validate_with(&towers).unwrap_err().to_string();
    assert!(error.contains("needs a cross-modal encoder"), "{error}");
    let mut narrow = model(true);
    narrow.text.width = 4;
    let error = objectives.validate_with(&narrow).unwrap_err().to_string();
    assert!(error.contains("as wide as"), "{error}");
}
