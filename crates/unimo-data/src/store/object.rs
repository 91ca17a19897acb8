//! Objects that are read in ranges of bytes, local or remote.
//!
//! An object does not know what its bytes mean.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use crate::error::ReadError;

/// An object that is read in pieces.
pub trait Object: Send + Sync {
    /// Its name in errors: a path or a URL.
    fn name(&self) -> &str;

    /// Its size in bytes when it was opened.
    fn size(&self) -> u64;

    /// Distinguishes it from other objects with the same name and size: its time of change, or its server's mark. Empty if neither
    /// is known.
    fn version(&self) -> String {
        String::new()
    }

    /// Exactly `length` bytes from `offset` on. The caller bounds `length`.
    ///
    /// # Errors
    ///
    /// The reason, with the object's name and the offset. Bytes that existed when the object was opened and no longer do are
    /// unavailable, not damaged.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError>;

    /// Announces a read, so that the bytes can be fetched ahead. With `whole`, everything around the range will soon be read too.
    fn ahead(&self, _span: Range<u64>, _whole: bool) {}
}

/// Whether a location is a URL.
pub fn is_remote(location: &Path) -> bool {
    location
        .to_str()
        .is_some_and(|location| location.contains("://"))
}

/// Number of bytes that a scan or a [`Stream`] reads at once.
const PIECE: usize = 1 << 20;

/// Reads an object from its first byte to its last.
pub(crate) struct Stream<'a> {
    object: &'a dyn Object,
    offset: u64,
    piece: Vec<u8>,
    used: usize,
    failed: Option<ReadError>,
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
            failed: None,
        }
    }

    /// Why the object could not be read, if so: a decoder of the stream may have changed the error.
    pub(crate) fn failure(&self) -> Option<&ReadError> {
        self.failed.as_ref()
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
            let read = self.object.read(self.offset, length);
            self.piece = read.inspect_err(|error| self.failed = Some(error.clone()))?;
            self.offset += length as u64;
            self.used = 0;
        }
        let length = into.len().min(self.piece.len() - self.used);
        into[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// Bytes in memory that are read like a file.
#[cfg(test)]
pub(crate) struct InMemory {
    /// Its name in errors.
    pub name: String,
    /// The whole content.
    pub bytes: Vec<u8>,
}

#[cfg(test)]
impl Object for InMemory {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let end = usize::try_from(offset).ok().and_then(|start| {
            let bytes = self.bytes.get(start..)?.get(..length)?;
            Some(bytes.to_vec())
        });
        end.ok_or_else(|| {
            format!(
                "{} at byte {offset}: {length} bytes are not there",
                self.name
            )
            .into()
        })
    }
}

/// Reads a whole object of at most `limit` bytes.
///
/// # Errors
///
/// The reason, with the object's name.
pub(crate) fn read_all(object: &dyn Object, limit: u64) -> Result<Vec<u8>, ReadError> {
    if object.size() > limit {
        return Err(format!(
            "{}: {} bytes are more than the {limit} that are read",
            object.name(),
            object.size()
        )
        .into());
    }
    object.read(0, object.size() as usize)
}
