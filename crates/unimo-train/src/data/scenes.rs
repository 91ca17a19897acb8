//! `unimo data scenes`: generated images with true captions, as files, to try the commands on.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::PathBuf;

use image::ImageFormat;
use serde_json::json;
use unimo_data::{Source, Split, atomic};
use unimo_report::numbers::grouped;

use crate::error::TrainError;
use crate::recipe::{Overrides, Recipe};

/// A recipe on generated scenes.
const RECIPE: &str = "unimo3-tiny";

/// The list in the folder.
const LIST: &str = "pairs.jsonl";

/// `unimo data scenes`.
#[derive(Debug, clap::Args)]
pub struct ScenesArgs {
    /// The folder for the images and for pairs.jsonl, which names them with their captions.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Number of images to train on.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub train: u32,
    /// Number of held-out images, which show what no image to train on shows.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub val: u32,
    /// Side of the images in pixels.
    #[arg(long, default_value_t = 96, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub size: u32,
    /// Another number gives other images.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
///
/// The folder has such a list already, or cannot be written.
pub fn run(args: &ScenesArgs) -> Result<(), TrainError> {
    let list = args.out.join(LIST);
    if list.exists() {
        return Err(TrainError::Run {
            path: list,
            reason: "is there already: name another folder with --out, or remove it".to_owned(),
        });
    }
    let mut data = Recipe::load(RECIPE, &Overrides::default())?.data;
    let scenes = data.scenes.get_or_insert_default();
    scenes.seed = args.seed;
    (scenes.train, scenes.val) = (args.train as usize, args.val as usize);
    scenes.size = args.size;
    let source = unimo_data::open(&data)?;
    let mut rows = String::new();
    for split in [Split::Train, Split::Val] {
        for index in 0..source.len(split) {
            write_one(args, &*source, (split, index), &mut rows)?;
        }
    }
    // Last, so that a list names files that are all there.
    atomic::write(&list, rows.as_bytes()).map_err(TrainError::file("write", &list))?;
    println!(
        "{}: {} images to train on, {} held out",
        list.display(),
        grouped(f64::from(args.train)),
        grouped(f64::from(args.val))
    );
    Ok(())
}

/// Writes an image and adds its row to the list.
fn write_one(
    args: &ScenesArgs,
    source: &dyn Source,
    (split, index): (Split, usize),
    rows: &mut String,
) -> Result<(), TrainError> {
    let made = |error: unimo_data::SampleError| TrainError::Run {
        path: args.out.clone(),
        reason: error.to_string(),
    };
    let Some(picture) = source.image(split, index).map_err(made)? else {
        return Ok(());
    };
    let name = format!("{}-{index:06}.png", split.name());
    let path = args.out.join(&name);
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .map_err(std::io::Error::other)
        .and_then(|()| atomic::write(&path, png.get_ref()))
        .map_err(TrainError::file("write", &path))?;
    for caption in source.captions(split, index).map_err(made)? {
        let row = json!({ "image": name, "caption": caption, "split": split.name() });
        let _ = writeln!(rows, "{row}");
    }
    Ok(())
}
