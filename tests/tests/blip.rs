//! Captions as BLIP writes and learns them, against Hugging Face transformers: logits, loss, gradients and texts. `reference/blip.py` made
//! the fixture, and says how two streams compute what BLIP's decoder does.
//!
//! BLIP's head over questions is not compared: its answers come from a decoder over the question, which there is none of here
//! (`unimo_objectives::tasks::answers`). Neither is its matching head, one layer over the text's first state without a pooler.

use burn::tensor::{Device, Tensor};
use unimo_batch::{Batch, Images, Texts};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::Pictures;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::View;
use unimo_encoders::output::Keep;
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};
use unimo_objectives::generation::Writer;
use unimo_objectives::pretraining::lm::LmConfig;
use unimo_objectives::{Draws, Objectives, ObjectivesConfig};
use unimo_tests::fixture::Reference;
use unimo_tests::generated::Case;

const WIDTH: usize = 16;
const HEADS: usize = 2;
const SIDE: usize = 8;
/// BLIP's text half has it, and so has the fixture's image half.
const EPS: f64 = 1e-12;
const END: i32 = 2;
/// What BLIP does not have, so that it gives no gradient of it: what two streams need to compute the same, and the last norm of the image
/// encoder, which the image stream repeats.
const OURS_ALONE: [&str; 6] = [
    "backbone.text.type_embedding",
    "backbone.image.post_norm",
    "backbone.fusion.text_transform",
    "backbone.fusion.image_transform",
    "backbone.fusion.type_embedding",
    "backbone.fusion.image",
];

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 24,
            width: WIDTH,
            // BLIP's decoder attends to the image in each of its layers.
            layers: 0,
            heads: HEADS,
            feed_forward: 24,
            max_positions: 20,
            positions: Positions::FromZero,
            token_types: 1,
            pad_id: 0,
            activation: Activation::Gelu,
            layer_norm_eps: EPS,
            dropout: 0.0,
            drop_path: 0.0,
            outside: None,
        },
        image: Some(ImageEncoderConfig {
            image_size: SIDE,
            patch_size: 4,
            width: WIDTH,
            layers: 2,
            heads: HEADS,
            feed_forward: 20,
            activation: Activation::Gelu,
            layer_norm_eps: EPS,
            pre_norm: false,
            patch_bias: true,
            distillation_token: false,
            qkv_bias: true,
            stem: None,
            mask_embedding: false,
            dropout: 0.0,
            drop_path: 0.0,
        }),
        regions: None,
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        fusion: Some(FusionConfig {
            width: WIDTH,
            layers: 2,
            heads: HEADS,
            feed_forward: 24,
            activation: Activation::Gelu,
            layer_norm_eps: EPS,
            dropout: 0.0,
            drop_path: 0.0,
            in_layer: true,
            levels: Levels::None,
            uni_levels: 0,
            gate: unimo_core::levels::GateKind::Cls,
            gate_beta: 1.0,
            link: Link::None,
            pictures: 1,
            shared_transforms: true,
            image_stream: true,
            shared: false,
        }),
        joint: None,
    }
}

/// The fixture's model, with the language modelling of BLIP's fine-tuning.
fn blip(reference: &Reference) -> (Backbone, Objectives) {
    let lm = LmConfig {
        weight: 1.0,
        texts_alone: false,
        stories: false,
        label_smoothing: 0.1,
        self_critical: None,
    };
    let objectives = ObjectivesConfig {
        lm: Some(lm),
        ..ObjectivesConfig::default()
    };
    let (config, mut init) = (model(), Init::new(&reference.device, 0));
    let backbone = reference.fill(config.init(&mut init), "backbone.");
    let mut objectives = objectives.init(&mut init, &config);
    let lm = objectives.lm.as_mut().unwrap();
    lm.head = reference.fill(lm.head.clone(), "head.");
    (backbone, objectives)
}

fn images(reference: &Reference) -> Images {
    let levels = reference.numbers("levels").into_iter();
    Images {
        pixels: levels.map(|level| level as u8).collect(),
        height: SIDE,
        width: SIDE,
        mean: [0.5; 3],
        std: [0.5; 3],
        second_view: None,
        patch_mask: None,
        codes: None,
    }
}

fn batch(reference: &Reference) -> Batch {
    let ids: Vec<i32> = reference
        .numbers("ids")
        .into_iter()
        .map(|id| id as i32)
        .collect();
    let lengths = reference.numbers("lengths").into_iter();
    let lengths: Vec<usize> = lengths.map(|length| length as usize).collect();
    Batch {
        samples: vec![String::new(); lengths.len()],
        images: Some(images(reference)),
        texts: Some(Texts {
            length: ids.len() / lengths.len(),
            ids,
            lengths,
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

#[test]
fn captions_are_learned_as_by_blip() {
    let reference = Reference::open("blip", "caption");
    let (backbone, objectives) = blip(&reference);
    let batch = batch(&reference);
    let texts = batch.texts.as_ref().unwrap();

    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, texts.length, &reference.device);
    let read = backbone.encode_texts(&input.from_left_to_right(1));
    let pictures = backbone.pictures(&batch, &reference.device).unwrap();
    let seen = backbone.encode_pictures(&pictures, None, 0);
    let view = View {
        prefix: Some(1),
        ..View::default()
    };
    let fused = backbone.fuse_parts(Some(&read), Some(&seen), &view, Keep::Nothing);
    let [rows, length, width] = fused.text().dims();
    // What is predicted after padding is used by nobody.
    let real =
        (0..rows).flat_map(|row| (0..texts.lengths[row]).map(move |at| (row * length + at) as i32));
    let real: Vec<i32> = real.collect();
    let states = fused.text().clone().reshape([rows * length, width]);
    let states = states.select(0, Tensor::from_data(real.as_slice(), &reference.device));
    let head = &objectives.lm.as_ref().unwrap().head;
    let words = backbone.text.word_embedding.weight.val();
    reference.output("logits", &head.logits(states, words));

    let step = objectives.step(&backbone, &batch, &reference.device, Draws::new(0));
    let loss = step.loss.unwrap();
    reference.output("loss", &loss);
    let mut gradients = loss.backward();
    let head = objectives.lm.clone().unwrap().head;
    let found = reference.known_gradients(&backbone, "backbone.", &mut gradients, &OURS_ALONE)
        + reference.known_gradients(&head, "head.", &mut gradients, &[]);
    // Two layers of 26 parameters in the decoder, of 16 in the image encoder; four embeddings of the image, four of the text, five of the head.
    assert_eq!(found, 2 * 26 + 2 * 16 + 4 + 4 + 5);
}

#[test]
fn captions_are_written_as_by_blip() {
    let reference = Reference::open("blip", "caption");
    let (backbone, objectives) = blip(&reference);
    let levels = images(&reference);
    let pictures = Pictures::of_pixels(&levels, &levels.pixels, &Device::flex().autodiff());
    let seen = backbone.encode_pictures(&pictures, None, 0);
    let writer = Writer {
        backbone: &backbone,
        head: &objectives.lm.as_ref().unwrap().head,
    };
    let cases = Case::read("blip");
    assert_eq!(cases.len(), 33);
    for case in &cases {
        let found = case.written(END, |written| writer.captions(&seen, &[0, 1, 2], written));
        case.compare(&found.unwrap());
    }
}
