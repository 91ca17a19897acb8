//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use unimo_dev::{
    backend_check, bench, dtypes, houses, pages, parity, search, torture, torture_files, trace,
};
use unimo_train::error::TrainError;
use unimo_train::{allocator, pipe};

/// Tools for developers of unimo: speed, precision, GPUs against the CPU, reference implementations, kills, damaged files.
#[derive(Parser)]
#[command(name = "unimo-dev", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure speed and memory.
    #[command(subcommand)]
    Bench(Bench),
    /// Check that this machine computes what it should.
    #[command(subcommand)]
    Check(Check),
    /// Compare outputs and gradients with those of a reference implementation.
    ///
    /// Reads config.json, model.safetensors and io.safetensors (in.*, out.*, grad.*) of BERT, RoBERTa, XLM-R, ViT, DeiT, CLIP,
    /// BridgeTower, METER or UNIMO-3. It fails if a tensor differs by more than rounding explains.
    Parity(parity::ParityArgs),
    /// Check that nothing is lost when a run is killed.
    #[command(subcommand)]
    Torture(Torture),
    /// Run a command of unimo and record where its time goes, for Perfetto or chrome://tracing.
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(trace::TraceArgs),
}

#[derive(Subcommand)]
enum Bench {
    /// Time training steps of UNIMO-3, METER, UNIMO-2 or MVP on noise and print one line of JSON.
    ///
    /// A step encodes the images once and the texts twice (clean and masked), fuses the pairs, computes masked language modelling,
    /// image-text matching and the family's other objectives, goes backward and updates with AdamW. The median time counts.
    #[command(after_help = BENCH_EXAMPLES)]
    Step(bench::StepArgs),
    /// Time training steps of a recipe on its own data and print one line of JSON for each of its stages.
    ///
    /// Whatever a recipe names is in it: encoders, objectives, teacher, queues, task. Nothing is saved.
    #[command(after_help = BENCH_RECIPE_EXAMPLES)]
    Recipe(bench::recipe::RecipeArgs),
    /// Compare hidden states and gradients in bf16 and f16 with those in f32, encoder by encoder.
    ///
    /// Prints the median and the worst relative error of every encoder and fails if one is larger than its dtype's rounding
    /// explains. Run it before training in half precision on a new machine or driver.
    #[command(after_help = DTYPE_EXAMPLES)]
    Dtype(dtypes::DtypeArgs),
    /// Time searches in many embeddings: all rows, and cells alone, with what those miss.
    #[command(after_help = SEARCH_EXAMPLES)]
    Search(search::SearchArgs),
    /// Time episodes in generated houses on one thread: drawing a house, a view, a recorded step, a closed loop.
    Houses(houses::HousesArgs),
    /// Time loading a checkpoint's folder and print one line of JSON.
    Load {
        /// The folder.
        folder: PathBuf,
    },
}

#[derive(Subcommand)]
enum Check {
    /// Train a small model on the CPU and on a GPU and compare every loss.
    ///
    /// Run it once on a new machine or driver before a long training on its GPU. It fails if two runs on the CPU differ in any bit,
    /// or if the GPU differs by more than rounding explains.
    #[command(after_help = CHECK_EXAMPLES)]
    Backend(backend_check::BackendArgs),
    /// Open the pages that unimo writes in Chromium: messages, requests, contrast, overlaps, read-outs; light, dark, on a telephone.
    ///
    /// Reports of short runs, of one of 100,000 steps and of one of NaN alone, a comparison, an explanation, a search and the pages about
    /// data are made in the folder, in a few minutes. Images of all of them are kept there, to be looked at. Without Chromium it says
    /// SKIPPED.
    #[command(after_help = PAGES_EXAMPLES)]
    Pages(pages::PagesArgs),
}

