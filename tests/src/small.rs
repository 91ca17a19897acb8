//! A model that a test trains in a moment: `unimo3-tiny` on generated scenes, smaller still.

use std::path::Path;

use unimo_train::apply::inputs::ColumnArgs;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

/// What is smaller than in `unimo3-tiny`.
const SIZES: [&str; 11] = [
    "model.text.vocab_size=300",
    "model.text.width=32",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.fusion.width=32",
    "objectives.itc.width=16",
    "data.image_size=32",
    "data.max_text_length=32",
    "data.scenes.size=32",
    "data.scenes.train=300",
    "data.tokenizer.vocab_size=300",
];

/// What makes `wsmgmap-tiny` smaller still.
pub const WALKS: [&str; 14] = [
    "train.batch_size=2",
    "model.text.width=32",
    "model.text.layers=1",
    "model.text.feed_forward=64",
    "model.map.cells=16",
    "model.map.width=32",
    "model.map.feed_forward=64",
    "model.map.semantic.cells=8",
    "model.map.view={ image_size = [16, 16], patch_size = 8, layers = 1 }",
    "data.walks={ cells = 16, cell = 0.75, world = 48, reach = 4.0 }",
    "data.houses={ train = 6, val = 2, paths = 2, sides = [24, 32], rooms = [2, 3], size = 16 }",
    "data.tokenizer.vocab_size=300",
    "eval.walks={ limit = 3, walked = 2, batch_size = 2, examples = 1 }",
    "train.eval_every=0",
];

/// The small recipe with these changes, of which the last of a key counts.
///
/// # Panics
///
/// A change is no valid setting.
pub fn recipe(changes: &[&str]) -> Recipe {
    let set = SIZES.iter().chain(changes).map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load("unimo3-tiny", &overrides).unwrap()
}

/// How a test trains: without progress or evaluation, on a CPU.
pub fn options() -> training::Options {
    training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
        ..training::Options::default()
    }
}

/// Trains the small recipe for two steps.
///
/// # Panics
///
/// It cannot be trained.
pub fn train(out: &Path, changes: &[&str]) {
    let two_steps = ["train.steps=2", "train.batch_size=4"];
    let changes: Vec<&str> = two_steps.iter().chain(changes).copied().collect();
    training::start(&recipe(&changes), out, &options()).unwrap();
}

/// The columns of a list with the usual names.
pub fn columns() -> ColumnArgs {
    ColumnArgs {
        image_column: None,
        text_column: None,
    }
}
