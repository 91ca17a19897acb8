//! The targets of a batch as tensors, and losses over them.
//!
//! Shape legend: `B` samples of a batch, `N` of them with a known label, `C` classes.

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_batch::{Batch, Target};

use crate::labels::ints;
use crate::outcome::Outcome;
use crate::single_precision;

/// The samples of a batch whose labels are known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled<'a> {
    /// Their rows.
    pub rows: Vec<usize>,
    /// Their right labels, with scores.
    pub labels: Vec<&'a [(u32, f32)]>,
}

impl<'a> Labelled<'a> {
    /// Those of a batch.
    pub fn of(batch: &'a Batch) -> Self {
        let mut all = Self::default();
        for (row, target) in batch.targets.iter().enumerate() {
            if let Target::Labels(labels) = target
                && !labels.is_empty()
            {
                all.rows.push(row);
                all.labels.push(labels);
            }
        }
        all
    }

    /// The label with the highest score of each sample; the first of equals.
    pub fn classes(&self) -> Vec<i32> {
        let best = |labels: &&[(u32, f32)]| {
            let best = labels
                .iter()
                .copied()
                .reduce(|best, next| if next.1 > best.1 { next } else { best });
            best.map_or(0, |(label, _)| label as i32)
        };
        self.labels.iter().map(best).collect()
    }

    /// The score of every class.
    ///
    /// # Shapes
    ///
    /// - output: `[N, C]`
    pub fn scores(&self, classes: usize, device: &Device) -> Tensor<2> {
        let mut scores = vec![0.0; self.rows.len() * classes];
        for (row, labels) in self.labels.iter().enumerate() {
            for (label, score) in *labels {
                scores[row * classes + *label as usize] = *score;
            }
        }
        Tensor::from_data(TensorData::new(scores, [self.rows.len(), classes]), device)
    }

    /// The rows with known labels.
    ///
    /// # Shapes
    ///
    /// - x: `[B, C]`
    /// - output: `[N, C]`
    pub fn select(&self, x: Tensor<2>) -> Tensor<2> {
        let rows = self.rows.iter().map(|row| *row as i32).collect();
        let device = x.device();
        x.select(0, ints(rows, &device))
    }

    /// The mean cross-entropy of the right class.
    ///
    /// # Shapes
    ///
    /// - logits: `[B, C]`
    pub fn cross_entropy(&self, logits: Tensor<2>) -> Outcome {
        if self.rows.is_empty() {
            return Outcome::nothing(&logits.device());
        }
        Outcome::of_labels(self.select(logits), self.classes(), |logits| logits)
    }

    /// The binary cross-entropy of every class with its score, added up over classes and averaged over samples. The accuracy is the
    /// score of the predicted class.
    ///
    /// # Shapes
    ///
    /// - logits: `[B, C]`
    pub fn binary_cross_entropy(&self, logits: Tensor<2>) -> Outcome {
        let count = self.rows.len();
        if count == 0 {
            return Outcome::nothing(&logits.device());
        }
        let logits = single_precision(self.select(logits));
        let [_, classes] = logits.dims();
        let scores = self.scores(classes, &logits.device());
        let best: Tensor<2, Int> = logits.clone().without_autodiff().argmax(1);
        let reached = scores.clone().gather(1, best).sum();
        let loss = binary_cross_entropy(logits, scores)
            .sum()
            .div_scalar(count as f64);
        Outcome::new(loss).and_metric(crate::ACCURACY, reached, count)
    }
}

/// The mean squared error of the samples whose number is known.
///
/// # Shapes
///
/// - outputs: `[B, 1]`
pub fn squared_error(batch: &Batch, outputs: Tensor<2>) -> Outcome {
    let known = (0..).zip(&batch.targets).filter_map(|(row, target)| {
        if let Target::Number(number) = target {
            Some((row, *number))
        } else {
            None
        }
    });
    let (rows, numbers): (Vec<i32>, Vec<f32>) = known.unzip();
    let (count, device) = (rows.len(), outputs.device());
    if count == 0 {
        return Outcome::nothing(&device);
    }
    let outputs = single_precision(outputs.select(0, ints(rows, &device)));
    let numbers = Tensor::from_data(TensorData::new(numbers, [count, 1]), &device);
    Outcome::new((outputs - numbers).powi_scalar(2).mean())
}

/// `log(1 + exp(x)) - x y`, without overflow.
///
/// # Shapes
///
/// - logits, scores, output: `[N, C]`
pub fn binary_cross_entropy(logits: Tensor<2>, scores: Tensor<2>) -> Tensor<2> {
    let overflow = logits.clone().abs().neg().exp().log1p();
    logits.clone().clamp_min(0.0) - logits * scores + overflow
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    /// f32 sums of six values around 1.
    const TOLERANCE: f64 = 1e-6;

    fn batch() -> Batch {
        Batch {
            samples: vec![String::new(); 3],
            targets: vec![
                Target::Labels(vec![(0, 0.3), (2, 0.9)]),
                Target::Unknown,
                Target::Labels(vec![(1, 1.0)]),
            ],
            ..Batch::default()
        }
    }

    fn logits(device: &Device) -> Tensor<2> {
        Tensor::from_floats(
            [[1.5, -0.5, 2.0], [9.0, 9.0, 9.0], [40.0, -3.0, 0.25]],
            device,
        )
    }

    /// The first and the last row, by the formula in f64, and the gradient `(sigmoid(x) - y) / 2`.
    #[test]
    fn binary_cross_entropy_is_its_formula() {
        let device = Device::flex().autodiff();
        let batch = batch();
        let x = logits(&device).require_grad();
        let outcome = Labelled::of(&batch).binary_cross_entropy(x.clone());
        let loss: f32 = outcome.loss.clone().into_scalar();
        assert!((f64::from(loss) - LOSS).abs() < 1e-5, "{loss}");
        let gradients = outcome.loss.backward();
        let gradient = x.grad(&gradients).expect("it has one");
        let expected = Tensor::<2>::from_floats(GRADIENT, &Device::flex());
        gradient
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(TOLERANCE));
        // The first sample's best class has the score 0.9, the last one's 0.
        let reached: f32 = outcome.metrics[0].sum.clone().into_scalar();
        assert!((reached - 0.9).abs() < 1e-6 && outcome.metrics[0].count == 2);
    }

    const LOSS: f64 = 22.963_472_522;
    const GRADIENT: [[f32; 3]; 3] = [
        [0.258_787_24, 0.188_770_34, -0.009_601_461],
        [0.0, 0.0, 0.0],
        [0.5, -0.476_287_07, 0.281_088_25],
    ];

    #[test]
    fn cross_entropy_is_of_the_best_label() {
        let device = Device::flex();
        let batch = batch();
        let labelled = Labelled::of(&batch);
        assert_eq!(labelled.classes(), [2, 1]);
        let outcome = labelled.cross_entropy(logits(&device));
        assert_eq!(outcome.metrics[0].count, 2);
        let empty = Batch::default();
        let nothing = Labelled::of(&empty);
        assert!(!nothing.cross_entropy(logits(&device)).learns);
        assert!(!nothing.binary_cross_entropy(logits(&device)).learns);
    }
}
