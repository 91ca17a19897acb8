//! Downstream tasks from data to predictions: labels are kept, a resumed run goes on exactly, a fine-tuning starts from a run of one's
//! own, and what does not fit is named.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use unimo_core::parameters;
use unimo_encoders::weights::Weights;
use unimo_train::apply::predict::{self, Format, PredictArgs};
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::run::RunFolder;
use unimo_train::training::{self, Options};
use unimo_train::{checkpoint, evaluation};

/// What makes a recipe train in a second.
const SMALL: &[&str] = &[
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

fn recipe(name: &str, more: &[&str]) -> Recipe {
    try_recipe(name, more).unwrap()
}

fn try_recipe(name: &str, more: &[&str]) -> Result<Recipe, String> {
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

fn train(recipe: &Recipe, folder: &Path) -> PathBuf {
    training::start(recipe, folder, &options()).unwrap()
}

fn values(run: &Path, step: u64) -> Vec<u8> {
    fs::read(checkpoint::path(&run.join("checkpoints"), step)).unwrap()
}

const VQA: &str = "unimo3-vqa-tiny";

/// Answers by a head with an output for each, and by their words, with the key of the task.
const BOTH: [(&str, &str); 2] = [(VQA, "vqa"), ("unimo3-answers-tiny", "answers")];

/// Four steps at once and two and two give the same bytes; the labels are kept with the run, and an edited list is refused.
#[test]
fn a_resumed_task_goes_on_exactly_with_its_labels() {
    let folder = TempDir::new().unwrap();
    let whole = train(&recipe(VQA, &[]), &folder.path().join("whole"));
    let half = train(
        &recipe(VQA, &["train.steps=2"]),
        &folder.path().join("half"),
    );
    let resumed = Options {
        asked: unimo_train::resuming::Asked {
            recipe: None,
            set: vec!["train.steps=4".to_owned()],
            ..unimo_train::resuming::Asked::default()
        },
        ..options()
    };
    training::resume(&half, &resumed).unwrap();
    // The learning rate's schedule depends on the number of steps, so only the first two are the same: compare data and labels.
    let labels = |run: &Path| fs::read_to_string(run.join("labels.json")).unwrap();
    assert_eq!(labels(&whole), labels(&half));
    let (_, own) = RunFolder::open(&whole).unwrap();
    let names: Vec<String> = serde_json::from_str(&labels(&whole)).unwrap();
    assert_eq!(own.objectives.vqa.unwrap().classes, Some(names.len()));

    // The same run killed after its second step.
    let killed = folder.path().join("killed");
    train(&recipe(VQA, &[]), &killed);
    fs::remove_file(checkpoint::path(&killed.join("checkpoints"), 4)).unwrap();
    training::resume(&killed, &options()).unwrap();
    assert_eq!(values(&killed, 4), values(&whole, 4));

    let edited = labels(&killed).replacen("yes", "oui", 1);
    assert_ne!(edited, labels(&killed));
    fs::write(killed.join("labels.json"), edited).unwrap();
    let error = training::resume(&killed, &options())
        .unwrap_err()
        .to_string();
    assert!(error.contains("labels.json"), "{error}");
}

/// Predictions of every held-out question, one line each, and their numbers among the evaluations.
#[test]
fn every_held_out_question_is_answered_and_judged() {
    for (name, key) in BOTH {
        answers_and_judges(name, key);
    }
}

fn answers_and_judges(name: &str, key: &str) {
    let folder = TempDir::new().unwrap();
    let run = train(&recipe(name, &[]), &folder.path().join("run"));
    let out = folder.path().join("predictions.jsonl");
    let args = |format, out: &Path| PredictArgs {
        run: run.clone(),
        step: None,
        data: None,
        set: Vec::new(),
        labels: None,
        split: Some(unimo_data::Split::Val),
        limit: 0,
        format,
        out: Some(out.to_owned()),
        device: DeviceChoice::Flex,
    };
    predict::run(&args(Format::Jsonl, &out)).unwrap();
    let text = fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let look = evaluation::Options::default();
    let (_, records) = evaluation::run(&run, &look).unwrap();
    assert_eq!((records.len(), records[0].evaluator.as_str()), (1, key));
    assert_eq!(records[0].texts as usize, lines.len());
    let right = lines
        .iter()
        .filter(|line| {
            // Answers are compared as VQA normalises them: "two" is "2".
            let text = |key: &str| unimo_eval::vqa::normalise(line[key].as_str().unwrap());
            text("prediction") == text("answer")
        })
        .count();
    let accuracy = records[0].scalars[&format!("{key}.accuracy")].value;
    assert!((accuracy - right as f64 / lines.len() as f64).abs() < 1e-12);
    let evals = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    assert!(
        evals.contains(&format!("\"scored\":\"{key}.accuracy on val\"")),
        "{evals}"
    );
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("chance: "));
    // Of a split without samples nothing is said as if there were some.
    let look = evaluation::Options {
        split: Some(unimo_data::Split::Test),
        ..evaluation::Options::default()
    };
    let error = evaluation::run(&run, &look).unwrap_err().to_string();
    assert!(error.contains("no sample of split test"), "{error}");
    let nothing = folder.path().join("nothing.jsonl");
    let error = predict::run(&PredictArgs {
        split: Some(unimo_data::Split::Test),
        ..args(Format::Jsonl, &nothing)
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("nothing to predict in split test"),
        "{error}"
    );
    assert!(!nothing.exists());
    // Scenes have no ids, under which a server could take their answers.
    let results = folder.path().join("results.json");
    let error = predict::run(&args(Format::Vqa, &results))
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no id"), "{error}");
    let error = predict::run(&args(Format::Nlvr2, &results))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--format nlvr2") && error.contains(&format!("objectives.{key}")),
        "{error}"
    );
    assert!(!results.exists());
}

/// An export has the head, the labels and the preparation of the input: it predicts what its run predicts.
#[test]
fn an_export_predicts_as_its_run() {
    for (name, _) in BOTH {
        exports_and_predicts(name);
    }
}

fn exports_and_predicts(name: &str) {
    let folder = TempDir::new().unwrap();
    let run = train(&recipe(name, &[]), &folder.path().join("run"));
    let export = folder.path().join("export");
    unimo_train::export::run(&unimo_train::export::ExportArgs {
        model: run.display().to_string(),
        out: export.clone(),
        part: unimo_train::export::Part::Whole,
        dtype: unimo_encoders::weights::Dtype::F32,
        step: None,
        licence: None,
    })
    .unwrap();
    let data = [
        "source=scenes",
        "scenes.size=32",
        "scenes.val=6",
        "scenes.train=40",
        "scenes.texts=questions",
    ];
    let predicted = |model: &Path| {
        let out = folder.path().join("out.jsonl");
        predict::run(&PredictArgs {
            run: model.to_owned(),
            step: None,
            data: None,
            set: data.iter().map(|set| format!("data.{set}")).collect(),
            labels: None,
            split: Some(unimo_data::Split::Val),
            limit: 0,
            format: Format::Jsonl,
            out: Some(out.clone()),
            device: DeviceChoice::Flex,
        })
        .unwrap();
        fs::read_to_string(&out).unwrap()
    };
    assert_eq!(predicted(&export), predicted(&run));
}

/// All weights of the earlier run are read, by the words of its own tokenizer; only the head is new, and is named.
#[test]
fn fine_tuning_starts_from_a_run_of_ones_own() {
    let folder = TempDir::new().unwrap();
    let before = train(
        &recipe("unimo3-tiny", &["objectives.itc.width=32"]),
        &folder.path().join("before"),
    );
    let init = format!("init=unimo:{}", before.display());
    let run = train(
        &recipe(
            VQA,
            &[
                &init,
                "train.optimizer.lr=1e-30",
                "train.steps=1",
                "data.tokenizer.vocab_size=290",
            ],
        ),
        &folder.path().join("run"),
    );
    let account = fs::read_to_string(run.join("init.txt")).unwrap();
    let new: Vec<&str> = account
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("new "))
        .collect();
    assert!(
        !new.is_empty()
            && new
                .iter()
                .all(|line| line.trim().starts_with("objectives.vqa.")),
        "{account}"
    );
    assert!(account.contains("objectives.itm"), "{account}");
    let text = |run: &Path| fs::read(run.join("tokenizer.json")).unwrap();
    assert_eq!(text(&run), text(&before));
    let device = burn::tensor::Device::flex();
    let weights = |run: &Path| {
        let (_, _, _, model) = unimo_train::trained::open_model(run, None, &device).unwrap();
        parameters::values(&model.backbone)
    };
    assert_eq!(weights(&run), weights(&before));
}

