//! Samples in tar files, as written by the webdataset library, img2dataset and `unimo data pack`.
//!
//! ```toml
//! [data]
//! source = "webdataset"
//!
//! [data.webdataset]
//! urls = "shards/{000000..000123}.tar"   # or a list, or a folder
//! val_fraction = 0.01
//! ```
//!
//! A sample is the members with the same key: an image (`.jpg`, `.jpeg`, `.png`, `.webp`) and its captions. Captions are the whole
//! `.txt` (with `txt = "lines"`, each line), the values in `.json` under one of `caption_keys`, or the class in `.cls`. A `.json` that is
//! damaged takes no other text with it. If a sample
//! is a pair of images, as in NLVR2, the right one is `.second.jpg` (or `.jpeg`, `.png`, `.webp`). Samples are read in place;
//! compressed shards are unpacked once. Indices run shard by shard.
//!
//! A key ends at the first dot of a file's name, as in the webdataset library. If that leaves no known extension but a later dot
//! does, members with the same name up to the later dot are a sample too. `image_extensions` and `text_extensions` replace the
//! known extensions by others, such as `input.jpg` and `caption`. Members that are not read are counted by extension in the
//! description, as are samples without an image or without a text.

mod members;
mod opening;
mod samples;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::members::{Extensions, Unread, Wanted};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash_text, unit};
use crate::settings::{not_empty, share};
use crate::sources::given::{expand, one_or_many, one_or_many_paths};
use crate::sources::left_out::{LeftOut, WITHOUT_TEXT};
use crate::sources::pack::Record;
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::{BySplit, Split};
use crate::sources::webdataset::members::read_classes;
use crate::sources::webdataset::opening::{List, Opening};
use crate::store::found::Found;
use crate::store::shards::{Item, Member, MemberKind, MemberLimits, ShardIndex};
use crate::store::unpack::Cache;
use crate::store::{self, Object, RemoteConfig, Storage};
use crate::threads::parallel_on;

/// `[data.webdataset]`: tar files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebDatasetConfig {
    /// Shards of which `val_fraction` is held out: paths, `{000..123}` for numbers, `{a,b}` for names, or a folder.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub urls: Vec<PathBuf>,
    /// Shards to train on, instead of `urls`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub train: Vec<PathBuf>,
    /// Held-out shards, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub val: Vec<PathBuf>,
    /// Shards of the test split, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub test: Vec<PathBuf>,
    /// Share of the samples of `urls` that is held out, by a hash of the key.
    pub val_fraction: f64,
    /// Whether samples have images.
    pub images: bool,
    /// Whether samples have captions.
    pub captions: bool,
    /// What a `.txt` is.
    #[serde(skip_serializing_if = "Txt::is_default")]
    pub txt: Txt,
    /// Extensions of images, instead of the known ones.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub image_extensions: Vec<String>,
    /// Extensions of texts, instead of the known ones. Those that do not end in `json` or `cls` are read as `.txt`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub text_extensions: Vec<String>,
    /// Keys of captions in a `.json`: a string or a list of strings.
    #[serde(deserialize_with = "one_or_many")]
    pub caption_keys: Vec<String>,
    /// A file with one class per line, for `.cls` members that hold numbers from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// The caption made of a `.cls` member; `{}` stands for the class.
    pub class_caption: String,
    /// Folder for unpacked compressed shards and for the layout of remote shards without an index. `None`: layouts are kept in the
    /// user's cache (`~/.cache/unimo/shards`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Largest size of the cache, in gigabytes (10^9 bytes).
    pub cache_gb: f64,
    /// How shards behind URLs are read.
    pub remote: RemoteConfig,
}

impl Default for WebDatasetConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            train: Vec::new(),
            val: Vec::new(),
            test: Vec::new(),
            val_fraction: 0.05,
            images: true,
            captions: true,
            txt: Txt::default(),
            image_extensions: Vec::new(),
            text_extensions: Vec::new(),
            caption_keys: vec!["caption".to_owned(), "captions".to_owned()],
            classes: None,
            class_caption: "a photo of a {}".to_owned(),
            cache: None,
            cache_gb: 100.0,
            remote: RemoteConfig::default(),
        }
    }
}

/// What a `.txt` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Txt {
    /// One caption, whatever its number of lines.
    #[default]
    Caption,
    /// One caption per line.
    Lines,
}

