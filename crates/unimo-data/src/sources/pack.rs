//! Writes any source as tar shards: the library part of `unimo data pack`.
//!
//! A folder holds the samples of one split: `000000.tar` and so on, an index beside each shard, and `index.json`, which is written
//! last. The same source and settings give the same bytes, whatever the number of threads. Packing that was interrupted keeps the
//! complete shards.

mod index;
mod record;
mod verify;

pub use index::{INDEX, PackFormat, PackIndex, PackSpec, PackedShard, parse_pack, read_pack};
pub(crate) use record::Record;
pub use verify::verify_pack;

use std::collections::VecDeque;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};

use crate::error::{DataError, ReadError, SampleError};
use crate::images;
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::store::atomic::{AtomicFile, write_whole};
use crate::store::shards::{self, IndexHeader, Item, Member, MemberKind};
use crate::store::unpack::Summed;
use crate::store::{self, LocalFile, Object, RemoteConfig, Storage};
use crate::threads::parallel;

/// Samples prepared ahead of the writer, per thread.
const AHEAD: usize = 16;

/// A sample as it goes into a shard.
struct Packed {
    /// Its images, then everything else, in the order of the members.
    members: Vec<(Vec<u8>, MemberKind)>,
}

/// The bytes of an image's file, and the extension of its format.
type Stored = Result<Option<(Vec<u8>, &'static str)>, SampleError>;

/// Packs a split into a folder. `progress` receives the number of finished items and the number of all items.
///
/// Existing shards are kept if they were made from the same description and settings and their checksums match. A source that
/// changed but describes itself as before has to go into another folder.
///
/// # Errors
///
/// The folder cannot be written or holds something else, or no sample can be used.
pub fn pack(
    source: &dyn Source,
    split: Split,
    folder: &Path,
    spec: &PackSpec,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PackIndex, DataError> {
    spec.validate()?;
    if source.offers().slices > 0 {
        let allowed = "a source of single images and texts: shards hold no stories";
        return Err(DataError::config("data.source", source.describe(), allowed));
    }
    if source.offers().walks.is_some() {
        let allowed =
            "a source of single images and texts: shards hold no episodes (unimo data houses)";
        return Err(DataError::config("data.source", source.describe(), allowed));
    }
    fs::create_dir_all(folder).map_err(|error| DataError::file("create", folder, error))?;
    check_folder(folder)?;
    let mut packer = Packer {
        source,
        split,
        folder,
        spec,
        made_from: made_from(source, split, spec),
        ready: VecDeque::new(),
        made: 0,
    };
    let mut index = PackIndex {
        format: PackIndex::FORMAT.to_owned(),
        split: split.name().to_owned(),
        source: source.describe(),
        settings: spec.clone(),
        samples: 0,
        bytes: 0,
        images: source.has_images(),
        captions: source.has_captions(),
        shards: Vec::new(),
        skipped: Vec::new(),
    };
    let items = source.len(split);
    let mut next = 0;
    while next < items {
        let file = format!("{:06}.tar", index.shards.len());
        let kept = packer.kept(&file, next)?;
        let (shard, skipped, end) = match kept {
            Some(kept) => kept,
            None => packer.shard(&file, next, &mut |done| progress(done, items))?,
        };
        next = end;
        progress(next, items);
        index.samples += shard.samples;
        index.bytes += shard.bytes;
        index.skipped.extend(skipped);
        index.shards.push(shard);
    }
    if index.samples == 0 {
        let first = index.skipped.first();
        return Err(DataError::Empty {
            split: split.name(),
            source_name: source.describe(),
            hint: first.map_or_else(String::new, |first| {
                format!(" that can be used. First: {first}")
            }),
        });
    }
    let json = serde_json::to_vec_pretty(&index)
        .map_err(|error| DataError::file("write", folder.join(INDEX), error.into()))?;
    write_whole(&folder.join(INDEX), &json)?;
    Ok(index)
}

/// Checks that every tar file of a folder was packed into it, and its index too: others are not written over.
fn check_folder(folder: &Path) -> Result<(), DataError> {
    let list = |error| DataError::file("list", folder, error);
    let holds = |name: &str, why: &str| DataError::Manifest {
        path: folder.to_owned(),
        reason: format!("the folder holds {name}, {why}; choose another one, or empty it"),
    };
    for entry in fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".tar") && !IndexHeader::path(&path).exists() {
            return Err(holds(&name, "which was not packed into it"));
        }
        if name == INDEX {
            let bytes = fs::read(&path).map_err(|error| DataError::file("read", &path, error))?;
            if let Err(reason) = parse_pack(&bytes) {
                let why = format!("which is no index of packed shards ({reason})");
                return Err(holds(&name, &why));
            }
        }
    }
    Ok(())
}

