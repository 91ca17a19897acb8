//! Samples in tar files, as the webdataset library and img2dataset write them and as `unimo data pack` does.
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
//! A sample is the members of one key: a picture (`.jpg`, `.jpeg`, `.png`, `.webp`) and its captions: all of a `.txt` (with
//! `txt = "lines"` one a line), or in `.json` under one of `caption_keys`, or the class in `.cls`. Of a pair of pictures, as in NLVR2,
//! the right one is `.second.jpg` (or `.jpeg`, `.png`, `.webp`). Samples are read where they lie; compressed shards are
//! unpacked once. The order of indices is shard by shard.
//!
//! A key ends at the first dot of a file's name, as the webdataset library has it. Where that leaves no extension that is known, but a
//! later dot does, members with the same name up to there are a sample too. `image_extensions` and `text_extensions` name other
//! extensions, such as `input.jpg` and `caption`, which are read instead of the known ones. Members that are not read are counted by
//! extension in the description, and so are samples without a picture or without a text.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unimo_batch::TextRole;

use crate::error::{DataError, Place, ReadError, SampleError};
use crate::formats::encoding::text_of;
use crate::formats::json::parse;
use crate::formats::members::{Extensions, Unread, Wanted};
use crate::images::{self, Limits};
use crate::order::draws::{Stream, hash, hash_text, unit};
use crate::order::plan::Shuffle;
use crate::settings::{not_empty, share};
use crate::sources::given::{MOST_SHARDS, expand, one_or_many, one_or_many_paths};
use crate::sources::left_out::{LeftOut, WITHOUT_TEXT};
use crate::sources::pack::{self, Record};
use crate::sources::source::{Sample, Source, SourceConfig, picture_of_bytes};
use crate::sources::splits::{BySplit, Split, drawn};
use crate::store::found::Found;
use crate::store::shards::{self, Item, Member, MemberKind, MemberLimits, ShardIndex};
use crate::store::unpack::{Cache, Compression, Refused};
use crate::store::{self, Object, RemoteConfig, Storage};
use crate::text::spaced;
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
    /// Shards that are held out, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub val: Vec<PathBuf>,
    /// Shards that are held out to the end, beside `train`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many_paths"
    )]
    pub test: Vec<PathBuf>,
    /// Share of the samples of `urls` that is held out, by a hash of the key.
    pub val_fraction: f64,
    /// Whether samples have pictures.
    pub images: bool,
    /// Whether samples have captions.
    pub captions: bool,
    /// What a `.txt` holds.
    #[serde(skip_serializing_if = "Txt::is_default")]
    pub txt: Txt,
    /// Extensions of pictures, instead of the known ones.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub image_extensions: Vec<String>,
    /// Extensions of texts, instead of the known ones; what does not end in `json` or `cls` is read as `.txt`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub text_extensions: Vec<String>,
    /// Where a `.json` holds captions: a string or a list of strings.
    #[serde(deserialize_with = "one_or_many")]
    pub caption_keys: Vec<String>,
    /// A file with a class a line, for `.cls` members that hold numbers from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// What becomes a caption of a `.cls` member; `{}` stands for the class.
    pub class_caption: String,
    /// Folder into which compressed shards are unpacked, and where it is kept what lies where in shards behind URLs that have no index
    /// beside them; that is kept in the user's cache (`~/.cache/unimo/shards`) otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Most that the cache may hold, in gigabytes (10^9 bytes).
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

/// What a `.txt` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Txt {
    /// One caption, whatever its lines.
    #[default]
    Caption,
    /// A caption a line.
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

/// Why a sample is none, where nothing is wrong with it.
const EMPTY_TEXT: &str = "with an empty text";

/// Largest text member in bytes.
const LARGEST_TEXT: u64 = 1 << 20;
/// Largest list of classes in bytes.
const LARGEST_CLASSES: u64 = 64 << 20;
/// Shards behind URLs that are opened at once.
const OPENED_AT_ONCE: usize = 16;

/// Samples in tar files. See the [module](self).
pub struct WebDataset {
    shards: Vec<Shard>,
    parts: BySplit<Part>,
    /// Samples whose split is drawn, and how many of them are held out.
    drawn: (usize, usize),
    val_fraction: f64,
    /// Shards that are of no split.
    left_out: LeftOut,
    rejected: Vec<SampleError>,
    /// Samples without a picture or a text.
    lacking: LeftOut,
    unread: Unread,
    hidden: usize,
    images: bool,
    captions: bool,
    txt: Txt,
    extensions: Extensions,
    caption_keys: Vec<String>,
    classes: Vec<String>,
    class_caption: String,
    limits: Limits,
    /// Bytes that are fetched before they are asked for; none where no shard is behind a URL.
    ahead: Option<u64>,
}

