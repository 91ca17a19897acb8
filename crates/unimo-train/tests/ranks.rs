//! Several ranks train a run: the same bits as one process, and one readable error where they cannot.
//!
//! The tests start ranks by `mpirun`, or by what the variable `MPIRUN` says, with its options. Where `unimo` is built without MPI or
//! there is no launcher, each says that it was skipped.

#![cfg(all(unix, feature = "flex"))]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

use unimo_train::checkpoint;

/// A run of a second or two.
const SMALL: &[&str] = &[
    "train.batch_size=2",
    "train.accumulation=4",
    "train.steps=3",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.keep_last=100",
    "train.ema=0.9",
    "data.scenes.train=40",
    "data.tokenizer.vocab_size=300",
];

/// The same for recipes with data of their own.
const FEW: &[&str] = &[
    "train.batch_size=3",
    "train.accumulation=4",
    "train.steps=3",
    "train.log_every=1",
    "train.checkpoint_every=1",
    "train.keep_last=100",
    "data.tokenizer.vocab_size=400",
];

/// Smaller widths for recipes of two towers.
const NARROW: &[&str] = &[
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.scenes.size=32",
];

/// A momentum encoder with its queue, and hard negatives from all micro-batches.
const QUEUE: &[&str] = &[
    "teacher={ decay = 0.9 }",
    "objectives.itc.momentum={ queue = 20, alpha = 0.4 }",
    "objectives.itm.negatives=hard_argmax",
];

fn unimo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unimo"));
    command.stdin(Stdio::null());
    command
}

