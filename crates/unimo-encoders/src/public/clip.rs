//! CLIP as Hugging Face, OpenAI and OpenCLIP store it.

use serde::Deserialize;
use unimo_core::layers::Activation;

use super::{
    Shapes, activation, epsilon_and_dropout, heads_divide, heads_of, only, parse, patches_divide,
    section, sizes,
};
use crate::clip::{ClipConfig, ClipTextConfig};
use crate::image::ImageEncoderConfig;
use crate::names::{Form, Names, Rule, rule};
use crate::weights::Weights;

/// Names of the image tower, [`crate::image::ImageEncoder`], in Hugging Face's checkpoints.
#[rustfmt::skip]
pub const IMAGE: &[Rule] = &[
    rule("patch_embedding", "embeddings.patch_embedding", Form::Patches),
    rule("class_embedding", "embeddings.class_embedding", Form::Tensor),
    rule("position_embedding", "embeddings.position_embedding.weight", Form::Grid(0)),
    rule("pre_norm", "pre_layrnorm", Form::Same),
    rule("post_norm", "post_layernorm", Form::Same),
    rule("layers.{}.attention_norm", "encoder.layers.{}.layer_norm1", Form::Same),
    rule("layers.{}.attention.query", "encoder.layers.{}.self_attn.q_proj", Form::Linear),
    rule("layers.{}.attention.key", "encoder.layers.{}.self_attn.k_proj", Form::Linear),
    rule("layers.{}.attention.value", "encoder.layers.{}.self_attn.v_proj", Form::Linear),
    rule("layers.{}.attention.output", "encoder.layers.{}.self_attn.out_proj", Form::Linear),
    rule("layers.{}.feed_forward_norm", "encoder.layers.{}.layer_norm2", Form::Same),
    rule("layers.{}.feed_forward.inner", "encoder.layers.{}.mlp.fc1", Form::Linear),
    rule("layers.{}.feed_forward.outer", "encoder.layers.{}.mlp.fc2", Form::Linear),
];

/// Names of the text tower in Hugging Face's checkpoints; its blocks are named as the image tower's.
#[rustfmt::skip]
const TEXT: &[Rule] = &[
    rule("word_embedding", "embeddings.token_embedding", Form::Same),
    rule("position_embedding", "embeddings.position_embedding", Form::Same),
    rule("final_norm", "final_layer_norm", Form::Same),
];

#[rustfmt::skip]
const PROJECTIONS: &[Rule] = &[
    rule("text_projection", "text_projection", Form::Linear),
    rule("image_projection", "visual_projection", Form::Linear),
    rule("logit_scale", "logit_scale", Form::Scalar),
];

/// Names of the image tower in OpenAI's, OpenCLIP's and METER's checkpoints.
#[rustfmt::skip]
pub const OPENAI_IMAGE: &[Rule] = &[
    rule("patch_embedding", "conv1", Form::Patches),
    rule("class_embedding", "class_embedding", Form::Tensor),
    rule("position_embedding", "positional_embedding", Form::Grid(0)),
    rule("pre_norm", "ln_pre", Form::Same),
    rule("post_norm", "ln_post", Form::Same),
];

/// Names of a tower's blocks in OpenAI's, METER's and BridgeTower's checkpoints.
#[rustfmt::skip]
pub const OPENAI_BLOCKS: &[Rule] = &[
    rule("layers.{}.attention_norm", "transformer.resblocks.{}.ln_1", Form::Same),
    rule("layers.{}.attention.query", "transformer.resblocks.{}.attn.in_proj", Form::Third(0)),
    rule("layers.{}.attention.key", "transformer.resblocks.{}.attn.in_proj", Form::Third(1)),
    rule("layers.{}.attention.value", "transformer.resblocks.{}.attn.in_proj", Form::Third(2)),
    rule("layers.{}.attention.output", "transformer.resblocks.{}.attn.out_proj", Form::Linear),
    rule("layers.{}.feed_forward_norm", "transformer.resblocks.{}.ln_2", Form::Same),
    rule("layers.{}.feed_forward.inner", "transformer.resblocks.{}.mlp.c_fc", Form::Linear),
    rule("layers.{}.feed_forward.outer", "transformer.resblocks.{}.mlp.c_proj", Form::Linear),
];

