//! Tasks: heads and losses against PyTorch, and what holds of statements about two images and of ranking.
#![cfg(feature = "flex")]

mod small;

use std::path::Path;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use unimo_batch::{Batch, Images, Target, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::FusionConfig;
use unimo_encoders::import::{Allow, import};
use unimo_encoders::names::{Form, Names, rule};
use unimo_encoders::output::Keep;
use unimo_encoders::weights::Weights;
use unimo_objectives::tasks::head::{HeadConfig, TaskHead};
use unimo_objectives::tasks::labels::Labelled;
use unimo_objectives::tasks::nlvr2::Nlvr2Config;
use unimo_objectives::tasks::ranking::RankingConfig;
use unimo_objectives::tasks::summary::Pooling;
use unimo_objectives::{Draws, Fused, Objectives, ObjectivesConfig, Pairs};

use small::WIDTH;

/// f32 sums of up to 32 products of values around 1, in another order than PyTorch's.
const OUTPUTS: f64 = 1e-5;

/// The same for gradients, relative to the largest of a tensor.
const GRADIENTS: f32 = 1e-4;

fn reference() -> Weights {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/heads.safetensors");
    Weights::open(&path).unwrap()
}

/// The largest difference, as a share of the largest number.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs
        .iter()
        .fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max) / largest
}

/// A head with the weights of the reference, and its input.
fn head(name: &str, device: &Device) -> (TaskHead, Tensor<2>) {
    let weights = reference();
    let shape = |part: &str| {
        weights
            .info(&format!("{name}.{part}"))
            .unwrap()
            .shape
            .clone()
    };
    let (inner, outer, x) = (shape("0.weight"), shape("3.weight"), shape("x"));
    let config = HeadConfig {
        hidden: Some(inner[0]),
        dropout: 0.0,
    };
    let blank = config.init(&mut Init::blank(device), (inner[1], outer[0]), 1);
    const RULES: &[unimo_encoders::names::Rule] = &[
        rule("inner", "0", Form::Linear),
        rule("norm", "1", Form::Same),
        rule("outer", "3", Form::Linear),
    ];
    let allow = Allow {
        // Other heads, inputs and outputs are in the same file.
        unexpected: vec!["*".to_owned()],
        ..Allow::default()
    };
    let names = Names::new([("", name, RULES)], &[]);
    let (head, _) = import(blank, &mut reference(), &names, &allow).unwrap();
    let values = reference().read(&format!("{name}.x")).unwrap();
    (head, Tensor::from_data(TensorData::new(values, x), device))
}

/// The targets of the reference: a score for every class, or the number of a class.
fn targets(name: &str) -> Batch {
    let mut weights = reference();
    let name = format!("{name}.targets");
    let shape = weights.info(&name).unwrap().shape.clone();
    let values = weights.read(&name).unwrap();
    let target = |row: &[f32]| {
        Target::Labels(if shape.len() == 1 {
            vec![(row[0] as u32, 1.0)]
        } else {
            (0..).zip(row.iter().copied()).collect()
        })
    };
    let width = shape.get(1).copied().unwrap_or(1);
    Batch {
        targets: values.chunks(width).map(target).collect(),
        ..Batch::default()
    }
}

