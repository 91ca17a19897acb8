//! What is frozen costs no backward pass, and changes nothing of what learns.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, TensorData};
use unimo_core::parameters;
use unimo_tests::small;
use unimo_train::recipe::Recipe;
use unimo_train::{trained, training};

/// Dropout draws from burn's generator, of which a process has one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn recipe(more: &[&str]) -> Recipe {
    let changes = [
        "train.steps=4",
        "train.batch_size=4",
        "train.accumulation=2",
        "train.clip_norm=none",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "model.fusion.dropout=0.1",
        "objectives.itc.momentum={ queue = 20, alpha = 0.4 }",
        "teacher={ decay = 0.9 }",
    ];
    small::recipe(&[&changes, more].concat())
}

fn train(folder: &Path, name: &str, more: &[&str]) -> std::path::PathBuf {
    let run = folder.join(name);
    training::start(&recipe(more), &run, &small::options()).unwrap();
    run
}

fn weights(run: &Path, step: u64) -> Vec<(String, TensorData)> {
    let (_, _, _, model) = trained::open_model(run, Some(step), &Device::flex()).unwrap();
    parameters::values(&model)
}

/// A rate of 0 computes every gradient and uses none of the frozen ones. So what learns must end with the same bits, whether an encoder is run
/// without autodiff or, since it has dropout, with it. Contrasts over two micro-batches go through the encoders twice.
#[test]
fn what_learns_is_what_it_is_beside_parts_that_only_do_not_move() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    for (at, dropout) in ["0", "0.1"].into_iter().enumerate() {
        let dropout = [
            format!("model.text.dropout={dropout}"),
            format!("model.image.dropout={dropout}"),
        ];
        for (part, others) in [
            (
                "backbone.text",
                "\"backbone.image\", \"backbone.fusion\", \"objectives\"",
            ),
            (
                "backbone.image",
                "\"backbone.text\", \"backbone.fusion\", \"objectives\"",
            ),
        ] {
            let still = format!("train.optimizer.lr_factors={{ \"{part}\" = 0.0 }}");
            let frozen = format!("train.freeze=[\"{part}\"]");
            let stage = format!("stage=[{{ name = \"one\", share = 1.0, train = [{others}] }}]");
            let run = |name: &str, set: &str| {
                let set = [dropout[0].as_str(), dropout[1].as_str(), set];
                weights(
                    &train(folder.path(), &format!("{at}-{part}-{name}"), &set),
                    4,
                )
            };
            let expected = run("still", &still);
            assert_eq!(expected, run("frozen", &frozen), "{part}, {dropout:?}");
            assert_eq!(expected, run("stage", &stage), "{part}, {dropout:?}");
        }
    }
}

/// A stage releases what the one before froze, also where a run is resumed.
#[test]
fn each_stage_has_its_own_frozen_parts() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let stages = "stage=[{ name = \"a\", share = 0.5, train = [\"backbone.fusion\", \"objectives\"] }, { name = \"b\", share = 0.5 }]";
    let run = train(
        folder.path(),
        "whole",
        &[stages, "train.freeze=[\"backbone.image\"]"],
    );
    let (two, four) = (weights(&run, 2), weights(&run, 4));
    let fresh = unimo_train::model::Model::new(&recipe(&[]), &Device::flex());
    let begun = parameters::values(&fresh);
    let moved = |from: &[(String, TensorData)], to: &[(String, TensorData)], part: &str| {
        let both = from.iter().zip(to);
        let own = both.filter(|((name, _), _)| name.starts_with(part));
        own.filter(|((_, a), (_, b))| a != b).count()
    };
    assert_eq!(moved(&begun, &two, "backbone.text."), 0);
    assert!(moved(&begun, &two, "backbone.fusion.") > 0);
    assert!(moved(&two, &four, "backbone.text.") > 0);
    assert_eq!(moved(&begun, &four, "backbone.image."), 0);

    let resumed = folder.path().join("resumed");
    std::fs::create_dir_all(resumed.join("checkpoints")).unwrap();
    for name in [
        "recipe.toml",
        "tokenizer.json",
        "checkpoints/step-00000002.safetensors",
    ] {
        std::fs::copy(run.join(name), resumed.join(name)).unwrap();
    }
    let options = training::Options {
        quiet: true,
        train_only: true,
        ..training::Options::default()
    };
    training::resume(&resumed, &options).unwrap();
    assert_eq!(weights(&resumed, 4), four);
}
