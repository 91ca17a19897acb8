//! `unimo-dev bench recipe`: times training steps of any recipe.
//!
//! A run of the recipe is begun in a folder that is removed afterwards. It takes a few steps of each stage on the recipe's own data, by the same code as
//! a training. What the loader makes ahead is not in the time; what a step waits for is said beside it.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};
use unimo_train::device::DeviceChoice;
use unimo_train::error::TrainError;
use unimo_train::memory::host_peak;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training::{self, Options, Tried};

use super::{median, use_threads};

/// `unimo-dev bench recipe`.
#[derive(Debug, Clone, clap::Args)]
pub struct RecipeArgs {
    /// Name of a built-in recipe, or a recipe's file.
    recipe: String,
    /// Data to use instead of the recipe's.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Set one value of the recipe; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Number of timed steps of each stage; their median is printed.
    #[arg(long, default_value = "5", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    steps: u64,
    /// Number of steps before those, which are not timed.
    #[arg(long, default_value = "2")]
    warmup: u64,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    device: DeviceChoice,
    /// Number of CPU threads; default: one per core.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    threads: Option<usize>,
}

/// Runs the benchmark. Gives a line for each stage.
///
/// # Errors
///
/// The recipe cannot be trained here.
pub fn run(args: &RecipeArgs) -> Result<Vec<Value>, TrainError> {
    let threads = use_threads(args.threads)?;
    let overrides = Overrides {
        data: args.data.clone(),
        set: args.set.clone(),
    };
    let recipe = Recipe::load(&args.recipe, &overrides)?;
    let temporary = std::env::temp_dir();
    let folder = tempfile::Builder::new()
        .prefix("unimo-bench-")
        .tempdir()
        .map_err(TrainError::file("write", &temporary))?;
    let options = Options {
        device: Some(args.device),
        quiet: true,
        train_only: true,
        ..Options::default()
    };
    let steps = args.warmup + args.steps;
    let tried = training::try_out(&recipe, &folder.path().join("run"), steps, &options)?;
    let lines = tried
        .iter()
        .map(|stage| line(args, &recipe, stage, threads));
    Ok(lines.collect())
}

fn line(args: &RecipeArgs, recipe: &Recipe, stage: &Tried, threads: usize) -> Value {
    let samples = recipe.train.batch_size * recipe.train.accumulation;
    let timed = |all: &[f64]| median(all.iter().skip(args.warmup as usize).copied().collect());
    let (seconds, waits) = (timed(&stage.seconds), timed(&stage.waits));
    json!({
        "recipe": args.recipe,
        "stage": stage.stage,
        "parameters": stage.parameters,
        "samples": samples,
        "device": args.device.to_string(),
        "threads": threads,
        "seconds_per_step": seconds,
        "of_which_waiting": waits,
        "samples_per_second": samples as f64 / seconds,
        "peak_bytes": host_peak(),
        "loss": stage.loss,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: RecipeArgs,
    }

    #[test]
    fn each_stage_of_a_recipe_is_timed() {
        let given = [
            "bench",
            "mvp-tiny",
            "--steps=1",
            "--warmup=1",
            "--set=train.batch_size=4",
            "--set=data.scenes.train=200",
            "--set=data.workers=1",
        ];
        let args = Cli::try_parse_from(given).unwrap().args;
        let lines = run(&args).unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert!(line["seconds_per_step"].as_f64().unwrap() > 0.0, "{line}");
            assert!(line["loss"].as_f64().unwrap().is_finite(), "{line}");
            assert_eq!(line["samples"], 4);
        }
        assert_ne!(lines[0]["stage"], lines[1]["stage"]);
    }
}
