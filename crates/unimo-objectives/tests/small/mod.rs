//! The smallest encoders that objectives can be computed on: width 8, one block each, no dropout. A test changes what it is about.

#![allow(dead_code, reason = "each test takes some of them")]

use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::JointConfig;
use unimo_encoders::region::{Place, RegionEncoderConfig, RegionForm};
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};

/// Width of every encoder.
pub const WIDTH: usize = 8;

/// A text encoder of 20 words and up to 8 positions.
pub fn text() -> TextEncoderConfig {
    TextEncoderConfig {
        tower: TextTower::Bert,
        vocab_size: 20,
        width: WIDTH,
        layers: 1,
        heads: 2,
        feed_forward: 16,
        max_positions: 10,
        positions: Positions::AfterPad,
        token_types: 1,
        pad_id: 1,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        outside: None,
    }
}

/// CLIP's image encoder for 2 x 2 patches.
pub fn image() -> ImageEncoderConfig {
    ImageEncoderConfig {
        image_size: 8,
        patch_size: 4,
        width: WIDTH,
        layers: 1,
        heads: 2,
        feed_forward: 16,
        activation: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        distillation_token: false,
        qkv_bias: true,
        stem: None,
        mask_embedding: false,
        dropout: 0.0,
        drop_path: 0.0,
    }
}

/// An encoder of regions of so many numbers.
pub fn regions(features: usize) -> RegionEncoderConfig {
    RegionEncoderConfig {
        features,
        width: WIDTH,
        layers: 1,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        form: RegionForm::Sum,
        place: Place::Six,
        unit_length: false,
        mask_embedding: false,
    }
}

/// UNIMO-3's two streams.
pub fn fusion() -> FusionConfig {
    FusionConfig {
        width: WIDTH,
        layers: 2,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        in_layer: true,
        levels: Levels::CrossPrev,
        uni_levels: 0,
        gate: GateKind::Cls,
        gate_beta: 1.0,
        link: Link::None,
        pictures: 1,
        shared_transforms: true,
        image_stream: true,
        shared: false,
    }
}

/// One stream without a dictionary.
pub fn joint() -> JointConfig {
    JointConfig {
        width: WIDTH,
        layers: 2,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        image_class: true,
        grounding: None,
        concepts: false,
        split: None,
        interleaved: None,
    }
}

/// Text and image encoder without a cross-modal encoder.
pub fn towers() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.2,
        text: text(),
        image: Some(image()),
        regions: None,
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        fusion: None,
        joint: None,
    }
}

/// The same with two streams over them.
pub fn two_streams() -> BackboneConfig {
    BackboneConfig {
        fusion: Some(fusion()),
        ..towers()
    }
}

/// The same with one stream over them.
pub fn one_stream() -> BackboneConfig {
    BackboneConfig {
        joint: Some(joint()),
        ..towers()
    }
}
