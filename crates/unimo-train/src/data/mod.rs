//! Commands that inspect data: `unimo data verify`, `stats`, `show`, `bench`, `pack`, `codes`, `scenes`, `houses`, and `unimo concepts build`.
//!
//! Each command takes the `[data]` of a recipe, so that its results hold for a training with the same recipe.

pub mod bench;
pub mod codes;
pub mod concepts;
pub mod houses;
pub mod pack;
pub mod scenes;
pub mod show;
pub mod stats;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use unimo_data::{DataConfig, Decode, Source, Split};

use crate::error::TrainError;
use crate::outputs;
use crate::progress::Progress;
use crate::recipe::stages::Stage;
use crate::recipe::{Overrides, Recipe};

/// The data that a command inspects.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// The recipe with the data: a name (see `unimo recipes`) or the path of a .toml file [default: unimo3-small with --data, else
    /// unimo3-tiny].
    pub recipe: Option<String>,
    /// Instead of the recipe's own data: a list of image-text pairs (JSON lines, CSV, TSV), tar shards, Parquet files, or a folder
    /// of them or of images.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Change a value of the recipe, such as data.pairs.text_columns=alt; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl DataArgs {
    /// The recipe, with its data opened.
    ///
    /// # Errors
    ///
    /// The recipe or the data cannot be read.
    pub fn open(&self) -> Result<(Recipe, Arc<dyn Source>), TrainError> {
        self.open_with(|_| {})
    }

    /// As [`open`](Self::open), with other settings than the recipe's.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(
        &self,
        change: impl FnOnce(&mut DataConfig),
    ) -> Result<(Recipe, Arc<dyn Source>), TrainError> {
        let mut recipe = self.recipe()?;
        change(&mut recipe.data);
        let source = unimo_data::open(&recipe.data)?;
        for note in source.notes() {
            eprintln!("{note}");
        }
        Ok((recipe, source))
    }

    /// Checks that files which a command is to write replace none that it reads, nor each other.
    fn check_outputs(&self, recipe: &Recipe, outs: &[Option<&Path>]) -> Result<(), TrainError> {
        let mut reads: Vec<PathBuf> = recipe
            .each_data()
            .into_iter()
            .flat_map(|(_, data)| data.named_paths())
            .collect();
        reads.extend(self.data.clone());
        reads.extend(self.recipe.iter().map(PathBuf::from));
        // In a folder of images results may lie, also those of an earlier time.
        reads.retain(|path| path.is_file());
        let reads: Vec<Option<&Path>> = reads.iter().map(|path| Some(path.as_path())).collect();
        outputs::replace_nothing(outs, &reads, &[])
    }

    fn recipe(&self) -> Result<Recipe, TrainError> {
        let name = match (&self.recipe, &self.data) {
            (Some(given), _) => given,
            (None, Some(_)) => "unimo3-small",
            (None, None) => "unimo3-tiny",
        };
        let overrides = Overrides {
            data: self.data.clone(),
            set: self.set.clone(),
        };
        Recipe::load(name, &overrides)
    }

    /// As [`open`](Self::open), with images in full size, whatever size a model reads.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_full(&self) -> Result<(Recipe, Arc<dyn Source>), TrainError> {
        self.open_with(|data| data.decode = Decode::Full)
    }

    /// As [`open_full`](Self::open_full), with the images themselves, even if a model reads regions of them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_pictures(&self) -> Result<(Recipe, Arc<dyn Source>), TrainError> {
        self.open_with(|data| {
            data.regions = None;
            data.decode = Decode::Full;
        })
    }
}

/// The first stage of a training. If the recipe names stages, prints which one it is.
fn first_stage(recipe: &Recipe) -> Stage {
    let mut stages = recipe.stages();
    if stages.len() > 1 {
        eprintln!(
            "of {} stages this is the first, \"{}\"",
            stages.len(),
            stages[0].name
        );
    }
    stages.swap_remove(0)
}

/// The samples of a stage, which may differ from those that the recipe's tokenizer comes from.
fn source_of(
    recipe: &Recipe,
    stage: &Stage,
    source: Arc<dyn Source>,
) -> Result<Arc<dyn Source>, TrainError> {
    if stage.data.source == recipe.data.source && stage.data.chosen()? == recipe.data.chosen()? {
        return Ok(source);
    }
    let mut data = stage.data.clone();
    // As the command has opened the recipe's own data.
    data.regions = recipe.data.regions.clone();
    data.decode = recipe.data.decode;
    Ok(unimo_data::open(&data)?)
}

/// Number of threads for a command: all cores, unless the recipe says how many.
fn threads(config: &DataConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    config.workers.unwrap_or(cores)
}

/// Calls `work` for every sample of every split on several threads, and `take` with each result on this thread, in any order.
fn each<T: Send>(
    source: &dyn Source,
    threads: usize,
    label: &str,
    work: impl Fn(Split, usize) -> T + Sync,
    mut take: impl FnMut(Split, usize, T),
) {
    let all = Split::ALL.into_iter().map(|split| source.len(split)).sum();
    let place = |at: usize| {
        let mut index = at;
        let mut splits = Split::ALL.into_iter();
        let found = splits.find(|split| {
            let within = index < source.len(*split);
            if !within {
                index -= source.len(*split);
            }
            within
        });
        (found.unwrap_or(Split::Train), index)
    };
    let next = AtomicUsize::new(0);
    let mut bar = Progress::new(all as u64, 0, label).counting("samples");
    // Only a few results wait: more would fill the memory if `take` is slower than `work`.
    let (sender, receiver) = mpsc::sync_channel(4 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= all {
                        return;
                    }
                    let (split, index) = place(at);
                    if sender.send((split, index, work(split, index))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (split, index, result) in receiver {
            take(split, index, result);
            bar.advance(1);
        }
    });
    bar.finish();
}
