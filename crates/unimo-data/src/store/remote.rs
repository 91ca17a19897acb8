//! Objects behind http(s), S3, Google Cloud Storage and Azure.
//!
//! Bytes that were read are kept in pages, in a cache of bounded size that all objects share ([`pages`]). If bytes are read in
//! sequence, or everything around them is announced, whole blocks are requested, and the next ones ahead of time. Every wait is
//! bounded ([`request`]). Credentials come from the environment, under the names that each provider's own tools use.

mod pages;
mod request;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig, path::Path};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use url::Url;

use self::pages::{Found, PAGE, Pages, Place};
use self::request::{About, Limits, Noticing, Origin, chain};
use crate::error::ReadError;
use crate::store::{Object, RemoteConfig};

const MIB: u64 = 1 << 20;
/// Number of threads that wait for the network.
const THREADS: usize = 2;
/// Number of concurrent requests of up to a mebibyte for announced bytes. A larger request counts as one per mebibyte.
const ANNOUNCED_AT_ONCE: usize = 32;

/// State shared by objects. Nothing runs before the first one is opened.
pub(crate) struct Remote {
    config: RemoteConfig,
    shared: OnceLock<Result<Arc<Shared>, String>>,
    /// Connections, by the part of a URL before the object's own path.
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    opened: AtomicU64,
}

struct Shared {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    pages: Arc<Pages>,
    /// Permits for requests of announced bytes.
    announced: Arc<Semaphore>,
    block: u64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A block that is still in flight is no longer needed, and waiting for it would hang.
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

    pub(crate) fn open(&self, location: &str) -> Result<Arc<dyn Object>, ReadError> {
        let url = Url::parse(location).map_err(|error| error.to_string())?;
        if url.query().is_some() {
            return Err("URLs with `?` are not read".into());
        }
        let (store, path) = self.store(&url)?;
        let shared = self.shared.get_or_init(|| self.start()).clone()?;
        let limits = Limits::of(&self.config);
        let source = Arc::new(Origin {
            name: location.to_owned(),
            store,
            path,
            limits,
        });
        let about = shared.wait(source.about())?;
        Ok(Arc::new(RemoteObject {
            name: location.to_owned(),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            about,
            source,
            shared,
            last: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            until: AtomicU64::new(0),
        }))
    }

    fn start(&self) -> Result<Arc<Shared>, String> {
        // If another thread was first, its choice serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start threads: {error}"))?;
        Ok(Arc::new(Shared {
            runtime: Some(runtime),
            pages: Arc::new(Pages::new(self.config.cache_mb as u64 * MIB)),
            announced: Arc::new(Semaphore::new(ANNOUNCED_AT_ONCE)),
            block: self.config.block_mb as u64 * MIB,
        }))
    }

    fn store(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), String> {
        // Building a client needs the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let text = |error: object_store::Error| chain(&error);
        let (scheme, path) = ObjectStoreScheme::parse(url).map_err(|error| error.to_string())?;
        let path = Path::parse(path).map_err(|error| error.to_string())?;
        let server = &url[..url::Position::BeforePath];
        let place = place(url, &path);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place) {
            return Ok((Arc::clone(store), path));
        }
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(Duration::from_secs_f64(self.config.timeout_s))
            .with_connect_timeout(Duration::from_secs_f64(self.config.connect_s));
        // Requests are retried here, where broken bodies are seen too.
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
                    .with_http_connector(Noticing)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::GoogleCloudStorage => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_url(whole)
                    .with_client_options(options)
                    .with_http_connector(Noticing)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::MicrosoftAzure => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_url(whole)
                    .with_client_options(options)
                    .with_http_connector(Noticing)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            ObjectStoreScheme::Http => Arc::new(
                HttpBuilder::new()
                    .with_url(server)
                    .with_client_options(options)
                    .with_http_connector(Noticing)
                    .with_retry(retry)
                    .build()
                    .map_err(text)?,
            ),
            _ => return Err("not a URL of http(s), s3, gs or az".to_owned()),
        };
        stores.insert(place, Arc::clone(&store));
        Ok((store, path))
    }
}

/// The part of a URL before the object's path in its store: the server, and the bucket if it is part of the path.
fn place(url: &Url, path: &Path) -> String {
    let all = url.path().split('/').filter(|part| !part.is_empty());
    let own = path.parts().count();
    let before = all.clone().count().saturating_sub(own);
    let mut place = url[..url::Position::BeforePath].to_owned();
    for part in all.take(before) {
        place.push('/');
        place.push_str(part);
    }
    place
}

impl Shared {
    /// Waits for a future on the runtime.
    fn wait<T>(&self, future: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(ReadError::unavailable("reading has ended")),
        }
    }
}

/// An object behind a URL.
struct RemoteObject {
    name: String,
    /// Distinguishes its pages from those of other objects.
    number: u64,
    about: About,
    source: Arc<Origin>,
    shared: Arc<Shared>,
    /// The page after the last one that was waited for.
    last: AtomicU64,
    /// Number of consecutive waits for pages shortly after the previous one.
    streak: AtomicU32,
    /// The page up to which blocks were requested in sequence.
    until: AtomicU64,
}