#[rustfmt::skip]
const OPENAI_TEXT: &[Rule] = &[
    rule("word_embedding", "token_embedding", Form::Same),
    rule("position_embedding.weight", "positional_embedding", Form::Tensor),
    rule("final_norm", "ln_final", Form::Same),
];

/// The projections are stored as OpenAI uses them, `[in, out]`.
#[rustfmt::skip]
const OPENAI_PROJECTIONS: &[Rule] = &[
    rule("image_projection.weight", "visual.proj", Form::Tensor),
    rule("logit_scale", "logit_scale", Form::Scalar),
];
const OPENAI_TEXT_PROJECTION: &[Rule] = &[rule(
    "text_projection.weight",
    "text_projection",
    Form::Tensor,
)];

/// Tensors of OpenAI's and OpenCLIP's checkpoints that follow from others.
const OPENAI_UNUSED: &[&str] = &[
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "text.attn_mask",
    "transformer.resblocks.*.attn_mask",
    "text.transformer.resblocks.*.attn_mask",
];

/// All spellings of both towers together.
pub fn spellings() -> Vec<Names> {
    let mut spellings = vec![hugging_face()];
    for text in ["", "text"] {
        spellings.push(Names::new(
            [
                ("text", text, OPENAI_TEXT),
                ("text", text, OPENAI_BLOCKS),
                ("image", "visual", OPENAI_IMAGE),
                ("image", "visual", OPENAI_BLOCKS),
                ("", "", OPENAI_PROJECTIONS),
                ("", text, OPENAI_TEXT_PROJECTION),
            ],
            OPENAI_UNUSED,
        ));
    }
    spellings
}

const TEXT_EMBEDDINGS: &[Rule] = &[TEXT[0], TEXT[1]];
const TEXT_NORM: &[Rule] = &[TEXT[2]];
const OPENAI_TEXT_EMBEDDINGS: &[Rule] = &[OPENAI_TEXT[0], OPENAI_TEXT[1]];
const OPENAI_TEXT_NORM: &[Rule] = &[OPENAI_TEXT[2]];

/// All spellings of both towers as a backbone has them, which trains them, with the projections in an objective's head of this name.
pub fn backbone_spellings(head: &str) -> Vec<Names> {
    // A head without a learned temperature leaves CLIP's.
    let hugging_face = Names::new(
        [
            ("backbone.text", "text_model", TEXT_EMBEDDINGS),
            ("backbone.text.clip", "text_model", TEXT_NORM),
            ("backbone.text.clip", "text_model", IMAGE),
            ("backbone.image", "vision_model", IMAGE),
            (head, "", PROJECTIONS),
        ],
        &[
            "logit_scale",
            "text_model.embeddings.position_ids",
            "vision_model.embeddings.position_ids",
        ],
    );
    let openai = ["", "text"].map(|text| {
        Names::new(
            [
                ("backbone.text", text, OPENAI_TEXT_EMBEDDINGS),
                ("backbone.text.clip", text, OPENAI_TEXT_NORM),
                ("backbone.text.clip", text, OPENAI_BLOCKS),
                ("backbone.image", "visual", OPENAI_IMAGE),
                ("backbone.image", "visual", OPENAI_BLOCKS),
                (head, "", OPENAI_PROJECTIONS),
                (head, text, OPENAI_TEXT_PROJECTION),
            ],
            OPENAI_UNUSED,
        )
        .leaving(&["logit_scale"])
    });
    std::iter::once(hugging_face).chain(openai).collect()
}

/// Both towers as Hugging Face stores them.
pub fn hugging_face() -> Names {
    Names::new(
        [
            ("text", "text_model", TEXT),
            ("text", "text_model", IMAGE),
            ("image", "vision_model", IMAGE),
            ("", "", PROJECTIONS),
        ],
        &[
            "text_model.embeddings.position_ids",
            "vision_model.embeddings.position_ids",
        ],
    )
}

