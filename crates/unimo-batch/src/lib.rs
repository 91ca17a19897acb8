#![doc = include_str!("../README.md")]

mod batch;
pub mod config;
mod joined;
pub mod registry;

pub use batch::{
    Batch, Entailment, Images, LEVELS, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind,
    PatchMaskSpec, Regions, SecondViews, TAGS, TRANSLATION, Target, TextRole, Texts, normalised,
};
pub use config::ConfigError;
pub use joined::{JOINED, JoinForm, JoinPositions, JoinSpec, KEY, QUERY, SidesSpec};
