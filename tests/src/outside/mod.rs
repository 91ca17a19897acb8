//! Parts that another crate adds without a change of this workspace, each by its registry.

pub mod blocks;
pub mod encoder;
pub mod evaluator;
pub mod objective;
pub mod source;

use unimo_batch::ConfigError;

/// Registers all of them, as a program does before it reads a recipe.
///
/// # Errors
///
/// One of them is registered already.
pub fn register() -> Result<(), ConfigError> {
    unimo_data::register::<source::StripesConfig>("stripes")?;
    unimo_encoders::register::<encoder::RowsConfig>("rows")?;
    unimo_encoders::register_text::<blocks::NeighboursConfig>("neighbours")?;
    unimo_objectives::registry::register::<objective::DirectionConfig>("direction")?;
    unimo_train::evaluators::registry::register::<evaluator::NearestConfig>("nearest")
}
