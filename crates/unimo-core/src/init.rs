//! Weight initialisation on the host.
//!
//! The numbers come from one seeded generator on the host, not from a backend's own: the same seed gives the same
//! weights on every device, so that a run on a GPU can be compared with one on the CPU.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Makes parameters in the order in which modules ask for them.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::Device;
/// use unimo_core::{init::Init, layers::Linear};
///
/// let mut init = Init::new(&Device::flex(), 7);
/// let layer = Linear::new(&mut init, 4, 8, true);
/// assert_eq!(layer.weight.dims(), [4, 8]);
/// # }
/// ```
#[derive(Debug)]
pub struct Init {
    device: Device,
    rng: ChaCha8Rng,
    /// `None` gives zeros.
    normal: Option<Normal<f32>>,
}

/// Standard deviation of weights and embeddings in BERT, RoBERTa and METER, which are 768 wide.
const STANDARD_DEVIATION: f32 = 0.02;

impl Init {
    /// Weights drawn from N(0, 0.02), placed on `device`.
    pub fn new(device: &Device, seed: u64) -> Self {
        Self {
            device: device.clone(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            normal: Some(Normal::new(0.0, STANDARD_DEVIATION).expect("invariant: 0.02 is finite")),
        }
    }

    /// Gives zeros instead of drawn weights, for a model whose parameters are all read from a file. Drawing the numbers of
    /// a base model takes longer than reading them, and zeros take the memory of one number.
    pub fn blank(device: &Device) -> Self {
        Self {
            normal: None,
            ..Self::new(device, 0)
        }
    }

    /// Weights drawn from N(0, deviation) from here on. Narrow models need more than 0.02: with it, what a layer adds
    /// shrinks with the width, and a class token hardly depends on the input.
    ///
    /// # Panics
    ///
    /// Panics if `deviation` is not a finite number.
    #[must_use]
    pub fn with_deviation(self, deviation: f32) -> Self {
        assert!(deviation.is_finite(), "the deviation is {deviation}");
        Self {
            normal: Some(Normal::new(0.0, deviation).expect("invariant: the deviation is finite")),
            ..self
        }
    }

    /// Where parameters are placed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A parameter drawn from the normal distribution, N(0, 0.02) unless told otherwise.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        let Some(normal) = self.normal else {
            let zero = Tensor::<D>::zeros([1; D], &self.device);
            return Param::from_tensor(zero.expand(shape));
        };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| normal.sample(&mut self.rng)).collect();
        self.data(values, shape)
    }

    /// A parameter drawn from the uniform distribution on [-bound, bound).
    ///
    /// # Panics
    ///
    /// Panics unless `bound` is finite and above 0.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        assert!(bound.is_finite() && bound > 0.0, "the bound is {bound}");
        if self.normal.is_none() {
            return self.constant(shape, 0.0);
        }
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.rng.random_range(-bound..bound));
        let values = values.collect();
        self.data(values, shape)
    }

    /// A parameter with one value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        self.data(vec![value; count], shape)
    }

    /// A parameter with the values given, row-major.
    ///
    /// # Panics
    ///
    /// Panics if the number of values is not the product of `shape`.
    pub fn data<const D: usize>(
        &mut self,
        values: Vec<f32>,
        shape: [usize; D],
    ) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            &self.device,
        ))
    }
}
