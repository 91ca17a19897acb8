#![doc = include_str!("../README.md")]

mod batch;
pub mod config;
mod joined;
mod regions;
pub mod registry;

pub use batch::slices::{Slice, Slices};
pub use batch::walks::{WalkTargets, Walks};
pub use batch::{
    Batch, Entailment, Images, LEVELS, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind,
    PatchMaskSpec, SecondViews, TAGS, TRANSLATION, Target, TextRole, Texts, normalised,
};
pub use config::ConfigError;
pub use joined::{JOINED, JoinForm, JoinPositions, JoinSpec, KEY, QUERY, SidesSpec};
pub use regions::{HiddenRegions, NO_CLASS, RegionLabels, RegionMaskSpec, Regions};
