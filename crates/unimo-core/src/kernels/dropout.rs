//! Dropout.

use burn::tensor::{Distribution, Tensor};

/// Zeroes each element with probability `p` and divides the others by `1 - p` (Srivastava et al. 2014). The caller has
/// checked that the model is being trained.
///
/// Which elements are dropped follows from the seed of the device's random numbers ([`burn::tensor::Device::seed`]).
///
/// # Shapes
/// - `x`, output: any
pub fn dropout<const D: usize>(x: Tensor<D>, p: f64) -> Tensor<D> {
    if p <= 0.0 {
        return x;
    }
    #[cfg(feature = "flex")]
    if super::is_fused(&x) {
        return fused::dropout(x, fused::Mask::draw(p));
    }
    if p >= 1.0 {
        return x * 0.0;
    }
    let kept = x.random_like(Distribution::Bernoulli(1.0 - p));
    x * kept * (1.0 / (1.0 - p))
}

#[cfg(feature = "flex")]
pub(super) mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::flex::{FlexDevice, FlexTensor};
    use burn::backend::ops::FloatTensorOps;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
    use burn::tensor::{Distribution, FloatDType, Shape, Tensor};

    use crate::kernels::buffers::{map, vectorized};
    use crate::kernels::drawn::{self, Drawn};

    /// Which elements are dropped, as a function of their index.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::kernels) struct Mask {
        keys: [u32; 2],
        /// An element whose hash is below this is dropped.
        threshold: u32,
        /// What the other elements are multiplied by; 0 if all are dropped.
        scale: f32,
    }

    impl Mask {
        /// A mask from two of the device's random numbers.
        pub(in crate::kernels) fn draw(p: f64) -> Self {
            match drawn::draw(|| Drawn::Seed(Self::seed())) {
                Drawn::Seed(seed) => Self::new(p, seed),
                Drawn::Rows(..) => unreachable!("invariant: a block draws in the same order again"),
            }
        }

        fn seed() -> u64 {
            let numbers = Flex::float_random(
                Shape::new([2]),
                Distribution::Uniform(0.0, 1.0),
                &FlexDevice,
                FloatDType::F64,
            );
            let numbers: &[f64] = numbers.storage();
            let bits = |u: f64| (u * 2f64.powi(32)) as u64;
            bits(numbers[0]) << 32 | bits(numbers[1])
        }

        pub(in crate::kernels) fn new(p: f64, seed: u64) -> Self {
            // SplitMix64: seeds that differ in one bit give unrelated keys.
            let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let z = z ^ (z >> 31);
            Self {
                keys: [z as u32, (z >> 32) as u32],
                threshold: (p * 2f64.powi(32)) as u32,
                scale: if p < 1.0 {
                    (1.0 / (1.0 - p)) as f32
                } else {
                    0.0
                },
            }
        }

        /// Drops of the elements whose indices begin at `offset`.
        #[inline(always)]
        pub(in crate::kernels) fn apply(self, offset: usize, values: &mut [f32]) {
            // Pieces never straddle a multiple of 2^32, so the upper half of the index is one number.
            let [k0, k1] = self.keys;
            let k0 = k0 ^ mix((offset as u64 >> 32) as u32);
            let first = offset as u32;
            for (i, x) in values.iter_mut().enumerate() {
                // One round would give masks that are shifted copies of each other.
                let hash = mix(mix((first + i as u32) ^ k0).wrapping_add(k1));
                *x = if hash < self.threshold {
                    0.0
                } else {
                    *x * self.scale
                };
            }
        }
    }

    /// A bijection of 32-bit numbers in which every input bit changes every output bit with a probability close to one
    /// half: "lowbias32" of Chris Wellons' hash prospector.
    #[inline(always)]
    fn mix(mut x: u32) -> u32 {
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }

    pub(super) fn dropout<const D: usize>(x: Tensor<D>, mask: Mask) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::dropout_kernel(x.into_dispatch(), mask))
    }

    #[backend_extension(Flex, Autodiff)]
    pub(super) trait DropoutKernel: Backend {
        fn dropout_kernel(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self>;
    }

    impl DropoutKernel for Flex {
        fn dropout_kernel(x: FlexTensor, mask: Mask) -> FlexTensor {
            apply(x, mask)
        }
    }

    impl<C: CheckpointStrategy> DropoutKernel for Autodiff<Flex, C> {
        fn dropout_kernel(x: FloatTensor<Self>, mask: Mask) -> FloatTensor<Self> {
            let (x, node) = x.into_parts();
            match Derivative.prepare::<C>([node]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(mask, apply(x, mask)),
                OpsKind::UnTracked(prep) => prep.finish(apply(x, mask)),
            }
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl Backward<Flex, 1> for Derivative {
        // The backward pass makes the mask again.
        type State = Mask;

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let mask = ops.state;
            unary::<Flex, _>(ops.parents, ops.node, grads, |grad| apply(grad, mask));
        }
    }

    fn apply(x: FlexTensor, mask: Mask) -> FlexTensor {
        map(x, |offset, piece| {
            vectorized(
                #[inline(always)]
                || mask.apply(offset, piece),
            );
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::DType;

    use super::fused::{Mask, dropout};
    use crate::kernels::testing::{
        alone, assert_reproducible, constant, gradient, gradients, leaf, normal, values,
    };

    /// A deviation from the expected count that a fair mask shows with a probability below 1e-6.
    const STANDARD_DEVIATIONS: f64 = 5.0;

    const N: usize = 1_000_003;

    fn kept(p: f64, seed: u64) -> Vec<bool> {
        let ones = constant(&vec![1.0; N], [N], DType::F32);
        let out = values(&dropout(ones, Mask::new(p, seed)));
        let scale = f64::from((1.0 / (1.0 - p)) as f32);
        assert!(out.iter().all(|&x| x == 0.0 || x == scale));
        out.iter().map(|&x| x != 0.0).collect()
    }

    /// Asserts that `count` of `n` is what independent draws with probability `q` give.
    fn assert_binomial(what: &str, count: usize, n: usize, q: f64) {
        let deviation = (n as f64 * q * (1.0 - q)).sqrt();
        let distance = (count as f64 - n as f64 * q) / deviation;
        assert!(
            distance.abs() < STANDARD_DEVIATIONS,
            "{what}: {count} of {n}, {distance} standard deviations from the expected count"
        );
    }

    #[test]
    fn keeps_the_share() {
        for p in [0.001, 0.1, 0.5, 0.9] {
            for seed in [0, 1, 2, u64::MAX] {
                let kept = kept(p, seed);
                let count = kept.iter().filter(|k| **k).count();
                assert_binomial("kept", count, N, 1.0 - p);
            }
        }
    }

    #[test]
    fn elements_are_independent() {
        let p = 0.3;
        let both = 2.0 * p * (1.0 - p);
        let mask = kept(p, 7);
        for lag in [1, 2, 32, 64, 768, 1024, 4096, 65536] {
            let differ = mask.iter().zip(&mask[lag..]).filter(|(a, b)| a != b);
            assert_binomial("differing neighbours", differ.count(), N - lag, both);
        }
        // Masks of other draws, at the same place and shifted.
        for seed in [6, 8, 9, 1 << 32, u64::MAX] {
            let other = kept(p, seed);
            for shift in [0, 1, 2, 1000] {
                for (a, b) in [(&mask, &other), (&other, &mask)] {
                    let differ = a.iter().zip(&b[shift..]).filter(|(a, b)| a != b);
                    assert_binomial("differing masks", differ.count(), N - shift, both);
                }
            }
        }
    }

    #[test]
    fn the_backward_pass_uses_the_same_mask() {
        let shape = [19, 197, 12];
        let n = shape.iter().product();
        let x = leaf(&normal(n, 1.0, 1), shape, DType::F32);
        let out = dropout(x.clone(), Mask::new(0.4, 3));
        let factors: Vec<f64> = values(&out)
            .iter()
            .zip(values(&x))
            .map(|(o, x)| o / x)
            .collect();
        let grads = gradients(out, |g| vec![gradient(&x, g)]);
        let weights = normal(n, 1.0, 99);
        for ((g, w), f) in grads[0].iter().zip(weights).zip(&factors) {
            // One rounding each in the output, the gradient and the quotient.
            let error = (g - f64::from(w) * f).abs();
            assert!(error <= 1e-6 * g.abs(), "gradient {g} for factor {f}");
        }
        assert!(factors.contains(&0.0));
    }

    #[test]
    fn dropped_elements_are_zero_whatever_they_were() {
        let x = constant(&[f32::NAN; 1000], [1000], DType::F32);
        let out = values(&dropout(x, Mask::new(0.5, 1)));
        assert!(out.contains(&0.0));
    }

    #[test]
    fn nothing_and_everything() {
        let x = constant(&normal(100, 1.0, 1), [100], DType::F32);
        assert_eq!(values(&super::dropout(x.clone(), 0.0)), values(&x));
        assert!(values(&super::dropout(x, 1.0)).iter().all(|x| *x == 0.0));
    }

    #[test]
    fn two_draws_differ() {
        let _alone = alone();
        let x = constant(&[1.0; 1000], [1000], DType::F32);
        let draw = || values(&super::dropout(x.clone(), 0.5));
        assert_ne!(draw(), draw());
    }

    #[test]
    fn is_reproducible() {
        let x = normal(100_000, 1.0, 1);
        assert_reproducible(|| {
            let x = leaf(&x, [100_000], DType::F32);
            let out = dropout(x.clone(), Mask::new(0.1, 5));
            let mut all = vec![values(&out)];
            all.extend(gradients(out, |g| vec![gradient(&x, g)]));
            all
        });
    }
}
