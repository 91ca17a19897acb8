use burn::tensor::{Device, Tolerance};

use super::*;
use crate::blocks::BlockConfig;
use crate::init::Init;
use crate::layers::Activation;
use crate::mask::PairMask;

/// f32 rounding: sums of up to 16 products of numbers around 1.
const TOLERANCE: f64 = 2e-6;
const WIDTH: usize = 8;
const ALL: [Spaces; 3] = [Spaces::Modality, Spaces::Pair, Spaces::Query];

fn block(init: &mut Init) -> PostNormBlock {
    let config = BlockConfig {
        width: WIDTH,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
    };
    PostNormBlock::new(init, &config)
}

fn init(device: &Device, seed: u64) -> Init {
    Init::new(device, seed).with_deviation(0.4)
}

/// Further matrices that are not the block's.
fn other(split: Split, device: &Device, seed: u64) -> Split {
    let mut numbers = init(device, seed);
    parameters::replace(split, |_, shape| {
        let count = shape.iter().product();
        let drawn = numbers.normal([count]).val().into_data();
        Some(burn::tensor::TensorData::new(
            drawn.iter::<f32>().collect::<Vec<f32>>(),
            shape.to_vec(),
        ))
    })
}

fn random(device: &Device, seed: u64, length: usize) -> Tensor<3> {
    Init::new(device, seed)
        .uniform([2, length, WIDTH], 1.0)
        .val()
}

fn close(a: Tensor<3>, b: Tensor<3>) {
    let tolerance = Tolerance::absolute(TOLERANCE);
    a.into_data()
        .assert_approx_eq::<f32>(&b.into_data(), tolerance);
}

/// Text sees what stands before it; the parts before it see no text.
fn left_to_right(spans: &[usize], device: &Device) -> PairMask {
    let length: usize = spans.iter().sum();
    let text = length - spans[spans.len() - 1];
    PairMask::new([length; 2], device, |query, key| key > query && key >= text)
}

#[test]
fn equal_matrices_are_plain_attention() {
    let device = Device::flex();
    let mut numbers = init(&device, 1);
    let block = block(&mut numbers);
    for spans in [
        vec![3, 4],
        vec![0, 4],
        vec![3, 0],
        vec![3, 2, 4],
        vec![3, 0, 4],
    ] {
        let length = spans.iter().sum();
        let x = random(&device, 2, length);
        let keys = PaddingMask::from_lengths(&[length, length - 1], length, &device);
        let causal = left_to_right(&spans, &device);
        for pairs in [None, Some(&causal)] {
            let mask = Hidden {
                keys: Some(&keys),
                pairs,
            };
            let plain = block.forward(x.clone(), mask);
            for separate in [false, true] {
                let of = |spaces| Split::of(&block, spaces, spans.len(), separate);
                let same = of(Spaces::Modality);
                let read = same.forward(&block, x.clone(), &spans, mask);
                read.into_data().assert_eq(&plain.to_data(), true);
                assert_eq!(same.differs(&block), None);
                let same = of(Spaces::Pair);
                close(same.forward(&block, x.clone(), &spans, mask), plain.clone());
                assert_eq!(same.differs(&block), None);
            }
        }
    }
}

/// A softmax of its own for each part: text alone is plain attention, which text beside another part is not.
#[test]
fn a_part_alone_is_read_by_plain_attention() {
    let device = Device::flex();
    let block = block(&mut init(&device, 1));
    let split = Split::of(&block, Spaces::Query, 2, false);
    let x = random(&device, 2, 4);
    let keys = PaddingMask::from_lengths(&[4, 3], 4, &device);
    let plain = block.forward(x.clone(), &keys);
    close(
        split.forward(&block, x.clone(), &[0, 4], &keys),
        plain.clone(),
    );
    let both = split.forward(&block, x, &[2, 2], &keys);
    let apart = (both - plain).abs().max().into_scalar::<f32>();
    assert!(apart > 0.01, "{apart}");
}

#[test]
fn each_matrix_is_used_and_told_apart() {
    let device = Device::flex();
    let block = block(&mut init(&device, 1));
    let spans = [3, 2, 4];
    let x = random(&device, 2, 9);
    let keys = PaddingMask::from_lengths(&[9, 8], 9, &device);
    for spaces in ALL {
        let same = Split::of(&block, spaces, 3, true);
        let before = same.forward(&block, x.clone(), &spans, &keys);
        for info in parameters::list(&same) {
            // A bias of keys adds the same to all scores of a softmax if they all have it.
            if info.name.ends_with("key.bias") && spaces == Spaces::Query {
                continue;
            }
            let changed = parameters::replace(same.clone(), |name, shape| {
                let count: usize = shape.iter().product();
                // Not all the same, which a layer norm does not see.
                let values: Vec<f32> = (0..count).map(|at| (0.7 * at as f32).sin()).collect();
                let data = || burn::tensor::TensorData::new(values, shape.to_vec());
                (name == info.name).then(data)
            });
            assert_eq!(changed.differs(&block).as_deref(), Some(info.name.as_str()));
            let after = changed.forward(&block, x.clone(), &spans, &keys);
            let apart = (after - before.clone()).abs().max().into_scalar::<f32>();
            assert!(apart > 1e-4, "{spaces:?} {}: {apart}", info.name);
        }
    }
}

