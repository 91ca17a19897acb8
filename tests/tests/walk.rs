//! An agent that follows an instruction over a map (WS-MGMap): its outputs, its four losses and all gradients against an independent PyTorch
//! reference, `reference/walk.py`; what a batch lacks, and what a recipe may not ask.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use unimo_batch::{Batch, Texts, WalkTargets, Walks};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::map::{History, MapConfig, SemanticConfig, ViewConfig};
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};
use unimo_objectives::tasks::hallucinate::HallucinateConfig;
use unimo_objectives::tasks::locate::Range;
use unimo_objectives::tasks::path::PathConfig;
use unimo_objectives::tasks::walk::WalkConfig;
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};
use unimo_tests::fixture::Reference;
use unimo_tests::small::WALKS;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

const STEPS: [usize; 3] = [3, 1, 2];
const LENGTHS: [usize; 3] = [5, 3, 4];
const WIDTH: usize = 8;
const CELLS: usize = 8;
const CHANNELS: usize = 3;
const VIEW: usize = 8;
const CLASSES: usize = 5;
const KEYS: [&str; 3] = ["walk", "path", "hallucinate"];

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 20,
            width: WIDTH,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            max_positions: 8,
            positions: Positions::FromZero,
            token_types: 1,
            pad_id: 1,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
            outside: None,
        },
        image: None,
        regions: None,
        outside: None,
        image_tags: false,
        fusion: None,
        joint: None,
        representation: None,
        map: Some(MapConfig {
            cells: CELLS,
            channels: CHANNELS,
            patch_size: 4,
            fine: true,
            fine_layers: 2,
            semantic: Some(SemanticConfig {
                classes: CLASSES,
                cells: 4,
                layers: 2,
                unseen: true,
            }),
            view: Some(ViewConfig {
                image_size: [VIEW; 2],
                patch_size: 4,
                layers: 2,
            }),
            memory_layers: 2,
            steps: 4,
            width: WIDTH,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
        }),
    }
}

/// The reference's weights of the four losses.
fn objectives() -> ObjectivesConfig {
    ObjectivesConfig {
        walk: Some(WalkConfig {
            weight: 8.0,
            progress: 0.5,
        }),
        path: Some(PathConfig {
            weight: 80.0,
            temperature: 0.07,
            range: Range::Batch,
            mean: true,
        }),
        hallucinate: Some(HallucinateConfig {
            weight: 4.0,
            void: true,
        }),
        ..ObjectivesConfig::default()
    }
}

struct Toy {
    reference: Reference,
    backbone: Backbone,
}

impl Toy {
    fn new() -> Self {
        let reference = Reference::open("walk", "walk");
        let model = model();
        model.validate().unwrap();
        let backbone = model.init(&mut Init::new(&reference.device, 0));
        Self {
            backbone: reference.fill(backbone, "backbone."),
            reference,
        }
    }

    fn heads(&self, config: &ObjectivesConfig, model: &BackboneConfig) -> Objectives {
        config.validate().unwrap();
        config.validate_with(model).unwrap();
        let heads = config.init(&mut Init::new(&self.reference.device, 0), model);
        parameters::replace(heads, |name, _| self.reference.known(name))
    }

    fn batch(&self) -> Batch {
        let bytes = |name: &str| -> Vec<u8> {
            let numbers = self.reference.numbers(name).into_iter();
            numbers.map(|number| number as u8).collect()
        };
        let floats = |name: &str| -> Vec<f32> {
            let data = self.reference.known(name).unwrap();
            data.iter::<f32>().collect()
        };
        let waypoints = floats("waypoints");
        let ids = self.reference.numbers("ids").into_iter();
        Batch {
            samples: vec![String::new(); STEPS.len()],
            texts: Some(Texts {
                ids: ids.map(|id| id as i32).collect(),
                length: 5,
                lengths: LENGTHS.to_vec(),
                ..Texts::default()
            }),
            walks: Some(Walks {
                steps: STEPS.to_vec(),
                cells: CELLS,
                channels: CHANNELS,
                maps: bytes("maps"),
                views: bytes("views"),
                height: VIEW,
                width: VIEW,
                seen: bytes("seen"),
                targets: Some(WalkTargets {
                    waypoints: waypoints.chunks(2).map(|at| [at[0], at[1]]).collect(),
                    progress: floats("progress"),
                    distances: floats("distances"),
                    classes: bytes("classes"),
                    class_count: CLASSES,
                }),
            }),
            ..Batch::default()
        }
    }

