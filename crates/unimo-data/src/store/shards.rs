//! What lies where in a tar shard, by a scan of its headers or from the index that was written beside it.
//!
//! Members are grouped by key as the webdataset library does: the name up to the first dot of its last part. What follows is the
//! extension; members whose extension tells nothing by itself are kept with it, as names may hold dots. Nothing is ever unpacked
//! under a name from an archive, and no number from a file is used before it is checked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Place, ReadError, ReadKind, SampleError};
use crate::store::paths::is_hidden;
use crate::store::{self, Object, Storage};

/// What a member is to a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// A picture, `jpg` or `jpeg`.
    Jpg,
    /// A picture.
    Png,
    /// A picture.
    Webp,
    /// The second picture of a pair, `second.jpg` or `second.jpeg`.
    SecondJpg,
    /// The second picture of a pair.
    SecondPng,
    /// The second picture of a pair.
    SecondWebp,
    /// An object with captions and more.
    Json,
    /// A caption.
    Txt,
    /// The number or name of a class.
    Cls,
}

impl MemberKind {
    pub(crate) fn of(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "jpe" | "jfif" | "pjpeg" => Self::Jpg,
            "png" => Self::Png,
            "webp" => Self::Webp,
            "second.jpg" | "second.jpeg" => Self::SecondJpg,
            "second.png" => Self::SecondPng,
            "second.webp" => Self::SecondWebp,
            "json" => Self::Json,
            "txt" => Self::Txt,
            "cls" => Self::Cls,
            _ => return None,
        })
    }

    /// The extension of its name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::SecondJpg => "second.jpg",
            Self::SecondPng => "second.png",
            Self::SecondWebp => "second.webp",
            Self::Json => "json",
            Self::Txt => "txt",
            Self::Cls => "cls",
        }
    }

    /// Whether it is a picture, the only one or the first of two.
    pub fn is_first_image(self) -> bool {
        matches!(self, Self::Jpg | Self::Png | Self::Webp)
    }

    /// Whether it is the second of two pictures.
    pub fn is_second_image(self) -> bool {
        matches!(self, Self::SecondJpg | Self::SecondPng | Self::SecondWebp)
    }

    /// Whether it is a picture.
    pub fn is_image(self) -> bool {
        self.is_first_image() || self.is_second_image()
    }

    /// The second picture of a pair in the same format; none for what is no picture or is the second one.
    pub(crate) fn as_second(self) -> Option<Self> {
        Some(match self {
            Self::Jpg => Self::SecondJpg,
            Self::Png => Self::SecondPng,
            Self::Webp => Self::SecondWebp,
            _ => return None,
        })
    }

    /// Whether a sample may have only one of the two.
    pub(crate) fn excludes(self, other: Self) -> bool {
        self == other
            || (self.is_first_image() && other.is_first_image())
            || (self.is_second_image() && other.is_second_image())
    }
}

/// A member of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(MemberKind, u64, u32)", into = "(MemberKind, u64, u32)")]
pub struct Member {
    /// Where its bytes begin in the shard.
    pub offset: u64,
    /// How many there are.
    pub size: u32,
    /// What it is.
    pub kind: MemberKind,
}

impl From<(MemberKind, u64, u32)> for Member {
    fn from((kind, offset, size): (MemberKind, u64, u32)) -> Self {
        Self { offset, size, kind }
    }
}

impl From<Member> for (MemberKind, u64, u32) {
    fn from(member: Member) -> Self {
        (member.kind, member.offset, member.size)
    }
}

/// A sample of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What its members' names have in common.
    pub key: String,
    /// Where the header of its first member begins.
    pub at: u64,
    /// Its members in the shard's order.
    pub members: Vec<Member>,
    /// Members that may be of it, or of samples of their own, or of no use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

/// A member whose extension tells nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// Its name behind the first dot.
    pub extension: String,
    /// Where its header begins.
    pub at: u64,
    /// Where its bytes begin.
    pub offset: u64,
    /// How many there are.
    pub size: u32,
}

