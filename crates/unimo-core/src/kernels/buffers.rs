//! flex tensors as slices, and loops over them on all threads.
//!
//! Every loop cuts its work at fixed boundaries and runs a closure on each piece with the widest vector instructions of
//! the machine. A closure is compiled once for each instruction set, provided that it is inlined: functions that it
//! calls carry `#[inline(always)]`.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};
use pulp::Arch;
use rayon::prelude::*;

/// Elements of a piece of an element-wise loop.
pub(super) const BLOCK: usize = 1024;
/// A loop over fewer elements stays on the calling thread: waking another one costs about 10 µs.
pub(super) const PARALLEL_FROM: usize = 32 * 1024;
/// Elements that a thread takes at a time.
const GRAIN: usize = 16 * 1024;

/// The tensor with its elements in order and nothing else in its buffer.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let whole = layout.is_contiguous()
        && layout.start_offset() == 0
        && tensor.bytes().len() == layout.num_elements() * tensor.dtype().size();
    if whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// The elements of a tensor that came from [`contiguous`].
pub(super) fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.storage()
}

/// A new tensor.
pub(super) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The number of rows and the length of each, the last dimension.
pub(super) fn rows(shape: &Shape) -> (usize, usize) {
    let width = shape[shape.num_dims() - 1];
    (shape.num_elements() / width.max(1), width)
}

/// Runs `f` with the widest vector instructions of the machine.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

/// A new buffer filled by `f(offset, piece)`. The pieces hold zeros at first.
///
/// Collecting arrays writes the buffer once; allocating zeros would write it twice.
pub(super) fn generate(n: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let block = |i: usize| {
        let mut block = [0.0; BLOCK];
        f(i * BLOCK, &mut block);
        block
    };
    let blocks = n / BLOCK;
    let mut out: Vec<[f32; BLOCK]> = Vec::with_capacity(n.div_ceil(BLOCK));
    if n < PARALLEL_FROM {
        out.extend((0..blocks).map(block));
    } else {
        (0..blocks)
            .into_par_iter()
            .with_min_len(GRAIN / BLOCK)
            .map(block)
            .collect_into_vec(&mut out);
    }
    let mut out = out.into_flattened();
    let mut tail = [0.0; BLOCK];
    let tail = &mut tail[..n - blocks * BLOCK];
    f(blocks * BLOCK, tail);
    out.extend_from_slice(tail);
    out
}

/// Applies `f(offset, piece)` to the elements, in place if nobody else holds the tensor.
pub(super) fn map(tensor: FlexTensor, f: impl Fn(usize, &mut [f32]) + Sync) -> FlexTensor {
    let mut tensor = contiguous(tensor);
    if tensor.is_unique() {
        for_pieces(tensor.storage_mut(), BLOCK, f);
        return tensor;
    }
    let x = floats(&tensor);
    let out = generate(x.len(), |offset, piece| {
        piece.copy_from_slice(&x[offset..offset + piece.len()]);
        f(offset, piece);
    });
    self::tensor(out, tensor.layout().shape().clone())
}

/// The tensor with a buffer that nobody else holds.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    map(tensor, |_, _| {})
}

/// Applies `f(offset, piece)` to pieces of `width` elements; the last one may be shorter.
pub(super) fn for_pieces(x: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if x.is_empty() {
        return;
    }
    if x.len() < PARALLEL_FROM {
        for (i, piece) in x.chunks_mut(width).enumerate() {
            f(i * width, piece);
        }
    } else {
        x.par_chunks_mut(width)
            .with_min_len(GRAIN.div_ceil(width))
            .enumerate()
            .for_each(|(i, piece)| f(i * width, piece));
    }
}

/// `f` of every number below `n`, in order. One call of `f` goes over `cost` elements.
pub(super) fn collect<T: Send>(n: usize, cost: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if n * cost < PARALLEL_FROM {
        return (0..n).map(f).collect();
    }
    (0..n)
        .into_par_iter()
        .with_min_len(GRAIN.div_ceil(cost.max(1)))
        .map(&f)
        .collect()
}

/// The sum over rows. `add(row, sums)` adds one row to `sums`, which has `width` elements.
///
/// The rows are cut into at most [`PARTS`] parts, a number that does not depend on the number of threads.
pub(super) fn sum_rows(n: usize, width: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let per_part = n.div_ceil(PARTS).max(MIN_ROWS);
    let parts = collect(n.div_ceil(per_part), per_part * width, |part| {
        let mut sums = vec![0.0; width];
        for row in part * per_part..n.min((part + 1) * per_part) {
            add(row, &mut sums);
        }
        sums
    });
    let mut sums = vec![0.0; width];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += part;
        }
    }
    sums
}

/// The highest number of parts of a sum over rows.
const PARTS: usize = 64;
/// The lowest number of rows in a part.
const MIN_ROWS: usize = 16;

/// The rows that a piece of a matrix touches: row, columns, and the range of the piece.
#[inline(always)]
pub(super) fn row_ranges(
    offset: usize,
    len: usize,
    width: usize,
) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(
        #[inline(always)]
        move || {
            if at >= len {
                return None;
            }
            let (row, column) = ((offset + at) / width, (offset + at) % width);
            let run = (width - column).min(len - at);
            let item = (row, column..column + run, at..at + run);
            at += run;
            Some(item)
        },
    )
}

/// Applies `f(offset, pieces)` to pieces of three slices of the same length.
pub(super) fn for_pieces3(x: [&mut [f32]; 3], f: impl Fn(usize, [&mut [f32]; 3]) + Sync) {
    let [a, b, c] = x;
    if a.len() < PARALLEL_FROM {
        return f(0, [a, b, c]);
    }
    a.par_chunks_mut(GRAIN)
        .zip(b.par_chunks_mut(GRAIN))
        .zip(c.par_chunks_mut(GRAIN))
        .enumerate()
        .for_each(|(i, ((a, b), c))| f(i * GRAIN, [a, b, c]));
}
