//! Training of unimo: [recipes](recipe), the [loop](training), [checkpoints](checkpoint), [evaluation] and the [report]. The only
//! crate that depends on all others, with the binary `unimo`.
//!
//! ```
//! use unimo_train::recipe::{Overrides, Recipe};
//!
//! let overrides = Overrides { data: None, set: vec!["train.steps=20".to_owned()] };
//! let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
//! assert_eq!(recipe.train.steps, 20);
//! ```

pub mod allocator;
pub mod apply;
pub mod captioner;
pub mod checkpoint;
pub mod cli;
mod clock;
pub mod compare;
mod curves;
pub mod data;
pub mod device;
pub mod diagnostics;
pub mod error;
pub mod evaluation;
pub mod evaluators;
pub mod export;
mod family;
pub mod files;
pub mod fingerprint;
mod first_captions;
pub mod freezing;
pub mod given;
mod grad_cam;
mod heat;
pub mod hub;
pub mod interrupt;
pub mod kept;
pub mod language_head;
mod lock;
pub mod loss_scale;
pub mod memory;
pub mod model;
pub mod names;
mod numbers;
pub mod observers;
mod opened;
pub mod optimizer;
mod outputs;
pub mod pipe;
pub mod prepare;
pub mod pretrained;
mod program;
pub mod progress;
pub mod ranks;
pub mod rates;
pub mod recipe;
pub mod recipes;
pub mod report;
pub mod resuming;
mod rewards;
pub mod run;
pub mod scaling;
pub mod scoring;
mod seeds;
pub mod sizes;
pub mod starting;
mod step;
pub mod sweep;
pub mod tasks;
pub mod tensorboard;
pub mod trained;
mod trainer;
pub mod training;
pub use trainer::BURN_VERSION;
