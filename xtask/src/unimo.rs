//! Builds and runs `unimo`, and `unimo-dev` with the tools for developers.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use crate::needs;

/// A build that takes longer is announced with its command; a build with nothing to do is not.
const ANNOUNCE_AFTER: Duration = Duration::from_secs(1);
/// Message for a build from scratch.
const FIRST_BUILD: &str =
    "about 12 minutes on two cores the first time, with a GPU backend 15 minutes more";
/// Interval between checks whether a build is done.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A program of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The program that users install.
    Unimo,
    /// Benchmarks, comparisons and torture. It is built together with `unimo`, which it runs and kills.
    Dev,
}

impl Program {
    /// The commands of `unimo-dev` that `cargo xtask` accepts without its name. `check` is a command of `xtask` itself.
    const OF_DEV: [&str; 4] = ["bench", "parity", "torture", "trace"];

    /// The program that has a command.
    pub fn of(command: &OsStr) -> Self {
        if Self::OF_DEV.iter().any(|name| command == *name) {
            Self::Dev
        } else {
            Self::Unimo
        }
    }

    /// The name of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unimo => "unimo",
            Self::Dev => "unimo-dev",
        }
    }

    /// The targets that cargo builds.
    fn targets(self) -> &'static str {
        match self {
            Self::Unimo => "-p unimo-train --bin unimo",
            Self::Dev => "-p unimo-train --bin unimo -p unimo-dev --bin unimo-dev",
        }
    }
}

/// The reason why the program did not run.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The status was not success.
    pub fn of_status(command: &str, status: ExitStatus) -> Self {
        Self {
            message: format!("`{command}` failed: {status}"),
            code: exit_code(status),
        }
    }

    /// The command could not even be started.
    pub fn of_start(command: &str, error: &io::Error) -> Self {
        Self {
            message: format!("`{command}` could not be started: {error}"),
            code: 1,
        }
    }

    /// The arguments ask for what cannot be done.
    pub fn of_arguments(message: String) -> Self {
        Self { message, code: 1 }
    }

    /// Prints the message; the exit code is that of the command that failed.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.message);
        ExitCode::from(self.code)
    }
}

/// The cargo that runs us, from the chosen toolchain, in the environment that it was started in.
///
/// `cargo run`, which started us, has set variables about this package. Some build scripts depend on them, so cargo would rebuild
/// their crates whenever a call by us follows one by the user, or the reverse.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_the_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether `cargo run` sets a variable to describe the package that it runs.
fn is_of_the_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"].contains(&name)
}

/// The features to build with: the requested ones, and those that the requested device and data need.
///
/// `args` are the program's arguments. The last `--device` counts; what follows `--` is not an option. A device that does not exist
/// needs no feature: `unimo` reports it and names the existing ones.
pub fn features(asked: Option<&str>, args: &[OsString]) -> Vec<String> {
    let mut features: Vec<String> = Vec::new();
    let listed = asked
        .unwrap_or_default()
        .split([',', ' '])
        .filter(|name| !name.is_empty());
    let needed = device(args).and_then(feature_of).into_iter();
    for feature in listed.chain(needed).chain(needs::of(args)) {
        if !features.iter().any(|known| known == feature) {
            features.push(feature.to_owned());
        }
    }
    features
}

fn device(args: &[OsString]) -> Option<&str> {
    let mut device = None;
    let mut args = args.iter().map(|arg| arg.to_str().unwrap_or_default());
    while let Some(arg) = args.next() {
        match arg {
            "--" => break,
            "--device" => device = args.next(),
            _ => device = arg.strip_prefix("--device=").or(device),
        }
    }
    device
}

/// `wgpu`, `wgpu:1`, `cuda:0`: the kind is what precedes the colon.
fn feature_of(device: &str) -> Option<&'static str> {
    match device.split(':').next() {
        Some("wgpu") => Some("wgpu"),
        Some("cuda") => Some("cuda"),
        _ => None,
    }
}

/// Cargo's arguments for building a program.
fn build_args(program: Program, features: &[String]) -> Vec<String> {
    // Without the default features, which are for users who install `unimo` before they know what it will read.
    let args = format!(
        "build --release {} --no-default-features --features",
        program.targets()
    );
    let mut features: Vec<&str> = features.iter().map(String::as_str).collect();
    features.insert(0, "flex");
    args.split(' ')
        .map(String::from)
        .chain([features.join(",")])
        .collect()
}