struct Shard {
    /// As it is called in places: where a compressed shard comes from.
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

/// Samples of one shard that follow each other.
struct Run {
    shard: usize,
    /// The first of them.
    first: usize,
}

struct Entry {
    at: u64,
    /// Its first member.
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

/// A shard that is to be opened.
struct Listed {
    path: PathBuf,
    /// Which split its samples are of; none: it is drawn.
    split: Option<Split>,
    /// Whether it is known to have an index beside it. Behind a URL there is no telling what is absent from what fails.
    indexed: bool,
}

impl Listed {
    fn new(path: PathBuf, split: Option<Split>) -> Self {
        Self {
            indexed: !store::is_remote(&path),
            path,
            split,
        }
    }
}

/// What a member's text holds.
enum Texts {
    Record(Box<Record>),
    Captions(Vec<String>),
}

impl WebDataset {
    /// Opens every shard and finds out what lies where.
    ///
    /// # Errors
    ///
    /// A shard is not there, a compressed one cannot be unpacked, or nothing can be used.
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
        let found = match scanned {
            true => Found::open(config.cache.as_deref())?,
            false => None,
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
        // Behind URLs it is the way that takes the time.
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
                self.lacking.add("without a picture");
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
                // What has no caption in its .txt has mostly none in its .json either, and is no damage.
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
                "; extensions that are not read: {}; `data.webdataset.image_extensions` names those of pictures, \
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

    /// What it is called in descriptions.
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
        // An index that was written beside the shard may say anything.
        if u64::from(member.size) > most {
            let reason = format!("a member of {} bytes, more than {most}", member.size);
            return Err(reason.into());
        }
        shard.object.read(member.offset, member.size as usize)
    }

