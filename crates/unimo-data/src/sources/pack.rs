//! Any source as tar shards: the library part of `unimo data pack`.
//!
//! A folder holds the samples of one split in `000000.tar` and so on, an index beside each shard, and `index.json`, which is
//! written last. The same source and settings give the same bytes, whatever the number of threads, and packing that was
//! interrupted keeps the shards that are whole.

use std::collections::VecDeque;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unimo_batch::{Entailment, TextRole};

use crate::error::{DataError, ReadError, SampleError};
use crate::images;
use crate::settings::range;
use crate::sources::source::{Sample, Source};
use crate::sources::splits::Split;
use crate::store::atomic::{AtomicFile, write_whole};
use crate::store::shards::{self, IndexHeader, Item, Member, MemberKind, MemberLimits};
use crate::store::unpack::Summed;
use crate::store::{self, LocalFile, Object, RemoteConfig, Storage};
use crate::threads::parallel;

/// The file that lists the shards of a folder.
pub const INDEX: &str = "index.json";

/// Largest `index.json` that is read, in bytes.
const LARGEST_PACK_INDEX: u64 = 1 << 30;
/// Samples that are made ahead of the writer, per thread.
const AHEAD: usize = 16;

/// How samples are packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackSpec {
    /// Most samples in a shard.
    pub samples: usize,
    /// Most bytes of members in a shard; a sample that is larger has one to itself.
    pub bytes: u64,
    /// How pictures are written that were resized or have no file.
    pub format: PackFormat,
    /// The shorter side of larger pictures, in pixels; absent: pictures keep their size.
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

/// How a picture is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackFormat {
    /// Without loss.
    Png,
    /// JPEG of this quality, 1 to 100.
    Jpeg(u8),
}

impl PackSpec {
    /// Checks every value.
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

/// `index.json`: what a folder holds.
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
    /// Samples in all shards.
    pub samples: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Whether samples have pictures.
    pub images: bool,
    /// Whether samples have captions.
    pub captions: bool,
    /// The shards in order.
    pub shards: Vec<PackedShard>,
    /// Samples that were left out.
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
    /// Its name in the folder.
    pub file: String,
    /// Samples in it.
    pub samples: usize,
    /// Bytes of it.
    pub bytes: u64,
    /// CRC-32C (RFC 3720) of it.
    pub crc32c: u32,
    /// CRC-32C of the index beside it.
    pub index_crc32c: u32,
}

/// The `.json` member of a packed sample: all of a [`Sample`] but its picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Record {
    /// Tells it from the `.json` of others; the version.
    unimo_sample: u32,
    name: String,
    pub(crate) captions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) phrases: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    boxes: Vec<[f32; 4]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    questions: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statements: Vec<(String, bool)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hypotheses: Vec<(String, Entailment)>,
    /// Whether each of `captions` describes the picture; absent: all do but those that are questions, statements or hypotheses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    describes: Vec<bool>,
}

impl Record {
    const VERSION: u32 = 1;

    fn new(sample: Sample) -> Self {
        Self {
            unimo_sample: Self::VERSION,
            // Questions without answers are told from captions by this alone.
            describes: match sample.roles.contains(&TextRole::Question) {
                true => sample
                    .roles
                    .iter()
                    .map(|role| *role == TextRole::Describes)
                    .collect(),
                false => Vec::new(),
            },
            name: sample.name,
            captions: sample.captions,
            phrases: sample.phrases,
            tags: sample.tags,
            boxes: sample.boxes,
            questions: sample.questions,
            answers: sample.answers,
            statements: sample.statements,
            hypotheses: sample.hypotheses,
        }
    }

    /// The record in a `.json`; none if it is another's.
    pub(crate) fn of(value: &Value) -> Option<Result<Self, String>> {
        let version = value.get("unimo_sample")?;
        Some(match version.as_u64() {
            Some(version) if version == u64::from(Self::VERSION) => {
                Self::deserialize(value).map_err(|error| error.to_string())
            }
            _ => Err(format!(
                "`unimo_sample` is {version}, this version reads {}",
                Self::VERSION
            )),
        })
    }

