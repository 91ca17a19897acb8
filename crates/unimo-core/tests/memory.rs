//! A guard against kernels that become larger again: what the largest amount of memory during an operation is, against that of plain
//! operations that give the same, in one process. Bytes are counted, not seconds, so that a busy machine changes nothing.
#![cfg(feature = "flex")]

use std::sync::{Mutex, PoisonError};

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Int, Tensor};
use peak_alloc::PeakAlloc;
use unimo_core::blocks::{BlockConfig, PreNormBlock};
use unimo_core::init::Init;
use unimo_core::kernels::{self, AdamWStep};
use unimo_core::layers::Activation;
use unimo_core::mask::PaddingMask;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The allocator counts for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The bytes that an operation adds at its largest to those that are there before. It runs once before, so that what a process makes only once is
/// there.
fn growth(run: impl Fn()) -> f64 {
    run();
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    run();
    ALLOCATOR.peak_usage().saturating_sub(before) as f64
}

/// Numbers from -1 to 1, the same in every run.
fn numbers<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let at = Tensor::<1, Int>::arange(0..count as i64, device).float();
    at.sin().reshape(shape)
}

/// Plain attention holds scores and weights of all queries, forward and backward: this kernel a few rows of them.
#[test]
fn attention_takes_a_quarter_of_plain_operations() {
    /// Of queries, keys, values and their gradients both hold the same.
    const MOST: f64 = 0.25;
    const SHAPE: [usize; 4] = [2, 4, 768, 32];
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex().autodiff();
    let inputs = || [(); 3].map(|()| numbers(SHAPE, &device).require_grad());
    let own = growth(|| {
        let [q, k, v] = inputs();
        let out = kernels::attention([&q, &k, &v], 0.2, (None, None), 0.0);
        let _ = out.unwrap().sum().backward();
    });
    let plain = growth(|| {
        let [q, k, v] = inputs();
        let weights = softmax(q.matmul(k.swap_dims(2, 3)) * 0.2, 3);
        let _ = weights.matmul(v).sum().backward();
    });
    assert!(own < MOST * plain, "{own} bytes against {plain}");
}

/// A block that is computed again keeps its input alone: of eight blocks the activations of one are there at a time.
#[test]
fn blocks_that_are_computed_again_take_a_third() {
    /// Eight inputs and one block's activations, of some fourteen times the size of an input.
    const MOST: f64 = 0.33;
    const BLOCKS: usize = 8;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let config = BlockConfig {
        width: 64,
        heads: 4,
        feed_forward: 256,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.1,
        drop_path: 0.0,
    };
    let of = |device: Device| {
        let mut init = Init::new(&device, 0);
        let blocks: Vec<PreNormBlock> = (0..BLOCKS)
            .map(|_| PreNormBlock::new(&mut init, &config))
            .collect();
        let mask = PaddingMask::from_lengths(&[128; 4], 128, &device);
        growth(|| {
            let mut x = numbers([4, 128, 64], &device).require_grad();
            for block in &blocks {
                x = block.forward(x, &mask);
            }
            let _ = x.sum().backward();
        })
    };
    let kept = of(Device::flex().autodiff());
    let again = of(Device::flex().autodiff().gradient_checkpointing());
    assert!(again < MOST * kept, "{again} bytes against {kept}");
}

/// Of the logits of a vocabulary the kernel keeps one number for each row; its gradient is one table of their size.
#[test]
fn cross_entropy_takes_a_table_less() {
    const ROWS: usize = 256;
    const WORDS: usize = 8192;
    /// The logits and their gradient, and a little.
    const TABLES: f64 = 2.2;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex().autodiff();
    let targets = || Tensor::<1, Int>::zeros([ROWS], &device);
    let table = (ROWS * WORDS * size_of::<f32>()) as f64;
    let own = growth(|| {
        let logits = numbers([ROWS, WORDS], &device).require_grad();
        let _ = kernels::cross_entropy(logits, targets()).mean().backward();
    });
    let plain = growth(|| {
        let logits = numbers([ROWS, WORDS], &device).require_grad();
        let targets = targets().reshape([ROWS, 1]);
        let _ = log_softmax(logits, 1).gather(1, targets).mean().backward();
    });
    assert!(own < TABLES * table, "{} tables", own / table);
    assert!(own < plain - 0.9 * table, "{own} bytes against {plain}");
}

/// Parameters and moments stay in their buffers.
#[test]
fn an_update_needs_no_memory() {
    const NUMBERS: usize = 1 << 20;
    /// Of the parameters' size.
    const MOST: f64 = 0.01;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::flex();
    let step = AdamWStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 3,
        grad_scale: 1.0,
    };
    let of = || numbers([NUMBERS], &device);
    let mut state = (of(), of().square(), of().square());
    let mut largest = 0f64;
    for _ in 0..3 {
        let gradient = of();
        let (param, mean, square) = state;
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        state = kernels::adamw(param, mean, square, gradient, &step);
        largest = largest.max(ALLOCATOR.peak_usage().saturating_sub(before) as f64);
    }
    let of_parameters = (NUMBERS * size_of::<f32>()) as f64;
    assert!(largest < MOST * of_parameters, "{largest} bytes");
}
