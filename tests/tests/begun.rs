//! What goes on is what was begun: a resumed run finds the recipe, the data and the tokenizer that it was begun with, or says what
//! differs; what may change on purpose can, and is recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use unimo_encoders::weights::write_safetensors;
use unimo_train::compare::compare;
use unimo_train::device::DeviceChoice;
use unimo_train::fingerprint::Given;
use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};
use unimo_train::resuming::Asked;
use unimo_train::run::RunFolder;
use unimo_train::{checkpoint, evaluation, training};

const ROWS: usize = 16;
const STEPS: u64 = 4;

/// A list of pairs and its images.
fn write_list(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let mut lines = String::new();
    for at in 0..=ROWS {
        let shade = (at * 12) as u8;
        RgbImage::from_pixel(8, 8, Rgb([shade, 255 - shade, 128]))
            .save(folder.join(format!("{at}.png")))
            .unwrap();
        if at < ROWS {
            lines += &row(at);
        }
    }
    let list = folder.join("pairs.jsonl");
    fs::write(&list, lines).unwrap();
    list
}

fn row(at: usize) -> String {
    format!("{{\"image\": \"{at}.png\", \"caption\": \"a plain picture of shade {at}\"}}\n")
}

/// What makes a recipe train in a second.
const SMALL: &[&str] = &[
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "data.image_size=32",
    "data.pairs.val_fraction=0.0",
];

