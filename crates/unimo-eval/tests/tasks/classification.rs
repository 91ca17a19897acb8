use unimo_eval::EvalError;
use unimo_eval::classification::{ClassScores, Confusion, top_k};

use crate::{ROUNDING, close, fixture, list, rows};

#[test]
fn numbers_are_those_of_scikit_learn() {
    for case in rows(
        &fixture(include_str!("../fixtures/classification.json")),
        "cases",
    ) {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let labels: Vec<usize> = list(&case["labels"]);
        let predictions: Vec<usize> = list(&case["predictions"]);
        let table = Confusion::new(classes, &labels, &predictions).unwrap();
        assert_eq!(table.counts(), list::<u64>(&case["confusion"]));
        for (got, key) in [
            (table.accuracy(), "accuracy"),
            (table.mean_accuracy(), "mean_accuracy"),
            (table.matthews(), "matthews"),
            (table.macro_f1(), "macro_f1"),
            (table.micro_f1(), "micro_f1"),
        ] {
            close(got.unwrap(), case[key].as_f64().unwrap(), ROUNDING);
        }
        for (class, expected) in list::<f64>(&case["f1"]).into_iter().enumerate() {
            close(table.f1(class).unwrap(), expected, ROUNDING);
        }
        if case["scores"].is_null() {
            continue;
        }
        let scores = ClassScores::new(classes, list(&case["scores"])).unwrap();
        assert_eq!((scores.rows(), scores.classes()), (labels.len(), classes));
        assert_eq!(scores.predictions(&labels).unwrap(), predictions);
        let ranks = scores.ranks(&labels).unwrap();
        assert_eq!(ranks, list::<usize>(&case["ranks"]));
        for (k, expected) in (1..).zip(list::<f64>(&case["top_k"])) {
            close(top_k(&ranks, k).unwrap(), expected, ROUNDING);
        }
        close(top_k(&ranks, 1).unwrap(), table.accuracy().unwrap(), 0.0);
        assert_eq!(top_k(&ranks, classes), Some(1.0));
    }
}

#[test]
fn a_model_that_tells_nothing_apart_is_right_nowhere() {
    let scores = ClassScores::new(3, vec![0.5; 9]).unwrap();
    let labels = [0, 1, 2];
    assert_eq!(scores.ranks(&labels).unwrap(), [3, 3, 3]);
    assert_eq!(scores.predictions(&labels).unwrap(), [1, 0, 0]);
    // Infinite scores compare as usual.
    let endless = vec![f32::NEG_INFINITY, f32::INFINITY];
    let scores = ClassScores::new(2, endless).unwrap();
    assert_eq!(scores.ranks(&[1]).unwrap(), [1]);
}

#[test]
fn classes_that_do_not_occur_are_left_out_of_means() {
    // Class 2 is neither labelled nor predicted, class 1 only predicted.
    let table = Confusion::new(3, &[0, 0], &[0, 1]).unwrap();
    assert_eq!(table.accuracies(), [Some(0.5), None, None]);
    assert_eq!(table.mean_accuracy(), Some(0.5));
    close(table.macro_f1().unwrap(), (2.0 / 3.0 + 0.0) / 2.0, ROUNDING);
    assert_eq!(table.f1(2).unwrap(), 0.0);
    assert_eq!(table.matthews(), Some(0.0));
    let none = Confusion::new(3, &[], &[]).unwrap();
    let numbers = [none.accuracy(), none.mean_accuracy(), none.matthews()];
    assert_eq!(numbers, [None; 3]);
    assert_eq!(
        (none.macro_f1(), none.micro_f1(), top_k(&[], 1)),
        (None, None, None)
    );
}

#[test]
fn bad_input_is_named() {
    let message = |result: Result<ClassScores, EvalError>| result.unwrap_err().to_string();
    assert_eq!(
        message(ClassScores::new(2, vec![0.0, 1.0, 0.0, f32::NAN])),
        "the score of row 1 and class 1 is NaN; has the model diverged?"
    );
    assert!(message(ClassScores::new(2, vec![0.0; 3])).ends_with("expected 0, got 1"));
    assert!(ClassScores::new(0, Vec::new()).is_err());
    let scores = ClassScores::new(2, vec![0.0; 4]).unwrap();
    assert_eq!(
        scores.ranks(&[0, 2]).unwrap_err().to_string(),
        "the label of row 1 is class 2, but there are 2 classes, counted from 0"
    );
    assert!(scores.predictions(&[0]).is_err());
    assert_eq!(
        Confusion::new(2, &[0], &[5]).unwrap_err().to_string(),
        "the prediction of row 0 is class 5, but there are 2 classes, counted from 0"
    );
    assert!(Confusion::new(2, &[0], &[]).is_err());
    let table = Confusion::new(2, &[0], &[1]).unwrap();
    assert_eq!(
        table.f1(2).unwrap_err().to_string(),
        "class of F1 = 2: allowed is below 2"
    );
}
