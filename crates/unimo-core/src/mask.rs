//! Masks are types of their own, because the field has two opposite conventions.
//!
//! burn: `true` hides a position. Hugging Face: `1` shows it. [`PaddingMask`] is the only mask that the model code
//! passes around; it can be made from either convention and is read in burn's.
//!
//! Shape legend: `B` rows, `L` positions, `Q` queries, `K` keys.

use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Which positions of a padded sequence are hidden from every query. `true` hides.
#[derive(Debug, Clone)]
pub struct PaddingMask(Tensor<2, Bool>);

impl PaddingMask {
    /// From the number of real positions at the start of each row.
    ///
    /// # Shapes
    ///
    /// - lengths: `[B]`
    /// - mask: `[B, L]` with `L = length`
    pub fn from_lengths(lengths: &[usize], length: usize, device: &Device) -> Self {
        let hidden: Vec<bool> = lengths
            .iter()
            .flat_map(|&n| (0..length).map(move |i| i >= n))
            .collect();
        Self(Tensor::from_data(
            TensorData::new(hidden, [lengths.len(), length]),
            device,
        ))
    }

    /// For rows without padding.
    ///
    /// # Shapes
    ///
    /// - mask: `[B, L]` with `B = rows`, `L = length`
    pub fn none(rows: usize, length: usize, device: &Device) -> Self {
        Self::from_lengths(&vec![length; rows], length, device)
    }

    /// From a Hugging Face `attention_mask`: 1 shows, 0 hides.
    ///
    /// # Shapes
    ///
    /// - visible: `[B, L]`
    pub fn from_visible(visible: Tensor<2, Int>) -> Self {
        Self(visible.equal_scalar(0))
    }

    /// From a mask in burn's convention: `true` hides.
    ///
    /// # Shapes
    ///
    /// - hidden: `[B, L]`
    pub fn from_hidden(hidden: Tensor<2, Bool>) -> Self {
        Self(hidden)
    }

    /// The mask in burn's convention, `[B, L]`: `true` hides.
    pub fn hidden(&self) -> Tensor<2, Bool> {
        self.0.clone()
    }

    /// The same mask beside tensors without autodiff.
    pub fn without_autodiff(&self) -> Self {
        Self(self.0.clone().without_autodiff())
    }

    /// `[B, L]`.
    pub fn dims(&self) -> [usize; 2] {
        self.0.dims()
    }

    /// The given rows, in that order; a row may be given several times.
    pub fn select(&self, rows: Tensor<1, Int>) -> Self {
        Self(self.0.clone().select(0, rows))
    }

    /// `count` rows from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Self {
        Self(self.0.clone().narrow(0, first, count))
    }

    /// The rows of all masks, stacked.
    pub fn cat(masks: Vec<Self>) -> Self {
        Self::along(masks, 0)
    }

    /// The positions of all masks, joined row by row.
    pub fn join(masks: Vec<Self>) -> Self {
        Self::along(masks, 1)
    }

    fn along(masks: Vec<Self>, axis: usize) -> Self {
        // As integers: burn-flex 0.22.1 stores selected rows as another kind of bool, which `cat` refuses.
        let numbers = masks.into_iter().map(|m| m.0.int()).collect();
        Self(Tensor::cat(numbers, axis).equal_scalar(1))
    }

    /// `count` positions from `first` on.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        Self(self.0.clone().narrow(1, first, count))
    }
}

/// Which keys each query may not attend to, the same for every row. `true` hides.
#[derive(Debug, Clone)]
pub struct PairMask(Tensor<2, Bool>);

impl PairMask {
    /// Each position sees itself and earlier ones, for text that is read from left to right.
    ///
    /// # Shapes
    ///
    /// - mask: `[L, L]` with `L = length`
    pub fn causal(length: usize, device: &Device) -> Self {
        Self::prefix(length, 0, device)
    }

    /// The first `prefix` positions see each other; every other one sees itself and earlier ones (UniLM, UNIMO-2).
    ///
    /// # Shapes
    ///
    /// - mask: `[L, L]` with `L = length`
    pub fn prefix(length: usize, prefix: usize, device: &Device) -> Self {
        Self::new([length; 2], device, |query, key| {
            key > query && key >= prefix
        })
    }