/// Classifiers and losses of transformers' ViLT, and of PyTorch layers in BridgeTower's proportions: `tests/reference/task_heads.py`.
#[test]
fn heads_and_losses_agree_with_pytorch() {
    let device = Device::flex().autodiff();
    for name in ["vqa", "pair", "bridge_vqa", "bridge_pair"] {
        let (head, x) = head(name, &device);
        let x = x.require_grad();
        let logits = head.forward(x.clone());
        let values = |part: &str| reference().read(&format!("{name}.{part}")).unwrap();
        let close = |ours: Tensor<2>, part: &str| {
            let theirs = TensorData::new(values(part), ours.dims());
            let tolerance = Tolerance::absolute(OUTPUTS);
            ours.into_data().assert_approx_eq::<f32>(&theirs, tolerance);
        };
        close(logits.clone(), "logits");
        let batch = targets(name);
        let labelled = Labelled::of(&batch);
        let outcome = if name.ends_with("vqa") {
            labelled.binary_cross_entropy(logits)
        } else {
            labelled.cross_entropy(logits)
        };
        close(outcome.loss.clone().reshape([1, 1]), "loss");
        let mut found = outcome.loss.backward();
        let of_x = x.grad_remove(&mut found).unwrap().into_data();
        let apart = difference(&of_x.iter().collect::<Vec<f32>>(), &values("grad.x"));
        assert!(apart < GRADIENTS, "{name} x: {apart}");
        let gradients = GradientsParams::from_grads(found, &head);
        let gradients = parameters::gradients(&head, &gradients);
        assert_eq!(gradients.len(), 6);
        for (own, gradient) in gradients {
            let (layer, part) = own.split_once('.').unwrap();
            let layer = ["inner", "norm", "", "outer"]
                .iter()
                .position(|l| *l == layer);
            let theirs = values(&format!("grad.{}.{part}", layer.unwrap()));
            let ours = match gradient.shape().as_slice() {
                [d_in, d_out] => {
                    let ours: Tensor<2> = Tensor::from_data(gradient.clone(), &Device::flex());
                    assert_eq!(ours.dims(), [*d_in, *d_out]);
                    ours.transpose().into_data()
                }
                _ => gradient,
            };
            let apart = difference(&ours.iter().collect::<Vec<f32>>(), &theirs);
            assert!(apart < GRADIENTS, "{name} {own}: {apart}");
        }
    }
}

const SIDE: usize = 8;

fn model(pictures: usize) -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.5,
        fusion: Some(FusionConfig {
            pictures,
            ..small::fusion()
        }),
        ..small::towers()
    }
}

fn statements(images: usize) -> ObjectivesConfig {
    ObjectivesConfig {
        nlvr2: Some(Nlvr2Config {
            weight: 1.0,
            images,
            pooling: Pooling::Pair,
            head: HeadConfig::default(),
        }),
        ..ObjectivesConfig::default()
    }
}

fn ranking(negatives: usize) -> ObjectivesConfig {
    ObjectivesConfig {
        ranking: Some(RankingConfig {
            weight: 1.0,
            negatives,
            pooling: Pooling::Pair,
            images: false,
            cross_entropy: 1.0,
            binary: 0.0,
            triplet: 0.0,
            margin: None,
        }),
        ..ObjectivesConfig::default()
    }
}

fn build(config: &ObjectivesConfig, device: &Device) -> (Backbone, Objectives) {
    config.validate().unwrap();
    config.validate_with(&model(2)).unwrap();
    let mut init = Init::new(device, 3).with_deviation(0.5);
    let backbone = model(2).init(&mut init);
    let heads = config.init(&mut init, &model(2));
    (backbone, heads)
}

fn images(rows: usize, factor: usize) -> Images {
    let values = rows * 3 * SIDE * SIDE;
    Images {
        pixels: (0..values).map(|i| (i * factor % 251) as u8).collect(),
        height: SIDE,
        width: SIDE,
        mean: [0.5; 3],
        std: [0.5; 3],
        second_view: None,
        patch_mask: None,
        codes: None,
    }
}

fn batch() -> Batch {
    Batch {
        samples: vec![String::new(); 3],
        images: Some(images(3, 7)),
        second_images: Some(images(3, 13)),
        texts: Some(Texts {
            ids: vec![0, 5, 6, 2, 0, 7, 2, 1, 0, 9, 8, 2],
            length: 4,
            lengths: vec![4, 3, 4],
            ..Texts::default()
        }),
        targets: vec![
            Target::Labels(vec![(1, 1.0)]),
            Target::Unknown,
            Target::Labels(vec![(0, 1.0)]),
        ],
        ..Batch::default()
    }
}

/// The texts with the first or second images of a batch, as one that counts images from 0.
fn fused(backbone: &Backbone, batch: &Batch, device: &Device, second: bool, row: usize) -> Fused {
    let texts = batch.texts.as_ref().unwrap();
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, texts.length, device);
    let texts = backbone.encode_texts(&input);
    let shown = if second {
        &batch.second_images
    } else {
        &batch.images
    };
    let shown = Batch {
        images: shown.clone(),
        ..Batch::default()
    };
    let pictures = backbone.pictures(&shown, device).unwrap();
    let images = backbone.encode_pictures(&pictures, None, row);
    Fused {
        pairs: Pairs::matched(batch.len()),
        output: Some(backbone.fuse(&texts, &images, Keep::Nothing)),
    }
}