    fn run(&self, heads: &Objectives, batch: &Batch) -> Step {
        heads.step(&self.backbone, batch, &self.reference.device, Draws::new(1))
    }
}

fn of<'a>(step: &'a Step, key: &str) -> &'a Tensor<1> {
    let found = step.results.iter().find(|result| result.objective == key);
    &found.unwrap().loss
}

#[test]
fn an_agent_and_its_losses_equal_the_reference() {
    let toy = Toy::new();
    let reference = &toy.reference;
    let heads = toy.heads(&objectives(), &model());
    let batch = toy.batch();
    let step = toy.run(&heads, &batch);
    // The way-point's part of the loss, by a progress that counts almost nothing.
    let mut alone = objectives();
    alone.walk.as_mut().unwrap().progress = 1e-9;
    let waypoint = toy.run(&toy.heads(&alone, &model()), &batch);
    reference.output("loss_waypoint", of(&waypoint, "walk"));
    let both = of(&step, "walk").clone() - of(&waypoint, "walk").clone();
    reference.output("loss_progress", &(both / 0.5));
    reference.output("loss_path", of(&step, "path"));
    reference.output("loss_hallucinate", of(&step, "hallucinate"));

    let map = toy.backbone.map.as_ref().unwrap();
    let texts = batch.texts.as_ref().unwrap();
    let texts = heads.read_instructions(&toy.backbone, texts, &reference.device);
    let walks = batch.walks.as_ref().unwrap();
    let features = map.forward(&texts, &map.input(walks, &reference.device));
    reference.output("states", &features.states);
    reference.output("attention", features.attention.as_ref().unwrap());
    reference.output("logits", features.semantic.as_ref().unwrap());
    let walk = heads.walk.as_ref().unwrap();
    let (waypoints, progress) = walk.forward(features.states);
    reference.output("predicted_waypoint", &waypoints);
    reference.output("predicted_progress", &progress);

    let total = step.loss.unwrap();
    reference.output("total", &total);
    let mut gradients = total.backward();
    // Softmax does not see a key's bias: its gradient is 0 but for rounding, in sums of hundreds more than the reference's bound for zeros.
    let zeros = [
        "backbone.text.layers.*.attention.key.bias",
        "backbone.map.tokens.*.layers.*.attention.key.bias",
        "backbone.map.*.layers.*.attention.key.bias",
        "backbone.map.words.key.bias",
        "backbone.map.places.key.bias",
    ];
    let of_backbone = reference.known_gradients(&toy.backbone, "backbone.", &mut gradients, &zeros);
    let of_walk = reference.known_gradients(walk, "walk.", &mut gradients, &[]);
    // Five stacks of two blocks of 16 and their norms, what is around them, and the text encoder's; without six times two and two zeros.
    let blocks = 5 * (2 * 16 + 2);
    assert_eq!((of_backbone, of_walk), (blocks + 28 + 37 - 14, 4));
}

#[test]
fn other_forms_of_the_losses_equal_the_reference() {
    let toy = Toy::new();
    let batch = toy.batch();
    let loss = |change: fn(&mut ObjectivesConfig), key: &str| {
        let mut config = objectives();
        change(&mut config);
        of(&toy.run(&toy.heads(&config, &model()), &batch), key).clone()
    };
    let path = |change: fn(&mut PathConfig)| {
        let mut config = objectives();
        change(config.path.as_mut().unwrap());
        of(&toy.run(&toy.heads(&config, &model()), &batch), "path").clone()
    };
    let reference = &toy.reference;
    reference.output("loss_path_sample", &path(|c| c.range = Range::Sample));
    reference.output("loss_path_sum", &path(|c| c.mean = false));
    let mut seen_only = model();
    let map = seen_only.map.as_mut().unwrap();
    map.semantic.as_mut().unwrap().unseen = false;
    let mut config = objectives();
    config.hallucinate.as_mut().unwrap().void = false;
    let heads = toy.heads(&config, &seen_only);
    // The logits are those of the whole layer; what is counted of them differs.
    reference.output(
        "loss_hallucinate_seen",
        of(&toy.run(&heads, &batch), "hallucinate"),
    );
    let all = loss(|_| (), "hallucinate");
    reference.output("loss_hallucinate", &all);
}