fn overrides(list: &Path) -> Overrides {
    Overrides {
        data: Some(list.to_owned()),
        set: SMALL.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn options() -> training::Options {
    training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
        ..training::Options::default()
    }
}

/// A run of [`STEPS`] steps on a list, as `unimo train RECIPE --data LIST --set ...` begins it.
fn begin(named: &str, list: &Path, run: &Path) {
    let overrides = overrides(list);
    let recipe = Recipe::load(named, &overrides).unwrap();
    let options = training::Options {
        given: Some(Given {
            recipe: named.to_owned(),
            data: overrides.data,
            set: overrides.set,
        }),
        ..options()
    };
    training::start(&recipe, run, &options).unwrap();
}

fn resume(run: &Path, recipe: Option<&str>, set: &[&str]) -> Result<PathBuf, String> {
    let options = training::Options {
        asked: Asked {
            recipe: recipe.map(str::to_owned),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
            ..Asked::default()
        },
        ..options()
    };
    training::resume(run, &options).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(run: &Path, recipe: Option<&str>, set: &[&str], named: &[&str]) {
    let before = fs::read_to_string(run.join("recipe.toml")).unwrap();
    let error = resume(run, recipe, set).unwrap_err();
    for name in named {
        assert!(error.contains(name), "{name} is not in: {error}");
    }
    assert_eq!(fs::read_to_string(run.join("recipe.toml")).unwrap(), before);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn other_data_tokenizers_and_recipes_are_named_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    resume(&run, None, &[]).unwrap();

    let rows: Vec<String> = (0..ROWS).map(row).collect();
    let mut other = rows.clone();
    other[3] = other[3].replace("plain", "plane");
    let mut picture = rows.clone();
    picture[3] = picture[3].replace("3.png", "16.png");
    let mut turned = rows.clone();
    turned.swap(2, 9);
    for (rows, named) in [
        ([&rows[..], &[row(ROWS)]].concat(), "16 rows, now 17"),
        (rows[1..].to_vec(), "16 rows, now 15"),
        (other, "16 rows, now as many, but others"),
        (picture, "16 rows, now as many, but others"),
        (turned, "the same 16 rows, now in another order"),
    ] {
        fs::write(&list, rows.concat()).unwrap();
        refused(&run, None, &[], &["data (train)", named]);
    }
    fs::write(&list, rows.concat()).unwrap();

    // A tokenizer of the same size; and one that was edited after the run.
    let tokenizer = run.join("tokenizer.json");
    let own = fs::read_to_string(&tokenizer).unwrap();
    fs::write(&tokenizer, own.replacen('{', "{ ", 1)).unwrap();
    refused(&run, None, &[], &["tokenizer.json"]);
    // Who evaluates the run meets it, too.
    let look = evaluation::Options {
        limit: Some(4),
        split: Some(unimo_data::Split::Train),
        ..evaluation::Options::default()
    };
    let error = evaluation::run(&run, &look).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    fs::write(&tokenizer, own).unwrap();

    let recipe = run.join("recipe.toml");
    let own = fs::read_to_string(&recipe).unwrap();
    for (old, new, named) in [
        (
            "batch_size = 4",
            "batch_size = 8",
            &["train.batch_size: 4 -> 8", "place in the data"][..],
        ),
        (
            "steps = 4",
            "steps = 8",
            &["train.steps: 4 -> 8", "--set 'train.steps=8'"],
        ),
        ("seed = 0", "seed = 9", &["seed: 0 -> 9"]),
    ] {
        assert!(own.contains(old), "{old}");
        fs::write(&recipe, own.replacen(old, new, 1)).unwrap();
        refused(
            &run,
            None,
            &[],
            &[&["recipe.toml was edited"], named].concat(),
        );
    }
    fs::write(&recipe, own).unwrap();
    resume(&run, None, &[]).unwrap();

    // A checkpoint of another run.
    let other = folder.path().join("other");
    let elsewhere = write_list(&folder.path().join("elsewhere"));
    fs::write(&elsewhere, rows[..8].concat()).unwrap();
    begin("unimo3-tiny", &elsewhere, &other);
    let newest = |run: &Path| checkpoint::path(&run.join("checkpoints"), STEPS);
    fs::copy(newest(&other), newest(&run)).unwrap();
    refused(&run, None, &[], &["newest checkpoint", "8 rows, now 16"]);
}

#[test]
fn what_may_change_on_purpose_does_and_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    for (set, named) in [
        ("train.batch_size=8", "train.batch_size: 4 -> 8"),
        ("model.text.dropout=0.5", "model.text.dropout"),
        ("objectives.mlm=none", "objectives.mlm"),
        ("seed=7", "seed"),
        ("data.resize=crop", "data.resize"),
        ("data.tokenizer.vocab_size=400", "tokenizer.json"),
        ("train.optimizer.beta1=0.5", "moments"),
        ("train.steps=3", "has done more"),
        ("train.stepz=9", "stepz"),
    ] {
        refused(&run, None, &[set], &[named]);
    }
    let sessions = || RunFolder::open(&run).unwrap().0.sessions().unwrap();
    assert_eq!(sessions().len(), 1);

    resume(
        &run,
        None,
        &[
            "train.steps=6",
            "train.optimizer.lr=5e-4",
            "train.log_every=2",
            "data.workers=2",
        ],
    )
    .unwrap();
    let last = sessions().pop().unwrap();
    assert_eq!(last.after_step, STEPS);
    assert_eq!(last.changed.len(), 4, "{:?}", last.changed);
    assert!(last.changed.contains(&"train.steps: 4 -> 6".to_owned()));
    let (_, recipe) = RunFolder::open(&run).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.optimizer.lr), (6, 5e-4));
    let steps = checkpoint::steps(&run.join("checkpoints")).unwrap();
    assert_eq!(steps.last(), Some(&6));
    // From then on it is the run's own; the recipe that it began with is still known.
    resume(&run, None, &[]).unwrap();
    resume(&run, Some("unimo3-tiny"), &[]).unwrap();
    assert!(sessions().pop().unwrap().changed.is_empty());

    // Data that was moved is the same data, if it is.
    let moved = folder.path().join("moved");
    fs::rename(list.parent().unwrap(), &moved).unwrap();
    let path = format!("data.pairs.path={}", moved.join("pairs.jsonl").display());
    assert!(resume(&run, None, &[]).unwrap_err().contains("pairs.jsonl"));
    resume(&run, None, &[path.as_str(), "train.steps=8"]).unwrap();
    resume(&run, None, &[]).unwrap();
    let grown = write_list(&folder.path().join("grown"));
    let text = fs::read_to_string(&grown).unwrap() + &row(ROWS);
    fs::write(&grown, text).unwrap();
    let path = format!("data.pairs.path={}", grown.display());
    refused(&run, None, &[path.as_str()], &["16 rows, now 17"]);
}