/// With one type for both images, as at the start of METER's fine-tuning, swapping the images swaps the halves of what the head reads.
#[test]
fn swapped_images_are_swapped_halves() {
    let device = Device::flex();
    let (mut backbone, heads) = build(&statements(2), &device);
    let fusion = backbone.fusion.as_mut().unwrap();
    let embedding = fusion.type_embedding.as_mut().unwrap();
    let types = embedding.weight.val();
    let first = types.clone().narrow(0, 0, 2);
    let image = types.narrow(0, 1, 1);
    embedding.weight = Param::from_tensor(Tensor::cat(vec![first, image], 0));
    let batch = batch();
    let classifier = &heads.nlvr2.as_ref().unwrap().classifier;
    let features = |left: bool, right: bool| {
        let pair = [
            fused(&backbone, &batch, &device, left, 0),
            fused(&backbone, &batch, &device, right, 1),
        ];
        classifier.features(&backbone, &pair)
    };
    let (one, other) = (features(false, true), features(true, false));
    assert_eq!(one.dims(), [3, 4 * WIDTH]);
    let half =
        |x: &Tensor<2>, at: usize| x.clone().narrow(1, at * 2 * WIDTH, 2 * WIDTH).into_data();
    half(&one, 0).assert_eq(&half(&other, 1), true);
    half(&one, 1).assert_eq(&half(&other, 0), true);
    assert_ne!(half(&one, 0), half(&one, 1));
}

/// A step reads the left image by row 1 of the type embedding and the right one by row 2.
#[test]
fn both_images_are_read() {
    let device = Device::flex();
    let (backbone, heads) = build(&statements(2), &device);
    let batch = batch();
    let pair = [
        fused(&backbone, &batch, &device, false, 0),
        fused(&backbone, &batch, &device, true, 1),
    ];
    let expected = heads
        .nlvr2
        .as_ref()
        .unwrap()
        .classifier
        .logits(&backbone, &pair);
    let predicted = heads.predict("nlvr2", &backbone, &batch, &device).unwrap();
    predicted
        .into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(OUTPUTS));
    let step = heads.step(&backbone, &batch, &device, Draws::new(1));
    assert_eq!(step.results[0].predictions(), 2);
}

/// A batch in which a sample has one image alone has no second images.
#[test]
fn a_batch_without_second_images_is_skipped_and_not_answered() {
    let device = Device::flex();
    let (backbone, heads) = build(&statements(2), &device);
    let batch = Batch {
        second_images: None,
        ..batch()
    };
    let step = heads.step(&backbone, &batch, &device, Draws::new(1));
    assert_eq!(step.skipped, ["nlvr2"]);
    assert!(heads.predict("nlvr2", &backbone, &batch, &device).is_none());
    let (backbone, heads) = build(&statements(1), &device);
    let step = heads.step(&backbone, &batch, &device, Draws::new(1));
    assert!(step.skipped.is_empty());
}

#[test]
fn two_images_need_two_types() {
    let error = statements(2)
        .validate_with(&model(1))
        .unwrap_err()
        .to_string();
    for part in ["nlvr2.images", "model.fusion.pictures must be 2"] {
        assert!(error.contains(part), "{error}");
    }
    let error = statements(3).validate().unwrap_err().to_string();
    assert!(error.contains("must be 1 or 2"), "{error}");
}