/// By parts, and for images of another size.
#[test]
fn parts_of_a_run_are_read_and_positions_are_interpolated() {
    let folder = TempDir::new().unwrap();
    let before = train(
        &recipe("unimo3-tiny", &["objectives.itc.width=32"]),
        &folder.path().join("before"),
    );
    let init = format!(
        "init={{ whole = \"unimo:{}\", parts = [\"backbone.text\", \"backbone.image\"] }}",
        before.display()
    );
    let larger = ["data.image_size=48", "model.image.image_size=48"];
    let run = train(
        &recipe(VQA, &[&init, "train.steps=1", larger[0], larger[1]]),
        &folder.path().join("run"),
    );
    let account = fs::read_to_string(run.join("init.txt")).unwrap();
    let line = |start: &str| {
        let mut lines = account.lines();
        lines.any(|line| line.trim_start().starts_with(start))
    };
    assert!(line("reshaped"), "{account}");
    assert!(
        account.contains("backbone.image.position_embedding [17, 32], here [37, 32]"),
        "{account}"
    );
    assert!(line("new         backbone.fusion"), "{account}");
}

/// Fewer layers than the run's are taken as `init.layers` says, and only then.
#[test]
fn a_shallower_encoder_takes_the_layers_that_are_named() {
    let folder = TempDir::new().unwrap();
    let deep = [
        "objectives.itc.width=32",
        "model.text.layers=4",
        "train.steps=1",
    ];
    let before = train(&recipe("unimo3-tiny", &deep), &folder.path().join("before"));
    let init = |layers: &str| {
        let layers = format!("init={{ whole = \"unimo:{}\"{layers} }}", before.display());
        recipe(
            "unimo3-tiny",
            &[
                &layers,
                "objectives.itc.width=32",
                "model.text.layers=2",
                "train.optimizer.lr=1e-30",
                "train.steps=1",
            ],
        )
    };
    let device = burn::tensor::Device::flex();
    let block = |run: &Path, layer: usize| {
        let (_, _, _, model) = unimo_train::trained::open_model(run, None, &device).unwrap();
        parameters::values(&model.backbone.text.layers[layer])
    };
    for (layers, taken) in [("first", [0, 1]), ("every_second", [0, 2])] {
        let run = init(&format!(", layers = \"{layers}\""));
        let run = train(&run, &folder.path().join(layers));
        for (own, theirs) in taken.into_iter().enumerate() {
            assert_eq!(block(&run, own), block(&before, theirs), "{layers} {own}");
        }
        let account = fs::read_to_string(run.join("init.txt")).unwrap();
        let told = format!("of the run's 4 layers, from 0, these are taken: {taken:?}");
        assert!(account.contains(&told), "{account}");
    }
    let fails = |recipe: &Recipe| {
        let error = training::start(recipe, &folder.path().join("none"), &options());
        error.unwrap_err().to_string()
    };
    let error = fails(&init(""));
    assert!(
        error.contains("`model.text.layers = 2`") && error.contains("every_second"),
        "{error}"
    );
    let mut third = init(", layers = \"every_second\"");
    third.model.text.layers = 3;
    let error = fails(&third);
    assert!(
        error.contains("`model.text.layers = 3`") && error.contains("must be 2"),
        "{error}"
    );
    let mut deeper = init(", layers = \"first\"");
    deeper.model.text.layers = 5;
    let error = fails(&deeper);
    assert!(error.contains("must be at most 4"), "{error}");
    let mut same = init(", layers = \"first\"");
    same.model.text.layers = 4;
    let error = fails(&same);
    assert!(
        error.contains("init.layers") && error.contains("must be absent"),
        "{error}"
    );
}

