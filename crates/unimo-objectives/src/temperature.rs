//! The learned temperature of a contrast: similarities are divided by it.
//!
//! It is learned as CLIP's logit scale, `ln(1 / temperature)`, so that its gradient has the size of the others'.

use burn::module::Param;
use burn::tensor::Tensor;
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_core::parameters;

/// Checks the keys `temperature` and `temperature_range` of an objective.
pub(crate) fn validate(temperature: f64, [low, high]: [f64; 2]) -> Result<(), ConfigError> {
    ConfigError::unless(
        low > 0.0 && low < high && high.is_finite(),
        "temperature_range",
        format_args!("[{low}, {high}]"),
        "must be [low, high] with 0 < low < high",
    )?;
    ConfigError::unless(
        (low..=high).contains(&temperature),
        "temperature",
        temperature,
        format_args!("must be within temperature_range = [{low}, {high}]"),
    )
}

/// The parameter, `[1]`.
pub(crate) fn init(init: &mut Init, temperature: f64) -> Param<Tensor<1>> {
    init.constant([1], logit_scale(temperature) as f32)
}

/// Factor of the similarities, `[1, 1]`.
pub(crate) fn scale(logit_scale: &Param<Tensor<1>>) -> Tensor<2> {
    logit_scale.val().exp().unsqueeze::<2>()
}

/// Brings the temperature back into its range, after the optimiser's step.
pub(crate) fn clamp(parameter: &mut Param<Tensor<1>>, [low, high]: [f64; 2]) {
    *parameter = parameters::update(parameter.clone(), |scale| {
        scale.clamp(logit_scale(high), logit_scale(low))
    });
}

/// `ln(1 / temperature)`.
fn logit_scale(temperature: f64) -> f64 {
    temperature.recip().ln()
}
