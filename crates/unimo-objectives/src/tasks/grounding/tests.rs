use burn::tensor::{Device, Tolerance};

use super::*;

/// f32 sums of eight values around 1.
const TOLERANCE: f64 = 1e-6;

const LOGITS: [[f32; NUMBERS]; 4] = [
    [0.2, -0.4, -1.1, 0.3],
    [1.5, -1.0, -2.0, -1.5],
    [-0.7, 0.9, 0.1, -0.6],
    [2.0, 2.0, -3.0, -3.0],
];

fn batch() -> Batch {
    Batch {
        samples: vec![String::new(); 4],
        targets: vec![
            Target::Box([0.3, 0.2, 0.7, 0.6]),
            Target::Unknown,
            Target::Box([0.05, 0.6, 0.25, 0.95]),
            Target::Box([0.1, 0.4, 0.6, 0.9]),
        ],
        ..Batch::default()
    }
}

/// torch 2.15 and torchvision 0.29: `l1_loss(b, box_convert(right, "xyxy", "cxcywh"), reduction="none").sum()` plus `(1 -
/// generalized_box_iou(box_convert(b, "cxcywh", "xyxy"), right).diag()).sum()`, over 3, with `b` the sigmoid of rows 0, 2 and 3; the
/// gradient is that of the logits, the overlaps are `box_iou` and `generalized_box_iou`. The last box does not touch the right one.
#[test]
fn loss_and_gradient_agree_with_torchvision() {
    let device = Device::flex().autodiff();
    let logits = Tensor::<2>::from_floats(LOGITS, &device).require_grad();
    let outcome = loss(&batch(), sigmoid(logits.clone()));
    let found: f32 = outcome.loss.clone().into_scalar();
    assert!((f64::from(found) - LOSS).abs() < TOLERANCE, "{found}");
    let gradient = logits.grad(&outcome.loss.backward()).unwrap();
    let expected = Tensor::<2>::from_floats(GRADIENT, &Device::flex());
    gradient
        .into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(TOLERANCE));
    let metrics = outcome.metrics.iter();
    let told = metrics.map(|m| (m.name, m.sum.clone().into_scalar::<f32>(), m.count));
    let told: Vec<_> = told.collect();
    let [(ACCURACY, found, 3), ("iou", sum, 3)] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(found, 0.0);
    assert!((f64::from(sum) - IOU.iter().sum::<f64>()).abs() < TOLERANCE);
}

const LOSS: f64 = 1.821_367_621;
const IOU: [f64; 3] = [0.490_731_865, 0.255_223_781, 0.0];
const GRADIENT: [[f32; NUMBERS]; 4] = [
    [0.082_505_524, 0.080_086_92, -0.206_333_44, 0.167_649_51],
    [0.0; 4],
    [0.233_198_61, -0.238_205_21, 0.037_877_7, 0.020_130_77],
    [0.062_033_657, 0.078_110_12, -0.011_001_98, -0.007_543_288],
];

/// A prediction that is right has no loss, and counts as found; without a known box there is nothing to learn.
#[test]
fn a_right_box_has_no_loss() {
    let device = Device::flex();
    let batch = batch();
    let boxes = [
        [0.3, 0.2, 0.7, 0.6],
        [0.0, 0.0, 0.1, 0.1],
        [0.05, 0.6, 0.25, 0.95],
        [0.1, 0.4, 0.6, 0.9],
    ];
    let outcome = loss(&batch, centres(Tensor::from_floats(boxes, &device)));
    let found: f32 = outcome.loss.into_scalar();
    assert!(f64::from(found).abs() < TOLERANCE, "{found}");
    let right: f32 = outcome.metrics[0].sum.clone().into_scalar();
    assert_eq!((right, outcome.metrics[0].count), (3.0, 3));
    let unknown = Batch {
        targets: vec![Target::Unknown; 4],
        ..batch
    };
    let logits = Tensor::<2>::from_floats(LOGITS, &device);
    assert!(!loss(&unknown, sigmoid(logits)).learns);
}

/// Either form gives the other; and a sample whose box is unknown changes nothing, whatever is predicted of it.
#[test]
fn corners_and_centres_are_each_others_inverse() {
    let device = Device::flex();
    let boxes = sigmoid(Tensor::<2>::from_floats(LOGITS, &device));
    centres(corners(boxes.clone()))
        .into_data()
        .assert_approx_eq::<f32>(&boxes.clone().into_data(), Tolerance::absolute(TOLERANCE));
    let mut changed = LOGITS;
    changed[1] = [9.0, -9.0, 3.0, 0.0];
    let changed = sigmoid(Tensor::<2>::from_floats(changed, &device));
    let of = |boxes| loss(&batch(), boxes).loss.into_scalar::<f32>();
    assert_eq!(of(boxes), of(changed));
}
