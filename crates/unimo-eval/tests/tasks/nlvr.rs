use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_eval::nlvr::{
    Labelled, evaluate, nlvr1_group, nlvr2_group, read_label, read_submission_line, submission_line,
};

use crate::{ROUNDING, close, fixture, list, rows};

fn row(identifier: &str, label: bool) -> Labelled {
    Labelled {
        identifier: identifier.to_owned(),
        label,
    }
}

#[test]
fn accuracy_and_consistency_are_the_official_ones() {
    let all = fixture(include_str!("../fixtures/nlvr.json"));
    for (key, group) in [
        ("nlvr2", nlvr2_group as fn(&str) -> Option<String>),
        ("nlvr1", nlvr1_group),
    ] {
        for case in rows(&all, key) {
            let annotated: Vec<(String, String)> = list(&case["rows"]);
            let annotated: Vec<_> = annotated
                .iter()
                .map(|(identifier, label)| row(identifier, read_label(label).unwrap()))
                .collect();
            let lines: Vec<String> = list(&case["lines"]);
            let predictions: Vec<_> = lines
                .iter()
                .map(|line| read_submission_line(line).unwrap())
                .collect();
            let (report, right) = evaluate(&annotated, &predictions, group).unwrap();
            close(
                report.accuracy,
                case["accuracy"].as_f64().unwrap(),
                ROUNDING,
            );
            close(
                report.consistency,
                case["consistency"].as_f64().unwrap(),
                ROUNDING,
            );
            assert_eq!(
                (report.rows, right.len()),
                (annotated.len(), annotated.len())
            );
        }
    }
}

#[test]
fn consistency_is_accuracy_where_each_group_has_one_row() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut labels = || -> Vec<Labelled> {
        (0..100)
            .map(|set| row(&format!("dev-{set}-0-0"), rng.random_bool(0.5)))
            .collect()
    };
    let (truth, predictions) = (labels(), labels());
    let (report, _) = evaluate(&truth, &predictions, nlvr2_group).unwrap();
    assert_eq!(report.consistency, report.accuracy);
    assert_eq!(report.groups, 100);
    let (report, _) = evaluate(&truth, &truth, nlvr2_group).unwrap();
    assert_eq!((report.accuracy, report.consistency), (1.0, 1.0));
}

#[test]
fn groups_follow_from_identifiers() {
    assert_eq!(nlvr2_group("dev-850-3-0").as_deref(), Some("dev-850--0"));
    assert_eq!(nlvr2_group("dev-850"), None);
    assert_eq!(nlvr1_group("1572-0-5").as_deref(), Some("1572"));
    assert_eq!(nlvr1_group(""), None);
    // Pairs 0 and 1 of one sentence are a group; one wrong row spoils it.
    let truth = [
        row("dev-1-0-0", true),
        row("dev-1-1-0", true),
        row("dev-1-0-1", true),
    ];
    let mut predictions = truth.clone();
    predictions[1].label = false;
    let (report, right) = evaluate(&truth, &predictions, nlvr2_group).unwrap();
    assert_eq!((report.groups, report.consistency), (2, 0.5));
    assert_eq!(right, [true, false, true]);
}

#[test]
fn what_does_not_fit_is_named() {
    let truth = [row("dev-1-0-0", true), row("dev-1-1-0", true)];
    let message = |predictions: &[Labelled]| {
        let result = evaluate(&truth, predictions, nlvr2_group);
        result.unwrap_err().to_string()
    };
    assert_eq!(
        message(&[
            row("dev-1-0-0", true),
            row("dev-1-0-0", false),
            row("x", true)
        ]),
        "each of the 2 annotated rows needs exactly one prediction; by identifier: without a prediction \
         1 (dev-1-1-0), with several 1 (dev-1-0-0), predicted but not annotated 1 (x)"
    );
    let short = [row("dev-1", true)];
    assert_eq!(
        evaluate(&short, &short, nlvr2_group)
            .unwrap_err()
            .to_string(),
        r#"identifier "dev-1": allowed is one that says its group"#
    );
    assert!(evaluate(&[], &[], nlvr2_group).is_err());
}

#[test]
fn lines_of_submissions_are_written_and_read() {
    let line = submission_line(&row("dev-850-0-0", true)).unwrap();
    assert_eq!(line, "dev-850-0-0,True");
    assert_eq!(
        read_submission_line(&line).unwrap(),
        row("dev-850-0-0", true)
    );
    assert_eq!(
        read_submission_line("a,fAlSe\r\n").unwrap(),
        row("a", false)
    );
    for bad in ["", " a", "a,b", "a\nb"] {
        assert!(submission_line(&row(bad, true)).is_err(), "{bad:?}");
    }
    for bad in ["", "a", "a,", "a, True", "a,True,1", "a,yes"] {
        assert!(read_submission_line(bad).is_err(), "{bad:?}");
    }
    assert_eq!(
        read_label("maybe").unwrap_err().to_string(),
        r#"label "maybe": allowed is `True` or `False`, in any case"#
    );
}
