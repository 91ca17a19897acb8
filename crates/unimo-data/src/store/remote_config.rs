//! How remote objects are read: time limits, retries, and the size of the cache.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::settings::range;

/// `[data.webdataset.remote]`, `[data.parquet.remote]`: how remote objects are read.
///
/// Times are in seconds. Nothing waits longer than `total_s`; then the run stops, and can be resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// Longest time to connect.
    pub connect_s: f64,
    /// Longest wait for the first byte of an answer.
    pub first_byte_s: f64,
    /// Longest wait for the next bytes of an answer.
    pub stall_s: f64,
    /// Longest time of one request, from connecting to its last byte.
    pub timeout_s: f64,
    /// Longest time to read something, with all retries and pauses.
    pub total_s: f64,
    /// Number of retries of a failed request, after 0.1 s, 0.2 s, 0.4 s and so on, at most 10 s, or after the time that the server
    /// asks for (`Retry-After`).
    pub retries: u32,
    /// Size of one request when neighbouring bytes are read together, in mebibytes.
    pub block_mb: usize,
    /// Size of the cache in memory, in mebibytes. With shuffling by shards, half of it should hold `shuffle.shards` shards.
    pub cache_mb: usize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            connect_s: 10.0,
            first_byte_s: 20.0,
            stall_s: 20.0,
            timeout_s: 60.0,
            total_s: 180.0,
            retries: 30,
            block_mb: 8,
            cache_mb: 256,
        }
    }
}

impl RemoteConfig {
    /// Checks every value, alone and against the others.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        for (name, seconds) in [
            ("connect_s", self.connect_s),
            ("first_byte_s", self.first_byte_s),
            ("stall_s", self.stall_s),
            ("timeout_s", self.timeout_s),
            ("total_s", self.total_s),
        ] {
            if !(seconds > 0.0 && seconds <= 3600.0) {
                let allowed = "a number of seconds above 0, at most 3600";
                return Err(DataError::config(key(name), seconds, allowed));
            }
        }
        range(&key("retries"), self.retries as usize, 0, 1000)?;
        range(&key("block_mb"), self.block_mb, 1, 64)?;
        range(&key("cache_mb"), self.cache_mb, 2 * self.block_mb, 1 << 20)
    }
}
