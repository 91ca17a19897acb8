//! Which files hold the weights of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{WeightsError, keys_are_distinct};

/// A file and, where an index named it, the tensors that it must hold.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) expected: Option<BTreeSet<String>>,
}

/// File names that are looked for in a folder; the first that exists is used.
const NAMES: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
];

/// Largest index that is read.
const MAX_INDEX: u64 = 64 << 20;

/// `*.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files at a path that a user gave.
pub(super) fn files(path: &Path) -> Result<Vec<Shard>, WeightsError> {
    let about = std::fs::metadata(path).map_err(WeightsError::file("open", path))?;
    if about.is_dir() {
        let found = NAMES
            .map(|name| path.join(name))
            .into_iter()
            .find(|p| p.is_file());
        let found = found.ok_or_else(|| {
            WeightsError::content(
                path,
                format!(
                    "holds none of {}: it is no folder of weights{}",
                    NAMES.join(", "),
                    others(path)
                ),
            )
        })?;
        return files(&found);
    }
    if path.extension().is_some_and(|e| e == "json") {
        return shards(path);
    }
    Ok(vec![Shard {
        path: path.to_owned(),
        expected: None,
    }])
}

/// What a file is that stands in the place of weights, as the end of a sentence; `None` if it may hold some.
pub(super) fn in_place_of_weights(path: &Path) -> Result<Option<&'static str>, WeightsError> {
    const LONGEST: u64 = 64;
    let mut start = Vec::new();
    File::open(path)
        .map_err(WeightsError::file("open", path))?
        .take(LONGEST)
        .read_to_end(&mut start)
        .map_err(WeightsError::file("read", path))?;
    let begins = |with: &str| start.starts_with(with.as_bytes());
    let text = start.trim_ascii_start();
    Ok(if start.is_empty() {
        Some("is empty")
    } else if begins("version https://git-lfs.github.com/") {
        Some("is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that")
    } else if text.starts_with(b"<!") || text.starts_with(b"<html") || text.starts_with(b"<?xml") {
        Some("is a web page, not the file that was to be downloaded")
    } else {
        None
    })
}

/// Endings of files that may hold weights.
const ENDINGS: [&str; 6] = ["safetensors", "bin", "pt", "pth", "ckpt", "index.json"];

/// Files of a folder that may hold weights under another name, as the end of a sentence.
fn others(folder: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            ENDINGS
                .iter()
                .any(|ending| name.ends_with(&format!(".{ending}")))
        })
        .collect();
    names.sort();
    if names.is_empty() {
        String::new()
    } else {
        format!(". It holds {}: give that file", names.join(", "))
    }
}

/// The files that an index names. They must lie in its own folder: an index is data from elsewhere.
fn shards(index: &Path) -> Result<Vec<Shard>, WeightsError> {
    let mut text = Vec::new();
    File::open(index)
        .map_err(WeightsError::file("open", index))?
        .take(MAX_INDEX + 1)
        .read_to_end(&mut text)
        .map_err(WeightsError::file("read", index))?;
    if text.len() as u64 > MAX_INDEX {
        return Err(WeightsError::content(index, "is too large for an index"));
    }
    let damaged =
        |e: serde_json::Error| WeightsError::content(index, format!("is no index of shards: {e}"));
    keys_are_distinct(&text).map_err(damaged)?;
    let parsed: Index = serde_json::from_slice(&text).map_err(damaged)?;
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in parsed.weight_map {
        shards.entry(file).or_default().insert(tensor);
    }
    let folder = index.parent().unwrap_or(Path::new("."));
    let mut files = Vec::with_capacity(shards.len());
    for (name, expected) in shards {
        let mut parts = Path::new(&name).components();
        let plain = matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        );
        if !plain {
            return Err(WeightsError::content(
                index,
                format!("names the shard `{name}`; shards must lie beside their index"),
            ));
        }
        files.push(Shard {
            path: folder.join(name),
            expected: Some(expected),
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        for outside in ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", ".."] {
            let map = serde_json::json!({"weight_map": {"a": outside}});
            std::fs::write(&index, map.to_string()).unwrap();
            let error = files(folder.path()).err().unwrap().to_string();
            assert!(error.contains("beside their index"), "{error}");
        }
        let map = serde_json::json!({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}});
        std::fs::write(&index, map.to_string()).unwrap();
        let found = files(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, folder.path().join("1.safetensors"));
    }

    #[test]
    fn an_empty_folder_says_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let error = files(folder.path()).err().unwrap().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}