    /// What each caption says of the picture; empty: all describe it.
    pub(crate) fn roles(&self) -> Vec<TextRole> {
        // Where they are among the captions, they stand there in the same order.
        let mut statements = self.statements.iter().peekable();
        let mut hypotheses = self.hypotheses.iter().peekable();
        let mut questions = self.questions.iter().peekable();
        let of = |text: &String| {
            if let Some((_, holds)) = statements.next_if(|(known, _)| known == text) {
                TextRole::Statement { holds: *holds }
            } else if let Some((_, label)) = hypotheses.next_if(|(known, _)| known == text) {
                TextRole::Hypothesis(*label)
            } else if questions.next_if(|(known, _)| known == text).is_some() {
                TextRole::Question
            } else {
                TextRole::Describes
            }
        };
        let mut roles: Vec<TextRole> = self.captions.iter().map(of).collect();
        for (role, describes) in roles.iter_mut().zip(&self.describes) {
            if !describes && *role == TextRole::Describes {
                *role = TextRole::Question;
            }
        }
        match roles.iter().all(|role| *role == TextRole::Describes) {
            true => Vec::new(),
            false => roles,
        }
    }

    /// The sample without its pictures.
    pub(crate) fn into_sample(self) -> Sample {
        Sample {
            roles: self.roles(),
            name: self.name,
            captions: self.captions,
            phrases: self.phrases,
            tags: self.tags,
            boxes: self.boxes,
            questions: self.questions,
            answers: self.answers,
            statements: self.statements,
            hypotheses: self.hypotheses,
            ..Sample::default()
        }
    }
}

/// A sample as it goes into a shard.
struct Packed {
    /// Its pictures, then all else, in the order of the members.
    members: Vec<(Vec<u8>, MemberKind)>,
}

