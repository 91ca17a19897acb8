//! The smallest cross-modal encoders of two streams, of every kind. Tests of the crate and of its files share them, so that the types
//! come from the module around.

use super::{Activation, FusionConfig, GateKind, Levels, Link};

/// METER's, of three layers of width 8 without dropout.
pub fn meter(gate_beta: f64) -> FusionConfig {
    FusionConfig {
        width: 8,
        layers: 3,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        in_layer: true,
        levels: Levels::None,
        uni_levels: 0,
        gate: GateKind::Cls,
        gate_beta,
        link: Link::None,
        pictures: 1,
        shared_transforms: true,
        image_stream: true,
        shared: false,
    }
}

/// METER's, UNIMO-3's with every gate and level, with and without in-layer attention, and every link.
pub fn every_kind(gate_beta: f64) -> Vec<FusionConfig> {
    let mut all = vec![meter(gate_beta)];
    for gate in [GateKind::Static, GateKind::Cls, GateKind::Token] {
        for (levels, uni_levels) in [
            (Levels::CrossPrev, 0),
            (Levels::UniTopN, 2),
            (Levels::Both, 2),
        ] {
            for in_layer in [true, false] {
                all.push(FusionConfig {
                    levels,
                    uni_levels,
                    gate,
                    in_layer,
                    ..meter(gate_beta)
                });
            }
        }
    }
    for (link, uni_levels, shared_transforms) in [
        (Link::AddNorm, 3, true),
        (Link::ScaledAddNorm, 3, true),
        (Link::InterpolateNorm, 3, false),
        (Link::Managers, 2, true),
    ] {
        all.push(FusionConfig {
            link,
            uni_levels,
            shared_transforms,
            image_stream: true,
            shared: false,
            ..meter(gate_beta)
        });
    }
    all
}
