//! Objects behind http(s), S3, Google Cloud Storage and Azure.
//!
//! They are read in aligned blocks, which are kept in a cache of bounded size that all objects share. Where blocks are read one
//! after the other, the next one is fetched in the background. Credentials come from the environment, under the names that each
//! provider's own tools use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{
    ClientOptions, GetOptions, ObjectStore, ObjectStoreScheme, RetryConfig, path::Path,
};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::storage::{Object, RemoteConfig};

const MIB: u64 = 1 << 20;
/// Threads that wait for the net.
const THREADS: usize = 2;
/// The first pause before a request is repeated, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What objects share. Nothing runs before the first one is opened.
pub(crate) struct Remote {
    config: RemoteConfig,
    shared: OnceLock<Result<Arc<Shared>, String>>,
    /// Connections, by the part of the URL before the path.
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    opened: AtomicU64,
}

struct Shared {
    /// Never none but while it is dropped.
    runtime: Option<Runtime>,
    blocks: Arc<Blocks>,
    config: RemoteConfig,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A block that is still on its way is of no use any more, and waiting for it would hang.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Remote {
    pub(crate) fn new(config: RemoteConfig) -> Self {
        Self {
            config,
            shared: OnceLock::new(),
            stores: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    pub(crate) fn open(&self, location: &str) -> Result<Arc<dyn Object>, String> {
        let url = Url::parse(location).map_err(|error| error.to_string())?;
        if url.query().is_some() {
            return Err("URLs with `?` are not read".to_owned());
        }
        let (store, path) = self.store(&url)?;
        let shared = self.shared.get_or_init(|| self.start()).clone()?;
        let source = Arc::new(Origin {
            store,
            path,
            timeout: Duration::from_secs_f64(self.config.timeout_s),
            retries: self.config.retries,
        });
        let size = shared.wait(source.size())?;
        Ok(Arc::new(RemoteObject {
            name: location.to_owned(),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            size,
            source,
            shared,
            last: AtomicU64::new(NO_BLOCK),
        }))
    }

    fn start(&self) -> Result<Arc<Shared>, String> {
        // Whoever comes second finds the first one's choice, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start threads: {error}"))?;
        Ok(Arc::new(Shared {
            runtime: Some(runtime),
            blocks: Arc::new(Blocks {
                state: Mutex::default(),
                changed: Condvar::new(),
                most: self.config.cache_mb as u64 * MIB,
            }),
            config: self.config.clone(),
        }))
    }

    fn store(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), String> {
        // Building a client looks for the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let text = |error: object_store::Error| chain(&error);
        let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|error| error.to_string())?;
        let path = Path::parse(path).map_err(|error| error.to_string())?;
        let place = url[..url::Position::BeforePath].to_owned();
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place) {
            return Ok((Arc::clone(store), path));
        }
        let timeout = Duration::from_secs_f64(self.config.timeout_s);
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(timeout)
            .with_connect_timeout(timeout);
        // Requests are repeated here, where broken bodies are seen too.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let whole = url.as_str();
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => Arc::new(
                AmazonS3Builder::from_env()
                    .with_url(whole)
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::GoogleCloudStorage => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_url(whole)
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::MicrosoftAzure => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_url(whole)
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::Http => Arc::new(
                HttpBuilder::new()
                    .with_url(&place)
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            _ => return Err("not a URL of http(s), s3, gs or az".to_owned()),
        };
        // A bucket may be part of what comes before the path or of the path itself.
        if matches!(scheme, ObjectStoreScheme::Http) {
            stores.insert(place, Arc::clone(&store));
        }
        Ok((store, path))
    }
}

impl Shared {
    /// Waits for what the runtime does.
    fn wait<T>(&self, future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err("reading has ended".to_owned()),
        }
    }
}

/// An object where it lies.
struct Origin {
    store: Arc<dyn ObjectStore>,
    path: Path,
    timeout: Duration,
    retries: u32,
}

impl Origin {
    async fn size(&self) -> Result<u64, String> {
        let options = || GetOptions::new().with_head(true);
        self.again(|| async {
            let found = self.store.get_opts(&self.path, options()).await;
            found
                .map(|found| found.meta.size)
                .map_err(|error| chain(&error))
        })
        .await
    }

