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
