//! Ranges of bytes of named objects: local files, and whatever else lies behind a URL.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::range;
use crate::error::DataError;

/// Something that is read in pieces.
pub trait Object: Send + Sync {
    /// As it is called in errors: a path or a URL.
    fn name(&self) -> &str;

    /// Its bytes in all, when it was opened.
    fn size(&self) -> u64;

    /// Exactly `length` bytes from `offset` on. The caller bounds `length`.
    ///
    /// # Errors
    ///
    /// The reason, with the object's name and the offset.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String>;
}

/// Whether a location is no local path.
pub fn is_remote(location: &Path) -> bool {
    location
        .to_str()
        .is_some_and(|location| location.contains("://"))
}

/// `[data.webdataset.remote]`, `[data.parquet.remote]`: how objects behind URLs are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// Longest that one request may take, in seconds.
    pub timeout_s: f64,
    /// How often a request that failed is repeated, after 0.1 s, 0.2 s, 0.4 s and so on, at most 10 s.
    pub retries: u32,
    /// Bytes that are asked for at once, in mebibytes.
    pub block_mb: usize,
    /// Bytes that are kept in memory, in mebibytes.
    pub cache_mb: usize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            timeout_s: 30.0,
            retries: 6,
            block_mb: 1,
            cache_mb: 256,
        }
    }
}

impl RemoteConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        if !(self.timeout_s > 0.0 && self.timeout_s <= 3600.0) {
            let allowed = "a number of seconds above 0, at most 3600";
            return Err(DataError::config(key("timeout_s"), self.timeout_s, allowed));
        }
        range(&key("retries"), self.retries as usize, 0, 100)?;
        range(&key("block_mb"), self.block_mb, 1, 64)?;
        range(&key("cache_mb"), self.cache_mb, 2 * self.block_mb, 1 << 20)
    }
}

/// Opens objects by path or URL. What lies behind URLs shares connections and a cache.
pub struct Storage {
    #[cfg(feature = "remote")]
    remote: crate::remote::Remote,
}

impl Storage {
    /// Storage with the given settings. Nothing is started before a URL is opened.
    pub fn new(config: &RemoteConfig) -> Self {
        #[cfg(not(feature = "remote"))]
        let _ = config;
        Self {
            #[cfg(feature = "remote")]
            remote: crate::remote::Remote::new(config.clone()),
        }
    }

    /// Opens an object by its path or URL.
    ///
    /// # Errors
    ///
    /// The reason, without the object's name.
    pub fn open(&self, location: &Path) -> Result<Arc<dyn Object>, String> {
        if !is_remote(location) {
            return Ok(Arc::new(LocalFile::open(location)?));
        }
        #[cfg(feature = "remote")]
        return self.remote.open(&location.to_string_lossy());
        #[cfg(not(feature = "remote"))]
        Err(
            "this program was built without the cargo feature `remote` and reads local files only"
                .to_owned(),
        )
    }
}

/// A local file. It is opened for every read: thousands of shards are more than a process may hold open.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    name: String,
    size: u64,
}

impl LocalFile {
    /// The file at `path`.
    ///
    /// # Errors
    ///
    /// It is not there or is no regular file; the file is not named.
    pub fn open(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
        // Opening a pipe would wait for a writer.
        if !about.is_file() {
            return Err("not a regular file".to_owned());
        }
        Ok(Self {
            path: path.to_owned(),
            name,
            size: about.len(),
        })
    }
}

impl Object for LocalFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let read = || {
            let mut bytes = vec![0; length];
            read_exact_at(&File::open(&self.path)?, &mut bytes, offset)?;
            Ok(bytes)
        };
        read().map_err(|error: io::Error| {
            format!("{} at byte {offset}, {length} bytes: {error}", self.name)
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

/// Bytes that a scan or a [`Stream`] asks for at once.
const PIECE: usize = 1 << 20;

/// An object from its first byte to its last.
pub(crate) struct Stream<'a> {
    object: &'a dyn Object,
    offset: u64,
    piece: Vec<u8>,
    used: usize,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(object: &'a dyn Object) -> Self {
        Self::from(object, 0)
    }

    pub(crate) fn from(object: &'a dyn Object, offset: u64) -> Self {
        Self {
            object,
            offset,
            piece: Vec::new(),
            used: 0,
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            let rest = self.object.size().saturating_sub(self.offset);
            let length = rest.min(PIECE as u64) as usize;
            if length == 0 {
                return Ok(0);
            }
            self.piece = self
                .object
                .read(self.offset, length)
                .map_err(io::Error::other)?;
            self.offset += length as u64;
            self.used = 0;
        }
        let length = into.len().min(self.piece.len() - self.used);
        into[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// Bytes in memory, to read what is no file.
pub struct InMemory {
    /// As it is called in errors.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Object for InMemory {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let end = usize::try_from(offset).ok().and_then(|start| {
            let bytes = self.bytes.get(start..)?.get(..length)?;
            Some(bytes.to_vec())
        });
        end.ok_or_else(|| {
            format!(
                "{} at byte {offset}: {length} bytes are not there",
                self.name
            )
        })
    }
}

/// All of an object of at most `limit` bytes.
///
/// # Errors
///
/// The reason, with the object's name.
pub(crate) fn read_all(object: &dyn Object, limit: u64) -> Result<Vec<u8>, String> {
    if object.size() > limit {
        return Err(format!(
            "{}: {} bytes are more than the {limit} that are read",
            object.name(),
            object.size()
        ));
    }
    object.read(0, object.size() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_file_and_what_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let storage = Storage::new(&RemoteConfig::default());
        let object = storage.open(&path).unwrap();
        assert_eq!(object.size(), bytes.len() as u64);
        assert_eq!(
            object.read(1_234_567, 89).unwrap(),
            bytes[1_234_567..][..89]
        );
        let mut all = Vec::new();
        Stream::new(&*object).read_to_end(&mut all).unwrap();
        assert!(all == bytes && read_all(&*object, 3_000_000).unwrap() == bytes);
        assert!(read_all(&*object, 2_999_999).is_err());

        let message = object.read(2_999_990, 11).unwrap_err();
        assert!(message.contains("a.bin at byte 2999990"), "{message}");
        std::fs::remove_file(&path).unwrap();
        assert!(object.read(0, 1).unwrap_err().contains("a.bin"));
        let message = storage.open(&path).err().unwrap();
        assert!(message.starts_with("No such file"), "{message}");
        assert!(
            storage
                .open(folder.path())
                .err()
                .unwrap()
                .contains("regular")
        );
    }
}
