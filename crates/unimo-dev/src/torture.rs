//! `unimo-dev torture resume`: a run that is killed again and again ends with the weights of an undisturbed run.
//!
//! The command first trains a tiny recipe undisturbed. Then it starts the same training many times, each in a separate process, and
//! kills it at a random moment (SIGKILL on Unix, which a process cannot catch, and sometimes SIGTERM, after which it saves). It
//! resumes the run and sometimes kills it again. At the end it compares, bit for bit, every tensor of the last checkpoint (weights,
//! both moments, moving average, momentum encoder and its queue) and every logged loss. Stray files, and a second process that is
//! let into a run, are failures. Finally a run must refuse to continue with a longer list, another tokenizer and an edited recipe,
//! and say so.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use safetensors::SafeTensors;
use unimo_report::record::StepRecord;

use unimo_train::checkpoint;
use unimo_train::error::TrainError;
use unimo_train::files;
use unimo_train::interrupt;

/// `unimo-dev torture resume`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResumeArgs {
    /// Number of runs that are killed.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// Seed of the moments of the kills.
    #[arg(long, default_value = "0")]
    pub seed: u64,
    /// Keep the temporary folder with all runs.
    #[arg(long)]
    pub keep: bool,
}

/// Turns on everything that a checkpoint could forget: dropout, drop-path, accumulation, clipping, a moving average, a momentum encoder with a
/// queue that wraps around.
const CHANGES: &[&str] = &[
    "train.batch_size=8",
    "train.accumulation=2",
    "train.ema=0.9",
    "train.log_every=1",
    "train.eval_every=0",
    "train.checkpoint_every=2",
    "model.text.vocab_size=300",
    "model.text.width=64",
    "model.text.dropout=0.1",
    "model.text.drop_path=0.1",
    "model.image.image_size=32",
    "model.image.width=64",
    "model.image.dropout=0.1",
    "model.image.drop_path=0.1",
    "model.fusion.width=64",
    "model.fusion.dropout=0.1",
    "model.fusion.drop_path=0.1",
    "objectives.itc.width=32",
    "objectives.itc.momentum={ queue = 56, alpha = 0.4, alpha_ramp = 12 }",
    "objectives.mlm.distil={ alpha = 0.4, alpha_ramp = 12 }",
    "teacher={ decay = 0.9 }",
    "data.image_size=32",
    "data.max_text_length=32",
    "data.scenes.size=32",
    "data.scenes.train=2000",
    "data.tokenizer.vocab_size=300",
];

const STEPS: u64 = 24;

/// Number of images in the list that is trained on at the end.
const PICTURES: usize = 24;

/// Probability that a resumed run is killed again.
const KILL_AGAIN: f64 = 0.5;

/// Share of the kills that wait for a checkpoint being written, which a random moment rarely hits.
const AIMED: f64 = 0.3;

/// Share of the kills that first ask, by SIGTERM.
const ASKED: f64 = if cfg!(unix) { 0.25 } else { 0.0 };

/// Interval between looks at a process; short compared with writing a checkpoint.
const TICK: Duration = Duration::from_millis(1);

/// What a kill interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hit {
    BeforeTheRun,
    BeforeCheckpoints,
    WhileWriting,
    AfterCheckpoint,
    Asked,
}

impl Hit {
    const ALL: [Self; 5] = [
        Self::BeforeTheRun,
        Self::BeforeCheckpoints,
        Self::WhileWriting,
        Self::AfterCheckpoint,
        Self::Asked,
    ];

    fn describe(self) -> &'static str {
        match self {
            Self::BeforeTheRun => "before the run had its recipe (started anew)",
            Self::BeforeCheckpoints => "before the first checkpoint",
            Self::WhileWriting => "while a checkpoint was being written",
            Self::AfterCheckpoint => "after a checkpoint",
            Self::Asked => "by SIGTERM, which the run answered: it saved and ended with code 75",
        }
    }
}

/// When a process is killed, unless it has ended before.
#[derive(Debug, Clone, Copy)]
struct Kill {
    /// The earliest time.
    after: Duration,
    /// Whether to wait until it writes a checkpoint.
    writing: bool,
    /// Whether to use SIGTERM.
    ask: bool,
}

