//! BridgeTower as Hugging Face stores it.

use serde::Deserialize;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;

use super::clip::OPENAI_BLOCKS;
use super::meter::{FUSION, LAYERS};
use super::{activation, bert, only, parse};
use crate::backbone::BackboneConfig;
use crate::fusion::{FusionConfig, Levels, Link};
use crate::image::ImageEncoderConfig;
use crate::names::{Form, Names, Rule, rule};

/// Names of the image tower; its blocks are named as OpenAI's.
#[rustfmt::skip]
const IMAGE: &[Rule] = &[
    rule("patch_embedding", "embeddings.patch_embedding", Form::Patches),
    rule("class_embedding", "embeddings.class_embedding", Form::Tensor),
    rule("position_embedding", "embeddings.position_embedding.weight", Form::Grid(0)),
    rule("pre_norm", "ln_pre", Form::Same),
    rule("post_norm", "ln_post", Form::Same),
];

#[rustfmt::skip]
const LINKS: &[Rule] = &[
    rule("text.links.0", "cross_modal_text_layernorm", Form::Same),
    rule("text.links.{}", "cross_modal_text_link_tower.{-1}.LayerNorm", Form::Same),
    rule("image.links.0", "cross_modal_image_layernorm", Form::Same),
    rule("image.links.{}", "cross_modal_image_link_tower.{-1}.LayerNorm", Form::Same),
];

/// Names of a [`crate::backbone::Backbone`] without its heads.
pub fn names() -> Names {
    Names::new(
        [
            ("text", "text_model", bert::NAMES),
            ("image", "vision_model.visual", IMAGE),
            ("image", "vision_model.visual", OPENAI_BLOCKS),
            ("fusion", "", FUSION),
            ("fusion", "", LINKS),
            ("fusion.text", "cross_modal_text_layers", LAYERS),
            ("fusion.image", "cross_modal_image_layers", LAYERS),
        ],
        &[
            "text_model.pooler",
            "text_model.embeddings.position_ids",
            "text_model.embeddings.token_type_ids",
            "vision_model.visual.embeddings.position_ids",
        ],
    )
}

/// All spellings: within a model with a head, or alone.
pub fn spellings() -> Vec<Names> {
    vec![names().under("bridgetower"), names()]
}

/// `BridgeTowerConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    layer_norm_eps: f64,
    share_cross_modal_transformer_layers: bool,
    share_link_tower_layers: bool,
    link_tower_type: String,
    text_config: serde_json::Value,
    vision_config: VisionConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 6,
            layer_norm_eps: 1e-5,
            share_cross_modal_transformer_layers: true,
            share_link_tower_layers: false,
            link_tower_type: "add".to_owned(),
            text_config: serde_json::json!({}),
            vision_config: VisionConfig::default(),
        }
    }
}

/// `BridgeTowerVisionConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct VisionConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_channels: usize,
    patch_size: usize,
    image_size: usize,
    layer_norm_eps: f64,
    share_layernorm: bool,
    remove_last_layer: bool,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_channels: 3,
            patch_size: 16,
            image_size: 288,
            layer_norm_eps: 1e-5,
            share_layernorm: true,
            remove_last_layer: false,
        }
    }
}

/// Width of an attention head of the image tower.
const HEAD_WIDTH: usize = 64;
/// Inner width of the image tower's feed-forward layers, in widths.
const MLP_RATIO: usize = 4;

