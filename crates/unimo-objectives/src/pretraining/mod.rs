//! Pre-training losses, one per file.

pub mod alignment;
pub mod codes;
pub mod itc;
pub mod itm;
pub mod lm;
pub mod mcr;
pub mod mim;
pub mod mlm;
pub mod mrm;
pub mod mrtm;
pub mod psl;
pub mod regions;
pub mod tlm;
pub mod ttc;
pub mod ttm;
pub mod views;
pub mod vq;
pub mod wpg;
pub mod xlco;
