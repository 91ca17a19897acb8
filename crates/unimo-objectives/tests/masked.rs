//! Masked representation modelling: hidden words and patches, and a teacher that reads the whole pair.
#![cfg(feature = "flex")]

mod small;

use std::collections::BTreeSet;

use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use unimo_batch::{
    Batch, Images, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind, PatchMaskSpec, Texts,
};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::Pictures;
use unimo_encoders::fusion::Levels;
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::JointConfig;
use unimo_encoders::output::Keep;
use unimo_objectives::pretraining::mim::{MimConfig, Target};
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::pretraining::mrm::{
    self, Distance, MrmConfig, PREDICTION_SPREAD, TARGET_SPREAD,
};
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

use small::WIDTH;

/// Tolerance for f32 sums over a few layers of width 8 in another order.
const TOLERANCE: f64 = 1e-5;

const PATCHES: usize = 4;
const LENGTH: usize = 4;

fn model() -> BackboneConfig {
    BackboneConfig {
        image: Some(ImageEncoderConfig {
            mask_embedding: true,
            ..small::image()
        }),
        joint: Some(JointConfig {
            layers: 1,
            ..small::joint()
        }),
        ..small::towers()
    }
}

fn mrm() -> MrmConfig {
    MrmConfig {
        weight: 2.0,
        mask: MaskSpec {
            rate: 0.25,
            unit: MaskUnit::Token,
            ..MaskSpec::default()
        },
        patches: PatchMaskSpec {
            rate: 0.75,
            kind: PatchMaskKind::Uniform,
        },
        distance: Distance::SmoothL1,
    }
}

fn build() -> (Backbone, Teacher, Objectives, Device) {
    let device = Device::flex().autodiff();
    let config = ObjectivesConfig {
        mrm: Some(mrm()),
        ..ObjectivesConfig::default()
    };
    config.validate().unwrap();
    config.validate_with(&model()).unwrap();
    let mut init = Init::new(&device, 3).with_deviation(0.3);
    let backbone = model().init(&mut init);
    // A model other than the student, as after some steps.
    let teacher = TeacherConfig { decay: 0.9 }.init(&model().init(&mut init));
    let heads = config.init(&mut init, &model());
    (backbone, teacher, heads, device)
}

const HIDDEN: [[bool; PATCHES]; 2] = [[true, false, true, true], [false, true, true, true]];

