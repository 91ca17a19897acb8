//! METER as its authors store it (a Lightning checkpoint), and UNIMO-3 in the same naming.

use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;

use super::clip::{OPENAI_BLOCKS, OPENAI_IMAGE, openai_image_from_shapes};
use super::{Shapes, bert, heads_of};
use crate::backbone::BackboneConfig;
use crate::fusion::{FusionConfig, Levels, Link};
use crate::names::{Form, Names, Rule, rule};
use crate::text::{Positions, TextEncoderConfig, TextTower};
use crate::weights::Weights;

/// Names of [`crate::fusion::CrossModalEncoder`] that METER and BridgeTower share.
#[rustfmt::skip]
pub const FUSION: &[Rule] = &[
    rule("text_transform", "cross_modal_text_transform", Form::Linear),
    rule("image_transform", "cross_modal_image_transform", Form::Linear),
    rule("type_embedding", "token_type_embeddings", Form::Types),
    rule("text.pooler", "cross_modal_text_pooler.dense", Form::Linear),
    rule("image.pooler", "cross_modal_image_pooler.dense", Form::Linear),
];

/// Names of one stream's layers in METER and BridgeTower.
#[rustfmt::skip]
pub const LAYERS: &[Rule] = &[
    rule("layers.{}.self_attention.query", "{}.attention.self.query", Form::Linear),
    rule("layers.{}.self_attention.key", "{}.attention.self.key", Form::Linear),
    rule("layers.{}.self_attention.value", "{}.attention.self.value", Form::Linear),
    rule("layers.{}.self_attention.output", "{}.attention.output.dense", Form::Linear),
    rule("layers.{}.self_norm", "{}.attention.output.LayerNorm", Form::Same),
    rule("layers.{}.cross_attention.query", "{}.crossattention.self.query", Form::Linear),
    rule("layers.{}.cross_attention.key", "{}.crossattention.self.key", Form::Linear),
    rule("layers.{}.cross_attention.value", "{}.crossattention.self.value", Form::Linear),
    rule("layers.{}.cross_attention.output", "{}.crossattention.output.dense", Form::Linear),
    rule("layers.{}.cross_norm", "{}.crossattention.output.LayerNorm", Form::Same),
    rule("layers.{}.feed_forward.inner", "{}.intermediate.dense", Form::Linear),
    rule("layers.{}.feed_forward.outer", "{}.output.dense", Form::Linear),
    rule("layers.{}.feed_forward_norm", "{}.output.LayerNorm", Form::Same),
];

/// Names of what UNIMO-3 adds to a layer, in this project's PyTorch twin.
#[rustfmt::skip]
pub const LEVELS: &[Rule] = &[
    rule("layers.{}.level_attention.norms.{}", "{}.level_norms.{}", Form::Same),
    rule("layers.{}.level_attention.attention.query", "{}.levelattention.self.query", Form::Linear),
    rule("layers.{}.level_attention.attention.key", "{}.levelattention.self.key", Form::Linear),
    rule("layers.{}.level_attention.attention.value", "{}.levelattention.self.value", Form::Linear),
    rule(
        "layers.{}.level_attention.attention.output",
        "{}.levelattention.output.dense",
        Form::Linear,
    ),
    rule("layers.{}.level_attention.gate_query", "{}.gate_query", Form::Linear),
    rule("layers.{}.level_attention.gate_key", "{}.gate_key", Form::Linear),
    rule("layers.{}.level_attention.gate_bias", "{}.gate_bias", Form::Tensor),
    rule("layers.{}.merge", "{}.merge", Form::Scalar),
];

/// What UNIMO-3 has and METER lacks, as patterns of our names within a backbone.
pub const NOT_IN_METER: &[&str] = &[
    "fusion.text.layers.*.level_attention",
    "fusion.text.layers.*.merge",
    "fusion.image.layers.*.level_attention",
    "fusion.image.layers.*.merge",
];

/// Names of a [`crate::backbone::Backbone`] without its heads, as METER's authors have them. Neither METER nor this
/// model uses the rest of CLIP's text tower in these files.
pub fn names() -> Names {
    Names::new(
        [
            ("text", "text_transformer", bert::NAMES),
            ("image", "vit_model.visual", OPENAI_IMAGE),
            ("image", "vit_model.visual", OPENAI_BLOCKS),
            ("fusion", "", FUSION),
            ("fusion.text", "cross_modal_text_layers", LAYERS),
            ("fusion.image", "cross_modal_image_layers", LAYERS),
        ],
        &[
            "text_transformer.pooler",
            "text_transformer.embeddings.position_ids",
            "vit_model.positional_embedding",
            "vit_model.ln_final",
            "vit_model.token_embedding",
            "vit_model.transformer",
            "vit_model.text_projection",
            "vit_model.logit_scale",
            "vit_model.visual.proj",
        ],
    )
}