    /// The picture's bytes: of the only or first one, or of the second.
    fn stored(
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

    fn picture(
        &self,
        split: Split,
        index: usize,
        which: fn(MemberKind) -> bool,
    ) -> Result<Option<RgbImage>, SampleError> {
        let picture = self.picture_of(split, index, which)?;
        Ok(picture.map(|(picture, _)| picture))
    }

    /// A picture, and which one its file holds.
    fn picture_of(
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

    fn read_texts(&self, split: Split, index: usize) -> Result<Texts, SampleError> {
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

    /// What the texts among members say.
    fn texts_in(&self, shard: &Shard, members: &[Member]) -> Result<Texts, ReadError> {
        let mut captions = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |text: &str| {
            captions.extend(spaced(text).filter(|text| seen.insert(text.clone())));
        };
        for member in members.iter().filter(|member| !member.kind.is_image()) {
            let name = member.kind.extension();
            let bytes = self.read_from(shard, member)?;
            let wrong = |reason: String| format!("its .{name}: {reason}");
            let text = text_of(&bytes).map_err(wrong)?;
            match member.kind {
                MemberKind::Json => {
                    let value: Value = parse(text.as_bytes()).map_err(wrong)?;
                    if let Some(record) = Record::of(&value) {
                        let record = record.map_err(wrong)?;
                        return Ok(Texts::Record(Box::new(record)));
                    }
                    for text in self
                        .caption_keys
                        .iter()
                        .flat_map(|key| strings(&value[key]))
                    {
                        add(text);
                    }
                }
                MemberKind::Cls => {
                    let class = self.class(text).map_err(wrong)?;
                    add(&self.class_caption.replace("{}", &class));
                }
                _ if self.txt == Txt::Lines => text.lines().for_each(&mut add),
                _ => add(text),
            }
        }
        Ok(Texts::Captions(captions))
    }

    /// The name of a class.
    fn class(&self, text: &str) -> Result<String, String> {
        let text = text.trim();
        let Ok(number) = text.parse::<usize>() else {
            return match text.is_empty() {
                true => Err("it is empty".to_owned()),
                false => Ok(text.to_owned()),
            };
        };
        self.classes.get(number).cloned().ok_or_else(|| {
            let known = self.classes.len();
            format!("class {number}, but `classes` lists {known}")
        })
    }
}

/// The texts in a value that holds captions.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn read_classes(storage: &Storage, path: &Path) -> Result<Vec<String>, DataError> {
    let read = || {
        let object = storage.open(path)?;
        let bytes = store::read_all(&*object, LARGEST_CLASSES)?;
        Ok(text_of(&bytes)?.to_owned())
    };
    let text = read().map_err(|error| DataError::unread(path, error))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// The shards that patterns name.
struct List<'a> {
    storage: &'a Storage,
    shards: Vec<Listed>,
    left_out: LeftOut,
    without_images: bool,
    without_captions: bool,
}

impl<'a> List<'a> {
    fn new(storage: &'a Storage) -> Self {
        Self {
            storage,
            shards: Vec::new(),
            left_out: LeftOut::new("shards"),
            without_images: false,
            without_captions: false,
        }
    }

    fn add(&mut self, patterns: &[PathBuf], split: Option<Split>) -> Result<(), DataError> {
        for pattern in patterns {
            let wrong = |reason| DataError::Manifest {
                path: pattern.clone(),
                reason,
            };
            let paths = match pattern.exists() {
                true => vec![pattern.clone()],
                false => expand(&pattern.to_string_lossy())
                    .map_err(wrong)?
                    .into_iter()
                    .map(PathBuf::from)
                    .collect(),
            };
            for path in paths {
                match path.is_dir() {
                    true => self.folder(&path, split)?,
                    false if path.file_name().is_some_and(|name| name == pack::INDEX) => {
                        self.packed(&path, split)?;
                    }
                    false => self.shards.push(Listed::new(path, split)),
                }
                if self.shards.len() > MOST_SHARDS {
                    return Err(wrong(format!("more than {MOST_SHARDS} shards")));
                }
            }
        }
        Ok(())
    }

    /// A folder that `unimo data pack` made, several of them called `train`, `val` and `test`, or one with tar files. Tar files, or
    /// folders of them, that are called as splits are of those splits if some are of what is trained on.
    fn folder(&mut self, folder: &Path, split: Option<Split>) -> Result<(), DataError> {
        let index = folder.join(pack::INDEX);
        if store::may_be_file(&index) {
            return self.packed(&index, split);
        }
        let parts = Split::ALL.map(|part| (part, folder.join(part.name()).join(pack::INDEX)));
        if split.is_none() && store::may_be_file(&parts[0].1) {
            for (part, index) in parts.iter().filter(|(_, index)| store::may_be_file(index)) {
                self.packed(index, Some(*part))?;
            }
            return Ok(());
        }
        let list = |error| DataError::file("list", folder, error);
        let mut paths = Vec::new();
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(list)? {
            let path = entry.map_err(list)?.path();
            let name = name_of(&path);
            let is_shard = [".tar", ".tgz", ".tar.gz", ".tar.zst"]
                .iter()
                .any(|end| name.ends_with(end));
            if is_shard {
                paths.push(path);
            } else if split.is_none() && path.is_dir() && Split::of_name(&name).is_some() {
                folders.push(path);
            }
        }
        let is_train = |path: &PathBuf| Split::of_name(&name_of(path)) == Some(Split::Train);
        if paths.is_empty() && folders.iter().any(is_train) {
            folders.sort();
            return folders
                .iter()
                .try_for_each(|path| self.folder(path, Split::of_name(&name_of(path))));
        }
        let told: Vec<_> = paths
            .iter()
            .map(|path| Split::of_file(&name_of(path)))
            .collect();
        let held_out = |told: &Option<Split>| told.is_some_and(|split| split != Split::Train);
        if split.is_none() && told.contains(&Some(Split::Train)) && told.iter().any(held_out) {
            paths.sort();
            for path in paths {
                match Split::of_file(&name_of(&path)) {
                    Some(split) => self.shards.push(Listed::new(path, Some(split))),
                    None => self.left_out.add(format!("called {:?}", name_of(&path))),
                }
            }
            return Ok(());
        }
        if paths.is_empty() {
            return Err(DataError::Manifest {
                path: folder.to_owned(),
                reason: format!("the folder has neither {} nor tar files", pack::INDEX),
            });
        }
        paths.sort();
        let listed = paths.into_iter().map(|path| Listed::new(path, split));
        self.shards.extend(listed);
        Ok(())
    }

    fn packed(&mut self, path: &Path, split: Option<Split>) -> Result<(), DataError> {
        let index = pack::read_pack(self.storage, path)?;
        self.without_images |= !index.images;
        self.without_captions |= !index.captions;
        let beside = |file: &str| match store::is_remote(path) {
            // The separator of URLs is the same everywhere.
            true => {
                let text = path.to_string_lossy();
                let folder = text.rsplit_once('/').map_or("", |(folder, _)| folder);
                PathBuf::from(format!("{folder}/{file}"))
            }
            false => path.with_file_name(file),
        };
        let shards = index.shards.iter().map(|shard| Listed {
            path: beside(&shard.file),
            split,
            indexed: true,
        });
        self.shards.extend(shards);
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What opening shards needs.
struct Opening<'a> {
    storage: &'a Storage,
    cache: Option<&'a Cache>,
    found: Option<&'a Found>,
    limits: MemberLimits,
}

impl Opening<'_> {
    fn shard(&self, listed: &Listed) -> Result<(Shard, ShardIndex), DataError> {
        let path = &*listed.path;
        let wrong = |error| DataError::unread(path, error);
        let object = self.storage.open(path).map_err(wrong)?;
        let remote = store::is_remote(path);
        if remote && !listed.indexed {
            // What was found in it before says that it is not compressed, too.
            if let Some(found) = self.found
                && let Some(index) = found.get(&*object, self.limits).map_err(wrong)?
            {
                let name = object.name().to_owned();
                return Ok((Shard { name, object }, index));
            }
        }
        if let Some(compression) = Compression::of(&*object).map_err(wrong)? {
            return self.unpacked(path, &*object, compression);
        }
        let index = match listed.indexed {
            true => shards::read_index(self.storage, path, object.size()),
            false => Ok(None),
        };
        let scan = || shards::scan(&*object, self.limits).map_err(wrong);
        let index = match index {
            Ok(Some((header, items))) => ShardIndex {
                items,
                rejected: header.rejected,
                ignored: header.ignored,
            },
            Ok(None) => {
                let index = scan()?;
                if let Some(found) = self.found.filter(|_| remote) {
                    found.put(&*object, self.limits, &index)?;
                }
                index
            }
            // A scan in its place would list other samples than the index does.
            Err(error) if error.is_unavailable() => return Err(wrong(error)),
            Err(error) => {
                let mut index = scan()?;
                let place = Place {
                    file: object.name().to_owned(),
                    line: object.size(),
                };
                let reason = format!("its index is not used: {}", error.reason);
                index.rejected.push(SampleError::new(place, reason));
                index
            }
        };
        let name = object.name().to_owned();
        Ok((Shard { name, object }, index))
    }

    fn unpacked(
        &self,
        path: &Path,
        object: &dyn Object,
        compression: Compression,
    ) -> Result<(Shard, ShardIndex), DataError> {
        let name = object.name().to_owned();
        let cache = self.cache.ok_or_else(|| {
            DataError::config(
                "data.webdataset.cache",
                "absent",
                format!("a folder, since {name} is compressed and has to be unpacked"),
            )
        })?;
        let (unpacked, index) = cache
            .get(object, compression, self.limits)
            .map_err(|refused| match refused {
                Refused::Folder(error) => error,
                Refused::Unread(error) => DataError::unread(path, error),
                Refused::Full(most) => DataError::config(
                    "data.webdataset.cache_gb",
                    most as f64 / 1e9,
                    format!("more: the cache is full and {name} is not unpacked"),
                ),
            })?;
        let object = Arc::new(unpacked);
        Ok((Shard { name, object }, index))
    }
}

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
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let part = self.part(split);
        Place {
            file: self.shards[part.shard(index)].name.clone(),
            line: part.entries[index].at,
        }
    }

