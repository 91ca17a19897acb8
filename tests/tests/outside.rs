//! What another crate adds without a change here: a source, an image encoder, the blocks of a text encoder, an objective that predicts and an
//! evaluator, each by its registry. A program of four lines has them and all commands of `unimo`; its recipe is trained, killed, resumed and evaluated.

#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use unimo_tests::outside::{self, blocks, encoder, evaluator, objective, source};
use unimo_train::checkpoint;
use unimo_train::recipe::{Overrides, Recipe};

/// Longer than anything here takes on a busy machine, so that a failing test ends.
const PATIENCE: Duration = Duration::from_secs(300);

const STEPS: u64 = 60;

const RECIPE: &str = r#"
extends = "unimo3-tiny"
description = "parts of another crate"

[train]
steps = 60
batch_size = 12
log_every = 1
eval_every = 30
checkpoint_every = 6
keep_last = 100

[train.optimizer]
lr = 3e-3

[eval]
select = "nearest.share"
gallery = 2

[eval.nearest]
images = 24

[model]
image = "none"

[model.text]
vocab_size = 300
width = 16
layers = 1
heads = 2
feed_forward = 32

[model.text.neighbours]
dropout = 0.1

[model.rows]
image_size = 16
width = 16
layers = 1
dropout = 0.1

[model.fusion]
width = 16
layers = 1
heads = 2
feed_forward = 32

[objectives.itc]
width = 16

[objectives.direction]
weight = 1.0

[data]
source = "stripes"
image_size = 16

[data.stripes]
size = 16
train = 240
val = 24

[data.tokenizer]
vocab_size = 300
"#;

fn recipe(change: impl FnOnce(String) -> String) -> Result<Recipe, String> {
    let text = change(RECIPE.to_owned());
    let read = Recipe::parse("mine.toml", &text, None, &Overrides::default());
    read.map_err(|e| e.to_string())
}

#[test]
fn names_are_strict() {
    // Nobody knows them yet.
    for (section, known) in [
        ("model.rows", "joint"),
        ("model.text.neighbours", "layers"),
        ("objectives.direction", "mlm"),
        ("eval.nearest", "prompts"),
        ("data.stripes", "pairs"),
    ] {
        let (_, name) = section.rsplit_once('.').unwrap();
        let text = format!("extends = \"unimo3-tiny\"\n[{section}]\n");
        let error = Recipe::parse("mine.toml", &text, None, &Overrides::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("unknown field `{name}`"))
                && error.contains(&format!("`{known}`"))
                && error.contains("another crate"),
            "{error}"
        );
    }
    let error = recipe(|text| text).unwrap_err();
    assert!(error.contains("another crate"), "{error}");

    outside::register().unwrap();
    let whole = recipe(|text| text).unwrap();
    let written = whole.to_toml().unwrap();
    for section in [
        "[model.rows]",
        "[model.text.neighbours]",
        "[objectives.direction]",
        "[eval.nearest]",
        "[data.stripes]",
    ] {
        assert!(written.contains(section), "{written}");
    }
    let again = Recipe::parse("again.toml", &written, None, &Overrides::default());
    assert_eq!(again.unwrap(), whole);

    // Twice, and the names of built-in parts and of other keys.
    for key in ["stripes", "scenes", "tokenizer", "source", "a.b", ""] {
        assert!(unimo_data::register::<source::StripesConfig>(key).is_err());
    }
    for key in ["rows", "image", "initializer_range"] {
        assert!(unimo_encoders::register::<encoder::RowsConfig>(key).is_err());
    }
    for key in ["neighbours", "layers", "tower"] {
        assert!(unimo_encoders::register_text::<blocks::NeighboursConfig>(key).is_err());
    }
    for key in ["direction", "mlm"] {
        let register = unimo_objectives::registry::register::<objective::DirectionConfig>;
        assert!(register(key).is_err());
    }
    for key in ["nearest", "prompts", "retrieval", "vqa", "limit"] {
        let register = unimo_train::evaluators::registry::register::<evaluator::NearestConfig>;
        assert!(register(key).is_err());
    }

    // A wrong value is named with its key, a wrong name with what is allowed.
    for (from, to, says) in [
        ("train = 240", "train = 0", "data.stripes.train"),
        ("val = 24", "vall = 24", "vall"),
        ("images = 24", "images = 0", "eval.nearest.images"),
        ("images = 24", "image = 24", "image"),
        (
            "weight = 1.0",
            "weight = -1.0",
            "objectives.direction.weight",
        ),
        ("weight = 1.0", "wait = 1.0", "wait"),
        (
            "layers = 1\ndropout = 0.1",
            "layers = 1\ndropout = 1.0",
            "model.rows.dropout",
        ),
        (
            "layers = 1\ndropout = 0.1",
            "layers = 1\ndrop = 0.1",
            "drop",
        ),
        (
            "[model.text.neighbours]\ndropout = 0.1",
            "[model.text.neighbours]\ndropout = 1.0",
            "model.text.neighbours.dropout",
        ),
        (
            "width = 16\nlayers = 1\nheads = 2",
            "width = 16\nlayers = 0\nheads = 2",
            "text.layers",
        ),
        (
            "[model.text.neighbours]\ndropout = 0.1",
            "[model.text.neighbours]\ndropout = 0.1\n\n[objectives.lm]\nweight = 1.0",
            "reads on word by word",
        ),
        ("layers = 1\ndropout", "layers = 0\ndropout", "rows.layers"),
        (
            "image_size = 16\nwidth",
            "image_size = 17\nwidth",
            "model.rows.image_size = 17",
        ),
        ("image = \"none\"", "", "image and rows"),
        ("source = \"stripes\"", "source = \"spots\"", "`stripes`"),
        ("nearest.share", "nearest.shape", "eval.select"),
    ] {
        assert!(RECIPE.contains(from), "{from}");
        let changed = recipe(|text| text.replacen(from, to, 1));
        // What an evaluator gives is known when it is opened.
        if says == "eval.select" {
            changed.unwrap();
            continue;
        }
        let error = changed.unwrap_err();
        assert!(error.contains(says), "{to}: {error}");
    }
    let mixture = RECIPE.replace(
        "source = \"stripes\"",
        "source = \"mixture\"\nmixture.parts = [{ source = \"stripes\", size = 16, train = 6 }, { source = \"scenes\", size = 32 }]",
    );
    let mixed = Recipe::parse("mixed.toml", &mixture, None, &Overrides::default()).unwrap();
    let opened = unimo_data::open(&mixed.data).unwrap();
    assert!(
        opened.describe().contains("6 images of stripes"),
        "{}",
        opened.describe()
    );
    let again = Recipe::parse(
        "again.toml",
        &mixed.to_toml().unwrap(),
        None,
        &Overrides::default(),
    );
    assert_eq!(again.unwrap(), mixed);
}

