//! The optimiser's pass over a parameter.

use burn::tensor::{Tensor, assert_shape};

/// One step of AdamW (Loshchilov and Hutter 2019) for one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the running mean of the gradient.
    pub beta1: f64,
    /// Decay of the running mean of the squared gradient.
    pub beta2: f64,
    /// Added to the root of the squared mean, after bias correction.
    pub eps: f64,
    /// Decoupled weight decay: the parameter shrinks by `lr * weight_decay` of itself.
    pub weight_decay: f64,
    /// How many gradients the parameter has had, including this one, from 1.
    pub step: u64,
    /// Multiplies the gradient first: 1, or less to clip its norm.
    pub grad_scale: f32,
}

impl AdamWStep {
    /// Step size with the bias correction of the mean, and the reciprocal root of the bias correction of the square.
    fn corrections(&self) -> (f64, f64) {
        let steps = self.step as f64;
        let mean = 1.0 - self.beta1.powf(steps);
        let square = 1.0 - self.beta2.powf(steps);
        (self.lr / mean, 1.0 / square.sqrt())
    }
}

/// Applies one step of AdamW with PyTorch's arithmetic. Returns parameter, `exp_avg` and `exp_avg_sq`, in the buffers of
/// the arguments unless these are shared. The tensors are on a device without autodiff.
///
/// # Shapes
/// - all: `[N]`
pub fn adamw(
    param: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    grad: Tensor<1>,
    s: &AdamWStep,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let [n] = param.dims();
    assert_shape!(exp_avg, [n]);
    assert_shape!(exp_avg_sq, [n]);
    assert_shape!(grad, [n]);
    #[cfg(feature = "flex")]
    if [&param, &exp_avg, &exp_avg_sq, &grad]
        .into_iter()
        .all(|t| super::is_fused(t) && !t.is_autodiff())
    {
        return fused::adamw(param, exp_avg, exp_avg_sq, grad, s);
    }
    let (step_size, root_correction) = s.corrections();
    let grad = grad * s.grad_scale;
    let exp_avg = exp_avg * s.beta1 + grad.clone() * (1.0 - s.beta1);
    let exp_avg_sq = exp_avg_sq * s.beta2 + grad.clone() * grad * (1.0 - s.beta2);
    let denominator = exp_avg_sq.clone().sqrt() * root_correction + s.eps;
    let param = param * (1.0 - s.lr * s.weight_decay) - exp_avg.clone() / denominator * step_size;
    (param, exp_avg, exp_avg_sq)
}

/// A sum of squares, still where it was computed.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each parameter, for a moment"
)]
pub enum SumOfSquares {
    /// On the host.
    Host(f64),
    /// On a device, `[1]`. Fetch several together, since each fetch waits for the device.
    Device(Tensor<1>),
}

impl SumOfSquares {
    /// The value on the host.
    pub fn fetch(self) -> f64 {
        match self {
            Self::Host(sum) => sum,
            Self::Device(sum) => sum.into_scalar::<f64>(),
        }
    }
}

/// The sum of the squares of all elements.
///
/// # Shapes
/// - `x`: `[N]`
pub fn sum_of_squares(x: Tensor<1>) -> SumOfSquares {
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return SumOfSquares::Host(fused::sum_of_squares(x));
    }
    SumOfSquares::Device((x.clone() * x).sum())
}

#[cfg(feature = "flex")]
mod fused {
    use burn::backend::Flex;
    use burn::backend::flex::FlexTensor;
    use burn::tensor::Tensor;

    use super::AdamWStep;
    use crate::kernels::buffers::{
        BLOCK, collect, contiguous, floats, for_pieces3, owned, vectorized,
    };
    use crate::kernels::math::squares;

    /// The primitive of a tensor on a flex device without autodiff.
    fn primitive(x: Tensor<1>) -> FlexTensor {
        x.try_into_primitive::<Flex>()
            .expect("invariant: the caller has looked at the device")
    }

