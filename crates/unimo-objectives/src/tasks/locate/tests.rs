use burn::tensor::{Device, Tolerance};

use unimo_batch::Target;

use super::*;

/// f32 sums of nine values around 1.
const TOLERANCE: f64 = 1e-6;

const PATCHES: usize = 9;

const LOGITS: [[f32; PATCHES]; 2] = [
    [0.2, -0.4, -1.1, 0.3, 1.5, -1.0, -2.0, -1.5, 0.7],
    [-0.7, 0.9, 0.1, -0.6, 2.0, 1.2, -3.0, -0.3, 0.4],
];

const BOXES: [[f32; 4]; 2] = [[0.0, 0.0, 0.4, 0.4], [0.5, 0.25, 1.0, 0.95]];

fn config(range: Range, mean: bool) -> LocateConfig {
    LocateConfig {
        weight: 1.0,
        layer: None,
        query: Query::First,
        temperature: 0.07,
        range,
        mean,
        box_at: None,
    }
}

fn batch() -> Batch {
    Batch {
        samples: vec![String::new(); 3],
        targets: vec![
            Target::Box(BOXES[0]),
            Target::Unknown,
            Target::Box(BOXES[1]),
        ],
        ..Batch::default()
    }
}

/// Loss and gradient with respect to the logits of the samples with a known box.
fn computed(config: &LocateConfig) -> (f64, Tensor<2>) {
    let device = Device::flex().autodiff();
    let rows = [LOGITS[0], [0.0; PATCHES], LOGITS[1]];
    let logits = Tensor::<2>::from_data(rows, &device).require_grad();
    let outcome = loss(config, &batch(), softmax(logits.clone(), 1));
    let gradients = outcome.loss.clone().backward();
    let gradient = logits.grad(&gradients).unwrap();
    let unknown = gradient.clone().narrow(0, 1, 1).abs().sum();
    assert_eq!(unknown.into_scalar::<f32>(), 0.0);
    let known = Tensor::cat(
        vec![gradient.clone().narrow(0, 0, 1), gradient.narrow(0, 2, 1)],
        0,
    );
    (f64::from(outcome.loss.into_scalar::<f32>()), known)
}

/// Of `tests/reference/locate.py`.
#[test]
fn loss_and_gradient_are_pytorchs() {
    let first = [
        -0.349_434_9,
        -0.008_413_8,
        0.015_399_4,
        0.023_057_3,
        0.192_533_8,
        0.017_024_6,
        0.006_251_1,
        0.010_320_9,
        0.093_261_5,
    ];
    let second = |range| match range {
        Range::Sample => [
            0.014_106_0,
            0.066_018_3,
            0.027_544_0,
            0.015_589_6,
            0.086_820_2,
            -0.028_763_0,
            0.001_414_1,
            -0.102_031_2,
            -0.080_697_9,
        ],
        Range::Batch => [
            0.014_067_4,
            0.053_154_4,
            0.014_680_1,
            0.015_540_5,
            0.093_286_3,
            -0.022_296_9,
            0.001_365_0,
            -0.095_565_0,
            -0.074_231_8,
        ],
    };
    for (range, expected, of_mean) in [
        (Range::Sample, 1.048_083_3, 0.116_453_69),
        (Range::Batch, 0.990_447_34, 0.110_049_7),
    ] {
        let (loss, gradient) = computed(&config(range, false));
        assert!((loss - expected).abs() < TOLERANCE, "{range:?}: {loss}");
        let expected = Tensor::<2>::from_data([first, second(range)], &gradient.device());
        let tolerance = Tolerance::<f32>::absolute(TOLERANCE);
        gradient
            .into_data()
            .assert_approx_eq(&expected.into_data(), tolerance);
        let (mean, _) = computed(&config(range, true));
        assert!((mean - of_mean).abs() < TOLERANCE, "{range:?}: {mean}");
        assert!((loss / mean - PATCHES as f64).abs() < 1e-4);
    }
}

