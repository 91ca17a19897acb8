//! The samples of opened shards.

use image::RgbImage;
use std::collections::BTreeMap;

use crate::error::{Place, SampleError};
use crate::images;
use crate::order::draws::{Stream, hash};
use crate::order::plan::Shuffle;
use crate::sources::source::{Annotations, Offers, Sample, Source, SplitFacts};
use crate::sources::splits::{Split, drawn, not_drawn};
use crate::sources::webdataset::{Texts, WebDataset};
use crate::store::shards::MemberKind;

impl Source for WebDataset {
    fn len(&self, split: Split) -> usize {
        self.part(split).entries.len()
    }

    fn describe(&self) -> String {
        let test = match self.len(Split::Test) {
            0 => String::new(),
            samples => format!(", {samples} to test on"),
        };
        let left_out = match self.left_out.total() {
            0 => String::new(),
            _ => format!(", {}", self.left_out),
        };
        let mut text = format!(
            "{}: {} training samples, {} held out{test}{left_out}, {}, {} unusable",
            self.name(),
            self.len(Split::Train),
            self.len(Split::Val),
            self.lacking,
            self.rejected.len()
        );
        if !self.unread.is_empty() {
            text += &format!(", extensions that are not read: {}", self.unread);
        }
        if self.hidden > 0 {
            text += &format!(", {} hidden members or without an extension", self.hidden);
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        if of > 0 && self.val_fraction > 0.0 {
            notes.push(drawn(&self.name(), held, of, "samples", self.val_fraction));
        }
        if of == 0 {
            let why = "the shards say which split a sample is of";
            notes.extend(not_drawn(&self.name(), self.val_fraction, why));
        }
        notes.extend(self.of_json.clone());
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let part = self.part(split);
        Place {
            file: self.shards[part.shard(index)].name.clone(),
            line: part.entries[index].at,
        }
    }

    /// A shard's name without its folder, and the location of the sample in it; nothing is read.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let part = self.part(split);
        let name = &self.shards[part.shard(index)].name;
        give(name.rsplit(['/', '\\']).next().unwrap_or(name).as_bytes());
        for member in part.members(index) {
            give(&member.offset.to_le_bytes());
            give(&member.size.to_le_bytes());
        }
        Ok(())
    }

    fn offers(&self) -> Offers {
        Offers {
            images: self.images,
            captions: self.captions,
            reads_ahead: self.ahead.is_some(),
            // Records say it one by one.
            translations: self.captions,
            ..Offers::default()
        }
    }

    fn facts(&self, split: Split) -> SplitFacts {
        const LOOKED_AT: usize = 16;
        let all = self.len(split);
        let mut looked_at = (0..all).step_by(all.div_ceil(LOOKED_AT).max(1));
        let describes = |index| {
            let known = self.annotations(split, index);
            known.is_ok_and(|known| known.roles.is_empty())
        };
        let in_languages = |index| {
            let known = self.annotations(split, index);
            known.is_ok_and(|known| !known.languages.tags.is_empty())
        };
        let members = &self.part(split).members;
        SplitFacts {
            // Texts are not read for this. Samples of one kind lie together, so a few of them suffice.
            all_describe: !self.captions || looked_at.clone().all(describes),
            languages: self.captions && looked_at.any(in_languages),
            second_images: members.iter().any(|member| member.kind.is_second_image()),
            ..SplitFacts::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        // Only `pack` writes this, and its records are in `.json`.
        let members = self.part(split).members(index);
        if !members.iter().any(|m| m.kind == MemberKind::Json) {
            return Ok(Annotations::default());
        }
        Ok(match self.read_texts(split, index)? {
            Texts::Record(record) => Annotations {
                roles: if self.captions {
                    record.roles()
                } else {
                    Vec::new()
                },
                labels: record.labels(),
                phrases: record.phrases,
                tags: record.tags,
                languages: record.languages,
                telling: None,
            },
            Texts::Captions(_) => Annotations::default(),
        })
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        self.part(split).sizes()
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        if !self.captions {
            return Ok(Vec::new());
        }
        Ok(match self.read_texts(split, index)? {
            Texts::Record(record) => record.captions,
            Texts::Captions(captions) => captions,
        })
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        self.picture(split, index, MemberKind::is_first_image)
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let picture = self.stored(split, index, MemberKind::is_first_image)?;
        Ok(picture.map(|(bytes, kind)| {
            // Extensions are not reliable.
            let extension = images::extension_of(&bytes).unwrap_or(kind.extension());
            (bytes, extension)
        }))
    }

    fn second_image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let picture = self.stored(split, index, MemberKind::is_second_image)?;
        Ok(picture.and_then(|(bytes, kind)| {
            let named = kind.extension().strip_prefix("second.")?;
            let extension = images::extension_of(&bytes).unwrap_or(named);
            Some((bytes, extension))
        }))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let image = self.picture_of(split, index, MemberKind::is_first_image)?;
        let second = self.picture_of(split, index, MemberKind::is_second_image)?;
        let name = self.place(split, index).to_string();
        let sample = match self.read_texts(split, index)? {
            Texts::Record(record) => record.into_sample(),
            Texts::Captions(captions) => Sample {
                name,
                captions,
                ..Sample::default()
            },
        };
        // The same file may have several keys, so the content identifies an image.
        let ids = [&image, &second].map(|picture| picture.as_ref().map(|(_, id)| *id));
        Ok(Sample {
            picture_id: match ids {
                [Some(first), Some(second)] => Some(hash(Stream::Picture, &[first, second])),
                [first, _] => first,
            },
            image: image.map(|(picture, _)| picture),
            second_image: second.map(|(picture, _)| picture),
            ..sample
        })
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        let Some(budget) = self.ahead else {
            return;
        };
        let part = self.part(split);
        // If all the shards being mixed fit together, they are read in large blocks.
        let mixed = match shuffle {
            Shuffle::Shards(mixed) => mixed.min(self.shards.len()),
            Shuffle::Global => self.shards.len(),
        };
        let largest = self.shards.iter().map(|shard| shard.object.size()).max();
        let whole = largest.unwrap_or(0).saturating_mul(mixed as u64) <= budget;
        let mut left = budget;
        for index in indices {
            let members = part.members(*index);
            let start = members.iter().map(|member| member.offset).min();
            let ends = members.iter().map(|m| m.offset + u64::from(m.size));
            let (Some(start), Some(end)) = (start, ends.max()) else {
                continue;
            };
            let Some(rest) = left.checked_sub(end - start) else {
                return;
            };
            left = rest;
            let object = &self.shards[part.shard(*index)].object;
            object.ahead(start..end, whole);
        }
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.lacking.counts()
    }
}