fn own(arguments: &[&str], more: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_own-unimo"));
    command.args(arguments).args(more).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    output
}

/// Messages name the program that was started.
#[test]
fn a_program_says_its_own_name() {
    let output = own(&["recipes"], &[])
        .env("PMI_SIZE", "2")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("`own-unimo recipes` is done by one"),
        "{said}"
    );
}

#[test]
fn a_program_with_its_own_parts_trains_resumes_evaluates_and_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("mine.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let file = |run: &Path, step| checkpoint::path(&run.join("checkpoints"), step);

    done(own(&["train", "--quiet", "--out"], &[&whole, &recipe]));
    let bytes = fs::read(file(&whole, STEPS)).unwrap();
    let names = String::from_utf8_lossy(&bytes[..40_000.min(bytes.len())]).into_owned();
    for name in [
        "model.backbone.outside.rows.row.weight",
        "model.backbone.text.outside.neighbours.layers.0.mix.weight",
        "model.objectives.direction.head.weight",
    ] {
        assert!(names.contains(name), "{names}");
    }
    let metrics = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["losses"]["direction"]["loss"].as_f64().unwrap()
    };
    let losses: Vec<f64> = metrics.lines().map(loss).collect();
    assert_eq!(losses.len() as u64, STEPS);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(
        mean(&losses[50..]) < 0.5 * mean(&losses[..10]),
        "{losses:?}"
    );
    let evaluations = fs::read_to_string(whole.join("evals.jsonl")).unwrap();
    for number in ["nearest.share", "direction.accuracy"] {
        assert!(evaluations.contains(number), "{evaluations}");
    }
    let report = fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(report.contains("nearest.share") && report.contains("direction of stripes"));

    // Killed after its first checkpoint, and resumed, it ends in the same bits.
    let mut child = own(&["train", "--quiet", "--out"], &[&killed, &recipe])
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !file(&killed, 6).exists() {
        assert!(began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!file(&killed, STEPS).exists(), "it was killed too late");
    done(own(&["train", "--quiet", "--resume"], &[&killed]));
    assert_eq!(fs::read(file(&killed, STEPS)).unwrap(), bytes);

    let output = done(own(&["eval"], &[&killed]));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for number in ["nearest.share", "direction.accuracy", "itc"] {
        assert!(table.contains(number), "{table}");
    }
    let output = done(own(&["predict"], &[&killed]));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(lines.lines().count(), 24, "{lines}");
    assert!(
        lines
            .lines()
            .all(|line| line.contains("lying") || line.contains("standing"))
    );
}