/// With as many wrong texts as there are, the loss is the cross-entropy over all texts of other images, whatever is drawn.
#[test]
fn ranking_is_cross_entropy_over_the_texts_of_other_images() {
    let device = Device::flex();
    let (backbone, heads) = build(&ranking(15), &device);
    let batch = batch();
    let head = heads.ranking.as_ref().unwrap();
    let scores: Vec<Vec<f64>> = (0..3)
        .map(|image| {
            let rows = |of: &Images| {
                let size = of.pixels.len() / 3;
                let one = &of.pixels[image * size..(image + 1) * size];
                one.iter().copied().cycle().take(3 * size).collect()
            };
            let shown = batch.images.clone().unwrap();
            let same = Batch {
                images: Some(Images {
                    pixels: rows(&shown),
                    ..shown
                }),
                ..batch.clone()
            };
            let fused = fused(&backbone, &same, &device, false, 0);
            let scores = head.scores(&backbone, fused.output.as_ref().unwrap());
            scores.into_data().iter::<f32>().map(f64::from).collect()
        })
        .collect();
    for (pictures, wrong) in [
        (vec![1, 2, 3], [vec![1, 2], vec![0, 2], vec![0, 1]]),
        (vec![1, 1, 3], [vec![2], vec![2], vec![0, 1]]),
    ] {
        let batch = Batch {
            pictures,
            ..batch.clone()
        };
        let step = heads.step(&backbone, &batch, &device, Draws::new(1));
        let result = &step.results[0];
        let loss = |image: usize| {
            let of = |text: usize| scores[image][text].exp();
            let all = of(image) + wrong[image].iter().map(|text| of(*text)).sum::<f64>();
            (all / of(image)).ln()
        };
        let expected = (0..3).map(loss).sum::<f64>() / 3.0;
        let found = f64::from(result.loss.clone().into_scalar::<f32>());
        assert!((found - expected).abs() < OUTPUTS, "{found} {expected}");
        let drawn = result
            .metrics
            .iter()
            .find(|m| m.name == "negatives")
            .unwrap();
        let sum: f32 = drawn.sum.clone().into_scalar();
        assert_eq!(sum as usize, wrong.iter().map(Vec::len).sum::<usize>());
        assert_eq!((drawn.count, result.predictions()), (3, 3));
    }
    let batch = Batch {
        pictures: vec![1, 1, 1],
        ..batch
    };
    let step = heads.step(&backbone, &batch, &device, Draws::new(1));
    assert!(step.loss.is_none());
    assert_eq!(step.results[0].without_negative, 3);
}

/// Each image gets as many different wrong texts as asked for, and every other text is drawn at times.
#[test]
fn wrong_texts_are_drawn_without_repetition() {
    let device = Device::flex();
    let (backbone, heads) = build(&ranking(1), &device);
    let drawn = |seed: u64| {
        let step = heads.step(&backbone, &batch(), &device, Draws::new(seed));
        let metric = &step.results[0].metrics[1];
        let sum: f32 = metric.sum.clone().into_scalar();
        assert_eq!((sum as usize, metric.count), (3, 3));
        step.results[0].loss.clone().into_scalar::<f32>()
    };
    let losses: Vec<f32> = (0..8).map(drawn).collect();
    assert!(losses.iter().any(|loss| *loss != losses[0]));
    assert_eq!(drawn(0), losses[0]);
}

/// Equal images of a batch are encoded once; every sample is answered as it is alone.
#[test]
fn samples_that_share_an_image_are_answered_as_alone() {
    let device = Device::flex();
    let (backbone, heads) = build(&statements(2), &device);
    let whole = batch();
    let size = 3 * SIDE * SIDE;
    let shared = |images: &Option<Images>, rows: &[usize]| {
        let images = images.clone().unwrap();
        let of = |row: &usize| images.pixels[row * size..(row + 1) * size].to_vec();
        Some(Images {
            pixels: rows.iter().flat_map(of).collect(),
            ..images
        })
    };
    let (left, right) = ([0, 0, 1], [2, 1, 2]);
    let batch = Batch {
        images: shared(&whole.images, &left),
        second_images: shared(&whole.second_images, &right),
        ..whole.clone()
    };
    let together = heads.predict("nlvr2", &backbone, &batch, &device).unwrap();
    for row in 0..3 {
        let texts = whole.texts.as_ref().unwrap();
        let alone = Batch {
            samples: vec![String::new()],
            images: shared(&whole.images, &left[row..=row]),
            second_images: shared(&whole.second_images, &right[row..=row]),
            texts: Some(Texts {
                ids: texts.ids[row * texts.length..(row + 1) * texts.length].to_vec(),
                lengths: vec![texts.lengths[row]],
                ..texts.clone()
            }),
            targets: vec![whole.targets[row].clone()],
            ..Batch::default()
        };
        let alone = heads.predict("nlvr2", &backbone, &alone, &device).unwrap();
        let together = together.clone().narrow(0, row, 1).into_data();
        together.assert_approx_eq::<f32>(&alone.into_data(), Tolerance::absolute(OUTPUTS));
    }
}
