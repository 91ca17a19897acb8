//! Compressed shards, unpacked once into a folder of bounded size.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use crate::error::{DataError, Place, ReadError, SampleError, panic_text};
use crate::store::atomic::{self, AtomicFile, remove_leftovers, write_whole};
use crate::store::shards::{self, IndexHeader, MemberLimits, ShardIndex};
use crate::store::{LocalFile, Object, RemoteConfig, Storage, Stream};

/// Compression of a file, recognised by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn of(object: &dyn Object) -> Result<Option<Self>, ReadError> {
        if object.size() < 4 {
            return Ok(None);
        }
        Ok(match object.read(0, 4)?.as_slice() {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Self::Zstd),
            _ => None,
        })
    }
}

/// The folder.
pub(crate) struct Cache {
    folder: PathBuf,
    most: u64,
    used: AtomicU64,
}

/// Why a shard is not unpacked.
pub(crate) enum Refused {
    /// The folder has no room; this many bytes are allowed.
    Full(u64),
    /// The folder cannot be written or read.
    Folder(DataError),
    /// The shard could not be read now, so nothing of it is kept.
    Unread(ReadError),
}

impl Cache {
    pub(crate) fn open(folder: &Path, most: u64) -> Result<Self, DataError> {
        fs::create_dir_all(folder).map_err(|error| DataError::file("create", folder, error))?;
        remove_leftovers(folder)?;
        let list = |error| DataError::file("list", folder, error);
        // The leftovers of a killed process must not count.
        atomic::sweep(folder).map_err(list)?;
        let mut used = 0;
        for entry in fs::read_dir(folder).map_err(list)? {
            let about = entry.and_then(|entry| entry.metadata()).map_err(list)?;
            used += about.len();
        }
        Ok(Self {
            folder: folder.to_owned(),
            most,
            used: AtomicU64::new(used),
        })
    }

    /// The unpacked shard, from the folder if it is already there.
    pub(crate) fn get(
        &self,
        shard: &dyn Object,
        compression: Compression,
        limits: MemberLimits,
    ) -> Result<(LocalFile, ShardIndex), Refused> {
        let identity = shards::identity(shard, limits);
        let base: String = shard.name().rsplit(['/', '\\']).take(1).collect();
        let crc = crc32c::crc32c(identity.as_bytes());
        let path = self.folder.join(format!("{crc:08x}-{base}.tar"));
        if let Some(found) = kept(&path, &identity).map_err(Refused::Folder)? {
            return Ok(found);
        }
        self.unpack(shard, &path, identity, compression, limits)
    }

    fn unpack(
        &self,
        shard: &dyn Object,
        path: &Path,
        identity: String,
        compression: Compression,
        limits: MemberLimits,
    ) -> Result<(LocalFile, ShardIndex), Refused> {
        let wrong = |error| Refused::Folder(DataError::file("write", path, error));
        let mut file = Summed::new(AtomicFile::create(path).map_err(wrong)?);
        let mut unwritten = None;
        let mut full = false;
        let mut packed = BufReader::new(Stream::new(shard));
        // A decoder's panic on damaged input must not stop the run.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            each_piece(&mut packed, compression, &mut |piece| {
                let length = piece.len() as u64;
                if self.used.fetch_add(length, Ordering::Relaxed) + length > self.most {
                    full = true;
                    return Err(io::Error::other("full"));
                }
                file.write_all(piece).inspect_err(|error| {
                    unwritten = Some(io::Error::new(error.kind(), error.to_string()));
                })
            })
        }));
        let given_back = |bytes| self.used.fetch_sub(bytes, Ordering::Relaxed);
        // If unpacking stopped for a reason other than damage, nothing is kept: the part would count as the whole.
        let unread = packed.get_ref().failure();
        let refused = if full {
            Some(Refused::Full(self.most))
        } else if let Some(error) = unwritten {
            Some(wrong(error))
        } else {
            unread
                .filter(|error| error.is_unavailable())
                .map(|error| Refused::Unread(error.clone()))
        };
        if let Some(refused) = refused {
            given_back(file.bytes);
            return Err(refused);
        }
        let damage = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(payload) => Some(panic_text(&*payload)),
        };
        let (bytes, crc) = (file.bytes, file.crc);
        file.inner.commit().map_err(|error| {
            given_back(bytes);
            wrong(error)
        })?;
        let unpacked = LocalFile::open(path)
            .map_err(|error| Refused::Folder(DataError::unread(path, error)))?;
        let mut index = shards::scan(&unpacked, limits)
            .map_err(|error| Refused::Folder(DataError::unread(path, error)))?;
        if let Some(damage) = damage {
            index.rejected.push(SampleError::new(
                Place {
                    file: shard.name().to_owned(),
                    line: bytes,
                },
                format!("cannot be unpacked from here on: {damage}"),
            ));
        }
        for error in &mut index.rejected {
            shard.name().clone_into(&mut error.place.file);
        }
        let header = IndexHeader {
            format: IndexHeader::FORMAT.to_owned(),
            shard_bytes: bytes,
            shard_crc32c: crc,
            samples: 0,
            crc32c: 0,
            rejected: index.rejected.clone(),
            ignored: index.ignored,
            made_from: identity,
            range: (0, 0),
        };
        shards::write_index(header, &index.items)
            .map_err(|reason| DataError::file("write", path, io::Error::other(reason)))
            .and_then(|bytes| write_whole(&IndexHeader::path(path), &bytes))
            .map_err(Refused::Folder)?;
        Ok((unpacked, index))
    }
}