/// All spellings of the image tower, alone or within CLIP.
pub fn image_spellings() -> Vec<Names> {
    let beside = [
        "text_model",
        "text_projection",
        "visual_projection",
        "logit_scale",
        "vision_model.embeddings.position_ids",
        "embeddings.position_ids",
    ];
    let mut spellings: Vec<Names> = ["", "vision_model"]
        .into_iter()
        .map(|prefix| Names::new([("", prefix, IMAGE)], &beside))
        .collect();
    let beside = [
        "transformer",
        "text",
        "token_embedding",
        "positional_embedding",
        "ln_final",
        "text_projection",
        "visual.proj",
        "logit_scale",
        "input_resolution",
        "context_length",
        "vocab_size",
    ];
    spellings.push(Names::new(
        [("", "visual", OPENAI_IMAGE), ("", "visual", OPENAI_BLOCKS)],
        &beside,
    ));
    spellings
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ImageConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct TextConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    max_position_embeddings: usize,
    eos_token_id: i32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            intermediate_size: 2048,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            max_position_embeddings: 77,
            eos_token_id: 49407,
        }
    }
}

/// Configurations written before transformers 4.30 wrongly name 2 as the end token. transformers then takes the highest id, and so
/// does this module.
const WRONG_END: i32 = 2;

/// The image tower of a `config.json` of `CLIPModel` or `CLIPVisionModel`.
///
/// # Errors
///
/// It says something that is not supported.
pub fn image_config(json: &serde_json::Value) -> Result<ImageEncoderConfig, String> {
    match json.get("vision_config") {
        Some(given) if !given.is_null() => {
            let own = section(json, "vision_config")?;
            own_image_config(&own).map_err(|reason| format!("vision_config.{reason}"))
        }
        _ => own_image_config(json),
    }
}

fn own_image_config(json: &serde_json::Value) -> Result<ImageEncoderConfig, String> {
    let config: ImageConfig = parse(json)?;
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
    epsilon_and_dropout(config.layer_norm_eps, ("attention_dropout", 0.0))?;
    Ok(ImageEncoderConfig {
        image_size: config.image_size,
        patch_size: config.patch_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        feed_forward: config.intermediate_size,
        activation: activation(&config.hidden_act)?,
        layer_norm_eps: config.layer_norm_eps,
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

/// `CLIPConfig` without its two halves.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    projection_dim: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            projection_dim: 512,
        }
    }
}

/// A `config.json` of `CLIPModel`.
///
/// # Errors
///
/// It is of another kind or says something that is not supported.
pub fn config(json: &serde_json::Value) -> Result<ClipConfig, String> {
    let Config { projection_dim } = parse(json)?;
    sizes(&[("projection_dim", projection_dim)])?;
    let in_text = |reason: String| format!("text_config.{reason}");
    let in_image = |reason: String| format!("vision_config.{reason}");
    let text: TextConfig = parse(&section(json, "text_config")?).map_err(in_text)?;
    heads_divide(
        ("hidden_size", text.hidden_size),
        ("num_attention_heads", text.num_attention_heads),
    )
    .and_then(|()| {
        sizes(&[
            ("vocab_size", text.vocab_size),
            ("num_hidden_layers", text.num_hidden_layers),
            ("intermediate_size", text.intermediate_size),
            ("max_position_embeddings", text.max_position_embeddings),
        ])
    })
    .and_then(|()| epsilon_and_dropout(text.layer_norm_eps, ("attention_dropout", 0.0)))
    .map_err(in_text)?;
    Ok(ClipConfig {
        text: ClipTextConfig {
            vocab_size: text.vocab_size,
            width: text.hidden_size,
            layers: text.num_hidden_layers,
            heads: text.num_attention_heads,
            feed_forward: text.intermediate_size,
            max_positions: text.max_position_embeddings,
            activation: activation(&text.hidden_act).map_err(in_text)?,
            layer_norm_eps: text.layer_norm_eps,
            end_id: (text.eos_token_id != WRONG_END).then_some(text.eos_token_id),
        },
        image: own_image_config(&section(json, "vision_config")?).map_err(in_image)?,
        width: projection_dim,
    })
}

/// Width of an attention head in every CLIP that OpenAI published.
const HEAD_WIDTH: usize = 64;

/// An image tower in OpenAI's naming, from the shapes of its tensors.
///
/// # Errors
///
/// A tensor that says a size is not there or has another rank.
pub fn openai_image_from_shapes(
    weights: &Weights,
    prefix: &str,
    activation: Activation,
) -> Result<ImageEncoderConfig, String> {
    image_from_shapes(weights, prefix, activation, HEAD_WIDTH)
}

