//! Masked language modelling on one stream with matrices for each modality, names of objects beside the image, and captions that are read
//! either way (DiMBERT as read here).
#![cfg(feature = "flex")]

mod small;

use burn::optim::GradientsParams;
use burn::tensor::Device;
use unimo_batch::{Batch, MaskSpec, MaskedTexts, Regions, TAGS, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_core::split::Spaces;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::joint::JointConfig;
use unimo_encoders::joint::split::SplitConfig;
use unimo_encoders::text::TextEncoderConfig;
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

const SAMPLES: usize = 6;
const LENGTH: usize = 6;
const FEATURES: usize = 5;
/// Sums of a set's gradients against the gradients of one set: f32 sums in another order.
const TOLERANCE: f32 = 1e-5;

fn model(split: Option<Spaces>, concepts: bool) -> BackboneConfig {
    BackboneConfig {
        text: TextEncoderConfig {
            token_types: 2,
            layers: 0,
            ..small::text()
        },
        image: None,
        regions: Some(small::regions(FEATURES)),
        joint: Some(JointConfig {
            layers: 2,
            concepts,
            split: split.map(|spaces| SplitConfig {
                spaces,
                ..SplitConfig::default()
            }),
            ..small::joint()
        }),
        ..small::towers()
    }
}

fn objectives(left_to_right: f64) -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: true,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
            left_to_right,
        }),
        ..ObjectivesConfig::default()
    }
}

/// Captions of three words; the second is hidden. `tags` are the names of each image's objects.
fn batch(tags: Option<&[&[i32]]>, last_word: i32) -> Batch {
    const NO: i32 = MaskedTexts::IGNORE;
    let rows = |of: &dyn Fn(i32) -> [i32; LENGTH]| (0..SAMPLES as i32).flat_map(of).collect();
    let names = tags.map(|tags| {
        let length = tags.iter().map(|tags| tags.len()).max().unwrap_or(0) + 2;
        let row = |tags: &&[i32]| {
            let text = std::iter::once(0).chain(tags.iter().copied()).chain([2]);
            let padding = length - tags.len() - 2;
            text.chain(std::iter::repeat_n(1, padding))
                .collect::<Vec<i32>>()
        };
        let all = tags.iter().cycle().take(SAMPLES);
        Texts {
            ids: all.clone().flat_map(row).collect(),
            length,
            lengths: all.map(|tags| tags.len() + 2).collect(),
            ..Texts::default()
        }
    });
    Batch {
        samples: (0..SAMPLES).map(|i| format!("sample {i}")).collect(),
        regions: Some(Regions {
            features: (0..SAMPLES * 3 * FEATURES)
                .map(|p| ((p * 7) % 11) as f32 / 5.0 - 1.0)
                .collect(),
            boxes: vec![0.0; SAMPLES * 3 * 4],
            count: 3,
            counts: vec![3; SAMPLES],
            hidden: None,
        }),
        texts: Some(Texts {
            ids: rows(&|i| [0, 5 + i, 6 + i, last_word, 2, 1]),
            length: LENGTH,
            lengths: vec![5; SAMPLES],
            masked: Some(MaskedTexts {
                ids: rows(&|i| [0, 5 + i, 4, last_word, 2, 1]),
                labels: rows(&|i| [NO, NO, 6 + i, NO, NO, NO]),
                concept_labels: None,
            }),
            ..Texts::default()
        }),
        further_texts: names
            .map(|names| (TAGS.to_owned(), names))
            .into_iter()
            .collect(),
        ..Batch::default()
    }
}

fn built(model: &BackboneConfig, left_to_right: f64) -> (Backbone, Objectives, Device) {
    let device = Device::flex().autodiff();
    let mut init = Init::new(&device, 3).with_deviation(0.3);
    let objectives = objectives(left_to_right);
    model.validate().unwrap();
    objectives.validate().unwrap();
    objectives.validate_with(model).unwrap();
    let backbone = model.init(&mut init);
    let heads = objectives.init(&mut init, model);
    (backbone, heads, device)
}

fn run(model: &BackboneConfig, left_to_right: f64, batch: &Batch) -> (Backbone, Step) {
    let (backbone, heads, device) = built(model, left_to_right);
    let step = heads
        .together(&|_| true, &backbone, std::slice::from_ref(batch), &device)
        .batch(0, Draws::new(7))
        .unwrap();
    (backbone, step)
}

fn loss(model: &BackboneConfig, left_to_right: f64, batch: &Batch) -> f32 {
    let (_, step) = run(model, left_to_right, batch);
    step.results[0].loss.clone().into_scalar::<f32>()
}

const NAMES: &[&[i32]] = &[&[10, 11], &[12], &[]];

