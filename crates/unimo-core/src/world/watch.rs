//! Ends a process that waits too long for others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, process, thread};

/// How often a thread looks whether a call waits too long.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Exit code of a process that gave up waiting, or lost another one: `EX_UNAVAILABLE` of sysexits.h.
pub(super) const EXIT_CODE: i32 = 69;

/// The call that a process waits in.
#[derive(Debug)]
pub(super) struct Watch {
    rank: usize,
    limit: Duration,
    step: AtomicU64,
    call: Mutex<Option<(Instant, &'static str)>>,
}

impl Watch {
    /// Starts the thread that looks. It ends when the watch is dropped.
    pub fn start(rank: usize, limit: Duration) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self {
            rank,
            limit,
            step: AtomicU64::new(0),
            call: Mutex::new(None),
        });
        let weak = Arc::downgrade(&watch);
        thread::Builder::new()
            .name("unimo-watchdog".to_owned())
            .spawn(move || Self::look(&weak))?;
        Ok(watch)
    }

    fn look(weak: &Weak<Self>) {
        loop {
            thread::sleep(LOOK_EVERY);
            let Some(watch) = weak.upgrade() else {
                return;
            };
            if let Some((since, what)) = *watch.lock()
                && since.elapsed() >= watch.limit
            {
                let line = format!(
                    "rank {}, step {}: {what} has waited {} s for the other ranks; this process gives up\n",
                    watch.rank,
                    watch.step(),
                    watch.limit.as_secs()
                );
                // In one piece, since other ranks print at the same time.
                eprint!("{line}");
                process::exit(EXIT_CODE);
            }
        }
    }

    pub fn at_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    pub fn begin(&self, what: &'static str) {
        *self.lock() = Some((Instant::now(), what));
    }

    pub fn end(&self) {
        *self.lock() = None;
    }

    /// A thread that panicked while it held the lock has only set the call.
    fn lock(&self) -> MutexGuard<'_, Option<(Instant, &'static str)>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
