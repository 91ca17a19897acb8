//! Finds the shards and their members.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{DataError, Place, SampleError};
use crate::sources::given::{MOST_SHARDS, expand};
use crate::sources::left_out::LeftOut;
use crate::sources::pack;
use crate::sources::splits::Split;
use crate::sources::webdataset::Shard;
use crate::store::found::Found;
use crate::store::shards::{self, MemberLimits, ShardIndex};
use crate::store::unpack::{Cache, Compression, Refused};
use crate::store::{self, Object, Storage};

/// A shard to open.
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// The split of its samples; `None`: it is drawn.
    pub(super) split: Option<Split>,
    /// Whether an index is known to exist beside it. For a URL, a missing index cannot be told from a failure.
    pub(super) indexed: bool,
}

impl Listed {
    pub(super) fn new(path: PathBuf, split: Option<Split>) -> Self {
        Self {
            indexed: !store::is_remote(&path),
            path,
            split,
        }
    }
}

/// The shards that patterns name.
pub(super) struct List<'a> {
    storage: &'a Storage,
    pub(super) shards: Vec<Listed>,
    pub(super) left_out: LeftOut,
    pub(super) without_images: bool,
    pub(super) without_captions: bool,
}

impl<'a> List<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Self {
            storage,
            shards: Vec::new(),
            left_out: LeftOut::new("shards"),
            without_images: false,
            without_captions: false,
        }
    }

    pub(super) fn add(
        &mut self,
        patterns: &[PathBuf],
        split: Option<Split>,
    ) -> Result<(), DataError> {
        for pattern in patterns {
            let wrong = |reason| DataError::Manifest {
                path: pattern.clone(),
                reason,
            };
            let paths = if pattern.exists() {
                vec![pattern.clone()]
            } else {
                expand(&pattern.to_string_lossy())
                    .map_err(wrong)?
                    .into_iter()
                    .map(PathBuf::from)
                    .collect()
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

    /// A folder made by `unimo data pack`, several of them named `train`, `val` and `test`, or a folder of tar files. Tar files, or
    /// folders of them, whose names are splits belong to those splits, if some belong to training.
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
        let beside = |file: &str| {
            if store::is_remote(path) {
                let text = path.to_string_lossy();
                let folder = text.rsplit_once('/').map_or("", |(folder, _)| folder);
                PathBuf::from(format!("{folder}/{file}"))
            } else {
                path.with_file_name(file)
            }
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

/// Everything needed to open shards.
pub(super) struct Opening<'a> {
    pub(super) storage: &'a Storage,
    pub(super) cache: Option<&'a Cache>,
    pub(super) found: Option<&'a Found>,
    pub(super) limits: MemberLimits,
}

impl Opening<'_> {
    pub(super) fn shard(&self, listed: &Listed) -> Result<(Shard, ShardIndex), DataError> {
        let path = &*listed.path;
        let wrong = |error| DataError::unread(path, error);
        let object = self.storage.open(path).map_err(wrong)?;
        let remote = store::is_remote(path);
        if remote && !listed.indexed {
            // A layout found earlier also shows that the shard is not compressed.
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
        let index = if listed.indexed {
            shards::read_index(self.storage, path, object.size())
        } else {
            Ok(None)
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
            // A scan instead would list other samples than the index does.
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