impl Txt {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl SourceConfig for WebDatasetConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |name: &str| format!("{table}.{name}");
        match (self.urls.is_empty(), self.train.is_empty()) {
            (true, true) => {
                return Err(DataError::config(
                    key("urls"),
                    "absent",
                    "shards, as `urls` or as `train` and `val`",
                ));
            }
            (false, false) => {
                return Err(DataError::config(
                    key("train"),
                    "given",
                    format!("`{table}.urls`, or `train` and `val`, not both"),
                ));
            }
            (false, true) if !self.val.is_empty() || !self.test.is_empty() => {
                return Err(DataError::config(
                    key(if self.val.is_empty() { "test" } else { "val" }),
                    "given",
                    format!("nothing beside `{table}.urls`, of which `val_fraction` is held out"),
                ));
            }
            _ => {}
        }
        for (name, patterns) in [
            ("urls", &self.urls),
            ("train", &self.train),
            ("val", &self.val),
            ("test", &self.test),
        ] {
            for pattern in patterns {
                let text = pattern.to_string_lossy();
                not_empty(&key(name), &text, "paths of tar files")?;
                if !pattern.exists() {
                    expand(&text).map_err(|reason| {
                        let allowed = format!("`{{000..123}}` or `{{a,b}}` in a path; {reason}");
                        DataError::config(key(name), format!("{text:?}"), allowed)
                    })?;
                }
            }
        }
        share(&key("val_fraction"), self.val_fraction)?;
        if !self.images && !self.captions {
            return Err(DataError::config(
                key("captions"),
                "false beside `images = false`",
                "true for one of them",
            ));
        }
        for (name, extensions) in [
            ("image_extensions", &self.image_extensions),
            ("text_extensions", &self.text_extensions),
        ] {
            if extensions
                .iter()
                .any(|e| e.trim_matches('.').is_empty() || e.contains('/'))
            {
                let found = format!("{extensions:?}");
                return Err(DataError::config(
                    key(name),
                    found,
                    "extensions, such as `input.jpg`",
                ));
            }
        }
        if let Some(both) = self
            .image_extensions
            .iter()
            .find(|extension| self.text_extensions.contains(extension))
        {
            let found = format!("{both:?}, which `{table}.image_extensions` names too");
            let allowed = "extensions of texts only";
            return Err(DataError::config(key("text_extensions"), found, allowed));
        }
        if self.caption_keys.iter().any(String::is_empty) {
            return Err(DataError::config(
                key("caption_keys"),
                format!("{:?}", self.caption_keys),
                "names of keys",
            ));
        }
        if !self.class_caption.contains("{}") {
            return Err(DataError::config(
                key("class_caption"),
                format!("{:?}", self.class_caption),
                "a text with {} where the class is to stand",
            ));
        }
        if !(self.cache_gb > 0.0 && self.cache_gb <= 1e6) {
            return Err(DataError::config(
                key("cache_gb"),
                self.cache_gb,
                "a number of gigabytes above 0, at most 1e6",
            ));
        }
        self.remote.validate(&key("remote"))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let shards = self.urls.iter_mut();
        shards
            .chain(&mut self.train)
            .chain(&mut self.val)
            .chain(&mut self.test)
            .filter(|path| !store::is_remote(path))
            .chain(&mut self.classes)
            .chain(&mut self.cache)
            .collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(WebDataset::open(self, limits)?))
    }
}

/// Reason for leaving out a sound sample.
const EMPTY_TEXT: &str = "with an empty text";

/// Size of the largest text member, in bytes.
const LARGEST_TEXT: u64 = 1 << 20;

/// Number of remote shards that are opened at once.
const OPENED_AT_ONCE: usize = 16;

/// Samples in tar files. See the [module](self).
pub struct WebDataset {
    shards: Vec<Shard>,
    parts: BySplit<Part>,
    /// Number of samples whose split is drawn, and how many of them are held out.
    drawn: (usize, usize),
    val_fraction: f64,
    /// Shards that belong to no split.
    left_out: LeftOut,
    rejected: Vec<SampleError>,
    /// Samples without an image or a text.
    lacking: LeftOut,
    unread: Unread,
    hidden: usize,
    images: bool,
    captions: bool,
    txt: Txt,
    extensions: Extensions,
    caption_keys: Vec<String>,
    /// Lines about `.json` members: damage beside other texts, keys that are asked for and not there.
    of_json: Vec<String>,
    classes: Vec<String>,
    class_caption: String,
    limits: Limits,
    /// Bytes that are fetched ahead; `None` if no shard is remote.
    ahead: Option<u64>,
}