fn batch() -> Batch {
    let level = |i: usize| ((i * 31 + i / 7) % 251) as u8;
    Batch {
        samples: vec!["one".to_owned(), "two".to_owned()],
        images: Some(Images {
            pixels: (0..2 * 3 * 8 * 8).map(level).collect(),
            height: 8,
            width: 8,
            mean: [0.5; 3],
            std: [0.5; 3],
            second_view: None,
            patch_mask: Some(HIDDEN.concat()),
            codes: None,
        }),
        texts: Some(Texts {
            ids: vec![0, 5, 6, 2, 0, 7, 2, 1],
            length: LENGTH,
            lengths: vec![4, 3],
            masked: Some(MaskedTexts {
                ids: vec![0, 4, 6, 2, 0, 4, 2, 1],
                labels: vec![-100, 5, -100, -100, -100, 7, -100, -100],
                concept_labels: None,
            }),
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

fn run(parts: &(Backbone, Teacher, Objectives, Device), batch: &Batch) -> Step {
    let (backbone, teacher, heads, device) = parts;
    heads
        .together(&|_| true, backbone, std::slice::from_ref(batch), device)
        .with_teacher(Some(teacher))
        .batch(0, Draws::new(1))
        .unwrap()
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    let data = x.clone().into_data().convert::<f32>();
    data.iter::<f32>().map(f64::from).collect()
}

/// Rows of these positions of `[2, L, D]`.
fn rows(x: &Tensor<3>, positions: &[(usize, usize)]) -> Vec<Vec<f64>> {
    let [_, length, width] = x.dims();
    let all = host(x);
    let row = |(sample, at): &(usize, usize)| {
        let first = (sample * length + at) * width;
        all[first..first + width].to_vec()
    };
    positions.iter().map(row).collect()
}

/// `LN0` in f64.
fn normed(row: &[f64]) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    row.iter()
        .map(|x| (x - mean) / (variance + 1e-6).sqrt())
        .collect()
}

#[test]
fn the_loss_equals_its_formula() {
    let parts = build();
    let (backbone, teacher, heads, device) = &parts;
    let batch = batch();
    let step = run(&parts, &batch);
    let ours = host(&step.results[0].loss)[0];

    let texts = batch.texts.as_ref().unwrap();
    let images = batch.images.as_ref().unwrap();
    let pixels = Pictures::of_pixels(images, &images.pixels, device);
    let read = |backbone: &Backbone, ids: &[i32]| {
        let input = backbone.text.input(ids, &texts.lengths, LENGTH, device);
        backbone.encode_texts(&input)
    };
    let data = TensorData::new(HIDDEN.concat(), [2, PATCHES]);
    let hidden = Tensor::<2, Bool>::from_data(data, device);
    let masked = &texts.masked.as_ref().unwrap().ids;
    let student = backbone.fuse(
        &read(backbone, masked),
        &backbone.encode_masked(&pixels, &hidden, &BTreeSet::new()),
        Keep::Nothing,
    );
    let whole = &teacher.backbone;
    let target = whole.fuse(
        &read(whole, &texts.ids),
        &whole.encode_pictures(&pixels, None, 0),
        Keep::Nothing,
    );
    // The class token of the image comes before its patches.
    let patches = HIDDEN.iter().enumerate().flat_map(|(sample, row)| {
        let hidden = row.iter().enumerate().filter(|(_, hidden)| **hidden);
        hidden.map(move |(at, _)| (sample, at + 1))
    });
    let places = [vec![(0, 1), (1, 1)], patches.collect::<Vec<_>>()];
    let head = heads.mrm.as_ref().unwrap();
    let sides = [
        (&head.text, student.text(), target.text()),
        (&head.image, student.image(), target.image()),
    ];
    let mut expected = 0.0;
    for ((head, student, target), places) in sides.into_iter().zip(&places) {
        let own: Vec<f64> = rows(student, places).concat();
        let own: Vec<f32> = own.iter().map(|x| *x as f32).collect();
        let own = Tensor::from_data(TensorData::new(own, [places.len(), WIDTH]), device);
        let predicted = host(&head.forward(own));
        let targets = rows(target, places);
        let targets = targets.iter().flat_map(|row| normed(row));
        let differences = predicted.iter().zip(targets).map(|(z, y)| (z - y).abs());
        let each = differences.map(|d| if d < 1.0 { d * d / 2.0 } else { d - 0.5 });
        expected += each.sum::<f64>() / predicted.len() as f64 / 2.0;
    }
    assert!((ours - expected).abs() < TOLERANCE, "{ours} {expected}");
    let spread = &step.results[0].metrics[0];
    assert_eq!((spread.name, spread.count), (TARGET_SPREAD, 2 + 6));
    let sum = host(&step.loss.unwrap())[0];
    assert!((sum - 2.0 * ours).abs() < TOLERANCE);
}

#[test]
fn hidden_pixels_reach_the_loss_through_the_target_alone() {
    let parts = build();
    let (backbone, _, _, device) = &parts;
    let plain = batch();
    let mut other = batch();
    // The first patch of the first image is hidden, its second is not.
    let images = other.images.as_mut().unwrap();
    images.pixels[0] ^= 0x55;
    let encode = |batch: &Batch| {
        let images = batch.images.as_ref().unwrap();
        let pixels = Pictures::of_pixels(images, &images.pixels, device);
        let data = TensorData::new(HIDDEN.concat(), [2, PATCHES]);
        let hidden = Tensor::<2, Bool>::from_data(data, device);
        let features = backbone.encode_masked(&pixels, &hidden, &BTreeSet::from([0, 1]));
        assert_eq!(features.layers.len(), 2);
        host(&features.states[0])
    };
    assert_eq!(encode(&plain), encode(&other));
    let loss = |batch: &Batch| host(&run(&parts, batch).results[0].loss)[0];
    assert_ne!(loss(&plain), loss(&other));
    let mut visible = batch();
    visible.images.as_mut().unwrap().pixels[4] ^= 0x55;
    assert_ne!(encode(&plain), encode(&visible));
}

#[test]
fn the_teacher_gets_no_gradient_and_the_mask_embedding_one() {
    let parts = build();
    let step = run(&parts, &batch());
    let mut gradients = step.loss.unwrap().backward();
    let (backbone, teacher, heads, _) = &parts;
    let of_teacher = GradientsParams::from_module(&mut gradients, teacher);
    assert!(parameters::gradients(teacher, &of_teacher).is_empty());
    let of_heads = GradientsParams::from_module(&mut gradients, heads);
    assert_eq!(parameters::gradients(heads, &of_heads).len(), 8);
    let of_backbone = GradientsParams::from_module(&mut gradients, backbone);
    let of_backbone = parameters::gradients(backbone, &of_backbone);
    let embedding = of_backbone
        .iter()
        .find(|(name, _)| name == "image.mask_embedding");
    let (_, embedding) = embedding.expect("a gradient of the embedding");
    assert!(embedding.iter::<f32>().any(|x| x != 0.0));
}

#[test]
fn what_contradicts_is_named() {
    let with = |mlm: MaskSpec| ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: mlm,
            tied: false,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        }),
        mrm: Some(mrm()),
        ..ObjectivesConfig::default()
    };
    with(mrm().mask).validate().unwrap();
    let error = with(MaskSpec::default()).validate().unwrap_err();
    assert_eq!(error.key, "mrm.mask");
    // The objective requires a teacher, and a teacher requires an objective that uses it.
    let alone = ObjectivesConfig {
        mlm: with(mrm().mask).mlm,
        ..ObjectivesConfig::default()
    };
    let teacher = TeacherConfig { decay: 0.9 };
    assert!(with(mrm().mask).validate_teacher(None).is_err());
    with(mrm().mask).validate_teacher(Some(&teacher)).unwrap();
    assert!(alone.validate_teacher(Some(&teacher)).is_err());
    let mut model = model();
    model.image.as_mut().unwrap().mask_embedding = false;
    let error = with(mrm().mask).validate_with(&model).unwrap_err();
    assert_eq!(error.key, "mrm.patches");
}

