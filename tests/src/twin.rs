//! The PyTorch twin of METER and UNIMO-3: its sizes and names, mapped to ours.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use unimo_core::batch::MaskSpec;
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::text::{Positions, TextEncoderConfig};
use unimo_objectives::itm::{Itm, ItmConfig, Layout, Negatives};
use unimo_objectives::mlm::{Mlm, MlmConfig};

use crate::fixture::{self, Stored, Stores};

/// The twin's parts under our names.
#[derive(Module, Debug)]
pub struct Twin {
    /// Encoders.
    pub backbone: Backbone,
    /// Masked language modelling.
    pub mlm: Mlm,
    /// Image-text matching.
    pub itm: Itm,
}

/// A model folder that `unimo3_torch.py golden` wrote.
pub struct TwinFolder {
    /// Our model with its weights.
    pub model: Twin,
    /// `in.*`, `out.*`, `grad.*`.
    pub io: Stores,
}

/// The configuration that a twin's `config.json` means.
pub fn config(json: &serde_json::Value) -> BackboneConfig {
    let number = |key: &str| json[key].as_u64().unwrap() as usize;
    let (width, heads, feed_forward) = (number("width"), number("heads"), number("ffn"));
    let layer_norm_eps = json["layer_norm_eps"].as_f64().unwrap();
    let vocab_size = number("vocab");
    let unimo3 = json["model"] == "unimo3";
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            vocab_size,
            width,
            layers: number("text_layers"),
            heads,
            feed_forward,
            max_positions: if vocab_size > 1000 { 514 } else { 40 },
            positions: Positions::AfterPad,
            token_types: 1,
            pad_id: number("pad_id"),
            activation: Activation::Gelu,
            layer_norm_eps,
            dropout: 0.0,
        },
        image: ImageEncoderConfig {
            image_size: number("image_px"),
            patch_size: number("patch_px"),
            width,
            layers: number("image_layers"),
            heads,
            feed_forward,
            activation: Activation::QuickGelu,
            layer_norm_eps,
            pre_norm: true,
            patch_bias: false,
            dropout: 0.0,
        },
        fusion: FusionConfig {
            width,
            layers: number("cross_layers"),
            heads,
            feed_forward,
            activation: Activation::Gelu,
            layer_norm_eps,
            dropout: 0.0,
            in_layer: true,
            levels: if unimo3 {
                Levels::CrossPrev
            } else {
                Levels::None
            },
            uni_levels: 0,
            gate: if json["gate"] == "token" {
                GateKind::Token
            } else {
                GateKind::Cls
            },
            gate_beta: 1.0,
            link: Link::None,
        },
    }
}

/// Reads a folder; every parameter of ours must be in its `model.safetensors`.
pub fn load(folder: &Path, device: &Device) -> TwinFolder {
    let json = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config(&serde_json::from_str(&json).unwrap());
    config.validate().unwrap();
    let mut init = Init::new(device, 0);
    let backbone = config.init(&mut init);
    let mlm = MlmConfig {
        weight: 1.0,
        mask: MaskSpec::default(),
    };
    let itm = ItmConfig {
        weight: 1.0,
        negatives: Negatives::Uniform,
        layout: Layout::Half,
    };
    let model = Twin {
        mlm: mlm.init(&mut init, &config),
        itm: itm.init(&mut init, &config),
        backbone,
    };
    let weights = fixture::read(&folder.join("model.safetensors"));
    let mut used = 0;
    let model = parameters::replace(model, |name, shape| {
        let stored = &weights[&twin_name(name)];
        used += 1;
        let values = to_ours(stored, shape);
        Some(TensorData::new(
            values.iter().map(|v| *v as f32).collect::<Vec<_>>(),
            shape.to_vec(),
        ))
    });
    let held = weights.keys().filter(|k| !k.ends_with("position_ids"));
    assert_eq!(used, held.count(), "every weight of the twin is used");
    TwinFolder {
        model,
        io: fixture::read(&folder.join("io.safetensors")),
    }
}

/// Values of a twin's tensor in our layout: linear weights are stored `[in, out]` here and `[out, in]` there; a patch
/// convolution is a matrix.
pub fn to_ours(stored: &Stored, shape: &[usize]) -> Vec<f64> {
    let count: usize = stored.shape.iter().product();
    assert_eq!(count, shape.iter().product::<usize>());
    let rows = stored.shape.first().copied().unwrap_or(1);
    let columns = count / rows.max(1);
    if shape.len() == 2 && shape == [columns, rows] && stored.transposes() {
        let at = |i: usize| stored.values[(i % rows) * columns + i / rows];
        return (0..count).map(at).collect();
    }
    assert!(
        stored.shape.is_empty() || stored.shape == shape,
        "{stored:?}"
    );
    stored.values.clone()
}

