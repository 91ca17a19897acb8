//! Settings of the memory allocator for commands that compute for long.
//!
//! glibc reads its settings once, when a program starts. So a command that takes steps, or that runs a model over a whole data set, sets
//! them and starts again, in the same process. An installed `unimo` is then as fast as one that `cargo xtask` started.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

/// Settings of glibc's allocator; other C libraries ignore the variable.
const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// Every operation on the CPU allocates memory, so a training step constantly maps, clears and returns pages. With pages of 2 MiB
/// this happens less often. It almost never happens if freed memory is kept for the next step, which glibc does only occasionally
/// by default.
const FOR_STEPS: &str =
    "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=";
/// From this size on, a block of memory is mapped and returned separately. No block is this large.
const MAP_FROM: &str = "4294967296";
/// The largest value that glibc before 2.35 accepts; it ignores a larger one.
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

/// The name of the system's C library; empty if the system does not tell.
fn c_library() -> String {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// The commands of `unimo` and `unimo-dev` that take steps, make batches, or run a model over a data set. The others only read a model,
/// and clearing huge pages once costs more than it saves.
const COMPUTE_LONG: [&[&str]; 9] = [
    &["train"],
    &["sweep"],
    &["eval"],
    &["predict"],
    &["caption"],
    &["bench", "step"],
    &["check"],
    &["torture"],
    &["data", "bench"],
];

/// Starts the command again with the settings, if it computes for long and the user has set none. Otherwise it returns. If starting again
/// fails, this is reported; it only costs speed.
pub fn begin_again() {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if !cfg!(target_env = "gnu") || env::var_os(ALLOCATOR).is_some() || !computes_long(&args) {
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

fn computes_long(args: &[OsString]) -> bool {
    let begins = |names: &&[&str]| {
        args.len() >= names.len()
            && names
                .iter()
                .zip(args)
                .all(|(name, arg)| arg == OsStr::new(name))
    };
    COMPUTE_LONG.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_computes_long_sets_the_allocator() {
        for (line, expected) in [
            ("train tiny", true),
            ("sweep file.toml", true),
            ("bench step", true),
            ("data bench", true),
            ("predict run", true),
            ("eval run", true),
            ("data verify", false),
            ("data", false),
            ("score run", false),
            ("", false),
        ] {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(computes_long(&args), expected, "{line}");
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
