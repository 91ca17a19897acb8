use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use unimo_eval::vqa::{
    Counting, LEAST_OCCURRENCES, accuracies, accuracy, build_vocabulary, exact_match, normalise,
    quick_score, report, soft_score, targets,
};
use unimo_eval::{VqaPrediction, VqaQuestion, VqaReport, VqaRule};

use crate::{ROUNDING, close, fixture, list, rows};

const CASES: &str = include_str!("../fixtures/vqa.json");

#[test]
fn answers_are_normalised_as_officially() {
    for case in rows(&fixture(CASES), "normalised") {
        let (given, expected) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        assert_eq!(normalise(given), expected, "{given:?}");
    }
}

#[test]
fn accuracy_is_the_official_one() {
    for case in rows(&fixture(CASES), "accuracies") {
        let answers: Vec<String> = list(&case[1]);
        let got = accuracy(case[0].as_str().unwrap(), &answers).unwrap();
        close(got, case[2].as_f64().unwrap(), ROUNDING);
    }
    assert_eq!(accuracy::<&str>("yes", &[]), None);
}

fn question(value: &Value) -> VqaQuestion {
    let text = |at: usize| Some(value[at].as_str()?.to_owned());
    VqaQuestion {
        id: value[0].as_u64().unwrap(),
        question_type: text(1),
        answer_type: text(2),
        answers: list(&value[3]),
    }
}

fn prediction(value: &Value) -> VqaPrediction {
    VqaPrediction {
        question_id: value[0].as_u64().unwrap(),
        answer: value[1].as_str().unwrap().to_owned(),
    }
}

#[test]
fn reports_are_the_official_ones() {
    for case in rows(&fixture(CASES), "reports") {
        let questions: Vec<_> = rows(case, "questions").iter().map(question).collect();
        let predictions: Vec<_> = rows(case, "predictions").iter().map(prediction).collect();
        let got = report(&questions, &predictions, VqaRule::Official).unwrap();
        // Percent.
        close(
            got.overall,
            case["overall"].as_f64().unwrap(),
            100.0 * ROUNDING,
        );
        for (parts, key) in [
            (&got.per_question_type, "per_question_type"),
            (&got.per_answer_type, "per_answer_type"),
        ] {
            let expected: BTreeMap<String, f64> =
                serde_json::from_value(case[key].clone()).unwrap();
            assert!(parts.keys().eq(expected.keys()));
            for (name, value) in parts {
                close(*value, expected[name], 100.0 * ROUNDING);
            }
        }
    }
}

#[test]
fn vocabularies_and_targets_are_those_of_meter_and_bridgetower() {
    for case in rows(&fixture(CASES), "vocabularies") {
        let major: Vec<String> = list(&case["major"]);
        let least = case["least"].as_u64().unwrap() as usize;
        let vocabulary = build_vocabulary(major.iter().map(String::as_str), least);
        assert_eq!(vocabulary, list::<String>(&case["vocabulary"]));
        let lookup = |answer: &str| vocabulary.iter().position(|known| known == answer);
        for row in rows(case, "targets") {
            let answers: Vec<String> = list(&row[0]);
            for (counting, expected) in [(Counting::Raw, &row[1]), (Counting::Normalised, &row[2])]
            {
                let expected: Vec<(usize, f64)> = list(expected);
                assert_eq!(targets(&answers, lookup, counting), expected);
            }
        }
    }
}

