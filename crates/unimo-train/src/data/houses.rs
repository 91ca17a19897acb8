//! `unimo data houses`: paths through generated houses, with all that an agent sees on them, as files of the form of R2R-CE.

use std::path::PathBuf;

use unimo_data::sources::episodes::writing::write;
use unimo_data::sources::houses::{Houses, HousesConfig};
use unimo_data::{SourceConfig, Split};
use unimo_report::numbers::grouped;

use crate::error::TrainError;
use crate::progress::Progress;

/// `unimo data houses`.
#[derive(Debug, clap::Args)]
pub struct HousesArgs {
    /// The folder for train.json, val.json, the paths of both in `*_gt.json`, and frames/ID for each.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Number of houses to train in.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub train: u32,
    /// Number of held-out houses.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub val: u32,
    /// Paths through each house.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub paths: u32,
    /// Side of the views in pixels.
    #[arg(long, default_value_t = 64, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(8..=512))]
    pub size: u32,
    /// Another number gives other houses.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
///
/// The folder has such a list already, or cannot be written.
pub fn run(args: &HousesArgs) -> Result<(), TrainError> {
    for split in [Split::Train, Split::Val] {
        let list = args.out.join(format!("{}.json", split.name()));
        if list.exists() {
            return Err(TrainError::Run {
                path: list,
                reason: "is there already: name another folder with --out, or remove it".to_owned(),
            });
        }
    }
    let config = HousesConfig {
        seed: args.seed,
        train: args.train as usize,
        val: args.val as usize,
        paths: args.paths as usize,
        size: args.size as usize,
        ..HousesConfig::default()
    };
    config.validate("houses")?;
    let houses = Houses::new(config);
    let all = u64::from(args.train + args.val) * u64::from(args.paths);
    let mut bar = Progress::new(all, 0, "writing").counting("episodes");
    let mut written = [0, 0];
    for (split, written) in [Split::Train, Split::Val].into_iter().zip(&mut written) {
        let progress = &mut |_| bar.advance(1);
        *written = write(&houses, split, &args.out, &Houses::classes(), progress)?;
    }
    bar.finish();
    println!(
        "{}: {} episodes to train on, {} held out; data.source = \"episodes\" reads them",
        args.out.display(),
        grouped(written[0] as f64),
        grouped(written[1] as f64)
    );
    Ok(())
}