/// How a process ended.
enum End {
    Finished,
    Killed(Hit),
}

/// Runs the test; `say` gets every line of the report. It is an error if a run cannot be resumed or has another result.
pub fn resume(args: &ResumeArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let folder = std::env::temp_dir().join(format!("unimo-torture-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
    let result = all_runs(args, &folder, say);
    if args.keep {
        say(&format!("kept: {}", folder.display()));
    } else if let Err(error) = fs::remove_dir_all(&folder) {
        say(&format!("cannot remove {}: {error}", folder.display()));
    }
    result
}

/// The program `unimo`, whose runs are killed. Cargo puts it next to this program.
fn unimo() -> Result<PathBuf, TrainError> {
    let own = std::env::current_exe().map_err(TrainError::file("find", "this program"))?;
    let unimo = own.with_file_name(format!("unimo{}", std::env::consts::EXE_SUFFIX));
    if unimo.is_file() {
        return Ok(unimo);
    }
    Err(TrainError::Check(format!(
        "there is no {}, whose runs are to be killed: `cargo xtask torture resume` builds it",
        unimo.display()
    )))
}

fn all_runs(args: &ResumeArgs, folder: &Path, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let torture = Torture {
        program: unimo()?,
        folder: folder.to_owned(),
        seconds: Cell::new(0),
    };
    let reference = folder.join("reference");
    // The first start reads the program from the disk; the second takes as long as those that are killed.
    torture.whole(&folder.join("first"))?;
    let began = Instant::now();
    torture.whole(&reference)?;
    let whole = began.elapsed();
    say(&format!(
        "a whole run of {STEPS} steps takes {:.1} s; now {} runs that are killed",
        whole.as_secs_f64(),
        args.runs
    ));
    if let Some(difference) = difference(&reference, &folder.join("first"))? {
        return Err(TrainError::Check(format!(
            "two runs that nobody killed differ already: {difference}"
        )));
    }

    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let mut hits: BTreeMap<Hit, usize> = BTreeMap::new();
    let mut failed: Vec<String> = Vec::new();
    for number in 1..=args.runs {
        let run = folder.join(format!("run-{number:04}"));
        let result = torture.killed(&run, whole, &mut rng, &mut hits);
        let failure = match result {
            Ok(processes) => match difference(&reference, &run)? {
                None => {
                    say(&format!(
                        "run {number:>4}: {} kills, equal",
                        processes.saturating_sub(1)
                    ));
                    None
                }
                Some(difference) => Some(difference),
            },
            Err(TrainError::Check(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        match failure {
            Some(reason) => {
                say(&format!("run {number:>4}: {reason}"));
                failed.push(format!("run {number}: {reason}"));
            }
            // If the folder is kept, failed runs stay in it.
            None if !args.keep => {
                fs::remove_dir_all(&run).map_err(TrainError::file("remove", &run))?;
            }
            None => {}
        }
    }
    say(&format!("{} kills:", hits.values().sum::<usize>()));
    for hit in Hit::ALL {
        let count = hits.get(&hit).copied().unwrap_or(0);
        say(&format!("{count:>6} {}", hit.describe()));
    }
    say(&format!(
        "{} second processes asked to train a run that was being trained",
        torture.seconds.get()
    ));
    if failed.is_empty() {
        for line in torture.refusals()? {
            say(&line);
        }
    }
    match failed.first() {
        None => {
            say(&format!(
                "all {} runs ended bit for bit where the undisturbed run did, with no file too many, and no second process was let in",
                args.runs
            ));
            Ok(())
        }
        Some(first) => Err(TrainError::Check(format!(
            "{} of {} runs failed; the first: {first}",
            failed.len(),
            args.runs
        ))),
    }
}

struct Torture {
    program: PathBuf,
    folder: PathBuf,
    /// Number of second processes that were tried.
    seconds: Cell<usize>,
}

impl Torture {
    /// One process that starts or continues a run.
    fn process(&self, run: &Path, kill: Option<Kill>) -> Result<End, TrainError> {
        let mut line: Vec<OsString> = vec!["train".into()];
        if run.join("recipe.toml").is_file() {
            line.extend(["--resume".into(), run.into()]);
        } else {
            line.push("unimo3-tiny".into());
            line.extend(["--out".into(), run.into()]);
            for change in CHANGES {
                line.extend(["--set".into(), change.into()]);
            }
            line.extend(["--set".into(), format!("train.steps={STEPS}").into()]);
        }
        line.extend(["--train-only".into(), "--quiet".into()]);

        let log = self.folder.join("stderr.txt");
        let stderr = fs::File::create(&log).map_err(TrainError::file("create", &log))?;
        let parts = parts(run)?;
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(TrainError::file("run", &self.program))?;
        let failed = |error| TrainError::file("wait for", &self.program)(error);
        // Tried once for each run that is killed.
        let mut second = kill.is_some() && !run.join("recipe.toml").is_file();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break Some(status);
            }
            if second && run.join("recipe.toml").is_file() {
                second = false;
                self.second_process(run, &mut child)?;
            }
            if let Some(kill) = kill {
                let early = kill.after.saturating_sub(began.elapsed());
                if early.is_zero() && (!kill.writing || writes(run, &parts)?) {
                    if kill.ask && ask(&child) {
                        break Some(child.wait().map_err(failed)?);
                    }
                    child.kill().and_then(|()| child.wait()).map_err(failed)?;
                    break None;
                }
            }
            std::thread::sleep(TICK);
        };
        match status {
            Some(status) if status.success() => Ok(End::Finished),
            Some(status) if status.code() == Some(i32::from(interrupt::EXIT_CODE)) => {
                Ok(End::Killed(Hit::Asked))
            }
            // The process did not handle signals yet.
            Some(status) if status.code().is_none() => Ok(End::Killed(where_hit(run, &parts)?)),
            Some(_) => {
                let text = fs::read_to_string(&log).unwrap_or_default();
                Err(TrainError::Check(format!(
                    "{} failed: {}",
                    line.iter()
                        .map(|a| a.to_string_lossy())
                        .collect::<Vec<_>>()
                        .join(" "),
                    text.trim()
                )))
            }
            None => Ok(End::Killed(where_hit(run, &parts)?)),
        }
    }

    /// A second process must not train a run that the first one trains.
    fn second_process(&self, run: &Path, first: &mut Child) -> Result<(), TrainError> {
        let (code, said) = self.output(&["train".into(), "--resume".into(), run.into()])?;
        let alive = first
            .try_wait()
            .map_err(TrainError::file("wait for", &self.program))?
            .is_none();
        if !alive {
            return Ok(());
        }
        self.seconds.set(self.seconds.get() + 1);
        if code == Some(0) || !said.contains("another process") {
            return Err(TrainError::Check(format!(
                "a second process on the run ended with {code:?} and said: {}",
                said.trim()
            )));
        }
        Ok(())
    }

    /// Runs the program; returns its exit code and its output.
    fn output(&self, line: &[OsString]) -> Result<(Option<i32>, String), TrainError> {
        let output = Command::new(&self.program)
            .args(line)
            .args(["--train-only", "--quiet"])
            .stdin(Stdio::null())
            .output()
            .map_err(TrainError::file("run", &self.program))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), said))
    }

    /// Changes that a run must refuse are refused by name; allowed changes are made.
    fn refusals(&self) -> Result<Vec<String>, TrainError> {
        let folder = self.folder.join("list");
        fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let list = folder.join("pairs.jsonl");
        let mut rows = String::new();
        for number in 0..PICTURES {
            let shade = (number * 9) as u8;
            let picture = RgbImage::from_pixel(8, 8, Rgb([shade, 255 - shade, 128]));
            files::write_picture(&folder.join(format!("{number}.png")), &picture)?;
            rows += &format!(
                "{{\"image\":\"{number}.png\",\"caption\":\"a picture of shade {number}\"}}\n"
            );
        }
        files::write(&list, rows.as_bytes())?;
        let run = folder.join("run");
        let mut line: Vec<OsString> = vec!["train".into(), "unimo3-tiny".into()];
        line.extend(["--data".into(), list.clone().into()]);
        line.extend(["--out".into(), run.clone().into()]);
        let small = CHANGES
            .iter()
            .filter(|change| !change.starts_with("data.scenes"));
        for change in small.chain(&["data.pairs.val_fraction=0.0", "train.steps=4"]) {
            line.extend(["--set".into(), change.into()]);
        }
        let expect =
            |what: &str, line: &[OsString], named: &[&str]| -> Result<String, TrainError> {
                let (code, said) = self.output(line)?;
                let fine = match named {
                    [] => code == Some(0),
                    named => code == Some(1) && named.iter().all(|name| said.contains(name)),
                };
                if fine {
                    return Ok(format!(
                        "{what}: {}",
                        said.trim().lines().last().unwrap_or("goes on")
                    ));
                }
                Err(TrainError::Check(format!(
                    "{what}: ended with {code:?} and said: {}",
                    said.trim()
                )))
            };
        let resume = |set: &[&str]| -> Vec<OsString> {
            let mut line: Vec<OsString> =
                vec!["train".into(), "--resume".into(), run.clone().into()];
            for change in set {
                line.extend(["--set".into(), change.into()]);
            }
            line
        };
        let mut lines = vec![expect("a run on a list", &line, &[])?];

        // Each change is undone before the next.
        let recipe = run.join("recipe.toml");
        let tokenizer = run.join("tokenizer.json");
        for (what, path, old, new, named) in [
            (
                "a grown list",
                &list,
                "",
                "{\"image\":\"0.png\",\"caption\":\"one more\"}\n",
                &["data (train)", "rows"][..],
            ),
            (
                "a swapped tokenizer",
                &tokenizer,
                "{",
                "{ ",
                &["tokenizer.json"][..],
            ),
            (
                "an edited recipe",
                &recipe,
                "heads = 4",
                "heads = 2",
                &["recipe.toml was edited", "heads: 4 -> 2"][..],
            ),
        ] {
            let text = fs::read_to_string(path).map_err(TrainError::file("read", path))?;
            let changed = match old {
                "" => format!("{text}{new}"),
                old => text.replacen(old, new, 1),
            };
            files::write(path, changed.as_bytes())?;
            lines.push(expect(what, &resume(&[]), named)?);
            files::write(path, text.as_bytes())?;
        }
        lines.push(expect(
            "another batch size",
            &resume(&["train.batch_size=4"]),
            &["train.batch_size: 8 -> 4"],
        )?);
        lines.push(expect("more steps", &resume(&["train.steps=6"]), &[])?);
        let reached = checkpoint::steps(&run.join("checkpoints"))?.last() == Some(&6);
        if !reached {
            return Err(TrainError::Check("more steps: were not done".to_owned()));
        }
        Ok(lines)
    }

    /// Trains a run undisturbed.
    fn whole(&self, run: &Path) -> Result<(), TrainError> {
        self.process(run, None).map(|_| ())
    }

    /// Trains a run that is killed at least once; returns the number of processes.
    fn killed(
        &self,
        run: &Path,
        whole: Duration,
        rng: &mut ChaCha8Rng,
        hits: &mut BTreeMap<Hit, usize>,
    ) -> Result<usize, TrainError> {
        let mut processes = 0;
        loop {
            let kill = processes == 0 || rng.random_bool(KILL_AGAIN);
            let at = Kill {
                after: whole.mul_f64(rng.random_range(0.0..1.0)),
                writing: rng.random_bool(AIMED),
                ask: rng.random_bool(ASKED),
            };
            processes += 1;
            match self.process(run, kill.then_some(at))? {
                // It ended before the kill, which proves nothing.
                End::Finished if processes == 1 => {
                    fs::remove_dir_all(run).map_err(TrainError::file("remove", run))?;
                    processes = 0;
                }
                End::Finished => return Ok(processes),
                End::Killed(hit) => *hits.entry(hit).or_default() += 1,
            }
        }
    }
}