#[test]
fn the_vocabulary_needs_nine_occurrences() {
    let answers = |count: usize| std::iter::repeat_n("The dog.", count).chain(["cat"; 9]);
    let known = |count| build_vocabulary(answers(count), LEAST_OCCURRENCES);
    assert_eq!(known(8), ["cat"]);
    assert_eq!(known(9), ["dog", "cat"]);
    assert_eq!(
        [0, 1, 2, 3, 4, 10].map(soft_score),
        [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
    );
}

/// Questions whose ten answers are normalised and in the vocabulary.
fn clean_set(rng: &mut ChaCha8Rng, words: &[&str]) -> (Vec<VqaQuestion>, Vec<usize>) {
    let mut questions = Vec::new();
    let mut predicted = Vec::new();
    for id in 0..200 {
        let kinds = rng.random_range(1..=words.len());
        let answers = (0..10).map(|_| words[rng.random_range(0..kinds)].to_owned());
        questions.push(VqaQuestion {
            id,
            question_type: None,
            answer_type: None,
            answers: answers.collect(),
        });
        predicted.push(rng.random_range(0..words.len()));
    }
    (questions, predicted)
}

#[test]
fn the_quick_score_is_the_official_accuracy_of_clean_answers() {
    let words = ["yes", "no", "2", "red", "don't know"];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (questions, predicted) = clean_set(&mut rng, &words);
    let lookup = |answer: &str| words.iter().position(|known| *known == answer);
    let all: Vec<_> = questions
        .iter()
        .map(|question| targets(&question.answers, lookup, Counting::Raw))
        .collect();
    let predictions: Vec<_> = predicted
        .iter()
        .zip(&questions)
        .map(|(index, question)| VqaPrediction {
            question_id: question.id,
            answer: words[*index].to_owned(),
        })
        .collect();
    let official = report(&questions, &predictions, VqaRule::Official).unwrap();
    let quick = quick_score(&predicted, &all).unwrap().unwrap();
    close(official.overall, 100.0 * quick, 100.0 * ROUNDING);
    assert!(official.per_question_type.is_empty() && official.per_answer_type.is_empty());
    assert_eq!(quick_score(&[], &[]).unwrap(), None);
    let message = quick_score(&[1], &[]).unwrap_err().to_string();
    assert_eq!(message, "predictions (one per question): expected 0, got 1");
}

fn asked(id: u64, answers: &[&str]) -> VqaQuestion {
    VqaQuestion {
        id,
        question_type: None,
        answer_type: Some("other".to_owned()),
        answers: answers.iter().map(|answer| (*answer).to_owned()).collect(),
    }
}

fn said(question_id: u64, answer: &str) -> VqaPrediction {
    VqaPrediction {
        question_id,
        answer: answer.to_owned(),
    }
}

#[test]
fn sets_with_one_answer_are_matched_exactly() {
    let questions = [asked(1, &["Two"]), asked(2, &["red"])];
    let predictions = [said(2, "the Red."), said(1, "three")];
    let each = accuracies(&questions, &predictions, VqaRule::Exact).unwrap();
    assert_eq!(each, [0.0, 1.0]);
    let all = report(&questions, &predictions, VqaRule::Exact).unwrap();
    assert_eq!((all.questions, all.overall), (2, 50.0));
    assert_eq!(all.per_answer_type["other"], 50.0);
    assert!(exact_match("\t2\n", &["four", "two"]));
    // The official accuracy leaves the only answer out.
    assert_eq!(accuracy("red", &["red"]), Some(0.0));
    let error = report(&questions, &predictions, VqaRule::Official).unwrap_err();
    assert_eq!(
        error.to_string(),
        "question 1 has 1 answers: the official accuracy needs 2 or more; with one answer use exact match"
    );
    let error = report(&[asked(5, &[])], &[said(5, "")], VqaRule::Exact).unwrap_err();
    assert_eq!(
        error.to_string(),
        "question 5 has 0 answers: exact match needs 1 or more"
    );
}

#[test]
fn predictions_cover_exactly_the_questions() {
    let questions: Vec<_> = (0..20).map(|id| asked(id, &["a", "b"])).collect();
    let mut predictions: Vec<_> = (8..20).map(|id| said(id, "a")).collect();
    predictions.extend([9, 9, 12].map(|id| said(id, "b")));
    predictions.push(said(77, "c"));
    let message = |questions: &[_], predictions: &[_]| {
        let result = accuracies(questions, predictions, VqaRule::Official);
        result.unwrap_err().to_string()
    };
    assert_eq!(
        message(&questions, &predictions),
        "each of the 20 annotated rows needs exactly one prediction; by question: without a prediction \
         8 (0, 1, 2, 3, 4, ...), with several 2 (9, 12), predicted but not annotated 1 (77)"
    );
    assert_eq!(
        message(&[], &[]),
        "there is no question to score: at least one is needed"
    );
    let twice = [asked(3, &["a", "b"]), asked(3, &["a", "b"])];
    assert_eq!(
        message(&twice, &[said(3, "a")]),
        "every question must be annotated once; annotated again: 1 (3)"
    );
}

#[test]
fn json_is_that_of_submissions_and_reports() {
    let line = r#"{"question_id":262148000,"answer":"down"}"#;
    let read: VqaPrediction = serde_json::from_str(line).unwrap();
    assert_eq!(read, said(262_148_000, "down"));
    assert_eq!(serde_json::to_string(&read).unwrap(), line);
    let all = report(
        &[asked(1, &["a b", "a b"])],
        &[said(1, "a b")],
        VqaRule::Official,
    );
    let text = serde_json::to_string(&all.unwrap()).unwrap();
    let expected = r#"{"questions":1,"overall":33.33333333333333,"per_question_type":{},"per_answer_type":{"other":33.33333333333333}}"#;
    assert_eq!(text, expected);
    assert!(serde_json::from_str::<VqaReport>(&text).is_ok());
}
