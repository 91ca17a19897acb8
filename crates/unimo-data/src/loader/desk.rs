//! Shares the work on batches between threads, and bounds the number of batches in flight.
//!
//! All threads work on the oldest batch with samples left to make, a few samples at a time. The thread that returns the last ones
//! assembles the batch. A batch beyond the oldest `room` is not begun, so memory is bounded whatever the number of threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use unimo_batch::Batch;

use crate::error::{DataError, panic_text};

/// State shared by the threads of a loader: batches in flight, the oldest first.
pub(super) struct Desk<P> {
    state: Mutex<State<P>>,
    /// Signals that there may be work.
    work: Condvar,
    /// Signals that a batch is ready or no thread is left.
    ready: Condvar,
    room: usize,
    size: usize,
    /// Number of samples that a thread takes at a time.
    at_once: usize,
}

/// How batches are made.
pub(super) trait Work {
    /// Some samples of a batch.
    type Piece: Send;

    /// The positions of the samples of batch number `batch`, counted from the loader's beginning.
    ///
    /// # Errors
    ///
    /// What determines them cannot be read.
    fn positions(&self, batch: u64) -> Result<Vec<u64>, DataError>;

    /// The samples at some positions; the first of them is number `first` of its batch.
    fn piece(&self, batch: u64, first: usize, positions: &[u64]) -> Result<Self::Piece, DataError>;

    /// Assembles a batch from its pieces, in order.
    fn whole(&self, batch: u64, pieces: Vec<Self::Piece>) -> Result<Batch, DataError>;

    /// Its number in the run, for messages.
    fn number(&self, batch: u64) -> u64;
}

struct State<P> {
    open: VecDeque<Open<P>>,
    /// The next batch to open.
    next: u64,
    stop: bool,
    threads: usize,
}

/// A batch in flight.
struct Open<P> {
    batch: u64,
    /// Positions not yet taken, the last one first; unknown at first.
    left: Vec<u64>,
    pieces: Vec<Option<P>>,
    /// Number of pieces not yet returned.
    away: usize,
    known: bool,
    made: Option<Result<Batch, DataError>>,
}

enum Task {
    Positions(u64),
    Piece {
        batch: u64,
        piece: usize,
        first: usize,
        positions: Vec<u64>,
    },
}

