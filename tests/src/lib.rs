//! What the workspace's tests share: reading fixtures that PyTorch wrote.

pub mod fixture;

/// The README's example compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
