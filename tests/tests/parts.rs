//! Models of some parts alone, each from a recipe by overrides: two towers, texts alone, one stream over embeddings.

use std::path::Path;

use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

const SMALL: &[&str] = &[
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=4",
    "train.eval_every=0",
    "eval.batch_size=8",
    "eval.gallery=2",
    "model.text.vocab_size=300",
    "model.text.width=16",
    "model.text.heads=2",
    "model.text.feed_forward=32",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=40",
    "data.scenes.val=8",
    "data.tokenizer={ kind = \"train\", vocab_size = 300 }",
];

const IMAGE: &[&str] = &[
    "model.image.image_size=32",
    "model.image.patch_size=16",
    "model.image.width=16",
    "model.image.heads=2",
    "model.image.feed_forward=32",
];

fn recipe(name: &str, more: &[&[&str]]) -> Result<Recipe, String> {
    let set = SMALL.iter().chain(more.iter().copied().flatten());
    let overrides = Overrides {
        data: None,
        set: set.map(|s| (*s).to_owned()).collect(),
    };
    Recipe::load(name, &overrides).map_err(|e| e.to_string())
}

/// Keys of the losses of the last step, and the methods of the last evaluation.
fn trained(recipe: &Recipe, run: &Path) -> (Vec<String>, Vec<String>) {
    let options = Options {
        quiet: true,
        ..Options::default()
    };
    training::start(recipe, run, &options).unwrap_or_else(|e| panic!("{e}"));
    let last = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(run.join(name)).unwrap_or_default();
        let line = text.lines().last().unwrap_or("null").to_owned();
        serde_json::from_str(&line).unwrap()
    };
    let losses = last("metrics.jsonl")["losses"].as_object().unwrap().clone();
    for (key, said) in &losses {
        assert!(said["loss"].as_f64().unwrap().is_finite(), "{key}");
    }
    let methods = last("evals.jsonl")["retrieval"].as_array().cloned();
    let methods = methods.into_iter().flatten();
    let methods = methods.map(|m| m["method"].as_str().unwrap().to_owned());
    (losses.keys().cloned().collect(), methods.collect())
}

#[test]
fn two_towers_are_contrasted_and_retrieve() {
    let towers = [
        "model.fusion=none",
        "model.text.layers=1",
        "model.image.layers=1",
    ];
    let refused = recipe("unimo3-tiny", &[IMAGE, &towers, &["objectives.mlm=none"]]);
    let refused = refused.unwrap_err();
    assert!(refused.contains("objectives.itm"), "{refused}");
    assert!(refused.contains("[model.fusion]"), "{refused}");
    let without = ["objectives.mlm=none", "objectives.itm=none"];
    let recipe = recipe("unimo3-tiny", &[IMAGE, &towers, &without]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (losses, methods) = trained(&recipe, &folder.path().join("run"));
    assert_eq!(
        (losses, methods),
        (vec!["itc".to_owned()], vec!["itc".to_owned()])
    );
}

#[test]
fn texts_alone_are_learned_from_and_nothing_is_retrieved() {
    let alone = [
        "model.image=none",
        "model.joint=none",
        "model.text.layers=1",
        "objectives.vq=none",
        "objectives.mlm.texts_alone=true",
    ];
    let refused = recipe("unimo2-tiny", &[&alone]).unwrap_err();
    assert!(refused.contains("needs an image encoder"), "{refused}");
    let without = ["objectives.itm=none", "objectives.itc=none"];
    let recipe = recipe("unimo2-tiny", &[&alone, &without]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (losses, methods) = trained(&recipe, &folder.path().join("run"));
    assert_eq!((losses, methods), (vec!["mlm".to_owned()], Vec::new()));
}

#[test]
fn one_stream_reads_embeddings() {
    let raw = [
        "model.text.layers=0",
        "model.image.layers=0",
        "model.joint.width=16",
        "model.joint.layers=2",
        "model.joint.heads=2",
        "model.joint.feed_forward=32",
        "model.joint.grounding=none",
        "objectives.vq=none",
        "objectives.itc.width=16",
    ];
    let recipe = recipe("unimo2-tiny", &[IMAGE, &raw]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (losses, methods) = trained(&recipe, &folder.path().join("run"));
    assert_eq!(losses, ["mlm", "itm", "itc"]);
    assert!(methods.contains(&"itc+itm".to_owned()), "{methods:?}");
    // Two streams read what encoders made.
    let two = ["model.text.layers=0", "model.image.layers=0"];
    let refused = self::recipe("unimo3-tiny", &[IMAGE, &two]).unwrap_err();
    assert!(refused.contains("model.text.layers"), "{refused}");
}
