//! What the workspace's tests share: reading fixtures that PyTorch wrote.

pub mod fixture;
pub mod twin;