impl<P: Send> Desk<P> {
    /// A desk for this many threads and at most `room` batches of `size` samples at once.
    pub(super) fn new(threads: usize, room: usize, size: usize) -> Self {
        /// Each thread takes about `TIMES` pieces per batch, of at most `MOST` samples. So threads finish a batch together, and do
        /// not contend for samples that cost little.
        const TIMES: usize = 4;
        const MOST: usize = 16;
        Self {
            state: Mutex::new(State {
                open: VecDeque::new(),
                next: 0,
                stop: false,
                threads,
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
            room,
            size,
            at_once: (size / (TIMES * threads)).clamp(1, MOST),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work of a thread until the loader is dropped.
    pub(super) fn work(&self, work: &impl Work<Piece = P>) {
        let _leaves = Leaves(self);
        while let Some(task) = self.task() {
            match task {
                Task::Positions(batch) => {
                    let found = caught(work, batch, || work.positions(batch));
                    self.positions(batch, found);
                }
                Task::Piece {
                    batch,
                    piece,
                    first,
                    positions,
                } => {
                    let made = caught(work, batch, || work.piece(batch, first, &positions));
                    if let Some(pieces) = self.put(batch, piece, made) {
                        let whole = caught(work, batch, || work.whole(batch, pieces));
                        self.end(batch, whole);
                    }
                }
            }
        }
    }

    /// Waits for the next task; `None` if the loader is dropped.
    fn task(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.stop {
                return None;
            }
            let open = state.open.iter_mut();
            let mut unmade = open.filter(|open| open.made.is_none());
            if let Some(open) = unmade.find(|open| !open.left.is_empty()) {
                let first = self.size.saturating_sub(open.left.len());
                let rest = open.left.len().saturating_sub(self.at_once);
                let mut positions = open.left.split_off(rest);
                positions.reverse();
                open.pieces.push(None);
                open.away += 1;
                return Some(Task::Piece {
                    batch: open.batch,
                    piece: open.pieces.len() - 1,
                    first,
                    positions,
                });
            }
            if state.open.len() < self.room {
                let batch = state.next;
                state.next += 1;
                state.open.push_back(Open {
                    batch,
                    left: Vec::new(),
                    pieces: Vec::with_capacity(self.size.div_ceil(self.at_once)),
                    away: 0,
                    known: false,
                    made: None,
                });
                return Some(Task::Positions(batch));
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn positions(&self, batch: u64, found: Result<Vec<u64>, DataError>) {
        let mut state = self.state();
        if let Some(open) = state.open.iter_mut().find(|open| open.batch == batch) {
            match found {
                Ok(positions) => {
                    open.left = positions;
                    open.left.reverse();
                    open.known = true;
                }
                Err(error) => open.made = Some(Err(error)),
            }
        }
        drop(state);
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// Returns a piece. If it is the last one, gives all pieces of the batch.
    fn put(&self, batch: u64, piece: usize, made: Result<P, DataError>) -> Option<Vec<P>> {
        let mut state = self.state();
        let open = state.open.iter_mut().find(|open| open.batch == batch)?;
        open.away -= 1;
        if open.made.is_some() {
            return None;
        }
        match made {
            Ok(made) => {
                open.pieces[piece] = Some(made);
                let whole = open.known && open.left.is_empty() && open.away == 0;
                whole.then(|| open.pieces.drain(..).flatten().collect())
            }
            Err(error) => {
                open.made = Some(Err(error));
                open.pieces.clear();
                drop(state);
                self.ready.notify_all();
                None
            }
        }
    }

    fn end(&self, batch: u64, whole: Result<Batch, DataError>) {
        let mut state = self.state();
        if let Some(open) = state.open.iter_mut().find(|open| open.batch == batch) {
            open.made = Some(whole);
        }
        drop(state);
        self.ready.notify_all();
    }

    /// Waits for the next batch; `None` if no thread is left to make it.
    pub(super) fn take(&self) -> Option<Result<Batch, DataError>> {
        let mut state = self.state();
        loop {
            let first = state.open.front_mut();
            if let Some(made) = first.and_then(|open| open.made.take()) {
                state.open.pop_front();
                drop(state);
                self.work.notify_all();
                return Some(made);
            }
            if state.threads == 0 {
                return None;
            }
            state = self
                .ready
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the threads to stop; each finishes its current piece.
    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.work.notify_all();
    }
}

/// On drop, records that a thread has ended, for whatever reason.
struct Leaves<'a, P: Send>(&'a Desk<P>);

impl<P: Send> Drop for Leaves<'_, P> {
    fn drop(&mut self) {
        self.0.state().threads -= 1;
        self.0.ready.notify_all();
    }
}

/// A panic while a batch is made is an error like any other.
fn caught<T>(
    work: &impl Work,
    batch: u64,
    make: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|payload| {
        Err(DataError::Worker {
            batch: work.number(batch),
            reason: panic_text(&*payload),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SIZE: u64 = 4;

    /// Samples are their positions; the positions are the names in a batch.
    struct Numbers<F> {
        each: F,
    }

    impl<F: Fn(u64) -> Result<(), DataError>> Work for Numbers<F> {
        type Piece = Vec<u64>;

        fn number(&self, batch: u64) -> u64 {
            batch
        }

        fn positions(&self, batch: u64) -> Result<Vec<u64>, DataError> {
            Ok((batch * SIZE..(batch + 1) * SIZE).collect())
        }

        fn piece(
            &self,
            batch: u64,
            first: usize,
            positions: &[u64],
        ) -> Result<Vec<u64>, DataError> {
            assert_eq!(positions[0], batch * SIZE + first as u64);
            positions.iter().try_for_each(|at| (self.each)(*at))?;
            Ok(positions.to_vec())
        }

        fn whole(&self, _batch: u64, pieces: Vec<Vec<u64>>) -> Result<Batch, DataError> {
            let samples = pieces.concat().iter().map(u64::to_string).collect();
            Ok(Batch {
                samples,
                ..Batch::default()
            })
        }
    }

    /// The first `batches` batches of this many threads, or the error that ended them. `asked` counts the calls for a batch.
    fn take(
        (threads, room, batches): (usize, usize, u64),
        asked: &AtomicU64,
        each: impl Fn(u64) -> Result<(), DataError> + Sync,
    ) -> Result<(), DataError> {
        let desk = Desk::new(threads, room, SIZE as usize);
        let work = Numbers { each };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| desk.work(&work));
            }
            let taken = (0..batches).try_for_each(|batch| {
                asked.fetch_add(1, Ordering::SeqCst);
                let made = desk.take().expect("the threads are there")?;
                let positions = work.positions(batch)?;
                let names: Vec<String> = positions.iter().map(u64::to_string).collect();
                assert_eq!(made.samples, names);
                Ok(())
            });
            desk.stop();
            taken
        })
    }

    /// Whatever the number of threads, no sample of a batch beyond the room is begun.
    #[test]
    fn no_more_batches_are_in_flight_than_there_is_room_for() {
        for (threads, room) in [(1, 1), (1, 4), (8, 1), (8, 3), (128, 4)] {
            let asked = AtomicU64::new(0);
            take((threads, room, 50), &asked, |position| {
                // A requested batch may already be taken, which makes room for another.
                let most = asked.load(Ordering::SeqCst) + room as u64;
                assert!(position / SIZE < most, "{position} of {most} batches");
                Ok(())
            })
            .unwrap();
        }
    }

    /// Four threads make the four samples of one batch: each waits for the others.
    #[test]
    fn threads_share_the_samples_of_a_batch() {
        const BATCHES: u64 = 10;
        let all = Barrier::new(SIZE as usize);
        let asked = AtomicU64::new(0);
        take((SIZE as usize, 1, BATCHES), &asked, |position| {
            // Some samples of a batch beyond the last may be begun; the other threads are stopped.
            if position < BATCHES * SIZE {
                all.wait();
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn what_goes_wrong_is_the_batch_of_its_place() {
        for threads in [1, 3] {
            let asked = AtomicU64::new(0);
            let ended = take((threads, 2, 10), &asked, |position| {
                assert_ne!(position, 5 * SIZE + 1, "a bug in a source");
                Ok(())
            });
            let error = ended.unwrap_err().to_string();
            assert!(error.contains("a bug in a source"), "{error}");
            assert_eq!(asked.load(Ordering::SeqCst), 6);
        }
    }
}
