//! MPI carries what ranks exchange. Nothing else knows of it.

use std::sync::Arc;
use std::time::Duration;

use ferrompi::{Communicator, Mpi, ThreadLevel};
use unimo_core::world::{Engine, World};

use crate::error::TrainError;
use crate::ranks::launcher::Launcher;

/// How often a thread that leaves its processor to others looks whether all ranks are there. MPI itself would look all the time.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// MPI while it is used. It ends when this is dropped, which waits for the other ranks.
pub struct Session {
    _mpi: Mpi,
}

/// The processes that a launcher started. A call may wait no longer than `limit`.
///
/// # Errors
///
/// MPI cannot be started, or knows of other processes than the launcher.
pub fn open(launcher: Launcher, limit: Duration) -> Result<(Session, World), TrainError> {
    let failed = |error: ferrompi::Error| {
        TrainError::Ranks(format!(
            "MPI cannot be started under {}: {error}",
            launcher.name
        ))
    };
    let mpi = Mpi::init_thread(ThreadLevel::Serialized).map_err(failed)?;
    let all = mpi.world();
    let size = usize::try_from(all.size()).unwrap_or(0);
    if size != launcher.ranks {
        return Err(TrainError::Ranks(format!(
            "{} started {} processes, but the MPI that unimo was built with knows of {size}: that is another MPI's launcher. Start it by \
             the launcher of that MPI",
            launcher.name, launcher.ranks
        )));
    }
    let local = all.split_shared().map_err(failed)?;
    let engine = Processes {
        rank: usize::try_from(all.rank()).unwrap_or(0),
        size,
        local_rank: usize::try_from(local.rank()).unwrap_or(0),
        all,
    };
    let world = World::new(Arc::new(engine), limit)?;
    Ok((Session { _mpi: mpi }, world))
}

/// All processes.
struct Processes {
    rank: usize,
    size: usize,
    local_rank: usize,
    all: Communicator,
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// Where each of several messages begins in one row, and how long the row is. MPI counts with 32 bits.
fn places(lengths: &[u64]) -> Result<(Vec<i32>, Vec<i32>, usize), String> {
    let total: u64 = lengths.iter().sum();
    if i32::try_from(total).is_err() {
        return Err(format!(
            "{total} bytes at once, allowed: up to {}",
            i32::MAX
        ));
    }
    let mut next = 0;
    let mut begins = Vec::with_capacity(lengths.len());
    let mut counts = Vec::with_capacity(lengths.len());
    for length in lengths {
        // Each is at most the total.
        let length = *length as i32;
        begins.push(next);
        counts.push(length);
        next += length;
    }
    Ok((counts, begins, total as usize))
}

/// The messages in a row.
fn parts(row: &[u8], lengths: &[u64]) -> Vec<Vec<u8>> {
    let mut rest = row;
    let mut all = Vec::with_capacity(lengths.len());
    for length in lengths {
        let (part, after) = rest.split_at(*length as usize);
        all.push(part.to_vec());
        rest = after;
    }
    all
}

fn said(error: ferrompi::Error) -> String {
    error.to_string()
}

impl Engine for Processes {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn meet(&self) -> Result<(), String> {
        let met = ferrompi::scope(|scope| {
            let mut barrier = self.all.ibarrier(scope)?;
            while barrier.test()?.is_none() {
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(())
        });
        met.map_err(said)
    }

    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
        let sent: Vec<u64> = to.iter().map(|message| message.len() as u64).collect();
        let mut heard = vec![0u64; self.size];
        self.all.alltoall(&sent, &mut heard).map_err(said)?;
        let (send_counts, send_begins, _) = places(&sent)?;
        let (counts, begins, total) = places(&heard)?;
        let row = to.concat();
        let mut all = vec![0u8; total];
        self.all
            .alltoallv(&row, &send_counts, &send_begins, &mut all, &counts, &begins)
            .map_err(said)?;
        Ok(parts(&all, &heard))
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let mut lengths = vec![0u64; self.size];
        self.all
            .allgather(&[own.len() as u64], &mut lengths)
            .map_err(said)?;
        let (counts, begins, total) = places(&lengths)?;
        let mut all = vec![0u8; total];
        self.all
            .allgatherv(own, &mut all, &counts, &begins)
            .map_err(said)?;
        Ok(parts(&all, &lengths))
    }

    fn broadcast(&self, first: &[u8]) -> Result<Vec<u8>, String> {
        let mut length = [first.len() as u64];
        self.all.broadcast(&mut length, 0).map_err(said)?;
        let mut bytes = if self.rank == 0 {
            first.to_vec()
        } else {
            vec![0; length[0] as usize]
        };
        self.all.broadcast(&mut bytes, 0).map_err(said)?;
        Ok(bytes)
    }

    fn exchange_values(&self, own: &[f32]) -> Result<Vec<f32>, String> {
        let mut all = vec![0.0; own.len()];
        self.all.alltoall(own, &mut all).map_err(said)?;
        Ok(all)
    }

    fn exchange_parts(&self, own: &[u8]) -> Result<Vec<u8>, String> {
        let mut all = vec![0; own.len()];
        self.all.alltoall(own, &mut all).map_err(said)?;
        Ok(all)
    }

    fn gather_values(&self, own: &[f32]) -> Result<Vec<f32>, String> {
        let mut all = vec![0.0; own.len() * self.size];
        self.all.allgather(own, &mut all).map_err(said)?;
        Ok(all)
    }

    fn broadcast_values(&self, own: &mut [f32]) -> Result<(), String> {
        self.all.broadcast(own, 0).map_err(said)
    }
}
