//! Statements about two images from files to official numbers, and ranking as what retrieval scores pairs by.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use tempfile::TempDir;
use unimo_train::device::DeviceChoice;
use unimo_train::evaluation;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

/// What makes a recipe train in seconds.
const SMALL: &[&str] = &[
    "train.batch_size=16",
    "train.log_every=1",
    "train.checkpoint_every=1000",
    "train.eval_every=0",
    "eval.gallery=2",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.tokenizer.vocab_size=300",
];

fn recipe(name: &str, more: &[&str]) -> Result<Recipe, String> {
    let set = SMALL.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    Recipe::load(name, &overrides).map_err(|error| error.to_string())
}

fn options() -> Options {
    Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    }
}

/// Pairs of plain images in NLVR2's form, two for each sentence. Whether the right one is red follows from nothing else: not from the
/// statement, nor from the left one.
fn write(folder: &Path, split: &str, pairs: usize) {
    let mut rows = String::new();
    for pair in 0..pairs {
        let red = |side: usize| (pair >> (1 - side)) & 1 == 1;
        let name = format!("{split}-{}-{}", pair / 2, pair % 2);
        for side in 0..2 {
            let colour = if red(side) {
                Rgb([230, 20, 20])
            } else {
                Rgb([20, 200, 40])
            };
            let file = folder.join(format!("{name}-img{side}.png"));
            RgbImage::from_pixel(16, 16, colour).save(file).unwrap();
        }
        for (at, (claim, holds)) in [("red", red(1)), ("green", !red(1))].iter().enumerate() {
            let label = if *holds { "True" } else { "False" };
            writeln!(
                rows,
                r#"{{"identifier": "{name}-{at}", "sentence": "the right one is {claim}", "label": "{label}"}}"#
            )
            .unwrap();
        }
    }
    fs::write(folder.join(format!("{split}.json")), rows).unwrap();
}

fn two_images(folder: &Path) -> Vec<String> {
    let file = |split: &str| {
        let path = folder.join(format!("{split}.json"));
        format!("{{ path = {path:?}, images = {folder:?} }}")
    };
    vec![
        "data.source=nlvr".to_owned(),
        "data.scenes=none".to_owned(),
        format!(
            "data.nlvr={{ train = {}, val = {} }}",
            file("train"),
            file("dev")
        ),
        "objectives.nlvr2.images=2".to_owned(),
        "model.fusion.pictures=2".to_owned(),
        "train.steps=240".to_owned(),
    ]
}

const STATEMENTS: &str = "unimo3-statements-tiny";

/// What can only be known from the right image is learned, and consistency is among the numbers.
#[test]
fn statements_about_the_right_image_are_learned() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "train", 32);
    write(folder.path(), "dev", 8);
    let set = two_images(folder.path());
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let recipe = recipe(STATEMENTS, &set).unwrap();
    let run = training::start(&recipe, &folder.path().join("run"), &options()).unwrap();
    let (_, records) = evaluation::run(&run, &evaluation::Options::default()).unwrap();
    let number = |name: &str| records[0].scalars[name].value;
    // One answer to all reaches 0.5, and no group of two.
    assert!(number("nlvr2.accuracy") > 0.9, "{records:?}");
    assert!(number("nlvr2.consistency") > 0.8, "{records:?}");
    assert!(records[0].scalars.contains_key("nlvr2.label.True"));
}

#[test]
fn two_images_are_not_learned_from_one() {
    let folder = TempDir::new().unwrap();
    let set = ["objectives.nlvr2.images=2", "model.fusion.pictures=2"];
    let recipe = recipe(STATEMENTS, &set).unwrap();
    let out = folder.path().join("run");
    let error = training::start(&recipe, &out, &options())
        .unwrap_err()
        .to_string();
    for part in ["objectives.nlvr2.images = 2", "has one image each"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!out.exists());
}

/// A model that has learned ranking alone retrieves by it.
#[test]
fn ranking_scores_retrieval() {
    let folder = TempDir::new().unwrap();
    let set = [
        "objectives={ ranking = { weight = 1.0, negatives = 3, pooling = \"pair\" } }",
        "train.steps=2",
        "eval.limit=0",
        "data.scenes.size=32",
        "data.scenes.train=40",
        "data.scenes.val=6",
    ];
    let recipe = recipe("unimo3-tiny", &set).unwrap();
    let run = training::start(&recipe, &folder.path().join("run"), &options()).unwrap();
    let (_, records) = evaluation::run(&run, &evaluation::Options::default()).unwrap();
    assert_eq!(records[0].evaluator, "retrieval");
    // Every caption of six images with every image.
    assert_eq!(records[0].pairs, 6 * 12);
    assert_eq!(records[0].retrieval.len(), 1);
}
