//! BridgeTower as Hugging Face stores it.

use serde::Deserialize;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;

use super::clip::OPENAI_BLOCKS;
use super::meter::{FUSION, LAYERS};
use super::{bert, epsilon_and_dropout, only, parse, patches_divide, section, sizes};
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
    rule("text.link_scales.{}", "cross_modal_text_link_tower.{}.scaled_factor", Form::Scalar),
    rule("image.link_scales.{}", "cross_modal_image_link_tower.{}.scaled_factor", Form::Scalar),
    rule("text.link_shares.{}", "cross_modal_text_link_tower.{}.beta", Form::Scalar),
    rule("image.link_shares.{}", "cross_modal_image_link_tower.{}.beta", Form::Scalar),
];

/// Names of the linear layers to the cross-modal encoder, if each uni-modal layer has its own.
#[rustfmt::skip]
const TRANSFORMS: &[Rule] = &[
    rule("text_transform", "cross_modal_text_transform.0", Form::Linear),
    rule("further_text_transforms.{}", "cross_modal_text_transform.{+1}", Form::Linear),
    rule("image_transform", "cross_modal_image_transform.0", Form::Linear),
    rule("further_image_transforms.{}", "cross_modal_image_transform.{+1}", Form::Linear),
];

/// Names of a [`crate::backbone::Backbone`] without its heads. `shared` says whether all uni-modal layers of a modality share one
/// linear layer ([`FusionConfig::shared_transforms`]).
pub fn names(shared: bool) -> Names {
    let transforms = if shared { &[][..] } else { TRANSFORMS };
    Names::new(
        [
            ("fusion", "", transforms),
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
            // Norms of `share_layernorm = false`: transformers makes them and still applies `ln_post` to every layer.
            "vision_model.visual.ln_separate",
        ],
    )
}

/// Names of its pre-training heads, for models that do not use them.
pub const HEADS: &[&str] = &[
    "mlm_score",
    "itm_score",
    "itc_text_head",
    "itc_image_head",
    "itc_cross_modal_head",
    "logit_scale",
];

/// All spellings: within a model with a head, or alone.
pub fn spellings(shared: bool) -> Vec<Names> {
    vec![names(shared).under("bridgetower"), names(shared)]
}

/// `BridgeTowerConfig`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    hidden_act: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    layer_norm_eps: f64,
    share_cross_modal_transformer_layers: bool,
    share_link_tower_layers: bool,
    link_tower_type: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_act: "gelu".to_owned(),
            hidden_size: 768,
            num_hidden_layers: 6,
            layer_norm_eps: 1e-5,
            share_cross_modal_transformer_layers: true,
            share_link_tower_layers: false,
            link_tower_type: "add".to_owned(),
        }
    }
}

/// `BridgeTowerVisionConfig`. Its `share_layernorm` changes nothing: transformers applies `ln_post` to every layer in either case.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct VisionConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_channels: usize,
    patch_size: usize,
    image_size: usize,
    layer_norm_eps: f64,
    #[serde(rename = "share_layernorm")]
    _share_layernorm: bool,
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
            _share_layernorm: true,
            remove_last_layer: false,
        }
    }
}

/// Width of an attention head of the image tower.
const HEAD_WIDTH: usize = 64;
/// Inner width of the image tower's feed-forward layers, in widths.
const MLP_RATIO: usize = 4;

/// Values of `link_tower_type` and their [`Link`].
const LINK_TYPES: [(&str, Link); 3] = [
    ("add", Link::AddNorm),
    ("scaled_add", Link::ScaledAddNorm),
    ("interpolate", Link::InterpolateNorm),
];

/// `vision_config` as our configuration.
fn image_config(json: &serde_json::Value) -> Result<ImageEncoderConfig, String> {
    let vision: VisionConfig = parse(json)?;
    only("num_channels", &vision.num_channels, &3)?;
    sizes(&[
        ("hidden_size", vision.hidden_size),
        ("num_hidden_layers", vision.num_hidden_layers),
    ])?;
    if !vision.hidden_size.is_multiple_of(HEAD_WIDTH) {
        return Err(format!(
            "hidden_size = {} cannot be: must be a multiple of {HEAD_WIDTH}, the width of a head there",
            vision.hidden_size
        ));
    }
    patches_divide(vision.image_size, vision.patch_size)?;
    epsilon_and_dropout(vision.layer_norm_eps, ("dropout", 0.0))?;
    Ok(ImageEncoderConfig {
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
        qkv_bias: true,
        stem: None,
        mask_embedding: false,
        dropout: 0.0,
        drop_path: 0.0,
    })
}

