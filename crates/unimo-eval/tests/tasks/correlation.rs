use unimo_eval::correlation::{pearson, spearman};

use crate::{ROUNDING, close, fixture, list, rows};

#[track_caller]
fn same(got: Option<f64>, expected: &serde_json::Value) {
    match (got, expected.as_f64()) {
        (Some(got), Some(expected)) => close(got, expected, ROUNDING),
        (got, expected) => assert_eq!(got, expected),
    }
}

#[test]
fn correlations_are_those_of_scipy() {
    for case in rows(
        &fixture(include_str!("../fixtures/correlation.json")),
        "cases",
    ) {
        let (a, b): (Vec<f64>, Vec<f64>) = (list(&case[0]), list(&case[1]));
        same(pearson(&a, &b).unwrap(), &case[2]);
        same(spearman(&a, &b).unwrap(), &case[3]);
        // Neither side is special.
        assert_eq!(pearson(&a, &b).unwrap(), pearson(&b, &a).unwrap());
        assert_eq!(spearman(&a, &b).unwrap(), spearman(&b, &a).unwrap());
    }
}

#[test]
fn what_is_undefined_is_none() {
    for correlation in [pearson, spearman] {
        assert_eq!(correlation(&[], &[]).unwrap(), None);
        assert_eq!(correlation(&[1.0], &[2.0]).unwrap(), None);
        assert_eq!(
            correlation(&[0.1; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap(),
            None
        );
        // 0 and -0 are one value.
        assert_eq!(correlation(&[0.0, -0.0], &[1.0, 2.0]).unwrap(), None);
    }
}

#[test]
fn any_scale_is_fine() {
    for scale in [1e-300, 1.0, f64::MAX] {
        let a = [-scale, -0.5 * scale, 0.5 * scale, scale];
        let b = [1.0, 2.0, 3.0, 5.0];
        // The covariance of (-2, -1, 1, 2) and (1, 2, 3, 5) is 9, their squares sum up to 10 and 8.75.
        close(
            pearson(&a, &b).unwrap().unwrap(),
            9.0 / 87.5_f64.sqrt(),
            ROUNDING,
        );
        assert_eq!(spearman(&a, &b).unwrap().map(f64::round), Some(1.0));
    }
}

#[test]
fn an_offset_changes_nothing() {
    // Powers of two, so that the values themselves are not rounded.
    let a = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0];
    let b = [2.0, 7.0, 1.0, -8.0, 2.0, 8.0];
    let there = a.map(|value| value + f64::from(1 << 30) * 64.0);
    let near = pearson(&a, &b).unwrap().unwrap();
    close(pearson(&there, &b).unwrap().unwrap(), near, ROUNDING);
}

#[test]
fn equal_values_share_the_mean_of_their_ranks() {
    // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    let got = spearman(&[1.0, 7.0, 7.0, 9.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    close(got.unwrap(), 4.5 / (4.5_f64 * 5.0).sqrt(), ROUNDING);
}

#[test]
fn bad_input_is_named() {
    let message = |a: &[f64], b: &[f64]| pearson(a, b).unwrap_err().to_string();
    assert_eq!(
        message(&[1.0, f64::NAN], &[1.0, 2.0]),
        "the prediction of row 1 is NaN: allowed are finite numbers"
    );
    assert_eq!(
        message(&[1.0], &[f64::INFINITY]),
        "the label of row 0 is inf: allowed are finite numbers"
    );
    assert_eq!(
        message(&[1.0], &[]),
        "predictions (one per label): expected 0, got 1"
    );
}
