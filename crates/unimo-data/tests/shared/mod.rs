//! Test data that is not on every machine.

use std::io::Write;
use std::path::PathBuf;

/// The folder that UNIMO_SHARED names. If it names none, a line on stderr says that `test` was skipped; it bypasses the harness,
/// which hides the output of passing tests.
pub fn shared(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("UNIMO_SHARED").filter(|value| !value.is_empty());
    if given.is_none() {
        let line = format!("SKIPPED: {test}: set UNIMO_SHARED to run it\n");
        // If stderr is closed, nobody could read the line anyway.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    given.map(PathBuf::from)
}