fn mim(target: Target) -> MimConfig {
    MimConfig {
        weight: 1.0,
        target,
        patches: mrm().patches,
        mask: Some(mrm().mask),
        distance: Distance::L2,
        normalised: false,
        decoder_layers: 1,
        codes: None,
        distil: None,
    }
}

fn build_with(config: &ObjectivesConfig) -> (Backbone, Teacher, Objectives, Device) {
    config.validate().unwrap();
    config.validate_with(&model()).unwrap();
    let (backbone, teacher, _, device) = build();
    let heads = config.init(&mut Init::new(&device, 5).with_deviation(0.3), &model());
    (backbone, teacher, heads, device)
}

/// With a decoder that gives zeros, the loss is that of the targets alone.
fn of_targets(target: Target) -> (Backbone, Teacher, Objectives, Device) {
    let config = ObjectivesConfig {
        mim: Some(mim(target)),
        ..ObjectivesConfig::default()
    };
    let mut parts = build_with(&config);
    let head = parts.2.mim.take().unwrap();
    let zeros = |name: &str, shape: &[usize]| {
        let count = shape.iter().product();
        let of_last = name.starts_with("outer");
        of_last.then(|| TensorData::new(vec![0f32; count], shape.to_vec()))
    };
    parts.2.mim = Some(parameters::replace(head, zeros));
    parts
}

fn loss(parts: &(Backbone, Teacher, Objectives, Device), batch: &Batch) -> f64 {
    host(&run(parts, batch).results[0].loss)[0]
}

fn hiding(batch: &mut Batch, hidden: [[bool; PATCHES]; 2]) {
    batch.images.as_mut().unwrap().patch_mask = Some(hidden.concat());
}

#[test]
fn targets_do_not_depend_on_what_is_hidden() {
    for target in [Target::Teacher, Target::Pixels] {
        let parts = of_targets(target);
        let plain = loss(&parts, &batch());
        let mut other = batch();
        let texts = other.texts.as_mut().unwrap();
        // Another word is hidden.
        texts.masked = Some(MaskedTexts {
            ids: vec![0, 5, 4, 2, 0, 4, 2, 1],
            labels: vec![-100, -100, 6, -100, -100, 7, -100, -100],
            concept_labels: None,
        });
        assert_eq!(plain, loss(&parts, &other), "{target:?}");
        // The targets of two masks together are those of each: 3 and 1 patches of each image, and all 4.
        let mut few = batch();
        hiding(&mut few, HIDDEN.map(|row| row.map(|hidden| !hidden)));
        let mut all = batch();
        hiding(&mut all, [[true; PATCHES]; 2]);
        let mean = (plain * 3.0 + loss(&parts, &few)) / 4.0;
        let together = loss(&parts, &all);
        assert!((mean - together).abs() < TOLERANCE, "{mean} {together}");
    }
}

