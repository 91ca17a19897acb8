//! The ranks of a training: processes that an MPI launcher has started together.
//!
//! What every rank must know or decide alike goes through here: an error of one rank ends all of them (`all`), what only rank 0 does
//! reaches the others (`first`), and what was given to them must be the same (`agree`).

pub mod launcher;
pub(crate) mod moments;
#[cfg(feature = "mpi")]
pub mod mpi;
pub(crate) mod plan;
pub(crate) mod sending;
pub(crate) mod sharing;
pub mod sums;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use unimo_core::world::{self, World};

use crate::error::TrainError;
use crate::interrupt;
use crate::ranks::launcher::Launcher;

/// Longest value that is shown where ranks differ.
const SHOWN: usize = 60;

/// Most differences that are named.
const NAMED: usize = 8;

/// How long a rank that fails alone waits before it ends. The launcher then ends the others, which may still have something to say.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The ranks of this command, while it runs.
pub struct Session {
    /// They, and which of them this process is.
    pub world: World,
    #[cfg(feature = "mpi")]
    _mpi: mpi::Session,
}

impl Session {
    /// Connects the processes that a launcher started. A rank that waits longer than `limit` in an exchange ends.
    ///
    /// # Errors
    ///
    /// This program was built without MPI, or MPI cannot be started.
    #[cfg(feature = "mpi")]
    pub fn open(launcher: Launcher, limit: Duration) -> Result<Self, TrainError> {
        let (session, world) = mpi::open(launcher, limit)?;
        Ok(Self {
            world,
            _mpi: session,
        })
    }

    /// Connects the processes that a launcher started. A rank that waits longer than `limit` in an exchange ends.
    ///
    /// # Errors
    ///
    /// This program was built without MPI.
    #[cfg(not(feature = "mpi"))]
    pub fn open(launcher: Launcher, _limit: Duration) -> Result<Self, TrainError> {
        Err(launcher.not_built_in())
    }

    /// Ends the command on all ranks. An error is printed here, with its rank, and ends the process: where all ranks know of it after
    /// they have all come here, else at once, since the others wait for this one.
    pub fn end(self, result: Result<(), TrainError>) {
        let Err(error) = result else {
            return;
        };
        let rank = self.world.rank();
        match &error {
            TrainError::Stopped { .. } => {
                if rank == 0 {
                    say(&error.to_string());
                }
                drop(self);
                std::process::exit(interrupt::EXIT_CODE.into());
            }
            TrainError::OfAll(_)
            | TrainError::NotFinite { .. }
            | TrainError::NothingToTrain { .. } => {
                say(&format!("rank {rank} ends: error: {error}"));
                drop(self);
            }
            TrainError::Lost(_) => {
                say(&format!("rank {rank} ends: error: {error}"));
                std::thread::sleep(LAST_WORDS);
                std::process::exit(world::LOST);
            }
            _ => {
                say(&format!("rank {rank} ends: error: {error}"));
                std::thread::sleep(LAST_WORDS);
            }
        }
        std::process::exit(1);
    }
}

/// Prints a line on standard error in one piece, since other ranks print there at the same time.
fn say(line: &str) {
    let line = format!("{line}\n");
    eprint!("{line}");
}

/// What this rank did, if every rank succeeded. Else an error on all of them: a rank's own, or that of the first rank that failed.
pub(crate) fn all<T>(
    world: &World,
    what: &'static str,
    own: Result<T, TrainError>,
) -> Result<T, TrainError> {
    if world.is_alone() {
        return own;
    }
    let told = world.gather(what, own.as_ref().err().map(ToString::to_string))?;
    let failed = told.into_iter().enumerate();
    let failed = failed
        .filter_map(|(rank, reason)| Some((rank, reason?)))
        .next();
    match (own, failed) {
        (Err(error), _) => Err(TrainError::OfAll(Box::new(error))),
        (Ok(_), Some((rank, reason))) => Err(other(rank, reason)),
        (Ok(done), None) => Ok(done),
    }
}

/// What each rank did, if every rank succeeded, in the order of ranks. Else an error on all of them, as of [`all`].
pub(crate) fn gather<T: Serialize + DeserializeOwned>(
    world: &World,
    what: &'static str,
    own: Result<T, TrainError>,
) -> Result<Vec<T>, TrainError> {
    let mut error = None;
    let told = own.map_err(|own| {
        let reason = own.to_string();
        error = Some(own);
        reason
    });
    if world.is_alone() {
        return match (told, error) {
            (Ok(done), _) => Ok(vec![done]),
            (Err(_), Some(error)) => Err(error),
            (Err(reason), None) => Err(TrainError::Check(reason)),
        };
    }
    let all: Vec<Result<T, String>> = world.gather(what, told)?;
    let mut done = Vec::with_capacity(all.len());
    for (rank, told) in all.into_iter().enumerate() {
        match (told, error.take()) {
            (_, Some(own)) => return Err(TrainError::OfAll(Box::new(own))),
            (Err(reason), None) => return Err(other(rank, reason)),
            (Ok(told), None) => done.push(told),
        }
    }
    Ok(done)
}

