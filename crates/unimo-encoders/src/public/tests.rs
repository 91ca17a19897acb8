use serde_json::{Value, json};

use super::{activation, activation_name, bert, bridgetower, clip, vit};
use crate::image::ImageEncoderConfig;

type Read = fn(&Value) -> Result<(), String>;

/// An accepted configuration is valid.
fn read_text(json: &Value) -> Result<(), String> {
    bert::config(json)?.validate().expect("a valid encoder");
    Ok(())
}

fn read_image(json: &Value) -> Result<(), String> {
    vit::config(json)?.validate().expect("a valid encoder");
    Ok(())
}

fn read_tower(json: &Value) -> Result<(), String> {
    clip::image_config(json)?
        .validate()
        .expect("a valid encoder");
    Ok(())
}

fn read_clip(json: &Value) -> Result<(), String> {
    clip::config(json)?.validate().expect("a valid pair");
    Ok(())
}

fn read_bridgetower(json: &Value) -> Result<(), String> {
    bridgetower::config(json)?
        .validate()
        .expect("a valid model");
    Ok(())
}

fn kinds() -> Vec<(&'static str, Value, Read)> {
    let text = json!({
        "model_type": "bert", "vocab_size": 43, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 20,
        "type_vocab_size": 2, "layer_norm_eps": 1e-5, "pad_token_id": 1, "position_embedding_type": "absolute",
        "is_decoder": false,
    });
    let image = json!({
        "model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "layer_norm_eps": 1e-5,
        "image_size": 16, "patch_size": 8, "num_channels": 3, "qkv_bias": true,
    });
    let tower = json!({
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "image_size": 16, "patch_size": 8, "num_channels": 3,
    });
    let clip_text = json!({
        "vocab_size": 43, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 20,
        "eos_token_id": 42,
    });
    let bridge = json!({
        "hidden_act": "gelu", "hidden_size": 64, "num_hidden_layers": 2, "layer_norm_eps": 1e-5,
        "share_cross_modal_transformer_layers": true, "share_link_tower_layers": false, "link_tower_type": "add",
        "text_config": text,
        "vision_config": {
            "hidden_size": 64, "num_hidden_layers": 2, "num_channels": 3, "patch_size": 8, "image_size": 16,
            "layer_norm_eps": 1e-5, "share_layernorm": true, "remove_last_layer": false,
        },
    });
    let pair = json!({ "projection_dim": 12, "text_config": clip_text, "vision_config": tower });
    vec![
        ("text", text, read_text),
        ("image", image, read_image),
        ("tower", tower, read_tower),
        ("clip", pair, read_clip),
        ("bridgetower", bridge, read_bridgetower),
    ]
}

/// Every value with the path to it.
fn leaves(json: &Value, path: &[String], found: &mut Vec<(Vec<String>, Value)>) {
    let Value::Object(entries) = json else {
        return;
    };
    for (key, value) in entries {
        let path = [path, std::slice::from_ref(key)].concat();
        leaves(value, &path, found);
        found.push((path, value.clone()));
    }
}

fn with(json: &Value, path: &[String], value: Value) -> Value {
    let mut changed = json.clone();
    let pointer = format!("/{}", path.join("/"));
    *changed.pointer_mut(&pointer).expect("the path is there") = value;
    changed
}

/// BridgeTower's halves work without a `model_type`.
fn is_ignored(path: &[String]) -> bool {
    path.len() > 1 && path.last().is_some_and(|key| key == "model_type")
}

/// A value of another type, or an impossible one, is an error that names its key. Nothing panics.
#[test]
fn what_cannot_be_is_named() {
    for (kind, good, read) in kinds() {
        read(&good).unwrap_or_else(|reason| panic!("{kind}: {reason}"));
        let mut found = Vec::new();
        leaves(&good, &[], &mut found);
        for (path, value) in found.into_iter().filter(|(path, _)| !is_ignored(path)) {
            let others = [
                json!("x"),
                json!(["a"]),
                json!({ "a": 1 }),
                json!(true),
                json!(-1),
                json!(1.5),
                json!(u64::MAX),
                json!(1e300),
            ];
            let key = path.last().expect("a path has an end");
            let is_id = key.ends_with("_token_id");
            let absurd = match &value {
                Value::Number(n) if n.is_u64() && !is_id => vec![json!(0)],
                Value::Number(_) if key == "layer_norm_eps" => vec![json!(-0.5), json!(0)],
                Value::Number(n) if !n.is_u64() => vec![json!(-0.5), json!(1.0)],
                _ => Vec::new(),
            };
            let of_another_type = |other: &&Value| match &value {
                // Another object is read as the half itself.
                Value::Object(_) => !other.is_object(),
                Value::Number(n) if n.is_u64() => !(is_id && other.as_i64() == Some(-1)),
                Value::Number(_) => !other.is_number(),
                Value::Bool(_) => !other.is_boolean(),
                _ => true,
            };
            let wrong = others.iter().filter(of_another_type);
            for other in wrong.chain(&absurd) {
                let changed = with(&good, &path, other.clone());
                let message = read(&changed).err();
                let message =
                    message.unwrap_or_else(|| panic!("{kind}: {path:?} = {other} is accepted"));
                assert!(
                    message.contains(key),
                    "{kind}: {path:?} = {other}: {message}"
                );
            }
            // Python's None means that a value is not given.
            let _ = read(&with(&good, &path, Value::Null));
        }
    }
}