#[test]
fn a_recipe_beside_the_run_must_be_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let mine = folder.path().join("mine.toml");
    let named = mine.display().to_string();
    fs::write(&mine, BUILT_IN[0].text).unwrap();
    let run = folder.path().join("run");
    begin(&named, &list, &run);
    resume(&run, Some(&named), &[]).unwrap();
    let edited = BUILT_IN[0].text.replacen("rate = 0.15", "rate = 0.3", 1);
    assert_ne!(edited, BUILT_IN[0].text);
    fs::write(&mine, edited).unwrap();
    refused(
        &run,
        Some(&named),
        &[],
        &[
            "is not what the run was begun with",
            "mask.rate: 0.15 -> 0.3",
        ],
    );
    refused(&run, Some("unimo2-tiny"), &[], &["unimo2-tiny"]);
    resume(&run, None, &[]).unwrap();
}

#[test]
fn a_kill_between_the_two_files_of_a_change_is_no_edit() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    let before = fs::read_to_string(run.join("recipe.toml")).unwrap();
    resume(&run, None, &["train.steps=6"]).unwrap();
    // As if the new fingerprint had been written, and the recipe not yet.
    let path = run.join("fingerprint.json");
    let mut begun: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(begun.get("replaced"), None);
    begun["replaced"] = before.clone().into();
    fs::write(&path, begun.to_string()).unwrap();
    fs::write(run.join("recipe.toml"), &before).unwrap();
    resume(&run, None, &[]).unwrap();
    assert_eq!(RunFolder::open(&run).unwrap().1.train.steps, 6);
    // And only then: a later edit is one.
    fs::write(run.join("recipe.toml"), &before).unwrap();
    refused(&run, None, &[], &["train.steps: 6 -> 4"]);
}

#[test]
fn a_run_of_an_older_version_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    let older = folder.path().join("older");
    copy(&run, &older);
    fs::remove_file(older.join("fingerprint.json")).unwrap();
    // The checkpoint alone says what the run was begun with.
    let grown = fs::read_to_string(&list).unwrap() + &row(ROWS);
    let own = fs::read_to_string(&list).unwrap();
    fs::write(&list, grown).unwrap();
    refused(&older, None, &[], &["16 rows, now 17"]);
    fs::write(&list, own).unwrap();

    for step in checkpoint::steps(&older.join("checkpoints")).unwrap() {
        let path = checkpoint::path(&older.join("checkpoints"), step);
        let bytes = fs::read(&path).unwrap();
        let (_, about) = SafeTensors::read_metadata(&bytes).unwrap();
        let mut notes: BTreeMap<String, String> =
            about.metadata().clone().unwrap().into_iter().collect();
        assert!(notes.remove("fingerprint").is_some());
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut out = Vec::new();
        write_safetensors(&mut out, tensors.tensors(), &notes).unwrap();
        fs::write(&path, out).unwrap();
    }
    let _ = fs::remove_file(older.join("fingerprint.json"));
    resume(&older, None, &["train.steps=6"]).unwrap();
    // From here on there is something to compare.
    let grown = fs::read_to_string(&list).unwrap() + &row(ROWS);
    fs::write(&list, grown).unwrap();
    refused(&older, None, &[], &["16 rows, now 17"]);
}