    /// A shard's name without its folder, and where the sample lies in it: nothing is read.
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

    fn has_images(&self) -> bool {
        self.images
    }

    fn has_captions(&self) -> bool {
        self.captions
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

    fn roles(&self, split: Split, index: usize) -> Result<Vec<TextRole>, SampleError> {
        // Only what `pack` wrote says it, and its records are in `.json`.
        let members = self.part(split).members(index);
        if !self.captions || !members.iter().any(|m| m.kind == MemberKind::Json) {
            return Ok(Vec::new());
        }
        Ok(match self.read_texts(split, index)? {
            Texts::Record(record) => record.roles(),
            Texts::Captions(_) => Vec::new(),
        })
    }

    /// Texts are not read for this: of samples of one kind, which lie together, a few tell.
    fn all_describe(&self, split: Split) -> bool {
        const LOOKED_AT: usize = 16;
        let all = self.len(split);
        let mut looked_at = (0..all).step_by(all.div_ceil(LOOKED_AT).max(1));
        looked_at.all(|index| self.roles(split, index).is_ok_and(|roles| roles.is_empty()))
    }

    fn has_second_images(&self, split: Split) -> bool {
        let members = &self.part(split).members;
        members.iter().any(|member| member.kind.is_second_image())
    }

    fn phrases(&self, split: Split, index: usize) -> Result<Vec<Vec<String>>, SampleError> {
        Ok(match self.read_texts(split, index)? {
            Texts::Record(record) => record.phrases,
            Texts::Captions(_) => Vec::new(),
        })
    }

    fn tags(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(match self.read_texts(split, index)? {
            Texts::Record(record) => record.tags,
            Texts::Captions(_) => Vec::new(),
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
            // Extensions may say anything.
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
        // The same file may lie under several keys, so what a picture is says its content.
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

    fn reads_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        let Some(budget) = self.ahead else {
            return;
        };
        let part = self.part(split);
        // Where all of the shards that are mixed have room together, whole pieces of them are read.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::given::expand;
    use image::{ImageFormat, Rgb};
    use std::io::{Cursor, Write};

    const LIMITS: Limits = Limits::full_size(1_000_000);

    fn png(shade: u8) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(3, 2, Rgb([shade; 3]))
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// Samples `first..last`, each with a picture of that shade and a text that says so.
    fn shard(first: u8, last: u8) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for number in first..last {
            for (extension, bytes) in [
                ("png", png(number)),
                ("txt", format!("number {number}\n").into_bytes()),
            ] {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                let name = format!("{number:04}.{extension}");
                tar.append_data(&mut header, name, bytes.as_slice())
                    .unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    fn urls(pattern: PathBuf) -> WebDatasetConfig {
        WebDatasetConfig {
            urls: vec![pattern],
            val_fraction: 0.0,
            ..WebDatasetConfig::default()
        }
    }

    fn open(config: &WebDatasetConfig) -> Result<WebDataset, DataError> {
        config.validate("data.webdataset")?;
        WebDataset::open(config, &LIMITS)
    }

    fn refused(config: &WebDatasetConfig) -> String {
        open(config).err().unwrap().to_string()
    }

    fn all(source: &WebDataset, split: Split) -> Vec<(String, u8)> {
        (0..source.len(split))
            .map(|at| {
                let picture = source.image(split, at).unwrap().unwrap();
                let captions = source.captions(split, at).unwrap();
                (captions.join("|"), picture.get_pixel(0, 0).0[0])
            })
            .collect()
    }

    fn numbers(range: std::ops::Range<u8>) -> Vec<(String, u8)> {
        range.map(|n| (format!("number {n}"), n)).collect()
    }

    #[test]
    fn shards_and_folders_that_are_called_as_splits_are_splits() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, first: u8, last: u8| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, shard(first, last)).unwrap();
        };
        write("beside/cc-train-0.tar", 0, 3);
        write("beside/cc-train-1.tar", 3, 5);
        write("beside/cc-validation-0.tar", 5, 6);
        write("beside/cc-test-0.tar", 6, 8);
        write("beside/cc-other-0.tar", 8, 9);
        write("within/Train/0.tar", 0, 5);
        write("within/dev/0.tar", 5, 6);
        write("within/test2015/0.tar", 6, 8);
        for (name, left_out) in [
            ("beside", "1 shards left out (1 called \"cc-other-0.tar\")"),
            ("within", ""),
        ] {
            let mut config = urls(folder.path().join(name));
            config.val_fraction = 0.5;
            let source = open(&config).unwrap();
            assert_eq!(all(&source, Split::Train), numbers(0..5));
            assert_eq!(all(&source, Split::Val), numbers(5..6));
            assert_eq!(all(&source, Split::Test), numbers(6..8));
            assert!(
                source.describe().contains(left_out),
                "{}",
                source.describe()
            );
            assert!(source.notes().is_empty());
        }
        // Names that tell nothing, or of test shards alone, leave the share.
        write("test-only/test-0.tar", 0, 9);
        let mut config = urls(folder.path().join("test-only"));
        config.val_fraction = 0.3;
        let source = open(&config).unwrap();
        assert!(source.is_empty(Split::Test));
        assert!(
            source.notes()[0].contains("of 9 samples"),
            "{:?}",
            source.notes()
        );
    }

    #[test]
    fn a_picture_is_told_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.tar");
        let (one, two) = (png(1), png(2));
        let members: [(&str, &[u8]); 6] = [
            ("a.png", &one),
            ("a.txt", b"one"),
            ("b.png", &two),
            ("b.txt", b"two"),
            ("c.png", &one),
            ("c.txt", b"one again"),
        ];
        std::fs::write(&path, tar_of(&members)).unwrap();
        let source = open(&urls(path)).unwrap();
        let id = |index| source.sample(Split::Train, index).unwrap().picture_id;
        assert!(id(0).is_some() && id(0) == id(2) && id(0) != id(1));
    }

    #[test]
    fn patterns_stand_for_paths() {
        let expanded = |pattern| expand(pattern).unwrap();
        assert_eq!(expanded("a.tar"), ["a.tar"]);
        assert_eq!(
            expanded("{8..11}.tar"),
            ["8.tar", "9.tar", "10.tar", "11.tar"]
        );
        assert_eq!(expanded("a{008..010}"), ["a008", "a009", "a010"]);
        assert_eq!(expanded("{x,y}/{1..2}"), ["x/1", "x/2", "y/1", "y/2"]);
        assert_eq!(expanded("a{,b}"), ["a", "ab"]);
        for bad in [
            "{",
            "}",
            "a{b",
            "{a}",
            "{}",
            "{1..}",
            "{..1}",
            "{2..1}",
            "{a..b}",
            "{1..2",
            "{{1..2}}",
            "{-1..2}",
            "{0..18446744073709551615}",
            "{0..99999999999999999999999}",
            "{0..999}{0..999}{0..999}",
        ] {
            assert!(expand(bad).is_err(), "{bad}");
        }
        assert!(expand(&"{0..9}".repeat(1000)).is_err());
        assert!(expand(&format!("{{{}1..2}}", "0".repeat(1 << 20))).is_err());
    }

    #[test]
    fn shards_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (at, (first, last)) in [(0, 5), (5, 5), (5, 9)].into_iter().enumerate() {
            std::fs::write(
                folder.path().join(format!("{at:03}.tar")),
                shard(first, last),
            )
            .unwrap();
        }
        let source = open(&urls(folder.path().join("{000..002}.tar"))).unwrap();
        assert_eq!(all(&source, Split::Train), numbers(0..9));
        assert_eq!(source.shards(Split::Train), [5, 4]);
        assert_eq!(source.shards(Split::Val), [0usize; 0]);
        assert!(source.rejected().is_empty(), "{:?}", source.rejected());
        let (bytes, extension) = source.image_bytes(Split::Train, 3).unwrap().unwrap();
        assert_eq!((bytes, extension), (png(3), "png"));
        let place = source.place(Split::Train, 6);
        assert!(
            place.file.ends_with("002.tar") && place.line == 2048,
            "{place}"
        );

        let whole = open(&urls(folder.path().to_owned())).unwrap();
        assert_eq!(all(&whole, Split::Train), numbers(0..9));

        let split = open(&WebDatasetConfig {
            urls: Vec::new(),
            train: vec![folder.path().join("002.tar")],
            val: vec![folder.path().join("000.tar")],
            ..urls(PathBuf::new())
        })
        .unwrap();
        assert_eq!(all(&split, Split::Train), numbers(5..9));
        assert_eq!(all(&split, Split::Val), numbers(0..5));
    }

    #[test]
    fn a_share_is_held_out_within_shards() {
        let folder = tempfile::tempdir().unwrap();
        for (at, first) in [0, 100].into_iter().enumerate() {
            std::fs::write(
                folder.path().join(format!("{at}.tar")),
                shard(first, first + 100),
            )
            .unwrap();
        }
        let mut config = urls(folder.path().join("{0..1}.tar"));
        config.val_fraction = 0.25;
        let source = open(&config).unwrap();
        let (mut train, val) = (all(&source, Split::Train), all(&source, Split::Val));
        // Five standard deviations of a binomial of 200 at 0.25.
        const TOLERANCE: usize = 31;
        assert!(val.len().abs_diff(50) < TOLERANCE, "{}", val.len());
        for split in [Split::Train, Split::Val] {
            assert_eq!(source.shards(split).len(), 2);
            assert_eq!(
                source.shards(split).iter().sum::<usize>(),
                source.len(split)
            );
        }
        train.extend(val);
        train.sort_by_key(|(_, number)| *number);
        assert_eq!(train, numbers(0..200));
    }

    #[test]
    fn captions_come_from_lines_keys_and_classes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, names) = (folder.path().join("a.tar"), folder.path().join("names.txt"));
        let picture = png(1);
        let members: [(&str, &[u8]); 13] = [
            ("1.png", &picture),
            ("1.txt", b"one\n  two   words\n\none\n"),
            (
                "1.json",
                br#"{"caption": "one", "captions": ["three", 4], "url": "x"}"#,
            ),
            ("2.png", &picture),
            ("2.cls", b"1\n"),
            ("3.png", &picture),
            ("3.json", br#"{"text": "another key"}"#),
            ("4.png", &picture),
            ("4.json", b"{\"caption\": "),
            ("5.png", &picture),
            ("5.txt", b"\xff"),
            ("6.png", &picture),
            ("6.cls", b"9"),
        ];
        std::fs::write(&path, tar_of(&members)).unwrap();
        std::fs::write(&names, "cat\ndog\n").unwrap();
        let mut config = urls(path);
        config.classes = Some(names);
        // Lines are captions only where a setting says so.
        let whole = open(&config).unwrap();
        assert_eq!(
            whole.captions(Split::Train, 0).unwrap(),
            ["one two words one", "one", "three"]
        );
        config.txt = Txt::Lines;
        let source = open(&config).unwrap();
        assert_eq!(source.len(Split::Train), 6);
        let captions = |at| source.captions(Split::Train, at);
        assert_eq!(captions(0).unwrap(), ["one", "two words", "three"]);
        assert_eq!(captions(1).unwrap(), ["a photo of a dog"]);
        for (at, part) in [
            (2, "caption, captions"),
            (3, "its .json"),
            (4, "UTF-8"),
            (5, "class 9"),
        ] {
            let error = captions(at).unwrap_err();
            assert!(error.reason.contains(part), "{error}");
            assert!(source.sample(Split::Train, at).is_err());
        }
    }

