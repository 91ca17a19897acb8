//! Objectives of other crates. A program registers them before it reads a recipe; the recipe then names them as it names the
//! built-in ones.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use burn::module::Module;
//! use burn::tensor::Tensor;
//! use serde::{Deserialize, Serialize};
//! use unimo_batch::{ConfigError, config};
//! use unimo_core::{init::Init, layers::Linear};
//! use unimo_encoders::backbone::BackboneConfig;
//! use unimo_objectives::{Context, Fused, Objective, ObjectiveConfig, Outcome, Settings};
//! use unimo_objectives::request::{By, ImageForm, ImageKind, Request, Samples};
//! use unimo_objectives::{ObjectivesConfig, registry};
//!
//! /// `[objectives.brightness]`: how bright an image is, from its class token.
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct BrightnessConfig {
//!     weight: f64,
//! }
//!
//! #[derive(Module, Debug)]
//! struct Brightness {
//!     head: Linear,
//!     #[module(skip)]
//!     config: BrightnessConfig,
//! }
//!
//! impl Settings for BrightnessConfig {
//!     fn weight(&self) -> f64 {
//!         self.weight
//!     }
//!     fn requests(&self) -> Vec<Request> {
//!         vec![Request::image(ImageForm::Plain)]
//!     }
//!     fn samples(&self) -> Samples {
//!         Samples::EACH
//!     }
//!     fn validate(&self) -> Result<(), ConfigError> {
//!         config::above_zero("weight", self.weight)
//!     }
//! }
//!
//! impl ObjectiveConfig for BrightnessConfig {
//!     type Objective = Brightness;
//!
//!     fn init(&self, init: &mut Init, model: &BackboneConfig) -> Brightness {
//!         Brightness {
//!             head: Linear::new(init, model.image_width(), 1, true),
//!             config: self.clone(),
//!         }
//!     }
//! }
//!
//! impl Objective for Brightness {
//!     fn settings(&self) -> &dyn Settings {
//!         &self.config
//!     }
//!
//!     fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
//!         let images = context.encoded.images(By::Student, ImageKind::Plain);
//!         let images = images.expect("the step gives what was requested");
//!         let levels = context.batch.images.as_ref().expect("the batch has images");
//!         let each = levels.pixels.chunks(levels.pixels.len() / context.batch.len());
//!         let means: Vec<f32> = each
//!             .map(|image| image.iter().map(|level| f32::from(*level)).sum::<f32>() / (255.0 * image.len() as f32))
//!             .collect();
//!         let targets = Tensor::<1>::from_data(means.as_slice(), context.device);
//!         let found = self.head.forward(images.class.clone()).squeeze_dim::<1>(1);
//!         Outcome::new((found - targets).square().mean())
//!     }
//! }
//!
//! registry::register::<BrightnessConfig>("brightness").unwrap();
//! let objectives: ObjectivesConfig =
//!     serde_json::from_str(r#"{ "brightness": { "weight": 0.5 } }"#).unwrap();
//! objectives.validate().unwrap();
//! assert_eq!(objectives.given(), ["brightness"]);
//! # }
//! ```

use std::fmt::{self, Debug};
use std::sync::Arc;

use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_batch::registry::Registry;
use unimo_core::init::Init;
use unimo_core::outside::Outside;
use unimo_encoders::backbone::BackboneConfig;

use crate::ObjectivesConfig;
use crate::objective::{Objective, ObjectiveConfig, Settings};

/// Reads the configuration of a registered objective.
pub(crate) type Read = fn(&'static str, Value) -> Result<OutsideConfig, String>;

pub(crate) static REGISTRY: Registry<Read> = Registry::new("objectives", "an objective");

/// Makes an objective known as `[objectives.KEY]`.
///
/// # Errors
///
/// The key already belongs to an objective.
pub fn register<C: ObjectiveConfig>(key: &'static str) -> Result<(), ConfigError> {
    REGISTRY.add(key, ObjectivesConfig::KEYS, read::<C>)
}

/// The keys that other crates have registered.
pub fn registered() -> Vec<&'static str> {
    REGISTRY.keys()
}

fn read<C: ObjectiveConfig>(key: &'static str, value: Value) -> Result<OutsideConfig, String> {
    let config: C = serde_json::from_value(value).map_err(|e| e.to_string())?;
    // With every value written out, as recipes are recorded.
    let value = serde_json::to_value(&config).map_err(|e| e.to_string())?;
    Ok(OutsideConfig {
        key,
        value,
        config: Arc::new(config),
    })
}

/// The configuration of a registered objective.
#[derive(Clone)]
pub struct OutsideConfig {
    pub(crate) key: &'static str,
    pub(crate) value: Value,
    config: Arc<dyn Make>,
}

impl Debug for OutsideConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.config.settings())
    }
}

impl PartialEq for OutsideConfig {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl OutsideConfig {
    pub(crate) fn settings(&self) -> &dyn Settings {
        self.config.settings()
    }

    pub(crate) fn init(&self, init: &mut Init, model: &BackboneConfig) -> OutsideObjective {
        self.config.make(self.key, init, model)
    }
}

trait Make: Send + Sync {
    fn settings(&self) -> &dyn Settings;
    fn make(&self, key: &'static str, init: &mut Init, model: &BackboneConfig) -> OutsideObjective;
}

impl<C: ObjectiveConfig> Make for C {
    fn settings(&self) -> &dyn Settings {
        self
    }

    fn make(&self, key: &'static str, init: &mut Init, model: &BackboneConfig) -> OutsideObjective {
        Outside::new(
            key,
            self.init(init, model),
            |module| {
                let objective = module.downcast_ref::<C::Objective>();
                objective.expect("invariant: it was made of this type")
            },
            |module| {
                let objective = module.downcast_mut::<C::Objective>();
                objective.expect("invariant: it was made of this type")
            },
        )
    }
}

/// An objective of another crate. It is a module whose parameters are stored under its key.
pub type OutsideObjective = Outside<dyn Objective>;
