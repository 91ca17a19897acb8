//! Classes of images and of texts, from data to numbers: what can be learned is, shuffled labels stay at chance, frozen parameters and
//! few shots are what they say, and labels that do not fit are named.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;
use unimo_train::apply::predict::{self, Format, PredictArgs};
use unimo_train::checkpoint;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

/// A small model of images.
const IMAGES: &[&str] = &[
    "train.batch_size=8",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "train.eval_every=0",
    "eval.gallery=2",
    "model.image.image_size=16",
    "model.image.patch_size=8",
    "model.image.width=16",
    "model.image.layers=1",
    "model.image.heads=2",
    "model.image.feed_forward=16",
    "data.image_size=16",
    "data.source=images",
];

/// A small model of texts, from random weights.
const TEXTS: &[&str] = &[
    "init=none",
    "train.batch_size=16",
    "train.optimizer.lr=3e-3",
    "train.checkpoint_every=1000",
    "train.eval_every=0",
    "eval.gallery=2",
    "model.initializer_range=0.1",
    "model.text.vocab_size=330",
    "model.text.width=32",
    "model.text.layers=1",
    "model.text.heads=2",
    "model.text.feed_forward=16",
    "model.text.max_positions=40",
    "model.text.positions=after_pad",
    "model.text.pad_id=1",
    "model.text.dropout=0.0",
    "objectives.sentences.dropout=0.0",
    "data.max_text_length=24",
    "data.tokenizer={ kind = \"train\", vocab_size = 330 }",
];

fn recipe(name: &str, small: &[&str], more: &[&str]) -> Recipe {
    let set = small.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    Recipe::load_quietly(name, &overrides).unwrap().0
}

fn options() -> Options {
    Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    }
}

/// The numbers of a run's last evaluation.
fn numbers(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["scalars"].clone()
}

/// Images of one colour per class, `count` of each, in class folders; brightness differs.
fn pictures(folder: &Path, classes: &[(&str, [u8; 3])], count: u8) -> PathBuf {
    for (class, colour) in classes {
        let folder = folder.join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let level = |channel: u8| channel.saturating_add(number * 3);
            let pixel = Rgb(colour.map(level));
            let picture = RgbImage::from_pixel(16, 16, pixel);
            picture.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    folder.to_owned()
}

const COLOURS: &[(&str, [u8; 3])] = &[
    ("blue", [20, 20, 180]),
    ("green", [20, 160, 20]),
    ("red", [180, 20, 20]),
];

/// `data.images` of these folders.
fn folders(train: &Path, val: &Path) -> String {
    format!(
        "data.images={{ train = [{:?}], val = [{:?}], classes = \"folders\" }}",
        train.display().to_string(),
        val.display().to_string()
    )
}

#[test]
fn folders_of_colours_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let train = pictures(&folder.path().join("train"), COLOURS, 12);
    let val = pictures(&folder.path().join("val"), COLOURS, 5);
    let data = folders(&train, &val);
    let recipe = recipe("vit-classes-tiny", IMAGES, &[&data, "train.steps=60"]);
    let run = folder.path().join("run");
    training::start(&recipe, &run, &options()).unwrap();
    let found = numbers(&run);
    /// One of fifteen may be wrong.
    const LEAST: f64 = 0.9;
    let accuracy = found["classes.accuracy"]["value"].as_f64().unwrap();
    assert!(accuracy > LEAST, "{found}");
    assert_eq!(found["classes.mean_class"]["chance"], 1.0 / 3.0);
    let told: Value =
        serde_json::from_slice(&fs::read(run.join("predictions.json")).unwrap()).unwrap();
    assert_eq!(told["classes"], serde_json::json!(["blue", "green", "red"]));
    let rows = told["confusion"].as_array().unwrap();
    let sums = rows.iter().map(|row| {
        let row = row.as_array().unwrap().iter();
        row.map(|count| count.as_u64().unwrap()).sum::<u64>()
    });
    assert_eq!(sums.collect::<Vec<_>>(), [5, 5, 5]);
    classifies_images_without_labels(&run, folder.path());
}