/// The divergence is 0 where the attention is the target, and nowhere else.
#[test]
fn attention_that_lies_where_it_should_costs_nothing() {
    let device = Device::flex();
    let all = BOXES.map(|of| distances(of, PATCHES)).concat();
    let all = Tensor::<2>::from_data(TensorData::new(all, [2, PATCHES]), &device);
    let target = targets(all, Range::Sample, 0.07);
    let sums: Vec<f32> = target.clone().sum_dim(1).into_data().iter().collect();
    assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{sums:?}");
    let none = divergence(target.clone(), target.clone(), false);
    assert_eq!(none.into_data().iter::<f32>().collect::<Vec<_>>(), [0.0; 2]);
    let other = divergence(target.clone(), target.flip([0]), false);
    assert!(other.into_data().iter::<f32>().all(|kl| kl > 0.1));
}

/// A box around the whole image prefers no patch, and nothing is divided by zero.
#[test]
fn a_box_of_everything_prefers_nothing() {
    let device = Device::flex();
    let zeros = Tensor::<2>::zeros([1, PATCHES], &device);
    let target = targets(zeros, Range::Sample, 0.07).into_data();
    for share in target.iter::<f32>() {
        assert!((share - 1.0 / PATCHES as f32).abs() < 1e-6);
    }
}

/// Of two known boxes the attention points into the first. The second row's sample has no box.
#[test]
fn the_pointing_game_and_the_share_inside() {
    let device = Device::flex();
    let mut rows = [[0.05f32; PATCHES]; 3];
    (rows[0][0], rows[1][3], rows[2][0]) = (0.6, 0.6, 0.6);
    let outcome = loss(
        &config(Range::Sample, false),
        &batch(),
        Tensor::<2>::from_data(rows, &device),
    );
    let number = |name: &str| {
        let metric = outcome
            .metrics
            .iter()
            .find(|metric| metric.name == name)
            .unwrap();
        (metric.sum.clone().into_scalar::<f32>(), metric.count)
    };
    assert_eq!(number(ACCURACY), (1.0, 2));
    // The first box has patch 0 alone, the second one patches 4, 5, 7 and 8.
    let (inside, count) = number(INSIDE);
    assert!(
        (inside - (0.6 + 4.0 * 0.05)).abs() < 1e-6 && count == 2,
        "{inside}"
    );
}

#[test]
fn a_predicted_box_goes_around_what_is_attended_to() {
    let mut weights = [0.01f32; PATCHES];
    (weights[4], weights[5]) = (0.5, 0.3);
    let third = |at: usize| at as f32 / 3.0;
    assert_eq!(
        around(&weights, 0.5),
        [third(1), third(1), third(3), third(2)]
    );
    assert_eq!(
        around(&weights, 0.9),
        [third(1), third(1), third(2), third(2)]
    );
    assert_eq!(around(&[f32::NAN; 4], 0.5), [0.0, 0.0, 1.0, 1.0]);
}

/// Words are read without the first and the last token; a text of these two alone is read at its first position.
#[test]
fn words_share_the_query() {
    assert_eq!(
        words(&[4, 2], 5),
        [0.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn boxes_come_from_somewhere() {
    let with = |locate: LocateConfig| {
        let objectives = crate::ObjectivesConfig {
            locate: Some(locate),
            ..crate::ObjectivesConfig::default()
        };
        objectives.validate().map_err(|error| error.to_string())
    };
    let error = with(config(Range::Sample, false)).unwrap_err();
    assert!(error.contains("box_at"), "{error}");
    let task = |box_at| LocateConfig {
        box_at: Some(box_at),
        ..config(Range::Sample, false)
    };
    with(task(0.5)).unwrap();
    for wrong in [0.0, 1.5, f64::NAN] {
        assert!(with(task(wrong)).is_err(), "{wrong}");
    }
}
