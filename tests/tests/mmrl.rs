//! MMRL against an independent PyTorch reference, `reference/mmrl.py`; what its tokens leave as it is; a small run from data to numbers; and
//! what does not fit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;
use unimo_batch::{Batch, Target};
use unimo_core::init::Init;
use unimo_core::layers::normalise;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::Pictures;
use unimo_encoders::text::TextInput;
use unimo_encoders::weights::Weights;
use unimo_encoders::{Encoder, load};
use unimo_objectives::Objectives;
use unimo_objectives::tasks::labels::Labelled;
use unimo_tests::fixture::{self, Reference};
use unimo_train::device::DeviceChoice;
use unimo_train::freezing;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options};
use unimo_train::{checkpoint, kept, starting, trained};

const LENGTH: usize = 5;
const PAD: i32 = 1;

fn recipe(set: &[&str]) -> Recipe {
    let set = set.iter().map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    Recipe::load_quietly("mmrl-tiny", &overrides).unwrap().0
}

/// Why the recipe with these changes is wrong.
fn refused(set: &[&str]) -> String {
    let set = set.iter().map(|s| (*s).to_owned()).collect();
    let overrides = Overrides { data: None, set };
    let refused = Recipe::load_quietly("mmrl-tiny", &overrides);
    refused.map(|_| ()).unwrap_err().to_string()
}

/// The sizes of the reference.
const REFERENCE: &[&str] = &[
    "model.text.width=8",
    "model.text.heads=2",
    "model.text.feed_forward=16",
    "model.text.max_positions=7",
    "model.image.image_size=8",
    "model.image.patch_size=4",
    "model.image.width=8",
    "model.image.heads=2",
    "model.image.feed_forward=16",
    "model.representation.tokens=2",
    "model.representation.width=6",
    "objectives.prompts.width=4",
    "objectives.prompts.lambda=0.8",
    "objectives.prompts.scale=4.0",
    "data.image_size=8",
    "data.max_text_length=7",
];

/// Encoders and head with the reference's weights, of which only those learn that the reference has gradients of.
fn model(reference: &Reference) -> (Backbone, Objectives) {
    let mut recipe = recipe(REFERENCE);
    // No tokenizer has so few words.
    recipe.model.text.vocab_size = 20;
    let init = &mut Init::new(&reference.device, 0);
    let backbone = reference.fill(recipe.model.init(init), "");
    let heads = reference.fill(recipe.objectives.init(init, &recipe.model), "");
    let learns = |name: &str| reference.known(&format!("grad.{name}")).is_some();
    let mut backbone = freezing::track(backbone, &learns);
    backbone.note_frozen();
    (backbone, freezing::track(heads, &learns))
}

fn texts(reference: &Reference, backbone: &Backbone) -> TextInput {
    let ids = reference.numbers("texts").into_iter();
    let ids: Vec<i32> = ids.map(|id| id as i32).collect();
    let real = |row: &[i32]| row.iter().filter(|id| **id != PAD).count();
    let lengths: Vec<usize> = ids.chunks(LENGTH).map(real).collect();
    backbone
        .text
        .input(&ids, &lengths, LENGTH, &reference.device)
}

fn labelled(reference: &Reference) -> Batch {
    let labels = reference.numbers("labels").into_iter();
    let target = |label: i64| Target::Labels(vec![(label as u32, 1.0)]);
    Batch {
        samples: vec![String::new(); labels.len()],
        targets: labels.map(target).collect(),
        ..Batch::default()
    }
}

/// Tokens, two layers of each tower with biases, and the projection of tokens.
const LEARNS: usize = 1 + 2 * 2 * 2 + 1;

