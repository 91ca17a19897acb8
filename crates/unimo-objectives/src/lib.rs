//! What unimo trains on. An objective is a loss with its head. It owns its weights and says what it wants encoded. It is one file
//! and one line in the list below, or is registered from another crate ([`registry`]). A step computes what several objectives need
//! once.
//!
//! Objectives know the encoders and the batch type, but no data set and no training loop.
//!
//! ```
//! use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
//! use unimo_objectives::ObjectivesConfig;
//!
//! let objectives = ObjectivesConfig {
//!     itm: Some(ItmConfig {
//!         weight: 1.0,
//!         negatives: Negatives::Uniform,
//!         layout: Layout::Half,
//!         head: Head::Pair,
//!         epsilon: None,
//!     }),
//!     ..ObjectivesConfig::default()
//! };
//! objectives.validate().unwrap();
//! ```

mod config;
pub mod context;
pub mod contrast;
mod draws;
mod encode;
pub mod encoded;
pub mod features;
pub mod generation;
pub mod kept;
mod labels;
pub mod lent;
pub mod objective;
pub mod others;
pub mod outcome;
pub mod pairs;
pub mod partners;
pub mod pretraining;
pub mod queue;
pub mod ramp;
pub mod registry;
pub mod request;
mod step;
pub mod stories;
pub mod tasks;
pub mod teacher;
mod temperature;
pub mod tied;
pub mod together;
pub mod walks;

use std::ops::{Deref, DerefMut};

pub use burn;
use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{Device, FloatDType, Tensor};
pub use rand_chacha::ChaCha8Rng;
use unimo_core::dtype::cast;
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;

pub use crate::context::Context;
pub use crate::draws::Draws;
use crate::lent::Lenders;
pub use crate::objective::{AfterStep, AnsweredBy, Objective, ObjectiveConfig, Predicts, Settings};
pub use crate::outcome::{ACCURACY, Carry, CarryData, Metric, Outcome};
pub use crate::pairs::{Fused, Pairs};
use crate::registry::{OutsideConfig, OutsideObjective};
pub use crate::step::{ObjectiveResult, Step};
use crate::teacher::Teacher;

