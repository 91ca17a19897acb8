//! `unimo sweep`: recipes, variants of them and seeds, one run each, which end in a comparison.
//!
//! A sweep has no state of its own: what is done is what its run folders say. A finished run is passed over, a run that was interrupted
//! goes on exactly where it was, and a run that another process trains is left to it. So a sweep that was killed is started again by
//! the same command, and several tasks of a scheduler's array can work on one sweep.

pub mod file;

use std::path::PathBuf;

use clap::Args;

use self::file::{Planned, Sweep};
use crate::checkpoint;
use crate::compare;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::fingerprint::Fingerprint;
use crate::interrupt;
use crate::lock;
use crate::report;
use crate::resuming;
use crate::run::RunFolder;
use crate::training;

/// The comparison in a sweep's folder.
const PAGE: &str = "compare.html";
/// The same as data.
const DATA: &str = "compare.json";

/// The number of a task in a Slurm array.
const SLURM_TASK: &str = "SLURM_ARRAY_TASK_ID";

/// Arguments of `unimo sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// A TOML file that names recipes, variants and seeds; see below.
    file: PathBuf,
    /// Train only the run with this number, from 0; default: that of SLURM_ARRAY_TASK_ID, or all runs one after the other.
    #[arg(long, value_name = "N", conflicts_with = "list")]
    task_index: Option<usize>,
    /// The folder of the runs [default: `out` of the file, or runs/NAME].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// List the runs with their numbers and states, and train nothing.
    #[arg(long)]
    list: bool,
    /// Device: flex (the CPU), wgpu, wgpu:N, cuda, cuda:N or auto [default: flex, or the device of a run that is resumed].
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Show no progress lines of the runs.
    #[arg(long, short)]
    quiet: bool,
}

/// What there is of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// Begun, with the step of its newest checkpoint.
    Begun(u64),
    Finished,
}

/// What became of a run of this sweep.
enum End {
    Finished,
    /// Another process trains it.
    Elsewhere,
    Failed(TrainError),
}

/// Trains what is left of a sweep and compares its runs.
///
/// # Errors
///
/// The file cannot be read, a run exists with another recipe, a run fails, or a signal asks for the end.
pub fn run(args: &SweepArgs) -> Result<(), TrainError> {
    let sweep = Sweep::read(&args.file, args.out.as_deref())?;
    for note in &sweep.notes {
        eprintln!("{note}");
    }
    // Before any work: a changed file should be told now, not when its turn comes.
    let states: Vec<State> = sweep
        .runs
        .iter()
        .map(begun_alike)
        .collect::<Result<_, _>>()?;
    for folder in others(&sweep)? {
        eprintln!(
            "{}: is a run that the sweep does not name, and is left as it is and out of the comparison",
            folder.display()
        );
    }
    if args.list {
        for (number, (run, state)) in sweep.runs.iter().zip(&states).enumerate() {
            println!("{number}\t{}\t{}", run.name, said(*state));
        }
        return Ok(());
    }
    let chosen = chosen(args.task_index, &sweep)?;
    let mut failed = Vec::new();
    for (number, planned) in sweep.runs.iter().enumerate() {
        if chosen.is_some_and(|chosen| chosen != number) {
            continue;
        }
        if interrupt::asked() {
            return Err(stopped(&sweep, args));
        }
        let place = format!("[{}/{}] {}", number + 1, sweep.runs.len(), planned.name);
        match train(planned, &place, args) {
            Ok(End::Finished) => {}
            Ok(End::Elsewhere) => eprintln!("{place}: another process trains it; passed over"),
            // The other runs are worth having all the same.
            Ok(End::Failed(error)) => {
                eprintln!("{place}: {error}");
                failed.push(planned.name.clone());
            }
            Err(TrainError::Stopped { .. } | TrainError::Interrupted) => {
                return Err(stopped(&sweep, args));
            }
            Err(error) => return Err(error),
        }
    }
    finish(&sweep, chosen.is_none())?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(TrainError::SweepFailed {
        runs: failed,
        all: sweep.runs.len(),
    })
}

/// The number of the only run to train, if there is one.
fn chosen(given: Option<usize>, sweep: &Sweep) -> Result<Option<usize>, TrainError> {
    let runs = sweep.runs.len();
    let (index, by) = match given {
        Some(index) => (index, "--task-index"),
        None => match std::env::var(SLURM_TASK) {
            Err(_) => return Ok(None),
            Ok(text) => match text.trim().parse() {
                Ok(index) => (index, SLURM_TASK),
                Err(_) => {
                    return Err(sweep.wrong(format!(
                        "{SLURM_TASK} is \"{text}\", and must be the number of a run: 0 to {}",
                        runs - 1
                    )));
                }
            },
        },
    };
    if index >= runs {
        return Err(sweep.wrong(format!(
            "{by} is {index}, and the sweep has {runs} runs: give 0 to {} (sbatch --array=0-{0})",
            runs - 1
        )));
    }
    eprintln!("{by} is {index}: this process trains one run of {runs}");
    Ok(Some(index))
}

