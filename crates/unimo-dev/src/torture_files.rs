//! `unimo-dev torture files`: damaged and hostile files give errors, never a panic, a hang or unbounded memory.
//!
//! Every round damages a copy of a good file in a few places and reads it in the way of its kind. Weights are opened and every
//! tensor is read; a `config.json` is described and loaded with its weights; tokenizers and processors are loaded; samples and
//! images are read. The result may be an error or, if only numbers were damaged, a success.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use unimo_data::images::{self, Limits};
use unimo_data::sources::parquet::ParquetConfig;
use unimo_data::sources::webdataset::WebDatasetConfig;
use unimo_data::{
    DataConfig, RegionShape, SourceConfig, Split, TextTokenizer, pack, panic_text, processor,
    regions, shards,
};
use unimo_encoders::weights::Weights;

use unimo_train::error::TrainError;
use unimo_train::memory::host_peak;
use unimo_train::pretrained;
use unimo_train::progress::Progress;

/// `unimo-dev torture files`.
#[derive(Debug, Clone, clap::Args)]
pub struct FilesArgs {
    /// A folder of good files; its subfolders are read too.
    pub folder: PathBuf,
    /// Minutes for each kind of file.
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// Seed of the damage.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Only this kind of file: safetensors, pytorch, index, config, processor, tokenizer, tar,
    /// shardindex, parquet, regions, picture.
    #[arg(long, value_parser = kind)]
    pub only: Option<Kind>,
}

/// Largest file that is used. Small files show damage just as well, and many more of them can be read.
const LARGEST: u64 = 4 << 20;
/// Longest time that reading one file may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Most memory that the process may ever hold.
const MOST_MEMORY: u64 = 2 << 30;

/// The kind of a file, which decides how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Weights with a JSON header.
    Safetensors,
    /// A file of `torch.save`.
    PyTorch,
    /// An index of shards.
    Index,
    /// A `config.json`.
    Config,
    /// A `preprocessor_config.json`.
    Processor,
    /// A file of a tokenizer.
    Tokenizer,
    /// A shard of samples.
    Tar,
    /// The index that `unimo data pack` writes next to shards.
    ShardIndex,
    /// A table with images.
    Parquet,
    /// Features of an image's regions.
    Regions,
    /// JPEG, PNG or WebP.
    Picture,
}

fn kind(given: &str) -> Result<Kind, String> {
    let of = |kind: &&Kind| format!("{kind:?}").eq_ignore_ascii_case(given);
    Kind::ALL.iter().find(of).copied().ok_or_else(|| {
        let names = Kind::ALL.map(|kind| format!("{kind:?}").to_lowercase());
        format!("allowed: {}", names.join(", "))
    })
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Safetensors,
        Self::PyTorch,
        Self::Index,
        Self::Config,
        Self::Processor,
        Self::Tokenizer,
        Self::Tar,
        Self::ShardIndex,
        Self::Parquet,
        Self::Regions,
        Self::Picture,
    ];

    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let extension = path.extension()?.to_str()?;
        match (name, extension) {
            (_, "safetensors") => Some(Self::Safetensors),
            (_, "bin" | "pt" | "pth" | "ckpt") => Some(Self::PyTorch),
            ("config.json", _) => Some(Self::Config),
            ("preprocessor_config.json" | "clip.json" | "vit.json" | "bridgetower.json", _) => {
                Some(Self::Processor)
            }
            ("tokenizer.json" | "vocab.json" | "vocab.txt", _) => Some(Self::Tokenizer),
            (_, "tar") => Some(Self::Tar),
            ("index.json", _) | (_, "index") => Some(Self::ShardIndex),
            (_, "parquet") => Some(Self::Parquet),
            (_, "npy") => Some(Self::Regions),
            (_, "jpg" | "jpeg" | "png" | "webp") => Some(Self::Picture),
            _ if name.ends_with(".index.json") => Some(Self::Index),
            _ => None,
        }
    }

    /// Reads a damaged file that replaces `good`, or is next to its companions.
    fn read(self, damaged: &Path, good: &Path) -> Result<(), String> {
        let all = |path: &Path| -> Result<(), String> {
            let mut weights = Weights::open(path).map_err(|e| e.to_string())?;
            let names: Vec<String> = weights.infos().map(|(name, _)| name.to_owned()).collect();
            for name in names {
                // Tensors of whole numbers are not weights, which gives an error.
                let _ = weights.read(&name);
            }
            Ok(())
        };
        match self {
            Self::Safetensors | Self::PyTorch | Self::Index => {
                all(damaged)?;
                // METER and CLIP are recognised by the names of their tensors alone.
                let _ = pretrained::describe(damaged, None)
                    .and_then(|public| public.load(&Device::flex()));
                Ok(())
            }
            Self::Config => {
                let weights = good.with_file_name("model.safetensors");
                let folder = damaged.parent().unwrap_or(Path::new("."));
                pretrained::describe(folder, Some(&weights))
                    .and_then(|public| public.load(&Device::flex()))
                    .map(drop)
                    .map_err(|e| e.to_string())
            }
            Self::Processor => processor::read(damaged)
                .map(drop)
                .map_err(|e| e.to_string()),
            Self::Tokenizer => {
                let tokenizer = TextTokenizer::load(damaged, true).map_err(|e| e.to_string())?;
                let _ = tokenizer.encode("A small red circle, naïve № 7.", 64);
                Ok(())
            }
            Self::Tar => samples(&WebDatasetConfig {
                train: vec![damaged.to_owned()],
                ..WebDatasetConfig::default()
            }),
            Self::Parquet => samples(&ParquetConfig {
                train: vec![damaged.to_owned()],
                ..ParquetConfig::default()
            }),
            Self::Regions => {
                const SHAPE: RegionShape = RegionShape {
                    most: 50,
                    features: 2054,
                };
                regions::read(damaged, SHAPE, false)
                    .map(drop)
                    .map_err(|error| error.reason)
            }
            Self::Picture => {
                let limits = DataConfig::default().limits();
                if let Some("jpg" | "jpeg") = good.extension().and_then(|e| e.to_str()) {
                    let bytes = fs::read(good).map_err(|e| e.to_string())?;
                    let (width, height) = images::dimensions(&bytes)?;
                    for scale in [2, 4, 8] {
                        let enough = Some(width.min(height) / scale);
                        let _ = images::read(damaged, Limits { enough, ..limits });
                    }
                }
                images::read(damaged, limits)
                    .map(drop)
                    .map_err(|error| error.reason)
            }
            Self::ShardIndex => {
                let bytes = fs::read(damaged).map_err(|e| e.to_string())?;
                if good
                    .extension()
                    .is_some_and(|extension| extension == "json")
                {
                    return pack::parse_pack(&bytes).map(drop);
                }
                let shard = fs::metadata(good.with_extension("")).map_or(0, |about| about.len());
                shards::parse_index(&bytes, shard).map(drop)
            }
        }
    }
}