/// Number of consecutive forward reads after which reading is taken to be sequential.
const FORWARD: u32 = 2;

impl RemoteObject {
    fn all_pages(&self) -> u64 {
        self.about.size.div_ceil(PAGE)
    }

    /// The bytes of pages.
    fn bytes_of(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * PAGE..(pages.end * PAGE).min(self.about.size)
    }

    /// The pages of the block that contains a page.
    fn block_of(&self, page: u64) -> Range<u64> {
        let pages = self.shared.block / PAGE;
        let start = page / pages * pages;
        start..(start + pages).min(self.all_pages())
    }

    /// Fetches pages that nobody else is fetching.
    fn fetch(&self, place: Place) -> Result<Bytes, ReadError> {
        let range = self.bytes_of(place.pages());
        let read = self.source.bytes(range, &self.about);
        match self.shared.wait(read) {
            Ok(bytes) => {
                place.fill(&bytes);
                Ok(bytes)
            }
            Err(error) => {
                place.fail(&error);
                Err(error)
            }
        }
    }

    /// Fetches pages in the background.
    fn fetch_ahead(&self, pages: Range<u64>) {
        let Some(runtime) = &self.shared.runtime else {
            return;
        };
        for place in self.shared.pages.claim(self.number, pages) {
            let range = self.bytes_of(place.pages());
            let (source, about) = (Arc::clone(&self.source), self.about.clone());
            let room = Arc::clone(&self.shared.announced);
            let cost = (range.end - range.start).div_ceil(MIB);
            let cost = (cost as u32).min(ANNOUNCED_AT_ONCE as u32);
            runtime.spawn(async move {
                // The semaphore is never closed.
                let _room = room.acquire_many(cost).await;
                match source.bytes(range, &about).await {
                    Ok(bytes) => place.fill(&bytes),
                    // A thread that waits for it gets the error; a later one tries again.
                    Err(error) => place.fail(&error),
                }
            });
        }
    }

    /// The pages to fetch if one is needed; the pages up to `until` are needed too.
    fn wanted(&self, page: u64, until: u64) -> Range<u64> {
        let last = self.last.swap(until, Ordering::Relaxed);
        let near = last..=last + self.shared.block / PAGE;
        if !near.contains(&page) {
            self.streak.store(0, Ordering::Relaxed);
            return page..until;
        }
        if self.streak.fetch_add(1, Ordering::Relaxed) < FORWARD {
            return page..until;
        }
        // From here on, block by block.
        let end = self.block_of(until.saturating_sub(1).max(page)).end;
        self.last.store(end, Ordering::Relaxed);
        self.until.store(end, Ordering::Relaxed);
        page..end
    }

    /// If reading is sequential, fetches the next block before it is needed.
    fn go_on(&self, page: u64) {
        if self.streak.load(Ordering::Relaxed) <= FORWARD {
            return;
        }
        let end = self.until.load(Ordering::Relaxed);
        let within = end < self.all_pages() && page < end && end - page <= self.shared.block / PAGE;
        let next = self.block_of(end);
        if within
            && self
                .until
                .compare_exchange(end, next.end, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.last.store(next.end, Ordering::Relaxed);
            self.fetch_ahead(next);
        }
    }
}

impl Object for RemoteObject {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.about.size
    }

    fn version(&self) -> String {
        self.about.version.clone()
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let wrong =
            |reason: &str| format!("{} at byte {offset}, {length} bytes: {reason}", self.name);
        let end = offset.checked_add(length as u64);
        let Some(end) = end.filter(|end| *end <= self.about.size) else {
            return Err(wrong(&format!("the object has {} bytes", self.about.size)).into());
        };
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        let until = end.div_ceil(PAGE);
        self.go_on(offset / PAGE);
        while at < end {
            let page = at / PAGE;
            let found = self.shared.pages.get(self.number, page);
            let piece = match found.map_err(|error| error.told(wrong))? {
                Found::Ready(piece) => piece,
                Found::Absent => {
                    let wanted = self.wanted(page, until);
                    let Some(place) = self.shared.pages.claim_from(self.number, wanted) else {
                        // Another thread was faster.
                        continue;
                    };
                    self.fetch(place).map_err(|error| error.told(wrong))?
                }
            };
            let start = page * PAGE;
            let stop = (start + piece.len() as u64).min(end);
            bytes.extend_from_slice(&piece[(at - start) as usize..(stop - start) as usize]);
            at = stop;
        }
        Ok(bytes)
    }

    fn ahead(&self, span: Range<u64>, whole: bool) {
        let pages = span.start / PAGE..span.end.min(self.about.size).div_ceil(PAGE);
        if pages.is_empty() {
            return;
        }
        if !whole {
            self.fetch_ahead(pages);
            return;
        }
        let mut page = pages.start;
        while page < pages.end {
            let block = self.block_of(page);
            page = block.end;
            self.fetch_ahead(block);
        }
    }
}
