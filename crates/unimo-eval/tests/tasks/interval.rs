use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_eval::Bootstrap;
use unimo_eval::interval::wilson;

use crate::{ROUNDING, close, fixture, list, rows};

const CASES: &str = include_str!("../fixtures/interval.json");

#[test]
fn wilson_is_that_of_scipy() {
    for case in rows(&fixture(CASES), "wilson") {
        let count = |at: usize| case[at].as_u64().unwrap() as usize;
        let number = |at: usize| case[at].as_f64().unwrap();
        let got = wilson(count(0), count(1), number(2)).unwrap().unwrap();
        close(got.low, number(3), ROUNDING);
        close(got.high, number(4), ROUNDING);
        let share = count(0) as f64 / count(1) as f64;
        assert!(got.low <= share && share <= got.high);
    }
    assert_eq!(wilson(0, 0, 0.95).unwrap(), None);
}

#[test]
fn the_bootstrap_is_that_of_the_reference() {
    for case in rows(&fixture(CASES), "bootstrap") {
        let (values, groups): (Vec<f64>, Vec<u64>) = (list(&case[0]), list(&case[1]));
        let bootstrap = Bootstrap {
            seed: case[2].as_u64().unwrap(),
            resamples: case[3].as_u64().unwrap() as usize,
            confidence: case[4].as_f64().unwrap(),
        };
        let got = bootstrap.grouped_mean(&values, &groups).unwrap().unwrap();
        close(got.low, case[5].as_f64().unwrap(), ROUNDING);
        close(got.high, case[6].as_f64().unwrap(), ROUNDING);
    }
}

#[test]
fn the_bootstrap_holds_the_mean_and_is_repeatable() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for seed in 0..50 {
        let values: Vec<f64> = (0..rng.random_range(20..200))
            .map(|_| f64::from(rng.random_range(0..=10_u8)) / 10.0)
            .collect();
        let bootstrap = Bootstrap {
            seed,
            ..Bootstrap::default()
        };
        let got = bootstrap.mean(&values).unwrap().unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!(got.low < mean && mean < got.high, "{got:?} without {mean}");
        assert_eq!(bootstrap.mean(&values).unwrap(), Some(got));
        // A group per row is no group.
        let alone: Vec<usize> = (0..values.len()).collect();
        assert_eq!(bootstrap.grouped_mean(&values, &alone).unwrap(), Some(got));
        let other = Bootstrap {
            seed: seed + 1000,
            ..bootstrap
        };
        assert_ne!(other.mean(&values).unwrap(), Some(got));
    }
}

#[test]
fn rows_that_go_together_make_the_interval_wider() {
    // Twenty rows, each five times: only twenty of the hundred are news.
    let values: Vec<f64> = (0..100).map(|at| f64::from(at / 5 % 2)).collect();
    let groups: Vec<usize> = (0..100).map(|at| at / 5).collect();
    let bootstrap = Bootstrap::default();
    let width = |interval: Option<unimo_eval::Interval>| {
        let interval = interval.unwrap();
        interval.high - interval.low
    };
    let alone = width(bootstrap.mean(&values).unwrap());
    let together = width(bootstrap.grouped_mean(&values, &groups).unwrap());
    // By the square root of 5, 2.24, but for chance.
    assert!(together / alone > 1.9 && together / alone < 2.6);
    // Their names do not matter.
    let names: Vec<String> = groups.iter().map(|at| format!("{}", 99 - at)).collect();
    assert_eq!(
        width(bootstrap.grouped_mean(&values, &names).unwrap()),
        together
    );
}

#[test]
fn the_intervals_of_a_share_agree() {
    // 300 of 1000: both methods are near the normal approximation, half a percent of a share apart at most.
    let values: Vec<f64> = (0..1000).map(|at| f64::from(u8::from(at < 300))).collect();
    let bootstrap = Bootstrap {
        resamples: 5000,
        ..Bootstrap::default()
    };
    let drawn = bootstrap.mean(&values).unwrap().unwrap();
    let formula = wilson(300, 1000, 0.95).unwrap().unwrap();
    close(drawn.low, formula.low, 0.005);
    close(drawn.high, formula.high, 0.005);
}

#[test]
fn bad_input_is_named() {
    let bootstrap = Bootstrap::default();
    assert_eq!(bootstrap.mean(&[]).unwrap(), None);
    assert_eq!(
        bootstrap.mean(&[0.0, f64::NAN]).unwrap_err().to_string(),
        "the value of row 1 is NaN: allowed are finite numbers"
    );
    assert_eq!(
        bootstrap
            .grouped_mean(&[0.0], &[1, 2])
            .unwrap_err()
            .to_string(),
        "groups (one per value): expected 1, got 2"
    );
    let none = Bootstrap {
        resamples: 0,
        ..bootstrap
    };
    assert_eq!(
        none.mean(&[0.0]).unwrap_err().to_string(),
        "resamples = 0: allowed is 1 or more"
    );
    for confidence in [0.0, 1.0, -0.5, 95.0, f64::NAN] {
        let wrong = Bootstrap {
            confidence,
            ..bootstrap
        };
        let message = wrong.mean(&[0.0]).unwrap_err().to_string();
        assert!(
            message.ends_with("allowed is between 0 and 1, such as 0.95"),
            "{message}"
        );
        assert!(wilson(1, 2, confidence).is_err());
    }
    assert_eq!(
        wilson(3, 2, 0.95).unwrap_err().to_string(),
        "right rows = 3: allowed is 0 to 2, the number of rows"
    );
    // Settings in a file.
    assert!(serde_json::from_str::<Bootstrap>(r#"{"seed": 1, "sed": 2}"#).is_err());
    let read: Bootstrap = serde_json::from_str(r#"{"seed": 1}"#).unwrap();
    assert_eq!((read.seed, read.resamples), (1, 1000));
}