    #[test]
    fn samples_that_lack_something_are_counted_unless_it_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let picture = png(1);
        let members: [(&str, &[u8]); 4] = [
            ("1.png", &picture),
            ("1.txt", b"one"),
            ("2.png", &picture),
            ("3.txt", b"three"),
        ];
        std::fs::write(&path, tar_of(&members)).unwrap();
        let both = open(&urls(path.clone())).unwrap();
        assert_eq!((both.len(Split::Train), both.items()), (1, 1));
        assert!(both.rejected().is_empty());
        let left = "2 samples left out (1 without a picture, 1 without a text), 0 unusable";
        assert!(both.describe().contains(left), "{}", both.describe());

        let mut config = urls(path.clone());
        config.images = false;
        let texts = open(&config).unwrap();
        assert_eq!((texts.len(Split::Train), texts.has_images()), (2, false));
        assert_eq!(texts.image(Split::Train, 0).unwrap(), None);

        let mut config = urls(path);
        config.captions = false;
        let pictures = open(&config).unwrap();
        assert_eq!(
            (pictures.len(Split::Train), pictures.has_captions()),
            (2, false)
        );
        assert!(
            pictures
                .sample(Split::Train, 1)
                .unwrap()
                .captions
                .is_empty()
        );
    }

    #[test]
    fn what_python_writes_and_what_has_no_caption() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let picture = png(1);
        let members: [(&str, &[u8]); 20] = [
            ("0.png", &picture),
            (
                "0.json",
                br#"{"caption": "red", "similarity": NaN, "clip": -Infinity}"#,
            ),
            ("0.txt", b"\xef\xbb\xbfred"),
            ("1.png", &picture),
            ("1.json", b"\xef\xbb\xbf{\"caption\": \"cut \\ud83d\"}"),
            ("2.png", &picture),
            ("2.json", br#"{"caption": null}"#),
            ("2.txt", b""),
            ("3.png", &picture),
            ("3.json", br#"{"caption": NaN}"#),
            ("3.txt", b""),
            ("4.png", &picture),
            ("4.json", br#"{"caption": "only here"}"#),
            ("4.txt", b""),
            ("5.png", &picture),
            ("5.txt", b""),
            ("6.png", &picture),
            ("6.txt", b"\xff\xfea\0"),
            ("7.png", &picture),
            ("7.gif", b"GIF89a"),
        ];
        std::fs::write(&path, tar_of(&members)).unwrap();
        let source = open(&urls(path)).unwrap();
        let captions: Vec<_> = (0..source.len(Split::Train))
            .map(|at| source.captions(Split::Train, at).map_err(|e| e.reason))
            .collect();
        let good = |text: &str| Ok(vec![text.to_owned()]);
        assert_eq!(
            captions[..3],
            [good("red"), good("cut \u{fffd}"), good("only here")]
        );
        let reason = captions[3].as_ref().unwrap_err();
        assert!(reason.contains("UTF-16"), "{reason}");
        assert!(source.rejected().is_empty());
        let said = "4 samples left out (3 with an empty text, 1 without a text), 0 unusable, \
                    extensions that are not read: .gif (1)";
        assert!(source.describe().contains(said), "{}", source.describe());
    }

    #[test]
    fn names_with_dots_and_other_extensions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let picture = png(1);
        let mut members: Vec<(String, &[u8])> = Vec::new();
        let names = [
            "22.05",
            "dir v2.0/1.1",
            "photo 3.5 (copy)",
            "a.b.c",
            "plain",
        ];
        for name in names {
            members.push((format!("{name}.png"), &picture));
            members.push((format!("{name}.txt"), name.as_bytes()));
        }
        let tar = |members: &[(String, &[u8])]| {
            let members: Vec<_> = members
                .iter()
                .map(|(name, b)| (name.as_str(), *b))
                .collect();
            std::fs::write(&path, tar_of(&members)).unwrap();
        };
        tar(&members);
        let source = open(&urls(path.clone())).unwrap();
        let captions = (0..5).map(|at| source.captions(Split::Train, at).unwrap().concat());
        assert_eq!(captions.collect::<Vec<_>>(), names);
        let places: HashSet<_> = (0..5).map(|at| source.place(Split::Train, at)).collect();
        assert_eq!(places.len(), 5);

        members.clear();
        for number in 0..4 {
            members.push((format!("{number}.input.png"), &picture));
            members.push((format!("{number}.outputs.txt"), b"class"));
        }
        tar(&members);
        let message = refused(&urls(path.clone()));
        for part in [
            ".input.png (4), .outputs.txt (4)",
            "`data.webdataset.image_extensions`",
            "`data.webdataset.text_extensions`",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mut config = urls(path);
        config.image_extensions = vec!["input.png".to_owned()];
        config.text_extensions = vec![".outputs.txt".to_owned()];
        let source = open(&config).unwrap();
        assert_eq!(all(&source, Split::Train), vec![("class".to_owned(), 1); 4]);
    }

    #[test]
    fn a_damaged_member_costs_its_sample_and_a_vanished_shard_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        let picture = png(1);
        let members: [(&str, &[u8]); 4] = [
            ("1.png", b"no picture"),
            ("1.txt", b"one"),
            ("2.png", &picture),
            ("2.txt", b"two"),
        ];
        std::fs::write(&one, tar_of(&members)).unwrap();
        std::fs::write(&two, shard(3, 5)).unwrap();
        let source = open(&urls(folder.path().join("{1..2}.tar"))).unwrap();
        let error = source.image(Split::Train, 0).unwrap_err();
        assert!(
            error.reason.contains("its .png") && error.place.line == 0,
            "{error}"
        );
        std::fs::remove_file(&two).unwrap();
        assert!(source.image(Split::Train, 1).is_ok());
        let error = source.image(Split::Train, 2).unwrap_err();
        assert!(error.place.file.ends_with("2.tar"), "{error}");
    }

    #[test]
    fn settings_and_shards_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let message = refused(&urls(path.clone()));
        assert!(message.contains("a.tar"), "{message}");
        std::fs::write(&path, b"no tar at all").unwrap();
        let message = refused(&urls(path.clone()));
        assert!(
            message.contains("can be used") && message.contains("header"),
            "{message}"
        );
        let empty = tempfile::tempdir().unwrap();
        let message = refused(&urls(empty.path().to_owned()));
        assert!(
            message.contains("neither index.json nor tar files"),
            "{message}"
        );

        type Change = fn(&mut WebDatasetConfig);
        let cases: [(&str, Change); 11] = [
            ("image_extensions", |c| c.image_extensions.push(".".into())),
            ("text_extensions", |c| {
                c.image_extensions.push("x".into());
                c.text_extensions.push("x".into());
            }),
            ("urls", |c| c.urls.clear()),
            ("urls", |c| c.urls.push("a{b".into())),
            ("train", |c| c.train.push("x".into())),
            ("val", |c| c.val.push("x".into())),
            ("val_fraction", |c| c.val_fraction = 2.0),
            ("captions", |c| (c.images, c.captions) = (false, false)),
            ("caption_keys", |c| c.caption_keys.push(String::new())),
            ("class_caption", |c| c.class_caption = "x".into()),
            ("cache_gb", |c| c.cache_gb = f64::NAN),
        ];
        for (key, change) in cases {
            let mut config = urls(path.clone());
            change(&mut config);
            let message = refused(&config);
            assert!(
                message.contains(&format!("`data.webdataset.{key}`")),
                "{message}"
            );
        }
    }

