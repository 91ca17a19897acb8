//! Images and texts in the members of a sample.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use image::RgbImage;
use serde_json::Value;

use crate::error::{DataError, ReadError, SampleError};
use crate::formats::encoding::text_of;
use crate::formats::json::parse_distinct;
use crate::images;
use crate::sources::pack::Record;
use crate::sources::source::{Source, picture_of_bytes};
use crate::sources::splits::Split;
use crate::sources::webdataset::{LARGEST_TEXT, Shard, Texts, Txt, WebDataset};
use crate::store::shards::{Member, MemberKind};
use crate::store::{self, Storage};
use crate::text::spaced;

/// Size of the largest list of classes, in bytes.
const LARGEST_CLASSES: u64 = 64 << 20;

impl WebDataset {
    fn read(&self, split: Split, index: usize, member: &Member) -> Result<Vec<u8>, SampleError> {
        let shard = &self.shards[self.part(split).shard(index)];
        self.read_from(shard, member)
            .map_err(|reason| self.bad(split, index, reason))
    }

    fn read_from(&self, shard: &Shard, member: &Member) -> Result<Vec<u8>, ReadError> {
        let most = if member.kind.is_image() {
            images::largest_file(self.limits.max_pixels)
        } else {
            LARGEST_TEXT
        };
        // An index beside the shard may be wrong.
        if u64::from(member.size) > most {
            let reason = format!("a member of {} bytes, more than {most}", member.size);
            return Err(reason.into());
        }
        shard.object.read(member.offset, member.size as usize)
    }

    /// The bytes of the only or first image, or of the second.
    pub(super) fn stored(
        &self,
        split: Split,
        index: usize,
        which: fn(MemberKind) -> bool,
    ) -> Result<Option<(Vec<u8>, MemberKind)>, SampleError> {
        let mut members = self.part(split).members(index).iter();
        match members.find(|member| which(member.kind)) {
            Some(member) => Ok(Some((self.read(split, index, member)?, member.kind))),
            None => Ok(None),
        }
    }

    pub(super) fn picture(
        &self,
        split: Split,
        index: usize,
        which: fn(MemberKind) -> bool,
    ) -> Result<Option<RgbImage>, SampleError> {
        let picture = self.picture_of(split, index, which)?;
        Ok(picture.map(|(picture, _)| picture))
    }

    /// An image, and the identifier of its file's content.
    pub(super) fn picture_of(
        &self,
        split: Split,
        index: usize,
        which: fn(MemberKind) -> bool,
    ) -> Result<Option<(RgbImage, u64)>, SampleError> {
        let Some((bytes, kind)) = self.stored(split, index, which)? else {
            return Ok(None);
        };
        images::decode(&bytes, self.limits)
            .map(|picture| Some((picture, picture_of_bytes(&bytes))))
            .map_err(|reason| {
                self.bad(split, index, format!("its .{}: {reason}", kind.extension()))
            })
    }

    pub(super) fn read_texts(&self, split: Split, index: usize) -> Result<Texts, SampleError> {
        let members = self.part(split).members(index);
        let shard = &self.shards[self.part(split).shard(index)];
        let texts = self
            .texts_in(shard, members)
            .map_err(|reason| self.bad(split, index, reason))?;
        match &texts {
            Texts::Captions(captions) if captions.is_empty() && self.captions => {
                let kinds = members.iter().filter(|member| !member.kind.is_image());
                let kinds: Vec<_> = kinds.map(|member| member.kind.extension()).collect();
                let reason = format!(
                    "no caption in its .{}; keys of .json that are read: {}",
                    kinds.join(" and ."),
                    self.caption_keys.join(", ")
                );
                Err(self.bad(split, index, reason))
            }
            _ => Ok(texts),
        }
    }

