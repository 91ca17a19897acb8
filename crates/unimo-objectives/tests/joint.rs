//! Objectives on a single-stream cross-modal encoder, with pairs and with one modality alone.
#![cfg(feature = "flex")]

mod small;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use unimo_batch::{Batch, Images, MaskSpec, MaskedTexts, Regions, TAGS, TextRole, Texts};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::{JointConfig, View};
use unimo_encoders::output::Keep;
use unimo_encoders::quantiser::{Choice, QuantiserConfig};
use unimo_encoders::text::TextEncoderConfig;
use unimo_objectives::ObjectiveConfig;
use unimo_objectives::pretraining::codes::CodesConfig;
use unimo_objectives::pretraining::itc::{ItcConfig, Normalised, Projection, Views};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::lm::LmConfig;
use unimo_objectives::pretraining::mcr::McrConfig;
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::pretraining::views::ViewsConfig;
use unimo_objectives::pretraining::vq::VqConfig;
use unimo_objectives::pretraining::wpg::{Region, WpgConfig};
use unimo_objectives::tasks::sentences::{
    SentenceEncoder, SentenceHead, SentenceTarget, SentencesConfig,
};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Settings, Step};

/// Tolerance for f32 sums in another order over three layers of width 8.
const TOLERANCE: f32 = 1e-5;
const SAMPLES: usize = 3;
const LENGTH: usize = 6;
/// Number of features of a region.
const FEATURES: usize = 5;

fn model() -> BackboneConfig {
    BackboneConfig {
        text: TextEncoderConfig {
            token_types: 2,
            ..small::text()
        },
        image: Some(ImageEncoderConfig {
            activation: Activation::Gelu,
            pre_norm: false,
            patch_bias: true,
            ..small::image()
        }),
        image_tags: true,
        joint: Some(JointConfig {
            grounding: Some(QuantiserConfig {
                codes: 12,
                tokens: 3,
                choice: Choice::TopK,
                scale: 1.5,
                scale_range: [1.0, 10.0],
            }),
            ..small::joint()
        }),
        ..small::towers()
    }
}

/// Every objective that a single-stream encoder can have without a teacher; none draws at random.
fn objectives() -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: true,
            texts_alone: true,
            patches: None,
            regions: None,
            distil: None,
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::HardArgmax,
            layout: Layout::OneToTwo,
            head: Head::Product,
            epsilon: None,
        }),
        itc: Some(ItcConfig {
            weight: 1.0,
            views: Views::Two,
            width: 8,
            temperature: 0.07,
            temperature_range: [0.001, 0.5],
            projection: Projection::None,
            normalised: Normalised::Both,
            momentum: None,
        }),
        lm: Some(LmConfig {
            weight: 1.0,
            texts_alone: true,
            stories: false,
            label_smoothing: 0.0,
            self_critical: None,
        }),
        vq: Some(VqConfig {
            weight: 1.0,
            commitment: 0.25,
        }),
        codes: Some(CodesConfig {
            weight: 1.0,
            rate: 0.9,
        }),
        mcr: Some(McrConfig {
            weight: 1.0,
            rate: 0.15,
            tags: true,
            phrases: true,
        }),
        wpg: Some(WpgConfig {
            weight: 1.0,
            margin: 0.2,
            region: Region::Nearest,
            negatives: Negatives::HardArgmax,
        }),
        views: Some(ViewsConfig {
            weight: 1.0,
            width: 4,
            temperature: 0.07,
            temperature_range: [0.001, 0.5],
            images_alone: false,
        }),
        ..ObjectivesConfig::default()
    }
}

/// The same for images that are known by regions.
fn model_of_regions() -> BackboneConfig {
    BackboneConfig {
        image: None,
        regions: Some(small::regions(FEATURES)),
        ..model()
    }
}

fn build() -> (Backbone, Objectives, Device) {
    build_from(&model())
}

fn build_from(model: &BackboneConfig) -> (Backbone, Objectives, Device) {
    let device = Device::flex().autodiff();
    let mut init = Init::new(&device, 3).with_deviation(0.2);
    let objectives = objectives();
    model.validate().unwrap();
    objectives.validate().unwrap();
    objectives.validate_with(model).unwrap();
    let backbone = model.init(&mut init);
    let heads = objectives.init(&mut init, model);
    (backbone, heads, device)
}

