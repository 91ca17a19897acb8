//! What the tests of the kernels share: the same function on f32 tensors, which the kernels take, and on f64 tensors,
//! which go through burn's plain operations and their gradients.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Held by a test that seeds the device's random numbers, or draws them: a process has one sequence of them.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Row lengths below, at and above the number of lanes and the size of a piece, with and without a remainder.
pub(super) const WIDTHS: [usize; 6] = [1, 3, 17, 197, 768, 50265];

/// Normal random numbers that f32 represents.
pub(super) fn normal(n: usize, deviation: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = Normal::new(0.0, deviation).unwrap();
    (0..n).map(|_| normal.sample(&mut rng)).collect()
}

/// A leaf that tracks gradients.
pub(super) fn leaf<const D: usize>(values: &[f32], shape: [usize; D], dtype: DType) -> Tensor<D> {
    constant(values, shape, dtype).require_grad()
}

/// A tensor on an autodiff device.
pub(super) fn constant<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    dtype: DType,
) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    let tensor: Tensor<D> = Tensor::from_data(data, &Device::flex().autodiff());
    tensor.cast(dtype)
}

/// The elements in order.
pub(super) fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    let data = x.clone().cast(DType::F64).into_data();
    data.try_into_vec().unwrap()
}

/// Gradients with respect to `leaves` of the sum of `out`, each element weighted by a fixed random number.
pub(super) fn gradients<const D: usize>(
    out: Tensor<D>,
    leaves: impl FnOnce(&burn::tensor::Gradients) -> Vec<Vec<f64>>,
) -> Vec<Vec<f64>> {
    let shape = out.dims();
    let weights = normal(shape.iter().product(), 1.0, 99);
    let weights = constant(&weights, shape, out.dtype());
    leaves(&(out * weights).sum().backward())
}

/// The gradient of one leaf.
pub(super) fn gradient<const D: usize>(
    x: &Tensor<D>,
    gradients: &burn::tensor::Gradients,
) -> Vec<f64> {
    values(&x.grad(gradients).unwrap())
}

/// Asserts |actual - expected| <= tolerance * (scale + |expected|) for every element.
pub(super) fn assert_close(
    what: &str,
    actual: &[f64],
    expected: &[f64],
    tolerance: f64,
    scale: f64,
) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of elements");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let error = (a - e).abs();
        assert!(
            error <= tolerance * (scale + e.abs()),
            "{what}: element {i} is {a}, expected {e}"
        );
    }
}

/// Asserts that `f` gives the same bits on one thread, on three, and again on three.
pub(super) fn assert_reproducible(f: impl Fn() -> Vec<Vec<f64>> + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&f)
    };
    let bits = |x: Vec<Vec<f64>>| -> Vec<Vec<u64>> {
        x.into_iter()
            .map(|x| x.into_iter().map(f64::to_bits).collect())
            .collect()
    };
    let once = bits(on(1));
    assert!(once == bits(on(3)), "depends on the number of threads");
    assert!(once == bits(on(3)), "differs from run to run");
}
