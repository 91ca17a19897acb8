//! Objectives over pairs of texts: what they share with those over images, and what they do not depend on.
#![cfg(feature = "flex")]

mod small;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use unimo_batch::{Batch, MaskSpec, MaskedTexts, TRANSLATION, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::fusion::FusionConfig;
use unimo_encoders::output::Keep;
use unimo_objectives::pretraining::itc::{ItcConfig, Normalised, Projection, Views};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::pretraining::tlm::{OwnDecoder, TlmConfig};
use unimo_objectives::pretraining::ttc::{OwnSpace, TtcConfig};
use unimo_objectives::pretraining::ttm::{OwnHead, TtmConfig};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

/// f32 sums in another order over three layers of width 8.
const TOLERANCE: f64 = 1e-5;

fn model() -> BackboneConfig {
    BackboneConfig {
        fusion: Some(FusionConfig {
            image_stream: false,
            shared: false,
            ..small::fusion()
        }),
        ..small::towers()
    }
}

fn shared() -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: true,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::HardArgmax,
            layout: Layout::OneToTwo,
            head: Head::Mlp,
            epsilon: None,
        }),
        itc: Some(ItcConfig {
            weight: 1.0,
            width: 4,
            views: Views::Two,
            temperature: 0.07,
            temperature_range: [0.001, 0.5],
            projection: Projection::Linear,
            normalised: Normalised::Both,
            momentum: None,
        }),
        ttc: Some(TtcConfig {
            weight: 1.0,
            own: None,
        }),
        ttm: Some(TtmConfig {
            weight: 1.0,
            negatives: Negatives::HardArgmax,
            layout: Layout::OneToTwo,
            epsilon: None,
            own: None,
        }),
        tlm: Some(TlmConfig {
            weight: 1.0,
            mask: MaskSpec::default(),
            joined: None,
            image: false,
            own: None,
        }),
        ..ObjectivesConfig::default()
    }
}

fn build(config: &ObjectivesConfig) -> (Backbone, Objectives, Device) {
    let device = Device::flex().autodiff();
    let mut init = Init::new(&device, 3).with_deviation(0.2);
    config.validate().unwrap();
    config.validate_with(&model()).unwrap();
    let backbone = model().init(&mut init);
    let heads = config.init(&mut init, &model());
    (backbone, heads, device)
}

const LENGTH: usize = 4;
const ENGLISH: [[i32; LENGTH]; 3] = [[0, 5, 6, 2], [0, 7, 2, 1], [0, 9, 8, 2]];
const OTHER: [[i32; LENGTH]; 3] = [[0, 10, 2, 1], [0, 11, 12, 2], [0, 13, 14, 2]];

fn texts(rows: [[i32; LENGTH]; 3]) -> Texts {
    let real = |row: &[i32; LENGTH]| row.iter().filter(|id| **id != 1).count();
    let hidden = rows.map(|[first, _, rest @ ..]| [first, 4, rest[0], rest[1]]);
    let labels = rows.map(|[_, second, ..]| [-100, second, -100, -100]);
    Texts {
        lengths: rows.iter().map(real).collect(),
        ids: rows.concat(),
        length: LENGTH,
        masked: Some(MaskedTexts {
            ids: hidden.concat(),
            labels: labels.concat(),
            concept_labels: None,
        }),
        ..Texts::default()
    }
}

fn batch(own: [[i32; LENGTH]; 3], other: [[i32; LENGTH]; 3]) -> Batch {
    Batch {
        samples: vec![String::new(); 3],
        texts: Some(texts(own)),
        further_texts: [(TRANSLATION.to_owned(), texts(other))].into(),
        ..Batch::default()
    }
}

fn run((backbone, heads, device): &(Backbone, Objectives, Device), batch: &Batch) -> Step {
    heads.step(backbone, batch, device, Draws::new(1))
}

fn loss(step: &Step, key: &str) -> f32 {
    let found = step.results.iter().find(|result| result.objective == key);
    found.unwrap().loss.clone().into_scalar::<f32>()
}

