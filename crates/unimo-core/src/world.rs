//! The processes that train together.
//!
//! Whatever spans all processes goes through a [`World`], so that a step is the same code for one process and for many. A process
//! alone exchanges nothing: every call returns what it was given. Between several an [`Engine`] carries the bytes. MPI is one
//! (the feature `mpi` of `unimo-train`); [`threads`] is another, for tests.
//!
//! Every call but [`World::rank`] and its like is collective: all ranks make the same calls in the same order. What decides how a
//! run goes on is therefore computed from the same numbers on every rank. A call that waits longer than the limit of the
//! [`World`] ends the process, since a rank that hangs would hold all others for ever.

mod background;
mod lost;
pub mod threads;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::world::background::Background;
pub use crate::world::background::Pending;
pub use crate::world::lost::Lost;
use crate::world::watch::Watch;

/// How often rank 0 says that it is alive, within the time that the others wait for it.
const SIGNS_OF_LIFE: u32 = 4;

/// Exit code of a process that gave up waiting for others, or lost one: `EX_UNAVAILABLE` of sysexits.h. A launcher may start all of them again.
pub const LOST: i32 = watch::EXIT_CODE;

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

    /// Waits until all ranks are here. Meanwhile it leaves its processor to other threads, which exchanges need not do.
    fn meet(&self) -> Result<(), String> {
        Ok(())
    }

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

    /// As [`exchange_values`](Self::exchange_values), of bytes.
    fn exchange_parts(&self, own: &[u8]) -> Result<Vec<u8>, String> {
        let part = own.len() / self.size();
        let parts = own.chunks(part.max(1)).map(<[u8]>::to_vec);
        let mut to: Vec<Vec<u8>> = parts.collect();
        to.resize(self.size(), Vec::new());
        Ok(self.exchange(to)?.concat())
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

/// How values travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, which keeps 8 binary digits, in half the bytes.
    Bf16,
}

impl Wire {
    /// A value as it arrives: the nearest one that the wire carries, of two the even one.
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => f32::from_bits(u32::from(half_of(value)) << HALF),
        }
    }
}

/// Bits of an f32 that bf16 does not have.
const HALF: u32 = 16;

/// The upper half of the nearest value whose lower half is 0.
fn half_of(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // One that stays one, whichever digits it has.
        return (bits >> HALF) as u16 | 1 << 6;
    }
    let even = (bits >> HALF) & 1;
    ((bits + (u32::from(u16::MAX) >> 1) + even) >> HALF) as u16
}

fn to_halves(values: &[f32]) -> Vec<u8> {
    let halves = values.iter().map(|value| half_of(*value).to_le_bytes());
    halves.flatten().collect()
}