/// The things of all ranks in turn: of `R` ranks, rank `r` has those with the numbers `r`, `r + R`, ...
pub(crate) fn in_turn<T>(lists: Vec<Vec<T>>) -> Vec<T> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(lists.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

/// This rank's share of things that are dealt in turn.
pub(crate) fn share<T: Clone>(world: &World, all: &[T]) -> Vec<T> {
    let own = all.iter().skip(world.rank()).step_by(world.size());
    own.cloned().collect()
}

/// What rank 0 computes, which the others wait for; its error is an error on all.
pub(crate) fn first<T: Serialize + DeserializeOwned>(
    world: &World,
    what: &'static str,
    compute: impl FnOnce() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    if world.is_alone() {
        return compute();
    }
    let mut own = None;
    let told = world.from_first(what, || {
        compute().map_err(|error| {
            let reason = error.to_string();
            own = Some(error);
            reason
        })
    })?;
    told.map_err(|reason| match own {
        Some(error) => TrainError::OfAll(Box::new(error)),
        None => other(0, reason),
    })
}

fn other(rank: usize, reason: String) -> TrainError {
    TrainError::OfAll(Box::new(TrainError::Rank { rank, reason }))
}

/// Checks that values are the same on all ranks, each by its name.
pub(crate) fn agree(
    world: &World,
    what: &'static str,
    own: Vec<(String, String)>,
) -> Result<(), TrainError> {
    if world.is_alone() {
        return Ok(());
    }
    let all = world.gather(what, own)?;
    let differs = differences(&all);
    if differs.is_empty() {
        return Ok(());
    }
    let mut named = differs[..differs.len().min(NAMED)].join("; ");
    if differs.len() > NAMED {
        named += &format!("; and {} more", differs.len() - NAMED);
    }
    Err(TrainError::OfAll(Box::new(TrainError::Ranks(format!(
        "{what} must be the same on all ranks: {named}"
    )))))
}

/// Each value that a rank has otherwise than rank 0, with the ranks that do.
fn differences(all: &[Vec<(String, String)>]) -> Vec<String> {
    let value = |rank: usize, name: &str| {
        let found = all[rank].iter().find(|(own, _)| own == name);
        found.map_or("absent", |(_, value)| value)
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in all.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let shown = |value: &str| {
        let short: String = value.chars().take(SHOWN).collect();
        if short.len() < value.len() {
            format!("{short}...")
        } else {
            short
        }
    };
    let mut found = Vec::new();
    for name in names {
        let of_first = value(0, name);
        for rank in 1..all.len() {
            let own = value(rank, name);
            if own != of_first {
                found.push(format!(
                    "{name} is {} on rank 0 and {} on rank {rank}",
                    shown(of_first),
                    shown(own)
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use unimo_core::world::threads::as_threads;
    use unimo_data::{Place, SampleError};
    use unimo_report::record::EvalRecord;

    use super::*;

    #[test]
    fn an_error_of_one_is_an_error_of_all() {
        let ended = as_threads(3, |world| {
            let own = match world.rank() {
                1 => Err(TrainError::Check("the disk is full".to_owned())),
                rank => Ok(rank),
            };
            all(&world, "work", own).unwrap_err().to_string()
        });
        assert_eq!(
            ended,
            [
                "rank 1: the disk is full",
                "the disk is full",
                "rank 1: the disk is full"
            ]
        );
        let ended = as_threads(2, |world| all(&world, "work", Ok(world.rank())).unwrap());
        assert_eq!(ended, [0, 1]);
        let ended = as_threads(2, |world| {
            let failed = || Err::<u8, _>(TrainError::Check("no room".to_owned()));
            first(&world, "work", failed).unwrap_err().to_string()
        });
        assert_eq!(ended, ["no room", "rank 0: no room"]);
    }

    #[test]
    fn what_is_dealt_comes_together_in_its_order() {
        for (ranks, count) in [(2, 5), (3, 2), (4, 8), (2, 0)] {
            let all: Vec<usize> = (0..count).collect();
            let ended = as_threads(ranks, |world| {
                let own = share(&world, &all);
                in_turn(gather(&world, "numbers", Ok(own)).unwrap())
            });
            assert!(ended.iter().all(|found| *found == all), "{ranks} {count}");
        }
        let ended = as_threads(2, |world| {
            let own = match world.rank() {
                1 => Err(TrainError::Check("no such file".to_owned())),
                rank => Ok(rank),
            };
            gather(&world, "numbers", own).unwrap_err().to_string()
        });
        assert_eq!(ended, ["rank 1: no such file", "no such file"]);
    }

    /// Types whose serde form is more than a list of fields reach the others too.
    #[test]
    fn samples_and_records_reach_the_others() {
        let place = Place {
            file: "pairs.jsonl".to_owned(),
            line: 3,
        };
        let sample = SampleError::new(place, "is no image");
        let record = EvalRecord {
            step: 7,
            score: Some(f64::NAN),
            ..EvalRecord::default()
        };
        let heard = as_threads(2, |world| {
            let samples = gather(&world, "samples", Ok(sample.clone())).unwrap();
            let records = first(&world, "records", || Ok(vec![record.clone()])).unwrap();
            (samples, records[0].step, records[0].score.unwrap().is_nan())
        });
        for (samples, step, is_nan) in heard {
            assert_eq!(samples, [sample.clone(), sample.clone()]);
            assert!(step == 7 && is_nan);
        }
    }

    #[test]
    fn what_differs_is_named_on_every_rank() {
        let ended = as_threads(3, |world| {
            let steps = if world.rank() == 2 { "30" } else { "20" };
            let own = vec![
                ("seed".to_owned(), "1".to_owned()),
                ("train.steps".to_owned(), steps.to_owned()),
            ];
            agree(&world, "the recipe", own).unwrap_err().to_string()
        });
        for error in ended {
            assert_eq!(
                error,
                "the recipe must be the same on all ranks: train.steps is 20 on rank 0 and 30 on rank 2"
            );
        }
        as_threads(2, |world| agree(&world, "the recipe", Vec::new()).unwrap());
    }
}
