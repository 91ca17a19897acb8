//! Outputs, hidden states and gradients against Hugging Face transformers and against this project's PyTorch twin of METER
//! and UNIMO-3.
//!
//! The fixtures were written by `reference/hf.py` and by the twin's `golden` command, at width 16. With UNIMO_SHARED set,
//! the larger ones in its `golden` folder are compared too.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use unimo_tests::fixture;
use unimo_train::parity::compare;

fn check(folder: &Path, weights: Option<&Path>, gradients: usize) {
    let device = Device::flex().autodiff();
    let compared = compare(folder, weights, &device).unwrap_or_else(|e| panic!("{e}"));
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
    let Some(shared) = fixture::shared() else {
        return;
    };
    let device = Device::flex().autodiff();
    for part in ["golden/hf", "golden/twin"] {
        let mut found = 0;
        for entry in std::fs::read_dir(shared.join(part)).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("io.safetensors").is_file() {
                let compared = compare(&folder, None, &device).unwrap();
                assert!(compared.holds(), "{compared:#?}");
                found += 1;
            }
        }
        assert!(found > 0);
    }
}