/// Row `i` holds sample `order[i]`: three words, one or two phrases and the end token.
fn batch(order: [usize; SAMPLES]) -> Batch {
    const NO: i32 = MaskedTexts::IGNORE;
    let ids = [
        [0, 5, 6, 15, 16, 2],
        [0, 7, 17, 2, 1, 1],
        [0, 9, 8, 18, 2, 1],
    ];
    let masked = [[0, 4, 6, 15, 4, 2], [0, 4, 17, 2, 1, 1], [0, 9, 4, 4, 2, 1]];
    let labels = [
        [NO, 5, NO, NO, NO, NO],
        [NO, 7, NO, NO, NO, NO],
        [NO, NO, 8, NO, NO, NO],
    ];
    let concept_labels = [
        [NO, NO, NO, NO, 16, NO],
        [NO; LENGTH],
        [NO, NO, NO, 18, NO, NO],
    ];
    let (lengths, concepts) = ([6, 4, 5], [2, 1, 1]);
    let rows = |table: [[i32; LENGTH]; SAMPLES]| order.iter().flat_map(|&i| table[i]).collect();
    let tags = [[0, 10, 11, 2], [0, 12, 2, 1], [0, 10, 13, 2]];
    let hidden_tags = [[0, 4, 11, 2], [0, 4, 2, 1], [0, 10, 4, 2]];
    let tag_labels = [[NO, 10, NO, NO], [NO, 12, NO, NO], [NO, NO, 13, NO]];
    let tag_rows = |table: [[i32; 4]; SAMPLES]| order.iter().flat_map(|&i| table[i]).collect();
    let pixels = |shift: usize| -> Vec<u8> {
        let of = |i: usize| (0..3 * 8 * 8).map(move |p| ((i * 31 + p * 7 + shift) % 13) as u8);
        order.iter().flat_map(|&i| of(i)).collect()
    };
    let tags = Texts {
        ids: tag_rows(tags),
        length: 4,
        lengths: order.iter().map(|&i| [4, 3, 4][i]).collect(),
        masked: Some(MaskedTexts {
            ids: tag_rows(hidden_tags),
            labels: tag_rows(tag_labels),
            concept_labels: None,
        }),
        ..Texts::default()
    };
    Batch {
        samples: order.iter().map(|i| format!("sample {i}")).collect(),
        images: Some(Images {
            pixels: pixels(0),
            height: 8,
            width: 8,
            // The levels are 0 to 12, which become -1 to 1.
            mean: [6.0 / 255.0; 3],
            std: [6.0 / 255.0; 3],
            second_view: Some(pixels(1)),
            patch_mask: None,
            codes: None,
        }),
        texts: Some(Texts {
            ids: rows(ids),
            length: LENGTH,
            lengths: order.iter().map(|&i| lengths[i]).collect(),
            masked: Some(MaskedTexts {
                ids: rows(masked),
                labels: rows(labels),
                concept_labels: Some(rows(concept_labels)),
            }),
            concepts: Some(order.iter().map(|&i| concepts[i]).collect()),
            ..Texts::default()
        }),
        further_texts: [(TAGS.to_owned(), tags)].into(),
        ..Batch::default()
    }
}

/// The same samples with up to three regions instead of pixels, plus `padding` regions of padding.
fn batch_of_regions(order: [usize; SAMPLES], padding: usize) -> Batch {
    let counts = [3, 1, 2];
    let count = 3 + padding;
    let of = |i: usize| {
        let features = move |p: usize| ((i * 17 + p * 5) % 11) as f32 / 5.0 - 1.0;
        (0..count * FEATURES).map(move |p| {
            if p < counts[i] * FEATURES {
                features(p)
            } else {
                9.0
            }
        })
    };
    Batch {
        images: None,
        regions: Some(Regions {
            features: order.iter().flat_map(|&i| of(i)).collect(),
            boxes: vec![0.0; SAMPLES * count * 4],
            count,
            counts: order.iter().map(|&i| counts[i]).collect(),
            hidden: None,
        }),
        ..batch(order)
    }
}

fn run(chosen: &dyn Fn(&str) -> bool, batch: &Batch) -> Step {
    run_on(&model(), chosen, batch)
}

fn run_on(model: &BackboneConfig, chosen: &dyn Fn(&str) -> bool, batch: &Batch) -> Step {
    let (backbone, heads, device) = build_from(model);
    let draws = Draws::new(1);
    heads
        .together(chosen, &backbone, std::slice::from_ref(batch), &device)
        .batch(0, draws)
        .unwrap()
}

fn losses(step: &Step) -> Vec<(&'static str, f32)> {
    let value = |loss: &Tensor<1>| loss.clone().into_scalar::<f32>();
    step.results
        .iter()
        .map(|r| (r.objective, value(&r.loss)))
        .collect()
}

