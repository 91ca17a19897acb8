//! Drop-path, whose draws come from the device's generator. A process has one, so these tests run one at a time.
#![cfg(feature = "flex")]

use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unimo_core::blocks::{BlockConfig, PostNormBlock, PreNormBlock};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, DropPath, Dropout};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whole rows are left out, at the rate asked for, and the others are scaled; the gradient is that of what was kept. The seed decides.
#[test]
fn drop_path_leaves_out_whole_rows() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    const ROWS: usize = 2000;
    const RATE: f64 = 0.3;
    /// A fair draw is further away with a probability below 1e-6.
    const STANDARD_DEVIATIONS: f64 = 5.0;
    let device = Device::flex().autodiff();
    let layer = DropPath::new(RATE);
    let run = |seed: u64| {
        device.seed(seed);
        let x = Tensor::<3>::ones([ROWS, 2, 3], &device).require_grad();
        let out = layer.forward(x.clone());
        let gradients = out.clone().sum().backward();
        let gradient = x.grad(&gradients).unwrap();
        let values = |x: Tensor<3>| -> Vec<f32> { x.into_data().iter::<f32>().collect() };
        (values(out.without_autodiff()), values(gradient))
    };
    let (out, gradient) = run(7);
    assert_eq!(out, gradient);
    let mut kept = 0.0;
    for row in out.chunks(6) {
        assert!(row.iter().all(|x| x == &row[0]));
        assert!(
            row[0] == 0.0 || row[0] == (1.0 / (1.0 - RATE)) as f32,
            "{}",
            row[0]
        );
        kept += f64::from(u8::from(row[0] > 0.0));
    }
    let deviation = (ROWS as f64 * RATE * (1.0 - RATE)).sqrt();
    let distance = (kept - ROWS as f64 * (1.0 - RATE)) / deviation;
    assert!(distance.abs() < STANDARD_DEVIATIONS, "{kept} of {ROWS}");
    assert_eq!(run(7).0, out);
    assert_ne!(run(8).0, out);
}

/// Without autodiff nothing is left out, and a rate of 0 draws nothing.
#[test]
fn drop_path_is_off_in_evaluation() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let x = Tensor::<2>::ones([64, 2], &Device::flex());
    let out = DropPath::new(0.9).forward(x.clone());
    out.into_data().assert_eq(&x.into_data(), true);
    let device = Device::flex().autodiff();
    let draw = |with: bool| {
        device.seed(3);
        if with {
            DropPath::new(0.0).forward(Tensor::<2>::ones([8, 2], &device));
        }
        let next = Dropout::new(0.5).forward(Tensor::<2>::ones([64, 2], &device));
        next.without_autodiff().into_data()
    };
    draw(true).assert_eq(&draw(false), true);
}

/// f32 rounding over one block of width 8.
const TOLERANCE: f32 = 1e-5;
const ROWS: usize = 24;

/// Each row of a block with drop-path is the row without some of its two branches, and with the others twice as large. All four cases
/// come up.
fn assert_rows_are_of_four_kinds(found: Tensor<3>, of: impl Fn([f64; 2]) -> Tensor<3>) {
    let rows = |x: Tensor<3>| -> Vec<Vec<f32>> {
        let values: Vec<f32> = x.without_autodiff().into_data().iter::<f32>().collect();
        values
            .chunks(values.len() / ROWS)
            .map(<[f32]>::to_vec)
            .collect()
    };
    let kinds = [[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]];
    let expected: Vec<_> = kinds.iter().map(|kind| rows(of(*kind))).collect();
    let mut seen = [0; 4];
    for (at, row) in rows(found).iter().enumerate() {
        let close = |other: &Vec<f32>| {
            row.iter()
                .zip(other)
                .all(|(a, b)| (a - b).abs() < TOLERANCE)
        };
        let kind: Vec<usize> = (0..4).filter(|kind| close(&expected[*kind][at])).collect();
        assert_eq!(kind.len(), 1, "row {at}");
        seen[kind[0]] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn drop_path_leaves_out_branches_of_rows() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex().autodiff();
    let config = BlockConfig {
        width: 8,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.5,
    };
    let mut init = Init::new(&device, 1).with_deviation(0.5);
    let x = init.uniform([ROWS, 3, 8], 1.0).val();
    let plain = x.clone().without_autodiff();

    device.seed(4);
    let block = PreNormBlock::new(&mut init, &config);
    let found = block.forward(x.clone(), None);
    let own = block.valid();
    assert_rows_are_of_four_kinds(found, |[attention, feed_forward]| {
        let normed = own.attention_norm.forward(plain.clone());
        let read = own.attention.forward(normed.clone(), normed, None);
        let x = plain.clone() + read.mul_scalar(attention);
        let fed = own
            .feed_forward
            .forward(own.feed_forward_norm.forward(x.clone()));
        x + fed.mul_scalar(feed_forward)
    });

    device.seed(5);
    let block = PostNormBlock::new(&mut init, &config);
    let found = block.forward(x, None);
    let own = block.valid();
    assert_rows_are_of_four_kinds(found, |[attention, feed_forward]| {
        let read = own.attention.forward(plain.clone(), plain.clone(), None);
        let x = own
            .attention_norm
            .forward(plain.clone() + read.mul_scalar(attention));
        let fed = own.feed_forward.forward(x.clone());
        own.feed_forward_norm
            .forward(x + fed.mul_scalar(feed_forward))
    });

    assert_eq!(
        [0, 2, 4].map(|layer| config.at(layer, 5).drop_path),
        [0.0, 0.25, 0.5]
    );
}