/// A `config.json` as our configuration.
///
/// # Errors
///
/// It says something that is not supported.
pub fn config(json: &serde_json::Value) -> Result<BackboneConfig, String> {
    let config: Config = parse(json)?;
    let shared = "share_cross_modal_transformer_layers";
    only(shared, &config.share_cross_modal_transformer_layers, &true)?;
    only(
        "share_link_tower_layers",
        &config.share_link_tower_layers,
        &false,
    )?;
    only("link_tower_type", &config.link_tower_type.as_str(), &"add")?;
    let vision = &config.vision_config;
    only(
        "vision_config.share_layernorm",
        &vision.share_layernorm,
        &true,
    )?;
    only("vision_config.num_channels", &vision.num_channels, &3)?;
    let mut text = config.text_config.clone();
    text["model_type"] = "bridgetower_text_model".into();
    let text_encoder = bert::config(&text).map_err(|e| format!("text_config: {e}"))?;
    only(
        "layer_norm_eps",
        &config.layer_norm_eps,
        &text_encoder.layer_norm_eps,
    )?;
    let cross_activation = text["hidden_act"].as_str().unwrap_or("gelu");
    Ok(BackboneConfig {
        initializer_range: 0.02,
        image: Some(ImageEncoderConfig {
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            width: vision.hidden_size,
            layers: vision.num_hidden_layers - usize::from(vision.remove_last_layer),
            heads: vision.hidden_size / HEAD_WIDTH,
            feed_forward: MLP_RATIO * vision.hidden_size,
            activation: Activation::QuickGelu,
            layer_norm_eps: vision.layer_norm_eps,
            pre_norm: true,
            patch_bias: false,
            distillation_token: false,
            dropout: 0.0,
        }),
        regions: None,
        // The cross-modal layers are made from the text half's configuration there.
        fusion: Some(FusionConfig {
            width: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: text_encoder.heads,
            feed_forward: text_encoder.feed_forward,
            activation: activation(cross_activation)?,
            layer_norm_eps: text_encoder.layer_norm_eps,
            dropout: text_encoder.dropout,
            in_layer: true,
            levels: Levels::None,
            uni_levels: config.num_hidden_layers,
            gate: GateKind::Cls,
            gate_beta: 1.0,
            link: Link::AddNorm,
            pictures: 1,
        }),
        image_tags: false,
        joint: None,
        text: text_encoder,
    })
}

/// The image encoder and the cross-modal encoder of a backbone that Hugging Face's BridgeTower can be.
///
/// # Errors
///
/// What it has that BridgeTower cannot have.
pub fn is_bridgetower(
    config: &BackboneConfig,
) -> Result<(&ImageEncoderConfig, &FusionConfig), String> {
    let text = &config.text;
    let image = config
        .image
        .as_ref()
        .ok_or("regions is there, and BridgeTower's image encoder reads pixels: image")?;
    let fusion = config
        .fusion
        .as_ref()
        .ok_or("joint is there, and BridgeTower's encoder has two streams: fusion")?;
    only("fusion.link", &fusion.link, &Link::AddNorm)?;
    only("fusion.levels", &fusion.levels, &Levels::None)?;
    only("fusion.heads", &fusion.heads, &text.heads)?;
    only(
        "fusion.feed_forward",
        &fusion.feed_forward,
        &text.feed_forward,
    )?;
    only(
        "fusion.layer_norm_eps",
        &fusion.layer_norm_eps,
        &text.layer_norm_eps,
    )?;
    only("fusion.activation", &fusion.activation, &text.activation)?;
    only("image.heads", &image.heads, &(image.width / HEAD_WIDTH))?;
    only(
        "image.feed_forward",
        &image.feed_forward,
        &(MLP_RATIO * image.width),
    )?;
    only(
        "image.activation",
        &image.activation,
        &Activation::QuickGelu,
    )?;
    only("image.pre_norm", &image.pre_norm, &true)?;
    only("image.patch_bias", &image.patch_bias, &false)?;
    only(
        "image.distillation_token",
        &image.distillation_token,
        &false,
    )?;
    Ok((image, fusion))
}

/// Our configuration as a `config.json`, without the name of an architecture.
///
/// # Errors
///
/// It is no BridgeTower; see [`is_bridgetower`].
pub fn to_json(config: &BackboneConfig) -> Result<serde_json::Value, String> {
    let (image, fusion) = is_bridgetower(config)?;
    let mut text = bert::to_json(&config.text);
    text["model_type"] = "bridgetower_text_model".into();
    Ok(serde_json::json!({
        "model_type": "bridgetower",
        "hidden_act": super::activation_name(fusion.activation),
        "hidden_size": fusion.width,
        "num_attention_heads": fusion.heads,
        "num_hidden_layers": fusion.layers,
        "intermediate_size": fusion.feed_forward,
        "layer_norm_eps": fusion.layer_norm_eps,
        "link_tower_type": "add",
        "share_cross_modal_transformer_layers": true,
        "share_link_tower_layers": false,
        "tie_word_embeddings": false,
        "text_config": text,
        "vision_config": {
            "model_type": "bridgetower_vision_model",
            "hidden_size": image.width,
            "num_hidden_layers": image.layers,
            "num_channels": 3,
            "patch_size": image.patch_size,
            "image_size": image.image_size,
            "layer_norm_eps": image.layer_norm_eps,
            "share_layernorm": true,
            "stop_gradient": false,
            "remove_last_layer": false,
        },
    }))
}
