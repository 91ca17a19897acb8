//! `cargo xtask`: builds `unimo` or `unimo-dev` with the right profile and features and runs it, and checks the workspace.
//!
//! This crate links only its argument parser, so that it is built quickly in a fresh clone.

mod check;
mod needs;
mod ranks;
mod software_gpu;
mod unimo;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::unimo::{Failure, Program};

const EXAMPLES: &str = "\
Examples:
  cargo xtask recipes                            list the recipes that come with unimo
  cargo xtask train unimo3-tiny                  train on the CPU, on generated scenes; minutes
  cargo xtask train unimo3-small --data p.jsonl  train on your own image-text pairs
  cargo xtask train unimo3-tiny --device cuda    build with CUDA support and train on an NVIDIA GPU
  cargo xtask eval runs/unimo3-tiny              evaluate a run again
  cargo xtask train --resume runs/unimo3-tiny    go on with a run that was stopped
  cargo xtask train unimo3-small --ranks 4       in four processes, over MPI (docs/RANKS.md)
  cargo xtask sweep sweep.toml                   recipes and variants with several seeds, and their comparison
  cargo xtask compare runs/a runs/b              runs side by side
  cargo xtask unimo --help                       all commands of `unimo`; `cargo xtask train --help` shows the options of one
  cargo xtask check                              all checks that a change has to pass
  cargo xtask bench step                         seconds per training step; `parity`, `torture` and `trace` are for developers, too
  cargo xtask unimo-dev --help                   all commands for developers

Every command but `check` is one of `unimo` or, where it is for developers, of `unimo-dev`; with all that follows it goes there
unchanged, but for `--ranks N` of `train`, which builds with the feature `mpi` and starts N processes by `mpirun`, and `--restarts N` beside
it, which starts them again, up to N times, where one died by a signal or was lost. End such a training by Ctrl-C.

Features: `--device wgpu` builds with the feature `wgpu` (any GPU, through Vulkan, Metal or DirectX), `--device cuda` with
`cuda` (NVIDIA GPUs); anything else builds for the CPU alone. `--device auto` takes the best of what is built in, so name
the features too: cargo xtask --features wgpu,cuda train unimo3-tiny --device auto. The readers of Parquet files (`parquet`)
and of URLs (`remote`), and fetching checkpoints from the Hugging Face hub (`hub`), are built in where the command names such
data. The first build takes minutes, with a GPU feature longer.

Environment:
  XTASK_FEATURES     as --features, which goes before it
  MPIRUN             the launcher's command for --ranks, with its options [default: mpirun]
  CARGO_TARGET_DIR   where cargo builds, as always";

/// Builds `unimo` (or `unimo-dev`) in release mode, with the features that the chosen device needs, and runs it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES, disable_version_flag = true)]
struct Cli {
    /// Build with these cargo features as well, separated by commas: wgpu, cuda, ...
    #[arg(long, value_name = "LIST")]
    features: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the workspace: format, lints, documentation and tests
    #[command(after_help = "\
Without an option, in this order, up to the first that fails:
  fmt       the code is formatted by rustfmt
  clippy    no warnings from the compiler or from clippy
  docs      the documentation builds without warnings
  tests     all tests, among them the layering of the crates and the recipes

Examples:
  cargo xtask check               before every commit; the first time it builds all dependencies
  cargo xtask check --features    the crates compile without a backend and with every GPU feature (no GPU needed)
  cargo xtask check --wgpu        a GPU computes the same as the CPU
  cargo xtask --features cuda-nvrtc check --cuda    the same on CUDA, with kernels compiled by NVRTC")]
    Check(CheckArgs),
    /// Every other command is one of `unimo` or `unimo-dev`, which know their own.
    #[command(external_subcommand)]
    Unimo(
        #[expect(
            dead_code,
            reason = "clap would drop a `--`, so the arguments are taken as they were given"
        )]
        Vec<OsString>,
    ),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Only build with WGPU and compare that backend with the CPU; without a GPU, on SwiftShader if it is there
    #[arg(long, group = "only")]
    wgpu: bool,
    /// Only build with CUDA and compare that backend with the CPU; needs an NVIDIA GPU
    #[arg(long, group = "only")]
    cuda: bool,
    /// Only check that the crates compile without a backend and with each GPU feature; needs no GPU
    #[arg(long, group = "only")]
    features: bool,
}