/// What lies where in a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// The samples in the order of their first members.
    pub items: Vec<Item>,
    /// What cannot be used; the line is the offset of the header.
    pub rejected: Vec<SampleError>,
    /// Hidden members and those whose names have no extension.
    pub ignored: usize,
}

/// Largest members that are used, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemberLimits {
    /// Of a picture.
    pub image: u64,
    /// Of anything else.
    pub text: u64,
}

const BLOCK: u64 = 512;
/// Bytes that a scan reads at once: headers of small members lie together, and those of large ones far apart.
const WINDOW: usize = 8 << 10;
/// Longest name or PAX header.
const LONGEST_EXTENSION: u64 = 64 << 10;
/// Most members that a shard may have.
const MOST_MEMBERS: usize = 1 << 22;
/// Unusable members after which the rest of a shard is given up.
const MOST_REJECTED: usize = 10_000;

/// Reads the headers of a tar file.
///
/// Damage never fails: what was found before it is kept, and why there is no more is listed.
///
/// # Errors
///
/// The file could not be read now: nothing is known of what is in it.
pub fn scan(object: &dyn Object, limits: MemberLimits) -> Result<ShardIndex, ReadError> {
    let mut scan = Scan {
        object,
        limits,
        window: Vec::new(),
        window_at: 0,
        at: 0,
        index: ShardIndex::default(),
        by_key: HashMap::new(),
        broken: Vec::new(),
        members: 0,
    };
    if let Err(error) = scan.run() {
        if error.kind != ReadKind::Damaged {
            return Err(error.of_opened());
        }
        let at = scan.at;
        scan.reject(at, error.reason);
    }
    let Scan {
        mut index, broken, ..
    } = scan;
    let mut broken = broken.into_iter();
    // A sample that lost a member is listed with that member.
    index
        .items
        .retain(|_| !broken.next().is_some_and(|broken| broken));
    Ok(index)
}

struct Scan<'a> {
    object: &'a dyn Object,
    limits: MemberLimits,
    window: Vec<u8>,
    window_at: u64,
    /// The header that is being read.
    at: u64,
    index: ShardIndex,
    by_key: HashMap<String, usize>,
    /// Per item, whether a member of it cannot be used.
    broken: Vec<bool>,
    members: usize,
}

/// What extension headers say of the member after them.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    /// Where the first of them begins.
    at: Option<u64>,
}