#[test]
fn hidden_pixels_reach_their_own_target_and_no_other_loss() {
    let config = ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: mrm().mask,
            tied: false,
            texts_alone: false,
            patches: Some(mrm().patches),
            regions: None,
            distil: None,
        }),
        mim: Some(mim(Target::Pixels)),
        ..ObjectivesConfig::default()
    };
    let parts = build_with(&config);
    let of = |batch: &Batch| {
        let step = run(&parts, batch);
        let numbers = step.results.iter().map(|result| {
            let spread = result.metrics.iter().find(|m| m.name == PREDICTION_SPREAD);
            let spread = spread.map(|metric| host(&metric.sum)[0]);
            (result.objective, host(&result.loss)[0], spread)
        });
        numbers.collect::<Vec<_>>()
    };
    let plain = of(&batch());
    let mut other = batch();
    // The first patch of the first image is hidden.
    other.images.as_mut().unwrap().pixels[0] ^= 0x55;
    let changed = of(&other);
    assert_eq!([plain[0].0, plain[1].0], ["mlm", "mim"]);
    assert_eq!(plain[0], changed[0]);
    assert_eq!(plain[1].2, changed[1].2, "what is predicted");
    assert_ne!(plain[1].1, changed[1].1, "what is to be predicted");
}

#[test]
fn where_nothing_is_hidden_a_copy_has_nothing_to_learn() {
    let (backbone, _, _, device) = build();
    let teacher = TeacherConfig { decay: 0.9 }.init(&backbone);
    let batch = batch();
    let texts = batch.texts.as_ref().unwrap();
    let images = batch.images.as_ref().unwrap();
    let pixels = Pictures::of_pixels(images, &images.pixels, &device);
    let nothing = TensorData::new(vec![false; 2 * PATCHES], [2, PATCHES]);
    let nothing = Tensor::<2, Bool>::from_data(nothing, &device);
    let read = |of: &Backbone| {
        let input = of.text.input(&texts.ids, &texts.lengths, LENGTH, &device);
        of.encode_texts(&input)
    };
    let own = backbone.fuse(
        &read(&backbone),
        &backbone.encode_masked(&pixels, &nothing, &BTreeSet::new()),
        Keep::Nothing,
    );
    let whole = &teacher.backbone;
    let theirs = whole.fuse(
        &read(whole),
        &whole.encode_pictures(&pixels, None, 0),
        Keep::Nothing,
    );
    for (own, theirs) in [(own.text(), theirs.text()), (own.image(), theirs.image())] {
        let flat = |states: &Tensor<3>| {
            let [rows, length, width] = states.dims();
            mrm::normed(states.clone().reshape([rows * length, width]))
        };
        for distance in [Distance::L2, Distance::SmoothL1, Distance::Cosine] {
            let loss = host(&distance.of(flat(own), flat(theirs)))[0];
            assert!(loss.abs() < TOLERANCE, "{distance:?} {loss}");
        }
    }
}

/// Whatever the student becomes. A recipe's decay is below 1, so that its teacher moves.
#[test]
fn a_decay_of_1_keeps_the_teacher() {
    let (backbone, _, _, device) = build();
    let mut teacher = TeacherConfig { decay: 1.0 }.init(&backbone);
    assert!(TeacherConfig { decay: 1.0 }.validate().is_err());
    let before = parameters::values(&teacher);
    let other = model().init(&mut Init::new(&device, 9));
    teacher.after_step(&other);
    assert_eq!(before, parameters::values(&teacher));
}

#[test]
fn what_masked_images_need_is_named() {
    let mut squares = mim(Target::Pixels);
    squares.distance = Distance::Cosine;
    let config = ObjectivesConfig {
        mim: Some(squares),
        ..ObjectivesConfig::default()
    };
    assert_eq!(config.validate().unwrap_err().key, "mim.normalised");
    for (rate, allowed) in [(0.0, false), (0.75, true), (1.0, false)] {
        let mut config = mim(Target::Pixels);
        config.patches.rate = rate;
        let config = ObjectivesConfig {
            mim: Some(config),
            ..ObjectivesConfig::default()
        };
        let checked = config.validate();
        assert_eq!(checked.is_ok(), allowed, "{rate}");
        let named = checked.map_err(|e| e.key == "mim.patches.rate");
        assert_ne!(named, Err(false));
        // Pixels need no teacher, and a teacher that nobody asks is refused.
        let teacher = TeacherConfig { decay: 0.9 };
        assert!(config.validate_teacher(Some(&teacher)).is_err());
    }
    let config = ObjectivesConfig {
        mim: Some(mim(Target::Teacher)),
        ..ObjectivesConfig::default()
    };
    assert_eq!(config.validate_teacher(None).unwrap_err().key, "teacher");
    // A text stream that reads the image encoder's states gives none of patches.
    let mut memory = BackboneConfig {
        joint: None,
        fusion: Some(small::fusion()),
        ..model()
    };
    let fusion = memory.fusion.as_mut().unwrap();
    (fusion.levels, fusion.image_stream) = (Levels::None, false);
    memory.validate().unwrap();
    let error = config.validate_with(&memory).unwrap_err();
    assert_eq!(error.key, "mim");
    assert!(error.allowed.contains("image_stream"), "{}", error.allowed);
}
