//! `unimo-dev bench search`: times searches in many embeddings, all rows and cells alone.
//!
//! The rows are synthetic, as nobody has a million images at hand: points of some directions, mixed from fewer numbers than a row has,
//! with noise in all of them, of length 1. Queries are further points of the same kind.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use clap::builder::RangedU64ValueParser;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use unimo_core::kernels::dot;
use unimo_train::apply::index::{self, Embedded, Part, Saved, What};
use unimo_train::apply::nearest::{CellsConfig, NEIGHBOURS, Search};
use unimo_train::error::TrainError;
use unimo_train::memory::host_peak;

/// `unimo-dev bench search`.
#[derive(Debug, Clone, clap::Args)]
pub struct SearchArgs {
    /// Rows that are searched.
    #[arg(long, default_value = "100000", value_parser = RangedU64ValueParser::<usize>::new().range(100..))]
    rows: usize,
    /// Numbers of a row.
    #[arg(long, default_value = "512", value_parser = RangedU64ValueParser::<usize>::new().range(8..))]
    width: usize,
    /// Queries, none of which is a row.
    #[arg(long, default_value = "100", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    queries: usize,
    /// The share of the nearest rows that a search in cells must find.
    #[arg(long, default_value = "0.95")]
    recall: f64,
    /// Where the index is written, and stays; default: a temporary folder, which is removed.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// The numbers that a row is mixed from.
const LATENT: usize = 32;
/// Directions that rows lie around.
const DIRECTIONS: usize = 500;
/// Deviation of the noise beside that of the mixture.
const NOISE: f32 = 0.3;
/// Rows that are made at once.
const BLOCK: usize = 8192;

/// Rows of length 1.
fn rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let device = Device::default();
    let uniform = |draws: &mut ChaCha8Rng, n: usize| -> Vec<f32> {
        (0..n).map(|_| draws.random::<f32>() - 0.5).collect()
    };
    // The same mixture for rows and queries.
    let mut fixed = ChaCha8Rng::seed_from_u64(0);
    let directions = uniform(&mut fixed, DIRECTIONS * LATENT);
    let mixture = uniform(&mut fixed, LATENT * width);
    let mixture = Tensor::<2>::from_data(TensorData::new(mixture, [LATENT, width]), &device);
    let mut draws = ChaCha8Rng::seed_from_u64(seed);
    let mut all = Vec::with_capacity(count * width);
    for first in (0..count).step_by(BLOCK) {
        let some = BLOCK.min(count - first);
        let mut latent = uniform(&mut draws, some * LATENT);
        for row in latent.chunks_exact_mut(LATENT) {
            let direction = draws.random_range(0..DIRECTIONS) * LATENT;
            for (value, around) in row.iter_mut().zip(&directions[direction..]) {
                *value = 0.7 * *value + around;
            }
        }
        let latent = Tensor::<2>::from_data(TensorData::new(latent, [some, LATENT]), &device);
        let mixed = latent.matmul(mixture.clone()).into_data();
        let mut values: Vec<f32> = mixed.iter::<f32>().collect();
        for row in values.chunks_exact_mut(width) {
            row.iter_mut()
                .for_each(|value| *value += NOISE * (draws.random::<f32>() - 0.5));
            let length = dot(row, row).sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        all.extend(values);
    }
    all
}

/// Runs the command; gives lines to `say`.
///
/// # Errors
///
/// The index cannot be written or read.
pub fn run(args: &SearchArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let scratch = std::env::temp_dir().join(format!("unimo-bench-search-{}", std::process::id()));
    let folder = args.folder.clone().unwrap_or_else(|| scratch.clone());
    std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
    let done = measure(args, &folder.join("index.safetensors"), say);
    if args.folder.is_none() {
        std::fs::remove_dir_all(&scratch).map_err(TrainError::file("remove", &scratch))?;
    }
    done
}

fn measure(
    args: &SearchArgs,
    path: &std::path::Path,
    say: &mut dyn FnMut(&str),
) -> Result<(), TrainError> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let peak = || host_peak().map_or("unknown".to_owned(), |b| format!("{:.2} GB", gigabytes(b)));
    let values = rows(args.rows, args.width, 1);
    let asked = rows(args.queries, args.width, 2);
    let queries: Vec<&[f32]> = asked.chunks_exact(args.width).collect();
    let matrix = size_of_val(values.as_slice()) as u64;
    say(&format!(
        "{} rows of {} numbers, {:.2} GB; {} queries, the {NEIGHBOURS} nearest of each; {} threads; resident at most {}",
        args.rows,
        args.width,
        gigabytes(matrix),
        queries.len(),
        std::thread::available_parallelism().map_or(1, usize::from),
        peak()
    ));
    // All rows, in memory: one query after the other, and all at once.
    let each = queries.len().min(10);
    let began = Instant::now();
    for query in &queries[..each] {
        let mut search = Search::new(vec![query], NEIGHBOURS);
        search.read(&values, 0);
        std::hint::black_box(search.found());
    }
    let alone = began.elapsed().as_secs_f64() * 1e3 / each as f64;
    let began = Instant::now();
    let mut search = Search::new(queries.clone(), NEIGHBOURS);
    search.read(&values, 0);
    let exact = search.found();
    let together = began.elapsed().as_secs_f64() * 1e3 / queries.len() as f64;
    say(&format!(
        "exact, in memory: {alone:.1} ms a query alone, {together:.1} ms of {} together",
        queries.len()
    ));
    let ids = (0..args.rows).map(|row| format!("{row:08}.jpg")).collect();
    let mut part = Part {
        what: What::Images,
        rows: Embedded {
            ids,
            width: args.width,
            values,
            skipped: Vec::new(),
        },
        model: "bench".to_owned(),
        data: String::new(),
        cells: None,
    };
    let began = Instant::now();
    let config = CellsConfig {
        recall: args.recall,
        seed: 0,
    };
    let (cells, order) = config.sort(&mut part.rows.values, args.width, None, &Device::default());
    let ids = order.iter().map(|row| format!("{row:08}.jpg"));
    part.rows.ids = ids.collect();
    say(&format!(
        "cells: {} made in {:.0} s, {} are read, which found {:.1}% of the {NEIGHBOURS} nearest of {} rows; resident at most {}",
        cells.starts.len() - 1,
        began.elapsed().as_secs_f64(),
        cells.probes,
        100.0 * cells.recall,
        cells.measured,
        peak()
    ));
    part.cells = Some(cells);
    let began = Instant::now();
    index::write(path, &[part])?;
    say(&format!(
        "index: written in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    let open = || Saved::open(path, What::Images, "bench", "bench");
    let began = Instant::now();
    let mut saved = open()?;
    say(&format!(
        "index: opened in {:.2} s",
        began.elapsed().as_secs_f64()
    ));
    let began = Instant::now();
    let mut found = Vec::new();
    for query in &queries {
        found.extend(saved.nearest(vec![query], NEIGHBOURS)?);
    }
    let time = began.elapsed().as_secs_f64() * 1e3 / queries.len() as f64;
    let mut right = 0;
    for (exact, found) in exact.iter().zip(&found) {
        let names: Vec<&String> = found.iter().map(|near| &saved.ids()[near.row]).collect();
        let is_found = |row: usize| names.contains(&&format!("{row:08}.jpg"));
        right += exact.iter().filter(|near| is_found(near.row)).count();
    }
    say(&format!(
        "cells, from the file: {time:.1} ms a query, {:.2}% of the {NEIGHBOURS} nearest found",
        100.0 * right as f64 / (queries.len() * NEIGHBOURS) as f64
    ));
    saved.read_all();
    let began = Instant::now();
    std::hint::black_box(saved.nearest(vec![queries[0]], NEIGHBOURS)?);
    let alone = began.elapsed().as_secs_f64() * 1e3;
    let began = Instant::now();
    std::hint::black_box(saved.nearest(queries.clone(), NEIGHBOURS)?);
    let together = began.elapsed().as_secs_f64() * 1e3 / queries.len() as f64;
    say(&format!(
        "exact, from the file: {alone:.0} ms a query alone, {together:.1} ms of {} together",
        queries.len()
    ));
    Ok(())
}