    #[test]
    fn compressed_shards_are_unpacked_once_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let (one, two) = (shard(0, 20), shard(20, 40));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&one).unwrap();
        std::fs::write(folder.path().join("1.tar.gz"), gzip.finish().unwrap()).unwrap();
        // Two frames, and one between them that is to be skipped.
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let (left, right) = two.split_at(3000);
        let mut zstd = ruzstd::encoding::compress_to_vec(left, level);
        zstd.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        zstd.extend(ruzstd::encoding::compress_to_vec(right, level));
        let second = folder.path().join("2.tar.zst");
        std::fs::write(&second, &zstd).unwrap();

        let mut config = urls(folder.path().to_owned());
        let message = refused(&config);
        assert!(message.contains("data.webdataset.cache`"), "{message}");
        config.cache = Some(cache.clone());
        config.cache_gb = 1e-5;
        let message = refused(&config);
        assert!(
            message.contains("cache_gb") && message.contains("full"),
            "{message}"
        );
        config.cache_gb = 1.0;
        let source = open(&config).unwrap();
        assert_eq!(all(&source, Split::Train), numbers(0..40));
        assert!(source.rejected().is_empty(), "{:?}", source.rejected());
        assert!(source.place(Split::Train, 0).file.ends_with("1.tar.gz"));

