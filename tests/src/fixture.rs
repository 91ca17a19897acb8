//! Where fixtures are.

use std::path::{Path, PathBuf};

/// The fixture folder of the repository.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The folder of shared references, if the user has one.
pub fn shared() -> Option<PathBuf> {
    std::env::var_os("UNIMO_SHARED").map(PathBuf::from)
}