/// A `config.json` as our configuration.
///
/// # Errors
///
/// It says something that is not supported.
pub fn config(json: &serde_json::Value) -> Result<BackboneConfig, String> {
    let config: Config = parse(json)?;
    if config.share_link_tower_layers {
        return Err(
            "share_link_tower_layers = true is not supported: transformers makes one link for all layers and then looks for one \
             of each, so no such model runs there either"
                .to_owned(),
        );
    }
    let link = LINK_TYPES
        .iter()
        .find(|(name, _)| *name == config.link_tower_type);
    let (_, link) = link.ok_or_else(|| {
        format!(
            "link_tower_type = \"{}\" is not supported; supported are {}",
            config.link_tower_type,
            LINK_TYPES.map(|(name, _)| name).join(", ")
        )
    })?;
    // At the top level it is the activation of the head for words alone, which is fixed here.
    only("hidden_act", &config.hidden_act.as_str(), &"gelu")?;
    sizes(&[("num_hidden_layers", config.num_hidden_layers)])?;
    let in_image = |reason: String| format!("vision_config.{reason}");
    let image = image_config(&section(json, "vision_config")?).map_err(in_image)?;
    let mut text = section(json, "text_config")?;
    text["model_type"] = "bridgetower_text_model".into();
    let text = bert::config(&text).map_err(|reason| format!("text_config.{reason}"))?;
    only(
        "layer_norm_eps",
        &config.layer_norm_eps,
        &text.layer_norm_eps,
    )?;
    // transformers makes the cross-modal layers from the text half's configuration, so they are as wide.
    only("hidden_size", &config.hidden_size, &text.width)?;
    // transformers takes as many image layers as text layers; further image layers would never run.
    if image.layers != text.layers {
        return Err(format!(
            "vision_config.num_hidden_layers gives {} layers, less the one that remove_last_layer takes; supported are as many as \
             text_config.num_hidden_layers = {}",
            image.layers, text.layers
        ));
    }
    if config.num_hidden_layers > text.layers {
        return Err(format!(
            "num_hidden_layers = {} cannot be: must be at most text_config.num_hidden_layers = {}",
            config.num_hidden_layers, text.layers
        ));
    }
    Ok(BackboneConfig {
        initializer_range: 0.02,
        image: Some(image),
        regions: None,
        // transformers makes the cross-modal layers from the text half's configuration.
        fusion: Some(FusionConfig {
            width: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: text.heads,
            feed_forward: text.feed_forward,
            activation: text.activation,
            layer_norm_eps: text.layer_norm_eps,
            dropout: text.dropout,
            drop_path: 0.0,
            in_layer: true,
            levels: Levels::None,
            uni_levels: config.num_hidden_layers,
            gate: GateKind::Cls,
            gate_beta: 1.0,
            link: *link,
            pictures: 1,
            shared_transforms: config.share_cross_modal_transformer_layers,
            image_stream: true,
            shared: false,
        }),
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        joint: None,
        text,
    })
}

/// The image encoder and the cross-modal encoder of a backbone that Hugging Face's BridgeTower can represent.
///
/// # Errors
///
/// What the backbone has that BridgeTower cannot have.
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
    if !fusion.link.is_bridge() {
        return Err(
            "fusion.link is none of add_norm, scaled_add_norm and interpolate_norm".to_owned(),
        );
    }
    if let Some(outside) = &text.outside {
        let key = outside.key();
        return Err(format!("text.{key} is there, blocks of another crate"));
    }
    only("fusion.levels", &fusion.levels, &Levels::None)?;
    only("fusion.width", &fusion.width, &text.width)?;
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
    only("image.stem", &image.stem, &None)?;
    only(
        "image.distillation_token",
        &image.distillation_token,
        &false,
    )?;
    only("image.qkv_bias", &image.qkv_bias, &true)?;
    only("image.layers", &image.layers, &text.layers)?;
    Ok((image, fusion))
}

/// Our configuration as a `config.json`, without the name of an architecture.
///
/// # Errors
///
/// It is no BridgeTower; see [`is_bridgetower`].
pub fn to_json(config: &BackboneConfig) -> Result<serde_json::Value, String> {
    let (image, fusion) = is_bridgetower(config)?;
    let link = LINK_TYPES.iter().find(|(_, link)| *link == fusion.link);
    let link = link.map_or("", |(name, _)| *name);
    let mut text = bert::to_json(&config.text);
    text["model_type"] = "bridgetower_text_model".into();
    Ok(serde_json::json!({
        "model_type": "bridgetower",
        // Activation of the head for words; the layers' activation is in `text_config`.
        "hidden_act": "gelu",
        "hidden_size": fusion.width,
        "num_attention_heads": fusion.heads,
        "num_hidden_layers": fusion.layers,
        "intermediate_size": fusion.feed_forward,
        "layer_norm_eps": fusion.layer_norm_eps,
        "link_tower_type": link,
        "share_cross_modal_transformer_layers": fusion.shared_transforms,
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
