//! The memory allocator as training steps want it.
//!
//! glibc reads its settings once, when a program starts. So a command that takes steps sets them and begins again, in the same process:
//! an installed `unimo` is as fast as one that `cargo xtask` started.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// Settings of glibc's allocator; other C libraries ignore the variable.
const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// Every operation on the CPU takes fresh memory, so a training step maps, clears and gives back pages all the time. It does so
/// less often with 2 MiB at once, and hardly ever if memory that was given back is kept for the next step, which glibc does by
/// itself only now and then.
const FOR_STEPS: &str =
    "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=";
/// From here on a piece of memory is mapped alone and given back with it: none is that large, ...
const MAP_FROM: &str = "4294967296";
/// ... or as few as can be, where more is refused as a whole.
const MAP_FROM_BEFORE_2_35: &str = "33554432";

/// The settings for the C library that `getconf GNU_LIBC_VERSION` names, `glibc 2.36`.
fn for_steps(library: &str) -> String {
    let version = library.trim().strip_prefix("glibc ").and_then(|version| {
        let (major, minor) = version.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    let map_from = match version {
        Some(version) if version >= (2, 35) => MAP_FROM,
        _ => MAP_FROM_BEFORE_2_35,
    };
    format!("{FOR_STEPS}{map_from}")
}

/// What the system says its C library is; nothing where it does not say.
fn c_library() -> String {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// The commands of `unimo` and `unimo-dev` that take steps or make batches. The others read a model and are done, and clearing huge pages once costs
/// more than it saves.
const TAKE_STEPS: [&[&str]; 5] = [
    &["train"],
    &["bench", "step"],
    &["check"],
    &["torture"],
    &["data", "bench"],
];

/// Begins again with the settings, where the command takes steps and the user has set none. Returns where there is nothing to do; a
/// failure to begin again costs speed alone and is said.
pub fn begin_again() {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if !cfg!(target_env = "gnu") || env::var_os(ALLOCATOR).is_some() || !takes_steps(&args) {
        return;
    }
    #[cfg(unix)]
    if let Ok(own) = env::current_exe() {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new(own);
        if let Some(name) = env::args_os().next() {
            command.arg0(name);
        }
        command.args(args).env(ALLOCATOR, for_steps(&c_library()));
        // `exec` only returns if it failed.
        let error = command.exec();
        eprintln!("the allocator keeps its own settings, which makes steps slower: {error}");
    }
}

fn takes_steps(args: &[OsString]) -> bool {
    let begins = |names: &&[&str]| {
        args.len() >= names.len()
            && names
                .iter()
                .zip(args)
                .all(|(name, arg)| arg == OsStr::new(name))
    };
    TAKE_STEPS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_steps_sets_the_allocator() {
        for (line, expected) in [
            ("train tiny", true),
            ("bench step", true),
            ("data bench", true),
            ("data verify", false),
            ("data", false),
            ("score run", false),
            ("", false),
        ] {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(takes_steps(&args), expected, "{line}");
        }
    }

    #[test]
    fn a_threshold_is_one_that_the_c_library_accepts() {
        for (library, expected) in [
            ("glibc 2.35\n", MAP_FROM),
            ("glibc 2.40", MAP_FROM),
            ("glibc 3.0", MAP_FROM),
            ("glibc 2.34\n", MAP_FROM_BEFORE_2_35),
            ("glibc 2.4.1", MAP_FROM_BEFORE_2_35),
            ("musl", MAP_FROM_BEFORE_2_35),
            ("", MAP_FROM_BEFORE_2_35),
        ] {
            assert_eq!(for_steps(library), format!("{FOR_STEPS}{expected}"));
        }
    }
}
