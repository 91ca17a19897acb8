//! Hallucination: the classes of all cells of an agent's map, those that it has not seen too.
//!
//! ```text
//! loss = mean over decisions and cells of the cross-entropy of the cell's class
//! ```
//!
//! The classes of the map are resized to the layer's cells, each as the one that its upper left corner lies in. Void is a class like others.
//!
//! Source: WS-MGMap (Chen et al. 2022; `aux_prediction` of its release).
//!
//! Shape legend: `T` decisions of all episodes, `N` cells on a side of the semantic layer, `K` classes.

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, WalkTargets, Walks, config};
use unimo_core::init::Init;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::map::{SemanticConfig, nearest};

use crate::context::Context;
use crate::objective::{Objective, ObjectiveConfig, Settings};
use crate::outcome::Outcome;
use crate::pairs::Fused;
use crate::request::{By, Request, Samples, TextForm};
use crate::weight;

/// The class of cells outside of the house.
const VOID: u8 = 0;

/// `[objectives.hallucinate]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HallucinateConfig {
    /// Factor of the loss in the sum; 0.1 in WS-MGMap.
    #[serde(default = "weight")]
    pub weight: f64,
    /// Whether cells outside of the house are learned too, as in WS-MGMap's release.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub void: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl Settings for HallucinateConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn title(&self) -> &'static str {
        "classes of the map's cells"
    }

    fn requests(&self) -> Vec<Request> {
        vec![
            Request::text(TextForm::Plain),
            Request::walks(),
            Request::cell_classes(),
        ]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)
    }

    fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let semantic = model.map.as_ref().and_then(|map| map.semantic.as_ref());
        ConfigError::of_section(
            semantic.is_some(),
            "needs a semantic layer of the map, [model.map.semantic]",
        )
    }
}

impl ObjectiveConfig for HallucinateConfig {
    type Objective = Hallucinate;

    fn init(&self, _init: &mut Init, model: &BackboneConfig) -> Hallucinate {
        let semantic = model.map.as_ref().and_then(|map| map.semantic.clone());
        Hallucinate {
            layer: semantic.expect("invariant: validation finds a semantic layer"),
            config: self.clone(),
        }
    }
}

/// The classes of cells; the layer that predicts them is the encoder's.
#[derive(Module, Debug)]
pub struct Hallucinate {
    #[module(skip)]
    layer: SemanticConfig,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: HallucinateConfig,
}

impl Hallucinate {
    /// The loss of a batch's maps.
    ///
    /// # Shapes
    ///
    /// - logits: `[T, N * N, K]`
    pub fn loss_of(&self, logits: Tensor<3>, (walks, targets): (&Walks, &WalkTargets)) -> Outcome {
        let cells = self.layer.cells;
        let [decisions, places, classes] = logits.dims();
        assert_shape!(logits, [decisions, cells * cells, classes]);
        let seen = nearest(&walks.seen, walks.cells, cells);
        let labels = nearest(&targets.classes, walks.cells, cells).zip(seen);
        let counted = labels.enumerate().filter(|(_, (class, seen))| {
            (self.config.void || *class != VOID) && (self.layer.unseen || *seen > 0)
        });
        let (at, labels): (Vec<i32>, Vec<i32>) = counted
            .map(|(at, (class, _))| (at as i32, i32::from(class)))
            .unzip();
        if labels.len() == decisions * places {
            let all = logits.reshape([decisions * places, classes]);
            return Outcome::of_labels(all, labels, |logits| logits);
        }
        Outcome::of_positions(logits, (at, labels), |logits| logits)
    }
}

impl Objective for Hallucinate {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let logits = context.encoded.walks(By::Student).semantic.clone();
        let logits = logits.expect("invariant: validation finds a semantic layer");
        self.loss_of(logits, context.walks())
    }
}