/// What contradicts the run that the weights come from is named with both values.
#[test]
fn what_does_not_fit_a_run_is_named() {
    let folder = TempDir::new().unwrap();
    let before = train(
        &recipe("unimo3-tiny", &["objectives.itc.width=32"]),
        &folder.path().join("before"),
    );
    let init = format!("init=unimo:{}", before.display());
    let fails = |more: &[&str]| {
        let recipe = recipe(VQA, &[&[init.as_str()], more].concat());
        let error = training::start(&recipe, &folder.path().join("run"), &options());
        assert!(!folder.path().join("run").exists());
        error.unwrap_err().to_string()
    };
    let error = fails(&["model.fusion.gate=token"]);
    assert!(
        error.contains("model.fusion.gate = \"token\"") && error.contains("\"cls\""),
        "{error}"
    );
    let error = fails(&["model.text.layers=3"]);
    assert!(error.contains("model.text.layers = 3"), "{error}");
    let error = fails(&["objectives.vqa.classes=5"]);
    assert!(
        error.contains("objectives.vqa.classes") && error.contains('5'),
        "{error}"
    );
    let error = fails(&["init=unimo:nowhere"]);
    assert!(error.contains("nowhere"), "{error}");
}

/// A recipe whose task and labels do not fit each other is refused before anything is read.
#[test]
fn a_task_and_its_labels_belong_together() {
    let fails = |name: &str, more: &[&str]| try_recipe(name, more).unwrap_err();
    let error = fails(VQA, &["task=none"]);
    assert!(
        error.contains("task") && error.contains("objectives.vqa"),
        "{error}"
    );
    let error = fails(
        "unimo3-tiny",
        &["task={ labels = { kind = \"count\", least = 1 } }"],
    );
    assert!(error.contains("must be absent"), "{error}");
    let error = fails(
        VQA,
        &["task.labels={ kind = \"list\", names = [\"a\", \"a\"] }"],
    );
    assert!(error.contains("\"a\" is number 0 and number 1"), "{error}");
    let error = fails(VQA, &["objectives.vqa.pooling=both"]);
    assert!(error.contains("objectives.vqa.pooling"), "{error}");
    let error = fails("unimo3-answers-tiny", &["model.fusion=none"]);
    assert!(error.contains("needs a cross-modal encoder"), "{error}");
}

