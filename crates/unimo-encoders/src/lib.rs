//! Encoders of unimo: [BERT and RoBERTa](text), [ViT and CLIP's image tower](image), and two cross-modal encoders. The
//! [dual-stream](fusion) one is METER, BridgeTower, ManagerTower or UNIMO-3 by configuration. The [single-stream](joint)
//! one is UNIMO-2, with its [grounded dictionary](quantiser), or MVP.
//!
//! [`load()`] makes an encoder from the folder of a public checkpoint. This crate knows no loss and no data set.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::tensor::{Device, Tensor};
//! use unimo_core::{init::Init, layers::Activation};
//! use unimo_encoders::image::ImageEncoderConfig;
//!
//! let config = ImageEncoderConfig {
//!     image_size: 32,
//!     patch_size: 16,
//!     width: 24,
//!     layers: 2,
//!     heads: 3,
//!     feed_forward: 48,
//!     activation: Activation::QuickGelu,
//!     layer_norm_eps: 1e-5,
//!     pre_norm: true,
//!     patch_bias: false,
//!     distillation_token: false,
//!     qkv_bias: true,
//!     stem: None,
//!     mask_embedding: false,
//!     dropout: 0.0,
//!     drop_path: 0.0,
//! };
//! config.validate().unwrap();
//! let device = Device::flex();
//! let encoder = config.init(&mut Init::new(&device, 0));
//! let states = encoder.forward(Tensor::zeros([1, 3, 32, 32], &device), 1);
//! assert_eq!(states[0].dims(), [1, 5, 24]);
//! # }
//! ```

pub mod backbone;
pub mod clip;
pub mod export;
pub mod features;
pub mod frozen;
pub mod fusion;
pub mod image;
pub mod import;
pub mod joint;
pub mod load;
pub mod managers;
pub mod map;
pub mod names;
pub mod output;
pub mod public;
pub mod quantiser;
pub mod reading;
pub mod region;
pub mod registry;
pub mod representation;
mod rows;
mod sizes;
pub mod stem;
pub mod text;
pub mod weights;

pub use backbone::register;
pub use load::{Encoder, Loaded, load};
pub use public::LoadError;
pub use text::register as register_text;
