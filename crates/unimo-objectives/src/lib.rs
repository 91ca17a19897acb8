//! Pre-training losses of unimo. Each objective owns its head, what it needs of a batch and its weight, and is one file
//! and one line in the list below; [`Objectives::step`] computes what several of them need once.
//!
//! They know encoders and the batch type, no data set and no training loop.
//!
//! ```
//! use unimo_objectives::{ObjectivesConfig, itm::{Head, ItmConfig, Layout, Negatives}};
//!
//! let objectives = ObjectivesConfig {
//!     itm: Some(ItmConfig {
//!         weight: 1.0,
//!         negatives: Negatives::Uniform,
//!         layout: Layout::Half,
//!         head: Head::Pair,
//!     }),
//!     ..ObjectivesConfig::default()
//! };
//! objectives.validate().unwrap();
//! ```

pub mod codes;
pub mod contrast;
mod encode;
pub mod itc;
pub mod itm;
pub mod lm;
pub mod mcr;
pub mod mlm;
pub mod objective;
pub mod partners;
mod step;
mod temperature;
pub mod tied;
pub mod together;
pub mod views;
pub mod vq;
pub mod wpg;

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_core::layers::cast;
use unimo_encoders::backbone::{Backbone, BackboneConfig};

use crate::objective::{Carry, Objective};
pub use crate::step::{Report, Step};

/// The list of objectives: key in a recipe, module, configuration, how it is made.
macro_rules! objectives {
    ($($key:ident: $module:ty, $config:ty, $make:expr;)+) => {
        /// `[objectives]`: those present are trained.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ObjectivesConfig {
            $(
                #[doc = concat!("`[objectives.", stringify!($key), "]`.")]
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $key: Option<$config>,
            )+
        }

        /// The objectives of a recipe, with their heads.
        #[derive(Module, Debug)]
        pub struct Objectives {
            $(
                #[doc = concat!("`[objectives.", stringify!($key), "]`.")]
                pub $key: Option<$module>,
            )+
        }

        impl ObjectivesConfig {
            /// Every key that an objective has.
            pub const KEYS: &[&str] = &[$(stringify!($key)),+];

            /// Every value on its own and against the others.
            pub fn validate(&self) -> Result<(), ConfigError> {
                $(
                    if let Some(config) = &self.$key {
                        config.validate().map_err(|e| e.within(stringify!($key)))?;
                    }
                )+
                self.validate_together()
            }

            /// The keys of those present.
            pub fn given(&self) -> Vec<&'static str> {
                let mut keys = Vec::new();
                $(
                    if self.$key.is_some() {
                        keys.push(stringify!($key));
                    }
                )+
                keys
            }

            /// New heads on top of `backbone`, which was made from `model`.
            pub fn init(
                &self,
                init: &mut Init,
                model: &BackboneConfig,
                backbone: &Backbone,
            ) -> Objectives {
                $(
                    let make: fn(&$config, &mut Init, &BackboneConfig, &Backbone) -> $module = $make;
                    let $key = self.$key.as_ref().map(|c| make(c, init, model, backbone));
                )+
                Objectives { $($key),+ }
            }
        }

        impl Objectives {
            /// Those that the recipe names, with their keys.
            pub fn each(&self) -> Vec<(&'static str, &dyn Objective)> {
                let mut all: Vec<(&'static str, &dyn Objective)> = Vec::new();
                $(
                    if let Some(objective) = &self.$key {
                        all.push((stringify!($key), objective));
                    }
                )+
                all
            }

            /// The backbone has been given other weights before the first step.
            pub fn adopt(&mut self, backbone: &Backbone) {
                $(
                    if let Some(objective) = &mut self.$key {
                        objective.adopt(backbone);
                    }
                )+
            }

            /// Clamps, moving averages and queues, after the optimiser's step. `carries` is what the micro-batches'
            /// [`Step`]s gave.
            pub fn after_step(&mut self, backbone: &Backbone, carries: Vec<(&'static str, Carry)>) {
                $(
                    if let Some(objective) = &mut self.$key {
                        let key = stringify!($key);
                        let own = carries.iter().filter(|(k, _)| *k == key).map(|(_, c)| c.clone());
                        objective.after_step(backbone, own.collect());
                    }
                )+
            }
        }
    };
}

objectives! {
    mlm: mlm::Mlm, mlm::MlmConfig, |c, init, model, _| c.init(init, model);
    itm: itm::Itm, itm::ItmConfig, |c, init, model, _| c.init(init, model);
    itc: itc::Itc, itc::ItcConfig, |c, init, model, backbone| c.init(init, model, backbone);
    lm: lm::Lm, lm::LmConfig, |c, init, model, _| c.init(init, model);
    vq: vq::Vq, vq::VqConfig, |c, init, model, _| c.init(init, model);
    codes: codes::Codes, codes::CodesConfig, |c, init, model, _| c.init(init, model);
    mcr: mcr::Mcr, mcr::McrConfig, |c, init, model, _| c.init(init, model);
    wpg: wpg::Wpg, wpg::WpgConfig, |c, init, model, _| c.init(init, model);
    views: views::Views, views::ViewsConfig, |c, init, model, _| c.init(init, model);
}