/// As [`openai_image_from_shapes`], with attention heads `head_width` wide.
fn image_from_shapes(
    weights: &Weights,
    prefix: &str,
    activation: Activation,
    head_width: usize,
) -> Result<ImageEncoderConfig, String> {
    let shapes = Shapes(weights);
    let patches = format!("{prefix}conv1.weight");
    let [width, channels, patch_size, across] = shapes.of(&patches)?;
    if channels != 3 || across != patch_size {
        return Err(format!(
            "`{patches}` has patches of {channels} x {patch_size} x {across}; supported are square ones of 3 channels"
        ));
    }
    let table = format!("{prefix}positional_embedding");
    let [positions, _] = shapes.of(&table)?;
    let grid = positions.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != positions {
        return Err(format!(
            "`{table}` has {positions} rows, which is no square of patches behind a class token"
        ));
    }
    let blocks = format!("{prefix}transformer.resblocks.");
    let [feed_forward, _] = shapes.of(&format!("{blocks}0.mlp.c_fc.weight"))?;
    Ok(ImageEncoderConfig {
        image_size: patch_size * grid,
        patch_size,
        width,
        layers: shapes.blocks(&blocks, ".ln_1.weight"),
        heads: heads_of(head_width, width, &patches)?,
        feed_forward,
        activation,
        layer_norm_eps: 1e-5,
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

/// The configuration of a checkpoint in OpenAI's or OpenCLIP's naming, from the shapes of its tensors. Their heads are 64 wide.
///
/// # Errors
///
/// A tensor that says a size is not there or has another rank.
pub fn config_from_shapes(weights: &Weights, activation: Activation) -> Result<ClipConfig, String> {
    sizes_from_shapes(weights, activation, HEAD_WIDTH, None)
}

/// As [`config_from_shapes`], with heads from a file beside the weights: the width of the image tower's and the number of the text
/// tower's. `None` means as wide as OpenAI's.
pub(super) fn sizes_from_shapes(
    weights: &Weights,
    activation: Activation,
    head_width: usize,
    text_heads: Option<usize>,
) -> Result<ClipConfig, String> {
    let shapes = Shapes(weights);
    let text = if weights.info("text.token_embedding.weight").is_some() {
        "text."
    } else {
        ""
    };
    let [vocab_size, width] = shapes.of(&format!("{text}token_embedding.weight"))?;
    let [max_positions, _] = shapes.of(&format!("{text}positional_embedding"))?;
    let blocks = format!("{text}transformer.resblocks.");
    let [feed_forward, _] = shapes.of(&format!("{blocks}0.mlp.c_fc.weight"))?;
    let [_, common_width] = shapes.of("visual.proj")?;
    Ok(ClipConfig {
        text: ClipTextConfig {
            vocab_size,
            width,
            layers: shapes.blocks(&blocks, ".ln_1.weight"),
            heads: match text_heads {
                Some(heads) => heads,
                None => heads_of(HEAD_WIDTH, width, "token_embedding.weight")?,
            },
            feed_forward,
            max_positions,
            activation,
            layer_norm_eps: 1e-5,
            end_id: None,
        },
        image: image_from_shapes(weights, "visual.", activation, head_width)?,
        width: common_width,
    })
}

/// Our image tower as Hugging Face's `vision_config`.
///
/// # Errors
///
/// What it has that CLIP's tower cannot have.
pub fn image_to_json(config: &ImageEncoderConfig) -> Result<serde_json::Value, String> {
    only("image.pre_norm", &config.pre_norm, &true)?;
    only("image.patch_bias", &config.patch_bias, &false)?;
    only("image.stem", &config.stem, &None)?;
    only("image.qkv_bias", &config.qkv_bias, &true)?;
    let token = &config.distillation_token;
    only("image.distillation_token", token, &false)?;
    Ok(serde_json::json!({
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "hidden_act": super::activation_name(config.activation),
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
    }))
}

/// Our configuration as a `config.json` of `CLIPModel`.
///
/// # Errors
///
/// What its image tower has that CLIP's cannot have.
pub fn to_json(config: &ClipConfig) -> Result<serde_json::Value, String> {
    let text = &config.text;
    Ok(serde_json::json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.width,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "intermediate_size": text.feed_forward,
            "hidden_act": super::activation_name(text.activation),
            "layer_norm_eps": text.layer_norm_eps,
            "max_position_embeddings": text.max_positions,
            "eos_token_id": text.end_id.unwrap_or(WRONG_END),
        },
        "vision_config": image_to_json(&config.image)?,
    }))
}