/// Both kinds of memory go through the same layers, to the bit.
#[test]
fn a_memory_is_read_alike_whether_it_is_an_image_or_a_text() {
    let (backbone, _, device) = build(&shared());
    let encode = |rows: [[i32; LENGTH]; 3]| {
        let texts = texts(rows);
        let input = backbone
            .text
            .input(&texts.ids, &texts.lengths, LENGTH, &device);
        backbone.encode_texts(&input)
    };
    let (texts, other) = (encode(ENGLISH), encode(OTHER));
    let image = ImageFeatures {
        states: other.states.clone(),
        class: other.class.clone(),
        tags: None,
        concepts: None,
        mask: Some(other.mask.clone()),
        layers: Default::default(),
        represented: None,
    };
    let of_image = backbone.fuse(&texts, &image, Keep::Nothing);
    let of_text = backbone.fuse_texts(&texts, &other, Keep::Nothing);
    let bits = |x: &Tensor<3>| x.to_data();
    bits(of_image.text()).assert_eq(&bits(of_text.text()), true);
    // The memory counts at all.
    let other = backbone.fuse_texts(&texts, &texts, Keep::Nothing);
    assert_ne!(bits(of_text.text()), bits(other.text()));
}

#[test]
fn padding_both_texts_changes_nothing() {
    let model = build(&shared());
    let short = run(&model, &batch(ENGLISH, OTHER));
    let mut long = batch(ENGLISH, OTHER);
    long.texts.as_mut().unwrap().widen(LENGTH + 2, 1);
    let translations = long.further_texts.get_mut(TRANSLATION).unwrap();
    translations.widen(LENGTH + 2, 1);
    let long = run(&model, &long);
    for key in ["ttc", "ttm", "tlm"] {
        let (short, long) = (loss(&short, key), loss(&long, key));
        assert!(
            f64::from((short - long).abs()) < TOLERANCE,
            "{key}: {short} {long}"
        );
    }
}

/// Where texts are their own translations, TTC contrasts the text side with itself.
#[test]
fn a_text_that_is_its_own_translation_is_contrasted_with_itself() {
    let model = build(&shared());
    let step = run(&model, &batch(ENGLISH, ENGLISH));
    let (backbone, heads, device) = &model;
    let texts = texts(ENGLISH);
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, LENGTH, device);
    let itc = heads.itc.as_ref().unwrap();
    let own = itc.embed_texts(&backbone.encode_texts(&input));
    let scores = own.clone().matmul(own.transpose()) * itc.scale();
    let diagonal = burn::tensor::activation::log_softmax(scores, 1);
    let diagonal: Vec<f32> = diagonal.into_data().iter::<f32>().step_by(4).collect();
    let expected = -diagonal.iter().sum::<f32>() / 3.0;
    assert!(f64::from((loss(&step, "ttc") - expected).abs()) < TOLERANCE);
}

/// Source and target swapped: contrast is the same loss; over both swaps TTM and TLM are too.
#[test]
fn both_swaps_of_a_pair_have_one_contrast() {
    let model = build(&shared());
    let there = run(&model, &batch(ENGLISH, OTHER));
    let back = run(&model, &batch(OTHER, ENGLISH));
    let difference = loss(&there, "ttc") - loss(&back, "ttc");
    assert!(f64::from(difference.abs()) < TOLERANCE);
    assert_ne!(loss(&there, "tlm"), loss(&back, "tlm"));
}

#[test]
fn a_batch_without_a_second_text_skips_and_is_told() {
    let model = build(&shared());
    let mut alone = batch(ENGLISH, OTHER);
    alone.further_texts.clear();
    let step = run(&model, &alone);
    assert!(step.results.is_empty() && step.loss.is_none());
    for key in ["ttc", "ttm", "tlm"] {
        assert!(step.skipped.contains(&key), "{:?}", step.skipped);
    }
}

/// Shared heads are parameters once, get gradients of texts alone, and stay shared when they are changed.
#[test]
fn heads_are_shared_and_stay_so() {
    let model = build(&shared());
    let names: Vec<String> = parameters::list(&model.1)
        .into_iter()
        .map(|p| p.name)
        .collect();
    let own = |key: &str| names.iter().any(|name| name.starts_with(key));
    assert!(own("itc.") && own("itm.") && own("mlm."), "{names:?}");
    assert!(!own("ttc.") && !own("ttm.") && !own("tlm."), "{names:?}");
    let step = run(&model, &batch(ENGLISH, OTHER));
    let gradients = step.loss.as_ref().unwrap().backward();
    let found = GradientsParams::from_grads(gradients, &model.1);
    let found = parameters::gradients(&model.1, &found);
    for name in [
        "itc.text_projection.weight",
        "itc.logit_scale",
        "itm.classifier.weight",
        "mlm.dense.weight",
    ] {
        assert!(found.iter().any(|(own, _)| own == name), "{name}");
    }
    assert!(!found.iter().any(|(name, _)| name.contains("image")));

    let (backbone, heads, device) = model;
    let heads = parameters::replace(heads, |name, shape| {
        (name == "itc.text_projection.weight").then(|| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|i| (i % 5) as f32)
                .collect();
            TensorData::new(values, shape.to_vec())
        })
    });
    let changed = run(&(backbone, heads, device), &batch(ENGLISH, OTHER));
    assert_ne!(loss(&changed, "ttc"), loss(&step, "ttc"));
    assert_eq!(loss(&changed, "tlm"), loss(&step, "tlm"));
}

