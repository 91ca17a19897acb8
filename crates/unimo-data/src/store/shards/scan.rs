//! A scan of the headers of a tar file.
//!
//! Nothing is ever unpacked under a name from an archive, and no number from a file is used before it is checked.

use std::collections::HashMap;

use crate::error::{Place, ReadError, ReadKind, SampleError};
use crate::store::Object;
use crate::store::paths::is_hidden;
use crate::store::shards::{Item, Member, MemberKind, MemberLimits, Other, ShardIndex};

const BLOCK: u64 = 512;
/// Number of bytes that a scan reads at once: headers of small members lie close together, those of large ones far apart.
const WINDOW: usize = 8 << 10;
/// Longest name or PAX header, in bytes.
const LONGEST_EXTENSION: u64 = 64 << 10;
/// Number of bytes behind the end-of-archive marker that are looked at: programs fill up to records of 10 KiB, or as they are told.
const LONGEST_FILL: u64 = 64 << 10;
/// Largest number of members of a shard.
const MOST_MEMBERS: usize = 1 << 22;
/// Number of unusable members after which the rest of a shard is given up.
const MOST_REJECTED: usize = 10_000;

/// Reads the headers of a tar file.
///
/// Damage is never an error: members before it are kept, and the reason for stopping is listed.
///
/// # Errors
///
/// The file could not be read now, so nothing is known about its members.
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
    /// The header being read.
    pub(super) at: u64,
    pub(super) index: ShardIndex,
    by_key: HashMap<String, usize>,
    /// For each item, whether one of its members cannot be used.
    broken: Vec<bool>,
    pub(super) members: usize,
}

/// What extension headers say about the next member.
#[derive(Default)]
struct Extension {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) sparse: bool,
    /// Position of the first of them.
    pub(super) at: Option<u64>,
}

impl Scan<'_> {
    /// `length` bytes from `offset` on; the caller bounds `length`.
    pub(super) fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], ReadError> {
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
                return self.nothing_behind();
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

    /// Checks that there is no second archive behind the marker at whose position the scan is.
    fn nothing_behind(&mut self) -> Result<(), ReadError> {
        let size = self.object.size();
        // Archives are filled up with zeros to whole records.
        let end = size.min(self.at.saturating_add(LONGEST_FILL));
        let mut at = self.at;
        while at < end {
            let piece = (end - at).min(WINDOW as u64) as usize;
            if self.bytes(at, piece)?.iter().any(|byte| *byte != 0) {
                return Err(format!(
                    "{} bytes behind the end-of-archive marker are not read, as of an archive that was appended by `cat`: members belong \
                     before it, or into a shard of their own",
                    size - self.at
                )
                .into());
            }
            at += piece as u64;
        }
        Ok(())
    }

    fn after_sparse_map(&mut self, mut at: u64) -> Result<u64, ReadError> {
        /// Position where an extended sparse header says whether another follows.
        const MORE: usize = 504;
        loop {
            let block = self.bytes(at, BLOCK as usize)?;
            at += BLOCK;
            if block[MORE] == 0 {
                return Ok(at);
            }
        }
    }

    /// Adds a member. An error ends the scan.
    pub(super) fn member(
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
        let used = self.named_member(at, (start, bytes), &name, (header, extension.sparse), &cut);
        if let Err(reason) = used {
            self.reject(at, reason);
        }
        match cut {
            // Already listed, unless the member is of no interest.
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
        (header, sparse): (&tar::Header, bool),
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
        let most = if member.is_image() {
            self.limits.image
        } else {
            self.limits.text
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
        .map(|(at, byte)| {
            if FIELD.contains(&at) {
                u32::from(b' ')
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    match header.cksum() {
        Ok(stated) if stated == sum => Ok(()),
        _ => Err("no tar header, or a damaged one: its checksum is wrong".to_owned()),
    }
}

/// The key and the extension of a member's name; `None` for members that are not used.
fn key_of(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    // Hidden files, such as those that macOS adds, and names reserved by webdataset.
    if name.split('/').any(is_hidden) || (name.starts_with("__") && name.ends_with("__")) {
        return None;
    }
    Some((&name[..dot], &name[dot + 1..]))
}
