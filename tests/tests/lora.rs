//! LoRA: the formula of peft, and a run that learns adapters alone.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, activation};
use serde_json::Value;
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_core::lora::{self, LoraSpec};
use unimo_core::parameters;
use unimo_encoders::output::Keep;
use unimo_tests::{fixture, small};
use unimo_train::export::{self, ExportArgs, Part};
use unimo_train::model::Model;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::{checkpoint, pretrained, trained, training};

/// Dropout draws from burn's generator, of which a process has one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// f32 against f64, over two layers of numbers around 1.
const TOLERANCE: f64 = 1e-5;

#[derive(Module, Debug)]
struct Two {
    first: Linear,
    second: Linear,
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

/// As burn has it, `[in, out]`.
fn transposed(value: &Value) -> Vec<f32> {
    let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
    (0..rows[0].len())
        .flat_map(|column| rows.iter().map(move |row| row[column] as f32))
        .collect()
}

#[track_caller]
fn assert_close(what: &str, found: &TensorData, expected: &[f32]) {
    let found: Vec<f32> = found.iter::<f32>().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = f64::from((found - expected).abs());
        assert!(error < TOLERANCE, "{what}: {found} {expected}");
    }
}

#[test]
fn outputs_and_gradients_are_those_of_peft() {
    let text = std::fs::read_to_string(fixture::folder().join("lora.json")).unwrap();
    let peft: Value = serde_json::from_str(&text).unwrap();
    let device = Device::flex().autodiff();
    let mut init = Init::new(&device, 1);
    let layers = &peft["layers"];
    let shape = |name: &str| {
        let rows = layers[name]["weight"].as_array().unwrap();
        (rows[0].as_array().unwrap().len(), rows.len())
    };
    let linear = |init: &mut Init, name: &str| {
        let (d_in, d_out) = shape(name);
        Linear::new(init, d_in, d_out, !layers[name]["bias"].is_null())
    };
    let two = Two {
        first: linear(&mut init, "first"),
        second: linear(&mut init, "second"),
    };
    let spec = LoraSpec {
        rank: peft["rank"].as_u64().unwrap() as usize,
        alpha: peft["alpha"].as_f64().unwrap(),
        dropout: 0.0,
    };
    let two = lora::attach(two, &mut init, &spec, &|_| true);
    let two = parameters::replace(two, |name, shape| {
        let (layer, rest) = name.split_once('.').unwrap();
        let values = match rest {
            "weight" => transposed(&layers[layer]["weight"]),
            "weight.lora.a" => transposed(&layers[layer]["a"]),
            "weight.lora.b" => transposed(&layers[layer]["b"]),
            "bias" => numbers(&layers[layer]["bias"])
                .iter()
                .map(|x| *x as f32)
                .collect(),
            other => panic!("{other}"),
        };
        Some(TensorData::new(values, shape.to_vec()))
    });
    let three = |value: &Value| -> Tensor<3> {
        let (rows, columns) = (&value[0], &value[0][0]);
        let shape = [value, rows, columns].map(|v| v.as_array().unwrap().len());
        let values: Vec<f32> = numbers(value).iter().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &device)
    };
    let flat = |value: &Value| -> Vec<f32> { numbers(value).iter().map(|x| *x as f32).collect() };
    let forward =
        |two: &Two, x: Tensor<3>| two.second.forward(activation::tanh(two.first.forward(x)));
    let x = three(&peft["x"]).require_grad();
    let output = forward(&two, x.clone());
    assert_close("output", &output.to_data(), &flat(&peft["output"]));
    let mut gradients = (output * three(&peft["upstream"])).sum().backward();
    let of_x = x.grad_remove(&mut gradients).unwrap().into_data();
    assert_close("gradient of x", &of_x, &flat(&peft["x_gradient"]));
    let gradients = GradientsParams::from_grads(gradients, &two);
    let gradients = parameters::gradients(&two, &gradients);
    let mut seen = 0;
    for (name, gradient) in gradients {
        let (layer, rest) = name.split_once('.').unwrap();
        let Some(field) = rest.strip_prefix("weight.lora.") else {
            continue;
        };
        let expected = transposed(&layers[layer][format!("{field}_gradient")]);
        assert_close(&name, &gradient, &expected);
        seen += 1;
    }
    assert_eq!(seen, 4);
    // peft's `merge`, and the outputs of what is merged.
    let merged = two.materialize();
    for (name, values) in parameters::values(&merged) {
        if let Some(layer) = name.strip_suffix(".weight") {
            assert_close(&name, &values, &transposed(&layers[layer]["merged"]));
        }
    }
    let output = forward(&merged, three(&peft["x"]));
    assert_close("merged output", &output.to_data(), &flat(&peft["output"]));
}

const LORA: &str = "train.lora={ layers = [\"backbone.*.layers.*.attention\", \"backbone.fusion\"], rank = 2, alpha = 8.0, \
    dropout = 0.1, also = [\"objectives.itm\"] }";

fn recipe(more: &[&str]) -> Recipe {
    let changes = [
        "train.steps=4",
        "train.batch_size=4",
        "train.accumulation=2",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "train.optimizer.lr=0.01",
        "model.text.dropout=0.1",
    ];
    small::recipe(&[&changes, more].concat())
}

fn train(folder: &Path, name: &str, more: &[&str]) -> PathBuf {
    let run = folder.join(name);
    training::start(&recipe(more), &run, &small::options()).unwrap();
    run
}

