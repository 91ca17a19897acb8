use burn::tensor::Device;

use super::*;

/// f32 sums of 16 products.
const ROUNDING: f32 = 1e-5;

fn walks(steps: Vec<usize>, distances: Vec<f32>) -> (Walks, WalkTargets) {
    let walks = Walks {
        steps,
        cells: 4,
        ..Walks::default()
    };
    let targets = WalkTargets {
        distances,
        ..WalkTargets::default()
    };
    (walks, targets)
}

fn objective(range: Range, mean: bool) -> Path {
    Path {
        grid: 2,
        config: PathConfig {
            weight: 1.0,
            temperature: 0.07,
            range,
            mean,
        },
    }
}

fn distances() -> Vec<f32> {
    (0..32).map(|at| (at * 7 % 13) as f32).collect()
}

fn loss(objective: &Path, attention: Tensor<2>) -> f32 {
    let (walks, targets) = walks(vec![1, 1], distances());
    let outcome = objective.loss_of(attention, (&walks, &targets));
    outcome.loss.into_scalar()
}

fn tensor(values: Vec<f32>) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, [2, 4]), &Device::flex())
}

/// The divergence is 0 for the target itself and above 0 for everything else; its sum over tokens is the mean times their number.
#[test]
fn the_target_alone_has_no_loss() {
    for range in [Range::Batch, Range::Sample] {
        let near = nearness(&distances(), [4, 2], range);
        let target = peaked(tensor(near), 0.07);
        let own = loss(&objective(range, true), target.clone());
        assert!(own.abs() < ROUNDING, "{own}");
        let even = tensor(vec![0.25; 8]);
        let mean = loss(&objective(range, true), even.clone());
        let sum = loss(&objective(range, false), even);
        assert!(mean > 0.01, "{mean}");
        assert!((sum - 4.0 * mean).abs() < ROUNDING, "{sum} {mean}");
        let turned = target.flip([1]);
        assert!(loss(&objective(range, true), turned) > 0.01);
    }
}

/// The mean over a token's cells of how near each is, by the range of all decisions or of each.
#[test]
fn a_token_is_as_near_as_its_cells_are_on_average() {
    let mut distances = vec![0.0; 16];
    distances[..2].copy_from_slice(&[8.0, 4.0]);
    let mut far = vec![2.0; 16];
    far[15] = 4.0;
    let all = [distances, far].concat();
    let of = |range| nearness(&all, [4, 2], range);
    // 1 - 8/8, 1 - 4/8, 1 and 1.
    assert_eq!(of(Range::Sample)[..4], [0.625, 1.0, 1.0, 1.0]);
    assert_eq!(of(Range::Sample)[4..], [1.0, 1.0, 1.0, 0.75]);
    assert_eq!(of(Range::Batch)[4..], [0.75, 0.75, 0.75, 0.6875]);
    // No place is nearer than others.
    assert_eq!(nearness(&[3.0; 16], [4, 2], Range::Batch), [0.0; 4]);
}

/// The pointing game: the path goes through the first token of both decisions.
#[test]
fn the_path_is_pointed_at() {
    let mut distances = vec![5.0; 32];
    distances[5] = 0.4;
    distances[16] = 0.0;
    let (walks, targets) = walks(vec![2], distances);
    let attention = tensor(vec![0.7, 0.1, 0.1, 0.1, 0.2, 0.3, 0.3, 0.2]);
    let outcome = objective(Range::Batch, true).loss_of(attention, (&walks, &targets));
    let of = |name: &str| {
        let metric = outcome.metrics.iter().find(|m| m.name == name).unwrap();
        metric.sum.clone().into_scalar::<f32>() / metric.count as f32
    };
    assert!((of(ACCURACY) - 0.5).abs() < ROUNDING);
    assert!((of(INSIDE) - 0.45).abs() < ROUNDING);
}
