//! Sweeps as processes: killed and started again, changed, taken apart by a scheduler, compared.

#![cfg(all(unix, feature = "flex"))]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on a busy machine, so that a failing test ends.
const PATIENCE: Duration = Duration::from_secs(300);

/// Two set-ups with two seeds; a run takes a second or two.
const SWEEP: &str = r#"
recipes = ["unimo3-tiny"]
seeds = [3, 4]
out = "out"
set = [
  "train.steps=6", "train.batch_size=4", "train.log_every=1", "train.checkpoint_every=2", "train.eval_every=3",
  "model.text.width=32", "model.image.image_size=32", "model.image.width=32", "model.fusion.width=32",
  "data.image_size=32", "data.scenes.size=32", "data.scenes.train=300", "data.scenes.val=20",
  "data.tokenizer.vocab_size=300", "eval.gallery=0",
]

[[variant]]
name = "cross"

[[variant]]
name = "in"
set = ["model.fusion.levels=none"]
"#;

const RUNS: [&str; 4] = [
    "unimo3-tiny-cross-seed3",
    "unimo3-tiny-cross-seed4",
    "unimo3-tiny-in-seed3",
    "unimo3-tiny-in-seed4",
];

fn unimo(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimo"));
    command.current_dir(folder).args(args);
    command.env_remove("SLURM_ARRAY_TASK_ID");
    command.stdin(Stdio::null());
    command
}

fn sweep(folder: &Path, more: &[&str]) -> Output {
    let mut command = unimo(folder, &["sweep", "levels.toml", "--quiet"]);
    command.args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn well(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn values(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// All numbers of a sweep that do not depend on the machine's speed.
fn numbers(out: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for run in RUNS {
        for step in values(&out.join(run).join("metrics.jsonl")) {
            all.push(serde_json::json!([
                step["step"],
                step["loss"],
                step["grad_norm"],
                step["losses"]
            ]));
        }
        all.extend(values(&out.join(run).join("evals.jsonl")));
    }
    let compared = fs::read(out.join("compare.json")).unwrap();
    let compared: Value = serde_json::from_slice(&compared).unwrap();
    all.push(compared["aggregates"].clone());
    all.push(compared["paired"].clone());
    all
}

#[test]
fn a_sweep_that_is_killed_and_started_again_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    for folder in [&whole, &killed] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("levels.toml"), SWEEP).unwrap();
    }
    well(sweep(&whole, &[]));

    let mut command = unimo(&killed, &["sweep", "levels.toml", "--quiet"]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // In the middle of the second run.
    let checkpoint = killed
        .join("out")
        .join(RUNS[1])
        .join("checkpoints/step-00000002.safetensors");
    let began = Instant::now();
    while !checkpoint.is_file() {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let list = well_out(sweep(&killed, &["--list"]));
    let states: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split('\t').nth(2))
        .collect();
    assert_eq!(states[0], "finished");
    assert!(states[1].starts_with("interrupted after step"), "{list}");
    assert_eq!(states[2..], ["new", "new"]);

    let text = well(sweep(&killed, &[]));
    for line in [
        "[1/4] unimo3-tiny-cross-seed3: finished; passed over",
        "[2/4] unimo3-tiny-cross-seed4: goes on after step",
        "[3/4] unimo3-tiny-in-seed3: begins",
        "4 of 4 runs are finished",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(numbers(&killed.join("out")), numbers(&whole.join("out")));
    let page = fs::read_to_string(killed.join("out/compare.html")).unwrap();
    assert!(page.contains("unimo3-tiny-in − unimo3-tiny-cross"));

    // Nothing is left to do.
    let before = fs::metadata(checkpoint.with_file_name("step-00000006.safetensors")).unwrap();
    let text = well(sweep(&killed, &[]));
    assert_eq!(text.matches("passed over").count(), 4, "{text}");
    let after = fs::metadata(checkpoint.with_file_name("step-00000006.safetensors")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());

    // Another recipe in the file than the runs have.
    let changed = SWEEP.replace("train.batch_size=4", "train.batch_size=5");
    fs::write(killed.join("levels.toml"), changed).unwrap();
    let output = sweep(&killed, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("train.batch_size: 4 -> 5") && text.contains(RUNS[0]),
        "{text}"
    );

    // Fewer seeds: what is not named any more is said and left alone.
    fs::write(killed.join("levels.toml"), SWEEP.replace("[3, 4]", "[4]")).unwrap();
    let text = well(sweep(&killed, &[]));
    assert!(
        text.contains("unimo3-tiny-cross-seed3: is a run that the sweep does not name"),
        "{text}"
    );
}

/// What a command that went well wrote to its standard output.
#[track_caller]
fn well_out(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tasks_of_an_array_train_one_run_each_and_the_last_one_compares() {
    let folder = tempfile::tempdir().unwrap();
    let short = SWEEP
        .replace("train.steps=6", "train.steps=1")
        .replace("[3, 4]", "[3]");
    fs::write(folder.path().join("levels.toml"), short).unwrap();
    let out = folder.path().join("out");
    let task = |index: &str| {
        let mut command = unimo(folder.path(), &["sweep", "levels.toml", "--quiet"]);
        command.env("SLURM_ARRAY_TASK_ID", index).output().unwrap()
    };
    let text = well(task("1"));
    assert!(
        text.contains("SLURM_ARRAY_TASK_ID is 1") && text.contains("1 of 2 runs"),
        "{text}"
    );
    assert!(out.join(RUNS[2]).is_dir() && !out.join(RUNS[0]).exists());
    assert!(!out.join("compare.html").exists());
    for wrong in ["2", "x"] {
        let output = task(wrong);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("SLURM_ARRAY_TASK_ID is") && text.contains("0 to 1"),
            "{text}"
        );
    }
    well(sweep(folder.path(), &["--task-index", "0"]));
    assert!(out.join("compare.html").is_file());
    let table = unimo(folder.path(), &["compare", "out", "--json", "all.json"])
        .output()
        .unwrap();
    let table = well_out(table);
    assert!(
        table.contains("unimo3-tiny-in-seed3") && table.contains("model.fusion.levels"),
        "{table}"
    );
    assert!(folder.path().join("all.json").is_file());
}
