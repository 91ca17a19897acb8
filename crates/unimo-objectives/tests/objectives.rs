//! All objectives together on a tiny backbone.
#![cfg(feature = "flex")]

mod small;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use unimo_batch::{Batch, Entailment, Images, MaskSpec, MaskedTexts, TextRole, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_objectives::pretraining::itc::{
    ItcConfig, MomentumConfig, Normalised, Projection, Views,
};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

/// Tolerance for f32 sums in another order over two layers of width 8.
const TOLERANCE: f32 = 1e-5;

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.02,
        ..small::two_streams()
    }
}

const QUEUE: usize = 5;

fn objectives(momentum: bool) -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 0.5,
            mask: MaskSpec::default(),
            tied: false,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        }),
        itm: Some(ItmConfig {
            weight: 2.0,
            negatives: Negatives::HardArgmax,
            layout: Layout::OneToTwo,
            head: Head::Pair,
            epsilon: None,
        }),
        itc: Some(ItcConfig {
            weight: 1.5,
            width: 4,
            views: Views::Two,
            temperature: 0.07,
            temperature_range: [0.05, 0.1],
            projection: Projection::Linear,
            normalised: Normalised::Both,
            momentum: momentum.then_some(MomentumConfig {
                queue: QUEUE,
                alpha: 0.4,
                alpha_ramp: 0,
            }),
        }),
        ..ObjectivesConfig::default()
    }
}

fn build(momentum: bool) -> (Backbone, Objectives, Device) {
    let device = Device::flex().autodiff();
    let mut init = Init::new(&device, 3);
    let config = objectives(momentum);
    config.validate().unwrap();
    let backbone = model().init(&mut init);
    let heads = config.init(&mut init, &model());
    (backbone, heads, device)
}

const SAMPLES: usize = 3;
const LENGTH: usize = 4;

