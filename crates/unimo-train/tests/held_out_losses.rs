//! Held-out losses: of the same samples each time, whatever the run.

#![cfg(feature = "flex")]

use std::fs;
use std::path::Path;

use unimo_report::record::EvalRecord;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

/// A sum of three doubles in another order.
const ROUNDING: f64 = 1e-9;

/// A run that takes a second or two.
const SMALL: &[&str] = &[
    "train.steps=4",
    "train.batch_size=4",
    "train.checkpoint_every=2",
    "train.eval_every=2",
    "eval.gallery=0",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=60",
    "data.scenes.val=20",
    "data.tokenizer.vocab_size=300",
    "eval.losses={}",
];

fn evaluations(run: &Path, more: &[&str]) -> Vec<EvalRecord> {
    let set = SMALL.iter().chain(more).map(|set| (*set).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    };
    training::start(&recipe, run, &options).unwrap();
    let text = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Held-out samples, hidden words and negatives depend on the seed alone: weights that stay as they are have the same losses at every
/// evaluation, in another run, and after another number of steps.
#[test]
fn held_out_losses_are_of_the_same_samples_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let losses = |name: &str, more: &[&str]| {
        let run = folder.path().join(name);
        // A learning rate that changes no weight in f32.
        let set = [&["train.optimizer.lr=1e-30"], more].concat();
        let records = evaluations(&run, &set).into_iter();
        let own: Vec<EvalRecord> = records.filter(|e| e.evaluator == "losses").collect();
        assert!(
            own.iter()
                .all(|record| !record.selects && record.images == 4)
        );
        own.into_iter()
            .map(|record| record.scalars)
            .collect::<Vec<_>>()
    };
    let found = losses("run", &[]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], found[1]);
    let names: Vec<&str> = found[0].keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "losses.itc",
            "losses.itc.accuracy",
            "losses.itm",
            "losses.itm.accuracy",
            "losses.mlm",
            "losses.mlm.accuracy",
            "losses.total"
        ]
    );
    let value = |name: &str| found[0][name].value;
    let sum = value("losses.itc") + value("losses.itm") + value("losses.mlm");
    assert!(
        (value("losses.total") - sum).abs() < ROUNDING,
        "weights are 1"
    );
    assert_eq!(losses("again", &["train.eval_every=1"])[3], found[0]);
    assert_ne!(losses("other", &["seed=1"])[0], found[0]);
    // An untrained model guesses words about evenly.
    let even = f64::from(512u16).ln();
    assert!(
        (value("losses.mlm") - even).abs() < 1.0,
        "{}",
        value("losses.mlm")
    );
}

#[test]
fn a_loss_that_is_less_chooses_no_weights() {
    let set = SMALL.iter().chain(&["eval.select=losses.total"]);
    let overrides = Overrides {
        data: None,
        set: set.map(|set| (*set).to_owned()).collect(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let error = training::start(&recipe, &run, &training::Options::default()).unwrap_err();
    assert!(
        error.to_string().contains("retrieval.mean_recall"),
        "{error}"
    );
}
