#![doc = include_str!("../README.md")]

mod batch;
pub mod config;

pub use batch::{
    Batch, Entailment, Images, LEVELS, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind,
    PatchMaskSpec, Regions, TAGS, Target, TextRole, Texts, normalised,
};
pub use config::ConfigError;