#[test]
fn features_losses_and_gradients_equal_the_reference() {
    let reference = Reference::open("mmrl", "mmrl");
    let (backbone, heads) = model(&reference);
    let prompts = heads.prompts.as_ref().unwrap();
    let pictures = Pictures::Pixels(reference.tensor::<4>("pixels"));
    let layers = BTreeSet::new();
    let states = backbone.image_states_with_below(&pictures, &layers);
    let seen = prompts.images(&backbone.features_with_tokens(states, 0, &layers));
    let below = backbone.texts_below(&texts(&reference, &backbone));
    let own = prompts.texts(&backbone, &below);
    for (name, ours) in [
        ("f_c", &seen.class),
        ("f_r", &seen.tokens),
        ("f_0", &seen.frozen),
        ("w", &own.own),
        ("w_0", &own.frozen),
    ] {
        reference.output(name, ours);
    }
    let batch = labelled(&reference);
    let scores = prompts.scores(&seen, &own);
    let terms = prompts.terms((&seen, &own), &scores, &Labelled::of(&batch));
    let loss = terms.sum(&prompts.config);
    for (name, ours) in [
        ("term.class", &terms.class),
        ("term.tokens", &terms.tokens),
        ("term.image", &terms.image),
        ("term.text", &terms.text),
        ("loss", &loss),
    ] {
        reference.output(name, ours);
    }
    let mut gradients = loss.backward();
    let of_backbone = reference.known_gradients(&backbone, "", &mut gradients, &[]);
    let of_heads = reference.known_gradients(&heads, "", &mut gradients, &[]);
    assert_eq!(of_backbone + of_heads, LEARNS);
}

/// Other tokens change nothing of CLIP as it is, nor of what lies below the first layer that gets them; and padding changes nothing.
#[test]
fn tokens_leave_clip_as_it_is() {
    let reference = Reference::open("mmrl", "mmrl");
    let (backbone, heads) = model(&reference);
    let prompts = heads.prompts.as_ref().unwrap();
    let other = parameters::replace(backbone.clone(), |name, shape| {
        let count = shape.iter().product::<usize>();
        name.starts_with("representation.").then(|| {
            let values = (0..count).map(|at| (at as f32).sin()).collect();
            TensorData::new(values, shape.to_vec())
        })
    });
    let pictures = Pictures::Pixels(reference.tensor::<4>("pixels"));
    let layers = BTreeSet::new();
    let input = texts(&reference, &backbone);
    let of = |backbone: &Backbone, input: &TextInput| {
        let states = backbone.image_states_with_below(&pictures, &layers);
        let raw: Vec<TensorData> = states.iter().map(|state| state.to_data()).collect();
        let seen = prompts.images(&backbone.features_with_tokens(states, 0, &layers));
        let own = prompts.texts(backbone, &backbone.texts_below(input));
        (raw, seen, own)
    };
    let ((raw, seen, own), (raw_other, seen_other, own_other)) =
        (of(&backbone, &input), of(&other, &input));
    for (one, other) in raw.iter().zip(&raw_other) {
        one.assert_eq(other, true);
    }
    let same = |one: &Tensor<2>, other: &Tensor<2>| one.to_data() == other.to_data();
    assert!(same(&seen.frozen, &seen_other.frozen) && same(&own.frozen, &own_other.frozen));
    assert!(!same(&seen.class, &seen_other.class) && !same(&own.own, &own_other.own));

    let plain = backbone.encode_pictures(&pictures, None, 0);
    let again = normalise(prompts.image_projection.forward(plain.class));
    again.to_data().assert_eq(&seen.frozen.to_data(), true);

    let longer: Vec<i32> = reference
        .numbers("texts")
        .chunks(LENGTH)
        .flat_map(|row| row.iter().map(|id| *id as i32).chain([PAD, PAD]))
        .collect();
    let longer = backbone
        .text
        .input(&longer, &[5, 3, 4], LENGTH + 2, &reference.device);
    let (_, _, padded) = of(&backbone, &longer);
    let close = Tolerance::<f32>::absolute(1e-5);
    padded
        .own
        .to_data()
        .assert_approx_eq(&own.own.to_data(), close);
}

/// A recipe that starts from `hf/clip`.
fn of_public(set: &[&str]) -> Vec<String> {
    let folder = fixture::folder().join("hf/clip");
    let config: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let (text, image) = (&config["text_config"], &config["vision_config"]);
    let sizes = [
        ("model.text.width", &text["hidden_size"]),
        ("model.text.layers", &text["num_hidden_layers"]),
        ("model.text.heads", &text["num_attention_heads"]),
        ("model.text.feed_forward", &text["intermediate_size"]),
        ("model.text.max_positions", &text["max_position_embeddings"]),
        ("data.max_text_length", &text["max_position_embeddings"]),
        ("model.image.image_size", &image["image_size"]),
        ("data.image_size", &image["image_size"]),
        ("model.image.patch_size", &image["patch_size"]),
        ("model.image.width", &image["hidden_size"]),
        ("model.image.layers", &image["num_hidden_layers"]),
        ("model.image.heads", &image["num_attention_heads"]),
        ("model.image.feed_forward", &image["intermediate_size"]),
        ("objectives.prompts.width", &config["projection_dim"]),
    ];
    let sizes = sizes.map(|(key, value)| format!("{key}={value}"));
    let own = [
        format!("init=clip:{}", folder.display()),
        "model.representation.layers=[1, 2]".to_owned(),
        "model.image.activation=gelu".to_owned(),
        "data.mean=[0.48145466, 0.4578275, 0.40821073]".to_owned(),
        "data.std=[0.26862954, 0.26130258, 0.27577711]".to_owned(),
    ];
    let more = set.iter().map(|s| (*s).to_owned());
    sizes.into_iter().chain(own).chain(more).collect()
}