/// Each decision is the same when an agent walks and knows nothing of what follows.
#[test]
fn an_agent_that_walks_decides_the_same() {
    let toy = Toy::new();
    let heads = toy.heads(&objectives(), &model());
    let device = Device::flex();
    let backbone = toy.backbone.valid();
    let batch = toy.batch();
    let texts = heads.read_instructions(&backbone, batch.texts.as_ref().unwrap(), &device);
    let walks = batch.walks.as_ref().unwrap();
    let whole = heads
        .valid()
        .follow(&backbone, &texts, walks, &device)
        .unwrap();
    // The first episode, whose decisions are the first.
    let first = Tensor::from_data([0], &device);
    let text = texts.select(&first);
    let mut history = History::default();
    for step in 0..STEPS[0] {
        let of = |all: &[u8], size: usize| all[step * size..(step + 1) * size].to_vec();
        let now = Walks {
            steps: vec![1],
            maps: of(&walks.maps, CHANNELS * CELLS * CELLS),
            views: of(&walks.views, 4 * VIEW * VIEW),
            seen: of(&walks.seen, CELLS * CELLS),
            targets: None,
            ..walks.clone()
        };
        let decided = heads
            .valid()
            .decide(&backbone, &text, (&now, &mut history), &device);
        let decided = decided.unwrap();
        for (a, b) in decided.waypoints[0].iter().zip(&whole.waypoints[step]) {
            assert!((a - b).abs() < 1e-5, "{step}: {a} {b}");
        }
        assert!((decided.progress[0] - whole.progress[step]).abs() < 1e-5);
    }
}

/// Without episodes, without what is to be learned of them, or of another size, objectives are skipped and counted.
#[test]
fn what_a_batch_lacks_is_skipped() {
    let toy = Toy::new();
    let heads = toy.heads(&objectives(), &model());
    let without = |change: fn(&mut Batch)| {
        let mut batch = toy.batch();
        change(&mut batch);
        let step = toy.run(&heads, &batch);
        (step.skipped, step.loss.is_none())
    };
    assert_eq!(without(|batch| batch.walks = None), (KEYS.to_vec(), true));
    assert_eq!(without(|batch| batch.texts = None), (KEYS.to_vec(), true));
    let untold = without(|batch| batch.walks.as_mut().unwrap().targets = None);
    assert_eq!(untold, (KEYS.to_vec(), true));
    let other = without(|batch| batch.walks.as_mut().unwrap().channels = 4);
    assert_eq!(other, (KEYS.to_vec(), true));
    let classes = without(|batch| {
        let targets = batch.walks.as_mut().unwrap().targets.as_mut();
        targets.unwrap().class_count = 4;
    });
    assert_eq!(classes, (vec!["hallucinate"], false));
}

/// Losses are f32 whatever the encoders compute in, and near those of f32. Where every cell is void, nothing is told of their classes.
#[test]
fn half_precision_changes_little_and_nothing_to_tell_is_zero() {
    let toy = Toy::new();
    let heads = toy.heads(&objectives(), &model());
    let single = toy.run(&heads, &toy.batch());
    let half = Toy {
        backbone: toy.backbone.clone().compute_in(FloatDType::BF16),
        reference: Reference::open("walk", "walk"),
    };
    let step = half.run(&heads, &half.batch());
    for key in KEYS {
        let (own, whole) = (of(&step, key), of(&single, key));
        assert_eq!(FloatDType::from(own.dtype()), FloatDType::F32);
        let (own, whole): (f32, f32) = (own.clone().into_scalar(), whole.clone().into_scalar());
        // bf16 has three digits, and states of a few layers keep two.
        assert!((own - whole).abs() < 0.05 * whole, "{key}: {own} {whole}");
    }
    let mut config = objectives();
    config.hallucinate.as_mut().unwrap().void = false;
    let heads = toy.heads(&config, &model());
    let mut void = toy.batch();
    let targets = void.walks.as_mut().unwrap().targets.as_mut().unwrap();
    targets.classes.fill(0);
    for toy in [&toy, &half] {
        let step = toy.run(&heads, &void);
        assert_eq!(of(&step, "hallucinate").clone().into_scalar::<f32>(), 0.0);
        assert!(step.loss.is_some());
    }
}

fn small(more: &[&str]) -> Recipe {
    let set = WALKS.iter().chain(more).map(|set| (*set).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load("wsmgmap-tiny", &overrides).unwrap_or_else(|error| panic!("{error}"))
}

fn options() -> training::Options {
    training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    }
}

