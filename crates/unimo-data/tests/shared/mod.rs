//! Data that not every machine has.

use std::io::Write;
use std::path::PathBuf;

/// The folder that UNIMO_SHARED names. Where it names none, one line on stderr, past the harness that hides what passing tests
/// print, says that `test` was skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("UNIMO_SHARED").filter(|value| !value.is_empty());
    if given.is_none() {
        let line = format!("SKIPPED: {test}: set UNIMO_SHARED to run it\n");
        // Where stderr is closed nobody could read it anyway.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    given.map(PathBuf::from)
}