fn same(a: &[(&str, f32)], b: &[(&str, f32)]) {
    assert_eq!(a.len(), b.len());
    for ((key, a), (other, b)) in a.iter().zip(b) {
        assert_eq!(key, other);
        assert!(
            (a - b).abs() < TOLERANCE * a.abs().max(1.0),
            "{key}: {a} {b}"
        );
    }
}

/// Pairs that several objectives ask for are fused once, and each loss is the same as when the objective trains alone. Exceptions
/// are objectives that need the contrast to choose negatives, and the dictionary, which uses masked texts if there are any. `codes`
/// draws what it hides and `mcr` hides tags for all objectives, so they are left out.
#[test]
fn a_loss_does_not_depend_on_what_trains_beside_it() {
    let all = run(&|key| key != "codes" && key != "mcr", &batch([0, 1, 2]));
    assert!(all.skipped.is_empty(), "{:?}", all.skipped);
    let all = losses(&all);
    assert_eq!(all.len(), 7);
    for (key, loss) in &all {
        let masks = |other: &str| *key == "vq" && other == "mlm";
        let chosen = |other: &str| other == *key || other == "itc" || masks(other);
        let alone = run(&chosen, &batch([0, 1, 2]));
        let alone = losses(&alone);
        let own = alone.iter().find(|(other, _)| other == key).unwrap();
        same(&[(*key, *loss)], &[*own]);
    }
}

#[test]
fn the_order_of_the_batch_does_not_matter() {
    let of = |order| losses(&run(&|key| key != "codes", &batch(order)));
    same(&of([0, 1, 2]), &of([2, 0, 1]));
}

/// Everything that trains on pixels trains on regions, except the contrast of two views of pixels. Neither the order of the batch
/// nor padding matters. A batch of pixels has no image for a model that reads regions.
#[test]
fn regions_stand_in_for_patches() {
    let model = model_of_regions();
    let step = |chosen: &dyn Fn(&str) -> bool, batch: &Batch| run_on(&model, chosen, batch);
    let all = step(&|_| true, &batch_of_regions([0, 1, 2], 0));
    assert_eq!(all.skipped, ["views"]);
    let of = |order, padding| {
        losses(&step(
            &|key| key != "codes",
            &batch_of_regions(order, padding),
        ))
    };
    let plain = of([0, 1, 2], 0);
    assert_eq!(plain.len(), 7);
    same(&plain, &of([2, 0, 1], 0));
    same(&plain, &of([0, 1, 2], 2));
    let pixels = step(&|_| true, &batch([0, 1, 2]));
    let keys: Vec<_> = losses(&pixels).iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["mlm", "lm", "vq", "codes"]);
}

/// A distilled DeiT has two positions before its patches; no objective takes them for patches.
#[test]
fn a_distillation_token_is_no_patch() {
    let batch = batch([0, 1, 2]);
    let mut model = model();
    model.image.as_mut().unwrap().distillation_token = true;
    assert_eq!(model.class_tokens(), 2);
    let (backbone, objectives, device) = build_from(&model);
    let wpg = objectives.wpg.as_ref().unwrap();
    assert_eq!(wpg.class_tokens, 2);
    let pictures = backbone.pictures(&batch, &device).unwrap();
    let images = backbone.encode_pictures(&pictures, None, 0);
    let view = View::default();
    let fused = backbone.fuse_parts(None, Some(&images), &view, Keep::Nothing);
    assert_eq!(fused.image().dims(), [SAMPLES, 2 + 4, 8]);
    let step = run_on(&model, &|_| true, &batch);
    assert!(losses(&step).iter().all(|(_, loss)| loss.is_finite()));
    // If class tokens take no part, none of them remains.
    model.joint.as_mut().unwrap().image_class = false;
    let mut init = Init::new(&device, 3);
    assert_eq!(wpg.config.init(&mut init, &model).class_tokens, 0);
    let joint = model.init(&mut init).joint.unwrap();
    let image = images.states.last().unwrap();
    let fused = joint.forward(None, Some((image, None)), &view);
    assert_eq!(fused.image().dims(), [SAMPLES, 4, 8]);
}

/// What a batch lacks is counted, and the other objectives are trained.
#[test]
fn one_modality_alone_trains_what_it_can() {
    let mut images = batch([0, 1, 2]);
    images.texts = None;
    let step = run(&|_| true, &images);
    let keys: Vec<_> = losses(&step).iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["vq", "codes", "views"]);
    assert_eq!(step.skipped, ["mlm", "itm", "itc", "lm", "mcr", "wpg"]);
    let mut texts = batch([0, 1, 2]);
    texts.images = None;
    texts.further_texts.clear();
    let step = run(&|_| true, &texts);
    let keys: Vec<_> = losses(&step).iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["mlm", "lm", "vq", "codes"]);
    assert!(losses(&step).iter().all(|(_, loss)| loss.is_finite()));
}

