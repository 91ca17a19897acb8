//! Whether what `train.lora` asks to learn can.

use unimo_batch::ConfigError;
use unimo_encoders::names::covers;

use crate::recipe::Recipe;
use crate::recipe::train::LoraConfig;

/// What `train.lora` asks to learn and `train.freeze` holds still.
pub(super) fn idle(
    recipe: &Recipe,
    config: &LoraConfig,
    layers: &[String],
    ours: &[String],
) -> Vec<ConfigError> {
    let frozen = |name: &str| recipe.train.freeze.iter().any(|f| covers(f, name));
    let of_layers = config
        .layers
        .iter()
        .map(|p| ("train.lora.layers", p, layers));
    let of_also = config.also.iter().map(|p| ("train.lora.also", p, ours));
    of_layers
        .chain(of_also)
        .filter_map(|(key, pattern, names)| {
            let named = names.iter().filter(|name| covers(pattern, name));
            let mut named = named.peekable();
            let idle = named.peek().is_some() && named.all(|name| frozen(name));
            let checked = ConfigError::unless(
                !idle,
                key,
                format_args!("\"{pattern}\""),
                "must name something that learns, and train.freeze holds all of it still: without train.freeze nothing learns but what \
                 train.lora names",
            );
            checked.err()
        })
        .collect()
}
