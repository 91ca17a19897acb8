//! The processes that train together.
//!
//! Whatever spans all processes goes through a [`World`], so that a step is the same code for one process and for many. A process
//! alone exchanges nothing: every call returns what it was given. Between several an [`Engine`] carries the bytes. MPI is one
//! (the feature `mpi` of `unimo-train`); [`threads`] is another, for tests.
//!
//! Every call but [`World::rank`] and its like is collective: all ranks make the same calls in the same order. What decides how a
//! run goes on is therefore computed from the same numbers on every rank. A call that waits longer than the limit of the
//! [`World`] ends the process, since a rank that hangs would hold all others for ever.

pub mod threads;
mod watch;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{fmt, thread};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::world::watch::Watch;

/// How often rank 0 says that it is alive, within the time that the others wait for it.
const SIGNS_OF_LIFE: u32 = 4;

/// Carries bytes between processes. Every method but the first three is collective.
///
/// Errors are those of the engine, in its own words. After one, nothing can be exchanged any more.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Which process this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Which process this is among those of its machine, from 0.
    fn local_rank(&self) -> usize;

    /// Sends message `i` to rank `i`, and returns the messages of all ranks to this one, in the order of ranks. Messages may have any
    /// length.
    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String>;

    /// The messages of all ranks, in the order of ranks.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.exchange(vec![own.to_vec(); self.size()])
    }

    /// The message of rank 0. The others give nothing.
    fn broadcast(&self, first: &[u8]) -> Result<Vec<u8>, String> {
        let to = if self.rank() == 0 {
            vec![first.to_vec(); self.size()]
        } else {
            vec![Vec::new(); self.size()]
        };
        Ok(self.exchange(to)?.swap_remove(0))
    }

    /// Sends the `i`-th of `size` equal parts to rank `i`, and returns the parts for this rank in the order of ranks. All ranks give
    /// the same number of values.
    fn exchange_values(&self, own: &[f32]) -> Result<Vec<f32>, String> {
        let part = own.len() / self.size();
        let parts = own.chunks(part.max(1)).map(to_bytes);
        let mut to: Vec<Vec<u8>> = parts.collect();
        to.resize(self.size(), Vec::new());
        Ok(self.exchange(to)?.iter().flat_map(|p| values(p)).collect())
    }

    /// The values of all ranks, in the order of ranks. All ranks give the same number of values.
    fn gather_values(&self, own: &[f32]) -> Result<Vec<f32>, String> {
        let all = self.gather(&to_bytes(own))?;
        Ok(all.iter().flat_map(|part| values(part)).collect())
    }

    /// Replaces the values of all ranks by those of rank 0. All ranks give the same number of values.
    fn broadcast_values(&self, own: &mut [f32]) -> Result<(), String> {
        let first = self.broadcast(&to_bytes(own))?;
        own.iter_mut()
            .zip(values(&first))
            .for_each(|(own, first)| *own = first);
        Ok(())
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn values(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let (whole, _) = bytes.as_chunks::<4>();
    whole.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// The processes could not exchange something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The rank that says so.
    pub rank: usize,
    /// The step in which it happened, counted from 1; 0: before the first.
    pub step: u64,
    /// What was exchanged.
    pub what: &'static str,
    /// Why it failed, in the engine's words.
    pub reason: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}, ", self.rank)?;
        if self.step > 0 {
            write!(f, "step {}, ", self.step)?;
        }
        write!(f, "{}: {}", self.what, self.reason)
    }
}

impl std::error::Error for Lost {}

/// The processes that train together, and which of them this is.
#[derive(Debug, Clone, Default)]
pub struct World(Option<Among>);

#[derive(Debug, Clone)]
struct Among {
    engine: Arc<dyn Engine>,
    watch: Arc<Watch>,
}

impl World {
    /// One process.
    pub const ALONE: Self = Self(None);

    /// The processes that an engine connects; [`ALONE`](Self::ALONE) if it is only one.
    ///
    /// A call that waits longer than `limit` ends the process with the exit code 75 ("try again"), and a line on stderr that names
    /// the step and what was exchanged. The launcher then ends the other processes.
    ///
    /// # Errors
    ///
    /// The system starts no thread for it.
    pub fn new(engine: Arc<dyn Engine>, limit: Duration) -> Result<Self, Lost> {
        if engine.size() == 1 {
            return Ok(Self::ALONE);
        }
        let watch = Watch::start(engine.rank(), limit).map_err(|error| Lost {
            rank: engine.rank(),
            step: 0,
            what: "the watchdog",
            reason: error.to_string(),
        })?;
        Ok(Self(Some(Among { engine, watch })))
    }

