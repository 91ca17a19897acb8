use std::ops::Range;

use burn::tensor::{Device, Tensor};
use unimo_core::init::Init;
use unimo_core::mask::PaddingMask;
use unimo_encoders::fusion::CrossModalEncoder;
use unimo_encoders::joint::View;

use super::*;
use crate::recipe::Overrides;

/// Two layers with in-layer attention alone, of weights that are large enough to tell their gradients apart.
fn recipe(more: &[&str]) -> Recipe {
    let small = [
        "model.fusion.levels=none",
        "model.fusion.layers=2",
        "model.fusion.width=32",
        "model.initializer_range=0.3",
        "model.text.width=32",
        "model.image.width=32",
        "model.image.image_size=32",
        "data.image_size=32",
    ];
    let set = small.iter().chain(more).map(|s| (*s).to_owned()).collect();
    let (recipe, _) = Recipe::load_quietly("unimo3-tiny", &Overrides { data: None, set }).unwrap();
    recipe
}

/// Two texts, the second one with padding, and two images.
fn features(model: &Model, device: &Device) -> (TextFeatures, ImageFeatures) {
    let ids = [0, 11, 12, 13, 2, 0, 21, 2, 1, 1];
    let text = &model.backbone.text;
    let texts = text.input(&ids, &LENGTHS, 5, device);
    let pixels = Init::new(device, 5).uniform([2, 3, 32, 32], 1.0).val();
    (
        model.backbone.encode_texts(&texts),
        model.backbone.encode_images(pixels),
    )
}

const LENGTHS: [usize; 2] = [5, 3];
/// 32 pixels in patches of 8.
const PATCHES: usize = 16;

/// Some layers of an encoder as an encoder.
fn part(encoder: &CrossModalEncoder, layers: Range<usize>) -> CrossModalEncoder {
    let mut part = encoder.clone();
    let image = part.image.as_mut().unwrap();
    for stream in [&mut part.text, image] {
        stream.layers = stream.layers[layers.clone()].to_vec();
    }
    part.config.layers = layers.len();
    part
}

/// The matching scores where the text stream of the first layer reads the images with these weights.
fn scores(
    model: &Model,
    (texts, images): (&TextFeatures, &ImageFeatures),
    weights: &Tensor<4>,
) -> Vec<f32> {
    let encoder = model.backbone.fusion.as_ref().unwrap();
    let (text, image) = (&texts.states[0], &images.states[0]);
    let mask: &PaddingMask = &texts.mask;
    let keep = Keep::Nothing;
    let first = part(encoder, 0..1).forward(&texts.states, &images.states, mask, None, keep);

    let layer = &encoder.text.layers[0];
    let attended = layer
        .self_attention
        .forward(text.clone(), text.clone(), Some(mask));
    let a = layer.self_norm.forward(text.clone() + attended);
    let attention = layer.cross_attention.as_ref().unwrap();
    let [rows, heads, length, positions] = weights.dims();
    let width = encoder.config.width;
    let values = attention.value.forward(image.clone());
    let values = values.reshape([rows, positions, heads, width / heads]);
    let read = weights.clone().matmul(values.swap_dims(1, 2));
    let read = read.swap_dims(1, 2).reshape([rows, length, width]);
    let crossed = attention.output.forward(read);
    let t = layer.cross_norm.forward(a + crossed);
    let fed = layer.feed_forward.forward(t.clone());
    let text = layer.feed_forward_norm.forward(t + fed);

    let images = [first.image().clone()];
    let fused = part(encoder, 1..2).forward(&[text], &images, mask, None, keep);
    let scores = model.objectives.match_scores(&model.backbone, &fused);
    host(scores.unwrap())
}

/// Each gradient is the difference quotient of the score by that weight, with all that follows it computed again: the rest of the layer,
/// the next layer of both streams, the pooler and the head. Padding has none.
#[test]
fn gradients_are_difference_quotients() {
    // f32 scores of about 1 are rounded by 1e-7 of themselves, which a step of 0.02 turns into 1e-5; the score bends within the step.
    const STEP: f32 = 0.02;
    const TOLERANCE: f32 = 5e-3;
    let device = Device::flex();
    let model = Model::new(&recipe(&[]), &device);
    let (texts, images) = features(&model, &device);
    let glass = Glass::new(&model);
    let fused = glass.fuse(texts.clone(), images.clone());
    let score = glass.objectives.match_scores(&glass.backbone, &fused);
    let score = score.unwrap();
    let kept = fused.attention[0].text.in_layer.as_ref().unwrap();
    let values = kept.values().without_autodiff();
    let plain = scores(&model, (&texts, &images), &values);
    for (a, b) in plain.iter().zip(host(score.clone())) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
    }
    let gradient = kept.gradient(&score.sum().backward()).unwrap();
    let gradient = gradient.without_autodiff();
    let largest = host(gradient.clone().abs().max())[0];
    assert!(largest > 1e-2, "{largest}");

    let [rows, heads, length, positions] = values.dims();
    let numbers = host(gradient);
    for (row, real) in LENGTHS.into_iter().enumerate() {
        for (head, word, position) in [(0, 0, 3), (1, 1, 0), (2, 2, 9), (3, 4, 16), (1, 3, 7)] {
            let at = ((row * heads + head) * length + word) * positions + position;
            let moved = |by: f32| {
                let mut all = host(values.clone());
                all[at] += by;
                let data = TensorData::new(all, [rows, heads, length, positions]);
                let moved = Tensor::from_data(data, &device);
                scores(&model, (&texts, &images), &moved)[row]
            };
            let quotient = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let error = (quotient - numbers[at]).abs() / largest;
            assert!(
                error < TOLERANCE,
                "{row} {head} {word} {position}: {quotient} {}",
                numbers[at]
            );
            let padding = word >= real;
            assert_eq!(padding, numbers[at] == 0.0, "{row} {word}");
        }
    }
}