    /// Hides a key from a query where `hides(query, key)` is true.
    ///
    /// # Shapes
    ///
    /// - mask: `[Q, K]` = `shape`
    pub fn new(shape: [usize; 2], device: &Device, hides: impl Fn(usize, usize) -> bool) -> Self {
        let [queries, keys] = shape;
        let hidden: Vec<bool> = (0..queries)
            .flat_map(|query| (0..keys).map(move |key| (query, key)))
            .map(|(query, key)| hides(query, key))
            .collect();
        Self(Tensor::from_data(TensorData::new(hidden, shape), device))
    }

    /// The same mask beside tensors without autodiff.
    pub fn without_autodiff(&self) -> Self {
        Self(self.0.clone().without_autodiff())
    }

    /// The queries of one range and the keys of another.
    pub fn narrow(&self, queries: Range<usize>, keys: Range<usize>) -> Self {
        let rows = self.0.clone().narrow(0, queries.start, queries.len());
        Self(rows.narrow(1, keys.start, keys.len()))
    }

    /// The mask in burn's convention, `[Q, K]`: `true` hides.
    pub fn hidden(&self) -> Tensor<2, Bool> {
        self.0.clone()
    }
}

/// The masks that an attention takes. `Some(&padding).into()` hides padding alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hidden<'a> {
    /// Keys that no query of a row may see.
    pub keys: Option<&'a PaddingMask>,
    /// Keys that a query may not see in any row.
    pub pairs: Option<&'a PairMask>,
}

impl Hidden<'_> {
    /// Both masks in burn's convention.
    ///
    /// # Shapes
    ///
    /// - output: `[B, K]` and `[Q, K]`
    pub fn parts(&self) -> (Option<Tensor<2, Bool>>, Option<Tensor<2, Bool>>) {
        (
            self.keys.map(PaddingMask::hidden),
            self.pairs.map(PairMask::hidden),
        )
    }
}

impl Hidden<'_> {
    /// The masks of some queries and keys.
    pub fn narrow(&self, queries: Range<usize>, keys: Range<usize>) -> OwnedHidden {
        let of_keys = |mask: &PaddingMask| mask.narrow(keys.start, keys.len());
        OwnedHidden {
            keys: self.keys.map(of_keys),
            pairs: self.pairs.map(|pairs| pairs.narrow(queries, keys.clone())),
        }
    }

    /// The same masks, to be kept.
    pub fn into_owned(self) -> OwnedHidden {
        OwnedHidden {
            keys: self.keys.cloned(),
            pairs: self.pairs.cloned(),
        }
    }
}

/// The masks of [`Hidden`], owned.
#[derive(Debug, Clone, Default)]
pub struct OwnedHidden {
    keys: Option<PaddingMask>,
    pairs: Option<PairMask>,
}

impl OwnedHidden {
    /// The masks as an attention takes them.
    pub fn as_ref(&self) -> Hidden<'_> {
        Hidden {
            keys: self.keys.as_ref(),
            pairs: self.pairs.as_ref(),
        }
    }
}

impl<'a> From<Option<&'a PaddingMask>> for Hidden<'a> {
    fn from(keys: Option<&'a PaddingMask>) -> Self {
        Self { keys, pairs: None }
    }
}

impl<'a> From<&'a PaddingMask> for Hidden<'a> {
    fn from(keys: &'a PaddingMask) -> Self {
        Some(keys).into()
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn both_conventions_meet() {
        let device = Device::flex();
        let from_lengths = PaddingMask::from_lengths(&[3, 1], 3, &device);
        let hugging_face = Tensor::<2, Int>::from_data([[1, 1, 1], [1, 0, 0]], &device);
        let from_visible = PaddingMask::from_visible(hugging_face);
        let expected = TensorData::from([[false, false, false], [false, true, true]]);
        from_lengths
            .hidden()
            .into_data()
            .assert_eq(&expected, false);
        from_visible
            .hidden()
            .into_data()
            .assert_eq(&expected, false);
    }
}