    /// Which process this is, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |among| among.engine.rank())
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |among| among.engine.size())
    }

    /// Which process this is among those of its machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.0.as_ref().map_or(0, |among| among.engine.local_rank())
    }

    /// Whether there is no other process.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is rank 0, which writes the run's files.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Says which step is taken, for messages.
    pub fn at_step(&self, step: u64) {
        if let Some(among) = &self.0 {
            among.watch.at_step(step);
        }
    }

    /// What every rank says, in the order of ranks.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn gather<T: Serialize + DeserializeOwned>(
        &self,
        what: &'static str,
        own: T,
    ) -> Result<Vec<T>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(vec![own]);
        };
        let bytes = among.packed(what, &own)?;
        let all = among.call(what, |engine| engine.gather(&bytes))?;
        all.iter()
            .map(|bytes| among.unpacked(what, bytes))
            .collect()
    }

    /// Says `to[i]` to rank `i`, and returns what all ranks say to this one, in the order of ranks.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn exchange<T: Serialize + DeserializeOwned>(
        &self,
        what: &'static str,
        to: Vec<T>,
    ) -> Result<Vec<T>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(to);
        };
        let packed = to.iter().map(|message| among.packed(what, message));
        let packed = packed.collect::<Result<Vec<_>, Lost>>()?;
        let all = among.call(what, |engine| engine.exchange(packed))?;
        all.iter()
            .map(|bytes| among.unpacked(what, bytes))
            .collect()
    }

    /// What rank 0 computes, which may take minutes: it may evaluate or write. Meanwhile it tells the others again and again that it
    /// is alive, so that they give up within the limit if it is not.
    ///
    /// `compute` itself must exchange nothing.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn from_first<T: Serialize + DeserializeOwned>(
        &self,
        what: &'static str,
        compute: impl FnOnce() -> T,
    ) -> Result<T, Lost> {
        let Some(among) = &self.0 else {
            return Ok(compute());
        };
        if !self.is_first() {
            loop {
                let bytes = among.call(what, |engine| engine.broadcast(&[]))?;
                if !bytes.is_empty() {
                    return among.unpacked(what, &bytes);
                }
            }
        }
        let computed = among.alive_during(what, compute)?;
        let bytes = among.packed(what, &computed)?;
        among.call(what, |engine| engine.broadcast(&bytes))?;
        Ok(computed)
    }

    /// Sends the `i`-th of `size` equal parts to rank `i`, and returns the parts for this rank, one after the other in the order of
    /// ranks. All ranks give the same number of values, a multiple of their number.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn exchange_values(&self, what: &'static str, own: Vec<f32>) -> Result<Vec<f32>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(own);
        };
        among.call(what, |engine| engine.exchange_values(&own))
    }

    /// The values of all ranks, in the order of ranks. All ranks give the same number of values.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn gather_values(&self, what: &'static str, own: Vec<f32>) -> Result<Vec<f32>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(own);
        };
        among.call(what, |engine| engine.gather_values(&own))
    }

    /// Replaces the values of all ranks by those of rank 0. All ranks give the same number of values.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn broadcast_values(&self, what: &'static str, own: &mut [f32]) -> Result<(), Lost> {
        let Some(among) = &self.0 else {
            return Ok(());
        };
        among.call(what, |engine| engine.broadcast_values(own))
    }
}

