use burn::tensor::Device;

use super::*;

fn config(loss: AlignmentLoss) -> AlignmentConfig {
    AlignmentConfig {
        weight: 1.0,
        sigma: 1.0,
        temper: Temper::Length,
        band: None,
        loss,
        temperatures: (loss == AlignmentLoss::Kl).then_some([0.1, 0.2]),
        pooling: StoryPooling::Mean,
        projection: None,
        encoders: SliceEncoders::Own,
        targets: Targets::Fixed,
    }
}

fn objective(config: AlignmentConfig) -> Alignment {
    Alignment {
        projection: None,
        slices: None,
        lent: None,
        config,
    }
}

fn rows<const N: usize>(values: [[f32; 2]; N]) -> Tensor<2> {
    normalise(Tensor::from_data(values, &Device::flex()))
}

fn loss_of(config: AlignmentConfig, z: Tensor<2>, vectors: Tensor<2>) -> f32 {
    let stories = [vec![0, 1], vec![1, 0], vec![0, 1]];
    objective(config)
        .over(z, vectors, &stories)
        .loss
        .into_scalar()
}

/// Stories that are as near as their slices align have the least loss.
#[test]
fn the_loss_is_least_where_similarities_are_the_targets() {
    let vectors = || rows([[1.0, 0.0], [0.0, 1.0]]);
    let target = {
        let cosine = |a: usize, b: usize| if a == b { 1.0 } else { 0.0 };
        let kernel = config(AlignmentLoss::Mse).kernel();
        kernel.gram(&[vec![0, 1], vec![1, 0]], cosine)[1] as f32
    };
    assert!(target > 0.0 && target < 1.0);
    let angle = (2.0 * target - 1.0).acos();
    let z = |angle: f32| rows([[1.0, 0.0], [angle.cos(), angle.sin()], [1.0, 0.0]]);
    let mse = |angle| loss_of(config(AlignmentLoss::Mse), z(angle), vectors());
    assert!(mse(angle) < 1e-6, "{}", mse(angle));
    for loss in [AlignmentLoss::Mse, AlignmentLoss::Bce] {
        let of = |angle| loss_of(config(loss), z(angle), vectors());
        assert!(of(angle) < of(angle + 0.2) && of(angle) < of(angle - 0.2));
    }
}

/// How near a story is to itself is always 1 and counts nowhere.
#[test]
fn the_diagonal_is_left_out() {
    let z = rows([[1.0, 0.0], [0.3, 1.0]]);
    let vectors = rows([[1.0, 0.0], [0.5, 1.0]]);
    let stories = [vec![0, 1], vec![1, 0]];
    let similar = (1.0 + 0.3 / (1.09f32).sqrt()) / 2.0;
    let cosine = |a: usize, b: usize| if a == b { 1.0 } else { 0.5 / 1.25f64.sqrt() };
    let target = config(AlignmentLoss::Mse).kernel().gram(&stories, cosine)[1] as f32;
    let outcome = objective(config(AlignmentLoss::Mse)).over(z.clone(), vectors.clone(), &stories);
    let loss: f32 = outcome.loss.into_scalar();
    assert!((loss - (similar - target).powi(2)).abs() < 1e-6);
    // Each row has one other story: the divergence is 0.
    let kl = objective(config(AlignmentLoss::Kl)).over(z, vectors, &stories);
    assert!(kl.loss.into_scalar::<f32>().abs() < 1e-6);
}
