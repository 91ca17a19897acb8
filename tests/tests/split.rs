//! DiMBERT's matrices for each modality: against an independent PyTorch reference, `reference/split.py`, and as what begins as a BERT and
//! can be written as one.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::parameters;
use unimo_core::split::Spaces;
use unimo_encoders::joint::split::{Sharing, SplitConfig};
use unimo_encoders::joint::{JointConfig, JointEncoder, View};
use unimo_encoders::weights::Weights;
use unimo_tests::fixture::{self, Reference};
use unimo_train::export::{self, ExportArgs, Part};
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::starting;
use unimo_train::training;

fn stream(reference: &Reference, split: SplitConfig) -> JointEncoder {
    let config = JointConfig {
        width: 8,
        layers: 2,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        image_class: true,
        grounding: None,
        concepts: true,
        interleaved: None,
        split: Some(split),
    };
    config.validate().unwrap();
    reference.fill(config.init(&mut Init::new(&reference.device, 0)), "")
}

#[test]
fn matrices_for_each_modality_equal_the_reference() {
    use Spaces::{Modality, Pair, Query};
    for (name, spaces, feed_forward, parameters) in [
        ("modality", Modality, Sharing::Shared, 2 * (16 + 8)),
        ("separate", Modality, Sharing::Separate, 2 * (16 + 8 + 4)),
        ("pair", Pair, Sharing::Shared, 2 * (16 + 8 + 7 + 7)),
        ("query", Query, Sharing::Shared, 2 * (16 + 7)),
    ] {
        let reference = Reference::open("split", name);
        let encoder = stream(
            &reference,
            SplitConfig {
                spaces,
                feed_forward,
                concepts: None,
            },
        );
        for (prefix, view) in [
            ("both.", View::default()),
            (
                "on.",
                View {
                    prefix: Some(1),
                    ..View::default()
                },
            ),
        ] {
            let [image, concepts, text] = ["V", "C", "T"].map(|part| reference.tensor::<3>(part));
            let masks = ["image", "concepts", "text"];
            let masks = masks.map(|part| reference.mask(&format!("{part}_visible")));
            let ours = encoder.forward_beside(
                Some((&text, &masks[2])),
                Some((&image, Some(&masks[0]))),
                Some((&concepts, &masks[1])),
                &view,
            );
            reference.output(&format!("{prefix}v"), ours.image());
            reference.output(&format!("{prefix}t"), ours.text());
            let shown = |states: &Tensor<3>, factor: &str, mask: usize| {
                let hidden = masks[mask].hidden().unsqueeze_dim::<3>(2);
                let factor = reference.tensor::<3>(factor).detach();
                (states.clone() * factor.mask_fill(hidden.expand(states.dims()), 0.0)).sum()
            };
            let scalar = shown(ours.image(), "wv", 0) + shown(ours.text(), "wt", 2);
            reference.output(&format!("{prefix}scalar"), &scalar);
            let gradients = scalar.backward();
            for (name, of) in [("V", &image), ("C", &concepts), ("T", &text)] {
                reference.gradient_as(&format!("{prefix}grad.{name}"), of, &gradients);
            }
            let found = burn::optim::GradientsParams::from_grads(gradients, &encoder);
            let found = parameters::gradients(&encoder, &found);
            assert_eq!(found.len(), parameters, "{name}");
            for (name, values) in &found {
                reference.gradient_values(&format!("{prefix}grad.{name}"), values);
            }
        }
    }
}

/// `dimbert-tiny` with a stream of width 16.
const SMALL: &[&str] = &[
    "model.text.width=16",
    "model.text.heads=2",
    "model.regions.width=16",
    "model.regions.heads=2",
    "model.regions.feed_forward=32",
    "model.joint.width=16",
    "model.joint.layers=2",
    "model.joint.heads=2",
    "eval.losses=none",
];

/// With the sizes of the fixture's BERT.
const AS_BERT: &[&str] = &[
    "model.text.vocab_size=43",
    "model.text.max_positions=20",
    "model.text.positions=from_zero",
    "model.text.pad_id=0",
    "model.text.feed_forward=24",
    "model.text.layer_norm_eps=1e-12",
    "model.joint.feed_forward=24",
    "model.joint.layer_norm_eps=1e-12",
    "data.max_text_length=20",
    "data.tokenizer.kind=file",
    "data.tokenizer.path=nowhere",
    "data.tokenizer.vocab_size=none",
];

/// For a run of three steps; in the last one the learning rate is 0.
const SHORT: &[&str] = &[
    "data.scenes.train=50",
    "data.scenes.val=8",
    "train.batch_size=4",
    "train.steps=3",
    "train.eval_every=3",
];

fn recipe(set: &[&str], more: &[&str]) -> Recipe {
    let set = [SMALL, set, more].concat();
    let overrides = Overrides {
        data: None,
        set: set.into_iter().map(str::to_owned).collect(),
    };
    Recipe::load("dimbert-tiny", &overrides).unwrap()
}

fn bert() -> String {
    fixture::folder().join("hf/bert").display().to_string()
}

fn states(joint: &JointEncoder) -> [Vec<f32>; 2] {
    let device = Device::flex();
    let mut init = Init::new(&device, 5);
    let mut random = |length| init.uniform([2, length, 16], 1.0).val();
    let (text, image, concepts) = (random(4), random(3), random(2));
    let shown = |length| unimo_core::mask::PaddingMask::none(2, length, &device);
    let out = joint.forward_beside(
        Some((&text, &shown(4))),
        Some((&image, None)),
        Some((&concepts, &shown(2))),
        &View::default(),
    );
    [out.text(), out.image()].map(|states| states.to_data().iter::<f32>().collect())
}

