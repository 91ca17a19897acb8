//! Episodes of a batch: the decisions of each sample.

use unimo_batch::Walks;

use crate::error::{DataError, SampleError};
use crate::loader::spec::LoaderSpec;
use crate::walks;

/// The decisions of a sample; `None` unless samples are read as episodes, or if it is none, as in other parts of a mixture.
///
/// # Errors
///
/// Why the sample cannot be used.
pub(super) fn made(spec: &LoaderSpec, index: usize) -> Result<Option<Walks>, SampleError> {
    let Some(config) = &spec.walks else {
        return Ok(None);
    };
    let Some(recorded) = spec.source.walk(spec.split, index)? else {
        return Ok(None);
    };
    let made = walks::made(&*recorded, config);
    made.map(Some)
        .map_err(|error| SampleError::new(spec.source.place(spec.split, index), error))
}

/// The decisions of a batch; `None` if its samples are no episodes.
///
/// # Errors
///
/// The episodes are of different kinds.
pub(super) fn joined(batch: u64, all: &[Walks]) -> Result<Option<Walks>, DataError> {
    if all.is_empty() {
        return Ok(None);
    }
    let joined = walks::joined(all);
    joined
        .map(Some)
        .map_err(|reason| DataError::Worker { batch, reason })
}
