//! Captions of a trained model: their evaluation during training, and `unimo caption`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unimo_train::apply::caption::{self, CaptionArgs, Format, SearchArgs};
use unimo_train::apply::{BatchArgs, ModelArgs};
use unimo_train::device::DeviceChoice;
use unimo_train::evaluation;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

const TINY: &[&str] = &[
    "train.steps=2",
    "train.eval_every=1",
    "train.batch_size=4",
    "model.text.vocab_size=300",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.max_text_length=32",
    "data.scenes.size=32",
    "data.scenes.train=300",
    "data.scenes.val=6",
    "data.tokenizer.vocab_size=300",
];

fn train(name: &str, run: &Path, more: &[&str]) {
    let set = TINY.iter().chain(more).map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    let recipe = Recipe::load(name, &overrides).unwrap();
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    };
    training::start(&recipe, run, &options).unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A folder with three images and a file that only looks like one.
fn pictures(folder: &Path) -> PathBuf {
    let pictures = folder.join("pictures");
    fs::create_dir(&pictures).unwrap();
    for (number, name) in ["a_12.png", "b_7.png", "c_9.png"].iter().enumerate() {
        let grey = image::RgbImage::from_pixel(40, 30, image::Rgb([80 * number as u8, 90, 200]));
        grey.save(pictures.join(name)).unwrap();
    }
    fs::write(pictures.join("broken_3.png"), b"no image").unwrap();
    pictures
}

fn args(run: &Path, images: Vec<PathBuf>, out: &Path) -> CaptionArgs {
    CaptionArgs {
        model: ModelArgs {
            model: run.display().to_string(),
            tokenizer: None,
            step: None,
            device: DeviceChoice::Flex,
        },
        batch: BatchArgs { batch_size: 2 },
        images,
        image_column: None,
        out: Some(out.to_owned()),
        format: Format::Jsonl,
        search: SearchArgs {
            max_length: Some(8),
            ..SearchArgs::default()
        },
    }
}