impl ObjectivesConfig {
    fn validate_together(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            *self != Self::default(),
            "objectives",
            "{}",
            format_args!("name at least one of {}", Self::KEYS.join(", ")),
        )?;
        let of_itm = self.itm.as_ref().map(|itm| itm.negatives);
        let of_wpg = self.wpg.as_ref().map(|wpg| wpg.negatives);
        for (key, negatives) in [("itm.negatives", of_itm), ("wpg.negatives", of_wpg)] {
            ConfigError::unless(
                negatives.is_none_or(|n| !n.hard()) || self.itc.is_some(),
                key,
                "hard",
                "hard negatives are chosen by the similarities of [objectives.itc], which is absent",
            )?;
        }
        Ok(())
    }

    /// The objectives against the encoders that they train.
    pub fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let one_stream = "needs a cross-modal encoder of one stream, [model.joint]";
        let two_streams = "needs a cross-modal encoder of two streams, [model.fusion]";
        let grounded = "needs a grounded dictionary, [model.joint.grounding]";
        let joint = model.joint.is_some();
        let image_class = model.joint.as_ref().is_some_and(|j| j.image_class);
        let dictionary = model.joint.as_ref().is_some_and(|j| j.grounding.is_some());
        let as_wide = model.text.width == model.cross_width();
        let rule = |holds: bool, key: &str, value: &str, allowed: &str| {
            ConfigError::unless(holds, key, value, allowed)
        };
        if let Some(mlm) = &self.mlm {
            rule(
                joint || !mlm.texts_alone,
                "mlm.texts_alone",
                "true",
                one_stream,
            )?;
            rule(
                as_wide || !mlm.tied,
                "mlm.tied",
                "true",
                "needs a text encoder as wide as the cross-modal one",
            )?;
        }
        if let Some(itm) = &self.itm {
            let (holds, needs) = match itm.head {
                itm::Head::Pair => (!joint, two_streams),
                itm::Head::Product => (
                    !joint || image_class,
                    "needs model.joint.image_class = true",
                ),
                itm::Head::Text => (true, ""),
            };
            let name = match itm.head {
                itm::Head::Pair => "pair",
                itm::Head::Product => "product",
                itm::Head::Text => "text",
            };
            rule(holds, "itm.head", name, needs)?;
        }
        if let Some(itc) = &self.itc {
            let three = itc.views == itc::Views::Three;
            rule(!three || !joint, "itc.views", "three", two_streams)?;
            rule(
                !three || itc.projection != itc::Projection::None,
                "itc.projection",
                "none",
                "must not be \"none\" with views = \"three\", which are of different widths",
            )?;
            rule(
                itc.momentum.is_none() || !model.image_tags,
                "itc.momentum",
                "{}",
                "must be absent with model.image_tags = true: its encoder reads no tags",
            )?;
            rule(
                itc.momentum.is_none() || model.regions.is_none(),
                "itc.momentum",
                "{}",
                "must be absent with [model.regions]: its encoder reads pixels",
            )?;
            let (text, image) = (model.text.width, model.image_width());
            ConfigError::unless(
                itc.projection != itc::Projection::None
                    || (itc.width == text && itc.width == image),
                "itc.width",
                itc.width,
                format_args!(
                    "must be model.text.width = {text} and the width of the image encoder = {image} where \
                     projection = \"none\""
                ),
            )?;
        }
        let tags = self.mcr.as_ref().is_some_and(|mcr| mcr.tags);
        rule(
            !tags || model.image_tags,
            "mcr.tags",
            "true",
            "needs model.image_tags = true",
        )?;
        let phrases = self.mcr.as_ref().is_some_and(|mcr| mcr.phrases);
        rule(!phrases || joint, "mcr.phrases", "true", one_stream)?;
        rule(self.lm.is_none() || joint, "lm", "{}", one_stream)?;
        rule(self.vq.is_none() || dictionary, "vq", "{}", grounded)?;
        rule(self.codes.is_none() || dictionary, "codes", "{}", grounded)
    }
}

/// Parameters that came later than the format of checkpoints: where an older one lacks them they are zeros, which stand for what was
/// before.
pub const ADDED_LATER: &[&str] = &["itc.momentum.picture_queue"];

/// Whether a setting may be left out of a recipe.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Losses are computed in f32 whatever the encoders compute in.
fn single_precision<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::F32)
}
