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

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, PoisonError, RwLock};

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Int, Tensor};
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

use crate::ObjectivesConfig;
use crate::objective::{Objective, ObjectiveConfig, Settings};

/// Reads the configuration of a registered objective.
type Read = fn(&'static str, Value) -> Result<OutsideConfig, String>;

/// A process has one list: a recipe is read in many places and means the same in all of them.
static REGISTERED: RwLock<BTreeMap<&'static str, Read>> = RwLock::new(BTreeMap::new());

/// Makes an objective known as `[objectives.KEY]`.
///
/// # Errors
///
/// The key already belongs to an objective.
pub fn register<C: ObjectiveConfig>(key: &'static str) -> Result<(), ConfigError> {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    let known = ObjectivesConfig::KEYS.contains(&key) || registered.contains_key(key);
    ConfigError::unless(
        !known,
        "objectives",
        format_args!("\"{key}\""),
        "an objective of this name is known already",
    )?;
    registered.insert(key, read::<C>);
    Ok(())
}

/// The keys that other crates have registered.
pub fn registered() -> Vec<&'static str> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    registered.keys().copied().collect()
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

/// Reads the section of a registered objective; `None` if the key is not registered.
pub(crate) fn find(key: &str, value: Value) -> Option<Result<OutsideConfig, String>> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    let (key, read) = registered.get_key_value(key)?;
    Some(read(key, value))
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
        OutsideObjective {
            key: self.key,
            objective: self.config.make(init, model),
        }
    }
}

trait Make: Send + Sync {
    fn settings(&self) -> &dyn Settings;
    fn make(&self, init: &mut Init, model: &BackboneConfig) -> Box<dyn AnyObjective>;
}

impl<C: ObjectiveConfig> Make for C {
    fn settings(&self) -> &dyn Settings {
        self
    }

    fn make(&self, init: &mut Init, model: &BackboneConfig) -> Box<dyn AnyObjective> {
        Box::new(self.init(init, model))
    }
}

/// An objective of another crate. It is a module whose parameters are stored under its key.
#[derive(Debug)]
pub struct OutsideObjective {
    pub(crate) key: &'static str,
    objective: Box<dyn AnyObjective>,
}

impl OutsideObjective {
    /// The objective.
    pub fn objective(&self) -> &dyn Objective {
        self.objective.as_objective()
    }

    /// The same, mutable, for the changes after a step.
    pub(crate) fn objective_mut(&mut self) -> &mut dyn Objective {
        self.objective.as_objective_mut()
    }

    /// The objective as its own type.
    pub fn downcast<T: Objective + Module + 'static>(&self) -> Option<&T> {
        self.objective.as_any().downcast_ref()
    }

    fn with(&self, objective: Box<dyn AnyObjective>) -> Self {
        Self {
            key: self.key,
            objective,
        }
    }
}

impl Clone for OutsideObjective {
    fn clone(&self) -> Self {
        self.with(self.objective.copy())
    }
}

/// The methods of burn's `Module`, without type parameters.
trait AnyObjective: Debug + Send {
    fn as_objective(&self) -> &dyn Objective;
    fn as_objective_mut(&mut self) -> &mut dyn Objective;
    fn as_any(&self) -> &dyn Any;
    fn copy(&self) -> Box<dyn AnyObjective>;
    fn devices(&self, devices: Devices) -> Devices;
    fn fork(&self, device: &Device) -> Box<dyn AnyObjective>;
    fn to_device(&self, device: &Device) -> Box<dyn AnyObjective>;
    fn train(&self) -> Box<dyn AnyObjective>;
    fn valid(&self) -> Box<dyn AnyObjective>;
    fn materialize(&self) -> Box<dyn AnyObjective>;
    fn visit(&self, visitor: &mut dyn AnyVisitor);
    fn map(&self, mapper: &mut dyn AnyMapper) -> Box<dyn AnyObjective>;
}