#[test]
fn a_description_is_an_object() {
    for (kind, _, read) in kinds() {
        for other in [json!([]), json!(3), json!("x"), Value::Null] {
            let message = read(&other).unwrap_err();
            assert!(message.contains("not an object"), "{kind}: {message}");
        }
    }
}

#[test]
fn sizes_fit_each_other() {
    let cases: [(&str, &[&str], Value, &str); 7] = [
        ("text", &["num_attention_heads"], json!(3), "hidden_size"),
        ("text", &["pad_token_id"], json!(43), "vocab_size"),
        ("image", &["patch_size"], json!(5), "image_size"),
        ("bridgetower", &["hidden_size"], json!(32), "hidden_size"),
        (
            "bridgetower",
            &["vision_config", "hidden_size"],
            json!(40),
            "64",
        ),
        (
            "bridgetower",
            &["vision_config", "remove_last_layer"],
            json!(true),
            "text_config.num_hidden_layers",
        ),
        ("bridgetower", &["num_hidden_layers"], json!(3), "at most"),
    ];
    for (kind, path, value, part) in cases {
        let (_, good, read) = kinds().into_iter().find(|(k, ..)| *k == kind).unwrap();
        let path: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
        let message = read(&with(&good, &path, value)).unwrap_err();
        let key = path.last().unwrap();
        assert!(message.contains(key) && message.contains(part), "{message}");
    }
}

/// A model that neither of Hugging Face's formats can hold is an error, not a file that means something else.
#[test]
fn what_has_no_format_is_refused() {
    let good = |kind: &str| {
        let found = kinds().into_iter().find(|(k, ..)| *k == kind);
        found.expect("a kind").1
    };
    let vit = vit::config(&good("image")).unwrap();
    assert_eq!(vit::config(&vit::to_json(&vit).unwrap()), Ok(vit.clone()));
    let tower = clip::image_config(&good("tower")).unwrap();
    let there = clip::image_to_json(&tower).unwrap();
    assert_eq!(clip::image_config(&there), Ok(tower.clone()));
    let changed = |config: &ImageEncoderConfig, change: fn(&mut ImageEncoderConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    let message = vit::to_json(&changed(&vit, |c| c.patch_bias = false)).unwrap_err();
    assert!(message.contains("image.patch_bias"), "{message}");
    for (key, change) in [
        (
            "image.qkv_bias",
            (|c| c.qkv_bias = false) as fn(&mut ImageEncoderConfig),
        ),
        ("image.patch_bias", |c| c.patch_bias = true),
        ("image.distillation_token", |c| c.distillation_token = true),
    ] {
        let message = clip::image_to_json(&changed(&tower, change)).unwrap_err();
        assert!(message.contains(key), "{message}");
    }
    let bridge = bridgetower::config(&good("bridgetower")).unwrap();
    for link in ["add", "scaled_add", "interpolate"] {
        let mut there = good("bridgetower");
        there["link_tower_type"] = link.into();
        there["share_cross_modal_transformer_layers"] = (link == "add").into();
        let config = bridgetower::config(&there).unwrap();
        let again = bridgetower::config(&bridgetower::to_json(&config).unwrap());
        assert_eq!(again, Ok(config));
    }
    let mut wider = bridge;
    wider.image.as_mut().unwrap().layers += 1;
    assert!(bridgetower::to_json(&wider).is_err());
}

#[test]
fn activations_go_out_as_they_came_in() {
    for name in ["gelu", "quick_gelu", "gelu_new", "relu", "silu"] {
        assert_eq!(activation_name(activation(name).unwrap()), name);
    }
    assert_eq!(activation("gelu_pytorch_tanh"), activation("gelu_new"));
    let message = activation("mish").unwrap_err();
    assert!(
        message.contains("mish") && message.contains("relu"),
        "{message}"
    );
}

#[test]
fn a_key_twice_is_no_choice() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(
        &file,
        r#"{"hidden_size": 32, "text": {"layers": 2, "layers": 3}}"#,
    )
    .unwrap();
    let error = super::read_json(&file).unwrap_err().to_string();
    assert!(error.contains("`layers` occurs twice"), "{error}");
    assert!(error.contains("config.json"), "{error}");
}