/// Heads of fine-tuned models, for models that do not use them.
pub const TASK_HEADS: &[&str] = &[
    "vqa_classifier",
    "nlvr2_classifier",
    "snli_classifier",
    "rank_output",
];

/// As [`names`], for a backbone alone: its heads are known to be unused.
pub fn names_without_heads() -> Names {
    names()
        .leaving(&["mlm_score", "itm_score"])
        .leaving(TASK_HEADS)
}

/// How many images of a sample a METER checkpoint distinguishes: two after NLVR2, else one.
///
/// # Errors
///
/// The type embedding is not there or has another rank.
pub fn pictures_from_shapes(weights: &Weights) -> Result<usize, String> {
    let [types, _] = Shapes(weights).of("token_type_embeddings.weight")?;
    Ok(types.saturating_sub(1))
}

/// Width of an attention head in every published METER.
const HEAD_WIDTH: usize = 64;
/// RoBERTa's padding token.
const PAD_ID: usize = 1;

/// The configuration of a METER checkpoint, which comes without one, from the shapes of its tensors. The rest is
/// METER's: heads are 64 wide, RoBERTa's norms have an epsilon of 1e-5, and those of the cross-modal layers 1e-12, the
/// default of the configuration class that METER uses.
///
/// # Errors
///
/// A tensor that says a size is not there or has another rank.
pub fn config_from_shapes(weights: &Weights) -> Result<BackboneConfig, String> {
    let shapes = Shapes(weights);
    let [vocab_size, text_width] =
        shapes.of("text_transformer.embeddings.word_embeddings.weight")?;
    let [max_positions, _] = shapes.of("text_transformer.embeddings.position_embeddings.weight")?;
    let [token_types, _] = shapes.of("text_transformer.embeddings.token_type_embeddings.weight")?;
    let [text_inner, _] =
        shapes.of("text_transformer.encoder.layer.0.intermediate.dense.weight")?;
    let [width, _] = shapes.of("cross_modal_text_transform.weight")?;
    let [inner, _] = shapes.of("cross_modal_text_layers.0.intermediate.dense.weight")?;
    Ok(BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size,
            width: text_width,
            layers: shapes.blocks("text_transformer.encoder.layer.", ".output.dense.weight"),
            heads: heads_of(
                HEAD_WIDTH,
                text_width,
                "text_transformer.embeddings.word_embeddings.weight",
            )?,
            feed_forward: text_inner,
            max_positions,
            positions: Positions::AfterPad,
            token_types,
            pad_id: PAD_ID,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.1,
            drop_path: 0.0,
            outside: None,
        },
        image: Some(openai_image_from_shapes(
            weights,
            "vit_model.visual.",
            Activation::QuickGelu,
        )?),
        regions: None,
        fusion: Some(FusionConfig {
            width,
            layers: shapes.blocks("cross_modal_text_layers.", ".output.dense.weight"),
            heads: heads_of(HEAD_WIDTH, width, "cross_modal_text_transform.weight")?,
            feed_forward: inner,
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
            pictures: pictures_from_shapes(weights)?,
            shared_transforms: true,
            image_stream: true,
            shared: false,
        }),
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        joint: None,
    })
}

/// Names of a [`crate::backbone::Backbone`] without its heads, in this project's PyTorch twin of METER and UNIMO-3: the
/// fusion as METER, the encoders as Hugging Face.
pub fn twin_names() -> Names {
    Names::new(
        [
            ("text", "text_transformer", bert::NAMES),
            ("image", "image_transformer", super::clip::IMAGE),
            ("fusion", "", FUSION),
            ("fusion.text", "cross_modal_text_layers", LAYERS),
            ("fusion.text", "cross_modal_text_layers", LEVELS),
            ("fusion.image", "cross_modal_image_layers", LAYERS),
            ("fusion.image", "cross_modal_image_layers", LEVELS),
        ],
        &[
            "text_transformer.embeddings.position_ids",
            "image_transformer.embeddings.position_ids",
        ],
    )
}
