//! Layouts of remote shards without an index: each is found by one scan and kept in a folder.
//!
//! A shard has one file there, named by its URL. The file records the server's mark of the shard, so a replaced shard is scanned
//! again. A damaged file is made again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DataError, ReadError};
use crate::order::draws::{Stream, hash_text};
use crate::store::atomic::{remove_leftovers, write_whole};
use crate::store::shards::{self, IndexHeader, MemberLimits, ShardIndex};
use crate::store::{self, Object, may_be_file};

/// The folder.
pub(crate) struct Found {
    folder: PathBuf,
    /// Whether the recipe names it; then it must be usable.
    given: bool,
}

impl Found {
    /// `given`, or the user's own cache; `None` if there is neither.
    pub(crate) fn open(given: Option<&Path>) -> Result<Option<Self>, DataError> {
        let Some(folder) = given.map(Path::to_owned).or_else(of_user) else {
            not_kept("there is no home folder");
            return Ok(None);
        };
        let made = fs::create_dir_all(&folder)
            .map_err(|error| DataError::file("create", &folder, error))
            .and_then(|()| remove_leftovers(&folder));
        let given = given.is_some();
        match made {
            Err(error) if given => Err(error),
            Err(error) => {
                not_kept(&error.to_string());
                Ok(None)
            }
            Ok(()) => Ok(Some(Self { folder, given })),
        }
    }

    fn path(&self, shard: &dyn Object) -> PathBuf {
        let name = shard.name();
        let base = name.rsplit('/').next().unwrap_or(name);
        let of_url = hash_text(Stream::Split, name);
        self.folder.join(format!("{of_url:016x}-{base}.index"))
    }

    /// What an earlier scan of the very same shard found.
    ///
    /// # Errors
    ///
    /// The file exists but could not be read now.
    pub(crate) fn get(
        &self,
        shard: &dyn Object,
        limits: MemberLimits,
    ) -> Result<Option<ShardIndex>, ReadError> {
        let path = self.path(shard);
        if !may_be_file(&path) {
            return Ok(None);
        }
        let bytes = match store::read_file(&path, shards::LARGEST_INDEX) {
            Err(error) if error.is_unavailable() => {
                return Err(error.told(|reason| format!("{}: {reason}", path.display())));
            }
            bytes => bytes.unwrap_or_default(),
        };
        let Ok((header, items)) = shards::parse_index(&bytes, shard.size()) else {
            return Ok(None);
        };
        let same = header.made_from == shards::identity(shard, limits);
        Ok(same.then_some(ShardIndex {
            items,
            rejected: header.rejected,
            ignored: header.ignored,
        }))
    }

    /// Keeps the result of a scan.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub(crate) fn put(
        &self,
        shard: &dyn Object,
        limits: MemberLimits,
        index: &ShardIndex,
    ) -> Result<(), DataError> {
        let path = self.path(shard);
        let header = IndexHeader {
            format: IndexHeader::FORMAT.to_owned(),
            shard_bytes: shard.size(),
            shard_crc32c: 0,
            samples: 0,
            crc32c: 0,
            rejected: index.rejected.clone(),
            ignored: index.ignored,
            made_from: shards::identity(shard, limits),
            range: (0, 0),
        };
        let bytes = shards::write_index(header, &index.items)
            .map_err(|reason| DataError::file("write", &path, std::io::Error::other(reason)))?;
        match write_whole(&path, &bytes) {
            Err(error) if !self.given => {
                not_kept(&error.to_string());
                Ok(())
            }
            written => written,
        }
    }
}

/// Warns that a result is used but not kept, so the next run scans again.
fn not_kept(reason: &str) {
    eprintln!(
        "unimo: what lies where in shards behind URLs is not kept ({reason}); name a folder as data.webdataset.cache"
    );
}

/// `unimo/shards` in the user's cache folder.
fn of_user() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || {
        set("HOME")
            .or_else(|| set("USERPROFILE"))
            .map(PathBuf::from)
    };
    let caches = caches.or_else(|| Some(home()?.join(".cache")))?;
    Some(caches.join("unimo").join("shards"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, SampleError};
    use crate::store::InMemory;
    use crate::store::atomic::ABANDONED;
    use crate::store::shards::{Item, Member, MemberKind};
    use std::time::SystemTime;

    const LIMITS: MemberLimits = MemberLimits {
        image: 1000,
        text: 100,
    };

    fn shard(name: &str, bytes: usize) -> InMemory {
        InMemory {
            name: name.to_owned(),
            bytes: vec![0; bytes],
        }
    }

    fn index() -> ShardIndex {
        let place = Place {
            file: "http://h/a.tar".to_owned(),
            line: 512,
        };
        ShardIndex {
            items: vec![Item {
                key: "1".to_owned(),
                at: 0,
                members: vec![Member {
                    offset: 512,
                    size: 5,
                    kind: MemberKind::Jpg,
                }],
                others: Vec::new(),
            }],
            rejected: vec![SampleError::new(place, "a link")],
            ignored: 3,
        }
    }

    #[test]
    fn kept_for_the_same_shard_and_made_again_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let found = Found::open(Some(folder.path())).unwrap().unwrap();
        let one = shard("http://h/a.tar", 2048);
        assert_eq!(found.get(&one, LIMITS).unwrap(), None);
        found.put(&one, LIMITS, &index()).unwrap();
        assert_eq!(found.get(&one, LIMITS).unwrap(), Some(index()));
        // Another size, another place with the same name, other limits.
        for (other, limits) in [
            (shard("http://h/a.tar", 4096), LIMITS),
            (shard("http://g/a.tar", 2048), LIMITS),
            (
                shard("http://h/a.tar", 2048),
                MemberLimits { image: 1, ..LIMITS },
            ),
        ] {
            assert_eq!(found.get(&other, limits).unwrap(), None);
        }
        // Damage anywhere is noticed or changes nothing.
        let path = found.path(&one);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let read = found.get(&one, LIMITS).unwrap();
            assert!(
                read.is_none_or(|read| read.items == index().items),
                "byte {at}"
            );
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_eq!(found.get(&one, LIMITS).unwrap(), None);
        found.put(&one, LIMITS, &index()).unwrap();
        assert_eq!(found.get(&one, LIMITS).unwrap(), Some(index()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (
            folder.path().join("a.1.part"),
            folder.path().join("b.2.part"),
        );
        fs::write(&old, b"x").unwrap();
        fs::write(&new, b"x").unwrap();
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        let file = fs::File::options().write(true).open(&old).unwrap();
        file.set_modified(long_ago).unwrap();
        Found::open(Some(folder.path())).unwrap();
        assert!(!old.exists() && new.exists());
    }
}
