//! Evaluators of other crates. A program registers them before it reads a recipe, which then has `[eval.KEY]`.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use unimo_batch::{ConfigError, config};
//! use unimo_report::record::{EvalRecord, ScalarRecord};
//! use unimo_train::error::TrainError;
//! use unimo_train::evaluators::registry::{EvaluatorConfig, register};
//! use unimo_train::evaluators::{Evaluator, HeldOut, Weights};
//! use unimo_train::recipe::Recipe;
//!
//! /// `[eval.parameters]`: how many tensors of parameters the model has, times `scale`.
//! #[derive(Debug, Clone, Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct ParametersConfig {
//!     scale: f64,
//! }
//!
//! struct Parameters(ParametersConfig);
//!
//! impl EvaluatorConfig for ParametersConfig {
//!     fn validate(&self) -> Result<(), ConfigError> {
//!         config::above_zero("scale", self.scale)
//!     }
//!     fn open(&self, _recipe: &Recipe, _held_out: &HeldOut<'_>) -> Result<Box<dyn Evaluator>, TrainError> {
//!         Ok(Box::new(Parameters(self.clone())))
//!     }
//! }
//!
//! impl Evaluator for Parameters {
//!     fn name(&self) -> &'static str {
//!         "parameters"
//!     }
//!     fn scalars(&self) -> Vec<String> {
//!         vec!["parameters.count".to_owned()]
//!     }
//!     fn evaluate(
//!         &self,
//!         weights: &Weights<'_>,
//!         _say: &mut dyn FnMut(String),
//!     ) -> Result<Vec<EvalRecord>, TrainError> {
//!         let count = unimo_core::parameters::list(weights.model).len() as f64;
//!         let value = ScalarRecord { value: self.0.scale * count, chance: None, interval: None };
//!         Ok(vec![EvalRecord {
//!             evaluator: self.name().to_owned(),
//!             step: weights.step,
//!             scalars: [("parameters.count".to_owned(), value)].into(),
//!             ..EvalRecord::default()
//!         }])
//!     }
//! }
//!
//! register::<ParametersConfig>("parameters").unwrap();
//! let overrides = unimo_train::recipe::Overrides {
//!     data: None,
//!     set: vec!["eval.parameters={ scale = 0.001 }".to_owned()],
//! };
//! let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
//! assert!(recipe.to_toml().unwrap().contains("[eval.parameters]"));
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_batch::registry::{Registry, fields_of};
use unimo_objectives::ObjectivesConfig;

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable};
use crate::evaluators::{Evaluator, HeldOut, retrieval};
use crate::recipe::outside::{self, Entry, OutsideSection};
use crate::recipe::{EvalConfig, Recipe};

/// `[eval.KEY]`: the settings of an evaluator of another crate, by plain serde with `deny_unknown_fields`.
pub trait EvaluatorConfig: Serialize + DeserializeOwned {
    /// Checks every value. Keys are those within the section.
    ///
    /// # Errors
    ///
    /// A value is not allowed.
    fn validate(&self) -> Result<(), ConfigError>;

    /// The evaluator, whose [name](Evaluator::name) must be the key that it is registered by. Its settings that contradict the
    /// recipe are errors too. It is opened once for a training, and once for each split by `unimo eval`.
    ///
    /// # Errors
    ///
    /// Its data cannot be used.
    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Box<dyn Evaluator>, TrainError>;
}

type Open = fn(&Value, &Recipe, &HeldOut<'_>) -> Result<Box<dyn Evaluator>, TrainError>;

static REGISTRY: Registry<Open> = Registry::new("eval", "an evaluator");

/// Makes an evaluator known as `[eval.KEY]`.
///
/// # Errors
///
/// The key is one of `[eval]`, or the name of an evaluator or objective, whose numbers begin with it.
pub fn register<C: EvaluatorConfig>(key: &'static str) -> Result<(), ConfigError> {
    let mut taken = fields_of::<EvalConfig>();
    taken.push(retrieval::NAME);
    taken.extend(ObjectivesConfig::KEYS);
    let entry = Entry {
        read: |value| {
            let config: C = serde_json::from_value(value).map_err(|e| e.to_string())?;
            serde_json::to_value(&config).map_err(|e| e.to_string())
        },
        validate: |value| match settings::<C>(value) {
            Ok(config) => config.validate(),
            Err(reason) => ConfigError::of_section(false, reason),
        },
    };
    outside::REGISTRY.add(key, &taken, entry)?;
    REGISTRY.add(key, &taken, |value, recipe, held_out| {
        let config: C = settings(value).map_err(TrainError::Check)?;
        config.open(recipe, held_out)
    })
}

/// The settings, which were written by the same type.
fn settings<C: EvaluatorConfig>(value: &Value) -> Result<C, String> {
    serde_json::from_value(value.clone()).map_err(|e| e.to_string())
}

impl EvalSection for OutsideSection {
    fn key(&self) -> &'static str {
        self.key
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        // They are known when it is opened.
        Selectable {
            names: Vec::new(),
            others: true,
        }
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        let key = self.key;
        let Some((_, open)) = REGISTRY.get(key) else {
            return Err(TrainError::Check(format!(
                "this program registers no evaluator for [eval.{key}]"
            )));
        };
        let evaluator = open(&self.value, recipe, held_out)?;
        if evaluator.name() == key {
            return Ok(Some(evaluator));
        }
        Err(TrainError::Check(format!(
            "the evaluator that is registered as \"{key}\" is called \"{}\" by its own `name`: the two must be equal, since its numbers \
             are found by it",
            evaluator.name()
        )))
    }
}
