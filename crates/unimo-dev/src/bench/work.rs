//! The work of a step at a size: parameters and multiply-adds.

use unimo_batch::Images;
use unimo_train::sizes::{Family, Size, backbone, dictionary, max_positions};

use super::{HIDDEN, concepts};

/// Number of parameters of UNIMO-3 or METER at a size, including the heads.
pub fn parameter_count(size: &Size, family: Family) -> u64 {
    let n = |value: usize| value as u64;
    let (d, ffn, vocabulary) = (n(size.width), n(size.feed_forward), n(size.vocabulary));
    let linear = |from: u64, to: u64| from * to + to;
    let norm = 2 * d;
    let attention = 4 * linear(d, d);
    let block = attention + linear(d, ffn) + linear(ffn, d) + 2 * norm;

    let positions = n(max_positions(size));
    let text = (vocabulary + positions + 1) * d + norm + n(size.text_layers) * block;
    let patch = n(Images::CHANNELS * size.patch_size * size.patch_size);
    let grid = n(size.image_size / size.patch_size);
    let image = (patch + 1 + grid * grid + 1) * d + 2 * norm + n(size.image_layers) * block;
    let half_layer = |levels: u64| {
        let gates = 2 * d * d + levels + 1;
        let across = attention + levels * norm + gates;
        let in_layer = block + attention + norm;
        match family {
            Family::Unimo3 => in_layer + across,
            _ => in_layer,
        }
    };
    let stream: u64 = (1..=n(size.cross_layers)).map(half_layer).sum();
    let fusion = 2 * linear(d, d) + 2 * d + 2 * (stream + linear(d, d));
    let mlm = linear(d, d) + norm + linear(d, vocabulary);
    let itm = linear(2 * d, 2);
    text + image + fusion + mlm + itm
}

/// Twice the multiply-adds of all matrix products of a step; the backward pass counts as twice the forward pass. For UNIMO-2 and
/// MVP the small products of contrast and grounding are not counted.
pub fn flops(size: &Size, family: Family, batch: usize, train: bool) -> u64 {
    let n = |value: usize| value as u64;
    let (d, ffn, vocabulary) = (n(size.width), n(size.feed_forward), n(size.vocabulary));
    let text = n(size.text_length);
    let grid = n(size.image_size / size.patch_size);
    let image = grid * grid + 1;
    let patch = n(Images::CHANNELS * size.patch_size * size.patch_size);
    let block = |length: u64| 2 * length * (4 * d * d + 2 * d * ffn) + 4 * length * length * d;
    // In-layer and cross-layer attention cost the same: levels are mixed before the attention.
    let attentions = match family {
        Family::Unimo3 => 2,
        _ => 1,
    };
    let half_layer = |own: u64, other: u64| {
        block(own) + attentions * (2 * (2 * own + 2 * other) * d * d + 4 * own * other * d)
    };
    if matches!(family, Family::Unimo2 | Family::Mvp | Family::Mamo) {
        let config = backbone(size, family);
        let joint_layers = n(config.joint.as_ref().map_or(0, |joint| joint.layers));
        let (codes, tokens) = dictionary(size);
        let (codes, tokens) = (n(codes), n(tokens));
        let (_, tags) = concepts(size);
        // Number of fused pairs, and the length of their sequence.
        let (pairs, length, tags) = match family {
            // Masked pairs, and pairs of which half are wrong.
            Family::Unimo2 => (2, image + tokens + text, 0),
            // Masked pairs, true pairs, and two kinds of wrong pairs.
            Family::Mamo => (4, image + text, 0),
            // Masked pairs, true pairs, and two kinds of wrong pairs.
            _ => (4, image - 1 + text, n(tags) + 2),
        };
        let choice = match family {
            Family::Unimo2 => 2 * (image + text - 2) * (codes + 2 * tokens) * d,
            _ => 0,
        };
        // MAMO reads images as they are and with patches hidden.
        let passes = if family == Family::Mamo { 2 } else { 1 };
        let images =
            passes * (n(config.image_layers()) * block(image + tags) + 2 * image * patch * d);
        let texts = 2 * n(config.text.layers) * block(text);
        let hidden = (HIDDEN * size.text_length as f64).round() as u64;
        let fusion = pairs * (joint_layers * block(length) + choice);
        let forward = images + texts + fusion + 2 * hidden * d * (d + vocabulary);
        return n(batch) * forward * if train { 3 } else { 1 };
    }
    let images = n(size.image_layers) * block(image) + 2 * image * patch * d + 2 * image * d * d;
    let texts = 2 * (n(size.text_layers) * block(text) + 2 * text * d * d);
    let fusion = 2 * n(size.cross_layers) * (half_layer(text, image) + half_layer(image, text));
    let mlm = 2 * text * d * (d + vocabulary);
    let forward = images + texts + fusion + mlm;
    n(batch) * forward * if train { 3 } else { 1 }
}

/// The same of MAMO's teacher, which reads each pair once and is not trained.
pub fn teachers_flops(size: &Size, batch: usize) -> u64 {
    let n = |value: usize| value as u64;
    let (d, ffn, text) = (n(size.width), n(size.feed_forward), n(size.text_length));
    let grid = n(size.image_size / size.patch_size);
    let image = grid * grid + 1;
    let patch = n(Images::CHANNELS * size.patch_size * size.patch_size);
    let block = |length: u64| 2 * length * (4 * d * d + 2 * d * ffn) + 4 * length * length * d;
    let images = n(size.image_layers) * block(image) + 2 * image * patch * d;
    let texts = n(size.text_layers) * block(text);
    n(batch) * (images + texts + n(size.cross_layers) * block(image + text))
}
