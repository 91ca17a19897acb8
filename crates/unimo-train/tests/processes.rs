//! Tests that need separate processes: signals, a second process on a run, a full disk.

#![cfg(all(unix, feature = "flex"))]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use unimo_train::checkpoint;
use unimo_train::interrupt::EXIT_CODE;

/// Longer than anything here takes on a busy machine, so that a failing test ends.
const PATIENCE: Duration = Duration::from_secs(300);

/// A run that takes a second or two.
const SMALL: &[&str] = &[
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=1000",
    "train.keep_last=100",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=300",
    "data.tokenizer.vocab_size=300",
];

fn unimo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimo"));
    command.stdin(Stdio::null());
    command
}

fn start(run: &Path, more: &[&str]) -> Command {
    let mut command = unimo();
    command.args(["train", "unimo3-tiny", "--quiet", "--out"]);
    command.arg(run);
    for set in SMALL.iter().chain(more) {
        command.args(["--set", set]);
    }
    command
}

fn resume(run: &Path) -> Command {
    let mut command = unimo();
    command.args(["train", "--train-only", "--quiet", "--resume"]);
    command.arg(run);
    command
}

fn spawn(mut command: Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let line = format!("kill -{name} {}", child.id());
    // The process may have ended meanwhile, which the test then sees.
    let _ = Command::new("sh").args(["-c", &line]).status().unwrap();
}

/// Waits for an effect of a process.
#[track_caller]
fn until(child: &mut Child, what: &str, mut seen: impl FnMut() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        if let Some(status) = child.try_wait().unwrap() {
            assert!(seen(), "{status} before {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines(path: PathBuf) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn steps(run: &Path) -> Vec<u64> {
    checkpoint::steps(&run.join("checkpoints")).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Hidden files and other files that do not belong to a run.
fn left_over(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(left_over(&path));
        } else if name.starts_with('.') || name.contains("part") || name.contains("tmp") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_signal_saves_after_the_step_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["TERM", "INT"] {
        let run = folder.path().join(name);
        let mut child = spawn(start(&run, &["train.steps=100000"]));
        until(&mut child, "step 3", || {
            lines(run.join("metrics.jsonl")) >= 3
        });
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(i32::from(EXIT_CODE)), "{text}");
        assert!(text.contains("unimo train --resume"), "{text}");
        assert!(text.contains(&run.display().to_string()), "{text}");
        assert!(!text.contains("error"), "{text}");
        let done = lines(run.join("metrics.jsonl")) as u64;
        assert_eq!(
            steps(&run),
            [done],
            "the last step that was logged is saved"
        );
        assert_eq!(left_over(&run), Vec::<PathBuf>::new());

        let more = format!("train.steps={}", done + 2);
        let output = resume(&run).args(["--set", &more]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(steps(&run).last(), Some(&(done + 2)));
    }
}

/// The same line begins a run and goes on with it; another line is told apart.
#[test]
fn a_line_begins_a_run_or_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let line = || {
        let mut command = start(&run, &["train.steps=3", "train.checkpoint_every=1"]);
        command.arg("--or-resume");
        command
    };
    let output = line().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let last = checkpoint::path(&run.join("checkpoints"), 3);
    let expected = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    let output = line().output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(fs::read(&last).unwrap() == expected);
    for (more, named) in [
        (["--set", "data.max_text_length=17"], "data.max_text_length"),
        (["--data", "other.jsonl"], "other.jsonl"),
    ] {
        let output = line().args(more).output().unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains(named), "{}", said(&output));
    }
}

#[test]
fn a_signal_does_not_wait_for_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // 600 images with every caption: minutes.
    let long = [
        "train.steps=2",
        "data.scenes.val=600",
        "eval.full_itm=true",
        "eval.limit=0",
    ];
    let mut child = spawn(start(&run, &long));
    until(&mut child, "the last checkpoint", || steps(&run) == [2]);
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(i32::from(EXIT_CODE)),
        "{}",
        said(&output)
    );
    assert_eq!(lines(run.join("evals.jsonl")), 0);
    assert_eq!(steps(&run), [2]);
    assert!(resume(&run).output().unwrap().status.success());
}