/// The launcher's command, with its options; `None`, with a line, if ranks cannot be started here.
fn launcher(test: &str) -> Option<Vec<String>> {
    let version = |program: &str| -> Option<String> {
        let output = Command::new(program).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let given = std::env::var("MPIRUN").unwrap_or("mpirun".to_owned());
    let mut words: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
    let found = words.first().and_then(|program| version(program));
    // Open MPI alone counts cores, and alone knows this option.
    if words.len() == 1 && found.as_ref().is_some_and(|v| v.contains("Open MPI")) {
        words.push("--oversubscribe".to_owned());
    }
    let reason = if !cfg!(feature = "mpi") {
        "build with --features mpi to run it"
    } else if found.is_none() {
        "there is no mpirun; set MPIRUN to a launcher's command to run it"
    } else {
        return Some(words);
    };
    // Unlike a printed line, this one is shown where tests pass, too.
    let line = format!("SKIPPED: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    None
}

/// `unimo` in several ranks, each with these arguments.
fn ranks(launcher: &[String], each: &[(usize, Vec<String>)]) -> Output {
    started(launcher, each).output().unwrap()
}

/// Such ranks, not started yet. They share two cores with other tests.
fn started(launcher: &[String], each: &[(usize, Vec<String>)]) -> Command {
    let mut command = Command::new(&launcher[0]);
    command.args(&launcher[1..]);
    for (at, (ranks, args)) in each.iter().enumerate() {
        if at > 0 {
            command.arg(":");
        }
        command.arg("-n").arg(ranks.to_string());
        command.arg(env!("CARGO_BIN_EXE_unimo")).args(args);
    }
    command
        .env("RAYON_NUM_THREADS", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_mpi_yield_when_idle", "1");
    command.stdin(Stdio::null());
    command
}

/// Lists of `KEY=VALUE`.
type Sets<'a> = &'a [&'a [&'a str]];

fn train(recipe: &str, run: &Path, sets: Sets<'_>) -> Vec<String> {
    let words = ["train", recipe, "--quiet", "--train-only", "--out"];
    let mut args = words.map(str::to_owned).to_vec();
    args.push(run.display().to_string());
    for set in sets.iter().copied().flatten() {
        args.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    args
}

fn resume(run: &Path) -> Vec<String> {
    let words = ["train", "--quiet", "--train-only", "--resume"];
    let mut args = words.map(str::to_owned).to_vec();
    args.push(run.display().to_string());
    args
}

#[track_caller]
fn succeeds(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Every checkpoint of a run, byte by byte.
fn checkpoints(run: &Path) -> BTreeMap<u64, Vec<u8>> {
    let folder = run.join("checkpoints");
    let steps = checkpoint::steps(&folder).unwrap();
    let read = |step| fs::read(checkpoint::path(&folder, step)).unwrap();
    steps.into_iter().map(|step| (step, read(step))).collect()
}

/// What a run's `metrics.jsonl` says, without times.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = value.as_object_mut().unwrap();
        fields.retain(|name, _| !name.ends_with("seconds") && !name.ends_with("per_second"));
        value
    };
    text.lines().map(line).collect()
}

/// Weights, moments, queue, teacher and average of every step are those of one process, to the last bit, and so are the numbers that are
/// logged.
#[test]
fn several_ranks_give_the_bits_of_one_process() {
    let Some(launcher) = launcher("several_ranks_give_the_bits_of_one_process") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let recipes: [(&str, Sets<'_>, &[usize]); 7] = [
        ("unimo3-tiny", &[SMALL, NARROW, QUEUE], &[2, 4]),
        // A mixture with a codebook, and stages.
        ("unimo2-tiny", &[SMALL], &[2]),
        ("mvp-tiny", &[SMALL, &["data.scenes.train=400"]], &[4]),
        // Texts of classes, of which the model keeps what its frozen encoders give for them.
        ("mmrl-tiny", &[FEW], &[2]),
        // Contrast of images and of translations by turns, texts alone with a queue, and stories.
        ("cclm-tiny", &[FEW], &[2]),
        ("infoxlm-tiny", &[FEW], &[2]),
        ("sugar-tiny", &[FEW], &[2]),
    ];
    for (recipe, sets, sizes) in recipes {
        let alone = folder.path().join(format!("{recipe}-alone"));
        let output = unimo().args(train(recipe, &alone, sets)).output().unwrap();
        succeeds(&output);
        let expected = checkpoints(&alone);
        assert_eq!(expected.len(), 3);
        for size in sizes {
            let run = folder.path().join(format!("{recipe}-{size}"));
            succeeds(&ranks(&launcher, &[(*size, train(recipe, &run, sets))]));
            assert!(checkpoints(&run) == expected, "{recipe} in {size} ranks");
            assert_eq!(metrics(&run), metrics(&alone), "{recipe} in {size} ranks");
        }
        // Small buckets go out while the backward pass still computes what comes after them.
        let run = folder.path().join(format!("{recipe}-shared"));
        let mut shared = train(recipe, &run, sets);
        shared.extend(["--share-moments", "--bucket", "0.02"].map(str::to_owned));
        succeeds(&ranks(&launcher, &[(2, shared)]));
        assert!(checkpoints(&run) == expected, "{recipe}, shared moments");
    }
}

/// What a micro-batch adds is rounded, and the sum, by one process as by several: another training than without, and the same for all
/// numbers of ranks.
#[test]
fn a_narrow_wire_gives_the_same_bits_for_any_number_of_ranks() {
    let Some(launcher) = launcher("a_narrow_wire_gives_the_same_bits_for_any_number_of_ranks")
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let narrow: &[&str] = &["train.wire=bf16"];
    let train_alone = |name: &str, sets: Sets<'_>| {
        let run = folder.path().join(name);
        let output = unimo().args(train("unimo3-tiny", &run, sets)).output();
        succeeds(&output.unwrap());
        checkpoints(&run)
    };
    let wide = train_alone("wide", &[SMALL, NARROW, QUEUE]);
    let sets: Sets<'_> = &[SMALL, NARROW, QUEUE, narrow];
    let expected = train_alone("alone", sets);
    assert!(expected != wide);
    for (size, options) in [
        (2, &["--bucket", "0.02"][..]),
        (4, &["--share-moments", "--no-overlap"]),
    ] {
        let run = folder.path().join(size.to_string());
        let mut args = train("unimo3-tiny", &run, sets);
        args.extend(options.iter().map(|option| (*option).to_owned()));
        succeeds(&ranks(&launcher, &[(size, args)]));
        assert!(checkpoints(&run) == expected, "{size} ranks");
    }
}

/// Exchanged once a step, gradients are added in another order: equal to rounding.
#[test]
fn gradients_that_are_exchanged_once_give_the_same_to_rounding() {
    let Some(launcher) = launcher("gradients_that_are_exchanged_once_give_the_same_to_rounding")
    else {
        return;
    };
    /// Gradients near zero are rounding errors, of which AdamW's first steps make whole ones: a step is at most the learning rate, and most
    /// weights differ by less than a thousandth of it.
    const MEAN: f64 = 1e-6;
    let folder = tempfile::tempdir().unwrap();
    let sets: Sets<'_> = &[SMALL, NARROW];
    let (alone, run) = (folder.path().join("alone"), folder.path().join("run"));
    succeeds(
        &unimo()
            .args(train("unimo3-tiny", &alone, sets))
            .output()
            .unwrap(),
    );
    let mut once = train("unimo3-tiny", &run, sets);
    once.push("--sum-once".to_owned());
    succeeds(&ranks(&launcher, &[(2, once)]));
    let weights = |run: &Path| -> Vec<f32> {
        let bytes = checkpoints(run).remove(&3).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = tensors.tensors();
        all.retain(|(name, _)| name.starts_with("model."));
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let values = all
            .iter()
            .flat_map(|(_, tensor)| tensor.data().as_chunks().0);
        values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (one, two) = (weights(&alone), weights(&run));
    assert_eq!(one.len(), two.len());
    assert!(one != two);
    let apart = one.iter().zip(&two).map(|(a, b)| f64::from((a - b).abs()));
    let mean = apart.sum::<f64>() / one.len() as f64;
    assert!(mean < MEAN, "{mean}");
}

/// Also by numbers of ranks that are no powers of two, and after another number of them.
#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let Some(launcher) = launcher("a_run_goes_on_with_any_number_of_ranks") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let six: &[&str] = &["train.accumulation=6"];
    let sets: Sets<'_> = &[SMALL, NARROW, QUEUE, six];
    let run = folder.path().join("run");
    succeeds(&ranks(&launcher, &[(3, train("unimo3-tiny", &run, sets))]));
    let expected = checkpoints(&run);
    let cut = |to: u64| {
        for step in to + 1..=3 {
            fs::remove_file(checkpoint::path(&run.join("checkpoints"), step)).unwrap();
        }
    };
    cut(1);
    succeeds(&ranks(&launcher, &[(2, resume(&run))]));
    assert!(checkpoints(&run) == expected);
    cut(2);
    succeeds(&unimo().args(resume(&run)).output().unwrap());
    assert!(checkpoints(&run) == expected);
}

/// Numbers of images and questions that no number of ranks divides, and pairs through the matching head.
const HELD_OUT: &[&str] = &["data.scenes.val=7", "eval.batch_size=3"];

/// Retrieval during training and by `unimo eval`, and the predictions of a task.
#[test]
fn evaluations_and_predictions_are_those_of_one_process() {
    let Some(launcher) = launcher("evaluations_and_predictions_are_those_of_one_process") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let args = |recipe: &str, run: &Path, sets: Sets<'_>| -> Vec<String> {
        let args = train(recipe, run, sets).into_iter();
        args.filter(|arg| arg != "--train-only").collect()
    };
    let sets: Sets<'_> = &[SMALL, NARROW, HELD_OUT, &["eval.shortlist=3"]];
    let alone = path("alone");
    succeeds(
        &unimo()
            .args(args("unimo3-tiny", &alone, sets))
            .output()
            .unwrap(),
    );
    let evaluations = |run: &Path| fs::read_to_string(run.join("evals.jsonl")).unwrap();
    assert!(
        evaluations(&alone).contains("itm"),
        "{}",
        evaluations(&alone)
    );
    let several = path("several");
    succeeds(&ranks(
        &launcher,
        &[(4, args("unimo3-tiny", &several, sets))],
    ));
    assert_eq!(evaluations(&several), evaluations(&alone));

    for full in [false, true] {
        let mut eval = vec!["eval".to_owned(), alone.display().to_string()];
        eval.extend(full.then(|| "--full-itm".to_owned()));
        let of_one = unimo().args(&eval).output().unwrap();
        succeeds(&of_one);
        let of_three = ranks(&launcher, &[(3, eval)]);
        succeeds(&of_three);
        let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said(&of_one).contains("images"), "{}", said(&of_one));
        assert_eq!(said(&of_three), said(&of_one));
    }

    let sets: Sets<'_> = &[SMALL, HELD_OUT];
    let vqa = path("vqa");
    succeeds(
        &unimo()
            .args(train("unimo3-vqa-tiny", &vqa, sets))
            .output()
            .unwrap(),
    );
    let again = path("vqa-in-ranks");
    succeeds(&ranks(
        &launcher,
        &[(2, train("unimo3-vqa-tiny", &again, sets))],
    ));
    assert!(checkpoints(&again) == checkpoints(&vqa));
    let predict = |out: &Path| {
        let words = ["predict", "--split", "val", "--out"].map(str::to_owned);
        let mut args = words.to_vec();
        args.extend([out.display().to_string(), vqa.display().to_string()]);
        args
    };
    let (of_one, of_three) = (path("one.jsonl"), path("three.jsonl"));
    succeeds(&unimo().args(predict(&of_one)).output().unwrap());
    succeeds(&ranks(&launcher, &[(3, predict(&of_three))]));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(read(&of_one).lines().count() > 7);
    assert_eq!(read(&of_three), read(&of_one));

    // The last round has fewer batches than there are ranks, and a text is cut on one of them.
    let data = alone.join("recipe.toml");
    let texts = path("texts.txt");
    let long = "a red circle ".repeat(40);
    fs::write(
        &texts,
        format!("a circle\n{long}\na blue square\nnothing\n"),
    )
    .unwrap();
    let embed = |out: &Path| {
        let mut args = vec!["embed".to_owned(), alone.display().to_string()];
        for (option, value) in [("--images", &*data), ("--texts", &*texts), ("--out", out)] {
            args.extend([option.to_owned(), value.display().to_string()]);
        }
        args.extend(["--batch-size", "3"].map(str::to_owned));
        args
    };
    let (of_one, of_three) = (path("one.safetensors"), path("three.safetensors"));
    let output = unimo().args(embed(&of_one)).output().unwrap();
    succeeds(&output);
    let output = ranks(&launcher, &[(3, embed(&of_three))]);
    succeeds(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("1 text is longer").count(), 1, "{said}");
    assert!(fs::read(&of_three).unwrap() == fs::read(&of_one).unwrap());
}

