//! The layout of a tar shard, from a scan of its headers or from the index beside it.
//!
//! Members are grouped by key as in the webdataset library: the name up to the first dot of its last part. The rest is the
//! extension. Members with an unknown extension are kept with it, since names may contain dots. Nothing is ever unpacked under a
//! name from an archive, and no number from a file is used before it is checked.

mod index;
mod scan;

pub use index::{IndexHeader, parse_index, read_index};
pub(crate) use index::{LARGEST_INDEX, identity, write_index};
pub use scan::scan;

use serde::{Deserialize, Serialize};

use crate::error::SampleError;

/// The role of a member in a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// An image, `jpg` or `jpeg`.
    Jpg,
    /// An image.
    Png,
    /// An image.
    Webp,
    /// The second image of a pair, `second.jpg` or `second.jpeg`.
    SecondJpg,
    /// The second image of a pair.
    SecondPng,
    /// The second image of a pair.
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

    /// Whether it is an image, the only one or the first of two.
    pub fn is_first_image(self) -> bool {
        matches!(self, Self::Jpg | Self::Png | Self::Webp)
    }

    /// Whether it is the second of two images.
    pub fn is_second_image(self) -> bool {
        matches!(self, Self::SecondJpg | Self::SecondPng | Self::SecondWebp)
    }

    /// Whether it is an image.
    pub fn is_image(self) -> bool {
        self.is_first_image() || self.is_second_image()
    }

    /// The second image of a pair in the same format; `None` unless this is a first image.
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
    /// Position of its bytes in the shard.
    pub offset: u64,
    /// Number of its bytes.
    pub size: u32,
    /// Its role.
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
    /// The common part of its members' names.
    pub key: String,
    /// Position of its first member's header.
    pub at: u64,
    /// Its members in the shard's order.
    pub members: Vec<Member>,
    /// Members that may belong to it, be samples of their own, or be of no use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

/// A member with an unknown extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// Its name after the first dot.
    pub extension: String,
    /// Position of its header.
    pub at: u64,
    /// Position of its bytes.
    pub offset: u64,
    /// Number of its bytes.
    pub size: u32,
}

/// The layout of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// The samples in the order of their first members.
    pub items: Vec<Item>,
    /// Members that cannot be used; the line is the offset of the header.
    pub rejected: Vec<SampleError>,
    /// Number of hidden members and of members without an extension.
    pub ignored: usize,
}

/// Sizes of the largest members that are used, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemberLimits {
    /// For images.
    pub image: u64,
    /// For other members.
    pub text: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;
    use crate::store::shards::index::{IndexHeader, parse_index, write_index};
    use crate::store::shards::scan::scan;

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
    fn what_stands_behind_the_end_is_said() {
        let one = tar_of(&[("1.jpg", b"one"), ("1.txt", b"1")]);
        let whole = ("1", vec!["jpg", "txt"]);
        let filled = [&one[..], &[0; 9 << 10]].concat();
        let index = scanned(&filled);
        assert_eq!(
            (found(&index), reasons(&index)),
            (vec![whole.clone()], vec![])
        );
        // As of `cat 1.tar 2.tar`.
        for between in [0, 20 << 10] {
            let other = tar_of(&[("2.jpg", b"two"), ("2.txt", b"2")]);
            let index = scanned(&[&one[..], &vec![0; between], &other].concat());
            assert_eq!(found(&index), vec![whole.clone()]);
            let [(_, reason)] = reasons(&index)[..] else {
                panic!("{:?}", reasons(&index));
            };
            assert!(
                reason.contains("behind the end-of-archive marker"),
                "{reason}"
            );
        }
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

    /// Every truncation of a good shard keeps the samples before it and reports the truncation.
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

    /// Damage anywhere gives samples that lie inside the shard, or none.
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
                // The last bytes of the checksum field have no meaning.
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
                // A letter or digit that the reader cannot compare with anything.
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