/// Builds a program and returns its path. A long build is announced.
pub fn build(program: Program, features: &[String]) -> Result<PathBuf, Failure> {
    let args = build_args(program, features);
    let shown = format!("cargo {}", args.join(" "));
    let name = program.name();
    let own = env::current_exe().map_err(|error| Failure::of_start(name, &error))?;
    let binary = beside(&own, name);
    // The two programs share everything that takes long to build.
    let how_long = if binary.is_file() || beside(&own, Program::Unimo.name()).is_file() {
        "less than two minutes if only unimo itself has changed, longer with features that were not built yet"
    } else {
        FIRST_BUILD
    };
    let child = cargo().args(&args).spawn();
    let status = child.and_then(|child| {
        wait(child, || {
            eprintln!(
                "xtask: building {name} with `{shown}`, which takes {how_long}; then it runs"
            );
        })
    });
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(Failure::of_status(&shown, status)),
        Err(error) => return Err(Failure::of_start(&shown, &error)),
    }
    if binary.is_file() {
        return Ok(binary);
    }
    Err(Failure {
        message: format!(
            "`{shown}` left no {}; run this program as `cargo xtask`, so that cargo builds both in one place",
            binary.display()
        ),
        code: 1,
    })
}

/// Cargo puts the binaries of one workspace into one folder, for any target folder and triple: `.../release/xtask` and
/// `.../release/unimo`.
fn beside(own: &Path, name: &str) -> PathBuf {
    let target = own.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    target
        .join("release")
        .join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

fn wait(mut child: Child, announce: impl FnOnce()) -> io::Result<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < ANNOUNCE_AFTER {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(LOOK_EVERY);
    }
    announce();
    child.wait()
}

/// Runs a program in place of this one, so that Ctrl-C and the exit code are the program's own.
#[cfg(unix)]
pub fn become_it(binary: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ExitCode {
    use std::os::unix::process::CommandExt;

    // `exec` only returns if it failed.
    let error = Command::new(binary).args(args).exec();
    Failure::of_start(&binary.display().to_string(), &error).report()
}

/// Runs a program and exits as it did.
#[cfg(not(unix))]
pub fn become_it(binary: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ExitCode {
    match Command::new(binary).args(args).status() {
        Ok(status) => ExitCode::from(exit_code(status)),
        Err(error) => Failure::of_start(&binary.display().to_string(), &error).report(),
    }
}

/// The exit code that a shell would give: the program's code, or 128 + the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    status
        .code()
        .or(signal)
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: Option<&str>, line: &str) -> Vec<String> {
        features(
            asked,
            &line
                .split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_device_chooses_the_feature() {
        for (line, expected) in [
            ("train tiny", None),
            ("train tiny --device flex", None),
            ("train tiny --device cpu", None),
            ("train tiny --device auto", None),
            ("train tiny --device wgpu", Some("wgpu")),
            ("train tiny --device=wgpu:1", Some("wgpu")),
            ("train --device cuda:0 tiny", Some("cuda")),
            ("train --device=cuda tiny", Some("cuda")),
            ("train tiny --device wgpu --device cuda", Some("cuda")),
            ("train tiny --device wgpu --device flex", None),
            ("train tiny -- --device wgpu", None),
            ("train tiny --devices wgpu", None),
            ("train wgpu", None),
            ("train tiny --device wgpux", None),
            ("train tiny --device", None),
        ] {
            assert_eq!(
                of(None, line),
                expected.map(String::from).into_iter().collect::<Vec<_>>(),
                "{line}"
            );
        }
    }

    #[test]
    fn features_asked_for_come_first_and_once() {
        assert_eq!(
            of(Some("cuda-nvrtc"), "train tiny --device cuda"),
            ["cuda-nvrtc", "cuda"]
        );
        assert_eq!(
            of(Some("wgpu,cuda"), "train tiny --device cuda"),
            ["wgpu", "cuda"]
        );
        assert_eq!(of(Some("wgpu, wgpu,"), "train tiny"), ["wgpu"]);
        assert_eq!(of(Some(""), "train tiny"), Vec::<String>::new());
    }

    #[test]
    fn what_cargo_run_sets_is_not_passed_on() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(is_of_the_package(name) && env::var_os(name).is_some());
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_NET_OFFLINE",
            "CARGO",
        ] {
            assert!(!is_of_the_package(name));
        }
        let removed = |name: &str| cargo().get_envs().any(|(n, v)| n == name && v.is_none());
        assert!(removed("CARGO_PKG_NAME") && !removed("PATH"));
    }

    #[test]
    fn the_build_command() {
        assert_eq!(
            build_args(Program::Unimo, &[]).join(" "),
            "build --release -p unimo-train --bin unimo --no-default-features --features flex"
        );
        assert_eq!(
            build_args(Program::Dev, &["wgpu".into(), "cuda".into()]).join(" "),
            "build --release -p unimo-train --bin unimo -p unimo-dev --bin unimo-dev --no-default-features --features flex,wgpu,cuda"
        );
    }

    #[test]
    fn the_binary_is_beside_us() {
        let suffix = env::consts::EXE_SUFFIX;
        let target = Path::new("else").join("where");
        assert_eq!(
            beside(&target.join("debug").join("xtask"), "unimo-dev"),
            target.join("release").join(format!("unimo-dev{suffix}"))
        );
    }

    #[cfg(unix)]
    #[test]
    fn exit_codes_are_those_of_a_shell() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
