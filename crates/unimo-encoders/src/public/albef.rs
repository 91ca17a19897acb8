//! ALBEF as its authors store it: an image encoder in timm's naming, and one BERT whose lower half reads texts and whose upper half also
//! reads the image.
//!
//! Its teacher, which the file holds beside the model, and its queues are known and not used: a training that starts from the file
//! makes its teacher anew, as a copy of the model.

use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;

use super::{Shapes, bert, heads_of, meter};
use crate::backbone::BackboneConfig;
use crate::fusion::{FusionConfig, Levels, Link};
use crate::image::ImageEncoderConfig;
use crate::names::{Form, Names, Rule, rule};
use crate::text::{Positions, TextEncoderConfig, TextTower};
use crate::weights::Weights;

/// Names of [`crate::image::ImageEncoder`] in timm and ALBEF.
#[rustfmt::skip]
const IMAGE: &[Rule] = &[
    rule("patch_embedding", "patch_embed.proj", Form::Patches),
    rule("class_embedding", "cls_token", Form::Leading(2)),
    rule("position_embedding", "pos_embed", Form::Grid(1)),
    rule("post_norm", "norm", Form::Same),
    rule("layers.{}.attention_norm", "blocks.{}.norm1", Form::Same),
    rule("layers.{}.attention.query", "blocks.{}.attn.qkv", Form::Packed(0)),
    rule("layers.{}.attention.key", "blocks.{}.attn.qkv", Form::Packed(1)),
    rule("layers.{}.attention.value", "blocks.{}.attn.qkv", Form::Packed(2)),
    rule("layers.{}.attention.output", "blocks.{}.attn.proj", Form::Linear),
    rule("layers.{}.feed_forward_norm", "blocks.{}.norm2", Form::Same),
    rule("layers.{}.feed_forward.inner", "blocks.{}.mlp.fc1", Form::Linear),
    rule("layers.{}.feed_forward.outer", "blocks.{}.mlp.fc2", Form::Linear),
];

/// The layers of the BERT.
const LAYERS: &str = "text_encoder.bert.encoder.layer";
/// The words of the BERT.
const WORDS: &str = "text_encoder.bert.embeddings.word_embeddings.weight";

/// The teacher with its heads, the queues, and what BERT keeps beside its weights.
const UNUSED: &[&str] = &[
    "visual_encoder_m",
    "text_encoder_m",
    "vision_proj_m",
    "text_proj_m",
    "image_queue",
    "text_queue",
    "queue_ptr",
    "text_encoder.bert.embeddings.position_ids",
    "text_encoder.bert.pooler",
];

/// Names of a [`crate::backbone::Backbone`] without its heads, whose text encoder and text stream have these numbers of layers.
pub fn names(text: usize, cross: usize) -> Names {
    let above: Vec<usize> = (text..text + cross).collect();
    Names::new(
        [
            ("text", "text_encoder.bert", bert::NAMES),
            ("image", "visual_encoder", IMAGE),
            ("fusion.text", LAYERS, meter::LAYERS),
        ],
        UNUSED,
    )
    .numbering("fusion.text.layers", &above)
}

/// As [`names`], for a backbone alone: its heads are known to be unused.
pub fn names_without_heads(text: usize, cross: usize) -> Names {
    names(text, cross).leaving(&[
        "text_encoder.cls",
        "text_proj",
        "vision_proj",
        "itm_head",
        "temp",
    ])
}

/// Whether a file holds such a model.
pub(super) fn is(weights: &Weights) -> bool {
    weights.info("visual_encoder.cls_token").is_some() && weights.info(WORDS).is_some()
}

/// Width of an attention head in every published ALBEF.
const HEAD_WIDTH: usize = 64;

/// The configuration of an ALBEF checkpoint, which comes without one, from the shapes of its tensors. The rest is ALBEF's: heads are 64
/// wide, BERT's norms have an epsilon of 1e-12, those of the image encoder 1e-6.
///
/// # Errors
///
/// A tensor that says a size is not there or has another rank.
pub fn config_from_shapes(weights: &Weights) -> Result<BackboneConfig, String> {
    let shapes = Shapes(weights);
    let [vocab_size, width] = shapes.of(WORDS)?;
    let embeddings = "text_encoder.bert.embeddings";
    let [max_positions, _] = shapes.of(&format!("{embeddings}.position_embeddings.weight"))?;
    let [token_types, _] = shapes.of(&format!("{embeddings}.token_type_embeddings.weight"))?;
    let [feed_forward, _] = shapes.of(&format!("{LAYERS}.0.intermediate.dense.weight"))?;
    let all = shapes.blocks(&format!("{LAYERS}."), ".output.dense.weight");
    let reads_images = |layer: &usize| {
        let name = format!("{LAYERS}.{layer}.crossattention.self.query.weight");
        weights.info(&name).is_some()
    };
    let text = (0..all).find(reads_images).unwrap_or(all);
    let heads = heads_of(HEAD_WIDTH, width, WORDS)?;
    let [image_width, _, patch_size, _] = shapes.of("visual_encoder.patch_embed.proj.weight")?;
    let [_, positions, _] = shapes.of("visual_encoder.pos_embed")?;
    let [image_inner, _] = shapes.of("visual_encoder.blocks.0.mlp.fc1.weight")?;
    Ok(BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size,
            width,
            layers: text,
            heads,
            feed_forward,
            max_positions,
            positions: Positions::FromZero,
            token_types,
            pad_id: 0,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            dropout: 0.1,
            drop_path: 0.0,
            outside: None,
        },
        image: Some(ImageEncoderConfig {
            // The class token stands before the patches.
            image_size: positions.saturating_sub(1).isqrt() * patch_size,
            patch_size,
            width: image_width,
            layers: shapes.blocks("visual_encoder.blocks.", ".mlp.fc1.weight"),
            heads: heads_of(HEAD_WIDTH, image_width, "visual_encoder.pos_embed")?,
            feed_forward: image_inner,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-6,
            pre_norm: false,
            patch_bias: true,
            distillation_token: false,
            qkv_bias: true,
            stem: None,
            mask_embedding: false,
            dropout: 0.0,
            drop_path: 0.0,
        }),
        regions: None,
        fusion: Some(FusionConfig {
            width,
            layers: all - text,
            heads,
            feed_forward,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            dropout: 0.1,
            drop_path: 0.0,
            in_layer: true,
            levels: Levels::None,
            uni_levels: 0,
            gate: GateKind::Cls,
            gate_beta: 1.0,
            link: Link::None,
            pictures: 1,
            shared_transforms: true,
            image_stream: false,
            shared: false,
        }),
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        joint: None,
    })
}