/// `mean over words and heads of A max(0, dS/dA)`, summed over layers and kinds of attention, computed here number by number.
#[test]
fn maps_are_the_mean_over_words_and_heads() {
    const TOLERANCE: f32 = 1e-5;
    let device = Device::flex();
    let recipe = recipe(&["model.fusion.levels=cross_prev", "model.fusion.gate=token"]);
    let model = Model::new(&recipe, &device);
    // Without a share of the levels they would have no gradient: it starts at 0.
    let model = opened(model);
    let (texts, images) = features(&model, &device);
    let glass = Glass::new(&model);
    let fused = glass.fuse(texts, images);
    let score = glass.objectives.match_scores(&glass.backbone, &fused);
    let gradients = score.unwrap().sum().backward();
    let found = maps(&fused.attention, &gradients, &LENGTHS, PATCHES);
    let mut expected = vec![vec![0.0f32; PATCHES]; 2];
    let mut attentions = 0;
    for layer in &fused.attention {
        let levels = layer.text.cross_layer.iter();
        for weights in layer.text.in_layer.iter().chain(levels) {
            attentions += 1;
            let [_, heads, length, positions] = weights.values().dims();
            let values = host(weights.values());
            let Some(gradient) = weights.gradient(&gradients) else {
                continue;
            };
            let gradient = host(gradient);
            for (at, (value, gradient)) in values.iter().zip(&gradient).enumerate() {
                let (rest, position) = (at / positions, at % positions);
                let (rest, word) = (rest / length, rest % length);
                let row = rest / heads;
                let patch = position.checked_sub(positions - PATCHES);
                if let Some(patch) = patch.filter(|_| word < LENGTHS[row]) {
                    let share = (heads * LENGTHS[row]) as f32;
                    expected[row][patch] += value * gradient.max(0.0) / share;
                }
            }
        }
    }
    // In the first layer one level, in the second two, each beside the attention within the layer.
    assert_eq!(attentions, 5);
    for (found, expected) in found.concat().iter().zip(expected.concat()) {
        assert!((found - expected).abs() < TOLERANCE, "{found} {expected}");
    }
    assert!(found.concat().iter().any(|value| *value > TOLERANCE));
}

/// The model with a share of the cross-layer part in each layer.
fn opened(mut model: Model) -> Model {
    let fusion = model.backbone.fusion.as_mut().unwrap();
    let image = fusion.image.as_mut().unwrap();
    for stream in [&mut fusion.text, image] {
        for layer in &mut stream.layers {
            let merge = layer.merge.take().unwrap();
            layer.merge = Some(merge.map(|merge| merge + 0.5));
        }
    }
    model
}

/// A model that is trained with dropout, or with adapters that have some, is looked into without it, so that a map is the same each time and of the score that is given.
#[test]
fn dropout_is_left_out() {
    let device = Device::flex();
    let lora = "train.lora={ layers = [\"backbone\"], rank = 2, alpha = 4.0, dropout = 0.5 }";
    let recipe = recipe(&["model.fusion.dropout=0.5", "model.text.dropout=0.5", lora]);
    let tracked = device.clone().autodiff();
    let model = Model::new(&recipe, &tracked)
        .adapted(&recipe, &tracked)
        .valid();
    let (texts, images) = features(&model, &device);
    let plain = model.backbone.fuse(&texts, &images, Keep::Nothing);
    let plain = model.objectives.match_scores(&model.backbone, &plain);
    let plain = host(plain.unwrap());
    let glass = Glass::without_dropout(&model, &recipe, &device);
    let fused = glass.fuse(texts, images);
    let score = glass.objectives.match_scores(&glass.backbone, &fused);
    for (a, b) in host(score.unwrap()).iter().zip(plain) {
        assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

/// One stream has no attention of one stream to the other, so nothing is claimed of it.
#[test]
fn one_stream_keeps_no_attention() {
    let device = Device::flex();
    let (recipe, _) = Recipe::load_quietly("unimo2-tiny", &Overrides::default()).unwrap();
    let model = Model::new(&recipe, &device);
    let ids = [0, 11, 2];
    let texts = model.backbone.text.input(&ids, &[3], 3, &device);
    let texts = model.backbone.encode_texts(&texts);
    let pixels = Init::new(&device, 5).uniform([1, 3, 64, 64], 1.0).val();
    let images = model.backbone.encode_images(pixels);
    let fused = Glass::new(&model).fuse(texts, images);
    assert!(fused.attention.is_empty() && View::default().layers.is_none());
}