/// Reads every sample; broken ones give errors.
fn samples(config: &dyn SourceConfig) -> Result<(), String> {
    const LIMITS: Limits = Limits::full_size(1 << 20);
    let source = config.open(&LIMITS).map_err(|e| e.to_string())?;
    for split in Split::ALL {
        for index in 0..source.len(split) {
            let _ = source.sample(split, index);
        }
    }
    Ok(())
}

/// The results for the files of a kind.
#[derive(Debug, Default)]
struct Tally {
    read: u64,
    refused: u64,
}

/// Runs the command.
///
/// # Errors
///
/// A file made the program panic, or took too much time or memory; it is kept and named.
pub fn run(args: &FilesArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let mut good: BTreeMap<Kind, Vec<PathBuf>> = BTreeMap::new();
    collect(&args.folder, &mut good)?;
    let scratch = std::env::temp_dir().join(format!("unimo-torture-files-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(TrainError::file("create", &scratch))?;
    // Panics are counted and reported here; their messages in every round would be noise.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = all_kinds(args, &good, &scratch, say);
    std::panic::set_hook(hook);
    if result.is_ok() {
        let _ = fs::remove_dir_all(&scratch);
    }
    result
}

fn all_kinds(
    args: &FilesArgs,
    good: &BTreeMap<Kind, Vec<PathBuf>>,
    scratch: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<(), TrainError> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let wanted = |kind: &Kind| args.only.is_none_or(|only| only == *kind);
    for kind in Kind::ALL.into_iter().filter(wanted) {
        let Some(files) = good.get(&kind) else {
            say(&format!(
                "{kind:?}: no file of this kind in {}",
                args.folder.display()
            ));
            continue;
        };
        let contents: Vec<(PathBuf, Vec<u8>)> = files
            .iter()
            .map(|path| {
                Ok((
                    path.clone(),
                    fs::read(path).map_err(TrainError::file("read", path))?,
                ))
            })
            .collect::<Result<_, TrainError>>()?;
        if kind == Kind::Index {
            // An index is read together with the files that it names, which must be next to it.
            for sibling in files.iter().filter_map(|path| path.parent()) {
                copy_weights(sibling, scratch)?;
            }
        }
        let length = Duration::from_secs_f64(args.minutes * 60.0);
        let began = Instant::now();
        let mut bar = Progress::new(length.as_secs().max(1), 0, &format!("{kind:?}"))
            .counting("seconds")
            .at_speed_of("files");
        let mut tally = Tally::default();
        while began.elapsed() < length {
            let (path, bytes) = &contents[rng.random_range(0..contents.len())];
            let damaged = scratch.join(path.file_name().unwrap_or_default());
            fs::write(&damaged, damage(bytes, &mut rng))
                .map_err(TrainError::file("write", &damaged))?;
            let start = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| kind.read(&damaged, path)));
            let took = start.elapsed();
            match outcome {
                Ok(Ok(())) => tally.read += 1,
                Ok(Err(_)) => tally.refused += 1,
                Err(payload) => {
                    let message = panic_text(&*payload);
                    return Err(bad(kind, path, &damaged, &format!("panics: {message}")));
                }
            }
            if took > LONGEST {
                return Err(bad(kind, path, &damaged, &format!("took {took:?}")));
            }
            if host_peak().is_some_and(|peak| peak > MOST_MEMORY) {
                return Err(bad(kind, path, &damaged, "took too much memory"));
            }
            let rounds = tally.read + tally.refused;
            let seconds = began.elapsed().as_secs_f64();
            bar.update(seconds as u64, None, rounds as f64 / seconds);
        }
        bar.finish();
        say(&format!(
            "{kind:?}: {} damaged copies of {} files, {} refused, {} read",
            tally.read + tally.refused,
            contents.len(),
            tally.refused,
            tally.read
        ));
    }
    Ok(())
}

