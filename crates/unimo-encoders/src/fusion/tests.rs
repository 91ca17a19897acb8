#[path = "../../tests/small/mod.rs"]
mod small;

use burn::tensor::{Device, Tolerance};
use unimo_core::parameters;

use super::*;

/// f32 rounding over three layers of width 8.
const TOLERANCE: f64 = 1e-5;

/// Gates as steep as in training.
const GATE_BETA: f64 = 1.0;

fn config() -> FusionConfig {
    small::meter(GATE_BETA)
}

fn states(device: &Device, length: usize) -> Vec<Tensor<3>> {
    let mut numbers = Init::new(device, length as u64);
    (0..3)
        .map(|_| numbers.uniform([2, length, 8], 1.0).val())
        .collect()
}

#[test]
fn an_untrained_unimo3_is_meter() {
    let device = Device::flex();
    let meter = config().init(&mut Init::new(&device, 1), 8, 8);
    let weights: std::collections::HashMap<_, _> = parameters::values(&meter).into_iter().collect();
    let (text, image) = (states(&device, 4), states(&device, 5));
    let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
    let expected = meter.forward(&text, &image, &mask, None, Keep::Nothing);
    for gate in [GateKind::Cls, GateKind::Token, GateKind::Static] {
        let unimo3 = FusionConfig {
            levels: Levels::CrossPrev,
            gate,
            ..config()
        };
        let unimo3 = unimo3.init(&mut Init::new(&device, 2), 8, 8);
        let unimo3 = parameters::replace(unimo3, |name, _| weights.get(name).cloned());
        let ours = unimo3.forward(&text, &image, &mask, None, Keep::Gates);
        ours.text()
            .to_data()
            .assert_eq(&expected.text().to_data(), true);
        ours.image()
            .to_data()
            .assert_eq(&expected.image().to_data(), true);
        assert_eq!(ours.gates.len(), 3);
    }
}

#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    let (text, image) = (states(&device, 3), states(&device, 5));
    let pad = |states_of: &[Tensor<3>]| -> Vec<_> {
        let padded = states_of.iter().zip(states(&device, 2));
        padded
            .map(|(t, padding)| Tensor::cat(vec![t.clone(), padding.mul_scalar(20)], 1))
            .collect()
    };
    let (padded, regions) = (pad(&text), pad(&image));
    let full = PaddingMask::from_lengths(&[3, 3], 3, &device);
    let partial = PaddingMask::from_lengths(&[3, 3], 5, &device);
    let of_regions = PaddingMask::from_lengths(&[5, 5], 7, &device);
    for config in small::every_kind(GATE_BETA) {
        config.validate(3).unwrap();
        let encoder = config.init(&mut Init::new(&device, 1), 8, 8);
        let short = encoder.forward(&text, &image, &full, None, Keep::Nothing);
        let long = [
            encoder.forward(&padded, &image, &partial, None, Keep::Nothing),
            encoder.forward(
                &padded,
                &regions,
                &partial,
                Some(&of_regions),
                Keep::Nothing,
            ),
        ];
        let tolerance = Tolerance::absolute(TOLERANCE);
        for long in long {
            long.image()
                .clone()
                .narrow(1, 0, 5)
                .into_data()
                .assert_approx_eq::<f32>(&short.image().to_data(), tolerance);
            long.text()
                .clone()
                .narrow(1, 0, 3)
                .into_data()
                .assert_approx_eq::<f32>(&short.text().to_data(), tolerance);
        }
    }
}

#[test]
fn gates_follow_the_level_names() {
    let device = Device::flex();
    let (text, image) = (states(&device, 3), states(&device, 5));
    let mask = PaddingMask::from_lengths(&[3, 3], 3, &device);
    for config in small::every_kind(GATE_BETA) {
        let encoder = config.init(&mut Init::new(&device, 1), 8, 8);
        let gates = encoder
            .forward(&text, &image, &mask, None, Keep::Gates)
            .gates;
        for (layer, gates) in gates.iter().enumerate() {
            let levels = config.level_names(layer).len();
            assert_eq!(gates.text.dims()[2], levels);
            assert_eq!(gates.image.dims()[2], levels);
        }
        assert_eq!(gates.is_empty(), config.levels == Levels::None);
    }
}