/// The state of a run; an error if it was begun with another recipe.
fn begun_alike(planned: &Planned) -> Result<State, TrainError> {
    if !planned.folder.join("recipe.toml").is_file() {
        return Ok(State::New);
    }
    let (run, own) = RunFolder::open(&planned.folder)?;
    let begun = Fingerprint::read(run.path())?;
    let differs = resuming::other_than(&run, &own, begun.as_ref(), &planned.recipe)?;
    if !differs.is_empty() {
        return Err(TrainError::Run {
            path: planned.folder.clone(),
            reason: format!(
                "was begun with another recipe than the sweep asks for now: {}. Put the sweep back, or give it another `out`",
                differs.join("; ")
            ),
        });
    }
    state(&run, planned)
}

fn state(run: &RunFolder, planned: &Planned) -> Result<State, TrainError> {
    let steps = checkpoint::steps(&run.checkpoints())?;
    let done = steps.last().copied().unwrap_or(0);
    let last = planned.recipe.train.steps;
    // The report is written last. Whether all was evaluated that should be is known when the run is opened.
    let evaluated = run.evaluations()?.iter().any(|eval| eval.step == last);
    let finished = done == last && evaluated && run.join(report::FILE_NAME).is_file();
    Ok(if finished {
        State::Finished
    } else {
        State::Begun(done)
    })
}

fn said(state: State) -> String {
    match state {
        State::New => "new".to_owned(),
        State::Begun(step) => format!("interrupted after step {step}"),
        State::Finished => "finished".to_owned(),
    }
}

/// Trains a run to its end, from wherever it is.
fn train(planned: &Planned, place: &str, args: &SweepArgs) -> Result<End, TrainError> {
    let folder = &planned.folder;
    // Again, since it may have changed while other runs were trained.
    let state = begun_alike(planned)?;
    if state == State::Finished {
        eprintln!("{place}: finished; passed over");
        return Ok(End::Finished);
    }
    if state != State::New && lock::is_taken(folder)? {
        return Ok(End::Elsewhere);
    }
    let options = training::Options {
        device: args.device,
        quiet: args.quiet,
        signals: true,
        given: Some(planned.given.clone()),
        ..training::Options::default()
    };
    let result = match state {
        State::New => {
            eprintln!("{place}: begins");
            training::start(&planned.recipe, folder, &options)
        }
        State::Begun(step) => {
            eprintln!("{place}: goes on after step {step}");
            training::resume(folder, &options)
        }
        State::Finished => return Ok(End::Finished),
    };
    match result {
        Ok(_) => Ok(End::Finished),
        Err(stopped @ (TrainError::Stopped { .. } | TrainError::Interrupted)) => Err(stopped),
        Err(error) => Ok(End::Failed(error)),
    }
}

/// Runs in the sweep's folder that it does not name.
fn others(sweep: &Sweep) -> Result<Vec<PathBuf>, TrainError> {
    if !sweep.out.is_dir() {
        return Ok(Vec::new());
    }
    let mut others = Vec::new();
    for entry in std::fs::read_dir(&sweep.out).map_err(TrainError::file("list", &sweep.out))? {
        let path = entry.map_err(TrainError::file("list", &sweep.out))?.path();
        let named = sweep.runs.iter().any(|run| run.folder == path);
        if !named && path.join("recipe.toml").is_file() {
            others.push(path);
        }
    }
    others.sort();
    Ok(others)
}

/// How many runs are finished.
fn finished(sweep: &Sweep) -> Result<usize, TrainError> {
    let states: Vec<State> = sweep
        .runs
        .iter()
        .map(begun_alike)
        .collect::<Result<_, _>>()?;
    let done = states.iter().filter(|state| **state == State::Finished);
    Ok(done.count())
}

/// Compares the runs. One task of an array does so only if it was the last one.
fn finish(sweep: &Sweep, alone: bool) -> Result<(), TrainError> {
    let (done, all) = (finished(sweep)?, sweep.runs.len());
    eprintln!("{done} of {all} runs are finished");
    if done < all && !alone {
        return Ok(());
    }
    let begun: Vec<PathBuf> = sweep
        .runs
        .iter()
        .map(|run| run.folder.clone())
        .filter(|folder| folder.join("recipe.toml").is_file())
        .collect();
    if begun.is_empty() {
        return Ok(());
    }
    let comparison = compare::compare(&begun)?;
    print!("{}", comparison.table());
    let page = sweep.out.join(PAGE);
    compare::write_page(&page, &comparison)?;
    compare::write_json(&sweep.out.join(DATA), &comparison)?;
    println!("{}", page.display());
    Ok(())
}

fn stopped(sweep: &Sweep, args: &SweepArgs) -> TrainError {
    TrainError::SweepStopped {
        done: finished(sweep).unwrap_or_default(),
        all: sweep.runs.len(),
        file: args.file.clone(),
    }
}