/// Every part begins with the file's matrices, so that nothing is changed by the split, and the account names each of them as read.
#[test]
fn both_sets_begin_as_the_file_s() {
    let init = [
        format!("init.text={}", bert()),
        format!("init.joint={}", bert()),
        "init.new=[\"backbone.regions\", \"objectives\"]".to_owned(),
    ];
    let init: Vec<&str> = init.iter().map(String::as_str).collect();
    let begun = |more: &[&str]| {
        let recipe = recipe(AS_BERT, &[&init[..], more].concat());
        let (model, started) = starting::model(&recipe, &Device::flex()).unwrap();
        let started = started.unwrap();
        (model.backbone.joint.unwrap(), started)
    };
    let (plain, _) = begun(&["model.joint.split=none"]);
    let file = Weights::open(&fixture::folder().join("hf/bert/model.safetensors"));
    let mut file = file.unwrap();
    let name = file
        .infos()
        .map(|(name, _)| name.to_owned())
        .find(|name| name.ends_with("encoder.layer.1.attention.self.query.bias"));
    let query = file.read(&name.unwrap()).unwrap();
    for spaces in ["modality", "pair", "query"] {
        let spaces_set = format!("model.joint.split.spaces={spaces}");
        let more = [
            "model.joint.split.feed_forward=separate",
            "model.joint.split.concepts=own",
            &spaces_set,
        ];
        let (split, started) = begun(&more);
        assert_eq!(split.differs_by_part(), None);
        let account = started.to_string();
        assert!(account.contains("every part begin as those"), "{account}");
        for (name, values) in parameters::values(&split) {
            let read = |(own, _): &(String, String)| *own == format!("backbone.joint.{name}");
            assert!(started.report.used.iter().any(read), "{name}");
            if name.starts_with("split.1.attention") && name.ends_with("query.bias") {
                assert_eq!(values.iter::<f32>().collect::<Vec<_>>(), query, "{name}");
            }
        }
        if spaces == "modality" {
            assert_eq!(states(&split), states(&plain));
        }
    }
    // What a file does not fit is told by key.
    let recipe = recipe(AS_BERT, &[&init[..], &["model.joint.heads=4"]].concat());
    let error = starting::model(&recipe, &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("model.joint.heads"), "{error}");
}

fn exported(run: &Path, out: &Path, part: Part) -> Result<(), String> {
    let args = ExportArgs {
        model: run.display().to_string(),
        out: out.to_owned(),
        part,
        dtype: unimo_encoders::weights::Dtype::F32,
        step: None,
        licence: None,
    };
    export::run(&args).map(|_| ()).map_err(|e| e.to_string())
}

/// With one set of matrices a stream is a BERT again. After a step with two it is not, and that is said.
#[test]
fn a_stream_is_written_as_a_bert_while_its_parts_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let options = training::Options {
        quiet: true,
        ..training::Options::default()
    };
    let frozen = ["train.freeze=[\"backbone.joint\"]"];
    for (name, more, equal) in [
        ("plain", &["model.joint.split=none"][..], true),
        ("frozen", &frozen[..], true),
        ("trained", &[][..], false),
    ] {
        let run = folder.path().join(name);
        training::start(&recipe(SHORT, more), &run, &options).unwrap();
        if name == "plain" {
            // DiM is put into a model that was trained without.
            let given = format!("init=unimo:{}", run.display());
            let begun = |more: &[&str]| {
                let recipe = recipe(SHORT, &[&[given.as_str()], more].concat());
                let (model, started) = starting::model(&recipe, &Device::flex()).unwrap();
                (model.backbone.joint.unwrap(), started.unwrap())
            };
            let (plain, _) = begun(more);
            let (split, started) = begun(&[]);
            assert_eq!(split.differs_by_part(), None);
            assert_eq!(states(&split), states(&plain));
            assert!(started.report.new.is_empty(), "{:?}", started.report.new);
            let account = started.to_string();
            assert!(account.contains("every part begin as those"), "{account}");
        }
        let out = folder.path().join(format!("{name}-bert"));
        match exported(&run, &out, Part::Stream) {
            Ok(()) => {
                assert!(equal, "{name}");
                let text = std::fs::read_to_string(out.join("config.json")).unwrap();
                let config: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(config["num_hidden_layers"], 2);
                let weights = Weights::open(&out.join("model.safetensors")).unwrap();
                let names: Vec<&str> = weights.infos().map(|(name, _)| name).collect();
                assert_eq!(names.len(), 5 + 2 * 16, "{names:?}");
                // And back: the stream begins as what it was written as.
                let given = format!("init.joint={}", out.display());
                let new = "init.new=[\"backbone.text\", \"backbone.regions\", \"objectives\"]";
                let recipe = recipe(SHORT, &[&given, new]);
                let (model, _) = starting::model(&recipe, &Device::flex()).unwrap();
                assert_eq!(model.backbone.joint.unwrap().differs_by_part(), None);
            }
            Err(message) => {
                assert!(!equal, "{name}: {message}");
                assert!(
                    message.contains("backbone.joint.split.0.attention.0"),
                    "{message}"
                );
                assert!(message.contains("matrices of their own"), "{message}");
            }
        }
        if name == "trained" {
            let whole = folder.path().join("whole");
            exported(&run, &whole, Part::Whole).unwrap();
            let weights = Weights::open(&whole.join("model.safetensors")).unwrap();
            let of = |(name, _): (&str, _)| name.contains("joint.split.1.attention.0.value");
            assert!(weights.infos().any(of));
        }
    }
}