impl Among {
    /// Lets the engine work. It may not wait longer than the watchdog allows.
    fn call<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Engine) -> Result<T, String>,
    ) -> Result<T, Lost> {
        self.watch.begin(what);
        let result = work(&*self.engine);
        self.watch.end();
        result.map_err(|reason| self.lost(what, reason))
    }

    /// What `compute` gives. While it works, another thread sends the other ranks empty messages: nothing that is packed is empty.
    /// Only one thread uses the engine at a time.
    fn alive_during<T>(&self, what: &'static str, compute: impl FnOnce() -> T) -> Result<T, Lost> {
        let every = self.watch.limit() / SIGNS_OF_LIFE;
        let (done, asked) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let beat = thread::Builder::new().spawn_scoped(scope, move || {
                while asked.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    self.call(what, |engine| engine.broadcast(&[]))?;
                }
                Ok(())
            });
            let beat = beat.map_err(|error| self.lost(what, error.to_string()))?;
            let computed = compute();
            drop(done);
            match beat.join() {
                Ok(told) => told.map(|()| computed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn packed<T: Serialize>(&self, what: &'static str, value: &T) -> Result<Vec<u8>, Lost> {
        // With the names of fields, since a type may leave some of them out.
        rmp_serde::to_vec_named(value).map_err(|error| self.lost(what, error.to_string()))
    }

    fn unpacked<T: DeserializeOwned>(&self, what: &'static str, bytes: &[u8]) -> Result<T, Lost> {
        rmp_serde::from_slice(bytes).map_err(|error| {
            self.lost(what, format!("ranks say different things at once: {error}"))
        })
    }

    fn lost(&self, what: &'static str, reason: String) -> Lost {
        Lost {
            rank: self.engine.rank(),
            step: self.watch.step(),
            what,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::threads::as_threads;
    use super::*;

    #[test]
    fn alone_everything_comes_back() {
        let world = World::ALONE;
        assert_eq!((world.rank(), world.size()), (0, 1));
        assert_eq!(world.gather("numbers", 3).unwrap(), [3]);
        assert_eq!(world.exchange("numbers", vec![3]).unwrap(), [3]);
        assert_eq!(world.from_first("a number", || 3).unwrap(), 3);
        assert_eq!(world.exchange_values("values", vec![1.0]).unwrap(), [1.0]);
    }

    #[test]
    fn several_hear_each_other_in_the_order_of_ranks() {
        for size in [2, 3, 4] {
            as_threads(size, |world| {
                let own = world.rank();
                let all: Vec<usize> = (0..size).collect();
                assert_eq!(world.gather("ranks", own).unwrap(), all);
                // Messages of other lengths for each.
                let to: Vec<String> = all
                    .iter()
                    .map(|to| format!("{own}").repeat(to + 1))
                    .collect();
                let heard = world.exchange("letters", to).unwrap();
                let expected: Vec<String> = all
                    .iter()
                    .map(|from| format!("{from}").repeat(own + 1))
                    .collect();
                assert_eq!(heard, expected);
                assert_eq!(world.from_first("a number", || own + 7).unwrap(), 7);
                let values: Vec<f32> = all.iter().map(|to| (10 * own + to) as f32).collect();
                let parts = world.exchange_values("values", values.clone()).unwrap();
                let expected: Vec<f32> = all.iter().map(|from| (10 * from + own) as f32).collect();
                assert_eq!(parts, expected);
                let gathered = world
                    .gather_values("values", vec![own as f32, -0.0])
                    .unwrap();
                assert_eq!(gathered.len(), 2 * size);
                assert!(
                    gathered
                        .iter()
                        .skip(1)
                        .step_by(2)
                        .all(|x| x.is_sign_negative())
                );
                let mut given = values;
                world.broadcast_values("values", &mut given).unwrap();
                assert_eq!(given[size - 1], (size - 1) as f32);
            });
        }
    }

    /// Rank 0 works for longer than the others would wait for a process that says nothing.
    #[test]
    fn who_works_long_says_that_it_is_alive() {
        let limit = Duration::from_secs(2);
        let ended = threads::as_threads_within(3, limit, |world| {
            let computed = world.from_first("a number", || {
                thread::sleep(limit + limit / 2);
                world.rank() + 7
            });
            (
                computed.unwrap(),
                world.gather("ranks", world.rank()).unwrap(),
            )
        });
        assert!(ended.iter().all(|said| *said == (7, vec![0, 1, 2])));
    }

    /// What is not a number arrives as it is: a loss may be.
    #[test]
    fn nothing_is_lost_on_the_way() {
        as_threads(2, |world| {
            let all = world.gather("losses", f64::NAN).unwrap();
            assert!(all.iter().all(|loss| loss.is_nan()));
            let said = world.gather("words", Some("é\n".to_owned())).unwrap();
            assert_eq!(said[1].as_deref(), Some("é\n"));
        });
    }
}