/// Whether a process handles SIGTERM itself, as Linux reports it.
#[cfg(target_os = "linux")]
fn handles(status: &str) -> bool {
    const TERM: u64 = 1 << (15 - 1);
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & TERM != 0)
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // One step that takes longer than the test runs.
    let long = ["train.steps=100000", "train.accumulation=1000000"];
    let mut child = spawn(start(&run, &long));
    let process = child.id();
    until(&mut child, "a handler", || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        handles(&status)
    });
    // Two signals at once count as one.
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "it goes on");
        signal(&child, "TERM");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 15), "{}", said(&output));
    assert!(steps(&run).is_empty());
}

#[test]
fn a_run_has_one_process_and_frees_it_when_killed() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = spawn(start(
        &run,
        &["train.steps=100000", "train.checkpoint_every=2"],
    ));
    until(&mut child, "a checkpoint", || steps(&run).len() >= 2);
    for command in [resume(&run), start(&run, &["train.steps=3"])] {
        let mut command = command;
        let output = command.output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let clear = text.contains("another process") && text.contains(&child.id().to_string());
        assert!(clear || text.contains("holds a run already"), "{text}");
    }
    // Reading the run is allowed.
    let report = unimo().arg("report").arg(&run).output().unwrap();
    assert!(report.status.success(), "{}", said(&report));
    child.kill().unwrap();
    child.wait().unwrap();
    let done = steps(&run).last().copied().unwrap();
    let more = format!("train.steps={}", done + 1);
    let output = resume(&run).args(["--set", &more]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(left_over(&run), Vec::<PathBuf>::new());
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let short = ["train.steps=2", "train.checkpoint_every=2"];
    let mut command = start(&run, &short);
    assert!(
        command
            .arg("--train-only")
            .output()
            .unwrap()
            .status
            .success()
    );
    let whole = fs::read(checkpoint::path(&run.join("checkpoints"), 2)).unwrap();

    // Files may have half the size of a checkpoint. The signal that would follow is ignored, as on a full disk.
    let limited = |part: usize, command: &Command| {
        let blocks = whole.len() / part / 512;
        let line = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut limited = Command::new("sh");
        limited.args(["-c", &line]).arg(command.get_program());
        limited.args(command.get_args()).output().unwrap()
    };
    let mut more = resume(&run);
    let output = limited(2, more.args(["--set", "train.steps=4"]));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for named in [
        "step 4 cannot be saved",
        "step-00000004",
        "step-00000002",
        "--resume",
    ] {
        assert!(text.contains(named), "{named}: {text}");
    }
    assert_eq!(
        fs::read(checkpoint::path(&run.join("checkpoints"), 2)).unwrap(),
        whole
    );
    assert_eq!(steps(&run), [2]);
    assert_eq!(left_over(&run), Vec::<PathBuf>::new());
    assert!(resume(&run).output().unwrap().status.success());
    assert_eq!(steps(&run), [2, 4]);

    // An export next to it: nothing half-written, and nothing that looks like a model.
    let out = folder.path().join("model");
    let mut export = unimo();
    // The model alone is a third of a checkpoint; the optimiser's moments are the rest.
    let output = limited(8, export.arg("export").arg(&run).arg("--out").arg(&out));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!out.join("config.json").exists() && !out.join("model.safetensors").exists());
    assert_eq!(left_over(&out), Vec::<PathBuf>::new());
}

#[test]
fn files_are_as_readable_as_the_user_wants() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = start(&run, &["train.steps=1"]);
    command.arg("--train-only");
    let mut with_mask = Command::new("sh");
    with_mask.args(["-c", "umask 022; exec \"$0\" \"$@\""]);
    with_mask
        .arg(command.get_program())
        .args(command.get_args());
    assert!(with_mask.output().unwrap().status.success());
    for name in [
        "recipe.toml",
        "tokenizer.json",
        "checkpoints/step-00000001.safetensors",
    ] {
        let mode = fs::metadata(run.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
}

#[test]
fn two_that_begin_at_once_train_in_two_folders() {
    let folder = tempfile::tempdir().unwrap();
    let begin = || {
        let mut command = unimo();
        command.current_dir(folder.path());
        command.args(["train", "unimo3-tiny", "--train-only", "--quiet"]);
        for set in SMALL.iter().chain(&["train.steps=2"]) {
            command.args(["--set", set]);
        }
        spawn(command)
    };
    let both = [begin(), begin()];
    let mut folders: Vec<String> = both
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect();
    folders.sort();
    assert_eq!(folders, ["runs/unimo3-tiny", "runs/unimo3-tiny-2"]);
}
