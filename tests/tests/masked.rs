//! MAMO's losses and their gradients against an independent PyTorch reference, written from the paper and our reading of it:
//! `reference/masked.py`.

use burn::tensor::Tensor;
use unimo_batch::{
    Batch, Images, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind, PatchMaskSpec, Texts,
};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::JointConfig;
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};
use unimo_objectives::pretraining::mim::{MimConfig, Target};
use unimo_objectives::pretraining::mrm::{Distance, MrmConfig};
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};
use unimo_tests::fixture::Reference;

const SIDE: usize = 8;
const LENGTH: usize = 5;

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 20,
            width: 8,
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
        image: Some(ImageEncoderConfig {
            image_size: SIDE,
            patch_size: 4,
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            pre_norm: false,
            patch_bias: true,
            distillation_token: false,
            qkv_bias: true,
            stem: None,
            mask_embedding: true,
            dropout: 0.0,
            drop_path: 0.0,
        }),
        regions: None,
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        fusion: None,
        joint: Some(JointConfig {
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
            concepts: false,
            split: None,
            interleaved: None,
        }),
    }
}

const WORDS: MaskSpec = MaskSpec {
    rate: 0.25,
    unit: MaskUnit::Token,
    mask_share: 0.8,
    random_share: 0.1,
    most: None,
    end: false,
};

const PATCHES: PatchMaskSpec = PatchMaskSpec {
    rate: 0.75,
    kind: PatchMaskKind::Uniform,
};

fn config(distance: Distance, target: Target) -> ObjectivesConfig {
    ObjectivesConfig {
        mrm: Some(MrmConfig {
            weight: 1.0,
            mask: WORDS,
            patches: PATCHES,
            distance,
        }),
        mim: Some(MimConfig {
            weight: 1.0,
            target,
            patches: PATCHES,
            mask: Some(WORDS),
            distance: Distance::L2,
            normalised: true,
            decoder_layers: 1,
            codes: None,
            distil: None,
        }),
        ..ObjectivesConfig::default()
    }
}

fn heads(reference: &Reference, distance: Distance, target: Target) -> Objectives {
    let config = config(distance, target);
    config.validate().unwrap();
    config.validate_with(&model()).unwrap();
    let mut heads = config.init(&mut Init::new(&reference.device, 0), &model());
    let mim = match target {
        Target::Teacher => "mim_teacher.",
        Target::Pixels => "mim_pixels.",
        Target::Codes => unreachable!("codes are compared in simla.rs"),
    };
    heads.mrm = heads.mrm.take().map(|head| reference.fill(head, "mrm."));
    heads.mim = heads.mim.take().map(|head| reference.fill(head, mim));
    heads
}

fn encoders(reference: &Reference, prefix: &str) -> Backbone {
    let blank = model().init(&mut Init::new(&reference.device, 0));
    reference.fill(blank, prefix)
}

fn batch(reference: &Reference) -> Batch {
    let ids = |name: &str| reference.numbers(name).into_iter().map(|id| id as i32);
    let levels = reference.numbers("levels").into_iter();
    let hidden = reference.numbers("hidden").into_iter();
    Batch {
        samples: vec!["one".to_owned(), "two".to_owned()],
        images: Some(Images {
            pixels: levels.map(|level| level as u8).collect(),
            height: SIDE,
            width: SIDE,
            mean: [0.5; 3],
            std: [0.5; 3],
            second_view: None,
            patch_mask: Some(hidden.map(|hidden| hidden == 1).collect()),
            codes: None,
        }),
        texts: Some(Texts {
            ids: ids("ids").collect(),
            length: LENGTH,
            lengths: vec![5, 4],
            masked: Some(MaskedTexts {
                ids: ids("masked").collect(),
                labels: ids("labels").collect(),
                concept_labels: None,
            }),
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

fn run(
    reference: &Reference,
    (student, teacher): (&Backbone, &Teacher),
    heads: &Objectives,
    only: &str,
) -> Step {
    let batch = batch(reference);
    heads
        .together(&|key| key == only, student, &[batch], &reference.device)
        .with_teacher(Some(teacher))
        .batch(0, Draws::new(1))
        .unwrap()
}

#[test]
fn masked_modelling_equals_the_reference() {
    let reference = Reference::open("masked", "masked");
    let student = encoders(&reference, "backbone.");
    let teacher = TeacherConfig { decay: 0.9 }.init(&encoders(&reference, "teacher."));
    let models = (&student, &teacher);
    for (distance, name) in [(Distance::L2, "mrm_l2"), (Distance::Cosine, "mrm_cosine")] {
        let heads = heads(&reference, distance, Target::Teacher);
        let step = run(&reference, models, &heads, "mrm");
        reference.output(name, &step.results[0].loss);
    }
    let first = heads(&reference, Distance::SmoothL1, Target::Teacher);
    let second = heads(&reference, Distance::SmoothL1, Target::Pixels);
    let mut total: Option<Tensor<1>> = None;
    for (heads, key, name) in [
        (&first, "mrm", "mrm_smooth_l1"),
        (&first, "mim", "mim_teacher"),
        (&second, "mim", "mim_pixels"),
    ] {
        let step = run(&reference, models, heads, key);
        reference.output(name, &step.results[0].loss);
        let loss = step.loss.unwrap();
        total = Some(match total {
            Some(total) => total + loss,
            None => loss,
        });
    }
    let total = total.unwrap();
    reference.output("total", &total);
    let mut gradients = total.backward();
    let none: &[&str] = &[];
    let of_teacher = reference.known_gradients(&teacher, "teacher.", &mut gradients, none);
    assert_eq!(of_teacher, 0, "the teacher has a gradient");
    let found = [
        reference.known_gradients(&student, "backbone.", &mut gradients, none),
        reference.known_gradients(first.mrm.as_ref().unwrap(), "mrm.", &mut gradients, none),
        reference.known_gradients(
            first.mim.as_ref().unwrap(),
            "mim_teacher.",
            &mut gradients,
            none,
        ),
        reference.known_gradients(
            second.mim.as_ref().unwrap(),
            "mim_pixels.",
            &mut gradients,
            none,
        ),
    ];
    assert_eq!(found, [108, 8, 4, 4]);
}