    pub(super) fn adamw(
        param: Tensor<1>,
        exp_avg: Tensor<1>,
        exp_avg_sq: Tensor<1>,
        grad: Tensor<1>,
        s: &AdamWStep,
    ) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
        let [mut param, mut mean, mut square] =
            [param, exp_avg, exp_avg_sq].map(|t| owned(primitive(t)));
        let grad = contiguous(primitive(grad));
        let grad = floats(&grad);
        let (step_size, root_correction) = s.corrections();
        let (step_size, root_correction) = (step_size as f32, root_correction as f32);
        let keep = (1.0 - s.lr * s.weight_decay) as f32;
        let (eps, scale) = (s.eps as f32, s.grad_scale);
        let (beta2, share1, share2) = (
            s.beta2 as f32,
            (1.0 - s.beta1) as f32,
            (1.0 - s.beta2) as f32,
        );
        for_pieces3(
            [
                param.storage_mut(),
                mean.storage_mut(),
                square.storage_mut(),
            ],
            |offset, [param, mean, square]| {
                let grad = &grad[offset..offset + param.len()];
                vectorized(
                    #[inline(always)]
                    || {
                        for (((p, m), v), &g) in param.iter_mut().zip(mean).zip(square).zip(grad) {
                            let g = g * scale;
                            *m = (g - *m).mul_add(share1, *m);
                            *v = (*v).mul_add(beta2, share2 * g * g);
                            let denominator = v.sqrt().mul_add(root_correction, eps);
                            *p = keep.mul_add(*p, -step_size * *m / denominator);
                        }
                    },
                );
            },
        );
        (
            Tensor::from_primitive::<Flex>(param),
            Tensor::from_primitive::<Flex>(mean),
            Tensor::from_primitive::<Flex>(square),
        )
    }

    pub(super) fn sum_of_squares(x: Tensor<1>) -> f64 {
        let x = if x.is_autodiff() { x.inner() } else { x };
        let x = contiguous(primitive(x));
        let x = floats(&x);
        let parts = collect(x.len().div_ceil(PART), PART, |part| {
            let x = &x[part * PART..x.len().min((part + 1) * PART)];
            vectorized(
                #[inline(always)]
                || squares(x),
            )
        });
        parts.iter().sum()
    }

    /// Elements whose squares are added on one thread.
    const PART: usize = 16 * BLOCK;
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::kernels::testing::{assert_close, assert_reproducible, constant, normal, values};

    const N: usize = 5003;
    const STEPS: u64 = 50;
    /// 50 steps of a few roundings each, relative to parameters around 1.
    const TOLERANCE: f64 = 2e-6;
    /// The sum is taken in f64.
    const SUM_TOLERANCE: f64 = 1e-12;

    fn step(step: u64) -> AdamWStep {
        AdamWStep {
            lr: 1e-2 / step as f64,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
            grad_scale: 0.25,
        }
    }

    fn gradient(step: u64) -> Vec<f32> {
        // Spread over many magnitudes, with zeros.
        let x = normal(N, 1.0, 100 + step);
        (0..N)
            .map(|i| x[i] * 10f32.powi(i as i32 % 12 - 9) * (i % 5 != 0) as u8 as f32)
            .collect()
    }

    /// Parameter and moments after [`STEPS`] steps.
    fn run(dtype: DType) -> Vec<Vec<f64>> {
        let tensor = |x: &[f32]| constant(x, [x.len()], dtype).inner();
        let mut state = (
            tensor(&normal(N, 1.0, 1)),
            tensor(&[0.0; N]),
            tensor(&[0.0; N]),
        );
        for s in 1..=STEPS {
            let (p, m, v) = state;
            state = adamw(p, m, v, tensor(&gradient(s)), &step(s));
        }
        vec![values(&state.0), values(&state.1), values(&state.2)]
    }

    /// torch.optim.AdamW with `foreach=False`, one scalar at a time.
    fn reference() -> Vec<Vec<f64>> {
        let mut param: Vec<f64> = normal(N, 1.0, 1).iter().map(|&x| f64::from(x)).collect();
        let (mut mean, mut square) = (vec![0.0; N], vec![0.0; N]);
        for number in 1..=STEPS {
            let s = step(number);
            let gradient = gradient(number);
            for i in 0..N {
                let g = f64::from(gradient[i]) * f64::from(s.grad_scale);
                param[i] -= s.lr * s.weight_decay * param[i];
                mean[i] = s.beta1 * mean[i] + (1.0 - s.beta1) * g;
                square[i] = s.beta2 * square[i] + (1.0 - s.beta2) * g * g;
                let corrected_mean = mean[i] / (1.0 - s.beta1.powi(number as i32));
                let corrected_square = square[i] / (1.0 - s.beta2.powi(number as i32));
                param[i] -= s.lr * corrected_mean / (corrected_square.sqrt() + s.eps);
            }
        }
        vec![param, mean, square]
    }

    #[test]
    fn agrees_with_a_scalar_reference() {
        let expected = reference();
        for dtype in [DType::F32, DType::F64] {
            let actual = run(dtype);
            for (name, (a, e)) in ["parameter", "mean", "square"]
                .iter()
                .zip(actual.iter().zip(&expected))
            {
                assert_close(
                    name,
                    a,
                    e,
                    TOLERANCE,
                    if *name == "square" { 0.0 } else { 1.0 },
                );
            }
        }
    }

    #[test]
    fn buffers_are_reused_only_if_nobody_else_holds_them() {
        let tensor = |seed| constant(&normal(N, 1.0, seed), [N], DType::F32).inner();
        let square = || tensor(3) * tensor(3);
        let (p, m, v, g) = (tensor(1), tensor(2), square(), tensor(4));
        let before = [&p, &m, &v, &g].map(values);
        let shared = adamw(p.clone(), m.clone(), v.clone(), g.clone(), &step(3));
        assert_eq!([&p, &m, &v, &g].map(values), before);
        let unique = adamw(p, m, v, g, &step(3));
        assert_eq!(values(&shared.0), values(&unique.0));
        assert_eq!(values(&shared.1), values(&unique.1));
        assert_eq!(values(&shared.2), values(&unique.2));
    }

    #[test]
    fn sum_of_squares_agrees_with_f64() {
        for n in [0, 1, 31, 33, 1000, 16 * 1024, 100_003] {
            let x = normal(n, 1e3, 6);
            let expected = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let x = constant(&x, [n], DType::F32);
            let sums = [sum_of_squares(x.clone()), sum_of_squares(x.inner())];
            let sums = sums.map(SumOfSquares::fetch);
            assert_close("sum", &sums, &[expected; 2], SUM_TOLERANCE, 0.0);
        }
        let large = constant(&[1e30, 1e30], [2], DType::F32);
        assert!(sum_of_squares(large).fetch().is_finite());
    }

    #[test]
    fn are_reproducible() {
        let x = normal(100_003, 1.0, 7);
        assert_reproducible(|| {
            let tensor = || constant(&x, [x.len()], DType::F32).inner();
            let square = tensor() * tensor();
            let (p, m, v) = adamw(tensor(), tensor(), square, tensor(), &step(2));
            let sum = vec![sum_of_squares(tensor()).fetch()];
            vec![values(&p), values(&m), values(&v), sum]
        });
    }
}