impl Scan<'_> {
    /// `length` bytes from `offset` on; the caller bounds `length`.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], ReadError> {
        let inside = offset >= self.window_at
            && offset + length as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let rest = self.object.size().saturating_sub(offset);
            if rest < length as u64 {
                return Err("the file ends inside a header".into());
            }
            let piece = rest.min(WINDOW.max(length) as u64) as usize;
            self.window = self.object.read(offset, piece)?;
            self.window_at = offset;
        }
        let start = (offset - self.window_at) as usize;
        Ok(&self.window[start..start + length])
    }

    fn run(&mut self) -> Result<(), ReadError> {
        let size = self.object.size();
        let mut extension = Extension::default();
        loop {
            if self.at == size {
                return Err("no end-of-archive marker: the shard may be cut short".into());
            }
            let at = self.at;
            let block = self.bytes(at, BLOCK as usize)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let header = tar::Header::from_byte_slice(block).clone();
            check_sum(&header)?;
            let kind = header.entry_type();
            let extends = kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions();
            let stated = header
                .entry_size()
                .map_err(|_| "a header without a readable size".to_owned())?;
            let bytes = match extension.size {
                Some(bytes) if !extends => bytes,
                _ => stated,
            };
            let mut start = at + BLOCK;
            if header.as_gnu().is_some_and(tar::GnuHeader::is_extended) {
                start = self.after_sparse_map(start)?;
            }
            let first = extension.at.unwrap_or(at);
            if extends {
                if bytes > LONGEST_EXTENSION {
                    return Err(format!("an extension header of {bytes} bytes").into());
                }
                let content = self.bytes(start, bytes as usize)?.to_vec();
                extension.take(kind, content)?;
                extension.at = Some(first);
            } else {
                let about = std::mem::take(&mut extension);
                self.member(first, start, bytes, &header, about)?;
            }
            let padded = bytes
                .checked_next_multiple_of(BLOCK)
                .and_then(|padded| start.checked_add(padded));
            self.at = match padded {
                Some(next) => next.min(size),
                None => size,
            };
        }
    }

    fn after_sparse_map(&mut self, mut at: u64) -> Result<u64, ReadError> {
        /// Where an extended sparse header says whether another follows.
        const MORE: usize = 504;
        loop {
            let block = self.bytes(at, BLOCK as usize)?;
            at += BLOCK;
            if block[MORE] == 0 {
                return Ok(at);
            }
        }
    }

    /// Takes a member. An error ends the scan.
    fn member(
        &mut self,
        at: u64,
        start: u64,
        bytes: u64,
        header: &tar::Header,
        extension: Extension,
    ) -> Result<(), String> {
        self.members += 1;
        if self.members > MOST_MEMBERS {
            return Err(format!("more than {MOST_MEMBERS} members"));
        }
        if self.index.rejected.len() >= MOST_REJECTED {
            return Err(format!("more than {MOST_REJECTED} unusable members"));
        }
        let rest = self.object.size().saturating_sub(start);
        let cut = (bytes > rest)
            .then(|| format!("the member claims {bytes} bytes, the file has {rest} more"));
        let name = extension
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let used = self.named_member(at, (start, bytes), &name, header, extension.sparse, &cut);
        if let Err(reason) = used {
            self.reject(at, reason);
        }
        match cut {
            // Listed above, unless the member is of no interest.
            Some(reason)
                if self
                    .index
                    .rejected
                    .last()
                    .is_none_or(|e| e.place.line != at) =>
            {
                Err(reason)
            }
            Some(_) => Err("nothing can be read from here on".to_owned()),
            None => Ok(()),
        }
    }

    fn named_member(
        &mut self,
        at: u64,
        (start, bytes): (u64, u64),
        name: &[u8],
        header: &tar::Header,
        sparse: bool,
        cut: &Option<String>,
    ) -> Result<(), String> {
        let kind = header.entry_type();
        if kind.is_dir() {
            return Ok(());
        }
        let name = std::str::from_utf8(name).map_err(|_| "a name that is not UTF-8".to_owned())?;
        let shown: String = name.chars().take(200).collect();
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(format!("{shown:?}: a name that leads out of the archive"));
        }
        if kind.is_gnu_sparse() || sparse {
            return Err(format!("{shown:?}: a sparse file"));
        }
        if !(kind.is_file() || kind.is_contiguous()) {
            return Err(format!("{shown:?}: a link or device, not a file"));
        }
        let Some((key, extension)) = key_of(name) else {
            self.index.ignored += 1;
            return Ok(());
        };
        let member = MemberKind::of(extension);
        let size = u32::try_from(bytes);
        if member.is_none() && (cut.is_some() || size.is_err()) {
            self.index.ignored += 1;
            return Ok(());
        }
        let slot = match self.by_key.get(key) {
            Some(slot) => *slot,
            None => {
                self.index.items.push(Item {
                    key: key.to_owned(),
                    at,
                    members: Vec::new(),
                    others: Vec::new(),
                });
                self.broken.push(false);
                self.by_key
                    .insert(key.to_owned(), self.index.items.len() - 1);
                self.index.items.len() - 1
            }
        };
        let item = &mut self.index.items[slot];
        let Some(member) = member else {
            item.others.push(Other {
                extension: extension.to_owned(),
                at,
                offset: start,
                size: size.unwrap_or_default(),
            });
            return Ok(());
        };
        if item.members.iter().any(|other| other.kind.excludes(member)) {
            return Err(format!("{shown:?}: the sample has such a member already"));
        }
        let most = match member.is_image() {
            true => self.limits.image,
            false => self.limits.text,
        };
        let problem = match cut {
            Some(reason) => Some(reason.clone()),
            None if bytes > most => Some(format!("{bytes} bytes are more than {most}")),
            None => None,
        };
        if let Some(problem) = problem {
            self.broken[slot] = true;
            return Err(format!("{shown:?}: {problem}"));
        }
        let size = size.map_err(|_| format!("{shown:?}: {bytes} bytes"))?;
        item.members.push(Member {
            offset: start,
            size,
            kind: member,
        });
        Ok(())
    }

    fn reject(&mut self, at: u64, reason: String) {
        self.index.rejected.push(SampleError::new(
            Place {
                file: self.object.name().to_owned(),
                line: at,
            },
            reason,
        ));
    }
}