        let unpacked = || {
            let files = std::fs::read_dir(&cache).unwrap();
            let mut files: Vec<_> = files
                .map(|file| file.unwrap())
                .map(|file| (file.path(), file.metadata().unwrap().modified().unwrap()))
                .collect();
            files.sort();
            files
        };
        let before = unpacked();
        assert_eq!(before.len(), 4);
        assert_eq!(all(&open(&config).unwrap(), Split::Train), numbers(0..40));
        assert_eq!(unpacked(), before);

        // What can be unpacked of a damaged shard is used, and the rest is listed, also when it is opened again.
        std::fs::write(&second, &zstd[..zstd.len() - 200]).unwrap();
        for _ in 0..2 {
            let source = open(&config).unwrap();
            let found = source.len(Split::Train);
            assert!((20..40).contains(&found), "{found}");
            let reasons: Vec<String> = source.rejected().iter().map(|e| e.to_string()).collect();
            assert!(
                reasons
                    .iter()
                    .any(|r| r.contains("2.tar.zst") && r.contains("cannot be unpacked")),
                "{reasons:?}"
            );
        }
    }

    #[test]
    fn an_index_that_does_not_fit_is_listed_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, shard(0, 3)).unwrap();
        std::fs::write(shards::IndexHeader::path(&path), b"{}\n").unwrap();
        let source = open(&urls(path)).unwrap();
        assert_eq!(all(&source, Split::Train), numbers(0..3));
        assert_eq!(source.rejected().len(), 1);
        assert!(
            source.rejected()[0]
                .reason
                .contains("its index is not used")
        );
    }
}
