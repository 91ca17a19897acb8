//! Times the kernels against the plain tensor operations of burn's CPU backend.
//!
//! `cargo run --release -p unimo-core --example kernels [part of a name]` prints the least of many runs in
//! milliseconds. A backward pass starts from a gradient of ones; both columns include making it.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::{Bool, Device, Distribution, Int, Tensor, activation, module};
use unimo_core::kernels::{self, AdamWStep};

/// The batch and length of a ViT-B/16 at 224 pixels.
const BATCH: usize = 8;
const LENGTH: usize = 197;
const WIDTH: usize = 768;
const HEADS: usize = 12;
const HIDDEN: usize = 3072;
const VOCABULARY: usize = 50265;
/// Masked words of a batch of 32 captions.
const MASKED: usize = 128;
/// Parameters of an optimiser step.
const PARAMETERS: usize = 10_000_000;

type Linear = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    println!("{:<34}{:>10}{:>10}", "", "burn", "kernel");
    let device = Device::flex();
    let hidden = random::<3>([BATCH, LENGTH, HIDDEN], &device);
    let rows = random::<3>([BATCH, LENGTH, WIDTH], &device);
    let scores = random::<4>([BATCH, HEADS, LENGTH, LENGTH], &device);
    let mask: Tensor<2, Bool> = random::<2>([BATCH, LENGTH], &device).greater_elem(1.0);
    let gamma = random::<1>([WIDTH], &device);
    let logits = random::<2>([MASKED, VOCABULARY], &device);
    let targets = Tensor::<1, Int>::arange(0..MASKED as i64, &device);
    let scale = 0.125;

    let run = |name: &str, plain: &dyn Fn(bool), kernel: &dyn Fn(bool)| {
        if !name.contains(&only) {
            return;
        }
        for (label, backward) in [("", false), (" + backward", true)] {
            if backward && name.ends_with("10M") {
                continue;
            }
            let plain = least(|| plain(backward));
            let kernel = least(|| kernel(backward));
            let label = format!("{name}{label}");
            println!("{label:<34}{plain:>10.2}{kernel:>10.2}");
        }
    };

    let one =
        |x: &Tensor<3>, f: &dyn Fn(Tensor<3>) -> Tensor<3>, backward: bool| measure(x, f, backward);
    run(
        "gelu 8x197x3072",
        &|b| one(&hidden, &activation::gelu, b),
        &|b| one(&hidden, &kernels::gelu, b),
    );
    run(
        "quick_gelu 8x197x3072",
        &|b| one(&hidden, &|x| x.clone() * activation::sigmoid(x * 1.702), b),
        &|b| one(&hidden, &kernels::quick_gelu, b),
    );
    run(
        "softmax 8x12x197x197",
        &|b| measure(&scores, &|x| activation::softmax(x * scale, 3), b),
        &|b| {
            measure(
                &scores,
                &|x| kernels::masked_softmax(x, scale, None, None),
                b,
            )
        },
    );
    for dropped in [0.0, 0.1] {
        let heads = |x: Tensor<3>| {
            let [rows, length, width] = x.dims();
            let x = x.reshape([rows, length, HEADS, width / HEADS]);
            x.swap_dims(1, 2)
        };
        let joined = |x: Tensor<4>| {
            let [rows, heads, length, depth] = x.dims();
            x.swap_dims(1, 2).reshape([rows, length, heads * depth])
        };
        let plain = |x: Tensor<3>| {
            let [q, k, v] = [(); 3].map(|()| heads(x.clone()));
            let weights = kernels::masked_softmax(q.matmul(k.transpose()), scale, None, None);
            joined(kernels::dropout(weights, dropped).matmul(v))
        };
        let kernel = |x: Tensor<3>| {
            let [q, k, v] = [(); 3].map(|()| heads(x.clone()));
            let fused = kernels::attention([&q, &k, &v], scale, (None, None), dropped);
            joined(fused.expect("f32 on flex"))
        };
        let name = if dropped > 0.0 {
            "attention 8x12x197x64, dropout"
        } else {
            "attention 8x12x197x64"
        };
        run(name, &|b| one(&rows, &plain, b), &|b| {
            one(&rows, &kernel, b)
        });
    }
    run(
        "masked softmax 8x12x197x197",
        &|b| {
            let mask = || {
                mask.clone()
                    .reshape([BATCH, 1, 1, LENGTH])
                    .expand([BATCH, HEADS, LENGTH, LENGTH])
            };
            measure(
                &scores,
                &|x| activation::softmax((x * scale).mask_fill(mask(), -1e30), 3),
                b,
            );
        },
        &|b| {
            measure(
                &scores,
                &|x| kernels::masked_softmax(x, scale, Some(mask.clone()), None),
                b,
            );
        },
    );
    run(
        "dropout 8x12x197x197",
        &|b| {
            measure(
                &scores,
                &|x| {
                    let kept = x.random_like(Distribution::Bernoulli(0.9));
                    x * kept * (1.0 / 0.9)
                },
                b,
            );
        },
        &|b| measure(&scores, &|x| kernels::dropout(x, 0.1), b),
    );
    let on = |t: &Tensor<1>, like: &Tensor<3>| {
        if like.is_autodiff() {
            t.clone().autodiff().require_grad()
        } else {
            t.clone()
        }
    };
    run(
        "layer norm 8x197x768",
        &|b| {
            one(
                &rows,
                &|x| {
                    let (g, b) = (on(&gamma, &x), on(&gamma, &x));
                    module::layer_norm(x, g, Some(b), 1e-5)
                },
                b,
            );
        },
        &|b| {
            one(
                &rows,
                &|x| {
                    let (g, b) = (on(&gamma, &x), on(&gamma, &x));
                    kernels::layer_norm(x, g, b, 1e-5)
                },
                b,
            );
        },
    );
    run(
        "cross-entropy 128x50265",
        &|b| {
            measure_2(
                &logits,
                &|x| -activation::log_softmax(x, 1).gather(1, targets.clone().reshape([MASKED, 1])),
                b,
            );
        },
        &|b| {
            measure_2(
                &logits,
                &|x| kernels::cross_entropy(x, targets.clone()).unsqueeze_dim(1),
                b,
            );
        },
    );
    for out in [WIDTH, HIDDEN] {
        let weight = random::<2>([WIDTH, out], &device);
        let bias = random::<1>([out], &device);
        let linear = |x: Tensor<3>, f: Linear| {
            if x.is_autodiff() {
                let weight = weight.clone().autodiff().require_grad();
                let bias = bias.clone().autodiff().require_grad();
                f(x, weight, Some(bias))
            } else {
                f(x, weight.clone(), Some(bias.clone()))
            }
        };
        run(
            &format!("linear 1576x{WIDTH}x{out}"),
            &|b| one(&rows, &|x| linear(x, module::linear), b),
            &|b| one(&rows, &|x| linear(x, kernels::linear), b),
        );
    }

    let parameter = random::<1>([PARAMETERS], &device);
    let step = AdamWStep {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 10,
        grad_scale: 0.5,
    };
    let start = || {
        let zeros = Tensor::<1>::zeros([PARAMETERS], &device);
        RefCell::new(Some((parameter.clone() * 2.0, zeros.clone(), zeros)))
    };
    let (plain, kernel) = (start(), start());
    run(
        "adamw 10M",
        &|_| {
            let (p, m, v) = plain.take().expect("put back below");
            let g = parameter.clone() * step.grad_scale;
            let m = m * step.beta1 + g.clone() * (1.0 - step.beta1);
            let v = v * step.beta2 + g.clone() * g * (1.0 - step.beta2);
            let denominator = v.clone().sqrt() * 2.3 + step.eps;
            let p = p * (1.0 - step.lr * step.weight_decay) - m.clone() / denominator * step.lr;
            plain.replace(Some((p, m, v)));
        },
        &|_| {
            let (p, m, v) = kernel.take().expect("put back below");
            kernel.replace(Some(kernels::adamw(p, m, v, parameter.clone(), &step)));
        },
    );
    run(
        "sum of squares 10M",
        &|_| {
            let sum = (parameter.clone() * parameter.clone()).sum();
            black_box(sum.into_scalar::<f32>());
        },
        &|_| {
            black_box(kernels::sum_of_squares(parameter.clone()));
        },
    );
}

/// A leaf on an autodiff device or the value itself, `f`, and the backward pass from a gradient of ones.
fn measure<const D: usize>(x: &Tensor<D>, f: &dyn Fn(Tensor<D>) -> Tensor<D>, backward: bool) {
    if !backward {
        black_box(f(x.clone()));
        return;
    }
    let x = x.clone().autodiff().require_grad();
    black_box(f(x).backward());
}

fn measure_2(x: &Tensor<2>, f: &dyn Fn(Tensor<2>) -> Tensor<2>, backward: bool) {
    measure(x, f, backward);
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The least time of a call in milliseconds, over at least 0.7 seconds and 10 calls.
fn least(f: impl Fn()) -> f64 {
    let begin = Instant::now();
    let (mut least, mut runs) = (f64::INFINITY, 0);
    while runs < 10 || begin.elapsed() < Duration::from_millis(700) {
        let start = Instant::now();
        f();
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
        runs += 1;
    }
    least
}
