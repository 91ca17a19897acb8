//! Loss scaling, for gradients in f16.
//!
//! The smallest number of f16 is 6e-8, and many gradients of activations are smaller. So the loss is multiplied by a large power of two before the
//! backward pass, and gradients of parameters, which are f32, are divided by it. Where a gradient is then too large for f16, the step is left
//! out and the factor halved; after many good steps it is doubled (Micikevicius and others 2018; the numbers are those of PyTorch's
//! `GradScaler`).

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;
use unimo_core::parameters::{self, See};

/// The smallest factor: with it nothing is scaled, so a smaller one would not help.
const LEAST: f64 = 1.0;

/// The largest factor: its reciprocal is still exact in f32, and so are products with it.
const MOST: f64 = (1u64 << 40) as f64;

/// `[train.loss_scale]`, for `dtype = "f16"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossScaleConfig {
    /// What the loss is multiplied by at the start: a power of two.
    pub initial: f64,
    /// Steps without an overflow after which it is doubled.
    pub grow_after: u64,
}

impl Default for LossScaleConfig {
    fn default() -> Self {
        Self {
            initial: 65536.0,
            grow_after: 2000,
        }
    }
}

impl LossScaleConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            (LEAST..=MOST).contains(&self.initial) && self.initial.log2().fract() == 0.0,
            "initial",
            self.initial,
            format_args!("must be a power of two from {LEAST} to {MOST}"),
        )?;
        ConfigError::unless(
            self.grow_after > 0,
            "grow_after",
            self.grow_after,
            "must be at least 1",
        )
    }
}

/// The factor over time. It is in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// What the loss is multiplied by.
    pub factor: f64,
    /// Steps without an overflow since the factor changed.
    good: u64,
    grow_after: u64,
}

impl LossScale {
    /// That of a run's start.
    pub fn new(config: &LossScaleConfig) -> Self {
        Self {
            factor: config.initial,
            good: 0,
            grow_after: config.grow_after,
        }
    }

    /// After a step. `None`: it overflowed although nothing was scaled.
    pub fn after(self, overflowed: bool) -> Option<Self> {
        if overflowed {
            return can_be_lowered(self.factor).then_some(Self {
                factor: (self.factor / 2.0).max(LEAST),
                good: 0,
                ..self
            });
        }
        let good = self.good + 1;
        Some(if good >= self.grow_after {
            Self {
                factor: (self.factor * 2.0).min(MOST),
                good: 0,
                ..self
            }
        } else {
            Self { good, ..self }
        })
    }

    /// As a checkpoint has it.
    pub fn note(&self) -> String {
        format!("{} {}", self.factor, self.good)
    }

    /// The same as a checkpoint's note says it; `None` if it says nothing that can be.
    pub fn of_note(self, note: &str) -> Option<Self> {
        let (factor, good) = note.split_once(' ')?;
        let factor: f64 = factor.parse().ok()?;
        (LEAST..=MOST).contains(&factor).then_some(Self {
            factor,
            good: good.parse().ok()?,
            ..self
        })
    }
}

/// Whether a smaller factor may help.
pub(crate) fn can_be_lowered(factor: f64) -> bool {
    factor > LEAST
}

/// Gradients of the loss, from those of the scaled loss. Exact, since the factor is a power of two.
pub(crate) fn unscaled<M: Module>(
    model: &M,
    gradients: GradientsParams,
    factor: f64,
) -> GradientsParams {
    struct Walk {
        gradients: GradientsParams,
        by: f64,
    }
    impl See for Walk {
        fn see<const D: usize>(&mut self, _name: &str, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                let gradient = gradient.mul_scalar(self.by);
                self.gradients.register::<D>(param.id, gradient);
            }
        }
    }
    let mut walk = Walk {
        gradients,
        by: 1.0 / factor,
    };
    parameters::see(model, &mut walk);
    walk.gradients
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale() -> LossScale {
        LossScale::new(&LossScaleConfig {
            initial: 8.0,
            grow_after: 2,
        })
    }

    /// Halved by an overflow, doubled after enough steps without one in a row.
    #[test]
    fn the_factor_follows_overflows() {
        let mut scale = scale();
        let mut factors = Vec::new();
        for overflowed in [true, false, false, false, true, false, false] {
            scale = scale.after(overflowed).unwrap();
            factors.push(scale.factor);
        }
        assert_eq!(factors, [4.0, 4.0, 8.0, 8.0, 4.0, 4.0, 8.0]);
    }

    /// When nothing is scaled any more, an overflow has another reason.
    #[test]
    fn an_unscaled_overflow_is_the_end() {
        let mut scale = scale();
        for _ in 0..3 {
            scale = scale.after(true).unwrap();
        }
        assert_eq!(scale.factor, LEAST);
        assert_eq!(scale.after(true), None);
    }

    #[test]
    fn a_checkpoint_says_where_it_was() {
        let before = scale().after(false).unwrap();
        assert_eq!(scale().of_note(&before.note()), Some(before));
        for wrong in ["", "8", "x 1", "0 1", "NaN 1", "inf 1", "8 -1"] {
            assert_eq!(scale().of_note(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn other_factors_are_refused() {
        for initial in [0.0, -8.0, 3.0, 0.5, f64::NAN, f64::INFINITY] {
            let config = LossScaleConfig {
                initial,
                grow_after: 1,
            };
            assert!(config.validate().is_err(), "{initial}");
        }
    }
}
