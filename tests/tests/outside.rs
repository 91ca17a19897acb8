//! What another crate adds without a change here: an objective by the registry, which a recipe names and the binary's code trains.

use std::fs;

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::init::Init;
use unimo_core::layers::Linear;
use unimo_encoders::backbone::BackboneConfig;
use unimo_objectives::registry;
use unimo_objectives::request::{By, ImageForm, ImageKind, Request, Samples};
use unimo_objectives::{Context, Fused, Objective, ObjectiveConfig, Outcome, Settings};
use unimo_train::checkpoint;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};

/// `[objectives.brightness]`: how bright an image is, predicted from its class token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrightnessConfig {
    weight: f64,
}

#[derive(Module, Debug)]
struct Brightness {
    head: Linear,
    #[module(skip)]
    config: BrightnessConfig,
}

impl Settings for BrightnessConfig {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn requests(&self) -> Vec<Request> {
        vec![Request::image(ImageForm::Plain)]
    }

    fn samples(&self) -> Samples {
        Samples::EACH
    }

    fn validate(&self) -> Result<(), ConfigError> {
        config::above_zero("weight", self.weight)
    }
}

impl ObjectiveConfig for BrightnessConfig {
    type Objective = Brightness;

    fn init(&self, init: &mut Init, model: &BackboneConfig) -> Brightness {
        Brightness {
            head: Linear::new(init, model.image_width(), 1, true),
            config: self.clone(),
        }
    }
}

impl Objective for Brightness {
    fn settings(&self) -> &dyn Settings {
        &self.config
    }

    fn loss(&self, context: &Context<'_>, _fused: &[Fused]) -> Outcome {
        let images = context.encoded.images(By::Student, ImageKind::Plain);
        let images = images.expect("the step gives what was requested");
        let levels = context.batch.images.as_ref().expect("a batch with images");
        let each = levels
            .pixels
            .chunks(levels.pixels.len() / context.batch.len());
        let mean = |image: &[u8]| {
            let sum: f32 = image.iter().map(|level| f32::from(*level)).sum();
            sum / (255.0 * image.len() as f32)
        };
        let targets: Vec<f32> = each.map(mean).collect();
        let targets = Tensor::<1>::from_data(targets.as_slice(), context.device);
        let found = self.head.forward(images.class.clone()).squeeze_dim::<1>(1);
        Outcome::new((found - targets).square().mean())
    }
}

const SMALL: &[&str] = &[
    "train.steps=12",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=6",
    "train.eval_every=0",
    "model.text.vocab_size=300",
    "model.text.width=16",
    "model.text.layers=1",
    "model.text.heads=2",
    "model.text.feed_forward=32",
    "model.image.image_size=32",
    "model.image.patch_size=16",
    "model.image.width=16",
    "model.image.layers=1",
    "model.image.heads=2",
    "model.image.feed_forward=32",
    "model.fusion.width=16",
    "model.fusion.layers=1",
    "model.fusion.heads=2",
    "model.fusion.feed_forward=32",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=60",
    "data.scenes.val=10",
    "data.tokenizer={ kind = \"train\", vocab_size = 300 }",
];

fn recipe(more: &[&str]) -> Result<Recipe, String> {
    let set = SMALL.iter().chain(more).map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load("unimo3-tiny", &overrides).map_err(|e| e.to_string())
}

#[test]
fn an_objective_of_another_crate_is_trained_resumed_and_validated() {
    let set = "objectives.brightness={ weight = 0.5 }";
    // Nobody knows it yet.
    let error = recipe(&[set]).unwrap_err();
    assert!(error.contains("brightness"), "{error}");
    registry::register::<BrightnessConfig>("brightness").unwrap();
    let twice = registry::register::<BrightnessConfig>("brightness");
    assert!(twice.unwrap_err().to_string().contains("brightness"));
    assert!(registry::register::<BrightnessConfig>("mlm").is_err());

    let error = recipe(&["objectives.brightness={ weight = -1.0 }"]).unwrap_err();
    assert!(error.contains("objectives.brightness.weight"), "{error}");
    let error = recipe(&["objectives.brightness={ weigth = 1.0 }"]).unwrap_err();
    assert!(error.contains("weigth"), "{error}");

    let recipe = recipe(&[set]).unwrap();
    assert!(
        recipe
            .to_toml()
            .unwrap()
            .contains("[objectives.brightness]")
    );
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let options = Options {
        quiet: true,
        train_only: true,
        ..Options::default()
    };
    training::start(&recipe, &run, &options).unwrap();
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["losses"]["brightness"]["loss"].as_f64().unwrap()
    };
    let losses: Vec<f64> = metrics.lines().map(loss).collect();
    assert_eq!(losses.len(), 12);
    assert!(losses[11] < losses[0], "{losses:?}");

    // Its head is in the checkpoint, and a run goes on from it to the same bits.
    let file = |run: &std::path::Path, step| checkpoint::path(&run.join("checkpoints"), step);
    let whole = fs::read(file(&run, 12)).unwrap();
    let text = String::from_utf8_lossy(&whole[..20_000.min(whole.len())]).into_owned();
    assert!(text.contains("model.objectives.brightness.head.weight"));
    fs::remove_file(file(&run, 12)).unwrap();
    training::resume(&run, &options).unwrap();
    assert_eq!(fs::read(file(&run, 12)).unwrap(), whole);
}