#[test]
fn a_stage_goes_on_with_its_own_data() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let second = write_list(&folder.path().join("second"));
    let run = folder.path().join("run");
    let mut overrides = overrides(&list);
    overrides.set.push(format!(
        "stage=[{{ name = \"one\", share = 0.5 }}, {{ name = \"two\", share = 0.5, data = {{ pairs = {{ path = \"{}\" }} }} }}]",
        second.display()
    ));
    overrides.data = None;
    overrides.set.extend([
        "data.source=pairs".to_owned(),
        format!("data.pairs.path={}", list.display()),
        "train.checkpoint_every=1".to_owned(),
    ]);
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    training::start(&recipe, &run, &options()).unwrap();
    // Killed in the second stage.
    fs::remove_file(checkpoint::path(&run.join("checkpoints"), STEPS)).unwrap();
    let grown = fs::read_to_string(&second).unwrap() + &row(ROWS);
    let own = fs::read_to_string(&second).unwrap();
    fs::write(&second, grown).unwrap();
    refused(
        &run,
        None,
        &[],
        &["stage[1].data (train)", "16 rows, now 17"],
    );
    fs::write(&second, own).unwrap();
    refused(&run, None, &["train.steps=8"], &["stages"]);
    resume(&run, None, &["stage[1].lr=1e-4"]).unwrap();
}

/// Every file of a folder, but for the lock.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("run.lock") {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// Nothing is written of a start that is refused: neither a change that cannot be, nor a session.
#[track_caller]
fn refused_without_a_trace(run: &Path, set: &[&str], named: &[&str]) {
    let before = files(run);
    refused(run, None, set, named);
    let now = files(run);
    let changed = now
        .iter()
        .filter(|(path, text)| before.get(*path) != Some(*text));
    let changed: Vec<&PathBuf> = changed.map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "{set:?} wrote {changed:?}");
    assert_eq!(before.len(), now.len());
}

#[test]
fn a_change_that_no_step_would_use_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    for set in [
        "train.dtype=f16",
        "train.schedule.decay=cosine",
        "train.optimizer.lr=5e-4",
        "train.optimizer.lr_factors={ \"backbone.text\" = 0.5 }",
        "train.log_every=2",
        "train.checkpoint_every=1",
        "train.gradient_checkpointing=true",
        "eval.limit=3",
        "data.workers=3",
    ] {
        let key = set.split('=').next().unwrap();
        refused_without_a_trace(
            &run,
            &[set],
            &["is finished at step 4", key, "train.steps="],
        );
    }
    // What is no matter of steps may change, and so may anything with more steps.
    resume(&run, None, &["description=another name"]).unwrap();
    resume(&run, None, &["train.steps=5", "train.optimizer.lr=5e-4"]).unwrap();
    let (own, recipe) = RunFolder::open(&run).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.optimizer.lr), (5, 5e-4));
    assert_eq!(recipe.description, "another name");
    assert_eq!(own.sessions().unwrap().len(), 3);
}

#[test]
fn how_a_scale_of_losses_grows_may_change_and_the_scale_itself_is_of_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    let half = ["train.steps=5", "train.dtype=f16"];
    resume(&run, None, &half).unwrap();
    refused_without_a_trace(
        &run,
        &["train.steps=6", "train.loss_scale.initial=1024"],
        &["train.loss_scale.initial", "the factor of its own step"],
    );
    resume(
        &run,
        None,
        &["train.steps=6", "train.loss_scale.grow_after=1"],
    )
    .unwrap();
    let (own, recipe) = RunFolder::open(&run).unwrap();
    assert_eq!(recipe.train.loss_scale.unwrap().grow_after, 1);
    let scales: Vec<Option<f64>> = own.steps().unwrap().iter().map(|s| s.loss_scale).collect();
    let [.., before, after] = scales.as_slice() else {
        panic!("{scales:?}");
    };
    // Each is the factor after its step.
    assert_eq!((*before, *after), (Some(65536.0), Some(131_072.0)));
}