impl Extension {
    fn take(&mut self, kind: tar::EntryType, content: Vec<u8>) -> Result<(), String> {
        if kind.is_gnu_longname() {
            let end = content.iter().position(|byte| *byte == 0);
            self.name = Some(content[..end.unwrap_or(content.len())].to_vec());
        } else if kind.is_pax_local_extensions() {
            for record in tar::PaxExtensions::new(&content) {
                let record = record.map_err(|_| "a malformed PAX header".to_owned())?;
                match record.key_bytes() {
                    b"path" => self.name = Some(record.value_bytes().to_vec()),
                    b"size" => {
                        let size = record.value().ok().and_then(|size| size.parse().ok());
                        self.size = Some(size.ok_or("a PAX header with an unreadable size")?);
                    }
                    key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn check_sum(header: &tar::Header) -> Result<(), String> {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| match FIELD.contains(&at) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(()),
        _ => Err("no tar header, or a damaged one: its checksum is wrong".to_owned()),
    }
}

/// The key and the extension of a member's name; none for members that are not used.
fn key_of(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    // Hidden files, such as those that macOS adds, and what webdataset keeps for itself.
    if name.split('/').any(is_hidden) || (name.starts_with("__") && name.ends_with("__")) {
        return None;
    }
    Some((&name[..dot], &name[dot + 1..]))
}

/// The first line of an index that lies beside a shard; the samples follow, one a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexHeader {
    /// [`IndexHeader::FORMAT`].
    pub format: String,
    /// Bytes of the shard.
    pub shard_bytes: u64,
    /// CRC-32C (RFC 3720) of the shard.
    pub shard_crc32c: u32,
    /// Lines that follow.
    pub samples: usize,
    /// CRC-32C of the lines that follow.
    pub crc32c: u32,
    /// What cannot be used, as far as the shard's maker knew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<SampleError>,
    /// Members whose names tell nothing to us, as far as the shard's maker knew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ignored: usize,
    /// What the shard was made from: whatever its maker compares before it keeps the shard.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub made_from: String,
    /// Items of the origin that went into the shard or were left out: the first, and the one after the last.
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

    /// Where the index of a shard lies.
    pub fn path(shard: &Path) -> PathBuf {
        let mut name = shard.as_os_str().to_owned();
        name.push(".index");
        name.into()
    }
}

/// Raised when a scan begins to find other samples in the same shard.
const SCANNER: u32 = 3;

/// What an index is of: the shard as it is now, and all else that the result of a scan depends on.
pub(crate) fn identity(shard: &dyn Object, limits: MemberLimits) -> String {
    format!(
        "{} {} {} scan {SCANNER} {limits:?}",
        shard.name(),
        shard.size(),
        shard.version()
    )
}

/// An index as it is written beside a shard: the header is completed by what follows from the samples.
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

/// Reads the index that lies beside a shard; none where there is none.
///
/// # Errors
///
/// It is damaged or of another shard, or could not be read.
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

/// Reads an index of a shard of the given size.
///
/// # Errors
///
/// It is damaged or of another shard.
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MemberLimits = MemberLimits {
        image: 1 << 20,
        text: 1000,
    };

    fn scanned(bytes: &[u8]) -> ShardIndex {
        let object = store::InMemory {
            name: "a.tar".to_owned(),
            bytes: bytes.to_vec(),
        };
        scan(&object, LIMITS).unwrap()
    }

    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn found(index: &ShardIndex) -> Vec<(&str, Vec<&str>)> {
        let of = |item: &Item| {
            let members = item.members.iter();
            members.map(|member| member.kind.extension()).collect()
        };
        let items = index.items.iter();
        items.map(|item| (&*item.key, of(item))).collect()
    }

    fn reasons(index: &ShardIndex) -> Vec<(u64, &str)> {
        let rejected = index.rejected.iter();
        rejected
            .map(|error| (error.place.line, &*error.reason))
            .collect()
    }

    #[test]
    fn members_of_a_key_are_one_sample() {
        let long = format!("{}/b.jpg", "deep".repeat(60));
        let bytes = tar_of(&[
            ("a/1.jpg", b"one"),
            ("a/1.json", b"{}"),
            ("a/2.x.txt", b"other"),
            ("a/2.TXT", b"two"),
            ("a/2.webp", b"picture"),
            (&long, b"long"),
            ("a/1.txt", b"late"),
            ("a/.hidden.jpg", b"x"),
            ("__MACOSX/a/._1.jpg", b"x"),
            ("@eaDir/1.jpg", b"x"),
            ("3.jfif", b"three"),
            ("__meta.json__", b"x"),
            ("README", b"x"),
        ]);
        let index = scanned(&bytes);
        assert_eq!(
            found(&index),
            [
                ("a/1", vec!["jpg", "json", "txt"]),
                ("a/2", vec!["txt", "webp"]),
                (&long[..long.len() - 4], vec!["jpg"]),
                ("3", vec!["jpg"]),
            ]
        );
        assert_eq!(index.ignored, 5);
        let others: Vec<&str> = index.items[1]
            .others
            .iter()
            .map(|o| &*o.extension)
            .collect();
        assert_eq!(others, ["x.txt"]);
        assert_eq!(index.items[1].at, index.items[1].others[0].at);
        assert!(index.rejected.is_empty(), "{:?}", index.rejected);
        let content = |member: &Member| &bytes[member.offset as usize..][..member.size as usize];
        assert_eq!(content(&index.items[0].members[2]), b"late");
        assert_eq!(content(&index.items[2].members[0]), b"long");
    }

    #[test]
    fn hostile_members_are_listed() {
        let mut bytes = Vec::new();
        let mut at = Vec::new();
        let mut put = |header: tar::Header, content: &[u8]| {
            at.push(bytes.len() as u64);
            bytes.extend(header.as_bytes());
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        };
        let file = tar::EntryType::Regular;
        put(header("1.jpg", file, 3), b"one");
        put(header("1.jpg", file, 3), b"two");
        put(header("1.png", file, 3), b"two");
        put(header("/etc/passwd.txt", file, 1), b"x");
        put(header("a/../../b.txt", file, 1), b"x");
        put(header("2.jpg", tar::EntryType::Symlink, 0), b"");
        put(header("3.jpg", tar::EntryType::Link, 0), b"");
        put(header("4.jpg", tar::EntryType::Fifo, 0), b"");
        put(header("5.jpg", tar::EntryType::GNUSparse, 1), b"x");
        put(header("6.txt", file, 1001), &[b'x'; 1001]);
        let mut pax = header("pax", tar::EntryType::XHeader, 22);
        pax.set_cksum();
        put(pax, b"22 GNU.sparse.major=1\n");
        put(header("7.jpg", file, 1), b"x");
        put(header("8.txt", file, 1), b"x");
        put(header("9.jpg", file, 1 << 40), b"x");
        let index = scanned(&bytes);
        let has = ["jpg"];
        assert_eq!(found(&index), [("1", has.to_vec()), ("8", vec!["txt"])]);
        let expected = [
            (1, "already"),
            (2, "already"),
            (3, "out of the archive"),
            (4, "out of the archive"),
            (5, "link"),
            (6, "link"),
            (7, "device"),
            (8, "sparse"),
            (9, "more than 1000"),
            (10, "sparse"),
            (13, "claims 1099511627776 bytes"),
            (13, "from here on"),
        ];
        let reasons = reasons(&index);
        assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
        for ((line, reason), (put, part)) in reasons.into_iter().zip(expected) {
            assert_eq!(line, at[put], "{reason}");
            assert!(reason.contains(part), "{reason}");
        }
    }

    /// Every cut of a good shard keeps the samples before it and says that there is one.
    #[test]
    fn cut_short_anywhere() {
        let bytes = tar_of(&[("1.txt", b"one"), ("2.txt", &[b'x'; 600]), ("3.txt", b"3")]);
        for end in 0..bytes.len() - 1023 {
            let index = scanned(&bytes[..end]);
            let whole = [512 + 3, 1536 + 600, 3072 + 1];
            let expected = whole.iter().filter(|whole| **whole <= end).count();
            assert_eq!(index.items.len(), expected, "cut at {end}");
            assert!(!index.rejected.is_empty(), "cut at {end}");
        }
        assert!(scanned(&bytes).rejected.is_empty());
    }

    /// Damage anywhere ends in samples that lie inside the shard, or in none.
    #[test]
    fn damage_anywhere() {
        let bytes = tar_of(&[("1.txt", b"one"), ("2.txt", b"two"), ("3.jpg", b"3")]);
        for at in 0..bytes.len() {
            for damage in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= damage;
                let index = scanned(&damaged);
                let members = index.items.iter().flat_map(|item| &item.members);
                for member in members {
                    assert!(member.offset + u64::from(member.size) <= bytes.len() as u64);
                }
                // The last bytes of the field with the checksum say nothing.
                let within = at % 1024;
                let header = within < 512 && at < 3072 && !(148..156).contains(&within);
                assert!(!header || !index.rejected.is_empty(), "byte {at}");
            }
        }
    }

    #[test]
    fn an_endless_chain_of_extensions_and_absurd_sizes_end() {
        let mut bytes = Vec::new();
        bytes.extend(header("L", tar::EntryType::GNULongName, 1 << 30).as_bytes());
        assert!(reasons(&scanned(&bytes))[0].1.contains("extension header"));

        let pax = b"29 size=18446744073709551615\n";
        let mut bytes = header("x", tar::EntryType::XHeader, pax.len() as u64)
            .as_bytes()
            .to_vec();
        bytes.extend(pax);
        bytes.resize(1024, 0);
        bytes.extend(header("1.jpg", tar::EntryType::Regular, 0).as_bytes());
        let index = scanned(&bytes);
        assert!(index.items.is_empty());
        assert!(reasons(&index)[0].1.contains("claims 18446744073709551615"));

        let mut sparse = header("1.jpg", tar::EntryType::GNUSparse, 0);
        sparse.as_gnu_mut().unwrap().set_is_extended(true);
        sparse.set_cksum();
        let mut bytes = sparse.as_bytes().to_vec();
        bytes.resize(512 * 400, 1);
        assert!(reasons(&scanned(&bytes))[0].1.contains("ends inside"));
    }

    #[test]
    fn an_index_is_what_was_written_or_refused() {
        let items = scanned(&tar_of(&[("1.txt", b"one"), ("2.jpg", b"two")])).items;
        let header = IndexHeader {
            format: IndexHeader::FORMAT.to_owned(),
            shard_bytes: 5000,
            shard_crc32c: 7,
            samples: 0,
            crc32c: 0,
            rejected: Vec::new(),
            ignored: 0,
            made_from: "a test".to_owned(),
            range: (3, 5),
        };
        let bytes = write_index(header.clone(), &items).unwrap();
        let (read, again) = parse_index(&bytes, 5000).unwrap();
        assert_eq!(again, items);
        assert_eq!((read.samples, read.range), (2, (3, 5)));
        assert!(parse_index(&bytes, 4999).unwrap_err().contains("4999"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            if let Ok((read, again)) = parse_index(&damaged, 5000) {
                // A letter of a text or a digit of a number that the reader has nothing to compare with.
                assert!(again == items && read.samples == 2, "byte {at}");
            }
            assert!(parse_index(&bytes[..at], 5000).is_err(), "cut at {at}");
        }
        let outside = [Item {
            key: "1".to_owned(),
            at: 0,
            members: vec![Member {
                offset: u64::MAX,
                size: 2,
                kind: MemberKind::Jpg,
            }],
            others: Vec::new(),
        }];
        let bytes = write_index(header, &outside).unwrap();
        assert!(parse_index(&bytes, 5000).unwrap_err().contains("outside"));
    }
}
