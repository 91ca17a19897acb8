//! The name of this program, for messages that say what to type: `unimo`, or a program with parts of its own.

use std::path::Path;
use std::sync::OnceLock;

static NAME: OnceLock<String> = OnceLock::new();

/// Takes the name that the program was started by.
pub(crate) fn is_started() {
    let first = std::env::args_os().next();
    let stem = first.as_deref().map(Path::new).and_then(Path::file_stem);
    if let Some(stem) = stem {
        NAME.get_or_init(|| stem.to_string_lossy().into_owned());
    }
}

/// The name; `unimo` where the library is used by itself.
pub(crate) fn name() -> &'static str {
    NAME.get().map_or("unimo", String::as_str)
}