/// What was unpacked earlier from the very same shard. A damaged file is unpacked again.
fn kept(path: &Path, identity: &str) -> Result<Option<(LocalFile, ShardIndex)>, DataError> {
    let found = LocalFile::open(path).and_then(|unpacked| {
        let index = shards::read_index(&local(), path, unpacked.size())?;
        Ok(index.map(|index| (unpacked, index)))
    });
    let (unpacked, (header, items)) = match found {
        Ok(Some(found)) => found,
        Err(error) if error.is_unavailable() => return Err(DataError::unread(path, error)),
        Ok(None) | Err(_) => return Ok(None),
    };
    Ok((header.made_from == identity).then(|| {
        let index = ShardIndex {
            items,
            rejected: header.rejected,
            ignored: header.ignored,
        };
        (unpacked, index)
    }))
}

/// The folder is local.
fn local() -> Storage {
    Storage::new(&RemoteConfig::default())
}

/// Unpacks an object piece by piece.
fn each_piece(
    mut packed: &mut BufReader<Stream<'_>>,
    compression: Compression,
    give: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    match compression {
        Compression::Gzip => copy(&mut MultiGzDecoder::new(packed), give),
        Compression::Zstd => {
            // A file is one or several frames, with skippable frames in between (RFC 8878, 3.1).
            loop {
                if io::BufRead::fill_buf(packed)?.is_empty() {
                    return Ok(());
                }
                let mut decoder = FrameDecoder::new();
                match decoder.init(&mut packed) {
                    Ok(()) => {}
                    Err(FrameDecoderError::ReadFrameHeaderError(
                        ReadFrameHeaderError::SkipFrame { length, .. },
                    )) => {
                        io::copy(
                            &mut packed.by_ref().take(u64::from(length)),
                            &mut io::sink(),
                        )?;
                        continue;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
                let mut frame = Frame {
                    decoder,
                    packed: &mut *packed,
                };
                copy(&mut frame, give)?;
                let stated = frame.decoder.get_checksum_from_data();
                if stated.is_some() && stated != frame.decoder.get_calculated_checksum() {
                    return Err(io::Error::other("a frame's checksum is wrong"));
                }
            }
        }
    }
}

/// One frame. The crate's streaming decoder would read the header itself and lose the length of a skippable frame.
struct Frame<'a, R: Read> {
    decoder: FrameDecoder,
    packed: &'a mut R,
}

impl<R: Read> Read for Frame<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;
        while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
            self.decoder
                .decode_blocks(&mut *self.packed, UptoBlocks(1))
                .map_err(io::Error::other)?;
        }
        self.decoder.read(into)
    }
}

fn copy(from: &mut dyn Read, give: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => give(&piece[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts the written bytes and computes their checksum.
pub(crate) struct Summed<W> {
    pub(crate) inner: W,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

impl<W> Summed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            bytes: 0,
            crc: 0,
        }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
