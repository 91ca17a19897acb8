//! How a run behaves at a system limit: too many open files, or a full disk. This program runs itself again under each limit.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use unimo_data::images::Limits;
use unimo_data::sources::images::ImagesConfig;
use unimo_data::sources::webdataset::{WebDataset, WebDatasetConfig};
use unimo_data::{
    Batches, DataConfig, DataError, EvalSet, Loader, LoaderSpec, SkipList, Source, SourceConfig,
    Split, TextTokenizer,
};

/// Environment variable with the limit that the program runs under, and the test's folder.
const ROLE: &str = "UNIMO_TEST_LIMIT";
const LIMITS: Limits = Limits::full_size(1_000_000);

fn main() {
    match std::env::var(ROLE).ok().and_then(|role| {
        let (role, folder) = role.split_once(' ')?;
        Some((role.to_owned(), PathBuf::from(folder)))
    }) {
        Some((role, folder)) if role == "files" => too_many_open_files(&folder),
        Some((_, folder)) => disk_full(&folder),
        None if cfg!(unix) => {
            under_few_files();
            on_a_small_disk();
            println!("limits: 2 passed");
        }
        None => println!("limits: skipped, this system has no `ulimit`"),
    }
}

/// Runs this program again after the shell commands `before`.
fn again(before: &str, role: &str, folder: &Path) {
    let program = std::env::current_exe().unwrap();
    let ended = Command::new("sh")
        .args(["-c", &format!("{before}; exec \"$0\"")])
        .arg(program)
        .env(ROLE, format!("{role} {}", folder.display()))
        .status()
        .unwrap();
    assert!(ended.success(), "{role}: {ended}");
}

fn under_few_files() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..4 {
        let picture = RgbImage::from_pixel(9, 9, Rgb([number; 3]));
        let name = format!("{number}.png");
        picture.save(folder.path().join(name)).unwrap();
    }
    again("ulimit -n 64", "files", folder.path());
}

/// Images are not listed as damaged when no more files can be opened.
fn too_many_open_files(folder: &Path) {
    let config = ImagesConfig {
        val_fraction: 0.0,
        ..ImagesConfig::new(folder)
    };
    let source = config.open(&LIMITS).unwrap();
    let list = folder.join("skipped.jsonl");
    let skip = Arc::new(SkipList::open(&list, 0.0).unwrap());
    let texts = ["one two three".to_owned(), "four five".to_owned()];
    let tokenizer = Arc::new(TextTokenizer::train(texts.into_iter(), 270).unwrap());
    let data = DataConfig {
        image_size: 8,
        workers: Some(1),
        prefetch: 1,
        ..DataConfig::default()
    };
    let spec = LoaderSpec::new(
        &data,
        Arc::clone(&source),
        tokenizer,
        Arc::clone(&skip),
        Batches { size: 4, seed: 0 },
    );
    let mut open: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        open.push(file);
    }
    let error = Loader::new(spec.clone())
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, DataError::Unavailable { .. }), "{error}");
    let held_out = EvalSet::new(
        Arc::clone(&source),
        &[Split::Train],
        None,
        data.image_spec(),
        &skip,
    );
    let message = held_out.err().unwrap().to_string();
    drop(open);
    for text in [error.to_string(), message] {
        assert!(
            text.contains("open files") && text.contains(".png"),
            "{text}"
        );
    }
    assert_eq!(
        (skip.count(), std::fs::read(&list).unwrap()),
        (0, Vec::new())
    );
    let batch = Loader::new(spec).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.samples.len(), 4);
}

fn on_a_small_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..20u8 {
        let picture = RgbImage::from_pixel(64, 64, Rgb([number; 3]));
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let text = "number ".repeat(1000);
        for (kind, bytes) in [("png", png.into_inner()), ("txt", text.into_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{number:04}.{kind}"), bytes.as_slice())
                .unwrap();
        }
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar.into_inner().unwrap()).unwrap();
    std::fs::write(folder.path().join("0.tar.gz"), gzip.finish().unwrap()).unwrap();
    // Blocks of 512 or 1024 bytes: less than the unpacked shard needs.
    again("trap '' XFSZ; ulimit -f 64", "disk", folder.path());
    let source = WebDataset::open(&shards(folder.path()), &LIMITS).unwrap();
    assert_eq!(source.len(Split::Train), 20);
    assert!(source.rejected().is_empty(), "{:?}", source.rejected());
}

fn shards(folder: &Path) -> WebDatasetConfig {
    WebDatasetConfig {
        urls: vec![folder.join("0.tar.gz")],
        val_fraction: 0.0,
        cache: Some(folder.join("cache")),
        ..WebDatasetConfig::default()
    }
}

/// A partly unpacked shard is not kept when the disk is full.
fn disk_full(folder: &Path) {
    let config = shards(folder);
    let error = WebDataset::open(&config, &LIMITS)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("cache") && error.contains("cannot write"),
        "{error}"
    );
    let left = std::fs::read_dir(folder.join("cache")).unwrap().count();
    assert_eq!(left, 0, "{error}");
}