struct Shard {
    /// Its name in places: where a compressed shard comes from.
    name: String,
    object: Arc<dyn Object>,
}

/// The samples of a split.
#[derive(Default)]
struct Part {
    runs: Vec<Run>,
    entries: Vec<Entry>,
    members: Vec<Member>,
}

/// Consecutive samples of one shard.
struct Run {
    shard: usize,
    /// Index of the first sample.
    first: usize,
}

struct Entry {
    at: u64,
    /// Index of its first member.
    first: usize,
}

impl Part {
    fn push(&mut self, shard: usize, item: &Item) {
        if self.runs.last().is_none_or(|run| run.shard != shard) {
            self.runs.push(Run {
                shard,
                first: self.entries.len(),
            });
        }
        self.entries.push(Entry {
            at: item.at,
            first: self.members.len(),
        });
        self.members.extend(&item.members);
    }

    fn shard(&self, index: usize) -> usize {
        let run = self.runs.partition_point(|run| run.first <= index);
        self.runs[run - 1].shard
    }

    fn members(&self, index: usize) -> &[Member] {
        let end = self.entries.get(index + 1);
        &self.members[self.entries[index].first..end.map_or(self.members.len(), |e| e.first)]
    }

    fn sizes(&self) -> Vec<usize> {
        let ends = self.runs.iter().skip(1).map(|run| run.first);
        let ends = ends.chain([self.entries.len()]);
        self.runs
            .iter()
            .zip(ends)
            .map(|(run, end)| end - run.first)
            .collect()
    }
}

/// The contents of a text member.
enum Texts {
    Record(Box<Record>),
    Captions(Vec<String>),
}

impl WebDataset {
    /// Opens every shard and finds its members.
    ///
    /// # Errors
    ///
    /// A shard is missing, a compressed one cannot be unpacked, or nothing can be used.
    pub fn open(config: &WebDatasetConfig, limits: &Limits) -> Result<Self, DataError> {
        let storage = Storage::new(&config.remote);
        let mut list = List::new(&storage);
        list.add(&config.urls, None)?;
        list.add(&config.train, Some(Split::Train))?;
        list.add(&config.val, Some(Split::Val))?;
        list.add(&config.test, Some(Split::Test))?;
        let cache = match &config.cache {
            Some(folder) => Some(Cache::open(folder, (config.cache_gb * 1e9) as u64)?),
            None => None,
        };
        let remote = list
            .shards
            .iter()
            .any(|shard| store::is_remote(&shard.path));
        let scanned = remote && list.shards.iter().any(|shard| !shard.indexed);
        let found = if scanned {
            Found::open(config.cache.as_deref())?
        } else {
            None
        };
        let most = MemberLimits {
            image: images::largest_file(limits.max_pixels).min(u64::from(u32::MAX)),
            text: LARGEST_TEXT,
        };
        let opening = Opening {
            storage: &storage,
            cache: cache.as_ref(),
            found: found.as_ref(),
            limits: most,
        };
        // Remote shards are slow because of the network, not the processor.
        let threads = if remote { OPENED_AT_ONCE } else { 0 };
        let opened = parallel_on(threads, 0..list.shards.len(), |at| {
            opening.shard(&list.shards[at])
        });
        let mut source = Self {
            shards: Vec::new(),
            parts: BySplit::default(),
            drawn: (0, 0),
            val_fraction: config.val_fraction,
            left_out: list.left_out.clone(),
            rejected: Vec::new(),
            lacking: LeftOut::new("samples"),
            unread: Unread::default(),
            hidden: 0,
            txt: config.txt,
            extensions: Extensions::new(&config.image_extensions, &config.text_extensions),
            images: config.images && !list.without_images,
            captions: config.captions && !list.without_captions,
            caption_keys: config.caption_keys.clone(),
            of_json: Vec::new(),
            classes: match &config.classes {
                Some(path) => read_classes(&storage, path)?,
                None => Vec::new(),
            },
            class_caption: config.class_caption.clone(),
            limits: *limits,
            ahead: remote.then_some((config.remote.cache_mb as u64) << 19),
        };
        for (opened, listed) in opened.into_iter().zip(&list.shards) {
            let (shard, index) = opened?;
            source.take(shard, index, listed.split)?;
        }
        if Split::ALL.into_iter().all(|split| source.is_empty(split)) {
            return Err(source.nothing(config));
        }
        if source.captions {
            let asked = config.caption_keys != WebDatasetConfig::default().caption_keys;
            source.of_json = source.look_at_json(asked)?;
        }
        Ok(source)
    }

