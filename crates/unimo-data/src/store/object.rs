//! Ranges of bytes of named objects, wherever they lie.
//!
//! An object knows nothing of what its bytes mean.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use crate::error::ReadError;

/// Something that is read in pieces.
pub trait Object: Send + Sync {
    /// As it is called in errors: a path or a URL.
    fn name(&self) -> &str;

    /// Its bytes in all, when it was opened.
    fn size(&self) -> u64;

    /// What tells it from others that had its name and size: when it was changed, or the mark that its server gives it. Empty where
    /// nothing is known.
    fn version(&self) -> String {
        String::new()
    }

    /// Exactly `length` bytes from `offset` on. The caller bounds `length`.
    ///
    /// # Errors
    ///
    /// The reason, with the object's name and the offset. What was there when the object was opened and is not there any more is
    /// unavailable, not damaged.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError>;

    /// Told what will be read soon, so that it can be on its way before it is asked for. With `whole`, all that lies around it will
    /// be read soon too.
    fn ahead(&self, _span: Range<u64>, _whole: bool) {}
}

/// Whether a location is no local path.
pub fn is_remote(location: &Path) -> bool {
    location
        .to_str()
        .is_some_and(|location| location.contains("://"))
}

/// Bytes that a scan or a [`Stream`] asks for at once.
const PIECE: usize = 1 << 20;

/// An object from its first byte to its last.
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

    /// Why the object could not be read, if it could not: what decodes the stream may have given the error another form.
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

/// Bytes in memory, to read what is no file.
#[cfg(test)]
pub(crate) struct InMemory {
    /// As it is called in errors.
    pub name: String,
    /// All of it.
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

/// All of an object of at most `limit` bytes.
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