/// Sends SIGTERM, without a dependency; returns whether that worked.
fn ask(child: &Child) -> bool {
    let kill = format!("kill -TERM {}", child.id());
    Command::new("sh")
        .args(["-c", &kill])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Files that belong to a run.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "recipe.toml",
        "fingerprint.json",
        "run.json",
        "run.lock",
        "rates.txt",
        "sessions.jsonl",
        "tokenizer.json",
        "metrics.jsonl",
        "skipped.jsonl",
    ];
    let checkpoint = || {
        let step = name.strip_prefix("checkpoints/step-");
        let step = step.and_then(|rest| rest.strip_suffix(".safetensors"));
        step.is_some_and(|step| step.bytes().all(|byte| byte.is_ascii_digit()))
    };
    NAMES.contains(&name) || name.starts_with("events.out.tfevents.") || checkpoint()
}

/// Every file of a run, by its path in the run.
fn all_files(run: &Path) -> Result<Vec<String>, TrainError> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let path = run.join(&folder);
        for entry in fs::read_dir(&path).map_err(TrainError::file("list", &path))? {
            let entry = entry.map_err(TrainError::file("list", &path))?;
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(name + "/")
            } else {
                found.push(name)
            }
        }
    }
    found.sort();
    Ok(found)
}

type Parts = BTreeMap<OsString, Option<SystemTime>>;