impl Stored {
    fn transposes(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// The twin's name of one of our parameters.
pub fn twin_name(ours: &str) -> String {
    let parts: Vec<&str> = ours.split('.').collect();
    let attention = |rest: &[&str]| match rest {
        ["output", w] => format!("output.dense.{w}"),
        [linear, w] => format!("self.{linear}.{w}"),
        other => panic!("{other:?}"),
    };
    match parts.as_slice() {
        ["mlm", "dense", w] => format!("mlm_score.transform.dense.{w}"),
        ["mlm", "norm", w] => format!("mlm_score.transform.LayerNorm.{w}"),
        ["mlm", "decoder", w] => format!("mlm_score.decoder.{w}"),
        ["itm", "classifier", w] => format!("itm_score.fc.{w}"),
        ["backbone", "text", "layers", n, rest @ ..] => {
            let rest = match rest {
                ["attention", rest @ ..] => format!("attention.{}", attention(rest)),
                ["attention_norm", w] => format!("attention.output.LayerNorm.{w}"),
                ["feed_forward", "inner", w] => format!("intermediate.dense.{w}"),
                ["feed_forward", "outer", w] => format!("output.dense.{w}"),
                ["feed_forward_norm", w] => format!("output.LayerNorm.{w}"),
                other => panic!("{other:?}"),
            };
            format!("text_transformer.encoder.layer.{n}.{rest}")
        }
        ["backbone", "text", part, w] => {
            let part = match *part {
                "word_embedding" => "word_embeddings",
                "position_embedding" => "position_embeddings",
                "type_embedding" => "token_type_embeddings",
                "embedding_norm" => "LayerNorm",
                other => panic!("{other}"),
            };
            format!("text_transformer.embeddings.{part}.{w}")
        }
        ["backbone", "image", "layers", n, rest @ ..] => {
            let rest = match rest {
                ["attention_norm", w] => format!("layer_norm1.{w}"),
                ["attention", "output", w] => format!("self_attn.out_proj.{w}"),
                ["attention", linear, w] => format!("self_attn.{}_proj.{w}", &linear[..1]),
                ["feed_forward_norm", w] => format!("layer_norm2.{w}"),
                ["feed_forward", "inner", w] => format!("mlp.fc1.{w}"),
                ["feed_forward", "outer", w] => format!("mlp.fc2.{w}"),
                other => panic!("{other:?}"),
            };
            format!("image_transformer.encoder.layers.{n}.{rest}")
        }
        ["backbone", "image", rest @ ..] => {
            let rest = match rest {
                ["class_embedding"] => "embeddings.class_embedding".to_owned(),
                ["position_embedding"] => "embeddings.position_embedding.weight".to_owned(),
                ["patch_embedding", w] => format!("embeddings.patch_embedding.{w}"),
                ["pre_norm", w] => format!("pre_layrnorm.{w}"),
                ["post_norm", w] => format!("post_layernorm.{w}"),
                other => panic!("{other:?}"),
            };
            format!("image_transformer.{rest}")
        }
        ["backbone", "fusion", "type_embedding", w] => format!("token_type_embeddings.{w}"),
        ["backbone", "fusion", "text_transform", w] => format!("cross_modal_text_transform.{w}"),
        ["backbone", "fusion", "image_transform", w] => format!("cross_modal_image_transform.{w}"),
        ["backbone", "fusion", stream, "pooler", w] => {
            format!("cross_modal_{stream}_pooler.dense.{w}")
        }
        ["backbone", "fusion", stream, "layers", n, rest @ ..] => {
            let rest = match rest {
                ["self_attention", rest @ ..] => format!("attention.{}", attention(rest)),
                ["self_norm", w] => format!("attention.output.LayerNorm.{w}"),
                ["cross_attention", rest @ ..] => format!("crossattention.{}", attention(rest)),
                ["cross_norm", w] => format!("crossattention.output.LayerNorm.{w}"),
                ["level_attention", "norms", j, w] => format!("level_norms.{j}.{w}"),
                ["level_attention", "attention", rest @ ..] => {
                    format!("levelattention.{}", attention(rest))
                }
                ["level_attention", gate @ ..] => gate.join("."),
                ["merge"] => "merge".to_owned(),
                ["feed_forward", "inner", w] => format!("intermediate.dense.{w}"),
                ["feed_forward", "outer", w] => format!("output.dense.{w}"),
                ["feed_forward_norm", w] => format!("output.LayerNorm.{w}"),
                other => panic!("{other:?}"),
            };
            format!("cross_modal_{stream}_layers.{n}.{rest}")
        }
        other => panic!("{other:?}"),
    }
}

/// Integer inputs as the batch holds them.
pub fn integers(stored: &Stored) -> Vec<i32> {
    stored.values.iter().map(|v| *v as i32).collect()
}
