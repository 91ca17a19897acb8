//! An object as a reader for the `parquet` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{ReadError, panic_text};
use crate::store::Object;

/// An object as a reader for the `parquet` crate.
#[derive(Clone)]
pub(crate) struct Chunks {
    pub(crate) object: Arc<dyn Object>,
    /// Why the object could not be read now, for the current read. The crate turns errors into text on the way.
    failed: Arc<Mutex<Option<ReadError>>>,
}

impl Chunks {
    pub(crate) fn new(object: Arc<dyn Object>) -> Self {
        Self {
            object,
            failed: Arc::default(),
        }
    }

    pub(crate) fn bytes(&self, start: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let read = self.object.read(start, length);
        read.inspect_err(|error| {
            if error.is_unavailable() {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(error.clone());
            }
        })
    }

    /// Runs a read that may panic on damaged input. An object that only cannot be read now is not damaged.
    pub(crate) fn caught<T>(
        &self,
        work: impl FnOnce(Self) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let own = Self::new(Arc::clone(&self.object));
        let result = catch_unwind(AssertUnwindSafe(|| work(own.clone())))
            .unwrap_or_else(|payload| Err(format!("damaged: {}", panic_text(&*payload)).into()));
        let mut failed = own.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, failed.take()) {
            (Err(_), Some(failed)) => Err(failed),
            (result, _) => result,
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.object.size()
    }
}

impl ChunkReader for Chunks {
    type T = Reader;

    fn get_read(&self, start: u64) -> Result<Reader, ParquetError> {
        Ok(Reader {
            object: self.clone(),
            at: start,
            piece: Vec::new(),
            used: 0,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.object.size()) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} lie outside the file"
            )));
        }
        let bytes = self.bytes(start, length);
        bytes
            .map(Bytes::from)
            .map_err(|error| ParquetError::General(error.reason))
    }
}

/// Reads from a byte on: headers of pages byte by byte, and their content at once.
pub(crate) struct Reader {
    pub(crate) object: Chunks,
    pub(crate) at: u64,
    piece: Vec<u8>,
    used: usize,
}

impl Reader {
    /// Largest piece read ahead: a header, and little of its page.
    const AHEAD: u64 = 512;

    fn fetch(&mut self, length: u64) -> std::io::Result<Vec<u8>> {
        let rest = self.object.len().saturating_sub(self.at);
        let bytes = self.object.bytes(self.at, rest.min(length) as usize)?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

impl std::io::Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.used == self.piece.len() {
            self.used = 0;
            self.piece = self.fetch(Self::AHEAD.max(into.len() as u64))?;
        }
        let length = into.len().min(self.piece.len() - self.used);
        into[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}