/// A picture's file as it is stored, with the extension of its format.
type Stored = Result<Option<(Vec<u8>, &'static str)>, SampleError>;

/// Packs a split into a folder. `progress` is told the number of items that are done, of how many.
///
/// Shards that are there are kept if they were made from the same description and settings and their checksums fit: a source
/// that changed while it describes itself as before has to go into another folder.
///
/// # Errors
///
/// The folder cannot be written, holds something else, or no sample can be used.
pub fn pack(
    source: &dyn Source,
    split: Split,
    folder: &Path,
    spec: &PackSpec,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PackIndex, DataError> {
    spec.validate()?;
    fs::create_dir_all(folder).map_err(|error| DataError::file("create", folder, error))?;
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

/// Raised when the same source and settings begin to give other shards. 2: pairs of pictures; JPEGs are decoded as Pillow does.
const PACKER: u32 = 2;

/// What shards must have in common to lie in one folder.
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
    /// Samples that are made and not yet written, with their indices.
    ready: VecDeque<(usize, Result<Packed, SampleError>)>,
    /// The index after the last one in `ready`.
    made: usize,
}

type Shard = (PackedShard, Vec<SampleError>, usize);

impl Packer<'_> {
    /// A shard that an earlier run wrote, if it is whole.
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
                // What is written is what was asked for, or nothing.
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
        summed.inner.commit().map_err(wrong)?;
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
        write_whole(&IndexHeader::path(&path), &bytes)?;
        let shard = PackedShard {
            file: file.to_owned(),
            samples: items.len(),
            bytes: summed.bytes,
            crc32c: summed.crc,
            index_crc32c: crc32c::crc32c(&bytes),
        };
        Ok((shard, skipped, end))
    }

    /// The item at `index` or after it; none at the end.
    fn peek(&mut self, index: usize) -> Option<&(usize, Result<Packed, SampleError>)> {
        // Items of shards that were kept.
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
                return Err(bad("no picture".to_owned()));
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

    /// The file's own bytes, unless the picture is to be smaller.
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
        // The same samples give the same bytes, whenever they are packed.
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

/// Bytes that members of a tar file are padded to.
const BLOCK: u64 = 512;

/// CRC-32C of all of an object.
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

/// What is packed is written and verified on local disks.
fn local() -> Storage {
    Storage::new(&RemoteConfig::default())
}

/// Reads an `index.json`, at a path or URL.
///
/// # Errors
///
/// It cannot be read or is no index of packed shards.
pub fn read_pack(storage: &Storage, path: &Path) -> Result<PackIndex, DataError> {
    let read = || {
        let object = storage.open(path)?;
        let index = parse_pack(&store::read_all(&*object, LARGEST_PACK_INDEX)?)?;
        Ok(index)
    };
    read().map_err(|error| DataError::unread(path, error))
}

/// Reads the content of an `index.json`.
///
/// # Errors
///
/// It is no index of packed shards.
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

/// Reads all of a packed folder again and compares it with its checksums.
///
/// # Errors
///
/// What is missing or damaged, every shard named.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;
    use crate::images::Limits;
    use crate::sources::fixtures::{NLVR, folder, open};
    use crate::sources::scenes::ScenesConfig;
    use crate::sources::source::SourceConfig;
    use crate::sources::webdataset::WebDatasetConfig;
    use std::sync::Arc;

    const LIMITS: Limits = Limits::full_size(1_000_000);

    fn scenes(train: usize) -> Arc<dyn Source> {
        let config = ScenesConfig {
            train,
            val: 8,
            size: 32,
            ..ScenesConfig::default()
        };
        config.open(&LIMITS).unwrap()
    }

    fn reopened(folder: &Path) -> Arc<dyn Source> {
        let config = WebDatasetConfig {
            train: vec![folder.to_owned()],
            ..WebDatasetConfig::default()
        };
        config.validate("data.webdataset").unwrap();
        config.open(&LIMITS).unwrap()
    }

    fn small() -> PackSpec {
        PackSpec {
            samples: 7,
            ..PackSpec::default()
        }
    }

    fn quietly(_: usize, _: usize) {}

    /// A sample of packed shards as its source had it: which picture it shows is known there by its content.
    fn read(again: &dyn Source, index: usize) -> Sample {
        let sample = again.sample(Split::Train, index).unwrap();
        assert!(sample.picture_id.is_some());
        Sample {
            picture_id: None,
            ..sample
        }
    }

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read(&path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    /// A source of which some samples are broken.
    struct Broken(Arc<dyn Source>, fn(usize) -> bool);

    impl Source for Broken {
        fn len(&self, split: Split) -> usize {
            self.0.len(split)
        }

        fn describe(&self) -> String {
            "partly broken".to_owned()
        }

        fn place(&self, split: Split, index: usize) -> Place {
            self.0.place(split, index)
        }

        fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
            self.0.captions(split, index)
        }

        fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
            self.0.image(split, index)
        }

        fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
            if (self.1)(index) {
                return Err(SampleError::new(
                    self.place(split, index),
                    "broken".to_owned(),
                ));
            }
            self.0.sample(split, index)
        }
    }

    /// Whatever is packed is read again: the same samples in the same order, whatever the size of the shards.
    #[test]
    fn what_is_packed_is_what_is_read() {
        for count in [1, 7, 40] {
            for (samples, bytes) in [(1000, 1 << 30), (7, 1 << 30), (1000, 6000), (1000, 1)] {
                let folder = tempfile::tempdir().unwrap();
                let source = scenes(count.max(8));
                let spec = PackSpec {
                    samples,
                    bytes,
                    ..PackSpec::default()
                };
                let index =
                    pack(&*source, Split::Train, folder.path(), &spec, &mut quietly).unwrap();
                let items = source.len(Split::Train);
                assert_eq!((index.samples, index.skipped.len()), (items, 0));
                let again = reopened(folder.path());
                let sizes: Vec<usize> = index.shards.iter().map(|shard| shard.samples).collect();
                assert_eq!(again.shards(Split::Train), sizes);
                assert!(sizes.iter().all(|size| *size <= samples));
                assert_eq!(bytes == 1, sizes.len() == items);
                assert_eq!((again.len(Split::Train), again.len(Split::Val)), (items, 0));
                for at in 0..items {
                    let sample = source.sample(Split::Train, at).unwrap();
                    assert_eq!(read(&*again, at), sample);
                    assert_eq!(again.captions(Split::Train, at).unwrap(), sample.captions);
                    assert_eq!(again.phrases(Split::Train, at).unwrap(), sample.phrases);
                    assert_eq!(again.tags(Split::Train, at).unwrap(), sample.tags);
                }
                assert_eq!(verify_pack(folder.path()).unwrap(), index);
            }
        }
    }

    #[test]
    fn both_pictures_of_a_pair_are_packed_as_they_are_stored() {
        let list = r#"{"sentence": "Both have dogs.", "identifier": "dev-1-0-0", "label": "True"}
{"sentence": "One has a cat.", "identifier": "dev-2-0-0", "label": "False"}
{"sentence": "A tower.", "label": "True", "images": ["a.png"]}
"#;
        let pictures = folder(&[
            ("n.json", list),
            ("i/dev-1-0-img0.png", "40x20"),
            ("i/dev-1-0-img1.png", "20x60"),
            ("i/dev-2-0-img0.png", "5x2"),
            ("i/a.png", "2x2"),
        ]);
        let source = open(&pictures, NLVR).unwrap();
        let shrunk = PackSpec {
            shorter_side: Some(8),
            ..PackSpec::default()
        };
        for (spec, sizes) in [
            (PackSpec::default(), [(40, 20), (20, 60)]),
            (shrunk, [(16, 8), (8, 24)]),
        ] {
            let out = tempfile::tempdir().unwrap();
            let index = pack(&*source, Split::Train, out.path(), &spec, &mut quietly).unwrap();
            assert_eq!((index.samples, index.skipped.len()), (2, 1));
            assert!(index.skipped[0].reason.contains("dev-2-0-img1.png"));
            let again = reopened(out.path());
            let pair = again.sample(Split::Train, 0).unwrap();
            let (left, right) = (pair.image.as_ref().unwrap(), pair.second_image.as_ref());
            assert_eq!([left.dimensions(), right.unwrap().dimensions()], sizes);
            if spec.shorter_side.is_none() {
                assert_eq!(read(&*again, 0), source.sample(Split::Train, 0).unwrap());
                let file = fs::read(pictures.path().join("i/dev-1-0-img1.png")).unwrap();
                let stored = again.second_image_bytes(Split::Train, 0).unwrap();
                assert_eq!(stored, Some((file, "png")));
            }
            let single = again.sample(Split::Train, 1).unwrap();
            assert_eq!(single.second_image, None);
            assert_eq!(single.statements, [("A tower.".to_owned(), true)]);
            assert_eq!(verify_pack(out.path()).unwrap(), index);
        }
    }

    #[test]
    fn what_texts_say_of_their_pictures_is_packed_too() {
        let questions = r#"{"questions": [
            {"image_id": 1, "question": "What is it?", "question_id": 1},
            {"image_id": 1, "question": "Is it red?", "question_id": 2}]}"#;
        let hypotheses = r#"{"Flickr30K_ID": "1", "gold_label": "neutral", "sentence2": "Two women."}
{"Flickr30K_ID": "1", "gold_label": "entailment", "sentence2": "Women."}
{"Flickr30K_ID": "1", "gold_label": "contradiction", "sentence2": "Women."}
"#;
        let pictures = folder(&[
            ("q.json", questions),
            ("s.json", hypotheses),
            (
                "n.json",
                r#"{"sentence": "A tower.", "label": "False", "images": ["1.jpg"]}"#,
            ),
            ("i/1.jpg", "4x2"),
        ]);
        let part = "path = \"s.json\"\nimages = \"i\"\n";
        let vqa = "questions = \"q.json\"\nimages = \"i\"\nimage = \"{id}.jpg\"\n";
        let all = |kind: &str, part: &str| {
            format!("source = \"{kind}\"\n[{kind}]\nval_fraction = 0\n[{kind}.train]\n{part}")
        };
        for (data, roles) in [
            (NLVR.to_owned(), vec![TextRole::Statement { holds: false }]),
            (all("vqa", vqa), vec![TextRole::Question; 2]),
            (
                all("snli_ve", part),
                vec![
                    TextRole::Hypothesis(Entailment::Neutral),
                    TextRole::Hypothesis(Entailment::Entailed),
                    TextRole::Hypothesis(Entailment::Contradicted),
                ],
            ),
        ] {
            let source = open(&pictures, &data).unwrap();
            assert_eq!(source.roles(Split::Train, 0).unwrap(), roles);
            let out = tempfile::tempdir().unwrap();
            pack(&*source, Split::Train, out.path(), &small(), &mut quietly).unwrap();
            let again = reopened(out.path());
            assert_eq!(again.roles(Split::Train, 0).unwrap(), roles);
            assert_eq!(read(&*again, 0), source.sample(Split::Train, 0).unwrap());
        }
    }

    #[test]
    fn packing_again_keeps_what_is_whole_and_gives_the_same_bytes() {
        let source = Broken(scenes(40), |index| index % 9 == 2);
        let whole = tempfile::tempdir().unwrap();
        let go = |folder: &Path, progress: &mut dyn FnMut(usize, usize)| {
            pack(&source, Split::Train, folder, &small(), progress).unwrap()
        };
        let index = go(whole.path(), &mut quietly);
        assert_eq!((index.samples, index.skipped.len()), (35, 5));
        assert_eq!(index.skipped[1].place.line, 11);
        let expected = files(whole.path());

        // Interrupted in the third shard of five; the second one is damaged as well, and one has no index.
        let other = tempfile::tempdir().unwrap();
        go(other.path(), &mut quietly);
        fs::remove_file(other.path().join(INDEX)).unwrap();
        fs::remove_file(other.path().join("000003.tar.index")).unwrap();
        let damaged = other.path().join("000001.tar");
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[700] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let mut steps = Vec::new();
        let again = go(other.path(), &mut |done, _| steps.push(done));
        assert_eq!(again, index);
        assert_eq!(files(other.path()), expected);
        // Shards that are kept are one step, the others one per item.
        assert_eq!(steps[0], 8);
        assert!(steps.contains(&9) && steps.len() < 40, "{steps:?}");
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        pack(
            &*scenes(10),
            Split::Train,
            folder.path(),
            &small(),
            &mut quietly,
        )
        .unwrap();
        let message = pack(
            &*scenes(11),
            Split::Train,
            folder.path(),
            &small(),
            &mut quietly,
        )
        .unwrap_err()
        .to_string();
        assert!(message.contains("something else"), "{message}");
        let nothing = Broken(scenes(10), |_| true);
        let empty = tempfile::tempdir().unwrap();
        let message = pack(&nothing, Split::Train, empty.path(), &small(), &mut quietly)
            .unwrap_err()
            .to_string();
        assert!(message.contains("broken"), "{message}");
    }

    #[test]
    fn verifying_names_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        pack(
            &*scenes(30),
            Split::Train,
            folder.path(),
            &small(),
            &mut quietly,
        )
        .unwrap();
        let flip = |name: &str, byte: usize| {
            let mut bytes = fs::read(at(name)).unwrap();
            bytes[byte] ^= 1;
            fs::write(at(name), bytes).unwrap();
        };
        flip("000000.tar", 600);
        flip("000001.tar.index", 300);
        fs::remove_file(at("000002.tar")).unwrap();
        let cut = fs::read(at("000003.tar")).unwrap();
        fs::write(at("000003.tar"), &cut[..cut.len() - 512]).unwrap();
        let message = verify_pack(folder.path()).unwrap_err().to_string();
        for part in [
            "4 of 5 shards",
            "000000.tar: its checksum",
            "000001.tar: the checksum of its index",
            "000002.tar",
            "000003.tar: ",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn larger_pictures_are_brought_down() {
        let folder = tempfile::tempdir().unwrap();
        let spec = PackSpec {
            format: PackFormat::Jpeg(90),
            shorter_side: Some(16),
            ..PackSpec::default()
        };
        let source = scenes(8);
        pack(&*source, Split::Train, folder.path(), &spec, &mut quietly).unwrap();
        let again = reopened(folder.path());
        let picture = again.image(Split::Train, 0).unwrap().unwrap();
        assert_eq!(picture.dimensions(), (16, 16));
        assert_eq!(
            again.image_bytes(Split::Train, 0).unwrap().unwrap().1,
            "jpg"
        );
        for (spec, key) in [
            (
                PackSpec {
                    samples: 0,
                    ..small()
                },
                "pack.samples",
            ),
            (
                PackSpec {
                    bytes: 0,
                    ..small()
                },
                "pack.bytes",
            ),
            (
                PackSpec {
                    format: PackFormat::Jpeg(0),
                    ..small()
                },
                "pack.format",
            ),
            (
                PackSpec {
                    shorter_side: Some(1),
                    ..small()
                },
                "pack.shorter_side",
            ),
        ] {
            let message = spec.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn an_index_that_leads_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let index = pack(
            &*scenes(8),
            Split::Train,
            folder.path(),
            &small(),
            &mut quietly,
        )
        .unwrap();
        for name in ["../a.tar", "/a.tar", "", "..", "http://a/b.tar", "a\\b.tar"] {
            let mut index = index.clone();
            index.shards[0].file = name.to_owned();
            let bytes = serde_json::to_vec(&index).unwrap();
            assert!(
                parse_pack(&bytes).unwrap_err().contains("no name"),
                "{name}"
            );
        }
    }
}
