//! Decides which members of a tar shard are the images and texts of a sample.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::store::shards::{Item, Member, MemberKind, Other};

/// Meaning of extensions: those that a recipe names, or all known ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extensions {
    images: Vec<String>,
    texts: Vec<String>,
}

/// What a sample must have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub images: bool,
    pub texts: bool,
}

impl Wanted {
    /// Whether a sample with these members has everything.
    fn by(self, members: &[Member]) -> bool {
        let has = |wanted: fn(MemberKind) -> bool| members.iter().any(|m| wanted(m.kind));
        (!self.images || has(MemberKind::is_first_image))
            && (!self.texts || has(|kind| !kind.is_image()))
    }
}

/// Members that are not read, counted by extension.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    extensions: BTreeMap<String, u64>,
    others: u64,
}

/// Largest number of distinct extensions.
const MOST: usize = 24;

impl Unread {
    fn add(&mut self, extension: &str) {
        let room = self.extensions.len() < MOST;
        match self.extensions.get_mut(extension) {
            Some(count) => *count += 1,
            None if room => {
                self.extensions.insert(extension.to_owned(), 1);
            }
            None => self.others += 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.extensions.is_empty()
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (extension, count)) in self.extensions.iter().enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}.{} ({count})", extension.escape_debug())?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, ", others ({others})"),
        }
    }
}

impl Extensions {
    pub fn new(images: &[String], texts: &[String]) -> Self {
        let plain = |all: &[String]| {
            let all = all
                .iter()
                .map(|extension| extension.trim_start_matches('.'));
            all.map(str::to_ascii_lowercase).collect()
        };
        Self {
            images: plain(images),
            texts: plain(texts),
        }
    }

    /// The kind of a member with this extension.
    fn kind(&self, extension: &str) -> Option<MemberKind> {
        let extension = extension.to_ascii_lowercase();
        let known = MemberKind::of(&extension);
        let last = extension.rsplit('.').next().unwrap_or_default();
        if self.images.contains(&extension) {
            // Image formats are recognised by content.
            return Some(match MemberKind::of(last) {
                Some(kind) if kind.is_first_image() => kind,
                _ => MemberKind::Jpg,
            });
        }
        if self.texts.contains(&extension) {
            return Some(match MemberKind::of(last) {
                Some(kind @ (MemberKind::Json | MemberKind::Cls)) => kind,
                _ => MemberKind::Txt,
            });
        }
        known.filter(|kind| self.takes(*kind))
    }

    /// Whether members of a known kind are read besides the extensions in the recipe.
    fn takes(&self, kind: MemberKind) -> bool {
        let named = if kind.is_first_image() {
            &self.images
        } else if kind.is_image() {
            return true;
        } else {
            &self.texts
        };
        named.is_empty() || named.iter().any(|name| MemberKind::of(name) == Some(kind))
    }

    /// The samples among the members of a key, in the shard's order. By convention a key ends at the first dot of a name, so there
    /// is usually one sample. Members with dots in their names make samples of their own only if they are complete samples, or if
    /// nothing else has the key. The others are counted.
    pub fn samples(&self, item: Item, wanted: Wanted, unread: &mut Unread) -> Vec<Item> {
        let Item {
            key,
            at,
            members,
            others,
        } = item;
        let mut whole = Item {
            key,
            at,
            members: Vec::with_capacity(members.len()),
            others: Vec::new(),
        };
        for member in members {
            if self.takes(member.kind) {
                whole.members.push(member);
            } else {
                unread.add(member.kind.extension());
            }
        }
        // Samples whose names contain dots, by key: names such as `frame.000001.jpg` may share a key.
        let mut dotted: Vec<Item> = Vec::new();
        let mut slots = HashMap::new();
        for other in others {
            if let Some(kind) = self.kind(&other.extension) {
                add(&mut whole, &other, kind, unread);
                continue;
            }
            let mut dots = other.extension.match_indices('.').map(|(dot, _)| dot);
            let found = dots.find_map(|dot| {
                let (before, extension) = other.extension.split_at(dot);
                Some((before, self.kind(&extension[1..])?))
            });
            let Some((before, kind)) = found else {
                unread.add(&other.extension);
                continue;
            };
            let key = format!("{}.{before}", whole.key);
            let slot = *slots.entry(key).or_insert_with_key(|key| {
                dotted.push(Item {
                    key: key.clone(),
                    at: other.at,
                    members: Vec::new(),
                    others: Vec::new(),
                });
                dotted.len() - 1
            });
            if add(&mut dotted[slot], &other, kind, unread) {
                dotted[slot].others.push(other);
            }
        }
        let both = Wanted {
            images: true,
            texts: true,
        };
        let alone = whole.members.is_empty();
        let mut samples = Vec::new();
        if !alone {
            whole.members.sort_by_key(|member| member.offset);
            samples.push(whole);
        }
        for mut item in dotted {
            if both.by(&item.members) || (alone && wanted.by(&item.members)) {
                item.others = Vec::new();
                samples.push(item);
            } else {
                for other in item.others {
                    unread.add(&other.extension);
                }
            }
        }
        samples.sort_by_key(|item| item.at);
        samples
    }
}