fn main() -> ExitCode {
    let argv: Vec<OsString> = env::args_os().collect();
    let cli = Cli::parse_from(&argv);
    let asked = cli.features.or_else(|| env::var("XTASK_FEATURES").ok());
    if let Command::Check(args) = cli.command {
        let what = match args {
            CheckArgs { wgpu: true, .. } => check::What::Wgpu,
            CheckArgs { cuda: true, .. } => check::What::Cuda,
            CheckArgs { features: true, .. } => check::What::Features,
            _ => check::What::Workspace,
        };
        return check::run(what, asked.as_deref());
    }
    let (program, args) = from_command_on(&argv);
    let (ranks, args) = match ranks::take(args) {
        Ok(taken) => taken,
        Err(reason) => return Failure::of_arguments(reason).report(),
    };
    let mut features = unimo::features(asked.as_deref(), &args);
    if ranks.is_some() && !features.iter().any(|known| known == ranks::FEATURE) {
        features.push(ranks::FEATURE.to_owned());
    }
    if features.iter().any(|known| known == ranks::FEATURE)
        && let Err(reason) = ranks::check_compiler()
    {
        return Failure::of_arguments(reason).report();
    }
    match (unimo::build(program, &features), ranks) {
        (Ok(binary), Some(ranks)) => ranks::start(ranks, &binary, &args),
        (Ok(binary), None) => unimo::become_it(&binary, &args),
        (Err(failure), _) => failure.report(),
    }
}

/// The program, and its arguments from the name of the command on, exactly as given: clap would drop the first `--`.
fn from_command_on(argv: &[OsString]) -> (Program, &[OsString]) {
    let mut rest = argv.get(1..).unwrap_or_default();
    loop {
        rest = match rest {
            [flag, _, tail @ ..] if flag == "--features" => tail,
            [flag, tail @ ..]
                if flag
                    .to_str()
                    .is_some_and(|flag| flag.starts_with("--features=")) =>
            {
                tail
            }
            // `cargo xtask unimo --help` is about the program itself.
            [name, tail @ ..] if name == Program::Unimo.name() => return (Program::Unimo, tail),
            [name, tail @ ..] if name == Program::Dev.name() => return (Program::Dev, tail),
            [name, ..] => return (Program::of(name), rest),
            [] => return (Program::Unimo, rest),
        };
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_reach_their_program_unchanged() {
        for (line, program) in [
            ("train tiny", Program::Unimo),
            ("train", Program::Unimo),
            ("train --help", Program::Unimo),
            ("train -h", Program::Unimo),
            ("train tiny --device cuda:1 --features x", Program::Unimo),
            ("train -- --device wgpu", Program::Unimo),
            ("eval run/a -- -- b", Program::Unimo),
            ("report --a=b -c", Program::Unimo),
            ("data bench --data bench", Program::Unimo),
            ("recipes help", Program::Unimo),
            ("bench --wgpu", Program::Dev),
            ("parity folder", Program::Dev),
            ("torture --seed -1", Program::Dev),
            ("trace -- train tiny", Program::Dev),
        ] {
            for before in ["", "--features wgpu ", "--features=wgpu,cuda "] {
                let argv = words(&format!("xtask {before}{line}"));
                let cli =
                    Cli::try_parse_from(&argv).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(from_command_on(&argv), (program, &*words(line)));
                let argv = words(&format!("xtask {before}{} {line}", program.name()));
                assert_eq!(from_command_on(&argv), (program, &*words(line)));
                assert_eq!(cli.features.is_some(), !before.is_empty(), "{line}");
            }
        }
        let argv = words("xtask unimo-dev check backend");
        assert_eq!(
            from_command_on(&argv),
            (Program::Dev, &*words("check backend"))
        );
    }

    #[test]
    fn check_takes_one_option_at_most() {
        let parse = |line| Cli::try_parse_from(words(line));
        assert!(matches!(
            parse("xtask check --wgpu").unwrap().command,
            Command::Check(CheckArgs {
                wgpu: true,
                cuda: false,
                features: false
            })
        ));
        assert_eq!(
            parse("xtask check --wgpu --cuda").unwrap_err().kind(),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(
            parse("xtask check --nonsense").unwrap_err().kind(),
            ErrorKind::UnknownArgument
        );
        // A command that is unknown here may be one of `unimo`: its own, from a later version, or misspelt.
        assert!(matches!(
            parse("xtask trian").unwrap().command,
            Command::Unimo(_)
        ));
    }
}
