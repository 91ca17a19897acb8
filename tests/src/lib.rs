//! What the workspace's tests share: reading fixtures that PyTorch wrote, and golden files.

pub mod fixture;
pub mod golden;

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