/// Half-written checkpoints with the time of their last change.
fn parts(run: &Path) -> Result<Parts, TrainError> {
    let folder = run.join("checkpoints");
    let mut found = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(&folder).map_err(TrainError::file("list", &folder))? {
        let entry = entry.map_err(TrainError::file("list", &folder))?;
        if Path::new(&entry.file_name())
            .extension()
            .is_some_and(|e| e == "part")
        {
            let changed = entry.metadata().and_then(|m| m.modified()).ok();
            found.insert(entry.file_name(), changed);
        }
    }
    Ok(found)
}

/// Whether there is a newly half-written checkpoint; an earlier kill may have left another one.
fn writes(run: &Path, before: &Parts) -> Result<bool, TrainError> {
    Ok(parts(run)?
        .iter()
        .any(|(name, changed)| before.get(name) != Some(changed)))
}

fn where_hit(run: &Path, before: &Parts) -> Result<Hit, TrainError> {
    let writing = writes(run, before)?;
    Ok(if !run.join("recipe.toml").is_file() {
        Hit::BeforeTheRun
    } else if writing {
        Hit::WhileWriting
    } else if checkpoint::steps(&run.join("checkpoints"))?.is_empty() {
        Hit::BeforeCheckpoints
    } else {
        Hit::AfterCheckpoint
    })
}