/// Images that nobody has labelled: a folder of them, and lists that have no column of labels. All of them, in their order.
fn classifies_images_without_labels(run: &Path, folder: &Path) {
    let flat = folder.join("flat");
    fs::create_dir_all(&flat).unwrap();
    let mut csv = "image\n".to_owned();
    let mut lines = String::new();
    for (number, (_, colour)) in COLOURS.iter().cycle().take(40).enumerate() {
        let name = format!("{number:02}.png");
        let picture = RgbImage::from_pixel(16, 16, Rgb(*colour));
        picture.save(flat.join(&name)).unwrap();
        csv += &format!("{name}\n");
        lines += &format!("{}\n", serde_json::json!({ "image": name }));
    }
    let (list, columns) = (flat.join("a.jsonl"), flat.join("a.csv"));
    let predicted = |data: &Path| {
        let out = folder.join("out.jsonl");
        predict::run(&PredictArgs {
            run: run.to_owned(),
            step: None,
            data: Some(data.to_owned()),
            set: Vec::new(),
            labels: None,
            split: None,
            limit: 0,
            format: Format::Jsonl,
            out: Some(out.clone()),
            device: DeviceChoice::Flex,
        })
        .unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let rows = text.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            assert!(row["answer"].is_null(), "{line}");
            row["prediction"].as_str().unwrap().to_owned()
        });
        rows.collect::<Vec<_>>()
    };
    let expected: Vec<&str> = COLOURS
        .iter()
        .map(|(class, _)| *class)
        .cycle()
        .take(40)
        .collect();
    assert_eq!(predicted(&flat), expected);
    fs::write(&list, lines).unwrap();
    assert_eq!(predicted(&list), expected);
    fs::write(&columns, csv).unwrap();
    assert_eq!(predicted(&columns), expected);
}

/// Texts whose first word is the label, or labels drawn by a rule that has nothing to do with the text.
fn list(folder: &Path, shuffled: bool) -> PathBuf {
    let mut text = "text\tlabel\tsplit\n".to_owned();
    let mut state = 1u64;
    for number in 0..1200 {
        // A linear congruential generator (Knuth's MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = number % 4;
        let label = if shuffled { (state >> 60) % 4 } else { word };
        let split = if number < 800 { "train" } else { "val" };
        let name = ["north", "east", "south", "west"];
        text += &format!(
            "{} number {number}\t{}\t{split}\n",
            name[word as usize], name[label as usize]
        );
    }
    let path = folder.join(format!("{shuffled}.tsv"));
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_a_text_says_is_learned_and_shuffled_labels_are_not() {
    let folder = TempDir::new().unwrap();
    let accuracy = |shuffled: bool| {
        let list = list(folder.path(), shuffled);
        let data = format!(
            "data.pairs={{ path = {:?}, label_column = \"label\" }}",
            list.display().to_string()
        );
        let more = [data.as_str(), "data.source=pairs", "train.steps=250"];
        let run = folder.path().join(format!("run-{shuffled}"));
        training::start(&recipe("bert-sst2-minilm", TEXTS, &more), &run, &options()).unwrap();
        numbers(&run)["sentences.accuracy"]["value"]
            .as_f64()
            .unwrap()
    };
    let learned = accuracy(false);
    assert!(learned > 0.95, "{learned}");
    /// Five standard deviations of the share of 400 guesses of one in four.
    const TOLERANCE: f64 = 0.11;
    let chance = accuracy(true);
    assert!((chance - 0.25).abs() < TOLERANCE, "{chance}");
}

/// The tensors of a checkpoint whose names begin so, with their bytes.
fn tensors(run: &Path, step: u64, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(checkpoint::path(&run.join("checkpoints"), step)).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let own = all.iter().filter(|(name, _)| name.starts_with(prefix));
    let mut own: Vec<_> = own
        .map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec()))
        .collect();
    own.sort();
    own
}