/// Adds a member, unless there already is one of its kind.
fn add(item: &mut Item, other: &Other, kind: MemberKind, unread: &mut Unread) -> bool {
    if item.members.iter().any(|member| member.kind.excludes(kind)) {
        unread.add(&other.extension);
        return false;
    }
    item.members.push(Member {
        offset: other.offset,
        size: other.size,
        kind,
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An item whose members begin every 100 bytes.
    fn item(key: &str, extensions: &[&str]) -> Item {
        let mut item = Item {
            key: key.to_owned(),
            at: 0,
            members: Vec::new(),
            others: Vec::new(),
        };
        for (at, extension) in extensions.iter().enumerate() {
            let offset = at as u64 * 100;
            match MemberKind::of(extension) {
                Some(kind) => item.members.push(Member {
                    offset,
                    size: 1,
                    kind,
                }),
                None => item.others.push(Other {
                    extension: (*extension).to_owned(),
                    at: offset,
                    offset,
                    size: 1,
                }),
            }
        }
        item
    }

    fn found(
        extensions: &Extensions,
        members: &[&str],
        wanted: (bool, bool),
    ) -> (Vec<(String, usize)>, String) {
        let wanted = Wanted {
            images: wanted.0,
            texts: wanted.1,
        };
        let mut unread = Unread::default();
        let samples = extensions.samples(item("k", members), wanted, &mut unread);
        let samples = samples
            .into_iter()
            .map(|item| (item.key, item.members.len()))
            .collect();
        (samples, unread.to_string())
    }

    #[test]
    fn names_may_hold_dots() {
        let known = Extensions::default();
        let (both, images) = ((true, true), (true, false));
        let one = |key: &str, members| (key.to_owned(), members);
        for (members, wanted, expected, unread) in [
            (&["jpg", "txt"][..], both, vec![one("k", 2)], ""),
            (&["05.jpg", "05.txt"], both, vec![one("k.05", 2)], ""),
            (
                &["5 (copy).JPG", "5.b.json", "5 (copy).txt", "5.b.webp"],
                both,
                vec![one("k.5 (copy)", 2), one("k.5.b", 2)],
                "",
            ),
            (
                &["5.second.png", "5.png", "5.txt"],
                both,
                vec![one("k.5", 3)],
                "",
            ),
            // Separate fields, by convention.
            (
                &["jpg", "seg.png", "txt"],
                both,
                vec![one("k", 2)],
                ".seg.png (1)",
            ),
            (
                &["jpg", "seg.png"],
                images,
                vec![one("k", 1)],
                ".seg.png (1)",
            ),
            (
                &["1.jpg", "2.jpg"],
                images,
                vec![one("k.1", 1), one("k.2", 1)],
                "",
            ),
            // Two samples, one of which has the other's key.
            (
                &["jpg", "05.jpg", "txt", "05.txt"],
                both,
                vec![one("k", 2), one("k.05", 2)],
                "",
            ),
            (
                &["input.jpg", "output.txt"],
                both,
                vec![],
                ".input.jpg (1), .output.txt (1)",
            ),
            (&["jpg", "txt", "npy"], both, vec![one("k", 2)], ".npy (1)"),
            (&["gif", "txt"], both, vec![one("k", 1)], ".gif (1)"),
            (
                &["a.jpg", "a.png", "a.txt"],
                both,
                vec![one("k.a", 2)],
                ".a.png (1)",
            ),
        ] {
            let expected = (expected, unread.to_owned());
            assert_eq!(found(&known, members, wanted), expected, "{members:?}");
        }
    }

    #[test]
    fn extensions_are_named() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let named = Extensions::new(&names(&[".input.jpg", "img"]), &names(&["outputs.txt"]));
        let both = (true, true);
        let one = |key: &str, members| vec![(key.to_owned(), members)];
        for (members, expected, unread) in [
            (&["input.JPG", "outputs.txt"][..], one("k", 2), ""),
            (
                &["img", "outputs.txt", "jpg", "txt"],
                one("k", 2),
                ".jpg (1), .txt (1)",
            ),
            (&["5.input.jpg", "5.outputs.txt"], one("k.5", 2), ""),
        ] {
            assert_eq!(
                found(&named, members, both),
                (expected, unread.to_owned()),
                "{members:?}"
            );
        }
        let texts = Extensions::new(&[], &names(&["json"]));
        assert_eq!(
            found(&texts, &["jpeg", "json", "txt"], both),
            (one("k", 2), ".txt (1)".to_owned())
        );
        let mut unread = Unread::default();
        for number in 0..100 {
            unread.add(&number.to_string());
        }
        assert!(unread.to_string().ends_with("others (76)"), "{unread}");
    }
}