fn copy_weights(from: &Path, to: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(from).map_err(TrainError::file("list", from))? {
        let path = entry.map_err(TrainError::file("list", from))?.path();
        if let (Some(Kind::Safetensors), Some(name)) = (Kind::of(&path), path.file_name()) {
            fs::copy(&path, to.join(name)).map_err(TrainError::file("copy", &path))?;
        }
    }
    Ok(())
}

fn bad(kind: Kind, good: &Path, damaged: &Path, what: &str) -> TrainError {
    TrainError::Check(format!(
        "{kind:?}: a damaged copy of {} {what}; it is kept as {}",
        good.display(),
        damaged.display()
    ))
}

fn collect(folder: &Path, found: &mut BTreeMap<Kind, Vec<PathBuf>>) -> Result<(), TrainError> {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .map_err(TrainError::file("list", folder))?
        .collect::<Result<_, _>>()
        .map_err(TrainError::file("list", folder))?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        let about = entry.metadata().map_err(TrainError::file("read", &path))?;
        if about.is_dir() {
            collect(&path, found)?;
        } else if let (Some(kind), true) = (Kind::of(&path), about.len() <= LARGEST) {
            found.entry(kind).or_default().push(path);
        }
    }
    Ok(())
}

/// A copy with one to four injuries, most of them near the beginning, where headers are.
fn damage(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if copy.is_empty() {
            return copy;
        }
        let reach = match rng.random_range(0..4) {
            0 => copy.len(),
            _ => copy.len().min(2048),
        };
        let at = rng.random_range(0..reach);
        let piece = rng.random_range(1..=64).min(copy.len() - at);
        match rng.random_range(0..8) {
            0 => copy[at] ^= 1 << rng.random_range(0..8),
            1 => copy[at] = rng.random(),
            2 => copy.truncate(at),
            3 => drop(copy.drain(at..at + piece)),
            4 => {
                let again = copy[at..at + piece].to_vec();
                copy.splice(at..at, again);
            }
            5 => {
                let extreme = [0, 1, u64::MAX, 1 << 31, 1 << 40, i64::MAX as u64];
                let value = extreme[rng.random_range(0..extreme.len())].to_le_bytes();
                let end = (at + value.len()).min(copy.len());
                copy[at..end].copy_from_slice(&value[..end - at]);
            }
            6 => {
                // A digit of a number in text, as in JSON, is replaced.
                if let Some(digit) = (at..copy.len()).find(|i| copy[*i].is_ascii_digit()) {
                    let other: [&[u8]; 6] = [
                        b"0",
                        b"-1",
                        b"99999999999999999999",
                        b"1e308",
                        b"4294967296",
                        b"null",
                    ];
                    let end = (digit..copy.len())
                        .find(|i| !copy[*i].is_ascii_digit())
                        .unwrap_or(copy.len());
                    let other = other[rng.random_range(0..other.len())];
                    copy.splice(digit..end, other.iter().copied());
                }
            }
            _ => {
                let from = rng.random_range(0..copy.len());
                let length = piece.min(copy.len() - from);
                let other = copy[from..from + length].to_vec();
                copy[at..at + length.min(piece)].copy_from_slice(&other[..length.min(piece)]);
            }
        }
    }
    copy
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    /// A few seconds of what the command does for minutes.
    #[test]
    fn damaged_files_are_refused() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        if !fixtures.is_dir() {
            // The crate is not in its repository.
            return;
        }
        let args = FilesArgs {
            folder: fixtures,
            minutes: 0.01,
            seed: 1,
            only: None,
        };
        let mut lines = Vec::new();
        run(&args, &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines.len(), Kind::ALL.len());
        for kind in ["PyTorch", "Regions", "Picture"] {
            assert!(
                lines
                    .iter()
                    .any(|line| line.starts_with(kind) && line.contains("refused")),
                "{kind}: {lines:?}"
            );
        }
    }
}