    /// The bytes from `start` to `end` of an object of `size` bytes.
    async fn bytes(&self, start: u64, end: u64, size: u64) -> Result<Bytes, String> {
        self.again(|| async {
            let options = GetOptions::new().with_range(Some(start..end));
            let found = self.store.get_opts(&self.path, options).await;
            let found = found.map_err(|error| chain(&error))?;
            if found.meta.size != size {
                return Err(format!(
                    "the object changed: it has {} bytes, it had {size}",
                    found.meta.size
                ));
            }
            let mut pieces = found.into_stream();
            let mut bytes = Vec::with_capacity((end - start) as usize);
            while let Some(piece) = pieces.try_next().await.map_err(|error| chain(&error))? {
                if (bytes.len() + piece.len()) as u64 > end - start {
                    return Err("the body is longer than what was asked for".to_owned());
                }
                bytes.extend_from_slice(&piece);
            }
            match bytes.len() as u64 == end - start {
                true => Ok(Bytes::from(bytes)),
                false => Err(format!(
                    "the body ends after {} of {} bytes",
                    bytes.len(),
                    end - start
                )),
            }
        })
        .await
    }

    async fn again<T, F: Future<Output = Result<T, String>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, String> {
        let (mut pause, longest) = PAUSES;
        let mut left = self.retries;
        loop {
            let outcome = match tokio::time::timeout(self.timeout, work()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            };
            match outcome {
                Ok(value) => return Ok(value),
                Err(reason) if left == 0 => {
                    return Err(match self.retries {
                        0 => reason,
                        retries => format!("{reason} (tried {} times)", retries + 1),
                    });
                }
                Err(_) => left -= 1,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = next.source();
    }
    text
}

/// What was read before the first block; no block follows it.
const NO_BLOCK: u64 = u64::MAX - 1;

/// An object behind a URL.
struct RemoteObject {
    name: String,
    /// Tells its blocks from those of others.
    number: u64,
    size: u64,
    source: Arc<Origin>,
    shared: Arc<Shared>,
    /// The block that was read last.
    last: AtomicU64,
}

impl RemoteObject {
    fn range(&self, block: u64) -> (u64, u64) {
        let length = self.shared.config.block_mb as u64 * MIB;
        let start = block * length;
        (start, (start + length).min(self.size))
    }

    fn block(&self, block: u64) -> Result<Bytes, String> {
        let key = (self.number, block);
        let bytes = match self.shared.blocks.get(key) {
            Found::Ready(bytes) => bytes,
            Found::Mine(place) => {
                let (start, end) = self.range(block);
                let read = self.source.bytes(start, end, self.size);
                let bytes = self.shared.wait(read)?;
                place.fill(bytes.clone());
                bytes
            }
        };
        let before = self.last.swap(block, Ordering::Relaxed);
        let next = block + 1;
        if before.wrapping_add(1) == block && self.range(next).0 < self.size {
            self.fetch_ahead(next);
        }
        Ok(bytes)
    }

    fn fetch_ahead(&self, block: u64) {
        let (Some(runtime), Some(place)) = (
            &self.shared.runtime,
            self.shared.blocks.claim((self.number, block)),
        ) else {
            return;
        };
        let (start, end) = self.range(block);
        let (source, size) = (Arc::clone(&self.source), self.size);
        runtime.spawn(async move {
            // If it fails, whoever needs it asks again and is told why.
            if let Ok(bytes) = source.bytes(start, end, size).await {
                place.fill(bytes);
            }
        });
    }
}

impl Object for RemoteObject {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, String> {
        let wrong = |reason| format!("{} at byte {offset}, {length} bytes: {reason}", self.name);
        let end = offset.checked_add(length as u64);
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return Err(wrong(format!("the object has {} bytes", self.size)));
        };
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let block = at / (self.shared.config.block_mb as u64 * MIB);
            let (start, stop) = self.range(block);
            let piece = self.block(block).map_err(wrong)?;
            let until = stop.min(end);
            bytes.extend_from_slice(&piece[(at - start) as usize..(until - start) as usize]);
            at = until;
        }
        Ok(bytes)
    }
}

type Key = (u64, u64);

/// The cache.
struct Blocks {
    state: Mutex<State>,
    /// A block came, or will not come.
    changed: Condvar,
    most: u64,
}

#[derive(Default)]
struct State {
    blocks: HashMap<Key, Block>,
    bytes: u64,
    clock: u64,
}

enum Block {
    /// Somebody fetches it.
    Awaited,
    Here {
        bytes: Bytes,
        used: u64,
    },
}

enum Found {
    Ready(Bytes),
    /// The caller is to fetch it.
    Mine(Place),
}

/// The right to fill in a block. Dropped without that, others may try.
struct Place {
    blocks: Arc<Blocks>,
    key: Key,
}

impl Blocks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block; waits where it is on its way.
    fn get(self: &Arc<Self>, key: Key) -> Found {
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let now = state.clock;
            match state.blocks.get_mut(&key) {
                Some(Block::Here { bytes, used }) => {
                    *used = now;
                    return Found::Ready(bytes.clone());
                }
                Some(Block::Awaited) => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    state.blocks.insert(key, Block::Awaited);
                    return Found::Mine(self.place(key));
                }
            }
        }
    }

    /// The right to fetch a block; none where it is there or on its way.
    fn claim(self: &Arc<Self>, key: Key) -> Option<Place> {
        let mut state = self.lock();
        if state.blocks.contains_key(&key) {
            return None;
        }
        state.blocks.insert(key, Block::Awaited);
        Some(self.place(key))
    }

    fn place(self: &Arc<Self>, key: Key) -> Place {
        Place {
            blocks: Arc::clone(self),
            key,
        }
    }
}

