//! Rows of a batch, taken out of several tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_core::mask::PaddingMask;

/// Rows to be taken out of several tensors.
#[derive(Debug)]
pub(crate) struct Rows<'a>(&'a [usize]);

impl<'a> Rows<'a> {
    pub(crate) fn new(rows: &'a [usize]) -> Self {
        Self(rows)
    }

    /// Consecutive rows are sliced, which is cheaper to differentiate than a gather.
    pub(crate) fn of<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        match self.slice() {
            Some(first) => x.clone().narrow(0, first, self.0.len()),
            None => x.clone().select(0, self.indices(&x.device())),
        }
    }

    pub(crate) fn of_ints<const D: usize>(&self, x: &Tensor<D, Int>) -> Tensor<D, Int> {
        x.clone().select(0, self.indices(&x.device()))
    }

    pub(crate) fn of_mask(&self, mask: &PaddingMask) -> PaddingMask {
        mask.select(self.indices(&mask.hidden().device()))
    }

    fn slice(&self) -> Option<usize> {
        let first = *self.0.first()?;
        let follow = self.0.iter().zip(first..).all(|(row, at)| *row == at);
        follow.then_some(first)
    }

    fn indices(&self, device: &Device) -> Tensor<1, Int> {
        let rows: Vec<i32> = self.0.iter().map(|row| *row as i32).collect();
        Tensor::from_data(TensorData::new(rows, [self.0.len()]), device)
    }
}