/// Without tokens both towers are CLIP, exactly: a public checkpoint gives the same features here and in `clip.rs`.
#[test]
fn a_public_clip_is_the_same_in_a_backbone() {
    let folder = fixture::folder().join("hf/clip");
    let device = Device::flex();
    let loaded = load(&folder, &device).unwrap();
    let Encoder::Clip(clip) = loaded.encoder else {
        panic!("hf/clip is a CLIP");
    };
    let overrides = Overrides {
        data: None,
        set: of_public(&[]),
    };
    let (mut recipe, _) = Recipe::load_quietly("mmrl-tiny", &overrides).unwrap();
    recipe.model.text.vocab_size = clip.text.word_embedding.weight.dims()[0];
    let (model, started) = starting::model(&recipe, &device).unwrap();
    let report = started.unwrap().report;
    assert!(report.new.iter().all(|name| {
        name.starts_with("backbone.representation")
            || name == "objectives.prompts.token_projection.weight"
    }));
    let prompts = model.objectives.prompts.as_ref().unwrap();
    let [_, channels, size] = [1, 3, recipe.data.image_size];
    let count = channels * size * size;
    let values: Vec<f32> = (0..2 * count).map(|at| (at as f32 * 0.37).sin()).collect();
    let pixels = Tensor::from_data(TensorData::new(values, [2, channels, size, size]), &device);
    let ids = [0, 5, 6, 2, 0, 7, 2, 1];
    let lengths = [4, 3];
    let words = clip.text.word_embedding.weight.dims()[0] as i32;
    // The end token is the highest id.
    let ids = ids.map(|id| if id == 2 { words - 1 } else { id });
    let theirs = clip.embed_texts(&clip.text.input(&ids, &lengths, 4, &device));
    let own = model.backbone.text.input(&ids, &lengths, 4, &device);
    let own = model.backbone.encode_texts(&own).class;
    let own = normalise(prompts.text_projection.forward(own));
    own.to_data().assert_eq(&theirs.to_data(), true);
    let theirs = clip.embed_images(pixels.clone());
    let own = model.backbone.encode_images(pixels).class;
    let own = normalise(prompts.image_projection.forward(own));
    own.to_data()
        .assert_approx_eq::<f32>(&theirs.to_data(), Tolerance::absolute(1e-6));
}

/// A small model on a few scenes.
const SMALL: &[&str] = &[
    "train.steps=6",
    "train.batch_size=4",
    "train.log_every=1",
    "train.eval_every=0",
    "train.checkpoint_every=3",
    "train.keep_last=9",
    "eval.limit=40",
    "eval.gallery=2",
    "model.text.width=16",
    "model.text.heads=2",
    "model.text.feed_forward=16",
    "model.image.image_size=32",
    "model.image.width=16",
    "model.image.heads=2",
    "model.image.feed_forward=16",
    "model.representation.tokens=2",
    "model.representation.width=8",
    "objectives.prompts.width=8",
    "task.shots=2",
    "data.image_size=32",
    "data.scenes.size=32",
    "data.scenes.train=1500",
    "data.scenes.val=100",
];

fn options() -> Options {
    Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..Options::default()
    }
}

fn weights(run: &Path, step: u64) -> Vec<(String, TensorData)> {
    let (_, _, _, model) = trained::open_model(run, Some(step), &Device::flex()).unwrap();
    parameters::values(&model)
}

/// The file of what is frozen in a run.
fn frozen(run: &Path) -> PathBuf {
    let listed = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut paths = listed.map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths
        .find(|path| name(path).starts_with("frozen-"))
        .unwrap()
}

