//! `unimo data pack`: writes any source as tar shards with checksummed indices.

use std::path::{Path, PathBuf};

use unimo_data::pack::{PackFormat, PackIndex, PackSpec, pack, verify_pack};
use unimo_data::{Source, Split, readable};
use unimo_report::numbers::grouped;

use super::DataArgs;
use crate::error::TrainError;
use crate::progress::Progress;

/// `unimo data pack`.
#[derive(Debug, clap::Args)]
pub struct PackArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// The folder for the shards: FOLDER/train, FOLDER/val and FOLDER/test.
    #[arg(long, value_name = "FOLDER", required_unless_present = "check")]
    pub out: Option<PathBuf>,
    /// Largest number of samples per shard.
    #[arg(long, default_value_t = 10_000)]
    pub samples: usize,
    /// Largest size of a shard in megabytes (10^6 bytes).
    #[arg(long, default_value_t = 1000)]
    pub megabytes: u64,
    /// Resize larger images so that the shorter side has this many pixels; default: files are copied as they are.
    #[arg(long, value_name = "PIXELS")]
    pub shorter_side: Option<u32>,
    /// Format for images that were resized or have no file: png (the default), or the quality of a JPEG, 1 to 100.
    #[arg(long, value_parser = format)]
    pub format: Option<PackFormat>,
    /// Instead of packing, read the shards of this folder again and check their checksums.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["out", "samples", "megabytes", "shorter_side", "format", "recipe", "data", "set"])]
    pub check: Option<PathBuf>,
}

fn format(given: &str) -> Result<PackFormat, String> {
    match (given, given.parse()) {
        ("png", _) => Ok(PackFormat::Png),
        (_, Ok(quality @ 1..=100)) => Ok(PackFormat::Jpeg(quality)),
        _ => Err("allowed: png, or a JPEG quality from 1 to 100".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
///
/// The data cannot be read, the folder cannot be written, or shards are damaged.
pub fn run(args: &PackArgs) -> Result<(), TrainError> {
    if let Some(folder) = &args.check {
        for folder in packed(folder) {
            let index = verify_pack(&folder)?;
            println!("{}: {}", folder.display(), summary(&index));
        }
        return Ok(());
    }
    let Some(out) = &args.out else {
        return Ok(());
    };
    let (_, source) = args.data.open_pictures()?;
    let spec = PackSpec {
        samples: args.samples,
        bytes: args.megabytes.saturating_mul(1_000_000),
        format: args.format.unwrap_or(PackFormat::Png),
        shorter_side: args.shorter_side,
    };
    if args.format.is_some() && args.shorter_side.is_none() && first_has_a_file(&*source)? {
        eprintln!(
            "--format changes nothing of images that are files: without --shorter-side they are copied as they are"
        );
    }
    let mut settings = String::from("[data]\nsource = \"webdataset\"\n\n[data.webdataset]\n");
    eprintln!("{}", source.describe());
    for split in Split::ALL {
        if source.is_empty(split) {
            continue;
        }
        let folder = out.join(split.name());
        let label = format!("packing {}", split.name());
        let mut bar = Progress::new(source.len(split) as u64, 0, &label).counting("samples");
        let mut done = 0;
        let index = pack(&*source, split, &folder, &spec, &mut |now, _| {
            bar.advance(now.saturating_sub(done));
            done = now.max(done);
        })?;
        bar.finish();
        println!("{}: {}", folder.display(), summary(&index));
        for skipped in &index.skipped {
            eprintln!("left out {}: {}", skipped.place, skipped.reason);
        }
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        settings += &format!("{} = {:?}\n", split.name(), folder.display().to_string());
    }
    println!("\nto train on them:\n\n{settings}");
    Ok(())
}

/// Whether the first image of the data is a file, and so copied as it is if it is not resized.
fn first_has_a_file(source: &dyn Source) -> Result<bool, TrainError> {
    let split = Split::ALL
        .into_iter()
        .find(|split| !source.is_empty(*split));
    let path = split.map(|split| readable(source.image_path(split, 0)));
    Ok(path.transpose()?.flatten().is_some())
}

/// The packed folders in a folder: the folder itself, or those of its splits.
fn packed(folder: &Path) -> Vec<PathBuf> {
    let splits = Split::ALL.map(|split| folder.join(split.name()));
    let there: Vec<PathBuf> = splits.into_iter().filter(|f| f.is_dir()).collect();
    if there.is_empty() {
        vec![folder.to_owned()]
    } else {
        there
    }
}

fn summary(index: &PackIndex) -> String {
    format!(
        "{} samples in {} shards, {:.1} MB, {} left out",
        grouped(index.samples as f64),
        grouped(index.shards.len() as f64),
        index.bytes as f64 / 1e6,
        index.skipped.len()
    )
}
