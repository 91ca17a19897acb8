use burn::tensor::{Device, Tolerance};
use unimo_core::init::Init;
use unimo_encoders::output::FusionOutput;

use super::*;

/// f32 sums of a few values below 1.
const TOLERANCE: f64 = 1e-6;

const SCORES: [[f32; 3]; 3] = [[0.3, -0.2, 0.9], [0.1, 0.8, 0.5], [-0.4, 0.6, 0.0]];

/// Of the first image two regions, of the second three, of the third one.
fn regions() -> Regions {
    let boxes = [
        [0.0, 0.0, 0.5, 0.5],
        [0.25, 0.25, 0.75, 0.75],
        [0.0; 4],
        [0.5, 0.0, 1.0, 1.0],
        [0.0, 0.0, 0.4, 1.0],
        [0.1, 0.2, 0.3, 0.8],
        [0.2, 0.2, 0.6, 0.6],
        [0.0; 4],
        [0.0; 4],
    ];
    Regions {
        features: vec![0.0; 9 * 7],
        boxes: boxes.concat(),
        count: 3,
        counts: vec![2, 3, 1],
        hidden: None,
    }
}

fn targets() -> Vec<Target> {
    vec![
        Target::Box([0.0, 0.0, 0.5, 0.5]),
        Target::Unknown,
        Target::Box([0.2, 0.2, 0.7, 0.6]),
    ]
}

/// In f64 by hand (`sum (s - IoU)^2 / 3` over the three regions of samples with a box), with the gradient `2 (s - IoU) / 3`: what
/// torch's `mse_loss` of the regions that are labelled gives. The IoUs are 1 and 1/7 of the first sample, 0.8 of the last.
#[test]
fn loss_and_gradient_are_those_of_the_squared_error_over_real_regions() {
    let device = Device::flex().autodiff();
    let scores = Tensor::<2>::from_floats(SCORES, &device).require_grad();
    let outcome = loss(&targets(), &regions(), scores.clone());
    let found: f32 = outcome.loss.clone().into_scalar();
    assert!((f64::from(found) - LOSS).abs() < TOLERANCE, "{found}");
    let gradient = scores.grad(&outcome.loss.backward()).unwrap();
    let expected = Tensor::<2>::from_floats(GRADIENT, &Device::flex());
    gradient
        .into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(TOLERANCE));
    let told: Vec<_> = outcome
        .metrics
        .iter()
        .map(|m| (m.name, m.sum.clone().into_scalar::<f32>(), m.count))
        .collect();
    let [(ACCURACY, found, 2), ("iou", iou, 2), ("recall", recall, 2)] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((found, recall), (2.0, 2.0));
    assert!((f64::from(iou) - 1.8).abs() < TOLERANCE);
}

const LOSS: f64 = 0.682_517_006_8;
const GRADIENT: [[f32; 3]; 3] = [
    [-0.466_666_67, -0.228_571_43, 0.0],
    [0.0; 3],
    [-0.8, 0.0, 0.0],
];

/// Padding is never chosen, whatever its score, and a batch without a known box teaches nothing.
#[test]
fn the_best_real_region_is_the_answer() {
    let device = Device::flex();
    let chosen = best(&regions(), Tensor::from_floats(SCORES, &device));
    let expected = [
        [0.0, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.4, 1.0],
        [0.2, 0.2, 0.6, 0.6],
    ];
    let expected = Tensor::<2>::from_floats(expected, &device);
    assert_eq!(chosen.into_data(), expected.into_data());
    let unknown = vec![Target::Unknown; 3];
    assert!(!loss(&unknown, &regions(), Tensor::from_floats(SCORES, &device)).learns);
}

/// Scores are cosines of the text's first state with the last positions of the image.
#[test]
fn scores_are_cosines_of_first_state_and_regions() {
    let device = Device::flex();
    let mut numbers = Init::new(&device, 3);
    let (text, image) = (
        numbers.uniform([2, 4, 5], 1.0).val(),
        numbers.uniform([2, 3, 5], 1.0).val(),
    );
    let fused = FusionOutput::of_states(Some(text.clone()), Some(image.clone()));
    let scoring = RegionScoring {
        dropout: Dropout::new(0.0),
        config: RegionScoringConfig {
            weight: 1.0,
            dropout: 0.0,
            layer: None,
        },
    };
    let scores: Vec<f32> = scoring
        .scores(&fused, 2)
        .into_data()
        .iter::<f32>()
        .collect();
    let row = |x: &Tensor<3>, row: usize, at: usize| -> Vec<f64> {
        let x = x.clone().slice([row..row + 1, at..at + 1, 0..5]);
        x.into_data().iter::<f32>().map(f64::from).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for (at, score) in scores.iter().enumerate() {
        let (t, r) = (row(&text, at / 2, 0), row(&image, at / 2, 1 + at % 2));
        let cosine = dot(&t, &r) / (dot(&t, &t) * dot(&r, &r)).sqrt();
        assert!((f64::from(*score) - cosine).abs() < TOLERANCE, "{at}");
    }
}
