//! Safetensors files as name -> values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// A tensor of a fixture.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Shape as PyTorch had it.
    pub shape: Vec<usize>,
    /// Row-major; integers are exact up to 2^53.
    pub values: Vec<f64>,
}

/// A fixture file.
pub type Stores = BTreeMap<String, Stored>;

/// The fixture folder of the repository.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The folder of shared references, if the user has one.
pub fn shared() -> Option<PathBuf> {
    std::env::var_os("UNIMO_SHARED").map(PathBuf::from)
}

/// Reads a safetensors file.
pub fn read(path: &Path) -> Stores {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = view.data();
            let values: Vec<f64> = match view.dtype() {
                Dtype::F32 => chunks(data)
                    .map(|b| f64::from(f32::from_le_bytes(b)))
                    .collect(),
                Dtype::I64 => chunks(data).map(|b| i64::from_le_bytes(b) as f64).collect(),
                other => panic!("{name} is {other:?}"),
            };
            let shape = view.shape().to_vec();
            (name, Stored { shape, values })
        })
        .collect()
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.chunks_exact(N)
        .map(|c| c.try_into().expect("invariant: chunks are N long"))
}

/// Largest difference as a share of the reference's largest value; below `floor` that value counts as `floor`.
pub fn relative_error(ours: &[f64], reference: &[f64], floor: f64) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let largest = reference.iter().fold(floor, |m, v| m.max(v.abs()));
    let worst = ours
        .iter()
        .zip(reference)
        .map(|(a, b)| {
            let d = (a - b).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        })
        .fold(0.0, f64::max);
    worst / largest
}