    fn take(
        &mut self,
        shard: Shard,
        index: ShardIndex,
        split: Option<Split>,
    ) -> Result<(), DataError> {
        self.rejected.extend(index.rejected);
        self.hidden += index.ignored;
        let number = self.shards.len();
        let wanted = Wanted {
            images: self.images,
            texts: self.captions,
        };
        let extensions = std::mem::take(&mut self.extensions);
        let mut unread = std::mem::take(&mut self.unread);
        let items = index.items.into_iter();
        let samples = items.flat_map(|item| extensions.samples(item, wanted, &mut unread));
        for mut item in samples.collect::<Vec<_>>() {
            let has = |item: &Item, wanted: fn(MemberKind) -> bool| {
                item.members.iter().any(|member| wanted(member.kind))
            };
            let is_text = |kind: MemberKind| !kind.is_image();
            if self.images && !has(&item, MemberKind::is_first_image) {
                self.lacking.add("without an image");
                continue;
            }
            if self.captions {
                let texts = has(&item, is_text);
                let all = item.members.len();
                item.members
                    .retain(|member| member.size > 0 || member.kind.is_image());
                let empty = item.members.len() < all;
                if !has(&item, is_text) {
                    self.lacking
                        .add(if texts { EMPTY_TEXT } else { WITHOUT_TEXT });
                    continue;
                }
                // A sample without a caption in its .txt usually has none in its .json either; that is not damage.
                let found = empty.then(|| self.texts_in(&shard, &item.members));
                match found {
                    Some(Ok(Texts::Captions(captions))) if captions.is_empty() => {
                        self.lacking.add(EMPTY_TEXT);
                        continue;
                    }
                    Some(Err(error)) => {
                        let place = Place {
                            file: shard.name.clone(),
                            line: item.at,
                        };
                        let error = SampleError::new(place, error);
                        if error.is_unavailable() {
                            return Err(DataError::unavailable(&error));
                        }
                        self.rejected.push(error);
                        continue;
                    }
                    Some(Ok(_)) | None => {}
                }
            }
            item.members
                .retain(|member| self.images || !member.kind.is_image());
            let split = split.unwrap_or_else(|| {
                let held_out = unit(hash_text(Stream::Split, &item.key)) < self.val_fraction;
                self.drawn.0 += 1;
                self.drawn.1 += usize::from(held_out);
                if held_out { Split::Val } else { Split::Train }
            });
            self.parts[split].push(number, &item);
        }
        (self.extensions, self.unread) = (extensions, unread);
        self.shards.push(shard);
        Ok(())
    }

    fn nothing(&self, config: &WebDatasetConfig) -> DataError {
        const SHOWN: usize = 3;
        let mut reason = format!("no sample in {} shards can be used", self.shards.len());
        for left_out in [&self.left_out, &self.lacking] {
            if left_out.total() > 0 {
                reason += &format!("; {left_out}");
            }
        }
        if !self.unread.is_empty() {
            reason += &format!(
                "; extensions that are not read: {}; `data.webdataset.image_extensions` names those of images, \
                 `data.webdataset.text_extensions` those of texts",
                self.unread
            );
        }
        if !self.rejected.is_empty() {
            reason += &format!("; {} members are unusable:", self.rejected.len());
            for rejected in self.rejected.iter().take(SHOWN) {
                reason += &format!(" {rejected}.");
            }
        }
        let first = config.urls.iter().chain(&config.train).next();
        DataError::Manifest {
            path: first.cloned().unwrap_or_default(),
            reason,
        }
    }

    /// The name in descriptions.
    fn name(&self) -> String {
        let names: Vec<&str> = match self.shards.as_slice() {
            [first, .., last] => vec![&first.name, &last.name],
            shards => shards.iter().map(|shard| &*shard.name).collect(),
        };
        format!("{} tar shards ({})", self.shards.len(), names.join(" .. "))
    }

    fn part(&self, split: Split) -> &Part {
        &self.parts[split]
    }

    fn bad(&self, split: Split, index: usize, reason: impl Into<ReadError>) -> SampleError {
        SampleError::new(self.place(split, index), reason.into())
    }
}

#[cfg(test)]
mod tests;