/// The list of objectives: key in a recipe, configuration.
macro_rules! objectives {
    ($($key:ident: $config:ty;)+) => {
        /// `[objectives]`: the objectives that are present are trained.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct ObjectivesConfig {
            $(
                #[doc = concat!("`[objectives.", stringify!($key), "]`.")]
                pub $key: Option<$config>,
            )+
            /// The objectives of other crates.
            pub outside: Vec<OutsideConfig>,
        }

        /// The built-in objectives, with their heads.
        #[derive(Module, Debug)]
        pub struct BuiltIn {
            $(
                #[doc = concat!("`[objectives.", stringify!($key), "]`.")]
                pub $key: Option<<$config as ObjectiveConfig>::Objective>,
            )+
        }

        impl ObjectivesConfig {
            /// The keys of all built-in objectives.
            pub const KEYS: &[&str] = &[$(stringify!($key)),+];

            /// The configurations that are present, with their keys.
            pub fn each(&self) -> Vec<(&'static str, &dyn Settings)> {
                let mut all: Vec<(&'static str, &dyn Settings)> = Vec::new();
                $(
                    if let Some(config) = &self.$key {
                        all.push((stringify!($key), config));
                    }
                )+
                all.extend(self.outside.iter().map(|c| (c.key, c.settings())));
                all
            }

            /// Gives a built-in task its number of classes. An objective of another crate states its own.
            pub fn set_classes(&mut self, key: &str, classes: usize) {
                match key {
                    $(stringify!($key) => {
                        if let Some(config) = &mut self.$key {
                            config.set_classes(classes);
                        }
                    })+
                    _ => {}
                }
            }

            /// The same where the heads of built-in objectives have no dropout, for looking into a model with gradients.
            #[must_use]
            pub fn without_dropout(mut self) -> Self {
                $(
                    if let Some(config) = &mut self.$key {
                        config.turn_dropout_off();
                    }
                )+
                self
            }

            /// New heads on top of encoders made from `model`.
            pub fn init(&self, init: &mut Init, model: &BackboneConfig) -> Objectives {
                $(let $key = self.$key.as_ref().map(|config| config.init(init, model));)+
                let objectives = Objectives {
                    built_in: Box::new(BuiltIn { $($key),+ }),
                    outside: self.outside.iter().map(|c| c.init(init, model)).collect(),
                };
                objectives.lent()
            }

            /// Reads the section of a built-in objective; returns the values if no built-in objective has the key.
            fn read<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                values: &mut A,
            ) -> Result<bool, A::Error> {
                match key {
                    $(stringify!($key) => self.$key = Some(values.next_value()?),)+
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Writes the sections of the built-in objectives.
            fn write<S: serde::ser::SerializeMap>(&self, map: &mut S) -> Result<(), S::Error> {
                $(
                    if let Some(config) = &self.$key {
                        map.serialize_entry(stringify!($key), config)?;
                    }
                )+
                Ok(())
            }
        }

        impl Objectives {
            /// The objectives that the recipe names, with their keys.
            pub fn each(&self) -> Vec<(&'static str, &dyn Objective)> {
                let mut all: Vec<(&'static str, &dyn Objective)> = Vec::new();
                $(
                    if let Some(objective) = &self.$key {
                        all.push((stringify!($key), objective));
                    }
                )+
                all.extend(self.outside.iter().map(|o| (o.key(), o.get())));
                all
            }

            fn each_mut(&mut self) -> Vec<(&'static str, &mut dyn Objective)> {
                let mut all: Vec<(&'static str, &mut dyn Objective)> = Vec::new();
                $(
                    if let Some(objective) = &mut self.built_in.$key {
                        all.push((stringify!($key), objective));
                    }
                )+
                all.extend(self.outside.iter_mut().map(|o| {
                    let key = o.key();
                    (key, o.get_mut() as &mut dyn Objective)
                }));
                all
            }
        }
    };
}

objectives! {
    mlm: pretraining::mlm::MlmConfig;
    itm: pretraining::itm::ItmConfig;
    itc: pretraining::itc::ItcConfig;
    lm: pretraining::lm::LmConfig;
    vq: pretraining::vq::VqConfig;
    codes: pretraining::codes::CodesConfig;
    mcr: pretraining::mcr::McrConfig;
    wpg: pretraining::wpg::WpgConfig;
    views: pretraining::views::ViewsConfig;
    mrm: pretraining::mrm::MrmConfig;
    mim: pretraining::mim::MimConfig;
    psl: pretraining::psl::PslConfig;
    locate: tasks::locate::LocateConfig;
    mrtm: pretraining::mrtm::MrtmConfig;
    regions: pretraining::regions::RegionsConfig;
    ttc: pretraining::ttc::TtcConfig;
    ttm: pretraining::ttm::TtmConfig;
    tlm: pretraining::tlm::TlmConfig;
    xlco: pretraining::xlco::XlcoConfig;
    alignment: pretraining::alignment::AlignmentConfig;
    vqa: tasks::vqa::VqaConfig;
    answers: tasks::answers::AnswersConfig;
    nlvr2: tasks::nlvr2::Nlvr2Config;
    snli_ve: tasks::snli_ve::SnliVeConfig;
    ranking: tasks::ranking::RankingConfig;
    classes: tasks::classes::ClassesConfig;
    prompts: tasks::prompts::PromptsConfig;
    sentences: tasks::sentences::SentencesConfig;
    grounding: tasks::grounding::GroundingConfig;
    region_scoring: tasks::region_scoring::RegionScoringConfig;
    walk: tasks::walk::WalkConfig;
    path: tasks::path::PathConfig;
    hallucinate: tasks::hallucinate::HallucinateConfig;
}

/// The objectives of a recipe, with their heads.
#[derive(Debug, Clone)]
pub struct Objectives {
    /// On the heap: a model is handed on by value, through many frames of a stack.
    built_in: Box<BuiltIn>,
    outside: Vec<OutsideObjective>,
}

impl Deref for Objectives {
    type Target = BuiltIn;

    fn deref(&self) -> &BuiltIn {
        &self.built_in
    }
}

/// A head that is put in another's place is lent to objectives that share it when the parameters change next.
impl DerefMut for Objectives {
    fn deref_mut(&mut self) -> &mut BuiltIn {
        &mut self.built_in
    }
}

impl Objectives {
    /// The same where objectives have the heads of others that they share, as these are now. Whatever changes parameters calls this.
    fn lent(mut self) -> Self {
        self.lend();
        self
    }

    fn lend(&mut self) {
        let lenders = Lenders::default()
            .with(self.itc.as_ref())
            .with(self.itm.as_ref())
            .with(self.mlm.as_ref());
        for (_, objective) in self.each_mut() {
            objective.borrow_heads(&lenders);
        }
    }

    /// An objective of another crate, by its key.
    pub fn outside(&self, key: &str) -> Option<&OutsideObjective> {
        self.outside.iter().find(|outside| outside.key() == key)
    }

    /// To be called when the encoders have been given other weights before the first step.
    pub fn adopt(&mut self) {
        for (_, objective) in self.each_mut() {
            objective.adopt();
        }
        self.lend();
    }

    /// Clamps, moving averages and queues, after the optimiser's step. `carries` comes from the [`Step`]s of the micro-batches.
    pub fn after_step(&mut self, teacher: Option<&Teacher>, carries: Vec<(&'static str, Carry)>) {
        let decay = teacher.map(Teacher::decay);
        for (key, objective) in self.each_mut() {
            let own = carries.iter().filter(|(k, _)| *k == key);
            objective.after_step(&AfterStep {
                decay,
                carries: own.map(|(_, carry)| carry.clone()).collect(),
            });
        }
        self.lend();
    }
}

/// Parameters are stored under the objectives' keys, whether an objective is built in or not.
impl Module for Objectives {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.outside
            .collect_devices(self.built_in.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        self.changed(|m| m.fork(device), |m| m.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.changed(|m| m.to_device(device), |m| m.to_device(device))
    }
    fn train(self) -> Self {
        self.changed(Module::train, Module::train)
    }
    fn valid(&self) -> Self {
        self.clone().changed(|m| m.valid(), |m| m.valid())
    }
    fn materialize(self) -> Self {
        self.changed(Module::materialize, Module::materialize)
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.built_in.visit(visitor);
        for outside in &self.outside {
            outside.visit(visitor);
        }
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let built_in = Box::new((*self.built_in).map(mapper));
        let outside = self.outside.into_iter().map(|o| o.map(mapper));
        let objectives = Self {
            built_in,
            outside: outside.collect(),
        };
        objectives.lent()
    }
}

impl Objectives {
    fn changed(
        self,
        built_in: impl FnOnce(BuiltIn) -> BuiltIn,
        outside: impl Fn(OutsideObjective) -> OutsideObjective,
    ) -> Self {
        let objectives = Self {
            built_in: Box::new(built_in(*self.built_in)),
            outside: self.outside.into_iter().map(outside).collect(),
        };
        objectives.lent()
    }
}

impl ModuleDisplay for Objectives {}

impl ModuleDisplayDefault for Objectives {
    fn content(&self, content: Content) -> Option<Content> {
        self.built_in.content(content)
    }
}

const NEEDS_ONE_STREAM: &str = "needs a cross-modal encoder of one stream, [model.joint], or none";
const NEEDS_STORIES: &str = "needs a stream that reads stories, [model.joint.interleaved], and an image encoder of pixels, [model.image]";
const NEEDS_MAP: &str = "needs an agent that reads a map, [model.map]";
const NEEDS_TEXT_STREAM: &str = "needs a cross-modal encoder whose texts read images or other texts: [model.fusion] with image_stream = false";
const NEEDS_TWO_STREAMS: &str =
    "needs a cross-modal encoder of two streams, [model.fusion] with image_stream = true";
const NEEDS_IMAGE_STATES: &str = "needs states of the image from the cross-modal encoder: [model.joint], or [model.fusion] with image_stream = true or shared = true";

/// Whether a setting may be left out of a recipe.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A value as a recipe has it, for the message of an error.
fn written(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The weight of an objective that a recipe gives none.
fn weight() -> f64 {
    1.0
}

/// Losses are computed in f32, whatever the dtype of the encoders.
fn single_precision<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::F32)
}