/// Raised when the same source and settings begin to give other shards. 2: pairs of images; JPEGs are decoded as Pillow does.
const PACKER: u32 = 2;

/// Identifies shards that may lie in one folder.
fn made_from(source: &dyn Source, split: Split, spec: &PackSpec) -> String {
    format!(
        "packer {PACKER}, {}, {} of {}: {spec:?}",
        split.name(),
        source.len(split),
        source.describe()
    )
}

struct Packer<'a> {
    source: &'a dyn Source,
    split: Split,
    folder: &'a Path,
    spec: &'a PackSpec,
    made_from: String,
    /// Samples that are prepared and not yet written, with their indices.
    ready: VecDeque<(usize, Result<Packed, SampleError>)>,
    /// The index after the last one in `ready`.
    made: usize,
}

type Shard = (PackedShard, Vec<SampleError>, usize);

impl Packer<'_> {
    /// A shard that an earlier run wrote, if it is complete.
    fn kept(&self, file: &str, next: usize) -> Result<Option<Shard>, DataError> {
        let path = self.folder.join(file);
        let now = |error: ReadError| DataError::unread(&path, error);
        let object = match LocalFile::open(&path) {
            Ok(object) => object,
            Err(error) if error.is_unavailable() => return Err(now(error)),
            Err(_) => return Ok(None),
        };
        let (header, items) = match shards::read_index(&local(), &path, object.size()) {
            Ok(Some(index)) => index,
            Err(error) if error.is_unavailable() => return Err(now(error)),
            Ok(None) | Err(_) => return Ok(None),
        };
        if header.made_from != self.made_from {
            return Err(DataError::Manifest {
                path,
                reason: format!(
                    "the folder holds shards made from something else ({}); choose another one, or empty it",
                    header.made_from
                ),
            });
        }
        let (first, end) = header.range;
        let sound = first == next
            && (next + 1..=self.source.len(self.split)).contains(&end)
            && checksum(&object).map_err(now)? == header.shard_crc32c;
        if !sound {
            return Ok(None);
        }
        let index_bytes = shards::write_index(header.clone(), &items).unwrap_or_default();
        let shard = PackedShard {
            file: file.to_owned(),
            samples: items.len(),
            bytes: object.size(),
            crc32c: header.shard_crc32c,
            index_crc32c: crc32c::crc32c(&index_bytes),
        };
        Ok(Some((shard, header.rejected, end)))
    }

    /// Writes the shard that begins with item `next`.
    fn shard(
        &mut self,
        file: &str,
        next: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Shard, DataError> {
        let spec = self.spec;
        let path = self.folder.join(file);
        let wrong = |error| DataError::file("write", &path, error);
        let out = AtomicFile::create(&path).map_err(wrong)?;
        let mut tar = tar::Builder::new(Summed::new(out));
        let mut items: Vec<Item> = Vec::new();
        let mut skipped = Vec::new();
        let mut held = 0;
        let mut end = next;
        while let Some((index, sample)) = self.peek(end) {
            let index = *index;
            match sample {
                Ok(sample) => {
                    let size = sample.members.iter().map(|(bytes, _)| bytes.len() as u64);
                    let size: u64 = size.sum();
                    let full = items.len() == spec.samples
                        || (!items.is_empty() && held + size > spec.bytes);
                    if full {
                        break;
                    }
                    held += size;
                    items.push(append(&mut tar, index, sample).map_err(wrong)?);
                }
                // A shard holds exactly the requested samples, or is not written.
                Err(error) if error.is_unavailable() => {
                    return Err(DataError::unavailable(error));
                }
                Err(error) => skipped.push(error.clone()),
            }
            self.ready.pop_front();
            end = index + 1;
            progress(end);
        }
        let summed = tar.into_inner().map_err(wrong)?;
        let header = IndexHeader {
            format: IndexHeader::FORMAT.to_owned(),
            shard_bytes: summed.bytes,
            shard_crc32c: summed.crc,
            samples: 0,
            crc32c: 0,
            rejected: skipped.clone(),
            ignored: 0,
            made_from: self.made_from.clone(),
            range: (next, end),
        };
        let bytes = shards::write_index(header, &items)
            .map_err(|reason| wrong(std::io::Error::other(reason)))?;
        // The index comes first: a shard without one is not ours.
        write_whole(&IndexHeader::path(&path), &bytes)?;
        summed.inner.commit().map_err(wrong)?;
        let shard = PackedShard {
            file: file.to_owned(),
            samples: items.len(),
            bytes: summed.bytes,
            crc32c: summed.crc,
            index_crc32c: crc32c::crc32c(&bytes),
        };
        Ok((shard, skipped, end))
    }

    /// The item at `index` or after it; `None` at the end.
    fn peek(&mut self, index: usize) -> Option<&(usize, Result<Packed, SampleError>)> {
        // Skips items of shards that were kept.
        while self.ready.front().is_some_and(|(at, _)| *at < index) {
            self.ready.pop_front();
        }
        if self.ready.is_empty() {
            let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            let first = self.made.max(index);
            let last = (first + AHEAD * threads).min(self.source.len(self.split));
            let made = parallel(first..last, |at| self.make(at));
            self.ready.extend((first..last).zip(made));
            self.made = last;
        }
        self.ready.front()
    }

    fn make(&self, index: usize) -> Result<Packed, SampleError> {
        let mut sample = self.source.sample(self.split, index)?;
        let bad = |reason: String| SampleError::new(self.source.place(self.split, index), reason);
        let mut members = Vec::new();
        match sample.image.take() {
            Some(picture) => {
                let stored = || self.source.image_bytes(self.split, index);
                members.push(self.picture(picture, &stored, &bad)?);
            }
            None if self.source.holds(self.split, index).images => {
                return Err(bad("no image".to_owned()));
            }
            None => {}
        }
        if let Some(picture) = sample.second_image.take() {
            let stored = || self.source.second_image_bytes(self.split, index);
            let (bytes, kind) = self.picture(picture, &stored, &bad)?;
            members.extend(kind.as_second().map(|kind| (bytes, kind)));
        }
        let json = serde_json::to_vec(&Record::new(sample)).map_err(|e| bad(e.to_string()))?;
        members.push((json, MemberKind::Json));
        Ok(Packed { members })
    }

    /// The file's own bytes, unless the image has to be made smaller.
    fn picture(
        &self,
        picture: RgbImage,
        stored: &dyn Fn() -> Stored,
        bad: &dyn Fn(String) -> SampleError,
    ) -> Result<(Vec<u8>, MemberKind), SampleError> {
        let smaller = match self.spec.shorter_side {
            Some(side) => images::shrink(&picture, side).map_err(bad)?,
            None => None,
        };
        if smaller.is_none()
            && let Some((bytes, extension)) = stored()?
            && let Some(kind) = MemberKind::of(extension)
        {
            return Ok((bytes, kind));
        }
        let picture = smaller.unwrap_or(picture);
        let mut bytes = Cursor::new(Vec::new());
        let (written, kind) = match self.spec.format {
            PackFormat::Png => (
                picture.write_to(&mut bytes, ImageFormat::Png),
                MemberKind::Png,
            ),
            PackFormat::Jpeg(quality) => (
                picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality)),
                MemberKind::Jpg,
            ),
        };
        written.map_err(|error| bad(error.to_string()))?;
        Ok((bytes.into_inner(), kind))
    }
}