impl Place {
    fn fill(self, bytes: Bytes) {
        let mut state = self.blocks.lock();
        state.clock += 1;
        let used = state.clock;
        state.bytes += bytes.len() as u64;
        state.blocks.insert(self.key, Block::Here { bytes, used });
        while state.bytes > self.blocks.most {
            let oldest = state.blocks.iter().filter_map(|(key, block)| match block {
                Block::Here { used, bytes } => Some((*used, *key, bytes.len() as u64)),
                Block::Awaited => None,
            });
            let Some((_, key, length)) = oldest.min() else {
                break;
            };
            state.blocks.remove(&key);
            state.bytes -= length;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.blocks.lock();
        if matches!(state.blocks.get(&self.key), Some(Block::Awaited)) {
            state.blocks.remove(&self.key);
        }
        drop(state);
        self.blocks.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Source, Split};
    use crate::sources::webdataset::{WebDataset, WebDatasetConfig};
    use crate::storage::Storage;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicUsize;

    /// What a server does to its first requests for bytes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        /// It answers after the client has given up.
        Delay,
        /// It closes the connection before it answers.
        Drop,
        /// It closes the connection in the middle of the body.
        Truncate,
        /// It says that there is no such object.
        Vanish,
        /// It sends all of the object.
        IgnoreRange,
        /// It sends another number of bytes than it was asked for.
        WrongRange,
    }

    /// A server of one object on loopback; it stops with the test.
    struct Server {
        url: String,
        requests: Arc<AtomicUsize>,
    }

    const TIMEOUT: f64 = 0.5;

