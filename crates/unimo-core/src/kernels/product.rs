//! Products of matrices that lie in larger buffers, such as the heads of an attention.
//!
//! burn multiplies whole tensors. Attention multiplies thousands of small matrices, of which a thread takes one after the other, and whose
//! rows are apart from each other, because the heads of a position lie side by side. The crate `gemm`, with which burn multiplies too, takes
//! pointers and strides. This module checks both before it calls it, so that its own functions are safe. It is the only one of the
//! workspace that needs `unsafe`.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use gemm::Parallelism;

/// A matrix to read: `rows` by `columns`, which lie `strides` elements apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    size: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// # Panics
    ///
    /// Panics if an element would lie outside `data`.
    pub(super) fn new(data: &'a [f32], size: [usize; 2], strides: [usize; 2]) -> Self {
        let last = |at: usize| size[at].saturating_sub(1).checked_mul(strides[at]);
        let last = last(0).zip(last(1)).and_then(|(a, b)| a.checked_add(b));
        let empty = size.contains(&0);
        assert!(
            empty || last.is_some_and(|last| last < data.len()),
            "a matrix of {size:?} with strides {strides:?} does not lie in {} elements",
            data.len()
        );
        Self {
            data,
            size,
            strides,
        }
    }

    /// Rows and columns changed for each other.
    pub(super) fn transposed(self) -> Self {
        let [rows, columns] = self.size;
        let [row, column] = self.strides;
        Self {
            size: [columns, rows],
            strides: [column, row],
            ..self
        }
    }

    /// Some of the rows.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer.
    pub(super) fn rows(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.size[0], "row {} is not there", range.end);
        let from = (range.start * self.strides[0]).min(self.data.len());
        Self::new(
            &self.data[from..],
            [range.len(), self.size[1]],
            self.strides,
        )
    }
}

/// A matrix to write, whose columns lie side by side.
#[derive(Debug)]
pub(super) struct MatrixMut<'a> {
    start: *mut f32,
    size: [usize; 2],
    stride: usize,
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for elements that are borrowed mutably and that no other matrix has, as a part of a slice would.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// A matrix that fills the slice.
    ///
    /// # Panics
    ///
    /// Panics if the slice has another length.
    pub(super) fn new(data: &'a mut [f32], size: [usize; 2]) -> Self {
        assert_eq!(data.len(), size[0] * size[1], "elements of {size:?}");
        Self {
            start: data.as_mut_ptr(),
            size,
            stride: size[1],
            data: PhantomData,
        }
    }

    /// The heads of `[B, L, H, D]` as `B H` matrices of `[L, D]`.
    ///
    /// # Panics
    ///
    /// Panics if the slice has another length.
    pub(super) fn heads(data: &'a mut [f32], [b, l, h, d]: [usize; 4]) -> Vec<Self> {
        assert_eq!(data.len(), b * l * h * d, "elements of {:?}", [b, l, h, d]);
        let (start, empty) = (data.as_mut_ptr(), data.is_empty());
        let head = |at: usize| {
            let (sample, head) = (at / h, at % h);
            let first = if empty {
                0
            } else {
                (sample * l * h + head) * d
            };
            Self {
                // SAFETY: `sample < b` and `head < h`, so the first element of the head lies in the slice, if there is any. No element
                // belongs to two heads.
                start: unsafe { start.add(first) },
                size: [l, d],
                stride: h * d,
                data: PhantomData,
            }
        };
        (0..b * h).map(head).collect()
    }

    /// Some of the rows.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer.
    pub(super) fn rows(&mut self, range: Range<usize>) -> MatrixMut<'_> {
        assert!(
            range.start < self.size[0] && range.end <= self.size[0],
            "rows {range:?} are not there"
        );
        MatrixMut {
            // SAFETY: the row is one of the matrix.
            start: unsafe { self.start.add(range.start * self.stride) },
            size: [range.len(), self.size[1]],
            stride: self.stride,
            data: PhantomData,
        }
    }
}

/// `out = a b`, or `out += a b`.
///
/// # Panics
///
/// Panics if the sizes do not fit each other.
pub(super) fn product(out: &mut MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    let [rows, columns] = out.size;
    let depth = a.size[1];
    assert_eq!(a.size, [rows, depth], "the left factor");
    assert_eq!(b.size, [depth, columns], "the right factor");
    if rows == 0 || columns == 0 || (depth == 0 && add) {
        return;
    }
    let signed = |stride: usize| stride as isize;
    // SAFETY: every element of `a` and `b` lies in its slice, which `Matrix::new` has checked, and every element of `out` in memory that is
    // borrowed mutably. The three do not overlap, since `out` borrows mutably. Without `add` the old elements of `out` are not read.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.start,
            1,
            signed(out.stride),
            add,
            a.data.as_ptr(),
            signed(a.strides[1]),
            signed(a.strides[0]),
            b.data.as_ptr(),
            signed(b.strides[1]),
            signed(b.strides[0]),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::normal;

    /// Sums of at most 9 products.
    const TOLERANCE: f32 = 1e-5;

    #[test]
    fn heads_are_multiplied_where_they_lie() {
        let [b, l, h, d] = [2, 5, 3, 4];
        let x = normal(b * l * h * d, 1.0, 1);
        let weights = normal(d * d, 1.0, 2);
        let mut out = vec![f32::NAN; x.len()];
        for add in [false, true] {
            for (at, mut head) in MatrixMut::heads(&mut out, [b, l, h, d])
                .into_iter()
                .enumerate()
            {
                let from = (at / h) * l * h * d + (at % h) * d;
                let x = Matrix::new(&x[from..], [l, d], [h * d, 1]);
                let weights = Matrix::new(&weights, [d, d], [d, 1]).transposed();
                for start in [0, 2] {
                    let rows = start..if start == 0 { 2 } else { l };
                    product(&mut head.rows(rows.clone()), x.rows(rows), weights, add);
                }
            }
        }
        for sample in 0..b {
            for row in 0..l {
                for head in 0..h {
                    for column in 0..d {
                        let at = ((sample * l + row) * h + head) * d;
                        let sum: f32 = (0..d).map(|k| x[at + k] * weights[column * d + k]).sum();
                        assert!((out[at + column] - 2.0 * sum).abs() < TOLERANCE);
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_times_nothing_is_zero() {
        let mut out = vec![f32::NAN; 6];
        let (a, b) = (
            Matrix::new(&[], [2, 0], [0, 1]),
            Matrix::new(&[], [0, 3], [3, 1]),
        );
        product(&mut MatrixMut::new(&mut out, [2, 3]), a, b, false);
        assert_eq!(out, [0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "does not lie in")]
    fn a_matrix_lies_in_its_slice() {
        Matrix::new(&[0.0; 7], [2, 4], [4, 1]);
    }

    #[test]
    #[should_panic(expected = "the right factor")]
    fn sizes_fit() {
        let data = [0.0; 6];
        let matrix = Matrix::new(&data, [2, 3], [3, 1]);
        product(
            &mut MatrixMut::new(&mut [0.0; 6], [2, 3]),
            matrix,
            matrix,
            false,
        );
    }
}
