//! `index.json`, which lists the shards of a packed folder, and the settings of packing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, SampleError};
use crate::settings::range;
use crate::store::{self, Storage};

/// The file that lists the shards of a folder.
pub const INDEX: &str = "index.json";

/// Largest `index.json` that is read, in bytes.
const LARGEST_PACK_INDEX: u64 = 1 << 30;

/// Settings of packing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackSpec {
    /// Largest number of samples in a shard.
    pub samples: usize,
    /// Largest number of bytes of a shard's members. A larger sample has a shard to itself.
    pub bytes: u64,
    /// Format of images that were resized or have no file.
    pub format: PackFormat,
    /// The shorter side of larger images, in pixels; `None`: images keep their size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
}

impl Default for PackSpec {
    fn default() -> Self {
        Self {
            samples: 10_000,
            bytes: 1 << 30,
            format: PackFormat::Png,
            shorter_side: None,
        }
    }
}

/// Format of a written image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackFormat {
    /// Without loss.
    Png,
    /// JPEG of this quality, 1 to 100.
    Jpeg(u8),
}

impl PackSpec {
    /// Checks every value, alone and against the others.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the setting, what was found and what is allowed.
    pub fn validate(&self) -> Result<(), DataError> {
        range("pack.samples", self.samples, 1, 1 << 20)?;
        if !(1..=1 << 40).contains(&self.bytes) {
            let allowed = "a whole number from 1 to 1099511627776";
            return Err(DataError::config("pack.bytes", self.bytes, allowed));
        }
        if let PackFormat::Jpeg(quality) = self.format {
            range("pack.format.jpeg", quality.into(), 1, 100)?;
        }
        if let Some(side) = self.shorter_side {
            range("pack.shorter_side", side as usize, 8, 1 << 14)?;
        }
        Ok(())
    }
}

/// `index.json`: the contents of a packed folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackIndex {
    /// [`PackIndex::FORMAT`].
    pub format: String,
    /// The split that was packed.
    pub split: String,
    /// The source's description of itself.
    pub source: String,
    /// The settings.
    pub settings: PackSpec,
    /// Number of samples in all shards.
    pub samples: usize,
    /// Number of bytes of all shards.
    pub bytes: u64,
    /// Whether samples have images.
    pub images: bool,
    /// Whether samples have captions.
    pub captions: bool,
    /// The shards in order.
    pub shards: Vec<PackedShard>,
    /// Samples that were left out, with the reason.
    pub skipped: Vec<SampleError>,
}

impl PackIndex {
    /// The format and its version.
    pub const FORMAT: &str = "unimo-pack-1";
}

/// A shard in `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedShard {
    /// Name of its file in the folder.
    pub file: String,
    /// Number of its samples.
    pub samples: usize,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its CRC-32C (RFC 3720).
    pub crc32c: u32,
    /// CRC-32C of the index beside it.
    pub index_crc32c: u32,
}

/// Reads an `index.json`, at a path or URL.
///
/// # Errors
///
/// It cannot be read or is not an index of packed shards.
pub fn read_pack(storage: &Storage, path: &Path) -> Result<PackIndex, DataError> {
    let read = || {
        let object = storage.open(path)?;
        let index = parse_pack(&store::read_all(&*object, LARGEST_PACK_INDEX)?)?;
        Ok(index)
    };
    read().map_err(|error| DataError::unread(path, error))
}

/// Parses the content of an `index.json`.
///
/// # Errors
///
/// It is not an index of packed shards.
pub fn parse_pack(bytes: &[u8]) -> Result<PackIndex, String> {
    let index: PackIndex = serde_json::from_slice(bytes)
        .map_err(|error| format!("no index of packed shards: {error}"))?;
    if index.format != PackIndex::FORMAT {
        return Err(format!(
            "its format is {:?}, not {:?}",
            index.format,
            PackIndex::FORMAT
        ));
    }
    for shard in &index.shards {
        let plain = !shard.file.is_empty()
            && !shard.file.starts_with('.')
            && !shard.file.contains(['/', '\\', ':']);
        if !plain {
            return Err(format!("{:?} is no name of a shard", shard.file));
        }
    }
    Ok(index)
}