#[test]
fn heads_may_be_of_ones_own() {
    let mut config = shared();
    (config.itc, config.itm, config.mlm) = (None, None, None);
    let error = config.validate().unwrap_err().to_string();
    assert!(
        error.contains("objectives") || error.contains("ttc"),
        "{error}"
    );
    config.ttc.as_mut().unwrap().own = Some(OwnSpace {
        width: 4,
        temperature: 0.07,
        temperature_range: [0.001, 0.5],
    });
    config.ttm.as_mut().unwrap().own = Some(OwnHead { head: Head::Mlp });
    config.tlm.as_mut().unwrap().own = Some(OwnDecoder { tied: true });
    let model = build(&config);
    let step = run(&model, &batch(ENGLISH, OTHER));
    assert_eq!(step.results.len(), 3);
    config.ttm.as_mut().unwrap().own = Some(OwnHead { head: Head::Pair });
    assert!(
        config
            .validate()
            .unwrap_err()
            .to_string()
            .contains("ttm.own.head")
    );
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let mut config = shared();
    config.itm.as_mut().unwrap().head = Head::Pair;
    let error = config.validate().unwrap_err().to_string();
    assert!(
        error.contains("ttm") && error.contains("[objectives.itm]"),
        "{error}"
    );
    let mut config = shared();
    config.tlm.as_mut().unwrap().mask.rate = 0.4;
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("tlm.mask"), "{error}");
    let mut config = shared();
    config.ttc = None;
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("[objectives.ttc]"), "{error}");
    let error = shared().validate_with(&small::two_streams()).unwrap_err();
    assert!(
        error.to_string().contains("image_stream = false"),
        "{error}"
    );
}

/// Contrasted over two micro-batches, the loss is that of all their samples, and its gradient too.
#[test]
fn texts_are_contrasted_over_all_micro_batches() {
    let mut config = shared();
    (config.ttm, config.tlm) = (None, None);
    let (backbone, heads, device) = build(&config);
    let rows = |from: usize, own: [[i32; LENGTH]; 3], other: [[i32; LENGTH]; 3]| {
        let turned =
            |rows: [[i32; LENGTH]; 3]| [rows[from % 3], rows[(from + 1) % 3], rows[(from + 2) % 3]];
        batch(turned(own), turned(other))
    };
    let mut together: Vec<Batch> = vec![rows(0, ENGLISH, OTHER), rows(1, OTHER, ENGLISH)];
    let mut whole = together[0].clone();
    let join = |a: &mut Texts, b: &Texts| {
        a.ids.extend(&b.ids);
        a.lengths.extend(&b.lengths);
        a.masked = None;
    };
    whole.samples.extend(together[1].samples.clone());
    join(
        whole.texts.as_mut().unwrap(),
        together[1].texts.as_ref().unwrap(),
    );
    join(
        whole.further_texts.get_mut(TRANSLATION).unwrap(),
        &together[1].further_texts[TRANSLATION],
    );
    for batch in &mut together {
        batch.texts.as_mut().unwrap().masked = None;
    }
    let one = heads.step(&backbone, &whole, &device, Draws::new(1));
    let mut several = heads.together(&|_| true, &backbone, &together, &device);
    let over = several.contrast().unwrap().unwrap();
    let difference = loss(&one, "ttc") - loss(&over.step, "ttc");
    assert!(f64::from(difference.abs()) < TOLERANCE, "{difference}");
    let parts = (0..2).map(|at| several.batch(at, Draws::new(1)).unwrap().loss.unwrap());
    let surrogate = parts.reduce(|a, b| a + b).unwrap();
    let of = |loss: &Tensor<1>| {
        let gradients = GradientsParams::from_grads(loss.backward(), &backbone);
        parameters::gradients(&backbone, &gradients)
    };
    let (ours, expected) = (of(&surrogate), of(one.loss.as_ref().unwrap()));
    assert_eq!(ours.len(), expected.len());
    for ((name, ours), (_, expected)) in ours.iter().zip(&expected) {
        assert!(!name.starts_with("cross"), "{name}");
        ours.assert_approx_eq::<f32>(expected, Tolerance::absolute(TOLERANCE));
    }
}
