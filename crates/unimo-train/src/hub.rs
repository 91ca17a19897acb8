//! Public checkpoints by their Hugging Face id, through the `hf-hub` crate and its cache, which is shared with Python.
//!
//! `HF_HOME` is the folder of the cache, `HF_ENDPOINT` the server, and `HF_TOKEN` or the saved token the login. With
//! `HF_HUB_OFFLINE=1` no server is asked. An id may name a revision: `FacebookAI/roberta-base@COMMIT`.

use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use unimo_encoders::public::read_json;

use crate::error::TrainError;

/// Files that describe a model; the first one that exists decides which model it is.
const CONFIGS: [&str; 2] = ["config.json", "open_clip_config.json"];
/// Files that hold the weights; the first one that exists is used.
const WEIGHTS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
];
/// Files that may accompany them.
#[cfg(feature = "hub")]
const BESIDE: [&str; 11] = [
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// An id with its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Id {
    repository: String,
    revision: String,
}

impl Id {
    /// Parses `OWNER/NAME` or `OWNER/NAME@REVISION`.
    fn parse(given: &str) -> Option<Self> {
        let (repository, revision) = given.split_once('@').unwrap_or((given, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
        };
        let mut parts = repository.split('/');
        let is_id = match (parts.next(), parts.next(), parts.next()) {
            (Some(owner), Some(name), None) => plain(owner) && plain(name),
            _ => false,
        };
        (is_id && revision.split('/').all(plain)).then(|| Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(
            self.repository.clone(),
            RepoType::Model,
            self.revision.clone(),
        )
    }
}

/// Whether this could be an id. An existing path has precedence.
pub fn is_id(given: &str) -> bool {
    Id::parse(given).is_some()
}

/// An existing file or folder, or the folder of a Hugging Face id, fetched if the cache lacks it.
///
/// # Errors
///
/// It does not exist and is not an id, or cannot be fetched.
pub fn resolve(given: &str) -> Result<PathBuf, TrainError> {
    let offline = std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false" | "no" | "off"));
    let hub = Hub {
        cache: Cache::from_env(),
        #[cfg(feature = "hub")]
        endpoint: None,
        offline,
        #[cfg(feature = "hub")]
        retries: 3,
    };
    hub.resolve(given)
}

/// As [`resolve`], for what describes a model: its weights are not fetched, and need not be there.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_description(given: &str) -> Result<PathBuf, TrainError> {
    let path = Path::new(given);
    if !path.exists()
        && let Some(id) = Id::parse(given)
    {
        let cache = Cache::from_env().repo(id.repo());
        if let Some(folder) = cache.get(CONFIGS[0]).as_deref().and_then(Path::parent) {
            return Ok(folder.to_owned());
        }
    }
    // Not in the cache: training would fetch it next.
    resolve(given)
}

/// Where an existing file or folder, or a complete Hugging Face id of the cache lies. Nothing is fetched.
pub fn here(given: &str) -> Option<PathBuf> {
    let path = Path::new(given);
    if path.exists() {
        return Some(path.to_owned());
    }
    Id::parse(given).and_then(|id| cached(&Cache::from_env(), &id))
}

/// The cache and the server.
struct Hub {
    cache: Cache,
    /// `None`: as the environment says.
    #[cfg(feature = "hub")]
    endpoint: Option<String>,
    offline: bool,
    #[cfg(feature = "hub")]
    retries: usize,
}

impl Hub {
    fn resolve(&self, given: &str) -> Result<PathBuf, TrainError> {
        let path = Path::new(given);
        if path.exists() {
            return Ok(path.to_owned());
        }
        let wrong = |reason: String| TrainError::Hub {
            given: given.to_owned(),
            reason,
        };
        let id = Id::parse(given).ok_or_else(|| {
            wrong("there is no such file or folder, and it is no Hugging Face id (OWNER/NAME, or OWNER/NAME@REVISION)".to_owned())
        })?;
        if let Some(folder) = cached(&self.cache, &id) {
            return Ok(folder);
        }
        let place = self.cache.path().display();
        if self.offline {
            return Err(wrong(format!(
                "it is not in the cache {place}, and HF_HUB_OFFLINE forbids to fetch it"
            )));
        }
        #[cfg(feature = "hub")]
        return self.fetch(&id).map_err(|error| {
            wrong(format!(
                "it is no file or folder here, is not in the cache {place}, and cannot be fetched: {error}"
            ))
        });
        #[cfg(not(feature = "hub"))]
        Err(wrong(format!(
            "it is no file or folder here and is not in the cache {place}; this program was built without the cargo feature `hub`, \
             which fetches it: `cargo xtask --features hub ...` builds it in"
        )))
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, id: &Id) -> Result<PathBuf, ApiError> {
        let mut builder = ApiBuilder::from_env()
            .with_cache_dir(self.cache.path().clone())
            .with_retries(self.retries);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let repo = builder.build()?.repo(id.repo());
        let there: Vec<String> = repo
            .info()?
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect();
        let has = |name: &&&str| there.iter().any(|other| other == *name);
        let first = |names: &'static [&'static str]| names.iter().find(has);
        for name in BESIDE.iter().filter(has) {
            repo.get(name)?;
        }
        let config = repo.get(first(&CONFIGS).unwrap_or(&CONFIGS[0]))?;
        let weights = repo.get(first(&WEIGHTS).unwrap_or(&WEIGHTS[0]))?;
        for shard in shards(&weights).unwrap_or_default() {
            repo.get(&shard)?;
        }
        Ok(config.parent().unwrap_or(Path::new(".")).to_owned())
    }
}