/// Question and answer are one text, which the positions of the text encoder must hold.
#[test]
fn answers_that_do_not_fit_behind_a_question_are_refused() {
    let folder = TempDir::new().unwrap();
    let recipe = recipe("unimo3-answers-tiny", &["data.max_text_length=62"]);
    let error = training::start(&recipe, &folder.path().join("run"), &options()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("data.max_text_length") && error.contains("the longest answer"),
        "{error}"
    );
}

/// METER's score starts as the matching head's logit of "yes"; so does that of a recipe that starts from a run with such a head alone.
#[test]
fn a_ranking_starts_as_the_matching_head_of_its_run() {
    let folder = TempDir::new().unwrap();
    let before = train(
        &recipe("unimo3-tiny", &["objectives.itc.width=32"]),
        &folder.path().join("before"),
    );
    let init = format!("init=unimo:{}", before.display());
    let ranking = "objectives.ranking={ weight = 1.0, negatives = 3, pooling = \"pair\" }";
    let set = [
        &init,
        ranking,
        "objectives.itc=none",
        "train.optimizer.lr=1e-30",
        "train.steps=1",
        "train.freeze=[\"objectives.itm\"]",
    ];
    let run = train(&recipe("unimo3-tiny", &set), &folder.path().join("run"));
    let read = |run: &Path, step: u64, name: &str| {
        let path = checkpoint::path(&run.join("checkpoints"), step);
        let mut weights = Weights::open_section(&path, "model").unwrap();
        weights.read(&format!("objectives.{name}")).unwrap()
    };
    let best = RunFolder::open(&before).unwrap().0.best().unwrap();
    let step = best.unwrap().step;
    for part in ["weight", "bias"] {
        let both = read(&before, step, &format!("itm.classifier.{part}"));
        let yes: Vec<f32> = both.chunks(2).map(|pair| pair[1]).collect();
        assert_eq!(
            read(&run, 1, &format!("ranking.score.{part}")),
            yes,
            "{part}"
        );
    }
    let init = fs::read_to_string(run.join("init.txt")).unwrap();
    assert!(init.contains("starts as the matching head's"), "{init}");
}
