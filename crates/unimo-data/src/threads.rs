//! Work on all cores, its results in order.
//!
//! It knows nothing of what the work is.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `work` of every number in a range, in order, on all cores.
pub(crate) fn parallel<T: Send>(range: Range<usize>, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    parallel_on(0, range, work)
}

/// The same on at least so many threads, for work that waits.
pub(crate) fn parallel_on<T: Send>(
    threads: usize,
    range: Range<usize>,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let cores = cores.max(threads);
    let next = AtomicUsize::new(range.start);
    let take = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= range.end {
                return done;
            }
            done.push((number, work(number)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..cores.min(range.len()))
            .map(|_| scope.spawn(take))
            .collect();
        let mut done = take();
        for thread in threads {
            match thread.join() {
                Ok(more) => done.extend(more),
                // What panics here would have panicked in the caller's own thread.
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