#[test]
fn a_run_writes_captions_and_they_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train("unimo3-caption-tiny", &run, &[]);
    let evaluations = lines(&run.join("evals.jsonl"));
    assert_eq!(evaluations.len(), 2);
    for found in &evaluations {
        assert_eq!(found["evaluator"], "captions");
        assert_eq!(found["images"], 6);
        let scalars = found["scalars"].as_object().unwrap();
        assert_eq!(scalars.len(), 5);
        let scalar = &scalars["captions.cider_d"];
        assert_eq!(found["score"], scalar["value"]);
        // Scenes differ, so other images' captions score less than 10 and more than 0.
        let chance = scalar["chance"].as_f64().unwrap();
        assert!(chance > 0.0 && chance < 9.0, "{chance}");
    }
    let written = lines(&run.join("captions.jsonl"));
    assert_eq!(written.len(), 6);
    assert!(written.iter().all(|line| line["caption"].is_string()));
    assert!(written[0]["references"][0].as_str().unwrap().contains(' '));

    // `unimo eval` gives the numbers of the best step once more.
    let options = evaluation::Options {
        step: Some(2),
        ..evaluation::Options::default()
    };
    let (_, record) = evaluation::run(&run, &options).unwrap();
    let record = &record[0];
    let again = record.scalars["captions.cider_d"].value;
    assert_eq!(evaluations[1]["score"].as_f64().unwrap(), again);
    assert!(evaluation::table(record).contains("captions.cider_d"));

    let pictures = pictures(folder.path());
    let out = folder.path().join("captions.jsonl");
    caption::run(&args(&run, vec![pictures.clone()], &out)).unwrap();
    let found = lines(&out);
    let names: Vec<&str> = found.iter().map(|l| l["image"].as_str().unwrap()).collect();
    assert_eq!(names, ["a_12.png", "b_7.png", "broken_3.png", "c_9.png"]);
    for line in &found {
        let broken = line["image"] == "broken_3.png";
        assert_eq!(line.get("error").is_some(), broken, "{line}");
        assert_eq!(line.get("caption").is_none(), broken, "{line}");
        assert!(broken || line["score"].as_f64().unwrap() < 0.0);
    }

    // The same of single files, in another batch.
    let files = ["c_9.png", "a_12.png"].map(|name| pictures.join(name));
    let single = folder.path().join("single.jsonl");
    caption::run(&args(&run, files.to_vec(), &single)).unwrap();
    let single = lines(&single);
    assert_eq!(single[0]["caption"], found[3]["caption"]);
    assert_eq!(single[1]["caption"], found[0]["caption"]);

    let results = folder.path().join("results.json");
    let coco = CaptionArgs {
        format: Format::Coco,
        ..args(&run, vec![pictures.clone()], &results)
    };
    caption::run(&coco).unwrap();
    let results: Vec<Value> = serde_json::from_slice(&fs::read(&results).unwrap()).unwrap();
    let ids: Vec<u64> = results
        .iter()
        .map(|r| r["image_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [12, 7, 9]);
    assert_eq!(results[0]["caption"], found[0]["caption"]);

    // What is drawn follows from the seed.
    let drawn = |seed: u64, name: &str| {
        let out = folder.path().join(name);
        let mut args = args(&run, vec![pictures.clone()], &out);
        args.search.top_p = Some(0.95);
        args.search.seed = Some(seed);
        caption::run(&args).unwrap();
        lines(&out)
    };
    assert_eq!(drawn(1, "1.jsonl"), drawn(1, "2.jsonl"));
    assert_ne!(drawn(1, "1.jsonl"), drawn(2, "2.jsonl"));

    // What cannot be done is said before anything is written.
    let none = folder.path().join("none.jsonl");
    let mut long = args(&run, vec![pictures.clone()], &none);
    long.search.max_length = Some(100);
    let error = caption::run(&long).unwrap_err().to_string();
    assert!(error.contains("--max-length 100"), "{error}");
    let broken = args(&run, vec![pictures.join("broken_3.png")], &none);
    let error = caption::run(&broken).unwrap_err().to_string();
    assert!(error.contains("no image could be read"), "{error}");
    assert!(!none.exists());
}

#[test]
fn a_run_without_language_modelling_writes_no_captions() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train("unimo3-tiny", &run, &["eval.limit=4"]);
    let pictures = pictures(folder.path());
    let out = folder.path().join("captions.jsonl");
    let error = caption::run(&args(&run, vec![pictures], &out)).unwrap_err();
    assert!(error.to_string().contains("[objectives.lm]"), "{error}");

    let overrides = Overrides {
        data: None,
        set: TINY
            .iter()
            .copied()
            .chain(["eval.captions={}"])
            .map(str::to_owned)
            .collect(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let error = training::start(
        &recipe,
        &folder.path().join("other"),
        &training::Options {
            device: Some(DeviceChoice::Flex),
            quiet: true,
            ..training::Options::default()
        },
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("eval.captions") && error.contains("[objectives.lm]"),
        "{error}"
    );
}

/// Captions of the model's own are scored by all captions of their images, and the run goes on as one without an end would have.
#[test]
fn a_run_learns_from_captions_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let set = [
        "objectives.lm={ weight = 1.0, self_critical = { samples = 2, max_length = 8, documents = 50 } }",
        "train.checkpoint_every=1",
        "train.log_every=1",
        "eval.captions.limit=2",
    ];
    let whole = folder.path().join("whole");
    train("unimo3-caption-tiny", &whole, &set);
    let metrics = lines(&whole.join("metrics.jsonl"));
    assert_eq!(metrics.len(), 2);
    for line in &metrics {
        let reward = line["losses"]["lm"]["reward"].as_f64().unwrap();
        assert!((0.0..=10.0).contains(&reward), "{line}");
    }
    // The second step once more, from the checkpoint after the first.
    let again = folder.path().join("again");
    fs::create_dir_all(again.join("checkpoints")).unwrap();
    for entry in fs::read_dir(&whole).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, again.join(path.file_name().unwrap())).unwrap();
        }
    }
    let name = "checkpoints/step-00000001.safetensors";
    fs::copy(whole.join(name), again.join(name)).unwrap();
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    };
    training::resume(&again, &options).unwrap();
    let resumed = lines(&again.join("metrics.jsonl"));
    assert_eq!(resumed[1]["losses"], metrics[1]["losses"]);
}