#[test]
fn nobody_sees_what_follows() {
    let device = Device::flex();
    let block = block(&mut init(&device, 1));
    for (spaces, spans) in ALL
        .into_iter()
        .flat_map(|spaces| [(spaces, vec![3, 4]), (spaces, vec![3, 2, 4])])
    {
        let length: usize = spans.iter().sum();
        let split = other(Split::of(&block, spaces, spans.len(), true), &device, 3);
        let x = random(&device, 2, length);
        let pairs = left_to_right(&spans, &device);
        let keys = PaddingMask::none(2, length, &device);
        let mask = Hidden {
            keys: Some(&keys),
            pairs: Some(&pairs),
        };
        let before = split.forward(&block, x.clone(), &spans, mask);
        let at = length - 2;
        let changed = Tensor::cat(vec![x.narrow(1, 0, at), random(&device, 9, 2)], 1);
        let after = split.forward(&block, changed, &spans, mask);
        let first = |x: Tensor<3>| x.narrow(1, 0, at);
        first(after.clone())
            .into_data()
            .assert_eq(&first(before.clone()).into_data(), true);
        let apart = (after - before).abs().max().into_scalar::<f32>();
        assert!(apart > 0.01, "{spaces:?}");
    }
}

#[test]
fn order_within_a_part_does_not_matter() {
    let device = Device::flex();
    let block = block(&mut init(&device, 1));
    for spaces in ALL {
        let split = other(Split::of(&block, spaces, 2, false), &device, 3);
        let x = random(&device, 2, 7);
        let order = Tensor::<1, Int>::from_data([2, 0, 1, 3, 4, 5, 6], &device);
        let keys = PaddingMask::none(2, 7, &device);
        let read = split.forward(&block, x.clone(), &[3, 4], &keys);
        let moved = split.forward(&block, x.select(1, order.clone()), &[3, 4], &keys);
        close(moved, read.select(1, order));
    }
}

#[test]
fn word_by_word_is_as_at_once() {
    let device = Device::flex();
    let block = block(&mut init(&device, 1));
    for (spaces, spans) in ALL.into_iter().flat_map(|spaces| {
        [
            (spaces, vec![3, 4]),
            (spaces, vec![3, 2, 4]),
            (spaces, vec![3, 0, 4]),
        ]
    }) {
        let length: usize = spans.iter().sum();
        let seen = length - 4;
        let split = other(Split::of(&block, spaces, spans.len(), true), &device, 3);
        let x = random(&device, 2, length);
        let lengths = PaddingMask::from_lengths(&[seen, seen - 1], seen, &device);
        let shown = PaddingMask::none(2, 4, &device);
        let keys = PaddingMask::join(vec![lengths.clone(), shown]);
        let pairs = left_to_right(&spans, &device);
        let mask = Hidden {
            keys: Some(&keys),
            pairs: Some(&pairs),
        };
        let whole = split.forward(&block, x.clone(), &spans, mask);
        let mut alone = spans.clone();
        alone[spans.len() - 1] = 0;
        let before = x.clone().narrow(1, 0, seen);
        let (first, mut memory) = split.begin_reading(&block, before, &alone, &lengths);
        close(first, whole.clone().narrow(1, 0, seen));
        for at in seen..length {
            let word = x.clone().narrow(1, at, 1);
            let keys = keys.narrow(0, at + 1);
            let read = split.read_on(&block, word, &mut memory, &keys);
            close(read, whole.clone().narrow(1, at, 1));
        }
    }
}

/// Blocks that run again for the backward pass give the same numbers, and gradients for both sets of matrices.
#[test]
fn runs_again_with_the_same_gradients() {
    let gradients = |device: Device| {
        let block = block(&mut init(&device, 1));
        let split = other(Split::of(&block, Spaces::Modality, 2, true), &device, 3);
        let x = random(&device, 2, 7).require_grad();
        let keys = PaddingMask::from_lengths(&[7, 6], 7, &device);
        let read = split.forward(&block, x.clone(), &[3, 4], &keys);
        let gradients = (read * random(&device, 4, 7)).sum().backward();
        let whole = Whole { block, split };
        let of = burn::optim::GradientsParams::from_grads(gradients, &whole);
        parameters::gradients(&whole, &of)
    };
    let plain = gradients(Device::flex().autodiff());
    let again = gradients(Device::flex().autodiff().gradient_checkpointing());
    assert_eq!(plain.len(), again.len());
    for ((name, plain), (_, again)) in plain.into_iter().zip(again) {
        assert_eq!(plain, again, "{name}");
    }
}
