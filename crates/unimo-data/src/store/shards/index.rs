//! The index beside a shard.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{ReadError, ReadKind, SampleError};
use crate::store::shards::{Item, MemberLimits};
use crate::store::{self, Object, Storage};

/// The first line of an index beside a shard; the samples follow, one per line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexHeader {
    /// [`IndexHeader::FORMAT`].
    pub format: String,
    /// Size of the shard in bytes.
    pub shard_bytes: u64,
    /// CRC-32C (RFC 3720) of the shard.
    pub shard_crc32c: u32,
    /// Number of lines that follow.
    pub samples: usize,
    /// CRC-32C of the lines that follow.
    pub crc32c: u32,
    /// Unusable members, as far as the shard's writer knew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<SampleError>,
    /// Number of members with unknown names, as far as the shard's writer knew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ignored: usize,
    /// What the shard was made from; the writer compares it before it keeps the shard.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub made_from: String,
    /// The source's items that went into the shard or were left out: the first, and the one after the last.
    #[serde(default)]
    pub range: (usize, usize),
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Largest index that is read, in bytes.
pub(crate) const LARGEST_INDEX: u64 = 512 << 20;

impl IndexHeader {
    /// The format and its version.
    pub const FORMAT: &str = "unimo-shard-index-1";

    /// Path of a shard's index.
    pub fn path(shard: &Path) -> PathBuf {
        let mut name = shard.as_os_str().to_owned();
        name.push(".index");
        name.into()
    }
}

/// Raised when a scan begins to find other samples in the same shard.
const SCANNER: u32 = 3;

/// Identifies the shard in its current state, and everything else that the result of a scan depends on.
pub(crate) fn identity(shard: &dyn Object, limits: MemberLimits) -> String {
    format!(
        "{} {} {} scan {SCANNER} {limits:?}",
        shard.name(),
        shard.size(),
        shard.version()
    )
}

/// The bytes of an index beside a shard. The header is completed from the samples.
pub(crate) fn write_index(mut header: IndexHeader, items: &[Item]) -> Result<Vec<u8>, String> {
    let mut lines = Vec::new();
    for item in items {
        serde_json::to_writer(&mut lines, item).map_err(|error| error.to_string())?;
        lines.push(b'\n');
    }
    header.samples = items.len();
    header.crc32c = crc32c::crc32c(&lines);
    let mut bytes = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    bytes.extend(lines);
    Ok(bytes)
}

/// Reads the index beside a shard; `None` if there is none.
///
/// # Errors
///
/// It is damaged, belongs to another shard, or could not be read.
pub fn read_index(
    storage: &Storage,
    shard: &Path,
    shard_bytes: u64,
) -> Result<Option<(IndexHeader, Vec<Item>)>, ReadError> {
    let path = IndexHeader::path(shard);
    let object = match storage.open(&path) {
        Err(error) if error.kind == ReadKind::Missing => return Ok(None),
        opened => {
            opened.map_err(|error| error.told(|reason| format!("{}: {reason}", path.display())))?
        }
    };
    let bytes = store::read_all(&*object, LARGEST_INDEX)?;
    let index = parse_index(&bytes, shard_bytes);
    Ok(Some(index.map_err(|reason| {
        format!("{}: {reason}", object.name())
    })?))
}

/// Parses an index of a shard of the given size.
///
/// # Errors
///
/// It is damaged or belongs to another shard.
pub fn parse_index(bytes: &[u8], shard_bytes: u64) -> Result<(IndexHeader, Vec<Item>), String> {
    let newline = bytes.iter().position(|byte| *byte == b'\n');
    let (first, lines) = bytes.split_at(newline.ok_or("it has no first line")? + 1);
    let header: IndexHeader =
        serde_json::from_slice(first).map_err(|error| format!("its first line: {error}"))?;
    if header.format != IndexHeader::FORMAT {
        return Err(format!(
            "its format is {:?}, not {:?}",
            header.format,
            IndexHeader::FORMAT
        ));
    }
    if header.shard_bytes != shard_bytes {
        return Err(format!(
            "it is of a shard of {} bytes, but this one has {shard_bytes}",
            header.shard_bytes
        ));
    }
    if crc32c::crc32c(lines) != header.crc32c {
        return Err("its checksum is wrong".to_owned());
    }
    let mut items = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
        let item: Item = serde_json::from_slice(line)
            .map_err(|error| format!("sample {}: {error}", items.len()))?;
        let members = item.members.iter().map(|m| (m.offset, m.size));
        let others = item.others.iter().map(|other| (other.offset, other.size));
        let inside = members.chain(others).all(|(offset, size)| {
            let end = offset.checked_add(u64::from(size));
            end.is_some_and(|end| end <= shard_bytes)
        });
        if !inside {
            return Err(format!("sample {} lies outside the shard", items.len()));
        }
        items.push(item);
    }
    if items.len() != header.samples {
        return Err(format!(
            "it announces {} samples and has {}",
            header.samples,
            items.len()
        ));
    }
    Ok((header, items))
}