/// An untrained DiMBERT is the plain stream, and what both of its sets learn is together what the one set learns.
#[test]
fn before_training_two_sets_are_one() {
    let batch = batch(Some(NAMES), 9);
    for share in [0.0, 0.5, 1.0] {
        let plain = run(&model(None, true), share, &batch);
        let split = run(&model(Some(Spaces::Modality), true), share, &batch);
        let value = |step: &Step| step.results[0].loss.clone().into_data();
        value(&split.1).assert_eq(&value(&plain.1), true);
        let gradients = |(backbone, step): (Backbone, Step)| {
            let gradients = step.loss.unwrap().backward();
            let gradients = GradientsParams::from_grads(gradients, &backbone);
            parameters::gradients(&backbone, &gradients)
        };
        let (plain, split) = (gradients(plain), gradients(split));
        for (name, one) in &plain {
            let set = name.replace("joint.layers.", "joint.split.");
            let set = set.replace(".attention.", ".attention.0.");
            let sum = split.iter().filter(|(own, _)| own == name || *own == set);
            let sum: Vec<Vec<f32>> = sum.map(|(_, of)| of.iter::<f32>().collect()).collect();
            let parted = name.starts_with("joint.") && name.contains(".attention.");
            let expected = if parted { 2 } else { 1 };
            assert_eq!(sum.len(), expected, "{name}");
            for (at, one) in one.iter::<f32>().enumerate() {
                let both: f32 = sum.iter().map(|of| of[at]).sum();
                assert!((both - one).abs() < TOLERANCE, "{name}: {both} {one}");
            }
        }
    }
}

/// From left to right a hidden word is predicted without what follows it.
#[test]
fn a_word_that_follows_is_seen_in_both_directions_alone() {
    for spaces in [
        None,
        Some(Spaces::Modality),
        Some(Spaces::Pair),
        Some(Spaces::Query),
    ] {
        let model = model(spaces, true);
        let of = |share, word| loss(&model, share, &batch(Some(NAMES), word));
        assert_eq!(of(1.0, 9), of(1.0, 13), "{spaces:?}");
        assert_ne!(of(0.0, 9), of(0.0, 13), "{spaces:?}");
    }
}

/// Each sample is read either way, as its draw says, and the loss is the mean over all hidden words.
#[test]
fn each_sample_is_read_once() {
    let model = model(Some(Spaces::Modality), true);
    let (_, step) = run(&model, 0.5, &batch(Some(NAMES), 9));
    let result = &step.results[0];
    assert_eq!(result.predictions(), SAMPLES);
    let on = result
        .metrics
        .iter()
        .find(|m| m.name == "accuracy_left_to_right");
    let on = on.unwrap().count;
    assert!((1..SAMPLES).contains(&on), "{on}");
    let all = |share| loss(&model, share, &batch(Some(NAMES), 9));
    let mean = result.loss.clone().into_scalar::<f32>();
    let (both, only) = (all(0.0), all(1.0));
    assert!(mean != both && mean != only, "{mean} {both} {only}");
}

#[test]
fn names_of_objects_are_read_and_may_be_none() {
    for spaces in [
        None,
        Some(Spaces::Modality),
        Some(Spaces::Pair),
        Some(Spaces::Query),
    ] {
        let model = model(spaces, true);
        for share in [0.0, 0.5, 1.0] {
            let of = |tags: &[&[i32]]| loss(&model, share, &batch(Some(tags), 9));
            let empty = of(&[&[]]);
            assert!(empty.is_finite());
            assert_ne!(of(&[&[10]]), empty, "{spaces:?}");
            assert_ne!(of(&[&[10]]), of(&[&[11]]), "{spaces:?}");
            // A longer list in one sample is padding in the others: the first two samples' names are as before.
            let tolerance = |a: f32, b: f32| assert!((a - b).abs() < TOLERANCE, "{a} {b}");
            let wide: &[&[i32]] = &[&[10], &[10], &[10], &[10], &[10], &[10]];
            tolerance(of(wide), of(&[&[10]]));
            // Without a list the image is read alone.
            assert!(loss(&model, share, &batch(None, 9)).is_finite());
        }
    }
    // A stream that reads no names is not changed by them.
    let plain = self::model(None, false);
    let of = |tags| loss(&plain, 0.5, &batch(tags, 9));
    assert_eq!(of(Some(NAMES)), of(None));
}

/// Both sets learn from a step.
#[test]
fn both_sets_have_gradients() {
    let (backbone, step) = run(
        &model(Some(Spaces::Pair), true),
        0.5,
        &batch(Some(NAMES), 9),
    );
    let gradients = step.loss.unwrap().backward();
    let gradients = GradientsParams::from_grads(gradients, &backbone);
    let found = parameters::gradients(&backbone, &gradients);
    let of = |name: &str| {
        found
            .iter()
            .any(|(own, values)| own == name && values.iter::<f32>().any(|value: f32| value != 0.0))
    };
    for set in 0..3 {
        for layer in ["query", "key", "value", "output"] {
            let name = format!("joint.split.0.attention.{set}.{layer}.weight");
            assert!(of(&name), "{name}");
        }
    }
}