/// A run from houses to a report: its decisions are judged, it walks beside a random agent, an expert and one that is told something else.
#[test]
fn an_agent_is_trained_and_walks() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let steps = ["train.steps=2", "train.log_every=1", "train.eval_every=2"];
    training::start(&small(&steps), &run, &options()).unwrap();
    let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    let evals = read("evals.jsonl");
    let found: serde_json::Value = serde_json::from_str(evals.lines().next().unwrap()).unwrap();
    let scalar = |name: &str| &found["scalars"][format!("walks.{name}")];
    for name in ["success", "oracle_success", "spl", "ndtw", "near_path"] {
        let (value, chance) = (&scalar(name)["value"], &scalar(name)["chance"]);
        for share in [value, chance] {
            let share = share.as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{name}: {found}");
        }
        if name != "near_path" {
            assert!(scalar(&format!("shuffled_{name}"))["value"].is_f64());
        }
    }
    for name in [
        "waypoint_error",
        "progress_error",
        "iou_seen",
        "iou_unseen",
        "goal_error",
    ] {
        assert!(scalar(name)["value"].is_f64() && scalar(name)["chance"].is_f64());
    }
    // Who decides as it should arrives.
    assert_eq!(scalar("expert_success")["value"], 1.0);
    assert!(evals.contains("walks.spl on val"), "{evals}");
    let walks: serde_json::Value = serde_json::from_str(&read("walks.json")).unwrap();
    let example = &walks["examples"][0];
    assert!(example["instruction"].as_str().unwrap().contains(' '));
    assert!(example["path"].as_array().unwrap().len() > 1);
    assert!(read("report.html").contains("the path that the instruction describes"));
}

/// What does not fit the data is said before a step, and an agent that reads nothing else does not ask for it.
#[test]
fn episodes_of_another_size_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (set, told) in [
        ("data.walks.cells=32", "model.map.cells = 16"),
        ("model.map.channels=8", "model.map.channels = 8"),
        (
            "model.map.view.image_size=[32, 32]",
            "model.map.view.image_size",
        ),
        (
            "model.map.semantic.classes=9",
            "model.map.semantic.classes = 9",
        ),
        ("model.map.steps=20", "model.map.steps = 20"),
        ("objectives.walk=none", "needs an agent, [model.map]"),
    ] {
        let recipe = small(&[set, "train.steps=1"]);
        let run = folder.path().join("refused");
        let error = training::start(&recipe, &run, &options()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(told), "{set}: {error}");
        let _ = std::fs::remove_dir_all(&run);
    }
    // No table of houses: scenes are none.
    let set = WALKS.iter().filter(|set| !set.starts_with("data."));
    let scenes = [
        "data.source=scenes",
        "data.houses=none",
        "data.walks=none",
        "eval.walks=none",
        "eval.select=none",
    ];
    let overrides = Overrides {
        data: None,
        set: set.chain(&scenes).map(|set| (*set).to_owned()).collect(),
    };
    let recipe = Recipe::load("wsmgmap-tiny", &overrides).unwrap();
    let run = folder.path().join("scenes");
    let error = training::start(&recipe, &run, &options()).unwrap_err();
    assert!(error.to_string().contains("reads episodes"), "{error}");
}

#[test]
fn settings_that_do_nothing_are_refused() {
    let refused = |set: &[&str]| {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|set| (*set).to_owned()).collect(),
        };
        let error = Recipe::load("wsmgmap-tiny", &overrides);
        error.unwrap_err().to_string()
    };
    for (set, parts) in [
        (
            vec!["model.map=none"],
            vec!["objectives", "walk", "[model.map]"],
        ),
        (
            vec!["model.map.semantic=none"],
            vec!["hallucinate", "[model.map.semantic]"],
        ),
        (
            vec![
                "model.map.semantic=none",
                "model.map.fine=false",
                "objectives.hallucinate=none",
            ],
            vec!["objectives", "path", "[model.map]"],
        ),
        (vec!["model.map.width=7"], vec!["model.map"]),
        (
            vec!["model.map.patch_size=7"],
            vec!["model.map.patch_size", "cells"],
        ),
        (
            vec!["model.map.semantic.cells=13"],
            vec!["model.map.semantic.cells"],
        ),
        (
            vec!["model.map.view.patch_size=7"],
            vec!["model.map.view.image_size"],
        ),
        (
            vec!["objectives.path.temperature=0"],
            vec!["objectives.path.temperature"],
        ),
        (
            vec!["objectives.walk.progress=0"],
            vec!["objectives.walk.progress"],
        ),
    ] {
        let message = refused(&set);
        for part in parts {
            assert!(message.contains(part), "{set:?}: {message}");
        }
    }
}