/// The first difference between two finished runs: last checkpoint, logged losses, stray files.
fn difference(reference: &Path, run: &Path) -> Result<Option<String>, TrainError> {
    let steps = |run: &Path| checkpoint::steps(&run.join("checkpoints"));
    let (expected, found) = (steps(reference)?, steps(run)?);
    // A run that was asked to end has also saved at other steps.
    if expected.last() != found.last() {
        return Ok(Some(format!(
            "checkpoints of steps {found:?} instead of {expected:?}"
        )));
    }
    for step in expected.into_iter().filter(|step| found.contains(step)) {
        let file = |run: &Path| checkpoint::path(&run.join("checkpoints"), step);
        if let Some(found) = tensors_differ(&file(reference), &file(run))? {
            return Ok(Some(format!("checkpoint of step {step}: {found}")));
        }
    }
    if let Some(name) = all_files(run)?.into_iter().find(|name| !is_known(name)) {
        return Ok(Some(format!("{name} is left behind")));
    }
    let (a, b) = (losses(reference)?, losses(run)?);
    if a.len() != b.len() {
        return Ok(Some(format!(
            "metrics.jsonl has {} lines instead of {}",
            b.len(),
            a.len()
        )));
    }
    Ok(a.iter()
        .zip(&b)
        .find(|(a, b)| a != b)
        .map(|(a, b)| format!("metrics.jsonl says {b:?} instead of {a:?}")))
}

/// Step, loss and gradient norm of every line; JSON keeps all their bits.
fn losses(run: &Path) -> Result<Vec<(u64, f64, f64)>, TrainError> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let record: StepRecord = serde_json::from_str(line).map_err(|e| TrainError::Run {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        found.push((record.step, record.loss, record.grad_norm));
    }
    Ok(found)
}