/// A batch without any word, tag or phrase to predict or phrase to ground.
fn nothing_to_predict() -> Batch {
    let mut batch = batch([0, 1, 2]);
    let texts = batch.texts.as_mut().unwrap();
    // The begin token alone.
    texts.lengths = vec![1; SAMPLES];
    texts.concepts = Some(vec![0; SAMPLES]);
    let tags = batch.further_texts.get_mut(TAGS).unwrap();
    for masked in [&mut texts.masked, &mut tags.masked] {
        let masked = masked.as_mut().unwrap();
        masked.labels.fill(MaskedTexts::IGNORE);
        if let Some(labels) = &mut masked.concept_labels {
            labels.fill(MaskedTexts::IGNORE);
        }
    }
    batch
}

/// The mean of nothing is 0 in f32, whatever the dtype of the encoders, even if their states overflow it. It has no gradient next
/// to other losses.
#[test]
fn a_loss_over_nothing_is_zero_in_every_dtype() {
    for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
        for scale in [1.0, 3e4] {
            let (backbone, heads, device) = build();
            let scaled = |name: &str, shape: &[usize]| {
                let count = shape.iter().product();
                let of_norm = name.ends_with("norm.weight");
                of_norm.then(|| TensorData::new(vec![scale as f32; count], shape.to_vec()))
            };
            let backbone = parameters::replace(backbone, scaled).compute_in(dtype);
            let batch = nothing_to_predict();
            let run = |chosen: &dyn Fn(&str) -> bool, batch: &Batch| {
                let draws = Draws::new(1);
                heads
                    .together(chosen, &backbone, std::slice::from_ref(batch), &device)
                    .batch(0, draws)
                    .unwrap()
            };
            for key in ["mlm", "lm", "mcr", "wpg"] {
                let step = run(&|other| other == key, &batch);
                assert!(step.loss.is_none() && step.skipped.is_empty(), "{key}");
                let [report] = &step.results[..] else {
                    panic!("{key}: {} reports", step.results.len());
                };
                assert_eq!((report.objective, report.predictions()), (key, 0));
                assert_eq!(report.loss.dtype(), DType::F32, "{key}");
                assert_eq!(losses(&step), [(key, 0.0)], "{dtype:?}, {scale}");
            }
            if scale > 1.0 {
                continue;
            }
            // All objectives together.
            let step = run(&|_| true, &batch);
            assert_eq!(step.results.len(), 9, "{:?}", step.skipped);
            assert!(losses(&step).iter().all(|(_, loss)| loss.is_finite()));
            let loss = step.loss.unwrap();
            assert_eq!(loss.dtype(), DType::F32);
            let _ = loss.backward();
            // Texts alone, of which no state chooses a code.
            let mut texts = batch.clone();
            texts.images = None;
            texts.further_texts.clear();
            let step = run(&|_| true, &texts);
            assert_eq!(step.skipped, ["itm", "itc", "mcr", "wpg", "views"]);
            let all = losses(&step);
            assert!(
                all.iter().all(|(_, loss)| loss.is_finite()),
                "{dtype:?}: {all:?}"
            );
            // No text describes its image, so no pairs can be made.
            let mut questions = batch.clone();
            questions.texts.as_mut().unwrap().roles = vec![TextRole::Question; SAMPLES];
            let step = run(&|_| true, &questions);
            assert_eq!(step.skipped, ["itm", "itc", "wpg"]);
            assert!(losses(&step).iter().all(|(_, loss)| loss.is_finite()));
            // All samples show one image: there is no negative, and nothing to tell apart.
            let mut one = self::batch([0, 1, 2]);
            one.pictures = vec![7; SAMPLES];
            let step = run(&|_| true, &one);
            assert!(step.skipped.is_empty());
            for report in &step.results {
                let (loss, key) = (report.loss.clone().into_scalar::<f32>(), report.objective);
                let expected = match key {
                    // A caption with a wrong image, and an image with a wrong caption.
                    "itm" => 2 * SAMPLES,
                    "itc" | "wpg" | "views" => SAMPLES,
                    _ => 0,
                };
                assert_eq!(report.without_negative, expected, "{key}");
                assert!(loss.is_finite(), "{key}");
                if ["itc", "wpg", "views"].contains(&key) {
                    assert_eq!(loss, 0.0, "{key}");
                }
            }
        }
    }
}