    /// The texts in a sample's members.
    pub(super) fn texts_in(&self, shard: &Shard, members: &[Member]) -> Result<Texts, ReadError> {
        let mut captions = Vec::new();
        let mut seen = HashSet::new();
        // A caption in another member counts although a .json is damaged.
        let mut damaged = None;
        let mut add = |text: &str| {
            captions.extend(spaced(text).filter(|text| seen.insert(text.clone())));
        };
        for member in members.iter().filter(|member| !member.kind.is_image()) {
            let name = member.kind.extension();
            let bytes = self.read_from(shard, member)?;
            let wrong = |reason: String| format!("its .{name}: {reason}");
            if member.kind == MemberKind::Json {
                let value = text_of(&bytes).and_then(|text| parse_distinct(text.as_bytes()));
                let value = match value {
                    Ok(value) => value,
                    Err(reason) => {
                        damaged = Some(wrong(reason));
                        continue;
                    }
                };
                if let Some(record) = Record::of(&value) {
                    let record = record.map_err(wrong)?;
                    return Ok(Texts::Record(Box::new(record)));
                }
                let keys = self.caption_keys.iter();
                for text in keys.flat_map(|key| strings(&value[key])) {
                    add(text);
                }
                continue;
            }
            let text = text_of(&bytes).map_err(wrong)?;
            match member.kind {
                MemberKind::Cls => {
                    let class = self.class(text).map_err(wrong)?;
                    add(&self.class_caption.replace("{}", &class));
                }
                _ if self.txt == Txt::Lines => text.lines().for_each(&mut add),
                _ => add(text),
            }
        }
        match damaged {
            Some(reason) if captions.is_empty() => Err(reason.into()),
            _ => Ok(Texts::Captions(captions)),
        }
    }

    /// Looks at the `.json` of some samples of each split, all over it: lines about those that are damaged beside another text, whose captions
    /// are lost, and about `caption_keys` that none has. `keys`: whether these are not the default.
    ///
    /// # Errors
    ///
    /// A shard cannot be read now.
    pub(super) fn look_at_json(&self, keys: bool) -> Result<Vec<String>, DataError> {
        /// Files that are looked at in each split.
        const LOOKED_AT: usize = 8;
        /// Keys of files that are shown.
        const SHOWN: usize = 20;
        let mut there = BTreeSet::new();
        let (mut files, mut damaged, mut first) = (0, 0, None);
        for split in Split::ALL {
            let all = self.len(split);
            for index in (0..all).step_by(all.div_ceil(LOOKED_AT).max(1)) {
                let members = self.part(split).members(index);
                let texts = members.iter().filter(|member| !member.kind.is_image());
                let Some(member) = texts.clone().find(|m| m.kind == MemberKind::Json) else {
                    continue;
                };
                let alone = texts.count() == 1;
                if alone && !keys {
                    continue;
                }
                let bytes = match self.read(split, index, member) {
                    Err(error) if error.is_unavailable() => {
                        return Err(DataError::unavailable(&error));
                    }
                    read => read.unwrap_or_default(),
                };
                let read = text_of(&bytes).and_then(|text| parse_distinct(text.as_bytes()));
                files += 1;
                match read {
                    Ok(Value::Object(object)) => {
                        there.extend(object.into_iter().map(|(key, _)| key))
                    }
                    // What is damaged and alone is listed when the sample is read.
                    Err(reason) if !alone => {
                        damaged += 1;
                        first.get_or_insert(format!("{}: {reason}", self.place(split, index)));
                    }
                    _ => {}
                }
            }
        }
        let mut notes = Vec::new();
        if let Some(first) = first {
            notes.push(format!(
                "{}: {damaged} of {files} .json that were looked at cannot be read, and the other texts of their samples are used alone; the first: {first}",
                self.name()
            ));
        }
        let asked = self.caption_keys.iter().filter(|key| !there.contains(*key));
        let unused: Vec<&str> = asked.map(String::as_str).collect();
        if keys && !unused.is_empty() {
            let keys = unused.join(", ");
            let there: Vec<&str> = there.iter().map(String::as_str).take(SHOWN).collect();
            notes.push(match files {
                0 => format!(
                    "{}: no .json was found in which data.webdataset.caption_keys ({keys}) could be looked up",
                    self.name()
                ),
                files => format!(
                    "{}: data.webdataset.caption_keys: {keys} in none of {files} .json that were looked at; keys that they have: {}",
                    self.name(),
                    there.join(", ")
                ),
            });
        }
        Ok(notes)
    }

    /// The name of a class.
    fn class(&self, text: &str) -> Result<String, String> {
        let text = text.trim();
        let Ok(number) = text.parse::<usize>() else {
            return if text.is_empty() {
                Err("it is empty".to_owned())
            } else {
                Ok(text.to_owned())
            };
        };
        self.classes.get(number).cloned().ok_or_else(|| {
            let known = self.classes.len();
            format!("class {number}, but `data.webdataset.classes` lists {known} names")
        })
    }
}

/// The texts in a value under a caption key.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn read_classes(storage: &Storage, path: &Path) -> Result<Vec<String>, DataError> {
    let read = || {
        let object = storage.open(path)?;
        let bytes = store::read_all(&*object, LARGEST_CLASSES)?;
        Ok(text_of(&bytes)?.to_owned())
    };
    let text = read().map_err(|error| DataError::unread(path, error))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}
