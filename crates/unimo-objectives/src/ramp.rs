//! The share of a teacher's soft targets, which may rise over the first steps: at first a teacher knows no more than its student.
//!
//! Source: ALBEF (Li et al. 2021), section 3.3 and its release: `alpha min(1, i / n)` in step `i`, with `n` the steps of the first epoch.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::parameters;

/// Name of the share among an objective's numbers, if it rises.
pub const ALPHA: &str = "alpha";

/// Counts the steps of a ramp. The count is a parameter that tracks no gradient, so that checkpoints hold it.
#[derive(Module, Debug)]
pub struct Ramp {
    /// `[1]`: the optimiser's steps so far, exact up to 2^24; `None` if the share is the same in all steps.
    pub steps: Option<Param<Tensor<1>>>,
    alpha: f64,
    length: usize,
}

/// A share of soft targets.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each loss")]
pub enum Share {
    /// The same in all steps.
    Fixed(f64),
    /// `[1]`: that of this step. It stays on the device, so that no step waits for it.
    Rising(Tensor<1>),
}

/// Checks a share and the steps over which it rises.
///
/// # Errors
///
/// The share is none, or a ramp leads to 0.
pub fn validate(key: &str, alpha: f64, length: usize) -> Result<(), ConfigError> {
    config::probability(&format!("{key}.alpha"), alpha)?;
    ConfigError::unless(
        length == 0 || alpha > 0.0,
        &format!("{key}.alpha_ramp"),
        length,
        "must be 0 or absent with alpha = 0: nothing rises",
    )
}

impl Ramp {
    /// A share that rises from 0 to `alpha` over `length` steps; 0 steps: it is `alpha` from the first step on.
    pub fn new(init: &mut Init, alpha: f64, length: usize) -> Self {
        let zero = |init: &mut Init| {
            let zero = init.constant([1], 0.0).val().detach();
            Param::from_tensor(zero).set_require_grad(false)
        };
        Self {
            steps: (length > 0).then(|| zero(init)),
            alpha,
            length,
        }
    }

    /// The share in this step.
    pub fn share(&self) -> Share {
        match &self.steps {
            None => Share::Fixed(self.alpha),
            Some(steps) => {
                let done = steps.val().div_scalar(self.length as f64).clamp_max(1.0);
                Share::Rising(done.mul_scalar(self.alpha).detach())
            }
        }
    }

    /// Counts a step of the optimiser.
    pub fn after_step(&mut self) {
        if let Some(steps) = self.steps.take() {
            self.steps = Some(parameters::update(steps, |steps| steps + 1.0));
        }
    }
}

impl Share {
    /// Whether it is 0 in every step.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Fixed(alpha) if *alpha == 0.0)
    }

    /// `alpha soft + (1 - alpha) hard`.
    ///
    /// # Shapes
    ///
    /// - soft, hard, output: of one shape
    pub fn mix<const D: usize>(&self, soft: Tensor<D>, hard: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Fixed(alpha) => soft.mul_scalar(*alpha) + hard.mul_scalar(1.0 - alpha),
            Self::Rising(alpha) => {
                let alpha = alpha.clone().reshape([1; D]);
                soft * alpha.clone() + hard * (alpha.neg() + 1.0)
            }
        }
    }

    /// The share as a number of an outcome, if it rises.
    pub fn rising(&self) -> Option<Tensor<1>> {
        match self {
            Self::Fixed(_) => None,
            Self::Rising(alpha) => Some(alpha.clone()),
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_share_rises_to_alpha_and_stays() {
        let device = Device::flex();
        let mut ramp = Ramp::new(&mut Init::new(&device, 0), 0.4, 4);
        for expected in [0.0, 0.1, 0.2, 0.3, 0.4, 0.4] {
            let share = ramp.share().rising().unwrap().into_scalar::<f32>();
            assert!((share - expected).abs() < 1e-7, "{share} {expected}");
            ramp.after_step();
        }
        let fixed = Ramp::new(&mut Init::new(&device, 0), 0.4, 0);
        assert!(fixed.share().rising().is_none() && !fixed.share().is_zero());
    }

    #[test]
    fn a_ramp_to_nothing_is_refused() {
        assert!(validate("momentum", 0.4, 10).is_ok());
        let error = validate("momentum", 0.0, 10).unwrap_err();
        assert_eq!(error.key, "momentum.alpha_ramp");
        assert_eq!(
            validate("momentum", 1.5, 0).unwrap_err().key,
            "momentum.alpha"
        );
    }
}
