//! `unimo data codes`: codes of patches, a k-means of the training images' patches.

use std::path::PathBuf;
use std::time::Instant;

use unimo_data::images::ImageSpec;
use unimo_data::{Codebook, CodesConfig, Making, PatchCodes, Source};

use super::DataArgs;
use crate::error::TrainError;
use crate::interrupt;
use crate::progress::Progress;

/// Number of codes if nothing says it: as many as DALL-E's.
const CODES: usize = 8192;

/// Cells along a side of a patch if nothing says it.
const CELLS: usize = 2;

/// Images that are looked at if nothing says it.
const IMAGES: usize = 5000;

/// `unimo data codes`.
#[derive(Debug, Clone, clap::Args)]
pub struct CodesArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The file to write, for `data.codes.path` in a recipe.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of codes [default: as the recipe says, else 8,192].
    #[arg(long)]
    codes: Option<usize>,
    /// Cells along a side of a patch, whose mean colours describe it; 1: a code is a colour [default: as the recipe says, else 2].
    #[arg(long)]
    cells: Option<usize>,
    /// Side of a patch in pixels [default: as the recipe's image encoder].
    #[arg(long)]
    patch_size: Option<usize>,
    /// How many training images are looked at [default: as the recipe says, else 5,000].
    #[arg(long)]
    images: Option<usize>,
    /// What images, patches and first centres are drawn with [default: the recipe's seed].
    #[arg(long)]
    seed: Option<u64>,
}

/// Makes, saves and describes a codebook.
///
/// # Errors
///
/// The data cannot be read, or has fewer different patches than codes.
pub fn run(args: &CodesArgs) -> Result<(), TrainError> {
    let (mut recipe, source) = args.data.open_with(|data| data.regions = None)?;
    args.data.check_outputs(&recipe, &[Some(&args.out)])?;
    let of_recipe = match &recipe.data.codes {
        Some(CodesConfig::KMeans {
            patch_size,
            codes,
            cells,
            images,
            ..
        }) => Some((*patch_size, *codes, *cells, *images)),
        _ => None,
    };
    let own = recipe.model.image.as_ref().map(|image| image.patch_size);
    let (patch_size, codes, cells, images) =
        of_recipe.unwrap_or((own.unwrap_or(16), CODES, CELLS, IMAGES));
    let config = CodesConfig::KMeans {
        patch_size: args.patch_size.unwrap_or(patch_size),
        codes: args.codes.unwrap_or(codes),
        cells: args.cells.unwrap_or(cells),
        images: args.images.unwrap_or(images),
        aligned: true,
        path: None,
    };
    recipe.data.codes = Some(config.clone());
    recipe.data.validate()?;
    let spec = recipe.data.image_spec();
    let seed = args.seed.unwrap_or(recipe.seed);
    let book = make(&config, &spec, &*source, seed, false)?;
    book.save(&args.out)?;
    println!("{}: {}", args.out.display(), book.describe());
    for (key, value) in book.about() {
        println!("  {key:<16} {value}");
    }
    Ok(())
}

/// A codebook of the training images, with a bar unless `quiet`.
///
/// # Errors
///
/// As [`PatchCodes::make`], or the command was interrupted.
pub(crate) fn make(
    config: &CodesConfig,
    spec: &ImageSpec,
    source: &dyn Source,
    seed: u64,
    quiet: bool,
) -> Result<Codebook, TrainError> {
    let began = Instant::now();
    let (mut reading, mut moving) = (None, None);
    let book = PatchCodes::make(config, spec, source, seed, &mut |making| {
        if quiet {
            return;
        }
        let (bar, done) = match making {
            Making::Reading { done, of } => {
                let new = || Progress::new(of as u64, 0, "codes: reading").counting("images");
                (reading.get_or_insert_with(new), done)
            }
            Making::Moving { round, of, .. } => {
                let new = || Progress::new(of as u64, 0, "codes: k-means").counting("rounds");
                (moving.get_or_insert_with(new), round)
            }
        };
        let speed = done as f64 / began.elapsed().as_secs_f64();
        bar.update(done as u64, None, speed);
    })?;
    for bar in [reading, moving].into_iter().flatten() {
        bar.finish();
    }
    interrupt::check()?;
    Ok(book)
}