#[test]
fn frozen_parameters_stay_have_no_moments_and_resume() {
    let folder = TempDir::new().unwrap();
    let train = pictures(&folder.path().join("train"), COLOURS, 6);
    let data = folders(&train, &train);
    let probe = |steps: &str| {
        let more = [&data, steps, "train.freeze=[\"backbone\"]", "train.ema=0.5"];
        recipe("vit-classes-tiny", IMAGES, &more)
    };
    let start = |name: &str| {
        let run = folder.path().join(name);
        training::start(&probe("train.steps=4"), &run, &options()).unwrap();
        run
    };
    let whole = start("whole");
    assert_eq!(
        tensors(&whole, 2, "model.backbone."),
        tensors(&whole, 4, "model.backbone.")
    );
    assert_ne!(
        tensors(&whole, 2, "model.objectives."),
        tensors(&whole, 4, "model.objectives.")
    );
    let moments = tensors(&whole, 4, "optimizer.");
    assert!(!moments.is_empty());
    let of_head = |(name, _): &(String, Vec<u8>)| name.starts_with("optimizer.objectives.");
    assert!(moments.iter().all(of_head));

    let killed = start("killed");
    fs::remove_file(checkpoint::path(&killed.join("checkpoints"), 4)).unwrap();
    training::resume(&killed, &options()).unwrap();
    assert_eq!(tensors(&killed, 4, ""), tensors(&whole, 4, ""));

    for (freeze, expected) in [
        ("[\"backbone.imag\"]", "train.freeze"),
        ("[\"backbone\", \"objectives\"]", "must leave a parameter"),
    ] {
        let set = [data.clone(), format!("train.freeze={freeze}")];
        let wrong = recipe(
            "vit-classes-tiny",
            IMAGES,
            &set.each_ref().map(String::as_str),
        );
        let error = training::start(&wrong, &folder.path().join("wrong"), &options());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// With one shot of each of three classes, an epoch is three samples: a batch of three is the same every time.
#[test]
fn few_shots_are_few_and_the_seed_chooses_them() {
    let folder = TempDir::new().unwrap();
    let train = pictures(&folder.path().join("train"), COLOURS, 12);
    let data = folders(&train, &train);
    let losses = |name: &str, seed: &str| {
        let more = [
            &data,
            seed,
            "task.shots=1",
            "train.steps=3",
            "train.batch_size=3",
            "train.optimizer.lr=1e-30",
        ];
        let run = folder.path().join(name);
        training::start(&recipe("vit-classes-tiny", IMAGES, &more), &run, &options()).unwrap();
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let loss = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["loss"].as_f64().unwrap()
        };
        text.lines().map(loss).collect::<Vec<f64>>()
    };
    /// The three samples come in another order: f32 sums of three losses around 1.
    const TOLERANCE: f64 = 1e-5;
    let first = losses("a", "seed=0");
    assert!(
        first.iter().all(|loss| (loss - first[0]).abs() < TOLERANCE),
        "{first:?}"
    );
    let again = losses("b", "seed=0");
    assert_eq!(first, again);
}

#[test]
fn labels_that_do_not_fit_are_named() {
    let folder = TempDir::new().unwrap();
    let train = pictures(&folder.path().join("train"), COLOURS, 6);
    let val = pictures(
        &folder.path().join("val"),
        &[("blue", [20, 20, 180]), ("cow", [90, 90, 90])],
        6,
    );
    let fails = |train: &Path, val: &Path, more: &[&str]| {
        let data = folders(train, val);
        let recipe = recipe(
            "vit-classes-tiny",
            IMAGES,
            &[&[data.as_str()], more].concat(),
        );
        let run = folder.path().join("run");
        let error = training::start(&recipe, &run, &options())
            .unwrap_err()
            .to_string();
        fs::remove_dir_all(&run).ok();
        error
    };
    // A head of another size than the data.
    let error = fails(&train, &train, &["objectives.classes.classes=7"]);
    assert!(
        error.contains("objectives.classes.classes")
            && error.contains('7')
            && error.contains("labels, 3"),
        "{error}"
    );
    // Labels of the recipe that the data does not have.
    let other = "task.labels={ kind = \"list\", names = [\"blue\", \"dog\"] }";
    let error = fails(&train, &train, &[other]);
    assert!(error.contains("is none of \"blue\", \"dog\""), "{error}");
    // A held-out class that training lacks.
    let error = fails(&train, &val, &[]);
    assert!(
        error.contains("\"cow\" is none of \"blue\", \"green\", \"red\""),
        "{error}"
    );
    // One class is no task.
    let one = pictures(&folder.path().join("one"), &COLOURS[..1], 6);
    let error = fails(&one, &one, &[]);
    assert!(error.contains("must be two labels or more"), "{error}");
    // No class at all.
    let plain = format!(
        "data.images={{ train = [{:?}] }}",
        train.display().to_string()
    );
    let recipe = recipe("vit-classes-tiny", IMAGES, &[&plain]);
    let error = training::start(&recipe, &folder.path().join("none"), &options());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("task.labels"), "{error}");
}

#[test]
fn kinds_of_labels_belong_to_kinds_of_tasks() {
    let fails = |name: &str, set: &str| {
        let overrides = Overrides {
            data: None,
            set: vec![set.to_owned()],
        };
        Recipe::load(name, &overrides).unwrap_err().to_string()
    };
    let error = fails(
        "vit-classes-tiny",
        "task.labels={ kind = \"count\", least = 1 }",
    );
    assert!(error.contains("task.labels.kind"), "{error}");
    let error = fails("unimo3-vqa-tiny", "task.labels={ kind = \"classes\" }");
    assert!(error.contains("predicts answers"), "{error}");
    let error = fails("unimo3-vqa-tiny", "task.shots=3");
    assert!(error.contains("task.shots"), "{error}");
    let error = fails(
        "vit-classes-tiny",
        "objectives.sentences={ weight = 1.0, head = \"pooler\", dropout = 0.1 }",
    );
    assert!(error.contains("one task"), "{error}");
    let error = fails(
        "bert-sst2-minilm",
        "objectives={ classes = { weight = 1.0 } }",
    );
    assert!(error.contains("needs an image encoder"), "{error}");
    let error = fails("bert-sst2-minilm", "objectives.sentences.dropout=1.0");
    assert!(error.contains("objectives.sentences.dropout"), "{error}");
}
