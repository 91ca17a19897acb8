use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use image::{ImageFormat, RgbImage};
use unimo_batch::Batch;

use super::*;
use crate::config::DataConfig;
use crate::error::{DataError, ReadKind};
use crate::images::Limits as PictureLimits;
use crate::loader::skip::SkipList;
use crate::loader::{Batches, Loader, LoaderSpec};
use crate::order::plan::Shuffle;
use crate::sources::pack::{PackSpec, pack};
use crate::sources::scenes::ScenesConfig;
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::Split;
use crate::sources::webdataset::{WebDataset, WebDatasetConfig};
use crate::store::Storage;
use crate::text::tokens::TextTokenizer;

/// Faults that a server applies to requests.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Answers after the client has given up.
    Delay,
    /// Begins to answer, and continues after the client has given up.
    Stall,
    /// Closes the connection before answering.
    Drop,
    /// Closes the connection in the middle of the body.
    Truncate,
    /// Says that there is no such object.
    Vanish,
    /// Sends the whole object.
    IgnoreRange,
    /// Sends another number of bytes than requested.
    WrongRange,
    /// Answers with a status, and says after how many seconds to retry.
    Status(u16, Option<u64>),
    /// Has another object under the same name.
    Replaced,
}

/// Which requests get the fault, counted from when it was set.
#[derive(Debug, Clone, Copy)]
struct Plague {
    fault: Fault,
    from: usize,
    until: usize,
    /// Whether requests for the size get it too.
    heads: bool,
}

const HEALTHY: Plague = Plague {
    fault: Fault::None,
    from: 0,
    until: 0,
    heads: false,
};

/// A server of objects on loopback; it stops with the test.
struct Server {
    url: String,
    state: Arc<State>,
}

struct State {
    objects: Vec<(String, Vec<u8>)>,
    /// Number of requests for bytes.
    requests: AtomicUsize,
    /// The fault, and the number of requests since it began.
    plague: Mutex<(Plague, usize)>,
}

impl Server {
    fn of(objects: Vec<(String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            objects,
            requests: AtomicUsize::new(0),
            plague: Mutex::new((HEALTHY, 0)),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that closes the connection is part of the tests.
                    let _ = answer(stream, &state);
                });
            }
        });
        Self { url, state }
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    fn set(&self, plague: Plague) {
        *self.state.plague.lock().unwrap() = (plague, 0);
    }
}

const TIMEOUT: f64 = 0.5;

/// A server whose first requests for bytes get a fault.
fn serve(objects: Vec<(&str, Vec<u8>)>, fault: Fault, faults: usize) -> Server {
    let objects = objects
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes));
    let server = Server::of(objects.collect());
    server.set(Plague {
        fault,
        until: faults,
        ..HEALTHY
    });
    server
}

fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
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
        let object = state
            .objects
            .iter()
            .find(|(name, _)| path == format!("/{name}"));
        let head = "HTTP/1.1";
        let Some((_, bytes)) = object else {
            write!(stream, "{head} 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let size = bytes.len();
        let is_head = first.starts_with("HEAD");
        let fault = {
            let mut plague = state.plague.lock().unwrap();
            let (
                Plague {
                    fault,
                    from,
                    until,
                    heads,
                },
                since,
            ) = &mut *plague;
            if is_head && !*heads {
                Fault::None
            } else {
                *since += 1;
                if (*from..*until).contains(&(*since - 1)) {
                    *fault
                } else {
                    Fault::None
                }
            }
        };
        if !is_head {
            state.requests.fetch_add(1, Ordering::SeqCst);
        }
        let year = if fault == Fault::Replaced { 2027 } else { 2026 };
        let weekday = if fault == Fault::Replaced {
            "Fri"
        } else {
            "Thu"
        };
        let date = format!("Last-Modified: {weekday}, 01 Jan {year} 00:00:00 GMT");
        match fault {
            Fault::Drop => return Ok(()),
            Fault::Delay => std::thread::sleep(Duration::from_secs_f64(3.0 * TIMEOUT)),
            Fault::Vanish => {
                write!(stream, "{head} 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            }
            Fault::Status(status, after) => {
                let after = after.map(|after| format!("Retry-After: {after}\r\n"));
                let after = after.unwrap_or_default();
                write!(
                    stream,
                    "{head} {status} Not Now\r\n{after}Content-Length: 0\r\n\r\n"
                )?;
            }
            _ => {}
        }
        if matches!(fault, Fault::Vanish | Fault::Status(..)) {
            continue;
        }
        if is_head {
            write!(
                stream,
                "{head} 200 OK\r\n{date}\r\nContent-Length: {size}\r\n\r\n"
            )?;
            continue;
        }
        let (from, to) = range.unwrap_or((0, size - 1));
        let body = &bytes[from..=to];
        let length = match fault {
            Fault::WrongRange => body.len() / 2,
            _ => body.len(),
        };
        let partial = format!(
            "{head} 206 Partial Content\r\n{date}\r\nContent-Range: bytes {from}-{to}/{size}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        match fault {
            Fault::Truncate | Fault::Stall => {
                stream.write_all(partial.as_bytes())?;
                stream.write_all(&body[..length / 2])?;
                stream.flush()?;
                if fault == Fault::Truncate {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_secs_f64(3.0 * TIMEOUT));
                stream.write_all(&body[length / 2..])?;
            }
            Fault::IgnoreRange => {
                write!(
                    stream,
                    "{head} 200 OK\r\n{date}\r\nContent-Length: {size}\r\n\r\n"
                )?;
                stream.write_all(bytes)?;
            }
            _ => {
                stream.write_all(partial.as_bytes())?;
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
        // A test without retries counts requests, and on a busy machine none may seem late.
        timeout_s: if retries == 0 {
            100.0 * TIMEOUT
        } else {
            TIMEOUT
        },
        retries,
        block_mb: 1,
        cache_mb: 2,
        ..RemoteConfig::default()
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn open(server: &Server, name: &str, retries: u32) -> Result<Arc<dyn Object>, ReadError> {
    let url = format!("{}/{name}", server.url);
    // The object keeps the parts of the storage that it needs.
    storage(retries).open(std::path::Path::new(&url))
}

const ALL: [Fault; 10] = [
    Fault::Delay,
    Fault::Stall,
    Fault::Drop,
    Fault::Truncate,
    Fault::Vanish,
    Fault::IgnoreRange,
    Fault::WrongRange,
    Fault::Status(503, None),
    Fault::Status(429, Some(0)),
    Fault::Replaced,
];

#[test]
fn faults_are_overcome_by_trying_again() {
    let bytes = content(1000);
    for fault in ALL {
        let server = serve(vec![("a", bytes.clone())], fault, 2);
        let object = open(&server, "a", 2).unwrap();
        assert_eq!(object.read(10, 500).unwrap(), bytes[10..510], "{fault:?}");
        assert_eq!(server.requests(), 3, "{fault:?}");
    }
}

#[test]
fn faults_that_stay_are_named_and_say_nothing_of_the_object() {
    for (fault, part) in [
        (Fault::Delay, ""),
        (Fault::Stall, ""),
        (Fault::Drop, ""),
        (Fault::Truncate, ""),
        (Fault::Vanish, "not found"),
        (Fault::IgnoreRange, "Range request not supported"),
        (Fault::WrongRange, "ends after 500 of 1000"),
        (Fault::Status(503, None), "status 503"),
        (Fault::Status(408, None), "status 408"),
        (Fault::Status(500, None), "status 500"),
        (Fault::Replaced, "changed"),
    ] {
        let server = serve(vec![("a", content(1000))], fault, usize::MAX);
        let object = open(&server, "a", 1).unwrap();
        let error = object.read(10, 500).unwrap_err();
        let start = format!("{}/a at byte 10, 500 bytes: ", server.url);
        assert!(error.reason.starts_with(&start), "{error}");
        assert!(error.is_unavailable(), "{error}");
        assert!(
            error.reason.contains(part) && error.reason.contains("tried 2 times"),
            "{error}"
        );
    }
}

#[test]
fn opening_tries_again_but_not_for_what_is_not_there() {
    let server = serve(vec![("a", content(1000))], Fault::None, 0);
    server.set(Plague {
        fault: Fault::Status(503, None),
        until: 3,
        heads: true,
        ..HEALTHY
    });
    assert_eq!(open(&server, "a", 5).unwrap().size(), 1000);
    // A missing object is not requested again.
    let error = open(&server, "b", 1000).err().unwrap();
    assert_eq!(error.kind, ReadKind::Missing, "{error}");
    assert!(!error.reason.contains("tried"), "{error}");
    // Nor is a refused one.
    server.set(Plague {
        fault: Fault::Status(400, None),
        until: usize::MAX,
        heads: true,
        ..HEALTHY
    });
    let error = open(&server, "a", 1000).err().unwrap();
    assert!(
        error.is_unavailable() && !error.reason.contains("tried"),
        "{error}"
    );
}

/// However many retries are allowed and whatever the server asks for, the total time is bounded.
#[test]
fn the_whole_time_is_bounded() {
    let bounded = RemoteConfig {
        total_s: 1.0,
        retries: 1000,
        ..config(1)
    };
    let read = |fault| {
        let server = serve(vec![("a", content(1000))], fault, usize::MAX);
        let url = format!("{}/a", server.url);
        let storage = Storage::new(&bounded);
        let object = storage.open(std::path::Path::new(&url)).unwrap();
        (object.read(0, 10).unwrap_err().reason, server)
    };
    // Pauses of 0.1, 0.2 and 0.4 s: the fourth would end too late.
    let (reason, _server) = read(Fault::Status(503, None));
    assert!(reason.contains("tried 4 times"), "{reason}");
    let (reason, server) = read(Fault::Status(503, Some(1000)));
    assert!(reason.contains("asks to come back in 1000s"), "{reason}");
    assert_eq!(server.requests(), 1);
    for fault in [Fault::Stall, Fault::Delay] {
        let (reason, server) = read(fault);
        assert!(server.requests() <= 3, "{reason}");
    }
}

#[test]
fn a_server_is_asked_again_when_it_says_and_not_before() {
    let server = serve(vec![("a", content(1000))], Fault::Status(503, Some(1)), 1);
    let object = open(&server, "a", 1).unwrap();
    let began = std::time::Instant::now();
    object.read(0, 10).unwrap();
    // Our own pause would be a tenth of that.
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn pages_are_fetched_once_and_what_follows_ahead() {
    let bytes = content(5 << 20);
    let server = serve(vec![("a", bytes.clone())], Fault::None, 0);
    let object = open(&server, "a", 0).unwrap();
    assert_eq!(object.read(0, 10).unwrap(), bytes[..10]);
    assert_eq!(object.read(100, 10).unwrap(), bytes[100..110]);
    assert_eq!(server.requests(), 1);
    let mut all = Vec::new();
    for at in (0..5u64 << 20).step_by(300_000) {
        let length = (300_000).min((5 << 20) - at) as usize;
        all.extend(object.read(at, length).unwrap());
    }
    assert!(all == bytes);
    // Three requests until reading counts as sequential, then one for the rest of each block: some nine. On a busy machine the reader
    // overtakes what is fetched ahead and asks for a part of it itself, at most once for each read.
    let reads = (5 << 20) / 300_000 + 1;
    assert!(
        (5..2 * reads).contains(&server.requests()),
        "{}",
        server.requests()
    );
    let error = object.read((5 << 20) - 5, 10).unwrap_err();
    assert!(error.reason.contains("has 5242880 bytes"), "{error}");
    assert!(!error.is_unavailable());
}

#[test]
fn what_is_announced_is_there_in_few_requests() {
    let bytes = content(4 << 20);
    for (whole, most) in [(true, 4), (false, 40)] {
        let server = serve(vec![("a", bytes.clone())], Fault::None, 0);
        let url = format!("{}/a", server.url);
        let large = RemoteConfig {
            cache_mb: 8,
            ..config(0)
        };
        let object = Storage::new(&large)
            .open(std::path::Path::new(&url))
            .unwrap();
        let places: Vec<u64> = (0..40).map(|i| (i * 17 % 40) * 100_000).collect();
        for at in &places {
            object.ahead(*at..*at + 5000, whole);
        }
        for at in &places {
            let read = object.read(*at, 5000).unwrap();
            assert!(read == bytes[*at as usize..][..5000]);
        }
        assert!(server.requests() <= most, "{whole}: {}", server.requests());
    }
}

/// A read larger than the cache, and a cache that keeps nothing for long.
#[test]
fn reading_more_than_the_cache_holds_ends() {
    let bytes = content(5 << 20);
    let server = serve(vec![("a", bytes.clone())], Fault::None, 0);
    let object = open(&server, "a", 0).unwrap();
    assert!(object.read(7, (5 << 20) - 7).unwrap() == bytes[7..]);
    assert_eq!(server.requests(), 1);
}

#[test]
fn many_threads_share_a_page_and_its_failure() {
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
    assert_eq!(server.requests(), 1);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let server = serve(vec![("a", content(10))], Fault::None, 0);
    for (url, part) in [
        (format!("{}/b", server.url), "not found"),
        (format!("{}/a?x=1", server.url), "`?`"),
        ("ftp://127.0.0.1/a".to_owned(), "ftp"),
        ("http://".to_owned(), "host"),
        // Nothing listens on the discard port.
        ("http://127.0.0.1:9/a".to_owned(), "127.0.0.1:9"),
    ] {
        let error = storage(0).open(std::path::Path::new(&url)).err().unwrap();
        assert!(error.reason.contains(part), "{error}");
        // The caller names the object.
        assert!(!error.reason.starts_with(&url), "{error}");
    }
}

/// One client per bucket, not per object. Without credentials nobody is asked for any.
#[test]
fn objects_of_a_store_share_its_client() {
    let remote = Remote::new(config(0));
    let store = |url: &str| {
        let (store, path) = remote.store(&Url::parse(url).unwrap()).unwrap();
        (store, path.to_string())
    };
    for (one, two, other) in [
        ("s3://b/x/1.tar", "s3://b/y/2.tar", "s3://c/x/1.tar"),
        (
            "https://s3.eu-west-1.amazonaws.com/b/x/1.tar",
            "https://s3.eu-west-1.amazonaws.com/b/2.tar",
            "https://s3.eu-west-1.amazonaws.com/c/1.tar",
        ),
        (
            "https://account.blob.core.windows.net/b/x/1.tar",
            "https://account.blob.core.windows.net/b/2.tar",
            "https://account.blob.core.windows.net/c/1.tar",
        ),
        ("http://h/x/1.tar", "http://h/y/z/2.tar", "http://g/x/1.tar"),
    ] {
        let (first, path) = store(one);
        assert!(path.ends_with("1.tar"), "{path}");
        let (second, path) = store(two);
        assert!(path.ends_with("2.tar"), "{path}");
        assert!(Arc::ptr_eq(&first, &second), "{one}");
        assert!(!Arc::ptr_eq(&first, &store(other).0), "{other}");
    }
}

const PICTURES: PictureLimits = PictureLimits::full_size(10_000);

/// Images of noise with their numbers as captions, in shards of several pages.
fn noise_shards(shards: usize, samples: usize) -> Vec<(String, Vec<u8>)> {
    let noise = content(shards * samples * 3 * 60 * 60);
    let mut noise = noise.chunks_exact(3 * 60 * 60);
    (0..shards)
        .map(|shard| {
            let mut tar = tar::Builder::new(Vec::new());
            for sample in 0..samples {
                let pixels = noise.next().unwrap().to_vec();
                let picture = RgbImage::from_raw(60, 60, pixels).unwrap();
                let mut png = Cursor::new(Vec::new());
                picture.write_to(&mut png, ImageFormat::Png).unwrap();
                let text = format!("number {shard} {sample}");
                for (kind, bytes) in [("png", png.into_inner()), ("txt", text.into_bytes())] {
                    let mut header = tar::Header::new_ustar();
                    header.set_size(bytes.len() as u64);
                    let name = format!("{sample:04}.{kind}");
                    tar.append_data(&mut header, name, bytes.as_slice())
                        .unwrap();
                }
            }
            (format!("{shard}.tar"), tar.into_inner().unwrap())
        })
        .collect()
}

fn shards_at(server: &Server, last: usize, folder: &std::path::Path) -> WebDatasetConfig {
    WebDatasetConfig {
        urls: vec![PathBuf::from(format!("{}/{{0..{last}}}.tar", server.url))],
        val_fraction: 0.0,
        cache: Some(folder.to_owned()),
        remote: RemoteConfig {
            total_s: 20.0,
            retries: 20,
            ..config(1)
        },
        ..WebDatasetConfig::default()
    }
}

fn spec(config: &WebDatasetConfig, shuffle: Shuffle, skip: &Arc<SkipList>) -> LoaderSpec {
    let source = WebDataset::open(config, &PICTURES).unwrap();
    let texts = ["number 0123456789".to_owned(), "number 0 1 2 3".to_owned()];
    let tokenizer = TextTokenizer::train(texts.into_iter(), 270).unwrap();
    let data = DataConfig {
        image_size: 8,
        max_text_length: 16,
        shuffle,
        workers: Some(2),
        prefetch: 2,
        ..DataConfig::default()
    };
    LoaderSpec::new(
        &data,
        Arc::new(source),
        Arc::new(tokenizer),
        Arc::clone(skip),
        Batches { size: 6, seed: 3 },
    )
}

fn take(spec: LoaderSpec, batches: usize) -> Vec<Batch> {
    let batches = Loader::new(spec).unwrap().take(batches);
    batches.map(Result::unwrap).collect()
}

/// Whatever the server does for a while, the batches are those of an undisturbed run.
#[test]
fn a_disturbed_run_reads_the_same_batches() {
    const BATCHES: usize = 16;
    let server = Server::of(noise_shards(3, 30));
    let folder = tempfile::tempdir().unwrap();
    let config = shards_at(&server, 2, folder.path());
    let skip = Arc::new(SkipList::in_memory(0.0));
    for shuffle in [Shuffle::Global, Shuffle::Shards(2)] {
        for bucket in [1, 4] {
            let of = |spec: LoaderSpec| LoaderSpec { bucket, ..spec };
            let undisturbed = take(of(spec(&config, shuffle, &skip)), BATCHES);
            for fault in ALL {
                // Shards are opened, scanned and read during the fault.
                server.set(Plague {
                    fault,
                    from: 1,
                    until: 4,
                    heads: fault != Fault::Replaced && fault != Fault::Vanish,
                });
                let without_kept = tempfile::tempdir().unwrap();
                let config = shards_at(&server, 2, without_kept.path());
                let batches = take(of(spec(&config, shuffle, &skip)), BATCHES);
                assert!(batches == undisturbed, "{fault:?}, {shuffle:?}, {bucket}");
            }
            server.set(HEALTHY);
        }
    }
    assert_eq!(skip.count(), 0);
}

/// Or the run stops, records nothing, and continues with the same batches when the server is back.
#[test]
fn an_outage_stops_a_run_that_resumes_to_the_same_batches() {
    const BATCHES: usize = 14;
    let server = Server::of(noise_shards(3, 30));
    let folder = tempfile::tempdir().unwrap();
    let mut config = shards_at(&server, 2, folder.path());
    let listed = folder.path().join("skipped.jsonl");
    let open_list = || Arc::new(SkipList::open(&listed, 0.0).unwrap());
    let undisturbed = take(spec(&config, Shuffle::Global, &open_list()), BATCHES);
    config.remote.total_s = 0.6;
    for fault in [
        Fault::Status(503, None),
        Fault::Drop,
        Fault::Truncate,
        Fault::Vanish,
    ] {
        let mut disturbed = spec(&config, Shuffle::Global, &open_list());
        // Nothing is read ahead, so that the outage comes in the middle.
        disturbed.workers = 1;
        disturbed.prefetch = 1;
        server.set(Plague {
            fault,
            from: 9,
            until: usize::MAX,
            heads: true,
        });
        let mut batches = Vec::new();
        let mut error = None;
        for batch in Loader::new(disturbed).unwrap() {
            match batch {
                Ok(batch) => batches.push(batch),
                Err(stopped) => error = Some(stopped),
            }
        }
        let error = error.unwrap();
        assert!(matches!(error, DataError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(&server.url), "{error}");
        assert!(batches.len() < BATCHES, "{fault:?}");
        assert!(batches[..] == undisturbed[..batches.len()], "{fault:?}");
        assert_eq!(std::fs::read(&listed).unwrap(), b"", "{fault:?}");

        server.set(HEALTHY);
        let resumed = LoaderSpec {
            first_batch: batches.len() as u64,
            ..spec(&config, Shuffle::Global, &open_list())
        };
        let rest = take(resumed, BATCHES - batches.len());
        assert!(rest[..] == undisturbed[batches.len()..], "{fault:?}");
    }
}

#[test]
fn a_scan_that_is_cut_off_gives_no_other_order_but_an_error() {
    let server = Server::of(noise_shards(2, 30));
    for fault in [Fault::Status(500, None), Fault::Truncate, Fault::Drop] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = shards_at(&server, 1, folder.path());
        config.remote.total_s = 0.5;
        server.set(Plague {
            fault,
            from: 3,
            until: usize::MAX,
            heads: false,
        });
        let error = WebDataset::open(&config, &PICTURES).err().unwrap();
        assert!(matches!(error, DataError::Unavailable { .. }), "{error}");
        // Only complete layouts were kept.
        server.set(HEALTHY);
        let source = WebDataset::open(&config, &PICTURES).unwrap();
        assert_eq!((source.len(Split::Train), source.rejected().len()), (60, 0));
    }
}

#[test]
fn shards_without_an_index_are_scanned_once() {
    let server = Server::of(noise_shards(2, 30));
    let folder = tempfile::tempdir().unwrap();
    let config = shards_at(&server, 1, folder.path());
    let open = || {
        let before = server.requests();
        let source = WebDataset::open(&config, &PICTURES).unwrap();
        assert_eq!(source.len(Split::Train), 60);
        server.requests() - before
    };
    assert!(open() > 0);
    assert_eq!(open(), 0);
    // A damaged one is made again.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), b"{}\n").unwrap();
    }
    assert!(open() > 0);
    assert_eq!(open(), 0);
    // So is the layout of a replaced shard.
    server.set(Plague {
        fault: Fault::Replaced,
        until: usize::MAX,
        heads: true,
        ..HEALTHY
    });
    assert!(open() > 0);
    assert_eq!(open(), 0);
}

#[test]
fn an_index_that_cannot_be_fetched_is_not_replaced_by_a_scan() {
    let scenes = ScenesConfig {
        train: 12,
        val: 8,
        size: 32,
        ..Default::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let source = scenes.open(&PICTURES).unwrap();
    pack(
        &*source,
        Split::Train,
        folder.path(),
        &PackSpec::default(),
        &mut |_, _| (),
    )
    .unwrap();
    let objects = ["index.json", "000000.tar", "000000.tar.index"];
    let objects = objects.map(|name| {
        (
            name.to_owned(),
            std::fs::read(folder.path().join(name)).unwrap(),
        )
    });
    let server = Server::of(objects.to_vec());
    let mut config = WebDatasetConfig {
        train: vec![format!("{}/index.json", server.url).into()],
        remote: config(1),
        ..WebDatasetConfig::default()
    };
    config.remote.total_s = 0.5;
    // The list of shards, the first bytes of the shard, and its index.
    server.set(Plague {
        fault: Fault::Status(502, None),
        from: 2,
        until: usize::MAX,
        heads: false,
    });
    let error = WebDataset::open(&config, &PICTURES).err().unwrap();
    assert!(matches!(error, DataError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("status 502"), "{error}");
    server.set(HEALTHY);
    let remote = WebDataset::open(&config, &PICTURES).unwrap();
    assert_eq!((remote.len(Split::Train), remote.rejected().len()), (12, 0));
}

/// A compressed shard whose download stops in the middle is not kept as if it were complete.
#[test]
fn a_shard_that_is_fetched_in_part_is_not_kept() {
    let (_, tar) = noise_shards(1, 60).remove(0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Uncompressed;
    let packed = [
        gzip.finish().unwrap(),
        ruzstd::encoding::compress_to_vec(&*tar, level),
    ];
    for (kind, packed) in ["gz", "zst"].into_iter().zip(packed) {
        let server = Server::of(vec![(format!("0.tar.{kind}"), packed)]);
        let folder = tempfile::tempdir().unwrap();
        let mut config = shards_at(&server, 0, folder.path());
        config.urls = vec![format!("{}/0.tar.{kind}", server.url).into()];
        for fault in [Fault::Status(503, None), Fault::Truncate] {
            config.remote.total_s = 0.5;
            server.set(Plague {
                fault,
                from: 1,
                until: usize::MAX,
                heads: false,
            });
            let error = WebDataset::open(&config, &PICTURES).err().unwrap();
            assert!(
                matches!(error, DataError::Unavailable { .. }),
                "{kind}: {error}"
            );
            assert_eq!(
                std::fs::read_dir(folder.path()).unwrap().count(),
                0,
                "{kind}"
            );
        }
        server.set(HEALTHY);
        let source = WebDataset::open(&config, &PICTURES).unwrap();
        assert_eq!((source.len(Split::Train), source.rejected().len()), (60, 0));
        // It is unpacked again if another shard now has its name and size.
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let before = files();
        server.set(Plague {
            fault: Fault::Replaced,
            until: usize::MAX,
            heads: true,
            ..HEALTHY
        });
        WebDataset::open(&config, &PICTURES).unwrap();
        assert_eq!(files(), 2 * before);
    }
}

#[test]
fn a_packed_folder_is_read_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let scenes = ScenesConfig {
        train: 12,
        val: 8,
        size: 32,
        ..Default::default()
    };
    let source = scenes.open(&PICTURES).unwrap();
    let spec = PackSpec {
        samples: 7,
        ..Default::default()
    };
    pack(&*source, Split::Train, folder.path(), &spec, &mut |_, _| ()).unwrap();
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
        let kept = tempfile::tempdir().unwrap();
        let mut config = WebDatasetConfig {
            train: vec![url.into()],
            cache: Some(kept.path().to_owned()),
            remote: config(2),
            ..WebDatasetConfig::default()
        };
        config.validate("data.webdataset").unwrap();
        assert_eq!(config.paths().len(), 1);
        let remote = WebDataset::open(&config, &PICTURES).unwrap();
        assert!(remote.rejected().is_empty(), "{:?}", remote.rejected());
        for at in 0..12 {
            let sample = source.sample(Split::Train, at).unwrap();
            let read = remote.sample(Split::Train, at).unwrap();
            assert_eq!(read.captions, sample.captions);
            assert_eq!(read.image, sample.image);
        }
    }
}
