//! Which box an expression means, from data to predictions: trained, judged, predicted and drawn, by boxes, by regions and without boxes
//! in training; and what does not fit is named.

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
    recipe_of("unimo3-tiny", more)
}

fn recipe_of(name: &str, more: &[&str]) -> Result<Recipe, String> {
    let set = SMALL.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    Recipe::load(name, &overrides).map_err(|error| error.to_string())
}

fn train(more: &[&str], folder: &Path) -> PathBuf {
    start(&recipe(more).unwrap(), folder)
}

fn start(recipe: &Recipe, folder: &Path) -> PathBuf {
    let options = Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    };
    training::start(recipe, folder, &options).unwrap()
}

fn predicted(run: &Path, format: Format, out: &Path) -> Result<Vec<Value>, String> {
    let args = PredictArgs {
        run: run.to_owned(),
        step: None,
        data: None,
        set: Vec::new(),
        labels: None,
        split: Some(Split::Val),
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
    assert!(
        error.contains("nothing in the data has a box") && !error.contains("answer"),
        "{error}"
    );
}

/// Contrast and matching alone, as ALBEF has them: no box is trained on.
const WEAK: &[&str] = &[
    "objectives={ itm = { weight = 1.0, negatives = \"uniform\", layout = \"half\" } }",
    "eval.grad_cam={}",
];

/// What the matching score looks at is judged beside chance, drawn, and told again by `eval`, also of a run that was not asked for it.
#[test]
fn a_matching_score_points_and_chooses_without_boxes_in_training() {
    let folder = TempDir::new().unwrap();
    let run = train(WEAK, &folder.path().join("run"));
    let evals = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    let lines = evals
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let own: Vec<Value> = lines
        .filter(|line: &Value| line["evaluator"] == "grad_cam")
        .collect();
    assert_eq!(own.len(), 2, "{evals}");
    let last = &own[1]["scalars"];
    for (name, has_chance) in [
        ("pointing", true),
        ("centre", false),
        ("accuracy", true),
        ("recall", false),
        ("blank", false),
    ] {
        let scalar = &last[format!("grad_cam.{name}")];
        let share = scalar["value"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{name}");
        assert_eq!(scalar["chance"].is_number(), has_chance, "{name}");
    }
    // Every box that an expression refers to is among those that the scenes name.
    assert_eq!(last["grad_cam.recall"]["value"], 1.0);
    assert!(last["grad_cam.expression.colour"]["value"].is_number());
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    for part in ["What the matching score looks at", "the chosen one magenta"] {
        assert!(report.contains(part), "{part}");
    }
    let pictures = fs::read_dir(run.join("grad_cam")).unwrap();
    let red = |path: PathBuf| {
        let picture = image::open(path).unwrap().to_rgb8();
        picture.pixels().any(|p| p.0[0] > 200 && p.0[1] < 100)
    };
    let drawn: Vec<bool> = pictures.map(|file| red(file.unwrap().path())).collect();
    assert!(!drawn.is_empty() && drawn.iter().any(|drawn| *drawn));

    let evaluated = |run: &Path, set: &[&str]| {
        let options = evaluation::Options {
            set: set.iter().map(|s| (*s).to_owned()).collect(),
            step: Some(4),
            ..evaluation::Options::default()
        };
        evaluation::run(run, &options).map(|(_, records)| records)
    };
    let of = |records: &[unimo_report::record::EvalRecord], name: &str| {
        let mut own = records.iter().filter(|r| r.evaluator == "grad_cam");
        own.next().unwrap().scalars[&format!("grad_cam.{name}")]
    };
    let again = evaluated(&run, &[]).unwrap();
    let pointing = of(&again, "pointing");
    assert_eq!(last["grad_cam.pointing"]["value"], pointing.value);

    // A run that was not asked for it.
    let other = train(&WEAK[..1], &folder.path().join("other"));
    let sliding = evaluated(
        &other,
        &["eval.grad_cam={ boxes = \"sliding\", layer = 2 }"],
    )
    .unwrap();
    assert!(of(&sliding, "recall").value > 0.5 && of(&sliding, "accuracy").chance.unwrap() < 0.5);
    let error = evaluated(&other, &["eval.limit=3"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("eval.limit=3") && error.contains("eval.grad_cam"),
        "{error}"
    );
}

/// Where there is no matching score, no second stream, no patches or no such layer, the recipe is refused with what is missing.
#[test]
fn a_map_of_what_is_not_there_is_refused() {
    let joint = [
        "objectives={ itm = { weight = 1.0, negatives = \"uniform\", layout = \"half\", head = \"text\" } }",
        "stage=none",
        "data.concepts=none",
        "model.image_tags=false",
        "eval.grad_cam={}",
    ];
    let tiny = |name: &str, set: &[&str]| {
        let set = set.iter().map(|s| (*s).to_owned()).collect();
        let loaded = Recipe::load(name, &Overrides { data: None, set });
        loaded.unwrap_err().to_string()
    };
    for (error, part) in [
        (
            tiny("unimo3-vqa-tiny", &["eval.grad_cam={}"]),
            "[objectives.itm]",
        ),
        (tiny("mvp-tiny", &joint), "[model.fusion]"),
        (
            tiny("unimo3-tiny", &["eval.grad_cam={ layer = 3 }"]),
            "1 to 2",
        ),
        (
            tiny("unimo3-tiny", &["eval.grad_cam={ layer = 0 }"]),
            "1 to 2",
        ),
    ] {
        assert!(
            error.contains("eval.grad_cam") && error.contains(part),
            "{error}"
        );
    }
}

/// Regions of a perfect detector, of which the model chooses one: nothing else is predicted, and recall is what the regions hold.
#[test]
fn the_predicted_box_is_one_of_the_regions() {
    let small: Vec<&str> = SMALL[2..]
        .iter()
        .copied()
        .filter(|set| !set.starts_with("model.image") && !set.starts_with("model.fusion"))
        .chain([
            "model.regions.width=32",
            "model.joint.width=32",
            "model.text.vocab_size=300",
            "objectives.region_scoring.layer=1",
        ])
        .collect();
    let load = |more: &[&str]| {
        let set = small.iter().chain(more).map(|s| (*s).to_owned()).collect();
        Recipe::load("mvp-grounding-tiny", &Overrides { data: None, set })
    };
    let folder = TempDir::new().unwrap();
    let recipe = load(&[]).unwrap();
    let run = start(&recipe, &folder.path().join("run"));
    let lines = predicted(&run, Format::Jsonl, &folder.path().join("out.jsonl")).unwrap();
    let source = unimo_data::open(&recipe.data).unwrap();
    let scenes = 0..source.len(Split::Val);
    let boxes: Vec<[f32; 4]> = scenes
        .flat_map(|index| source.sample(Split::Val, index).unwrap().boxes)
        .collect();
    for line in &lines {
        let chosen = line["box"].as_array().unwrap().iter();
        let chosen: Vec<f32> = chosen.map(|edge| edge.as_f64().unwrap() as f32).collect();
        assert!(boxes.iter().any(|known| known[..] == chosen[..]), "{line}");
    }
    let (_, records) = evaluation::run(&run, &evaluation::Options::default()).unwrap();
    let last = &records[0].scalars;
    assert_eq!(last["region_scoring.recall"].value, 1.0);
    assert!(last["region_scoring.accuracy"].chance.is_some());
    let pictures = fs::read_dir(run.join("predictions")).unwrap();
    assert!(
        pictures.count() > 0,
        "a model of regions has images to show"
    );

    for (set, part) in [
        ("objectives.region_scoring.layer=3", "1 to 2"),
        ("objectives.region_scoring.dropout=1.0", "dropout"),
    ] {
        let error = load(&[set]).unwrap_err().to_string();
        assert!(
            error.contains("objectives.region_scoring") && error.contains(part),
            "{error}"
        );
    }
    let error = recipe_of(
        "unimo3-tiny",
        &["objectives={ region_scoring = { weight = 1.0, dropout = 0.0 } }"],
    )
    .unwrap_err();
    assert!(
        error.contains("[model.regions]") && error.contains("grounding"),
        "{error}"
    );
}

/// The report of a task that chooses a label shows what the model looked at for it.
#[test]
fn answers_come_with_what_the_model_looked_at() {
    let folder = TempDir::new().unwrap();
    let vqa = [
        "objectives={ vqa = { weight = 1.0, pooling = \"pair\", head = { dropout = 0.1 } } }",
        "task={ labels = { kind = \"count\", least = 1 } }",
        "data.scenes.texts=questions",
    ];
    let run = train(&vqa, &folder.path().join("run"));
    let names = |end: &str| {
        let files = fs::read_dir(run.join("predictions")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(end)).count()
    };
    let looked = names("-looked.png");
    assert!(looked > 0 && names("-0.png") == looked);
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("Grad-CAM of the label"), "no legend");
}