/// No word reveals the words before it, through text encoder, codes and joint encoder together.
#[test]
fn text_from_left_to_right_sees_nothing_of_what_follows() {
    let (backbone, _, device) = build();
    let images = batch([0, 1, 2]).images.unwrap();
    let pixels = images.normalised(&images.pixels);
    let pixels = TensorData::new(pixels, [SAMPLES, 3, 8, 8]);
    let images = backbone.encode_images(Tensor::from_data(pixels, &device));
    let ids = [0, 5, 6, 7, 8, 2];
    for (prefix, images) in [(1, Some(&images)), (2, None)] {
        let states = |ids: [i32; LENGTH]| {
            let ids = ids.repeat(SAMPLES);
            let input = backbone
                .text
                .input(&ids, &[LENGTH; SAMPLES], LENGTH, &device);
            let texts = backbone.encode_texts(&input.from_left_to_right(prefix));
            let view = View {
                prefix: Some(prefix),
                ..View::default()
            };
            let fused = backbone.fuse_parts(Some(&texts), images, &view, Keep::Nothing);
            let data = fused.text().clone().without_autodiff().into_data();
            data.iter::<f32>().collect::<Vec<_>>()
        };
        let plain = states(ids);
        for changed in prefix..LENGTH {
            let mut other = ids;
            other[changed] = 13;
            let other = states(other);
            for row in 0..SAMPLES {
                let of = |x: &[f32], at: usize| x[(row * LENGTH + at) * 8..][..8].to_vec();
                for at in 0..changed {
                    assert_eq!(of(&plain, at), of(&other, at), "{prefix} {changed} {at}");
                }
                assert_ne!(of(&plain, changed), of(&other, changed));
            }
        }
    }
}

/// UNIMO-2's head for texts: `W2 relu(W1 t)` of the text's first state after the grounded encoder, which reads the words alone and
/// chooses its codes by them.
#[test]
fn a_sentence_is_classified_by_the_grounded_encoder() {
    let model = model();
    let config = SentencesConfig {
        weight: 1.0,
        head: SentenceHead::Relu,
        reads: SentenceEncoder::Joint,
        predicts: SentenceTarget::Class,
        classes: Some(3),
        dropout: 0.0,
    };
    let all = ObjectivesConfig {
        sentences: Some(config.clone()),
        ..ObjectivesConfig::default()
    };
    all.validate_with(&model).unwrap();
    let device = Device::flex();
    let mut init = Init::new(&device, 3).with_deviation(0.5);
    let backbone = model.init(&mut init);
    let heads = all.init(&mut init, &model);
    let head = heads.sentences.as_ref().unwrap();
    let batch = Batch {
        images: None,
        ..batch([0, 1, 2])
    };
    let texts = batch.texts.as_ref().unwrap();
    let text = &backbone.text;
    let input = text.input(&texts.ids, &texts.lengths, texts.length, &device);
    let read = backbone.encode_texts(&input);
    let fused = backbone.fuse_parts(Some(&read), None, &View::default(), Keep::Nothing);
    let inner = head.dense.forward(fused.text_class());
    let expected = head.outer.forward(inner.clamp_min(0.0));
    let found = heads
        .predict("sentences", &backbone, &batch, &device)
        .unwrap();
    let numbers = |x: Tensor<2>| -> Vec<f32> { x.into_data().iter::<f32>().collect() };
    let (found, expected) = (numbers(found), numbers(expected));
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() < TOLERANCE, "{a} {b}");
    }
    // The text encoder alone says something else.
    let alone = ObjectivesConfig {
        sentences: Some(SentencesConfig {
            reads: SentenceEncoder::Text,
            ..config.clone()
        }),
        ..ObjectivesConfig::default()
    };
    let mut other = alone.init(&mut Init::new(&device, 3), &model);
    let own = other.sentences.as_mut().unwrap();
    own.dense = head.dense.clone();
    own.outer = head.outer.clone();
    let by_text = numbers(
        other
            .predict("sentences", &backbone, &batch, &device)
            .unwrap(),
    );
    assert!(
        by_text
            .iter()
            .zip(&found)
            .any(|(a, b)| (a - b).abs() > 0.01)
    );
    let towers = BackboneConfig {
        joint: None,
        ..model
    };
    let error = config.validate_with(&towers).unwrap_err().to_string();
    assert!(error.contains("reads"), "{error}");
}