/// The first tensor that differs between two checkpoints in any bit.
pub fn tensors_differ(reference: &Path, other: &Path) -> Result<Option<String>, TrainError> {
    let read = |path: &Path| fs::read(path).map_err(TrainError::file("read", path));
    let (a, b) = (read(reference)?, read(other)?);
    let parse = |path: &Path, e: safetensors::SafeTensorError| TrainError::Checkpoint {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    let a = SafeTensors::deserialize(&a).map_err(|e| parse(reference, e))?;
    let b = SafeTensors::deserialize(&b).map_err(|e| parse(other, e))?;
    let mut names: Vec<&str> = a.names();
    names.extend(b.names());
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (Ok(x), Ok(y)) = (a.tensor(name), b.tensor(name)) else {
            return Ok(Some(format!("`{name}` is in one of them only")));
        };
        if (x.dtype(), x.shape()) != (y.dtype(), y.shape()) {
            return Ok(Some(format!("`{name}` has another type or shape")));
        }
        let width = x.dtype().bitsize().div_ceil(8).max(1);
        let count = x.data().len() / width;
        let differ = x
            .data()
            .chunks(width)
            .zip(y.data().chunks(width))
            .enumerate()
            .filter(|(_, (x, y))| x != y)
            .map(|(at, _)| at)
            .collect::<Vec<_>>();
        if let Some(first) = differ.first() {
            return Ok(Some(format!(
                "`{name}` differs in {} of {count} values, first at {first}",
                differ.len()
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(folder: &Path, name: &str, tensors: &[(&str, &[f32])]) -> PathBuf {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let views: HashMap<&str, TensorView> = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, values), bytes)| {
                let view = TensorView::new(Dtype::F32, vec![values.len()], bytes).unwrap();
                (*name, view)
            })
            .collect();
        let path = folder.join(name);
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }

    #[test]
    fn one_bit_is_a_difference_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let whole = [("a", &[1.0f32, 2.0, 3.0][..]), ("b", &[0.5][..])];
        let reference = file(folder.path(), "reference", &whole);
        let found = |name: &str, tensors: &[(&str, &[f32])]| {
            tensors_differ(&reference, &file(folder.path(), name, tensors)).unwrap()
        };
        assert_eq!(found("same", &whole), None);
        let next = f32::from_bits(3.0f32.to_bits() + 1);
        let changed = [("a", &[1.0, 2.0, next][..]), ("b", &[0.5][..])];
        let message = found("bit", &changed).unwrap();
        assert_eq!(message, "`a` differs in 1 of 3 values, first at 2");
        assert!(found("lacks", &whole[..1]).unwrap().contains("`b`"));
        let longer = [("a", whole[0].1), ("b", &[0.5, 0.5][..])];
        assert!(found("shape", &longer).unwrap().contains("shape"));
    }

    #[test]
    fn a_kill_is_told_by_what_it_leaves() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let hit = |before: &Parts| where_hit(run, before).unwrap();
        let none = Parts::new();
        assert_eq!(hit(&none), Hit::BeforeTheRun);
        fs::write(run.join("recipe.toml"), "").unwrap();
        assert_eq!(hit(&none), Hit::BeforeCheckpoints);
        fs::create_dir(run.join("checkpoints")).unwrap();
        let part = run.join("checkpoints/step-00000002.safetensors.part");
        fs::write(&part, "").unwrap();
        assert_eq!(hit(&none), Hit::WhileWriting);
        assert_eq!(hit(&parts(run).unwrap()), Hit::BeforeCheckpoints);
        fs::write(checkpoint::path(&run.join("checkpoints"), 2), "").unwrap();
        assert_eq!(hit(&parts(run).unwrap()), Hit::AfterCheckpoint);
        let unknown: Vec<String> = all_files(run).unwrap();
        let unknown: Vec<&str> = unknown
            .iter()
            .map(String::as_str)
            .filter(|name| !is_known(name))
            .collect();
        assert_eq!(unknown, ["checkpoints/step-00000002.safetensors.part"]);
    }
}
