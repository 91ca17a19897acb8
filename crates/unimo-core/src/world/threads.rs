//! Ranks that are threads of one process, for tests: they need no launcher.
//!
//! Random numbers of a device are one stream for the whole process, so threads cannot draw dropout as processes do.

use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use crate::world::{Engine, World};

/// Longer than any exchange between threads takes, so that a test whose ranks wait for each other ends.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the ranks of one process share.
#[derive(Debug)]
struct Shared {
    /// Before anybody writes, after all have written.
    barrier: Barrier,
    /// The messages of each rank to each.
    letters: Mutex<Vec<Vec<Vec<u8>>>>,
}

/// One of the ranks of a process.
#[derive(Debug)]
struct Thread {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

impl Engine for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
        let letters = || {
            let letters = self.shared.letters.lock();
            letters.unwrap_or_else(PoisonError::into_inner)
        };
        letters()[self.rank] = to;
        self.shared.barrier.wait();
        let heard = letters().iter().map(|to| to[self.rank].clone()).collect();
        self.shared.barrier.wait();
        Ok(heard)
    }
}

/// Runs `work` on `size` threads, each with its rank, and returns their results in the order of ranks.
///
/// # Panics
///
/// Panics if one of them does, or if the system starts no threads.
pub fn as_threads<T: Send>(size: usize, work: impl Fn(World) -> T + Sync) -> Vec<T> {
    as_threads_within(size, PATIENCE, work)
}

/// The same with a limit of its own on how long an exchange may wait.
///
/// # Panics
///
/// As of [`as_threads`].
pub fn as_threads_within<T: Send>(
    size: usize,
    limit: Duration,
    work: impl Fn(World) -> T + Sync,
) -> Vec<T> {
    let shared = Arc::new(Shared {
        barrier: Barrier::new(size),
        letters: Mutex::new(vec![Vec::new(); size]),
    });
    let (shared, work) = (&shared, &work);
    std::thread::scope(|scope| {
        let ranks = (0..size).map(|rank| {
            scope.spawn(move || {
                let engine = Arc::new(Thread {
                    rank,
                    size,
                    shared: Arc::clone(shared),
                });
                let world = World::new(engine, limit);
                work(world.expect("invariant: a process that starts threads starts one more"))
            })
        });
        let ranks: Vec<_> = ranks.collect();
        let ended = ranks.into_iter().map(|rank| rank.join());
        ended
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