impl<T: Objective + Module + 'static> AnyObjective for T {
    fn as_objective(&self) -> &dyn Objective {
        self
    }
    fn as_objective_mut(&mut self) -> &mut dyn Objective {
        self
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn copy(&self) -> Box<dyn AnyObjective> {
        Box::new(self.clone())
    }
    fn devices(&self, devices: Devices) -> Devices {
        Module::collect_devices(self, devices)
    }
    fn fork(&self, device: &Device) -> Box<dyn AnyObjective> {
        Box::new(Module::fork(self.clone(), device))
    }
    fn to_device(&self, device: &Device) -> Box<dyn AnyObjective> {
        Box::new(Module::to_device(self.clone(), device))
    }
    fn train(&self) -> Box<dyn AnyObjective> {
        Box::new(Module::train(self.clone()))
    }
    fn valid(&self) -> Box<dyn AnyObjective> {
        Box::new(Module::valid(self))
    }
    fn materialize(&self) -> Box<dyn AnyObjective> {
        Box::new(Module::materialize(self.clone()))
    }
    fn visit(&self, visitor: &mut dyn AnyVisitor) {
        Module::visit(self, &mut ToAny(visitor));
    }
    fn map(&self, mapper: &mut dyn AnyMapper) -> Box<dyn AnyObjective> {
        Box::new(Module::map(self.clone(), &mut ToAny(mapper)))
    }
}

/// A visitor without type parameters: parameters come as [`Any`].
trait AnyVisitor {
    fn see(&mut self, param: &dyn Any);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// The same for a mapper.
trait AnyMapper {
    fn change(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// A visitor or mapper with type parameters, in front of one without.
struct ToAny<'a, T: ?Sized>(&'a mut T);

impl ModuleVisitor for ToAny<'_, dyn AnyVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.see(param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.see(param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.see(param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.see(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ToAny<'_, dyn AnyMapper + '_> {
    fn change<P: Any>(&mut self, param: P) -> P {
        let changed = self.0.change(Box::new(param)).downcast::<P>();
        *changed.expect("invariant: a mapper gives back what it was given")
    }
}

impl ModuleMapper for ToAny<'_, dyn AnyMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.change(param)
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.change(param)
    }
    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.change(param)
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.change(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// A visitor or mapper without type parameters, in front of one with them.
struct FromAny<'a, T>(&'a mut T);

impl<V: ModuleVisitor> AnyVisitor for FromAny<'_, V> {
    fn see(&mut self, param: &dyn Any) {
        macro_rules! ranks {
            ($($rank:literal),+) => {$(
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank>>>() {
                    return self.0.visit_float(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Int>>>() {
                    return self.0.visit_int(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Bool>>>() {
                    return self.0.visit_bool(param);
                }
            )+};
        }
        ranks!(1, 2, 3, 4, 5, 6);
        match param.downcast_ref::<Param<Flag>>() {
            Some(flag) => self.0.visit_flag(flag),
            None => unreachable!("invariant: parameters have one to six axes"),
        }
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> AnyMapper for FromAny<'_, M> {
    fn change(&mut self, mut param: Box<dyn Any>) -> Box<dyn Any> {
        macro_rules! ranks {
            ($($rank:literal),+) => {$(
                param = match param.downcast::<Param<Tensor<$rank>>>() {
                    Ok(param) => return Box::new(self.0.map_float(*param)),
                    Err(other) => other,
                };
                param = match param.downcast::<Param<Tensor<$rank, Int>>>() {
                    Ok(param) => return Box::new(self.0.map_int(*param)),
                    Err(other) => other,
                };
                param = match param.downcast::<Param<Tensor<$rank, Bool>>>() {
                    Ok(param) => return Box::new(self.0.map_bool(*param)),
                    Err(other) => other,
                };
            )+};
        }
        ranks!(1, 2, 3, 4, 5, 6);
        match param.downcast::<Param<Flag>>() {
            Ok(flag) => Box::new(self.0.map_flag(*flag)),
            Err(_) => unreachable!("invariant: parameters have one to six axes"),
        }
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

const CONTAINER: &str = "Struct:OutsideObjective";

impl Module for OutsideObjective {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.objective.devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.with(self.objective.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.with(self.objective.to_device(device))
    }
    fn train(self) -> Self {
        self.with(self.objective.train())
    }
    fn valid(&self) -> Self {
        self.with(self.objective.valid())
    }
    fn materialize(self) -> Self {
        self.with(self.objective.materialize())
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(self.key, CONTAINER);
        self.objective.visit(&mut FromAny(visitor));
        visitor.exit_module(self.key, CONTAINER);
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module(self.key, CONTAINER);
        let mapped = self.with(self.objective.map(&mut FromAny(mapper)));
        mapper.exit_module(self.key, CONTAINER);
        mapped
    }
}

impl ModuleDisplay for OutsideObjective {}

impl ModuleDisplayDefault for OutsideObjective {
    fn content(&self, content: Content) -> Option<Content> {
        content.set_top_level_type(self.key).optional()
    }
}
