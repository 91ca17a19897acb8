//! Work on all cores, with results in order.
//!
//! It does not depend on the kind of work.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Applies `work` to every number in a range on all cores; results are in order.
pub(crate) fn parallel<T: Send>(range: Range<usize>, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    parallel_on(0, range, work)
}

/// The same on at least this many threads, for work that waits.
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
                // A panic here would have been a panic in the caller's own thread.
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