/// The model of a run's last checkpoint, as it is trained: with its adapters.
fn unmerged(run: &Path, recipe: &Recipe) -> Model {
    let mut recipe = recipe.clone();
    recipe.model = recipe.model.without_dropout();
    let path = checkpoint::path(&run.join("checkpoints"), recipe.train.steps);
    let mut reader = checkpoint::Reader::open(&path).unwrap();
    reader
        .module("model", Model::blank(&recipe, &Device::flex()))
        .unwrap()
}

/// The states that a model makes of noise.
fn outputs(model: &Model) -> Vec<f32> {
    let device = Device::flex();
    let mut init = Init::new(&device, 9);
    let pixels = init.uniform([2, 3, 32, 32], 1.0).val();
    let ids: Vec<i32> = (0..12).map(|i| 5 + 17 * i).collect();
    let backbone = &model.backbone;
    let texts = backbone.encode_texts(&backbone.text.input(&ids, &[6, 4], 6, &device));
    let images = backbone.encode_images(pixels);
    let fused = backbone.fuse(&texts, &images, Keep::Nothing);
    let both = [fused.text().clone(), fused.image().clone()];
    both.into_iter()
        .flat_map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_run_learns_adapters_and_what_is_named_and_exports_their_sum() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), "run", &[LORA]);
    let recipe = recipe(&[LORA]);
    let begun: Vec<_> = parameters::values(&Model::new(&recipe, &Device::flex()));
    let learned = unmerged(&run, &recipe);
    let mut adapters = 0;
    for (name, values) in parameters::values(&learned) {
        match begun.iter().find(|(other, _)| *other == name) {
            None => {
                assert!(name.contains(".weight.lora."), "{name}");
                let moved = values.iter::<f32>().any(|x| x != 0.0);
                // What is read across layers is multiplied by tanh(lambda), which is 0 and does not learn here.
                let reaches = !name.contains(".level_attention.");
                assert!(moved || !reaches || !name.ends_with(".b"), "{name}");
                adapters += 1;
            }
            Some((_, old)) => {
                let moved = *old != values;
                assert!(!moved || name.starts_with("objectives.itm."), "{name}");
            }
        }
    }
    assert!(adapters > 0);
    assert!(begun.iter().any(|(name, old)| {
        let new = parameters::values(&learned);
        let new = new.iter().find(|(other, _)| other == name);
        name.starts_with("objectives.itm.") && new.is_some_and(|(_, new)| new != old)
    }));

    // A run that was stopped ends the same.
    let stopped = folder.path().join("stopped");
    std::fs::create_dir_all(stopped.join("checkpoints")).unwrap();
    for name in [
        "recipe.toml",
        "tokenizer.json",
        "checkpoints/step-00000002.safetensors",
    ] {
        std::fs::copy(run.join(name), stopped.join(name)).unwrap();
    }
    training::resume(&stopped, &small::options()).unwrap();
    assert_eq!(
        parameters::values(&unmerged(&stopped, &recipe)),
        parameters::values(&learned)
    );

    /// The sum of weight and adapter is rounded before it is multiplied, over some ten layers of normalised states.
    const MERGED: f32 = 1e-5;
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < MERGED);
    let expected = outputs(&learned);
    let (_, _, _, merged) = trained::open_model(&run, None, &Device::flex()).unwrap();
    assert!(close(&outputs(&merged), &expected));
    let export = folder.path().join("export");
    export::run(&ExportArgs {
        model: run.display().to_string(),
        out: export.clone(),
        part: Part::Whole,
        dtype: unimo_encoders::weights::Dtype::F32,
        step: None,
        licence: None,
    })
    .unwrap();
    let public = pretrained::describe(&export, None).unwrap();
    let pretrained::Network::Pair(exported) = public.load(&Device::flex()).unwrap().network else {
        panic!("a whole model");
    };
    assert!(close(&outputs(&exported), &expected));

    // Another run goes on from the sum, here without adapters.
    let init = format!("init=unimo:{}", run.display());
    let next = train(folder.path(), "next", &[&init, "train.optimizer.lr=1e-12"]);
    let (_, _, _, next) = trained::open_model(&next, None, &Device::flex()).unwrap();
    assert!(close(&outputs(&next), &expected));
    let account = std::fs::read_to_string(folder.path().join("next/init.txt")).unwrap();
    assert!(account.contains("adapters on"), "{account}");
}

#[test]
fn what_is_wrong_with_the_adapters_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let start = |set: &str| {
        let recipe = recipe(&[set]);
        let run = folder.path().join("run");
        training::start(&recipe, &run, &small::options())
            .unwrap_err()
            .to_string()
    };
    let error =
        start("train.lora={ layers = [\"backbone.text.word_embedding\"], rank = 2, alpha = 8.0 }");
    assert!(
        error.contains("no linear layer")
            && error.contains("backbone.text.layers.*.attention.query"),
        "{error}"
    );
    let error =
        start("train.lora={ layers = [\"backbone\"], rank = 2, alpha = 8.0, also = [\"head\"] }");
    assert!(
        error.contains("train.lora.also") && error.contains("head"),
        "{error}"
    );
    for (set, expected) in [
        (
            "train.lora={ layers = [], rank = 2, alpha = 8.0 }",
            "lora.layers",
        ),
        (
            "train.lora={ layers = [\"backbone\"], rank = 0, alpha = 8.0 }",
            "lora.rank",
        ),
        (
            "train.lora={ layers = [\"backbone\"], rank = 2, alpha = -1.0 }",
            "lora.alpha",
        ),
        (
            "train.lora={ layers = [\"backbone\"], rank = 2, alpha = 8.0, dropout = 1.0 }",
            "lora.dropout",
        ),
    ] {
        let overrides = Overrides {
            data: None,
            set: vec![set.to_owned()],
        };
        let error = Recipe::load("unimo3-tiny", &overrides)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