#[derive(Subcommand)]
enum Torture {
    /// Kill training runs at random moments, resume them and compare the results, bit for bit.
    ///
    /// Needs only a few minutes and a temporary folder. It fails if a run cannot be resumed or if its result differs in any bit
    /// from that of an undisturbed run.
    Resume(torture::ResumeArgs),
    /// Damage files of weights, descriptions and tokenizers in many ways and read them.
    ///
    /// Takes a folder of good files, such as tests/fixtures, and reads damaged copies of them for the given time. It fails if one
    /// makes the program panic, takes seconds, or takes memory that its size does not explain.
    Files(torture_files::FilesArgs),
}

const BENCH_EXAMPLES: &str = "\
Examples:
  The smallest model, a second or two:
    cargo xtask bench step --size tiny
  METER's size in half precision on an NVIDIA GPU:
    cargo xtask bench step --size base --device cuda --dtype bf16 --batch 32
  Where does the time go? A table, and a file for Perfetto:
    cargo xtask bench step --size small --profile trace.json";

const BENCH_RECIPE_EXAMPLES: &str = "\
Examples:
  Every system has a small recipe that generates its data:
    cargo xtask bench recipe simla-tiny
  Another size, and a batch of another size:
    cargo xtask bench recipe cclm-tiny --set train.batch_size=32 --set model.text.layers=6
  Data of your own, on a GPU:
    cargo xtask bench recipe albef-base --data pairs.jsonl --device cuda";

const TRACE_EXAMPLES: &str = "\
Examples:
  A few steps of a recipe on data of your own:
    cargo xtask trace --out trace.json -- train unimo3-small --data pairs.jsonl --set train.steps=5 --train-only
  A step of noise, without a run:
    cargo xtask bench step --size small --profile trace.json";

const SEARCH_EXAMPLES: &str = "\
Examples:
  A million rows, which take 2 GB of memory and as much on the disk:
    cargo xtask bench search --rows 1000000";

const CHECK_EXAMPLES: &str = "\
Examples:
  An NVIDIA GPU:
    cargo xtask check --cuda
  Any other GPU:
    cargo xtask check --wgpu";

const PAGES_EXAMPLES: &str = "\
Examples:
  Make the pages and look at them:
    cargo xtask unimo-dev check pages --out /tmp/pages
  Look again, after a page was written anew:
    cargo xtask unimo-dev check pages --out /tmp/pages --only-look";

const DTYPE_EXAMPLES: &str = "\
Examples:
  The CPU, some seconds:
    cargo xtask bench dtype
  An NVIDIA GPU at METER's measures:
    cargo xtask bench dtype --device cuda --size base";

fn main() -> ExitCode {
    allocator::begin_again();
    pipe::end_quietly_when_closed();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            pipe::end_quietly_if_closed(&error);
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, TrainError> {
    match command {
        Command::Bench(Bench::Step(args)) => {
            let outcome = bench::step(&args)?;
            println!("{}", outcome.record.to_json()?);
            if let Some(profile) = outcome.profile {
                eprint!("{profile}");
            }
        }
        Command::Bench(Bench::Recipe(args)) => {
            for record in bench::recipe::run(&args)? {
                println!("{record}");
            }
        }
        Command::Bench(Bench::Load { folder }) => println!("{}", bench::load(&folder)?),
        Command::Bench(Bench::Houses(args)) => houses::run(&args, &mut |line| println!("{line}"))?,
        Command::Bench(Bench::Search(args)) => search::run(&args, &mut |line| println!("{line}"))?,
        Command::Bench(Bench::Dtype(args)) => dtypes::run(&args, &mut |line| println!("{line}"))?,
        Command::Check(Check::Backend(args)) => {
            backend_check::run(&args, &mut |line| println!("{line}"))?;
        }
        Command::Check(Check::Pages(args)) => pages::run(&args, &mut |line| println!("{line}"))?,
        Command::Parity(args) => parity::run(&args, &mut |line| println!("{line}"))?,
        Command::Torture(Torture::Resume(args)) => {
            torture::resume(&args, &mut |line| println!("{line}"))?;
        }
        Command::Torture(Torture::Files(args)) => {
            torture_files::run(&args, &mut |line| println!("{line}"))?;
        }
        Command::Trace(args) => return trace::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}