    fn serve(objects: Vec<(&'static str, Vec<u8>)>, fault: Fault, faults: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let objects = Arc::new(objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (objects, counted) = (Arc::clone(&objects), Arc::clone(&counted));
                std::thread::spawn(move || {
                    // A client that hangs up is part of the tests.
                    let _ = answer(stream, &objects, fault, faults, &counted);
                });
            }
        });
        Server { url, requests }
    }

    fn answer(
        mut stream: TcpStream,
        objects: &[(&'static str, Vec<u8>)],
        fault: Fault,
        faults: usize,
        counted: &AtomicUsize,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        loop {
            let Some(first) = lines.next() else {
                return Ok(());
            };
            let first = first?;
            let mut range = None;
            for line in lines.by_ref() {
                let line = line?.to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(bytes) = line.strip_prefix("range: bytes=") {
                    let (from, to) = bytes.split_once('-').unwrap();
                    range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
                }
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let object = objects.iter().find(|(name, _)| path == format!("/{name}"));
            let head = "HTTP/1.1";
            let Some((_, bytes)) = object else {
                write!(stream, "{head} 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            };
            let size = bytes.len();
            let date = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
            if first.starts_with("HEAD") {
                write!(
                    stream,
                    "{head} 200 OK\r\n{date}\r\nContent-Length: {size}\r\n\r\n"
                )?;
                continue;
            }
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let fault = if number < faults { fault } else { Fault::None };
            let (from, to) = range.unwrap_or((0, size - 1));
            let body = &bytes[from..=to];
            let length = body.len();
            let partial = format!(
                "{head} 206 Partial Content\r\n{date}\r\nContent-Range: bytes {from}-{to}/{size}\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            match fault {
                Fault::None => {
                    stream.write_all(partial.as_bytes())?;
                    stream.write_all(body)?;
                }
                Fault::Delay => {
                    std::thread::sleep(Duration::from_secs_f64(3.0 * TIMEOUT));
                    stream.write_all(partial.as_bytes())?;
                    stream.write_all(body)?;
                }
                Fault::Drop => return Ok(()),
                Fault::Truncate => {
                    stream.write_all(partial.as_bytes())?;
                    stream.write_all(&body[..length / 2])?;
                    return Ok(());
                }
                Fault::Vanish => {
                    write!(stream, "{head} 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                }
                Fault::IgnoreRange => {
                    write!(
                        stream,
                        "{head} 200 OK\r\n{date}\r\nContent-Length: {size}\r\n\r\n"
                    )?;
                    stream.write_all(bytes)?;
                }
                Fault::WrongRange => {
                    let length = length / 2;
                    write!(
                        stream,
                        "{head} 206 Partial Content\r\n{date}\r\nContent-Range: bytes {from}-{to}/{size}\r\n\
                         Content-Length: {length}\r\n\r\n"
                    )?;
                    stream.write_all(&body[..length])?;
                }
            }
        }
    }

    fn storage(retries: u32) -> Storage {
        Storage::new(&config(retries))
    }

    fn config(retries: u32) -> RemoteConfig {
        RemoteConfig {
            // Without retries a test counts requests, and on a busy machine none may look late.
            timeout_s: if retries == 0 {
                100.0 * TIMEOUT
            } else {
                TIMEOUT
            },
            retries,
            block_mb: 1,
            cache_mb: 2,
        }
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    fn open(server: &Server, name: &str, retries: u32) -> Result<Arc<dyn Object>, String> {
        let url = format!("{}/{name}", server.url);
        // The object keeps what it needs of the storage.
        storage(retries).open(std::path::Path::new(&url))
    }

    #[test]
    fn faults_are_overcome_by_trying_again() {
        let bytes = content(1000);
        for fault in [
            Fault::Delay,
            Fault::Drop,
            Fault::Truncate,
            Fault::Vanish,
            Fault::IgnoreRange,
            Fault::WrongRange,
        ] {
            let server = serve(vec![("a", bytes.clone())], fault, 2);
            let object = open(&server, "a", 2).unwrap();
            assert_eq!(object.read(10, 500).unwrap(), bytes[10..510], "{fault:?}");
            assert_eq!(server.requests.load(Ordering::SeqCst), 3, "{fault:?}");
        }
    }

    #[test]
    fn faults_that_stay_are_named() {
        for (fault, part) in [
            (Fault::Delay, ""),
            (Fault::Drop, ""),
            (Fault::Truncate, ""),
            (Fault::Vanish, "not found"),
            (Fault::IgnoreRange, "Range request not supported"),
            (Fault::WrongRange, "ends after 500 of 1000"),
        ] {
            let server = serve(vec![("a", content(1000))], fault, usize::MAX);
            let object = open(&server, "a", 1).unwrap();
            let message = object.read(10, 500).unwrap_err();
            let start = format!("{}/a at byte 10, 500 bytes: ", server.url);
            assert!(message.starts_with(&start), "{message}");
            assert!(
                message.contains(part) && message.contains("tried 2 times"),
                "{message}"
            );
            assert_eq!(server.requests.load(Ordering::SeqCst), 2, "{fault:?}");
        }
    }

    #[test]
    fn blocks_are_fetched_once_ahead_and_let_go() {
        let bytes = content(5 << 20);
        let server = serve(vec![("a", bytes.clone())], Fault::None, 0);
        let object = open(&server, "a", 0).unwrap();
        let requests = || server.requests.load(Ordering::SeqCst);
        let across = (1 << 20) - 5;
        assert_eq!(object.read(0, 10).unwrap(), bytes[..10]);
        assert_eq!(object.read(100, 10).unwrap(), bytes[100..110]);
        assert_eq!(requests(), 1);
        // The second block after the first: the third is fetched without being asked for.
        assert_eq!(
            object.read(across, 10).unwrap(),
            bytes[across as usize..][..10]
        );
        let third = 2 << 20;
        assert_eq!(
            object.read(third, 10).unwrap(),
            bytes[third as usize..][..10]
        );
        let mut all = Vec::new();
        for at in (0..5u64 << 20).step_by(300_000) {
            let length = (300_000).min((5 << 20) - at) as usize;
            all.extend(object.read(at, length).unwrap());
        }
        assert!(all == bytes);
        // Two blocks are kept, so that the first ones had to be fetched again.
        assert!((6..=10).contains(&requests()), "{}", requests());
        assert!(
            object
                .read((5 << 20) - 5, 10)
                .unwrap_err()
                .contains("has 5242880 bytes")
        );
    }

    #[test]
    fn many_threads_share_a_block() {
        let bytes = content(1 << 20);
        let server = serve(vec![("a", bytes.clone())], Fault::None, 0);
        let object = open(&server, "a", 0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8usize {
                let (object, bytes) = (&object, &bytes);
                scope.spawn(move || {
                    let at = thread * 1000;
                    assert_eq!(object.read(at as u64, 50).unwrap(), bytes[at..at + 50]);
                });
            }
        });
        assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let server = serve(vec![("a", content(10))], Fault::None, 0);
        for (url, part) in [
            (format!("{}/b", server.url), "not found"),
            (format!("{}/a?x=1", server.url), "`?`"),
            ("ftp://127.0.0.1/a".to_owned(), "ftp"),
            ("http://".to_owned(), "host"),
            // Nothing listens on the port for discarding.
            ("http://127.0.0.1:9/a".to_owned(), "127.0.0.1:9"),
        ] {
            let message = storage(0).open(std::path::Path::new(&url)).err().unwrap();
            assert!(message.contains(part), "{message}");
            // Whoever opens it names it.
            assert!(!message.starts_with(&url), "{message}");
        }
    }

    #[test]
    fn a_packed_folder_is_read_over_http() {
        use crate::images::Limits;
        use crate::source::SourceConfig;
        let folder = tempfile::tempdir().unwrap();
        let scenes = crate::sources::scenes::ScenesConfig {
            train: 12,
            val: 8,
            size: 32,
            ..Default::default()
        };
        let limits = Limits::full_size(10_000);
        let source = scenes.open(&limits).unwrap();
        let spec = crate::pack::PackSpec {
            samples: 7,
            ..Default::default()
        };
        crate::pack::pack(&*source, Split::Train, folder.path(), &spec, &mut |_, _| ()).unwrap();
        let objects = [
            "index.json",
            "000000.tar",
            "000000.tar.index",
            "000001.tar",
            "000001.tar.index",
        ];
        let objects = objects.map(|name| (name, std::fs::read(folder.path().join(name)).unwrap()));
        let server = serve(objects.to_vec(), Fault::Drop, 2);
        let packed = format!("{}/index.json", server.url);
        let scanned = format!("{}/{{000000..000001}}.tar", server.url);
        for url in [packed, scanned] {
            let mut config = WebDatasetConfig {
                train: vec![url.into()],
                remote: config(2),
                ..WebDatasetConfig::default()
            };
            config.validate("data.webdataset").unwrap();
            assert!(config.paths().is_empty());
            let remote = WebDataset::open(&config, &limits).unwrap();
            assert!(remote.rejected().is_empty(), "{:?}", remote.rejected());
            for at in 0..12 {
                let sample = source.sample(Split::Train, at).unwrap();
                let read = remote.sample(Split::Train, at).unwrap();
                assert_eq!(read.captions, sample.captions);
                assert_eq!(read.image, sample.image);
            }
        }
    }
}