/// Keeping the attention changes no result, for every kind, and there is one entry per attention.
#[test]
fn keeping_attention_changes_nothing() {
    let device = Device::flex();
    let (text, image) = (states(&device, 4), states(&device, 5));
    let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
    for config in small::every_kind(GATE_BETA) {
        let encoder = config.init(&mut Init::new(&device, 1), 8, 8);
        let plain = encoder.forward(&text, &image, &mask, None, Keep::Nothing);
        let kept = encoder.forward(&text, &image, &mask, None, Keep::Attention);
        plain
            .text()
            .to_data()
            .assert_approx_eq::<f32>(&kept.text().to_data(), Tolerance::absolute(TOLERANCE));
        assert!(plain.attention.is_empty());
        assert_eq!(kept.attention.len(), config.layers);
        for (layer, streams) in kept.attention.iter().enumerate() {
            let levels = match config.gate {
                _ if config.levels == Levels::None => 0,
                GateKind::Token => config.level_names(layer).len(),
                GateKind::Static | GateKind::Cls => 1,
            };
            for (stream, shape) in [
                (&streams.text, [2, 2, 4, 5]),
                (&streams.image, [2, 2, 5, 4]),
            ] {
                assert_eq!(stream.in_layer.is_some(), config.in_layer);
                assert_eq!(stream.cross_layer.len(), levels);
                assert_eq!(stream.share.is_some(), config.in_layer && levels > 0);
                for weights in stream.in_layer.iter().chain(&stream.cross_layer) {
                    assert_eq!(weights.values().dims(), shape);
                }
            }
        }
    }
}

#[test]
fn contradictions_are_named() {
    let wrong = |change: fn(&mut FusionConfig)| {
        let mut config = config();
        change(&mut config);
        config.validate(3).unwrap_err().key
    };
    assert_eq!(wrong(|c| c.in_layer = false), "in_layer");
    assert_eq!(wrong(|c| c.uni_levels = 2), "uni_levels");
    assert_eq!(wrong(|c| c.link = Link::AddNorm), "uni_levels");
    assert_eq!(wrong(|c| c.shared_transforms = false), "shared_transforms");
    assert_eq!(
        wrong(|c| (c.link, c.levels, c.uni_levels) = (Link::AddNorm, Levels::CrossPrev, 3)),
        "link"
    );
}

/// Less is computed where less is read, and what is read has the same values and gradients, for every kind.
#[test]
fn what_is_read_is_as_if_all_were_read() {
    let device = Device::flex().autodiff();
    let mask = PaddingMask::from_lengths(&[4, 3], 4, &device);
    for config in small::every_kind(GATE_BETA) {
        let encoder = config.init(&mut Init::new(&device, 1), 8, 8);
        // The read states, and the gradients of the inputs by them.
        let read = |read: Read, wanted: Read| {
            let fixed = |state: Tensor<3>| state.detach().require_grad();
            let text: Vec<_> = states(&device, 4).into_iter().map(fixed).collect();
            let image: Vec<_> = states(&device, 5).into_iter().map(fixed).collect();
            let masks = (&mask, None);
            let fused = encoder.forward_reading((&text, &image), masks, read, Keep::Nothing);
            assert_eq!(fused.image.is_none(), read == Read::Text);
            let fused = match wanted {
                Read::ClassTokens => fused.class_tokens(),
                Read::Text | Read::Whole => fused,
            };
            let mut read = vec![fused.text().clone()];
            if wanted == Read::ClassTokens {
                read.extend(fused.image.clone());
            }
            // Later numbers weigh more, so that none stands for another.
            let weighted = read.iter().map(|states| {
                let count = states.dims().iter().product::<usize>() as i64;
                let weights = Tensor::<1, burn::tensor::Int>::arange(0..count, &device).float();
                (states.clone() * weights.reshape(states.dims())).sum()
            });
            let sum = weighted.reduce(|a, b| a + b).unwrap();
            let gradients = sum.backward();
            let inputs = text.iter().chain(&image);
            let of_inputs = inputs.filter_map(|input| input.grad(&gradients));
            let of_inputs: Vec<_> = of_inputs.map(Tensor::into_data).collect();
            let read = read.into_iter().map(|states| states.inner().into_data());
            (read.collect::<Vec<_>>(), of_inputs)
        };
        for wanted in [Read::ClassTokens, Read::Text] {
            let (all, gradients) = read(Read::Whole, wanted);
            let (ours, own) = read(wanted, wanted);
            assert_eq!((ours.len(), own.len()), (all.len(), gradients.len()));
            assert!(own.len() >= 2);
            let pairs = ours.iter().zip(&all).chain(own.iter().zip(&gradients));
            for (ours, all) in pairs {
                // The sums of the gradients are some hundred times as large as the states.
                let tolerance = Tolerance::relative(TOLERANCE).set_absolute(100.0 * TOLERANCE);
                ours.assert_approx_eq::<f32>(all, tolerance);
            }
        }
        // What is kept is of all positions.
        let (text, image) = (states(&device, 4), states(&device, 5));
        let masks = (&mask, None);
        let kept =
            encoder.forward_reading((&text, &image), masks, Read::ClassTokens, Keep::Attention);
        assert_eq!(kept.text().dims(), [2, 4, 8]);
    }
}
