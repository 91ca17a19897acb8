//! ViT and DeiT as Hugging Face stores them.

use serde::Deserialize;

use super::{activation, epsilon_and_dropout, heads_divide, only, parse, patches_divide, sizes};
use crate::image::ImageEncoderConfig;
use crate::names::{Form, Names, Rule, rule};

/// Names of [`crate::image::ImageEncoder`] around its blocks.
#[rustfmt::skip]
const AROUND: &[Rule] = &[
    rule("patch_embedding", "embeddings.patch_embeddings.projection", Form::Patches),
    rule("class_embedding", "embeddings.cls_token", Form::Leading(2)),
    rule("distillation_embedding", "embeddings.distillation_token", Form::Leading(2)),
    rule("position_embedding", "embeddings.position_embeddings", Form::Grid(1)),
    rule("post_norm", "layernorm", Form::Same),
];

/// Names of its blocks in files.
#[rustfmt::skip]
const BLOCKS: &[Rule] = &[
    rule("layers.{}.attention_norm", "encoder.layer.{}.layernorm_before", Form::Same),
    rule("layers.{}.attention.query", "encoder.layer.{}.attention.attention.query", Form::Linear),
    rule("layers.{}.attention.key", "encoder.layer.{}.attention.attention.key", Form::Linear),
    rule("layers.{}.attention.value", "encoder.layer.{}.attention.attention.value", Form::Linear),
    rule("layers.{}.attention.output", "encoder.layer.{}.attention.output.dense", Form::Linear),
    rule("layers.{}.feed_forward_norm", "encoder.layer.{}.layernorm_after", Form::Same),
    rule("layers.{}.feed_forward.inner", "encoder.layer.{}.intermediate.dense", Form::Linear),
    rule("layers.{}.feed_forward.outer", "encoder.layer.{}.output.dense", Form::Linear),
];

/// Names of its blocks as transformers 5 has them in memory.
#[rustfmt::skip]
const BLOCKS_IN_MEMORY: &[Rule] = &[
    rule("layers.{}.attention_norm", "layers.{}.layernorm_before", Form::Same),
    rule("layers.{}.attention.query", "layers.{}.attention.q_proj", Form::Linear),
    rule("layers.{}.attention.key", "layers.{}.attention.k_proj", Form::Linear),
    rule("layers.{}.attention.value", "layers.{}.attention.v_proj", Form::Linear),
    rule("layers.{}.attention.output", "layers.{}.attention.o_proj", Form::Linear),
    rule("layers.{}.feed_forward_norm", "layers.{}.layernorm_after", Form::Same),
    rule("layers.{}.feed_forward.inner", "layers.{}.mlp.fc1", Form::Linear),
    rule("layers.{}.feed_forward.outer", "layers.{}.mlp.fc2", Form::Linear),
];

/// All spellings: the encoder alone, or within a classifier.
pub fn spellings() -> Vec<Names> {
    let prefixes = ["", "vit", "deit"];
    let heads = [
        "classifier",
        "cls_classifier",
        "distillation_classifier",
        "pooler",
    ];
    [BLOCKS, BLOCKS_IN_MEMORY]
        .into_iter()
        .flat_map(|blocks| {
            prefixes.map(|prefix| {
                Names::new(
                    [("", "", AROUND), ("", "", blocks)],
                    &["pooler", "embeddings.mask_token"],
                )
                .under(prefix)
                .leaving(&heads)
            })
        })
        .collect()
}

/// `ViTConfig`, `DeiTConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    hidden_dropout_prob: f64,
    layer_norm_eps: f64,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    qkv_bias: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "vit".to_owned(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.0,
            layer_norm_eps: 1e-12,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

/// A `config.json` as our configuration.
///
/// # Errors
///
/// It is of another kind or says something that is not supported.
pub fn config(json: &serde_json::Value) -> Result<ImageEncoderConfig, String> {
    let config: Config = parse(json)?;
    let distillation_token = match config.model_type.as_str() {
        "vit" => false,
        "deit" => true,
        other => {
            return Err(format!(
                "model_type is \"{other}\"; image encoders are vit, deit and clip"
            ));
        }
    };
    only("num_channels", &config.num_channels, &3)?;
    heads_divide(
        ("hidden_size", config.hidden_size),
        ("num_attention_heads", config.num_attention_heads),
    )?;
    sizes(&[
        ("num_hidden_layers", config.num_hidden_layers),
        ("intermediate_size", config.intermediate_size),
    ])?;
    patches_divide(config.image_size, config.patch_size)?;
    let dropout = config.hidden_dropout_prob;
    epsilon_and_dropout(config.layer_norm_eps, ("hidden_dropout_prob", dropout))?;
    Ok(ImageEncoderConfig {
        image_size: config.image_size,
        patch_size: config.patch_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        feed_forward: config.intermediate_size,
        activation: activation(&config.hidden_act)?,
        layer_norm_eps: config.layer_norm_eps,
        pre_norm: false,
        patch_bias: true,
        distillation_token,
        qkv_bias: config.qkv_bias,
        stem: None,
        mask_embedding: false,
        dropout,
        drop_path: 0.0,
    })
}

/// Our configuration as a `config.json`.
///
/// # Errors
///
/// What it has that ViT cannot have.
pub fn to_json(config: &ImageEncoderConfig) -> Result<serde_json::Value, String> {
    only("image.pre_norm", &config.pre_norm, &false)?;
    only("image.patch_bias", &config.patch_bias, &true)?;
    only("image.stem", &config.stem, &None)?;
    let (kind, architecture) = if !config.distillation_token {
        ("vit", "ViTModel")
    } else {
        ("deit", "DeiTModel")
    };
    Ok(serde_json::json!({
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "hidden_act": super::activation_name(config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": config.qkv_bias,
    }))
}