fn of_halves(bytes: &[u8]) -> Vec<f32> {
    let (halves, _) = bytes.as_chunks::<2>();
    let values = halves
        .iter()
        .map(|half| u32::from(u16::from_le_bytes(*half)));
    values.map(|half| f32::from_bits(half << HALF)).collect()
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

/// The processes that train together, and which of them this is.
#[derive(Debug, Clone, Default)]
pub struct World(Option<Among>);

#[derive(Debug, Clone)]
struct Among {
    engine: Arc<dyn Engine>,
    watch: Arc<Watch>,
    /// What another thread exchanges, which is waited for before anything else; `None`: this is that thread.
    background: Option<Arc<Background>>,
    /// Nanoseconds that this process has waited for exchanges.
    waited: Arc<AtomicU64>,
}

impl World {
    /// One process.
    pub const ALONE: Self = Self(None);

    /// The processes that an engine connects; [`ALONE`](Self::ALONE) if it is only one.
    ///
    /// A call that waits longer than `limit` ends the process with the exit code [`LOST`], and a line on stderr that names
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
        Ok(Self(Some(Among {
            engine,
            watch,
            background: Some(Arc::default()),
            waited: Arc::default(),
        })))
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

    /// Lets another thread exchange something while this one computes. It does what it is given in this order, which must be the same on
    /// all ranks; every other call of this process first waits until it has done all of it. `work` exchanges by the world that it is given.
    /// A process alone does it at once.
    ///
    /// # Errors
    ///
    /// The system starts no thread for it.
    pub fn in_background<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, Lost> + Send + 'static,
    ) -> Result<Pending<T>, Lost> {
        let (sender, receiver) = mpsc::channel();
        let ended = Lost {
            rank: self.rank(),
            step: 0,
            what,
            reason: "the thread that exchanges has ended".to_owned(),
        };
        let Some(among) = &self.0 else {
            // The receiver is there.
            let _ = sender.send(work(self));
            return Ok(Pending(receiver, ended));
        };
        let there = Self(Some(Among {
            background: None,
            ..among.clone()
        }));
        if let Some(background) = &among.background {
            let given = background.give(move || {
                // Where nobody waits for it any more, there was an error before.
                let _ = sender.send(work(&there));
            });
            given.map_err(|error| among.lost(what, error.to_string()))?;
        }
        Ok(Pending(receiver, ended))
    }

    /// What an exchange in the background gives.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn wait_for<T>(&self, pending: Pending<T>) -> Result<T, Lost> {
        let began = Instant::now();
        let result = pending.wait();
        if let Some(among) = &self.0 {
            among.has_waited(began);
        }
        result
    }

    /// How long this process has waited for exchanges so far, which computing did not hide.
    pub fn waited(&self) -> Duration {
        let nanoseconds = |among: &Among| among.waited.load(Ordering::Relaxed);
        Duration::from_nanos(self.0.as_ref().map_or(0, nanoseconds))
    }

    /// Waits until all ranks are here, and leaves the processor to other threads meanwhile.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn meet(&self, what: &'static str) -> Result<(), Lost> {
        let Some(among) = &self.0 else {
            return Ok(());
        };
        among.call(what, |engine| engine.meet())
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
    /// ranks. All ranks give the same number of values, a multiple of their number. Values are rounded as `wire` says, this rank's own too.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn exchange_values(
        &self,
        what: &'static str,
        own: Vec<f32>,
        wire: Wire,
    ) -> Result<Vec<f32>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(own.into_iter().map(|value| wire.rounded(value)).collect());
        };
        among.call(what, |engine| match wire {
            Wire::F32 => engine.exchange_values(&own),
            Wire::Bf16 => Ok(of_halves(&engine.exchange_parts(&to_halves(&own))?)),
        })
    }

    /// The values of all ranks, in the order of ranks, rounded as `wire` says. All ranks give the same number of values.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn gather_values(
        &self,
        what: &'static str,
        own: Vec<f32>,
        wire: Wire,
    ) -> Result<Vec<f32>, Lost> {
        let Some(among) = &self.0 else {
            return Ok(own.into_iter().map(|value| wire.rounded(value)).collect());
        };
        among.call(what, |engine| match wire {
            Wire::F32 => engine.gather_values(&own),
            Wire::Bf16 => Ok(of_halves(&engine.gather(&to_halves(&own))?.concat())),
        })
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
        let began = Instant::now();
        if let Some(background) = &self.background {
            background.wait();
        }
        self.watch.begin(what);
        let result = work(&*self.engine);
        self.watch.end();
        if self.background.is_some() {
            self.has_waited(began);
        }
        result.map_err(|reason| self.lost(what, reason))
    }

    fn has_waited(&self, since: Instant) {
        let nanoseconds = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
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
        assert_eq!(
            world
                .exchange_values("values", vec![1.0], Wire::F32)
                .unwrap(),
            [1.0]
        );
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
                let parts = world
                    .exchange_values("values", values.clone(), Wire::F32)
                    .unwrap();
                let expected: Vec<f32> = all.iter().map(|from| (10 * from + own) as f32).collect();
                assert_eq!(parts, expected);
                let gathered = world
                    .gather_values("values", vec![own as f32, -0.0], Wire::F32)
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

    /// Values arrive in half the bytes, the nearest that bf16 has, those of a rank for itself too.
    #[test]
    fn values_are_rounded_on_a_narrow_wire() {
        /// Halfway between two values of bf16, of which the even one is taken, and above the largest one.
        const ROUNDED: [(f32, f32); 8] = [
            (1.0, 1.0),
            (-0.0, -0.0),
            (1.003_906_2, 1.0),
            (1.011_718_8, 1.015_625),
            (1.004, 1.007_812_5),
            (-1.004, -1.007_812_5),
            (f32::MAX, f32::INFINITY),
            (1e-45, 0.0),
        ];
        let (given, arrived): (Vec<f32>, Vec<f32>) = ROUNDED.into_iter().unzip();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for size in [1, 2, 4] {
            as_threads(size, |world| {
                let part = given.len() / world.size();
                let own = given.clone();
                let parts = world.exchange_values("values", own, Wire::Bf16).unwrap();
                let expected = arrived[world.rank() * part..][..part].repeat(size);
                assert_eq!(bits(&parts), bits(&expected));
                let own = vec![given[world.rank()], f32::NAN];
                let all = world.gather_values("values", own, Wire::Bf16).unwrap();
                assert!(all.iter().skip(1).step_by(2).all(|x| x.is_nan()));
                let firsts: Vec<f32> = all.into_iter().step_by(2).collect();
                assert_eq!(bits(&firsts), bits(&arrived[..size]));
            });
        }
    }

    /// In the order in which they were given, and before whatever this thread exchanges next.
    #[test]
    fn what_the_background_exchanges_comes_first() {
        for size in [1, 3] {
            as_threads(size, |world| {
                let said: Arc<std::sync::Mutex<Vec<usize>>> = Arc::default();
                let pending: Vec<_> = (0..20)
                    .map(|at| {
                        let said = Arc::clone(&said);
                        let work = move |there: &World| {
                            there.meet("numbers")?;
                            let all = there.gather("numbers", at + there.rank())?;
                            said.lock().unwrap().push(at);
                            Ok(all)
                        };
                        world.in_background("numbers", work).unwrap()
                    })
                    .collect();
                let all = world.gather("ranks", world.rank()).unwrap();
                assert_eq!(*said.lock().unwrap(), (0..20).collect::<Vec<_>>());
                for (at, pending) in pending.into_iter().enumerate() {
                    let expected: Vec<usize> = all.iter().map(|rank| at + rank).collect();
                    assert_eq!(world.wait_for(pending).unwrap(), expected);
                }
            });
        }
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