/// Each is one readable error, on every rank that is concerned, and no rank is left.
#[test]
fn ranks_that_cannot_train_together_say_why() {
    let Some(launcher) = launcher("ranks_that_cannot_train_together_say_why") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let of = |set: &[&str]| train("unimo3-tiny", &run, &[SMALL, NARROW, set]);
    let says = |each: &[(usize, Vec<String>)], expected: &[&str]| {
        let output = ranks(&launcher, each);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for expected in expected {
            assert!(said.contains(expected), "{said}");
        }
        assert!(!run.exists(), "{said}");
    };
    says(
        &[(1, of(&[])), (1, of(&["train.steps=4"]))],
        &[
            "rank 0 ends",
            "rank 1 ends",
            "train.steps is 3 on rank 0 and 4 on rank 1",
        ],
    );
    says(
        &[(1, of(&[])), (1, resume(&run))],
        &[
            "rank 0 ends",
            "rank 1 ends",
            "must be the same on all ranks",
        ],
    );
}

/// The processes of `unimo` that train a run.
#[cfg(target_os = "linux")]
fn processes(run: &Path) -> Vec<String> {
    let own = env!("CARGO_BIN_EXE_unimo").as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let of_run = args.contains(&run.as_os_str().as_encoded_bytes());
        if of_run && args.first() == Some(&own) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

/// Waits until something is so.
#[cfg(target_os = "linux")]
#[track_caller]
fn until(is: impl Fn() -> bool) {
    /// Longer than a training of this size takes to begin on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(120);
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "it took too long");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A signal to one rank ends both: after SIGTERM with the step saved, after a kill by the launcher, and a rank that was stopped is given up by
/// the other one. Nothing is left.
#[cfg(target_os = "linux")]
#[test]
fn what_befalls_one_rank_ends_all() {
    use unimo_train::interrupt::EXIT_CODE;

    let Some(launcher) = launcher("what_befalls_one_rank_ends_all") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let long: &[&str] = &["train.steps=100000", "train.checkpoint_every=100000"];
    for (signal, rank, said) in [
        ("TERM", 1, "ended by a signal"),
        ("STOP", 1, "gives up"),
        ("STOP", 0, "gives up"),
        ("KILL", 1, ""),
    ] {
        let run = folder.path().join(format!("{signal}-{rank}"));
        let mut args = train("unimo3-tiny", &run, &[SMALL, NARROW, long]);
        args.extend(["--patience", "5"].map(str::to_owned));
        let mut command = started(&launcher, &[(2, args)]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.unwrap();
        until(|| {
            fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains('\n'))
        });
        let ranks = processes(&run);
        assert_eq!(ranks.len(), 2, "{ranks:?}");
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &ranks[rank]])
            .status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{signal}: {stderr}");
        assert!(stderr.contains(said), "{signal}: {stderr}");
        until(|| processes(&run).is_empty());
        let saved = checkpoint::steps(&run.join("checkpoints")).unwrap();
        assert_eq!(saved.len(), usize::from(signal == "TERM"), "{signal}");
        if signal == "TERM" {
            assert_eq!(output.status.code(), Some(EXIT_CODE.into()));
        }
    }
}

#[test]
fn micro_batches_that_ranks_cannot_share_are_an_error() {
    let Some(launcher) = launcher("micro_batches_that_ranks_cannot_share_are_an_error") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let args = train("unimo3-tiny", &run, &[SMALL, NARROW]);
    let output = ranks(&launcher, &[(3, args)]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("train.accumulation = 4"), "{said}");
    assert!(!run.exists());
}

/// Without MPI, several processes would train the same run several times.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_launcher_without_the_feature_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for variable in [
        "OMPI_COMM_WORLD_SIZE",
        "PMI_SIZE",
        "SLURM_STEP_NUM_TASKS",
        "WORLD_SIZE",
    ] {
        let args = train("unimo3-tiny", &run, &[SMALL, NARROW]);
        let output = unimo().args(args).env(variable, "2").output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("--features mpi") && said.contains("libopenmpi-dev"),
            "{said}"
        );
        assert!(!run.exists());
    }
}

/// What one process does is not done by several at once.
#[test]
fn other_commands_refuse_several_processes() {
    let output = unimo()
        .arg("recipes")
        .env("PMI_SIZE", "2")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`unimo recipes` is done by one"), "{said}");
}
