//! Labels, and how many predictions are right.

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_batch::MaskedTexts;

/// The positions that have a label, and their labels.
///
/// # Shapes
///
/// - labels: `[B, L]`, row-major, [`MaskedTexts::IGNORE`] where there is nothing to predict
pub(crate) fn labelled(labels: &[i32]) -> (Vec<i32>, Vec<i32>) {
    labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label != MaskedTexts::IGNORE)
        .map(|(at, label)| (at as i32, *label))
        .unzip()
}

/// Host numbers as an integer tensor.
pub(crate) fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// How many rows have their highest score at their label.
///
/// # Shapes
///
/// - logits: `[N, V]`; labels: `[N]`
/// - output: `[1]`
pub(crate) fn count_correct(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1, Int> {
    let best = logits.without_autodiff().argmax(1).squeeze_dim::<1>(1);
    best.equal(labels.without_autodiff()).int().sum()
}
