//! Which box an expression means, from data to predictions: trained, judged, predicted and drawn; and what does not fit is named.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use unimo_data::Split;
use unimo_eval::boxes::{BoundingBox, FOUND_AT, iou};
use unimo_train::apply::predict::{self, Format, PredictArgs};
use unimo_train::device::DeviceChoice;
use unimo_train::evaluation;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

/// The smallest recipe with another task, of a size that trains in a second.
const SMALL: &[&str] = &[
    "objectives={ grounding = { weight = 1.0, pooling = \"pair\" } }",
    "data.scenes.texts=expressions",
    "eval.limit=0",
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "train.eval_every=2",
    "eval.gallery=2",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=40",
    "data.scenes.val=6",
    "data.tokenizer.vocab_size=300",
];

fn recipe(more: &[&str]) -> Result<Recipe, String> {
    let set = SMALL.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    Recipe::load("unimo3-tiny", &overrides).map_err(|error| error.to_string())
}

fn train(more: &[&str], folder: &Path) -> PathBuf {
    let options = Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    };
    training::start(&recipe(more).unwrap(), folder, &options).unwrap()
}

fn predicted(run: &Path, format: Format, out: &Path) -> Result<Vec<Value>, String> {
    let args = PredictArgs {
        run: run.to_owned(),
        step: None,
        data: None,
        set: Vec::new(),
        labels: None,
        split: Split::Val,
        limit: 0,
        format,
        out: Some(out.to_owned()),
        device: DeviceChoice::Flex,
    };
    predict::run(&args).map_err(|error| error.to_string())?;
    let text = fs::read_to_string(out).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Ok(lines.collect())
}

fn bounding(value: &Value) -> BoundingBox {
    let corners = value.as_array().unwrap().iter();
    let corners: Vec<f64> = corners.map(|edge| edge.as_f64().unwrap()).collect();
    assert!(corners.iter().all(|edge| (0.0..=1.0).contains(edge)));
    BoundingBox::new(corners.try_into().unwrap()).unwrap()
}

/// Predictions of every held-out expression, one line each, and their numbers among the evaluations and in the report.
#[test]
fn every_expression_gets_a_box_and_is_judged() {
    // The file has the shortest decimals of f32; the IoU is of f64 made of them.
    const DECIMALS: f64 = 1e-6;
    let folder = TempDir::new().unwrap();
    let run = train(&[], &folder.path().join("run"));
    assert!(!run.join("labels.json").exists());
    let lines = predicted(&run, Format::Jsonl, &folder.path().join("out.jsonl")).unwrap();
    let overlap = |line: &Value| iou(&bounding(&line["box"]), &bounding(&line["right_box"]));
    let overlaps: Vec<f64> = lines.iter().map(overlap).collect();
    assert!(lines.iter().all(|line| line["prediction"].is_null()
        && line["answer"].is_null()
        && line["text"].as_str().unwrap().starts_with("the ")));
    let (_, records) = evaluation::run(&run, &evaluation::Options::default()).unwrap();
    assert_eq!(
        (records.len(), records[0].evaluator.as_str()),
        (1, "grounding")
    );
    assert_eq!(records[0].texts as usize, lines.len());
    let of = |name: &str| &records[0].scalars[&format!("grounding.{name}")];
    let mean = overlaps.iter().sum::<f64>() / overlaps.len() as f64;
    assert!((of("iou").value - mean).abs() < DECIMALS);
    let found = overlaps.iter().filter(|iou| **iou >= FOUND_AT).count();
    let share = found as f64 / overlaps.len() as f64;
    assert!((of("accuracy").value - share).abs() < 1e-12);
    assert!(of("iou").chance.is_some_and(|chance| chance > 0.0));
    assert!(
        records[0]
            .scalars
            .contains_key("grounding.expression.colour and shape")
    );

    let evals = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    assert!(
        evals.contains("\"scored\":\"grounding.accuracy on val\""),
        "{evals}"
    );
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    for part in ["The right box is green", "IoU with the right box"] {
        assert!(report.contains(part), "{part}");
    }
    let pictures = fs::read_dir(run.join("predictions")).unwrap();
    let magenta = |path: PathBuf| {
        let picture = image::open(path).unwrap().to_rgb8();
        picture.pixels().any(|pixel| pixel.0 == [255, 0, 200])
    };
    let drawn: Vec<bool> = pictures.map(|file| magenta(file.unwrap().path())).collect();
    assert!(!drawn.is_empty() && drawn.into_iter().all(|drawn| drawn));

    let results = folder.path().join("results.json");
    let error = predicted(&run, Format::Vqa, &results).unwrap_err();
    assert!(
        error.contains("--format vqa") && error.contains("[objectives.grounding]"),
        "{error}"
    );
    assert!(!results.exists());
}

/// Crops, flips and operations from a list would move the boxes; colours do not.
#[test]
fn what_moves_the_image_is_refused() {
    let still = "scale = [1.0, 1.0], ratio = [0.75, 1.5]";
    for moving in [
        "scale = [0.5, 1.0], ratio = [0.75, 1.5], flip = 0.0".to_owned(),
        format!("{still}, flip = 0.5"),
        format!(
            "{still}, flip = 0.0, rand_augment = {{ list = \"meter\", operations = 2, magnitude = 9, when = \"before_crop\" }}"
        ),
    ] {
        let error = recipe(&[&format!("data.augment={{ {moving} }}")]).unwrap_err();
        assert!(
            error.contains("data.augment") && error.contains("objectives.grounding"),
            "{error}"
        );
    }
    let jitter =
        "colour_jitter = { brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 }";
    recipe(&[&format!("data.augment={{ {still}, flip = 0.0, {jitter} }}")]).unwrap();
}

/// Data that says nothing of boxes is refused, with what is missing.
#[test]
fn data_without_boxes_is_refused() {
    let folder = TempDir::new().unwrap();
    let recipe = recipe(&["data.scenes.texts=captions"]).unwrap();
    let options = Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    };
    let error = training::start(&recipe, &folder.path().join("run"), &options);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
}