#[test]
fn a_recipe_that_was_edited_is_told_where_the_run_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    let notes = || compare(std::slice::from_ref(&run)).unwrap().notes;
    assert!(notes().iter().all(|note| !note.contains("edited")));
    let path = run.join("recipe.toml");
    let text = fs::read_to_string(&path).unwrap();
    let edited = text.replace("weight_decay = 0.01", "weight_decay = 0.02");
    assert_ne!(text, edited);
    fs::write(&path, edited).unwrap();
    let said = notes().join("; ");
    assert!(
        said.contains("recipe.toml was edited") && said.contains("weight_decay: 0.01 -> 0.02"),
        "{said}"
    );
}

#[test]
fn what_is_over_in_a_run_of_stages_cannot_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    let mut overrides = overrides(&list);
    overrides.set.extend([
        "stage=[{ name = \"one\", share = 0.5, lr = 1e-3 }, { name = \"two\", share = 0.5, lr = 1e-3 }]".to_owned(),
        "train.checkpoint_every=1".to_owned(),
    ]);
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    training::start(&recipe, &run, &options()).unwrap();
    fs::remove_file(checkpoint::path(&run.join("checkpoints"), STEPS)).unwrap();
    for set in ["stage[0].lr=1e-4", "train.optimizer.lr=1e-4"] {
        refused_without_a_trace(
            &run,
            &[set],
            &["has done 3 steps", "none of those that are left"],
        );
    }
    resume(&run, None, &["stage[1].lr=1e-4"]).unwrap();
}

#[test]
fn a_refused_resume_leaves_the_run_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    let mut overrides = overrides(&list);
    overrides
        .set
        .retain(|set| !set.starts_with("data.pairs.val"));
    overrides
        .set
        .push("data.pairs.val_fraction=0.25".to_owned());
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let options = training::Options {
        train_only: false,
        ..options()
    };
    training::start(&recipe, &run, &options).unwrap();
    // As if it had been killed before the last step, with what it had logged of it.
    fs::remove_file(checkpoint::path(&run.join("checkpoints"), STEPS)).unwrap();
    let before = files(&run);
    for (set, named) in [
        ("eval.select=foo", "eval.select"),
        ("eval.captions={}", "objectives.lm"),
        (
            "train.optimizer.lr_factors={ \"backbone.txt\" = 0.5 }",
            "backbone.txt",
        ),
    ] {
        let asked = Asked {
            recipe: None,
            set: vec![set.to_owned()],
            ..Asked::default()
        };
        let options = training::Options {
            asked,
            ..options.clone()
        };
        let error = training::resume(&run, &options).unwrap_err().to_string();
        assert!(error.contains(named), "{set}: {error}");
        assert_eq!(files(&run), before, "{set}");
    }
    training::resume(&run, &options).unwrap();
    assert_eq!(
        RunFolder::open(&run).unwrap().0.sessions().unwrap().len(),
        2
    );
}

#[test]
fn a_damaged_newest_checkpoint_names_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let list = write_list(&folder.path().join("data"));
    let run = folder.path().join("run");
    begin("unimo3-tiny", &list, &run);
    let newest = checkpoint::path(&run.join("checkpoints"), STEPS);
    let whole = fs::read(&newest).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &whole[..4], &flipped] {
        fs::write(&newest, damaged).unwrap();
        let named = ["step-00000004", "The one of step 2 is there", "--resume"];
        refused_without_a_trace(&run, &[], &named);
    }
    fs::write(&newest, &whole[..whole.len() / 2]).unwrap();
    let look = evaluation::Options {
        limit: Some(4),
        split: Some(unimo_data::Split::Train),
        ..evaluation::Options::default()
    };
    let error = evaluation::run(&run, &look).unwrap_err().to_string();
    assert!(error.contains("which --step names: 2"), "{error}");
    fs::rename(&newest, folder.path().join("away")).unwrap();
    resume(&run, None, &[]).unwrap();
    let steps = checkpoint::steps(&run.join("checkpoints")).unwrap();
    assert_eq!(steps, [2, 4]);
    let older = checkpoint::path(&run.join("checkpoints"), 2);
    fs::remove_file(older).unwrap();
    fs::write(&newest, b"").unwrap();
    refused(&run, None, &[], &["There is no older one"]);
}
