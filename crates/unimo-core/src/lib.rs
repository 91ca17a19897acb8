//! Core of unimo, a toolkit for vision-language pre-training on [burn](https://burn.dev): [masks](mask),
//! [attention], [multi-granularity attention](levels), [attention with matrices for each modality](split), transformer [blocks], and
//! [kernels] that make training on a CPU fast.
//!
//! It knows no model, no file and no data set.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::tensor::{Device, Distribution, Tensor};
//! use unimo_core::{attention::Attention, init::Init, mask::PaddingMask};
//!
//! let device = Device::flex();
//! let attention = Attention::new(&mut Init::new(&device, 0), 16, 4, 0.0);
//! let words = Tensor::<3>::random([2, 5, 16], Distribution::Default, &device);
//! let patches = Tensor::<3>::random([2, 9, 16], Distribution::Default, &device);
//! let mask = PaddingMask::from_lengths(&[9, 4], 9, &device);
//! assert_eq!(attention.forward(words, patches, Some(&mask)).dims(), [2, 5, 16]);
//! # }
//! ```

pub mod alignment;
pub mod attention;
pub mod average;
pub mod blocks;
pub mod device;
pub mod dtype;
pub mod init;
pub mod kernels;
pub mod layers;
pub mod levels;
pub mod lookup;
pub mod lora;
pub mod mask;
pub mod outside;
pub mod parameters;
pub mod spans;
pub mod split;
pub mod world;
