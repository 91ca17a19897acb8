//! `unimo data bench`: measures how fast batches are made.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use unimo_data::{Batches, Loader, LoaderSpec, SkipList};

use super::{DataArgs, threads};
use crate::error::TrainError;
use crate::numbers::at_least_one;
use crate::prepare;

/// `unimo data bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// Samples per batch; default: the recipe's.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Batches to time, after a few that are not timed.
    #[arg(long, default_value_t = 40, value_parser = at_least_one)]
    pub batches: usize,
    /// Numbers of threads, as a list; default: 1 and all cores.
    #[arg(long, value_delimiter = ',')]
    pub workers: Vec<usize>,
    /// No word masks.
    #[arg(long)]
    pub no_masks: bool,
}

/// A line of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The program that was measured.
    pub program: &'static str,
    /// Number of threads.
    pub workers: usize,
    /// Samples per batch.
    pub batch: usize,
    /// Number of timed batches.
    pub batches: usize,
    /// Side of the resulting images.
    pub image_size: usize,
    /// Whether images are augmented.
    pub augment: bool,
    /// Samples made per second.
    pub images_per_second: f64,
    /// Samples per second and thread.
    pub images_per_second_per_worker: f64,
    /// Peak memory of the process, in MB; `None` if the system does not say.
    pub peak_mb: Option<f64>,
}

/// Runs the command; gives one JSON object per line to `say`.
///
/// # Errors
///
/// The data cannot be read.
pub fn run(args: &BenchArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    /// Batches that warm up caches, threads and allocators.
    const WARM_UP: usize = 3;
    let (recipe, source) = args.data.open()?;
    let stage = super::first_stage(&recipe);
    let tokenizer = prepare::tokenizer(&recipe, &*source)?;
    let concepts = prepare::count_concepts(&recipe, &*source, false)?;
    let reader = prepare::concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let codes = prepare::patch_codes(&recipe, &*source, None, false)?;
    let tokenizer = Arc::new(tokenizer);
    let source = super::source_of(&recipe, &stage, source)?;
    let all = threads(&recipe.data);
    let workers = match args.workers.as_slice() {
        [] if all == 1 => vec![1],
        [] => vec![1, all],
        given => given.to_vec(),
    };
    for workers in workers {
        let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
        let batch = args.batch.unwrap_or(recipe.train.batch_size);
        let mut spec = LoaderSpec::new(
            &stage.data,
            Arc::clone(&source),
            Arc::clone(&tokenizer),
            skip,
            Batches {
                size: batch,
                seed: recipe.seed,
            },
        );
        spec.workers = workers;
        spec.concepts = reader.clone();
        spec.codes = codes.clone();
        prepare::for_objectives(&mut spec, &recipe, &stage)?;
        prepare::for_switch(&mut spec, &stage, &mut |line| eprintln!("{line}"))?;
        if args.no_masks && spec.mask.take().is_none() {
            eprintln!("--no-masks changes nothing: no objective hides words of single captions");
        }
        let augment = spec.augment.is_some();
        let mut loader = Loader::new(spec)?;
        let mut take = |count: usize| -> Result<(), TrainError> {
            for made in loader.by_ref().take(count) {
                made?;
            }
            Ok(())
        };
        // Batches that are ready when timing begins cost nothing, but as many are ready when it ends.
        take(WARM_UP.max(recipe.data.prefetch))?;
        let began = Instant::now();
        take(args.batches)?;
        let rate = (args.batches * batch) as f64 / began.elapsed().as_secs_f64();
        let measured = Measured {
            program: "unimo",
            workers,
            batch,
            batches: args.batches,
            image_size: recipe.data.image_size,
            augment,
            images_per_second: rate,
            images_per_second_per_worker: rate / workers as f64,
            peak_mb: crate::memory::host_peak().map(|bytes| bytes as f64 / 1e6),
        };
        let line = serde_json::to_string(&measured)
            .map_err(|e| TrainError::Check(format!("the result cannot be written: {e}")))?;
        say(&line);
    }
    Ok(())
}
