//! Numbers in another dtype.

use burn::tensor::{FloatDType, Tensor};

/// Casts only where the dtype differs, so that plain f32 training records no cast.
pub fn cast<const D: usize>(x: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    let current: FloatDType = x.dtype().into();
    if current == dtype { x } else { x.cast(dtype) }
}

/// `parameter` in the dtype of `x`: parameters stay f32 while the computation may run in half precision.
pub fn same_dtype<const D: usize, const E: usize>(
    parameter: Tensor<D>,
    x: &Tensor<E>,
) -> Tensor<D> {
    cast(parameter, x.dtype().into())
}