/// The folder in the cache, if it is complete.
fn cached(cache: &Cache, id: &Id) -> Option<PathBuf> {
    let cache = cache.repo(id.repo());
    let config = CONFIGS.iter().find_map(|name| cache.get(name))?;
    let weights = WEIGHTS.iter().find_map(|name| cache.get(name))?;
    let complete = match shards(&weights) {
        Some(shards) => shards.iter().all(|name| cache.get(name).is_some()),
        None => true,
    };
    // An interrupted fetch may lack the other files. The weights come last for this reason.
    (complete && weights.parent() == config.parent())
        .then(|| config.parent().map(Path::to_owned))?
}

/// The shards that an index names, if the file is an index. Names that point elsewhere are left out here and refused when the index
/// is opened.
fn shards(weights: &Path) -> Option<Vec<String>> {
    if weights.extension().is_none_or(|e| e != "json") {
        return None;
    }
    let json = read_json(weights).ok()?;
    let mut names: Vec<String> = json["weight_map"]
        .as_object()?
        .values()
        .filter_map(|name| name.as_str())
        .filter(|name| Path::new(name).file_name().is_some_and(|own| own == *name))
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    Some(names)
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A server on loopback with one model, which answers until the test ends.
    struct Server {
        endpoint: String,
        requests: Arc<AtomicUsize>,
    }

    fn serve(files: &[(&str, &[u8])], revision: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files: HashMap<String, Vec<u8>> = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let revision = revision.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let path = lines.next().unwrap().unwrap();
                let path = path.split(' ').nth(1).unwrap().to_owned();
                let headers: Vec<String> = lines
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                count.fetch_add(1, Ordering::Relaxed);
                let (status, extra, body) = answer(&files, &revision, &path, &headers);
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{extra}\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
            }
        });
        Server { endpoint, requests }
    }

    fn answer(
        files: &HashMap<String, Vec<u8>>,
        revision: &str,
        path: &str,
        headers: &[String],
    ) -> (&'static str, String, Vec<u8>) {
        if path == format!("/api/models/own/er/revision/{revision}") {
            let siblings: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect();
            let json = serde_json::json!({"sha": COMMIT, "siblings": siblings});
            return ("200 OK", String::new(), json.to_string().into_bytes());
        }
        let name = path.strip_prefix(&format!("/own/er/resolve/{revision}/"));
        let Some(bytes) = name.and_then(|name| files.get(name)) else {
            return ("404 Not Found", String::new(), Vec::new());
        };
        let range = headers
            .iter()
            .find_map(|h| {
                h.to_lowercase()
                    .strip_prefix("range: bytes=")
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| "0-".to_owned());
        let (first, last) = range.split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        let last: usize = last.parse().unwrap_or(bytes.len() - 1);
        let extra = format!(
            "etag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {first}-{last}/{}\r\n",
            name.unwrap().replace('.', "-"),
            bytes.len()
        );
        ("206 Partial Content", extra, bytes[first..=last].to_vec())
    }

    fn hub(cache: &Path, endpoint: &str, offline: bool) -> Hub {
        Hub {
            cache: Cache::new(cache.to_owned()),
            endpoint: Some(endpoint.to_owned()),
            offline,
            retries: 0,
        }
    }

    #[test]
    fn a_model_is_fetched_once_and_then_found_offline() {
        let index = br#"{"weight_map": {"a": "part-1.safetensors", "b": "../outside"}}"#;
        let server = serve(
            &[
                ("config.json", b"{}"),
                ("vocab.txt", b"words"),
                ("README.md", b"not needed"),
                ("model.safetensors.index.json", index),
                ("part-1.safetensors", b"weights"),
            ],
            "v2",
        );
        let cache = tempfile::tempdir().unwrap();
        let folder = hub(cache.path(), &server.endpoint, false)
            .resolve("own/er@v2")
            .unwrap();
        assert_eq!(
            std::fs::read(folder.join("part-1.safetensors")).unwrap(),
            b"weights"
        );
        assert_eq!(std::fs::read(folder.join("vocab.txt")).unwrap(), b"words");
        assert!(!folder.join("README.md").exists());
        assert!(
            folder.ends_with(COMMIT),
            "the revision is pinned to its commit"
        );
        let asked = server.requests.load(Ordering::Relaxed);
        let again = hub(cache.path(), &server.endpoint, true).resolve("own/er@v2");
        assert_eq!(again.unwrap(), folder);
        assert_eq!(server.requests.load(Ordering::Relaxed), asked);
    }

    #[test]
    fn what_cannot_be_had_is_a_clear_error() {
        let cache = tempfile::tempdir().unwrap();
        let nobody = "http://127.0.0.1:9";
        let error = |hub: &Hub, given: &str| hub.resolve(given).unwrap_err().to_string();
        let offline = error(&hub(cache.path(), nobody, true), "own/er");
        assert!(offline.contains("HF_HUB_OFFLINE"), "{offline}");
        let unreachable = error(&hub(cache.path(), nobody, false), "own/er");
        assert!(unreachable.contains("cannot be fetched"), "{unreachable}");
        let server = serve(&[("config.json", b"{}")], "main");
        let without_weights = error(&hub(cache.path(), &server.endpoint, false), "own/er");
        assert!(
            without_weights.contains("cannot be fetched"),
            "{without_weights}"
        );
        let path = error(&hub(cache.path(), nobody, true), "weights/roberta/base");
        assert!(path.contains("no such file or folder"), "{path}");
    }

    #[test]
    fn ids_are_told_from_paths() {
        assert!(Id::parse("FacebookAI/roberta-base").is_some());
        assert_eq!(Id::parse("a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
        for path in [
            "a", "a/b/c", "/a/b", "./a", "../a", "a/..", "a/b@", "a/b@../c", "a b/c",
        ] {
            assert_eq!(Id::parse(path), None, "{path}");
        }
    }
}
