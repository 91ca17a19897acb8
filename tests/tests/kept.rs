//! Features of frozen encoders that are kept change no bit of a training, and what cannot be kept is refused with the reason.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, TensorData};
use unimo_core::parameters;
use unimo_tests::small;
use unimo_train::{kept, trained, training};

/// Dropout draws from burn's generator, of which a process has one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Twelve images, so that each is seen several times.
const FEW: [&str; 10] = [
    "train.steps=6",
    "train.batch_size=4",
    "train.accumulation=2",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "train.keep_last=9",
    "model.fusion.dropout=0.1",
    "data.scenes.train=12",
    "objectives.itc.momentum={ queue = 20, alpha = 0.4 }",
    "teacher={ decay = 0.9 }",
];

const FROZEN_IMAGES: &str = "train.freeze=[\"backbone.image\"]";
const FROZEN: &str = "train.freeze=[\"backbone.image\", \"backbone.text\"]";
const CACHE: &str = "train.cache=true";
/// Hard negatives of the other micro-batch go through the encoders again, in batches of other sizes.
const HARD: &str = "objectives.itm.negatives=hard_argmax";

fn train(folder: &Path, name: &str, more: &[&str]) -> PathBuf {
    let run = folder.join(name);
    let changes = [&FEW, more].concat();
    training::start(&small::recipe(&changes), &run, &small::options()).unwrap();
    run
}

fn weights(run: &Path, step: u64) -> Vec<(String, TensorData)> {
    let (_, _, _, model) = trained::open_model(run, Some(step), &Device::flex()).unwrap();
    parameters::values(&model)
}

/// The losses of each step as they were written, without the times.
fn losses(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let of = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {}", record["losses"], record["grad_norm"])
    };
    text.lines().map(of).collect()
}

fn files(run: &Path) -> usize {
    let listed = std::fs::read_dir(run.join(kept::FOLDER));
    listed.map_or(0, Iterator::count)
}

#[test]
fn a_training_is_the_same_to_the_last_bit() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let no_words_hidden = "objectives.mlm=none";
    for (name, set) in [
        ("images", vec![FROZEN_IMAGES, HARD]),
        // Texts are read as they are only where no objective hides words.
        ("both", vec![FROZEN, HARD, no_words_hidden]),
        (
            "padded",
            vec![FROZEN, HARD, no_words_hidden, "data.pad=max"],
        ),
    ] {
        let without = train(folder.path(), &format!("{name}-without"), &set);
        let with = train(
            folder.path(),
            &format!("{name}-with"),
            &[&set[..], &[CACHE]].concat(),
        );
        assert_eq!(losses(&without), losses(&with), "{name}");
        assert_eq!(weights(&without, 6), weights(&with, 6), "{name}");
        assert_eq!((files(&without), files(&with)), (0, 1), "{name}");
    }
}

#[test]
fn a_resumed_training_finds_what_was_kept_and_does_without_it() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let set = [FROZEN_IMAGES, HARD, CACHE];
    let whole = train(folder.path(), "whole", &set);
    for (name, features) in [("kept", true), ("lost", false)] {
        let resumed = folder.path().join(name);
        std::fs::create_dir_all(resumed.join("checkpoints")).unwrap();
        std::fs::create_dir_all(resumed.join(kept::FOLDER)).unwrap();
        let mut taken = vec![
            PathBuf::from("recipe.toml"),
            PathBuf::from("tokenizer.json"),
            PathBuf::from("checkpoints/step-00000003.safetensors"),
        ];
        if features {
            let listed = std::fs::read_dir(whole.join(kept::FOLDER)).unwrap();
            taken
                .extend(listed.map(|file| Path::new(kept::FOLDER).join(file.unwrap().file_name())));
        }
        for name in taken {
            std::fs::copy(whole.join(&name), resumed.join(&name)).unwrap();
        }
        training::resume(&resumed, &small::options()).unwrap();
        assert_eq!(weights(&resumed, 6), weights(&whole, 6), "{name}");
    }
}

/// Adapters that could learn nothing are refused before a run begins.
#[test]
fn a_loss_that_nothing_learns_from_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let lora = "train.lora={ layers = [\"backbone.image\"], rank = 2, alpha = 2.0 }";
    let changes = [&FEW, &["train.freeze=[\"backbone.image\"]", lora][..]].concat();
    let run = folder.path().join("nothing");
    let error = training::start(&small::recipe(&changes), &run, &small::options()).unwrap_err();
    assert!(
        error.to_string().contains("holds all of it still"),
        "{error}"
    );
    assert!(!run.exists(), "nothing is left of a refused run");
}

#[test]
fn what_cannot_be_kept_is_refused_with_the_reason() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let augment = "data.augment={ scale = [0.5, 1.0], ratio = [0.75, 1.25], flip = 0.5 }";
    for (set, reasons) in [
        (vec![], vec!["backbone.image", "it learns"]),
        (
            vec![FROZEN_IMAGES, augment],
            vec!["data.augment", "it learns (backbone.text"],
        ),
        (
            vec![FROZEN_IMAGES, "model.image.dropout=0.1"],
            vec!["model.image.dropout=0"],
        ),
        (
            vec!["train.freeze=[\"backbone.text\"]"],
            vec!["objectives.mlm hides words"],
        ),
        (
            vec!["train.lora={ layers = [\"backbone.image\"], rank = 2, alpha = 2.0 }"],
            vec!["it learns (backbone.image"],
        ),
    ] {
        let changes = [&FEW, &set[..], &[CACHE]].concat();
        let run = folder.path().join("refused");
        let error = training::start(&small::recipe(&changes), &run, &small::options()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("train.cache"), "{error}");
        for reason in reasons {
            assert!(error.contains(reason), "{reason}: {error}");
        }
        assert!(!run.exists(), "nothing is left of a refused run");
    }
}
