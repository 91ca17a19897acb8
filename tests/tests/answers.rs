//! Questions in files of one's own: what their answers mean stays what it was, in a run, in what starts from it, and in what it predicts.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;
use unimo_data::Split;
use unimo_train::apply::predict::{self, Format, PredictArgs};
use unimo_train::compare::compare;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

/// Questions to train on.
const TRAIN: usize = 12;
/// Held-out questions.
const HELD_OUT: usize = 4;

/// A folder with images.
fn images() -> TempDir {
    let folder = TempDir::new().unwrap();
    for at in 0..(TRAIN + HELD_OUT) as u8 {
        let image = RgbImage::from_pixel(16, 16, Rgb([at * 10, 255 - at * 10, 128]));
        image.save(folder.path().join(format!("{at}.png"))).unwrap();
    }
    folder
}

/// A list of questions, whose answers are drawn from these in turn, the first one more often; with further lines.
fn questions(folder: &Path, name: &str, answers: &[&str], more: &[&str]) -> PathBuf {
    let line = |at: usize| {
        let split = if at < TRAIN { "train" } else { "val" };
        let answer = answers[(at % (answers.len() + 1)) % answers.len()];
        format!(
            r#"{{"image":"{at}.png","question":"which is it?","answer":"{answer}","question_id":"{at}","split":"{split}"}}"#
        )
    };
    let lines: Vec<String> = (0..TRAIN + HELD_OUT)
        .map(line)
        .chain(more.iter().map(|line| (*line).to_owned()))
        .collect();
    let path = folder.join(name);
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn recipe(list: &Path, more: &[&str]) -> Recipe {
    let set = [
        "train.steps=2",
        "train.batch_size=4",
        "train.eval_every=2",
        "train.checkpoint_every=2",
        "eval.gallery=0",
        "model.text.width=32",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.fusion.width=32",
        "data.image_size=32",
        "data.tokenizer.vocab_size=300",
        "data.max_skipped=0.5",
        "task.labels.least=1",
    ];
    let overrides = Overrides {
        data: Some(list.to_owned()),
        set: set.iter().chain(more).map(|s| (*s).to_owned()).collect(),
    };
    Recipe::load("unimo3-vqa-tiny", &overrides).unwrap()
}

fn options() -> Options {
    Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    }
}

fn train(list: &Path, run: &Path) -> PathBuf {
    training::start(&recipe(list, &[]), run, &options()).unwrap()
}

fn predicted(run: &Path, format: Format, out: &Path) -> Result<String, String> {
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
    Ok(fs::read_to_string(out).unwrap())
}

#[test]
fn other_answers_to_the_same_questions_are_other_data() {
    let folder = images();
    let at = |name: &str| folder.path().join(name);
    let list = questions(folder.path(), "q.jsonl", &["red", "blue"], &[]);
    let first = train(&list, &at("first"));
    questions(folder.path(), "q.jsonl", &["blue", "red"], &[]);
    let error = training::resume(&first, &options())
        .unwrap_err()
        .to_string();
    assert!(error.contains("with other answers"), "{error}");
    let second = train(&list, &at("second"));
    let compared = compare(&[first, second]).unwrap();
    let letters: Vec<&str> = compared.runs.iter().map(|run| &*run.held_out).collect();
    assert_eq!(letters, ["A", "B"]);
}

#[test]
fn a_head_is_not_read_for_labels_in_another_order() {
    let folder = images();
    let at = |name: &str| folder.path().join(name);
    let list = questions(folder.path(), "q.jsonl", &["red", "blue"], &[]);
    let first = train(&list, &at("first"));
    let init = format!("init=unimo:{}", first.display());
    // As often as before, but of other names: as many labels, each of which means something else.
    let other = questions(folder.path(), "other.jsonl", &["rouge", "bleu"], &[]);
    let start = |list: &Path, more: &[&str], run: &str| {
        let set = [&[init.as_str()], more].concat();
        training::start(&recipe(list, &set), &at(run), &options())
    };
    let error = start(&other, &[], "refused").unwrap_err().to_string();
    assert!(
        error.contains("2 of 2 differ") && error.contains("init.new = [\"objectives.vqa\"]"),
        "{error}"
    );
    assert!(!at("refused").exists());
    start(&list, &[], "same").unwrap();
    let new = format!(
        "init={{ whole = \"unimo:{}\", new = [\"objectives.vqa\"] }}",
        first.display()
    );
    training::start(&recipe(&other, &[&new]), &at("new"), &options()).unwrap();
}

#[test]
fn labels_that_were_changed_or_are_gone_predict_nothing() {
    let folder = images();
    let list = questions(folder.path(), "q.jsonl", &["red", "blue"], &[]);
    let run = train(&list, &folder.path().join("run"));
    let out = folder.path().join("out.jsonl");
    predicted(&run, Format::Jsonl, &out).unwrap();
    fs::remove_file(&out).unwrap();
    let labels = run.join("labels.json");
    fs::write(&labels, r#"["blue", "red"]"#).unwrap();
    let error = predicted(&run, Format::Jsonl, &out).unwrap_err();
    assert!(
        error.contains("labels.json") && error.contains("begun with"),
        "{error}"
    );
    fs::remove_file(&labels).unwrap();
    let error = predicted(&run, Format::Jsonl, &out).unwrap_err();
    assert!(
        error.contains("labels.json") && error.contains("is not there"),
        "{error}"
    );
    assert!(!out.exists());
}

/// A row that cannot be used is no prediction, and no silence either.
#[test]
fn rows_that_were_refused_are_in_the_predictions_and_in_no_results_file() {
    let folder = images();
    let list = questions(folder.path(), "q.jsonl", &["red", "blue"], &[]);
    let run = train(&list, &folder.path().join("run"));
    let held_out = folder.path().join("held_out.jsonl");
    let lines: String = (0..3)
        .map(|at| {
            let question = if at == 1 { "" } else { "which?" };
            format!(
                "{{\"image\":\"{at}.png\",\"question\":\"{question}\",\"answer\":\"red\",\"question_id\":\"{at}\"}}\n"
            )
        })
        .collect();
    fs::write(&held_out, lines).unwrap();
    let out = folder.path().join("out.json");
    let args = |format| PredictArgs {
        run: run.clone(),
        step: None,
        data: None,
        set: vec![format!(
            "data.vqa.val={{ questions = \"{}\", images = \"{}\" }}",
            held_out.display(),
            folder.path().display()
        )],
        labels: None,
        split: Some(Split::Val),
        limit: 0,
        format,
        out: Some(out.clone()),
        device: DeviceChoice::Flex,
    };
    let error = predict::run(&args(Format::Vqa)).unwrap_err().to_string();
    assert!(
        error.contains("held_out.jsonl:2") && error.contains("needs every sample"),
        "{error}"
    );
    assert!(!out.exists());
    predict::run(&args(Format::Jsonl)).unwrap();
    let text = fs::read_to_string(&out).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let wrong: Vec<&Value> = lines
        .iter()
        .filter(|line| line["error"].is_string())
        .collect();
    assert_eq!((lines.len(), wrong.len()), (3, 1), "{text}");
    assert!(
        wrong[0]["sample"]
            .as_str()
            .unwrap()
            .ends_with("held_out.jsonl:2")
    );
}
