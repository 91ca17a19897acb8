//! Output whose reader has gone.

use std::any::Any;
use std::error::Error;
use std::io;
use std::process;

/// Exit code of a program that SIGPIPE ended.
const EXIT_CODE: i32 = 128 + 13;

/// Ends the program silently if the reader of its output has gone, as in `unimo recipes | head -1`, where `println!` panics.
///
/// To be called once, at the start. The exit code is not 0, since the remaining work was not done.
pub fn end_quietly_when_closed() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_closed(panic.payload()) {
            process::exit(EXIT_CODE);
        }
        before(panic);
    }));
}

/// As [`end_quietly_when_closed`], for an error on writing instead of a panic.
pub fn end_quietly_if_closed(error: &(dyn Error + 'static)) {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            process::exit(EXIT_CODE);
        }
        next = error.source();
    }
}

/// Whether a panic comes from `print!` into a closed pipe. The standard library gives only its text.
fn is_closed(payload: &(dyn Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.is_some_and(|text| {
        text.starts_with("failed printing to std") && text.contains("Broken pipe")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_panics_are_no_closed_pipes() {
        let closed = "failed printing to stdout: Broken pipe (os error 32)";
        assert!(is_closed(&closed.to_owned()));
        for other in ["failed printing to stdout: No space left", "Broken pipe"] {
            assert!(!is_closed(&other.to_owned()));
        }
        assert!(!is_closed(&7));
    }
}