/// Row `i` holds sample `order[i]`.
fn batch(order: [usize; SAMPLES]) -> Batch {
    let pixels = 3 * 8 * 8;
    let ids = [[0, 5, 6, 2], [0, 7, 2, 1], [0, 9, 8, 2]];
    let masked = [[0, 4, 6, 2], [0, 4, 2, 1], [0, 9, 4, 2]];
    let labels = [
        [-100, 5, -100, -100],
        [-100, 7, -100, -100],
        [-100, -100, 8, -100],
    ];
    let lengths = [4, 3, 4];
    let rows = |table: [[i32; LENGTH]; SAMPLES]| order.iter().flat_map(|&i| table[i]).collect();
    Batch {
        samples: order.iter().map(|i| format!("sample {i}")).collect(),
        images: Some(Images {
            pixels: order
                .iter()
                .flat_map(|&i| (0..pixels).map(move |p| ((i * 31 + p * 7) % 13) as u8))
                .collect(),
            height: 8,
            width: 8,
            // The levels are 0 to 12, which become -1 to 1.
            mean: [6.0 / 255.0; 3],
            std: [6.0 / 255.0; 3],
            second_view: None,
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
                concept_labels: None,
            }),
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

fn run(backbone: &Backbone, heads: &Objectives, device: &Device, batch: &Batch) -> Step {
    heads.step(backbone, batch, device, Draws::new(1))
}

/// The same with a teacher.
fn run_with(
    backbone: &Backbone,
    teacher: &Teacher,
    heads: &Objectives,
    device: &Device,
    batch: &Batch,
) -> Step {
    heads
        .together(&|_| true, backbone, std::slice::from_ref(batch), device)
        .with_teacher(Some(teacher))
        .batch(0, Draws::new(1))
        .unwrap()
}

fn teacher(backbone: &Backbone) -> Teacher {
    TeacherConfig { decay: 0.5 }.init(backbone)
}

fn value(x: &Tensor<1>) -> f32 {
    x.clone().into_scalar::<f32>()
}

#[test]
fn the_loss_is_the_weighted_sum() {
    let (backbone, heads, device) = build(false);
    let step = run(&backbone, &heads, &device, &batch([0, 1, 2]));
    let keys: Vec<_> = step.results.iter().map(|r| r.objective).collect();
    assert_eq!(keys, ["mlm", "itm", "itc"]);
    let counts: Vec<_> = step.results.iter().map(|r| r.predictions()).collect();
    assert_eq!(counts, [3, 9, 6]);
    let sum: f32 = step
        .results
        .iter()
        .zip([0.5, 2.0, 1.5])
        .map(|(r, weight)| value(&r.loss) * weight)
        .sum();
    assert!((value(&step.loss.unwrap()) - sum).abs() < TOLERANCE);
}

#[test]
fn the_order_of_the_batch_does_not_matter() {
    let (backbone, heads, device) = build(false);
    let one = run(&backbone, &heads, &device, &batch([0, 1, 2]));
    let other = run(&backbone, &heads, &device, &batch([2, 0, 1]));
    for (a, b) in one.results.iter().zip(&other.results) {
        let difference = (value(&a.loss) - value(&b.loss)).abs();
        assert!(difference < TOLERANCE, "{}: {difference}", a.objective);
    }
}

#[test]
fn an_objective_that_lacks_something_is_skipped() {
    let (backbone, heads, device) = build(false);
    let mut no_masks = batch([0, 1, 2]);
    no_masks.texts.as_mut().unwrap().masked = None;
    let step = run(&backbone, &heads, &device, &no_masks);
    assert_eq!(step.skipped, ["mlm"]);
    assert_eq!(step.results.len(), 2);
    let mut no_images = batch([0, 1, 2]);
    no_images.images = None;
    let step = run(&backbone, &heads, &device, &no_images);
    assert_eq!(step.skipped, ["mlm", "itm", "itc"]);
    assert!(step.loss.is_none());
}

/// Rows of length 4 of a matrix.
fn rows(x: &Tensor<2>) -> Vec<Vec<f64>> {
    let values: Vec<f64> = x.clone().into_data().iter::<f32>().map(f64::from).collect();
    values.chunks(4).map(<[f64]>::to_vec).collect()
}

/// The contrast's features of a batch: texts and images.
fn embeddings(
    backbone: &Backbone,
    heads: &Objectives,
    device: &Device,
    batch: &Batch,
) -> [Vec<Vec<f64>>; 2] {
    let itc = heads.itc.as_ref().unwrap();
    let texts = batch.texts.as_ref().unwrap();
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, LENGTH, device);
    let images = batch.images.as_ref().unwrap();
    let pixels = images.normalised(&images.pixels);
    let pixels = burn::tensor::TensorData::new(pixels, [SAMPLES, 3, 8, 8]);
    let text = itc.embed_texts(&backbone.encode_texts(&input));
    let image = itc.embed_images(&backbone.encode_images(Tensor::from_data(pixels, device)));
    [rows(&text), rows(&image)]
}

fn similarity(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / 0.07
}

/// The loss if row `a` is compared with the columns that `seen` allows, in both directions.
fn formula(
    [texts, images]: [&[Vec<f64>]; 2],
    others: [&[Vec<f64>]; 2],
    seen: &dyn Fn(usize, usize) -> bool,
) -> f32 {
    let mut loss = 0.0;
    let [other_texts, other_images] = others;
    for (own, others) in [(texts, other_images), (images, other_texts)] {
        for (row, own) in own.iter().enumerate() {
            let columns = others.iter().enumerate().filter(|(at, _)| seen(row, *at));
            let sum: f64 = columns.map(|(_, other)| similarity(own, other).exp()).sum();
            loss += sum.ln() - similarity(own, &others[row]);
        }
    }
    (loss / (2 * SAMPLES) as f64) as f32
}

#[test]
fn contrast_equals_its_formula() {
    let (backbone, heads, device) = build(false);
    let mut batch = batch([0, 1, 2]);
    let [texts, images] = embeddings(&backbone, &heads, &device, &batch);
    let all = [&texts[..], &images[..]];
    let check = |batch: &Batch, seen: &dyn Fn(usize, usize) -> bool| {
        let step = run(&backbone, &heads, &device, batch);
        let (ours, expected) = (value(&step.results[2].loss), formula(all, all, seen));
        let difference = (ours - expected).abs();
        assert!(difference < TOLERANCE * 10.0, "{ours} {expected}");
        assert_eq!(step.results[2].without_negative, 0);
    };
    check(&batch, &|_, _| true);
    // Two captions of one image are not negatives of each other.
    batch.pictures = vec![4, 9, 4];
    check(&batch, &|a, b| a == b || a + b != 2);
    batch.pictures = vec![4, 9, 5];
    check(&batch, &|_, _| true);
}

/// Rows of the queue with a sample's own image are not its negatives, whenever they were added.
#[test]
fn the_queue_knows_pictures() {
    let device = Device::flex().autodiff();
    let mut config = objectives(true);
    config.itc.as_mut().unwrap().momentum = Some(MomentumConfig {
        queue: 2 * SAMPLES,
        alpha: 0.0,
        alpha_ramp: 0,
    });
    let mut init = Init::new(&device, 3).with_deviation(0.2);
    let backbone = model().init(&mut init);
    let mut heads = config.init(&mut init, &model());
    let mut teacher = teacher(&backbone);
    let mut batch = batch([0, 1, 2]);
    // Large numbers that differ only in their last bits.
    let known = u64::MAX - 5;
    let mut queue: [Vec<Vec<f64>>; 2] = Default::default();
    let mut of_queue = Vec::new();
    for pictures in [vec![known, 2, 3], vec![], vec![known, 3, known - 1]] {
        batch.pictures = pictures.clone();
        let step = run_with(&backbone, &teacher, &heads, &device, &batch);
        let [texts, images] = embeddings(&backbone, &heads, &device, &batch);
        let carry = &step.carries[0].1;
        let (own_texts, own_images) = (
            rows(&carry.features.of("texts")),
            rows(&carry.features.of("images")),
        );
        if of_queue.len() == 2 * SAMPLES {
            let others = [
                [own_texts.clone(), queue[0].clone()].concat(),
                [own_images.clone(), queue[1].clone()].concat(),
            ];
            // Two samples of the first step show images of this step; the images of the second step are unknown.
            let hidden = |row: usize, at: usize| {
                at >= SAMPLES && of_queue[at - SAMPLES] == Some(pictures[row])
            };
            let count = (0..SAMPLES * 3 * SAMPLES)
                .filter(|i| hidden(i / 9, i % 9))
                .count();
            assert_eq!(count, 2);
            let seen = |row: usize, at: usize| !hidden(row, at);
            let expected = formula([&texts, &images], [&others[0], &others[1]], &seen);
            let ours = value(&step.results[2].loss);
            assert!(
                (ours - expected).abs() < TOLERANCE * 10.0,
                "{ours} {expected}"
            );
        }
        of_queue.extend((0..SAMPLES).map(|at| pictures.get(at).copied()));
        queue[0].extend(own_texts);
        queue[1].extend(own_images);
        teacher.after_step(&backbone);
        heads.after_step(Some(&teacher), step.carries);
    }
}

/// A text that does not describe its image is left out of all pairs, as if it were absent, and counted.
#[test]
fn only_texts_that_describe_are_paired() {
    let (backbone, heads, device) = build(false);
    let roles = [
        TextRole::Question,
        TextRole::Statement { holds: true },
        TextRole::Hypothesis(Entailment::Entailed),
    ];
    for role in roles {
        let mut with = batch([0, 1, 2]);
        with.texts.as_mut().unwrap().roles = vec![TextRole::Describes, role, TextRole::Describes];
        let step = run(&backbone, &heads, &device, &with);
        let counts: Vec<_> = step
            .results
            .iter()
            .map(|r| (r.predictions(), r.left_out))
            .collect();
        assert_eq!(counts, [(3, 0), (6, 1), (4, 1)]);
        // The same batch without the sample.
        let mut without = batch([0, 2, 1]);
        without.samples.truncate(2);
        let images = without.images.as_mut().unwrap();
        images.pixels.truncate(2 * 3 * 8 * 8);
        let texts = without.texts.as_mut().unwrap();
        texts.lengths.truncate(2);
        texts.ids.truncate(2 * LENGTH);
        let masked = texts.masked.as_mut().unwrap();
        masked.ids.truncate(2 * LENGTH);
        masked.labels.truncate(2 * LENGTH);
        let alone = run(&backbone, &heads, &device, &without);
        for at in [1, 2] {
            let (a, b) = (
                value(&step.results[at].loss),
                value(&alone.results[at].loss),
            );
            assert!((a - b).abs() < TOLERANCE, "{a} {b}");
        }
        // One caption alone is too few.
        with.texts.as_mut().unwrap().roles[0] = role;
        let step = run(&backbone, &heads, &device, &with);
        assert_eq!(step.skipped, ["itm", "itc"]);
    }
}

#[test]
fn the_queue_goes_round_and_tracks_no_gradient() {
    let (backbone, mut heads, device) = build(true);
    let mut teacher = teacher(&backbone);
    assert!(parameters::list(&teacher).iter().all(|p| !p.trainable));
    let frozen: Vec<_> = parameters::list(&heads)
        .into_iter()
        .filter(|p| p.name.contains(".momentum."))
        .collect();
    assert!(!frozen.is_empty());
    assert!(frozen.iter().all(|p| !p.trainable));

    for round in 0..2 {
        let step = run_with(&backbone, &teacher, &heads, &device, &batch([0, 1, 2]));
        let gradients = GradientsParams::from_grads(step.loss.unwrap().backward(), &heads);
        let gradients = parameters::gradients(&heads, &gradients);
        assert!(!gradients.is_empty());
        assert!(
            frozen
                .iter()
                .all(|p| gradients.iter().all(|(name, _)| *name != p.name))
        );
        let carry = step.carries[0].1.clone();
        teacher.after_step(&backbone);
        heads.after_step(Some(&teacher), step.carries);
        let momentum = heads.itc.as_ref().unwrap().momentum.as_ref().unwrap();
        assert_eq!(
            momentum.queue.cursor.val().into_scalar::<f32>() as usize,
            (round + 1) * SAMPLES % QUEUE
        );
        let values = |x: Tensor<2>| -> Vec<f32> { x.into_data().iter::<f32>().collect() };
        let queue = values(momentum.queue.of("texts"));
        let new = values(carry.features.of("texts"));
        for i in 0..SAMPLES {
            let at = (round * SAMPLES + i) % QUEUE;
            for k in 0..4 {
                assert!((queue[at * 4 + k] - new[i * 4 + k]).abs() < TOLERANCE);
            }
        }
    }
}

#[test]
fn the_temperature_is_clamped_after_the_step_and_not_before() {
    let (backbone, mut heads, device) = build(false);
    let itc = heads.itc.as_mut().unwrap();
    itc.logit_scale = parameters::update(itc.logit_scale.clone(), |scale| scale.sub_scalar(4.6));
    let _ = run(&backbone, &heads, &device, &batch([0, 1, 2]));
    let now = |heads: &Objectives| 1.0 / value(&heads.itc.as_ref().unwrap().scale().reshape([1]));
    assert!(now(&heads) > 6.0);
    heads.after_step(None, Vec::new());
    assert!((now(&heads) - 0.1).abs() < TOLERANCE);
}
