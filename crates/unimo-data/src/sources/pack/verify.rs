//! Checks packed shards.

use std::path::Path;

use crate::error::{DataError, ReadError};
use crate::sources::pack::index::{INDEX, PackIndex, PackedShard, read_pack};
use crate::sources::pack::{checksum, local};
use crate::store::shards::{self, IndexHeader, MemberLimits};
use crate::store::{LocalFile, Object};
use crate::threads::parallel;

/// Reads a packed folder again and compares it with its checksums.
///
/// # Errors
///
/// Something is missing or damaged; every such shard is named.
pub fn verify_pack(folder: &Path) -> Result<PackIndex, DataError> {
    let index = read_pack(&local(), &folder.join(INDEX))?;
    let results = parallel(0..index.shards.len(), |at| {
        verify_shard(folder, &index.shards[at])
    });
    let mut problems = Vec::new();
    for (result, shard) in results.into_iter().zip(&index.shards) {
        match result {
            Ok(()) => {}
            Err(error) if error.is_unavailable() => {
                return Err(DataError::unread(&folder.join(&shard.file), error));
            }
            Err(error) => problems.push(error.reason),
        }
    }
    let damaged = problems.len();
    let samples: usize = index.shards.iter().map(|shard| shard.samples).sum();
    let bytes: u64 = index.shards.iter().map(|shard| shard.bytes).sum();
    if (samples, bytes) != (index.samples, index.bytes) {
        problems.push(format!("{INDEX} does not add up"));
    }
    if problems.is_empty() {
        return Ok(index);
    }
    Err(DataError::Manifest {
        path: folder.to_owned(),
        reason: format!(
            "{damaged} of {} shards are damaged: {}",
            index.shards.len(),
            problems.join("; ")
        ),
    })
}

fn verify_shard(folder: &Path, shard: &PackedShard) -> Result<(), ReadError> {
    let path = folder.join(&shard.file);
    let wrong = |what: &str| Err(format!("{}: {what}", shard.file).into());
    let object = LocalFile::open(&path)
        .map_err(|error| error.told(|reason| format!("{}: {reason}", shard.file)))?;
    if object.size() != shard.bytes {
        return wrong(&format!(
            "{} bytes instead of {}",
            object.size(),
            shard.bytes
        ));
    }
    if checksum(&object)? != shard.crc32c {
        return wrong("its checksum is wrong");
    }
    let index = LocalFile::open(&IndexHeader::path(&path))
        .map_err(|error| error.told(|reason| format!("{}: its index: {reason}", shard.file)))?;
    if checksum(&index)? != shard.index_crc32c {
        return wrong("the checksum of its index is wrong");
    }
    let Some((_, items)) = shards::read_index(&local(), &path, object.size())? else {
        return wrong("its index is absent");
    };
    let all = MemberLimits {
        image: u64::MAX,
        text: u64::MAX,
    };
    if items.len() != shard.samples || shards::scan(&object, all)?.items != items {
        return wrong("its index does not say what it holds");
    }
    Ok(())
}
