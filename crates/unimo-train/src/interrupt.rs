//! Signals that ask a training to end: SIGTERM (Slurm, spot machines, `kill`) and SIGINT (Ctrl-C).
//!
//! The training reacts to the first signal after its step: it saves and ends with [`EXIT_CODE`]. The second signal ends the process
//! at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::TrainError;

/// Exit code of a training that was asked to end and can be continued: `EX_TEMPFAIL` of sysexits.h, "try again".
pub const EXIT_CODE: u8 = 75;

/// The exit code of a process that a signal ended, minus the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on, a first signal sets a flag instead of ending the process.
///
/// # Errors
///
/// The system does not allow handlers for the signals.
pub fn listen() -> Result<(), TrainError> {
    if ASKED.get().is_some() {
        return Ok(());
    }
    let asked = Arc::clone(ASKED.get_or_init(Arc::default));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset and sets it.
        flag::register_conditional_shutdown(signal, ENDED_BY_SIGNAL + signal, Arc::clone(&asked))
            .and_then(|_| flag::register(signal, Arc::clone(&asked)))
            .map_err(|error| TrainError::Check(format!("signals cannot be handled: {error}")))?;
    }
    Ok(())
}

/// Whether a signal has asked for the end.
pub fn asked() -> bool {
    ASKED
        .get()
        .is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// An error if a signal has asked for the end, for work that is then given up, such as an evaluation.
///
/// # Errors
///
/// [`TrainError::Interrupted`].
pub fn check() -> Result<(), TrainError> {
    if asked() {
        return Err(TrainError::Interrupted);
    }
    Ok(())
}