/// The numbers of an evaluator's last evaluation.
fn numbers(run: &Path, evaluator: &str) -> Value {
    let text = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut own = records.filter(|record: &Value| record["evaluator"] == evaluator);
    own.next_back().unwrap()["scalars"].clone()
}

/// Only tokens, their layers and one projection move; a run that is stopped goes on to the same weights; and kept features of images
/// change no bit.
#[test]
fn a_run_learns_its_tokens_alone_and_goes_on() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    training::start(&recipe(SMALL), &run, &options()).unwrap();
    let (first, last) = (weights(&run, 3), weights(&run, 6));
    for ((name, before), (_, after)) in first.iter().zip(&last) {
        let own = name.starts_with("backbone.representation.")
            || name.starts_with("objectives.prompts.token_projection");
        assert_eq!(before != after, own, "{name}");
    }

    let resumed = folder.path().join("resumed");
    fs::create_dir_all(resumed.join("checkpoints")).unwrap();
    for name in [
        "recipe.toml",
        "tokenizer.json",
        "labels.json",
        "checkpoints/step-00000003.safetensors",
    ] {
        fs::copy(run.join(name), resumed.join(name)).unwrap();
    }
    let frozen = frozen(&run);
    let there = |run: &Path| run.join("checkpoints").join(frozen.file_name().unwrap());
    fs::copy(&frozen, there(&resumed)).unwrap();
    training::resume(&resumed, &options()).unwrap();
    assert_eq!(weights(&resumed, 6), last);

    let cached = folder.path().join("cached");
    let changes = [SMALL, &["train.cache=true"]].concat();
    training::start(&recipe(&changes), &cached, &options()).unwrap();
    assert_eq!(weights(&cached, 6), last);
    assert_eq!(fs::read_dir(cached.join(kept::FOLDER)).unwrap().count(), 1);

    // A checkpoint holds what learns; what is frozen is beside the checkpoints, once.
    let path = checkpoint::path(&run.join("checkpoints"), 6);
    let whole = checkpoint::Reader::open(&path).unwrap();
    let own = Weights::open_section(&path, "model").unwrap();
    assert_eq!(own.infos().count(), LEARNS);
    assert_eq!(whole.count("model"), last.len());
    let another = folder.path().join("another");
    let init = format!("init=unimo:{}", run.display());
    let one_step = ["train.steps=1", "train.checkpoint_every=1", init.as_str()];
    let changes = [SMALL, &one_step].concat();
    training::start(&recipe(&changes), &another, &options()).unwrap();
    assert_eq!(self::frozen(&another).file_name(), frozen.file_name());
    // It is noticed if it has changed or is gone.
    let mut bytes = fs::read(&frozen).unwrap();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(&frozen, bytes).unwrap();
    let error = checkpoint::Reader::open(&path).err().unwrap().to_string();
    assert!(error.contains("have changed"), "{error}");
    fs::remove_file(&frozen).unwrap();
    let error = checkpoint::Reader::open(&path).err().unwrap().to_string();
    assert!(error.contains("which is not there"), "{error}");

    let found = numbers(&run, "base_to_novel");
    let value = |name: &str| {
        let scalar = &found[format!("base_to_novel.{name}")];
        scalar["value"].as_f64().unwrap()
    };
    let (base, novel) = (value("base"), value("novel"));
    let harmonic = if base + novel > 0.0 {
        2.0 * base * novel / (base + novel)
    } else {
        0.0
    };
    assert!((value("harmonic") - harmonic).abs() < 1e-12);
    let chance = found["base_to_novel.base"]["chance"].as_f64().unwrap();
    assert!((chance - 1.0 / 32.0).abs() < 1e-12);
    // The task's own accuracy is that of the known classes.
    let own = numbers(&run, "prompts");
    assert_eq!(own["prompts.accuracy"]["value"].as_f64().unwrap(), base);
}

