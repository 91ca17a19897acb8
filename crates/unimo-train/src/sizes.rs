//! Models at the sizes of a benchmark: METER's size, smaller ones, and those that a twin names.

use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::JointConfig;
use unimo_encoders::quantiser::{Choice, QuantiserConfig};
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};

/// The sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Its name on the command line.
    pub name: &'static str,
    /// Width of all three encoders.
    pub width: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Number of blocks of the text encoder.
    pub text_layers: usize,
    /// Number of blocks of the image encoder.
    pub image_layers: usize,
    /// Number of layers of the cross-modal encoder.
    pub cross_layers: usize,
    /// Pixels per side.
    pub image_size: usize,
    /// Pixels per side of a patch.
    pub patch_size: usize,
    /// Number of word embeddings.
    pub vocabulary: usize,
    /// Tokens per text.
    pub text_length: usize,
}

macro_rules! sizes {
    ($($name:literal: $($value:literal),+;)+) => {
        /// Every size.
        pub const SIZES: &[Size] = &[$(sizes!(@ $name, $($value),+)),+];
    };
    (@ $name:literal, $width:literal, $heads:literal, $ffn:literal, $text:literal, $image:literal, $cross:literal,
     $px:literal, $patch:literal, $vocabulary:literal, $length:literal) => {
        Size {
            name: $name,
            width: $width,
            heads: $heads,
            feed_forward: $ffn,
            text_layers: $text,
            image_layers: $image,
            cross_layers: $cross,
            image_size: $px,
            patch_size: $patch,
            vocabulary: $vocabulary,
            text_length: $length,
        }
    };
}

sizes! {
    "tiny": 64, 4, 128, 3, 3, 2, 48, 16, 211, 12;
    "small": 384, 6, 1536, 12, 12, 6, 224, 16, 50265, 50;
    "base": 768, 12, 3072, 12, 12, 6, 288, 16, 50265, 50;
    "golden": 32, 4, 64, 2, 2, 3, 48, 16, 97, 10;
}

/// The kind of cross-modal encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Co-attention with cross-layer attention, gated by the class token.
    Unimo3,
    /// In-layer co-attention only.
    Meter,
    /// Single-stream, with a grounded dictionary.
    Unimo2,
    /// Single-stream, over words, phrases, tags and patches.
    Mvp,
    /// Single-stream, with hidden words and patches and a teacher.
    Mamo,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 5] = [
        Self::Unimo3,
        Self::Meter,
        Self::Unimo2,
        Self::Mvp,
        Self::Mamo,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unimo3 => "unimo3",
            Self::Meter => "meter",
            Self::Unimo2 => "unimo2",
            Self::Mvp => "mvp",
            Self::Mamo => "mamo",
        }
    }
}

/// Token id of the padding.
pub const PAD: usize = 1;

/// Dropout of the text encoder and the cross-modal encoder; the image encoder has none.
const DROPOUT: f64 = 0.1;

/// The encoders of a size.
pub fn backbone(size: &Size, family: Family) -> BackboneConfig {
    let Size {
        width,
        heads,
        feed_forward,
        ..
    } = *size;
    let layer_norm_eps = 1e-5;
    let joint =
        |layers: usize, image_class: bool, grounding: Option<QuantiserConfig>| JointConfig {
            width,
            layers,
            heads,
            feed_forward,
            activation: Activation::Gelu,
            layer_norm_eps,
            dropout: DROPOUT,
            drop_path: 0.0,
            image_class,
            grounding,
            concepts: false,
            split: None,
            interleaved: None,
        };
    let (codes, tokens) = dictionary(size);
    let mvp = family == Family::Mvp;
    let uni_modal = |layers: usize| if mvp { layers.div_ceil(2) } else { layers };
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: size.vocabulary,
            width,
            layers: uni_modal(size.text_layers),
            heads,
            feed_forward,
            max_positions: max_positions(size),
            positions: Positions::AfterPad,
            token_types: if mvp { 2 } else { 1 },
            pad_id: PAD,
            activation: Activation::Gelu,
            layer_norm_eps,
            dropout: DROPOUT,
            drop_path: 0.0,
            outside: None,
        },
        regions: None,
        image: Some(ImageEncoderConfig {
            image_size: size.image_size,
            patch_size: size.patch_size,
            width,
            layers: uni_modal(size.image_layers),
            heads,
            feed_forward,
            activation: Activation::QuickGelu,
            layer_norm_eps,
            pre_norm: true,
            patch_bias: false,
            distillation_token: false,
            qkv_bias: true,
            stem: None,
            mask_embedding: family == Family::Mamo,
            dropout: 0.0,
            drop_path: 0.0,
        }),
        fusion: matches!(family, Family::Unimo3 | Family::Meter).then_some(FusionConfig {
            width,
            layers: size.cross_layers,
            heads,
            feed_forward,
            activation: Activation::Gelu,
            layer_norm_eps,
            dropout: DROPOUT,
            drop_path: 0.0,
            in_layer: true,
            levels: match family {
                Family::Unimo3 => Levels::CrossPrev,
                _ => Levels::None,
            },
            uni_levels: 0,
            gate: GateKind::Cls,
            gate_beta: 1.0,
            link: Link::None,
            pictures: 1,
            shared_transforms: true,
            image_stream: true,
            shared: false,
        }),
        outside: None,
        image_tags: mvp,
        representation: None,
        map: None,
        joint: match family {
            Family::Unimo3 | Family::Meter => None,
            Family::Unimo2 => Some(joint(
                size.text_layers,
                true,
                Some(QuantiserConfig {
                    codes,
                    tokens,
                    choice: Choice::TopK,
                    scale: 100.0,
                    scale_range: [1.0, 1e4],
                }),
            )),
            Family::Mvp => Some(joint(size.cross_layers, false, None)),
            Family::Mamo => Some(joint(size.cross_layers, true, None)),
        },
    }
}

/// Number of codes of UNIMO-2 and of codes per sample; a few for the sizes with a toy vocabulary.
pub fn dictionary(size: &Size) -> (usize, usize) {
    if size.vocabulary > 1000 {
        (2048, 100)
    } else {
        (64, 8)
    }
}

/// Number of positions of the text encoder: RoBERTa's, or a few for the sizes with a toy vocabulary.
pub fn max_positions(size: &Size) -> usize {
    if size.vocabulary > 1000 { 514 } else { 40 }
}
