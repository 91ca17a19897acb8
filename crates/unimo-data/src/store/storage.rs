//! Opens objects by path or URL.

use std::path::Path;
use std::sync::Arc;

use crate::error::ReadError;
use crate::store::disk::LocalFile;
use crate::store::object::{Object, is_remote};
use crate::store::remote_config::RemoteConfig;

/// Opens objects by path or URL. Remote objects share connections and a cache.
pub struct Storage {
    #[cfg(feature = "remote")]
    remote: crate::store::remote::Remote,
}

impl Storage {
    /// Storage with the given settings. Nothing starts before a URL is opened.
    pub fn new(config: &RemoteConfig) -> Self {
        #[cfg(not(feature = "remote"))]
        let _ = config;
        Self {
            #[cfg(feature = "remote")]
            remote: crate::store::remote::Remote::new(config.clone()),
        }
    }

    /// Opens an object by its path or URL.
    ///
    /// # Errors
    ///
    /// The reason, without the object's name.
    pub fn open(&self, location: &Path) -> Result<Arc<dyn Object>, ReadError> {
        if !is_remote(location) {
            return Ok(Arc::new(LocalFile::open(location)?));
        }
        #[cfg(feature = "remote")]
        return self.remote.open(&location.to_string_lossy());
        #[cfg(not(feature = "remote"))]
        Err(
            "this program was built without the cargo feature `remote` and reads local files only; `cargo xtask --features remote ...` builds it in"
                .into(),
        )
    }
}
