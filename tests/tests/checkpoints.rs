//! Public checkpoints in every spelling give the same weights, and what is wrong with one is said.

use std::path::Path;

use burn::tensor::{Device, TensorData};
use unimo_core::parameters;
use unimo_tests::fixture;
use unimo_train::pretrained::{Network, Pretrained, describe};

/// A number rounded to f16, whose significand has 11 bits.
const HALF: f32 = 1.0 / 2048.0;

fn load(path: &Path, weights: Option<&Path>) -> Pretrained {
    let public = describe(path, weights).unwrap_or_else(|e| panic!("{e}"));
    public
        .load(&Device::flex())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn values(pretrained: &Pretrained) -> Vec<(String, TensorData)> {
    match &pretrained.network {
        Network::Text(encoder) => parameters::values(&**encoder),
        Network::Image(encoder) => parameters::values(&**encoder),
        Network::Clip(clip) => parameters::values(&**clip),
        Network::Pair(model) => parameters::values(&**model),
    }
}

fn spelling(name: &str) -> std::path::PathBuf {
    fixture::folder().join("spellings").join(name)
}

#[test]
fn an_old_bert_is_the_same_bert() {
    let folder = fixture::folder().join("hf/bert");
    let old = load(&folder, Some(&spelling("bert-old.bin")));
    assert_eq!(values(&load(&folder, None)), values(&old));
    let unused = &old.report.unused;
    assert!(
        unused.contains(&"cls.predictions.transform.LayerNorm.weight".to_owned()),
        "{unused:?}"
    );
}

#[test]
fn openai_and_openclip_name_the_same_clip() {
    let reference = values(&load(&fixture::folder().join("hf/clip"), None));
    // Neither stores a configuration, and no head is 64 wide in a model so small, so the folder's own is taken.
    let folder = fixture::folder().join("hf/clip");
    let openai = values(&load(&folder, Some(&spelling("clip-openai.pt"))));
    assert_eq!(reference, openai);
    let openclip = values(&load(&folder, Some(&spelling("clip-openclip.bin"))));
    for ((name, ours), (_, theirs)) in reference.iter().zip(&openclip) {
        for (a, b) in ours.iter::<f32>().zip(theirs.iter::<f32>()) {
            assert!(
                (a - b).abs() <= HALF * a.abs().max(HALF),
                "{name}: {a} and {b}"
            );
        }
    }
}

#[test]
fn meters_own_file_holds_the_same_weights() {
    let folder = fixture::folder().join("twin/meter");
    let own = load(&folder, Some(&spelling("meter.ckpt")));
    assert_eq!(values(&load(&folder, None)), values(&own));
    let unused = &own.report.unused;
    assert!(
        unused.contains(&"rank_output.weight".to_owned()),
        "{unused:?}"
    );
}

#[test]
fn half_precision_fixtures_load() {
    let loaded = load(&fixture::folder().join("hf/bridgetower-itm"), None);
    let Network::Pair(model) = &loaded.network else {
        panic!("a BridgeTower is a pair");
    };
    assert!(model.objectives.itm.is_some());
    assert!(model.objectives.mlm.is_none() && model.objectives.itc.is_none());
}

#[test]
fn weights_of_another_model_are_refused_with_a_table() {
    let folder = fixture::folder().join("hf/bert");
    let other = fixture::folder().join("hf/vit/model.safetensors");
    let public = describe(&folder, Some(&other)).unwrap();
    let message = public.load(&Device::flex()).err().unwrap().to_string();
    for part in ["missing", "unexpected", "embeddings.cls_token"] {
        assert!(message.contains(part), "{message}");
    }
}
