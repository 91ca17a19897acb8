//! What the workspace's tests share: reading fixtures that PyTorch and transformers wrote, golden files, the keys of a recipe, a small
//! model to train, and the parts of a program of somebody else.

pub mod fixture;
pub mod generated;
pub mod golden;
pub mod keys;
pub mod outside;
pub mod small;

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