#[test]
fn what_does_not_fit_is_refused() {
    for (set, parts) in [
        (
            "train.freeze=[\"backbone.image\"]",
            &["train.freeze", "backbone.text.word_embedding.weight learns"][..],
        ),
        (
            "model.text.tower=bert",
            &["model.representation", "model.text.tower = \"clip\""],
        ),
        (
            "model.representation.layers=[2, 4]",
            &["model.representation.layers", "[2, 4]", "<= 3"],
        ),
        (
            "model.representation.layers=[3, 2]",
            &["model.representation.layers", "[3, 2]"],
        ),
        (
            "model.representation.tokens=0",
            &["model.representation.tokens"],
        ),
        ("model.representation=none", &["[model.representation]"]),
        (
            "objectives.prompts.template=a photo",
            &["objectives.prompts.template", "\"a photo\"", "one {}"],
        ),
        (
            "objectives.prompts.alpha=1.5",
            &["objectives.prompts.alpha", "1.5"],
        ),
        (
            "objectives.prompts.lambda=-1.0",
            &["objectives.prompts.lambda", "-1"],
        ),
        (
            "model.text.dropout=0.1",
            &["model.representation", "dropout"],
        ),
        ("train.ema=0.9", &["train.frozen_apart", "no train.ema"]),
        ("data.scenes.val=500", &["data.scenes.val + test", "400"]),
    ] {
        let error = refused(&[set]);
        for part in parts {
            assert!(error.contains(part), "{set}: {error}");
        }
    }
    let error = refused(&[
        "objectives.prompts=none",
        "objectives.classes={}",
        "eval.select=none",
        "eval.base_to_novel=none",
        "train.freeze=[]",
        "train.frozen_apart=false",
    ]);
    assert!(
        error.contains("no objective of this recipe reads its tokens"),
        "{error}"
    );
}

/// Images of one colour per class, `count` of each, in class folders.
fn pictures(folder: &Path, classes: &[(&str, u8)], count: u8) -> PathBuf {
    for (class, level) in classes {
        let folder = folder.join(class);
        fs::create_dir_all(&folder).unwrap();
        for number in 0..count {
            let picture = RgbImage::from_pixel(32, 32, Rgb([*level, number * 9, 100]));
            picture.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    folder.to_owned()
}

/// A run on class folders that is started for its error or its lines; what it says of itself is in `run.log` of none, so lines are read
/// from the error alone.
fn of_folders(train: &Path, val: &Path, more: &[&str]) -> Result<PathBuf, String> {
    let data = format!(
        "data.images={{ train = [{:?}], val = [{:?}], classes = \"folders\" }}",
        train.display().to_string(),
        val.display().to_string()
    );
    let small = SMALL.iter().filter(|set| !set.starts_with("data.scenes"));
    let own = ["data.source=images", &data, "train.steps=2"];
    let set: Vec<&str> = small.chain(&own).chain(more).copied().collect();
    let run = train.parent().unwrap().join("run");
    let _ = fs::remove_dir_all(&run);
    match training::start(&recipe(&set), &run, &options()) {
        Ok(_) => Ok(run),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn classes_in_both_parts_and_classes_that_are_none_are_named() {
    let folder = TempDir::new().unwrap();
    let classes = [("ant", 10), ("bee", 80), ("cat", 150), ("dog_fish", 220)];
    let train = pictures(&folder.path().join("train"), &classes, 3);
    let val = pictures(&folder.path().join("val"), &classes, 2);
    let run = of_folders(&train, &val, &[]).unwrap();
    let labels = fs::read_to_string(run.join("labels.json")).unwrap();
    let labels: Vec<String> = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels, ["ant", "bee"]);
    for (novel, part) in [
        ("[\"bee\", \"cat\"]", "\"bee\" is a label too"),
        (
            "[\"cat\", \"cow\"]",
            "\"cow\" is no class of the training data",
        ),
        ("[\"cat\", \"cat\"]", "\"cat\" is named twice"),
        ("[\"cat\"]", "must be two classes or more"),
    ] {
        let set = format!("eval.base_to_novel.novel={novel}");
        let error = of_folders(&train, &val, &[&set]).unwrap_err();
        assert!(error.contains(part), "{novel}: {error}");
        assert!(error.contains("eval.base_to_novel.novel"), "{error}");
    }
    // All classes are labels: nothing is new.
    let all = "task.labels={ kind = \"classes\" }";
    let error = of_folders(&train, &val, &[all]).unwrap_err();
    assert!(
        error.contains("of 4 classes of the data 4 are labels"),
        "{error}"
    );
    // Two names that are one text.
    pictures(&train, &[("dog fish", 230)], 3);
    let set = "task.labels={ kind = \"list\", names = [\"dog_fish\", \"dog fish\"] }";
    let error = of_folders(&train, &val, &[set]).unwrap_err();
    assert!(
        error.contains("objectives.prompts.template") && error.contains("\"dog_fish\""),
        "{error}"
    );
}