/// Appends a sample; its key is its index in the source.
fn append<W: Write>(
    tar: &mut tar::Builder<Summed<W>>,
    index: usize,
    sample: &Packed,
) -> std::io::Result<Item> {
    let key = format!("{index:09}");
    let at = tar.get_ref().bytes;
    let mut members = Vec::new();
    for (bytes, kind) in &sample.members {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("{key}.{}", kind.extension()))?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Fixed, so that the same samples always give the same bytes.
        header.set_mtime(0);
        header.set_cksum();
        let size = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        tar.append(&header, bytes.as_slice())?;
        let padded = u64::from(size).next_multiple_of(BLOCK);
        members.push(Member {
            offset: tar.get_ref().bytes - padded,
            size,
            kind: *kind,
        });
    }
    Ok(Item {
        key,
        at,
        members,
        others: Vec::new(),
    })
}

/// Block size to which members of a tar file are padded.
const BLOCK: u64 = 512;

/// CRC-32C of a whole object.
fn checksum(object: &dyn Object) -> Result<u32, ReadError> {
    let mut stream = store::Stream::new(object);
    let mut piece = vec![0; 1 << 20];
    let mut crc = 0;
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(crc),
            length => crc = crc32c::crc32c_append(crc, &piece[..length]),
        }
    }
}

/// Packed shards are written and verified on local disks.
fn local() -> Storage {
    Storage::new(&RemoteConfig::default())
}

#[cfg(test)]
mod tests;
